//! Where something may be fetched over HTTP: over TLS, or on this machine.

use http::Uri;
use std::net::IpAddr;
use std::str::FromStr;

/// Why a text is no such place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WebAddressError {
    #[error("is no URL; write https://HOST/PATH, or the path of a file")]
    Malformed,
    #[error("holds a name or a password; leave them out, and present a token instead")]
    Password,
    #[error("would be fetched in plain text, where others can put keys of theirs; write https://")]
    PlainText,
}

/// A URL that may be fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebAddress {
    pub uri: Uri,
    /// Of an IPv6 address without its brackets.
    pub host: String,
    pub port: u16,
    /// Over TLS. Else it is on this machine.
    pub secure: bool,
}

impl FromStr for WebAddress {
    type Err = WebAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let uri: Uri = text.parse().map_err(|_| WebAddressError::Malformed)?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(WebAddressError::Malformed),
        };
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(WebAddressError::Password);
        }
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() {
            return Err(WebAddressError::Malformed);
        }
        let local = host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
        if !secure && !local {
            return Err(WebAddressError::PlainText);
        }
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        Ok(Self { uri, host, port, secure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_fetched() {
        let (no, plain) = (WebAddressError::Malformed, WebAddressError::PlainText);
        let table = [
            ("https://issuer.test/keys", Ok(("issuer.test", 443))),
            ("https://[::1]:8443/keys", Ok(("::1", 8443))),
            ("http://127.0.0.1:8001/openid/v1/jwks", Ok(("127.0.0.1", 8001))),
            ("http://[::1]/", Ok(("::1", 80))),
            ("http://localhost/", Ok(("localhost", 80))),
            ("http://issuer.test/keys", Err(plain)),
            ("https:///keys", Err(no.clone())),
            ("https://me:secret@issuer.test/", Err(WebAddressError::Password)),
            ("ftp://issuer.test/", Err(no.clone())),
            ("/etc/jwks.json", Err(no)),
        ];
        for (text, want) in table {
            let got: Result<WebAddress, _> = text.parse();
            assert_eq!(got.as_ref().map(|of| (of.host.as_str(), of.port)), want.as_ref().copied(), "{text}");
        }
    }
}
