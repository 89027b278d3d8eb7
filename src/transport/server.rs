//! The accept loop, and what a connection may do.
//!
//! [`Bound::bind`] takes the addresses, [`Bound::serve`] begins to accept, and
//! [`Server::drain`] ends it all within a window. Everything a peer controls has
//! a limit or a deadline; a peer beyond it loses its connection or call and
//! nobody else's. Each call goes to the [`Handler`] in a task of its own.
//!
//! * `bind`: sockets that listen
//! * `connection`: from a socket to calls
//! * `call`: one call
//! * `proof`: why a client's certificate is refused
//! * `metrics`: what is counted

mod bind;
mod call;
mod connection;
mod metrics;
mod proof;

pub use bind::{BindError, Bound, Listen};
pub use call::Call;
pub use metrics::Metrics;

use super::Identity;
use super::gate::Gate;
use super::identity::IdentityError;
use super::io::Traffic;
use super::tls::ServerTls;
use crate::clock::Clock;
use crate::quiet::Quiet;
use crate::xds::Moment;
use bind::{Incoming, Listener};
use futures_util::FutureExt;
use metrics::Accepted;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// What a connection may do. The spans are of the process' clock.
#[derive(Clone, Debug)]
pub struct Settings {
    pub tls: Option<Arc<ServerTls>>,
    /// Who may call at all.
    pub gate: Arc<Gate>,
    pub max_connections: usize,
    /// Calls at once on one connection (C-174).
    pub max_streams: u32,
    pub header_list_bytes: u32,
    pub stream_window: u32,
    pub connection_window: u32,
    /// What one call may have in HTTP/2's own buffer.
    pub send_buffer: usize,
    /// For TLS, and again for HTTP/2.
    pub handshake_timeout: Duration,
    /// TLS handshakes at once.
    pub handshakes: usize,
    /// A connection without any call is closed after this.
    pub first_call: Duration,
    /// A ping goes out this often, and must be answered within … (C-173).
    pub ping_every: Duration,
    pub ping_timeout: Duration,
    /// A connection is asked to end after this, ± 20 %.
    pub age: Option<Duration>,
    /// How long an ending connection's calls may take to end.
    pub age_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tls: None,
            gate: Arc::default(),
            max_connections: 20_000,
            max_streams: 1000,
            header_list_bytes: 16 << 10,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            send_buffer: 96 << 10,
            handshake_timeout: Duration::from_secs(5),
            handshakes: 256,
            first_call: Duration::from_secs(30),
            ping_every: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(10),
            age: None,
            age_window: Duration::from_secs(30),
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its socket address; of a Unix socket, ours.
    pub address: Arc<str>,
    /// What its verified certificate says.
    pub identity: Option<Identity>,
    ending: watch::Receiver<Option<Ending>>,
}

impl Peer {
    /// When the connection's calls should end, as soon as that is known.
    pub fn ending(&self) -> watch::Receiver<Option<Ending>> {
        self.ending.clone()
    }
}

/// A connection ends: calls should end between now and `by`, spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    pub from: Moment,
    pub by: Moment,
    pub cause: Cause,
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The process ends.
    Drain,
    /// The connection has grown old.
    Age,
    /// The peer's certificate ends.
    Expired,
}

impl Ending {
    /// The moment at `share` (0 to 1) of the window, leaving its last tenth for
    /// what is on its way.
    pub fn at(&self, share: f64) -> Moment {
        self.from + self.by.since(self.from).mul_f64(share.clamp(0.0, 1.0) * 0.9)
    }
}

/// Takes calls.
pub trait Handler: Send + Sync + 'static {
    fn handle(self: Arc<Self>, call: Call) -> impl Future<Output = ()> + Send;
}

/// Kinds of refusals that are remembered.
const KINDS: usize = 1000;

/// Refusals of one reason that are logged in a minute, of whomever.
const CROWD: u64 = 100;

/// Everything that connections share.
struct Shared<H> {
    handler: Arc<H>,
    settings: Settings,
    clock: Clock,
    metrics: Metrics,
    traffic: Arc<Traffic>,
    handshakes: Semaphore,
    connections: Semaphore,
    drain: watch::Receiver<Option<Ending>>,
    open: watch::Sender<usize>,
    /// How often connections were beyond the limit.
    full: Quiet<()>,
    /// Calls of nobody that is let in, by who was proven and by reason …
    refused: Quiet<(Option<String>, &'static str)>,
    /// Handshakes with certificates that prove nothing, by host and reason.
    handshakes_refused: Quiet<(String, &'static str)>,
    /// … and both by reason alone: proven names and hosts are many where whole fleets are wrong.
    crowd: Quiet<&'static str>,
}

/// A server that accepts. Dropping it stops accepting and ends every connection
/// at once; [`drain`](Self::drain) does so decently.
#[derive(Debug)]
pub struct Server {
    clock: Clock,
    drain: watch::Sender<Option<Ending>>,
    open: watch::Receiver<usize>,
    broke: watch::Receiver<bool>,
}

impl Bound {
    /// Begins to accept.
    pub fn serve<H: Handler>(self, settings: Settings, clock: Clock, metrics: Metrics, handler: Arc<H>) -> Server {
        let (drain, draining) = watch::channel(None);
        let (open, opened) = watch::channel(0);
        let (broke, broken) = watch::channel(false);
        let shared = Arc::new(Shared {
            handler,
            clock: clock.clone(),
            traffic: metrics.traffic(),
            metrics,
            handshakes: Semaphore::new(settings.handshakes),
            connections: Semaphore::new(settings.max_connections),
            settings,
            drain: draining,
            open,
            full: Quiet::new(1, 1),
            refused: Quiet::new(1, KINDS),
            handshakes_refused: Quiet::new(1, KINDS),
            crowd: Quiet::new(CROWD, KINDS),
        });
        for listener in self.listeners {
            tokio::spawn(watched(accept(listener, shared.clone()), broke.clone()));
        }
        Server { clock, drain, open: opened, broke: broken }
    }
}

impl Server {
    /// Stops accepting, says GOAWAY to every connection and asks calls to end
    /// spread over `window`; returns when all have, or when it is over (C-175).
    pub async fn drain(&self, window: Duration) {
        let from = self.clock.now();
        let ending = Ending { from, by: from + window, cause: Cause::Drain };
        self.drain.send_replace(Some(ending));
        let mut open = self.open.clone();
        // Those that hang on are cut when the window is over.
        let _ = open.wait_for(|open| *open == 0).await;
    }

    pub fn connections(&self) -> usize {
        *self.open.borrow()
    }

    /// Returns when an address is no longer listened on by a panic: a defect of
    /// ours, after which nobody can connect there.
    pub async fn broke(&self) {
        if self.broke.clone().wait_for(|broke| *broke).await.is_err() {
            // All have ended decently.
            std::future::pending().await
        }
    }
}

/// Says it where `work` panics.
async fn watched(work: impl Future<Output = ()>, broke: watch::Sender<bool>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        broke.send_replace(true);
    }
}

/// Accepts until the server drains. No error ends it.
async fn accept<H: Handler>(listener: Listener, shared: Arc<Shared<H>>) {
    let mut drained = pin!(connection::drained(shared.drain.clone()));
    let mut trouble = Trouble::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut drained => return,
        };
        match accepted {
            Ok(incoming) => {
                trouble.over();
                admit(incoming, &shared);
            }
            Err(error) if of_one_connection(&error) => shared.metrics.accepted(Accepted::Broken),
            Err(error) => {
                shared.metrics.accept_failed();
                let pause = trouble.meet(&error, &listener);
                tokio::select! {
                    () = shared.clock.sleep_until(shared.clock.now() + pause) => {}
                    _ = &mut drained => return,
                }
            }
        }
    }
}

fn admit<H: Handler>(incoming: Incoming, shared: &Arc<Shared<H>>) {
    let shared = shared.clone();
    let opened = Opened::new(&shared.open);
    tokio::spawn(async move {
        let _opened = opened;
        let Ok(_place) = shared.connections.try_acquire() else {
            return turn_away(&incoming, &shared);
        };
        connection::run(incoming, &shared).await;
    });
}

fn turn_away<H>(incoming: &Incoming, shared: &Shared<H>) {
    shared.metrics.accepted(Accepted::Full);
    if let Some(others) = shared.full.due(shared.clock.now(), &()) {
        let most = shared.settings.max_connections;
        tracing::warn!(peer = %incoming.peer, most, others, "a connection is closed: all that may stand do; raise --max-connections");
    }
}

/// Errors that say nothing about the next connection.
fn of_one_connection(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// What to do while accepting fails: wait longer and longer, say it once, and
/// when file descriptors run out turn callers away rather than let them hang.
struct Trouble {
    pause: Duration,
    /// A file held open to be closed when there is no other descriptor left.
    reserve: Option<std::fs::File>,
}

const PAUSE_LEAST: Duration = Duration::from_millis(10);
const PAUSE_MOST: Duration = Duration::from_secs(1);

impl Trouble {
    fn new() -> Self {
        Self { pause: PAUSE_LEAST, reserve: reserve() }
    }

    fn over(&mut self) {
        if self.pause > PAUSE_LEAST {
            tracing::info!("connections are accepted again");
        }
        self.pause = PAUSE_LEAST;
    }

    fn meet(&mut self, error: &std::io::Error, listener: &Listener) -> Duration {
        // EMFILE and ENFILE.
        let exhausted = matches!(error.raw_os_error(), Some(23 | 24));
        if self.pause == PAUSE_LEAST {
            let hint = if exhausted { "; raise the limit of open files (ulimit -n)" } else { "" };
            tracing::warn!(%listener, "cannot accept connections: {error}{hint}");
        }
        if exhausted {
            self.reserve = None;
            listener.turn_one_away();
            self.reserve = reserve();
        }
        let pause = self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MOST);
        pause
    }
}

fn reserve() -> Option<std::fs::File> {
    std::fs::File::open("/dev/null").ok()
}

/// Counts a connection as open until it is dropped.
struct Opened(watch::Sender<usize>);

impl Opened {
    fn new(count: &watch::Sender<usize>) -> Self {
        count.send_modify(|open| *open += 1);
        Self(count.clone())
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests;
