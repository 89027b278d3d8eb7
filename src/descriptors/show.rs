//! From bytes to JSON.
//!
//! ```text
//! {"@type": "type.googleapis.com/…", "name": "a", …}
//! {"@type": "type.googleapis.com/…", "@unparsed": {"length": 17, "hash": "<BLAKE3>"}}
//! {…, "@unknown": [{"field": 99, "length": 12}]}
//! ```

use super::{DEEPEST, REDACTED, is_sensitive, is_typed_struct, is_well_known, message, parts_of_any, redact};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, ReflectMessage, Value};
use serde_json::{Map, Number, Value as Json, json};

/// The message in JSON, as an `Any` is: with its `@type`. Never an error: what
/// cannot be decoded is shown by length and hash.
///
/// Keys and passwords are in it: [`to_redacted_json`] is for people and logs.
pub fn to_json(type_url: &str, value: &[u8]) -> Json {
    Show { redacts: false }.any(type_url, value, Within::default())
}

/// The same without what is sensitive: [`REDACTED`] stands in the place of each
/// text and of bytes (in base64, as Envoy shows it), other values are left out.
pub fn to_redacted_json(type_url: &str, value: &[u8]) -> Json {
    Show { redacts: true }.any(type_url, value, Within::default())
}

/// Length and hash of what is not shown.
pub(super) fn unparsed(value: &[u8]) -> Json {
    json!({ "length": value.len(), "hash": blake3::hash(value).to_hex().as_str() })
}

/// Where in a message something is.
#[derive(Clone, Copy, Default)]
struct Within {
    depth: usize,
    /// A field around it is sensitive.
    sensitive: bool,
}

impl Within {
    fn deeper(self) -> Self {
        Self { depth: self.depth + 1, ..self }
    }
}

struct Show {
    redacts: bool,
}

impl Show {
    fn any(&self, type_url: &str, value: &[u8], at: Within) -> Json {
        let mut shown = Map::new();
        shown.insert("@type".into(), type_url.into());
        let found = message(type_url).filter(|_| at.depth < DEEPEST);
        let Some(message) = found.and_then(|message| DynamicMessage::decode(message, value).ok()) else {
            // A hash of something short tells what it is.
            let what = if at.sensitive { REDACTED.into() } else { unparsed(value) };
            shown.insert("@unparsed".into(), what);
            return shown.into();
        };
        match self.message(&message, at.deeper()) {
            Json::Object(fields) if !is_well_known(&message.descriptor()) => shown.extend(fields),
            other => drop(shown.insert("value".into(), other)),
        }
        shown.into()
    }

    fn message(&self, message: &DynamicMessage, at: Within) -> Json {
        let descriptor = message.descriptor();
        if at.depth > DEEPEST {
            let what = if at.sensitive { REDACTED.into() } else { unparsed(&message.encode_to_vec()) };
            return json!({ "@unparsed": what });
        }
        if is_well_known(&descriptor) {
            return self.well_known(message, at);
        }
        let mut shown = Map::new();
        for (field, value) in message.fields() {
            let sensitive = self.redacts && (at.sensitive || is_sensitive(&field));
            if self.redacts && !sensitive && is_typed_struct(&descriptor) && field.name() == "value" {
                shown.insert(field.name().into(), redact::typed_struct(message));
            } else if let Some(value) = self.value(&field, value, Within { sensitive, ..at }) {
                shown.insert(field.name().into(), value);
            }
        }
        let unknown: Vec<_> = message
            .unknown_fields()
            .map(|field| json!({ "field": field.number(), "length": field.encoded_len() }))
            .collect();
        if !unknown.is_empty() {
            shown.insert("@unknown".into(), unknown.into());
        }
        shown.into()
    }

    /// `None` where nothing of it may be shown.
    fn value(&self, field: &FieldDescriptor, value: &Value, at: Within) -> Option<Json> {
        match (value, field.kind()) {
            (Value::List(items), kind) => {
                Some(items.iter().filter_map(|item| self.single(&kind, item, at)).collect::<Vec<_>>().into())
            }
            (Value::Map(_), _) if at.sensitive => Some(json!({})),
            (Value::Map(entries), Kind::Message(entry)) => {
                let kind = entry.map_entry_value_field().kind();
                let shown = entries.iter().filter_map(|(key, value)| Some((text(key), self.single(&kind, value, at)?)));
                Some(shown.collect::<Map<_, _>>().into())
            }
            (single, kind) => self.single(&kind, single, at),
        }
    }

    fn single(&self, kind: &Kind, value: &Value, at: Within) -> Option<Json> {
        Some(match value {
            Value::Message(message) => self.message(message, at.deeper()),
            Value::String(_) if at.sensitive => REDACTED.into(),
            Value::Bytes(_) if at.sensitive => STANDARD.encode(REDACTED).into(),
            _ if at.sensitive => return None,
            Value::Bool(is) => (*is).into(),
            Value::I32(number) => (*number).into(),
            Value::U32(number) => (*number).into(),
            Value::I64(number) => number.to_string().into(),
            Value::U64(number) => number.to_string().into(),
            Value::F32(number) => float(f64::from(*number), number.to_string().parse().ok()),
            Value::F64(number) => float(*number, Some(*number)),
            Value::String(text) => text.as_str().into(),
            Value::Bytes(bytes) => STANDARD.encode(bytes).into(),
            Value::EnumNumber(number) => match kind.as_enum() {
                Some(of) if of.full_name() == "google.protobuf.NullValue" => Json::Null,
                Some(of) => of.get_value(*number).map_or_else(|| (*number).into(), |value| value.name().into()),
                None => (*number).into(),
            },
            Value::List(_) | Value::Map(_) => return None,
        })
    }

    fn well_known(&self, message: &DynamicMessage, at: Within) -> Json {
        let descriptor = message.descriptor();
        match descriptor.name() {
            "Any" => {
                let (type_url, value) = parts_of_any(message);
                if type_url.is_empty() && value.is_empty() { json!({}) } else { self.any(&type_url, &value, at) }
            }
            "Empty" => json!({}),
            "Struct" | "Value" | "ListValue" if at.sensitive => REDACTED.into(),
            "Struct" | "Value" | "ListValue" => structure(message),
            "Timestamp" | "Duration" if at.sensitive => REDACTED.into(),
            "Timestamp" => {
                message.transcode_to::<prost_types::Timestamp>().map_or(Json::Null, |at| at.to_string().into())
            }
            "Duration" => {
                message.transcode_to::<prost_types::Duration>().map_or(Json::Null, |span| span.to_string().into())
            }
            // A wrapper: its value, or the default.
            _ => match descriptor.get_field(1) {
                Some(field) => self.single(&field.kind(), &message.get_field(&field), at).unwrap_or(Json::Null),
                None => Json::Null,
            },
        }
    }
}

/// A `Struct`, `Value` or `ListValue`: what it stands for.
pub(super) fn structure(message: &DynamicMessage) -> Json {
    let mut fields = message.fields();
    match message.descriptor().name() {
        "Struct" => match fields.next().and_then(|(_, fields)| fields.as_map()) {
            Some(entries) => {
                entries.iter().map(|(key, value)| (text(key), of_value(value))).collect::<Map<_, _>>().into()
            }
            None => json!({}),
        },
        "ListValue" => match fields.next().and_then(|(_, items)| items.as_list()) {
            Some(items) => items.iter().map(of_value).collect::<Vec<_>>().into(),
            None => json!([]),
        },
        _ => fields.next().map_or(Json::Null, |(_, kind)| of_value(kind)),
    }
}

fn of_value(value: &Value) -> Json {
    match value {
        Value::Message(message) => structure(message),
        Value::Bool(is) => (*is).into(),
        Value::F64(number) => float(*number, Some(*number)),
        Value::String(text) => text.as_str().into(),
        _ => Json::Null,
    }
}

/// `shortest` has no more digits than the number needs.
fn float(number: f64, shortest: Option<f64>) -> Json {
    if number.is_nan() {
        return "NaN".into();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    Number::from_f64(shortest.unwrap_or(number)).map_or(Json::Null, Json::Number)
}

fn text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(is) => is.to_string(),
        MapKey::I32(number) => number.to_string(),
        MapKey::I64(number) => number.to_string(),
        MapKey::U32(number) => number.to_string(),
        MapKey::U64(number) => number.to_string(),
        MapKey::String(text) => text.clone(),
    }
}
