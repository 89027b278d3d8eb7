//! A control plane that serves an invented world by ADS, delta and SotW.
//!
//! A stream keeps its place in the world's log and what it is subscribed to;
//! contents are encoded once and shared. Like istiod it pushes a change at once,
//! whether or not the one before was answered: latency over a WAN is then the
//! WAN's, not that of waiting for ACKs.
//! It trusts its clients: for tests and load, not for production.

mod session;

use super::mesh::{Family, News};
use super::rpc::{self, Receiver, RpcError, Sender};
use crate::xds::{Name, Variant};
use session::Session;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use tokio::net::TcpListener;
use tokio::sync::watch;
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

/// What a control plane serves. What happens to it is a log, and a stream has a
/// place in that.
pub trait World: std::fmt::Debug + Send + Sync {
    /// Moves when something was published.
    fn revision(&self) -> watch::Receiver<usize>;

    /// Workload classes; see [`class_of`](super::mesh::class_of).
    fn classes(&self) -> u32;

    /// Everything of a type that this class sees, by name.
    fn all(&self, class: u32, family: Family) -> News;

    /// These names as they stand: those that do not exist are `removed`.
    fn named(&self, class: u32, family: Family, names: &mut dyn Iterator<Item = &Name>) -> News;

    /// What changed of a type, for this class, since `place`.
    fn news(&self, class: u32, family: Family, place: usize) -> News;
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
    pub async fn start(world: Arc<dyn World>) -> io::Result<Self> {
        Self::on(TcpListener::bind("127.0.0.1:0").await?, world)
    }

    pub fn on(listener: TcpListener, world: Arc<dyn World>) -> io::Result<Self> {
        let address = listener.local_addr()?;
        let counts = Arc::new(Counts::default());
        let shared = Arc::clone(&counts);
        let mut server = JoinSet::new();
        server.spawn(rpc::serve(listener, move |path, sender, receiver| {
            serve(path, sender, receiver, Arc::clone(&world), Arc::clone(&shared))
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

async fn serve(path: String, sender: Sender, receiver: Receiver, world: Arc<dyn World>, counts: Arc<Counts>) {
    let variant = match path.as_str() {
        DELTA => Variant::Delta,
        SOTW => Variant::Sotw,
        _ => return drop(sender.finish(UNIMPLEMENTED)),
    };
    let open = Open::new(counts);
    // How a client leaves does not matter: the stream is over.
    let _ = converse(sender, receiver, Session::new(variant, Arc::clone(&world)), &*world, &open.0).await;
}

async fn converse(
    mut sender: Sender,
    mut receiver: Receiver,
    mut session: Session,
    world: &dyn World,
    counts: &Counts,
) -> Result<(), RpcError> {
    let mut revision = world.revision();
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
