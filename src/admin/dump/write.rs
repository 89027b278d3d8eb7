//! Sections as JSON text.

use super::{Held, List, OTHERS, Query, Section, Sections};
use crate::admin::report::{API_VERSION, HeldResource};
use crate::clock::timestamp;
use crate::content::{Body, Entry};
use crate::descriptors::to_redacted_json;
use crate::session::server::Standing;
use crate::xds::Kind;
use serde_json::{Map, Value, json};
use std::io::{self, Write};

/// `{"configs": [...]}`, as Envoy has it.
pub fn write(query: &Query, sections: Sections, out: &mut dyn Write) -> io::Result<()> {
    let mut first = true;
    let mut comma = |out: &mut dyn Write| {
        let text: &[u8] = if std::mem::take(&mut first) { b"\n " } else { b",\n " };
        out.write_all(text)
    };
    out.write_all(b"{\"configs\": [")?;
    for section in sections {
        let items: Vec<_> = section.resources.iter().filter(|held| query.takes_name(&held.name)).collect();
        if items.is_empty() {
            continue;
        }
        if query.list.is_some() {
            for held in items {
                comma(out)?;
                let item = whole_item(query, &section, held);
                serde_json::to_writer(&mut *out, &item)?;
            }
        } else {
            comma(out)?;
            one_section(query, &section, &items, out)?;
        }
    }
    out.write_all(b"\n]}\n")
}

fn one_section(query: &Query, section: &Section, items: &[&Held], out: &mut dyn Write) -> io::Result<()> {
    let list = List::of(&section.type_url);
    let mut head = Map::new();
    head.insert("@type".into(), type_name(list, None).into());
    if !query.of.is_one() {
        head.insert("group".into(), section.group.clone().into());
        head.extend(section.node.clone().map(|node| ("node".into(), node.into())));
    }
    let mask = query.mask.as_ref();
    let wants_version = matches!(list.section, "ClustersConfigDump" | "ListenersConfigDump");
    if wants_version && mask.is_none_or(|mask| mask.within("version_info").is_some()) {
        head.insert("version_info".into(), section.version.clone().into());
    }
    let head = serde_json::to_string(&head)?;
    out.write_all(head.strip_suffix('}').unwrap_or(&head).as_bytes())?;
    let within = match mask {
        None => None,
        Some(mask) => match mask.within(list.name) {
            Some(within) => Some(within),
            None => return out.write_all(b"}"),
        },
    };
    write!(out, ",\n  \"{}\": [", list.name)?;
    for (at, held) in items.iter().enumerate() {
        out.write_all(if at == 0 { b"\n   " } else { b",\n   " })?;
        let item = item(list, section, held);
        let item = match within {
            Some(mask) => mask.apply(item),
            None => item,
        };
        serde_json::to_writer(&mut *out, &item)?;
    }
    out.write_all(b"\n  ]}")
}

/// An item that stands for itself.
fn whole_item(query: &Query, section: &Section, held: &Held) -> Value {
    let list = List::of(&section.type_url);
    let mut shown = item(list, section, held);
    if let Some(mask) = &query.mask {
        shown = mask.apply(shown);
    }
    if let Value::Object(fields) = &mut shown {
        fields.insert("@type".into(), type_name(list, Some(list.item)).into());
        if !query.of.is_one() {
            fields.insert("group".into(), section.group.clone().into());
            fields.extend(section.node.clone().map(|node| ("node".into(), node.into())));
        }
    }
    shown
}

fn type_name(list: &List, item: Option<&str>) -> String {
    let package = if *list == OTHERS { "envoy.service.status.v3" } else { "envoy.admin.v3" };
    let item = item.map(|item| format!(".{item}")).unwrap_or_default();
    format!("type.googleapis.com/{package}.{}{item}", list.section)
}

fn item(list: &List, section: &Section, held: &Held) -> Value {
    let mut state = Map::new();
    if let Some(entry) = &held.entry {
        state.insert("version_info".into(), entry.id().version().into());
    }
    let content = held.entry.as_ref().and_then(|entry| content(section, entry));
    let content = content.or_else(|| (!list.named).then(|| nameplate(section, held)));
    state.extend(content.map(|content| (list.content.into(), content)));
    state.extend(section.updated.map(|at| ("last_updated".into(), timestamp(at).into())));
    let mut item = match list.state {
        Some(name) => Map::from_iter([(name.to_owned(), Value::Object(state))]),
        None => state,
    };
    if list.named {
        item.insert("name".into(), held.name.as_ref().into());
    }
    if *list == OTHERS {
        item.insert("type_url".into(), section.type_url.as_str().into());
    }
    item.extend(held.standing.as_ref().map(|standing| ("client_status".into(), client_status(standing).into())));
    Value::Object(item)
}

/// Type and name, in the place of content that is not shown.
fn nameplate(section: &Section, held: &Held) -> Value {
    let field = if section.type_url.kind() == Kind::Endpoint { "cluster_name" } else { "name" };
    json!({"@type": section.type_url.as_str(), field: held.name.as_ref()})
}

/// Of what is not sensitive as a whole, and not for its subscription only (C-145).
fn content(section: &Section, entry: &Entry) -> Option<Value> {
    let Body::Resource(blob) = entry.body() else { return None };
    let withheld = section.sensitive || entry.attributes().do_not_cache;
    (!withheld).then(|| to_redacted_json(blob.type_url().as_str(), blob.value()))
}

fn client_status(standing: &Standing) -> &'static str {
    match standing {
        Standing::Synced => "ACKED",
        Standing::Stale | Standing::NotSent => "REQUESTED",
        Standing::Rejected => "NACKED",
        Standing::Absent => "DOES_NOT_EXIST",
        Standing::Failed(_) => "RECEIVED_ERROR",
    }
}

/// A list of our own: names, versions and sizes, no content.
pub fn resources(query: &Query, sections: Sections, out: &mut dyn Write) -> io::Result<()> {
    write!(out, "{{\"apiVersion\": \"{API_VERSION}\", \"kind\": \"Resources\", \"items\": [")?;
    let mut first = true;
    for section in sections {
        for held in section.resources.iter().filter(|held| query.takes_name(&held.name)) {
            out.write_all(if std::mem::take(&mut first) { b"\n " } else { b",\n " })?;
            serde_json::to_writer(&mut *out, &row(&section, held))?;
        }
    }
    out.write_all(b"\n]}\n")
}

fn row(section: &Section, held: &Held) -> HeldResource {
    let entry = held.entry.as_deref();
    HeldResource {
        group: section.group.clone(),
        node: section.node.clone(),
        type_url: section.type_url.as_str().into(),
        short: section.type_url.short().into(),
        name: held.name.to_string(),
        version: entry.map(|entry| entry.id().version()),
        bytes: entry.and_then(|entry| entry.body().blob()).map(|blob| blob.value().len()),
        status: held.standing.as_ref().map(|standing| client_status(standing).to_owned()),
    }
}
