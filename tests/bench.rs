//! The benchmark as somebody runs it: a small one, through all its processes.
//! No figure is judged, only whether it is there and of how many.

use serde_json::Value;
use std::path::Path;
use std::process::{Command, Output};

fn outpost(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outpost")).arg("bench").args(arguments).output().expect("the program starts")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Runs it into `out`, and returns its report.
fn report(out: &Path, arguments: &[&str]) -> Value {
    let out = out.to_str().expect("a path");
    let all: Vec<&str> = arguments.iter().copied().chain(["--out", out]).collect();
    let output = outpost(&all);
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    let shown = text(&output.stdout);
    assert!(shown.contains("SCENARIO") && !shown.contains('\x1b'), "{shown}");
    for file in ["report.md", "report.html"] {
        let content = std::fs::read_to_string(Path::new(out).join(file)).expect("a report");
        assert!(content.contains(arguments[0]), "{file}: {content}");
    }
    let json = std::fs::read_to_string(Path::new(out).join("report.json")).expect("a report");
    serde_json::from_str(&json).expect("JSON")
}

/// Rows of a metric, as mode and parameter.
fn rows<'a>(report: &'a Value, metric: &str) -> Vec<&'a Value> {
    let results = report["results"].as_array().expect("a list");
    results.iter().filter(|row| row["metric"] == metric).collect()
}

#[test]
fn a_fan_out_is_measured_beside_raw_writes_and_compared() {
    let directory = tempfile::tempdir().expect("a directory");
    let report = report(directory.path(), &["fanout", "--quick", "--sidecars", "20", "--mode", "relay,tonic"]);
    assert_eq!((&report["version"], &report["seed"]), (&1.into(), &1.into()));
    let found: Vec<String> = rows(&report, "server_cpu_per_stream")
        .into_iter()
        .map(|row| {
            format!("{} {} {}", row["mode"].as_str().unwrap_or_default(), row["params"]["bytes"], row["params"]["tls"])
        })
        .collect();
    for bytes in [300, 4096, 65_536] {
        for of in ["relay", "tonic", "raw"] {
            let wanted = format!("{of} {bytes} false");
            assert!(found.contains(&wanted), "no {wanted} in {found:?}");
        }
    }
    for row in rows(&report, "server_cpu_per_stream") {
        let compared = row["mode"] != "raw";
        assert_eq!(row["ratio"].is_number(), compared, "{row}");
        assert!(row["value"].as_f64().is_some_and(|value| value > 0.0), "{row}");
    }
    let json = directory.path().join("report.json");
    let json = json.to_str().expect("a path");
    let same = outpost(&["compare", json, json]);
    assert!(same.status.success(), "{}", text(&same.stdout));
    assert!(text(&same.stdout).contains(" 0 failed"), "{}", text(&same.stdout));
    let worse = directory.path().join("worse.json");
    let worse = worse.to_str().expect("a path");
    let mut other = report;
    for row in other["results"].as_array_mut().expect("a list") {
        row["value"] = (row["value"].as_f64().unwrap_or(1.0) * 3.0).into();
    }
    std::fs::write(worse, other.to_string()).expect("a file");
    let failed = outpost(&["compare", json, worse, "--fail-on", "server_cpu_per_stream=20"]);
    assert_eq!(failed.status.code(), Some(1), "{}", text(&failed.stdout));
    assert_eq!(text(&failed.stdout).matches("FAILED").count(), 12, "{}", text(&failed.stdout));
}

#[test]
fn changes_are_counted_through_a_wan_in_both_modes() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments = ["steady", "--quick", "--sidecars", "5", "--services", "20", "--wan", "region"];
    let report = report(directory.path(), &arguments);
    for metric in ["latency_p50", "last_sidecar", "wan_down_per_change", "wan_connections", "server_cpu_per_change"] {
        let rows = rows(&report, metric);
        let modes: Vec<_> = rows.iter().filter(|row| row["params"]["sidecars"] == 5).map(|row| &row["mode"]).collect();
        assert_eq!(modes, ["direct", "relay"], "{metric}");
    }
    let connections = |mode: &str| {
        let rows = rows(&report, "wan_connections");
        let row = rows.into_iter().find(|row| row["mode"] == mode && row["params"]["sidecars"] == 5);
        row.and_then(|row| row["value"].as_f64()).expect("a figure")
    };
    assert_eq!(connections("direct"), 5.0);
    assert!(connections("relay") <= 2.0);
    assert!(!rows(&report, "stage_committed").is_empty(), "stages are told");
    assert!(report["charts"].as_array().is_some_and(|charts| !charts.is_empty()));
}

#[test]
fn crowds_are_served_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let arguments =
        ["join", "herd", "outage", "nack", "--quick", "--sidecars", "10", "--services", "20", "--wan", "region"];
    let report = report(directory.path(), &arguments);
    let value = |scenario: &str, metric: &str, mode: &str| {
        let rows = rows(&report, metric);
        // The last is that of one group, where there are two.
        let row = rows
            .into_iter()
            .rfind(|row| row["scenario"] == scenario && row["mode"] == mode)
            .unwrap_or_else(|| panic!("no {metric} of {mode}"));
        row["value"].as_f64().expect("a figure")
    };
    assert_eq!((value("outage", "joins_failed", "direct"), value("outage", "joins_failed", "relay")), (2.0, 0.0));
    assert_eq!(value("herd", "resources_sent_again", "relay"), 0.0, "what they held was stated and current");
    assert!(value("herd", "streams_lost", "relay") >= 1.0);
    let figures =
        [("join", "join_max"), ("herd", "in_sync_last"), ("herd", "outpost_rss_peak"), ("outage", "caught_up")];
    for (scenario, metric) in figures {
        assert!(value(scenario, metric, "relay") > 0.0, "{scenario} {metric}");
    }
    let rejected = rows(&report, "nacks_per_change");
    assert_eq!(rejected.iter().filter(|row| row["value"].as_f64().is_some_and(|value| value > 0.0)).count(), 1);
}

#[test]
fn what_cannot_be_is_told_before() {
    let upstream = outpost(&["steady", "--upstream", "127.0.0.1:1"]);
    assert_eq!(upstream.status.code(), Some(2));
    assert!(text(&upstream.stderr).contains("--upstream have no intended time"), "{}", text(&upstream.stderr));
    let many = outpost(&["fanout", "--sidecars", "4000000"]);
    assert_eq!(many.status.code(), Some(3), "{}", text(&many.stderr));
    assert!(text(&many.stderr).contains("open files"), "{}", text(&many.stderr));
    let nothing = outpost(&["compare", "/nowhere/a.json", "/nowhere/b.json"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("cannot read /nowhere/a.json"), "{}", text(&nothing.stderr));
}
