//! The entry ids that were made here, so that a version stated by a sidecar
//! can be told from one that only another replica has served.
//!
//! An id is noted when its entry is made, when the same content is met again,
//! and when the entry is replaced. Memory is bounded: two generations of up to
//! 2^19 ids, of which the older is forgotten when the newer is full. So at
//! least the 524,288 ids noted last are remembered; about 20 MB at most per
//! generation. A forgotten one costs its stream 2 s, nothing else.

use super::entry::Entry;
use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

const SHARDS: usize = 16;
const GENERATION: usize = 1 << 19;

type Ids = HashSet<[u8; 16], foldhash::fast::RandomState>;

#[derive(Debug)]
pub(super) struct History {
    shards: [Shard; SHARDS],
    generation: usize,
}

#[derive(Debug, Default)]
struct Shard {
    ids: Mutex<(Ids, Ids)>,
    /// One more than the times that a generation was forgotten, so that an
    /// entry never noted, which has 0, is of none.
    turn: AtomicU32,
}

impl Default for History {
    fn default() -> Self {
        Self::of(GENERATION)
    }
}

impl History {
    fn of(generation: usize) -> Self {
        let shard = || Shard { turn: AtomicU32::new(1), ..Shard::default() };
        Self { shards: std::array::from_fn(|_| shard()), generation }
    }

    fn shard(&self, half: &[u8; 16]) -> &Shard {
        let [first, ..] = *half;
        &self.shards[usize::from(first) % SHARDS]
    }

    /// Cheap for an entry that was noted in this generation.
    pub(super) fn note(&self, entry: &Entry) {
        let shard = self.shard(entry.id().half());
        if entry.noted.load(Relaxed) == shard.turn.load(Relaxed) {
            return;
        }
        let mut ids = shard.ids.lock().expect("no panic while held");
        ids.0.insert(*entry.id().half());
        entry.noted.store(shard.turn.load(Relaxed), Relaxed);
        if ids.0.len() >= self.generation / SHARDS {
            shard.turn.fetch_add(1, Relaxed);
            let full = std::mem::take(&mut ids.0);
            let forgotten = std::mem::replace(&mut ids.1, full);
            drop(ids);
            drop(forgotten);
        }
    }

    pub(super) fn remembers(&self, half: &[u8; 16]) -> bool {
        let ids = self.shard(half).ids.lock().expect("no panic while held");
        ids.0.contains(half) || ids.1.contains(half)
    }

    pub(super) fn len(&self) -> usize {
        let count = |shard: &Shard| {
            let ids = shard.ids.lock().expect("no panic while held");
            ids.0.len() + ids.1.len()
        };
        self.shards.iter().map(count).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Body, Store};
    use super::*;

    #[test]
    fn memory_is_bounded_and_the_newest_are_remembered() {
        let store = Store::new();
        let history = History::of(1600);
        let entries: Vec<_> = (0..10_000)
            .map(|number| store.entry(format!("name {number}").into(), Body::Absent, Default::default()))
            .collect();
        for entry in &entries {
            // So far only the store's own history heard of it.
            entry.noted.store(0, Relaxed);
            history.note(entry);
        }
        assert!(history.len() <= 3200);
        // Shards fill unevenly: half of what a generation holds is sure.
        assert!(entries.iter().rev().take(800).all(|entry| history.remembers(entry.id().half())));
        let first = &entries[0];
        assert!(!history.remembers(first.id().half()));
        history.note(first);
        assert!(history.remembers(first.id().half()));
    }
}
