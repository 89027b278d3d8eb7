//! Push latency, measured: who gets what how fast, and what it costs the WAN.
//!
//! The parts are small and know little of each other; [`crate::demo`] puts them
//! together:
//!
//! * [`mesh`]: the resources of an invented mesh and the changes it goes
//!   through, the same for the same seed
//! * [`plane`]: a control plane that serves a mesh by ADS, delta and SotW
//! * [`wan`]: a TCP relay with delay, bandwidth, outages and byte counts
//! * [`sidecar`], [`swarm`]: receivers over real HTTP/2 connections that know
//!   names and versions only
//! * [`ledger`]: which change reached whom when
//! * [`histogram`], [`rpc`]: latencies in constant memory; gRPC streams on h2
//!
//! Promise: the load is open loop. A change has an intended time, latency counts
//! from there, and a version that was skipped counts until the one that
//! replaced it, so a slow path cannot hide behind the load it holds up.

pub mod histogram;
pub mod ledger;
pub mod mesh;
pub mod plane;
pub mod rpc;
pub mod sidecar;
pub mod swarm;
pub mod wan;
