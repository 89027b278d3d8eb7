//! Many histories of a small world, each named by its seed.
//!
//! Sidecars, two replicas made of the real pure parts (sessions, exchange,
//! content), a control plane and the network between. After every step the
//! invariants are judged; at the end all faults heal and all must agree.
//!
//! * `OUTPOST_SIM_SEEDS=100000` runs more seeds than the 2,000 of an ordinary run.
//! * `OUTPOST_SIM_SEED=17` replays one.

#![allow(unreachable_pub)]

#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/plane.rs"]
mod plane;
#[path = "simulation/rng.rs"]
mod rng;
#[path = "simulation/sidecar.rs"]
mod sidecar;
#[path = "simulation/world.rs"]
mod world;

use faults::Faults;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use world::World;

struct Run {
    steps: usize,
    faults: Faults,
}

fn run(seed: u64) -> Result<Run, String> {
    let mut world = World::new(seed);
    let steps = 900 + world.rng.below(400);
    for _ in 0..steps {
        world.step()?;
    }
    world.heal()?;
    world.converged()?;
    Ok(Run { steps: world.steps, faults: world.faults })
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[test]
fn every_history_keeps_the_invariants() {
    if let Some(seed) = number("OUTPOST_SIM_SEED") {
        run(seed).map(drop).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        return;
    }
    let seeds = number("OUTPOST_SIM_SEEDS").unwrap_or(2_000);
    let next = AtomicU64::new(0);
    let runs = Mutex::new(Vec::new());
    let failures = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, |cores| cores.get()) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds || failures.lock().unwrap().len() >= 5 {
                        return;
                    }
                    match run(seed) {
                        Ok(run) => runs.lock().unwrap().push(run),
                        Err(error) => failures.lock().unwrap().push((seed, error)),
                    }
                }
            });
        }
    });
    let failures = failures.into_inner().unwrap();
    for (seed, error) in &failures {
        eprintln!("seed {seed}: {error}\n  replay: OUTPOST_SIM_SEED={seed} cargo test --test simulation");
    }
    assert!(failures.is_empty(), "{} seeds failed", failures.len());
    let runs = runs.into_inner().unwrap();
    let mut steps: Vec<usize> = runs.iter().map(|run| run.steps).collect();
    steps.sort_unstable();
    let mut total = Faults::default();
    runs.iter().for_each(|run| total.add(&run.faults));
    println!("{} seeds, median {} steps", runs.len(), steps[steps.len() / 2]);
    for fault in faults::ALL {
        println!("  {fault:?}: {}", total.count(fault));
        assert!(total.count(fault) > 0, "{fault:?} never fired");
    }
    assert!(steps[steps.len() / 2] >= 1_000);
}
