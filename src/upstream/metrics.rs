//! What is counted of the upstream.

use super::Shared;
use super::report::EndpointReport;
use crate::session::client::Heard;
use crate::xds::envelope::Request;
use crate::xds::{TypeUrl, Variant};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::{Arc, OnceLock, Weak};

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
    addresses: Addresses,
}

impl Metrics {
    /// Everything is registered under `upstream_`.
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let registry = registry.sub_registry_with_prefix("upstream");
        registry.register_collector(Box::new(this.addresses.clone()));
        registry.register("streams", "Streams that stand, by variant", this.streams.clone());
        registry.register("stream_ends", "Streams that ended, by reason", this.stream_ends.clone());
        registry.register("connect_failures", "Connections that did not come to be", this.connect_failures.clone());
        registry.register("responses", "Responses received, by what they were", this.responses.clone());
        registry.register("requests", "Requests written: asks, ACKs and NACKs", this.requests.clone());
        registry.register("unasked_resources", "Resources left out: nobody asked for them", this.unasked.clone());
        registry.register("migrations", "Streams replaced by another before they ended", this.migrations.clone());
        this
    }

    /// From now on scrapes show what is asked of `shared`.
    pub(super) fn show(&self, shared: &Arc<Shared>) {
        // A second time would be a second upstream on one registry.
        let _ = self.addresses.0.set(Arc::downgrade(shared));
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
            Heard::Passed { type_url } => (type_url.short(), "passed"),
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

/// What is known by address, read at each scrape. Addresses are few, and the
/// operator's own.
#[derive(Clone, Default)]
struct Addresses(Arc<OnceLock<Weak<Shared>>>);

impl fmt::Debug for Addresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Addresses")
    }
}

impl Collector for Addresses {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(shared) = self.0.get().and_then(Weak::upgrade) else { return Ok(()) };
        let reports = shared.pool.report();
        let mut gauge = |name: &str, help: &str, of: &dyn Fn(&EndpointReport) -> Option<f64>| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (report, value) in reports.iter().filter_map(|report| Some((report, of(report)?))) {
                ConstGauge::new(value).encode(metric.encode_family(&[("upstream", &*report.address)])?)?;
            }
            Ok::<_, fmt::Error>(())
        };
        gauge("connections", "Connections that take new streams", &|report| Some(report.connections.len() as f64))?;
        gauge("round_trip_seconds", "Shortest round trip of the last pings", &|report| {
            report.round_trip().map(|span| span.as_secs_f64())
        })?;
        let mut counter = |name: &str, help: &str, of: &dyn Fn(&EndpointReport) -> u64| {
            let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for report in &reports {
                ConstCounter::new(of(report)).encode(metric.encode_family(&[("upstream", &*report.address)])?)?;
            }
            Ok::<_, fmt::Error>(())
        };
        counter("received_bytes", "Bytes received on the wire", &|report| report.bytes_received)?;
        counter("sent_bytes", "Bytes sent on the wire", &|report| report.bytes_sent)?;
        let waiting =
            encoder.encode_descriptor("opens_waiting", "Streams waiting to be opened", None, MetricType::Gauge)?;
        ConstGauge::new(shared.admission.waiting() as i64).encode(waiting)?;
        let rate =
            encoder.encode_descriptor("opens_rate", "Streams opened a second, at most", None, MetricType::Gauge)?;
        ConstGauge::new(shared.admission.rate()).encode(rate)
    }
}

#[derive(Debug)]
pub(super) struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}
