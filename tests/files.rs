//! `outpost serve --files`, as an operator meets it: the real program, and
//! sidecars over real sockets.

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

use outpost::proto::core::Node;
use outpost::proto::discovery::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outpost::proto::discovery::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use support::outpost::Outpost;
use support::{check, eventually, http};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// A delta stream by a stock client.
struct Sidecar {
    asks: mpsc::UnboundedSender<DeltaDiscoveryRequest>,
    answers: tonic::Streaming<DeltaDiscoveryResponse>,
    /// By type and name.
    versions: BTreeMap<(String, String), String>,
    labels: BTreeMap<String, String>,
}

impl Sidecar {
    async fn connect(port: u16, id: &str) -> Self {
        let mut client = AggregatedDiscoveryServiceClient::connect(format!("http://127.0.0.1:{port}")).await.unwrap();
        let (asks, requests) = mpsc::unbounded_channel();
        let node = Some(Node { id: id.into(), ..Node::default() });
        asks.send(DeltaDiscoveryRequest { node, type_url: CDS.into(), ..Default::default() }).unwrap();
        let answers = client.delta_aggregated_resources(UnboundedReceiverStream::new(requests)).await.unwrap();
        Self { asks, answers: answers.into_inner(), versions: BTreeMap::new(), labels: BTreeMap::new() }
    }

    fn ask(&self, type_url: &str, names: &[&str]) {
        let resource_names_subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let ask = DeltaDiscoveryRequest { type_url: type_url.into(), resource_names_subscribe, ..Default::default() };
        self.asks.send(ask).unwrap();
    }

    /// The next response, taken in and acknowledged.
    async fn hear(&mut self) -> DeltaDiscoveryResponse {
        let answer = tokio::time::timeout(support::PATIENCE, self.answers.message()).await;
        let answer = answer.expect("an answer in time").expect("no error").expect("the stream stands");
        for resource in &answer.resources {
            let key = (answer.type_url.clone(), resource.name.clone());
            self.versions.insert(key, resource.version.clone());
        }
        for name in &answer.removed_resources {
            self.versions.remove(&(answer.type_url.clone(), name.clone()));
        }
        self.labels.insert(answer.type_url.clone(), answer.system_version_info.clone());
        let (type_url, response_nonce) = (answer.type_url.clone(), answer.nonce.clone());
        self.asks.send(DeltaDiscoveryRequest { type_url, response_nonce, ..Default::default() }).unwrap();
        answer
    }

    async fn until(&mut self, type_url: &str, name: &str) {
        while !self.versions.contains_key(&(type_url.to_owned(), name.to_owned())) {
            self.hear().await;
        }
    }
}

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/files")
}

fn outpost(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_outpost")).args(args).output().expect("outpost runs")
}

fn cluster(name: &str) -> String {
    format!("\"@type\": {CDS}\nname: {name}\n")
}

async fn everything(port: u16) -> Sidecar {
    let mut sidecar = Sidecar::connect(port, "n1").await;
    sidecar.ask(LDS, &[]);
    sidecar.ask(EDS, &["hello"]);
    sidecar.ask(RDS, &["main"]);
    for (type_url, name) in [(CDS, "hello"), (LDS, "ingress"), (EDS, "hello"), (RDS, "main")] {
        sidecar.until(type_url, name).await;
    }
    sidecar
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_serve_one_directory_with_the_same_ids() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    // The same content, put into files otherwise.
    std::fs::create_dir_all(dir.path().join("copy")).unwrap();
    let mut all = String::new();
    for name in ["routes", "listeners"] {
        all += &std::fs::read_to_string(example().join(format!("{name}.yaml"))).unwrap();
        all += "\n---\n";
    }
    std::fs::write(dir.path().join("copy/all.yaml"), all).unwrap();
    std::fs::copy(example().join("clusters.yaml"), dir.path().join("copy/z.yml")).unwrap();
    [&one, &two].iter().for_each(|dir| std::fs::create_dir_all(dir).unwrap());
    let first = Outpost::of_files(&one, &example()).await;
    let second = Outpost::of_files(&two, &dir.path().join("copy")).await;
    let (a, b) = (everything(first.port).await, everything(second.port).await);
    assert_eq!(a.versions, b.versions);
    assert_eq!(a.labels, b.labels);
    assert!(a.labels[CDS].starts_with("files-"), "{:?}", a.labels);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_are_served_and_mistakes_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    // As Kubernetes mounts a ConfigMap.
    let mount = |n: usize, text: &str| {
        let real = files.join(format!("..{n}"));
        std::fs::create_dir_all(&real).unwrap();
        std::fs::write(real.join("a.yaml"), text).unwrap();
        std::os::unix::fs::symlink(format!("..{n}"), files.join("..new")).unwrap();
        std::fs::rename(files.join("..new"), files.join("..data")).unwrap();
    };
    mount(1, &cluster("c1"));
    std::os::unix::fs::symlink("..data/a.yaml", files.join("a.yaml")).unwrap();
    std::fs::create_dir_all(files.join("n2")).unwrap();
    std::fs::write(files.join("n2/own.yaml"), cluster("own")).unwrap();
    let outpost = Outpost::of_files(dir.path(), &files).await;
    let mut sidecar = Sidecar::connect(outpost.port, "n1").await;
    sidecar.until(CDS, "c1").await;
    let mut other = Sidecar::connect(outpost.port, "n2").await;
    other.until(CDS, "own").await;
    assert_eq!((sidecar.versions.len(), other.versions.len()), (1, 2));
    // A name that is not there is answered at once.
    sidecar.ask(RDS, &["absent"]);
    assert_eq!(sidecar.hear().await.removed_resources, ["absent"]);

    mount(2, &cluster("c2"));
    sidecar.until(CDS, "c2").await;
    mount(3, "\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster\nname: [c3]\n");
    let want = "a.yaml:2:7: name: expected text, found a list";
    let table = eventually("status tells of the mistake", || async {
        let table = outpost.run(&["status"])?;
        check(table.contains(want), || table.clone())?;
        Ok(table)
    })
    .await;
    assert!(table.contains("error: the files are not valid; what was read before is served"), "{table}");
    assert!(table.contains("2 resources of 2 files, read "), "{table}");
    let ready = outpost.admin("/readyz?verbose").await.unwrap();
    assert!(ready.contains("[!]files are not valid: ") && ready.ends_with("ready\n"), "{ready}");
    let shown = outpost.json("/upstreams").await.unwrap();
    assert!(shown["items"][0]["lastError"].as_str().unwrap().contains(want), "{shown}");
    let metrics = outpost.admin("/metrics").await.unwrap();
    for line in ["outpost_files_good 0", "outpost_files_loads_total{result=\"refused\"} 1"] {
        assert!(metrics.contains(line), "no {line}");
    }
    assert!(outpost.log().contains(want));

    mount(4, &cluster("c4"));
    sidecar.until(CDS, "c4").await;
    eventually("all is well again", || async {
        let ready = outpost.admin("/readyz?verbose").await?;
        check(!ready.contains("[!]"), || ready.clone())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_start_waits_not_ready_until_it_is_mended() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().join("files");
    std::fs::create_dir_all(&files).unwrap();
    std::fs::write(files.join("a.yaml"), "[}").unwrap();
    let mut outpost = Outpost::of_files_unready(dir.path(), &files);
    let status = eventually("it says why", || async {
        let answer = http::get(outpost.admin_port(), "admin", "/readyz?verbose").await?;
        check(answer.body.contains("a.yaml:1:1: this is not YAML"), || answer.body.clone())?;
        Ok(answer.status)
    })
    .await;
    assert_eq!(status, 503);
    let mut sidecar = Sidecar::connect(outpost.port, "n1").await;
    let answer = tokio::time::timeout(support::PATIENCE, sidecar.answers.message()).await;
    let refused = answer.expect("an answer in time").expect_err("nothing can be served");
    assert_eq!(refused.code(), tonic::Code::Unavailable);
    assert!(refused.message().contains("they are not valid"), "{refused}");
    std::fs::write(files.join("a.yaml"), cluster("c1")).unwrap();
    outpost.ready().await;
    Sidecar::connect(outpost.port, "n1").await.until(CDS, "c1").await;
}

#[test]
fn validate_looks_into_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let files = dir.path().to_str().unwrap();
    std::fs::write(dir.path().join("a.yaml"), cluster("a")).unwrap();
    let good = outpost(&["config", "validate", "--files", files]);
    assert_eq!(good.status.code(), Some(0), "{}", String::from_utf8_lossy(&good.stderr));
    let said = String::from_utf8_lossy(&good.stdout).into_owned();
    assert_eq!(said, format!("the configuration is valid, and so are 1 resource of 1 file in {files}\n"));
    std::fs::write(dir.path().join("b.yaml"), cluster("a")).unwrap();
    let bad = outpost(&["config", "validate", "--files", files]);
    let said = String::from_utf8_lossy(&bad.stderr).into_owned();
    assert_eq!(bad.status.code(), Some(3), "{said}");
    let want = format!("{files}/b.yaml:1:1: cds \"a\" is given twice; it is in {files}/a.yaml:1 already");
    assert!(said.contains(&want), "{said}");
}
