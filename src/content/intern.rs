//! Hash-consing: one object per content, found while somebody uses it.
//!
//! A [`Table`] holds its objects weakly. Each object has a [`Home`], its place
//! in the table, and leaves it when it is dropped, by pointer: the slot of the
//! dead one may stand beside that of its successor for a moment.
//!
//! Promise: two live objects of one table never have equal content, so that
//! identity is the pointer. No object is dropped while a shard is locked (its
//! own drop would lock it again). No payload is compared, copied or hashed under
//! a lock but where two threads make the same thing at once.

use hashbrown::HashTable;
use std::sync::{Arc, Mutex, MutexGuard, Weak};

const SHARDS: usize = 256;

#[derive(Debug)]
struct Slot<T> {
    hash: u64,
    object: Weak<T>,
}

#[derive(Debug)]
struct Shard<T> {
    slots: Mutex<HashTable<Slot<T>>>,
}

/// What can be held in a table. Its drop calls [`Home::leave`].
pub(super) trait Interned {
    /// Equal content.
    fn same(&self, other: &Self) -> bool;
    /// `None` for one that no table holds.
    fn home(&self) -> Option<&Home<Self>>
    where
        Self: Sized;
}

/// The objects of one kind.
#[derive(Debug)]
pub(super) struct Table<T> {
    shards: Box<[Arc<Shard<T>>]>,
}

/// Where an object is found. Its shard lives as long as the object does.
#[derive(Debug)]
pub(super) struct Home<T> {
    shard: Arc<Shard<T>>,
    hash: u64,
}

/// Live objects of one hash: nearly always none or one.
struct Candidates<T> {
    first: Option<Arc<T>>,
    rest: Vec<Arc<T>>,
}

impl<T> Shard<T> {
    fn lock(&self) -> MutexGuard<'_, HashTable<Slot<T>>> {
        self.slots.lock().expect("no panic while held")
    }
}

impl<T> Candidates<T> {
    fn of(slots: &HashTable<Slot<T>>, hash: u64) -> Self {
        let mut found = Self { first: None, rest: Vec::new() };
        let live = slots.iter_hash(hash).filter(|slot| slot.hash == hash).filter_map(|slot| slot.object.upgrade());
        for object in live {
            match found.first {
                None => found.first = Some(object),
                Some(_) => found.rest.push(object),
            }
        }
        found
    }

    fn find(self, same: impl Fn(&T) -> bool) -> Option<Arc<T>> {
        self.first.into_iter().chain(self.rest).find(|object| same(object))
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        let shard = || Arc::new(Shard { slots: Mutex::default() });
        Self { shards: std::iter::repeat_with(shard).take(SHARDS).collect() }
    }
}

impl<T: Interned> Table<T> {
    /// The live object that `is` what `draft` says, or the one that `make`
    /// makes of it. `hash` is of all that makes them equal.
    pub(super) fn intern<D>(
        &self,
        hash: u64,
        draft: D,
        is: impl Fn(&T, &D) -> bool,
        make: impl FnOnce(D, Home<T>) -> T,
    ) -> Arc<T> {
        let shard = self.shard(hash);
        let candidates = Candidates::of(&shard.lock(), hash);
        if let Some(found) = candidates.find(|object| is(object, &draft)) {
            return found;
        }
        let made = Arc::new(make(draft, Home { shard: shard.clone(), hash }));
        let mut slots = shard.lock();
        let raced = Candidates::of(&slots, hash);
        if raced.first.is_none() {
            slots.insert_unique(hash, Slot { hash, object: Arc::downgrade(&made) }, |slot| slot.hash);
            return made;
        }
        Self::settle(slots, made, raced)
    }

    /// [`intern`](Self::intern) for what is made in no time: under the lock,
    /// where nothing of this hash is held.
    pub(super) fn intern_small<D>(
        &self,
        hash: u64,
        draft: D,
        is: impl Fn(&T, &D) -> bool,
        make: impl FnOnce(D, Home<T>) -> T,
    ) -> Arc<T> {
        let shard = self.shard(hash);
        let mut slots = shard.lock();
        let candidates = Candidates::of(&slots, hash);
        if candidates.first.is_none() {
            let made = Arc::new(make(draft, Home { shard: shard.clone(), hash }));
            slots.insert_unique(hash, Slot { hash, object: Arc::downgrade(&made) }, |slot| slot.hash);
            return made;
        }
        drop(slots);
        match candidates.find(|object| is(object, &draft)) {
            Some(found) => found,
            None => self.intern(hash, draft, is, make),
        }
    }

    fn shard(&self, hash: u64) -> &Arc<Shard<T>> {
        // Bits that the table itself uses neither as bucket nor as tag.
        &self.shards[(hash >> 40) as usize % SHARDS]
    }

    /// Another thread made something of this hash meanwhile: take it if it is
    /// the same. What is not kept is dropped after the lock.
    fn settle(mut slots: MutexGuard<'_, HashTable<Slot<T>>>, made: Arc<T>, raced: Candidates<T>) -> Arc<T> {
        let raced: Vec<_> = raced.first.into_iter().chain(raced.rest).collect();
        let theirs = raced.iter().find(|object| object.same(&made)).cloned();
        if theirs.is_none() {
            let hash = made.home().map_or(0, |home| home.hash);
            slots.insert_unique(hash, Slot { hash, object: Arc::downgrade(&made) }, |slot| slot.hash);
        }
        drop(slots);
        theirs.unwrap_or(made)
    }

    /// Objects that are alive or just leaving.
    pub(super) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }
}

impl<T> Home<T> {
    /// Called by the object's own drop.
    pub(super) fn leave(&self, object: *const T) {
        let mut slots = self.shard.lock();
        if let Ok(slot) = slots.find_entry(self.hash, |slot| std::ptr::eq(slot.object.as_ptr(), object)) {
            slot.remove();
        }
        if slots.capacity() > 64 && slots.len() < slots.capacity() / 4 {
            slots.shrink_to(0, |slot| slot.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Word(&'static str, Home<Word>);

    impl Drop for Word {
        fn drop(&mut self) {
            self.1.leave(self);
        }
    }

    impl Interned for Word {
        fn same(&self, other: &Self) -> bool {
            self.0 == other.0
        }

        fn home(&self) -> Option<&Home<Self>> {
            Some(&self.1)
        }
    }

    fn word(table: &Table<Word>, hash: u64, text: &'static str) -> Arc<Word> {
        table.intern(hash, text, |word, text| word.0 == *text, Word)
    }

    #[test]
    fn equal_content_is_one_object_and_goes_when_unused() {
        let table = Table::default();
        let (a, b) = (word(&table, 7, "a"), word(&table, 7, "a"));
        assert!(Arc::ptr_eq(&a, &b));
        let other = word(&table, 7, "of the same hash");
        assert!(!Arc::ptr_eq(&a, &other));
        assert!(Arc::ptr_eq(&other, &word(&table, 7, "of the same hash")));
        assert_eq!(table.len(), 2);
        drop((a, b));
        assert_eq!(table.len(), 1);
        drop(other);
        assert_eq!(table.len(), 0);
    }

    #[test]
    fn threads_that_make_the_same_thing_get_one_object() {
        let table = Table::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..20_000 {
                        let text = if round % 3 == 0 { "x" } else { "y" };
                        let (one, two) = (word(&table, 1, text), word(&table, 1, text));
                        assert!(Arc::ptr_eq(&one, &two));
                    }
                });
            }
        });
        assert_eq!(table.len(), 0);
    }
}
