//! Against tonic's stock client, our own, and peers that misbehave.

use super::*;
use crate::proto::discovery::{
    DiscoveryRequest, aggregated_discovery_service_client::AggregatedDiscoveryServiceClient,
};
use crate::transport::client::{Address, ConnectError, Dialer, Options, Receiver, StreamEnd};
use crate::transport::frame::{Budget, Limit};
use crate::transport::tls::{ClientAuth, ClientFiles, ClientTls, Pair};
use crate::transport::{routes, stream::Sender};
use crate::xds::{Status, code};
use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use std::future::poll_fn;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const LIMIT: Limit = Limit { bytes: 1 << 20, remedy: "raise --max-message-bytes" };

/// Echoes messages on ADS; `flood` sends until the peer no longer takes it.
#[derive(Default)]
struct Echo {
    /// Bytes that HTTP/2 took from a flood.
    flooded: AtomicU64,
}

impl Handler for Echo {
    async fn handle(self: Arc<Self>, call: Call) {
        match call.path() {
            SOTW => {
                let mut ending = call.peer.ending();
                let Some((mut messages, mut sender)) = call.accept(LIMIT, &Budget::new(1 << 20)) else { return };
                loop {
                    tokio::select! {
                        message = messages.next() => match message {
                            Some(Ok(message)) => sender.push(&[], message).unwrap(),
                            None => break,
                            Some(Err(crate::transport::stream::RecvError::Frame(error))) => {
                                let _ = sender.end(crate::transport::status::trailers(&Status::new(
                                    error.code(),
                                    error.to_string(),
                                )));
                                return;
                            }
                            Some(Err(_)) => return,
                        },
                        sent = sender.flush(), if sender.waiting() > 0 => if sent.is_err() { return },
                        _ = ending.changed() => break,
                    }
                }
                let _ = sender.flush().await;
                let _ = sender.end(crate::transport::status::trailers(&Status::new(0, "")));
            }
            "/flood" => {
                let Some((_messages, mut sender)) = call.accept(LIMIT, &Budget::new(1 << 20)) else { return };
                loop {
                    sender.push(&[], Bytes::from(vec![7; 1 << 16])).unwrap();
                    let flushed = poll_fn(|cx| {
                        let polled = sender.poll_flush(cx);
                        self.flooded.store(sender.accepted(), Ordering::Relaxed);
                        polled
                    });
                    if flushed.await.is_err() {
                        return;
                    }
                }
            }
            "/whoami" => {
                let name = call.peer.identity.as_ref().map(ToString::to_string).unwrap_or_default();
                call.refuse(&Status::new(code::NOT_FOUND, name));
            }
            "/panic" => panic!("a test asked for it"),
            path if path.starts_with("/grpc.health.v1.Health/") => {
                let (reporter, health) = tonic_health::server::health_reporter();
                reporter.set_service_status("", tonic_health::ServingStatus::Serving).await;
                let pace = routes::Pace { clock: Clock::system(), stall: Duration::from_secs(30) };
                routes::serve(health, call, pace, std::future::pending()).await;
            }
            path => {
                let status = Status::new(code::UNIMPLEMENTED, format!("no {path} here"));
                call.refuse(&status);
            }
        }
    }
}

struct Up {
    server: Server,
    echo: Arc<Echo>,
    port: u16,
    metrics: prometheus_client::registry::Registry,
    clock: Clock,
}

fn up(settings: Settings, clock: Clock) -> Up {
    let bound = Bound::bind(&[Listen::Tcp(([127, 0, 0, 1], 0).into())]).unwrap();
    let Listen::Tcp(address) = bound.addresses()[0].clone() else { panic!("no TCP") };
    let mut metrics = prometheus_client::registry::Registry::default();
    let echo = Arc::new(Echo::default());
    let counted = Metrics::register(&mut metrics);
    let server = bound.serve(settings, clock.clone(), counted, echo.clone());
    Up { server, echo, port: address.port(), metrics, clock }
}

impl Up {
    fn uri(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn dialer(&self, options: Options) -> Arc<Dialer> {
        let address = Address::Tcp { host: "127.0.0.1".to_owned(), port: self.port };
        Dialer::new(address, options, Clock::system())
    }

    async fn call(&self, options: Options, path: &str) -> Result<(Sender, Receiver), ConnectError> {
        Ok(self.dialer(options).connect().await?.open(path, &HeaderMap::new()).unwrap())
    }

    fn metric(&self, line: &str) -> bool {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.metrics).unwrap();
        text.contains(line)
    }

    async fn counts(&self, line: &str) {
        eventually(line, || self.metric(line)).await;
    }
}

async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !check() {
        assert!(std::time::Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn system() -> Up {
    up(Settings::default(), Clock::system())
}

fn status(end: StreamEnd) -> Status {
    match end {
        StreamEnd::Status(status) => status,
        other => panic!("no status: {other:?}"),
    }
}

#[tokio::test]
async fn tonics_client_is_served() {
    let up = system();
    let channel = tonic::transport::Endpoint::from_shared(up.uri()).unwrap().connect().await.unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let asks =
        ["a", "b", "c"].map(|version| DiscoveryRequest { version_info: version.to_owned(), ..Default::default() });
    let mut answers = client.stream_aggregated_resources(tokio_stream::iter(asks)).await.unwrap().into_inner();
    // Field 1 is the version in both messages.
    for version in ["a", "b", "c"] {
        assert_eq!(answers.message().await.unwrap().unwrap().version_info, version);
    }
    assert!(answers.message().await.unwrap().is_none(), "half-close ends the call with OK");
    let error = client.delta_aggregated_resources(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::Unimplemented);
    let mut health = HealthClient::new(channel);
    let answer = health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status, 1);
    let unknown = health.check(HealthCheckRequest { service: "x".to_owned() }).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
    let mut watch = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status, 1);
    up.counts("accepted_total{result=\"served\"} 1").await;
}

#[tokio::test]
async fn what_is_too_large_or_no_grpc_is_refused() {
    let up = system();
    let (mut sender, mut receiver) = up.call(Options::default(), SOTW).await.unwrap();
    sender.push(&[], Bytes::from(vec![0; LIMIT.bytes + 1])).unwrap();
    let sent = tokio::spawn(async move { sender.flush().await });
    let status = status(receiver.message().await.unwrap_err());
    assert_eq!(status.code, code::RESOURCE_EXHAUSTED);
    assert_eq!(
        status.message,
        "a message of 1048577 bytes is beyond the limit of 1048576 bytes; raise --max-message-bytes"
    );
    drop(sent);
    // Neither gRPC's content type nor its method.
    let socket = TcpStream::connect(("127.0.0.1", up.port)).await.unwrap();
    let (mut requests, connection) = h2::client::handshake(socket).await.unwrap();
    tokio::spawn(connection);
    for (method, content_type, want) in [("POST", "text/html", 415), ("GET", "application/grpc", 405)] {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{SOTW}", up.uri()))
            .header("content-type", content_type)
            .body(())
            .unwrap();
        let response = requests.send_request(request, true).unwrap().0.await.unwrap();
        assert_eq!(response.status(), want);
    }
    let request = http::Request::builder()
        .method("POST")
        .uri(format!("{}{SOTW}", up.uri()))
        .header("content-type", "application/grpc")
        .header("grpc-encoding", "zstd");
    let response = requests.send_request(request.body(()).unwrap(), true).unwrap().0.await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
    assert_eq!(response.headers()["grpc-accept-encoding"], "identity,gzip");
}

#[tokio::test]
async fn a_slow_reader_costs_its_window_and_nobody_else() {
    let up = system();
    let socket = TcpStream::connect(("127.0.0.1", up.port)).await.unwrap();
    let (mut requests, connection) =
        h2::client::Builder::new().initial_window_size(1000).handshake::<_, Bytes>(socket).await.unwrap();
    tokio::spawn(connection);
    let request = |path: &str| {
        http::Request::builder()
            .method("POST")
            .uri(format!("{}{path}", up.uri()))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap()
    };
    let (response, _open) = requests.send_request(request("/flood"), false).unwrap();
    let mut body: RecvStream = response.await.unwrap().into_body();
    let flooded = || up.echo.flooded.load(Ordering::Relaxed);
    eventually("the window is used", || flooded() == 1000).await;
    // On the same connection somebody else is served meanwhile.
    for _ in 0..20 {
        let (response, mut stream) = requests.send_request(request(SOTW), false).unwrap();
        stream.send_data(Bytes::from_static(&[0, 0, 0, 0, 2, 8, 1]), false).unwrap();
        let mut echoed = response.await.unwrap().into_body();
        assert_eq!(&echoed.data().await.unwrap().unwrap()[..], [0, 0, 0, 0, 2]);
    }
    assert_eq!(flooded(), 1000);
    let mut read = 0;
    while read < 1000 {
        read += body.data().await.unwrap().unwrap().len();
    }
    body.flow_control().release_capacity(600).unwrap();
    eventually("what was read is replaced", || flooded() == 1600).await;
}

#[tokio::test]
async fn a_drain_says_goaway_and_ends_calls() {
    let up = system();
    let dialer = up.dialer(Options::default());
    let connection = dialer.connect().await.unwrap();
    let (mut sender, mut receiver) = connection.open(SOTW, &HeaderMap::new()).unwrap();
    sender.push(&[], Bytes::from_static(b"one")).unwrap();
    sender.flush().await.unwrap();
    assert_eq!(&receiver.message().await.unwrap()[..], b"one");
    tokio::join!(up.server.drain(Duration::from_secs(60)), async {
        assert_eq!(status(receiver.message().await.unwrap_err()).code, code::OK);
        let mut state = connection.state();
        let ended = state.wait_for(|state| *state != crate::transport::client::State::Open);
        ended.await.unwrap();
        drop((sender, receiver, connection));
    });
    assert_eq!(up.server.connections(), 0);
    assert_eq!(dialer.connect().await.unwrap_err().reason(), "connect");
    assert!(up.metric("connections_ended_total{reason=\"drained\"} 1"));
}

#[tokio::test]
async fn who_hangs_on_is_cut_when_the_window_is_over() {
    let up = up(Settings::default(), Clock::manual());
    // A flood does not heed the drain, and its data are pending.
    let (_sender, mut receiver) = up.call(Options::default(), "/flood").await.unwrap();
    receiver.message().await.unwrap();
    let drain = up.server.drain(Duration::from_secs(30));
    tokio::join!(drain, async {
        let mut seconds = 0;
        while up.server.connections() > 0 {
            up.clock.advance(Duration::from_secs(1));
            tokio::time::sleep(Duration::from_millis(2)).await;
            seconds += 1;
        }
        assert!(seconds >= 30, "cut after {seconds} s");
    });
    let end = loop {
        if let Err(end) = receiver.message().await {
            break end;
        }
    };
    assert_eq!(end.code(), code::UNAVAILABLE, "{end}");
}

#[tokio::test]
async fn age_and_silence_end_connections() {
    let settings = Settings { age: Some(Duration::from_secs(100)), ..Settings::default() };
    let up = up(settings, Clock::manual());
    let (_sender, mut receiver) = up.call(Options::default(), SOTW).await.unwrap();
    let ended = tokio::spawn(async move { receiver.message().await.unwrap_err() });
    up.counts("accepted_total{result=\"served\"} 1").await;
    for _ in 0..90 {
        up.clock.advance(Duration::from_millis(1400));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(status(ended.await.unwrap()).code, code::OK);
    up.counts("connections_ended_total{reason=\"aged\"} 1").await;
    // Nothing asked, nothing said.
    let _idle = up.dialer(Options::default()).connect().await.unwrap();
    let mut silent = TcpStream::connect(("127.0.0.1", up.port)).await.unwrap();
    eventually("both are open", || up.server.connections() == 2).await;
    eventually("both are closed", || {
        up.clock.advance(Duration::from_secs(1));
        up.server.connections() == 0
    })
    .await;
    assert!(up.metric("connections_ended_total{reason=\"no_call\"} 1"));
    assert!(up.metric("accepted_total{result=\"http2_timeout\"} 1"));
    silent.read_to_end(&mut Vec::new()).await.unwrap();
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_closed_and_one_that_pings_is_not() {
    let up = up(Settings::default(), Clock::manual());
    // H-02: a ping each 10 s, for 10 minutes. C-173
    let socket = TcpStream::connect(("127.0.0.1", up.port)).await.unwrap();
    let (mut requests, mut connection) = h2::client::handshake(socket).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::builder().method("POST").uri(format!("{}{SOTW}", up.uri()));
    let request = request.header("content-type", "application/grpc").body(()).unwrap();
    let _call = requests.send_request(request, false).unwrap();
    for _ in 0..60 {
        pings.ping(h2::Ping::opaque()).await.unwrap();
        // Within each 10 s the server's own ping is answered too.
        up.clock.advance(Duration::from_secs(5));
        pings.ping(h2::Ping::opaque()).await.unwrap();
        up.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(up.server.connections(), 1);
    // The peer stops.
    driver.abort();
    let mut mute = TcpStream::connect(("127.0.0.1", up.port)).await.unwrap();
    mute.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    eventually("it is accepted", || up.metric("accepted_total{result=\"served\"} 2")).await;
    // A call, so that it is not closed for want of one: HEADERS with an indexed :path.
    mute.write_all(b"\0\0\x01\x01\x05\0\0\0\x01\x84").await.unwrap();
    eventually("it is closed", || {
        up.clock.advance(Duration::from_millis(500));
        up.server.connections() == 0
    })
    .await;
}

#[tokio::test]
async fn a_panic_ends_its_call_alone() {
    let up = system();
    let connection = up.dialer(Options::default()).connect().await.unwrap();
    let (_sender, mut broken) = connection.open("/panic", &HeaderMap::new()).unwrap();
    assert!(matches!(broken.message().await, Err(StreamEnd::Reset(_))));
    let (_sender, mut receiver) = connection.open("/whoami", &HeaderMap::new()).unwrap();
    assert_eq!(status(receiver.message().await.unwrap_err()).code, code::NOT_FOUND);
    assert!(up.metric("handler_panics_total 1"));
}

#[tokio::test]
async fn a_unix_socket_is_served_and_its_file_goes_with_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outpost.sock");
    let listen = Listen::Unix(path.clone());
    let bind = || Bound::bind(std::slice::from_ref(&listen));
    let bound = bind().unwrap();
    let error = bind().unwrap_err();
    assert!(error.to_string().contains("is in use by another process"), "{error}");
    let metrics = Metrics::register(&mut Default::default());
    let server = bound.serve(Settings::default(), Clock::system(), metrics, Arc::new(Echo::default()));
    let connection =
        Dialer::new(Address::Unix(path.clone()), Options::default(), Clock::system()).connect().await.unwrap();
    let (_sender, mut receiver) = connection.open("/whoami", &HeaderMap::new()).unwrap();
    assert_eq!(status(receiver.message().await.unwrap_err()).code, code::NOT_FOUND);
    drop((_sender, receiver, connection));
    server.drain(Duration::from_secs(10)).await;
    eventually("the file is gone", || !path.exists()).await;
    // One that a dead process left is replaced.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    bind().unwrap();
}

#[tokio::test]
async fn a_panic_while_accepting_is_told() {
    let up = system();
    let mut broke = std::pin::pin!(up.server.broke());
    assert!(broke.as_mut().now_or_never().is_none());
    let (sender, receiver) = watch::channel(false);
    watched(async {}, sender.clone()).await;
    assert!(!*receiver.borrow(), "a decent end is none");
    watched(async { panic!("a defect") }, sender).await;
    assert!(*receiver.borrow());
}

#[tokio::test]
async fn an_address_in_use_is_an_error_that_says_so() {
    let one = Bound::bind(&[Listen::Tcp(([127, 0, 0, 1], 0).into())]).unwrap();
    let error = Bound::bind(&one.addresses()).unwrap_err();
    assert!(matches!(error, BindError::InUse(_)));
}

/// A peer that writes frames by hand. Returns the GOAWAY's error code.
async fn attack(up: &Up, frames: impl Fn(u32) -> Vec<u8>, times: u32) -> Option<u32> {
    let socket = TcpStream::connect(("127.0.0.1", up.port)).await.unwrap();
    let (mut read, mut write) = socket.into_split();
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let bytes: Vec<u8> = (0..times).flat_map(|number| frames(2 * number + 1)).collect();
    let writing = tokio::spawn(async move {
        // The server may hang up half-way.
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut head = [0; 9];
    let mut code = None;
    while code.is_none() && read.read_exact(&mut head).await.is_ok() {
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        if read.read_exact(&mut payload).await.is_err() {
            break;
        }
        if head[3] == 7 {
            code = Some(u32::from_be_bytes(payload[4..8].try_into().unwrap()));
        }
    }
    writing.abort();
    code
}

fn raw_frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

#[tokio::test]
async fn floods_of_resets_end_their_connection_alone() {
    const CALM: u32 = 11;
    let up = system();
    let good = up.dialer(Options::default()).connect().await.unwrap();
    // POST http:// with an indexed path: a call, as short as it can be.
    let call = |stream| raw_frame(1, 4, stream, &[0x83, 0x86, 0x84]);
    // MadeYouReset: a window beyond the largest, which the server must answer by a reset.
    let made = |stream| [call(stream), raw_frame(8, 0, stream, &[0x7f, 0xff, 0xff, 0xff])].concat();
    let code = tokio::time::timeout(Duration::from_secs(20), attack(&up, made, 2000)).await.unwrap();
    assert_eq!(code, Some(CALM), "made to reset");
    // Rapid reset.
    let rapid = |stream| [call(stream), raw_frame(3, 0, stream, &[0, 0, 0, 8])].concat();
    let code = tokio::time::timeout(Duration::from_secs(2), attack(&up, rapid, 20_000)).await;
    assert!(matches!(code, Ok(Some(CALM)) | Err(_)), "rapid reset: ended, or kept up with: {code:?}");
    let (_sender, mut receiver) = good.open("/whoami", &HeaderMap::new()).unwrap();
    assert_eq!(status(receiver.message().await.unwrap_err()).code, code::NOT_FOUND);
    up.counts("connections_ended_total{reason=\"error\"}").await;
}

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Another one, vouched for by this one for so long.
    fn below(&self, lasts: Duration) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "intermediate");
        params.not_after = (std::time::SystemTime::now() + lasts).into();
        let key = KeyPair::generate().unwrap();
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Writes `<dir>/<name>.pem` and `.key`.
    fn issue(&self, dir: &Path, name: &str, sans: Vec<SanType>) -> Pair {
        let mut params = CertificateParams::default();
        params.subject_alt_names = sans;
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair { cert: dir.join(format!("{name}.pem")), key: dir.join(format!("{name}.key")) };
        std::fs::write(&pair.cert, cert.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        pair
    }
}

#[tokio::test]
async fn mutual_tls_gives_identities_and_files_are_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new();
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let localhost = || vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
    let server = authority.issue(dir, "server", localhost());
    let tls = Arc::new(ServerTls::new(server.clone(), ClientAuth::Required(ca.clone())).unwrap());
    let up = up(Settings { tls: Some(tls.clone()), ..Settings::default() }, Clock::system());
    let with = |pair: Option<Pair>| {
        let tls = ClientTls::new(ClientFiles { ca: Some(ca.clone()), pair, server_name: None }).unwrap();
        Options { tls: Some(tls.into()), ..Options::default() }
    };
    let spiffe = "spiffe://mesh.example/ns/shop/sa/cart";
    let cart = authority.issue(dir, "cart", vec![SanType::URI(spiffe.try_into().unwrap())]);
    let whoami = async |options| status(up.call(options, "/whoami").await.unwrap().1.message().await.unwrap_err());
    assert_eq!(whoami(with(Some(cart.clone()))).await.message, spiffe);
    // Verified, but nobody.
    let nobody = authority.issue(dir, "nobody", vec![]);
    assert_eq!(whoami(with(Some(nobody))).await.code, code::UNAUTHENTICATED);
    // No certificate, or one of somebody else.
    assert!(up.call(with(None), "/whoami").await.is_err());
    let other = Authority::new().issue(dir, "other", vec![SanType::URI(spiffe.try_into().unwrap())]);
    assert!(up.call(with(Some(other)), "/whoami").await.is_err());
    up.counts("accepted_total{result=\"tls_failed\"} 2").await;
    for reason in ["none", "unknown_issuer"] {
        up.counts(&format!("refused_certificates_total{{reason=\"{reason}\"}} 1")).await;
    }
    // A key without its certificate: what was loaded stays.
    std::fs::write(&server.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    assert_eq!(whoami(with(Some(cart.clone()))).await.message, spiffe);
    assert!(tls.state().problem().unwrap().contains("do not belong together"));
    assert_eq!(tls.state().failures(), 1);
    let before = tls.state().expires();
    authority.issue(dir, "server", localhost());
    assert_eq!(whoami(with(Some(cart))).await.message, spiffe);
    assert_eq!(tls.state().problem(), None);
    assert!(before.is_some() && tls.state().failures() == 1);
}

#[tokio::test]
async fn a_connection_ends_with_the_chain_that_proved_its_identity() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new();
    let ca = dir.join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let server = authority.issue(dir, "server", vec![SanType::IpAddress("127.0.0.1".parse().unwrap())]);
    let tls = Arc::new(ServerTls::new(server, ClientAuth::Required(ca.clone())).unwrap());
    let up = up(Settings { tls: Some(tls), ..Settings::default() }, Clock::manual());
    let hour = Duration::from_secs(3600);
    let issuer = authority.below(hour);
    let spiffe = "spiffe://mesh.example/ns/shop/sa/cart";
    let pair = issuer.issue(dir, "cart", vec![SanType::URI(spiffe.try_into().unwrap())]);
    let leaf = std::fs::read_to_string(&pair.cert).unwrap();
    std::fs::write(&pair.cert, leaf + &issuer.pem).unwrap();
    let tls = ClientTls::new(ClientFiles { ca: Some(ca), pair: Some(pair), server_name: None }).unwrap();
    let options = Options { tls: Some(tls.into()), ..Options::default() };
    let (_sender, _receiver) = up.call(options, SOTW).await.unwrap();
    up.counts("connections 1").await;
    // The leaf lasts for centuries.
    for _ in 0..59 * 6 {
        up.clock.advance(Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(up.metric("connections 1"), "a minute is left");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !up.metric("connections_ended_total{reason=\"expired\"} 1") {
        assert!(std::time::Instant::now() < deadline, "its intermediate has ended, and it stands");
        up.clock.advance(Duration::from_secs(1));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[test]
fn certificates_that_cannot_be_used_say_which_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let authority = Authority::new();
    let good = authority.issue(dir, "good", vec![]);
    let other = authority.issue(dir, "other", vec![]);
    std::fs::write(dir.join("text"), "no PEM at all").unwrap();
    let table = [
        (Pair { cert: dir.join("none"), key: good.key.clone() }, "cannot read certificate"),
        (Pair { cert: good.cert.clone(), key: dir.join("none") }, "check the path and its permissions"),
        (Pair { cert: dir.join("text"), key: good.key.clone() }, "holds nothing of the kind"),
        (Pair { cert: good.cert.clone(), key: other.key }, "do not belong together"),
    ];
    for (pair, want) in table {
        let error = ServerTls::new(pair, ClientAuth::None).unwrap_err().to_string();
        assert!(error.contains(want) && error.contains(dir.to_str().unwrap()), "{error}");
    }
}
