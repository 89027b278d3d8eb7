//! Which fields of a JSON value are wanted: paths of names, as Envoy takes them
//! in `mask=`.

use super::{List, OTHERS};
use crate::descriptors;
use crate::xds::TypeUrl;
use prost_reflect::{Kind, MessageDescriptor};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Paths as a tree; a field without any below it is wanted whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mask(BTreeMap<String, Mask>);

/// Names in one path: no message is looked into deeper, and the tree is let go by
/// recursion.
const DEEPEST: usize = 32;

impl Mask {
    /// `cluster.name,version_info`
    pub fn read(text: &str) -> Result<Self, String> {
        let mut mask = Self::default();
        for path in text.split(',') {
            if path.split('.').count() > DEEPEST {
                return Err(format!("a path of mask= has more than {DEEPEST} names; name a field less deep"));
            }
            let mut at = &mut mask;
            for name in path.split('.') {
                let fits = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
                if !fits {
                    return Err(format!("mask={text}: {path:?} is no path of fields, such as cluster.name"));
                }
                at = at.0.entry(name.to_owned()).or_default();
            }
        }
        Ok(mask)
    }

    /// The fields of what is within `name`: `None` where it is not wanted at all.
    pub fn within(&self, name: &str) -> Option<&Self> {
        if self.0.is_empty() { Some(self) } else { self.0.get(name) }
    }

    /// What of `value` is wanted; of a list, of each item. The type of a message
    /// stays.
    pub fn apply(&self, value: Value) -> Value {
        if self.0.is_empty() {
            return value;
        }
        match value {
            Value::Object(fields) => {
                let wanted = |(name, value): (String, Value)| {
                    if name == "@type" {
                        return Some((name, value));
                    }
                    let value = self.0.get(&name)?.apply(value);
                    Some((name, value))
                };
                Value::Object(fields.into_iter().filter_map(wanted).collect::<Map<_, _>>())
            }
            Value::Array(items) => items.into_iter().map(|item| self.apply(item)).collect(),
            other => other,
        }
    }
}

/// Does each path of `text` name a field that one of `lists` can have? Below what may
/// hold any message every path may.
pub fn known(text: &str, lists: &[&List], of_items: bool) -> Result<(), String> {
    for path in text.split(',') {
        let names: Vec<_> = path.split('.').collect();
        let ours = matches!(names[..], ["@type" | "group" | "node"]);
        if !ours && !lists.iter().any(|list| list.has(&names, of_items)) {
            let hint = if of_items {
                ""
            } else {
                "; without resource= a path begins with a list, such as dynamic_active_clusters.cluster.name"
            };
            return Err(format!("mask={text}: {path:?} is no field of what is asked for{hint}"));
        }
    }
    Ok(())
}

impl List {
    fn has(&self, names: &[&str], of_items: bool) -> bool {
        let package = if *self == OTHERS { "envoy.service.status.v3" } else { "envoy.admin.v3" };
        let item = if of_items { format!(".{}", self.item) } else { String::new() };
        let message = descriptors::message(&format!("{package}.{}{item}", self.section));
        message.is_none_or(|message| self.reaches(&message, names))
    }

    /// Is there a field of that path in `message`, as far as can be told?
    fn reaches(&self, message: &MessageDescriptor, names: &[&str]) -> bool {
        let [name, below @ ..] = names else { return true };
        let Some(field) = message.get_field_by_name(name) else { return false };
        if below.is_empty() || field.is_map() {
            return true;
        }
        let Kind::Message(within) = field.kind() else { return false };
        if within.full_name() == "google.protobuf.Any" && field.name() == self.content {
            let content = TypeUrl::from_short(self.short).and_then(|url| descriptors::message(url.as_str()));
            return content.is_none_or(|content| self.reaches(&content, below));
        }
        // These have a form of their own in JSON.
        within.package_name() == "google.protobuf" || self.reaches(&within, below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_are_kept_through_lists() {
        let value = json!({"@type": "t", "a": {"b": 1, "c": 2}, "d": [{"e": 1, "f": 2}, {"f": 3}], "g": 4});
        let table = [
            ("a", json!({"@type": "t", "a": {"b": 1, "c": 2}})),
            ("a.b,g", json!({"@type": "t", "a": {"b": 1}, "g": 4})),
            ("d.f", json!({"@type": "t", "d": [{"f": 2}, {"f": 3}]})),
            ("x.y", json!({"@type": "t"})),
        ];
        for (mask, want) in table {
            assert_eq!(Mask::read(mask).unwrap().apply(value.clone()), want, "{mask}");
        }
        for bad in ["", "a.", ".a", "a,,b", "a b", "a.*"] {
            assert!(Mask::read(bad).is_err(), "{bad:?}");
        }
    }
}
