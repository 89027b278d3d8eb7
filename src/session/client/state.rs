//! One type on one of our streams: what was asked and when, what came, what
//! the answers to it are.

use super::parts::Part;
use super::subscription::{Ask, Set, Subscription};
use super::validate::Valid;
use crate::breaks;
use crate::session::{Update, Want};
use crate::xds::envelope::Envelope;
use crate::xds::name::{Glob, WILDCARD};
use crate::xds::time::earliest;
use crate::xds::{Kind, Moment, Name, Status, TypeUrl, Variant};
use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// An ACK or NACK that is due.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) nonce: String,
    pub(super) error: Option<Status>,
}

/// What a commit acknowledges.
#[derive(Clone, Debug)]
struct Receipt {
    nonce: String,
    version: Arc<str>,
}

/// How far the question for `*` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Star {
    NotAsked,
    Awaited {
        at: Moment,
        /// Asked by the first request of the type: the first response is the
        /// answer. Later ones may cross a response to what was asked before.
        first: bool,
        /// A response came since that may have crossed it.
        crossed: bool,
    },
    Answered,
}

#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) type_url: TypeUrl,
    variant: Variant,
    pub(super) subscription: Subscription,
    /// The number of the newest name that was to be asked again.
    again: u64,
    /// What of the last ask is still to be written.
    pub(super) parts: VecDeque<Part>,
    /// Names and versions held, until the first request states them.
    held: Vec<(Name, String)>,
    /// SotW: asked names that were received, here or on an earlier stream.
    known: HashSet<Name>,
    /// SotW: asked names of which nothing can be said yet, with the moment
    /// their request was written (C-118).
    awaited: BTreeMap<Name, Moment>,
    /// Of these the ones that a response has left out since: it may predate the
    /// request, so that only silence after it is proof.
    doubted: HashSet<Name>,
    /// SotW, full-state type: asked names of which there was no word at all. What is
    /// held of them stays, until a response that comes at last leaves them out.
    unheard: HashSet<Name>,
    star: Star,
    /// The oldest ask that nothing answered.
    asked_at: Option<Moment>,
    /// Silence is no answer to it.
    loud: bool,
    pub(super) answered: bool,
    /// The newest nonce, accepted or not.
    pub(super) nonce: String,
    /// SotW: the version of the last committed response.
    pub(super) version: Arc<str>,
    label: Arc<str>,
    control_plane: Arc<str>,
    answers: VecDeque<Answer>,
    /// The newest nonce that was answered.
    last_answered: String,
    /// Updates handed out or queued, oldest first; `None` for those that no
    /// response caused.
    uncommitted: VecDeque<Option<Receipt>>,
}

impl TypeState {
    pub(super) fn new(type_url: TypeUrl, variant: Variant) -> Self {
        Self {
            subscription: Subscription::new(&type_url),
            type_url,
            variant,
            again: 0,
            parts: VecDeque::new(),
            held: Vec::new(),
            known: HashSet::new(),
            doubted: HashSet::new(),
            unheard: HashSet::new(),
            awaited: BTreeMap::new(),
            star: Star::NotAsked,
            asked_at: None,
            loud: false,
            answered: false,
            nonce: String::new(),
            version: "".into(),
            label: "".into(),
            control_plane: "".into(),
            answers: VecDeque::new(),
            last_answered: String::new(),
            uncommitted: VecDeque::new(),
        }
    }

    pub(super) fn set_want(&mut self, want: &Want, held: impl FnOnce() -> Vec<(Name, String)>) {
        self.subscription.set_want(Set::new(want.wildcard, want.names.clone()));
        if !want.again.is_empty() {
            let new = want.again.iter().filter(|(number, _)| *number > self.again);
            self.subscription.ask_again(new.map(|(_, name)| name));
            self.again = want.again.iter().map(|(number, _)| *number).fold(self.again, u64::max);
        }
        if self.subscription.asked().is_none() {
            self.held = held();
        }
    }

    /// Nothing is to be asked. What was asked may have been taken back meanwhile.
    pub(super) fn asks_nothing(&mut self) {
        if self.subscription.asked().is_some_and(Set::is_empty) {
            (self.asked_at, self.loud) = (None, false);
        }
    }

    /// The ACK or NACK to send next. SotW answers only the newest response.
    pub(super) fn take_answer(&mut self) -> Option<Answer> {
        self.answers.pop_front()
    }

    /// The next part of an ask that took several requests. An answer to the part
    /// before is none to this one.
    pub(super) fn take_part(&mut self, now: Moment) -> Option<Part> {
        let part = self.parts.pop_front()?;
        if !part.subscribe.is_empty() {
            self.asked_at.get_or_insert(now);
            self.loud = true;
        }
        Some(part)
    }

    /// A request of SotW is an answer to the newest response: it waits until
    /// that one is committed.
    pub(super) fn must_wait(&self) -> bool {
        self.variant == Variant::Sotw && self.uncommitted.iter().any(Option::is_some)
    }

    /// Takes the versions to state in the first request: of what is held and
    /// asked, empty ones too (C-134). Some servers subscribe to every name
    /// stated here (C-195), so that nothing else may be. SotW states none.
    pub(super) fn take_initial(&mut self) -> Vec<(Name, String)> {
        let held = std::mem::take(&mut self.held);
        if self.variant == Variant::Sotw {
            self.known.extend(held.into_iter().map(|(name, _)| name));
            return Vec::new();
        }
        let asked = self.subscription.asked();
        held.into_iter().filter(|(name, _)| asked.is_some_and(|asked| asked.covers(name, &[]))).collect()
    }

    /// Books a request that was just written. `initial` is what it stated.
    pub(super) fn asked(&mut self, now: Moment, ask: &Ask, initial: &[(Name, String)]) {
        for name in &ask.drops {
            self.awaited.remove(name);
            self.doubted.remove(name);
            self.unheard.remove(name);
            if self.variant == Variant::Sotw && self.subscription.is_asked(name) && Glob::parse(name).is_none() {
                // It is subscribed again next: a response without it proves nothing.
                self.awaited.insert(name.clone(), now);
            }
        }
        match self.subscription.asked() {
            Some(asked) if asked.wildcard() => {
                if ask.adds_wildcard {
                    self.star = Star::Awaited { at: now, first: ask.first, crossed: false };
                }
            }
            _ => self.star = Star::NotAsked,
        }
        if self.variant == Variant::Sotw {
            self.await_names(now, ask);
        }
        if self.subscription.asked().is_none_or(Set::is_empty) {
            (self.asked_at, self.loud) = (None, false);
        }
        if !ask.adds_wildcard && ask.adds.is_empty() {
            return;
        }
        // A server may be silent about named resources whose stated version is
        // current (C-094 leaves it the choice).
        let versions: HashSet<&Name> =
            initial.iter().filter(|(_, version)| !version.is_empty()).map(|(name, _)| name).collect();
        let stated = self.variant == Variant::Delta && ask.first && ask.adds.iter().all(|name| versions.contains(name));
        self.loud |= ask.adds_wildcard || !stated;
        self.asked_at.get_or_insert(now);
    }

    fn await_names(&mut self, now: Moment, ask: &Ask) {
        let whole = self.type_url.full_state() && ask.first;
        for name in ask.adds.iter().filter(|name| Glob::parse(name).is_none()) {
            // What left it out before was no answer to this.
            self.doubted.remove(name);
            if !(whole && self.known.contains(name)) {
                self.awaited.insert(name.clone(), now);
            }
        }
    }

    /// A response is refused: its nonce is the newest, and nothing else changed.
    pub(super) fn refuse(&mut self, nonce: &str, error: Status) {
        self.nonce = nonce.into();
        self.answer(nonce.into(), Some(error));
    }

    /// Turns a valid response into an update. The number is that of the
    /// resources and removals left out because nobody asked for them.
    pub(super) fn accept(&mut self, now: Moment, envelope: Envelope, valid: Valid) -> (Update, usize) {
        let asked = self.subscription.asked().cloned().unwrap_or_default();
        let Valid { mut resources, opaque, heartbeat } = valid;
        let (before, mut removed, mut errors) =
            (resources.len() + envelope.removed.len(), envelope.removed, envelope.errors);
        // On-demand workloads answer under names of their own (C-196).
        let any = opaque || self.type_url.kind() == Kind::Workload && !asked.is_empty();
        resources
            .retain(|resource| any || resource.name.as_ref().is_some_and(|name| asked.covers(name, &resource.aliases)));
        // A removal of what is no longer asked says that, and not that it is
        // gone: some servers list what leaves with `-*` (C-064).
        removed.retain(|name| any || asked.covers(name, &[]));
        errors.retain(|(name, _)| &**name != WILDCARD && asked.covers(name, &[]));
        let dropped = before - resources.len() - removed.len();

        self.label = envelope.label.into();
        self.control_plane = envelope.control_plane.into();
        self.nonce = envelope.nonce.clone();
        (self.asked_at, self.loud, self.answered) = (None, false, true);
        let mut update = Update { resources, removed, errors, ..self.bare_update(now) };
        update.answers_wildcard = !heartbeat && self.hear_star(&asked, &update);
        if self.variant == Variant::Sotw {
            self.hear_sotw(&asked, opaque, heartbeat, &mut update);
        }
        self.uncommitted.push_back(Some(Receipt { nonce: envelope.nonce, version: self.label.clone() }));
        (update, dropped)
    }

    fn bare_update(&self, now: Moment) -> Update {
        Update {
            type_url: self.type_url.clone(),
            label: self.label.clone(),
            control_plane: self.control_plane.clone(),
            resources: Vec::new(),
            removed: Vec::new(),
            silent: Vec::new(),
            errors: Vec::new(),
            whole: false,
            answers_wildcard: false,
            received: now,
        }
    }

    /// Is this response an answer to `*`? One to a `*` that was asked late may
    /// have crossed it, unless it says something that only `*` explains.
    fn hear_star(&mut self, asked: &Set, update: &Update) -> bool {
        let Star::Awaited { at, first, crossed } = self.star else { return self.star == Star::Answered };
        let explained = update
            .resources
            .iter()
            .any(|resource| resource.name.as_ref().is_some_and(|name| !asked.names_it(name, &resource.aliases)));
        let says_nothing = update.resources.is_empty() && update.removed.is_empty();
        let answer = first || crossed || explained || says_nothing;
        self.star = if answer { Star::Answered } else { Star::Awaited { at, first, crossed: true } };
        answer
    }

    /// What a SotW response says by omission (C-118b, C-119).
    fn hear_sotw(&mut self, asked: &Set, opaque: bool, heartbeat: bool, update: &mut Update) {
        let here: HashSet<Name> = update.resources.iter().filter_map(|resource| resource.name.clone()).collect();
        for (name, _) in &update.errors {
            self.awaited.remove(name);
        }
        if (self.type_url.full_state() && !breaks::on("C-141") || breaks::on("C-119")) && !heartbeat {
            let missing = |name: &&Name| !here.contains(*name);
            let late: Vec<Name> = self.unheard.iter().filter(missing).cloned().collect();
            self.unheard.clear();
            self.awaited.extend(late.into_iter().map(|name| (name, update.received)));
            // A response that may predate the request for a name proves nothing of it.
            let doubted: Vec<Name> = self.awaited.keys().filter(missing).cloned().collect();
            let fresh = doubted.iter().any(|name| self.known.contains(name));
            self.doubted.extend(doubted);
            if update.answers_wildcard && !fresh {
                update.whole = true;
                self.known = here.clone();
            } else {
                let (wildcard, awaited) = (update.answers_wildcard, &self.awaited);
                self.known.retain(|name| {
                    let asked = wildcard || asked.names_it(name, &[]);
                    let gone = asked && missing(&name) && !awaited.contains_key(name);
                    if gone {
                        update.removed.push(name.clone());
                    }
                    !gone
                });
            }
        } else {
            update.whole = opaque && !heartbeat;
        }
        for name in here {
            self.awaited.remove(&name);
            self.doubted.remove(&name);
            self.known.insert(name);
        }
    }

    /// An update of this type is committed: its response is acknowledged.
    pub(super) fn committed(&mut self) {
        if let Some(Some(receipt)) = self.uncommitted.pop_front() {
            self.version = receipt.version;
            self.answer(receipt.nonce, None);
        }
    }

    /// At most one answer for each nonce; an empty one cannot be answered.
    fn answer(&mut self, nonce: String, error: Option<Status>) {
        if nonce.is_empty() || nonce == self.last_answered {
            return;
        }
        if self.variant == Variant::Sotw {
            if nonce != self.nonce {
                return;
            }
            self.answers.clear();
        }
        self.last_answered.clone_from(&nonce);
        self.answers.push_back(Answer { nonce, error });
    }

    /// Draws conclusions from silence that has lasted `absent`. Only of a
    /// stream that has said something: else nobody may be listening.
    /// The flag says that an ask is answered by silence: the server has nothing
    /// to say about it.
    pub(super) fn tick(&mut self, now: Moment, absent: Duration) -> (bool, Option<Update>) {
        let absent = if breaks::on("C-120") { absent * 4 } else { absent };
        let due = |at: &Moment| now >= *at + absent;
        let over: Vec<Name> = self.awaited.iter().filter(|(_, at)| due(at)).map(|(name, _)| name.clone()).collect();
        for name in &over {
            self.awaited.remove(name);
        }
        // What was left out since is gone; of all else there was no word at all.
        let (mut removed, mut silent): (Vec<_>, Vec<_>) = over.into_iter().partition(|name| self.doubted.remove(name));
        removed.retain(|name| self.subscription.is_asked(name));
        silent.retain(|name| self.subscription.is_asked(name));
        if self.type_url.full_state() {
            self.unheard.extend(silent.iter().cloned());
        }
        for name in &removed {
            self.known.remove(name);
        }
        let star = matches!(&self.star, Star::Awaited { at, crossed: true, .. } if due(at));
        if star {
            self.star = Star::Answered;
        }
        let silence = self.asked_at.is_some_and(|at| due(&at)) && !matches!(self.star, Star::Awaited { .. });
        if silence {
            (self.asked_at, self.loud, self.answered) = (None, false, true);
        }
        if removed.is_empty() && silent.is_empty() && !star {
            return (silence, None);
        }
        self.uncommitted.push_back(None);
        (silence, Some(Update { removed, silent, answers_wildcard: star, ..self.bare_update(now) }))
    }

    /// When [`tick`](Self::tick) has something to say.
    pub(super) fn deadline(&self, absent: Duration) -> Option<Moment> {
        let (star, named) = match self.star {
            Star::Awaited { at, crossed: true, .. } => (Some(at), None),
            Star::Awaited { .. } => (None, None),
            _ => (None, self.asked_at),
        };
        let awaited = self.awaited.values().min().copied();
        earliest(awaited, earliest(star, named)).map(|at| at + absent)
    }

    /// Since when an ask waits, where silence is no answer. A server that has
    /// spoken since may be silent about names it does not have.
    pub(super) fn unanswered(&self, last_heard: Option<Moment>) -> Option<Moment> {
        let at = self.asked_at.filter(|_| self.loud)?;
        let wildcard = matches!(self.star, Star::Awaited { .. });
        (wildcard || last_heard.is_none_or(|heard| heard < at)).then_some(at)
    }
}
