//! What changes when: the load of a run, made before it begins.
//!
//! A [`Plan`] is a few numbers; the control plane, which makes the changes, and
//! the swarm, which waits for them, work out the same [`Change`]s from it. A
//! change has its intended time, whether or not anybody is in time for it.

use super::mesh::Family;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// The changes of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    pub seed: u64,
    /// The number of its first change; each of a source's changes has its own.
    pub first: u32,
    /// Microseconds on the machine's monotonic clock.
    pub begin: u64,
    pub pattern: Pattern,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pattern {
    /// `count` changes of one resource each, `every` µs apart: of `number`, or of
    /// some resource below `below`.
    Single { family: Family, number: Option<u32>, below: u32, every: u64, count: u32 },
    /// `bursts` times, `every` µs apart, `size` such changes within `within` µs.
    Burst { family: Family, below: u32, within: u64, size: u32, every: u64, bursts: u32 },
    /// All resources of both these types at once, `count` times: twice as many changes.
    Whole { every: u64, count: u32 },
}

/// One change of one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    pub seq: u32,
    /// When it is due, on the machine's monotonic clock.
    pub at: u64,
    pub family: Family,
    /// Which resource; `None`: all of the type.
    pub number: Option<u32>,
}

impl Plan {
    pub fn changes(&self) -> Vec<Change> {
        let mut random = StdRng::seed_from_u64(self.seed ^ u64::from(self.first) << 32);
        let mut changes = Vec::new();
        let mut push = |at: u64, family, number| {
            let seq = self.first + changes.len() as u32;
            changes.push(Change { seq, at: self.begin + at, family, number });
        };
        match self.pattern {
            Pattern::Single { family, number, below, every, count } => {
                for turn in 0..u64::from(count) {
                    let drawn = random.random_range(0..below.max(1));
                    push(turn * every, family, Some(number.unwrap_or(drawn)));
                }
            }
            Pattern::Burst { family, below, within, size, every, bursts } => {
                for burst in 0..u64::from(bursts) {
                    for turn in 0..u64::from(size) {
                        let drawn = random.random_range(0..below.max(1));
                        push(burst * every + turn * within / u64::from(size.max(1)), family, Some(drawn));
                    }
                }
            }
            Pattern::Whole { every, count } => {
                for turn in 0..u64::from(count) {
                    push(turn * every, Family::Cluster, None);
                    push(turn * every, Family::Endpoint, None);
                }
            }
        }
        changes
    }

    /// How many changes there are.
    pub fn len(&self) -> u32 {
        match self.pattern {
            Pattern::Single { count, .. } => count,
            Pattern::Burst { size, bursts, .. } => size * bursts,
            Pattern::Whole { count, .. } => count * 2,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the last change.
    pub fn last(&self) -> u32 {
        self.first + self.len().saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64, pattern: Pattern) -> Plan {
        Plan { seed, first: 7, begin: 1_000_000, pattern }
    }

    fn single(number: Option<u32>) -> Pattern {
        Pattern::Single { family: Family::Endpoint, number, below: 100, every: 500, count: 20 }
    }

    #[test]
    fn the_same_seed_gives_the_same_changes_and_another_gives_others() {
        assert_eq!(plan(1, single(None)).changes(), plan(1, single(None)).changes());
        assert_ne!(plan(1, single(None)).changes(), plan(2, single(None)).changes());
    }

    #[test]
    fn changes_are_numbered_and_due_in_order() {
        let burst = Pattern::Burst { family: Family::Endpoint, below: 9, within: 100, size: 5, every: 1000, bursts: 3 };
        for pattern in [single(Some(3)), single(None), burst, Pattern::Whole { every: 10, count: 4 }] {
            let plan = plan(1, pattern);
            let changes = plan.changes();
            assert_eq!(changes.len() as u32, plan.len());
            assert_eq!(changes.last().map(|change| change.seq), Some(plan.last()));
            assert!(changes.is_sorted_by_key(|change| change.at));
            assert!(changes.iter().map(|change| change.seq).eq(plan.first..=plan.last()));
        }
        let burst = &plan(1, single(Some(3))).changes()[1];
        assert_eq!((burst.seq, burst.at, burst.number), (8, 1_000_500, Some(3)));
    }
}
