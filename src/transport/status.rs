//! How a gRPC call ends: trailers, and what stands for them where none came.

use crate::xds::{Status, code};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
pub const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// `UNKNOWN`: what a status without a number we can read is.
pub const UNKNOWN: i32 = 2;
pub const CANCELLED: i32 = 1;

/// The name of a code, as gRPC writes it.
pub fn name(code: i32) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    usize::try_from(code).ok().and_then(|code| NAMES.get(code)).copied().unwrap_or("UNKNOWN")
}

/// The trailers that say `status`.
pub fn trailers(status: &Status) -> HeaderMap {
    let mut map = HeaderMap::with_capacity(2);
    map.insert(GRPC_STATUS, HeaderValue::from(status.code));
    if !status.message.is_empty()
        && let Ok(message) = HeaderValue::try_from(percent_encode(&status.message))
    {
        map.insert(GRPC_MESSAGE, message);
    }
    map
}

/// The status that trailers say, if they say one.
pub fn from_trailers(map: &HeaderMap) -> Option<Status> {
    let code = map.get(GRPC_STATUS)?.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(UNKNOWN);
    let message = map.get(GRPC_MESSAGE).map(|value| percent_decode(value.as_bytes())).unwrap_or_default();
    Some(Status { code, message })
}

/// What an HTTP status stands for where a peer gives no gRPC one.
pub fn code_of_http(status: StatusCode) -> i32 {
    match status.as_u16() {
        400 => code::INTERNAL,
        401 => code::UNAUTHENTICATED,
        403 => code::PERMISSION_DENIED,
        404 => code::UNIMPLEMENTED,
        429 | 502 | 503 | 504 => code::UNAVAILABLE,
        _ => UNKNOWN,
    }
}

/// What an HTTP/2 error code stands for where a stream ends by it.
pub fn code_of_reset(reason: h2::Reason) -> i32 {
    match reason {
        h2::Reason::REFUSED_STREAM => code::UNAVAILABLE,
        h2::Reason::CANCEL => CANCELLED,
        h2::Reason::ENHANCE_YOUR_CALM => code::RESOURCE_EXHAUSTED,
        h2::Reason::INADEQUATE_SECURITY => code::PERMISSION_DENIED,
        _ => code::INTERNAL,
    }
}

fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// What cannot be read stays as it stands.
fn percent_decode(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) => {
                out.push(high * 16 + low);
                rest = rest.get(3..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_trailers() {
        for message in ["", "plain", "100 % sure\nof ünïcode \u{1f980}", "%", "%zz", "tab\t"] {
            let status = Status::new(14, message);
            assert_eq!(from_trailers(&trailers(&status)), Some(status));
        }
    }

    #[test]
    fn what_others_write_is_read() {
        let table = [("%E2%9C%93 done", "✓ done"), ("50% off", "50% off"), ("%ff", "\u{fffd}"), ("cut %4", "cut %4")];
        for (text, want) in table {
            assert_eq!(percent_decode(text.as_bytes()), want);
        }
        let mut map = HeaderMap::new();
        assert_eq!(from_trailers(&map), None);
        map.insert(GRPC_STATUS, HeaderValue::from_static("many"));
        assert_eq!(from_trailers(&map), Some(Status::new(UNKNOWN, "")));
    }
}
