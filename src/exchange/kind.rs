//! One type of one group: what is held, who wants it, what is subscribed.
//!
//! Every method takes the [`Scene`]: the moment, and whether the upstream can
//! answer. What a change concerns is noted here and drained by
//! [`GroupState`](super::core::GroupState): members to wake, and whether the
//! subscription or what is served is another.

use super::core::MemberId;
use super::expiry::Expiry;
use super::interest::{Interest, Moved};
use super::label::{Labels, Step};
use super::lease::{By, Leases, Phase, Taken};
use super::pulse::Pulse;
use crate::content::{Body, Changed, Edit, Entry, NameSet, ServedType, Store, Tree};
use crate::session::Want;
use crate::xds::name::Glob;
use crate::xds::{Kind, Moment, Name, Status, Timing, TypeUrl};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
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
}

/// Names with what they are to stand for; `None` takes them out.
pub(super) type Edits = BTreeMap<Name, Option<Arc<Entry>>>;

/// What is to be told of a type after a step.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) wakes: BTreeSet<MemberId>,
    /// The subscription upstream is another.
    pub(super) asks: bool,
    /// What a stream sees is another.
    pub(super) serve: bool,
    /// Of these, and of all where `all_covered`, the coverage may have changed;
    /// noted for clusters only.
    pub(super) covered: Vec<Name>,
    pub(super) all_covered: bool,
}

#[derive(Debug)]
pub(super) struct GroupType {
    pub(super) url: TypeUrl,
    /// What the upstream said last, and the index of its aliases.
    pub(super) tree: Tree,
    pub(super) aliases: Tree,
    /// The upstream's own versions, where it gives any.
    pub(super) versions: HashMap<Name, Arc<str>>,
    /// The newest errors that did not replace what is held; bounded.
    pub(super) errors: VecDeque<(Moment, Name, Status)>,
    pub(super) interest: Interest,
    pub(super) leases: Leases,
    pub(super) wildcard: Option<Phase>,
    /// The upstream has answered `*`.
    pub(super) complete: bool,
    pub(super) wildcard_awaited: Option<Moment>,
    /// Unconfirmed names that are wanted again, and until when they wait.
    pub(super) awaited: BTreeMap<Name, Moment>,
    /// Assignments whose follow-up waits for the upstream's own (C-101).
    pub(super) restating: BTreeMap<Name, Moment>,
    /// How many members each leased glob has.
    pub(super) globs: HashMap<Name, usize>,
    pub(super) expiry: Expiry,
    pub(super) labels: Labels,
    pub(super) pulse: Pulse,
    pub(super) touch: u64,
    pub(super) touched: Arc<BTreeMap<Name, u64>>,
    pub(super) received: Moment,
    pub(super) committed: Moment,
    pub(super) notes: Notes,
    union: Option<Arc<NameSet>>,
}

impl GroupType {
    pub(super) fn new(url: TypeUrl) -> Self {
        Self {
            url,
            tree: Tree::default(),
            aliases: Tree::default(),
            versions: HashMap::new(),
            errors: VecDeque::new(),
            interest: Interest::default(),
            leases: Leases::default(),
            wildcard: None,
            complete: false,
            wildcard_awaited: None,
            awaited: BTreeMap::new(),
            restating: BTreeMap::new(),
            globs: HashMap::new(),
            expiry: Expiry::default(),
            labels: Labels::default(),
            pulse: Pulse::default(),
            touch: 0,
            touched: Arc::default(),
            received: Moment::START,
            committed: Moment::START,
            notes: Notes { serve: true, ..Notes::default() },
            union: None,
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

    /// Subscribed by a name of its own: canonical or alias.
    pub(super) fn named(&self, name: &str, aliases: &[Name]) -> bool {
        self.leases.is_subscribed(name) || aliases.iter().any(|alias| self.leases.is_subscribed(alias))
    }

    fn glob_subscribed(&self, name: &str) -> bool {
        !self.globs.is_empty() && Glob::over(name).is_some_and(|glob| self.leases.is_subscribed(&glob))
    }

    /// Subscribed upstream, in whatever way.
    pub(super) fn covers(&self, name: &str, aliases: &[Name]) -> bool {
        self.wildcard_subscribed() || self.named(name, aliases) || self.glob_subscribed(name)
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
        names.any(|other| **other != *name && self.leases.is_subscribed(other))
    }

    fn holds(&self, name: &str) -> bool {
        self.globs.get(name).is_some_and(|members| *members > 0) || self.resolve(name).is_some()
    }

    // What is wanted.

    /// A member's interest changed.
    pub(super) fn interest_moved(&mut self, scene: &Scene<'_>, moved: Moved) {
        // First what is gained: a name that goes from one set to another stays.
        if moved.wildcard == Some(true) {
            self.take_wildcard(scene);
        }
        for name in &moved.gained {
            self.take(scene, name, By::Member);
        }
        for name in &moved.lost {
            self.give(scene, name, By::Member);
        }
        if moved.wildcard == Some(false) {
            self.wildcard = Some(Phase::Lingering(self.after(scene, scene.timing.linger)));
            self.wildcard_awaited = None;
        }
    }

    /// `name` is wanted. Where it is held but unconfirmed, it waits for the upstream's word.
    pub(super) fn take(&mut self, scene: &Scene<'_>, name: &Name, by: By) {
        let taken = self.leases.take(name, by);
        if taken == Taken::Kept {
            return;
        }
        if taken == Taken::New && Glob::parse(name).is_some() {
            let members = self.glob_members(name).count();
            self.globs.insert(name.clone(), members);
        }
        self.subscription_changed(name);
        if scene.connected && self.holds(name) && !self.is_confirmed(name) {
            self.awaited.insert(name.clone(), scene.now + scene.timing.reconfirm);
            self.notes.serve = true;
        }
    }

    /// One who wanted `name` does not any more.
    pub(super) fn give(&mut self, scene: &Scene<'_>, name: &Name, by: By) {
        let until = self.after(scene, scene.timing.linger);
        if self.leases.give(name, by, until) {
            self.notes.serve |= self.awaited.remove(name).is_some();
        }
    }

    fn take_wildcard(&mut self, scene: &Scene<'_>) {
        let before = self.wildcard.replace(Phase::Wanted);
        if before.is_some_and(Phase::is_subscribed) {
            return;
        }
        if before.is_some() && self.complete && scene.connected {
            self.wildcard_awaited = Some(scene.now + scene.timing.reconfirm);
        }
        self.wildcard_changed();
    }

    fn wildcard_changed(&mut self) {
        self.notes.asks = true;
        self.notes.serve = true;
        self.notes.all_covered = self.url.kind() == Kind::Cluster;
    }

    fn subscription_changed(&mut self, name: &Name) {
        self.union = None;
        self.notes.asks = true;
        if self.url.kind() == Kind::Cluster {
            self.notes.covered.push(name.clone());
        }
    }

    fn after(&self, scene: &Scene<'_>, span: Duration) -> Duration {
        self.pulse.synced_for(scene.now) + span
    }

    /// All that is subscribed upstream.
    pub(super) fn union(&mut self, store: &Store) -> Want {
        let names = self.union.get_or_insert_with(|| match self.interest.only_set() {
            // As many names as the only set has, all of which are leased.
            Some(only) if only.len() == self.leases.len() => only.clone(),
            _ => store.names(self.leases.subscribed().cloned().collect()),
        });
        Want {
            type_url: self.url.clone(),
            wildcard: self.wildcard.is_some_and(Phase::is_subscribed),
            names: names.clone(),
        }
    }

    // What the upstream's answers end.

    /// The upstream has spoken about `name`.
    pub(super) fn answered(&mut self, name: &str) {
        if !self.restating.is_empty() && self.restating.remove(name).is_some() {
            self.unblock(name);
        }
        if !self.awaited.is_empty() && self.awaited.remove(name).is_some() {
            self.unblock(name);
        }
    }

    /// The upstream has answered `*`.
    pub(super) fn answered_wildcard(&mut self) {
        if !self.complete || self.wildcard_awaited.take().is_some() {
            self.complete = true;
            self.notes.serve = true;
            self.notes.wakes.extend(self.interest.everybody());
        }
    }

    /// Nothing can be waited for any more: what is held is served.
    pub(super) fn stop_waiting(&mut self) {
        let waiting: Vec<_> = self.awaited.keys().chain(self.restating.keys()).cloned().collect();
        waiting.iter().for_each(|name| self.answered(name));
        if self.wildcard_awaited.take().is_some() {
            self.notes.serve = true;
            self.notes.wakes.extend(self.interest.wildcards());
        }
    }

    fn unblock(&mut self, name: &str) {
        self.notes.serve = true;
        self.notes.wakes.extend(self.interest.wanting(name));
        self.notes.wakes.extend(self.interest.wildcards());
    }

    /// A cluster that refers to the assignment `name` is new or changed: its
    /// follow-up waits for the upstream's own, if that is to be expected (C-101).
    pub(super) fn restate(&mut self, scene: &Scene<'_>, name: &Name) {
        let subscribed = self.wildcard_subscribed() || self.leases.is_subscribed(name);
        if scene.connected && subscribed && self.resolve(name).is_some_and(|entry| entry.is_present()) {
            self.restating.insert(name.clone(), scene.now + scene.timing.follow_up + scene.rtt);
            self.notes.serve = true;
        }
    }

    // Time.

    /// Ends what has waited, lingered or lived long enough.
    pub(super) fn tick(&mut self, scene: &Scene<'_>) -> Vec<Changed> {
        self.pulse.tick(scene.now, scene.timing);
        let due = |waiting: &BTreeMap<Name, Moment>| -> Vec<Name> {
            waiting.iter().filter(|(_, until)| **until <= scene.now).map(|(name, _)| name.clone()).collect()
        };
        for name in due(&self.awaited) {
            self.awaited.remove(&name);
            self.unblock(&name);
        }
        for name in due(&self.restating) {
            self.restating.remove(&name);
            self.unblock(&name);
        }
        if self.wildcard_awaited.is_some_and(|until| until <= scene.now) {
            self.answered_wildcard();
        }
        let mut edits = Edits::new();
        while let Some(name) = self.expiry.pop(scene.now) {
            self.expire(scene, &name, &mut edits);
        }
        let expired = self.install(scene, std::mem::take(&mut edits));
        if !expired.is_empty() {
            self.labels.local(&self.tree, Step::Rewrote);
        }
        self.end_leases(scene, &mut edits);
        let dropped = self.install(scene, edits);
        if !dropped.is_empty() {
            self.labels.local(&self.tree, Step::Nothing);
        }
        expired.into_iter().chain(dropped).collect()
    }

    fn expire(&self, scene: &Scene<'_>, name: &Name, edits: &mut Edits) {
        if let Some(entry) = self.tree.get(name).filter(|entry| entry.is_present()) {
            let expired = scene.store.entry(name.clone(), Body::Expired, entry.attributes().clone());
            edits.insert(name.clone(), Some(expired));
        }
    }

    fn end_leases(&mut self, scene: &Scene<'_>, edits: &mut Edits) {
        let synced = self.pulse.synced_for(scene.now);
        while let Some(name) = self.leases.lingered(synced) {
            self.end_linger(scene, &name, edits);
        }
        while let Some(name) = self.leases.expired(synced) {
            self.evict(&name, edits);
        }
        match self.wildcard {
            Some(Phase::Lingering(until)) if until <= synced => {
                self.wildcard = Some(Phase::Idle(synced + scene.timing.evict));
                self.wildcard_changed();
            }
            Some(Phase::Idle(until)) if until <= synced => {
                self.wildcard = None;
                self.complete = false;
                let unowned = |entry: &&Arc<Entry>| {
                    let mut names = entry.aliases().iter().chain([entry.name()]);
                    names.all(|name| self.leases.phase(name).is_none()) && !self.glob_subscribed(entry.name())
                };
                edits.extend(self.tree.iter().filter(unowned).map(|entry| (entry.name().clone(), None)));
            }
            _ => {}
        }
    }

    /// The name is unsubscribed. What is present is held on, unconfirmed; that a
    /// name is absent or in error is worth nothing without a subscription.
    fn end_linger(&mut self, scene: &Scene<'_>, name: &Name, edits: &mut Edits) {
        self.leases.park(name, self.after(scene, scene.timing.evict));
        self.subscription_changed(name);
        if self.globs.get(name).is_some_and(|members| *members > 0) {
            return;
        }
        let Some(entry) = self.resolve(name).cloned() else { return self.forget(name) };
        if !entry.is_present() && !self.named(entry.name(), entry.aliases()) {
            edits.insert(entry.name().clone(), None);
            self.forget(name);
        } else if self.covers(entry.name(), entry.aliases()) {
            self.forget(name);
        }
    }

    fn evict(&mut self, name: &Name, edits: &mut Edits) {
        if self.globs.contains_key(name) {
            let gone = |entry: &&Arc<Entry>| !self.covers(entry.name(), entry.aliases());
            edits.extend(self.glob_members(name).filter(gone).map(|entry| (entry.name().clone(), None)));
        } else if let Some(entry) = self.resolve(name)
            && !self.covers(entry.name(), entry.aliases())
        {
            edits.insert(entry.name().clone(), None);
        }
        self.forget(name);
    }

    fn forget(&mut self, name: &Name) {
        self.leases.drop_name(name);
        self.globs.remove(name);
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
            Some(Phase::Lingering(until) | Phase::Idle(until)) => Some(until),
            _ => None,
        };
        let waits = self.awaited.values().chain(self.restating.values()).copied().min();
        [
            waits,
            self.wildcard_awaited,
            self.expiry.deadline(),
            self.pulse.deadline(now, timing),
            self.leases.next().and_then(|span| self.pulse.moment_of(span)),
            wildcard.and_then(|span| self.pulse.moment_of(span)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    // Content.

    /// Makes `edits` and notes whom they concern; what changes nothing is left out.
    pub(super) fn install(&mut self, scene: &Scene<'_>, edits: Edits) -> Vec<Changed> {
        let mut changed = Vec::new();
        for (name, to) in edits {
            let from = self.tree.get(&name).cloned();
            if from.as_ref().map(|entry| entry.id()) != to.as_ref().map(|entry| entry.id()) {
                changed.push(Changed { name, from, to });
            }
        }
        if changed.is_empty() {
            return changed;
        }
        let edit = |change: &Changed| match &change.to {
            Some(entry) => Edit::Put(entry.clone()),
            None => Edit::Remove(change.name.clone()),
        };
        self.tree = scene.store.edit(&self.tree, changed.iter().map(edit));
        let mut aliases = Vec::new();
        for change in &changed {
            self.note(change);
            self.alias_edits(scene, change, &mut aliases);
        }
        if !aliases.is_empty() {
            self.aliases = scene.store.edit(&self.aliases, aliases);
        }
        self.notes.serve = true;
        self.notes.wakes.extend(self.interest.wildcards());
        changed
    }

    fn note(&mut self, change: &Changed) {
        let present = |entry: &Option<Arc<Entry>>| entry.as_ref().is_some_and(|entry| entry.is_present());
        let (before, after) = (present(&change.from), present(&change.to));
        if !after {
            self.versions.remove(&change.name);
            self.expiry.clear(&change.name);
        }
        if self.touched.contains_key(&change.name) {
            Arc::make_mut(&mut self.touched).remove(&change.name);
        }
        let other_aliases = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|entry| entry.aliases().to_vec());
        let aliases = other_aliases(&change.from).into_iter().chain(other_aliases(&change.to)).flatten();
        for name in aliases.chain([change.name.clone()]) {
            self.notes.wakes.extend(self.interest.wanting(&name));
        }
        if !self.globs.is_empty()
            && let Some(glob) = Glob::over(&change.name)
        {
            self.notes.wakes.extend(self.interest.wanting(&glob));
            if let Some(members) = self.globs.get_mut(&*glob) {
                *members = *members + usize::from(after) - usize::from(before);
            }
        }
    }

    fn alias_edits(&self, scene: &Scene<'_>, change: &Changed, edits: &mut Vec<Edit>) {
        let aliases = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|e| e.aliases().to_vec()).unwrap_or_default();
        let (old, new) = (aliases(&change.from), aliases(&change.to));
        for alias in old.iter().filter(|alias| !new.contains(alias)) {
            let held = self.aliases.get(alias).and_then(|entry| entry.aliases().first());
            if held == Some(&change.name) {
                edits.push(Edit::Remove(alias.clone()));
            }
        }
        for alias in new.into_iter().filter(|alias| *alias != change.name && !old.contains(alias)) {
            let attributes =
                crate::content::entry::Attributes { aliases: vec![change.name.clone()], ..Default::default() };
            edits.push(Edit::Put(scene.store.entry(alias, Body::Empty, attributes)));
        }
    }

    /// What streams see of `tree`, which is what the view makes of ours.
    pub(super) fn serve(&self, store: &Store, tree: Tree) -> ServedType {
        let names = |waiting: &BTreeMap<Name, Moment>| match waiting.is_empty() {
            true => Arc::default(),
            false => store.names(waiting.keys().cloned().collect()),
        };
        ServedType {
            tree,
            aliases: self.aliases.clone(),
            label: self.labels.shown().clone(),
            complete: self.complete && self.wildcard_subscribed(),
            wildcard_awaited: self.wildcard_awaited.is_some(),
            awaited: names(&self.awaited),
            restating: names(&self.restating),
            touch: self.touch,
            touched: self.touched.clone(),
            received: self.received,
            committed: self.committed,
        }
    }
}
