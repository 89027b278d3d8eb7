//! From JSON or YAML to bytes.
//!
//! Written straight from the tree: fields in the order of their numbers, maps in
//! the order of their keys, what is the default not at all. So equal text is
//! equal bytes, always. Every fault is told, with its path and its place, and
//! never with a value: that may be a secret.

use super::number::{Raw, scalar};
use super::{field_called, is_well_known, message};
use crate::yaml::{Content, Node, Place};
use prost::encoding::{WireType, encode_key, encode_varint};
use prost_reflect::{DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use std::collections::BTreeMap;
use std::fmt;

/// Faults that are told of one text; more are of no use.
const MOST: usize = 20;

/// What an `Any` holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    pub type_url: String,
    pub value: Vec<u8>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// `filter_chains[0].filters[1].name`; empty for the whole.
    pub path: String,
    /// What was expected and what was found.
    pub what: String,
    pub(crate) place: Place,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str() {
            "" => f.write_str(&self.what),
            path => write!(f, "{path}: {}", self.what),
        }
    }
}

/// Everything that is wrong; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Wrongs(pub Vec<Wrong>);

impl fmt::Display for Wrongs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts: Vec<_> = self.0.iter().map(Wrong::to_string).collect();
        f.write_str(&texts.join("; "))
    }
}

/// The message that is an `Any` in JSON: an object with `@type`.
pub fn from_json(json: &serde_json::Value) -> Result<Encoded, Wrongs> {
    read(&node(json), "")
}

/// The same of a tree; paths begin with `path`.
pub(crate) fn read(node: &Node, path: &str) -> Result<Encoded, Wrongs> {
    let mut reader = Reader { path: path.into(), wrongs: Vec::new() };
    let (type_url, value) = reader.any_parts(node);
    if reader.wrongs.is_empty() { Ok(Encoded { type_url, value }) } else { Err(Wrongs(reader.wrongs)) }
}

/// JSON as a tree, of which all stands in one place.
fn node(json: &serde_json::Value) -> Node {
    use serde_json::Value as Json;
    let plain = |text: String| Content::Scalar { text, plain: true };
    let quoted =
        |text: &str| Node { place: Place::default(), content: Content::Scalar { text: text.into(), plain: false } };
    let content = match json {
        Json::Null => plain("null".into()),
        Json::Bool(is) => plain(is.to_string()),
        Json::Number(number) => plain(number.to_string()),
        Json::String(text) => return quoted(text),
        Json::Array(items) => Content::List(items.iter().map(node).collect()),
        Json::Object(fields) => Content::Map(fields.iter().map(|(key, value)| (quoted(key), node(value))).collect()),
    };
    Node { place: Place::default(), content }
}

pub(super) struct Reader {
    path: String,
    wrongs: Vec<Wrong>,
}

impl Reader {
    pub(super) fn wrong(&mut self, place: Place, what: String) {
        if self.wrongs.len() < MOST {
            self.wrongs.push(Wrong { path: self.path.clone(), what, place });
        }
    }

    pub(super) fn expected(&mut self, expected: &str, node: &Node) {
        let told = matches!(node.content, Content::Refused);
        let found = node.what();
        // A hint stands at the end.
        let what = match expected.split_once(';') {
            Some((what, hint)) => format!("expected {what}, found {found};{hint}"),
            None => format!("expected {expected}, found {found}"),
        };
        if !told {
            self.wrong(node.place, what);
        }
    }

    /// Does `step` one step further down.
    pub(super) fn within<R>(&mut self, segment: &str, step: impl FnOnce(&mut Self) -> R) -> R {
        let before = self.path.len();
        if before > 0 && !segment.starts_with('[') {
            self.path.push('.');
        }
        self.path.push_str(segment);
        let result = step(self);
        self.path.truncate(before);
        result
    }

    /// The entries of what should be keys and values, each key once.
    pub(super) fn entries<'n>(&mut self, of: &str, node: &'n Node) -> Vec<(&'n str, Place, &'n Node)> {
        let Content::Map(entries) = &node.content else {
            self.expected(&format!("keys and values ({of})"), node);
            return Vec::new();
        };
        let mut seen: BTreeMap<&str, Place> = BTreeMap::new();
        let mut kept = Vec::new();
        for (key, value) in entries {
            let Content::Scalar { text, .. } = &key.content else {
                self.wrong(key.place, format!("expected a key, found {}", key.what()));
                continue;
            };
            match seen.insert(text, key.place) {
                Some(first) => self.wrong(key.place, format!("this key is given twice{}", again(first))),
                None => kept.push((text.as_str(), key.place, value)),
            }
        }
        kept
    }

    /// A message, as bytes.
    pub(super) fn message(&mut self, of: &MessageDescriptor, node: &Node) -> Vec<u8> {
        if is_well_known(of) { self.well_known(of, node) } else { self.fields(of, node, false) }
    }

    /// The fields of a message; in an `Any`, `@type` stands among them.
    fn fields(&mut self, of: &MessageDescriptor, node: &Node, in_any: bool) -> Vec<u8> {
        let mut written: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        let mut given: BTreeMap<u32, (String, Place)> = BTreeMap::new();
        let mut chosen: BTreeMap<String, (String, Place)> = BTreeMap::new();
        for (name, place, value) in self.entries(of.full_name(), node) {
            if in_any && name == "@type" {
                continue;
            }
            let Some(field) = field_called(of, name) else {
                self.unknown(of, name, place);
                continue;
            };
            if let Some((other, first)) = given.insert(field.number(), (name.into(), place)) {
                self.wrong(place, format!("{name} is {other} in another spelling; it is given{}", again(first)));
                continue;
            }
            if value.is_nothing() && !takes_nothing(&field) {
                continue;
            }
            if let Some(choice) = field.containing_oneof()
                && let Some((other, first)) = chosen.insert(choice.name().into(), (name.into(), place))
            {
                let what = format!("{name} and {other} exclude each other; {other} is given{}", again(first));
                self.wrong(place, what);
            }
            let bytes = self.within(name, |reader| reader.field(&field, value));
            written.insert(field.number(), bytes);
        }
        written.into_values().flatten().collect()
    }

    fn unknown(&mut self, of: &MessageDescriptor, name: &str, place: Place) {
        let names: Vec<_> = of.fields().map(|field| field.name().to_owned()).collect();
        let of = of.full_name();
        self.wrong(
            place,
            match (meant(&names, name), name) {
                (_, "<<") => "merge keys are not read here, write the values themselves".into(),
                (Some(near), _) => format!("{of} has no field {name:?}; did you mean {near}?"),
                (None, _) if names.is_empty() => format!("{of} has no fields, and a key is given"),
                (None, _) => {
                    format!("{of} does not have the field that is given; expected one of {}", listed(&names, name))
                }
            },
        );
    }

    /// A field with its number; nothing where it is the default.
    fn field(&mut self, field: &FieldDescriptor, node: &Node) -> Vec<u8> {
        let mut bytes = Vec::new();
        match field.kind() {
            Kind::Message(entry) if field.is_map() => self.map(field, &entry, node, &mut bytes),
            kind if field.is_list() => self.list(field, &kind, node, &mut bytes),
            kind => {
                if let Some(raw) = self.single(&kind, node)
                    && (field.supports_presence() || !raw.is_default())
                {
                    put(field.number(), &raw, &mut bytes);
                }
            }
        }
        bytes
    }

    fn single(&mut self, kind: &Kind, node: &Node) -> Option<Raw> {
        if let Kind::Message(of) = kind {
            return Some(Raw::Bytes(self.message(of, node)));
        }
        scalar(kind, node).map_err(|what| self.expected(&what, node)).ok()
    }

    fn list(&mut self, field: &FieldDescriptor, kind: &Kind, node: &Node, into: &mut Vec<u8>) {
        let Content::List(items) = &node.content else {
            return self.expected("a list", node);
        };
        let items: Vec<_> = items
            .iter()
            .enumerate()
            .filter_map(|(at, item)| self.within(&format!("[{at}]"), |reader| reader.single(kind, item)))
            .collect();
        if field.is_packed() && !items.is_empty() {
            let mut packed = Vec::new();
            items.iter().for_each(|raw| put_value(raw, &mut packed));
            put(field.number(), &Raw::Bytes(packed), into);
        } else {
            items.iter().for_each(|raw| put(field.number(), raw, into));
        }
    }

    fn map(&mut self, field: &FieldDescriptor, entry: &MessageDescriptor, node: &Node, into: &mut Vec<u8>) {
        let (keys, values) = (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind());
        let mut sorted: BTreeMap<Key, Vec<u8>> = BTreeMap::new();
        for (at, (text, place, value)) in self.entries("a map", node).into_iter().enumerate() {
            let key = Node { place, content: Content::Scalar { text: text.into(), plain: keys != Kind::String } };
            // By its number: a key may be a value that lacks its colon.
            self.within(&format!("[{at}]"), |reader| {
                let key = reader.single(&keys, &key);
                let value = reader.single(&values, value);
                if let Some((key, value)) = key.zip(value) {
                    let mut bytes = Vec::new();
                    put(1, &key, &mut bytes);
                    put(2, &value, &mut bytes);
                    sorted.insert(Key::of(&key), bytes);
                }
            });
        }
        for bytes in sorted.into_values() {
            put(field.number(), &Raw::Bytes(bytes), into);
        }
    }

    pub(super) fn any(&mut self, node: &Node) -> Vec<u8> {
        if matches!(&node.content, Content::Map(entries) if entries.is_empty()) {
            return Vec::new();
        }
        let (type_url, value) = self.any_parts(node);
        let mut bytes = Vec::new();
        for (number, raw) in [(1, Raw::Bytes(type_url.into_bytes())), (2, Raw::Bytes(value))] {
            if !raw.is_default() {
                put(number, &raw, &mut bytes);
            }
        }
        bytes
    }

    fn any_parts(&mut self, node: &Node) -> (String, Vec<u8>) {
        let nothing = (String::new(), Vec::new());
        let Content::Map(entries) = &node.content else {
            self.expected("keys and values with \"@type\"", node);
            return nothing;
        };
        let is_type =
            |(key, _): &&(Node, Node)| matches!(&key.content, Content::Scalar { text, .. } if text == "@type");
        let Some((_, named)) = entries.iter().find(is_type) else {
            let example = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster";
            self.wrong(node.place, format!("expected \"@type\", found none; say what this is, as in {example}"));
            return nothing;
        };
        let Content::Scalar { text: type_url, .. } = &named.content else {
            self.within("@type", |reader| reader.expected("text", named));
            return nothing;
        };
        let Some(of) = message(type_url).filter(|_| type_url.contains('/')) else {
            let what = unknown_type(type_url);
            self.within("@type", |reader| reader.wrong(named.place, what));
            return nothing;
        };
        let value = if is_well_known(&of) { self.boxed(&of, node) } else { self.fields(&of, node, true) };
        (type_url.clone(), value)
    }

    /// What has an own form in JSON stands under `value` in an `Any`.
    fn boxed(&mut self, of: &MessageDescriptor, node: &Node) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, place, value) in self.entries(of.full_name(), node) {
            match name {
                "@type" => {}
                "value" => bytes = self.within("value", |reader| reader.message(of, value)),
                _ => {
                    self.wrong(place, format!("beside \"@type\": {} expected value, found another key", of.full_name()))
                }
            }
        }
        bytes
    }
}

/// The order of map entries.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key {
    Number(u64),
    Text(Vec<u8>),
}

impl Key {
    fn of(raw: &Raw) -> Self {
        match raw {
            Raw::Varint(number) | Raw::Eight(number) => Self::Number(*number),
            Raw::Four(number) => Self::Number((*number).into()),
            Raw::Bytes(bytes) => Self::Text(bytes.clone()),
        }
    }
}

/// May the field be given as null?
fn takes_nothing(field: &FieldDescriptor) -> bool {
    match field.kind() {
        Kind::Message(message) => message.full_name() == "google.protobuf.Value" && !field.is_list() && !field.is_map(),
        Kind::Enum(of) => of.full_name() == "google.protobuf.NullValue",
        _ => false,
    }
}

fn again(first: Place) -> String {
    if first.line == 0 { " already".into() } else { format!(" in line {} already", first.line) }
}

fn unknown_type(type_url: &str) -> String {
    let name = type_url.rsplit('/').next().unwrap_or_default();
    let pool: &DescriptorPool = super::pool();
    if pool.get_message_by_name(name).is_some() {
        return format!("expected a type URL, found {type_url:?}; write type.googleapis.com/{name}");
    }
    let last = name.rsplit('.').next().unwrap_or_default();
    let mut named: Vec<_> = pool.all_messages().filter(|message| message.name() == last).collect();
    named.sort_by_key(|message| strsim::damerau_levenshtein(message.full_name(), name));
    let names: Vec<_> = match named.first() {
        Some(near) => vec![near.full_name().to_owned()],
        None => {
            let all: Vec<_> = pool.all_messages().map(|message| message.full_name().to_owned()).collect();
            nearest(&all, name).into_iter().collect()
        }
    };
    let hint = names.first().map_or_else(
        || "; give a message of the Envoy v3 API".into(),
        |near| format!("; did you mean type.googleapis.com/{near}?"),
    );
    format!("{type_url:?} is no type that is known{hint}")
}

/// As [`nearest`], where the text may be told: what is near no name may be a secret of
/// which the colon, or the key, was forgotten.
pub(crate) fn meant(names: &[String], name: &str) -> Option<String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_.@/-".contains(c);
    nearest(names, name).filter(|_| name.len() <= 64 && name.chars().all(plain))
}

/// The name that was probably meant.
fn nearest(names: &[String], name: &str) -> Option<String> {
    let plain = |name: &str| -> String { name.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect() };
    let wanted = plain(name);
    let far = |other: &&String| strsim::damerau_levenshtein(&wanted, &plain(other));
    let near = names.iter().min_by_key(far)?;
    (far(&near) <= 1.max(wanted.chars().count().max(near.len()) / 4)).then(|| near.clone())
}

/// Names to choose from: the nearest of them first, not more than a few.
pub(super) fn listed(names: &[String], name: &str) -> String {
    let mut names: Vec<_> = names.iter().collect();
    let many = names.len() > 8;
    if many {
        names.sort_by_key(|other| strsim::damerau_levenshtein(name, other));
        names.truncate(8);
    }
    let texts: Vec<_> = names.iter().map(|name| name.as_str()).collect();
    format!("{}{}", texts.join(", "), if many { ", …" } else { "" })
}

pub(super) fn put(number: u32, raw: &Raw, into: &mut Vec<u8>) {
    let wire_type = match raw {
        Raw::Varint(_) => WireType::Varint,
        Raw::Four(_) => WireType::ThirtyTwoBit,
        Raw::Eight(_) => WireType::SixtyFourBit,
        Raw::Bytes(_) => WireType::LengthDelimited,
    };
    encode_key(number, wire_type, into);
    if let Raw::Bytes(bytes) = raw {
        encode_varint(bytes.len() as u64, into);
    }
    put_value(raw, into);
}

fn put_value(raw: &Raw, into: &mut Vec<u8>) {
    match raw {
        Raw::Varint(number) => encode_varint(*number, into),
        Raw::Four(number) => into.extend(number.to_le_bytes()),
        Raw::Eight(number) => into.extend(number.to_le_bytes()),
        Raw::Bytes(bytes) => into.extend(bytes),
    }
}
