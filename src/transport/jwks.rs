//! Where the keys of tokens come from: a file that is read again when it
//! changes, or a URL that is fetched again and again.
//!
//! Promise: what was read last and was good stays in use while what is newer
//! cannot be read; that is logged, and shown by [`Jwks::look`].

mod fetch;

pub use fetch::{FetchError, Site, SiteError};

use super::jwt::{Keys, KeysError};
use super::tls::{Stamp, stamps};
use crate::clock::Clock;
use crate::xds::Moment;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;

/// A URL is fetched this often, ± 10 %, and after a failure sooner: at first after
/// the first of these, then later and later, up to the second.
const PERIOD: Duration = Duration::from_secs(300);
const RETRY_LEAST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);
/// A key that is not known has a URL fetched at once, but not more often than this.
const UNKNOWN: Duration = Duration::from_secs(10);

/// How often it is seen whether a file has changed.
const LOOK: Duration = Duration::from_secs(1);

/// The largest set that is read.
const LARGEST: usize = 1 << 20;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    #[error("cannot read the JWKS {}: {source}; check the path and its permissions", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("{from} {source}")]
    Keys { from: String, source: KeysError },
    #[error("cannot fetch the JWKS {url}: {source}")]
    Fetch { url: String, source: FetchError },
}

/// The keys in use, and how they are kept.
#[derive(Debug)]
pub struct Jwks {
    source: Source,
    clock: Clock,
    state: Mutex<State>,
    /// Somebody wants what is newer than what is held.
    wanted: Notify,
}

#[derive(Debug)]
enum Source {
    File(PathBuf),
    Url(Box<Site>),
}

#[derive(Debug, Default)]
struct State {
    keys: Option<Arc<Keys>>,
    stamp: Vec<Option<Stamp>>,
    /// Of the last fetch that was begun.
    tried: Option<Moment>,
    problem: Option<String>,
    failures: u64,
}

/// How the keys in use are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub keys: usize,
    /// Why the newest are not in use.
    pub problem: Option<String>,
    /// Reads and fetches that failed since start.
    pub failures: u64,
}

impl Jwks {
    /// Keys of a file, which must be readable now.
    pub fn file(path: PathBuf, clock: Clock) -> Result<Self, JwksError> {
        let this = Self::of(Source::File(path.clone()), clock);
        let mut state = this.lock();
        // The stamp is taken first: what is written while we read makes another one.
        state.stamp = stamps(std::slice::from_ref(&path));
        state.keys = Some(read(&path)?.into());
        drop(state);
        Ok(this)
    }

    /// Keys of a URL; there are none until [`run`](Self::run) has fetched them.
    pub fn url(site: Site, clock: Clock) -> Self {
        Self::of(Source::Url(site.into()), clock)
    }

    fn of(source: Source, clock: Clock) -> Self {
        Self { source, clock, state: Mutex::default(), wanted: Notify::new() }
    }

    /// The newest good keys; `None` until there are any.
    pub fn keys(&self) -> Option<Arc<Keys>> {
        self.lock().keys.clone()
    }

    /// A token named a key that is not here. It may be a new one. Returns whether it
    /// is looked for now.
    pub fn lacks(&self) -> bool {
        // A file is looked at all the time.
        let fetched = matches!(self.source, Source::Url(_));
        let due = fetched && self.lock().tried.is_none_or(|tried| self.clock.now().since(tried) >= UNKNOWN);
        if due {
            self.wanted.notify_one();
        }
        due
    }

    pub fn look(&self) -> Seen {
        let keys = self.keys().map_or(0, |keys| keys.len());
        let state = self.lock();
        Seen { keys, problem: state.problem.clone(), failures: state.failures }
    }

    /// Reads a file again when it changes, or fetches a URL again and again. Runs
    /// until it is dropped.
    pub async fn run(&self) {
        match &self.source {
            Source::File(path) => self.watch(path).await,
            Source::Url(site) => self.keep_fetching(site).await,
        }
    }

    /// What is read from a disk holds up nobody who shows a token.
    async fn watch(&self, path: &Path) {
        loop {
            self.clock.sleep_until(self.clock.now() + LOOK).await;
            let (path, known) = (path.to_owned(), self.lock().stamp.clone());
            let look = move || {
                let stamp = stamps(std::slice::from_ref(&path));
                (stamp != known).then(|| (stamp, read(&path)))
            };
            if let Ok(Some((stamp, keys))) = tokio::task::spawn_blocking(look).await {
                let mut state = self.lock();
                state.stamp = stamp;
                state.take(keys);
            }
        }
    }

    async fn keep_fetching(&self, site: &Site) {
        let mut retry = RETRY_LEAST;
        loop {
            self.lock().tried = Some(self.clock.now());
            let fetched = fetch(site, &self.clock).await;
            let good = fetched.is_ok();
            self.lock().take(fetched);
            let pause = if good { PERIOD } else { retry };
            retry = if good { RETRY_LEAST } else { (retry * 2).min(RETRY_MOST) };
            let due = self.clock.now() + pause.mul_f64(rand::random_range(0.9..1.1));
            tokio::select! {
                () = self.clock.sleep_until(due) => {}
                () = self.wanted.notified() => {}
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, keys: Result<Keys, JwksError>) {
        match keys {
            Ok(keys) => {
                if self.problem.is_some() || self.keys.is_none() {
                    tracing::info!(keys = keys.len(), "the keys of tokens are read");
                }
                (self.keys, self.problem) = (Some(keys.into()), None);
            }
            Err(error) => {
                let text = error.to_string();
                if self.problem.as_ref() != Some(&text) {
                    let held = self.keys.as_ref().map_or(0, |keys| keys.len());
                    tracing::warn!(error = ?text, held, "the newest keys of tokens are not usable; those held stay in use");
                }
                self.problem = Some(text);
                self.failures += 1;
            }
        }
    }
}

fn read(path: &Path) -> Result<Keys, JwksError> {
    use std::io::Read;
    let unreadable = |source| JwksError::Unreadable { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST as u64).read_to_end(&mut text).map_err(unreadable)?;
    Keys::read(&text).map_err(|source| JwksError::Keys { from: path.display().to_string(), source })
}

async fn fetch(site: &Site, clock: &Clock) -> Result<Keys, JwksError> {
    let url = || site.url().to_owned();
    let text = site.get(LARGEST, clock).await.map_err(|source| JwksError::Fetch { url: url(), source })?;
    Keys::read(&text).map_err(|source| JwksError::Keys { from: url(), source })
}

#[cfg(test)]
mod tests;
