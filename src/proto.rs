//! The generated messages under short names.
//!
//! The relay's own path reads and writes envelopes with [`crate::xds::wire`],
//! which keeps what it does not know; these types serve reflection, tools,
//! the benchmark's control plane and tests.

#[allow(clippy::all, unreachable_pub, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/outpost_proto.rs"));
}

pub use generated::envoy::config::core::v3 as core;
pub use generated::envoy::service as services;
pub use generated::envoy::service::discovery::v3 as discovery;
pub use generated::google::protobuf;
pub use generated::google::rpc;

/// The descriptors of everything under `proto/`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
