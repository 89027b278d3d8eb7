//! Drives the upstream side of one group.
//!
//! ```text
//!            wanted            admitted, placed
//!   (none) ─────────► waiting ─────────────────► open ──┐ ended: back off
//!      ▲                 ▲                         │    │
//!      │ idle            └─────────────────────────┼────┘
//!      └───────────────────────────────────────────┘
//! ```
//!
//! Where the open stream should not stay (the node to present changed, its
//! connection says GOAWAY, a better address is back), a second one is opened
//! beside it and takes its place when it is synced: what it says of a type
//! counts from its first response of that type on. What the first one says of
//! that type is then held back, neither committed nor acknowledged. It goes with
//! the first one; or, where the second is given up, it counts after all, and a
//! fresh stream, which states what is held, puts right what both of them left.

use super::Shared;
use super::backoff::{Backoff, Ended};
use super::doubts::Said;
use super::stream::{Event, Loss, Opening, Stream};
use crate::config::Speak;
use crate::exchange::GroupHandle;
use crate::session::client::Heard;
use crate::session::{Pass, Update, Want};
use crate::transport::client::StreamEnd;
use crate::transport::frame::FrameError;
use crate::xds::time::earliest;
use crate::xds::{Kind, Moment, Token, TypeUrl, Variant, code};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot, watch};

pub(super) struct Driver {
    shared: Arc<Shared>,
    handle: GroupHandle,
    /// The exchange says that something changed.
    wake: Arc<Notify>,
    level: watch::Receiver<usize>,
    problem: watch::Receiver<Option<Arc<str>>>,
    live: Option<Stream>,
    /// Is to take the place of `live`.
    next: Option<Stream>,
    opening: Option<oneshot::Receiver<()>>,
    backoff: Backoff,
    not_before: Moment,
    /// The addresses better than that of `live` were full; they are asked again then.
    full_until: Moment,
    wants: Vec<Want>,
    /// What is passed on over the live stream.
    passes: Vec<Pass>,
    /// The member's token by which the last stream was opened.
    token: Option<Token>,
    /// The wants may be others, and when they were last read.
    stale: bool,
    read: Option<Moment>,
    /// The exchange knows that no stream can be opened.
    told_problem: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    Live,
    Next,
}

impl Driver {
    pub(super) fn new(shared: Arc<Shared>, handle: GroupHandle, wake: Arc<Notify>) -> Self {
        Self {
            level: shared.pool.level(),
            problem: shared.pool.problem(),
            shared,
            handle,
            wake,
            live: None,
            next: None,
            opening: None,
            backoff: Backoff::default(),
            not_before: Moment::START,
            full_until: Moment::START,
            wants: Vec::new(),
            passes: Vec::new(),
            token: None,
            stale: true,
            read: None,
            told_problem: false,
        }
    }

    /// Ends when the group needs no stream; the exchange says when it does again.
    pub(super) async fn run(mut self) {
        loop {
            let now = self.shared.clock.now();
            if self.handle.is_idle() {
                self.handle.stream_closed();
                return;
            }
            self.read_wants(now);
            self.pump(now);
            self.plan(now);
            let deadline = self.deadline(now);
            let waiting = self.live.is_none() && !self.told_problem;
            tokio::select! {
                () = self.wake.notified() => self.stale = true,
                event = event_of(&mut self.live) => self.on_event(Which::Live, event),
                event = event_of(&mut self.next) => self.on_event(Which::Next, event),
                () = admitted(&mut self.opening) => self.open(),
                _ = self.level.changed() => {}
                _ = self.problem.changed(), if waiting => {}
                () = self.shared.clock.sleep_until_some(deadline) => {}
            }
        }
    }

    /// Reads what is wanted: the first change at once, those that follow it
    /// gathered.
    fn read_wants(&mut self, now: Moment) {
        let due = self.read.is_none_or(|read| now >= read + self.shared.timing.gather);
        if !self.stale || !due {
            return;
        }
        (self.stale, self.read) = (false, Some(now));
        self.wants = self.handle.wanted_upstream();
        self.passes = self.handle.passes();
        // Never subscriptions (C-192, C-193).
        self.wants.retain(|want| !matches!(want.type_url.kind(), Kind::Health | Kind::Debug));
        for stream in self.live.iter_mut().chain(&mut self.next) {
            tell_wants(stream, &self.wants, &self.handle);
        }
    }

    fn pump(&mut self, now: Moment) {
        while let Some(update) = self.live.as_mut().and_then(|live| live.next_update(now)) {
            let answered = self.next.as_ref().is_some_and(|next| next.session.answered(&update.type_url));
            match &mut self.live {
                Some(live) if answered => live.held_back.push(update),
                _ => self.commit(update),
            }
        }
        self.write_live(now);
        let Self { next, handle, shared, .. } = self;
        if let Some(next) = next {
            while let Some(update) = next.next_update(now) {
                next.commit(handle, update);
            }
            next.write(now, |request, _| shared.metrics.asked(request));
        }
        for which in [Which::Live, Which::Next] {
            let stream = self.of(which);
            if let Some(Err(loss)) = stream.as_mut().map(|stream| stream.check(now)) {
                self.lost(now, which, &loss);
            }
        }
    }

    /// Commits what the live stream says.
    fn commit(&mut self, update: Update) {
        let Self { live: Some(live), next, handle, wants, .. } = self else { return };
        let Some(next) = next else {
            live.commit(handle, update);
            return;
        };
        let said = Said::by(&update);
        if live.commit(handle, update).changed == 0 {
            return;
        }
        if next.session.has_asked(&said.type_url) {
            next.doubts.raise(&said);
        } else {
            // It has not stated what is held yet: that is something else now.
            let wants: Vec<_> = wants.iter().filter(|want| want.type_url == said.type_url).cloned().collect();
            tell_wants(next, &wants, handle);
        }
    }

    fn write_live(&mut self, now: Moment) {
        let Self { live: Some(live), handle, shared, passes, .. } = self else { return };
        while let Some(passed) = live.session.poll_passed() {
            passes.retain(|pass| pass.number != passed.number);
            handle.passed(passed);
        }
        live.session.set_passes(passes);
        live.write(now, |request, session| {
            shared.metrics.asked(request);
            let type_url = TypeUrl::new(&request.type_url);
            if session.awaits(&type_url) {
                handle.asked(&type_url);
            }
        });
        while let Some(type_url) = live.session.poll_silence() {
            handle.confirmed_by_silence(&type_url);
        }
    }

    /// What is to be opened, replaced or given up.
    fn plan(&mut self, now: Moment) {
        let presented = self.handle.presented();
        if let Some(next) = self.next.take_if(|next| next.node != presented) {
            self.give_up(now, &next);
        }
        let patience = self.shared.waits.patience;
        let ripe = |next: &Stream| next.heard && (next.session.all_synced(now) || now.since(next.opened) >= patience);
        if self.next.as_ref().is_some_and(ripe) {
            self.promote();
        }
        if let Some(live) = self.live.as_mut().filter(|live| now.since(live.opened) >= patience)
            && !std::mem::take(&mut live.doubts).is_empty()
        {
            // Nothing was said of them since: a stream that states them is told.
            live.leaving = true;
        }
        let level = *self.level.borrow_and_update();
        let wanted = match &self.live {
            None => !self.passes.is_empty() || self.wants.iter().any(|want| want.wildcard || !want.names.is_empty()),
            Some(live) => !self.serves_well(live) || live.site.priority > level && now >= self.full_until,
        };
        if wanted && self.shared.by_member && self.handle.credential().is_some_and(|token| Some(token) != self.token) {
            // A member came with another token, which is tried at once.
            self.not_before = now;
        }
        if self.live.is_none() && !self.told_problem {
            let problem = self.problem.borrow_and_update().clone();
            if let Some(problem) = problem {
                self.handle.stream_lost(problem);
                self.told_problem = true;
            }
        }
        if !wanted {
            self.opening = None;
        } else if self.next.is_none() && self.opening.is_none() && now >= self.not_before {
            self.opening = Some(self.shared.admission.enter(self.live.is_none(), self.handle.members()));
        }
    }

    /// Nothing is wrong with the stream but, maybe, the priority of its address.
    fn serves_well(&self, live: &Stream) -> bool {
        !live.leaving && live.node == self.handle.presented()
    }

    fn promote(&mut self) {
        let Some(next) = self.next.take() else { return };
        tracing::debug!(group = %self.handle.key(), address = %next.site.address, "the new stream takes over");
        self.handle.stream_moved(next.site.address.clone());
        self.handle.set_rtt(next.round_trip());
        next.session.report().filter(|report| report.unanswered.is_some()).for_each(|report| {
            self.handle.asked(&report.type_url);
        });
        if self.live.replace(next).is_some() {
            self.shared.metrics.migrations.inc();
        }
    }

    /// `next` does not take over. What the live stream said meanwhile counts
    /// after all. Of what `next` said nobody says that it is so: another stream,
    /// which states it, is told.
    fn give_up(&mut self, now: Moment, next: &Stream) {
        let held_back = self.live.as_mut().map(|live| std::mem::take(&mut live.held_back));
        held_back.into_iter().flatten().for_each(|update| self.commit(update));
        self.write_live(now);
        if let Some(live) = self.live.as_mut().filter(|_| next.heard) {
            live.leaving = true;
        }
    }

    /// Admitted: opens a stream, if there is still room.
    fn open(&mut self) {
        let now = self.shared.clock.now();
        self.opening = None;
        let Some((site, connection)) = self.shared.pool.place() else { return };
        if self.live.as_ref().is_some_and(|live| self.serves_well(live) && site.priority >= live.site.priority) {
            // The better addresses stand, and are full.
            self.full_until = now + self.shared.waits.most.mul_f64(rand::random_range(0.5..1.0));
            return;
        }
        self.token = if self.shared.by_member { self.handle.credential() } else { None };
        if self.shared.by_member && self.token.is_none() {
            return self.without_token(now);
        }
        let metadata = match self.shared.metadata.read(self.token.as_ref()) {
            Ok(metadata) => metadata,
            Err(error) => {
                let reason: Arc<str> = error.to_string().into();
                site.note_loss(now, "metadata", &reason);
                self.shared.metrics.stream_ended("metadata");
                if self.live.is_none() {
                    self.told_problem = true;
                    self.handle.stream_lost(reason);
                }
                return self.wait(now, Ended::After(Duration::ZERO));
            }
        };
        let opening = Opening {
            pool: &self.shared.pool,
            variant: site.variant(self.shared.speak),
            site,
            connection: &connection,
            node: self.handle.presented(),
            metadata: &metadata,
            token: self.token.clone(),
            timing: &self.shared.timing,
            mute: self.shared.waits.mute,
            metrics: &self.shared.metrics,
        };
        // Without room we wait for the next turn.
        let Ok(mut stream) = Stream::open(now, opening) else { return };
        tell_wants(&mut stream, &self.wants, &self.handle);
        self.told_problem = false;
        if self.live.is_some() {
            self.next = Some(stream);
        } else {
            self.handle.stream_opened(stream.site.address.clone());
            self.handle.set_rtt(stream.round_trip());
            self.live = Some(stream);
        }
    }

    /// No member has a good token: what is held is served until one comes back
    /// with a newer one.
    fn without_token(&mut self, now: Moment) {
        self.handle.credential_aged();
        self.shared.metrics.stream_ended("no_token");
        if self.live.is_none() {
            self.told_problem = true;
            self.handle.stream_lost("no sidecar of this group has presented a bearer token that is still good".into());
        }
        self.wait(now, Ended::After(Duration::ZERO));
    }

    fn on_event(&mut self, which: Which, event: Event) {
        let now = self.shared.clock.now();
        match event {
            Event::Written | Event::Leaving => {}
            Event::Ended(end) => self.lost(now, which, &Loss::Peer(end)),
            Event::Message(message) => {
                let Some(stream) = self.of(which) else { return };
                if !stream.heard {
                    self.shared.admission.stands();
                }
                let Some(stream) = self.of(which) else { return };
                match stream.hear(now, message) {
                    Ok(heard) => self.heard(now, which, &heard),
                    Err(loss) => self.lost(now, which, &loss),
                }
            }
        }
    }

    fn heard(&mut self, now: Moment, which: Which, heard: &Heard) {
        self.shared.metrics.heard(heard);
        if self.shared.by_member {
            self.handle.credential_good();
        }
        if let Heard::Rejected { type_url, reason } = heard
            && let Some(stream) = self.of(which)
        {
            let text = format!(
                "{} sent an invalid {} response, which was refused: {reason}",
                stream.site.address,
                type_url.short()
            );
            stream.site.note_loss(now, "rejected", &text.into());
            if which == Which::Live {
                // A sign of life; what is accepted gives one when it is committed.
                self.handle.heard();
            }
        }
    }

    /// A stream ended. What is held stays (C-137).
    fn lost(&mut self, now: Moment, which: Which, loss: &Loss) {
        let Some(stream) = self.of(which).take() else { return };
        let lived = if stream.heard { now.since(stream.opened) } else { Duration::ZERO };
        let reason: Arc<str> = format!("{}: {loss}", stream.site.address).into();
        self.shared.metrics.stream_ended(loss.reason());
        tracing::debug!(group = %self.handle.key(), ?lived, ?reason, "upstream stream ended");
        let ended = self.judge(now, &stream, loss, lived);
        if let Some(ended) = ended {
            stream.site.note_loss(now, loss.reason(), &reason);
            self.wait(now, ended);
        }
        match which {
            Which::Next => self.give_up(now, &stream),
            Which::Live if self.next.is_some() => self.promote(),
            Which::Live => {
                self.told_problem = true;
                self.handle.stream_lost(reason);
            }
        }
    }

    /// What an end means for the next try; `None`: nothing is wrong, and it
    /// follows at once.
    fn judge(&mut self, now: Moment, stream: &Stream, loss: &Loss, lived: Duration) -> Option<Ended> {
        let Loss::Peer(end) = loss else { return Some(Ended::After(lived)) };
        let site = &stream.site;
        match end {
            StreamEnd::Status(status) if status.code == code::UNIMPLEMENTED && !stream.heard => {
                let variant = stream.session.variant();
                let other = self.shared.speak == Speak::Auto && site.lacks(variant) && variant == Variant::Delta;
                if other {
                    tracing::info!(address = %site.address, "the control plane does not offer delta xDS; speaking SotW");
                }
                // Another group may have found out already.
                let retry = other || variant != site.variant(self.shared.speak) && variant == Variant::Delta;
                (!retry).then_some(Ended::After(Duration::ZERO))
            }
            StreamEnd::Encoding(_) => self.without_gzip(now, stream),
            StreamEnd::Message(error) => match **error {
                FrameError::Gzip(_) | FrameError::NotAgreed => self.without_gzip(now, stream),
                // It will be sent again, and is as large then.
                FrameError::TooLarge { .. } | FrameError::Grows { .. } => Some(Ended::Refused),
                FrameError::Flag(_) | FrameError::Cut | FrameError::Busy { .. } => Some(Ended::After(lived)),
            },
            _ => match end.code() {
                // The next request is as large.
                code::RESOURCE_EXHAUSTED | code::OUT_OF_RANGE if stream.oversized => Some(Ended::Refused),
                code::UNAUTHENTICATED if stream.token.is_some() => {
                    // Another member may have a better one, and a newer one is waited for.
                    stream.token.clone().into_iter().for_each(|token| self.handle.refuse_credential(token));
                    Some(Ended::After(Duration::ZERO))
                }
                code::UNAUTHENTICATED | code::PERMISSION_DENIED => Some(Ended::Refused),
                code::RESOURCE_EXHAUSTED => {
                    self.shared.admission.refused();
                    Some(Ended::After(lived.min(self.shared.waits.least)))
                }
                _ => Some(Ended::After(lived)),
            },
        }
    }

    fn without_gzip(&self, now: Moment, stream: &Stream) -> Option<Ended> {
        if stream.site.stop_offering_gzip(&self.shared.clock) {
            let text = "compression failed; it is no longer offered";
            tracing::warn!(address = %stream.site.address, text);
            stream.site.note_error(now, text);
            return None;
        }
        Some(Ended::After(Duration::ZERO))
    }

    fn wait(&mut self, now: Moment, ended: Ended) {
        self.not_before = now + self.backoff.next(&self.shared.waits, ended, rand::random());
    }

    fn of(&mut self, which: Which) -> &mut Option<Stream> {
        match which {
            Which::Live => &mut self.live,
            Which::Next => &mut self.next,
        }
    }

    fn deadline(&mut self, now: Moment) -> Option<Moment> {
        let gather = self.read.filter(|_| self.stale).map(|read| read + self.shared.timing.gather);
        let later = |at: Moment| (self.opening.is_none() && at > now).then_some(at);
        let retry = earliest(later(self.not_before), later(self.full_until));
        let unsure = self.live.as_ref().filter(|live| !live.doubts.is_empty());
        let patience = self.next.as_ref().or(unsure).map(|stream| stream.opened + self.shared.waits.patience);
        let patience = patience.filter(|at| *at > now);
        let streams = self.live.iter_mut().chain(&mut self.next).map(|stream| stream.deadline(now));
        let streams = streams.fold(None, earliest);
        [gather, retry, patience].into_iter().fold(streams, earliest)
    }
}

fn tell_wants(stream: &mut Stream, wants: &[Want], handle: &GroupHandle) {
    for want in wants {
        stream.session.set_wanted(want, || handle.held_versions(&want.type_url));
    }
}

async fn event_of(stream: &mut Option<Stream>) -> Event {
    match stream {
        Some(stream) => stream.event().await,
        None => std::future::pending().await,
    }
}

/// Resolves when it is our turn.
async fn admitted(opening: &mut Option<oneshot::Receiver<()>>) {
    if let Some(turn) = opening
        && turn.await.is_ok()
    {
        return;
    }
    // Not in the queue; or nobody admits any more, and nothing opens.
    std::future::pending().await
}
