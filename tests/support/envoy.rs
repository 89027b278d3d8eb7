//! One real Envoy.

use super::clients::Clients;
use super::http;
use super::process::Process;
use super::tls::ClientFiles;
use super::{check, eventually};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use tokio::net::TcpStream;

/// Which protocol an Envoy speaks to its control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    Delta,
    Sotw,
}

/// What an Envoy is started with.
#[derive(Clone, Debug)]
pub struct Bootstrap(Value);

impl Bootstrap {
    /// An Envoy whose control plane is on `port` of this machine, over
    /// plaintext, and which retries a lost stream quickly.
    pub fn new(id: &str, variant: Variant, port: u16) -> Self {
        let api_type = match variant {
            Variant::Delta => "DELTA_GRPC",
            Variant::Sotw => "GRPC",
        };
        let retry = json!({"retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"}});
        let http_options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        Self(json!({
            "node": {
                "id": id, "cluster": "demo", "metadata": {"role": "demo"},
                "locality": {"region": "r1", "zone": "z1"},
            },
            "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
            "dynamic_resources": {
                "ads_config": {
                    "api_type": api_type, "transport_api_version": "V3", "set_node_on_first_message_only": true,
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "retry_policy": retry}}],
                },
                "cds_config": {"ads": {}, "resource_api_version": "V3"},
                "lds_config": {"ads": {}, "resource_api_version": "V3"},
            },
            "static_resources": {"clusters": [{
                "name": "xds", "type": "STATIC", "connect_timeout": "1s",
                "typed_extension_protocol_options": {http_options: {
                    "@type": format!("type.googleapis.com/{http_options}"),
                    "explicit_http_config": {"http2_protocol_options": {
                        "connection_keepalive": {"interval": "30s", "timeout": "5s"},
                    }},
                }},
                "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [{"endpoint": {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                }}]}]},
            }]},
        }))
    }

    /// One that somebody else wrote.
    pub fn of(bootstrap: Value) -> Self {
        Self(bootstrap)
    }

    /// Mutual TLS with the control plane, whose certificate must name `sni`.
    pub fn mutual_tls(mut self, files: &ClientFiles, sni: &str) -> Self {
        let context = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        self.0["static_resources"]["clusters"][0]["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("type.googleapis.com/{context}"), "sni": sni,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificates": [{
                        "certificate_chain": {"filename": files.certificate}, "private_key": {"filename": files.key},
                    }],
                    "validation_context": {
                        "trusted_ca": {"filename": files.authority},
                        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": sni}}],
                    },
                },
            },
        });
        self
    }

    /// TLS with the control plane, and a bearer token with each stream.
    pub fn token(mut self, authority: &Path, sni: &str, token: &str) -> Self {
        let context = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
        self.0["static_resources"]["clusters"][0]["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": format!("type.googleapis.com/{context}"), "sni": sni,
                "common_tls_context": {
                    "alpn_protocols": ["h2"], "validation_context": {"trusted_ca": {"filename": authority}},
                },
            },
        });
        self.0["dynamic_resources"]["ads_config"]["grpc_services"][0]["initial_metadata"] =
            json!([{"key": "authorization", "value": format!("Bearer {token}")}]);
        self
    }

    /// What the node says of itself.
    pub fn claiming(mut self, namespace: &str, account: &str) -> Self {
        self.0["node"]["metadata"]["NAMESPACE"] = namespace.into();
        self.0["node"]["metadata"]["SERVICE_ACCOUNT"] = account.into();
        self
    }

    /// A layer of runtime values that comes by RTDS.
    pub fn runtime_layer(mut self, name: &str) -> Self {
        self.0["layered_runtime"] = json!({"layers": [{
            "name": "rtds",
            "rtds_layer": {"name": name, "rtds_config": {"ads": {}, "resource_api_version": "V3"}},
        }]});
        self
    }
}

#[derive(Debug)]
pub struct Envoy {
    process: Process,
    admin: u16,
}

impl Envoy {
    /// Starts it, and waits until it tells the port of its admin pages.
    pub async fn start(clients: &Clients, dir: &Path, name: &str, bootstrap: &Bootstrap) -> Self {
        let config = dir.join(format!("{name}.json"));
        let address = dir.join(format!("{name}.admin"));
        std::fs::write(&config, bootstrap.0.to_string()).expect("write the bootstrap");
        let mut command = Command::new(&clients.envoy);
        command.arg("-c").arg(&config).arg("--admin-address-path").arg(&address);
        command.args(["--use-dynamic-base-id", "--concurrency", "1", "--drain-time-s", "1"]);
        let mut process = Process::start(dir, name, &mut command);
        let admin = eventually("Envoy opens its admin port", || {
            let known = process.alive().and_then(|()| admin_port(&address));
            async { known }
        })
        .await;
        Self { process, admin }
    }

    pub async fn admin(&self, path: &str) -> Result<String, String> {
        http::get(self.admin, "admin", path).await.map(|answer| answer.body)
    }

    /// All statistics: counters, gauges, and texts without their quotes.
    pub async fn stats(&self) -> Result<Stats, String> {
        let page = self.admin("/stats").await?;
        let split = |line: &str| {
            let (name, value) = line.split_once(": ")?;
            Some((name.to_owned(), value.trim_matches('"').to_owned()))
        };
        Ok(Stats(page.lines().filter_map(split).collect()))
    }

    /// Waits until the statistics satisfy `probe`.
    pub async fn until<T>(&self, what: &str, probe: impl Fn(&Stats) -> Result<T, String>) -> T {
        eventually(what, || async { probe(&self.stats().await?) }).await
    }

    /// Waits until statistic `name` is `value`.
    pub async fn stat_is(&self, name: &str, value: u64) {
        self.until(name, |stats| check(stats.number(name) == value, || format!("{name} = {}", stats.text(name)))).await;
    }

    /// The port of a listener, once Envoy accepts connections there.
    pub async fn listener(&self, name: &str) -> u16 {
        eventually(&format!("Envoy listens as {name}"), || async {
            let page: Value = parse(&self.admin("/listeners?format=json").await?)?;
            let known = page["listener_statuses"].as_array().into_iter().flatten();
            let ours = known.into_iter().find(|status| status["name"] == name);
            let port = ours.and_then(|status| status["local_address"]["socket_address"]["port_value"].as_u64());
            let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
            let port = port.ok_or_else(|| page.to_string())?;
            // It has the port before its workers accept.
            TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| format!("connect to {port}: {e}"))?;
            Ok(port)
        })
        .await
    }

    /// `/config_dump`, one section per kind of resource.
    pub async fn config_dump(&self) -> Result<Value, String> {
        parse(&self.admin("/config_dump").await?)
    }

    /// The names of the clusters in one list of the dump, such as
    /// `dynamic_active_clusters`.
    pub async fn clusters(&self, list: &str) -> Result<Vec<String>, String> {
        let dump = self.config_dump().await?;
        let sections = dump["configs"].as_array().cloned().unwrap_or_default();
        let entries = sections.iter().filter_map(|section| section[list].as_array()).flatten();
        let name = |entry: &Value| entry["cluster"]["name"].as_str().map(str::to_owned);
        Ok(entries.filter_map(name).collect())
    }

    /// Waits until `list` of the dump holds `name`, or does not.
    pub async fn cluster_in(&self, list: &str, name: &str, wanted: bool) {
        eventually(&format!("{name} in {list}: {wanted}"), || async {
            let names = self.clusters(list).await?;
            check(names.iter().any(|known| known == name) == wanted, || format!("{names:?}"))
        })
        .await;
    }

    pub fn alive(&mut self) -> Result<(), String> {
        self.process.alive()
    }
}

fn admin_port(path: &Path) -> Result<u16, String> {
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    let port = text.trim().rsplit(':').next().unwrap_or_default();
    port.parse().map_err(|_| format!("no port in {text:?}"))
}

fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|e| format!("{e} in {text:.80}"))
}

/// One reading of Envoy's statistics.
#[derive(Clone, Debug)]
pub struct Stats(BTreeMap<String, String>);

impl Stats {
    /// A statistic that does not exist yet counts as zero.
    pub fn number(&self, name: &str) -> u64 {
        self.0.get(name).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// The sum of the statistics whose names `wanted` accepts.
    pub fn sum(&self, wanted: impl Fn(&str) -> bool) -> u64 {
        self.0.keys().filter(|name| wanted(name)).map(|name| self.number(name)).sum()
    }

    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }
}
