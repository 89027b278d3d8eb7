//! Maps of a node in one order.
//!
//! Protobuf gives the entries of a map no order, and C++ writes them in another
//! one each time: an Envoy that states its node with every request never states
//! the same bytes twice. So the entries are sorted by key before anybody compares
//! or presents the node; nothing else of it is touched.

use crate::xds::wire::{Fields, WireError, Writer};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Deeper than this a map stays as it is. Metadata that is deeper is refused before.
const DEPTH: usize = 200;

/// The same of a build version, whose depth nothing limits: each level copies
/// what is below it.
const BUILD_DEPTH: usize = 16;

/// What to do with a value of a map.
type Inner = fn(Bytes, usize) -> Result<Bytes, WireError>;

/// A `google.protobuf.Struct`.
pub(super) fn structure(message: Bytes) -> Result<Bytes, WireError> {
    fields(message, DEPTH)
}

/// A `BuildVersion`: the metadata is its field 2.
pub(super) fn build_version(message: Bytes) -> Result<Bytes, WireError> {
    within(message, &[2], fields, BUILD_DEPTH)
}

/// The entries of `Node.dynamic_parameters`, whose values have a map of their own.
#[derive(Debug, Default)]
pub(super) struct Parameters(BTreeMap<Bytes, Bytes>);

impl Parameters {
    pub(super) fn add(&mut self, entry: Bytes) -> Result<(), WireError> {
        let (key, entry) = one(entry, |value, depth| map(value, depth, |text, _| Ok(text)), DEPTH)?;
        self.0.insert(key, entry);
        Ok(())
    }

    pub(super) fn write(&self, number: u32, out: &mut Writer) {
        self.0.values().for_each(|entry| out.bytes(number, entry));
    }
}

fn fields(message: Bytes, depth: usize) -> Result<Bytes, WireError> {
    map(message, depth, value)
}

/// A `google.protobuf.Value`: a struct is its field 5, a list its field 6.
fn value(message: Bytes, depth: usize) -> Result<Bytes, WireError> {
    let list: Inner = |message, depth| within(message, &[1], value, depth);
    within(within(message, &[5], fields, depth)?, &[6], list, depth)
}

/// `message` with the messages in these fields replaced.
fn within(message: Bytes, numbers: &[u32], inner: Inner, depth: usize) -> Result<Bytes, WireError> {
    let mut out = Writer::with_capacity(message.len());
    for item in Fields::new(message) {
        let item = item?;
        if numbers.contains(&item.number) {
            let number = item.number;
            out.bytes(number, &below(item.bytes()?, inner, depth)?);
        } else {
            out.raw(&item.raw);
        }
    }
    Ok(out.finish())
}

/// A message that is nothing but a map, its field 1. Of entries with one key the last counts.
fn map(message: Bytes, depth: usize, inner: Inner) -> Result<Bytes, WireError> {
    let mut out = Writer::with_capacity(message.len());
    let mut entries = BTreeMap::new();
    for item in Fields::new(message) {
        let item = item?;
        if item.number == 1 {
            let (key, entry) = one(item.bytes()?, inner, depth)?;
            entries.insert(key, entry);
        } else {
            out.raw(&item.raw);
        }
    }
    entries.values().for_each(|entry| out.bytes(1, entry));
    Ok(out.finish())
}

/// The key of an entry, and the entry.
fn one(entry: Bytes, inner: Inner, depth: usize) -> Result<(Bytes, Bytes), WireError> {
    let mut key = Bytes::new();
    let mut out = Writer::with_capacity(entry.len());
    for part in Fields::new(entry) {
        let part = part?;
        match part.number {
            1 => key = part.bytes()?,
            2 => out.bytes(2, &below(part.bytes()?, inner, depth)?),
            _ => out.raw(&part.raw),
        }
    }
    let rest = out.finish();
    let mut whole = Writer::with_capacity(key.len() + rest.len() + 4);
    whole.bytes(1, &key);
    whole.raw(&rest);
    Ok((key, whole.finish()))
}

fn below(message: Bytes, inner: Inner, depth: usize) -> Result<Bytes, WireError> {
    match depth.checked_sub(1) {
        Some(depth) => inner(message, depth),
        None => Ok(message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::protobuf::{ListValue, Struct, Value, value::Kind};
    use prost::Message;

    /// A struct whose entries are written in the order given.
    fn ordered(entries: &[(&str, Kind)]) -> Bytes {
        let mut out = Writer::default();
        for (key, kind) in entries {
            let value = Value { kind: Some(kind.clone()) };
            out.message(1, |entry| {
                entry.string(1, key);
                entry.bytes(2, &value.encode_to_vec());
            });
        }
        out.finish()
    }

    fn text(text: &str) -> Kind {
        Kind::StringValue(text.into())
    }

    #[test]
    fn the_order_of_entries_is_one_at_every_depth() {
        let leaf = |entries: &[(&str, Kind)]| Struct::decode(ordered(entries)).unwrap();
        let inner = leaf(&[("x", text("1")), ("y", text("2"))]);
        let list = Kind::ListValue(ListValue { values: vec![Value { kind: Some(Kind::StructValue(inner.clone())) }] });
        let entries = [("b", text("2")), ("a", Kind::StructValue(inner)), ("c", list), ("d", Kind::NumberValue(1.5))];
        let mut back = entries.clone();
        back.reverse();
        let (one, other) = (ordered(&entries), ordered(&back));
        assert_ne!(one, other);
        assert_eq!(structure(one.clone()).unwrap(), structure(other).unwrap());
        let sorted = structure(one.clone()).unwrap();
        assert_eq!(Struct::decode(sorted.clone()).unwrap(), Struct::decode(one).unwrap());
        assert_eq!(structure(sorted.clone()).unwrap(), sorted, "once is enough");
    }

    #[test]
    fn nested_maps_are_sorted_too() {
        // A struct in a struct, by hand, so that the inner order is ours.
        let nest = |inner: Bytes| {
            let mut out = Writer::default();
            out.message(1, |entry| {
                entry.string(1, "k");
                entry.message(2, |value| value.bytes(5, &inner));
            });
            out.finish()
        };
        let (one, other) = ([("a", text("1")), ("b", text("2"))], [("b", text("2")), ("a", text("1"))]);
        let (one, other) = (nest(ordered(&one)), nest(ordered(&other)));
        assert_ne!(one, other);
        assert_eq!(structure(one).unwrap(), structure(other).unwrap());
    }

    /// Both ways of writing the entries `a` and `b`, below `depth` structs.
    fn below_structs(depth: usize) -> [Bytes; 2] {
        let entries = [("a", text("1")), ("b", text("2"))];
        let back = [("b", text("2")), ("a", text("1"))];
        [ordered(&entries), ordered(&back)].map(|inner| {
            (0..depth).fold(inner, |inner, _| {
                let mut out = Writer::default();
                out.message(1, |entry| {
                    entry.string(1, "k");
                    entry.message(2, |value| value.bytes(5, &inner));
                });
                out.finish()
            })
        })
    }

    #[test]
    fn a_build_version_costs_no_more_than_its_first_levels() {
        let version = |metadata: &Bytes| {
            let mut out = Writer::default();
            out.bytes(2, metadata);
            build_version(out.finish()).unwrap()
        };
        for (depth, sorted) in [(0, true), (5, true), (20, false), (2_000, false)] {
            let [one, other] = below_structs(depth);
            assert_eq!(version(&one) == version(&other), sorted, "{depth}");
        }
    }

    #[test]
    fn what_it_does_not_know_stays() {
        let mut message = Writer::default();
        message.string(7, "unknown");
        message.message(1, |entry| {
            entry.string(2, "");
            entry.string(1, "key after value");
            entry.string(9, "also unknown");
        });
        let sorted = structure(message.finish()).unwrap();
        for part in ["unknown", "key after value", "also unknown"] {
            assert!(sorted.windows(part.len()).any(|window| window == part.as_bytes()), "{part}");
        }
        assert!(structure(Bytes::from_static(&[0x0a, 0xff])).is_err());
    }
}
