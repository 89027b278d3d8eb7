//! Many sidecars, each with an ADS stream on an HTTP/2 connection of its own.
//!
//! A member decodes names and versions, enters what it took into the ledger,
//! ACKs, and reports into gauges that anybody may read meanwhile. When its
//! stream ends it comes back after a jittered delay, as Envoy does, and states
//! what it holds.

use super::ledger::Ledger;
use super::mesh::{Digest, Mesh, class_name};
use super::plane;
use super::rpc::{self, RpcError};
use super::sidecar::{self, ReceiveError, Sidecar};
use crate::clock::Clock;
use crate::xds::{Moment, Variant};
use bytes::Bytes;
use rand::RngExt;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;

/// Envoy's defaults for a lost ADS stream.
const BACK_OFF: Duration = Duration::from_millis(500);
const BACK_OFF_MOST: Duration = Duration::from_secs(30);

/// What members have in common.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Whom they connect to.
    pub address: SocketAddr,
    pub variant: Variant,
    pub clock: Clock,
    pub ledger: Arc<Ledger>,
    pub classes: u32,
}

#[derive(Debug)]
pub struct Swarm {
    terms: Terms,
    members: Vec<Member>,
    named: u32,
}

#[derive(Debug)]
struct Member {
    class: u32,
    node: Bytes,
    gauge: Arc<Gauge>,
    /// Ends when dropped, and its connection with it.
    _task: JoinSet<()>,
}

/// What one member says of itself.
#[derive(Debug)]
struct Gauge {
    /// Sum and count of its digest.
    held: Mutex<Digest>,
    connected: AtomicBool,
    applied: AtomicU64,
    removed: AtomicU64,
    /// Streams that ended after they had been answered.
    lost: AtomicU64,
    /// Microseconds from start until everything was there.
    complete: AtomicU64,
    /// Microseconds from start until it took something last.
    latest: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            held: Mutex::default(),
            connected: AtomicBool::new(false),
            applied: AtomicU64::new(0),
            removed: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            complete: AtomicU64::new(u64::MAX),
            latest: AtomicU64::new(0),
            trouble: Mutex::default(),
        }
    }
}

/// Sums over some members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub members: usize,
    /// Have a stream that was answered.
    pub connected: usize,
    /// Hold everything they ask for.
    pub complete: usize,
    /// Hold exactly what the mesh has for their class.
    pub in_sync: usize,
    pub applied: u64,
    pub removed: u64,
    pub lost: u64,
}

#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("{0}")]
    Rpc(#[from] RpcError),
    #[error("{0}")]
    Receive(#[from] ReceiveError),
    #[error("the server ended the stream")]
    Finished,
}

impl Swarm {
    pub fn new(terms: Terms) -> Self {
        Self { terms, members: Vec::new(), named: 0 }
    }

    /// Adds `count` members who start evenly spread over `ramp`. Returns who
    /// they are.
    pub fn add(&mut self, count: u32, ramp: Duration) -> Range<usize> {
        let (from, now) = (self.members.len(), self.terms.clock.now());
        for at in 0..count {
            let class = self.named % self.terms.classes.max(1);
            let workload = class_name(class);
            let node = sidecar::node(&format!("{workload}-{:05}", self.named), &workload);
            self.named += 1;
            let member = self.spawn(class, node, now + ramp * at / count.max(1));
            self.members.push(member);
        }
        from..self.members.len()
    }

    /// These crash and are started again at once, with nothing held.
    pub fn restart(&mut self, members: Range<usize>) {
        let now = self.terms.clock.now();
        for at in members {
            let Some((class, node)) = self.members.get(at).map(|member| (member.class, member.node.clone())) else {
                return;
            };
            self.members[at] = self.spawn(class, node, now);
        }
    }

    fn spawn(&self, class: u32, node: Bytes, start: Moment) -> Member {
        let (gauge, mut task) = (Arc::new(Gauge::default()), JoinSet::new());
        task.spawn(live(self.terms.clone(), Sidecar::new(node.clone(), self.terms.variant), Arc::clone(&gauge), start));
        Member { class, node, gauge, _task: task }
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub fn census(&self, members: Range<usize>, mesh: &Mesh) -> Census {
        let expected: Vec<_> = (0..self.terms.classes.max(1)).map(|class| mesh.digest(class)).collect();
        let mut census = Census::default();
        for member in self.members.get(members).unwrap_or_default() {
            let gauge = &member.gauge;
            let held = *gauge.held.lock().unwrap_or_else(PoisonError::into_inner);
            census.members += 1;
            census.connected += usize::from(gauge.connected.load(Relaxed));
            census.complete += usize::from(gauge.complete.load(Relaxed) != u64::MAX);
            census.in_sync += usize::from(expected.get(member.class as usize) == Some(&held));
            census.applied += gauge.applied.load(Relaxed);
            census.removed += gauge.removed.load(Relaxed);
            census.lost += gauge.lost.load(Relaxed);
        }
        census
    }

    /// How long each took from its start until it held everything, shortest
    /// first; those who do not are left out.
    pub fn start_times(&self, members: Range<usize>) -> Vec<Duration> {
        let members = self.members.get(members).unwrap_or_default().iter();
        let mut times: Vec<_> = members.map(|member| member.gauge.complete.load(Relaxed)).collect();
        times.retain(|micros| *micros != u64::MAX);
        times.sort_unstable();
        times.into_iter().map(Duration::from_micros).collect()
    }

    /// What a member holds.
    pub fn held(&self, member: usize) -> Digest {
        let held = |member: &Member| *member.gauge.held.lock().unwrap_or_else(PoisonError::into_inner);
        self.members.get(member).map(held).unwrap_or_default()
    }

    /// Of those who hold what is said here: how long each took from its start
    /// until it did, shortest first.
    pub fn served(&self, expected: &[(usize, Digest)]) -> Vec<Duration> {
        let holding = expected.iter().filter(|(member, digest)| self.held(*member) == *digest);
        let gauges = holding.filter_map(|(member, _)| Some(&self.members.get(*member)?.gauge));
        let mut times: Vec<_> = gauges.map(|gauge| Duration::from_micros(gauge.latest.load(Relaxed))).collect();
        times.sort_unstable();
        times
    }

    /// The class of a member.
    pub fn class(&self, member: usize) -> Option<u32> {
        self.members.get(member).map(|member| member.class)
    }

    /// Why a stream ended last, of the first member who knows.
    pub fn trouble(&self) -> Option<String> {
        let trouble = |member: &Member| member.gauge.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone();
        self.members.iter().find_map(trouble)
    }
}

/// One member, until it is dropped.
async fn live(terms: Terms, mut sidecar: Sidecar, gauge: Arc<Gauge>, start: Moment) {
    terms.clock.sleep_until(start).await;
    let began = terms.clock.now();
    let mut failures = 0;
    loop {
        let Err(ended) = converse(&terms, &mut sidecar, &gauge, began).await;
        if gauge.connected.swap(false, Relaxed) {
            gauge.lost.fetch_add(1, Relaxed);
            failures = 0;
        }
        *gauge.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended.to_string());
        let most = BACK_OFF.saturating_mul(1 << failures.min(6)).min(BACK_OFF_MOST);
        failures += 1;
        let pause = rand::rng().random_range(Duration::ZERO..=most);
        terms.clock.sleep_until(terms.clock.now() + pause).await;
    }
}

/// One stream, from connecting to its end.
async fn converse(
    terms: &Terms,
    sidecar: &mut Sidecar,
    gauge: &Gauge,
    began: Moment,
) -> Result<std::convert::Infallible, Ended> {
    let mut stream = rpc::open(terms.address, plane::method(terms.variant)).await?;
    for request in sidecar.open() {
        stream.sender.send(&request.message()).await?;
    }
    loop {
        let message = stream.receiver.message().await?.ok_or(Ended::Finished)?;
        let now = terms.clock.now();
        let before = sidecar.digest();
        let requests = sidecar.receive(message, now, &terms.ledger)?;
        if sidecar.digest() != before {
            gauge.latest.store((now - began).as_micros() as u64, Relaxed);
        }
        *gauge.held.lock().unwrap_or_else(PoisonError::into_inner) = sidecar.digest();
        gauge.applied.store(sidecar.applied(), Relaxed);
        gauge.removed.store(sidecar.removed(), Relaxed);
        gauge.connected.store(true, Relaxed);
        if gauge.complete.load(Relaxed) == u64::MAX && sidecar.is_complete() {
            gauge.complete.store((now - began).as_micros() as u64, Relaxed);
        }
        for request in requests {
            stream.sender.send(&request.message()).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::mesh::Shape;
    use super::super::plane::Plane;
    use super::super::wan::{Link, Outage, Wan};
    use super::*;

    async fn until(swarm: &Swarm, mesh: &Mesh, done: impl Fn(Census) -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let census = swarm.census(0..swarm.len(), mesh);
            if done(census) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{census:?}, {:?}", swarm.trouble());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn follows_through_an_outage(variant: Variant) {
        let (clock, ledger) = (Clock::system(), Arc::new(Ledger::default()));
        let mesh = Arc::new(Mesh::new(Shape::for_sidecars(6, 3), ledger.clone()));
        let plane = Plane::start(mesh.clone()).await.unwrap();
        let link = Link::with_delay(Duration::from_millis(5));
        let wan = Wan::start(plane.address(), link, clock.clone()).await.unwrap();
        let terms = Terms { address: wan.address(), variant, clock: clock.clone(), ledger: ledger.clone(), classes: 3 };
        let mut swarm = Swarm::new(terms);
        swarm.add(6, Duration::ZERO);
        until(&swarm, &mesh, |census| census.complete == 6 && census.in_sync == 6).await;
        for _ in 0..20 {
            mesh.change(clock.now(), true);
        }
        until(&swarm, &mesh, |census| census.in_sync == 6).await;
        let made = ledger.changes();
        assert!(made.iter().all(|change| change.reached() == change.audience && change.spread().0 >= wan_delay()));
        wan.cut(Outage::Silence);
        mesh.change(clock.now(), false);
        wan.heal();
        until(&swarm, &mesh, |census| census.in_sync == 6 && census.lost == 6).await;
        swarm.restart(0..2);
        until(&swarm, &mesh, |census| census.complete == 6 && census.in_sync == 6).await;
        assert_eq!((ledger.unknown(), ledger.backwards(), plane.rejected()), (0, 0, 0));
        assert_eq!(plane.streams(), 6);
    }

    fn wan_delay() -> Duration {
        Duration::from_millis(5)
    }

    #[tokio::test]
    async fn delta_members_follow_through_an_outage() {
        follows_through_an_outage(Variant::Delta).await;
    }

    #[tokio::test]
    async fn sotw_members_follow_through_an_outage() {
        follows_through_an_outage(Variant::Sotw).await;
    }
}
