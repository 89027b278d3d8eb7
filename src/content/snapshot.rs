//! Snapshots and the refs that point at them.
//!
//! A [`Snapshot`] is one group's configuration at one moment: a tree per type.
//! It never changes; the next one is made from it and shares all it can. A ref
//! is what moves: [`Refs`] has one for what the upstream said last and one for
//! what is served, which is a [`view`] of the first.
//!
//! Promise: what changes nothing moves no ref, so that who compares pointers
//! sees each change once and nothing else.

use super::tree::Tree;
use crate::xds::TypeUrl;
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};

/// Type → tree, for one group.
#[derive(Debug, Default)]
pub struct Snapshot {
    trees: BTreeMap<TypeUrl, Tree>,
    sequence: u64,
    /// Weak: keeping the past is the business of who wants a history.
    parent: Weak<Snapshot>,
}

impl Snapshot {
    /// The tree of `type_url`; `None` for a type that was never put.
    pub fn tree(&self, type_url: &TypeUrl) -> Option<&Tree> {
        self.trees.get(type_url)
    }

    /// In writing order.
    pub fn trees(&self) -> impl Iterator<Item = (&TypeUrl, &Tree)> {
        self.trees.iter()
    }

    /// How many snapshots of its line came before.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The one it was made from, while somebody keeps that.
    pub fn parent(&self) -> Option<Arc<Self>> {
        self.parent.upgrade()
    }

    /// Equal content, whatever came before.
    pub fn same(&self, other: &Self) -> bool {
        self.trees.len() == other.trees.len()
            && self.trees.iter().zip(&other.trees).all(|((a, left), (b, right))| a == b && left.same(right))
    }

    /// The snapshot after this one, with `changes` put; this one itself where
    /// they change nothing.
    #[must_use]
    pub fn next(self: &Arc<Self>, changes: impl IntoIterator<Item = (TypeUrl, Tree)>) -> Arc<Self> {
        let mut trees = None;
        for (type_url, tree) in changes {
            if self.trees.get(&type_url).is_some_and(|held| held.same(&tree)) && trees.is_none() {
                continue;
            }
            trees.get_or_insert_with(|| self.trees.clone()).insert(type_url, tree);
        }
        self.followed_by(trees)
    }

    /// The snapshot after this one, without some types: nobody wants them any more.
    #[must_use]
    pub fn without(self: &Arc<Self>, types: &[TypeUrl]) -> Arc<Self> {
        let kept = types.iter().any(|type_url| self.trees.contains_key(type_url)).then(|| {
            let mut trees = self.trees.clone();
            trees.retain(|type_url, _| !types.contains(type_url));
            trees
        });
        self.followed_by(kept)
    }

    fn followed_by(self: &Arc<Self>, trees: Option<BTreeMap<TypeUrl, Tree>>) -> Arc<Self> {
        let Some(trees) = trees else { return self.clone() };
        Self { trees, sequence: self.sequence + 1, parent: Arc::downgrade(self) }.into()
    }

    /// The types whose trees differ between `self` and `to`, in writing order.
    pub fn changed<'a>(&'a self, to: &'a Self) -> impl Iterator<Item = &'a TypeUrl> {
        let here = self.trees.keys().chain(to.trees.keys().filter(|type_url| !self.trees.contains_key(type_url)));
        let mut types: Vec<_> = here
            .filter(|type_url| match (self.tree(type_url), to.tree(type_url)) {
                (Some(left), Some(right)) => !left.same(right),
                _ => true,
            })
            .collect();
        types.sort_unstable();
        types.into_iter()
    }
}

/// What is served of `upstream`: all of it. The deletion guard, pins and
/// canaries will stand here, each a pure function like this one.
pub fn view(upstream: &Arc<Snapshot>) -> Arc<Snapshot> {
    upstream.clone()
}

/// One group's refs.
#[derive(Clone, Debug, Default)]
pub struct Refs {
    upstream: Arc<Snapshot>,
    served: Arc<Snapshot>,
}

impl Refs {
    /// What the control plane said last.
    pub fn upstream(&self) -> &Arc<Snapshot> {
        &self.upstream
    }

    /// What sidecars get.
    pub fn served(&self) -> &Arc<Snapshot> {
        &self.served
    }

    /// Moves both refs; says whether what is served moved.
    pub fn commit(&mut self, upstream: Arc<Snapshot>) -> bool {
        if Arc::ptr_eq(&self.upstream, &upstream) {
            return false;
        }
        let served = view(&upstream);
        self.upstream = upstream;
        let moved = !Arc::ptr_eq(&self.served, &served);
        self.served = served;
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Body, Edit, Store};
    use super::*;

    fn types() -> (TypeUrl, TypeUrl) {
        (TypeUrl::new("type.googleapis.com/a"), TypeUrl::new("type.googleapis.com/b"))
    }

    fn one_name(store: &Store, name: &str) -> Tree {
        let entry = store.entry(name.into(), Body::Absent, Default::default());
        store.edit(&Tree::default(), [Edit::Put(entry)])
    }

    #[test]
    fn what_changes_nothing_moves_no_ref() {
        let (a, _) = types();
        let store = Store::new();
        let mut refs = Refs::default();
        let next = refs.upstream().next([(a.clone(), one_name(&store, "x"))]);
        assert!(refs.commit(next));
        let again = refs.upstream().next([(a, one_name(&store, "x"))]);
        assert!(!refs.commit(again));
        assert_eq!(refs.served().sequence(), 1);
    }

    #[test]
    fn an_empty_tree_put_first_is_a_change() {
        let (a, b) = types();
        let first = Arc::new(Snapshot::default());
        let second = first.next([(a.clone(), Tree::default())]);
        assert!(second.tree(&a).is_some());
        assert_eq!(first.changed(&second).collect::<Vec<_>>(), [&a]);
        let third = second.next([(b.clone(), Tree::default())]).without(std::slice::from_ref(&a));
        assert_eq!(second.changed(&third).collect::<Vec<_>>(), [&a, &b]);
        assert!(third.tree(&a).is_none());
    }

    #[test]
    fn the_past_is_kept_by_who_wants_it() {
        let (a, _) = types();
        let first = Arc::new(Snapshot::default());
        let second = first.next([(a, Tree::default())]);
        assert!(second.parent().is_some_and(|parent| Arc::ptr_eq(&parent, &first)));
        drop(first);
        assert!(second.parent().is_none());
    }
}
