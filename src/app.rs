//! The composition root: the only module that knows the others.
//!
//! [`start`] makes every part of a checked configuration and joins them;
//! [`Running::stop`] takes them down in order: not ready, no new connection,
//! streams ended over the drain window, then the rest. [`Running::follow`] lets a
//! changed configuration count meanwhile.

mod reload;
mod reports;
mod tasks;

pub use tasks::Broken;

use crate::admin::ready::Facts;
use crate::admin::{self, AdminError, Sources};
use crate::clock::Clock;
use crate::config::{Config, Given, Layers, Traces};
use crate::content::Store;
use crate::downstream::{self, Downstream, Parts, Policy, SettingsError};
use crate::exchange::{Exchange, Past};
use crate::logs::Levels;
use crate::persist::{self, Persist};
use crate::traces::{Patches, TraceError};
use crate::transport::server::{self, BindError, Listen};
use crate::upstream::{self, Files, SetupError, Source, Upstream};
use crate::xds::Timing;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;
use reload::Reload;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tasks::Tasks;
use tokio::sync::{Notify, oneshot};

/// Diffs and frames that nobody asked for in one to two such spans are forgotten.
const SWEEP: Duration = Duration::from_secs(5);

/// How often health checks are told of a change of readiness.
const READY_LOOK: Duration = Duration::from_millis(100);

/// At the end the newest changes have this long to reach the disk.
const FINISH: Duration = Duration::from_secs(3);

/// What tests choose and operators do not.
#[derive(Clone, Debug)]
pub struct Options {
    pub clock: Clock,
    pub timing: Timing,
    pub upstream: upstream::Settings,
    /// Of the log, for the admin endpoint to change.
    pub levels: Levels,
    /// Where traces are asked for; by the same clock.
    pub patches: Option<Arc<Patches>>,
}

impl Default for Options {
    fn default() -> Self {
        let timing = Timing::default();
        let upstream = upstream::Settings { timing: timing.clone(), ..upstream::Settings::default() };
        Self { clock: Clock::system(), timing, upstream, levels: Levels::default(), patches: None }
    }
}

impl Options {
    /// Patches are traced, where that is asked for. Needs a runtime.
    pub fn traced(self, asked: Option<Traces>) -> Result<Self, TraceError> {
        let start = |Traces { named }| Patches::otlp(self.clock.clone(), named);
        Ok(Self { patches: asked.map(start).transpose()?, ..self })
    }
}

/// Why an Outpost could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{0}")]
    Admin(#[from] AdminError),
    #[error("--listen: {0}")]
    Bind(#[from] BindError),
    #[error("{0}")]
    Downstream(#[from] SettingsError),
    #[error("--upstream: {0}")]
    Upstream(#[from] SetupError),
    #[error("--persist-encryption-key-file {0}")]
    PersistKey(#[from] persist::KeyError),
}

/// An Outpost that runs. Dropping it ends everything at once.
pub struct Running {
    admin: SocketAddr,
    downstream: Arc<Downstream>,
    upstream: Source,
    exchange: Arc<Exchange>,
    store: Arc<Store>,
    persist: Option<Arc<Persist>>,
    draining: Arc<AtomicBool>,
    configuration: Arc<reload::State>,
    levels: Levels,
    clock: Clock,
    timing: Timing,
    patches: Option<Arc<Patches>>,
    admin_stop: Option<oneshot::Sender<()>>,
    tasks: Tasks,
}

/// Binds everything, then begins. Needs a runtime.
pub async fn start(config: Config, options: Options) -> Result<Running, StartError> {
    let Options { clock, timing, upstream: upstream_settings, levels, patches } = options;
    let store = Store::new();
    let mut registry = Registry::with_prefix("outpost");
    let exchange = Exchange::new(store.clone(), timing.clone(), clock.clone());
    registry.register("build", "The program that runs", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
    exchange.limit_private(config.downstream.private_groups);
    exchange.register(&mut registry);
    let persist = persist(&config, &timing, (&exchange, &store), &clock, &mut registry).await?;
    let upstream = source(&config, upstream_settings, &exchange, &clock, &mut registry)?;
    let listener = admin::bind(config.admin).await?;
    let admin = listener.local_addr().unwrap_or(config.admin.address);
    let below = registry.sub_registry_with_prefix("downstream");
    let parts = Parts {
        exchange: exchange.clone(),
        store: store.clone(),
        clock: clock.clone(),
        metrics: downstream::Metrics::register(below, patches.is_some()),
        connections: server::Metrics::register(below),
        patches: patches.clone(),
    };
    let policy = Policy::of(&config, timing.clone());
    let downstream = Arc::new(downstream::serve(downstream::Settings::of(&config, &clock)?, policy, parts)?);
    attach(persist.as_deref(), &downstream, &upstream);
    let configuration = reload::State::register(&mut registry, config.downstream.drain, clock.now());

    let draining = Arc::new(AtomicBool::new(false));
    let facts = facts(draining.clone(), exchange.clone(), upstream.clone(), persist.clone());
    let (admin_stop, stopped) = oneshot::channel();
    let sources = sources(
        registry,
        facts.clone(),
        (&downstream, &upstream, &exchange, &persist),
        &clock,
        &configuration,
        &levels,
    );
    let mut running = Running {
        admin,
        downstream,
        upstream,
        exchange,
        store,
        persist,
        draining,
        configuration,
        levels,
        clock,
        timing,
        patches,
        admin_stop: Some(admin_stop),
        tasks: Tasks::default(),
    };
    running.begin(facts);
    let until = async {
        let _ = stopped.await;
    };
    running.tasks.spawn("the admin endpoint", admin::serve(listener, sources, until));
    Ok(running)
}

/// The control plane, or the files in its place.
fn source(
    config: &Config,
    settings: upstream::Settings,
    exchange: &Arc<Exchange>,
    clock: &Clock,
    registry: &mut Registry,
) -> Result<Source, SetupError> {
    let (exchange, clock) = (exchange.clone(), clock.clone());
    if let Some(directory) = &config.files {
        return Ok(Source::Files(Files::new(directory, exchange, clock, registry)));
    }
    let metrics = upstream::Metrics::register(registry);
    Ok(Source::ControlPlane(Upstream::new(&config.upstream, settings, exchange, clock, metrics)?))
}

/// What an earlier process kept, where that is asked for.
async fn persist(
    config: &Config,
    timing: &Timing,
    (exchange, store): (&Arc<Exchange>, &Arc<Store>),
    clock: &Clock,
    registry: &mut Registry,
) -> Result<Option<Arc<Persist>>, persist::KeyError> {
    let Some(asked) = &config.persist else { return Ok(None) };
    let settings = persist::Settings {
        directory: asked.directory.clone(),
        most: asked.max_bytes as u64,
        key: asked.key_file.as_deref().map(persist::Key::read).transpose()?,
        cluster: asked.cluster.clone(),
        upstreams: config.upstream.endpoints.iter().map(|it| format!("{}:{}", it.host, it.port)).collect(),
        rules: config.rules.fingerprint(),
        sensitive: config.rules.sensitive().to_vec(),
        forget: timing.group_forget,
    };
    let persist = Persist::open(settings, store.clone(), clock.clone(), registry).await;
    let known: Arc<dyn Past> = persist.clone();
    exchange.keep(Arc::downgrade(&known));
    Ok(Some(persist))
}

/// The cache hears of what was made after it.
fn attach(persist: Option<&Persist>, downstream: &Arc<Downstream>, upstream: &Source) {
    let (downstream, upstream) = (downstream.clone(), upstream.clone());
    let around = persist::Around {
        sensitive: Box::new(move || downstream.sensitive().to_vec()),
        connected: Box::new(move || upstream.is_connected()),
    };
    if let Some(persist) = persist {
        persist.attach(around);
    }
}

/// What the admin endpoint answers with.
fn sources(
    registry: Registry,
    facts: impl Fn() -> Facts + Send + Sync + 'static,
    (downstream, upstream, exchange, persist): (&Arc<Downstream>, &Source, &Arc<Exchange>, &Option<Arc<Persist>>),
    clock: &Clock,
    configuration: &Arc<reload::State>,
    levels: &Levels,
) -> Sources {
    Sources {
        registry,
        facts: Box::new(facts),
        certificate: reports::certificate(downstream.clone()),
        notices: reports::notices(downstream.clone(), exchange.clone(), persist.clone(), clock.clone()),
        disk: reports::disk(persist.clone(), exchange.clone(), clock.clone()),
        files: reports::files(upstream.clone()),
        clients: reports::clients(downstream.clone(), clock.clone()),
        groups: reports::groups(exchange.clone(), clock.clone()),
        upstreams: reports::upstreams(upstream.clone(), clock.clone()),
        explain: reports::explain(downstream.clone(), exchange.clone(), clock.clone()),
        configuration: reports::configuration(configuration.clone(), clock.clone()),
        dump: reports::dump(downstream.clone(), exchange.clone(), clock.clone()),
        room: admin::dump::Room::default(),
        levels: reports::levels(levels.clone(), clock.clone()),
    }
}

/// What readiness depends on, as it is when asked.
fn facts(
    draining: Arc<AtomicBool>,
    exchange: Arc<Exchange>,
    upstream: Source,
    persist: Option<Arc<Persist>>,
) -> impl Fn() -> Facts + Clone + Send + Sync + 'static {
    move || Facts {
        listening: true,
        draining: draining.load(Ordering::Relaxed),
        holding: exchange.holds_a_snapshot() || persist.as_ref().is_some_and(|persist| persist.holds()),
        connected: upstream.is_connected(),
        files: upstream.files().is_some(),
    }
}

/// Lets the store forget diffs and frames that nobody asks for any more.
async fn sweep(store: Arc<Store>, clock: Clock) {
    loop {
        clock.sleep_until(clock.now() + SWEEP).await;
        store.sweep();
    }
}

/// Health checks over gRPC say what `/readyz` says.
async fn tell_health(downstream: Arc<Downstream>, clock: Clock, facts: impl Fn() -> Facts) {
    let mut told = None;
    loop {
        let ready = facts().ready();
        if told != Some(ready) {
            downstream.set_ready(ready).await;
            tracing::info!(ready, "readiness");
            told = Some(ready);
        }
        clock.sleep_until(clock.now() + READY_LOOK).await;
    }
}

impl Running {
    /// What runs as long as the process does, but for the admin endpoint.
    fn begin(&mut self, facts: impl Fn() -> Facts + Send + 'static) {
        let Self { tasks, exchange, upstream, store, downstream, levels, clock, patches, persist, .. } = self;
        if let Some(persist) = persist {
            tasks.spawn("keeping what is held on disk", persist.clone().run(exchange.clone()));
        }
        if let Some(patches) = patches {
            exchange.trace(patches.clone());
            tasks.spawn("following patches", patches.clone().run());
        }
        tasks.spawn("the exchange", exchange.clone().run());
        tasks.spawn("the upstream side", upstream.clone().run());
        tasks.spawn("the sweep of the store", sweep(store.clone(), clock.clone()));
        tasks.spawn("the levels of the log", levels.clone().run(clock.clone()));
        tasks.spawn("the watch over readiness", tell_health(downstream.clone(), clock.clone(), facts));
        let keys = downstream.clone();
        tasks.spawn("fetching the keys of tokens", async move { keys.keep_keys().await });
        let accepting = downstream.clone();
        tasks.spawn("accepting sidecars", async move { accepting.broke().await });
    }

    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Where sidecars are served, with the ports that the system chose.
    pub fn addresses(&self) -> &[Listen] {
        self.downstream.addresses()
    }

    pub fn exchange(&self) -> &Arc<Exchange> {
        &self.exchange
    }

    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// What is kept on disk, where that is asked for.
    pub fn persist(&self) -> Option<&Arc<Persist>> {
        self.persist.as_ref()
    }

    pub fn upstream(&self) -> &Source {
        &self.upstream
    }

    pub fn downstream(&self) -> &Arc<Downstream> {
        &self.downstream
    }

    /// Reads the configuration again when its file changes, and when `asked`.
    /// `layers` are what it was started with.
    pub fn follow(&mut self, given: &Given, layers: Layers, asked: Arc<Notify>) {
        let reload = Reload {
            given: given.clone(),
            state: self.configuration.clone(),
            downstream: self.downstream.clone(),
            levels: self.levels.clone(),
            timing: self.timing.clone(),
            clock: self.clock.clone(),
            asked,
        };
        self.tasks.spawn("the watch over the configuration", reload.run(layers));
    }

    /// Returns when a part ended that should not: the process is to end.
    pub async fn broke(&mut self) -> Broken {
        self.tasks.broke().await
    }

    /// Not ready, no new connection, GOAWAY; streams end spread over the drain
    /// window. The admin endpoint answers until the end.
    pub async fn stop(mut self) {
        self.draining.store(true, Ordering::Relaxed);
        self.downstream.drain(self.configuration.drain()).await;
        if let Some(stop) = self.admin_stop.take() {
            let _ = stop.send(());
        }
        if let Some(persist) = &self.persist {
            persist.finish(&self.exchange, FINISH).await;
        }
        self.tasks.shutdown().await;
        if let Some(patches) = self.patches.take() {
            // It waits for the collector, and not for long.
            let _ = tokio::task::spawn_blocking(move || patches.shutdown()).await;
        }
    }
}
