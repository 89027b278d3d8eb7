//! What one change costs one stream, without sockets: the newest state is
//! offered, the response is taken, the session has nothing more to say. Each
//! row states its target; run with `cargo bench --bench session`.
//!
//! Measured as benches/content.rs says: wildcard 0.51 µs (target 1), 1,000 named
//! 0.58 µs, all sets distinct 0.64 µs (target 5); an ACK 0.32 µs. The first
//! answer to 1,000 names that somebody wants already, as a group does that has
//! the clusters, takes 0.25 ms (target 0.3); 0.5 ms where no name was met before:
//! half of that is to hash, to hold and to let go of the names.

use bytes::Bytes;
mod support;

use criterion::{Criterion, criterion_group, criterion_main};
use outpost::content::{Attributes, Body, Edit, Served, ServedType, Store};
use outpost::session::server::{Granted, Output, Scope, ServerSession};
use outpost::xds::ask::{Change, Named};
use outpost::xds::{Ask, Moment, Name, TypeUrl, Variant};
use std::sync::Arc;
use std::time::Duration;
use support::{CpuTime, cpu_time};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const STREAMS: usize = 100;
const ENTRIES: usize = 10_000;

fn name(number: usize) -> Name {
    format!("outbound|8080||service-{number}.namespace-{}.svc.cluster.local", number % 97).into()
}

/// One group and the streams on it.
struct Fleet {
    store: Arc<Store>,
    served: Served,
    type_url: TypeUrl,
    sessions: Vec<(ServerSession, u64)>,
    now: Moment,
    version: usize,
}

impl Fleet {
    /// `names`: what stream `n` subscribes to; nothing is the wildcard.
    fn new(url: &str, variant: Variant, names: impl Fn(usize) -> Vec<Name>) -> Self {
        let (store, type_url) = (Store::new(), TypeUrl::new(url));
        let now = Moment::from_start(Duration::from_secs(1));
        let mut fleet = Self { store, served: Served::default(), type_url, sessions: Vec::new(), now, version: 0 };
        for stream in 0..STREAMS {
            fleet.open(variant, names(stream));
        }
        let all: Vec<Edit> = (0..ENTRIES).map(|number| fleet.put(number)).collect();
        fleet.commit(all);
        fleet.step();
        fleet.acknowledge(variant, names);
        fleet
    }

    /// One more stream, with its first request.
    fn open(&mut self, variant: Variant, names: Vec<Name>) {
        let named = Named { names, variants: Vec::new() };
        let change = match variant {
            Variant::Sotw => Change::Replace(named),
            Variant::Delta => Change::Delta { subscribe: named, unsubscribe: Named::default(), initial: Vec::new() },
        };
        self.sessions.push((ServerSession::new(Scope::Aggregated, variant, Arc::default()), 0));
        let ask = Ask {
            node: Some(Bytes::from_static(b"\x0a\x02n1")),
            type_url: self.type_url.as_str().into(),
            change,
            ..Ask::default()
        };
        self.ask(self.sessions.len() - 1, ask);
        if let Some((session, _)) = self.sessions.last_mut() {
            session.join(Granted::default());
        }
    }

    fn put(&self, number: usize) -> Edit {
        let text = format!("{number} at {}", self.version);
        let body = Body::Resource(self.store.blob(&self.type_url, text.as_bytes()));
        Edit::Put(self.store.entry(name(number), body, Attributes::default()))
    }

    fn commit(&mut self, edits: Vec<Edit>) {
        let before = self.served.of(&self.type_url).map(|of| (**of).clone()).unwrap_or_default();
        let tree = self.store.edit(&before.tree, edits);
        let next = ServedType { tree, complete: true, label: format!("v{}", self.version).into(), ..before };
        self.served.types.insert(self.type_url.clone(), next.into());
        self.version += 1;
        self.now = self.now + Duration::from_millis(1);
    }

    fn ask(&mut self, stream: usize, ask: Ask) {
        let (session, _) = &mut self.sessions[stream];
        session.handle_ask(self.now, ask, &self.store).expect("a good request");
    }

    /// Offers what is served to every stream; returns how many spoke.
    fn step(&mut self) -> usize {
        let served = Arc::new(self.served.clone());
        let mut spoke = 0;
        for (session, nonce) in &mut self.sessions {
            session.offer(self.now, &served);
            while let Some(output) = session.poll_output(self.now, &self.store) {
                if let Output::Send(response) = output {
                    session.written(self.now);
                    *nonce = response.nonce;
                    spoke += 1;
                }
            }
        }
        spoke
    }

    fn acknowledge(&mut self, variant: Variant, names: impl Fn(usize) -> Vec<Name>) {
        for stream in 0..STREAMS {
            let change = match variant {
                Variant::Sotw => Change::Replace(Named { names: names(stream), variants: Vec::new() }),
                Variant::Delta => {
                    let nothing = Named::default;
                    Change::Delta { subscribe: nothing(), unsubscribe: nothing(), initial: Vec::new() }
                }
            };
            let nonce = self.sessions[stream].1.to_string();
            self.ask(stream, Ask { type_url: self.type_url.as_str().into(), nonce, change, ..Ask::default() });
            let (session, _) = &mut self.sessions[stream];
            while session.poll_output(self.now, &self.store).is_some() {}
        }
    }
}

/// Times the step of a stream, or its ACK, over `iters` of them.
fn time(
    fleet: &mut Fleet,
    variant: Variant,
    names: impl Fn(usize) -> Vec<Name> + Copy,
    acks: bool,
    iters: u64,
) -> Duration {
    let rounds = iters.div_ceil(STREAMS as u64);
    let (mut steps, mut answers) = (Duration::ZERO, Duration::ZERO);
    for _ in 0..rounds {
        let edit = fleet.put(7);
        fleet.commit(vec![edit]);
        let start = cpu_time();
        let spoke = fleet.step();
        let stepped = cpu_time();
        assert_eq!(spoke, STREAMS);
        fleet.acknowledge(variant, names);
        steps += stepped - start;
        answers += cpu_time() - stepped;
    }
    let total = if acks { answers } else { steps };
    total.mul_f64(iters as f64 / (rounds * STREAMS as u64) as f64)
}

fn rows(bench: &mut Criterion<CpuTime>) {
    let wildcard = |_: usize| Vec::new();
    let equal = |_: usize| (0..1000).map(name).collect::<Vec<_>>();
    // Each has the changed name, and 999 of its own choice.
    let distinct =
        |stream: usize| std::iter::once(7).chain((1..1000).map(|at| 8 + stream * 7 + at)).map(name).collect();
    let mut row = |title: &str, url, variant, names: &dyn Fn(usize) -> Vec<Name>, acks| {
        let mut fleet = Fleet::new(url, variant, names);
        bench.bench_function(title, |bench| {
            bench.iter_custom(|iters| time(&mut fleet, variant, names, acks, iters));
        });
    };
    row("session step, wildcard, delta (target 1 µs)", CDS, Variant::Delta, &wildcard, false);
    row("session step, 1,000 named, delta (target 5 µs)", EDS, Variant::Delta, &equal, false);
    row("session step, 1,000 named, all sets distinct, delta (target 5 µs)", EDS, Variant::Delta, &distinct, false);
    row("session step, 1,000 named, SotW", EDS, Variant::Sotw, &equal, false);
    row("ACK, wildcard, delta", CDS, Variant::Delta, &wildcard, true);
    row("ACK, 1,000 named, delta", EDS, Variant::Delta, &equal, true);
}

/// A stream that begins: it subscribes, is answered, and is gone. The names are
/// new to the process, or wanted already, as by a group that has other members.
fn first_answer(bench: &mut Criterion<CpuTime>) {
    let names: Vec<Name> = (0..1000).map(name).collect();
    let mut fleet = Fleet::new(EDS, Variant::Delta, |_| names.clone());
    let store = fleet.store.clone();
    let mut row = |title: &str| {
        bench.bench_function(title, |bench| {
            bench.iter(|| {
                fleet.sessions.clear();
                fleet.open(Variant::Delta, names.clone());
                assert_eq!(fleet.step(), 1);
            });
        });
    };
    row("first answer, 1,000 new names, delta");
    let wanted = store.names((0..ENTRIES).map(name).collect());
    row("first answer, 1,000 names that are wanted already, delta (target 300 µs)");
    drop(wanted);
}

criterion_group! { name = benches; config = support::criterion(); targets = rows, first_answer }
criterion_main!(benches);
