//! Breaks of rules that no single condition keeps; see [`crate::breaks`].

use super::held::{Exception, Said};
use super::verdict::Has;
use super::{HeardKind, Rejection, Response, Scope, ServerSession, TypeState};
use crate::breaks::on;
use crate::content::{Body, Encoding, Frame, Parts, ServedType, Store};
use crate::xds::ask::{Ask, Change};
use crate::xds::types::{Kind, Variant};
use crate::xds::wire::{Fields, Writer};
use crate::xds::{Moment, Name, TypeUrl, name::Glob};
use bytes::Bytes;
use std::sync::Arc;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

/// What a response says, before it is written.
pub(super) fn parts(parts: &mut Parts) {
    if on("C-032") {
        parts.split = Some(1);
    }
    if on("C-172") {
        parts.split = None;
    }
    if on("C-074") {
        parts.removed.clear();
    }
    if on("C-075") && parts.encoding == Encoding::Delta {
        parts.removed.push("unheard-of".into());
    }
    if on("C-113") {
        parts.removed.retain(|name| Glob::parse(name).is_none());
    }
    if on("C-121") {
        parts.errors.clear();
    }
}

/// Errors of the past are said again.
pub(super) fn repeat_errors(state: &TypeState, of: &ServedType, mut said: Said) -> Said {
    for name in state.subscription.names().iter().filter(|_| on("C-122")) {
        if let Some(Body::Error(status)) = of.tree.get(name).map(|entry| entry.body())
            && said.errors.iter().all(|(other, _)| other != name)
        {
            said.errors.push((name.clone(), status.clone()));
        }
    }
    said
}

impl ServerSession {
    /// A request as it is taken.
    pub(super) fn broken_ask(&mut self, mut ask: Ask) -> Result<Ask, Rejection> {
        let refuse = || Err(Rejection::invalid("broken", "broken on purpose"));
        if matches!(self.scope, Scope::Only(_)) && on("C-001") {
            return refuse();
        }
        if on("C-007") && ask.type_url.is_empty() || on("C-008") && matches!(self.scope, Scope::Only(_)) {
            ask.type_url = CLUSTER.into();
        }
        if on("C-006") && self.node.is_none() && ask.node.is_none() {
            let mut node = Writer::default();
            node.string(1, "nobody");
            ask.node = Some(node.finish());
        }
        let type_url = TypeUrl::new(&ask.type_url);
        let first = !self.types.contains_key(&type_url);
        let names = names_of(&mut ask.change);
        let has = |wanted: &str| names.iter().any(|name| &**name == wanted);
        let nonce = !ask.nonce.is_empty();
        let refused = on("C-013") && has("")
            || on("C-014") && type_url.kind() == Kind::Other && !ask.type_url.is_empty()
            || on("C-015") && nonce && ask.nonce.parse::<u64>().is_err()
            || on("C-052") && !names.is_sorted()
            || on("C-098") && first && nonce
            || on("C-114") && names.iter().any(|name| Glob::parse(name).is_some())
            || on("C-200") && type_url.kind() == Kind::Singleton && ask.node.is_none()
            || on("C-201") && names.iter().any(|name| name.contains(':'));
        if refused {
            return refuse();
        }
        if on("C-055") {
            names.iter_mut().filter(|name| &***name == "*").for_each(|name| *name = "star".into());
        }
        if let Change::Delta { initial, .. } = &ask.change {
            let foreign = |version: &str| version.len() != 32;
            if on("C-095") && initial.iter().any(|(_, version)| foreign(version)) {
                return refuse();
            }
        }
        self.ignore_change(&type_url, first, &mut ask);
        Ok(ask)
    }

    /// Takes no subscription from some requests.
    fn ignore_change(&mut self, type_url: &TypeUrl, first: bool, ask: &mut Ask) {
        let Some(state) = self.types.get_mut(type_url) else { return };
        let current = ask.nonce.parse().is_ok_and(|nonce: u64| nonce == self.nonce);
        let sotw = self.variant == Variant::Sotw;
        let ignored = on("C-018") && state.silent
            || on("C-048") && sotw && !current
            || on("C-078") && !sotw && !ask.nonce.is_empty() && (!current || ask.error.is_some())
            || on("C-100a") && ask.error.is_some();
        if first || !ignored {
            return;
        }
        match &mut ask.change {
            Change::Replace(named) => named.names = state.subscription.names().iter().cloned().collect(),
            Change::Delta { subscribe, unsubscribe, .. } => {
                subscribe.names.clear();
                unsubscribe.names.clear();
            }
        }
    }

    /// What a request leads to beside what it should.
    pub(super) fn broken_after(&mut self, now: Moment, type_url: &TypeUrl, kind: &HeardKind) -> Result<(), Rejection> {
        let (first, ack, nack) =
            (*kind == HeardKind::First, matches!(kind, HeardKind::Ack { .. }), matches!(kind, HeardKind::Nack(_)));
        if on("C-004") || on("C-016") && ack {
            self.node = None;
        }
        if on("C-100b") && nack {
            return Err(Rejection::invalid("broken", "broken on purpose"));
        }
        if on("C-002") && nack {
            self.types.values_mut().for_each(|state| state.turns.push(u64::MAX, u64::MAX, now, now));
        }
        let Some(state) = self.types.get_mut(type_url) else { return Ok(()) };
        state.owed |= on("C-040") && ack || on("C-047") && *kind == HeardKind::Stale || on("C-050") && ack;
        if on("C-047") && *kind == HeardKind::Stale {
            state.turns = Default::default();
        }
        if on("C-003") && ack {
            state.turns.push(u64::MAX, u64::MAX, now, now);
        }
        // Never anything again, as if the client had it all.
        let mute = first && (on("C-045") || on("C-051") || on("C-090"));
        if mute && self.variant == Variant::Sotw {
            state.turns.push(u64::MAX, u64::MAX, now, now);
        }
        if on("C-097") && first && state.stated.is_none() && self.variant == Variant::Delta {
            state.turns.push(u64::MAX, u64::MAX, now, now);
            state.owed = false;
        }
        if nack && (on("C-100") || on("C-100c")) {
            let names: Vec<Name> = state.subscription.names().iter().cloned().collect();
            state.held.forget_all(None);
            for name in names {
                state.held.except(name, Exception::of(Has::Nothing));
            }
            state.owed |= on("C-100");
        }
        Ok(())
    }

    /// What does not exist is stated as a resource without content.
    fn state_absence(&self, response: &mut Response) {
        let type_url = response.type_url.clone();
        let Some(state) = self.types.get(&type_url) else { return };
        for name in state.subscription.names().iter().filter(|name| state.held.entry(name).is_none()) {
            append(response, |out| {
                out.message(2, |any| {
                    any.string(1, type_url.as_str());
                    any.message(2, |payload| payload.string(1, name));
                });
            });
        }
    }

    /// A response as it leaves.
    pub(super) fn broken_response(&mut self, mut response: Response, store: &Store) -> Response {
        if on("C-009") {
            append(&mut response, |out| out.string(4, "type.x/Wrong"));
        }
        if on("C-012")
            && let Some(first) = Fields::new(response.frame.body.clone()).flatten().find(|field| field.number == 2)
        {
            append(&mut response, |out| out.raw(&first.raw));
        }
        if on("C-010") && self.types.len() > 1 {
            append(&mut response, |out| out.string(4, "type.x/Unasked"));
        }
        if on("C-117") && self.variant == Variant::Sotw {
            self.state_absence(&mut response);
        }
        if response.type_url.kind() == Kind::Listener {
            let others = self.types.iter_mut().filter(|(of, _)| **of != response.type_url);
            for (of, state) in others {
                let names: Vec<Name> = state.subscription.names().iter().cloned().collect();
                if on("C-103") && of.kind() == Kind::Route {
                    names.into_iter().for_each(|name| state.held.except(name, Exception::of(Has::Nothing)));
                    state.dirty = true;
                } else if on("C-086") && of.kind() == Kind::ExtensionConfig {
                    let mut parts = Parts::new(of.clone(), Encoding::Delta);
                    parts.removed = names;
                    let frame = store.frames(parts)[0].clone();
                    self.nonce += 1;
                    let synthetic = Response { type_url: of.clone(), nonce: self.nonce, frame, ..response.clone() };
                    self.outbox.push_back(synthetic);
                }
            }
        }
        response
    }
}

fn names_of(change: &mut Change) -> &mut Vec<Name> {
    match change {
        Change::Replace(named) => &mut named.names,
        Change::Delta { subscribe, .. } => &mut subscribe.names,
    }
}

fn append(response: &mut Response, write: impl FnOnce(&mut Writer)) {
    let mut out = Writer::default();
    out.raw(&response.frame.body);
    write(&mut out);
    let body: Bytes = out.finish();
    let (resources, removed) = (response.frame.resources, response.frame.removed);
    response.frame = Arc::new(Frame { body, resources, removed });
}
