//! What clients wanted and may not have, in the log under the target `audit`.
//!
//! Promise: one line for the first of a kind in a minute, and few for those after
//! it; a kind is an identity, or else an address, and a reason. What a peer says is
//! escaped. No token and no content is part of it.

use crate::quiet::Quiet;
use crate::xds::Moment;
use std::sync::Arc;

/// Of whom it is told.
#[derive(Clone, Copy)]
pub(super) struct Subject<'a> {
    pub(super) peer: &'a Arc<str>,
    pub(super) identity: Option<&'a str>,
}

pub(super) struct Audit(Quiet<(String, &'static str)>);

/// Kinds that are remembered.
const KINDS: usize = 1000;
/// Longer texts of a peer are cut.
const LONGEST: usize = 300;

impl Default for Audit {
    fn default() -> Self {
        Self(Quiet::new(1, KINDS))
    }
}

impl Audit {
    /// `detail` is partly the peer's text.
    pub(super) fn note(&self, now: Moment, of: Subject<'_>, reason: &'static str, detail: &str, text: &'static str) {
        // The port of an address changes with each try.
        let host = of.peer.rsplit_once(':').map_or(&**of.peer, |(host, _)| host);
        let Some(others) = self.0.due(now, &(of.identity.unwrap_or(host).to_owned(), reason)) else { return };
        let detail: String = detail.chars().take(LONGEST).collect();
        tracing::warn!(
            target: "audit", peer = %of.peer, identity = ?of.identity.unwrap_or_default(), reason, ?detail, others, "{text}"
        );
    }
}
