//! `--watch`: the same question again, shown where the answer is another.

use super::{Failure, Outcome, print};
use crate::clock::Clock;
use clap::Args;
use serde::Serialize;
use serde_json::Value;
use std::io::IsTerminal;
use std::time::Duration;

#[derive(Args, Clone, Copy, Debug, Default)]
pub(super) struct Watch {
    /// Go on asking, and print anew what changed; until interrupted
    #[arg(short, long)]
    pub(super) watch: bool,
}

/// What a verb has to show.
#[derive(Debug)]
pub(super) struct Shown {
    pub(super) text: String,
    pub(super) outcome: Outcome,
    /// Equal where nothing but ages and counts of bytes is another.
    mark: Value,
}

impl Shown {
    pub(super) fn new(text: String, outcome: Outcome, of: &impl Serialize) -> Self {
        let mut mark = serde_json::to_value(of).unwrap_or_default();
        still(&mut mark);
        Self { text, outcome, mark }
    }
}

/// Takes away what moves by itself.
fn still(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| !key.ends_with("Seconds") && !key.ends_with("Bytes") && key != "seconds");
            map.values_mut().for_each(still);
        }
        Value::Array(items) => items.iter_mut().for_each(still),
        _ => {}
    }
}

const AGAIN: Duration = Duration::from_secs(1);

impl Watch {
    /// Prints what `look` finds: once, or each time that it is something else.
    pub(super) async fn run(self, look: impl AsyncFn() -> Result<Shown, Failure>) -> Result<Outcome, Failure> {
        let clock = Clock::system();
        let mut before = None;
        loop {
            let shown = look().await?;
            if before.as_ref() != Some(&shown.mark) {
                if before.is_some() && std::io::stdout().is_terminal() {
                    // Clear the screen.
                    print("\u{1b}[H\u{1b}[2J")?;
                }
                print(&shown.text)?;
            }
            if !self.watch {
                return Ok(shown.outcome);
            }
            before = Some(shown.mark);
            clock.sleep_until(clock.now() + AGAIN).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ages_are_no_change() {
        let of = |age: f64, state: &str| {
            Shown::new(String::new(), Outcome::Good, &json!([{"ageSeconds": age, "seconds": age, "state": state}])).mark
        };
        assert_eq!(of(1.0, "SYNCED"), of(2.0, "SYNCED"));
        assert_ne!(of(1.0, "SYNCED"), of(1.0, "STALE"));
    }
}
