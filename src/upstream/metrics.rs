//! What is counted of the upstream.

use crate::session::client::Heard;
use crate::xds::envelope::Request;
use crate::xds::{TypeUrl, Variant};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

type Label = &'static str;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Response {
    r#type: Label,
    result: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Asked {
    r#type: Label,
    kind: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Spoken {
    variant: Label,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Typed {
    r#type: Label,
}

/// Metrics of the upstream; addresses are shown by the pool's own. No label
/// names a node, a group or a resource.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    streams: Family<Spoken, Gauge>,
    stream_ends: Family<Reason, Counter>,
    connect_failures: Family<Reason, Counter>,
    responses: Family<Response, Counter>,
    requests: Family<Asked, Counter>,
    unasked: Family<Typed, Counter>,
    pub(super) migrations: Counter,
}

impl Metrics {
    /// In a registry whose prefix is `outpost_upstream`.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        registry.register("streams", "Streams that stand, by variant", this.streams.clone());
        registry.register("stream_ends", "Streams that ended, by reason", this.stream_ends.clone());
        registry.register("connect_failures", "Connections that did not come to be", this.connect_failures.clone());
        registry.register("responses", "Responses received, by what they were", this.responses.clone());
        registry.register("requests", "Requests written: asks, ACKs and NACKs", this.requests.clone());
        registry.register("unasked_resources", "Resources left out: nobody asked for them", this.unasked.clone());
        registry.register("migrations", "Streams replaced by another before they ended", this.migrations.clone());
        this
    }

    pub(super) fn heard(&self, heard: &Heard) {
        let (short, result) = match heard {
            Heard::Accepted { type_url, unasked } => {
                if *unasked > 0 {
                    self.unasked.get_or_create(&Typed { r#type: type_url.short() }).inc_by(*unasked as u64);
                }
                (type_url.short(), "accepted")
            }
            Heard::Rejected { type_url, .. } => (type_url.short(), "rejected"),
            Heard::Unasked { type_url } => (TypeUrl::new(type_url).short(), "unasked"),
        };
        self.responses.get_or_create(&Response { r#type: short, result }).inc();
    }

    pub(super) fn asked(&self, request: &Request) {
        let kind = match (&request.error, request.nonce.is_empty()) {
            (Some(_), _) => "nack",
            (None, true) => "ask",
            (None, false) => "ack",
        };
        self.requests.get_or_create(&Asked { r#type: TypeUrl::new(&request.type_url).short(), kind }).inc();
    }

    pub(super) fn stream_ended(&self, reason: Label) {
        self.stream_ends.get_or_create(&Reason { reason }).inc();
    }

    pub(super) fn connect_failed(&self, reason: Label) {
        self.connect_failures.get_or_create(&Reason { reason }).inc();
    }

    /// Counts a stream as open until the guard drops.
    #[must_use]
    pub(super) fn stream_opened(&self, variant: Variant) -> OpenStream {
        let variant = match variant {
            Variant::Delta => "delta",
            Variant::Sotw => "sotw",
        };
        let gauge = self.streams.get_or_create_owned(&Spoken { variant });
        gauge.inc();
        OpenStream(gauge)
    }
}

#[derive(Debug)]
pub(super) struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}
