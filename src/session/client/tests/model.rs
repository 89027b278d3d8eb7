//! Any order of steps, against a model of a server.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// A server that does what the specification says about subscriptions.
#[derive(Default)]
struct Model {
    types: HashMap<String, ModelType>,
    nonce: u64,
    /// Nonce → answers to it.
    answers: HashMap<(String, String), usize>,
}

#[derive(Default)]
struct ModelType {
    named: bool,
    wildcard: bool,
    names: BTreeSet<String>,
}

impl Model {
    fn hear(&mut self, variant: Variant, request: &Request) {
        let legacy = TypeUrl::new(&request.type_url).legacy_wildcard();
        let first = !self.types.contains_key(&request.type_url);
        let state = self.types.entry(request.type_url.clone()).or_default();
        match &request.body {
            RequestBody::Sotw { names, .. } => {
                assert_eq!(variant, Variant::Sotw);
                state.named |= !names.is_empty();
                state.wildcard = names.iter().any(|name| &**name == "*") || legacy && !state.named;
                state.names = names.iter().filter(|name| &***name != "*").map(|name| name.to_string()).collect();
            }
            RequestBody::Delta { subscribe, unsubscribe, .. } => {
                assert!(request.nonce.is_empty() || subscribe.is_empty() && unsubscribe.is_empty());
                state.wildcard |= first && legacy && subscribe.is_empty();
                for name in subscribe {
                    if &**name == "*" { state.wildcard = true } else { state.names.extend([name.to_string()]) }
                }
                for name in unsubscribe {
                    if &**name == "*" { state.wildcard = false } else { assert!(state.names.remove(&**name)) }
                }
            }
        }
    }

    fn respond(&mut self, variant: Variant, short: &str, names: &[&str], twice: bool) -> Bytes {
        self.nonce += 1;
        let nonce = self.nonce.to_string();
        let mut names = names.to_vec();
        names.extend(twice.then_some("a").into_iter().chain(twice.then_some("a")));
        match variant {
            Variant::Sotw => sotw(short, &names, &nonce, &nonce),
            Variant::Delta => delta(short, &names, &[], &nonce),
        }
    }
}

#[derive(Clone, Debug)]
enum Op {
    Want(usize, bool, BTreeSet<usize>),
    /// Let the session write one request.
    Write,
    /// Let the server read one.
    Read,
    Respond(usize, BTreeSet<usize>, bool),
    /// Let the session hear one response.
    Hear,
    /// Commit the oldest update.
    Commit,
    Pass,
}

const TYPES: [&str; 4] = ["cds", "eds", "srds", "vhds"];
const NAMES: [&str; 4] = ["a", "b", "c", "d"];

fn op() -> impl Strategy<Value = Op> {
    let names = || proptest::collection::btree_set(0..NAMES.len(), 0..NAMES.len());
    prop_oneof![
        3 => (0..TYPES.len(), any::<bool>(), names()).prop_map(|(kind, star, names)| Op::Want(kind, star, names)),
        3 => Just(Op::Write),
        3 => Just(Op::Read),
        2 => (0..TYPES.len(), names(), proptest::bool::weighted(0.2)).prop_map(|(k, n, twice)| Op::Respond(k, n, twice)),
        3 => Just(Op::Hear),
        3 => Just(Op::Commit),
        1 => Just(Op::Pass),
    ]
}

struct World {
    variant: Variant,
    session: ClientSession,
    model: Model,
    wants: HashMap<&'static str, (bool, BTreeSet<usize>)>,
    /// Requests on their way, with whether `*` was wanted when written.
    up: VecDeque<(Request, bool)>,
    down: VecDeque<Bytes>,
    /// Nonces heard and valid, by whether they were committed.
    valid: HashMap<String, bool>,
    pending: VecDeque<(Update, Option<String>)>,
    accepted: VecDeque<String>,
    newest: HashMap<String, String>,
    now: Moment,
}

impl World {
    fn new(variant: Variant) -> Self {
        Self {
            variant,
            session: ClientSession::new(variant, NODE, &Timing::default()),
            model: Model::default(),
            wants: HashMap::new(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            valid: HashMap::new(),
            pending: VecDeque::new(),
            accepted: VecDeque::new(),
            newest: HashMap::new(),
            now: at(0),
        }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Want(kind, star, names) => {
                let list: Vec<_> = names.iter().map(|index| NAMES[*index]).collect();
                self.session.set_wanted(&want(TYPES[kind], star, &list), Vec::new);
                self.wants.insert(TYPES[kind], (star, names));
            }
            Op::Write => drop(self.write()),
            Op::Read => drop(self.read()),
            Op::Respond(kind, names, twice) => {
                if self.model.types.contains_key(url(TYPES[kind]).as_str()) {
                    let names: Vec<_> = names.iter().map(|index| NAMES[*index]).collect();
                    self.down.push_back(self.model.respond(self.variant, TYPES[kind], &names, twice));
                }
            }
            Op::Hear => self.hear(),
            Op::Commit => self.commit(),
            Op::Pass => {
                self.now = self.now + Duration::from_secs(3);
                self.session.tick(self.now);
                let concluded = std::iter::from_fn(|| self.session.poll_update());
                self.pending.extend(concluded.map(|update| (update, None)));
            }
        }
    }

    fn write(&mut self) -> bool {
        let Some(request) = self.session.poll_request(self.now) else { return false };
        let short = TypeUrl::new(&request.type_url).short();
        let starred = self.wants.get(short).is_some_and(|(star, _)| *star);
        let newest = self.newest.get(&request.type_url).cloned().unwrap_or_default();
        match self.variant {
            Variant::Sotw => assert_eq!(request.nonce, newest, "SotW echoes the newest nonce"),
            Variant::Delta => {}
        }
        if self.variant == Variant::Delta && !request.nonce.is_empty() {
            let key = (request.type_url.clone(), request.nonce.clone());
            *self.model.answers.entry(key).or_default() += 1;
            let committed = self.valid.get(&request.nonce).copied();
            assert_eq!(committed == Some(true), request.error.is_none(), "ACK what was committed, NACK the rest");
        }
        self.up.push_back((request, starred));
        true
    }

    fn read(&mut self) -> bool {
        let Some((request, starred)) = self.up.pop_front() else { return false };
        let before = self.model.types.get(&request.type_url).is_some_and(|state| state.wildcard);
        self.model.hear(self.variant, &request);
        let after = self.model.types[&request.type_url].wildcard;
        assert!(before || !after || starred, "a wildcard by accident: {request:?}");
        true
    }

    fn hear(&mut self) {
        let Some(message) = self.down.pop_front() else { return };
        let (type_url, nonce) = validate::salvage(message.clone()).unwrap();
        match self.session.handle_response(self.now, message).unwrap() {
            Heard::Accepted { .. } => {
                self.valid.insert(nonce.clone(), false);
                self.accepted.push_back(nonce.clone());
                self.newest.insert(type_url, nonce);
            }
            Heard::Rejected { .. } => drop(self.newest.insert(type_url, nonce)),
            Heard::Unasked { .. } | Heard::Passed { .. } => {}
        }
        self.collect();
    }

    fn collect(&mut self) {
        while let Some(update) = self.session.poll_update() {
            let nonce = self.accepted.pop_front();
            self.pending.push_back((update, nonce));
        }
    }

    fn commit(&mut self) {
        if let Some((update, nonce)) = self.pending.pop_front() {
            self.session.committed(&update.type_url);
            if let Some(nonce) = nonce {
                self.valid.insert(nonce, true);
            }
        }
    }

    fn settle(&mut self) {
        loop {
            while !self.down.is_empty() {
                self.hear();
            }
            while !self.pending.is_empty() {
                self.commit();
            }
            if !self.write() && !self.read() {
                break;
            }
        }
        for (short, (star, names)) in &self.wants {
            let names: BTreeSet<_> = names.iter().map(|index| NAMES[*index].to_owned()).collect();
            let state = self.model.types.get(url(short).as_str());
            let seen = state.map(|state| (state.wildcard, state.names.clone())).unwrap_or_default();
            assert_eq!(seen, (*star, names), "{short}: the server knows the last want");
        }
        assert!(self.model.answers.values().all(|count| *count == 1), "one answer for each nonce");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_server_always_ends_with_the_last_want(
        delta in any::<bool>(),
        bytes in prop_oneof![Just(10), Just(20), Just(parts::MOST)],
        ops in proptest::collection::vec(op(), 0..60),
    ) {
        let mut world = World::new(if delta { Variant::Delta } else { Variant::Sotw });
        world.session = world.session.with_request_bytes(bytes);
        for op in ops {
            world.run(op);
        }
        world.settle();
    }

    #[test]
    fn no_bytes_break_it(delta in any::<bool>(), bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
        let mut session = ClientSession::new(if delta { Variant::Delta } else { Variant::Sotw }, NODE, &Timing::default());
        session.set_wanted(&want("cds", true, &[]), Vec::new);
        session.poll_request(at(0));
        let _ = session.handle_response(at(1), bytes.into());
        while session.poll_output(at(1)).is_some() {}
    }
}
