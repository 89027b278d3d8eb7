//! New sidecars all at once: how many streams a second get their first answer,
//! beside a server that knows HTTP/2 and nothing else.

use super::{Bench, Scenario, params, with};
use crate::bench::process::BenchError;
use crate::bench::results::Place;
use crate::bench::rig::{Mode, Rig, Setting};

/// Whose content is ours, and so known.
const MODES: [Mode; 2] = [Mode::Relay, Mode::Tonic];

/// Ten resources for many, which is mostly connecting, and ten thousand, 3 MB, for fewer.
pub(super) fn run(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    if bench.options.upstream.is_some() {
        return of_another(bench);
    }
    let cases = [(bench.sidecars(10_000, 1000), 10), (bench.sidecars(500, 100), 10_000)];
    for _ in 0..bench.repeats() {
        for (sidecars, resources) in cases {
            // What it is compared with is always measured beside.
            let mut modes = bench.modes(&MODES);
            modes.push(Mode::H2);
            for mode in modes {
                let mut setting = bench.crowd(mode, sidecars);
                setting.shape.services = resources;
                setting.shape.sizes = vec![300];
                once(bench, setting, Mode::H2)?;
            }
        }
    }
    Ok(())
}

/// Clusters of a control plane that is not ours: through Outpost, and over the WAN.
fn of_another(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(1000, 100);
    for _ in 0..bench.repeats() {
        for mode in bench.modes(&[Mode::Direct, Mode::Relay]) {
            let setting = Setting { wan: Some(bench.options.wan), ..bench.crowd(mode, sidecars) };
            once(bench, setting, Mode::Direct)?;
        }
    }
    Ok(())
}

fn once(bench: &mut Bench<'_>, setting: Setting, baseline: Mode) -> Result<(), BenchError> {
    let (mode, sidecars) = (setting.mode, setting.sidecars);
    let params = with(params(&setting), "all_at_once", true);
    let baseline = (mode != baseline).then(|| (baseline.name(), params.clone()));
    let place = Place { scenario: Scenario::Join.name(), mode: mode.name(), params, baseline };
    let resources =
        if setting.upstream.is_some() { String::new() } else { format!(" {} resources,", setting.shape.services) };
    bench.screen.live(|| format!("  join · {} ·{resources} {sidecars} sidecars at once", mode.name()));
    let mut rig = Rig::build(setting)?;
    // The first brings the content; nobody else waits for that.
    rig.join_more(1)?;
    rig.setting.rate = u32::MAX;
    let before = rig.used()?;
    rig.add_swarm(sidecars, true, None)?;
    rig.complete()?;
    let seconds = rig.since_add().as_secs_f64();
    let after = rig.used()?;
    let rate = f64::from(sidecars) / seconds;
    bench.add(&place, "first_sync_rate", "streams/s", rate);
    let server = match mode {
        Mode::Relay => after.relay.cpu.saturating_sub(before.relay.cpu),
        _ => after.source.cpu.saturating_sub(before.source.cpu),
    };
    // Of a server that is not ours nothing is known.
    if server > 0 {
        bench.add(&place, "server_cpu_per_join", "us", server as f64 / f64::from(sidecars));
    }
    let busy = after.swarm.cpu as f64 / (seconds * 1_000_000.0);
    bench.add(&place, "swarm_busy", "share", busy);
    bench.note_busy(&place, busy);
    bench.screen.line(&format!(
        "  join · {} ·{resources} {sidecars} sidecars at once: {rate:.0} streams a second",
        mode.name()
    ));
    Ok(())
}
