//! What is known about a `type_url`. Resources themselves stay opaque.

use crate::breaks;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The two ways to speak xDS: state of the world, or incremental.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    Sotw,
    Delta,
}

/// The types that Outpost treats in a way of their own. All others are
/// [`Kind::Other`] and are relayed as they come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Cluster,
    Endpoint,
    LocalityEndpoint,
    Listener,
    Route,
    ScopedRoute,
    VirtualHost,
    Secret,
    Runtime,
    ExtensionConfig,
    /// Istio's `Workload` and `Address`, whose `initial_resource_versions` are
    /// subscriptions (C-195).
    Workload,
    Authorization,
    /// A set with one unnamed member (C-191).
    Singleton,
    /// Sent by clients only; never a subscription (C-192).
    Health,
    /// Istio's debug types: neither cached nor watched (C-193).
    Debug,
    Other,
}

struct Row {
    url: &'static str,
    short: &'static str,
    kind: Kind,
    /// Place in the order in which types are written (C-104).
    rank: u8,
    legacy_wildcard: bool,
}

const fn row(url: &'static str, short: &'static str, kind: Kind, rank: u8, legacy_wildcard: bool) -> Row {
    Row { url, short, kind, rank, legacy_wildcard }
}

const OTHER_RANK: u8 = 20;

/// CONFORMANCE of the public specification and of Istio, as one table.
static TABLE: &[Row] = &[
    row("type.googleapis.com/envoy.config.cluster.v3.Cluster", "cds", Kind::Cluster, 0, true),
    row("type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment", "eds", Kind::Endpoint, 1, false),
    row("type.googleapis.com/envoy.config.endpoint.v3.LbEndpoint", "leds", Kind::LocalityEndpoint, 2, false),
    row("type.googleapis.com/envoy.config.endpoint.v3.LbEndpointCollection", "leds", Kind::LocalityEndpoint, 2, false),
    row("type.googleapis.com/envoy.config.listener.v3.Listener", "lds", Kind::Listener, 3, true),
    row("type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "rds", Kind::Route, 4, false),
    row("type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration", "srds", Kind::ScopedRoute, 5, true),
    row("type.googleapis.com/envoy.config.route.v3.VirtualHost", "vhds", Kind::VirtualHost, 6, false),
    row("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "sds", Kind::Secret, 7, false),
    row("type.googleapis.com/envoy.service.runtime.v3.Runtime", "rtds", Kind::Runtime, 8, false),
    row("type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "ecds", Kind::ExtensionConfig, 9, false),
    row("type.googleapis.com/istio.workload.Address", "address", Kind::Workload, 10, true),
    row("type.googleapis.com/istio.workload.Workload", "workload", Kind::Workload, 11, true),
    row("type.googleapis.com/istio.security.Authorization", "authorization", Kind::Authorization, 12, true),
    row("type.googleapis.com/istio.networking.nds.v1.NameTable", "nds", Kind::Singleton, OTHER_RANK, true),
    row("type.googleapis.com/istio.mesh.v1alpha1.ProxyConfig", "pcds", Kind::Singleton, OTHER_RANK, true),
    row("type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap", "bds", Kind::Other, OTHER_RANK, true),
    row("type.googleapis.com/agentgateway.dev.resource.Resource", "agentgateway", Kind::Other, OTHER_RANK, true),
    row("type.googleapis.com/istio.v1.HealthInformation", "health", Kind::Health, OTHER_RANK, false),
    row("istio.io/debug", "debug", Kind::Debug, OTHER_RANK, false),
    row("istio.io/debug/syncz", "debug", Kind::Debug, OTHER_RANK, false),
    row("istio.io/debug/config_dump", "debug", Kind::Debug, OTHER_RANK, false),
];

/// What all of Istio's debug types begin with.
const DEBUG: &str = "istio.io/debug/";
static ANY_DEBUG: Row = row("", "debug", Kind::Debug, OTHER_RANK, false);
static UNLISTED: Row = row("", "other", Kind::Other, OTHER_RANK, false);

/// One xDS resource type. Cheap to clone; equal where the text is equal. A listed
/// one is its row: to read, clone and compare it costs no memory.
#[derive(Clone)]
pub struct TypeUrl {
    row: &'static Row,
    /// The text of one that is not listed.
    unlisted: Option<Arc<str>>,
}

impl TypeUrl {
    pub fn new(url: &str) -> Self {
        if let Some(row) = TABLE.iter().find(|row| row.url == url) {
            return Self { row, unlisted: None };
        }
        let row = if url.starts_with(DEBUG) { &ANY_DEBUG } else { &UNLISTED };
        Self { row, unlisted: Some(url.into()) }
    }

    /// The type that operators call `short`: `cds`, `eds`, `nds`, …
    pub fn from_short(short: &str) -> Option<Self> {
        TABLE.iter().find(|row| row.short.eq_ignore_ascii_case(short)).map(|row| Self { row, unlisted: None })
    }

    pub fn as_str(&self) -> &str {
        self.unlisted.as_deref().unwrap_or(self.row.url)
    }

    /// A name from a closed set, fit for metric labels: `cds`, …, `other`.
    pub fn short(&self) -> &'static str {
        self.row.short
    }

    pub fn kind(&self) -> Kind {
        self.row.kind
    }

    /// Place in the order in which changes of several types are written
    /// (C-104): CDS, EDS, LEDS, LDS, RDS, SRDS, VHDS, SDS, RTDS, ECDS, the rest.
    pub fn rank(&self) -> u8 {
        self.row.rank
    }

    /// A SotW response states the whole set, so that what is missing is
    /// deleted (C-031).
    pub fn full_state(&self) -> bool {
        matches!(self.row.kind, Kind::Cluster | Kind::Listener)
            && !(self.row.kind == Kind::Listener && breaks::on("C-211"))
    }

    /// An empty first subscription means `*` (C-056, C-057).
    pub fn legacy_wildcard(&self) -> bool {
        self.row.legacy_wildcard && !(self.as_str().contains("istio") && breaks::on("C-190"))
    }

    /// Removals of these wait for the settle window (C-105).
    pub fn removals_settle(&self) -> bool {
        matches!(self.row.kind, Kind::Cluster | Kind::Endpoint | Kind::Listener)
    }

    /// A snapshot that changed one of these restarts the settle window, and a
    /// turn of one of the last four open on a stream extends it.
    pub fn unsettles(&self) -> bool {
        self.row.kind == Kind::Cluster || self.row.kind == Kind::Listener || self.refers()
    }

    /// May name a cluster or listener that is about to go.
    pub fn refers(&self) -> bool {
        matches!(self.row.kind, Kind::Route | Kind::ScopedRoute | Kind::ExtensionConfig)
    }
}

impl PartialEq for TypeUrl {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self.row, other.row) && self.unlisted == other.unlisted
    }
}

impl Eq for TypeUrl {}

impl Hash for TypeUrl {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for TypeUrl {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// By rank first, so that a sorted map is in writing order.
impl Ord for TypeUrl {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        if self == other {
            return std::cmp::Ordering::Equal;
        }
        self.rank().cmp(&other.rank()).then_with(|| self.as_str().cmp(other.as_str()))
    }
}

impl fmt::Debug for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.row.kind == Kind::Other { self.as_str() } else { self.row.short })
    }
}

impl fmt::Display for TypeUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
