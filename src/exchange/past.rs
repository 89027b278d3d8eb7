//! Between the groups of this process and those that an earlier one left behind.
//!
//! A group that is joined for the first time is fetched, where somebody knows it:
//! its streams are members at once and wait, as they do for an upstream, and the
//! upstream side sees the group when the fetching has ended, so that it asks for
//! what is missing only. What changes is noted, to be kept; each group once.

use super::{Exchange, GroupHandle, Kept, lock};
use crate::group::GroupKey;
use crate::xds::Moment;
use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::time::Duration;
use tokio::sync::Notify;

/// Knows groups of an earlier process.
pub trait Past: Send + Sync {
    /// Does it know the group? Then it is asked to fetch it, and never again.
    /// Called under a lock: it must not wait, nor call back.
    fn claims(&self, key: &GroupKey) -> bool;

    /// It is to call [`GroupHandle::fetched`], soon and whatever comes of it.
    fn fetch(&self, group: GroupHandle);
}

#[derive(Default)]
pub(super) struct Keeping {
    /// Weak: it may hold who holds us.
    past: OnceLock<Weak<dyn Past>>,
    unkept: Mutex<HashSet<GroupKey>>,
    more: Notify,
}

impl Keeping {
    fn past(&self) -> Option<Arc<dyn Past>> {
        self.past.get()?.upgrade()
    }

    pub(super) fn claims(&self, key: &GroupKey) -> bool {
        self.past().is_some_and(|past| past.claims(key))
    }

    pub(super) fn fetch(&self, group: &GroupHandle) {
        match self.past() {
            Some(past) => past.fetch(group.clone()),
            None => group.fetched(None, false),
        }
    }

    /// The group is another, or is no more. Private ones are nobody's business.
    pub(super) fn note(&self, key: &GroupKey) {
        if self.past.get().is_some() && !key.is_private() && lock(&self.unkept).insert(key.clone()) {
            self.more.notify_one();
        }
    }
}

impl Exchange {
    /// From now on groups are fetched there, and what changes is noted.
    pub fn keep(&self, past: Weak<dyn Past>) {
        // A second time would be a second program in one process.
        let _ = self.keeping.past.set(past);
    }

    /// Waits until some group is to be kept.
    pub async fn unkept(&self) {
        loop {
            let more = self.keeping.more.notified();
            if !lock(&self.keeping.unkept).is_empty() {
                return;
            }
            more.await;
        }
    }

    /// The groups that changed or went since this was last called.
    pub fn take_unkept(&self) -> HashSet<GroupKey> {
        std::mem::take(&mut *lock(&self.keeping.unkept))
    }

    /// How many of them there are.
    pub fn count_unkept(&self) -> usize {
        lock(&self.keeping.unkept).len()
    }

    /// Some group has been synced with its upstream.
    pub fn has_been_synced(&self) -> bool {
        lock(&self.calm).has_been()
    }

    /// How long any has, all in all.
    pub fn synced_for(&self, now: Moment) -> Duration {
        lock(&self.calm).synced_for(now)
    }
}

impl GroupHandle {
    /// What is to be kept of the group; `None` while it is being fetched, and while
    /// what is on disk is more.
    pub fn keep(&self) -> Option<Kept> {
        let now = self.exchange.clock.now();
        let inner = self.slot.lock();
        if inner.fetching || inner.late { None } else { inner.state().keep(now) }
    }

    /// It takes long: the upstream side sees the group from now on.
    pub fn fetching_takes_long(&self) {
        self.act(|inner, _| (inner.fetching, inner.late) = (false, true));
    }

    /// What was known of it, if it could be had. `connected`: a connection to the upstream
    /// stands, so that its word comes first. Where the group has a stream by now it waits for
    /// the end of that.
    pub fn fetched(&self, kept: Option<Kept>, connected: bool) {
        self.act(|inner, now| {
            (inner.fetching, inner.late) = (false, false);
            if let Some(kept) = kept {
                inner.state_mut().restore(now, kept, connected);
            }
        });
    }
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeping").field("unkept", &lock(&self.unkept).len()).finish_non_exhaustive()
    }
}
