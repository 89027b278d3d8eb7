//! One document: which resources are in it.

use crate::descriptors;
use crate::xds::envelope::{Payload, Resource, WRAPPER};
use crate::xds::naming::{self, Naming};
use crate::xds::{Kind, Name, TypeUrl};
use crate::yaml::{Content, Node, Place};

/// A file that Envoy itself would watch is a whole response.
const RESPONSE: &str = "type.googleapis.com/envoy.service.discovery.v3.DiscoveryResponse";
/// What may stand beside `resources:`; nothing reads it.
const BESIDE: &[&str] =
    &["@type", "version_info", "versionInfo", "type_url", "typeUrl", "nonce", "control_plane", "canary"];

/// A resource, and where its text begins.
pub(super) struct Found {
    pub(super) type_url: TypeUrl,
    pub(super) name: Name,
    pub(super) resource: Resource,
    pub(super) place: Place,
}

type Told<'a> = &'a mut dyn FnMut(Place, String);

/// Adds the resources of a document.
pub(super) fn read(node: &Node, found: &mut Vec<Found>, wrong: Told<'_>) {
    match &node.content {
        // Already told, or nothing.
        Content::Refused => {}
        _ if node.is_nothing() => {}
        Content::List(items) => list(items, "", found, wrong),
        Content::Map(entries) => match entry(entries, "resources").filter(|_| is_response(entries)) {
            Some(resources) => response(entries, resources, found, wrong),
            None => found.extend(resource(node, "", wrong)),
        },
        Content::Scalar { .. } => {
            wrong(node.place, format!("expected a resource, a list of them, or resources:, found {}", node.what()));
        }
    }
}

fn entry<'n>(entries: &'n [(Node, Node)], name: &str) -> Option<&'n Node> {
    let named = |(key, _): &&(Node, Node)| matches!(&key.content, Content::Scalar { text, .. } if text == name);
    entries.iter().find(named).map(|(_, value)| value)
}

/// Without a type, or with that of a response.
fn is_response(entries: &[(Node, Node)]) -> bool {
    match entry(entries, "@type").map(|node| &node.content) {
        None => true,
        Some(Content::Scalar { text, .. }) => text == RESPONSE,
        Some(_) => false,
    }
}

fn response(entries: &[(Node, Node)], resources: &Node, found: &mut Vec<Found>, wrong: Told<'_>) {
    for (key, _) in entries {
        match &key.content {
            Content::Scalar { text, .. } if text == "resources" || BESIDE.contains(&text.as_str()) => {}
            Content::Scalar { text, .. } => {
                let known: Vec<_> = BESIDE.iter().chain(&["resources"]).map(|&name| name.to_owned()).collect();
                wrong(
                    key.place,
                    match descriptors::meant(&known, text) {
                        Some(_) => format!("unknown key {text:?} beside resources; leave it out"),
                        None => "a key that is not known beside resources; leave it out".into(),
                    },
                );
            }
            _ => wrong(key.place, format!("expected a key, found {}", key.what())),
        }
    }
    match &resources.content {
        Content::List(items) => list(items, "resources", found, wrong),
        _ if resources.is_nothing() => {}
        _ => wrong(resources.place, format!("resources: expected a list, found {}", resources.what())),
    }
}

fn list(items: &[Node], path: &str, found: &mut Vec<Found>, wrong: Told<'_>) {
    for (at, item) in items.iter().enumerate() {
        found.extend(resource(item, &format!("{path}[{at}]"), wrong));
    }
}

/// One resource, in its wrapper or bare.
fn resource(node: &Node, path: &str, wrong: Told<'_>) -> Option<Found> {
    let read = match descriptors::read(node, path) {
        Ok(read) => read,
        Err(wrongs) => {
            wrongs.0.iter().for_each(|each| wrong(each.place, each.to_string()));
            return None;
        }
    };
    let place = node.place;
    let at = if path.is_empty() { String::new() } else { format!("{path}: ") };
    let mut tell = |what: &str| wrong(place, format!("{at}{what}"));
    let payload = Payload { type_url: read.type_url, value: read.value.into() };
    let resource = if payload.type_url == WRAPPER {
        Resource::read(payload.value).ok()?
    } else {
        Resource { payload: Some(payload), ..Resource::default() }
    };
    let Some(payload) = &resource.payload else {
        tell("expected a resource within, found none");
        return None;
    };
    if resource.ttl.is_some() {
        tell("a ttl runs out unless it is refreshed, and a file is not; leave it out");
        return None;
    }
    let type_url = TypeUrl::new(&payload.type_url);
    if matches!(type_url.kind(), Kind::Health | Kind::Debug) || !payload.type_url.starts_with("type.googleapis.com/") {
        tell(&format!("{:?} is no type that is served; write type.googleapis.com/ and its name", payload.type_url));
        return None;
    }
    let given = resource.name.clone().filter(|name| !name.is_empty());
    let name = given.or_else(|| match naming::of(&type_url, &payload.value) {
        Ok(Naming::Named(name)) if !name.is_empty() || type_url.kind() == Kind::Singleton => Some(name),
        _ => None,
    });
    let Some(name) = name else {
        tell(&nameless(&type_url));
        return None;
    };
    let resource = Resource { name: Some(name.clone()), ..resource };
    Some(Found { type_url, name, resource, place })
}

/// What to write, where a resource has no name.
fn nameless(type_url: &TypeUrl) -> String {
    let message = descriptors::message(type_url.as_str());
    let field = message.and_then(|message| message.get_field(1)).map(|field| field.name().to_owned());
    match field.filter(|name| name.ends_with("name")) {
        Some(field) => format!("expected a name, found none; give {field}"),
        None => {
            format!("this type has no name of its own; give it within \"@type\": {WRAPPER}, with name and resource")
        }
    }
}
