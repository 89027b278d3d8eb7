//! What is counted of connections.

use crate::transport::io::Traffic;
use prometheus_client::encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepted {
    Served,
    /// It ended before it was one.
    Broken,
    TlsFailed,
    TlsTimeout,
    Http2Failed,
    Http2Timeout,
    /// Beyond the number of connections.
    Full,
}

impl Accepted {
    fn label(self) -> &'static str {
        match self {
            Self::Served => "served",
            Self::Broken => "broken",
            Self::TlsFailed => "tls_failed",
            Self::TlsTimeout => "tls_timeout",
            Self::Http2Failed => "http2_failed",
            Self::Http2Timeout => "http2_timeout",
            Self::Full => "full",
        }
    }
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Closed,
    Error,
    PingTimeout,
    NoCall,
    Drained,
    Aged,
    Expired,
}

impl Ended {
    fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Error => "error",
            Self::PingTimeout => "ping_timeout",
            Self::NoCall => "no_call",
            Self::Drained => "drained",
            Self::Aged => "aged",
            Self::Expired => "expired",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AcceptedLabels {
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndedLabels {
    reason: &'static str,
}

/// Metrics of the server. No label names a peer.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    connections: Gauge,
    accepted: Family<AcceptedLabels, Counter>,
    ended: Family<EndedLabels, Counter>,
    accept_errors: Counter,
    unauthenticated: Family<EndedLabels, Counter>,
    no_proof: Family<EndedLabels, Counter>,
    panics: Counter,
    traffic: Arc<Traffic>,
}

impl Metrics {
    pub fn register(registry: &mut Registry) -> Self {
        let this = Self::default();
        let mut add = |name: &str, help: &str, metric: Counter| registry.register(name, help, metric);
        add(
            "accept_errors",
            "Failures of accepting connections, such as too many open files",
            this.accept_errors.clone(),
        );
        add("handler_panics", "Calls that ended by a panic: report each", this.panics.clone());
        let help = "Calls refused because the caller did not prove who it is, by what was wrong";
        registry.register("unauthenticated_calls", help, this.unauthenticated.clone());
        let help = "TLS handshakes refused because of the client's certificate, by what was wrong";
        registry.register("refused_certificates", help, this.no_proof.clone());
        registry.register("connections", "Open connections", this.connections.clone());
        registry.register("accepted", "Connections by what became of them", this.accepted.clone());
        registry.register("connections_ended", "Served connections by how they ended", this.ended.clone());
        let traffic = this.traffic.clone();
        registry.register("received_bytes", "Bytes received on the wire", Bytes { traffic, of: Traffic::received });
        let traffic = this.traffic.clone();
        registry.register("sent_bytes", "Bytes sent on the wire", Bytes { traffic, of: Traffic::sent });
        let traffic = this.traffic.clone();
        registry.register("writes", "System calls that sent bytes", Bytes { traffic, of: Traffic::writes });
        this
    }

    pub fn traffic(&self) -> Arc<Traffic> {
        self.traffic.clone()
    }

    pub(super) fn accepted(&self, result: Accepted) {
        self.accepted.get_or_create(&AcceptedLabels { result: result.label() }).inc();
    }

    pub(super) fn ended(&self, reason: Ended) {
        self.ended.get_or_create(&EndedLabels { reason: reason.label() }).inc();
    }

    pub(super) fn accept_failed(&self) {
        self.accept_errors.inc();
    }

    pub(super) fn unauthenticated(&self, reason: &'static str) {
        self.unauthenticated.get_or_create(&EndedLabels { reason }).inc();
    }

    pub(super) fn no_proof(&self, reason: &'static str) {
        self.no_proof.get_or_create(&EndedLabels { reason }).inc();
    }

    pub(super) fn panicked(&self) {
        self.panics.inc();
    }

    /// Counts a connection as open until the guard drops.
    pub(super) fn opened(&self) -> OpenConnection {
        self.connections.inc();
        OpenConnection(self.connections.clone())
    }
}

pub(super) struct OpenConnection(Gauge);

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// A counter that somebody else keeps.
struct Bytes {
    traffic: Arc<Traffic>,
    of: fn(&Traffic) -> u64,
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.of)(&self.traffic).fmt(f)
    }
}

impl EncodeMetric for Bytes {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        encoder.encode_counter::<prometheus_client::encoding::NoLabelSet, _, u64>(&(self.of)(&self.traffic), None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}
