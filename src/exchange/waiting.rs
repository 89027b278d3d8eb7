//! Names that wait for the upstream's word, each until its time.

use crate::content::{NameSet, Store};
use crate::xds::{Moment, Name};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Waiting {
    until: HashMap<Name, Moment>,
    order: BTreeSet<(Moment, Name)>,
    /// The names, as they were last seen.
    set: Arc<NameSet>,
    stale: bool,
}

impl Waiting {
    pub(super) fn insert(&mut self, name: &Name, until: Moment) {
        self.remove(name);
        self.until.insert(name.clone(), until);
        self.order.insert((until, name.clone()));
        self.stale = true;
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        if self.until.is_empty() {
            return false;
        }
        let Some((name, until)) = self.until.remove_entry(name) else { return false };
        self.order.remove(&(until, name));
        self.stale = true;
        true
    }

    pub(super) fn until(&self, name: &str) -> Option<Moment> {
        if self.until.is_empty() { None } else { self.until.get(name).copied() }
    }

    /// A name whose time is over; it waits no more.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Name> {
        let name = self.order.first().filter(|(until, _)| *until <= now).map(|(_, name)| name.clone())?;
        self.remove(&name);
        Some(name)
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.order.iter().map(|(_, name)| name.clone()).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.until.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.until.is_empty()
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.order.first().map(|(until, _)| *until)
    }

    /// The names as a set.
    pub(super) fn set(&mut self, store: &Store) -> Arc<NameSet> {
        if std::mem::take(&mut self.stale) {
            self.set = if self.is_empty() { Arc::default() } else { store.names(self.until.keys().cloned().collect()) };
        }
        self.set.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn each_waits_until_its_time() {
        let at = |seconds| Moment::from_start(Duration::from_secs(seconds));
        let store = Store::new();
        let mut waiting = Waiting::default();
        for (name, until) in [("a", 3), ("b", 1), ("a", 2)] {
            waiting.insert(&name.into(), at(until));
        }
        assert_eq!(waiting.set(&store).len(), 2);
        assert_eq!((waiting.deadline(), waiting.until("a")), (Some(at(1)), Some(at(2))));
        assert_eq!((waiting.pop(at(1)), waiting.pop(at(1))), (Some("b".into()), None));
        assert!(waiting.remove("a") && !waiting.remove("a"));
        assert!(waiting.set(&store).is_empty() && waiting.deadline().is_none());
    }
}
