//! Log lines that a fleet cannot turn into a flood.
//!
//! What happens to one sidecar happens to ten thousand of them at once. So what
//! is logged is looked at by *key*, such as the reason of a refusal: in a minute
//! its first few are logged, then the 10th, 100th, 1000th …, each with how many
//! were left out since. So a count is never far behind, and ten thousand of a kind
//! are a handful of lines.
//!
//! A peer's text goes into the log by its `Debug` (`text = ?text`), which escapes
//! line ends and control characters: nobody but us begins a line there.

use crate::xds::Moment;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(60);

/// What was logged lately, by key.
#[derive(Debug)]
pub struct Quiet<K> {
    /// So many of a key are logged before it grows quiet.
    first: u64,
    /// Keys remembered at once. Beyond it the oldest is forgotten, so choose keys
    /// of a closed set, or bound those of a peer's making by another one.
    keys: usize,
    seen: Mutex<HashMap<K, Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    began: Moment,
    /// In this period.
    count: u64,
    omitted: u64,
}

impl<K: Eq + Hash + Clone> Quiet<K> {
    pub fn new(first: u64, keys: usize) -> Self {
        Self { first, keys: keys.max(1), seen: Mutex::default() }
    }

    /// One more of `key`. If it is to be logged: how many were left out since
    /// the last one that was.
    pub fn due(&self, now: Moment, key: &K) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !seen.contains_key(key) && seen.len() >= self.keys {
            evict(&mut seen, now);
        }
        let of = seen.entry(key.clone()).or_insert(Seen { began: now, count: 0, omitted: 0 });
        if now.since(of.began) >= PERIOD {
            (of.began, of.count) = (now, 0);
        }
        of.count += 1;
        if of.count <= self.first || is_round(of.count) {
            return Some(std::mem::take(&mut of.omitted));
        }
        of.omitted += 1;
        None
    }
}

/// Forgets those whose time is over, or the oldest.
fn evict<K: Eq + Hash + Clone>(seen: &mut HashMap<K, Seen>, now: Moment) {
    let before = seen.len();
    seen.retain(|_, of| now.since(of.began) < PERIOD);
    if seen.len() == before
        && let Some(oldest) = seen.iter().min_by_key(|(_, of)| of.began).map(|(key, _)| key.clone())
    {
        seen.remove(&oldest);
    }
}

/// 10, 100, 1000 …
fn is_round(count: u64) -> bool {
    count >= 10 && 10u64.checked_pow(count.ilog10()) == Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn ten_thousand_of_a_kind_are_a_handful_of_lines() {
        let quiet = Quiet::new(2, 8);
        let logged: Vec<_> = (1..=10_000).filter_map(|number| Some((number, quiet.due(at(1), &"a")?))).collect();
        assert_eq!(logged, [(1, 0), (2, 0), (10, 7), (100, 89), (1000, 899), (10_000, 8999)]);
        assert_eq!(quiet.due(at(1), &"b"), Some(0), "another kind has its own");
        assert_eq!((quiet.due(at(2), &"a"), quiet.due(at(61), &"a")), (None, Some(1)), "a minute later");
    }

    #[test]
    fn keys_are_bounded_and_the_newest_is_heard() {
        let quiet = Quiet::new(1, 4);
        for number in 0..100 {
            assert_eq!(quiet.due(at(number / 10), &number), Some(0));
        }
        assert!(quiet.seen.lock().unwrap().len() <= 4);
        assert_eq!(quiet.due(at(9), &99), None);
    }
}
