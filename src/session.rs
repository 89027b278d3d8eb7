//! The protocol as values: no sockets, no clock, no randomness.
//!
//! * [`server`]: one sidecar's stream
//! * [`client`]: our stream on one control plane

pub mod client;
pub mod server;

use crate::content::NameSet;
use crate::xds::{Kind, Moment, Name, Status, TypeUrl, envelope};
use std::fmt;
use std::sync::Arc;

/// Everything one stream wants of one type. It replaces what the stream
/// wanted before; nothing wanted is `wildcard: false` and no names.
#[derive(Clone, Debug)]
pub struct Want {
    pub type_url: TypeUrl,
    pub wildcard: bool,
    /// Names, and globs as they stand. Shared: equal sets are one object.
    pub names: Arc<NameSet>,
    /// Of a group: names that nobody wanted for a while that the upstream may not
    /// have noticed. Nothing is kept of them, so they must be asked again. Each has a
    /// number of its own; a higher one came later.
    pub again: Arc<[(u64, Name)]>,
}

impl Want {
    pub fn new(type_url: TypeUrl, wildcard: bool, names: Arc<NameSet>) -> Self {
        Self { type_url, wildcard, names, again: Arc::default() }
    }
}

/// A request that is no subscription, passed on as it is over the upstream stream
/// of a private group: health information (C-192) and debug types (C-193).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// Ascending on one stream of a sidecar.
    pub number: u64,
    pub type_url: TypeUrl,
    pub names: Vec<Name>,
    pub error: Option<Status>,
}

impl Pass {
    /// One answer comes. Nothing answers health information: the newest is stated
    /// again on each new stream.
    pub fn is_answered(&self) -> bool {
        self.type_url.kind() == Kind::Debug
    }
}

/// The answer to a [`Pass`]: it is handed on once, and kept nowhere.
#[derive(Clone, Debug)]
pub struct Passed {
    pub number: u64,
    pub resources: Vec<envelope::Resource>,
    pub received: Moment,
}

/// What one upstream response says, validated. The owner of the group's
/// content applies it, then tells the session so that it can ACK.
#[derive(Clone)]
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
    /// Asked for so long ago without a word that they do not exist, unless they are
    /// held: silence takes nothing away (C-118c).
    pub silent: Vec<Name>,
    pub errors: Vec<(Name, Status)>,
    /// SotW, full-state type or members without names: `resources` is all there
    /// is of what was asked, so that other *held* names are gone (C-118b).
    pub whole: bool,
    /// This is an answer to a subscription to `*`.
    pub answers_wildcard: bool,
    pub received: Moment,
}

/// Names, never what is in the resources: one may be a key.
impl fmt::Debug for Update {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.resources.iter().map(|resource| &resource.name).collect();
        f.debug_struct("Update")
            .field("type_url", &self.type_url.as_str())
            .field("label", &self.label)
            .field("resources", &names)
            .field("removed", &self.removed)
            .field("silent", &self.silent)
            .field("errors", &self.errors)
            .field("whole", &self.whole)
            .field("answers_wildcard", &self.answers_wildcard)
            .field("received", &self.received)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Attributes, Body, Encoding, Parts, Store};
    use bytes::Bytes;

    #[test]
    fn no_secret_is_in_a_text_for_debugging() {
        const SECRET: &str = "hunter2";
        let store = Store::new();
        let sds = TypeUrl::from_short("sds").unwrap();
        let payload = envelope::Payload { type_url: sds.as_str().into(), value: Bytes::from_static(SECRET.as_bytes()) };
        let extra = Bytes::from_static(SECRET.as_bytes());
        let constraints = Some(extra.clone());
        let resource = envelope::Resource {
            name: Some("key".into()),
            payload: Some(payload),
            constraints: constraints.clone(),
            extra: extra.clone(),
            ..Default::default()
        };
        let blob = store.blob(&sds, SECRET.as_bytes());
        let attributes = Attributes { constraints, extra, ..Attributes::default() };
        let entry = store.entry("key".into(), Body::Resource(blob.clone()), attributes);
        let mut parts = Parts::new(sds.clone(), Encoding::Delta);
        parts.resources.push(entry.clone());
        let frames = store.frames(parts.clone());
        let envelope = envelope::Envelope { resources: vec![resource.clone()], ..Default::default() };
        let update = Update {
            type_url: sds,
            label: "v1".into(),
            control_plane: "".into(),
            resources: vec![resource],
            removed: Vec::new(),
            errors: Vec::new(),
            whole: false,
            silent: Vec::new(),
            answers_wildcard: false,
            received: Moment::START,
        };
        let bytes = format!("{:?}", SECRET.as_bytes());
        for text in [
            format!("{blob:?}"),
            format!("{entry:#?}"),
            format!("{parts:?}"),
            format!("{frames:?}"),
            format!("{envelope:?}"),
            format!("{update:?}"),
        ] {
            assert!(!text.contains(SECRET) && !text.contains(&bytes), "{text}");
            assert!(text.len() > 10, "{text}");
        }
        assert!(format!("{update:?}").contains("key"), "the name may be told");
    }
}
