//! The canonical hash trie under a [`Tree`](super::Tree).
//!
//! Sixteen ways a level, by the nibbles of an entry's key, the highest first.
//! The key is the first 8 bytes of BLAKE3(name): unkeyed, so that every replica
//! builds the same trie. A node over at most [`BUCKET`] entries is a leaf, at
//! every level, and one over more is a branch. Only a leaf below the last
//! nibble may hold more: entries whose keys are equal. Entries of a leaf are
//! sorted by (key, name). So the form depends on the entries alone, not on the
//! order of the edits that led there.
//!
//! Nodes are interned: who has two roots compares pointers, and an equal
//! subtree is skipped whoever built it. A node's id is the hash of its kind and
//! of the ids below, made when it is first asked for.
//!
//! * [`edit`]: one change builds one path
//! * [`diff`]: costs what differs

pub(super) mod diff;
pub(super) mod edit;

use super::entry::{Entry, hash_part};
use super::intern::{Home, Table};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, OnceLock};

/// At most this many entries are a leaf.
pub(super) const BUCKET: usize = 16;
/// Nibbles of a key.
const DEPTH: u32 = 16;
const WAYS: u32 = 16;

/// The place of `name` in every trie.
pub(super) fn key_of(name: &str) -> u64 {
    let hash = blake3::hash(name.as_bytes());
    let (first, _) = hash.as_bytes().split_first_chunk().expect("32 bytes");
    u64::from_be_bytes(*first)
}

fn nibble(key: u64, depth: u32) -> u32 {
    (key >> (4 * (DEPTH - 1 - depth))) as u32 % WAYS
}

/// Where the entries of one nibble end in a sorted list that starts with it.
fn run<T>(sorted: &[T], nibble_of: impl Fn(&T) -> u32, way: u32) -> usize {
    sorted.partition_point(|item| nibble_of(item) <= way)
}

#[derive(Debug)]
pub(super) struct Node {
    content: Content,
    entries: usize,
    id: OnceLock<[u8; 32]>,
    home: Home<Node>,
}

#[derive(Debug)]
enum Content {
    Leaf(Box<[Arc<Entry>]>),
    /// Which ways there are, and what is there, in ascending order.
    Branch(u16, Box<[Arc<Node>]>),
}

impl Drop for Node {
    fn drop(&mut self) {
        self.home.leave(self);
    }
}

impl Node {
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// The hash of the node's kind, with branching and bucket size, and of the
    /// ids below.
    pub(super) fn id(&self) -> &[u8; 32] {
        self.id.get_or_init(|| match &self.content {
            Content::Leaf(entries) => leaf_id(entries),
            Content::Branch(ways, children) => {
                let mut hasher = blake3::Hasher::new();
                hash_part(&mut hasher, b"branch 16/16");
                hasher.update(&ways.to_le_bytes());
                for child in children {
                    hasher.update(child.id());
                }
                *hasher.finalize().as_bytes()
            }
        })
    }

    pub(super) fn get(&self, key: u64, name: &str) -> Option<&Arc<Entry>> {
        let (mut node, mut depth) = (self, 0);
        loop {
            match &node.content {
                Content::Leaf(entries) => {
                    return entries.iter().find(|entry| entry.key() == key && &**entry.name() == name);
                }
                Content::Branch(ways, children) => {
                    node = child(*ways, children, nibble(key, depth))?;
                    depth += 1;
                }
            }
        }
    }
}

fn leaf_id(entries: &[Arc<Entry>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hash_part(&mut hasher, b"leaf 16/16");
    for entry in entries {
        hasher.update(entry.id().as_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The id of a tree without entries: a leaf without any.
pub(super) fn empty_id() -> [u8; 32] {
    leaf_id(&[])
}

fn child(ways: u16, children: &[Arc<Node>], way: u32) -> Option<&Arc<Node>> {
    let below = ways & ((1 << way) - 1);
    (ways >> way & 1 == 1).then(|| children.get(below.count_ones() as usize)).flatten()
}

/// Every entry, by (key, name).
pub(super) struct Iter<'a> {
    branches: Vec<std::slice::Iter<'a, Arc<Node>>>,
    leaf: std::slice::Iter<'a, Arc<Entry>>,
    left: usize,
}

impl<'a> Iter<'a> {
    pub(super) fn new(root: Option<&'a Arc<Node>>) -> Self {
        let mut iter = Self { branches: Vec::new(), leaf: [].iter(), left: 0 };
        if let Some(root) = root {
            iter.left = root.len();
            iter.enter(root);
        }
        iter
    }

    fn enter(&mut self, node: &'a Node) {
        match &node.content {
            Content::Leaf(entries) => self.leaf = entries.iter(),
            Content::Branch(_, children) => self.branches.push(children.iter()),
        }
    }
}

impl<'a> Iterator for Iter<'a> {
    type Item = &'a Arc<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.leaf.next() {
                self.left -= 1;
                return Some(entry);
            }
            match self.branches.last_mut()?.next() {
                Some(node) => self.enter(node),
                None => {
                    self.branches.pop();
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Iter<'_> {}

/// The nodes of one store.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    table: Table<Node>,
    hasher: foldhash::quality::RandomState,
}

impl Nodes {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The leaf of `entries`, which are sorted.
    fn leaf(&self, entries: &[Arc<Entry>]) -> Arc<Node> {
        let hash = self.hash(WAYS, entries);
        let same = |node: &Node| matches!(&node.content, Content::Leaf(held) if same(held, entries));
        self.table.intern(hash, same, |home| Node {
            content: Content::Leaf(entries.into()),
            entries: entries.len(),
            id: OnceLock::new(),
            home,
        })
    }

    fn branch(&self, ways: u16, children: Vec<Arc<Node>>) -> Arc<Node> {
        let hash = self.hash(u32::from(ways) << 8, &children);
        let alike = |node: &Node| matches!(&node.content, Content::Branch(held, nodes) if *held == ways && same(nodes, &children));
        self.table.intern(hash, alike, |home| Node {
            entries: children.iter().map(|child| child.len()).sum(),
            content: Content::Branch(ways, children.iter().cloned().collect()),
            id: OnceLock::new(),
            home,
        })
    }

    /// By pointers: what is below is interned already.
    fn hash<T>(&self, kind: u32, parts: &[Arc<T>]) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(kind);
        for part in parts {
            hasher.write_usize(Arc::as_ptr(part).addr());
        }
        hasher.finish()
    }
}

fn same<T>(a: &[Arc<T>], b: &[Arc<T>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b))
}
