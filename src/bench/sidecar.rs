//! One simulated sidecar, as a value: it holds names and versions only.
//!
//! It subscribes as Envoy does: clusters first, then their endpoints, then
//! listeners, then the routes these name; on a new stream all at once, with the
//! versions it holds. In the invented mesh an assignment is called like its
//! cluster and a route like its listener, so no resource is parsed.
//!
//! Handlers: [`open`](Sidecar::open), [`receive`](Sidecar::receive); both
//! return the requests to send.

use super::ledger::{Ledger, fingerprint};
use super::mesh::{Digest, Family};
use crate::proto::core;
use crate::xds::envelope::{Envelope, Request, RequestBody};
use crate::xds::wire::{WireError, first_string};
use crate::xds::{Moment, Name, Variant};
use bytes::Bytes;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug)]
pub struct Sidecar {
    variant: Variant,
    node: Bytes,
    types: [Held; Family::ALL.len()],
    digest: Digest,
    /// Has not held everything it needs yet; until then nothing counts as late.
    starting: bool,
    applied: u64,
    removed: u64,
}

#[derive(Debug, Default)]
struct Held {
    /// Was asked for on this stream.
    asked: bool,
    /// Names asked for; not used by the types that are asked for as a whole.
    wanted: BTreeSet<Name>,
    resources: BTreeMap<Name, Resource>,
    /// Of the last response; SotW repeats it.
    label: String,
    nonce: String,
}

#[derive(Debug)]
struct Resource {
    fingerprint: u64,
    version: String,
}

/// The node of the sidecar `id` of a workload.
pub fn node(id: &str, workload: &str) -> Bytes {
    let node = core::Node {
        id: id.to_owned(),
        cluster: workload.to_owned(),
        locality: Some(core::Locality { region: "europe".into(), zone: "europe-1".into(), sub_zone: String::new() }),
        user_agent_name: "outpost-bench".into(),
        ..Default::default()
    };
    node.encode_to_vec().into()
}

/// `message` is not a response of a type that was asked for.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error("{0}")]
    Wire(#[from] WireError),
    #[error("a response of type {0:?}, which was never asked for")]
    Type(String),
    #[error("a response states {0:?} twice")]
    Twice(Name),
}

impl Sidecar {
    pub fn new(node: Bytes, variant: Variant) -> Self {
        let (types, digest) = (<[Held; Family::ALL.len()]>::default(), Digest::default());
        Self { variant, node, types, digest, starting: true, applied: 0, removed: 0 }
    }

    /// What it holds.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Resources that were new or other than before.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Resources that were taken away.
    pub fn removed(&self) -> u64 {
        self.removed
    }

    /// Holds clusters and listeners, and all that these name.
    pub fn is_complete(&self) -> bool {
        let whole = |of: Family, named: Family| {
            let (of, named) = (&self.types[of as usize].resources, &self.types[named as usize].resources);
            !of.is_empty() && of.keys().all(|name| named.contains_key(name))
        };
        whole(Family::Cluster, Family::Endpoint) && whole(Family::Listener, Family::Route)
    }

    /// The first requests of a new stream. `initial_resource_versions` let the
    /// server send what changed only.
    pub fn open(&mut self) -> Vec<Request> {
        for held in &mut self.types {
            held.asked = false;
            held.nonce.clear();
        }
        let again: Vec<_> =
            Family::ALL.into_iter().filter(|family| !self.types[*family as usize].resources.is_empty()).collect();
        let first = if again.is_empty() { vec![Family::Cluster] } else { again };
        let mut requests: Vec<_> = first.into_iter().map(|family| self.ask(family)).collect();
        if let Some(request) = requests.first_mut() {
            request.node = Some(self.node.clone());
        }
        requests
    }

    /// Takes a response, and answers it.
    pub fn receive(&mut self, message: Bytes, now: Moment, ledger: &Ledger) -> Result<Vec<Request>, ReceiveError> {
        let envelope = match self.variant {
            Variant::Sotw => Envelope::read_sotw(message)?,
            Variant::Delta => Envelope::read_delta(message)?,
        };
        let family = Family::of(&envelope.type_url).filter(|family| self.types[*family as usize].asked);
        let Some(family) = family else { return Err(ReceiveError::Type(envelope.type_url)) };
        let mut stated = BTreeSet::new();
        for resource in envelope.resources {
            let Some(payload) = resource.payload else { continue };
            let name = match resource.name {
                Some(name) => name,
                None => first_string(&payload.value, 1)?.into(),
            };
            self.take(family, &name, &payload.value, resource.version, now, ledger);
            if let Some(twice) = stated.replace(name) {
                return Err(ReceiveError::Twice(twice));
            }
        }
        for name in &envelope.removed {
            if let Some(twice) = stated.replace(name.clone()) {
                return Err(ReceiveError::Twice(twice));
            }
            self.drop_resource(family, name, now, ledger);
        }
        if self.variant == Variant::Sotw && family.full_state() {
            let gone: Vec<Name> =
                self.types[family as usize].resources.keys().filter(|name| !stated.contains(*name)).cloned().collect();
            for name in gone {
                self.drop_resource(family, &name, now, ledger);
            }
        }
        let held = &mut self.types[family as usize];
        (held.label, held.nonce) = (envelope.label, envelope.nonce);
        let requests = self.answer(family);
        self.starting &= !self.is_complete();
        Ok(requests)
    }

    fn take(&mut self, family: Family, name: &Name, value: &[u8], version: String, now: Moment, ledger: &Ledger) {
        let fingerprint = fingerprint(family, name, value);
        let held = &mut self.types[family as usize];
        let before =
            held.resources.insert(name.clone(), Resource { fingerprint, version }).map(|held| held.fingerprint);
        if before == Some(fingerprint) {
            return;
        }
        if let Some(before) = before {
            self.digest.remove(before);
        }
        self.digest.add(fingerprint);
        self.applied += 1;
        if !self.starting {
            ledger.took(before, fingerprint, now);
        }
    }

    fn drop_resource(&mut self, family: Family, name: &Name, now: Moment, ledger: &Ledger) {
        if let Some(held) = self.types[family as usize].resources.remove(name) {
            self.digest.remove(held.fingerprint);
            self.removed += 1;
            ledger.dropped(family, name, now);
        }
    }

    /// The ACK of a response, and what follows from it.
    fn answer(&mut self, family: Family) -> Vec<Request> {
        let ack = |held: &Held| Request {
            type_url: family.type_url().to_owned(),
            nonce: held.nonce.clone(),
            body: match self.variant {
                Variant::Delta => RequestBody::default(),
                Variant::Sotw => {
                    RequestBody::Sotw { version_info: held.label.clone(), names: held.wanted.iter().cloned().collect() }
                }
            },
            ..Request::default()
        };
        let mut requests = vec![ack(&self.types[family as usize])];
        match family {
            Family::Cluster => requests.extend(self.follow(Family::Cluster, Family::Endpoint)),
            Family::Listener => requests.extend(self.follow(Family::Listener, Family::Route)),
            Family::Endpoint if !self.types[Family::Listener as usize].asked => {
                requests.push(self.ask(Family::Listener));
            }
            Family::Endpoint | Family::Route => {}
        }
        requests
    }

    /// Subscribes to what the resources of `of` name, and no longer to what
    /// they do not.
    fn follow(&mut self, of: Family, named: Family) -> Option<Request> {
        let wanted: BTreeSet<Name> = self.types[of as usize].resources.keys().cloned().collect();
        let held = &mut self.types[named as usize];
        let subscribe: Vec<Name> = wanted.difference(&held.wanted).cloned().collect();
        let unsubscribe: Vec<Name> = held.wanted.difference(&wanted).cloned().collect();
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        held.wanted = wanted;
        // Whoever does not want it does not keep it: no change of its own.
        for name in &unsubscribe {
            if let Some(gone) = held.resources.remove(name) {
                self.digest.remove(gone.fingerprint);
            }
        }
        if !held.asked || self.variant == Variant::Sotw {
            return Some(self.ask(named));
        }
        let body = RequestBody::Delta { subscribe, unsubscribe, initial: Vec::new() };
        Some(Request { type_url: named.type_url().to_owned(), body, ..Request::default() })
    }

    /// Everything wanted of a type, as the first request of it says it; in
    /// SotW each request does.
    fn ask(&mut self, family: Family) -> Request {
        let held = &mut self.types[family as usize];
        held.asked = true;
        let names = held.wanted.iter().cloned().collect();
        let body = match self.variant {
            Variant::Sotw => RequestBody::Sotw { version_info: held.label.clone(), names },
            Variant::Delta => RequestBody::Delta {
                subscribe: names,
                unsubscribe: Vec::new(),
                initial: held.resources.iter().map(|(name, held)| (name.clone(), held.version.clone())).collect(),
            },
        };
        let nonce = held.nonce.clone();
        Request { type_url: family.type_url().to_owned(), nonce, body, ..Request::default() }
    }
}
