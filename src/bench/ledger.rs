//! Which change reached whom, and when.
//!
//! The mesh enters every version of every resource before it publishes it;
//! receivers look up what they took. Resources are known by a fingerprint of
//! their bytes, because a relay may give them versions of its own.

use super::histogram::Histogram;
use super::mesh::Family;
use crate::xds::{Moment, Name};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

/// What a change is about; latencies are kept apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Endpoints,
    Cluster,
    Route,
    Listener,
    /// A cluster and its endpoints that were not there; counted when the endpoints arrive.
    NewService,
    /// Counted when the cluster goes.
    Removal,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Endpoints, Self::Cluster, Self::Route, Self::Listener, Self::NewService, Self::Removal];

    pub fn label(self) -> &'static str {
        match self {
            Self::Endpoints => "endpoints",
            Self::Cluster => "cluster",
            Self::Route => "route",
            Self::Listener => "listener",
            Self::NewService => "new service",
            Self::Removal => "service removed",
        }
    }
}

/// One change of the mesh.
#[derive(Debug)]
pub struct Change {
    pub kind: Kind,
    /// The name of what changed.
    pub subject: Name,
    /// When it was due, whether or not the control plane was on time.
    pub at: Moment,
    /// How many receivers it concerns.
    pub audience: u32,
    /// Counts in the latencies.
    pub measured: bool,
    reached: AtomicU32,
    first: AtomicU64,
    last: AtomicU64,
}

impl Change {
    pub fn new(kind: Kind, subject: Name, at: Moment, audience: u32, measured: bool) -> Self {
        let (reached, first, last) = (AtomicU32::new(0), AtomicU64::new(u64::MAX), AtomicU64::new(0));
        Self { kind, subject, at, audience, measured, reached, first, last }
    }

    /// How many receivers took it.
    pub fn reached(&self) -> u32 {
        self.reached.load(Relaxed)
    }

    /// Time until the first and until the last of those who took it.
    pub fn spread(&self) -> (Duration, Duration) {
        (Duration::from_micros(self.first.load(Relaxed)), Duration::from_micros(self.last.load(Relaxed)))
    }
}

/// The versions of one resource, or of one class's rendering of it, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lineage(usize);

#[derive(Debug, Default)]
pub struct Ledger {
    inner: RwLock<Inner>,
    latencies: [Histogram; Kind::ALL.len()],
    unknown: AtomicU64,
    backwards: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    /// By fingerprint: the lineage and the place in it.
    versions: HashMap<u64, (Lineage, usize)>,
    lineages: Vec<Vec<Option<Arc<Change>>>>,
    removals: HashMap<(Family, Name), Arc<Change>>,
    changes: Vec<Arc<Change>>,
}

/// What a resource's bytes are known by.
pub fn fingerprint(family: Family, name: &str, value: &[u8]) -> u64 {
    foldhash::quality::FixedState::with_seed(family as u64).hash_one((name, value))
}

impl Ledger {
    pub fn begin(&self) -> Lineage {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.lineages.push(Vec::new());
        Lineage(inner.lineages.len() - 1)
    }

    /// Enters the next version of a lineage, and the change that made it.
    pub fn enter(&self, lineage: Lineage, fingerprint: u64, change: Option<&Arc<Change>>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        let Some(versions) = inner.lineages.get_mut(lineage.0) else { return };
        versions.push(change.cloned());
        let place = versions.len() - 1;
        inner.versions.insert(fingerprint, (lineage, place));
    }

    pub fn enter_removal(&self, family: Family, name: Name, change: &Arc<Change>) {
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        inner.removals.insert((family, name), Arc::clone(change));
    }

    /// Lists a change among all there were.
    pub fn announce(&self, change: &Arc<Change>) {
        self.inner.write().unwrap_or_else(PoisonError::into_inner).changes.push(Arc::clone(change));
    }

    pub fn changes(&self) -> Vec<Arc<Change>> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner).changes.clone()
    }

    /// A receiver replaced `previous` by `taken`: every version in between
    /// counts as received now.
    pub fn took(&self, previous: Option<u64>, taken: u64, now: Moment) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let Some(&(lineage, to)) = inner.versions.get(&taken) else {
            self.unknown.fetch_add(1, Relaxed);
            return;
        };
        let from = match previous.and_then(|previous| inner.versions.get(&previous)) {
            Some(&(before, from)) if before == lineage => from + 1,
            Some(_) => to,
            None => 0,
        };
        if from > to {
            self.backwards.fetch_add(1, Relaxed);
        }
        let versions = inner.lineages.get(lineage.0).and_then(|versions| versions.get(from..=to));
        for change in versions.into_iter().flatten().flatten() {
            self.reach(change, now);
        }
    }

    /// A receiver dropped what the control plane removed.
    pub fn dropped(&self, family: Family, name: &Name, now: Moment) {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(change) = inner.removals.get(&(family, Arc::clone(name))) {
            self.reach(change, now);
        }
    }

    fn reach(&self, change: &Change, now: Moment) {
        let latency = now - change.at;
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        change.first.fetch_min(micros, Relaxed);
        change.last.fetch_max(micros, Relaxed);
        change.reached.fetch_add(1, Relaxed);
        if change.measured {
            self.latencies(change.kind).record(latency);
        }
    }

    /// From the intended time to each receiver, of the measured changes.
    pub fn latencies(&self, kind: Kind) -> &Histogram {
        &self.latencies[kind as usize]
    }

    /// Resources received whose bytes the control plane never sent.
    pub fn unknown(&self) -> u64 {
        self.unknown.load(Relaxed)
    }

    /// Resources received that were older than what they replaced.
    pub fn backwards(&self) -> u64 {
        self.backwards.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    fn change(ledger: &Ledger, lineage: Lineage, fingerprint: u64, millis: u64) -> Arc<Change> {
        let change = Arc::new(Change::new(Kind::Route, "r".into(), at(millis), 2, true));
        ledger.enter(lineage, fingerprint, Some(&change));
        ledger.announce(&change);
        change
    }

    #[test]
    fn a_skipped_version_counts_until_the_one_that_replaced_it() {
        let ledger = Ledger::default();
        let lineage = ledger.begin();
        ledger.enter(lineage, 10, None);
        let changes = [change(&ledger, lineage, 11, 100), change(&ledger, lineage, 12, 200)];
        ledger.took(Some(10), 11, at(110));
        ledger.took(Some(11), 12, at(210));
        ledger.took(Some(10), 12, at(220));
        let found = changes.each_ref().map(|change| (change.reached(), change.spread()));
        let millis = Duration::from_millis;
        assert_eq!(found, [(2, (millis(10), millis(120))), (2, (millis(10), millis(20)))]);
        assert_eq!(ledger.latencies(Kind::Route).count(), 4);
        assert_eq!((ledger.unknown(), ledger.backwards()), (0, 0));
    }

    #[test]
    fn what_was_never_sent_and_what_is_older_is_noticed() {
        let ledger = Ledger::default();
        let lineage = ledger.begin();
        ledger.enter(lineage, 10, None);
        change(&ledger, lineage, 11, 100);
        ledger.took(Some(11), 10, at(110));
        ledger.took(Some(10), 99, at(120));
        assert_eq!((ledger.unknown(), ledger.backwards()), (1, 1));
    }
}
