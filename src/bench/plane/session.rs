//! One client's stream on the control plane, as a value.
//!
//! Handler: [`handle`](Session::handle). Poll: [`poll`](Session::poll), after it
//! and after the world moved, until there is nothing to send.

use super::World;
use crate::bench::mesh::{Family, News, Version, class_of};
use crate::xds::ask::{Ask, AskError, Change, Limits};
use crate::xds::name::WILDCARD;
use crate::xds::node::NodeLimits;
use crate::xds::wire::Writer;
use crate::xds::{Name, Node, Variant};
use bytes::Bytes;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Session {
    variant: Variant,
    world: Arc<dyn World>,
    class: u32,
    types: [Subscription; Family::ALL.len()],
    nonce: u64,
}

#[derive(Debug, Default)]
struct Subscription {
    asked: bool,
    wildcard: bool,
    names: BTreeSet<Name>,
    /// The place in the world's log up to which the client was told.
    place: usize,
    /// Of the last response.
    nonce: String,
    /// An answer that is due now: to a subscription.
    due: Option<News>,
}

/// What a request was.
pub(super) struct Heard {
    pub(super) rejected: bool,
}

impl Session {
    pub(super) fn new(variant: Variant, world: Arc<dyn World>) -> Self {
        Self { variant, world, class: 0, types: Default::default(), nonce: 0 }
    }

    /// A type that is not of the world is never answered.
    pub(super) fn handle(&mut self, request: Bytes) -> Result<Heard, AskError> {
        let ask = match self.variant {
            Variant::Delta => Ask::read_delta(request, Limits::default())?,
            Variant::Sotw => Ask::read_sotw(request, Limits::default())?,
        };
        if let Some(node) = ask.node.and_then(|node| Node::read(node, NodeLimits::default()).ok()) {
            self.class = class_of(&node.cluster).filter(|class| *class < self.world.classes()).unwrap_or(0);
        }
        let heard = Heard { rejected: ask.error.is_some() };
        let Some(family) = Family::of(&ask.type_url) else { return Ok(heard) };
        let subscription = &mut self.types[family as usize];
        if self.variant == Variant::Sotw && !ask.nonce.is_empty() && subscription.nonce != ask.nonce {
            // Stale: the client will answer the newer response too.
            return Ok(heard);
        }
        let first = !std::mem::replace(&mut subscription.asked, true);
        match ask.change {
            Change::Replace(named) => self.replace(family, named.names, first),
            Change::Delta { subscribe, unsubscribe, initial } => {
                for name in &unsubscribe.names {
                    subscription.wildcard &= &**name != WILDCARD;
                    subscription.names.remove(name);
                }
                self.subscribe(family, subscribe.names, initial, first);
            }
        }
        Ok(heard)
    }

    fn replace(&mut self, family: Family, names: Vec<Name>, first: bool) {
        let subscription = &mut self.types[family as usize];
        let names: BTreeSet<Name> = names.into_iter().collect();
        let wildcard = names.is_empty() && family.full_state() || names.contains(WILDCARD);
        let more = first || wildcard != subscription.wildcard || !names.is_subset(&subscription.names);
        (subscription.wildcard, subscription.names) = (wildcard, names);
        if more {
            self.answer(family, |_| true);
        }
    }

    fn subscribe(&mut self, family: Family, names: Vec<Name>, initial: Vec<(Name, String)>, first: bool) {
        let subscription = &mut self.types[family as usize];
        let wildcard = first && names.is_empty() && family.full_state() || names.iter().any(|name| &**name == WILDCARD);
        subscription.wildcard |= wildcard;
        subscription.names.extend(names.iter().filter(|name| &***name != WILDCARD).cloned());
        if first || wildcard {
            let held: BTreeMap<Name, String> = initial.into_iter().collect();
            self.answer(family, |version| held.get(&version.name) != Some(&version.version));
            let gone = held.into_keys().collect::<Vec<_>>();
            let gone = self.world.named(self.class, family, &mut gone.iter()).removed;
            if let Some(due) = &mut self.types[family as usize].due {
                // Some are asked for as well, and so known to be gone.
                let gone: BTreeSet<Name> = due.removed.drain(..).chain(gone).collect();
                due.removed.extend(gone);
            }
        } else if !names.is_empty() {
            let mut news = self.world.named(self.class, family, &mut names.iter());
            // Only these names are known to be told up to here.
            news.place = subscription.place;
            match &mut subscription.due {
                Some(due) => due.changed.append(&mut news.changed),
                None => subscription.due = Some(news),
            }
        }
    }

    /// Everything subscribed is due, as far as `wanted` says so.
    fn answer(&mut self, family: Family, wanted: impl Fn(&Version) -> bool) {
        let subscription = &mut self.types[family as usize];
        let mut news = match subscription.wildcard {
            true => self.world.all(self.class, family),
            false => self.world.named(self.class, family, &mut subscription.names.iter()),
        };
        news.changed.retain(|version| wanted(version));
        subscription.place = news.place;
        subscription.due = Some(news);
    }

    /// The next response to send.
    pub(super) fn poll(&mut self) -> Option<Vec<u8>> {
        Family::ALL.into_iter().find_map(|family| {
            let news = self.due(family)?;
            Some(self.write(family, &news))
        })
    }

    fn due(&mut self, family: Family) -> Option<News> {
        let subscription = &mut self.types[family as usize];
        if !subscription.asked {
            return None;
        }
        if let Some(due) = subscription.due.take() {
            return Some(due);
        }
        let mut news = self.world.news(self.class, family, subscription.place);
        subscription.place = news.place;
        if !subscription.wildcard {
            news.changed.retain(|version| subscription.names.contains(&version.name));
            news.removed.retain(|name| subscription.names.contains(name));
        }
        let sotw = self.variant == Variant::Sotw;
        // SotW says of these types only what there is.
        let silent = sotw && !family.full_state();
        if news.changed.is_empty() && (news.removed.is_empty() || silent) {
            return None;
        }
        if sotw && family.full_state() {
            news = self.world.all(self.class, family);
            subscription.place = news.place;
        }
        Some(news)
    }

    fn write(&mut self, family: Family, news: &News) -> Vec<u8> {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let size: usize = news.changed.iter().map(|version| version.resource.len() + 4).sum();
        let mut out = Writer::with_capacity(size + 256);
        out.string(1, &news.place.to_string());
        for version in &news.changed {
            out.bytes(2, if self.variant == Variant::Delta { &version.resource } else { &version.any });
        }
        out.string(4, family.type_url());
        out.string(5, &nonce);
        let identifier = |out: &mut Writer| out.string(1, "outpost-bench");
        match self.variant {
            Variant::Delta => {
                news.removed.iter().for_each(|name| out.bytes(6, name.as_bytes()));
                out.message(7, identifier);
            }
            Variant::Sotw => out.message(6, identifier),
        }
        self.types[family as usize].nonce = nonce;
        out.finish().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::ledger::Ledger;
    use crate::bench::mesh::{Mesh, Shape};
    use crate::bench::sidecar::{self, Sidecar};
    use crate::xds::Moment;

    struct Pair {
        session: Session,
        sidecar: Sidecar,
        ledger: Arc<Ledger>,
    }

    impl Pair {
        /// Exchanges messages until both are silent.
        fn settle(&mut self, mut requests: Vec<crate::xds::envelope::Request>) -> usize {
            let mut responses = 0;
            loop {
                for request in requests.drain(..) {
                    assert!(!self.session.handle(request.message()).unwrap().rejected);
                }
                let Some(response) = self.session.poll() else { return responses };
                responses += 1;
                requests = self.sidecar.receive(response.into(), Moment::START, &self.ledger).unwrap();
            }
        }
    }

    fn rides_through_changes(variant: Variant) {
        let ledger = Arc::new(Ledger::default());
        let mesh = Arc::new(Mesh::new(Shape::for_sidecars(6, 3), ledger.clone()));
        let sidecar = Sidecar::new(sidecar::node("s", "workload-2"), variant);
        let mut pair = Pair { session: Session::new(variant, mesh.clone()), sidecar, ledger: ledger.clone() };
        let opening = pair.sidecar.open();
        pair.settle(opening);
        assert!(pair.sidecar.is_complete());
        assert_eq!(pair.sidecar.digest(), mesh.digest(2));
        for round in 0..200 {
            let changes = round % 3;
            for _ in 0..changes {
                mesh.change(Moment::START, true);
            }
            if round % 10 == 9 {
                pair.session = Session::new(variant, mesh.clone());
                let opening = pair.sidecar.open();
                pair.settle(opening);
            } else {
                let responses = pair.settle(Vec::new());
                assert!(changes > 0 || responses == 0, "{variant:?} spoke without a change");
            }
            assert_eq!(pair.sidecar.digest(), mesh.digest(2), "{variant:?}, round {round}");
        }
        assert_eq!((ledger.unknown(), ledger.backwards()), (0, 0));
        let heard = ledger.changes().iter().filter(|change| change.reached() == 1).count();
        let mine = |change: &&Arc<crate::bench::ledger::Change>| change.audience == 6 || change.reached() > 0;
        assert_eq!(heard, ledger.changes().iter().filter(mine).count());
    }

    #[test]
    fn a_delta_sidecar_follows_the_mesh() {
        rides_through_changes(Variant::Delta);
    }

    #[test]
    fn a_sotw_sidecar_follows_the_mesh() {
        rides_through_changes(Variant::Sotw);
    }

    #[test]
    fn current_versions_are_not_sent_again() {
        let mesh = Arc::new(Mesh::new(Shape::for_sidecars(1, 1), Arc::default()));
        let mut pair = Pair {
            session: Session::new(Variant::Delta, mesh.clone()),
            sidecar: Sidecar::new(sidecar::node("s", "workload-0"), Variant::Delta),
            ledger: Arc::default(),
        };
        let opening = pair.sidecar.open();
        pair.settle(opening);
        let applied = pair.sidecar.applied();
        pair.session = Session::new(Variant::Delta, mesh);
        let opening = pair.sidecar.open();
        let sizes: Vec<_> = opening.into_iter().map(|ask| pair.session.handle(ask.message())).collect();
        assert_eq!(sizes.len(), 4);
        while let Some(response) = pair.session.poll() {
            assert!(response.len() < 200);
        }
        assert_eq!(pair.sidecar.applied(), applied);
    }
}
