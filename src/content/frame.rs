//! Response bodies, encoded once per content.
//!
//! A frame holds every field of a response but those that belong to a stream:
//! nonce, label and control plane. These go before it (protobuf fields may come
//! in any order), so that one body serves every stream.

use super::entry::{Body, Entry};
use crate::xds::envelope::{WRAPPER, write_duration};
use crate::xds::wire::Writer;
use crate::xds::{Name, Status, TypeUrl};
use bytes::Bytes;
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
#[derive(Debug)]
pub struct Frame {
    pub body: Bytes,
    pub resources: usize,
    pub removed: usize,
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

    pub(super) fn encode(&self) -> Frames {
        let mut done = Vec::new();
        let mut open = Open::new(&self.type_url);
        for (entry, heartbeat) in
            self.resources.iter().map(|entry| (entry, false)).chain(self.heartbeats.iter().map(|entry| (entry, true)))
        {
            let item = self.resource(entry, heartbeat);
            open.add(item, self.split, &mut done);
            open.resources += 1;
        }
        for name in &self.removed {
            let mut item = Writer::default();
            item.bytes(6, name.as_bytes());
            open.add(item, self.split, &mut done);
            open.removed += 1;
        }
        let error_field = if self.encoding == Encoding::Delta { 9 } else { 7 };
        for (name, status) in &self.errors {
            let mut item = Writer::default();
            item.message(error_field, |out| {
                out.message(1, |out| out.string(1, name));
                out.message(2, |out| status.write(out));
            });
            open.add(item, self.split, &mut done);
        }
        if done.is_empty() || open.items > 0 {
            done.push(open.finish());
        }
        done.into()
    }

    fn resource(&self, entry: &Entry, heartbeat: bool) -> Writer {
        let payload = match entry.body() {
            Body::Resource(blob) if !heartbeat => Some(blob),
            _ => None,
        };
        let mut out = Writer::default();
        if self.encoding == Encoding::Delta {
            out.message(2, |out| write_resource(entry, payload, out));
        } else if self.encoding == Encoding::SotwWrapped && (entry.ttl().is_some() || payload.is_none()) {
            out.message(2, |out| {
                out.string(1, WRAPPER);
                out.message(2, |out| write_resource(entry, payload, out));
            });
        } else if let Some(blob) = payload {
            out.message(2, |out| write_any(blob, out));
        }
        out
    }
}

fn write_any(blob: &super::Blob, out: &mut Writer) {
    out.string(1, blob.type_url().as_str());
    if !blob.value().is_empty() {
        out.bytes(2, blob.value());
    }
}

fn write_resource(entry: &Entry, payload: Option<&Arc<super::Blob>>, out: &mut Writer) {
    let attributes = entry.attributes();
    out.string(1, &entry.id().version());
    if let Some(blob) = payload {
        out.message(2, |out| write_any(blob, out));
    }
    if attributes.constraints.is_none() {
        out.string(3, entry.name());
    }
    for alias in &attributes.aliases {
        out.bytes(4, alias.as_bytes());
    }
    if let Some(ttl) = attributes.ttl {
        write_duration(out, 6, ttl);
    }
    if attributes.do_not_cache {
        out.message(7, |out| out.varint(1, 1));
    }
    if let Some(constraints) = &attributes.constraints {
        out.bytes(8, constraints);
    }
    out.raw(&attributes.extra);
}

struct Open {
    out: Writer,
    type_url: TypeUrl,
    items: usize,
    resources: usize,
    removed: usize,
}

impl Open {
    fn new(type_url: &TypeUrl) -> Self {
        let mut out = Writer::default();
        out.string(4, type_url.as_str());
        Self { out, type_url: type_url.clone(), items: 0, resources: 0, removed: 0 }
    }

    fn add(&mut self, item: Writer, split: Option<usize>, done: &mut Vec<Arc<Frame>>) {
        let full = split.is_some_and(|most| self.out.len() + item.len() > most);
        if full && self.items > 0 {
            let next = Self::new(&self.type_url);
            done.push(std::mem::replace(self, next).finish());
        }
        self.out.raw(&item.finish());
        self.items += 1;
    }

    fn finish(self) -> Arc<Frame> {
        Frame { body: self.out.finish(), resources: self.resources, removed: self.removed }.into()
    }
}
