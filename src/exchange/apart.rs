//! Names that the upstream marks `do_not_cache` (C-145).
//!
//! A group does not hold what they stand for, and does not subscribe to them: who
//! wants one asks for it in a private group.

use crate::content::{NameSet, Store};
use crate::xds::Name;
use std::collections::BTreeSet;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Apart {
    names: BTreeSet<Name>,
    /// The same, shared; made when it is asked for.
    set: Option<Arc<NameSet>>,
}

impl Apart {
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    pub(super) fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }

    /// Was it not there before?
    pub(super) fn insert(&mut self, name: Name) -> bool {
        let new = self.names.insert(name);
        if new {
            self.set = None;
        }
        new
    }

    /// Was it there?
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let was = self.names.remove(name);
        if was {
            self.set = None;
        }
        was
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn set(&mut self, store: &Store) -> Arc<NameSet> {
        if self.names.is_empty() {
            return Arc::default();
        }
        self.set.get_or_insert_with(|| store.names(self.names.iter().cloned().collect())).clone()
    }
}
