//! Time that all processes of one machine read alike.

use rustix::time::{ClockId, Timespec, clock_gettime};
use std::time::Duration;

/// Microseconds on the machine's monotonic clock.
pub fn micros() -> u64 {
    count(clock_gettime(ClockId::Monotonic))
}

/// Microseconds of CPU that this process has used, in user space and kernel.
pub fn cpu_micros() -> u64 {
    count(clock_gettime(ClockId::ProcessCPUTime))
}

/// Waits, where there is no runtime whose thread would be held up.
#[expect(
    clippy::disallowed_methods,
    reason = "called by the parent, which has no runtime, and by threads of their own"
)]
pub fn sleep(span: Duration) {
    std::thread::sleep(span);
}

fn count(time: Timespec) -> u64 {
    let of = |part: i64| u64::try_from(part).unwrap_or_default();
    of(time.tv_sec) * 1_000_000 + of(time.tv_nsec) / 1000
}
