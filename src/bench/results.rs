//! What was measured: figures while they come in, and the document at the end.
//!
//! A figure is known by its scenario, mode, parameters and metric. Each repeat
//! adds one; what is reported is the median of them, with their range. A figure
//! may have a baseline: the same of another mode, or with other parameters, in
//! the same run.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// Of the document. A reader refuses a newer one.
pub const VERSION: u32 = 1;

pub type Params = BTreeMap<String, Value>;

/// Which run a figure is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Place {
    pub scenario: &'static str,
    pub mode: &'static str,
    pub params: Params,
    /// The mode and parameters to compare with.
    pub baseline: Option<(&'static str, Params)>,
}

/// One figure of the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub scenario: String,
    pub mode: String,
    pub params: Params,
    pub metric: String,
    pub unit: String,
    /// The median of the runs; none where it was not measured.
    pub value: Option<f64>,
    /// The least and the most of the runs.
    #[serde(default)]
    pub range: Option<(f64, f64)>,
    #[serde(default)]
    pub runs: u32,
    /// The mode whose figure of the same run it is compared with.
    pub baseline: Option<String>,
    pub ratio: Option<f64>,
    /// What a reader must know: that the load generator was busy, why there is no figure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<String>,
}

/// A drawing: lines over one axis.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Chart {
    pub title: String,
    pub x: String,
    pub y: String,
    /// Of the horizontal axis.
    pub logarithmic: bool,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Where it was measured.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    pub cores: u32,
    pub processor: String,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Over the last minute, before the run began.
    pub load: f64,
}

/// `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub version: u32,
    pub machine: Machine,
    pub outpost: String,
    /// Of the source it was built from, where that is known.
    pub commit: Option<String>,
    /// Not optimised: figures say nothing.
    pub debug_build: bool,
    pub seed: u64,
    /// The arguments of the run.
    pub arguments: Vec<String>,
    /// Seconds since 1970.
    pub started: u64,
    pub seconds: f64,
    pub results: Vec<Row>,
    pub charts: Vec<Chart>,
    pub notes: Vec<String>,
}

#[derive(Debug)]
struct Figure {
    place: Place,
    metric: String,
    unit: &'static str,
    values: Vec<f64>,
    marks: Vec<String>,
}

/// Figures as they come in.
#[derive(Debug, Default)]
pub struct Results {
    figures: Vec<Figure>,
    pub charts: Vec<Chart>,
    pub notes: Vec<String>,
}

impl Results {
    fn figure(&mut self, place: &Place, metric: &str, unit: &'static str) -> &mut Figure {
        let same = |figure: &Figure| {
            figure.place.scenario == place.scenario
                && figure.place.mode == place.mode
                && figure.place.params == place.params
                && figure.metric == metric
        };
        let at = self.figures.iter().position(same).unwrap_or_else(|| {
            let (values, marks) = (Vec::new(), Vec::new());
            self.figures.push(Figure { place: place.clone(), metric: metric.to_owned(), unit, values, marks });
            self.figures.len() - 1
        });
        &mut self.figures[at]
    }

    /// Adds what one run measured.
    pub fn add(&mut self, place: &Place, metric: &str, unit: &'static str, value: f64) {
        self.figure(place, metric, unit).values.push(value);
    }

    /// All figures of this run are to be read with care.
    pub fn mark(&mut self, place: &Place, mark: &str) {
        for figure in self.figures.iter_mut().filter(|figure| figure.place == *place) {
            if !figure.marks.iter().any(|known| known == mark) {
                figure.marks.push(mark.to_owned());
            }
        }
    }

    /// There is no such figure, and why.
    pub fn missing(&mut self, place: &Place, metric: &str, unit: &'static str, why: &str) {
        self.figure(place, metric, unit).marks.push(format!("not measured: {why}"));
    }

    pub fn rows(&self) -> Vec<Row> {
        self.figures.iter().map(|figure| self.row(figure)).collect()
    }

    fn row(&self, figure: &Figure) -> Row {
        let place = &figure.place;
        let value = median(&figure.values);
        let base = place.baseline.as_ref().and_then(|(mode, params)| {
            let same = |other: &&Figure| {
                other.place.scenario == place.scenario
                    && other.metric == figure.metric
                    && other.place.mode == *mode
                    && other.place.params == *params
            };
            self.figures.iter().find(same)
        });
        let base = base.and_then(|base| median(&base.values)).filter(|base| *base > 0.0);
        let least = figure.values.iter().copied().reduce(f64::min);
        let most = figure.values.iter().copied().reduce(f64::max);
        Row {
            scenario: place.scenario.to_owned(),
            mode: place.mode.to_owned(),
            params: place.params.clone(),
            metric: figure.metric.clone(),
            unit: figure.unit.to_owned(),
            value,
            range: least.zip(most),
            runs: figure.values.len() as u32,
            baseline: base.and(place.baseline.as_ref()).map(|(mode, _)| (*mode).to_owned()),
            ratio: value.zip(base).map(|(value, base)| value / base),
            marks: figure.marks.clone(),
        }
    }
}

pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() % 2 {
        _ if sorted.is_empty() => None,
        1 => sorted.get(half).copied(),
        _ => Some((sorted.get(half - 1)? + sorted.get(half)?) / 2.0),
    }
}

impl Machine {
    /// This one, as the kernel tells.
    pub fn here() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            line.unwrap_or_default().trim_start_matches([' ', '\t', ':']).to_owned()
        };
        let memory = after(&read("/proc/meminfo"), "MemTotal");
        let load = read("/proc/loadavg");
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from) as u32,
            processor: after(&read("/proc/cpuinfo"), "model name"),
            memory_bytes: memory.trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            load: load.split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// The commit of the checkout that this program stands in.
pub fn commit() -> Option<String> {
    if let Some(commit) = option_env!("OUTPOST_COMMIT") {
        return Some(commit.to_owned());
    }
    let program = std::env::current_exe().ok()?;
    let git = |arguments: &[&str]| {
        let output =
            std::process::Command::new("git").arg("-C").arg(program.parent()?).args(arguments).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
        output.status.success().then_some(text)
    };
    let head = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|changes| !changes.is_empty());
    Some(if changed { format!("{head} and changes") } else { head })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(mode: &'static str, tls: bool) -> Place {
        let params = |tls: bool| Params::from([("bytes".to_owned(), 300.into()), ("tls".to_owned(), tls.into())]);
        let baseline = (mode != "raw").then(|| ("raw", params(false)));
        Place { scenario: "fanout", mode, params: params(tls), baseline }
    }

    #[test]
    fn a_figure_is_the_median_of_its_runs_and_has_its_baseline() {
        let mut results = Results::default();
        for value in [30.0, 10.0, 20.0] {
            results.add(&place("relay", true), "server_cpu_per_stream", "us", value);
            results.add(&place("raw", false), "server_cpu_per_stream", "us", value / 2.0);
        }
        let rows = results.rows();
        assert_eq!((rows[0].value, rows[0].range, rows[0].runs), (Some(20.0), Some((10.0, 30.0)), 3));
        assert_eq!((rows[0].baseline.as_deref(), rows[0].ratio), (Some("raw"), Some(2.0)));
        assert_eq!((rows[1].baseline.as_deref(), rows[1].ratio), (None, None));
    }

    #[test]
    fn marks_are_of_one_place_and_what_is_missing_says_why() {
        let mut results = Results::default();
        results.add(&place("relay", false), "a", "us", 1.0);
        results.add(&place("relay", true), "a", "us", 1.0);
        results.mark(&place("relay", true), "busy");
        results.mark(&place("relay", true), "busy");
        results.missing(&place("raw", false), "b", "us", "needs root");
        let rows = results.rows();
        assert_eq!(rows.iter().map(|row| row.marks.len()).collect::<Vec<_>>(), [0, 1, 1]);
        assert_eq!((rows[2].value, rows[2].marks[0].as_str()), (None, "not measured: needs root"));
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0]), Some(2.0));
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
    }

    #[test]
    fn the_machine_is_known() {
        let machine = Machine::here();
        assert!(machine.cores > 0 && machine.memory_bytes > 0 && !machine.kernel.is_empty());
    }
}
