//! A name with what it stands for.
//!
//! The ids made here are wire and disk format. Each is the BLAKE3 hash of parts
//! with their lengths before them (64 bits, little-endian), of which the first
//! is the kind: no two lists of parts and no two kinds hash alike.

use super::intern::{Home, Interned};
use crate::xds::{Name, Status, TypeUrl};
use bytes::Bytes;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

/// A resource's payload: type and bytes, owned, never decoded (C-021). Equal
/// ones of a [`Store`](super::Store) are one object.
pub struct Blob {
    type_url: TypeUrl,
    value: Bytes,
    id: [u8; 32],
    home: Home<Blob>,
}

/// Never what is in it: a blob may be a key.
impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({}, {} bytes)", self.type_url.short(), self.value.len())
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        self.home.leave(self);
    }
}

impl Interned for Blob {
    fn same(&self, other: &Self) -> bool {
        self.id == other.id
    }

    fn home(&self) -> Option<&Home<Self>> {
        Some(&self.home)
    }
}

impl Blob {
    /// Copies `value`, so that no response is pinned by one of its resources.
    pub(super) fn new(type_url: TypeUrl, value: &[u8], home: Home<Blob>) -> Self {
        let id = Self::id_of(type_url.as_str(), value);
        Self { type_url, value: Bytes::copy_from_slice(value), id, home }
    }

    /// The id of the blob of these bytes.
    pub fn id_of(type_url: &str, value: &[u8]) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new();
        hash_part(&mut hasher, b"blob");
        hash_part(&mut hasher, type_url.as_bytes());
        hash_part(&mut hasher, value);
        *hasher.finalize().as_bytes()
    }

    pub fn type_url(&self) -> &TypeUrl {
        &self.type_url
    }

    pub fn value(&self) -> &Bytes {
        &self.value
    }

    pub fn id(&self) -> &[u8; 32] {
        &self.id
    }
}

/// What a name stands for.
#[derive(Clone, Debug)]
pub enum Body {
    Resource(Arc<Blob>),
    /// A name, known with its aliases, that has no resource (C-085).
    Empty,
    /// Known not to exist (C-118).
    Absent,
    /// Its TTL ran out: absent for who asks, no removal for who holds it (C-132).
    Expired,
    Error(Status),
}

impl Body {
    pub fn blob(&self) -> Option<&Blob> {
        match self {
            Self::Resource(blob) => Some(blob),
            _ => None,
        }
    }

    /// Equal, with blobs by identity.
    fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Resource(a), Self::Resource(b)) => Arc::ptr_eq(a, b),
            (Self::Error(a), Self::Error(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

/// One entry of a tree. Immutable; named by its content. Equal ones of a
/// [`Store`](super::Store) are one object.
#[derive(Debug)]
pub struct Entry {
    name: Name,
    body: Body,
    /// `None` where there are none, as in most.
    attributes: Option<Box<Attributes>>,
    id: EntryId,
    key: u64,
    /// When the history heard of it last; see [`history`](super::history).
    pub(super) noted: AtomicU32,
    home: Home<Entry>,
}

impl Interned for Entry {
    fn same(&self, other: &Self) -> bool {
        self.id == other.id
    }

    fn home(&self) -> Option<&Home<Self>> {
        Some(&self.home)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.home.leave(self);
    }
}

/// What the upstream's wrapper says beside the payload.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Attributes {
    pub aliases: Vec<Name>,
    pub ttl: Option<Duration>,
    pub do_not_cache: bool,
    /// `Resource.resource_name` as it stood, where it carries constraints.
    pub constraints: Option<Bytes>,
    /// Metadata and unknown fields, keys included, as they stood.
    pub extra: Bytes,
}

/// Names and sizes, as of a blob.
impl fmt::Debug for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attributes")
            .field("aliases", &self.aliases)
            .field("ttl", &self.ttl)
            .field("do_not_cache", &self.do_not_cache)
            .field("constraints", &self.constraints.as_ref().map(Bytes::len))
            .field("extra", &self.extra.len())
            .finish()
    }
}

static NO_ATTRIBUTES: Attributes =
    Attributes { aliases: Vec::new(), ttl: None, do_not_cache: false, constraints: None, extra: Bytes::new() };

impl Attributes {
    /// There are none, as in most entries.
    fn is_plain(&self) -> bool {
        self.aliases.is_empty()
            && self.ttl.is_none()
            && !self.do_not_cache
            && self.constraints.is_none()
            && self.extra.is_empty()
    }

    /// With bytes of their own: those read from a response are slices of it.
    fn owned(mut self) -> Self {
        self.constraints = self.constraints.map(|bytes| Bytes::copy_from_slice(&bytes));
        self.extra = Bytes::copy_from_slice(&self.extra);
        self.aliases.shrink_to_fit();
        self
    }
}

/// What an entry is made of, before it is known whether it is held.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) name: Name,
    pub(super) body: Body,
    pub(super) attributes: Attributes,
}

/// In process: blobs by identity.
impl Hash for Draft {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        std::mem::discriminant(&self.body).hash(state);
        match &self.body {
            Body::Resource(blob) => Arc::as_ptr(blob).hash(state),
            Body::Error(status) => status.hash(state),
            Body::Empty | Body::Absent | Body::Expired => {}
        }
        if !self.attributes.is_plain() {
            self.attributes.hash(state);
        }
    }
}

impl Draft {
    pub(super) fn is(&self, entry: &Entry) -> bool {
        let attributes = match &entry.attributes {
            None => self.attributes.is_plain(),
            Some(attributes) => self.attributes == **attributes,
        };
        attributes && self.body.same(&entry.body) && self.name == entry.name
    }
}

impl Entry {
    pub(super) fn new(draft: Draft, key: u64, home: Home<Entry>) -> Self {
        let Draft { name, body, attributes } = draft;
        let id = EntryId::of(&name, &body, &attributes);
        let attributes = (!attributes.is_plain()).then(|| Box::new(attributes.owned()));
        Self { name, body, attributes, id, key, noted: AtomicU32::new(0), home }
    }

    /// Its place in every trie.
    pub(super) fn key(&self) -> u64 {
        self.key
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    pub fn body(&self) -> &Body {
        &self.body
    }

    pub fn attributes(&self) -> &Attributes {
        self.attributes.as_deref().unwrap_or(&NO_ATTRIBUTES)
    }

    pub fn aliases(&self) -> &[Name] {
        &self.attributes().aliases
    }

    pub fn ttl(&self) -> Option<Duration> {
        self.attributes().ttl
    }

    pub fn id(&self) -> EntryId {
        self.id
    }

    /// Something a sidecar may hold: a resource, or a name without one.
    pub fn is_present(&self) -> bool {
        matches!(self.body, Body::Resource(_) | Body::Empty)
    }
}

/// The hash of all that an entry is. Its first half, in hex, is the
/// `Resource.version` that Outpost states (C-071).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EntryId([u8; 32]);

impl EntryId {
    fn of(name: &Name, body: &Body, attributes: &Attributes) -> Self {
        let mut hasher = Parts::default();
        hasher.part(b"entry");
        hasher.part(name.as_bytes());
        match body {
            Body::Resource(blob) => {
                hasher.part(b"resource");
                hasher.part(blob.id());
            }
            Body::Empty => hasher.part(b"empty"),
            Body::Absent => hasher.part(b"absent"),
            Body::Expired => hasher.part(b"expired"),
            Body::Error(status) => {
                hasher.part(b"error");
                hasher.part(&status.code.to_le_bytes());
                hasher.part(status.message.as_bytes());
            }
        }
        hasher.part(&(attributes.aliases.len() as u64).to_le_bytes());
        for alias in &attributes.aliases {
            hasher.part(alias.as_bytes());
        }
        let ttl = attributes.ttl.map_or(u128::MAX, |ttl| ttl.as_nanos());
        hasher.part(&ttl.to_le_bytes());
        hasher.part(&[u8::from(attributes.do_not_cache), u8::from(attributes.constraints.is_some())]);
        hasher.part(attributes.constraints.as_deref().unwrap_or_default());
        hasher.part(&attributes.extra);
        Self(*blake3::hash(&hasher.0).as_bytes())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The half that is stated.
    pub fn half(&self) -> &[u8; 16] {
        let (half, _) = self.0.split_first_chunk().expect("32 bytes");
        half
    }

    /// The version stated downstream: 32 hex digits.
    pub fn version(&self) -> String {
        String::from_utf8_lossy(&self.digits()).into_owned()
    }

    pub(super) fn digits(&self) -> [u8; 32] {
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(self.half()) {
            pair.copy_from_slice(&[HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
        digits
    }

    /// Is the one that `version` states?
    pub fn is_stated_by(&self, version: &str) -> bool {
        parse_version(version).is_some_and(|half| half == *self.half())
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// The half id that a stated version of our form means; `None` for any other.
pub fn parse_version(version: &str) -> Option<[u8; 16]> {
    if version.len() != 32 {
        return None;
    }
    let mut half = [0; 16];
    for (byte, pair) in half.iter_mut().zip(version.as_bytes().chunks_exact(2)) {
        let [high, low] = *pair else { return None };
        *byte = hex(high)? << 4 | hex(low)?;
    }
    Some(half)
}

fn hex(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl fmt::Debug for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.version())
    }
}

/// Many small parts are hashed faster in one piece.
#[derive(Default)]
struct Parts(Vec<u8>);

impl Parts {
    fn part(&mut self, part: &[u8]) {
        if self.0.capacity() == 0 {
            self.0.reserve(512);
        }
        self.0.extend_from_slice(&(part.len() as u64).to_le_bytes());
        self.0.extend_from_slice(part);
    }
}

/// Lengths before contents, so that no two lists of parts hash alike.
pub(super) fn hash_part(hasher: &mut blake3::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}
