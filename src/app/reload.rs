//! The configuration while the process runs: its file is read again when it
//! changes, and on SIGHUP.
//!
//! What a file says is compared, not when it was written, so that a symlink that
//! is swapped, as Kubernetes does it, is seen too. A file that is not valid changes
//! nothing: what runs stays, and the problem is told. Of a valid one the settings
//! that [can be replaced under way](Setting::is_live) count at once, for streams
//! that begin from then on; the others are named until the process is restarted. What
//! counts is checked as a whole: live settings that are not valid beside what the
//! process was started with wait for the restart too.

use crate::admin::report;
use crate::clock::Clock;
use crate::config::{Config, Given, Layers, Problems, Setting, Value};
use crate::downstream::{Downstream, Policy};
use crate::logs::Levels;
use crate::xds::{Moment, Timing};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::Notify;

/// How often the file is looked at. It counts once it stood this long.
const LOOK: Duration = Duration::from_millis(500);

/// What is in force, and how the last reading went.
#[derive(Debug)]
pub(super) struct State {
    now: Mutex<Now>,
    succeeded: Gauge,
    succeeded_at: Gauge,
    pending: Gauge,
}

#[derive(Debug)]
struct Now {
    file: Option<String>,
    drain: Duration,
    read: Moment,
    problem: Option<(Moment, String)>,
    /// Keys that wait for a restart.
    pending: Vec<&'static str>,
}

impl State {
    pub(super) fn register(registry: &mut Registry, drain: Duration, now: Moment) -> Arc<Self> {
        let below = registry.sub_registry_with_prefix("config");
        let now = Now { file: None, drain, read: now, problem: None, pending: Vec::new() };
        let state = Self {
            now: now.into(),
            succeeded: Gauge::default(),
            succeeded_at: Gauge::default(),
            pending: Gauge::default(),
        };
        below.register("last_reload_successful", "1 unless the file was not valid", state.succeeded.clone());
        let help = "When the configuration was last read and valid";
        let unit = Unit::Other("timestamp_seconds".into());
        below.register_with_unit("last_reload_success", help, unit, state.succeeded_at.clone());
        below.register("restart_pending", "Settings that wait for a restart", state.pending.clone());
        state.count();
        state.into()
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spread of the ends of streams.
    pub(super) fn drain(&self) -> Duration {
        self.lock().drain
    }

    pub(super) fn report(&self, now: Moment) -> report::Configuration {
        let state = self.lock();
        report::Configuration {
            file: state.file.clone(),
            read_seconds: now.since(state.read).into(),
            problem: state.problem.as_ref().map(|(_, text)| text.clone()),
            problem_seconds: state.problem.as_ref().map(|(since, _)| now.since(*since).into()),
            needs_restart: state.pending.iter().map(|key| (*key).to_owned()).collect(),
        }
    }

    /// A valid configuration was read.
    fn count(&self) {
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        self.succeeded.set(1);
        self.succeeded_at.set(i64::try_from(seconds).unwrap_or(i64::MAX));
        self.pending.set(i64::try_from(self.lock().pending.len()).unwrap_or(i64::MAX));
    }

    fn good(&self, now: Moment, drain: Duration, pending: Vec<&'static str>) {
        let mut state = self.lock();
        (state.drain, state.read, state.problem, state.pending) = (drain, now, None, pending);
        drop(state);
        self.count();
    }

    fn bad(&self, now: Moment, problem: String) {
        tracing::warn!(%problem, "the configuration was read again and is not valid; what ran before runs on");
        self.lock().problem = Some((now, problem));
        self.succeeded.set(0);
    }
}

/// Reads the configuration again as long as the process runs.
pub(super) struct Reload {
    pub given: Given,
    pub state: Arc<State>,
    pub downstream: Arc<Downstream>,
    pub levels: Levels,
    pub timing: Timing,
    pub clock: Clock,
    /// Somebody asks for it.
    pub asked: Arc<Notify>,
}

/// Texts by key.
type Texts = BTreeMap<&'static str, Vec<String>>;

fn texts(values: &[Value]) -> Texts {
    values.iter().map(|value| (value.setting.key, value.texts.clone())).collect()
}

/// Keys whose texts differ.
fn differ(one: &Texts, other: &Texts) -> Vec<&'static str> {
    one.iter().filter(|(key, texts)| other.get(*key) != Some(texts)).map(|(key, _)| *key).collect()
}

impl Reload {
    /// `started` is what the process was started with.
    pub(super) async fn run(self, started: Layers) {
        self.state.lock().file = self.given.file().map(str::to_owned);
        let started = Arc::new(started);
        let mut in_force = texts(started.values());
        let mut seen = self.look().await;
        let mut settling = None;
        loop {
            let asked = tokio::select! {
                () = self.asked.notified() => true,
                () = self.clock.sleep_until(self.clock.now() + LOOK) => false,
            };
            let look = self.look().await;
            let settled = look != seen && settling.as_ref() == Some(&look);
            if asked || settled {
                self.read(&started, &mut in_force).await;
                seen = look;
                settling = None;
            } else {
                settling = (look != seen).then_some(look);
            }
        }
    }

    /// What the file holds, or why it cannot be read.
    async fn look(&self) -> Option<Result<Vec<u8>, String>> {
        let read = tokio::fs::read(self.given.file()?).await;
        Some(read.map_err(|error| error.to_string()))
    }

    async fn read(&self, started: &Arc<Layers>, in_force: &mut Texts) {
        let (given, before) = (self.given.clone(), started.clone());
        // It opens files.
        let read = tokio::task::spawn_blocking(move || Reading::new(&given, &before)).await;
        let now = self.clock.now();
        match read {
            Ok(Ok(reading)) => self.apply(now, reading, in_force, &texts(started.values())),
            Ok(Err(problems)) => self.state.bad(now, problems.brief()),
            Err(error) => self.state.bad(now, format!("reading it failed, a fault of this program: {error}")),
        }
    }

    fn apply(&self, now: Moment, reading: Reading, in_force: &mut Texts, started: &Texts) {
        let Reading { given, live } = reading;
        let mut pending = differ(&given, started);
        let mut changed = Vec::new();
        let mut drain = self.state.drain();
        match live {
            Ok((texts, config)) => {
                pending.retain(|key| !Setting::is_live(key));
                changed = differ(&texts, in_force);
                drain = config.downstream.drain;
                *in_force = texts;
                self.replace(&changed, &config);
            }
            Err(problems) => {
                let why = problems.brief();
                tracing::warn!(%why, "what changed is valid only together with what needs a restart: nothing of it counts before");
            }
        }
        tracing::info!(?changed, needs_restart = ?pending, "the configuration was read again");
        self.state.good(now, drain, pending);
    }

    fn replace(&self, changed: &[&str], config: &Config) {
        if changed.contains(&"log.level") {
            self.levels.configure(&config.log.filter);
        }
        if !changed.is_empty() {
            self.downstream.set_policy(Policy::of(config, self.timing.clone()));
            config.warnings().iter().for_each(|warning| tracing::warn!("{warning}"));
        }
    }
}

/// A file that is valid.
struct Reading {
    /// What it and the layers above it say.
    given: Texts,
    /// What of it counts at once beside what the process was started with, or why that
    /// would not be valid.
    live: Result<(Texts, Config), Problems>,
}

impl Reading {
    fn new(given: &Given, started: &Layers) -> Result<Self, Problems> {
        let layers = Layers::read(given);
        layers.check()?;
        let given = texts(layers.values());
        let live = layers.live_over(started);
        let live = live.check().map(|config| (texts(live.values()), config));
        Ok(Self { given, live })
    }
}
