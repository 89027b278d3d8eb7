//! The side towards sidecars: xDS streams, health and reflection on one port.
//!
//! [`serve`] binds and begins; what it returns knows the addresses, the streams
//! that stand, and how to end: [`Downstream::drain`].
//!
//! Each stream is a task that owns its two directions and a
//! [`ServerSession`](crate::session::server::ServerSession): requests are always
//! read, a wake of the group means a look at what it serves now, and the session
//! speaks when every byte before was taken. So a slow sidecar costs its place
//! and nobody waits for it (C-143, C-144).
//!
//! * [`settings`]: what an operator chooses
//! * [`clients`]: the streams that stand
//! * `stream`: one stream
//! * `services`: which path serves what; `csds`: what sidecars have, for tools
//! * `audit`: what clients wanted and may not have

mod audit;
pub mod clients;
mod csds;
mod metrics;
mod nacks;
mod services;
pub mod settings;
mod side;
mod stream;

pub use clients::Clients;
pub use metrics::Metrics;
pub use services::paths;
pub use settings::{Policy, Settings, SettingsError};

use crate::clock::Clock;
use crate::content::Store;
use crate::exchange::Exchange;
use crate::group;
use crate::quiet::Quiet;
use crate::traces::Patches;
use crate::transport::frame::Budget;
use crate::transport::jwks::{self, Jwks};
use crate::transport::server::{self, BindError, Bound, Call, Handler, Listen, Server};
use crate::transport::tls::{self, ServerTls};
use crate::xds::{Status, TypeUrl, code};
use audit::Audit;
use csds::{Caller, Csds};
use nacks::Nacks;
use services::Route;
use side::Side;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// What the streams stand on.
pub struct Parts {
    pub exchange: Arc<Exchange>,
    pub store: Arc<Store>,
    pub clock: Clock,
    pub metrics: Metrics,
    pub connections: server::Metrics,
    /// Where traces are asked for.
    pub patches: Option<Arc<Patches>>,
}

/// A server of sidecars that runs. Dropping it ends every stream at once.
pub struct Downstream {
    addresses: Vec<Listen>,
    clients: Arc<Clients>,
    side: Side,
    server: Server,
    tls: Option<Arc<ServerTls>>,
    policy: Arc<watch::Sender<Arc<Policy>>>,
    jwks: Option<Arc<Jwks>>,
}

/// What every stream shares.
struct Shared {
    settings: Settings,
    /// For streams that begin now.
    policy: Arc<watch::Sender<Arc<Policy>>>,
    parts: Parts,
    clients: Arc<Clients>,
    nacks: Nacks,
    audit: Audit,
    /// By reason, a closed set.
    refusals: Quiet<&'static str>,
    /// By type.
    oversize: Quiet<&'static str>,
    side: Side,
    /// For requests that are half here.
    budget: Arc<Budget>,
}

/// Streams refused for one reason that are logged in a minute before it grows quiet.
const REFUSALS: u64 = 3;

/// Listens where the settings say and serves from then on. Needs a runtime.
pub fn serve(settings: Settings, policy: Policy, parts: Parts) -> Result<Downstream, BindError> {
    let bound = Bound::bind(&settings.listen)?;
    let addresses = bound.addresses();
    let clients = Arc::new(Clients::default());
    let side = Side::new(Csds::new(clients.clone(), parts.exchange.clone(), parts.clock.clone()));
    let (clock, connections) = (parts.clock.clone(), parts.connections.clone());
    let transport = settings.transport.clone();
    let tls = transport.tls.clone();
    tls.iter().for_each(|tls| parts.metrics.show(tls));
    let jwks = transport.gate.tokens.as_ref().map(|tokens| tokens.jwks.clone());
    jwks.iter().for_each(|jwks| parts.metrics.show_keys(jwks));
    let budget = Budget::new(settings.half_requests);
    let policy = Arc::new(watch::Sender::new(Arc::new(policy)));
    let shared = Shared {
        settings,
        policy: policy.clone(),
        parts,
        clients: clients.clone(),
        nacks: Nacks::default(),
        audit: Audit::default(),
        refusals: Quiet::new(REFUSALS, usize::MAX),
        oversize: Quiet::new(1, usize::MAX),
        side: side.clone(),
        budget,
    };
    let server = bound.serve(transport, clock, connections, Arc::new(shared));
    Ok(Downstream { addresses, clients, side, server, tls, policy, jwks })
}

impl Downstream {
    /// With the ports that the system chose for port 0.
    pub fn addresses(&self) -> &[Listen] {
        &self.addresses
    }

    pub fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    pub fn connections(&self) -> usize {
        self.server.connections()
    }

    /// Streams that begin from now on are served by `policy`; those that stand are
    /// not disturbed.
    pub fn set_policy(&self, policy: Policy) {
        self.policy.send_replace(Arc::new(policy));
    }

    /// Types of which nobody is shown content.
    pub fn sensitive(&self) -> Arc<[TypeUrl]> {
        sensitive(&self.policy.borrow())
    }

    /// How the certificate is that sidecars are shown; `None` without TLS.
    pub fn certificate(&self) -> Option<tls::Seen> {
        self.tls.as_ref().map(|tls| tls.look())
    }

    /// How the keys of tokens are; `None` where tokens are not looked at.
    pub fn keys(&self) -> Option<jwks::Seen> {
        self.jwks.as_ref().map(|jwks| jwks.look())
    }

    /// Reads the keys of tokens anew, or fetches them. Runs until it is dropped.
    pub async fn keep_keys(&self) {
        match &self.jwks {
            Some(jwks) => jwks.run().await,
            None => std::future::pending().await,
        }
    }

    /// What health checks say; not serving until it is said.
    pub async fn set_ready(&self, ready: bool) {
        self.side.set_ready(ready).await;
    }

    /// Returns when an address is no longer listened on though nobody drains: a
    /// defect of ours.
    pub async fn broke(&self) {
        self.server.broke().await;
    }

    /// Not serving, no new connection, GOAWAY, streams end spread over `window`,
    /// each after at least one response if it has one coming (C-175). Returns
    /// when the last one has ended, or with the window.
    pub async fn drain(&self, window: Duration) {
        self.side.set_ready(false).await;
        self.server.drain(window).await;
    }
}

impl Shared {
    fn caller(&self, call: &Call) -> Caller {
        let identity = call.identity.as_ref().map(|identity| Arc::from(identity.as_str()));
        let policy = self.policy.borrow().clone();
        Caller::new(identity, &policy.viewers, sensitive(&policy))
    }
}

/// Credentials stay so whatever else an operator calls sensitive.
fn sensitive(policy: &Policy) -> Arc<[TypeUrl]> {
    policy.rules.sensitive().iter().cloned().chain(group::sensitive_types()).collect()
}

impl Handler for Shared {
    async fn handle(self: Arc<Self>, call: Call) {
        let unimplemented = |message: String| {
            self.parts.metrics.unimplemented();
            Status::new(code::UNIMPLEMENTED, message)
        };
        match services::route(call.path()) {
            Route::Xds { scope, variant, service } => stream::run(self, call, scope, variant, service).await,
            Route::Side => {
                let caller = self.caller(&call);
                let stall = self.policy.borrow().session.timing.send_stall;
                let pace = crate::transport::routes::Pace { clock: self.parts.clock.clone(), stall };
                let token = stream::token_ends(call.identity.as_ref(), &self.parts.clock);
                let ends = stream::Ends::new(call.peer.ending(), token);
                self.side.serve(call, caller, pace, ends).await;
            }
            Route::Fetch => {
                let status = unimplemented(format!("{} is not served: use the streaming method", call.path()));
                call.refuse(&status);
            }
            Route::Unknown => {
                let status = unimplemented(format!("{} is not served here", call.path()));
                call.refuse(&status);
            }
        }
    }
}
