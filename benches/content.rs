//! What one change costs in the store. Each row states its target; run with
//! `cargo bench --bench content`.
//!
//! Measured on 2 cores of an AMD EPYC (2.5 GHz class, 1 MiB L2 a core), Linux
//! 6.18, rustc 1.95, in CPU time of the thread, while other builds ran beside:
//!
//! | row | target | measured |
//! |---|---|---|
//! | commit of 1 change into 100,000 entries | 5 µs | 4.7 µs; 8.1 cold |
//! | the same with the tree's id | 10 µs | 8.0 µs; 13.5 cold |
//! | diff of two such trees, 1 change, warm | 1 µs | 0.04 µs |
//! | the same, cold | 12 µs | 2.9 µs |
//! | first fill from held content, a resource | 0.4 µs | 0.26 µs |
//! | baseline: BLAKE3 of 1 KiB, which is part of each commit | | 1.4 µs |
//! | baseline: comparing 1 KiB, which is part of each fill | | 0.024 µs |
//! | frame of a step / of one entry, made already | | 0.05 / 0.08 µs |
//!
//! Cold: another entry each time, so that nothing of its path is in a cache.

mod support;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use outpost::content::{Attributes, Body, Edit, Encoding, Entry, Parts, Store, Tree};
use outpost::xds::{Name, TypeUrl};
use std::hint::black_box;
use std::sync::Arc;
use support::CpuTime;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

const LARGE: usize = 100_000;
const GROUP: usize = 3_000;
const BYTES: usize = 1024;

fn cluster() -> TypeUrl {
    TypeUrl::new("type.googleapis.com/envoy.config.cluster.v3.Cluster")
}

fn name(number: usize) -> Name {
    format!("outbound|8080||service-{number}.namespace-{}.svc.cluster.local", number % 97).into()
}

/// The payload of a resource at a version: no two alike.
fn payload(number: usize, version: u64) -> Vec<u8> {
    let mut bytes = vec![b'x'; BYTES];
    bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
    bytes[8..16].copy_from_slice(&version.to_le_bytes());
    bytes
}

fn put(store: &Store, type_url: &TypeUrl, name: &Name, payload: &[u8]) -> Edit {
    let body = Body::Resource(store.blob(type_url, payload));
    Edit::Put(store.entry(name.clone(), body, Attributes::default()))
}

fn tree(store: &Store, numbers: impl Iterator<Item = usize>, changed: Option<usize>) -> Tree {
    let type_url = cluster();
    let version = |number| u64::from(Some(number) == changed);
    let edits = numbers.map(|number| put(store, &type_url, &name(number), &payload(number, version(number))));
    store.edit(&Tree::default(), edits)
}

/// One change after another, each into the tree before.
struct Line {
    store: Arc<Store>,
    type_url: TypeUrl,
    names: Vec<Name>,
    tree: Tree,
    version: u64,
}

impl Line {
    fn new(store: &Arc<Store>, entries: usize) -> Self {
        let tree = tree(store, 0..entries, None);
        Self { store: store.clone(), type_url: cluster(), names: (0..entries).map(name).collect(), tree, version: 1 }
    }

    /// Changes another entry each time: nothing of its path is in a cache.
    fn step(&mut self) -> &Tree {
        self.change((self.version as usize).wrapping_mul(7919) % self.names.len())
    }

    fn change(&mut self, number: usize) -> &Tree {
        self.version += 1;
        let edit = put(&self.store, &self.type_url, &self.names[number], &payload(number, self.version));
        self.tree = self.store.edit(&self.tree, [edit]);
        &self.tree
    }
}

fn commit(bench: &mut Criterion<CpuTime>) {
    let store = Store::new();
    let mut line = Line::new(&store, LARGE);
    line.tree.id();
    bench.bench_function("commit of 1 change into 100,000 entries (target 5 µs)", |bench| {
        bench.iter(|| line.change(4711).len());
    });
    bench.bench_function("commit of 1 change into 100,000 entries, cold", |bench| {
        bench.iter(|| line.step().len());
    });
    line.tree.id();
    bench.bench_function("commit of 1 change into 100,000 entries, with the tree's id (target 10 µs)", |bench| {
        bench.iter(|| line.change(4711).id());
    });
    bench.bench_function("commit of 1 change into 100,000 entries, with the tree's id, cold", |bench| {
        bench.iter(|| line.step().id());
    });
    let mut line = Line::new(&store, 1000);
    bench.bench_function("commit of 1 change into 1,000 entries", |bench| {
        bench.iter(|| line.step().len());
    });
}

fn diff(bench: &mut Criterion<CpuTime>) {
    let store = Store::new();
    let one = tree(&store, 0..LARGE, None);
    // Built apart, the other way round.
    let other = tree(&store, (0..LARGE).rev(), Some(4711));
    assert_eq!(store.diff(&one, &other).changed.len(), 1);
    bench.bench_function("diff of two trees of 100,000 that differ in 1, warm (target 1 µs)", |bench| {
        bench.iter(|| store.diff(black_box(&one), black_box(&other)).changed.len());
    });
    let mut line = Line::new(&store, LARGE);
    bench.bench_function("diff of two trees of 100,000 that differ in 1, cold (target 12 µs)", |bench| {
        let pair = || (line.tree.clone(), line.step().clone());
        bench.iter_batched(pair, |(from, to)| store.diff(&from, &to).changed.len(), BatchSize::LargeInput);
    });
}

fn first_fill(bench: &mut Criterion<CpuTime>) {
    let store = Store::new();
    let held = tree(&store, 0..GROUP, None);
    let type_url = cluster();
    let response: Vec<(Name, Vec<u8>)> = (0..GROUP).map(|number| (name(number), payload(number, 0))).collect();
    let mut group = bench.benchmark_group("first fill");
    group.throughput(Throughput::Elements(GROUP as u64));
    group.bench_function("3,000 held resources of 1 KiB (target 0.4 µs a resource: 1.2 ms, 2.5 Melem/s)", |bench| {
        bench.iter(|| {
            let edits = response.iter().map(|(name, payload)| put(&store, &type_url, name, payload));
            let filled = store.edit(&Tree::default(), edits);
            assert!(filled.same(&held));
        });
    });
    group.bench_function("3,000 new resources of 1 KiB", |bench| {
        bench.iter_batched(Store::new, |store| tree(&store, 0..GROUP, None).len(), BatchSize::PerIteration);
    });
    group.finish();
}

fn frames(bench: &mut Criterion<CpuTime>) {
    let store = Store::new();
    let type_url = cluster();
    let from = tree(&store, 0..10_000, None);
    let to = tree(&store, 0..10_000, Some(7));
    let parts = |entries: Vec<Arc<Entry>>| {
        let mut parts = Parts::new(type_url.clone(), Encoding::Delta);
        parts.resources = entries;
        parts
    };
    let changed: Vec<_> = store.diff(&from, &to).changed.iter().filter_map(|it| it.to.clone()).collect();
    bench.bench_function("frame of a step, made already", |bench| {
        bench.iter(|| store.step_frames(&from, &to, Encoding::Delta, &type_url, || parts(changed.clone())));
    });
    bench.bench_function("frame of 1 entry, made already", |bench| {
        bench.iter(|| store.frames(parts(changed.clone())));
    });
    let all: Vec<_> = to.iter().cloned().collect();
    bench.bench_function("frame of 10,000 entries, 10 MB, made already", |bench| {
        bench.iter(|| store.frames(parts(all.clone())));
    });
    let stingy = Store::with_memo_budget(0);
    bench.bench_function("frame of 10,000 entries, 10 MB, encoded", |bench| {
        bench.iter(|| {
            stingy.sweep();
            stingy.sweep();
            stingy.frames(parts(all.clone()))
        });
    });
}

fn sets(bench: &mut Criterion<CpuTime>) {
    let store = Store::new();
    let names: Vec<Name> = (0..1000).map(name).collect();
    let set = store.names(names.clone());
    bench.bench_function("set of 1,000 names, held", |bench| bench.iter(|| store.names(names.clone())));
    let sought = name(500);
    bench.bench_function("is a name in a set of 1,000", |bench| bench.iter(|| set.contains(black_box(&sought))));
    let diff = store.diff(&Tree::default(), &tree(&store, 0..10_000, None));
    bench.bench_function("cut of 10,000 changes to 1,000 names, made already", |bench| {
        bench.iter(|| store.cut(&diff, &set).len());
    });
    let all = tree(&store, 0..10_000, None);
    bench.bench_function("name in a tree of 10,000", |bench| bench.iter(|| all.get(black_box(&sought)).is_some()));
}

/// What the machine does with the bytes alone, in the same run.
fn baselines(bench: &mut Criterion<CpuTime>) {
    let one = payload(1, 1);
    bench.bench_function("baseline: BLAKE3 of 1 KiB", |bench| bench.iter(|| blake3::hash(black_box(&one))));
    let held: Vec<_> = (0..GROUP).map(|number| payload(number, 0)).collect();
    let come = held.clone();
    let mut group = bench.benchmark_group("baseline");
    group.throughput(Throughput::Elements(GROUP as u64));
    group.bench_function("comparing 3,000 times 1 KiB", |bench| {
        bench.iter(|| held.iter().zip(black_box(&come)).filter(|(held, come)| held == come).count());
    });
    group.finish();
}

criterion_group! { name = benches; config = support::criterion(); targets = baselines, commit, diff, first_fill, frames, sets }
criterion_main!(benches);
