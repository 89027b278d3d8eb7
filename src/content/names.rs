//! Sets of names: sorted, immutable, shared.

use super::intern::Home;
use crate::xds::Name;

/// A set of resource names. Equal sets made by one store are one object.
#[derive(Debug, Default)]
pub struct NameSet {
    names: Box<[Name]>,
    /// `None` in the empty set that no store made.
    home: Option<Home<NameSet>>,
}

impl Drop for NameSet {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            home.leave(self);
        }
    }
}

impl PartialEq for NameSet {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other) || self.names == other.names
    }
}

impl Eq for NameSet {}

impl NameSet {
    /// `names` are sorted and unique.
    pub(super) fn new(names: &[Name], home: Home<NameSet>) -> Self {
        Self { names: names.into(), home: Some(home) }
    }

    pub fn contains(&self, name: &str) -> bool {
        self.names.binary_search_by(|held| (**held).cmp(name)).is_ok()
    }

    /// In ascending order.
    pub fn iter(&self) -> std::slice::Iter<'_, Name> {
        self.names.iter()
    }

    pub fn as_slice(&self) -> &[Name] {
        &self.names
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }
}
