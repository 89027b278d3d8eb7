//! What is logged, while the process runs: the configured levels, and others
//! laid over them for some time.
//!
//! Promise: levels that were changed by hand come back by themselves, so that
//! nobody finds a disk full of yesterday's debugging.

use crate::clock::Clock;
use crate::config::levels;
use crate::xds::Moment;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tracing_subscriber::filter::Targets;

/// The levels of one process. Cheap to clone.
#[derive(Clone)]
pub struct Levels(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: Notify,
    apply: Box<dyn Fn(Targets) + Send + Sync>,
}

struct State {
    configured: String,
    /// What is laid over it, and until when.
    over: Option<(String, Moment)>,
}

/// What counts at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Now {
    pub configured: String,
    /// What is laid over it, and for how long.
    pub over: Option<(String, Duration)>,
}

/// Why levels cannot be changed so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    #[error("{0:?} {1}")]
    Filter(String, String),
    #[error("levels are changed for between 1s and 24h")]
    Span,
}

const SPAN_LEAST: Duration = Duration::from_secs(1);
const SPAN_MOST: Duration = Duration::from_secs(24 * 3600);

impl Default for Levels {
    /// Of a process that logs nothing.
    fn default() -> Self {
        Self::new("off", |_| ())
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Levels").field("configured", &state.configured).field("over", &state.over).finish()
    }
}

impl Levels {
    /// `configured` counts already; `apply` makes others count.
    pub fn new(configured: &str, apply: impl Fn(Targets) + Send + Sync + 'static) -> Self {
        let state = Mutex::new(State { configured: configured.into(), over: None });
        Self(Arc::new(Inner { state, changed: Notify::new(), apply: Box::new(apply) }))
    }

    /// From now on these are the configured ones, where they can be read.
    pub fn configure(&self, filter: &str) {
        if levels(filter).is_ok() {
            let mut state = self.lock();
            state.configured = filter.into();
            self.put(&state);
        }
    }

    /// Lays `filter` over the configured levels for `span`; what was laid over
    /// them before is gone.
    pub fn lay(&self, now: Moment, filter: &str, span: Duration) -> Result<(), LevelError> {
        levels(filter).map_err(|what| LevelError::Filter(filter.into(), what))?;
        if !(SPAN_LEAST..=SPAN_MOST).contains(&span) {
            return Err(LevelError::Span);
        }
        let mut state = self.lock();
        state.over = Some((filter.into(), now + span));
        self.put(&state);
        self.0.changed.notify_one();
        Ok(())
    }

    /// Back to the configured levels.
    pub fn reset(&self) {
        let mut state = self.lock();
        state.over = None;
        self.put(&state);
        self.0.changed.notify_one();
    }

    pub fn now(&self, now: Moment) -> Now {
        let state = self.lock();
        let left = |(filter, until): &(String, Moment)| (filter.clone(), until.since(now));
        Now { configured: state.configured.clone(), over: state.over.as_ref().map(left) }
    }

    /// Resets when the time is over. Runs until it is dropped.
    pub async fn run(self, clock: Clock) {
        loop {
            let changed = self.0.changed.notified();
            let until = self.lock().over.as_ref().map(|(_, until)| *until);
            tokio::select! {
                () = changed => {}
                () = clock.sleep_until_some(until) => {
                    if self.end(clock.now()) {
                        tracing::info!("log levels are the configured ones again");
                    }
                }
            }
        }
    }

    /// Resets where the time is over: others may have been laid since that was seen.
    fn end(&self, now: Moment) -> bool {
        let mut state = self.lock();
        let over = state.over.as_ref().is_some_and(|(_, until)| *until <= now);
        if over {
            state.over = None;
            self.put(&state);
        }
        over
    }

    fn put(&self, state: &State) {
        // Of two levels for one target the later counts.
        let filter = match &state.over {
            Some((over, _)) => format!("{},{over}", state.configured),
            None => state.configured.clone(),
        };
        (self.0.apply)(levels(&filter).unwrap_or_default());
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    type Seen = Arc<Mutex<Targets>>;

    fn levels() -> (Levels, Seen) {
        let seen = Seen::default();
        let shown = seen.clone();
        let levels = Levels::new("info,outpost::quiet=warn", move |filter| *shown.lock().unwrap() = filter);
        (levels, seen)
    }

    fn shows(seen: &Seen, target: &str, level: Level) -> bool {
        seen.lock().unwrap().would_enable(target, &level)
    }

    #[tokio::test]
    async fn what_is_laid_over_ends_by_itself() {
        let (levels, seen) = levels();
        let clock = Clock::manual();
        let task = tokio::spawn(levels.clone().run(clock.clone()));
        levels.lay(clock.now(), "outpost::upstream=debug,outpost::quiet=trace", Duration::from_secs(600)).unwrap();
        assert!(shows(&seen, "outpost::upstream", Level::DEBUG));
        assert!(shows(&seen, "outpost::quiet", Level::TRACE));
        assert!(!shows(&seen, "outpost::session", Level::DEBUG) && shows(&seen, "outpost::session", Level::INFO));
        clock.advance(Duration::from_secs(599));
        assert_eq!(levels.now(clock.now()).over.map(|(_, left)| left), Some(Duration::from_secs(1)));
        clock.advance(Duration::from_secs(1));
        while levels.now(clock.now()).over.is_some() {
            tokio::task::yield_now().await;
        }
        assert!(!shows(&seen, "outpost::upstream", Level::DEBUG) && !shows(&seen, "outpost::quiet", Level::INFO));
        task.abort();
    }

    #[test]
    fn what_was_laid_anew_does_not_end_with_what_was_before() {
        let (levels, seen) = levels();
        let second = Duration::from_secs(1);
        levels.lay(Moment::START, "debug", second).unwrap();
        levels.lay(Moment::START + second, "trace", second).unwrap();
        assert!(!levels.end(Moment::START + second) && shows(&seen, "h2", Level::TRACE));
        assert!(levels.end(Moment::START + second * 2) && !shows(&seen, "h2", Level::DEBUG));
        assert!(!levels.end(Moment::START + second * 3));
    }

    #[test]
    fn a_plain_level_replaces_the_plain_level() {
        let (levels, seen) = levels();
        levels.lay(Moment::START, "trace", Duration::from_secs(1)).unwrap();
        assert!(shows(&seen, "h2", Level::TRACE) && !shows(&seen, "outpost::quiet", Level::INFO));
        levels.configure("error");
        assert!(shows(&seen, "h2", Level::TRACE), "what was laid over stays");
        levels.reset();
        assert!(!shows(&seen, "h2", Level::WARN) && shows(&seen, "h2", Level::ERROR));
    }

    #[test]
    fn what_cannot_be_is_refused_and_changes_nothing() {
        let (levels, seen) = levels();
        let second = Duration::from_secs(1);
        levels.lay(Moment::START, " warn , h2=debug", second).unwrap();
        assert!(shows(&seen, "h2", Level::DEBUG), "blanks are no part of a name");
        levels.reset();
        for text in ["", " ", "loud", "info,outpost", "outpost=loud", "a=b=c"] {
            let refused = levels.lay(Moment::START, text, second);
            assert!(matches!(&refused, Err(LevelError::Filter(given, _)) if given == text), "{text:?}: {refused:?}");
        }
        for span in [Duration::ZERO, second * 100_000] {
            assert_eq!(levels.lay(Moment::START, "debug", span), Err(LevelError::Span));
        }
        assert_eq!(levels.now(Moment::START).over, None);
    }
}
