//! A name with what it stands for.

use crate::xds::{Name, Status, TypeUrl};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A resource's payload: type and bytes, owned, never decoded (C-021).
#[derive(Debug)]
pub struct Blob {
    type_url: TypeUrl,
    value: Bytes,
    id: [u8; 32],
}

impl Blob {
    pub(super) fn new(type_url: TypeUrl, value: Bytes) -> Self {
        let mut hasher = blake3::Hasher::new();
        hash_part(&mut hasher, b"blob");
        hash_part(&mut hasher, type_url.as_str().as_bytes());
        hash_part(&mut hasher, &value);
        Self { type_url, value, id: *hasher.finalize().as_bytes() }
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

/// One entry of a tree. Immutable; named by its content.
#[derive(Debug)]
pub struct Entry {
    pub(super) name: Name,
    pub(super) body: Body,
    pub(super) attributes: Attributes,
    pub(super) id: EntryId,
}

/// What the upstream's wrapper says beside the payload.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    pub aliases: Vec<Name>,
    pub ttl: Option<Duration>,
    pub do_not_cache: bool,
    /// `Resource.resource_name` as it stood, where it carries constraints.
    pub constraints: Option<Bytes>,
    /// Metadata and unknown fields, keys included, as they stood.
    pub extra: Bytes,
}

impl Entry {
    pub(super) fn new(name: Name, body: Body, attributes: Attributes) -> Self {
        let id = EntryId::of(&name, &body, &attributes);
        Self { name, body, attributes, id }
    }

    pub fn name(&self) -> &Name {
        &self.name
    }

    pub fn body(&self) -> &Body {
        &self.body
    }

    pub fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    pub fn aliases(&self) -> &[Name] {
        &self.attributes.aliases
    }

    pub fn ttl(&self) -> Option<Duration> {
        self.attributes.ttl
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
        let mut hasher = blake3::Hasher::new();
        hash_part(&mut hasher, b"entry");
        hash_part(&mut hasher, name.as_bytes());
        match body {
            Body::Resource(blob) => {
                hash_part(&mut hasher, b"resource");
                hash_part(&mut hasher, blob.id());
            }
            Body::Empty => hash_part(&mut hasher, b"empty"),
            Body::Absent => hash_part(&mut hasher, b"absent"),
            Body::Expired => hash_part(&mut hasher, b"expired"),
            Body::Error(status) => {
                hash_part(&mut hasher, b"error");
                hash_part(&mut hasher, &status.code.to_le_bytes());
                hash_part(&mut hasher, status.message.as_bytes());
            }
        }
        hash_part(&mut hasher, &(attributes.aliases.len() as u64).to_le_bytes());
        for alias in &attributes.aliases {
            hash_part(&mut hasher, alias.as_bytes());
        }
        let ttl = attributes.ttl.map_or(u128::MAX, |ttl| ttl.as_nanos());
        hash_part(&mut hasher, &ttl.to_le_bytes());
        hash_part(&mut hasher, &[u8::from(attributes.do_not_cache), u8::from(attributes.constraints.is_some())]);
        hash_part(&mut hasher, attributes.constraints.as_deref().unwrap_or_default());
        hash_part(&mut hasher, &attributes.extra);
        Self(*hasher.finalize().as_bytes())
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The version stated downstream: 32 hex digits.
    pub fn version(&self) -> String {
        self.0[..16].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Is the one that `version` states?
    pub fn is_stated_by(&self, version: &str) -> bool {
        parse_version(version).is_some_and(|half| half == self.0[..16])
    }
}

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

/// Lengths before contents, so that no two lists of parts hash alike.
fn hash_part(hasher: &mut blake3::Hasher, part: &[u8]) {
    hasher.update(&(part.len() as u64).to_le_bytes());
    hasher.update(part);
}
