//! Which assignments the clusters of a group refer to (CONFORMANCE's C-101).
//!
//! Read from the clusters' bytes as they change. The names are one shared set:
//! groups with the same clusters hold it once.

use crate::content::{Body, Changed, Entry, NameSet, Store, Tree};
use crate::xds::{Name, cluster, name};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

#[derive(Debug, Default)]
pub(super) struct References {
    /// Somebody wants clusters, so that what they refer to is followed.
    followed: bool,
    names: Arc<NameSet>,
    /// Names to which several clusters refer, and how many.
    several: HashMap<Name, u32>,
}

impl References {
    pub(super) fn names(&self) -> &Arc<NameSet> {
        &self.names
    }

    /// How many clusters refer to `name`.
    pub(super) fn count(&self, name: &str) -> u32 {
        match self.several.get(name) {
            Some(count) => *count,
            None => u32::from(self.names.contains(name)),
        }
    }

    /// Clusters changed, or whether anybody wants any. The set of names is what it
    /// was, or another.
    pub(super) fn follow(&mut self, store: &Store, wanted: bool, tree: &Tree, changed: &[Changed]) -> &Arc<NameSet> {
        let mut moves: BTreeMap<Name, i64> = BTreeMap::new();
        let mut add = |entry: Option<&Arc<Entry>>, by| {
            if let Some(name) = entry.and_then(|entry| assignment(entry)) {
                *moves.entry(name).or_default() += by;
            }
        };
        match (self.followed, wanted) {
            (true, true) => changed.iter().for_each(|change| {
                add(change.from.as_ref(), -1);
                add(change.to.as_ref(), 1);
            }),
            (false, true) => tree.iter().for_each(|entry| add(Some(entry), 1)),
            (true, false) => *self = Self::default(),
            (false, false) => {}
        }
        self.followed = wanted;
        let (mut gained, mut lost) = (Vec::new(), Vec::new());
        for (name, by) in moves.into_iter().filter(|(_, by)| *by != 0) {
            let before = self.count(&name);
            let after = (i64::from(before) + by).clamp(0, i64::from(u32::MAX)) as u32;
            match after {
                0 | 1 => self.several.remove(&name),
                _ => self.several.insert(name.clone(), after),
            };
            match (before, after) {
                (0, 1..) => gained.push(name),
                (1.., 0) => lost.push(name),
                _ => {}
            }
        }
        if !lost.is_empty() {
            self.names = store.names_without(&self.names, &lost);
        }
        if !gained.is_empty() {
            self.names = store.names_with(&self.names, &gained);
        }
        &self.names
    }
}

/// The assignment that a cluster refers to; `None` for what is no EDS cluster.
pub(super) fn assignment(entry: &Entry) -> Option<Name> {
    let Body::Resource(blob) = entry.body() else { return None };
    cluster::eds_name(blob.value()).map(|called| name::normal(&called))
}
