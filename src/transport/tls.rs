//! TLS for both directions, from files that are read again when they change.
//!
//! The files are looked at before each handshake. Kubernetes swaps a symlink,
//! others write in place: a pair that is half written or does not match leaves
//! what was loaded in use, is logged once and shown by [`Reloaded::problem`]. So
//! does a certificate that is not valid now, until it is or the one in use is not
//! either. At start there is none to keep: it is used, and logged as what it is.

use super::identity;
use super::io::Socket;
use crate::clock::{span, timestamp};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What is offered in ALPN: HTTP/2 and nothing else …
const ALPN: &[u8] = b"h2";
/// … but to a server of keys.
const HTTP1: &[u8] = b"http/1.1";

/// Why certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read {what} {}: {source}; check the path and its permissions", path.display())]
    Unreadable { what: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{what} {} is not PEM ({detail}); write it as PEM", path.display())]
    NotPem { what: &'static str, path: PathBuf, detail: String },
    #[error("{what} {} holds nothing of the kind; name a PEM file that does", path.display())]
    Empty { what: &'static str, path: PathBuf },
    #[error("certificate {} and key {} do not belong together; write both from one issuance", cert.display(), key.display())]
    Mismatch { cert: PathBuf, key: PathBuf },
    #[error("certificate {} cannot be used: {detail}", path.display())]
    Unusable { path: PathBuf, detail: String },
    #[error("certificate {} is not valid before {}, in {}; is the clock of this machine right? else wait, or have it issued anew", path.display(), timestamp(*from), span(*wait))]
    NotYet { path: PathBuf, from: SystemTime, wait: Duration },
    #[error("certificate {} ended {}, {} ago; have it issued anew", path.display(), timestamp(*until), span(*ago))]
    Ended { path: PathBuf, until: SystemTime, ago: Duration },
    #[error("no certificate authority was found on this machine; name a file that holds one")]
    NoRoots,
    #[error("{0:?} is neither a DNS name nor an address, so no certificate can be checked against it")]
    ServerName(String),
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// Whose certificates a server takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    None,
    /// A client may present a certificate of this authority; without one it has no identity.
    Optional(PathBuf),
    /// A client must.
    Required(PathBuf),
}

/// A server's side of TLS 1.2 and 1.3.
#[derive(Debug)]
pub struct ServerTls(Reloaded<ServerConfig>);

impl ServerTls {
    pub fn new(pair: Pair, clients: ClientAuth) -> Result<Self, TlsError> {
        let mut files = vec![pair.cert.clone(), pair.key.clone()];
        if let ClientAuth::Optional(ca) | ClientAuth::Required(ca) = &clients {
            files.push(ca.clone());
        }
        Reloaded::new(files, move || server_config(&pair, &clients)).map(Self)
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.0.current())
    }

    pub fn state(&self) -> &dyn TlsState {
        &self.0
    }

    /// Looks at the files, as a handshake does, and tells how they are.
    pub fn look(&self) -> Seen {
        let _ = self.0.current();
        let state = self.0.lock();
        let (starts, expires) = state.loaded.leaf.as_ref().and_then(|leaf| leaf.valid).unzip();
        Seen { problem: state.problem.clone(), failures: state.failures, starts, expires }
    }
}

/// How certificates in use are; see [`TlsState`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub problem: Option<String>,
    pub failures: u64,
    pub starts: Option<SystemTime>,
    pub expires: Option<SystemTime>,
}

impl Seen {
    /// By the dates of the certificate in use.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.starts.is_none_or(|starts| starts <= now) && self.expires.is_none_or(|expires| now <= expires)
    }
}

/// A client's side.
#[derive(Debug)]
pub struct ClientTls {
    config: Reloaded<ClientConfig>,
    server_name: Option<ServerName<'static>>,
}

/// Where a client's certificates are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Whom to trust; the machine's authorities where it is `None`.
    pub ca: Option<PathBuf>,
    pub pair: Option<Pair>,
    /// What the server's certificate must be for, where it is not the host we dial.
    pub server_name: Option<String>,
}

impl ClientTls {
    pub fn new(files: ClientFiles) -> Result<Self, TlsError> {
        Self::offering(ALPN, files)
    }

    /// For a plain web server.
    pub(super) fn http1(files: ClientFiles) -> Result<Self, TlsError> {
        Self::offering(HTTP1, files)
    }

    fn offering(protocol: &'static [u8], files: ClientFiles) -> Result<Self, TlsError> {
        let server_name = files.server_name.as_deref().map(parse_name).transpose()?;
        let mut watched: Vec<PathBuf> = files.ca.iter().cloned().collect();
        if let Some(pair) = &files.pair {
            watched.extend([pair.cert.clone(), pair.key.clone()]);
        }
        let config = Reloaded::new(watched, move || client_config(&files, protocol))?;
        Ok(Self { config, server_name })
    }

    pub(super) async fn connect(
        &self,
        host: &str,
        socket: impl Socket,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<impl Socket>> {
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => parse_name(host).map_err(std::io::Error::other)?,
        };
        TlsConnector::from(self.config.current()).connect(name, socket).await
    }

    pub fn state(&self) -> &dyn TlsState {
        &self.config
    }

    /// What a connection made now would present. Looks at the files.
    pub fn own(&self) -> Option<Own> {
        self.config.current();
        let state = self.config.lock();
        state.loaded.leaf.as_ref().map(|_| Own { number: state.number, expires: state.loaded.expires() })
    }
}

/// One of the certificates that we presented since start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Counts them.
    pub number: u64,
    pub expires: Option<SystemTime>,
}

fn parse_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

/// What a status or a metric tells of certificates in use.
pub trait TlsState: Send + Sync {
    /// Why the newest files are not in use.
    fn problem(&self) -> Option<String>;
    /// Loads that failed since start, each counted once per state of the files.
    fn failures(&self) -> u64;
    /// When the certificate in use ends.
    fn expires(&self) -> Option<SystemTime>;
}

type Load<T> = Box<dyn Fn() -> Result<Loaded<T>, TlsError> + Send + Sync>;

struct Loaded<T> {
    config: Arc<T>,
    leaf: Option<Leaf>,
}

impl<T> Loaded<T> {
    fn expires(&self) -> Option<SystemTime> {
        self.leaf.as_ref().and_then(|leaf| leaf.valid).map(|(_, until)| until)
    }

    /// What there is to present is valid at `now`.
    fn usable(&self, now: SystemTime) -> Result<(), TlsError> {
        self.leaf.as_ref().map_or(Ok(()), |leaf| leaf.usable(now))
    }
}

/// Our certificate.
struct Leaf {
    der: CertificateDer<'static>,
    path: PathBuf,
    /// From when until when, where that can be read.
    valid: Option<(SystemTime, SystemTime)>,
}

impl Leaf {
    fn first_of(chain: &Chain, path: &Path) -> Option<Self> {
        let der = chain.first()?.clone();
        Some(Self { valid: identity::validity(&der), path: path.to_owned(), der })
    }

    fn usable(&self, now: SystemTime) -> Result<(), TlsError> {
        let Some((from, until)) = self.valid else { return Ok(()) };
        let path = self.path.clone();
        if let Ok(wait) = from.duration_since(now)
            && !wait.is_zero()
        {
            return Err(TlsError::NotYet { path, from, wait });
        }
        match now.duration_since(until) {
            Ok(ago) if !ago.is_zero() => Err(TlsError::Ended { path, until, ago }),
            _ => Ok(()),
        }
    }
}

/// Why the first certificate of the file in `path` is not valid at `now`; what cannot be
/// read is told elsewhere.
pub fn not_valid(path: &Path, now: SystemTime) -> Option<TlsError> {
    Leaf::first_of(&read_chain("certificate", path).ok()?, path)?.usable(now).err()
}

/// A value made of files, made again when one of them changed.
struct Reloaded<T> {
    files: Vec<PathBuf>,
    load: Load<T>,
    state: Mutex<State<T>>,
}

struct State<T> {
    stamp: Vec<Option<Stamp>>,
    loaded: Loaded<T>,
    /// Of our certificate among those in use since start.
    number: u64,
    problem: Option<String>,
    failures: u64,
    /// What the files hold, while it is not valid and what is in use is.
    waiting: Option<Loaded<T>>,
    /// It was said that what is in use is not valid.
    told: bool,
}

impl<T> State<T> {
    /// Uses what was loaded, unless it is not valid now and what is in use is.
    fn offer(&mut self, loaded: Loaded<T>, now: SystemTime) {
        match loaded.usable(now) {
            Err(error) if self.loaded.usable(now).is_ok() => {
                self.refuse(&error);
                self.waiting = Some(loaded);
            }
            _ => self.take(loaded),
        }
    }

    fn take(&mut self, loaded: Loaded<T>) {
        tracing::info!(certificate = ?loaded.leaf.as_ref().map(|leaf| &leaf.path), "certificates loaded again");
        let der = |loaded: &Loaded<T>| loaded.leaf.as_ref().map(|leaf| leaf.der.clone());
        self.number += u64::from(der(&loaded) != der(&self.loaded));
        (self.loaded, self.told) = (loaded, false);
        (self.problem, self.waiting) = (None, None);
    }

    fn refuse(&mut self, error: &TlsError) {
        tracing::warn!(%error, "changed certificates are not usable; those loaded before stay in use");
        self.problem = Some(error.to_string());
        self.failures += 1;
        self.waiting = None;
    }

    /// Time passes: what waits may be valid now, and what is in use may be no longer.
    fn look(&mut self, now: SystemTime) {
        if let Some(waiting) = self.waiting.take() {
            if waiting.usable(now).is_ok() || self.loaded.usable(now).is_err() {
                self.take(waiting);
            } else {
                self.waiting = Some(waiting);
            }
        }
        match self.loaded.usable(now) {
            Err(error) if !self.told => {
                tracing::warn!(%error, "the certificate in use is not valid: who checks it refuses it");
                self.told = true;
            }
            Ok(()) if self.told => {
                tracing::info!("the certificate in use is valid now");
                self.told = false;
            }
            _ => {}
        }
    }
}

/// Tells one state of a file from another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl<T> Reloaded<T> {
    fn new(
        files: Vec<PathBuf>,
        load: impl Fn() -> Result<Loaded<T>, TlsError> + Send + Sync + 'static,
    ) -> Result<Self, TlsError> {
        // The stamp is taken first: what is written while we read makes another one.
        let stamp = stamps(&files);
        let loaded = load()?;
        let mut state = State { stamp, loaded, number: 0, problem: None, failures: 0, waiting: None, told: false };
        state.look(SystemTime::now());
        Ok(Self { files, load: Box::new(load), state: Mutex::new(state) })
    }

    fn current(&self) -> Arc<T> {
        self.current_at(SystemTime::now())
    }

    fn current_at(&self, now: SystemTime) -> Arc<T> {
        let mut state = self.lock();
        let stamp = stamps(&self.files);
        if stamp != state.stamp {
            state.stamp = stamp;
            match (self.load)() {
                Ok(loaded) => state.offer(loaded, now),
                Err(error) => state.refuse(&error),
            }
        }
        state.look(now);
        state.loaded.config.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Send + Sync> TlsState for Reloaded<T> {
    fn problem(&self) -> Option<String> {
        self.lock().problem.clone()
    }

    fn failures(&self) -> u64 {
        self.lock().failures
    }

    fn expires(&self) -> Option<SystemTime> {
        self.lock().loaded.expires()
    }
}

impl<T> fmt::Debug for Reloaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reloaded").field("files", &self.files).finish_non_exhaustive()
    }
}

pub(super) fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let data = std::fs::metadata(path).ok()?;
        let changed = (data.mtime(), data.mtime_nsec());
        Some(Stamp { device: data.dev(), inode: data.ino(), size: data.size(), changed })
    };
    files.iter().map(stamp).collect()
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

const VERSIONS: &[&rustls::SupportedProtocolVersion] = &[&rustls::version::TLS13, &rustls::version::TLS12];

fn server_config(pair: &Pair, clients: &ClientAuth) -> Result<Loaded<ServerConfig>, TlsError> {
    let unusable = |error: rustls::Error| TlsError::Unusable { path: pair.cert.clone(), detail: error.to_string() };
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS).map_err(unusable)?;
    let builder = match clients {
        ClientAuth::None => builder.with_no_client_auth(),
        ClientAuth::Optional(ca) | ClientAuth::Required(ca) => {
            let roots = Arc::new(roots_of(ca)?);
            let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, provider());
            let optional = matches!(clients, ClientAuth::Optional(_));
            let verifier = if optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier =
                verifier.build().map_err(|error| TlsError::Unusable { path: ca.clone(), detail: error.to_string() })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = read_pair(pair)?;
    let leaf = Leaf::first_of(&chain, &pair.cert);
    let mut config = builder.with_single_cert(chain, key).map_err(|error| refused(pair, error))?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    if *clients != ClientAuth::None {
        // A resumed session would skip the check of the client's certificate.
        config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(Loaded { config: config.into(), leaf })
}

fn client_config(files: &ClientFiles, protocol: &[u8]) -> Result<Loaded<ClientConfig>, TlsError> {
    let roots = match &files.ca {
        Some(ca) => roots_of(ca)?,
        None => native_roots()?,
    };
    let unusable = |error: rustls::Error| TlsError::Unusable { path: PathBuf::new(), detail: error.to_string() };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(VERSIONS)
        .map_err(unusable)?
        .with_root_certificates(roots);
    let (mut config, leaf) = match &files.pair {
        None => (builder.with_no_client_auth(), None),
        Some(pair) => {
            let (chain, key) = read_pair(pair)?;
            let leaf = Leaf::first_of(&chain, &pair.cert);
            (builder.with_client_auth_cert(chain, key).map_err(|error| refused(pair, error))?, leaf)
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Loaded { config: config.into(), leaf })
}

fn refused(pair: &Pair, error: rustls::Error) -> TlsError {
    match error {
        rustls::Error::InconsistentKeys(_) => TlsError::Mismatch { cert: pair.cert.clone(), key: pair.key.clone() },
        other => TlsError::Unusable { path: pair.cert.clone(), detail: other.to_string() },
    }
}

type Chain = Vec<CertificateDer<'static>>;

fn read_pair(pair: &Pair) -> Result<(Chain, PrivateKeyDer<'static>), TlsError> {
    let chain = read_chain("certificate", &pair.cert)?;
    let text = read("key", &pair.key)?;
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        rustls::pki_types::pem::Error::NoItemsFound => TlsError::Empty { what: "key", path: pair.key.clone() },
        other => TlsError::NotPem { what: "key", path: pair.key.clone(), detail: other.to_string() },
    })?;
    Ok((chain, key))
}

fn roots_of(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in read_chain("certificate authority", path)? {
        roots
            .add(certificate)
            .map_err(|error| TlsError::Unusable { path: path.to_owned(), detail: error.to_string() })?;
    }
    Ok(roots)
}

fn native_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) }
}

pub(super) fn read_chain(what: &'static str, path: &Path) -> Result<Chain, TlsError> {
    let text = read(what, path)?;
    let chain: Chain = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| TlsError::NotPem { what, path: path.to_owned(), detail: error.to_string() })?;
    if chain.is_empty() { Err(TlsError::Empty { what, path: path.to_owned() }) } else { Ok(chain) }
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable { what, path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
