//! The JSON schema of the configuration file, for editors and for whoever
//! writes such files by program.

use super::print::json;
use super::settings::{Kind, Setting};
use serde_json::{Map, Value, json};

/// JSON Schema 2020-12. It tells the shape; `outpost config validate` tells more.
pub fn schema() -> Value {
    let settings = Setting::all();
    let mut properties = Map::new();
    for setting in &settings {
        let parts: Vec<_> = setting.key.split('.').collect();
        insert(&mut properties, &parts, property(setting, &settings));
    }
    let mut root = section(properties);
    root["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    root["title"] = json!("Configuration of outpost serve");
    root
}

fn insert(properties: &mut Map<String, Value>, parts: &[&str], value: Value) {
    match parts {
        [] => {}
        [name] => {
            properties.insert((*name).to_owned(), value);
        }
        [name, rest @ ..] => {
            let entry = properties.entry((*name).to_owned()).or_insert_with(|| section(Map::new()));
            if let Some(below) = entry.get_mut("properties").and_then(Value::as_object_mut) {
                insert(below, rest, value);
            }
        }
    }
}

/// A section whose keys are all commented out is nothing.
fn section(properties: Map<String, Value>) -> Value {
    json!({ "type": ["object", "null"], "additionalProperties": false, "properties": properties })
}

fn property(setting: &Setting, settings: &[Setting]) -> Value {
    let mut property = match setting.kind {
        Kind::Text | Kind::File | Kind::Directory => json!({ "type": "string" }),
        Kind::Number => json!({ "type": "integer", "minimum": 1 }),
        Kind::Size => {
            json!({ "type": ["integer", "string"], "minimum": 1, "pattern": "^[0-9]+(\\.[0-9]+)?(B|KiB|MiB|GiB)?$" })
        }
        Kind::Span => json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]+)?(ms|s|m|h)$" }),
        Kind::Bool => json!({ "type": "boolean" }),
        Kind::Choice(choices) => json!({ "enum": choices }),
        Kind::Texts => json!({ "type": "array", "items": { "type": "string" } }),
        Kind::Pairs => json!({ "anyOf": [
            { "type": "object", "additionalProperties": { "type": "string" } },
            { "type": "array", "items": { "type": "string", "pattern": "^[^=]+=" } },
        ] }),
        Kind::Rules => json!({ "type": "array", "items": {
            "type": "object",
            "additionalProperties": false,
            "required": ["identity"],
            "properties": {
                "identity": {
                    "type": "string",
                    "minLength": 1,
                    "description": "Whom the rule is for. {name} is a part without /, * any text without /, ** at the end the rest",
                },
                "node": {
                    "type": "object",
                    "additionalProperties": { "type": "string" },
                    "description": "Fields of a node, such as metadata.NAMESPACE, and what they must be where they are stated; {name} of the pattern and * may stand in it",
                },
                "names": {
                    "type": "object",
                    "additionalProperties": { "type": "array", "items": { "type": "string" } },
                    "description": "The names that it may have of a type; of other types it may have all",
                },
            },
        } }),
    };
    let doc = setting.doc_in_file(settings);
    property["description"] = json!(format!("{doc} ({}, {})", setting.flag, setting.env));
    if setting.default.is_empty() {
        let example: Vec<_> = setting.example.iter().map(|&text| text.to_owned()).collect();
        property["examples"] = json!([json(setting.kind, &example)]);
    } else {
        property["default"] = json(setting.kind, &setting.default);
    }
    property
}
