//! Names of one type that nobody wants any more.
//!
//! ```text
//!            somebody wants it            nobody does
//!   (none) ────────────────────► wanted ────────────► Lingering: still subscribed
//!                                  ▲  ▲                 │     │ 60 s of synced upstream
//!                                  │  └─ wanted again ──┘     ▼
//!                                  └─ wanted again: ───────── Idle: unsubscribed, held, unconfirmed
//!                                     wait for the upstream    │ an hour of synced upstream
//!                                                              ▼
//!                                                            (none), content evicted
//! ```
//!
//! What is wanted is known by who wants it and takes no room here. Times are
//! spans of *synced* upstream (see [`Pulse`](super::pulse::Pulse)), so that nothing
//! ends while the upstream is away.

use crate::xds::Name;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Somebody wants it.
    Wanted,
    /// Subscribed until then.
    Lingering(Duration),
    /// Held until then.
    Idle(Duration),
}

impl Phase {
    pub(super) fn is_subscribed(self) -> bool {
        matches!(self, Self::Wanted | Self::Lingering(_))
    }
}

/// The names that linger or idle. Mostly none does, and then it takes no room.
#[derive(Debug, Default)]
pub(super) struct Leases(Option<Box<Names>>);

#[derive(Debug, Default)]
struct Names {
    phases: HashMap<Name, Phase>,
    lingering: usize,
    /// Due first; an item whose name says otherwise is stale.
    linger_queue: VecDeque<(Duration, Name)>,
    idle_queue: VecDeque<(Duration, Name)>,
}

impl Leases {
    pub(super) fn phase(&self, name: &str) -> Option<Phase> {
        self.0.as_ref()?.phases.get(name).copied()
    }

    pub(super) fn is_lingering(&self, name: &str) -> bool {
        self.lingering() > 0 && self.phase(name).is_some_and(Phase::is_subscribed)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// How many linger.
    pub(super) fn lingering(&self) -> usize {
        self.0.as_ref().map_or(0, |names| names.lingering)
    }

    /// Those that linger, in no order.
    pub(super) fn lingering_names(&self) -> Vec<Name> {
        let phases = self.0.iter().filter(|names| names.lingering > 0).flat_map(|names| &names.phases);
        phases.filter(|(_, phase)| phase.is_subscribed()).map(|(name, _)| name.clone()).collect()
    }

    pub(super) fn linger(&mut self, name: &Name, until: Duration) {
        self.set(name, Phase::Lingering(until)).linger_queue.push_back((until, name.clone()));
    }

    /// Unsubscribed, its content held until `until`.
    pub(super) fn park(&mut self, name: &Name, until: Duration) {
        self.set(name, Phase::Idle(until)).idle_queue.push_back((until, name.clone()));
    }

    /// It is wanted again, or is not held any more. Says what it was.
    pub(super) fn end(&mut self, name: &str) -> Option<Phase> {
        let names = self.0.as_mut()?;
        let before = names.phases.remove(name)?;
        names.lingering -= usize::from(before.is_subscribed());
        if names.phases.is_empty() {
            self.0 = None;
        }
        Some(before)
    }

    fn set(&mut self, name: &Name, phase: Phase) -> &mut Names {
        let names = self.0.get_or_insert_default();
        let before = names.phases.insert(name.clone(), phase);
        names.lingering += usize::from(phase.is_subscribed());
        names.lingering -= usize::from(before.is_some_and(Phase::is_subscribed));
        names
    }

    /// A name whose linger is over; the caller parks or ends it.
    pub(super) fn lingered(&mut self, synced: Duration) -> Option<Name> {
        let Names { phases, linger_queue, .. } = &mut **self.0.as_mut()?;
        due(linger_queue, synced, |name, until| phases.get(name) == Some(&Phase::Lingering(until)))
    }

    /// A name whose content is to be evicted; the caller ends it.
    pub(super) fn expired(&mut self, synced: Duration) -> Option<Name> {
        let Names { phases, idle_queue, .. } = &mut **self.0.as_mut()?;
        due(idle_queue, synced, |name, until| phases.get(name) == Some(&Phase::Idle(until)))
    }

    /// The span of synced upstream at which something is due.
    pub(super) fn next(&self) -> Option<Duration> {
        let names = self.0.as_ref()?;
        let first = |queue: &VecDeque<(Duration, Name)>| queue.front().map(|(until, _)| *until);
        [first(&names.linger_queue), first(&names.idle_queue)].into_iter().flatten().min()
    }
}

/// The first item that is due and that `holds`.
fn due(
    queue: &mut VecDeque<(Duration, Name)>,
    synced: Duration,
    holds: impl Fn(&Name, Duration) -> bool,
) -> Option<Name> {
    while queue.front().is_some_and(|(until, _)| *until <= synced) {
        let (until, name) = queue.pop_front()?;
        if holds(&name, until) {
            return Some(name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_name_lingers_then_idles_then_ends() {
        let name: Name = "a".into();
        let mut leases = Leases::default();
        leases.linger(&name, at(60));
        assert_eq!(leases.end("a"), Some(Phase::Lingering(at(60))));
        leases.linger(&"b".into(), at(65));
        leases.linger(&name, at(70));
        assert_eq!(leases.lingered(at(69)), Some("b".into()));
        leases.park(&"b".into(), at(90));
        assert_eq!(leases.lingered(at(70)), Some(name.clone()));
        leases.park(&name, at(100));
        assert_eq!((leases.lingering(), leases.phase("a")), (0, Some(Phase::Idle(at(100)))));
        assert_eq!(leases.end("a"), Some(Phase::Idle(at(100))));
        assert_eq!(leases.expired(at(100)), Some("b".into()));
    }
}
