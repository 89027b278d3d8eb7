//! What the watcher sees: lines that stay, and on a terminal one that lives.

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the live line changes on a terminal, and is printed elsewhere.
const LIVE: Duration = Duration::from_millis(200);
const PLAIN: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Screen {
    terminal: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    shown: Option<Instant>,
    /// The live line stands at the cursor.
    live: bool,
}

impl Screen {
    pub fn stdout() -> Self {
        Self { terminal: std::io::stdout().is_terminal(), state: Mutex::default() }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let clear = if std::mem::take(&mut state.live) { "\r\x1b[K" } else { "" };
        write(&format!("{clear}{text}\n"));
    }

    /// How things stand. Elsewhere than on a terminal it is a line now and then.
    pub fn live(&self, text: impl FnOnce() -> String) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let pause = if self.terminal { LIVE } else { PLAIN };
        if state.shown.is_some_and(|shown| shown.elapsed() < pause) {
            return;
        }
        state.shown = Some(Instant::now());
        state.live = self.terminal;
        match self.terminal {
            true => write(&format!("\r\x1b[K{}", text())),
            false => write(&format!("{}\n", text())),
        }
    }
}

/// A reader that went away is no reason to stop.
fn write(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
