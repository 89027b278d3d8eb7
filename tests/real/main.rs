//! Real Envoys and real gRPC clients behind a real Outpost.
//!
//! Each test is a line of the table below, and prints one line of what it
//! measured. Envoy and gRPC are installed once under `target/` (see
//! tests/support/install-clients.py); `OUTPOST_REAL_CLIENTS=off` skips all of
//! this. Logs and configurations of a test stay in `target/tmp/real/NAME`.

#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

mod stand_in;

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
