//! Many changes of a trie at once. Each builds the nodes on its path; paths
//! that meet are built once.

use super::{BUCKET, Branch, Content, DEPTH, Node, Nodes, WAYS, nibble, run};
use crate::content::entry::Entry;
use crate::xds::Name;
use std::cmp::Ordering;
use std::sync::Arc;

/// What shall stand at a place: an entry, or none of this name.
#[derive(Debug)]
pub(in crate::content) struct Place {
    pub(in crate::content) key: u64,
    pub(in crate::content) target: Target,
}

#[derive(Debug)]
pub(in crate::content) enum Target {
    Entry(Arc<Entry>),
    Nothing(Name),
}

impl Place {
    fn name(&self) -> &Name {
        match &self.target {
            Target::Entry(entry) => entry.name(),
            Target::Nothing(name) => name,
        }
    }

    fn order(&self, key: u64, name: &str) -> Ordering {
        self.key.cmp(&key).then_with(|| (**self.name()).cmp(name))
    }
}

/// By (key, name); of several for one name the last stays.
fn sorted(mut places: Vec<Place>) -> Vec<Place> {
    places.sort_by(|a, b| a.order(b.key, b.name()));
    // Equal ones stand in their order: move each into the place of the one
    // before, which `dedup` keeps.
    places.dedup_by(|later, kept| {
        let same = later.key == kept.key && later.name() == kept.name();
        if same {
            std::mem::swap(later, kept);
        }
        same
    });
    places
}

impl Nodes {
    /// The trie of `root` with `places` as they say. `replaced` hears of each
    /// entry that does not stand any more.
    pub(in crate::content) fn edited(
        &self,
        root: Option<&Arc<Node>>,
        places: Vec<Place>,
        replaced: &mut dyn FnMut(&Arc<Entry>),
    ) -> Option<Arc<Node>> {
        self.edit(root, 0, &sorted(places), replaced)
    }

    fn edit(
        &self,
        node: Option<&Arc<Node>>,
        depth: u32,
        places: &[Place],
        replaced: &mut dyn FnMut(&Arc<Entry>),
    ) -> Option<Arc<Node>> {
        match node.map(|node| (node, &node.content)) {
            _ if places.is_empty() => node.cloned(),
            None => self.build(&merged(&[], places, replaced), depth),
            Some((_, Content::Leaf(entries))) => self.build(&merged(entries, places, replaced), depth),
            Some((node, Content::Branch(branch))) => {
                let moved = self.edit_children(branch, depth, places, replaced);
                if moved.is_empty() { Some(node.clone()) } else { self.join(branch, moved) }
            }
        }
    }

    /// The ways that do not stay as they are, ascending.
    fn edit_children(
        &self,
        branch: &Branch,
        depth: u32,
        mut places: &[Place],
        replaced: &mut dyn FnMut(&Arc<Entry>),
    ) -> Vec<(u32, Option<Arc<Node>>)> {
        let mut moved = Vec::new();
        while let Some(first) = places.first() {
            let way = nibble(first.key, depth);
            let (here, rest) = places.split_at(run(places, |place| nibble(place.key, depth), way));
            places = rest;
            let held = branch.child(way);
            let next = self.edit(held, depth + 1, here, replaced);
            if held.map(Arc::as_ptr) != next.as_ref().map(Arc::as_ptr) {
                moved.push((way, next));
            }
        }
        moved
    }

    /// The node over the children of `branch` with `moved` in their places: a
    /// branch, a leaf where few entries are left, or none.
    fn join(&self, branch: &Branch, moved: Vec<(u32, Option<Arc<Node>>)>) -> Option<Arc<Node>> {
        let mut ways = branch.ways;
        for (way, next) in &moved {
            ways = ways & !(1 << way) | u16::from(next.is_some()) << way;
        }
        // Plain reads of all lengths first: the cache misses overlap, which
        // those of counting the references below do not.
        let kept: usize = branch.children.iter().map(|child| child.len()).sum();
        let gone: usize = moved.iter().filter_map(|(way, _)| branch.child(*way)).map(|child| child.len()).sum();
        let come: usize = moved.iter().filter_map(|(_, next)| next.as_ref()).map(|child| child.len()).sum();
        let mut children = Vec::with_capacity(ways.count_ones() as usize);
        let mut moved = moved.into_iter().peekable();
        for way in (0..WAYS).filter(|way| (ways | branch.ways) >> way & 1 == 1) {
            match moved.next_if(|(moved, _)| *moved == way) {
                Some((_, next)) => children.extend(next),
                None => children.extend(branch.child(way).cloned()),
            }
        }
        match kept - gone + come {
            0 => None,
            1..=BUCKET => {
                // Children of so few entries are leaves.
                let all: Vec<_> = children.iter().flat_map(|child| super::Iter::new(Some(child))).cloned().collect();
                Some(self.leaf(&all))
            }
            _ => Some(self.branch(ways, children)),
        }
    }

    /// The node over `entries`, which are sorted and share the nibbles before `depth`.
    fn build(&self, mut entries: &[Arc<Entry>], depth: u32) -> Option<Arc<Node>> {
        if entries.is_empty() {
            return None;
        }
        if entries.len() <= BUCKET || depth == DEPTH {
            return Some(self.leaf(entries));
        }
        let (mut ways, mut children) = (0, Vec::with_capacity(WAYS as usize));
        while let Some(first) = entries.first() {
            let way = nibble(first.key(), depth);
            let (here, rest) = entries.split_at(run(entries, |entry| nibble(entry.key(), depth), way));
            entries = rest;
            ways |= 1 << way;
            children.extend(self.build(here, depth + 1));
        }
        Some(self.branch(ways, children))
    }
}

/// Both lists are sorted; where both name something, `places` wins.
fn merged(mut entries: &[Arc<Entry>], places: &[Place], replaced: &mut dyn FnMut(&Arc<Entry>)) -> Vec<Arc<Entry>> {
    let mut all = Vec::with_capacity(entries.len() + places.len());
    for place in places {
        let before = entries.partition_point(|entry| place.order(entry.key(), entry.name()).is_gt());
        all.extend_from_slice(&entries[..before]);
        entries = &entries[before..];
        if let Some((held, rest)) = entries.split_first()
            && place.order(held.key(), held.name()).is_eq()
        {
            replaced(held);
            entries = rest;
        }
        if let Target::Entry(entry) = &place.target {
            all.push(entry.clone());
        }
    }
    all.extend_from_slice(entries);
    all
}
