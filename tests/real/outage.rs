//! Outpost or its upstream dies and comes back: no request fails, and what did
//! not change is not touched.

use crate::Test;
use crate::mesh::Mesh;
use crate::support::envoy::{Bootstrap, Envoy, Stats, Variant};
use crate::support::load::Load;
use serde_json::Value;
use std::time::Instant;

/// So many requests go through while something is down.
const WHILE_DOWN: usize = 100;

/// SIGKILL of Outpost, and its return with nothing in memory. The sidecar's
/// configuration is the same before and after: it is answered as CONFORMANCE
/// defines quiet, and nothing of it is modified.
pub(crate) async fn outpost_killed(test: Test, variant: Variant) {
    let mut mesh = Mesh::start(test, variant).await;
    let before = Picture::of(&mesh).await;
    mesh.outpost.kill();
    mesh.connected(false).await;
    mesh.load.flows(WHILE_DOWN).await;
    let restarted = Instant::now();
    mesh.outpost.restart();
    mesh.connected(true).await;
    let back = restarted.elapsed();
    mesh.envoy
        .until("the new stream is answered", |stats| {
            let missing = ANSWERED.iter().find(|name| stats.number(name) == before.stats.number(name));
            missing.map_or(Ok(()), |name| Err(format!("{name} has not moved")))
        })
        .await;
    // A change goes through, behind whatever else the new stream was sent.
    mesh.move_c1(&mesh.b).await;
    let after = Picture::of(&mesh).await;
    after.is_quiet(&before, |name| match name {
        // Asked by name: sent once more (C-094), and then the change.
        "cluster.c1.update_success" => 2,
        _ => 1,
    });
    mesh.done(format_args!("back after {back:?}, quietly")).await;
}

/// SIGKILL of Outpost while its upstream is away: it comes back with what is on disk. The
/// sidecar's configuration stays as it is, and a sidecar that starts then gets all of it.
pub(crate) async fn both_killed(test: Test, variant: Variant) {
    let mut mesh = Mesh::keeping(test, variant).await;
    let before = Picture::of(&mesh).await;
    mesh.outpost.kill();
    mesh.control_plane.kill();
    mesh.connected(false).await;
    mesh.load.flows(WHILE_DOWN).await;
    let restarted = Instant::now();
    mesh.outpost.restart();
    mesh.connected(true).await;
    mesh.envoy
        .until("the new stream is answered", |stats| {
            let missing = ANSWERED.iter().find(|name| stats.number(name) == before.stats.number(name));
            missing.map_or(Ok(()), |name| Err(format!("{name} has not moved")))
        })
        .await;
    let back = restarted.elapsed();
    let after = Picture::of(&mesh).await;
    after.is_quiet(&before, |_| 1);
    let began = Instant::now();
    let bootstrap = Bootstrap::new("n1", variant, mesh.outpost.port);
    let another = Envoy::start(mesh.test.clients, &mesh.test.dir, "another", &bootstrap).await;
    let port = another.listener("l1").await;
    let served = began.elapsed();
    let load = Load::start(port, "any");
    load.served_by("a", began).await;
    load.stop().await.clean();
    drop(another);
    mesh.control_plane.restart().await;
    mesh.control_plane.connected(1).await;
    mesh.move_c1(&mesh.b).await;
    mesh.done(format_args!("back after {back:?} without an upstream, a new sidecar after {served:?}")).await;
}

/// The upstream dies and returns with the same content: the sidecar's stream
/// stands, and nothing at all is sent on it.
pub(crate) async fn upstream_killed(test: Test, variant: Variant) {
    let mut mesh = Mesh::start(test, variant).await;
    let before = Picture::of(&mesh).await;
    mesh.control_plane.kill();
    mesh.load.flows(WHILE_DOWN).await;
    let restarted = Instant::now();
    mesh.control_plane.restart().await;
    mesh.control_plane.connected(1).await;
    let back = restarted.elapsed();
    mesh.move_c1(&mesh.b).await;
    let after = Picture::of(&mesh).await;
    after.is_quiet(&before, |name| u64::from(name == "cluster.c1.update_success"));
    assert_eq!(after.streams, before.streams, "Envoy lost its stream with the upstream");
    mesh.done(format_args!("upstream stream back after {back:?}, not one message below")).await;
}

/// One for each answer that a new stream must get.
const ANSWERED: [&str; 5] = [
    "cluster_manager.cds.update_success",
    "listener_manager.lds.update_success",
    "http.in.rds.rc1.update_success",
    "cluster.c1.update_success",
    "cluster.c2.update_success",
];

/// Whatever moves when configuration is modified.
const MODIFIED: [&str; 10] = [
    "cluster_manager.cluster_added",
    "cluster_manager.cluster_modified",
    "cluster_manager.cluster_removed",
    "cluster_manager.update_merge_cancelled",
    "listener_manager.listener_added",
    "listener_manager.listener_modified",
    "listener_manager.listener_removed",
    "listener_manager.listener_in_place_updated",
    "http.in.rds.rc1.config_reload",
    "cluster.c2.membership_change",
];

const VERSIONS: [&str; 4] = [
    "cluster_manager.cds.version_text",
    "listener_manager.lds.version_text",
    "http.in.rds.rc1.version_text",
    "cluster.c2.version_text",
];

/// All that shows whether an Envoy was touched.
struct Picture {
    stats: Stats,
    /// When each cluster, listener and route was last updated, as Envoy dumps it.
    updated: Vec<String>,
    /// Streams that were opened so far.
    streams: u64,
}

impl Picture {
    async fn of(mesh: &Mesh) -> Self {
        let stats = mesh.envoy.stats().await.expect("Envoy tells its statistics");
        let dump = mesh.envoy.config_dump().await.expect("Envoy dumps its configuration");
        let mut updated = Vec::new();
        last_updated(&dump, &mut updated);
        let streams = stats.number("cluster.xds.upstream_rq_total");
        Self { stats, updated, streams }
    }

    /// Nothing was modified since `before`, and each type got as many
    /// responses as `allowed` says.
    fn is_quiet(&self, before: &Self, allowed: impl Fn(&str) -> u64) {
        for name in ANSWERED {
            let answers = self.stats.number(name) - before.stats.number(name);
            assert_eq!(answers, allowed(name), "{name} since the picture before");
        }
        for name in MODIFIED {
            assert_eq!(self.stats.number(name), before.stats.number(name), "{name} moved");
        }
        for name in VERSIONS {
            assert_eq!(self.stats.text(name), before.stats.text(name), "{name} changed");
        }
        assert_eq!(self.updated, before.updated, "Envoy updated some of its configuration");
    }
}

/// Each `name` with its `last_updated`, wherever they stand in the dump.
fn last_updated(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(at) = fields.get("last_updated") {
                let version = fields.get("version_info").unwrap_or(&Value::Null);
                found.push(format!("{at} {version}"));
            }
            fields.values().for_each(|field| last_updated(field, found));
        }
        Value::Array(items) => items.iter().for_each(|item| last_updated(item, found)),
        _ => {}
    }
}
