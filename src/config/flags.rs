//! The command line of `outpost serve`, and the environment beside it.
//!
//! Every value is text here, so that [`Config::check`](super::Config::check)
//! can name all that is wrong at once.

use crate::group::authorize::DEFAULTS as AUTHORIZE;
use clap::ArgAction::Set;
use clap::Args;

/// Flags of `outpost serve`. Each can be given as OUTPOST_… in the environment.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Downstream: the side towards sidecars")]
pub struct Flags {
    /// Serve xDS here: IP:PORT or unix:PATH. Can be repeated
    #[arg(long, env = "OUTPOST_LISTEN", value_delimiter = ',', value_name = "ADDR", default_value = "127.0.0.1:18000")]
    pub listen: Vec<String>,
    /// Certificate chain of the server (PEM); re-read when it changes
    #[arg(long, env = "OUTPOST_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<String>,
    /// Private key of the server (PEM); re-read when it changes
    #[arg(long, env = "OUTPOST_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<String>,
    /// Verify clients against these roots (PEM): their URI or DNS name is their identity
    #[arg(long, env = "OUTPOST_CLIENT_CA", value_name = "FILE")]
    pub client_ca: Option<String>,
    /// With --client-ca or --jwt-jwks: must a client prove who it is? required or optional
    #[arg(long, env = "OUTPOST_CLIENT_AUTH", value_name = "MODE", default_value = "required")]
    pub client_auth: String,
    /// Verify bearer tokens (JWT) by the keys of this JWKS: a file, or an https URL that is fetched every 5 min
    #[arg(long, env = "OUTPOST_JWT_JWKS", value_name = "FILE|URL")]
    pub jwt_jwks: Option<String>,
    /// The issuer (iss) that tokens must name
    #[arg(long, env = "OUTPOST_JWT_ISSUER", value_name = "TEXT")]
    pub jwt_issuer: Option<String>,
    /// An audience (aud) of which tokens must name one. Can be repeated
    #[arg(long, env = "OUTPOST_JWT_AUDIENCE", value_name = "TEXT", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,
    /// Fetch --jwt-jwks from a server of these roots (PEM), not of the system's
    #[arg(long, env = "OUTPOST_JWT_CA", value_name = "FILE")]
    pub jwt_ca: Option<String>,
    /// Bearer token to present where --jwt-jwks is fetched; re-read each time
    #[arg(long, env = "OUTPOST_JWT_TOKEN_FILE", value_name = "FILE")]
    pub jwt_token_file: Option<String>,
    /// Take SPIFFE identities of this trust domain, and of no others; Kubernetes tokens are of the first. Can be repeated
    #[arg(long, env = "OUTPOST_TRUST_DOMAIN", value_name = "NAME", value_delimiter = ',')]
    pub trust_domain: Vec<String>,
    /// Which nodes an identity may be, and which names it may have: the first rule that fits counts. Each is JSON on the command line. Can be repeated
    #[arg(long, env = "OUTPOST_AUTHORIZE", value_name = "RULE", default_values = AUTHORIZE)]
    pub authorize: Vec<String>,
    /// After SIGTERM streams end spread over this time
    #[arg(long, env = "OUTPOST_DRAIN", value_name = "TIME", default_value = "30s")]
    pub drain: String,
    /// An identity that client status (CSDS) tells of every sidecar, not only of its own. Can be repeated
    #[arg(long, env = "OUTPOST_STATUS_VIEWER", value_name = "IDENTITY", value_delimiter = ',')]
    pub status_viewer: Vec<String>,
    /// What responses state as control_plane.identifier
    #[arg(long, env = "OUTPOST_IDENTIFIER", value_name = "TEXT", default_value = "outpost")]
    pub identifier: String,

    /// The control plane: HOST:PORT. Repeat for the next priority; commas within one are equal
    #[arg(long, env = "OUTPOST_UPSTREAM", value_name = "ADDR", help_heading = UPSTREAM)]
    pub upstream: Vec<String>,
    /// Serve the resources of this directory (YAML, JSON), in the place of a control plane; re-read when it changes
    #[arg(long, env = "OUTPOST_FILES", value_name = "DIR", help_heading = UPSTREAM)]
    pub files: Option<String>,
    /// Use TLS, verified against the system's roots
    #[arg(long, env = "OUTPOST_UPSTREAM_TLS", value_name = "BOOL", help_heading = UPSTREAM)]
    #[arg(action = Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub upstream_tls: bool,
    /// Use TLS, verified against these roots (PEM); re-read when it changes
    #[arg(long, env = "OUTPOST_UPSTREAM_CA", value_name = "FILE", help_heading = UPSTREAM)]
    pub upstream_ca: Option<String>,
    /// Certificate chain to show the control plane (PEM)
    #[arg(long, env = "OUTPOST_UPSTREAM_CERT", value_name = "FILE", help_heading = UPSTREAM)]
    pub upstream_cert: Option<String>,
    /// Private key for --upstream-cert (PEM)
    #[arg(long, env = "OUTPOST_UPSTREAM_KEY", value_name = "FILE", help_heading = UPSTREAM)]
    pub upstream_key: Option<String>,
    /// The name that the control plane's certificate must carry, instead of the host
    #[arg(long, env = "OUTPOST_UPSTREAM_SERVER_NAME", value_name = "NAME", help_heading = UPSTREAM)]
    pub upstream_server_name: Option<String>,
    /// Bearer token to present; re-read when it changes. Needs TLS
    #[arg(long, env = "OUTPOST_UPSTREAM_TOKEN_FILE", value_name = "FILE", help_heading = UPSTREAM)]
    pub upstream_token_file: Option<String>,
    /// Whose credentials open streams: own (--upstream-cert), file (--upstream-token-file), or member (the token that a sidecar of the group sent)
    #[arg(long, env = "OUTPOST_UPSTREAM_CREDENTIALS", value_name = "WHOSE", help_heading = UPSTREAM)]
    pub upstream_credentials: Option<String>,
    /// Request metadata to send, such as ClusterID=edge. Can be repeated
    #[arg(long, env = "OUTPOST_UPSTREAM_METADATA", value_name = "KEY=VALUE", value_delimiter = ',', help_heading = UPSTREAM)]
    pub upstream_metadata: Vec<String>,
    /// Variant to speak: auto (delta, and sotw where that is lacking), delta or sotw
    #[arg(long, env = "OUTPOST_UPSTREAM_VARIANT", value_name = "VARIANT", default_value = "auto", help_heading = UPSTREAM)]
    pub upstream_variant: String,
    /// HTTP/2 connections to begin with; grows to 8 where streams run out
    #[arg(long, env = "OUTPOST_UPSTREAM_CONNECTIONS", value_name = "N", default_value = "2", help_heading = UPSTREAM)]
    pub upstream_connections: String,

    /// One message that the control plane sends
    #[arg(long, env = "OUTPOST_UPSTREAM_MAX_MESSAGE_BYTES", value_name = "SIZE", default_value = "200MiB", help_heading = UPSTREAM)]
    pub upstream_max_message_bytes: String,

    /// Who shares a stream: perNode, all, or a template such as {cluster}/{metadata.NAMESPACE}
    #[arg(long, env = "OUTPOST_GROUP", value_name = "RULE", default_value = "perNode", help_heading = GROUPS)]
    pub group: String,
    /// Node id that shared groups present; {group} and the rule's fields may stand in it
    #[arg(long, env = "OUTPOST_SHARED_NODE_ID", value_name = "TEXT", help_heading = GROUPS)]
    pub shared_node_id: Option<String>,
    /// Node metadata that shared groups present. Can be repeated
    #[arg(long, env = "OUTPOST_SHARED_NODE_METADATA", value_name = "KEY=VALUE", value_delimiter = ',', help_heading = GROUPS)]
    pub shared_node_metadata: Vec<String>,
    /// Types whose resources are credentials, such as sds: see --secrets. Can be repeated
    #[arg(long, env = "OUTPOST_SENSITIVE_TYPES", value_name = "TYPE", value_delimiter = ',', default_value = "sds", help_heading = GROUPS)]
    pub sensitive_types: Vec<String>,
    /// Serve sensitive types to: identity (verified clients only) or trustNetwork (whoever connects)
    #[arg(long, env = "OUTPOST_SECRETS", value_name = "MODE", default_value = "identity", help_heading = GROUPS)]
    pub secrets: String,

    /// Connections of all clients; one more is closed at once
    #[arg(long, env = "OUTPOST_MAX_CONNECTIONS", value_name = "N", default_value = "20000", help_heading = LIMITS)]
    pub max_connections: String,
    /// Messages of all clients that are half here, together; never less than one may have
    #[arg(long, env = "OUTPOST_MAX_PENDING_BYTES", value_name = "SIZE", default_value = "512MiB", help_heading = LIMITS)]
    pub max_pending_bytes: String,
    /// Streams of one connection
    #[arg(long, env = "OUTPOST_MAX_STREAMS", value_name = "N", default_value = "1000", help_heading = LIMITS)]
    pub max_streams: String,
    /// One message that a client sends
    #[arg(long, env = "OUTPOST_MAX_MESSAGE_BYTES", value_name = "SIZE", default_value = "32MiB", help_heading = LIMITS)]
    pub max_message_bytes: String,
    /// Names of one type that a stream subscribes to
    #[arg(long, env = "OUTPOST_MAX_NAMES", value_name = "N", default_value = "200000", help_heading = LIMITS)]
    pub max_names: String,
    /// One resource name
    #[arg(long, env = "OUTPOST_MAX_NAME_BYTES", value_name = "SIZE", default_value = "4KiB", help_heading = LIMITS)]
    pub max_name_bytes: String,
    /// The metadata of a node
    #[arg(long, env = "OUTPOST_MAX_METADATA_BYTES", value_name = "SIZE", default_value = "1MiB", help_heading = LIMITS)]
    pub max_metadata_bytes: String,
    /// Nesting of the metadata of a node
    #[arg(long, env = "OUTPOST_MAX_METADATA_DEPTH", value_name = "N", default_value = "32", help_heading = LIMITS)]
    pub max_metadata_depth: String,
    /// Groups of one stream each, for what must not be shared; each is a stream at the control plane
    #[arg(long, env = "OUTPOST_MAX_PRIVATE_GROUPS", value_name = "N", default_value = "10000", help_heading = LIMITS)]
    pub max_private_groups: String,

    /// Keep what is held in this directory, so that a restart without the control plane serves it
    #[arg(long, env = "OUTPOST_PERSIST_DIR", value_name = "DIR", help_heading = PERSIST)]
    pub persist_dir: Option<String>,
    /// All of it together; it holds what is held twice, and thrice for a moment
    #[arg(long, env = "OUTPOST_PERSIST_MAX_BYTES", value_name = "SIZE", default_value = "2GiB", help_heading = PERSIST)]
    pub persist_max_bytes: String,
    /// Encrypt it with the key of this file: 32 bytes, or 64 hex digits. Without one ECDS is not kept
    #[arg(long, env = "OUTPOST_PERSIST_ENCRYPTION_KEY_FILE", value_name = "FILE", help_heading = PERSIST)]
    pub persist_encryption_key_file: Option<String>,
    /// What this cluster is called: what was kept under another name is not used
    #[arg(long, env = "OUTPOST_PERSIST_CLUSTER", value_name = "NAME", help_heading = PERSIST)]
    pub persist_cluster: Option<String>,

    /// Split responses above this size where the protocol allows
    #[arg(long, env = "OUTPOST_SPLIT_BYTES", value_name = "SIZE", default_value = "3.5MiB", help_heading = PROTOCOL)]
    pub split_bytes: String,
    /// An empty first subscription means nothing, not *, for type=TYPE or agent=PREFIX. Can be repeated
    #[arg(long, env = "OUTPOST_NO_LEGACY_WILDCARD", value_name = "WHAT", value_delimiter = ',', help_heading = PROTOCOL)]
    pub no_legacy_wildcard: Vec<String>,
    /// Do not re-send on a new delta stream what is stated at the current version: none, wildcard or all
    #[arg(long, env = "OUTPOST_TRUST_INITIAL_VERSIONS", value_name = "WHAT", default_value = "wildcard", help_heading = PROTOCOL)]
    pub trust_initial_versions: String,
    /// Istio's debug types: refuse (no answer), or pass on for verified clients, or all with --secrets trustNetwork
    #[arg(long, env = "OUTPOST_DEBUG_TYPES", value_name = "MODE", default_value = "refuse", help_heading = PROTOCOL)]
    pub debug_types: String,
    /// Answer names that cannot be fetched with resource_errors instead of holding the answer
    #[arg(long, env = "OUTPOST_COLD_ERRORS", value_name = "BOOL", help_heading = PROTOCOL)]
    #[arg(action = Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub cold_errors: bool,
    /// Serve clients whose first request has no node, or one without id
    #[arg(long, env = "OUTPOST_ALLOW_NODELESS", value_name = "BOOL", help_heading = PROTOCOL)]
    #[arg(action = Set, num_args = 0..=1, require_equals = true, default_value = "false", default_missing_value = "true")]
    pub allow_nodeless: bool,

    /// Health, metrics and state over HTTP [default: 127.0.0.1:19901, or a free port where that is taken]
    #[arg(long, env = "OUTPOST_ADMIN", value_name = "ADDR", help_heading = OPERATION)]
    pub admin: Option<String>,
    /// text or json
    #[arg(long, env = "OUTPOST_LOG_FORMAT", value_name = "FORMAT", default_value = "text", help_heading = OPERATION)]
    pub log_format: String,
    /// error, warn, info, debug, trace, or a filter such as info,outpost::upstream=debug
    #[arg(long, env = "OUTPOST_LOG_LEVEL", value_name = "FILTER", default_value = "info", help_heading = OPERATION)]
    pub log_level: String,
}

const UPSTREAM: &str = "Upstream: the managed control plane";
const GROUPS: &str = "Groups";
const LIMITS: &str = "Limits on what clients may do";
const PERSIST: &str = "The disk cache";
const PROTOCOL: &str = "Protocol";
const OPERATION: &str = "Operation";
