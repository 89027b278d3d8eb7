//! A control plane that serves an invented mesh by ADS, delta and SotW.
//!
//! A stream keeps its place in the mesh's log and what it is subscribed to;
//! contents are encoded once and shared. Like istiod it pushes a change at once,
//! whether or not the one before was answered: latency over a WAN is then the
//! WAN's, not that of waiting for ACKs.
//! It trusts its clients: for tests and load, not for production.

mod session;

use super::mesh::Mesh;
use super::rpc::{self, Receiver, RpcError, Sender};
use crate::xds::Variant;
use session::Session;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const UNIMPLEMENTED: i32 = crate::xds::code::UNIMPLEMENTED;

/// The gRPC method of a variant of ADS.
pub fn method(variant: Variant) -> &'static str {
    match variant {
        Variant::Delta => DELTA,
        Variant::Sotw => SOTW,
    }
}

/// A running control plane. Dropping it closes its connections.
#[derive(Debug)]
pub struct Plane {
    address: SocketAddr,
    counts: Arc<Counts>,
    _server: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Counts {
    streams: AtomicU64,
    rejected: AtomicU64,
}

impl Plane {
    /// Listens on a free port of 127.0.0.1.
    pub async fn start(mesh: Arc<Mesh>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let mut server = JoinSet::new();
        server.spawn(rpc::serve(listener, move |path, sender, receiver| {
            serve(path, sender, receiver, Arc::clone(&mesh), Arc::clone(&shared))
        }));
        Ok(Self { address, counts, _server: server })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Streams that are open now.
    pub fn streams(&self) -> u64 {
        self.counts.streams.load(Relaxed)
    }

    /// NACKs received.
    pub fn rejected(&self) -> u64 {
        self.counts.rejected.load(Relaxed)
    }
}

/// Counts a stream as open until dropped.
struct Open(Arc<Counts>);

impl Open {
    fn new(counts: Arc<Counts>) -> Self {
        counts.streams.fetch_add(1, Relaxed);
        Self(counts)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

async fn serve(path: String, sender: Sender, receiver: Receiver, mesh: Arc<Mesh>, counts: Arc<Counts>) {
    let variant = match path.as_str() {
        DELTA => Variant::Delta,
        SOTW => Variant::Sotw,
        _ => return drop(sender.finish(UNIMPLEMENTED)),
    };
    let open = Open::new(counts);
    // How a client leaves does not matter: the stream is over.
    let _ = converse(sender, receiver, Session::new(variant, Arc::clone(&mesh)), &mesh, &open.0).await;
}

async fn converse(
    mut sender: Sender,
    mut receiver: Receiver,
    mut session: Session,
    mesh: &Mesh,
    counts: &Counts,
) -> Result<(), RpcError> {
    let mut revision = mesh.revision();
    loop {
        tokio::select! {
            request = receiver.message() => {
                let Some(request) = request? else { return sender.finish(0) };
                match session.handle(request) {
                    Ok(heard) => drop(counts.rejected.fetch_add(u64::from(heard.rejected), Relaxed)),
                    Err(_) => return sender.finish(crate::xds::code::INVALID_ARGUMENT),
                }
            }
            moved = revision.changed() => {
                if moved.is_err() {
                    return sender.finish(crate::xds::code::UNAVAILABLE);
                }
            }
        }
        while let Some(response) = session.poll() {
            sender.send(&response).await?;
        }
    }
}
