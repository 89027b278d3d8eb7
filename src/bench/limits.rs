//! Descriptors and ports: enough for a run, or an error before it begins.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Of a process, beside those of its sidecars.
pub const OTHERS: u64 = 200;
/// Connections from one address to one other: the smallest range that systems
/// leave for outgoing ones is larger.
pub const PORTS: u64 = 25_000;

#[derive(Debug, thiserror::Error)]
pub enum LimitError {
    #[error(
        "{what} needs {needed} open files in one process, and the hard limit is {limit}: raise it (`ulimit -Hn {needed}`, as root), or run fewer --sidecars"
    )]
    Files { what: &'static str, needed: u64, limit: u64 },
}

/// How many files a process may have open at most.
pub fn hard() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// This process, and those it starts, may open as many files as the system lets them.
pub fn raise() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    }
}

/// `sockets` of one process fit, or an error says for `what` they do not.
pub fn check(what: &'static str, sockets: u64) -> Result<(), LimitError> {
    check_within(what, sockets, hard())
}

fn check_within(what: &'static str, sockets: u64, limit: u64) -> Result<(), LimitError> {
    let needed = sockets + OTHERS;
    if needed <= limit { Ok(()) } else { Err(LimitError::Files { what, needed, limit }) }
}

/// Sizes of the processes that hold so many sidecars together, which are so many
/// at least.
pub fn swarms(sidecars: u32, least: u32) -> Vec<u32> {
    swarms_within(sidecars, least, hard().saturating_sub(OTHERS).min(PORTS))
}

/// WAN emulators that so many connections need, of two sockets each.
pub fn wans(connections: u32) -> u32 {
    processes(connections, hard().saturating_sub(OTHERS) / 2)
}

fn processes(connections: u32, most: u64) -> u32 {
    let most = u32::try_from(most.clamp(1, u64::from(u32::MAX))).unwrap_or(u32::MAX);
    connections.div_ceil(most).max(1)
}

fn swarms_within(sidecars: u32, least: u32, most: u64) -> Vec<u32> {
    let processes = processes(sidecars, most).max(least);
    (0..processes).map(|at| (sidecars + processes - 1 - at) / processes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_are_spread_over_as_few_processes_as_hold_them() {
        assert_eq!(swarms_within(10_000, 1, 19_800), [10_000]);
        assert_eq!(swarms_within(10_000, 2, 19_800), [5000, 5000]);
        assert_eq!(swarms_within(30_000, 1, 19_800), [15_000, 15_000]);
        assert_eq!(swarms_within(7, 1, 3), [3, 2, 2]);
        assert_eq!(swarms_within(0, 0, 3), [0]);
        assert_eq!((processes(9900, 9900), processes(9901, 9900), processes(0, 9900)), (1, 2, 1));
    }

    #[test]
    fn what_does_not_fit_is_told_before() {
        assert!(check_within("the relay", 19_800, 20_000).is_ok());
        let error = check_within("the relay", 19_801, 20_000).unwrap_err().to_string();
        assert!(error.contains("20001") && error.contains("20000") && error.contains("--sidecars"), "{error}");
    }
}
