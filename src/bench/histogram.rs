//! Latencies in constant memory: buckets of at most 1.6 % width.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets in each power of two.
const PER_OCTAVE: u64 = 64;
/// Values from 2^36 µs, 19 hours, share the last bucket.
const BUCKETS: usize = 32 * PER_OCTAVE as usize;

/// Counts of microseconds. Many threads may record at once.
#[derive(Debug)]
pub struct Histogram {
    counts: Box<[AtomicU64]>,
    max: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), max: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub fn record(&self, latency: Duration) {
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get(bucket(micros)) {
            count.fetch_add(1, Relaxed);
        }
        self.max.fetch_max(micros, Relaxed);
    }

    /// What [`buckets`](Self::buckets) told, of one histogram or of several.
    pub fn of(buckets: &[(u32, u64)]) -> Self {
        let histogram = Self::default();
        for &(at, count) in buckets {
            let Some(slot) = histogram.counts.get(at as usize) else { continue };
            slot.fetch_add(count, Relaxed);
            histogram.max.fetch_max(upper(at as usize), Relaxed);
        }
        histogram
    }

    /// Buckets that are not empty, by their number. The largest value is told as
    /// its bucket's end.
    pub fn buckets(&self) -> Vec<(u32, u64)> {
        let counts = self.counts.iter().map(|count| count.load(Relaxed));
        (0..).zip(counts).filter(|(_, count)| *count > 0).collect()
    }

    /// Latencies, and the share of records that do not exceed each, in at most
    /// `points` steps.
    pub fn curve(&self, points: usize) -> Vec<(f64, f64)> {
        let (buckets, total) = (self.buckets(), self.count() as f64);
        let step = buckets.len().div_ceil(points.max(1)).max(1);
        let (mut seen, mut curve) = (0, Vec::new());
        for (turn, (at, count)) in buckets.iter().enumerate() {
            seen += count;
            if turn % step == 0 || turn + 1 == buckets.len() {
                curve.push((upper(*at as usize) as f64, seen as f64 / total));
            }
        }
        curve
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| count.load(Relaxed)).sum()
    }

    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max.load(Relaxed))
    }

    /// The smallest latency that a share `q` of all records does not exceed,
    /// rounded up to its bucket; `None` where nothing was recorded.
    pub fn quantile(&self, q: f64) -> Option<Duration> {
        let total = self.count();
        let rank = ((total as f64 * q).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (at, count) in self.counts.iter().enumerate() {
            seen += count.load(Relaxed);
            if seen >= rank {
                return Some(Duration::from_micros(upper(at)).min(self.max()));
            }
        }
        None
    }
}

/// The bucket of a value: itself below 128, then 64 buckets for each doubling.
fn bucket(micros: u64) -> usize {
    let octave = (63 - micros.max(1).leading_zeros() as u64).saturating_sub(6);
    usize::try_from(octave * PER_OCTAVE + (micros >> octave)).map_or(BUCKETS - 1, |at| at.min(BUCKETS - 1))
}

/// The largest value of a bucket.
fn upper(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let octave = (bucket / PER_OCTAVE).saturating_sub(1);
    ((bucket - octave * PER_OCTAVE + 1) << octave) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_of_known_values() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for millis in 1..=1000 {
            histogram.record(Duration::from_millis(millis));
        }
        for (q, millis) in [(0.0, 1.0), (0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let found = histogram.quantile(q).unwrap().as_secs_f64() * 1000.0;
            assert!((found / millis - 1.0).abs() < 0.017, "{q}: {found} ms, not {millis}");
        }
        assert_eq!((histogram.count(), histogram.max()), (1000, Duration::from_secs(1)));
    }

    #[test]
    fn buckets_make_the_same_histogram_again() {
        let histogram = Histogram::default();
        for micros in [5, 5, 900, 123_456] {
            histogram.record(Duration::from_micros(micros));
        }
        let mut twice = histogram.buckets();
        twice.extend(histogram.buckets());
        let again = Histogram::of(&twice);
        assert_eq!((again.count(), again.quantile(0.5)), (8, histogram.quantile(0.5)));
        assert!(again.max() >= histogram.max() && again.max() < histogram.max().mul_f64(1.02));
        let curve = histogram.curve(2);
        assert_eq!((curve.len(), curve[0], curve.last().unwrap().1), (2, (5.0, 0.5), 1.0));
    }

    proptest! {
        #[test]
        fn a_bucket_is_narrow_and_holds_its_values(micros in 0u64..1 << 36) {
            let at = bucket(micros);
            prop_assert!(upper(at) >= micros);
            prop_assert!(at == 0 || upper(at - 1) < micros);
            prop_assert!(upper(at) - micros <= micros / 64);
        }
    }
}
