//! An upstream response becomes changes of a type.

use super::kind::{Edits, GroupType, Scene};
use super::label::Step;
use crate::content::entry::Attributes;
use crate::content::{Body, Changed, Entry};
use crate::session::Update;
use crate::xds::envelope::{Payload, Resource};
use crate::xds::name::{Glob, WILDCARD};
use crate::xds::{Kind, Moment, Name, Status, TypeUrl, code};
use std::collections::HashSet;
use std::sync::Arc;

/// Errors remembered beside what is held.
const ERRORS: usize = 32;

/// What a commit did to one type.
#[derive(Debug, Default)]
pub(super) struct Committed {
    pub(super) changed: Vec<Changed>,
    /// Heartbeats taken (C-131).
    pub(super) touched: usize,
    /// Resources that no subscription covers.
    pub(super) ignored: usize,
}

#[derive(Default)]
struct Draft {
    edits: Edits,
    touched: Vec<Name>,
    ignored: usize,
    /// The upstream's versions of what it sent.
    versions: Vec<(Name, String)>,
}

impl GroupType {
    pub(super) fn commit(&mut self, scene: &Scene<'_>, update: Update) -> Committed {
        let Update { label, resources, removed, errors, whole, answers_wildcard, received, .. } = update;
        self.pulse.answered(scene.now);
        let mut draft = Draft::default();
        let whole = whole && self.url.full_state();
        let listed: HashSet<Name> = match whole {
            true => resources.iter().filter_map(|resource| resource.name.clone()).collect(),
            false => HashSet::new(),
        };
        for resource in resources {
            self.put(scene, &mut draft, resource, received);
        }
        for name in removed {
            self.gone(scene, &mut draft, &name);
        }
        for (name, status) in errors {
            self.error(scene, &mut draft, name, status);
        }
        if whole {
            self.missing(scene, &mut draft, &listed, answers_wildcard);
        }
        if answers_wildcard {
            self.answered_wildcard();
        }
        let before = self.tree.clone();
        let mut changed = self.install(scene, draft.edits);
        let empty = self.emptied_globs(scene, &changed);
        changed.extend(self.install(scene, empty));
        for (name, version) in draft.versions {
            self.state_version(name, version);
        }
        let step = step_of(&changed);
        let shown = self.labels.shown().clone();
        self.labels.committed(&label, &before, &self.tree, step);
        self.notes.serve |= shown != *self.labels.shown();
        if !changed.is_empty() {
            (self.received, self.committed) = (received, scene.now);
        }
        let touched = self.touch_all(draft.touched);
        Committed { changed, touched, ignored: draft.ignored }
    }

    fn put(&mut self, scene: &Scene<'_>, draft: &mut Draft, resource: Resource, received: Moment) {
        let Resource { name: Some(name), version, payload, aliases, ttl, do_not_cache, constraints, extra } = resource
        else {
            draft.ignored += 1;
            return;
        };
        if !self.accepts(&name, &aliases) {
            draft.ignored += 1;
            return;
        }
        self.answer_all(&name, &aliases);
        let held = self.tree.get(&name);
        if payload.is_none() && ttl.is_some() {
            match held.map(|entry| entry.body()) {
                Some(Body::Resource(_)) => {
                    ttl.into_iter().for_each(|ttl| self.expiry.set(&name, received + ttl));
                    draft.touched.push(name);
                    return;
                }
                // Its bytes are gone: there is nothing to revive.
                Some(Body::Expired) => return,
                _ => {}
            }
        }
        let attributes = Attributes { aliases, ttl, do_not_cache, constraints, extra };
        match held.filter(|entry| is_as_held(entry, &self.url, payload.as_ref(), &attributes)) {
            // With a TTL this is as good as a heartbeat.
            Some(_) if ttl.is_some() => draft.touched.push(name.clone()),
            Some(_) => {}
            None => {
                let body = self.body(scene, held, payload);
                self.lift(draft, &name, &attributes.aliases);
                draft.edits.insert(name.clone(), Some(scene.store.entry(name.clone(), body, attributes)));
            }
        }
        match ttl {
            Some(ttl) => self.expiry.set(&name, received + ttl),
            None => self.expiry.clear(&name),
        }
        self.errors.retain(|(_, other, _)| *other != name);
        draft.versions.push((name, version));
    }

    /// Bytes are compared before they are hashed.
    fn body(&self, scene: &Scene<'_>, held: Option<&Arc<Entry>>, payload: Option<Payload>) -> Body {
        let Some(payload) = payload else { return Body::Empty };
        if let Some(Body::Resource(blob)) = held.map(|entry| entry.body())
            && *blob.value() == payload.value
            && blob.type_url().as_str() == payload.type_url
        {
            return Body::Resource(blob.clone());
        }
        if payload.type_url == self.url.as_str() {
            return Body::Resource(scene.store.blob(&self.url, &payload.value));
        }
        Body::Resource(scene.store.blob(&TypeUrl::new(&payload.type_url), &payload.value))
    }

    /// A subscription covers it, or it is held. On-demand workloads come under
    /// names that nobody asked for (C-196).
    fn accepts(&self, name: &Name, aliases: &[Name]) -> bool {
        self.covers(name, aliases)
            || self.tree.get(name).is_some()
            || self.url.kind() == Kind::Workload && !self.interest.is_empty()
    }

    /// The upstream has spoken about all of these.
    fn answer_all(&mut self, name: &Name, aliases: &[Name]) {
        self.answered(name);
        aliases.iter().for_each(|alias| self.answered(alias));
        if !self.awaited.is_empty()
            && let Some(glob) = Glob::over(name)
        {
            self.answered(&glob);
        }
    }

    /// What says that an alias, or the glob around it, is absent is so no more.
    fn lift(&self, draft: &mut Draft, name: &Name, aliases: &[Name]) {
        let glob = (!self.globs.is_empty()).then(|| Glob::over(name)).flatten().map(Name::from);
        for other in aliases.iter().filter(|alias| *alias != name).cloned().chain(glob) {
            if self.tree.get(&other).is_some_and(|entry| !entry.is_present()) {
                draft.edits.entry(other).or_insert(None);
            }
        }
    }

    /// The upstream says that `name` does not exist (C-118).
    fn gone(&mut self, scene: &Scene<'_>, draft: &mut Draft, name: &Name) {
        self.answered(name);
        if Glob::parse(name).is_some() {
            // An enclosing glob that is gone takes its members with it.
            let members: Vec<_> = self.glob_members(name).cloned().collect();
            members.iter().for_each(|entry| self.take_out(scene, draft, entry));
        }
        match self.tree.get(name).cloned() {
            Some(entry) => {
                entry.aliases().iter().for_each(|alias| self.answered(alias));
                self.take_out(scene, draft, &entry);
            }
            None if self.leases.is_subscribed(name) => {
                let absent = scene.store.entry(name.clone(), Body::Absent, Attributes::default());
                draft.edits.insert(name.clone(), Some(absent));
            }
            None => {}
        }
        self.errors.retain(|(_, other, _)| other != name);
    }

    /// Absent where somebody asked for it by a name, else not there.
    fn take_out(&self, scene: &Scene<'_>, draft: &mut Draft, entry: &Entry) {
        let absent = self.named(entry.name(), entry.aliases()).then(|| {
            let attributes = Attributes { aliases: entry.aliases().to_vec(), ..Default::default() };
            scene.store.entry(entry.name().clone(), Body::Absent, attributes)
        });
        draft.edits.insert(entry.name().clone(), absent);
    }

    /// Absence and refusal replace what is held; trouble that may pass does not.
    fn error(&mut self, scene: &Scene<'_>, draft: &mut Draft, name: Name, status: Status) {
        self.answered(&name);
        let pending = draft.edits.get(&name).cloned();
        let held = pending.unwrap_or_else(|| self.tree.get(&name).cloned());
        let aliases = held.as_ref().map(|entry| entry.aliases().to_vec()).unwrap_or_default();
        aliases.iter().for_each(|alias| self.answered(alias));
        let lasting = matches!(status.code, code::NOT_FOUND | code::PERMISSION_DENIED);
        let present = held.as_ref().is_some_and(|entry| entry.is_present());
        // An error is no answer for a wildcard (C-124).
        if *name == *WILDCARD || !lasting && present || !self.named(&name, &aliases) && !present {
            self.errors.retain(|(_, other, _)| *other != name);
            self.errors.push_back((scene.now, name, status));
            if self.errors.len() > ERRORS {
                self.errors.pop_front();
            }
            return;
        }
        self.errors.retain(|(_, other, _)| *other != name);
        let attributes = Attributes { aliases, ..Default::default() };
        let entry = scene.store.entry(name.clone(), Body::Error(status), attributes);
        draft.edits.insert(name, Some(entry));
    }

    /// A whole SotW set: what was asked for and is not in it is gone (C-118b). A
    /// name that was only just asked for is not: the set may be older than the ask.
    fn missing(&mut self, scene: &Scene<'_>, draft: &mut Draft, listed: &HashSet<Name>, wildcard: bool) {
        let judged = |entry: &&Arc<Entry>| {
            let name = entry.name();
            let named = || self.named(name, entry.aliases()) && !self.awaited.contains_key(name);
            let stated = matches!(entry.body(), Body::Absent | Body::Error(_));
            !stated && !listed.contains(name) && !draft.edits.contains_key(name) && (wildcard || named())
        };
        let missing: Vec<_> = self.tree.iter().filter(judged).cloned().collect();
        for entry in missing {
            self.answered(entry.name());
            self.take_out(scene, draft, &entry);
        }
        if wildcard {
            let unknown = |name: &&Name| {
                !listed.contains(*name) && self.resolve(name).is_none() && !draft.edits.contains_key(*name)
            };
            let names: Vec<_> = self.leases.subscribed().filter(unknown).cloned().collect();
            for name in names {
                let absent = scene.store.entry(name.clone(), Body::Absent, Attributes::default());
                draft.edits.insert(name, Some(absent));
            }
        }
    }

    /// A glob whose last member the upstream took away is known to be empty (C-113).
    fn emptied_globs(&self, scene: &Scene<'_>, changed: &[Changed]) -> Edits {
        if self.globs.is_empty() {
            return Edits::new();
        }
        let left = changed.iter().filter(|change| !change.to.as_ref().is_some_and(|entry| entry.is_present()));
        let globs = left.filter_map(|change| Glob::over(&change.name)).map(Name::from);
        let empty = globs.filter(|glob| self.globs.get(glob) == Some(&0) && self.leases.is_subscribed(glob));
        empty
            .filter(|glob| self.tree.get(glob).is_none())
            .map(|glob| (glob.clone(), Some(scene.store.entry(glob, Body::Absent, Attributes::default()))))
            .collect()
    }

    fn state_version(&mut self, name: Name, version: String) {
        let held = self.versions.get(&name).map(|held| &**held).unwrap_or_default();
        if held == version {
        } else if version.is_empty() {
            self.versions.remove(&name);
        } else {
            self.versions.insert(name, version.into());
        }
    }

    fn touch_all(&mut self, names: Vec<Name>) -> usize {
        if names.is_empty() {
            return 0;
        }
        self.touch += 1;
        self.notes.serve = true;
        let count = names.len();
        let touched = Arc::make_mut(&mut self.touched);
        for name in names {
            let aliases = self.tree.get(&name).map(|entry| entry.aliases()).unwrap_or_default();
            for name in aliases.iter().chain([&name]) {
                self.notes.wakes.extend(self.interest.wanting(name));
            }
            touched.insert(name, self.touch);
        }
        self.notes.wakes.extend(self.interest.wildcards());
        count
    }
}

fn is_as_held(entry: &Arc<Entry>, url: &TypeUrl, payload: Option<&Payload>, attributes: &Attributes) -> bool {
    let same = match (entry.body(), payload) {
        (Body::Resource(blob), Some(payload)) => {
            *blob.value() == payload.value
                && (blob.type_url() == url && payload.type_url == url.as_str()
                    || blob.type_url().as_str() == payload.type_url)
        }
        (Body::Empty, None) => true,
        _ => false,
    };
    same && entry.attributes() == attributes
}

fn step_of(changed: &[Changed]) -> Step {
    let was_something = |change: &Changed| change.from.is_some() && change.to.is_some();
    let left = |change: &Changed| change.to.is_none() && change.from.as_ref().is_some_and(|entry| entry.is_present());
    if changed.iter().any(|change| was_something(change) || left(change)) {
        Step::Rewrote
    } else if changed.is_empty() {
        Step::Nothing
    } else {
        Step::Added
    }
}
