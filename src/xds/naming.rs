//! The name of a bare SotW resource, from its bytes.
//!
//! Nearly every named type states it in field 1; Istio's types have places of
//! their own, and some have no name at all.

use crate::xds::wire::{Field, Fields, Value, WireError, first_string};
use crate::xds::{Kind, Name, TypeUrl, name};
use bytes::Bytes;

/// What the bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Naming {
    Named(Name),
    /// No name can be read. The set of all of them is one opaque whole, whose
    /// members are named by their content.
    ByContent(Name),
}

pub fn of(type_url: &TypeUrl, value: &Bytes) -> Result<Naming, WireError> {
    let named = |text: &str| Ok(Naming::Named(name::normal(text)));
    match type_url.kind() {
        Kind::Singleton => named(""),
        Kind::Workload if type_url.short() == "workload" => named(&first_string(value, WORKLOAD_UID)?),
        Kind::Workload => address(value),
        Kind::Authorization => joined(value, 2, 1),
        Kind::LocalityEndpoint => Ok(by_content(value)),
        Kind::Other | Kind::Health | Kind::Debug => unknown(value),
        _ => named(&first_string(value, 1)?),
    }
}

const WORKLOAD_UID: u32 = 20;

/// Istio's `Address`: a workload (1) with a uid, or a service (2) whose key is
/// `namespace/hostname`.
fn address(value: &Bytes) -> Result<Naming, WireError> {
    for field in Fields::new(value.clone()) {
        let field = field?;
        match field.number {
            1 => return Ok(Naming::Named(name::normal(&first_string(&field.bytes()?, WORKLOAD_UID)?))),
            2 => return joined(&field.bytes()?, 2, 3),
            _ => {}
        }
    }
    Ok(by_content(value))
}

fn joined(value: &Bytes, first: u32, second: u32) -> Result<Naming, WireError> {
    let text = format!("{}/{}", first_string(value, first)?, first_string(value, second)?);
    Ok(Naming::Named(name::normal(&text)))
}

/// A type nobody here knows. Field 1 is its name where it reads as one: a
/// nested message there starts with a control character.
fn unknown(value: &Bytes) -> Result<Naming, WireError> {
    for field in Fields::new(value.clone()) {
        if let Field { number: 1, value: Value::Bytes(bytes), .. } = field? {
            let text = std::str::from_utf8(&bytes).ok();
            let text = text.filter(|text| !text.is_empty() && !text.contains(char::is_control));
            return Ok(text.map_or_else(|| by_content(value), |text| Naming::Named(name::normal(text))));
        }
    }
    Ok(by_content(value))
}

fn by_content(value: &Bytes) -> Naming {
    let hash = blake3::hash(value).to_hex();
    Naming::ByContent(format!("content:{}", &hash[..32]).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::wire::Writer;

    fn message(write: impl FnOnce(&mut Writer)) -> Bytes {
        let mut out = Writer::default();
        write(&mut out);
        out.finish()
    }

    #[test]
    fn each_type_states_its_name_in_its_own_place() {
        let workload = |out: &mut Writer| {
            out.string(1, "shown");
            out.string(20, "uid-1");
        };
        let table = [
            ("cds", message(|out| out.string(1, "c")), "c"),
            ("eds", message(|out| out.string(1, "xdstp://a/T/x?b=1&a=2")), "xdstp://a/T/x?a=2&b=1"),
            ("nds", message(|out| out.string(1, "ignored")), ""),
            ("workload", message(workload), "uid-1"),
            ("address", message(|out| out.message(1, workload)), "uid-1"),
            (
                "address",
                message(|out| {
                    out.message(2, |out| {
                        out.string(1, "svc");
                        out.string(2, "ns");
                        out.string(3, "svc.ns.local");
                    });
                }),
                "ns/svc.ns.local",
            ),
            (
                "authorization",
                message(|out| {
                    out.string(1, "deny");
                    out.string(2, "ns");
                }),
                "ns/deny",
            ),
        ];
        for (short, value, want) in table {
            let type_url = TypeUrl::from_short(short).unwrap();
            assert_eq!(of(&type_url, &value), Ok(Naming::Named(want.into())), "{short}");
        }
    }

    #[test]
    fn a_type_nobody_knows_is_named_by_field_1_or_by_content() {
        let unknown = TypeUrl::new("type.example/Thing");
        assert_eq!(of(&unknown, &message(|out| out.string(1, "t"))), Ok(Naming::Named("t".into())));
        let nested = message(|out| out.message(1, |out| out.string(1, "inner")));
        let Ok(Naming::ByContent(name)) = of(&unknown, &nested) else { panic!("a nested message is no name") };
        assert_eq!(of(&unknown, &nested), Ok(Naming::ByContent(name)));
        assert!(of(&unknown, &Bytes::from_static(&[0x0a, 9])).is_err());
    }
}
