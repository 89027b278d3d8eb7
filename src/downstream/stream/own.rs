//! The private group of one stream: what must not be shared or kept is asked for
//! there, over an upstream stream of its own.
//!
//! It is there as long as the session needs it. Where there are too many, the
//! stream waits for a place; what its group serves does not wait for that.

use super::Stream;
use crate::content::{Reach, Served, Sight};
use crate::downstream::Policy;
use crate::exchange::{Member, Place};
use crate::group::{Identity, Secrets};
use crate::session::server::{Demand, Granted};
use crate::xds::node::Presented;
use crate::xds::{Moment, TypeUrl};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

#[derive(Default)]
pub(super) struct Own {
    state: State,
    /// Of the node before this one: it goes when its successor is there.
    before: Option<Member>,
    /// The node of the stream, as it stands.
    presented: Presented,
    offered: Option<Arc<Served>>,
    /// What is offered, without the names that the client may not have.
    sight: Sight,
}

#[derive(Default)]
enum State {
    #[default]
    None,
    Waiting(Pin<Box<dyn Future<Output = Option<Place>> + Send>>),
    Placed(Place),
    Joined(Member),
}

impl Own {
    /// There is a group, or a place for one is awaited.
    pub(super) fn stands(&self) -> bool {
        !matches!(self.state, State::None) || self.before.is_some()
    }

    /// Ready when there is a place at last; `None`: there will be none.
    pub(super) fn poll_place(&mut self, cx: &mut Context<'_>) -> Poll<Option<Place>> {
        match &mut self.state {
            State::Waiting(place) => place.as_mut().poll(cx),
            _ => Poll::Pending,
        }
    }

    pub(super) fn placed(&mut self, place: Option<Place>) {
        self.state = place.map_or(State::None, State::Placed);
    }

    /// The token by which it is to be opened is no good any more.
    pub(super) fn is_asked_back(&self) -> bool {
        matches!(&self.state, State::Joined(member) if member.is_asked_back())
    }

    /// The stream has another node from now on, and asks anew.
    pub(super) fn renew(&mut self, presented: Presented) {
        if let State::Joined(member) = std::mem::take(&mut self.state) {
            self.before.get_or_insert(member);
        }
        (self.presented, self.offered, self.sight) = (presented, None, Sight::default());
    }
}

/// What a stream of this identity may have. Where `served`, sensitive types are
/// served by its group.
pub(super) fn granted(served: bool, identity: Option<&Identity>, policy: &Policy) -> Granted {
    let sensitive = policy.rules.sensitive().to_vec();
    let trusted = identity.is_some() || policy.rules.secrets() == Secrets::TrustNetwork;
    let (refused, private) = match identity {
        _ if served => Default::default(),
        // The private group is this one client's, which has proven who it is.
        Some(_) => (Vec::new(), sensitive),
        None => (sensitive, Vec::new()),
    };
    Granted { refused, private, health: trusted, debug: trusted && policy.pass_debug }
}

impl Stream<'_> {
    /// Makes the private group what the session needs it to be.
    pub(super) fn tend_own(&mut self, now: Moment) {
        let needed = self.listed.client.session().needs_own();
        if !needed {
            if !matches!(self.own.state, State::None) {
                self.own = Own { presented: std::mem::take(&mut self.own.presented), ..Own::default() };
                self.listed.client.session().leave_own();
                self.listed.client.set_private(None);
            }
            self.own.before = None;
            return;
        }
        self.find_own(now);
        let State::Joined(member) = &self.own.state else { return };
        loop {
            let demand = self.listed.client.session().next_demand();
            match demand {
                Some(Demand::Want(want)) => {
                    let limited = self.allowed.limits(&want.type_url);
                    let store = &self.shared.parts.store;
                    member.want(super::may_want(&self.allowed, &mut self.own.sight, store, want));
                    if limited {
                        self.own.offered = None;
                    }
                }
                Some(Demand::Pass(pass)) => member.pass(pass),
                None => break,
            }
        }
        self.own.before = None;
        for passed in member.take_passed() {
            self.listed.client.session().hear_passed(passed);
        }
        let served = member.served();
        if self.own.offered.as_ref().is_none_or(|offered| !Arc::ptr_eq(offered, &served)) {
            let allowed = &self.allowed;
            let limited = |type_url: &TypeUrl| allowed.limits(type_url);
            let store = &self.shared.parts.store;
            let seen = match allowed.is_limited() {
                true => self.own.sight.of(&served, store, limited, |of, name| allowed.has(of, name)),
                false => served.clone(),
            };
            self.listed.client.session().offer_own(&seen);
            self.own.offered = Some(served);
        }
    }

    /// Joins a private group, or waits for a place.
    fn find_own(&mut self, now: Moment) {
        let exchange = &self.shared.parts.exchange;
        let place = match std::mem::take(&mut self.own.state) {
            State::None => exchange.try_place(self.owner()),
            State::Placed(place) => Some(place),
            other => {
                self.own.state = other;
                return;
            }
        };
        let Some(place) = place else {
            self.own.state = State::Waiting(Box::pin(exchange.next_place(self.owner())));
            self.aside.renew();
            return self.wait_for_place(now);
        };
        let wake = self.wake.clone();
        let Some(of) = self.member.as_ref().map(|member| member.group().key()) else { return };
        let (presented, credential) = (self.own.presented.clone(), self.credential.clone());
        let member = exchange.join_private(of, place, presented, credential, Arc::new(move || wake.ring()));
        self.listed.client.set_private(Some(member.group().key().clone()));
        self.own.state = State::Joined(member);
    }

    /// Whose share of the places it takes: its identity's, else its host's.
    fn owner(&self) -> &str {
        let peer = &*self.listed.client.peer;
        match &self.listed.client.identity {
            Some(identity) => identity,
            None => peer.rsplit_once(':').map_or(peer, |(host, _)| host),
        }
    }

    /// The session is told why nothing comes, and so is the operator.
    fn wait_for_place(&mut self, now: Moment) {
        // One that the node before this one had makes room for its successor.
        self.own.before = None;
        let exchange = &self.shared.parts.exchange;
        let (most, share) = (exchange.most_private(), exchange.most_private_of_one());
        let reason = format!(
            "{most} private groups stand already, as many as there may be, or {share} of this client's identity; raise \
             --max-private-groups, or group by what contains the identity"
        );
        if let Some(others) = self.shared.refusals.due(now, &"private_groups") {
            let node = self.listed.client.known().map(|known| known.node);
            tracing::warn!(?node, most, others, "a stream waits for a private group: raise --max-private-groups");
        }
        let upstream = Reach::Silent { since: now, reason: reason.into() };
        self.listed.client.session().offer_own(&Arc::new(Served { upstream, ..Served::default() }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::Rules;
    use crate::session::server::Settings;
    use crate::transport::frame::Limit;

    #[test]
    fn who_may_have_what() {
        let cart = Identity::new("spiffe://mesh.example/ns/shop/sa/cart");
        let secrets = |granted: &Granted| (granted.refused.len(), granted.private.len());
        for (served, identity, mode, debug, want) in [
            (true, Some(&cart), Secrets::Identity, true, ((0, 0), true, true)),
            (false, Some(&cart), Secrets::Identity, false, ((0, 1), true, false)),
            (false, None, Secrets::Identity, true, ((1, 0), false, false)),
            (true, None, Secrets::TrustNetwork, true, ((0, 0), true, true)),
        ] {
            let policy = Policy {
                session: Arc::new(Settings::default()),
                rules: Arc::new(Rules::new(Default::default(), mode, Default::default()).unwrap()),
                message_limit: Limit { bytes: 1, remedy: "" },
                identifier: "".into(),
                pass_debug: debug,
                viewers: Vec::new(),
            };
            let got = granted(served, identity, &policy);
            assert_eq!((secrets(&got), got.health, got.debug), want);
        }
    }
}
