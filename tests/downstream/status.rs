//! Client status: what the stock client of a tool is told of sidecars.

use super::stack::*;
use outpost::clock::Clock;
use outpost::group::{Grouping, Rules, Secrets, SharedNode};
use outpost::proto::admin::ClientResourceStatus;
use outpost::proto::cluster::Cluster;
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outpost::proto::matcher::string_matcher::MatchPattern;
use outpost::proto::matcher::{NodeMatcher, StringMatcher};
use outpost::proto::rpc;
use outpost::proto::status::client_config::GenericXdsConfig;
use outpost::proto::status::client_status_discovery_service_client::ClientStatusDiscoveryServiceClient;
use outpost::proto::status::{ClientStatusRequest, ClientStatusResponse, ConfigStatus};
use prost::Message;
use std::time::Duration;
use tonic::transport::Channel;

const BAD: &[u8] = b"no cluster";

type Client = ClientStatusDiscoveryServiceClient<Channel>;

fn of(id: &str) -> ClientStatusRequest {
    let id = StringMatcher { match_pattern: Some(MatchPattern::Prefix(id.into())), ignore_case: false };
    ClientStatusRequest {
        node_matchers: vec![NodeMatcher { node_id: Some(id), node_metadatas: vec![] }],
        ..Default::default()
    }
}

async fn fetch(client: &mut Client, request: ClientStatusRequest) -> ClientStatusResponse {
    soon("an answer", client.fetch_client_status(request)).await.unwrap().into_inner()
}

fn find(response: &ClientStatusResponse, name: &str) -> GenericXdsConfig {
    let mut all = response.config.iter().flat_map(|config| &config.generic_xds_configs);
    all.find(|each| each.name == name).unwrap_or_else(|| panic!("{name} in {response:?}")).clone()
}

fn says(config: &GenericXdsConfig) -> (ConfigStatus, ClientResourceStatus) {
    (config.config_status(), config.client_status())
}

async fn stands(client: &mut Client, name: &str, wanted: (ConfigStatus, ClientResourceStatus)) -> GenericXdsConfig {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        let seen = find(&fetch(client, of("n1")).await, name);
        if says(&seen) == wanted {
            return seen;
        }
        assert!(std::time::Instant::now() < deadline, "{wanted:?}: {seen:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn tools_see_who_has_what_and_no_secret() {
    let rules = Rules::new(Grouping::All, Secrets::TrustNetwork, SharedNode::default()).unwrap();
    let stack = Stack::with(settings(), rules, Clock::system());
    let mut raw = stack.open(DELTA).await;
    raw.say(&DeltaDiscoveryRequest { node: Some(node("n1")), ..delta("cds", &["a", "b"]) }).await;
    raw.say(&delta("sds", &["key"])).await;
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    let mut client = ClientStatusDiscoveryServiceClient::new(stack.channel().await);
    let unsent = (ConfigStatus::NotSent, ClientResourceStatus::Requested);
    stands(&mut client, "a", unsent).await;

    let content = Cluster { name: "a".into(), ..Cluster::default() }.encode_to_vec();
    group.apply(update("cds", "v1", &[("a", &content)]));
    group.apply(removing("cds", &["b"]));
    group.apply(update("sds", "v1", &[("key", b"private")]));
    // Takes everything but one thing.
    let sidecar = tokio::spawn(async move {
        loop {
            let got: DeltaDiscoveryResponse = raw.hear().await;
            let bad = got.resources.iter().any(|each| each.resource.as_ref().is_some_and(|any| any.value[..] == *BAD));
            let refusal = || rpc::Status { code: 13, message: "a: malformed".into(), ..Default::default() };
            let (type_url, response_nonce) = (got.type_url, got.nonce);
            let error_detail = bad.then(refusal);
            raw.say(&DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..Default::default() }).await;
        }
    });
    let a = stands(&mut client, "a", (ConfigStatus::Synced, ClientResourceStatus::Acked)).await;
    assert_eq!((a.type_url.as_str(), a.version_info.len()), (kind("cds").as_str(), 32));
    let shown = a.xds_config.unwrap();
    assert_eq!((shown.type_url.as_str(), &shown.value[..]), (kind("cds").as_str(), &content[..]));
    let since = a.last_updated.unwrap().seconds;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
    assert!((0..=60).contains(&(now - since)), "{since} {now}");
    stands(&mut client, "b", (ConfigStatus::Synced, ClientResourceStatus::DoesNotExist)).await;
    let key = stands(&mut client, "key", (ConfigStatus::Synced, ClientResourceStatus::Acked)).await;
    assert_eq!(key.xds_config, None, "a secret is shown by name only");

    group.apply(update("cds", "v2", &[("a", BAD)]));
    let a = stands(&mut client, "a", (ConfigStatus::Error, ClientResourceStatus::Nacked)).await;
    assert_eq!(a.error_state.unwrap().details, "a: malformed");
    assert_eq!(a.xds_config.map(|any| any.value.len()), Some(0), "what cannot be decoded is not shown");

    let bare = fetch(&mut client, ClientStatusRequest { exclude_resource_contents: true, ..of("n") }).await;
    assert_eq!(find(&bare, "a").xds_config, None);
    assert!(fetch(&mut client, of("n2")).await.config.is_empty());
    assert_eq!(fetch(&mut client, ClientStatusRequest::default()).await.config.len(), 1);
    sidecar.abort();
}

#[tokio::test]
async fn a_stream_of_questions_is_answered_until_one_cannot_be() {
    let stack = Stack::new();
    let mut client = ClientStatusDiscoveryServiceClient::new(stack.channel().await);
    let mut bad = of("n1");
    bad.node_matchers[0].node_id = Some(StringMatcher::default());
    let asks = tokio_stream::iter([of("n1"), of("n2"), bad, of("n1")]);
    let mut answers = client.stream_client_status(asks).await.unwrap().into_inner();
    for _ in 0..2 {
        assert_eq!(soon("an answer", answers.message()).await.unwrap(), Some(ClientStatusResponse::default()));
    }
    let error = soon("an end", answers.message()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument, "{error}");
    assert!(error.message().contains("no pattern that is known here"), "{error}");
}

/// They go as streams of sidecars do: before the window is over, and by a status.
#[tokio::test]
async fn a_drain_ends_watches_and_streams_of_questions() {
    let clock = Clock::manual();
    let stack = Stack::with(settings(), Rules::default(), clock.clone());
    let mut health = tonic_health::pb::health_client::HealthClient::new(stack.channel().await);
    let mut watch = health.watch(tonic_health::pb::HealthCheckRequest::default()).await.unwrap().into_inner();
    assert!(soon("a health", watch.message()).await.unwrap().is_some());
    let (asks, questions) = tokio::sync::mpsc::channel(1);
    asks.send(of("n1")).await.unwrap();
    let mut client = ClientStatusDiscoveryServiceClient::new(stack.channel().await);
    let questions = tokio_stream::wrappers::ReceiverStream::new(questions);
    let mut answers = client.stream_client_status(questions).await.unwrap().into_inner();
    assert!(soon("an answer", answers.message()).await.unwrap().is_some());

    let window = Duration::from_secs(100);
    let (downstream, begun) = (stack.downstream.clone(), clock.now());
    let drained = tokio::spawn(async move { downstream.drain(window).await });
    let ended = tokio::spawn(async move {
        while watch.message().await.unwrap().is_some() {}
        answers.message().await.unwrap()
    });
    eventually("both have ended", || {
        clock.advance(Duration::from_secs(1));
        ended.is_finished()
    })
    .await;
    assert_eq!(ended.await.unwrap(), None, "by OK");
    drop((asks, health, client));
    soon("the drain ends", drained).await.unwrap();
    assert!(clock.now() < begun + window, "before its window");
}
