//! Who wants which names of one type.
//!
//! Streams share sets of names. While there is one set, it is all there is; from
//! the second on an index goes from a name to the sets that have it. A stream that
//! replaces its set by a near one costs what differs.

use super::core::MemberId;
use crate::content::NameSet;
use crate::session::Want;
use crate::xds::Name;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A set's place; places are used again.
type SetId = usize;

#[derive(Debug)]
struct Shared {
    names: Arc<NameSet>,
    members: BTreeSet<MemberId>,
}

/// The interest of a group's members in one type.
#[derive(Debug, Default)]
pub(super) struct Interest {
    members: HashMap<MemberId, SetId>,
    sets: Vec<Option<Shared>>,
    free: Vec<SetId>,
    /// The only set, where there is one.
    only: Option<SetId>,
    /// By address: a set is held here, so its address is its own.
    by_address: HashMap<usize, SetId>,
    /// While there are two sets or more.
    index: Option<HashMap<Name, Posting>>,
    wildcards: BTreeSet<MemberId>,
}

/// What a change of interest did to the union.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    /// Names that nobody wanted before, and that nobody wants now.
    pub(super) gained: Vec<Name>,
    pub(super) lost: Vec<Name>,
    /// The wildcard got its first member, or lost its last.
    pub(super) wildcard: Option<bool>,
}

/// Sets that something concerns: one bit a set.
#[derive(Debug, Default)]
pub(super) struct Marks {
    bits: Vec<u64>,
}

/// The sets that have a name: listed while they are few, else one bit a set.
#[derive(Debug)]
enum Posting {
    Few(Vec<u32>),
    Many { bits: Vec<u64>, count: usize },
}

/// Below this many, sets are listed.
const FEW: usize = 16;

impl Posting {
    fn insert(&mut self, id: SetId, sets: usize) {
        match self {
            Self::Few(ids) => {
                ids.push(id as u32);
                if ids.len() > FEW.max(sets / 32) {
                    let mut bits = Vec::with_capacity(sets.div_ceil(64));
                    let count = ids.len();
                    ids.iter().for_each(|id| set_bit(&mut bits, *id as usize));
                    *self = Self::Many { bits, count };
                }
            }
            Self::Many { bits, count } => {
                set_bit(bits, id);
                *count += 1;
            }
        }
    }

    /// Says whether none is left.
    fn remove(&mut self, id: SetId) -> bool {
        match self {
            Self::Few(ids) => {
                ids.retain(|other| *other as usize != id);
                ids.is_empty()
            }
            Self::Many { bits, count } => {
                if let Some(word) = bits.get_mut(id / 64) {
                    *word &= !(1 << (id % 64));
                    *count -= 1;
                }
                *count == 0
            }
        }
    }

    fn mark(&self, marks: &mut Marks) {
        match self {
            Self::Few(ids) => ids.iter().for_each(|id| set_bit(&mut marks.bits, *id as usize)),
            Self::Many { bits, .. } => {
                if marks.bits.len() < bits.len() {
                    marks.bits.resize(bits.len(), 0);
                }
                marks.bits.iter_mut().zip(bits).for_each(|(mark, word)| *mark |= word);
            }
        }
    }
}

fn set_bit(bits: &mut Vec<u64>, at: usize) {
    if bits.len() <= at / 64 {
        bits.resize(at / 64 + 1, 0);
    }
    if let Some(word) = bits.get_mut(at / 64) {
        *word |= 1 << (at % 64);
    }
}

impl Interest {
    /// `member` wants this and nothing else of the type.
    pub(super) fn replace(&mut self, member: MemberId, want: &Want) -> Moved {
        let mut moved = Moved::default();
        let had = !self.wildcards.is_empty();
        if want.wildcard {
            self.wildcards.insert(member);
        } else {
            self.wildcards.remove(&member);
        }
        let has = !self.wildcards.is_empty();
        moved.wildcard = (had != has).then_some(has);
        if want.names.is_empty() {
            if let Some(old) = self.members.remove(&member) {
                self.leave_set(member, old, &mut moved);
            }
            return moved;
        }
        match (self.members.get(&member).copied(), self.by_address.get(&address(&want.names)).copied()) {
            (Some(old), Some(new)) if old == new => {}
            (Some(old), None) if self.only_member(old) => self.rewrite(old, &want.names, &mut moved),
            (old, found) => {
                let new = found.unwrap_or_else(|| self.add_set(&want.names, &mut moved));
                if let Some(Some(shared)) = self.sets.get_mut(new) {
                    shared.members.insert(member);
                }
                self.members.insert(member, new);
                if let Some(old) = old {
                    self.leave_set(member, old, &mut moved);
                }
            }
        }
        moved
    }

    /// `member` wants nothing of the type any more.
    pub(super) fn remove(&mut self, member: MemberId) -> Moved {
        let mut moved = Moved::default();
        if self.wildcards.remove(&member) && self.wildcards.is_empty() {
            moved.wildcard = Some(false);
        }
        if let Some(old) = self.members.remove(&member) {
            self.leave_set(member, old, &mut moved);
        }
        moved
    }

    /// Does anybody want `name` by this very name?
    pub(super) fn wants(&self, name: &str) -> bool {
        match &self.index {
            Some(index) => index.contains_key(name),
            None => self.only_set().is_some_and(|only| only.contains(name)),
        }
    }

    /// Notes those who want `name` by this very name.
    pub(super) fn mark(&self, name: &str, marks: &mut Marks) {
        match &self.index {
            Some(index) => index.get(name).into_iter().for_each(|posting| posting.mark(marks)),
            None => {
                if let Some(only) = self.only.filter(|_| self.wants(name)) {
                    set_bit(&mut marks.bits, only);
                }
            }
        }
    }

    /// The members of the sets marked; the marks are gone then.
    pub(super) fn marked(&self, marks: &mut Marks) -> Vec<MemberId> {
        let mut members = Vec::new();
        for (at, word) in std::mem::take(&mut marks.bits).into_iter().enumerate() {
            let ids = (0..64).filter(|bit| word >> bit & 1 == 1).map(|bit| at * 64 + bit);
            let sets = ids.filter_map(|id| self.sets.get(id)?.as_ref());
            sets.for_each(|shared| members.extend(&shared.members));
        }
        members
    }

    /// How many want `name` by this very name.
    pub(super) fn wanting(&self, name: &str) -> usize {
        let mut marks = Marks::default();
        self.mark(name, &mut marks);
        self.marked(&mut marks).len()
    }

    pub(super) fn wildcards(&self) -> &BTreeSet<MemberId> {
        &self.wildcards
    }

    /// How many names somebody wants.
    pub(super) fn name_count(&self) -> usize {
        match &self.index {
            Some(index) => index.len(),
            None => self.only_set().map_or(0, |only| only.len()),
        }
    }

    /// The names that somebody wants, in no order.
    pub(super) fn names(&self) -> Vec<Name> {
        match &self.index {
            Some(index) => index.keys().cloned().collect(),
            None => self.only_set().map(|only| only.iter().cloned().collect()).unwrap_or_default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty() && self.wildcards.is_empty()
    }

    /// Everybody who wants anything of the type.
    pub(super) fn everybody(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.members.keys().chain(&self.wildcards).copied()
    }

    /// The only set there is, where there is one.
    pub(super) fn only_set(&self) -> Option<&Arc<NameSet>> {
        self.sets.get(self.only?)?.as_ref().map(|shared| &shared.names)
    }

    fn only_member(&self, set: SetId) -> bool {
        matches!(self.sets.get(set), Some(Some(shared)) if shared.members.len() == 1)
    }

    fn add_set(&mut self, names: &Arc<NameSet>, moved: &mut Moved) -> SetId {
        self.build_index();
        let shared = Shared { names: names.clone(), members: BTreeSet::new() };
        let id = self.free.pop().unwrap_or(self.sets.len());
        if id == self.sets.len() {
            self.sets.push(None);
        }
        if let Some(place) = self.sets.get_mut(id) {
            *place = Some(shared);
        }
        self.by_address.insert(address(names), id);
        self.only = (self.by_address.len() == 1).then_some(id);
        names.iter().for_each(|name| self.add_name(name, id, moved));
        id
    }

    /// The only set will not be that any more.
    fn build_index(&mut self) {
        if let (Some(id), Some(only)) = (self.only, self.only_set()) {
            let posting = |name: &Name| (name.clone(), Posting::Few(vec![id as u32]));
            self.index = Some(only.iter().map(posting).collect());
        }
    }

    fn leave_set(&mut self, member: MemberId, id: SetId, moved: &mut Moved) {
        let Some(place @ Some(_)) = self.sets.get_mut(id) else { return };
        let empty = place.as_mut().is_some_and(|shared| {
            shared.members.remove(&member);
            shared.members.is_empty()
        });
        if !empty {
            return;
        }
        let Some(shared) = place.take() else { return };
        shared.names.iter().for_each(|name| self.remove_name(name, id, moved));
        self.by_address.remove(&address(&shared.names));
        self.free.push(id);
        match self.by_address.len() {
            0 => (self.sets, self.free, self.only) = (Vec::new(), Vec::new(), None),
            1 => {
                self.index = None;
                self.only = self.by_address.values().next().copied();
            }
            _ => {}
        }
    }

    /// The set `id` of one member becomes `names`.
    fn rewrite(&mut self, id: SetId, names: &Arc<NameSet>, moved: &mut Moved) {
        let Some(Some(shared)) = self.sets.get_mut(id) else { return };
        let before = std::mem::replace(&mut shared.names, names.clone());
        self.by_address.remove(&address(&before));
        self.by_address.insert(address(names), id);
        let (mut old, mut new) = (before.iter().peekable(), names.iter().peekable());
        loop {
            let order = match (old.peek(), new.peek()) {
                (Some(a), Some(b)) if Arc::ptr_eq(a, b) => Ordering::Equal,
                (Some(a), Some(b)) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            if order != Ordering::Greater
                && let Some(name) = old.next().filter(|_| order == Ordering::Less)
            {
                self.remove_name(name, id, moved);
            }
            if order != Ordering::Less
                && let Some(name) = new.next().filter(|_| order == Ordering::Greater)
            {
                self.add_name(name, id, moved);
            }
        }
    }

    fn add_name(&mut self, name: &Name, id: SetId, moved: &mut Moved) {
        let sets = self.sets.len();
        match &mut self.index {
            None => moved.gained.push(name.clone()),
            Some(index) => match index.get_mut(name) {
                Some(posting) => posting.insert(id, sets),
                None => {
                    index.insert(name.clone(), Posting::Few(vec![id as u32]));
                    moved.gained.push(name.clone());
                }
            },
        }
    }

    fn remove_name(&mut self, name: &Name, id: SetId, moved: &mut Moved) {
        match &mut self.index {
            None => moved.lost.push(name.clone()),
            Some(index) => {
                if index.get_mut(name).is_some_and(|posting| posting.remove(id)) {
                    index.remove(name);
                    moved.lost.push(name.clone());
                }
            }
        }
    }
}

fn address(names: &Arc<NameSet>) -> usize {
    Arc::as_ptr(names).addr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Store;
    use crate::xds::TypeUrl;

    fn want(store: &Store, wildcard: bool, names: &[&str]) -> Want {
        let names = store.names(names.iter().map(|&name| name.into()).collect());
        Want::new(TypeUrl::from_short("eds").unwrap(), wildcard, names)
    }

    fn moved(gained: &[&str], lost: &[&str], wildcard: Option<bool>) -> Moved {
        let names = |list: &[&str]| list.iter().map(|&name| name.into()).collect();
        Moved { gained: names(gained), lost: names(lost), wildcard }
    }

    fn wanting(interest: &Interest, name: &str) -> Vec<MemberId> {
        let mut marks = Marks::default();
        interest.mark(name, &mut marks);
        interest.marked(&mut marks)
    }

    /// Against a model that keeps everything: few sets and many, near and far.
    #[test]
    fn agrees_with_a_model() {
        use rand::{RngExt, SeedableRng, rngs::StdRng};
        let store = Store::new();
        let mut random = StdRng::seed_from_u64(7);
        let (mut interest, mut model) =
            (Interest::default(), std::collections::BTreeMap::<MemberId, Vec<String>>::new());
        for step in 0..3000 {
            let member = MemberId(random.random_range(0..if step % 1000 < 500 { 3 } else { 60 }));
            let mut list: Vec<_> =
                (0..random.random_range(0..12)).map(|_| format!("n{}", random.random_range(0..15))).collect();
            let before: BTreeSet<_> = model.values().flatten().cloned().collect();
            let moved = if random.random_bool(0.2) {
                list.clear();
                interest.remove(member)
            } else {
                interest.replace(member, &want(&store, false, &list.iter().map(|name| &**name).collect::<Vec<_>>()))
            };
            model.insert(member, list);
            let after: BTreeSet<_> = model.values().flatten().cloned().collect();
            let strings = |names: Vec<Name>| names.iter().map(|name| name.to_string()).collect::<BTreeSet<_>>();
            assert_eq!(strings(moved.gained), after.difference(&before).cloned().collect(), "step {step}");
            assert_eq!(strings(moved.lost), before.difference(&after).cloned().collect(), "step {step}");
            assert_eq!((strings(interest.names()), interest.name_count()), (after.clone(), after.len()));
            for at in 0..15 {
                let name = format!("n{at}");
                let mut wanted = wanting(&interest, &name);
                wanted.sort();
                let expected = model.iter().filter(|(_, list)| list.contains(&name)).map(|(member, _)| *member);
                assert_eq!(wanted, expected.collect::<Vec<_>>(), "step {step}, {name}");
                assert_eq!(interest.wants(&name), !wanted.is_empty());
            }
        }
    }

    #[test]
    fn the_union_is_counted() {
        let store = Store::new();
        let (one, two) = (MemberId(1), MemberId(2));
        let ab = want(&store, false, &["a", "b"]);
        let mut interest = Interest::default();
        assert_eq!(interest.replace(one, &ab), moved(&["a", "b"], &[], None));
        assert_eq!(interest.replace(two, &ab), moved(&[], &[], None));
        assert_eq!(interest.replace(one, &want(&store, false, &["a", "c"])), moved(&["c"], &[], None));
        assert_eq!(interest.replace(one, &want(&store, true, &["c", "d"])), moved(&["d"], &[], Some(true)));
        assert_eq!(wanting(&interest, "a"), [two]);
        assert_eq!(interest.remove(two), moved(&[], &["a", "b"], None));
        assert_eq!(interest.remove(one), moved(&[], &["c", "d"], Some(false)));
        assert!(interest.is_empty());
    }

    #[test]
    fn sets_that_are_shared_are_left_alone() {
        let store = Store::new();
        let (one, two) = (MemberId(1), MemberId(2));
        let (a, ab) = (want(&store, false, &["a"]), want(&store, false, &["a", "b"]));
        let mut interest = Interest::default();
        interest.replace(one, &ab);
        interest.replace(two, &a);
        assert_eq!(interest.replace(one, &a), moved(&[], &["b"], None));
        assert_eq!(wanting(&interest, "a"), [one, two]);
        assert_eq!(interest.replace(one, &want(&store, false, &[])), moved(&[], &[], None));
        assert_eq!(interest.replace(two, &want(&store, false, &[])), moved(&[], &["a"], None));
    }
}
