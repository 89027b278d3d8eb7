//! What a fleet of sidecars saw, added up.

use super::Terms;
use crate::bench::histogram::Histogram;
use crate::bench::mesh::Family;
use crate::bench::plan::{Change, Plan};
use serde::{Deserialize, Serialize};
use std::ops::RangeInclusive;
use std::time::Duration;

/// One change, and who has it.
#[derive(Clone, Copy, Debug)]
struct Reached {
    change: Change,
    audience: u32,
    reached: u32,
    first: u64,
    last: u64,
}

/// How many of a fleet are where. Sums of several fleets are sums of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub members: u32,
    /// Have a stream now.
    pub connected: u32,
    /// Have had everything they asked for.
    pub complete: u32,
    pub responses: u64,
    pub resources: u64,
    pub bytes: u64,
    pub acks: u64,
    pub nacks: u64,
    /// Streams that ended by themselves.
    pub lost: u64,
}

/// What came of the changes from one on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Changes that reached everybody whom they concern, and all.
    pub whole: u32,
    pub changes: u32,
    /// Members whom they concern, and those whom they reached, added up.
    pub due: u64,
    pub reached: u64,
    /// From the intended time of each, to the first and the last member (µs);
    /// where it concerns none, the most and the least there is.
    pub first: Vec<u64>,
    pub last: Vec<u64>,
    /// Buckets of the histograms: of all latencies, and of the last change's.
    pub latencies: Vec<(u32, u64)>,
    pub curve: Vec<(u32, u64)>,
}

#[derive(Debug, Default)]
pub struct Tally {
    pub counts: Counts,
    /// Without gaps, from this one on.
    first: u32,
    changes: Vec<Reached>,
    /// Members of each class that count.
    pub audience: Vec<u32>,
    latencies: Histogram,
    curve: Histogram,
    /// From a member's start until it had everything.
    pub joins: Histogram,
    pub trouble: Option<String>,
}

impl Tally {
    /// These changes will come; latencies count anew. Their numbers follow those before.
    pub fn expect(&mut self, plan: &Plan, terms: &Terms) {
        self.latencies = Histogram::default();
        self.curve = Histogram::default();
        if self.changes.is_empty() {
            self.first = plan.first;
        }
        for change in plan.changes() {
            let class = terms.concerns(&change);
            let of = |class: u32| self.audience.get(class as usize).copied().unwrap_or(0);
            let audience = class.map_or_else(|| self.audience.iter().sum(), of);
            self.changes.push(Reached { change, audience, reached: 0, first: u64::MAX, last: 0 });
        }
    }

    fn at(&self, seq: u32) -> Option<&Reached> {
        self.changes.get(seq.checked_sub(self.first)? as usize)
    }

    /// Of how many resources a change consists.
    pub fn parts(&self, seq: u32, terms: &Terms) -> u32 {
        match self.at(seq).map(|reached| reached.change) {
            Some(Change { number: None, family, .. }) => terms.shared_count(family),
            _ => 1,
        }
    }

    /// A member of this class has these changes now, as far as they are of the type.
    pub fn mark(&mut self, family: Family, seqs: RangeInclusive<u32>, class: u32, now: u64, terms: &Terms) {
        let Some(newest) = self.changes.last().map(|reached| reached.change.seq) else { return };
        for seq in (*seqs.start()).max(self.first)..=(*seqs.end()).min(newest) {
            let Some(reached) = self.changes.get_mut((seq - self.first) as usize) else { continue };
            let concerned = terms.concerns(&reached.change).is_none_or(|of| of == class);
            if reached.change.family != family || !concerned {
                continue;
            }
            let latency = now.saturating_sub(reached.change.at);
            reached.reached += 1;
            reached.first = reached.first.min(latency);
            reached.last = reached.last.max(latency);
            self.latencies.record(Duration::from_micros(latency));
            if seq == newest {
                self.curve.record(Duration::from_micros(latency));
            }
        }
    }

    /// Everybody has what concerns them of the changes up to `seq`.
    pub fn delivered(&self, seq: u32) -> bool {
        let known = self.changes.last().is_some_and(|last| last.change.seq >= seq);
        let mut until = self.changes.iter().rev().skip_while(|reached| reached.change.seq > seq);
        known && until.all(|reached| reached.reached >= reached.audience)
    }

    pub fn outcome(&self, from: u32) -> Outcome {
        let changes = self.changes.get(from.saturating_sub(self.first) as usize..).unwrap_or_default();
        let mut outcome = Outcome { changes: changes.len() as u32, ..Outcome::default() };
        for change in changes {
            outcome.due += u64::from(change.audience);
            outcome.reached += u64::from(change.reached);
            outcome.whole += u32::from(change.reached >= change.audience);
            outcome.first.push(change.first);
            outcome.last.push(change.last);
        }
        outcome.latencies = self.latencies.buckets();
        outcome.curve = self.curve.buckets();
        outcome
    }
}

impl Outcome {
    /// What several fleets saw of the same changes.
    pub fn join(outcomes: impl IntoIterator<Item = Self>) -> Self {
        let mut all: Option<Self> = None;
        for one in outcomes {
            let Some(sum) = &mut all else {
                all = Some(one);
                continue;
            };
            sum.whole = sum.whole.min(one.whole);
            sum.due += one.due;
            sum.reached += one.reached;
            sum.first.iter_mut().zip(one.first).for_each(|(sum, one)| *sum = one.min(*sum));
            sum.last.iter_mut().zip(one.last).for_each(|(sum, one)| *sum = one.max(*sum));
            sum.latencies.extend(one.latencies);
            sum.curve.extend(one.curve);
        }
        all.unwrap_or_default()
    }

    pub fn latencies(&self) -> Histogram {
        Histogram::of(&self.latencies)
    }
}

impl Counts {
    pub fn join(counts: impl IntoIterator<Item = Self>) -> Self {
        counts.into_iter().fold(Self::default(), |a, b| Self {
            members: a.members + b.members,
            connected: a.connected + b.connected,
            complete: a.complete + b.complete,
            responses: a.responses + b.responses,
            resources: a.resources + b.resources,
            bytes: a.bytes + b.bytes,
            acks: a.acks + b.acks,
            nacks: a.nacks + b.nacks,
            lost: a.lost + b.lost,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::fleet::{Asks, SerialVariant};
    use crate::bench::plan::Pattern;

    fn terms() -> Terms {
        Terms {
            variant: SerialVariant::Delta,
            asks: Asks::Clusters,
            shape: None,
            classes: 1,
            apply: 0,
            nack_percent: 0,
            slow_percent: 0,
            keep: false,
            raw: false,
            node_bytes: 0,
            names: None,
        }
    }

    /// Two members, and four changes due at 1000, 2000, … µs, numbered from `first` on.
    fn tally(first: u32) -> Tally {
        let mut tally = Tally { audience: vec![2], ..Tally::default() };
        let pattern = Pattern::Single { family: Family::Cluster, number: None, below: 5, every: 1000, count: 4 };
        tally.expect(&Plan { seed: 1, first, begin: 1000, pattern }, &terms());
        tally
    }

    #[test]
    fn a_change_that_was_skipped_counts_until_the_one_that_came() {
        for first in [1, 50] {
            let mut tally = tally(first);
            tally.mark(Family::Cluster, first..=first + 3, 0, 5000, &terms());
            assert!(!tally.delivered(first));
            tally.mark(Family::Cluster, first..=first, 0, 1500, &terms());
            assert!(tally.delivered(first) && !tally.delivered(first + 1));
            tally.mark(Family::Endpoint, first + 1..=first + 3, 0, 6000, &terms());
            assert!(!tally.delivered(first + 3), "that is another type");
            tally.mark(Family::Cluster, first + 1..=first + 3, 0, 6000, &terms());
            assert!(tally.delivered(first + 3) && !tally.delivered(first + 4));
            let outcome = tally.outcome(first);
            assert_eq!((outcome.whole, outcome.changes, outcome.due, outcome.reached), (4, 4, 8, 8));
            assert_eq!((outcome.first, outcome.last), (vec![500, 3000, 2000, 1000], vec![4000, 4000, 3000, 2000]));
            assert_eq!(tally.outcome(first + 2).changes, 2);
        }
    }

    #[test]
    fn fleets_are_added_up() {
        let mut one = tally(1);
        one.mark(Family::Cluster, 1..=4, 0, 9000, &terms());
        one.mark(Family::Cluster, 1..=4, 0, 9500, &terms());
        let both = Outcome::join([one.outcome(1), tally(1).outcome(1), Outcome::default()]);
        assert_eq!((both.whole, both.due, both.reached), (0, 16, 8));
        assert_eq!(both.last, [8500, 7500, 6500, 5500]);
        assert_eq!(both.latencies().count(), 8);
    }
}
