//! Content reaches clients, by every way in.

use super::stack::*;
use outpost::clock::Clock;
use outpost::group::{Grouping, Rules, Secrets, SharedNode};
use outpost::proto::core::Node;
use outpost::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use outpost::proto::rpc;
use outpost::proto::services::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use outpost::session::server::State;
use outpost::xds::code;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

#[tokio::test]
async fn a_stock_client_gets_changes_by_sotw() {
    let stack = Stack::new();
    let (asks, requests) = mpsc::channel(8);
    let mut client = AggregatedDiscoveryServiceClient::new(stack.channel().await);
    let first = DiscoveryRequest { node: Some(node("one")), ..sotw("eds", &["a", "b"]) };
    asks.send(first).await.unwrap();
    let mut answers =
        soon("headers", client.stream_aggregated_resources(ReceiverStream::new(requests))).await.unwrap().into_inner();
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("the interest is known", || group.wanted_upstream().iter().any(|want| want.names.len() == 2)).await;
    group.apply(update("eds", "v1", &[("a", b"a1"), ("b", b"b1")]));
    let got = soon("a response", answers.message()).await.unwrap().unwrap();
    assert_eq!(got.type_url, kind("eds").as_str());
    assert_eq!(got.version_info, "v1");
    assert_eq!(got.control_plane.unwrap().identifier, "outpost-test");
    let mut values: Vec<_> = got.resources.iter().map(|any| any.value.to_vec()).collect();
    values.sort();
    assert_eq!(values, [b"a1", b"b1"]);
    asks.send(DiscoveryRequest { response_nonce: got.nonce, version_info: "v1".into(), ..sotw("eds", &["a", "b"]) })
        .await
        .unwrap();
    stack.counts("requests_total{type=\"eds\",kind=\"ack\"} 1").await;
    group.apply(outpost::session::Update { received: stack.clock.now(), ..update("eds", "v2", &[("a", b"a2")]) });
    let got = soon("the change", answers.message()).await.unwrap().unwrap();
    assert_eq!(got.resources.len(), 1);
    assert_eq!(&got.resources[0].value[..], b"a2");
    let ack = DiscoveryRequest { response_nonce: got.nonce, version_info: "v2".into(), ..sotw("eds", &["a", "b"]) };
    asks.send(ack).await.unwrap();
    stack.counts("convergence_seconds_count{type=\"eds\",stage=\"ack\"} 1").await;

    let clients = stack.downstream.clients().of_node("one");
    let [client] = clients.as_slice() else { panic!("{clients:?}") };
    let known = client.known().unwrap();
    assert_eq!((client.service, known.rule.label()), ("ads", "perNode"));
    assert_eq!(known.group, *group.key());
    let types = client.types(stack.clock.now());
    assert_eq!((types.len(), types[0].state), (1, State::Synced));
    assert!(client.explain(stack.clock.now(), &kind("eds"), "a").unwrap().subscribed);
    // Half-close ends the call with OK and lists the stream no more (C-016).
    drop(asks);
    assert!(soon("the end", answers.message()).await.unwrap().is_none());
    eventually("the stream is gone", || stack.downstream.clients().is_empty() && group.members() == 0).await;
    stack.counts("streams_ended_total{reason=\"client\"} 1").await;
}

#[tokio::test]
async fn a_stock_client_gets_changes_and_removals_by_delta() {
    let stack = Stack::new();
    let (asks, requests) = mpsc::channel(8);
    let mut client = AggregatedDiscoveryServiceClient::new(stack.channel().await);
    asks.send(DeltaDiscoveryRequest { node: Some(node("one")), ..delta("cds", &["*"]) }).await.unwrap();
    let mut answers =
        soon("headers", client.delta_aggregated_resources(ReceiverStream::new(requests))).await.unwrap().into_inner();
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("the interest is known", || group.wanted_upstream().iter().any(|want| want.wildcard)).await;
    let all = update("cds", "v1", &[("a", b"\x0a\x01a"), ("b", b"\x0a\x01b")]);
    group.apply(outpost::session::Update { answers_wildcard: true, ..all });
    let got = soon("a response", answers.message()).await.unwrap().unwrap();
    assert_eq!(got.resources.len(), 2);
    asks.send(DeltaDiscoveryRequest { response_nonce: got.nonce, ..delta("cds", &[]) }).await.unwrap();
    group.apply(removing("cds", &["a"]));
    let got = soon("the removal, settled", answers.message()).await.unwrap().unwrap();
    assert_eq!(got.removed_resources, ["a"]);
    asks.send(DeltaDiscoveryRequest {
        response_nonce: got.nonce,
        error_detail: Some(rpc::Status { message: "no \"such\"\nthing".into(), ..Default::default() }),
        ..delta("cds", &[])
    })
    .await
    .unwrap();
    stack.counts("requests_total{type=\"cds\",kind=\"nack\"} 1").await;
    let types = stack.downstream.clients().all()[0].types(stack.clock.now());
    assert_eq!(types[0].state, State::Rejected);
    assert_eq!(types[0].nacked.as_ref().unwrap().1.message, "no \"such\"\nthing");
}

#[tokio::test]
async fn a_service_of_one_type_takes_no_other() {
    let stack = Stack::new();
    let mut client = ClusterDiscoveryServiceClient::new(stack.channel().await);
    // An empty type is the service's own (C-008).
    let mut ask = DeltaDiscoveryRequest { node: Some(node("one")), ..delta("cds", &["*"]) };
    ask.type_url.clear();
    let (asks, requests) = mpsc::channel(8);
    asks.send(ask).await.unwrap();
    let mut answers = client.delta_clusters(ReceiverStream::new(requests)).await.unwrap().into_inner();
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("the interest is known", || group.wanted_upstream().iter().any(|want| want.wildcard)).await;
    group.apply(outpost::session::Update { answers_wildcard: true, ..update("cds", "v", &[("a", b"\x0a\x01a")]) });
    assert_eq!(soon("a response", answers.message()).await.unwrap().unwrap().resources.len(), 1);
    assert_eq!(stack.downstream.clients().all()[0].service, "cds");
    asks.send(delta("lds", &["*"])).await.unwrap();
    let error = soon("the end", answers.message()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::InvalidArgument);
    stack.counts("rejected_total{reason=\"wrong_type\"} 1").await;
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let stack = Stack::new();
    for (path, message) in [
        ("/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters", "use the streaming method"),
        ("/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats", "not served here"),
        ("/envoy.api.v2.ClusterDiscoveryService/StreamClusters", "not served here"),
    ] {
        let status = stack.open(path).await.end().await;
        assert_eq!(status.code, code::UNIMPLEMENTED);
        assert!(status.message.contains(path) && status.message.contains(message), "{}", status.message);
    }
    stack.counts("unimplemented_total 3").await;
}

#[tokio::test]
async fn health_and_reflection_are_beside_it() {
    let stack = Stack::new();
    let mut health = HealthClient::new(stack.channel().await);
    let ads = "envoy.service.discovery.v3.AggregatedDiscoveryService";
    for (ready, want) in [(true, 1), (false, 2)] {
        stack.downstream.set_ready(ready).await;
        for service in ["", ads] {
            let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
            assert_eq!(answer.status, want, "{service:?}");
        }
    }
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let mut reflection = ServerReflectionClient::new(stack.channel().await);
    let ask = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..Default::default()
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([ask])).await.unwrap().into_inner();
    let answer = soon("a list", answers.message()).await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|service| service.name.as_str()).collect();
    assert!(names.contains(&ads) && names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[tokio::test]
async fn a_thousand_streams_on_one_connection_are_served() {
    // H-03
    let stack = Stack::new();
    let connection = stack.connect(Default::default()).await;
    assert_eq!(connection.max_streams(), 1000);
    let mut streams = Vec::new();
    for number in 0..1000 {
        let mut raw = Raw::from(connection.open(SOTW, &Default::default()).unwrap());
        let name = format!("n{number}");
        raw.say(&DiscoveryRequest { node: Some(node("one")), ..sotw("eds", &[&name]) }).await;
        streams.push(raw);
    }
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("all are wanted", || group.wanted_upstream().iter().any(|want| want.names.len() == 1000)).await;
    let names: Vec<String> = (0..1000).map(|number| format!("n{number}")).collect();
    let all: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    group.apply(update("eds", "v1", &all));
    for (number, raw) in streams.iter_mut().enumerate() {
        let got: DiscoveryResponse = raw.hear().await;
        assert_eq!(got.resources.len(), 1);
        assert_eq!(&got.resources[0].value[..], format!("n{number}").as_bytes());
    }
    assert_eq!(stack.downstream.clients().len(), 1000);
}

#[tokio::test]
async fn a_node_that_changes_moves_to_its_new_group() {
    // N-08
    let rules = Rules::new("{cluster}".parse::<Grouping>().unwrap(), Secrets::Identity, SharedNode::default()).unwrap();
    let stack = Stack::with(settings(), rules, Clock::system());
    let mut raw = stack.open(DELTA).await;
    let of = |cluster: &str| Some(Node { cluster: cluster.to_owned(), ..node("one") });
    raw.say(&DeltaDiscoveryRequest { node: of("red"), ..delta("eds", &["a"]) }).await;
    let red = stack.group().await;
    red.stream_opened("upstream:1".into());
    eventually("red wants it", || red.wanted_upstream().iter().any(|want| want.names.len() == 1)).await;
    red.apply(update("eds", "v1", &[("a", b"same"), ("x", b"no one asked")]));
    let got: DeltaDiscoveryResponse = raw.hear().await;
    assert_eq!(got.resources.len(), 1);
    let ack = DeltaDiscoveryRequest { response_nonce: got.nonce, node: of("blue"), ..delta("eds", &[]) };
    raw.say(&ack).await;
    eventually("blue is there and red is left", || red.members() == 0 && stack.exchange.groups().len() == 2).await;
    let blue = stack.exchange.groups().into_iter().find(|group| group.key() != red.key()).unwrap();
    assert!(blue.wanted_upstream().iter().any(|want| want.names.len() == 1), "what was wanted moved along");
    blue.stream_opened("upstream:1".into());
    blue.apply(update("eds", "w1", &[("a", b"other")]));
    let got: DeltaDiscoveryResponse = raw.hear().await;
    assert_eq!(&got.resources[0].resource.as_ref().unwrap().value[..], b"other");
}

#[tokio::test]
async fn secrets_are_for_identities() {
    for (secrets, want) in [(Secrets::Identity, false), (Secrets::TrustNetwork, true)] {
        let rules = Rules::new(Grouping::PerNode, secrets, SharedNode::default()).unwrap();
        let stack = Stack::with(settings(), rules, Clock::system());
        let mut raw = stack.open(DELTA).await;
        raw.say(&DeltaDiscoveryRequest { node: Some(node("one")), ..delta("sds", &["key"]) }).await;
        let group = stack.group().await;
        group.stream_opened("upstream:1".into());
        if want {
            eventually("it is wanted", || !group.wanted_upstream().is_empty()).await;
        }
        group.apply(update("sds", "v1", &[("key", b"private")]));
        let got: DeltaDiscoveryResponse = raw.hear().await;
        assert_eq!(got.resources.len(), usize::from(want));
        assert_eq!(got.removed_resources.len(), usize::from(!want));
    }
}

#[tokio::test]
async fn a_cold_group_without_upstream_says_unavailable_before_any_response() {
    let clock = Clock::manual();
    let stack = Stack::with(settings(), Rules::default(), clock.clone());
    let mut raw = stack.open(DELTA).await;
    raw.say(&DeltaDiscoveryRequest { node: Some(node("one")), ..delta("eds", &["a"]) }).await;
    let group = stack.group().await;
    group.stream_lost("upstream:1 refused the connection".into());
    eventually("it is wanted", || !group.wanted_upstream().is_empty()).await;
    let ended = tokio::spawn(async move { raw.end().await });
    eventually("the stream has ended", || {
        clock.advance(Duration::from_millis(200));
        ended.is_finished()
    })
    .await;
    let status = ended.await.unwrap();
    assert_eq!(status.code, code::UNAVAILABLE);
    assert!(status.message.contains("upstream:1 refused the connection"), "{}", status.message);
    stack.counts("rejected_total{reason=\"cold\"} 1").await;
}

#[tokio::test]
async fn a_drain_ends_streams_after_an_answer() {
    // H-04
    let clock = Clock::manual();
    let stack = Stack::with(settings(), Rules::default(), clock.clone());
    let mut answered = stack.open(DELTA).await;
    answered.say(&DeltaDiscoveryRequest { node: Some(node("one")), ..delta("eds", &["a"]) }).await;
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("it is wanted", || !group.wanted_upstream().is_empty()).await;
    group.apply(update("eds", "v1", &[("a", b"1")]));
    let _: DeltaDiscoveryResponse = answered.hear().await;
    let mut waiting = stack.open(DELTA).await;
    waiting.say(&DeltaDiscoveryRequest { node: Some(node("one")), ..delta("eds", &["b"]) }).await;
    eventually("both are wanted", || group.wanted_upstream().iter().any(|want| want.names.len() == 2)).await;
    let downstream = stack.downstream.clone();
    let drained = tokio::spawn(async move { downstream.drain(Duration::from_secs(100)).await });
    let clients = stack.downstream.clients();
    eventually("who had an answer is ended", || {
        clock.advance(Duration::from_secs(1));
        clients.len() == 1
    })
    .await;
    assert_eq!(answered.end().await.code, code::OK);
    // Who has an answer coming stays for it.
    group.apply(update("eds", "v2", &[("b", b"1")]));
    let got: DeltaDiscoveryResponse = waiting.hear().await;
    assert_eq!(got.resources.len(), 1);
    eventually("it is ended", || {
        clock.advance(Duration::from_secs(1));
        clients.is_empty()
    })
    .await;
    assert_eq!(waiting.end().await.code, code::OK);
    drop((answered, waiting));
    soon("the drain ends", drained).await.unwrap();
    assert_eq!(stack.downstream.connections(), 0);
    stack.counts("streams_ended_total{reason=\"drain\"} 2").await;
}

#[tokio::test]
async fn a_response_that_cannot_be_split_is_counted() {
    let stack = Stack::new();
    let (asks, requests) = mpsc::channel(8);
    let mut client = AggregatedDiscoveryServiceClient::new(stack.channel().await).max_decoding_message_size(usize::MAX);
    asks.send(DiscoveryRequest { node: Some(node("one")), ..sotw("cds", &["a"]) }).await.unwrap();
    let mut answers =
        soon("headers", client.stream_aggregated_resources(ReceiverStream::new(requests))).await.unwrap().into_inner();
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("the interest is known", || group.wanted_upstream().iter().any(|want| want.names.len() == 1)).await;
    group.apply(update("cds", "v1", &[("a", &vec![b'x'; 4 << 20])]));
    soon("a response", answers.message()).await.unwrap().unwrap();
    stack.counts("oversize_responses_total{type=\"cds\"} 1").await;
}
