//! Changes made to what a type holds, and what streams see of it.

use super::core::MemberId;
use super::kind::{GroupType, Scene};
use crate::content::entry::Attributes;
use crate::content::{Body, Changed, Edit, Entry, ServedType, Store, Tree};
use crate::xds::Name;
use crate::xds::name::Glob;
use std::sync::Arc;

impl GroupType {
    /// Makes changes that are changes, and notes whom they concern.
    pub(super) fn install(&mut self, scene: &Scene<'_>, changed: &[Changed]) {
        if changed.is_empty() {
            return;
        }
        let edit = |change: &Changed| match &change.to {
            Some(entry) => Edit::Put(entry.clone()),
            None => Edit::Remove(change.name.clone()),
        };
        self.tree = scene.store.edit(&self.tree, changed.iter().map(edit));
        let (mut aliases, mut versions) = (Vec::new(), Vec::new());
        for change in changed {
            self.note(change);
            self.alias_edits(scene, change, &mut aliases);
            if !is_present(&change.to) && !self.versions.is_empty() {
                versions.push(Edit::Remove(change.name.clone()));
            }
        }
        if !aliases.is_empty() {
            self.aliases = scene.store.edit(&self.aliases, aliases);
        }
        if !versions.is_empty() {
            self.versions = scene.store.edit(&self.versions, versions);
        }
        self.notes.serve = true;
        self.notes.wildcards = true;
    }

    fn note(&mut self, change: &Changed) {
        let (before, after) = (is_present(&change.from), is_present(&change.to));
        if !after {
            self.expiry.clear(&change.name);
        }
        if self.touched.contains_key(&change.name) {
            Arc::make_mut(&mut self.touched).remove(&change.name);
        }
        for name in aliases(&change.from).iter().chain(aliases(&change.to)).chain([&change.name]) {
            self.interest.mark(name, &mut self.notes.marks);
        }
        if !self.globs.is_empty()
            && let Some(glob) = Glob::over(&change.name)
        {
            self.interest.mark(&glob, &mut self.notes.marks);
            if let Some(members) = self.globs.get_mut(&*glob) {
                *members = *members + usize::from(after) - usize::from(before);
            }
        }
    }

    pub(super) fn alias_edits(&self, scene: &Scene<'_>, change: &Changed, edits: &mut Vec<Edit>) {
        let (old, new) = (aliases(&change.from), aliases(&change.to));
        for alias in old.iter().filter(|alias| !new.contains(alias)) {
            let held = self.aliases.get(alias).and_then(|entry| entry.aliases().first());
            if held == Some(&change.name) {
                edits.push(Edit::Remove(alias.clone()));
            }
        }
        for alias in new.iter().filter(|alias| **alias != change.name && !old.contains(alias)) {
            let attributes = Attributes { aliases: vec![change.name.clone()], ..Default::default() };
            edits.push(Edit::Put(scene.store.entry(alias.clone(), Body::Empty, attributes)));
        }
    }

    /// The upstream's own version of `name`; empty where it gave none.
    pub(super) fn version(&self, name: &str) -> String {
        let stated = self.versions.get(name).map(|entry| &entry.attributes().extra);
        stated.map(|version| String::from_utf8_lossy(version).into_owned()).unwrap_or_default()
    }

    /// Keeps the upstream's own versions of what it sent.
    pub(super) fn state_versions(&mut self, scene: &Scene<'_>, stated: Vec<(Name, String)>) {
        let differs = |(name, version): &(Name, String)| {
            let held = self.versions.get(name).map(|entry| &*entry.attributes().extra).unwrap_or_default();
            held != version.as_bytes()
        };
        let edits: Vec<_> = stated
            .into_iter()
            .filter(differs)
            .map(|(name, version)| match version.is_empty() {
                true => Edit::Remove(name),
                false => {
                    let attributes = Attributes { extra: version.into(), ..Default::default() };
                    Edit::Put(scene.store.entry(name, Body::Empty, attributes))
                }
            })
            .collect();
        if !edits.is_empty() {
            self.versions = scene.store.edit(&self.versions, edits);
            self.notes.versions = true;
        }
    }

    /// Everybody noted since this was last called.
    pub(super) fn take_wakes(&mut self, into: &mut Vec<MemberId>) {
        into.append(&mut self.notes.members);
        into.append(&mut self.interest.marked(&mut self.notes.marks));
        if std::mem::take(&mut self.notes.wildcards) {
            into.extend(self.interest.wildcards());
        }
    }

    /// What streams see of `tree`, which is what the view makes of ours.
    pub(super) fn serve(&mut self, store: &Store, tree: Tree) -> ServedType {
        ServedType {
            tree,
            aliases: self.aliases.clone(),
            label: self.labels.shown().clone(),
            complete: self.complete && self.wildcard_subscribed(),
            wildcard_awaited: self.wildcard_awaited.is_some(),
            awaited: self.awaited.set(store),
            restating: self.restating.set(store),
            touch: self.touch,
            touched: self.touched.clone(),
            received: self.received,
            committed: self.committed,
            recalled: self.recalled.tree.clone(),
            recalled_set: self.recalled.set,
            apart: self.apart.set(store),
        }
    }
}

pub(super) fn is_present(entry: &Option<Arc<Entry>>) -> bool {
    entry.as_ref().is_some_and(|entry| entry.is_present())
}

fn aliases(entry: &Option<Arc<Entry>>) -> &[Name] {
    entry.as_ref().map(|entry| entry.aliases()).unwrap_or_default()
}
