//! The managed control plane of a test: a [`World`] behind tonic's own
//! server, on a port that stays the same when it is killed and started again.
//!
//! It runs on a runtime of its own, so that [`kill`](ControlPlane::kill)
//! takes the sockets away at once, as SIGKILL would.

use super::process::free_port;
use super::world::{Delta, Sotw, World};
use super::{check, eventually};
use outpost::proto::discovery::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse};
use outpost::proto::rpc;
use prost::Message;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

/// One message as the server saw it.
#[derive(Clone, Debug)]
pub struct Record {
    pub at: Instant,
    /// Streams count from one, over restarts too.
    pub stream: u64,
    pub event: Event,
}

#[derive(Clone, Debug)]
pub enum Event {
    Opened,
    Asked(Asked),
    Sent { type_url: String, resources: usize, removed: Vec<String> },
    Closed,
}

/// A request of either variant.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub type_url: String,
    /// `resource_names`, or those subscribed.
    pub names: Vec<String>,
    pub unsubscribed: Vec<String>,
    /// `initial_resource_versions`.
    pub stated: Vec<(String, String)>,
    pub version_info: String,
    pub nonce: String,
    pub error: Option<rpc::Status>,
    pub node_id: Option<String>,
    pub bytes: usize,
}

#[derive(Debug)]
struct Shared {
    world: Mutex<World>,
    changes: watch::Sender<u64>,
    records: Mutex<Vec<Record>>,
    streams: AtomicU64,
    /// Delta is `UNIMPLEMENTED`, as at an older server.
    sotw_only: AtomicBool,
}

#[derive(Debug)]
pub struct ControlPlane {
    pub port: u16,
    shared: Arc<Shared>,
    runtime: Option<Runtime>,
}

impl ControlPlane {
    pub async fn start() -> Self {
        let shared = Shared {
            world: Mutex::default(),
            changes: watch::Sender::new(0),
            records: Mutex::default(),
            streams: AtomicU64::new(0),
            sotw_only: AtomicBool::new(false),
        };
        let mut this = Self { port: free_port(), shared: Arc::new(shared), runtime: None };
        this.restart().await;
        this
    }

    /// Changes the world; every stream hears of it once, after the change.
    pub fn edit(&self, change: impl FnOnce(&mut World)) -> Instant {
        change(&mut self.shared.world.lock().expect("no panic under the lock"));
        let at = Instant::now();
        self.shared.changes.send_modify(|count| *count += 1);
        at
    }

    /// From now on delta streams are refused as unknown to this server.
    pub fn speak_sotw_only(&self) {
        self.shared.sotw_only.store(true, Ordering::Relaxed);
    }

    /// Gone at once, with every connection.
    pub fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Back on the same port, with the world as it is now.
    pub async fn restart(&mut self) {
        self.kill();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control-plane")
            .enable_all()
            .build()
            .expect("a runtime for the control plane");
        let listener = eventually("the control plane's port is free", || async {
            let address = ("127.0.0.1", self.port);
            runtime.spawn(TcpListener::bind(address)).await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
        })
        .await;
        let service = AggregatedDiscoveryServiceServer::new(Service(Arc::clone(&self.shared)));
        let server = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        self.runtime = Some(runtime);
    }

    pub fn records(&self) -> Vec<Record> {
        self.shared.records.lock().expect("no panic under the lock").clone()
    }

    /// Requests of one type, in order, with the stream they came on.
    pub fn asked(&self, type_url: &str) -> Vec<(u64, Asked)> {
        let of_type = |record: Record| match record.event {
            Event::Asked(asked) if asked.type_url == type_url => Some((record.stream, asked)),
            _ => None,
        };
        self.records().into_iter().filter_map(of_type).collect()
    }

    /// How many streams are open.
    pub fn open(&self) -> usize {
        let records = self.records();
        let count = |wanted: fn(&Event) -> bool| records.iter().filter(|record| wanted(&record.event)).count();
        count(|event| matches!(event, Event::Opened)) - count(|event| matches!(event, Event::Closed))
    }

    /// Waits until `count` streams are open.
    pub async fn connected(&self, count: usize) {
        eventually("streams open at the control plane", || async {
            let open = self.open();
            check(open == count, || format!("{open} of {count}"))
        })
        .await;
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn record(&self, stream: u64, event: Event) {
        let record = Record { at: Instant::now(), stream, event };
        self.records.lock().expect("no panic under the lock").push(record);
    }

    fn with_world<T>(&self, read: impl FnOnce(&World) -> T) -> T {
        read(&self.world.lock().expect("no panic under the lock"))
    }
}

/// What the two variants differ in.
trait Speaks: Default + Send + 'static {
    type Ask: Send + 'static;
    type Answer: Send + 'static;
    fn ask(&mut self, world: &World, ask: &Self::Ask) -> Option<Self::Answer>;
    fn changed(&mut self, world: &World) -> Vec<Self::Answer>;
    fn asked(ask: &Self::Ask) -> Asked;
    fn sent(answer: &Self::Answer) -> Event;
}

impl Speaks for Delta {
    type Ask = DeltaDiscoveryRequest;
    type Answer = DeltaDiscoveryResponse;

    fn ask(&mut self, world: &World, ask: &Self::Ask) -> Option<Self::Answer> {
        self.ask(world, ask)
    }

    fn changed(&mut self, world: &World) -> Vec<Self::Answer> {
        self.changed(world)
    }

    fn asked(ask: &Self::Ask) -> Asked {
        Asked {
            type_url: ask.type_url.clone(),
            names: ask.resource_names_subscribe.clone(),
            unsubscribed: ask.resource_names_unsubscribe.clone(),
            stated: ask.initial_resource_versions.clone().into_iter().collect(),
            version_info: String::new(),
            nonce: ask.response_nonce.clone(),
            error: ask.error_detail.clone(),
            node_id: ask.node.as_ref().map(|node| node.id.clone()),
            bytes: ask.encoded_len(),
        }
    }

    fn sent(answer: &Self::Answer) -> Event {
        let (resources, removed) = (answer.resources.len(), answer.removed_resources.clone());
        Event::Sent { type_url: answer.type_url.clone(), resources, removed }
    }
}

impl Speaks for Sotw {
    type Ask = DiscoveryRequest;
    type Answer = DiscoveryResponse;

    fn ask(&mut self, world: &World, ask: &Self::Ask) -> Option<Self::Answer> {
        self.ask(world, ask)
    }

    fn changed(&mut self, world: &World) -> Vec<Self::Answer> {
        self.changed(world)
    }

    fn asked(ask: &Self::Ask) -> Asked {
        Asked {
            type_url: ask.type_url.clone(),
            names: ask.resource_names.clone(),
            version_info: ask.version_info.clone(),
            nonce: ask.response_nonce.clone(),
            error: ask.error_detail.clone(),
            node_id: ask.node.as_ref().map(|node| node.id.clone()),
            bytes: ask.encoded_len(),
            ..Default::default()
        }
    }

    fn sent(answer: &Self::Answer) -> Event {
        Event::Sent { type_url: answer.type_url.clone(), resources: answer.resources.len(), removed: Vec::new() }
    }
}

/// Counts a stream as open until the task that serves it ends, however.
struct OpenStream {
    shared: Arc<Shared>,
    number: u64,
}

impl OpenStream {
    fn new(shared: Arc<Shared>) -> Self {
        let number = shared.streams.fetch_add(1, Ordering::Relaxed) + 1;
        shared.record(number, Event::Opened);
        Self { shared, number }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shared.record(self.number, Event::Closed);
    }
}

async fn converse<S: Speaks>(
    open: OpenStream,
    mut asks: Streaming<S::Ask>,
    answers: mpsc::Sender<Result<S::Answer, Status>>,
) {
    let shared = &open.shared;
    let mut changes = shared.changes.subscribe();
    let mut stream = S::default();
    loop {
        let replies = tokio::select! {
            ask = asks.next() => {
                let Some(Ok(ask)) = ask else { return };
                shared.record(open.number, Event::Asked(S::asked(&ask)));
                shared.with_world(|world| stream.ask(world, &ask)).into_iter().collect()
            }
            Ok(()) = changes.changed() => shared.with_world(|world| stream.changed(world)),
        };
        for reply in replies {
            shared.record(open.number, S::sent(&reply));
            if answers.send(Ok(reply)).await.is_err() {
                return;
            }
        }
    }
}

fn serve<S: Speaks>(shared: &Arc<Shared>, asks: Streaming<S::Ask>) -> Response<Answers<S::Answer>> {
    let (answers, receiver) = mpsc::channel(16);
    tokio::spawn(converse::<S>(OpenStream::new(Arc::clone(shared)), asks, answers));
    Response::new(Box::pin(ReceiverStream::new(receiver)))
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[derive(Debug)]
struct Service(Arc<Shared>);

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(serve::<Sotw>(&self.0, request.into_inner()))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        if self.0.sotw_only.load(Ordering::Relaxed) {
            return Err(Status::unimplemented("this control plane speaks state of the world only"));
        }
        Ok(serve::<Delta>(&self.0, request.into_inner()))
    }
}
