//! Sets of names: sorted, immutable, shared.
//!
//! A name that is in any set is held once, with its place in the tries, so that
//! a set takes 8 bytes a name and to look all of it up hashes nothing.

use super::entry::Entry;
use super::intern::{Home, Interned};
use super::tree::Tree;
use crate::xds::Name;
use std::sync::Arc;

/// A name that is in some set.
#[derive(Debug)]
pub(super) struct Member {
    name: Name,
    key: u64,
    home: Home<Member>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.home.leave(self);
    }
}

impl Interned for Member {
    fn same(&self, other: &Self) -> bool {
        self.name == other.name
    }

    fn home(&self) -> Option<&Home<Self>> {
        Some(&self.home)
    }
}

impl Member {
    pub(super) fn new(name: Name, key: u64, home: Home<Self>) -> Self {
        Self { name, key, home }
    }

    pub(super) fn name(&self) -> &Name {
        &self.name
    }
}

/// A set of resource names. Equal sets made by one store are one object.
#[derive(Debug, Default)]
pub struct NameSet {
    members: Box<[Arc<Member>]>,
    /// `None` in the empty set that no store made.
    home: Option<Home<NameSet>>,
}

impl Drop for NameSet {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.leave(self);
        }
    }
}

impl Interned for NameSet {
    fn same(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }

    fn home(&self) -> Option<&Home<Self>> {
        self.home.as_ref()
    }
}

impl PartialEq for NameSet {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.same(other)
    }
}

impl Eq for NameSet {}

impl NameSet {
    /// `members` are sorted by name and unique.
    pub(super) fn new(members: Box<[Arc<Member>]>, home: Home<Self>) -> Self {
        Self { members, home: Some(home) }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.members.binary_search_by(|held| (*held.name).cmp(name)).is_ok()
    }

    /// In ascending order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Name> + DoubleEndedIterator + Clone {
        self.members.iter().map(|member| &member.name)
    }

    /// Every name, in ascending order, with what stands under it in `tree`.
    /// Hashes no name, which [`Tree::get`] does.
    pub fn look_up<'a>(&'a self, tree: &'a Tree) -> impl ExactSizeIterator<Item = (&'a Name, Option<&'a Arc<Entry>>)> {
        self.members.iter().map(|member| (&member.name, tree.find(member.key, &member.name)))
    }

    /// Looks up names in `tree` that come in ascending order, each once. Those of
    /// the set are not hashed.
    pub fn finder<'a>(&'a self, tree: &'a Tree) -> Finder<'a> {
        Finder { members: &self.members, tree }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// See [`NameSet::finder`].
#[derive(Debug)]
pub struct Finder<'a> {
    /// Those after the name that was looked up last.
    members: &'a [Arc<Member>],
    tree: &'a Tree,
}

impl<'a> Finder<'a> {
    /// What stands under `name`, which is after the one looked up last.
    pub fn get(&mut self, name: &Name) -> Option<&'a Arc<Entry>> {
        if self.members.first().is_some_and(|next| next.name < *name) {
            self.skip(name);
        }
        match self.members.split_first() {
            Some((next, rest)) if next.name == *name => {
                self.members = rest;
                self.tree.find(next.key, name)
            }
            _ => self.tree.get(name),
        }
    }

    /// Passes those before `name`, which is near: the steps double.
    fn skip(&mut self, name: &Name) {
        let mut step = 1;
        while self.members.get(step).is_some_and(|member| member.name < *name) {
            self.members = &self.members[step..];
            step *= 2;
        }
        let near = &self.members[..step.min(self.members.len())];
        self.members = &self.members[near.partition_point(|member| member.name < *name)..];
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Attributes, Body, Edit, Store};
    use super::*;

    /// Sets and questions of any density, beside each other.
    #[test]
    fn a_finder_finds_what_a_tree_has() {
        let store = Store::new();
        let names: Vec<Name> = (0..200).map(|number| format!("name {number:03}").into()).collect();
        let every = |step: usize| names.iter().step_by(step).cloned();
        let put = |name| Edit::Put(store.entry(name, Body::Absent, Attributes::default()));
        let tree = store.edit(&Tree::default(), every(3).map(put));
        for (of_set, of_questions) in (1..40).flat_map(|a| [1, 2, 3, 5, 17, 60].map(|b| (a, b))) {
            let set = store.names(every(of_set).collect());
            let mut finder = set.finder(&tree);
            for name in every(of_questions) {
                assert_eq!(finder.get(&name).map(Arc::as_ptr), tree.get(&name).map(Arc::as_ptr), "{name}");
            }
        }
    }
}
