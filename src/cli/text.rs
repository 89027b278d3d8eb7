//! Tables and spans of time for people.

use crate::admin::report::Seconds;
use crate::clock;
use std::time::Duration;

/// `12s`, `3m`, `5h`, `2d`.
pub(super) fn age(age: Seconds) -> String {
    clock::span(Duration::try_from_secs_f64(age.0).unwrap_or_default())
}

/// One line of what a peer said: nothing that moves the cursor, and no more
/// than fits a screen. JSON has all of it.
pub(super) fn clean(text: &str) -> String {
    const MOST: usize = 400;
    let mut line = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    if line.chars().count() > MOST {
        line = line.chars().take(MOST).collect();
        line.push('…');
    }
    line
}

/// Columns aligned by two blanks; the last is as wide as it is.
pub(super) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// `1 sidecar`, `2 sidecars`.
pub(super) fn count(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}
