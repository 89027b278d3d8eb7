//! What the tests with real clients stand on.
//!
//! * [`clients`] installs Envoy and Python's gRPC once, under `target/`
//! * [`control_plane`] is an xDS server on tonic's own transport, told by a
//!   test what its [`world`] holds; it shares no code with the relay
//! * [`envoy`], [`grpc`], [`outpost`] run real processes; each is killed when
//!   dropped, and shows its log when the test failed
//! * [`backend`], [`load`] are the traffic: a number of requests a second,
//!   whatever became of those before
//!
//! Nothing sleeps to wait for something: [`eventually`] asks until a deadline.

pub mod backend;
pub mod clients;
pub mod control_plane;
pub mod envoy;
pub mod grpc;
pub mod http;
pub mod jwt;
pub mod load;
pub mod outpost;
pub mod process;
pub mod resources;
pub mod sidecar;
pub mod tls;
pub mod world;

use std::future::Future;
use std::time::Duration;
use tokio::time::Instant;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks `probe` until it answers `Ok`. Panics with its last answer after
/// [`PATIENCE`].
pub async fn eventually<T, F>(what: &str, probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    within(PATIENCE, what, probe).await
}

/// Like [`eventually`], with a limit that is itself a claim of the test.
pub async fn within<T, F>(limit: Duration, what: &str, mut probe: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(seen) if Instant::now() >= deadline => panic!("{what}: not after {limit:?}; last seen: {seen}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// `Ok(())` when `holds`, else what was seen instead: the shape of a probe.
pub fn check(holds: bool, seen: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(seen()) }
}
