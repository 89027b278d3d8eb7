//! What real Envoys do that a server must survive. The numbers are those of
//! the observations these tests were made from; each says what it is about.

use crate::Test;
use crate::mesh::Mesh;
use crate::support::backend::Backend;
use crate::support::control_plane::{Event, Record};
use crate::support::envoy::Variant;
use crate::support::resources::{assignment, cluster, invalid, late_failing, route};
use crate::support::world::World;
use outpost::proto::cluster::Cluster;
use outpost::proto::endpoint::ClusterLoadAssignment;
use std::time::{Duration, Instant};

/// E1. A cluster that fails late, beside good new ones in one response, wedges
/// Envoy: it answers neither ACK nor NACK. What a server can do: keep the
/// stream, push the next change of clusters on it (which frees Envoy), and
/// after a reconnect answer a stream that never asks for clusters.
pub(crate) async fn wedged_by_a_late_failure(test: Test, variant: Variant) {
    let mut mesh = Mesh::start(test, variant).await;
    let streams = streams(&mesh).await;
    wedge(&mesh, "bad1", "good1").await;
    mesh.move_c1(&mesh.b).await;

    // The open turn expires (C-049), and the next change goes out on the same stream.
    let changed = mesh.control_plane.edit(|world| {
        world.remove::<Cluster>("bad1");
        add(world, "good2", &mesh.b);
    });
    mesh.envoy.cluster_in("dynamic_active_clusters", "good2", true).await;
    let freed = changed.elapsed();
    assert_eq!(self::streams(&mesh).await, streams, "the stream was ended because an answer was missing");

    // Wedged again, and then a new stream: endpoints still arrive.
    mesh.envoy.cluster_in("dynamic_warming_clusters", "bad1", false).await;
    wedge(&mesh, "bad2", "good3").await;
    mesh.outpost.restart();
    mesh.connected(true).await;
    mesh.move_c1(&mesh.a).await;
    let asked = mesh.outpost.json("/clients").await.expect("/clients");
    let types = asked["items"][0]["types"].as_array().cloned().unwrap_or_default();
    let types: Vec<_> = types.iter().filter_map(|each| each["short"].as_str()).collect();
    assert!(types.contains(&"eds"), "{types:?}");
    let asked = types.join(" ");
    mesh.done(format_args!("freed {freed:?} after the next change; a new stream asked for {asked} and was served"))
        .await;
}

/// Until Envoy has applied `good`, is still warming `bad`, and has said nothing.
async fn wedge(mesh: &Mesh, bad: &str, good: &str) {
    mesh.control_plane.edit(|world| {
        world.set(&late_failing(bad));
        world.set(&assignment(bad, &[mesh.b.port]));
        add(world, good, &mesh.b);
    });
    mesh.envoy.cluster_in("dynamic_active_clusters", good, true).await;
    mesh.envoy.cluster_in("dynamic_warming_clusters", bad, true).await;
}

fn add(world: &mut World, name: &str, backend: &Backend) {
    world.set(&cluster(name));
    world.set(&assignment(name, &[backend.port]));
}

/// Streams that Envoy opened to its control plane so far.
async fn streams(mesh: &Mesh) -> u64 {
    mesh.envoy.stats().await.expect("Envoy tells its statistics").number("cluster.xds.upstream_rq_total")
}

/// E2. A refused response may have been applied in part (E1) or not at all, as
/// here. Outpost takes neither for granted: the good cluster beside the bad one
/// arrives with the next state of the world, or, by delta, on the next stream,
/// on which Envoy does not state it.
pub(crate) async fn refused_as_a_whole(test: Test, variant: Variant) {
    let mut mesh = Mesh::start(test, variant).await;
    mesh.control_plane.edit(|world| {
        world.set(&invalid("bad"));
        add(world, "good", &mesh.b);
    });
    mesh.envoy.stat_is("cluster_manager.cds.update_rejected", 1).await;
    mesh.move_c1(&mesh.b).await;
    mesh.envoy.cluster_in("dynamic_active_clusters", "good", false).await;

    mesh.control_plane.edit(|world| add(world, "bad", &mesh.b));
    mesh.envoy.cluster_in("dynamic_active_clusters", "bad", true).await;
    if variant == Variant::Delta {
        mesh.outpost.restart();
    }
    mesh.envoy.cluster_in("dynamic_active_clusters", "good", true).await;
    mesh.done("the mended cluster and the one beside it arrived").await;
}

/// E3. Envoy ACKs clusters only when they are warm, so assignments must be
/// answered before that; about one that does not exist it waits 15 s unless it
/// is told. Only delta can tell.
pub(crate) async fn absent_assignment(test: Test) {
    let mesh = Mesh::with(test, Variant::Delta, |world| world.set(&cluster("empty"))).await;
    let took = mesh.started;
    assert!(took < Duration::from_secs(5), "the start took {took:?}");
    mesh.done(format_args!("started in {took:?}")).await;
}

/// E4. A control plane without memory counts its versions from one again, so
/// other content comes under a version that Envoy knows; and Outpost itself has
/// lost its memory too.
pub(crate) async fn versions_restart(test: Test, variant: Variant) {
    let mut mesh = Mesh::start(test, variant).await;
    mesh.outpost.kill();
    mesh.control_plane.kill();
    mesh.connected(false).await;
    mesh.control_plane.edit(|world| {
        world.set(&route("rc1", "c2"));
        world.renumber();
    });
    mesh.control_plane.restart().await;
    let restarted = Instant::now();
    mesh.outpost.restart();
    let took = mesh.load.served_by("b", restarted).await;
    mesh.done(format_args!("new content under an old version after {took:?}")).await;
}

/// E5. What was deleted while Envoy was away is deleted when it is back.
pub(crate) async fn deleted_while_away(test: Test, variant: Variant) {
    let mut mesh = Mesh::start(test, variant).await;
    mesh.outpost.kill();
    mesh.connected(false).await;
    mesh.control_plane.edit(|world| {
        world.remove::<Cluster>("c2");
        world.remove::<ClusterLoadAssignment>("c2");
    });
    let restarted = Instant::now();
    mesh.outpost.restart();
    mesh.envoy.cluster_in("dynamic_active_clusters", "c2", false).await;
    mesh.done(format_args!("gone {:?} after the restart", restarted.elapsed())).await;
}

/// E6. Envoy unsubscribes an assignment while its removal is on the way.
pub(crate) async fn removal_races_unsubscription(test: Test) {
    const ROUNDS: usize = 3;
    let mesh = Mesh::start(test, Variant::Delta).await;
    let before = streams(&mesh).await;
    for _ in 0..ROUNDS {
        mesh.control_plane.edit(|world| {
            world.remove::<Cluster>("c2");
            world.remove::<ClusterLoadAssignment>("c2");
        });
        mesh.envoy.cluster_in("dynamic_active_clusters", "c2", false).await;
        mesh.control_plane.edit(|world| add(world, "c2", &mesh.b));
        mesh.envoy.cluster_in("dynamic_active_clusters", "c2", true).await;
    }
    let changed = mesh.control_plane.edit(|world| world.set(&route("rc1", "c2")));
    mesh.load.served_by("b", changed).await;
    let stats = mesh.envoy.stats().await.expect("Envoy tells its statistics");
    let refused = stats.sum(|name| name.ends_with(".update_rejected"));
    assert_eq!((refused, streams(&mesh).await), (0, before), "refused responses, streams");
    mesh.done(format_args!("{ROUNDS} rounds, nothing refused")).await;
}

/// E7. Each Envoy's first request lists 516 extensions in 61 kB. The upstream
/// is shown the node as it is. (That Outpost holds one list for all Envoys of a
/// build shows in the memory of the fleet.)
pub(crate) async fn huge_first_request(test: Test) {
    let mesh = Mesh::start(test, Variant::Delta).await;
    let bytes = |record: Record| match record.event {
        Event::Asked(asked) if asked.node_id.is_some() => Some(asked.bytes),
        _ => None,
    };
    let presented = mesh.control_plane.records().into_iter().filter_map(bytes).max().unwrap_or_default();
    assert!(presented > 50_000, "the upstream was shown a node of {presented} bytes only");
    mesh.done(format_args!("a node of {presented} bytes passed on")).await;
}
