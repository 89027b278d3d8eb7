//! What differs between two tries. Equal subtrees are one object and cost a
//! comparison of pointers.

use super::{Branch, Content, Node, WAYS, nibble, run};
use crate::content::entry::Entry;
use crate::content::tree::Changed;
use std::cmp::Ordering;
use std::sync::Arc;

/// One side of a place in the trie. A leaf that stands beside a branch is cut
/// into the slices that its entries would be below.
#[derive(Clone, Copy)]
enum Side<'a> {
    Entries(&'a [Arc<Entry>]),
    Branch(&'a Branch),
}

impl<'a> Side<'a> {
    fn of(node: Option<&'a Arc<Node>>) -> Self {
        match node.map(|node| &node.content) {
            None => Self::Entries(&[]),
            Some(Content::Leaf(entries)) => Self::Entries(entries),
            Some(Content::Branch(branch)) => Self::Branch(branch),
        }
    }

    /// What is below `way`; ways are taken in ascending order.
    fn below(&mut self, way: u32, depth: u32) -> Side<'a> {
        match self {
            Self::Branch(branch) => Side::of(branch.child(way)),
            Self::Entries(entries) => {
                let (here, rest) = entries.split_at(run(entries, |entry| nibble(entry.key(), depth), way));
                *entries = rest;
                Self::Entries(here)
            }
        }
    }

    fn is_empty(&self) -> bool {
        matches!(self, Self::Entries([]))
    }
}

pub(in crate::content) fn diff(from: Option<&Arc<Node>>, to: Option<&Arc<Node>>) -> Vec<Changed> {
    let mut changed = Vec::new();
    if from.map(Arc::as_ptr) != to.map(Arc::as_ptr) {
        walk(Side::of(from), Side::of(to), 0, &mut changed);
    }
    changed
}

fn walk(mut from: Side<'_>, mut to: Side<'_>, depth: u32, changed: &mut Vec<Changed>) {
    if let (Side::Entries(from), Side::Entries(to)) = (from, to) {
        return merge(from, to, changed);
    }
    for way in 0..WAYS {
        if let (Side::Branch(before), Side::Branch(after)) = (from, to)
            && before.child(way).map(Arc::as_ptr) == after.child(way).map(Arc::as_ptr)
        {
            continue;
        }
        let (from, to) = (from.below(way, depth), to.below(way, depth));
        if !(from.is_empty() && to.is_empty()) {
            walk(from, to, depth + 1, changed);
        }
    }
}

/// Both lists are sorted by (key, name).
fn merge(mut from: &[Arc<Entry>], mut to: &[Arc<Entry>], changed: &mut Vec<Changed>) {
    loop {
        let order = match (from.first(), to.first()) {
            (None, None) => return,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.key().cmp(&new.key()).then_with(|| old.name().cmp(new.name())),
        };
        let old = if order.is_le() { take(&mut from) } else { None };
        let new = if order.is_ge() { take(&mut to) } else { None };
        match (old, new) {
            (Some(old), Some(new)) if Arc::ptr_eq(old, new) => {}
            (old, new) => changed.extend(old.or(new).map(|entry| Changed {
                name: entry.name().clone(),
                from: old.cloned(),
                to: new.cloned(),
            })),
        }
    }
}

fn take<'a>(entries: &mut &'a [Arc<Entry>]) -> Option<&'a Arc<Entry>> {
    let (first, rest) = entries.split_first()?;
    *entries = rest;
    Some(first)
}
