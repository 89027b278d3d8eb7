//! What an operator chooses about this side, as the parts here need it:
//! [`Settings`] for as long as the process runs, and the [`Policy`] that may be
//! replaced under way.

use crate::clock::Clock;
use crate::config::{self, Config, Credentials, NoWildcard, TrustVersions};
use crate::group::Rules;
use crate::session::server::{LegacyOff, Settings as SessionSettings, Trust};
use crate::transport::frame::Limit;
use crate::transport::gate::{Gate, Tokens};
use crate::transport::jwks::{Jwks, JwksError, Site, SiteError};
use crate::transport::jwt;
use crate::transport::server::{self, Listen};
use crate::transport::tls::{ClientAuth, Pair, ServerTls, TlsError};
use crate::xds::Timing;
use std::sync::Arc;
use std::time::Duration;

/// What a stream is served by: that which was in force when it began.
#[derive(Clone, Debug)]
pub struct Policy {
    pub session: Arc<SessionSettings>,
    /// Node and identity → group.
    pub rules: Arc<Rules>,
    /// Of one request.
    pub message_limit: Limit,
    /// `control_plane.identifier` of every response.
    pub identifier: Arc<str>,
    /// Debug types are passed on to the control plane (C-193).
    pub pass_debug: bool,
    /// Identities that may see what every stream has.
    pub viewers: Vec<String>,
}

/// Settings of this side that stay.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: Vec<Listen>,
    pub transport: server::Settings,
    /// Bytes that all requests that are half here may hold; never less than one may.
    pub half_requests: usize,
    /// A stream whose first request takes longer is ended, and one whose
    /// request stands still half-way this long.
    pub request_timeout: Duration,
}

/// The id under which clients without a node are served, where they may be (C-006).
const NODELESS: &str = "nodeless";

impl Settings {
    /// Reads the certificates and keys that `config` names.
    pub fn of(config: &Config, clock: &Clock) -> Result<Self, SettingsError> {
        let downstream = &config.downstream;
        let limits = &downstream.limits;
        let listen = downstream.listen.iter().map(|listen| match listen {
            config::Listen::Tcp(address) => Listen::Tcp(*address),
            config::Listen::Unix(path) => Listen::Unix(path.clone()),
        });
        let transport = server::Settings {
            tls: downstream.tls.as_ref().map(|files| tls(files, downstream)).transpose()?.map(Arc::new),
            gate: Arc::new(gate(config, clock)?),
            max_connections: downstream.connections,
            max_streams: limits.streams_per_connection,
            ..server::Settings::default()
        };
        Ok(Self {
            listen: listen.collect(),
            transport,
            half_requests: downstream.pending_bytes.max(limits.message_bytes),
            request_timeout: Duration::from_secs(30),
        })
    }
}

impl Policy {
    pub fn of(config: &Config, timing: Timing) -> Self {
        let bytes = config.downstream.limits.message_bytes;
        Self {
            session: Arc::new(session(config, timing)),
            rules: config.rules.clone(),
            message_limit: Limit { bytes, remedy: "raise --max-message-bytes" },
            identifier: config.identifier.as_str().into(),
            pass_debug: config.protocol.pass_debug,
            viewers: config.downstream.status_viewers.clone(),
        }
    }
}

/// Why what the configuration names cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("TLS towards sidecars: {0}")]
    Tls(#[from] TlsError),
    #[error("--jwt-jwks: {0}")]
    Jwks(#[from] JwksError),
    #[error("--jwt-jwks: {0}")]
    Site(#[from] SiteError),
}

fn gate(config: &Config, clock: &Clock) -> Result<Gate, SettingsError> {
    let downstream = &config.downstream;
    let tokens = downstream.jwt.as_ref().map(|jwt| {
        let jwks = match &jwt.jwks {
            config::Jwks::File(path) => Jwks::file(path.clone(), clock.clone())?,
            config::Jwks::Url(url) => Jwks::url(Site::new(url, jwt.ca.clone(), jwt.token_file.clone())?, clock.clone()),
        };
        let rules = jwt::Rules { issuer: jwt.issuer.clone(), audiences: jwt.audiences.clone() };
        Ok::<_, SettingsError>(Tokens { jwks: Arc::new(jwks), rules })
    });
    Ok(Gate {
        required: downstream.proof_required,
        token_required: config.upstream.credentials == Credentials::Member,
        trust_domains: downstream.trust_domains.clone(),
        tokens: tokens.transpose()?,
    })
}

fn tls(tls: &config::ServerTls, of: &config::Downstream) -> Result<ServerTls, TlsError> {
    let pair = Pair { cert: tls.certificate.clone(), key: tls.key.clone() };
    let clients = match &tls.client_ca {
        None => ClientAuth::None,
        // A client with a token needs no certificate: whether it has one of both is asked later.
        Some(ca) if tls.client_required && of.jwt.is_none() => ClientAuth::Required(ca.clone()),
        Some(ca) => ClientAuth::Optional(ca.clone()),
    };
    ServerTls::new(pair, clients)
}

fn session(config: &Config, timing: Timing) -> SessionSettings {
    let (limits, protocol) = (&config.downstream.limits, &config.protocol);
    let legacy_off = protocol.no_legacy_wildcard.iter().map(|whom| match whom {
        NoWildcard::Type(type_url) => LegacyOff { type_url: Some(type_url.clone()), user_agent_prefix: String::new() },
        NoWildcard::Agent(prefix) => LegacyOff { type_url: None, user_agent_prefix: prefix.clone() },
    });
    SessionSettings {
        timing,
        limits: limits.ask,
        node_limits: limits.node,
        split: protocol.split_bytes,
        legacy_off: legacy_off.collect(),
        trust: match protocol.trust_initial_versions {
            TrustVersions::None => Trust::None,
            TrustVersions::Wildcard => Trust::Wildcard,
            TrustVersions::All => Trust::All,
        },
        cold_errors: protocol.cold_errors,
        default_node: protocol.allow_nodeless.then(|| NODELESS.to_owned()),
    }
}
