//! Texts with fields of a node in them: `{cluster}/{metadata.NAMESPACE}`.

use super::Identity;
use crate::xds::Node;
use std::fmt;

/// Why a text is no template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("{0:?} is neither perNode nor all and has no {{field}} in it; fields are {FIELDS}")]
    NoField(String),
    #[error("a brace is not closed, or closed twice, in {0:?}")]
    Brace(String),
    #[error("{{{0}}} is no field; fields are {FIELDS}")]
    UnknownField(String),
    #[error("{{id}} would give each node a group of its own; say perNode")]
    Id,
    #[error("nothing stands between {{{0}}} and {{{1}}}, so different nodes could get one group; put a / between them")]
    Adjacent(String, String),
    #[error("{0:?} must not stand between fields; use / or another separator")]
    Separator(char),
    #[error("the shared node's id names {{{0}}}, which the group rule does not, so members may differ in it")]
    NotCommon(String),
}

const FIELDS: &str = "{cluster}, {metadata.KEY}, {metadata.KEY[key.with.dots]}, {locality.region}, {locality.zone}, \
                      {locality.sub_zone}, {user_agent_name}, {identity}";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Cluster,
    Metadata(Vec<String>),
    Region,
    Zone,
    SubZone,
    UserAgentName,
    Identity,
    /// The group's key, in the id of a shared node only.
    Group,
}

impl Field {
    fn parse(text: &str) -> Result<Self, TemplateError> {
        Ok(match text {
            "cluster" => Self::Cluster,
            "locality.region" => Self::Region,
            "locality.zone" => Self::Zone,
            "locality.sub_zone" => Self::SubZone,
            "user_agent_name" => Self::UserAgentName,
            "identity" => Self::Identity,
            "group" => Self::Group,
            "id" => return Err(TemplateError::Id),
            _ => {
                let path = text.strip_prefix("metadata.").and_then(parse_path);
                Self::Metadata(path.ok_or_else(|| TemplateError::UnknownField(text.into()))?)
            }
        })
    }

    pub(super) fn is_group(&self) -> bool {
        *self == Self::Group
    }

    pub(super) fn is_identity(&self) -> bool {
        *self == Self::Identity
    }

    /// The value in `node`; none where it is missing, empty or no text.
    pub(super) fn value<'a>(&self, node: &'a Node, identity: Option<&'a Identity>) -> Option<&'a str> {
        let text = match self {
            Self::Cluster => node.cluster.as_str(),
            Self::Region => &node.region,
            Self::Zone => &node.zone,
            Self::SubZone => &node.sub_zone,
            Self::UserAgentName => &node.user_agent_name,
            Self::Identity => identity?.as_str(),
            Self::Metadata(path) => {
                path.iter().try_fold(&node.metadata, |value, key| value.get(key.as_str()))?.as_str()?
            }
            Self::Group => return None,
        };
        (!text.is_empty()).then_some(text)
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cluster => f.write_str("cluster"),
            Self::Region => f.write_str("locality.region"),
            Self::Zone => f.write_str("locality.zone"),
            Self::SubZone => f.write_str("locality.sub_zone"),
            Self::UserAgentName => f.write_str("user_agent_name"),
            Self::Identity => f.write_str("identity"),
            Self::Group => f.write_str("group"),
            Self::Metadata(path) => {
                f.write_str("metadata")?;
                path.iter().try_for_each(|key| {
                    if key.contains(['.', '[']) { write!(f, "[{key}]") } else { write!(f, ".{key}") }
                })
            }
        }
    }
}

/// `LABELS.app` and `LABELS[app.kubernetes.io/name]` are two keys each.
pub(super) fn parse_path(mut text: &str) -> Option<Vec<String>> {
    let mut path = Vec::new();
    loop {
        let end = text.find(['.', '[']).unwrap_or(text.len());
        let (key, rest) = text.split_at(end);
        if key.is_empty() {
            return None;
        }
        path.push(key.to_owned());
        text = rest;
        while let Some(quoted) = text.strip_prefix('[') {
            let (key, rest) = quoted.split_once(']')?;
            if key.is_empty() {
                return None;
            }
            path.push(key.to_owned());
            text = rest;
        }
        match text.strip_prefix('.') {
            Some(rest) => text = rest,
            None if text.is_empty() => return Some(path),
            None => return None,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(String),
    Field(Field),
}

/// A text with fields in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

impl Template {
    /// A rule for keys: at least one field, and something between any two.
    pub(super) fn parse_key(text: &str) -> Result<Self, TemplateError> {
        let template = Self::parse_text(text)?;
        if template.fields().any(Field::is_group) {
            return Err(TemplateError::UnknownField("group".into()));
        }
        if template.fields().next().is_none() {
            return Err(TemplateError::NoField(text.into()));
        }
        for pair in template.parts.windows(2) {
            if let [Part::Field(one), Part::Field(other)] = pair {
                return Err(TemplateError::Adjacent(one.to_string(), other.to_string()));
            }
        }
        let reserved = template.literals().chars().find(|c| matches!(c, ';' | '%') || needs_escape(*c));
        reserved.map_or(Ok(template), |c| Err(TemplateError::Separator(c)))
    }

    /// Any text, with or without fields.
    pub(super) fn parse_text(text: &str) -> Result<Self, TemplateError> {
        let brace = || TemplateError::Brace(text.into());
        let mut parts = Vec::new();
        let mut rest = text;
        while !rest.is_empty() {
            let end = rest.find(['{', '}']).unwrap_or(rest.len());
            let (literal, after) = rest.split_at(end);
            if !literal.is_empty() {
                parts.push(Part::Literal(literal.into()));
            }
            if after.is_empty() {
                break;
            }
            let (name, after) = after.strip_prefix('{').and_then(|open| open.split_once('}')).ok_or_else(brace)?;
            if name.contains('{') {
                return Err(brace());
            }
            parts.push(Part::Field(Field::parse(name)?));
            rest = after;
        }
        Ok(Self { parts })
    }

    pub(super) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.parts.iter().filter_map(|part| match part {
            Part::Field(field) => Some(field),
            Part::Literal(_) => None,
        })
    }

    fn literals(&self) -> String {
        let literals = self.parts.iter().filter_map(|part| match part {
            Part::Literal(text) => Some(text.as_str()),
            Part::Field(_) => None,
        });
        literals.collect()
    }

    /// The key of `node`, or the first field that it lacks. Injective in the
    /// values: between two fields stands text that no value contains unescaped.
    pub(super) fn key(&self, node: &Node, identity: Option<&Identity>) -> Result<String, String> {
        let separators = self.literals();
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Literal(text) => key.push_str(text),
                Part::Field(field) => {
                    let value = field.value(node, identity).ok_or_else(|| field.to_string())?;
                    key.push_str(&escape(value, |c| separators.contains(c)));
                }
            }
        }
        Ok(key)
    }

    /// The text for `node`, in which nothing is escaped. A field that it lacks
    /// is empty.
    pub(super) fn text(&self, node: &Node, identity: Option<&Identity>, group: &str) -> String {
        let mut text = String::new();
        for part in &self.parts {
            text.push_str(match part {
                Part::Literal(literal) => literal,
                Part::Field(Field::Group) => group,
                Part::Field(field) => field.value(node, identity).unwrap_or_default(),
            });
        }
        text
    }
}

fn needs_escape(c: char) -> bool {
    matches!(c, '%' | ';') || c.is_control() || c.is_whitespace()
}

/// `text` with what could be taken for a part of the key's own form, and what
/// does not print, as `%XX`.
pub(super) fn escape(text: &str, also: impl Fn(char) -> bool) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if needs_escape(c) || also(c) {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
    out
}
