//! What groups, interest and idle streams weigh.

use super::{Bench, Scenario, params, with};
use crate::bench::fleet::Asks;
use crate::bench::mesh::Family;
use crate::bench::plan::Pattern;
use crate::bench::process::BenchError;
use crate::bench::results::Place;
use crate::bench::rig::{Mode, Played, Rig, Setting};
use crate::bench::stock::Contents;

const KIB: f64 = 1024.0;
/// Of a hundred classes each wants its own services.
const CLASSES: u32 = 100;

/// The same change to sidecars of one group, of a group each with equal
/// content, and of a group each that differ.
pub(super) fn groups(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(1000, 200);
    for _ in 0..bench.repeats() {
        let mut one_group = None;
        for (shared, own) in [(true, 0), (false, 0), (false, 1)] {
            let mut setting = Setting { shared, ..bench.crowd(Mode::Relay, sidecars) };
            (setting.shape.services, setting.shape.own) = (1000, own);
            setting.shape.sizes = vec![4096, 300];
            setting.shape.classes = if own > 0 { sidecars } else { 1 };
            setting.rate = 500;
            let place_of = |setting: &Setting, own: u32| with(params(setting), "own_resources", own);
            let alone = place_of(&Setting { shared: true, ..setting.clone() }, 0);
            let baseline = (!shared).then(|| (Mode::Relay.name(), alone));
            let params = place_of(&setting, own);
            let place = Place { scenario: Scenario::Groups.name(), mode: Mode::Relay.name(), params, baseline };
            let what = match (shared, own) {
                (true, _) => "one group",
                (false, 0) => "equal groups",
                (false, _) => "groups that differ",
            };
            bench.screen.live(|| format!("  groups · {what} · {sidecars} sidecars start"));
            let mut rig = Rig::build(setting)?;
            rig.join()?;
            let pattern = Pattern::Single {
                family: Family::Cluster,
                number: Some(0),
                below: 1,
                every: 300_000,
                count: bench.pick(20, 8),
            };
            let played = rig.play(pattern)?;
            bench.record(&place, &played);
            let memory = played.memory.relay.memory as f64;
            match one_group {
                None => one_group = Some(memory),
                Some(one) => bench.add(&place, "rss_per_group", "KiB", (memory - one) / f64::from(sidecars) / KIB),
            }
            bench.screen.line(&format!("  groups · {what}: {:.0} us of CPU a change and sidecar", per_stream(&played)));
        }
    }
    Ok(())
}

fn per_stream(played: &Played) -> f64 {
    played.server as f64 / played.outcome.reached.max(1) as f64
}

/// Endpoints by name: one service that all want, others that a hundredth wants.
pub(super) fn interest(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(10_000, 1000);
    let mut setting = Setting { asks: Asks::Endpoints, ..bench.crowd(Mode::Relay, sidecars) };
    setting.shape.contents = Contents::Mesh;
    setting.shape.services = CLASSES * 10;
    setting.shape.sizes = vec![1024];
    setting.shape.classes = CLASSES;
    setting.rate = 4000;
    bench.screen.live(|| format!("  interest · {sidecars} sidecars start"));
    let base = params(&setting);
    let mut rig = Rig::build(setting)?;
    rig.join()?;
    for _ in 0..bench.repeats() {
        for (wanted, number) in [(100, 0), (1, 7)] {
            let baseline = (wanted < 100).then(|| (Mode::Relay.name(), with(base.clone(), "wanted_by_percent", 100)));
            let params = with(base.clone(), "wanted_by_percent", wanted);
            let place = Place { scenario: Scenario::Interest.name(), mode: Mode::Relay.name(), params, baseline };
            let count = bench.pick(20, 10);
            let pattern =
                Pattern::Single { family: Family::Endpoint, number: Some(number), below: 1, every: 300_000, count };
            let played = rig.play(pattern)?;
            bench.record(&place, &played);
            bench.screen.line(&format!(
                "  interest · wanted by {wanted} %: {:.0} us of CPU a change",
                played.server as f64 / f64::from(count)
            ));
        }
    }
    Ok(())
}

/// Resident memory for each idle stream: after connecting, after 20 pushes of
/// 4 KiB, after 3 of 64 KiB.
pub(super) fn memory(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(10_000, 1000);
    for _ in 0..bench.repeats() {
        for tls in [false, true] {
            let mut setting = Setting { rate: 3000, ..bench.crowd(Mode::Relay, sidecars) };
            setting.shape.sizes = vec![4096, 65_536, 300];
            setting.tls = if tls { Some(bench.certificates()?) } else { None };
            let base = params(&setting);
            let mut rig = Rig::build(setting)?;
            let idle = rig.used()?.relay.memory;
            bench.screen.live(|| format!("  memory · {sidecars} sidecars start"));
            rig.join()?;
            let mut shown = Vec::new();
            for (after, number, pushes) in
                [("connect", 0, 0), ("20 pushes of 4 KiB", 0, 20), ("3 pushes of 64 KiB", 1, 3)]
            {
                if pushes > 0 {
                    let pattern = Pattern::Single {
                        family: Family::Cluster,
                        number: Some(number),
                        below: 1,
                        every: 200_000,
                        count: pushes,
                    };
                    rig.play(pattern)?;
                }
                let each = (rig.used()?.relay.memory as f64 - idle as f64) / f64::from(sidecars) / KIB;
                let place = Place {
                    scenario: Scenario::Memory.name(),
                    mode: Mode::Relay.name(),
                    params: with(base.clone(), "after", after),
                    baseline: None,
                };
                bench.add(&place, "rss_per_stream", "KiB", each);
                shown.push(format!("{each:.1} KiB after {after}"));
            }
            bench.screen.line(&format!("  memory · tls {tls}: {}", shown.join(", ")));
        }
    }
    Ok(())
}
