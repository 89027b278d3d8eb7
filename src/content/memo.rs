//! What was worked out once and may be wanted again, under a byte budget.
//!
//! Two generations: what is met moves to the young one, and when the young one
//! has half the budget, or at a [`sweep`](Memo::sweep), the old one is dropped
//! and the young one becomes the old one. So what nobody met between two
//! sweeps goes, and so does all that it kept alive.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, OnceLock};

type Generation<V> = HashMap<u64, (V, usize), foldhash::fast::RandomState>;

#[derive(Debug)]
pub(super) struct Memo<V> {
    generations: Mutex<Generations<V>>,
    budget: usize,
}

#[derive(Debug)]
struct Generations<V> {
    young: Generation<V>,
    old: Generation<V>,
    young_bytes: usize,
    old_bytes: usize,
}

/// A result and what it is the result of. Made at most once; who comes while
/// it is made waits for it.
#[derive(Debug)]
pub(super) struct Slot<K, V> {
    pub(super) key: K,
    pub(super) value: OnceLock<V>,
}

impl<K, V> Slot<K, V> {
    pub(super) fn new(key: K) -> Self {
        Self { key, value: OnceLock::new() }
    }
}

impl<V> Generations<V> {
    /// Returns what is to be dropped, for the caller to do so without the lock.
    #[must_use]
    fn turn(&mut self) -> Generation<V> {
        self.old_bytes = std::mem::take(&mut self.young_bytes);
        let young = std::mem::take(&mut self.young);
        std::mem::replace(&mut self.old, young)
    }
}

impl<V: Clone> Memo<V> {
    pub(super) fn new(budget: usize) -> Self {
        let generations =
            Generations { young: HashMap::default(), old: HashMap::default(), young_bytes: 0, old_bytes: 0 };
        Self { generations: generations.into(), budget }
    }

    fn lock(&self) -> MutexGuard<'_, Generations<V>> {
        self.generations.lock().expect("no panic while held")
    }

    /// What is kept under `hash`, which is keyed and of all that matters; the
    /// caller checks that it is what it looked for.
    pub(super) fn get_or_put(&self, hash: u64, make: impl FnOnce() -> V) -> V {
        let mut all = self.lock();
        if let Some((value, _)) = all.young.get(&hash) {
            return value.clone();
        }
        let (value, bytes) = all.old.remove(&hash).unwrap_or_else(|| (make(), 0));
        all.old_bytes = all.old_bytes.saturating_sub(bytes);
        all.young.insert(hash, (value.clone(), bytes));
        let garbage = self.charge(&mut all, bytes);
        drop(all);
        drop(garbage);
        value
    }

    /// What is kept under `hash` turned out to take so many bytes more.
    pub(super) fn grow(&self, hash: u64, bytes: usize) {
        let mut all = self.lock();
        if let Some((_, kept)) = all.old.get_mut(&hash) {
            *kept += bytes;
            all.old_bytes += bytes;
            return;
        }
        let Some((_, kept)) = all.young.get_mut(&hash) else { return };
        *kept += bytes;
        let garbage = self.charge(&mut all, bytes);
        drop(all);
        drop(garbage);
    }

    fn charge(&self, all: &mut Generations<V>, bytes: usize) -> Option<Generation<V>> {
        all.young_bytes += bytes;
        (all.young_bytes > self.budget / 2).then(|| all.turn())
    }

    /// Called now and then: what was not met since the last but one goes.
    pub(super) fn sweep(&self) {
        let garbage = self.lock().turn();
        drop(garbage);
    }

    pub(super) fn bytes(&self) -> usize {
        let all = self.lock();
        all.young_bytes + all.old_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn what_is_met_stays_and_the_rest_goes() {
        let memo = Memo::new(1000);
        let (first, second) = (memo.get_or_put(1, || Arc::new(1)), memo.get_or_put(2, || Arc::new(2)));
        memo.sweep();
        assert!(Arc::ptr_eq(&first, &memo.get_or_put(1, || Arc::new(0))));
        memo.sweep();
        assert_eq!((Arc::strong_count(&first), Arc::strong_count(&second)), (2, 1));
    }

    #[test]
    fn the_budget_holds() {
        let memo = Memo::new(1000);
        for hash in 0..100 {
            memo.get_or_put(hash, || ());
            memo.grow(hash, 90);
            assert!(memo.bytes() <= 1090, "{}", memo.bytes());
        }
    }
}
