//! A control plane that does what the specification says, as a value: it takes
//! requests, and gives responses to be sent. Written from the specification's
//! side of the wire, with none of Outpost's code.

use super::messages::{self, Asked, AskedNode, Said};
use super::script::{Edit, Resource, UpstreamRequest, Wire};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};

/// Names of this form exist in the runtime type without being made: barriers
/// ask for them.
pub const PROBE: &str = "probe-";

#[derive(Debug, Default)]
pub struct ControlPlane {
    types: BTreeMap<String, TypeWorld>,
    /// What only the nodes of this id, or of this generator, see.
    special: BTreeMap<(String, String), TypeWorld>,
    held: BTreeSet<String>,
    pub reachable: bool,
    streams: BTreeMap<u64, Stream>,
    next_stream: u64,
    out: Vec<(u64, Bytes)>,
    log: Vec<Asked>,
    looked: usize,
}

#[derive(Clone, Debug, Default)]
struct TypeWorld {
    number: u64,
    label: String,
    resources: BTreeMap<String, Resource>,
    errors: BTreeMap<String, i32>,
}

#[derive(Debug)]
struct Stream {
    wire: Wire,
    node: AskedNode,
    types: BTreeMap<String, StreamType>,
    nonces: u64,
}

#[derive(Debug, Default)]
struct StreamType {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Name → version as last sent; an absent one has none.
    sent: BTreeMap<String, Option<String>>,
    named_once: bool,
    asked: bool,
    /// Held back: say these when the type is released.
    due: BTreeSet<String>,
    owed: bool,
}

impl TypeWorld {
    fn usual(type_url: &str) -> Self {
        let mut world = Self { number: 1, label: "v1".into(), ..Self::default() };
        if type_url != messages::RUNTIME {
            for name in ["A", "B", "C"] {
                world.put(plain(name));
            }
        }
        world
    }

    fn put(&mut self, resource: Resource) {
        self.errors.remove(&resource.name);
        self.resources.insert(resource.name.clone(), resource);
    }

    /// By name, by alias, or made for a barrier.
    fn get(&self, type_url: &str, name: &str) -> Option<Resource> {
        if let Some(held) = self.resources.get(name) {
            return Some(held.clone());
        }
        if type_url == messages::RUNTIME && name.starts_with(PROBE) {
            return Some(plain(name));
        }
        self.resources.values().find(|held| held.aliases.iter().any(|alias| alias == name)).cloned()
    }
}

fn plain(name: &str) -> Resource {
    Resource {
        name: name.to_owned(),
        content: 1,
        optional: false,
        ttl: None,
        aliases: Vec::new(),
        eds: None,
        unknown: false,
        heartbeat: false,
        nobody: false,
        size: 0,
        only: None,
        uncached: false,
        version: None,
    }
}

fn version(resource: &Resource) -> String {
    resource.version.clone().unwrap_or_else(|| format!("upstream-{}", resource.content))
}

/// The directory of an `xdstp` glob, and its parameters.
fn glob(name: &str) -> Option<(&str, &str)> {
    let (path, params) = name.split_once('?').unwrap_or((name, ""));
    Some((path.strip_suffix('*').filter(|path| path.starts_with("xdstp:") && path.ends_with('/'))?, params))
}

fn covers(subscribed: &str, name: &str) -> bool {
    let Some((directory, wanted)) = glob(subscribed) else { return subscribed == name };
    let (path, params) = name.split_once('?').unwrap_or((name, ""));
    params == wanted && path.strip_prefix(directory).is_some_and(|rest| !rest.is_empty() && !rest.contains('/'))
}

impl StreamType {
    fn wants(&self, resource: &Resource) -> bool {
        self.wildcard
            || self.names.iter().any(|name| covers(name, &resource.name))
            || resource.aliases.iter().any(|alias| self.names.contains(alias))
    }
}

// The world.
impl ControlPlane {
    pub fn new() -> Self {
        Self { reachable: true, ..Self::default() }
    }

    fn of(&mut self, type_url: &str) -> &mut TypeWorld {
        self.types.entry(type_url.to_owned()).or_insert_with(|| TypeWorld::usual(type_url))
    }

    fn seen_by(&mut self, node: &AskedNode, type_url: &str) -> TypeWorld {
        for who in [&node.id, &node.generator] {
            if let Some(world) = self.special.get(&(who.clone(), type_url.to_owned())) {
                return world.clone();
            }
        }
        self.of(type_url).clone()
    }

    pub fn start(&mut self, of: Option<&str>, type_url: &str, resources: &[Resource], errors: &[(String, i32)]) {
        let mut world = TypeWorld { number: 1, label: "v1".into(), ..TypeWorld::default() };
        for resource in resources {
            world.put(resource.clone());
        }
        world.errors = errors.iter().cloned().collect();
        match of {
            Some(who) => self.special.insert((who.to_owned(), type_url.to_owned()), world),
            None => self.types.insert(type_url.to_owned(), world),
        };
    }

    pub fn edit(&mut self, edit: &Edit) {
        let world = self.of(&edit.type_url);
        world.number += 1;
        world.label = edit.label.clone().unwrap_or_else(|| format!("v{}", world.number));
        for resource in &edit.put {
            world.put(resource.clone());
        }
        for name in &edit.remove {
            world.resources.remove(name);
        }
        let put: BTreeSet<_> = edit.put.iter().map(|resource| resource.name.clone()).collect();
        self.push(&edit.type_url, &put);
    }

    /// Adds a resource under a label of its own, so that the numbers of a
    /// transcript's labels do not move.
    pub fn probe(&mut self, type_url: &str, name: &str) {
        let world = self.of(type_url);
        let label = format!("{}+{name}", world.label.split('+').next().unwrap_or_default());
        let number = world.number;
        // Nodes that see a world of their own see the probe as well.
        for ((_, of), world) in &mut self.special {
            if of == type_url {
                world.put(plain(name));
            }
        }
        let edit =
            Edit { type_url: type_url.to_owned(), put: vec![plain(name)], remove: Vec::new(), label: Some(label) };
        self.edit(&edit);
        self.of(type_url).number = number;
    }

    /// Tells every stream what differs from what it was sent; `stated` names
    /// are said again even where they do not.
    fn push(&mut self, type_url: &str, stated: &BTreeSet<String>) {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get(&id) else { continue };
            if !stream.types.get(type_url).is_some_and(|state| state.asked) {
                continue;
            }
            let node = stream.node.clone();
            let world = self.seen_by(&node, type_url);
            let Some(state) = self.streams.get_mut(&id).and_then(|stream| stream.types.get_mut(type_url)) else {
                continue;
            };
            let mut due: BTreeSet<String> =
                stated.iter().filter(|name| world.resources.contains_key(*name)).cloned().collect();
            for (name, resource) in &world.resources {
                if state.wants(resource) && state.sent.get(name) != Some(&Some(version(resource))) {
                    due.insert(name.clone());
                }
            }
            let gone = state.sent.iter().filter(|(name, sent)| sent.is_some() && world.get(type_url, name).is_none());
            due.extend(gone.map(|(name, _)| name.clone()));
            due.retain(|name| world.resources.get(name).is_none_or(|resource| state.wants(resource)));
            if !due.is_empty() {
                state.due.extend(due);
                self.say(id, type_url);
            }
        }
    }

    /// Says a response that no state stands behind.
    pub fn says(&mut self, type_url: &str, resources: &[Resource]) {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if !stream.types.contains_key(type_url) {
                continue;
            }
            stream.nonces += 1;
            let said = Said {
                wire: stream.wire,
                type_url,
                label: "said",
                nonce: &format!("cp-{}", stream.nonces),
                resources: resources.iter().map(|resource| (resource.clone(), version(resource))).collect(),
                removed: Vec::new(),
                errors: Vec::new(),
            };
            self.out.push((id, messages::response(said)));
        }
    }

    /// Refreshes the time to live of names, without payload.
    pub fn touch(&mut self, type_url: &str, names: &[String]) {
        let world = self.of(type_url).clone();
        let heartbeat = |name: &String| {
            let mut resource = world.resources.get(name)?.clone();
            resource.heartbeat = true;
            Some((version(&resource), resource))
        };
        let beats: Vec<_> = names.iter().filter_map(heartbeat).collect();
        for (id, stream) in &mut self.streams {
            if !stream.types.contains_key(type_url) {
                continue;
            }
            stream.nonces += 1;
            let said = Said {
                wire: stream.wire,
                type_url,
                label: &world.label,
                nonce: &format!("cp-{}", stream.nonces),
                resources: beats.iter().map(|(version, resource)| (resource.clone(), version.clone())).collect(),
                removed: Vec::new(),
                errors: Vec::new(),
            };
            self.out.push((*id, messages::response(said)));
        }
    }

    pub fn hold(&mut self, type_url: &str, on: bool) {
        if on {
            self.held.insert(type_url.to_owned());
            return;
        }
        self.held.remove(type_url);
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            self.say(id, type_url);
        }
    }
}

// The wire.
impl ControlPlane {
    pub fn open(&mut self, wire: Wire) -> u64 {
        self.next_stream += 1;
        let stream = Stream { wire, node: AskedNode::default(), types: BTreeMap::new(), nonces: 0 };
        self.streams.insert(self.next_stream, stream);
        self.next_stream
    }

    pub fn close(&mut self, id: u64) {
        self.streams.remove(&id);
    }

    /// Responses to send, in order.
    pub fn take(&mut self) -> Vec<(u64, Bytes)> {
        std::mem::take(&mut self.out)
    }

    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    pub fn handle(&mut self, id: u64, message: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Ok(asked) = Asked::read(stream.wire, message) else { return };
        if asked.type_url == messages::HEALTH && stream.types.is_empty() {
            // As istiod does: before a subscription nobody knows whose it is.
            return;
        }
        self.log.push(asked.clone());
        if let Some(node) = &asked.node {
            stream.node = node.clone();
        }
        if messages::is_debug(&asked.type_url) {
            return self.debug(id, &asked);
        }
        let (wire, node) = (stream.wire, stream.node.clone());
        let state = stream.types.entry(asked.type_url.clone()).or_default();
        let first = !std::mem::replace(&mut state.asked, true);
        let was = (state.wildcard, state.names.clone());
        let mut asked_now: BTreeSet<String> = BTreeSet::new();
        match wire {
            Wire::Sotw => {
                state.named_once |= !asked.names.is_empty();
                let legacy = asked.names.is_empty() && !state.named_once && messages::legacy_wildcard(&asked.type_url);
                state.wildcard = legacy || asked.names.iter().any(|name| name == "*");
                state.names = asked.names.iter().filter(|name| *name != "*").cloned().collect();
                state.sent.retain(|name, _| state.wildcard || asked.names.iter().any(|asked| covers(asked, name)));
                asked_now.extend(state.names.difference(&was.1).cloned());
            }
            Wire::Delta => {
                state.named_once |= !asked.names.is_empty();
                if first && !state.named_once && messages::legacy_wildcard(&asked.type_url) {
                    state.wildcard = true;
                }
                for (name, version) in &asked.initial {
                    state.sent.insert(name.clone(), Some(version.clone()));
                }
                for name in &asked.names {
                    state.wildcard |= name == "*";
                    if name != "*" {
                        state.names.insert(name.clone());
                        asked_now.insert(name.clone());
                    }
                }
                for name in &asked.unsubscribe {
                    state.wildcard &= name != "*";
                    state.names.remove(name);
                    asked_now.remove(name);
                    state.sent.remove(name);
                }
            }
        }
        let widened = state.wildcard && (!was.0 || asked.names.iter().any(|name| name == "*") && wire == Wire::Delta);
        state.due.extend(asked_now.iter().cloned());
        state.owed |= widened || (!asked_now.is_empty());
        if state.owed {
            self.answer(id, &node, &asked.type_url);
        }
    }

    /// One answer to one request, whatever it was.
    fn debug(&mut self, id: u64, asked: &Asked) {
        let world = self.of(&asked.type_url).clone();
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.nonces += 1;
        let found = asked.names.iter().filter_map(|name| world.resources.get(name));
        let said = Said {
            wire: stream.wire,
            type_url: &asked.type_url,
            label: &world.label,
            nonce: &format!("cp-{}", stream.nonces),
            resources: found.map(|resource| (resource.clone(), version(resource))).collect(),
            removed: Vec::new(),
            errors: Vec::new(),
        };
        self.out.push((id, messages::response(said)));
    }

    /// Adds what a subscription makes due, then says it.
    fn answer(&mut self, id: u64, node: &AskedNode, type_url: &str) {
        let world = self.seen_by(node, type_url);
        let Some(state) = self.streams.get_mut(&id).and_then(|stream| stream.types.get_mut(type_url)) else { return };
        let due = state.due.clone();
        for (name, resource) in &world.resources {
            let differs = state.sent.get(name) != Some(&Some(version(resource)));
            let asked = due.iter().any(|due| covers(due, name) || resource.aliases.contains(due));
            if state.wants(resource) && (differs || asked) {
                state.due.insert(name.clone());
            }
        }
        let gone = state.sent.iter().filter(|(name, sent)| sent.is_some() && world.get(type_url, name).is_none());
        let gone: Vec<_> = gone.map(|(name, _)| name.clone()).collect();
        state.due.extend(gone);
        self.say(id, type_url);
    }

    /// Says what is due, unless the type is held back.
    fn say(&mut self, id: u64, type_url: &str) {
        let Some(node) = self.streams.get(&id).map(|stream| stream.node.clone()) else { return };
        let world = self.seen_by(&node, type_url);
        if self.held.contains(type_url) {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some(state) = stream.types.get_mut(type_url) else { return };
        let due = std::mem::take(&mut state.due);
        let owed = std::mem::take(&mut state.owed);
        if due.is_empty() && !owed {
            return;
        }
        let (mut resources, mut removed, mut errors) = (BTreeMap::new(), Vec::new(), Vec::new());
        for name in &due {
            match world.get(type_url, name) {
                Some(resource) => {
                    resources.insert(resource.name.clone(), resource);
                }
                None if glob(name).is_some() => {
                    if !world.resources.keys().any(|member| covers(name, member)) {
                        removed.push(name.clone());
                    }
                }
                None => {
                    let code = world.errors.get(name).copied();
                    errors.extend(code.map(|code| (name.clone(), code)));
                    if code.is_none_or(|code| code == 5) {
                        removed.push(name.clone());
                    }
                    state.sent.insert(name.clone(), None);
                }
            }
        }
        let full = messages::full_state(type_url);
        if stream.wire == Wire::Sotw && !full && !owed && resources.is_empty() && errors.is_empty() {
            // This variant cannot say that such a resource is gone.
            return;
        }
        if stream.wire == Wire::Sotw && full {
            let wanted = world.resources.iter().filter(|(_, resource)| state.wants(resource));
            resources = wanted.map(|(name, resource)| (name.clone(), resource.clone())).collect();
        }
        for (name, resource) in &resources {
            state.sent.insert(name.clone(), Some(version(resource)));
        }
        for name in &removed {
            state.sent.insert(name.clone(), None);
        }
        stream.nonces += 1;
        let said = Said {
            wire: stream.wire,
            type_url,
            label: &world.label,
            nonce: &format!("cp-{}", stream.nonces),
            resources: resources.into_values().map(|resource| (resource.clone(), version(&resource))).collect(),
            removed,
            errors,
        };
        self.out.push((id, messages::response(said)));
    }
}

// What was asked.
impl ControlPlane {
    /// Is there such a request after the one looked at last?
    pub fn look(&mut self, wanted: &UpstreamRequest) -> bool {
        let found = self.log.iter().skip(self.looked).position(|asked| matches(asked, wanted));
        if let Some(at) = found {
            self.looked += at + 1;
        }
        found.is_some()
    }

    pub fn ever(&self, wanted: &UpstreamRequest) -> bool {
        self.log.iter().any(|asked| matches(asked, wanted))
    }

    /// How often a name was taken up (or given up) over all streams.
    pub fn changes(&self, type_url: &str, name: &str, subscribe: bool) -> usize {
        let requests = self.log.iter().filter(|asked| asked.type_url == type_url);
        if subscribe && self.log.iter().all(|asked| asked.unsubscribe.is_empty() && asked.initial.is_empty()) {
            // SotW repeats its list; a change is where the name was not there before.
            let mut had = false;
            return requests
                .filter(|asked| {
                    let has = asked.names.iter().any(|one| one == name);
                    has && !std::mem::replace(&mut had, has)
                })
                .count();
        }
        requests
            .flat_map(|asked| if subscribe { &asked.names } else { &asked.unsubscribe })
            .filter(|one| *one == name)
            .count()
    }

    pub fn recent(&self) -> String {
        let from = self.log.len().saturating_sub(12);
        let one = |asked: &Asked| {
            let short = asked.type_url.rsplit('.').next().unwrap_or_default();
            let error = if asked.error { " ERROR" } else { "" };
            format!("{short} {:?} -{:?} nonce {}{error}", asked.names, asked.unsubscribe, asked.nonce)
        };
        self.log[from..].iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

fn matches(asked: &Asked, wanted: &UpstreamRequest) -> bool {
    let answers = !asked.nonce.is_empty();
    asked.type_url == wanted.type_url
        && wanted.error.is_none_or(|error| answers && asked.error == error)
        && (!wanted.plain || !answers)
        && (!wanted.failing || asked.error)
        && wanted.subscribe.iter().all(|name| asked.names.contains(name))
        && wanted.unsubscribe.iter().all(|name| asked.unsubscribe.contains(name))
        && wanted.initial.iter().all(|name| asked.initial.contains_key(name))
        && (!wanted.node_unknown || asked.node.as_ref().is_some_and(|node| node.unknown))
}
