//! What the resources of the invented mesh say.

use super::{Family, Shape};
use crate::proto::core::{self, address, config_source, socket_address};
use crate::proto::http_connection_manager::http_connection_manager::RouteSpecifier;
use crate::proto::http_connection_manager::{HttpConnectionManager, HttpFilter, Rds, http_filter};
use crate::proto::listener::{Filter, FilterChain, Listener, filter};
use crate::proto::route::{self, route_action, route_match};
use crate::proto::{cluster, endpoint, pack, protobuf, router};
use crate::xds::Name;
use prost::Message;

/// Each has a route configuration of its own name. The first stands for what a
/// workload accepts, and is its class's own.
pub(in crate::bench) const LISTENERS: [&str; 4] = ["inbound", "outbound-80", "outbound-8080", "outbound-9090"];

/// Of the clusters, each n-th is rendered for each class.
const TAILORED: u32 = 5;

pub(in crate::bench) fn service(number: u32) -> Name {
    format!("service-{number:03}").into()
}

pub(in crate::bench) fn number(service: &str) -> u32 {
    service.strip_prefix("service-").and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Whether each class has its own rendering.
pub(super) fn tailored(family: Family, name: &str) -> bool {
    match family {
        Family::Cluster => number(name).is_multiple_of(TAILORED),
        Family::Endpoint => false,
        Family::Listener | Family::Route => name == LISTENERS[0],
    }
}

pub(in crate::bench) fn render(family: Family, name: &str, class: Option<u32>, seq: u32, shape: &Shape) -> Vec<u8> {
    match family {
        Family::Cluster => cluster(name, class, seq).encode_to_vec(),
        Family::Endpoint => assignment(name, seq, shape.endpoints).encode_to_vec(),
        Family::Listener => listener(name, class, seq).encode_to_vec(),
        Family::Route => route(name, class, seq, shape.services).encode_to_vec(),
    }
}

fn ads() -> core::ConfigSource {
    core::ConfigSource {
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(core::AggregatedConfigSource {})),
        resource_api_version: core::ApiVersion::V3.into(),
        ..Default::default()
    }
}

fn socket(address: String, port: u32) -> core::Address {
    let port = Some(socket_address::PortSpecifier::PortValue(port));
    let socket = core::SocketAddress { address, port_specifier: port };
    core::Address { address: Some(address::Address::SocketAddress(socket)) }
}

/// A second, and as many milliseconds as there were versions before.
fn timeout(seq: u32) -> Option<protobuf::Duration> {
    let (seconds, millis) = (i64::from(seq) / 1000, i64::from(seq) % 1000);
    Some(protobuf::Duration { seconds: 1 + seconds, nanos: (millis * 1_000_000) as i32 })
}

fn cluster(name: &str, class: Option<u32>, seq: u32) -> cluster::Cluster {
    let seen_from = class.map_or_else(|| "everywhere".to_owned(), super::class_name);
    cluster::Cluster {
        name: name.to_owned(),
        alt_stat_name: format!("{name}.shop.svc.cluster.local|{seen_from}"),
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Eds.into(),
        )),
        eds_cluster_config: Some(cluster::cluster::EdsClusterConfig { eds_config: Some(ads()), ..Default::default() }),
        connect_timeout: timeout(seq),
        lb_policy: cluster::cluster::LbPolicy::LeastRequest.into(),
        ..Default::default()
    }
}

/// Each version replaces one endpoint by a new one, as a rollout does.
fn assignment(name: &str, seq: u32, endpoints: u32) -> endpoint::ClusterLoadAssignment {
    let host = |at: u32| {
        let generation = (seq + endpoints - 1 - at) / endpoints;
        let (subnet, third, last) = (number(name) % 250, generation % 250, at % 250 + 1);
        let address = socket(format!("10.{subnet}.{third}.{last}"), 8080 + generation / 250);
        endpoint::LbEndpoint {
            host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint::Endpoint {
                address: Some(address),
            })),
            health_status: core::HealthStatus::Healthy.into(),
            load_balancing_weight: Some(protobuf::UInt32Value { value: 1 }),
            ..Default::default()
        }
    };
    let zone = endpoint::LocalityLbEndpoints {
        locality: Some(core::Locality { region: "europe".into(), zone: "europe-1".into(), sub_zone: String::new() }),
        lb_endpoints: (0..endpoints).map(host).collect(),
        load_balancing_weight: Some(protobuf::UInt32Value { value: endpoints.max(1) }),
        ..Default::default()
    };
    endpoint::ClusterLoadAssignment { cluster_name: name.to_owned(), endpoints: vec![zone] }
}

fn listener(name: &str, class: Option<u32>, seq: u32) -> Listener {
    let workload = class.map_or_else(|| "mesh".to_owned(), super::class_name);
    let manager = HttpConnectionManager {
        stat_prefix: format!("{workload}_{name}_{seq}"),
        route_specifier: Some(RouteSpecifier::Rds(Rds {
            config_source: Some(ads()),
            route_config_name: name.to_owned(),
        })),
        http_filters: vec![HttpFilter {
            name: "envoy.filters.http.router".into(),
            config_type: Some(http_filter::ConfigType::TypedConfig(pack(&router::Router {}))),
            ..Default::default()
        }],
    };
    let port = name.rsplit('-').next().and_then(|port| port.parse().ok()).unwrap_or(15006);
    Listener {
        name: name.to_owned(),
        address: Some(socket("0.0.0.0".into(), port)),
        filter_chains: vec![FilterChain {
            filters: vec![Filter {
                name: "envoy.filters.network.http_connection_manager".into(),
                config_type: Some(filter::ConfigType::TypedConfig(pack(&manager))),
            }],
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// A virtual host for each of the first services; a version changes the
/// timeout of one of them.
fn route(name: &str, class: Option<u32>, seq: u32, services: u32) -> route::RouteConfiguration {
    let host = |number: u32| {
        let name = service(number);
        let timeout = if number == 0 { timeout(seq) } else { timeout(0) };
        let action = route::RouteAction {
            cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(name.to_string())),
            timeout,
        };
        let matched = route::RouteMatch { path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())) };
        route::VirtualHost {
            name: format!("{name}.shop"),
            domains: vec![format!("{name}.shop"), format!("{name}.shop.svc.cluster.local")],
            routes: vec![route::Route {
                r#match: Some(matched),
                action: Some(route::route::Action::Route(action)),
                ..Default::default()
            }],
        }
    };
    // A workload's own routes lead to itself only.
    let hosts = match class {
        Some(class) => vec![host(0), host(1 + class % services.max(1))],
        None => (0..services).map(host).collect(),
    };
    route::RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: hosts,
        validate_clusters: Some(protobuf::BoolValue { value: false }),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn versions_and_renderings_differ() {
        let shape = Shape::for_sidecars(30, 3);
        for (family, name) in Family::ALL.into_iter().flat_map(|family| {
            let names =
                if family < Family::Listener { ["service-000", "service-001"] } else { ["inbound", "outbound-80"] };
            names.map(|name| (family, name))
        }) {
            let classes: Vec<_> = if tailored(family, name) { (0..3).map(Some).collect() } else { vec![None] };
            let mut seen = HashSet::new();
            for class in classes {
                for seq in 0..3000 {
                    assert!(seen.insert(render(family, name, class, seq, &shape)), "{family:?} {name} {class:?} {seq}");
                }
            }
        }
    }
}
