//! The command line: one file for each verb but `serve`.
//!
//! Data goes to stdout, messages to stderr. Exit codes, in every format:
//! 0 good, 1 a finding, 2 usage, 3 configuration not valid, 4 cannot reach,
//! 5 timed out, 70 a fault of this program. What is printed, and what of it a
//! filter takes, is decided in one place for all verbs (`output`).
//!
//! `serve` is run by `main`, which knows the composition root.

mod bootstrap;
mod check;
mod completions;
mod config;
mod config_dump;
mod describe;
mod explain;
mod fetch;
mod get;
mod log_level;
mod output;
mod status;
mod text;
mod version;
mod watch;
mod yaml;

use crate::config::{Admin, Given};
use clap::{Args, Parser, Subcommand};
use output::Format;
use std::io::Write;
use std::process::ExitCode;

/// A remote control plane for service meshes: relays any xDS server to the
/// sidecars near it.
#[derive(Debug, Parser)]
#[command(name = "outpost", version, max_term_width = 110, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 good, 1 a finding, 2 usage, 3 configuration not valid, 4 cannot reach, \
                          5 timed out, 70 a fault of this program";

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Relay a control plane to sidecars
    Serve(Box<Given>),
    /// Who is in sync, and who is not
    Status(status::Status),
    /// Lists of sidecars, groups, upstreams and resources
    Get(get::Get),
    /// Everything about one sidecar, group or upstream
    Describe(describe::Describe),
    /// What is held, with its content, as Envoy shows it; no secrets
    ConfigDump(config_dump::ConfigDump),
    /// Why a sidecar has a resource, or has it not
    Explain(explain::Explain),
    /// What keeps an Outpost of this configuration from serving, or would
    Check(check::Check),
    /// Check, describe and explain the configuration of outpost serve
    Config(config::Config),
    /// Show what is logged, and log more for a while
    LogLevel(log_level::LogLevel),
    /// Write the bootstrap of an Envoy that is served by Outpost
    EnvoyBootstrap(bootstrap::EnvoyBootstrap),
    Demo(crate::demo::Options),
    Bench(Box<crate::bench::Command>),
    /// Write what a shell needs to complete command lines
    Completions(completions::Completions),
    /// Which program this is
    Version(version::Version),
}

/// Which Outpost to ask, and how to print what it says.
#[derive(Args, Clone, Debug)]
pub struct Asking {
    /// Its admin endpoint
    #[arg(long, env = "OUTPOST_ADMIN", value_name = "ADDR", default_value = Admin::DEFAULT)]
    pub admin: String,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub output: Format,
}

/// What a verb found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Good,
    /// There is something that somebody should look at.
    Finding,
    /// The configuration is not valid.
    Invalid,
    /// What was waited for did not come.
    TimedOut,
}

/// Why a verb could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Config(String),
    #[error(
        "cannot reach the admin endpoint at {address} ({reason}); is outpost running there? --admin or OUTPOST_ADMIN names another"
    )]
    Unreachable { address: String, reason: String },
    /// Something else that must be reachable is not.
    #[error("{0}")]
    CannotReach(String),
    #[error("the admin endpoint at {0} did not answer within 10 s")]
    Timeout(String),
    /// Something else that was waited for did not come.
    #[error("{0}")]
    TimedOut(String),
    #[error("{0}")]
    Internal(String),
}

impl Failure {
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Config(_) => 3,
            Self::Unreachable { .. } | Self::CannotReach(_) => 4,
            Self::Timeout(_) | Self::TimedOut(_) => 5,
            Self::Internal(_) => 70,
        }
    }
}

/// Prints what failed, and gives the process its code.
pub fn exit(result: Result<Outcome, Failure>) -> ExitCode {
    match result {
        Ok(Outcome::Good) => ExitCode::SUCCESS,
        Ok(Outcome::Finding) => ExitCode::from(1),
        Ok(Outcome::Invalid) => ExitCode::from(3),
        Ok(Outcome::TimedOut) => ExitCode::from(5),
        Err(failure) => {
            eprintln!("outpost: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

impl status::Status {
    pub async fn run(self) -> Result<Outcome, Failure> {
        status::run(&self).await
    }
}

impl check::Check {
    pub async fn run(self) -> Result<Outcome, Failure> {
        let (text, outcome) = check::run(&self).await?;
        print(&text)?;
        Ok(outcome)
    }
}

impl get::Get {
    pub async fn run(self) -> Result<Outcome, Failure> {
        get::run(&self).await
    }
}

impl describe::Describe {
    pub async fn run(self) -> Result<Outcome, Failure> {
        let (text, outcome) = describe::run(&self).await?;
        print(&text)?;
        Ok(outcome)
    }
}

impl config_dump::ConfigDump {
    pub async fn run(self) -> Result<Outcome, Failure> {
        config_dump::run(&self).await
    }
}

impl log_level::LogLevel {
    pub async fn run(self) -> Result<Outcome, Failure> {
        print(&log_level::run(&self).await?)?;
        Ok(Outcome::Good)
    }
}

impl bootstrap::EnvoyBootstrap {
    pub fn run(self) -> Result<Outcome, Failure> {
        print(&bootstrap::text(&self)?)?;
        Ok(Outcome::Good)
    }
}

impl completions::Completions {
    pub fn run(self) -> Result<Outcome, Failure> {
        print(&completions::text(self)?)?;
        Ok(Outcome::Good)
    }
}

impl explain::Explain {
    pub async fn run(self) -> Result<Outcome, Failure> {
        let (text, outcome) = explain::run(&self).await?;
        print(&text)?;
        Ok(outcome)
    }
}

impl config::Config {
    pub fn run(self) -> Result<Outcome, Failure> {
        print(&config::text(&self)?)?;
        Ok(Outcome::Good)
    }
}

impl version::Version {
    pub fn run(self) -> Result<Outcome, Failure> {
        print(&version::text(self)?)?;
        Ok(Outcome::Good)
    }
}

/// Data, all at once.
fn print(text: &str) -> Result<(), Failure> {
    print_bytes(text.as_bytes())
}

/// A reader that went away (`| head`) is no fault.
fn print_bytes(data: &[u8]) -> Result<(), Failure> {
    match std::io::stdout().write_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Internal(format!("cannot write to stdout: {error}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }
}
