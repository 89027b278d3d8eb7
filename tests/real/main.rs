//! Real Envoys and real gRPC clients behind a real Outpost.
//!
//! Each test is a line of the table below, and prints one line of what it
//! measured. Envoy and gRPC are installed once under `target/` (see
//! tests/support/install-clients.py); `OUTPOST_REAL_CLIENTS=off` skips all of
//! this. Logs and configurations of a test stay in `target/tmp/real/NAME`.

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

mod features;
mod files;
mod fleet;
mod identity;
mod mesh;
mod outage;
mod proxyless;
mod quirks;
mod stand_in;
mod status;
mod subset;
mod traffic;

use std::fmt::Display;
use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::sync::Once;
use support::clients::{self, Clients};
use support::envoy::Variant::{Delta, Sotw};
use tokio::sync::Semaphore;

/// How many tests run at once: each has processes of its own.
const AT_ONCE: u32 = 2;
static ROOM: Semaphore = Semaphore::const_new(AT_ONCE as usize);

/// `PARALLEL name => the test;` where PARALLEL is how much of [`ROOM`] it takes.
macro_rules! real_tests {
    ($($room:literal $name:ident => $test:path $(, $argument:expr)*;)*) => {
        const COUNT: usize = [$(stringify!($name)),*].len();
        $(
            #[test]
            fn $name() {
                run(stringify!($name), $room, |test| $test(test $(, $argument)*));
            }
        )*
    };
}

real_tests! {
    1 stand_in_delta => stand_in::serves_envoy, Delta;
    1 stand_in_sotw => stand_in::serves_envoy, Sotw;
    1 stand_in_grpc => stand_in::serves_grpc;

    1 protobuf_subset => subset::agrees;

    1 endpoint_change_delta => traffic::endpoint_change, Delta;
    1 endpoint_change_sotw => traffic::endpoint_change, Sotw;
    1 route_change_delta => traffic::route_change, Delta;
    1 route_change_sotw => traffic::route_change, Sotw;
    1 cluster_removal_delta => traffic::cluster_removal, Delta;
    1 cluster_removal_sotw => traffic::cluster_removal, Sotw;
    1 sotw_upstream_delta => traffic::sotw_upstream, Delta;
    1 sotw_upstream_sotw => traffic::sotw_upstream, Sotw;
    1 rejected_cluster_delta => traffic::rejected_cluster, Delta;
    1 rejected_cluster_sotw => traffic::rejected_cluster, Sotw;

    1 files_delta => files::serves_envoy, Delta;
    1 files_sotw => files::serves_envoy, Sotw;

    1 outpost_killed_delta => outage::outpost_killed, Delta;
    1 outpost_killed_sotw => outage::outpost_killed, Sotw;
    1 both_killed_delta => outage::both_killed, Delta;
    1 both_killed_sotw => outage::both_killed, Sotw;
    1 upstream_killed_delta => outage::upstream_killed, Delta;
    1 upstream_killed_sotw => outage::upstream_killed, Sotw;

    1 secret_rotation_delta => features::secret_rotation, Delta;
    1 secret_rotation_sotw => features::secret_rotation, Sotw;
    1 extension_config_delta => features::extension_config, Delta;
    1 extension_config_sotw => features::extension_config, Sotw;
    1 runtime_layer_delta => features::runtime_layer, Delta;
    1 runtime_layer_sotw => features::runtime_layer, Sotw;

    1 e1_wedged_by_a_late_failure_delta => quirks::wedged_by_a_late_failure, Delta;
    1 e1_wedged_by_a_late_failure_sotw => quirks::wedged_by_a_late_failure, Sotw;
    1 e2_refused_as_a_whole_delta => quirks::refused_as_a_whole, Delta;
    1 e2_refused_as_a_whole_sotw => quirks::refused_as_a_whole, Sotw;
    1 e3_absent_assignment => quirks::absent_assignment;
    1 e4_versions_restart_delta => quirks::versions_restart, Delta;
    1 e4_versions_restart_sotw => quirks::versions_restart, Sotw;
    1 e5_deleted_while_away_delta => quirks::deleted_while_away, Delta;
    1 e5_deleted_while_away_sotw => quirks::deleted_while_away, Sotw;
    1 e6_removal_races_unsubscription => quirks::removal_races_unsubscription;
    1 e7_huge_first_request => quirks::huge_first_request;
    1 v1_virtual_host_on_demand => features::virtual_host_on_demand;

    1 client_status_delta => status::client_status, Delta;
    1 client_status_sotw => status::client_status, Sotw;
    1 client_status_by_identity => status::client_status_by_identity;
    1 bootstrap_delta => status::bootstrap, Delta, false;
    1 bootstrap_sotw => status::bootstrap, Sotw, false;
    1 bootstrap_delta_tls => status::bootstrap, Delta, true;
    1 bootstrap_sotw_tls => status::bootstrap, Sotw, true;
    1 identity_delta => identity::who_is_served, Delta;
    1 identity_sotw => identity::who_is_served, Sotw;

    1 grpc_follows => proxyless::follows;
    1 g1_message_limit => proxyless::message_limit;
    1 g4_deleted_listener => proxyless::deleted_listener;

    2 fifty_envoys => fleet::fifty_envoys, &[], fleet::FLEET;
    2 fifty_envoys_in_one_group => fleet::fifty_envoys, &["--group", "{cluster}"], 1;
}

/// What a test is given.
struct Test {
    name: &'static str,
    clients: &'static Clients,
    /// A directory of its own.
    dir: PathBuf,
}

impl Test {
    /// Prints the one line, past the harness that swallows what tests print.
    fn measured(&self, line: impl Display) {
        say(format_args!("real/{}: {line}", self.name));
    }
}

fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

fn run<F: Future<Output = ()>>(name: &'static str, room: u32, test: impl FnOnce(Test) -> F) {
    if clients::switched_off() {
        static TOLD: Once = Once::new();
        TOLD.call_once(|| say(format_args!("{COUNT} tests with real clients are skipped: OUTPOST_REAL_CLIENTS=off")));
        return;
    }
    let clients = clients::installed().unwrap_or_else(|missing| panic!("{missing}"));
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("real").join(name);
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).expect("make the test's directory");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime for the test");
    runtime.block_on(async {
        let _permit = ROOM.acquire_many(room).await.expect("the semaphore is never closed");
        test(Test { name, clients, dir }).await;
    });
}
