//! Who a peer is: what its verified certificate or token says, never what it claims.

use crate::xds::Token;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// A verified peer. Equal where the name is equal.
#[derive(Clone, Debug)]
pub struct Identity {
    name: Arc<str>,
    not_after: SystemTime,
    /// What proved it, where that was no certificate.
    token: Option<Token>,
}

/// Why a certificate that was verified names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("the peer's certificate cannot be read: {0}")]
    Malformed(String),
    #[error("the peer's certificate has {0} URI names; SPIFFE allows exactly one: issue it anew")]
    ManyUris(usize),
    #[error("the peer's certificate has neither a URI nor a DNS name (subjectAltName): issue it with one")]
    Nameless,
    #[error(
        "the peer's certificate has {0:?} for a DNS name, which none can be (':' or '/'): issue it with a host name, or as a URI"
    )]
    NotDns(String),
}

impl Identity {
    /// Reads the leaf of a chain that rustls verified. The name is the URI
    /// (SPIFFE: exactly one), else the first DNS name.
    pub fn of(leaf: &[u8]) -> Result<Self, IdentityError> {
        let malformed = |error: &dyn fmt::Display| IdentityError::Malformed(error.to_string());
        let (_, certificate) = X509Certificate::from_der(leaf).map_err(|error| malformed(&error))?;
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| malformed(&error))?
            .map(|extension| extension.value.general_names.as_slice())
            .unwrap_or_default();
        let uris: Vec<&str> = names
            .iter()
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                _ => None,
            })
            .collect();
        let name = match uris.as_slice() {
            [uri] => *uri,
            [] => dns_name(names)?,
            many => return Err(IdentityError::ManyUris(many.len())),
        };
        Ok(Self { name: name.into(), not_after: not_after(&certificate), token: None })
    }

    /// Of a bearer token that was verified.
    pub(super) fn of_token(name: &str, expires: SystemTime, token: Token) -> Self {
        Self { name: name.into(), not_after: expires, token: Some(token) }
    }

    /// An identity that something other than a certificate proved, or a test made up.
    pub fn named(name: &str, not_after: SystemTime) -> Self {
        Self { name: name.into(), not_after, token: None }
    }

    /// `spiffe://…`, a DNS name, or `jwt:` and a token's subject.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// When the certificate or the token ends; streams end with it.
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    pub fn token(&self) -> Option<&Token> {
        self.token.as_ref()
    }
}

/// The first DNS name. It must not read as another kind of name.
fn dns_name<'a>(names: &[GeneralName<'a>]) -> Result<&'a str, IdentityError> {
    let dns = names.iter().find_map(|name| match name {
        GeneralName::DNSName(dns) => Some(*dns),
        _ => None,
    });
    let dns = dns.ok_or(IdentityError::Nameless)?;
    if dns.contains([':', '/']) { Err(IdentityError::NotDns(dns.into())) } else { Ok(dns) }
}

impl PartialEq for Identity {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Identity {}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// When the certificate in `der` ends, if it can be read.
pub fn expiry(der: &[u8]) -> Option<SystemTime> {
    X509Certificate::from_der(der).ok().map(|(_, certificate)| not_after(&certificate))
}

fn not_after(certificate: &X509Certificate<'_>) -> SystemTime {
    let seconds = certificate.validity().not_after.timestamp();
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: Vec<SanType>) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    fn uri(text: &str) -> SanType {
        SanType::URI(text.try_into().unwrap())
    }

    fn dns(text: &str) -> SanType {
        SanType::DnsName(text.try_into().unwrap())
    }

    #[test]
    fn the_uri_names_the_peer_and_dns_stands_in() {
        let spiffe = "spiffe://mesh.example/ns/shop/sa/cart";
        let table = [
            (vec![dns("cart.shop"), uri(spiffe)], Ok(spiffe)),
            (vec![dns("cart.shop"), dns("other")], Ok("cart.shop")),
            (vec![uri(spiffe), uri("spiffe://other/x")], Err(IdentityError::ManyUris(2))),
            (vec![], Err(IdentityError::Nameless)),
            (vec![dns(spiffe)], Err(IdentityError::NotDns(spiffe.into()))),
            (vec![dns("jwt:alice")], Err(IdentityError::NotDns("jwt:alice".into()))),
            (vec![dns("jwt:alice"), uri(spiffe)], Ok(spiffe)),
        ];
        for (names, want) in table {
            let got = Identity::of(&certificate(names));
            assert_eq!(got.as_ref().map(Identity::as_str), want.as_ref().copied());
        }
        assert!(matches!(Identity::of(b"no der"), Err(IdentityError::Malformed(_))));
    }
}
