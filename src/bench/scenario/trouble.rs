//! Those who make trouble, and what the others notice: readers that do not
//! read, sidecars that reject, a control plane that is gone.

use super::{Bench, Scenario, params, with};
use crate::bench::mesh::Family;
use crate::bench::now;
use crate::bench::part::Order;
use crate::bench::plan::Pattern;
use crate::bench::process::BenchError;
use crate::bench::results::Place;
use crate::bench::rig::{Mode, Rig, Setting, Used};
use crate::bench::wan::Outage;
use std::time::{Duration, Instant};

const MIB: f64 = (1 << 20) as f64;

/// Ten changes a second of 4 KiB each.
fn changes(count: u32) -> Pattern {
    Pattern::Single { family: Family::Cluster, number: None, below: 10, every: 100_000, count }
}

/// The same with and without: of 100 sidecars of one group, ten read nothing.
pub(super) fn slow(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    with_and_without(bench, Scenario::Slow, "slow_percent", 10, |setting, percent| Setting {
        slow_percent: percent,
        ..setting
    })
}

/// The same with and without: of 100 sidecars with a group each, one rejects
/// whatever changes.
pub(super) fn nack(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    with_and_without(bench, Scenario::Nack, "nack_percent", 1, |setting, percent| Setting {
        nack_percent: percent,
        shared: false,
        ..setting
    })
}

fn with_and_without(
    bench: &mut Bench<'_>,
    scenario: Scenario,
    name: &'static str,
    percent: u32,
    adapt: impl Fn(Setting, u32) -> Setting,
) -> Result<(), BenchError> {
    // Groups of their own start at 50 a second.
    let sidecars = bench.sidecars(1000, if scenario == Scenario::Nack { 100 } else { 300 });
    for _ in 0..bench.repeats() {
        for percent in [0, percent] {
            for mode in bench.modes(&[Mode::Direct, Mode::Relay]) {
                let mut setting = adapt(bench.crowd(mode, sidecars), percent);
                setting.shape.sizes = vec![4096];
                let without = with(params(&setting), name, 0);
                let baseline = (percent > 0).then(|| (mode.name(), without));
                let params = with(params(&setting), name, percent);
                let place = Place { scenario: scenario.name(), mode: mode.name(), params, baseline };
                beside(bench, scenario, percent, setting, &place)?;
            }
        }
    }
    Ok(())
}

/// What those notice who make no trouble.
fn beside(
    bench: &mut Bench<'_>,
    scenario: Scenario,
    percent: u32,
    setting: Setting,
    place: &Place,
) -> Result<(), BenchError> {
    let (mode, sidecars) = (setting.mode, setting.sidecars);
    bench.screen.live(|| format!("  {} · {} · {percent} % of {sidecars} sidecars", scenario.name(), mode.name()));
    let mut rig = Rig::build(setting)?;
    rig.join()?;
    // What comes first is not what is compared.
    rig.play(changes(10))?;
    let of = |used: &Used| if mode == Mode::Relay { used.relay } else { used.source };
    let before = of(&rig.used()?).memory;
    rig.order_swarms(&Order::Slow { rate: Some(0) })?;
    let played = rig.play(changes(bench.pick(50, 30)))?;
    bench.record(place, &played);
    let grown = of(&played.memory).memory as f64 - before as f64;
    // Of a server that is not ours nothing is known.
    if played.seen {
        bench.add(
            place,
            if mode == Mode::Relay { "outpost_rss_growth" } else { "server_rss_growth" },
            "MiB",
            grown / MIB,
        );
    }
    let rejected = played.counts.nacks as f64 / f64::from(played.outcome.changes);
    bench.add(place, "nacks_per_change", "nacks", rejected);
    bench.screen.line(&format!(
        "  {} · {} · {percent} %: p99 of the others {:.2} ms, memory of what serves them {:+.1} MiB",
        scenario.name(),
        mode.name(),
        played.latencies().quantile(0.99).unwrap_or_default().as_secs_f64() * 1000.0,
        grown / MIB
    ));
    Ok(())
}

/// The WAN is cut; sidecars come meanwhile; it is back, with one change.
pub(super) fn outage(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    for _ in 0..bench.repeats() {
        for (mode, shared) in [(Mode::Direct, false), (Mode::Relay, false), (Mode::Relay, true)] {
            if bench.modes(&[Mode::Direct, Mode::Relay]).contains(&mode) {
                outage_once(bench, mode, shared)?;
            }
        }
    }
    Ok(())
}

fn outage_once(bench: &mut Bench<'_>, mode: Mode, shared: bool) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(100, 30);
    let (new, span) = ((sidecars / 5).max(1), Duration::from_secs(bench.pick(60, 5)));
    let setting = Setting { shared, keep: true, ..bench.setting(mode, sidecars) };
    let of = |shared: bool| with(params(&Setting { shared, ..setting.clone() }), "outage_seconds", span.as_secs());
    let baseline = (mode != Mode::Direct).then(|| (Mode::Direct.name(), of(false)));
    let place = Place { scenario: Scenario::Outage.name(), mode: mode.name(), params: of(shared), baseline };
    let what = format!("{} · {}", mode.name(), if shared { "one group" } else { "a group each" });
    bench.screen.live(|| format!("  outage · {what} · {sidecars} sidecars start"));
    let mut rig = Rig::build(setting)?;
    rig.join()?;
    let before = rig.counts()?;
    rig.order_wan(&Order::Cut(Outage::Silence))?;
    bench.screen.live(|| format!("  outage · {what} · the WAN is cut, {new} sidecars come"));
    let cut = Instant::now();
    rig.add_swarm(new, false, None)?;
    now::sleep(span.saturating_sub(cut.elapsed()));
    let during = rig.counts()?;
    // It is due when the WAN is back.
    let below = bench.options.services;
    let begun = rig.begin(Pattern::Single { family: Family::Endpoint, number: None, below, every: 0, count: 1 })?;
    rig.order_wan(&Order::Heal)?;
    let played = rig.finish(begun)?;
    let joined = during.complete.saturating_sub(before.complete);
    bench.add(&place, "joins_failed", "sidecars", f64::from(new.saturating_sub(joined)));
    bench.add(&place, "streams_lost", "streams", during.lost.saturating_sub(before.lost) as f64);
    let caught_up = played.outcome.last.first().copied().unwrap_or(0) as f64 / 1000.0;
    bench.add(&place, "caught_up", "ms", caught_up);
    bench.screen.line(&format!(
        "  outage · {what}: {joined} of {new} new sidecars were served; caught up {caught_up:.0} ms after the WAN was back"
    ));
    Ok(())
}
