//! The managed control plane: connections to it, and the streams of the groups.
//!
//! * [`backoff`], [`admission`]: when to try, and who goes first
//! * [`pool`]: addresses by priority, and their connections; [`renewal`]: their certificates
//! * [`stream`]: one ADS stream
//! * [`group`]: what a group needs of them; [`doubts`]: where two of them overlap
//! * [`metadata`]: what is sent with each stream
//! * [`report`], [`metrics`]: what can be seen; [`probe`]: one try of each address
//! * [`files`](mod@files): a directory in the place of a control plane
//!
//! Promise: loss of the upstream changes nothing that is held (C-137); every
//! end of a stream, a clean one too, leads to another try; a fleet of groups does
//! not fall on a control plane at once.

mod admission;
mod backoff;
mod doubts;
pub mod files;
mod group;
mod metadata;
mod metrics;
mod pool;
pub mod probe;
mod renewal;
mod report;
mod stream;

pub use backoff::{Backoff, Ended, Waits};
pub use files::{Files, FilesReport};
pub use metadata::MetadataError;
pub use metrics::Metrics;
pub use pool::Keeping;
pub use report::{ConnectionReport, EndpointReport};

use crate::clock::Clock;
use crate::config;
use crate::exchange::Exchange;
use crate::group::GroupKey;
use crate::transport::client::Options;
use crate::transport::frame::Limit;
use crate::transport::tls::{ClientFiles, ClientTls, Pair, TlsError};
use crate::xds::Timing;
use admission::Admission;
use group::Driver;
use metadata::Metadata;
use pool::Pool;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};

/// What is not configuration: tests make it small.
#[derive(Clone, Debug)]
pub struct Settings {
    pub timing: Timing,
    pub waits: Waits,
    pub keeping: Keeping,
    /// Streams opened a second, at most.
    pub opens: f64,
    /// Of the transport; TLS and the size of messages are taken from the configuration.
    pub transport: Options,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            timing: Timing::default(),
            waits: Waits::default(),
            keeping: Keeping::default(),
            opens: 50.0,
            transport: Options::default(),
        }
    }
}

/// Why the upstream cannot be driven as configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("TLS towards the control plane: {0}")]
    Tls(#[from] TlsError),
    #[error("{0}")]
    Metadata(#[from] MetadataError),
}

/// What every group's driver uses.
struct Shared {
    pool: Arc<Pool>,
    admission: Admission,
    metadata: Metadata,
    /// Streams are opened by tokens of members.
    by_member: bool,
    metrics: Metrics,
    clock: Clock,
    timing: Timing,
    waits: Waits,
    speak: config::Speak,
}

/// Where the content of all groups comes from. Each drives the same commit.
#[derive(Clone, Debug)]
pub enum Source {
    ControlPlane(Arc<Upstream>),
    Files(Arc<Files>),
}

impl Source {
    /// Drives all groups until it is dropped.
    pub async fn run(self) {
        match self {
            Self::ControlPlane(upstream) => upstream.run().await,
            Self::Files(files) => files.run().await,
        }
    }

    /// It can answer: a connection stands, or files were read.
    pub fn is_connected(&self) -> bool {
        match self {
            Self::ControlPlane(upstream) => upstream.is_connected(),
            Self::Files(files) => files.is_loaded(),
        }
    }

    /// The directory, where that is the source.
    pub fn files(&self) -> Option<FilesReport> {
        match self {
            Self::ControlPlane(_) => None,
            Self::Files(files) => Some(files.report()),
        }
    }
}

/// One task for each group that needs a stream.
#[derive(Default)]
struct Drivers {
    tasks: JoinSet<()>,
    keys: HashMap<tokio::task::Id, GroupKey>,
    wakes: HashMap<GroupKey, Arc<Notify>>,
}

/// The upstream side of all groups.
pub struct Upstream {
    shared: Arc<Shared>,
    exchange: Arc<Exchange>,
}

impl Upstream {
    /// Reads the files that the configuration names; connects to nothing yet.
    pub fn new(
        config: &config::Upstream,
        settings: Settings,
        exchange: Arc<Exchange>,
        clock: Clock,
        metrics: Metrics,
    ) -> Result<Arc<Self>, SetupError> {
        let tls = config.tls.as_ref().map(|tls| ClientTls::new(client_files(tls))).transpose()?;
        let receive_limit = Limit { bytes: config.message_bytes, remedy: "raise --upstream-max-message-bytes" };
        let options = Options { tls: tls.map(Arc::new), receive_limit, ..settings.transport };
        let keeping = Keeping { base: config.connections, ..settings.keeping };
        let waits = settings.waits.clone();
        let pool = Pool::new(&config.endpoints, &options, keeping, waits, clock.clone(), metrics.clone());
        let shared = Shared {
            pool,
            admission: Admission::new(settings.opens, clock.clone()),
            metadata: Metadata::new(&config.metadata, config.token_file.clone())?,
            by_member: config.credentials == config::Credentials::Member,
            metrics,
            clock,
            timing: settings.timing,
            waits: settings.waits,
            speak: config.speak,
        };
        let shared = Arc::new(shared);
        shared.metrics.show(&shared);
        Ok(Self { shared, exchange }.into())
    }

    /// Drives all groups until it is dropped.
    ///
    /// Without those who keep connections and let streams open nothing would come
    /// any more: where one of them panics so does this, for the process to end.
    pub async fn run(self: Arc<Self>) {
        let mut kept = JoinSet::new();
        kept.spawn(self.shared.pool.clone().run());
        let shared = self.shared.clone();
        kept.spawn(async move { shared.admission.run(|| shared.pool.room()).await });
        let mut drivers = Drivers::default();
        loop {
            tokio::select! {
                key = self.exchange.next_dirty() => match drivers.wakes.get(&key) {
                    Some(wake) => wake.notify_one(),
                    None => self.drive(key, &mut drivers),
                },
                Some(ended) = kept.join_next() => match ended.map_err(JoinError::try_into_panic) {
                    Err(Ok(panic)) => std::panic::resume_unwind(panic),
                    _ => return,
                },
                Some(ended) = drivers.tasks.join_next_with_id() => {
                    // After a panic, a defect of ours, the group is driven anew.
                    let task = ended.map_or_else(|error| error.id(), |(task, ())| task);
                    if let Some(key) = drivers.keys.remove(&task) {
                        drivers.wakes.remove(&key);
                        // It may be wanted again since.
                        self.drive(key, &mut drivers);
                    }
                }
            }
        }
    }

    fn drive(&self, key: GroupKey, drivers: &mut Drivers) {
        let Some(handle) = self.exchange.group(&key).filter(|handle| !handle.is_idle()) else { return };
        let wake = Arc::new(Notify::new());
        let driver = Driver::new(self.shared.clone(), handle, wake.clone());
        let task = drivers.tasks.spawn(driver.run());
        drivers.keys.insert(task.id(), key.clone());
        drivers.wakes.insert(key, wake);
    }

    /// A connection stands: TLS and HTTP/2 handshakes are done.
    pub fn is_connected(&self) -> bool {
        self.shared.pool.is_connected()
    }

    /// Every address, by priority.
    pub fn report(&self) -> Vec<EndpointReport> {
        self.shared.pool.report()
    }

    /// Groups that wait for their turn to open a stream, and the streams a
    /// second that are let through.
    pub fn admission(&self) -> (usize, f64) {
        (self.shared.admission.waiting(), self.shared.admission.rate())
    }
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("pool", &self.shared.pool).finish_non_exhaustive()
    }
}

fn client_files(tls: &config::ClientTls) -> ClientFiles {
    let pair = tls.certificate.clone().zip(tls.key.clone()).map(|(cert, key)| Pair { cert, key });
    ClientFiles { ca: tls.ca.clone(), pair, server_name: tls.server_name.clone() }
}
