//! NACKs in the log: each text once a minute, with how often it came.

use crate::quiet::Quiet;
use crate::xds::{Moment, Status, TypeUrl};

/// Texts remembered at once.
const TEXTS: usize = 256;
/// Texts of one type that are logged in a minute before it grows quiet.
const OF_TYPE: u64 = 20;
/// Of one text, this much is looked at and logged.
const LENGTH: usize = 500;

/// What was logged lately. A thousand sidecars that reject one resource are a few
/// lines with a count. Texts are the peers' own, so one of them may make many:
/// these silence their own type for a while, and no other.
#[derive(Debug)]
pub(super) struct Nacks {
    texts: Quiet<(&'static str, String)>,
    types: Quiet<&'static str>,
}

impl Default for Nacks {
    fn default() -> Self {
        Self { texts: Quiet::new(1, TEXTS), types: Quiet::new(OF_TYPE, usize::MAX) }
    }
}

impl Nacks {
    pub(super) fn log(&self, now: Moment, node: &str, type_url: &TypeUrl, status: &Status) {
        let text: String = status.message.chars().take(LENGTH).collect();
        if let Some((same, others)) = self.due(now, type_url, &text) {
            tracing::warn!(
                node = ?node, r#type = type_url.short(), code = status.code, text = ?text, same, others,
                "a sidecar rejected a response"
            );
        }
    }

    /// How many of this text, and how many other texts of the type, were left out
    /// since the last that was logged; `None` where this one is not to be.
    fn due(&self, now: Moment, type_url: &TypeUrl, text: &str) -> Option<(u64, u64)> {
        let same = self.texts.due(now, &(type_url.short(), text.to_owned()))?;
        let others = self.types.due(now, &type_url.short())?;
        Some((same, others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_text_is_logged_once_a_minute() {
        let nacks = Nacks::default();
        let (cds, eds) = (TypeUrl::from_short("cds").unwrap(), TypeUrl::from_short("eds").unwrap());
        let table = [
            (0, &cds, "a", Some((0, 0))),
            (1, &cds, "a", None),
            (2, &eds, "a", Some((0, 0))),
            (3, &cds, "b", Some((0, 0))),
            (59, &cds, "a", None),
            (60, &cds, "a", Some((2, 0))),
        ];
        for (seconds, type_url, text, want) in table {
            assert_eq!(nacks.due(at(seconds), type_url, text), want, "{seconds} s");
        }
    }

    #[test]
    fn many_texts_of_one_type_silence_no_other() {
        let nacks = Nacks::default();
        let (cds, eds) = (TypeUrl::from_short("cds").unwrap(), TypeUrl::from_short("eds").unwrap());
        let logged = (0..1005).filter(|number| nacks.due(at(1), &cds, &number.to_string()).is_some()).count();
        assert_eq!(logged, 22, "the first twenty, the 100th and the 1000th");
        assert_eq!(nacks.due(at(1), &eds, "cluster x: no such filter"), Some((0, 0)));
        assert_eq!(nacks.due(at(62), &cds, "another"), Some((0, 5)));
    }
}
