//! A control plane that says what the test says.

use outpost::proto::core::Node;
use outpost::proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outpost::proto::discovery::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use outpost::proto::{protobuf, rpc};
use outpost::transport::identity::Identity;
use outpost::transport::tls::{ClientAuth, Pair, ServerTls};
use outpost::xds::wire::{Writer, first_string};
use outpost::xds::{TypeUrl, Variant};
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tokio_stream::{Stream, StreamExt};
use tonic::codec::CompressionEncoding;
use tonic::transport::server::Connected;
use tonic::{Request, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Clone, Debug)]
pub struct Setup {
    pub delta: bool,
    pub ads: bool,
    pub gzip: bool,
    pub max_streams: Option<u32>,
    pub max_age: Option<Duration>,
    /// Mutual TLS; the client's files are written into this directory.
    pub tls: Option<PathBuf>,
}

impl Default for Setup {
    fn default() -> Self {
        Self { delta: true, ads: true, gzip: false, max_streams: None, max_age: None, tls: None }
    }
}

/// The server, on a port that it keeps when it is killed and started again.
pub struct Server {
    pub port: u16,
    setup: Setup,
    service: Service,
    streams: mpsc::UnboundedReceiver<Play>,
    runtime: Option<Runtime>,
    tls: Option<(Authority, Arc<ServerTls>)>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Server {
    pub async fn start(setup: Setup) -> Self {
        let (opened, streams) = mpsc::unbounded_channel();
        let service = Service { opened, delta: setup.delta, refused: Arc::default() };
        let tls = setup.tls.as_deref().map(certificates);
        let mut server = Self { port: 0, setup, service, streams, runtime: None, tls };
        server.restart().await;
        server
    }

    /// Answers everything in HTTP/1.
    pub async fn http1() -> Self {
        let mut server = Self::start(Setup::default()).await;
        server.kill();
        let port = server.port;
        server.run(async move {
            let listener = bind(port).await;
            while let Ok((mut socket, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let _ = socket.read(&mut [0; 64]).await;
                    let _ = socket.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
                });
            }
        });
        server
    }

    pub async fn restart(&mut self) {
        self.kill();
        let listener = bind(self.port).await;
        self.port = listener.local_addr().unwrap().port();
        let listener = listener.into_std().unwrap();
        let Setup { ads, gzip, max_streams, max_age, .. } = self.setup.clone();
        let (service, tls) = (self.service.clone(), self.tls.as_ref().map(|(_, tls)| tls.clone()));
        self.run(async move {
            let mut builder = tonic::transport::Server::builder().max_concurrent_streams(max_streams);
            if let Some(age) = max_age {
                builder = builder.max_connection_age(age);
            }
            let mut service = AggregatedDiscoveryServiceServer::new(service).max_encoding_message_size(usize::MAX);
            if gzip {
                service = service.send_compressed(CompressionEncoding::Gzip);
            }
            let router = builder.add_optional_service(ads.then_some(service));
            let sockets = TcpListenerStream::new(TcpListener::from_std(listener).unwrap());
            let incoming = sockets.then(move |socket| secure(socket, tls.clone())).filter(|socket| socket.is_ok());
            router.serve_with_incoming(incoming).await.unwrap();
        });
    }

    fn run(&mut self, work: impl Future<Output = ()> + Send + 'static) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn(work);
        self.runtime = Some(runtime);
    }

    /// Takes every socket away at once.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// The next stream that a client opens.
    pub async fn stream(&mut self) -> Play {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("a stream is opened in time").unwrap()
    }

    pub fn try_stream(&mut self) -> Option<Play> {
        self.streams.try_recv().ok()
    }

    /// Gives the client another certificate, of the same authority.
    pub fn rotate(&self, name: &str) {
        self.tls.as_ref().unwrap().0.issue("client", name);
    }

    /// Another authority issues everything anew, for both sides.
    pub fn reissue(&mut self) {
        self.tls = self.setup.tls.as_deref().map(certificates);
    }

    /// Delta streams that were answered UNIMPLEMENTED.
    pub fn refused(&self) -> usize {
        self.service.refused.load(Ordering::Relaxed)
    }
}

async fn bind(port: u16) -> TcpListener {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        match TcpListener::bind(("127.0.0.1", port)).await {
            Ok(listener) => return listener,
            Err(error) => assert!(std::time::Instant::now() < deadline, "port {port}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// One stream, as the server has it.
pub struct Play {
    pub variant: Variant,
    /// Whom the client's certificate names.
    pub peer: String,
    metadata: tonic::metadata::MetadataMap,
    asked: mpsc::UnboundedReceiver<String>,
    answers: Option<mpsc::UnboundedSender<Result<Response, Status>>>,
}

impl Play {
    /// The next request, in one line.
    pub async fn asked(&mut self) -> String {
        tokio::time::timeout(PATIENCE, self.asked.recv())
            .await
            .expect("a request comes in time")
            .expect("the stream stands")
    }

    /// Waits until the client has ended the stream.
    pub async fn ended(&mut self) {
        let drained = async { while self.asked.recv().await.is_some() {} };
        tokio::time::timeout(PATIENCE, drained).await.expect("the stream ends in time");
    }

    /// The client has ended the stream. Takes what was asked meanwhile.
    pub fn has_ended(&mut self) -> bool {
        while self.asked.try_recv().is_ok() {}
        self.asked.is_closed()
    }

    pub fn send(&self, response: Response) {
        self.answers.as_ref().unwrap().send(Ok(response)).expect("the stream stands");
    }

    /// Sends it, and waits for the next request: its ACK, as a rule.
    pub async fn say(&mut self, response: Response) -> String {
        self.send(response);
        self.asked().await
    }

    /// Ends it with OK.
    pub fn end(&mut self) {
        self.answers = None;
    }

    pub fn fail(&mut self, status: Status) {
        self.answers.take().unwrap().send(Err(status)).expect("the stream stands");
    }

    pub fn header(&self, name: &str) -> String {
        self.metadata.get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
    }
}

#[derive(Clone, Debug, Default)]
pub struct Response {
    type_url: String,
    version: String,
    nonce: String,
    resources: Vec<(String, String)>,
    removed: Vec<String>,
}

impl Response {
    pub fn new(short: &str) -> Self {
        let type_url = TypeUrl::from_short(short).unwrap().as_str().to_owned();
        Self { type_url, version: "v".into(), ..Self::default() }
    }

    /// Its version is its content, as far as 10 characters show it.
    pub fn resource(mut self, name: &str, content: &str) -> Self {
        self.resources.push((name.into(), content.into()));
        self
    }

    pub fn removed(mut self, name: &str) -> Self {
        self.removed.push(name.into());
        self
    }

    pub fn version(mut self, version: &str) -> Self {
        self.version = version.into();
        self
    }

    pub fn nonce(mut self, nonce: &str) -> Self {
        self.nonce = nonce.into();
        self
    }

    fn any(&self, name: &str, content: &str) -> protobuf::Any {
        let mut value = Writer::default();
        value.string(1, name);
        value.string(2047, content);
        protobuf::Any { type_url: self.type_url.clone(), value: value.finish() }
    }

    /// As a delta response.
    pub fn message(self) -> bytes::Bytes {
        self.delta().encode_to_vec().into()
    }

    fn sotw(self) -> DiscoveryResponse {
        let resources = self.resources.iter().map(|(name, content)| self.any(name, content)).collect();
        DiscoveryResponse {
            version_info: self.version,
            type_url: self.type_url,
            nonce: self.nonce,
            resources,
            ..Default::default()
        }
    }

    fn delta(self) -> DeltaDiscoveryResponse {
        let resource = |(name, content): &(String, String)| Resource {
            name: name.clone(),
            version: content.chars().take(10).collect(),
            resource: Some(self.any(name, content)),
            ..Default::default()
        };
        let resources = self.resources.iter().map(resource).collect();
        DeltaDiscoveryResponse {
            system_version_info: self.version,
            type_url: self.type_url,
            nonce: self.nonce,
            resources,
            removed_resources: self.removed,
            ..Default::default()
        }
    }
}

/// What [`Response::resource`] put in.
pub fn content(value: &bytes::Bytes) -> String {
    first_string(value, 2047).unwrap()
}

pub fn node(id: &str) -> bytes::Bytes {
    Node { id: id.into(), ..Default::default() }.encode_to_vec().into()
}

#[derive(Clone)]
struct Service {
    opened: mpsc::UnboundedSender<Play>,
    delta: bool,
    refused: Arc<AtomicUsize>,
}

impl Service {
    fn open<Q: Send + 'static, R: 'static>(
        &self,
        variant: Variant,
        request: Request<Streaming<Q>>,
        show: fn(Q) -> String,
        make: fn(Response) -> R,
    ) -> Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>> {
        let (metadata, extensions, mut requests) = request.into_parts();
        let peer = extensions.get::<Peer>().cloned().unwrap_or_default().0;
        let (asked, heard) = mpsc::unbounded_channel();
        let (answers, out) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(request)) = requests.next().await {
                let _ = asked.send(show(request));
            }
        });
        let _ = self.opened.send(Play { variant, peer, metadata, asked: heard, answers: Some(answers) });
        Box::pin(UnboundedReceiverStream::new(out).map(move |answer: Result<Response, Status>| answer.map(make)))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;
    type DeltaAggregatedResourcesStream = Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(tonic::Response::new(self.open(Variant::Sotw, request, show_sotw, Response::sotw)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<tonic::Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if !self.delta {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Status::unimplemented("no delta here"));
        }
        Ok(tonic::Response::new(self.open(Variant::Delta, request, show_delta, Response::delta)))
    }
}

fn show_sotw(request: DiscoveryRequest) -> String {
    let mut parts = vec![short(&request.type_url), format!("[{}]", request.resource_names.join(","))];
    parts.extend((!request.version_info.is_empty()).then(|| format!("v={}", request.version_info)));
    tail(&mut parts, &request.response_nonce, request.error_detail, request.node);
    parts.join(" ")
}

fn show_delta(request: DeltaDiscoveryRequest) -> String {
    let mut parts = vec![short(&request.type_url)];
    let (more, less) = (&request.resource_names_subscribe, &request.resource_names_unsubscribe);
    parts.extend((!more.is_empty()).then(|| format!("+{}", more.join(","))));
    parts.extend((!less.is_empty()).then(|| format!("-{}", less.join(","))));
    let mut stated: Vec<_> =
        request.initial_resource_versions.iter().map(|(name, version)| format!("{name}:{version}")).collect();
    stated.sort();
    parts.extend((!stated.is_empty()).then(|| format!("{{{}}}", stated.join(","))));
    tail(&mut parts, &request.response_nonce, request.error_detail, request.node);
    parts.join(" ")
}

fn tail(parts: &mut Vec<String>, nonce: &str, error: Option<rpc::Status>, node: Option<Node>) {
    parts.extend((!nonce.is_empty()).then(|| format!("n={nonce}")));
    parts.extend(error.map(|error| format!("E{} {}", error.code, error.message)));
    parts.extend(node.map(|node| format!("node={}", node.id)));
}

fn short(type_url: &str) -> String {
    TypeUrl::new(type_url).short().to_owned()
}

#[derive(Clone, Default)]
struct Peer(String);

/// A socket of either kind, and who is behind it.
struct Socket(Box<dyn Both>, Peer);

trait Both: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Both for T {}

impl Connected for Socket {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.1.clone()
    }
}

impl AsyncRead for Socket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

async fn secure(socket: std::io::Result<TcpStream>, tls: Option<Arc<ServerTls>>) -> std::io::Result<Socket> {
    let socket = socket?;
    let Some(tls) = tls else { return Ok(Socket(Box::new(socket), Peer::default())) };
    let socket = tls.acceptor().accept(socket).await?;
    let chain = socket.get_ref().1.peer_certificates();
    let peer = chain.map(|chain| Peer(Identity::of(chain, SystemTime::now()).unwrap().to_string()));
    Ok(Socket(Box::new(socket), peer.unwrap_or_default()))
}

/// Issues certificates into a directory.
struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn issue(&self, file: &str, name: &str) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.dir.join(format!("{file}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.dir.join(format!("{file}.key")), key.serialize_pem()).unwrap();
    }
}

/// One authority for both sides, which know each other; all files go into `dir`.
fn certificates(dir: &Path) -> (Authority, Arc<ServerTls>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let authority = Authority { dir: dir.to_owned(), issuer: Issuer::new(params, key) };
    authority.issue("client", "client.test");
    authority.issue("server", "server.test");
    let pair = Pair { cert: dir.join("server.pem"), key: dir.join("server.key") };
    (authority, Arc::new(ServerTls::new(pair, ClientAuth::Required(dir.join("ca.pem"))).unwrap()))
}
