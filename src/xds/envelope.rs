//! Responses as a control plane sends them, and our requests to it.
//!
//! Only the envelope is read. A resource's payload stays the slice of the
//! response that it came in; its owner copies it (DESIGN: blobs own their bytes).

use super::Status;
use super::name::{self, Name};
use super::wire::{Fields, WireError, Writer};
use crate::breaks;
use bytes::Bytes;
use std::fmt;
use std::time::Duration;

/// The type of the wrapper that gives a SotW resource a name and a TTL.
pub const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

/// A discovery response, SotW or delta.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Envelope {
    /// `version_info` or `system_version_info`: the label, which nothing reads.
    pub label: String,
    pub type_url: String,
    pub nonce: String,
    /// `control_plane.identifier`.
    pub control_plane: String,
    pub resources: Vec<Resource>,
    /// Delta: names, or names of variants, that are gone.
    pub removed: Vec<Name>,
    pub errors: Vec<(Name, Status)>,
}

/// One resource, bare or in its wrapper.
#[derive(Clone, Default, PartialEq)]
pub struct Resource {
    /// In normal form. `None` in a bare SotW resource: its name is inside.
    pub name: Option<Name>,
    /// The upstream's version of it; may be empty (C-071).
    pub version: String,
    /// `None` in a heartbeat, and for an alias without a resource (C-085).
    pub payload: Option<Payload>,
    pub aliases: Vec<Name>,
    pub ttl: Option<Duration>,
    pub do_not_cache: bool,
    /// `Resource.resource_name` as it stood, where it carries constraints (C-116).
    pub constraints: Option<Bytes>,
    /// `Resource.metadata` and fields nobody knows, keys included, as they
    /// stood on the wire (C-021, C-147).
    pub extra: Bytes,
}

/// A `google.protobuf.Any`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload {
    pub type_url: String,
    pub value: Bytes,
}

/// Names and sizes, never what is in it: a resource may be a key.
impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("payload", &self.payload)
            .field("aliases", &self.aliases)
            .field("ttl", &self.ttl)
            .field("do_not_cache", &self.do_not_cache)
            .field("constraints", &self.constraints.as_ref().map(Bytes::len))
            .field("extra", &self.extra.len())
            .finish()
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({:?}, {} bytes)", self.type_url, self.value.len())
    }
}

impl Payload {
    fn read(any: Bytes) -> Result<Self, WireError> {
        let mut payload = Self::default();
        for field in Fields::new(any) {
            let field = field?;
            match field.number {
                1 => payload.type_url = field.string()?,
                2 => payload.value = field.bytes()?,
                _ => {}
            }
        }
        Ok(payload)
    }
}

impl Envelope {
    /// Reads a `DiscoveryResponse`.
    pub fn read_sotw(message: Bytes) -> Result<Self, WireError> {
        let mut envelope = Self::default();
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => envelope.label = field.string()?,
                2 => envelope.resources.push(Resource::read_any(field.bytes()?)?),
                4 => envelope.type_url = field.string()?,
                5 => envelope.nonce = field.string()?,
                6 => envelope.control_plane = super::wire::first_string(&field.bytes()?, 1)?,
                7 => envelope.errors.push(read_error(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// Reads a `DeltaDiscoveryResponse`.
    pub fn read_delta(message: Bytes) -> Result<Self, WireError> {
        let mut envelope = Self::default();
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => envelope.label = field.string()?,
                2 => envelope.resources.push(Resource::read(field.bytes()?)?),
                4 => envelope.type_url = field.string()?,
                5 => envelope.nonce = field.string()?,
                6 => envelope.removed.push(name::normal(&field.string()?)),
                7 => envelope.control_plane = super::wire::first_string(&field.bytes()?, 1)?,
                8 => envelope.removed.push(name::normal(&super::wire::first_string(&field.bytes()?, 1)?)),
                9 if breaks::on("C-125") => {}
                9 => envelope.errors.push(read_error(field.bytes()?)?),
                _ => {}
            }
        }
        Ok(envelope)
    }
}

impl Resource {
    /// Reads the `Any` of a SotW response, unwrapping it where it is wrapped.
    fn read_any(any: Bytes) -> Result<Self, WireError> {
        let payload = Payload::read(any)?;
        if payload.type_url == WRAPPER {
            return Self::read(payload.value);
        }
        Ok(Self { payload: Some(payload), ..Self::default() })
    }

    /// Reads an `envoy.service.discovery.v3.Resource`.
    pub fn read(message: Bytes) -> Result<Self, WireError> {
        let mut resource = Self::default();
        let mut extra = Vec::new();
        let mut own_name = String::new();
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => resource.version = field.string()?,
                2 => resource.payload = Some(Payload::read(field.bytes()?)?),
                3 => own_name = field.string()?,
                4 => resource.aliases.push(name::normal(&field.string()?)),
                6 => resource.ttl = Some(read_duration(field.bytes()?)?),
                7 => resource.do_not_cache = read_flag(field.bytes()?)?,
                8 => {
                    let message = field.bytes()?;
                    own_name = super::wire::first_string(&message, 1)?;
                    let constrained = Fields::new(message.clone()).any(|part| part.is_ok_and(|part| part.number == 2));
                    resource.constraints = constrained.then_some(message);
                }
                _ if breaks::on("C-021") => {}
                _ => extra.extend_from_slice(&field.raw),
            }
        }
        resource.name = Some(name::normal(&own_name));
        resource.extra = extra.into();
        Ok(resource)
    }
}

fn read_error(message: Bytes) -> Result<(Name, Status), WireError> {
    let (mut name, mut status) = (String::new(), Status::new(super::code::NOT_FOUND, ""));
    for field in Fields::new(message) {
        let field = field?;
        match field.number {
            1 => name = super::wire::first_string(&field.bytes()?, 1)?,
            2 => status = Status::read(field.bytes()?)?,
            _ => {}
        }
    }
    Ok((name::normal(&name), status))
}

fn read_duration(message: Bytes) -> Result<Duration, WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::new(message) {
        let field = field?;
        match field.number {
            1 => seconds = field.varint()?,
            2 => nanos = field.varint()?,
            _ => {}
        }
    }
    // A negative duration is a very large number here: no TTL runs that long,
    // and none should end at once because of one.
    let nanos = u32::try_from(nanos).unwrap_or(0).min(999_999_999);
    Ok(Duration::new(seconds.min(u64::from(u32::MAX)), nanos))
}

fn read_flag(message: Bytes) -> Result<bool, WireError> {
    for field in Fields::new(message) {
        let field = field?;
        if field.number == 1 {
            return Ok(field.varint()? != 0);
        }
    }
    Ok(false)
}

/// Writes a `google.protobuf.Duration` as field `number`.
pub fn write_duration(out: &mut Writer, number: u32, span: Duration) {
    out.message(number, |out| {
        out.varint(1, span.as_secs());
        out.varint(2, u64::from(span.subsec_nanos()));
    });
}

/// A request of ours to a control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The raw `Node`: in the first request of a stream (C-134).
    pub node: Option<Bytes>,
    pub type_url: String,
    pub nonce: String,
    pub error: Option<Status>,
    pub body: RequestBody,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestBody {
    Sotw { version_info: String, names: Vec<Name> },
    Delta { subscribe: Vec<Name>, unsubscribe: Vec<Name>, initial: Vec<(Name, String)> },
}

impl Default for RequestBody {
    fn default() -> Self {
        Self::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), initial: Vec::new() }
    }
}

impl Request {
    /// The message: a `DiscoveryRequest` or a `DeltaDiscoveryRequest`.
    pub fn message(&self) -> Bytes {
        let mut out = Writer::default();
        match &self.body {
            RequestBody::Sotw { version_info, names } => {
                out.string(1, version_info);
                if let Some(node) = &self.node {
                    out.bytes(2, node);
                }
                for name in names {
                    out.bytes(3, name.as_bytes());
                }
                out.string(4, &self.type_url);
                out.string(5, &self.nonce);
                if let Some(error) = &self.error {
                    out.message(6, |out| error.write(out));
                }
            }
            RequestBody::Delta { subscribe, unsubscribe, initial } => {
                if let Some(node) = &self.node {
                    out.bytes(1, node);
                }
                out.string(2, &self.type_url);
                for name in subscribe {
                    out.bytes(3, name.as_bytes());
                }
                for name in unsubscribe {
                    out.bytes(4, name.as_bytes());
                }
                for (name, version) in initial {
                    out.message(5, |out| {
                        out.string(1, name);
                        out.string(2, version);
                    });
                }
                out.string(6, &self.nonce);
                if let Some(error) = &self.error {
                    out.message(7, |out| error.write(out));
                }
            }
        }
        out.finish()
    }
}
