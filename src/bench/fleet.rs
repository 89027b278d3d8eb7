//! Thousands of sidecars on one core: each a stream of ADS on an HTTP/2
//! connection of its own, or a bare TCP connection that is written to.
//!
//! A member is told apart from the others by little more than its socket: what
//! all hold is shared, messages are [scanned](super::scan) where they were read,
//! and one buffer serves all who read. Everything runs on one thread; the parent
//! starts as many processes as it needs.
//!
//! What comes of the changes that a [`Plan`] announces is added up in a
//! [`Tally`], by the time that is due, not by when a change was made.

mod connection;
mod member;
mod tally;

use super::mesh::{Family, content};
use super::now;
use super::plan::{Change, Plan};
use super::stock::Shape;
use crate::xds::Variant;
use crate::xds::wire::Writer;
use member::{Member, Names, Pair, Pairs};
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

pub use connection::SERVER_NAME;
pub use tally::{Counts, Outcome, Tally};

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(2);
/// Read at once, and by a slow reader.
const BUFFER: usize = 256 << 10;

/// What sidecars subscribe to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Asks {
    /// All clusters.
    Clusters,
    /// All clusters, then their endpoints, then listeners and their routes.
    Mesh,
    /// Endpoints by name: of the first service, and those of a member's class.
    Endpoints,
}

/// What members have in common.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Terms {
    pub variant: SerialVariant,
    pub asks: Asks,
    /// What the control plane has, where it is ours.
    pub shape: Option<Shape>,
    pub classes: u32,
    /// From receiving a response until it is acknowledged, in µs.
    pub apply: u64,
    /// Of a hundred members, so many reject what changes.
    pub nack_percent: u32,
    /// Of a hundred members, so many are slow when told to be.
    pub slow_percent: u32,
    /// Remember versions, to state them after a reconnect.
    pub keep: bool,
    /// Nothing but messages comes, and nothing is answered.
    pub raw: bool,
    /// So many bytes of extensions are listed in a node, as Envoy lists its own.
    pub node_bytes: u32,
    /// Of endpoints by name: so many that follow each other, each class from
    /// another one on.
    pub names: Option<u32>,
}

/// [`Variant`], as a part of orders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SerialVariant {
    Delta,
    Sotw,
}

impl From<SerialVariant> for Variant {
    fn from(variant: SerialVariant) -> Self {
        match variant {
            SerialVariant::Delta => Self::Delta,
            SerialVariant::Sotw => Self::Sotw,
        }
    }
}

/// Whom members connect to.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Target {
    pub address: SocketAddr,
    /// The authority by which its certificate is verified: TLS is spoken.
    pub authority: Option<String>,
    /// The address to connect from, where one has not enough ports.
    pub from: Option<IpAddr>,
}

impl Terms {
    /// The class whom alone a change concerns.
    fn concerns(&self, change: &Change) -> Option<u32> {
        let number = change.number.filter(|number| self.asks == Asks::Endpoints && *number > 0)?;
        Some(number % self.classes.max(1))
    }

    /// How many resources of a type all have.
    fn shared_count(&self, family: Family) -> u32 {
        let own = |shape: &Shape| if family == Family::Cluster { shape.own } else { 0 };
        self.shape.as_ref().map_or(1, |shape| shape.count(family) - own(shape))
    }

    /// How many resources of a type a member of this class gets at first.
    fn expected(&self, family: Family, class: u32) -> u32 {
        match (&self.shape, self.asks) {
            // Somebody else's: the first response is all.
            (None, _) => 0,
            (Some(shape), Asks::Endpoints) => self.wanted(class, shape).count() as u32,
            (Some(shape), Asks::Clusters | Asks::Mesh) => shape.count(family),
        }
    }

    /// Services whose endpoints a class asks for by name.
    fn wanted(&self, class: u32, shape: &Shape) -> impl Iterator<Item = u32> {
        let classes = self.classes.max(1);
        let window = self.names.map(|names| {
            let from = 1 + shape.services.saturating_sub(names) / classes * class;
            from..from.saturating_add(names)
        });
        (0..shape.services).filter(move |number| match &window {
            Some(window) => *number == 0 || window.contains(number),
            None => *number == 0 || number % classes == class,
        })
    }
}

/// What the members of a fleet share.
#[derive(Debug, Default)]
pub struct Shared {
    pub tally: Tally,
    names: HashMap<u64, Names>,
    pairs: HashMap<u64, Pairs>,
}

impl Shared {
    /// These names, once for all who have them.
    fn names(&mut self, fields: Vec<u8>) -> Names {
        let key = foldhash::quality::FixedState::default().hash_one(&fields);
        Arc::clone(self.names.entry(key).or_insert_with(|| fields.into()))
    }

    fn pairs(&mut self, pairs: Vec<Pair>) -> Pairs {
        let key = foldhash::quality::FixedState::default().hash_one(&pairs);
        Arc::clone(self.pairs.entry(key).or_insert_with(|| pairs.into()))
    }

    /// The names that a class asks for.
    fn names_of(&mut self, class: u32, terms: &Terms) -> Names {
        let mut out = Writer::default();
        for number in terms.shape.iter().flat_map(|shape| terms.wanted(class, shape)) {
            out.bytes(3, content::service(number).as_bytes());
        }
        self.names(out.finish().into())
    }
}

/// Sidecars that run. Dropping it ends them.
#[derive(Debug)]
pub struct Fleet {
    shore: Rc<Shore>,
    tasks: Vec<AbortHandle>,
    first: u32,
}

/// What every connection needs.
struct Shore {
    terms: Terms,
    target: Target,
    tls: Option<(TlsConnector, ServerName<'static>)>,
    shared: RefCell<Shared>,
    buffer: RefCell<Box<[u8]>>,
    /// Bytes a second that slow members read; none: as others.
    slow: Cell<Option<u64>>,
}

impl std::fmt::Debug for Shore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shore").field("terms", &self.terms).field("target", &self.target).finish_non_exhaustive()
    }
}

/// Why a fleet cannot be.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    #[error("the certificate of the authority cannot be used: {0}")]
    Tls(String),
}

impl Fleet {
    /// Its members are numbered from `first` on. Runs within a `LocalSet`.
    pub fn new(terms: Terms, target: Target, first: u32) -> Result<Self, FleetError> {
        let tls = target.authority.as_deref().map(connection::connector).transpose()?;
        let mut shared = Shared::default();
        shared.tally.audience = vec![0; terms.classes.max(1) as usize];
        let shore = Shore {
            terms,
            target,
            tls,
            shared: RefCell::new(shared),
            buffer: RefCell::new(vec![0; BUFFER].into()),
            slow: Cell::new(None),
        };
        Ok(Self { shore: Rc::new(shore), tasks: Vec::new(), first })
    }

    /// Adds members who start evenly spread over `over` µs. Those who `count` are
    /// waited for.
    pub fn add(&mut self, count: u32, over: u64, counts: bool) {
        let terms = &self.shore.terms;
        for turn in 0..count {
            let number = self.first + self.tasks.len() as u32;
            let class = number % terms.classes.max(1);
            let apart = number % 100 < terms.nack_percent.max(terms.slow_percent);
            let counts = counts && !apart;
            let member = Member::new(number, class, counts);
            let tally = &mut self.shore.shared.borrow_mut().tally;
            tally.counts.members += 1;
            if let Some(audience) = tally.audience.get_mut(class as usize) {
                *audience += u32::from(counts);
            }
            let start = now::micros() + over * u64::from(turn) / u64::from(count.max(1));
            let live = connection::live(Rc::clone(&self.shore), member, start);
            self.tasks.push(tokio::task::spawn_local(live).abort_handle());
        }
    }

    /// These changes will come.
    pub fn expect(&self, plan: &Plan) {
        self.shore.shared.borrow_mut().tally.expect(plan, &self.shore.terms);
    }

    /// So many bytes a second are read by those who are slow; 0: none.
    pub fn slow(&self, rate: Option<u64>) {
        self.shore.slow.set(rate);
    }

    pub fn counts(&self) -> Counts {
        self.shore.shared.borrow().tally.counts
    }

    pub fn trouble(&self) -> Option<String> {
        self.shore.shared.borrow().tally.trouble.clone()
    }

    pub fn outcome(&self, from: u32) -> Outcome {
        self.shore.shared.borrow().tally.outcome(from)
    }

    pub fn joins(&self) -> Vec<(u32, u64)> {
        self.shore.shared.borrow().tally.joins.buckets()
    }

    /// Whether all changes up to `seq` reached whom they concern within `patience` µs.
    pub async fn delivered(&self, seq: u32, patience: u64) -> bool {
        self.until(patience, |tally| tally.delivered(seq)).await
    }

    /// Whether `count` members have everything within `patience` µs.
    pub async fn complete(&self, count: u32, patience: u64) -> bool {
        self.until(patience, |tally| tally.counts.complete >= count).await
    }

    async fn until(&self, patience: u64, done: impl Fn(&Tally) -> bool) -> bool {
        let deadline = now::micros() + patience;
        loop {
            if done(&self.shore.shared.borrow().tally) {
                return true;
            }
            if now::micros() > deadline {
                return false;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::plan::Pattern;
    use crate::bench::plane::Plane;
    use crate::bench::stock::{Contents, Stock};
    use tokio::task::LocalSet;

    const PATIENCE: u64 = 20_000_000;
    const MEMBERS: u32 = 6;

    fn terms(variant: SerialVariant, asks: Asks) -> Terms {
        let contents = if asks == Asks::Clusters { Contents::Clusters } else { Contents::Mesh };
        let shape = Shape { seed: 1, contents, services: 9, sizes: vec![300, 40_000], own: 0, classes: 3, base: 0 };
        Terms {
            variant,
            asks,
            shape: Some(shape),
            classes: 3,
            apply: 0,
            nack_percent: 0,
            slow_percent: 0,
            keep: variant == SerialVariant::Delta,
            raw: false,
            node_bytes: 0,
            names: None,
        }
    }

    /// Everybody starts, then these changes are made at once. What came of them?
    async fn play(terms: Terms, patterns: Vec<Pattern>) -> (Outcome, Counts) {
        let stock = Arc::new(Stock::new(terms.shape.clone().unwrap()));
        let plane = Plane::start(stock.clone()).await.unwrap();
        let target = Target { address: plane.address(), authority: None, from: None };
        let mut fleet = Fleet::new(terms, target, 0).unwrap();
        fleet.add(MEMBERS, 0, true);
        assert!(fleet.complete(MEMBERS, PATIENCE).await, "{:?}, {:?}", fleet.counts(), fleet.trouble());
        let mut first = 1;
        for pattern in patterns {
            let plan = Plan { seed: 1, first, begin: now::micros(), pattern };
            first += plan.len();
            fleet.expect(&plan);
            plan.changes().iter().for_each(|change| stock.make(change));
            assert!(fleet.delivered(plan.last(), PATIENCE).await, "{:?}, {:?}", fleet.outcome(1), fleet.trouble());
        }
        (fleet.outcome(1), fleet.counts())
    }

    fn some(family: Family, number: Option<u32>, count: u32) -> Pattern {
        Pattern::Single { family, number, below: 9, every: 0, count }
    }

    #[tokio::test]
    async fn every_change_reaches_everybody_by_either_variant() {
        let mesh = vec![
            some(Family::Endpoint, None, 20),
            some(Family::Cluster, None, 20),
            Pattern::Whole { every: 0, count: 3 },
        ];
        let clusters = vec![some(Family::Cluster, None, 20)];
        LocalSet::new()
            .run_until(async {
                for variant in [SerialVariant::Delta, SerialVariant::Sotw] {
                    for (asks, patterns, changes) in [(Asks::Mesh, &mesh, 46), (Asks::Clusters, &clusters, 20)] {
                        let (outcome, counts) = play(terms(variant, asks), patterns.clone()).await;
                        assert_eq!((outcome.whole, outcome.changes), (changes, changes), "{variant:?} {asks:?}");
                        assert_eq!(
                            (outcome.due, outcome.reached),
                            (u64::from(changes * MEMBERS), u64::from(changes * MEMBERS))
                        );
                        assert_eq!(
                            (counts.members, counts.complete, counts.nacks, counts.lost),
                            (MEMBERS, MEMBERS, 0, 0)
                        );
                        assert!(outcome.last.iter().zip(&outcome.first).all(|(last, first)| last >= first));
                    }
                }
            })
            .await;
    }

    #[tokio::test]
    async fn who_does_not_want_a_resource_is_not_waited_for() {
        let patterns = vec![some(Family::Endpoint, Some(0), 2), some(Family::Endpoint, Some(4), 3)];
        LocalSet::new()
            .run_until(async {
                let (outcome, _) = play(terms(SerialVariant::Delta, Asks::Endpoints), patterns).await;
                // Two of six are of the class that wants the fourth service.
                assert_eq!((outcome.whole, outcome.due, outcome.reached), (5, 2 * 6 + 3 * 2, 2 * 6 + 3 * 2));
            })
            .await;
    }

    #[tokio::test]
    async fn who_rejects_or_applies_late_is_as_told() {
        let patterns = vec![some(Family::Cluster, None, 5)];
        LocalSet::new()
            .run_until(async {
                let rejecting = Terms { nack_percent: 2, ..terms(SerialVariant::Delta, Asks::Clusters) };
                let (outcome, counts) = play(rejecting, patterns.clone()).await;
                assert_eq!((outcome.due, outcome.reached), (5 * 4, 5 * 4));
                assert!(counts.nacks > 0);
                let late = Terms { apply: 1000, ..terms(SerialVariant::Sotw, Asks::Clusters) };
                let (outcome, counts) = play(late, patterns).await;
                assert_eq!((outcome.whole, counts.lost), (5, 0));
            })
            .await;
    }

    #[tokio::test]
    async fn a_lost_stream_comes_back_and_goes_on_where_it_was() {
        LocalSet::new()
            .run_until(async {
                let terms = terms(SerialVariant::Delta, Asks::Mesh);
                let stock = Arc::new(Stock::new(terms.shape.clone().unwrap()));
                let plane = Plane::start(stock.clone()).await.unwrap();
                let address = plane.address();
                let mut fleet = Fleet::new(terms, Target { address, authority: None, from: None }, 0).unwrap();
                fleet.add(3, 0, true);
                assert!(fleet.complete(3, PATIENCE).await);
                let before = fleet.counts().resources;
                drop(plane);
                let plan = Plan { seed: 1, first: 1, begin: now::micros(), pattern: some(Family::Endpoint, None, 1) };
                fleet.expect(&plan);
                stock.make(&plan.changes()[0]);
                // Its listener goes when the runtime comes to it.
                let deadline = now::micros() + PATIENCE;
                let listener = loop {
                    match tokio::net::TcpListener::bind(address).await {
                        Ok(listener) => break listener,
                        Err(error) => assert!(now::micros() < deadline, "{error}"),
                    }
                    tokio::task::yield_now().await;
                };
                let _plane = Plane::on(listener, stock).unwrap();
                assert!(fleet.delivered(1, PATIENCE).await, "{:?}", fleet.trouble());
                let counts = fleet.counts();
                assert!(counts.lost >= 3);
                assert_eq!(counts.resources, before + 3, "versions were stated: only the change was sent");
            })
            .await;
    }
}
