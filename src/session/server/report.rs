//! What can be told about a stream.

use super::{ServerSession, TypeState};
use crate::content::{Reach, Served};
use crate::xds::{Moment, Status, TypeUrl};

/// Where one (stream, type) stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The client has what is served and has said so.
    Synced,
    /// It was sent something it has not answered, or something waits.
    Stale,
    /// It asked; nothing was sent yet.
    NotSent,
    /// Its last answer was a NACK.
    Rejected,
}

/// What a (stream, type) waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waiting {
    /// The answer to the response before.
    Turn,
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
        })
    }

    fn report_type(&self, now: Moment, type_url: &TypeUrl, state: &TypeState, served: Option<&Served>) -> TypeReport {
        let waiting = self.waiting(now, type_url, state, served);
        TypeReport {
            type_url: type_url.clone(),
            state: match &state.facts {
                facts if facts.nacked.is_some() => State::Rejected,
                facts if facts.sent.is_none() => State::NotSent,
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
        let known = served.is_some_and(|served| served.of(type_url).is_some());
        if state.owed || (!known && !state.subscription.is_empty()) {
            let reason = match served.map(|served| &served.upstream) {
                Some(Reach::Silent { reason, .. }) => Some(reason.to_string()),
                _ => None,
            };
            return Some((Waiting::Upstream(reason), state.asked));
        }
        None
    }
}
