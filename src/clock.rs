//! The one place that reads the clock, so that a test can hold it.

use crate::xds::Moment;
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::watch;

/// Tells moments and waits for them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock {
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    System(Instant),
    /// What it shows, and the time of day when it showed the start.
    Manual(watch::Sender<Moment>, SystemTime),
}

impl Clock {
    /// The monotonic clock, counted from now.
    pub fn system() -> Self {
        Self { source: Source::System(Instant::now()) }
    }

    /// A clock that stands still until [`advance`](Self::advance).
    pub fn manual() -> Self {
        Self { source: Source::Manual(watch::Sender::new(Moment::START), SystemTime::now()) }
    }

    pub fn now(&self) -> Moment {
        match &self.source {
            Source::System(start) => Moment::from_start(start.elapsed()),
            Source::Manual(now, _) => *now.borrow(),
        }
    }

    /// The time of day, which certificates and tokens speak of. It may jump.
    pub fn wall(&self) -> SystemTime {
        match &self.source {
            Source::System(_) => SystemTime::now(),
            Source::Manual(now, from) => *from + now.borrow().since_start(),
        }
    }

    /// When `wall` is to come by this clock, seen from now; now where it has passed.
    pub fn until(&self, wall: SystemTime) -> Moment {
        self.now() + wall.duration_since(self.wall()).unwrap_or_default()
    }

    /// Moves a manual clock on and wakes who waits; a system clock cannot be moved.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(now, _) = &self.source {
            now.send_modify(|moment| *moment = *moment + by);
        }
    }

    /// Returns at `deadline` or at once if that has passed.
    pub async fn sleep_until(&self, deadline: Moment) {
        match &self.source {
            Source::System(start) => {
                tokio::time::sleep_until((*start + deadline.since_start()).into()).await;
            }
            Source::Manual(now, _) => {
                // The sender is alive: we hold it.
                let _ = now.subscribe().wait_for(|moment| *moment >= deadline).await;
            }
        }
    }

    /// [`sleep_until`](Self::sleep_until), for ever where there is no deadline.
    pub async fn sleep_until_some(&self, deadline: Option<Moment>) {
        match deadline {
            Some(deadline) => self.sleep_until(deadline).await,
            None => std::future::pending().await,
        }
    }
}
