//! One value of a field: from text to what is written for it.

use crate::yaml::{Content, Node, Sort};
use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use prost_reflect::{EnumDescriptor, Kind};

/// As it stands on the wire, without number and length.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Raw {
    Varint(u64),
    Four(u32),
    Eight(u64),
    Bytes(Vec<u8>),
}

impl Raw {
    /// What a field without presence is when it is not written.
    pub(super) fn is_default(&self) -> bool {
        match self {
            Self::Varint(number) | Self::Eight(number) => *number == 0,
            Self::Four(number) => *number == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
        }
    }
}

/// What a value was to be, where it is not.
pub(super) type Expected = String;

/// A value that is no message.
pub(super) fn scalar(kind: &Kind, node: &Node) -> Result<Raw, Expected> {
    let Content::Scalar { text, plain } = &node.content else { return Err(expected(kind)) };
    let sort = Sort::of(text, *plain);
    match kind {
        Kind::String if sort == Sort::Text => Ok(Raw::Bytes(text.clone().into_bytes())),
        Kind::String => Err("text; put it in quotes".into()),
        Kind::Bool => match (sort, text.to_ascii_lowercase().as_str()) {
            (Sort::Bool, is) => Ok(Raw::Varint(u64::from(is == "true"))),
            (Sort::Text, "true" | "false") => Err("true or false; leave the quotes out".into()),
            _ => Err(expected(kind)),
        },
        Kind::Bytes if sort != Sort::Text && sort != Sort::Number => Err(expected(kind)),
        Kind::Bytes => decode(text).map(Raw::Bytes).ok_or_else(|| expected(kind)),
        Kind::Enum(of) => enumerated(of, text, sort),
        _ => number(kind, text, sort).ok_or_else(|| expected(kind)),
    }
}

/// In either alphabet, with padding or without.
fn decode(text: &str) -> Option<Vec<u8>> {
    let lenient = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) { URL_SAFE } else { STANDARD };
    GeneralPurpose::new(&alphabet, lenient).decode(text).ok()
}

/// In quotes it may be as well: 64 bits are more than JSON's numbers hold.
fn number(kind: &Kind, text: &str, sort: Sort) -> Option<Raw> {
    if !matches!(sort, Sort::Number | Sort::Text) {
        return None;
    }
    Some(match kind {
        Kind::Int32 => Raw::Varint(signed(text, i32::MIN.into(), i32::MAX.into())?.cast_unsigned()),
        Kind::Int64 => Raw::Varint(signed(text, i64::MIN, i64::MAX)?.cast_unsigned()),
        Kind::Uint32 => Raw::Varint(unsigned(text, u32::MAX.into())?),
        Kind::Uint64 => Raw::Varint(unsigned(text, u64::MAX)?),
        Kind::Sint32 => Raw::Varint(zigzag(signed(text, i32::MIN.into(), i32::MAX.into())?)),
        Kind::Sint64 => Raw::Varint(zigzag(signed(text, i64::MIN, i64::MAX)?)),
        Kind::Fixed32 => Raw::Four(u32::try_from(unsigned(text, u32::MAX.into())?).ok()?),
        Kind::Fixed64 => Raw::Eight(unsigned(text, u64::MAX)?),
        Kind::Sfixed32 => {
            let number = signed(text, i32::MIN.into(), i32::MAX.into())?;
            Raw::Four(i32::try_from(number).ok()?.cast_unsigned())
        }
        Kind::Sfixed64 => Raw::Eight(signed(text, i64::MIN, i64::MAX)?.cast_unsigned()),
        Kind::Float => Raw::Four(small(text)?.to_bits()),
        Kind::Double => Raw::Eight(float(text)?.to_bits()),
        _ => return None,
    })
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

fn signed(text: &str, least: i64, most: i64) -> Option<i64> {
    integer(text).and_then(|number| i64::try_from(number).ok()).filter(|number| (least..=most).contains(number))
}

fn unsigned(text: &str, most: u64) -> Option<u64> {
    integer(text).and_then(|number| u64::try_from(number).ok()).filter(|number| *number <= most)
}

/// `10`, `-3`, `0x1f`, `1e3`, `5.0`. Not `0644`: for some that is 420.
fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if digits.starts_with(['-', '+']) {
        return None;
    }
    let magnitude = if let Some(hex) = digits.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()?
    } else if let Some(octal) = digits.strip_prefix("0o") {
        i128::from_str_radix(octal, 8).ok()?
    } else if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let led = digits.len() > 1 && digits.starts_with('0');
        digits.parse().ok().filter(|_| !led)?
    } else {
        whole(digits)?
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// A float that is a whole number, and small enough to be exact.
#[expect(clippy::cast_possible_truncation, reason = "it is whole and below 2^53")]
fn whole(digits: &str) -> Option<i128> {
    let number: f64 = digits.parse().ok()?;
    let exact = number.fract() == 0.0 && number.abs() < 9_007_199_254_740_992.0;
    exact.then_some(number as i128)
}

pub(super) fn float(text: &str) -> Option<f64> {
    match text {
        "NaN" | ".nan" | ".NaN" | ".NAN" => return Some(f64::NAN),
        "Infinity" | ".inf" | ".Inf" | ".INF" | "+.inf" => return Some(f64::INFINITY),
        "-Infinity" | "-.inf" | "-.Inf" | "-.INF" => return Some(f64::NEG_INFINITY),
        _ => {}
    }
    if let Some(number) = integer(text).filter(|_| text.contains("0x") || text.contains("0o")) {
        return number.to_string().parse().ok();
    }
    // Neither `inf` nor `infinity`, which Rust would take.
    let numeric = text.bytes().all(|byte| byte.is_ascii_digit() || b"+-.eE".contains(&byte));
    text.parse().ok().filter(|number: &f64| numeric && number.is_finite())
}

#[expect(clippy::cast_possible_truncation, reason = "checked: what is too large for it is refused")]
fn small(text: &str) -> Option<f32> {
    let wide = float(text)?;
    let number = text.parse::<f32>().ok().filter(|_| wide.is_finite()).unwrap_or(wide as f32);
    (number.is_finite() || !wide.is_finite()).then_some(number)
}

fn enumerated(of: &EnumDescriptor, text: &str, sort: Sort) -> Result<Raw, Expected> {
    let number = match sort {
        Sort::Number => signed(text, i32::MIN.into(), i32::MAX.into()),
        Sort::Text => of.get_value_by_name(text).map(|value| i64::from(value.number())),
        Sort::Nothing | Sort::Bool => None,
    };
    number.map(|number| Raw::Varint(number.cast_unsigned())).ok_or_else(|| {
        let names: Vec<_> = of.values().map(|value| value.name().to_owned()).collect();
        format!("one of {}", super::read::listed(&names, text))
    })
}

/// What a value of this kind is, for people.
pub(super) fn expected(kind: &Kind) -> Expected {
    match kind {
        Kind::String => "text".into(),
        Kind::Bool => "true or false".into(),
        Kind::Bytes => "bytes in base64".into(),
        Kind::Float | Kind::Double => "a number".into(),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => "a whole number of 32 bits".into(),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => "a whole number of 64 bits".into(),
        Kind::Uint32 | Kind::Fixed32 => "a whole number from 0 to 4294967295".into(),
        Kind::Uint64 | Kind::Fixed64 => "a whole number of 64 bits from 0".into(),
        Kind::Message(message) => format!("keys and values ({})", message.full_name()),
        Kind::Enum(of) => format!("a value of {}", of.full_name()),
    }
}
