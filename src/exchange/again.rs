//! Names that were given up and are wanted again before the upstream was told.
//!
//! Who subscribes upstream reads what is wanted now and then, so a name may go and
//! come back unseen: what was held of it is gone, and nothing would ask for it.

use crate::content::NameSet;
use crate::xds::Name;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct Again {
    /// What was read last.
    read: Arc<NameSet>,
    /// With the number of each: see [`Want::again`](crate::session::Want::again).
    names: BTreeMap<Name, u64>,
}

impl Again {
    /// `name` has come to be wanted. `newest` is the group's, for a type may be
    /// forgotten and come back.
    pub(super) fn gained(&mut self, name: &Name, newest: &Cell<u64>) {
        if self.read.contains(name) {
            newest.set(newest.get() + 1);
            self.names.insert(name.clone(), newest.get());
        }
    }

    /// The upstream has spoken about `name`.
    pub(super) fn answered(&mut self, name: &str) {
        if !self.names.is_empty() {
            self.names.remove(name);
        }
    }

    /// What is wanted is read.
    pub(super) fn read(&mut self, wanted: &Arc<NameSet>) -> Arc<[(u64, Name)]> {
        self.read = wanted.clone();
        if self.names.is_empty() {
            return Arc::default();
        }
        self.names.retain(|name, _| wanted.contains(name));
        self.names.iter().map(|(name, number)| (*number, name.clone())).collect()
    }
}
