//! The states that are on disk, newest first, for who looks for a group.

use super::Wall;
use super::disk::Disk;
use super::index::{Owner, Refused};
use super::names::{self, File, Named};
use super::seal::Key;
use super::shelf::{Bad, Shelf};
use crate::content::Store;
use crate::exchange::Kept;
use std::sync::Arc;

/// States looked at, at most: what is older is of no use to anybody.
const MOST: usize = 6;

/// What is needed to read.
#[derive(Clone, Debug)]
pub(super) struct Reading {
    pub(super) disk: Arc<dyn Disk>,
    pub(super) key: Option<Key>,
    pub(super) owner: Owner,
    /// An index larger than this is none of ours.
    pub(super) largest: u64,
}

/// A state that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Aside {
    pub(super) named: Named,
    pub(super) reason: &'static str,
    pub(super) text: String,
}

#[derive(Debug, Default)]
pub(super) struct Library {
    pub(super) shelves: Vec<Arc<Shelf>>,
    pub(super) aside: Vec<Aside>,
    /// The greatest generation of any file, used or not.
    pub(super) newest: u64,
    /// Of all files.
    pub(super) bytes: u64,
}

/// A group that was found, and from how many newer states it could not be read.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) kept: Kept,
    pub(super) passed: usize,
}

impl Library {
    pub(super) fn open(reading: &Reading) -> std::io::Result<Self> {
        let files = reading.disk.list()?;
        let mut library = Self { bytes: files.iter().map(|(_, bytes)| bytes).sum(), ..Self::default() };
        let ours = files.iter().filter_map(|(name, _)| names::read(name));
        let mut indexes = Vec::new();
        for file in ours {
            match file {
                File::Data(generation) => library.newest = library.newest.max(generation),
                File::Index(named) => {
                    library.newest = library.newest.max(named.generation);
                    indexes.push(named);
                }
                File::Temporary => {}
            }
        }
        indexes.sort_unstable_by(|a, b| b.cmp(a));
        for named in indexes.into_iter().take(MOST) {
            let Reading { disk, key, owner, largest } = reading;
            match Shelf::open(&**disk, named, key.as_ref(), owner, *largest) {
                Ok(shelf) => library.shelves.push(Arc::new(shelf)),
                Err(refused) => library.aside.push(aside(named, &refused)),
            }
        }
        Ok(library)
    }

    /// What is there and cannot be read just now.
    pub(super) fn unread(&self) -> Option<&str> {
        Some(&self.aside.iter().find(|aside| aside.reason == "unreadable")?.text)
    }

    /// Groups of the newest state.
    pub(super) fn groups(&self) -> impl Iterator<Item = &Arc<str>> {
        self.shelves.first().into_iter().flat_map(|shelf| shelf.index.groups.keys())
    }

    /// Does `step` with each state that has the group, newest first, until it goes well.
    /// What an older state has and the newest has not is gone.
    pub(super) fn first<R>(
        &self,
        key: &str,
        mut step: impl FnMut(&Arc<Shelf>) -> Result<R, Bad>,
    ) -> Option<(Option<R>, Vec<Bad>)> {
        let mut bad = Vec::new();
        self.shelves.first()?.group(key)?;
        for shelf in self.shelves.iter().filter(|shelf| shelf.group(key).is_some()) {
            match step(shelf) {
                Ok(found) => return Some((Some(found), bad)),
                Err(error) => bad.push(error),
            }
        }
        Some((None, bad))
    }

    /// The group, from the newest state of which it can be read.
    pub(super) fn load(&self, key: &str, store: &Store, now: Wall) -> (Option<Found>, Vec<Bad>) {
        let load = |shelf: &Arc<Shelf>| match shelf.group(key) {
            Some(group) => shelf.load(group, store, now),
            None => Err(Bad::Content("the index")),
        };
        let Some((kept, bad)) = self.first(key, load) else { return (None, Vec::new()) };
        (kept.map(|kept| Found { kept, passed: bad.len() }), bad)
    }
}

fn aside(named: Named, refused: &Refused) -> Aside {
    Aside { named, reason: refused.reason(), text: format!("{} {refused}", named.index()) }
}
