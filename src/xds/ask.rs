//! A request as a sidecar sends it, SotW or delta, as one value.

use super::Status;
use super::name::{self, Name};
use super::wire::{Field, Fields, WireError, string_pair};
use crate::breaks;
use bytes::Bytes;

/// One discovery request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The raw `Node`, where the request carries one.
    pub node: Option<Bytes>,
    /// As sent; empty on a service of one type (C-008).
    pub type_url: String,
    /// Empty where the request answers nothing.
    pub nonce: String,
    /// Present in a NACK, whatever its code (C-099).
    pub error: Option<Status>,
    /// What SotW calls `version_info`; nothing depends on it (C-045).
    pub version_info: String,
    pub change: Change,
}

/// What a request says about the subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// SotW: the whole list (C-030). Duplicates are removed (C-013).
    Replace(Named),
    Delta {
        subscribe: Named,
        unsubscribe: Named,
        /// Name and version, as the client states them on a new stream (C-091).
        initial: Vec<(Name, String)>,
    },
}

/// Names in normal form, and those locators whose parameters ask for a variant
/// that is not supported (C-116).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// In the order stated, without duplicates.
    pub names: Vec<Name>,
    pub variants: Vec<Name>,
}

impl Default for Change {
    fn default() -> Self {
        Self::Replace(Named::default())
    }
}

/// The most bytes that are kept of a client's reason to reject.
const NACK_TEXT: usize = 4096;

/// What one request may hold. Each is a flag.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Names in one request, and subscribed names of one type on one stream.
    pub names: usize,
    /// Bytes of one name.
    pub name_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 200_000, name_bytes: 4096 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("the request states {count} names or more, beyond the limit of {limit}; raise --max-names")]
    Names { count: usize, limit: usize },
    #[error("a resource name has {bytes} bytes, beyond the limit of {limit}; raise --max-name-bytes")]
    NameBytes { bytes: usize, limit: usize },
    #[error("the type_url has {bytes} bytes, beyond the limit of {limit}; check the client, or raise --max-name-bytes")]
    TypeBytes { bytes: usize, limit: usize },
}

impl Ask {
    /// Reads an `envoy.service.discovery.v3.DiscoveryRequest`.
    pub fn read_sotw(message: Bytes, limits: Limits) -> Result<Self, AskError> {
        let mut ask = Self::default();
        let mut names = Reader::new(limits);
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => ask.version_info = field.string()?,
                2 => ask.node = Some(field.bytes()?),
                3 => names.name(&field.string()?)?,
                4 => ask.type_url = type_url(field, limits)?,
                5 => ask.nonce = field.string()?,
                6 => ask.error = Some(nack(field.bytes()?)?),
                7 => names.locator(field.bytes()?)?,
                _ => {}
            }
        }
        ask.change = Change::Replace(names.finish());
        Ok(ask)
    }

    /// Reads an `envoy.service.discovery.v3.DeltaDiscoveryRequest`.
    pub fn read_delta(message: Bytes, limits: Limits) -> Result<Self, AskError> {
        let mut ask = Self::default();
        let (mut subscribe, mut unsubscribe) = (Reader::new(limits), Reader::new(limits));
        let mut initial = Vec::new();
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => ask.node = Some(field.bytes()?),
                2 => ask.type_url = type_url(field, limits)?,
                3 => subscribe.name(&field.string()?)?,
                4 => unsubscribe.name(&field.string()?)?,
                5 => {
                    let (name, version) = string_pair(field.bytes()?)?;
                    check(&name, initial.len(), limits)?;
                    initial.push((name::normal(&name), version));
                }
                6 => ask.nonce = field.string()?,
                7 => ask.error = Some(nack(field.bytes()?)?),
                8 => subscribe.locator(field.bytes()?)?,
                9 => unsubscribe.locator(field.bytes()?)?,
                _ => {}
            }
        }
        ask.change = Change::Delta { subscribe: subscribe.finish(), unsubscribe: unsubscribe.finish(), initial };
        Ok(ask)
    }
}

fn type_url(field: Field, limits: Limits) -> Result<String, AskError> {
    let url = field.string()?;
    if url.len() > limits.name_bytes {
        return Err(AskError::TypeBytes { bytes: url.len(), limit: limits.name_bytes });
    }
    Ok(url)
}

/// Why a client rejects a response. The text is kept for the status, and cut: a
/// client may quote the whole resource.
fn nack(message: Bytes) -> Result<Status, AskError> {
    let mut status = Status::read(message)?;
    if status.message.len() > NACK_TEXT {
        let end = status.message.floor_char_boundary(NACK_TEXT);
        status.message.truncate(end);
        status.message.push('…');
        status.message.shrink_to_fit();
    }
    Ok(status)
}

fn check(name: &str, before: usize, limits: Limits) -> Result<(), AskError> {
    if before >= limits.names {
        return Err(AskError::Names { count: before + 1, limit: limits.names });
    }
    if name.len() > limits.name_bytes {
        return Err(AskError::NameBytes { bytes: name.len(), limit: limits.name_bytes });
    }
    Ok(())
}

struct Reader {
    limits: Limits,
    named: Named,
}

impl Reader {
    fn new(limits: Limits) -> Self {
        Self { limits, named: Named::default() }
    }

    fn name(&mut self, name: &str) -> Result<(), AskError> {
        check(name, self.named.names.len(), self.limits)?;
        self.named.names.push(name::normal(name));
        Ok(())
    }

    /// A locator without parameters equals its name (C-115).
    fn locator(&mut self, message: Bytes) -> Result<(), AskError> {
        let (mut name, mut plain) = (String::new(), true);
        for field in Fields::new(message) {
            let field = field?;
            match field.number {
                1 => name = field.string()?,
                2 => plain = false,
                _ => {}
            }
        }
        if plain && breaks::on("C-115") {
            return Ok(());
        }
        if plain || breaks::on("C-116") {
            return self.name(&name);
        }
        check(&name, self.named.variants.len(), self.limits)?;
        self.named.variants.push(name::normal(&name));
        Ok(())
    }

    fn finish(mut self) -> Named {
        for list in [&mut self.named.names, &mut self.named.variants] {
            let mut seen = std::collections::HashSet::with_capacity(list.len());
            list.retain(|name| seen.insert(name.clone()));
        }
        self.named
    }
}
