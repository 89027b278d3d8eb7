//! What the messages of the Envoy v3 API look like, for whatever reads and
//! shows them as JSON. The relay's own path never does: bytes pass through
//! untouched (C-021).
//!
//! * [`to_json`]: bytes → JSON, every [`Any`](message) within expanded
//! * [`to_redacted_json`], [`redact()`]: the same, and bytes again, without what
//!   is annotated as sensitive, at any depth. Both work on a decoded copy
//! * [`from_json`], `read`: JSON or YAML → bytes, with everything that is
//!   wrong by path and place
//!
//! JSON is that of proto3 with the fields named as in Envoy's documentation and
//! its `config_dump`: `connect_timeout`. Both spellings are read.
//!
//! What is not known does not end anything: a message of an unknown type, or
//! one that cannot be decoded, is shown as [length and hash](show); unknown
//! fields by their numbers.
//!
//! Promise: what is read from equal text has equal bytes, in every process.

mod number;
mod read;
mod redact;
mod show;
#[cfg(test)]
mod tests;
mod well_known;

pub use read::{Encoded, Wrong, Wrongs, from_json};
pub use redact::redact;
pub use show::{to_json, to_redacted_json};

pub(crate) use read::{meant, read};

use flate2::read::GzDecoder;
use prost_reflect::{DescriptorPool, DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, Value};
use std::collections::HashSet;
use std::io::Read;
use std::sync::LazyLock;

/// What stands in the place of what is sensitive.
pub const REDACTED: &str = "[redacted]";

/// Messages within messages, all `Any`s counted; deeper ones are not expanded.
/// A response could nest them without end.
const DEEPEST: usize = 150;

/// A set of descriptors, compressed: see `build.rs`.
static SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/envoy_descriptors.bin.gz"));

static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    let mut set = Vec::new();
    let pool = GzDecoder::new(SET).read_to_end(&mut set).ok().and_then(|_| DescriptorPool::decode(&*set).ok());
    // It is a part of this program, and a test reads it.
    pool.unwrap_or_default()
});

/// Full names of the fields that are annotated.
static SENSITIVE: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let Some(annotation) = POOL.get_extension_by_name("udpa.annotations.sensitive") else { return HashSet::new() };
    let is_annotated = |field: &FieldDescriptor| *field.options().get_extension(&annotation) == Value::Bool(true);
    let fields = POOL.all_messages().flat_map(|message| message.fields().collect::<Vec<_>>());
    fields.filter(is_annotated).map(|field| field.full_name().to_owned()).collect()
});

/// Every message of the Envoy v3 API and of what it imports. Loaded when it is
/// first needed: some 50 ms and 20 MB.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// The message that an `Any` with this `type_url` holds.
pub fn message(type_url: &str) -> Option<MessageDescriptor> {
    POOL.get_message_by_name(type_url.rsplit('/').next()?)
}

/// Is the field annotated as sensitive: a key, a password, a token?
pub fn is_sensitive(field: &FieldDescriptor) -> bool {
    SENSITIVE.contains(field.full_name())
}

/// The text of a field, where the message has a field of that name that is text:
/// a resource's name, for example.
pub fn text_field(message: &DynamicMessage, name: &str) -> Option<String> {
    message.get_field_by_name(name)?.as_str().map(str::to_owned)
}

/// What messages with an own form in JSON are.
fn is_well_known(message: &MessageDescriptor) -> bool {
    message.package_name() == "google.protobuf"
        && matches!(
            message.name(),
            "Any"
                | "Timestamp"
                | "Duration"
                | "Struct"
                | "Value"
                | "ListValue"
                | "Empty"
                | "DoubleValue"
                | "FloatValue"
                | "Int64Value"
                | "UInt64Value"
                | "Int32Value"
                | "UInt32Value"
                | "BoolValue"
                | "StringValue"
                | "BytesValue"
        )
}

/// A type named by text with its fields as JSON within: `type_url` and `value`.
fn is_typed_struct(message: &MessageDescriptor) -> bool {
    matches!(message.full_name(), "xds.type.v3.TypedStruct" | "udpa.type.v1.TypedStruct")
}

/// The two fields of an `Any`.
fn parts_of_any(any: &DynamicMessage) -> (String, bytes::Bytes) {
    let type_url = text_field(any, "type_url").unwrap_or_default();
    let value = any.get_field_by_name("value").and_then(|value| value.as_bytes().cloned());
    (type_url, value.unwrap_or_default())
}

/// The field that JSON calls so: by its own name, or in lower camel case.
fn field_called(message: &MessageDescriptor, name: &str) -> Option<FieldDescriptor> {
    message.get_field_by_name(name).or_else(|| message.get_field_by_json_name(name))
}

/// The message that a field holds, if it holds messages: of a map, its values.
fn message_of(field: &FieldDescriptor) -> Option<MessageDescriptor> {
    match field.kind() {
        Kind::Message(entry) if field.is_map() => match entry.map_entry_value_field().kind() {
            Kind::Message(value) => Some(value),
            _ => None,
        },
        Kind::Message(message) => Some(message),
        _ => None,
    }
}
