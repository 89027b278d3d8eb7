//! Runs the table bad_input.txt: what is given at start against the real
//! program, what a control plane sends against an Outpost in this process, with
//! a sidecar that must go on being served.

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

use clap::Parser;
use outpost::app::{self, Running};
use outpost::cli::{Cli, Verb};
use outpost::clock::Clock;
use outpost::config::Layers;
use outpost::proto::core::Node;
use outpost::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outpost::proto::discovery::{DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource};
use outpost::proto::protobuf::Any;
use outpost::transport::frame::{Budget, Limit};
use outpost::transport::server::{self, Bound, Call, Handler, Listen};
use outpost::xds::{Ask, Limits, Status, code};
use prost::Message;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use support::tls::Authority;
use support::{check, eventually, http};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio_stream::StreamExt;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

/// The rows with so many columns.
fn rows(columns: usize) -> Vec<Vec<&'static str>> {
    let lines = include_str!("bad_input.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows: Vec<Vec<_>> = lines.map(|line| line.split('|').map(str::trim).collect()).collect();
    assert!(rows.iter().all(|row| [2, 3, 4].contains(&row.len())), "a row has too many columns or too few");
    rows.into_iter().filter(|row| row.len() == columns).collect()
}

struct Files {
    cert: String,
    key: String,
    other_key: String,
    text: String,
    /// `text`, as an address.
    unix: String,
    /// Configuration files.
    unknown: String,
    duplicate: String,
    typed: String,
    two: String,
    broken: String,
    rule: String,
    binary: String,
    /// Sets of keys.
    private: String,
    shared: String,
}

/// What a file holds that must stay as it is.
const TEXT: &str = "no certificate";

impl Files {
    fn write(dir: &Path) -> Self {
        let authority = Authority::new();
        let one = authority.write(dir, "one", &authority.server("localhost"));
        let other = authority.write(dir, "other", &authority.server("localhost"));
        let text = dir.join("text");
        std::fs::write(&text, TEXT).unwrap();
        let name = |path: &Path| path.to_str().unwrap().to_owned();
        let (cert, key, other_key, text) = (name(&one.certificate), name(&one.key), name(&other.key), name(&text));
        let config = |name: &str, text: &str| {
            std::fs::write(dir.join(name), text).unwrap();
            dir.join(name).to_str().unwrap().to_owned()
        };
        Self {
            cert,
            key,
            other_key,
            unix: format!("unix:{text}"),
            text,
            unknown: config("unknown.yaml", "limits:\n  strems: 5\n"),
            duplicate: config("duplicate.yaml", "log: {level: info}\nlog: {format: json}\n"),
            typed: config("typed.yaml", "limits:\n  streams: many\n"),
            two: config("two.yaml", "limits: {streams: many}\nlog: {level: loud=very}\n"),
            broken: config("broken.yaml", "limits: {streams: 5\n"),
            binary: {
                std::fs::write(dir.join("binary.yaml"), [0xff, 0xfe, 0]).unwrap();
                name(&dir.join("binary.yaml"))
            },
            private: config("private.json", r#"{"keys": [{"kty": "EC", "crv": "P-256", "d": "AA"}]}"#),
            shared: config("shared.json", r#"{"keys": [{"kty": "oct", "k": "AA"}]}"#),
            rule: config("rule.yaml", "downstream:\n  authorize:\n    - identity: a\n    - identity: \"{a}{b}\"\n"),
        }
    }
}

/// With what tokens must say.
fn jwt(jwks: &str) -> Vec<(&str, &str)> {
    vec![("--jwt-jwks", jwks), ("--jwt-issuer", "https://issuer.test"), ("--jwt-audience", "outpost")]
}

/// The flags of a row, and what it gives in the environment.
fn flags(input: &str, files: &Files, taken: &str) -> (Vec<String>, Vec<(String, String)>) {
    let Files { cert, key, other_key, text, unix, unknown, duplicate, typed, two, broken, rule, .. } = files;
    let Files { binary, private, shared, .. } = files;
    let flags: Vec<(&str, &str)> = match input {
        "no control plane" => vec![("--upstream", "")],
        "unknown flag" => vec![("--nothing", "1")],
        "listen port in use" => vec![("--listen", taken)],
        "a cache in a file" => vec![("--persist-dir", text)],
        "a name of a cluster, and no cache" => vec![("--persist-cluster", "edge")],
        "a key of the cache is missing" => {
            vec![("--persist-dir", "/nonexistent"), ("--persist-encryption-key-file", "/nonexistent")]
        }
        "a key of the cache is no key" => {
            vec![("--persist-dir", "/nonexistent"), ("--persist-encryption-key-file", text)]
        }
        "a cache beside files" => vec![("--upstream", ""), ("--files", "/tmp"), ("--persist-dir", "/nonexistent")],
        "status viewer without name" => vec![("--status-viewer", " ")],
        "admin port in use" => vec![("--admin", taken)],
        "unix socket without its path" => vec![("--listen", "unix:/nonexistent/socket")],
        "unix socket where a file is" => vec![("--listen", unix)],
        "certificate is missing" => vec![("--tls-cert", "/nonexistent"), ("--tls-key", key)],
        "certificate is no PEM" => vec![("--tls-cert", text), ("--tls-key", key)],
        "certificate without key" => vec![("--tls-cert", cert)],
        "mismatched key" => vec![("--tls-cert", cert), ("--tls-key", other_key)],
        "client CA holds a key" => vec![("--tls-cert", cert), ("--tls-key", key), ("--client-ca", key)],
        "upstream CA is missing" => vec![("--upstream-ca", "/nonexistent")],
        "token in plain text" => vec![("--upstream-token-file", text)],
        "keys of tokens are missing" => jwt("/nonexistent"),
        "keys of tokens are no JWKS" => jwt(text),
        "keys of tokens over plain HTTP" => jwt("http://issuer.example/keys"),
        "tokens in plain text" => [jwt(text), vec![("--listen", "0.0.0.0:0")]].concat(),
        "tokens of any issuer" => vec![("--jwt-jwks", text), ("--jwt-audience", "outpost")],
        "tokens for any audience" => vec![("--jwt-jwks", text), ("--jwt-issuer", "https://issuer.test")],
        "an issuer without keys" => vec![("--jwt-issuer", "https://issuer.test")],
        "a trust domain with its scheme" => vec![("--trust-domain", "spiffe://mesh.example")],
        "a rule that is no JSON" => vec![("--authorize", "everybody")],
        "a rule with an unknown key" => vec![("--authorize", "{\"identity\": \"**\", \"nodes\": {}}")],
        "a rule with an unknown part" => {
            vec![("--authorize", "{\"identity\": \"**\", \"node\": {\"cluster\": \"{ns}\"}}")]
        }
        "config with a bad rule" => vec![("--config", rule)],
        "an unknown sensitive type" => vec![("--sensitive-types", "secrets")],
        "tokens of members in plain text" => vec![("--upstream-credentials", "member")],
        "a token of its own beside those of members" => {
            vec![("--upstream-credentials", "member"), ("--upstream-token-file", text), ("--upstream-tls", "true")]
        }
        "credentials of a file that is not named" => vec![("--upstream-credentials", "file")],
        "files are missing" => vec![("--upstream", ""), ("--files", "/nonexistent")],
        "files are no directory" => vec![("--upstream", ""), ("--files", text)],
        "files and a control plane" => vec![("--files", "/")],
        "config is missing" => vec![("--config", "/nonexistent.yaml")],
        "config is no configuration" => vec![("--config", text)],
        "config is no YAML" => vec![("--config", broken)],
        "config with an unknown key" => vec![("--config", unknown)],
        "config with a duplicate key" => vec![("--config", duplicate)],
        "config with a wrong type" => vec![("--config", typed)],
        "config with two errors" => vec![("--config", two)],
        "config that is not text" => vec![("--config", binary)],
        "config that is a directory" => vec![("--config", "/")],
        "a variable that is no number" => vec![("OUTPOST_MAX_NAMES", "x")],
        "a flag that is no number" => vec![("--max-names", "0")],
        "a flag that is no size" => vec![("--max-pending-bytes", "5XB")],
        "a flag that is no time" => vec![("--drain", "long")],
        "a flag that is no choice" => vec![("--secrets", "nobody")],
        "no address to listen at" => vec![("--listen", "18000")],
        "no address of a control plane" => vec![("--upstream", "istiod")],
        "metadata without a value" => vec![("--upstream-metadata", "ClusterID")],
        "a level that is none" => vec![("--log-level", "loud=very")],
        "a level that is misspelt" => vec![("--log-level", "degub")],
        "a rule of groups that is none" => vec![("--group", "{nothing}")],
        "a JWKS with a private key" => jwt(private),
        "a JWKS without a usable key" => jwt(shared),
        "a JWKS from whom nobody trusts" => {
            [jwt("https://issuer.test/keys"), vec![("--jwt-ca", "/nonexistent")]].concat()
        }
        "traces to no address" => vec![("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317")],
        "traces by another exporter" => vec![("OTEL_TRACES_EXPORTER", "zipkin")],
        "traces by another protocol" => {
            vec![("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")]
        }
        "traces by an unknown sampler" => vec![("OTEL_TRACES_EXPORTER", "otlp"), ("OTEL_TRACES_SAMPLER", "alwayson")],
        "traces of no share" => vec![
            ("OTEL_TRACES_EXPORTER", "otlp"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "much"),
        ],
        other => panic!("bad_input.txt has a row that is not tried: {other}"),
    };
    let given = |flag: &str| flags.iter().any(|(given, _)| *given == flag);
    let base = [("--listen", "127.0.0.1:0"), ("--admin", "127.0.0.1:0"), ("--upstream", "127.0.0.1:1")];
    let base = base.into_iter().filter(|(flag, _)| !given(flag));
    let (flags, variables): (Vec<_>, Vec<_>) = flags.iter().copied().partition(|(name, _)| name.starts_with("--"));
    let variables = variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    (base.chain(flags).map(|(flag, value)| format!("{flag}={value}")).collect(), variables)
}

#[test]
fn what_cannot_be_started_says_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::write(dir.path());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    let rows = rows(3);
    assert!(rows.len() >= 12);
    for row in rows {
        let [input, code, pattern] = row[..] else { unreachable!("three columns") };
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
        let (flags, variables) = flags(input, &files, &taken);
        let output = command.arg("serve").args(flags).envs(variables).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), code.parse().ok(), "{input}: {said}");
        assert!(said.contains(pattern), "{input}: {said}");
        assert!(output.stdout.is_empty(), "{input}: messages are no data");
        assert_eq!(std::fs::read_to_string(&files.text).unwrap(), TEXT, "{input}: a file of somebody else");
    }
}

/// An Outpost in this process in front of `upstream`.
async fn outpost(upstream: u16, extra: &[&str]) -> Running {
    let upstream = format!("--upstream=127.0.0.1:{upstream}");
    let base = ["outpost", "serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", &upstream];
    let Verb::Serve(given) = Cli::try_parse_from(base.iter().chain(extra)).unwrap().verb else { unreachable!() };
    let mut options = app::Options::default();
    options.timing.cold_grace = Duration::from_millis(300);
    app::start(Layers::read(&given).check().unwrap(), options).await.unwrap()
}

/// What one sidecar gets first: names, or why not.
async fn served(outpost: &Running, node: &str) -> Result<Vec<String>, tonic::Status> {
    let Some(Listen::Tcp(address)) = outpost.addresses().first() else { panic!("no TCP") };
    let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://{address}")).await.unwrap();
    let node = Some(Node { id: node.into(), ..Node::default() });
    let ask = DiscoveryRequest { node, type_url: CDS.into(), ..Default::default() };
    let asks = tokio_stream::once(ask).chain(tokio_stream::pending());
    let mut answers = client.stream_aggregated_resources(asks).await?.into_inner();
    let answer = tokio::time::timeout(support::PATIENCE, answers.message()).await.expect("an answer in time")?;
    let answer: DiscoveryResponse = answer.expect("the stream stands");
    let name = |any: &Any| outpost::xds::wire::first_string(&any.value, 1).unwrap();
    Ok(answer.resources.iter().map(name).collect())
}

/// A control plane that gives each stream one good cluster and, when that was
/// acknowledged, what the row says: once.
struct Bad {
    input: &'static str,
    given: AtomicBool,
    nacks: std::sync::Mutex<Vec<Status>>,
}

fn cluster(name: &str) -> Resource {
    let mut value = outpost::xds::wire::Writer::default();
    value.string(1, name);
    let any = Any { type_url: CDS.into(), value: value.finish() };
    Resource { name: name.into(), version: "1".into(), resource: Some(any), ..Default::default() }
}

fn response(type_url: &str, nonce: &str, resources: Vec<Resource>) -> Vec<u8> {
    let (type_url, nonce) = (type_url.into(), nonce.into());
    DeltaDiscoveryResponse { type_url, nonce, resources, ..Default::default() }.encode_to_vec()
}

impl Bad {
    /// One message, or what takes the place of one.
    fn message(&self) -> Vec<u8> {
        match self.input {
            "names stated twice" => response(CDS, "bad", vec![cluster("c1"), cluster("c2"), cluster("c1")]),
            "resource of another type" => {
                let mut other = cluster("c2");
                other.resource = Some(Any { type_url: EDS.into(), ..Default::default() });
                response(CDS, "bad", vec![other])
            }
            // Field 2, a resource, whose own first field is longer than it is.
            "resource that is cut off" => [&response(CDS, "bad", vec![])[..], &[0x12, 2, 0x1a, 9]].concat(),
            "type that nobody asked for" => response(EDS, "bad", vec![]),
            "no protobuf at all" | "no gRPC framing" => vec![0xff; 20],
            other => panic!("bad_input.txt has a row that is not tried: {other}"),
        }
    }
}

impl Handler for Bad {
    async fn handle(self: Arc<Self>, call: Call) {
        if self.input == "gRPC without xDS" {
            return call.refuse(&Status::new(code::UNIMPLEMENTED, "no such service"));
        }
        let limit = Limit { bytes: 1 << 20, remedy: "" };
        let Some((mut asks, mut say)) = call.accept(limit, &Budget::new(1 << 20)) else { return };
        while let Some(Ok(message)) = asks.next().await {
            let Ok(ask) = Ask::read_delta(message, Limits::default()) else { return };
            let sent = match (&ask.error, ask.nonce.as_str()) {
                (Some(status), _) => {
                    self.nacks.lock().unwrap().push(status.clone());
                    continue;
                }
                (None, "") if ask.type_url == CDS => say.push(&[], response(CDS, "good", vec![cluster("c1")]).into()),
                (None, "good") if !self.given.swap(true, Ordering::Relaxed) => {
                    if self.input == "no gRPC framing" {
                        say.push_framed(self.message().into());
                        Ok(())
                    } else {
                        say.push(&[], self.message().into())
                    }
                }
                _ => continue,
            };
            if sent.is_err() || say.flush().await.is_err() {
                return;
            }
        }
    }
}

/// Answers each connection with `bytes` and hangs up.
async fn socket(bytes: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let _ = socket.write_all(bytes).await;
            let _ = socket.shutdown().await;
        }
    });
    port
}

/// What a row's control plane is: its port, where NACKs are written down, and
/// what keeps it alive.
async fn control_plane(input: &'static str) -> (u16, Option<(Arc<Bad>, server::Server)>) {
    match input {
        "nothing listens" => return (support::process::free_port(), None),
        "an HTTP/1 server" => return (socket(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await, None),
        "a server that hangs up" => return (socket(b"").await, None),
        _ => {}
    }
    let bad = Arc::new(Bad { input, given: AtomicBool::default(), nacks: Default::default() });
    let bound = Bound::bind(&[Listen::Tcp(([127, 0, 0, 1], 0).into())]).unwrap();
    let Some(Listen::Tcp(address)) = bound.addresses().first().cloned() else { panic!("no TCP") };
    let server = bound.serve(server::Settings::default(), Clock::system(), server::Metrics::default(), bad.clone());
    (address.port(), Some((bad, server)))
}

async fn try_row(input: &'static str, said: &str, metric: &str, wanted: &str) {
    let (port, bad) = control_plane(input).await;
    let extra: &[&str] = if input == "plain text where TLS is due" { &["--upstream-tls"] } else { &[] };
    let outpost = outpost(port, extra).await;
    let admin = outpost.admin().port();
    let first = served(&outpost, "n1").await;
    let metric = format!("outpost_upstream_{metric}");
    eventually(&format!("{input}: {metric}"), || async {
        let text = http::get(admin, "admin", "/metrics").await?.body;
        let counts = |line: &str| line.strip_prefix(&metric).is_some_and(|count| count.trim() != "0");
        check(text.lines().any(counts), || text.clone())
    })
    .await;
    eventually(&format!("{input}: {said}"), || async {
        let shown = http::get(admin, "admin", "/upstreams").await?.body;
        let nacks = bad.as_ref().map(|(bad, _)| bad.nacks.lock().unwrap().clone()).unwrap_or_default();
        let nacked = nacks.iter().any(|status| status.message.contains(said));
        check(nacked || shown.contains(said), || format!("{nacks:?} {shown}"))
    })
    .await;
    // Another stream of the same node is served from what is held.
    let again = served(&outpost, "n1").await;
    for got in [first, again] {
        match (wanted, got) {
            ("held", Ok(names)) => assert_eq!(names, ["c1"], "{input}"),
            ("UNAVAILABLE", Err(status)) => assert_eq!(status.code(), tonic::Code::Unavailable, "{input}: {status}"),
            (wanted, got) => panic!("{input}: {wanted} was wanted, not {got:?}"),
        }
    }
}

/// What is in a.yaml.
fn content(input: &str) -> Vec<u8> {
    let cluster = |more: &str| format!("\"@type\": {CDS}\n{more}");
    let text = match input {
        "no YAML" => "[}".into(),
        "not text" => return vec![0xff, 0xfe, 0],
        "no resource" => "nothing but text".into(),
        "a resource without its type" => "name: a".into(),
        "an unknown type" => "\"@type\": type.googleapis.com/envoy.config.cluster.v2.Cluster\nname: a".into(),
        "an unknown type within" => {
            cluster("name: a\ntyped_extension_protocol_options:\n  x:\n    \"@type\": type.googleapis.com/no.Such")
        }
        "an unknown field" => cluster("nmae: a"),
        "a field of another kind" => cluster("name: 5"),
        "an unknown value" => cluster("name: a\nlb_policy: FASTEST"),
        "a span without its unit" => cluster("name: a\nconnect_timeout: 5"),
        "a field given twice" => cluster("name: a\nname: b"),
        "two of a choice" => cluster("name: a\ntype: EDS\ncluster_type: {}"),
        "no name" => cluster("type: EDS"),
        "the same name in two files" => cluster("name: a"),
        "a time to live" => format!(
            "\"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource\nttl: 1s\nresource: {{\"@type\": {CDS}, \
             name: a}}"
        ),
        "aliases without end" => (1..9).fold("a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n".into(), |text, n| {
            let many = vec![format!("*a{}", n - 1); 10].join(", ");
            format!("{text}a{n}: &a{n} [{many}]\n")
        }),
        "a secret that is wrong" => {
            let secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
            format!("\"@type\": {secret}\nname: s\ngeneric_secret: {{ secret: {{ inline_bytes: \"{HIDDEN} %\" }} }}")
        }
        "a number that is too large" => cluster("name: a\nper_connection_buffer_limit_bytes: 5000000000"),
        "a list in the place of one" => cluster("name: [a]"),
        "a type by its last name" => "\"@type\": Cluster\nname: a".into(),
        "a type without its prefix" => "\"@type\": envoy.config.cluster.v3.Cluster\nname: a".into(),
        "a type that has no name" => "\"@type\": type.googleapis.com/envoy.config.core.v3.Address".into(),
        "nothing in a wrapper" => "\"@type\": type.googleapis.com/envoy.service.discovery.v3.Resource\nname: a".into(),
        "a key beside resources" => "resources: []\nmore: 1".into(),
        "resources that are no list" => "resources: 5".into(),
        "a merge key" => cluster("<<: {name: a}"),
        "JSON that is cut off" => "{\"@type\": \"type.googleapis.com/envoy.config.cluster.v3.Cluster\",".into(),
        // What is wrong is no text.
        "a link to nothing" | "a directory that names no group" | "a directory in that of a group" => String::new(),
        "the same name twice in a group" => cluster("name: a"),
        "nothing at all" => String::new(),
        other => panic!("bad_input.txt has a row that is not tried: {other}"),
    };
    text.into_bytes()
}

/// What must not be in a message.
const HIDDEN: &str = "hunter2";

#[test]
fn files_that_are_wrong_are_told_with_place_and_field() {
    let rows = rows(2);
    assert!(rows.len() >= 15);
    for row in rows {
        let [input, pattern] = row[..] else { unreachable!("two columns") };
        let dir = tempfile::tempdir().unwrap();
        let content = content(input);
        if !content.is_empty() {
            std::fs::write(dir.path().join("a.yaml"), &content).unwrap();
        }
        let at = |name: &str| dir.path().join(name);
        match input {
            "the same name in two files" => std::fs::write(at("b.yaml"), &content).unwrap(),
            "a link to nothing" => std::os::unix::fs::symlink("nowhere", at("a.yaml")).unwrap(),
            "a directory that names no group" => std::fs::create_dir(at("%zz")).unwrap(),
            "a directory in that of a group" => std::fs::create_dir_all(at("g/h")).unwrap(),
            "the same name twice in a group" => {
                std::fs::create_dir(at("g")).unwrap();
                std::fs::rename(at("a.yaml"), at("g/a.yaml")).unwrap();
                std::fs::write(at("g/A.yaml"), &content).unwrap();
            }
            _ => {}
        }
        let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
        let output = command.args(["config", "validate", "--files"]).arg(dir.path()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{input}: {said}");
        assert!(said.contains(pattern), "{input}: {said}");
        assert!(!said.contains(HIDDEN), "{input}: {said}");
        assert!(output.stdout.is_empty(), "{input}: messages are no data");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_control_plane_says_wrong_is_refused_and_what_is_held_is_served() {
    let rows = rows(4);
    assert!(rows.len() >= 11);
    for row in rows {
        let [input, said, metric, wanted] = row[..] else { unreachable!("four columns") };
        try_row(input, said, metric, wanted).await;
    }
}
