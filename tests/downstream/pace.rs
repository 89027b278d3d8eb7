//! Slow readers, floods and stalls.

use super::stack::*;
use futures_util::FutureExt;
use outpost::clock::Clock;
use outpost::group::{Grouping, Rules, Secrets, SharedNode};
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};
use outpost::transport::client::{Options, StreamEnd};
use outpost::xds::code;
use prost::Message;
use std::time::{Duration, Instant};

fn shared() -> Rules {
    Rules::new(Grouping::All, Secrets::Identity, SharedNode::default()).unwrap()
}

fn tiny() -> Options {
    Options { stream_window: 1000, ..Options::default() }
}

async fn subscribe(raw: &mut Raw, id: &str) {
    raw.say(&DeltaDiscoveryRequest { node: Some(node(id)), ..delta("eds", &["a"]) }).await;
}

#[tokio::test]
async fn one_that_does_not_read_holds_up_nobody() {
    // Y-09
    let stack = Stack::with(settings(), shared(), Clock::system());
    let connection = stack.connect(tiny()).await;
    let mut slow = Raw::from(connection.open(DELTA, &Default::default()).unwrap());
    subscribe(&mut slow, "slow").await;
    let mut quick = stack.open(DELTA).await;
    subscribe(&mut quick, "quick").await;
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("both are members", || group.members() == 2 && !group.wanted_upstream().is_empty()).await;
    for version in 0..1000u32 {
        let mut content = vec![0; 5000];
        content[..4].copy_from_slice(&version.to_be_bytes());
        let began = Instant::now();
        group.apply(update("eds", &version.to_string(), &[("a", &content)]));
        let got: DeltaDiscoveryResponse = quick.hear().await;
        assert_eq!(got.resources[0].resource.as_ref().unwrap().value[..4], version.to_be_bytes());
        assert!(began.elapsed() < Duration::from_secs(5), "version {version} took {:?}", began.elapsed());
        quick.say(&DeltaDiscoveryRequest { response_nonce: got.nonce, ..delta("eds", &[]) }).await;
    }
    let clients = stack.downstream.clients();
    let waiting = clients.of_node("slow")[0].waiting_bytes();
    assert!((1..6000).contains(&waiting), "{waiting} bytes wait: one response, not a thousand");
    // It gets the one on its way, then the newest, and none between.
    let first: DeltaDiscoveryResponse = slow.hear().await;
    slow.say(&DeltaDiscoveryRequest { response_nonce: first.nonce, ..delta("eds", &[]) }).await;
    let newest: DeltaDiscoveryResponse = slow.hear().await;
    assert_eq!(newest.resources[0].resource.as_ref().unwrap().value[..4], 999u32.to_be_bytes());
}

#[tokio::test]
async fn who_takes_no_byte_for_too_long_is_ended() {
    let clock = Clock::manual();
    let stack = Stack::with(settings(), shared(), clock.clone());
    let connection = stack.connect(tiny()).await;
    let mut slow = Raw::from(connection.open(DELTA, &Default::default()).unwrap());
    subscribe(&mut slow, "slow").await;
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("it is a member", || !group.wanted_upstream().is_empty()).await;
    group.apply(update("eds", "1", &[("a", &[7; 50_000])]));
    let clients = stack.downstream.clients();
    eventually("bytes wait", || clients.of_node("slow")[0].waiting_bytes() > 0).await;
    // It reads a little every 25 s: that is slow, not dead.
    for _ in 0..4 {
        for _ in 0..25 {
            clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let before = clients.of_node("slow")[0].waiting_bytes();
        assert!(slow.receiver.message().now_or_never().is_none(), "half a message");
        eventually("a little was taken", || clients.of_node("slow")[0].waiting_bytes() < before).await;
    }
    let stopped = clock.now();
    eventually("it is ended", || {
        clock.advance(Duration::from_secs(1));
        clients.is_empty()
    })
    .await;
    assert!(clock.now().since(stopped) >= Duration::from_secs(30));
    let end = soon("the end", slow.receiver.message()).await.unwrap_err();
    assert!(matches!(end, StreamEnd::Reset(h2::Reason::CANCEL)), "{end:?}");
    stack.counts("streams_ended_total{reason=\"send_stall\"} 1").await;
}

#[tokio::test]
async fn a_flood_of_requests_while_nothing_is_read_is_read() {
    // Y-10, C-144
    let stack = Stack::with(settings(), shared(), Clock::system());
    let connection = stack.connect(tiny()).await;
    let mut slow = Raw::from(connection.open(DELTA, &Default::default()).unwrap());
    subscribe(&mut slow, "slow").await;
    let group = stack.group().await;
    group.stream_opened("upstream:1".into());
    eventually("it is a member", || !group.wanted_upstream().is_empty()).await;
    group.apply(update("eds", "1", &[("a", &[7; 50_000])]));
    let clients = stack.downstream.clients();
    eventually("bytes wait", || clients.of_node("slow")[0].waiting_bytes() > 0).await;
    // Three times what the server's window of 1 MiB holds.
    for number in 0..300 {
        let name = format!("{number:0>9000}")[..4000].to_owned() + &number.to_string();
        let long = DeltaDiscoveryRequest { response_nonce: "x".repeat(6000), ..delta("eds", &[&name]) };
        slow.say(&long).await;
    }
    eventually("every name is wanted upstream", || group.wanted_upstream().iter().any(|want| want.names.len() == 301))
        .await;
    let got: DeltaDiscoveryResponse = slow.hear().await;
    assert_eq!(got.resources.len(), 1);
}

#[tokio::test]
async fn who_never_asks_or_stops_half_way_is_ended() {
    let clock = Clock::manual();
    let stack = Stack::with(settings(), shared(), clock.clone());
    let connection = stack.connect(Options::default()).await;
    let mut silent = Raw::from(connection.open(SOTW, &Default::default()).unwrap());
    let mut patient = Raw::from(connection.open(SOTW, &Default::default()).unwrap());
    patient.say(&DiscoveryRequest { node: Some(node("patient")), ..sotw("eds", &[]) }).await;
    let clients = stack.downstream.clients();
    eventually("both are here", || clients.len() == 2 && clients.of_node("patient").len() == 1).await;
    for _ in 0..31 {
        clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let status = silent.end().await;
    assert_eq!(status.code, code::UNAVAILABLE);
    assert!(status.message.contains("no complete request within 30s"), "{}", status.message);
    assert_eq!(clients.len(), 1, "who has asked may be silent for ever");
    // Half a request.
    let socket = tokio::net::TcpStream::connect(("127.0.0.1", stack.port)).await.unwrap();
    let (mut requests, http2) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(http2);
    let request = http::Request::post(format!("{}{SOTW}", stack.uri())).header("content-type", "application/grpc");
    let (response, mut stream) = requests.send_request(request.body(()).unwrap(), false).unwrap();
    let ask = DiscoveryRequest { node: Some(node("half")), ..sotw("eds", &[]) }.encode_to_vec();
    let mut bytes = vec![0, 0, 0, 0, u8::try_from(ask.len()).unwrap()];
    bytes.extend(ask);
    bytes.extend([0, 0, 0, 0, 99, 1]);
    stream.send_data(bytes.into(), false).unwrap();
    eventually("it has asked once", || clients.of_node("half").len() == 1).await;
    eventually("it is ended", || {
        clock.advance(Duration::from_secs(1));
        clients.of_node("half").is_empty()
    })
    .await;
    let mut body = soon("headers", response).await.unwrap().into_body();
    assert!(body.data().await.is_none());
    assert_eq!(body.trailers().await.unwrap().unwrap()["grpc-status"], "14");
    stack.counts("rejected_total{reason=\"request_timeout\"} 2").await;
}
