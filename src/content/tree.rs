//! The entries of one type.

use super::entry::Entry;
use crate::xds::Name;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Immutable, cheap to clone, equal where the content is equal.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    entries: Arc<BTreeMap<Name, Arc<Entry>>>,
}

/// One change of a tree.
#[derive(Clone, Debug)]
pub enum Edit {
    Put(Arc<Entry>),
    Remove(Name),
}

/// A name whose entry differs between two trees.
#[derive(Clone, Debug)]
pub struct Changed {
    pub name: Name,
    pub from: Option<Arc<Entry>>,
    pub to: Option<Arc<Entry>>,
}

/// What differs between two trees.
#[derive(Debug, Default)]
pub struct Diff {
    pub changed: Vec<Changed>,
}

impl Tree {
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every entry, in the tree's own order.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.values()
    }

    /// The root hash.
    pub fn id(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        for entry in self.iter() {
            hasher.update(entry.id().as_bytes());
        }
        *hasher.finalize().as_bytes()
    }

    /// Equal content, by identity.
    pub fn same(&self, other: &Tree) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries)
            || self.entries.len() == other.entries.len() && self.iter().zip(other.iter()).all(|(a, b)| a.id() == b.id())
    }

    pub(super) fn key(&self) -> usize {
        Arc::as_ptr(&self.entries) as usize
    }

    pub(super) fn edited(&self, edits: impl IntoIterator<Item = Edit>) -> Self {
        let mut entries = (*self.entries).clone();
        for edit in edits {
            match edit {
                Edit::Put(entry) => {
                    entries.insert(entry.name().clone(), entry);
                }
                Edit::Remove(name) => {
                    entries.remove(&name);
                }
            }
        }
        Self { entries: entries.into() }
    }

    pub(super) fn diff(&self, to: &Tree) -> Diff {
        let mut changed = Vec::new();
        for entry in self.iter() {
            let now = to.get(entry.name());
            if now.is_none_or(|now| now.id() != entry.id()) {
                changed.push(Changed { name: entry.name().clone(), from: Some(entry.clone()), to: now.cloned() });
            }
        }
        for entry in to.iter().filter(|entry| self.get(entry.name()).is_none()) {
            changed.push(Changed { name: entry.name().clone(), from: None, to: Some(entry.clone()) });
        }
        Diff { changed }
    }
}
