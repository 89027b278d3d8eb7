//! Everything but an upstream, on a port of its own.

use bytes::Bytes;
use outpost::clock::Clock;
use outpost::content::Store;
use outpost::downstream::{self, Downstream, Metrics, Parts, Policy, Settings};
use outpost::exchange::{Exchange, GroupHandle};
use outpost::group::Rules;
use outpost::proto::core::Node;
use outpost::proto::discovery::{DeltaDiscoveryRequest, DiscoveryRequest};
use outpost::session::{Update, server};
use outpost::transport::client::{Address, Connection, Dialer, Options, Receiver, StreamEnd};
use outpost::transport::frame::Limit;
use outpost::transport::server::{self as transport, Listen};
use outpost::transport::stream::Sender;
use outpost::xds::envelope::{Payload, Resource};
use outpost::xds::{Name, Status, Timing, TypeUrl};
use prometheus_client::registry::Registry;
use prost::Message;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

pub(super) const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
pub(super) const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

pub(super) struct Stack {
    pub(super) downstream: Arc<Downstream>,
    pub(super) exchange: Arc<Exchange>,
    pub(super) clock: Clock,
    pub(super) port: u16,
    registry: Registry,
    timer: JoinHandle<()>,
}

impl Drop for Stack {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        listen: vec![Listen::Tcp(([127, 0, 0, 1], 0).into())],
        transport: transport::Settings::default(),
        half_requests: 512 << 20,
        request_timeout: Duration::from_secs(30),
    }
}

pub(super) fn policy(rules: Rules) -> Policy {
    Policy {
        session: Arc::new(server::Settings::default()),
        rules: rules.into(),
        message_limit: Limit { bytes: 32 << 20, remedy: "raise --max-message-bytes" },
        identifier: "outpost-test".into(),
        pass_debug: false,
        viewers: Vec::new(),
    }
}

impl Stack {
    pub(super) fn new() -> Self {
        Self::with(settings(), Rules::default(), Clock::system())
    }

    pub(super) fn with(settings: Settings, rules: Rules, clock: Clock) -> Self {
        let store = Store::new();
        let exchange = Exchange::new(store.clone(), Timing::default(), clock.clone());
        let timer = tokio::spawn(exchange.clone().run());
        let mut registry = Registry::with_prefix("outpost");
        let below = registry.sub_registry_with_prefix("downstream");
        let parts = Parts {
            exchange: exchange.clone(),
            store,
            clock: clock.clone(),
            metrics: Metrics::register(below, false),
            connections: transport::Metrics::register(below),
            patches: None,
        };
        let downstream = downstream::serve(settings, policy(rules), parts).unwrap();
        let Some(Listen::Tcp(address)) = downstream.addresses().first().cloned() else { panic!("no TCP") };
        Self { downstream: downstream.into(), exchange, clock, port: address.port(), registry, timer }
    }

    pub(super) fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) async fn channel(&self) -> tonic::transport::Channel {
        tonic::transport::Endpoint::from_shared(self.uri()).unwrap().connect().await.unwrap()
    }

    /// A connection of our own client, whose clock always runs.
    pub(super) async fn connect(&self, options: Options) -> Connection {
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: self.port };
        Dialer::new(address, options, Clock::system()).connect().await.unwrap()
    }

    pub(super) async fn open(&self, path: &str) -> Raw {
        self.connect(Options::default()).await.open(path, &Default::default()).unwrap().into()
    }

    /// The only group there is.
    pub(super) async fn group(&self) -> GroupHandle {
        eventually("a group is there", || !self.exchange.groups().is_empty()).await;
        self.exchange.groups().remove(0)
    }

    pub(super) fn metrics(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }

    pub(super) async fn counts(&self, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while !self.metrics().contains(line) {
            assert!(Instant::now() < deadline, "no {line} in\n{}", self.metrics());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

/// Polls until `check` holds.
pub(super) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// What should come soon, or the test fails.
pub(super) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), work).await.unwrap_or_else(|_| panic!("not within 20 s: {what}"))
}

pub(super) fn kind(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).unwrap()
}

pub(super) fn node(id: &str) -> Node {
    Node { id: id.to_owned(), ..Node::default() }
}

/// An upstream's word on some names: each is a name and its content.
pub(super) fn update(short: &str, label: &str, resources: &[(&str, &[u8])]) -> Update {
    let resource = |(name, value): &(&str, &[u8])| Resource {
        name: Some((*name).into()),
        payload: Some(Payload { type_url: kind(short).as_str().to_owned(), value: Bytes::copy_from_slice(value) }),
        ..Resource::default()
    };
    Update {
        type_url: kind(short),
        label: label.into(),
        control_plane: "".into(),
        resources: resources.iter().map(resource).collect(),
        removed: Vec::new(),
        errors: Vec::new(),
        whole: false,
        silent: Vec::new(),
        answers_wildcard: false,
        received: Default::default(),
    }
}

pub(super) fn removing(short: &str, names: &[&str]) -> Update {
    Update { removed: names.iter().map(|name| Name::from(*name)).collect(), ..update(short, "", &[]) }
}

pub(super) fn sotw(short: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: kind(short).as_str().to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

pub(super) fn delta(short: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: kind(short).as_str().to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// A stream of our own client.
pub(super) struct Raw {
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

impl From<(Sender, Receiver)> for Raw {
    fn from((sender, receiver): (Sender, Receiver)) -> Self {
        Self { sender, receiver }
    }
}

impl Raw {
    pub(super) async fn say(&mut self, message: &impl Message) {
        self.bytes(message.encode_to_vec()).await;
    }

    pub(super) async fn bytes(&mut self, message: Vec<u8>) {
        self.sender.push(&[], message.into()).unwrap();
        // The server may have refused already: then the answer says so.
        let _ = soon("bytes are taken", self.sender.flush()).await;
    }

    pub(super) async fn hear<M: Message + Default>(&mut self) -> M {
        let message = soon("a response", self.receiver.message()).await;
        M::decode(message.unwrap_or_else(|end| panic!("ended: {end}"))).unwrap()
    }

    /// How it ends, without another message.
    pub(super) async fn end(&mut self) -> Status {
        match soon("an end", self.receiver.message()).await {
            Err(StreamEnd::Status(status)) => status,
            other => panic!("no status: {other:?}"),
        }
    }
}
