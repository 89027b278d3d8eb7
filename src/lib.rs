//! Outpost: a remote control plane for service meshes.

pub mod admin;
pub mod app;
pub mod bench;
pub mod cli;
pub mod clock;
pub mod config;
pub mod content;
pub mod demo;
pub mod downstream;
pub mod exchange;
pub mod group;
pub mod logs;
pub mod proto;
pub mod session;
pub mod transport;
pub mod upstream;
pub mod xds;
