//! Sizes, spans of time and log levels, as operators write them.

use std::time::Duration;
use tracing_subscriber::filter::{LevelFilter, Targets};

/// `4096`, `512KiB`, `3.5MiB`.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let hint = || "is no size; write a number, or one with KiB or MiB, such as 32MiB".to_string();
    let (number, unit) = split(text);
    let unit = match unit {
        "" | "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        _ => return Err(hint()),
    };
    let bytes = number.parse::<f64>().map_err(|_| hint())? * unit;
    if (1.0..=4e9).contains(&bytes) { Ok(bytes as usize) } else { Err("is not between 1 and 4e9 bytes".into()) }
}

/// `500ms`, `30s`, `5m`, `1h`.
pub fn span(text: &str) -> Result<Duration, String> {
    let hint = || "is no span of time; write a number with ms, s, m or h, such as 30s".to_string();
    let (number, unit) = split(text);
    let unit = match unit {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(hint()),
    };
    let seconds = number.parse::<f64>().map_err(|_| hint())? * unit;
    if (0.0..=1e6).contains(&seconds) { Ok(Duration::from_secs_f64(seconds)) } else { Err(hint()) }
}

/// A count between `least` and `most`.
pub(super) fn count(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (least..=most).contains(count));
    count.ok_or_else(|| format!("is no number between {least} and {most}"))
}

fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    text.split_at(end)
}

/// `info`, `info,outpost::upstream=debug`. A word alone is a level: taken for the name
/// of a target, a level that is misspelt would do nothing, in silence.
pub fn levels(text: &str) -> Result<Targets, String> {
    let level = |part: &str| !part.is_empty() && part.parse::<LevelFilter>().is_ok();
    // A blank would be a part of the name.
    let parts: Vec<_> = text.split(',').map(str::trim).collect();
    let known = parts.iter().all(|part| part.contains('=') || level(part));
    let read = known.then(|| parts.join(",").parse().ok()).flatten();
    read.ok_or_else(|| "is no level and no filter; write info, or info,outpost::upstream=debug".to_owned())
}
