//! gRPC clients that take their configuration from the stream themselves
//! (Python; state of the world only).

use crate::Test;
use crate::support::control_plane::ControlPlane;
use crate::support::grpc::{Caller, Servers};
use crate::support::outpost::Outpost;
use crate::support::resources::{api_listener, assignment, cluster, padded, padded_assignment, route, weighted_route};
use outpost::proto::listener::Listener;
use std::time::Instant;

struct Set {
    test: Test,
    servers: Servers,
    control_plane: ControlPlane,
    outpost: Outpost,
    caller: Caller,
}

impl Set {
    /// `xds:///svc` leads to `c1`, served by `a`; `c2` is served by `b`.
    async fn start(test: Test) -> Self {
        let servers = Servers::start(test.clients, &test.dir, &["a", "b"]).await;
        let control_plane = ControlPlane::start().await;
        control_plane.edit(|world| {
            world.set(&api_listener("svc", "rc"));
            world.set(&route("rc", "c1"));
            for (name, port) in [("c1", servers.ports[0]), ("c2", servers.ports[1])] {
                world.set(&cluster(name));
                world.set(&assignment(name, &[port]));
            }
        });
        let outpost = Outpost::start(&test.dir, control_plane.port, &[]).await;
        let mut caller = Caller::start(test.clients, &test.dir, "svc", outpost.port);
        caller.gets("ok a").await;
        Self { test, servers, control_plane, outpost, caller }
    }

    /// Not one call failed.
    fn clean(&self) -> String {
        let results = self.caller.results();
        let failed: Vec<_> = results.iter().filter(|result| !result.starts_with("ok ")).collect();
        assert!(failed.is_empty(), "{} of {} calls failed: {:?}", failed.len(), results.len(), failed.first());
        format!("{} calls, 0 failed", results.len())
    }
}

/// Endpoints, routes, and the death of Outpost: no call fails.
pub(crate) async fn follows(test: Test) {
    let mut set = Set::start(test).await;
    set.control_plane.edit(|world| world.set(&assignment("c1", &set.servers.ports[1..])));
    set.caller.gets("ok b").await;
    set.control_plane.edit(|world| world.set(&assignment("c1", &set.servers.ports[..1])));
    set.caller.gets("ok a").await;
    set.control_plane.edit(|world| world.set(&route("rc", "c2")));
    set.caller.gets("ok b").await;
    set.outpost.kill();
    set.caller.gets("ok b").await;
    let restarted = Instant::now();
    set.outpost.restart();
    set.control_plane.edit(|world| world.set(&assignment("c2", &set.servers.ports[..1])));
    set.caller.gets("ok a").await;
    let back = restarted.elapsed();
    set.test.measured(format_args!("back after {back:?}; {}", set.clean()));
}

/// G1. gRPC takes no message above 4 MiB; it ends the stream and comes back in
/// a loop. Assignments are therefore split over responses; one resource that is
/// too large by itself is sent as it is, and hurts nobody else.
pub(crate) async fn message_limit(test: Test) {
    const LARGE: usize = 2_500_000;
    let mut set = Set::start(test).await;
    // Two assignments, together above the limit. The client leaves `c1` when it
    // has all that the new route needs.
    set.control_plane.edit(|world| {
        for name in ["c2", "c3"] {
            world.set(&cluster(name));
            world.set(&padded_assignment(name, set.servers.ports[1], LARGE));
        }
        world.set(&weighted_route("rc", &["c2", "c3"]));
    });
    set.caller.gets("ok b").await;

    // One route that is too large: the client cannot take it, Outpost stands.
    set.control_plane.edit(|world| world.set(&padded(route("rc", "c1"), 2 * LARGE)));
    set.caller.gets("ok b").await;
    set.outpost.alive().expect("Outpost stands");
    set.control_plane.edit(|world| world.set(&route("rc", "c1")));
    set.caller.gets("ok a").await;
    set.test.measured(set.clean());
}

/// G4. By state of the world a deletion is only visible by absence: the answer
/// without the listener must be sent, although it is empty.
pub(crate) async fn deleted_listener(test: Test) {
    let mut set = Set::start(test).await;
    let changed = set.control_plane.edit(|world| world.remove::<Listener>("svc"));
    set.caller.gets("failed UNAVAILABLE").await;
    let seen = changed.elapsed();
    let changed = set.control_plane.edit(|world| world.set(&api_listener("svc", "rc")));
    set.caller.gets("ok a").await;
    set.test.measured(format_args!("deletion seen in {seen:?}, return in {:?}", changed.elapsed()));
}
