use super::*;
use crate::content::{Body, entry::Attributes};
use crate::session::server::{Output, Rejection, Scope, Waiting};
use crate::xds::Name;
use crate::xds::ask::Named;
use crate::xds::envelope::{Payload, Resource};
use bytes::Bytes;
use std::time::Duration;

const SDS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const WDS: &str = "type.googleapis.com/istio.workload.Workload";
const HEALTH: &str = "type.googleapis.com/istio.v1.HealthInformation";
const DEBUG: &str = "istio.io/debug";

struct Bench {
    store: Arc<Store>,
    session: ServerSession,
    group: Served,
    own: Served,
    now: Moment,
    nonces: Vec<u64>,
}

impl Bench {
    fn new(variant: Variant, granted: Granted) -> Self {
        let mut session = ServerSession::new(Scope::Aggregated, variant, Arc::default());
        session.join(granted);
        let now = Moment::from_start(Duration::from_secs(100));
        let (group, own) = Default::default();
        Self { store: Store::new(), session, group, own, now, nonces: Vec::new() }
    }

    fn ask(&mut self, url: &str, subscribe: &[&str], unsubscribe: &[&str]) -> HeardKind {
        let named = |names: &[&str]| Named { names: names.iter().map(|&name| name.into()).collect(), variants: vec![] };
        let change = match self.session.variant {
            Variant::Sotw => Change::Replace(named(subscribe)),
            Variant::Delta => {
                Change::Delta { subscribe: named(subscribe), unsubscribe: named(unsubscribe), initial: vec![] }
            }
        };
        let node = self.session.node.is_none().then(|| Bytes::from_static(b"\x0a\x02n1"));
        let ask = Ask { node, type_url: url.into(), change, ..Ask::default() };
        self.session.handle_ask(self.now, ask, &self.store).unwrap().kind
    }

    fn made(&self, of: Option<&Arc<ServedType>>, url: &str, edits: &[&str], apart: &[&str]) -> Arc<ServedType> {
        let type_url = TypeUrl::new(url);
        let mut of = of.map(|of| (**of).clone()).unwrap_or_default();
        let entry = |spec: &&str| {
            let (name, content) = spec.split_at(spec.len() - 1);
            let body = match content {
                "-" => Body::Absent,
                _ => Body::Resource(self.store.blob(&type_url, spec.as_bytes())),
            };
            Edit::Put(self.store.entry(name.into(), body, Attributes::default()))
        };
        of.tree = self.store.edit(&of.tree, edits.iter().map(entry));
        of.complete = true;
        of.apart = self.store.names(apart.iter().map(|&name| name.into()).collect());
        of.into()
    }

    /// The group serves `A1`, and says that `apart` must not be kept.
    fn group(&mut self, url: &str, edits: &[&str], apart: &[&str]) {
        let type_url = TypeUrl::new(url);
        let made = self.made(self.group.of(&type_url), url, edits, apart);
        self.group.apart |= !apart.is_empty();
        self.group.types.insert(type_url, made);
        self.session.offer(self.now, &Arc::new(self.group.clone()));
    }

    fn own(&mut self, url: &str, edits: &[&str]) {
        let type_url = TypeUrl::new(url);
        let made = self.made(self.own.of(&type_url), url, edits, &[]);
        self.own.types.insert(type_url, made);
        self.session.offer_own(&Arc::new(self.own.clone()));
    }

    /// Everything that is said, `+A1 -B`; each response is acknowledged.
    fn said(&mut self) -> String {
        let mut said = Vec::new();
        while let Some(output) = self.session.poll_output(self.now, &self.store) {
            match output {
                Output::Want(want) => said.push(format!("want {}", show(&want))),
                Output::Own => {}
                Output::Close(Rejection { message, .. }) => {
                    said.push(format!("end: {message}"));
                    break;
                }
                Output::Send(response) => {
                    self.session.written(self.now);
                    self.nonces.push(response.nonce);
                    said.push(text(&response));
                    let ack = Ask {
                        type_url: response.type_url.as_str().into(),
                        nonce: response.nonce.to_string(),
                        change: match response.variant {
                            Variant::Sotw => {
                                let star = |state: &TypeState| state.subscription.wildcard().then(|| Name::from("*"));
                                let state = self.session.types.get(&response.type_url);
                                let names = state.into_iter().flat_map(|state| {
                                    star(state).into_iter().chain(state.subscription.names().iter().cloned())
                                });
                                Change::Replace(Named { names: names.collect(), variants: vec![] })
                            }
                            Variant::Delta => Change::Delta {
                                subscribe: Named::default(),
                                unsubscribe: Named::default(),
                                initial: vec![],
                            },
                        },
                        ..Ask::default()
                    };
                    let kind = self.session.handle_ask(self.now, ack, &self.store).unwrap().kind;
                    assert!(matches!(kind, HeardKind::Ack { .. }), "{kind:?}");
                }
            }
        }
        said.join("; ")
    }

    fn demands(&mut self) -> String {
        let demand = |demand| match demand {
            Demand::Want(want) => show(&want),
            Demand::Pass(pass) => format!("pass {} {}", pass.type_url.short(), pass.number),
        };
        std::iter::from_fn(|| self.session.next_demand()).map(demand).collect::<Vec<_>>().join("; ")
    }
}

fn show(want: &Want) -> String {
    let star = want.wildcard.then_some("*");
    let names: Vec<_> = star.into_iter().chain(want.names.iter().map(|name| &**name)).collect();
    format!("{} [{}]", want.type_url.short(), names.join(" "))
}

/// `sds A1 -B`: payloads as they are.
fn text(response: &Response) -> String {
    use crate::xds::envelope::Envelope;
    let message = response.frame.body.clone();
    let read = match response.variant {
        Variant::Sotw => Envelope::read_sotw(message),
        Variant::Delta => Envelope::read_delta(message),
    };
    let read = read.unwrap();
    let mut parts = vec![response.type_url.short().to_owned()];
    let value =
        |resource: &Resource| resource.payload.as_ref().map(|of| String::from_utf8_lossy(&of.value).into_owned());
    let mut resources: Vec<_> = read.resources.iter().filter_map(value).collect();
    resources.sort();
    parts.extend(resources);
    parts.extend(read.removed.iter().map(|name| format!("-{name}")));
    parts.join(" ")
}

fn secrets_apart() -> Granted {
    Granted { private: vec![TypeUrl::new(SDS)], ..Granted::default() }
}

#[test]
fn secrets_of_a_shared_group_are_asked_in_a_private_one() {
    let mut bench = Bench::new(Variant::Delta, secrets_apart());
    bench.group(CDS, &["a1"], &[]);
    bench.ask(CDS, &["*"], &[]);
    bench.ask(SDS, &["key"], &[]);
    assert_eq!(bench.said(), "want cds [*]; cds a1", "the group is not told of the secret");
    assert!(bench.session.needs_own());
    assert_eq!(bench.demands(), "sds [key]");
    // Whatever the group had of the type is not this stream's.
    bench.group(SDS, &["key9"], &[]);
    assert_eq!(bench.said(), "");
    bench.own(SDS, &["key1"]);
    assert_eq!(bench.said(), "sds key1");
    bench.own(SDS, &["key2", "other1"]);
    assert_eq!(bench.said(), "sds key2");
    bench.group(CDS, &["a2"], &[]);
    assert_eq!(bench.said(), "cds a2", "the group goes on as ever");
    let report = bench.session.report(bench.now);
    let why: Vec<_> = report.iter().map(|of| of.private).collect();
    assert_eq!(why, [None, Some(Why::Sensitive)]);
    // Nothing of it, once it is given up.
    bench.ask(SDS, &[], &["key"]);
    assert_eq!((bench.said(), bench.demands(), bench.session.needs_own()), (String::new(), "sds []".into(), false));
    bench.session.leave_own();
    assert!(bench.session.private.is_none(), "it is as it was before");
}

#[test]
fn another_node_asks_anew_and_keeps_what_it_has() {
    let mut bench = Bench::new(Variant::Delta, secrets_apart());
    bench.ask(SDS, &["key"], &[]);
    bench.demands();
    bench.own(SDS, &["key1"]);
    bench.group(CDS, &[], &[]);
    assert_eq!(bench.said(), "sds key1");
    bench.session.join(secrets_apart());
    assert_eq!((bench.said(), bench.demands()), (String::new(), "sds [key]".into()));
    bench.own(SDS, &["key1"]);
    assert_eq!(bench.said(), "", "the same is not sent again");
    bench.session.join(Granted { refused: vec![TypeUrl::new(SDS)], ..Granted::default() });
    assert_eq!((bench.demands(), bench.session.needs_own()), (String::new(), false), "it may not ask any more");
}

#[test]
fn workloads_move_between_the_group_and_a_private_one() {
    let mut bench = Bench::new(Variant::Delta, Granted::default());
    bench.group(WDS, &["a1", "b1"], &[]);
    bench.ask(WDS, &["*"], &["*"]);
    assert_eq!(bench.said(), "want workload []; workload", "nothing is asked for, and that is said");
    bench.ask(WDS, &["10.0.0.1"], &[]);
    assert_eq!((bench.said(), bench.demands()), ("want workload []".into(), "workload [10.0.0.1]".into()));
    bench.own(WDS, &["a1", "x1"]);
    assert_eq!(bench.said(), "workload a1 x1", "whatever name it has, it is for the one who asked");
    bench.own(WDS, &["x-"]);
    assert_eq!(bench.said(), "workload -x");
    bench.ask(WDS, &["*"], &["10.0.0.1"]);
    assert_eq!(
        (bench.said(), bench.demands()),
        ("want workload [*]; workload a1 b1 -10.0.0.1".into(), "workload []".into())
    );
}

#[test]
fn names_that_must_not_be_kept_stand_beside_the_others() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut bench = Bench::new(variant, Granted::default());
        bench.group(EDS, &["A1"], &["B", "C"]);
        bench.ask(EDS, &["A", "B"], &[]);
        assert_eq!((bench.said(), bench.demands()), ("want eds [A B]; eds A1".into(), "eds [B]".into()), "{variant:?}");
        bench.own(EDS, &["B1"]);
        assert_eq!(bench.said(), "eds B1");
        bench.group(EDS, &["A2"], &["B", "C"]);
        assert_eq!(bench.said(), "eds A2");
        assert_eq!(bench.session.report(bench.now)[0].private, Some(Why::DoNotCache));
    }
}

#[test]
fn the_private_groups_word_on_its_name_counts_until_it_takes_it_back() {
    let mut bench = Bench::new(Variant::Delta, Granted::default());
    bench.group(CDS, &["A1"], &["B"]);
    bench.ask(CDS, &["*"], &[]);
    assert_eq!((bench.said(), bench.demands()), ("want cds [*]; cds A1".into(), "cds [B]".into()));
    bench.own(CDS, &["B2"]);
    assert_eq!(bench.said(), "cds B2");
    // The group's stream tells of an older removal.
    bench.group(CDS, &[], &[]);
    bench.now = bench.now + Duration::from_secs(20);
    assert_eq!((bench.said(), bench.demands()), (String::new(), String::new()));
    bench.own(CDS, &["B-"]);
    bench.now = bench.now + Duration::from_secs(20);
    assert_eq!((bench.said(), bench.demands()), ("cds -B".into(), "cds []".into()));
    bench.group(CDS, &[], &["B"]);
    bench.said();
    bench.own(CDS, &["B3"]);
    assert_eq!(bench.said(), "cds B3");
    // Its stream may never say so.
    bench.group(CDS, &[], &[]);
    assert_eq!(bench.said(), "");
    bench.own.upstream = Reach::Silent { since: bench.now, reason: "cut".into() };
    bench.own(CDS, &[]);
    bench.now = bench.now + Duration::from_secs(600);
    assert_eq!((bench.said(), bench.session.deadline()), (String::new(), None), "a cut takes nothing away");
    (bench.own.upstream, bench.own.upstream_since) = (Reach::Answering, bench.now);
    bench.own(CDS, &[]);
    assert_eq!(bench.said(), "");
    let until = bench.session.deadline().unwrap();
    assert_eq!(until, bench.now + Duration::from_secs(60));
    bench.now = until;
    assert_eq!((bench.said(), bench.demands()), ("cds -B".into(), "cds []".into()));
    assert_eq!(bench.session.deadline(), None);
    // What stays goes with the group.
    bench.group(CDS, &[], &["B"]);
    bench.said();
    bench.group(CDS, &[], &[]);
    bench.said();
    assert!(bench.session.deadline().is_some());
    bench.session.leave_own();
    assert_eq!(bench.session.deadline(), None);
    bench.own(CDS, &["B3"]);
    bench.group(CDS, &[], &["B"]);
    bench.said();
    // It may be kept again.
    bench.group(CDS, &["B4"], &[]);
    assert_eq!((bench.said(), bench.demands()), ("cds B4".into(), "cds []".into()));
}

#[test]
fn a_name_that_is_no_longer_kept_is_not_removed_meanwhile() {
    for (variant, first, changed) in
        [(Variant::Delta, "cds A1 B1", "cds B2"), (Variant::Sotw, "cds A1 B1", "cds A1 B2")]
    {
        let mut bench = Bench::new(variant, Granted::default());
        bench.group(CDS, &["A1", "B1"], &[]);
        bench.ask(CDS, &["*"], &[]);
        assert_eq!(bench.said(), format!("want cds [*]; {first}"));
        let type_url = TypeUrl::new(CDS);
        let mut of = (**bench.group.of(&type_url).unwrap()).clone();
        of.tree = bench.store.edit(&of.tree, [Edit::Remove("A".into())]);
        bench.group.types.insert(type_url, of.into());
        bench.group(CDS, &["B2"], &["A"]);
        assert_eq!((bench.said(), bench.demands()), (changed.to_owned(), "cds [A]".into()), "{variant:?}");
        bench.own(CDS, &["A-"]);
        bench.now = bench.now + Duration::from_secs(20);
        let gone = if variant == Variant::Delta { "cds -A" } else { "cds B2" };
        assert_eq!(bench.said(), gone, "{variant:?}");
    }
}

#[test]
fn a_first_whole_set_waits_for_what_must_not_be_kept() {
    let mut bench = Bench::new(Variant::Sotw, Granted::default());
    bench.group(CDS, &["B1"], &["A"]);
    bench.ask(CDS, &["*"], &[]);
    assert_eq!((bench.said(), bench.demands()), ("want cds [*]".into(), "cds [A]".into()));
    bench.own(CDS, &["A1"]);
    assert_eq!(bench.said(), "cds A1 B1");
}

#[test]
fn a_first_whole_set_does_not_wait_for_ever() {
    let waiting = || {
        let mut bench = Bench::new(Variant::Sotw, Granted::default());
        bench.group(CDS, &["B1"], &["A"]);
        bench.ask(CDS, &["*"], &[]);
        assert_eq!(bench.said(), "want cds [*]");
        bench
    };
    // Who could lose it by a set without it is told to come again.
    let mut bench = waiting();
    bench.own.upstream = Reach::Silent { since: bench.now, reason: "no place".into() };
    bench.session.offer_own(&Arc::new(bench.own.clone()));
    assert_eq!(bench.said(), "");
    assert!(bench.session.deadline().is_some());
    bench.now = bench.now + Duration::from_secs(6);
    assert_eq!(bench.said(), "end: no place");
    // A control plane that answers, and not for this one, does not hold up the others.
    let mut bench = waiting();
    bench.own.upstream = Reach::Silent { since: bench.now, reason: "none yet".into() };
    bench.session.offer_own(&Arc::new(bench.own.clone()));
    assert_eq!(bench.said(), "");
    (bench.own.upstream, bench.own.upstream_since) = (Reach::Answering, bench.now);
    bench.session.offer_own(&Arc::new(bench.own.clone()));
    assert_eq!(bench.said(), "");
    bench.now = bench.session.deadline().unwrap();
    assert_eq!(bench.said(), "cds B1");
    bench.own(CDS, &["A1"]);
    assert_eq!(bench.said(), "cds A1 B1");
}

#[test]
fn who_asked_for_debug_once_is_as_fast_as_before() {
    let mut bench = Bench::new(Variant::Sotw, Granted { debug: true, ..Granted::default() });
    bench.group(CDS, &[], &[]);
    bench.ask(DEBUG, &["syncz"], &[]);
    bench.demands();
    bench.session.hear_passed(Passed { number: 1, resources: Vec::new(), received: bench.now });
    assert_eq!(bench.said(), "debug");
    assert!(bench.session.private.is_none());
}

#[test]
fn an_error_that_is_passed_on_is_cut() {
    let long = "ü".repeat(5000);
    assert_eq!((cut(&long).len(), cut("short")), (MOST_ERROR, "short"));
}

#[test]
fn who_finds_no_place_is_told_why_and_goes_on() {
    let mut bench = Bench::new(Variant::Delta, secrets_apart());
    bench.group(CDS, &["a1"], &[]);
    bench.ask(CDS, &["*"], &[]);
    bench.ask(SDS, &["key"], &[]);
    bench.own.upstream = Reach::Silent { since: bench.now, reason: "no place".into() };
    bench.session.offer_own(&Arc::new(bench.own.clone()));
    assert_eq!(bench.said(), "want cds [*]; cds a1");
    bench.now = bench.now + Duration::from_secs(60);
    bench.group(CDS, &["a2"], &[]);
    assert_eq!(bench.said(), "cds a2");
    let report = bench.session.report(bench.now);
    let waiting = report[1].waiting.as_ref().map(|(waiting, _)| waiting.clone());
    assert_eq!(waiting, Some(Waiting::Upstream(Some("no place".into()))));
    // Without anything else to serve it is as a cold group whose upstream is away.
    let mut bench = Bench::new(Variant::Delta, secrets_apart());
    bench.group(CDS, &[], &[]);
    bench.ask(SDS, &["key"], &[]);
    bench.own.upstream = Reach::Silent { since: bench.now, reason: "no place".into() };
    bench.session.offer_own(&Arc::new(bench.own.clone()));
    assert_eq!(bench.said(), "");
    bench.now = bench.now + Duration::from_secs(6);
    assert_eq!(bench.said(), "end: no place");
}

#[test]
fn health_and_debug_are_passed_on_for_who_may() {
    let granted = Granted { health: true, debug: true, ..Granted::default() };
    let mut bench = Bench::new(Variant::Delta, granted.clone());
    bench.group(CDS, &[], &[]);
    assert_eq!(bench.ask(HEALTH, &[], &[]), HeardKind::Ignored);
    bench.ask(DEBUG, &["syncz"], &[]);
    assert_eq!(bench.demands(), "pass health 1; pass debug 2");
    let payload = Payload { type_url: DEBUG.into(), value: Bytes::from_static(b"{}") };
    let resources = vec![Resource { name: Some("syncz".into()), payload: Some(payload), ..Resource::default() }];
    let passed = Passed { number: 2, resources, received: bench.now };
    bench.session.hear_passed(passed.clone());
    assert_eq!(bench.said(), "debug {}", "one answer, acknowledged as others are");
    bench.session.hear_passed(passed);
    assert_eq!(bench.said(), "", "and no second one");
    assert!(bench.session.needs_own(), "health information stays stated");
    bench.session.join(granted);
    assert_eq!(bench.demands(), "pass health 1", "to a new group too");
    bench.session.join(Granted::default());
    assert_eq!((bench.demands(), bench.session.needs_own()), (String::new(), false));
    for _ in 0..100 {
        bench.ask(DEBUG, &["syncz"], &[]);
    }
    assert!(!bench.session.needs_own(), "who may not is not heard");
}

#[test]
fn a_stream_asks_for_so_many_debug_answers_at_once() {
    let mut bench = Bench::new(Variant::Sotw, Granted { debug: true, ..Granted::default() });
    for _ in 0..100 {
        bench.ask(DEBUG, &["syncz"], &[]);
    }
    assert_eq!(bench.demands().split("; ").count(), MOST_DEBUG);
}

#[test]
fn no_text_for_debugging_shows_what_is_in_it() {
    let mut bench = Bench::new(Variant::Delta, secrets_apart());
    bench.ask(SDS, &["key"], &[]);
    bench.own(SDS, &["hunter2"]);
    bench.said();
    let payload = Payload { type_url: DEBUG.into(), value: Bytes::from_static(b"hunter2") };
    let resources = vec![Resource { payload: Some(payload), ..Resource::default() }];
    let passed = Passed { number: 1, resources, received: bench.now };
    let frame = passed_frame(Variant::Delta, &TypeUrl::new(DEBUG), &passed);
    let name: Name = "hunter".into();
    let texts = [format!("{:?}", bench.session), format!("{passed:?}"), format!("{frame:?}")];
    for text in texts {
        assert!(!text.contains("hunter2") && !text.contains(&format!("{:?}", b"hunter2")), "{text}");
    }
    assert!(format!("{:?}", bench.session).contains(&*name), "the name may be told");
}
