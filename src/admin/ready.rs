//! When traffic may come: a pure function of a few facts.

/// What readiness depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Every listener is bound.
    pub listening: bool,
    pub draining: bool,
    /// At least one snapshot is held.
    pub holding: bool,
    /// A connection to an upstream stands: TLS and HTTP/2 handshakes are done.
    pub connected: bool,
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
                match (self.connected, self.holding) {
                    (true, _) => "connected",
                    (false, true) => "not connected; what is held is served",
                    (false, false) => "not connected",
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
            };
            assert_eq!(facts.ready(), want, "{facts:?}");
            assert_eq!(facts.explain().contains("[-]"), !want, "{facts:?}: {}", facts.explain());
        }
    }
}
