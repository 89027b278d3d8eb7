//! How far a type may go now: its turn, the order across types, the settle window.
//!
//! Nothing here says anything or changes a stream. `poll` asks before a type
//! speaks, and looks again when a moment named here has come.

use super::held::Reach;
use super::poll::Look;
use super::verdict::{Target, View};
use super::{TypeState, TypeUrl};
use crate::breaks;
use crate::content;
use crate::xds::time::earliest;
use crate::xds::types::{Kind, Variant};
use crate::xds::{Moment, Name};
use std::collections::BTreeMap;
use std::time::Duration;

/// What one type must know of the others on its stream. Types are looked at in
/// writing order, and what is learnt of one counts for those after it.
#[derive(Debug, Default)]
pub(super) struct Others {
    /// An LDS, RDS, SRDS or ECDS turn is open until then at the latest.
    referrer_open: bool,
    referrer_expires: Option<Moment>,
    /// One of these has something that was not looked at yet.
    referrer_dirty: bool,
    listeners_withheld: bool,
    clusters_withheld: bool,
    /// A cluster waits for its turn, so that nothing new may refer to it (C-106).
    clusters_behind: bool,
}

/// Whether removals of a type may go out (C-105).
#[derive(Clone, Copy, Debug)]
pub(super) struct Removal {
    pub(super) allowed: bool,
    /// When to look again.
    pub(super) next: Option<Moment>,
}

impl Others {
    pub(super) fn of(types: &BTreeMap<TypeUrl, TypeState>, now: Moment, turn: Duration) -> Self {
        let mut others = Self::default();
        for (type_url, state) in types {
            match type_url.kind() {
                Kind::Cluster => others.clusters_withheld = state.withheld.is_some(),
                Kind::Listener => others.listeners_withheld = state.withheld.is_some(),
                _ => {}
            }
            if type_url.refers() || type_url.kind() == Kind::Listener {
                others.referrer_dirty |= state.dirty && !state.silent;
                if state.turns.is_open(now, turn) {
                    others.referrer_open = true;
                    others.referrer_expires = earliest(others.referrer_expires, state.turns.expires(turn));
                }
            }
        }
        others
    }

    /// Something that refers was not looked at yet, which removals wait for.
    pub(super) fn referrer_dirty(&self) -> bool {
        self.referrer_dirty
    }

    /// Removals of `type_url` are withheld now, or no longer.
    pub(super) fn note_withheld(&mut self, type_url: &TypeUrl, withheld: bool) {
        if type_url.kind() == Kind::Cluster {
            self.clusters_withheld = withheld;
        }
    }

    /// May removals of this type go out, as far as the others know?
    pub(super) fn removal(&self, type_url: &TypeUrl, state: &TypeState, look: &Look<'_>) -> Removal {
        if !type_url.removals_settle() {
            return Removal { allowed: true, next: None };
        }
        let (now, timing, unsettled) = (look.now, &look.settings.timing, look.served.unsettled);
        let since = state.withheld.unwrap_or(now);
        let (settled, latest) = (unsettled + timing.settle, since + timing.settle_most);
        let quiet = now >= settled.min(latest) || unsettled == Moment::START;
        let behind = self.referrer_dirty && now < latest;
        let before = match type_url.kind() {
            Kind::Cluster => self.listeners_withheld,
            Kind::Endpoint => self.clusters_withheld,
            _ => false,
        };
        let held_up = self.referrer_open || (before && now < latest + timing.turn);
        let moments = [settled, latest, latest + timing.turn];
        let next = moments.into_iter().chain(self.referrer_expires).filter(|moment| *moment > now).min();
        Removal { allowed: quiet && !behind && !held_up || breaks::on("C-105"), next }
    }

    /// How far the type may go now; `None` where it must wait for its turn.
    pub(super) fn reach(
        &mut self,
        type_url: &TypeUrl,
        state: &TypeState,
        look: &Look<'_>,
        view: &View<'_>,
    ) -> Option<Reach> {
        let open = state.turns.is_open(look.now, look.settings.timing.turn) && !breaks::on("C-143");
        if open && type_url.kind() == Kind::Cluster {
            self.clusters_behind = state.held.is_behind(view);
        }
        let refers = type_url.refers() || matches!(type_url.kind(), Kind::Listener | Kind::VirtualHost);
        let overtakes = refers && self.clusters_behind && !state.silent && !breaks::on("C-106");
        match look.variant {
            Variant::Sotw if open => None,
            _ if open && breaks::on("C-108") => None,
            Variant::Sotw if overtakes && type_url.full_state() && !state.owed => None,
            _ if open || overtakes => Some(Reach::Answers),
            _ => Some(Reach::All),
        }
    }
}

impl TypeState {
    /// The first answer can be given: nothing it would leave out is merely
    /// unknown (C-036, C-138).
    pub(super) fn word_is_known(&self, type_url: &TypeUrl, variant: Variant, view: &View<'_>) -> bool {
        if view.subscription.wildcard() {
            let known = |name: &Name| !matches!(view.target(name), Target::Unknown);
            let silence = || self.silence_speaks(view).is_some_and(|at| at <= view.look.now);
            let apart = variant == Variant::Delta || view.served.apart.iter().all(known) || silence();
            return view.served.complete && !view.served.wildcard_awaited && apart || breaks::on("C-138");
        }
        variant == Variant::Delta
            || !type_url.full_state()
            || !view.lacks_word()
            || self.silence_speaks(view).is_some_and(|at| at <= view.look.now)
    }

    /// In SotW a client says only under which label it has what it has. Where that is
    /// another than what an earlier process held, it keeps what it has, unanswered,
    /// until the upstream has spoken (C-118, C-137).
    pub(super) fn knows_better(&self, variant: Variant, of: &content::ServedType) -> bool {
        let names = self.subscription.names();
        let recalled = || self.subscription.wildcard() || names.look_up(&of.recalled).any(|(_, held)| held.is_some());
        let differs = !self.version.is_empty() && *self.version != *of.label;
        variant == Variant::Sotw && self.silent && of.recalled_set && differs && recalled()
    }

    /// When the names that exist are stated without those of which the upstream
    /// has said nothing, although it answers: it may never say that they do not
    /// exist, and the others are not to wait for that (C-120). A wildcard waits so
    /// long for what must not be kept, once the private group can ask for it.
    pub(super) fn silence_speaks(&self, view: &View<'_>) -> Option<Moment> {
        let wildcard = view.subscription.wildcard();
        let served = if wildcard { view.look.own? } else { view.look.line };
        let answers = served.upstream == content::Reach::Answering && (wildcard || view.knows_some());
        answers.then(|| self.asked.max(served.upstream_since) + view.look.settings.timing.absent)
    }
}
