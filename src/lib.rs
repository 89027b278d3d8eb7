//! Outpost: a remote control plane for service meshes.

pub mod clock;
pub mod config;
pub mod content;
pub mod group;
pub mod proto;
pub mod session;
pub mod transport;
pub mod xds;
