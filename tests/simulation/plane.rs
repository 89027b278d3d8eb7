//! The managed control plane as a model: a correct xDS server, delta and SotW,
//! over a world that changes, with everything it ever said of a name.

use super::faults::Fault;
use super::faults::Faults;
use bytes::Bytes;
use outpost::proto::discovery::resource::CacheControl;
use outpost::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use outpost::proto::protobuf::Any;
use outpost::xds::wire::Writer;
use outpost::xds::{TypeUrl, Variant};
use prost::Message;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

pub const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const TYPES: [&str; 4] = [CDS, EDS, LDS, RDS];
const UNCACHED: &str = "b";
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";
pub const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// Group, type.
type Place = (usize, &'static str);

/// What the control plane says, and said.
#[derive(Debug, Default)]
pub struct Plane {
    /// Name → sequence number of its present content.
    pub world: BTreeMap<Place, BTreeMap<&'static str, u64>>,
    /// Every sequence number a name ever had.
    pub history: BTreeMap<(Place, &'static str), BTreeSet<u64>>,
    next: u64,
    /// Versions differ after a restart; content does not (E4).
    epoch: u32,
    /// Like istiod: no versions for resources, so everything again on a new stream.
    pub versionless: bool,
    /// The name `UNCACHED` must not be cached.
    pub uncached: bool,
    versions: BTreeMap<Place, u64>,
    pub streams: BTreeMap<u64, PlaneStream>,
    streams_opened: u64,
}

/// One upstream stream, as its server sees it.
#[derive(Debug)]
pub struct PlaneStream {
    group: usize,
    variant: Variant,
    types: BTreeMap<&'static str, Sub>,
    nonce: u64,
    /// Nonces that wait for an answer (I7).
    unanswered: BTreeMap<String, bool>,
    pub out: VecDeque<Bytes>,
}

#[derive(Debug, Default)]
struct Sub {
    wildcard: bool,
    names: BTreeSet<String>,
    /// Delta: what the client has.
    sent: BTreeMap<String, String>,
    named_before: bool,
}

impl Sub {
    fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }
}

/// The bytes of a resource: its name where that type has it, its content.
pub fn resource(group: usize, url: &str, name: &str, seq: u64) -> Bytes {
    let mut out = Writer::default();
    out.string(1, name);
    if url == CDS {
        out.varint(2, 3);
    }
    out.string(100, &format!("{group}/{seq}"));
    out.finish()
}

/// Group and sequence number of a resource's bytes.
pub fn content(value: &Bytes) -> Option<(usize, u64)> {
    let text = outpost::xds::wire::first_string(value, 100).ok()?;
    let (group, seq) = text.split_once('/')?;
    Some((group.parse().ok()?, seq.parse().ok()?))
}

pub fn known(url: &str) -> Option<&'static str> {
    TYPES.into_iter().find(|known| *known == url)
}

impl Plane {
    pub fn put(&mut self, group: usize, url: &'static str, name: &'static str) {
        self.next += 1;
        self.world.entry((group, url)).or_default().insert(name, self.next);
        self.history.entry(((group, url), name)).or_default().insert(self.next);
        *self.versions.entry((group, url)).or_default() += 1;
        self.push(group, url);
    }

    pub fn remove(&mut self, group: usize, url: &'static str, name: &'static str) {
        if self.world.entry((group, url)).or_default().remove(name).is_some() {
            *self.versions.entry((group, url)).or_default() += 1;
            self.push(group, url);
        }
    }

    /// The process starts again: streams are gone, versions start over.
    pub fn restart(&mut self) {
        self.epoch += 1;
        self.versions.clear();
        self.streams.clear();
    }

    pub fn open(&mut self, group: usize, variant: Variant) -> u64 {
        self.streams_opened += 1;
        let stream = PlaneStream {
            group,
            variant,
            types: BTreeMap::new(),
            nonce: 0,
            unanswered: BTreeMap::new(),
            out: VecDeque::new(),
        };
        self.streams.insert(self.streams_opened, stream);
        self.streams_opened
    }

    /// Sends an update that must be refused: a name twice (C-135).
    pub fn misbehave(&mut self, id: u64, faults: &mut Faults) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let Some((url, _)) = stream.types.iter().next() else { return };
        let url = *url;
        stream.nonce += 1;
        let nonce = format!("bad{}", stream.nonce);
        let any = Any { type_url: url.into(), value: resource(stream.group, url, "a", 999_999) };
        let message: Bytes = if stream.variant == Variant::Sotw {
            let response = DiscoveryResponse {
                type_url: url.into(),
                nonce: nonce.clone(),
                version_info: "bad".into(),
                resources: vec![any.clone(), any],
                ..Default::default()
            };
            response.encode_to_vec().into()
        } else {
            let one = Resource { name: "a".into(), version: "bad".into(), resource: Some(any), ..Default::default() };
            let response = DeltaDiscoveryResponse {
                type_url: url.into(),
                nonce: nonce.clone(),
                resources: vec![one.clone(), one],
                ..Default::default()
            };
            response.encode_to_vec().into()
        };
        stream.unanswered.insert(nonce, true);
        stream.out.push_back(message);
        faults.fired(Fault::InvalidResponse);
    }

    fn push(&mut self, group: usize, url: &'static str) {
        let ids: Vec<u64> =
            self.streams.iter().filter(|(_, stream)| stream.group == group).map(|(id, _)| *id).collect();
        for id in ids {
            self.answer(id, url, &[], false);
        }
    }

    /// One request of Outpost.
    pub fn receive(&mut self, id: u64, message: Bytes) -> Result<(), String> {
        let Some(stream) = self.streams.get_mut(&id) else { return Ok(()) };
        if stream.variant == Variant::Sotw {
            let request = DiscoveryRequest::decode(message).map_err(|error| error.to_string())?;
            let url = known(&request.type_url).ok_or_else(|| format!("asked for {}", request.type_url))?;
            let first = !stream.types.contains_key(url);
            stream.answered(&request.response_nonce, request.error_detail.is_some())?;
            let sub = stream.types.entry(url).or_default();
            sub.named_before |= !request.resource_names.is_empty();
            let before = std::mem::take(&mut sub.names);
            let was_wildcard = sub.wildcard;
            sub.wildcard = request.resource_names.iter().any(|name| name == "*")
                || (request.resource_names.is_empty() && !sub.named_before && TypeUrl::new(url).legacy_wildcard());
            sub.names = request.resource_names.into_iter().filter(|name| name != "*").collect();
            let grew = (sub.wildcard && !was_wildcard) || sub.names.iter().any(|name| !before.contains(name));
            if first || grew {
                self.answer(id, url, &[], true);
            }
            return Ok(());
        }
        let request = DeltaDiscoveryRequest::decode(message).map_err(|error| error.to_string())?;
        let url = known(&request.type_url).ok_or_else(|| format!("asked for {}", request.type_url))?;
        let first = !stream.types.contains_key(url);
        stream.answered(&request.response_nonce, request.error_detail.is_some())?;
        let sub = stream.types.entry(url).or_default();
        if first {
            sub.sent = request.initial_resource_versions.into_iter().collect();
            sub.wildcard = request.resource_names_subscribe.is_empty() && TypeUrl::new(url).legacy_wildcard();
        }
        let mut again = Vec::new();
        let mut must = first && sub.wildcard;
        for name in request.resource_names_subscribe {
            if name == "*" {
                must |= !std::mem::replace(&mut sub.wildcard, true);
            } else {
                sub.names.insert(name.clone());
                again.push(name);
            }
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                sub.wildcard = false;
            } else {
                sub.names.remove(&name);
            }
        }
        // What is not subscribed is not remembered: that it went is never told.
        let (wildcard, names) = (sub.wildcard, &sub.names);
        sub.sent.retain(|name, _| first || wildcard || names.contains(name));
        self.answer(id, url, &again, must);
        Ok(())
    }

    fn answer(&mut self, id: u64, url: &'static str, again: &[String], must: bool) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let place = (stream.group, url);
        let world = self.world.entry(place).or_default();
        let label = format!("{}-{}", self.epoch, self.versions.get(&place).copied().unwrap_or_default());
        let (epoch, versionless, uncached) = (self.epoch, self.versionless, self.uncached);
        let control = |name: &str| (uncached && name == UNCACHED).then_some(CacheControl { do_not_cache: true });
        let version = |seq: u64| if versionless { String::new() } else { format!("{epoch}.{seq}") };
        let Some(sub) = stream.types.get_mut(url) else { return };
        let any = |name: &str, seq: u64| Any { type_url: url.into(), value: resource(place.0, url, name, seq) };
        stream.nonce += 1;
        let nonce = format!("{id}.{}", stream.nonce);
        let message: Bytes = if stream.variant == Variant::Sotw {
            let said = |(name, seq): (&&str, &u64)| match control(name) {
                None => any(name, *seq),
                cache_control => {
                    let (name, resource) = ((*name).into(), Some(any(name, *seq)));
                    let wrapped = Resource { name, resource, cache_control, ..Default::default() };
                    Any { type_url: WRAPPER.into(), value: wrapped.encode_to_vec().into() }
                }
            };
            let resources: Vec<Any> = world.iter().filter(|(name, _)| sub.covers(name)).map(said).collect();
            let full = TypeUrl::new(url).full_state();
            if (sub.names.is_empty() && !sub.wildcard) || (resources.is_empty() && !full) {
                return;
            }
            let response = DiscoveryResponse {
                version_info: label,
                type_url: url.into(),
                nonce: nonce.clone(),
                resources,
                ..Default::default()
            };
            response.encode_to_vec().into()
        } else {
            let mut resources = Vec::new();
            let covered: Vec<_> = world.iter().filter(|(name, _)| sub.covers(name)).collect();
            for (name, seq) in covered {
                let stated = if versionless { format!("sent{seq}") } else { version(*seq) };
                let current = sub.sent.get(*name) == Some(&stated);
                if current && !again.iter().any(|asked| asked == name) {
                    continue;
                }
                sub.sent.insert((*name).into(), stated);
                resources.push(Resource {
                    name: (*name).into(),
                    version: version(*seq),
                    resource: Some(any(name, *seq)),
                    cache_control: control(name),
                    ..Default::default()
                });
            }
            let gone: Vec<String> = sub
                .sent
                .keys()
                .filter(|name| !world.contains_key(name.as_str()))
                .chain(again.iter().filter(|name| !world.contains_key(name.as_str())))
                .filter(|name| sub.covers(name))
                .cloned()
                .collect::<BTreeSet<_>>()
                .into_iter()
                .collect();
            sub.sent.retain(|name, _| world.contains_key(name.as_str()));
            if resources.is_empty() && gone.is_empty() && !must {
                return;
            }
            let response = DeltaDiscoveryResponse {
                system_version_info: label,
                type_url: url.into(),
                nonce: nonce.clone(),
                resources,
                removed_resources: gone,
                ..Default::default()
            };
            response.encode_to_vec().into()
        };
        stream.unanswered.insert(nonce, false);
        stream.out.push_back(message);
    }
}

impl PlaneStream {
    /// I7, upstream: each nonce is answered at most once, good ones by an ACK,
    /// bad ones by a NACK.
    fn answered(&mut self, nonce: &str, nack: bool) -> Result<(), String> {
        if nonce.is_empty() {
            return Ok(());
        }
        match self.unanswered.remove(nonce) {
            Some(bad) if bad == nack => Ok(()),
            Some(bad) => Err(format!("I7: nonce {nonce} (bad: {bad}) was answered with nack: {nack}")),
            // SotW repeats the newest nonce with a changed list.
            None if self.variant == Variant::Sotw && !nack => Ok(()),
            None => Err(format!("I7: nonce {nonce} was answered twice or never sent")),
        }
    }
}
