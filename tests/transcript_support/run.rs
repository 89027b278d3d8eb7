//! Replays one transcript.

use super::compare::{self, Versions};
use super::driver::{Driver, Event};
use super::messages::{self, Filled, Seen};
use super::script::*;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::Duration;

/// Longer than any timer that may be pending when silence is asked for.
const LONG: Duration = Duration::from_secs(20);

/// Where a transcript was not followed.
#[derive(Debug)]
pub struct Failure {
    pub line: usize,
    pub text: String,
    pub reason: String,
}

pub struct Replay<'a> {
    pub(super) driver: &'a mut dyn Driver,
    /// The service of which type; ADS where `None`.
    pub(super) service: Option<String>,
    services: HashMap<u32, String>,
    pub(super) streams: BTreeMap<u32, Stream>,
    nodes: HashMap<String, Node>,
    label_marks: HashMap<String, String>,
    versions: Versions,
    pub(super) reachable: bool,
    /// Types that the upstream holds back.
    pub(super) held: HashSet<String>,
    /// Empty lists mean nothing here.
    pub(super) legacy_off: bool,
    pub(super) probes: u64,
    /// The last optional message came.
    came: bool,
    /// Where the script is …
    pub(super) line: usize,
    /// … where silence had nothing to be proven by …
    pub(super) unproven: BTreeSet<usize>,
    /// … and whether the end of the streams proves it now.
    pub(super) closing: bool,
}

/// One sidecar's stream, from its side.
pub struct Stream {
    pub(super) wire: Wire,
    node_sent: bool,
    pub(super) types: BTreeMap<String, StreamType>,
    marks: HashMap<String, String>,
    nonces: HashSet<String>,
    pub(super) queue: VecDeque<Seen>,
    pub(super) end: Option<(i32, String)>,
    pub(super) last_type: Option<String>,
}

/// Names with type and bytes.
type Contents = BTreeMap<String, Option<(String, bytes::Bytes)>>;

#[derive(Default)]
pub struct StreamType {
    /// As last stated: SotW only.
    pub(super) names: Vec<Locator>,
    pub(super) named_once: bool,
    /// Of the last response that the transcript saw.
    nonce: String,
    label: String,
    pub(super) unanswered: bool,
    pub(super) last_probe: Option<String>,
    /// The last whole set: without probes, and how many there were with them.
    whole: Option<(Contents, usize)>,
}

/// Shows what goes over the wire, with `OUTPOST_TRANSCRIPTS_TRACE=1`.
pub(super) fn trace(text: impl FnOnce() -> String) {
    if std::env::var_os("OUTPOST_TRANSCRIPTS_TRACE").is_some() {
        println!("{}", text());
    }
}

/// Replays `script` on drivers that `make` makes: once, and up to each line whose
/// silence only the end of the streams can prove. Returns how many these were.
pub fn replay(script: &Script, form: Form, make: impl Fn() -> Box<dyn Driver>) -> Result<usize, Failure> {
    let unproven = replay_to(script, form, make().as_mut(), None)?;
    for line in &unproven {
        replay_to(script, form, make().as_mut(), Some(*line))?;
    }
    Ok(unproven.len())
}

/// Replays all, or the lines up to one that is proven by closing.
fn replay_to(
    script: &Script,
    form: Form,
    driver: &mut dyn Driver,
    last: Option<usize>,
) -> Result<BTreeSet<usize>, Failure> {
    let mut replay = Replay {
        driver,
        service: if form == Form::Service { script.only_type() } else { None },
        services: HashMap::new(),
        streams: BTreeMap::new(),
        nodes: HashMap::new(),
        label_marks: HashMap::new(),
        versions: Versions::default(),
        reachable: true,
        held: HashSet::new(),
        legacy_off: false,
        probes: 0,
        came: true,
        line: 0,
        unproven: BTreeSet::new(),
        closing: false,
    };
    for line in &script.lines {
        trace(|| line.text.clone());
        replay.line = line.number;
        replay.closing = last == Some(line.number);
        replay.step(&line.step).map_err(|reason| Failure { line: line.number, text: line.text.clone(), reason })?;
        if replay.closing {
            break;
        }
    }
    Ok(replay.unproven)
}

impl Replay<'_> {
    fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Ask { after_optional: true, .. } | Step::Answer { after_optional: true, .. } if !self.came => Ok(()),
            Step::Ask { streams, ask, .. } => streams.iter().try_for_each(|stream| self.ask(*stream, ask.clone())),
            Step::Answer { streams, answer, .. } => streams.iter().try_for_each(|stream| self.answer(*stream, answer)),
            Step::Expect { streams, any_of, how } => {
                streams.iter().try_for_each(|stream| self.expect(*stream, any_of, how))
            }
            Step::ExpectEnd { streams, code, within } => {
                streams.iter().try_for_each(|stream| self.expect_end(*stream, *code, *within))
            }
            Step::Silence { streams, allowing, time_passes } => self.silence(streams, allowing, *time_passes),
            Step::Heard { stream, kind } => self.driver.heard(*stream, kind),
            Step::Advance(by) => {
                self.driver.pass(*by);
                Ok(())
            }
            Step::Upstream(expected) => self.upstream(expected),
            Step::Streams(count) => self.until(|replay| replay.driver.open_streams() == *count, "streams are open"),
            Step::Pushes { count, type_url, resource, reader } => self.pushes(*count, type_url, resource, *reader),
            Step::Flood { stream, count, type_url } => {
                let names = vec![Locator { name: "A".into(), ..Locator::default() }];
                let ask = Ask { wire: Some(Wire::Delta), type_url: type_url.clone(), names, ..Ask::default() };
                (0..*count).try_for_each(|_| self.ask(*stream, ask.clone()))
            }
            other => self.act(other),
        }
    }

    /// Lines that expect nothing.
    fn act(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::CloseSend { streams } => streams.iter().for_each(|stream| self.driver.close_send(*stream)),
            Step::Lost { streams } => {
                for stream in streams {
                    self.driver.lose(*stream);
                    self.streams.remove(stream);
                }
            }
            Step::Start { of, type_url, resources, errors } => {
                self.driver.control_plane(&mut |world| world.start(of.as_deref(), type_url, resources, errors));
            }
            Step::World(edits) => {
                self.driver.control_plane(&mut |world| edits.iter().for_each(|edit| world.edit(edit)));
            }
            Step::Says { type_url, resources } => {
                self.driver.control_plane(&mut |world| world.says(type_url, resources))
            }
            Step::Touch { type_url, names } => self.driver.control_plane(&mut |world| world.touch(type_url, names)),
            Step::Hold { type_url, on } => {
                if *on {
                    self.held.insert(type_url.clone())
                } else {
                    self.held.remove(type_url)
                };
                self.driver.control_plane(&mut |world| world.hold(type_url, *on));
            }
            Step::Reachable(up) => {
                self.reachable = *up;
                self.driver.reach(*up);
            }
            Step::Node(node) => {
                self.nodes.insert(node.name.clone(), node.clone());
            }
            Step::Service { stream, type_url } => {
                self.services.insert(*stream, type_url.clone());
            }
            Step::Setting(words) => self.legacy_off |= words[0] == "no-legacy-wildcard",
            Step::Stall { stream, on } => self.driver.stall(*stream, *on),
            other => return self.driver.over_socket(other),
        }
        Ok(())
    }

    /// Waits for what is to become true without a message that says so.
    fn until(&mut self, mut done: impl FnMut(&mut Self) -> bool, what: &str) -> Result<(), String> {
        for round in 0..1000 {
            if done(self) {
                return Ok(());
            }
            self.driver.breathe();
            if round % 8 == 0 {
                self.driver.step(Duration::from_millis(2));
            }
        }
        Err(format!("not so: {what}"))
    }

    /// The resource changes again and again, and the reader takes each change.
    fn pushes(&mut self, count: u64, type_url: &str, resource: &Resource, reader: u32) -> Result<(), String> {
        for content in 2..=count + 1 {
            let resource = Resource { content, ..resource.clone() };
            let (type_url, put) = (type_url.to_owned(), vec![resource.clone()]);
            let edit = Edit { type_url: type_url.clone(), put, remove: Vec::new(), label: None };
            self.driver.control_plane(&mut |world| world.edit(&edit));
            let message = Message { resources: vec![resource], ..Message::new(Wire::Delta, type_url) };
            self.expect(reader, &[message], &How::usual())?;
            self.answer(reader, &Answer { type_url: None, error: None })?;
        }
        Ok(())
    }

    fn upstream(&mut self, expected: &Upstream) -> Result<(), String> {
        let check = |replay: &mut Self| {
            let mut fine = false;
            replay.driver.control_plane(&mut |world| {
                fine = match expected {
                    Upstream::Request(wanted) => world.look(wanted),
                    Upstream::Never(wanted) => !world.ever(wanted),
                    Upstream::Once { type_url, subscribe, name } => world.changes(type_url, name, *subscribe) == 1,
                    Upstream::Streams(count) => world.open_streams() == *count,
                }
            });
            fine
        };
        self.until(check, "see the requests that follow").map_err(|error| {
            let mut recent = String::new();
            self.driver.control_plane(&mut |world| recent = world.recent());
            format!("{error}: {recent}")
        })
    }
}

// What a sidecar says.
impl Replay<'_> {
    pub(super) fn ask(&mut self, stream: u32, mut ask: Ask) -> Result<(), String> {
        let wire = ask.wire.ok_or("a request is Q or DQ")?;
        if !self.streams.contains_key(&stream) {
            let service = self.services.get(&stream).cloned().or_else(|| self.service.clone());
            self.driver.open(stream, wire, service.as_deref());
            self.streams.insert(stream, Stream::new(wire));
        }
        let node = self.node_of(stream, &ask.node);
        let state = self.streams.get_mut(&stream).ok_or("no such stream")?;
        state.node_sent |= node.is_some();
        let service = self.services.get(&stream).or(self.service.as_ref());
        let type_url =
            if ask.type_url.is_empty() { service.cloned().unwrap_or_default() } else { ask.type_url.clone() };
        let of_type = state.types.entry(type_url.clone()).or_default();
        of_type.named_once |= !ask.names.is_empty();
        if wire == Wire::Sotw {
            of_type.names = ask.names.clone();
        }
        let nonce = match &ask.nonce {
            Nonce::None => String::new(),
            Nonce::Literal(text) => text.clone(),
            Nonce::Mark(mark) => state.marks.get(mark).cloned().ok_or_else(|| format!("nothing was marked {mark}"))?,
        };
        of_type.unanswered &= nonce != of_type.nonce;
        state.last_type = Some(type_url.clone());
        let initial = std::mem::take(&mut ask.initial);
        let stated = |version| match version {
            Version::Literal(text) => text,
            Version::Of(resource) => compare::stated_version(&type_url, &resource),
        };
        let initial = initial.into_iter().map(|(name, version)| (name, stated(version))).collect();
        trace(|| format!("{stream}> {} {ask:?} nonce {nonce}", type_url.rsplit('.').next().unwrap_or_default()));
        self.driver.send(stream, messages::request(&ask, Filled { nonce, node, initial }));
        Ok(())
    }

    fn node_of(&self, stream: u32, node: &AskNode) -> Option<bytes::Bytes> {
        let name = match node {
            AskNode::Without => return None,
            AskNode::Usual if self.streams.get(&stream).is_some_and(|stream| stream.node_sent) => return None,
            AskNode::Usual => "N",
            AskNode::Named(name) => name,
        };
        let plain = || Node { name: name.to_owned(), id: name.to_owned(), ..Node::default() };
        Some(messages::node(&self.nodes.get(name).cloned().unwrap_or_else(plain)))
    }

    fn answer(&mut self, stream: u32, answer: &Answer) -> Result<(), String> {
        let state = self.streams.get(&stream).ok_or("no such stream")?;
        let type_url = answer.type_url.clone().or_else(|| state.last_type.clone()).ok_or("answers what?")?;
        let of_type = state.types.get(&type_url).ok_or("answers what?")?;
        let (nonce, label) = (of_type.nonce.clone(), of_type.label.clone());
        self.answer_to(stream, &type_url, nonce, label, answer.error.clone())
    }

    pub(super) fn answer_to(
        &mut self,
        stream: u32,
        type_url: &str,
        nonce: String,
        label: String,
        error: Option<(i32, String)>,
    ) -> Result<(), String> {
        let state = self.streams.get(&stream).ok_or("no such stream")?;
        let names = state.types.get(type_url).map(|of_type| of_type.names.clone()).unwrap_or_default();
        let sotw = state.wire == Wire::Sotw;
        let ask = Ask {
            wire: Some(state.wire),
            type_url: type_url.to_owned(),
            names: if sotw { names } else { Vec::new() },
            version_info: if sotw && error.is_none() { label } else { String::new() },
            nonce: Nonce::Literal(nonce),
            error,
            ..Ask::default()
        };
        self.ask(stream, ask)
    }
}

// What a sidecar hears.
impl Replay<'_> {
    /// The next response, without those that only barriers asked for.
    pub(super) fn hear(&mut self, stream: u32, patiently: bool) -> Result<Option<Seen>, String> {
        loop {
            let Some(mut seen) = self.hear_all(stream, patiently)? else { return Ok(None) };
            let whole = seen.clone();
            let only_probes = compare::strip_probes(&mut seen);
            if self.is_echo(stream, &whole, &seen) || only_probes {
                let state = self.streams.get_mut(&stream).ok_or("no such stream")?;
                state.queue.pop_front();
                let Seen { type_url, nonce, label, .. } = seen;
                let last = state.last_type.clone();
                self.answer_to(stream, &type_url, nonce, label, None)?;
                if let Some(state) = self.streams.get_mut(&stream) {
                    state.last_type = last;
                }
                continue;
            }
            return Ok(self.streams.get_mut(&stream).and_then(|state| state.queue.pop_front()).map(|_| seen));
        }
    }

    /// A whole set that was said only because of a barrier: to this stream's own,
    /// later than its answer, or because another stream's added to the world.
    pub(super) fn is_echo(&mut self, stream: u32, whole: &Seen, seen: &Seen) -> bool {
        if !messages::full_state(&seen.type_url) || self.service.is_none() {
            return false;
        }
        let Some(state) = self.streams.get_mut(&stream).filter(|state| state.wire == Wire::Sotw) else { return false };
        let of_type = state.types.entry(seen.type_url.clone()).or_default();
        let bare = of_type.names.is_empty() && !of_type.named_once && !self.legacy_off;
        let wildcard = bare || of_type.names.iter().any(|name| name.name == "*");
        let now: BTreeMap<_, _> = seen.resources.iter().map(|one| (one.name.clone(), one.payload.clone())).collect();
        let count = whole.resources.len();
        let Some((before, counted)) = of_type.whole.replace((now.clone(), count)) else { return false };
        // With its star it says more than before only for the new probe; without
        // it has one only because the list of a barrier did.
        let probes = if wildcard { before == now && count > counted } else { count > now.len() };
        probes && now.iter().all(|(name, payload)| before.get(name) == Some(payload))
    }

    /// The next response, left in the queue.
    pub(super) fn hear_all(&mut self, stream: u32, patiently: bool) -> Result<Option<Seen>, String> {
        let state = self.streams.get_mut(&stream).ok_or("no such stream")?;
        if let Some(seen) = state.queue.front() {
            return Ok(Some(seen.clone()));
        }
        let event = if patiently { self.driver.poll_patiently(stream) } else { self.driver.poll(stream) };
        match event {
            None => Ok(None),
            Some(Event::End { code, message }) => {
                state.end = Some((code, message));
                Ok(None)
            }
            Some(Event::Message(message)) => {
                let seen = Seen::read(state.wire, &message)?;
                let known = |type_url: &str| state.types.contains_key(type_url);
                compare::sound(&seen, state.wire, known, &mut self.versions)
                    .map_err(|error| format!("{error}, in {}", seen.show()))?;
                trace(|| format!("{stream}< {}", seen.show()));
                if !state.nonces.insert(seen.nonce.clone()) {
                    return Err(format!("nonce {} came twice", seen.nonce));
                }
                state.queue.push_back(seen.clone());
                Ok(Some(seen))
            }
        }
    }

    /// The next response within a time that the clock then passes.
    pub(super) fn await_one(&mut self, stream: u32, left: &mut Duration) -> Result<Option<Seen>, String> {
        loop {
            if let Some(seen) = self.hear(stream, left.is_zero())? {
                return Ok(Some(seen));
            }
            let ended = self.streams.get(&stream).is_some_and(|state| state.end.is_some());
            if left.is_zero() || ended {
                return Ok(None);
            }
            *left -= self.driver.step(*left).min(*left);
        }
    }

    fn expect(&mut self, stream: u32, any_of: &[Message], how: &How) -> Result<(), String> {
        let mut left = if how.optional { Duration::ZERO } else { how.within };
        let mut whole: Option<Seen> = None;
        let mut count = 0;
        loop {
            let Some(seen) = self.await_one(stream, &mut left)? else {
                self.came = false;
                return if how.optional { Ok(()) } else { Err(self.nothing(stream, whole.as_ref())) };
            };
            if how.most_bytes.is_some_and(|most| seen.bytes > most) {
                return Err(format!("a message has {} bytes", seen.bytes));
            }
            count += 1;
            let (nonce, label, type_url) = (seen.nonce.clone(), seen.label.clone(), seen.type_url.clone());
            let merged = match whole.take() {
                Some(before) if how.split.is_some() => compare::merged(before, seen)?,
                _ => seen,
            };
            match self.matching(any_of, &merged) {
                Ok(at) => {
                    if how.split.is_some_and(|least| count < least) {
                        return Err(format!("it came in {count} messages"));
                    }
                    self.came = true;
                    return self.note(stream, &any_of[at], &merged, nonce);
                }
                Err(reason) if how.split.is_none() && !how.skipping => {
                    if how.optional {
                        self.came = false;
                        self.streams.get_mut(&stream).ok_or("no such stream")?.queue.push_front(merged);
                        return Ok(());
                    }
                    return Err(format!("{reason}; got {}", merged.show()));
                }
                Err(_) => self.answer_to(stream, &type_url, nonce, label, None)?,
            }
            whole = how.split.map(|_| merged);
        }
    }

    fn nothing(&self, stream: u32, partly: Option<&Seen>) -> String {
        let end = self.streams.get(&stream).and_then(|state| state.end.as_ref());
        match (end, partly) {
            (Some((code, message)), _) => format!("the stream ended with code {code}: {message}"),
            (None, Some(seen)) => format!("only this came: {}", seen.show()),
            (None, None) => "nothing came".into(),
        }
    }

    pub(super) fn matching(&self, any_of: &[Message], seen: &Seen) -> Result<usize, String> {
        let mut reasons = Vec::new();
        for (at, message) in any_of.iter().enumerate() {
            let label = message.label_mark.as_ref().and_then(|mark| self.label_marks.get(mark));
            match compare::message(message, label.map(String::as_str), seen) {
                Ok(()) => return Ok(at),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join(", or "))
    }

    /// Remembers what later lines refer to.
    fn note(&mut self, stream: u32, message: &Message, seen: &Seen, nonce: String) -> Result<(), String> {
        if let Some(mark) = &message.label_mark {
            self.label_marks.insert(mark.clone(), seen.label.clone());
        }
        let state = self.streams.get_mut(&stream).ok_or("no such stream")?;
        if let Some(mark) = &message.nonce_mark {
            state.marks.insert(mark.clone(), nonce.clone());
        }
        state.last_type = Some(seen.type_url.clone());
        let of_type = state.types.entry(seen.type_url.clone()).or_default();
        of_type.nonce = nonce;
        of_type.label = seen.label.clone();
        of_type.unanswered = true;
        Ok(())
    }

    fn expect_end(&mut self, stream: u32, code: i32, within: Duration) -> Result<(), String> {
        let mut left = within;
        if let Some(seen) = self.await_one(stream, &mut left)? {
            return Err(format!("got {}", seen.show()));
        }
        match self.streams.get(&stream).and_then(|state| state.end.clone()) {
            Some((got, _)) if got == code => Ok(()),
            Some((got, message)) => Err(format!("it ended with code {got}: {message}")),
            None => Err("it did not end".into()),
        }
    }

    fn silence(&mut self, streams: &[u32], allowing: &[Message], time_passes: bool) -> Result<(), String> {
        if time_passes {
            self.driver.pass(LONG);
        }
        let open = |(id, state): (&u32, &Stream)| state.end.is_none().then_some(*id);
        let all: Vec<u32> = self.streams.iter().filter_map(open).collect();
        for stream in if streams.is_empty() { all } else { streams.to_vec() } {
            let before = self.barrier(stream, time_passes)?;
            let mut allowed: Vec<&Message> = allowing.iter().collect();
            for seen in before {
                let fits = |message: &&&Message| compare::message(message, None, &seen).is_ok();
                match allowed.iter().position(|message| fits(&message)) {
                    Some(at) => {
                        allowed.remove(at);
                        self.answer_to(stream, &seen.type_url.clone(), seen.nonce.clone(), seen.label.clone(), None)?;
                    }
                    None => return Err(format!("stream {stream} got {}", seen.show())),
                }
            }
        }
        Ok(())
    }
}

impl Stream {
    fn new(wire: Wire) -> Self {
        Self {
            wire,
            node_sent: false,
            types: BTreeMap::new(),
            marks: HashMap::new(),
            nonces: HashSet::new(),
            queue: VecDeque::new(),
            end: None,
            last_type: None,
        }
    }
}
