//! Private groups: each has one stream as its member, and an upstream stream of
//! its own.
//!
//! They stand apart from all others: no listing, no gauge of content and no rule
//! finds one, so that what is in it reaches its member only. A private group goes
//! with its member, at once. Each costs a stream at the control plane, so there
//! are so many [`Place`]s and no more; who finds none waits for its turn.

use super::slot::{Inner, Slot};
use super::{Credential, Exchange, GroupHandle, GroupState, Member, MemberId, Waker};
use crate::group::GroupKey;
use crate::session::Pass;
use crate::xds::Kind;
use crate::xds::node::Presented;
use dashmap::DashMap;
use prometheus_client::metrics::counter::Counter;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many there may be, unless told otherwise.
pub const MOST_PRIVATE: usize = 10_000;

/// The place of one private group: one of all, and one of its owner's share.
#[derive(Debug)]
#[expect(dead_code, reason = "both are given back when it is dropped")]
pub struct Place(OwnedSemaphorePermit, OwnedSemaphorePermit);

/// What one owner may have of the places: a tenth, but at least so many.
const LEAST_SHARE: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Private {
    slots: DashMap<GroupKey, Arc<Slot>>,
    /// How many there may be, and the places that are free.
    places: OnceLock<(usize, Arc<Semaphore>)>,
    /// Of the owners that have places, or wait for one: what is left of their share.
    shares: Mutex<HashMap<Arc<str>, Weak<Semaphore>>>,
    pub(super) counts: Counts,
}

/// What is counted of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts {
    pub(super) full: Counter,
    pub(super) health: Counter,
    pub(super) debug: Counter,
}

impl Private {
    pub(super) fn slots(&self) -> &DashMap<GroupKey, Arc<Slot>> {
        &self.slots
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    pub(super) fn forget(&self, key: &GroupKey) {
        if key.is_private() {
            self.slots.remove(key);
        }
    }

    pub(super) fn passes(&self, pass: &Pass) {
        let counter = if pass.type_url.kind() == Kind::Health { &self.counts.health } else { &self.counts.debug };
        counter.inc();
    }

    fn places(&self) -> &(usize, Arc<Semaphore>) {
        self.places.get_or_init(|| (MOST_PRIVATE, Arc::new(Semaphore::new(MOST_PRIVATE))))
    }

    fn share(&self) -> usize {
        let most = self.places().0;
        (most / 10).max(LEAST_SHARE).min(most)
    }

    fn share_of(&self, owner: &str) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(owner).and_then(Weak::upgrade) {
            return share;
        }
        if shares.len() == shares.capacity() {
            // Permits keep their share alive: the others are owners who are gone.
            shares.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Semaphore::new(self.share()));
        shares.insert(owner.into(), Arc::downgrade(&share));
        share
    }
}

impl Exchange {
    /// There may be so many private groups. To be said before the first one is
    /// asked for.
    pub fn limit_private(&self, most: usize) {
        let most = most.min(Semaphore::MAX_PERMITS);
        let _ = self.private.places.set((most, Arc::new(Semaphore::new(most))));
    }

    /// How many private groups there may be.
    pub fn most_private(&self) -> usize {
        self.private.places().0
    }

    /// How many of them one owner may have.
    pub fn most_private_of_one(&self) -> usize {
        self.private.share()
    }

    /// A place for a private group of a stream of `owner`, if one is free and it has
    /// not had its share: its identity, or else where it comes from. One client must
    /// not take the places of all.
    pub fn try_place(&self, owner: &str) -> Option<Place> {
        let share = self.private.share_of(owner).try_acquire_owned().ok();
        let place = share.and_then(|share| {
            let place = self.private.places().1.clone().try_acquire_owned().ok()?;
            Some(Place(place, share))
        });
        if place.is_none() {
            self.private.counts.full.inc();
        }
        place
    }

    /// Resolves when there is a place: first come, first served, among those who
    /// have not had their share.
    pub fn next_place(&self, owner: &str) -> impl Future<Output = Option<Place>> + Send + use<> {
        let (share, places) = (self.private.share_of(owner), self.private.places().1.clone());
        // It fails only when the places are closed, which nobody does.
        async move {
            let share = share.acquire_owned().await.ok()?;
            Some(Place(places.acquire_owned().await.ok()?, share))
        }
    }

    /// A stream gets a group of its own, which presents `presented` upstream.
    /// `of` is the group that it is a member of beside; `credential` may open the
    /// upstream stream.
    pub fn join_private(
        self: &Arc<Self>,
        of: &GroupKey,
        place: Place,
        presented: Presented,
        credential: Option<Credential>,
        waker: Waker,
    ) -> Member {
        let presented = self.extensions.share(presented);
        let number = self.members.fetch_add(1, Ordering::Relaxed) + 1;
        let (id, key, now) = (MemberId(number), GroupKey::private(number, of), self.clock.now());
        let state = GroupState::private(now, self.store.clone(), &self.timing);
        let slot = Arc::new(Slot::new(key.clone(), Inner::new(state, now)));
        slot.lock().join(id, presented, credential, waker);
        self.private.slots.insert(key, slot.clone());
        self.act(&slot, |_, _| ());
        Member { id, group: GroupHandle { exchange: self.clone(), slot }, _place: Some(place) }
    }

    /// A node as groups present it: what is long and equal in many is held once.
    pub fn share(&self, presented: Presented) -> Presented {
        self.extensions.share(presented)
    }
}
