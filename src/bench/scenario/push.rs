//! Changes on their way to sidecars that are there: one by one, in bursts, all
//! at once, by either variant.

use super::{Bench, NEAR, Scenario, against_direct, params, with};
use crate::bench::fleet::SerialVariant;
use crate::bench::histogram::Histogram;
use crate::bench::link::Preset;
use crate::bench::mesh::Family;
use crate::bench::plan::Pattern;
use crate::bench::process::BenchError;
use crate::bench::results::{Chart, Line, Place, median};
use crate::bench::rig::{Mode, Played, Rig, Setting};
use crate::bench::tun::{self, Rough};

const MODES: [Mode; 2] = [Mode::Direct, Mode::Relay];

/// One change after the other: near and with one sidecar, and far with many.
pub(super) fn steady(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let many = bench.sidecars(200, 60);
    for (sidecars, near) in [(1, true), (many, false)] {
        let pattern = one_by_one(bench.options.services, bench.pick(40, 30));
        run(bench, Scenario::Steady, &pattern, sidecars, |setting| Setting {
            wan: Some(if near { NEAR } else { setting.wan.unwrap_or(NEAR) }),
            tun: setting.tun.filter(|_| !near),
            ..setting
        })?;
    }
    // Losses that were asked for are measured already, or cannot be.
    let elsewhere = bench.options.rough().is_some() || bench.options.relay.is_some();
    if elsewhere { Ok(()) } else { lossy(bench) }
}

fn one_by_one(below: u32, count: u32) -> Pattern {
    Pattern::Single { family: Family::Endpoint, number: None, below, every: 100_000, count }
}

/// The same over a WAN that loses packets: one in a hundred, answered by either
/// congestion control, and the worst that has a name. There are few sidecars, and
/// few clusters: at such rates a connection takes 100 to 200 KB/s, whatever the
/// bandwidth, and all groups of an Outpost share two.
fn lossy(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let wan = bench.options.wan;
    let of = |lost, congestion: &str| Rough { lost, overtaken: 0, congestion: Some(congestion.to_owned()) };
    let mut cases = vec![(wan, 10, of(10_000, "cubic"))];
    if !bench.options.quick {
        cases.push((wan, 10, of(10_000, "bbr")));
        let (lost, overtaken) = Preset::Bad.rough();
        cases.push((Preset::Bad, 5, Rough { lost, overtaken, congestion: Some("cubic".to_owned()) }));
    }
    let usable = tun::usable();
    let known = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control").unwrap_or_default();
    let services = bench.options.services.min(50);
    let pattern = one_by_one(services, bench.pick(20, 30));
    for (wan, sidecars, rough) in cases {
        let sidecars = bench.options.sidecars.unwrap_or(sidecars);
        let congestion = rough.congestion.clone().unwrap_or_default();
        let why = match &usable {
            Err(error) => Some(error.to_string()),
            Ok(()) if known.split_whitespace().all(|name| name != congestion) => {
                Some(format!("this kernel has no congestion control {congestion}"))
            }
            Ok(()) => None,
        };
        let adapt = |mut setting: Setting| {
            setting.shape.services = services;
            Setting { wan: Some(wan), tun: Some(rough.clone()), ..setting }
        };
        let Some(why) = why else {
            run(bench, Scenario::Steady, &pattern, sidecars, adapt)?;
            continue;
        };
        for mode in bench.modes(&MODES) {
            let params = with(params(&adapt(bench.setting(mode, sidecars))), "changes", changes(&pattern));
            bench.results.missing(&against_direct(Scenario::Steady, mode, params), "latency_p99", "ms", &why);
        }
    }
    Ok(())
}

/// 50 changes within 100 ms, time and again. With a group for each sidecar all parts
/// together take 40 µs of CPU for each change and sidecar: no more of them than two
/// cores can serve meanwhile, or it is the machine that is measured.
pub(super) fn burst(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let (every, bursts) = (1_000_000, bench.pick(4, 3));
    let below = bench.options.services;
    let pattern = Pattern::Burst { family: Family::Endpoint, below, within: 100_000, size: 50, every, bursts };
    let sidecars = bench.sidecars(40, 20);
    run(bench, Scenario::Burst, &pattern, sidecars, |setting| setting)
}

/// Every cluster and every assignment at once.
pub(super) fn large(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let pattern = Pattern::Whole { every: 2_000_000, count: bench.pick(3, 2) };
    // A round of these takes the bandwidth of a continent for 1.3 s.
    let sidecars = bench.sidecars(60, 30);
    run(bench, Scenario::Large, &pattern, sidecars, |mut setting| {
        setting.shape.services *= 2;
        setting
    })
}

/// The same changes by delta and by SotW, on both sides of Outpost.
pub(super) fn variants(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(100, 30);
    let below = bench.options.services;
    let pattern =
        Pattern::Single { family: Family::Cluster, number: None, below, every: 200_000, count: bench.pick(20, 15) };
    for variant in [SerialVariant::Delta, SerialVariant::Sotw] {
        run(bench, Scenario::DeltaVsSotw, &pattern, sidecars, |setting| Setting { variant, ..setting })?;
    }
    Ok(())
}

/// Each mode in turn, as often as is asked for.
fn run(
    bench: &mut Bench<'_>,
    scenario: Scenario,
    pattern: &Pattern,
    sidecars: u32,
    adapt: impl Fn(Setting) -> Setting,
) -> Result<(), BenchError> {
    let mut drawn: Vec<(String, Histogram, Histogram)> = Vec::new();
    for repeat in 0..bench.repeats() {
        let mut direct = None;
        for mode in bench.modes(&MODES) {
            let mut setting = adapt(bench.setting(mode, sidecars));
            // One sidecar is there to tell what Outpost adds, and nothing else.
            setting.stages = mode == Mode::Relay && sidecars > 1;
            let params = with(params(&setting), "changes", changes(pattern));
            let place = against_direct(scenario, mode, params);
            bench.screen.live(|| format!("  {} · {} · {sidecars} sidecars start", scenario.name(), mode.name()));
            let mut rig = Rig::build(setting)?;
            rig.join()?;
            bench.screen.live(|| format!("  {} · {} · changes go out", scenario.name(), mode.name()));
            let played = rig.play(pattern.clone())?;
            bench.record(&place, &played);
            stages(bench, &place, &played);
            let half = played.latencies().quantile(0.5).unwrap_or_default().as_secs_f64() * 1000.0;
            match mode {
                Mode::Direct => direct = Some(half),
                _ => direct.iter().for_each(|direct| bench.add(&place, "added_latency_p50", "ms", half - direct)),
            }
            bench.screen.line(&summary(scenario, mode, sidecars, repeat, &played));
            if repeat == 0 {
                let curve = Histogram::of(&played.outcome.curve);
                drawn.push((mode.name().to_owned(), played.latencies(), curve));
            }
        }
    }
    draw(bench, scenario, sidecars, &drawn);
    Ok(())
}

fn changes(pattern: &Pattern) -> u32 {
    match *pattern {
        Pattern::Single { count, .. } => count,
        Pattern::Burst { size, bursts, .. } => size * bursts,
        Pattern::Whole { count, .. } => count * 2,
    }
}

fn draw(bench: &mut Bench<'_>, scenario: Scenario, sidecars: u32, drawn: &[(String, Histogram, Histogram)]) {
    if drawn.len() < 2 {
        return;
    }
    let line = |name: &String, histogram: &Histogram| {
        let points = histogram.curve(200).into_iter().map(|(micros, share)| (micros / 1000.0, share * 100.0));
        Line { name: name.clone(), points: points.collect() }
    };
    let x = "ms from the intended time of the change".to_owned();
    bench.results.charts.push(Chart {
        title: format!("{}: latency of {sidecars} sidecars", scenario.name()),
        x: x.clone(),
        y: "% of deliveries".into(),
        logarithmic: true,
        lines: drawn.iter().map(|(name, latencies, _)| line(name, latencies)).collect(),
    });
    if sidecars > 1 {
        bench.results.charts.push(Chart {
            title: format!("{}: who has the last change when", scenario.name()),
            x,
            y: "% of sidecars up to date".into(),
            logarithmic: false,
            lines: drawn.iter().map(|(name, _, curve)| line(name, curve)).collect(),
        });
    }
}

/// Where in Outpost the time went: medians over changes.
fn stages(bench: &mut Bench<'_>, place: &Place, played: &Played) {
    let due: Vec<(u32, u64)> = played.plan.changes().iter().map(|change| (change.seq, change.at)).collect();
    let mut spans: [(&str, Vec<f64>); 5] =
        ["received", "committed", "first_written", "written", "answered"].map(|name| (name, Vec::new()));
    for stage in &played.stages {
        let Some((_, at)) = stage.label.parse().ok().and_then(|seq: u32| due.iter().find(|(of, _)| *of == seq)) else {
            continue;
        };
        let moments = [Some(stage.received), Some(stage.committed), stage.first_written, stage.written, stage.answered];
        for ((_, spans), moment) in spans.iter_mut().zip(moments) {
            spans.extend(moment.map(|moment| moment.saturating_sub(*at) as f64 / 1000.0));
        }
    }
    for (name, spans) in &spans {
        if let Some(median) = median(spans) {
            bench.add(place, &format!("stage_{name}"), "ms", median);
        }
    }
}

fn summary(scenario: Scenario, mode: Mode, sidecars: u32, repeat: u32, played: &Played) -> String {
    let latencies = played.latencies();
    let millis = |q| latencies.quantile(q).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0);
    let last: Vec<f64> = played.outcome.last.iter().map(|micros| *micros as f64 / 1000.0).collect();
    format!(
        "  {} · {} · {sidecars} sidecars · run {}: {} changes, p50 {:.2} ms, p99 {:.2} ms, last sidecar {:.2} ms (median); WAN {:.1} KB down",
        scenario.name(),
        mode.name(),
        repeat + 1,
        played.outcome.changes,
        millis(0.5),
        millis(0.99),
        median(&last).unwrap_or(0.0),
        played.traffic.down as f64 / 1000.0
    )
}
