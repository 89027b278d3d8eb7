//! What an operator may ask about the upstream.

use crate::xds::{Moment, Variant};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// One address of the control plane at one moment.
#[derive(Clone, Debug)]
pub struct EndpointReport {
    pub address: Arc<str>,
    pub priority: usize,
    /// It is connected to, or would be: nothing of a better priority stands.
    pub active: bool,
    /// Those that take new streams.
    pub connections: Vec<ConnectionReport>,
    pub streams: usize,
    /// What it answered last, once it has answered.
    pub variant: Option<Variant>,
    /// Since when at least one connection stands.
    pub connected_since: Option<Moment>,
    /// Since when none does, where it was tried.
    pub down_since: Option<Moment>,
    pub last_error: Option<(Moment, Arc<str>)>,
    /// When the last response of any stream came.
    pub last_message: Option<Moment>,
    /// On the wire, TLS and HTTP/2 included.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Compression is offered.
    pub compression: bool,
    /// Why the newest certificate files are not in use.
    pub tls_problem: Option<String>,
    /// When our own certificate ends.
    pub tls_expires: Option<SystemTime>,
}

impl EndpointReport {
    /// The shortest round trip of the connections that stand.
    pub fn round_trip(&self) -> Option<Duration> {
        self.connections.iter().map(|connection| connection.round_trip).min()
    }
}

#[derive(Clone, Debug)]
pub struct ConnectionReport {
    pub since: Moment,
    pub streams: usize,
    /// That the peer allows.
    pub max_streams: usize,
    pub round_trip: Duration,
}
