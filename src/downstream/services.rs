//! Which path serves what.

use crate::session::server::Scope;
use crate::xds::{TypeUrl, Variant};

/// One xDS service: its name, the type it carries, and the last parts of its
/// SotW and delta paths.
struct Row(&'static str, Option<&'static str>, Option<&'static str>, Option<&'static str>);

const ADS: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

static TABLE: &[Row] = &[
    Row(ADS, None, Some("StreamAggregatedResources"), Some("DeltaAggregatedResources")),
    Row(
        "envoy.service.listener.v3.ListenerDiscoveryService",
        Some("lds"),
        Some("StreamListeners"),
        Some("DeltaListeners"),
    ),
    Row("envoy.service.route.v3.RouteDiscoveryService", Some("rds"), Some("StreamRoutes"), Some("DeltaRoutes")),
    Row(
        "envoy.service.route.v3.ScopedRoutesDiscoveryService",
        Some("srds"),
        Some("StreamScopedRoutes"),
        Some("DeltaScopedRoutes"),
    ),
    Row("envoy.service.route.v3.VirtualHostDiscoveryService", Some("vhds"), None, Some("DeltaVirtualHosts")),
    Row("envoy.service.cluster.v3.ClusterDiscoveryService", Some("cds"), Some("StreamClusters"), Some("DeltaClusters")),
    Row(
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        Some("eds"),
        Some("StreamEndpoints"),
        Some("DeltaEndpoints"),
    ),
    Row(
        "envoy.service.endpoint.v3.LocalityEndpointDiscoveryService",
        Some("leds"),
        None,
        Some("DeltaLocalityEndpoints"),
    ),
    Row("envoy.service.secret.v3.SecretDiscoveryService", Some("sds"), Some("StreamSecrets"), Some("DeltaSecrets")),
    Row("envoy.service.runtime.v3.RuntimeDiscoveryService", Some("rtds"), Some("StreamRuntime"), Some("DeltaRuntime")),
    Row(
        "envoy.service.extension.v3.ExtensionConfigDiscoveryService",
        Some("ecds"),
        Some("StreamExtensionConfigs"),
        Some("DeltaExtensionConfigs"),
    ),
];

/// The services beside xDS, with their methods. No other path is served.
static SIDE: &[(&str, &[&str])] = &[
    (STATUS, &["FetchClientStatus", "StreamClientStatus"]),
    ("grpc.health.v1.Health", &["Check", "List", "Watch"]),
    ("grpc.reflection.v1.ServerReflection", &["ServerReflectionInfo"]),
    ("grpc.reflection.v1alpha.ServerReflection", &["ServerReflectionInfo"]),
];

const STATUS: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";

/// What a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Route {
    Xds {
        scope: Scope,
        variant: Variant,
        /// `ads`, or the short name of the one type.
        service: &'static str,
    },
    /// A unary call of an xDS service (C-001).
    Fetch,
    /// Health, reflection or client status.
    Side,
    Unknown,
}

pub(super) fn route(path: &str) -> Route {
    let Some((service, method)) = path.strip_prefix('/').and_then(|path| path.split_once('/')) else {
        return Route::Unknown;
    };
    if SIDE.iter().any(|(known, methods)| *known == service && methods.contains(&method)) {
        return Route::Side;
    }
    let Some(Row(_, short, sotw, delta)) = TABLE.iter().find(|row| row.0 == service) else { return Route::Unknown };
    let variant = match Some(method) {
        method if method == *sotw => Variant::Sotw,
        method if method == *delta => Variant::Delta,
        Some(method) if method.starts_with("Fetch") => return Route::Fetch,
        _ => return Route::Unknown,
    };
    let only = short.and_then(TypeUrl::from_short);
    Route::Xds { scope: only.map_or(Scope::Aggregated, Scope::Only), variant, service: short.unwrap_or("ads") }
}

/// The services that a health check can ask about.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    TABLE.iter().map(|row| row.0)
}

/// Every path that is served, so that no test forgets one.
pub fn paths() -> Vec<String> {
    let streams = TABLE.iter().flat_map(|row| {
        let methods = row.2.iter().chain(&row.3);
        methods.map(|method| format!("/{}/{method}", row.0)).collect::<Vec<_>>()
    });
    let side =
        SIDE.iter().flat_map(|(service, methods)| methods.iter().map(move |method| format!("/{service}/{method}")));
    streams.chain(side).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_of_the_protobuf_services_has_a_route() {
        let set: prost_types_free::Set = prost::Message::decode(crate::proto::DESCRIPTORS).unwrap();
        let mut streams = 0;
        for file in set.files.iter().filter(|file| file.package.starts_with("envoy.service")) {
            for service in &file.services {
                for method in &service.methods {
                    let path = format!("/{}.{}/{}", file.package, service.name, method.name);
                    if path.contains(STATUS) {
                        assert_eq!(route(&path), Route::Side);
                        continue;
                    }
                    let Route::Xds { variant, scope, service } = route(&path) else { panic!("no route for {path}") };
                    assert_eq!(variant == Variant::Delta, method.name.starts_with("Delta"), "{path}");
                    assert_eq!(scope == Scope::Aggregated, service == "ads", "{path}");
                    streams += 1;
                }
            }
        }
        assert_eq!(streams, 20);
    }

    /// As much of a descriptor set as the test reads.
    mod prost_types_free {
        #[derive(prost::Message)]
        pub(super) struct Set {
            #[prost(message, repeated, tag = "1")]
            pub(super) files: Vec<File>,
        }
        #[derive(prost::Message)]
        pub(super) struct File {
            #[prost(string, tag = "2")]
            pub(super) package: String,
            #[prost(message, repeated, tag = "6")]
            pub(super) services: Vec<Service>,
        }
        #[derive(prost::Message)]
        pub(super) struct Service {
            #[prost(string, tag = "1")]
            pub(super) name: String,
            #[prost(message, repeated, tag = "2")]
            pub(super) methods: Vec<Method>,
        }
        #[derive(prost::Message)]
        pub(super) struct Method {
            #[prost(string, tag = "1")]
            pub(super) name: String,
        }
    }

    #[test]
    fn every_path_is_served_and_no_path_is_left_out() {
        let paths = paths();
        assert!(paths.iter().all(|path| !matches!(route(path), Route::Unknown | Route::Fetch)));
        assert_eq!(paths.len(), TABLE.iter().map(|row| row.2.iter().len() + row.3.iter().len()).sum::<usize>() + 7);
    }

    #[test]
    fn other_paths_are_told_apart() {
        let table = [
            ("/envoy.service.cluster.v3.ClusterDiscoveryService/FetchClusters", Route::Fetch),
            ("/envoy.service.route.v3.VirtualHostDiscoveryService/StreamVirtualHosts", Route::Unknown),
            ("/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats", Route::Unknown),
            ("/envoy.api.v2.ClusterDiscoveryService/StreamClusters", Route::Unknown),
            ("/grpc.health.v1.Health/Check", Route::Side),
            ("/grpc.health.v1.Health/Other", Route::Unknown),
            ("/", Route::Unknown),
            ("", Route::Unknown),
        ];
        for (path, want) in table {
            assert_eq!(route(path), want, "{path}");
        }
    }
}
