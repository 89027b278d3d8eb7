//! Certificates for a test: one authority, and whom it vouches for.

use super::http::LIMIT;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// A key and its certificate, PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Identity {
    pub fn der(&self) -> CertificateDer<'static> {
        der(&self.certificate)
    }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate that we made")
}

/// The certificate that a server on `port` presents under `name`.
pub async fn presented(port: u16, name: &str, authority: &Authority) -> Result<CertificateDer<'static>, String> {
    let mut roots = RootCertStore::empty();
    roots.add(der(&authority.certificate)).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).map_err(|e| e.to_string())?;
    let handshake = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let handshake = tokio::time::timeout(LIMIT, handshake).await.map_err(|_| "no TLS handshake".to_owned())?;
    let stream = handshake.map_err(|e| e.to_string())?;
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    chain.first().map(|leaf| leaf.clone().into_owned()).ok_or_else(|| "no certificate".to_owned())
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

    /// For a server, with these dates.
    pub fn server_between(&self, name: &str, from: SystemTime, until: SystemTime) -> Identity {
        self.sign_between(SanType::DnsName(name.try_into().expect("a DNS name")), Some((from, until)))
    }

    /// For a workload, with these dates.
    pub fn workload_between(&self, uri: &str, from: SystemTime, until: SystemTime) -> Identity {
        self.sign_between(SanType::URI(uri.try_into().expect("a URI")), Some((from, until)))
    }

    fn sign(&self, san: SanType) -> Identity {
        self.sign_between(san, None)
    }

    fn sign_between(&self, san: SanType, dates: Option<(SystemTime, SystemTime)>) -> Identity {
        let mut params = CertificateParams::default();
        params.subject_alt_names.push(san);
        if let Some((from, until)) = dates {
            (params.not_before, params.not_after) = (from.into(), until.into());
        }
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
