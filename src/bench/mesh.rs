//! The resources of an invented mesh, and the changes it goes through.
//!
//! Services with endpoints, listeners and routes that reach them, and workload
//! classes: some resources are rendered differently for each class, as a mesh's
//! own sidecars are. Contents are valid Envoy resources.
//!
//! Promise: the same [`Shape`] gives the same contents and the same changes, so
//! that two runs differ only in what carries them. No two versions of a
//! resource have equal bytes.
//!
//! One writer calls [`Mesh::change`]; streams read what is [`news`](World::news)
//! since their place in the log, when [`revision`](World::revision) moves.

pub(super) mod content;

use super::ledger::{Change, Kind, Ledger, Lineage, fingerprint};
use super::plane::World;
use crate::xds::wire::Writer;
use crate::xds::{Moment, Name, TypeUrl};
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, PoisonError, RwLock};
use tokio::sync::watch;

/// The four types of the mesh, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub enum Family {
    Cluster,
    Endpoint,
    Listener,
    Route,
}

impl Family {
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub fn of(type_url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.type_url() == type_url)
    }

    /// SotW states all of it in each response; sidecars subscribe to all of it.
    pub fn full_state(self) -> bool {
        TypeUrl::new(self.type_url()).full_state()
    }
}

/// How large a mesh is.
#[derive(Clone, Debug)]
pub struct Shape {
    pub seed: u64,
    pub services: u32,
    /// Of each service.
    pub endpoints: u32,
    /// Workload classes. A sidecar's class is told by its `node.cluster`.
    pub classes: u32,
    /// Sidecars of each class.
    pub members: Vec<u32>,
}

impl Shape {
    /// A mesh for `sidecars` of `classes`, evenly spread: sidecar n is of class
    /// n modulo `classes`.
    pub fn for_sidecars(sidecars: u32, classes: u32) -> Self {
        let classes = classes.clamp(1, sidecars.max(1));
        let members = (0..classes).map(|class| (sidecars + classes - 1 - class) / classes).collect();
        Self { seed: 1, services: 60, endpoints: 8, classes, members }
    }
}

/// What a sidecar of a class states as its `node.cluster`.
pub fn class_name(class: u32) -> String {
    format!("workload-{class}")
}

/// The class of a `node.cluster`, as [`class_name`] made it.
pub fn class_of(cluster: &str) -> Option<u32> {
    cluster.strip_prefix("workload-")?.parse().ok()
}

/// One version of one resource, encoded once.
#[derive(Debug)]
pub struct Version {
    pub name: Name,
    /// What the control plane calls it.
    pub version: String,
    pub fingerprint: u64,
    /// A `google.protobuf.Any`, as SotW carries it.
    pub any: Bytes,
    /// An `envoy.service.discovery.v3.Resource`, as delta does.
    pub resource: Bytes,
}

impl Version {
    fn new(family: Family, name: &Name, class: Option<u32>, seq: u32, shape: &Shape) -> Arc<Self> {
        Self::of(family, name, seq, &content::render(family, name, class, seq, shape))
    }

    /// With these bytes.
    pub fn of(family: Family, name: &Name, seq: u32, value: &[u8]) -> Arc<Self> {
        let mut any = Writer::with_capacity(value.len() + 96);
        any.string(1, family.type_url());
        any.bytes(2, value);
        let any = any.finish();
        let version = format!("{seq}");
        let mut resource = Writer::with_capacity(any.len() + 64);
        resource.string(1, &version);
        resource.bytes(2, &any);
        resource.string(3, name);
        let fingerprint = fingerprint(family, name, value);
        Arc::new(Self { name: Arc::clone(name), version, fingerprint, any, resource: resource.finish() })
    }
}

/// What somebody holds, added up: equal digests, equal resources.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest {
    pub sum: u64,
    pub count: u64,
}

impl Digest {
    pub fn add(&mut self, fingerprint: u64) {
        *self = Self { sum: self.sum.wrapping_add(fingerprint), count: self.count + 1 };
    }

    pub fn remove(&mut self, fingerprint: u64) {
        *self = Self { sum: self.sum.wrapping_sub(fingerprint), count: self.count.saturating_sub(1) };
    }
}

/// What changed since a place in the log.
#[derive(Debug, Default)]
pub struct News {
    pub changed: Vec<Arc<Version>>,
    pub removed: Vec<Name>,
    /// The place to read on from.
    pub place: usize,
}

#[derive(Debug)]
pub struct Mesh {
    shape: Shape,
    ledger: Arc<Ledger>,
    state: RwLock<State>,
    revision: watch::Sender<usize>,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    slots: BTreeMap<(Family, Name), Slot>,
    /// What changed, and for which class where it was one only.
    log: Vec<(Family, Name, Option<u32>)>,
    digests: Vec<Digest>,
    /// Services made by changes, oldest first: only they are removed.
    added: VecDeque<Name>,
    services: u32,
}

/// One resource: the same for all classes, or one rendering for each.
#[derive(Debug)]
struct Slot {
    renderings: Vec<Rendering>,
}

#[derive(Debug)]
struct Rendering {
    seq: u32,
    lineage: Lineage,
    version: Arc<Version>,
}

impl Slot {
    fn of(&self, class: u32) -> Option<&Arc<Version>> {
        let at = if self.renderings.len() == 1 { 0 } else { class as usize };
        self.renderings.get(at).map(|rendering| &rendering.version)
    }
}

impl Mesh {
    pub fn new(shape: Shape, ledger: Arc<Ledger>) -> Self {
        let state = State {
            random: StdRng::seed_from_u64(shape.seed),
            slots: BTreeMap::new(),
            log: Vec::new(),
            digests: vec![Digest::default(); shape.classes as usize],
            added: VecDeque::new(),
            services: 0,
        };
        let mesh = Self { shape, ledger, state: RwLock::new(state), revision: watch::Sender::new(0) };
        mesh.fill();
        mesh
    }

    fn fill(&self) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for _ in 0..self.shape.services {
            let name = state.next_service();
            self.insert(&mut state, Family::Cluster, &name, None);
            self.insert(&mut state, Family::Endpoint, &name, None);
        }
        for name in content::LISTENERS {
            self.insert(&mut state, Family::Listener, &name.into(), None);
            self.insert(&mut state, Family::Route, &name.into(), None);
        }
        self.revision.send_replace(state.log.len());
    }

    /// What a sidecar of this class holds when it is in sync.
    pub fn digest(&self, class: u32) -> Digest {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.digests.get(class as usize).copied().unwrap_or_default()
    }

    /// Makes the next change, due at `at`.
    pub fn change(&self, at: Moment, measured: bool) -> Arc<Change> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let kind = match state.random.random_range(0..100) {
            0..60 => Kind::Endpoints,
            60..75 => Kind::Cluster,
            75..85 => Kind::Route,
            85..90 => Kind::Listener,
            90..95 => Kind::NewService,
            // Only what has been there for a while goes.
            _ if state.added.len() < 4 => Kind::NewService,
            _ => Kind::Removal,
        };
        let (subject, class) = self.pick(&mut state, kind);
        let members = self.shape.members.iter();
        let audience = members.enumerate().filter(|(of, _)| class.is_none_or(|class| class as usize == *of));
        let audience = audience.map(|(_, members)| members).sum();
        let change = Arc::new(Change::new(kind, Arc::clone(&subject), at, audience, measured));
        self.ledger.announce(&change);
        match kind {
            Kind::Endpoints => self.replace(&mut state, Family::Endpoint, &subject, None, &change),
            Kind::Cluster => self.replace(&mut state, Family::Cluster, &subject, None, &change),
            Kind::Route => self.replace(&mut state, Family::Route, &subject, class, &change),
            Kind::Listener => self.replace(&mut state, Family::Listener, &subject, class, &change),
            Kind::NewService => {
                self.insert(&mut state, Family::Cluster, &subject, None);
                self.insert(&mut state, Family::Endpoint, &subject, Some(&change));
                state.added.push_back(subject);
            }
            Kind::Removal => {
                self.ledger.enter_removal(Family::Cluster, Arc::clone(&subject), &change);
                state.remove(Family::Cluster, &subject);
                state.remove(Family::Endpoint, &subject);
            }
        }
        self.revision.send_replace(state.log.len());
        change
    }

    /// What the next change is about, and for whom.
    fn pick(&self, state: &mut State, kind: Kind) -> (Name, Option<u32>) {
        match kind {
            Kind::Endpoints | Kind::Cluster => {
                (content::service(state.random.random_range(0..self.shape.services.max(1))), None)
            }
            Kind::Route => (content::LISTENERS[state.random.random_range(1..content::LISTENERS.len())].into(), None),
            Kind::Listener => (content::LISTENERS[0].into(), Some(state.random.random_range(0..self.shape.classes))),
            Kind::NewService => (state.next_service(), None),
            Kind::Removal => (state.added.pop_front().unwrap_or_else(|| content::service(0)), None),
        }
    }

    fn insert(&self, state: &mut State, family: Family, name: &Name, change: Option<&Arc<Change>>) {
        let classes = match content::tailored(family, name) {
            true => (0..self.shape.classes).map(Some).collect(),
            false => vec![None],
        };
        let mut slot = Slot { renderings: Vec::with_capacity(classes.len()) };
        for class in classes {
            let version = Version::new(family, name, class, 0, &self.shape);
            let lineage = self.ledger.begin();
            self.ledger.enter(lineage, version.fingerprint, change);
            state.account(class, |digest| digest.add(version.fingerprint));
            slot.renderings.push(Rendering { seq: 0, lineage, version });
        }
        state.slots.insert((family, Arc::clone(name)), slot);
        state.log.push((family, Arc::clone(name), None));
    }

    /// The next version of a resource: of one class's rendering, or of all.
    fn replace(&self, state: &mut State, family: Family, name: &Name, only: Option<u32>, change: &Arc<Change>) {
        let key = (family, Arc::clone(name));
        let Some(mut slot) = state.slots.remove(&key) else { return };
        let tailored = slot.renderings.len() > 1 || content::tailored(family, name);
        for (class, rendering) in (0..).zip(&mut slot.renderings) {
            let class = tailored.then_some(class);
            if only.is_some() && only != class {
                continue;
            }
            rendering.seq += 1;
            let version = Version::new(family, name, class, rendering.seq, &self.shape);
            self.ledger.enter(rendering.lineage, version.fingerprint, Some(change));
            state.account(class, |digest| {
                digest.remove(rendering.version.fingerprint);
                digest.add(version.fingerprint);
            });
            rendering.version = version;
        }
        state.slots.insert(key, slot);
        state.log.push((family, Arc::clone(name), only));
    }
}

impl World for Mesh {
    fn revision(&self) -> watch::Receiver<usize> {
        self.revision.subscribe()
    }

    fn classes(&self) -> u32 {
        self.shape.classes
    }

    fn all(&self, class: u32, family: Family) -> News {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let slots = state.slots.iter().filter(|((of, _), _)| *of == family);
        let changed = slots.filter_map(|(_, slot)| slot.of(class).cloned()).collect();
        News { changed, removed: Vec::new(), place: state.log.len() }
    }

    fn named(&self, class: u32, family: Family, names: &mut dyn Iterator<Item = &Name>) -> News {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.look_up(class, family, names, state.log.len())
    }

    fn news(&self, class: u32, family: Family, place: usize) -> News {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let entries = state.log.get(place..).unwrap_or_default().iter();
        let concerns = |of: Option<u32>| of.is_none_or(|of| of == class);
        let names: BTreeSet<&Name> =
            entries.filter(|(of, _, class)| *of == family && concerns(*class)).map(|(_, name, _)| name).collect();
        state.look_up(class, family, names.into_iter(), state.log.len())
    }
}

impl State {
    fn next_service(&mut self) -> Name {
        self.services += 1;
        content::service(self.services - 1)
    }

    fn look_up<'a>(&self, class: u32, family: Family, names: impl Iterator<Item = &'a Name>, place: usize) -> News {
        let mut news = News { place, ..News::default() };
        for name in names {
            let slot = self.slots.get(&(family, Arc::clone(name)));
            match slot.and_then(|slot| slot.of(class)) {
                Some(version) => news.changed.push(Arc::clone(version)),
                None => news.removed.push(Arc::clone(name)),
            }
        }
        news
    }

    fn remove(&mut self, family: Family, name: &Name) {
        let Some(slot) = self.slots.remove(&(family, Arc::clone(name))) else { return };
        let tailored = slot.renderings.len() > 1;
        for (class, rendering) in (0..).zip(slot.renderings) {
            self.account(tailored.then_some(class), |digest| digest.remove(rendering.version.fingerprint));
        }
        self.log.push((family, Arc::clone(name), None));
    }

    /// Books a change of one class's content, or of everybody's.
    fn account(&mut self, class: Option<u32>, book: impl Fn(&mut Digest)) {
        for (of, digest) in (0..).zip(&mut self.digests) {
            if class.is_none_or(|class| class == of) {
                book(digest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mesh() -> Mesh {
        Mesh::new(Shape::for_sidecars(10, 3), Arc::default())
    }

    fn digest_of_all(mesh: &Mesh, class: u32) -> Digest {
        let mut digest = Digest::default();
        for family in Family::ALL {
            mesh.all(class, family).changed.iter().for_each(|version| digest.add(version.fingerprint));
        }
        digest
    }

    #[test]
    fn members_are_spread_evenly() {
        assert_eq!(Shape::for_sidecars(10, 3).members, [4, 3, 3]);
        assert_eq!(Shape::for_sidecars(2, 8).members, [1, 1]);
    }

    #[test]
    fn the_same_seed_gives_the_same_mesh_and_digests_are_kept() {
        let (one, other) = (mesh(), mesh());
        for second in 0..200 {
            let at = Moment::from_start(std::time::Duration::from_secs(second));
            let changes = (one.change(at, true), other.change(at, true));
            assert_eq!((changes.0.kind, &changes.0.subject), (changes.1.kind, &changes.1.subject));
        }
        for class in 0..3 {
            assert_eq!(one.digest(class), other.digest(class));
            assert_eq!(one.digest(class), digest_of_all(&one, class));
        }
        assert_ne!(one.digest(0), one.digest(1));
    }

    #[test]
    fn news_leads_from_any_place_to_the_whole() {
        let mesh = mesh();
        for class in 0..3 {
            for family in Family::ALL {
                let mut held: BTreeMap<Name, u64> = BTreeMap::new();
                let mut place = 0;
                for round in 0..50 {
                    let news = mesh.news(class, family, place);
                    held.extend(news.changed.iter().map(|version| (version.name.clone(), version.fingerprint)));
                    held.retain(|name, _| !news.removed.contains(name));
                    place = news.place;
                    for _ in 0..round % 4 {
                        mesh.change(Moment::START, false);
                    }
                }
                let news = mesh.news(class, family, place);
                held.extend(news.changed.iter().map(|version| (version.name.clone(), version.fingerprint)));
                held.retain(|name, _| !news.removed.contains(name));
                let all = mesh.all(class, family).changed;
                let all: BTreeMap<Name, u64> = all.iter().map(|v| (v.name.clone(), v.fingerprint)).collect();
                assert_eq!(held, all);
            }
        }
    }

    #[test]
    fn a_change_of_one_class_is_news_to_no_other() {
        let mesh = mesh();
        loop {
            let place = *mesh.revision().borrow();
            let change = mesh.change(Moment::START, false);
            if change.kind == Kind::Listener {
                let told = (0..3).filter(|class| !mesh.news(*class, Family::Listener, place).changed.is_empty());
                assert_eq!(told.count(), 1);
                assert!(change.audience == 3 || change.audience == 4);
                return;
            }
        }
    }
}
