//! When traffic may come: a pure function of a few facts.

use crate::clock::span;
use std::time::Duration;

/// The certificate that sidecars are shown. Readiness does not depend on it: what
/// was loaded stays in use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Certificate {
    /// Why the newest files are not in use.
    pub problem: Option<String>,
    /// Until it begins, zero where it has.
    pub early: Duration,
    /// Until it ends, zero where it has; `None` where it does not say.
    pub left: Option<Duration>,
}

impl Certificate {
    /// Below this it is time that somebody looks. Many live an hour, and are replaced
    /// after half of it.
    const SOON: Duration = Duration::from_secs(15 * 60);

    /// Nobody has to look.
    pub fn is_good(&self) -> bool {
        self.problem.is_none() && self.early.is_zero() && self.left.is_none_or(|left| left > Self::SOON)
    }

    /// What follows the word certificate.
    pub fn text(&self) -> String {
        let left = match self.left {
            _ if !self.early.is_zero() => {
                format!("is not valid yet, for {}: who checks it refuses it; is the clock right?", span(self.early))
            }
            Some(Duration::ZERO) => "has ended".to_owned(),
            Some(left) => format!("ends in {:.1} h", left.as_secs_f64() / 3600.0),
            None => "does not say when it ends".to_owned(),
        };
        let problem = self.problem.as_deref().map(|problem| format!("; its newest files are not in use: {problem}"));
        left + &problem.unwrap_or_default()
    }
}

/// What readiness depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every listener is bound.
    pub listening: bool,
    pub draining: bool,
    /// At least one snapshot is held.
    pub holding: bool,
    /// A connection to an upstream stands: TLS and HTTP/2 handshakes are done; or
    /// files were read in its place.
    pub connected: bool,
    /// Files stand in the place of an upstream.
    pub files: bool,
}

impl Facts {
    /// A warm replica stays ready without its upstream; a cold one without it
    /// has nothing to say. Before the first sidecar nothing is asked, and no
    /// sidecar comes before ready, so a connection is enough.
    pub fn ready(self) -> bool {
        self.listening && !self.draining && (self.holding || self.connected)
    }

    /// One word for logs and probes.
    pub fn verdict(self) -> &'static str {
        if self.ready() { "ready" } else { "not ready" }
    }

    /// A line for each fact, as Kubernetes' own `?verbose` has it.
    pub fn explain(self) -> String {
        let mark = |good: bool| if good { "[+]" } else { "[-]" };
        let may = |good: bool| if good || self.holding || self.connected { mark(true) } else { mark(false) };
        let lines = [
            (mark(self.listening), "listening", if self.listening { "ok" } else { "a listener is not bound" }),
            (mark(!self.draining), "draining", if self.draining { "streams are being ended" } else { "no" }),
            (may(self.holding), "snapshot", if self.holding { "held" } else { "none held yet" }),
            (
                may(self.connected),
                "upstream",
                match (self.files, self.connected, self.holding) {
                    (true, true, _) => "files were read",
                    (true, false, _) => "files could not be read yet",
                    (false, true, _) => "connected",
                    (false, false, true) => "not connected; what is held is served",
                    (false, false, false) => "not connected",
                },
            ),
        ];
        let mut text = String::new();
        for (mark, what, state) in lines {
            text.push_str(&format!("{mark}{what} {state}\n"));
        }
        text.push_str(self.verdict());
        text.push('\n');
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_that_needs_a_hand_is_marked() {
        let hours = |hours: u64| Some(Duration::from_secs(hours * 3600));
        let bad = Some("no PEM".to_owned());
        let table = [
            (None, hours(24), "[+]certificate ends in 24.0 h\n"),
            (None, None, "[+]certificate does not say when it ends\n"),
            (None, hours(1), "[+]certificate ends in 1.0 h\n"),
            (None, Some(Duration::from_secs(720)), "[!]certificate ends in 0.2 h\n"),
            (None, hours(0), "[!]certificate has ended\n"),
            (bad, hours(24), "[!]certificate ends in 24.0 h; its newest files are not in use: no PEM\n"),
        ];
        for (problem, left, want) in table {
            let certificate = Certificate { problem, left, early: Duration::ZERO };
            let mark = if certificate.is_good() { "[+]" } else { "[!]" };
            assert_eq!(format!("{mark}certificate {}\n", certificate.text()), want);
        }
        let early = Certificate { early: Duration::from_secs(599), left: hours(24), problem: None };
        assert!(!early.is_good() && early.text().starts_with("is not valid yet, for 10m: "), "{}", early.text());
    }

    #[test]
    fn truth_table() {
        // listening, draining, holding, connected → ready
        let table = [
            (0, 0, 0, 0, false),
            (0, 0, 0, 1, false),
            (0, 0, 1, 0, false),
            (0, 0, 1, 1, false),
            (0, 1, 0, 0, false),
            (0, 1, 0, 1, false),
            (0, 1, 1, 0, false),
            (0, 1, 1, 1, false),
            (1, 0, 0, 0, false),
            (1, 0, 0, 1, true),
            (1, 0, 1, 0, true),
            (1, 0, 1, 1, true),
            (1, 1, 0, 0, false),
            (1, 1, 0, 1, false),
            (1, 1, 1, 0, false),
            (1, 1, 1, 1, false),
        ];
        for (listening, draining, holding, connected, want) in table {
            let facts = Facts {
                listening: listening == 1,
                draining: draining == 1,
                holding: holding == 1,
                connected: connected == 1,
                files: false,
            };
            assert_eq!(facts.ready(), want, "{facts:?}");
            assert_eq!(facts.explain().contains("[-]"), !want, "{facts:?}: {}", facts.explain());
        }
    }
}
