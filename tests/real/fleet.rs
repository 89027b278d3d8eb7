//! Many sidecars at once.

use crate::Test;
use crate::support::control_plane::ControlPlane;
use crate::support::envoy::{Bootstrap, Envoy, Variant};
use crate::support::outpost::Outpost;
use crate::support::resources::{assignment, cluster, direct_response, listener};
use crate::support::{check, eventually, http};
use futures_util::future::join_all;
use std::time::Instant;

pub(crate) const FLEET: usize = 50;

/// Fifty Envoys, half of them by delta, start at once; all get there, and all
/// follow a change. The control plane sees `streams` for them.
pub(crate) async fn fifty_envoys(test: Test, flags: &[&str], streams: usize) {
    let control_plane = ControlPlane::start().await;
    control_plane.edit(|world| {
        world.set(&cluster("c1"));
        world.set(&assignment("c1", &[1]));
        world.set(&listener("l1", "rc1"));
        world.set(&direct_response("rc1", "one"));
    });
    let outpost = Outpost::start(&test.dir, control_plane.port, flags).await;
    let empty = outpost.resident().unwrap_or_default();

    let began = Instant::now();
    let envoys = join_all((0..FLEET).map(|number| {
        let (name, variant) = (format!("n{number}"), if number % 2 == 0 { Variant::Delta } else { Variant::Sotw });
        let (bootstrap, dir) = (Bootstrap::new(&name, variant, outpost.port), &test.dir);
        async move { Envoy::start(test.clients, dir, &name, &bootstrap).await }
    }))
    .await;
    let ports = join_all(envoys.iter().map(|envoy| envoy.listener("l1"))).await;
    all_answer(&ports, "one").await;
    let converged = began.elapsed();
    assert_eq!(control_plane.open(), streams, "streams at the control plane");

    let changed = control_plane.edit(|world| world.set(&direct_response("rc1", "two")));
    all_answer(&ports, "two").await;
    let followed = changed.elapsed();
    let each = outpost.resident().unwrap_or_default().saturating_sub(empty) / FLEET as u64 / 1024;
    // Each Envoy lists its 61 kB of extensions, here and in `presented` upstream (E7).
    assert!(each < 160, "Outpost grew by {each} KiB for each Envoy: are extensions kept for each?");
    test.measured(format_args!(
        "{FLEET} Envoys converged in {converged:?}, followed a change in {followed:?}; Outpost grew by {each} KiB for each"
    ));
}

async fn all_answer(ports: &[u16], wanted: &str) {
    let answers = ports.iter().map(|&port| async move {
        eventually("every Envoy answers by the newest route", || async {
            let answer = http::get(port, "any", "/").await?;
            check(answer.body == wanted, || format!("{answer:?}"))
        })
        .await;
    });
    join_all(answers).await;
}
