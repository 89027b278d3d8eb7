//! Discovery responses, read as far as a load generator must: who sent what,
//! not what is in it.
//!
//! A [`Head`] holds the fields of the response itself; [`Head::resources`] goes
//! through its resources. A resource's payload is skipped but for its name and
//! its [mark](super::stock::MARK). Nothing is copied or allocated.

use super::stock::{DIGITS, MARK};
use crate::xds::Variant;

/// The message is no discovery response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a malformed discovery response")]
pub struct ScanError;

#[derive(Clone, Copy, Debug, Default)]
pub struct Head<'a> {
    pub type_url: &'a [u8],
    pub nonce: &'a [u8],
    /// `version_info` or `system_version_info`.
    pub label: &'a [u8],
    pub resources: u32,
    pub removed: u32,
    message: &'a [u8],
}

/// What is read of a resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Piece<'a> {
    pub name: &'a [u8],
    pub version: &'a [u8],
    /// By which change it became what it is, where it is one of ours.
    pub seq: Option<u32>,
}

/// A field's number, its bytes where it has a length, and what follows.
type Field<'a> = (u32, &'a [u8], &'a [u8]);

fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), ScanError> {
    let mut value = 0;
    for (at, byte) in bytes.iter().take(10).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return Ok((value, bytes.get(at + 1..).unwrap_or_default()));
        }
    }
    Err(ScanError)
}

fn field(bytes: &[u8]) -> Result<Field<'_>, ScanError> {
    let (key, rest) = varint(bytes)?;
    let number = u32::try_from(key >> 3).map_err(|_| ScanError)?;
    let length = match key & 7 {
        0 => return Ok((number, &[], varint(rest)?.1)),
        1 => return Ok((number, &[], rest.get(8..).ok_or(ScanError)?)),
        5 => return Ok((number, &[], rest.get(4..).ok_or(ScanError)?)),
        2 => varint(rest)?,
        _ => return Err(ScanError),
    };
    let (length, rest) = (usize::try_from(length.0).map_err(|_| ScanError)?, length.1);
    let (value, rest) = rest.split_at_checked(length).ok_or(ScanError)?;
    Ok((number, value, rest))
}

/// Calls `each` for the fields until it says that it has what it wants.
fn walk<'a>(mut bytes: &'a [u8], mut each: impl FnMut(u32, &'a [u8]) -> bool) -> Result<(), ScanError> {
    while !bytes.is_empty() {
        let (number, value, rest) = field(bytes)?;
        if each(number, value) {
            break;
        }
        bytes = rest;
    }
    Ok(())
}

impl<'a> Head<'a> {
    pub fn read(message: &'a [u8]) -> Result<Self, ScanError> {
        let mut head = Self { message, ..Self::default() };
        walk(message, |number, value| {
            match number {
                1 => head.label = value,
                2 => head.resources += 1,
                4 => head.type_url = value,
                5 => head.nonce = value,
                // In SotW it is the control plane, which nobody counts.
                6 | 8 => head.removed += 1,
                _ => {}
            }
            false
        })?;
        Ok(head)
    }

    pub fn resources(&self, variant: Variant, mut each: impl FnMut(Piece<'a>)) -> Result<(), ScanError> {
        let mut result = Ok(());
        walk(self.message, |number, value| {
            if number == 2 {
                match piece(variant, value) {
                    Ok(piece) => each(piece),
                    Err(error) => result = Err(error),
                }
            }
            result.is_err()
        })?;
        result
    }
}

fn piece(variant: Variant, resource: &[u8]) -> Result<Piece<'_>, ScanError> {
    let mut piece = Piece::default();
    let mut any = resource;
    if variant == Variant::Delta {
        any = &[];
        walk(resource, |number, value| {
            match number {
                1 => piece.version = value,
                2 => any = value,
                3 => piece.name = value,
                _ => {}
            }
            false
        })?;
    }
    let mut payload: &[u8] = &[];
    walk(any, |number, value| {
        if number == 2 {
            payload = value;
        }
        number == 2
    })?;
    let mut named = !piece.name.is_empty();
    walk(payload, |number, value| {
        match number {
            1 if !named => (piece.name, named) = (value, true),
            MARK => piece.seq = seq(value),
            _ => {}
        }
        // The mark comes first; a resource without one is not searched to its end.
        named
    })?;
    Ok(piece)
}

fn seq(mark: &[u8]) -> Option<u32> {
    let digits = std::str::from_utf8(mark.get(..DIGITS)?).ok()?;
    u32::from_str_radix(digits, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::mesh::Family;
    use crate::bench::plan::Change;
    use crate::bench::plane::World;
    use crate::bench::stock::{Contents, Shape, Stock};
    use crate::proto::discovery::{DeltaDiscoveryResponse, DiscoveryResponse};
    use crate::xds::wire::Writer;
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message;

    fn message(variant: Variant) -> Bytes {
        let sizes = vec![300, 70_000];
        let stock =
            Stock::new(Shape { seed: 1, contents: Contents::Mesh, services: 5, sizes, own: 0, classes: 1, base: 0 });
        stock.make(&Change { seq: 0xab_cdef, at: 0, family: Family::Cluster, number: Some(1) });
        let mut out = Writer::default();
        out.string(1, "label");
        for version in stock.all(0, Family::Cluster).changed {
            out.bytes(2, if variant == Variant::Delta { &version.resource } else { &version.any });
        }
        out.string(4, Family::Cluster.type_url());
        out.string(5, "nonce-7");
        if variant == Variant::Delta {
            out.bytes(6, b"gone");
        }
        out.finish()
    }

    /// What a real decoder makes of it.
    fn decoded(variant: Variant, message: Bytes) -> (String, String, String, Vec<(String, String)>) {
        match variant {
            Variant::Delta => {
                let found = DeltaDiscoveryResponse::decode(message).unwrap();
                let resources = found.resources.into_iter().map(|resource| (resource.name, resource.version));
                (found.type_url, found.nonce, found.system_version_info, resources.collect())
            }
            Variant::Sotw => {
                let found = DiscoveryResponse::decode(message).unwrap();
                let name =
                    |any: crate::proto::protobuf::Any| crate::proto::cluster::Cluster::decode(any.value).unwrap().name;
                let resources = found.resources.into_iter().map(|any| (name(any), String::new()));
                (found.type_url, found.nonce, found.version_info, resources.collect())
            }
        }
    }

    #[test]
    fn it_reads_what_a_decoder_reads() {
        for variant in [Variant::Delta, Variant::Sotw] {
            let message = message(variant);
            let head = Head::read(&message).unwrap();
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let (mut pieces, mut marks) = (Vec::new(), Vec::new());
            head.resources(variant, |piece| {
                pieces.push((text(piece.name), text(piece.version)));
                marks.push(piece.seq);
            })
            .unwrap();
            let found = (text(head.type_url), text(head.nonce), text(head.label), pieces);
            assert_eq!(found, decoded(variant, message.clone()));
            assert_eq!(marks, [Some(0), Some(0xab_cdef), Some(0), Some(0), Some(0)]);
            assert_eq!((head.resources, head.removed), (5, u32::from(variant == Variant::Delta)));
        }
    }

    #[test]
    fn a_resource_of_somebody_else_has_no_mark() {
        let mut payload = Writer::default();
        payload.string(1, "theirs");
        payload.string(5, "something");
        let mut out = Writer::default();
        out.message(2, |any| {
            any.string(1, "type");
            any.bytes(2, &payload.finish());
        });
        let message = out.finish();
        let mut found = Vec::new();
        Head::read(&message).unwrap().resources(Variant::Sotw, |piece| found.push(piece)).unwrap();
        assert_eq!(found, [Piece { name: b"theirs", version: b"", seq: None }]);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for variant in [Variant::Delta, Variant::Sotw] {
                if let Ok(head) = Head::read(&bytes) {
                    let _ = head.resources(variant, |_| {});
                }
            }
        }

        #[test]
        fn what_is_cut_off_is_noticed(cut in 1usize..400) {
            let whole = message(Variant::Delta);
            let part = &whole[..whole.len() - cut];
            // Either between two fields, or an error: never a wrong name.
            if let Ok(head) = Head::read(part) {
                prop_assert!(head.resources(Variant::Delta, |piece| assert!(!piece.name.is_empty())).is_ok());
            }
        }
    }
}
