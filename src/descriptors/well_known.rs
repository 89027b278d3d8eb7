//! Messages that JSON has an own form for, read.

use super::number::{Raw, float, scalar};
use super::read::{Reader, put};
use crate::yaml::{Content, Node, Sort};
use prost::Message;
use prost_reflect::MessageDescriptor;
use std::collections::BTreeMap;

/// Seconds that a `Duration` may have: ten thousand years.
const LONGEST: u64 = 315_576_000_000;
/// The years 1 and 9999.
const SPAN: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl Reader {
    pub(super) fn well_known(&mut self, of: &MessageDescriptor, node: &Node) -> Vec<u8> {
        match of.name() {
            "Any" => self.any(node),
            "Struct" => self.structure(node),
            "Value" => self.value(node),
            "ListValue" => self.list_value(node),
            "Empty" => {
                let entries = self.entries("nothing within", node);
                if let Some((_, place, _)) = entries.first() {
                    self.wrong(*place, "expected nothing here, found a key".into());
                }
                Vec::new()
            }
            "Duration" => self.parsed(node, "a span of time such as 1.5s", |text| {
                let span: prost_types::Duration = text.parse().ok()?;
                (text.ends_with('s') && span.seconds.unsigned_abs() <= LONGEST).then(|| span.encode_to_vec())
            }),
            "Timestamp" => self.parsed(node, "a time such as 2026-01-31T12:00:00Z", |text| {
                let at: prost_types::Timestamp = text.parse().ok()?;
                (text.contains('T') && SPAN.contains(&at.seconds)).then(|| at.encode_to_vec())
            }),
            // A wrapper: the value itself.
            _ => {
                let mut bytes = Vec::new();
                let kind = of.get_field(1).map(|field| field.kind());
                match kind.map(|kind| scalar(&kind, node)) {
                    Some(Ok(raw)) if !raw.is_default() => put(1, &raw, &mut bytes),
                    Some(Err(what)) => self.expected(&what, node),
                    _ => {}
                }
                bytes
            }
        }
    }

    fn parsed(&mut self, node: &Node, expected: &str, parse: impl FnOnce(&str) -> Option<Vec<u8>>) -> Vec<u8> {
        let text = match &node.content {
            Content::Scalar { text, plain } if Sort::of(text, *plain) == Sort::Text => Some(text),
            _ => None,
        };
        text.and_then(|text| parse(text)).unwrap_or_else(|| {
            self.expected(expected, node);
            Vec::new()
        })
    }

    fn structure(&mut self, node: &Node) -> Vec<u8> {
        let mut sorted: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
        for (at, (name, _, value)) in self.entries("any keys", node).into_iter().enumerate() {
            let value = self.within(&format!("[{at}]"), |reader| reader.value(value));
            let mut bytes = Vec::new();
            put(1, &Raw::Bytes(name.into()), &mut bytes);
            put(2, &Raw::Bytes(value), &mut bytes);
            sorted.insert(name, bytes);
        }
        let mut bytes = Vec::new();
        sorted.into_values().for_each(|entry| put(1, &Raw::Bytes(entry), &mut bytes));
        bytes
    }

    fn list_value(&mut self, node: &Node) -> Vec<u8> {
        let mut bytes = Vec::new();
        let Content::List(items) = &node.content else {
            self.expected("a list", node);
            return bytes;
        };
        for (at, item) in items.iter().enumerate() {
            let value = self.within(&format!("[{at}]"), |reader| reader.value(item));
            put(1, &Raw::Bytes(value), &mut bytes);
        }
        bytes
    }

    /// Whatever stands there.
    fn value(&mut self, node: &Node) -> Vec<u8> {
        let (number, raw) = match &node.content {
            Content::Map(_) => (5, Raw::Bytes(self.structure(node))),
            Content::List(_) => (6, Raw::Bytes(self.list_value(node))),
            Content::Refused => return Vec::new(),
            Content::Scalar { text, plain } => match Sort::of(text, *plain) {
                Sort::Nothing => (1, Raw::Varint(0)),
                Sort::Bool => (4, Raw::Varint(u64::from(text.eq_ignore_ascii_case("true")))),
                Sort::Text => (3, Raw::Bytes(text.clone().into_bytes())),
                Sort::Number => match float(text) {
                    Some(number) => (2, Raw::Eight(number.to_bits())),
                    None => {
                        self.expected("a number", node);
                        return Vec::new();
                    }
                },
            },
        };
        let mut bytes = Vec::new();
        put(number, &raw, &mut bytes);
        bytes
    }
}
