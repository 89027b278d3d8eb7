//! What a stream was not asked about, because another stream of the group
//! changed it meanwhile. Pure.
//!
//! A stream states the versions that are held when it asks first, and its server
//! says nothing of what is current by them. What an older stream changes after
//! that, and before the new one answers, the new one's silence says nothing of.

use crate::session::Update;
use crate::xds::{Name, TypeUrl};
use std::collections::{BTreeMap, HashSet};

/// Of one type.
#[derive(Debug, Default)]
struct Doubt {
    names: HashSet<Name>,
    /// What was left out of a whole set, whatever its names.
    others: bool,
}

#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<TypeUrl, Doubt>);

impl Doubts {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Another stream said this.
    pub(super) fn raise(&mut self, said: &Said) {
        if said.names.is_empty() && !said.whole {
            // It was silence.
            return;
        }
        let doubt = self.0.entry(said.type_url.clone()).or_default();
        doubt.names.extend(said.names.iter().cloned());
        doubt.others |= said.whole;
    }

    /// The stream itself says this.
    pub(super) fn settle(&mut self, update: &Update) {
        let Some(doubt) = self.0.get_mut(&update.type_url) else { return };
        doubt.others &= !update.whole;
        names(update).for_each(|name| _ = doubt.names.remove(name));
        if update.whole || doubt.names.is_empty() && !doubt.others {
            self.0.remove(&update.type_url);
        }
    }
}

/// What an update speaks of.
pub(super) struct Said {
    pub(super) type_url: TypeUrl,
    names: Vec<Name>,
    whole: bool,
}

impl Said {
    pub(super) fn by(update: &Update) -> Self {
        Self { type_url: update.type_url.clone(), names: names(update).cloned().collect(), whole: update.whole }
    }
}

fn names(update: &Update) -> impl Iterator<Item = &Name> {
    let present = update.resources.iter().filter_map(|resource| resource.name.as_ref());
    present.chain(&update.removed).chain(update.errors.iter().map(|(name, _)| name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::Moment;

    fn update(removed: &[&str], whole: bool) -> Update {
        Update {
            type_url: TypeUrl::from_short("cds").unwrap(),
            label: "".into(),
            control_plane: "".into(),
            resources: Vec::new(),
            removed: removed.iter().map(|name| Name::from(*name)).collect(),
            errors: Vec::new(),
            whole,
            silent: Vec::new(),
            answers_wildcard: false,
            received: Moment::START,
        }
    }

    #[test]
    fn only_its_own_word_settles_what_another_stream_changed() {
        let mut doubts = Doubts::default();
        doubts.settle(&update(&["a"], false));
        assert!(doubts.is_empty());
        doubts.raise(&Said::by(&update(&["a", "b"], false)));
        doubts.settle(&update(&["a", "c"], false));
        assert!(!doubts.is_empty(), "nothing was said of b");
        doubts.settle(&update(&["b"], false));
        assert!(doubts.is_empty());
        doubts.raise(&Said::by(&update(&["a"], true)));
        doubts.settle(&update(&["a"], false));
        assert!(!doubts.is_empty(), "what the set left out has no name");
        doubts.settle(&update(&[], true));
        assert!(doubts.is_empty());
    }
}
