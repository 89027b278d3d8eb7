//! What one stream is subscribed to, of one type.
//!
//! One value for both variants. SotW replaces the list, delta edits it; the
//! difference to what was covered before comes back as a [`Shift`].

use crate::breaks;
use crate::content::{NameSet, Store};
use crate::xds::ask::Named;
use crate::xds::name::{Glob, WILDCARD};
use crate::xds::{Name, TypeUrl};
use std::collections::HashSet;
use std::sync::Arc;

/// Subscribed names, globs and the wildcard of one (stream, type).
#[derive(Clone, Debug)]
pub(super) struct Subscription {
    wildcard: bool,
    /// No request has named anything yet, so that an empty list may mean `*`
    /// (C-056, C-058).
    legacy: bool,
    seen: bool,
    /// Explicit names, globs among them.
    names: Arc<NameSet>,
    globs: Vec<Name>,
}

/// What one request changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Shift {
    /// Names that must be answered: subscribed by delta, whether new or again
    /// (C-072), or new in a SotW list.
    pub(super) asked: Vec<Name>,
    /// Explicit names that were dropped.
    pub(super) dropped: Vec<Name>,
    /// `*` was subscribed where it was not before.
    pub(super) wildcard_added: bool,
    /// `*` was subscribed again by delta (C-073).
    pub(super) wildcard_again: bool,
    /// The subscription is another than before.
    pub(super) moved: bool,
    /// `+* -*` as the first request: subscribed to nothing, and to be told so
    /// (C-065).
    pub(super) nothing: bool,
}

impl Subscription {
    /// `legacy`: an empty first list means `*` for this type and client.
    pub(super) fn new(legacy: bool, store: &Store) -> Self {
        Self { wildcard: false, legacy, seen: false, names: store.names(Vec::new()), globs: Vec::new() }
    }

    pub(super) fn wildcard(&self) -> bool {
        self.wildcard
    }

    pub(super) fn names(&self) -> &Arc<NameSet> {
        &self.names
    }

    /// Subscribed to nothing at all.
    pub(super) fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// Subscribed by this very name or alias.
    pub(super) fn by_name(&self, name: &str, aliases: &[Name]) -> bool {
        self.names.contains(name) || !breaks::on("C-084") && aliases.iter().any(|alias| self.names.contains(alias))
    }

    /// Subscribed by `*` or a glob: what is missing there does not exist.
    pub(super) fn by_set(&self, name: &str) -> bool {
        self.wildcard || self.globs.iter().filter_map(|glob| Glob::parse(glob)).any(|glob| glob.covers(name))
    }

    pub(super) fn covers(&self, name: &str, aliases: &[Name]) -> bool {
        self.by_set(name) || self.by_name(name, aliases)
    }

    /// Those of `names` that are covered.
    pub(super) fn among(&self, names: &Arc<NameSet>, store: &Store) -> Arc<NameSet> {
        if names.is_empty() || self.wildcard {
            return names.clone();
        }
        let covered: Vec<Name> = names.iter().filter(|name| self.covers(name, &[])).cloned().collect();
        if covered.is_empty() { Arc::default() } else { store.names(covered) }
    }

    pub(super) fn globs(&self) -> &[Name] {
        &self.globs
    }

    /// SotW: the list of a request replaces the one before (C-030).
    pub(super) fn replace(&mut self, named: &Named, store: &Store) -> Shift {
        let before = self.clone();
        self.seen = true;
        let wildcard = named.names.iter().any(|name| &**name == WILDCARD);
        if !named.names.is_empty() && !breaks::on("C-058") {
            self.legacy = false;
        }
        let empty = named.names.is_empty() && (self.legacy || breaks::on("C-042"));
        self.wildcard = wildcard || empty || before.wildcard && breaks::on("C-059");
        let kept = before.names.iter().filter(|_| breaks::on("C-030"));
        let names = named.names.iter().filter(|name| &***name != WILDCARD).chain(kept).cloned().collect();
        self.set_names(names, store);
        if before.names == self.names && before.wildcard == self.wildcard {
            return Shift::default();
        }
        Shift {
            asked: self.names.iter().filter(|name| !before.covers(name, &[])).cloned().collect(),
            dropped: before.names.iter().filter(|name| !self.names.contains(name)).cloned().collect(),
            wildcard_added: self.wildcard && !before.wildcard,
            wildcard_again: false,
            moved: true,
            nothing: false,
        }
    }

    /// Delta: subscribe, then unsubscribe (C-065).
    pub(super) fn edit(&mut self, subscribe: Vec<Name>, unsubscribe: &[Name], store: &Store) -> Shift {
        let first = !std::mem::replace(&mut self.seen, true);
        let (before, wildcard) = (self.names.clone(), self.wildcard);
        let mut shift = Shift::default();
        let only = unsubscribe.is_empty() || !breaks::on("C-066");
        if first && subscribe.is_empty() && self.legacy && only {
            self.wildcard = true;
            shift.wildcard_added = true;
        }
        if subscribe.is_empty() && unsubscribe.is_empty() {
            // A plain ACK: costs nothing however many names there are.
            shift.moved = self.wildcard != wildcard;
            return shift;
        }
        let subscribes = !subscribe.is_empty();
        for name in subscribe {
            if &*name == WILDCARD {
                shift.wildcard_added = !self.wildcard;
                shift.wildcard_again = self.wildcard;
                self.wildcard = true;
            } else {
                self.wildcard &= !breaks::on("C-060");
                shift.asked.push(name);
            }
        }
        for name in unsubscribe {
            if &**name == WILDCARD {
                shift.nothing = first && shift.wildcard_added && !breaks::on("C-065");
                (shift.wildcard_added, shift.wildcard_again) = (false, false);
                self.wildcard = false;
            } else if self.names.contains(name) || breaks::on("C-063") {
                shift.dropped.push(name.clone());
            }
        }
        let gone: HashSet<&Name> = unsubscribe.iter().collect();
        shift.asked.retain(|name| !gone.contains(name));
        // Who asks for names with it has an answer coming.
        shift.nothing &= shift.asked.is_empty();
        if subscribes || !shift.dropped.is_empty() {
            let kept = before.iter().filter(|name| !gone.contains(name));
            self.set_names(kept.chain(&shift.asked).cloned().collect(), store);
        }
        if before.is_empty() {
            // The same names in the set's order: nearly always, as in a first request.
            shift.asked = self.names.iter().cloned().collect();
        }
        shift.moved = self.wildcard != wildcard || self.names != before;
        shift
    }

    fn set_names(&mut self, names: Vec<Name>, store: &Store) {
        self.globs = names.iter().filter(|name| Glob::parse(name).is_some()).cloned().collect();
        self.names = store.names(names);
    }
}

/// Does an empty first list of `type_url` mean `*`? `off` holds the pairs of
/// type (all where `None`) and user-agent prefix for which it does not (C-067).
pub(super) fn legacy_wildcard(type_url: &TypeUrl, user_agent: &str, off: &[super::LegacyOff]) -> bool {
    (type_url.legacy_wildcard() || breaks::on("C-057"))
        && !breaks::on("C-056")
        && !off.iter().filter(|_| !breaks::on("C-067")).any(|rule| {
            rule.type_url.as_ref().is_none_or(|of| of == type_url) && user_agent.starts_with(&rule.user_agent_prefix)
        })
}
