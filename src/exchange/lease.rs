//! What a group subscribes to upstream, of one type, and what became of it
//! when nobody wanted it any more.
//!
//! ```text
//!            somebody wants it            nobody does
//!   (none) ────────────────────► Wanted ────────────► Lingering
//!                                  ▲  ▲                 │     │ 60 s of synced upstream
//!                                  │  └─ wanted again ──┘     ▼
//!                                  └─ wanted again: ───────── Idle: unsubscribed, held, unconfirmed
//!                                     wait for the upstream    │ an hour of synced upstream
//!                                                              ▼
//!                                                            (none), content evicted
//! ```
//!
//! Times are spans of *synced* upstream (see [`Pulse`](super::pulse::Pulse)), so
//! that nothing ends while the upstream is away.

use crate::xds::Name;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
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

/// Who wants a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// A member.
    Member,
    /// A cluster of the group that is held: its assignment is asked for before
    /// any sidecar does.
    Cluster,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Lease {
    pub(super) phase: Phase,
    member: bool,
    clusters: u32,
}

/// What taking a name meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Not known before: to be subscribed.
    New,
    /// It was wanted, or was still subscribed.
    Kept,
    /// It had been unsubscribed: to be subscribed again.
    Revived,
}

/// The names of one type that are subscribed upstream, or were.
#[derive(Debug, Default)]
pub(super) struct Leases {
    names: HashMap<Name, Lease>,
    subscribed: usize,
    /// Due first; an item whose lease says otherwise is stale.
    lingering: VecDeque<(Duration, Name)>,
    idle: VecDeque<(Duration, Name)>,
}

impl Leases {
    pub(super) fn phase(&self, name: &str) -> Option<Phase> {
        self.names.get(name).map(|lease| lease.phase)
    }

    pub(super) fn is_subscribed(&self, name: &str) -> bool {
        self.phase(name).is_some_and(Phase::is_subscribed)
    }

    pub(super) fn wanted_by_clusters(&self, name: &str) -> u32 {
        self.names.get(name).map_or(0, |lease| lease.clusters)
    }

    /// How many names are subscribed.
    pub(super) fn len(&self) -> usize {
        self.subscribed
    }

    /// In no order.
    pub(super) fn subscribed(&self) -> impl Iterator<Item = &Name> {
        self.names.iter().filter(|(_, lease)| lease.phase.is_subscribed()).map(|(name, _)| name)
    }

    pub(super) fn take(&mut self, name: &Name, by: By) -> Taken {
        let mut taken = Taken::Kept;
        let lease = self.names.entry(name.clone()).or_insert_with(|| {
            taken = Taken::New;
            Lease { phase: Phase::Wanted, member: false, clusters: 0 }
        });
        if matches!(lease.phase, Phase::Idle(_)) {
            taken = Taken::Revived;
        }
        lease.phase = Phase::Wanted;
        match by {
            By::Member => lease.member = true,
            By::Cluster => lease.clusters += 1,
        }
        self.subscribed += usize::from(taken != Taken::Kept);
        taken
    }

    /// One who wanted it does not any more; the last one leaves it lingering
    /// until `until`. Says whether that was so.
    pub(super) fn give(&mut self, name: &Name, by: By, until: Duration) -> bool {
        let Some(lease) = self.names.get_mut(name) else { return false };
        match by {
            By::Member => lease.member = false,
            By::Cluster => lease.clusters = lease.clusters.saturating_sub(1),
        }
        if lease.member || lease.clusters > 0 || lease.phase != Phase::Wanted {
            return false;
        }
        lease.phase = Phase::Lingering(until);
        self.lingering.push_back((until, name.clone()));
        true
    }

    /// A name whose linger has ended; the caller parks or drops it.
    pub(super) fn lingered(&mut self, synced: Duration) -> Option<Name> {
        let names = &self.names;
        due(&mut self.lingering, synced, |name, until| {
            names.get(name).is_some_and(|lease| lease.phase == Phase::Lingering(until))
        })
    }

    /// A name whose content is to be evicted; the caller drops it.
    pub(super) fn expired(&mut self, synced: Duration) -> Option<Name> {
        let names = &self.names;
        due(&mut self.idle, synced, |name, until| {
            names.get(name).is_some_and(|lease| lease.phase == Phase::Idle(until))
        })
    }

    /// Unsubscribed, its content held until `until`.
    pub(super) fn park(&mut self, name: &Name, until: Duration) {
        if let Some(lease) = self.names.get_mut(name) {
            self.subscribed -= usize::from(lease.phase.is_subscribed());
            lease.phase = Phase::Idle(until);
            self.idle.push_back((until, name.clone()));
        }
    }

    pub(super) fn drop_name(&mut self, name: &str) {
        if let Some(lease) = self.names.remove(name) {
            self.subscribed -= usize::from(lease.phase.is_subscribed());
        }
    }

    /// The span of synced upstream at which something is due.
    pub(super) fn next(&self) -> Option<Duration> {
        let first = |queue: &VecDeque<(Duration, Name)>| queue.front().map(|(until, _)| *until);
        match (first(&self.lingering), first(&self.idle)) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (one, other) => one.or(other),
        }
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
        assert_eq!(leases.take(&name, By::Member), Taken::New);
        assert_eq!(leases.take(&name, By::Cluster), Taken::Kept);
        assert!(!leases.give(&name, By::Member, at(60)));
        assert!(leases.give(&name, By::Cluster, at(60)));
        assert_eq!(leases.take(&name, By::Member), Taken::Kept);
        assert!(leases.give(&name, By::Member, at(70)));
        assert_eq!(leases.lingered(at(60)), None, "the first linger was cut short");
        assert_eq!(leases.lingered(at(70)), Some(name.clone()));
        leases.park(&name, at(100));
        assert_eq!((leases.len(), leases.phase("a")), (0, Some(Phase::Idle(at(100)))));
        assert_eq!(leases.take(&name, By::Member), Taken::Revived);
        assert_eq!(leases.expired(at(100)), None);
        assert_eq!(leases.len(), 1);
    }
}
