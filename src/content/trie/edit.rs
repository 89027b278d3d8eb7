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
            Some((node, Content::Branch(branch))) => self.edit_branch(node, branch, depth, places, replaced),
        }
    }

    fn edit_branch(
        &self,
        node: &Arc<Node>,
        branch: &Branch,
        depth: u32,
        mut places: &[Place],
        replaced: &mut dyn FnMut(&Arc<Entry>),
    ) -> Option<Arc<Node>> {
        // One change is what mostly comes, and needs no list.
        let mut more = Vec::new();
        while let Some(first) = places.first() {
            let way = nibble(first.key, depth);
            let (here, rest) = places.split_at(run(places, |place| nibble(place.key, depth), way));
            let held = branch.child(way);
            let next = self.edit(held, depth + 1, here, replaced);
            let moved = held.map(Arc::as_ptr) != next.as_ref().map(Arc::as_ptr);
            if moved && more.is_empty() && rest.is_empty() {
                return self.join(branch, &mut [(way, next)]);
            }
            if moved {
                more.push((way, next));
            }
            places = rest;
        }
        if more.is_empty() { Some(node.clone()) } else { self.join(branch, &mut more) }
    }

    /// The node over the children of `branch` with `moved`, ascending, in their
    /// places: a branch, a leaf where few entries are left, or none.
    fn join(&self, branch: &Branch, moved: &mut [(u32, Option<Arc<Node>>)]) -> Option<Arc<Node>> {
        let (mut ways, mut entries) = (branch.ways, branch.entries);
        for (way, next) in &*moved {
            ways = ways & !(1 << way) | u16::from(next.is_some()) << way;
            entries -= branch.child(*way).map_or(0, |child| child.count());
            entries += next.as_ref().map_or(0, |child| child.count());
        }
        // Plain reads of the counts: their cache misses overlap, which those of
        // counting up below do not.
        std::hint::black_box(branch.children.iter().map(Arc::strong_count).sum::<usize>());
        let mut children = Vec::with_capacity(ways.count_ones() as usize);
        let mut moved = moved.iter_mut().peekable();
        for way in (0..WAYS).filter(|way| (ways | branch.ways) >> way & 1 == 1) {
            match moved.next_if(|(moved, _)| *moved == way) {
                Some((_, next)) => children.extend(next.take()),
                None => children.extend(branch.child(way).cloned()),
            }
        }
        match entries as usize {
            0 => None,
            1..=BUCKET => {
                // Children of so few entries are leaves.
                let all: Vec<_> = children.iter().flat_map(|child| super::Iter::new(Some(child))).cloned().collect();
                Some(self.leaf(&all))
            }
            _ => Some(self.branch(ways, entries, children)),
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
        let (all, mut ways, mut children) = (entries.len() as u32, 0, Vec::with_capacity(WAYS as usize));
        while let Some(first) = entries.first() {
            let way = nibble(first.key(), depth);
            let (here, rest) = entries.split_at(run(entries, |entry| nibble(entry.key(), depth), way));
            entries = rest;
            ways |= 1 << way;
            children.extend(self.build(here, depth + 1));
        }
        Some(self.branch(ways, all, children))
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
