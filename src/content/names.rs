//! Sets of names: sorted, immutable, shared.

use crate::xds::Name;

/// A set of resource names. Equal sets made by one store are one object.
#[derive(Debug, Default, PartialEq, Eq, Hash)]
pub struct NameSet {
    names: Box<[Name]>,
}

impl NameSet {
    /// Sorts and removes duplicates.
    pub(super) fn new(mut names: Vec<Name>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self { names: names.into() }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.binary_search_by(|held| (**held).cmp(name)).is_ok()
    }

    /// In ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, Name> {
        self.names.iter()
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
