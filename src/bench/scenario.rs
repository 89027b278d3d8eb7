//! What is measured: one function a scenario, and what they share.

mod crowd;
mod fanout;
mod push;
mod sync;
mod trouble;
mod weight;

use super::fleet::{Asks, SerialVariant};
use super::link::Preset;
use super::process::BenchError;
use super::results::{Params, Place, Results, median};
use super::rig::{Certificates, Mode, Played, Setting};
use super::screen::Screen;
use super::stock::{Contents, Shape};
use super::{Options, certificates};
use clap::ValueEnum;
use serde_json::Value;

/// A load generator that is busier than this measures itself.
const BUSY: f64 = 0.8;
/// A source that is later than this was not in time for its own load, in µs.
const LATE: u64 = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Scenario {
    /// One change after the other: how fast is a push?
    Steady,
    /// 50 changes within 100 ms: are they put together?
    Burst,
    /// Every resource changes at once
    Large,
    /// One change to many sidecars of one group: what does a stream cost?
    Fanout,
    /// New sidecars: how long until they have everything?
    Join,
    /// Everybody comes back at once, after Outpost was restarted
    Herd,
    /// Sidecars leave and new ones come while changes go on
    Churn,
    /// A tenth of the sidecars read nothing: what do the others feel?
    Slow,
    /// The same changes by both variants of the protocol
    DeltaVsSotw,
    /// The control plane is gone for a while; sidecars come meanwhile
    Outage,
    /// Some sidecars reject what changes
    Nack,
    /// A group for each sidecar against one group of all
    Groups,
    /// A change that few want against one that all want
    Interest,
    /// Resident memory for each stream
    Memory,
    /// Changes and churn for a long time: does memory grow?
    Soak,
}

impl Scenario {
    /// Without names on the command line.
    pub const USUAL: [Self; 9] = [
        Self::Steady,
        Self::Burst,
        Self::Large,
        Self::Fanout,
        Self::Join,
        Self::Herd,
        Self::Churn,
        Self::Slow,
        Self::DeltaVsSotw,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Burst => "burst",
            Self::Large => "large",
            Self::Fanout => "fanout",
            Self::Join => "join",
            Self::Herd => "herd",
            Self::Churn => "churn",
            Self::Slow => "slow",
            Self::DeltaVsSotw => "delta-vs-sotw",
            Self::Outage => "outage",
            Self::Nack => "nack",
            Self::Groups => "groups",
            Self::Interest => "interest",
            Self::Memory => "memory",
            Self::Soak => "soak",
        }
    }

    /// What these measure is no change, so that a control plane will do that is not ours.
    pub const OF_ANY_UPSTREAM: [Self; 3] = [Self::Join, Self::Herd, Self::Memory];

    /// Those that kill Outpost, or weigh it, or say what its groups are: one that
    /// runs already is of no use.
    pub const OF_OWN_RELAY: [Self; 4] = [Self::Herd, Self::Groups, Self::Memory, Self::Soak];

    /// Those that reset the connections of the WAN, which is done in user space only.
    pub const OF_USER_SPACE: [Self; 2] = [Self::Herd, Self::Groups];
}

/// A benchmark under way.
pub struct Bench<'a> {
    pub options: &'a Options,
    pub screen: &'a Screen,
    pub results: Results,
    /// Where certificates are.
    pub directory: std::path::PathBuf,
    certificates: Option<Certificates>,
}

impl<'a> Bench<'a> {
    pub fn new(options: &'a Options, screen: &'a Screen, directory: std::path::PathBuf) -> Self {
        Self { options, screen, results: Results::default(), directory, certificates: None }
    }

    pub fn run(&mut self, scenario: Scenario) -> Result<(), BenchError> {
        match scenario {
            Scenario::Steady => push::steady(self),
            Scenario::Burst => push::burst(self),
            Scenario::Large => push::large(self),
            Scenario::DeltaVsSotw => push::variants(self),
            Scenario::Fanout => fanout::run(self),
            Scenario::Join => crowd::join(self),
            Scenario::Herd => crowd::herd(self),
            Scenario::Churn => crowd::churn(self),
            Scenario::Slow => trouble::slow(self),
            Scenario::Nack => trouble::nack(self),
            Scenario::Outage => trouble::outage(self),
            Scenario::Groups => weight::groups(self),
            Scenario::Interest => weight::interest(self),
            Scenario::Memory => weight::memory(self),
            Scenario::Soak => crowd::soak(self),
        }
    }

    /// The authority and the server's certificate of this run.
    fn certificates(&mut self) -> Result<Certificates, BenchError> {
        match &self.certificates {
            Some(known) => Ok(known.clone()),
            None => {
                let made = certificates(&self.directory)?;
                Ok(self.certificates.insert(made).clone())
            }
        }
    }

    fn repeats(&self) -> u32 {
        self.options.repeat.unwrap_or(if self.options.quick { 1 } else { 3 })
    }

    /// `whole`, or `quick` where that is asked for.
    fn pick<T>(&self, whole: T, quick: T) -> T {
        if self.options.quick { quick } else { whole }
    }

    fn sidecars(&self, whole: u32, quick: u32) -> u32 {
        self.options.sidecars.unwrap_or(self.pick(whole, quick))
    }

    /// Modes that are asked for, of those that the scenario knows.
    fn modes(&self, known: &[Mode]) -> Vec<Mode> {
        let asked = &self.options.mode;
        let by_name = |mode: &Mode| matches!(mode, Mode::Tonic | Mode::H2);
        let wanted = |mode: &Mode| if asked.is_empty() { !by_name(mode) } else { asked.contains(mode) };
        known.iter().copied().filter(wanted).collect()
    }

    fn shape(&self, contents: Contents) -> Shape {
        Shape {
            seed: self.options.seed,
            contents,
            services: self.options.services,
            sizes: vec![self.options.bytes],
            own: 0,
            classes: 1,
            base: 0,
        }
    }

    /// A mesh behind the WAN, a group for each node, delta.
    fn setting(&self, mode: Mode, sidecars: u32) -> Setting {
        Setting {
            mode,
            shape: self.shape(Contents::Mesh),
            asks: Asks::Mesh,
            variant: self.options.variant,
            sidecars,
            shared: false,
            tls: None,
            wan: Some(self.options.wan),
            tun: self.options.rough(),
            seed: self.options.seed,
            apply: self.options.apply * 1000,
            nack_percent: 0,
            slow_percent: 0,
            node_bytes: 0,
            names: None,
            keep: false,
            stages: false,
            rate: self.pick(2000, 2000),
            relay: self.options.relay,
            listen: self.options.listen,
            upstream: self.options.upstream,
        }
    }

    /// Clusters only, one group. The control plane is near: before Outpost there is
    /// no WAN, and before sidecars one that hardly delays.
    fn crowd(&self, mode: Mode, sidecars: u32) -> Setting {
        let shape = Shape { services: 10, ..self.shape(Contents::Clusters) };
        let wan = (mode == Mode::Direct).then_some(NEAR);
        Setting { shape, asks: Asks::Clusters, shared: true, wan, tun: None, ..self.setting(mode, sidecars) }
    }

    /// Latencies, and what they cost.
    fn record(&mut self, place: &Place, played: &Played) {
        let latencies = played.latencies();
        let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
        for (name, q) in quantiles {
            if let Some(latency) = latencies.quantile(q) {
                self.add(place, &format!("latency_{name}"), "ms", latency.as_secs_f64() * 1000.0);
            }
        }
        let last: Vec<f64> = played.outcome.last.iter().map(|micros| *micros as f64 / 1000.0).collect();
        if let Some(median) = median(&last) {
            self.add(place, "last_sidecar", "ms", median);
            self.add(place, "last_sidecar_max", "ms", last.iter().copied().fold(0.0, f64::max));
        }
        let changes = f64::from(played.outcome.changes.max(1));
        if played.seen {
            self.add(place, "server_cpu_per_stream", "us", played.server as f64 / played.outcome.reached.max(1) as f64);
            self.add(place, "server_cpu_per_change", "us", played.server as f64 / changes);
        }
        self.traffic(place, played, changes);
        self.processes(place, played, changes);
        self.note_load(place, played);
    }

    /// What crossed the WAN: IP packets where the kernel's TCP crosses it, else what is in them.
    fn traffic(&mut self, place: &Place, played: &Played, changes: f64) {
        let traffic = played.traffic;
        if traffic.connections == 0 {
            return;
        }
        let unit = if traffic.packets > 0 { "bytes" } else { "payload bytes" };
        self.add(place, "wan_down_per_change", unit, traffic.down as f64 / changes);
        self.add(place, "wan_up_per_change", unit, traffic.up as f64 / changes);
        self.add(place, "wan_connections", "connections", traffic.open as f64);
        if traffic.packets > 0 {
            self.add(place, "wan_packets_lost", "share", traffic.lost as f64 / traffic.packets as f64);
        }
    }

    /// What each process used.
    fn processes(&mut self, place: &Place, played: &Played, changes: f64) {
        let Played { memory, .. } = played;
        let processes = [
            ("outpost", memory.relay, if memory.relay.at > 0 { played.server } else { 0 }),
            ("control_plane", memory.source, played.source),
            ("wan", memory.wan, played.wan),
            ("swarm", memory.swarms, played.swarms),
        ];
        for (name, usage, cpu) in processes.into_iter().filter(|(_, usage, _)| usage.at > 0) {
            self.add(place, &format!("{name}_cpu_per_change"), "us", cpu as f64 / changes);
            self.add(place, &format!("{name}_rss"), "MiB", usage.memory as f64 / f64::from(1 << 20));
        }
        self.add(place, "swarm_busy", "share", played.busy);
    }

    /// Runs that measured the machine more than what runs on it.
    fn note_load(&mut self, place: &Place, played: &Played) {
        self.note_busy(place, played.busy);
        if played.late > LATE {
            self.results.mark(place, &format!("the control plane was up to {} ms late", played.late / 1000));
        }
    }

    fn note_busy(&mut self, place: &Place, busy: f64) {
        if busy > BUSY {
            let mark = format!("the load generator was busy for {:.0} % of the time", busy * 100.0);
            self.results.mark(place, &mark);
        }
    }

    fn add(&mut self, place: &Place, metric: &str, unit: &'static str, value: f64) {
        self.results.add(place, metric, unit, value);
    }
}

/// A place of a mode that is compared with the direct one.
fn against_direct(scenario: Scenario, mode: Mode, params: Params) -> Place {
    let baseline = (mode != Mode::Direct).then(|| (Mode::Direct.name(), params.clone()));
    Place { scenario: scenario.name(), mode: mode.name(), params, baseline }
}

/// What of a setting tells one run from another.
fn params(setting: &Setting) -> Params {
    let mut params = Params::from([
        ("sidecars".to_owned(), setting.sidecars.into()),
        ("resources".to_owned(), setting.shape.services.into()),
        ("bytes".to_owned(), setting.shape.sizes.last().copied().unwrap_or(0).into()),
        ("variant".to_owned(), variant(setting.variant).into()),
        ("groups".to_owned(), if setting.shared { "one" } else { "node" }.into()),
        ("tls".to_owned(), setting.tls.is_some().into()),
    ]);
    if let Some(wan) = setting.wan {
        params.insert("wan".to_owned(), wan.name().into());
    }
    if let Some(rough) = setting.tun.as_ref().filter(|_| setting.wan.is_some()) {
        params.insert("wan_form".to_owned(), "tun".into());
        let percent = |of: u32| f64::from(of) / 10_000.0;
        params.insert("loss_percent".to_owned(), percent(rough.lost).into());
        params.insert("reorder_percent".to_owned(), percent(rough.overtaken).into());
        let congestion = rough.congestion.as_deref().unwrap_or("of the system");
        params.insert("congestion".to_owned(), congestion.into());
    }
    params
}

fn with(mut params: Params, name: &str, value: impl Into<Value>) -> Params {
    params.insert(name.to_owned(), value.into());
    params
}

fn variant(variant: SerialVariant) -> &'static str {
    match variant {
        SerialVariant::Delta => "delta",
        SerialVariant::Sotw => "sotw",
    }
}

/// The nearest control plane that is still behind a WAN.
const NEAR: Preset = Preset::Lan;
