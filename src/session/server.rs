//! One sidecar's stream, as a value.
//!
//! A [`ServerSession`] holds what one client asked for and what it was sent.
//! It reads no clock and touches no socket: `downstream` feeds it, then drains
//! [`Output`]s until there are none.
//!
//! * Handlers: [`handle_ask`](ServerSession::handle_ask),
//!   [`join`](ServerSession::join), [`offer`](ServerSession::offer),
//!   [`written`](ServerSession::written); of a private group
//!   [`offer_own`](ServerSession::offer_own), [`hear_passed`](ServerSession::hear_passed)
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
mod listing;
mod order;
mod poll;
mod private;
mod report;
mod request;
mod speech;
mod subscription;
#[cfg(test)]
mod tests;
mod turn;
mod verdict;

pub use listing::{Listed, Listing, Standing};
pub use private::{Demand, Why};
pub use report::{NameReport, State, TypeReport, Waiting};

use crate::breaks;
use crate::content::{Frame, NameSet, Served, Store};
use crate::session::Want;
use crate::xds::ask::{Limits, Named};
use crate::xds::node::NodeLimits;
use crate::xds::types::{Kind, Variant};
use crate::xds::wire::Writer;
use crate::xds::{Ask, Moment, Name, Node, Status, Timing, TypeUrl, code};
use bytes::Bytes;
use held::Held;
use private::Private;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use subscription::Subscription;
use turn::Turns;

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
    /// Health information or a debug type: no subscription; passed on to the
    /// upstream or dropped (C-192, C-193).
    Ignored,
}

/// What the choice of a group grants a stream.
#[derive(Clone, Debug, Default)]
pub struct Granted {
    /// Types that are answered as if nothing existed: sensitive ones where the
    /// group's key does not contain the identity.
    pub refused: Vec<TypeUrl>,
    /// Such types that this stream may ask for in a private group.
    pub private: Vec<TypeUrl>,
    /// Health information is passed on to the upstream (C-192).
    pub health: bool,
    /// So are debug types (C-193).
    pub debug: bool,
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
    /// What the stream asks of a private group is another: see
    /// [`needs_own`](ServerSession::needs_own), [`next_demand`](ServerSession::next_demand).
    Own,
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
    /// It states a whole set and is never split (C-032).
    pub fn is_whole(&self) -> bool {
        self.variant == Variant::Sotw && self.type_url.full_state()
    }

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
    /// What the group serves …
    group: Option<Arc<Served>>,
    /// … what this stream has to do with a group of its own …
    private: Option<Box<Private>>,
    /// … and both, put together. It is to be done anew where it is `stale`.
    served: Option<Arc<Served>>,
    stale: bool,
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
    /// Of the bytes that it was last stated in …
    wire: u64,
    /// … and of what they mean.
    content: u64,
    user_agent: String,
    wrapped: bool,
    heartbeats: bool,
}

/// The most types on one stream. Envoy and Istio know some 20.
const MOST_TYPES: usize = 64;

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
    /// All of it is asked in a private group, and why.
    own: Option<Why>,
    /// Names of it that are.
    apart: Arc<NameSet>,
    dirty: bool,
    wake: Option<Moment>,
    asked: Moment,
    withheld: Option<Moment>,
    touch: u64,
    label: Option<Arc<str>>,
    /// `version_info` of the first request: SotW's word on what the client has.
    version: Box<str>,
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
            group: None,
            private: None,
            served: None,
            stale: false,
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
            self.pass_health(&type_url, &ask);
            return Ok(Heard { kind: HeardKind::Ignored, node });
        }
        let node = self.learn(ask.node.as_ref())?;
        if self.node.is_none() {
            return Err(Rejection::invalid("no_node", "the first request of a stream must carry a node with an id"));
        }
        if type_url.kind() == Kind::Debug && !breaks::on("C-193") {
            return Ok(Heard { kind: self.pass_debug(&type_url, &ask), node });
        }
        let first = !self.types.contains_key(&type_url);
        if first && self.types.len() >= MOST_TYPES {
            return Err(Rejection::new(
                code::RESOURCE_EXHAUSTED,
                "types",
                format!("the stream asks for {type_url} after {MOST_TYPES} other types; ask for fewer on one stream"),
            ));
        }
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
            state.own = private::why(type_url, &state.subscription, &granted).filter(|_| !state.refused);
            state.apart = Arc::default();
            state.dirty = true;
            if !state.refused && state.own.is_none() {
                self.wants.push_back(want(type_url, state));
            }
        }
        self.granted = Some(granted);
        self.join_own();
    }

    /// The newest state of the group.
    pub fn offer(&mut self, now: Moment, served: &Arc<Served>) {
        self.group = Some(served.clone());
        if self.private.is_some() || served.apart {
            self.stale = true;
        } else {
            self.show(now, served);
        }
    }

    /// From now on this is what the stream is compared with.
    fn show(&mut self, now: Moment, served: &Arc<Served>) {
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
            own: None,
            apart: Arc::default(),
            dirty: true,
            wake: None,
            asked: now,
            withheld: None,
            touch: 0,
            label: None,
            version: Box::default(),
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
    Want::new(type_url.clone(), state.subscription.wildcard(), state.subscription.names().clone())
}

/// The label of a tree that is not the upstream's own (C-044).
fn label_of(base: &str, tree: &crate::content::Tree) -> Arc<str> {
    let base = base.split('~').next().unwrap_or_default();
    let id = tree.id();
    let hash: String = id.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{base}~{hash}").into()
}
