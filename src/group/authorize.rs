//! What a proven identity may claim to be, and which names it may have. Pure.
//!
//! A rule is a pattern for identities, the fields of a node that such an identity
//! may state, and the names it may have of some types:
//!
//! ```text
//! identity: spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}
//! node:
//!   metadata.NAMESPACE: "{namespace}"
//! names:
//!   sds: ["kubernetes://{namespace}/*"]
//! ```
//!
//! The first rule whose pattern fits counts; an identity that none fits may be no
//! node. `{name}` in the pattern is a part of the identity without `/`, and stands
//! for that part below; `*` is any text, in the pattern without `/`; a last `/**`,
//! or `**` alone, is all the rest. But for `**` alone, only a pattern that begins
//! with `jwt:` is for the subjects of tokens: they can be any text.
//!
//! Promise: a node that states a field otherwise than its rule says is refused,
//! however it states it. A field that it does not state claims nothing.

use super::Identity;
use super::template::parse_path;
use crate::xds::{Node, TypeUrl};
use serde::Deserialize;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What counts where an operator states no rules: identities as Istio gives them
/// name the namespace and the service account. Others name neither, so that a node
/// of theirs may state none: an empty text is only what is not stated.
pub const DEFAULTS: [&str; 2] = [
    r#"{"identity":"spiffe://{trustDomain}/ns/{namespace}/sa/{serviceAccount}","node":{"metadata.NAMESPACE":"{namespace}","metadata.SERVICE_ACCOUNT":"{serviceAccount}","id.namespace":"{namespace}"}}"#,
    r#"{"identity":"**","node":{"metadata.NAMESPACE":"","metadata.SERVICE_ACCOUNT":"","id.namespace":""}}"#,
];

/// Why a text is no rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorizeError {
    #[error(
        "is no rule ({0}); write {{\"identity\": PATTERN, \"node\": {{FIELD: TEXT}}, \"names\": {{TYPE: [TEXT]}}}}"
    )]
    Shape(String),
    #[error("has no pattern in identity; write spiffe://…, or ** for everybody")]
    Empty,
    #[error("has a brace that is not closed, or closed twice, in {0:?}")]
    Brace(String),
    #[error("has {0:?} in its pattern; one part of an identity, between two /, holds one {{name}} and no *, or only *")]
    Part(String),
    #[error("names {{{0}}}, which its pattern does not have")]
    Unbound(String),
    #[error(
        "names {0:?}, which is no field of a node; fields are id, id.namespace, cluster, metadata.KEY, locality.region, locality.zone, locality.sub_zone and user_agent_name"
    )]
    Field(String),
    #[error("names {0:?}, which is no type; write cds, sds, … or a whole type URL")]
    Type(String),
}

/// All rules, in their order.
#[derive(Clone, Debug)]
pub struct Authorize(Vec<Rule>);

impl Default for Authorize {
    fn default() -> Self {
        // They are rules: a test reads them.
        Self::read(DEFAULTS).unwrap_or(Self(Vec::new()))
    }
}

/// A node that its identity may not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    /// The field that is stated otherwise; none where no rule is for the identity.
    pub field: Option<String>,
}

/// What an identity may have.
#[derive(Clone, Debug, Default)]
pub struct Allowed(Option<Arc<BTreeMap<TypeUrl, Vec<Bound>>>>);

impl Allowed {
    /// Not every name of some type.
    pub fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    pub fn limits(&self, type_url: &TypeUrl) -> bool {
        self.0.as_ref().is_some_and(|names| names.contains_key(type_url))
    }

    /// May it have this name of the type?
    pub fn has(&self, type_url: &TypeUrl, name: &str) -> bool {
        let limits = self.0.as_ref().and_then(|names| names.get(type_url));
        limits.is_none_or(|all| all.iter().any(|of| of.is(name)))
    }
}

impl Authorize {
    /// Each text is a rule in JSON.
    pub fn read<T: AsRef<str>>(rules: impl IntoIterator<Item = T>) -> Result<Self, AuthorizeError> {
        rules.into_iter().map(|text| Rule::read(text.as_ref())).collect::<Result<_, _>>().map(Self)
    }

    /// Some rule lets somebody have only some names.
    pub fn limits_names(&self) -> bool {
        self.0.iter().any(|rule| !rule.names.is_empty())
    }

    /// May `identity` be `node`, and which names may it have then? The answer
    /// depends on nothing else: not on whether there is such a node.
    pub fn decide(&self, identity: &Identity, node: &Node) -> Result<Allowed, Denied> {
        let found = self.0.iter().find_map(|rule| Some((rule, rule.identity.fit(identity.as_str())?)));
        let Some((rule, parts)) = found else { return Err(Denied { field: None }) };
        for (field, template) in &rule.node {
            let wanted = template.bind(&parts);
            if !field.stated(node).iter().all(|stated| stated.is_some_and(|text| wanted.is(text))) {
                return Err(Denied { field: Some(field.to_string()) });
            }
        }
        if rule.names.is_empty() {
            return Ok(Allowed::default());
        }
        let bind = |all: &Vec<Template>| all.iter().map(|template| template.bind(&parts)).collect();
        let names = rule.names.iter().map(|(type_url, all)| (type_url.clone(), bind(all))).collect();
        Ok(Allowed(Some(Arc::new(names))))
    }
}

#[derive(Clone, Debug)]
struct Rule {
    identity: Pattern,
    node: Vec<(Field, Template)>,
    names: BTreeMap<TypeUrl, Vec<Template>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stated {
    identity: String,
    #[serde(default)]
    node: BTreeMap<String, String>,
    #[serde(default)]
    names: BTreeMap<String, Vec<String>>,
}

impl Rule {
    fn read(text: &str) -> Result<Self, AuthorizeError> {
        let stated: Stated = serde_json::from_str(text).map_err(|error| {
            let text = error.to_string();
            AuthorizeError::Shape(text.split(" at line").next().unwrap_or_default().to_owned())
        })?;
        let identity = Pattern::read(&stated.identity)?;
        let template = |text: &String| {
            let template = Template::read(text)?;
            let unbound = template.variables().find(|name| !identity.binds(name)).map(str::to_owned);
            unbound.map_or(Ok(template), |name| Err(AuthorizeError::Unbound(name)))
        };
        let node = stated.node.iter().map(|(field, text)| Ok((Field::read(field)?, template(text)?)));
        let node = node.collect::<Result<_, AuthorizeError>>()?;
        let mut names = BTreeMap::new();
        for (name, texts) in &stated.names {
            let known = if name.contains('/') { Some(TypeUrl::new(name)) } else { TypeUrl::from_short(name) };
            let type_url = known.ok_or_else(|| AuthorizeError::Type(name.clone()))?;
            names.insert(type_url, texts.iter().map(template).collect::<Result<_, _>>()?);
        }
        Ok(Self { identity, node, names })
    }
}

/// Parts of an identity, by their names in the pattern.
type Parts<'a> = BTreeMap<&'a str, &'a str>;

/// Which identities a rule is for.
#[derive(Clone, Debug)]
struct Pattern {
    segments: Vec<Segment>,
    /// More may follow.
    open: bool,
    /// It may be for subjects of tokens.
    subjects: bool,
}

/// How the identity of a token begins whose subject is no workload.
const SUBJECT: &str = "jwt:";

#[derive(Clone, Debug)]
enum Segment {
    Glob(Bound),
    Part { before: String, name: String, after: String },
}

impl Pattern {
    fn read(text: &str) -> Result<Self, AuthorizeError> {
        if text.is_empty() {
            return Err(AuthorizeError::Empty);
        }
        let rest = if text == "**" { Some("") } else { text.strip_suffix("/**") };
        let segments = rest.unwrap_or(text).split('/').filter(|_| text != "**").map(Segment::read);
        let subjects = text == "**" || text.starts_with(SUBJECT);
        Ok(Self { segments: segments.collect::<Result<_, _>>()?, open: rest.is_some(), subjects })
    }

    fn binds(&self, wanted: &str) -> bool {
        self.segments.iter().any(|segment| matches!(segment, Segment::Part { name, .. } if name == wanted))
    }

    fn fit<'a>(&'a self, identity: &'a str) -> Option<Parts<'a>> {
        if identity.starts_with(SUBJECT) && !self.subjects {
            return None;
        }
        let mut parts = Parts::new();
        let mut given = identity.split('/');
        for segment in &self.segments {
            let text = given.next()?;
            match segment {
                Segment::Glob(glob) if glob.is(text) => {}
                Segment::Glob(_) => return None,
                Segment::Part { before, name, after } => {
                    let part = text.strip_prefix(before.as_str())?.strip_suffix(after.as_str())?;
                    if part.is_empty() || parts.insert(name, part).is_some_and(|other| other != part) {
                        return None;
                    }
                }
            }
        }
        (self.open || given.next().is_none()).then_some(parts)
    }
}

impl Segment {
    fn read(text: &str) -> Result<Self, AuthorizeError> {
        let template = Template::read(text)?;
        let bad = || AuthorizeError::Part(text.into());
        if text.contains("**") {
            return Err(bad());
        }
        let literal = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            Piece::Part(_) | Piece::Any => None,
        };
        let (before, rest) = match template.0.as_slice() {
            [first @ Piece::Text(_), rest @ ..] => (literal(first), rest),
            rest => (None, rest),
        };
        match rest {
            [Piece::Part(name), after @ ..]
                if after.len() <= 1 && after.iter().all(|piece| literal(piece).is_some()) =>
            {
                let after = after.first().and_then(literal).unwrap_or_default();
                Ok(Self::Part { before: before.unwrap_or_default(), name: name.clone(), after })
            }
            rest if rest.iter().any(|piece| matches!(piece, Piece::Part(_))) => Err(bad()),
            _ => Ok(Self::Glob(template.bind(&Parts::new()))),
        }
    }
}

/// A text with parts of an identity in it, and `*` for any text.
#[derive(Clone, Debug)]
struct Template(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Text(String),
    Part(String),
    Any,
}

impl Template {
    fn read(text: &str) -> Result<Self, AuthorizeError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let end = rest.find(['{', '}', '*']).unwrap_or(rest.len());
            if end > 0 {
                let (literal, after) = rest.split_at(end);
                pieces.push(Piece::Text(literal.into()));
                rest = after;
            } else if first == '*' {
                pieces.push(Piece::Any);
                rest = rest.get(1..).unwrap_or_default();
            } else {
                let inner = rest.strip_prefix('{').and_then(|open| open.split_once('}'));
                let fits = |(name, _): &(&str, &str)| !name.is_empty() && name.chars().all(char::is_alphanumeric);
                let (name, after) = inner.filter(fits).ok_or_else(|| AuthorizeError::Brace(text.into()))?;
                pieces.push(Piece::Part(name.into()));
                rest = after;
            }
        }
        Ok(Self(pieces))
    }

    fn variables(&self) -> impl Iterator<Item = &str> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Part(name) => Some(name.as_str()),
            Piece::Text(_) | Piece::Any => None,
        })
    }

    fn bind(&self, parts: &Parts<'_>) -> Bound {
        let bind = |piece: &Piece| match piece {
            Piece::Text(text) => Some(text.clone()),
            // Every name is bound: reading the rule made sure of it.
            Piece::Part(name) => Some(parts.get(name.as_str()).copied().unwrap_or_default().to_owned()),
            Piece::Any => None,
        };
        Bound(self.0.iter().map(bind).collect())
    }
}

/// A template whose parts are known: texts, and `None` for any text. What an
/// identity put in is never read as `*`.
#[derive(Clone, Debug)]
struct Bound(Vec<Option<String>>);

impl Bound {
    fn is(&self, text: &str) -> bool {
        let mut rest = text;
        let mut after_any = false;
        let last = self.0.len().saturating_sub(1);
        for (at, piece) in self.0.iter().enumerate() {
            match piece {
                None => after_any = true,
                Some(piece) if !after_any => match rest.strip_prefix(piece.as_str()) {
                    Some(after) => rest = after,
                    None => return false,
                },
                Some(piece) if at == last => return rest.ends_with(piece.as_str()),
                Some(piece) => match rest.find(piece.as_str()) {
                    Some(found) => {
                        rest = rest.get(found + piece.len()..).unwrap_or_default();
                        after_any = false;
                    }
                    None => return false,
                },
            }
        }
        after_any || rest.is_empty()
    }
}

/// A field by which a node claims to be somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Field {
    Id,
    /// What an id of Istio's form, `TYPE~ADDRESS~NAME.NAMESPACE~DOMAIN`, says.
    IdNamespace,
    Cluster,
    Region,
    Zone,
    SubZone,
    UserAgentName,
    /// The path as it was written, and taken apart.
    Metadata(String, Vec<String>),
}

impl Field {
    fn read(text: &str) -> Result<Self, AuthorizeError> {
        Ok(match text {
            "id" => Self::Id,
            "id.namespace" => Self::IdNamespace,
            "cluster" => Self::Cluster,
            "locality.region" => Self::Region,
            "locality.zone" => Self::Zone,
            "locality.sub_zone" => Self::SubZone,
            "user_agent_name" => Self::UserAgentName,
            _ => {
                let path = text.strip_prefix("metadata.").and_then(parse_path);
                Self::Metadata(text.into(), path.ok_or_else(|| AuthorizeError::Field(text.into()))?)
            }
        })
    }

    /// Everything that `node` states there; `None` is what is no text.
    fn stated<'a>(&self, node: &'a Node) -> Vec<Option<&'a str>> {
        let text = match self {
            Self::Id => &node.id,
            Self::IdNamespace => return namespace_of(node).into_iter().map(Some).collect(),
            Self::Cluster => &node.cluster,
            Self::Region => &node.region,
            Self::Zone => &node.zone,
            Self::SubZone => &node.sub_zone,
            Self::UserAgentName => &node.user_agent_name,
            Self::Metadata(_, path) => return metadata(&node.metadata, path),
        };
        if text.is_empty() { Vec::new() } else { vec![Some(text)] }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Id => "id",
            Self::IdNamespace => "id.namespace",
            Self::Cluster => "cluster",
            Self::Region => "locality.region",
            Self::Zone => "locality.zone",
            Self::SubZone => "locality.sub_zone",
            Self::UserAgentName => "user_agent_name",
            Self::Metadata(text, _) => text,
        })
    }
}

/// Istio reads the namespace from the id where the metadata states none: from what
/// follows the first dot of the name, or from the first label of the domain. Then
/// both have to be it. Else the name may have dots, and the domain says nothing.
fn namespace_of(node: &Node) -> Vec<&str> {
    let mut parts = node.id.split('~').skip(2);
    let (Some(name), Some(domain), None) = (parts.next(), parts.next(), parts.next()) else { return Vec::new() };
    let stated = node.metadata_text(&["NAMESPACE"]).is_some_and(|text| !text.is_empty());
    let (of_name, of_domain) = match stated {
        true => (name.rsplit_once('.').map(|(_, rest)| rest), None),
        false => (name.split_once('.').map(|(_, rest)| rest), domain.split_once('.').map(|(first, _)| first)),
    };
    of_name.into_iter().chain(of_domain).filter(|namespace| !namespace.is_empty()).collect()
}

/// Control planes written in Go read keys whatever their case is, so all of
/// them count. What is empty states nothing.
fn metadata<'a>(root: &'a Json, path: &[String]) -> Vec<Option<&'a str>> {
    let mut found = vec![root];
    for key in path {
        let key = folded(key);
        let below = found.into_iter().filter_map(Json::as_object).flatten();
        found = below.filter(|(name, _)| folded(name) == key).map(|(_, value)| value).collect();
    }
    let states = |value: &&Json| !value.is_null() && value.as_str() != Some("");
    found.into_iter().filter(states).map(Json::as_str).collect()
}

/// As Go compares keys: the long s and the sign of kelvin are letters of ASCII to it.
fn folded(key: &str) -> String {
    let fold = |c: char| match c {
        'ſ' => vec!['s'],
        '\u{212a}' => vec!['k'],
        other => other.to_lowercase().collect(),
    };
    key.chars().flat_map(fold).collect()
}

#[cfg(test)]
mod tests;
