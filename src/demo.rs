//! The demonstration: one command, one process, real sockets.
//!
//! A control plane stand-in, a WAN, an Outpost and some hundred sidecars,
//! three times over with the same changes: sidecars connected directly, through
//! Outpost with a group for each node, and grouped by workload. It shows live who
//! gets what how fast, cuts the WAN, and ends with a table and with checks; a
//! check that fails makes the exit code 1.
//!
//! The parts are those of [`crate::bench`]. How to start an Outpost is told by
//! the caller ([`Launch`]), because only the composition root knows.

mod limits;
mod report;
mod scenario;

use crate::bench::screen::Screen;
use crate::xds::Variant;
use clap::{Args, ValueEnum};
use futures_util::future::BoxFuture;
use std::net::SocketAddr;
use std::time::Duration;

/// Show what Outpost does: a control plane, a WAN, an Outpost, many sidecars
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How many sidecars
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=4000))]
    pub sidecars: u32,
    /// About how long it takes; what must be waited for is waited for
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(3..=3600))]
    pub seconds: u32,
    /// How many workloads the sidecars belong to
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub workloads: u32,
    /// Changes in each second
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rate: u32,
    /// Delay of the WAN in milliseconds, one way
    #[arg(long, value_name = "MS", default_value_t = 80, value_parser = clap::value_parser!(u32).range(0..=2000))]
    pub delay: u32,
    /// Bandwidth of the WAN in Mbit/s, each way
    #[arg(long, value_name = "MBIT", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub bandwidth: u32,
    /// Sidecars speak state-of-the-world xDS, not delta
    #[arg(long)]
    pub sotw: bool,
    /// Seed of the changes
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Only these, separated by commas
    #[arg(long, value_name = "MODE", value_delimiter = ',', default_value = "direct,node,workload")]
    pub mode: Vec<Mode>,
}

impl Options {
    fn variant(&self) -> Variant {
        if self.sotw { Variant::Sotw } else { Variant::Delta }
    }

    /// The share of the time that one mode may take, by parts of a hundred.
    fn share(&self, percent: u32) -> Duration {
        let modes = u32::try_from(self.mode.len()).unwrap_or(1).max(1);
        Duration::from_secs(u64::from(self.seconds)) * percent / 100 / modes
    }
}

/// What stands between the sidecars and the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// The WAN only
    Direct,
    /// Outpost, with a group for each node
    Node,
    /// Outpost, with a group for each workload
    Workload,
}

impl Mode {
    fn title(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Node => "group per node",
            Self::Workload => "group per workload",
        }
    }

    /// The rule of grouping, as `outpost serve --group` takes it.
    fn rule(self) -> Option<&'static str> {
        match self {
            Self::Direct => None,
            Self::Node => Some("perNode"),
            Self::Workload => Some("{cluster}"),
        }
    }
}

/// A running Outpost.
pub struct Relay {
    /// Where it serves sidecars.
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// Ends it when awaited, or when dropped.
    pub stop: BoxFuture<'static, ()>,
}

/// Starts an Outpost in this process with these flags of `outpost serve`, or
/// says why it cannot.
pub type Launch<'a> = dyn Fn(Vec<String>) -> BoxFuture<'static, Result<Relay, String>> + Send + Sync + 'a;

/// Why the demonstration could not be shown.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    #[error(
        "the demonstration needs {needed} open files, and the limit is {limit}: run `ulimit -n {needed}`, or show fewer --sidecars"
    )]
    Files { needed: u64, limit: u64 },
    #[error("cannot listen on 127.0.0.1: {0}")]
    Listen(#[from] std::io::Error),
    #[error("cannot start Outpost: {0}")]
    Relay(String),
}

/// Shows it. True where every check passed.
pub async fn run(options: &Options, launch: &Launch<'_>) -> Result<bool, DemoError> {
    limits::raise(options.sidecars)?;
    let screen = Screen::stdout();
    tokio::select! {
        shown = show(options, launch, &screen) => shown,
        _ = tokio::signal::ctrl_c() => {
            screen.line("Interrupted: everything is shut down.");
            Ok(true)
        }
    }
}

async fn show(options: &Options, launch: &Launch<'_>, screen: &Screen) -> Result<bool, DemoError> {
    screen.line(&format!(
        "{} sidecars of {} workloads, a control plane {} ms away each way at {} Mbit/s, {} changes a second.\n\
         Everything runs in this process, over sockets of 127.0.0.1. About {} s; Ctrl-C ends it.",
        options.sidecars, options.workloads, options.delay, options.bandwidth, options.rate, options.seconds
    ));
    let mut outcomes = Vec::new();
    for mode in &options.mode {
        outcomes.push(scenario::play(*mode, options, launch, screen).await?);
    }
    screen.line("");
    screen.line(&report::table(options, &outcomes));
    let checks: Vec<_> = outcomes.iter().flat_map(report::checks).collect();
    for check in &checks {
        screen.line(&check.to_string());
    }
    let failed = checks.iter().filter(|check| !check.passed).count();
    screen.line(&match failed {
        0 => format!("\nAll {} checks passed.", checks.len()),
        failed => format!("\n{failed} of {} checks FAILED.", checks.len()),
    });
    Ok(failed == 0)
}
