//! Verbs that need no sidecar, and every command line that is refused.

use crate::support::control_plane::ControlPlane;
use crate::support::outpost::{Outpost, run};
use crate::support::process::free_port;
use crate::support::{check, eventually};
use serde_json::Value;

const ROWS: &str = include_str!("bad_input.txt");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_carried_out_says_why_and_exits_by_its_kind() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let outpost = Outpost::start(dir.path(), control_plane.port, &[]).await;
    let dead = format!("127.0.0.1:{}", free_port());
    let rows: Vec<_> = ROWS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
    assert!(rows.len() > 25);
    for row in rows {
        let [line, code, pattern] = row.split(" | ").map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("three columns: {row}")
        };
        let line = line.replace("{dead}", &dead).replace("{outpost}", &outpost.admin_address());
        let arguments: Vec<_> = line.split_whitespace().collect();
        let ran = run(&arguments);
        assert_eq!(ran.code, code.parse().ok(), "{line}: {}", ran.messages);
        assert!(ran.messages.contains(pattern), "{line}: {}", ran.messages);
        assert!(ran.data.is_empty(), "{line}: messages are no data");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    let version = env!("CARGO_PKG_VERSION");
    let said = |format: &str| {
        let ran = run(&["version", "-o", format]);
        assert_eq!(ran.code, Some(0), "{}", ran.messages);
        ran.data
    };
    assert_eq!((said("table"), said("name")), (format!("outpost {version}\n"), format!("{version}\n")));
    let json: Value = serde_json::from_str(&said("json")).unwrap();
    assert_eq!(json, serde_json::json!({"apiVersion": "outpost/v1", "kind": "Version", "version": version}));
    assert_eq!(serde_saphyr::from_str::<Value>(&said("yaml")).unwrap(), json);
}

#[test]
fn every_shell_gets_its_completions() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let ran = run(&["completions", shell]);
        assert_eq!(ran.code, Some(0), "{}", ran.messages);
        for wanted in ["envoy-bootstrap", "log-level", "upstream-variant"] {
            assert!(ran.data.contains(wanted), "no {wanted} for {shell}");
        }
    }
}

#[test]
fn a_bootstrap_is_one_document_in_both_formats() {
    let mut flags = vec!["envoy-bootstrap", "--node-id=n1", "--node-cluster=shop", "--metadata=NAMESPACE=shop"];
    flags.extend(["--address=outpost.example:18000", "--variant=sotw", "--tls-ca=/tls/ca.pem"]);
    flags.extend(["--tls-cert=/tls/cert.pem", "--tls-key=/tls/key.pem"]);
    let (yaml, json) = (run(&flags), run(&[&flags[..], &["-o", "json"]].concat()));
    assert_eq!((yaml.code, json.code), (Some(0), Some(0)), "{}", yaml.messages);
    let json: Value = serde_json::from_str(&json.data).unwrap();
    assert_eq!(serde_saphyr::from_str::<Value>(&yaml.data).unwrap(), json);
    assert_eq!(json["node"], serde_json::json!({"id": "n1", "cluster": "shop", "metadata": {"NAMESPACE": "shop"}}));
    assert_eq!(json["dynamic_resources"]["ads_config"]["api_type"], "GRPC");
    let cluster = &json["static_resources"]["clusters"][0];
    assert_eq!((&cluster["type"], &cluster["name"]), (&"STRICT_DNS".into(), &"outpost".into()));
    let context = &cluster["transport_socket"]["typed_config"];
    assert_eq!(context["sni"], "outpost.example");
    let names = &context["common_tls_context"]["validation_context"]["match_typed_subject_alt_names"][0];
    assert_eq!(names["matcher"]["exact"], "outpost.example");

    let unix = run(&["envoy-bootstrap", "--node-id=n1", "--address=unix:/run/outpost.sock", "-o", "json"]);
    let unix: Value = serde_json::from_str(&unix.data).unwrap();
    let address = &unix["static_resources"]["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
    assert_eq!(address["endpoint"]["address"]["pipe"]["path"], "/run/outpost.sock");
    assert_eq!(unix["dynamic_resources"]["ads_config"]["api_type"], "DELTA_GRPC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn levels_are_laid_over_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let outpost = Outpost::start(dir.path(), control_plane.port, &["--log-level=warn"]).await;
    let ran = |verb: &[&str]| outpost.verb(&[&["log-level"], verb].concat());
    assert_eq!(ran(&[]).data, "configured: warn\n");
    let laid = ran(&["outpost::downstream=debug", "h2=trace", "--for", "20m"]);
    assert_eq!(laid.code, Some(0), "{}", laid.messages);
    assert_eq!(laid.data, "configured: warn\nfor 20m more: outpost::downstream=debug,h2=trace\n");
    let json: Value = serde_json::from_str(&ran(&["-o", "json"]).data).unwrap();
    assert_eq!((&json["kind"], &json["apiVersion"]), (&"Levels".into(), &"outpost/v1".into()));
    assert_eq!(json["temporary"], "outpost::downstream=debug,h2=trace");
    // It is in force: a connection makes lines that a warning level has not.
    drop(std::net::TcpStream::connect(("127.0.0.1", outpost.port)).unwrap());
    eventually("h2 is in the log", || async { check(outpost.log().contains("h2::codec"), || outpost.log()) }).await;
    assert!(outpost.log().contains("an operator asks for other log levels"), "{}", outpost.log());
    assert_eq!(ran(&["--reset"]).data, "configured: warn\n");
    assert_eq!(ran(&["info", "--for=1s"]).code, Some(0));
    eventually("the time is over", || async {
        let now = ran(&["-o", "name"]).data;
        check(now == "warn\n", || now)
    })
    .await;
}
