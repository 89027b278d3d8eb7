//! No page in a browser reads the admin endpoint.
//!
//! A page can have its own name resolve to our address (DNS rebinding); then the
//! browser takes us for its site, sends no header that says otherwise and lets
//! it read. What it cannot do is state another `Host`. So a name must be one that
//! nobody can have a page under: an address, a name of one part, or one under a
//! domain that is for private use. Probes use addresses, and Prometheus those or
//! names of services.

use axum::extract::Request;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use std::net::IpAddr;

/// Nobody can register a name under these.
const PRIVATE: [&str; 4] = [".localhost", ".svc", ".cluster.local", ".internal"];

const FOREIGN: &str = "the Host of this request may be anybody's: ask by an IP address, localhost, a name without dots, \
                       or one under .svc, .cluster.local or .internal\n";
const PAGE: &str = "not for pages of other sites; open the address by itself\n";

pub(super) async fn guard(request: Request, next: Next) -> Response {
    match refusal(request.uri(), request.headers()) {
        None => next.run(request).await,
        Some(text) => (StatusCode::FORBIDDEN, text).into_response(),
    }
}

fn refusal(uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    if headers.get_all("sec-fetch-site").iter().any(|site| site == "cross-site") {
        return Some(PAGE);
    }
    let stated = headers.get_all(header::HOST).iter().map(HeaderValue::as_bytes);
    let mut hosts = stated.chain(uri.authority().map(|authority| authority.as_str().as_bytes()));
    hosts.any(|host| !is_private(host)).then_some(FOREIGN)
}

/// No browser leaves it empty.
fn is_private(host: &[u8]) -> bool {
    let Ok(authority) = Authority::try_from(host) else { return host.is_empty() };
    let name = authority.host().to_ascii_lowercase();
    let name = name.trim_end_matches('.');
    let address = name.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok() || !name.contains('.') || PRIVATE.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_may_be_asked_by() {
        let good = [
            "127.0.0.1:19901",
            "10.1.2.3",
            "[::1]:19901",
            "[::ffff:10.1.2.3]",
            "localhost:19901",
            "LOCALHOST.",
            "outpost:19901",
            "outpost.mesh.svc:19901",
            "outpost.mesh.svc.cluster.local",
            "",
        ];
        let bad = [
            "evil.example",
            "evil.example:19901",
            "evil.example.:19901",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "xsvc.evil",
            "localhost@evil.example",
            "a b",
            "[::1",
        ];
        for (hosts, want) in [(&good[..], true), (&bad[..], false)] {
            for host in hosts {
                assert_eq!(is_private(host.as_bytes()), want, "{host:?}");
            }
        }
        assert!(!is_private(b"\xff"));
    }
}
