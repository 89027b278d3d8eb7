//! `report.html`: one file, with drawings, that needs no other.

use super::{HEADS, cells};
use crate::bench::results::{Chart, Document};
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 300.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 44.0;
const COLOURS: [&str; 6] = ["#0b6bcb", "#c2410c", "#15803d", "#7c3aed", "#b91c5c", "#57534e"];

const STYLE: &str = "body{font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#1c1917}\
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em}table{border-collapse:collapse;font-size:13px;width:100%}\
td,th{border-bottom:1px solid #e7e5e4;padding:3px 8px;text-align:left;vertical-align:top}th{color:#57534e;font-weight:600}\
td.n{text-align:right;white-space:nowrap}dl{display:grid;grid-template-columns:max-content 1fr;gap:2px 16px}dt{color:#57534e}\
dd{margin:0}svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#44403c}.k{font-size:13px}";

/// What a reader must know before the figures.
pub(super) fn facts(document: &Document) -> Vec<(&'static str, String)> {
    let machine = &document.machine;
    let mut facts = vec![
        (
            "machine",
            format!(
                "{} cores, {}, {} GiB, Linux {}",
                machine.cores,
                machine.processor,
                machine.memory_bytes >> 30,
                machine.kernel
            ),
        ),
        ("load before", format!("{:.2}", machine.load)),
        ("outpost", format!("{} ({})", document.outpost, document.commit.as_deref().unwrap_or("commit not known"))),
        ("command", format!("outpost {}", document.arguments.join(" "))),
        ("seed", document.seed.to_string()),
        ("took", format!("{:.0} s", document.seconds)),
    ];
    if document.debug_build {
        facts.push(("build", "debug: the figures say nothing".into()));
    }
    facts
}

pub fn html(document: &Document) -> String {
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Push latency</title><style>{STYLE}</style></head><body>\n<h1>Push latency</h1>\n<dl>"
    );
    for (name, value) in facts(document) {
        let _ = write!(out, "<dt>{name}</dt><dd>{}</dd>", escape(&value));
    }
    out.push_str("</dl>\n");
    for chart in &document.charts {
        let _ = writeln!(out, "<h2>{}</h2>\n{}", escape(&chart.title), svg(chart));
    }
    for (title, drawing) in super::bars::of(document) {
        let _ = writeln!(out, "<h2>{title}</h2>\n{drawing}");
    }
    out.push_str("<h2>Figures</h2>\n<table><tr>");
    for head in HEADS {
        let _ = write!(out, "<th>{}</th>", head.to_lowercase());
    }
    out.push_str("</tr>\n");
    for row in &document.results {
        out.push_str("<tr>");
        for (at, cell) in cells(row, &document.results).iter().enumerate() {
            let class = if (4..7).contains(&at) { " class=\"n\"" } else { "" };
            let _ = write!(out, "<td{class}>{}</td>", escape(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</table>\n<h2>How to read this</h2>\n<ul>");
    for note in &document.notes {
        let _ = write!(out, "<li>{}</li>", escape(note));
    }
    out.push_str("</ul>\n</body></html>\n");
    out
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Where values stand on an axis.
struct Axis {
    least: f64,
    most: f64,
    logarithmic: bool,
}

impl Axis {
    fn of(values: impl Iterator<Item = f64> + Clone, logarithmic: bool) -> Self {
        let most = values.clone().fold(0.0, f64::max);
        let positive = values.filter(|value| *value > 0.0).fold(f64::INFINITY, f64::min);
        let most = if most > 0.0 { most } else { 1.0 };
        let least = if logarithmic && positive.is_finite() { positive.min(most / 1.01) } else { 0.0 };
        Self { least, most, logarithmic: logarithmic && least > 0.0 }
    }

    /// Between 0 and 1.
    fn place(&self, value: f64) -> f64 {
        let place = match self.logarithmic {
            true => (value.max(self.least) / self.least).ln() / (self.most / self.least).ln(),
            false => (value - self.least) / (self.most - self.least),
        };
        place.clamp(0.0, 1.0)
    }

    fn ticks(&self) -> Vec<f64> {
        if self.logarithmic {
            let from = self.least.log10().floor() as i32;
            let powers = (from..=self.most.log10().ceil() as i32).map(|power| 10f64.powi(power));
            let steps = powers.flat_map(|power| [power, power * 2.0, power * 5.0]);
            return steps.filter(|tick| *tick >= self.least && *tick <= self.most).collect();
        }
        let rough = self.most / 5.0;
        let power = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power).find(|step| *step >= rough);
        let step = step.unwrap_or(rough);
        (0..=5).map(|turn| f64::from(turn) * step).filter(|tick| *tick <= self.most * 1.001).collect()
    }
}

fn svg(chart: &Chart) -> String {
    let points = || chart.lines.iter().flat_map(|line| line.points.iter());
    let across = Axis::of(points().map(|point| point.0), chart.logarithmic);
    let up = Axis::of(points().map(|point| point.1), false);
    let x = |value: f64| LEFT + across.place(value) * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| HEIGHT - BOTTOM - up.place(value) * (HEIGHT - TOP - BOTTOM);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
        escape(&chart.title)
    );
    for tick in up.ticks() {
        let at = y(tick);
        let _ = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\" stroke=\"#e7e5e4\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            WIDTH - RIGHT,
            LEFT - 6.0,
            at + 4.0,
            super::number(tick)
        );
    }
    for tick in across.ticks() {
        let (at, foot) = (x(tick), HEIGHT - BOTTOM);
        let _ = write!(
            out,
            "<line x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{TOP}\" y2=\"{foot:.1}\" stroke=\"#f5f5f4\"/><text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            foot + 16.0,
            super::number(tick)
        );
    }
    for (line, colour) in chart.lines.iter().zip(COLOURS.iter().cycle()) {
        let path: Vec<String> =
            line.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let _ = write!(
            out,
            "<polyline fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\" points=\"{}\"/>",
            path.join(" ")
        );
    }
    let _ = write!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text></svg>\n<p class=\"k\">{}: ",
        f64::midpoint(LEFT, WIDTH - RIGHT),
        HEIGHT - 8.0,
        escape(&chart.x),
        escape(&chart.y)
    );
    for (line, colour) in chart.lines.iter().zip(COLOURS.iter().cycle()) {
        let _ = write!(out, "<span style=\"color:{colour}\">■</span> {} ", escape(&line.name));
    }
    out.push_str("</p>");
    out
}
