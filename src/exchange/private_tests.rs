//! What must not be kept, and the groups of one stream for it.

use super::core::GroupState;
use super::tests::{Bench, ONE, TWO, kind, removing, resource, update, with};
use super::{Exchange, Member, Waker};
use crate::clock::Clock;
use crate::content::Store;
use crate::group::GroupKey;
use crate::session::{Pass, Passed, Update};
use crate::xds::envelope::Resource;
use crate::xds::{Timing, TypeUrl};
use bytes::Bytes;
use futures_util::FutureExt;
use std::sync::Arc;

fn uncached(short: &str, spec: &str) -> Resource {
    Resource { do_not_cache: true, ..resource(short, spec) }
}

fn of(resources: Vec<Resource>) -> Update {
    Update { resources, ..update("eds", "v1") }
}

impl Bench {
    fn private() -> Self {
        let mut bench = Self::offline();
        bench.state = GroupState::private(bench.now, bench.store.clone(), &Timing::default());
        bench.open();
        bench
    }

    fn apart(&self) -> Vec<String> {
        self.served("eds").apart.iter().map(|name| name.to_string()).collect()
    }
}

#[test]
fn what_must_not_be_kept_is_neither_held_nor_asked_for_again() {
    let mut bench = Bench::wanting("eds", &["A", "B"]);
    assert_eq!(bench.apply(of(vec![uncached("eds", "A1"), resource("eds", "B1")])), [1], "who wants it is told");
    assert_eq!((bench.shows("eds"), bench.asks("eds")), ("B1".into(), "B".into()));
    assert_eq!(bench.apart(), ["A"]);
    bench.want(TWO, "eds", &["A"]);
    assert_eq!(bench.asks("eds"), "B", "nor for another");
    bench.want(ONE, "eds", &["B"]);
    bench.want(TWO, "eds", &[]);
    bench.seconds(61);
    assert!(bench.apart().is_empty(), "when nobody wants it that is forgotten too");
    bench.want(TWO, "eds", &["A"]);
    assert_eq!(bench.asks("eds"), "A B");
    bench.apply(with("eds", "v2", &["A2"]));
    assert_eq!((bench.shows("eds"), bench.apart().len()), ("A2 B1".into(), 0), "it may be kept now");
    bench.apply(of(vec![uncached("eds", "A2")]));
    assert_eq!(bench.shows("eds"), "B1", "and now it may not");
}

#[test]
fn a_wildcard_tells_what_must_not_be_kept_and_what_is_gone() {
    let mut bench = Bench::wanting("eds", &["*"]);
    bench.apply(Update { answers_wildcard: true, ..of(vec![uncached("eds", "A1"), resource("eds", "B1")]) });
    assert_eq!((bench.apart(), bench.shows("eds")), (vec!["A".to_owned()], "B1".into()));
    bench.want(TWO, "eds", &["A"]);
    bench.want(TWO, "eds", &[]);
    bench.seconds(100);
    assert_eq!(bench.apart(), ["A"], "the wildcard covers it still");
    assert_eq!(bench.apply(removing("eds", &["A"])), [1]);
    assert!(bench.apart().is_empty());
}

#[test]
fn nothing_outlives_its_subscription_in_a_private_group() {
    let mut bench = Bench::private();
    bench.want(ONE, "eds", &["A", "B"]);
    bench.apply(of(vec![uncached("eds", "A1"), uncached("eds", "B1")]));
    assert_eq!((bench.shows("eds"), bench.apart().len()), ("A1 B1".into(), 0));
    bench.want(ONE, "eds", &["B"]);
    assert_eq!((bench.shows("eds"), bench.asks("eds")), ("B1".into(), "B".into()));
    bench.want(ONE, "eds", &["A", "B"]);
    assert_eq!(bench.shows("eds"), "B1", "it is fetched again");
    bench.lose();
    bench.seconds(100);
    assert_eq!(bench.shows("eds"), "B1", "a cut takes nothing away");
    bench.want(ONE, "eds", &[]);
    assert_eq!(bench.shows("eds"), "", "and keeps nothing");
}

#[test]
fn workloads_that_nobody_asked_for_are_gone_for_who_got_them() {
    let mut bench = Bench::private();
    bench.want(ONE, "workload", &["10.0.0.1"]);
    let asked = Resource { aliases: vec!["10.0.0.1".into()], ..resource("workload", "pod1") };
    let resources = vec![asked, resource("workload", "host1")];
    assert_eq!(bench.apply(Update { resources, ..update("workload", "") }), [1]);
    assert_eq!(bench.shows("workload"), "host1 pod1");
    assert_eq!(bench.apply(removing("workload", &["host"])), [1]);
    assert_eq!(bench.shows("workload"), "host- pod1");
    bench.seconds(200);
    bench.apply(with("workload", "", &["other1"]));
    assert_eq!(bench.shows("workload"), "other1 pod1", "everybody has seen that it is gone");
}

#[test]
fn what_is_passed_on_is_stated_until_it_is_answered() {
    let mut bench = Bench::private();
    let pass = |number, url: &str| Pass { number, type_url: TypeUrl::new(url), names: Vec::new(), error: None };
    let health = "type.googleapis.com/istio.v1.HealthInformation";
    for (number, url) in [(1, health), (2, "istio.io/debug"), (3, health)] {
        bench.state.pass(bench.now, ONE, pass(number, url));
    }
    let numbers = |bench: &Bench| bench.state.passes().iter().map(|pass| pass.number).collect::<Vec<_>>();
    assert_eq!(numbers(&bench), [2, 3], "the newest health information counts");
    bench.reopen();
    let answer = Passed { number: 2, resources: Vec::new(), received: bench.now };
    bench.state.passed(bench.now, answer.clone());
    bench.state.passed(bench.now, answer);
    assert_eq!((bench.woken(), numbers(&bench)), (vec![1], vec![3]));
    assert_eq!(bench.state.take_passed().len(), 1, "a second answer is none");
}

#[test]
fn what_is_never_answered_is_given_up() {
    let mut bench = Bench::private();
    let pass = Pass { number: 1, type_url: TypeUrl::new("istio.io/debug"), names: Vec::new(), error: None };
    bench.state.pass(bench.now, ONE, pass);
    bench.seconds(29);
    assert_eq!((bench.state.passes().len(), bench.state.take_passed().len()), (1, 0));
    assert_eq!(bench.seconds(2), [1], "its stream is told");
    let answers = bench.state.take_passed();
    assert_eq!((bench.state.passes().len(), answers.len()), (0, 1));
    assert!(answers[0].resources.is_empty());
}

#[test]
fn a_group_where_nothing_is_apart_any_more_says_so() {
    let mut bench = Bench::wanting("eds", &["A"]);
    bench.apply(of(vec![uncached("eds", "A1")]));
    assert!(bench.state.served().apart);
    bench.apply(with("eds", "v2", &["A2"]));
    assert!(!bench.state.served().apart);
}

#[tokio::test]
async fn one_owner_has_no_more_than_its_share() {
    let exchange = Exchange::new(Store::new(), Timing::default(), Clock::manual());
    exchange.limit_private(40);
    let mut places: Vec<_> = std::iter::from_fn(|| exchange.try_place("greedy")).collect();
    assert_eq!((places.len(), exchange.most_private_of_one()), (16, 16));
    let mut next = Box::pin(exchange.next_place("greedy"));
    assert!((&mut next).now_or_never().is_none());
    assert!(exchange.try_place("other").is_some(), "there is room for others");
    places.pop();
    assert!(next.now_or_never().flatten().is_some());
    drop(places);
    assert!(exchange.try_place("greedy").is_some());
}

fn join(exchange: &Arc<Exchange>) -> Member {
    let waker: Waker = Arc::new(|| {});
    let (of, place) = (GroupKey::new("shop;x"), exchange.try_place("x").expect("a place"));
    exchange.join_private(&of, place, Bytes::from_static(b"node").into(), None, waker)
}

#[tokio::test]
async fn a_private_group_is_found_by_nobody_and_goes_with_its_stream() {
    let exchange = Exchange::new(Store::new(), Timing::default(), Clock::manual());
    exchange.limit_private(2);
    let (one, two) = (join(&exchange), join(&exchange));
    assert_ne!(one.group().key(), two.group().key());
    assert_eq!((one.group().key().base(), GroupKey::new("shop;x").base()), ("shop;x", "shop;x"));
    let (key, handle) = (one.group().key().clone(), one.group().clone());
    assert!(exchange.group(&key).is_some() && exchange.groups().is_empty());
    assert!(exchange.try_place("x").is_none());
    let mut next = Box::pin(exchange.next_place("x"));
    assert!((&mut next).now_or_never().is_none());
    drop(one);
    assert!(exchange.group(&key).is_none() && handle.is_idle(), "its upstream stream is to end");
    assert!(next.now_or_never().flatten().is_some(), "the place is free");
    let names = |group: &super::GroupHandle| format!("{group:?} {:?}", group.report());
    assert!(!names(two.group()).contains("node") && kind("sds").short() == "sds");
}

/// The clock of the exchange looks after private groups too.
#[tokio::test]
async fn a_stream_is_woken_when_what_it_passed_is_given_up() {
    let clock = Clock::manual();
    let exchange = Exchange::new(Store::new(), Timing::default(), clock.clone());
    tokio::spawn(exchange.clone().run());
    let woken = Arc::new(tokio::sync::Notify::new());
    let tell = woken.clone();
    let (of, place) = (GroupKey::new("shop;x"), exchange.try_place("x").expect("a place"));
    let node = Bytes::from_static(b"node");
    let member = exchange.join_private(&of, place, node.into(), None, Arc::new(move || tell.notify_one()));
    member.group().stream_opened("10.0.0.1:15010".into());
    member.pass(Pass { number: 1, type_url: TypeUrl::new("istio.io/debug"), names: Vec::new(), error: None });
    let given_up = async {
        loop {
            clock.advance(std::time::Duration::from_secs(1));
            tokio::task::yield_now().await;
            // Only who is woken looks.
            if woken.notified().now_or_never().is_some() {
                let answers = member.take_passed();
                if !answers.is_empty() {
                    return answers;
                }
            }
        }
    };
    let answers = tokio::time::timeout(std::time::Duration::from_secs(20), given_up).await.expect("an answer");
    assert_eq!((answers.len(), answers[0].number, answers[0].resources.len()), (1, 1, 0));
    assert!(clock.now() >= crate::xds::Moment::from_start(std::time::Duration::from_secs(30)), "not before its time");
}
