//! The benchmark as somebody runs it: a small one, through all its processes.
//! No figure is judged, only whether it is there and of how many.

use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

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
    let writes = rows(&report, "writes_per_push");
    assert_eq!(writes.len(), 6, "plaintext and TLS, of three sizes");
    for row in writes {
        // Each push is a write at least, and a metric that counts nothing would say 0.
        assert!(row["value"].as_f64().is_some_and(|value| value >= 0.9), "{row}");
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
        let far = rows.iter().filter(|row| row["params"]["sidecars"] == 5 && row["params"]["wan_form"].is_null());
        let modes: Vec<_> = far.map(|row| &row["mode"]).collect();
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
    for process in ["outpost", "control_plane", "wan", "swarm"] {
        let cpu = rows(&report, &format!("{process}_cpu_per_change"));
        assert!(cpu.iter().any(|row| row["mode"] == "relay" && row["value"].as_f64() > Some(0.0)), "{process}");
    }
    assert!(rows(&report, "added_latency_p50").iter().all(|row| row["mode"] == "relay" && row["value"].is_number()));
    let units = |form: &str| {
        let rows = rows(&report, "wan_down_per_change").into_iter();
        rows.filter(|row| row["params"]["wan_form"].as_str().unwrap_or("") == form)
            .map(|row| row["unit"].clone())
            .collect::<Vec<_>>()
    };
    assert!(units("").iter().all(|unit| unit == "payload bytes") && !units("").is_empty());
    // A WAN with losses is measured, or it says why not.
    let lossy = rows(&report, "latency_p99").into_iter().filter(|row| row["params"]["wan_form"] == "tun");
    for row in lossy.clone() {
        let why = row["marks"][0].as_str().unwrap_or_default();
        assert!(row["value"].is_number() || why.starts_with("not measured: "), "{row}");
        assert_eq!(row["params"]["loss_percent"], 1.0, "{row}");
    }
    assert_eq!(lossy.map(|row| row["mode"].clone()).collect::<Vec<_>>(), ["direct", "relay"]);
    assert!(units("tun").iter().all(|unit| unit == "bytes"));
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
    let rates = rows(&report, "first_sync_rate");
    let compared = rates.iter().filter(|row| row["mode"] == "relay" && row["baseline"] == "h2").count();
    assert_eq!((rates.len(), compared), (4, 2), "{rates:?}");
    let herd = rows(&report, "in_sync_last").into_iter().filter(|row| row["mode"] == "relay");
    assert!(herd.into_iter().all(|row| row["baseline"] == "direct" && row["ratio"].is_number()));
    let figures =
        [("join", "join_max"), ("herd", "in_sync_last"), ("herd", "outpost_rss_peak"), ("outage", "caught_up")];
    for (scenario, metric) in figures {
        assert!(value(scenario, metric, "relay") > 0.0, "{scenario} {metric}");
    }
    let rejected = rows(&report, "nacks_per_change");
    let rejected = rejected.iter().filter(|row| row["value"].as_f64().is_some_and(|value| value > 0.0));
    assert_eq!(rejected.map(|row| &row["mode"]).collect::<Vec<_>>(), ["direct", "relay"]);
}

/// An Outpost that runs by itself until this is dropped.
struct Served(Child, String);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
    }
}

fn serve(flags: &[&str]) -> Served {
    let mut child = Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args(["serve", "--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0", "--drain", "0s"])
        .args(flags)
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let told = lines.find_map(|line| Some(line.ok()?.split_once("sidecars are served address=")?.1.to_owned()));
    // It must never wait for somebody to read what it says.
    std::thread::spawn(move || lines.for_each(drop));
    Served(child, told.expect("it says where it listens"))
}

#[test]
fn an_outpost_that_runs_already_is_measured() {
    let directory = tempfile::tempdir().expect("a directory");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let upstream: &str = &free.to_string();
    let relay = serve(&["--upstream", upstream]);
    let arguments = ["burst", "join", "--quick", "--sidecars", "5", "--services", "20", "--wan", "region"];
    let there = ["--relay", &relay.1, "--listen", upstream];
    // Twice, as it holds what the first had when the second begins.
    for _ in 0..2 {
        let report = report(directory.path(), &[&arguments[..], &there[..]].concat());
        for (metric, modes) in [("latency_p50", 2), ("join_max", 3), ("first_sync_rate", 4)] {
            assert_eq!(rows(&report, metric).len(), modes, "{metric}");
        }
        let cpu = rows(&report, "server_cpu_per_change");
        assert!(cpu.iter().all(|row| row["mode"] == "direct"), "of another process nothing is known: {cpu:?}");
    }
}

#[test]
fn a_control_plane_that_is_there_already_is_joined() {
    let directory = tempfile::tempdir().expect("a directory");
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/files");
    let upstream = serve(&["--files", files.to_str().expect("a path")]);
    let arguments = ["join", "herd", "memory", "--quick", "--sidecars", "5", "--upstream", &upstream.1];
    let report = report(directory.path(), &arguments);
    let of = |metric: &str| rows(&report, metric).into_iter().map(|row| row["mode"].clone()).collect::<Vec<_>>();
    assert_eq!(of("join_max"), ["direct", "relay", "relay"]);
    assert_eq!(of("first_sync_rate"), ["direct", "relay"]);
    assert_eq!(of("in_sync_last"), ["direct", "relay", "relay"]);
    assert_eq!(of("rss_per_stream"), ["relay"; 4]);
    assert!(rows(&report, "resources_sent_again").iter().all(|row| row["value"] == 0.0));
}

#[test]
fn what_cannot_be_is_told_before() {
    let refused: [(&[&str], &str); 7] = [
        (&["steady", "--upstream", "127.0.0.1:1"], "those of --upstream were due; with it measure join, herd, memory"),
        (&["memory", "--relay", "127.0.0.1:1"], "memory starts Outpost itself"),
        (&["steady", "--relay", "127.0.0.1:1"], "--relay needs --listen"),
        (&["steady", "--loss", "1"], "add --wan-form tun"),
        (&["steady", "--congestion", "bbr"], "add --wan-form tun"),
        (&["join", "--wan-form", "tun", "--upstream", "127.0.0.1:1"], "leave --upstream and --relay away"),
        (&["steady", "--wan-form", "tun", "--loss", "60"], "no percentage between 0 and 50"),
    ];
    for (arguments, why) in refused {
        let output = outpost(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains(why), "{arguments:?}: {}", text(&output.stderr));
    }
    let many = outpost(&["fanout", "--sidecars", "4000000"]);
    assert_eq!(many.status.code(), Some(3), "{}", text(&many.stderr));
    assert!(text(&many.stderr).contains("open files"), "{}", text(&many.stderr));
    let nothing = outpost(&["compare", "/nowhere/a.json", "/nowhere/b.json"]);
    assert_eq!(nothing.status.code(), Some(2));
    assert!(text(&nothing.stderr).contains("cannot read /nowhere/a.json"), "{}", text(&nothing.stderr));
}
