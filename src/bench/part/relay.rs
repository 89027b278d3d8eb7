//! Outpost in a process, as its operator would start it.

use super::{Hello, Order, PartError, Reply, Talk, say, unfit};
use crate::bench::now;
use crate::clock::Clock;
use crate::xds::Moment;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// An Outpost that runs.
pub struct Running {
    /// Where it serves sidecars, and operators.
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// Ends it when awaited, or when dropped.
    pub stop: BoxFuture<'static, ()>,
}

/// When a change was where in Outpost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// What the control plane calls it: of ours, the change's number.
    pub label: String,
    /// µs on the machine's monotonic clock.
    pub received: u64,
    pub committed: u64,
    /// The first and the last stream's last byte.
    pub first_written: Option<u64>,
    pub written: Option<u64>,
    /// The last answer was read.
    pub answered: Option<u64>,
    pub streams: u64,
}

/// Moments of a patch, as Outpost tells them.
#[derive(Clone, Debug)]
pub struct Ended {
    pub label: Arc<str>,
    pub received: Moment,
    pub committed: Moment,
    pub first: Option<Moment>,
    pub written: Option<Moment>,
    pub answered: Option<Moment>,
    pub streams: u64,
}

/// Where Outpost tells the stages of what it passed on. Asked for where stages
/// are measured only: it costs each stream a little.
#[derive(Clone, Debug)]
pub struct Stages {
    pub clock: Clock,
    told: Arc<Mutex<Vec<Ended>>>,
}

impl Stages {
    fn new() -> Self {
        Self { clock: Clock::system(), told: Arc::default() }
    }

    pub fn tell(&self, ended: Ended) {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).push(ended);
    }

    fn take(&self) -> Vec<Stage> {
        let told = std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner));
        let (here, there) = (self.clock.now(), now::micros());
        let at = |moment: Moment| there.saturating_sub((here - moment).as_micros() as u64);
        let stage = |ended: Ended| Stage {
            label: ended.label.to_string(),
            received: at(ended.received),
            committed: at(ended.committed),
            first_written: ended.first.map(at),
            written: ended.written.map(at),
            answered: ended.answered.map(at),
            streams: ended.streams,
        };
        told.into_iter().map(stage).collect()
    }
}

/// Starts an Outpost in this process with these flags of `outpost serve`, or
/// says why it cannot. Only the composition root knows how.
pub type Launch<'a> =
    dyn Fn(Vec<String>, Option<Stages>) -> BoxFuture<'static, Result<Running, String>> + Send + Sync + 'a;

pub(super) async fn run(flags: Vec<String>, stages: bool, launch: &Launch<'_>) -> Result<(), PartError> {
    let stages = stages.then(Stages::new);
    let running = launch(flags, stages.clone()).await.map_err(PartError::Begin)?;
    let mut talk = Talk::begin(&Hello { address: running.address, admin: Some(running.admin) });
    while let Some(order) = talk.next().await {
        match order {
            Order::Stages => say(&Reply::Stages(stages.as_ref().map(Stages::take).unwrap_or_default())),
            other => unfit(&other),
        }
    }
    running.stop.await;
    Ok(())
}
