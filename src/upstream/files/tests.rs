use super::*;
use crate::content::{Reach, Served, Store};
use crate::exchange::Member;
use crate::session::Want;
use crate::traces::{Patch, Patches, Written};
use crate::xds::{Timing, TypeUrl};
use bytes::Bytes;
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tempfile::TempDir;

struct Bench {
    dir: TempDir,
    store: Arc<Store>,
    exchange: Arc<Exchange>,
    files: Arc<Files>,
}

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

impl Bench {
    fn new(text: &str) -> Self {
        Self::reading(text, files::load)
    }

    fn reading(text: &str, load: Load) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), text).unwrap();
        let (store, clock) = (Store::new(), Clock::system());
        let exchange = Exchange::new(store.clone(), Timing::default(), clock.clone());
        tokio::spawn(exchange.clone().run());
        let mut files = Files::new(dir.path(), exchange.clone(), clock, &mut Registry::default());
        Arc::get_mut(&mut files).unwrap().load = load;
        tokio::spawn(files.clone().run());
        Self { dir, store, exchange, files }
    }

    /// As one change.
    fn write(&self, text: &str) {
        let new = self.dir.path().join(".new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.dir.path().join("a.yaml")).unwrap();
    }

    fn join(&self, key: &str) -> Member {
        self.exchange.join(GroupKey::new(key), Bytes::from_static(b"n"), Arc::new(|| ()))
    }

    fn want(&self, member: &Member, short: &str, wildcard: bool, names: &[&str]) {
        let names = self.store.names(names.iter().map(|&name| name.into()).collect());
        member.want(Want::new(of(short), wildcard, names));
    }
}

fn of(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{what}: not in time"));
}

/// Cluster, assignment, listener and route, all of one generation.
fn generation(n: usize) -> String {
    format!(
        r#"
- {{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: c{n}, type: EDS,
   eds_cluster_config: {{eds_config: {{ads: {{}}}}}}}}
- {{"@type": type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment, cluster_name: c{n}}}
- {{"@type": type.googleapis.com/envoy.config.listener.v3.Listener, name: l, stat_prefix: g{n}}}
- {{"@type": type.googleapis.com/envoy.config.route.v3.RouteConfiguration, name: r,
   virtual_hosts: [{{name: v{n}, domains: ["*"]}}]}}
"#
    )
}

fn label(served: &Served, short: &str) -> String {
    served.of(&of(short)).map(|of| of.label.to_string()).unwrap_or_default()
}

fn is_present(served: &Served, short: &str, name: &str) -> Option<bool> {
    Some(served.of(&of(short))?.tree.get(name)?.is_present())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_answers_everything_at_once() {
    let bench = Bench::new(&generation(1));
    let member = bench.join("n;node");
    bench.want(&member, "cds", true, &[]);
    bench.want(&member, "rds", false, &["r", "absent"]);
    until("the route", || is_present(&member.served(), "rds", "r") == Some(true)).await;
    let served = member.served();
    assert_eq!(is_present(&served, "rds", "absent"), Some(false), "known to be absent");
    assert!(served.of(&of("cds")).unwrap().complete);
    assert_eq!(is_present(&served, "eds", "c1"), Some(true), "held before any sidecar asks");
    assert_eq!(served.upstream, Reach::Answering);
    bench.want(&member, "lds", false, &["l"]);
    until("the listener", || is_present(&member.served(), "lds", "l") == Some(true)).await;
    bench.want(&member, "rds", false, &["other"]);
    until("an absent route", || is_present(&member.served(), "rds", "other") == Some(false)).await;
    // What was given up is answered again when it is wanted again.
    drop(member);
    let again = bench.join("n;node");
    bench.write(&generation(2));
    bench.want(&again, "rds", false, &["r"]);
    bench.want(&again, "cds", true, &[]);
    until("the new cluster", || is_present(&again.served(), "cds", "c2") == Some(true)).await;
    assert_eq!(is_present(&again.served(), "cds", "c1"), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_change_is_one_snapshot_of_all_types() {
    let bench = Bench::new(&generation(0));
    let member = bench.join("n;node");
    for short in ["cds", "lds"] {
        bench.want(&member, short, true, &[]);
    }
    bench.want(&member, "rds", false, &["r"]);
    until("the start", || is_present(&member.served(), "rds", "r") == Some(true)).await;
    let labels = |n: usize| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("a.yaml"), generation(n)).unwrap();
        let (_, loaded) = files::load(dir.path()).unwrap();
        ["cds", "eds", "lds", "rds"].map(|short| loaded.view(None).of(&of(short)).unwrap().label.to_string())
    };
    let mut known: Vec<_> = (0..4).map(labels).collect();
    // An assignment that is not wanted yet.
    known.push([known[0][0].clone(), String::new(), known[0][2].clone(), known[0][3].clone()]);
    for n in 1..4 {
        bench.write(&generation(n));
        until("the next generation", || {
            let served = member.served();
            let seen = ["cds", "eds", "lds", "rds"].map(|short| label(&served, short));
            assert!(known.contains(&seen), "a mixture: {seen:?} of {known:?}");
            seen == known[n]
        })
        .await;
        let served = member.served();
        assert_eq!(is_present(&served, "eds", &format!("c{n}")), Some(true), "{:?}", served.of(&of("eds")));
    }
}

/// A trace of a patch knows whoever wrote it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_is_traced() {
    let bench = Bench::new(&generation(1));
    let provider = SdkTracerProvider::builder().with_simple_exporter(InMemorySpanExporter::default());
    let (patches, clock) = (Patches::new(provider.build(), Clock::system()), Clock::system());
    bench.exchange.trace(patches.clone());
    let member = bench.join("n;node");
    bench.want(&member, "cds", true, &[]);
    for n in 1..3 {
        bench.write(&generation(n));
        until("the cluster", || is_present(&member.served(), "cds", &format!("c{n}")) == Some(true)).await;
        for short in ["cds", "eds"] {
            let received = member.served().of(&of(short)).unwrap().received;
            let patch = Patch { group: "n;node".into(), type_url: of(short), received };
            let written = Written { at: clock.now(), bytes: 1, prepared: (clock.now(), clock.now()) };
            assert!(patches.written(&patch, written).is_some(), "{short} {n}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_valid_changes_nothing() {
    let bench = Bench::new(&generation(1));
    let member = bench.join("n;node");
    bench.want(&member, "cds", true, &[]);
    until("the start", || is_present(&member.served(), "cds", "c1") == Some(true)).await;
    let before = member.served();
    bench.write("- {\"@type\": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: 5}");
    until("the problem is told", || bench.files.report().problem.is_some()).await;
    let (_, text) = bench.files.report().problem.unwrap();
    assert!(text.contains("a.yaml:1:72: [0].name: expected text, found a number"), "{text}");
    assert!(bench.files.is_loaded());
    assert!(before.of(&of("cds")).unwrap().tree.same(&member.served().of(&of("cds")).unwrap().tree));
    // As when a mount is lost.
    std::fs::remove_file(bench.dir.path().join("a.yaml")).unwrap();
    until("the empty directory is told", || {
        bench.files.report().problem.is_some_and(|(_, text)| text.contains("holds no file"))
    })
    .await;
    assert_eq!(is_present(&member.served(), "cds", "c1"), Some(true));
    bench.write(&generation(2));
    until("the mended files", || is_present(&member.served(), "cds", "c2") == Some(true)).await;
    assert!(bench.files.report().problem.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_start_says_why_and_mends() {
    let bench = Bench::new("[}");
    let member = bench.join("n;node");
    bench.want(&member, "cds", true, &[]);
    until(
        "the reason reaches the group",
        || matches!(&member.served().upstream, Reach::Silent { reason, .. } if reason.ends_with(": they are not valid")),
    )
    .await;
    let (_, told) = bench.files.report().problem.unwrap();
    assert!(told.contains("this is not YAML"), "{told}");
    assert!(!bench.files.is_loaded());
    bench.write(&generation(1));
    until("the mended files", || is_present(&member.served(), "cds", "c1") == Some(true)).await;
    assert_eq!(member.served().upstream, Reach::Answering);
}

#[tokio::test]
async fn a_private_group_has_what_its_group_has() {
    let bench = Bench::new(&generation(1));
    let waker: crate::exchange::Waker = Arc::new(|| ());
    let place = bench.exchange.try_place("x").unwrap();
    let (group, node) = (GroupKey::new("g;node"), Bytes::from_static(b"n"));
    let member = bench.exchange.join_private(&group, place, node.into(), None, waker);
    bench.want(&member, "cds", true, &[]);
    let has = |name: &str| {
        let served = member.served();
        served.of(&of("cds")).and_then(|of| of.tree.get(name).map(|entry| entry.is_present())).unwrap_or_default()
    };
    until("it is answered", || has("c1")).await;
    bench.write(&generation(2));
    until("a change reaches it", || has("c2")).await;
    let handle = member.group().clone();
    drop(member);
    until("it is gone", || bench.exchange.group(handle.key()).is_none()).await;
}

/// Nothing changes that a look would see.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_pass_is_tried_again() {
    static FAILED: AtomicUsize = AtomicUsize::new(0);
    let bench = Bench::reading(&generation(1), |directory| match FAILED.fetch_add(1, Relaxed) {
        0 => Err(files::Problem::passing(directory, "cannot be read (too many open files)").into()),
        _ => files::load(directory),
    });
    let member = bench.join("n;node");
    bench.want(&member, "cds", true, &[]);
    until("it is read after all", || is_present(&member.served(), "cds", "c1") == Some(true)).await;
    assert_eq!(FAILED.load(Relaxed), 2);
    assert!(bench.files.report().problem.is_none());
}

#[tokio::test]
async fn what_is_passed_on_has_an_answer() {
    let bench = Bench::new(&generation(1));
    let waker: crate::exchange::Waker = Arc::new(|| ());
    let place = bench.exchange.try_place("x").unwrap();
    let node = Bytes::from_static(b"n");
    let member = bench.exchange.join_private(&GroupKey::new("g;node"), place, node.into(), None, waker);
    member.pass(Pass { number: 1, type_url: TypeUrl::new("istio.io/debug"), names: Vec::new(), error: None });
    let mut answers = Vec::new();
    until("it is answered", || {
        answers.extend(member.take_passed());
        !answers.is_empty()
    })
    .await;
    assert!(answers[0].number == 1 && answers[0].resources.is_empty());
}
