//! What outlives `outpost serve`: real processes that are killed, over real sockets.

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

use outpost::proto::discovery::DiscoveryResponse;
use outpost::proto::protobuf::Any;
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};
use support::control_plane::{ControlPlane, Event};
use support::outpost::Outpost;
use support::sidecar::{CDS, Sidecar};
use support::{check, eventually, resources};

const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

fn flag(name: &str, path: &Path) -> String {
    format!("--{name}={}", path.display())
}

/// Waits until `report` of what is on disk is so.
async fn disk(outpost: &Outpost, what: &str, report: impl Fn(&serde_json::Value) -> bool) {
    eventually(what, || async {
        let list = outpost.json("/disk").await?;
        check(report(&list["items"][0]), || list.to_string())
    })
    .await;
}

/// … until it has all that is held.
async fn saved(outpost: &Outpost) {
    disk(outpost, "what is held is on disk", |of| of["groups"].as_u64() > Some(0) && of["unsaved"] == 0).await;
}

/// Asks for everything that the world has, and answers what comes.
async fn ask(outpost: &Outpost, node: &str) -> (Sidecar, HashMap<String, DiscoveryResponse>) {
    let mut sidecar = Sidecar::connect(outpost.port, node).await;
    let mut answers = HashMap::new();
    for (type_url, names) in [(CDS, &[][..]), (EDS, &["c1", "c2"]), (RDS, &["rc1"])] {
        if type_url != CDS {
            sidecar.ask(type_url, names);
        }
        let answer = sidecar.hear().await;
        assert_eq!(answer.type_url, type_url);
        sidecar.answer_for(&answer, names, None);
        answers.insert(type_url.to_owned(), answer);
    }
    (sidecar, answers)
}

/// What a response says, whatever stream it came on.
fn content(answers: &HashMap<String, DiscoveryResponse>) -> Vec<(String, String, Vec<Any>)> {
    let mut all: Vec<_> = answers
        .values()
        .map(|answer| {
            let mut resources = answer.resources.clone();
            resources.sort_by(|a, b| a.value.cmp(&b.value));
            (answer.type_url.clone(), answer.version_info.clone(), resources)
        })
        .collect();
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn fill(control_plane: &ControlPlane) {
    control_plane.edit(|world| {
        for name in ["c1", "c2"] {
            world.set(&resources::cluster(name));
            world.set(&resources::assignment(name, &[8080]));
        }
        world.set(&resources::route("rc1", "c1"));
        world.set(&resources::secret("s1", "the chain", "THE PRIVATE KEY"));
    });
}

fn on_disk(dir: &Path, part: &[u8]) -> bool {
    let files = fs::read_dir(dir.join("v1")).unwrap();
    files.filter_map(Result::ok).any(|file| {
        let bytes = fs::read(file.path()).unwrap_or_default();
        bytes.windows(part.len()).any(|bytes| bytes == part)
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outpost_restarts_without_its_control_plane() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let mut control_plane = ControlPlane::start().await;
    fill(&control_plane);
    let flags = [flag("persist-dir", &cache), "--secrets=trustNetwork".into()];
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut outpost = Outpost::start(dir.path(), control_plane.port, &flags).await;
    let (sidecar, before) = ask(&outpost, "n1").await;
    sidecar.ask(SDS, &["s1"]);
    let mut sidecar = sidecar;
    assert_eq!(sidecar.hear().await.resources.len(), 1);
    saved(&outpost).await;
    assert!(!on_disk(&cache, b"THE PRIVATE KEY"), "a secret is on disk");
    assert!(on_disk(&cache, b"rc1"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&cache.join("v1")), 0o700);
    for file in fs::read_dir(cache.join("v1")).unwrap() {
        assert_eq!(mode(&file.unwrap().path()), 0o600);
    }
    outpost.kill();
    control_plane.kill();

    outpost.restart();
    outpost.ready().await;
    let (mut sidecar, after) = ask(&outpost, "n1").await;
    assert_eq!(content(&after), content(&before), "it serves what it served, under the same versions");
    sidecar.ask(SDS, &["s1"]);
    let status = outpost.run(&["status"]).unwrap();
    for wanted in ["disk ", "1 group in", "not connected"] {
        assert!(status.contains(wanted), "no {wanted:?} in {status}");
    }
    let why = outpost.run(&["explain", "n1", "cds"]).unwrap();
    assert!(why.contains("put back from disk") && why.contains("last confirmed by the upstream"), "{why}");

    // Nothing crosses twice, and what is new does.
    let streams = control_plane.records().len();
    control_plane.restart().await;
    control_plane.connected(1).await;
    let secret = sidecar.hear().await;
    assert_eq!((secret.type_url.as_str(), secret.resources.len()), (SDS, 1), "the first that was missing");
    control_plane.edit(|world| world.set(&resources::assignment("c2", &[9090])));
    let changed = sidecar.hear().await;
    assert_eq!(changed.type_url, EDS);
    let records = control_plane.records().split_off(streams);
    let sent = records.iter().filter_map(|record| match &record.event {
        Event::Sent { type_url, resources, removed } => Some((type_url.as_str(), *resources, removed.len())),
        _ => None,
    });
    let resent: Vec<_> = sent.filter(|(type_url, resources, _)| *type_url != SDS && *resources > 0).collect();
    assert_eq!(resent, [(EDS, 1, 0)], "only what changed was sent again");
    let stated = records.iter().filter_map(|record| match &record.event {
        Event::Asked(asked) if asked.type_url == CDS => Some(asked.stated.len()),
        _ => None,
    });
    assert_eq!(stated.max(), Some(2), "what is held was stated");
}

/// Killed at any moment, it comes back with some state that it had, whole, and not with
/// one older than what it said is on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outpost_is_killed_at_any_moment() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start().await;
    let write = |control_plane: &ControlPlane, round: u16| {
        control_plane.edit(|world| {
            for name in ["c1", "c2"] {
                world.set(&resources::cluster(name));
                world.set(&resources::padded_assignment(name, round, 3000));
            }
            world.set(&resources::route("rc1", "c1"));
        });
    };
    let port = |answers: &HashMap<String, DiscoveryResponse>| {
        let ports = answers[EDS].resources.iter().map(|any| {
            let found = (1..2000).find(|round| {
                let made = ["c1", "c2"].map(|name| resources::padded_assignment(name, *round, 3000));
                made.iter().any(|made| prost::Message::encode_to_vec(made) == any.value)
            });
            found.expect("one of those that were published")
        });
        let ports: Vec<u16> = ports.collect();
        assert_eq!(ports.len(), 2);
        ports[0].min(ports[1])
    };
    let mut round = 1;
    write(&control_plane, round);
    let cache = flag("persist-dir", &dir.path().join("cache"));
    let mut outpost = Outpost::start(dir.path(), control_plane.port, &[&cache]).await;
    let (mut sidecar, _) = ask(&outpost, "n1").await;
    saved(&outpost).await;
    let mut least = round;
    for instant in [0, 3, 300, 1004, 1011] {
        // Changes flow until the kill.
        let until = Instant::now() + Duration::from_millis(instant);
        while Instant::now() < until {
            round += 1;
            write(&control_plane, round);
            tokio::time::sleep(Duration::from_millis(7)).await;
        }
        outpost.kill();
        control_plane.kill();
        drop(sidecar);
        outpost.restart();
        outpost.ready().await;
        let (again, answers) = ask(&outpost, "n1").await;
        let found = port(&answers);
        assert!((least..=round).contains(&found), "{found} is not between {least} and {round}");
        control_plane.restart().await;
        control_plane.connected(1).await;
        sidecar = again;
        eventually("it is in step again", || async {
            let report = outpost.json("/groups").await?;
            let types = report["items"][0]["types"].as_array().cloned().unwrap_or_default();
            let synced = types.iter().filter(|of| of["short"] == "eds").all(|of| of["synced"] == true);
            check(!types.is_empty() && synced, || report.to_string())
        })
        .await;
        saved(&outpost).await;
        least = found;
    }
    drop(sidecar);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_the_disk_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("cache");
    let mut control_plane = ControlPlane::start().await;
    fill(&control_plane);
    let persist = flag("persist-dir", &cache);
    let mut outpost = Outpost::start(dir.path(), control_plane.port, &[&persist]).await;
    let _sidecar = ask(&outpost, "n1").await;
    saved(&outpost).await;

    // Another process with the same directory.
    let other = Outpost::start(dir.path(), control_plane.port, &[&persist]).await;
    let _also = ask(&other, "n1").await;
    disk(&other, "the lock is told", |of| of["problem"].as_str().is_some_and(|it| it.contains("another process")))
        .await;
    let ready = other.admin("/readyz?verbose").await.unwrap();
    assert!(ready.contains("[!]disk ") && ready.ends_with("\nready\n"), "{ready}");
    let metrics = other.admin("/metrics").await.unwrap();
    assert!(metrics.contains("outpost_persist_saves_total{result=\"locked\"}"), "{metrics}");
    drop(other);

    // A state that is not what was written.
    outpost.kill();
    control_plane.kill();
    let v1 = cache.join("v1");
    for file in fs::read_dir(&v1).unwrap().filter_map(Result::ok) {
        if file.path().extension().is_some_and(|it| it == "index") {
            fs::write(file.path(), b"OUTP-IDX\x01\x00nonsense").unwrap();
        }
    }
    outpost.restart();
    disk(&outpost, "the refusal is told", |of| of["unused"].as_array().is_some_and(|it| !it.is_empty())).await;
    let upstream = format!("127.0.0.1:{}", control_plane.port);
    let ran = outpost.verb(&["check", "--upstream", &upstream]);
    let (all, kept) = (ran.data, "what it holds is kept on disk");
    assert!(all.contains(kept) && all.contains("index is damaged"), "{all} {}", ran.messages);
    let metrics = outpost.admin("/metrics").await.unwrap();
    assert!(metrics.contains("outpost_persist_refused_total{reason=\"damaged\"}"), "{metrics}");
    let ready = outpost.admin("/readyz").await.unwrap();
    assert_eq!(ready.trim(), "not ready", "it has nothing to serve");
    control_plane.restart().await;
    let _sidecar = ask(&outpost, "n1").await;
    // Newer state is written beside it: who can read it may come back within the hour.
    let beside = |of: &serde_json::Value| of["groups"] == 1 && of["unused"].as_array().is_some_and(|it| !it.is_empty());
    disk(&outpost, "newer state is written", beside).await;
}
