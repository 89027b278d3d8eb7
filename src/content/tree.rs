//! The entries of one type.

use super::entry::Entry;
use super::names::NameSet;
use super::trie::{self, Node};
use crate::xds::Name;
use std::sync::Arc;

/// Immutable, cheap to clone. Trees of one store with equal content have one
/// root, whoever built them and in whatever order.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    root: Option<Arc<Node>>,
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

impl Changed {
    /// Its name, or an alias it has or had, is in `set`.
    pub fn concerns(&self, set: &NameSet) -> bool {
        let mut aliases = self.from.iter().chain(&self.to).flat_map(|entry| entry.aliases());
        set.contains(&self.name) || aliases.any(|alias| set.contains(alias))
    }
}

/// What differs between two trees, in the trees' order.
#[derive(Debug, Default)]
pub struct Diff {
    pub changed: Vec<Changed>,
}

impl Tree {
    pub(super) fn new(root: Option<Arc<Node>>) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> Option<&Arc<Node>> {
        self.root.as_ref()
    }

    /// Hashes the name.
    pub fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.root.as_ref()?.get(trie::key_of(name), name)
    }

    pub(super) fn find(&self, key: u64, name: &str) -> Option<&Arc<Entry>> {
        self.root.as_ref()?.get(key, name)
    }

    pub fn len(&self) -> usize {
        self.root.as_ref().map_or(0, |root| root.len())
    }

    pub fn is_empty(&self) -> bool {
        self.root.is_none()
    }

    /// Every entry, in the tree's own order: by the hash of its name. Who shows
    /// them to a person sorts them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Entry>> {
        trie::Iter::new(self.root.as_ref())
    }

    /// The root hash. Made when first asked for; then kept.
    pub fn id(&self) -> [u8; 32] {
        self.root.as_ref().map_or_else(trie::empty_id, |root| *root.id())
    }

    /// Equal content, by identity: one comparison of pointers.
    pub fn same(&self, other: &Self) -> bool {
        self.root.as_ref().map(Arc::as_ptr) == other.root.as_ref().map(Arc::as_ptr)
    }
}
