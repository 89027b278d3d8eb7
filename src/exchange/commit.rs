//! An upstream response becomes changes of a type.

use super::install::is_present;
use super::kind::{GroupType, Scene};
use super::label::Step;
use crate::breaks;
use crate::content::entry::Attributes;
use crate::content::{Body, Changed, Entry};
use crate::session::Update;
use crate::xds::envelope::{Payload, Resource};
use crate::xds::name::{Glob, WILDCARD};
use crate::xds::{Kind, Moment, Name, Status, TypeUrl, code};
use std::collections::{HashMap, HashSet};
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

/// A response on its way to be changes. Its resources have different names (C-135),
/// so only what it says else is looked up by name.
#[derive(Default)]
struct Draft {
    edits: Vec<Changed>,
    places: HashMap<Name, usize>,
    /// Absent aliases and globs that a resource makes present.
    lifted: Vec<Name>,
    touched: Vec<Name>,
    ignored: usize,
    /// It is one set of members without names of their own (C-141).
    opaque: bool,
    /// The upstream's versions of what it sent.
    versions: Vec<(Name, String)>,
    /// What it sent is not to be kept (C-145).
    apart: Vec<Name>,
}

impl Draft {
    fn index(&mut self) {
        self.places = self.edits.iter().enumerate().map(|(at, edit)| (edit.name.clone(), at)).collect();
    }

    /// What `name` is to stand for, if anything was said of it; after [`index`](Self::index).
    fn pending(&self, name: &Name) -> Option<&Option<Arc<Entry>>> {
        self.places.get(name).and_then(|at| self.edits.get(*at)).map(|edit| &edit.to)
    }

    /// `name` is to stand for `to`, whatever was said of it; after [`index`](Self::index).
    fn set(&mut self, kind: &GroupType, name: &Name, to: Option<Arc<Entry>>) {
        let place = self.places.get(name).and_then(|at| self.edits.get_mut(*at));
        match place {
            Some(edit) => edit.to = to,
            None => {
                self.places.insert(name.clone(), self.edits.len());
                self.edits.push(Changed { name: name.clone(), from: kind.tree.get(name).cloned(), to });
            }
        }
    }
}

impl GroupType {
    pub(super) fn commit(&mut self, scene: &Scene<'_>, update: Update) -> Committed {
        let spoken = self.spoken(&update);
        let Update { label, resources, removed, silent, errors, whole, answers_wildcard, received, .. } = update;
        self.pulse.answered(scene.now);
        let mut draft = Draft::default();
        let whole = whole && says_what_is_gone(&self.url);
        // Members named by their content: nobody can ask for them by name.
        draft.opaque = whole && !self.url.full_state();
        let listed: HashSet<Name> = match whole {
            true => resources.iter().filter_map(|resource| resource.name.clone()).collect(),
            false => HashSet::new(),
        };
        for resource in resources {
            self.put(scene, &mut draft, resource, received);
        }
        if whole || !removed.is_empty() || !silent.is_empty() || !errors.is_empty() || !draft.lifted.is_empty() {
            draft.index();
        }
        for name in std::mem::take(&mut draft.lifted) {
            if draft.pending(&name).is_none() {
                draft.set(self, &name, None);
            }
        }
        for name in removed {
            self.gone(scene, &mut draft, &name);
        }
        for name in silent {
            self.unheard(scene, &mut draft, &name);
        }
        for (name, status) in errors {
            self.error(scene, &mut draft, name, status);
        }
        if whole {
            self.missing(scene, &mut draft, &listed, answers_wildcard);
        }
        for name in std::mem::take(&mut draft.apart) {
            self.set_apart(&name);
        }
        self.bury(scene, &mut draft);
        if answers_wildcard {
            self.answered_wildcard();
        }
        self.heard_anew(scene, spoken, answers_wildcard || whole);
        let Draft { edits, touched, ignored, versions, .. } = draft;
        let changed = self.change(scene, edits, &label, received);
        self.state_versions(scene, versions);
        Committed { changed, touched: self.touch_all(touched), ignored }
    }

    /// Makes those edits that are changes.
    fn change(&mut self, scene: &Scene<'_>, edits: Vec<Changed>, label: &Arc<str>, received: Moment) -> Vec<Changed> {
        let id = |entry: &Option<Arc<Entry>>| entry.as_ref().map(|entry| entry.id());
        let mut changed = edits;
        changed.retain(|edit| id(&edit.from) != id(&edit.to));
        let before = self.tree.clone();
        self.install(scene, &changed);
        let empty = self.emptied_globs(scene, &changed);
        self.install(scene, &empty);
        changed.extend(empty);
        let shown = self.labels.shown().clone();
        self.labels.committed(label, &before, &self.tree, step_of(&changed));
        self.notes.serve |= shown != *self.labels.shown();
        if !changed.is_empty() {
            (self.received, self.committed) = (received, scene.now);
        }
        changed
    }

    fn put(&mut self, scene: &Scene<'_>, draft: &mut Draft, resource: Resource, received: Moment) {
        let Resource { name: Some(name), version, payload, aliases, ttl, do_not_cache, constraints, extra } = resource
        else {
            draft.ignored += 1;
            return;
        };
        let held = self.tree.get(&name).cloned();
        if held.is_none() && !self.accepts(&name, &aliases) && !(draft.opaque && self.is_asked()) {
            draft.ignored += 1;
            return;
        }
        self.answer_all(&name, &aliases);
        if do_not_cache && !scene.private && !breaks::on("C-145") {
            draft.edits.extend(held.map(|held| Changed { name: name.clone(), from: Some(held), to: None }));
            let asked = aliases.iter().filter(|alias| self.is_subscribed(alias)).cloned();
            draft.apart.extend(asked.chain([name]));
            return;
        }
        if !self.apart.is_empty() {
            self.not_apart(&name);
        }
        if payload.is_none() && ttl.is_some() {
            match held.as_ref().map(|entry| entry.body()) {
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
        match ttl {
            Some(ttl) => self.expiry.set(&name, received + ttl),
            None => self.expiry.clear(&name),
        }
        if !self.errors.is_empty() {
            self.errors.retain(|(_, other, _)| *other != name);
        }
        if !version.is_empty() || !self.versions.is_empty() {
            draft.versions.push((name.clone(), version));
        }
        let attributes = Attributes { aliases, ttl, do_not_cache, constraints, extra };
        if held.as_ref().is_some_and(|entry| is_as_held(entry, &self.url, payload.as_ref(), &attributes)) {
            // With a TTL this is as good as a heartbeat.
            draft.touched.extend(ttl.map(|_| name));
            return;
        }
        let body = self.body(scene, held.as_ref(), payload);
        self.lift(draft, &name, &attributes.aliases);
        let entry = scene.store.entry(name.clone(), body, attributes);
        draft.edits.push(Changed { name, from: held, to: Some(entry) });
    }

    /// Bytes are compared before they are hashed.
    fn body(&self, scene: &Scene<'_>, held: Option<&Arc<Entry>>, payload: Option<Payload>) -> Body {
        let Some(payload) = payload else { return Body::Empty };
        if let Some(Body::Resource(blob)) = held.map(|entry| entry.body())
            && (*blob.value() == payload.value || blob.value().len() == payload.value.len() && breaks::on("C-020"))
            && blob.type_url().as_str() == payload.type_url
        {
            return Body::Resource(blob.clone());
        }
        if payload.type_url == self.url.as_str() {
            return Body::Resource(scene.store.blob(&self.url, &payload.value));
        }
        Body::Resource(scene.store.blob(&TypeUrl::new(&payload.type_url), &payload.value))
    }

    /// Does a subscription cover what is not held yet? On-demand workloads come
    /// under names that nobody asked for (C-196).
    fn accepts(&self, name: &Name, aliases: &[Name]) -> bool {
        self.covers(name, aliases) || self.url.kind() == Kind::Workload && !self.interest.is_empty()
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
                draft.lifted.push(other);
            }
        }
    }

    /// The upstream says that `name` does not exist (C-118).
    fn gone(&mut self, scene: &Scene<'_>, draft: &mut Draft, name: &Name) {
        self.answered(name);
        self.not_apart(name);
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
            None if self.is_subscribed(name) => draft.set(self, name, Some(absent(scene, name, Vec::new()))),
            None => {}
        }
        self.errors.retain(|(_, other, _)| other != name);
    }

    /// The upstream was asked for `name` and says nothing. What came on an earlier
    /// stream is held on: its answer may only be late (C-118c).
    fn unheard(&mut self, scene: &Scene<'_>, draft: &mut Draft, name: &Name) {
        if self.resolve(name).is_some() && !breaks::on("C-118") {
            self.answered(name);
        } else {
            self.gone(scene, draft, name);
        }
    }

    /// Absent where somebody asked for it by a name, else not there.
    fn take_out(&mut self, scene: &Scene<'_>, draft: &mut Draft, entry: &Entry) {
        let extra = self.is_extra(scene, entry) && !breaks::on("C-196");
        if extra {
            self.buried.push_back((scene.now, entry.name().clone()));
        }
        let asked = self.named(entry.name(), entry.aliases());
        let to = (asked || extra).then(|| absent(scene, entry.name(), entry.aliases().to_vec()));
        draft.set(self, entry.name(), to);
    }

    /// Absence and refusal replace what is held; trouble that may pass does not.
    fn error(&mut self, scene: &Scene<'_>, draft: &mut Draft, name: Name, status: Status) {
        self.answered(&name);
        let held = draft.pending(&name).cloned().unwrap_or_else(|| self.tree.get(&name).cloned());
        let aliases = held.as_ref().map(|entry| entry.aliases().to_vec()).unwrap_or_default();
        aliases.iter().for_each(|alias| self.answered(alias));
        self.errors.retain(|(_, other, _)| *other != name);
        let lasting = matches!(status.code, code::NOT_FOUND | code::PERMISSION_DENIED);
        let keeps = if is_present(&held) { !lasting } else { !self.named(&name, &aliases) };
        // An error is no answer for a wildcard (C-124).
        if keeps || *name == *WILDCARD {
            self.errors.push_back((scene.now, name, status));
            if self.errors.len() > ERRORS {
                self.errors.pop_front();
            }
            return;
        }
        let attributes = Attributes { aliases, ..Default::default() };
        let entry = scene.store.entry(name.clone(), Body::Error(status), attributes);
        draft.set(self, &name, Some(entry));
    }

    /// A whole SotW set: what was asked for and is not in it is gone (C-118b). A
    /// name that was only just asked for is not: the set may be older than the ask.
    fn missing(&mut self, scene: &Scene<'_>, draft: &mut Draft, listed: &HashSet<Name>, wildcard: bool) {
        let judged = |entry: &&Arc<Entry>| {
            let name = entry.name();
            let named = || self.named(name, entry.aliases()) && self.awaited.until(name).is_none();
            let stated = matches!(entry.body(), Body::Absent | Body::Error(_));
            !stated && !listed.contains(name) && draft.pending(name).is_none() && (wildcard || draft.opaque || named())
        };
        let missing: Vec<_> = self.tree.iter().filter(judged).cloned().collect();
        for entry in missing {
            self.answered(entry.name());
            self.take_out(scene, draft, &entry);
        }
        let unlisted = self.apart.names().iter().filter(|name| wildcard && !listed.contains(*name)).cloned();
        for name in unlisted.collect::<Vec<_>>() {
            self.not_apart(&name);
        }
        if wildcard {
            for name in self.subscribed_names(scene.store).iter() {
                if !listed.contains(name) && self.resolve(name).is_none() && draft.pending(name).is_none() {
                    draft.set(self, name, Some(absent(scene, name, Vec::new())));
                }
            }
        }
    }

    /// A glob whose last member the upstream took away is known to be empty (C-113).
    fn emptied_globs(&self, scene: &Scene<'_>, changed: &[Changed]) -> Vec<Changed> {
        let mut emptied = Vec::<Changed>::new();
        if self.globs.is_empty() {
            return emptied;
        }
        for change in changed.iter().filter(|change| is_present(&change.from) && !is_present(&change.to)) {
            let Some(glob) = Glob::over(&change.name).map(Name::from) else { continue };
            let empty = self.globs.get(&glob) == Some(&0) && self.is_subscribed(&glob);
            if empty && self.tree.get(&glob).is_none() && emptied.iter().all(|other| other.name != glob) {
                let to = Some(absent(scene, &glob, Vec::new()));
                emptied.push(Changed { name: glob, from: None, to });
            }
        }
        emptied
    }

    /// What the name stands for is not kept; who wants it is told so.
    fn set_apart(&mut self, name: &Name) {
        if self.apart.insert(name.clone()) {
            self.apart_changed(name);
        }
    }

    fn not_apart(&mut self, name: &Name) {
        if self.apart.remove(name) {
            self.apart_changed(name);
        }
    }

    fn apart_changed(&mut self, name: &Name) {
        self.subscription_changed();
        self.notes.serve = true;
        self.notes.wildcards = true;
        self.interest.mark(name, &mut self.notes.marks);
    }

    /// It came with what was asked for, under a name that nobody asked for, and
    /// belongs to the one who asked (C-196).
    fn is_extra(&self, scene: &Scene<'_>, entry: &Entry) -> bool {
        scene.private && self.url.kind() == Kind::Workload && !self.named(entry.name(), entry.aliases())
    }

    /// Of what nobody asked for it is remembered that it is gone until every
    /// stream that stands must have seen it.
    fn bury(&mut self, scene: &Scene<'_>, draft: &mut Draft) {
        let old = |(at, _): &(Moment, Name)| scene.now.since(*at) > scene.timing.send_stall * 2;
        while self.buried.front().is_some_and(old) {
            let Some((_, name)) = self.buried.pop_front() else { return };
            let gone = self.tree.get(&name).filter(|entry| !entry.is_present()).cloned();
            if let Some(entry) =
                gone.filter(|entry| draft.edits.iter().all(|edit| edit.name != name) && self.is_extra(scene, entry))
            {
                draft.edits.push(Changed { name, from: Some(entry), to: None });
            }
        }
    }

    fn touch_all(&mut self, names: Vec<Name>) -> usize {
        if names.is_empty() {
            return 0;
        }
        self.touch += 1;
        self.notes.serve = true;
        self.notes.wildcards = true;
        let count = names.len();
        let touched = Arc::make_mut(&mut self.touched);
        for name in names {
            let aliases = self.tree.get(&name).map(|entry| entry.aliases()).unwrap_or_default();
            for name in aliases.iter().chain([&name]) {
                self.interest.mark(name, &mut self.notes.marks);
            }
            if let Some(glob) = Glob::over(&name) {
                self.interest.mark(&glob, &mut self.notes.marks);
            }
            touched.insert(name, self.touch);
        }
        count
    }
}

/// Named partial types never say by omission that something is gone (C-119).
fn says_what_is_gone(url: &TypeUrl) -> bool {
    use Kind::{Endpoint, ExtensionConfig, Route, Runtime, ScopedRoute, Secret, VirtualHost};
    !matches!(url.kind(), Endpoint | Route | ScopedRoute | VirtualHost | Secret | Runtime | ExtensionConfig)
}

fn absent(scene: &Scene<'_>, name: &Name, aliases: Vec<Name>) -> Arc<Entry> {
    scene.store.entry(name.clone(), Body::Absent, Attributes { aliases, ..Default::default() })
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
    same && (entry.attributes() == attributes || breaks::on("C-133"))
}

fn step_of(changed: &[Changed]) -> Step {
    let rewrote = |change: &Changed| is_present(&change.from) || change.from.is_some() && change.to.is_some();
    if changed.iter().any(rewrote) {
        Step::Rewrote
    } else if changed.is_empty() {
        Step::Nothing
    } else {
        Step::Added
    }
}
