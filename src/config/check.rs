//! From flags to a [`Config`], or to everything that is wrong with them.

use super::{
    Admin, ClientTls, Config, Downstream, Endpoint, Flags, Listen, Log, LogFormat, NoWildcard, PeerLimits, Persist,
    Problem, Problems, Protocol, ServerTls, Speak, TrustVersions, Upstream, units,
};
use crate::group::{Grouping, Rules, Secrets, SharedNode};
use crate::xds::node::NodeLimits;
use crate::xds::{Limits, TypeUrl};
use std::path::PathBuf;
use std::sync::Arc;

/// One thing that is wrong, before it is known where its value came from.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub flag: &'static str,
    /// What was given, where one value is to blame.
    pub value: Option<String>,
    /// What is wrong and what to do; flags are named as on the command line.
    pub what: String,
    /// The value is KEY=VALUE, and of that only the key may be told.
    pub secret: bool,
}

impl Finding {
    /// What was given, as it may be told.
    pub(super) fn given(&self) -> String {
        let Some(value) = &self.value else { return String::new() };
        if !self.secret {
            return format!(" {value:?}");
        }
        key_of(value).map(|key| format!(" {key:?}")).unwrap_or_default()
    }
}

/// The key of KEY=VALUE. Without a value, what looks like the key may be one, padded
/// with `=`.
pub(super) fn key_of(text: &str) -> Option<&str> {
    let (key, value) = text.split_once('=')?;
    (key.len() <= 64 && value.chars().any(|c| c != '=')).then_some(key)
}

impl Config {
    /// Checks all flags, and that the files they name can be read.
    pub fn check(flags: &Flags) -> Result<Self, Problems> {
        let (config, findings) = Self::examine(flags);
        let problem = |finding: Finding| {
            let given = finding.given();
            Problem { at: format!("{}{given}", finding.flag), what: finding.what, excerpt: None }
        };
        if findings.is_empty() { Ok(config) } else { Err(Problems(findings.into_iter().map(problem).collect())) }
    }

    /// The configuration, which counts only where nothing is found wrong.
    pub(super) fn examine(flags: &Flags) -> (Self, Vec<Finding>) {
        let mut check = Check::default();
        let config = Self {
            identifier: flags.identifier.clone(),
            downstream: check.downstream(flags),
            upstream: check.upstream(flags),
            files: check.files(flags),
            persist: check.persist(flags),
            rules: Arc::new(check.rules(flags)),
            protocol: check.protocol(flags),
            admin: check.admin(flags.admin.as_deref()),
            log: check.log(flags),
        };
        (config, check.findings)
    }
}

/// Collects problems; a value that is wrong becomes its default meanwhile.
#[derive(Default)]
pub(super) struct Check {
    findings: Vec<Finding>,
}

impl Check {
    pub(super) fn problem(&mut self, flag: &'static str, what: impl Into<String>) {
        self.findings.push(Finding { flag, value: None, what: what.into(), secret: false });
    }

    /// `text` is what was given.
    pub(super) fn refuse(&mut self, flag: &'static str, text: &str, what: impl Into<String>) {
        self.findings.push(Finding { flag, value: Some(text.into()), what: what.into(), secret: false });
    }

    /// `text` is KEY=VALUE, of which the value is not to be told.
    fn refuse_pair(&mut self, flag: &'static str, text: &str, what: &str) {
        self.findings.push(Finding { flag, value: Some(text.into()), what: what.into(), secret: true });
    }

    pub(super) fn take<T>(&mut self, flag: &'static str, text: &str, parsed: Result<T, String>) -> Option<T> {
        parsed.map_err(|what| self.refuse(flag, text, what)).ok()
    }

    pub(super) fn one_of<T: Copy + Default>(&mut self, flag: &'static str, text: &str, choices: &[(&str, T)]) -> T {
        let found = choices.iter().find(|(name, _)| *name == text).map(|(_, value)| *value);
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        let found = found.ok_or_else(|| format!("is none of {}", names.join(", ")));
        self.take(flag, text, found).unwrap_or_default()
    }

    fn count(&mut self, flag: &'static str, text: &str, least: usize, most: usize) -> usize {
        self.take(flag, text, units::count(text, least, most)).unwrap_or(least)
    }

    fn bytes(&mut self, flag: &'static str, text: &str) -> usize {
        self.take(flag, text, units::bytes(text)).unwrap_or(1)
    }

    fn pair(&mut self, flag: &'static str, text: &str) -> Option<(String, String)> {
        let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
        if pair.is_none() {
            self.refuse_pair(flag, text, "is no KEY=VALUE");
        }
        pair.map(|(key, value)| (key.to_owned(), value.to_owned()))
    }

    /// A file that can be read now; it may change later.
    pub(super) fn file(&mut self, flag: &'static str, path: &Option<String>) -> Option<PathBuf> {
        let path = path.as_ref()?;
        match std::fs::metadata(path).and_then(|meta| std::fs::File::open(path).map(|_| meta)) {
            Ok(meta) if meta.is_dir() => self.refuse(flag, path, "is a directory; name a file"),
            Ok(_) => {}
            Err(error) => {
                let what = format!("cannot be read ({error}); name a file that this user may read");
                self.refuse(flag, path, what);
            }
        }
        Some(path.into())
    }

    fn downstream(&mut self, flags: &Flags) -> Downstream {
        let mut listen: Vec<Listen> = Vec::new();
        for text in &flags.listen {
            let Some(address) = self.take("--listen", text, Listen::parse(text)) else { continue };
            let ephemeral = matches!(&address, Listen::Tcp(address) if address.port() == 0);
            if listen.contains(&address) && !ephemeral {
                self.refuse("--listen", text, "is given twice; leave one out");
            }
            listen.push(address);
        }
        if flags.listen.is_empty() {
            self.problem("--listen", "names no address; give one, such as 127.0.0.1:18000");
        }
        let tls = self.server_tls(flags);
        let jwt = self.jwt(flags, tls.is_some() || listen.iter().all(Listen::is_local));
        Downstream {
            listen,
            proof_required: flags.client_auth == "required"
                && (jwt.is_some() || tls.as_ref().is_some_and(|tls| tls.client_ca.is_some())),
            tls,
            jwt,
            trust_domains: self.trust_domains(flags),
            connections: self.count("--max-connections", &flags.max_connections, 1, 1_000_000),
            pending_bytes: self.bytes("--max-pending-bytes", &flags.max_pending_bytes),
            limits: self.limits(flags),
            private_groups: self.count("--max-private-groups", &flags.max_private_groups, 0, 1_000_000),
            drain: self.take("--drain", &flags.drain, units::span(&flags.drain)).unwrap_or_default(),
            status_viewers: self.status_viewers(flags),
        }
    }

    fn status_viewers(&mut self, flags: &Flags) -> Vec<String> {
        if flags.status_viewer.iter().any(|viewer| viewer.trim().is_empty()) {
            self.problem("--status-viewer", "names nobody; give an identity, such as spiffe://…/sa/operator");
        }
        flags.status_viewer.clone()
    }

    fn server_tls(&mut self, flags: &Flags) -> Option<ServerTls> {
        let certificate = self.file("--tls-cert", &flags.tls_cert);
        let key = self.file("--tls-key", &flags.tls_key);
        let client_ca = self.file("--client-ca", &flags.client_ca);
        let modes = [("required", true), ("optional", false)];
        let client_required = self.one_of("--client-auth", &flags.client_auth, &modes);
        match (certificate, key) {
            (Some(certificate), Some(key)) => Some(ServerTls { certificate, key, client_ca, client_required }),
            (Some(_), None) => {
                self.problem("--tls-cert", "is given without its key; add --tls-key");
                None
            }
            (None, Some(_)) => {
                self.problem("--tls-key", "is given without its certificate; add --tls-cert");
                None
            }
            (None, None) => {
                if client_ca.is_some() {
                    self.problem("--client-ca", "verifies clients by TLS; add --tls-cert and --tls-key");
                }
                None
            }
        }
    }

    fn limits(&mut self, flags: &Flags) -> PeerLimits {
        let streams = self.count("--max-streams", &flags.max_streams, 1, 1_000_000);
        PeerLimits {
            streams_per_connection: u32::try_from(streams).unwrap_or(u32::MAX),
            message_bytes: self.bytes("--max-message-bytes", &flags.max_message_bytes),
            ask: Limits {
                names: self.count("--max-names", &flags.max_names, 1, 100_000_000),
                name_bytes: self.bytes("--max-name-bytes", &flags.max_name_bytes),
            },
            node: NodeLimits {
                metadata_bytes: self.bytes("--max-metadata-bytes", &flags.max_metadata_bytes),
                // Deeper metadata would be read by recursion without end.
                metadata_depth: self.count("--max-metadata-depth", &flags.max_metadata_depth, 1, 200),
            },
        }
    }

    fn upstream(&mut self, flags: &Flags) -> Upstream {
        let mut endpoints = Vec::new();
        // The environment has one value for all priorities: blanks separate them.
        let priorities = flags.upstream.iter().flat_map(|text| text.split_whitespace());
        for (priority, equal) in priorities.enumerate() {
            for text in equal.split(',') {
                endpoints.extend(self.take("--upstream", text, Endpoint::parse(text, priority)));
            }
        }
        if flags.files.is_none() && flags.upstream.iter().all(|text| text.trim().is_empty()) {
            let what = "is missing; name the control plane, such as istiod.example:15012, or a directory with --files";
            self.problem("--upstream", what);
        }
        let tls = self.client_tls(flags);
        let token_file = self.file("--upstream-token-file", &flags.upstream_token_file);
        if token_file.is_some() && tls.is_none() {
            self.problem("--upstream-token-file", "would be sent in plain text; add --upstream-tls or --upstream-ca");
        }
        let credentials = self.credentials(flags, tls.as_ref());
        let variants = [("auto", Speak::Auto), ("delta", Speak::Delta), ("sotw", Speak::Sotw)];
        Upstream {
            endpoints,
            tls,
            token_file,
            credentials,
            metadata: self.metadata(flags),
            speak: self.one_of("--upstream-variant", &flags.upstream_variant, &variants),
            connections: self.count("--upstream-connections", &flags.upstream_connections, 1, 8),
            message_bytes: self.bytes("--upstream-max-message-bytes", &flags.upstream_max_message_bytes),
        }
    }

    /// A directory that can be read now. What is in it may be mended while it is
    /// watched, so that is looked at later.
    fn files(&mut self, flags: &Flags) -> Option<PathBuf> {
        let path = flags.files.as_ref()?;
        if flags.upstream.iter().any(|text| !text.trim().is_empty()) {
            let what = "stands in the place of a control plane, and --upstream names one; leave one of them out";
            self.refuse("--files", path, what);
        }
        match std::fs::read_dir(path) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
                self.refuse("--files", path, "is no directory; name the one that the files are in");
            }
            Err(error) => {
                let what = format!("cannot be read ({error}); name a directory that this user may read");
                self.refuse("--files", path, what);
            }
        }
        Some(path.into())
    }

    /// A directory that may still have to be made, and that may not be written yet: that
    /// is told while it runs, and takes nothing from sidecars.
    fn persist(&mut self, flags: &Flags) -> Option<Persist> {
        let key_file = self.file("--persist-encryption-key-file", &flags.persist_encryption_key_file);
        let max_bytes = self.bytes("--persist-max-bytes", &flags.persist_max_bytes);
        let Some(directory) = &flags.persist_dir else {
            if flags.persist_encryption_key_file.is_some() || flags.persist_cluster.is_some() {
                self.problem(
                    "--persist-dir",
                    "is missing, so that nothing is kept; name a directory, or leave the other --persist flags out",
                );
            }
            return None;
        };
        if directory.is_empty() || std::fs::metadata(directory).is_ok_and(|meta| !meta.is_dir()) {
            self.refuse("--persist-dir", directory, "is no directory; name one that this user may write to");
        }
        if flags.files.is_some() {
            self.problem(
                "--persist-dir",
                "keeps what a control plane says, and --files stands in its place; leave one of them out",
            );
        }
        let cluster = flags.persist_cluster.clone().unwrap_or_default();
        Some(Persist { directory: directory.into(), max_bytes, key_file, cluster })
    }

    fn client_tls(&mut self, flags: &Flags) -> Option<ClientTls> {
        let tls = ClientTls {
            ca: self.file("--upstream-ca", &flags.upstream_ca),
            certificate: self.file("--upstream-cert", &flags.upstream_cert),
            key: self.file("--upstream-key", &flags.upstream_key),
            server_name: flags.upstream_server_name.clone(),
        };
        if tls.certificate.is_some() != tls.key.is_some() {
            self.problem("--upstream-cert", "and --upstream-key belong together; give both or none");
        }
        (flags.upstream_tls || tls != ClientTls::default()).then_some(tls)
    }

    fn metadata(&mut self, flags: &Flags) -> Vec<(String, String)> {
        let mut metadata = Vec::new();
        for text in &flags.upstream_metadata {
            let Some((key, value)) = self.pair("--upstream-metadata", text) else { continue };
            let key = key.to_ascii_lowercase();
            let bad = http::HeaderName::from_bytes(key.as_bytes()).is_err()
                || http::HeaderValue::from_str(&value).is_err()
                || key.starts_with("grpc-")
                || key.ends_with("-bin")
                || ["content-type", "te"].contains(&key.as_str());
            if bad {
                self.refuse_pair("--upstream-metadata", text, "is no request metadata that gRPC lets us set");
            }
            metadata.push((key, value));
        }
        metadata
    }

    fn rules(&mut self, flags: &Flags) -> Rules {
        let grouping = flags.group.parse::<Grouping>().map_err(|error| error.to_string());
        let grouping = self.take("--group", &flags.group, grouping);
        let modes = [("identity", Secrets::Identity), ("trustNetwork", Secrets::TrustNetwork)];
        let secrets = self.one_of("--secrets", &flags.secrets, &modes);
        let pairs = flags.shared_node_metadata.iter();
        let metadata = pairs.filter_map(|text| self.pair("--shared-node-metadata", text)).collect();
        let shared = SharedNode { id: flags.shared_node_id.clone(), metadata };
        let authorize = self.authorize(flags);
        let sensitive = self.sensitive_types(flags);
        let Some(grouping) = grouping else { return Rules::default() };
        let rules = Rules::new(grouping, secrets, shared).map_err(|error| error.to_string());
        let rules = self.take("--shared-node-id", flags.shared_node_id.as_deref().unwrap_or_default(), rules);
        let rules = rules.unwrap_or_default().authorized_by(authorize).guarding(sensitive);
        if flags.upstream_credentials.as_deref() == Some("member") { rules.by_identity() } else { rules }
    }

    fn protocol(&mut self, flags: &Flags) -> Protocol {
        let trust = [("none", TrustVersions::None), ("wildcard", TrustVersions::Wildcard), ("all", TrustVersions::All)];
        let mut no_legacy_wildcard = Vec::new();
        for text in &flags.no_legacy_wildcard {
            no_legacy_wildcard.extend(self.take("--no-legacy-wildcard", text, no_wildcard(text)));
        }
        Protocol {
            no_legacy_wildcard,
            trust_initial_versions: self.one_of("--trust-initial-versions", &flags.trust_initial_versions, &trust),
            cold_errors: flags.cold_errors,
            allow_nodeless: flags.allow_nodeless,
            pass_debug: self.one_of("--debug-types", &flags.debug_types, &[("refuse", false), ("pass", true)]),
            split_bytes: self.bytes("--split-bytes", &flags.split_bytes),
        }
    }

    fn admin(&mut self, given: Option<&str>) -> Admin {
        let text = given.unwrap_or(Admin::DEFAULT);
        let address = text.parse().map_err(|_| "is no IP:PORT".to_string());
        let address = self.take("--admin", text, address).unwrap_or_else(|| ([127, 0, 0, 1], 0).into());
        Admin { address, asked: given.is_some() }
    }

    fn log(&mut self, flags: &Flags) -> Log {
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        self.take("--log-level", &flags.log_level, super::levels(&flags.log_level));
        Log { format: self.one_of("--log-format", &flags.log_format, &formats), filter: flags.log_level.clone() }
    }
}

fn no_wildcard(text: &str) -> Result<NoWildcard, String> {
    match text.split_once('=') {
        Some(("agent", prefix)) if !prefix.is_empty() => Ok(NoWildcard::Agent(prefix.into())),
        Some(("type", name)) => {
            let full = name.contains('/').then(|| TypeUrl::new(name));
            let found = full.or_else(|| TypeUrl::from_short(name));
            found.map(NoWildcard::Type).ok_or_else(|| "names no type; write cds, lds, … or a whole type URL".into())
        }
        _ => Err("is neither type=TYPE nor agent=PREFIX".into()),
    }
}
