//! One sidecar's stream, as a value.
//!
//! A [`ServerSession`] holds what one client asked for and what it was sent.
//! It reads no clock and touches no socket: `downstream` feeds it, then drains
//! [`Output`]s until there are none.
//!
//! * Handlers: [`handle_ask`](ServerSession::handle_ask),
//!   [`join`](ServerSession::join), [`offer`](ServerSession::offer),
//!   [`written`](ServerSession::written)
//! * Poll: [`poll_output`](ServerSession::poll_output) after every handler and
//!   at [`deadline`](ServerSession::deadline)
//! * Getters: [`report`](ServerSession::report), [`explain`](ServerSession::explain)
//!
//! Promise: pushes of a type wait for the answer to the one before, at most
//! 5 s; changes that arrive meanwhile collapse into the next. Names just
//! subscribed by delta do not wait.

#[cfg(feature = "breaks")]
mod broken;
mod held;
mod poll;
mod report;
mod subscription;
#[cfg(test)]
mod tests;
mod turn;

pub use report::{NameReport, State, TypeReport, Waiting};

use crate::breaks;
use crate::content::{Frame, Served, Store};
use crate::session::Want;
use crate::xds::ask::{Change, Limits, Named};
use crate::xds::node::{NodeError, NodeLimits};
use crate::xds::types::{Kind, Variant};
use crate::xds::wire::Writer;
use crate::xds::{Ask, Moment, Name, Node, Status, Timing, TypeUrl, code};
use bytes::Bytes;
use held::{Exception, Has, Held};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use subscription::{Shift, Subscription};
use turn::{Answers, Turns};

/// Which types a stream may carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All: ADS.
    Aggregated,
    /// One: a service of that type (C-008).
    Only(TypeUrl),
}

/// What every session of a server shares.
#[derive(Clone, Debug)]
pub struct Settings {
    pub timing: Timing,
    pub limits: Limits,
    pub node_limits: NodeLimits,
    /// Responses that may be split are split above this many bytes (C-172).
    pub split: usize,
    pub legacy_off: Vec<LegacyOff>,
    pub trust: Trust,
    /// A name that cannot be answered while the upstream is away is an error
    /// `UNAVAILABLE` in the response, instead of the end of a cold stream.
    pub cold_errors: bool,
    /// A first request without a node is served as a node of this id (C-006).
    pub default_node: Option<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            limits: Limits::default(),
            node_limits: NodeLimits::default(),
            split: 3_500_000,
            legacy_off: Vec::new(),
            trust: Trust::default(),
            cold_errors: false,
            default_node: None,
        }
    }
}

/// Clients for which an empty first list is not `*` (C-067).
#[derive(Clone, Debug)]
pub struct LegacyOff {
    /// Every type where `None`.
    pub type_url: Option<TypeUrl>,
    /// Prefix of `user_agent_name`.
    pub user_agent_prefix: String,
}

/// Which stated versions are believed when a client comes back (C-094).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trust {
    None,
    /// Those of names that only the wildcard covers.
    #[default]
    Wildcard,
    All,
}

/// What a request was.
#[derive(Clone, Debug)]
pub struct Heard {
    pub kind: HeardKind,
    /// The node, where it came first or changed: the group is to be chosen
    /// (again), the session then to be told by [`ServerSession::join`].
    pub node: Option<Node>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum HeardKind {
    /// The first of its type on this stream.
    First,
    /// Neither ACK nor NACK; stale nonces included.
    Plain,
    Stale,
    /// The turn was closed; `received` is when the newest content of that
    /// response came from upstream.
    Ack {
        received: Option<Moment>,
    },
    Nack(Status),
    /// Health information or a debug type: not served (C-192, C-193).
    Ignored,
}

/// What the choice of a group grants a stream.
#[derive(Clone, Debug, Default)]
pub struct Granted {
    /// Types that are answered as if nothing existed: sensitive ones where the
    /// group's key does not contain the identity.
    pub refused: Vec<TypeUrl>,
}

/// Why a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Rejection {
    /// A gRPC status code.
    pub code: i32,
    pub message: String,
    /// Metric label: a closed set.
    pub reason: &'static str,
}

impl Rejection {
    pub fn new(code: i32, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reason }
    }

    fn invalid(reason: &'static str, message: impl Into<String>) -> Self {
        Self::new(if breaks::on("C-126") { code::INTERNAL } else { code::INVALID_ARGUMENT }, reason, message)
    }
}

#[derive(Clone, Debug)]
pub enum Output {
    Want(Want),
    Send(Response),
    Close(Rejection),
}

/// One response: a prefix of its stream, and a body shared by content.
#[derive(Clone, Debug)]
pub struct Response {
    pub type_url: TypeUrl,
    pub variant: Variant,
    pub nonce: u64,
    /// `version_info` or `system_version_info`.
    pub label: Arc<str>,
    pub frame: Arc<Frame>,
    /// When the newest content of the type came from upstream.
    pub received: Moment,
}

impl Response {
    /// The fields that belong to the stream. The message is this and the
    /// frame's body, in either order.
    pub fn prefix(&self, control_plane: &str) -> Bytes {
        let mut out = Writer::with_capacity(64);
        let label = if breaks::on("C-082") && self.variant == Variant::Delta { "other" } else { &*self.label };
        out.string(1, label);
        out.string(5, &if breaks::on("C-011") { 1 } else { self.nonce }.to_string());
        let field = if self.variant == Variant::Sotw { 6 } else { 7 };
        if !control_plane.is_empty() && !breaks::on("C-019") {
            out.message(field, |out| out.string(1, control_plane));
        }
        out.finish()
    }
}

/// One stream.
#[derive(Debug)]
pub struct ServerSession {
    scope: Scope,
    variant: Variant,
    settings: Arc<Settings>,
    node: Option<KnownNode>,
    granted: Option<Granted>,
    served: Option<Arc<Served>>,
    types: BTreeMap<TypeUrl, TypeState>,
    nonce: u64,
    /// A response was made on this stream.
    spoke: bool,
    outbox: VecDeque<Response>,
    wants: VecDeque<Want>,
    wake: Option<Moment>,
    /// The nonce last handed out by `poll_output`.
    sent: Option<(TypeUrl, u64)>,
}

/// What is kept of a node: not its 61 kB of extensions.
#[derive(Debug)]
struct KnownNode {
    id: String,
    /// Of the message as it stood.
    fingerprint: [u8; 32],
    user_agent: String,
    wrapped: bool,
    heartbeats: bool,
}

/// One (stream, type).
#[derive(Debug)]
struct TypeState {
    subscription: Subscription,
    turns: Turns,
    held: Held,
    /// `initial_resource_versions`, until they can be judged.
    stated: Option<Vec<(Name, String)>>,
    /// Locators that ask for a variant, and whether they were answered (C-116).
    variants: BTreeMap<Name, bool>,
    /// A response is due even if it says nothing (C-036, C-080).
    owed: bool,
    /// No response of this type was made yet.
    silent: bool,
    refused: bool,
    dirty: bool,
    wake: Option<Moment>,
    asked: Moment,
    withheld: Option<Moment>,
    touch: u64,
    label: Option<Arc<str>>,
    facts: Facts,
}

#[derive(Debug, Default)]
struct Facts {
    sent: Option<Moment>,
    acked: Option<Moment>,
    nacked: Option<(Moment, Status)>,
}

// Construction and handlers.
impl ServerSession {
    pub fn new(scope: Scope, variant: Variant, settings: Arc<Settings>) -> Self {
        Self {
            scope,
            variant,
            settings,
            node: None,
            granted: None,
            served: None,
            types: BTreeMap::new(),
            nonce: 0,
            spoke: false,
            outbox: VecDeque::new(),
            wants: VecDeque::new(),
            wake: None,
            sent: None,
        }
    }

    /// One request. Its subscription counts whatever its nonce is (C-048, C-078).
    pub fn handle_ask(&mut self, now: Moment, ask: Ask, store: &Store) -> Result<Heard, Rejection> {
        #[cfg(feature = "breaks")]
        let ask = self.broken_ask(ask)?;
        let type_url = self.type_of(&ask)?;
        if type_url.kind() == Kind::Health && !breaks::on("C-192") {
            // It may come first, and its error is not a NACK (C-192).
            let node = if self.node.is_none() { self.learn(ask.node.as_ref())? } else { None };
            return Ok(Heard { kind: HeardKind::Ignored, node });
        }
        let node = self.learn(ask.node.as_ref())?;
        if self.node.is_none() {
            return Err(Rejection::invalid("no_node", "the first request of a stream must carry a node with an id"));
        }
        if type_url.kind() == Kind::Debug && !breaks::on("C-193") {
            return Ok(Heard { kind: HeardKind::Ignored, node });
        }
        let first = !self.types.contains_key(&type_url);
        let kind = self.answer_of(now, &type_url, &ask, first, store);
        let shift = self.subscribe(&type_url, ask.change, first, store)?;
        self.follow(now, &type_url, shift, first);
        #[cfg(feature = "breaks")]
        self.broken_after(now, &type_url, &kind)?;
        Ok(Heard { kind, node })
    }

    /// The group was chosen: what is refused there. Everything wanted so far
    /// is stated again, to the new group.
    pub fn join(&mut self, granted: Granted) {
        self.wants.clear();
        for (type_url, state) in &mut self.types {
            state.refused = granted.refused.contains(type_url) && !breaks::on("C-198");
            state.dirty = true;
            if !state.refused {
                self.wants.push_back(want(type_url, state));
            }
        }
        self.granted = Some(granted);
    }

    /// The newest state of the group.
    pub fn offer(&mut self, now: Moment, served: &Arc<Served>) {
        let before = self.served.replace(served.clone());
        for (type_url, state) in &mut self.types {
            let was = before.as_ref().and_then(|before| before.of(type_url));
            let same = match (was, served.of(type_url)) {
                (Some(was), Some(is)) => Arc::ptr_eq(was, is),
                (None, None) => true,
                _ => false,
            };
            state.dirty |= !same;
        }
        if before.is_none_or(|before| before.upstream != served.upstream) {
            self.wake = Some(now);
        }
    }

    /// The last byte of the response handed out last was taken by the
    /// transport: its turn runs from here (C-049).
    pub fn written(&mut self, now: Moment) {
        if let Some((type_url, nonce)) = self.sent.take()
            && let Some(state) = self.types.get_mut(&type_url)
        {
            state.turns.written(nonce, now);
            if let Some(expiry) = state.turns.expires(self.settings.timing.turn) {
                self.wake = Some(self.wake.map_or(expiry, |wake| wake.min(expiry)));
            }
        }
    }
}

// The steps of a request.
impl ServerSession {
    /// C-007, C-008.
    fn type_of(&self, ask: &Ask) -> Result<TypeUrl, Rejection> {
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
    fn learn(&mut self, message: Option<&Bytes>) -> Result<Option<Node>, Rejection> {
        let message = match (message, &self.node, &self.settings.default_node) {
            (Some(message), ..) => message.clone(),
            (None, None, Some(id)) => {
                let mut out = Writer::default();
                out.string(1, id);
                out.finish()
            }
            _ => return Ok(None),
        };
        let fingerprint = *blake3::hash(&message).as_bytes();
        if self.node.as_ref().is_some_and(|known| known.fingerprint == fingerprint) {
            return Ok(None);
        }
        let node = Node::read(message, self.settings.node_limits).map_err(reject_node)?;
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
            fingerprint,
            user_agent: node.user_agent_name.clone(),
            wrapped: node.takes_wrapped_resources(),
            heartbeats: node.takes_heartbeats(),
        });
        Ok(Some(node))
    }

    /// What the request's nonce answers (C-046, C-047, C-081, C-099).
    fn answer_of(&mut self, now: Moment, type_url: &TypeUrl, ask: &Ask, first: bool, store: &Store) -> HeardKind {
        let user_agent = self.node.as_ref().map_or("", |node| &node.user_agent);
        let refused = self.granted.as_ref().is_some_and(|granted| granted.refused.contains(type_url));
        let legacy = subscription::legacy_wildcard(type_url, user_agent, &self.settings.legacy_off);
        let state = self.types.entry(type_url.clone()).or_insert_with(|| TypeState::new(now, legacy, refused, store));
        state.dirty = true;
        if first {
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

    fn subscribe(
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
                    && unsubscribe.names.iter().any(|name| &**name == crate::xds::name::WILDCARD);
                if states_interest {
                    subscribe.names.extend(initial.iter().map(|(name, _)| name.clone()));
                }
                if (first || breaks::on("C-091")) && !initial.is_empty() {
                    state.stated = Some(initial);
                }
                state.subscription.edit(&subscribe.names, &unsubscribe.names, store)
            }
        };
        let (count, limit) = (state.subscription.names().len(), self.settings.limits.names);
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
    fn follow(&mut self, now: Moment, type_url: &TypeUrl, shift: Shift, first: bool) {
        let joined = self.granted.is_some();
        let delta = self.variant == Variant::Delta;
        let Some(state) = self.types.get_mut(type_url) else { return };
        let wildcard = state.subscription.wildcard();
        if shift.wildcard_again && !breaks::on("C-073") {
            state.held.forget_all();
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
        for name in shift.asked.iter().filter(|name| !stale || state.held.entry(name).is_none()).collect::<Vec<_>>() {
            state.held.except(name.clone(), Exception::asked());
        }
        state.owed |= shift.nothing || (first && state.owes_first(type_url, delta));
        if !shift.asked.is_empty() || shift.wildcard_added || shift.wildcard_again {
            state.asked = now;
        }
        if joined && !state.refused && (shift.moved || first) {
            self.wants.push_back(want(type_url, state));
        }
    }
}

impl TypeState {
    fn new(now: Moment, legacy: bool, refused: bool, store: &Store) -> Self {
        Self {
            subscription: Subscription::new(legacy, store),
            turns: Turns::default(),
            held: Held::default(),
            stated: None,
            variants: BTreeMap::new(),
            owed: false,
            silent: true,
            refused,
            dirty: true,
            wake: None,
            asked: now,
            withheld: None,
            touch: 0,
            label: None,
            facts: Facts::default(),
        }
    }

    /// Is the first request of a type answered whatever there is? A wildcard
    /// is (C-036, C-080), and so is any subscription to a full-state type in
    /// SotW (C-037).
    fn owes_first(&self, type_url: &TypeUrl, delta: bool) -> bool {
        let none = if delta { breaks::on("C-080") } else { breaks::on("C-036") };
        let named = !delta && type_url.full_state() && !breaks::on("C-037");
        !none && (self.subscription.wildcard() || (named && !self.subscription.is_empty()))
    }

    /// SotW states its locators anew in each request; those answered stay so.
    fn replace_variants(&mut self, named: &Named) {
        let before = std::mem::take(&mut self.variants);
        self.variants =
            named.variants.iter().map(|name| (name.clone(), before.get(name).copied().unwrap_or(false))).collect();
    }
}

fn want(type_url: &TypeUrl, state: &TypeState) -> Want {
    Want {
        type_url: type_url.clone(),
        wildcard: state.subscription.wildcard(),
        names: state.subscription.names().clone(),
    }
}

fn reject_node(error: NodeError) -> Rejection {
    match error {
        NodeError::Wire(_) => Rejection::invalid("malformed", error.to_string()),
        NodeError::MetadataBytes { .. } | NodeError::MetadataDepth { .. } => {
            Rejection::invalid("node_limits", error.to_string())
        }
    }
}

/// The label of a tree that is not the upstream's own (C-044).
fn label_of(base: &str, tree: &crate::content::Tree) -> Arc<str> {
    let base = base.split('~').next().unwrap_or_default();
    let id = tree.id();
    let hash: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{base}~{hash}").into()
}
