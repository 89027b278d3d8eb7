//! Arguments, runtime, exit code.

use clap::Parser;
use futures_util::future::BoxFuture;
use outpost::app;
use outpost::bench::process::BenchError;
use outpost::bench::{self, part};
use outpost::cli::{self, Cli, Failure, Outcome, Verb};
use outpost::config::{Given, Layers, Traces, unknown_variables};
use outpost::demo;
use outpost::logs;
use outpost::traces::{Ended, Patches};
use outpost::transport::server::Listen;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    // Bad usage ends here, with code 2.
    let result = match Cli::parse().verb {
        // It runs no part of itself: they are other processes.
        Verb::Bench(command) => bench(&command),
        verb => runtime(None).and_then(|runtime| {
            let result = runtime.block_on(run(verb));
            // Not longer: a disk that hangs must not keep the process.
            runtime.shutdown_timeout(Duration::from_secs(1));
            result
        }),
    };
    cli::exit(result)
}

/// Of as many threads as there are cores, or of this one alone.
fn runtime(threads: Option<usize>) -> Result<Runtime, Failure> {
    let built = match threads {
        Some(1) => Builder::new_current_thread().enable_all().build(),
        _ => Builder::new_multi_thread().enable_all().build(),
    };
    built.map_err(|error| Failure::Internal(format!("cannot start threads: {error}")))
}

async fn run(verb: Verb) -> Result<Outcome, Failure> {
    match verb {
        Verb::Serve(given) => serve(&given).await,
        Verb::Status(status) => status.run().await,
        Verb::Get(get) => get.run().await,
        Verb::Describe(describe) => describe.run().await,
        Verb::ConfigDump(dump) => dump.run().await,
        Verb::Explain(explain) => explain.run().await,
        Verb::Check(check) => check.run().await,
        Verb::Config(config) => config.run(),
        Verb::LogLevel(level) => level.run().await,
        Verb::EnvoyBootstrap(bootstrap) => bootstrap.run(),
        Verb::Completions(completions) => completions.run(),
        Verb::Demo(options) => demo(&options).await,
        Verb::Bench(command) => bench(&command),
        Verb::Version(version) => version.run(),
    }
}

fn bench(command: &bench::Command) -> Result<Outcome, Failure> {
    match &command.what {
        None => bench::run(&command.options).map(|()| Outcome::Good).map_err(|error| match error {
            BenchError::Usage(_) => Failure::Usage(error.to_string()),
            BenchError::Limit(_) => Failure::Config(error.to_string()),
            BenchError::Patience { .. } => Failure::TimedOut(error.to_string()),
            _ => Failure::Internal(error.to_string()),
        }),
        Some(bench::What::Compare(options)) => {
            let (text, failed) = bench::compare::run(options).map_err(|error| Failure::Usage(error.to_string()))?;
            print!("{text}");
            Ok(if failed { Outcome::Finding } else { Outcome::Good })
        }
        Some(bench::What::Part { spec }) => bench_part(spec),
    }
}

fn bench_part(spec: &str) -> Result<Outcome, Failure> {
    let spec: part::Spec =
        serde_json::from_str(spec).map_err(|error| Failure::Usage(part::PartError::from(error).to_string()))?;
    let runtime = runtime(Some(spec.threads()))?;
    let launch =
        |flags: Vec<String>, stages: Option<part::Stages>| -> BoxFuture<'static, Result<part::Running, String>> {
            Box::pin(async move {
                let relay = relay(flags, stages).await?;
                Ok(part::Running { address: relay.address, admin: relay.admin, stop: relay.stop })
            })
        };
    let ended = runtime.block_on(part::run(spec, &launch));
    ended.map(|()| Outcome::Good).map_err(|error| Failure::Internal(error.to_string()))
}

/// An Outpost that tells its stages, where they are asked for.
fn observed(stages: Option<part::Stages>) -> app::Options {
    let Some(stages) = stages else { return app::Options::default() };
    let clock = stages.clock.clone();
    let tell = move |ended: Ended| {
        stages.tell(part::Ended {
            label: ended.commit.label,
            received: ended.patch.received,
            committed: ended.commit.at,
            first: ended.first,
            written: ended.written,
            answered: ended.answered,
            streams: ended.sent,
        });
    };
    app::Options { patches: Some(Patches::observed(clock.clone(), tell)), clock, ..app::Options::default() }
}

async fn demo(options: &demo::Options) -> Result<Outcome, Failure> {
    let launch =
        |flags: Vec<String>| -> BoxFuture<'static, Result<demo::Relay, String>> { Box::pin(relay(flags, None)) };
    match demo::run(options, &launch).await {
        Ok(true) => Ok(Outcome::Good),
        Ok(false) => Ok(Outcome::Finding),
        Err(error @ demo::DemoError::Files { .. }) => Err(Failure::Config(error.to_string())),
        Err(error) => Err(Failure::Internal(error.to_string())),
    }
}

/// An Outpost in this process, with these flags of `outpost serve`.
async fn relay(flags: Vec<String>, stages: Option<part::Stages>) -> Result<demo::Relay, String> {
    let arguments = ["outpost", "serve"].into_iter().map(str::to_owned).chain(flags);
    let Verb::Serve(given) = Cli::try_parse_from(arguments).map_err(|error| error.to_string())?.verb else {
        return Err("these are not flags of serve".into());
    };
    let config = Layers::read(&given).check().map_err(|problems| problems.to_string())?;
    let running = app::start(config, observed(stages)).await.map_err(|error| error.to_string())?;
    let tcp = running.addresses().iter().find_map(|address| match address {
        Listen::Tcp(address) => Some(*address),
        Listen::Unix(_) => None,
    });
    let address = tcp.ok_or("it listens on no TCP address")?;
    Ok(demo::Relay { address, admin: running.admin(), stop: Box::pin(running.stop()) })
}

async fn serve(given: &Given) -> Result<Outcome, Failure> {
    let layers = Layers::read(given);
    let config = layers.check().map_err(|problems| Failure::Config(problems.to_string()))?;
    let levels = logs::start(&config.log);
    for warning in config.warnings() {
        tracing::warn!("{}", layers.reword(warning));
    }
    for warning in unknown_variables() {
        tracing::warn!("{warning}");
    }
    let internal = |error| Failure::Internal(format!("cannot listen for signals: {error}"));
    let mut signals = Signals::new().map_err(internal)?;
    let wanted = config.admin.address;
    let options = app::Options { levels, ..app::Options::default() };
    let asked = Traces::asked().map_err(|error| Failure::Config(error.to_string()))?;
    let options = options.traced(asked).map_err(|error| Failure::Config(error.to_string()))?;
    let start = app::start(config, options).await;
    let mut running = start.map_err(|error| Failure::Config(layers.reword(&error.to_string())))?;
    for address in running.addresses() {
        tracing::info!(%address, "sidecars are served");
    }
    if wanted.port() == 0 || running.admin() == wanted {
        tracing::info!(address = %running.admin(), "operators are answered");
    } else {
        tracing::warn!(address = %running.admin(), %wanted, "operators are answered on a free port: the default is taken");
    }
    let reload = Arc::new(Notify::new());
    running.follow(given, layers, reload.clone());
    tokio::select! {
        () = signals.next(&reload) => {}
        broken = running.broke() => {
            tracing::error!(part = broken.part, how = ?broken.how, "a part of the program ended; the process ends");
            return Err(Failure::Internal(broken.to_string()));
        }
    }
    tracing::info!("stopping: streams end over the drain window; a second signal ends them at once");
    tokio::select! {
        () = running.stop() => {}
        () = signals.next(&reload) => {}
    }
    Ok(Outcome::Good)
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Returns when the process is to end; SIGHUP asks for the configuration to be
    /// read again.
    async fn next(&mut self, reload: &Notify) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => reload.notify_one(),
            }
        }
    }
}
