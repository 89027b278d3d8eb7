//! A sidecar as a model: it asks, applies what it is told, and answers. What
//! it sees on a stream is judged as it comes (I2, I3, I7, I8).

use super::faults::{Fault, Faults};
use super::plane::{self, CDS, EDS, NAMES, Plane, known};
use super::rng::Rng;
use bytes::Bytes;
use outpost::proto::core::Node;
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use outpost::proto::rpc::Status;
use outpost::xds::{TypeUrl, Variant};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

#[derive(Debug)]
pub struct Sidecar {
    pub id: String,
    pub group: usize,
    pub variant: Variant,
    pub subs: BTreeMap<&'static str, Sub>,
    /// Type → name → sequence number and stated version.
    pub applied: BTreeMap<&'static str, BTreeMap<String, (u64, String)>>,
    pub stream: Option<Link>,
    /// Reads nothing for now.
    pub paused: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Sub {
    pub wildcard: bool,
    pub names: BTreeSet<String>,
}

impl Sub {
    pub fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// The client's end of a stream.
#[derive(Debug, Default)]
pub struct Link {
    pub to_server: VecDeque<Bytes>,
    pub to_client: VecDeque<Bytes>,
    nonces: BTreeSet<String>,
    last: BTreeMap<&'static str, String>,
    older: BTreeMap<&'static str, String>,
    seen: BTreeMap<&'static str, Seen>,
    asked: BTreeSet<&'static str>,
    first: bool,
    /// I2b: stated versions that the replica may not know.
    pub resumed: bool,
}

#[derive(Debug, Default)]
struct Seen {
    answered: bool,
    /// The newest sequence number of a name on this stream (I2).
    newest: BTreeMap<String, u64>,
    removed: BTreeSet<String>,
    /// How often a name may come unchanged: once for each time that it was
    /// asked for, or that its cluster came (I8).
    due: BTreeMap<String, u32>,
}

impl Seen {
    fn expect(&mut self, name: &str) {
        let due = self.due.entry(name.into()).or_default();
        *due += 1;
    }
}

impl Sidecar {
    pub fn new(id: usize, group: usize, variant: Variant) -> Self {
        let subs = BTreeMap::from([(CDS, Sub { wildcard: true, names: BTreeSet::new() })]);
        Self { id: format!("s{id}"), group, variant, subs, applied: BTreeMap::new(), stream: None, paused: false }
    }

    /// A new stream: every subscription is stated again.
    pub fn connect(&mut self) {
        self.stream = Some(Link { first: true, ..Link::default() });
        for url in self.subs.keys().copied().collect::<Vec<_>>() {
            self.state_first(url);
        }
    }

    fn state_first(&mut self, url: &'static str) {
        let sub = self.subs[url].clone();
        if !sub.wildcard && sub.names.is_empty() {
            // An empty first request would mean `*`.
            return;
        }
        let applied = self.applied.entry(url).or_default();
        applied.retain(|name, _| sub.covers(name));
        let mut names: Vec<String> = sub.names.iter().cloned().collect();
        if sub.wildcard && !(names.is_empty() && TypeUrl::new(url).legacy_wildcard()) {
            names.insert(0, "*".into());
        }
        let versions: Vec<(String, String)> =
            applied.iter().map(|(name, (_, version))| (name.clone(), version.clone())).collect();
        let Some(link) = &mut self.stream else { return };
        link.asked.insert(url);
        link.resumed |= !versions.is_empty();
        let seen = link.seen.entry(url).or_default();
        sub.names.iter().for_each(|name| seen.expect(name));
        let node = link.first.then(|| Node { id: self.id.clone(), ..Node::default() });
        link.first = false;
        let message = if self.variant == Variant::Sotw {
            DiscoveryRequest { node, type_url: url.into(), resource_names: names, ..Default::default() }.encode_to_vec()
        } else {
            DeltaDiscoveryRequest {
                node,
                type_url: url.into(),
                resource_names_subscribe: names,
                initial_resource_versions: versions.into_iter().collect(),
                ..Default::default()
            }
            .encode_to_vec()
        };
        link.to_server.push_back(message.into());
    }

    /// Changes one subscription, at random.
    pub fn resubscribe(&mut self, rng: &mut Rng, faults: &mut Faults) {
        let url = *rng.pick(&plane::TYPES);
        let name = rng.pick(&NAMES).to_string();
        let sub = self.subs.entry(url).or_default();
        let had = sub.names.contains(&name);
        if self.variant == Variant::Sotw && sub.wildcard {
            return;
        }
        let drop = had && (rng.chance(60) || self.variant == Variant::Sotw);
        if drop {
            sub.names.remove(&name);
        } else {
            sub.names.insert(name.clone());
        }
        let sub = sub.clone();
        if !sub.covers(&name) {
            self.applied.entry(url).or_default().remove(&name);
        }
        if self.stream.as_ref().is_some_and(|link| !link.asked.contains(url)) {
            self.state_first(url);
            return;
        }
        let Some(link) = &mut self.stream else { return };
        let seen = link.seen.entry(url).or_default();
        if sub.covers(&name) {
            seen.expect(&name);
        } else {
            seen.newest.remove(&name);
            seen.removed.remove(&name);
        }
        let stale = rng.chance(20);
        let nonce = if stale { link.older.get(url) } else { link.last.get(url) }.cloned().unwrap_or_default();
        if stale && !nonce.is_empty() {
            faults.fired(Fault::StaleNonce);
        }
        let message = if self.variant == Variant::Sotw {
            DiscoveryRequest {
                type_url: url.into(),
                resource_names: sub.names.into_iter().collect(),
                response_nonce: nonce,
                ..Default::default()
            }
            .encode_to_vec()
        } else {
            let (subscribe, unsubscribe) = if drop { (vec![], vec![name]) } else { (vec![name], vec![]) };
            DeltaDiscoveryRequest {
                type_url: url.into(),
                resource_names_subscribe: subscribe,
                resource_names_unsubscribe: unsubscribe,
                response_nonce: if stale { nonce } else { String::new() },
                ..Default::default()
            }
            .encode_to_vec()
        };
        link.to_server.push_back(message.into());
    }

    /// One response: judged, applied, answered.
    pub fn receive(&mut self, message: Bytes, plane: &Plane, rng: &mut Rng, faults: &mut Faults) -> Result<(), String> {
        let told = Told::read(self.variant, message)?;
        let url = known(&told.type_url).ok_or_else(|| format!("told of {}", told.type_url))?;
        let sub = self.subs.get(url).cloned().ok_or("told of a type that was never asked for (C-010)")?;
        self.judge(url, &sub, &told, plane, faults).map_err(|error| format!("{} {url}: {error}", self.id))?;
        self.apply(url, &sub, &told);
        let Some(link) = &mut self.stream else { return Ok(()) };
        if let Some(before) = link.last.insert(url, told.nonce.clone()) {
            link.older.insert(url, before);
        }
        if rng.chance(3) {
            return Ok(());
        }
        let error_detail = rng.chance(5).then(|| Status { code: 13, message: "rejected".into(), ..Default::default() });
        if error_detail.is_some() {
            faults.fired(Fault::Nack);
        }
        let answer = if self.variant == Variant::Sotw {
            let mut names: Vec<String> = sub.names.into_iter().collect();
            if sub.wildcard && !names.is_empty() {
                names.push("*".into());
            }
            DiscoveryRequest {
                type_url: url.into(),
                response_nonce: told.nonce,
                version_info: told.label,
                resource_names: names,
                error_detail,
                ..Default::default()
            }
            .encode_to_vec()
        } else {
            DeltaDiscoveryRequest {
                type_url: url.into(),
                response_nonce: told.nonce,
                error_detail,
                ..Default::default()
            }
            .encode_to_vec()
        };
        link.to_server.push_back(answer.into());
        Ok(())
    }

    fn judge(
        &mut self,
        url: &'static str,
        sub: &Sub,
        told: &Told,
        plane: &Plane,
        faults: &mut Faults,
    ) -> Result<(), String> {
        let full = self.variant == Variant::Sotw && TypeUrl::new(url).full_state();
        let applied = self.applied.entry(url).or_default();
        let Some(link) = &mut self.stream else { return Ok(()) };
        if told.nonce.is_empty() || !link.nonces.insert(told.nonce.clone()) {
            return Err(format!("I7: nonce {:?} is empty or was used before", told.nonce));
        }
        let first_cds = url == CDS && !link.seen.get(CDS).is_some_and(|seen| seen.answered);
        let seen = link.seen.entry(url).or_default();
        let mut names = BTreeSet::new();
        let changed = told.resources.iter().any(|(name, (_, seq, _))| {
            applied.get(name).is_none_or(|(had, _)| had != seq) || seen.due.contains_key(name)
        }) || applied.keys().any(|name| !told.resources.contains_key(name));
        for (name, (group, seq, _)) in &told.resources {
            let known =
                plane.history.get(&((self.group, url), NAMES.iter().find(|n| *n == name).copied().unwrap_or("")));
            if *group != self.group || !known.is_some_and(|known| known.contains(seq)) {
                return Err(format!("I3: {name}@{seq} of group {group} was never said to group {}", self.group));
            }
            if !sub.covers(name) && self.variant == Variant::Delta {
                // An unsubscription may be on its way.
                continue;
            }
            let newest = seen.newest.get(name).copied().unwrap_or_default();
            if *seq < newest {
                return Err(format!("I2: {name}@{seq} after {newest}"));
            }
            if seen.removed.contains(name) && *seq <= newest {
                return Err(format!("I3: {name}@{seq} came back after its removal"));
            }
            if let Some((had, _)) = applied.get(name) {
                if seq < had && !link.resumed {
                    return Err(format!("I2: {name}@{seq}, the client has {had}"));
                }
                if seq < had {
                    faults.fired(Fault::BehindReplica);
                }
                let due = seen.due.get(name).is_some_and(|due| *due > 0);
                if seq == had && seen.answered && !due && !(full && changed) {
                    return Err(format!("I8: {name}@{seq} again, unasked"));
                }
                if seq == had {
                    seen.due.entry(name.clone()).and_modify(|due| *due = due.saturating_sub(1));
                }
            }
            names.insert(name.clone());
        }
        for (name, (_, seq, _)) in &told.resources {
            seen.newest.insert(name.clone(), *seq);
            seen.removed.remove(name);
        }
        for name in &told.removed {
            if !names.insert(name.clone()) {
                return Err(format!("C-012: {name} is named twice"));
            }
            seen.removed.insert(name.clone());
        }
        seen.answered = true;
        if url == CDS {
            let eds = link.seen.entry(EDS).or_default();
            told.resources.keys().for_each(|name| eds.expect(name));
            if first_cds && !told.resources.is_empty() {
                self.subs.get(EDS).into_iter().flat_map(|sub| &sub.names).for_each(|name| eds.expect(name));
            }
        }
        Ok(())
    }

    fn apply(&mut self, url: &'static str, sub: &Sub, told: &Told) {
        let full = self.variant == Variant::Sotw && TypeUrl::new(url).full_state();
        let applied = self.applied.entry(url).or_default();
        if full {
            applied.retain(|name, _| told.resources.contains_key(name));
        }
        for (name, (_, seq, version)) in &told.resources {
            if sub.covers(name) {
                applied.insert(name.clone(), (*seq, version.clone()));
            }
        }
        for name in &told.removed {
            applied.remove(name);
        }
    }
}

/// A response, read by the generated types.
struct Told {
    type_url: String,
    nonce: String,
    label: String,
    /// Name → group, sequence number, version.
    resources: BTreeMap<String, (usize, u64, String)>,
    removed: Vec<String>,
}

impl Told {
    fn read(variant: Variant, message: Bytes) -> Result<Self, String> {
        let mut resources = BTreeMap::new();
        let mut add = |value: &Bytes, version: String| {
            let name = outpost::xds::wire::first_string(value, 1).map_err(|error| error.to_string())?;
            let (group, seq) = plane::content(value).ok_or("not a resource of the control plane")?;
            match resources.insert(name.clone(), (group, seq, version)) {
                None => Ok(()),
                Some(_) => Err(format!("C-012: {name} is named twice")),
            }
        };
        if variant == Variant::Sotw {
            let read = DiscoveryResponse::decode(message).map_err(|error| error.to_string())?;
            for any in &read.resources {
                add(&any.value, String::new())?;
            }
            return Ok(Self {
                type_url: read.type_url,
                nonce: read.nonce,
                label: read.version_info,
                resources,
                removed: Vec::new(),
            });
        }
        let read = DeltaDiscoveryResponse::decode(message).map_err(|error| error.to_string())?;
        for resource in read.resources {
            let any = resource.resource.ok_or("a resource without payload")?;
            add(&any.value, resource.version)?;
        }
        Ok(Self {
            type_url: read.type_url,
            nonce: read.nonce,
            label: read.system_version_info,
            resources,
            removed: read.removed_resources,
        })
    }
}
