//! The shell around the groups, on a clock that stands still.

use super::{Exchange, GroupHandle, MOST_GROUPS, Member, Waker};
use crate::clock::Clock;
use crate::content::{Reach, Store};
use crate::group::GroupKey;
use crate::session::{Update, Want};
use crate::xds::envelope::{Payload, Resource};
use crate::xds::{Name, Timing, TypeUrl};
use bytes::Bytes;
use prometheus_client::registry::Registry;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

struct Bench {
    clock: Clock,
    store: Arc<Store>,
    exchange: Arc<Exchange>,
}

impl Bench {
    fn new() -> Self {
        let (clock, store) = (Clock::manual(), Store::new());
        let exchange = Exchange::new(store.clone(), Timing::default(), clock.clone());
        tokio::spawn(exchange.clone().run());
        Self { clock, store, exchange }
    }

    fn join(&self, key: &str, node: &'static str) -> (Member, Arc<AtomicUsize>) {
        let woken = Arc::new(AtomicUsize::new(0));
        let count = woken.clone();
        let waker: Waker = Arc::new(move || {
            count.fetch_add(1, Ordering::SeqCst);
        });
        (self.exchange.join(GroupKey::new(key), Bytes::from(node), waker), woken)
    }

    fn want(&self, member: &Member, name: &str) {
        let names = self.store.names(vec![name.into()]);
        member.want(Want::new(eds(), false, names));
    }

    fn update(&self, name: &str, content: &'static str) -> Update {
        let payload = Payload { type_url: eds().as_str().into(), value: content.into() };
        let resource = Resource { name: Some(name.into()), payload: Some(payload), ..Resource::default() };
        Update {
            type_url: eds(),
            label: "v1".into(),
            control_plane: "".into(),
            resources: vec![resource],
            removed: Vec::new(),
            errors: Vec::new(),
            whole: false,
            silent: Vec::new(),
            answers_wildcard: false,
            received: self.clock.now(),
        }
    }

    /// Is nothing dirty, once everything that can run has run?
    async fn is_quiet(&self) -> bool {
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        tokio::select! {
            biased;
            _ = self.exchange.next_dirty() => false,
            () = tokio::task::yield_now() => true,
        }
    }

    fn subscribed(group: &GroupHandle) -> Vec<Name> {
        group.wanted_upstream().iter().flat_map(|want| want.names.iter().cloned().collect::<Vec<_>>()).collect()
    }
}

fn eds() -> TypeUrl {
    TypeUrl::from_short("eds").unwrap()
}

/// Waits until `holds`, and fails when it does not.
async fn until(what: &str, holds: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("never: {what}");
}

#[tokio::test]
async fn interest_goes_up_and_snapshots_come_down() {
    let bench = Bench::new();
    let (one, woken) = bench.join("g", "node");
    let (two, other) = bench.join("g", "node");
    assert_eq!(bench.exchange.next_dirty().await, GroupKey::new("g"));
    bench.want(&one, "A");
    bench.want(&two, "B");
    assert_eq!(bench.exchange.next_dirty().await, GroupKey::new("g"), "one hint for both");
    assert!(bench.is_quiet().await);
    let group = bench.exchange.group(&GroupKey::new("g")).unwrap();
    assert_eq!(Bench::subscribed(&group), ["A".into(), "B".into()]);
    group.stream_opened("10.0.0.1:15010".into());
    assert_eq!(one.served().upstream, Reach::Answering);
    let (before, before_other) = (woken.load(Ordering::SeqCst), other.load(Ordering::SeqCst));
    assert_eq!(group.apply(bench.update("A", "1")).changed, 1);
    assert_eq!(woken.load(Ordering::SeqCst), before + 1);
    assert_eq!(other.load(Ordering::SeqCst), before_other, "it does not concern the other");
    assert!(two.served().of(&eds()).is_some_and(|kind| kind.tree.get("A").is_some()));
    drop(one);
    drop(two);
    assert_eq!(group.members(), 0);
    assert!(bench.is_quiet().await, "names linger");
    bench.clock.advance(Duration::from_secs(60));
    assert_eq!(bench.exchange.next_dirty().await, GroupKey::new("g"));
    assert!(Bench::subscribed(&group).is_empty());
}

#[tokio::test]
async fn timers_wake_who_waits() {
    let bench = Bench::new();
    let (member, woken) = bench.join("g", "node");
    bench.want(&member, "A");
    member.group().stream_opened("10.0.0.1:15010".into());
    member.group().asked(&eds());
    let before = woken.load(Ordering::SeqCst);
    bench.clock.advance(Duration::from_secs(2));
    until("woken by an overdue ask", || woken.load(Ordering::SeqCst) > before).await;
    assert!(matches!(member.served().upstream, Reach::Silent { .. }));
    for content in ["1", "2"].repeat(10) {
        member.group().apply(bench.update("A", content));
        member.group().asked(&eds());
        bench.clock.advance(Duration::from_secs(2));
        until("it is silent again", || matches!(member.served().upstream, Reach::Silent { .. })).await;
    }
    assert_eq!(bench.exchange.timers.lock().unwrap().len(), 1, "each replaces the one before");
}

#[tokio::test]
async fn the_newest_node_is_presented() {
    let bench = Bench::new();
    let (_one, _) = bench.join("g", "node 1");
    bench.exchange.next_dirty().await;
    let (_same, _) = bench.join("g", "node 1");
    assert!(bench.is_quiet().await);
    let (two, _) = bench.join("g", "node 2");
    assert_eq!(bench.exchange.next_dirty().await, GroupKey::new("g"));
    assert_eq!(two.group().presented().message(), "node 2");
    drop(two);
    assert!(bench.is_quiet().await);
}

#[tokio::test]
async fn a_group_without_members_goes_idle_and_is_forgotten() {
    let bench = Bench::new();
    let key = GroupKey::new("g");
    let (member, _) = bench.join("g", "node");
    let (_other, _) = bench.join("other", "node");
    let (group, live) = (bench.exchange.group(&key).unwrap(), bench.exchange.group(&GroupKey::new("other")).unwrap());
    bench.want(&member, "A");
    group.stream_opened("10.0.0.1:15010".into());
    group.apply(bench.update("A", "1"));
    drop(member);
    bench.clock.advance(Duration::from_secs(600));
    until("idle", || group.is_idle()).await;
    group.stream_closed();
    // A day in which no upstream was synced does not count.
    bench.clock.advance(Duration::from_secs(24 * 3600));
    live.stream_opened("10.0.0.1:15010".into());
    live.heard();
    tokio::task::yield_now().await;
    assert!(bench.exchange.group(&key).is_some());
    let (again, _) = bench.join("g", "node");
    assert!(!group.is_idle());
    assert!(again.served().of(&eds()).is_some_and(|kind| kind.tree.get("A").is_some()), "what was held is served");
    drop(again);
    for _ in 0..4 {
        bench.clock.advance(Duration::from_secs(12 * 3600));
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    }
    until("forgotten", || bench.exchange.group(&key).is_none()).await;
    assert!(bench.exchange.group(&GroupKey::new("other")).is_some());
}

#[tokio::test]
async fn metrics_are_bounded_and_add_up() {
    let bench = Bench::new();
    let mut registry = Registry::with_prefix("outpost");
    bench.exchange.register(&mut registry);
    for key in ["g", "h"] {
        let (member, _) = bench.join(key, "node");
        bench.want(&member, "A");
        member.group().stream_opened("10.0.0.1:15010".into());
        member.group().apply(bench.update("A", "1"));
        member.group().apply(bench.update("A", "1"));
        if key == "g" {
            std::mem::forget(member);
        }
    }
    bench.clock.advance(Duration::from_secs(3));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for line in [
        "outpost_groups 2",
        "outpost_members 1",
        "outpost_resources{type=\"eds\"} 2",
        "outpost_snapshot_age_seconds{type=\"eds\"} 3",
        "outpost_commits_total{type=\"eds\",result=\"changed\"} 2",
        "outpost_commits_total{type=\"eds\",result=\"unchanged\"} 2",
        "outpost_commit_latency_seconds_count 4",
    ] {
        assert!(text.lines().any(|other| other.starts_with(line)), "{line} is not in:\n{text}");
    }
}

#[tokio::test]
async fn a_flood_of_node_ids_does_not_fill_the_memory() {
    let bench = Bench::new();
    let (member, _) = bench.join("kept", "node");
    let (flooder, _) = bench.join("flood", "node");
    let group = flooder.group().clone();
    drop(flooder);
    for number in 0..MOST_GROUPS {
        drop(bench.join(&number.to_string(), "node"));
        if number == 0 {
            bench.clock.advance(Duration::from_millis(1));
        }
    }
    assert!(bench.exchange.groups().len() <= MOST_GROUPS);
    assert!(bench.exchange.group(member.group().key()).is_some());
    assert!(
        group.is_idle() && bench.exchange.group(group.key()).is_none(),
        "the oldest go first, and end their stream"
    );
}
