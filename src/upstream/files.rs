//! A directory in the place of a control plane.
//!
//! It is looked at four times a second. A change counts when it has stood for
//! one look; then everything is read, and one change of the directory is one
//! snapshot of each group, all types at once. Where anything is wrong nothing
//! changes: what was read before is served, and the problem is told.
//!
//! A directory is all there is: a name that it has not is known to be absent at
//! once, and no ask waits. Before it was read for the first time, sidecars are
//! told that nothing can be answered.

mod answer;
#[cfg(test)]
mod tests;

use crate::clock::Clock;
use crate::exchange::{Exchange, GroupHandle};
use crate::files::{self, Loaded, Problems, Seen};
use crate::group::GroupKey;
use crate::session::{Pass, Passed};
use crate::xds::Moment;
use answer::Told;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

const LOOK: Duration = Duration::from_millis(250);
/// After a reading that failed for what may pass: this long, and twice as long each time.
const AGAIN: Duration = Duration::from_millis(500);
const AGAIN_AT_MOST: Duration = Duration::from_secs(30);
/// What stands confirmed is confirmed this often.
const CONFIRM: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    result: &'static str,
}

/// Metrics of the directory.
#[derive(Clone, Debug, Default)]
struct Metrics {
    loads: Family<Outcome, Counter>,
    resources: Gauge,
    good: Gauge,
}

impl Metrics {
    fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("files");
        registry.register("loads", "Readings of the directory: loaded or refused", this.loads.clone());
        registry.register("resources", "Resources in the directory as it is served", this.resources.clone());
        registry.register("good", "1 if what is served is what the directory says now", this.good.clone());
        this
    }

    fn read(&self, result: &'static str) {
        self.loads.get_or_create(&Outcome { result }).inc();
        self.good.set(i64::from(result == "loaded"));
    }
}

/// What an operator may ask.
#[derive(Clone, Debug)]
pub struct FilesReport {
    pub directory: Arc<str>,
    /// When it was read, how many files and resources it had.
    pub loaded: Option<(Moment, usize, usize)>,
    /// Why what it says now is not served, and since when.
    pub problem: Option<(Moment, Arc<str>)>,
}

#[derive(Debug, Default)]
struct State {
    loaded: Option<(Moment, Arc<Loaded>)>,
    problem: Option<(Moment, Arc<str>)>,
}

/// The directory, and what its groups were told.
pub struct Files {
    directory: PathBuf,
    /// For people.
    name: Arc<str>,
    exchange: Arc<Exchange>,
    clock: Clock,
    metrics: Metrics,
    state: Mutex<State>,
    changed: Notify,
    load: Load,
}

type Load = fn(&Path) -> Result<(Seen, Loaded), Problems>;
type Look = Result<Seen, Problems>;
type Groups = HashMap<GroupKey, Driven>;

/// A group as it is driven. The handle tells it from another of its name.
struct Driven {
    handle: GroupHandle,
    open: bool,
    told: Told,
}

impl Files {
    /// Reads nothing yet.
    pub fn new(directory: &Path, exchange: Arc<Exchange>, clock: Clock, registry: &mut Registry) -> Arc<Self> {
        Arc::new(Self {
            directory: directory.into(),
            name: format!("files in {}", directory.display()).into(),
            exchange,
            clock,
            metrics: Metrics::register(registry),
            state: Mutex::default(),
            changed: Notify::new(),
            load: files::load,
        })
    }

    /// Everything was read at least once, so that there is something to serve.
    pub fn is_loaded(&self) -> bool {
        self.lock().loaded.is_some()
    }

    pub fn report(&self) -> FilesReport {
        let state = self.lock();
        let loaded = state.loaded.as_ref().map(|(at, loaded)| (*at, loaded.files, loaded.resources));
        FilesReport { directory: self.name.clone(), loaded, problem: state.problem.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Drives all groups until it is dropped.
    pub async fn run(self: Arc<Self>) {
        let watching = self.watch();
        tokio::pin!(watching);
        let mut groups = Groups::new();
        let mut confirm = self.clock.now() + CONFIRM;
        loop {
            tokio::select! {
                () = &mut watching => return,
                key = self.exchange.next_dirty() => self.drive(&mut groups, &key),
                () = self.changed.notified() => self.drive_all(&mut groups).await,
                () = self.clock.sleep_until(confirm) => {
                    self.confirm(&mut groups);
                    confirm = self.clock.now() + CONFIRM;
                }
            }
        }
    }

    /// Looks, and reads what has changed.
    async fn watch(&self) {
        let (mut counted, mut before): (Option<Look>, Option<Look>) = (None, None);
        let (mut pause, mut not_before) = (AGAIN, self.clock.now());
        loop {
            let directory = self.directory.clone();
            let Ok(look) = tokio::task::spawn_blocking(move || files::scan(&directory)).await else { return };
            // The first look is believed at once.
            let stands = before.as_ref().is_none_or(|before| *before == look);
            if !stands {
                (pause, not_before) = (AGAIN, self.clock.now());
            }
            if stands && counted.as_ref() != Some(&look) && self.clock.now() >= not_before {
                let settled = self.read(&look).await;
                counted = settled.then(|| look.clone());
                if !settled {
                    not_before = self.clock.now() + pause;
                    pause = (pause * 2).min(AGAIN_AT_MOST);
                }
            }
            before = Some(look);
            self.clock.sleep_until(self.clock.now() + LOOK).await;
        }
    }

    /// Would reading the same again say the same? A look that failed is taken again anyway.
    async fn read(&self, look: &Look) -> bool {
        let read = match look {
            Err(problems) => Err(problems.clone()),
            Ok(_) => {
                let (directory, load) = (self.directory.clone(), self.load);
                let loading = tokio::task::spawn_blocking(move || load(&directory)).await;
                let Ok(read) = loading else { return true };
                read
            }
        };
        let settled = look.is_err() || !matches!(&read, Err(problems) if problems.may_pass());
        match read {
            Ok((_, loaded)) => self.take(loaded),
            Err(problems) => self.refuse(&problems),
        }
        self.changed.notify_one();
        settled
    }

    fn take(&self, loaded: Loaded) {
        self.metrics.read("loaded");
        self.metrics.resources.set(i64::try_from(loaded.resources).unwrap_or(i64::MAX));
        let groups: Vec<_> = loaded.groups().collect();
        tracing::info!(
            directory = %self.directory.display(), files = loaded.files, resources = loaded.resources, ?groups,
            "the files were read"
        );
        *self.lock() = State { loaded: Some((self.clock.now(), loaded.into())), problem: None };
    }

    fn refuse(&self, problems: &Problems) {
        self.metrics.read("refused");
        let text: Arc<str> = problems.to_string().into();
        let mut state = self.lock();
        // It was told when it was found, and stands since then.
        if state.problem.as_ref().is_some_and(|(_, told)| *told == text) {
            return;
        }
        for problem in &problems.0 {
            match state.loaded {
                Some(_) => tracing::warn!(%problem, "the files are not valid; what was read before is served"),
                None => tracing::error!(%problem, "the files are not valid; nothing is served until they are"),
            }
        }
        state.problem = Some((self.clock.now(), text));
    }

    /// Answers what a group wants, as far as it was not answered.
    fn drive(&self, groups: &mut Groups, key: &GroupKey) {
        let handle = self.exchange.group(key).filter(|handle| !handle.is_idle());
        let Some(handle) = handle else {
            if let Some(driven) = groups.remove(key) {
                driven.handle.stream_closed();
            }
            return;
        };
        if groups.get(key).is_some_and(|driven| !driven.handle.is(&handle)) {
            groups.remove(key);
        }
        let driven = groups.entry(key.clone()).or_insert_with(|| Driven { handle, open: false, told: Told::default() });
        let (loaded, problem) = {
            let state = self.lock();
            (state.loaded.clone(), state.problem.clone())
        };
        let Some((_, loaded)) = loaded else {
            // What is wrong is for operators: the log and the status say it.
            let why = if problem.is_some() { "they are not valid" } else { "they were not read yet" };
            driven.handle.stream_lost(format!("{}: {why}", self.name).into());
            return;
        };
        if !std::mem::replace(&mut driven.open, true) {
            driven.handle.stream_opened(self.name.clone());
        }
        // Nobody is behind the files who could be asked.
        for pass in driven.handle.passes().into_iter().filter(Pass::is_answered) {
            let (resources, received) = (Vec::new(), self.clock.now());
            driven.handle.passed(Passed { number: pass.number, resources, received });
        }
        let view = loaded.view(key.called());
        let told = &mut driven.told;
        driven.handle.answer(|now, group, wants| told.say(view, wants, now, |of| group.held_versions(of)));
    }

    async fn drive_all(&self, groups: &mut Groups) {
        let private: Vec<_> = groups.keys().filter(|key| key.is_private()).cloned().collect();
        for key in self.exchange.groups().iter().map(|handle| handle.key().clone()).chain(private) {
            self.drive(groups, &key);
            tokio::task::yield_now().await;
        }
    }

    /// What is held is what the directory says, as long as all of it can be read.
    fn confirm(&self, groups: &mut Groups) {
        groups.retain(|key, driven| self.exchange.group(key).is_some_and(|handle| handle.is(&driven.handle)));
        if self.lock().problem.is_none() {
            groups.values().filter(|driven| driven.open).for_each(|driven| driven.handle.heard());
        }
    }
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").field("directory", &self.directory).finish_non_exhaustive()
    }
}
