//! From what a step found to say to the frames of a response.

use super::held::Said;
use super::poll::Look;
use super::verdict::Has;
use super::{TypeState, TypeUrl, label_of};
use crate::breaks;
use crate::content::{Body, Encoding, Entry, Frames, Parts, ServedType, Tree};
use crate::xds::types::Variant;
use crate::xds::{Status, code};
use std::collections::HashSet;
use std::sync::Arc;

/// How one type is spoken of on one stream.
pub(super) struct Voice<'a> {
    pub(super) type_url: &'a TypeUrl,
    pub(super) encoding: Encoding,
    pub(super) look: &'a Look<'a>,
}

impl Voice<'_> {
    fn sotw(&self) -> bool {
        self.look.variant == Variant::Sotw
    }

    /// There is nothing in it that this variant can say.
    pub(super) fn says_nothing(&self, said: &Said) -> bool {
        let full = self.type_url.full_state() && !breaks::on("C-034");
        let partial = self.sotw() && !full && !breaks::on("C-035");
        match &said.shared {
            Some((from, to)) => {
                let step = self.look.store.diff(from, to);
                !step.changed.iter().any(|change| {
                    let had = change.from.as_ref().is_some_and(|entry| entry.is_present());
                    let has = change.to.as_ref().is_some_and(|entry| entry.is_present());
                    has || (had && !partial && !is_expired(change.to.as_deref()))
                })
            }
            None if partial => said.resources.is_empty() && said.errors.is_empty(),
            None => said.is_empty(),
        }
    }

    /// SotW states the whole of a full-state type, whatever changed.
    pub(super) fn frames(&self, state: &TypeState, of: &ServedType, said: Said) -> Frames {
        let full = self.type_url.full_state() && !breaks::on("C-031") || breaks::on("C-033");
        let whole = if self.sotw() { full } else { breaks::on("C-070") };
        match said.shared {
            Some((_, to)) if whole => self.step_frames(&Tree::default(), &to, whole),
            Some((from, to)) => self.step_frames(&from, &to, whole),
            None if whole => {
                let all = Said { resources: state.everything(of), errors: said.errors, ..Said::default() };
                self.look.store.frames(self.parts(all, whole))
            }
            None => self.look.store.frames(self.parts(said, whole)),
        }
    }

    fn step_frames(&self, from: &Tree, to: &Tree, whole: bool) -> Frames {
        let store = self.look.store;
        let make = || self.parts(Said::between(from, to, store), whole);
        store.step_frames(from, to, self.encoding, self.type_url, make)
    }

    fn parts(&self, said: Said, whole: bool) -> Parts {
        let mut parts = Parts::new(self.type_url.clone(), self.encoding);
        parts.resources = said.resources;
        parts.errors = said.errors;
        if !self.sotw() {
            parts.removed = said.removed;
        }
        parts.split = (!whole).then_some(self.look.settings.split);
        #[cfg(feature = "breaks")]
        super::broken::parts(&mut parts);
        parts
    }
}

impl TypeState {
    /// SotW, full-state: all that the client is subscribed to and that exists,
    /// removals that are withheld included (C-031).
    fn everything(&self, of: &ServedType) -> Vec<Arc<Entry>> {
        let mut all: Vec<Arc<Entry>> = Vec::new();
        let Some(tree) = self.held.tree() else { return all };
        // Of an exception the client has what the exception says, not what the
        // tree does: told of its absence, it is not told otherwise again.
        let exceptions = self.held.exceptions();
        let in_step = |entry: &&Arc<Entry>| entry.is_present() && !exceptions.contains_key(entry.name());
        if self.subscription.wildcard() {
            all.extend(tree.iter().filter(in_step).cloned());
        } else {
            let names = self.subscription.names().iter();
            all.extend(names.filter_map(|name| tree.get(name).or_else(|| of.resolve(name)).filter(in_step).cloned()));
        }
        for (name, exception) in exceptions {
            if let Has::Present(entry) = &exception.has
                && self.subscription.covers(name, entry.aliases())
            {
                all.push(entry.clone());
            }
        }
        let mut seen = HashSet::new();
        all.retain(|entry| seen.insert(entry.name().clone()));
        all
    }

    /// A variant that is asked for and not supported is an error, once (C-116).
    pub(super) fn tell_variants(&mut self, said: &mut Said, look: &Look<'_>) {
        for (name, told) in self.variants.iter_mut().filter(|(_, told)| !**told) {
            *told = true;
            if !self.subscription.names().contains(name) {
                let text = "variants by dynamic parameters are not supported";
                let code = if breaks::on("C-128") { code::INTERNAL } else { code::UNIMPLEMENTED };
                said.errors.push((name.clone(), Status::new(code, text)));
            }
        }
        if !said.errors.is_empty() {
            said.unshare(look.store);
        }
    }

    /// What the client holds as it is served, and the upstream kept alive since
    /// the touch that was `seen` (C-130, C-131).
    pub(super) fn heartbeats(&self, of: &ServedType, seen: u64) -> Vec<Arc<Entry>> {
        let fresh = of.touched.iter().filter(|(_, touch)| **touch > seen);
        fresh
            .filter_map(|(name, _)| {
                let entry = of.tree.get(name)?;
                let held = self.held.entry(name)?;
                let covered = self.subscription.covers(name, entry.aliases());
                (covered && held.id() == entry.id()).then(|| entry.clone())
            })
            .collect()
    }

    /// The label of what the client has after this response (C-043, C-044).
    pub(super) fn label_now(&self, of: &ServedType) -> Arc<str> {
        match self.held.tree() {
            _ if breaks::on("C-043") && self.label.is_some() => self.label.clone().unwrap_or_default(),
            Some(tree) if breaks::on("C-044") => label_of("", tree),
            Some(tree) if !tree.same(&of.tree) || of.label.is_empty() => label_of(&of.label, tree),
            _ => of.label.clone(),
        }
    }
}

fn is_expired(entry: Option<&Entry>) -> bool {
    entry.is_some_and(|entry| matches!(entry.body(), Body::Expired))
}
