//! What the control plane was told we want of one type, and the request that
//! tells it something else.
//!
//! The two pitfalls here: an empty list may mean everything (C-056), and it may
//! mean nothing (C-042, C-058). Which of both depends on what this stream said
//! before, so that is what is kept.

use crate::content::NameSet;
use crate::xds::name::{Glob, WILDCARD};
use crate::xds::{Name, TypeUrl};
use std::collections::BTreeSet;
use std::sync::Arc;

/// A set of names, with or without `*`.
#[derive(Clone, Debug, Default)]
pub(super) struct Set {
    wildcard: bool,
    names: Arc<NameSet>,
    /// Those of the names that are globs.
    globs: Arc<[Name]>,
}

impl Set {
    pub(super) fn new(wildcard: bool, names: Arc<NameSet>) -> Self {
        let globs = names.iter().filter(|name| Glob::parse(name).is_some()).cloned().collect();
        Self { wildcard, names, globs }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    pub(super) fn wildcard(&self) -> bool {
        self.wildcard
    }

    /// By `*`, or by name.
    pub(super) fn covers(&self, name: &str, aliases: &[Name]) -> bool {
        self.wildcard || self.names_it(name, aliases)
    }

    /// By name, by alias, or by a glob.
    pub(super) fn names_it(&self, name: &str, aliases: &[Name]) -> bool {
        self.names.contains(name)
            || aliases.iter().any(|alias| self.names.contains(alias))
            || self.globs.iter().filter_map(|glob| Glob::parse(glob)).any(|glob| glob.covers(name))
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    fn same(&self, other: &Self) -> bool {
        self.wildcard == other.wildcard && (Arc::ptr_eq(&self.names, &other.names) || self.names == other.names)
    }

    fn list(&self) -> Vec<Name> {
        let star = self.wildcard.then(|| Name::from(WILDCARD));
        star.into_iter().chain(self.names.iter().cloned()).collect()
    }

    /// Names of `self` that `other` lacks.
    fn beyond(&self, other: &Self) -> Vec<Name> {
        if Arc::ptr_eq(&self.names, &other.names) {
            return Vec::new();
        }
        self.names.iter().filter(|name| !other.names.contains(name)).cloned().collect()
    }
}

/// The subscription of one type on one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    want: Set,
    /// `None` until the first request of the type.
    asked: Option<Set>,
    /// SotW: every request so far had an empty list.
    legacy: bool,
    legacy_capable: bool,
    /// Names that were not wanted for a while of which the server was not told.
    dropped: BTreeSet<Name>,
    /// Names that were just unsubscribed to be subscribed again.
    left: BTreeSet<Name>,
}

/// A request's list, or lists, and what they add.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ask {
    /// SotW: the whole list. Delta: names to subscribe.
    pub(super) subscribe: Vec<Name>,
    pub(super) unsubscribe: Vec<Name>,
    /// The first request of the type on this stream.
    pub(super) first: bool,
    pub(super) adds_wildcard: bool,
    /// Names not asked before, globs among them.
    pub(super) adds: Vec<Name>,
    pub(super) drops: Vec<Name>,
}

impl Subscription {
    pub(super) fn new(type_url: &TypeUrl) -> Self {
        Self {
            want: Set::default(),
            asked: None,
            legacy: false,
            legacy_capable: type_url.legacy_wildcard(),
            dropped: BTreeSet::new(),
            left: BTreeSet::new(),
        }
    }

    pub(super) fn set_want(&mut self, want: Set) {
        if let Some(asked) = &self.asked {
            let dropped = self.want.beyond(&want).into_iter().filter(|name| asked.names.contains(name));
            self.dropped.extend(dropped);
        }
        self.want = want;
    }

    /// These were not wanted for a while, although no want said so.
    pub(super) fn ask_again<'a>(&mut self, names: impl Iterator<Item = &'a Name>) {
        if let Some(asked) = &self.asked {
            self.dropped.extend(names.filter(|name| asked.names.contains(name)).cloned());
        }
    }

    /// Subscribed by this very name, as far as the server was told.
    pub(super) fn is_asked(&self, name: &Name) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.names.contains(name))
    }

    /// Names that are wanted again before the server knew that they were not. Who
    /// wants them kept nothing of them, and a server that sees no change sends
    /// nothing: they are unsubscribed first, and subscribed by the request after.
    /// The second of the sets is what was unsubscribed for that before.
    fn take_dropped(&mut self) -> (BTreeSet<Name>, BTreeSet<Name>) {
        let (mut dropped, left) = (std::mem::take(&mut self.dropped), std::mem::take(&mut self.left));
        dropped.retain(|name| self.want.names.contains(name) && self.is_asked(name) && !left.contains(name));
        (dropped, left)
    }

    pub(super) fn want(&self) -> &Set {
        &self.want
    }

    pub(super) fn asked(&self) -> Option<&Set> {
        self.asked.as_ref()
    }

    /// The delta request that makes the server's view ours, if it differs.
    pub(super) fn ask_delta(&mut self) -> Option<Ask> {
        let want = self.want.clone();
        let (dropped, left) = self.take_dropped();
        let Some(asked) = &self.asked else {
            if want.is_empty() {
                return None;
            }
            let bare = want.wildcard && want.names.is_empty() && self.legacy_capable;
            let subscribe = if bare { Vec::new() } else { want.list() };
            let adds = want.names.iter().cloned().collect();
            let ask = Ask { subscribe, first: true, adds_wildcard: want.wildcard, adds, ..Ask::default() };
            self.asked = Some(want);
            return Some(ask);
        };
        if asked.same(&want) && dropped.is_empty() && left.is_empty() {
            return None;
        }
        let again = left.iter().filter(|name| want.names.contains(name));
        let adds: Vec<Name> = want.beyond(asked).into_iter().chain(again.cloned()).collect();
        let gone = asked.beyond(&want).into_iter().chain(dropped.iter().cloned());
        let drops: Vec<Name> = gone.filter(|name| !left.contains(name)).collect();
        let star = |there: bool| there.then(|| Name::from(WILDCARD));
        let adds_wildcard = want.wildcard && !asked.wildcard;
        let drops_wildcard = asked.wildcard && !want.wildcard;
        let ask = Ask {
            subscribe: star(adds_wildcard).into_iter().chain(adds.iter().cloned()).collect(),
            unsubscribe: star(drops_wildcard).into_iter().chain(drops.iter().cloned()).collect(),
            first: false,
            adds_wildcard,
            adds,
            drops,
        };
        (self.asked, self.left) = (Some(want), dropped);
        (!ask.subscribe.is_empty() || !ask.unsubscribe.is_empty()).then_some(ask)
    }

    /// The SotW list that brings the server's view nearer to ours, if it
    /// differs. One change may take two requests: see [`Self::step_sotw`].
    pub(super) fn ask_sotw(&mut self) -> Option<Ask> {
        let first = self.asked.is_none();
        if first && self.want.is_empty() || self.settled() && self.dropped.is_empty() && self.left.is_empty() {
            return None;
        }
        let said = self.list();
        let (dropped, left) = self.take_dropped();
        let before = self.asked.take().unwrap_or_default();
        let now = self.step_sotw(first);
        let again = left.iter().filter(|name| now.names.contains(name));
        let gone = before.beyond(&now).into_iter().chain(dropped.iter().cloned());
        let mut ask = Ask {
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            first,
            adds_wildcard: now.wildcard && !before.wildcard,
            adds: now.beyond(&before).into_iter().chain(again.cloned()).collect(),
            drops: gone.filter(|name| !left.contains(name)).collect(),
        };
        (self.asked, self.left) = (Some(now), dropped);
        ask.subscribe = self.list();
        (first || ask.subscribe != said).then_some(ask)
    }

    /// The set to state next. As long as only empty lists were sent, an empty
    /// one means everything: to leave that for nothing, `*` is named first
    /// (C-058, C-059).
    fn step_sotw(&mut self, first: bool) -> Set {
        let bare = self.want.wildcard && self.want.names.is_empty();
        let leaves_legacy = self.legacy && self.want.is_empty();
        self.legacy = bare && self.legacy_capable && (first || self.legacy);
        if leaves_legacy { Set { wildcard: true, ..Set::default() } } else { self.want.clone() }
    }

    /// The SotW list that says nothing new.
    pub(super) fn list(&self) -> Vec<Name> {
        let asked = self.asked.as_ref().filter(|_| !self.legacy);
        let mut list = asked.map(Set::list).unwrap_or_default();
        list.retain(|name| !self.left.contains(name));
        list
    }

    /// The server knows what is wanted.
    pub(super) fn settled(&self) -> bool {
        self.asked.as_ref().map_or(self.want.is_empty(), |asked| asked.same(&self.want))
    }
}
