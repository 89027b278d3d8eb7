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
    /// Reads a chain that rustls verified, the leaf first. The leaf's URI is the
    /// name (SPIFFE: exactly one), else its first DNS name.
    ///
    /// It lasts until the first of the chain ends. What is no link of the proof does
    /// not count: a root, which is trusted as it is, and what had ended at `began`,
    /// before the chain was verified.
    pub fn of(chain: &[impl AsRef<[u8]>], began: SystemTime) -> Result<Self, IdentityError> {
        let malformed = |error: &dyn fmt::Display| IdentityError::Malformed(error.to_string());
        let parse = |der| X509Certificate::from_der(der).map(|(_, found)| found).map_err(|error| malformed(&error));
        let (leaf, issuers) = chain.split_first().ok_or_else(|| malformed(&"there is none"))?;
        let certificate = parse(leaf.as_ref())?;
        let mut ends = not_after(&certificate);
        for issuer in issuers {
            let issuer = parse(issuer.as_ref())?;
            let end = not_after(&issuer);
            if end >= began && end < ends && !is_root(&issuer) {
                ends = end;
            }
        }
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
        Ok(Self { name: name.into(), not_after: ends, token: None })
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

    /// When the certificate with its chain, or the token, ends; streams end with it.
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

/// From when until when the certificate in `der` is valid, if it can be read.
pub fn validity(der: &[u8]) -> Option<(SystemTime, SystemTime)> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    Some((time(certificate.validity().not_before.timestamp()), not_after(&certificate)))
}

/// It signed itself. One that only says so, with another key, is no root.
fn is_root(certificate: &X509Certificate<'_>) -> bool {
    certificate.subject() == certificate.issuer() && certificate.verify_signature(None).is_ok()
}

fn not_after(certificate: &X509Certificate<'_>) -> SystemTime {
    time(certificate.validity().not_after.timestamp())
}

/// `seconds` since 1970.
pub(super) fn time(seconds: i64) -> SystemTime {
    let since = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).unwrap_or(SystemTime::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

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
            let got = Identity::of(&[certificate(names)], SystemTime::now());
            assert_eq!(got.as_ref().map(Identity::as_str), want.as_ref().copied());
        }
        for bad in [vec![b"no der".to_vec()], vec![certificate(vec![dns("a")]), b"no der".to_vec()], vec![]] {
            assert!(matches!(Identity::of(&bad, SystemTime::now()), Err(IdentityError::Malformed(_))));
        }
    }

    #[test]
    fn it_lasts_as_long_as_every_link_of_its_proof() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000 + seconds);
        let authority = |name: &str, ends: u64| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.not_after = at(ends).into();
            params
        };
        let key = || KeyPair::generate().unwrap();
        let (root_key, other_key) = (key(), key());
        let root = |ends: u64| authority("root", ends).self_signed(&root_key).unwrap().der().to_vec();
        let by_root = Issuer::new(authority("root", 0), &root_key);
        let issuer = |ends: u64| authority("issuer", ends).signed_by(&other_key, &by_root).unwrap().der().to_vec();
        // It has the name of the root, and the root's older key signed it.
        let renewed = |ends: u64| authority("root", ends).signed_by(&other_key, &by_root).unwrap().der().to_vec();
        let leaf = |ends: u64| {
            let mut params = authority("leaf", ends);
            params.subject_alt_names = vec![dns("a")];
            params.signed_by(&key(), &by_root).unwrap().der().to_vec()
        };
        let table = [
            ("the leaf alone", vec![leaf(90)], 90),
            ("the issuer ends first", vec![leaf(90), issuer(40)], 40),
            ("the leaf does", vec![leaf(30), issuer(40)], 30),
            ("of two issuers", vec![leaf(90), issuer(60), issuer(50)], 50),
            ("a root does not count", vec![leaf(90), issuer(60), root(20)], 60),
            ("its key's successor does", vec![leaf(90), renewed(20)], 20),
            ("it had ended, so it proved nothing", vec![leaf(90), issuer(5)], 90),
        ];
        for (what, chain, ends) in table {
            assert_eq!(Identity::of(&chain, at(10)).unwrap().not_after(), at(ends), "{what}");
        }
    }
}
