//! What a stream asks of a private group of its own, and what it shows of it.
//!
//! Whole types go there: sensitive ones of a shared group, and workloads on
//! demand. So do single names that the upstream marks `do_not_cache`, beside a
//! type of the group. The parts are put together once, in `compose`; everything
//! after it sees one snapshot and does not know the difference. A stream that
//! needs nothing of the kind has no [`Private`] and costs nothing.
//!
//! Health information and debug types are passed on as they are (C-192, C-193).

use super::subscription::Subscription;
use super::{Granted, HeardKind, Response, ServerSession, TypeState, label_of, want};
use crate::breaks;
use crate::content::{Edit, Frame, NameSet, Reach, Served, ServedType, Store};
use crate::session::{Pass, Passed, Want};
use crate::xds::ask::Change;
use crate::xds::types::{Kind, Variant};
use crate::xds::wire::Writer;
use crate::xds::{Ask, Moment, Name, Status, Timing, TypeUrl};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock};

/// Debug requests of one stream that wait for their answer, at most.
const MOST_DEBUG: usize = 16;

/// Bytes of an error that is passed on, at most.
const MOST_ERROR: usize = 1024;

/// Of a type to which nothing is subscribed.
static NOTHING: LazyLock<Arc<ServedType>> =
    LazyLock::new(|| Arc::new(ServedType { complete: true, ..ServedType::default() }));

/// Why something is asked in a private group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// A sensitive type, and the key of the group lacks the identity.
    Sensitive,
    /// Workloads asked by name, whose answers have names of their own (C-196).
    OnDemand,
    /// Names that must not be cached (C-145).
    DoNotCache,
}

impl Why {
    /// For people.
    pub fn text(self) -> &'static str {
        match self {
            Self::Sensitive => "secrets, and the group's rule has no {identity}",
            Self::OnDemand => "workloads on demand",
            Self::DoNotCache => "names that must not be cached",
        }
    }
}

/// What a stream asks of its own group.
#[derive(Clone, Debug)]
pub enum Demand {
    Want(Want),
    Pass(Pass),
}

/// What a stream has to do with its own group.
#[derive(Debug, Default)]
pub(super) struct Private {
    served: Option<Arc<Served>>,
    /// What is wanted of it now, and the types of which it was not told.
    wanted: BTreeMap<TypeUrl, Want>,
    untold: BTreeSet<TypeUrl>,
    merged: BTreeMap<TypeUrl, Merged>,
    /// The newest health information, and debug requests without answer.
    health: Option<Pass>,
    debug: VecDeque<Pass>,
    /// Numbers of what is passed on: the newest, and the newest that was told.
    number: u64,
    told: u64,
    answers: VecDeque<(TypeUrl, Passed)>,
    /// Of answers to debug requests that the client has not answered.
    nonces: VecDeque<u64>,
    /// `Output::Own` is due.
    changed: bool,
    /// Types of which names stay here that their group says are gone, and since when.
    staying: BTreeMap<TypeUrl, Moment>,
}

/// A type of the group with names of the private one, and what it was made from.
#[derive(Debug)]
struct Merged {
    group: Arc<ServedType>,
    own: Option<Arc<ServedType>>,
    apart: Arc<NameSet>,
    made: Arc<ServedType>,
}

/// Is the whole type asked in a private group?
pub(super) fn why(type_url: &TypeUrl, subscription: &Subscription, granted: &Granted) -> Option<Why> {
    if granted.private.contains(type_url) {
        return Some(Why::Sensitive);
    }
    let named = !subscription.wildcard() && !subscription.names().is_empty();
    (type_url.kind() == Kind::Workload && named).then_some(Why::OnDemand)
}

// For the shell.
impl ServerSession {
    /// Is there something to ask of a private group? While there is not it need not be.
    pub fn needs_own(&self) -> bool {
        let asks = |own: &Private| !own.wanted.is_empty() || own.health.is_some() || !own.debug.is_empty();
        self.granted.is_some() && self.private.as_deref().is_some_and(asks)
    }

    /// What is to be asked of the private group next. A new group is told everything
    /// after [`leave_own`](Self::leave_own).
    pub fn next_demand(&mut self) -> Option<Demand> {
        let own = self.private.as_deref_mut()?;
        if let Some(type_url) = own.untold.pop_first() {
            let nothing = || Want::new(type_url.clone(), false, Arc::default());
            return Some(Demand::Want(own.wanted.get(&type_url).cloned().unwrap_or_else(nothing)));
        }
        let told = own.told;
        let next = own.health.iter().chain(&own.debug).filter(|pass| pass.number > told).min_by_key(|pass| pass.number);
        let next = next?.clone();
        own.told = next.number;
        Some(Demand::Pass(next))
    }

    /// The newest state of the private group, or of what stands in for it while
    /// there is no place for one.
    pub fn offer_own(&mut self, served: &Arc<Served>) {
        self.private.get_or_insert_default().served = Some(served.clone());
        self.stale = true;
    }

    /// There is no private group any more. One that comes later is told everything.
    pub fn leave_own(&mut self) {
        let Some(own) = self.private.as_deref_mut() else { return };
        own.served = None;
        own.staying.clear();
        own.told = 0;
        own.untold = own.wanted.keys().cloned().collect();
        self.stale = true;
        self.tidy();
    }

    /// Who needs nothing private any more is as fast as who never did.
    fn tidy(&mut self) {
        if !self.needs_own()
            && self.private.as_deref().is_some_and(|own| own.answers.is_empty() && own.nonces.is_empty())
        {
            self.private = None;
        }
    }

    /// The answer to something that was passed on.
    pub fn hear_passed(&mut self, passed: Passed) {
        let Some(own) = self.private.as_deref_mut() else { return };
        let at = own.debug.iter().position(|pass| pass.number == passed.number);
        if let Some(pass) = at.and_then(|at| own.debug.remove(at)) {
            own.answers.push_back((pass.type_url, passed));
            // It may be needed no more.
            own.changed = true;
        }
    }
}

// For the session.
impl ServerSession {
    /// States the want of a type to whom it concerns, after its subscription moved.
    pub(super) fn restate(&mut self, type_url: &TypeUrl, first: bool) {
        let Some(granted) = &self.granted else { return };
        let Some(state) = self.types.get_mut(type_url).filter(|state| !state.refused) else { return };
        let before = std::mem::replace(&mut state.own, why(type_url, &state.subscription, granted));
        if state.own == Some(Why::OnDemand) && before != state.own {
            // From now on all that is served there counts, whatever its name.
            state.held.widen(state.subscription.names().iter().cloned());
        }
        match (before, state.own) {
            (_, None) => self.wants.push_back(want(type_url, state)),
            (None, Some(_)) if !first => {
                self.wants.push_back(Want::new(type_url.clone(), false, Arc::default()));
            }
            _ => {}
        }
        self.want_own(type_url);
        self.stale |= self.private.is_some() || self.group.as_ref().is_some_and(|group| group.apart);
    }

    /// The stream joins a group: what it needs of a private one is stated anew.
    pub(super) fn join_own(&mut self) {
        let Some(granted) = &self.granted else { return };
        if let Some(own) = self.private.as_deref_mut() {
            (own.served, own.told) = (None, 0);
            own.staying.clear();
            own.wanted.clear();
            own.untold.clear();
            own.health = own.health.take().filter(|_| granted.health);
            own.debug.retain(|_| granted.debug);
            own.changed = true;
        }
        self.stale |= self.private.is_some();
        let types: Vec<_> = self.types.keys().cloned().collect();
        types.iter().for_each(|type_url| self.want_own(type_url));
        self.stale |= self.private.is_some();
        self.tidy();
    }

    fn want_own(&mut self, type_url: &TypeUrl) {
        let Some(state) = self.types.get(type_url) else { return };
        let wanted = match state.own {
            _ if state.refused => None,
            Some(_) if state.subscription.is_empty() => None,
            Some(_) => Some(want(type_url, state)),
            None if state.apart.is_empty() => None,
            None => Some(Want::new(type_url.clone(), false, state.apart.clone())),
        };
        if wanted.is_none() && self.private.is_none() {
            return;
        }
        let own = self.private.get_or_insert_default();
        let same = match (own.wanted.get(type_url), &wanted) {
            (Some(before), Some(now)) => before.wildcard == now.wildcard && before.names == now.names,
            (None, None) => true,
            _ => false,
        };
        if same {
            return;
        }
        match wanted {
            Some(wanted) => own.wanted.insert(type_url.clone(), wanted),
            None => own.wanted.remove(type_url),
        };
        own.untold.insert(type_url.clone());
        own.changed = true;
    }

    /// `Output::Own` is due.
    pub(super) fn own_changed(&mut self) -> bool {
        let own = self.private.as_deref_mut().filter(|_| self.granted.is_some());
        own.is_some_and(|own| std::mem::take(&mut own.changed))
    }

    /// What the private group serves.
    pub(super) fn own_served(&self) -> Option<&Arc<Served>> {
        self.private.as_ref()?.served.as_ref()
    }

    /// Puts together what the group serves and what the private one does.
    pub(super) fn compose(&mut self, now: Moment, store: &Store) {
        let Some(group) = self.group.clone() else { return };
        let own = self.own_served().cloned();
        let mut served = Served::clone(&group);
        let before = self.private.as_deref_mut().map(|own| std::mem::take(&mut own.staying)).unwrap_or_default();
        let types: Vec<TypeUrl> = self.types.keys().cloned().collect();
        for type_url in types {
            let Some(state) = self.types.get_mut(&type_url).filter(|state| !state.refused) else { continue };
            let own_type = own.as_ref().and_then(|own| own.of(&type_url));
            if state.own.is_some() {
                match own_type {
                    _ if state.subscription.is_empty() => served.types.insert(type_url, NOTHING.clone()),
                    Some(of) => served.types.insert(type_url, of.clone()),
                    None => served.types.remove(&type_url),
                };
                continue;
            }
            let Some(of) = group.of(&type_url) else { continue };
            let mut apart = state.subscription.among(&of.apart, store);
            if let (Some(own_type), Some(private)) = (own_type, self.private.as_deref_mut()) {
                let since = before.get(&type_url).copied().unwrap_or(now);
                let stay =
                    private.stay(now, (&type_url, since), state.stays(&apart, of, own_type), &self.settings.timing);
                apart = store.names_with(&apart, stay.iter());
            }
            // A first set that waits for these looks again at who can answer.
            state.dirty |= state.owed && !apart.is_empty();
            if state.apart != apart {
                state.apart = apart.clone();
                self.want_own(&type_url);
            }
            if !apart.is_empty() {
                let private = self.private.get_or_insert_default();
                let merged = private.merge(&type_url, of, own_type, apart, store);
                served.types.insert(type_url, merged);
            } else if let Some(private) = self.private.as_deref_mut() {
                private.merged.remove(&type_url);
            }
        }
        if let Some(own) = &own {
            served.unsettled = served.unsettled.max(own.unsettled);
        }
        self.show(now, &served.into());
    }
}

impl Private {
    /// Those of `names` that stay: all of them, until the private group says itself
    /// that they are gone, but not for ever. Its stream may be down, or say nothing.
    fn stay(&mut self, now: Moment, (url, since): (&TypeUrl, Moment), names: Vec<Name>, timing: &Timing) -> Vec<Name> {
        if names.is_empty() || self.stays_until(since, timing).is_some_and(|until| until <= now) {
            return Vec::new();
        }
        self.staying.insert(url.clone(), since);
        names
    }

    /// Its time counts while the private group's upstream answers: loss of a connection
    /// takes nothing away.
    fn stays_until(&self, since: Moment, timing: &Timing) -> Option<Moment> {
        let served = self.served.as_ref().filter(|served| served.upstream == Reach::Answering)?;
        Some(since.max(served.upstream_since) + timing.linger)
    }

    /// When the names that stay are to be looked at again.
    pub(super) fn deadline(&self, timing: &Timing) -> Option<Moment> {
        self.stays_until(*self.staying.values().min()?, timing)
    }

    fn merge(
        &mut self,
        type_url: &TypeUrl,
        group: &Arc<ServedType>,
        own: Option<&Arc<ServedType>>,
        apart: Arc<NameSet>,
        store: &Store,
    ) -> Arc<ServedType> {
        let at = |of: Option<&Arc<ServedType>>| of.map(Arc::as_ptr);
        if let Some(known) = self.merged.get(type_url)
            && Arc::ptr_eq(&known.group, group)
            && at(known.own.as_ref()) == at(own)
            && known.apart == apart
        {
            return known.made.clone();
        }
        let mut made = ServedType { apart: apart.clone(), ..ServedType::clone(group) };
        if let Some(own) = own.filter(|own| !own.tree.is_empty()) {
            let put = |tree: &crate::content::Tree| tree.iter().cloned().map(Edit::Put).collect::<Vec<_>>();
            made.tree = store.edit(&made.tree, put(&own.tree));
            made.aliases = store.edit(&made.aliases, put(&own.aliases));
            made.label = label_of(&group.label, &made.tree);
            (made.received, made.committed) = (made.received.max(own.received), made.committed.max(own.committed));
        }
        let made = Arc::new(made);
        let merged = Merged { group: group.clone(), own: own.cloned(), apart, made: made.clone() };
        self.merged.insert(type_url.clone(), merged);
        made
    }
}

// What is passed on.
impl ServerSession {
    /// Health information is stated to the control plane, if this stream may.
    pub(super) fn pass_health(&mut self, type_url: &TypeUrl, ask: &Ask) {
        if self.granted.as_ref().is_none_or(|granted| granted.health) {
            let own = self.private.get_or_insert_default();
            own.health = Some(own.pass(type_url, ask));
        }
    }

    /// A debug type is asked of the control plane, if this stream may. What carries
    /// a nonce answers the answer, and goes no further.
    pub(super) fn pass_debug(&mut self, type_url: &TypeUrl, ask: &Ask) -> HeardKind {
        if !ask.nonce.is_empty() {
            let nonces = self.private.as_deref_mut().map(|own| &mut own.nonces);
            let known = nonces.and_then(|nonces| {
                let at = nonces.iter().position(|nonce| nonce.to_string() == ask.nonce)?;
                nonces.remove(at)
            });
            if known.is_some() {
                self.tidy();
            }
            return match (known, &ask.error) {
                (None, _) => HeardKind::Stale,
                (Some(_), None) => HeardKind::Ack { received: None },
                (Some(_), Some(status)) => HeardKind::Nack(status.clone()),
            };
        }
        if self.granted.as_ref().is_none_or(|granted| granted.debug) {
            let own = self.private.get_or_insert_default();
            if own.debug.len() < MOST_DEBUG {
                let pass = own.pass(type_url, ask);
                own.debug.push_back(pass);
            }
        }
        HeardKind::Ignored
    }

    /// Answers to what was passed on, each once.
    pub(super) fn say_passed(&mut self) {
        let Some(own) = self.private.as_deref_mut() else { return };
        while let Some((type_url, passed)) = own.answers.pop_front() {
            self.nonce += 1;
            let frame = Arc::new(passed_frame(self.variant, &type_url, &passed));
            if own.nonces.len() >= MOST_DEBUG {
                own.nonces.pop_front();
            }
            own.nonces.push_back(self.nonce);
            self.spoke = true;
            self.outbox.push_back(Response {
                type_url,
                variant: self.variant,
                nonce: self.nonce,
                label: "".into(),
                frame,
                received: passed.received,
            });
        }
    }
}

impl Private {
    fn pass(&mut self, type_url: &TypeUrl, ask: &Ask) -> Pass {
        self.number += 1;
        self.changed = true;
        let names = match &ask.change {
            Change::Replace(named) => named.names.clone(),
            Change::Delta { subscribe, .. } => subscribe.names.clone(),
        };
        let error = ask.error.as_ref().map(|error| Status::new(error.code, cut(&error.message)));
        Pass { number: self.number, type_url: type_url.clone(), names, error }
    }
}

/// An error as it is passed on: for people, so not longer than they read.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MOST_ERROR)]
}

/// The body of an answer that was passed on: its payloads as they came. It is
/// made for this one stream, and held nowhere else.
fn passed_frame(variant: Variant, type_url: &TypeUrl, passed: &Passed) -> Frame {
    let mut out = Writer::default();
    out.string(4, type_url.as_str());
    for resource in &passed.resources {
        let Some(payload) = &resource.payload else { continue };
        let any = |out: &mut Writer| {
            out.string(1, &payload.type_url);
            out.bytes(2, &payload.value);
        };
        match variant {
            Variant::Sotw => out.message(2, any),
            Variant::Delta => out.message(2, |out| {
                out.string(1, &resource.version);
                out.message(2, any);
                out.string(3, resource.name.as_deref().unwrap_or_default());
            }),
        }
    }
    Frame { body: out.finish(), resources: passed.resources.len(), removed: 0 }
}

impl TypeState {
    /// Names that the group does not set apart any more, while the private one holds
    /// them: the streams of both tell of one change at different times (C-145). Not
    /// those that the group has, which may be kept now.
    fn stays(&self, apart: &Arc<NameSet>, group: &ServedType, own: &ServedType) -> Vec<Name> {
        if Arc::ptr_eq(&self.apart, apart) {
            return Vec::new();
        }
        let is_present = |of: &ServedType, name: &Name| of.tree.get(name).is_some_and(|entry| entry.is_present());
        let stays = |name: &&Name| {
            !apart.contains(name)
                && is_present(own, name)
                && !is_present(group, name)
                && self.subscription.covers(name, &[])
        };
        self.apart.iter().filter(stays).cloned().collect()
    }

    /// What of it is asked in a private group, and why.
    pub(super) fn private(&self) -> Option<Why> {
        self.own.or_else(|| (!self.apart.is_empty()).then_some(Why::DoNotCache))
    }

    /// Everything that the private group holds of it belongs to this stream (C-196).
    pub(super) fn takes_all(&self) -> bool {
        self.own == Some(Why::OnDemand) && !breaks::on("C-196")
    }
}

#[cfg(test)]
mod tests;
