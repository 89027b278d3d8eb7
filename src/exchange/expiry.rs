//! When the TTLs of a type's resources run out (C-132).

use crate::xds::{Moment, Name};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// Mostly nothing has a TTL, and then it takes no room.
#[derive(Debug, Default)]
pub(super) struct Expiry(Option<Box<Ends>>);

#[derive(Debug, Default)]
struct Ends {
    until: HashMap<Name, Moment>,
    /// One item a name; its moment may have been put off since.
    queue: BinaryHeap<Reverse<(Moment, Name)>>,
}

impl Expiry {
    /// The TTL of `name` runs until then.
    pub(super) fn set(&mut self, name: &Name, until: Moment) {
        let ends = self.0.get_or_insert_default();
        let before = ends.until.insert(name.clone(), until);
        // A later moment is found when the earlier one is popped.
        if before.is_none_or(|before| until < before) {
            ends.queue.push(Reverse((until, name.clone())));
        }
    }

    pub(super) fn clear(&mut self, name: &str) {
        if let Some(ends) = &mut self.0 {
            ends.until.remove(name);
            if ends.until.is_empty() {
                self.0 = None;
            }
        }
    }

    pub(super) fn of(&self, name: &str) -> Option<Moment> {
        self.0.as_ref()?.until.get(name).copied()
    }

    /// Every TTL that runs, in no order.
    pub(super) fn all(&self) -> impl Iterator<Item = (&Name, Moment)> {
        self.0.iter().flat_map(|ends| ends.until.iter().map(|(name, until)| (name, *until)))
    }

    /// A name whose TTL has run out; it is forgotten here.
    pub(super) fn pop(&mut self, now: Moment) -> Option<Name> {
        let ends = self.0.as_mut()?;
        while ends.queue.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            let Reverse((_, name)) = ends.queue.pop()?;
            match ends.until.get(&name) {
                Some(until) if *until <= now => {
                    self.clear(&name);
                    return Some(name);
                }
                Some(until) => ends.queue.push(Reverse((*until, name))),
                None => {}
            }
        }
        None
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.0.as_ref()?.queue.peek().map(|Reverse((at, _))| *at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_heartbeat_puts_the_end_off() {
        let (a, b): (Name, Name) = ("a".into(), "b".into());
        let mut expiry = Expiry::default();
        expiry.set(&a, at(5));
        expiry.set(&b, at(6));
        expiry.set(&a, at(9));
        assert_eq!(expiry.deadline(), Some(at(5)));
        assert_eq!(expiry.pop(at(6)), Some(b));
        assert_eq!(expiry.pop(at(8)), None);
        expiry.set(&a, at(8));
        assert_eq!(expiry.pop(at(8)), Some(a));
        assert_eq!(expiry.pop(at(99)), None);
        assert_eq!(expiry.deadline(), None);
    }
}
