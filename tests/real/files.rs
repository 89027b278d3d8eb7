//! Envoy behind an Outpost that has no control plane: a directory of files,
//! the one that README walks through.

use crate::Test;
use crate::support::backend::Backend;
use crate::support::envoy::{Bootstrap, Envoy, Variant};
use crate::support::load::Load;
use crate::support::outpost::Outpost;
use crate::support::{check, eventually};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A copy of the example with ports that are free.
fn copy(dir: &Path, port: u16) -> PathBuf {
    let files = dir.join("files");
    std::fs::create_dir_all(&files).expect("a directory for the files");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/files");
    for name in ["clusters.yaml", "listeners.yaml", "routes.yaml"] {
        let text = std::fs::read_to_string(example.join(name)).expect("the example");
        let text = text.replace("port_value: 10000", "port_value: 0");
        write(&files, name, &text.replace("port_value: 9001", &format!("port_value: {port}")));
    }
    files
}

/// As one change.
fn write(files: &Path, name: &str, text: &str) {
    let new = files.join(format!(".{name}"));
    std::fs::write(&new, text).expect("write a file");
    std::fs::rename(new, files.join(name)).expect("move a file into its place");
}

/// Traffic flows, a changed file shifts it, and one that is not valid changes nothing.
pub(crate) async fn serves_envoy(test: Test, variant: Variant) {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let files = copy(&test.dir, a.port);
    let outpost = Outpost::of_files(&test.dir, &files).await;
    let bootstrap = Bootstrap::new("n1", variant, outpost.port);
    let mut envoy = Envoy::start(test.clients, &test.dir, "envoy", &bootstrap).await;
    let load = Load::start(envoy.listener("ingress").await, "any");
    load.served_by("a", Instant::now()).await;

    let clusters = std::fs::read_to_string(files.join("clusters.yaml")).expect("the clusters");
    let moved = clusters.replace(&a.port.to_string(), &b.port.to_string());
    write(&files, "clusters.yaml", &moved);
    let took = load.served_by("b", Instant::now()).await;

    write(&files, "clusters.yaml", &clusters.replace("type: EDS", "type: ESD"));
    eventually("the mistake is told", || async {
        let table = outpost.run(&["status"])?;
        check(table.contains("clusters.yaml:6:11: resources[0].type: expected one of"), || table.clone())
    })
    .await;
    load.flows(200).await;
    load.served_by("b", Instant::now()).await;

    // A whole cluster more, and the route to it once Envoy has warmed it: xDS orders what is
    // sent, and an Envoy that is told both at once may route before it is ready.
    let other = moved.replace("hello", "other").replace(&b.port.to_string(), &a.port.to_string());
    let (_, other) = other.split_once("resources:\n").expect("a list");
    write(&files, "clusters.yaml", &format!("{moved}{other}"));
    envoy.stat_is("cluster.other.membership_total", 1).await;
    let routes = std::fs::read_to_string(files.join("routes.yaml")).expect("the routes");
    write(&files, "routes.yaml", &routes.replace("hello", "other"));
    load.served_by("a", Instant::now()).await;

    let report = load.stop().await.clean();
    envoy.alive().expect("Envoy is alive at the end");
    test.measured(format_args!("endpoints moved in {took:?}; {report}"));
}
