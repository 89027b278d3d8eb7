//! A generation that is being written: blobs and pieces of trees, each once.
//!
//! Nothing is written over: after a failed write the generation is given up, for
//! nobody knows then what is in the file.

use super::disk::{Disk, Output};
use super::index::{HEAD, data_head};
use super::names;
use super::object::{Link, NO_SUM, Node, Record, RecordBody, Spot, encode_blob, sum};
use super::seal::{Key, Seal, salt};
use super::shelf::{Bad, Shelf};
use crate::content::piece::{Parts, Piece};
use crate::content::{Blob, Tree};
use std::collections::HashMap;
use std::io;

/// Written at once.
const CHUNK: usize = 1 << 20;
/// Levels of a tree: a key has 16 nibbles.
const DEEPEST: usize = 17;

/// Why something could not be kept.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("cannot write ({0})")]
    Io(#[from] io::Error),
    #[error(
        "what is held takes more than --persist-max-bytes ({0} bytes) allows; allow more, or give the directory up"
    )]
    Full(u64),
}

impl SaveError {
    /// Metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Io(error) if error.kind() == io::ErrorKind::StorageFull => "disk_full",
            Self::Io(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem => "read_only",
            Self::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => "permission",
            Self::Io(error) if error.kind() == io::ErrorKind::ResourceBusy => "locked",
            Self::Io(_) => "io",
            Self::Full(_) => "max_bytes",
        }
    }
}

#[derive(Debug)]
pub(super) struct Sink {
    pub(super) generation: u64,
    out: Box<dyn Output>,
    seal: Seal,
    /// Of the file, with what is still in the buffer.
    end: u64,
    /// It may become so long.
    most: u64,
    buffer: Vec<u8>,
    /// Blobs and pieces that are in it, by their ids.
    spots: HashMap<[u8; 32], Spot>,
}

impl Sink {
    pub(super) fn create(disk: &dyn Disk, generation: u64, key: Option<&Key>, most: u64) -> Result<Self, SaveError> {
        let salt = salt()?;
        let out = disk.create(&names::data(generation))?;
        let buffer = data_head(key.is_some(), &salt);
        let seal = Seal::of(key, &salt);
        Ok(Self { generation, out, seal, end: HEAD as u64, most, buffer, spots: HashMap::new() })
    }

    pub(super) fn bytes(&self) -> u64 {
        self.end
    }

    /// What was put is in the file, and stays there.
    pub(super) fn sync(&mut self) -> Result<(), SaveError> {
        self.flush()?;
        Ok(self.out.sync()?)
    }

    fn flush(&mut self) -> Result<(), SaveError> {
        if !self.buffer.is_empty() {
            self.out.write(&self.buffer)?;
            self.buffer.clear();
        }
        Ok(())
    }

    fn put(&mut self, id: [u8; 32], sum: [u8; 16], mut bytes: Vec<u8>) -> Result<Link, SaveError> {
        let full = SaveError::Full(self.most);
        let len = bytes.len() + self.seal.overhead();
        let Some(end) = self.end.checked_add(len as u64).filter(|end| *end <= self.most) else { return Err(full) };
        let Ok(len) = u32::try_from(len) else { return Err(full) };
        self.seal.close(self.end, &mut bytes);
        self.buffer.extend_from_slice(&bytes);
        let spot = Spot { at: self.end, len, sum };
        self.end = end;
        self.spots.insert(id, spot);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(Link { id, spot })
    }

    fn known(&self, id: &[u8; 32]) -> Option<Link> {
        self.spots.get(id).map(|spot| Link { id: *id, spot: *spot })
    }

    /// Writes what of `tree` is not there yet. `None` where the tree is empty.
    pub(super) fn tree(&mut self, tree: &Tree) -> Result<Option<Link>, SaveError> {
        tree.piece().map(|piece| self.piece(piece)).transpose()
    }

    fn piece(&mut self, piece: Piece<'_>) -> Result<Link, SaveError> {
        if let Some(link) = self.known(piece.id()) {
            return Ok(link);
        }
        let node = match piece.parts() {
            Parts::Pieces(below) => {
                Node::Branch(below.into_iter().map(|piece| self.piece(piece)).collect::<Result<_, _>>()?)
            }
            Parts::Entries(entries) => {
                let mut records = Vec::with_capacity(entries.len());
                for entry in entries {
                    let blob = entry.body().blob().map(|blob| self.blob(blob)).transpose()?;
                    records.extend(Record::of(entry, blob));
                }
                Node::Leaf(records)
            }
        };
        self.node(*piece.id(), &node)
    }

    fn node(&mut self, id: [u8; 32], node: &Node) -> Result<Link, SaveError> {
        let bytes = node.encode();
        self.put(id, sum(&bytes), bytes)
    }

    fn blob(&mut self, blob: &Blob) -> Result<Link, SaveError> {
        match self.known(blob.id()) {
            Some(link) => Ok(link),
            None => self.put(*blob.id(), NO_SUM, encode_blob(blob.type_url().as_str(), blob.value())),
        }
    }

    /// Copies a tree of another generation, and checks every byte of it. `Ok(Err(…))`
    /// where that one is bad: nothing refers to what was copied by then.
    pub(super) fn copy(&mut self, from: &Shelf, link: &Link, depth: usize) -> Result<Result<Link, Bad>, SaveError> {
        if let Some(link) = self.known(&link.id) {
            return Ok(Ok(link));
        }
        let mut node = match from.node(&link.spot) {
            Ok(node) => node,
            Err(bad) => return Ok(Err(bad)),
        };
        if depth > DEEPEST {
            return Ok(Err(Bad::Content("a tree")));
        }
        match &mut node {
            Node::Branch(links) => {
                for link in links {
                    match self.copy(from, link, depth + 1)? {
                        Ok(copied) => *link = copied,
                        Err(bad) => return Ok(Err(bad)),
                    }
                }
            }
            Node::Leaf(records) => {
                let links = records.iter_mut().filter_map(|record| match &mut record.body {
                    RecordBody::Blob(link) => Some(link),
                    _ => None,
                });
                for link in links {
                    *link = match self.known(&link.id) {
                        Some(known) => known,
                        None => match from.blob(link) {
                            Ok(bytes) => self.put(link.id, NO_SUM, bytes)?,
                            Err(bad) => return Ok(Err(bad)),
                        },
                    };
                }
            }
        }
        Ok(Ok(self.node(link.id, &node)?))
    }
}
