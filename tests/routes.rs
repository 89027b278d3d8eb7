//! Who gets in where: every path of both routers, tried by each kind of caller.
//!
//! The paths come from the routers themselves, so that none can be added without
//! being tried here.

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

use clap::Parser;
use http::{HeaderMap, HeaderValue, header};
use outpost::app::{self, Running};
use outpost::cli::{Cli, Verb};
use outpost::clock::Clock;
use outpost::config::Layers;
use outpost::proto::core::Node;
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, Resource};
use outpost::proto::protobuf::{Any, Struct, Value as Proto, value::Kind};
use outpost::transport::client::{Address, Connection, Dialer, Options, Receiver, StreamEnd};
use outpost::transport::frame::{Budget, Limit};
use outpost::transport::server::{self, Bound, Call, Handler, Listen};
use outpost::transport::status;
use outpost::transport::stream::Sender;
use outpost::transport::tls::{ClientAuth, ClientFiles, ClientTls, Pair, ServerTls};
use outpost::xds::{Status, code};
use prost::Message;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::jwt::{AUDIENCE, ISSUER, Issuer, after};
use support::tls::Authority;
use support::{check, eventually, http as web};
use tokio::sync::Notify;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// An Outpost that nobody is anonymous at, and whom it trusts.
struct Desk {
    outpost: Running,
    authority: Authority,
    issuer: Issuer,
    dir: tempfile::TempDir,
    ca: PathBuf,
    clock: Clock,
}

impl Desk {
    async fn open(extra: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::of(dir, Authority::new(), extra, Clock::manual()).await
    }

    async fn of(dir: tempfile::TempDir, authority: Authority, extra: &[&str], clock: Clock) -> Self {
        let issuer = Issuer::new();
        let server = authority.write(dir.path(), "server", &authority.server("localhost"));
        let jwks = issuer.write(dir.path());
        let flag = |name: &str, value: &Path| format!("--{name}={}", value.display());
        let flags = [
            flag("tls-cert", &server.certificate),
            flag("tls-key", &server.key),
            flag("client-ca", &server.authority),
            flag("jwt-jwks", &jwks),
            format!("--jwt-issuer={ISSUER}"),
            format!("--jwt-audience={AUDIENCE}"),
            "--trust-domain=mesh.example".into(),
        ];
        let nowhere = (!extra.iter().any(|flag| flag.starts_with("--upstream="))).then_some("--upstream=127.0.0.1:1");
        let base = ["outpost", "serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0"];
        let line = base.into_iter().chain(flags.iter().map(String::as_str)).chain(extra.iter().copied()).chain(nowhere);
        let Verb::Serve(given) = Cli::try_parse_from(line).unwrap().verb else { unreachable!() };
        let mut options = app::Options { clock: clock.clone(), ..app::Options::default() };
        if nowhere.is_some() {
            options.timing.cold_grace = Duration::ZERO;
        }
        let outpost = app::start(Layers::read(&given).check().unwrap(), options).await.unwrap();
        Self { outpost, authority, issuer, dir, ca: server.authority, clock }
    }

    fn files(&self, name: &str, uri: &str) -> Pair {
        let files = self.authority.write(self.dir.path(), name, &self.authority.workload(uri));
        Pair { cert: files.certificate, key: files.key }
    }

    async fn connect(&self, pair: Option<Pair>) -> Connection {
        let Some(Listen::Tcp(address)) = self.outpost.addresses().first() else { panic!("no TCP") };
        let files = ClientFiles { ca: Some(self.ca.clone()), pair, server_name: Some("localhost".into()) };
        let options = Options { tls: Some(Arc::new(ClientTls::new(files).unwrap())), ..Options::default() };
        let address = Address::Tcp { host: "127.0.0.1".into(), port: address.port() };
        Dialer::new(address, options, Clock::system()).connect().await.unwrap()
    }

    async fn metrics(&self) -> String {
        web::get(self.outpost.admin().port(), "admin", "/metrics").await.unwrap().body
    }

    async fn counts(&self, line: &str) {
        eventually(line, || async {
            let text = self.metrics().await;
            check(text.contains(line), || text.lines().filter(|of| of.contains("total")).collect::<Vec<_>>().join("\n"))
        })
        .await;
    }
}

fn text(text: &str) -> Proto {
    Proto { kind: Some(Kind::StringValue(text.into())) }
}

/// A node of the namespace `shop`, with the account `cart`.
fn node(id: &str) -> Node {
    let fields = [("NAMESPACE", "shop"), ("SERVICE_ACCOUNT", "cart")];
    let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), text(value))).collect();
    Node { id: id.into(), metadata: Some(Struct { fields }), ..Node::default() }
}

/// A stream of xDS, and not a call that ends with one answer.
fn is_xds(path: &str) -> bool {
    path.starts_with("/envoy.service.") && !path.contains(".status.")
}

/// The first request on a path: what it states as its node fits xDS and no other
/// service, which reads nothing of it.
fn first(path: &str, id: &str) -> Vec<u8> {
    if !is_xds(path) {
        return Vec::new();
    }
    let ads = path.contains("Aggregated");
    let type_url = if ads { CDS.to_owned() } else { String::new() };
    if path.contains("/Delta") {
        let names = vec!["x".to_owned()];
        DeltaDiscoveryRequest { node: Some(node(id)), type_url, resource_names_subscribe: names, ..Default::default() }
            .encode_to_vec()
    } else {
        DiscoveryRequest { node: Some(node(id)), type_url, resource_names: vec!["x".into()], ..Default::default() }
            .encode_to_vec()
    }
}

fn bearer(token: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_str(&format!("Bearer {token}")).unwrap());
    headers
}

async fn call(connection: &Connection, path: &str, headers: &HeaderMap, message: Vec<u8>) -> (Sender, Receiver) {
    let (mut sender, receiver) = connection.open(path, headers).unwrap();
    sender.push(&[], message.into()).unwrap();
    // It may have been refused already: then the answer says so.
    let _ = sender.flush().await;
    if !is_xds(path) {
        let _ = sender.half_close();
    }
    (sender, receiver)
}

/// The code with which a call ends, or OK where it is answered.
async fn outcome(connection: &Connection, path: &str, headers: &HeaderMap, id: &str) -> (i32, String) {
    let (_sender, mut receiver) = call(connection, path, headers, first(path, id)).await;
    let answer = tokio::time::timeout(support::PATIENCE, receiver.message());
    match answer.await.unwrap_or_else(|_| panic!("{path}: neither an answer nor an end")) {
        Ok(_) => (code::OK, String::new()),
        Err(StreamEnd::Status(status)) => (status.code, status.message),
        Err(other) => panic!("{path}: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_path_for_every_kind_of_caller() {
    let desk = Desk::open(&[]).await;
    let nothing = HeaderMap::new();
    let token = |subject: &str, changes: Value| bearer(&desk.issuer.token(subject, &changes));
    let shop = "system:serviceaccount:shop:cart";
    let none = desk.connect(None).await;
    let valid = desk.connect(Some(desk.files("cart", "spiffe://mesh.example/ns/shop/sa/cart"))).await;
    let other = desk.connect(Some(desk.files("pay", "spiffe://mesh.example/ns/bank/sa/pay"))).await;
    let wrong = desk.connect(Some(desk.files("evil", "spiffe://evil.example/ns/shop/sa/cart"))).await;
    let expired = json!({"exp": after(Duration::ZERO) - 31});
    // What is expected of a stream of xDS; of what knows no node; and of what is not served.
    let (bad, open) = (code::UNAUTHENTICATED, code::UNAVAILABLE);
    let table: Vec<(&str, &Connection, HeaderMap, [i32; 3])> = vec![
        ("anonymous", &none, nothing.clone(), [bad; 3]),
        ("wrong trust domain", &wrong, nothing.clone(), [bad; 3]),
        ("wrong trust domain, token", &none, token("spiffe://evil.example/x", json!({})), [bad; 3]),
        ("other namespace", &other, nothing.clone(), [code::PERMISSION_DENIED, code::OK, code::UNIMPLEMENTED]),
        (
            "other namespace, token",
            &none,
            token("system:serviceaccount:bank:pay", json!({})),
            [code::PERMISSION_DENIED, code::OK, code::UNIMPLEMENTED],
        ),
        ("another's token", &valid, token("system:serviceaccount:bank:pay", json!({})), [bad; 3]),
        ("expired token", &none, token(shop, expired), [bad; 3]),
        ("wrong issuer", &none, token(shop, json!({"iss": "https://other.test"})), [bad; 3]),
        ("wrong audience", &none, token(shop, json!({"aud": "kubernetes"})), [bad; 3]),
        ("unknown key", &none, token(shop, json!({"kid": "k2"})), [bad; 3]),
        ("no token", &none, bearer("nothing"), [bad; 3]),
        ("valid", &valid, nothing, [open, code::OK, code::UNIMPLEMENTED]),
        ("valid, token", &none, token(shop, json!({})), [open, code::OK, code::UNIMPLEMENTED]),
        ("valid, both", &valid, token(shop, json!({})), [open, code::OK, code::UNIMPLEMENTED]),
    ];
    let paths = outpost::downstream::paths();
    assert!(paths.len() >= 25, "{paths:?}");
    let unserved = [
        "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters",
        "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats",
        "/",
    ];
    for (who, connection, headers, [xds, side, unknown]) in &table {
        for path in &paths {
            let want = if is_xds(path) { xds } else { side };
            let (got, message) = outcome(connection, path, headers, "n1").await;
            // What a service beside xDS makes of an empty message is its own.
            let fits = got == *want || *want == code::OK && ![bad, code::PERMISSION_DENIED].contains(&got);
            assert!(fits, "{who} at {path}: {got} {message}, not {want}");
        }
        for path in unserved {
            let (got, message) = outcome(connection, path, headers, "n1").await;
            assert_eq!(got, *unknown, "{who} at {path}: {message}");
        }
    }
    for reason in [
        "anonymous",
        "trust_domain",
        "mismatch",
        "token_expired",
        "token_issuer",
        "token_audience",
        "token_unknown_key",
        "token_malformed",
    ] {
        desk.counts(&format!("unauthenticated_calls_total{{reason=\"{reason}\"}}")).await;
    }
    desk.counts("downstream_rejected_total{reason=\"node_not_allowed\"}").await;
}

/// What a row shows: the name in its certificate, its headers, and the id of its node.
fn shows(row: &str, issuer: &Issuer) -> (Option<&'static str>, HeaderMap, &'static str) {
    const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";
    let account = |account: &str, changes: Value| bearer(&issuer.token(account, &changes));
    let shop = |changes: Value| account("system:serviceaccount:shop:cart", changes);
    let (nothing, id) = (HeaderMap::new(), "n1");
    match row {
        "nothing" => (None, nothing, id),
        "a certificate of another trust domain" => (Some("spiffe://evil.example/ns/shop/sa/cart"), nothing, id),
        "a token of another trust domain" => (None, account("spiffe://evil.example/x", json!({})), id),
        "a certificate and another's token" => (Some(CART), account("system:serviceaccount:bank:pay", json!({})), id),
        "a certificate and no good token" => (Some(CART), bearer("x"), id),
        "a password" => {
            let basic = HeaderValue::from_static("Basic YWxpY2U6eA==");
            (None, HeaderMap::from_iter([(header::AUTHORIZATION, basic)]), id)
        }
        "two tokens" => {
            let mut headers = shop(json!({}));
            headers.append(header::AUTHORIZATION, headers[header::AUTHORIZATION].clone());
            (None, headers, id)
        }
        "text for a token" => (None, bearer("nothing"), id),
        "a token that has expired" => (None, shop(json!({"exp": after(Duration::ZERO) - 31})), id),
        "a token for later" => (None, shop(json!({"nbf": after(Duration::from_secs(60))})), id),
        "a token without an end" => (None, shop(json!({"exp": null})), id),
        "a token of another issuer" => (None, shop(json!({"iss": "https://other.test"})), id),
        "a token for another audience" => (None, shop(json!({"aud": "kubernetes"})), id),
        "a token of an unknown key" => (None, shop(json!({"kid": "k2"})), id),
        "a token that another signed" => (None, bearer(&Issuer::new().token("alice", &json!({}))), id),
        "a token by a shared secret" => {
            let token = issuer.token("alice", &json!({}));
            let (_, rest) = token.split_once('.').unwrap();
            // {"alg":"HS256","kid":"k1"}
            (None, bearer(&format!("eyJhbGciOiJIUzI1NiIsImtpZCI6ImsxIn0.{rest}")), id)
        }
        "a token of nobody" => (None, account("", json!({})), id),
        "a node of another namespace" => (Some("spiffe://mesh.example/ns/bank/sa/cart"), nothing, id),
        "a node of another account" => (Some("spiffe://mesh.example/ns/shop/sa/pay"), nothing, id),
        "a node whose id is of another namespace" => {
            (Some(CART), nothing, "sidecar~10.0.0.1~cart-1.bank~bank.svc.cluster.local")
        }
        other => panic!("bad_callers.txt has a row that is not tried: {other}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_shows_what_is_no_good_is_told_and_counted() {
    let desk = Desk::open(&[]).await;
    let lines = include_str!("bad_callers.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let rows: Vec<Vec<&str>> = lines.map(|line| line.split('|').map(str::trim).collect()).collect();
    assert!(rows.len() >= 20);
    let counted = |text: &str, metric: &str| -> u64 {
        let line = text.lines().find_map(|line| line.split_once(metric).map(|(_, number)| number.trim()));
        line.map_or(0, |number| number.parse().unwrap())
    };
    for (at, row) in rows.iter().enumerate() {
        let [shown, code, said, metric] = row[..] else { panic!("not four columns: {row:?}") };
        let (certificate, headers, id) = shows(shown, &desk.issuer);
        let connection = desk.connect(certificate.map(|uri| desk.files(&format!("row{at}"), uri))).await;
        let before = counted(&desk.metrics().await, metric);
        let (got, text) = outcome(&connection, DELTA, &headers, id).await;
        assert_eq!(status::name(got), code, "{shown}: {text}");
        assert!(text.contains(said), "{shown}: {text}");
        eventually(shown, || async {
            let now = counted(&desk.metrics().await, metric);
            check(now == before + 1, || format!("{metric} {now}"))
        })
        .await;
    }
    assert!(desk.outpost.exchange().groups().is_empty(), "no group was made of any");
}

/// The admin endpoint knows no callers: what it shows it shows to all, and only
/// its log level can be changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_endpoint_shows_all_the_same() {
    let desk = Desk::open(&[]).await;
    let port = desk.outpost.admin().port();
    let paths = outpost::admin::paths();
    assert!(paths.len() >= 10, "{paths:?}");
    for path in paths {
        let answer = web::get(port, "admin", path).await.unwrap();
        assert!([200, 400, 503].contains(&answer.status), "{path}: {answer:?}");
        let changed = web::post(port, path).await.unwrap();
        assert!(changed.status == 405 || path == "/logging", "{path} takes a POST: {changed:?}");
    }
}

/// Whether there is such a node makes no difference to who may not be it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_there_is_refused_as_one_that_is_not() {
    let desk = Desk::open(&[]).await;
    let valid = desk.connect(Some(desk.files("cart", "spiffe://mesh.example/ns/shop/sa/cart"))).await;
    let other = desk.connect(Some(desk.files("pay", "spiffe://mesh.example/ns/bank/sa/pay"))).await;
    let nothing = HeaderMap::new();
    assert_eq!(outcome(&valid, DELTA, &nothing, "there").await.0, code::UNAVAILABLE);
    let groups = desk.outpost.exchange().groups().len();
    let there = outcome(&other, DELTA, &nothing, "there").await;
    assert_eq!(there, outcome(&other, DELTA, &nothing, "nowhere").await);
    assert_eq!(there, (code::PERMISSION_DENIED, "the client's identity may not be this node".to_owned()));
    assert_eq!(desk.outpost.exchange().groups().len(), groups, "no group was made of it");
}

/// A stream ends before the token does that opened it, on the process' clock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_with_its_token() {
    let desk = Desk::open(&["--cold-errors"]).await;
    let connection = desk.connect(None).await;
    let token = desk.issuer.token("system:serviceaccount:shop:cart", &json!({}));
    let (_sender, mut receiver) = call(&connection, DELTA, &bearer(&token), first(DELTA, "n1")).await;
    eventually("the stream stands", || async { check(desk.outpost.downstream().clients().len() == 1, String::new) })
        .await;
    let ended = tokio::spawn(async move {
        loop {
            if let Err(end) = receiver.message().await {
                return end;
            }
        }
    });
    // Connections are pinged while the clock runs on: what was said before a call is
    // answered when the call is, so that no ping is late.
    let run = async |seconds: u64| {
        for _ in 0..seconds / 2 {
            desk.clock.advance(Duration::from_secs(2));
            outcome(&connection, "/grpc.health.v1.Health/Check", &bearer(&token), "").await;
        }
    };
    run(3566).await;
    assert!(!ended.is_finished(), "34 s are left");
    run(34).await;
    match ended.await.unwrap() {
        StreamEnd::Status(status) => {
            assert_eq!(status.code, code::UNAUTHENTICATED, "{}", status.message);
            assert!(status.message.contains("bearer token expires"), "{}", status.message);
        }
        other => panic!("{other}"),
    }
    desk.counts("streams_ended_total{reason=\"expired\"} 1").await;
    run(32).await;
    assert_eq!(
        outcome(&connection, DELTA, &bearer(&token), "n1").await.0,
        code::UNAUTHENTICATED,
        "nor does it count again"
    );
}

/// A control plane that takes some tokens and not others.
#[derive(Default)]
struct Picky {
    /// Of streams that were opened, in their order.
    shown: Mutex<Vec<String>>,
    refused: Mutex<Vec<String>>,
    /// Streams that stand end.
    end: Notify,
}

impl Handler for Picky {
    async fn handle(self: Arc<Self>, call: Call) {
        let shown = call.request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|text| text.strip_prefix("Bearer ")).unwrap_or_default().to_owned();
        self.shown.lock().unwrap().push(shown.clone());
        let refused = || self.refused.lock().unwrap().contains(&shown);
        if refused() {
            return call.refuse(&Status::new(code::UNAUTHENTICATED, "this token has aged"));
        }
        let limit = Limit { bytes: 1 << 20, remedy: "" };
        let Some((mut asks, mut say)) = call.accept(limit, &Budget::new(1 << 20)) else { return };
        loop {
            tokio::select! {
                ask = asks.next() => {
                    let Some(Ok(ask)) = ask else { return };
                    let Ok(ask) = DeltaDiscoveryRequest::decode(ask) else { return };
                    if !ask.resource_names_subscribe.is_empty() {
                        let _ = say.push(&[], cluster().encode_to_vec().into());
                        let _ = say.flush().await;
                    }
                }
                () = self.end.notified() => {
                    let status = Status::new(code::UNAVAILABLE, "restarting");
                    let _ = say.end(outpost::transport::status::trailers(&status));
                    return;
                }
            }
        }
    }
}

/// The cluster `x`.
fn cluster() -> DeltaDiscoveryResponse {
    let mut value = outpost::xds::wire::Writer::default();
    value.string(1, "x");
    let any = Any { type_url: CDS.into(), value: value.finish() };
    let resource = Resource { name: "x".into(), version: "1".into(), resource: Some(any), ..Default::default() };
    DeltaDiscoveryResponse { type_url: CDS.into(), nonce: "n".into(), resources: vec![resource], ..Default::default() }
}

/// The token that a sidecar sent opens its group's stream. When it has aged, what
/// is held is served, and the sidecar is asked to come back with a newer one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_members_token_opens_its_groups_stream() {
    let dir = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let files = authority.write(dir.path(), "upstream", &authority.server("localhost"));
    let pair = Pair { cert: files.certificate, key: files.key };
    let tls = ServerTls::new(pair, ClientAuth::Optional(files.authority.clone())).unwrap();
    let picky = Arc::new(Picky::default());
    let bound = Bound::bind(&[Listen::Tcp(([127, 0, 0, 1], 0).into())]).unwrap();
    let Some(Listen::Tcp(address)) = bound.addresses().first().cloned() else { panic!("no TCP") };
    let settings = server::Settings { tls: Some(Arc::new(tls)), ..server::Settings::default() };
    let _server = bound.serve(settings, Clock::system(), server::Metrics::default(), picky.clone());
    let (upstream, ca) = (format!("--upstream={address}"), format!("--upstream-ca={}", files.authority.display()));
    let extra = ["--upstream-credentials=member", "--upstream-server-name=localhost", &upstream, &ca];
    let desk = Desk::of(dir, authority, &extra, Clock::system()).await;

    let certificate = desk.connect(Some(desk.files("cart", "spiffe://mesh.example/ns/shop/sa/cart"))).await;
    let (got, text) = outcome(&certificate, DELTA, &HeaderMap::new(), "n1").await;
    assert_eq!(got, code::UNAUTHENTICATED, "a certificate opens nothing upstream: {text}");

    let connection = desk.connect(None).await;
    let token = |lasts: u64| {
        let exp = json!({"exp": after(Duration::from_secs(lasts))});
        desk.issuer.token("system:serviceaccount:shop:cart", &exp)
    };
    let (first_token, second_token) = (token(3000), token(4000));
    let (_sender, mut receiver) = call(&connection, DELTA, &bearer(&first_token), first(DELTA, "n1")).await;
    receiver.message().await.unwrap();
    assert_eq!(picky.shown.lock().unwrap().as_slice(), std::slice::from_ref(&first_token));
    // Another of the group, who stays.
    let (_stays, mut other) = call(&connection, DELTA, &bearer(&first_token), first(DELTA, "n1")).await;
    other.message().await.unwrap();

    // The control plane restarts, and does not take this token again.
    picky.refused.lock().unwrap().push(first_token.clone());
    picky.end.notify_waiters();
    let end = loop {
        if let Err(end) = receiver.message().await {
            break end;
        }
    };
    assert!(matches!(&end, StreamEnd::Status(status) if status.code == code::OK), "it is asked to come back: {end}");
    let shown = async |wanted: bool| {
        let wanted = format!("\"authStale\":{wanted}");
        eventually(&wanted, || async {
            let groups = web::get(desk.outpost.admin().port(), "admin", "/groups").await?.body;
            assert!(!groups.contains("eyJ"), "a token is shown: {groups}");
            check(groups.contains(&wanted), || groups.clone())
        })
        .await;
    };
    shown(true).await;
    desk.counts("outpost_groups_auth_stale 1").await;
    let told = web::get(desk.outpost.admin().port(), "admin", "/notices").await.unwrap().body;
    assert!(told.contains("\"about\":\"credentials\"") && told.contains("in 1 group"), "{told}");

    // What is held is served at once; the newer token opens the stream again.
    let (_sender, mut receiver) = call(&connection, DELTA, &bearer(&second_token), first(DELTA, "n1")).await;
    receiver.message().await.unwrap();
    shown(false).await;
    desk.counts("outpost_groups_auth_stale 0").await;
    assert_eq!(picky.shown.lock().unwrap().last(), Some(&second_token));
}
