//! The protocol as values: no sockets, no clock, no randomness.
//!
//! * [`server`]: one sidecar's stream
//! * [`client`]: our stream on one control plane

pub mod client;
pub mod server;

use crate::content::NameSet;
use crate::xds::{Moment, Name, Status, TypeUrl, envelope};
use std::sync::Arc;

/// Everything one stream wants of one type. It replaces what the stream
/// wanted before; nothing wanted is `wildcard: false` and no names.
#[derive(Clone, Debug)]
pub struct Want {
    pub type_url: TypeUrl,
    pub wildcard: bool,
    /// Names, and globs as they stand. Shared: equal sets are one object.
    pub names: Arc<NameSet>,
}

/// What one upstream response says, validated. The owner of the group's
/// content applies it, then tells the session so that it can ACK.
#[derive(Clone, Debug)]
pub struct Update {
    pub type_url: TypeUrl,
    /// `version_info` or `system_version_info`.
    pub label: Arc<str>,
    /// `control_plane.identifier`, empty where the upstream says none.
    pub control_plane: Arc<str>,
    /// Every name is known here. Without payload: a heartbeat where the
    /// resource is held and a TTL stands, else a name without a resource.
    pub resources: Vec<envelope::Resource>,
    /// Authoritatively gone or absent (C-118).
    pub removed: Vec<Name>,
    pub errors: Vec<(Name, Status)>,
    /// SotW, full-state type or members without names: `resources` is all there
    /// is of what was asked, so that other *held* names are gone (C-118b).
    pub whole: bool,
    /// This is an answer to a subscription to `*`.
    pub answers_wildcard: bool,
    pub received: Moment,
}
