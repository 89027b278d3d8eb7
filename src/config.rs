//! What an operator asked for, checked: immutable, typed, whole.
//!
//! [`Flags`] are what counts, all text. [`Layers`] makes them of the command
//! line and the environment ([`Given`]) and the file below both.
//! [`Layers::check`] makes a [`Config`] of them, or names every [`Problem`] at
//! once: what is wrong, where, and what to do.
//!
//! The table of [`settings`](Setting) joins a flag to its key in the file. What
//! describes the file is made from it: [`defaults`], [`schema()`], [`effective`].
//!
//! Nothing else in this program reads the environment.

mod address;
mod check;
mod file;
mod flags;
mod identity;
mod layers;
mod print;
mod problem;
mod schema;
mod settings;
mod traces;
mod units;
mod variables;

pub use address::{Endpoint, Listen};
pub use flags::Flags;
pub use layers::{Given, Layers, Origin, Value};
pub use print::{defaults, effective, json};
pub use problem::{Excerpt, Problem, Problems};
pub use schema::schema;
pub use settings::{Kind, Setting};
pub use traces::{Traces, TracesError};
pub use units::{levels, span};
pub use variables::unknown_variables;

use crate::group::Rules;
use crate::xds::node::NodeLimits;
use crate::xds::{Limits, TypeUrl};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything `outpost serve` needs.
#[derive(Clone, Debug)]
pub struct Config {
    /// `ControlPlane.identifier` of every response.
    pub identifier: String,
    pub downstream: Downstream,
    pub upstream: Upstream,
    /// In the place of the upstream.
    pub files: Option<PathBuf>,
    /// `None`: nothing is kept on disk.
    pub persist: Option<Persist>,
    /// Node and identity → group.
    pub rules: Arc<Rules>,
    pub protocol: Protocol,
    pub admin: Admin,
    pub log: Log,
}

impl Config {
    /// What an operator should know at start, because it trusts more than the
    /// default does.
    pub fn warnings(&self) -> Vec<&'static str> {
        let trusting = self.rules.secrets() == crate::group::Secrets::TrustNetwork;
        let open = self.downstream.tls.is_none() && self.downstream.listen.iter().any(|listen| !listen.is_local());
        let named =
            self.downstream.jwt.is_some() || self.downstream.tls.as_ref().is_some_and(|tls| tls.client_ca.is_some());
        let anonymous = named && !self.downstream.proof_required;
        let Downstream { trust_domains, status_viewers, .. } = &self.downstream;
        let asks = !trust_domains.is_empty() || !status_viewers.is_empty() || self.rules.limits_names();
        let idle = asks && !named;
        let unguarded = crate::group::sensitive_types().iter().any(|sds| !self.rules.sensitive().contains(sds));
        let table = [
            (
                idle,
                "--trust-domain, --status-viewer and --authorize are about who a client is, and no client proves it, so \
                 they change nothing; add --client-ca or --jwt-jwks",
            ),
            (
                unguarded && !trusting,
                "--sensitive-types leaves out sds: secrets are served to whoever can connect; name sds too",
            ),
            (
                anonymous,
                "--client-auth optional: who shows neither a certificate nor a token can be any node but gets nothing \
                 that is sensitive; use required where all clients can prove who they are",
            ),
            (
                trusting,
                "--secrets trustNetwork: secrets are served to whoever can connect; use identity where clients have \
                 certificates",
            ),
            (
                open,
                "sidecars connect in plain text, so whoever reaches --listen can state any node and read what it \
                 gets; give --tls-cert, --tls-key and --client-ca",
            ),
        ];
        table.into_iter().filter_map(|(holds, text)| holds.then_some(text)).collect()
    }
}

/// The side towards sidecars.
#[derive(Clone, Debug)]
pub struct Downstream {
    /// At least one.
    pub listen: Vec<Listen>,
    /// `None`: plaintext.
    pub tls: Option<ServerTls>,
    /// `None`: tokens are not looked at.
    pub jwt: Option<Jwt>,
    /// SPIFFE identities of others are refused; of any are taken where this is empty.
    pub trust_domains: Vec<String>,
    /// Nobody is anonymous: a client shows a certificate or a token.
    pub proof_required: bool,
    /// Of all clients together.
    pub connections: usize,
    /// Messages that are half here, of all clients together.
    pub pending_bytes: usize,
    pub limits: PeerLimits,
    /// Groups of one stream each, of all clients together.
    pub private_groups: usize,
    /// Streams end, spread over this time, after a request to stop.
    pub drain: Duration,
    /// Identities that client status tells of every stream.
    pub status_viewers: Vec<String>,
}

/// Files are re-read when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Whom we trust to name clients. `None`: clients are anonymous.
    pub client_ca: Option<PathBuf>,
    /// A client without certificate is refused.
    pub client_required: bool,
}

/// How bearer tokens of clients are verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Jwt {
    pub jwks: Jwks,
    pub issuer: String,
    /// At least one.
    pub audiences: Vec<String>,
    /// Whom to trust when keys are fetched; `None`: the system's roots.
    pub ca: Option<PathBuf>,
    /// What to present there; read each time.
    pub token_file: Option<PathBuf>,
}

/// Where the keys of tokens are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Jwks {
    File(PathBuf),
    Url(String),
}

/// Whose credentials the control plane sees.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Our certificate, if there is one.
    #[default]
    Own,
    /// The token of a file.
    File,
    /// The token that a member of the group presented.
    Member,
}

/// What one peer may do at most.
#[derive(Clone, Copy, Debug)]
pub struct PeerLimits {
    pub streams_per_connection: u32,
    /// One received message.
    pub message_bytes: usize,
    pub ask: Limits,
    pub node: NodeLimits,
}

/// The managed control plane.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Sorted by priority; 0 is tried first. At least one, unless files stand in
    /// its place.
    pub endpoints: Vec<Endpoint>,
    /// `None`: plaintext.
    pub tls: Option<ClientTls>,
    /// Sent as `authorization: Bearer …` on each stream; re-read on change.
    pub token_file: Option<PathBuf>,
    pub credentials: Credentials,
    /// Sent with each stream; names in lower case.
    pub metadata: Vec<(String, String)>,
    pub speak: Speak,
    /// HTTP/2 connections to begin with; it grows to 8 where streams run out.
    pub connections: usize,
    /// One received message.
    pub message_bytes: usize,
}

/// Files are re-read when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientTls {
    /// `None`: the system's roots.
    pub ca: Option<PathBuf>,
    pub certificate: Option<PathBuf>,
    pub key: Option<PathBuf>,
    /// The name to verify instead of the address's host.
    pub server_name: Option<String>,
}

/// Which variant to speak upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Speak {
    /// Delta, and SotW where the server lacks it.
    #[default]
    Auto,
    Delta,
    Sotw,
}

/// What outlives the process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Persist {
    pub directory: PathBuf,
    /// Of all files together.
    pub max_bytes: usize,
    pub key_file: Option<PathBuf>,
    /// Empty where it has no name.
    pub cluster: String,
}

/// Choices that the protocol leaves open.
#[derive(Clone, Debug)]
pub struct Protocol {
    /// For whom an empty first subscription means nothing, not `*` (C-067).
    pub no_legacy_wildcard: Vec<NoWildcard>,
    pub trust_initial_versions: TrustVersions,
    /// A cold name whose upstream cannot answer gets `resource_errors` UNAVAILABLE (T-10).
    pub cold_errors: bool,
    /// A first request may lack the node or its id (C-006).
    pub allow_nodeless: bool,
    /// Istio's debug types are passed on, for clients that are trusted (C-193).
    pub pass_debug: bool,
    /// Responses above this are split where the variant and type allow (C-172).
    pub split_bytes: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoWildcard {
    Type(TypeUrl),
    /// Prefix of `user_agent_name`.
    Agent(String),
}

/// Which stated versions spare a re-send on a new delta stream (C-094).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TrustVersions {
    None,
    /// Those of resources that only the wildcard covers.
    #[default]
    Wildcard,
    All,
}

/// Where operators look in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admin {
    pub address: SocketAddr,
    /// The address was asked for, so that another one will not do.
    pub asked: bool,
}

impl Admin {
    /// The address when none is asked for.
    pub const DEFAULT: &'static str = "127.0.0.1:19901";
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub format: LogFormat,
    /// A level, or a filter as `tracing` reads it: `info,outpost::upstream=debug`.
    pub filter: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

#[cfg(test)]
mod tests;
