//! The upstream conversation about one type: what is asked, whether it was
//! answered, and how long the upstream has been synced.

use crate::xds::{Moment, Timing};
use std::time::Duration;

/// One type's part of the group's upstream stream.
#[derive(Debug, Default)]
pub(super) struct Pulse {
    open: bool,
    /// The oldest ask that was not answered.
    asked: Option<Moment>,
    /// Something was asked since the stream opened …
    begun: bool,
    /// … and answered.
    answered: bool,
    /// How long it has been synced, all in all, not counting the present run.
    total: Duration,
    running: Option<Moment>,
    /// When it was last known to be what the upstream says.
    confirmed: Option<Moment>,
    /// How long ago that was, and when this was said: before this process.
    before: Option<(Duration, Moment)>,
}

impl Pulse {
    pub(super) fn opened(&mut self, now: Moment) {
        self.closed(now, None);
        self.open = true;
        self.running = Some(now);
    }

    /// `heard`: the last message of the stream that ends.
    pub(super) fn closed(&mut self, now: Moment, heard: Option<Moment>) {
        if self.answered && self.asked.is_none() {
            self.confirmed = heard.max(self.confirmed);
        }
        self.pause(now);
        (self.open, self.begun, self.asked, self.answered) = (false, false, None, false);
    }

    pub(super) fn asked(&mut self, now: Moment) {
        if self.open {
            self.begun = true;
            self.asked.get_or_insert(now);
        }
    }

    /// Something of the type was asked for on the stream that stands.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn answered(&mut self, now: Moment) {
        self.asked = None;
        self.answered = true;
        self.confirmed = Some(now);
        if self.open && self.running.is_none() {
            self.running = Some(now);
        }
    }

    /// Stops the count of synced time while an ask is overdue.
    pub(super) fn tick(&mut self, now: Moment, timing: &Timing) {
        if self.overdue(now, timing).is_some() {
            self.pause(now);
        } else if self.open && self.running.is_none() {
            self.running = Some(now);
        }
    }

    fn pause(&mut self, now: Moment) {
        if let Some(since) = self.running.take() {
            self.total += now.since(since);
        }
    }

    /// Since when an ask is unanswered for too long. Control planes exist that
    /// never answer for a name they do not know; so a type that was answered on this
    /// stream stops counting when the time is over after which such a name is absent.
    pub(super) fn overdue(&self, now: Moment, timing: &Timing) -> Option<Moment> {
        let asked = self.asked?;
        let waited = now.since(asked);
        let given_up = self.answered && waited >= timing.absent;
        (waited >= timing.unanswered && !given_up).then(|| asked + timing.unanswered)
    }

    /// Answered since the stream opened, and no ask unanswered for too long.
    pub(super) fn is_synced(&self, now: Moment, timing: &Timing) -> bool {
        self.open && self.answered && self.overdue(now, timing).is_none()
    }

    /// How long the upstream has been synced, all in all.
    pub(super) fn synced_for(&self, now: Moment) -> Duration {
        self.total + self.running.map_or(Duration::ZERO, |since| now.since(since))
    }

    /// When [`synced_for`](Self::synced_for) will be `span`, if it runs.
    pub(super) fn moment_of(&self, span: Duration) -> Option<Moment> {
        self.running.map(|since| since + span.saturating_sub(self.total))
    }

    pub(super) fn asked_since(&self) -> Option<Moment> {
        self.asked
    }

    /// `heard`: the last message of the stream that stands.
    pub(super) fn confirmed(&self, now: Moment, heard: Option<Moment>, timing: &Timing) -> Option<Moment> {
        if self.is_synced(now, timing) { heard.max(self.confirmed) } else { self.confirmed }
    }

    /// It was last confirmed so long ago, by another process.
    pub(super) fn recall(&mut self, now: Moment, ago: Option<Duration>) {
        self.before = ago.map(|ago| (ago, now));
    }

    /// How long ago that was.
    pub(super) fn recalled(&self, now: Moment) -> Option<Duration> {
        self.before.map(|(ago, at)| ago + now.since(at))
    }

    pub(super) fn deadline(&self, now: Moment, timing: &Timing) -> Option<Moment> {
        let asked = self.asked?;
        let given_up = self.answered.then(|| asked + timing.absent);
        [Some(asked + timing.unanswered), given_up].into_iter().flatten().find(|at| *at > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::from_start(Duration::from_millis(millis))
    }

    #[test]
    fn synced_time_stands_still_while_the_upstream_is_away() {
        let timing = Timing::default();
        let mut pulse = Pulse::default();
        pulse.opened(at(0));
        pulse.asked(at(0));
        assert!(!pulse.is_synced(at(0), &timing));
        pulse.answered(at(100));
        assert!(pulse.is_synced(at(100), &timing));
        pulse.closed(at(1000), Some(at(900)));
        assert_eq!(pulse.synced_for(at(9000)), Duration::from_secs(1));
        assert_eq!(pulse.confirmed(at(9000), None, &timing), Some(at(900)));
        pulse.opened(at(10_000));
        assert_eq!(pulse.moment_of(Duration::from_secs(3)), Some(at(12_000)));
    }

    #[test]
    fn an_ask_is_overdue_after_two_seconds_and_given_up_after_eight() {
        let timing = Timing::default();
        let mut pulse = Pulse::default();
        pulse.opened(at(0));
        pulse.asked(at(0));
        assert_eq!(pulse.deadline(at(0), &timing), Some(at(2000)));
        assert_eq!(pulse.overdue(at(2000), &timing), Some(at(2000)));
        assert_eq!(pulse.overdue(at(60_000), &timing), Some(at(2000)), "nothing was ever answered");
        pulse.answered(at(60_000));
        pulse.asked(at(60_000));
        assert!(pulse.overdue(at(62_000), &timing).is_some());
        assert!(pulse.overdue(at(68_000), &timing).is_none());
    }
}
