//! What is held, with its content, as Envoy's own `/config_dump` shows it; and
//! the same without content, as `/resources`.
//!
//! | query | meaning |
//! |---|---|
//! | `node=GLOB` | what the streams of these nodes have, and how they stand with it |
//! | `group=GLOB` | what these groups are served |
//! | `type=cds` | only this type |
//! | `resource=dynamic_active_clusters` | only this list, its items side by side |
//! | `mask=cluster.name,version_info` | only these fields of each item (of each section, without `resource`) |
//! | `name_regex=` | only resources of such names |
//! | `include_eds` | endpoints too, which Envoy leaves out otherwise |
//!
//! Sections without resources are left out. Of a type that holds credentials, of what must not
//! be cached and of what is not there the type and the name are shown, never content: where items have no
//! name of their own, as a message with its name alone. Of
//! others a redacted copy, in which no field that is annotated as sensitive is
//! left. Of one node or one group the answer is what Envoy answers. Where several
//! may match, each section (each item, with `resource`) names its group.
//!
//! Promise: an answer is written on a thread of its own, two at a time, one part
//! after the other as the reader takes them: however much is held, no more than a
//! section's names and a few parts are in memory, and no sidecar waits.

pub mod mask;
mod stream;
mod write;

pub use stream::{PART, Room};
pub use write::{resources, write};

use crate::content::Entry;
use crate::session::server::Standing;
use crate::xds::{Kind, Name, TypeUrl};
use mask::Mask;
use regex::{Regex, RegexBuilder};
use serde::Deserialize;
use std::sync::Arc;
use std::time::SystemTime;

/// What is asked for.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub of: Of,
    pub type_url: Option<TypeUrl>,
    pub list: Option<&'static List>,
    pub mask: Option<Mask>,
    pub names: Option<Regex>,
    pub endpoints: bool,
}

/// Whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Of {
    #[default]
    Everything,
    Nodes(String),
    Groups(String),
}

impl Of {
    /// No other can be meant.
    fn is_one(&self) -> bool {
        match self {
            Self::Everything => false,
            Self::Nodes(glob) | Self::Groups(glob) => !glob.contains('*'),
        }
    }
}

/// One type of one group, or of one stream.
#[derive(Clone, Debug)]
pub struct Section {
    pub group: String,
    /// Where it is of a stream.
    pub node: Option<String>,
    pub type_url: TypeUrl,
    /// The label that is served.
    pub version: String,
    pub updated: Option<SystemTime>,
    /// Its content is not shown.
    pub sensitive: bool,
    /// By name.
    pub resources: Vec<Held>,
}

/// One resource of it.
#[derive(Clone, Debug)]
pub struct Held {
    pub name: Name,
    pub entry: Option<Arc<Entry>>,
    /// How a stream stands with it.
    pub standing: Option<Standing>,
}

/// Sections as they are looked at, one after the other.
pub type Sections = Box<dyn Iterator<Item = Section> + Send>;

/// How Envoy lists the resources of a type.
#[derive(Debug, PartialEq, Eq)]
pub struct List {
    /// `dynamic_active_clusters`
    pub name: &'static str,
    /// The message around the list, and that of its items.
    section: &'static str,
    item: &'static str,
    /// The field of an item that holds the resource.
    content: &'static str,
    /// The type that is listed, where it is one.
    short: &'static str,
    /// Items have a name of their own, and what else they say is within this.
    state: Option<&'static str>,
    named: bool,
}

const fn list(
    name: &'static str,
    section: &'static str,
    item: &'static str,
    content: &'static str,
    short: &'static str,
) -> List {
    List { name, section, item, content, short, state: None, named: false }
}

static CLUSTERS: List = list("dynamic_active_clusters", "ClustersConfigDump", "DynamicCluster", "cluster", "cds");
static LISTENERS: List = List {
    state: Some("active_state"),
    named: true,
    ..list("dynamic_listeners", "ListenersConfigDump", "DynamicListener", "listener", "lds")
};
static ROUTES: List = list("dynamic_route_configs", "RoutesConfigDump", "DynamicRouteConfig", "route_config", "rds");
static ENDPOINTS: List =
    list("dynamic_endpoint_configs", "EndpointsConfigDump", "DynamicEndpointConfig", "endpoint_config", "eds");
static SECRETS: List =
    List { named: true, ..list("dynamic_active_secrets", "SecretsConfigDump", "DynamicSecret", "secret", "sds") };
static EXTENSIONS: List = list("ecds_filters", "EcdsConfigDump", "EcdsFilterConfig", "ecds_filter", "ecds");
/// Types of which Envoy's dump knows no list.
static OTHERS: List =
    List { named: true, ..list("generic_xds_configs", "ClientConfig", "GenericXdsConfig", "xds_config", "") };
static LISTS: &[&List] = &[&CLUSTERS, &LISTENERS, &ROUTES, &ENDPOINTS, &SECRETS, &EXTENSIONS, &OTHERS];

impl List {
    fn of(type_url: &TypeUrl) -> &'static Self {
        let of_it = |list: &&&'static Self| !list.short.is_empty() && list.short == type_url.short();
        LISTS.iter().find(of_it).copied().unwrap_or(&OTHERS)
    }
}

/// As it stands in the URL.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    node: Option<String>,
    group: Option<String>,
    #[serde(rename = "type")]
    type_url: Option<String>,
    resource: Option<String>,
    mask: Option<String>,
    name_regex: Option<String>,
    include_eds: Option<String>,
}

/// Of a compiled expression.
const REGEX_BYTES: usize = 1 << 20;

impl Query {
    /// Or what is wrong with it.
    pub fn read(asked: Asked) -> Result<Self, String> {
        let of = match (asked.node, asked.group) {
            (None, None) => Of::Everything,
            (Some(node), None) => Of::Nodes(node),
            (None, Some(group)) => Of::Groups(group),
            (Some(_), Some(_)) => return Err("name nodes or groups, not both: a node is in a group".into()),
        };
        let list = asked.resource.as_deref().map(|name| {
            let known = || LISTS.iter().map(|list| list.name).collect::<Vec<_>>().join(", ");
            let found = LISTS.iter().copied().find(|list| list.name == name);
            found.ok_or_else(|| format!("resource={name} is no list; say one of {}", known()))
        });
        let regex = asked.name_regex.as_deref().map(|text| {
            // As Envoy: all of the name.
            let built = RegexBuilder::new(&format!("^(?:{text})$")).size_limit(REGEX_BYTES).build();
            built.map_err(|error| format!("name_regex={text} is no regular expression: {error}"))
        });
        let type_url = asked.type_url.as_deref().map(super::type_of).transpose()?;
        let list = list.transpose()?;
        let mask = asked.mask.as_deref().map(Mask::read).transpose()?;
        if let Some(text) = asked.mask.as_deref().filter(|text| !text.is_empty()) {
            let wanted = list.or(type_url.as_ref().map(List::of));
            let lists: Vec<_> =
                LISTS.iter().copied().filter(|list| wanted.is_none_or(|wanted| wanted == *list)).collect();
            mask::known(text, &lists, list.is_some())?;
        }
        Ok(Self {
            of,
            type_url,
            list,
            mask,
            names: regex.transpose()?,
            endpoints: asked.include_eds.is_some_and(|text| text != "false"),
        })
    }

    /// Is the type wanted?
    pub fn takes(&self, type_url: &TypeUrl) -> bool {
        let list = List::of(type_url);
        if let Some(wanted) = &self.type_url {
            return wanted == type_url && self.list.is_none_or(|wanted| wanted == list);
        }
        match self.list {
            Some(wanted) => wanted == list,
            None => self.endpoints || type_url.kind() != Kind::Endpoint,
        }
    }

    fn takes_name(&self, name: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.is_match(name))
    }
}

#[cfg(test)]
mod tests;
