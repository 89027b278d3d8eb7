//! What a control plane of a benchmark has: as many resources as are asked
//! for, of the sizes that are asked for.
//!
//! Each resource is one that Envoy would take, with one field more that it does
//! not know: the [mark](MARK). It says by which [`Change`] the resource became
//! what it is, and fills it up to its size with text that does not compress.
//!
//! Promise: the same [`Shape`] and the same changes give the same bytes.

use super::mesh::content::{self, LISTENERS};
use super::mesh::{self, Family, News, Version};
use super::plan::Change;
use super::plane::World;
use crate::proto::cluster::Cluster;
use crate::xds::Name;
use crate::xds::wire::{Writer, field_len};
use prost::Message;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// The field that no Envoy knows: eight hexadecimal digits, and filling.
pub const MARK: u32 = 100_001;
/// Digits of a change's number.
pub const DIGITS: usize = 8;

/// Which types there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Contents {
    /// Clusters that need nothing else.
    Clusters,
    /// Clusters with endpoints, listeners with routes.
    Mesh,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub seed: u64,
    pub contents: Contents,
    /// Clusters, and as many assignments in a mesh.
    pub services: u32,
    /// Of the first services, in bytes; those that follow are as the last.
    pub sizes: Vec<u32>,
    /// Clusters beside these that each class has for itself.
    pub own: u32,
    pub classes: u32,
    /// The change by which everything became what it is at first: the numbers of
    /// changes follow it. An Outpost that runs already may hold what another
    /// benchmark made; all that comes later has higher numbers.
    pub base: u32,
}

impl Shape {
    /// How many resources of a type somebody has who has all.
    pub fn count(&self, family: Family) -> u32 {
        match (family, self.contents) {
            (Family::Cluster, _) => self.services + self.own,
            (_, Contents::Clusters) => 0,
            (Family::Endpoint, Contents::Mesh) => self.services,
            (Family::Listener | Family::Route, Contents::Mesh) => LISTENERS.len() as u32,
        }
    }

    fn size(&self, number: u32) -> u32 {
        self.sizes.get(number as usize).or(self.sizes.last()).copied().unwrap_or(1024)
    }
}

#[derive(Debug)]
pub struct Stock {
    shape: Shape,
    state: RwLock<State>,
    revision: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    types: [Vec<Arc<Version>>; Family::ALL.len()],
    /// One entry a change; its number is its place.
    log: Vec<(Family, Option<u32>)>,
}

impl Stock {
    pub fn new(shape: Shape) -> Self {
        let all = |family: Family| {
            let count = if family == Family::Cluster { shape.services } else { shape.count(family) };
            (0..count).map(|number| version(&shape, family, number, shape.base)).collect()
        };
        let state = State { types: Family::ALL.map(all), log: Vec::new() };
        Self { shape, state: RwLock::new(state), revision: watch::Sender::new(0) }
    }

    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Makes a change. Their numbers follow [`Shape::base`] without gaps.
    pub fn make(&self, change: &Change) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let versions = &mut state.types[change.family as usize];
        let numbers = match change.number {
            Some(number) => number as usize..number as usize + 1,
            None => 0..versions.len(),
        };
        for number in numbers {
            if let Some(slot) = versions.get_mut(number) {
                *slot = version(&self.shape, change.family, number as u32, change.seq);
            }
        }
        state.log.push((change.family, change.number));
        self.revision.send_replace(state.log.len());
    }

    /// One resource as it stands.
    pub fn get(&self, family: Family, number: u32) -> Option<Arc<Version>> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.types[family as usize].get(number as usize).cloned()
    }

    /// What only this class has. It never changes.
    fn own(&self, class: u32, family: Family) -> impl Iterator<Item = Arc<Version>> {
        let own = if family == Family::Cluster { self.shape.own } else { 0 };
        let numbers = self.shape.services..self.shape.services + own;
        numbers.map(move |number| version(&self.shape, family, number, class | OWN))
    }
}

/// Set in the mark of what is a class's own: no change has such a number.
pub const OWN: u32 = 1 << 31;

/// Which resource of a type has this name.
fn number(family: Family, name: &str) -> Option<u32> {
    match family {
        Family::Cluster | Family::Endpoint => Some(content::number(name)),
        Family::Listener | Family::Route => LISTENERS.iter().position(|known| *known == name).map(|at| at as u32),
    }
}

fn name(family: Family, number: u32) -> Name {
    match family {
        Family::Cluster | Family::Endpoint => content::service(number),
        Family::Listener | Family::Route => LISTENERS.get(number as usize).copied().unwrap_or_default().into(),
    }
}

fn version(shape: &Shape, family: Family, number: u32, seq: u32) -> Arc<Version> {
    let name = name(family, number);
    let body = match (family, shape.contents) {
        (Family::Cluster, Contents::Clusters) => {
            Cluster { name: name.to_string(), ..Cluster::default() }.encode_to_vec()
        }
        _ => content::render(family, &name, None, 0, &mesh_shape(shape.services.min(20))),
    };
    // A listener and a route are as large as they are.
    let size = if family <= Family::Endpoint { shape.size(number) as usize } else { 0 };
    let empty = field_len(MARK, DIGITS);
    let filling = size.saturating_sub(body.len() + empty);
    // The length of the field itself may need another byte.
    let filling = filling.saturating_sub(field_len(MARK, DIGITS + filling) - empty - filling);
    let mut out = Writer::with_capacity(body.len() + empty + filling + 8);
    out.head(MARK, DIGITS + filling);
    out.raw(format!("{seq:08x}").as_bytes());
    out.raw(&noise(shape.seed ^ u64::from(number) << 32 ^ u64::from(seq), filling));
    out.raw(&body);
    Version::of(family, &name, seq, &out.finish())
}

/// Of which the mesh renders what has no size of its own.
fn mesh_shape(services: u32) -> mesh::Shape {
    mesh::Shape { services, endpoints: 4, ..mesh::Shape::for_sidecars(1, 1) }
}

/// Text that does not compress.
fn noise(seed: u64, length: usize) -> Vec<u8> {
    const LETTERS: &[u8; 64] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
    let mut state = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut letter = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        LETTERS[(state >> 58) as usize]
    };
    (0..length).map(|_| letter()).collect()
}

impl World for Stock {
    fn revision(&self) -> watch::Receiver<usize> {
        self.revision.subscribe()
    }

    fn classes(&self) -> u32 {
        self.shape.classes
    }

    fn all(&self, class: u32, family: Family) -> News {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let changed = state.types[family as usize].iter().cloned().chain(self.own(class, family)).collect();
        News { changed, removed: Vec::new(), place: state.log.len() }
    }

    fn named(&self, class: u32, family: Family, names: &mut dyn Iterator<Item = &Name>) -> News {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let mut news = News { place: state.log.len(), ..News::default() };
        for name in names {
            let found = number(family, name).and_then(|number| state.types[family as usize].get(number as usize));
            let found = found.filter(|version| version.name == *name).cloned();
            match found.or_else(|| self.own(class, family).find(|version| version.name == *name)) {
                Some(version) => news.changed.push(version),
                None => news.removed.push(Arc::clone(name)),
            }
        }
        news
    }

    fn news(&self, _: u32, family: Family, place: usize) -> News {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let entries = state.log.get(place..).unwrap_or_default().iter().filter(|(of, _)| *of == family);
        let versions = &state.types[family as usize];
        let mut numbers = BTreeSet::new();
        for (_, number) in entries {
            match number {
                Some(number) => drop(numbers.insert(*number as usize)),
                None => numbers.extend(0..versions.len()),
            }
        }
        let changed = numbers.into_iter().filter_map(|number| versions.get(number).cloned()).collect();
        News { changed, removed: Vec::new(), place: state.log.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::wire::{Fields, first_string};

    fn stock(contents: Contents) -> Stock {
        let sizes = vec![300, 4096, 65_536, 1024];
        Stock::new(Shape { seed: 3, contents, services: 8, sizes, own: 2, classes: 4, base: 0 })
    }

    fn value(version: &Version) -> bytes::Bytes {
        let field = Fields::new(version.any.clone()).map(Result::unwrap).find(|field| field.number == 2);
        field.unwrap().bytes().unwrap()
    }

    #[test]
    fn resources_have_their_sizes_and_names() {
        for contents in [Contents::Clusters, Contents::Mesh] {
            let stock = stock(contents);
            for (number, size) in [(0, 300), (1, 4096), (2, 65_536), (3, 1024), (7, 1024)] {
                let version = stock.get(Family::Cluster, number).unwrap();
                let value = value(&version);
                assert!(value.len() == size || value.len() + 1 == size, "{} is not {size}", value.len());
                assert_eq!(first_string(&value, 1).unwrap(), *version.name);
            }
        }
        let cluster = Cluster::decode(value(&stock(Contents::Mesh).get(Family::Cluster, 1).unwrap())).unwrap();
        assert!(cluster.eds_cluster_config.is_some(), "what is known is still there");
    }

    #[test]
    fn a_change_is_news_once_and_the_same_for_the_same_seed() {
        let (one, other) = (stock(Contents::Mesh), stock(Contents::Mesh));
        let change = Change { seq: 1, at: 0, family: Family::Endpoint, number: Some(5) };
        for stock in [&one, &other] {
            stock.make(&change);
            stock.make(&Change { seq: 2, number: None, family: Family::Cluster, ..change });
        }
        let news = one.news(0, Family::Endpoint, 0);
        assert_eq!((news.changed.len(), news.place), (1, 2));
        assert_eq!(one.news(0, Family::Cluster, 1).changed.len(), 8);
        assert!(one.news(0, Family::Cluster, 2).changed.is_empty());
        assert_eq!(news.changed[0].resource, other.get(Family::Endpoint, 5).unwrap().resource);
        assert_ne!(one.get(Family::Endpoint, 5).unwrap().any, one.get(Family::Endpoint, 4).unwrap().any);
    }

    #[test]
    fn some_clusters_are_of_one_class() {
        let stock = stock(Contents::Clusters);
        let (mine, theirs) = (stock.all(1, Family::Cluster).changed, stock.all(2, Family::Cluster).changed);
        let equal = mine.iter().zip(&theirs).filter(|(mine, theirs)| mine.any == theirs.any).count();
        assert_eq!((mine.len(), theirs.len(), equal), (10, 10, 8));
        let names = [mine[9].name.clone(), "service-999".into()];
        let found = stock.named(1, Family::Cluster, &mut names.iter());
        assert_eq!((found.changed.len(), found.removed.len()), (1, 1));
    }
}
