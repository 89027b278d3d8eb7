//! The real server over loopback, under a clock that only the transcript moves,
//! between a stock control plane and stock clients.

use super::driver::{Driver, Event, Setup};
use super::messages::{self, Filled};
use super::raw::Raw;
use super::script::{Ask, Node, Step, Wire};
use super::upstream::Server;
use super::world::ControlPlane;
use bytes::Bytes;
use clap::Parser;
use outpost::app::{self, Running};
use outpost::clock::Clock;
use outpost::config::{Config, Flags};
use outpost::transport::server::Listen;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Real time that loopback and scheduler get before the clock moves on.
const BREATH: Duration = Duration::from_millis(2);
/// Real time after which something does not come.
const PATIENCE: Duration = Duration::from_secs(5);

const SERVICES: &[(&str, &str)] = &[
    ("envoy.config.cluster.v3.Cluster", "envoy.service.cluster.v3.ClusterDiscoveryService/*Clusters"),
    ("endpoint.v3.ClusterLoadAssignment", "envoy.service.endpoint.v3.EndpointDiscoveryService/*Endpoints"),
    ("envoy.config.listener.v3.Listener", "envoy.service.listener.v3.ListenerDiscoveryService/*Listeners"),
    ("route.v3.RouteConfiguration", "envoy.service.route.v3.RouteDiscoveryService/*Routes"),
    ("route.v3.ScopedRouteConfiguration", "envoy.service.route.v3.ScopedRoutesDiscoveryService/*ScopedRoutes"),
    ("route.v3.VirtualHost", "envoy.service.route.v3.VirtualHostDiscoveryService/*VirtualHosts"),
    ("tls.v3.Secret", "envoy.service.secret.v3.SecretDiscoveryService/*Secrets"),
    ("runtime.v3.Runtime", "envoy.service.runtime.v3.RuntimeDiscoveryService/*Runtime"),
    ("core.v3.TypedExtensionConfig", "envoy.service.extension.v3.ExtensionConfigDiscoveryService/*ExtensionConfigs"),
];

pub struct Socket {
    runtime: Option<Runtime>,
    clock: Clock,
    outpost: Option<Running>,
    address: SocketAddr,
    server: Server,
    sidecars: HashMap<u32, Sidecar>,
    /// How far the clock went since something was done.
    waited: Duration,
    /// Where all sidecars are to share a connection.
    shared: Option<Channel>,
}

struct Sidecar {
    /// `None` after its side was closed.
    requests: Option<mpsc::UnboundedSender<Bytes>>,
    events: mpsc::UnboundedReceiver<Event>,
    reading: watch::Sender<bool>,
    task: JoinHandle<()>,
}

#[derive(Parser)]
struct Serve {
    #[command(flatten)]
    flags: Flags,
}

impl Socket {
    pub fn new(setup: &Setup, one_connection: bool) -> Self {
        let server = Server::start(setup.upstream);
        let mut words: Vec<String> =
            ["outpost", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"].map(str::to_owned).into();
        words.extend(["--upstream".to_owned(), server.address().to_string()]);
        let variant = if setup.upstream == Wire::Delta { "delta" } else { "sotw" };
        words.extend(["--upstream-variant", variant].map(str::to_owned));
        for option in &setup.options {
            match option.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["transient-errors"] => words.push("--cold-errors".to_owned()),
                ["secrets-for-all"] => words.push("--secrets=trustNetwork".to_owned()),
                ["debug-passed"] => words.push("--debug-types=pass".to_owned()),
                ["group", rule] => words.push(format!("--group={rule}")),
                ["no-legacy-wildcard", prefix] => words.push(format!("--no-legacy-wildcard=agent={prefix}")),
                _ => panic!("no option {option:?}"),
            }
        }
        let config = Config::check(&Serve::parse_from(words).flags).expect("a sound configuration");
        let clock = Clock::manual();
        clock.advance(Duration::from_secs(1));
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(2).enable_all().build().expect("a runtime");
        let options = app::Options { clock: clock.clone(), ..app::Options::default() };
        let outpost = runtime.block_on(app::start(config, options)).expect("Outpost starts");
        let Some(Listen::Tcp(address)) = outpost.addresses().first().cloned() else { panic!("a TCP address") };
        let guard = runtime.enter();
        let shared = one_connection.then(|| channel(address));
        drop(guard);
        Self {
            runtime: Some(runtime),
            clock,
            outpost: Some(outpost),
            address,
            server,
            sidecars: HashMap::new(),
            waited: Duration::ZERO,
            shared,
        }
    }

    fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("it runs until it is dropped")
    }

    fn event(&mut self, stream: u32, patience: Duration) -> Option<Event> {
        let runtime = self.runtime.as_ref()?;
        let sidecar = self.sidecars.get_mut(&stream)?;
        if let Ok(event) = sidecar.events.try_recv() {
            return Some(event);
        }
        runtime.block_on(async { tokio::time::timeout(patience, sidecar.events.recv()).await.ok().flatten() })
    }

    /// How much a stream of its own may send at once.
    fn window(&self, least: usize) -> Result<(), String> {
        self.runtime().block_on(async {
            let socket = tokio::net::TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
            let builder = &mut h2::client::Builder::new();
            let shake = builder.max_send_buffer_size(2 * least).handshake(socket);
            let (client, mut connection) = shake.await.map_err(|error| error.to_string())?;
            let mut pings = connection.ping_pong().ok_or("no pings")?;
            let _connection = tokio::spawn(connection);
            // Once it has answered, what it set is known.
            let pong = tokio::time::timeout(PATIENCE, pings.ping(h2::Ping::opaque())).await;
            pong.map_err(|_| "no answer to a ping")?.map_err(|error| error.to_string())?;
            let (mut requests, _response) = idle_stream(client).await?;
            requests.reserve_capacity(least);
            let grow = std::future::poll_fn(|cx| requests.poll_capacity(cx));
            let _ = tokio::time::timeout(PATIENCE, grow).await;
            // What the first request took is given back as it is read.
            let room = requests.capacity();
            if room + (1 << 10) >= least { Ok(()) } else { Err(format!("{room} bytes may be sent")) }
        })
    }

    /// Pings an idle connection at every step of the clock.
    fn ping(&self, count: usize, every: Duration) -> Result<(), String> {
        self.runtime().block_on(async {
            let socket = tokio::net::TcpStream::connect(self.address).await.map_err(|error| error.to_string())?;
            let (client, mut connection) = h2::client::handshake(socket).await.map_err(|error| error.to_string())?;
            let mut pings = connection.ping_pong().ok_or("no pings")?;
            let connection = tokio::spawn(connection);
            let _stream = idle_stream(client).await?;
            for at in 0..=count {
                if at > 0 {
                    self.clock.advance(every);
                }
                // Once more, so that the server's own ping is answered before
                // the clock goes on.
                for _ in 0..2 {
                    let pong = tokio::time::timeout(PATIENCE, pings.ping(h2::Ping::opaque())).await;
                    let pong = pong.map_err(|_| format!("ping {at} has no answer"))?;
                    pong.map_err(|error| format!("ping {at}: {error}"))?;
                    tokio::time::sleep(BREATH).await;
                }
                if connection.is_finished() {
                    return Err(format!("the connection ended after ping {at}"));
                }
            }
            Ok(())
        })
    }
}

fn channel(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).expect("an address").tcp_nodelay(true).connect_lazy()
}

/// A stream that asks once and then says nothing.
async fn idle_stream(
    client: h2::client::SendRequest<Bytes>,
) -> Result<(h2::SendStream<Bytes>, h2::client::ResponseFuture), String> {
    let uri = "http://outpost/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    let request = http::Request::post(uri).header("content-type", "application/grpc").header("te", "trailers").body(());
    let mut client = client.ready().await.map_err(|error| error.to_string())?;
    let request = request.map_err(|error| error.to_string())?;
    let (response, mut requests) = client.send_request(request, false).map_err(|error| error.to_string())?;
    let node = Some(messages::node(&Node { id: "idle".into(), ..Node::default() }));
    let ask = Ask { wire: Some(Wire::Delta), type_url: messages::CLUSTER.into(), ..Ask::default() };
    let message = messages::request(&ask, Filled { nonce: String::new(), node, initial: Vec::new() });
    let head = [&[0][..], &(message.len() as u32).to_be_bytes()].concat();
    requests.send_data([&head[..], &message].concat().into(), false).map_err(|error| error.to_string())?;
    Ok((requests, response))
}

/// One stream: requests out as they come, responses in as long as it reads.
async fn sidecar(
    channel: Channel,
    path: String,
    requests: mpsc::UnboundedReceiver<Bytes>,
    mut reading: watch::Receiver<bool>,
    events: mpsc::UnboundedSender<Event>,
) {
    let end = |status: Status| Event::End { code: status.code() as i32, message: status.message().to_owned() };
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(usize::MAX);
    if let Err(error) = client.ready().await {
        let _ = events.send(end(Status::new(Code::Unavailable, error.to_string())));
        return;
    }
    let path = http::uri::PathAndQuery::try_from(path).expect("a path");
    let mut request = Request::new(UnboundedReceiverStream::new(requests));
    // What clients and what is between may add (C-176).
    request.metadata_mut().insert("x-nobody-knows", "this".parse().expect("a value"));
    request.metadata_mut().insert("grpc-accept-encoding", "gzip,zstd".parse().expect("a value"));
    let mut responses = match client.streaming(request, path, Raw).await {
        Ok(response) => response.into_inner(),
        Err(status) => {
            let _ = events.send(end(status));
            return;
        }
    };
    loop {
        if reading.wait_for(|reading| *reading).await.is_err() {
            return;
        }
        let event = match responses.message().await {
            Ok(Some(message)) => Event::Message(message),
            Ok(None) => Event::End { code: 0, message: String::new() },
            Err(status) => end(status),
        };
        let last = matches!(event, Event::End { .. });
        if events.send(event).is_err() || last {
            return;
        }
    }
}

impl Driver for Socket {
    fn open(&mut self, stream: u32, wire: Wire, service: Option<&str>) {
        let kind = if wire == Wire::Delta { "Delta" } else { "Stream" };
        let path = match service {
            None => format!("/envoy.service.discovery.v3.AggregatedDiscoveryService/{kind}AggregatedResources"),
            Some(type_url) => {
                let (_, path) =
                    SERVICES.iter().find(|(end, _)| type_url.ends_with(end)).expect("a type with a service");
                format!("/{}", path.replace('*', kind))
            }
        };
        let (requests, queue) = mpsc::unbounded_channel();
        let (report, events) = mpsc::unbounded_channel();
        let (reading, gate) = watch::channel(true);
        let _guard = self.runtime().enter();
        let channel = self.shared.clone().unwrap_or_else(|| channel(self.address));
        let task = tokio::spawn(sidecar(channel, path, queue, gate, report));
        self.sidecars.insert(stream, Sidecar { requests: Some(requests), events, reading, task });
    }

    fn send(&mut self, stream: u32, message: Bytes) {
        self.waited = Duration::ZERO;
        if let Some(requests) = self.sidecars.get(&stream).and_then(|sidecar| sidecar.requests.as_ref()) {
            let _ = requests.send(message);
        }
    }

    fn close_send(&mut self, stream: u32) {
        if let Some(sidecar) = self.sidecars.get_mut(&stream) {
            sidecar.requests = None;
        }
    }

    fn lose(&mut self, stream: u32) {
        if let Some(sidecar) = self.sidecars.remove(&stream) {
            sidecar.task.abort();
        }
        self.breathe();
    }

    fn poll(&mut self, stream: u32) -> Option<Event> {
        self.event(stream, BREATH)
    }

    fn poll_patiently(&mut self, stream: u32) -> Option<Event> {
        self.event(stream, PATIENCE)
    }

    fn step(&mut self, most: Duration) -> Duration {
        let fine = Duration::from_millis(5);
        // Sockets need a while of their own; only then may the clock run.
        let by = if self.waited < fine * 40 { fine } else { fine.max(most / 16) }.min(most);
        self.waited += by;
        self.clock.advance(by);
        if by > fine * 20 {
            self.breathe();
        }
        by
    }

    fn breathe(&mut self) {
        self.runtime().block_on(async { tokio::time::sleep(BREATH).await });
    }

    fn pass(&mut self, by: Duration) {
        for _ in 0..20 {
            self.clock.advance(by / 20);
            self.breathe();
        }
    }

    fn control_plane(&mut self, act: &mut dyn FnMut(&mut ControlPlane)) {
        self.server.act(act);
    }

    fn reach(&mut self, up: bool) {
        self.waited = Duration::ZERO;
        if up {
            self.server.up()
        } else {
            self.server.down()
        }
        self.breathe();
    }

    fn heard(&mut self, _stream: u32, kind: &str) -> Result<(), String> {
        if kind != "NACK" {
            return Ok(());
        }
        let deadline = std::time::Instant::now() + PATIENCE;
        while std::time::Instant::now() < deadline {
            let Some(outpost) = &self.outpost else { return Ok(()) };
            let clients = outpost.downstream().clients().all();
            let nacked = |client: &std::sync::Arc<outpost::downstream::clients::Client>| {
                client.types(self.clock.now()).iter().any(|of_type| of_type.nacked.is_some())
            };
            if clients.iter().any(nacked) {
                return Ok(());
            }
            self.breathe();
        }
        Err("no report shows the NACK".into())
    }

    fn stall(&mut self, stream: u32, on: bool) {
        if let Some(sidecar) = self.sidecars.get(&stream) {
            let _ = sidecar.reading.send(!on);
        }
    }

    fn open_streams(&mut self) -> usize {
        self.breathe();
        self.outpost.as_ref().map_or(0, |outpost| outpost.downstream().clients().len())
    }

    fn over_socket(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Pings { count, every } => self.ping(*count, *every),
            Step::Window(least) => self.window(*least),
            Step::Drain => {
                if let Some(outpost) = self.outpost.take() {
                    self.runtime().spawn(outpost.stop());
                }
                self.breathe();
                Ok(())
            }
            Step::Memory(most) => {
                let clients =
                    self.outpost.as_ref().map(|outpost| outpost.downstream().clients().all()).unwrap_or_default();
                let waiting: usize = clients.iter().map(|client| client.waiting_bytes()).sum();
                if waiting <= *most { Ok(()) } else { Err(format!("{waiting} bytes wait")) }
            }
            other => Err(format!("{other:?} is not known here")),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.sidecars.clear();
        self.outpost = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
