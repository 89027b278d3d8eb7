//! Who may open a stream next.
//!
//! One token bucket for all groups, so that ten thousand of them do not fall
//! on a control plane that has just come back. Those without any stream go
//! before those that replace one, and the most populated first. It halves its
//! rate when the control plane says that this is too fast.

use crate::clock::Clock;
use crate::xds::Moment;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, oneshot};

/// The slowest rate, in streams a second.
const LEAST: f64 = 1.0;
/// The rate grows back by this part of the full one with each stream that stands.
const GROWTH: f64 = 1.0 / 100.0;

/// Tokens that come at a rate.
#[derive(Debug)]
struct Bucket {
    full: f64,
    rate: f64,
    tokens: f64,
    at: Moment,
}

impl Bucket {
    fn new(full: f64, now: Moment) -> Self {
        Self { full, rate: full, tokens: full, at: now }
    }

    /// Takes one token, or says when there will be one.
    fn take(&mut self, now: Moment) -> Result<(), Moment> {
        self.fill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        // Rounded up, so that the wait is never a little too short.
        let wait = Duration::from_secs_f64((1.0 - self.tokens) / self.rate) + Duration::from_millis(1);
        Err(now + wait)
    }

    fn fill(&mut self, now: Moment) {
        self.tokens = (self.tokens + now.since(self.at).as_secs_f64() * self.rate).min(self.rate);
        self.at = now;
    }

    fn slower(&mut self, now: Moment) {
        self.fill(now);
        self.rate = (self.rate / 2.0).max(LEAST);
        self.tokens = 0.0;
    }

    fn faster(&mut self) {
        self.rate = (self.rate + self.full * GROWTH).min(self.full);
    }
}

struct Waiting {
    /// Has no stream; members; who came first.
    order: (bool, usize, Reverse<u64>),
    permit: oneshot::Sender<()>,
}

impl PartialEq for Waiting {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Waiting {}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order.cmp(&other.order)
    }
}

struct State {
    bucket: Bucket,
    waiting: BinaryHeap<Waiting>,
    sequence: u64,
}

/// Lets streams open one after the other.
pub(super) struct Admission {
    state: Mutex<State>,
    arrived: Notify,
    clock: Clock,
}

impl Admission {
    /// `rate` in streams a second.
    pub(super) fn new(rate: f64, clock: Clock) -> Self {
        let bucket = Bucket::new(rate.max(LEAST), clock.now());
        let state = State { bucket, waiting: BinaryHeap::new(), sequence: 0 };
        Self { state: state.into(), arrived: Notify::new(), clock }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Resolves when a group of `population` members may open a stream; `bare`
    /// where it has none. Dropped before: the place is free.
    pub(super) fn enter(&self, bare: bool, population: usize) -> oneshot::Receiver<()> {
        let (permit, admitted) = oneshot::channel();
        let mut state = self.lock();
        state.sequence += 1;
        let order = (bare, population, Reverse(state.sequence));
        state.waiting.push(Waiting { order, permit });
        drop(state);
        self.arrived.notify_one();
        admitted
    }

    /// Groups that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// The present rate, in streams a second.
    pub(super) fn rate(&self) -> f64 {
        self.lock().bucket.rate
    }

    /// The control plane said RESOURCE_EXHAUSTED.
    pub(super) fn refused(&self) {
        let now = self.clock.now();
        self.lock().bucket.slower(now);
    }

    /// A stream stands.
    pub(super) fn stands(&self) {
        self.lock().bucket.faster();
    }

    /// Admits for ever; `room` resolves when there is a connection to open on.
    pub(super) async fn run<F: Future<Output = ()>>(&self, room: impl Fn() -> F) {
        loop {
            while !self.someone_waits() {
                self.arrived.notified().await;
            }
            room().await;
            let now = self.clock.now();
            let token = self.lock().bucket.take(now);
            if let Err(at) = token {
                self.clock.sleep_until(at).await;
                continue;
            }
            self.admit();
        }
    }

    /// Forgets those who left.
    fn someone_waits(&self) -> bool {
        let mut state = self.lock();
        while state.waiting.peek().is_some_and(|first| first.permit.is_closed()) {
            state.waiting.pop();
        }
        !state.waiting.is_empty()
    }

    fn admit(&self) {
        let mut state = self.lock();
        while let Some(first) = state.waiting.pop() {
            if first.permit.send(()).is_ok() {
                return;
            }
        }
    }
}

impl std::fmt::Debug for Admission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admission").field("waiting", &self.waiting()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use std::pin::pin;

    #[test]
    fn the_bucket_holds_a_second_and_halves_when_told() {
        let at = |millis| Moment::from_start(Duration::from_millis(millis));
        let mut bucket = Bucket::new(4.0, at(0));
        assert_eq!((0..9).filter(|_| bucket.take(at(0)).is_ok()).count(), 4);
        assert_eq!(bucket.take(at(0)), Err(at(251)));
        assert_eq!((0..9).filter(|_| bucket.take(at(500)).is_ok()).count(), 2);
        bucket.slower(at(500));
        assert_eq!(bucket.take(at(500)), Err(at(1001)));
        (0..200).for_each(|_| bucket.faster());
        assert!((bucket.rate - 4.0).abs() < 1e-9);
    }

    #[tokio::test]
    async fn the_bare_and_the_most_populated_go_first() {
        let clock = Clock::manual();
        let admission = Admission::new(1.0, clock.clone());
        let (moves, small, large) = (admission.enter(false, 99), admission.enter(true, 1), admission.enter(true, 9));
        drop(admission.enter(true, 99));
        let mut run = pin!(admission.run(|| async {}));
        assert!(run.as_mut().now_or_never().is_none());
        assert!(large.now_or_never().is_some());
        let mut small = pin!(small);
        assert!(small.as_mut().now_or_never().is_none());
        clock.advance(Duration::from_millis(1001));
        assert!(run.as_mut().now_or_never().is_none());
        assert!(small.now_or_never().is_some());
        clock.advance(Duration::from_millis(1001));
        assert!(run.as_mut().now_or_never().is_none());
        assert!(moves.now_or_never().is_some());
    }
}
