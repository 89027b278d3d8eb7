//! Names that wait for the upstream's word, each until its time.

use crate::content::{NameSet, Store};
use crate::xds::{Moment, Name};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Mostly none does, and then it takes no room.
#[derive(Debug, Default)]
pub(super) struct Waiting(Option<Box<Names>>);

#[derive(Debug, Default)]
struct Names {
    until: HashMap<Name, Moment>,
    order: BTreeSet<(Moment, Name)>,
    /// The names, as they were last seen.
    set: Arc<NameSet>,
    stale: bool,
}

impl Waiting {
    pub(super) fn insert(&mut self, name: &Name, until: Moment) {
        self.remove(name);
        let names = self.0.get_or_insert_default();
        names.until.insert(name.clone(), until);
        names.order.insert((until, name.clone()));
        names.stale = true;
    }

    pub(super) fn remove(&mut self, name: &str) -> bool {
        let Some(names) = &mut self.0 else { return false };
        let Some((name, until)) = names.until.remove_entry(name) else { return false };
        names.order.remove(&(until, name));
        names.stale = true;
        if names.until.is_empty() {
            self.0 = None;
        }
        true
    }

    pub(super) fn until(&self, name: &str) -> Option<Moment> {
        self.0.as_ref()?.until.get(name).copied()
    }

    /// A name whose time is over; it waits no more.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Name> {
        let first = self.0.as_ref()?.order.first();
        let name = first.filter(|(until, _)| *until <= now).map(|(_, name)| name.clone())?;
        self.remove(&name);
        Some(name)
    }

    pub(super) fn names(&self) -> Vec<Name> {
        self.0.iter().flat_map(|names| names.order.iter().map(|(_, name)| name.clone())).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |names| names.until.len())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.0.as_ref()?.order.first().map(|(until, _)| *until)
    }

    /// The names as a set.
    pub(super) fn set(&mut self, store: &Store) -> Arc<NameSet> {
        let Some(names) = &mut self.0 else { return Arc::default() };
        if std::mem::take(&mut names.stale) {
            names.set = store.names(names.until.keys().cloned().collect());
        }
        names.set.clone()
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
