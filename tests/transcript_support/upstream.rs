//! The control plane on a socket: a stock tonic server that can be killed and
//! started again on its port.

use super::raw::Raw;
use super::script::Wire;
use super::world::ControlPlane;
use bytes::Bytes;
use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::body::Body;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::transport::server::TcpIncoming;
use tonic::{Code, Request, Response, Status, Streaming};

type Messages = UnboundedReceiverStream<Result<Bytes, Status>>;
type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    /// `None` while it is down. Its own, so that everything dies with it.
    runtime: Option<Runtime>,
}

struct Shared {
    state: Mutex<State>,
    /// The one variant that is spoken.
    wire: Wire,
}

struct State {
    world: ControlPlane,
    lines: HashMap<u64, mpsc::UnboundedSender<Result<Bytes, Status>>>,
}

impl Server {
    pub fn start(wire: Wire) -> Self {
        let state = State { world: ControlPlane::new(), lines: HashMap::new() };
        let shared = Arc::new(Shared { state: state.into(), wire });
        let mut server = Self { shared, address: ([127, 0, 0, 1], 0).into(), runtime: None };
        server.up();
        server
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn up(&mut self) {
        let builder = &mut tokio::runtime::Builder::new_multi_thread();
        let runtime = builder.worker_threads(1).enable_all().build().expect("a runtime");
        let listener = runtime.block_on(tokio::net::TcpListener::bind(self.address)).expect("the port is free");
        self.address = listener.local_addr().expect("it is bound");
        let service = Service { shared: self.shared.clone() };
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        runtime.spawn(async move {
            tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming).await
        });
        self.runtime = Some(runtime);
    }

    pub fn down(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        }
        let mut state = self.shared.lock();
        for id in std::mem::take(&mut state.lines).into_keys() {
            state.world.close(id);
        }
        state.world.take();
    }

    /// Changes the world and sends what it then says.
    pub fn act(&self, act: &mut dyn FnMut(&mut ControlPlane)) {
        let mut state = self.shared.lock();
        act(&mut state.world);
        state.send();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

impl State {
    fn send(&mut self) {
        for (id, message) in self.world.take() {
            if let Some(line) = self.lines.get(&id) {
                let _ = line.send(Ok(message));
            }
        }
    }
}

#[derive(Clone)]
struct Service {
    shared: Arc<Shared>,
}

impl NamedService for Service {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl tower_service::Service<http::Request<Body>> for Service {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let delta = request.uri().path().ends_with("/DeltaAggregatedResources");
        let method = Method { shared: self.shared.clone(), wire: if delta { Wire::Delta } else { Wire::Sotw } };
        Box::pin(async move {
            let grpc = Grpc::new(Raw).max_decoding_message_size(usize::MAX);
            Ok({ grpc }.streaming(method, request).await)
        })
    }
}

struct Method {
    shared: Arc<Shared>,
    wire: Wire,
}

impl StreamingService<Bytes> for Method {
    type Response = Bytes;
    type ResponseStream = Messages;
    type Future = Answer<Result<Response<Messages>, Status>>;

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let (shared, wire) = (self.shared.clone(), self.wire);
        Box::pin(async move {
            if wire != shared.wire {
                return Err(Status::new(Code::Unimplemented, "this control plane speaks the other variant"));
            }
            let (sender, receiver) = mpsc::unbounded_channel();
            let id = {
                let mut state = shared.lock();
                let id = state.world.open(wire);
                state.lines.insert(id, sender);
                id
            };
            let mut requests = request.into_inner();
            tokio::spawn(async move {
                while let Ok(Some(message)) = requests.message().await {
                    let mut state = shared.lock();
                    state.world.handle(id, message);
                    state.send();
                }
                let mut state = shared.lock();
                state.lines.remove(&id);
                state.world.close(id);
            });
            Ok(Response::new(UnboundedReceiverStream::new(receiver)))
        })
    }
}
