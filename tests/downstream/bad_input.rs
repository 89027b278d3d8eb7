//! Runs the table `bad_input.txt`.

use super::stack::*;
use outpost::downstream;
use outpost::group::Rules;
use outpost::proto::core::Node;
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use outpost::proto::protobuf::{Struct, Value, value::Kind};
use outpost::session::server;
use outpost::transport::frame::Limit;
use outpost::transport::status;
use outpost::xds::node::NodeLimits;
use outpost::xds::{Limits, Status};
use prost::Message;
use std::sync::Arc;

fn small() -> downstream::Policy {
    downstream::Policy {
        session: Arc::new(server::Settings {
            limits: Limits { names: 50, name_bytes: 100 },
            node_limits: NodeLimits { metadata_bytes: 1000, metadata_depth: 4 },
            ..server::Settings::default()
        }),
        message_limit: Limit { bytes: 100_000, remedy: "raise --max-message-bytes" },
        ..policy(Rules::default())
    }
}

fn nested(depth: usize) -> Struct {
    let kind = match depth {
        0 => Kind::BoolValue(true),
        _ => Kind::StructValue(nested(depth - 1)),
    };
    Struct { fields: [("k".to_owned(), Value { kind: Some(kind) })].into() }
}

fn with_metadata(metadata: Struct) -> DiscoveryRequest {
    let node = Node { metadata: Some(metadata), ..node("bad") };
    DiscoveryRequest { node: Some(node), ..sotw("eds", &["a"]) }
}

fn names(from: usize, count: usize) -> Vec<String> {
    (from..from + count).map(|number| format!("n{number}")).collect()
}

/// Sends the input of a row; returns how the stream ended.
async fn send(stack: &Stack, input: &str) -> Status {
    let path = match input {
        "unknown method" => "/a.B/C",
        "fetch" => "/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters",
        "type of another service" => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
        "names over requests" => DELTA,
        _ => SOTW,
    };
    let mut raw = stack.open(path).await;
    let good = DiscoveryRequest { node: Some(node("bad")), ..sotw("eds", &["a"]) };
    match input {
        "no node" => raw.say(&sotw("eds", &["a"])).await,
        "empty node id" => raw.say(&DiscoveryRequest { node: Some(node("")), ..sotw("eds", &["a"]) }).await,
        "no type" => raw.say(&DiscoveryRequest { type_url: String::new(), ..good }).await,
        "other node id" => {
            raw.say(&good).await;
            raw.say(&DiscoveryRequest { node: Some(node("worse")), ..sotw("eds", &["a"]) }).await;
        }
        "malformed protobuf" => raw.bytes(vec![0xff; 20]).await,
        "malformed node" => raw.bytes([&good.encode_to_vec()[..], &[0x12, 2, 0x0a, 200]].concat()).await,
        "name that is no UTF-8" => raw.bytes([&good.encode_to_vec()[..], &[0x1a, 1, 0xff]].concat()).await,
        "too many names" => raw.say(&DiscoveryRequest { resource_names: names(0, 60), ..good }).await,
        "names over requests" => {
            for from in [0, 30] {
                let ask = DeltaDiscoveryRequest {
                    node: Some(node("bad")),
                    resource_names_subscribe: names(from, 30),
                    ..delta("eds", &[])
                };
                raw.say(&ask).await;
            }
        }
        "long name" => raw.say(&DiscoveryRequest { resource_names: vec!["n".repeat(101)], ..good }).await,
        "large metadata" => {
            let long = Value { kind: Some(Kind::StringValue("x".repeat(1000))) };
            raw.say(&with_metadata(Struct { fields: [("k".to_owned(), long)].into() })).await;
        }
        "deep metadata" => raw.say(&with_metadata(nested(5))).await,
        "long node id" => raw.say(&DiscoveryRequest { node: Some(node(&"x".repeat(5000))), ..good }).await,
        "too many types" => {
            for number in 0..=64 {
                raw.say(&DiscoveryRequest { type_url: format!("type.googleapis.com/t{number}"), ..good.clone() }).await;
            }
        }
        "long type" => raw.say(&DiscoveryRequest { type_url: "t".repeat(101), ..good }).await,
        "large message" => raw.bytes(vec![0; 100_001]).await,
        "unagreed compression" => frame(&mut raw, &[1, 0, 0, 0, 1, 0]).await,
        "no gRPC framing" => frame(&mut raw, b"GET / HTTP/1.1").await,
        "type of another service" => raw.say(&DiscoveryRequest { type_url: kind("lds").to_string(), ..good }).await,
        "unknown method" | "fetch" => {}
        other => panic!("bad_input.txt has a row that is not sent: {other}"),
    }
    raw.end().await
}

async fn frame(raw: &mut Raw, bytes: &'static [u8]) {
    raw.sender.push_framed(bytes.into());
    let _ = raw.sender.flush().await;
}

#[tokio::test]
async fn every_row_is_refused_as_it_says_and_others_are_served() {
    let stack = Stack::new();
    stack.downstream.set_policy(small());
    let mut good = stack.open(DELTA).await;
    good.say(&DeltaDiscoveryRequest { node: Some(node("good")), ..delta("eds", &["a"]) }).await;
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("it is wanted", || !group.wanted_upstream().is_empty()).await;
    let rows: Vec<Vec<&str>> = include_str!("bad_input.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split('|').map(str::trim).collect())
        .collect();
    assert!(rows.len() >= 18);
    for (number, row) in rows.iter().enumerate() {
        let [input, code, pattern, metric] = row[..] else { panic!("not four columns: {row:?}") };
        let before = value(&stack.metrics(), metric);
        let end = send(&stack, input).await;
        assert_eq!(status::name(end.code), code, "{input}: {}", end.message);
        assert!(end.message.contains(pattern), "{input}: {}", end.message);
        eventually(metric, || value(&stack.metrics(), metric) == before + 1).await;
        // Still served.
        group.apply(update("eds", &number.to_string(), &[("a", number.to_string().as_bytes())]));
        let got: DeltaDiscoveryResponse = good.hear().await;
        assert_eq!(got.resources.len(), 1, "{input}");
        good.say(&DeltaDiscoveryRequest { response_nonce: got.nonce, ..delta("eds", &[]) }).await;
    }
    assert!(stack.metrics().contains("handler_panics_total 0"));
}

fn value(metrics: &str, name: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map_or(0, |number| number.parse().unwrap())
}
