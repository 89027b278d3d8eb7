//! What was found, for people and for programs.

mod bars;
mod html;
mod markdown;

use super::process::BenchError;
use super::results::{Document, Row};
use std::path::Path;

pub use html::html;
pub use markdown::markdown;

/// Writes `report.json`, `report.md` and `report.html`.
pub fn write(document: &Document, directory: &Path) -> Result<(), BenchError> {
    let error = |path: &Path| {
        let path = path.display().to_string();
        move |source| BenchError::Write { path, source }
    };
    std::fs::create_dir_all(directory).map_err(error(directory))?;
    let json = serde_json::to_string_pretty(document).map_err(|failed| error(directory)(failed.into()))? + "\n";
    for (name, text) in [("report.json", json), ("report.md", markdown(document)), ("report.html", html(document))] {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(error(&path))?;
    }
    Ok(())
}

/// A figure's parameters in few words: those alone that differ within the scenario.
pub(super) fn params(row: &Row, among: &[Row]) -> String {
    let differs = |key: &str| {
        among.iter().any(|other| other.scenario == row.scenario && other.params.get(key) != row.params.get(key))
    };
    let shown = row.params.iter().filter(|(key, _)| *key == "sidecars" || differs(key));
    let words = shown.map(|(key, value)| match value {
        serde_json::Value::String(text) => format!("{key}={text}"),
        other => format!("{key}={other}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

/// Three figures that count.
pub(super) fn number(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude {
        _ if magnitude == 0.0 => "0".into(),
        _ if magnitude >= 100.0 => grouped(value),
        _ if magnitude >= 10.0 => format!("{value:.1}"),
        _ if magnitude >= 0.1 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let (sign, digits) = digits.strip_prefix('-').map_or(("", &*digits), |rest| ("-", rest));
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    format!("{sign}{out}")
}

/// The cells of a figure: scenario, mode, parameters, metric, value, range, ratio, marks.
pub(super) fn cells(row: &Row, among: &[Row]) -> [String; 8] {
    let range = row.range.filter(|_| row.runs > 1);
    [
        row.scenario.clone(),
        row.mode.clone(),
        params(row, among),
        row.metric.clone(),
        row.value.map_or_else(String::new, |value| format!("{} {}", number(value), row.unit)),
        range.map_or_else(String::new, |(least, most)| format!("{} … {}", number(least), number(most))),
        row.ratio.zip(row.baseline.as_ref()).map_or_else(String::new, |(ratio, of)| format!("{ratio:.2} × {of}")),
        row.marks.join("; "),
    ]
}

pub(super) const HEADS: [&str; 8] = ["SCENARIO", "MODE", "OF", "METRIC", "VALUE", "RANGE", "RATIO", "MARKS"];

/// All figures, in columns.
pub fn table(document: &Document) -> String {
    let mut lines = vec![HEADS.map(str::to_owned)];
    lines.extend(document.results.iter().map(|row| cells(row, &document.results)));
    let mut widths = [0; HEADS.len()];
    for line in &lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let pad = |line: &[String; HEADS.len()]| {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    lines.iter().map(pad).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::bench::results::{Chart, Line, Machine, Params};

    pub(crate) fn row(mode: &str, tls: bool, value: Option<f64>) -> Row {
        Row {
            scenario: "fanout".into(),
            mode: mode.into(),
            params: Params::from([
                ("sidecars".into(), 10.into()),
                ("bytes".into(), 300.into()),
                ("tls".into(), tls.into()),
            ]),
            metric: "server_cpu_per_stream".into(),
            unit: "us".into(),
            value,
            range: value.map(|value| (value * 0.9, value * 1.1)),
            runs: 3,
            baseline: (mode != "raw").then(|| "raw".to_owned()),
            ratio: (mode != "raw").then_some(1.5),
            marks: if value.is_none() { vec!["not measured: needs root".into()] } else { Vec::new() },
        }
    }

    pub(crate) fn document(results: Vec<Row>) -> Document {
        Document {
            version: crate::bench::results::VERSION,
            machine: Machine { cores: 2, processor: "a <fast> one".into(), ..Machine::default() },
            outpost: "1".into(),
            commit: Some("abc".into()),
            debug_build: false,
            seed: 1,
            arguments: vec!["bench".into(), "--out".into(), "<x>".into()],
            started: 1_700_000_000,
            seconds: 1.5,
            results,
            charts: vec![Chart {
                title: "a & b".into(),
                x: "ms".into(),
                y: "%".into(),
                logarithmic: true,
                lines: vec![Line { name: "relay".into(), points: vec![(0.0, 0.0), (1.0, 50.0), (100.0, 100.0)] }],
            }],
            notes: vec!["a note".into()],
        }
    }

    fn all() -> Document {
        document(vec![row("relay", true, Some(12.34)), row("raw", false, Some(8.0)), row("relay", false, None)])
    }

    #[test]
    fn the_table_has_columns_and_says_what_was_not_measured() {
        let text = table(&all());
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4);
        let at = lines[0].find("METRIC").unwrap();
        assert!(lines[1..].iter().all(|line| line[at..].starts_with("server_cpu_per_stream")), "{text}");
        assert!(
            lines[1].contains("12.3 us") && lines[1].contains("1.50 × raw") && lines[1].contains("tls=true"),
            "{text}"
        );
        assert!(!lines[1].contains("bytes="), "what is alike everywhere is not repeated: {text}");
        assert!(lines[3].ends_with("not measured: needs root"), "{text}");
    }

    #[test]
    fn the_document_survives_json() {
        let document = all();
        let text = serde_json::to_string(&document).unwrap();
        assert_eq!(serde_json::from_str::<Document>(&text).unwrap(), document);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["version"], 1);
        for key in ["scenario", "mode", "params", "metric", "unit", "value", "baseline", "ratio"] {
            assert!(value["results"][0].get(key).is_some(), "{key}");
        }
    }

    #[test]
    fn the_page_stands_alone_and_escapes() {
        let page = html(&all());
        assert!(page.contains("<svg") && page.contains("a &amp; b") && page.contains("a &lt;fast&gt; one"), "{page}");
        for outside in ["http://", "https://", "<script", "src=", "@import"] {
            assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
        }
        let text = markdown(&all());
        assert!(text.starts_with("# ") && text.contains("| fanout | relay |") && text.contains("a note"), "{text}");
    }

    #[test]
    fn figures_stand_side_by_side() {
        let mut row = row("relay", false, Some(5.0));
        row.metric = "stage_committed".into();
        let page = html(&document(vec![row]));
        assert!(page.contains("<rect") && page.contains(" committed</text>") && page.contains("5.00 us"), "{page}");
    }

    #[test]
    fn numbers_are_short() {
        let table = [
            (0.0, "0"),
            (0.012_34, "0.0123"),
            (1.234, "1.23"),
            (12.34, "12.3"),
            (1_234_567.8, "1,234,568"),
            (-1000.0, "-1,000"),
        ];
        for (value, want) in table {
            assert_eq!(number(value), want);
        }
    }
}
