//! The vocabulary of xDS: types, names, nodes, and the envelopes that carry
//! them. Pure: bytes in, values out.
//!
//! * [`types`]: what is known about a `type_url`
//! * [`name`]: resource names, their normal form, and globs
//! * [`node`]: who a client says it is
//! * [`ask`]: a request as a sidecar sends it
//! * [`envelope`]: responses as a control plane sends them, and our requests to it
//! * [`wire`]: protobuf fields, keeping those nobody knows
//! * [`time`]: moments, which only the caller can make
//! * [`token`]: bearer tokens

pub mod ask;
pub mod cluster;
pub mod envelope;
pub mod name;
pub mod naming;
pub mod node;
pub mod time;
pub mod token;
pub mod types;
pub mod web;
pub mod wire;

pub use ask::{Ask, AskError, Change, Limits};
pub use name::{Glob, Name};
pub use node::Node;
pub use time::{Moment, Timing};
pub use token::Token;
pub use types::{Kind, TypeUrl, Variant};

use bytes::Bytes;

/// An error as `google.rpc.Status` states it, with the message as text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Status {
    /// A gRPC code; see [`code`].
    pub code: i32,
    pub message: String,
}

impl Status {
    pub fn new(code: i32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// Reads a `google.rpc.Status`. A message that is no UTF-8 is shown as far
    /// as it is; an empty one is a status all the same (C-099).
    pub fn read(raw: Bytes) -> Result<Self, wire::WireError> {
        let mut status = Self::new(0, "");
        for field in wire::Fields::new(raw) {
            match field? {
                wire::Field { number: 1, value: wire::Value::Varint(code), .. } => {
                    status.code = code as i32;
                }
                wire::Field { number: 2, value: wire::Value::Bytes(text), .. } => {
                    status.message = String::from_utf8_lossy(&text).into_owned();
                }
                _ => {}
            }
        }
        Ok(status)
    }

    pub fn write(&self, out: &mut wire::Writer) {
        out.varint(1, self.code as u64);
        out.string(2, &self.message);
    }
}

/// gRPC status codes that the protocol uses.
pub mod code {
    pub const OK: i32 = 0;
    pub const INVALID_ARGUMENT: i32 = 3;
    pub const NOT_FOUND: i32 = 5;
    pub const PERMISSION_DENIED: i32 = 7;
    pub const RESOURCE_EXHAUSTED: i32 = 8;
    pub const OUT_OF_RANGE: i32 = 11;
    pub const UNIMPLEMENTED: i32 = 12;
    pub const INTERNAL: i32 = 13;
    pub const UNAVAILABLE: i32 = 14;
    pub const UNAUTHENTICATED: i32 = 16;
}
