//! Outpost: a remote control plane for service meshes.

pub mod proto;
pub mod xds;
