//! `outpost check`.

use crate::support::control_plane::ControlPlane;
use crate::support::outpost::{Outpost, Ran, run};
use crate::support::process::free_port;
use crate::support::tls::Authority;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// The findings of a category, each `RESULT description: error`.
fn findings(ran: &Ran, category: &str) -> Vec<String> {
    let json: Value = serde_json::from_str(&ran.data).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
    assert_eq!((&json["kind"], &json["apiVersion"]), (&"Checks".into(), &"outpost/v1".into()));
    let of = json["categories"].as_array().unwrap().iter().find(|each| each["categoryName"] == category);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let line = |check: &Value| {
        format!("{} {}: {}", text(&check["result"]), text(&check["description"]), text(&check["error"]))
    };
    of.unwrap_or_else(|| panic!("{category} in {json}"))["checks"].as_array().unwrap().iter().map(line).collect()
}

fn has(findings: &[String], wanted: &[&str]) {
    let found = findings.iter().any(|line| wanted.iter().all(|wanted| line.contains(wanted)));
    assert!(found, "no {wanted:?} in {findings:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_well_before_start_and_while_it_runs() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let ports = [free_port(), free_port(), control_plane.port].map(|port| format!("127.0.0.1:{port}"));
    let flags = ["--listen", &ports[0], "--admin", &ports[1], "--upstream", &ports[2], "--max-connections=10"];
    let check = |more: &[&str]| run(&[&["check"], &flags[..], more].concat());

    let before = check(&["-o", "json"]);
    assert_eq!(before.code, Some(0), "{before:?}");
    has(&findings(&before, "ports"), &["success", &format!("--listen {} is free", ports[0])]);
    has(&findings(&before, "upstream"), &["success", "answers a first ask", "by delta"]);
    has(&findings(&before, "clock"), &["success our clock agrees with that of"]);
    has(&findings(&before, "running outpost"), &["warning an Outpost answers at", "Connection refused"]);

    let outpost = Outpost::start_at(dir.path(), &flags).await;
    let table = check(&[]);
    assert_eq!(table.code, Some(0), "{table:?}");
    for wanted in ["ports\n-----\n", "takes connections", "√ it is connected to a control plane", "all is well\n"] {
        assert!(table.data.contains(wanted), "no {wanted:?} in {}", table.data);
    }
    assert!(!table.data.contains('×'), "{}", table.data);
    drop(outpost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_found_with_a_hint_and_exits_with_1_in_every_format() {
    let dir = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let dead = format!("127.0.0.1:{}", free_port());
    let nowhere = "no.such.host.invalid:15010";
    let (one, other) = (Authority::new(), Authority::new());
    let files = one.write(dir.path(), "one", &one.server("outpost.test"));
    let others = other.write(dir.path(), "other", &other.server("outpost.test"));
    // A chain whose second certificate did not issue the first.
    let certificate = std::fs::read_to_string(&files.certificate).unwrap() + &other.certificate;
    std::fs::write(&files.certificate, certificate).unwrap();
    let mut flags =
        vec![format!("--listen={taken}"), format!("--upstream={dead},{nowhere}"), "--admin=127.0.0.1:0".into()];
    flags
        .extend([format!("--tls-cert={}", files.certificate.display()), format!("--tls-key={}", others.key.display())]);
    flags.push("--max-connections=1000000".into());
    let check = |format: &str| {
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        run(&[&["check", "-o", format], &flags[..]].concat())
    };
    let [json, table, short] = ["json", "table", "short"].map(check);
    assert_eq!([json.code, table.code, short.code], [Some(1); 3], "{json:?}");
    has(&findings(&json, "ports"), &["error --listen", "is free", "Address already in use"]);
    has(&findings(&json, "certificates"), &["error", "do not belong together"]);
    has(&findings(&json, "certificates"), &["error --tls-cert: each certificate of the chain", "did not issue"]);
    has(&findings(&json, "upstream"), &[&format!("error {dead} takes TCP connections"), "refused"]);
    has(&findings(&json, "upstream"), &[&format!("error {nowhere} can be resolved"), "cannot resolve"]);
    has(&findings(&json, "limits"), &["warning", "here the limit is"]);
    has(&findings(&json, "clock"), &["cannot be compared with that of", "no connection came about"]);
    assert!(table.data.contains("√ the configuration is valid") && !short.data.contains('√'), "{}", short.data);
    for text in [&table.data, &short.data] {
        assert!(text.contains("hint: end what listens there, or listen elsewhere"), "{text}");
        assert!(text.ends_with("something is wrong\n"), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_dates_of_certificates_are_to_blame_the_clock_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (control_plane, authority) = (ControlPlane::start().await, Authority::new());
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let early = authority.server_between("outpost.test", now + hour, now + 2 * hour);
    let files = authority.write(dir.path(), "early", &early);
    let flag = |flag: &str, path: &Path| format!("{flag}={}", path.display());
    let (cert, key) = (flag("--tls-cert", &files.certificate), flag("--tls-key", &files.key));
    let upstream = Outpost::start(dir.path(), control_plane.port, &[&cert, &key]).await;
    let (address, ca) = (format!("--upstream=127.0.0.1:{}", upstream.port), flag("--upstream-ca", &files.authority));
    let flags = [&address, &ca, "--upstream-server-name=outpost.test", "--admin=127.0.0.1:0", "--listen=127.0.0.1:0"];
    let json = run(&[&["check", "-o", "json"], &flags[..]].concat());
    assert_eq!(json.code, Some(1), "{json:?}");
    has(&findings(&json, "upstream"), &["error", "shakes hands by TLS", "compare the clocks"]);
    has(&findings(&json, "clock"), &["warning our clock agrees with", "a certificate is not valid now"]);
    let table = run(&[&["check"], &flags[..]].concat());
    assert!(table.data.contains("hint: is the clock of this machine right, and theirs?"), "{}", table.data);
    // Our own.
    let own = run(&["check", "-o", "json", &cert, &key, &address, "--admin=127.0.0.1:0", "--listen=127.0.0.1:0"]);
    has(&findings(&own, "certificates"), &["error --tls-cert is valid now", "is valid only in 60m, from 20"]);
}

#[test]
fn a_configuration_that_is_not_valid_has_a_code_of_its_own() {
    let json = run(&["check", "-o", "json", "--upstream=nowhere", "--drain=long", "--admin=127.0.0.1:0"]);
    assert_eq!(json.code, Some(3), "{json:?}");
    has(&findings(&json, "configuration"), &["error", "--upstream \"nowhere\" has no port"]);
    has(&findings(&json, "configuration"), &["error", "--drain \"long\""]);
}

#[test]
fn waiting_ends_with_its_own_code() {
    let dead = format!("--upstream=127.0.0.1:{}", free_port());
    let waited = run(&["check", "--wait=100ms", &dead, "--admin=127.0.0.1:0", "--listen=127.0.0.1:0"]);
    assert_eq!(waited.code, Some(5), "{waited:?}");
    assert!(waited.data.ends_with("something is wrong\n"));
}

#[test]
fn files_in_the_place_of_a_control_plane_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let files = format!("--files={}", dir.path().display());
    let check = || run(&["check", "-o", "json", &files, "--admin=127.0.0.1:0", "--listen=127.0.0.1:0"]);
    let text = "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: a\n";
    std::fs::write(dir.path().join("a.yaml"), text).unwrap();
    let good = check();
    assert_eq!(good.code, Some(0), "{good:?}");
    has(&findings(&good, "upstream"), &["success the files in", "are valid"]);
    has(&findings(&good, "clock"), &["success our clock cannot be compared with another: files tell no time"]);
    std::fs::write(dir.path().join("b.yaml"), "name: [\n").unwrap();
    let bad = check();
    assert_eq!(bad.code, Some(1), "{bad:?}");
    has(&findings(&bad, "upstream"), &["error the files in", "b.yaml"]);
}
