//! What is served, as one sees it who may not have every name.
//!
//! Promise: a name that is hidden is as one that the upstream says does not
//! exist: known to be absent from the moment on at which anything is known of it.
//! So neither what is said of it nor when tells whether it exists.

use super::served::{Served, ServedType};
use super::tree::Edit;
use super::{Attributes, Body, Store};
use crate::xds::TypeUrl;
use std::sync::Arc;

/// One stream's sight of what its group serves. It keeps what it saw last, so that
/// what did not change is the same object.
#[derive(Debug, Default)]
pub struct Sight {
    last: Option<(Arc<Served>, Arc<Served>)>,
}

impl Sight {
    /// `served`, without the names of `limited` types that it `may` not have.
    pub fn of(
        &mut self,
        served: &Arc<Served>,
        store: &Store,
        limited: impl Fn(&TypeUrl) -> bool,
        may: impl Fn(&TypeUrl, &str) -> bool,
    ) -> Arc<Served> {
        let mut seen = Served::clone(served);
        for (type_url, of) in seen.types.iter_mut().filter(|(type_url, _)| limited(type_url)) {
            *of = match self.known(type_url, of) {
                Some(known) => known,
                None => Arc::new(hide(of, store, |name| may(type_url, name))),
            };
        }
        let seen = Arc::new(seen);
        self.last = Some((served.clone(), seen.clone()));
        seen
    }

    fn known(&self, type_url: &TypeUrl, of: &Arc<ServedType>) -> Option<Arc<ServedType>> {
        let (served, seen) = self.last.as_ref()?;
        Arc::ptr_eq(served.of(type_url)?, of).then(|| seen.of(type_url).cloned())?
    }
}

fn hide(of: &ServedType, store: &Store, may: impl Fn(&str) -> bool) -> ServedType {
    let hidden = of.tree.iter().filter(|entry| !matches!(entry.body(), Body::Absent) && !may(entry.name()));
    let absent = |name: &crate::xds::Name| store.entry(name.clone(), Body::Absent, Attributes::default());
    let (apart, elsewhere): (Vec<_>, Vec<_>) = of.apart.iter().cloned().partition(|name| may(name));
    let edits: Vec<_> =
        hidden.map(|entry| entry.name()).chain(&elsewhere).map(|name| Edit::Put(absent(name))).collect();
    let apart = if elsewhere.is_empty() { of.apart.clone() } else { store.names(apart) };
    ServedType { tree: store.edit(&of.tree, edits), apart, ..of.clone() }
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
}
