//! What a stream says next.
//!
//! Types are looked at in writing order (C-104). Each is compared with what is
//! served, as far as its turn, the order across types and the settle window
//! let it ([`order`](super::order)); the first that has something to say speaks
//! ([`speech`](super::speech)).

use super::held::{Exception, Reach, Said};
use super::order::{Others, Removal};
use super::speech::Voice;
use super::verdict::{Has, View};
use super::{Output, Rejection, Response, ServerSession, Settings, TypeState};
use crate::breaks;
use crate::content::{self, Body, Encoding, Entry, Frames, Parts, Served, ServedType, Store};
use crate::session::Want;
use crate::xds::name::normal;
use crate::xds::time::earliest;
use crate::xds::types::{Kind, Variant};
use crate::xds::{Moment, Name, TypeUrl, cluster, code};
use std::cell::OnceCell;
use std::sync::{Arc, LazyLock};

/// What a refused type looks like: there is nothing of it.
static REFUSED: LazyLock<ServedType> = LazyLock::new(|| ServedType { complete: true, ..ServedType::default() });
/// What a type without any word looks like.
static UNKNOWN: LazyLock<ServedType> = LazyLock::new(ServedType::default);

/// What every type is looked at with.
pub(super) struct Look<'a> {
    pub(super) now: Moment,
    pub(super) variant: Variant,
    pub(super) settings: &'a Settings,
    pub(super) served: &'a Served,
    pub(super) store: &'a Store,
    /// Whether the upstream of what is looked at answers: that of the group, or of
    /// the private one.
    pub(super) line: &'a Served,
    /// What the private group serves, where there is one.
    pub(super) own: Option<&'a Served>,
    /// A name that cannot be answered is an error, with this text (T-10).
    pub(super) unavailable: Option<&'a str>,
}

/// What a step of one type came to.
struct Step<'a> {
    of: &'a ServedType,
    reach: Reach,
    said: Said,
    /// The response that is owed may be given now.
    ready: bool,
}

/// One logical response, before its frames have their nonces.
struct Draft {
    frames: Frames,
    label: Arc<str>,
    received: Moment,
    /// It stands beside the turn, as answers by delta may.
    beside: bool,
}

impl ServerSession {
    /// The next thing to do; `None` until a handler or the deadline brings more.
    pub fn poll_output(&mut self, now: Moment, store: &Store) -> Option<Output> {
        let due = self.staying_until().is_some_and(|until| until <= now);
        if std::mem::take(&mut self.stale) || due {
            self.compose(now, store);
        }
        if let Some(want) = self.wants.pop_front() {
            return Some(Output::Want(want));
        }
        if self.own_changed() {
            return Some(Output::Own);
        }
        if self.private.is_some() && self.outbox.is_empty() {
            self.say_passed();
        }
        if self.outbox.is_empty() {
            let served = self.served.clone().filter(|_| self.granted.is_some())?;
            if let Some(rejection) = self.evaluate(now, &served, store) {
                return Some(Output::Close(rejection));
            }
        }
        let response = self.outbox.pop_front()?;
        #[cfg(feature = "breaks")]
        let response = self.broken_response(response, store);
        self.sent = Some((response.type_url.clone(), response.nonce));
        Some(Output::Send(response))
    }

    /// What is wanted now, if that changed: what `poll_output` would say first. It
    /// concerns the group, so it need not wait while bytes do.
    pub fn next_want(&mut self) -> Option<Want> {
        self.wants.pop_front()
    }

    /// When `poll_output` may have more without a handler being called.
    pub fn deadline(&self) -> Option<Moment> {
        earliest(self.wake, self.staying_until())
    }

    fn staying_until(&self) -> Option<Moment> {
        self.private.as_deref().and_then(|own| own.deadline(&self.settings.timing))
    }

    /// Looks at every type until one fills the outbox.
    fn evaluate(&mut self, now: Moment, served: &Served, store: &Store) -> Option<Rejection> {
        self.wake = None;
        let own = self.own_served().cloned();
        let lines = [Some(served), own.as_deref()];
        let mut unavailable = [None, None];
        for (private, line) in [false, true].into_iter().zip(lines) {
            match line.and_then(|line| self.cold(now, served, line, private)) {
                Some(reason) if !self.settings.cold_errors => {
                    return Some(Rejection::new(code::UNAVAILABLE, "cold", &*reason));
                }
                reason => unavailable[usize::from(private)] = reason,
            }
        }
        if let Some(reason) = own.as_deref().and_then(|own| self.set_is_cold(now, served, own)) {
            return Some(Rejection::new(code::UNAVAILABLE, "cold", &*reason));
        }
        let (settings, variant) = (self.settings.clone(), self.variant);
        let look = |private: bool| Look {
            now,
            variant,
            settings: &settings,
            served,
            store,
            line: lines[usize::from(private)].unwrap_or(served),
            own: lines[1],
            unavailable: unavailable[usize::from(private)].as_deref(),
        };
        let (look, own_look) = (look(false), look(true));
        // Removals look at whether a referring type was looked at, and come
        // before it: where that held them back, look once more.
        for _ in 0..2 {
            let mut others = Others::of(&self.types, now, settings.timing.turn);
            let mut types: Vec<TypeUrl> = self.types.keys().cloned().collect();
            if breaks::on("C-104") {
                types.reverse();
            }
            for type_url in types {
                let private = own.is_some() && self.types.get(&type_url).is_some_and(|state| state.own.is_some());
                self.look_at(&type_url, if private { &own_look } else { &look }, &mut others);
                if !self.outbox.is_empty() {
                    // More may wait behind this one; the caller polls until `None`.
                    return None;
                }
            }
            if !(others.referrer_dirty() && self.types.values().any(|state| state.withheld.is_some())) {
                break;
            }
        }
        let deadline = self.types.values().filter_map(|state| state.wake).min();
        self.wake = earliest(self.wake, deadline);
        None
    }

    /// The reason, if this stream never had a response, waits for a type of
    /// which nothing is held, and has waited its grace (C-127).
    /// `line` is the group's, or that of the private one and its types.
    fn cold(&mut self, now: Moment, served: &Served, line: &Served, private: bool) -> Option<Arc<str>> {
        let content::Reach::Silent { since, reason } = &line.upstream else { return None };
        if breaks::on("C-137") || private && breaks::on("C-148") {
            return Some(reason.clone());
        }
        if self.spoke && !self.settings.cold_errors || breaks::on("C-127") {
            return None;
        }
        let waiting = self.types.iter().filter(|(type_url, state)| {
            let set = state.subscription.wildcard();
            let cold = served.of(type_url).is_none_or(|held| !held.complete && (set || held.tree.is_empty()));
            let concerned = state.own.is_some() == private && !state.refused;
            cold && concerned && state.silent && !state.subscription.is_empty()
        });
        let asked = waiting.map(|(_, state)| state.asked).min()?;
        let deadline = asked.max(*since) + self.settings.timing.cold_grace;
        if now < deadline {
            self.wake = earliest(self.wake, Some(deadline));
            return None;
        }
        Some(reason.clone())
    }

    /// The reason, if this stream never had a response and its first whole set waits
    /// for a name that must not be kept, which the private group cannot ask for. A
    /// set without it would take it from a client that comes back with it, and no
    /// error in the set would keep it there.
    fn set_is_cold(&mut self, now: Moment, served: &Served, own: &Served) -> Option<Arc<str>> {
        let content::Reach::Silent { since, reason } = &own.upstream else { return None };
        if self.spoke || self.variant == Variant::Delta || breaks::on("C-127") {
            return None;
        }
        let waits = |(type_url, state): (&TypeUrl, &TypeState)| {
            let of = served.of(type_url).filter(|of| type_url.full_state() && of.complete)?;
            let unknown = state.apart.iter().any(|name| of.tree.get(name).is_none());
            (unknown && state.owed && state.own.is_none() && state.subscription.wildcard()).then_some(state.asked)
        };
        let deadline = self.types.iter().filter_map(waits).min()?.max(*since) + self.settings.timing.cold_grace;
        if now < deadline {
            self.wake = earliest(self.wake, Some(deadline));
            return None;
        }
        Some(reason.clone())
    }

    /// Compares one type with what is served, and speaks if there is a word.
    fn look_at(&mut self, type_url: &TypeUrl, look: &Look<'_>, others: &mut Others) {
        let clusters = self.types.keys().any(|of| of.kind() == Kind::Cluster);
        if breaks::on("C-096") && type_url.kind() == Kind::Endpoint && !clusters {
            return;
        }
        let Some(state) = self.types.get_mut(type_url) else { return };
        let Some(of) = state.news(type_url, look) else { return };
        state.wake = None;
        let removal = others.removal(type_url, state, look);
        let view = View {
            look,
            subscription: &state.subscription,
            served: of,
            refused: state.refused,
            takes_all: state.takes_all(),
            may_remove: removal.allowed,
            globs: OnceCell::new(),
        };
        if let Some(stated) = state.stated.take_if(|_| !state.subscription.wildcard() || of.complete) {
            let hold_until = look.now + look.settings.timing.foreign_version;
            state.held.resume(&stated, look.settings.trust, hold_until, &view);
        }
        if state.knows_better(look.variant, of) {
            return;
        }
        let Some(reach) = others.reach(type_url, state, look, &view) else {
            state.wake_for_turn(look);
            return;
        };
        let ready = reach == Reach::All && state.word_is_known(type_url, look.variant, &view);
        let early = state.owed && !ready;
        if early && look.variant == Variant::Sotw && type_url.full_state() {
            state.wake = earliest(state.wake, state.silence_speaks(&view).filter(|at| *at > look.now));
            return;
        }
        let reach = if early { Reach::Answers } else { reach };
        if state.silent {
            state.touch = of.touch;
        }
        let mut said = state.held.step(reach, &view);
        state.tell_variants(&mut said, look);
        state.note_step(look, reach, &said, removal);
        others.note_withheld(type_url, state.withheld.is_some());
        self.speak(type_url, look, Step { of, reach, said, ready });
    }

    /// Makes the response of a step, if there is anything in it.
    fn speak(&mut self, type_url: &TypeUrl, look: &Look<'_>, step: Step<'_>) {
        let Step { of, reach, said, ready } = step;
        let voice = Voice { type_url, encoding: self.encoding(), look };
        let Some(state) = self.types.get_mut(type_url) else { return };
        let owed = state.owed && ready;
        let absent = breaks::on("C-037") && state.silent && said.resources.is_empty() && said.shared.is_none();
        if voice.says_nothing(&said) && !owed || absent {
            let open = state.turns.is_open(look.now, look.settings.timing.turn);
            if !open && said.is_empty() && said.shared.is_none() {
                self.beat(type_url, look, of);
            }
            return;
        }
        #[cfg(feature = "breaks")]
        let said = super::broken::repeat_errors(state, of, said);
        let clusters = match &said.shared {
            _ if type_url.kind() != Kind::Cluster => Vec::new(),
            Some((from, to)) => Said::between(from, to, look.store).resources,
            None => said.resources.clone(),
        };
        let first = state.silent;
        state.owed &= !owed;
        let draft = Draft {
            frames: voice.frames(state, of, said),
            label: state.label_now(of),
            received: of.received,
            beside: reach == Reach::Answers && self.variant == Variant::Delta,
        };
        self.enqueue(look.now, type_url, draft);
        if !clusters.is_empty() {
            self.follow_up(&clusters, first);
        }
    }

    /// Forwards the upstream's heartbeats (C-130, C-131).
    fn beat(&mut self, type_url: &TypeUrl, look: &Look<'_>, of: &ServedType) {
        let encoding = self.encoding();
        let able = breaks::on("C-130")
            || self.node.as_ref().is_some_and(|node| node.heartbeats)
                && encoding != Encoding::Sotw
                && !breaks::on("C-131");
        let Some(state) = self.types.get_mut(type_url) else { return };
        let seen = std::mem::replace(&mut state.touch, of.touch);
        if !able || seen == of.touch {
            return;
        }
        let mut parts = Parts::new(type_url.clone(), encoding);
        parts.heartbeats = state.heartbeats(of, seen);
        if parts.heartbeats.is_empty() {
            return;
        }
        let label = state.label.clone().unwrap_or_else(|| of.label.clone());
        let draft = Draft { frames: look.store.frames(parts), label, received: of.received, beside: false };
        self.enqueue(look.now, type_url, draft);
    }

    fn enqueue(&mut self, now: Moment, type_url: &TypeUrl, draft: Draft) {
        let Some(state) = self.types.get_mut(type_url) else { return };
        let first = self.nonce + 1;
        for frame in draft.frames.iter() {
            self.nonce += u64::from(!breaks::on("C-083") || self.nonce < first);
            if draft.beside {
                state.turns.answer(self.nonce);
            }
            self.outbox.push_back(Response {
                type_url: type_url.clone(),
                variant: self.variant,
                nonce: self.nonce,
                label: draft.label.clone(),
                frame: frame.clone(),
                received: draft.received,
            });
        }
        if !draft.beside {
            state.turns.push(first, self.nonce, now, draft.received);
        }
        state.label = Some(draft.label);
        state.silent = false;
        state.facts.sent = Some(now);
        self.spoke = true;
    }

    /// A new or changed EDS cluster waits for its assignment, even one that
    /// the client has (C-101); after the first CDS answer every one does (C-102).
    fn follow_up(&mut self, clusters: &[Arc<Entry>], first: bool) {
        let mut types = self.types.iter_mut();
        let Some((_, state)) = types.find(|(of, _)| of.kind() == Kind::Endpoint) else { return };
        if breaks::on("C-101") {
            return;
        }
        let names: Vec<Name> = if first && breaks::on("C-102") {
            Vec::new()
        } else if first {
            state.subscription.names().iter().cloned().collect()
        } else {
            let eds = clusters.iter().filter_map(|entry| match entry.body() {
                Body::Resource(blob) => cluster::eds_name(blob.value()),
                _ => None,
            });
            eds.map(|name| normal(&name)).filter(|name| state.subscription.covers(name, &[])).collect()
        };
        for name in names {
            if let Some(entry) = state.held.entry(&name).cloned() {
                state.held.except(name, Exception { follow_up: true, ..Exception::of(Has::Present(entry)) });
                state.dirty = true;
            }
        }
    }

    fn encoding(&self) -> Encoding {
        match self.variant {
            Variant::Delta => Encoding::Delta,
            Variant::Sotw if self.node.as_ref().is_some_and(|node| node.wrapped) => Encoding::SotwWrapped,
            Variant::Sotw => Encoding::Sotw,
        }
    }
}

impl TypeState {
    /// What is served of this type, if there may be something new in it.
    fn news<'a>(&mut self, type_url: &TypeUrl, look: &Look<'a>) -> Option<&'a ServedType> {
        let served = look.served.of(type_url);
        self.owed |= breaks::on("C-142") && served.is_some_and(|of| Some(&of.label) != self.label.as_ref());
        let due = self.wake.is_some_and(|wake| wake <= look.now);
        let touched = served.is_some_and(|of| of.touch > self.touch);
        if !(self.dirty || due || self.withheld.is_some() || touched || look.unavailable.is_some()) {
            return None;
        }
        match served {
            _ if self.refused => Some(&*REFUSED),
            Some(of) => Some(of),
            None => look.unavailable.map(|_| &*UNKNOWN),
        }
    }

    /// Looks again when the open turn expires.
    fn wake_for_turn(&mut self, look: &Look<'_>) {
        let expires = self.turns.expires(look.settings.timing.turn).filter(|expiry| *expiry > look.now);
        self.wake = earliest(self.wake, expires);
    }

    /// What a step leaves to be looked at later.
    fn note_step(&mut self, look: &Look<'_>, reach: Reach, said: &Said, removal: Removal) {
        if said.withheld {
            self.withheld.get_or_insert(look.now);
            self.wake = earliest(self.wake, removal.next);
        } else if reach == Reach::All {
            // Short of that, removals were not looked at.
            self.withheld = None;
        }
        self.wake = earliest(self.wake, said.wake);
        if reach == Reach::All {
            self.dirty = false;
        } else {
            self.wake_for_turn(look);
        }
    }
}
