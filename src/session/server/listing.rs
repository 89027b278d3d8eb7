//! Every resource of one type on one stream, for those who look in.
//!
//! A [`Listing`] is taken in one step and read without the session: what it
//! holds is shared, so a hundred thousand names hold up nobody.

use super::held::Held;
use super::subscription::Subscription;
use super::{ServerSession, State, TypeReport, Why};
use crate::content::{Body, Entry, ServedType};
use crate::xds::{Moment, Name, Status};
use std::collections::BTreeSet;
use std::sync::Arc;

/// One (stream, type) at one moment.
#[derive(Clone, Debug)]
pub struct Listing {
    pub report: TypeReport,
    subscription: Subscription,
    held: Held,
    served: Option<Arc<ServedType>>,
    /// The type is refused to this stream.
    refused: bool,
}

/// One name of it.
#[derive(Clone, Debug)]
pub struct Listed {
    pub name: Name,
    /// What the client was sent, or else what is served.
    pub entry: Option<Arc<Entry>>,
    pub standing: Standing,
}

/// How a client stands with one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It has what is served.
    Synced,
    /// It has something else, or has not answered.
    Stale,
    NotSent,
    /// It rejected the response that this was in.
    Rejected,
    /// There is no such resource.
    Absent,
    /// The upstream has an error for it.
    Failed(Status),
}

impl ServerSession {
    /// Every type the client asked for, in writing order.
    pub fn listings(&self, now: Moment) -> Vec<Listing> {
        let served = self.served.as_deref();
        let of = self.report(now).into_iter().filter_map(|report| {
            let state = self.types.get(&report.type_url)?;
            Some(Listing {
                subscription: state.subscription.clone(),
                held: state.held.clone(),
                served: served.and_then(|served| served.of(&report.type_url)).cloned(),
                refused: state.refused,
                report,
            })
        });
        of.collect()
    }
}

impl Listing {
    /// The whole type is asked in the stream's private group.
    pub fn is_private(&self) -> bool {
        self.report.private.is_some_and(|why| why != Why::DoNotCache)
    }

    /// What the client asked for or has, by name.
    pub fn resources(&self) -> impl Iterator<Item = Listed> {
        self.names().into_iter().map(|name| self.of(name))
    }

    fn names(&self) -> BTreeSet<Name> {
        let subscription = &self.subscription;
        let mut names: BTreeSet<Name> = subscription.names().iter().cloned().collect();
        for glob in subscription.globs() {
            names.remove(glob);
        }
        let all = self.report.private == Some(Why::OnDemand);
        if subscription.wildcard() || !subscription.globs().is_empty() || all {
            let served = self.served.iter().flat_map(|served| served.tree.iter());
            let held = self.held.tree().into_iter().flat_map(|tree| tree.iter());
            let found = served.chain(held).filter(|entry| entry.is_present());
            let covered = found.filter(|entry| all || subscription.covers(entry.name(), entry.aliases()));
            names.extend(covered.map(|entry| entry.name().clone()));
        }
        names
    }

    fn of(&self, name: Name) -> Listed {
        let held = self.held.entry(&name);
        let word = self.served.as_ref().and_then(|served| served.resolve(&name));
        let served = word.filter(|entry| entry.is_present());
        let held = held.or_else(|| self.held.entry(word?.name())).filter(|_| !self.refused);
        let standing = match (held, served) {
            _ if self.refused => Standing::NotSent,
            (_, Some(_)) if self.report.state == State::Rejected => Standing::Rejected,
            (Some(held), Some(served)) if held.id() == served.id() && self.report.state == State::Synced => {
                Standing::Synced
            }
            (Some(_), _) => Standing::Stale,
            (None, Some(_)) => Standing::NotSent,
            (None, None) => match word.map(|entry| entry.body()) {
                Some(Body::Error(status)) => Standing::Failed(status.clone()),
                Some(_) => Standing::Absent,
                None => Standing::NotSent,
            },
        };
        let entry = held.or(served).filter(|_| !self.refused).cloned();
        Listed { name, entry, standing }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Edit, Served, Store, entry::Attributes};
    use crate::session::server::{Granted, Scope};
    use crate::xds::ask::{Change, Named};
    use crate::xds::{Ask, TypeUrl, Variant, code};
    use bytes::Bytes;

    const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

    fn served(words: &[(&str, Body)], store: &Store) -> Arc<Served> {
        let edit = |(name, body): &(&str, Body)| {
            Edit::Put(store.entry(Name::from(*name), body.clone(), Attributes::default()))
        };
        let tree = store.edit(&Default::default(), words.iter().map(edit));
        let mut served = Served::default();
        served.types.insert(TypeUrl::new(EDS), Arc::new(ServedType { tree, complete: true, ..ServedType::default() }));
        Arc::new(served)
    }

    fn session(names: &[&str], refused: bool, store: &Store) -> ServerSession {
        let mut session = ServerSession::new(Scope::Aggregated, Variant::Delta, Arc::default());
        let refused = if refused { vec![TypeUrl::new(EDS)] } else { vec![] };
        session.join(Granted { refused, ..Granted::default() });
        let named = Named { names: names.iter().map(|name| (*name).into()).collect(), variants: vec![] };
        let change = Change::Delta { subscribe: named, unsubscribe: Named::default(), initial: Vec::default() };
        let node = Some(Bytes::from_static(b"\x0a\x02n1"));
        session.handle_ask(Moment::START, Ask { node, type_url: EDS.into(), change, ..Ask::default() }, store).unwrap();
        session
    }

    fn listed(session: &ServerSession) -> Vec<(String, Standing, bool)> {
        let listing = session.listings(Moment::START).remove(0);
        listing.resources().map(|each| (each.name.to_string(), each.standing, each.entry.is_some())).collect()
    }

    #[test]
    fn every_name_stands_somewhere() {
        let store = Store::new();
        let blob = |text: &'static [u8]| Body::Resource(store.blob(&TypeUrl::new(EDS), text));
        let failed = Status::new(code::UNAVAILABLE, "later");
        let mut session = session(&["a", "b", "gone", "bad", "?"], false, &store);
        let first = served(
            &[("a", blob(b"1")), ("b", blob(b"1")), ("gone", Body::Absent), ("bad", Body::Error(failed.clone()))],
            &store,
        );
        session.offer(Moment::START, &first);
        let of = |name: &str, standing: Standing, any: bool| (name.to_owned(), standing, any);
        let before = [
            of("?", Standing::NotSent, false),
            of("a", Standing::NotSent, true),
            of("b", Standing::NotSent, true),
            of("bad", Standing::Failed(failed), false),
            of("gone", Standing::Absent, false),
        ];
        assert_eq!(listed(&session), before);
        while session.poll_output(Moment::START, &store).is_some() {}
        let sent = listed(&session);
        assert_eq!((&sent[1], &sent[2]), (&of("a", Standing::Stale, true), &of("b", Standing::Stale, true)));
    }

    #[test]
    fn what_is_refused_is_not_shown() {
        let store = Store::new();
        let blob = Body::Resource(store.blob(&TypeUrl::new(EDS), b"secret"));
        let mut session = session(&["a"], true, &store);
        session.offer(Moment::START, &served(&[("a", blob)], &store));
        assert_eq!(listed(&session), [("a".to_owned(), Standing::NotSent, false)]);
    }
}
