//! What a group has: types, and their resources by name.

use super::document::Found;
use super::scan::unescaped;
use crate::xds::envelope::Resource;
use crate::xds::name::Glob;
use crate::xds::{Name, TypeUrl};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One type's resources.
#[derive(Clone, Debug, Default)]
pub struct Content {
    /// Made of all of them, so that equal content has equal labels.
    pub label: Arc<str>,
    resources: BTreeMap<Name, Resource>,
    aliases: BTreeMap<Name, Name>,
}

impl Content {
    fn new(resources: BTreeMap<Name, Resource>) -> Self {
        let mut hasher = blake3::Hasher::new();
        let mut feed = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (name, resource) in &resources {
            feed(name.as_bytes());
            feed(resource.version.as_bytes());
            feed(resource.payload.as_ref().map(|payload| &*payload.value).unwrap_or_default());
            resource.aliases.iter().for_each(|alias| feed(alias.as_bytes()));
            feed(&[resource.do_not_cache.into()]);
            feed(resource.constraints.as_deref().unwrap_or_default());
            feed(&resource.extra);
        }
        let label = format!("files-{}", &hasher.finalize().to_hex()[..16]).into();
        let aliases = resources
            .iter()
            .flat_map(|(name, resource)| resource.aliases.iter().map(|alias| (alias.clone(), name.clone())))
            .collect();
        Self { label, resources, aliases }
    }

    pub fn len(&self) -> usize {
        self.resources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    pub fn all(&self) -> impl Iterator<Item = &Resource> {
        self.resources.values()
    }

    pub fn has(&self, name: &str) -> bool {
        self.resources.contains_key(name)
    }

    /// What `name` stands for: a name, an alias, or a glob with its members.
    pub fn named<'a>(&'a self, name: &'a str) -> Vec<&'a Resource> {
        let canonical = self.aliases.get(name).map_or(name, |canonical| canonical);
        match (self.resources.get(canonical), Glob::parse(name)) {
            (Some(resource), _) => vec![resource],
            (None, Some(glob)) => {
                let members = self.resources.iter().filter(|(name, _)| glob.covers(name));
                members.map(|(_, resource)| resource).collect()
            }
            (None, None) => Vec::new(),
        }
    }
}

/// Everything that one group has. Types in writing order.
#[derive(Clone, Debug, Default)]
pub struct View {
    types: BTreeMap<TypeUrl, Arc<Content>>,
}

impl View {
    pub fn of(&self, type_url: &TypeUrl) -> Option<&Arc<Content>> {
        self.types.get(type_url)
    }

    pub fn types(&self) -> impl Iterator<Item = (&TypeUrl, &Arc<Content>)> {
        self.types.iter()
    }
}

/// What a directory says.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    pub files: usize,
    /// Those of groups included.
    pub resources: usize,
    base: Arc<View>,
    groups: BTreeMap<String, Arc<View>>,
}

impl Loaded {
    pub(super) fn new(files: usize, base: Draft, groups: BTreeMap<String, Draft>) -> Self {
        let resources = base.len() + groups.values().map(Draft::len).sum::<usize>();
        let base_view = Arc::new(base.view(None));
        let groups = groups.into_iter().map(|(key, own)| (key, Arc::new(own.view(Some(&base_view))))).collect();
        Self { files, resources, base: base_view, groups }
    }

    /// What the group has that is [called](crate::group::GroupKey::called) so; without a
    /// name of its own, what all have.
    pub fn view(&self, called: Option<&str>) -> &Arc<View> {
        let called = called.and_then(unescaped);
        called.and_then(|called| self.groups.get(&called)).unwrap_or(&self.base)
    }

    /// What the groups are called that have something of their own.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }
}

/// The resources of one directory, and where each stands.
#[derive(Default)]
pub(super) struct Draft {
    types: BTreeMap<TypeUrl, BTreeMap<Name, Resource>>,
    places: BTreeMap<(TypeUrl, Name), (PathBuf, usize)>,
}

impl Draft {
    /// Where another of that type and name is, which stays.
    pub(super) fn add(&mut self, path: &Path, found: Found) -> Option<(PathBuf, usize)> {
        let Found { type_url, name, resource, place } = found;
        let names: BTreeSet<_> = resource.aliases.iter().chain([&name]).cloned().collect();
        let taken = names.iter().find_map(|name| self.places.get(&(type_url.clone(), name.clone())).cloned());
        if taken.is_some() {
            return taken;
        }
        for name in names {
            self.places.insert((type_url.clone(), name), (path.into(), place.line));
        }
        self.types.entry(type_url).or_default().insert(name, resource);
        None
    }

    fn len(&self) -> usize {
        self.types.values().map(BTreeMap::len).sum()
    }

    /// Over `base`, where there is one.
    fn view(self, base: Option<&View>) -> View {
        let mut view = base.cloned().unwrap_or_default();
        for (type_url, own) in self.types {
            let mut resources = view.of(&type_url).map(|content| content.resources.clone()).unwrap_or_default();
            // What is called by an alias here is not beside it under its name.
            for alias in own.values().flat_map(|resource| &resource.aliases) {
                resources.remove(alias);
            }
            resources.extend(own);
            view.types.insert(type_url, Arc::new(Content::new(resources)));
        }
        view
    }
}
