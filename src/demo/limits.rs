//! Enough file descriptors for every socket of the demonstration.

use super::DemoError;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// A sidecar connected directly has four: its own, two of the WAN, and the
/// control plane's.
const EACH: u64 = 4;
const OTHERS: u64 = 200;

/// Raises the soft limit as far as needed.
pub(super) fn raise(sidecars: u32) -> Result<(), DemoError> {
    let needed = u64::from(sidecars) * EACH + OTHERS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= needed) {
        return Ok(());
    }
    let limit = maximum.unwrap_or(u64::MAX);
    let raised = limit >= needed && setrlimit(Resource::Nofile, Rlimit { current: Some(needed), maximum }).is_ok();
    if raised { Ok(()) } else { Err(DemoError::Files { needed, limit }) }
}
