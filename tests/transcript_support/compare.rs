//! Is a response what the transcript says, and what every response must be?

use super::messages::{self, Seen, SeenResource};
use super::script::{Message, Resource, Wire};
use super::world::PROBE;
use outpost::content::{Body, Store, entry::Attributes};
use outpost::xds::{TypeUrl, name};
use std::collections::{BTreeSet, HashMap, HashSet};

/// Which version was stated for which content.
#[derive(Default)]
pub struct Versions {
    by_content: HashMap<(String, String, Vec<u8>), String>,
    by_version: HashMap<(String, String, String), Vec<u8>>,
}

/// What holds for every response: C-009 to C-012, C-019, C-071.
pub fn sound(seen: &Seen, wire: Wire, asked: impl Fn(&str) -> bool, versions: &mut Versions) -> Result<(), String> {
    if seen.type_url.is_empty() || !asked(&seen.type_url) {
        return Err(format!("a response of a type that was not asked: {:?}", seen.type_url));
    }
    if seen.nonce.is_empty() {
        return Err("a response without nonce".into());
    }
    if seen.control_plane.is_empty() {
        return Err("a response that does not say who answers".into());
    }
    let mut names = HashSet::new();
    for resource in &seen.resources {
        if !names.insert(resource.name.as_str()) {
            return Err(format!("{:?} is stated twice", resource.name));
        }
        if let Some((type_url, value)) = &resource.payload {
            if *type_url != seen.type_url {
                return Err(format!("{:?} is a {type_url}", resource.name));
            }
            if let Some(version) = &resource.version {
                versions.note(seen, resource, version, value)?;
            }
        }
    }
    for name in &seen.removed {
        if !names.insert(name) {
            return Err(format!("{name:?} is stated twice"));
        }
    }
    for (name, code) in &seen.errors {
        let also_removed = wire == Wire::Delta && seen.removed.contains(name);
        if seen.resources.iter().any(|resource| resource.name == *name) {
            return Err(format!("{name:?} is both there and an error"));
        }
        if *code == 5 && wire == Wire::Delta && !also_removed {
            return Err(format!("{name:?} is not found and not removed"));
        }
    }
    Ok(())
}

impl Versions {
    fn note(&mut self, seen: &Seen, resource: &SeenResource, version: &str, value: &[u8]) -> Result<(), String> {
        if version.is_empty() {
            return Err(format!("{:?} has no version", resource.name));
        }
        let content = format!("{value:?}{:?}{:?}", resource.aliases, resource.ttl).into_bytes();
        let (type_url, name) = (seen.type_url.clone(), resource.name.clone());
        let before = self.by_content.insert((type_url.clone(), name.clone(), content.clone()), version.to_owned());
        if before.is_some_and(|before| before != version) {
            return Err(format!("{name:?} has another version for the same content"));
        }
        let before = self.by_version.insert((type_url, name.clone(), version.to_owned()), content.clone());
        if before.is_some_and(|before| before != content) {
            return Err(format!("{name:?} has other content under the same version"));
        }
        Ok(())
    }
}

/// The version that Outpost states for this content.
pub fn stated_version(type_url: &str, resource: &Resource) -> String {
    let store = Store::new();
    let blob = store.blob(&TypeUrl::new(type_url), &messages::payload(type_url, resource));
    let aliases = resource.aliases.iter().map(|alias| name::normal(alias)).collect();
    let attributes = Attributes { aliases, ttl: resource.ttl, ..Attributes::default() };
    store.entry(name::normal(&resource.name), Body::Resource(blob), attributes).id().version()
}

/// Removes what barriers left; says whether nothing else was in it.
pub fn strip_probes(seen: &mut Seen) -> bool {
    let probe = |name: &str| name.starts_with(PROBE);
    let had = seen.resources.len() + seen.removed.len() + seen.errors.len();
    seen.resources.retain(|resource| !probe(&resource.name));
    seen.removed.retain(|name| !probe(name));
    seen.errors.retain(|(name, _)| !probe(name));
    let left = seen.resources.len() + seen.removed.len() + seen.errors.len();
    left == 0 && had > 0 || seen.type_url == messages::RUNTIME
}

/// Two responses of one type as one.
pub fn merged(mut first: Seen, second: Seen) -> Result<Seen, String> {
    if first.type_url != second.type_url {
        return Err(format!("then came {}", second.show()));
    }
    for resource in &second.resources {
        if first.resources.iter().any(|before| before.name == resource.name) {
            return Err(format!("{:?} came in two of the messages", resource.name));
        }
    }
    first.resources.extend(second.resources);
    first.removed.extend(second.removed);
    first.errors.extend(second.errors);
    first.label = second.label;
    first.nonce = second.nonce;
    first.unknown_kept += second.unknown_kept;
    Ok(first)
}

/// Is `seen` the `wanted` message?
pub fn message(wanted: &Message, marked_label: Option<&str>, seen: &Seen) -> Result<(), String> {
    if wanted.type_url != seen.type_url {
        return Err(format!("expected a response of {}", wanted.type_url));
    }
    let by_name: HashMap<&str, &SeenResource> =
        seen.resources.iter().map(|resource| (resource.name.as_str(), resource)).collect();
    for resource in &wanted.resources {
        match by_name.get(resource.name.as_str()) {
            Some(is) => same(wanted, resource, is, seen)?,
            None if resource.optional => {}
            None => return Err(format!("{:?} is missing", resource.name)),
        }
    }
    let known: HashSet<&str> = wanted.resources.iter().map(|resource| resource.name.as_str()).collect();
    if let Some(more) = seen.resources.iter().find(|resource| !known.contains(resource.name.as_str())) {
        return Err(format!("{:?} should not be there", more.name));
    }
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    if set(&wanted.removed) != set(&seen.removed) {
        return Err(format!("expected {:?} as removed", wanted.removed));
    }
    match &wanted.errors {
        Some(errors) if errors.iter().collect::<BTreeSet<_>>() != seen.errors.iter().collect::<BTreeSet<_>>() => {
            return Err(format!("expected errors {errors:?}"));
        }
        // That a name is not found may be said without being asked for (C-121).
        None if seen.errors.iter().any(|(_, code)| *code != 5) => return Err("expected no errors".into()),
        _ => {}
    }
    if wanted.label.as_ref().is_some_and(|label| *label != seen.label) {
        return Err(format!("expected the label {:?}", wanted.label));
    }
    if marked_label.is_some_and(|label| label != seen.label) {
        return Err(format!("expected the label {marked_label:?}"));
    }
    Ok(())
}

fn same(message: &Message, wanted: &Resource, seen: &SeenResource, whole: &Seen) -> Result<(), String> {
    let name = &wanted.name;
    let body = (!wanted.heartbeat && !wanted.nobody).then(|| messages::payload(&message.type_url, wanted));
    if body.as_ref() != seen.payload.as_ref().map(|(_, value)| value) {
        return Err(match body {
            Some(_) => format!("{name:?} has other content"),
            None => format!("{name:?} should have no body"),
        });
    }
    let sorted = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    if sorted(&wanted.aliases) != sorted(&seen.aliases) {
        return Err(format!("{name:?} has aliases {:?}", seen.aliases));
    }
    if wanted.ttl != seen.ttl {
        return Err(format!("{name:?} has the time to live {:?}", seen.ttl));
    }
    if wanted.unknown && whole.unknown_kept == 0 {
        return Err(format!("{name:?} lost a field that nobody knows"));
    }
    if wanted.only.is_none() && seen.constrained {
        return Err(format!("{name:?} is a variant"));
    }
    Ok(())
}
