//! The generated messages under short names.
//!
//! The relay's own path reads and writes envelopes with [`crate::xds::wire`],
//! which keeps what it does not know; these types serve reflection, tools,
//! the benchmark's control plane and tests.

#[allow(clippy::all, clippy::too_many_lines, unreachable_pub, missing_docs)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/outpost_proto.rs"));
}

pub use generated::envoy::admin::v3 as admin;
pub use generated::envoy::config::cluster::v3 as cluster;
pub use generated::envoy::config::core::v3 as core;
pub use generated::envoy::config::endpoint::v3 as endpoint;
pub use generated::envoy::config::listener::v3 as listener;
pub use generated::envoy::config::route::v3 as route;
pub use generated::envoy::extensions::filters::http::{
    lua::v3 as lua, on_demand::v3 as on_demand, router::v3 as router,
};
pub use generated::envoy::extensions::filters::network::http_connection_manager::v3 as http_connection_manager;
pub use generated::envoy::extensions::transport_sockets::tls::v3 as tls;
pub use generated::envoy::service as services;
pub use generated::envoy::service::discovery::v3 as discovery;
pub use generated::envoy::service::runtime::v3 as runtime;
pub use generated::envoy::service::status::v3 as status;
pub use generated::envoy::r#type::matcher::v3 as matcher;
pub use generated::google::protobuf;
pub use generated::google::rpc;

/// The descriptors of everything under `proto/`, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// A message with its `type.googleapis.com/...` name: how a resource, or an
/// extension's configuration, travels.
pub fn pack<M: prost::Message + prost::Name>(message: &M) -> protobuf::Any {
    protobuf::Any { type_url: M::type_url(), value: message.encode_to_vec().into() }
}
