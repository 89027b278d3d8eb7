//! The one place that reads the clock, so that a test can hold it.

mod words;

pub use words::{span, timestamp};

use crate::xds::Moment;
use futures_util::future::BoxFuture;
use std::task::{Context, Poll, ready};
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

/// Waits for a deadline that moves often. A timer is set where the deadline is
/// earlier than that of the one that stands; else that one goes off first and is
/// set anew.
pub struct Alarm {
    clock: Clock,
    deadline: Option<Moment>,
    timer: Option<(Moment, BoxFuture<'static, ()>)>,
}

impl Alarm {
    pub fn new(clock: Clock) -> Self {
        Self { clock, deadline: None, timer: None }
    }

    /// `true`: it is to be polled, for the timer that stands is too late.
    pub fn set(&mut self, deadline: Option<Moment>) -> bool {
        self.deadline = deadline;
        let stands = self.timer.as_ref().map(|(at, _)| *at);
        deadline.is_some_and(|deadline| stands.is_none_or(|at| deadline < at))
    }

    /// Ready from the deadline on.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.deadline;
            self.timer.take_if(|(at, _)| deadline.is_some_and(|deadline| deadline < *at));
            if let Some((at, timer)) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                let reached = *at;
                self.timer = None;
                if deadline.is_some_and(|deadline| deadline <= reached) {
                    return Poll::Ready(());
                }
            }
            let Some(deadline) = deadline else { return Poll::Pending };
            let clock = self.clock.clone();
            self.timer = Some((deadline, Box::pin(async move { clock.sleep_until(deadline).await })));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::future::poll_fn;

    #[tokio::test]
    async fn an_alarm_follows_its_deadline() {
        let clock = Clock::manual();
        let at = |seconds| Some(Moment::from_start(Duration::from_secs(seconds)));
        let mut alarm = Alarm::new(clock.clone());
        let rings = |alarm: &mut Alarm| poll_fn(|cx| alarm.poll(cx)).now_or_never().is_some();
        assert!(!alarm.set(None) && !rings(&mut alarm));
        assert!(alarm.set(at(5)) && !rings(&mut alarm));
        assert!(!alarm.set(at(10)), "the one for 5 goes off first");
        clock.advance(Duration::from_secs(6));
        assert!(!rings(&mut alarm), "and is set anew");
        assert!(alarm.set(at(8)) && !rings(&mut alarm));
        clock.advance(Duration::from_secs(2));
        assert!(rings(&mut alarm));
        assert!(alarm.set(at(8)) && rings(&mut alarm), "it has passed");
        assert!(alarm.set(at(9)) && !rings(&mut alarm));
        assert!(!alarm.set(None));
        clock.advance(Duration::from_secs(2));
        assert!(!rings(&mut alarm) && alarm.set(at(12)), "the one for 9 went off for nobody");
    }
}
