//! Sidecars that come and go: new ones, all at once, and all the time.

use super::{Bench, Scenario, against_direct, params, sync, with};
use crate::bench::histogram::Histogram;
use crate::bench::mesh::Family;
use crate::bench::now;
use crate::bench::part::Order;
use crate::bench::plan::Pattern;
use crate::bench::process::BenchError;
use crate::bench::results::{Chart, Line, Place};
use crate::bench::rig::{Mode, Rig, Setting};
use crate::bench::wan::Outage;
use std::time::{Duration, Instant};

const MODES: [Mode; 2] = [Mode::Direct, Mode::Relay];
const MIB: f64 = (1 << 20) as f64;

/// New sidecars, so many a second, beside some that are there.
pub(super) fn join(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let mut drawn = Vec::new();
    for repeat in 0..bench.repeats() {
        for (mode, shared) in [(Mode::Direct, false), (Mode::Relay, false), (Mode::Relay, true)] {
            if bench.modes(&MODES).contains(&mode) {
                let line = join_once(bench, mode, shared)?;
                drawn.extend((repeat == 0).then_some(line));
            }
        }
    }
    bench.results.charts.push(Chart {
        title: "join: until a new sidecar has everything".into(),
        x: "ms from its start".into(),
        y: "% of new sidecars".into(),
        logarithmic: true,
        lines: drawn,
    });
    sync::run(bench)
}

/// How many had everything by when.
fn join_once(bench: &mut Bench<'_>, mode: Mode, shared: bool) -> Result<Line, BenchError> {
    let (there, new) = (bench.sidecars(100, 20), bench.sidecars(120, 40));
    let rate = bench.pick(40, 20);
    let setting = Setting { shared, ..bench.setting(mode, new) };
    let of = |shared: bool| with(params(&Setting { shared, ..setting.clone() }), "rate", rate);
    let baseline = (mode != Mode::Direct).then(|| (Mode::Direct.name(), of(false)));
    let place = Place { scenario: Scenario::Join.name(), mode: mode.name(), params: of(shared), baseline };
    bench.screen.live(|| format!("  join · {} · {there} sidecars start", mode.name()));
    let mut rig = Rig::build(setting)?;
    rig.join_more(there)?;
    rig.setting.rate = rate;
    let (used, traffic) = (rig.used()?, rig.traffic()?);
    bench.screen.live(|| format!("  join · {} · {new} new sidecars, {rate} a second", mode.name()));
    rig.add_swarm(new, true, None)?;
    rig.complete()?;
    let (after, traffic_after) = (rig.used()?, rig.traffic()?);
    let times = Histogram::of(&rig.last_joins()?);
    let millis = |q| times.quantile(q).unwrap_or_default().as_secs_f64() * 1000.0;
    for (name, q) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)] {
        bench.add(&place, &format!("join_{name}"), "ms", millis(q));
    }
    let each = |after: u64, before: u64| after.saturating_sub(before) as f64 / f64::from(new);
    let server = match mode {
        Mode::Relay => each(after.relay.cpu, used.relay.cpu),
        _ => each(after.source.cpu, used.source.cpu),
    };
    // Of a server that is not ours nothing is known.
    if server > 0.0 {
        bench.add(&place, "server_cpu_per_join", "us", server);
    }
    bench.add(&place, "wan_down_per_join", "bytes", each(traffic_after.down, traffic.down));
    let group = if shared { "one group" } else { "a group each" };
    bench.screen.line(&format!(
        "  join · {} · {group}: p50 {:.1} ms, slowest {:.1} ms",
        mode.name(),
        millis(0.5),
        millis(1.0)
    ));
    let name = if mode == Mode::Direct { "direct".to_owned() } else { format!("relay, {group}") };
    Ok(Line { name, points: times.curve(200).into_iter().map(|(x, y)| (x / 1000.0, y * 100.0)).collect() })
}

/// Outpost is killed and started again; everybody comes back and states what
/// it holds. In sync is who has a change that was made meanwhile.
pub(super) fn herd(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(10_000, 1000);
    for _ in 0..bench.repeats() {
        for (mode, tls) in [(Mode::Direct, false), (Mode::Relay, false), (Mode::Relay, true)] {
            if !bench.modes(&MODES).contains(&mode) {
                continue;
            }
            herd_once(bench, mode, tls, sidecars)?;
        }
    }
    Ok(())
}

fn herd_once(bench: &mut Bench<'_>, mode: Mode, tls: bool, sidecars: u32) -> Result<(), BenchError> {
    let mut setting = Setting { keep: true, wan: Some(super::NEAR), rate: 4000, ..bench.crowd(mode, sidecars) };
    setting.shape.services = 100;
    let direct = params(&setting);
    setting.tls = if tls { Some(bench.certificates()?) } else { None };
    let baseline = (mode != Mode::Direct).then(|| (Mode::Direct.name(), direct));
    let place = Place { scenario: Scenario::Herd.name(), mode: mode.name(), params: params(&setting), baseline };
    let what = format!("{}{} · {sidecars} sidecars", mode.name(), if tls { " with TLS" } else { "" });
    bench.screen.live(|| format!("  herd · {what} start"));
    let changes = setting.upstream.is_none();
    let mut rig = Rig::build(setting)?;
    rig.join()?;
    let (steady, counts) = (rig.used()?, rig.counts()?);
    bench.screen.live(|| format!("  herd · {what} come back"));
    if mode == Mode::Relay {
        rig.kill_relay()
    } else {
        rig.order_wan(&Order::Cut(Outage::Reset))?
    }
    let last = match changes {
        true => with_a_change(bench, &mut rig, &place)?,
        false => {
            let begin = Instant::now();
            restore(&mut rig)?;
            rig.come_back(sidecars, counts.lost)?;
            begin.elapsed()
        }
    };
    bench.add(&place, "in_sync_last", "ms", last.as_secs_f64() * 1000.0);
    let again = rig.counts()?;
    let each = |of: u64, before: u64| (of.saturating_sub(before)) as f64 / f64::from(sidecars);
    let change = f64::from(u8::from(changes));
    bench.add(&place, "resources_sent_again", "resources", each(again.resources, counts.resources) - change);
    bench.add(&place, "bytes_sent_again", "bytes", each(again.bytes, counts.bytes));
    bench.add(&place, "streams_lost", "streams", each(again.lost, counts.lost));
    let used = rig.used()?;
    if mode == Mode::Relay {
        bench.add(&place, "outpost_rss_steady", "MiB", steady.relay.memory as f64 / MIB);
        bench.add(&place, "outpost_rss_peak", "MiB", used.relay.peak as f64 / MIB);
    }
    // Outpost began anew, so that its CPU is all of the herd.
    let cpu = if mode == Mode::Relay { used.relay.cpu } else { used.source.cpu.saturating_sub(steady.source.cpu) };
    if cpu > 0 {
        bench.add(&place, "server_cpu_per_stream", "us", cpu as f64 / f64::from(sidecars));
    }
    bench.screen.line(&format!("  herd · {what}: in sync after {:.2} s", last.as_secs_f64()));
    Ok(())
}

/// What they come back to is there again.
fn restore(rig: &mut Rig) -> Result<(), BenchError> {
    if rig.setting.mode == Mode::Relay { rig.revive_relay() } else { rig.order_wan(&Order::Heal) }
}

/// A change is made while nobody is there to hear it; until everybody has it.
fn with_a_change(bench: &mut Bench<'_>, rig: &mut Rig, place: &Place) -> Result<Duration, BenchError> {
    let begun = rig.begin(Pattern::Single { family: Family::Cluster, number: None, below: 100, every: 0, count: 1 })?;
    restore(rig)?;
    let played = rig.finish(begun)?;
    let latencies = played.latencies();
    for (name, q) in [("p50", 0.5), ("p99", 0.99)] {
        let time = latencies.quantile(q).unwrap_or_default();
        bench.add(place, &format!("in_sync_{name}"), "ms", time.as_secs_f64() * 1000.0);
    }
    bench.note_load(place, &played);
    Ok(latencies.max())
}

/// A share of the sidecars comes and leaves, time and again, while changes go on for the others.
pub(super) fn churn(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(120, 60);
    for _ in 0..bench.repeats() {
        for share in [0, 25, 50] {
            for mode in bench.modes(&MODES) {
                churn_once(bench, mode, sidecars, share)?;
            }
        }
    }
    Ok(())
}

fn churn_once(bench: &mut Bench<'_>, mode: Mode, sidecars: u32, share: u32) -> Result<(), BenchError> {
    let leaving = sidecars * share / 100;
    let setting = Setting { rate: 400, ..bench.setting(mode, sidecars) };
    let place = against_direct(Scenario::Churn, mode, with(params(&setting), "churn_percent", share));
    bench.screen.live(|| format!("  churn · {} · {share} % of {sidecars} sidecars leave and come", mode.name()));
    let mut rig = Rig::build(setting)?;
    rig.join_more(sidecars - leaving)?;
    // Each round takes two seconds, in which there are twenty changes.
    let (rounds, every) = (1, 100_000);
    let count = rounds * 20;
    let below = bench.options.services;
    let begun = rig.begin(Pattern::Single { family: Family::Endpoint, number: None, below, every, count })?;
    let begin = Instant::now();
    for round in 0..rounds {
        if leaving > 0 {
            rig.add_swarm(leaving, false, None)?;
        }
        let until = begin + Duration::from_secs(2 * (u64::from(round) + 1));
        now::sleep(until.saturating_duration_since(Instant::now()));
        if leaving > 0 {
            rig.drop_swarm();
        }
    }
    let played = rig.finish(begun)?;
    bench.record(&place, &played);
    bench.screen.line(&format!(
        "  churn · {} · {share} %: p99 of those who stay {:.2} ms",
        mode.name(),
        played.latencies().quantile(0.99).unwrap_or_default().as_secs_f64() * 1000.0
    ));
    Ok(())
}

/// Changes and churn, for as long as is asked for: what grows?
pub(super) fn soak(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(200, 60);
    let setting = Setting { rate: 400, ..bench.setting(Mode::Relay, sidecars) };
    let leaving = sidecars / 4;
    let seconds = bench.pick(bench.options.seconds, bench.options.seconds.min(20));
    let params = with(params(&setting), "seconds", seconds);
    let place = Place { scenario: Scenario::Soak.name(), mode: Mode::Relay.name(), params, baseline: None };
    let mut rig = Rig::build(setting)?;
    rig.join_more(sidecars - leaving)?;
    let below = bench.options.services;
    let (begin, mut points) = (Instant::now(), Vec::new());
    while begin.elapsed().as_secs() < seconds {
        rig.add_swarm(leaving, false, None)?;
        let pattern = Pattern::Single { family: Family::Endpoint, number: None, below, every: 100_000, count: 50 };
        let played = rig.play(pattern)?;
        rig.drop_swarm();
        let memory = played.memory.relay.memory as f64 / MIB;
        points.push((begin.elapsed().as_secs_f64(), memory));
        bench.add(
            &place,
            "latency_p99",
            "ms",
            played.latencies().quantile(0.99).unwrap_or_default().as_secs_f64() * 1000.0,
        );
        bench.screen.live(|| format!("  soak · {:.0} s: Outpost has {memory:.1} MiB", begin.elapsed().as_secs_f64()));
    }
    // The first quarter fills caches.
    let settled = points.get(points.len() / 4..).unwrap_or_default();
    bench.add(&place, "outpost_rss", "MiB", points.last().map_or(0.0, |point| point.1));
    bench.add(&place, "outpost_rss_slope", "MiB an hour", slope(settled) * 3600.0);
    bench.screen.line(&format!("  soak · Outpost's memory grows by {:.2} MiB an hour", slope(settled) * 3600.0));
    bench.results.charts.push(Chart {
        title: "soak: memory of Outpost".into(),
        x: "s".into(),
        y: "MiB resident".into(),
        logarithmic: false,
        lines: vec![Line { name: "outpost".into(), points }],
    });
    Ok(())
}

/// Of the line that is nearest to the points.
fn slope(points: &[(f64, f64)]) -> f64 {
    let count = points.len().max(1) as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let spread: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    let together: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    if spread > 0.0 { together / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::slope;

    #[test]
    fn slopes() {
        assert_eq!(slope(&[]), 0.0);
        assert_eq!(slope(&[(1.0, 5.0)]), 0.0);
        assert!((slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]) - 2.0).abs() < 1e-9);
    }
}
