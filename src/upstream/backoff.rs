//! When to try again. Pure: random numbers are arguments.

use crate::breaks;
use std::time::Duration;

/// Bounds of all waiting (C-136 and its decision).
#[derive(Clone, Debug)]
pub struct Waits {
    /// The first wait is up to this long …
    pub least: Duration,
    /// … and each later one up to twice the last, to at most this.
    pub most: Duration,
    /// … or to at most this while the address cannot be reached at all: then an
    /// attempt troubles nobody, and the sidecars wait for the first that does not fail.
    pub unreached: Duration,
    /// What lived this long was healthy: the waits begin anew …
    pub healthy: Duration,
    /// … and the next try follows within this.
    pub at_once: Duration,
    /// At least this long after a refusal that does not pass by itself.
    pub refused: Duration,
    /// A stream that was asked and has said nothing since ends after this, though
    /// its connection answers pings: a gateway may do that for a server it lost.
    pub mute: Duration,
    /// A second stream that has said something takes over after this, synced or
    /// not; what is still in doubt then is asked for by a third.
    pub patience: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            least: Duration::from_millis(250),
            most: Duration::from_secs(30),
            unreached: Duration::from_secs(5),
            healthy: Duration::from_secs(60),
            at_once: Duration::from_secs(1),
            refused: Duration::from_secs(30),
            mute: Duration::from_secs(60),
            patience: Duration::from_secs(15),
        }
    }
}

/// How something ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It stood this long; zero for what the peer cut short before it stood.
    After(Duration),
    /// Nobody answered.
    Unreached,
    /// The peer will not have us, or sends what we cannot take: trying again
    /// soon is of no use.
    Refused,
}

/// Exponential back-off with full jitter.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    /// In a row.
    unreached: u32,
}

impl Backoff {
    /// How long to wait now. `random` is in 0..1.
    pub fn next(&mut self, waits: &Waits, ended: Ended, random: f64) -> Duration {
        let unreached = std::mem::take(&mut self.unreached);
        match ended {
            Ended::Unreached => {
                self.unreached = unreached.saturating_add(1);
                doubled(unreached, waits.least, waits.unreached).mul_f64(random)
            }
            Ended::After(lived) if lived >= waits.healthy => {
                self.failures = 0;
                waits.at_once.mul_f64(random)
            }
            Ended::After(_) => {
                let failures = if breaks::on("C-136") { 0 } else { self.failures };
                self.failures = failures.saturating_add(1);
                doubled(failures, waits.least, waits.most).mul_f64(random)
            }
            Ended::Refused => {
                self.failures = self.failures.saturating_add(1);
                waits.refused + waits.refused.mul_f64(random)
            }
        }
    }
}

fn doubled(times: u32, least: Duration, most: Duration) -> Duration {
    least.saturating_mul(2u32.saturating_pow(times.min(16))).min(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_to_the_most_and_begin_anew_after_health() {
        let waits = Waits::default();
        let mut backoff = Backoff::default();
        let short = Ended::After(Duration::from_millis(10));
        let spans: Vec<_> = (0..9).map(|_| backoff.next(&waits, short, 1.0).as_millis()).collect();
        assert_eq!(spans, [250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(backoff.next(&waits, short, 0.0), Duration::ZERO, "full jitter");
        let healthy = Ended::After(Duration::from_secs(60));
        assert_eq!(backoff.next(&waits, healthy, 0.5), Duration::from_millis(500));
        assert_eq!(backoff.next(&waits, short, 1.0), Duration::from_millis(250));
        assert!(backoff.next(&waits, Ended::Refused, 0.0) >= Duration::from_secs(30));
    }

    #[test]
    fn an_outage_of_an_hour_is_over_seconds_after_it_ends() {
        let waits = Waits::default();
        let mut backoff = Backoff::default();
        let spans: Vec<_> = (0..7).map(|_| backoff.next(&waits, Ended::Unreached, 1.0).as_millis()).collect();
        assert_eq!(spans, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        // What is reached again and does not last counts on its own.
        let short = Ended::After(Duration::from_secs(20));
        assert_eq!(backoff.next(&waits, short, 1.0), Duration::from_millis(250));
        assert_eq!(backoff.next(&waits, Ended::Unreached, 1.0), Duration::from_millis(250));
    }
}
