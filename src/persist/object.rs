//! What a data file is made of: blobs, and the pieces of trees.
//!
//! ```text
//! blob    type URL, value                                    named by its own id
//! leaf    0, entries: name, body, attributes                 named by its piece's id, and
//! branch  1, pieces below: id, place, length, sum              checked by the sum of its bytes
//! ```
//!
//! A piece says where those below stand, so that a group is read from its roots and
//! nothing else is looked at.

use super::wire::{Malformed, Put, Reader};
use crate::content::entry::Attributes;
use crate::content::{Body, Entry};
use crate::xds::{Name, Status};
use bytes::Bytes;
use std::time::Duration;

/// Where something stands in a data file, and its sum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    pub(super) at: u64,
    pub(super) len: u32,
    /// The first half of the BLAKE3 hash of what is there, before it is closed.
    pub(super) sum: [u8; 16],
}

/// That of a blob is its id.
pub(super) const NO_SUM: [u8; 16] = [0; 16];

/// A piece or a blob: what it is and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) id: [u8; 32],
    pub(super) spot: Spot,
}

#[derive(Debug, PartialEq)]
pub(super) enum Node {
    Leaf(Vec<Record>),
    Branch(Vec<Link>),
}

/// An entry, with its blob by reference.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    pub(super) name: Name,
    pub(super) body: RecordBody,
    pub(super) attributes: Attributes,
}

#[derive(Debug, PartialEq)]
pub(super) enum RecordBody {
    Blob(Link),
    Empty,
    Absent,
    Expired,
    Error(Status),
}

impl Record {
    /// `blob` is where that of the entry stands.
    pub(super) fn of(entry: &Entry, blob: Option<Link>) -> Option<Self> {
        let body = match entry.body() {
            Body::Resource(_) => RecordBody::Blob(blob?),
            Body::Empty => RecordBody::Empty,
            Body::Absent => RecordBody::Absent,
            Body::Expired => RecordBody::Expired,
            Body::Error(status) => RecordBody::Error(status.clone()),
        };
        Some(Self { name: entry.name().clone(), body, attributes: entry.attributes().clone() })
    }

    fn put(&self, into: &mut Vec<u8>) {
        into.bytes(self.name.as_bytes());
        match &self.body {
            RecordBody::Blob(link) => {
                into.push(0);
                into.raw(&link.id);
                into.number(link.spot.at);
                into.number(link.spot.len.into());
            }
            RecordBody::Empty => into.push(1),
            RecordBody::Absent => into.push(2),
            RecordBody::Expired => into.push(3),
            RecordBody::Error(status) => {
                into.push(4);
                into.raw(&status.code.to_le_bytes());
                into.bytes(status.message.as_bytes());
            }
        }
        let Attributes { aliases, ttl, do_not_cache, constraints, extra } = &self.attributes;
        let given = [!aliases.is_empty(), ttl.is_some(), *do_not_cache, constraints.is_some(), !extra.is_empty()];
        into.push(given.iter().rev().fold(0, |bits, given| bits << 1 | u8::from(*given)));
        if !aliases.is_empty() {
            into.number(aliases.len() as u64);
            aliases.iter().for_each(|alias| into.bytes(alias.as_bytes()));
        }
        if let Some(ttl) = ttl {
            into.number(ttl.as_secs());
            into.number(ttl.subsec_nanos().into());
        }
        constraints.iter().for_each(|constraints| into.bytes(constraints));
        if !extra.is_empty() {
            into.bytes(extra);
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, Malformed> {
        let name = from.text()?.into();
        let body = match from.byte()? {
            0 => {
                let id = from.array()?;
                RecordBody::Blob(Link { id, spot: spot(from, NO_SUM)? })
            }
            1 => RecordBody::Empty,
            2 => RecordBody::Absent,
            3 => RecordBody::Expired,
            4 => RecordBody::Error(Status::new(i32::from_le_bytes(from.array()?), from.text()?)),
            _ => return Err(Malformed),
        };
        let given = from.byte()?;
        let is = |bit: u8| given >> bit & 1 == 1;
        let mut attributes = Attributes { do_not_cache: is(2), ..Attributes::default() };
        if is(0) {
            let count = from.count()?;
            attributes.aliases = (0..count).map(|_| from.text().map(Name::from)).collect::<Result<_, _>>()?;
        }
        if is(1) {
            let (seconds, nanos) = (from.number()?, u32::try_from(from.number()?).map_err(|_| Malformed)?);
            attributes.ttl = Some(Duration::from_secs(seconds) + Duration::from_nanos(nanos.into()));
        }
        if is(3) {
            attributes.constraints = Some(Bytes::copy_from_slice(from.bytes()?));
        }
        if is(4) {
            attributes.extra = Bytes::copy_from_slice(from.bytes()?);
        }
        Ok(Self { name, body, attributes })
    }
}

impl Node {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1024);
        match self {
            Self::Leaf(records) => {
                bytes.push(0);
                bytes.number(records.len() as u64);
                records.iter().for_each(|record| record.put(&mut bytes));
            }
            Self::Branch(links) => {
                bytes.push(1);
                bytes.number(links.len() as u64);
                links.iter().for_each(|link| put_link(&mut bytes, link));
            }
        }
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader(bytes);
        let kind = reader.byte()?;
        let count = reader.count()?;
        let node = match kind {
            0 => Self::Leaf((0..count).map(|_| Record::read(&mut reader)).collect::<Result<_, _>>()?),
            1 => Self::Branch((0..count).map(|_| read_link(&mut reader)).collect::<Result<_, _>>()?),
            _ => return Err(Malformed),
        };
        reader.end()?;
        Ok(node)
    }
}

pub(super) fn put_link(into: &mut Vec<u8>, link: &Link) {
    into.raw(&link.id);
    into.raw(&link.spot.sum);
    into.number(link.spot.at);
    into.number(link.spot.len.into());
}

pub(super) fn read_link(from: &mut Reader<'_>) -> Result<Link, Malformed> {
    let (id, sum) = (from.array()?, from.array()?);
    Ok(Link { id, spot: spot(from, sum)? })
}

fn spot(from: &mut Reader<'_>, sum: [u8; 16]) -> Result<Spot, Malformed> {
    let at = from.number()?;
    let len = u32::try_from(from.number()?).map_err(|_| Malformed)?;
    Ok(Spot { at, len, sum })
}

pub(super) fn sum(bytes: &[u8]) -> [u8; 16] {
    let mut sum = [0; 16];
    sum.iter_mut().zip(blake3::hash(bytes).as_bytes()).for_each(|(to, byte)| *to = *byte);
    sum
}

pub(super) fn encode_blob(type_url: &str, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(type_url.len() + value.len() + 16);
    bytes.bytes(type_url.as_bytes());
    bytes.raw(value);
    bytes
}

/// Type URL and value.
pub(super) fn decode_blob(bytes: &[u8]) -> Result<(&str, &[u8]), Malformed> {
    let mut reader = Reader(bytes);
    let type_url = reader.text()?;
    Ok((type_url, reader.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn link(seed: u8) -> Link {
        Link { id: [seed; 32], spot: Spot { at: u64::from(seed) << 40, len: 7, sum: [seed; 16] } }
    }

    #[test]
    fn what_was_encoded_is_decoded() {
        let bodies = [
            RecordBody::Blob(Link { spot: Spot { sum: NO_SUM, ..link(3).spot }, ..link(3) }),
            RecordBody::Empty,
            RecordBody::Absent,
            RecordBody::Expired,
            RecordBody::Error(Status::new(-5, "no")),
        ];
        let rich = Attributes {
            aliases: vec!["a".into(), "".into()],
            ttl: Some(Duration::new(3, 4)),
            do_not_cache: true,
            constraints: Some(Bytes::new()),
            extra: Bytes::from_static(b"x"),
        };
        let plain = bodies.into_iter().map(|body| Record { name: "n".into(), body, attributes: Attributes::default() });
        let mut records: Vec<_> = plain.collect();
        records.push(Record { name: "rich".into(), body: RecordBody::Empty, attributes: rich });
        for node in [Node::Leaf(records), Node::Branch(vec![link(1), link(200)]), Node::Leaf(vec![])] {
            let bytes = node.encode();
            assert_eq!(Node::decode(&bytes).as_ref(), Ok(&node));
            for end in 0..bytes.len() {
                assert!(Node::decode(&bytes[..end]).is_err(), "cut at {end}");
            }
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_it_panic(bytes: Vec<u8>) {
            let _ = Node::decode(&bytes);
            let _ = decode_blob(&bytes);
        }
    }
}
