//! What came of it: the table and the checks.

use super::{Mode, Options};
use crate::bench::histogram::Histogram;
use crate::bench::ledger::{Change, Kind};
use crate::bench::wan::Traffic;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// A control plane that is later than this tells of a machine that cannot keep up.
const BUSY: Duration = Duration::from_millis(20);

/// Some of a set of durations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quantiles {
    pub(super) p50: Duration,
    pub(super) p99: Duration,
    pub(super) max: Duration,
}

impl Quantiles {
    pub(super) fn of(histogram: &Histogram) -> Option<Self> {
        Some(Self { p50: histogram.quantile(0.5)?, p99: histogram.quantile(0.99)?, max: histogram.max() })
    }

    pub(super) fn of_sorted(sorted: &[Duration]) -> Option<Self> {
        let at = |percent: usize| sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        Some(Self { p50: at(50)?, p99: at(99)?, max: at(100)? })
    }

    /// Until the last receiver had it, over changes; removals, which are held
    /// back on purpose, aside.
    pub(super) fn spread(changes: &[Arc<Change>]) -> Option<Self> {
        let counted = changes.iter().filter(|change| change.measured && change.kind != Kind::Removal);
        let mut last: Vec<_> = counted.map(|change| change.spread().1).collect();
        last.sort_unstable();
        Self::of_sorted(&last)
    }
}

/// What one mode came to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) mode: Mode,
    pub(super) sidecars: usize,
    /// In sync after the start.
    pub(super) started: usize,
    pub(super) start: Option<Quantiles>,
    /// Over the WAN.
    pub(super) connections: u64,
    pub(super) streams: u64,
    pub(super) start_traffic: Traffic,
    pub(super) change_traffic: Traffic,
    pub(super) changes: usize,
    /// All were in sync when the changes had ended.
    pub(super) settled: bool,
    /// How late the control plane itself was at most.
    pub(super) late: Duration,
    /// Deliveries that had to be, and that were; without services that came or went.
    pub(super) due: u64,
    pub(super) reached: u64,
    pub(super) latencies: [Option<Quantiles>; Kind::ALL.len()],
    /// Until the last sidecar had a change.
    pub(super) last: Option<Quantiles>,
    pub(super) outage: Outage,
    pub(super) unknown: u64,
    pub(super) backwards: u64,
    pub(super) rejected: u64,
    pub(super) trouble: Option<String>,
}

/// What happened while the WAN was cut, and after.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    pub(super) span: Duration,
    /// Made by the control plane meanwhile.
    pub(super) changes: usize,
    /// Sidecars that ran all the time, and what they saw.
    pub(super) running: usize,
    pub(super) applied: u64,
    pub(super) removed: u64,
    pub(super) lost: u64,
    /// How many were restarted, and how many new ones were started; those that
    /// were served, and how long that took.
    pub(super) newcomers: usize,
    pub(super) restarted: Option<Quantiles>,
    pub(super) restarted_count: usize,
    pub(super) new: Option<Quantiles>,
    pub(super) new_count: usize,
    /// From the WAN's return until all were in sync; none: they were not.
    pub(super) recovered: Option<Duration>,
    pub(super) again: Option<(usize, usize)>,
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { changes, running, applied, removed, lost, newcomers, restarted_count, new_count, .. } = self;
        write!(
            f,
            "{changes} changes waited, {running} sidecars ran on: {applied} resources changed, {removed} removed, \
             {lost} streams lost; served {restarted_count} of {newcomers} restarted, {new_count} of {newcomers} new"
        )
    }
}

/// Something that must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) passed: bool,
    text: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}  {}", if self.passed { "PASS" } else { "FAIL" }, self.text)
    }
}

/// What must hold in this mode. Of direct connections it is asked only that
/// the comparison is fair: they do what they can.
pub(super) fn checks(outcome: &Outcome) -> Vec<Check> {
    let (title, outage) = (outcome.mode.title(), &outcome.outage);
    let check = |passed: bool, text: String| Check { passed, text: format!("{title}: {text}") };
    let trouble = |passed: bool| match &outcome.trouble {
        Some(why) if !passed => format!(" (a stream ended: {why})"),
        _ => String::new(),
    };
    let (again, of) = outage.again.unwrap_or((0, outcome.sidecars));
    let mut checks = vec![
        check(
            outcome.started == outcome.sidecars,
            format!(
                "{} of {} sidecars got their configuration{}",
                outcome.started,
                outcome.sidecars,
                trouble(outcome.started == outcome.sidecars)
            ),
        ),
        check(
            outcome.settled && outcome.reached == outcome.due && outcome.changes > 0,
            format!(
                "{} of {} deliveries of {} changes were made, and {} in sync after them",
                outcome.reached,
                outcome.due,
                outcome.changes,
                if outcome.settled { "all were" } else { "not all were" }
            ),
        ),
        check(
            outcome.unknown + outcome.backwards + outcome.rejected == 0,
            format!(
                "{} resources were altered, {} went backwards, {} were rejected",
                outcome.unknown, outcome.backwards, outcome.rejected
            ),
        ),
        check(
            outage.recovered.is_some(),
            format!("after the outage {again} of {of} were in sync again{}", trouble(outage.recovered.is_some())),
        ),
    ];
    if outcome.mode != Mode::Direct {
        checks.push(check(
            outage.applied + outage.removed + outage.lost == 0,
            format!(
                "while the WAN was cut nothing changed for {} running sidecars ({} changed, {} removed, {} streams lost)",
                outage.running, outage.applied, outage.removed, outage.lost
            ),
        ));
        checks.push(check(
            outage.restarted_count == outage.newcomers,
            format!("{} of {} restarted while it was cut were served", outage.restarted_count, outage.newcomers),
        ));
    }
    if outcome.mode == Mode::Workload {
        checks.push(check(
            outage.new_count == outage.newcomers,
            format!("{} of {} new ones while it was cut were served", outage.new_count, outage.newcomers),
        ));
    }
    checks
}

/// All modes side by side.
pub(super) fn table(options: &Options, outcomes: &[Outcome]) -> String {
    let mut rows: Vec<(String, Vec<String>)> = Vec::new();
    let mut row = |label: &str, cell: &dyn Fn(&Outcome) -> String| {
        rows.push((label.to_owned(), outcomes.iter().map(cell).collect()));
    };
    row("", &|outcome| outcome.mode.title().to_owned());
    row("WAN: connections", &|outcome| outcome.connections.to_string());
    row("WAN: xDS streams", &|outcome| outcome.streams.to_string());
    row("start: configured, p50 / last", &|outcome| {
        outcome.start.map_or("-".into(), |start| format!("{} / {}", seconds(start.p50), seconds(start.max)))
    });
    row("start: WAN bytes down / up", &|outcome| volume(outcome.start_traffic, 1));
    row("changes", &|outcome| outcome.changes.to_string());
    row("WAN bytes a change, down / up", &|outcome| volume(outcome.change_traffic, outcome.changes as u64));
    for (at, kind) in Kind::ALL.into_iter().enumerate() {
        row(&format!("{}: p50 / p99 / max", kind.label()), &|outcome| {
            quantiles(outcome.latencies.get(at).copied().flatten())
        });
    }
    row("last sidecar: p50 / p99 / max", &|outcome| quantiles(outcome.last));
    row("WAN cut: resources changed", &|outcome| (outcome.outage.applied + outcome.outage.removed).to_string());
    row("WAN cut: restarted and served", &|outcome| {
        served(outcome.outage.restarted_count, outcome.outage.newcomers, outcome.outage.restarted)
    });
    row("WAN cut: new and served", &|outcome| {
        served(outcome.outage.new_count, outcome.outage.newcomers, outcome.outage.new)
    });
    row("WAN back: all in sync after", &|outcome| outcome.outage.recovered.map_or("never".into(), seconds));
    let mut text = lay_out(&rows);
    text.push_str(&notes(options, outcomes));
    text
}

fn lay_out(rows: &[(String, Vec<String>)]) -> String {
    let columns = rows.first().map_or(0, |(_, cells)| cells.len());
    let width = |column: usize| rows.iter().filter_map(|(_, cells)| cells.get(column)).map(|c| c.chars().count()).max();
    let first = rows.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for (label, cells) in rows {
        text.push_str(&format!("{label:first$}"));
        for column in 0..columns {
            let cell = cells.get(column).map_or("", String::as_str);
            text.push_str(&format!("  {cell:>wide$}", wide = width(column).unwrap_or(0)));
        }
        text.push('\n');
    }
    text
}

/// What must be said beside the figures.
fn notes(options: &Options, outcomes: &[Outcome]) -> String {
    let mut text = format!(
        "\nLatency counts from the moment a change was due until a sidecar has decoded it; {} ms of it are the WAN.\n\
         A new service takes a round trip more: its endpoints are asked for once its cluster is known.\n",
        options.delay
    );
    let late = outcomes.iter().map(|outcome| outcome.late).max().unwrap_or_default();
    if late > BUSY {
        text.push_str(&format!(
            "This machine was too busy for these figures: the control plane itself was up to {} late.\n",
            millis(late)
        ));
    }
    if outcomes.iter().any(|outcome| outcome.mode != Mode::Direct) {
        text.push_str(
            "Outpost holds the removal of a cluster back until what refers to it had time to go: 0.3 s of quiet, 5 s at most.\n",
        );
    }
    if outcomes.iter().any(|outcome| outcome.mode == Mode::Node) {
        text.push_str(
            "A group for each node saves connections, not bytes: each sidecar's configuration still crosses the WAN by itself.\n\
             A node that Outpost has never seen has no configuration to be served from while the WAN is cut.\n",
        );
    }
    text.push_str("Not modelled: loss on the WAN, and TCP's slow start. Headers of TCP and IP are not counted.\n");
    text
}

fn served(count: usize, of: usize, times: Option<Quantiles>) -> String {
    match times {
        Some(times) => format!("{count} of {of}, last {}", millis(times.max)),
        None => format!("{count} of {of}"),
    }
}

fn quantiles(of: Option<Quantiles>) -> String {
    of.map_or("-".into(), |Quantiles { p50, p99, max }| format!("{} / {} / {}", bare(p50), bare(p99), millis(max)))
}

fn bare(span: Duration) -> String {
    let millis = span.as_secs_f64() * 1000.0;
    if millis < 10.0 { format!("{millis:.1}") } else { format!("{millis:.0}") }
}

pub(super) fn millis(span: Duration) -> String {
    format!("{} ms", bare(span))
}

fn seconds(span: Duration) -> String {
    format!("{:.2} s", span.as_secs_f64())
}

/// Bytes, divided.
fn volume(traffic: Traffic, by: u64) -> String {
    let one = |bytes: u64| {
        let bytes = bytes as f64 / by.max(1) as f64;
        match bytes {
            bytes if bytes >= 1e6 => format!("{:.2} MB", bytes / 1e6),
            bytes if bytes >= 1e3 => format!("{:.1} kB", bytes / 1e3),
            bytes => format!("{bytes:.0} B"),
        }
    };
    format!("{} / {}", one(traffic.down), one(traffic.up))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(mode: Mode) -> Outcome {
        let start_traffic = Traffic { up: 1000, down: 2_500_000, connections: 2, open: 2, ..Traffic::default() };
        let outage = Outage {
            span: Duration::from_secs(5),
            changes: 50,
            running: 15,
            applied: 0,
            removed: 0,
            lost: 0,
            newcomers: 5,
            restarted: None,
            restarted_count: 5,
            new: None,
            new_count: 5,
            recovered: Some(Duration::from_secs(1)),
            again: Some((25, 25)),
        };
        Outcome {
            mode,
            sidecars: 20,
            started: 20,
            start: None,
            connections: 2,
            streams: 20,
            start_traffic,
            change_traffic: start_traffic,
            changes: 10,
            settled: true,
            late: Duration::ZERO,
            due: 200,
            reached: 200,
            latencies: [None; Kind::ALL.len()],
            last: None,
            outage,
            unknown: 0,
            backwards: 0,
            rejected: 0,
            trouble: None,
        }
    }

    fn failed(outcome: &Outcome) -> usize {
        checks(outcome).iter().filter(|check| !check.passed).count()
    }

    #[test]
    fn each_promise_that_is_broken_fails_one_check() {
        assert_eq!(failed(&outcome(Mode::Workload)), 0);
        let breaks: [fn(&mut Outcome); 11] = [
            |outcome| outcome.settled = false,
            |outcome| outcome.started = 19,
            |outcome| outcome.reached = 199,
            |outcome| outcome.unknown = 1,
            |outcome| outcome.backwards = 1,
            |outcome| outcome.rejected = 1,
            |outcome| outcome.outage.applied = 1,
            |outcome| outcome.outage.lost = 1,
            |outcome| outcome.outage.restarted_count = 4,
            |outcome| outcome.outage.new_count = 4,
            |outcome| outcome.outage.recovered = None,
        ];
        for (at, break_it) in breaks.into_iter().enumerate() {
            let mut broken = outcome(Mode::Workload);
            break_it(&mut broken);
            assert_eq!(failed(&broken), 1, "break {at}");
        }
    }

    #[test]
    fn direct_connections_may_fail_in_an_outage_and_new_nodes_of_their_own_group_too() {
        let mut direct = outcome(Mode::Direct);
        (direct.outage.lost, direct.outage.restarted_count, direct.outage.new_count) = (15, 0, 0);
        assert_eq!(failed(&direct), 0);
        let mut node = outcome(Mode::Node);
        node.outage.new_count = 0;
        assert_eq!(failed(&node), 0);
    }

    #[test]
    fn quantiles_of_a_list() {
        let list: Vec<_> = (1..=200).map(Duration::from_millis).collect();
        let found = Quantiles::of_sorted(&list).unwrap();
        let want = [100, 198, 200].map(Duration::from_millis);
        assert_eq!([found.p50, found.p99, found.max], want);
        assert_eq!(Quantiles::of_sorted(&[]), None);
    }

    #[test]
    fn columns_are_aligned() {
        let rows =
            [("".into(), vec!["a".into(), "long title".into()]), ("label".into(), vec!["12".into(), "3".into()])];
        assert_eq!(lay_out(&rows), "        a  long title\nlabel  12           3\n");
    }
}
