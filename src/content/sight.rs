//! What is served, as one sees it who may not have every name.
//!
//! Promise: a name that is hidden is as one that the upstream says does not
//! exist, and it is so at once: the upstream is not asked for it, and what others
//! have of it makes no difference. So neither what is said of it nor when tells
//! whether it exists.

use super::names::NameSet;
use super::served::{Served, ServedType};
use super::tree::Edit;
use super::{Attributes, Body, Store};
use crate::xds::name::Glob;
use crate::xds::{Name, TypeUrl};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One stream's sight of what its group serves. It keeps what it saw last, so that
/// what did not change is the same object.
#[derive(Debug, Default)]
pub struct Sight {
    last: Option<Last>,
    hidden: Hidden,
}

/// What the stream asks for by name and may not have.
type Hidden = BTreeMap<TypeUrl, Arc<NameSet>>;

#[derive(Debug)]
struct Last {
    served: Arc<Served>,
    seen: Arc<Served>,
    hidden: Hidden,
}

impl Sight {
    /// The stream wants these names of a limited type from now on, in the place of
    /// those before. Returns what is to be asked for: the names that it `may` have,
    /// and globs, of whose members it sees what it may.
    pub fn ask(
        &mut self,
        type_url: &TypeUrl,
        names: &Arc<NameSet>,
        store: &Store,
        may: impl Fn(&str) -> bool,
    ) -> Arc<NameSet> {
        let open = |name: &Name| may(name) || Glob::parse(name).is_some();
        let (open, hidden): (Vec<_>, Vec<_>) = names.iter().cloned().partition(open);
        if hidden.is_empty() {
            self.hidden.remove(type_url);
            return names.clone();
        }
        self.hidden.insert(type_url.clone(), store.names(hidden));
        store.names(open)
    }

    /// `served`, without the names of `limited` types that it `may` not have.
    pub fn of(
        &mut self,
        served: &Arc<Served>,
        store: &Store,
        limited: impl Fn(&TypeUrl) -> bool,
        may: impl Fn(&TypeUrl, &str) -> bool,
    ) -> Arc<Served> {
        let mut seen = Served::clone(served);
        for type_url in self.hidden.keys() {
            // Of a type that nobody may ask for the group knows nothing.
            seen.types.entry(type_url.clone()).or_default();
        }
        for (type_url, of) in seen.types.iter_mut().filter(|(type_url, _)| limited(type_url)) {
            *of = match self.known(type_url, of) {
                Some(known) => known,
                None => Arc::new(hide(of, self.hidden.get(type_url), store, |name| may(type_url, name))),
            };
        }
        let seen = Arc::new(seen);
        self.last = Some(Last { served: served.clone(), seen: seen.clone(), hidden: self.hidden.clone() });
        seen
    }

    fn known(&self, type_url: &TypeUrl, of: &Arc<ServedType>) -> Option<Arc<ServedType>> {
        let Last { served, seen, hidden } = self.last.as_ref()?;
        let same = Arc::ptr_eq(served.of(type_url)?, of) && hidden.get(type_url) == self.hidden.get(type_url);
        same.then(|| seen.of(type_url).cloned())?
    }
}

/// `asked`: names that are asked for and may not be had, whatever is known of them.
fn hide(of: &ServedType, asked: Option<&Arc<NameSet>>, store: &Store, may: impl Fn(&str) -> bool) -> ServedType {
    let hidden = of.tree.iter().filter(|entry| !matches!(entry.body(), Body::Absent) && !may(entry.name()));
    let absent = |name: &Name| Edit::Put(store.entry(name.clone(), Body::Absent, Attributes::default()));
    let asked = asked.into_iter().flat_map(|asked| asked.iter());
    let edits = hidden.map(|entry| entry.name()).chain(of.apart.iter().filter(|name| !may(name))).chain(asked);
    let seen = |names: &Arc<NameSet>| match names.iter().all(|name| may(name)) {
        true => names.clone(),
        false => store.names(names.iter().filter(|name| may(name)).cloned().collect()),
    };
    ServedType {
        tree: store.edit(&of.tree, edits.map(absent).collect::<Vec<_>>()),
        apart: seen(&of.apart),
        // What is awaited for others is no reason to wait.
        awaited: seen(&of.awaited),
        restating: seen(&of.restating),
        ..of.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_names_are_absent_and_what_stays_is_the_same() {
        let store = Store::new();
        let (sds, cds) = (TypeUrl::from_short("sds").unwrap(), TypeUrl::from_short("cds").unwrap());
        let entry = |name: &str, body| Edit::Put(store.entry(name.into(), body, Attributes::default()));
        let tree = |of: &TypeUrl, names: &[&str]| {
            let edits = names.iter().map(|name| entry(name, Body::Resource(store.blob(of, name.as_bytes()))));
            Arc::new(ServedType { tree: store.edit(&Default::default(), edits), ..ServedType::default() })
        };
        let mut served = Served::default();
        served.types.insert(sds.clone(), tree(&sds, &["own", "other"]));
        served.types.insert(cds.clone(), tree(&cds, &["other"]));
        let served = Arc::new(served);
        let mut sight = Sight::default();
        let mut see = |served: &Arc<Served>| sight.of(served, &store, |of| *of == sds, |_, name| name == "own");
        let seen = see(&served);
        let got = seen.of(&sds).unwrap();
        assert!(got.tree.get("own").unwrap().is_present());
        assert!(matches!(got.tree.get("other").unwrap().body(), Body::Absent));
        assert!(Arc::ptr_eq(seen.of(&cds).unwrap(), served.of(&cds).unwrap()), "another type is not looked at");
        // Just as where the upstream says that it does not exist.
        let edits = [entry("own", Body::Resource(store.blob(&sds, b"own"))), entry("other", Body::Absent)];
        assert_eq!(got.tree.id(), store.edit(&Default::default(), edits).id());
        let mut next = Served::clone(&served);
        next.types.insert(cds.clone(), tree(&cds, &["more"]));
        assert!(Arc::ptr_eq(see(&Arc::new(next)).of(&sds).unwrap(), got), "what did not change is the same object");
    }

    /// A hidden name that exists, one that does not, and one that others wait for
    /// are the same, from the moment they are asked for.
    #[test]
    fn what_is_asked_for_and_hidden_is_absent_at_once_whether_it_exists_or_not() {
        let store = Store::new();
        let sds = TypeUrl::from_short("sds").unwrap();
        let names = |names: &[&str]| store.names(names.iter().map(|name| Name::from(*name)).collect());
        let own = |name: &str| name == "own";
        let mut sight = Sight::default();
        let mut cold = Served::default();
        let entry = |name: &str| {
            Edit::Put(store.entry(name.into(), Body::Resource(store.blob(&sds, b"x")), Attributes::default()))
        };
        for known in [None, Some(vec![]), Some(vec![entry("there")])] {
            if let Some(edits) = known {
                let tree = store.edit(&Default::default(), edits);
                let of = ServedType { tree, awaited: names(&["own", "waits"]), ..ServedType::default() };
                cold.types.insert(sds.clone(), Arc::new(of));
            }
            let served = Arc::new(cold.clone());
            let see = |sight: &mut Sight| sight.of(&served, &store, |of| *of == sds, |_, name| own(name));
            assert_eq!(sight.ask(&sds, &names(&["own"]), &store, own), names(&["own"]));
            see(&mut sight);
            let asked = sight.ask(&sds, &names(&["missing", "own", "there", "waits", "xdstp://a/t/*"]), &store, own);
            assert_eq!(asked, names(&["own", "xdstp://a/t/*"]), "the upstream is not asked for the others");
            let seen = see(&mut sight);
            let of = seen.of(&sds).unwrap();
            for name in ["missing", "there", "waits"] {
                let is_absent = of.tree.get(name).is_some_and(|entry| matches!(entry.body(), Body::Absent));
                assert!(is_absent && !of.awaited.contains(name), "{name}");
            }
            assert!(of.tree.get("own").is_none(), "of what it may have the upstream speaks");
        }
    }
}
