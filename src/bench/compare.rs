//! Two reports: what became better, what worse, and what is noise.
//!
//! A figure is worse where it moved the wrong way by more than it may, and by
//! more than the runs of either report differ among themselves.

use super::results::{Document, Row, VERSION};
use clap::Args;
use std::path::{Path, PathBuf};

/// What a change may be that nobody asked about, in per cent.
const FLOOR: f64 = 5.0;

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The report to compare with
    pub before: PathBuf,
    /// The report to judge
    pub after: PathBuf,
    /// Fail where such a metric is worse by more than this: METRIC=PERCENT, such as latency_p99=10; * ends a name. Can be repeated, separated by commas
    #[arg(long, value_name = "METRIC=PERCENT", value_delimiter = ',', value_parser = allowance)]
    #[arg(default_values = ["server_cpu_per_stream=10", "latency_p99=10", "last_sidecar=10"])]
    pub fail_on: Vec<Allowance>,
    /// Show every figure, not only those that moved
    #[arg(long)]
    pub all: bool,
}

/// How much worse a metric may become.
#[derive(Clone, Debug, PartialEq)]
pub struct Allowance {
    metric: String,
    percent: f64,
}

fn allowance(text: &str) -> Result<Allowance, String> {
    let wanted = || format!("{text:?} is no METRIC=PERCENT, such as latency_p99=10");
    let (metric, percent) = text.split_once('=').ok_or_else(wanted)?;
    let percent = percent.trim_start_matches('+').trim_end_matches('%').parse::<f64>().map_err(|_| wanted())?;
    if metric.is_empty() || !percent.is_finite() || percent < 0.0 {
        return Err(wanted());
    }
    Ok(Allowance { metric: metric.to_owned(), percent })
}

impl Allowance {
    fn covers(&self, metric: &str) -> bool {
        match self.metric.strip_suffix('*') {
            Some(start) => metric.starts_with(start),
            None => metric == self.metric,
        }
    }
}

/// Why two reports cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    #[error("cannot read {path}: {source}; it is to be a report.json of outpost bench")]
    Read { path: String, source: std::io::Error },
    #[error("{path} is no report of outpost bench: {source}")]
    Format { path: String, source: serde_json::Error },
    #[error(
        "{path} is a report of version {found}, and this outpost reads version {VERSION}; compare with the outpost that wrote it"
    )]
    Version { path: String, found: u64 },
    #[error("the reports have no figure in common: run the same scenarios with the same options")]
    Nothing,
}

/// What became of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Same,
    Better,
    Worse,
    /// … by more than it may.
    Failed,
}

/// How they differ, and whether something is worse than it may be.
pub fn run(options: &Options) -> Result<(String, bool), CompareError> {
    let (before, after) = (read(&options.before)?, read(&options.after)?);
    compare(&before, &after, options)
}

fn read(path: &Path) -> Result<Document, CompareError> {
    let name = || path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| CompareError::Read { path: name(), source })?;
    let format = |source| CompareError::Format { path: name(), source };
    let value: serde_json::Value = serde_json::from_str(&text).map_err(format)?;
    match value.get("version").and_then(serde_json::Value::as_u64) {
        Some(found) if found != u64::from(VERSION) => Err(CompareError::Version { path: name(), found }),
        _ => serde_json::from_value(value).map_err(format),
    }
}

fn compare(before: &Document, after: &Document, options: &Options) -> Result<(String, bool), CompareError> {
    let same = |one: &Row, other: &Row| {
        one.scenario == other.scenario
            && one.mode == other.mode
            && one.params == other.params
            && one.metric == other.metric
            && one.value.is_some()
            && other.value.is_some()
    };
    let pairs: Vec<(&Row, &Row)> = after
        .results
        .iter()
        .filter_map(|row| Some((before.results.iter().find(|other| same(row, other))?, row)))
        .collect();
    if pairs.is_empty() {
        return Err(CompareError::Nothing);
    }
    let (mut out, mut failed) = (String::new(), 0);
    if before.machine.processor != after.machine.processor || before.machine.cores != after.machine.cores {
        out.push_str("The reports are of different machines: only ratios can be compared.\n");
    }
    for (old, new) in &pairs {
        let allowance = options.fail_on.iter().find(|allowance| allowance.covers(&new.metric));
        let (verdict, moved) = judge(old, new, allowance.map(|allowance| allowance.percent));
        failed += usize::from(verdict == Verdict::Failed);
        if verdict == Verdict::Same && !options.all {
            continue;
        }
        let [scenario, mode, of, metric, value, ..] = super::report::cells(new, &after.results);
        let was = super::report::number(old.value.unwrap_or(0.0));
        let word = match verdict {
            Verdict::Same => "same  ",
            Verdict::Better => "better",
            Verdict::Worse => "worse ",
            Verdict::Failed => "FAILED",
        };
        let allowed = allowance.map_or_else(String::new, |allowance| format!(", {:.0} % allowed", allowance.percent));
        out.push_str(&format!("{word}  {scenario} {mode} {of} {metric}: {was} → {value} ({moved:+.1} %{allowed})\n"));
    }
    let missing =
        before.results.iter().filter(|old| old.value.is_some() && !after.results.iter().any(|new| same(new, old)));
    out.push_str(&format!(
        "{} figures compared, {failed} failed, {} of the first report missing\n",
        pairs.len(),
        missing.count()
    ));
    Ok((out, failed > 0))
}

/// What became of a figure, and by how many per cent it moved.
fn judge(old: &Row, new: &Row, allowed: Option<f64>) -> (Verdict, f64) {
    let (was, is) = (old.value.unwrap_or(0.0), new.value.unwrap_or(0.0));
    if was <= 0.0 {
        return (Verdict::Same, 0.0);
    }
    let moved = (is / was - 1.0) * 100.0;
    let worse = if more_is_better(&new.unit) { -moved } else { moved };
    let noise = noise(old).max(noise(new));
    let verdict = match allowed {
        Some(allowed) if worse > allowed.max(noise) => Verdict::Failed,
        _ if worse > noise.max(FLOOR) => Verdict::Worse,
        _ if -worse > noise.max(FLOOR) => Verdict::Better,
        _ => Verdict::Same,
    };
    (verdict, moved)
}

/// How far runs are from their median, in per cent.
fn noise(row: &Row) -> f64 {
    let Some((value, (least, most))) = row.value.zip(row.range).filter(|(value, _)| *value > 0.0) else { return 0.0 };
    ((most - value).max(value - least) / value) * 100.0
}

fn more_is_better(unit: &str) -> bool {
    unit.ends_with("/s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::tests::{document, row};

    fn options(fail_on: &str) -> Options {
        let fail_on = vec![allowance(fail_on).unwrap()];
        Options { before: PathBuf::new(), after: PathBuf::new(), fail_on, all: false }
    }

    /// A figure whose runs differ by `noise` per cent.
    fn figure(value: f64, noise: f64) -> Document {
        let mut row = row("relay", false, Some(value));
        row.range = Some((value * (1.0 - noise / 100.0), value * (1.0 + noise / 100.0)));
        document(vec![row])
    }

    #[test]
    fn only_what_is_worse_beyond_allowance_and_noise_fails() {
        // before, after, noise, allowed; failed?
        let table = [
            (100.0, 109.0, 1.0, 10, false),
            (100.0, 112.0, 1.0, 10, true),
            (100.0, 112.0, 15.0, 10, false),
            (100.0, 130.0, 15.0, 10, true),
            (100.0, 50.0, 1.0, 10, false),
        ];
        for (before, after, noise, allowed, fails) in table {
            let options = options(&format!("server_*=+{allowed}%"));
            let (text, failed) = compare(&figure(before, noise), &figure(after, noise), &options).unwrap();
            assert_eq!(failed, fails, "{before} → {after}: {text}");
            assert_eq!(text.contains("FAILED"), fails, "{text}");
        }
    }

    #[test]
    fn what_nobody_asked_about_is_shown_and_does_not_fail() {
        let (text, failed) = compare(&figure(100.0, 0.0), &figure(150.0, 0.0), &options("latency_p99=1")).unwrap();
        assert!(!failed && text.contains("worse") && text.contains("+50.0 %"), "{text}");
    }

    #[test]
    fn more_a_second_is_better() {
        let mut rows = [row("relay", false, Some(100.0)), row("relay", false, Some(50.0))];
        rows.iter_mut().for_each(|row| row.unit = "streams/s".into());
        let [before, after] = rows.map(|row| document(vec![row]));
        assert!(compare(&before, &after, &options("server_cpu_per_stream=10")).unwrap().1);
        assert!(!compare(&after, &before, &options("server_cpu_per_stream=10")).unwrap().1);
    }

    #[test]
    fn what_cannot_be_compared_is_told() {
        let nothing = compare(&figure(1.0, 0.0), &document(vec![row("raw", false, Some(1.0))]), &options("a=1"));
        assert!(matches!(nothing, Err(CompareError::Nothing)));
        for text in ["a", "a=", "=1", "a=-1", "a=NaN"] {
            assert!(allowance(text).is_err(), "{text}");
        }
        assert_eq!(allowance("a=+10%"), Ok(Allowance { metric: "a".into(), percent: 10.0 }));
    }
}
