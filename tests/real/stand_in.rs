//! The harness itself: the stand-in control plane serves real clients without
//! Outpost between. What fails here is a fault of the tests.

use crate::Test;
use crate::support::backend::Backend;
use crate::support::control_plane::ControlPlane;
use crate::support::envoy::{Bootstrap, Envoy, Variant};
use crate::support::grpc::{Caller, Servers};
use crate::support::load::Load;
use crate::support::resources::{api_listener, assignment, cluster, listener, route};
use std::time::Instant;

pub(crate) async fn serves_envoy(test: Test, variant: Variant) {
    let (a, b) = (Backend::start("a").await, Backend::start("b").await);
    let mut control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&cluster("c1"));
        world.set(&assignment("c1", &[a.port]));
        world.set(&listener("l1", "rc1"));
        world.set(&route("rc1", "c1"));
    });
    let bootstrap = Bootstrap::new("n1", variant, control_plane.port);
    let envoy = Envoy::start(test.clients, &test.dir, "envoy", &bootstrap).await;
    let load = Load::start(envoy.listener("l1").await, "any");
    load.served_by("a", Instant::now()).await;

    let changed = control_plane.edit(|world| world.set(&assignment("c1", &[b.port])));
    let shifted = load.served_by("b", changed).await;

    control_plane.kill();
    envoy.stat_is("control_plane.connected_state", 0).await;
    control_plane.restart().await;
    envoy.stat_is("control_plane.connected_state", 1).await;
    control_plane.edit(|world| {
        world.set(&cluster("c2"));
        world.set(&assignment("c2", &[a.port]));
    });
    // The stand-in knows no order between types: the route comes when it can.
    envoy.cluster_in("dynamic_active_clusters", "c2", true).await;
    let changed = control_plane.edit(|world| world.set(&route("rc1", "c2")));
    load.served_by("a", changed).await;
    test.measured(format_args!("endpoint change took {shifted:?}; {}", load.stop().await.clean()));
}

pub(crate) async fn serves_grpc(test: Test) {
    let servers = Servers::start(test.clients, &test.dir, &["a", "b"]).await;
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&api_listener("svc", "rc"));
        world.set(&route("rc", "c1"));
        world.set(&cluster("c1"));
        world.set(&assignment("c1", &servers.ports[..1]));
    });
    let mut caller = Caller::start(test.clients, &test.dir, "svc", control_plane.port);
    caller.gets("ok a").await;
    control_plane.edit(|world| world.set(&assignment("c1", &servers.ports[1..])));
    caller.gets("ok b").await;
    test.measured(format_args!("{} calls", caller.results().len()));
}
