//! The rules of one group, each as a small story. The bench speaks names: one
//! resource `A1` is the name `A` with content `1`.

use super::core::{GroupState, MemberId};
use super::report::{Holds, Subscription};
use crate::content::{Body, Reach, ServedType, Store};
use crate::session::{Update, Want};
use crate::xds::envelope::{Payload, Resource};
use crate::xds::wire::Writer;
use crate::xds::{Moment, Name, Status, Timing, TypeUrl, code};
use std::sync::Arc;
use std::time::Duration;

const ONE: MemberId = MemberId(1);
const TWO: MemberId = MemberId(2);

struct Bench {
    now: Moment,
    store: Arc<Store>,
    state: GroupState,
}

fn kind(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).unwrap()
}

fn names(list: &[&str]) -> Vec<Name> {
    list.iter().map(|&name| name.into()).collect()
}

/// `A1`: the name without its last character, with that as content.
fn resource(short: &str, spec: &str) -> Resource {
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

fn update(short: &str, label: &str) -> Update {
    Update {
        type_url: kind(short),
        label: label.into(),
        control_plane: "".into(),
        resources: Vec::new(),
        removed: Vec::new(),
        errors: Vec::new(),
        whole: false,
        answers_wildcard: false,
        received: Moment::START,
    }
}

fn with(short: &str, label: &str, specs: &[&str]) -> Update {
    Update { resources: specs.iter().map(|spec| resource(short, spec)).collect(), ..update(short, label) }
}

fn removing(short: &str, removed: &[&str]) -> Update {
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

    fn offline() -> Self {
        let store = Store::new();
        let state = GroupState::new(Moment::START, store.clone(), Arc::default());
        Self { now: Moment::START, store, state }
    }

    /// Connected, and `ONE` wants the names.
    fn wanting(short: &str, names: &[&str]) -> Self {
        let mut bench = Self::new();
        bench.want(ONE, short, names);
        bench
    }

    fn open(&mut self) {
        self.state.stream_opened(self.now, "10.0.0.1:15010".into());
    }

    fn lose(&mut self) {
        self.state.stream_lost(self.now, "10.0.0.1:15010: connection reset".into());
    }

    /// `*` among the names is the wildcard.
    fn want(&mut self, member: MemberId, short: &str, list: &[&str]) {
        let wildcard = list.contains(&"*");
        let named = list.iter().filter(|name| **name != "*").map(|&name| name.into()).collect();
        let want = Want { type_url: kind(short), wildcard, names: self.store.names(named) };
        self.state.want(self.now, member, &want);
        self.state.take_wakes();
    }

    /// The members woken.
    fn apply(&mut self, update: Update) -> Vec<u64> {
        self.state.take_wakes();
        self.state.apply(self.now, Update { received: self.now, ..update });
        self.woken()
    }

    fn woken(&mut self) -> Vec<u64> {
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

    fn seconds(&mut self, seconds: u64) -> Vec<u64> {
        self.pass(Duration::from_secs(seconds))
    }

    fn served(&self, short: &str) -> Arc<ServedType> {
        self.state.served().of(&kind(short)).cloned().unwrap_or_default()
    }

    /// What is served, `A1 B- C?`: `-` absent, `0` without resource, `x` expired, `!` in error.
    fn shows(&self, short: &str) -> String {
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
    fn asks(&mut self, short: &str) -> String {
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
        updates.into_iter().for_each(|update| drop(bench.apply(update)));
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
