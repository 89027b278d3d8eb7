//! What changes at the control plane changes at the sidecar, while requests go
//! through it and none fails.

use crate::Test;
use crate::mesh::Mesh;
use crate::support::control_plane::ControlPlane;
use crate::support::envoy::Variant;
use crate::support::eventually;
use crate::support::resources::{assignment, cluster, late_failing, route};
use crate::support::world::Named;
use outpost::proto::cluster::Cluster;
use outpost::proto::endpoint::ClusterLoadAssignment;

pub(crate) async fn endpoint_change(test: Test, variant: Variant) {
    let mesh = Mesh::start(test, variant).await;
    let there = mesh.move_c1(&mesh.b).await;
    let back = mesh.move_c1(&mesh.a).await;
    mesh.done(format_args!("endpoints moved in {there:?} and back in {back:?}")).await;
}

pub(crate) async fn route_change(test: Test, variant: Variant) {
    let mesh = Mesh::start(test, variant).await;
    let changed = mesh.control_plane.edit(|world| world.set(&route("rc1", "c2")));
    let took = mesh.load.served_by("b", changed).await;
    mesh.done(format_args!("route changed in {took:?}")).await;
}

/// In the order of a real push: the cluster goes before the route that used
/// it, 100 ms apart, and no request may fall between.
pub(crate) async fn cluster_removal(test: Test, variant: Variant) {
    let mesh = Mesh::start(test, variant).await;
    mesh.control_plane.edit(|world| world.remove::<Cluster>("c1"));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    let changed = mesh.control_plane.edit(|world| {
        world.set(&route("rc1", "c2"));
        world.remove::<ClusterLoadAssignment>("c1");
    });
    mesh.load.served_by("b", changed).await;
    mesh.envoy.cluster_in("dynamic_active_clusters", "c1", false).await;
    let took = changed.elapsed();
    mesh.done(format_args!("cluster gone {took:?} after its last route")).await;
}

/// Behind a control plane that does not know delta: Outpost notices, and what
/// came as state of the world reaches either kind of sidecar.
pub(crate) async fn sotw_upstream(test: Test, variant: Variant) {
    let control_plane = ControlPlane::start().await;
    control_plane.speak_sotw_only();
    let mesh = Mesh::behind(test, variant, control_plane, |_| ()).await;
    let moved = mesh.move_c1(&mesh.b).await;
    mesh.move_c1(&mesh.a).await;
    let changed = mesh.control_plane.edit(|world| world.set(&route("rc1", "c2")));
    mesh.load.served_by("b", changed).await;
    let changed = mesh.control_plane.edit(|world| world.remove::<Cluster>("c1"));
    mesh.envoy.cluster_in("dynamic_active_clusters", "c1", false).await;
    let removed = changed.elapsed();
    mesh.done(format_args!("endpoints moved in {moved:?}, cluster removed in {removed:?}")).await;
}

/// A cluster that Envoy refuses: shown, not sent again, in the way of nothing,
/// and accepted once it is mended.
pub(crate) async fn rejected_cluster(test: Test, variant: Variant) {
    let mesh = Mesh::start(test, variant).await;
    mesh.control_plane.edit(|world| world.set(&late_failing("bad")));
    mesh.envoy.stat_is("cluster_manager.cds.update_rejected", 1).await;

    let shown = eventually("`outpost status` shows the rejection", || async {
        let table = mesh.outpost.run(&["status"])?;
        let row = table.lines().find(|line| line.contains("cds REJECTED") && line.contains("bad"));
        row.map(str::to_owned).ok_or(table.clone())
    })
    .await;

    let attempts = updates(&mesh, "cluster_manager.cds").await;
    mesh.move_c1(&mesh.b).await;
    mesh.move_c1(&mesh.a).await;
    assert_eq!(updates(&mesh, "cluster_manager.cds").await, attempts, "the rejected clusters were sent again");
    assert_eq!(nacks::<Cluster>(&mesh), 0, "one sidecar's rejection went upstream");

    mesh.control_plane.edit(|world| world.set(&cluster("bad")));
    mesh.control_plane.edit(|world| world.set(&assignment("bad", &[mesh.b.port])));
    mesh.envoy.cluster_in("dynamic_active_clusters", "bad", true).await;
    mesh.done(format_args!("shown as {:?}", shown.split_whitespace().collect::<Vec<_>>().join(" "))).await;
}

fn nacks<M: Named>(mesh: &Mesh) -> usize {
    mesh.control_plane.asked(&M::type_url()).iter().filter(|(_, ask)| ask.error.is_some()).count()
}

/// How many responses of a kind Envoy took or refused so far.
async fn updates(mesh: &Mesh, prefix: &str) -> u64 {
    let stats = mesh.envoy.stats().await.expect("Envoy tells its statistics");
    ["update_success", "update_rejected", "update_failure"]
        .iter()
        .map(|result| stats.number(&format!("{prefix}.{result}")))
        .sum()
}
