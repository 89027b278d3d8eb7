//! Time that all processes of one machine read alike.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Microseconds on the machine's monotonic clock.
pub fn micros() -> u64 {
    count(clock_gettime(ClockId::Monotonic))
}

/// Microseconds of CPU that this process has used, in user space and kernel.
pub fn cpu_micros() -> u64 {
    count(clock_gettime(ClockId::ProcessCPUTime))
}

fn count(time: Timespec) -> u64 {
    let of = |part: i64| u64::try_from(part).unwrap_or_default();
    of(time.tv_sec) * 1_000_000 + of(time.tv_nsec) / 1000
}
