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
use super::intern::{Home, Interned, Table};
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

/// What a change of a sibling touches is in front, beside the references.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Node {
    content: Content,
    home: Home<Node>,
    id: OnceLock<[u8; 32]>,
}

#[derive(Debug)]
enum Content {
    Leaf(Box<[Arc<Entry>]>),
    Branch(Branch),
}

#[derive(Debug)]
struct Branch {
    /// Which ways there are.
    ways: u16,
    /// How many are below.
    entries: u32,
    /// What is there, in ascending order.
    children: Box<[Arc<Node>]>,
}

impl Branch {
    fn same(&self, ways: u16, children: &[Arc<Node>]) -> bool {
        self.ways == ways && same(&self.children, children)
    }

    fn child(&self, way: u32) -> Option<&Arc<Node>> {
        let below = self.ways & ((1 << way) - 1);
        (self.ways >> way & 1 == 1).then(|| self.children.get(below.count_ones() as usize)).flatten()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.home.leave(self);
    }
}

impl Interned for Node {
    fn same(&self, other: &Self) -> bool {
        match (&self.content, &other.content) {
            (Content::Leaf(one), Content::Leaf(other)) => same(one, other),
            (Content::Branch(one), Content::Branch(other)) => one.same(other.ways, &other.children),
            _ => false,
        }
    }

    fn home(&self) -> Option<&Home<Self>> {
        Some(&self.home)
    }
}

/// What a node is made of.
pub(super) enum Inside<'a> {
    Leaf(&'a [Arc<Entry>]),
    Branch(&'a [Arc<Node>]),
}

impl Node {
    pub(super) fn inside(&self) -> Inside<'_> {
        match &self.content {
            Content::Leaf(entries) => Inside::Leaf(entries),
            Content::Branch(branch) => Inside::Branch(&branch.children),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.count() as usize
    }

    /// A tree of 2^32 entries does not fit into memory.
    fn count(&self) -> u32 {
        match &self.content {
            Content::Leaf(entries) => entries.len() as u32,
            Content::Branch(branch) => branch.entries,
        }
    }

    /// The hash of the node's kind, with branching and bucket size, and of the
    /// ids below.
    pub(super) fn id(&self) -> &[u8; 32] {
        self.id.get_or_init(|| match &self.content {
            Content::Leaf(entries) => leaf_id(entries),
            Content::Branch(branch) => {
                let mut hasher = blake3::Hasher::new();
                hash_part(&mut hasher, b"branch 16/16");
                hasher.update(&branch.ways.to_le_bytes());
                for child in &branch.children {
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
                Content::Branch(branch) => {
                    node = branch.child(nibble(key, depth))?;
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
            Content::Branch(branch) => self.branches.push(branch.children.iter()),
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
        let is = |node: &Node, entries: &&[_]| matches!(&node.content, Content::Leaf(held) if same(held, entries));
        self.table.intern_small(self.hash(WAYS, entries), entries, is, |entries, home| Node {
            content: Content::Leaf(entries.into()),
            id: OnceLock::new(),
            home,
        })
    }

    /// The branch of `children`, with so many `entries` below.
    fn branch(&self, ways: u16, entries: u32, children: Vec<Arc<Node>>) -> Arc<Node> {
        let hash = self.hash(u32::from(ways) << 8, &children);
        let is = |node: &Node, children: &Vec<_>| match &node.content {
            Content::Branch(branch) => branch.same(ways, children),
            Content::Leaf(_) => false,
        };
        self.table.intern_small(hash, children, is, |children, home| {
            let branch = Branch { ways, entries, children: children.into() };
            Node { content: Content::Branch(branch), id: OnceLock::new(), home }
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
