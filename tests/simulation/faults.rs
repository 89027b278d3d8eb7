//! What went wrong, and how often: a fault that never fires proves nothing (I20).

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    SidecarLost,
    UpstreamLost,
    UpstreamRestart,
    UpstreamCut,
    SlowReader,
    OtherReplica,
    Nack,
    StaleNonce,
    InvalidResponse,
    ClockJump,
    BehindReplica,
    /// No fault: something was asked in a private group.
    PrivateGroup,
}

pub const ALL: [Fault; 12] = [
    Fault::SidecarLost,
    Fault::UpstreamLost,
    Fault::UpstreamRestart,
    Fault::UpstreamCut,
    Fault::SlowReader,
    Fault::OtherReplica,
    Fault::Nack,
    Fault::StaleNonce,
    Fault::InvalidResponse,
    Fault::ClockJump,
    Fault::BehindReplica,
    Fault::PrivateGroup,
];

#[derive(Clone, Debug, Default)]
pub struct Faults {
    counts: BTreeMap<Fault, u64>,
}

impl Faults {
    pub fn fired(&mut self, fault: Fault) {
        *self.counts.entry(fault).or_default() += 1;
    }

    pub fn count(&self, fault: Fault) -> u64 {
        self.counts.get(&fault).copied().unwrap_or_default()
    }

    pub fn add(&mut self, other: &Self) {
        for (fault, count) in &other.counts {
            *self.counts.entry(*fault).or_default() += count;
        }
    }
}
