//! Mutual TLS: who a sidecar is decides what it may have, and for how long.

use super::stack::*;
use outpost::clock::Clock;
use outpost::group::{Authorize, Rules};
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outpost::transport::client::Options;
use outpost::transport::server as transport;
use outpost::transport::tls::{ClientAuth, ClientFiles, ClientTls, Pair, ServerTls};
use outpost::xds::code;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const SPIFFE: &str = "spiffe://mesh.example/ns/shop/sa/cart";

pub(super) struct Authority(Issuer<'static, KeyPair>);

impl Authority {
    /// Writes `ca.pem`.
    pub(super) fn new(dir: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self(Issuer::new(params, key))
    }

    pub(super) fn issue(&self, dir: &Path, name: &str, san: SanType, lasts: Duration) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![san];
        let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since_1970 + lasts;
        let key = KeyPair::generate().unwrap();
        let pair = Pair { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        std::fs::write(&pair.cert, params.signed_by(&key, &self.0).unwrap().pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}

#[tokio::test]
async fn an_identity_has_secrets_until_its_certificate_ends() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new(dir);
    let (hour, ca) = (Duration::from_secs(3600), dir.join("ca.pem"));
    let server = authority.issue(dir, "server", SanType::IpAddress([127, 0, 0, 1].into()), 24 * hour);
    let tls = ServerTls::new(server, ClientAuth::Optional(ca.clone())).unwrap();
    let mut settings = settings();
    settings.transport = transport::Settings { tls: Some(Arc::new(tls)), ..transport::Settings::default() };
    let clock = Clock::manual();
    let stack = Stack::with(settings, Rules::default(), clock.clone());
    let open = async |pair: Option<Pair>| {
        let tls = ClientTls::new(ClientFiles { ca: Some(ca.clone()), pair, server_name: None }).unwrap();
        let options = Options { tls: Some(tls.into()), ..Options::default() };
        let mut raw = Raw::from(stack.connect(options).await.open(DELTA, &Default::default()).unwrap());
        raw.say(&DeltaDiscoveryRequest { node: Some(node("one")), ..delta("sds", &["key"]) }).await;
        raw
    };
    // Anonymous: refused at once, without asking upstream.
    let mut anonymous = open(None).await;
    let got: DeltaDiscoveryResponse = anonymous.hear().await;
    assert_eq!(got.removed_resources, ["key"]);
    let cart = authority.issue(dir, "cart", SanType::URI(SPIFFE.try_into().unwrap()), hour);
    let mut known = open(Some(cart)).await;
    eventually("it has a group of its own", || stack.exchange.groups().len() == 2).await;
    let clients = stack.downstream.clients().of_node("one");
    let client = clients.iter().find(|client| client.identity.is_some()).unwrap();
    assert_eq!(client.identity.as_deref(), Some(SPIFFE));
    let group = stack.exchange.group(&client.known().unwrap().group).unwrap();
    group.stream_opened("upstream:1".into());
    eventually("it is wanted", || !group.wanted_upstream().is_empty()).await;
    group.apply(update("sds", "v1", &[("key", b"private")]));
    let got: DeltaDiscoveryResponse = known.hear().await;
    assert_eq!(got.resources.len(), 1);
    // The certificate ends soon, and the stream before it.
    let ended = tokio::spawn(async move { known.end().await });
    for _ in 0..(59 * 3) {
        clock.advance(Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!ended.is_finished(), "a minute is left");
    for _ in 0..29 {
        clock.advance(Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    eventually("it is ended, a second before its certificate", || ended.is_finished()).await;
    let status = ended.await.unwrap();
    assert_eq!(status.code, code::UNAUTHENTICATED, "{}", status.message);
    stack.counts("streams_ended_total{reason=\"expired\"} 1").await;
    assert_eq!(stack.downstream.clients().len(), 1, "who is anonymous stays");
}

/// A name that an identity may not have is answered as one that does not exist, and
/// at once, as the upstream is not asked and cannot be seen in it.
#[tokio::test]
async fn a_name_that_may_not_be_had_is_as_one_that_is_not_there() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new(dir);
    let (hour, ca) = (Duration::from_secs(3600), dir.join("ca.pem"));
    let server = authority.issue(dir, "server", SanType::IpAddress([127, 0, 0, 1].into()), hour);
    let tls = ServerTls::new(server, ClientAuth::Required(ca.clone())).unwrap();
    let mut settings = settings();
    settings.transport = transport::Settings { tls: Some(Arc::new(tls)), ..transport::Settings::default() };
    let rule = r#"{"identity": "spiffe://*/ns/{ns}/sa/*", "names": {"sds": ["{ns}/*"]}}"#;
    let rules = Rules::default().authorized_by(Authorize::read([rule]).unwrap());
    let stack = Stack::with(settings, rules, Clock::system());
    let pair = Some(authority.issue(dir, "cart", SanType::URI(SPIFFE.try_into().unwrap()), hour));
    let tls = ClientTls::new(ClientFiles { ca: Some(ca), pair, server_name: None }).unwrap();
    let options = Options { tls: Some(tls.into()), ..Options::default() };
    let connection = stack.connect(options).await;
    let ask = async |names: &[&str]| {
        let mut raw = Raw::from(connection.open(DELTA, &Default::default()).unwrap());
        raw.say(&DeltaDiscoveryRequest { node: Some(node("one")), ..delta("sds", names) }).await;
        raw
    };
    let mut hidden = ask(&["bank/key"]).await;
    let mut missing = ask(&["bank/none"]).await;
    let mut absent = ask(&["shop/none"]).await;
    let mut own = ask(&["shop/key"]).await;
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    let wanted = || group.wanted_upstream().iter().map(|want| want.names.len()).sum::<usize>();
    let of_hidden: DeltaDiscoveryResponse = hidden.hear().await;
    eventually("all are asked for upstream but the hidden one", || wanted() == 2).await;
    let mut said = update("sds", "v1", &[("bank/key", b"theirs"), ("shop/key", b"ours")]);
    said.removed = vec!["shop/none".into()];
    group.apply(said);
    let got: DeltaDiscoveryResponse = own.hear().await;
    assert_eq!(got.resources.len(), 1);
    let of_absent: DeltaDiscoveryResponse = absent.hear().await;
    let of_missing: DeltaDiscoveryResponse = missing.hear().await;
    for (of, name) in [(of_hidden, "bank/key"), (of_missing, "bank/none"), (of_absent, "shop/none")] {
        assert_eq!((of.removed_resources, of.resources.len()), (vec![name.to_owned()], 0));
    }
    // What becomes of it is not told either.
    group.apply(update("sds", "v2", &[("bank/key", b"newer"), ("shop/key", b"newer")]));
    let got: DeltaDiscoveryResponse = own.hear().await;
    assert_eq!(got.resources.len(), 1);
    let late = tokio::time::timeout(Duration::from_millis(100), hidden.receiver.message()).await;
    assert!(late.is_err(), "it hears of a name that it may not have");
    // Nor does the wildcard show it.
    let mut all = ask(&["*"]).await;
    eventually("the wildcard is asked for", || group.wanted_upstream().iter().any(|want| want.wildcard)).await;
    let mut whole = update("sds", "v3", &[("bank/key", b"newer"), ("shop/key", b"newer")]);
    whole.answers_wildcard = true;
    group.apply(whole);
    let got: DeltaDiscoveryResponse = all.hear().await;
    let names: Vec<_> = got.resources.iter().map(|resource| resource.name.as_str()).collect();
    assert_eq!((names.as_slice(), got.removed_resources.len()), (&["shop/key"][..], 0));
    stack.counts("hidden_names_total{type=\"sds\"} 2").await;
}
