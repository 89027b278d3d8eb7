//! The table of settings: where each flag of `outpost serve` stands in the
//! file, and what it holds. Doc, default and the names on the command line and
//! in the environment come from the flags themselves.

use super::Flags;
use clap::{Args, Command};

/// What a setting holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    /// The path of a file.
    File,
    /// The path of a directory.
    Directory,
    Number,
    /// `4096`, `512KiB`.
    Size,
    /// `30s`.
    Span,
    Bool,
    /// One of these.
    Choice(&'static [&'static str]),
    Texts,
    /// KEY: VALUE, or a list of KEY=VALUE.
    Pairs,
    /// What an identity may be and have; see [`Authorize`](crate::group::Authorize). Each is JSON on the command line.
    Rules,
}

impl Kind {
    /// For people: what to write.
    pub fn expected(self) -> String {
        match self {
            Self::Text => "text".into(),
            Self::File => "the path of a file".into(),
            Self::Directory => "the path of a directory".into(),
            Self::Number => "a number".into(),
            Self::Size => "a size such as 4096 or 32MiB".into(),
            Self::Span => "a span of time such as 30s".into(),
            Self::Bool => "true or false".into(),
            Self::Choice(choices) => format!("one of {}", choices.join(", ")),
            Self::Texts => "a list of text".into(),
            Self::Pairs => "keys and values, both text".into(),
            Self::Rules => "a list of rules, each with identity, node and names".into(),
        }
    }

    pub(super) fn is_list(self) -> bool {
        matches!(self, Self::Texts | Self::Pairs | Self::Rules)
    }
}

/// One thing that can be set.
#[derive(Clone, Debug)]
pub struct Setting {
    /// How the command line calls it inside.
    pub(super) id: &'static str,
    /// Its place in the file: `downstream.tls.certificate`.
    pub key: &'static str,
    pub kind: Kind,
    /// `--tls-cert`.
    pub flag: String,
    /// `OUTPOST_TLS_CERT`.
    pub env: String,
    /// What it means, in the words of the command line.
    pub doc: String,
    /// Nothing, where it is not set.
    pub default: Vec<String>,
    /// A value to show where there is no default.
    pub example: &'static [&'static str],
}

/// Flag, key, what it holds, and an example where there is no default.
type Row = (&'static str, &'static str, Kind, &'static [&'static str]);

/// Keys of one section stand together.
const ROWS: &[Row] = &[
    ("identifier", "identifier", Kind::Text, &[]),
    ("listen", "downstream.listen", Kind::Texts, &[]),
    ("tls_cert", "downstream.tls.certificate", Kind::File, &["/etc/outpost/tls/tls.crt"]),
    ("tls_key", "downstream.tls.key", Kind::File, &["/etc/outpost/tls/tls.key"]),
    ("client_ca", "downstream.tls.clientCa", Kind::File, &["/etc/outpost/tls/ca.crt"]),
    ("client_auth", "downstream.tls.clientAuth", Kind::Choice(&["required", "optional"]), &[]),
    ("jwt_jwks", "downstream.jwt.jwks", Kind::Text, &["https://kubernetes.default.svc/openid/v1/jwks"]),
    ("jwt_issuer", "downstream.jwt.issuer", Kind::Text, &["https://kubernetes.default.svc.cluster.local"]),
    ("jwt_audience", "downstream.jwt.audiences", Kind::Texts, &["outpost"]),
    ("jwt_ca", "downstream.jwt.ca", Kind::File, &["/var/run/secrets/kubernetes.io/serviceaccount/ca.crt"]),
    (
        "jwt_token_file",
        "downstream.jwt.tokenFile",
        Kind::File,
        &["/var/run/secrets/kubernetes.io/serviceaccount/token"],
    ),
    ("trust_domain", "downstream.trustDomains", Kind::Texts, &["cluster.local"]),
    ("authorize", "downstream.authorize", Kind::Rules, &[]),
    ("drain", "downstream.drain", Kind::Span, &[]),
    ("status_viewer", "downstream.statusViewers", Kind::Texts, &["spiffe://cluster.local/ns/outpost/sa/operator"]),
    ("upstream", "upstream.addresses", Kind::Texts, &["istiod.example:15012"]),
    ("files", "upstream.files", Kind::Directory, &["/etc/outpost/resources"]),
    ("upstream_tls", "upstream.tls.enabled", Kind::Bool, &[]),
    ("upstream_ca", "upstream.tls.ca", Kind::File, &["/etc/outpost/upstream/ca.crt"]),
    ("upstream_cert", "upstream.tls.certificate", Kind::File, &["/etc/outpost/upstream/tls.crt"]),
    ("upstream_key", "upstream.tls.key", Kind::File, &["/etc/outpost/upstream/tls.key"]),
    ("upstream_server_name", "upstream.tls.serverName", Kind::Text, &["istiod.istio-system.svc"]),
    ("upstream_token_file", "upstream.tokenFile", Kind::File, &["/var/run/secrets/tokens/istio-token"]),
    ("upstream_credentials", "upstream.credentials", Kind::Choice(&["own", "file", "member"]), &["file"]),
    ("upstream_metadata", "upstream.metadata", Kind::Pairs, &["ClusterID=edge"]),
    ("upstream_variant", "upstream.variant", Kind::Choice(&["auto", "delta", "sotw"]), &[]),
    ("upstream_connections", "upstream.connections", Kind::Number, &[]),
    ("upstream_max_message_bytes", "upstream.maxMessageBytes", Kind::Size, &[]),
    ("group", "groups.rule", Kind::Text, &[]),
    ("shared_node_id", "groups.sharedNode.id", Kind::Text, &["outpost-{group}"]),
    ("shared_node_metadata", "groups.sharedNode.metadata", Kind::Pairs, &["CLUSTER_ID=edge"]),
    ("sensitive_types", "groups.sensitiveTypes", Kind::Texts, &[]),
    ("secrets", "groups.secrets", Kind::Choice(&["identity", "trustNetwork"]), &[]),
    ("max_connections", "limits.connections", Kind::Number, &[]),
    ("max_pending_bytes", "limits.pendingBytes", Kind::Size, &[]),
    ("max_streams", "limits.streams", Kind::Number, &[]),
    ("max_message_bytes", "limits.messageBytes", Kind::Size, &[]),
    ("max_names", "limits.names", Kind::Number, &[]),
    ("max_name_bytes", "limits.nameBytes", Kind::Size, &[]),
    ("max_metadata_bytes", "limits.metadataBytes", Kind::Size, &[]),
    ("max_metadata_depth", "limits.metadataDepth", Kind::Number, &[]),
    ("max_private_groups", "limits.privateGroups", Kind::Number, &[]),
    ("persist_dir", "persist.dir", Kind::Directory, &["/var/lib/outpost"]),
    ("persist_max_bytes", "persist.maxBytes", Kind::Size, &[]),
    ("persist_encryption_key_file", "persist.encryptionKeyFile", Kind::File, &["/etc/outpost/persist/key"]),
    ("persist_cluster", "persist.cluster", Kind::Text, &["edge"]),
    ("split_bytes", "protocol.splitBytes", Kind::Size, &[]),
    ("no_legacy_wildcard", "protocol.noLegacyWildcard", Kind::Texts, &["type=cds", "agent=gRPC"]),
    ("trust_initial_versions", "protocol.trustInitialVersions", Kind::Choice(&["none", "wildcard", "all"]), &[]),
    ("debug_types", "protocol.debugTypes", Kind::Choice(&["refuse", "pass"]), &[]),
    ("cold_errors", "protocol.coldErrors", Kind::Bool, &[]),
    ("allow_nodeless", "protocol.allowNodeless", Kind::Bool, &[]),
    ("admin", "admin.address", Kind::Text, &[super::Admin::DEFAULT]),
    ("log_format", "log.format", Kind::Choice(&["text", "json"]), &[]),
    ("log_level", "log.level", Kind::Text, &[]),
];

/// What counts for new streams as soon as the file says otherwise: keys, and
/// sections with all in them. The rest is bound to sockets and connections that
/// stand.
const LIVE: &[&str] = &[
    "identifier",
    "downstream.drain",
    "downstream.authorize",
    "downstream.statusViewers",
    "groups.",
    "limits.names",
    "limits.nameBytes",
    "limits.metadataBytes",
    "limits.metadataDepth",
    "protocol.",
    "log.level",
];

/// Without this nothing can be served, and it has no default.
const REQUIRED: &str = "upstream.addresses";

impl Setting {
    /// All of them, in the order of the file.
    pub fn all() -> Vec<Self> {
        let command = Flags::augment_args(Command::new("outpost"));
        let of = |&(id, key, kind, example): &Row| {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id)?;
            let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
            Some(Self {
                id,
                key,
                kind,
                flag: format!("--{}", arg.get_long().unwrap_or(id)),
                env: arg.get_env().map(text).unwrap_or_default(),
                doc: arg.get_help().map(ToString::to_string).unwrap_or_default(),
                default: arg.get_default_values().iter().map(|value| text(value)).collect(),
                example,
            })
        };
        ROWS.iter().filter_map(of).collect()
    }

    /// May its values be credentials, such as a key of an API in request metadata? Then
    /// only their keys are shown.
    pub(super) fn is_secret(&self) -> bool {
        self.kind == Kind::Pairs
    }

    /// Can the setting with this key be replaced while the process runs?
    pub fn is_live(key: &str) -> bool {
        LIVE.iter().any(|live| *live == key || live.ends_with('.') && key.starts_with(live))
    }

    /// What it means, in the words of the file.
    pub(super) fn doc_in_file(&self, settings: &[Self]) -> String {
        let doc = self.doc.strip_suffix(". Can be repeated").unwrap_or(&self.doc);
        let doc = doc.replace(". Repeat for the next priority;", ", and the next where that does not answer;");
        reword(&doc, settings, |setting| setting.key.into())
    }

    pub(super) fn is_required(&self) -> bool {
        self.key == REQUIRED
    }

    /// The last part of the key.
    pub(super) fn name(&self) -> &'static str {
        self.key.rsplit('.').next().unwrap_or(self.key)
    }
}

/// `text` with each flag of a setting in the words of `word`.
pub(super) fn reword(text: &str, settings: &[Setting], word: impl Fn(&Setting) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("--") {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let end = from.find(|c: char| !c.is_ascii_alphanumeric() && c != '-').unwrap_or(from.len());
        let (flag, after) = from.split_at(end);
        match settings.iter().find(|setting| setting.flag == flag) {
            Some(setting) => out.push_str(&word(setting)),
            None => out.push_str(flag),
        }
        rest = after;
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// The drift test: a new flag needs a row above, and a row its flag.
    #[test]
    fn every_flag_is_a_key_and_every_key_a_flag() {
        let command = Flags::augment_args(Command::new("outpost"));
        let flags: BTreeSet<_> = command.get_arguments().map(|arg| arg.get_id().as_str()).collect();
        let rows: BTreeSet<_> = ROWS.iter().map(|row| row.0).collect();
        assert_eq!(flags, rows, "give each flag of serve a key in ROWS, and no other");
        let keys: BTreeSet<_> = ROWS.iter().map(|row| row.1).collect();
        assert_eq!(keys.len(), rows.len(), "a key is given twice");
        for setting in Setting::all() {
            let section = format!("{}.", setting.key);
            assert!(!keys.iter().any(|key| key.starts_with(&section)), "{} is a key and a section", setting.key);
            assert!(setting.env.starts_with("OUTPOST_") && !setting.doc.is_empty(), "{setting:?}");
            assert_eq!(setting.default.is_empty(), !setting.example.is_empty(), "a default or an example: {setting:?}");
        }
    }

    #[test]
    fn flags_are_reworded_whole() {
        let settings = Setting::all();
        let text = "add --upstream-tls or --upstream-ca, not --nothing -- or --tls-key";
        let want = "add upstream.tls.enabled or upstream.tls.ca, not --nothing -- or downstream.tls.key";
        assert_eq!(reword(text, &settings, |setting| setting.key.into()), want);
    }
}
