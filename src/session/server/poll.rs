//! What a stream says next.
//!
//! Types are looked at in writing order (C-104). Each is compared with what is
//! served, as far as its turn, the order across types and the settle window
//! let it; the first that has something to say speaks.

use super::held::{Exception, Has, Reach, Said, View};
use super::{Output, Rejection, Response, ServerSession, TypeState, label_of};
use crate::breaks;
use crate::content::{self, Body, Encoding, Entry, Frames, Parts, Served, ServedType, Store};
use crate::session::Want;
use crate::xds::time::earliest;
use crate::xds::types::{Kind, Variant};
use crate::xds::{Moment, Name, Status, TypeUrl, cluster, code};
use std::sync::{Arc, LazyLock};

/// What a refused type looks like: there is nothing of it.
static REFUSED: LazyLock<ServedType> = LazyLock::new(|| ServedType { complete: true, ..ServedType::default() });
/// What a type without any word looks like.
static UNKNOWN: LazyLock<ServedType> = LazyLock::new(ServedType::default);

/// What one type must know of the others on its stream.
#[derive(Debug, Default)]
struct Others {
    /// An LDS, RDS, SRDS or ECDS turn is open until then at the latest.
    referrer_open: bool,
    referrer_expires: Option<Moment>,
    /// One of these has something that was not looked at yet.
    referrer_dirty: bool,
    listeners_withheld: bool,
    clusters_withheld: bool,
    /// A cluster waits for its turn, so that nothing new may refer to it (C-106).
    clusters_behind: bool,
}

impl ServerSession {
    /// The next thing to do; `None` until a handler or the deadline brings more.
    pub fn poll_output(&mut self, now: Moment, store: &Store) -> Option<Output> {
        if let Some(want) = self.wants.pop_front() {
            return Some(Output::Want(want));
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
        self.wake
    }

    /// Looks at every type until one fills the outbox.
    fn evaluate(&mut self, now: Moment, served: &Served, store: &Store) -> Option<Rejection> {
        self.wake = None;
        let unavailable = match self.cold(now, served) {
            Some(reason) if self.settings.cold_errors => Some(reason),
            Some(reason) => return Some(Rejection::new(code::UNAVAILABLE, "cold", &*reason)),
            None => None,
        };
        // Removals look at whether a referring type was looked at, and come
        // before it: where that held them back, look once more.
        for _ in 0..2 {
            let mut others = self.others(now);
            let mut types: Vec<TypeUrl> = self.types.keys().cloned().collect();
            if breaks::on("C-104") {
                types.reverse();
            }
            for type_url in types {
                self.evaluate_type(now, &type_url, served, unavailable.as_deref(), &mut others, store);
                if !self.outbox.is_empty() {
                    // More may wait behind this one; the caller polls until `None`.
                    return None;
                }
            }
            if !(others.referrer_dirty && self.types.values().any(|state| state.withheld.is_some())) {
                break;
            }
        }
        let deadline = self.types.values().filter_map(|state| state.wake).min();
        self.wake = earliest(self.wake, deadline);
        None
    }

    /// The reason, if this stream never had a response, waits for a type of
    /// which nothing is held, and has waited its grace (C-127).
    fn cold(&mut self, now: Moment, served: &Served) -> Option<Arc<str>> {
        let content::Reach::Silent { since, reason } = &served.upstream else { return None };
        if breaks::on("C-137") {
            return Some(reason.clone());
        }
        if self.spoke && !self.settings.cold_errors || breaks::on("C-127") {
            return None;
        }
        let waiting = self.types.iter().filter(|(type_url, state)| {
            let cold = served.of(type_url).is_none_or(|held| held.tree.is_empty() && !held.complete);
            cold && state.silent && !state.refused && !state.subscription.is_empty()
        });
        let asked = waiting.map(|(_, state)| state.asked).min()?;
        let deadline = asked.max(*since) + self.settings.timing.cold_grace;
        if now < deadline {
            self.wake = earliest(self.wake, Some(deadline));
            return None;
        }
        Some(reason.clone())
    }

    fn others(&self, now: Moment) -> Others {
        let turn = self.settings.timing.turn;
        let mut others = Others::default();
        for (type_url, state) in &self.types {
            match type_url.kind() {
                Kind::Cluster => others.clusters_withheld = state.withheld.is_some(),
                Kind::Listener => others.listeners_withheld = state.withheld.is_some(),
                _ => {}
            }
            if type_url.refers() || type_url.kind() == Kind::Listener {
                others.referrer_dirty |= state.dirty && !state.silent;
                if state.turns.is_open(now, turn) {
                    others.referrer_open = true;
                    others.referrer_expires = earliest(others.referrer_expires, state.turns.expires(turn));
                }
            }
        }
        others
    }

    fn evaluate_type(
        &mut self,
        now: Moment,
        type_url: &TypeUrl,
        served: &Served,
        unavailable: Option<&str>,
        others: &mut Others,
        store: &Store,
    ) {
        let clusters = self.types.keys().any(|of| of.kind() == Kind::Cluster);
        if breaks::on("C-096") && type_url.kind() == Kind::Endpoint && !clusters {
            return;
        }
        let (variant, settings) = (self.variant, self.settings.clone());
        let Some(state) = self.types.get_mut(type_url) else { return };
        state.owed |=
            breaks::on("C-142") && served.of(type_url).is_some_and(|of| Some(&of.label) != state.label.as_ref());
        let due = state.wake.is_some_and(|wake| wake <= now);
        let touched = served.of(type_url).is_some_and(|of| of.touch > state.touch);
        if !(state.dirty || due || state.withheld.is_some() || touched || unavailable.is_some()) {
            return;
        }
        let of = match served.of(type_url) {
            _ if state.refused => &*REFUSED,
            Some(of) => of,
            None if unavailable.is_some() => &*UNKNOWN,
            None => return,
        };
        state.wake = None;
        let removal = Removal::judge(now, type_url, state, served, others, &settings.timing);
        let view = View {
            now,
            store,
            subscription: &state.subscription,
            served: of,
            refused: state.refused,
            may_remove: removal.allowed,
            unavailable,
        };
        if let Some(stated) = state.stated.take_if(|_| !state.subscription.wildcard() || of.complete) {
            let hold_until = now + settings.timing.foreign_version;
            state.held.resume(&stated, settings.trust, hold_until, &view);
        }
        let Some(reach) = reach_of(
            type_url,
            variant,
            state.owed,
            state.silent,
            &state.turns,
            &state.held,
            &view,
            others,
            &settings.timing,
        ) else {
            state.wake = state.turns.expires(settings.timing.turn).filter(|expiry| *expiry > now);
            return;
        };
        let ready = reach == Reach::All && word_is_known(type_url, variant, &state.held, &view);
        if state.owed && !ready && variant == Variant::Sotw && type_url.full_state() {
            return;
        }
        let reach = if state.owed && !ready { Reach::Answers } else { reach };
        if state.silent {
            state.touch = of.touch;
        }
        let mut said = state.held.step(reach, &view);
        state.tell_variants(&mut said, store);
        state.note_withheld(now, said.withheld, &removal, others, type_url);
        state.wake = earliest(state.wake, said.wake);
        if reach == Reach::All {
            state.dirty = false;
        } else {
            state.wake = earliest(state.wake, state.turns.expires(settings.timing.turn).filter(|expiry| *expiry > now));
        }
        self.speak(now, type_url, of, said, reach, ready, store);
    }

    /// Makes the response of a step, if there is anything in it.
    #[allow(clippy::too_many_arguments)]
    fn speak(
        &mut self,
        now: Moment,
        type_url: &TypeUrl,
        of: &ServedType,
        said: Said,
        reach: Reach,
        ready: bool,
        store: &Store,
    ) {
        let speech = Speech { variant: self.variant, encoding: self.encoding(), split: self.settings.split };
        let turn = self.settings.timing.turn;
        let Some(state) = self.types.get_mut(type_url) else { return };
        let owed = state.owed && ready;
        let absent = breaks::on("C-037") && state.silent && said.resources.is_empty() && said.shared.is_none();
        if speech.says_nothing(type_url, &said, store) && !owed || absent {
            let open = state.turns.is_open(now, turn);
            if !open && said.is_empty() && said.shared.is_none() {
                self.beat(now, type_url, of, store);
            }
            return;
        }
        #[cfg(feature = "breaks")]
        let said = super::broken::repeat_errors(state, of, said);
        let frames = speech.frames(type_url, state, of, &said, store);
        let changed = match (&said.shared, type_url.kind()) {
            (_, kind) if kind != Kind::Cluster => Vec::new(),
            (Some((from, to)), _) => Said::between(from, to, store).resources,
            (None, _) => said.resources,
        };
        let first = state.silent;
        state.owed &= !owed;
        let beside = reach == Reach::Answers && self.variant == Variant::Delta;
        let label = match state.held.tree() {
            _ if breaks::on("C-043") && state.label.is_some() => state.label.clone().unwrap_or_default(),
            Some(tree) if breaks::on("C-044") => label_of("", tree),
            Some(tree) if !tree.same(&of.tree) || of.label.is_empty() => label_of(&of.label, tree),
            _ => of.label.clone(),
        };
        self.enqueue(now, type_url, frames, label, beside, of.received);
        if !changed.is_empty() {
            self.follow_up(&changed, first);
        }
    }

    /// Forwards the upstream's heartbeats (C-130, C-131).
    fn beat(&mut self, now: Moment, type_url: &TypeUrl, of: &ServedType, store: &Store) {
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
        parts.heartbeats = of
            .touched
            .iter()
            .filter(|(_, touch)| **touch > seen)
            .filter_map(|(name, _)| {
                let entry = of.tree.get(name)?;
                let held = state.held.entry(name)?;
                let covered = state.subscription.covers(name, entry.aliases());
                (covered && held.id() == entry.id()).then(|| entry.clone())
            })
            .collect();
        if parts.heartbeats.is_empty() {
            return;
        }
        let label = state.label.clone().unwrap_or_else(|| of.label.clone());
        let frames = store.frames(parts);
        self.enqueue(now, type_url, frames, label, false, of.received);
    }

    fn enqueue(
        &mut self,
        now: Moment,
        type_url: &TypeUrl,
        frames: Frames,
        label: Arc<str>,
        beside: bool,
        received: Moment,
    ) {
        let Some(state) = self.types.get_mut(type_url) else { return };
        let first = self.nonce + 1;
        for frame in frames.iter() {
            self.nonce += u64::from(!breaks::on("C-083") || self.nonce < first);
            if beside {
                state.turns.answer(self.nonce);
            }
            self.outbox.push_back(Response {
                type_url: type_url.clone(),
                variant: self.variant,
                nonce: self.nonce,
                label: label.clone(),
                frame: frame.clone(),
                received,
            });
        }
        if !beside {
            state.turns.push(first, self.nonce, now, received);
        }
        state.label = Some(label);
        state.silent = false;
        state.facts.sent = Some(now);
        self.spoke = true;
    }

    /// A new or changed EDS cluster waits for its assignment, even one that
    /// the client has (C-101); after the first CDS answer every one does (C-102).
    fn follow_up(&mut self, clusters: &[Arc<Entry>], first: bool) {
        let Some(state) = self.types.iter_mut().find(|(of, _)| of.kind() == Kind::Endpoint).map(|(_, state)| state)
        else {
            return;
        };
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
            eds.map(Name::from).filter(|name| state.subscription.covers(name, &[])).collect()
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

/// How far the type may go now; `None` where it must wait for its turn.
#[allow(clippy::too_many_arguments)]
fn reach_of(
    type_url: &TypeUrl,
    variant: Variant,
    owed: bool,
    silent: bool,
    turns: &super::Turns,
    held: &super::Held,
    view: &View<'_>,
    others: &mut Others,
    timing: &crate::xds::Timing,
) -> Option<Reach> {
    let open = turns.is_open(view.now, timing.turn) && !breaks::on("C-143");
    if open && type_url.kind() == Kind::Cluster {
        others.clusters_behind = held.is_behind(view);
    }
    let refers = type_url.refers() || matches!(type_url.kind(), Kind::Listener | Kind::VirtualHost);
    let overtakes = refers && others.clusters_behind && !silent && !breaks::on("C-106");
    match variant {
        Variant::Sotw if open => None,
        _ if open && breaks::on("C-108") => None,
        Variant::Sotw if overtakes && type_url.full_state() && !owed => None,
        _ if open || overtakes => Some(Reach::Answers),
        _ => Some(Reach::All),
    }
}

/// The first answer can be given: nothing it would leave out is merely unknown
/// (C-036, C-138).
fn word_is_known(type_url: &TypeUrl, variant: Variant, held: &super::Held, view: &View<'_>) -> bool {
    if view.subscription.wildcard() {
        return view.served.complete && !view.served.wildcard_awaited || breaks::on("C-138");
    }
    variant == Variant::Delta || !type_url.full_state() || !held.lacks_word(view.subscription.names(), view)
}

/// Whether removals of a type may go out (C-105).
struct Removal {
    allowed: bool,
    /// When to look again.
    next: Option<Moment>,
}

impl Removal {
    fn judge(
        now: Moment,
        type_url: &TypeUrl,
        state: &TypeState,
        served: &Served,
        others: &Others,
        timing: &crate::xds::Timing,
    ) -> Self {
        if !type_url.removals_settle() {
            return Self { allowed: true, next: None };
        }
        let since = state.withheld.unwrap_or(now);
        let (settled, latest) = (served.unsettled + timing.settle, since + timing.settle_most);
        let quiet = now >= settled.min(latest) || served.unsettled == Moment::START;
        let behind = others.referrer_dirty && now < latest;
        let before = match type_url.kind() {
            Kind::Cluster => others.listeners_withheld,
            Kind::Endpoint => others.clusters_withheld,
            _ => false,
        };
        let held_up = others.referrer_open || (before && now < latest + timing.turn);
        let moments = [settled, latest, latest + timing.turn];
        let next = moments.into_iter().chain(others.referrer_expires).filter(|moment| *moment > now).min();
        Self { allowed: quiet && !behind && !held_up || breaks::on("C-105"), next }
    }
}

impl TypeState {
    fn note_withheld(
        &mut self,
        now: Moment,
        withheld: bool,
        removal: &Removal,
        others: &mut Others,
        type_url: &TypeUrl,
    ) {
        if withheld {
            self.withheld.get_or_insert(now);
            self.wake = earliest(self.wake, removal.next);
        } else {
            self.withheld = None;
        }
        if type_url.kind() == Kind::Cluster {
            others.clusters_withheld = withheld;
        }
    }

    /// A variant that is asked for and not supported is an error, once (C-116).
    fn tell_variants(&mut self, said: &mut Said, store: &Store) {
        for (name, told) in self.variants.iter_mut().filter(|(_, told)| !**told) {
            *told = true;
            if !self.subscription.names().contains(name) {
                let text = "variants by dynamic parameters are not supported";
                let code = if breaks::on("C-128") { code::INTERNAL } else { code::UNIMPLEMENTED };
                said.errors.push((name.clone(), Status::new(code, text)));
            }
        }
        if !said.errors.is_empty() {
            said.unshare(store);
        }
    }
}

/// Turns what a step said into frames.
struct Speech {
    variant: Variant,
    encoding: Encoding,
    split: usize,
}

impl Speech {
    fn says_nothing(&self, type_url: &TypeUrl, said: &Said, store: &Store) -> bool {
        let full = type_url.full_state() && !breaks::on("C-034");
        let partial = self.variant == Variant::Sotw && !full && !breaks::on("C-035");
        match &said.shared {
            Some((from, to)) => {
                let step = store.diff(from, to);
                !step.changed.iter().any(|change| {
                    let had = change.from.as_ref().is_some_and(|entry| entry.is_present());
                    let has = change.to.as_ref().is_some_and(|entry| entry.is_present());
                    has || (had && !partial && !is_expired(change.to.as_deref()))
                })
            }
            None if partial => said.resources.is_empty() && said.errors.is_empty(),
            None => said.is_empty(),
        }
    }

    fn frames(&self, type_url: &TypeUrl, state: &TypeState, of: &ServedType, said: &Said, store: &Store) -> Frames {
        let full = type_url.full_state() && !breaks::on("C-031") || breaks::on("C-033");
        let whole = if self.variant == Variant::Sotw { full } else { breaks::on("C-070") };
        match &said.shared {
            Some((_, to)) if whole => {
                let none = content::Tree::default();
                store.step_frames(&none, to, self.encoding, type_url, || {
                    self.parts(type_url, Said::between(&none, to, store), whole)
                })
            }
            Some((from, to)) => store.step_frames(from, to, self.encoding, type_url, || {
                self.parts(type_url, Said::between(from, to, store), whole)
            }),
            None if whole => {
                let mut all = Said { errors: said.errors.clone(), ..Said::default() };
                all.resources = state.everything(of);
                store.frames(self.parts(type_url, all, whole))
            }
            None => {
                let said = Said {
                    resources: said.resources.clone(),
                    removed: said.removed.clone(),
                    errors: said.errors.clone(),
                    ..Said::default()
                };
                store.frames(self.parts(type_url, said, whole))
            }
        }
    }

    fn parts(&self, type_url: &TypeUrl, said: Said, whole: bool) -> Parts {
        let mut parts = Parts::new(type_url.clone(), self.encoding);
        parts.resources = said.resources;
        parts.errors = said.errors;
        if self.variant == Variant::Delta {
            parts.removed = said.removed;
        }
        parts.split = (!whole).then_some(self.split);
        #[cfg(feature = "breaks")]
        super::broken::parts(&mut parts);
        parts
    }
}

impl TypeState {
    /// SotW, full-state: all that the client is subscribed to and that exists,
    /// removals that are withheld included (C-031).
    fn everything(&self, of: &ServedType) -> Vec<Arc<Entry>> {
        let mut all: Vec<Arc<Entry>> = Vec::new();
        let Some(tree) = self.held.tree() else { return all };
        // Of an exception the client has what the exception says, not what the
        // tree does: told of its absence, it is not told otherwise again.
        let exceptions = self.held.exceptions();
        let in_step = |entry: &&Arc<Entry>| entry.is_present() && !exceptions.contains_key(entry.name());
        if self.subscription.wildcard() {
            all.extend(tree.iter().filter(in_step).cloned());
        } else {
            let names = self.subscription.names().iter();
            all.extend(names.filter_map(|name| tree.get(name).or_else(|| of.resolve(name)).filter(in_step).cloned()));
        }
        for (name, exception) in exceptions {
            if let Has::Present(entry) = &exception.has
                && self.subscription.covers(name, entry.aliases())
            {
                all.push(entry.clone());
            }
        }
        let mut seen = std::collections::HashSet::new();
        all.retain(|entry| seen.insert(entry.name().clone()));
        all
    }
}

fn is_expired(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| matches!(entry.body(), Body::Expired))
}
