//! The pieces that a tree is made of, for who writes it elsewhere.
//!
//! Trees share pieces: who writes each piece once, by its id, writes of the next
//! tree what differs.

use super::entry::Entry;
use super::tree::Tree;
use super::trie::{Inside, Node};
use std::sync::Arc;

/// A subtree.
#[derive(Clone, Copy, Debug)]
pub struct Piece<'a>(&'a Node);

/// What a piece is made of.
#[derive(Debug)]
pub enum Parts<'a> {
    Entries(&'a [Arc<Entry>]),
    Pieces(Vec<Piece<'a>>),
}

impl Tree {
    /// The whole of it; `None` where it is empty.
    pub fn piece(&self) -> Option<Piece<'_>> {
        self.root().map(|root| Piece(root))
    }
}

impl<'a> Piece<'a> {
    /// Equal where the content is.
    pub fn id(self) -> &'a [u8; 32] {
        self.0.id()
    }

    pub fn parts(self) -> Parts<'a> {
        match self.0.inside() {
            Inside::Leaf(entries) => Parts::Entries(entries),
            Inside::Branch(children) => Parts::Pieces(children.iter().map(|child| Piece(child)).collect()),
        }
    }
}
