//! What of a group outlives the process, and how it is put back.
//!
//! A group is kept as its types are: what is held, the upstream's own versions and
//! labels, and what runs out when. Who wants it is not: sidecars come back and
//! say so. So what is put back is as a group whose members and whose upstream
//! stream are gone: held, unconfirmed, and served to whoever comes.
//!
//! Promise: what the upstream said in this process is never replaced by what it
//! said before. Of what must not be cached (C-145) the names are kept, and nothing
//! else: a set that is complete is so but for them.

use super::core::{GroupState, Line};
use super::kind::{GroupType, Scene};
use super::label::{KeptLabel, Labels};
use super::lease::Phase;
use super::recalled::Recalled;
use crate::content::{Changed, Tree};
use crate::xds::{Kind, Moment, Name, TypeUrl};
use std::time::Duration;

/// What came too late stays on disk as it is for as long as the upstream has not spoken
/// of all of it, or has answered for so long.
const PARKED: Duration = Duration::from_secs(60);

/// What is kept of a group. Trees are of one store.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// In writing order; those that hold nothing are not there.
    pub types: Vec<KeptType>,
}

/// One type of it.
#[derive(Clone, Debug)]
pub struct KeptType {
    pub type_url: TypeUrl,
    pub tree: Tree,
    /// The upstream's own versions: in each entry's `extra`.
    pub versions: Tree,
    pub label: KeptLabel,
    /// The upstream answered `*`.
    pub complete: bool,
    /// How long ago it was known to be what the upstream says.
    pub confirmed: Option<Duration>,
    /// What is left of TTLs (C-132).
    pub expires: Vec<(Name, Duration)>,
    /// Names that exist and whose resources must not be kept (C-145).
    pub apart: Vec<Name>,
}

impl GroupState {
    /// `None` while what is on disk is more than what is held.
    pub fn keep(&self, now: Moment) -> Option<Kept> {
        if self.parked.is_some() {
            return None;
        }
        let held = self.types.values().filter(|kind| !kind.tree.is_empty() || kind.complete);
        Some(Kept { types: held.map(|kind| kind.keep(now, self.confirmed(kind, now))).collect() })
    }

    /// Puts back what another process held: all of it at once. Where a connection to
    /// the upstream stands it waits for its word as what is wanted again does, else it
    /// is served. Nothing is put back under a stream that stands: it was not told what is
    /// held, so that it would not say what is gone. Nor is it put beside what the upstream
    /// said in this process. It waits then: it is put back should the stream end without a
    /// word.
    pub fn restore(&mut self, now: Moment, kept: Kept, connected: bool) {
        if matches!(self.line, Line::Up { .. }) || self.knows_some() {
            self.parked = Some(kept.into());
            return self.unpark(now);
        }
        self.expected = connected.then(|| now + self.timing().reconfirm);
        for of in kept.types {
            let type_url = of.type_url.clone();
            self.quiet_step(now, &type_url, connected, |kind, scene| kind.restore(scene, of));
        }
        self.restored = Some(now);
        self.publish(now);
    }

    fn knows_some(&self) -> bool {
        self.types.values().any(|kind| kind.knows_some())
    }

    /// The stream ended: did it say anything?
    pub(super) fn restore_parked(&mut self, now: Moment) {
        if !self.knows_some()
            && let Some(parked) = self.parked.take()
        {
            self.restore(now, *parked, false);
        }
    }

    /// Gives up what waits, where the upstream has said as much.
    pub(super) fn unpark(&mut self, now: Moment) {
        let Some(parked) = &self.parked else { return };
        let spoken = |of: &KeptType| self.types.get(&of.type_url).is_some_and(|kind| kind.knows_some());
        let long = matches!(&self.line, Line::Up { opened, heard: Some(_), .. } if now.since(*opened) >= PARKED);
        if long || parked.types.iter().all(spoken) {
            self.parked = None;
            self.unkept = true;
        }
    }

    /// Is what is to be kept another since this was last called?
    pub fn take_unkept(&mut self) -> bool {
        std::mem::take(&mut self.unkept)
    }
}

impl GroupType {
    fn keep(&self, now: Moment, confirmed: Option<Duration>) -> KeptType {
        let mut expires: Vec<_> = self.expiry.all().map(|(name, until)| (name.clone(), until.since(now))).collect();
        expires.sort_unstable();
        KeptType {
            type_url: self.url.clone(),
            tree: self.tree.clone(),
            versions: self.versions.clone(),
            label: self.labels.keep(),
            complete: self.complete,
            confirmed,
            expires,
            apart: self.apart.names().iter().cloned().collect(),
        }
    }

    fn knows_some(&self) -> bool {
        self.complete || !self.tree.is_empty()
    }

    fn restore(&mut self, scene: &Scene<'_>, kept: KeptType) -> Vec<Changed> {
        self.tree = kept.tree;
        self.versions = kept.versions;
        self.labels = Labels::of(kept.label);
        self.complete = kept.complete;
        self.recalled = Recalled::of(&self.tree, self.complete);
        self.pulse.recall(scene.now, kept.confirmed);
        kept.apart.into_iter().for_each(|name| _ = self.apart.insert(name));
        kept.expires.iter().for_each(|(name, left)| self.expiry.set(name, scene.now + *left));
        // As what a wildcard left: to be evicted where nobody comes for it.
        self.wildcard.get_or_insert(Phase::Idle(self.pulse.synced_for(scene.now) + scene.timing.evict));
        let all = self.tree.iter().map(|entry| (entry, !entry.aliases().is_empty()));
        let listed = all.filter(|(_, aliased)| *aliased || self.url.kind() == Kind::Cluster);
        let changed: Vec<_> = listed
            .map(|(entry, _)| Changed { name: entry.name().clone(), from: None, to: Some(entry.clone()) })
            .collect();
        let mut aliases = Vec::new();
        changed.iter().for_each(|change| self.alias_edits(scene, change, &mut aliases));
        self.aliases = scene.store.edit(&self.aliases, aliases);
        let globs: Vec<_> = self.globs.keys().cloned().collect();
        for glob in globs {
            let members = self.glob_members(&glob).count();
            self.globs.insert(glob, members);
        }
        if scene.connected {
            let until = scene.now + scene.timing.reconfirm;
            for name in self.interest.names().into_iter().chain(self.referred.iter().cloned()) {
                if self.resolve(&name).is_some() {
                    self.awaited.insert(&name, until);
                }
            }
            self.wildcard_awaited = (self.complete && self.wildcard_subscribed()).then_some(until);
        }
        let expired = self.expire(scene);
        self.install(scene, &expired);
        self.notes.serve = true;
        self.notes.members.extend(self.interest.everybody());
        changed
    }
}
