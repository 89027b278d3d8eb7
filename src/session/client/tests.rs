mod model;

use super::*;
use crate::content::Store;
use crate::proto::{discovery, protobuf};
use prost::Message;
use std::collections::HashMap;

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
