//! The steps of a request: its type, its node, what its nonce answers, and what
//! its names change.

use super::held::Exception;
use super::subscription::{self, Shift};
use super::turn::Answers;
use super::verdict::Has;
use super::{HeardKind, KnownNode, Rejection, Scope, ServerSession, TypeState};
use crate::breaks;
use crate::content::Store;
use crate::xds::ask::Change;
use crate::xds::node::NodeError;
use crate::xds::types::{Kind, Variant};
use crate::xds::wire::Writer;
use crate::xds::{Ask, Moment, Name, Node, TypeUrl, code};
use bytes::Bytes;
use foldhash::quality::FixedState;
use std::hash::BuildHasher;

impl ServerSession {
    /// C-007, C-008.
    pub(super) fn type_of(&self, ask: &Ask) -> Result<TypeUrl, Rejection> {
        match &self.scope {
            Scope::Aggregated if ask.type_url.is_empty() => {
                Err(Rejection::invalid("no_type", "a request on an aggregated stream must state its type_url"))
            }
            Scope::Aggregated => Ok(self.known_type(&ask.type_url)),
            Scope::Only(only) if ask.type_url.is_empty() || ask.type_url == only.as_str() => Ok(only.clone()),
            Scope::Only(only) => Err(Rejection::invalid(
                "wrong_type",
                format!("this service serves {only}; {} belongs on another or on ADS", ask.type_url),
            )),
        }
    }

    fn known_type(&self, url: &str) -> TypeUrl {
        self.types.keys().find(|known| known.as_str() == url).cloned().unwrap_or_else(|| TypeUrl::new(url))
    }

    /// Takes the node of a request. Returns it where it is the first or
    /// differs from the one before (C-004, C-005, C-006).
    pub(super) fn learn(&mut self, message: Option<&Bytes>) -> Result<Option<Node>, Rejection> {
        let message = match (message, &self.node, &self.settings.default_node) {
            (Some(message), ..) => message.clone(),
            (None, None, Some(id)) => {
                let mut out = Writer::default();
                out.string(1, id);
                out.finish()
            }
            _ => return Ok(None),
        };
        let wire = fingerprint([&message[..], &[]]);
        if self.node.as_ref().is_some_and(|known| known.wire == wire) {
            return Ok(None);
        }
        let node = Node::read(message, self.settings.node_limits).map_err(reject_node)?;
        let content = fingerprint([&node.head, &node.extensions]);
        if let Some(known) = self.node.as_mut().filter(|known| known.content == content) {
            // The same, in another order.
            known.wire = wire;
            return Ok(None);
        }
        if node.id.is_empty() && self.node.is_none() {
            return Err(Rejection::invalid("no_node", "node.id is empty; a node must state an id"));
        }
        if let Some(known) = &self.node
            && known.id != node.id
            && !breaks::on("C-005")
        {
            return Err(Rejection::invalid(
                "node_changed",
                format!("node.id changed from {:?} to {:?}; open another stream for another node", known.id, node.id),
            ));
        }
        self.node = Some(KnownNode {
            id: node.id.clone(),
            wire,
            content,
            user_agent: node.user_agent_name.clone(),
            wrapped: node.takes_wrapped_resources(),
            heartbeats: node.takes_heartbeats(),
        });
        Ok(Some(node))
    }

    /// What the request's nonce answers (C-046, C-047, C-081, C-099).
    pub(super) fn answer_of(
        &mut self,
        now: Moment,
        type_url: &TypeUrl,
        ask: &Ask,
        first: bool,
        store: &Store,
    ) -> HeardKind {
        let user_agent = self.node.as_ref().map_or("", |node| &node.user_agent);
        let refused = self.granted.as_ref().is_some_and(|granted| granted.refused.contains(type_url));
        let legacy = subscription::legacy_wildcard(type_url, user_agent, &self.settings.legacy_off);
        let state = self.types.entry(type_url.clone()).or_insert_with(|| TypeState::new(now, legacy, refused, store));
        state.dirty = true;
        if first {
            state.version = ask.version_info.as_str().into();
            return HeardKind::First;
        }
        let old = breaks::on("C-046") && ask.error.is_none() && state.label.as_deref() != Some(&ask.version_info);
        if ask.nonce.is_empty() || self.variant == Variant::Sotw && old {
            return HeardKind::Plain;
        }
        let received = match state.turns.answered(&ask.nonce) {
            Answers::Nothing => return HeardKind::Stale,
            Answers::Beside => None,
            Answers::Turn { received } => Some(received),
        };
        match &ask.error {
            None if breaks::on("C-081") => HeardKind::Plain,
            Some(status) if status.code != 0 || !breaks::on("C-099") => {
                state.facts.nacked = Some((now, status.clone()));
                HeardKind::Nack(status.clone())
            }
            _ => {
                state.facts.acked = Some(now);
                state.facts.nacked = None;
                HeardKind::Ack { received }
            }
        }
    }

    pub(super) fn subscribe(
        &mut self,
        type_url: &TypeUrl,
        change: Change,
        first: bool,
        store: &Store,
    ) -> Result<Shift, Rejection> {
        let Some(state) = self.types.get_mut(type_url) else { return Ok(Shift::default()) };
        let shift = match change {
            Change::Replace(named) => {
                state.replace_variants(&named);
                state.subscription.replace(&named, store)
            }
            Change::Delta { mut subscribe, unsubscribe, initial } => {
                for name in &subscribe.variants {
                    state.variants.insert(name.clone(), false);
                }
                for name in &unsubscribe.variants {
                    state.variants.remove(name);
                }
                let states_interest = type_url.kind() == Kind::Workload
                    && first
                    && !breaks::on("C-195")
                    && unsubscribe.names.iter().any(|name| &**name == crate::xds::name::WILDCARD);
                if states_interest {
                    subscribe.names.extend(initial.iter().map(|(name, _)| name.clone()));
                }
                if (first || breaks::on("C-091")) && !initial.is_empty() {
                    state.stated = Some(initial);
                }
                state.subscription.edit(subscribe.names, &unsubscribe.names, store)
            }
        };
        let count = state.subscription.names().len() + state.variants.len();
        let limit = self.settings.limits.names;
        if count > limit {
            return Err(Rejection::new(
                code::RESOURCE_EXHAUSTED,
                "names",
                format!("{count} names of {type_url} are subscribed, beyond the limit of {limit}; raise --max-names"),
            ));
        }
        Ok(shift)
    }

    /// Draws the consequences of a changed subscription.
    pub(super) fn follow(&mut self, now: Moment, type_url: &TypeUrl, shift: Shift, first: bool) {
        let joined = self.granted.is_some();
        let delta = self.variant == Variant::Delta;
        let Some(state) = self.types.get_mut(type_url) else { return };
        let wildcard = state.subscription.wildcard();
        if shift.wildcard_again && !breaks::on("C-073") {
            let tree = self.served.as_ref().and_then(|served| served.of(type_url)).map(|of| of.tree.clone());
            state.held.forget_all(tree.as_ref());
            state.owed = true;
        } else if shift.wildcard_added {
            if breaks::on("C-061") && !first {
                state.turns.push(u64::MAX, u64::MAX, now, now);
            }
            let asked: std::collections::HashSet<&Name> = shift.asked.iter().collect();
            let kept = state.subscription.names().iter().filter(|name| !asked.contains(name)).chain(&shift.dropped);
            let kept: Vec<Name> = kept.cloned().collect();
            state.held.widen(kept.into_iter());
            let unowed = breaks::on(if delta { "C-080" } else { "C-036" });
            state.owed |= (first || delta) && !unowed;
        }
        for name in &shift.dropped {
            if delta && state.subscription.by_set(name) && !breaks::on("C-062") {
                state
                    .held
                    .except(name.clone(), Exception { answer: true, mention: true, ..Exception::of(Has::Nothing) });
            } else if !(shift.wildcard_added && wildcard) {
                state.held.forget(name);
            }
        }
        state.owed |= !shift.dropped.is_empty() && (delta && breaks::on("C-079") || !delta && breaks::on("C-041"));
        let stale = delta && breaks::on("C-072") || !delta && breaks::on("C-039");
        state.owed |= shift.nothing || (first && state.owes_first(type_url, delta));
        if !shift.asked.is_empty() || shift.wildcard_added || shift.wildcard_again {
            state.asked = now;
        }
        let mut asked = shift.asked;
        if stale {
            asked.retain(|name| state.held.entry(name).is_none());
        }
        state.held.ask(asked);
        if joined && (shift.moved || first) {
            self.restate(type_url, first);
        }
    }
}

/// Tells whether a client states what it stated before. Who makes two nodes alike
/// here hides a change of its own, so it need not be hard.
fn fingerprint(parts: [&[u8]; 2]) -> u64 {
    FixedState::default().hash_one(parts)
}

fn reject_node(error: NodeError) -> Rejection {
    match error {
        NodeError::Wire(_) | NodeError::Twice(_) => Rejection::invalid("malformed", error.to_string()),
        NodeError::MetadataBytes { .. }
        | NodeError::MetadataDepth { .. }
        | NodeError::TextBytes { .. }
        | NodeError::OtherBytes { .. } => Rejection::invalid("node_limits", error.to_string()),
    }
}
