use super::*;
use crate::content::Store;
use crate::proto::{discovery, protobuf};
use proptest::prelude::*;
use prost::Message;
use std::collections::{BTreeSet, HashMap};

const NODE: Bytes = Bytes::from_static(b"\x0a\x01n");

fn url(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).unwrap()
}

fn want(short: &str, wildcard: bool, names: &[&str]) -> Want {
    let names = Store::new().names(names.iter().map(|name| Name::from(*name)).collect());
    Want::new(url(short), wildcard, names)
}

fn at(millis: u64) -> Moment {
    Moment::from_start(Duration::from_millis(millis))
}

fn packed(short: &str, name: &str) -> protobuf::Any {
    let mut value = crate::xds::wire::Writer::default();
    value.string(1, name);
    protobuf::Any { type_url: url(short).as_str().into(), value: value.finish() }
}

fn sotw(short: &str, names: &[&str], version: &str, nonce: &str) -> Bytes {
    let resources = names.iter().map(|name| packed(short, name)).collect();
    let response = discovery::DiscoveryResponse {
        version_info: version.into(),
        nonce: nonce.into(),
        type_url: url(short).as_str().into(),
        resources,
        ..Default::default()
    };
    response.encode_to_vec().into()
}

fn delta(short: &str, names: &[&str], removed: &[&str], nonce: &str) -> Bytes {
    let resource = |name: &&str| discovery::Resource {
        name: (*name).into(),
        version: "1".into(),
        resource: Some(packed(short, name)),
        ..Default::default()
    };
    let response = discovery::DeltaDiscoveryResponse {
        system_version_info: "s".into(),
        nonce: nonce.into(),
        type_url: url(short).as_str().into(),
        resources: names.iter().map(resource).collect(),
        removed_resources: removed.iter().map(|name| (*name).into()).collect(),
        ..Default::default()
    };
    response.encode_to_vec().into()
}

/// A session with its clock, driven as `upstream` does.
struct Rig {
    session: ClientSession,
    now: Moment,
    held: Vec<(Name, String)>,
    updates: Vec<Update>,
}

impl Rig {
    fn new(variant: Variant) -> Self {
        let session = ClientSession::new(variant, NODE, &Timing::default());
        Self { session, now: at(0), held: Vec::new(), updates: Vec::new() }
    }

    fn holding(mut self, held: &[(&str, &str)]) -> Self {
        self.held = held.iter().map(|(name, version)| ((*name).into(), (*version).into())).collect();
        self
    }

    fn want(&mut self, short: &str, wildcard: bool, names: &[&str]) -> Vec<String> {
        let held = self.held.clone();
        self.session.set_wanted(&want(short, wildcard, names), || held);
        self.drain()
    }

    fn hear(&mut self, message: Bytes) -> Vec<String> {
        self.session.handle_response(self.now, message).unwrap();
        self.drain()
    }

    fn pass(&mut self, millis: u64) -> Vec<String> {
        self.now = self.now + Duration::from_millis(millis);
        self.session.tick(self.now);
        self.drain()
    }

    fn drain(&mut self) -> Vec<String> {
        let mut sent = Vec::new();
        while let Some(output) = self.session.poll_output(self.now) {
            match output {
                Output::Send(request) => sent.push(show(&request)),
                Output::Apply(update) => {
                    self.session.committed(&update.type_url);
                    self.updates.push(update);
                }
            }
        }
        sent
    }

    fn update(&mut self) -> Update {
        assert_eq!(self.updates.len(), 1, "one update is due");
        self.updates.remove(0)
    }
}

/// `cds +a,b -c n=nonce v=version E node {a:1}`, parts that are not there left out.
fn show(request: &Request) -> String {
    let mut parts = vec![TypeUrl::new(&request.type_url).short().to_owned()];
    match &request.body {
        RequestBody::Sotw { version_info, names } => {
            parts.push(format!("[{}]", names.join(",")));
            if !version_info.is_empty() {
                parts.push(format!("v={version_info}"));
            }
        }
        RequestBody::Delta { subscribe, unsubscribe, initial } => {
            parts.extend((!subscribe.is_empty()).then(|| format!("+{}", subscribe.join(","))));
            parts.extend((!unsubscribe.is_empty()).then(|| format!("-{}", unsubscribe.join(","))));
            let stated: Vec<_> = initial.iter().map(|(name, version)| format!("{name}:{version}")).collect();
            parts.extend((!stated.is_empty()).then(|| format!("{{{}}}", stated.join(","))));
        }
    }
    parts.extend((!request.nonce.is_empty()).then(|| format!("n={}", request.nonce)));
    parts.extend(request.error.as_ref().map(|error| format!("E{}", error.code)));
    parts.extend(request.node.as_ref().map(|_| "node".to_owned()));
    parts.join(" ")
}

/// A type, whether `*` is wanted, the names, and the requests that must follow.
type Step = (&'static str, bool, &'static [&'static str], &'static [&'static str]);

#[test]
fn wants_become_requests() {
    use Variant::{Delta, Sotw};
    let table: &[(&str, Variant, &[Step])] = &[
        ("legacy wildcard", Delta, &[("cds", true, &[], &["cds node"])]),
        ("legacy wildcard", Sotw, &[("cds", true, &[], &["cds [] node"])]),
        ("explicit wildcard for other types", Delta, &[("eds", true, &[], &["eds +* node"])]),
        ("explicit wildcard for other types", Sotw, &[("eds", true, &[], &["eds [*] node"])]),
        ("node once", Delta, &[("cds", true, &[], &["cds node"]), ("lds", true, &[], &["lds"])]),
        ("nothing wanted, nothing said", Delta, &[("cds", false, &[], &[])]),
        ("nothing wanted, nothing said", Sotw, &[("cds", false, &[], &[])]),
        (
            "wildcard beside names stays distinct",
            Delta,
            &[("cds", true, &["a"], &["cds +*,a node"]), ("cds", false, &["a"], &["cds -*"])],
        ),
        (
            "wildcard beside names stays distinct",
            Sotw,
            &[("cds", true, &["a"], &["cds [*,a] node"]), ("cds", false, &["a"], &["cds [a]"])],
        ),
        (
            "a name joins and leaves the legacy wildcard",
            Delta,
            &[("cds", true, &[], &["cds node"]), ("cds", true, &["a"], &["cds +a"]), ("cds", true, &[], &["cds -a"])],
        ),
        (
            "a name joins and leaves the legacy wildcard",
            Sotw,
            &[
                ("cds", true, &[], &["cds [] node"]),
                ("cds", true, &["a"], &["cds [*,a]"]),
                ("cds", true, &[], &["cds [*]"]),
            ],
        ),
        ("wildcard to names", Delta, &[("cds", true, &[], &["cds node"]), ("cds", false, &["a"], &["cds +a -*"])]),
        ("wildcard to names", Sotw, &[("cds", true, &[], &["cds [] node"]), ("cds", false, &["a"], &["cds [a]"])]),
        (
            "legacy wildcard to nothing and back",
            Delta,
            &[("cds", true, &[], &["cds node"]), ("cds", false, &[], &["cds -*"]), ("cds", true, &[], &["cds +*"])],
        ),
        (
            "legacy wildcard to nothing and back",
            Sotw,
            &[
                ("cds", true, &[], &["cds [] node"]),
                ("cds", false, &[], &["cds [*]", "cds []"]),
                ("cds", true, &[], &["cds [*]"]),
            ],
        ),
        (
            "names to nothing is no wildcard",
            Sotw,
            &[("cds", false, &["a"], &["cds [a] node"]), ("cds", false, &[], &["cds []"])],
        ),
        (
            "names to nothing is no wildcard",
            Delta,
            &[("cds", false, &["a"], &["cds +a node"]), ("cds", false, &[], &["cds -a"])],
        ),
        (
            "only the difference",
            Delta,
            &[("eds", false, &["a", "b"], &["eds +a,b node"]), ("eds", false, &["b", "c"], &["eds +c -a"])],
        ),
    ];
    for (name, variant, steps) in table {
        let mut rig = Rig::new(*variant);
        for (index, (short, wildcard, names, sent)) in steps.iter().enumerate() {
            assert_eq!(rig.want(short, *wildcard, names), *sent, "{name}, {variant:?}, step {index}");
        }
    }
}

#[test]
fn delta_answers_carry_the_nonce_alone_and_asks_none() {
    let mut rig = Rig::new(Variant::Delta);
    rig.want("eds", false, &["a"]);
    rig.session.set_wanted(&want("eds", false, &["a", "b"]), Vec::new);
    assert_eq!(rig.hear(delta("eds", &["a"], &[], "1")), ["eds n=1", "eds +b"]);
}

#[test]
fn held_versions_are_stated_once_and_only_what_is_asked() {
    let held = &[("a", "7"), ("b", ""), ("x", "9")];
    let mut rig = Rig::new(Variant::Delta).holding(held);
    assert_eq!(rig.want("eds", false, &["a", "b", "c"]), ["eds +a,b,c {a:7,b:} node"]);
    assert_eq!(rig.want("eds", false, &["x"]), ["eds +x -a,b,c"]);
    let mut rig = Rig::new(Variant::Delta).holding(held);
    assert_eq!(rig.want("cds", true, &[]), ["cds {a:7,b:,x:9} node"]);
}

#[test]
fn very_many_names_take_several_requests() {
    let all: Vec<String> = (0..30_000).map(|number| format!("{number:0>150}")).collect();
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    let mut rig = Rig::new(Variant::Delta).holding(&all.iter().map(|name| (*name, "1")).collect::<Vec<_>>());
    let held = rig.held.clone();
    rig.session.set_wanted(&want("eds", false, &all), || held);
    let (mut asked, mut requests) = (Vec::new(), 0);
    while let Some(request) = rig.session.poll_request(rig.now) {
        let bytes = request.message().len();
        assert!(bytes <= (1 << 20) + 200, "{bytes}");
        assert_eq!(request.node.is_some(), requests == 0);
        let RequestBody::Delta { subscribe, initial, .. } = request.body else { panic!("delta is spoken") };
        let stated: HashMap<_, _> = initial.into_iter().collect();
        assert!(stated.keys().all(|name| subscribe.contains(name)));
        assert_eq!(stated.is_empty(), requests > 0);
        if requests == 0 {
            // An answer to the first part leaves the others asked.
            rig.now = at(1);
            rig.session.handle_response(rig.now, delta("eds", &all[..1], &[], "")).unwrap();
            assert!(!rig.session.synced(rig.now, &url("eds")));
            rig.now = at(2);
        }
        asked.extend(subscribe);
        requests += 1;
    }
    asked.sort_unstable();
    assert_eq!(requests, 5);
    assert_eq!(asked, all.iter().map(|name| Name::from(*name)).collect::<Vec<_>>());
    assert_eq!(rig.session.oldest_unanswered(), Some(at(2)));
}

#[test]
fn a_name_that_is_dropped_before_it_was_written_is_dropped_after() {
    let mut rig = Rig::new(Variant::Delta);
    rig.session = rig.session.with_request_bytes(10);
    rig.session.set_wanted(&want("eds", false, &["a", "b"]), Vec::new);
    assert_eq!(rig.session.poll_request(rig.now).map(|request| show(&request)), Some("eds +a node".into()));
    assert_eq!(rig.want("eds", false, &["a"]), ["eds +b", "eds -b"]);
}

#[test]
fn sotw_echoes_the_newest_nonce_and_the_last_accepted_version() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("eds", false, &["a"]);
    assert_eq!(rig.hear(sotw("eds", &["a"], "v1", "1")), ["eds [a] v=v1 n=1"]);
    assert_eq!(rig.hear(sotw("eds", &["a", "a"], "v2", "2")), ["eds [a] v=v1 n=2 E3"]);
    assert_eq!(rig.want("eds", false, &["a", "b"]), ["eds [a,b] v=v1 n=2"]);
    assert_eq!(rig.hear(sotw("eds", &["b"], "v3", "3")), ["eds [a,b] v=v3 n=3"]);
}

#[test]
fn an_ack_waits_for_the_commit_and_takes_the_new_names_along() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("eds", false, &["a"]);
    rig.session.handle_response(at(1), sotw("eds", &["a"], "v1", "1")).unwrap();
    let update = rig.session.poll_update().unwrap();
    rig.session.set_wanted(&want("eds", false, &["a", "b"]), Vec::new);
    assert_eq!(rig.session.poll_request(at(1)), None);
    rig.session.committed(&update.type_url);
    assert_eq!(rig.drain(), ["eds [a,b] v=v1 n=1"]);
}

#[test]
fn invalid_responses_are_refused_by_name_and_change_nothing() {
    let foreign = discovery::DiscoveryResponse {
        type_url: url("cds").as_str().into(),
        nonce: "1".into(),
        resources: vec![packed("lds", "l")],
        ..Default::default()
    };
    let broken = discovery::DiscoveryResponse {
        type_url: url("cds").as_str().into(),
        nonce: "1".into(),
        resources: vec![protobuf::Any { type_url: crate::xds::envelope::WRAPPER.into(), value: vec![0x0a, 9].into() }],
        ..Default::default()
    };
    let table = [
        (Variant::Delta, delta("cds", &["a", "b", "a"], &[], "1"), "stated twice: a"),
        (Variant::Delta, delta("cds", &["a"], &["a"], "1"), "both in resources and in removed_resources: a"),
        (Variant::Sotw, sotw("cds", &["a", "a"], "v", "1"), "stated twice: a"),
        (Variant::Sotw, foreign.encode_to_vec().into(), "another type"),
        (Variant::Sotw, broken.encode_to_vec().into(), "undecodable response"),
    ];
    for (variant, message, text) in table {
        let mut rig = Rig::new(variant);
        rig.want("cds", true, &[]);
        let heard = rig.session.handle_response(at(1), message).unwrap();
        let Heard::Rejected { reason, .. } = heard else { panic!("{heard:?} for {text}") };
        assert!(reason.contains(text), "{reason}");
        let request = rig.session.poll_request(at(1)).unwrap();
        assert_eq!((request.nonce.as_str(), request.error), ("1", Some(Status::new(3, reason))));
        assert!(rig.drain().is_empty() && rig.updates.is_empty());
        assert!(!rig.session.synced(at(1), &url("cds")));
    }
}

#[test]
fn what_nobody_asked_is_left_out() {
    let mut rig = Rig::new(Variant::Delta);
    rig.want("cds", true, &[]);
    let heard = rig.session.handle_response(at(1), delta("lds", &["l"], &[], "1"));
    assert_eq!(heard, Ok(Heard::Unasked { type_url: url("lds").as_str().into() }));
    assert!(rig.drain().is_empty());
    rig.want("eds", false, &["a", "b"]);
    rig.want("eds", false, &["a"]);
    // What left the subscription is not gone (C-064).
    let heard = rig.session.handle_response(at(1), delta("eds", &["a", "x"], &["b"], "1"));
    assert_eq!(heard, Ok(Heard::Accepted { type_url: url("eds"), unasked: 2 }));
    assert_eq!(rig.drain(), ["eds n=1"]);
    let update = rig.update();
    assert_eq!((update.resources.len(), update.removed.len()), (1, 0));
    assert!(rig.session.handle_response(at(1), Bytes::from_static(b"\xff")).is_err());
}

#[test]
fn a_nonce_is_answered_once() {
    let mut rig = Rig::new(Variant::Delta);
    rig.want("cds", true, &[]);
    assert_eq!(rig.hear(delta("cds", &["a"], &[], "1")), ["cds n=1"]);
    assert!(rig.hear(delta("cds", &["b"], &[], "1")).is_empty());
    assert!(rig.hear(delta("cds", &["c"], &[], "")).is_empty());
    assert_eq!(rig.updates.len(), 3);
}

#[test]
fn sotw_wildcard_states_the_whole_and_names_their_absence() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("cds", true, &[]);
    rig.hear(sotw("cds", &["a", "b"], "v1", "1"));
    let update = rig.update();
    assert!(update.whole && update.answers_wildcard);

    let mut rig = Rig::new(Variant::Sotw).holding(&[("a", "1"), ("b", "1"), ("other", "1")]);
    rig.want("cds", false, &["a", "b", "z"]);
    rig.hear(sotw("cds", &["a"], "v1", "1"));
    let update = rig.update();
    assert!(!update.whole && !update.answers_wildcard);
    assert_eq!(update.removed, [Name::from("b")], "held, asked, not stated");
    rig.pass(7_999);
    assert!(rig.updates.is_empty());
    rig.pass(1);
    assert_eq!(rig.update().removed, [Name::from("z")], "never received for 8 s");
    assert_eq!(rig.session.deadline(), None);
}

#[test]
fn a_response_that_may_predate_a_request_proves_no_absence() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("cds", false, &["a", "b"]);
    rig.hear(sotw("cds", &["a", "b"], "v1", "1"));
    rig.want("cds", false, &["a"]);
    rig.want("cds", false, &["a", "b"]);
    rig.updates.clear();
    rig.hear(sotw("cds", &["a"], "v2", "2"));
    assert!(rig.update().removed.is_empty());
    rig.pass(8_000);
    assert_eq!(rig.update().removed, [Name::from("b")]);
}

#[test]
fn partial_types_are_not_deleted_by_omission() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("eds", false, &["a", "b"]);
    rig.hear(sotw("eds", &["a", "b"], "v1", "1"));
    rig.hear(sotw("eds", &["a"], "v2", "2"));
    rig.pass(60_000);
    assert!(rig.updates.iter().all(|update| update.removed.is_empty() && !update.whole));
    rig.want("eds", false, &["a", "b", "z"]);
    rig.updates.clear();
    rig.pass(8_000);
    let update = rig.update();
    assert_eq!((update.removed, update.silent), (Vec::new(), vec![Name::from("z")]));
}

#[test]
fn a_name_that_was_not_wanted_for_a_moment_is_asked_again() {
    let cases: [(Variant, &[&str]); 2] =
        [(Variant::Delta, &["eds -b", "eds +b"]), (Variant::Sotw, &["eds [a] v=v1 n=1", "eds [a,b] v=v1 n=1"])];
    for (variant, requests) in cases {
        let mut rig = Rig::new(variant);
        rig.want("eds", false, &["a", "b"]);
        match variant {
            Variant::Delta => rig.hear(delta("eds", &["a", "b"], &[], "1")),
            Variant::Sotw => rig.hear(sotw("eds", &["a", "b"], "v1", "1")),
        };
        // The server knows of neither change.
        rig.session.set_wanted(&want("eds", false, &["a"]), Vec::new);
        rig.session.set_wanted(&want("eds", false, &["a", "b"]), Vec::new);
        assert_eq!(rig.drain(), requests, "{variant:?}");
        assert_eq!(rig.pass(1), Vec::<String>::new());
        // Nor does the want itself say so.
        let of_group = Want { again: [(7, "b".into())].into(), ..want("eds", false, &["a", "b"]) };
        rig.session.set_wanted(&of_group, Vec::new);
        assert_eq!(rig.drain(), requests, "{variant:?}");
        rig.session.set_wanted(&of_group, Vec::new);
        assert_eq!(rig.drain(), Vec::<String>::new(), "once for each number");
        // It is told once of what is dropped at last.
        rig.session.set_wanted(&want("eds", false, &["b"]), Vec::new);
        rig.session.set_wanted(&want("eds", false, &["a", "b"]), Vec::new);
        rig.session.poll_request(rig.now).unwrap();
        assert_eq!(rig.want("eds", false, &["b"]), Vec::<String>::new(), "{variant:?}");
    }
}

#[test]
fn a_late_answer_says_what_silence_could_not() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("lds", false, &["a"]);
    rig.hear(sotw("lds", &["a"], "v1", "1"));
    // It is held since an earlier stream, which this one was not told.
    rig.want("lds", false, &["a", "c"]);
    rig.updates.clear();
    rig.pass(8_000);
    let update = rig.update();
    assert_eq!((update.removed, update.silent), (vec![], vec![Name::from("c")]));
    rig.hear(sotw("lds", &["a"], "v2", "2"));
    assert!(rig.update().removed.is_empty(), "it may be older than the ask");
    rig.pass(8_000);
    assert_eq!(rig.update().removed, [Name::from("c")]);
}

#[test]
fn a_glob_that_is_asked_again_waits_for_no_resource_of_its_name() {
    const GLOB: &str = "xdstp://a/envoy.config.listener.v3.Listener/d/*";
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("lds", false, &[GLOB, "a"]);
    rig.hear(sotw("lds", &["xdstp://a/envoy.config.listener.v3.Listener/d/m", "a"], "v1", "1"));
    let again = Want { again: [(1, GLOB.into())].into(), ..want("lds", false, &[GLOB, "a"]) };
    rig.session.set_wanted(&again, Vec::new);
    assert_eq!(rig.drain().len(), 2);
    rig.hear(sotw("lds", &["xdstp://a/envoy.config.listener.v3.Listener/d/m", "a"], "v2", "2"));
    rig.updates.clear();
    rig.pass(60_000);
    assert!(rig.updates.is_empty(), "{:?}", rig.updates);
}

#[test]
fn a_stream_that_never_spoke_proves_nothing() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("eds", false, &["z"]);
    rig.pass(60_000);
    assert!(rig.updates.is_empty());
    assert_eq!(rig.session.oldest_unanswered(), Some(at(0)));
}

#[test]
fn a_wildcard_asked_late_is_answered_by_what_only_it_explains() {
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("cds", false, &["a"]);
    rig.hear(sotw("cds", &["a"], "v1", "1"));
    rig.want("cds", true, &["a"]);
    rig.updates.clear();
    rig.hear(sotw("cds", &["a"], "v2", "2"));
    let crossing = rig.update();
    assert!(!crossing.whole && !crossing.answers_wildcard);
    rig.hear(sotw("cds", &["a", "b"], "v3", "3"));
    let answer = rig.update();
    assert!(answer.whole && answer.answers_wildcard);
}

#[test]
fn unanswered_asks_are_told_until_their_type_is_answered() {
    let mut rig = Rig::new(Variant::Delta).holding(&[("e", "5")]);
    rig.want("cds", true, &[]);
    rig.want("eds", false, &["e"]);
    assert_eq!(rig.session.oldest_unanswered(), Some(at(0)));
    rig.now = at(10);
    rig.hear(delta("cds", &[], &[], "1"));
    assert_eq!(rig.session.oldest_unanswered(), None, "the version stated for e may be current");
    assert!(rig.session.synced(at(10), &url("cds")) && !rig.session.all_synced(at(10)));
    rig.pass(8_000);
    assert!(rig.session.all_synced(rig.now), "the silence lasted");
    assert_eq!(rig.session.poll_silence(), Some(url("eds")));
    assert_eq!(rig.session.poll_silence(), None);
}

#[test]
fn heartbeats_state_no_whole() {
    let beat = discovery::Resource {
        name: "a".into(),
        ttl: Some(protobuf::Duration { seconds: 5, nanos: 0 }),
        ..Default::default()
    };
    let wrapped = protobuf::Any { type_url: crate::xds::envelope::WRAPPER.into(), value: beat.encode_to_vec().into() };
    let response = discovery::DiscoveryResponse {
        type_url: url("cds").as_str().into(),
        nonce: "2".into(),
        resources: vec![wrapped],
        ..Default::default()
    };
    let mut rig = Rig::new(Variant::Sotw);
    rig.want("cds", true, &[]);
    rig.hear(sotw("cds", &["a", "b"], "v1", "1"));
    rig.updates.clear();
    rig.hear(response.encode_to_vec().into());
    let update = rig.update();
    assert!(!update.whole && update.removed.is_empty() && update.resources[0].payload.is_none());
}

// ---- against a model server ----

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
