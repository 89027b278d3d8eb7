//! What is counted of streams. No label names a node, a group or a resource.

use crate::transport::jwks::Jwks;
use crate::transport::tls::ServerTls;
use crate::xds::TypeUrl;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::{Registry, Unit};
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StreamLabels {
    service: &'static str,
    variant: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    r#type: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TypeLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StageLabels {
    r#type: &'static str,
    stage: &'static str,
}

/// Of an exemplar, not of a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TraceLabels {
    trace_id: String,
}

/// Exemplars cost a lock of their own, so only who asks for traces has them.
#[derive(Debug)]
enum Latency {
    Plain(Histogram),
    Traced(HistogramWithExemplars<TraceLabels>),
}

impl Latency {
    fn plain() -> Self {
        Self::Plain(Histogram::new(SECONDS))
    }

    fn traced() -> Self {
        Self::Traced(HistogramWithExemplars::new(SECONDS.into_iter()))
    }

    fn observe(&self, span: Duration, trace: Option<String>) {
        match self {
            Self::Plain(histogram) => histogram.observe(span.as_secs_f64()),
            Self::Traced(histogram) => {
                let at = trace.is_some().then(SystemTime::now);
                histogram.observe(span.as_secs_f64(), trace.map(|trace_id| TraceLabels { trace_id }), at);
            }
        }
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        match self {
            Self::Plain(histogram) => histogram.encode(encoder),
            Self::Traced(histogram) => histogram.encode(encoder),
        }
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl TypedMetric for Latency {
    const TYPE: MetricType = MetricType::Histogram;
}

/// How far a change has come when its time is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// From upstream to the last byte handed to the transport.
    Written,
    /// From upstream to the client's ACK.
    Ack,
}

impl Stage {
    fn label(self) -> &'static str {
        match self {
            Self::Written => "written",
            Self::Ack => "ack",
        }
    }
}

/// Metrics of the streams of sidecars.
#[derive(Clone, Debug)]
pub struct Metrics {
    streams: Family<StreamLabels, Gauge>,
    ended: Family<ReasonLabels, Counter>,
    requests: Family<RequestLabels, Counter>,
    responses: Family<TypeLabels, Counter>,
    response_bytes: Family<TypeLabels, Counter>,
    response_size: Histogram,
    oversize: Family<TypeLabels, Counter>,
    rejected: Family<ReasonLabels, Counter>,
    hidden: Family<TypeLabels, Counter>,
    unimplemented: Counter,
    latency: Family<StageLabels, Latency>,
    certificate: Shown,
    keys: ShownKeys,
}

/// From a millisecond to a minute.
const SECONDS: [f64; 15] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// With an edge at 4 MiB, where many clients stop (C-171).
const BYTES: [f64; 10] = [1e3, 1e4, 1e5, 5e5, 1e6, 2e6, 4_194_304.0, 1e7, 2e7, 4e7];

impl Metrics {
    /// Names are short: whoever composes the parts gives the prefix. `traced`: buckets of
    /// latencies point to traces.
    pub fn register(registry: &mut Registry, traced: bool) -> Self {
        let this = Self {
            streams: Family::default(),
            ended: Family::default(),
            requests: Family::default(),
            responses: Family::default(),
            response_bytes: Family::default(),
            response_size: Histogram::new(BYTES),
            oversize: Family::default(),
            rejected: Family::default(),
            hidden: Family::default(),
            unimplemented: Counter::default(),
            latency: Family::new_with_constructor(if traced { Latency::traced } else { Latency::plain }),
            certificate: Shown::default(),
            keys: ShownKeys::default(),
        };
        registry.register_collector(Box::new(this.certificate.clone()));
        registry.register_collector(Box::new(this.keys.clone()));
        registry.register_with_unit(
            "convergence",
            "Time of a change since it came from upstream",
            Unit::Seconds,
            this.latency.clone(),
        );
        registry.register("streams", "Open streams of sidecars", this.streams.clone());
        registry.register("streams_ended", "Streams by why they ended", this.ended.clone());
        registry.register("requests", "Requests by what they were", this.requests.clone());
        registry.register("responses", "Responses written", this.responses.clone());
        registry.register("response_bytes", "Bytes of responses written", this.response_bytes.clone());
        registry.register_with_unit("response_size", "Size of a response", Unit::Bytes, this.response_size.clone());
        registry.register(
            "oversize_responses",
            "Responses above the size of splitting that cannot be split",
            this.oversize.clone(),
        );
        registry.register(
            "rejected",
            "Streams that this server refused or ended, by what was wrong",
            this.rejected.clone(),
        );
        let help = "Names asked for that the client may not have: they are answered as if they did not exist";
        registry.register("hidden_names", help, this.hidden.clone());
        registry.register("unimplemented", "Calls of methods that are not served", this.unimplemented.clone());
        this
    }

    /// From now on scrapes look at the certificate of `tls`.
    pub(super) fn show(&self, tls: &Arc<ServerTls>) {
        // A second time would be a second server on one registry.
        let _ = self.certificate.0.set(tls.clone());
    }

    /// … and at the keys of tokens.
    pub(super) fn show_keys(&self, jwks: &Arc<Jwks>) {
        let _ = self.keys.0.set(jwks.clone());
    }

    /// Counts a stream as open until the guard drops.
    pub(super) fn opened(&self, service: &'static str, variant: &'static str) -> OpenStream {
        let streams = self.streams.get_or_create(&StreamLabels { service, variant }).clone();
        streams.inc();
        OpenStream(streams)
    }

    pub(super) fn ended(&self, reason: &'static str) {
        self.ended.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(super) fn rejected(&self, reason: &'static str) {
        self.rejected.get_or_create(&ReasonLabels { reason }).inc();
    }

    pub(super) fn hidden(&self, type_url: &TypeUrl, names: usize) {
        self.hidden.get_or_create(&TypeLabels { r#type: type_url.short() }).inc_by(names as u64);
    }

    pub(super) fn request(&self, type_url: &TypeUrl, kind: &'static str) {
        self.requests.get_or_create(&RequestLabels { r#type: type_url.short(), kind }).inc();
    }

    pub(super) fn response(&self, type_url: &TypeUrl, bytes: usize) {
        let labels = TypeLabels { r#type: type_url.short() };
        self.responses.get_or_create(&labels).inc();
        self.response_bytes.get_or_create(&labels).inc_by(bytes as u64);
        self.response_size.observe(bytes as f64);
    }

    pub(super) fn oversize(&self, type_url: &TypeUrl) {
        self.oversize.get_or_create(&TypeLabels { r#type: type_url.short() }).inc();
    }

    pub(super) fn unimplemented(&self) {
        self.unimplemented.inc();
    }

    /// `trace`, if there is one, becomes the exemplar of its bucket.
    pub(super) fn took(&self, type_url: &TypeUrl, stage: Stage, span: Duration, trace: Option<String>) {
        let labels = StageLabels { r#type: type_url.short(), stage: stage.label() };
        self.latency.get_or_create(&labels).observe(span, trace);
    }
}

/// The certificate that sidecars are shown, looked at with each scrape.
#[derive(Clone, Debug, Default)]
struct Shown(Arc<OnceLock<Arc<ServerTls>>>);

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(seen) = self.0.get().map(|tls| tls.look()) else { return Ok(()) };
        let help = "1 while changed certificate files are not usable and those before stay in use";
        let problem = encoder.encode_descriptor("tls_problem", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(seen.problem.is_some())).encode(problem)?;
        let help = "Changed certificate files that were not usable";
        let failures = encoder.encode_descriptor("tls_load_failures", help, None, MetricType::Counter)?;
        ConstCounter::new(seen.failures).encode(failures)?;
        let help = "1 while the certificate in use is valid by our clock";
        let valid = encoder.encode_descriptor("tls_valid", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(seen.is_valid(SystemTime::now()))).encode(valid)?;
        let Some(expires) = seen.expires.and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok()) else {
            return Ok(());
        };
        let help = "When the certificate in use ends, in seconds since 1970";
        let expiry = encoder.encode_descriptor("tls_expiry_timestamp_seconds", help, None, MetricType::Gauge)?;
        ConstGauge::new(expires.as_secs_f64()).encode(expiry)
    }
}

/// The keys by which tokens may be signed.
#[derive(Clone, Debug, Default)]
struct ShownKeys(Arc<OnceLock<Arc<Jwks>>>);

impl Collector for ShownKeys {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(seen) = self.0.get().map(|jwks| jwks.look()) else { return Ok(()) };
        let help = "Keys by which bearer tokens may be signed";
        let keys = encoder.encode_descriptor("jwks_keys", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::try_from(seen.keys).unwrap_or(i64::MAX)).encode(keys)?;
        let help = "1 while newer keys of tokens are not usable and those before stay in use";
        let problem = encoder.encode_descriptor("jwks_problem", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(seen.problem.is_some())).encode(problem)?;
        let help = "Reads and fetches of keys that failed";
        let failures = encoder.encode_descriptor("jwks_load_failures", help, None, MetricType::Counter)?;
        ConstCounter::new(seen.failures).encode(failures)
    }
}

pub(super) struct OpenStream(Gauge);

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.dec();
    }
}
