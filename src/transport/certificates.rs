//! What certificate files hold, for those who check them before they are used.

use super::identity::time;
use super::tls::{ClientAuth, ClientFiles, ClientTls, Pair, ServerTls, TlsError, read_chain};
use std::path::Path;
use std::time::SystemTime;
use x509_parser::error::X509Error;
use x509_parser::prelude::{FromDer, X509Certificate};

/// As much of a certificate as a check tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    pub subject: String,
    pub issuer: String,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

/// The certificates of a file, in its order; the leaf of a chain is the first.
#[derive(Clone, Debug)]
pub struct Chain {
    pub certificates: Vec<Certificate>,
    /// The first that did not issue the one before it.
    pub gap: Option<usize>,
}

/// Reads a file of certificates (PEM).
pub fn read(what: &'static str, path: &Path) -> Result<Chain, TlsError> {
    let unusable = |detail: String| TlsError::Unusable { path: path.to_owned(), detail };
    let ders = read_chain(what, path)?;
    let parsed = ders.iter().map(|der| X509Certificate::from_der(der).map(|(_, found)| found));
    let parsed: Vec<_> = parsed.collect::<Result<_, _>>().map_err(|error| unusable(error.to_string()))?;
    let describe = |found: &X509Certificate<'_>| Certificate {
        subject: found.subject().to_string(),
        issuer: found.issuer().to_string(),
        not_before: time(found.validity().not_before.timestamp()),
        not_after: time(found.validity().not_after.timestamp()),
    };
    let gap = parsed.windows(2).position(|pair| matches!(pair, [of, by] if !issued(of, by))).map(|before| before + 1);
    Ok(Chain { certificates: parsed.iter().map(describe).collect(), gap })
}

/// Did `by` issue `of`? Authorities of one name are told apart by their keys.
fn issued(of: &X509Certificate<'_>, by: &X509Certificate<'_>) -> bool {
    let signed = match of.verify_signature(Some(by.public_key())) {
        // A signature of a kind that we cannot check is believed.
        Err(X509Error::SignatureUnsupportedAlgorithm) => true,
        checked => checked.is_ok(),
    };
    of.issuer() == by.subject() && signed
}

/// Would a server start with these?
pub fn check_server(pair: Pair, clients: ClientAuth) -> Result<(), TlsError> {
    ServerTls::new(pair, clients).map(drop)
}

/// Would a client?
pub fn check_client(files: ClientFiles) -> Result<(), TlsError> {
    ClientTls::new(files).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

    #[test]
    fn a_chain_is_read_in_order_and_a_gap_is_found() {
        let named = |name: &str| {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params
        };
        let mut root = named("root");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let root_pem = root.self_signed(&key).unwrap().pem();
        let forged_pem = root.self_signed(&KeyPair::generate().unwrap()).unwrap().pem();
        let issuer = Issuer::new(root, key);
        let leaf_pem = named("leaf").signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap().pem();
        let other_pem = named("other").self_signed(&KeyPair::generate().unwrap()).unwrap().pem();

        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("chain.pem");
        let chain = |pems: &[&String]| {
            std::fs::write(&path, pems.iter().map(|pem| pem.as_str()).collect::<String>()).unwrap();
            read("certificate", &path).unwrap()
        };
        let whole = chain(&[&leaf_pem, &root_pem]);
        let leaf = &whole.certificates[0];
        assert!(leaf.subject.contains("leaf") && leaf.issuer.contains("root"), "{whole:?}");
        assert!(leaf.not_before < leaf.not_after);
        assert_eq!(whole.gap, None);
        assert_eq!(chain(&[&leaf_pem, &other_pem, &root_pem]).gap, Some(1));
        // Of the same name, and with another key.
        assert_eq!(chain(&[&leaf_pem, &forged_pem]).gap, Some(1));
        std::fs::write(&path, "no PEM").unwrap();
        assert!(read("certificate", &path).is_err());
    }
}
