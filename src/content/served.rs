//! What a group serves now: made by the exchange, read by its streams.

use super::names::NameSet;
use super::tree::Tree;
use crate::xds::{Moment, Name, TypeUrl};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One group's served snapshot with what a stream must know about it.
/// Immutable: the exchange makes the next one.
#[derive(Clone, Debug, Default)]
pub struct Served {
    /// In writing order. A type nobody ever wanted is not there.
    pub types: BTreeMap<TypeUrl, Arc<ServedType>>,
    /// When the last snapshot came that changed CDS, LDS, RDS, SRDS or ECDS
    /// ([`TypeUrl::unsettles`]): the settle window counts from here (C-105).
    pub unsettled: Moment,
    pub upstream: Reach,
    /// When it came to be so.
    pub upstream_since: Moment,
    /// Some type has names apart.
    pub apart: bool,
}

/// One type of it.
#[derive(Clone, Debug, Default)]
pub struct ServedType {
    pub tree: Tree,
    /// Alias → an entry of the same name whose only alias is the canonical
    /// name: a tree like any other, made from `tree`.
    pub aliases: Tree,
    /// `version_info` to state: the upstream's label, or `<label>~<8 hex>`
    /// where this tree is not the upstream's (C-044).
    pub label: Arc<str>,
    /// The upstream answered `*`: what is not in the tree does not exist (C-138).
    pub complete: bool,
    /// `*` is wanted again and the upstream's word on it is awaited.
    pub wildcard_awaited: bool,
    /// Held but unconfirmed names that are wanted again: not to be served until
    /// they leave this set.
    pub awaited: Arc<NameSet>,
    /// Assignments of which the upstream's own answer to a cluster change is
    /// awaited: a follow-up (C-101) waits until they leave this set.
    pub restating: Arc<NameSet>,
    /// Heartbeats of the upstream (C-131): the newest number is `touch`, and
    /// each name has the number of its last one.
    pub touch: u64,
    pub touched: Arc<BTreeMap<Name, u64>>,
    /// When the newest patch of this type came in, and when it was committed.
    pub received: Moment,
    pub committed: Moment,
    /// Names that exist and must not be kept here (C-145): who wants one asks for
    /// it in a private group. Nothing is known of them from the tree.
    pub apart: Arc<NameSet>,
    /// What an earlier process held and the upstream has said nothing of in this
    /// one, by the same names; a client may know better.
    pub recalled: Tree,
    /// Nor has it said what exists.
    pub recalled_set: bool,
}

/// Whether the upstream can answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    #[default]
    Answering,
    /// No connection stands, or an ask is unanswered for 2 s.
    Silent { since: Moment, reason: Arc<str> },
}

impl Served {
    pub fn of(&self, type_url: &TypeUrl) -> Option<&Arc<ServedType>> {
        self.types.get(type_url)
    }
}

impl ServedType {
    /// The entry that `name`, canonical or alias, stands for (C-084).
    pub fn resolve(&self, name: &str) -> Option<&Arc<super::Entry>> {
        self.tree.get(name).or_else(|| self.tree.get(self.canonical(name)?))
    }

    /// The name of which `name` is an alias.
    pub fn canonical(&self, name: &str) -> Option<&Name> {
        self.aliases.get(name)?.aliases().first()
    }
}
