//! Push latency, measured: who gets what how fast, and what it costs the WAN.
//!
//! `outpost bench` runs [scenarios](scenario) and writes what it found. Its parts
//! are [processes](part) of their own; the rest of this module is what they are
//! made of, some of it shared with [`crate::demo`], which runs in one process and
//! shows more than it measures.
//!
//! Who makes changes:
//!
//! * [`plan`]: which changes are due when; [`stock`]: as many resources as are asked for
//! * [`mesh`]: the resources of the demonstration, which come and go
//! * [`plane`]: a control plane that serves either by ADS, delta and SotW
//!
//! What is between: [`wan`], a TCP relay with delay, bandwidth, outages and byte
//! counts; [`tun`], the same below the kernel's own TCP, with losses; [`link`],
//! WANs that have a name.
//!
//! Who receives:
//!
//! * [`fleet`]: ten thousand sidecars on one core, on [`http2`] of its own, which
//!   [`scan`] responses for what they must know
//! * [`sidecar`], [`swarm`], [`ledger`]: fewer, which hold what they were sent
//!
//! What is found: [`rig`] puts the parts of one run together, [`results`] keeps
//! figures, [`report`] shows them, [`compare`] tells two of them apart;
//! [`histogram`] holds latencies in constant memory.
//!
//! Promise: the load is open loop. A change has an intended time, latency counts
//! from there, and a version that was skipped counts until the one that
//! replaced it, so a slow path cannot hide behind the load it holds up.

pub mod compare;
pub mod fleet;
pub mod histogram;
pub mod http2;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod mesh;
pub mod now;
pub mod part;
pub mod plan;
pub mod plane;
pub mod process;
pub mod report;
pub mod results;
pub mod rig;
pub mod rpc;
pub mod scan;
pub mod scenario;
pub mod screen;
pub mod sidecar;
pub mod stock;
pub mod swarm;
pub mod tun;
pub mod wan;

use clap::{Args, Subcommand};
use fleet::SerialVariant;
use link::Preset;
use process::BenchError;
use results::{Document, Machine};
use rig::{Certificates, Mode};
use scenario::{Bench, Scenario};
use screen::Screen;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use tun::Rough;

/// Measure push latency: a control plane, a WAN, Outpost and a swarm of sidecars, each a process
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Command {
    #[command(subcommand)]
    pub what: Option<What>,
    #[command(flatten)]
    pub options: Options,
}

#[derive(Clone, Debug, Subcommand)]
pub enum What {
    /// Tell what became better and worse from one report to another
    Compare(compare::Options),
    /// One of the processes of a benchmark
    #[command(hide = true)]
    Part {
        /// What it is, as JSON
        spec: String,
    },
}

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// What to measure [default: steady burst large fanout join herd churn slow delta-vs-sotw]
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<Scenario>,
    /// Fewer sidecars, one run each: at most 30 s a scenario on two cores
    #[arg(long)]
    pub quick: bool,
    /// Where report.json, report.md and report.html are written
    #[arg(long, value_name = "DIR", default_value = "outpost-bench")]
    pub out: PathBuf,
    /// How many sidecars, in place of what each scenario has
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub sidecars: Option<u32>,
    /// Clusters, and as many assignments, where a scenario has a mesh
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub services: u32,
    /// Of each of them
    #[arg(long, value_name = "N", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=4_000_000))]
    pub bytes: u32,
    /// What sidecars speak
    #[arg(long, value_name = "VARIANT", default_value = "delta")]
    pub variant: SerialVariant,
    /// How far away the control plane is
    #[arg(long, value_name = "WAN", default_value = "continent")]
    pub wan: Preset,
    /// How that is emulated
    #[arg(long, value_name = "FORM", default_value = "userland")]
    pub wan_form: Form,
    /// Of a hundred packets on the WAN so many are lost; needs --wan-form tun
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub loss: Option<f64>,
    /// … and so many are overtaken by others; needs --wan-form tun
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub reorder: Option<f64>,
    /// How the control plane's TCP answers to losses, such as cubic or bbr; needs --wan-form tun
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Only these modes, separated by commas; h2 and tonic by name only
    #[arg(long, value_name = "MODE", value_delimiter = ',')]
    pub mode: Vec<Mode>,
    /// How often each is measured [default: 3, or 1 with --quick]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    pub repeat: Option<u32>,
    /// From a response to its ACK, in ms
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=10_000))]
    pub apply: u64,
    /// How long the scenario soak takes, in s
    #[arg(long, value_name = "N", default_value_t = 3600)]
    pub seconds: u64,
    /// Of contents, changes and jitter
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// An Outpost that runs already; its upstream is --listen. Its CPU and memory are not seen. Not for herd, groups, memory and soak, which start Outpost themselves. For fanout, slow and interest give it --group all
    #[arg(long, value_name = "ADDR")]
    pub relay: Option<SocketAddr>,
    /// Where the control plane, or the WAN before it, listens [default: a free port]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// A control plane that is there already, without TLS. Only join, herd and memory can be measured: nobody knows when its changes were due
    #[arg(long, value_name = "ADDR")]
    pub upstream: Option<SocketAddr>,
}

/// How a WAN is emulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// By a TCP relay: delay, jitter, bandwidth, queue; no loss. Payload is counted
    Userland,
    /// By a network device, as root: the kernel's own TCP, with losses. IP packets are counted. Not for herd and groups, which stay in user space
    Tun,
}

fn percent(text: &str) -> Result<f64, String> {
    let value = text.parse().ok().filter(|value| (0.0..=50.0).contains(value));
    value.ok_or_else(|| format!("{text:?} is no percentage between 0 and 50"))
}

impl Options {
    /// What packets go through, where the kernel's TCP crosses the WAN.
    pub fn rough(&self) -> Option<Rough> {
        let (lost, overtaken) = self.wan.rough();
        let of = |percent: Option<f64>, known| percent.map_or(known, |percent| (percent * 10_000.0) as u32);
        (self.wan_form == Form::Tun).then(|| Rough {
            lost: of(self.loss, lost),
            overtaken: of(self.reorder, overtaken),
            congestion: self.congestion.clone(),
        })
    }
}

/// Runs scenarios, and writes what they found. The parts of it are other processes.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let scenarios = chosen(options)?;
    limits::raise();
    let (screen, started) = (Screen::stdout(), Instant::now());
    let machine = Machine::here();
    begin(&screen, options, &machine);
    let directory = Temporary::new()?;
    let mut bench = Bench::new(options, &screen, directory.0.clone());
    let mut failed = None;
    for scenario in scenarios {
        screen.line(scenario.name());
        if let Err(error) = bench.run(scenario) {
            // What was measured before is worth its report.
            failed = Some(error);
            break;
        }
    }
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let results = bench.results;
    let rows = results.rows();
    if rows.is_empty() {
        return failed.map_or(Ok(()), Err);
    }
    let document = Document {
        version: results::VERSION,
        machine,
        outpost: env!("CARGO_PKG_VERSION").into(),
        commit: results::commit(),
        debug_build: cfg!(debug_assertions),
        seed: options.seed,
        arguments: std::env::args().skip(1).collect(),
        started: since.as_secs().saturating_sub(started.elapsed().as_secs()),
        seconds: started.elapsed().as_secs_f64(),
        results: rows,
        charts: results.charts,
        notes: notes(results.notes),
    };
    screen.line("");
    screen.line(&report::table(&document));
    report::write(&document, &options.out)?;
    screen.line(&format!("Written to {}: report.json, report.md, report.html", options.out.display()));
    failed.map_or(Ok(()), Err)
}

/// What is measured, or why it cannot be.
fn chosen(options: &Options) -> Result<Vec<Scenario>, BenchError> {
    check_form(options)?;
    let mut chosen = if options.scenarios.is_empty() { Scenario::USUAL.to_vec() } else { options.scenarios.clone() };
    let any = &Scenario::OF_ANY_UPSTREAM;
    refuse(
        options,
        &mut chosen,
        options.upstream.is_some(),
        |scenario| !any.contains(scenario),
        |name| {
            format!(
                "{name} measures changes, and nobody knows when those of --upstream were due; with it measure {}, or leave it away",
                names(any)
            )
        },
    )?;
    let own = &Scenario::OF_OWN_RELAY;
    refuse(
        options,
        &mut chosen,
        options.relay.is_some(),
        |scenario| own.contains(scenario),
        |name| format!("{name} starts Outpost itself, as {} do; leave --relay away", names(own)),
    )?;
    if options.relay.is_some() && options.upstream.is_none() && options.listen.is_none() {
        return Err(BenchError::Usage(
            "--relay needs --listen: the address that the running Outpost has as its --upstream".into(),
        ));
    }
    Ok(chosen)
}

fn names(scenarios: &[Scenario]) -> String {
    scenarios.iter().map(|scenario| scenario.name()).collect::<Vec<_>>().join(", ")
}

/// Takes those away that are `unfit` where it matters: an error if they were asked for.
fn refuse(
    options: &Options,
    chosen: &mut Vec<Scenario>,
    matters: bool,
    unfit: impl Fn(&Scenario) -> bool,
    why: impl Fn(&str) -> String,
) -> Result<(), BenchError> {
    if !matters {
        return Ok(());
    }
    match options.scenarios.iter().find(|scenario| unfit(scenario)) {
        Some(scenario) => Err(BenchError::Usage(why(scenario.name()))),
        None => {
            chosen.retain(|scenario| !unfit(scenario));
            Ok(())
        }
    }
}

/// Whether the WAN can be emulated as is asked for.
fn check_form(options: &Options) -> Result<(), BenchError> {
    let usage = |text: String| Err(BenchError::Usage(text));
    if options.wan_form == Form::Userland {
        let packets = options.loss.is_some() || options.reorder.is_some() || options.congestion.is_some();
        return match packets {
            true => usage("--loss, --reorder and --congestion are of packets: add --wan-form tun".into()),
            false => Ok(()),
        };
    }
    if options.upstream.is_some() || options.relay.is_some() {
        return usage("--wan-form tun needs a control plane and an Outpost of the benchmark's own: leave --upstream and --relay away, or the form".into());
    }
    tun::usable()
        .or_else(|error| usage(format!("--wan-form tun {error}; leave it away to emulate the WAN in user space")))
}

fn begin(screen: &Screen, options: &Options, machine: &Machine) {
    screen.line(&format!(
        "{} cores ({}), seed {}. Each part is a process of its own; latency counts from when a change was due.",
        machine.cores, machine.processor, options.seed
    ));
    if cfg!(debug_assertions) {
        screen.line("This is a debug build: its figures say nothing. Build with --release.");
    }
    if machine.load > 0.5 {
        screen.line(&format!("The machine is not idle (load {:.1}): figures will say less.", machine.load));
    }
}

fn notes(more: Vec<String>) -> Vec<String> {
    let own = [
        "Everything runs on one machine: parts compete for its cores. Server CPU holds where latency does not.",
        "Where wan_form is not tun, the WAN is emulated in user space: delay, jitter, bandwidth and queue, but no loss, slow start or recovery. Its bytes are payload: those of TCP and IP heads, ACKs and packets sent again are not among them.",
        "Where wan_form is tun, the kernel's own TCP crosses the WAN, and its bytes are those of IP packets in both directions.",
        "A burst or a fan-out is over before a percentage of the time says much: swarm_busy is of the time until the last sidecar had it.",
    ];
    own.into_iter().map(str::to_owned).chain(more).collect()
}

/// A directory that goes with this.
struct Temporary(PathBuf);

impl Temporary {
    fn new() -> Result<Self, BenchError> {
        let path = std::env::temp_dir().join(format!("outpost-bench-{}", std::process::id()));
        let made = std::fs::create_dir_all(&path);
        made.map_err(|source| BenchError::Write { path: path.display().to_string(), source })?;
        Ok(Self(path))
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An authority for this run, and the certificate of its server.
fn certificates(directory: &Path) -> Result<Certificates, BenchError> {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate()?;
    let authority = params.self_signed(&key)?.pem();
    let issuer = rcgen::Issuer::new(params, key);
    let own = rcgen::KeyPair::generate()?;
    let names = vec![fleet::SERVER_NAME.to_owned()];
    let certificate = rcgen::CertificateParams::new(names)?.signed_by(&own, &issuer)?.pem();
    let write = |name: &str, text: &str| {
        let path = directory.join(name).display().to_string();
        match std::fs::write(&path, text) {
            Ok(()) => Ok(path),
            Err(source) => Err(BenchError::Write { path, source }),
        }
    };
    Ok(Certificates {
        certificate: write("server.pem", &certificate)?,
        key: write("server.key", &own.serialize_pem())?,
        authority: write("authority.pem", &authority)?,
    })
}
