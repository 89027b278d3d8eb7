//! HTTP/2, gRPC framing and TLS, as both directions need them.
//!
//! xDS streams run on the `h2` crate directly: who writes must know when the
//! peer took the bytes, so that a slow reader costs a place and not a queue,
//! and who reads must never wait for who writes (C-144).
//!
//! * [`frame`]: messages in and out of bytes, pure
//! * [`status`]: how a call ends
//! * [`stream`]: the two halves of one call
//! * [`client`]: connections to a peer
//! * [`server`]: the accept loop and what a connection may do
//! * [`routes`]: services written for tonic, beside our own
//! * [`tls`], [`identity`]: certificates, re-read as they change; who a peer is
//! * [`certificates`]: what their files hold, for checks
//! * [`jwt`], [`jwks`]: bearer tokens, and the keys by which they are signed
//! * [`gate`]: who a caller is, by certificate and token
//! * [`io`]: bytes counted on the wire
//!
//! A leaf: it knows no xDS but a status, and no other module of Outpost but the clock.

pub mod certificates;
pub mod client;
pub mod frame;
pub mod gate;
mod gather;
pub mod identity;
pub mod io;
pub mod jwks;
pub mod jwt;
pub mod routes;
pub mod server;
pub mod status;
pub mod stream;
pub mod tls;

pub use identity::Identity;
