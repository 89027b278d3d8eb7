//! Private groups: members of one shared group, and what each has for itself.

use super::identity::Authority;
use super::stack::*;
use outpost::clock::Clock;
use outpost::exchange::GroupHandle;
use outpost::group::{Grouping, Rules, Secrets, SharedNode};
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outpost::transport::client::Options;
use outpost::transport::server as transport;
use outpost::transport::tls::{ClientAuth, ClientFiles, ClientTls, Pair, ServerTls};
use rcgen::SanType;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, fmt};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The private group of the stream of `node`.
async fn own(stack: &Stack, node: &str) -> GroupHandle {
    let key = || stack.downstream.clients().of_node(node).first().and_then(|client| client.private());
    eventually("it has a private group", || key().is_some()).await;
    let group = stack.exchange.group(&key().unwrap()).unwrap();
    group.stream_opened("upstream:1".into());
    eventually("something is wanted of it", || !group.wanted_upstream().is_empty()).await;
    group
}

#[tokio::test]
async fn secrets_of_one_member_reach_no_other() {
    let log = Log::default();
    let writer = log.clone();
    let filter: Targets = "outpost=trace".parse().unwrap();
    let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone()).with_filter(filter);
    let _listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));

    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new(dir);
    let (day, ca) = (Duration::from_secs(24 * 3600), dir.join("ca.pem"));
    let server = authority.issue(dir, "server", SanType::IpAddress([127, 0, 0, 1].into()), day);
    let tls = ServerTls::new(server, ClientAuth::Optional(ca.clone())).unwrap();
    let mut settings = settings();
    settings.transport = transport::Settings { tls: Some(Arc::new(tls)), ..transport::Settings::default() };
    let rules = Rules::new(Grouping::All, Secrets::Identity, SharedNode::default()).unwrap();
    let stack = Stack::with(settings, rules, Clock::system());
    let open = async |id: &str, pair: Option<Pair>| {
        let tls = ClientTls::new(ClientFiles { ca: Some(ca.clone()), pair, server_name: None }).unwrap();
        let options = Options { tls: Some(tls.into()), ..Options::default() };
        let mut raw = Raw::from(stack.connect(options).await.open(DELTA, &Default::default()).unwrap());
        raw.say(&DeltaDiscoveryRequest { node: Some(node(id)), ..delta("sds", &["key"]) }).await;
        raw
    };
    let issue = |id: &str| {
        let name = format!("spiffe://mesh.example/ns/shop/sa/{id}");
        authority.issue(dir, id, SanType::URI(name.as_str().try_into().unwrap()), day)
    };
    let (mut cart, mut till) = (open("cart", Some(issue("cart"))).await, open("till", Some(issue("till"))).await);
    let (of_cart, of_till) = (own(&stack, "cart").await, own(&stack, "till").await);
    assert_ne!(of_cart.key(), of_till.key());
    let presented = |group: &GroupHandle| String::from_utf8_lossy(&group.presented().message()).into_owned();
    assert!(presented(&of_cart).contains("cart") && presented(&of_till).contains("till"), "each is asked as it is");

    of_cart.apply(update("sds", "v1", &[("key", b"hunter2-of-cart")]));
    let got: DeltaDiscoveryResponse = cart.hear().await;
    assert_eq!(got.resources.len(), 1);
    // Nobody but the one whose group it is: not another member, nor who has proven nothing.
    let mut anonymous = open("till", None).await;
    let got: DeltaDiscoveryResponse = anonymous.hear().await;
    assert_eq!((got.resources.len(), &got.removed_resources[..]), (0, &["key".to_owned()][..]));
    of_till.apply(update("sds", "v1", &[("key", b"hunter2-of-till")]));
    let got: DeltaDiscoveryResponse = till.hear().await;
    let value = &got.resources[0].resource.as_ref().unwrap().value;
    assert_eq!(&value[..], b"hunter2-of-till");

    // Nothing of it can be found from outside.
    assert_eq!(stack.exchange.groups().len(), 1);
    let shared = stack.group().await;
    assert!(shared.wanted_upstream().iter().all(|want| want.names.is_empty() && !want.wildcard));
    let clients = stack.downstream.clients().all();
    let shown = format!("{:?} {clients:?} {:?} {of_cart:?} {:?}", stack.exchange, shared.report(), of_cart.report());
    let logged = String::from_utf8_lossy(&log.0.lock().unwrap()).into_owned();
    for text in [&shown, &logged] {
        assert!(!text.contains("hunter2") && !text.contains(&format!("{:?}", b"hunter2")[1..10]), "{text}");
    }
    assert!(logged.contains("snapshot changed"), "it is told that something changed: {logged}");

    // With the stream everything of it goes.
    drop(cart);
    eventually("its group is gone", || stack.exchange.group(of_cart.key()).is_none() && of_cart.is_idle()).await;
    assert!(stack.exchange.group(of_till.key()).is_some());
}
