//! The `version_info` that a tree is shown with (C-043, C-044).
//!
//! It is the upstream's own as long as that never stood for other content of
//! the same names; else `<label>~<8 hex of the tree>`. Names that join under one
//! label are fine: SotW answers for more names come under the version that stands.

use crate::content::Tree;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// How many labels of the past are remembered, in case one comes back.
const REMEMBERED: usize = 8;

#[derive(Debug, Default)]
pub(super) struct Labels {
    /// The upstream's newest.
    current: Arc<str>,
    /// It has stood for other content than the tree's.
    diverged: bool,
    /// Something that came under it was dropped here: what comes for the same
    /// name under the same label may be other content.
    dropped: bool,
    /// Hash of a label, and the tree it ended with; `None` where it stood for several.
    past: VecDeque<(u64, Option<[u8; 8]>)>,
    shown: Arc<str>,
}

/// How a commit changed the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    /// Only names that were not there before.
    Added,
    /// A name that was there stands for something else, or is gone.
    Rewrote,
}

/// What of it outlives the process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeptLabel {
    /// The upstream's newest, and the one that is shown.
    pub current: Arc<str>,
    pub shown: Arc<str>,
    /// It has stood for other content than the tree's.
    pub diverged: bool,
    /// Something that came under it was dropped.
    pub dropped: bool,
}

impl Labels {
    pub(super) fn keep(&self) -> KeptLabel {
        let Self { current, diverged, dropped, shown, .. } = self;
        KeptLabel { current: current.clone(), shown: shown.clone(), diverged: *diverged, dropped: *dropped }
    }

    pub(super) fn of(kept: KeptLabel) -> Self {
        let KeptLabel { current, shown, diverged, dropped } = kept;
        Self { current, diverged, dropped, past: VecDeque::new(), shown }
    }

    pub(super) fn shown(&self) -> &Arc<str> {
        &self.shown
    }

    /// The upstream's newest label, as it came.
    pub(super) fn upstream(&self) -> &Arc<str> {
        &self.current
    }

    /// A commit of the upstream's took `before` to `after` under `label`.
    pub(super) fn committed(&mut self, label: &Arc<str>, before: &Tree, after: &Tree, step: Step) {
        if *label != self.current {
            self.remember(before);
            let known = self.past.iter().find(|(past, _)| *past == hash(label)).map(|(_, tree)| *tree);
            self.diverged = known.is_some_and(|tree| tree != Some(prefix(after)));
            self.dropped = false;
            self.current = label.clone();
        } else if step == Step::Nothing && !self.shown.is_empty() {
            return;
        } else {
            self.diverged |= step == Step::Rewrote || self.dropped && step == Step::Added;
        }
        self.show(after);
    }

    /// The tree changed here, not upstream.
    pub(super) fn local(&mut self, after: &Tree, step: Step) {
        match step {
            Step::Rewrote => self.diverged = true,
            Step::Added | Step::Nothing => self.dropped = true,
        }
        self.show(after);
    }

    fn show(&mut self, tree: &Tree) {
        self.shown = match (self.current.is_empty(), self.diverged) {
            (true, _) => hex(&prefix(tree)).into(),
            (false, false) => self.current.clone(),
            (false, true) => format!("{}~{}", self.current, hex(&prefix(tree))).into(),
        };
    }

    fn remember(&mut self, tree: &Tree) {
        if self.current.is_empty() {
            return;
        }
        let stood_for = (!self.diverged).then(|| prefix(tree));
        let current = hash(&self.current);
        match self.past.iter_mut().find(|(past, _)| *past == current) {
            Some((_, before)) => *before = before.filter(|before| Some(*before) == stood_for),
            None => {
                self.past.push_back((current, stood_for));
                if self.past.len() > REMEMBERED {
                    self.past.pop_front();
                }
            }
        }
    }
}

fn hash(label: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    label.hash(&mut hasher);
    hasher.finish()
}

fn prefix(tree: &Tree) -> [u8; 8] {
    let mut first = [0; 8];
    first.iter_mut().zip(tree.id()).for_each(|(to, byte)| *to = byte);
    first
}

/// The first 8 digits of a tree's id.
fn hex(prefix: &[u8; 8]) -> String {
    prefix.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Body, Edit, Store};
    use crate::xds::Status;

    fn tree(store: &Store, of: &[(&str, i32)]) -> Tree {
        let put = |&(name, content): &(&str, i32)| {
            Edit::Put(store.entry(name.into(), Body::Error(Status::new(content, "")), Default::default()))
        };
        store.edit(&Tree::default(), of.iter().map(put))
    }

    #[test]
    fn one_label_never_stands_for_two_contents_of_a_name() {
        let store = Store::new();
        let (none, a1, a1b1, a2) = (
            Tree::default(),
            tree(&store, &[("a", 1)]),
            tree(&store, &[("a", 1), ("b", 1)]),
            tree(&store, &[("a", 2)]),
        );
        let mut labels = Labels::default();
        let mut step = |label: &str, before: &Tree, after: &Tree, step| {
            labels.committed(&label.into(), before, after, step);
            labels.shown().to_string()
        };
        let plain = |tree| hex(&prefix(tree));
        let other = |label: &str, tree| format!("{label}~{}", plain(tree));
        assert_eq!(step("", &none, &a1, Step::Added), plain(&a1));
        assert_eq!(step("v1", &a1, &a1, Step::Nothing), "v1");
        assert_eq!(step("v1", &a1, &a1b1, Step::Added), "v1");
        assert_eq!(step("v1", &a1b1, &a2, Step::Rewrote), other("v1", &a2));
        assert_eq!(step("v2", &a2, &a2, Step::Nothing), "v2");
        assert_eq!(step("v1", &a2, &a2, Step::Nothing), other("v1", &a2), "it stood for two");
        assert_eq!(step("v2", &a2, &a2, Step::Nothing), "v2", "it stood for this");
        assert_eq!(step("v3", &a2, &a1, Step::Rewrote), "v3");
        assert_eq!(step("v2", &a1, &a1, Step::Nothing), other("v2", &a1));
    }

    #[test]
    fn what_was_dropped_here_may_come_back_as_something_else() {
        let store = Store::new();
        let (a1, a2) = (tree(&store, &[("a", 1)]), tree(&store, &[("a", 2)]));
        let mut labels = Labels::default();
        labels.committed(&"v1".into(), &Tree::default(), &a1, Step::Added);
        labels.local(&Tree::default(), Step::Nothing);
        assert_eq!(&**labels.shown(), "v1");
        labels.committed(&"v1".into(), &Tree::default(), &a2, Step::Added);
        assert_eq!(*labels.shown(), format!("v1~{}", hex(&prefix(&a2))).into());
    }
}
