//! Resources as a control plane would send them, as small as they get.

use outpost::proto::cluster::Cluster;
use outpost::proto::cluster::cluster::RingHashLbConfig;
use outpost::proto::cluster::cluster::{ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbConfig, LbPolicy};
use outpost::proto::core::address::Address as AddressKind;
use outpost::proto::core::config_source::ConfigSourceSpecifier;
use outpost::proto::core::data_source::Specifier;
use outpost::proto::core::socket_address::PortSpecifier;
use outpost::proto::core::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, DataSource, Locality, Metadata, SocketAddress,
    TransportSocket, TypedExtensionConfig, transport_socket,
};
use outpost::proto::endpoint::lb_endpoint::HostIdentifier;
use outpost::proto::endpoint::{ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints};
use outpost::proto::http_connection_manager::http_connection_manager::RouteSpecifier;
use outpost::proto::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use outpost::proto::listener::{ApiListener, Filter, FilterChain, Listener, filter};
use outpost::proto::protobuf::value::Kind;
use outpost::proto::protobuf::{Duration, Struct, UInt32Value, UInt64Value, Value};
use outpost::proto::route::route::Action;
use outpost::proto::route::route_action::ClusterSpecifier;
use outpost::proto::route::route_match::PathSpecifier;
use outpost::proto::route::weighted_cluster::ClusterWeight;
use outpost::proto::route::{
    DirectResponseAction, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use outpost::proto::router::Router;
use outpost::proto::{pack, tls};

/// "From the stream that this came on."
pub fn ads() -> ConfigSource {
    ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3 as i32,
        ..Default::default()
    }
}

/// A TCP address of this machine.
pub fn local(port: u16) -> Address {
    let port_specifier = Some(PortSpecifier::PortValue(port.into()));
    let address = SocketAddress { address: "127.0.0.1".to_owned(), port_specifier };
    Address { address: Some(AddressKind::SocketAddress(address)) }
}

pub fn text(value: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(value.to_owned())) }
}

/// A cluster whose endpoints come by EDS.
pub fn cluster(name: &str) -> Cluster {
    Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32)),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: String::new() }),
        connect_timeout: Some(Duration { seconds: 1, nanos: 0 }),
        ..Default::default()
    }
}

/// Envoy finds the fault late, when it builds the ring: CLIENTS E1.
pub fn late_failing(name: &str) -> Cluster {
    let size = |value| Some(UInt64Value { value });
    let ring = RingHashLbConfig { minimum_ring_size: size(2048), maximum_ring_size: size(1024) };
    Cluster { lb_policy: LbPolicy::RingHash as i32, lb_config: Some(LbConfig::RingHashLbConfig(ring)), ..cluster(name) }
}

/// Envoy refuses it at once, when it validates the message.
pub fn invalid(name: &str) -> Cluster {
    Cluster { connect_timeout: Some(Duration { seconds: -1, nanos: 0 }), ..cluster(name) }
}

/// The endpoints of a cluster, on this machine.
pub fn assignment(cluster: &str, ports: &[u16]) -> ClusterLoadAssignment {
    let lb_endpoints = ports
        .iter()
        .map(|&port| {
            let endpoint = Endpoint { address: Some(local(port)) };
            LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..Default::default() }
        })
        .collect();
    // gRPC passes over a locality without a weight.
    let (locality, weight) = (Locality { region: "r1".to_owned(), ..Default::default() }, UInt32Value { value: 1 });
    let locality = LocalityLbEndpoints {
        locality: Some(locality),
        lb_endpoints,
        load_balancing_weight: Some(weight),
        ..Default::default()
    };
    let endpoints = vec![locality];
    ClusterLoadAssignment { cluster_name: cluster.to_owned(), endpoints }
}

/// The last filter of every chain.
pub fn router() -> HttpFilter {
    http_filter("envoy.filters.http.router", http_filter::ConfigType::TypedConfig(pack(&Router {})))
}

pub fn http_filter(name: &str, config: http_filter::ConfigType) -> HttpFilter {
    HttpFilter { name: name.to_owned(), config_type: Some(config), is_optional: false }
}

/// One that is `bytes` large, for a single endpoint: the rest is metadata of
/// a locality that nobody uses.
pub fn padded_assignment(cluster: &str, port: u16, bytes: usize) -> ClusterLoadAssignment {
    let mut padded = assignment(cluster, &[port]);
    let text = Value { kind: Some(Kind::StringValue("x".repeat(bytes))) };
    let fields = Struct { fields: [("padding".to_owned(), text)].into() };
    let metadata = Metadata { filter_metadata: [("test".to_owned(), fields)].into(), ..Default::default() };
    for endpoint in padded.endpoints.iter_mut().flat_map(|locality| &mut locality.lb_endpoints) {
        endpoint.metadata = Some(metadata.clone());
    }
    padded
}

/// `route` with a name of its first route that makes it `bytes` large.
pub fn padded(mut route: RouteConfiguration, bytes: usize) -> RouteConfiguration {
    for route in route.virtual_hosts.iter_mut().flat_map(|host| &mut host.routes) {
        route.name = "x".repeat(bytes);
    }
    route
}

/// Every request goes to one of `clusters`, each as likely.
pub fn weighted_route(name: &str, clusters: &[&str]) -> RouteConfiguration {
    let weight = |&cluster: &&str| ClusterWeight { name: cluster.to_owned(), weight: Some(UInt32Value { value: 1 }) };
    let weighted = WeightedCluster { clusters: clusters.iter().map(weight).collect() };
    let action = RouteAction { cluster_specifier: Some(ClusterSpecifier::WeightedClusters(weighted)), timeout: None };
    let routes_of = vec![everything(Action::Route(action))];
    routes(name, vec![VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes: routes_of }])
}

/// An HTTP listener on a port that the system chooses, routed by RDS.
pub fn listener(name: &str, route: &str) -> Listener {
    listener_with(name, route, vec![router()])
}

pub fn listener_with(name: &str, route: &str, http_filters: Vec<HttpFilter>) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(local(0)),
        filter_chains: vec![FilterChain { filters: vec![manager(route, http_filters)], ..Default::default() }],
        ..Default::default()
    }
}

/// Like [`listener`], over TLS with a key that comes by SDS.
pub fn tls_listener(name: &str, route: &str, secret: &str) -> Listener {
    let secret = tls::SdsSecretConfig { name: secret.to_owned(), sds_config: Some(ads()) };
    let common = tls::CommonTlsContext { tls_certificate_sds_secret_configs: vec![secret], ..Default::default() };
    let context = tls::DownstreamTlsContext { common_tls_context: Some(common), require_client_certificate: None };
    let config_type = Some(transport_socket::ConfigType::TypedConfig(pack(&context)));
    let mut listener = listener(name, route);
    for chain in &mut listener.filter_chains {
        let name = "envoy.transport_sockets.tls".to_owned();
        chain.transport_socket = Some(TransportSocket { name, config_type: config_type.clone() });
    }
    listener
}

fn connection_manager(route: &str, http_filters: Vec<HttpFilter>) -> HttpConnectionManager {
    let rds = Rds { config_source: Some(ads()), route_config_name: route.to_owned() };
    let route_specifier = Some(RouteSpecifier::Rds(rds));
    HttpConnectionManager { stat_prefix: "in".to_owned(), route_specifier, http_filters }
}

fn manager(route: &str, http_filters: Vec<HttpFilter>) -> Filter {
    let config = pack(&connection_manager(route, http_filters));
    Filter {
        name: "envoy.filters.network.http_connection_manager".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// What a proxyless gRPC client asks for instead.
pub fn api_listener(name: &str, route: &str) -> Listener {
    let api_listener = Some(pack(&connection_manager(route, vec![router()])));
    Listener { name: name.to_owned(), api_listener: Some(ApiListener { api_listener }), ..Default::default() }
}

fn everything(action: Action) -> Route {
    let path = Some(PathSpecifier::Prefix(String::new()));
    Route { r#match: Some(RouteMatch { path_specifier: path }), action: Some(action), ..Default::default() }
}

fn to_cluster(cluster: &str) -> Action {
    let cluster_specifier = Some(ClusterSpecifier::Cluster(cluster.to_owned()));
    Action::Route(RouteAction { cluster_specifier, timeout: None })
}

/// Every request of every host goes to `cluster`.
pub fn route(name: &str, cluster: &str) -> RouteConfiguration {
    routes(name, vec![virtual_host("all", "*", cluster)])
}

/// Every request is answered by the sidecar itself.
pub fn direct_response(name: &str, body: &str) -> RouteConfiguration {
    let action = Action::DirectResponse(DirectResponseAction { status: 200, body: Some(text(body)) });
    let host = VirtualHost { name: "all".to_owned(), domains: vec!["*".to_owned()], routes: vec![everything(action)] };
    routes(name, vec![host])
}

pub fn routes(name: &str, virtual_hosts: Vec<VirtualHost>) -> RouteConfiguration {
    RouteConfiguration { name: name.to_owned(), virtual_hosts, ..Default::default() }
}

pub fn virtual_host(name: &str, domain: &str, cluster: &str) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: vec![domain.to_owned()],
        routes: vec![everything(to_cluster(cluster))],
    }
}

/// A key and its certificate as SDS carries them.
pub fn secret(name: &str, chain: &str, key: &str) -> tls::Secret {
    let certificate = tls::TlsCertificate { certificate_chain: Some(text(chain)), private_key: Some(text(key)) };
    tls::Secret { name: name.to_owned(), r#type: Some(tls::secret::Type::TlsCertificate(certificate)) }
}

/// A filter's configuration as ECDS carries it.
pub fn extension<M: prost::Message + prost::Name>(name: &str, config: &M) -> TypedExtensionConfig {
    TypedExtensionConfig { name: name.to_owned(), typed_config: Some(pack(config)) }
}
