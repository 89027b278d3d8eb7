//! The sessions and the exchange's core joined without sockets, under a clock
//! that stands until a transcript moves it. What a real shell does between
//! them is done here at once, and nothing else is.

use super::driver::{Driver, Event, Setup};
use super::script::{Step, Wire};
use super::world::ControlPlane;
use bytes::{Bytes, BytesMut};
use outpost::content::Store;
use outpost::exchange::{GroupState, MemberId};
use outpost::group::{GroupKey, Grouping, Rules, Secrets, SharedNode, sensitive_types};
use outpost::session::client::{ClientSession, Output as Upward};
use outpost::session::server::{
    Demand, Granted, HeardKind, LegacyOff, Output as Downward, Rejection, Scope, ServerSession, Settings,
};
use outpost::xds::envelope::RequestBody;
use outpost::xds::time::earliest;
use outpost::xds::{Ask, Moment, Node, TypeUrl, Variant};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

pub struct Pure {
    now: Moment,
    upstream: Variant,
    store: Arc<Store>,
    settings: Arc<Settings>,
    rules: Rules,
    pass_debug: bool,
    groups: BTreeMap<GroupKey, Group>,
    streams: BTreeMap<u32, Stream>,
    members: u64,
    world: ControlPlane,
}

struct Group {
    state: GroupState,
    presented: Bytes,
    /// Our stream, and its number at the control plane.
    line: Option<(ClientSession, u64)>,
    /// SotW: the list last asked of a type.
    lists: HashMap<String, Vec<outpost::xds::Name>>,
}

struct Stream {
    session: ServerSession,
    variant: Variant,
    place: Option<(GroupKey, MemberId)>,
    /// The group of this stream alone, and the node that it presents.
    own: Option<Group>,
    presented: Bytes,
    out: VecDeque<Event>,
    stalled: bool,
    ended: bool,
    heard: Option<&'static str>,
}

impl Pure {
    pub fn new(setup: &Setup) -> Self {
        let mut settings = Settings::default();
        let (mut grouping, mut secrets, mut pass_debug) = (Grouping::default(), Secrets::default(), false);
        for option in &setup.options {
            match option.iter().map(String::as_str).collect::<Vec<_>>()[..] {
                ["transient-errors"] => settings.cold_errors = true,
                ["secrets-for-all"] => secrets = Secrets::TrustNetwork,
                ["debug-passed"] => pass_debug = true,
                ["group", rule] => grouping = rule.parse().expect("a rule of groups"),
                ["no-legacy-wildcard", prefix] => {
                    settings.legacy_off.push(LegacyOff { type_url: None, user_agent_prefix: prefix.to_owned() });
                }
                _ => panic!("no option {option:?}"),
            }
        }
        Self {
            now: Moment::from_start(Duration::from_secs(1)),
            upstream: variant(setup.upstream),
            store: Store::new(),
            settings: settings.into(),
            rules: Rules::new(grouping, secrets, SharedNode::default()).expect("sound rules"),
            pass_debug,
            groups: BTreeMap::new(),
            streams: BTreeMap::new(),
            members: 0,
            world: ControlPlane::new(),
        }
    }

    /// Carries everything that is due until nothing more is.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "no end of messages");
            let mut moved = false;
            let own = self.streams.values_mut().filter_map(|stream| stream.own.as_mut());
            for group in self.groups.values_mut().chain(own) {
                moved |= group.upward(self.now, self.upstream, &self.store, &mut self.world);
            }
            for (id, message) in self.world.take() {
                moved = true;
                self.control_plane_says(id, message);
            }
            let ids: Vec<u32> = self.streams.keys().copied().collect();
            for id in ids {
                moved |= self.downward(id);
            }
            if !moved {
                return;
            }
        }
    }

    fn control_plane_says(&mut self, id: u64, message: Bytes) {
        let of = |group: &&mut Group| group.line.as_ref().is_some_and(|(_, line)| *line == id);
        let own = self.streams.values_mut().filter_map(|stream| stream.own.as_mut());
        let Some(group) = self.groups.values_mut().chain(own).find(of) else { return };
        let Some((session, _)) = &mut group.line else { return };
        super::run::trace(|| format!("   v {:?}", outpost::xds::envelope::Envelope::read_delta(message.clone())));
        session.handle_response(self.now, message).expect("the control plane's response can be read");
        group.state.heard(self.now);
    }

    fn downward(&mut self, id: u32) -> bool {
        let Some(stream) = self.streams.get_mut(&id) else { return false };
        let Some((key, member)) = stream.place.clone() else { return false };
        if stream.ended || stream.stalled {
            return false;
        }
        let Some(group) = self.groups.get_mut(&key) else { return false };
        let mut moved = stream.tend_own(self.now, member, &self.store, &self.settings, &mut self.world);
        stream.session.offer(self.now, &group.state.served());
        while let Some(output) = stream.session.poll_output(self.now, &self.store) {
            moved = true;
            match output {
                Downward::Want(want) => group.state.want(self.now, member, &want),
                Downward::Own => {
                    stream.tend_own(self.now, member, &self.store, &self.settings, &mut self.world);
                }
                Downward::Send(response) => {
                    let mut message = BytesMut::from(&response.prefix("outpost")[..]);
                    message.extend_from_slice(&response.frame.body);
                    stream.out.push_back(Event::Message(message.freeze()));
                    stream.session.written(self.now);
                }
                Downward::Close(rejection) => {
                    self.end(id, rejection);
                    return true;
                }
            }
        }
        moved
    }

    fn end(&mut self, id: u32, rejection: Rejection) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.ended = true;
        stream.out.push_back(Event::End { code: rejection.code, message: rejection.message });
        self.leave(id);
    }

    fn leave(&mut self, id: u32) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        stream.close_own(&mut self.world);
        let place = stream.place.take();
        if let Some((key, member)) = place
            && let Some(group) = self.groups.get_mut(&key)
        {
            group.state.leave(self.now, member);
        }
    }

    /// The group of a stream is chosen. Its interest is there before the old
    /// group's is released.
    fn place(&mut self, id: u32, node: &Node) {
        let assigned = self.rules.assign(node, None);
        let (now, store) = (self.now, self.store.clone());
        let timing = Arc::new(self.settings.timing.clone());
        let group = self.groups.entry(assigned.key.clone()).or_insert_with(|| Group {
            state: GroupState::new(now, store, timing),
            presented: Bytes::new(),
            line: None,
            lists: HashMap::new(),
        });
        group.presented = assigned.presented.message();
        if !self.world.reachable {
            group.state.stream_lost(now, "the control plane cannot be reached".into());
        }
        self.members += 1;
        let member = MemberId(self.members);
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let before = stream.place.replace((assigned.key, member));
        let trusted = self.rules.secrets() == Secrets::TrustNetwork;
        stream.session.join(Granted {
            refused: if assigned.sensitive_ok { Vec::new() } else { sensitive_types() },
            private: Vec::new(),
            health: trusted,
            debug: trusted && self.pass_debug,
        });
        stream.close_own(&mut self.world);
        stream.presented = node.presented().message();
        self.downward(id);
        if let Some((key, member)) = before
            && let Some(group) = self.groups.get_mut(&key)
        {
            group.state.leave(now, member);
        }
    }

    fn deadline(&self) -> Option<Moment> {
        let streams = self.streams.values().filter(|stream| !stream.ended && !stream.stalled);
        let streams = streams.map(|stream| stream.session.deadline());
        let own = self.streams.values().filter_map(|stream| stream.own.as_ref());
        let groups = self.groups.values().chain(own).map(|group| {
            let line = group.line.as_ref().and_then(|(session, _)| session.deadline());
            earliest(group.state.deadline(self.now), line)
        });
        streams.chain(groups).fold(None, earliest)
    }
}

impl Stream {
    /// What the shell does for the group of one stream.
    fn tend_own(
        &mut self,
        now: Moment,
        member: MemberId,
        store: &Arc<Store>,
        settings: &Settings,
        world: &mut ControlPlane,
    ) -> bool {
        if !self.session.needs_own() {
            if self.own.is_some() {
                self.close_own(world);
                self.session.leave_own();
                return true;
            }
            return false;
        }
        let mut moved = self.own.is_none();
        let own = self.own.get_or_insert_with(|| {
            let mut state = GroupState::private(now, store.clone(), &settings.timing);
            if !world.reachable {
                state.stream_lost(now, "the control plane cannot be reached".into());
            }
            Group { state, presented: self.presented.clone(), line: None, lists: HashMap::new() }
        });
        while let Some(demand) = self.session.next_demand() {
            moved = true;
            match demand {
                Demand::Want(want) => own.state.want(now, member, &want),
                Demand::Pass(pass) => own.state.pass(now, member, pass),
            }
        }
        for passed in own.state.take_passed() {
            moved = true;
            self.session.hear_passed(passed);
        }
        self.session.offer_own(&own.state.served());
        moved
    }

    fn close_own(&mut self, world: &mut ControlPlane) {
        if let Some((_, id)) = self.own.take().and_then(|own| own.line) {
            world.close(id);
        }
    }
}

impl Group {
    /// Opens our stream where one is needed, says what is wanted, commits what
    /// was said.
    fn upward(&mut self, now: Moment, variant: Variant, store: &Arc<Store>, world: &mut ControlPlane) -> bool {
        let _ = store;
        let wants = self.state.wanted_upstream();
        let mut moved = false;
        let wanted = wants.iter().any(|want| want.wildcard || !want.names.is_empty());
        if self.line.is_none() && world.reachable && (wanted || !self.state.passes().is_empty()) {
            let id = world.open(wire(variant));
            let timing = outpost::xds::Timing::default();
            self.line = Some((ClientSession::new(variant, self.presented.clone(), &timing), id));
            self.lists.clear();
            self.state.stream_opened(now, "control-plane:15010".into());
            moved = true;
        }
        let Some((session, id)) = &mut self.line else { return moved };
        for want in &wants {
            session.set_wanted(want, || self.state.held_versions(&want.type_url));
        }
        session.set_passes(self.state.passes());
        while let Some(passed) = session.poll_passed() {
            moved = true;
            self.state.passed(now, passed);
        }
        while let Some(output) = session.poll_output(now) {
            moved = true;
            match output {
                Upward::Apply(update) => {
                    let type_url = update.type_url.clone();
                    self.state.apply(now, update);
                    session.committed(&type_url);
                }
                Upward::Send(request) => {
                    let asks = match &request.body {
                        RequestBody::Delta { subscribe, initial, .. } => {
                            request.nonce.is_empty() && (!subscribe.is_empty() || !initial.is_empty())
                                || !self.lists.contains_key(&request.type_url)
                        }
                        RequestBody::Sotw { names, .. } => self
                            .lists
                            .get(&request.type_url)
                            .is_none_or(|list| names.iter().any(|name| !list.contains(name))),
                    };
                    let names = match &request.body {
                        RequestBody::Sotw { names, .. } => names.clone(),
                        RequestBody::Delta { .. } => Vec::new(),
                    };
                    self.lists.insert(request.type_url.clone(), names);
                    if asks {
                        self.state.asked(now, &TypeUrl::new(&request.type_url));
                    }
                    super::run::trace(|| format!("   ^ {request:?}"));
                    world.handle(*id, request.message());
                }
            }
        }
        moved
    }
}

impl Driver for Pure {
    fn open(&mut self, stream: u32, wire: Wire, service: Option<&str>) {
        let scope = service.map_or(Scope::Aggregated, |type_url| Scope::Only(TypeUrl::new(type_url)));
        let session = ServerSession::new(scope, variant(wire), self.settings.clone());
        let fresh = Stream {
            session,
            variant: variant(wire),
            place: None,
            own: None,
            presented: Bytes::new(),
            out: VecDeque::new(),
            stalled: false,
            ended: false,
            heard: None,
        };
        self.streams.insert(stream, fresh);
    }

    fn send(&mut self, id: u32, message: Bytes) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.ended {
            return;
        }
        let ask = match stream.variant {
            Variant::Sotw => Ask::read_sotw(message, self.settings.limits),
            Variant::Delta => Ask::read_delta(message, self.settings.limits),
        };
        match stream.session.handle_ask(self.now, ask.expect("a sound request"), &self.store) {
            Ok(heard) => {
                stream.heard = Some(match heard.kind {
                    HeardKind::Ack { .. } => "ACK",
                    HeardKind::Nack(_) => "NACK",
                    _ => "NEITHER",
                });
                if let Some(node) = heard.node {
                    self.place(id, &node);
                }
            }
            Err(rejection) => self.end(id, rejection),
        }
        self.settle();
    }

    fn close_send(&mut self, id: u32) {
        self.end(id, Rejection::new(0, "closed", ""));
        self.settle();
    }

    fn lose(&mut self, id: u32) {
        self.leave(id);
        self.streams.remove(&id);
        self.settle();
    }

    fn poll(&mut self, id: u32) -> Option<Event> {
        self.settle();
        self.streams.get_mut(&id)?.out.pop_front()
    }

    fn poll_patiently(&mut self, id: u32) -> Option<Event> {
        self.poll(id)
    }

    fn step(&mut self, most: Duration) -> Duration {
        self.settle();
        let end = self.now + most;
        let before = self.now;
        self.now = self.deadline().map_or(end, |deadline| deadline.max(before + Duration::from_millis(1)).min(end));
        let own = self.streams.values_mut().filter_map(|stream| stream.own.as_mut());
        for group in self.groups.values_mut().chain(own) {
            group.state.tick(self.now);
            if let Some((session, _)) = &mut group.line {
                session.tick(self.now);
            }
        }
        self.settle();
        self.now - before
    }

    fn control_plane(&mut self, act: &mut dyn FnMut(&mut ControlPlane)) {
        act(&mut self.world);
        self.settle();
    }

    fn reach(&mut self, up: bool) {
        self.world.reachable = up;
        if !up {
            let own = self.streams.values_mut().filter_map(|stream| stream.own.as_mut());
            for group in self.groups.values_mut().chain(own) {
                if let Some((_, id)) = group.line.take() {
                    self.world.close(id);
                    group.state.stream_lost(self.now, "the control plane hung up".into());
                }
            }
            self.world.take();
        }
        self.settle();
    }

    fn breathe(&mut self) {}

    fn pass(&mut self, mut left: Duration) {
        while !left.is_zero() {
            left -= self.step(left).min(left);
        }
    }

    fn heard(&mut self, id: u32, kind: &str) -> Result<(), String> {
        let heard = self.streams.get(&id).and_then(|stream| stream.heard).unwrap_or("nothing");
        if heard == kind { Ok(()) } else { Err(format!("it was taken for {heard}")) }
    }

    fn stall(&mut self, id: u32, on: bool) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.stalled = on;
        }
        self.settle();
    }

    fn open_streams(&mut self) -> usize {
        self.streams.values().filter(|stream| !stream.ended).count()
    }

    fn over_socket(&mut self, step: &Step) -> Result<(), String> {
        Err(format!("{step:?} means nothing without a socket"))
    }
}

fn variant(wire: Wire) -> Variant {
    match wire {
        Wire::Sotw => Variant::Sotw,
        Wire::Delta => Variant::Delta,
    }
}

fn wire(variant: Variant) -> Wire {
    match variant {
        Variant::Sotw => Wire::Sotw,
        Variant::Delta => Wire::Delta,
    }
}
