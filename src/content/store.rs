//! Holds each blob, entry, tree node and set of names once, and remembers what
//! was worked out about them.
//!
//! Content is held weakly: what no tree, frame or stream uses is gone. Diffs,
//! cuts and frames are memoised by the identity of what they are made from,
//! under one byte budget; [`Store::sweep`], called now and then, lets go of
//! those that nobody asked for since the last but one.
//!
//! Promise: trees, entries, blobs and sets of one store with equal content are
//! one object, whoever made them. Objects of different stores must not meet.

use super::entry::{Attributes, Blob, Body, Draft, Entry};
use super::frame::{Encoding, Frames, Parts};
use super::history::History;
use super::intern::Table;
use super::memo::Memo;
use super::names::{Member, NameSet};
use super::recall::{Counters, Kept};
use super::tree::{Edit, Tree};
use super::trie::edit::{Place, Target};
use super::trie::{self, Nodes};
use crate::xds::{Name, TypeUrl};
use std::collections::HashSet;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

/// What memoised diffs and frames may take, unless told otherwise.
pub const MEMO_BUDGET: usize = 64 << 20;

/// The process' content.
#[derive(Debug)]
pub struct Store {
    blobs: Table<Blob>,
    entries: Table<Entry>,
    sets: Table<NameSet>,
    members: Table<Member>,
    nodes: Nodes,
    history: History,
    pub(super) memo: Memo<Kept>,
    pub(super) counters: Counters,
    /// Keyed by the process' start, so that a tenant cannot choose collisions.
    hasher: foldhash::quality::RandomState,
    /// A test may choose collisions.
    key_of: fn(&str) -> u64,
}

/// How much a store holds, and how often it was spared work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub blobs: usize,
    pub entries: usize,
    pub nodes: usize,
    pub name_sets: usize,
    /// Names in these sets, each counted once.
    pub names: usize,
    /// Ids in the history.
    pub remembered: usize,
    /// Bytes of memoised diffs, cuts and frames.
    pub memo_bytes: usize,
    /// Bodies that were encoded; one logical response counts once.
    pub encodes: u64,
    /// Responses that were encoded already.
    pub encodes_spared: u64,
    pub diffs: u64,
    pub diffs_spared: u64,
    pub cuts_spared: u64,
}

impl Store {
    pub fn new() -> Arc<Self> {
        Self::with_memo_budget(MEMO_BUDGET)
    }

    /// A store whose memoised diffs and frames take about `bytes` at most.
    pub fn with_memo_budget(bytes: usize) -> Arc<Self> {
        Arc::new(Self::made(bytes, trie::key_of))
    }

    pub(super) fn made(memo_budget: usize, key_of: fn(&str) -> u64) -> Self {
        Self {
            blobs: Table::default(),
            entries: Table::default(),
            sets: Table::default(),
            members: Table::default(),
            nodes: Nodes::default(),
            history: History::default(),
            memo: Memo::new(memo_budget),
            counters: Counters::default(),
            hasher: Default::default(),
            key_of,
        }
    }

    pub(super) fn hash(&self, of: impl Hash) -> u64 {
        self.hasher.hash_one(of)
    }

    /// The blob of these bytes, which are copied, and hashed by BLAKE3, only if
    /// it is new.
    pub fn blob(&self, type_url: &TypeUrl, value: &[u8]) -> Arc<Blob> {
        let hash = self.hash((type_url, value));
        let is = |blob: &Blob, value: &&[u8]| **blob.value() == **value && blob.type_url() == type_url;
        self.blobs.intern(hash, value, is, |value, home| Blob::new(type_url.clone(), value, home))
    }

    /// The entry of this content. From here on its id is part of the history.
    pub fn entry(&self, name: Name, body: Body, attributes: Attributes) -> Arc<Entry> {
        let draft = Draft { name, body, attributes };
        let make = |draft: Draft, home| {
            let key = (self.key_of)(&draft.name);
            Entry::new(draft, key, home)
        };
        let entry = self.entries.intern(self.hash(&draft), draft, |entry, draft| draft.is(entry), make);
        self.history.note(&entry);
        entry
    }

    /// Was an entry of this half id ever made here? What was is old. See
    /// [`history`](super::history) for how far back this goes.
    pub fn remembers(&self, half: &[u8; 16]) -> bool {
        self.history.remembers(half)
    }

    /// The set of these names, in whatever order and however often.
    pub fn names(&self, mut names: Vec<Name>) -> Arc<NameSet> {
        if !names.is_sorted_by(|a, b| a < b) {
            names.sort_unstable();
            names.dedup();
        }
        let is = |set: &NameSet, names: &Vec<Name>| set.iter().eq(names);
        self.sets.intern(self.hash(&names), names, is, |names, home| {
            NameSet::new(names.into_iter().map(|name| self.member(name)).collect(), home)
        })
    }

    fn member(&self, name: Name) -> Arc<Member> {
        let is = |member: &Member, name: &Name| member.name() == name;
        self.members.intern(self.hash(&name), name, is, |name, home| {
            let key = (self.key_of)(&name);
            Member::new(name, key, home)
        })
    }

    /// `set` and `added`; `set` itself where they are in it.
    pub fn names_with<'a, I>(&self, set: &Arc<NameSet>, added: I) -> Arc<NameSet>
    where
        I: IntoIterator<Item = &'a Name, IntoIter: Clone>,
    {
        let added = added.into_iter();
        if added.clone().all(|name| set.contains(name)) {
            return set.clone();
        }
        self.names(set.iter().cloned().chain(added.cloned()).collect())
    }

    /// `set` but for `removed`; `set` itself where none of them is in it.
    pub fn names_without<'a, I>(&self, set: &Arc<NameSet>, removed: I) -> Arc<NameSet>
    where
        I: IntoIterator<Item = &'a Name, IntoIter: Clone>,
    {
        let removed = removed.into_iter();
        if !removed.clone().any(|name| set.contains(name)) {
            return set.clone();
        }
        let removed: HashSet<&Name> = removed.collect();
        self.names(set.iter().filter(|name| !removed.contains(name)).cloned().collect())
    }

    /// `tree` with `edits`, of which a later one of the same name wins. Costs
    /// the paths that change; many at once share theirs.
    pub fn edit(&self, tree: &Tree, edits: impl IntoIterator<Item = Edit>) -> Tree {
        let place = |edit| match edit {
            Edit::Put(entry) => Place { key: entry.key(), target: Target::Entry(entry) },
            Edit::Remove(name) => Place { key: (self.key_of)(&name), target: Target::Nothing(name) },
        };
        let places = edits.into_iter().map(place).collect();
        Tree::new(self.nodes.edited(tree.root(), places, &mut |replaced| self.history.note(replaced)))
    }

    /// The frames of `parts`, encoded once per content.
    pub fn frames(&self, parts: Parts) -> Frames {
        self.recalled_frames(&parts)
    }

    /// The frames of a step between two trees that many streams take alike:
    /// memoised by its arguments, so that `make` runs once.
    pub fn step_frames(
        &self,
        from: &Tree,
        to: &Tree,
        encoding: Encoding,
        type_url: &TypeUrl,
        make: impl FnOnce() -> Parts,
    ) -> Frames {
        self.recalled_step(from, to, encoding, type_url, make)
    }

    /// Lets go of the diffs and frames that nobody asked for since the last but
    /// one call. Whoever owns the store calls it every few seconds: a memoised
    /// diff keeps the entries that it names.
    pub fn sweep(&self) {
        self.memo.sweep();
    }

    /// Looks at every shard: for metrics and tests.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats {
            blobs: self.blobs.len(),
            entries: self.entries.len(),
            nodes: self.nodes.len(),
            name_sets: self.sets.len(),
            names: self.members.len(),
            remembered: self.history.len(),
            memo_bytes: self.memo.bytes(),
            ..Stats::default()
        };
        self.counters.fill(&mut stats);
        stats
    }
}
