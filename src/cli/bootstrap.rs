//! `outpost envoy-bootstrap`: what an Envoy is started with to be served here.

use super::Failure;
use super::output::pretty;
use super::yaml;
use crate::config;
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use std::net::IpAddr;

#[derive(Args, Clone, Debug)]
pub struct EnvoyBootstrap {
    /// Node id: who the sidecar is. Control planes have rules for it
    #[arg(long, value_name = "ID")]
    node_id: String,
    /// Node cluster: the service that the sidecar belongs to
    #[arg(long, value_name = "NAME", default_value = "default")]
    node_cluster: String,
    /// Node metadata, a text for each key. Can be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
    /// Outpost, as the sidecar reaches it: HOST:PORT or unix:PATH
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:18000")]
    address: String,
    /// Variant of xDS to speak
    #[arg(long, value_name = "VARIANT", default_value = "delta")]
    variant: Variant,
    /// Use TLS: roots (PEM) that vouch for Outpost. Paths are those of the sidecar's machine
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<String>,
    /// Certificate chain of the sidecar (PEM): its identity
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_key"])]
    tls_cert: Option<String>,
    /// Private key of the sidecar (PEM)
    #[arg(long, value_name = "FILE", requires_all = ["tls_ca", "tls_cert"])]
    tls_key: Option<String>,
    /// The name that Outpost's certificate must carry, instead of the host
    #[arg(long, value_name = "NAME", requires = "tls_ca")]
    tls_server_name: Option<String>,
    /// Where Envoy shows its own state: IP:PORT
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9901")]
    envoy_admin: std::net::SocketAddr,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Variant {
    Delta,
    Sotw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

/// The cluster that is Outpost.
const CLUSTER: &str = "outpost";

fn pair(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.into(), value.into())).ok_or_else(|| "is no KEY=VALUE".into())
}

pub(super) fn text(verb: &EnvoyBootstrap) -> Result<String, Failure> {
    for (flag, text) in [("--node-id", &verb.node_id), ("--node-cluster", &verb.node_cluster)] {
        if text.is_empty() {
            return Err(Failure::Usage(format!("{flag} is empty, and Envoy does not start so; give a text")));
        }
    }
    let bootstrap = bootstrap(verb)?;
    Ok(match verb.output {
        Format::Yaml => yaml::document(&bootstrap),
        Format::Json => pretty(&bootstrap),
    })
}

fn bootstrap(verb: &EnvoyBootstrap) -> Result<Value, Failure> {
    let api_type = match verb.variant {
        Variant::Delta => "DELTA_GRPC",
        Variant::Sotw => "GRPC",
    };
    let metadata: serde_json::Map<_, _> =
        verb.metadata.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let from_ads = json!({"ads": {}, "resource_api_version": "V3"});
    Ok(json!({
        "node": {"id": verb.node_id, "cluster": verb.node_cluster, "metadata": metadata},
        "admin": {"address": socket(&verb.envoy_admin.ip().to_string(), verb.envoy_admin.port())},
        "dynamic_resources": {
            "ads_config": {
                "api_type": api_type,
                "transport_api_version": "V3",
                "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": CLUSTER}}],
            },
            "cds_config": from_ads,
            "lds_config": from_ads,
        },
        "static_resources": {"clusters": [cluster(verb)?]},
    }))
}

fn cluster(verb: &EnvoyBootstrap) -> Result<Value, Failure> {
    let bad = |what: &str| Failure::Usage(format!("--address {:?} {what}", verb.address));
    let (kind, address, host) = match verb.address.strip_prefix("unix:") {
        Some("") => return Err(bad("has no path after unix:")),
        Some(path) => ("STATIC", json!({"pipe": {"path": path}}), None),
        None => {
            let config::Endpoint { host, port, .. } = verb.address.parse().map_err(|what: String| bad(&what))?;
            let kind = if host.parse::<IpAddr>().is_ok() { "STATIC" } else { "STRICT_DNS" };
            (kind, socket(&host, port), Some(host))
        }
    };
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    // A connection that died without a word is noticed, and replaced.
    let keepalive = json!({"connection_keepalive": {"interval": "30s", "timeout": "5s"}});
    let mut cluster = json!({
        "name": CLUSTER,
        "type": kind,
        "connect_timeout": "5s",
        "typed_extension_protocol_options": {options: {
            "@type": format!("type.googleapis.com/{options}"),
            "explicit_http_config": {"http2_protocol_options": keepalive},
        }},
        "load_assignment": {
            "cluster_name": CLUSTER,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    });
    if kind == "STRICT_DNS" {
        cluster["dns_lookup_family"] = json!("V4_PREFERRED");
    }
    if let Some(ca) = &verb.tls_ca {
        let name = verb.tls_server_name.clone().or(host);
        let name = name.ok_or_else(|| bad("is no name that a certificate can carry; give --tls-server-name"))?;
        cluster["transport_socket"] = tls(verb, ca, &name);
    }
    Ok(cluster)
}

fn socket(host: &str, port: u16) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn tls(verb: &EnvoyBootstrap, ca: &str, name: &str) -> Value {
    let is_address = name.parse::<IpAddr>().is_ok();
    let kind = if is_address { "IP_ADDRESS" } else { "DNS" };
    let mut common = json!({
        "alpn_protocols": ["h2"],
        "validation_context": {
            "trusted_ca": {"filename": ca},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
        },
    });
    if let (Some(cert), Some(key)) = (&verb.tls_cert, &verb.tls_key) {
        common["tls_certificates"] =
            json!([{"certificate_chain": {"filename": cert}, "private_key": {"filename": key}}]);
    }
    let context = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let mut config = json!({"@type": format!("type.googleapis.com/{context}"), "common_tls_context": common});
    if !is_address {
        config["sni"] = json!(name);
    }
    json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
}
