//! What stands for one run: the parts of a mode, joined.
//!
//! ```text
//! direct   swarm ── WAN ── control plane
//! relay    swarm ── Outpost ── WAN ── control plane
//! raw      swarm ── sender of bare bytes
//! tonic    swarm ── server of tonic's
//! ```

use super::fleet::{Asks, Counts, Outcome, SerialVariant, Target, Terms};
use super::histogram::Histogram;
use super::limits;
use super::link::Preset;
use super::now;
use super::part::{Order, Reply, Report, Spec, Stage, Usage};
use super::plan::{Pattern, Plan};
use super::process::{BenchError, Part, all};
use super::stock::Shape;
use super::wan::Traffic;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// A plan begins so long after it is told, in µs.
const LEAD: u64 = 20_000;
/// After the last sidecar has a change, until its ACK was read, in µs.
const AFTER: u64 = 30_000;
/// Beyond it a run has failed, in seconds.
const PATIENCE: u64 = 60;

/// What stands between sidecars and the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Mode {
    /// Nothing but the WAN
    Direct,
    /// Outpost
    Relay,
    /// Bare TCP writes of the same bytes: the limit
    Raw,
    /// The same content behind tonic's ordinary encoder
    Tonic,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Raw => "raw",
            Self::Tonic => "tonic",
        }
    }
}

/// Files of a certificate.
#[derive(Clone, Debug)]
pub struct Certificates {
    pub certificate: String,
    pub key: String,
    pub authority: String,
}

/// What is to stand.
#[derive(Clone, Debug)]
pub struct Setting {
    pub mode: Mode,
    pub shape: Shape,
    pub asks: Asks,
    pub variant: SerialVariant,
    pub sidecars: u32,
    /// All sidecars are one group of Outpost's.
    pub shared: bool,
    pub tls: Option<Certificates>,
    /// None: the control plane is on the same machine, without anything between.
    pub wan: Option<Preset>,
    pub seed: u64,
    /// From a response to its ACK, in µs.
    pub apply: u64,
    pub nack_percent: u32,
    pub slow_percent: u32,
    /// See [`Terms`].
    pub node_bytes: u32,
    pub names: Option<u32>,
    pub keep: bool,
    pub stages: bool,
    /// Members start, so many a second.
    pub rate: u32,
    /// Outpost runs there already.
    pub relay: Option<SocketAddr>,
    /// Where the control plane listens: for an Outpost that runs already.
    pub listen: Option<SocketAddr>,
    /// The control plane is there already, and not ours.
    pub upstream: Option<SocketAddr>,
}

/// The parts of a run.
#[derive(Debug)]
pub struct Rig {
    pub setting: Setting,
    source: Option<Part>,
    wan: Option<Part>,
    relay: Option<Part>,
    swarms: Vec<Part>,
    /// Sidecars of each.
    sizes: Vec<u32>,
    relay_flags: Vec<String>,
    front: SocketAddr,
    members: u32,
    seq: u32,
}

/// What each kind of part has used; of several swarms the busiest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub source: Usage,
    pub wan: Usage,
    pub relay: Usage,
    pub swarm: Usage,
}

/// What came of some changes.
#[derive(Clone, Debug)]
pub struct Played {
    pub outcome: Outcome,
    pub counts: Counts,
    /// What serves sidecars is a process of ours: its CPU is known.
    pub seen: bool,
    /// CPU in µs, of what serves sidecars, and of the others.
    pub server: u64,
    pub source: u64,
    pub wan: u64,
    /// The busiest swarm's share of the time.
    pub busy: f64,
    /// Memory at the end.
    pub memory: Used,
    pub traffic: Traffic,
    /// How late the source was at most, in µs.
    pub late: u64,
    pub stages: Vec<Stage>,
    pub plan: Plan,
}

impl Played {
    pub fn latencies(&self) -> Histogram {
        self.outcome.latencies()
    }
}

impl Rig {
    /// Starts everything but the sidecars.
    pub fn build(setting: Setting) -> Result<Self, BenchError> {
        check(&setting)?;
        let shape = setting.shape.clone();
        // Only an Outpost that runs already knows that address.
        let listen = setting.listen.filter(|_| setting.mode == Mode::Relay);
        let listen = listen.unwrap_or_else(|| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0));
        let source = match (setting.mode, setting.upstream) {
            (_, Some(_)) => None,
            (Mode::Raw, _) => Some(Part::start(&Spec::Raw { shape })?),
            (Mode::Tonic, _) => Some(Part::start(&Spec::Tonic { shape })?),
            // An Outpost that runs already connects to the WAN, if there is one.
            _ if setting.wan.is_some() => {
                Some(Part::start(&Spec::Plane { shape, listen: ([127, 0, 0, 1], 0).into() })?)
            }
            _ => Some(Part::start(&Spec::Plane { shape, listen })?),
        };
        let mut front = source.as_ref().map(|source| source.hello.address).or(setting.upstream).unwrap_or(listen);
        let wan = match (setting.mode, setting.wan) {
            (Mode::Direct | Mode::Relay, Some(preset)) => {
                let (link, stalls) = (preset.link(setting.seed), preset.stalls());
                Some(Part::start(&Spec::Wan { target: front, link, stalls, listen })?)
            }
            _ => None,
        };
        front = wan.as_ref().map_or(front, |wan| wan.hello.address);
        let mut this = Self {
            setting,
            source,
            wan,
            relay: None,
            swarms: Vec::new(),
            sizes: Vec::new(),
            relay_flags: Vec::new(),
            front,
            members: 0,
            seq: 0,
        };
        if this.setting.mode == Mode::Relay {
            this.start_relay()?;
        }
        Ok(this)
    }

    fn start_relay(&mut self) -> Result<(), BenchError> {
        if let Some(address) = self.setting.relay {
            self.front = address;
            return Ok(());
        }
        let group = if self.setting.shared { "all" } else { "perNode" };
        let upstream = self.front.to_string();
        let mut flags = vec!["--upstream", &upstream, "--group", group, "--admin", "127.0.0.1:0", "--drain", "0s"];
        if let Some(tls) = &self.setting.tls {
            flags.extend(["--tls-cert", &tls.certificate, "--tls-key", &tls.key]);
        }
        self.relay_flags = flags.into_iter().map(str::to_owned).collect();
        self.run_relay("127.0.0.1:0")
    }

    fn run_relay(&mut self, listen: &str) -> Result<(), BenchError> {
        let mut flags = self.relay_flags.clone();
        flags.extend(["--listen".to_owned(), listen.to_owned()]);
        let relay = Part::start(&Spec::Serve { flags, stages: self.setting.stages })?;
        self.front = relay.hello.address;
        self.relay = Some(relay);
        Ok(())
    }

    /// Outpost ends as by a crash.
    pub fn kill_relay(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.kill();
        }
    }

    /// … and is started again where it was.
    pub fn revive_relay(&mut self) -> Result<(), BenchError> {
        let address = self.front.to_string();
        self.run_relay(&address)
    }

    fn terms(&self) -> Terms {
        let Setting { variant, asks, shape, apply, nack_percent, slow_percent, node_bytes, names, keep, .. } =
            self.setting.clone();
        Terms {
            variant,
            asks,
            classes: shape.classes,
            shape: self.setting.upstream.is_none().then_some(shape),
            apply,
            nack_percent,
            slow_percent,
            keep: keep && variant == SerialVariant::Delta,
            raw: self.setting.mode == Mode::Raw,
            node_bytes,
            names,
        }
    }

    /// Starts all sidecars, and waits until they have everything. Returns how
    /// long each took, as buckets.
    pub fn join(&mut self) -> Result<Vec<(u32, u64)>, BenchError> {
        self.join_more(self.setting.sidecars)
    }

    /// So many sidecars more.
    pub fn join_more(&mut self, count: u32) -> Result<Vec<(u32, u64)>, BenchError> {
        let sizes = limits::swarms(count);
        let several = u64::from(self.members + count) > limits::PORTS;
        for count in sizes {
            let at = self.swarms.len() as u8;
            let from = several.then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + at)));
            self.add_swarm(count, true, from)?;
        }
        self.complete()?;
        Ok(self.reports(1)?.into_iter().flat_map(|report| report.joins).collect())
    }

    /// Starts a process of sidecars; they are the last.
    pub fn add_swarm(&mut self, count: u32, counts: bool, from: Option<IpAddr>) -> Result<(), BenchError> {
        let authority = self.setting.tls.as_ref().map(|tls| tls.authority.clone());
        let target = Target { address: self.front, authority, from };
        let mut part = Part::start(&Spec::Swarm { terms: self.terms(), target, first: self.members })?;
        self.members += count;
        let over = u64::from(count) * 1_000_000 / u64::from(self.setting.rate.max(1));
        part.ask(&Order::Add { count, over, counts })?;
        self.swarms.push(part);
        self.sizes.push(count);
        Ok(())
    }

    /// The last process of sidecars goes. The next are the same nodes again.
    pub fn drop_swarm(&mut self) {
        self.swarms.pop();
        self.members -= self.sizes.pop().unwrap_or(0);
    }

    /// All sidecars have everything.
    pub fn complete(&mut self) -> Result<(), BenchError> {
        let sizes = self.sizes.clone();
        let count: u32 = sizes.iter().sum();
        let patience = (PATIENCE + u64::from(count) / 20) * 1_000_000;
        let order = |at: usize| Order::Complete { count: sizes.get(at).copied().unwrap_or(0), patience };
        let replies = all(&mut self.swarms, order)?;
        if replies.iter().all(|reply| matches!(reply, Reply::Came(true))) {
            return Ok(());
        }
        let reports = self.reports(1)?;
        let counts = Counts::join(reports.iter().map(|report| report.counts));
        let what = format!(
            "{} mode: only {} of {count} sidecars had their configuration ({} connected)",
            self.setting.mode.name(),
            counts.complete,
            counts.connected
        );
        let trouble = reports.into_iter().find_map(|report| report.trouble);
        Err(BenchError::Patience { what, seconds: patience / 1_000_000, trouble })
    }

    fn reports(&mut self, from: u32) -> Result<Vec<Report>, BenchError> {
        self.swarms.iter_mut().map(|swarm| swarm.report(from)).collect()
    }

    pub fn counts(&mut self) -> Result<Counts, BenchError> {
        Ok(Counts::join(self.reports(1)?.iter().map(|report| report.counts)))
    }

    /// Joins of the last process of sidecars, as buckets.
    pub fn last_joins(&mut self) -> Result<Vec<(u32, u64)>, BenchError> {
        Ok(self.swarms.last_mut().map(|swarm| swarm.report(1)).transpose()?.map(|r| r.joins).unwrap_or_default())
    }

    pub fn used(&mut self) -> Result<Used, BenchError> {
        let of = |part: &mut Option<Part>| part.as_mut().map(Part::usage).transpose().map(Option::unwrap_or_default);
        let mut used = Used { source: of(&mut self.source)?, wan: of(&mut self.wan)?, ..Used::default() };
        used.relay = of(&mut self.relay)?;
        for swarm in &mut self.swarms {
            let one = swarm.usage()?;
            if one.cpu > used.swarm.cpu {
                used.swarm = one;
            }
        }
        Ok(used)
    }

    pub fn traffic(&mut self) -> Result<Traffic, BenchError> {
        self.wan.as_mut().map(Part::traffic).transpose().map(Option::unwrap_or_default)
    }

    pub fn order_wan(&mut self, order: &Order) -> Result<(), BenchError> {
        self.wan.as_mut().map(|wan| wan.ask(order)).transpose().map(drop)
    }

    pub fn order_swarms(&mut self, order: &Order) -> Result<(), BenchError> {
        all(&mut self.swarms, |_| order.clone()).map(drop)
    }

    /// Streams at the control plane.
    pub fn streams(&mut self) -> Result<u64, BenchError> {
        self.source.as_mut().map(Part::streams).transpose().map(Option::unwrap_or_default)
    }

    /// Begins changes and returns; [`finish`](Self::finish) waits for them.
    pub fn begin(&mut self, pattern: Pattern) -> Result<Begun, BenchError> {
        let before = self.used()?;
        let traffic = self.traffic()?;
        let begin = now::micros() + LEAD;
        let plan = Plan { seed: self.setting.seed, first: self.seq + 1, begin, pattern };
        self.seq = plan.last();
        let order = Order::Plan(plan.clone());
        self.order_swarms(&order)?;
        self.source.as_mut().map(|source| source.ask(&order)).transpose()?;
        Ok(Begun { plan, before, traffic })
    }

    /// Makes changes, and waits until everybody has them.
    pub fn play(&mut self, pattern: Pattern) -> Result<Played, BenchError> {
        let begun = self.begin(pattern)?;
        self.finish(begun)
    }

    pub fn finish(&mut self, begun: Begun) -> Result<Played, BenchError> {
        let Begun { plan, before, traffic } = begun;
        let late = self.source.as_mut().map(Part::made).transpose()?.unwrap_or(0);
        let order = Order::Delivered { seq: plan.last(), patience: PATIENCE * 1_000_000 };
        let delivered = all(&mut self.swarms, |_| order.clone())?;
        now::sleep(std::time::Duration::from_micros(AFTER + self.setting.apply));
        let after = self.used()?;
        let now_traffic = self.traffic()?;
        let reports = self.reports(plan.first)?;
        let counts = Counts::join(reports.iter().map(|report| report.counts));
        let trouble = reports.iter().find_map(|report| report.trouble.clone());
        let outcome = Outcome::join(reports.into_iter().map(|report| report.outcome));
        if !delivered.iter().all(|reply| matches!(reply, Reply::Came(true))) {
            let what = format!(
                "{} mode: {} of {} deliveries of {} changes came",
                self.setting.mode.name(),
                outcome.reached,
                outcome.due,
                outcome.changes
            );
            return Err(BenchError::Patience { what, seconds: PATIENCE, trouble });
        }
        let stages = match &mut self.relay {
            Some(relay) if self.setting.stages => relay.stages()?,
            _ => Vec::new(),
        };
        let cpu = |of: fn(&Used) -> Usage| of(&after).cpu.saturating_sub(of(&before).cpu);
        let source = cpu(|used| used.source);
        let relay = self.setting.mode == Mode::Relay;
        let ends = plan.changes().into_iter().zip(&outcome.last).map(|(change, last)| change.at + last);
        let span = ends.max().unwrap_or(plan.begin).saturating_sub(plan.begin).max(1);
        Ok(Played {
            outcome,
            counts,
            seen: if relay { self.relay.is_some() } else { self.source.is_some() },
            server: if relay { cpu(|used| used.relay) } else { source },
            source,
            wan: cpu(|used| used.wan),
            busy: cpu(|used| used.swarm) as f64 / span as f64,
            memory: after,
            traffic: Traffic { up: now_traffic.up - traffic.up, down: now_traffic.down - traffic.down, ..now_traffic },
            late,
            stages,
            plan,
        })
    }
}

/// Changes under way.
#[derive(Clone, Debug)]
pub struct Begun {
    plan: Plan,
    before: Used,
    traffic: Traffic,
}

/// Whether every process has descriptors enough.
fn check(setting: &Setting) -> Result<(), BenchError> {
    let sidecars = u64::from(setting.sidecars);
    let name = match setting.mode {
        Mode::Direct if setting.wan.is_some() => {
            limits::check("the WAN emulator, with two sockets for each sidecar,", sidecars * 2)?;
            "the control plane"
        }
        Mode::Direct => "the control plane",
        Mode::Relay => "Outpost",
        Mode::Raw => "the raw sender",
        Mode::Tonic => "the tonic server",
    };
    Ok(limits::check(name, sidecars)?)
}
