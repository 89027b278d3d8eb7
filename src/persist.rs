//! The disk cache: what groups hold outlives the process.
//!
//! ```text
//!  exchange ── groups that changed ──▶ Persist::run ──▶ keeper ──▶ sink: blobs, trees ─┐
//!     ▲                                                     └─────▶ index: groups ─────┤ disk
//!     └────── a group that is joined ◀── library ◀── shelf: one state of the disk ◀────┘
//! ```
//!
//! * [`disk`]: a directory; [`seal`]: encryption; [`wire`], [`object`], [`index`],
//!   [`names`]: what the files are
//! * [`sink`], [`keeper`]: write; [`shelf`], [`library`]: read
//!
//! Promise: a state on disk is whole, and was the state of each of its groups at one
//! moment; a group is put back from one state only. What is written is written beside
//! what counts, which goes when the new one is there. Nothing here is waited for by a
//! stream but a group that is put back; its upstream side waits two seconds at most. Whatever
//! is wrong with the disk is told, tried again, and takes nothing from anybody.
//!
//! Never written: sensitive types, whatever names them; private groups; what must not
//! be cached, of which the name is; and without a key extension configurations, which may hold credentials
//! of a registry.
//!
//! # Why plain files
//!
//! A change costs what it changes (the pieces of trees on its path, some 4 KiB, and new
//! blobs) and one index, some 150 bytes for each type of each group. So an index of a
//! thousand groups is 1 MB; it is written at most once a second, and not more often than
//! that 2 MB/s are written, or every five seconds. A group is read by its own roots: nothing is scanned at
//! start but the index. An embedded database (redb, fjall) would have its own log,
//! cache and recovery under the same promises, would write each blob twice, and
//! could not keep the older generation whole when a page goes bad; what it gives in
//! return, changing records in place, content that is named by its hash does not need.
//!
//! `cargo bench --bench restart`, built with `opt-level = 1` on two cores that others used
//! too: from exec to the last byte of 1,000 clusters and 1,000 assignments, no control
//! plane, 100,000 resources of 1 KiB on disk in fifty groups: 50 ms with a warm page cache,
//! 60 ms with a cold one. A group is read whole: one that has all 100,000 took 1.0 s then,
//! before its leaves were read at once and by several threads.

mod disk;
mod index;
mod keeper;
mod library;
mod metrics;
mod names;
mod object;
mod seal;
mod shelf;
mod sink;
#[cfg(test)]
mod tests;
mod wire;

pub use index::Refused;
pub use seal::{Key, KeyError};
pub use sink::SaveError;

use crate::clock::Clock;
use crate::content::Store;
use crate::exchange::{Exchange, GroupHandle, Kept, Past};
use crate::group::{GroupKey, sensitive_types};
use crate::xds::{Moment, TypeUrl};
use disk::{Disk, Folder};
use index::Owner;
use keeper::{Batch, Keeper, Saved};
use library::{Library, Reading};
use metrics::Metrics;
use prometheus_client::registry::Registry;
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

type Wall = SystemTime;

/// Changes are gathered so long.
const GATHER: Duration = Duration::from_secs(1);
/// Bytes a second, on average.
const PACE: u64 = 2 << 20;
/// … but no state waits longer for its turn than this.
const PACE_MOST: Duration = Duration::from_secs(5);
/// What was refused stays until the upstream was synced for so long.
const ASIDE: Duration = Duration::from_secs(3600);
/// What was found at start is checked and written anew after this, when sidecars that
/// come back have been served.
const SETTLE: Duration = Duration::from_secs(5);
/// Confirmations on disk are not older than this.
const REFRESH: Duration = Duration::from_secs(300);
/// After a failure, doubling.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// The upstream is not asked for a group before it is read, or so long has passed.
const PATIENCE: Duration = Duration::from_secs(2);
/// Groups read at once.
const AT_ONCE: usize = 4;

/// Milliseconds since 1970.
fn millis(at: Wall) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub directory: PathBuf,
    /// Of all files together.
    pub most: u64,
    pub key: Option<Key>,
    /// Whose state it is: a state of another cluster or control plane is refused.
    pub cluster: String,
    pub upstreams: Vec<String>,
    /// What keys of groups mean: those of other rules are other groups.
    pub rules: String,
    /// Types that are not written, beside those that never are.
    pub sensitive: Vec<TypeUrl>,
    /// What is on disk of groups to which nobody comes is given up after this long of
    /// synced upstream.
    pub forget: Duration,
}

/// How it stands, for operators.
#[derive(Clone, Debug, Default)]
pub struct Report {
    pub directory: String,
    pub encrypted: bool,
    /// On disk, and those of them that nobody has come for yet.
    pub groups: usize,
    pub unclaimed: usize,
    /// Being written just now.
    pub saving: usize,
    pub bytes: u64,
    /// When a state was last written, or found to be the newest still.
    pub saved: Option<Moment>,
    /// When the state that was found at start was written, if any was found.
    pub found: Option<Wall>,
    /// Since when saving fails, and why.
    pub problem: Option<(Moment, String)>,
    /// States that are not used, and why.
    pub aside: Vec<String>,
    /// Groups put back, those for which an older state had to do, and those of which
    /// nothing could be read.
    pub restored: usize,
    pub older: usize,
    pub lost: usize,
}

/// The cache of one process.
pub struct Persist {
    settings: Settings,
    reading: Reading,
    store: Arc<Store>,
    clock: Clock,
    library: Mutex<Arc<Library>>,
    unclaimed: Mutex<HashSet<Arc<str>>>,
    keeper: tokio::sync::Mutex<Option<Keeper>>,
    report: Mutex<Report>,
    metrics: Metrics,
    around: OnceLock<Around>,
    /// Groups that are being read.
    loading: AtomicUsize,
    /// What is there could not be looked at when this began.
    unread: AtomicBool,
    room: Arc<Semaphore>,
    runtime: Handle,
    me: Weak<Self>,
}

/// What the rest of the process says.
pub struct Around {
    /// Types that are sensitive now: that may change under way.
    pub sensitive: Box<dyn Fn() -> Vec<TypeUrl> + Send + Sync>,
    /// A connection to the upstream stands.
    pub connected: Box<dyn Fn() -> bool + Send + Sync>,
}

impl Persist {
    /// Looks at what is there. Needs a runtime.
    pub async fn open(settings: Settings, store: Arc<Store>, clock: Clock, registry: &mut Registry) -> Arc<Self> {
        let folder = Arc::new(Folder::new(&settings.directory, index::VERSION));
        Self::on(folder, settings, store, clock, Metrics::register(registry)).await
    }

    async fn on(
        disk: Arc<dyn Disk>,
        settings: Settings,
        store: Arc<Store>,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<Self> {
        let owner = Owner {
            cluster: settings.cluster.clone(),
            upstreams: settings.upstreams.clone(),
            rules: settings.rules.clone(),
        };
        let reading = Reading { disk, key: settings.key.clone(), owner, largest: settings.most };
        let look = {
            let reading = reading.clone();
            tokio::task::spawn_blocking(move || Library::open(&reading))
        };
        let patience = clock.sleep_until(clock.now() + PATIENCE);
        let found = tokio::select! {
            found = look => found.unwrap_or_else(|_| Err(std::io::Error::other("looking at it failed"))),
            () = patience => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "the disk does not answer")),
        };
        let this = Arc::new_cyclic(|me| Self {
            library: Mutex::default(),
            unclaimed: Mutex::default(),
            keeper: tokio::sync::Mutex::new(None),
            report: Mutex::new(Report {
                directory: settings.directory.display().to_string(),
                encrypted: settings.key.is_some(),
                ..Report::default()
            }),
            metrics,
            around: OnceLock::new(),
            loading: AtomicUsize::new(0),
            unread: AtomicBool::new(found.is_err()),
            room: Arc::new(Semaphore::new(AT_ONCE)),
            runtime: Handle::current(),
            me: me.clone(),
            settings,
            reading,
            store,
            clock,
        });
        match found {
            Ok(library) => this.found(library),
            Err(error) => this.failed(&SaveError::Io(error)),
        }
        this
    }

    fn found(&self, library: Library) {
        for aside in &library.aside {
            self.metrics.refused(aside.reason);
            tracing::error!(file = %aside.text, "a state on disk is not used");
        }
        let newest = library.shelves.first();
        if let Some(shelf) = newest {
            let age = Duration::from_millis(millis(self.clock.wall()).saturating_sub(shelf.index.written));
            tracing::info!(groups = shelf.index.groups.len(), ?age, "what an earlier process held is on disk");
        }
        {
            let mut report = lock(&self.report);
            report.groups = newest.map_or(0, |shelf| shelf.index.groups.len());
            report.found = newest.map(|shelf| SystemTime::UNIX_EPOCH + Duration::from_millis(shelf.index.written));
            report.bytes = library.bytes;
            report.aside = library.aside.iter().map(|aside| aside.text.clone()).collect();
            self.metrics.groups.set(report.groups as i64);
            self.metrics.bytes.set(report.bytes as i64);
        }
        *lock(&self.unclaimed) = library.groups().cloned().collect();
        *lock(&self.library) = Arc::new(library);
    }

    fn failed(&self, error: &SaveError) {
        self.metrics.failed(error.reason());
        let mut report = lock(&self.report);
        let (text, now) = (error.to_string(), self.clock.now());
        if report.problem.as_ref().is_none_or(|(_, before)| *before != text) {
            tracing::error!(%error, "what is held cannot be kept on disk; it is served from memory, and this is tried again");
        }
        let since = report.problem.as_ref().map_or(now, |(since, _)| *since);
        report.problem = Some((since, text));
    }

    /// Something is on disk that can be served.
    pub fn holds(&self) -> bool {
        !lock(&self.unclaimed).is_empty() || self.loading.load(Relaxed) > 0
    }

    pub fn report(&self) -> Report {
        Report { unclaimed: lock(&self.unclaimed).len(), ..lock(&self.report).clone() }
    }

    /// Tells it of the rest of the process, once that is there.
    pub fn attach(&self, around: Around) {
        // A second time would be a second program in one process.
        let _ = self.around.set(around);
    }

    /// Types that may not be written.
    fn refused(&self) -> Vec<TypeUrl> {
        let mut types = sensitive_types();
        types.extend_from_slice(&self.settings.sensitive);
        types.extend(self.around.get().into_iter().flat_map(|around| (around.sensitive)()));
        if self.settings.key.is_none() {
            types.extend(TypeUrl::from_short("ecds"));
        }
        types
    }

    /// Saves what changes, as long as it runs.
    pub async fn run(self: Arc<Self>, exchange: Arc<Exchange>) {
        if self.holds() {
            self.clock.sleep_until(self.clock.now() + SETTLE).await;
        }
        let (mut all, mut retry) = (true, RETRY);
        loop {
            match self.save(&exchange, all).await {
                Ok(saved) => {
                    retry = RETRY;
                    let pace = Duration::from_millis(saved.written.saturating_mul(1000) / PACE).min(PACE_MOST);
                    self.clock.sleep_until(self.clock.now() + pace).await;
                }
                Err(()) => {
                    self.clock.sleep_until(self.clock.now() + retry).await;
                    retry = (retry * 2).min(RETRY_MOST);
                    continue;
                }
            }
            all = tokio::select! {
                () = exchange.unkept() => false,
                () = self.clock.sleep_until(self.clock.now() + REFRESH) => true,
            };
            self.clock.sleep_until(self.clock.now() + GATHER).await;
        }
    }

    /// Saves what changed, now; for who is about to end. Gives up after `patience`.
    pub async fn finish(&self, exchange: &Arc<Exchange>, patience: Duration) {
        tokio::select! {
            _ = self.save(exchange, false) => {}
            () = self.clock.sleep_until(self.clock.now() + patience) => {
                tracing::warn!("the newest changes may not be on disk: it does not answer");
            }
        }
    }

    async fn save(&self, exchange: &Arc<Exchange>, all: bool) -> Result<Saved, ()> {
        let mut place = self.keeper.lock().await;
        let mut keeper = place.take().unwrap_or_else(|| Keeper::new(self.reading.clone(), self.settings.most));
        let forgotten = self.forgotten(exchange);
        let batch = self.batch(exchange, all || keeper.wants_all(&self.refused()), &forgotten);
        lock(&self.report).saving = batch.groups.len();
        let reading = self.reading.clone();
        let rereads = self.holds() || self.unread.load(Relaxed);
        let work = tokio::task::spawn_blocking(move || {
            let saved = keeper.save(batch);
            let anew = saved.as_ref().is_ok_and(|saved| saved.anew && saved.written > 0);
            let library = (anew && rereads).then(|| Library::open(&reading));
            (keeper, saved, library)
        });
        let Ok((keeper, saved, library)) = work.await else {
            self.failed(&SaveError::Io(std::io::Error::other("saving ended by a defect of this program")));
            return Err(());
        };
        *place = Some(keeper);
        lock(&self.report).saving = 0;
        match saved {
            Ok(saved) => {
                lock(&self.unclaimed).retain(|key| !forgotten.contains(key));
                self.saved(exchange, saved, library.and_then(Result::ok));
                Ok(saved)
            }
            Err(error) => {
                self.failed(&error);
                Err(())
            }
        }
    }

    /// Groups on disk that nobody came for.
    fn forgotten(&self, exchange: &Exchange) -> HashSet<Arc<str>> {
        let due = exchange.synced_for(self.clock.now()) >= self.settings.forget;
        if due { lock(&self.unclaimed).clone() } else { HashSet::new() }
    }

    fn batch(&self, exchange: &Arc<Exchange>, all: bool, forgotten: &HashSet<Arc<str>>) -> Batch {
        let unkept = exchange.take_unkept();
        let now = self.clock.now();
        let refused = self.refused();
        let mut groups: Vec<(Arc<str>, Option<Kept>)> = Vec::new();
        let mut take = |group: &GroupHandle| {
            if let Some(mut kept) = group.keep() {
                let held = !kept.types.is_empty();
                kept.types.retain(|of| !refused.contains(&of.type_url));
                // All of it has become sensitive, or nothing is known of it yet.
                let gone = held && kept.types.is_empty();
                groups.push((group.key().text().clone(), (!gone).then_some(kept)));
            }
        };
        if all {
            exchange.groups().iter().for_each(&mut take);
        }
        let mut gone = Vec::new();
        for key in &unkept {
            match exchange.group(key) {
                Some(group) if !all => take(&group),
                Some(_) => {}
                None => gone.push((key.text().clone(), None)),
            }
        }
        groups.extend(gone);
        groups.extend(forgotten.iter().map(|key| (key.clone(), None)));
        Batch { groups, refused, synced: exchange.synced_for(now) >= ASIDE, now: self.clock.wall() }
    }

    fn saved(&self, exchange: &Arc<Exchange>, saved: Saved, library: Option<Library>) {
        if let Some(library) = library {
            if self.unread.swap(false, Relaxed) {
                let unknown = |key: &&Arc<str>| exchange.group(&GroupKey::new((*key).clone())).is_none();
                *lock(&self.unclaimed) = library.groups().filter(unknown).cloned().collect();
            }
            *lock(&self.library) = Arc::new(library);
        }
        if !self.holds() {
            *lock(&self.library) = Arc::default();
        }
        self.metrics.saved(self.clock.wall(), saved.written);
        self.metrics.groups.set(saved.groups as i64);
        self.metrics.bytes.set(saved.bytes as i64);
        let mut report = lock(&self.report);
        if report.problem.take().is_some() {
            tracing::info!("what is held is kept on disk again");
        }
        if saved.aside == 0 && saved.generation > 0 {
            report.aside.clear();
        }
        report.saved = Some(self.clock.now());
        (report.groups, report.bytes) = (saved.groups, saved.bytes);
        if saved.lost == 0 && exchange.has_been_synced() {
            // What was lost comes from the control plane now.
            report.lost = 0;
        }
        report.lost += saved.lost;
        report.older += saved.older;
        tracing::debug!(
            groups = saved.groups,
            written = saved.written,
            generation = saved.generation,
            "what is held is on disk"
        );
    }

    /// Reads a group, off the runtime.
    async fn load(&self, key: &GroupKey) -> Option<Kept> {
        let room = self.room.clone().acquire_owned().await.ok()?;
        let library = lock(&self.library).clone();
        let (store, text, now) = (self.store.clone(), key.text().clone(), self.clock.wall());
        let read = tokio::task::spawn_blocking(move || {
            // Held to the end, also where nobody waits any more: a disk that hangs hangs
            // so many threads and no more.
            let _room = room;
            library.load(&text, &store, now)
        });
        let (found, bad) = read.await.ok()?;
        for bad in &bad {
            tracing::error!(group = %key, error = %bad, "a state on disk of this group is bad; an older one is tried");
        }
        let mut report = lock(&self.report);
        match &found {
            Some(found) if found.passed > 0 => {
                report.older += 1;
                report.restored += 1;
                self.metrics.restored("older");
            }
            Some(_) => {
                report.restored += 1;
                self.metrics.restored("restored");
            }
            None => {
                report.lost += 1;
                self.metrics.restored("bad");
            }
        }
        // A type may have become sensitive since it was written.
        let refused = self.refused();
        found.map(|mut found| {
            found.kept.types.retain(|of| !refused.contains(&of.type_url));
            found.kept
        })
    }
}

impl Past for Persist {
    fn claims(&self, key: &GroupKey) -> bool {
        let mut unclaimed = lock(&self.unclaimed);
        let known = unclaimed.remove(key.as_str());
        self.loading.fetch_add(usize::from(known), Relaxed);
        known
    }

    fn fetch(&self, group: GroupHandle) {
        let Some(me) = self.me.upgrade() else { return group.fetched(None, false) };
        self.runtime.spawn(async move {
            let patience = me.clock.sleep_until(me.clock.now() + PATIENCE);
            let mut load = std::pin::pin!(me.load(group.key()));
            let kept = tokio::select! {
                kept = &mut load => kept,
                () = patience => {
                    me.metrics.restored("late");
                    tracing::warn!(group = %group.key(), "the disk is slow; the control plane is asked meanwhile");
                    group.fetching_takes_long();
                    load.await
                }
            };
            let connected = me.around.get().is_some_and(|around| (around.connected)());
            group.fetched(kept, connected);
            // Not before: what it is read from stays until then.
            me.loading.fetch_sub(1, Relaxed);
        });
    }
}

impl std::fmt::Debug for Persist {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Persist").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// Holders never panic half-way through a change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
