//! Which sidecars share what: node and verified identity → group. Pure.
//!
//! [`Rules::assign`] is a function of what it is given, so every replica puts
//! a node into the same group.
//!
//! Promise: two nodes get one key only if the rule calls them equal, and they
//! declare the same `client_features` (but for the two that Outpost serves
//! itself, C-024) and the same `metadata.GENERATOR` (C-194). A key is the rendered
//! rule with what could be taken for a separator escaped, so no value of one
//! node makes the key of another.
//!
//! A group of one node presents that node upstream as it stands. A shared group
//! presents a node made from the fields that its rule names, which are equal in
//! all members; nothing else of a member leaves (C-139).

pub mod authorize;
mod template;

pub use authorize::{Allowed, Authorize, AuthorizeError, Denied};
pub use template::{Template, TemplateError};

use crate::breaks;
use crate::xds::node::{Presented, write_struct};
use crate::xds::wire::Writer;
use crate::xds::{Node, TypeUrl};
use bytes::Bytes;
use serde_json::{Map, Value as Json};
use std::fmt;
use std::sync::Arc;

/// Who a client has proven to be: the URI (`spiffe://…`) or DNS name of its
/// certificate, or the subject of its token. Never what a node claims.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity(Arc<str>);

impl Identity {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn text(&self) -> &Arc<str> {
        &self.0
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one group. Cheap to clone; equal where the text is equal.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GroupKey(Arc<str>);

impl GroupKey {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The group of one stream, which is a member of `group`, for what must not be
    /// shared. No rule renders to this: `;` is escaped.
    pub fn private(number: u64, group: &Self) -> Self {
        Self(format!("{PRIVATE}{number};{group}").into())
    }

    /// The text of the key, or of that of which this is a private group.
    pub fn base(&self) -> &str {
        let base = self.0.strip_prefix(PRIVATE).and_then(|rest| rest.split_once(';'));
        base.map_or(&self.0, |(_, base)| base)
    }

    /// What the group is called by its rule: what that renders to, or the id of a node
    /// where each has a group of its own; escaped. None where the rule could not be
    /// rendered: an id that a node states is never taken for what a rule says.
    pub fn called(&self) -> Option<&str> {
        let (called, rest) = self.base().split_once(';').unwrap_or((self.base(), ""));
        let unmatched = rest.split(';').next() == UNMATCHED.strip_prefix(';');
        (!called.is_empty() && !unmatched).then_some(called)
    }

    pub fn is_private(&self) -> bool {
        self.0.starts_with(PRIVATE)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn text(&self) -> &Arc<str> {
        &self.0
    }
}

const PRIVATE: &str = ";private=";
/// After the id of a node that has a group of its own.
const NODE: &str = ";node";
/// After that of a node that lacks a field of the rule.
const UNMATCHED: &str = ";unmatched";

impl fmt::Display for GroupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How nodes are grouped, as an operator states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Grouping {
    /// One group for each node id and identity.
    #[default]
    PerNode,
    /// One group for all.
    All,
    /// One group for each value of some fields.
    Template(Template),
}

impl std::str::FromStr for Grouping {
    type Err = TemplateError;

    fn from_str(text: &str) -> Result<Self, TemplateError> {
        match text {
            "perNode" => Ok(Self::PerNode),
            "all" => Ok(Self::All),
            _ => Template::parse_key(text).map(Self::Template),
        }
    }
}

/// Whom secrets are served to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Secrets {
    /// Groups whose key contains a verified identity.
    #[default]
    Identity,
    /// Whoever can connect: the network is trusted.
    TrustNetwork,
}

/// The node that shared groups present upstream.
#[derive(Clone, Debug, Default)]
pub struct SharedNode {
    /// Its id; `{group}` and the fields of the rule may stand in it. Without
    /// one: `outpost~` and the group.
    pub id: Option<String>,
    /// Metadata that every shared group states, by top-level key.
    pub metadata: Vec<(String, String)>,
}

/// Which rule made a group. A closed set, fit for metric labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    PerNode,
    All,
    Template,
    /// The template names a field that the node does not have.
    Unmatched,
    /// The node states no id.
    Nodeless,
}

impl Rule {
    pub fn label(self) -> &'static str {
        match self {
            Self::PerNode => "perNode",
            Self::All => "all",
            Self::Template => "template",
            Self::Unmatched => "unmatched",
            Self::Nodeless => "nodeless",
        }
    }
}

/// The group of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assigned {
    pub key: GroupKey,
    /// The `Node` message to present upstream for this group.
    pub presented: Presented,
    pub rule: Rule,
    /// The field of the rule that the node lacks. It has a group of its own,
    /// and its status says so.
    pub unmatched: Option<String>,
    /// Sensitive types may be served from this group (see [`Rules::sensitive`]).
    pub sensitive_ok: bool,
}

/// The types whose resources are credentials, where an operator names no others.
pub fn sensitive_types() -> Vec<TypeUrl> {
    TypeUrl::from_short("sds").into_iter().collect()
}

/// The rules of this Outpost. Immutable.
#[derive(Clone, Debug)]
pub struct Rules {
    authorize: Authorize,
    sensitive: Vec<TypeUrl>,
    /// Every key contains the identity, whatever the rule says.
    by_identity: bool,
    grouping: Grouping,
    secrets: Secrets,
    /// `None`: the default id.
    shared_id: Option<Template>,
    shared_metadata: Vec<(String, String)>,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            authorize: Authorize::default(),
            sensitive: sensitive_types(),
            by_identity: false,
            grouping: Grouping::default(),
            secrets: Secrets::default(),
            shared_id: None,
            shared_metadata: Vec::new(),
        }
    }
}

impl Rules {
    /// Fails where the shared node's id names a field that members of a group
    /// may not have in common.
    pub fn new(grouping: Grouping, secrets: Secrets, shared: SharedNode) -> Result<Self, TemplateError> {
        let shared_id = shared.id.as_deref().map(Template::parse_text).transpose()?;
        if let Some(id) = &shared_id {
            let common = match &grouping {
                Grouping::Template(template) => template.fields().collect(),
                Grouping::PerNode | Grouping::All => Vec::new(),
            };
            if let Some(field) = id.fields().find(|field| !field.is_group() && !common.contains(field)) {
                return Err(TemplateError::NotCommon(field.to_string()));
            }
        }
        Ok(Self { grouping, secrets, shared_id, shared_metadata: shared.metadata, ..Self::default() })
    }

    /// With other rules of who may claim what.
    pub fn authorized_by(self, authorize: Authorize) -> Self {
        Self { authorize, ..self }
    }

    /// With other sensitive types.
    pub fn guarding(self, sensitive: Vec<TypeUrl>) -> Self {
        Self { sensitive, ..self }
    }

    /// With the identity in every key: what a group gets from upstream, it gets
    /// by a credential of its members.
    pub fn by_identity(self) -> Self {
        Self { by_identity: true, ..self }
    }

    /// Types whose resources are credentials.
    pub fn sensitive(&self) -> &[TypeUrl] {
        &self.sensitive
    }

    /// Who asks for names may be refused some.
    pub fn limits_names(&self) -> bool {
        self.authorize.limits_names()
    }

    /// May a client that has proven to be `identity` be `node`? Who has no
    /// identity cannot be held to one: it never gets what is sensitive.
    pub fn authorize(&self, node: &Node, identity: Option<&Identity>) -> Result<Allowed, Denied> {
        identity.map_or(Ok(Allowed::default()), |identity| self.authorize.decide(identity, node))
    }

    pub fn secrets(&self) -> Secrets {
        self.secrets
    }

    /// Another text where keys mean something else, or groups present another node.
    pub fn fingerprint(&self) -> String {
        let Self { by_identity, grouping, secrets, shared_id, shared_metadata, .. } = self;
        let all = format!("{by_identity} {grouping:?} {secrets:?} {shared_id:?} {shared_metadata:?}");
        blake3::hash(all.as_bytes()).to_hex().to_string()
    }

    pub fn grouping(&self) -> &Grouping {
        &self.grouping
    }

    /// The group of `node`, whose client has proven to be `identity`.
    pub fn assign(&self, node: &Node, identity: Option<&Identity>) -> Assigned {
        if node.id.is_empty() {
            // No template renders to this: `;` is escaped.
            let key = with_identity(";nodeless".into(), identity);
            return self.shared(node, key, Rule::Nodeless, identity, identity.is_some(), None);
        }
        match &self.grouping {
            Grouping::PerNode => self.alone(node, NODE, identity, Rule::PerNode, None),
            Grouping::All => self.shared(node, "all".into(), Rule::All, identity, false, None),
            Grouping::Template(template) => match template.key(node, identity) {
                Ok(key) => {
                    let identified = template.fields().any(template::Field::is_identity);
                    self.shared(node, key, Rule::Template, identity, identified, Some((template, identity)))
                }
                Err(field) => self.alone(node, UNMATCHED, identity, Rule::Unmatched, Some(field)),
            },
        }
    }

    /// A group of one node, presented as it stands. `mark` follows its id.
    fn alone(
        &self,
        node: &Node,
        mark: &str,
        identity: Option<&Identity>,
        rule: Rule,
        unmatched: Option<String>,
    ) -> Assigned {
        let mut key = template::escape(&node.id, |_| false);
        key.push_str(mark);
        let key = with_identity(key, identity);
        Assigned {
            key: with_variants(key, node),
            presented: node.presented(),
            rule,
            unmatched,
            sensitive_ok: self.sensitive_ok(identity.is_some()),
        }
    }

    fn shared(
        &self,
        node: &Node,
        key: String,
        rule: Rule,
        verified: Option<&Identity>,
        identified: bool,
        named: Option<(&Template, Option<&Identity>)>,
    ) -> Assigned {
        let presented = self.present(node, &key, named);
        let nodeless = rule == Rule::Nodeless;
        let (key, identified) = match verified.filter(|_| self.by_identity && !nodeless) {
            Some(_) => (with_identity(key, verified), true),
            None => (key, identified),
        };
        Assigned {
            key: with_variants(key, node),
            presented: presented.into(),
            rule,
            unmatched: None,
            sensitive_ok: self.sensitive_ok(identified),
        }
    }

    fn sensitive_ok(&self, identified: bool) -> bool {
        identified || self.secrets == Secrets::TrustNetwork
    }

    /// The synthetic node: fields that the rule names, which all members have
    /// in common, and nothing else of `node`.
    fn present(&self, node: &Node, key: &str, named: Option<(&Template, Option<&Identity>)>) -> Bytes {
        let mut common = Common::default();
        for (name, value) in &self.shared_metadata {
            common.metadata.insert(name.clone(), Json::String(value.clone()));
        }
        if let Some(generator) = node.metadata.get(GENERATOR) {
            common.metadata.insert(GENERATOR.into(), generator.clone());
        }
        let mut identity = None;
        if let Some((template, verified)) = named {
            identity = verified;
            for field in template.fields() {
                common.copy(field, node);
            }
        }
        let id = match &self.shared_id {
            Some(template) => template.text(node, identity, key),
            None => format!("outpost~{}", key.trim_start_matches(';')),
        };
        common.write(&id, node)
    }
}

const GENERATOR: &str = "GENERATOR";

fn with_identity(mut key: String, identity: Option<&Identity>) -> String {
    if let Some(identity) = identity {
        key.push_str(";identity=");
        key.push_str(&template::escape(identity.as_str(), |_| false));
    }
    key
}

/// Adds what separates nodes that the rule calls equal.
fn with_variants(mut key: String, node: &Node) -> GroupKey {
    if breaks::on("C-139") {
        key = "one".into();
    }
    if let Some(generator) = node.metadata.get(GENERATOR).filter(|_| !breaks::on("C-194")) {
        // As JSON, so that a number is not the text of its digits.
        let text = generator.as_str().map_or_else(|| format!("json:{generator}"), |text| format!("text:{text}"));
        key.push_str(";generator=");
        key.push_str(&template::escape(&text, |_| false));
    }
    let features = node.other_features();
    if !features.is_empty() {
        let mut hash = blake3::Hasher::new();
        for feature in features {
            hash.update(&(feature.len() as u64).to_le_bytes());
            hash.update(feature.as_bytes());
        }
        key.push_str(";features=");
        key.push_str(&hash.finalize().to_hex()[..32]);
    }
    GroupKey::new(key)
}

/// What the members of a shared group have in common.
#[derive(Default)]
struct Common {
    cluster: String,
    metadata: Map<String, Json>,
    locality: [String; 3],
    user_agent_name: String,
}

impl Common {
    fn copy(&mut self, field: &template::Field, node: &Node) {
        use template::Field;
        match field {
            Field::Cluster => self.cluster.clone_from(&node.cluster),
            Field::Region => self.locality[0].clone_from(&node.region),
            Field::Zone => self.locality[1].clone_from(&node.zone),
            Field::SubZone => self.locality[2].clone_from(&node.sub_zone),
            Field::UserAgentName => self.user_agent_name.clone_from(&node.user_agent_name),
            Field::Metadata(path) => {
                if let Some(value) = field.value(node, None) {
                    insert_at(&mut self.metadata, path, value);
                }
            }
            Field::Identity | Field::Group => {}
        }
    }

    fn write(self, id: &str, node: &Node) -> Bytes {
        let mut out = Writer::default();
        out.string(1, id);
        out.string(2, if self.cluster.is_empty() { "outpost" } else { &self.cluster });
        if !self.metadata.is_empty() {
            let metadata = Json::Object(self.metadata);
            out.message(3, |out| write_struct(&metadata, out));
        }
        if self.locality.iter().any(|part| !part.is_empty()) {
            out.message(4, |out| {
                for (number, part) in (1..).zip(&self.locality) {
                    out.string(number, part);
                }
            });
        }
        out.string(6, if self.user_agent_name.is_empty() { "outpost" } else { &self.user_agent_name });
        for feature in node.other_features() {
            out.string(10, feature);
        }
        // Outpost serves these two itself, whatever a member declares (C-024).
        out.string(10, "xds.config.resource-in-sotw");
        out.string(10, "xds.config.supports-resource-ttl");
        out.finish()
    }
}

fn insert_at(object: &mut Map<String, Json>, path: &[String], value: &str) {
    match path {
        [] => {}
        [key] => {
            object.insert(key.clone(), Json::String(value.into()));
        }
        [key, rest @ ..] => {
            let below = object.entry(key.clone()).or_insert_with(|| Json::Object(Map::new()));
            if !below.is_object() {
                *below = Json::Object(Map::new());
            }
            if let Json::Object(below) = below {
                insert_at(below, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests;
