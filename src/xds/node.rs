//! Who a client says it is.

mod canonical;

use super::wire::{Field, Fields, Value, WireError, Writer};
use crate::breaks;
use bytes::Bytes;
use serde_json::Value as Json;

/// A node as a client stated it. Its fields are claims, not identity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    pub id: String,
    pub cluster: String,
    /// The metadata as JSON; `null` where there is none.
    pub metadata: Json,
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
    pub user_agent_name: String,
    pub client_features: Vec<String>,
    /// Every field but the extensions, as they stood on the wire but for the order
    /// of entries in maps, which means nothing and is sorted here.
    pub head: Bytes,
    /// The extensions as they stood on the wire: 61 kB from every Envoy, and
    /// equal for all of one build, so the owner interns them.
    pub extensions: Bytes,
}

/// A `Node` message as it is presented upstream. Its extensions are apart, so
/// that those who say the same share them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presented {
    pub head: Bytes,
    pub extensions: Bytes,
}

impl Presented {
    pub fn message(&self) -> Bytes {
        [&self.head[..], &self.extensions[..]].concat().into()
    }
}

impl From<Bytes> for Presented {
    fn from(head: Bytes) -> Self {
        Self { head, extensions: Bytes::new() }
    }
}

/// What a node may be at most. Both are flags.
#[derive(Clone, Copy, Debug)]
pub struct NodeLimits {
    /// Size of the metadata on the wire.
    pub metadata_bytes: usize,
    /// Nesting of the metadata.
    pub metadata_depth: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        Self { metadata_bytes: 1 << 20, metadata_depth: 32 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    #[error("node: {0}")]
    Wire(#[from] WireError),
    #[error("node.metadata has {bytes} bytes, more than the limit of {limit}; send less or raise --max-metadata-bytes")]
    MetadataBytes { bytes: usize, limit: usize },
    #[error(
        "node.{field} has {bytes} bytes, more than {most}; a node is named and placed by its id, cluster and locality: send less"
    )]
    TextBytes { field: &'static str, bytes: usize, most: usize },
    #[error("the node has {bytes} bytes beside its metadata, more than {most}; send fewer extensions")]
    OtherBytes { bytes: usize, most: usize },
    #[error("node.metadata is nested deeper than the limit of {limit}; send it flatter or raise --max-metadata-depth")]
    MetadataDepth { limit: usize },
    #[error("node.{0} is stated twice, so that others may read it otherwise than we do; state it once")]
    Twice(&'static str),
}

/// The most bytes of a text that names a node, as of a resource's name.
const TEXT_BYTES: usize = 4096;
/// The most bytes of all that is not metadata. Envoy's extensions are 61 kB.
const OTHER_BYTES: usize = 1 << 20;

mod field {
    pub(super) const ID: u32 = 1;
    pub(super) const CLUSTER: u32 = 2;
    pub(super) const METADATA: u32 = 3;
    pub(super) const LOCALITY: u32 = 4;
    pub(super) const USER_AGENT_NAME: u32 = 6;
    pub(super) const BUILD_VERSION: u32 = 8;
    pub(super) const EXTENSIONS: u32 = 9;
    pub(super) const CLIENT_FEATURES: u32 = 10;
    pub(super) const DYNAMIC_PARAMETERS: u32 = 12;
}

impl Node {
    pub fn read(message: Bytes, limits: NodeLimits) -> Result<Self, NodeError> {
        let mut node = Self::default();
        let mut head = Writer::default();
        let mut extensions = Vec::new();
        let mut parameters = canonical::Parameters::default();
        let mut others = 0;
        let mut once = Once::default();
        for item in Fields::new(message) {
            let item = item?;
            once.of(item.number)?;
            if item.number != field::METADATA {
                others += item.raw.len();
                if others > OTHER_BYTES {
                    return Err(NodeError::OtherBytes { bytes: others, most: OTHER_BYTES });
                }
            }
            match item.number {
                field::EXTENSIONS => extensions.extend_from_slice(&item.raw),
                field::METADATA => {
                    let metadata = item.bytes()?;
                    node.metadata = read_metadata(metadata.clone(), limits)?;
                    head.bytes(field::METADATA, &canonical::structure(metadata)?);
                }
                field::BUILD_VERSION => head.bytes(field::BUILD_VERSION, &canonical::build_version(item.bytes()?)?),
                field::DYNAMIC_PARAMETERS => parameters.add(item.bytes()?)?,
                _ => {
                    head.raw(&item.raw);
                    node.read_field(item)?;
                }
            }
        }
        parameters.write(field::DYNAMIC_PARAMETERS, &mut head);
        // They are kept as long as the node's group: without room to grow.
        node.head = Bytes::copy_from_slice(&head.finish());
        node.extensions = extensions.into_boxed_slice().into();
        Ok(node)
    }

    fn read_field(&mut self, item: Field) -> Result<(), NodeError> {
        match item.number {
            field::ID => self.id = text("id", item)?,
            field::CLUSTER => self.cluster = text("cluster", item)?,
            field::LOCALITY => self.read_locality(item.bytes()?)?,
            field::USER_AGENT_NAME => self.user_agent_name = text("user_agent_name", item)?,
            field::CLIENT_FEATURES => self.client_features.push(item.string()?),
            100.. if breaks::on("C-178") => return Err(WireError::Key.into()),
            _ => {}
        }
        Ok(())
    }

    fn read_locality(&mut self, message: Bytes) -> Result<(), NodeError> {
        for item in Fields::new(message) {
            let item = item?;
            match item.number {
                1 => self.region = text("locality.region", item)?,
                2 => self.zone = text("locality.zone", item)?,
                3 => self.sub_zone = text("locality.sub_zone", item)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// The whole message, every field the client sent included (C-021), to be
    /// presented to an upstream.
    pub fn presented(&self) -> Presented {
        Presented { head: self.head.clone(), extensions: self.extensions.clone() }
    }

    /// Declared `feature`, in any of the spellings in use (C-024): with the
    /// prefix `xds.config.` or `envoy.config.`, with `supports-` or without.
    pub fn declares(&self, feature: &str) -> bool {
        let known = |declared: &&String| !breaks::on("C-024") || declared.starts_with("xds.config.r");
        self.client_features.iter().filter(known).any(|declared| feature_name(declared) == Some(feature))
    }

    /// The declared features that are not about the envelope (C-024): what an
    /// upstream may tailor resources to. Sorted, without duplicates.
    pub fn other_features(&self) -> Vec<&str> {
        let mut others: Vec<_> = self
            .client_features
            .iter()
            .map(String::as_str)
            .filter(|declared| !matches!(feature_name(declared), Some(WRAPPED | HEARTBEATS)))
            .collect();
        others.sort_unstable();
        others.dedup();
        others
    }

    /// The feature of wrapping a resource in SotW (C-024, C-129).
    pub fn takes_wrapped_resources(&self) -> bool {
        self.declares(WRAPPED)
    }

    /// The feature of heartbeats (C-024, C-130).
    pub fn takes_heartbeats(&self) -> bool {
        self.declares(HEARTBEATS)
    }

    /// A text at `path` within the metadata.
    pub fn metadata_text(&self, path: &[&str]) -> Option<&str> {
        path.iter().try_fold(&self.metadata, |value, key| value.get(key))?.as_str()
    }
}

/// A field stated twice is merged by some and replaced by others. What a node
/// claims must be the same to whoever checks it and to whom it is presented.
#[derive(Default)]
struct Once(u32);

impl Once {
    fn of(&mut self, number: u32) -> Result<(), NodeError> {
        let name = match number {
            field::ID => "id",
            field::CLUSTER => "cluster",
            field::METADATA => "metadata",
            field::LOCALITY => "locality",
            field::USER_AGENT_NAME => "user_agent_name",
            _ => return Ok(()),
        };
        let bit = 1 << number;
        let twice = self.0 & bit != 0;
        self.0 |= bit;
        if twice { Err(NodeError::Twice(name)) } else { Ok(()) }
    }
}

fn text(field: &'static str, item: Field) -> Result<String, NodeError> {
    let text = item.string()?;
    if text.len() > TEXT_BYTES {
        return Err(NodeError::TextBytes { field, bytes: text.len(), most: TEXT_BYTES });
    }
    Ok(text)
}

const WRAPPED: &str = "resource-in-sotw";
const HEARTBEATS: &str = "resource-ttl";

fn feature_name(declared: &str) -> Option<&str> {
    let rest = declared.strip_prefix("xds.config.").or_else(|| declared.strip_prefix("envoy.config."))?;
    Some(rest.strip_prefix("supports-").unwrap_or(rest))
}

fn read_metadata(message: Bytes, limits: NodeLimits) -> Result<Json, NodeError> {
    if message.len() > limits.metadata_bytes {
        return Err(NodeError::MetadataBytes { bytes: message.len(), limit: limits.metadata_bytes });
    }
    read_struct(message, limits.metadata_depth, limits)
}

fn read_struct(message: Bytes, depth: usize, limits: NodeLimits) -> Result<Json, NodeError> {
    let Some(below) = depth.checked_sub(1) else {
        return Err(NodeError::MetadataDepth { limit: limits.metadata_depth });
    };
    let mut fields = serde_json::Map::new();
    for item in Fields::new(message) {
        let item = item?;
        if item.number != 1 {
            continue;
        }
        let (mut key, mut value) = (None, None);
        for part in Fields::new(item.bytes()?) {
            let part = part?;
            let twice = match part.number {
                1 => key.replace(part.string()?).is_some(),
                2 => value.replace(read_value(part.bytes()?, below, limits)?).is_some(),
                _ => false,
            };
            if twice {
                return Err(NodeError::Twice("metadata"));
            }
        }
        if fields.insert(key.unwrap_or_default(), value.unwrap_or_default()).is_some() {
            return Err(NodeError::Twice("metadata"));
        }
    }
    Ok(Json::Object(fields))
}

fn read_value(message: Bytes, depth: usize, limits: NodeLimits) -> Result<Json, NodeError> {
    let mut stated = None;
    for item in Fields::new(message) {
        let json = match item? {
            Field { number: 2, value: Value::Fixed64(bits), .. } => f64::from_bits(bits).into(),
            item @ Field { number: 3, .. } => Json::String(item.string()?),
            Field { number: 4, value: Value::Varint(flag), .. } => Json::Bool(flag != 0),
            item @ Field { number: 5, .. } => read_struct(item.bytes()?, depth, limits)?,
            item @ Field { number: 6, .. } => read_list(item.bytes()?, depth, limits)?,
            Field { number: 1, .. } => Json::Null,
            _ => continue,
        };
        if stated.replace(json).is_some() {
            return Err(NodeError::Twice("metadata"));
        }
    }
    Ok(stated.unwrap_or_default())
}

fn read_list(message: Bytes, depth: usize, limits: NodeLimits) -> Result<Json, NodeError> {
    let Some(below) = depth.checked_sub(1) else {
        return Err(NodeError::MetadataDepth { limit: limits.metadata_depth });
    };
    let mut items = Vec::new();
    for item in Fields::new(message) {
        let item = item?;
        if item.number == 1 {
            items.push(read_value(item.bytes()?, below, limits)?);
        }
    }
    Ok(Json::Array(items))
}

/// Writes JSON as the fields of a `google.protobuf.Struct`; what is no object
/// writes nothing.
pub fn write_struct(json: &Json, out: &mut Writer) {
    let Json::Object(fields) = json else { return };
    for (key, value) in fields {
        out.message(1, |entry| {
            entry.string(1, key);
            entry.message(2, |out| write_value(value, out));
        });
    }
}

fn write_value(json: &Json, out: &mut Writer) {
    match json {
        Json::Null => out.raw(&[0x08, 0]),
        Json::Bool(flag) => out.raw(&[0x20, u8::from(*flag)]),
        Json::Number(number) => {
            out.raw(&[0x11]);
            out.raw(&number.as_f64().unwrap_or(f64::NAN).to_le_bytes());
        }
        Json::String(text) => out.bytes(3, text.as_bytes()),
        Json::Object(_) => out.message(5, |out| write_struct(json, out)),
        Json::Array(items) => out.message(6, |out| {
            for item in items {
                out.message(1, |out| write_value(item, out));
            }
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node(metadata: &Json) -> Bytes {
        let mut out = Writer::default();
        out.string(1, "n1");
        out.message(3, |out| write_struct(metadata, out));
        out.string(9, "an extension");
        out.string(10, "xds.config.supports-resource-in-sotw");
        out.string(2047, "unknown");
        out.finish()
    }

    #[test]
    fn reads_what_it_writes_and_keeps_the_rest() {
        let metadata = json!({"NAMESPACE": "shop", "LABELS": {"app": "a"}, "n": [1.5, true, null, "x"]});
        let message = node(&metadata);
        let read = Node::read(message.clone(), NodeLimits::default()).unwrap();
        assert_eq!(read.metadata, metadata);
        assert_eq!(read.metadata_text(&["LABELS", "app"]), Some("a"));
        assert!(read.takes_wrapped_resources());
        assert!(!read.takes_heartbeats());
        assert_eq!(read.presented().message().len(), message.len());
        assert!(read.head.windows(7).any(|window| window == b"unknown"));
    }

    #[test]
    fn the_order_of_entries_in_maps_means_nothing() {
        let entry = |key: &str| {
            let mut out = Writer::default();
            out.string(1, key);
            out.message(2, |value| value.message(1, |entry| entry.string(1, key)));
            out.finish()
        };
        let of = |keys: [&str; 2]| {
            let mut out = Writer::default();
            out.string(1, "n1");
            out.message(3, |map| keys.iter().for_each(|key| map.bytes(1, &entry(key))));
            out.message(8, |version| version.message(2, |map| keys.iter().for_each(|key| map.bytes(1, &entry(key)))));
            keys.iter().for_each(|key| out.bytes(12, &entry(key)));
            out.finish()
        };
        let (one, other) = (of(["a", "b"]), of(["b", "a"]));
        assert_ne!(one, other);
        let read = |message| Node::read(message, NodeLimits::default()).unwrap();
        assert_eq!(read(one).presented(), read(other).presented());
        assert_ne!(read(of(["a", "b"])).presented(), read(of(["a", "c"])).presented());
    }

    #[test]
    fn what_is_beside_the_metadata_is_limited() {
        let limits = NodeLimits::default();
        let of = |field, bytes: usize| {
            let mut out = crate::xds::wire::Writer::default();
            out.string(field, &"x".repeat(bytes));
            Node::read(out.finish(), limits)
        };
        assert_eq!(of(1, 5000), Err(NodeError::TextBytes { field: "id", bytes: 5000, most: 4096 }));
        assert!(of(1, 4096).is_ok() && of(9, 1_000_000).is_ok());
        assert!(matches!(of(9, 1_100_000), Err(NodeError::OtherBytes { .. })));
    }

    /// Protobuf merges a message that is stated twice; we would see the last alone.
    #[test]
    fn what_is_stated_twice_is_refused() {
        let read = |out: Writer| Node::read(out.finish(), NodeLimits::default());
        let twice = |write: &dyn Fn(&mut Writer)| {
            let mut out = Writer::default();
            out.message(3, |out| write(out));
            read(out)
        };
        let bank = json!({"NAMESPACE": "bank"});
        let mut out = Writer::default();
        out.message(3, |out| write_struct(&bank, out));
        out.message(3, |_| ());
        assert_eq!(read(out), Err(NodeError::Twice("metadata")));
        let mut out = Writer::default();
        out.string(1, "a");
        out.string(1, "b");
        assert_eq!(read(out), Err(NodeError::Twice("id")));
        let text = |out: &mut Writer, text: &str| out.message(2, |out| out.bytes(3, text.as_bytes()));
        let entry = |out: &mut Writer, texts: &[&str]| {
            out.message(1, |out| {
                out.string(1, "NAMESPACE");
                texts.iter().for_each(|of| text(out, of));
            });
        };
        assert!(twice(&|out| entry(out, &["bank"])).is_ok());
        assert_eq!(twice(&|out| entry(out, &["bank", "shop"])), Err(NodeError::Twice("metadata")), "a value");
        let keys = twice(&|out| {
            entry(out, &["bank"]);
            entry(out, &["shop"]);
        });
        assert_eq!(keys, Err(NodeError::Twice("metadata")), "a key");
    }

    #[test]
    fn depth_is_limited() {
        let deep = (0..40).fold(json!("x"), |inner, _| json!({"k": inner}));
        let limits = NodeLimits::default();
        assert_eq!(Node::read(node(&deep), limits), Err(NodeError::MetadataDepth { limit: 32 }));
        let deep = (0..40).fold(json!("x"), |inner, _| json!([inner]));
        assert!(Node::read(node(&json!({"k": deep})), limits).is_err());
    }
}
