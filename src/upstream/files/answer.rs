//! What a directory says to what a group wants.

use crate::content::NameSet;
use crate::files::{Content, View};
use crate::session::{Update, Want};
use crate::xds::{Kind, Moment, Name, TypeUrl};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What a group was told, by type.
#[derive(Debug, Default)]
pub(super) struct Told(BTreeMap<TypeUrl, Said>);

#[derive(Debug)]
struct Said {
    wildcard: bool,
    names: Arc<NameSet>,
    label: Arc<str>,
    /// The number of the newest name that was asked again.
    again: u64,
}

impl Told {
    /// The answers that are due: to what is wanted and was not, and of what is
    /// another since. `held` are the names that a group holds of a type.
    pub(super) fn say(
        &mut self,
        view: &View,
        wants: &[Want],
        now: Moment,
        held: impl Fn(&TypeUrl) -> Vec<(Name, String)>,
    ) -> Vec<Update> {
        let mut updates = Vec::new();
        let mut clusters = false;
        // In writing order: assignments follow their clusters.
        for want in wants {
            let kind = want.type_url.kind();
            // Never subscriptions (C-192, C-193).
            if matches!(kind, Kind::Health | Kind::Debug) {
                continue;
            }
            let content = view.of(&want.type_url).cloned().unwrap_or_default();
            let before = self.0.get(&want.type_url);
            let known = before.map_or(0, |before| before.again);
            let again = want.again.iter().map(|(number, _)| *number).fold(known, u64::max);
            let (wildcard, names, label) = (want.wildcard, want.names.clone(), content.label.clone());
            let said = Said { wildcard, names, label, again };
            let same = before.is_some_and(|before| before.same(&said));
            // A changed cluster waits for its assignment to be stated again (C-101).
            if same && !(clusters && kind == Kind::Endpoint) {
                continue;
            }
            clusters |= kind == Kind::Cluster;
            self.0.insert(want.type_url.clone(), said);
            if want.wildcard || !want.names.is_empty() {
                updates.push(update(&content, want, &held(&want.type_url), now));
            }
        }
        updates
    }
}

impl Said {
    fn same(&self, other: &Self) -> bool {
        self.wildcard == other.wildcard
            && Arc::ptr_eq(&self.names, &other.names)
            && self.label == other.label
            && self.again == other.again
    }
}

fn update(content: &Content, want: &Want, held: &[(Name, String)], now: Moment) -> Update {
    let mut resources = BTreeMap::new();
    let mut removed: BTreeSet<Name> = BTreeSet::new();
    if want.wildcard {
        resources.extend(content.all().map(|resource| (&resource.name, resource)));
    }
    for name in want.names.iter() {
        let found = content.named(name);
        if found.is_empty() {
            removed.insert(name.clone());
        }
        resources.extend(found.into_iter().map(|resource| (&resource.name, resource)));
    }
    removed.extend(held.iter().map(|(name, _)| name).filter(|name| !content.has(name)).cloned());
    Update {
        type_url: want.type_url.clone(),
        label: content.label.clone(),
        control_plane: "".into(),
        resources: resources.into_values().cloned().collect(),
        removed: removed.into_iter().collect(),
        errors: Vec::new(),
        whole: false,
        silent: Vec::new(),
        answers_wildcard: want.wildcard,
        received: now,
    }
}
