//! Arguments, runtime, exit code.

use clap::Parser;
use outpost::cli::{self, Cli, Failure, Outcome, Verb};
use outpost::config::{Config, Flags};
use outpost::demo;
use outpost::logs;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Bad usage ends here, with code 2.
    let verb = Cli::parse().verb;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return cli::exit(Err(Failure::Internal(format!("cannot start threads: {error}")))),
    };
    cli::exit(runtime.block_on(run(verb)))
}

async fn run(verb: Verb) -> Result<Outcome, Failure> {
    match verb {
        Verb::Serve(flags) => serve(&flags).await,
        Verb::Status(status) => status.run().await,
        Verb::Explain(explain) => explain.run().await,
        Verb::Demo(options) => demo(&options).await,
        Verb::Version(version) => version.run(),
    }
}

async fn demo(options: &demo::Options) -> Result<Outcome, Failure> {
    let launch = |_| -> futures_util::future::BoxFuture<'static, Result<demo::Relay, String>> {
        Box::pin(async { Err("serve is not wired yet; --mode direct works".to_owned()) })
    };
    match demo::run(options, &launch).await {
        Ok(true) => Ok(Outcome::Good),
        Ok(false) => Ok(Outcome::Finding),
        Err(error @ demo::DemoError::Files { .. }) => Err(Failure::Config(error.to_string())),
        Err(error) => Err(Failure::Internal(error.to_string())),
    }
}

async fn serve(flags: &Flags) -> Result<Outcome, Failure> {
    let config = Config::check(flags).map_err(|problems| Failure::Config(problems.to_string()))?;
    logs::start(&config.log);
    Err(Failure::Internal("serve is not wired yet".into()))
}
