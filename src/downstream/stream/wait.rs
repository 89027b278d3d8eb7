//! What a stream waits for.

use super::{Stream, breaks};
use crate::exchange::Place;
use crate::transport::stream::RecvError;
use crate::xds::Moment;
use crate::xds::time::earliest;
use bytes::Bytes;
use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

/// What comes first.
pub(super) enum Event {
    Message(Option<Result<Bytes, RecvError>>),
    Flushed(Result<(), h2::Error>),
    /// The group serves something else.
    Woken,
    /// There is a place for a private group.
    Place(Option<Place>),
    /// Some deadline passed.
    Time,
    /// The connection is to end.
    Ending,
}

/// After a few alarms in a row the next is not at once: a deadline that nothing
/// comes of must not cost a processor.
const ALARMS: u32 = 3;
const SNOOZE: Duration = Duration::from_millis(10);

impl Stream<'_> {
    pub(super) async fn next(&mut self) -> Event {
        let deadline = self.deadline();
        if self.alarm.set(deadline) {
            self.aside.renew();
        }
        poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Messages come last: a peer may have one ready at any time, and the rest is not to
    /// wait for that.
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let open = self.closing.is_none();
        let (own, ends, alarm) = (&mut self.own, &mut self.ends, &mut self.alarm);
        let seldom = self.aside.poll(cx, |cx| {
            if open && let Poll::Ready(place) = own.poll_place(cx) {
                return Poll::Ready(Event::Place(place));
            }
            if open && ends.poll_announced(cx).is_ready() {
                return Poll::Ready(Event::Ending);
            }
            alarm.poll(cx).map(|()| Event::Time)
        });
        if seldom.is_ready() {
            return seldom;
        }
        let unsent = self.sender.waiting() > 0;
        if unsent {
            let (client, clock) = (&self.listed.client, &self.shared.parts.clock);
            if let Poll::Ready(flushed) = self.pace.poll_flush(cx, &mut self.sender, client, clock) {
                return Poll::Ready(Event::Flushed(flushed));
            }
        }
        if !open {
            return Poll::Pending;
        }
        if self.wake.poll_rung(cx).is_ready() {
            return Poll::Ready(Event::Woken);
        }
        let deaf = breaks::on("C-144") && unsent;
        if deaf { Poll::Pending } else { self.messages.poll_next(cx).map(Event::Message) }
    }

    fn deadline(&mut self) -> Option<Moment> {
        let now = self.now();
        let stall = (self.sender.waiting() > 0).then(|| self.pace.stalls_at(self.policy.session.timing.send_stall));
        if self.closing.is_some() {
            return stall;
        }
        // What waits to be sent is sent first: the session has nothing to do before.
        let session = if self.sender.waiting() > 0 { None } else { self.listed.client.session().deadline() };
        let snooze = (self.alarms > ALARMS).then(|| now + SNOOZE);
        let session = session.map(|deadline| snooze.map_or(deadline, |least| deadline.max(least)));
        let request = self.pace.request_due(&self.messages, self.shared.settings.request_timeout, now);
        [stall, session, request, self.ends.due(self.pace.answered())].into_iter().fold(None, earliest)
    }
}
