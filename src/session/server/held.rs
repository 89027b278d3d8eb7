//! What one stream has of one type, and the next thing to tell it.
//!
//! A stream is *in step* with a tree: within its subscription it has what the
//! tree says. The few names of which this is not true are *exceptions*: just
//! subscribed, stated on reconnect, sent while the tree stood still, withheld.
//! A step compares both with the served tree, names what must be said, and
//! moves on. What is in step costs nothing.

use super::Trust;
use super::verdict::{Has, Target, Verdict, View};
use crate::breaks;
use crate::content::{Body, Changed, Edit, Entry, Store, Tree};
use crate::xds::name::Glob;
use crate::xds::time::earliest;
use crate::xds::{Moment, Name, Status, code};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(super) struct Exception {
    pub(super) has: Has,
    /// A request asked for it: in delta it may go beside an open turn (C-078).
    pub(super) answer: bool,
    /// Sent even if the client has it: the assignment of a changed cluster (C-101).
    pub(super) follow_up: bool,
    /// Unsubscribed under a wildcard: to be named either way (C-062).
    pub(super) mention: bool,
    /// Left out until then.
    pub(super) until: Option<Moment>,
}

impl Exception {
    pub(super) fn of(has: Has) -> Self {
        Self { has, answer: false, follow_up: false, mention: false, until: None }
    }

    pub(super) fn asked() -> Self {
        Self { answer: true, ..Self::of(Has::Nothing) }
    }

    /// The client has something under the name.
    fn has_some(&self) -> bool {
        matches!(self.has, Has::Present(_) | Has::Unknown | Has::Stated(_))
    }
}

/// How far a step may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everything that changed.
    All,
    /// Only what requests asked for.
    Answers,
}

/// What a step found to say.
#[derive(Debug, Default)]
pub(super) struct Said {
    pub(super) resources: Vec<Arc<Entry>>,
    /// Delta: `removed_resources`. SotW: that something vanished.
    pub(super) removed: Vec<Name>,
    pub(super) errors: Vec<(Name, Status)>,
    /// The tree before and the tree now, where the step between them is all
    /// there is to say: a plain wildcard. The lists above are empty then, for
    /// every stream that takes this step says the same ([`Said::between`]).
    pub(super) shared: Option<(Tree, Tree)>,
    /// Removals wait for the settle window.
    pub(super) withheld: bool,
    /// When a name that is left out may be sent.
    pub(super) wake: Option<Moment>,
    /// On which names there was a word, where there might be another.
    pub(super) told: Option<HashSet<Name>>,
}

impl Said {
    /// Spells out a shared step, so that something can be added to it.
    pub(super) fn unshare(&mut self, store: &Store) {
        if let Some((from, to)) = self.shared.take() {
            let step = Self::between(&from, &to, store);
            self.resources.extend(step.resources);
            self.removed.extend(step.removed);
            self.errors.extend(step.errors);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.resources.is_empty() && self.removed.is_empty() && self.errors.is_empty()
    }
}

#[derive(Clone, Debug, Default)]
pub(super) struct Held {
    /// `None` before the first step.
    tree: Option<Tree>,
    exceptions: BTreeMap<Name, Exception>,
}

// Getters.
impl Held {
    pub(super) fn tree(&self) -> Option<&Tree> {
        self.tree.as_ref()
    }

    pub(super) fn exceptions(&self) -> &BTreeMap<Name, Exception> {
        &self.exceptions
    }

    /// What the client has under `name`, as far as it was sent here.
    pub(super) fn entry(&self, name: &str) -> Option<&Arc<Entry>> {
        match self.exceptions.get(name) {
            Some(Exception { has: Has::Present(entry), .. }) => Some(entry),
            Some(_) => None,
            None => self.tree.as_ref()?.get(name).filter(|entry| entry.is_present()),
        }
    }

    /// Some change other than a removal waits to be sent.
    pub(super) fn is_behind(&self, view: &View<'_>) -> bool {
        let Some(tree) = &self.tree else { return false };
        !tree.same(&view.served.tree)
            && view.look.store.diff(tree, &view.served.tree).changed.iter().any(|change| {
                change
                    .to
                    .as_ref()
                    .is_some_and(|to| to.is_present() && view.subscription.covers(&change.name, to.aliases()))
            })
    }
}

// Commands.
impl Held {
    pub(super) fn except(&mut self, name: Name, exception: Exception) {
        self.exceptions.insert(name, exception);
    }

    /// These names are to be answered.
    pub(super) fn ask(&mut self, names: Vec<Name>) {
        let asked = names.into_iter().map(|name| (name, Exception::asked()));
        if self.exceptions.is_empty() {
            // At once, which is fast for names in order.
            self.exceptions = asked.collect();
        } else {
            self.exceptions.extend(asked);
        }
    }

    pub(super) fn forget(&mut self, name: &str) {
        self.exceptions.remove(name);
    }

    /// Everything is to be sent again (C-073). What the client has and `served`
    /// lacks is still to be removed.
    pub(super) fn forget_all(&mut self, served: Option<&Tree>) {
        let is_served = |name: &Name| served.and_then(|tree| tree.get(name)).is_some_and(|entry| entry.is_present());
        let tree = self.tree.take();
        self.tree = tree.is_some().then(Tree::default);
        self.exceptions.retain(|name, exception| exception.answer || exception.has_some() && !is_served(name));
        let gone = tree.iter().flat_map(|tree| tree.iter()).filter(|had| had.is_present() && !is_served(had.name()));
        for had in gone {
            self.exceptions.entry(had.name().clone()).or_insert_with(|| Exception::of(Has::Present(had.clone())));
        }
    }

    /// The coverage grew from `names` to a wildcard: what the client has is
    /// now an exception, everything else is news.
    pub(super) fn widen(&mut self, names: impl Iterator<Item = Name>) {
        let Some(tree) = self.tree.replace(Tree::default()) else {
            self.tree = None;
            return;
        };
        for name in names {
            if let Some(entry) = tree.get(&name) {
                self.exceptions.entry(name).or_insert_with(|| Exception::of(Has::of(Some(entry))));
            }
        }
    }

    /// Takes what a client stated on a new stream as what it has. Called once,
    /// when the upstream's word is known, before the first step.
    pub(super) fn resume(&mut self, stated: &[(Name, String)], trust: Trust, hold_until: Moment, view: &View<'_>) {
        if view.subscription.wildcard() {
            let listed: HashSet<&Name> = stated.iter().map(|(name, _)| name).collect();
            for entry in view.served.tree.iter().filter(|entry| entry.is_present() && !listed.contains(entry.name())) {
                self.exceptions.entry(entry.name().clone()).or_insert_with(|| Exception::of(Has::Nothing));
            }
            self.tree = Some(view.served.tree.clone());
        }
        for (name, version) in stated {
            let said = |exception: &Exception| exception.mention || !matches!(exception.has, Has::Nothing);
            if self.exceptions.get(name).is_some_and(said) {
                // There was a word on it meanwhile, or there must be one.
                continue;
            }
            let asked = self.exceptions.get(name).is_some_and(|exception| exception.answer);
            let aliases = view.served.tree.get(name).map_or(&[][..], |entry| entry.aliases());
            if !view.subscription.covers(name, aliases) {
                continue;
            }
            let half = crate::content::entry::parse_version(version);
            let trust = if breaks::on("C-094") { Trust::All } else { trust };
            let current = match view.target(name) {
                _ if breaks::on("C-093") => true,
                Target::Present(_) if breaks::on("C-197") => false,
                Target::Present(entry) => entry.id().is_stated_by(version),
                _ => false,
            };
            if current {
                if asked && trust == Trust::All {
                    self.exceptions.remove(name);
                } else if trust == Trust::None {
                    self.exceptions.insert(name.clone(), Exception::asked());
                }
                continue;
            }
            if let (Some(half), true) = (half, view.awaits_own(name)) {
                // What is current is known when the private group has it.
                if !asked || trust == Trust::All {
                    let stated = Exception::of(Has::Stated(half));
                    self.exceptions.insert(name.clone(), Exception { answer: asked, ..stated });
                }
                continue;
            }
            // Not believed even should it prove current, as names are (C-094).
            let follow_up = trust == Trust::None || asked && trust != Trust::All;
            let foreign = half.filter(|half| !view.look.store.remembers(half));
            let exception = match foreign {
                Some(half) => {
                    let stated = Exception::of(Has::Stated(half));
                    Exception { until: Some(hold_until), answer: asked, follow_up, ..stated }
                }
                None => Exception { answer: asked, ..Exception::of(Has::Unknown) },
            };
            self.exceptions.insert(name.clone(), exception);
        }
    }

    /// Compares with what is served, says what must be said, and moves on.
    pub(super) fn step(&mut self, reach: Reach, view: &View<'_>) -> Said {
        let mut said = Said::default();
        self.expand_globs(view);
        let wildcard = view.subscription.wildcard();
        let whole = reach == Reach::All && (!wildcard || view.served.complete);
        let target = view.served.tree.clone();
        let from = self.tree.clone().unwrap_or_else(|| if wildcard { Tree::default() } else { target.clone() });
        let to = if whole { self.union(&from, &target, view, &mut said) } else { from.clone() };
        let moves = !from.same(&to);
        let excepted = !self.exceptions.is_empty();
        if excepted && moves || !view.served.aliases.is_empty() {
            said.told = Some(HashSet::new());
        }
        if excepted {
            self.judge_exceptions(reach, &to, view, &mut said);
        }
        let plain = wildcard && view.subscription.names().is_empty() && view.served.apart.is_empty();
        if moves && !excepted && plain {
            said.shared = Some((from, to.clone()));
        } else if moves {
            self.judge_tree(&from, &to, view, &mut said);
        }
        if whole {
            self.tree = Some(to);
        }
        said
    }

    /// The served tree with those entries whose removal is withheld put back.
    fn union(&self, from: &Tree, target: &Tree, view: &View<'_>, said: &mut Said) -> Tree {
        if view.may_remove || from.same(target) {
            return target.clone();
        }
        let diff = view.look.store.diff(from, target);
        let gone: Vec<Edit> = diff
            .changed
            .iter()
            .filter(|change| is_removal(change))
            .filter_map(|change| change.from.clone().map(Edit::Put))
            .collect();
        if gone.is_empty() {
            return target.clone();
        }
        said.withheld = true;
        view.look.store.edit(target, gone)
    }

    /// A glob just subscribed asks for each of its members (C-112).
    fn expand_globs(&mut self, view: &View<'_>) {
        for glob_name in view.subscription.globs() {
            let asked = self.exceptions.get(glob_name).is_some_and(|exception| exception.answer);
            let Some(glob) = Glob::parse(glob_name).filter(|_| asked) else { continue };
            let members: Vec<Name> = view
                .served
                .tree
                .iter()
                .filter(|entry| entry.is_present() && glob.covers(entry.name()))
                .map(|entry| entry.name().clone())
                .collect();
            if !members.is_empty() {
                self.exceptions.remove(glob_name);
            }
            self.ask(members);
        }
    }

    /// Says what the exceptions call for, and keeps those that remain.
    fn judge_exceptions(&mut self, reach: Reach, to: &Tree, view: &View<'_>, said: &mut Said) {
        let settled = to.same(&view.served.tree);
        let mut served = view.subscription.names().finder(&view.served.tree);
        let mut kept = Vec::new();
        for (name, exception) in std::mem::take(&mut self.exceptions) {
            if reach == Reach::Answers && !exception.answer {
                kept.push((name, exception));
                continue;
            }
            let entry = served.get(&name);
            let target = view.target_at(&name, entry);
            let verdict = view.judge(&name, &exception, &target);
            let has = match &verdict {
                Verdict::Keep | Verdict::Withhold => {
                    said.withheld |= matches!(verdict, Verdict::Withhold);
                    said.wake = earliest(said.wake, exception.until.filter(|until| view.look.now < *until));
                    kept.push((name, exception));
                    continue;
                }
                Verdict::Send(entry) => Has::Present(entry.clone()),
                Verdict::Remove => Has::Absent,
                Verdict::Fail(status) => Has::Error(status.clone()),
                Verdict::InStep => Has::told(&target),
            };
            // Under an alias the client gets the entry by its own name.
            let (name, entry) = match &verdict {
                Verdict::Send(sent) => (sent.name().clone(), Some(sent)),
                _ => (name, entry),
            };
            let in_step = has.is(&Target::of(if settled { entry } else { to.get(&name) }));
            said.say(verdict, &name);
            if !in_step {
                kept.push((name, Exception::of(has)));
            }
        }
        self.exceptions = kept.into_iter().collect();
    }

    fn judge_tree(&mut self, from: &Tree, to: &Tree, view: &View<'_>, said: &mut Said) {
        let diff = view.look.store.diff(from, to);
        let names = view.subscription.names();
        let few = names.len() * 4 < diff.changed.len();
        if view.takes_all || view.subscription.wildcard() || !view.subscription.globs().is_empty() || !few {
            for change in &diff.changed {
                let aliases = change.to.as_ref().or(change.from.as_ref()).map_or(&[][..], |entry| entry.aliases());
                if view.covers(&change.name, aliases) {
                    self.judge_change(change, view, said);
                }
            }
            return;
        }
        for ((name, was), (_, is)) in names.look_up(from).zip(names.look_up(to)) {
            let alias = if is.is_none() { view.served.canonical(name) } else { None };
            if let Some(canonical) = alias {
                self.judge_change(&changed(canonical, from.get(canonical), to.get(canonical)), view, said);
            } else if was.map(Arc::as_ptr) != is.map(Arc::as_ptr) {
                self.judge_change(&changed(name, was, is), view, said);
            }
        }
    }

    fn judge_change(&mut self, change: &Changed, view: &View<'_>, said: &mut Said) {
        if self.exceptions.contains_key(&change.name) {
            return;
        }
        let had = Has::of(change.from.as_ref());
        let verdict = view.compare(&change.name, &had, &Target::of(change.to.as_ref()));
        if let Verdict::Keep | Verdict::Withhold = verdict {
            if !matches!(had, Has::Nothing) {
                self.exceptions.insert(change.name.clone(), Exception::of(had));
            }
            return;
        }
        said.say(verdict, &change.name);
    }
}

impl Said {
    /// What a plain wildcard is told of the step between two trees.
    pub(super) fn between(from: &Tree, to: &Tree, store: &Store) -> Self {
        let mut said = Self::default();
        for change in &store.diff(from, to).changed {
            let had = change.from.as_ref().is_some_and(|entry| entry.is_present());
            match Target::of(change.to.as_ref()) {
                Target::Present(entry) => said.resources.push(entry.clone()),
                Target::Absent | Target::Unknown if had => said.removed.push(change.name.clone()),
                Target::Error(status) if had || breaks::on("C-124") => {
                    if status.code == code::NOT_FOUND {
                        said.removed.push(change.name.clone());
                    }
                    said.errors.push((change.name.clone(), status.clone()));
                }
                Target::Absent | Target::Unknown | Target::Expired | Target::Error(_) => {}
            }
        }
        said
    }

    /// Says it, unless there was a word on this name already: of an exception
    /// before the tree's own step, or under an alias.
    fn say(&mut self, verdict: Verdict, name: &Name) {
        if self.told.as_mut().is_some_and(|told| !told.insert(name.clone())) {
            return;
        }
        match verdict {
            Verdict::Send(entry) => self.resources.push(entry),
            Verdict::Remove => self.removed.push(name.clone()),
            Verdict::Fail(status) => {
                if status.code == code::NOT_FOUND && !breaks::on("C-123") {
                    self.removed.push(name.clone());
                }
                self.errors.push((name.clone(), status));
            }
            Verdict::InStep | Verdict::Keep | Verdict::Withhold => {}
        }
    }
}

fn changed(name: &Name, from: Option<&Arc<Entry>>, to: Option<&Arc<Entry>>) -> Changed {
    Changed { name: name.clone(), from: from.cloned(), to: to.cloned() }
}

fn is_removal(change: &Changed) -> bool {
    let absent = match change.to.as_ref().map(|entry| entry.body()) {
        None | Some(Body::Absent) => true,
        Some(Body::Error(status)) => status.code == code::NOT_FOUND,
        Some(_) => false,
    };
    absent && change.from.as_ref().is_some_and(|entry| entry.is_present())
}
