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

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}
