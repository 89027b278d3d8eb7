//! What an operator sees of the real program: a control plane, `outpost serve`
//! and a sidecar, each over real sockets.

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

#[path = "operator/certificates.rs"]
mod certificates;
#[path = "operator/traces.rs"]
mod traces;

use clap::Parser;
use outpost::app;
use outpost::cli::{Cli, Verb};
use outpost::clock::Clock;
use outpost::config::Layers;
use outpost::proto::core::Node;
use outpost::proto::discovery::DiscoveryRequest;
use outpost::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outpost::transport::server::{self, Bound, Call, Handler, Listen};
use outpost::xds::{Status, code};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use support::control_plane::ControlPlane;
use support::outpost::Outpost;
use support::sidecar::{CDS, Sidecar};
use support::{check, eventually, resources};

const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

async fn shows(outpost: &Outpost, what: &str, verb: &[&str], wanted: &[&str]) -> String {
    eventually(what, || async {
        let text = outpost.run(verb)?;
        check(wanted.iter().all(|wanted| text.contains(wanted)), || text.clone())?;
        Ok(text)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_can_be_seen() {
    let dir = tempfile::tempdir().unwrap();
    let mut control_plane = ControlPlane::start().await;
    control_plane.edit(|world| world.set(&resources::cluster("c1")));
    let outpost = Outpost::start(dir.path(), control_plane.port, &[]).await;
    let nobody = outpost.run(&["status"]).unwrap();
    assert!(nobody.contains("no sidecar is connected"), "{nobody}");

    let mut sidecar = Sidecar::connect(outpost.port, "n1").await;
    let first = sidecar.hear().await;
    assert_eq!(first.resources.len(), 1);
    shows(&outpost, "it has not answered", &["status"], &["1 stale", "n1", "cds STALE", "waits for turn"]).await;
    sidecar.answer(&first, None);
    let table = shows(&outpost, "it is in sync", &["status", "--check"], &["1 stream: 1 synced", "perNode"]).await;
    assert!(table.contains(&format!("upstream 127.0.0.1:{}: ", control_plane.port)), "{table}");
    let why = outpost.run(&["explain", "n1", "cds", "c1"]).unwrap();
    for wanted in ["node n1: stream", "(ads, sotw)", "rule perNode", "cds: SYNCED", "resource c1: subscribed by"] {
        assert!(why.contains(wanted), "no {wanted:?} in:\n{why}");
    }

    control_plane.edit(|world| world.set(&resources::cluster("bad")));
    let second = sidecar.hear().await;
    sidecar.answer(&second, Some("cluster bad: no such filter"));
    shows(&outpost, "the rejection", &["status"], &["REJECTED", "cds REJECTED", "cluster bad: no such filter"]).await;
    let json: serde_json::Value = serde_json::from_str(&outpost.run(&["status", "-o", "json"]).unwrap()).unwrap();
    assert_eq!(json["apiVersion"], "outpost/v1");
    assert_eq!(json["items"][0]["types"][0]["sync"], "REJECTED");
    assert_eq!(json["items"][0]["types"][0]["lastNack"]["text"], "cluster bad: no such filter");
    let refused = outpost.run(&["status", "--check"]).unwrap_err();
    assert!(refused.starts_with("[\"status\", \"--check\"]"), "{refused}");
    let missing = outpost.run(&["explain", "n2"]).unwrap_err();
    assert!(missing.starts_with("[\"explain\", \"n2\"]"), "{missing}");

    let groups = outpost.json("/groups").await.unwrap();
    assert_eq!(groups["items"][0]["key"], "n1;node");
    assert_eq!(groups["items"][0]["types"][0]["resources"], 2);
    let metrics = outpost.admin("/metrics").await.unwrap();
    for wanted in [
        "outpost_build_info{version=",
        "outpost_groups 1",
        "outpost_downstream_streams{service=\"ads\",variant=\"sotw\"} 1",
        "outpost_downstream_requests_total{type=\"cds\",kind=\"nack\"} 1",
        "outpost_upstream_streams{variant=\"delta\"} 1",
        "outpost_downstream_convergence_seconds_count",
    ] {
        assert!(metrics.contains(wanted), "no {wanted} in:\n{metrics}");
    }
    assert!(!metrics.contains("n1"), "a node in the metrics");

    control_plane.kill();
    let lost = ["not connected", "what is held is served", "REJECTED"];
    shows(&outpost, "the loss of the upstream", &["status"], &lost).await;
    let ready = outpost.admin("/readyz?verbose").await.unwrap();
    assert!(ready.contains("[+]snapshot held") && ready.ends_with("\nready\n"), "{ready}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_owed_nothing_is_in_sync() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| world.set(&resources::cluster("c1")));
    let outpost = Outpost::start(dir.path(), control_plane.port, &[]).await;
    let mut sidecar = Sidecar::connect(outpost.port, "n1").await;
    let first = sidecar.hear().await;
    sidecar.answer(&first, None);
    // Envoy does both: routes without names, and assignments that do not exist.
    sidecar.ask(RDS, &[]);
    sidecar.ask(EDS, &["nothing"]);
    let all = ["1 stream: 1 synced", "cds eds rds"];
    shows(&outpost, "all is in sync", &["status", "--check"], &all).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_drains() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| world.set(&resources::cluster("c1")));
    let mut outpost = Outpost::start(dir.path(), control_plane.port, &["--drain=2s"]).await;
    let mut sidecar = Sidecar::connect(outpost.port, "n1").await;
    let first = sidecar.hear().await;
    sidecar.answer(&first, None);

    let id = outpost.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let ended = tokio::time::timeout(support::PATIENCE, sidecar.answers.message()).await.expect("an end in time");
    assert!(matches!(&ended, Ok(None)), "an end in order, not {ended:?}");
    eventually("the process ends by itself", || {
        let ended = outpost.alive().err();
        async move { ended.ok_or_else(|| "it runs".to_owned()) }
    })
    .await;
    let said = outpost.alive().unwrap_err();
    assert!(said.contains("exit status: 0"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_default_admin_address_may_move() {
    // Whether this bind or another program has it: it is taken.
    let _taken = std::net::TcpListener::bind("127.0.0.1:19901");
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_outpost"));
    command.args(["serve", "--listen=127.0.0.1:0", "--upstream=127.0.0.1:1"]).env_remove("OUTPOST_ADMIN");
    let mut process = support::process::Process::start(dir.path(), "moved", &mut command);
    eventually("the log names the address", || {
        let (log, alive) = (process.log(), process.alive());
        async move {
            alive?;
            check(log.contains("operators are answered on a free port: the default is taken"), || log)
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fleet_that_is_refused_does_not_flood_the_log() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    let outpost = Outpost::start(dir.path(), control_plane.port, &[]).await;
    let address = format!("http://127.0.0.1:{}", outpost.port);
    let mut client = AggregatedDiscoveryServiceClient::connect(address).await.unwrap();
    for _ in 0..200 {
        let nobody = DiscoveryRequest { type_url: CDS.into(), ..Default::default() };
        let mut answers = client.stream_aggregated_resources(tokio_stream::once(nobody)).await.unwrap().into_inner();
        answers.message().await.expect_err("it names no node");
    }
    let metrics = outpost.admin("/metrics").await.unwrap();
    assert!(metrics.contains("outpost_downstream_rejected_total{reason=\"no_node\"} 200"), "{metrics}");
    let lines: Vec<_> = outpost.log().lines().filter(|line| line.contains("no_node")).map(str::to_owned).collect();
    // A line may lie across the turn of a minute.
    assert!((1..=10).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.iter().any(|line| line.contains("others=")), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_write_no_line_of_their_own_into_the_log() {
    const FORGED: &str = "x\n2026-01-01T00:00:00Z ERROR forged \u{1b}[2J";
    let dir = tempfile::tempdir().unwrap();
    // What says such things to whoever opens a stream.
    struct Forger;
    impl Handler for Forger {
        async fn handle(self: Arc<Self>, call: Call) {
            call.refuse(&Status::new(code::INTERNAL, FORGED));
        }
    }
    let bound = Bound::bind(&[Listen::Tcp(([127, 0, 0, 1], 0).into())]).unwrap();
    let Some(Listen::Tcp(address)) = bound.addresses().first().cloned() else { panic!("no TCP") };
    let (settings, metrics) = (server::Settings::default(), server::Metrics::default());
    let _server = bound.serve(settings, Clock::system(), metrics, Arc::new(Forger));
    let outpost = Outpost::start(dir.path(), address.port(), &[]).await;
    let address = format!("http://127.0.0.1:{}", outpost.port);
    let mut client = AggregatedDiscoveryServiceClient::connect(address).await.unwrap();
    let node = |id: &str| Some(Node { id: id.into(), ..Node::default() });
    let ask = |id: &str| DiscoveryRequest { node: node(id), type_url: CDS.into(), ..Default::default() };
    let asks = tokio_stream::iter([ask(FORGED), ask("another")]);
    let mut answers = client.stream_aggregated_resources(asks).await.unwrap().into_inner();
    answers.message().await.expect_err("the node is another");
    eventually("both sides are in the log", || {
        let log = outpost.log();
        async move { check(log.contains("node_changed") && log.contains("trouble with a stream"), || log) }
    })
    .await;
    let log = outpost.log();
    assert!(log.contains("forged"), "{log}");
    assert!(!log.contains(FORGED) && !log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{log}");
}

/// A directory of versions and a link to the newest, as Kubernetes mounts a ConfigMap.
fn publish(dir: &std::path::Path, version: &str, text: &str) {
    let data = dir.join(version);
    std::fs::create_dir(&data).unwrap();
    std::fs::write(data.join("outpost.yaml"), text).unwrap();
    std::os::unix::fs::symlink(version, dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_configuration_counts_without_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| world.set(&resources::cluster("c1")));
    publish(dir.path(), "1", "identifier: one\n");
    std::os::unix::fs::symlink("..data/outpost.yaml", dir.path().join("outpost.yaml")).unwrap();
    let flag = format!("--config={}", dir.path().join("outpost.yaml").display());
    let outpost = Outpost::start(dir.path(), control_plane.port, &[&flag]).await;
    let mut before = Sidecar::connect(outpost.port, "n1").await;
    let first = before.hear().await;
    assert_eq!(first.control_plane.as_ref().unwrap().identifier, "one");
    before.answer(&first, None);
    let metric = async |wanted: &str| {
        let metrics = outpost.admin("/metrics").await.unwrap();
        assert!(metrics.contains(wanted), "no {wanted} in:\n{metrics}");
    };
    metric("outpost_config_last_reload_successful 1\n").await;
    metric("outpost_config_last_reload_success_timestamp_seconds 1").await;

    // Of these one counts at once, the other after a restart.
    publish(dir.path(), "2", "identifier: two\nlog: { format: json }\n");
    shows(&outpost, "what waits is told", &["status"], &["these settings wait for a restart: log.format\n"]).await;
    let second = Sidecar::connect(outpost.port, "n2").await.hear().await;
    assert_eq!(second.control_plane.unwrap().identifier, "two");
    metric("outpost_config_restart_pending 1\n").await;

    // What is not valid changes nothing and is told everywhere, without lines of the file.
    publish(dir.path(), "3", "identifer: three # hush\n");
    let told = "error: the configuration is not valid, for ";
    let status = shows(&outpost, "a bad file is told", &["status"], &[told, "outpost.yaml:1:1"]).await;
    assert!(status.contains("identifier") && !status.contains("hush"), "{status}");
    metric("outpost_config_last_reload_successful 0\n").await;
    let log = outpost.log();
    let line =
        log.lines().find(|line| line.contains("is not valid; what ran before runs on")).expect("a line of the log");
    assert!(line.contains("outpost.yaml:1:1") && !log.contains("hush"), "{line}");
    let third = Sidecar::connect(outpost.port, "n3").await.hear().await;
    assert_eq!(third.control_plane.unwrap().identifier, "two");

    publish(dir.path(), "4", "identifier: four\n");
    eventually("the good file counts", || async {
        let report = outpost.json("/configuration").await?;
        let now = &report["items"][0];
        check(now["problem"].is_null() && now["needsRestart"].as_array().is_some_and(Vec::is_empty), || {
            report.to_string()
        })
    })
    .await;
    let fourth = Sidecar::connect(outpost.port, "n4").await.hear().await;
    assert_eq!(fourth.control_plane.unwrap().identifier, "four");
    metric("outpost_config_last_reload_successful 1\n").await;

    // SIGHUP reads it again, changed or not, and ends nothing.
    let count = || outpost.log().matches("the configuration was read again").count();
    let so_far = count();
    assert!(Command::new("kill").args(["-HUP", &outpost.id().to_string()]).status().unwrap().success());
    eventually("it is read again", || async { check(count() > so_far, || outpost.log()) }).await;
    control_plane.edit(|world| world.set(&resources::cluster("c2")));
    assert_eq!(before.hear().await.resources.len(), 2, "a stream of before goes on");
}

#[tokio::test]
async fn what_panics_in_a_part_ends_the_process() {
    let control_plane = ControlPlane::start().await;
    let upstream = format!("--upstream=127.0.0.1:{}", control_plane.port);
    let flags = ["outpost", "serve", "--listen=127.0.0.1:0", "--admin=127.0.0.1:0", &upstream];
    let Verb::Serve(given) = Cli::try_parse_from(flags).unwrap().verb else { unreachable!() };
    let mut options = app::Options::default();
    // The second connection is due at a moment that no clock can name.
    options.upstream.keeping.stagger = Duration::MAX;
    let mut running = app::start(Layers::read(&given).check().unwrap(), options).await.unwrap();
    let broken = tokio::time::timeout(support::PATIENCE, running.broke()).await.expect("an end in time");
    assert_eq!(broken.part, "the upstream side", "{broken}");
    assert!(broken.how.starts_with("panicked: "), "{broken}");
}
