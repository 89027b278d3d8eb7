//! NACKs in the log: each text once a minute, with how often it came.

use crate::xds::{Moment, Status, TypeUrl};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const PERIOD: Duration = Duration::from_secs(60);
/// Texts remembered at once.
const MOST: usize = 256;
/// Of one text, this much is logged.
const LENGTH: usize = 500;

/// What was logged lately. A thousand sidecars that reject one resource are one
/// line with a count.
#[derive(Debug, Default)]
pub(super) struct Nacks {
    seen: Mutex<HashMap<(&'static str, String), Seen>>,
}

#[derive(Debug)]
struct Seen {
    logged: Moment,
    since: u64,
}

impl Nacks {
    pub(super) fn log(&self, now: Moment, node: &str, type_url: &TypeUrl, status: &Status) {
        let text: String = status.message.chars().take(LENGTH).collect();
        if let Some(others) = self.due(now, type_url, &text) {
            tracing::warn!(
                node = ?node, r#type = type_url.short(), code = status.code, text = ?text, others,
                "a sidecar rejected a response"
            );
        }
    }

    /// How many were not logged since the last one that was; `None` where this
    /// one is not to be logged.
    fn due(&self, now: Moment, type_url: &TypeUrl, text: &str) -> Option<u64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (type_url.short(), text.to_owned());
        if let Some(before) = seen.get_mut(&key) {
            if now.since(before.logged) < PERIOD {
                before.since += 1;
                return None;
            }
            before.logged = now;
            return Some(std::mem::take(&mut before.since));
        }
        if seen.len() >= MOST {
            seen.retain(|_, before| now.since(before.logged) < PERIOD);
        }
        if seen.len() >= MOST {
            return None;
        }
        seen.insert(key, Seen { logged: now, since: 0 });
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_logged_once_a_minute() {
        let nacks = Nacks::default();
        let at = |seconds| Moment::from_start(Duration::from_secs(seconds));
        let (cds, eds) = (TypeUrl::from_short("cds").unwrap(), TypeUrl::from_short("eds").unwrap());
        let table = [
            (0, &cds, "a", Some(0)),
            (1, &cds, "a", None),
            (2, &eds, "a", Some(0)),
            (3, &cds, "b", Some(0)),
            (59, &cds, "a", None),
            (60, &cds, "a", Some(2)),
        ];
        for (seconds, type_url, text, want) in table {
            assert_eq!(nacks.due(at(seconds), type_url, text), want, "{seconds} s");
        }
        for number in 0..2 * MOST {
            nacks.due(at(61), &cds, &number.to_string());
        }
        assert!(nacks.seen.lock().unwrap().len() <= MOST);
    }
}
