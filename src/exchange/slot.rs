//! One group in the shell: its state behind a lock, what it serves beside it.

use super::core::{GroupState, MemberId};
use super::credential::{Credential, Credentials};
use super::{Waker, lock};
use crate::content::Served;
use crate::group::GroupKey;
use crate::xds::node::Presented;
use crate::xds::time::earliest;
use crate::xds::{Moment, Timing};
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

pub(crate) struct Slot {
    pub(super) key: GroupKey,
    inner: Mutex<Inner>,
    /// Read by streams, who must not wait for a commit.
    served: RwLock<Arc<Served>>,
}

/// What only one may touch at a time.
pub(crate) struct Inner {
    state: GroupState,
    wakers: HashMap<MemberId, Waker>,
    /// The node of the newest member.
    pub(super) presented: Presented,
    pub(super) credentials: Credentials,
    /// Nobody is a member, since then.
    empty: Option<Moment>,
    /// … for so long that the upstream stream is not needed.
    pub(super) idle: bool,
    /// How long any upstream had been synced when it became idle.
    idle_from: Option<Duration>,
    /// When to look whether it is to be forgotten.
    look: Option<Moment>,
    /// The upstream side has something to do …
    dirty: bool,
    /// … and has been told.
    pub(super) queued: bool,
    /// The soonest timer set.
    timer: Option<Moment>,
    synced: bool,
    /// What an earlier process held is being fetched; until then the upstream side
    /// sees nothing of the group.
    pub(super) fetching: bool,
    /// It takes so long that the upstream side does not wait any more.
    pub(super) late: bool,
}

/// What is to be done without the lock.
pub(super) struct Woken {
    pub(super) wakers: Vec<Waker>,
    pub(super) dirty: bool,
    /// The timer that was set, and the sooner one to set in its place.
    pub(super) timer: Option<(Option<Moment>, Moment)>,
    /// The group has become synced, or is no more.
    pub(super) calm: Option<bool>,
    /// What is to outlive the process is another.
    pub(super) unkept: bool,
}

impl Slot {
    pub(super) fn new(key: GroupKey, inner: Inner) -> Self {
        let served = RwLock::new(inner.state.served());
        Self { key, inner: inner.into(), served }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }

    pub(super) fn served(&self) -> Arc<Served> {
        self.served.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Publishes what a step made, and says whom to tell.
    pub(super) fn settle(&self, inner: &mut Inner, now: Moment, timing: &Timing) -> Woken {
        let served = inner.state.served();
        {
            let mut published = self.served.write().unwrap_or_else(PoisonError::into_inner);
            if !Arc::ptr_eq(&published, &served) {
                *published = served;
            }
        }
        let wakes = inner.state.take_wakes();
        let wakers = wakes.iter().filter_map(|member| inner.wakers.get(member)).cloned().collect();
        inner.dirty |= inner.state.take_asks_changed();
        let dirty = inner.dirty && !inner.fetching && !inner.queued;
        inner.dirty &= inner.fetching;
        inner.queued |= dirty;
        let unkept = !inner.fetching && !inner.late && inner.state.take_unkept();
        let synced = inner.state.is_synced(now);
        let calm = (synced != inner.synced).then_some(synced);
        inner.synced = synced;
        let due = earliest(inner.state.deadline(now), inner.deadline(timing));
        let sooner = due.filter(|due| inner.timer.is_none_or(|set| *due < set));
        let timer = sooner.map(|due| (inner.timer.replace(due), due));
        Woken { wakers, dirty, timer, calm, unkept }
    }
}

impl Inner {
    pub(super) fn new(state: GroupState, now: Moment) -> Self {
        Self {
            state,
            wakers: HashMap::new(),
            presented: Presented::default(),
            credentials: Credentials::default(),
            empty: Some(now),
            idle: false,
            idle_from: None,
            look: None,
            dirty: true,
            queued: false,
            timer: None,
            synced: false,
            fetching: false,
            late: false,
        }
    }

    pub(super) fn state(&self) -> &GroupState {
        &self.state
    }

    pub(super) fn state_mut(&mut self) -> &mut GroupState {
        &mut self.state
    }

    pub(super) fn members(&self) -> usize {
        self.wakers.len()
    }

    pub(super) fn waker(&self, member: MemberId) -> Option<Waker> {
        self.wakers.get(&member).cloned()
    }

    pub(super) fn join(
        &mut self,
        member: MemberId,
        presented: Presented,
        credential: Option<Credential>,
        waker: Waker,
    ) {
        self.dirty |= self.credentials.join(member, credential);
        self.dirty |= self.idle || self.presented != presented;
        self.presented = presented;
        self.wakers.insert(member, waker);
        (self.empty, self.idle, self.idle_from, self.look) = (None, false, None, None);
    }

    pub(super) fn leave(&mut self, now: Moment, member: MemberId) {
        self.wakers.remove(&member);
        self.credentials.leave(member);
        self.state.leave(now, member);
        if self.wakers.is_empty() {
            self.empty = Some(now);
        }
    }

    /// Since when nobody is a member.
    pub(super) fn empty_since(&self) -> Option<Moment> {
        self.empty
    }

    /// Ends its upstream stream, if it has no members; says so.
    pub(super) fn retire(&mut self) -> bool {
        let retired = self.wakers.is_empty();
        self.dirty |= retired && !self.idle;
        self.idle |= retired;
        retired
    }

    pub(super) fn tick(&mut self, now: Moment, timing: &Timing) {
        self.timer = None;
        self.state.tick(now);
        if !self.idle && self.empty.is_some_and(|since| now.since(since) >= timing.group_idle) {
            self.idle = true;
            self.dirty = true;
        }
    }

    /// Has the group been idle for long enough to be forgotten, as long as *any*
    /// upstream was synced (`synced`, all in all)? Its own has no stream by now.
    pub(super) fn forget_due(&mut self, now: Moment, synced: Duration, timing: &Timing) -> bool {
        if !self.idle {
            return false;
        }
        let from = *self.idle_from.get_or_insert(synced);
        let left = (from + timing.group_forget).saturating_sub(synced);
        // It cannot be so any sooner.
        self.look = Some(now + left);
        left.is_zero()
    }

    fn deadline(&self, timing: &Timing) -> Option<Moment> {
        let since = self.empty?;
        if self.idle { self.look } else { Some(since + timing.group_idle) }
    }
}

/// How long at least one group's upstream has been synced, all in all.
#[derive(Debug, Default)]
pub(super) struct Calm {
    synced: usize,
    total: Duration,
    since: Option<Moment>,
}

impl Calm {
    pub(super) fn count(&mut self, now: Moment, synced: bool) {
        self.synced = if synced { self.synced + 1 } else { self.synced.saturating_sub(1) };
        match (self.synced, self.since) {
            (0, Some(since)) => {
                self.total += now.since(since);
                self.since = None;
            }
            (1.., None) => self.since = Some(now),
            _ => {}
        }
    }

    /// Some upstream has been synced.
    pub(super) fn has_been(&self) -> bool {
        self.synced > 0 || !self.total.is_zero()
    }

    pub(super) fn synced_for(&self, now: Moment) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| now.since(since))
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("key", &self.key).finish_non_exhaustive()
    }
}
