//! Diffs, cuts and frames, worked out once: the memoised half of [`Store`].
//!
//! Everything is found by identity. A key holds weak pointers to what it names,
//! which keeps addresses from being used again and nothing else alive.

use super::entry::Entry;
use super::frame::{Encoding, Frames, Parts};
use super::memo::Slot;
use super::names::NameSet;
use super::store::{Stats, Store};
use super::tree::{Diff, Tree};
use super::trie::{self, Node};
use crate::xds::{Name, Status, TypeUrl};
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

/// Below this many changes a cut is cheaper than finding it.
const CUT_AT_ONCE: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Counters {
    encodes: AtomicU64,
    encodes_spared: AtomicU64,
    diffs: AtomicU64,
    diffs_spared: AtomicU64,
    cuts_spared: AtomicU64,
}

impl Counters {
    pub(super) fn fill(&self, stats: &mut Stats) {
        stats.encodes = self.encodes.load(Relaxed);
        stats.encodes_spared = self.encodes_spared.load(Relaxed);
        stats.diffs = self.diffs.load(Relaxed);
        stats.diffs_spared = self.diffs_spared.load(Relaxed);
        stats.cuts_spared = self.cuts_spared.load(Relaxed);
    }
}

/// What the memo keeps: results of four kinds, under one budget.
#[derive(Clone, Debug)]
pub(super) enum Kept {
    Diff(Arc<Slot<Ends, Arc<Diff>>>),
    Cut(Arc<Slot<CutKey, Arc<[usize]>>>),
    Frames(Arc<Slot<FramesKey, Frames>>),
    Step(Arc<Slot<StepKey, Frames>>),
}

/// Two trees.
#[derive(Debug)]
pub(super) struct Ends(Option<Weak<Node>>, Option<Weak<Node>>);

impl Ends {
    fn of(from: &Tree, to: &Tree) -> Self {
        Self(from.root().map(Arc::downgrade), to.root().map(Arc::downgrade))
    }

    fn are(&self, from: &Tree, to: &Tree) -> bool {
        self.0.as_ref().map(Weak::as_ptr) == from.root().map(Arc::as_ptr)
            && self.1.as_ref().map(Weak::as_ptr) == to.root().map(Arc::as_ptr)
    }
}

#[derive(Debug)]
pub(super) struct CutKey(Weak<Diff>, Weak<NameSet>);

#[derive(Debug)]
pub(super) struct StepKey {
    ends: Ends,
    encoding: Encoding,
    type_url: TypeUrl,
}

#[derive(Debug)]
pub(super) struct FramesKey {
    type_url: TypeUrl,
    encoding: Encoding,
    split: Option<usize>,
    resources: Box<[Weak<Entry>]>,
    heartbeats: Box<[Weak<Entry>]>,
    removed: Box<[Name]>,
    errors: Box<[(Name, Status)]>,
}

impl FramesKey {
    fn of(parts: &Parts) -> Self {
        let weak = |entries: &[Arc<Entry>]| entries.iter().map(Arc::downgrade).collect();
        Self {
            type_url: parts.type_url.clone(),
            encoding: parts.encoding,
            split: parts.split,
            resources: weak(&parts.resources),
            heartbeats: weak(&parts.heartbeats),
            removed: parts.removed.as_slice().into(),
            errors: parts.errors.as_slice().into(),
        }
    }

    fn is(&self, parts: &Parts) -> bool {
        let same = |held: &[Weak<Entry>], entries: &[Arc<Entry>]| {
            held.len() == entries.len() && held.iter().map(Weak::as_ptr).eq(entries.iter().map(Arc::as_ptr))
        };
        self.type_url == parts.type_url
            && self.encoding == parts.encoding
            && self.split == parts.split
            && same(&self.resources, &parts.resources)
            && same(&self.heartbeats, &parts.heartbeats)
            && *self.removed == *parts.removed
            && *self.errors == *parts.errors
    }

    fn bytes(&self) -> usize {
        256 + 8 * (self.resources.len() + self.heartbeats.len()) + 16 * self.removed.len() + 64 * self.errors.len()
    }
}

/// By identity of the entries.
struct ByIdentity<'a>(&'a Parts);

impl Hash for ByIdentity<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Parts { type_url, encoding, resources, heartbeats, removed, errors, split } = self.0;
        (type_url, encoding, split, removed, errors, resources.len()).hash(state);
        for entry in resources.iter().chain(heartbeats) {
            Arc::as_ptr(entry).hash(state);
        }
    }
}

fn address(tree: &Tree) -> usize {
    tree.root().map_or(0, |root| Arc::as_ptr(root).addr())
}

impl Store {
    /// What differs, in the trees' order. Costs what differs, once.
    pub fn diff(&self, from: &Tree, to: &Tree) -> Arc<Diff> {
        if from.same(to) {
            return Arc::default();
        }
        let hash = self.hash(("diff", address(from), address(to)));
        let make = || Kept::Diff(Arc::new(Slot::new(Ends::of(from, to))));
        let kept = self.memo.get_or_put(hash, make);
        let compare = || {
            self.counters.diffs.fetch_add(1, Relaxed);
            Arc::new(Diff { changed: trie::diff::diff(from.root(), to.root()) })
        };
        match kept {
            Kept::Diff(slot) if slot.key.are(from, to) => {
                self.fill(hash, &slot, compare, |diff| diff_bytes(diff), &self.counters.diffs_spared).clone()
            }
            _ => compare(),
        }
    }

    /// The changes that concern `set`, as places in `diff.changed`: those whose
    /// name, or one of whose aliases before or after, is in it (C-084).
    pub fn cut(&self, diff: &Arc<Diff>, set: &Arc<NameSet>) -> Arc<[usize]> {
        let cut = || -> Arc<[usize]> {
            let concerns = |&at: &usize| diff.changed.get(at).is_some_and(|changed| changed.concerns(set));
            (0..diff.changed.len()).filter(concerns).collect()
        };
        if diff.changed.len() < CUT_AT_ONCE {
            return cut();
        }
        let hash = self.hash(("cut", Arc::as_ptr(diff).addr(), Arc::as_ptr(set).addr()));
        let make = || Kept::Cut(Arc::new(Slot::new(CutKey(Arc::downgrade(diff), Arc::downgrade(set)))));
        match self.memo.get_or_put(hash, make) {
            Kept::Cut(slot) if slot.key.0.as_ptr() == Arc::as_ptr(diff) && slot.key.1.as_ptr() == Arc::as_ptr(set) => {
                // The diff's own memory stays as long as its weak pointer does.
                self.fill(hash, &slot, cut, |cut| 256 + 8 * cut.len(), &self.counters.cuts_spared).clone()
            }
            _ => cut(),
        }
    }

    pub(super) fn recalled_frames(&self, parts: &Parts) -> Frames {
        let hash = self.hash(("frames", ByIdentity(parts)));
        let encode = || {
            self.counters.encodes.fetch_add(1, Relaxed);
            parts.encode()
        };
        match self.memo.get_or_put(hash, || Kept::Frames(Arc::new(Slot::new(FramesKey::of(parts))))) {
            Kept::Frames(slot) if slot.key.is(parts) => {
                let bytes = |frames: &Frames| slot.key.bytes() + frames_bytes(frames);
                self.fill(hash, &slot, encode, bytes, &self.counters.encodes_spared).clone()
            }
            _ => encode(),
        }
    }

    pub(super) fn recalled_step(
        &self,
        from: &Tree,
        to: &Tree,
        encoding: Encoding,
        type_url: &TypeUrl,
        make: impl FnOnce() -> Parts,
    ) -> Frames {
        let hash = self.hash(("step", address(from), address(to), encoding, type_url));
        let key = || StepKey { ends: Ends::of(from, to), encoding, type_url: type_url.clone() };
        let kept = self.memo.get_or_put(hash, || Kept::Step(Arc::new(Slot::new(key()))));
        match kept {
            Kept::Step(slot)
                if slot.key.ends.are(from, to) && slot.key.encoding == encoding && slot.key.type_url == *type_url =>
            {
                let encode = || self.recalled_frames(&make());
                // The bodies count here again: they may outlive the frames' own place.
                let bytes = |frames: &Frames| 256 + frames_bytes(frames);
                self.fill(hash, &slot, encode, bytes, &self.counters.encodes_spared).clone()
            }
            _ => self.recalled_frames(&make()),
        }
    }

    /// What `slot` holds. Whoever comes first makes it, and charges the memo.
    fn fill<'a, K, V>(
        &self,
        hash: u64,
        slot: &'a Slot<K, V>,
        make: impl FnOnce() -> V,
        bytes: impl FnOnce(&V) -> usize,
        spared: &AtomicU64,
    ) -> &'a V {
        let mut made = false;
        let value = slot.value.get_or_init(|| {
            made = true;
            make()
        });
        if made {
            self.memo.grow(hash, bytes(value));
        } else {
            spared.fetch_add(1, Relaxed);
        }
        value
    }
}

fn frames_bytes(frames: &Frames) -> usize {
    frames.iter().map(|frame| 128 + frame.body.len()).sum()
}

/// With what it may be the last to hold: the entries that are gone.
fn diff_bytes(diff: &Diff) -> usize {
    let held = |entry: &Arc<Entry>| 256 + entry.body().blob().map_or(0, |blob| blob.value().len());
    256 + diff.changed.iter().map(|changed| 40 + changed.from.as_ref().map_or(0, held)).sum::<usize>()
}
