//! A delta ask in requests that every server takes. Many refuse a message beyond
//! 4 MiB, and a list of names may be added to bit by bit.

use crate::xds::Name;
use crate::xds::name::{Glob, WILDCARD};
use std::collections::{HashMap, VecDeque};

/// What names and versions of one request come to at most.
pub(super) const MOST: usize = 1 << 20;

/// Key and length of a field, or those of an entry and of its two fields.
const FIELD: usize = 6;
const ENTRY: usize = 3 * FIELD;

/// The lists of one request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) subscribe: Vec<Name>,
    pub(super) unsubscribe: Vec<Name>,
    pub(super) initial: Vec<(Name, String)>,
}

impl Part {
    fn bytes(&self) -> usize {
        let names = self.subscribe.iter().chain(&self.unsubscribe).map(|name| name.len() + FIELD);
        names.chain(self.initial.iter().map(entry)).sum()
    }

    /// Cuts it into parts of about `most` bytes, the first one first.
    ///
    /// Versions can only be stated in the first request of a type (C-091). A name
    /// that comes later is stated without: it is answered in any case (C-072). What
    /// is covered by `*` or by a glob alone is not, and a server tells of its removal
    /// only if it was stated (C-092); so these versions are not cut, and the first
    /// part may be larger.
    pub(super) fn cut(self, most: usize) -> VecDeque<Self> {
        if self.bytes() <= most {
            return [self].into();
        }
        let Self { subscribe, unsubscribe, initial } = self;
        let mut versions: HashMap<Name, String> = initial.into_iter().collect();
        let (wide, named): (Vec<Name>, Vec<Name>) = subscribe.into_iter().partition(is_wide);
        let named: Vec<_> = named
            .into_iter()
            .map(|name| {
                let version = versions.remove(&name);
                (name, version)
            })
            .collect();
        let first = Self { subscribe: wide, unsubscribe: Vec::new(), initial: versions.into_iter().collect() };
        let mut parts = Parts { most, made: VecDeque::new(), full: first.bytes(), last: first };
        for (name, version) in named {
            let stated = version.map(|version| (name.clone(), version));
            parts.subscribe(name, stated);
        }
        for name in unsubscribe {
            parts.room_for(name.len() + FIELD).unsubscribe.push(name);
        }
        parts.made.push_back(parts.last);
        parts.made
    }
}

fn entry((name, version): &(Name, String)) -> usize {
    name.len() + version.len() + ENTRY
}

fn is_wide(name: &Name) -> bool {
    **name == *WILDCARD || Glob::parse(name).is_some()
}

struct Parts {
    most: usize,
    made: VecDeque<Part>,
    /// The one that is filled, and its bytes.
    last: Part,
    full: usize,
}

impl Parts {
    fn subscribe(&mut self, name: Name, stated: Option<(Name, String)>) {
        let size = name.len() + FIELD;
        let with_version = size + stated.as_ref().map_or(0, entry);
        // A first request without any name would be a wildcard (C-056).
        let bare = self.last.subscribe.is_empty();
        if self.made.is_empty() && (bare || self.full + with_version <= self.most) {
            self.full += with_version;
            self.last.subscribe.push(name);
            self.last.initial.extend(stated);
        } else {
            if self.made.is_empty() {
                self.close();
            }
            self.room_for(size).subscribe.push(name);
        }
    }

    fn close(&mut self) {
        self.made.push_back(std::mem::take(&mut self.last));
        self.full = 0;
    }

    /// The last part, or a new one where `size` more is too much for it.
    fn room_for(&mut self, size: usize) -> &mut Part {
        if self.full + size > self.most {
            self.close();
        }
        self.full += size;
        &mut self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| Name::from(*name)).collect()
    }

    fn stated(names: &[&str]) -> Vec<(Name, String)> {
        names.iter().map(|name| (Name::from(*name), "1".to_owned())).collect()
    }

    #[test]
    fn what_fits_is_left_as_it_is() {
        let part = Part { subscribe: names(&["a", "b"]), unsubscribe: names(&["c"]), initial: stated(&["a"]) };
        assert_eq!(part.clone().cut(MOST), [part]);
        assert_eq!(Part::default().cut(0), [Part::default()]);
    }

    #[test]
    fn versions_come_first_and_only_for_names_that_do() {
        let part = Part {
            subscribe: names(&["a", "b", "c", "d"]),
            unsubscribe: names(&["x", "y", "z"]),
            initial: stated(&["d", "a", "b"]),
        };
        let parts = part.cut(40);
        let first = Part { subscribe: names(&["a"]), initial: stated(&["a"]), ..Part::default() };
        let second = Part { subscribe: names(&["b", "c", "d"]), unsubscribe: names(&["x", "y"]), ..Part::default() };
        let third = Part { unsubscribe: names(&["z"]), ..Part::default() };
        assert_eq!(parts, [first, second, third]);
    }

    #[test]
    fn what_only_a_wildcard_covers_is_stated_in_any_case() {
        let part = Part { subscribe: names(&["*", "a", "b"]), unsubscribe: Vec::new(), initial: stated(&["p"]) };
        let parts = part.cut(10);
        assert_eq!(parts[0], Part { subscribe: names(&["*"]), initial: stated(&["p"]), ..Part::default() });
        assert_eq!(parts.iter().skip(1).map(|part| part.subscribe.len()).collect::<Vec<_>>(), [1, 1]);
    }
}
