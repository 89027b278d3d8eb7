//! One change to all sidecars of one group, beside bare writes of the same
//! bytes to as many sockets.
//!
//! Everything stands at once, and takes turns push by push: a machine that is
//! busy for a while is so for all alike.

use super::{Bench, Scenario, with};
use crate::bench::histogram::Histogram;
use crate::bench::mesh::Family;
use crate::bench::plan::Pattern;
use crate::bench::process::BenchError;
use crate::bench::results::{Chart, Line, Params, Place, median};
use crate::bench::rig::{Mode, Played, Rig};

/// Of resources whose change is pushed.
const SIZES: [u32; 3] = [300, 4096, 65_536];
/// Clusters beside them.
const OTHERS: u32 = 10;

/// One of those that take turns.
#[derive(Debug)]
struct Runner {
    rig: Rig,
    mode: Mode,
    tls: bool,
}

pub(super) fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(10_000, 1000);
    let mut steps = vec![sidecars];
    if !bench.options.quick && sidecars >= 1000 {
        steps = vec![sidecars / 10, sidecars / 3, sidecars];
    }
    let mut runners = start(bench, sidecars)?;
    let (mut scaling, mut standing): (Vec<Line>, u32) = (Vec::new(), 0);
    for (turn, step) in steps.iter().enumerate() {
        for runner in &mut runners {
            bench.screen.live(|| format!("  fanout · {} · {step} sidecars connect", name(runner)));
            runner.rig.join_more(step - standing)?;
        }
        standing = *step;
        let whole = turn + 1 == steps.len();
        let repeats = if whole { bench.repeats() } else { 1 };
        for repeat in 0..repeats {
            for at in 0..SIZES.len() {
                take_turns(bench, &mut runners, at, standing, repeat, &mut scaling)?;
            }
        }
    }
    if steps.len() > 1 {
        bench.results.charts.push(Chart {
            title: "fanout: 4 KiB to all sidecars".into(),
            x: "sidecars".into(),
            y: "ms until the last sidecar has it".into(),
            logarithmic: true,
            lines: scaling,
        });
    }
    Ok(())
}

/// Outpost without and with TLS, and what they are compared with.
fn start(bench: &mut Bench<'_>, sidecars: u32) -> Result<Vec<Runner>, BenchError> {
    let mut runners = Vec::new();
    // The limit is always measured beside.
    let mut modes = bench.modes(&[Mode::Relay, Mode::H2, Mode::Tonic]);
    modes.push(Mode::Raw);
    for mode in modes {
        // One that runs already has no certificate of ours.
        let both = mode == Mode::Relay && bench.options.relay.is_none();
        for tls in if both { vec![false, true] } else { vec![false] } {
            let mut setting = bench.crowd(mode, sidecars);
            setting.shape.services = SIZES.len() as u32 + OTHERS;
            setting.shape.sizes = SIZES.into_iter().chain([SIZES[0]]).collect();
            setting.tls = if tls { Some(bench.certificates()?) } else { None };
            setting.rate = if tls { 3000 } else { 6000 };
            runners.push(Runner { rig: Rig::build(setting)?, mode, tls });
        }
    }
    Ok(runners)
}

fn name(runner: &Runner) -> String {
    format!("{}{}", runner.mode.name(), if runner.tls { " with TLS" } else { "" })
}

/// What the pushes of one size came to.
#[derive(Debug, Default)]
struct Sum {
    server: u64,
    swarms: u64,
    writes: Option<u64>,
    reached: u64,
    last: Vec<f64>,
    busy: Vec<f64>,
    curve: Vec<(u32, u64)>,
    played: Option<Played>,
}

/// A push of each, time and again.
fn take_turns(
    bench: &mut Bench<'_>,
    runners: &mut [Runner],
    at: usize,
    standing: u32,
    repeat: u32,
    scaling: &mut Vec<Line>,
) -> Result<(), BenchError> {
    let pushes = bench.pick(6, 5);
    let mut sums: Vec<Sum> = runners.iter().map(|_| Sum::default()).collect();
    for push in 0..pushes {
        for (runner, sum) in runners.iter_mut().zip(&mut sums) {
            bench.screen.live(|| {
                format!("  fanout · {} · {} B to {standing} sidecars, push {}", name(runner), SIZES[at], push + 1)
            });
            let number = Some(at as u32);
            let played =
                runner.rig.play(Pattern::Single { family: Family::Cluster, number, below: 1, every: 0, count: 1 })?;
            sum.server += played.server;
            sum.swarms += played.swarms;
            sum.writes = played.writes.map(|writes| sum.writes.unwrap_or(0) + writes);
            sum.reached += played.outcome.reached;
            sum.last.extend(played.outcome.last.iter().map(|micros| *micros as f64 / 1000.0));
            sum.busy.push(played.busy);
            sum.curve.extend(&played.outcome.latencies);
            sum.played = Some(played);
        }
    }
    for (runner, sum) in runners.iter().zip(&sums) {
        record(bench, runner, sum, at, standing);
        if SIZES[at] == 4096 && repeat == 0 {
            let point = (f64::from(standing), median(&sum.last).unwrap_or(0.0));
            match scaling.iter_mut().find(|line| line.name == name(runner)) {
                Some(line) => line.points.push(point),
                None => scaling.push(Line { name: name(runner), points: vec![point] }),
            }
        }
    }
    if repeat == 0 && SIZES[at] != SIZES[0] {
        draw(bench, runners, &sums, at, standing);
    }
    Ok(())
}

fn draw(bench: &mut Bench<'_>, runners: &[Runner], sums: &[Sum], at: usize, standing: u32) {
    let line = |(runner, sum): (&Runner, &Sum)| {
        let points = Histogram::of(&sum.curve).curve(200).into_iter();
        Line { name: name(runner), points: points.map(|(x, y)| (x / 1000.0, y * 100.0)).collect() }
    };
    bench.results.charts.push(Chart {
        title: format!("fanout: {} B to {standing} sidecars", SIZES[at]),
        x: "ms from the intended time of the change".into(),
        y: "% of sidecars up to date".into(),
        logarithmic: false,
        lines: runners.iter().zip(sums).map(line).collect(),
    });
}

fn place(runner: &Runner, at: usize, standing: u32) -> Place {
    let params = |tls: bool| {
        let params = Params::from([("sidecars".to_owned(), standing.into()), ("bytes".to_owned(), SIZES[at].into())]);
        with(params, "tls", tls)
    };
    let baseline = (runner.mode != Mode::Raw).then(|| (Mode::Raw.name(), params(false)));
    Place { scenario: Scenario::Fanout.name(), mode: runner.mode.name(), params: params(runner.tls), baseline }
}

fn record(bench: &mut Bench<'_>, runner: &Runner, sum: &Sum, at: usize, standing: u32) {
    let place = place(runner, at, standing);
    let cpu = sum.server as f64 / sum.reached.max(1) as f64;
    let last = median(&sum.last).unwrap_or(0.0);
    if sum.played.as_ref().is_some_and(|played| played.seen) {
        bench.add(&place, "server_cpu_per_stream", "us", cpu);
    }
    bench.add(&place, "swarm_cpu_per_stream", "us", sum.swarms as f64 / sum.reached.max(1) as f64);
    if let Some(writes) = sum.writes {
        bench.add(&place, "writes_per_push", "writes", writes as f64 / sum.reached.max(1) as f64);
    }
    bench.add(&place, "last_sidecar", "ms", last);
    let latencies = Histogram::of(&sum.curve);
    for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        let latency = latencies.quantile(q).unwrap_or_default();
        bench.add(&place, &format!("latency_{name}"), "ms", latency.as_secs_f64() * 1000.0);
    }
    if let Some(played) = &sum.played {
        bench.add(&place, "server_rss", "MiB", server_memory(runner, played) as f64 / f64::from(1 << 20));
        // Of all pushes, as each is too short to tell.
        let busy = sum.busy.iter().sum::<f64>() / sum.busy.len().max(1) as f64;
        bench.add(&place, "swarm_busy", "share", busy);
        bench.note_load(&place, &Played { busy, ..played.clone() });
    }
    bench.screen.line(&format!(
        "  fanout · {} · {} B to {standing} sidecars: {cpu:.1} us of server CPU a stream, last sidecar {last:.1} ms",
        name(runner),
        SIZES[at]
    ));
}

fn server_memory(runner: &Runner, played: &Played) -> u64 {
    let memory = if runner.mode == Mode::Relay { played.memory.relay } else { played.memory.source };
    memory.memory
}
