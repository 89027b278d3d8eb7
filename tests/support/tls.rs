//! Certificates for a test: one authority, and whom it vouches for.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use std::path::{Path, PathBuf};

/// A key and its certificate, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

/// What a process needs for mutual TLS, as files.
#[derive(Clone, Debug)]
pub struct ClientFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub authority: PathBuf,
}

#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub certificate: String,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Test authority");
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("a certificate of its own").pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// For a server that is reached under `name`.
    pub fn server(&self, name: &str) -> Identity {
        self.sign(SanType::DnsName(name.try_into().expect("a DNS name")))
    }

    /// For a workload: `spiffe://...`.
    pub fn workload(&self, uri: &str) -> Identity {
        self.sign(SanType::URI(uri.try_into().expect("a URI")))
    }

    fn sign(&self, san: SanType) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(san);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a signed certificate").pem();
        Identity { certificate, key: key.serialize_pem() }
    }

    /// Writes `identity` and the authority's certificate into `dir`.
    pub fn write(&self, dir: &Path, name: &str, identity: &Identity) -> ClientFiles {
        let put = |suffix: &str, text: &str| {
            let path = dir.join(format!("{name}-{suffix}.pem"));
            std::fs::write(&path, text).expect("write a PEM file");
            path
        };
        ClientFiles {
            certificate: put("cert", &identity.certificate),
            key: put("key", &identity.key),
            authority: put("ca", &self.certificate),
        }
    }
}
