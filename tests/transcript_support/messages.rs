//! Requests and responses as bytes, made and read with the generated types
//! only: independent of the code under test.

use super::script::{Ask, Locator, Node, Resource, Wire};
use bytes::Bytes;
use outpost::proto::{discovery, protobuf, rpc};
use prost::Message as _;
use std::collections::HashMap;
use std::time::Duration;

pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
pub const ROUTE: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
pub const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
pub const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";
pub const RUNTIME: &str = "type.googleapis.com/envoy.service.runtime.v3.Runtime";
const WRAPPER: &str = "type.googleapis.com/envoy.service.discovery.v3.Resource";

const IN_PAYLOAD: &str = "nobody knows this field of the payload";
pub const IN_WRAPPER: &str = "nobody knows this field of the wrapper";
pub const IN_NODE: &str = "nobody knows this field of the node";
const UNKNOWN: u32 = 2047;

/// Types whose empty first subscription is the wildcard.
pub fn legacy_wildcard(type_url: &str) -> bool {
    const NOT_ENVOY: &[&str] = &["istio.workload", "istio.security", "istio.networking", "istio.mesh"];
    [CLUSTER, LISTENER].contains(&type_url) || NOT_ENVOY.iter().any(|part| type_url.contains(part))
}

pub fn full_state(type_url: &str) -> bool {
    [CLUSTER, LISTENER].contains(&type_url)
}

/// Each request has one answer, and nothing is a subscription.
pub fn is_debug(type_url: &str) -> bool {
    type_url.starts_with("istio.io/debug")
}

/// One length-delimited field.
pub fn field(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    prost::encoding::encode_varint(u64::from(number << 3 | 2), out);
    prost::encoding::encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

/// The bytes of a resource: its name, and its content as text.
pub fn payload(type_url: &str, resource: &Resource) -> Bytes {
    let mut out = Vec::new();
    if !resource.name.is_empty() {
        field(&mut out, 1, resource.name.as_bytes());
    }
    if let (Some(service), true) = (&resource.eds, type_url == CLUSTER) {
        // type: EDS, and the name of the assignment.
        out.extend_from_slice(&[2 << 3, 3]);
        let mut config = Vec::new();
        if !service.is_empty() {
            field(&mut config, 2, service.as_bytes());
        }
        field(&mut out, 3, &config);
    }
    let mut content = format!("content {}", resource.content).into_bytes();
    content.resize(content.len().max(resource.size), b'.');
    field(&mut out, 1000, &content);
    if resource.unknown {
        field(&mut out, UNKNOWN, IN_PAYLOAD.as_bytes());
    }
    out.into()
}

pub fn node(node: &Node) -> Bytes {
    let mut out = Vec::new();
    field(&mut out, 1, node.id.as_bytes());
    if let Some(generator) = &node.generator {
        let mut value = Vec::new();
        field(&mut value, 3, generator.as_bytes());
        let mut pair = Vec::new();
        field(&mut pair, 1, b"GENERATOR");
        field(&mut pair, 2, &value);
        let mut metadata = Vec::new();
        field(&mut metadata, 1, &pair);
        field(&mut out, 3, &metadata);
    }
    if let Some(agent) = &node.agent {
        field(&mut out, 6, agent.as_bytes());
    }
    for feature in &node.features {
        field(&mut out, 10, feature.as_bytes());
    }
    if node.unknown {
        field(&mut out, UNKNOWN, IN_NODE.as_bytes());
    }
    out.into()
}

/// What the interpreter found out for one request.
pub struct Filled {
    pub nonce: String,
    pub node: Option<Bytes>,
    pub initial: Vec<(String, String)>,
}

pub fn request(ask: &Ask, filled: Filled) -> Bytes {
    let names = |list: &[Locator]| list.iter().filter(|one| !one.is_locator).map(|one| one.name.clone()).collect();
    let locators = |list: &[Locator]| {
        let locator = |one: &Locator| discovery::ResourceLocator {
            name: one.name.clone(),
            dynamic_parameters: one.params.iter().cloned().collect(),
        };
        list.iter().filter(|one| one.is_locator).map(locator).collect()
    };
    let error = ask.error.as_ref();
    let error = error.map(|(code, message)| rpc::Status { code: *code, message: message.clone(), details: Vec::new() });
    let (mut out, node_field) = match ask.wire {
        Some(Wire::Sotw) => {
            let request = discovery::DiscoveryRequest {
                version_info: ask.version_info.clone(),
                node: None,
                resource_names: names(&ask.names),
                type_url: ask.type_url.clone(),
                response_nonce: filled.nonce,
                error_detail: error,
                resource_locators: locators(&ask.names),
            };
            (request.encode_to_vec(), 2)
        }
        _ => {
            let request = discovery::DeltaDiscoveryRequest {
                node: None,
                type_url: ask.type_url.clone(),
                resource_names_subscribe: names(&ask.names),
                resource_names_unsubscribe: names(&ask.unsubscribe),
                initial_resource_versions: filled.initial.into_iter().collect(),
                response_nonce: filled.nonce,
                error_detail: error,
                resource_locators_subscribe: locators(&ask.names),
                resource_locators_unsubscribe: locators(&ask.unsubscribe),
            };
            (request.encode_to_vec(), 1)
        }
    };
    if let Some(node) = &filled.node {
        field(&mut out, node_field, node);
    }
    out.into()
}

/// A response of the control plane.
pub struct Said<'a> {
    pub wire: Wire,
    pub type_url: &'a str,
    pub label: &'a str,
    pub nonce: &'a str,
    /// With the version that the control plane gives each.
    pub resources: Vec<(Resource, String)>,
    pub removed: Vec<String>,
    pub errors: Vec<(String, i32)>,
}

pub fn response(said: Said<'_>) -> Bytes {
    let resource_errors = said.errors.iter().map(|(name, code)| discovery::ResourceError {
        resource_name: Some(discovery::ResourceName { name: name.clone(), dynamic_parameter_constraints: None }),
        error_detail: Some(rpc::Status { code: *code, message: format!("{name} is refused"), details: Vec::new() }),
    });
    let mut out = match said.wire {
        Wire::Sotw => discovery::DiscoveryResponse {
            version_info: said.label.to_owned(),
            type_url: said.type_url.to_owned(),
            nonce: said.nonce.to_owned(),
            resource_errors: resource_errors.collect(),
            ..Default::default()
        }
        .encode_to_vec(),
        Wire::Delta => discovery::DeltaDiscoveryResponse {
            system_version_info: said.label.to_owned(),
            type_url: said.type_url.to_owned(),
            nonce: said.nonce.to_owned(),
            removed_resources: said.removed,
            resource_errors: resource_errors.collect(),
            ..Default::default()
        }
        .encode_to_vec(),
    };
    for (resource, version) in &said.resources {
        let bare = protobuf::Any { type_url: said.type_url.to_owned(), value: payload(said.type_url, resource) };
        let wrapped = wrapper(resource, version, bare.clone());
        let item = match said.wire {
            Wire::Delta => wrapped,
            Wire::Sotw if needs_wrapper(said.type_url, resource) => {
                protobuf::Any { type_url: WRAPPER.to_owned(), value: wrapped.into() }.encode_to_vec()
            }
            Wire::Sotw => bare.encode_to_vec(),
        };
        field(&mut out, 2, &item);
    }
    out.into()
}

/// Its name cannot be read from its bytes, or it says more than its bytes.
fn needs_wrapper(type_url: &str, resource: &Resource) -> bool {
    resource.ttl.is_some() || resource.uncached || !type_url.contains("envoy.") && !is_debug(type_url)
}

fn wrapper(resource: &Resource, version: &str, payload: protobuf::Any) -> Vec<u8> {
    use discovery::dynamic_parameter_constraints::{SingleConstraint, Type, single_constraint::ConstraintType};
    let resource_name = resource.only.as_ref().map(|(key, value)| discovery::ResourceName {
        name: resource.name.clone(),
        dynamic_parameter_constraints: Some(discovery::DynamicParameterConstraints {
            r#type: Some(Type::Constraint(SingleConstraint {
                key: key.clone(),
                constraint_type: Some(ConstraintType::Value(value.clone())),
            })),
        }),
    });
    let seconds = |ttl: Duration| protobuf::Duration { seconds: ttl.as_secs() as i64, nanos: 0 };
    let mut out = discovery::Resource {
        version: version.to_owned(),
        resource: (!resource.heartbeat && !resource.nobody).then_some(payload),
        name: if resource_name.is_some() { String::new() } else { resource.name.clone() },
        aliases: resource.aliases.clone(),
        ttl: resource.ttl.map(seconds),
        cache_control: resource.uncached.then_some(discovery::resource::CacheControl { do_not_cache: true }),
        resource_name,
        ..Default::default()
    }
    .encode_to_vec();
    if resource.unknown {
        field(&mut out, UNKNOWN, IN_WRAPPER.as_bytes());
    }
    out
}

/// A response of Outpost, as a client would read it.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub type_url: String,
    pub label: String,
    pub nonce: String,
    pub control_plane: String,
    pub resources: Vec<SeenResource>,
    pub removed: Vec<String>,
    pub errors: Vec<(String, i32)>,
    pub bytes: usize,
    /// How often the mark of an unknown wrapper field stands in it.
    pub unknown_kept: usize,
}

#[derive(Clone, Debug, Default)]
pub struct SeenResource {
    pub name: String,
    /// Delta, or in a wrapper.
    pub version: Option<String>,
    pub payload: Option<(String, Bytes)>,
    pub aliases: Vec<String>,
    pub ttl: Option<Duration>,
    pub constrained: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Named {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(bytes = "bytes", tag = "1000")]
    content: Bytes,
}

impl Seen {
    pub fn read(wire: Wire, message: &Bytes) -> Result<Self, String> {
        let bad = |error: prost::DecodeError| format!("Outpost sent what cannot be decoded: {error}");
        let errors = |list: Vec<discovery::ResourceError>| {
            let one = |error: discovery::ResourceError| {
                (error.resource_name.unwrap_or_default().name, error.error_detail.unwrap_or_default().code)
            };
            list.into_iter().map(one).collect()
        };
        let marks = message.windows(IN_WRAPPER.len()).filter(|part| *part == IN_WRAPPER.as_bytes()).count();
        let mut seen = Self { bytes: message.len(), unknown_kept: marks, ..Self::default() };
        match wire {
            Wire::Sotw => {
                let read = discovery::DiscoveryResponse::decode(message.clone()).map_err(bad)?;
                seen.label = read.version_info;
                seen.type_url = read.type_url;
                seen.nonce = read.nonce;
                seen.control_plane = read.control_plane.unwrap_or_default().identifier;
                seen.errors = errors(read.resource_errors);
                for any in read.resources {
                    seen.resources.push(match any.type_url.as_str() {
                        WRAPPER => SeenResource::of(discovery::Resource::decode(any.value).map_err(bad)?),
                        _ => SeenResource {
                            name: Named::decode(any.value.clone()).map_err(bad)?.name,
                            payload: Some((any.type_url, any.value)),
                            ..SeenResource::default()
                        },
                    });
                }
            }
            Wire::Delta => {
                let read = discovery::DeltaDiscoveryResponse::decode(message.clone()).map_err(bad)?;
                seen.label = read.system_version_info;
                seen.type_url = read.type_url;
                seen.nonce = read.nonce;
                seen.control_plane = read.control_plane.unwrap_or_default().identifier;
                seen.errors = errors(read.resource_errors);
                seen.removed = read.removed_resources;
                seen.removed.extend(read.removed_resource_names.into_iter().map(|name| name.name));
                seen.resources = read.resources.into_iter().map(SeenResource::of).collect();
            }
        }
        Ok(seen)
    }

    /// For a message in a report.
    pub fn show(&self) -> String {
        let one = |resource: &SeenResource| {
            let content = resource.payload.as_ref().and_then(|(_, bytes)| Named::decode(bytes.clone()).ok());
            let content = content.map(|read| String::from_utf8_lossy(&read.content).into_owned());
            let mut text =
                format!("{}:{}", resource.name, content.as_deref().unwrap_or("no body").trim_end_matches('.'));
            if let Some(ttl) = resource.ttl {
                text.push_str(&format!("(ttl {ttl:?})"));
            }
            text
        };
        let mut names: Vec<_> = self.resources.iter().take(12).map(one).collect();
        if self.resources.len() > names.len() {
            names.push(format!("… {} in all", self.resources.len()));
        }
        let short = self.type_url.rsplit('.').next().unwrap_or_default();
        let mut text = format!("{short} {{{}}} {} nonce {}", names.join(", "), self.label, self.nonce);
        if !self.removed.is_empty() {
            text.push_str(&format!(" removed {:?}", self.removed));
        }
        if !self.errors.is_empty() {
            text.push_str(&format!(" errors {:?}", self.errors));
        }
        text
    }
}

impl SeenResource {
    fn of(read: discovery::Resource) -> Self {
        let constrained = read.resource_name.is_some();
        let name = read.resource_name.map_or(read.name, |name| name.name);
        let span = |span: protobuf::Duration| Duration::new(span.seconds.max(0) as u64, span.nanos.max(0) as u32);
        Self {
            name,
            version: Some(read.version),
            payload: read.resource.map(|any| (any.type_url, any.value)),
            aliases: read.aliases,
            ttl: read.ttl.map(span),
            constrained,
        }
    }
}

/// A request that reached the control plane, in either variant.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    pub type_url: String,
    pub names: Vec<String>,
    pub unsubscribe: Vec<String>,
    pub initial: HashMap<String, String>,
    pub nonce: String,
    pub error: bool,
    pub node: Option<AskedNode>,
}

#[derive(Clone, Debug, Default)]
pub struct AskedNode {
    pub id: String,
    pub generator: String,
    pub unknown: bool,
}

impl Asked {
    pub fn read(wire: Wire, message: Bytes) -> Result<Self, prost::DecodeError> {
        let unknown = message.windows(IN_NODE.len()).any(|part| part == IN_NODE.as_bytes());
        let node = |node: outpost::proto::core::Node| {
            let value = node.metadata.and_then(|metadata| metadata.fields.get("GENERATOR").cloned());
            let generator = match value.and_then(|value| value.kind) {
                Some(protobuf::value::Kind::StringValue(text)) => text,
                _ => String::new(),
            };
            AskedNode { id: node.id, generator, unknown }
        };
        Ok(match wire {
            Wire::Sotw => {
                let read = discovery::DiscoveryRequest::decode(message)?;
                Self {
                    type_url: read.type_url,
                    names: read.resource_names,
                    nonce: read.response_nonce,
                    error: read.error_detail.is_some(),
                    node: read.node.map(node),
                    ..Self::default()
                }
            }
            Wire::Delta => {
                let read = discovery::DeltaDiscoveryRequest::decode(message)?;
                Self {
                    type_url: read.type_url,
                    names: read.resource_names_subscribe,
                    unsubscribe: read.resource_names_unsubscribe,
                    initial: read.initial_resource_versions.into_iter().collect(),
                    nonce: read.response_nonce,
                    error: read.error_detail.is_some(),
                    node: read.node.map(node),
                }
            }
        })
    }
}
