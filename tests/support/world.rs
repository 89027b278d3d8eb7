//! What the control plane of a test knows, and how it speaks of it: one
//! stream of either variant as a value, without sockets.
//!
//! Written against the specification and apart from the relay, so that a
//! mistake is not made on both sides at once.

use outpost::proto::cluster::Cluster;
use outpost::proto::core::TypedExtensionConfig;
use outpost::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use outpost::proto::endpoint::ClusterLoadAssignment;
use outpost::proto::listener::Listener;
use outpost::proto::protobuf::Any;
use outpost::proto::route::{RouteConfiguration, VirtualHost};
use outpost::proto::runtime::Runtime;
use outpost::proto::{pack, tls::Secret};
use prost::{Message, Name};
use std::collections::{BTreeMap, BTreeSet};

/// A message that says its own name.
pub trait Named: Message + Name {
    fn name(&self) -> &str;
}

macro_rules! named {
    ($($message:ty: $field:ident),* $(,)?) => {
        $(impl Named for $message {
            fn name(&self) -> &str {
                &self.$field
            }
        })*
    };
}

named! {
    Cluster: name, ClusterLoadAssignment: cluster_name, Listener: name, RouteConfiguration: name,
    VirtualHost: name, Secret: name, Runtime: name, TypedExtensionConfig: name,
}

#[derive(Clone, Debug)]
struct Stored {
    /// `None`: known to be absent, which on-demand hosts say with a body left out.
    resource: Option<Any>,
    version: String,
    aliases: Vec<String>,
}

/// Everything there is, by type and name. Versions count from one for each type.
#[derive(Clone, Debug, Default)]
pub struct World {
    types: BTreeMap<String, BTreeMap<String, Stored>>,
    counts: BTreeMap<String, u64>,
    /// Stands before every version; a real server would change it at a restart.
    pub epoch: String,
    /// Names about which nothing is ever said.
    silent: BTreeSet<(String, String)>,
}

impl World {
    pub fn set<M: Named>(&mut self, message: &M) {
        self.set_as(message.name(), message, &[]);
    }

    /// Under another name than the message says, with aliases: virtual hosts.
    pub fn set_as<M: Named>(&mut self, name: &str, message: &M, aliases: &[&str]) {
        self.store(M::type_url(), name, Some(pack(message)), aliases);
    }

    /// An answer without a body, as on-demand hosts need it (CLIENTS V1).
    pub fn set_absent<M: Named>(&mut self, name: &str) {
        self.store(M::type_url(), name, None, &[name]);
    }

    pub fn remove<M: Named>(&mut self, name: &str) {
        self.count(&M::type_url());
        self.types.entry(M::type_url()).or_default().remove(name);
    }

    /// Never answers for this name, neither with it nor with its absence.
    pub fn silence<M: Named>(&mut self, name: &str) {
        self.silent.insert((M::type_url(), name.to_owned()));
    }

    /// Counts versions from one again, as a server without memory does.
    pub fn renumber(&mut self) {
        self.counts.clear();
        for (type_url, resources) in std::mem::take(&mut self.types) {
            for (name, stored) in resources {
                let aliases: Vec<&str> = stored.aliases.iter().map(String::as_str).collect();
                self.store(type_url.clone(), &name, stored.resource, &aliases);
            }
        }
    }

    fn store(&mut self, type_url: String, name: &str, resource: Option<Any>, aliases: &[&str]) {
        let count = self.count(&type_url);
        let version = format!("{}{count}", self.epoch);
        let aliases = aliases.iter().map(|&alias| alias.to_owned()).collect();
        self.types.entry(type_url).or_default().insert(name.to_owned(), Stored { resource, version, aliases });
    }

    fn count(&mut self, type_url: &str) -> u64 {
        let count = self.counts.entry(type_url.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// `version_info` of the whole type.
    fn label(&self, type_url: &str) -> String {
        format!("{}{}", self.epoch, self.counts.get(type_url).copied().unwrap_or_default())
    }

    fn of(&self, type_url: &str) -> impl Iterator<Item = (&String, &Stored)> {
        self.types.get(type_url).into_iter().flatten()
    }

    /// By name or by alias.
    fn find(&self, type_url: &str, asked: &str) -> Option<(&String, &Stored)> {
        self.of(type_url).find(|(name, stored)| *name == asked || stored.aliases.iter().any(|alias| alias == asked))
    }

    fn is_silent(&self, type_url: &str, name: &str) -> bool {
        self.silent.contains(&(type_url.to_owned(), name.to_owned()))
    }
}

/// Additions are written in the order in which they are needed.
fn rank(type_url: &str) -> usize {
    let order = [Cluster::type_url(), ClusterLoadAssignment::type_url(), Listener::type_url()];
    order.iter().position(|known| known == type_url).unwrap_or(order.len())
}

/// Types of which an empty first subscription means everything.
fn is_full_state(type_url: &str) -> bool {
    type_url == Cluster::type_url() || type_url == Listener::type_url()
}

fn types_in_order<T>(types: &BTreeMap<String, T>) -> Vec<&String> {
    let mut urls: Vec<&String> = types.keys().collect();
    urls.sort_by_key(|url| rank(url));
    urls
}

/// A delta stream.
#[derive(Debug, Default)]
pub struct Delta {
    types: BTreeMap<String, DeltaType>,
    nonces: u64,
}

#[derive(Clone, Debug, Default)]
struct DeltaType {
    wildcard: bool,
    names: BTreeSet<String>,
    /// What the client has, by the name under which it was sent.
    sent: BTreeMap<String, String>,
}

impl Delta {
    pub fn ask(&mut self, world: &World, ask: &DeltaDiscoveryRequest) -> Option<DeltaDiscoveryResponse> {
        let first = !self.types.contains_key(&ask.type_url);
        let state = self.types.entry(ask.type_url.clone()).or_default();
        if first {
            state.wildcard = ask.resource_names_subscribe.is_empty() && is_full_state(&ask.type_url);
            state.sent = ask.initial_resource_versions.clone().into_iter().collect();
        }
        for name in &ask.resource_names_unsubscribe {
            state.names.remove(name);
            state.sent.remove(name);
        }
        let mut again = BTreeSet::new();
        for name in &ask.resource_names_subscribe {
            state.wildcard |= name == "*";
            state.names.insert(name.clone());
            // A subscription is answered even when the client has it.
            if !first || !ask.initial_resource_versions.contains_key(name) {
                again.insert(name.clone());
            }
        }
        let must = first && state.wildcard;
        self.respond(world, &ask.type_url, &again, must)
    }

    pub fn changed(&mut self, world: &World) -> Vec<DeltaDiscoveryResponse> {
        let types = self.types.clone();
        let urls = types_in_order(&types).into_iter();
        urls.filter_map(|url| self.respond(world, url, &BTreeSet::new(), false)).collect()
    }

    fn respond(
        &mut self,
        world: &World,
        type_url: &str,
        again: &BTreeSet<String>,
        must: bool,
    ) -> Option<DeltaDiscoveryResponse> {
        let state = self.types.get_mut(type_url)?;
        let mut resources = Vec::new();
        let mut removed = Vec::new();
        let wanted: BTreeSet<&String> = match state.wildcard {
            true => world.of(type_url).map(|(name, _)| name).chain(&state.names).collect(),
            false => state.names.iter().collect(),
        };
        for asked in wanted {
            if asked == "*" || world.is_silent(type_url, asked) {
                continue;
            }
            match world.find(type_url, asked) {
                Some((name, stored)) if state.sent.get(name) != Some(&stored.version) || again.contains(asked) => {
                    state.sent.insert(name.clone(), stored.version.clone());
                    resources.push(resource(name, stored));
                }
                None if again.contains(asked) => removed.push(asked.clone()),
                _ => {}
            }
        }
        let gone: Vec<String> =
            state.sent.keys().filter(|name| world.find(type_url, name).is_none()).cloned().collect();
        for name in gone {
            state.sent.remove(&name);
            if !removed.contains(&name) {
                removed.push(name);
            }
        }
        if resources.is_empty() && removed.is_empty() && !must {
            return None;
        }
        self.nonces += 1;
        Some(DeltaDiscoveryResponse {
            system_version_info: world.label(type_url),
            resources,
            type_url: type_url.to_owned(),
            nonce: format!("d{}", self.nonces),
            removed_resources: removed,
            ..Default::default()
        })
    }
}

fn resource(name: &str, stored: &Stored) -> Resource {
    Resource {
        name: name.to_owned(),
        version: stored.version.clone(),
        resource: stored.resource.clone(),
        aliases: stored.aliases.clone(),
        ..Default::default()
    }
}

/// A state-of-the-world stream.
#[derive(Debug, Default)]
pub struct Sotw {
    types: BTreeMap<String, SotwType>,
    nonces: u64,
}

#[derive(Clone, Debug, Default)]
struct SotwType {
    names: BTreeSet<String>,
    /// Some name was once asked for: from then on an empty list means nothing.
    named: bool,
    sent: Option<BTreeMap<String, String>>,
}

impl Sotw {
    pub fn ask(&mut self, world: &World, ask: &DiscoveryRequest) -> Option<DiscoveryResponse> {
        let first = !self.types.contains_key(&ask.type_url);
        let state = self.types.entry(ask.type_url.clone()).or_default();
        let names: BTreeSet<String> = ask.resource_names.iter().cloned().collect();
        let grew = names.difference(&state.names).next().is_some();
        state.named |= !names.is_empty();
        state.names = names;
        self.respond(world, &ask.type_url, first || grew)
    }

    pub fn changed(&mut self, world: &World) -> Vec<DiscoveryResponse> {
        let types = self.types.clone();
        let urls = types_in_order(&types).into_iter();
        urls.filter_map(|url| self.respond(world, url, false)).collect()
    }

    fn respond(&mut self, world: &World, type_url: &str, must: bool) -> Option<DiscoveryResponse> {
        let state = self.types.get_mut(type_url)?;
        let wildcard = !state.named && is_full_state(type_url);
        let chosen: BTreeMap<&String, &Stored> = world
            .of(type_url)
            .filter(|(name, _)| wildcard || state.names.contains(*name))
            .filter(|(name, _)| !world.is_silent(type_url, name))
            .collect();
        let versions: BTreeMap<String, String> =
            chosen.iter().map(|(name, stored)| ((*name).clone(), stored.version.clone())).collect();
        let known = state.sent.as_ref() == Some(&versions);
        // Only the full-state types can say that something is gone.
        if (known && !must) || (versions.is_empty() && !is_full_state(type_url)) {
            return None;
        }
        state.sent = Some(versions);
        self.nonces += 1;
        Some(DiscoveryResponse {
            version_info: world.label(type_url),
            resources: chosen.values().filter_map(|stored| stored.resource.clone()).collect(),
            type_url: type_url.to_owned(),
            nonce: format!("s{}", self.nonces),
            ..Default::default()
        })
    }
}
