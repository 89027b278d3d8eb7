//! Drawings of figures side by side: stages, WAN bytes, memory.

use super::html::escape;
use super::{number, params};
use crate::bench::results::{Document, Row};
use std::fmt::Write;

/// Figures of one kind.
struct Bars {
    title: &'static str,
    metric: fn(&str) -> bool,
}

const KINDS: [Bars; 4] = [
    Bars { title: "Where a change is in Outpost, from when it was due", metric: |metric| metric.starts_with("stage_") },
    Bars { title: "Bytes over the WAN for each change, down", metric: |metric| metric == "wan_down_per_change" },
    Bars {
        title: "Resident memory of Outpost",
        metric: |metric| metric == "outpost_rss" || metric == "outpost_rss_peak",
    },
    Bars { title: "Resident memory for each stream", metric: |metric| metric == "rss_per_stream" },
];
/// More are in the table.
const MOST: usize = 24;

const WIDTH: f64 = 720.0;
const LABEL: f64 = 380.0;
const VALUE: f64 = 90.0;
const HEIGHT: f64 = 20.0;

/// A drawing of each kind that there are figures of, with its title.
pub(super) fn of(document: &Document) -> Vec<(&'static str, String)> {
    let rows = |bars: &Bars| {
        let wanted = |row: &&Row| (bars.metric)(&row.metric) && row.value.is_some();
        document.results.iter().filter(wanted).take(MOST).collect::<Vec<_>>()
    };
    let drawn = KINDS.iter().map(|bars| (bars.title, rows(bars)));
    drawn.filter(|(_, rows)| !rows.is_empty()).map(|(title, rows)| (title, svg(title, &rows, document))).collect()
}

fn svg(title: &str, rows: &[&Row], document: &Document) -> String {
    let most = rows.iter().filter_map(|row| row.value).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"{}\">",
        HEIGHT * rows.len() as f64,
        escape(title)
    );
    for (turn, row) in rows.iter().enumerate() {
        let value = row.value.unwrap_or(0.0);
        let (top, length) = (HEIGHT * turn as f64, value / most * (WIDTH - LABEL - VALUE));
        let stage = row.metric.strip_prefix("stage_").map_or_else(String::new, |stage| format!(" {stage}"));
        let label = format!("{} {} {}{stage}", row.scenario, row.mode, params(row, &document.results));
        let colour = if row.mode == "direct" { "#0b6bcb" } else { "#c2410c" };
        let _ = write!(
            out,
            "<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text><rect x=\"{LABEL}\" y=\"{:.1}\" width=\"{length:.1}\" height=\"14\" fill=\"{colour}\"/><text x=\"{:.1}\" y=\"{:.1}\">{} {}</text>",
            LABEL - 8.0,
            top + 14.0,
            escape(&label),
            top + 3.0,
            LABEL + length + 6.0,
            top + 14.0,
            number(value),
            escape(&row.unit)
        );
    }
    out + "</svg>"
}
