//! Groups, between their upstream and their sidecars: snapshots go down,
//! interest goes up. In process; no sockets.
//!
//! * Downstream [`join`](Exchange::join)s a group for each stream and gets a
//!   [`Member`]: it says what the stream wants, reads what is served, and is woken
//!   when that concerns it. A wake-up is a hint, never a payload.
//! * Upstream waits for [`next_dirty`](Exchange::next_dirty) and drives the group's
//!   [`GroupHandle`]: what to subscribe, what to commit.
//! * [`run`](Exchange::run) is the one timer of all groups.
//! * What must not be shared a stream asks for in a [private group](Exchange::join_private),
//!   which nobody else can find and which goes with its stream.
//! * The rules are in [`core`], a pure machine: one value for each group.
//!
//! Promise: no lock is held over an await or a waker. Who reads what is served
//! never waits for a commit.

mod again;
mod apart;
mod commit;
pub mod core;
mod credential;
mod expiry;
mod extensions;
mod install;
mod interest;
mod keep;
mod kind;
mod label;
mod lease;
mod metrics;
mod past;
mod private;
#[cfg(test)]
mod private_tests;
mod pulse;
mod recalled;
mod refer;
pub mod report;
#[cfg(test)]
mod shell_tests;
mod slot;
#[cfg(test)]
mod tests;
mod tokens;
mod waiting;

pub use self::core::{Applied, GroupState, MemberId};
pub use self::credential::Credential;
pub use self::keep::{Kept, KeptType};
pub use self::label::KeptLabel;
pub use self::past::Past;
pub use self::private::{MOST_PRIVATE, Place};
pub use self::report::{Awaited, GroupReport, Holds, NameReport, StreamReport, Subscription, TypeReport};

use self::extensions::Extensions;
use self::metrics::{Gauges, Metrics};
use self::private::Private;
use self::slot::{Calm, Inner, Slot, Woken};
use crate::clock::Clock;
use crate::content::{Served, Store};
use crate::group::GroupKey;
use crate::session::{Pass, Passed, Update, Want};
use crate::traces::{Commit, Patches};
use crate::xds::node::Presented;
use crate::xds::{Moment, Name, Timing, TypeUrl};
use dashmap::DashMap;
use prometheus_client::registry::Registry;
use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;

/// Tells a stream that what its group serves may concern it. It is called
/// without locks, and must only note the fact and return.
pub type Waker = Arc<dyn Fn() + Send + Sync>;

/// Groups beyond this are kept only while they have members.
const MOST_GROUPS: usize = 50_000;

/// All groups of this process.
pub struct Exchange {
    store: Arc<Store>,
    timing: Arc<Timing>,
    clock: Clock,
    groups: DashMap<GroupKey, Arc<Slot>>,
    private: Private,
    members: AtomicU64,
    extensions: Extensions,
    /// Groups whose upstream side has something to do.
    dirty: Mutex<VecDeque<GroupKey>>,
    dirty_more: Notify,
    /// Due first; mostly one for each group.
    timers: Mutex<BTreeSet<(Moment, GroupKey)>>,
    timers_sooner: Notify,
    calm: Mutex<Calm>,
    searches: Pace,
    metrics: Metrics,
    /// Where traces are asked for.
    patches: OnceLock<Arc<Patches>>,
    keeping: past::Keeping,
}

/// Lets something be done once a second.
#[derive(Debug, Default)]
struct Pace(Mutex<Option<Moment>>);

impl Pace {
    fn due(&self, now: Moment) -> bool {
        let mut last = lock(&self.0);
        let due = last.is_none_or(|last| now.since(last) >= Duration::from_secs(1));
        if due {
            *last = Some(now);
        }
        due
    }
}

impl Exchange {
    pub fn new(store: Arc<Store>, timing: Timing, clock: Clock) -> Arc<Self> {
        Arc::new(Self {
            store,
            timing: timing.into(),
            clock,
            groups: DashMap::new(),
            private: Private::default(),
            members: AtomicU64::new(0),
            extensions: Extensions::default(),
            dirty: Mutex::default(),
            dirty_more: Notify::new(),
            timers: Mutex::default(),
            timers_sooner: Notify::new(),
            calm: Mutex::default(),
            searches: Pace::default(),
            metrics: Metrics::default(),
            patches: OnceLock::new(),
            keeping: past::Keeping::default(),
        })
    }

    /// Registers what is counted here.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        self.metrics.register(registry, &self.private.counts);
        registry.register_collector(Box::new(Gauges(self.clone())));
    }

    /// Ticks every group when it is due. Runs until it is dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            let sooner = self.timers_sooner.notified();
            let next = lock(&self.timers).first().map(|(at, _)| *at);
            tokio::select! {
                () = self.clock.sleep_until_some(next) => self.tick(),
                () = sooner => {}
            }
        }
    }

    /// Ticks the groups that are due.
    fn tick(&self) {
        let now = self.clock.now();
        while let Some(key) = self.pop_due(now) {
            let Some(slot) = self.find(&key) else { continue };
            let forget = self.act(&slot, |inner, now| {
                inner.tick(now, &self.timing);
                let synced = lock(&self.calm).synced_for(now);
                inner.forget_due(now, synced, &self.timing)
            });
            if forget {
                let gone = self.groups.remove_if(&key, |_, slot| slot.lock().members() == 0);
                if gone.is_some() {
                    self.keeping.note(&key);
                    tracing::debug!(group = %key, "group forgotten: no members for long enough");
                }
            }
        }
    }

    fn pop_due(&self, now: Moment) -> Option<GroupKey> {
        let mut timers = lock(&self.timers);
        timers.first().is_some_and(|(at, _)| *at <= now).then(|| timers.pop_first())?.map(|(_, key)| key)
    }

    /// Some group holds something, or knows that there is nothing.
    pub fn holds_a_snapshot(&self) -> bool {
        self.groups.iter().any(|slot| slot.served().types.values().any(|of| of.complete || !of.tree.is_empty()))
    }

    /// From now on patches are traced.
    pub fn trace(&self, patches: Arc<Patches>) {
        // A second time would be a second program in one process.
        let _ = self.patches.set(patches);
    }

    /// A stream joins the group `key`. `presented` is the raw `Node` that the
    /// group presents upstream from now on; `waker` is called when something
    /// concerns this stream.
    pub fn join(self: &Arc<Self>, key: GroupKey, presented: impl Into<Presented>, waker: Waker) -> Member {
        self.join_with(key, presented, None, waker)
    }

    /// The same, with a token by which the group's upstream stream may be opened.
    pub fn join_with(
        self: &Arc<Self>,
        key: GroupKey,
        presented: impl Into<Presented>,
        credential: Option<Credential>,
        waker: Waker,
    ) -> Member {
        let presented = self.extensions.share(presented.into());
        let id = MemberId(self.members.fetch_add(1, Ordering::Relaxed) + 1);
        let now = self.clock.now();
        // The entry stays locked until the stream is a member, so that the
        // group cannot be forgotten in between.
        let mut fetching = false;
        let slot = {
            let entry = self.groups.entry(key.clone()).or_insert_with(|| {
                let state = GroupState::new(now, self.store.clone(), self.timing.clone());
                let mut inner = Inner::new(state, now);
                inner.fetching = self.keeping.claims(&key);
                fetching = inner.fetching;
                Arc::new(Slot::new(key, inner))
            });
            entry.lock().join(id, presented, credential, waker);
            entry.value().clone()
        };
        self.make_room();
        self.act(&slot, |_, _| ());
        let group = GroupHandle { exchange: self.clone(), slot };
        if fetching {
            self.keeping.fetch(&group);
        }
        Member { id, group, _place: None }
    }

    /// Clients choose what their nodes are called: of groups without members only so
    /// many are kept. A tenth goes at once, so that a flood pays for the search once
    /// in a while.
    fn make_room(&self) {
        let now = self.clock.now();
        if self.groups.len() <= MOST_GROUPS || !self.searches.due(now) {
            return;
        }
        let mut empty: Vec<_> =
            self.slots().into_iter().filter_map(|slot| Some((slot.lock().empty_since()?, slot.key.clone()))).collect();
        empty.sort_unstable_by_key(|(since, _)| *since);
        let excess = (self.groups.len() - MOST_GROUPS) + MOST_GROUPS / 10;
        let mut forgotten = 0;
        for (_, key) in empty.iter().take(excess) {
            if let Some((_, slot)) = self.groups.remove_if(key, |_, slot| slot.lock().retire()) {
                self.act(&slot, |_, _| ());
                self.keeping.note(key);
                forgotten += 1;
            }
        }
        if forgotten > 0 {
            tracing::warn!(
                forgotten,
                most = MOST_GROUPS,
                "groups longest without members were forgotten: there are too many"
            );
        }
    }

    /// A group whose upstream side has something to do: it is new, or what it
    /// wants, the node it presents, or whether it needs a stream has changed. Each
    /// is named once however often that was so; the group itself is the truth.
    pub async fn next_dirty(&self) -> GroupKey {
        loop {
            let more = self.dirty_more.notified();
            let next = lock(&self.dirty).pop_front();
            match next {
                Some(key) => {
                    if let Some(slot) = self.find(&key) {
                        slot.lock().queued = false;
                    }
                    if !lock(&self.dirty).is_empty() {
                        self.dirty_more.notify_one();
                    }
                    return key;
                }
                None => more.await,
            }
        }
    }

    pub fn group(self: &Arc<Self>, key: &GroupKey) -> Option<GroupHandle> {
        Some(GroupHandle { exchange: self.clone(), slot: self.find(key)? })
    }

    fn find(&self, key: &GroupKey) -> Option<Arc<Slot>> {
        let groups = if key.is_private() { self.private.slots() } else { &self.groups };
        groups.get(key).map(|slot| slot.clone())
    }

    /// Every group but the private ones, in no order.
    pub fn groups(self: &Arc<Self>) -> Vec<GroupHandle> {
        self.slots().into_iter().map(|slot| GroupHandle { exchange: self.clone(), slot }).collect()
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        self.groups.iter().map(|slot| slot.clone()).collect()
    }

    pub(crate) fn each(&self, mut look: impl FnMut(&Inner)) {
        self.slots().iter().for_each(|slot| look(&slot.lock()));
    }

    /// Does `step` to a group, publishes what came of it, and then, without
    /// locks, tells whom it concerns.
    fn act<R>(&self, slot: &Arc<Slot>, step: impl FnOnce(&mut Inner, Moment) -> R) -> R {
        let now = self.clock.now();
        let (result, woken) = {
            let mut inner = slot.lock();
            let result = step(&mut inner, now);
            (result, slot.settle(&mut inner, now, &self.timing))
        };
        let Woken { wakers, dirty, timer, calm, unkept } = woken;
        if unkept {
            self.keeping.note(&slot.key);
        }
        if let Some(synced) = calm {
            lock(&self.calm).count(now, synced);
        }
        if dirty {
            lock(&self.dirty).push_back(slot.key.clone());
            self.dirty_more.notify_one();
        }
        if let Some((before, at)) = timer {
            self.schedule(before, at, &slot.key);
        }
        self.metrics.woke(wakers.len());
        wakers.iter().for_each(|waker| waker());
        result
    }

    /// In the place of the timer set `before`, if any.
    fn schedule(&self, before: Option<Moment>, at: Moment, key: &GroupKey) {
        let mut timers = lock(&self.timers);
        if let Some(before) = before {
            timers.remove(&(before, key.clone()));
        }
        let sooner = timers.first().is_none_or(|(first, _)| at < *first);
        timers.insert((at, key.clone()));
        drop(timers);
        if sooner {
            self.timers_sooner.notify_one();
        }
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

/// One stream's place in its group. Leaves when it is dropped.
#[derive(Debug)]
pub struct Member {
    id: MemberId,
    group: GroupHandle,
    /// Of a private group: dropped with the group's last member, its only one.
    _place: Option<Place>,
}

impl Member {
    pub fn key(&self) -> &GroupKey {
        self.group.key()
    }

    /// From now on the stream wants this of the type, and nothing else of it.
    pub fn want(&self, want: Want) {
        self.group.act(|inner, now| inner.state_mut().want(now, self.id, &want));
    }

    /// What the group serves now.
    pub fn served(&self) -> Arc<Served> {
        self.group.slot.served()
    }

    /// Passes a request on, over the stream of a private group.
    pub fn pass(&self, pass: Pass) {
        self.group.exchange.private.passes(&pass);
        self.group.act(|inner, now| inner.state_mut().pass(now, self.id, pass));
    }

    /// The answers to what was passed on.
    pub fn take_passed(&self) -> VecDeque<Passed> {
        self.group.slot.lock().state_mut().take_passed()
    }

    /// Is this stream to end, so that its client comes back with a newer token?
    pub fn is_asked_back(&self) -> bool {
        self.group.slot.lock().credentials.is_asked(self.id)
    }

    pub fn id(&self) -> MemberId {
        self.id
    }

    pub fn group(&self) -> &GroupHandle {
        &self.group
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.group.act(|inner, now| {
            inner.leave(now, self.id);
            if self.group.key().is_private() {
                inner.retire();
            }
        });
        self.group.exchange.private.forget(self.group.key());
    }
}

/// One group, as its upstream side and the operator see it.
#[derive(Clone)]
pub struct GroupHandle {
    exchange: Arc<Exchange>,
    slot: Arc<Slot>,
}

impl GroupHandle {
    fn act<R>(&self, step: impl FnOnce(&mut Inner, Moment) -> R) -> R {
        self.exchange.act(&self.slot, step)
    }

    pub fn key(&self) -> &GroupKey {
        &self.slot.key
    }

    /// What to subscribe to: each type that was ever wanted, with the union.
    pub fn wanted_upstream(&self) -> Vec<Want> {
        self.slot.lock().state_mut().wanted_upstream()
    }

    /// The `initial_resource_versions` of a new stream (C-134).
    pub fn held_versions(&self, type_url: &TypeUrl) -> Vec<(Name, String)> {
        self.slot.lock().state().held_versions(type_url)
    }

    /// The raw `Node` to present: that of the newest member.
    pub fn presented(&self) -> Presented {
        self.slot.lock().presented.clone()
    }

    /// How many streams are members; the fullest groups are connected first.
    pub fn members(&self) -> usize {
        self.slot.lock().members()
    }

    /// Nobody was a member for so long that the upstream stream is to be closed.
    pub fn is_idle(&self) -> bool {
        self.slot.lock().idle
    }

    /// Commits what the upstream says. After this it may be acknowledged.
    pub fn apply(&self, update: Update) -> Applied {
        let (type_url, label, received) = (update.type_url.clone(), update.label.clone(), update.received);
        let (applied, now) = self.act(|inner, now| {
            let applied = inner.state_mut().apply(now, update);
            self.trace(&type_url, received, Commit { at: now, changed: applied.changed, label: label.clone() });
            (applied, now)
        });
        self.exchange.metrics.committed(&type_url, applied, now.since(received));
        if applied.changed > 0 {
            tracing::debug!(
                group = %self.key(), type_url = type_url.short(), %label, names = applied.changed, "snapshot changed"
            );
        }
        if applied.ignored > 0 {
            tracing::debug!(
                group = %self.key(), type_url = type_url.short(), names = applied.ignored,
                "resources left out: no subscription covers them"
            );
        }
        applied
    }

    /// See [`GroupState::answer`].
    pub fn answer(&self, mut say: impl FnMut(Moment, &GroupState, &[Want]) -> Vec<Update>) {
        let done = self.act(|inner, now| {
            let mut said = Vec::new();
            let done = inner.state_mut().answer(now, |group, wants| {
                let updates = say(now, group, wants);
                said.extend(updates.iter().map(|update| (update.label.clone(), update.received)));
                updates
            });
            for ((type_url, applied), (label, received)) in done.iter().zip(said) {
                self.trace(type_url, received, Commit { at: now, changed: applied.changed, label });
            }
            done
        });
        for (type_url, applied) in done {
            self.exchange.metrics.committed(&type_url, applied, Duration::ZERO);
            if applied.changed > 0 {
                let names = applied.changed;
                tracing::debug!(group = %self.key(), type_url = type_url.short(), names, "snapshot changed");
            }
        }
    }

    /// Is it that very group, and not another that came under its key?
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.slot, &other.slot)
    }

    /// See [`GroupState::stream_opened`].
    pub fn stream_opened(&self, address: Arc<str>) {
        self.act(|inner, now| inner.state_mut().stream_opened(now, address));
    }

    /// See [`GroupState::stream_moved`].
    pub fn stream_moved(&self, to: Arc<str>) {
        self.slot.lock().state_mut().stream_moved(to);
    }

    /// See [`GroupState::stream_lost`].
    pub fn stream_lost(&self, reason: Arc<str>) {
        self.act(|inner, now| inner.state_mut().stream_lost(now, reason));
    }

    /// See [`GroupState::stream_closed`].
    pub fn stream_closed(&self) {
        self.act(|inner, now| inner.state_mut().stream_closed(now));
    }

    /// See [`GroupState::asked`].
    pub fn asked(&self, type_url: &TypeUrl) {
        self.act(|inner, now| inner.state_mut().asked(now, type_url));
    }

    /// See [`GroupState::passes`].
    pub fn passes(&self) -> Vec<Pass> {
        self.slot.lock().state().passes().to_vec()
    }

    /// See [`GroupState::passed`].
    pub fn passed(&self, passed: Passed) {
        self.act(|inner, now| inner.state_mut().passed(now, passed));
    }

    /// See [`GroupState::confirmed_by_silence`].
    pub fn confirmed_by_silence(&self, type_url: &TypeUrl) {
        self.act(|inner, now| inner.state_mut().confirmed_by_silence(now, type_url));
    }

    /// See [`GroupState::heard`].
    pub fn heard(&self) {
        self.act(|inner, now| inner.state_mut().heard(now));
    }

    pub fn set_rtt(&self, rtt: Duration) {
        self.slot.lock().state_mut().set_rtt(rtt);
    }

    pub fn served(&self) -> Arc<Served> {
        self.slot.served()
    }

    pub fn report(&self) -> GroupReport {
        let inner = self.slot.lock();
        let report = inner.state().report(self.exchange.clock.now());
        GroupReport { auth_stale: inner.credentials.is_stale(), ..report }
    }

    /// Everything about one name; `None` where nobody ever wanted the type.
    pub fn explain(&self, type_url: &TypeUrl, name: &Name) -> Option<NameReport> {
        self.slot.lock().state().explain(type_url, name)
    }
}

impl fmt::Debug for GroupHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GroupHandle").field(self.key()).finish()
    }
}

/// A lock whose holders never panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
