//! How a stream keeps up: what it was asked, what it takes, and which of its
//! responses tell how fast a change travels.

use crate::clock::Clock;
use crate::downstream::clients::Client;
use crate::session::server::HeardKind;
use crate::transport::stream::{Messages, Sender};
use crate::xds::{Moment, TypeUrl};
use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::Duration;

pub(super) struct Pace {
    opened: Moment,
    heard: bool,
    /// A request is half here: since when, and with how many bytes.
    partial: Option<(Moment, u64)>,
    /// When the transport last took a byte, or was given a response.
    took: Moment,
    types: BTreeMap<TypeUrl, OfType>,
}

struct OfType {
    /// Content that came after this is news to the client; what came before
    /// answers its request.
    known: Moment,
    /// The newest response was news, which came from upstream then: the answer to it
    /// tells how fast a change travels.
    news: Option<Moment>,
    answered: bool,
}

impl Pace {
    pub(super) fn new(now: Moment) -> Self {
        Self { opened: now, heard: false, partial: None, took: now, types: BTreeMap::new() }
    }

    pub(super) fn heard(&mut self, type_url: &TypeUrl, kind: &HeardKind, now: Moment) {
        self.heard = true;
        self.partial = None;
        if *kind == HeardKind::First {
            self.types.insert(type_url.clone(), OfType { known: now, news: None, answered: false });
        }
    }

    /// A response of the type was handed over. Does it carry news?
    pub(super) fn written(&mut self, type_url: &TypeUrl, received: Moment, now: Moment) -> bool {
        let Some(of) = self.types.get_mut(type_url) else { return false };
        of.news = (received > of.known).then_some(received);
        of.known = now;
        of.answered = true;
        of.news.is_some()
    }

    /// When the news came to which an answer is here. Once per response.
    pub(super) fn news(&mut self, type_url: &TypeUrl) -> Option<Moment> {
        self.types.get_mut(type_url)?.news.take()
    }

    /// It had a response, or asked for nothing.
    pub(super) fn answered(&self) -> bool {
        self.types.is_empty() || self.types.values().any(|of| of.answered)
    }

    /// A response begins to wait.
    pub(super) fn began(&mut self, now: Moment) {
        self.took = now;
    }

    /// Hands bytes over and notes when some were taken.
    pub(super) fn poll_flush(
        &mut self,
        cx: &mut Context<'_>,
        sender: &mut Sender,
        client: &Client,
        clock: &Clock,
    ) -> Poll<Result<(), h2::Error>> {
        let before = sender.accepted();
        let flushed = sender.poll_flush(cx);
        if sender.accepted() > before {
            self.took = clock.now();
            client.set_waiting(sender.waiting());
        }
        flushed
    }

    /// When bytes will have waited for too long.
    pub(super) fn stalls_at(&self, patience: Duration) -> Moment {
        self.took + patience
    }

    /// When the first request, or the rest of one, is late.
    pub(super) fn request_due(&mut self, messages: &Messages, timeout: Duration, now: Moment) -> Option<Moment> {
        if !self.heard {
            return Some(self.opened + timeout);
        }
        if !messages.within_message() {
            self.partial = None;
            return None;
        }
        let received = messages.received();
        let since = match self.partial {
            Some((since, before)) if before == received => since,
            _ => now,
        };
        self.partial = Some((since, received));
        Some(since + timeout)
    }
}
