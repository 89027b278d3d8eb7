//! Response bodies, encoded once per content.
//!
//! A frame holds every field of a response but those that belong to a stream:
//! nonce, label and control plane. These go before it (protobuf fields may come
//! in any order), so that one body serves every stream.

use super::entry::{Blob, Entry};
use crate::breaks;
use crate::xds::envelope::{WRAPPER, write_duration};
use crate::xds::wire::{Writer, field_len};
use crate::xds::{Name, Status, TypeUrl};
use bytes::Bytes;
use std::fmt;
use std::sync::Arc;

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    Delta,
    /// SotW, bare.
    Sotw,
    /// SotW, resources that have a TTL in their wrapper (C-129).
    SotwWrapped,
}

/// What a response says. Names are unique over all lists together but for
/// `NOT_FOUND` errors, which delta also lists as removed (C-012, C-123).
#[derive(Clone, Debug)]
pub struct Parts {
    pub type_url: TypeUrl,
    pub encoding: Encoding,
    pub resources: Vec<Arc<Entry>>,
    /// Entries whose TTL is refreshed: written without payload (C-130).
    pub heartbeats: Vec<Arc<Entry>>,
    /// Delta only.
    pub removed: Vec<Name>,
    pub errors: Vec<(Name, Status)>,
    /// Split above this many bytes; `None` where the response must be one
    /// message (C-032, C-172).
    pub split: Option<usize>,
}

/// The body of one response.
pub struct Frame {
    pub body: Bytes,
    pub resources: usize,
    pub removed: usize,
}

/// Never what is in it: a response may hold keys.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { body, resources, removed } = self;
        write!(f, "Frame({} bytes, {resources} resources, {removed} removed)", body.len())
    }
}

/// The bodies of one logical response, in order; at least one.
pub type Frames = Arc<[Arc<Frame>]>;

impl Parts {
    pub fn new(type_url: TypeUrl, encoding: Encoding) -> Self {
        Self {
            type_url,
            encoding,
            resources: Vec::new(),
            heartbeats: Vec::new(),
            removed: Vec::new(),
            errors: Vec::new(),
            split: None,
        }
    }

    /// Says nothing.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.heartbeats.is_empty() && self.removed.is_empty() && self.errors.is_empty()
    }

    /// Sizes first, so that each body is allocated once and each payload is
    /// copied once.
    pub(super) fn encode(&self) -> Frames {
        let prefix = field_len(4, self.type_url.as_str().len());
        let items: Vec<Item<'_>> = self.items().collect();
        let lengths: Vec<usize> = items.iter().map(Item::len).collect();
        let mut frames = Vec::new();
        let (mut start, mut length) = (0, prefix);
        for (at, item) in lengths.iter().enumerate() {
            if at > start && self.split.is_some_and(|most| length + item > most) {
                frames.push(self.frame(&items[start..at], length));
                (start, length) = (at, prefix);
            }
            length += item;
        }
        if frames.is_empty() || start < items.len() {
            frames.push(self.frame(&items[start..], length));
        }
        frames.into()
    }

    fn frame(&self, items: &[Item<'_>], length: usize) -> Arc<Frame> {
        let mut out = Writer::with_capacity(length);
        out.string(4, self.type_url.as_str());
        for item in items {
            item.write(&mut out);
        }
        debug_assert_eq!(out.len(), length, "the size is what is written");
        let count = |kind: fn(&Item<'_>) -> bool| items.iter().filter(|item| kind(item)).count();
        let resources = count(|item| !matches!(item, Item::Removed(_) | Item::Error(..)));
        Frame { body: out.finish(), resources, removed: count(|item| matches!(item, Item::Removed(_))) }.into()
    }

    fn items(&self) -> impl Iterator<Item = Item<'_>> {
        let full = self.resources.iter().filter_map(|entry| self.resource(entry, entry.body().blob()));
        let bare = self.heartbeats.iter().filter_map(|entry| self.resource(entry, None));
        let error_field = if self.encoding == Encoding::Delta { 9 } else { 7 };
        full.chain(bare)
            .chain(self.removed.iter().map(Item::Removed))
            .chain(self.errors.iter().map(move |(name, status)| Item::Error(error_field, error(name, status))))
    }

    /// `None` where SotW has no way to say it.
    fn resource<'a>(&self, entry: &'a Entry, payload: Option<&'a Blob>) -> Option<Item<'a>> {
        match self.encoding {
            Encoding::Delta => Some(Item::Resource(Resource::new(entry, payload))),
            Encoding::SotwWrapped if entry.ttl().is_some() || payload.is_none() => {
                Some(Item::Wrapped(Resource::new(entry, payload)))
            }
            Encoding::Sotw | Encoding::SotwWrapped => payload.map(Item::Bare),
        }
    }
}

/// One element of a repeated field of the response.
enum Item<'a> {
    Bare(&'a Blob),
    Resource(Resource<'a>),
    Wrapped(Resource<'a>),
    Removed(&'a Name),
    Error(u32, Bytes),
}

impl Item<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bare(blob) => field_len(2, any_len(blob)),
            Self::Resource(resource) => field_len(2, resource.length),
            Self::Wrapped(resource) => field_len(2, resource.wrapped_len()),
            Self::Removed(name) => field_len(6, name.len()),
            Self::Error(number, error) => field_len(*number, error.len()),
        }
    }

    fn write(&self, out: &mut Writer) {
        match self {
            Self::Bare(blob) => {
                out.head(2, any_len(blob));
                write_any(blob, out);
            }
            Self::Resource(resource) => {
                out.head(2, resource.length);
                resource.write(out);
            }
            Self::Wrapped(resource) => {
                out.head(2, resource.wrapped_len());
                out.string(1, WRAPPER);
                out.head(2, resource.length);
                resource.write(out);
            }
            Self::Removed(name) => out.bytes(6, name.as_bytes()),
            Self::Error(number, error) => out.bytes(*number, error),
        }
    }
}

fn error(name: &Name, status: &Status) -> Bytes {
    let mut out = Writer::default();
    out.message(1, |out| out.string(1, name));
    out.message(2, |out| status.write(out));
    out.finish()
}

/// `Resource` in its envelope, with its length.
struct Resource<'a> {
    entry: &'a Entry,
    payload: Option<&'a Blob>,
    /// TTL, cache control and all else that few have, ready to write.
    rest: Bytes,
    length: usize,
}

impl<'a> Resource<'a> {
    fn new(entry: &'a Entry, payload: Option<&'a Blob>) -> Self {
        let attributes = entry.attributes();
        let mut rest = Writer::default();
        if breaks::on("C-071") {
            rest.bytes(1, b"");
        }
        for alias in attributes.aliases.iter().filter(|_| !breaks::on("C-147")) {
            rest.bytes(4, alias.as_bytes());
        }
        if let Some(ttl) = attributes.ttl.filter(|_| !breaks::on("C-129")) {
            write_duration(&mut rest, 6, ttl);
        }
        if attributes.do_not_cache {
            rest.message(7, |out| out.varint(1, 1));
        }
        if let Some(constraints) = &attributes.constraints {
            rest.bytes(8, constraints);
        }
        rest.raw(&attributes.extra);
        let mut resource = Self { entry, payload, rest: rest.finish(), length: 0 };
        let name = resource.name().map_or(0, |name| field_len(3, name.len()));
        let payload = payload.map_or(0, |blob| field_len(2, any_len(blob)));
        resource.length = field_len(1, 32) + payload + name + resource.rest.len();
        resource
    }

    /// `None` where `resource_name` says it.
    fn name(&self) -> Option<&str> {
        (self.entry.attributes().constraints.is_none() && !self.entry.name().is_empty()).then_some(self.entry.name())
    }

    fn wrapped_len(&self) -> usize {
        field_len(1, WRAPPER.len()) + field_len(2, self.length)
    }

    fn write(&self, out: &mut Writer) {
        out.bytes(1, &self.entry.id().digits());
        if let Some(blob) = self.payload {
            out.head(2, any_len(blob));
            write_any(blob, out);
        }
        if let Some(name) = self.name() {
            out.string(3, name);
        }
        out.raw(&self.rest);
    }
}

fn any_len(blob: &Blob) -> usize {
    let of = |number, length| if length == 0 { 0 } else { field_len(number, length) };
    of(1, blob.type_url().as_str().len()) + of(2, blob.value().len())
}

fn write_any(blob: &Blob, out: &mut Writer) {
    out.string(1, blob.type_url().as_str());
    if !blob.value().is_empty() {
        out.bytes(2, blob.value());
    }
}
