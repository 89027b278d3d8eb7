//! How fast a change travels: what the histograms are told and, where traces are
//! asked for, the trace of the patch.

use super::{Flight, Stream};
use crate::downstream::metrics::Stage;
use crate::traces::{Patch, Patches, Written};
use crate::xds::{Moment, TypeUrl};

impl Stream<'_> {
    fn patch(&self, type_url: &TypeUrl, received: Moment) -> Option<(&Patches, Patch)> {
        let patches = self.shared.parts.patches.as_deref()?;
        let group = self.member.as_ref()?.key().text().clone();
        Some((patches, Patch { group, type_url: type_url.clone(), received }))
    }

    /// When what is sent now was ready to be sent.
    pub(super) fn ready(&self, began: Moment) -> Moment {
        if self.shared.parts.patches.is_some() { self.now() } else { began }
    }

    /// The last byte of news was handed over.
    pub(super) fn news_written(&self, now: Moment, flight: &Flight) {
        let written = Written { at: now, bytes: flight.bytes, prepared: flight.prepared };
        let trace =
            self.patch(&flight.type_url, flight.received).and_then(|(patches, patch)| patches.written(&patch, written));
        self.shared.parts.metrics.took(&flight.type_url, Stage::Written, now.since(flight.received), trace);
    }

    /// News were accepted or rejected.
    pub(super) fn news_answered(&mut self, now: Moment, type_url: &TypeUrl, accepted: bool) {
        let Some(received) = self.pace.news(type_url) else { return };
        let node = || self.listed.client.known().map(|known| known.node).unwrap_or_default();
        let trace = self
            .patch(type_url, received)
            .and_then(|(patches, patch)| patches.answered(&patch, &node(), now, accepted));
        if accepted {
            self.shared.parts.metrics.took(type_url, Stage::Ack, now.since(received), trace);
        }
    }
}
