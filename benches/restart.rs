//! How soon an Outpost that is started again serves what is on disk, its control plane
//! away: from exec to the last byte of all clusters and of a thousand assignments.
//!
//! `cargo bench --bench restart`. 100,000 resources of 1 KiB are on disk; those of one
//! sidecar are 2,000 of its group, of fifty, or, the second figure, all of the one
//! group that there is. Cold: its files are not in the page cache.

use bytes::Bytes;
use outpost::clock::Clock;
use outpost::content::Store;
use outpost::exchange::{Exchange, Past};
use outpost::group::GroupKey;
use outpost::persist::{Persist, Settings};
use outpost::proto::core::Node;
use outpost::proto::discovery::DiscoveryRequest;
use outpost::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outpost::session::{Update, Want};
use outpost::xds::envelope::{Payload, Resource};
use outpost::xds::{Moment, Timing, TypeUrl};
use prometheus_client::registry::Registry;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

const UPSTREAM: &str = "127.0.0.1:1";
const RESOURCES: usize = 100_000;
const ASKED: usize = 1000;
const ROUNDS: usize = 7;

fn type_of(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).expect("a type")
}

fn resource(of: &TypeUrl, group: usize, number: usize) -> Resource {
    let mut value = format!("{} {group} {number} ", of.short()).into_bytes();
    value.resize(1024, b'x');
    Resource {
        name: Some(format!("outbound|80||service-{number}.namespace.svc.cluster.local").into()),
        version: String::new(),
        payload: Some(Payload { type_url: of.as_str().into(), value: value.into() }),
        aliases: Vec::new(),
        ttl: None,
        do_not_cache: false,
        constraints: None,
        extra: Bytes::new(),
    }
}

/// Clusters and assignments of so many groups, on disk.
async fn write(directory: &Path, groups: usize) {
    let (clock, store) = (Clock::system(), Store::new());
    let exchange = Exchange::new(store.clone(), Timing::default(), clock.clone());
    let settings = Settings {
        directory: directory.to_owned(),
        most: 1 << 31,
        key: None,
        cluster: String::new(),
        upstreams: vec![UPSTREAM.into()],
        rules: String::new(),
        sensitive: Vec::new(),
        forget: Duration::MAX,
    };
    let persist = Persist::open(settings, store.clone(), clock, &mut Registry::default()).await;
    let known: Arc<dyn Past> = persist.clone();
    exchange.keep(Arc::downgrade(&known));
    let mut members = Vec::new();
    for group in 0..groups {
        let member = exchange.join(GroupKey::new(format!("n{group};node")), Bytes::new(), Arc::new(|| {}));
        member.group().stream_opened(UPSTREAM.into());
        let clusters = ASKED;
        for (short, count) in [("cds", clusters), ("eds", RESOURCES / groups - clusters)] {
            let type_url = type_of(short);
            member.want(Want::new(type_url.clone(), true, Arc::default()));
            member.group().apply(Update {
                resources: (0..count).map(|number| resource(&type_url, group, number)).collect(),
                type_url,
                label: "1".into(),
                control_plane: "".into(),
                removed: Vec::new(),
                silent: Vec::new(),
                errors: Vec::new(),
                whole: false,
                answers_wildcard: true,
                received: Moment::START,
            });
        }
        members.push(member);
    }
    persist.finish(&exchange, Duration::from_secs(60)).await;
    assert_eq!(persist.report().groups, groups, "{:?}", persist.report());
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// From exec to both answers.
async fn start(directory: &Path, port: u16) -> Duration {
    let begun = Instant::now();
    let child = Command::new(env!("CARGO_BIN_EXE_outpost"))
        .args(["serve", "--admin", "127.0.0.1:0", "--upstream", UPSTREAM, "--log-level", "error"])
        .args(["--listen", &format!("127.0.0.1:{port}"), "--persist-dir"])
        .arg(directory)
        .stdin(Stdio::null())
        .spawn()
        .expect("the program starts");
    let _running = Running(child);
    let mut client = loop {
        match AggregatedDiscoveryServiceClient::connect(format!("http://127.0.0.1:{port}")).await {
            Ok(client) => break client.max_decoding_message_size(1 << 30),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let (asks, requests) = mpsc::unbounded_channel();
    let names = (0..ASKED).map(|number| format!("outbound|80||service-{number}.namespace.svc.cluster.local"));
    let node = Some(Node { id: "n0".into(), ..Node::default() });
    let clusters = DiscoveryRequest { node, type_url: type_of("cds").as_str().into(), ..Default::default() };
    let type_url = type_of("eds").as_str().to_owned();
    let assignments = DiscoveryRequest { type_url, resource_names: names.collect(), ..Default::default() };
    asks.send(clusters).expect("a stream");
    asks.send(assignments).expect("a stream");
    let answers = client.stream_aggregated_resources(UnboundedReceiverStream::new(requests)).await;
    let mut answers = answers.expect("a stream").into_inner();
    for _ in 0..2 {
        let answer = answers.message().await.expect("no error").expect("an answer");
        assert_eq!(answer.resources.len(), ASKED);
        let ack = DiscoveryRequest {
            type_url: answer.type_url,
            version_info: answer.version_info,
            response_nonce: answer.nonce,
            ..Default::default()
        };
        asks.send(ack).expect("a stream");
    }
    begun.elapsed()
}

/// Lets the system forget the files.
fn chill(directory: &Path) -> bool {
    let files = std::fs::read_dir(directory.join("v1")).expect("the cache").filter_map(Result::ok);
    files.map(|file| file.path()).filter_map(|path| File::open(path).ok()).all(|file| {
        file.sync_all().is_ok() && rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).is_ok()
    })
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        for groups in [50, 1] {
            let directory = tempfile::tempdir().expect("a directory");
            write(directory.path(), groups).await;
            let port =
                std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
            let (mut warm, mut cold) = (Vec::new(), Vec::new());
            for _ in 0..ROUNDS {
                warm.push(start(directory.path(), port).await);
                let chilled = chill(directory.path());
                cold.extend(chilled.then_some(start(directory.path(), port).await));
            }
            warm.sort_unstable();
            cold.sort_unstable();
            let middle = |of: &[Duration]| of.get(of.len() / 2).copied().unwrap_or_default();
            println!(
                "{RESOURCES} resources of 1 KiB in {groups} groups: to the last byte of {ASKED} clusters and {ASKED} \
                 assignments, median of {ROUNDS}: warm {:?} (worst {:?}), cold {:?}",
                middle(&warm),
                warm.last().copied().unwrap_or_default(),
                middle(&cold),
            );
        }
    });
}
