//! What is sensitive is taken out of a decoded copy.
//!
//! Below a sensitive field, text and bytes become [`REDACTED`] and everything
//! else goes. The Envoy API annotates fields; what has no annotations because
//! its type is not known is not shown at all.

use super::show::{structure, unparsed};
use super::{
    DEEPEST, REDACTED, field_called, is_sensitive, is_typed_struct, is_well_known, message, message_of, parts_of_any,
    text_field,
};
use bytes::Bytes;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MessageDescriptor, ReflectMessage, Value};
use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;

/// The message without what is sensitive, as bytes for those who decode them
/// again. Of a type that is not known nothing is left.
pub fn redact(type_url: &str, value: &[u8]) -> Vec<u8> {
    any(type_url, value, false, 0)
}

fn any(type_url: &str, value: &[u8], sensitive: bool, depth: usize) -> Vec<u8> {
    let found = message(type_url).filter(|_| depth < DEEPEST);
    let Some(mut message) = found.and_then(|message| DynamicMessage::decode(message, value).ok()) else {
        return Vec::new();
    };
    within(&mut message, sensitive, depth + 1);
    message.encode_to_vec()
}

fn within(message: &mut DynamicMessage, sensitive: bool, depth: usize) {
    let descriptor = message.descriptor();
    // Nobody says what they are.
    message.take_unknown_fields().for_each(drop);
    if depth > DEEPEST {
        *message = DynamicMessage::new(descriptor);
        return;
    }
    if descriptor.full_name() == "google.protobuf.Any" {
        let (type_url, value) = parts_of_any(message);
        message.set_field_by_name("value", Value::Bytes(any(&type_url, &value, sensitive, depth).into()));
        return;
    }
    if is_typed_struct(&descriptor) && !sensitive {
        redact_struct(message);
        return;
    }
    for field in message.fields().map(|(field, _)| field).collect::<Vec<_>>() {
        let sensitive = sensitive || is_sensitive(&field);
        let empties = sensitive && !keeps(&field);
        if empties {
            message.clear_field(&field);
        } else {
            value(message.get_field_mut(&field), sensitive, depth);
        }
    }
}

/// May the field stay below something sensitive, with other content? A map may
/// not: its keys say too much. Nor may a number.
fn keeps(field: &FieldDescriptor) -> bool {
    !field.is_map() && matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message(_))
}

fn value(value: &mut Value, sensitive: bool, depth: usize) {
    match value {
        Value::Message(message) => within(message, sensitive, depth + 1),
        Value::List(items) => items.iter_mut().for_each(|item| self::value(item, sensitive, depth)),
        Value::Map(entries) => entries.values_mut().for_each(|entry| self::value(entry, sensitive, depth)),
        Value::String(text) if sensitive => *text = REDACTED.into(),
        Value::Bytes(bytes) if sensitive => *bytes = Bytes::from_static(REDACTED.as_bytes()),
        _ => {}
    }
}

/// A `TypedStruct`: its JSON by the descriptors of the type that it names, or
/// nothing of it.
fn redact_struct(message: &mut DynamicMessage) {
    let shown = match typed_struct(message) {
        Json::Object(fields) if !fields.contains_key("@unparsed") => Json::Object(fields),
        _ => json!({}),
    };
    let Some(field) = message.descriptor().get_field_by_name("value") else { return };
    if let (Value::Message(inner), Json::Object(fields)) = (message.get_field_mut(&field), shown) {
        *inner = to_struct(&inner.descriptor(), fields);
    }
}

/// The `value` of a `TypedStruct` without what is sensitive.
pub(super) fn typed_struct(message: &DynamicMessage) -> Json {
    let type_url = text_field(message, "type_url").unwrap_or_default();
    let value = message.get_field_by_name("value");
    let Some(Value::Message(value)) = value.as_deref() else { return json!({}) };
    match super::message(&type_url) {
        Some(of) => json_of(&of, structure(value), 0),
        None => json!({ "@unparsed": unparsed(&value.encode_to_vec()) }),
    }
}

/// JSON that stands for a message of the type `of`.
fn json_of(of: &MessageDescriptor, json: Json, depth: usize) -> Json {
    match of.name() {
        // Nobody says what is in them.
        "Struct" | "Value" | "ListValue" if is_well_known(of) => return json,
        "Any" => {}
        _ if is_well_known(of) => return scalar(json),
        _ => {}
    }
    let Json::Object(fields) = json else { return REDACTED.into() };
    if depth > DEEPEST {
        return REDACTED.into();
    }
    if is_typed_struct(of) {
        return typed_json(fields, depth);
    }
    if is_well_known(of) {
        return any_json(fields, depth);
    }
    let shown = fields.into_iter().map(|(name, json)| {
        let json = match field_called(of, &name) {
            Some(field) if !is_sensitive(&field) => field_json(&field, json, depth + 1),
            // Nobody says that it may be shown.
            _ => REDACTED.into(),
        };
        (name, json)
    });
    shown.collect::<Map<_, _>>().into()
}

fn field_json(field: &FieldDescriptor, json: Json, depth: usize) -> Json {
    let of = message_of(field);
    let one = |json| match &of {
        Some(of) => json_of(of, json, depth),
        None => scalar(json),
    };
    match json {
        Json::Array(items) if field.is_list() => items.into_iter().map(one).collect::<Vec<_>>().into(),
        Json::Object(entries) if field.is_map() => {
            entries.into_iter().map(|(key, value)| (key, one(value))).collect::<Map<_, _>>().into()
        }
        _ if field.is_map() => REDACTED.into(),
        single => one(single),
    }
}

/// Of what has no fields. What has some in its place is described by nobody.
fn scalar(json: Json) -> Json {
    if json.is_object() || json.is_array() { REDACTED.into() } else { json }
}

/// An `Any` in JSON.
fn any_json(mut fields: Map<String, Json>, depth: usize) -> Json {
    let Some(Json::String(type_url)) = fields.remove("@type") else { return REDACTED.into() };
    let mut shown = match super::message(&type_url) {
        Some(of) if is_well_known(&of) => {
            let value = fields.remove("value").unwrap_or_default();
            Map::from_iter([("value".into(), json_of(&of, value, depth + 1))])
        }
        Some(of) => match json_of(&of, fields.into(), depth + 1) {
            Json::Object(shown) => shown,
            other => Map::from_iter([("value".into(), other)]),
        },
        None => Map::from_iter([("value".into(), REDACTED.into())]),
    };
    shown.insert("@type".into(), type_url.into());
    shown.into()
}

/// A `TypedStruct` in JSON.
fn typed_json(mut fields: Map<String, Json>, depth: usize) -> Json {
    let named = fields.remove("type_url").or_else(|| fields.remove("typeUrl"));
    let Some(Json::String(type_url)) = named else { return REDACTED.into() };
    let value = fields.remove("value").unwrap_or_default();
    let value = super::message(&type_url).map_or_else(|| REDACTED.into(), |of| json_of(&of, value, depth + 1));
    json!({ "type_url": type_url, "value": value })
}

/// JSON as a `Struct`.
fn to_struct(of: &MessageDescriptor, fields: Map<String, Json>) -> DynamicMessage {
    let mut made = DynamicMessage::new(of.clone());
    let value = of.get_field_by_name("fields").as_ref().and_then(message_of);
    if let Some(value) = value {
        let fields = fields
            .into_iter()
            .map(|(key, json)| (prost_reflect::MapKey::String(key), Value::Message(to_value(&value, json))));
        made.set_field_by_name("fields", Value::Map(fields.collect::<HashMap<_, _>>()));
    }
    made
}

fn to_value(of: &MessageDescriptor, json: Json) -> DynamicMessage {
    let mut made = DynamicMessage::new(of.clone());
    let inner = |name: &str| of.get_field_by_name(name).as_ref().and_then(message_of);
    let (name, value) = match json {
        Json::Null => ("null_value", Some(Value::EnumNumber(0))),
        Json::Bool(is) => ("bool_value", Some(Value::Bool(is))),
        Json::Number(number) => ("number_value", Some(Value::F64(number.as_f64().unwrap_or_default()))),
        Json::String(text) => ("string_value", Some(Value::String(text))),
        Json::Object(fields) => {
            ("struct_value", inner("struct_value").map(|of| Value::Message(to_struct(&of, fields))))
        }
        Json::Array(items) => ("list_value", inner("list_value").map(|list| Value::Message(to_list(&list, of, items)))),
    };
    if let Some(value) = value {
        made.set_field_by_name(name, value);
    }
    made
}

fn to_list(list: &MessageDescriptor, of: &MessageDescriptor, items: Vec<Json>) -> DynamicMessage {
    let mut made = DynamicMessage::new(list.clone());
    let items = items.into_iter().map(|item| Value::Message(to_value(of, item))).collect();
    made.set_field_by_name("values", Value::List(items));
    made
}
