//! Moments on a clock that nobody here reads.

use std::ops::{Add, Sub};
use std::time::Duration;

/// A point on the process' monotonic clock, counted from its start.
///
/// Pure modules take it as an argument; a test or the simulator makes its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(Duration);

impl Moment {
    pub const START: Self = Self(Duration::ZERO);

    pub const fn from_start(elapsed: Duration) -> Self {
        Self(elapsed)
    }

    /// Time since the clock's start.
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// Time from `earlier` to here; zero where `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

impl Sub for Moment {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// The earlier of two deadlines, either of which may be missing.
pub fn earliest(a: Option<Moment>, b: Option<Moment>) -> Option<Moment> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (one, other) => one.or(other),
    }
}

/// Every span of time that the protocol or the design names, in one place.
/// Tests make them small or move the clock past them.
#[derive(Clone, Debug)]
pub struct Timing {
    /// An open turn expires this long after its last byte was handed to the
    /// transport (C-049).
    pub turn: Duration,
    /// Removals wait until the group has been quiet this long (C-105) …
    pub settle: Duration,
    /// … but at most this long.
    pub settle_most: Duration,
    /// A follow-up assignment waits this long for the upstream's own (C-101);
    /// the round-trip time is added by whoever measures it.
    pub follow_up: Duration,
    /// A name asked of a SotW upstream and not answered is absent (C-118).
    pub absent: Duration,
    /// A request that is passed on waits this long for its answer (C-193).
    pub pass: Duration,
    /// A cold group that cannot be answered holds its stream this long (C-127).
    pub cold_grace: Duration,
    /// An ask unanswered this long makes an upstream one that cannot answer.
    pub unanswered: Duration,
    /// Held but unconfirmed content, wanted again, waits this long for the upstream.
    pub reconfirm: Duration,
    /// A version of our form that was never seen here is not overwritten this long.
    pub foreign_version: Duration,
    /// Asks to an upstream are gathered this long.
    pub gather: Duration,
    /// A name nobody wants stays subscribed upstream this long.
    pub linger: Duration,
    /// Unwanted content is evicted after this long of synced upstream.
    pub evict: Duration,
    /// A group without members closes its upstream stream after this long …
    pub group_idle: Duration,
    /// … and is forgotten after this long of synced upstream.
    pub group_forget: Duration,
    /// Bytes that wait this long while none is accepted end a stream.
    pub send_stall: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            turn: Duration::from_secs(5),
            settle: Duration::from_millis(300),
            settle_most: Duration::from_secs(5),
            follow_up: Duration::from_millis(250),
            absent: Duration::from_secs(8),
            pass: Duration::from_secs(30),
            cold_grace: Duration::from_secs(5),
            unanswered: Duration::from_secs(2),
            reconfirm: Duration::from_secs(1),
            foreign_version: Duration::from_secs(2),
            gather: Duration::from_millis(10),
            linger: Duration::from_secs(60),
            evict: Duration::from_secs(3600),
            group_idle: Duration::from_secs(600),
            group_forget: Duration::from_secs(24 * 3600),
            send_stall: Duration::from_secs(30),
        }
    }
}
