//! One state that was written: an index, and the data file it speaks of. Read only.
//!
//! Promise: a group is read whole or not at all, and what is read is what was
//! written: a tree must have the id it had, a blob its own.

use super::disk::{Disk, Input};
use super::index::{Group, HEAD, Index, Owner, Refused, Type, read_data_head};
use super::names::Named;
use super::object::{Link, Node, Record, RecordBody, Spot, decode_blob, sum};
use super::seal::{Key, Seal};
use super::wire::Malformed;
use super::{Wall, millis};
use crate::content::{Blob, Body, Edit, Entry, Store, Tree};
use crate::exchange::{Kept, KeptType};
use crate::xds::TypeUrl;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// Levels of a tree: a key has 16 nibbles.
const DEEPEST: usize = 17;

/// Why a group cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Bad {
    #[error("the data file cannot be read ({0})")]
    Unreadable(#[from] std::io::Error),
    #[error("{0} is not what was written")]
    Content(&'static str),
}

impl From<Malformed> for Bad {
    fn from(_: Malformed) -> Self {
        Self::Content("a part of its index")
    }
}

#[derive(Debug)]
pub(super) struct Shelf {
    pub(super) named: Named,
    pub(super) index: Index,
    data: Arc<dyn Input>,
    seal: Seal,
    /// Of the data file.
    len: u64,
    /// Entries read from a leaf, by its place, while somebody has them: groups share
    /// most of theirs.
    leaves: Mutex<HashMap<u64, Vec<Weak<Entry>>>>,
}

impl Shelf {
    /// `named` is an index of `disk`.
    pub(super) fn open(
        disk: &dyn Disk,
        named: Named,
        key: Option<&Key>,
        owner: &Owner,
        largest: u64,
    ) -> Result<Self, Refused> {
        let index = Index::decode(whole(&*disk.open(&named.index())?, largest)?, key, owner)?;
        let data = disk.open(&named.data())?;
        let len = data.len()?;
        let mut head = vec![0; HEAD];
        if len < HEAD as u64 {
            return Err(Refused::Damaged("its data file is cut off"));
        }
        data.read(0, &mut head)?;
        let seal = Seal::of(key, &read_data_head(&head, key)?);
        Ok(Self { named, index, data, seal, len, leaves: Mutex::default() })
    }

    /// Bytes of its data file.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn group(&self, key: &str) -> Option<&Group> {
        self.index.groups.get(key)
    }

    /// What is kept of `group`.
    pub(super) fn load(&self, group: &Group, store: &Store, now: Wall) -> Result<Kept, Bad> {
        let confirmed = group.confirmed.iter().copied().chain(std::iter::repeat(0));
        let types = Type::decode(&group.types)?.into_iter().zip(confirmed);
        let types = types.map(|(of, confirmed)| {
            let left = |at: u64| Duration::from_millis(at.saturating_sub(millis(now)));
            let ago = |at: u64| Duration::from_millis(millis(now).saturating_sub(at));
            Ok(KeptType {
                type_url: TypeUrl::new(&of.type_url),
                tree: self.tree(of.tree.as_ref(), store)?,
                versions: self.tree(of.versions.as_ref(), store)?,
                label: of.label,
                complete: of.complete,
                confirmed: (confirmed > 0).then(|| ago(confirmed)),
                expires: of.expires.iter().map(|(name, at)| (name.as_str().into(), left(*at))).collect(),
            })
        });
        Ok(Kept { types: types.collect::<Result<_, Bad>>()? })
    }

    fn tree(&self, root: Option<&Link>, store: &Store) -> Result<Tree, Bad> {
        let Some(root) = root else { return Ok(Tree::default()) };
        let mut entries = Vec::new();
        self.entries(root, store, 0, &mut entries)?;
        let tree = store.edit(&Tree::default(), entries.into_iter().map(Edit::Put));
        if tree.id() == root.id { Ok(tree) } else { Err(Bad::Content("a tree")) }
    }

    fn entries(&self, link: &Link, store: &Store, depth: usize, into: &mut Vec<Arc<Entry>>) -> Result<(), Bad> {
        if let Some(held) = self.leaves().get(&link.spot.at)
            && let Some(held) = held.iter().map(Weak::upgrade).collect::<Option<Vec<_>>>()
        {
            into.extend(held);
            return Ok(());
        }
        match self.node(&link.spot)? {
            Node::Branch(links) if depth < DEEPEST => {
                links.iter().try_for_each(|link| self.entries(link, store, depth + 1, into))
            }
            Node::Branch(_) => Err(Bad::Content("a tree")),
            Node::Leaf(records) => {
                let read: Vec<_> = records.into_iter().map(|it| self.entry(it, store)).collect::<Result<_, _>>()?;
                self.leaves().insert(link.spot.at, read.iter().map(Arc::downgrade).collect());
                into.extend(read);
                Ok(())
            }
        }
    }

    fn leaves(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Vec<Weak<Entry>>>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, record: Record, store: &Store) -> Result<Arc<Entry>, Bad> {
        let Record { name, body, attributes } = record;
        let body = match body {
            RecordBody::Empty => Body::Empty,
            RecordBody::Absent => Body::Absent,
            RecordBody::Expired => Body::Expired,
            RecordBody::Error(status) => Body::Error(status),
            RecordBody::Blob(link) => {
                let bytes = self.piece(&link.spot)?;
                let (type_url, value) = decode_blob(&bytes)?;
                let blob = store.blob(&TypeUrl::new(type_url), value);
                if *blob.id() != link.id {
                    return Err(Bad::Content("a blob"));
                }
                Body::Resource(blob)
            }
        };
        Ok(store.entry(name, body, attributes))
    }

    /// What stands at `spot`, in its own form.
    pub(super) fn node(&self, spot: &Spot) -> Result<Node, Bad> {
        let bytes = self.piece(spot)?;
        if sum(&bytes) != spot.sum {
            return Err(Bad::Content("a piece of a tree"));
        }
        Ok(Node::decode(&bytes)?)
    }

    /// The bytes of a blob, which is checked.
    pub(super) fn blob(&self, link: &Link) -> Result<Vec<u8>, Bad> {
        let bytes = self.piece(&link.spot)?;
        let (type_url, value) = decode_blob(&bytes)?;
        if Blob::id_of(type_url, value) == link.id { Ok(bytes) } else { Err(Bad::Content("a blob")) }
    }

    fn piece(&self, spot: &Spot) -> Result<Vec<u8>, Bad> {
        let end = spot.at.checked_add(spot.len.into());
        if end.is_none_or(|end| end > self.len) {
            return Err(Bad::Content("the data file, which is cut off,"));
        }
        let mut bytes = vec![0; spot.len as usize];
        self.data.read(spot.at, &mut bytes)?;
        self.seal.open(spot.at, bytes).map_err(|_| Bad::Content("a piece"))
    }
}

fn whole(file: &dyn Input, largest: u64) -> Result<Vec<u8>, Refused> {
    let len = file.len()?;
    if len > largest {
        return Err(Refused::TooLarge);
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| Refused::TooLarge)?];
    file.read(0, &mut bytes)?;
    Ok(bytes)
}
