//! One type of one group: what is held, who wants it, what is subscribed.
//!
//! Every method takes the [`Scene`]: the moment, and whether the upstream can
//! answer. What a change concerns is noted here and drained by
//! [`GroupState`](super::core::GroupState): members to wake, and whether the
//! subscription or what is served is another.

use super::again::Again;
use super::apart::Apart;
use super::core::MemberId;
use super::expiry::Expiry;
use super::interest::{Interest, Marks, Moved};
use super::label::{Labels, Step};
use super::lease::{Leases, Phase};
use super::pulse::Pulse;
use super::recalled::Recalled;
use super::waiting::Waiting;
use crate::breaks;
use crate::content::{Body, Changed, Entry, NameSet, Store, Tree};
use crate::session::Want;
use crate::xds::name::Glob;
use crate::xds::{Moment, Name, Status, Timing, TypeUrl};
use std::cell::Cell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// What every step needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scene<'a> {
    pub(super) now: Moment,
    pub(super) store: &'a Store,
    pub(super) timing: &'a Timing,
    /// An upstream stream stands and answers.
    pub(super) connected: bool,
    pub(super) rtt: Duration,
    /// The group is one stream's own (see [`GroupState::private`](super::core::GroupState::private)).
    pub(super) private: bool,
    /// The newest number of a name that was given up and is wanted again.
    pub(super) numbers: &'a Cell<u64>,
}

/// What is to be told of a type after a step.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Sets and members to wake, and whether all members with the wildcard.
    pub(super) marks: Marks,
    pub(super) members: Vec<MemberId>,
    pub(super) wildcards: bool,
    /// The subscription upstream is another.
    pub(super) asks: bool,
    /// What a stream sees is another.
    pub(super) serve: bool,
    /// The upstream's own versions are others.
    pub(super) versions: bool,
}

#[derive(Debug)]
pub(super) struct GroupType {
    pub(super) url: TypeUrl,
    /// What the upstream said last, and the index of its aliases.
    pub(super) tree: Tree,
    pub(super) aliases: Tree,
    /// The upstream's own versions, where it gives any: in each entry's `extra`.
    /// A tree like any other, so that equal groups share it.
    pub(super) versions: Tree,
    /// The newest errors that did not replace what is held; bounded.
    pub(super) errors: VecDeque<(Moment, Name, Status)>,
    pub(super) interest: Interest,
    /// Assignments that clusters of the group refer to: wanted before any
    /// sidecar asks.
    pub(super) referred: Arc<NameSet>,
    pub(super) leases: Leases,
    pub(super) wildcard: Option<Phase>,
    /// The upstream has answered `*`.
    pub(super) complete: bool,
    pub(super) wildcard_awaited: Option<Moment>,
    /// Unconfirmed names that are wanted again.
    pub(super) awaited: Waiting,
    /// Assignments whose follow-up waits for the upstream's own (C-101).
    pub(super) restating: Waiting,
    /// How many members each glob that is wanted, or was, has.
    pub(super) globs: HashMap<Name, usize>,
    pub(super) expiry: Expiry,
    pub(super) labels: Labels,
    pub(super) pulse: Pulse,
    pub(super) touch: u64,
    pub(super) touched: Arc<BTreeMap<Name, u64>>,
    pub(super) received: Moment,
    pub(super) committed: Moment,
    /// What another process held, as far as the upstream has not spoken.
    pub(super) recalled: Recalled,
    /// Names whose resources must not be kept here (C-145).
    pub(super) apart: Apart,
    /// On-demand workloads that nobody asked for and that are gone, oldest first.
    pub(super) buried: VecDeque<(Moment, Name)>,
    pub(super) notes: Notes,
    union: Option<Arc<NameSet>>,
    again: Again,
}

impl GroupType {
    pub(super) fn new(url: TypeUrl) -> Self {
        Self {
            url,
            tree: Tree::default(),
            aliases: Tree::default(),
            versions: Tree::default(),
            errors: VecDeque::new(),
            interest: Interest::default(),
            referred: Arc::default(),
            leases: Leases::default(),
            wildcard: None,
            complete: false,
            wildcard_awaited: None,
            awaited: Waiting::default(),
            restating: Waiting::default(),
            globs: HashMap::new(),
            expiry: Expiry::default(),
            labels: Labels::default(),
            pulse: Pulse::default(),
            touch: 0,
            touched: Arc::default(),
            received: Moment::START,
            committed: Moment::START,
            recalled: Recalled::default(),
            apart: Apart::default(),
            buried: VecDeque::new(),
            notes: Notes { serve: true, ..Notes::default() },
            union: None,
            again: Again::default(),
        }
    }

    // What is held, and what covers it.

    /// The entry that `name`, canonical or alias, stands for.
    pub(super) fn resolve(&self, name: &str) -> Option<&Arc<Entry>> {
        self.tree.get(name).or_else(|| self.tree.get(self.aliases.get(name)?.aliases().first()?))
    }

    pub(super) fn wildcard_subscribed(&self) -> bool {
        self.wildcard.is_some_and(Phase::is_subscribed)
    }

    /// Somebody wants this very name.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.interest.wants(name) || self.referred.contains(name)
    }

    /// This very name is subscribed upstream.
    pub(super) fn is_subscribed(&self, name: &str) -> bool {
        self.is_wanted(name) || self.leases.is_lingering(name)
    }

    pub(super) fn phase(&self, name: &str) -> Option<Phase> {
        if self.is_wanted(name) { Some(Phase::Wanted) } else { self.leases.phase(name) }
    }

    /// Subscribed by a name of its own: canonical or alias.
    pub(super) fn named(&self, name: &str, aliases: &[Name]) -> bool {
        self.is_subscribed(name) || aliases.iter().any(|alias| self.is_subscribed(alias))
    }

    fn glob_subscribed(&self, name: &str) -> bool {
        !self.globs.is_empty() && Glob::over(name).is_some_and(|glob| self.is_subscribed(&glob))
    }

    /// Subscribed upstream, in whatever way.
    pub(super) fn covers(&self, name: &str, aliases: &[Name]) -> bool {
        self.wildcard_subscribed() || self.named(name, aliases) || self.glob_subscribed(name)
    }

    /// Is anything of the type subscribed upstream?
    pub(super) fn is_asked(&self) -> bool {
        self.wildcard_subscribed()
            || self.interest.name_count() > 0
            || !self.referred.is_empty()
            || self.leases.lingering() > 0
    }

    /// Nobody wants anything of it, and nothing of it is held.
    pub(super) fn is_over(&self) -> bool {
        self.interest.is_empty()
            && self.referred.is_empty()
            && self.leases.is_empty()
            && self.wildcard.is_none()
            && self.tree.is_empty()
            // The upstream side knows that nothing is subscribed.
            && self.union.as_ref().is_some_and(|names| names.is_empty())
    }

    /// Is what is held for `name`, which was not subscribed until now, what the
    /// upstream says? So it is where another subscription covers it.
    fn is_confirmed(&self, name: &str) -> bool {
        if self.wildcard_subscribed() && self.complete && self.wildcard_awaited.is_none() || self.glob_subscribed(name)
        {
            return true;
        }
        let Some(entry) = self.resolve(name) else { return false };
        let mut names = entry.aliases().iter().chain([entry.name()]);
        names.any(|other| **other != *name && self.is_subscribed(other))
    }

    fn holds(&self, name: &str) -> bool {
        self.globs.get(name).is_some_and(|members| *members > 0) || self.resolve(name).is_some()
    }

    // What is wanted.

    /// A member's interest changed.
    pub(super) fn interest_moved(&mut self, scene: &Scene<'_>, moved: Moved) -> Vec<Changed> {
        let mut dropped = Vec::new();
        if moved.wildcard == Some(true) {
            dropped = self.take_wildcard(scene);
        }
        let referred = self.referred.clone();
        for name in moved.gained.iter().filter(|name| !referred.contains(name)) {
            self.gained(scene, name);
        }
        for name in moved.lost.iter().filter(|name| !referred.contains(name)) {
            self.lost(scene, name);
        }
        if moved.wildcard == Some(false) {
            self.wildcard = Some(Phase::Lingering(self.after(scene, scene.timing.linger)));
            self.wildcard_awaited = None;
        }
        if scene.private && !breaks::on("C-145") {
            // What was fetched for one subscription is not there for the next.
            let ended = self.end_leases(scene);
            self.install(scene, &ended);
            dropped.extend(ended);
        }
        dropped
    }

    /// Clusters of the group refer to these assignments now.
    pub(super) fn refer(&mut self, scene: &Scene<'_>, referred: Arc<NameSet>) {
        let before = std::mem::replace(&mut self.referred, referred.clone());
        let only = |a: &Arc<NameSet>, b: &Arc<NameSet>| -> Vec<Name> {
            a.iter().filter(|name| !b.contains(name)).cloned().collect()
        };
        for name in only(&referred, &before) {
            if !self.interest.wants(&name) {
                self.gained(scene, &name);
            }
        }
        for name in only(&before, &referred) {
            if !self.interest.wants(&name) {
                self.lost(scene, &name);
            }
        }
    }

    /// `name` has come to be wanted. Where it is held but unconfirmed, it waits
    /// for the upstream's word.
    fn gained(&mut self, scene: &Scene<'_>, name: &Name) {
        let before = self.leases.end(name);
        if before.is_some_and(Phase::is_subscribed) {
            return;
        }
        if before.is_none() && Glob::parse(name).is_some() {
            let members = self.glob_members(name).count();
            self.globs.insert(name.clone(), members);
        }
        self.again.gained(name, scene.numbers);
        self.subscription_changed();
        if scene.connected && self.holds(name) && !self.is_confirmed(name) {
            self.awaited.insert(name, scene.now + scene.timing.reconfirm);
            self.notes.serve = true;
        }
    }

    /// Nobody wants `name` any more.
    fn lost(&mut self, scene: &Scene<'_>, name: &Name) {
        self.leases.linger(name, self.after(scene, scene.timing.linger));
        self.notes.serve |= self.awaited.remove(name);
    }

    /// What is held without a subscription was stated when the type was first
    /// asked for on this stream, if ever. Asked for later, the wildcard is answered
    /// with what exists, and nothing says what does not: so it goes, and what
    /// exists comes back.
    fn take_wildcard(&mut self, scene: &Scene<'_>) -> Vec<Changed> {
        let before = self.wildcard;
        if before.is_some_and(Phase::is_subscribed) {
            self.wildcard = Some(Phase::Wanted);
            return Vec::new();
        }
        let mut dropped = Vec::new();
        if self.pulse.has_begun() {
            let unsaid = self.tree.iter().filter(|entry| !self.covers(entry.name(), entry.aliases()));
            dropped.extend(unsaid.map(|entry| Changed {
                name: entry.name().clone(),
                from: Some(entry.clone()),
                to: None,
            }));
            self.install(scene, &dropped);
            self.labels.local(&self.tree, Step::Nothing);
            self.complete = false;
        } else if before.is_some() && self.complete && scene.connected {
            self.wildcard_awaited = Some(scene.now + scene.timing.reconfirm);
        }
        self.wildcard = Some(Phase::Wanted);
        self.wildcard_changed();
        dropped
    }

    fn wildcard_changed(&mut self) {
        self.notes.asks = true;
        self.notes.serve = true;
    }

    pub(super) fn subscription_changed(&mut self) {
        self.union = None;
        self.notes.asks = true;
    }

    fn after(&self, scene: &Scene<'_>, span: Duration) -> Duration {
        self.pulse.synced_for(scene.now) + span
    }

    /// All that is subscribed upstream, for who subscribes it.
    pub(super) fn wanted(&mut self, store: &Store) -> Want {
        let names = self.union(store);
        let again = self.again.read(&names);
        Want { again, ..Want::new(self.url.clone(), self.wildcard_subscribed(), names) }
    }

    fn union(&mut self, store: &Store) -> Arc<NameSet> {
        if self.union.is_none() {
            self.union = Some(self.make_union(store));
        }
        self.union.clone().unwrap_or_default()
    }

    fn make_union(&self, store: &Store) -> Arc<NameSet> {
        let lingering = self.leases.lingering_names();
        let (base, other) = match self.interest.only_set() {
            Some(only) => (only.clone(), &self.referred),
            None if self.interest.name_count() == 0 => (self.referred.clone(), &self.referred),
            None => (store.names(self.interest.names()), &self.referred),
        };
        // Mostly these are one set, and few linger.
        let both = if Arc::ptr_eq(&base, other) { base } else { store.names_with(&base, other.iter()) };
        let all = store.names_with(&both, &lingering);
        if self.apart.is_empty() { all } else { store.names_without(&all, self.apart.names()) }
    }

    /// The names subscribed by themselves, in ascending order.
    pub(super) fn subscribed_names(&mut self, store: &Store) -> Arc<NameSet> {
        self.union(store)
    }

    // What the upstream's answers end.

    /// The upstream has spoken about `name`.
    pub(super) fn answered(&mut self, name: &str) {
        self.again.answered(name);
        if self.restating.remove(name) {
            self.unblock(name);
        }
        if self.awaited.remove(name) {
            self.unblock(name);
        }
    }

    /// The upstream has answered `*`.
    pub(super) fn answered_wildcard(&mut self) {
        if !self.complete || self.wildcard_awaited.take().is_some() {
            self.complete = true;
            self.notes.serve = true;
            self.notes.members.extend(self.interest.everybody());
        }
    }

    /// The stream ended. A wildcard that has lingered long enough ends only here:
    /// were it unsubscribed and subscribed again on one delta stream, nothing
    /// would say what was removed between. A new stream states what is held.
    pub(super) fn stream_ended(&mut self, scene: &Scene<'_>, heard: Option<Moment>) {
        self.pulse.closed(scene.now, heard);
        self.recalled.stream_ended();
        self.stop_waiting();
        let synced = self.pulse.synced_for(scene.now);
        if matches!(self.wildcard, Some(Phase::Lingering(until)) if until <= synced) {
            self.wildcard = Some(Phase::Idle(synced + scene.timing.evict));
            self.wildcard_changed();
        }
    }

    /// Nothing can be waited for any more: what is held is served.
    fn stop_waiting(&mut self) {
        for name in self.awaited.names().into_iter().chain(self.restating.names()) {
            self.answered(&name);
        }
        if self.wildcard_awaited.take().is_some() {
            self.notes.serve = true;
            self.notes.wildcards = true;
        }
    }

    fn unblock(&mut self, name: &str) {
        self.notes.serve = true;
        self.notes.wildcards = true;
        self.interest.mark(name, &mut self.notes.marks);
    }

    /// A cluster that refers to the assignment `name` is new or changed: its
    /// follow-up waits for the upstream's own, if that is to be expected (C-101).
    pub(super) fn restate(&mut self, scene: &Scene<'_>, name: &Name) {
        let subscribed = self.wildcard_subscribed() || self.is_subscribed(name);
        if scene.connected && subscribed && self.resolve(name).is_some_and(|entry| entry.is_present()) {
            self.restating.insert(name, scene.now + scene.timing.follow_up + scene.rtt);
            self.notes.serve = true;
        }
    }

    // Time.

    /// Ends what has waited, lingered or lived long enough.
    pub(super) fn tick(&mut self, scene: &Scene<'_>) -> Vec<Changed> {
        self.pulse.tick(scene.now, scene.timing);
        self.hear_silence(scene);
        while let Some(name) = self.awaited.pop(scene.now) {
            self.unblock(&name);
        }
        while let Some(name) = self.restating.pop(scene.now) {
            self.unblock(&name);
        }
        if self.wildcard_awaited.is_some_and(|until| until <= scene.now) {
            self.answered_wildcard();
        }
        let mut changed = self.expire(scene);
        if !changed.is_empty() {
            self.install(scene, &changed);
            self.labels.local(&self.tree, Step::Rewrote);
        }
        let dropped = self.end_leases(scene);
        if !dropped.is_empty() {
            self.install(scene, &dropped);
            self.labels.local(&self.tree, Step::Nothing);
        }
        changed.extend(dropped);
        changed
    }

    pub(super) fn expire(&mut self, scene: &Scene<'_>) -> Vec<Changed> {
        let mut changed = Vec::new();
        while let Some(name) = self.expiry.pop(scene.now) {
            if let Some(entry) = self.tree.get(&name).filter(|entry| entry.is_present()) {
                let expired = scene.store.entry(name.clone(), Body::Expired, entry.attributes().clone());
                changed.push(Changed { name, from: Some(entry.clone()), to: Some(expired) });
            }
        }
        changed
    }

    /// What goes out of the tree because nobody wants it.
    fn end_leases(&mut self, scene: &Scene<'_>) -> Vec<Changed> {
        // By name: one entry may go for several reasons.
        let mut gone: BTreeMap<Name, Arc<Entry>> = BTreeMap::new();
        let synced = self.pulse.synced_for(scene.now);
        while let Some(name) = self.leases.lingered(synced).filter(|_| !breaks::on("C-140")) {
            gone.extend(self.end_linger(scene, &name).map(|entry| (entry.name().clone(), entry)));
        }
        while let Some(name) = self.leases.expired(synced) {
            gone.extend(self.evict(&name).into_iter().map(|entry| (entry.name().clone(), entry)));
        }
        match self.wildcard {
            Some(Phase::Idle(until)) if until <= synced => {
                self.wildcard = None;
                self.complete = false;
                let unowned = |entry: &&Arc<Entry>| {
                    let mut names = entry.aliases().iter().chain([entry.name()]);
                    names.all(|name| self.phase(name).is_none()) && !self.glob_subscribed(entry.name())
                };
                gone.extend(self.tree.iter().filter(unowned).map(|entry| (entry.name().clone(), entry.clone())));
                let apart: Vec<_> =
                    self.apart.names().iter().filter(|name| !self.is_subscribed(name)).cloned().collect();
                apart.iter().for_each(|name| self.notes.serve |= self.apart.remove(name));
            }
            _ => {}
        }
        gone.into_iter().map(|(name, entry)| Changed { name, from: Some(entry), to: None }).collect()
    }

    /// The name is unsubscribed. What is present is held on, unconfirmed; that a
    /// name is absent or in error is worth nothing without a subscription.
    fn end_linger(&mut self, scene: &Scene<'_>, name: &Name) -> Option<Arc<Entry>> {
        self.leases.park(name, self.after(scene, scene.timing.evict));
        self.subscription_changed();
        if self.globs.get(name).is_some_and(|members| *members > 0) {
            return None;
        }
        let entry = self.resolve(name).cloned();
        let useless =
            entry.as_ref().filter(|entry| !entry.is_present() && !self.named(entry.name(), entry.aliases())).cloned();
        if useless.is_some() || entry.is_none_or(|entry| self.covers(entry.name(), entry.aliases())) {
            self.forget(name);
        }
        useless
    }

    fn evict(&mut self, name: &Name) -> Vec<Arc<Entry>> {
        let uncovered = |entry: &&Arc<Entry>| !self.covers(entry.name(), entry.aliases());
        let gone = match self.globs.contains_key(name) {
            true => self.glob_members(name).filter(uncovered).cloned().collect(),
            false => self.resolve(name).filter(uncovered).cloned().into_iter().collect(),
        };
        self.forget(name);
        gone
    }

    /// Nobody wants anything any more: what is present is held on, unconfirmed, to
    /// be evicted as what a wildcard left is; with it the names that a set that is
    /// complete lacks (C-145). Nothing else is kept, so that a
    /// group without members costs its content, which others may share.
    pub(super) fn rest(&mut self, scene: &Scene<'_>) -> Vec<Changed> {
        if !self.interest.is_empty() || !self.referred.is_empty() {
            return Vec::new();
        }
        let useless = self.tree.iter().filter(|entry| !entry.is_present());
        let gone = |entry: &Arc<Entry>| Changed { name: entry.name().clone(), from: Some(entry.clone()), to: None };
        let dropped: Vec<_> = useless.map(gone).collect();
        self.install(scene, &dropped);
        self.leases = Leases::default();
        self.globs.clear();
        if !self.complete {
            self.apart.clear();
        }
        self.wildcard = Some(Phase::Idle(self.after(scene, scene.timing.evict)));
        self.subscription_changed();
        self.notes.serve = true;
        dropped
    }

    fn forget(&mut self, name: &Name) {
        self.leases.end(name);
        self.globs.remove(name);
        if !self.apart.is_empty() && !self.covers(name, &[]) {
            self.notes.serve |= self.apart.remove(name);
        }
    }

    /// What a glob covers among what is held and present.
    pub(super) fn glob_members<'a>(&'a self, glob: &'a str) -> impl Iterator<Item = &'a Arc<Entry>> {
        let parsed = Glob::parse(glob);
        let covered = move |entry: &&Arc<Entry>| parsed.is_some_and(|glob| glob.covers(entry.name()));
        self.tree.iter().filter(covered).filter(|entry| entry.is_present())
    }

    /// When [`tick`](Self::tick) has something to do.
    pub(super) fn deadline(&self, now: Moment, timing: &Timing) -> Option<Moment> {
        let wildcard = match self.wildcard {
            Some(Phase::Idle(until)) => Some(until),
            _ => None,
        };
        [
            self.awaited.deadline(),
            self.restating.deadline(),
            self.wildcard_awaited,
            self.recalled.deadline(),
            self.expiry.deadline(),
            self.pulse.deadline(now, timing),
            self.leases.next().and_then(|span| self.pulse.moment_of(span)),
            wildcard.and_then(|span| self.pulse.moment_of(span)),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
