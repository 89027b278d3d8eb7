//! Outpost: a remote control plane for service meshes.
//!
//! It runs in a remote cluster, subscribes to a managed control plane over a
//! few connections, keeps the configuration, and serves it by xDS to every
//! sidecar near it. This page is the tour; the binary only calls [`app`].
//!
//! # One idea: configuration is content
//!
//! A resource's payload is a [blob](content::Blob), a name with what it stands
//! for is an [entry](content::Entry), the entries of a type are a
//! [tree](content::Tree), and each is held once in the [store](content::Store)
//! and named by the hash of what it is. So an upstream that sends everything
//! again moves nothing, a thousand groups that differ in three listeners cost
//! three listeners, and the difference of any two trees costs what differs. The
//! version that sidecars see is the entry's id.
//!
//! # The path of a change
//!
//! ```text
//!            managed control plane, or files
//!                     │ response
//!  upstream     ClientSession: checks the envelope, makes an Update ─┐ ACK after commit
//!                     │                                              │
//!  exchange     GroupState: commits it, publishes what is served ◀───┘
//!                     │ a hint to those whom it concerns
//!  downstream   ServerSession, one a stream: what it has against what is served
//!                     │ a prefix of the stream, a body shared by content
//!                  sidecars
//! ```
//!
//! Interest goes the other way: a sidecar's subscription is a
//! [`Want`](session::Want), the union of a group's wants is what
//! [`upstream`] subscribes to.
//!
//! # Where to read
//!
//! The rules of the protocol first. These modules are pure: time is an
//! argument, effects are values.
//!
//! 1. [`xds`]: types, names, nodes, requests and responses
//! 2. [`content`]: blobs, entries, trees, differences, frames
//! 3. [`session::server`]: one sidecar's stream as a value
//! 4. [`session::client`]: our stream on a control plane as a value
//! 5. [`exchange::core`]: one group: interest up, what is served down
//! 6. [`group`]: which nodes share what
//!
//! Then the wiring and, last, the sockets.
//!
//! 7. [`exchange`]: all groups, in process
//! 8. [`upstream`]: drives client sessions over few connections, or serves a
//!    directory of [`files`]; [`persist`]: the disk cache of what groups hold
//! 9. [`downstream`]: drives server sessions, one task a stream
//! 10. [`transport`]: HTTP/2, gRPC frames, TLS; [`traces`]: one of each patch
//! 11. [`config`], [`cli`], [`admin`], [`logs`]: the operator's side, and [`descriptors`]
//!     for whatever shows or reads resources as JSON
//! 12. [`app`]: joins them; [`bench`](mod@bench) and [`demo`] measure and show them
//!
//! # Promises
//!
//! * Loss of a connection is never a deletion (C-137), and with a disk cache a restart
//!   without the control plane is none either.
//! * A response is acknowledged upstream only after it was committed (C-135).
//! * A slow sidecar costs its place in a tree, and delays nobody (C-143).
//! * Bytes of a resource pass through untouched (C-021).
//!
//! `C-nnn` names a rule of the protocol: `tests/RULES.md` explains each and says
//! which transcript shows it.

#![cfg_attr(not(test), warn(clippy::too_many_lines))]

pub mod admin;
pub mod app;
pub mod bell;
pub mod bench;
pub mod breaks;
pub mod cli;
pub mod clock;
pub mod config;
pub mod content;
pub mod demo;
pub mod descriptors;
pub mod downstream;
pub mod exchange;
pub mod files;
pub mod group;
pub mod logs;
pub mod persist;
pub mod proto;
pub mod quiet;
pub mod session;
pub mod traces;
pub mod transport;
pub mod upstream;
pub mod xds;
mod yaml;
