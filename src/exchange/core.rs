//! One group's state, as a value.
//!
//! A [`GroupState`] joins what the members want, subscribes upstream to the
//! union of it, and turns what the upstream says into what is served. It reads no
//! clock and touches no socket: the exchange and the simulator drive it.
//!
//! * From below: [`want`](GroupState::want), [`leave`](GroupState::leave)
//! * From above: [`stream_opened`](GroupState::stream_opened), [`asked`](GroupState::asked),
//!   [`apply`](GroupState::apply), [`stream_lost`](GroupState::stream_lost)
//! * Time: [`deadline`](GroupState::deadline), [`tick`](GroupState::tick)
//! * After any of these: [`served`](GroupState::served), [`wanted_upstream`](GroupState::wanted_upstream),
//!   and whom it concerns: [`take_wakes`](GroupState::take_wakes), [`take_asks_changed`](GroupState::take_asks_changed)
//!
//! Promise: loss of the upstream takes nothing away (C-137); only the upstream's
//! own word does, the TTLs it set, and an hour of nobody wanting it. What moves
//! nothing makes nothing new (C-142). A change costs what it changes and wakes
//! those whom it concerns.
//!
//! A *private* group has one stream as its member. What it holds is for the
//! subscription that fetched it (C-145): no name of it outlives its interest.

use super::commit::Committed;
use super::keep::Kept;
use super::kind::{GroupType, Scene};
use super::refer::{References, assignment};
use crate::breaks;
use crate::content::{Changed, Reach, Refs, Served, Store};
use crate::session::{Pass, Passed, Update, Want};
use crate::xds::time::earliest;
use crate::xds::{Kind, Moment, Name, Timing, TypeUrl};
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How often [`GroupState::answer`] asks what there is to say.
const ROUNDS: usize = 8;

/// One stream within one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberId(pub u64);

/// What an [`Update`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Names that stand for something else now.
    pub changed: usize,
    /// Names whose TTL was refreshed and nothing else (C-131).
    pub touched: usize,
    /// Resources that no subscription covers; they were left out.
    pub ignored: usize,
}

/// The group's upstream stream.
#[derive(Debug)]
pub(super) enum Line {
    Up {
        address: Arc<str>,
        opened: Moment,
        heard: Option<Moment>,
        /// Since when nothing was heard, if the stream before it ended.
        silent: Option<Moment>,
    },
    /// `ours`: nobody needed one, so that nothing is wrong.
    Down { since: Moment, reason: Arc<str>, ours: bool },
}

#[derive(Debug)]
pub struct GroupState {
    store: Arc<Store>,
    timing: Arc<Timing>,
    pub(super) types: BTreeMap<TypeUrl, Box<GroupType>>,
    refs: Refs,
    pub(super) line: Line,
    rtt: Duration,
    pub(super) references: References,
    served: Arc<Served>,
    /// May name a member twice.
    wakes: Vec<MemberId>,
    asks_changed: bool,
    /// It has one member, and keeps nothing that this one does not want.
    private: bool,
    /// What is passed on and has no answer yet, with the newest health information.
    passes: Vec<Pass>,
    /// When those that are answered are given up: ascending.
    given_up: VecDeque<(Moment, u64)>,
    passed: VecDeque<Passed>,
    passer: Option<MemberId>,
    /// The newest number of a name that is to be asked again.
    numbers: Cell<u64>,
    /// What is to outlive the process is another.
    pub(super) unkept: bool,
    /// A stream is about to be opened: what was put back waits so long for its word.
    pub(super) expected: Option<Moment>,
    /// What came from disk when a stream stood.
    pub(super) parked: Option<Box<Kept>>,
    /// When it was put back.
    pub(super) restored: Option<Moment>,
}

impl GroupState {
    pub fn new(now: Moment, store: Arc<Store>, timing: Arc<Timing>) -> Self {
        let reason: Arc<str> = "no upstream stream was opened yet".into();
        let upstream = Reach::Silent { since: now, reason: reason.clone() };
        Self {
            store,
            timing,
            types: BTreeMap::new(),
            refs: Refs::default(),
            line: Line::Down { since: now, reason, ours: true },
            rtt: Duration::ZERO,
            references: References::default(),
            served: Arc::new(Served { upstream, ..Served::default() }),
            wakes: Vec::new(),
            asks_changed: false,
            private: false,
            passes: Vec::new(),
            given_up: VecDeque::new(),
            passed: VecDeque::new(),
            passer: None,
            numbers: Cell::default(),
            unkept: false,
            expected: None,
            parked: None,
            restored: None,
        }
    }

    /// The group of one stream, for what must not be shared or kept.
    pub fn private(now: Moment, store: Arc<Store>, timing: &Timing) -> Self {
        let nothing_lingers = Timing { linger: Duration::ZERO, evict: Duration::ZERO, ..timing.clone() };
        Self { private: true, ..Self::new(now, store, nothing_lingers.into()) }
    }

    // From below.

    /// Passes a request on, once a stream stands. Of health information only the
    /// newest counts.
    pub fn pass(&mut self, now: Moment, member: MemberId, pass: Pass) {
        self.want_begins(now);
        if !pass.is_answered() {
            self.passes.retain(Pass::is_answered);
        }
        self.passer = Some(member);
        if pass.is_answered() {
            self.given_up.push_back((now + self.timing.pass, pass.number));
        }
        self.passes.push(pass);
        self.asks_changed = true;
    }

    /// The answers that came since this was last called.
    pub fn take_passed(&mut self) -> VecDeque<Passed> {
        std::mem::take(&mut self.passed)
    }

    /// From now on `member` wants this of the type, and nothing else of it.
    pub fn want(&mut self, now: Moment, member: MemberId, want: &Want) {
        self.want_begins(now);
        self.step(now, &want.type_url, |kind, scene| {
            let moved = kind.interest.replace(member, want);
            kind.interest_moved(scene, moved)
        });
    }

    fn want_begins(&mut self, now: Moment) {
        if let Line::Down { since, ours: true, .. } = &mut self.line
            && self.types.values().all(|kind| kind.interest.is_empty())
        {
            // The first one to want something: the upstream has its time from here.
            *since = now;
        }
    }

    /// `member` is gone.
    pub fn leave(&mut self, now: Moment, member: MemberId) {
        if breaks::on("C-017") {
            self.types.clear();
        }
        self.step_all(now, |kind, scene| {
            let moved = kind.interest.remove(member);
            kind.interest_moved(scene, moved)
        });
        self.forget_types();
        self.wakes.retain(|other| *other != member);
    }

    // From above.

    /// The group's stream stands on the control plane at `address`.
    pub fn stream_opened(&mut self, now: Moment, address: Arc<str>) {
        let silent = match &self.line {
            Line::Down { since, ours: false, .. } => Some(*since),
            Line::Up { silent, heard: None, .. } => *silent,
            _ => None,
        };
        self.line = Line::Up { address, opened: now, heard: None, silent };
        self.types.values_mut().for_each(|kind| kind.pulse.opened(now));
        self.publish(now);
    }

    /// The stream stands on another address now, without a gap: what it was
    /// asked and what it answered still holds.
    pub fn stream_moved(&mut self, to: Arc<str>) {
        if let Line::Up { address, .. } = &mut self.line {
            *address = to;
        }
    }

    /// No stream stands: it ended, or could not be opened. `reason` names the
    /// upstream and what went wrong.
    pub fn stream_lost(&mut self, now: Moment, reason: Arc<str>) {
        let since = match &self.line {
            Line::Up { heard: None, silent: Some(since), .. } => *since,
            Line::Down { since, ours: false, .. } => *since,
            _ => now,
        };
        if breaks::on("C-118") {
            for kind in self.types.values_mut() {
                kind.tree = Default::default();
                kind.notes.serve = true;
            }
        }
        self.end_stream(now, Line::Down { since, reason, ours: false });
    }

    /// We ended the stream: nobody needs it. A group without members keeps its
    /// content and forgets all else.
    pub fn stream_closed(&mut self, now: Moment) {
        self.step_all(now, |kind, scene| kind.rest(scene));
        let reason = "the upstream stream was closed because nobody needed it".into();
        self.end_stream(now, Line::Down { since: now, reason, ours: true });
    }

    fn end_stream(&mut self, now: Moment, line: Line) {
        let heard = self.heard_last();
        self.line = line;
        self.step_all(now, |kind, scene| {
            kind.stream_ended(scene, heard);
            Vec::new()
        });
        self.restore_parked(now);
    }

    /// An ask for something of the type was written upstream.
    pub fn asked(&mut self, now: Moment, type_url: &TypeUrl) {
        if let Some(kind) = self.types.get_mut(type_url) {
            kind.pulse.asked(now);
        }
    }

    /// The upstream was silent about an ask of the type for so long that there
    /// is nothing to say: what is held is what it says.
    pub fn confirmed_by_silence(&mut self, now: Moment, type_url: &TypeUrl) {
        if let Some(kind) = self.types.get_mut(type_url) {
            kind.pulse.answered(now);
            kind.all_heard();
        }
        self.publish(now);
    }

    /// The upstream's connection gave a sign of life.
    pub fn heard(&mut self, now: Moment) {
        self.note_heard(now);
        self.publish(now);
    }

    fn note_heard(&mut self, now: Moment) {
        if let Line::Up { heard, .. } = &mut self.line {
            *heard = Some(now);
        }
    }

    /// The measured round-trip time to the upstream.
    pub fn set_rtt(&mut self, rtt: Duration) {
        self.rtt = rtt;
    }

    /// Commits what the upstream says. After this it may be acknowledged.
    pub fn apply(&mut self, now: Moment, update: Update) -> Applied {
        self.note_heard(now);
        let mut applied = Applied::default();
        let type_url = update.type_url.clone();
        self.step(now, &type_url, |kind, scene| {
            let Committed { changed, touched, ignored } = kind.commit(scene, update);
            applied = Applied { changed: changed.len(), touched, ignored };
            changed
        });
        applied
    }

    /// Commits what an upstream says that knows everything at once: it is asked until
    /// it has no more to say to what is wanted by then. Whatever it said is one
    /// change: nobody sees a part of it.
    pub fn answer(
        &mut self,
        now: Moment,
        mut say: impl FnMut(&Self, &[Want]) -> Vec<Update>,
    ) -> Vec<(TypeUrl, Applied)> {
        self.note_heard(now);
        let connected = self.is_answering(now);
        let mut done = Vec::new();
        // Clusters want their assignments, and nothing else wants anything: two are
        // enough, and no mistake holds the group for ever.
        for _ in 0..ROUNDS {
            let wants = self.wanted_upstream();
            let updates = say(self, &wants);
            if updates.is_empty() {
                break;
            }
            for update in updates {
                let type_url = update.type_url.clone();
                let mut applied = Applied::default();
                self.quiet_step(now, &type_url, connected, |kind, scene| {
                    let Committed { changed, touched, ignored } = kind.commit(scene, update);
                    applied = Applied { changed: changed.len(), touched, ignored };
                    changed
                });
                done.push((type_url, applied));
            }
        }
        self.publish(now);
        done
    }

    /// What is to be passed on over the stream that stands, in ascending order.
    pub fn passes(&self) -> &[Pass] {
        &self.passes
    }

    /// The answer to something passed on. A second one, of a stream that was
    /// replaced, is none.
    pub fn passed(&mut self, now: Moment, passed: Passed) {
        self.note_heard(now);
        let before = self.passes.len();
        self.passes.retain(|pass| pass.number != passed.number);
        if self.passes.len() < before {
            self.passed.push_back(passed);
            self.wakes.extend(self.passer);
        }
        self.publish(now);
    }

    /// What the control plane never answered is answered with nothing, so that it
    /// holds no stream there (C-193).
    fn give_up_passes(&mut self, now: Moment) {
        while let Some((_, number)) = self.given_up.pop_front_if(|(at, _)| *at <= now) {
            let before = self.passes.len();
            self.passes.retain(|pass| pass.number != number);
            if self.passes.len() < before {
                self.passed.push_back(Passed { number, resources: Vec::new(), received: now });
                self.wakes.extend(self.passer);
                self.asks_changed = true;
            }
        }
    }

    // Time.

    /// Does what is due; to be called at [`deadline`](Self::deadline).
    pub fn tick(&mut self, now: Moment) {
        self.give_up_passes(now);
        self.step_all(now, |kind, scene| kind.tick(scene));
        self.forget_types();
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn deadline(&self, now: Moment) -> Option<Moment> {
        let passes = self.given_up.front().map(|(at, _)| *at);
        self.types.values().fold(passes, |first, kind| earliest(first, kind.deadline(now, &self.timing)))
    }

    // What came of it.

    /// What the group serves now: another object whenever a stream must see
    /// something else.
    pub fn served(&self) -> Arc<Served> {
        self.served.clone()
    }

    /// What the group subscribes to, for each type that was ever wanted: the
    /// union of the members' interest, what lingers, and the assignments of the
    /// clusters that are held.
    pub fn wanted_upstream(&mut self) -> Vec<Want> {
        let store = &self.store;
        self.types.values_mut().map(|kind| kind.wanted(store)).collect()
    }

    /// What is held of what is subscribed, with the upstream's own versions, empty
    /// where it gives none: the `initial_resource_versions` of a new stream (C-134).
    pub fn held_versions(&self, type_url: &TypeUrl) -> Vec<(Name, String)> {
        if breaks::on("C-134") {
            return Vec::new();
        }
        let Some(kind) = self.types.get(type_url) else { return Vec::new() };
        let held = kind.tree.iter().filter(|entry| entry.is_present() && kind.covers(entry.name(), entry.aliases()));
        held.map(|entry| (entry.name().clone(), kind.version(entry.name()))).collect()
    }

    /// The members whom anything concerns since this was last called, each once,
    /// in ascending order.
    pub fn take_wakes(&mut self) -> Vec<MemberId> {
        let mut wakes = std::mem::take(&mut self.wakes);
        wakes.sort_unstable();
        wakes.dedup();
        wakes
    }

    /// Has [`wanted_upstream`](Self::wanted_upstream) changed since this was last called?
    pub fn take_asks_changed(&mut self) -> bool {
        std::mem::take(&mut self.asks_changed)
    }

    /// A stream stands and has answered something, and no ask is overdue.
    pub fn is_synced(&self, now: Moment) -> bool {
        matches!(self.line, Line::Up { heard: Some(_), .. }) && self.unheard(now).is_none()
    }

    // Inside.

    pub(super) fn heard_last(&self) -> Option<Moment> {
        match self.line {
            Line::Up { heard, .. } => heard,
            Line::Down { .. } => None,
        }
    }

    pub(super) fn timing(&self) -> &Timing {
        &self.timing
    }

    /// A step of one type and what follows from it.
    fn step(&mut self, now: Moment, type_url: &TypeUrl, act: impl FnOnce(&mut GroupType, &Scene<'_>) -> Vec<Changed>) {
        let connected = self.is_answering(now);
        self.quiet_step(now, type_url, connected, act);
        self.publish(now);
    }

    /// The same step of every type.
    fn step_all(&mut self, now: Moment, mut act: impl FnMut(&mut GroupType, &Scene<'_>) -> Vec<Changed>) {
        let connected = self.is_answering(now);
        let types: Vec<_> = self.types.keys().cloned().collect();
        for type_url in types {
            self.quiet_step(now, &type_url, connected, &mut act);
        }
        self.publish(now);
    }

    /// Types of which nothing is held and nothing wanted: clients choose them.
    fn forget_types(&mut self) {
        if self.types.values().any(|kind| kind.is_over()) {
            self.types.retain(|_, kind| !kind.is_over());
            let served = Arc::make_mut(&mut self.served);
            served.types.retain(|type_url, _| self.types.contains_key(type_url));
        }
    }

    /// A step, without publishing.
    pub(super) fn quiet_step(
        &mut self,
        now: Moment,
        type_url: &TypeUrl,
        connected: bool,
        act: impl FnOnce(&mut GroupType, &Scene<'_>) -> Vec<Changed>,
    ) {
        let open = matches!(self.line, Line::Up { .. });
        let (rtt, private) = (self.rtt, self.private);
        let numbers = &self.numbers;
        let scene = Scene { now, store: &self.store, timing: &self.timing, connected, rtt, private, numbers };
        let kind = self.types.entry(type_url.clone()).or_insert_with(|| new_type(type_url, open, now));
        let changed = act(kind, &scene);
        if type_url.kind() == Kind::Cluster {
            self.follow_clusters(now, type_url, connected, &changed);
        }
    }

    /// Assignments are asked for as soon as their cluster is held, and not any
    /// more when it is not (DESIGN: before any sidecar asks).
    fn follow_clusters(&mut self, now: Moment, clusters: &TypeUrl, connected: bool, changed: &[Changed]) {
        let Some(kind) = self.types.get(clusters) else { return };
        let before = self.references.names().clone();
        let after = self.references.follow(&self.store, kind.is_asked(), &kind.tree, changed).clone();
        let restated: Vec<_> = changed.iter().filter_map(|change| assignment(change.to.as_ref()?)).collect();
        if restated.is_empty() && Arc::ptr_eq(&before, &after) {
            return;
        }
        let Some(endpoints) = TypeUrl::from_short("eds") else { return };
        self.quiet_step(now, &endpoints, connected, |kind, scene| {
            restated.iter().for_each(|name| kind.restate(scene, name));
            kind.refer(scene, after);
            Vec::new()
        });
    }

    fn is_answering(&self, now: Moment) -> bool {
        match self.line {
            Line::Up { .. } => self.unheard(now).is_none(),
            Line::Down { ours, .. } => ours && self.expected.is_some_and(|until| now < until),
        }
    }

    fn reach(&self, now: Moment) -> Reach {
        match &self.line {
            Line::Down { since, reason, .. } => Reach::Silent { since: *since, reason: reason.clone() },
            Line::Up { address, .. } => match self.unheard(now) {
                None => Reach::Answering,
                Some((since, short)) => {
                    let waited = self.timing.unanswered.as_secs_f64();
                    let reason = format!("{address} has not answered an ask for {short} for more than {waited} s");
                    Reach::Silent { since, reason: reason.into() }
                }
            },
        }
    }

    /// The oldest overdue ask after which the stream said nothing at all. A control
    /// plane may never answer for a type that it does not know; as long as it
    /// speaks of others it is there.
    fn unheard(&self, now: Moment) -> Option<(Moment, &str)> {
        let heard = self.heard_last();
        let overdue = |kind: &'_ GroupType| {
            let since = kind.pulse.overdue(now, &self.timing)?;
            let asked = kind.pulse.asked_since()?;
            heard.is_none_or(|heard| heard <= asked).then_some(since)
        };
        self.types.values().filter_map(|kind| Some((overdue(kind)?, kind.url.short()))).min()
    }

    /// Makes what was noted visible.
    pub(super) fn publish(&mut self, now: Moment) {
        self.unpark(now);
        let upstream = self.reach(now);
        let trees =
            self.types.values().filter(|kind| kind.notes.serve).map(|kind| (kind.url.clone(), kind.tree.clone()));
        let next = self.refs.upstream().next(trees.collect::<Vec<_>>());
        self.refs.commit(next);
        let mut served = None;
        for (type_url, kind) in &mut self.types {
            self.asks_changed |= std::mem::take(&mut kind.notes.asks);
            self.unkept |= std::mem::take(&mut kind.notes.versions) || kind.notes.serve;
            kind.take_wakes(&mut self.wakes);
            if std::mem::take(&mut kind.notes.serve) {
                if self.private {
                    // Nobody asked by name for all that is here (C-196).
                    self.wakes.extend(kind.interest.everybody());
                }
                let next: &mut Served = served.get_or_insert_with(|| Served::clone(&self.served));
                let tree = self.refs.served().tree(type_url).cloned().unwrap_or_default();
                let made = kind.serve(&self.store, tree);
                let before = next.types.insert(type_url.clone(), Arc::new(made));
                let moved = before.is_none_or(|before| !before.tree.same(&kind.tree));
                if moved && type_url.unsettles() && kind.committed != Moment::START {
                    next.unsettled = now;
                }
            }
        }
        if upstream != self.served.upstream {
            // Who waits for a first answer must know; nobody else minds.
            self.types.values().for_each(|kind| self.wakes.extend(kind.interest.everybody()));
            let next = served.get_or_insert_with(|| Served::clone(&self.served));
            (next.upstream, next.upstream_since) = (upstream, now);
        }
        if let Some(mut served) = served {
            served.apart = served.types.values().any(|of| !of.apart.is_empty());
            self.served = served.into();
        }
    }
}

fn new_type(type_url: &TypeUrl, open: bool, now: Moment) -> Box<GroupType> {
    let mut kind = Box::new(GroupType::new(type_url.clone()));
    if open {
        kind.pulse.opened(now);
    }
    kind
}
