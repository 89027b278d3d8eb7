//! Against tonic's own server, and against peers that are none.

use super::*;
use crate::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    aggregated_discovery_service_server::{AggregatedDiscoveryService, AggregatedDiscoveryServiceServer},
};
use crate::transport::tls::{ClientFiles, Pair};
use futures_util::StreamExt;
use prost::Message;
use std::io::Write;
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::codec::CompressionEncoding;
use tonic::transport::Server;

const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// Answers each request with its version as the nonce; `end` ends the stream,
/// `large` is answered by 3 MB.
struct Echo;

type Responses<T> = Pin<Box<dyn futures_util::Stream<Item = Result<T, tonic::Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Echo {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: tonic::Request<tonic::Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, tonic::Status> {
        let out = request.into_inner().map(|ask| {
            let ask = ask?;
            match ask.version_info.as_str() {
                "end" => Err(tonic::Status::unauthenticated("who are you? 100 % of you must say")),
                "large" => Ok(DiscoveryResponse { nonce: "x".repeat(3_000_000), ..Default::default() }),
                nonce => Ok(DiscoveryResponse { nonce: nonce.to_owned(), ..Default::default() }),
            }
        });
        Ok(tonic::Response::new(out.boxed()))
    }

    async fn delta_aggregated_resources(
        &self,
        _: tonic::Request<tonic::Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        Err(tonic::Status::unimplemented("no delta here"))
    }
}

fn service() -> AggregatedDiscoveryServiceServer<Echo> {
    AggregatedDiscoveryServiceServer::new(Echo)
        .send_compressed(CompressionEncoding::Gzip)
        .max_encoding_message_size(usize::MAX)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

async fn stock_server(server: Server) -> SocketAddr {
    let (listener, address) = listener().await;
    let mut server = server;
    tokio::spawn(server.add_service(service()).serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

fn dialer(address: SocketAddr, options: Options) -> Arc<Dialer> {
    let address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
    Dialer::new(address, options, Clock::system())
}

fn ask(version: &str) -> Bytes {
    DiscoveryRequest { version_info: version.to_owned(), ..Default::default() }.encode_to_vec().into()
}

async fn nonce(receiver: &mut Receiver) -> Result<String, StreamEnd> {
    let message = receiver.message().await?;
    Ok(DiscoveryResponse::decode(message).unwrap().nonce)
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(std::time::Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn messages_cross_both_ways_and_the_status_comes_last() {
    let address = stock_server(Server::builder()).await;
    let dialer = dialer(address, Options::default());
    let connection = dialer.connect().await.unwrap();
    let (mut sender, mut receiver) = connection.open(SOTW, &HeaderMap::new()).unwrap();
    for version in ["one", "two", "large"] {
        sender.push(&[], ask(version)).unwrap();
        sender.flush().await.unwrap();
        let got = nonce(&mut receiver).await.unwrap();
        assert!(if version == "large" { got.len() == 3_000_000 } else { got == version });
    }
    // Compressed on the wire, counted on the wire.
    assert!(dialer.traffic().received() < 1_000_000, "{}", dialer.traffic().received());
    assert_eq!(connection.calls(), 1);
    sender.push(&ask("end"), Bytes::new()).unwrap();
    sender.flush().await.unwrap();
    let end = receiver.message().await.unwrap_err();
    assert_eq!(end.code(), crate::xds::code::UNAUTHENTICATED);
    assert_eq!(end.to_string(), "UNAUTHENTICATED: who are you? 100 % of you must say");
    assert_eq!(receiver.message().await.unwrap_err().code(), crate::xds::code::UNAUTHENTICATED, "and ever after");
    drop((sender, receiver));
    assert_eq!(connection.calls(), 0);
}

#[tokio::test]
async fn a_missing_method_is_told_from_a_missing_service() {
    let address = stock_server(Server::builder()).await;
    let connection = dialer(address, Options::default()).connect().await.unwrap();
    for (path, message) in [(DELTA, "no delta here"), ("/a.B/C", "")] {
        let (_sender, mut receiver) = connection.open(path, &HeaderMap::new()).unwrap();
        match receiver.message().await.unwrap_err() {
            StreamEnd::Status(status) => {
                assert_eq!((status.code, status.message.as_str()), (crate::xds::code::UNIMPLEMENTED, message));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn the_limit_names_itself_and_streams_are_counted() {
    let address = stock_server(Server::builder().max_concurrent_streams(2)).await;
    let limit = Limit { bytes: 1 << 20, remedy: "send less" };
    let options = Options { receive_limit: limit, ..Options::default() };
    let connection = dialer(address, options).connect().await.unwrap();
    assert_eq!((connection.max_streams(), connection.room()), (2, 2));
    let (mut sender, mut receiver) = connection.open(SOTW, &HeaderMap::new()).unwrap();
    let _second = connection.open(SOTW, &HeaderMap::new()).unwrap();
    assert!(matches!(connection.open(SOTW, &HeaderMap::new()), Err(OpenError::Full(2))));
    assert_eq!(connection.room(), 0);
    sender.push(&[], ask("large")).unwrap();
    sender.flush().await.unwrap();
    let end = receiver.message().await.unwrap_err();
    assert_eq!(end.reason(), "message_bytes");
    assert!(end.to_string().contains("limit of 1048576 bytes; send less"), "{end}");
    drop((sender, receiver));
    assert_eq!(connection.room(), 1);
}

#[tokio::test]
async fn what_is_no_grpc_server_is_named() {
    async fn peer(answer: &'static [u8]) -> SocketAddr {
        let (listener, address) = listener().await;
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let _ = socket.read(&mut [0; 64]).await;
                let _ = socket.write_all(answer).await;
                let _ = socket.read(&mut [0; 64]).await;
            }
        });
        address
    }
    let table: [(&[u8], &str, &str); 3] = [
        (b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n", "not_http2", "answers in HTTP/1"),
        (&[0x15, 3, 1, 0, 2, 2, 70, 0, 0, 0], "not_http2", "expects TLS"),
        (b"", "closed", "closed the connection"),
    ];
    for (answer, reason, message) in table {
        let error = dialer(peer(answer).await, Options::default()).connect().await.unwrap_err();
        assert_eq!(error.reason(), reason, "{error}");
        assert!(error.to_string().contains(message), "{error}");
    }
    let (unused, address) = listener().await;
    drop(unused);
    let error = dialer(address, Options::default()).connect().await.unwrap_err();
    assert_eq!(error.reason(), "connect");
    // Accepts and says nothing.
    let (_silent, address) = listener().await;
    let options = Options { handshake_timeout: Duration::from_millis(50), ..Options::default() };
    let error = dialer(address, options).connect().await.unwrap_err();
    assert_eq!(error.reason(), "handshake_timeout", "{error}");
}

#[tokio::test]
async fn a_web_server_is_no_grpc_server() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let response = http::Response::builder().status(403).header("content-type", "text/html");
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        }
    });
    let connection = dialer(address, Options::default()).connect().await.unwrap();
    let (_sender, mut receiver) = connection.open(SOTW, &HeaderMap::new()).unwrap();
    let end = receiver.message().await.unwrap_err();
    assert_eq!(end.reason(), "not_grpc");
    assert_eq!(end.code(), crate::xds::code::PERMISSION_DENIED);
    assert!(end.to_string().contains("text/html"), "{end}");
}

#[tokio::test]
async fn goaway_keeps_calls_and_refuses_new_ones() {
    let (listener, address) = listener().await;
    let (go, mut going) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let response = http::Response::builder().header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = Sender::new(respond.send_response(response, false).unwrap());
        tokio::select! {
            _ = connection.accept() => {}
            _ = &mut going => {}
        }
        connection.graceful_shutdown();
        stream.push(&[], Bytes::from_static(b"still here")).unwrap();
        poll_fn(|cx| {
            let _ = stream.poll_flush(cx);
            connection.poll_closed(cx)
        })
        .await
    });
    let connection = dialer(address, Options::default()).connect().await.unwrap();
    let (_sender, mut receiver) = connection.open(SOTW, &HeaderMap::new()).unwrap();
    go.send(()).unwrap();
    let mut state = connection.state();
    let seen = state.wait_for(|state| *state != State::Open).await.unwrap().clone();
    assert!(matches!(seen, State::GoingAway(_)), "{seen:?}");
    assert_eq!(connection.room(), 0);
    assert!(matches!(connection.open(SOTW, &HeaderMap::new()), Err(OpenError::Closed(_))));
    assert_eq!(&receiver.message().await.unwrap()[..], b"still here");
}

#[tokio::test]
async fn a_peer_that_keeps_silent_is_lost() {
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut connection = h2::server::handshake(socket).await.unwrap();
        // Answers until the first request, then reads no more.
        let _kept = connection.accept().await;
        std::future::pending::<()>().await;
    });
    let clock = Clock::manual();
    let address = Address::Tcp { host: address.ip().to_string(), port: address.port() };
    let dialer = Dialer::new(address, Options::default(), clock.clone());
    let connection = dialer.connect().await.unwrap();
    let (_sender, mut receiver) = connection.open(SOTW, &HeaderMap::new()).unwrap();
    let state = connection.state();
    eventually("the connection is closed", || {
        clock.advance(Duration::from_secs(1));
        matches!(&*state.borrow(), State::Closed(_))
    })
    .await;
    let end = receiver.message().await.unwrap_err();
    assert_eq!(end.to_string(), "connection lost: no answer to a ping within 5s");
}

#[tokio::test]
async fn an_unused_connection_ends() {
    let address = stock_server(Server::builder()).await;
    let connection = dialer(address, Options::default()).connect().await.unwrap();
    let mut state = connection.state();
    let call = connection.open(SOTW, &HeaderMap::new()).unwrap();
    drop(connection);
    assert_eq!(*state.borrow(), State::Open, "a call keeps it");
    drop(call);
    let ended = state.wait_for(|state| matches!(state, State::Closed(_)));
    tokio::time::timeout(Duration::from_secs(10), ended).await.expect("closed in time").unwrap();
}

/// Writes `text` as Kubernetes does not: in place.
fn write(path: &std::path::Path, text: &str) {
    std::fs::File::create(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn tls_checks_the_name_and_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let issued = rcgen::generate_simple_self_signed(vec!["upstream.example".to_owned()]).unwrap();
    let (cert, key) = (issued.cert.pem(), issued.signing_key.serialize_pem());
    let ca = dir.path().join("ca.pem");
    write(&ca, &cert);
    let identity = tonic_free_server(&cert, &key).await;
    let with = |server_name: Option<&str>, ca: Option<&std::path::Path>| {
        let files = ClientFiles { ca: ca.map(Into::into), pair: None, server_name: server_name.map(str::to_owned) };
        let tls = Some(Arc::new(ClientTls::new(files).unwrap()));
        dialer(identity, Options { tls, ..Options::default() })
    };
    let connection = with(Some("upstream.example"), Some(&ca)).connect().await.unwrap();
    let (_sender, mut receiver) = connection.open("/a.B/C", &HeaderMap::new()).unwrap();
    assert_eq!(receiver.message().await.unwrap_err().code(), crate::xds::code::UNIMPLEMENTED);
    let error = with(Some("other.example"), Some(&ca)).connect().await.unwrap_err();
    assert_eq!(error.reason(), "tls");
    assert!(error.to_string().contains("not valid for name"), "{error}");
    // TLS towards a port in plain text.
    let plain = stock_server(Server::builder()).await;
    let tls = Some(Arc::new(ClientTls::new(ClientFiles { ca: Some(ca), ..Default::default() }).unwrap()));
    let error = dialer(plain, Options { tls, ..Options::default() }).connect().await.unwrap_err();
    assert!(error.to_string().contains("does not speak TLS"), "{error}");
    // And plain text towards TLS.
    let error = dialer(identity, Options::default()).connect().await.unwrap_err();
    assert!(error.to_string().contains("expects TLS"), "{error}");
}

/// A TLS server on rustls alone: every path is unknown.
async fn tonic_free_server(cert: &str, key: &str) -> SocketAddr {
    let dir = tempfile::tempdir().unwrap();
    let pair = Pair { cert: dir.path().join("cert.pem"), key: dir.path().join("key.pem") };
    write(&pair.cert, cert);
    write(&pair.key, key);
    let tls = crate::transport::tls::ServerTls::new(pair, crate::transport::tls::ClientAuth::None).unwrap();
    let (listener, address) = listener().await;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let Ok(socket) = tls.acceptor().accept(socket).await else { continue };
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let response = http::Response::builder()
                        .header("content-type", "application/grpc")
                        .header("grpc-status", "12")
                        .body(())
                        .unwrap();
                    let _ = respond.send_response(response, true);
                }
            });
        }
    });
    std::mem::forget(dir);
    address
}
