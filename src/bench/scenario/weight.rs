//! What groups, interest and idle streams weigh.

use super::{Bench, Scenario, params, with};
use crate::bench::fleet::{Asks, SerialVariant};
use crate::bench::mesh::Family;
use crate::bench::part::Order;
use crate::bench::plan::Pattern;
use crate::bench::process::BenchError;
use crate::bench::results::Place;
use crate::bench::rig::{Mode, Played, Rig, Setting, Used};
use crate::bench::stock::Contents;
use crate::bench::wan::Outage;

const KIB: f64 = 1024.0;
/// Of a hundred classes each wants its own services.
const CLASSES: u32 = 100;

/// The same change to sidecars of one group, of a group each with equal
/// content, and of a group each that differ.
pub(super) fn groups(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(1000, 100);
    for _ in 0..bench.repeats() {
        for own in [0, 1] {
            if bench.modes(&[Mode::Direct]).is_empty() {
                continue;
            }
            let setting = of_groups(bench, Mode::Direct, sidecars, false, own);
            let params = with(params(&setting), "own_resources", own);
            let place = Place { scenario: Scenario::Groups.name(), mode: Mode::Direct.name(), params, baseline: None };
            let played = change_one(bench, &mut Rig::build(setting)?)?;
            bench.record(&place, &played);
            bench.screen.line(&format!(
                "  groups · direct, {own} resources of its own: {:.0} us of CPU a change and sidecar",
                per_stream(&played)
            ));
        }
        if bench.modes(&[Mode::Relay]).is_empty() {
            continue;
        }
        let mut one_group = None;
        for (shared, own) in [(true, 0), (false, 0), (false, 1)] {
            let setting = of_groups(bench, Mode::Relay, sidecars, shared, own);
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
            let played = change_one(bench, &mut rig)?;
            bench.record(&place, &played);
            let memory = played.memory.relay.memory as f64;
            match one_group {
                None => one_group = Some(memory),
                Some(one) => bench.add(&place, "rss_per_group", "KiB", (memory - one) / f64::from(sidecars) / KIB),
            }
            bench.screen.line(&format!("  groups · {what}: {:.0} us of CPU a change and sidecar", per_stream(&played)));
            if !shared {
                resync(bench, &mut rig, &place, what)?;
            }
        }
    }
    if bench.modes(&[Mode::Relay]).is_empty() { Ok(()) } else { resources(bench) }
}

/// A thousand clusters, of which one changes.
fn of_groups(bench: &Bench<'_>, mode: Mode, sidecars: u32, shared: bool, own: u32) -> Setting {
    let mut setting = Setting { shared, wan: Some(super::NEAR), rate: 500, ..bench.crowd(mode, sidecars) };
    (setting.shape.services, setting.shape.own) = (1000, own);
    setting.shape.sizes = vec![4096, 300];
    setting.shape.classes = if own > 0 { sidecars } else { 1 };
    setting
}

/// Everybody joins, then it changes time and again.
fn change_one(bench: &Bench<'_>, rig: &mut Rig) -> Result<Played, BenchError> {
    rig.join()?;
    let count = bench.pick(20, 6);
    rig.play(Pattern::Single { family: Family::Cluster, number: Some(0), below: 1, every: 300_000, count })
}

/// The WAN is cut and back: when has every group a change that was made meanwhile?
fn resync(bench: &mut Bench<'_>, rig: &mut Rig, place: &Place, what: &str) -> Result<(), BenchError> {
    rig.order_wan(&Order::Cut(Outage::Reset))?;
    let pattern = Pattern::Single { family: Family::Cluster, number: Some(0), below: 1, every: 0, count: 1 };
    let begun = rig.begin(pattern)?;
    rig.order_wan(&Order::Heal)?;
    let played = rig.finish(begun)?;
    let last = played.latencies().max().as_secs_f64();
    bench.add(place, "in_sync_after_reconnect", "ms", last * 1000.0);
    bench.screen.line(&format!("  groups · {what}: all in sync {last:.1} s after the WAN was back"));
    Ok(())
}

/// The same change where there are few resources beside it, and where there are many.
fn resources(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let many = bench.sidecars(1000, 100);
    let mut cases = vec![(many, 100), (many, 10_000)];
    if !bench.options.quick {
        cases.extend([(10, 1000), (10, 100_000)]);
    }
    for _ in 0..bench.repeats() {
        for (turn, (sidecars, services)) in cases.iter().copied().enumerate() {
            let mut setting = bench.crowd(Mode::Relay, sidecars);
            setting.shape.services = services;
            setting.shape.sizes = vec![300];
            let few = cases.get(turn & !1).map_or(services, |(_, services)| *services);
            let baseline = (few != services).then(|| {
                let mut setting = setting.clone();
                setting.shape.services = few;
                (Mode::Relay.name(), params(&setting))
            });
            let place = Place {
                scenario: Scenario::Groups.name(),
                mode: Mode::Relay.name(),
                params: params(&setting),
                baseline,
            };
            bench.screen.live(|| format!("  groups · {services} resources · {sidecars} sidecars start"));
            let mut rig = Rig::build(setting)?;
            rig.join()?;
            let count = bench.pick(20, 8);
            let pattern = Pattern::Single { family: Family::Cluster, number: Some(0), below: 1, every: 200_000, count };
            // What is done once is not what is compared.
            rig.play(pattern.clone())?;
            let played = rig.play(pattern)?;
            bench.record(&place, &played);
            bench.screen.line(&format!(
                "  groups · {services} resources: {:.1} us of CPU a change and sidecar",
                per_stream(&played)
            ));
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
    let mut rigs = Vec::new();
    for mode in bench.modes(&[Mode::Direct, Mode::Relay]) {
        let mut setting = Setting { asks: Asks::Endpoints, rate: 4000, ..bench.crowd(mode, sidecars) };
        setting.shape.contents = Contents::Mesh;
        setting.shape.services = CLASSES * 10;
        setting.shape.sizes = vec![1024];
        setting.shape.classes = CLASSES;
        bench.screen.live(|| format!("  interest · {} · {sidecars} sidecars start", mode.name()));
        let mut rig = Rig::build(setting)?;
        rig.join()?;
        rigs.push(rig);
    }
    for _ in 0..bench.repeats() {
        for (wanted, number) in [(100, 0), (1, 7)] {
            for rig in &mut rigs {
                let (mode, base) = (rig.setting.mode.name(), params(&rig.setting));
                let baseline = (wanted < 100).then(|| (mode, with(base.clone(), "wanted_by_percent", 100)));
                let params = with(base, "wanted_by_percent", wanted);
                let place = Place { scenario: Scenario::Interest.name(), mode, params, baseline };
                let count = bench.pick(20, 10);
                let pattern =
                    Pattern::Single { family: Family::Endpoint, number: Some(number), below: 1, every: 300_000, count };
                let played = rig.play(pattern)?;
                bench.record(&place, &played);
                bench.screen.line(&format!(
                    "  interest · {mode} · wanted by {wanted} %: {:.0} us of CPU a change",
                    played.server as f64 / f64::from(count)
                ));
            }
        }
    }
    Ok(())
}

/// One row of what idle streams weigh.
struct Load {
    what: &'static str,
    tls: bool,
    adapt: fn(&mut Setting),
}

const LOADS: [Load; 6] = [
    Load { what: "delta", tls: false, adapt: |_| {} },
    Load { what: "delta", tls: true, adapt: |_| {} },
    Load { what: "61 kB node, 300 KB sotw", tls: false, adapt: as_envoy },
    Load { what: "61 kB node, 300 KB sotw", tls: true, adapt: as_envoy },
    Load { what: "1,000 names of 50 sets", tls: false, adapt: |setting| by_name(setting, 50) },
    Load { what: "1,000 names, all sets differ", tls: false, adapt: |setting| by_name(setting, setting.sidecars) },
];

/// What a large mesh's Envoys do.
fn as_envoy(setting: &mut Setting) {
    setting.variant = SerialVariant::Sotw;
    setting.node_bytes = 61_000;
    setting.shape.services = 300;
    setting.shape.sizes = vec![4096, 65_536, 780];
}

/// Each class asks for a thousand names of its own, of as many as are needed for that.
fn by_name(setting: &mut Setting, classes: u32) {
    setting.asks = Asks::Endpoints;
    setting.names = Some(1000);
    setting.shape.contents = Contents::Mesh;
    setting.shape.services = 1001 + classes;
    setting.shape.sizes = vec![300];
    setting.shape.classes = classes;
}

/// Resident memory for each idle stream: after connecting, after 20 pushes of
/// the first resource, after 3 of the second.
pub(super) fn memory(bench: &mut Bench<'_>) -> Result<(), BenchError> {
    let sidecars = bench.sidecars(10_000, 300);
    for _ in 0..bench.repeats() {
        let mut wildcard = None;
        for load in &LOADS {
            for mode in bench.modes(&[Mode::Direct, Mode::Relay]) {
                let mut setting = Setting { rate: 1500, wan: None, ..bench.crowd(mode, sidecars) };
                setting.shape.sizes = vec![4096, 65_536, 300];
                setting.tls = if load.tls { Some(bench.certificates()?) } else { None };
                (load.adapt)(&mut setting);
                // The stand-in has no TLS, and content that is not ours has no names we know.
                let foreign = setting.upstream.is_some();
                let unseen = mode == Mode::Direct && (load.tls || foreign);
                if unseen || foreign && setting.asks == Asks::Endpoints {
                    continue;
                }
                bench.screen.live(|| format!("  memory · {} · {} · {sidecars} sidecars start", mode.name(), load.what));
                weigh(bench, load, setting, &mut wildcard)?;
            }
        }
    }
    Ok(())
}

/// `wildcard`: what a stream of Outpost's weighs that asks for no names.
fn weigh(bench: &mut Bench<'_>, load: &Load, setting: Setting, wildcard: &mut Option<f64>) -> Result<(), BenchError> {
    let (mode, sidecars, by_name) = (setting.mode, setting.sidecars, setting.asks == Asks::Endpoints);
    let changes = setting.upstream.is_none();
    let base = with(params(&setting), "load", load.what);
    let family = if by_name { Family::Endpoint } else { Family::Cluster };
    // Who comes first brings what all have in common: content, and each set's first answer.
    let first = if setting.shape.classes <= 50 { setting.shape.classes } else { 1 };
    let mut rig = Rig::build(setting)?;
    let resident = |used: Used| if mode == Mode::Relay { used.relay.memory } else { used.source.memory };
    rig.join_more(first)?;
    let idle = resident(rig.used()?);
    rig.join()?;
    let mut shown = Vec::new();
    for (after, number, pushes) in [("connect", 0, 0), ("20 pushes", 0, 20), ("3 pushes of 64 KiB", 1, 3)] {
        // By name, all want the first only; and who makes no changes pushes nothing.
        if by_name && number > 0 || pushes > 0 && !changes {
            continue;
        }
        if pushes > 0 {
            let number = Some(number);
            let every = bench.pick(200_000, 40_000);
            rig.play(Pattern::Single { family, number, below: 1, every, count: pushes })?;
        }
        let each = (resident(rig.used()?) as f64 - idle as f64) / f64::from(sidecars) / KIB;
        let params = with(base.clone(), "after", after);
        let place = Place { scenario: Scenario::Memory.name(), mode: mode.name(), params, baseline: None };
        bench.add(&place, "rss_per_stream", "KiB", each);
        if mode == Mode::Relay && pushes == 0 {
            let wildcard = wildcard.get_or_insert(each);
            if by_name {
                bench.add(&place, "rss_above_wildcard", "KiB", each - *wildcard);
            }
        }
        shown.push(format!("{each:.1} KiB after {after}"));
    }
    let tls = if load.tls { " with TLS" } else { "" };
    bench.screen.line(&format!("  memory · {} · {}{tls}: {}", mode.name(), load.what, shown.join(", ")));
    Ok(())
}
