//! Who wants which names of one type.
//!
//! Streams share sets of names, so the index goes from a name to the sets that
//! have it, and from a set to its members. A stream that replaces its set by a
//! near one costs what differs.

use super::core::MemberId;
use crate::content::NameSet;
use crate::session::Want;
use crate::xds::Name;
use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SetId(u32);

#[derive(Debug)]
struct Shared {
    names: Arc<NameSet>,
    members: BTreeSet<MemberId>,
}

/// The interest of a group's members in one type.
#[derive(Debug, Default)]
pub(super) struct Interest {
    members: HashMap<MemberId, SetId>,
    sets: HashMap<SetId, Shared>,
    /// By address: a set is held here, so its address is its own.
    by_address: HashMap<usize, SetId>,
    /// Sorted ids of the sets that have the name; never empty.
    names: HashMap<Name, Vec<SetId>>,
    wildcards: BTreeSet<MemberId>,
    last: u32,
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
                if let Some(shared) = self.sets.get_mut(&new) {
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

    /// Those who want `name` by this very name.
    pub(super) fn wanting(&self, name: &str) -> impl Iterator<Item = MemberId> + '_ {
        let sets = self.names.get(name).map(Vec::as_slice).unwrap_or_default();
        sets.iter().filter_map(|id| self.sets.get(id)).flat_map(|shared| shared.members.iter().copied())
    }

    pub(super) fn wildcards(&self) -> &BTreeSet<MemberId> {
        &self.wildcards
    }

    /// Names that somebody wants.
    pub(super) fn names(&self) -> usize {
        self.names.len()
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
        match self.sets.len() {
            1 => self.sets.values().next().map(|shared| &shared.names),
            _ => None,
        }
    }

    fn only_member(&self, set: SetId) -> bool {
        self.sets.get(&set).is_some_and(|shared| shared.members.len() == 1)
    }

    fn add_set(&mut self, names: &Arc<NameSet>, moved: &mut Moved) -> SetId {
        self.last += 1;
        let id = SetId(self.last);
        for name in names.iter() {
            self.index(name, id, moved);
        }
        self.by_address.insert(address(names), id);
        self.sets.insert(id, Shared { names: names.clone(), members: BTreeSet::new() });
        id
    }

    fn leave_set(&mut self, member: MemberId, id: SetId, moved: &mut Moved) {
        let Some(shared) = self.sets.get_mut(&id) else { return };
        shared.members.remove(&member);
        if !shared.members.is_empty() {
            return;
        }
        let Some(shared) = self.sets.remove(&id) else { return };
        self.by_address.remove(&address(&shared.names));
        for name in shared.names.iter() {
            self.unindex(name, id, moved);
        }
    }

    /// The set `id` of one member becomes `names`.
    fn rewrite(&mut self, id: SetId, names: &Arc<NameSet>, moved: &mut Moved) {
        let Some(shared) = self.sets.get_mut(&id) else { return };
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
            if order != Ordering::Greater {
                let name = old.next().filter(|_| order == Ordering::Less);
                name.into_iter().for_each(|name| self.unindex(name, id, moved));
            }
            if order != Ordering::Less {
                let name = new.next().filter(|_| order == Ordering::Greater);
                name.into_iter().for_each(|name| self.index(name, id, moved));
            }
        }
    }

    fn index(&mut self, name: &Name, id: SetId, moved: &mut Moved) {
        if let Some(sets) = self.names.get_mut(name) {
            if let Err(at) = sets.binary_search(&id) {
                sets.insert(at, id);
            }
            return;
        }
        self.names.insert(name.clone(), vec![id]);
        moved.gained.push(name.clone());
    }

    fn unindex(&mut self, name: &Name, id: SetId, moved: &mut Moved) {
        let Some(sets) = self.names.get_mut(name) else { return };
        if let Ok(at) = sets.binary_search(&id) {
            sets.remove(at);
        }
        if sets.is_empty() {
            self.names.remove(name);
            moved.lost.push(name.clone());
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
        Want { type_url: TypeUrl::from_short("eds").unwrap(), wildcard, names }
    }

    fn moved(gained: &[&str], lost: &[&str], wildcard: Option<bool>) -> Moved {
        let names = |list: &[&str]| list.iter().map(|&name| name.into()).collect();
        Moved { gained: names(gained), lost: names(lost), wildcard }
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
        assert_eq!(interest.wanting("a").collect::<Vec<_>>(), [two]);
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
        assert_eq!(interest.wanting("a").collect::<Vec<_>>(), [one, two]);
        assert_eq!(interest.replace(one, &want(&store, false, &[])), moved(&[], &[], None));
        assert_eq!(interest.replace(two, &want(&store, false, &[])), moved(&[], &["a"], None));
    }
}
