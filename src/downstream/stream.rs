//! One stream of one sidecar: its sockets, its session and its place in a group.
//!
//! The task waits for whatever comes first, lets the session hear of it, and
//! then lets it speak as far as the transport takes bytes. A lock on the session
//! is held for one step of it, never while waiting.

mod ending;
mod news;
mod own;
mod pace;
mod wait;

use super::audit::Subject;
use super::clients::{Client, Entered, Known};
use super::metrics::OpenStream;
use super::{Policy, Shared};
use crate::bell::{Aside, Bell};
use crate::breaks;
use crate::clock::{Alarm, Clock};
use crate::content::{Served, Sight, Store};
use crate::exchange::{Credential, Member};
use crate::group::{self, Allowed, Assigned};
use crate::session::Want;
use crate::session::server::{HeardKind, Output, Rejection, Response, Scope, ServerSession};
use crate::transport::server::{Call, Peer};
use crate::transport::status;
use crate::transport::stream::{Messages, RecvError, Sender};
use crate::transport::{Identity, jwt};
use crate::xds::name::WILDCARD;
use crate::xds::{Ask, AskError, Change, Moment, Name, Node, Status, TypeUrl, Variant, code};
use bytes::Bytes;
pub(super) use ending::Ends;
use futures_util::FutureExt;
use h2::Reason;
use own::Own;
use pace::Pace;
use std::sync::{Arc, Mutex};
use wait::Event;

/// Serves one stream until it ends.
pub(super) async fn run(shared: Arc<Shared>, call: Call, scope: Scope, variant: Variant, service: &'static str) {
    let caller = Caller { peer: call.peer.clone(), identity: call.identity.clone() };
    let policy = shared.policy.borrow().clone();
    let Some((messages, sender)) = call.accept(policy.message_limit, &shared.budget) else {
        return shared.parts.metrics.rejected("not_grpc");
    };
    let reason = Stream::new(&shared, policy, &caller, (messages, sender), (scope, variant, service)).run().await;
    shared.parts.metrics.ended(reason);
}

/// Who is at the other end.
struct Caller {
    peer: Arc<Peer>,
    identity: Option<Identity>,
}

struct Stream<'a> {
    shared: &'a Arc<Shared>,
    policy: Arc<Policy>,
    listed: Entered,
    _open: OpenStream,
    variant: Variant,
    identity: Option<group::Identity>,
    /// The token by which the group's upstream stream may be opened.
    credential: Option<Credential>,
    messages: Messages,
    sender: Sender,
    member: Option<Member>,
    /// The member of the group before: it leaves when the new one wants what
    /// this stream wants (N-08).
    leaving: Option<Member>,
    offered: Option<Arc<Served>>,
    /// Which names it may have, and what is served without the others.
    allowed: Allowed,
    sight: Sight,
    /// Types that it is refused altogether.
    refused: Vec<TypeUrl>,
    /// The group of this stream alone, where it needs one.
    own: Own,
    /// Its group serves something else.
    wake: Arc<Bell>,
    /// What is seldom ready: a place, the end, and the alarm.
    aside: Aside,
    alarm: Alarm,
    /// The response whose bytes are handed over.
    flight: Option<Flight>,
    pace: Pace,
    ends: Ends,
    /// Deadlines that passed one after the other, without anything else.
    alarms: u32,
    /// How the stream ends, as soon as the bytes that wait are gone.
    closing: Option<Closing>,
}

struct Flight {
    type_url: TypeUrl,
    bytes: usize,
    received: Moment,
    /// When difference and encoding began and ended.
    prepared: (Moment, Moment),
}

struct Closing {
    status: Status,
    reason: &'static str,
}

impl<'a> Stream<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        policy: Arc<Policy>,
        caller: &Caller,
        (messages, sender): (Messages, Sender),
        (scope, variant, service): (Scope, Variant, &'static str),
    ) -> Self {
        let now = shared.parts.clock.now();
        let session = Arc::new(Mutex::new(ServerSession::new(scope, variant, policy.session.clone())));
        let Caller { peer, identity: proven } = caller;
        let identity = proven.as_ref().map(|identity| group::Identity::new(identity.as_str()));
        let named = proven.as_ref().map(|identity| Arc::from(identity.as_str()));
        let listed = shared
            .clients
            .enter(|stream| Client::new(stream, peer.address.clone(), named, service, variant, now, session));
        let label = if variant == Variant::Delta { "delta" } else { "sotw" };
        Self {
            shared,
            policy,
            listed,
            _open: shared.parts.metrics.opened(service, label),
            variant,
            identity,
            credential: credential(shared, proven.as_ref()),
            messages,
            sender,
            member: None,
            leaving: None,
            offered: None,
            allowed: Allowed::default(),
            sight: Sight::default(),
            refused: Vec::new(),
            own: Own::default(),
            wake: Arc::default(),
            aside: Aside::new(),
            alarm: Alarm::new(shared.parts.clock.clone()),
            flight: None,
            pace: Pace::new(now),
            ends: Ends::new(peer.ending(), token_ends(proven.as_ref(), &shared.parts.clock)),
            alarms: 0,
            closing: None,
        }
    }

    /// Returns why it ended: a metric label.
    async fn run(mut self) -> &'static str {
        loop {
            let event = self.next().await;
            let now = self.now();
            self.alarms = if matches!(event, Event::Time) { self.alarms.saturating_add(1) } else { 0 };
            match event {
                Event::Message(Some(Ok(message))) => self.hear(now, message),
                // Half-close: the client is done (C-016).
                Event::Message(None) => self.close("client", Status::new(code::OK, "")),
                Event::Message(Some(Err(RecvError::Frame(error)))) => {
                    let rejection = Rejection::new(error.code(), error.reason(), error.to_string());
                    self.reject(rejection);
                }
                Event::Message(Some(Err(RecvError::Http(_)))) | Event::Flushed(Err(_)) => return "client_reset",
                Event::Flushed(Ok(())) => self.written(now),
                Event::Woken => {
                    // Only who presented a token can be asked; the others take no lock of the group.
                    let may_be = self.credential.is_some();
                    if may_be && (self.member.as_ref().is_some_and(Member::is_asked_back) || self.own.is_asked_back()) {
                        self.close("asked_back", Status::new(code::OK, ""));
                    }
                }
                Event::Ending => {}
                Event::Place(place) => self.own.placed(place),
                Event::Time => {
                    if let Some(reason) = self.on_time(now) {
                        return reason;
                    }
                }
            }
            self.speak(now);
            if let Some(closing) = self.closing.take_if(|_| self.sender.waiting() == 0) {
                // An error means that the client has gone first.
                let _ = self.sender.end(status::trailers(&closing.status));
                return closing.reason;
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    fn now(&self) -> Moment {
        self.shared.parts.clock.now()
    }

    /// Looks at everything that is due but the session, which is asked anyway.
    /// `Some`: the stream is over.
    fn on_time(&mut self, now: Moment) -> Option<&'static str> {
        let timeout = self.shared.settings.request_timeout;
        if self.sender.waiting() > 0 && self.pace.stalls_at(self.policy.session.timing.send_stall) <= now {
            // Half a message is on its way, so that no status can follow it.
            self.sender.reset(Reason::CANCEL);
            self.note_refusal("send_stall", "no bytes were taken for too long");
            return Some("send_stall");
        }
        if self.closing.is_none() && self.pace.request_due(&self.messages, timeout, now).is_some_and(|due| due <= now) {
            let message = format!("no complete request within {timeout:?}");
            self.reject(Rejection::new(code::UNAVAILABLE, "request_timeout", message));
        }
        if self.closing.is_none()
            && let Some((reason, status)) = self.ends.now(now, self.pace.answered())
        {
            self.close(reason, status);
        }
        None
    }

    fn close(&mut self, reason: &'static str, status: Status) {
        self.closing.get_or_insert(Closing { status, reason });
    }

    fn reject(&mut self, rejection: Rejection) {
        let Rejection { code, message, reason } = rejection;
        self.note_refusal(reason, &message);
        self.close(reason, Status::new(code, message));
    }

    /// Counts it, and logs it unless many of the kind were.
    fn note_refusal(&self, reason: &'static str, message: &str) {
        self.shared.parts.metrics.rejected(reason);
        if let Some(others) = self.shared.refusals.due(self.now(), &reason) {
            let node = self.listed.client.known().map(|known| known.node);
            tracing::info!(
                peer = %self.listed.client.peer, ?node, reason, message = ?message, others, "a stream is ended"
            );
        }
    }
}

// What the client says.
impl Stream<'_> {
    fn hear(&mut self, now: Moment, message: Bytes) {
        if let Err(rejection) = self.try_hear(now, message) {
            self.reject(rejection);
        }
    }

    fn try_hear(&mut self, now: Moment, message: Bytes) -> Result<(), Rejection> {
        let limits = self.policy.session.limits;
        let ask = match self.variant {
            Variant::Sotw => Ask::read_sotw(message, limits),
            Variant::Delta => Ask::read_delta(message, limits),
        };
        let ask = ask.map_err(reject_ask)?;
        let type_url = self.type_of(&ask);
        let asked = self.worth_a_look(&type_url, &ask);
        let heard = self.listed.client.session().handle_ask(now, ask, &self.shared.parts.store)?;
        self.pace.heard(&type_url, &heard.kind, now);
        self.shared.parts.metrics.request(&type_url, label(&heard.kind));
        match &heard.kind {
            HeardKind::Ack { received: Some(_) } => self.news_answered(now, &type_url, true),
            HeardKind::Nack(status) => {
                self.news_answered(now, &type_url, false);
                let node = self.listed.client.known().map(|known| known.node).unwrap_or_default();
                self.shared.nacks.log(now, &node, &type_url, status);
            }
            _ => {}
        }
        if let Some(node) = heard.node {
            self.join(&node)?;
        }
        if !matches!(heard.kind, HeardKind::Stale | HeardKind::Ignored) {
            self.note_hidden(now, &type_url, &asked);
        }
        Ok(())
    }

    /// The names that a request asks for and that before it did not (C-078, C-100a),
    /// where some may not be had.
    fn worth_a_look(&self, type_url: &TypeUrl, ask: &Ask) -> Vec<Name> {
        let rules = &self.policy.rules;
        if !rules.limits_names() && !rules.sensitive().contains(type_url) {
            return Vec::new();
        }
        match &ask.change {
            Change::Replace(named) => {
                let before = self.listed.client.session().subscribed(type_url);
                let new = |name: &&Name| before.as_ref().is_none_or(|before| !before.contains(name));
                named.names.iter().filter(new).cloned().collect()
            }
            Change::Delta { subscribe, .. } => subscribe.names.clone(),
        }
    }

    /// Names that are answered as if they did not exist go into the audit log.
    fn note_hidden(&self, now: Moment, type_url: &TypeUrl, asked: &[Name]) {
        let refused = self.refused.contains(type_url);
        // The wildcard is no name: it shows what may be had.
        let hidden = |name: &&Name| refused || &***name != WILDCARD && !self.allowed.has(type_url, name);
        let mut names = asked.iter().filter(hidden);
        let Some(first) = names.next() else { return };
        let count = names.count() + 1;
        self.shared.parts.metrics.hidden(type_url, count);
        let reason = if refused { "sensitive_type" } else { "name" };
        let text = format!("{} {first}, and {} more", type_url.short(), count - 1);
        self.shared.audit.note(now, self.subject(), reason, &text, "names are answered as if they did not exist");
    }

    /// Who this is, for the audit log.
    fn subject(&self) -> Subject<'_> {
        let client = &self.listed.client;
        Subject { peer: &client.peer, identity: client.identity.as_deref() }
    }

    fn type_of(&self, ask: &Ask) -> TypeUrl {
        match TypeUrl::from_short(self.listed.client.service) {
            Some(only) => only,
            None => TypeUrl::new(&ask.type_url),
        }
    }

    /// The node came first, or changed: the group is chosen (again), if the client
    /// may be this node. That does not depend on whether there is such a node.
    fn join(&mut self, node: &Node) -> Result<(), Rejection> {
        let parts = &self.shared.parts;
        self.allowed = self.policy.rules.authorize(node, self.identity.as_ref()).map_err(|denied| {
            let field = denied.field.as_deref().unwrap_or("no rule is for the identity");
            let text = format!("node {}: {field}", node.id);
            self.shared.audit.note(
                self.now(),
                self.subject(),
                "node",
                &text,
                "a stream is refused: its identity may not be this node",
            );
            Rejection::new(code::PERMISSION_DENIED, "node_not_allowed", "the client's identity may not be this node")
        })?;
        let Assigned { key, presented, rule, unmatched, sensitive_ok } =
            self.policy.rules.assign(node, self.identity.as_ref());
        self.listed.client.learn(Known {
            node: node.id.as_str().into(),
            user_agent: node.user_agent_name.as_str().into(),
            group: key.clone(),
            rule,
            unmatched: unmatched.map(Arc::from),
        });
        let wake = self.wake.clone();
        let waker = Arc::new(move || wake.ring());
        let member = parts.exchange.join_with(key, presented, self.credential.clone(), waker);
        let granted = own::granted(sensitive_ok, self.identity.as_ref(), &self.policy);
        self.refused.clone_from(&granted.refused);
        self.listed.client.session().join(granted);
        self.own.renew(parts.exchange.share(node.presented()));
        (self.offered, self.sight) = (None, Sight::default());
        let before = self.member.replace(member);
        // Of two changes at once the one in the middle never wanted anything.
        self.leaving = self.leaving.take().or(before);
        Ok(())
    }
}

// What the session says.
impl Stream<'_> {
    /// Lets the session speak until it has nothing to say or bytes wait.
    fn speak(&mut self, now: Moment) {
        let needs_own = self.tell_wants();
        self.offer(now);
        if needs_own || self.own.stands() {
            self.tend_own(now);
        }
        while self.sender.waiting() == 0 && self.closing.is_none() {
            let output = self.listed.client.session().poll_output(now, &self.shared.parts.store);
            match output {
                None => break,
                Some(Output::Want(want)) => {
                    self.tell_want(want);
                    self.offer(now);
                }
                Some(Output::Own) => self.tend_own(now),
                Some(Output::Send(response)) => self.send(now, &response),
                Some(Output::Close(rejection)) => self.reject(rejection),
            }
        }
        self.listed.client.set_waiting(self.sender.waiting());
    }

    /// Interest moves on whether bytes wait or not. `true`: a private group is needed.
    fn tell_wants(&mut self) -> bool {
        if self.member.is_none() {
            return false;
        }
        let needs_own = loop {
            let (want, needs_own) = {
                let mut session = self.listed.client.session();
                (session.next_want(), session.needs_own())
            };
            let Some(want) = want else { break needs_own };
            self.tell_want(want);
        };
        self.leaving = None;
        needs_own
    }

    fn tell_want(&mut self, want: Want) {
        let Some(member) = &self.member else { return };
        let limited = self.allowed.limits(&want.type_url);
        member.want(may_want(&self.allowed, &mut self.sight, &self.shared.parts.store, want));
        if limited {
            // Other names may be hidden now.
            self.offered = None;
        }
    }

    fn offer(&mut self, now: Moment) {
        let Some(member) = &self.member else { return };
        let served = member.served();
        if self.offered.as_ref().is_none_or(|offered| !Arc::ptr_eq(offered, &served)) {
            let allowed = &self.allowed;
            let limited = |type_url: &TypeUrl| allowed.limits(type_url);
            let seen = match allowed.is_limited() {
                true => self.sight.of(&served, &self.shared.parts.store, limited, |of, name| allowed.has(of, name)),
                false => served.clone(),
            };
            self.listed.client.session().offer(now, &seen);
            self.offered = Some(served);
        }
    }

    fn send(&mut self, now: Moment, response: &Response) {
        let prefix = response.prefix(&self.policy.identifier);
        if breaks::on("C-146") {
            tracing::info!(body = ?response.frame.body, "a response is sent");
        }
        if self.sender.push(&prefix, response.frame.body.clone()).is_err() {
            let message = format!("a response of {} is larger than gRPC can carry", response.type_url);
            return self.reject(Rejection::new(code::RESOURCE_EXHAUSTED, "response_bytes", message));
        }
        self.pace.began(now);
        let bytes = self.sender.waiting();
        if bytes > self.policy.session.split && response.is_whole() {
            self.note_oversize(now, &response.type_url, bytes);
        }
        let prepared = (now, self.ready(now));
        self.flight =
            Some(Flight { type_url: response.type_url.clone(), bytes, received: response.received, prepared });
        // Mostly the transport takes it at once; else the loop goes on with it.
        if let Some(Ok(())) = self.sender.flush().now_or_never() {
            self.written(now);
        }
    }

    /// Many clients take no more than 4 MiB, and this cannot be split (C-171, C-172).
    fn note_oversize(&self, now: Moment, type_url: &TypeUrl, bytes: usize) {
        let short = type_url.short();
        self.shared.parts.metrics.oversize(type_url);
        if let Some(others) = self.shared.oversize.due(now, &short) {
            let node = self.listed.client.known().map(|known| known.node);
            tracing::warn!(
                r#type = short,
                bytes,
                ?node,
                others,
                "a response is larger than --split-bytes and cannot be split in SotW; let the sidecar speak delta, or raise its limit"
            );
        }
    }

    /// The last byte was handed over.
    fn written(&mut self, now: Moment) {
        let Some(flight) = self.flight.take() else { return };
        self.listed.client.session().written(now);
        self.shared.parts.metrics.response(&flight.type_url, flight.bytes);
        if self.pace.written(&flight.type_url, flight.received, now) {
            self.news_written(now, &flight);
        }
    }
}

/// What of `want` the upstream is asked for: not what is hidden.
fn may_want(allowed: &Allowed, sight: &mut Sight, store: &Store, want: Want) -> Want {
    if !allowed.limits(&want.type_url) {
        return want;
    }
    let names = sight.ask(&want.type_url, &want.names, store, |name| allowed.has(&want.type_url, name));
    Want { names, ..want }
}

/// Where streams upstream are opened by tokens of members: that of this one.
fn credential(shared: &Shared, identity: Option<&Identity>) -> Option<Credential> {
    let identity = identity.filter(|_| shared.settings.transport.gate.token_required)?;
    let expires = shared.parts.clock.until(identity.not_after());
    Some(Credential { token: identity.token()?.clone(), expires })
}

/// When a call ends that a token opened: before the token does, and spread, for
/// those that came with one token are not to end at once. Who comes within its last
/// seconds stays almost to its end; who comes after it (clocks differ), almost as long as
/// it is taken.
pub(super) fn token_ends(identity: Option<&Identity>, clock: &Clock) -> Option<Moment> {
    let identity = identity.filter(|identity| identity.token().is_some())?;
    let left = identity.not_after().duration_since(clock.wall());
    let lasts = match left {
        Ok(left) if left > jwt::LEEWAY => left - jwt::LEEWAY.mul_f64(rand::random_range(0.0..1.0)),
        Ok(left) => left.mul_f64(rand::random_range(0.9..1.0)),
        Err(past) => jwt::LEEWAY.saturating_sub(past.duration()).mul_f64(rand::random_range(0.9..1.0)),
    };
    Some(clock.now() + lasts)
}

fn label(kind: &HeardKind) -> &'static str {
    match kind {
        HeardKind::First => "first",
        HeardKind::Plain => "subscribe",
        HeardKind::Stale => "stale",
        HeardKind::Ack { .. } => "ack",
        HeardKind::Nack(_) => "nack",
        HeardKind::Ignored => "ignored",
    }
}

fn reject_ask(error: AskError) -> Rejection {
    let (code, reason) = match &error {
        AskError::Wire(_) => (code::INVALID_ARGUMENT, "malformed"),
        AskError::Names { .. } => (code::RESOURCE_EXHAUSTED, "names"),
        AskError::NameBytes { .. } => (code::INVALID_ARGUMENT, "name_bytes"),
        AskError::TypeBytes { .. } => (code::INVALID_ARGUMENT, "type_bytes"),
    };
    Rejection::new(code, reason, error.to_string())
}
