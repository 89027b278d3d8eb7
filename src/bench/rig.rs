//! What stands for one run: the parts of a mode, joined.
//!
//! ```text
//! direct   swarm ── WAN ── control plane
//! relay    swarm ── Outpost ── WAN ── control plane
//! raw      swarm ── sender of bare bytes
//! h2       swarm ── server that knows HTTP/2 and nothing else
//! tonic    swarm ── server of tonic's
//! ```

use super::fleet::{Asks, Counts, Outcome, SerialVariant, Target, Terms};
use super::histogram::Histogram;
use super::limits;
use super::link::Preset;
use super::mesh::Family;
use super::now;
use super::part::{Order, Reply, Report, Spec, Stage, Usage};
use super::plan::{Pattern, Plan};
use super::process::{BenchError, Part, all};
use super::stock::Shape;
use super::tun::{self, Rough};
use super::wan::Traffic;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

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
    /// The same bytes, shared by all streams, by bare HTTP/2
    H2,
    /// The same content behind tonic's ordinary encoder
    Tonic,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relay => "relay",
            Self::Raw => "raw",
            Self::H2 => "h2",
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
    /// The WAN is emulated below the kernel's TCP, with this on top.
    pub tun: Option<Rough>,
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
    /// Several where one has not enough descriptors.
    wan: Vec<Part>,
    relay: Option<Part>,
    swarms: Vec<Part>,
    /// Sidecars of each.
    sizes: Vec<u32>,
    relay_flags: Vec<String>,
    /// Where sidecars connect, in turns.
    fronts: Vec<SocketAddr>,
    members: u32,
    seq: u32,
    /// When the last sidecars were told to start.
    begun: Instant,
}

/// What each kind of part has used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Used {
    pub source: Usage,
    pub wan: Usage,
    pub relay: Usage,
    /// The busiest, and all of them together.
    pub swarm: Usage,
    pub swarms: Usage,
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
    pub swarms: u64,
    /// System calls by which Outpost sent to sidecars.
    pub writes: Option<u64>,
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
    pub fn build(mut setting: Setting) -> Result<Self, BenchError> {
        check(&setting)?;
        if setting.apart() {
            setting.shape.base = base();
        }
        let (shape, seq) = (setting.shape.clone(), setting.shape.base);
        let anywhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        // Only an Outpost that runs already knows that address.
        let listen = setting.listen.filter(|_| setting.mode == Mode::Relay).unwrap_or(anywhere);
        let number = rand::random_range(1..=250);
        let mut wan = Vec::new();
        if let Some((preset, rough)) = setting.tun() {
            let (link, rough, stalls) = (preset.link(setting.seed), rough.clone(), preset.stalls());
            wan.push(Part::start(&Spec::Tun { number, link, rough, stalls })?);
        }
        let source = match (setting.mode, setting.upstream) {
            (_, Some(_)) => None,
            (Mode::Raw, _) => Some(Part::start(&Spec::Raw { shape })?),
            (Mode::H2, _) => Some(Part::start(&Spec::H2 { shape })?),
            (Mode::Tonic, _) => Some(Part::start(&Spec::Tonic { shape })?),
            _ => {
                let congestion = setting.tun().and_then(|(_, rough)| rough.congestion.clone());
                let listen = match setting.wan {
                    _ if !wan.is_empty() => tun::listens(number),
                    // An Outpost that runs already connects to the WAN, if there is one.
                    Some(_) => anywhere,
                    None => listen,
                };
                Some(Part::start(&Spec::Plane { shape, listen, congestion })?)
            }
        };
        let target = source.as_ref().map(|source| source.hello.address).or(setting.upstream).unwrap_or(listen);
        if wan.is_empty() {
            wan = wans(&setting, target, listen)?;
        }
        let mut fronts: Vec<SocketAddr> = wan.iter().map(|wan| wan.hello.address).collect();
        if fronts.is_empty() {
            fronts.push(target);
        }
        let mut this = Self {
            setting,
            source,
            wan,
            relay: None,
            swarms: Vec::new(),
            sizes: Vec::new(),
            relay_flags: Vec::new(),
            fronts,
            members: 0,
            seq,
            begun: Instant::now(),
        };
        if this.setting.mode == Mode::Relay {
            this.start_relay()?;
        }
        Ok(this)
    }

    fn start_relay(&mut self) -> Result<(), BenchError> {
        if let Some(address) = self.setting.relay {
            self.fronts = vec![address];
            return Ok(());
        }
        let group = if self.setting.shared { "all" } else { "perNode" };
        let upstream = self.front(0).to_string();
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
        self.fronts = vec![relay.hello.address];
        self.relay = Some(relay);
        Ok(())
    }

    fn front(&self, turn: usize) -> SocketAddr {
        let front = self.fronts.get(turn % self.fronts.len().max(1));
        front.copied().unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0))
    }

    /// Outpost ends as by a crash.
    pub fn kill_relay(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.kill();
        }
    }

    /// … and is started again where it was.
    pub fn revive_relay(&mut self) -> Result<(), BenchError> {
        let address = self.front(0).to_string();
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
        let sizes = limits::swarms(count, self.fronts.len() as u32);
        let several = u64::from(self.members + count) > limits::PORTS;
        for count in sizes {
            let at = self.swarms.len() as u8;
            let from = several.then(|| IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2 + at)));
            self.add_swarm(count, true, from)?;
        }
        self.complete()?;
        self.settle()?;
        Ok(self.reports(1)?.into_iter().flat_map(|report| report.joins).collect())
    }

    /// An Outpost that runs already may hold what another control plane had: until
    /// everybody has a change of ours.
    fn settle(&mut self) -> Result<(), BenchError> {
        if !self.setting.apart() || self.setting.upstream.is_some() {
            return Ok(());
        }
        let family = if self.setting.asks == Asks::Clusters { Family::Cluster } else { Family::Endpoint };
        self.play(Pattern::Single { family, number: Some(0), below: 1, every: 0, count: 1 }).map(drop)
    }

    /// Starts a process of sidecars; they are the last.
    pub fn add_swarm(&mut self, count: u32, counts: bool, from: Option<IpAddr>) -> Result<(), BenchError> {
        let authority = self.setting.tls.as_ref().map(|tls| tls.authority.clone());
        let target = Target { address: self.front(self.swarms.len()), authority, from };
        let mut part = Part::start(&Spec::Swarm { terms: self.terms(), target, first: self.members })?;
        self.members += count;
        let over = u64::from(count) * 1_000_000 / u64::from(self.setting.rate.max(1));
        self.begun = Instant::now();
        part.ask(&Order::Add { count, over, counts })?;
        self.swarms.push(part);
        self.sizes.push(count);
        Ok(())
    }

    /// Until so many sidecars have streams that were answered, each for another
    /// one that it had lost when `lost` were.
    pub fn come_back(&mut self, sidecars: u32, lost: u64) -> Result<(), BenchError> {
        let begin = Instant::now();
        loop {
            let counts = self.counts()?;
            if counts.connected >= sidecars && counts.lost >= lost + u64::from(sidecars) {
                return Ok(());
            }
            if begin.elapsed() > Duration::from_secs(PATIENCE) {
                let trouble = self.reports(1)?.into_iter().find_map(|report| report.trouble);
                let what = format!("{} of {sidecars} sidecars were answered again", counts.connected);
                return Err(BenchError::Patience { what, seconds: PATIENCE, trouble });
            }
            now::sleep(Duration::from_millis(5));
        }
    }

    /// Since the last sidecars were told to start.
    pub fn since_add(&self) -> Duration {
        self.begun.elapsed()
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
        let mut used = Used { source: of(&mut self.source)?, relay: of(&mut self.relay)?, ..Used::default() };
        for wan in &mut self.wan {
            used.wan = used.wan.join(wan.usage()?);
        }
        for swarm in &mut self.swarms {
            let one = swarm.usage()?;
            used.swarms = used.swarms.join(one);
            if one.cpu > used.swarm.cpu {
                used.swarm = one;
            }
        }
        Ok(used)
    }

    pub fn traffic(&mut self) -> Result<Traffic, BenchError> {
        self.wan.iter_mut().try_fold(Traffic::default(), |sum, wan| Ok(sum.join(wan.traffic()?)))
    }

    pub fn order_wan(&mut self, order: &Order) -> Result<(), BenchError> {
        all(&mut self.wan, |_| order.clone()).map(drop)
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
        let writes = self.writes();
        let before = self.used()?;
        let traffic = self.traffic()?;
        let begin = now::micros() + LEAD;
        let plan = Plan { seed: self.setting.seed, first: self.seq + 1, begin, pattern };
        self.seq = plan.last();
        let order = Order::Plan(plan.clone());
        self.order_swarms(&order)?;
        self.source.as_mut().map(|source| source.ask(&order)).transpose()?;
        Ok(Begun { plan, before, traffic, writes })
    }

    fn writes(&self) -> Option<u64> {
        self.relay.as_ref()?.metric("outpost_downstream_writes_total")
    }

    /// Makes changes, and waits until everybody has them.
    pub fn play(&mut self, pattern: Pattern) -> Result<Played, BenchError> {
        let begun = self.begin(pattern)?;
        self.finish(begun)
    }

    pub fn finish(&mut self, begun: Begun) -> Result<Played, BenchError> {
        let Begun { plan, before, traffic, writes } = begun;
        let (late, awake) = self.source.as_mut().map(Part::made).transpose()?.unwrap_or_default();
        let order = Order::Delivered { seq: plan.last(), patience: PATIENCE * 1_000_000 };
        let delivered = all(&mut self.swarms, |_| order.clone())?;
        now::sleep(Duration::from_micros(AFTER + self.setting.apply));
        let after = self.used()?;
        let traffic = self.traffic()?.since(traffic);
        let writes = self.writes().zip(writes).map(|(after, before)| after.saturating_sub(before));
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
        // To be in time is the bench's business, not the server's.
        let source = cpu(|used| used.source).saturating_sub(awake);
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
            traffic,
            writes,
            swarms: cpu(|used| used.swarms),
            late,
            stages,
            plan,
        })
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // Whoever is connected through a device leaves before it goes.
        self.swarms.clear();
        (self.relay, self.source) = (None, None);
        if self.setting.tun().is_some() {
            let _ = self.order_wan(&Order::Empty);
        }
    }
}

/// Changes under way.
#[derive(Clone, Debug)]
pub struct Begun {
    plan: Plan,
    before: Used,
    traffic: Traffic,
    writes: Option<u64>,
}

impl Setting {
    /// Sidecars are served by an Outpost that is not ours.
    fn apart(&self) -> bool {
        self.mode == Mode::Relay && self.relay.is_some()
    }

    /// The WAN, where the kernel's own TCP is to cross it.
    fn tun(&self) -> Option<(Preset, &Rough)> {
        let crossed = matches!(self.mode, Mode::Direct | Mode::Relay);
        self.wan.zip(self.tun.as_ref()).filter(|_| crossed)
    }
}

/// Emulators before `target`: as many as have sockets enough, which share the bandwidth.
fn wans(setting: &Setting, target: SocketAddr, listen: SocketAddr) -> Result<Vec<Part>, BenchError> {
    let count = match setting.mode {
        Mode::Direct => limits::wans(setting.sidecars),
        Mode::Relay => 1,
        Mode::Raw | Mode::H2 | Mode::Tonic => return Ok(Vec::new()),
    };
    let Some(preset) = setting.wan else { return Ok(Vec::new()) };
    let mut link = preset.link(setting.seed);
    link.bytes_per_second = link.bytes_per_second.map(|all| all / u64::from(count));
    let spec = Spec::Wan { target, link, stalls: preset.stalls(), listen };
    (0..count).map(|_| Part::start(&spec)).collect()
}

/// Higher than any number that a benchmark before this one gave to a change.
fn base() -> u32 {
    // Fifty a second since this machine started.
    (now::micros() / 20_000 % (1 << 30)) as u32
}

/// Whether every process has descriptors enough.
fn check(setting: &Setting) -> Result<(), BenchError> {
    let name = match setting.mode {
        Mode::Direct => "the control plane",
        Mode::Relay => "Outpost",
        Mode::Raw => "the raw sender",
        Mode::H2 => "the h2 server",
        Mode::Tonic => "the tonic server",
    };
    Ok(limits::check(name, u64::from(setting.sidecars))?)
}
