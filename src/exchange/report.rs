//! What an operator may ask about a group.

use super::core::{GroupState, Line};
use super::kind::GroupType;
use super::lease::Phase;
use crate::content::{Body, Reach};
use crate::xds::{Kind, Moment, Name, Status, TypeUrl};
use std::sync::Arc;
use std::time::Duration;

/// One group at one moment.
#[derive(Clone, Debug)]
pub struct GroupReport {
    pub reach: Reach,
    /// The upstream whose stream stands, since when, and when it was last heard.
    pub stream: Option<StreamReport>,
    /// No member has presented a token that is still good: what is held is served.
    pub auth_stale: bool,
    /// When what an earlier process held was put back, if it was.
    pub restored: Option<Moment>,
    /// In writing order.
    pub types: Vec<TypeReport>,
}

#[derive(Clone, Debug)]
pub struct StreamReport {
    pub address: Arc<str>,
    pub opened: Moment,
    pub heard: Option<Moment>,
}

/// One type of it.
#[derive(Clone, Debug)]
pub struct TypeReport {
    pub type_url: TypeUrl,
    pub resources: usize,
    /// The upstream's label as it came, and the one that is shown.
    pub upstream_label: Arc<str>,
    pub label: Arc<str>,
    pub tree: [u8; 32],
    /// The upstream answered `*`.
    pub complete: bool,
    pub synced: bool,
    /// Since it was last known to be what the upstream says.
    pub confirmed: Option<Duration>,
    /// The oldest ask without an answer.
    pub asked: Option<Moment>,
    pub committed: Moment,
    pub wildcard: bool,
    /// Names that members want, that clusters refer to, and that nobody wants
    /// but are subscribed still.
    pub names: usize,
    pub referred: usize,
    pub lingering: usize,
    pub awaited: usize,
    pub restating: usize,
    /// The newest errors of the upstream that replaced nothing; newest last.
    pub errors: Vec<(Moment, Name, Status)>,
}

/// What is known about one name.
#[derive(Clone, Debug, PartialEq)]
pub struct NameReport {
    /// The canonical name, where the asked one is an alias.
    pub name: Name,
    pub holds: Holds,
    /// The version stated downstream, and the upstream's own.
    pub version: Option<String>,
    pub upstream_version: Option<String>,
    pub subscription: Subscription,
    /// Streams that want it by name; those with the wildcard not counted.
    pub members: usize,
    /// Clusters held that refer to it.
    pub clusters: u32,
    /// Held, but not served before the upstream confirmed it or the time is over.
    pub awaited: Option<Awaited>,
    /// Its follow-up waits for the upstream's own answer.
    pub restating: Option<Awaited>,
    pub expires: Option<Moment>,
    pub error: Option<Status>,
}

/// What the upstream's word is awaited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Awaited {
    pub since: Moment,
    /// At the latest.
    pub until: Moment,
}

impl Awaited {
    /// The whole wait takes `span`, and the round trip where one is added: that
    /// much it may be older.
    fn of(until: Moment, span: Duration) -> Self {
        Self { since: Moment::from_start(until.since_start().saturating_sub(span)), until }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Holds {
    Nothing,
    Resource {
        bytes: usize,
    },
    /// Known, without a resource.
    Empty,
    Absent,
    Expired,
    Error(Status),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    None,
    /// Unsubscribed; what is held is unconfirmed.
    Idle,
    /// By its own name, and nobody wants it any more.
    Lingering,
    Named,
    /// By wildcard or glob.
    Covered,
}

impl GroupState {
    pub fn report(&self, now: Moment) -> GroupReport {
        let stream = match &self.line {
            Line::Up { address, opened, heard, .. } => {
                Some(StreamReport { address: address.clone(), opened: *opened, heard: *heard })
            }
            Line::Down { .. } => None,
        };
        let types = self.types.values().map(|kind| self.report_type(now, kind)).collect();
        GroupReport { reach: self.served().upstream.clone(), stream, auth_stale: false, restored: self.restored, types }
    }

    fn report_type(&self, now: Moment, kind: &GroupType) -> TypeReport {
        TypeReport {
            type_url: kind.url.clone(),
            resources: kind.tree.len(),
            upstream_label: kind.labels.upstream().clone(),
            label: kind.labels.shown().clone(),
            tree: kind.tree.id(),
            complete: kind.complete,
            synced: kind.pulse.is_synced(now, self.timing()),
            confirmed: self.confirmed(kind, now),
            asked: kind.pulse.asked_since(),
            committed: kind.committed,
            wildcard: kind.wildcard_subscribed(),
            names: kind.interest.name_count(),
            referred: kind.referred.len(),
            lingering: kind.leases.lingering(),
            awaited: kind.awaited.len(),
            restating: kind.restating.len(),
            errors: kind.errors.iter().cloned().collect(),
        }
    }

    /// How long ago each type was last known to be what the upstream says; `None`
    /// for what was never confirmed.
    pub fn confirmations(&self, now: Moment) -> impl Iterator<Item = (&TypeUrl, Option<Duration>)> {
        self.types.values().map(move |kind| (&kind.url, self.confirmed(kind, now)))
    }

    pub(super) fn confirmed(&self, kind: &GroupType, now: Moment) -> Option<Duration> {
        let here = kind.pulse.confirmed(now, self.heard_last(), self.timing()).map(|at| now.since(at));
        here.or_else(|| kind.pulse.recalled(now))
    }

    /// How many names each type holds.
    pub fn sizes(&self) -> impl Iterator<Item = (&TypeUrl, usize)> {
        self.types.values().map(|kind| (&kind.url, kind.tree.len()))
    }

    /// Everything about one name; `None` where nobody ever wanted the type.
    pub fn explain(&self, type_url: &TypeUrl, name: &Name) -> Option<NameReport> {
        let kind = self.types.get(type_url)?;
        let entry = kind.resolve(name);
        let canonical = entry.map_or(name, |entry| entry.name());
        let holds = match entry.map(|entry| entry.body()) {
            None => Holds::Nothing,
            Some(Body::Resource(blob)) => Holds::Resource { bytes: blob.value().len() },
            Some(Body::Empty) => Holds::Empty,
            Some(Body::Absent) => Holds::Absent,
            Some(Body::Expired) => Holds::Expired,
            Some(Body::Error(status)) => Holds::Error(status.clone()),
        };
        let aliases = entry.map(|entry| entry.aliases()).unwrap_or_default();
        let subscription = match kind.phase(name) {
            Some(Phase::Wanted) => Subscription::Named,
            Some(Phase::Lingering(_)) => Subscription::Lingering,
            _ if kind.covers(canonical, aliases) => Subscription::Covered,
            Some(Phase::Idle(_)) => Subscription::Idle,
            None => Subscription::None,
        };
        Some(NameReport {
            name: canonical.clone(),
            holds,
            version: entry.filter(|entry| entry.is_present()).map(|entry| entry.id().version()),
            upstream_version: Some(kind.version(canonical)).filter(|version| !version.is_empty()),
            subscription,
            members: kind.interest.wanting(name),
            clusters: if type_url.kind() == Kind::Endpoint { self.references.count(name) } else { 0 },
            awaited: kind.awaited.until(name).map(|until| Awaited::of(until, self.timing().reconfirm)),
            restating: kind.restating.until(name).map(|until| Awaited::of(until, self.timing().follow_up)),
            expires: kind.expiry.of(canonical),
            error: kind
                .errors
                .iter()
                .rev()
                .find(|(_, other, _)| other == canonical)
                .map(|(_, _, status)| status.clone()),
        })
    }
}
