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
use std::borrow::Cow;
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

    pub(super) fn group(&self, key: &str) -> Option<&Group> {
        self.index.groups.get(key)
    }

    /// Does any group hold anything of one of these types?
    pub(super) fn has_any(&self, types: &[TypeUrl]) -> bool {
        let held = |group: &Group| Type::decode(&group.types).unwrap_or_default();
        let is = |of: &Type| types.iter().any(|url| url.as_str() == of.type_url);
        self.index.groups.values().any(|group| held(group).iter().any(is))
    }

    /// What is kept of `group`.
    pub(super) fn load(&self, group: &Group, store: &Store, now: Wall) -> Result<Kept, Bad> {
        let confirmed = group.confirmed.iter().copied().chain(std::iter::repeat(0));
        let types = Type::decode(&group.types)?.into_iter().zip(confirmed);
        let types = types.map(|(of, confirmed)| {
            // No clock that was set back makes a TTL longer than it was.
            let since = millis(now).max(self.index.written);
            let left = |at: u64| Duration::from_millis(at.saturating_sub(since));
            let ago = |at: u64| Duration::from_millis(millis(now).saturating_sub(at));
            let type_url = TypeUrl::new(&of.type_url);
            Ok(KeptType {
                tree: self.tree(of.tree.as_ref(), &type_url, store)?,
                versions: self.tree(of.versions.as_ref(), &type_url, store)?,
                type_url,
                label: of.label,
                complete: of.complete,
                confirmed: (confirmed > 0).then(|| ago(confirmed)),
                expires: of.expires.iter().map(|(name, at)| (name.as_str().into(), left(*at))).collect(),
                apart: of.apart.iter().map(|name| name.as_str().into()).collect(),
            })
        });
        Ok(Kept { types: types.collect::<Result<_, Bad>>()? })
    }

    fn tree(&self, root: Option<&Link>, type_url: &TypeUrl, store: &Store) -> Result<Tree, Bad> {
        let Some(root) = root else { return Ok(Tree::default()) };
        let load = Load { shelf: self, type_url, store };
        let entries = load.whole(root)?;
        let tree = store.edit(&Tree::default(), entries.into_iter().map(Edit::Put));
        if tree.id() == root.id { Ok(tree) } else { Err(Bad::Content("a tree")) }
    }

    fn leaves(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Vec<Weak<Entry>>>> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner)
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
        let bytes = self.bytes(spot.at, spot.len.into())?;
        self.seal.open(spot.at, bytes).map_err(|_| Bad::Content("a piece"))
    }

    fn bytes(&self, at: u64, len: u64) -> Result<Vec<u8>, Bad> {
        let end = at.checked_add(len);
        if end.is_none_or(|end| end > self.len) {
            return Err(Bad::Content("the data file, which is cut off,"));
        }
        let mut bytes = vec![0; len as usize];
        self.data.read(at, &mut bytes)?;
        Ok(bytes)
    }
}

/// A tree of more than these bytes is read by several threads.
const MUCH: u64 = 8 << 20;
const THREADS: usize = 4;
/// What is between blobs that are read at once.
const GAP: u64 = 64 << 10;

/// One tree that is being read.
#[derive(Clone, Copy)]
struct Load<'a> {
    shelf: &'a Shelf,
    type_url: &'a TypeUrl,
    store: &'a Store,
}

/// Bytes of the data file that were read at once.
struct Region {
    at: u64,
    bytes: Vec<u8>,
}

impl Load<'_> {
    /// All entries, in whatever order.
    fn whole(self, root: &Link) -> Result<Vec<Arc<Entry>>, Bad> {
        let mut entries = Vec::new();
        let links = match self.shelf.node(&root.spot)? {
            // What is below stands before it.
            Node::Branch(links) if links.first().is_some_and(|first| root.spot.at > first.spot.at + MUCH) => links,
            _ => return self.below(root, 0, &mut entries).map(|()| entries),
        };
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS);
        let share = links.len().div_ceil(threads).max(1);
        let read = |links: &[Link]| {
            let mut entries = Vec::new();
            links.iter().try_for_each(|link| self.below(link, 1, &mut entries)).map(|()| entries)
        };
        std::thread::scope(|scope| {
            let parts: Vec<_> = links.chunks(share).map(|links| scope.spawn(move || read(links))).collect();
            for part in parts {
                entries.extend(part.join().map_err(|_| Bad::Content("a tree, which could not be read,"))??);
            }
            Ok(entries)
        })
    }

    fn below(self, link: &Link, depth: usize, into: &mut Vec<Arc<Entry>>) -> Result<(), Bad> {
        if let Some(held) = self.shelf.leaves().get(&link.spot.at)
            && let Some(held) = held.iter().map(Weak::upgrade).collect::<Option<Vec<_>>>()
        {
            into.extend(held);
            return Ok(());
        }
        match self.shelf.node(&link.spot)? {
            Node::Branch(links) if depth < DEEPEST => {
                links.iter().try_for_each(|link| self.below(link, depth + 1, into))
            }
            Node::Branch(_) => Err(Bad::Content("a tree")),
            Node::Leaf(records) => {
                let region = self.region(&records)?;
                let read = records.into_iter().map(|record| self.entry(record, &region));
                let read: Vec<_> = read.collect::<Result<_, _>>()?;
                self.shelf.leaves().insert(link.spot.at, read.iter().map(Arc::downgrade).collect());
                into.extend(read);
                Ok(())
            }
        }
    }

    /// The blobs of a leaf, which mostly stand beside each other.
    fn region(self, records: &[Record]) -> Result<Region, Bad> {
        let spots = records.iter().filter_map(|record| match &record.body {
            RecordBody::Blob(link) => Some(link.spot),
            _ => None,
        });
        let sum: u64 = spots.clone().map(|spot| u64::from(spot.len)).sum();
        let end = spots.clone().map(|spot| spot.at.saturating_add(spot.len.into())).max().unwrap_or_default();
        let at = spots.map(|spot| spot.at).min().unwrap_or_default();
        let bytes = if end - at <= sum + GAP { self.shelf.bytes(at, end - at)? } else { Vec::new() };
        Ok(Region { at, bytes })
    }

    fn entry(self, record: Record, region: &Region) -> Result<Arc<Entry>, Bad> {
        let Record { name, body, attributes } = record;
        let body = match body {
            RecordBody::Empty => Body::Empty,
            RecordBody::Absent => Body::Absent,
            RecordBody::Expired => Body::Expired,
            RecordBody::Error(status) => Body::Error(status),
            RecordBody::Blob(link) => {
                let bytes = match region.part(&link.spot) {
                    Some(bytes) => Cow::Borrowed(bytes),
                    None => Cow::Owned(self.shelf.bytes(link.spot.at, link.spot.len.into())?),
                };
                let opened = self.shelf.seal.opened(link.spot.at, bytes).map_err(|_| Bad::Content("a blob"))?;
                let (type_url, value) = decode_blob(&opened)?;
                let blob = match type_url == self.type_url.as_str() {
                    true => self.store.blob(self.type_url, value),
                    false => self.store.blob(&TypeUrl::new(type_url), value),
                };
                if *blob.id() != link.id {
                    return Err(Bad::Content("a blob"));
                }
                Body::Resource(blob)
            }
        };
        Ok(self.store.entry(name, body, attributes))
    }
}

impl Region {
    fn part(&self, spot: &Spot) -> Option<&[u8]> {
        let from = usize::try_from(spot.at.checked_sub(self.at)?).ok()?;
        self.bytes.get(from..)?.get(..spot.len as usize)
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
