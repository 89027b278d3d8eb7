//! Control plane, two replicas, sidecars, and the network between: one seed is
//! one history.

use super::faults::{Fault, Faults};
use super::plane::{NAMES, Plane, TYPES};
use super::rng::Rng;
use super::sidecar::Sidecar;
use bytes::Bytes;
use outpost::content::{Store, Tree};
use outpost::exchange::core::{GroupState, MemberId};
use outpost::session::client::{ClientSession, Output as ClientOutput};
use outpost::session::server::{Demand, Granted, Output, Scope, ServerSession, Settings};
use outpost::xds::{Ask, Limits, Moment, Timing, TypeUrl, Variant};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

const GROUPS: usize = 2;
const SIDECARS: usize = 5;
/// The groups, and then the private one of each sidecar.
const SLOTS: usize = GROUPS + SIDECARS;
/// Responses that a reader's buffers hold before its stream counts as unread.
const WINDOW: usize = 2;

pub struct World {
    pub rng: Rng,
    pub now: Moment,
    pub plane: Plane,
    pub replicas: Vec<Replica>,
    pub sidecars: Vec<Sidecar>,
    served: Vec<Option<Served>>,
    settings: Arc<Settings>,
    pub faults: Faults,
    members: u64,
    pub steps: usize,
}

/// One Outpost: its content, its groups, and their streams upstream.
pub struct Replica {
    store: Arc<Store>,
    groups: Vec<GroupState>,
    links: Vec<Option<Uplink>>,
    variant: Variant,
    /// The WAN is cut: no stream can be opened.
    pub cut: bool,
    /// I10: what was served when the stream of a group was lost.
    frozen: Vec<Option<BTreeMap<TypeUrl, [u8; 32]>>>,
}

struct Uplink {
    id: u64,
    session: ClientSession,
    to_plane: VecDeque<Bytes>,
    /// What is wanted was read last, and is another since.
    read: Option<Moment>,
    stale: bool,
}

impl Uplink {
    /// As the upstream driver does: the first change at once, those that follow it
    /// gathered.
    fn read_wants(&mut self, now: Moment, state: &mut GroupState, gather: Duration) {
        self.stale |= state.take_asks_changed();
        if !self.stale || self.read.is_some_and(|read| now < read + gather) {
            return;
        }
        (self.stale, self.read) = (false, Some(now));
        for want in state.wanted_upstream() {
            let held = || state.held_versions(&want.type_url);
            self.session.set_wanted(&want, held);
        }
    }
}

/// The server's end of a sidecar's stream.
struct Served {
    replica: usize,
    session: ServerSession,
    member: Option<MemberId>,
    /// It has a private group.
    own: bool,
}

/// What the nodes of a slot see of the world.
fn seen_by(slot: usize) -> usize {
    if slot < GROUPS { slot } else { (slot - GROUPS) % GROUPS }
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let timing = Timing::default();
        let start = Moment::from_start(Duration::from_secs(1));
        let settings = Arc::new(Settings { timing: timing.clone(), ..Settings::default() });
        let mut plane = Plane::default();
        plane.versionless = rng.chance(30);
        plane.uncached = rng.chance(40);
        for group in 0..GROUPS {
            for url in TYPES {
                for name in &NAMES[..3] {
                    plane.put(group, url, name);
                }
            }
        }
        let replicas = (0..2)
            .map(|_| {
                let store = Store::new();
                let group = || GroupState::new(start, store.clone(), Arc::new(timing.clone()));
                let private = || GroupState::private(start, store.clone(), &timing);
                Replica {
                    groups: (0..GROUPS).map(|_| group()).chain((0..SIDECARS).map(|_| private())).collect(),
                    store: store.clone(),
                    links: (0..SLOTS).map(|_| None).collect(),
                    variant: if rng.chance(70) { Variant::Delta } else { Variant::Sotw },
                    cut: false,
                    frozen: vec![None; GROUPS],
                }
            })
            .collect();
        let sidecars = (0..SIDECARS)
            .map(|id| {
                let variant = if rng.chance(60) { Variant::Delta } else { Variant::Sotw };
                Sidecar::new(id, id % GROUPS, variant)
            })
            .collect();
        Self {
            rng,
            now: start,
            plane,
            replicas,
            sidecars,
            served: (0..SIDECARS).map(|_| None).collect(),
            settings,
            faults: Faults::default(),
            members: 0,
            steps: 0,
        }
    }

    /// One thing happens; then everything that can be said is said, and the
    /// state is judged.
    pub fn step(&mut self) -> Result<(), String> {
        self.steps += 1;
        match self.rng.below(100) {
            0..=17 => self.change_world(),
            18..=24 => self.resubscribe(),
            25..=50 => self.deliver_down()?,
            51..=62 => self.deliver_up()?,
            63..=82 => self.deliver_upstream()?,
            83..=89 => self.pass(self.rng.clone().below(40) as u64),
            90 => self.lose_sidecar(),
            91 => self.lose_upstream(),
            92 => self.toggle_pause(),
            93 => self.toggle_cut(),
            94 => self.jump(),
            95 => self.misbehave(),
            96 if self.rng.chance(15) => self.restart_plane(),
            _ => self.connect(),
        }
        self.settle_replicas()?;
        self.frozen_stays()
    }

    fn change_world(&mut self) {
        let (group, url, name) = (self.rng.below(GROUPS), *self.rng.pick(&TYPES), *self.rng.pick(&NAMES));
        if self.rng.chance(30) {
            self.plane.remove(group, url, name);
        } else {
            self.plane.put(group, url, name);
        }
    }

    fn resubscribe(&mut self) {
        let at = self.rng.below(SIDECARS);
        let Self { sidecars, rng, faults, .. } = self;
        sidecars[at].resubscribe(rng, faults);
    }

    /// A response reaches a sidecar.
    fn deliver_down(&mut self) -> Result<(), String> {
        let at = self.rng.below(SIDECARS);
        let Self { sidecars, rng, faults, plane, .. } = self;
        let sidecar = &mut sidecars[at];
        if sidecar.paused {
            faults.fired(Fault::SlowReader);
            return Ok(());
        }
        match sidecar.stream.as_mut().and_then(|link| link.to_client.pop_front()) {
            Some(message) => sidecar.receive(message, plane, rng, faults),
            None => Ok(()),
        }
    }

    /// A request reaches its replica.
    fn deliver_up(&mut self) -> Result<(), String> {
        let at = self.rng.below(SIDECARS);
        self.take_request(at)
    }

    fn take_request(&mut self, at: usize) -> Result<(), String> {
        let Some(message) = self.sidecars[at].stream.as_mut().and_then(|link| link.to_server.pop_front()) else {
            return Ok(());
        };
        let Some(served) = &mut self.served[at] else { return Ok(()) };
        let store = self.replicas[served.replica].store.clone();
        let ask = match self.sidecars[at].variant {
            Variant::Sotw => Ask::read_sotw(message, Limits::default()),
            Variant::Delta => Ask::read_delta(message, Limits::default()),
        };
        let heard = ask
            .map_err(|error| error.to_string())
            .and_then(|ask| served.session.handle_ask(self.now, ask, &store).map_err(|error| error.to_string()))?;
        if heard.node.is_some() && served.member.is_none() {
            self.members += 1;
            served.member = Some(MemberId(self.members));
            served.session.join(Granted::default());
        }
        Ok(())
    }

    /// Something moves between a replica and the control plane.
    fn deliver_upstream(&mut self) -> Result<(), String> {
        let (replica, group) = (self.rng.below(2), self.slot());
        if self.replicas[replica].links[group].is_none() {
            self.open_upstream(replica, group);
        }
        let Some(link) = &mut self.replicas[replica].links[group] else { return Ok(()) };
        if self.rng.chance(50) {
            return match link.to_plane.pop_front() {
                Some(message) => self.plane.receive(link.id, message),
                None => Ok(()),
            };
        }
        match self.plane.streams.get_mut(&link.id) {
            // The server is gone: the stream ends when that is noticed.
            None => self.close_upstream(replica, group, "the control plane went away"),
            Some(stream) => {
                if let Some(message) = stream.out.pop_front() {
                    link.session.handle_response(self.now, message).map_err(|error| error.to_string())?;
                }
            }
        }
        Ok(())
    }

    /// A group, or one of the private ones that there are.
    fn slot(&mut self) -> usize {
        let private = (0..SIDECARS).filter(|at| self.served[*at].as_ref().is_some_and(|served| served.own));
        let private: Vec<usize> = private.map(|at| GROUPS + at).collect();
        match private.is_empty() || self.rng.chance(60) {
            true => self.rng.below(GROUPS),
            false => *self.rng.pick(&private),
        }
    }

    fn open_upstream(&mut self, at: usize, group: usize) {
        let private = group.checked_sub(GROUPS).map(|sidecar| self.served[sidecar].as_ref());
        let needed = private.is_none_or(|served| served.is_some_and(|served| served.own && served.replica == at));
        let replica = &mut self.replicas[at];
        if replica.cut || !needed {
            return;
        }
        let id = self.plane.open(seen_by(group), replica.variant);
        let session = ClientSession::new(replica.variant, Bytes::from_static(b"\x0a\x01x"), &self.settings.timing);
        replica.links[group] = Some(Uplink { id, session, to_plane: VecDeque::new(), read: None, stale: true });
        replica.groups[group].stream_opened(self.now, "plane".into());
        replica.frozen.get_mut(group).into_iter().for_each(|frozen| *frozen = None);
    }

    fn close_upstream(&mut self, at: usize, group: usize, reason: &str) {
        let replica = &mut self.replicas[at];
        if let Some(link) = replica.links[group].take() {
            self.plane.streams.remove(&link.id);
            replica.groups[group].stream_lost(self.now, reason.into());
            if let Some(frozen) = replica.frozen.get_mut(group) {
                *frozen = Some(trees(&replica.groups[group]));
            }
        }
    }

    fn pass(&mut self, millis: u64) {
        self.now = self.now + Duration::from_millis(millis);
    }

    fn jump(&mut self) {
        self.faults.fired(Fault::ClockJump);
        // Long enough, once in a while, for a linger to end.
        let most = if self.rng.below(4) == 0 { 100 } else { 9 };
        let seconds = 1 + self.rng.below(most) as u64;
        self.pass(seconds * 1000);
    }

    fn lose_sidecar(&mut self) {
        let at = self.rng.below(SIDECARS);
        if self.sidecars[at].stream.is_some() {
            self.faults.fired(Fault::SidecarLost);
            self.drop_stream(at);
        }
    }

    fn drop_stream(&mut self, at: usize) {
        self.sidecars[at].stream = None;
        if let Some(served) = self.served[at].take()
            && let Some(member) = served.member
        {
            self.replicas[served.replica].groups[self.sidecars[at].group].leave(self.now, member);
            self.end_own(at, served.replica);
        }
    }

    /// The private group of a sidecar goes, with its stream.
    fn end_own(&mut self, at: usize, replica: usize) {
        let (slot, replica) = (GROUPS + at, &mut self.replicas[replica]);
        if let Some(link) = replica.links[slot].take() {
            self.plane.streams.remove(&link.id);
        }
        replica.groups[slot] = GroupState::private(self.now, replica.store.clone(), &self.settings.timing);
    }

    fn lose_upstream(&mut self) {
        let (replica, group) = (self.rng.below(2), self.slot());
        if self.replicas[replica].links[group].is_some() {
            self.faults.fired(Fault::UpstreamLost);
            self.close_upstream(replica, group, "connection reset");
        }
    }

    fn toggle_pause(&mut self) {
        let at = self.rng.below(SIDECARS);
        self.sidecars[at].paused ^= true;
    }

    fn toggle_cut(&mut self) {
        let at = self.rng.below(2);
        self.replicas[at].cut ^= true;
        if self.replicas[at].cut {
            self.faults.fired(Fault::UpstreamCut);
            for group in 0..SLOTS {
                self.close_upstream(at, group, "the WAN is cut");
            }
        }
    }

    fn misbehave(&mut self) {
        let (replica, group) = (self.rng.below(2), self.slot());
        if let Some(link) = &self.replicas[replica].links[group] {
            self.plane.misbehave(link.id, &mut self.faults);
        }
    }

    fn restart_plane(&mut self) {
        self.faults.fired(Fault::UpstreamRestart);
        self.plane.restart();
    }

    fn connect(&mut self) {
        let at = self.rng.below(SIDECARS);
        if self.sidecars[at].stream.is_none() {
            let replica = self.rng.below(2);
            self.connect_to(at, replica);
        }
    }

    fn connect_to(&mut self, at: usize, replica: usize) {
        if replica == 1 {
            self.faults.fired(Fault::OtherReplica);
        }
        let sidecar = &mut self.sidecars[at];
        sidecar.connect();
        let session = ServerSession::new(Scope::Aggregated, sidecar.variant, self.settings.clone());
        self.served[at] = Some(Served { replica, session, member: None, own: false });
    }

    /// Runs what is due in both replicas until nothing more is said.
    fn settle_replicas(&mut self) -> Result<(), String> {
        for at in 0..self.replicas.len() {
            for group in 0..SLOTS {
                self.run_group(at, group);
            }
        }
        for at in 0..SIDECARS {
            self.run_stream(at)?;
        }
        for at in 0..self.replicas.len() {
            for group in 0..SLOTS {
                self.run_group(at, group);
            }
        }
        Ok(())
    }

    /// The part that the upstream driver plays.
    fn run_group(&mut self, at: usize, group: usize) {
        let Replica { groups, links, .. } = &mut self.replicas[at];
        let state = &mut groups[group];
        state.tick(self.now);
        let Some(link) = &mut links[group] else { return };
        link.session.tick(self.now);
        link.read_wants(self.now, state, self.settings.timing.gather);
        while let Some(output) = link.session.poll_output(self.now) {
            match output {
                ClientOutput::Send(request) => {
                    if request.nonce.is_empty() {
                        state.asked(self.now, &TypeUrl::new(&request.type_url));
                    }
                    link.to_plane.push_back(request.message());
                }
                ClientOutput::Apply(update) => {
                    let type_url = update.type_url.clone();
                    state.apply(self.now, update);
                    link.session.committed(&type_url);
                    link.read_wants(self.now, state, self.settings.timing.gather);
                }
            }
        }
    }

    /// The part that the downstream shell plays for a private group.
    fn tend_own(&mut self, at: usize) {
        let Some(served) = &mut self.served[at] else { return };
        let Some(member) = served.member else { return };
        let replica = served.replica;
        if !served.session.needs_own() {
            if std::mem::take(&mut served.own) {
                served.session.leave_own();
                self.end_own(at, replica);
            }
            return;
        }
        if !std::mem::replace(&mut served.own, true) {
            self.faults.fired(Fault::PrivateGroup);
        }
        let state = &mut self.replicas[replica].groups[GROUPS + at];
        while let Some(Demand::Want(want)) = served.session.next_demand() {
            state.want(self.now, member, &want);
        }
        served.session.offer_own(&state.served());
    }

    /// The part that the downstream shell plays.
    fn run_stream(&mut self, at: usize) -> Result<(), String> {
        self.tend_own(at);
        while self.speak(at)? {
            self.tend_own(at);
        }
        Ok(())
    }

    /// `true`: what the stream needs of a private group is another.
    fn speak(&mut self, at: usize) -> Result<bool, String> {
        let Some(served) = &mut self.served[at] else { return Ok(false) };
        let Some(member) = served.member else { return Ok(false) };
        let sidecar = &mut self.sidecars[at];
        let Replica { store, groups, .. } = &mut self.replicas[served.replica];
        let group = &mut groups[sidecar.group];
        let Some(link) = &mut sidecar.stream else { return Ok(false) };
        loop {
            let state = group.served();
            served.session.offer(self.now, &state);
            if link.to_client.len() >= WINDOW {
                return Ok(false);
            }
            match served.session.poll_output(self.now, store) {
                None => return Ok(false),
                Some(Output::Want(want)) => group.want(self.now, member, &want),
                Some(Output::Own) => return Ok(true),
                Some(Output::Send(response)) => {
                    served.session.written(self.now);
                    let message = [&response.prefix("sim")[..], &response.frame.body[..]].concat();
                    complete(sidecar.variant, &response.type_url, &message, &sidecar.subs, &state)?;
                    link.to_client.push_back(message.into());
                }
                Some(Output::Close(_)) => break,
            }
        }
        self.drop_stream(at);
        Ok(false)
    }

    /// I10: while its upstream is away, what a group serves stays what it was.
    fn frozen_stays(&self) -> Result<(), String> {
        for (at, replica) in self.replicas.iter().enumerate() {
            for (group, frozen) in replica.frozen.iter().enumerate() {
                let Some(frozen) = frozen else { continue };
                let now = trees(&replica.groups[group]);
                for (type_url, tree) in frozen {
                    // A type of which nothing is held may be forgotten.
                    let nothing = Tree::default().id();
                    if now.get(type_url).unwrap_or(&nothing) != tree {
                        return Err(format!("I10: replica {at}, group {group}: {type_url} changed with no upstream"));
                    }
                }
            }
        }
        Ok(())
    }

    /// All faults end; everything that is under way arrives; time passes.
    pub fn heal(&mut self) -> Result<(), String> {
        for replica in &mut self.replicas {
            replica.cut = false;
        }
        for at in 0..SIDECARS {
            self.sidecars[at].paused = false;
            if self.sidecars[at].stream.is_none() {
                self.connect_to(at, at % 2);
            }
        }
        for _ in 0..240 {
            self.exchange_everything()?;
            self.pass(250);
        }
        self.exchange_everything()
    }

    fn exchange_everything(&mut self) -> Result<(), String> {
        for _ in 0..60 {
            let mut moved = false;
            for at in 0..SIDECARS {
                if self.sidecars[at].stream.is_none() {
                    self.connect_to(at, at % 2);
                }
                while let Some(message) = self.sidecars[at].stream.as_mut().and_then(|link| link.to_client.pop_front())
                {
                    moved = true;
                    let Self { sidecars, rng, faults, plane, .. } = self;
                    sidecars[at].receive(message, plane, rng, faults)?;
                }
                while self.sidecars[at].stream.as_ref().is_some_and(|link| !link.to_server.is_empty()) {
                    moved = true;
                    self.take_request(at)?;
                }
            }
            for at in 0..self.replicas.len() {
                for group in 0..SLOTS {
                    moved |= self.exchange_upstream(at, group)?;
                }
            }
            self.settle_replicas()?;
            if !moved {
                return Ok(());
            }
        }
        Err("I22: messages go back and forth for ever".into())
    }

    fn exchange_upstream(&mut self, at: usize, group: usize) -> Result<bool, String> {
        if self.replicas[at].links[group].is_none() {
            self.open_upstream(at, group);
        }
        let mut moved = false;
        loop {
            let Some(link) = &mut self.replicas[at].links[group] else { return Ok(moved) };
            if let Some(message) = link.to_plane.pop_front() {
                moved = true;
                self.plane.receive(link.id, message)?;
                continue;
            }
            let Some(stream) = self.plane.streams.get_mut(&link.id) else {
                self.close_upstream(at, group, "the control plane went away");
                return Ok(true);
            };
            let Some(message) = stream.out.pop_front() else { return Ok(moved) };
            moved = true;
            link.session.handle_response(self.now, message).map_err(|error| error.to_string())?;
            self.run_group(at, group);
        }
    }

    /// What both replicas and the stream know of a type, for who reads a failure.
    fn picture(&self, sidecar: &Sidecar, url: &str) -> String {
        let mut text = format!("  sidecar {:?}: {:?}\n", sidecar.variant, sidecar.subs.get(url));
        for (at, replica) in self.replicas.iter().enumerate() {
            let group = &replica.groups[sidecar.group];
            let served = group.served();
            let of = served.of(&TypeUrl::new(url));
            let entries: Vec<String> = of
                .iter()
                .flat_map(|of| of.tree.iter())
                .map(|entry| format!("{}={:?}", entry.name(), entry.is_present()))
                .collect();
            text += &format!("  replica {at} {:?}: {}\n", replica.variant, entries.join(" "));
            if let Some(link) = &replica.links[sidecar.group] {
                for report in link.session.report().filter(|report| report.type_url.as_str() == url) {
                    text += &format!("    upstream {report:?}\n");
                }
            }
        }
        let at = self.sidecars.iter().position(|other| other.id == sidecar.id);
        if let Some(served) = at.and_then(|at| self.served[at].as_ref()) {
            text += &format!("  served by replica {}: {:?}\n", served.replica, served.session.report(self.now));
            if let Some(slot) = at.map(|at| GROUPS + at).filter(|_| served.own) {
                let replica = &self.replicas[served.replica];
                text += &format!("  private group: {:?}\n", replica.groups[slot].report(self.now));
                if let Some(link) = &replica.links[slot] {
                    text += &format!("    upstream {:?}\n", link.session.report().collect::<Vec<_>>());
                }
            }
        }
        text
    }

    /// I1, I4: every sidecar has what the control plane says.
    pub fn converged(&self) -> Result<(), String> {
        for sidecar in &self.sidecars {
            for (url, sub) in &sidecar.subs {
                let nothing = BTreeMap::new();
                let world = self.plane.world.get(&(sidecar.group, *url)).unwrap_or(&nothing);
                let applied = sidecar.applied.get(url).cloned().unwrap_or_default();
                for (name, seq) in world.iter().filter(|(name, _)| sub.covers(name)) {
                    let has = applied.get(*name).map(|(seq, _)| *seq);
                    if has != Some(*seq) {
                        let picture = self.picture(sidecar, url);
                        return Err(format!(
                            "I1: {} {url} {name}: has {has:?}, should have {seq}\n{picture}",
                            sidecar.id
                        ));
                    }
                }
                let keeps = sidecar.variant == Variant::Sotw && !TypeUrl::new(url).full_state();
                // A SotW upstream cannot say that a name of a partial type is gone (C-119).
                let sotw_up = self.replicas.iter().any(|replica| replica.variant == Variant::Sotw);
                let silent = keeps || (sotw_up && !TypeUrl::new(url).full_state());
                if let Some(name) =
                    applied.keys().find(|name| sub.covers(name) && !world.contains_key(name.as_str()) && !silent)
                {
                    return Err(format!(
                        "I4: {} {url} {name} is gone and still held\n{}",
                        sidecar.id,
                        self.picture(sidecar, url)
                    ));
                }
            }
        }
        Ok(())
    }
}

fn trees(group: &GroupState) -> BTreeMap<TypeUrl, [u8; 32]> {
    group.served().types.iter().map(|(type_url, of)| (type_url.clone(), of.tree.id())).collect()
}

/// I9: a SotW response of a full-state type has every present name of the
/// subscription.
fn complete(
    variant: Variant,
    type_url: &TypeUrl,
    message: &[u8],
    subs: &BTreeMap<&'static str, super::sidecar::Sub>,
    served: &outpost::content::Served,
) -> Result<(), String> {
    if variant == Variant::Delta || !type_url.full_state() {
        return Ok(());
    }
    let read = <outpost::proto::discovery::DiscoveryResponse as prost::Message>::decode(message)
        .map_err(|error| error.to_string())?;
    let names: Vec<String> =
        read.resources.iter().filter_map(|any| outpost::xds::wire::first_string(&any.value, 1).ok()).collect();
    let (Some(of), Some(sub)) = (served.of(type_url), subs.get(type_url.as_str())) else { return Ok(()) };
    // A name of which the request is still under way is not missing yet.
    let missing = of
        .tree
        .iter()
        .find(|entry| entry.is_present() && sub.wildcard && !names.iter().any(|name| **name == **entry.name()));
    match missing {
        Some(entry) => Err(format!("I9: {type_url} leaves out {}", entry.name())),
        None => Ok(()),
    }
}
