//! What an earlier process held and the upstream has not yet said in this one.
//!
//! It is served, but it is nobody's word: a client that states something else may
//! have it from the upstream itself, so that nothing is taken from it or replaced
//! until the upstream has spoken.

use super::kind::{GroupType, Scene};
use crate::content::{Edit, Tree};
use crate::session::Update;
use crate::xds::{Moment, Name};

#[derive(Debug, Default)]
pub(super) struct Recalled {
    /// Entries of which the upstream said nothing yet.
    pub(super) tree: Tree,
    /// Nor did it say what exists.
    pub(super) set: bool,
    /// Names of which it says nothing until then are as it knows them.
    until: Option<Moment>,
}

impl Recalled {
    pub(super) fn of(tree: &Tree, complete: bool) -> Self {
        Self { tree: tree.clone(), set: complete || !tree.is_empty(), until: None }
    }

    pub(super) fn is_over(&self) -> bool {
        !self.set
    }

    pub(super) fn deadline(&self) -> Option<Moment> {
        self.until
    }

    /// The stream ended: what it did not say is unsaid.
    pub(super) fn stream_ended(&mut self) {
        self.until = None;
    }
}

impl GroupType {
    /// Names that an answer speaks of, where that is of interest.
    pub(super) fn spoken(&self, update: &Update) -> Vec<Name> {
        if self.recalled.is_over() || update.answers_wildcard || update.whole {
            return Vec::new();
        }
        let named = update.resources.iter().filter_map(|resource| resource.name.as_ref());
        let aliases = update.resources.iter().flat_map(|resource| &resource.aliases);
        let errors = update.errors.iter().map(|(name, _)| name);
        named.chain(aliases).chain(&update.removed).chain(errors).cloned().collect()
    }

    /// The upstream has said this much, in this process.
    pub(super) fn heard_anew(&mut self, scene: &Scene<'_>, spoken: Vec<Name>, all: bool) {
        if self.recalled.is_over() {
            return;
        }
        if all {
            return self.all_heard();
        }
        self.recalled.until.get_or_insert(scene.now + scene.timing.absent);
        spoken.iter().for_each(|name| self.interest.mark(name, &mut self.notes.marks));
        self.recalled.tree = scene.store.edit(&self.recalled.tree, spoken.into_iter().map(Edit::Remove));
        self.notes.serve = true;
        self.notes.wildcards = true;
    }

    /// What is held is what the upstream says, all of it.
    pub(super) fn all_heard(&mut self) {
        if !self.recalled.is_over() {
            self.recalled = Recalled::default();
            self.notes.serve = true;
            self.notes.members.extend(self.interest.everybody());
        }
    }

    /// The upstream answers for the type and has nothing more to say. That a wildcard
    /// was answered it must say itself.
    pub(super) fn hear_silence(&mut self, scene: &Scene<'_>) {
        if self.recalled.until.is_some_and(|until| until <= scene.now) {
            self.recalled.until = None;
            if !self.wildcard_subscribed() {
                self.all_heard();
            }
        }
    }
}
