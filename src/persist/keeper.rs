//! Writes states: what changed since the last one, or all of it.
//!
//! The first state of a process is a new generation: what is in memory, and what is
//! on disk of groups that nobody has asked for yet, every byte of which is checked as
//! it is copied. A later state adds to it what is new and a new index. When most of a
//! data file is of the past, or a write failed, the next state is a new generation.
//!
//! A state is there when its index is: data, sync, index beside the old ones, sync,
//! rename, sync of the directory. Two states of this generation stay, and of those before
//! it the one that was read. What was refused stays until some group was synced with its
//! upstream for an hour: until then another program may come back and read it.

use super::disk::{Disk, Lock};
use super::index::{Group, Index, Type};
use super::library::{Library, Reading};
use super::names::{self, File, Named};
use super::seal::salt;
use super::shelf::{Bad, Shelf};
use super::sink::{SaveError, Sink};
use super::{Wall, millis};
use crate::content::Tree;
use crate::exchange::{Kept, KeptType};
use crate::xds::TypeUrl;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A data file may grow to twice its first size and this, before it is written anew.
const SLACK: u64 = 16 << 20;
/// Milliseconds by which clocks may differ.
const CLOSE: u64 = 2000;
/// Groups that are named in the log, of those that cannot be read.
const NAMED: usize = 10;
/// Saves that fail before what cannot be read is given up.
const UNREADABLE: u32 = 10;
/// How much older a confirmation on disk may be than it is.
const LAG: Duration = Duration::from_secs(300);

/// What is to be saved.
#[derive(Debug)]
pub(super) struct Batch {
    /// Groups that changed: all that are held, where the keeper [wants all](Keeper::wants_all).
    /// `None` for one that is no more.
    pub(super) groups: Vec<(Arc<str>, Option<Kept>)>,
    /// Types that may not be written, and that are left out of what is copied.
    pub(super) refused: Vec<TypeUrl>,
    /// Some group has been synced with its upstream for long.
    pub(super) synced: bool,
    pub(super) now: Wall,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Saved {
    /// Written for this state; none where nothing changed.
    pub(super) written: u64,
    /// On disk now.
    pub(super) groups: usize,
    pub(super) bytes: u64,
    pub(super) generation: u64,
    /// Groups on disk that could not be read, of any state.
    pub(super) lost: usize,
    /// Groups of which an older state had to do.
    pub(super) older: usize,
    /// States that were refused and are still there.
    pub(super) aside: usize,
    pub(super) anew: bool,
}

#[derive(Debug)]
pub(super) struct Keeper {
    reading: Reading,
    lock: Option<Lock>,
    /// Of all files together.
    most: u64,
    current: Option<Current>,
    /// Saves that failed, one after the other.
    failures: u32,
}

#[derive(Debug)]
struct Current {
    sink: Sink,
    /// The last state of it.
    commit: u64,
    groups: BTreeMap<Arc<str>, Group>,
    /// The size of the first state, and of the last.
    first: u64,
    last: u64,
    /// The state from which it was begun, and those that were refused then.
    before: Option<Named>,
    aside: Vec<Named>,
    /// Types that were left out of all of it.
    refused: Vec<TypeUrl>,
}

impl Keeper {
    pub(super) fn new(reading: Reading, most: u64) -> Self {
        Self { reading, lock: None, most, current: None, failures: 0 }
    }

    /// The next state is a new generation, so that it needs every group.
    pub(super) fn wants_all(&self, refused: &[TypeUrl]) -> bool {
        self.current.as_ref().is_none_or(|current| {
            // Beside what is there another must find room.
            let most = (2 * current.first + SLACK).min(self.most / 2).max(current.first + current.first / 8);
            current.sink.bytes() > most || refused.iter().any(|of| !current.refused.contains(of))
        })
    }

    /// Makes `batch` the newest state. After an error nothing of it counts, and the
    /// keeper wants all.
    pub(super) fn save(&mut self, batch: Batch) -> Result<Saved, SaveError> {
        let saved = self.try_save(batch);
        self.failures = if saved.is_ok() { 0 } else { self.failures.saturating_add(1) };
        if saved.is_err()
            && let Some(failed) = self.current.take()
            && failed.commit == 0
        {
            // No state of it was ever there, and it may be what fills the disk.
            let named = Named { generation: failed.sink.generation, commit: 1 };
            for name in [named.temporary(), named.index(), named.data()] {
                let _ = self.reading.disk.remove(&name);
            }
        }
        saved
    }

    fn try_save(&mut self, batch: Batch) -> Result<Saved, SaveError> {
        if self.lock.is_none() {
            self.lock = Some(self.reading.disk.lock()?);
        }
        let mut saved = Saved::default();
        let changed = if self.wants_all(&batch.refused) {
            saved.anew = true;
            self.begin(&batch, &mut saved)?;
            true
        } else {
            match self.add(&batch) {
                // It is full of the past: what did not change is copied.
                Err(SaveError::Full(_)) => {
                    saved.anew = true;
                    self.begin(&batch, &mut saved)?;
                    true
                }
                added => added?,
            }
        };
        let Some(current) = &mut self.current else { return Ok(saved) };
        if changed {
            saved.written = current.commit(&self.reading, batch.now)?;
        }
        saved.groups = current.groups.len();
        saved.generation = current.sink.generation;
        if batch.synced {
            current.aside.clear();
        }
        saved.aside = current.aside.len();
        // What cannot be removed takes room, and nothing else.
        saved.bytes = current.tidy(&*self.reading.disk).unwrap_or_default();
        Ok(saved)
    }

    /// A new generation: what the batch holds, else what is on disk.
    fn begin(&mut self, batch: &Batch, saved: &mut Saved) -> Result<(), SaveError> {
        self.current = None;
        let library = Library::open(&self.reading)?;
        if let Some(unread) = library.unread().filter(|_| self.failures < UNREADABLE) {
            // It may be the newest.
            return Err(std::io::Error::other(unread.to_owned()).into());
        }
        let holds = |kept: &Option<Kept>| kept.as_ref().is_some_and(|kept| !kept.types.is_empty());
        if library.groups().next().is_none() && !batch.groups.iter().any(|(_, kept)| holds(kept)) {
            return Ok(());
        }
        let room = self.make_room(&library, batch.synced)?;
        let secret = library.shelves.iter().any(|shelf| shelf.has_any(&batch.refused));
        let sink = Sink::create(&*self.reading.disk, library.newest + 1, self.reading.key.as_ref(), room)?;
        let current = self.current.insert(Current {
            sink,
            commit: 0,
            groups: BTreeMap::new(),
            first: 0,
            last: 0,
            // What has become sensitive does not stay in the clear.
            before: library.shelves.first().map(|shelf| shelf.named).filter(|_| !secret),
            refused: batch.refused.clone(),
            aside: library.aside.iter().map(|aside| aside.named).collect(),
        });
        for (key, kept) in &batch.groups {
            if let Some(kept) = kept.as_ref().filter(|kept| !kept.types.is_empty()) {
                current.put(key, kept, batch.now)?;
            }
        }
        let gone = batch.groups.iter().filter(|(_, kept)| kept.is_none()).map(|(key, _)| key);
        let gone: std::collections::HashSet<_> = gone.collect();
        for key in library.groups().filter(|key| !gone.contains(key)) {
            if !current.groups.contains_key(key) {
                current.copy(&library, key, batch, self.failures >= UNREADABLE, saved)?;
            }
        }
        current.first = current.sink.bytes();
        Ok(())
    }

    /// Says how much may be written beside what is on disk: half of all, so that the next
    /// one has room too. Where it is not there, what is older than the newest state goes first.
    fn make_room(&self, library: &Library, synced: bool) -> std::io::Result<u64> {
        let mut taken = library.bytes;
        if taken > self.most / 2 {
            let newest = library.shelves.first().map(|shelf| shelf.named.generation);
            let aside: Vec<u64> =
                library.aside.iter().filter(|_| !synced).map(|aside| aside.named.generation).collect();
            for (name, bytes) in self.reading.disk.list()? {
                let generation = match names::read(&name) {
                    Some(File::Data(generation) | File::Index(Named { generation, .. })) => generation,
                    Some(File::Temporary) => 0,
                    None => continue,
                };
                if Some(generation) != newest && !aside.contains(&generation) {
                    self.reading.disk.remove(&name)?;
                    taken = taken.saturating_sub(bytes);
                }
            }
        }
        Ok(self.most.saturating_sub(taken).min(self.most / 2))
    }

    /// Adds what changed; says whether anything did.
    fn add(&mut self, batch: &Batch) -> Result<bool, SaveError> {
        let Some(current) = &mut self.current else { return Ok(false) };
        let mut changed = false;
        for (key, kept) in &batch.groups {
            changed |= match kept {
                None => current.groups.remove(key).is_some(),
                // What is on disk of it stays until something is known.
                Some(kept) if kept.types.is_empty() => false,
                Some(kept) => current.put(key, kept, batch.now)?,
            };
        }
        Ok(changed)
    }
}

impl Current {
    /// Says whether that made a difference.
    fn put(&mut self, key: &Arc<str>, kept: &Kept, now: Wall) -> Result<bool, SaveError> {
        let ends = kept.types.iter().any(|of| !of.expires.is_empty());
        let held = self.groups.get(key).filter(|_| ends).map(|held| Type::decode(&held.types).unwrap_or_default());
        let mut types = Vec::with_capacity(kept.types.len());
        for of in &kept.types {
            let before = held.iter().flatten().find(|held| held.type_url == of.type_url.as_str());
            types.push(self.type_of(of, before, now)?);
        }
        let confirmed =
            |of: &KeptType| of.confirmed.map_or(0, |ago| millis(now).saturating_sub(ago.as_millis() as u64));
        let group = Group { types: Type::encode(&types), confirmed: kept.types.iter().map(confirmed).collect() };
        let late = |held: &Group| {
            let pairs = held.confirmed.iter().zip(&group.confirmed);
            pairs.into_iter().any(|(before, after)| before + (LAG.as_millis() as u64) < *after)
        };
        let differs = self.groups.get(key).is_none_or(|held| held.types != group.types || late(held));
        if differs {
            self.groups.insert(key.clone(), group);
        }
        Ok(differs)
    }

    /// A TTL that ends when it ended `before`, but for the clocks, is no change.
    fn type_of(&mut self, of: &KeptType, before: Option<&Type>, now: Wall) -> Result<Type, SaveError> {
        let mut tree = |tree: &Tree| self.sink.tree(tree);
        let (tree, versions) = (tree(&of.tree)?, tree(&of.versions)?);
        let at = |name: &str, left: Duration| {
            let at = millis(now).saturating_add(left.as_millis() as u64);
            // Both are sorted by name.
            let find = |before: &&Type| before.expires.binary_search_by(|(other, _)| (**other).cmp(name)).ok();
            let known = before.and_then(|before| Some(before.expires.get(find(&before)?)?.1));
            known.filter(|known| known.abs_diff(at) < CLOSE).unwrap_or(at)
        };
        Ok(Type {
            type_url: of.type_url.as_str().to_owned(),
            tree,
            versions,
            label: of.label.clone(),
            complete: of.complete,
            expires: of.expires.iter().map(|(name, left)| (name.to_string(), at(name, *left))).collect(),
            apart: of.apart.iter().map(ToString::to_string).collect(),
        })
    }

    /// Copies a group from the newest state that has it whole. A disk that cannot be read
    /// just now makes no older state the newest: that is tried again, unless it was
    /// tried often enough (`anyway`).
    fn copy(
        &mut self,
        library: &Library,
        key: &Arc<str>,
        batch: &Batch,
        anyway: bool,
        saved: &mut Saved,
    ) -> Result<(), SaveError> {
        let mut failed = None;
        let copied = library.first(key, |shelf| match self.copy_group(shelf, key, &batch.refused) {
            Ok(Err(Bad::Unreadable(error))) if !anyway => {
                failed.get_or_insert(SaveError::Io(error));
                Err(Bad::Content("the copy"))
            }
            Ok(copied) => copied,
            Err(error) => {
                failed = Some(error);
                Err(Bad::Content("the copy"))
            }
        });
        if let Some(error) = failed {
            return Err(error);
        }
        match copied {
            Some((Some(group), bad)) => {
                saved.older += usize::from(!bad.is_empty());
                self.groups.insert(key.clone(), group);
            }
            Some((None, bad)) => {
                saved.lost += 1;
                if saved.lost <= NAMED {
                    let why = bad.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                    tracing::error!(group = %key, why, "what was on disk of a group cannot be read; it is left out");
                }
            }
            None => {}
        }
        Ok(())
    }

    fn copy_group(
        &mut self,
        shelf: &Arc<Shelf>,
        key: &str,
        refused: &[TypeUrl],
    ) -> Result<Result<Group, Bad>, SaveError> {
        let Some(held) = shelf.group(key) else { return Ok(Err(Bad::Content("the index"))) };
        let types = match Type::decode(&held.types) {
            Ok(types) => types,
            Err(malformed) => return Ok(Err(malformed.into())),
        };
        let confirmed = held.confirmed.iter().copied().chain(std::iter::repeat(0));
        let may_be = |of: &Type| refused.iter().all(|url| url.as_str() != of.type_url);
        let (mut types, confirmed): (Vec<_>, Vec<_>) =
            types.into_iter().zip(confirmed).filter(|(of, _)| may_be(of)).unzip();
        for of in &mut types {
            for link in of.tree.iter_mut().chain(&mut of.versions) {
                match self.sink.copy(shelf, link, 0)? {
                    Ok(copied) => *link = copied,
                    Err(bad) => return Ok(Err(bad)),
                }
            }
        }
        Ok(Ok(Group { types: Type::encode(&types), confirmed }))
    }

    /// Says how much was written.
    fn commit(&mut self, reading: &Reading, now: Wall) -> Result<u64, SaveError> {
        self.sink.sync()?;
        let owner = reading.owner.clone();
        let groups = std::mem::take(&mut self.groups);
        let index = Index { owner, written: millis(now), groups };
        let bytes = index.encode(reading.key.as_ref(), &salt()?);
        self.groups = index.groups;
        let named = Named { generation: self.sink.generation, commit: self.commit + 1 };
        let mut out = reading.disk.create(&named.temporary())?;
        out.write(&bytes)?;
        out.sync()?;
        reading.disk.rename(&named.temporary(), &named.index())?;
        reading.disk.sync()?;
        self.commit += 1;
        let before = std::mem::replace(&mut self.last, self.sink.bytes());
        Ok(bytes.len() as u64 + (self.last - before))
    }

    /// Removes what is of no use beside the newest state, and says what is left.
    fn tidy(&self, disk: &dyn Disk) -> std::io::Result<u64> {
        let generation = self.sink.generation;
        let own = [self.commit, self.commit.saturating_sub(1)].map(|commit| Named { generation, commit });
        let kept: Vec<Named> = own.into_iter().chain(self.before).chain(self.aside.iter().copied()).collect();
        let mut left = 0;
        for (name, bytes) in disk.list()? {
            let keep = match names::read(&name) {
                Some(File::Temporary) => false,
                Some(File::Index(named)) => kept.contains(&named),
                Some(File::Data(generation)) => kept.iter().any(|named| named.generation == generation),
                None => true,
            };
            if keep {
                left += bytes;
            } else {
                disk.remove(&name)?;
            }
        }
        Ok(left)
    }
}
