//! The rules of one group, each as a small story. The bench speaks names: one
//! resource `A1` is the name `A` with content `1`.

mod leases;

use super::core::{GroupState, MemberId};
use super::report::{Holds, Subscription};
use crate::content::{Body, Reach, ServedType, Store};
use crate::session::{Update, Want};
use crate::xds::envelope::{Payload, Resource};
use crate::xds::wire::Writer;
use crate::xds::{Moment, Name, Status, TypeUrl, code};
use std::sync::Arc;
use std::time::Duration;

pub(super) const ONE: MemberId = MemberId(1);
pub(super) const TWO: MemberId = MemberId(2);

pub(super) struct Bench {
    pub(super) now: Moment,
    pub(super) store: Arc<Store>,
    pub(super) state: GroupState,
}

pub(super) fn kind(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).unwrap()
}

fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|&name| name.into()).collect()
}

/// `A1`: the name without its last character, with that as content.
pub(super) fn resource(short: &str, spec: &str) -> Resource {
    let (name, content) = spec.split_at(spec.len() - 1);
    let payload = Payload { type_url: kind(short).as_str().into(), value: content.to_string().into() };
    Resource { name: Some(name.into()), payload: Some(payload), ..Resource::default() }
}

/// A cluster of EDS that refers to the assignment `service`.
fn cluster(name: &str, service: &str, content: u64) -> Resource {
    let mut out = Writer::default();
    out.string(1, name);
    out.varint(2, 3);
    out.message(3, |out| out.string(2, service));
    out.varint(99, content);
    let payload = Payload { type_url: kind("cds").as_str().into(), value: out.finish() };
    Resource { name: Some(name.into()), payload: Some(payload), ..Resource::default() }
}

pub(super) fn update(short: &str, label: &str) -> Update {
    Update {
        type_url: kind(short),
        label: label.into(),
        control_plane: "".into(),
        resources: Vec::new(),
        removed: Vec::new(),
        errors: Vec::new(),
        whole: false,
        silent: Vec::new(),
        answers_wildcard: false,
        received: Moment::START,
    }
}

pub(super) fn with(short: &str, label: &str, specs: &[&str]) -> Update {
    Update { resources: specs.iter().map(|spec| resource(short, spec)).collect(), ..update(short, label) }
}

pub(super) fn removing(short: &str, removed: &[&str]) -> Update {
    Update { removed: names(removed), ..update(short, "") }
}

fn failing(short: &str, name: &str, code: i32) -> Update {
    Update { errors: vec![(name.into(), Status::new(code, "text"))], ..update(short, "") }
}

impl Bench {
    /// Connected, and nothing asked.
    fn new() -> Self {
        let mut bench = Self::offline();
        bench.open();
        bench
    }

    pub(super) fn offline() -> Self {
        let store = Store::new();
        let state = GroupState::new(Moment::START, store.clone(), Arc::default());
        Self { now: Moment::START, store, state }
    }

    /// Connected, and `ONE` wants the names.
    pub(super) fn wanting(short: &str, names: &[&str]) -> Self {
        let mut bench = Self::new();
        bench.want(ONE, short, names);
        bench
    }

    pub(super) fn open(&mut self) {
        self.state.stream_opened(self.now, "10.0.0.1:15010".into());
    }

    pub(super) fn lose(&mut self) {
        self.state.stream_lost(self.now, "10.0.0.1:15010: connection reset".into());
    }

    pub(super) fn reopen(&mut self) {
        self.lose();
        self.open();
        self.state.heard(self.now);
    }

    /// `*` among the names is the wildcard.
    pub(super) fn want(&mut self, member: MemberId, short: &str, list: &[&str]) {
        let wildcard = list.contains(&"*");
        let named = list.iter().filter(|name| **name != "*").map(|&name| name.into()).collect();
        let want = Want::new(kind(short), wildcard, self.store.names(named));
        self.state.want(self.now, member, &want);
        self.state.take_wakes();
    }

    /// The members woken.
    pub(super) fn apply(&mut self, update: Update) -> Vec<u64> {
        self.state.take_wakes();
        self.state.apply(self.now, Update { received: self.now, ..update });
        self.woken()
    }

    pub(super) fn woken(&mut self) -> Vec<u64> {
        self.state.take_wakes().into_iter().map(|member| member.0).collect()
    }

    /// Passes time as the shell does: tick by tick.
    fn pass(&mut self, span: Duration) -> Vec<u64> {
        let end = self.now + span;
        self.state.take_wakes();
        for _ in 0..10_000 {
            let Some(due) = self.state.deadline(self.now).filter(|due| *due <= end) else {
                self.now = end;
                return self.woken();
            };
            self.now = due.max(self.now);
            self.state.tick(self.now);
        }
        panic!("deadlines without end at {:?}", self.now);
    }

    pub(super) fn seconds(&mut self, seconds: u64) -> Vec<u64> {
        self.pass(Duration::from_secs(seconds))
    }

    pub(super) fn served(&self, short: &str) -> Arc<ServedType> {
        self.state.served().of(&kind(short)).cloned().unwrap_or_default()
    }

    /// What is served, `A1 B- C?`: `-` absent, `0` without resource, `x` expired, `!` in error.
    pub(super) fn shows(&self, short: &str) -> String {
        let show = |entry: &Arc<crate::content::Entry>| {
            let content = match entry.body() {
                Body::Resource(blob) => String::from_utf8_lossy(blob.value()).into_owned(),
                Body::Empty => "0".into(),
                Body::Absent => "-".into(),
                Body::Expired => "x".into(),
                Body::Error(_) => "!".into(),
            };
            format!("{}{content}", entry.name())
        };
        let mut shown: Vec<_> = self.served(short).tree.iter().map(show).collect();
        shown.sort();
        shown.join(" ")
    }

    /// What is subscribed, the wildcard as `*`.
    pub(super) fn asks(&mut self, short: &str) -> String {
        let wants = self.state.wanted_upstream();
        let Some(want) = wants.iter().find(|want| want.type_url == kind(short)) else { return String::new() };
        let wildcard = want.wildcard.then_some("*");
        wildcard.into_iter().chain(want.names.iter().map(|name| &**name)).collect::<Vec<_>>().join(" ")
    }

    fn awaits(&self, short: &str) -> String {
        self.served(short).awaited.iter().map(|name| &**name).collect::<Vec<_>>().join(" ")
    }

    fn restates(&self) -> String {
        self.served("eds").restating.iter().map(|name| &**name).collect::<Vec<_>>().join(" ")
    }

    fn label(&self, short: &str) -> String {
        self.served(short).label.to_string()
    }
}

#[test]
fn unchanged_bytes_move_nothing() {
    let mut bench = Bench::wanting("eds", &["A", "B"]);
    assert_eq!(bench.apply(with("eds", "v1", &["A1", "B1"])), [1]);
    let before = bench.served("eds");
    assert_eq!(bench.apply(with("eds", "v2", &["A1", "B1"])), [0; 0]);
    let after = bench.served("eds");
    assert!(before.tree.same(&after.tree));
    assert_eq!((&*before.label, &*after.label), ("v1", "v2"), "the label follows, nobody is woken");
    assert_eq!(before.committed, after.committed);
    let served = bench.state.served();
    assert_eq!(bench.apply(with("eds", "v2", &["A1"])), [0; 0]);
    assert!(Arc::ptr_eq(&served, &bench.state.served()));
}

#[test]
fn only_those_whom_a_change_concerns_are_woken() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.want(TWO, "eds", &["B"]);
    bench.want(MemberId(3), "eds", &["*"]);
    bench.want(MemberId(4), "eds", &["alias"]);
    assert_eq!(bench.apply(with("eds", "", &["A1"])), [1, 3]);
    let aliased = Resource { aliases: names(&["alias"]), ..resource("eds", "C1") };
    assert_eq!(bench.apply(Update { resources: vec![aliased], ..update("eds", "") }), [3, 4]);
    assert_eq!(bench.apply(removing("eds", &["C"])), [3, 4]);
    bench.state.leave(bench.now, MemberId(3));
    assert_eq!(bench.apply(with("eds", "", &["B1"])), [2]);
}

#[test]
fn absence_and_errors() {
    let table: [(&str, Vec<Update>, &str); 11] = [
        ("absent", vec![removing("eds", &["A"])], "A-"),
        ("removed, still wanted", vec![with("eds", "", &["A1"]), removing("eds", &["A"])], "A-"),
        ("back again", vec![removing("eds", &["A"]), with("eds", "", &["A2"])], "A2"),
        ("nobody asked", vec![removing("eds", &["Z"]), failing("eds", "Z", code::NOT_FOUND)], ""),
        ("not found", vec![with("eds", "", &["A1"]), failing("eds", "A", code::NOT_FOUND)], "A!"),
        ("refused", vec![with("eds", "", &["A1"]), failing("eds", "A", code::PERMISSION_DENIED)], "A!"),
        ("trouble passes", vec![with("eds", "", &["A1"]), failing("eds", "A", code::UNAVAILABLE)], "A1"),
        ("trouble, nothing held", vec![failing("eds", "A", code::UNAVAILABLE)], "A!"),
        ("error lifted", vec![failing("eds", "A", code::NOT_FOUND), with("eds", "", &["A1"])], "A1"),
        ("not for the wildcard", vec![failing("eds", "*", code::PERMISSION_DENIED)], ""),
        ("kept out", vec![with("eds", "", &["Z1", "B1"])], "B1"),
    ];
    for (story, updates, shows) in table {
        let mut bench = Bench::wanting("eds", &["A", "B"]);
        for update in updates {
            bench.apply(update);
        }
        assert_eq!(bench.shows("eds"), shows, "{story}");
    }
}

#[test]
fn passing_trouble_is_kept_for_the_status() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.apply(with("eds", "", &["A1"]));
    bench.apply(failing("eds", "A", code::UNAVAILABLE));
    let about = bench.state.explain(&kind("eds"), &"A".into()).unwrap();
    assert_eq!(about.error, Some(Status::new(code::UNAVAILABLE, "text")));
    assert_eq!((about.holds, about.subscription), (Holds::Resource { bytes: 1 }, Subscription::Named));
    bench.apply(with("eds", "", &["A1"]));
    assert_eq!(bench.state.explain(&kind("eds"), &"A".into()).unwrap().error, None);
}

#[test]
fn heartbeats_are_touches() {
    let mut bench = Bench::wanting("eds", &["A"]);
    let ttl = Some(Duration::from_secs(5));
    bench.apply(Update { resources: vec![Resource { ttl, ..resource("eds", "A1") }], ..update("eds", "v1") });
    let before = bench.served("eds");
    bench.seconds(4);
    let beat = Resource { payload: None, ttl, ..resource("eds", "A1") };
    assert_eq!(bench.apply(Update { resources: vec![beat.clone()], ..update("eds", "v1") }), [1]);
    let after = bench.served("eds");
    assert!(after.tree.same(&before.tree));
    assert_eq!((after.touch, after.touched.get("A").copied()), (before.touch + 1, Some(before.touch + 1)));
    // The same resource in full is as good.
    let full = Resource { ttl, ..resource("eds", "A1") };
    assert_eq!(bench.apply(Update { resources: vec![full], ..update("eds", "v1") }), [1]);
    assert_eq!(bench.served("eds").touch, before.touch + 2);
    assert_eq!(bench.seconds(4), [0; 0]);
    assert_eq!(bench.seconds(1), [1]);
    assert_eq!(bench.shows("eds"), "Ax");
    // Nothing is left that a heartbeat could keep.
    bench.apply(Update { resources: vec![beat], ..update("eds", "v1") });
    assert_eq!(bench.shows("eds"), "Ax");
    bench.apply(with("eds", "v1", &["A1"]));
    assert_eq!(bench.shows("eds"), "A1");
}

#[test]
fn ttls_run_out_while_the_upstream_is_away() {
    let mut bench = Bench::wanting("eds", &["A", "B"]);
    let ttl = Some(Duration::from_secs(5));
    let resources = vec![Resource { ttl, ..resource("eds", "A1") }, resource("eds", "B1")];
    bench.apply(Update { resources, ..update("eds", "v1") });
    bench.lose();
    bench.seconds(5);
    assert_eq!(bench.shows("eds"), "Ax B1");
    // Without TTL from now on (C-133).
    bench.open();
    bench.apply(with("eds", "v2", &["A1"]));
    bench.seconds(100);
    assert_eq!(bench.shows("eds"), "A1 B1");
}

#[test]
fn names_without_a_resource() {
    let mut bench = Bench::wanting("vhds", &["rc/x"]);
    let unknown = Resource { name: Some("rc/x".into()), aliases: names(&["rc/x"]), ..Resource::default() };
    bench.apply(Update { resources: vec![unknown.clone()], ..update("vhds", "") });
    assert_eq!(bench.shows("vhds"), "rc/x0");
    assert!(bench.served("vhds").aliases.is_empty(), "a name is no alias of itself");
    assert_eq!(bench.apply(Update { resources: vec![unknown], ..update("vhds", "") }), [0; 0]);
}

#[test]
fn whole_sets_say_what_is_gone() {
    let whole =
        |short, specs: &[&str], answers_wildcard| Update { whole: true, answers_wildcard, ..with(short, "", specs) };
    // Under the wildcard.
    let mut bench = Bench::wanting("cds", &["*", "B", "Z"]);
    bench.apply(whole("cds", &["A1", "B1", "C1"], true));
    assert_eq!(bench.shows("cds"), "A1 B1 C1 Z-");
    bench.apply(whole("cds", &["A2"], true));
    assert_eq!(bench.shows("cds"), "A2 B- Z-");
    // By name.
    let mut bench = Bench::wanting("lds", &["A", "B"]);
    bench.apply(whole("lds", &["A1", "B1"], false));
    bench.want(ONE, "lds", &["A", "B", "N"]);
    bench.apply(whole("lds", &["A1"], false));
    assert_eq!(bench.shows("lds"), "A1 B-", "N was perhaps not asked yet");
    // Partial types never (C-119).
    let mut bench = Bench::wanting("eds", &["A", "B"]);
    bench.apply(with("eds", "", &["A1", "B1"]));
    bench.apply(whole("eds", &["A2"], false));
    assert_eq!(bench.shows("eds"), "A2 B1");
}

#[test]
fn a_name_that_came_back_unseen_is_asked_again() {
    let again = |bench: &mut Bench| {
        let wants = bench.state.wanted_upstream();
        wants.iter().flat_map(|want| want.again.iter().cloned().collect::<Vec<_>>()).collect::<Vec<_>>()
    };
    let mut bench = Bench::wanting("eds", &["A", "B"]);
    bench.state = GroupState::private(bench.now, bench.store.clone(), &Default::default());
    bench.open();
    bench.want(ONE, "eds", &["A", "B"]);
    assert!(again(&mut bench).is_empty());
    bench.apply(with("eds", "", &["A1", "B1"]));
    bench.want(ONE, "eds", &["A"]);
    bench.want(ONE, "eds", &["A", "B"]);
    assert_eq!(bench.shows("eds"), "A1", "nothing of a private group outlives its interest");
    assert!(bench.state.take_asks_changed());
    let first = again(&mut bench);
    assert_eq!(first, [(1, "B".into())]);
    assert_eq!(again(&mut bench), first, "until there is a word on it, for every stream");
    bench.want(ONE, "eds", &["A"]);
    bench.want(ONE, "eds", &["A", "B"]);
    assert_eq!(again(&mut bench), [(2, "B".into())]);
    bench.apply(with("eds", "", &["B2"]));
    assert!(again(&mut bench).is_empty());
    // A type that is forgotten meanwhile goes on counting.
    bench.want(ONE, "eds", &[]);
    again(&mut bench);
    bench.state.tick(bench.now);
    bench.want(ONE, "eds", &["A", "B"]);
    again(&mut bench);
    bench.want(ONE, "eds", &["A"]);
    bench.want(ONE, "eds", &["A", "B"]);
    assert_eq!(again(&mut bench), [(3, "B".into())]);
    bench.apply(with("eds", "", &["A3", "B3"]));
    // Who reads in between sees it go.
    bench.want(ONE, "eds", &["A"]);
    assert!(again(&mut bench).is_empty());
    bench.want(ONE, "eds", &["A", "B"]);
    assert!(again(&mut bench).is_empty());
}

#[test]
fn silence_takes_nothing_away() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.apply(with("eds", "", &["A1"]));
    bench.reopen();
    bench.want(ONE, "eds", &["A", "N"]);
    bench.apply(Update { silent: names(&["A", "N"]), ..update("eds", "") });
    assert_eq!(bench.shows("eds"), "A1 N-", "A came on an earlier stream, and its answer may be late");
}

#[test]
fn members_without_names_are_one_set() {
    let mut bench = Bench::wanting("leds", &["collection"]);
    let whole = |specs: &[&str]| Update { whole: true, ..with("leds", "", specs) };
    bench.apply(whole(&["x1", "y1"]));
    assert_eq!(bench.shows("leds"), "x1 y1");
    bench.apply(whole(&["y1"]));
    assert_eq!(bench.shows("leds"), "y1");
}

#[test]
fn a_whole_set_does_not_judge_what_was_only_just_asked() {
    let mut bench = Bench::wanting("lds", &["A", "B"]);
    let whole = |specs: &[&str]| Update { whole: true, ..with("lds", "", specs) };
    bench.apply(whole(&["A1", "B1"]));
    bench.want(ONE, "lds", &["A"]);
    bench.seconds(61);
    bench.apply(whole(&["A1"]));
    assert_eq!(bench.shows("lds"), "A1 B1", "nobody asked for B");
    bench.want(ONE, "lds", &["A", "B"]);
    assert_eq!(bench.awaits("lds"), "B");
    bench.apply(whole(&["A2"]));
    assert_eq!((bench.shows("lds"), bench.awaits("lds")), ("A2 B1".into(), "B".into()));
    bench.apply(whole(&["A2", "B2"]));
    assert_eq!((bench.shows("lds"), bench.awaits("lds")), ("A2 B2".into(), "".into()));
}

#[test]
fn complete_once_the_wildcard_is_answered() {
    let mut bench = Bench::wanting("cds", &["*"]);
    bench.apply(update("cds", ""));
    assert!(!bench.served("cds").complete);
    assert_eq!(bench.apply(Update { answers_wildcard: true, ..update("cds", "") }), [1]);
    assert!(bench.served("cds").complete);
    bench.lose();
    assert!(bench.served("cds").complete);
}

#[test]
fn aliases_resolve() {
    let mut bench = Bench::wanting("cds", &["a1"]);
    let aliased = |aliases: &[&str]| Resource { aliases: names(aliases), ..resource("cds", "A1") };
    bench.apply(removing("cds", &["a1"]));
    assert_eq!(bench.shows("cds"), "a1-");
    bench.apply(Update { resources: vec![aliased(&["a1", "a2"])], ..update("cds", "") });
    assert_eq!(bench.shows("cds"), "A1", "the alias is absent no more");
    let served = bench.served("cds");
    assert_eq!(served.resolve("a2").map(|entry| entry.name().to_string()).as_deref(), Some("A"));
    bench.apply(removing("cds", &["A"]));
    assert_eq!(bench.shows("cds"), "A-", "absent: it is wanted by its alias");
    assert!(bench.served("cds").resolve("a1").is_some());
    bench.apply(Update { resources: vec![aliased(&["a2"])], ..update("cds", "") });
    assert!(bench.served("cds").resolve("a1").is_none());
}

#[test]
fn globs() {
    let glob = "xdstp://a/T/foo/*";
    let (one, two) = ("xdstp://a/T/foo/b", "xdstp://a/T/foo/c");
    let full = |name: &str| format!("{name}1");
    let mut bench = Bench::wanting("lds", &[glob]);
    bench.apply(removing("lds", &[glob]));
    assert_eq!(bench.shows("lds"), format!("{glob}-"));
    assert_eq!(bench.apply(with("lds", "", &[&full(one), &full(two), "xdstp://a/T/foo/q/r1"])), [1]);
    assert_eq!(bench.shows("lds"), format!("{one}1 {two}1"), "a member lifts the absence");
    bench.apply(removing("lds", &[one]));
    assert_eq!(bench.shows("lds"), format!("{two}1"));
    bench.apply(removing("lds", &[two]));
    assert_eq!(bench.shows("lds"), format!("{glob}-"), "the last one is gone: known to be empty");
    bench.apply(with("lds", "", &[&full(one)]));
    bench.apply(removing("lds", &[glob]));
    assert_eq!(bench.shows("lds"), format!("{glob}-"), "the glob takes its members with it");
}

#[test]
fn assignments_are_wanted_as_soon_as_their_cluster_is_held() {
    let mut bench = Bench::wanting("cds", &["*"]);
    let clusters = vec![cluster("a", "svc", 1), cluster("b", "", 1), cluster("c", "svc", 1), resource("cds", "d1")];
    bench.apply(Update { resources: clusters, answers_wildcard: true, ..update("cds", "") });
    assert_eq!(bench.asks("eds"), "b svc");
    assert!(bench.state.take_asks_changed());
    bench.apply(removing("cds", &["a"]));
    bench.seconds(60);
    assert_eq!(bench.asks("eds"), "b svc");
    bench.apply(removing("cds", &["c"]));
    bench.seconds(60);
    assert_eq!(bench.asks("eds"), "b");
    bench.want(ONE, "cds", &[]);
    bench.seconds(60);
    bench.reopen();
    assert_eq!(bench.asks("cds"), "");
    bench.seconds(60);
    assert_eq!(bench.asks("eds"), "", "clusters that nobody wants ask for nothing");
    bench.want(ONE, "cds", &["b"]);
    assert_eq!(bench.asks("eds"), "b");
}

#[test]
fn a_changed_cluster_makes_its_assignment_restate() {
    let setup = || {
        let mut bench = Bench::wanting("cds", &["*"]);
        bench.want(TWO, "eds", &["svc"]);
        bench.apply(Update { resources: vec![cluster("a", "svc", 1)], ..update("cds", "") });
        assert_eq!(bench.restates(), "", "not held yet: there will be an answer");
        bench.apply(with("eds", "", &["svc1"]));
        bench.apply(Update { resources: vec![cluster("a", "svc", 2)], ..update("cds", "") });
        assert_eq!(bench.restates(), "svc");
        bench
    };
    // The upstream's own, with the same bytes.
    let mut bench = setup();
    assert_eq!(bench.apply(with("eds", "", &["svc1"])), [2]);
    assert_eq!(bench.restates(), "");
    // It does not come.
    let mut bench = setup();
    bench.state.set_rtt(Duration::from_millis(100));
    bench.apply(Update { resources: vec![cluster("n", "svc", 1)], ..update("cds", "") });
    assert_eq!(bench.pass(Duration::from_millis(349)), [0; 0]);
    assert_eq!(bench.pass(Duration::from_millis(1)), [2]);
    assert_eq!(bench.restates(), "");
    // The cluster is repeated, or the upstream is lost.
    bench.apply(Update { resources: vec![cluster("n", "svc", 1)], ..update("cds", "") });
    assert_eq!(bench.restates(), "");
    let mut bench = setup();
    bench.lose();
    assert_eq!(bench.restates(), "");
}

#[test]
fn loss_of_the_upstream_changes_nothing_but_the_reach() {
    let mut bench = Bench::wanting("cds", &["*"]);
    bench.apply(Update { answers_wildcard: true, ..with("cds", "v1", &["A1"]) });
    let before = bench.served("cds");
    bench.lose();
    assert_eq!(bench.woken(), [1]);
    assert!(Arc::ptr_eq(&before, &bench.served("cds")));
    let since = bench.now;
    bench.seconds(3);
    let reason: Arc<str> = "10.0.0.1:15010: connection refused".into();
    bench.state.stream_lost(bench.now, reason.clone());
    assert_eq!(bench.state.served().upstream, Reach::Silent { since, reason: reason.clone() });
    // A stream that dies without a word does not start the time anew.
    bench.open();
    assert_eq!(bench.state.served().upstream, Reach::Answering);
    bench.state.stream_lost(bench.now, reason.clone());
    assert_eq!(bench.state.served().upstream, Reach::Silent { since, reason });
    bench.open();
    bench.apply(with("cds", "v1", &["A1"]));
    assert!(Arc::ptr_eq(&before, &bench.served("cds")));
}

#[test]
fn an_unanswered_ask_is_silence() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.state.asked(bench.now, &kind("eds"));
    bench.seconds(1);
    assert_eq!(bench.state.served().upstream, Reach::Answering);
    assert_eq!(bench.seconds(1), [1]);
    let Reach::Silent { since, reason } = bench.state.served().upstream.clone() else { panic!("answers") };
    assert_eq!((since, &*reason), (bench.now, "10.0.0.1:15010 has not answered an ask for eds for more than 2 s"));
    assert_eq!(bench.apply(update("eds", "")), [1]);
    assert_eq!(bench.state.served().upstream, Reach::Answering);
}

#[test]
fn a_type_that_is_never_answered_does_not_make_the_others_unreachable() {
    let mut bench = Bench::wanting("cds", &["*"]);
    bench.want(ONE, "pcds", &["*"]);
    bench.state.asked(bench.now, &kind("cds"));
    bench.state.asked(bench.now, &kind("pcds"));
    bench.seconds(1);
    bench.apply(Update { answers_wildcard: true, ..with("cds", "v1", &["A1"]) });
    bench.seconds(60);
    assert_eq!(bench.state.served().upstream, Reach::Answering);
    assert!(bench.state.is_synced(bench.now));
}

#[test]
fn a_new_group_has_no_reach_and_its_time_counts_from_the_first_want() {
    let mut bench = Bench::offline();
    bench.seconds(100);
    bench.want(ONE, "cds", &["*"]);
    let Reach::Silent { since, .. } = bench.state.served().upstream.clone() else { panic!("answers") };
    assert_eq!(since, bench.now);
}

#[test]
fn labels_follow_the_upstream_but_never_lie() {
    let mut bench = Bench::wanting("eds", &["A", "B"]);
    let mut labels = Vec::new();
    for (label, specs) in
        [("v1", vec!["A1"]), ("v1", vec!["B1"]), ("v1", vec!["A2"]), ("v2", vec!["A3"]), ("", vec!["A3"])]
    {
        bench.apply(with("eds", label, &specs));
        labels.push(bench.label("eds"));
    }
    assert_eq!(labels[0], "v1");
    assert_eq!(labels[1], "v1", "names that join are fine");
    assert!(labels[2].starts_with("v1~") && labels[2].len() == 11, "{}", labels[2]);
    assert_eq!(labels[3], "v2");
    assert_eq!(labels[4].len(), 8, "the content's hash: {}", labels[4]);
}

#[test]
fn what_is_held_is_stated_with_the_upstreams_versions() {
    let mut bench = Bench::wanting("eds", &["A", "B", "Z"]);
    let versioned = Resource { version: "7".into(), ..resource("eds", "A1") };
    bench.apply(Update { resources: vec![versioned, resource("eds", "B1")], ..update("eds", "") });
    bench.apply(removing("eds", &["Z"]));
    let held = |list: &[(&str, &str)]| -> Vec<(Name, String)> {
        list.iter().map(|&(name, version)| (name.into(), version.into())).collect()
    };
    assert_eq!(bench.state.held_versions(&kind("eds")), held(&[("A", "7"), ("B", "")]));
    // A version alone is no change, but is kept.
    let versioned = Resource { version: "8".into(), ..resource("eds", "A1") };
    assert_eq!(bench.apply(Update { resources: vec![versioned], ..update("eds", "") }), [0; 0]);
    bench.want(ONE, "eds", &["A"]);
    bench.seconds(60);
    assert_eq!(bench.state.held_versions(&kind("eds")), held(&[("A", "8")]), "B is not subscribed");
}

#[test]
fn the_settle_window_counts_from_changes_that_may_refer() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.want(ONE, "rds", &["R"]);
    bench.seconds(5);
    bench.apply(with("eds", "", &["A1"]));
    assert_eq!(bench.state.served().unsettled, Moment::START);
    bench.apply(with("rds", "", &["R1"]));
    let at = bench.now;
    assert_eq!(bench.state.served().unsettled, at);
    bench.seconds(5);
    bench.apply(with("rds", "v2", &["R1"]));
    assert_eq!(bench.state.served().unsettled, at);
}

#[test]
fn workloads_come_under_other_names() {
    let mut bench = Bench::wanting("address", &["/10.0.0.1"]);
    let pod = Resource { aliases: names(&["/10.0.0.1"]), ..resource("address", "pod1") };
    bench.apply(Update { resources: vec![pod, resource("address", "service1")], ..update("address", "") });
    assert_eq!(bench.shows("address"), "pod1 service1");
}

#[test]
fn the_report_tells() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.state.asked(bench.now, &kind("eds"));
    assert_eq!(bench.state.report(bench.now).types[0].confirmed, None);
    bench.apply(with("eds", "v1", &["A1"]));
    bench.seconds(3);
    let report = bench.state.report(bench.now);
    assert_eq!((report.types[0].resources, &*report.types[0].label, report.types[0].synced), (1, "v1", true));
    assert_eq!(report.types[0].confirmed, Some(Duration::from_secs(3)));
    bench.state.heard(bench.now);
    bench.lose();
    bench.seconds(5);
    let report = bench.state.report(bench.now);
    assert_eq!((report.types[0].confirmed, report.types[0].synced), (Some(Duration::from_secs(5)), false));
    assert_eq!(bench.state.explain(&kind("eds"), &"B".into()).unwrap().holds, Holds::Nothing);
    assert_eq!(bench.state.explain(&kind("rds"), &"B".into()), None);
}

#[test]
fn a_group_at_rest_keeps_its_content_and_nothing_else() {
    let mut bench = Bench::wanting("cds", &["*", "Z"]);
    bench.want(ONE, "eds", &["svc", "Z"]);
    bench.apply(Update { resources: vec![cluster("a", "svc", 1)], answers_wildcard: true, ..update("cds", "") });
    bench.apply(removing("cds", &["Z"]));
    bench.apply(Update { removed: names(&["Z"]), ..with("eds", "", &["svc1"]) });
    bench.state.leave(bench.now, ONE);
    bench.lose();
    bench.state.stream_closed(bench.now);
    assert_eq!((bench.asks("cds"), bench.asks("eds")), ("".into(), "".into()));
    assert_eq!(bench.shows("eds"), "svc1", "what is absent is not known for ever");
    assert_eq!(bench.state.deadline(bench.now), None);
    // Somebody comes, and is served while the stream opens.
    bench.want(ONE, "eds", &["svc"]);
    assert_eq!((bench.awaits("eds"), bench.asks("eds")), ("".into(), "svc".into()));
    bench.open();
    bench.seconds(3600);
    assert_eq!((bench.shows("cds"), bench.shows("eds")), ("".into(), "svc1".into()));
}
