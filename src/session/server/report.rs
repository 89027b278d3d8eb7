//! What can be told about a stream.

use super::{ServerSession, TypeState, Why};
use crate::content::{NameSet, Reach, Served, ServedType};
use crate::xds::{Kind, Moment, Status, TypeUrl};
use std::sync::Arc;

/// Where one (stream, type) stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The client has what is served and has said so, or there is nothing to
    /// send: it asked for nothing, or by SotW for names that do not exist (C-037).
    Synced,
    /// It was sent something it has not answered, or something waits.
    Stale,
    /// It asked for something, and nothing was sent yet.
    NotSent,
    /// Its last answer was a NACK.
    Rejected,
}

/// What a (stream, type) waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The answer to the response before.
    Turn,
    /// The same, for longer than a turn: what is newer goes out without it (C-049).
    Answer,
    /// The answer for clusters, which come before what refers to them (C-106).
    Order,
    /// The settle window, which withholds removals.
    Settle,
    /// The upstream's word, with the reason where it cannot answer.
    Upstream(Option<String>),
    /// An identity that may have this type.
    Credentials,
}

#[derive(Clone, Debug)]
pub struct TypeReport {
    pub type_url: TypeUrl,
    pub state: State,
    pub wildcard: bool,
    pub names: usize,
    /// `version_info` last stated.
    pub label: Option<String>,
    pub sent: Option<Moment>,
    pub acked: Option<Moment>,
    pub nacked: Option<(Moment, Status)>,
    pub waiting: Option<(Waiting, Moment)>,
    /// It, or names of it, are asked in a private group.
    pub private: Option<Why>,
}

/// One name on one stream.
#[derive(Clone, Debug)]
pub struct NameReport {
    pub subscribed: bool,
    /// Version that the client was sent last.
    pub held: Option<String>,
    /// Version that is served.
    pub served: Option<String>,
    pub waiting: Option<(Waiting, Moment)>,
    /// When the stream last asked for names of the type.
    pub asked: Moment,
}

impl ServerSession {
    /// Every type the client asked for, in writing order.
    pub fn report(&self, now: Moment) -> Vec<TypeReport> {
        let served = self.served.as_deref();
        self.types.iter().map(|(type_url, state)| self.report_type(now, type_url, state, served)).collect()
    }

    /// One name; `None` where the type was never asked for.
    pub fn explain(&self, now: Moment, type_url: &TypeUrl, name: &str) -> Option<NameReport> {
        let state = self.types.get(type_url)?;
        let served = self.served.as_deref().and_then(|served| served.of(type_url)?.resolve(name));
        let aliases = served.map_or(&[][..], |entry| entry.aliases());
        Some(NameReport {
            subscribed: state.subscription.covers(name, aliases),
            held: state.held.entry(name).map(|entry| entry.id().version()),
            served: served.filter(|entry| entry.is_present()).map(|entry| entry.id().version()),
            waiting: self.waiting(now, type_url, state, self.served.as_deref()),
            asked: state.asked,
        })
    }

    /// The names that the client is subscribed to by themselves.
    pub fn subscribed(&self, type_url: &TypeUrl) -> Option<Arc<NameSet>> {
        self.types.get(type_url).map(|state| state.subscription.names().clone())
    }

    fn report_type(&self, now: Moment, type_url: &TypeUrl, state: &TypeState, served: Option<&Served>) -> TypeReport {
        let waiting = self.waiting(now, type_url, state, served);
        TypeReport {
            type_url: type_url.clone(),
            state: match &state.facts {
                facts if facts.nacked.is_some() => State::Rejected,
                facts if facts.sent.is_none() => state.unsent(waiting.is_some()),
                _ if state.dirty || state.turns.unanswered_since().is_some() || waiting.is_some() => State::Stale,
                _ => State::Synced,
            },
            wildcard: state.subscription.wildcard(),
            names: state.subscription.names().len(),
            label: state.label.as_deref().map(str::to_owned),
            sent: state.facts.sent,
            acked: state.facts.acked,
            nacked: state.facts.nacked.clone(),
            waiting,
            private: state.private(),
        }
    }

    fn waiting(
        &self,
        now: Moment,
        type_url: &TypeUrl,
        state: &TypeState,
        served: Option<&Served>,
    ) -> Option<(Waiting, Moment)> {
        if state.refused {
            return Some((Waiting::Credentials, state.asked));
        }
        if let Some(since) = state.withheld {
            return Some((Waiting::Settle, since));
        }
        if state.turns.is_open(now, self.settings.timing.turn)
            && let Some(since) = state.turns.unanswered_since()
        {
            return Some((Waiting::Turn, since));
        }
        let of = served.and_then(|served| served.of(type_url));
        if state.owed || state.lacks_word(of.map(|of| &**of)) {
            let own = self.own_served().filter(|_| state.private().is_some());
            let reason = match own.map(|own| &own.upstream).or(served.map(|served| &served.upstream)) {
                Some(Reach::Silent { reason, .. }) => Some(reason.to_string()),
                _ => None,
            };
            return Some((Waiting::Upstream(reason), state.asked));
        }
        if let Some(since) = state.turns.unanswered_since() {
            return Some((Waiting::Answer, since));
        }
        let unseen = state.dirty && !state.subscription.is_empty();
        let clusters = self.types.iter().find(|(of, _)| of.kind() == Kind::Cluster && *of != type_url);
        let open = clusters.filter(|(_, of)| unseen && of.turns.is_open(now, self.settings.timing.turn));
        open.and_then(|(_, of)| Some((Waiting::Order, of.turns.unanswered_since()?)))
    }
}

impl TypeState {
    /// Nothing was sent: because there is nothing to send?
    fn unsent(&self, waits: bool) -> State {
        let unseen = self.dirty && !self.subscription.is_empty();
        if waits || unseen { State::NotSent } else { State::Synced }
    }

    /// The group has no word on what this type asks for. Once something was
    /// sent a word that is missing concerns single names: see [`NameReport`].
    fn lacks_word(&self, of: Option<&ServedType>) -> bool {
        let subscription = &self.subscription;
        let Some(of) = of else { return !subscription.is_empty() };
        if !self.silent || subscription.is_empty() {
            return false;
        }
        if subscription.wildcard() {
            return !of.complete || of.wildcard_awaited;
        }
        // A glob of which no member was ever stated may have none.
        let mut names = subscription.names().iter().filter(|name| !subscription.globs().contains(name));
        names.any(|name| of.resolve(name).is_none() || of.awaited.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{Body, Edit, Store, entry::Attributes};
    use crate::session::server::{Granted, Scope};
    use crate::xds::ask::{Change, Named};
    use crate::xds::{Ask, Name, Variant};
    use bytes::Bytes;
    use std::sync::Arc;
    use std::time::Duration;

    const VHDS: &str = "type.googleapis.com/envoy.config.route.v3.VirtualHost";
    const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

    fn session(variant: Variant, url: &str, names: &[&str], store: &Store) -> ServerSession {
        let mut session = ServerSession::new(Scope::Aggregated, variant, Arc::default());
        session.join(Granted::default());
        let named = Named { names: names.iter().map(|name| (*name).into()).collect(), variants: vec![] };
        let change = match variant {
            Variant::Sotw => Change::Replace(named),
            Variant::Delta => {
                Change::Delta { subscribe: named, unsubscribe: Named::default(), initial: Vec::default() }
            }
        };
        let node = Some(Bytes::from_static(b"\x0a\x02n1"));
        session.handle_ask(Moment::START, Ask { node, type_url: url.into(), change, ..Ask::default() }, store).unwrap();
        session
    }

    /// The group has these words on names, each `absent` or not.
    fn served(url: &str, words: &[(&str, bool)], store: &Store) -> Arc<Served> {
        let type_url = TypeUrl::new(url);
        let edit = |(name, absent): &(&str, bool)| {
            let body = if *absent { Body::Absent } else { Body::Resource(store.blob(&type_url, &[])) };
            Edit::Put(store.entry(Name::from(*name), body, Attributes::default()))
        };
        let tree = store.edit(&Default::default(), words.iter().map(edit));
        let mut served = Served::default();
        served.types.insert(type_url, Arc::new(ServedType { tree, ..ServedType::default() }));
        Arc::new(served)
    }

    fn look(session: &mut ServerSession, served: &Arc<Served>, store: &Store) -> (usize, State) {
        session.offer(Moment::START, served);
        let said = std::iter::from_fn(|| session.poll_output(Moment::START, store));
        let sent = said.filter(|output| matches!(output, super::super::Output::Send(_))).count();
        (sent, session.report(Moment::START)[0].state)
    }

    /// What is asked for, what the group knows of it, and what comes of that.
    type Row = (Variant, &'static str, &'static [&'static str], &'static [(&'static str, bool)], (usize, State));

    #[test]
    fn who_is_sent_nothing_because_there_is_nothing_is_in_sync() {
        use State::{NotSent, Stale, Synced};
        use Variant::{Delta, Sotw};
        let store = Store::new();
        let table: [Row; 7] = [
            (Delta, VHDS, &[], &[], (0, Synced)),
            (Sotw, VHDS, &[], &[], (0, Synced)),
            (Sotw, EDS, &["a", "b"], &[("a", true), ("b", true)], (0, Synced)),
            (Sotw, EDS, &["a", "b"], &[("a", true)], (0, NotSent)),
            (Delta, EDS, &["a"], &[], (0, NotSent)),
            (Delta, EDS, &["a"], &[("a", true)], (1, Stale)),
            (Sotw, EDS, &["a", "b"], &[("a", false), ("b", true)], (1, Stale)),
        ];
        for (variant, url, names, words, want) in table {
            let mut session = session(variant, url, names, &store);
            let got = look(&mut session, &served(url, words, &store), &store);
            assert_eq!(got, want, "{variant:?} {names:?} {words:?}");
        }
    }

    #[test]
    fn who_asked_for_nothing_is_in_sync_before_the_group_knows_the_type() {
        let store = Store::new();
        let mut empty = session(Variant::Delta, VHDS, &[], &store);
        assert_eq!(look(&mut empty, &Arc::default(), &store), (0, State::Synced));
        let mut named = session(Variant::Delta, EDS, &["a"], &store);
        assert_eq!(look(&mut named, &Arc::default(), &store), (0, State::NotSent));
        assert!(named.report(Moment::START)[0].waiting.is_some());
    }

    #[test]
    fn a_turn_that_expired_still_waits_for_its_answer() {
        let store = Store::new();
        let mut session = session(Variant::Delta, EDS, &["a"], &store);
        look(&mut session, &served(EDS, &[], &store), &store);
        look(&mut session, &served(EDS, &[("a", false)], &store), &store);
        session.written(Moment::START);
        for (seconds, want) in [(1, Waiting::Turn), (6, Waiting::Answer)] {
            let report = session.report(Moment::from_start(Duration::from_secs(seconds)));
            assert_eq!((report[0].state, &report[0].waiting), (State::Stale, &Some((want, Moment::START))));
        }
    }
}
