//! Our stream on one control plane, as a value.
//!
//! A [`ClientSession`] is one ADS stream of one group, delta or SotW. It holds
//! what the control plane was told we want and what it said, and turns valid
//! responses into [`Update`]s. It reads no clock and touches no socket:
//! `upstream` feeds it, then drains what is due.
//!
//! * Handlers: [`set_wanted`](ClientSession::set_wanted),
//!   [`handle_response`](ClientSession::handle_response),
//!   [`committed`](ClientSession::committed), [`tick`](ClientSession::tick)
//! * Polls, after every handler: [`poll_update`](ClientSession::poll_update)
//!   until there is none, each update committed and [`committed`](ClientSession::committed)
//!   called for it, in order; then, while the transport takes bytes,
//!   [`poll_request`](ClientSession::poll_request).
//!   [`poll_output`](ClientSession::poll_output) is both in that order.
//! * Then wait for a response, a change of the want, or
//!   [`deadline`](ClientSession::deadline).
//!
//! Promise: a response is acknowledged only after its update was committed, and
//! each nonce at most once (C-135). An invalid response changes nothing but
//! makes a NACK. Requests are made when they can be written, from the
//! difference between what is wanted and what was asked, so that nothing
//! queues. What is asked is never more than what is wanted: no sequence of
//! changes ends in a wildcard by accident (C-056, C-058).
//!
//! A delta ask of very many names takes several requests, of 1 MiB each. In SotW
//! every request has the whole list; nothing can be done about its size.
//!
//! A session lives as long as its stream; the next stream has a new one, which
//! states the held versions in delta (C-134), whose server is believed not to use
//! one twice for different content. In SotW it states no version on
//! a new stream: a server may take that as leave to stay silent, and held
//! content would stay unconfirmed.

mod parts;
mod passing;
mod state;
mod subscription;
#[cfg(test)]
mod tests;
mod validate;

use super::{Pass, Passed, Update, Want};
use crate::breaks;
use crate::xds::envelope::{Envelope, Request, RequestBody};
use crate::xds::time::earliest;
use crate::xds::{Moment, Name, Status, Timing, TypeUrl, Variant, code};
use bytes::Bytes;
use parts::Part;
use passing::Passing;
use state::TypeState;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// What is to be done next.
#[derive(Clone, Debug)]
pub enum Output {
    /// Write this request.
    Send(Request),
    /// Commit this, then call [`ClientSession::committed`].
    Apply(Update),
}

/// What a response was: for counting and logging.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is valid, and an update is due.
    Accepted {
        type_url: TypeUrl,
        /// Resources and removals left out because nobody asked for them.
        unasked: usize,
    },
    /// It is invalid, and a NACK with this text is due.
    Rejected { type_url: TypeUrl, reason: String },
    /// Nobody asked for this type on this stream: ignored (C-010).
    Unasked { type_url: String },
    /// It answers a request that was passed on, and is never acknowledged (C-193).
    Passed { type_url: TypeUrl },
}

/// A message that is no response and cannot even be refused: the stream is of
/// no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a response of the control plane cannot be read ({0}); end the stream, and check that the address speaks xDS v3"
)]
pub struct Unreadable(crate::xds::wire::WireError);

/// One type, as `/upstreams` and `explain` show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeReport {
    pub type_url: TypeUrl,
    pub wildcard: bool,
    /// Names asked one by one.
    pub names: usize,
    /// A valid response came on this stream.
    pub answered: bool,
    /// Since when an ask waits for its answer.
    pub unanswered: Option<Moment>,
    pub nonce: String,
}

/// One ADS stream of one group to one control plane.
#[derive(Debug)]
pub struct ClientSession {
    variant: Variant,
    /// For the first request.
    node: Option<Bytes>,
    absent: Duration,
    unanswered: Duration,
    types: BTreeMap<TypeUrl, TypeState>,
    updates: VecDeque<Update>,
    silences: VecDeque<TypeUrl>,
    last_heard: Option<Moment>,
    /// Of names and versions in one delta request.
    request_bytes: usize,
    passing: Passing,
}

impl ClientSession {
    /// A stream that was just opened. `node` is the raw `Node` to present.
    pub fn new(variant: Variant, node: Bytes, timing: &Timing) -> Self {
        Self {
            variant,
            node: Some(node),
            absent: timing.absent,
            unanswered: timing.unanswered,
            types: BTreeMap::new(),
            updates: VecDeque::new(),
            silences: VecDeque::new(),
            last_heard: None,
            request_bytes: parts::MOST,
            passing: Passing::default(),
        }
    }

    /// Delta requests have about this many bytes of names and versions at most.
    #[must_use]
    pub fn with_request_bytes(self, request_bytes: usize) -> Self {
        Self { request_bytes, ..self }
    }

    // ---- getters ----

    pub fn variant(&self) -> Variant {
        self.variant
    }

    /// A valid or invalid response of a type that was asked came.
    pub fn last_heard(&self) -> Option<Moment> {
        self.last_heard
    }

    /// Since when the oldest ask waits for an answer that must come.
    pub fn oldest_unanswered(&self) -> Option<Moment> {
        self.types.values().filter_map(|state| state.unanswered(self.last_heard)).min()
    }

    /// The type was answered on this stream, and no ask of it has waited for
    /// more than 2 s.
    pub fn synced(&self, now: Moment, type_url: &TypeUrl) -> bool {
        self.types.get(type_url).is_some_and(|state| self.is_synced(now, state))
    }

    /// A valid response of the type came on this stream.
    pub fn answered(&self, type_url: &TypeUrl) -> bool {
        self.types.get(type_url).is_some_and(|state| state.answered)
    }

    /// A request for something of the type was made on this stream: the held
    /// versions are stated.
    pub fn has_asked(&self, type_url: &TypeUrl) -> bool {
        self.types.get(type_url).is_some_and(|state| state.subscription.asked().is_some())
    }

    /// An answer to something asked of the type must come.
    pub fn awaits(&self, type_url: &TypeUrl) -> bool {
        self.types.get(type_url).is_some_and(|state| state.unanswered(self.last_heard).is_some())
    }

    /// Every wanted type is.
    pub fn all_synced(&self, now: Moment) -> bool {
        self.types
            .values()
            .filter(|state| !state.subscription.want().is_empty())
            .all(|state| self.is_synced(now, state))
    }

    fn is_synced(&self, now: Moment, state: &TypeState) -> bool {
        let late = state.unanswered(self.last_heard).is_some_and(|at| now.since(at) > self.unanswered);
        state.answered && state.subscription.asked().is_some() && state.parts.is_empty() && !late
    }

    pub fn report(&self) -> impl Iterator<Item = TypeReport> {
        self.types.values().filter_map(|state| {
            let asked = state.subscription.asked()?;
            Some(TypeReport {
                type_url: state.type_url.clone(),
                wildcard: asked.wildcard(),
                names: asked.len(),
                answered: state.answered,
                unanswered: state.unanswered(self.last_heard),
                nonce: state.nonce.clone(),
            })
        })
    }

    // ---- handlers ----

    /// Takes the whole want of one type. `held` gives the names and upstream
    /// versions of what is held of it, and is called only before the type's
    /// first request on this stream.
    pub fn set_wanted(&mut self, want: &Want, held: impl FnOnce() -> Vec<(Name, String)>) {
        let nothing = !want.wildcard && want.names.is_empty();
        if nothing && !self.types.contains_key(&want.type_url) {
            return;
        }
        let new = || TypeState::new(want.type_url.clone(), self.variant);
        self.types.entry(want.type_url.clone()).or_insert_with(new).set_want(want, held);
    }

    /// Takes all requests that are to be passed on and have no answer yet, in
    /// ascending order. Those that this stream does not know are written.
    pub fn set_passes(&mut self, passes: &[Pass]) {
        self.passing.set(passes);
    }

    /// Takes one response message. Afterwards an update or a NACK may be due.
    pub fn handle_response(&mut self, now: Moment, message: Bytes) -> Result<Heard, Unreadable> {
        let read = match self.variant {
            Variant::Sotw => Envelope::read_sotw(message.clone()),
            Variant::Delta => Envelope::read_delta(message.clone()),
        };
        let (type_url, nonce) = match &read {
            Ok(envelope) => (envelope.type_url.clone(), envelope.nonce.clone()),
            Err(error) => validate::salvage(message).ok_or(Unreadable(*error))?,
        };
        if let Some(of) = self.passing.take_answer(now, &read) {
            self.last_heard = Some(now);
            return Ok(Heard::Passed { type_url: of });
        }
        let asked = self.types.get_mut(&TypeUrl::new(&type_url));
        let Some(state) = asked.filter(|state| state.subscription.asked().is_some()) else {
            return Ok(Heard::Unasked { type_url });
        };
        self.last_heard = Some(now);
        let checked = read.map_err(validate::Invalid::from).and_then(|mut envelope| {
            let valid = validate::check(&state.type_url, self.variant, &mut envelope)?;
            Ok((envelope, valid))
        });
        let type_url = state.type_url.clone();
        match checked {
            Ok((envelope, valid)) => {
                let (update, unasked) = state.accept(now, envelope, valid);
                self.updates.push_back(update);
                Ok(Heard::Accepted { type_url, unasked })
            }
            Err(invalid) => {
                let reason = invalid.to_string();
                state.refuse(&nonce, Status::new(code::INVALID_ARGUMENT, reason.clone()));
                Ok(Heard::Rejected { type_url, reason })
            }
        }
    }

    /// The oldest uncommitted update of this type is now committed: its
    /// response may be acknowledged.
    pub fn committed(&mut self, type_url: &TypeUrl) {
        if let Some(state) = self.types.get_mut(type_url) {
            state.committed();
        }
    }

    /// Call at [`deadline`](Self::deadline): silence may say that names are absent.
    pub fn tick(&mut self, now: Moment) {
        if self.last_heard.is_none() {
            return;
        }
        for state in self.types.values_mut() {
            let (silence, update) = state.tick(now, self.absent);
            self.silences.extend(silence.then(|| state.type_url.clone()));
            self.updates.extend(update);
        }
    }

    /// When [`tick`](Self::tick) may make an update. Changes with every
    /// handler and every request polled.
    pub fn deadline(&self) -> Option<Moment> {
        self.last_heard?;
        self.types.values().map(|state| state.deadline(self.absent)).fold(None, earliest)
    }

    // ---- polls ----

    /// The oldest update that is due.
    pub fn poll_update(&mut self) -> Option<Update> {
        self.updates.pop_front()
    }

    /// A type of which an ask was answered by silence: the versions that were
    /// stated are current, or the names do not exist. It is as good as confirmed.
    pub fn poll_silence(&mut self) -> Option<TypeUrl> {
        self.silences.pop_front()
    }

    /// The answer to a request that was passed on.
    pub fn poll_passed(&mut self) -> Option<Passed> {
        self.passing.poll_answer()
    }

    /// The next request to write now: answers before asks, types in the order of
    /// C-104, and then what is passed on.
    pub fn poll_request(&mut self, now: Moment) -> Option<Request> {
        let (variant, most) = (self.variant, self.request_bytes);
        let of_type = self.types.values_mut().find_map(|state| match variant {
            Variant::Sotw => sotw_request(now, state),
            Variant::Delta => delta_request(now, state, most),
        });
        let mut request = of_type.or_else(|| self.passing.request(variant, self.node.is_some()))?;
        request.node = self.node.take();
        Some(request)
    }

    /// Updates first, then requests.
    pub fn poll_output(&mut self, now: Moment) -> Option<Output> {
        self.poll_update().map(Output::Apply).or_else(|| self.poll_request(now).map(Output::Send))
    }
}

/// An answer carries the nonce and nothing else; a change of the subscription
/// carries no nonce (C-203).
fn delta_request(now: Moment, state: &mut TypeState, most: usize) -> Option<Request> {
    if let Some(answer) = state.take_answer() {
        let body = RequestBody::default();
        return Some(request(state, answer.nonce, answer.error, body));
    }
    let part = match state.take_part(now) {
        Some(part) => part,
        None => {
            let Some(mut ask) = state.subscription.ask_delta() else {
                state.asks_nothing();
                return None;
            };
            let whole = Part {
                subscribe: std::mem::take(&mut ask.subscribe),
                unsubscribe: std::mem::take(&mut ask.unsubscribe),
                initial: if ask.first { state.take_initial() } else { Vec::new() },
            };
            let mut parts = whole.cut(most);
            let first = parts.pop_front()?;
            state.parts = parts;
            state.asked(now, &ask, &first.initial);
            first
        }
    };
    let Part { subscribe, unsubscribe, initial } = part;
    let nonce = if breaks::on("C-203") { state.nonce.clone() } else { String::new() };
    Some(request(state, nonce, None, RequestBody::Delta { subscribe, unsubscribe, initial }))
}

/// Every request has the whole list, the newest nonce and the last committed
/// version; it is an answer where the nonce has none yet (C-046).
fn sotw_request(now: Moment, state: &mut TypeState) -> Option<Request> {
    if state.must_wait() {
        return None;
    }
    let answer = state.take_answer();
    let ask = state.subscription.ask_sotw();
    if ask.is_none() {
        state.asks_nothing();
    }
    if answer.is_none() && ask.is_none() {
        return None;
    }
    if let Some(ask) = &ask {
        if ask.first {
            state.take_initial();
        }
        state.asked(now, ask, &[]);
    }
    let names = state.subscription.list();
    let body = RequestBody::Sotw { version_info: state.version.to_string(), names };
    Some(request(state, state.nonce.clone(), answer.and_then(|answer| answer.error), body))
}

fn request(state: &TypeState, nonce: String, error: Option<Status>, body: RequestBody) -> Request {
    Request { node: None, type_url: state.type_url.as_str().into(), nonce, error, body }
}
