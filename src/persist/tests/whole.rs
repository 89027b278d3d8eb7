//! The cache between two exchanges: the second is the process after a restart.

use super::ram::Ram;
use super::*;
use crate::content::{NameSet, Reach, Served};
use crate::exchange::{Exchange, Member, Past};
use crate::session::{Update, Want};
use crate::xds::Timing;
use crate::xds::envelope::{Payload, Resource};
use std::io::ErrorKind;

/// One process.
struct Process {
    exchange: Arc<Exchange>,
    store: Arc<Store>,
    persist: Arc<Persist>,
    clock: Clock,
}

fn settings() -> Settings {
    Settings {
        directory: "ram".into(),
        most: MOST,
        key: None,
        cluster: "edge".into(),
        upstreams: vec!["istiod:15012".into()],
        rules: String::new(),
        sensitive: vec![TypeUrl::from_short("rtds").unwrap()],
        forget: Timing::default().group_forget,
    }
}

impl Process {
    async fn start(ram: &Ram) -> Self {
        let (clock, store) = (Clock::manual(), Store::new());
        let exchange = Exchange::new(store.clone(), Timing::default(), clock.clone());
        let disk = Arc::new(ram.clone());
        let persist = Persist::on(disk, settings(), store.clone(), clock.clone(), Metrics::default()).await;
        let known: Arc<dyn Past> = persist.clone();
        exchange.keep(Arc::downgrade(&known));
        Self { exchange, store, persist, clock }
    }

    /// A stream that wants all of CDS, and these names of EDS.
    fn join(&self, group: &str) -> Member {
        let member = self.exchange.join(GroupKey::new(group), bytes::Bytes::from_static(b"node"), Arc::new(|| {}));
        member.want(Want::new(type_of("cds"), true, Arc::default()));
        member.want(Want::new(type_of("eds"), false, self.names(&["e1", "e2"])));
        member
    }

    fn names(&self, names: &[&str]) -> Arc<NameSet> {
        self.store.names(names.iter().map(|name| (*name).into()).collect())
    }

    async fn save(&self) {
        self.persist.save(&self.exchange, false).await.unwrap();
    }
}

fn type_of(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).unwrap()
}

fn resource(of: &TypeUrl, name: &str, content: &str, do_not_cache: bool) -> Resource {
    let payload = Payload { type_url: of.as_str().into(), value: bytes::Bytes::copy_from_slice(content.as_bytes()) };
    Resource {
        name: Some(name.into()),
        version: format!("v of {content}"),
        payload: Some(payload),
        aliases: vec![],
        ttl: None,
        do_not_cache,
        constraints: None,
        extra: bytes::Bytes::new(),
    }
}

/// An answer with nothing in it.
fn update(type_url: TypeUrl) -> Update {
    Update {
        type_url,
        label: "label 1".into(),
        control_plane: "".into(),
        resources: vec![],
        removed: vec![],
        silent: vec![],
        errors: vec![],
        whole: false,
        answers_wildcard: false,
        received: Moment::START,
    }
}

/// The upstream says these.
fn say(process: &Process, member: &Member, short: &str, of: &[(&str, &str)], removed: &[&str]) {
    let type_url = type_of(short);
    let resources = of.iter().map(|(name, content)| resource(&type_url, name, content, false)).collect();
    let update = Update {
        resources,
        removed: removed.iter().map(|name| (*name).into()).collect(),
        answers_wildcard: short == "cds",
        received: process.clock.now(),
        ..update(type_url)
    };
    member.group().apply(update);
}

/// Waits for what runs beside the test.
async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..20_000 {
        if holds() {
            return;
        }
        tokio::task::yield_now().await;
        std::thread::yield_now();
    }
    panic!("{what} did not come to be");
}

fn has(served: &Served, short: &str, name: &str) -> Option<String> {
    let entry = served.of(&type_of(short))?.tree.get(name)?;
    entry.is_present().then(|| entry.id().version())
}

/// A process that was told this, and wrote it.
async fn before(ram: &Ram) -> (Process, Arc<Served>) {
    let process = Process::start(ram).await;
    let member = process.join("g");
    let group = member.group();
    group.stream_opened("istiod:15012".into());
    member.want(Want::new(type_of("sds"), false, process.names(&["s"])));
    member.want(Want::new(type_of("ecds"), false, process.names(&["x"])));
    member.want(Want::new(type_of("rtds"), false, process.names(&["r"])));
    say(&process, &member, "cds", &[("c1", "one"), ("c2", "two")], &[]);
    say(&process, &member, "eds", &[("e1", "points")], &["e2"]);
    say(&process, &member, "sds", &[("s", "PRIVATE KEY")], &[]);
    say(&process, &member, "ecds", &[("x", "PULL SECRET")], &[]);
    say(&process, &member, "rtds", &[("r", "SENSITIVE")], &[]);
    process.save().await;
    let served = member.served();
    drop(member);
    (process, served)
}

#[tokio::test]
async fn after_a_restart_a_group_serves_what_it_served() {
    let ram = Ram::default();
    let (_, served) = before(&ram).await;
    for secret in ["PRIVATE KEY", "PULL SECRET", "SENSITIVE"] {
        assert!(!ram.has(secret.as_bytes()), "{secret} is on disk");
    }
    let process = Process::start(&ram.crashed(false)).await;
    assert!(process.persist.holds(), "ready");
    let member = process.join("g");
    until("what was on disk", || has(&member.served(), "cds", "c1").is_some()).await;
    let now = member.served();
    assert!(matches!(now.upstream, Reach::Silent { .. }));
    for short in ["cds", "eds"] {
        let (a, b) = (served.of(&type_of(short)).unwrap(), now.of(&type_of(short)).unwrap());
        assert_eq!((a.tree.id(), &a.label, a.complete), (b.tree.id(), &b.label, b.complete), "{short}");
    }
    assert!(matches!(now.of(&type_of("eds")).unwrap().tree.get("e2").unwrap().body(), Body::Absent));
    for short in ["sds", "ecds", "rtds"] {
        assert!(now.of(&type_of(short)).is_none_or(|of| of.tree.is_empty()), "{short} was never written");
    }
    let report = member.group().report();
    assert!(report.restored.is_some());
    let confirmed = report.types.iter().map(|of| of.confirmed.is_some()).collect::<Vec<_>>();
    assert_eq!(confirmed[..2], [true, true], "{report:?}");
    // Nothing crosses twice.
    let held = member.group().held_versions(&type_of("cds"));
    assert_eq!(held.len(), 2);
    assert!(held.iter().any(|(name, version)| &**name == "c1" && version == "v of one"), "{held:?}");
    // What the upstream says then counts; what it does not say stays.
    member.group().stream_opened("istiod:15012".into());
    say(&process, &member, "cds", &[("c2", "other")], &[]);
    let then = member.served();
    assert_eq!(has(&then, "cds", "c1"), has(&served, "cds", "c1"));
    assert_ne!(has(&then, "cds", "c2"), has(&served, "cds", "c2"));
}

#[tokio::test]
async fn the_upstream_side_sees_a_group_when_it_is_whole() {
    let ram = Ram::default();
    before(&ram).await;
    let process = Process::start(&ram).await;
    let member = process.join("g");
    let key = process.exchange.next_dirty().await;
    assert_eq!(key.as_str(), "g");
    assert_eq!(member.group().held_versions(&type_of("cds")).len(), 2, "it is asked for what is missing only");
}

/// What is on disk may be old: with a connection the upstream is heard first, for a second.
#[tokio::test]
async fn with_a_connection_the_upstream_has_the_first_word() {
    let ram = Ram::default();
    before(&ram).await;
    for heard in [true, false] {
        let process = Process::start(&ram).await;
        let (sensitive, connected) = (Box::new(Vec::new), Box::new(|| true));
        process.persist.attach(Around { sensitive, connected });
        let member = process.join("g");
        until("what was on disk", || member.group().report().restored.is_some()).await;
        member.want(Want::new(type_of("eds"), false, process.names(&["e1"])));
        let awaits = |member: &Member| {
            let served = member.served();
            let (cds, eds) = (served.of(&type_of("cds")).unwrap(), served.of(&type_of("eds")).unwrap());
            (cds.wildcard_awaited, eds.awaited.contains("e1"))
        };
        assert_eq!(awaits(&member), (true, true));
        if heard {
            member.group().stream_opened("istiod:15012".into());
            say(&process, &member, "cds", &[], &[]);
            say(&process, &member, "eds", &[("e1", "points")], &[]);
        } else {
            tokio::spawn(process.exchange.clone().run());
            process.clock.advance(Timing::default().reconfirm);
        }
        until("it is served", || awaits(&member) == (false, false)).await;
        assert!(has(&member.served(), "cds", "c1").is_some());
    }
}

#[tokio::test]
async fn a_disk_that_cannot_be_read_holds_nobody() {
    let ram = Ram::default();
    before(&ram).await;
    let process = Process::start(&ram).await;
    ram.fail(Some(ErrorKind::Other));
    let member = process.join("g");
    let key = process.exchange.next_dirty().await;
    assert_eq!(key.as_str(), "g", "it goes on without");
    assert!(member.served().types.values().all(|of| of.tree.is_empty()));
    assert_eq!(process.persist.report().lost, 1);
    // And what is there is not written over by a group that knows nothing.
    ram.fail(None);
    process.save().await;
    let again = Process::start(&ram.crashed(false)).await;
    let member = again.join("g");
    until("what was on disk", || has(&member.served(), "cds", "c1").is_some()).await;
}

/// Knows every group, and brings none.
struct Slow;

impl Past for Slow {
    fn claims(&self, _: &GroupKey) -> bool {
        true
    }

    fn fetch(&self, _: crate::exchange::GroupHandle) {}
}

#[tokio::test]
async fn what_comes_late_is_taken_unless_the_upstream_speaks() {
    let ram = Ram::default();
    let (told, _) = before(&ram).await;
    for stands in [false, true] {
        let exchange = Exchange::new(told.store.clone(), Timing::default(), Clock::manual());
        let slow: Arc<dyn Past> = Arc::new(Slow);
        exchange.keep(Arc::downgrade(&slow));
        let process =
            Process { exchange, store: told.store.clone(), persist: told.persist.clone(), clock: Clock::manual() };
        let member = process.join("g");
        let kept = told.exchange.group(&GroupKey::new("g")).unwrap().keep();
        assert!(member.group().keep().is_none(), "it is being fetched");
        member.group().fetching_takes_long();
        assert_eq!(process.exchange.next_dirty().await.as_str(), "g", "the upstream side goes on without");
        if stands {
            member.group().stream_opened("istiod:15012".into());
        }
        member.group().fetched(kept, false);
        assert_eq!(has(&member.served(), "cds", "c1").is_some(), !stands);
        assert_eq!(member.group().report().restored.is_some(), !stands);
        if stands {
            assert!(member.group().keep().is_none(), "what is on disk is more");
            member.group().stream_lost("it never answered".into());
            assert!(has(&member.served(), "cds", "c1").is_some() && member.group().report().restored.is_some());
            assert!(member.group().keep().is_some());
        }
    }
}

/// What the upstream said and what another process held are never one state, neither in
/// memory nor on disk.
#[tokio::test]
async fn what_comes_late_is_not_put_beside_what_the_upstream_said() {
    let ram = Ram::default();
    let (told, _) = before(&ram).await;
    let exchange = Exchange::new(told.store.clone(), Timing::default(), Clock::manual());
    let slow: Arc<dyn Past> = Arc::new(Slow);
    exchange.keep(Arc::downgrade(&slow));
    let (store, persist) = (told.store.clone(), told.persist.clone());
    let process = Process { exchange, store, persist, clock: Clock::manual() };
    let member = process.join("g");
    let mut kept = told.exchange.group(&GroupKey::new("g")).unwrap().keep().unwrap();
    kept.types.retain(|of| ["cds", "eds"].contains(&of.type_url.short()));
    member.group().fetching_takes_long();
    member.group().stream_opened("istiod:15012".into());
    say(&process, &member, "cds", &[("c3", "three")], &[]);
    assert!(member.group().keep().is_none(), "it is being read still");
    member.group().stream_lost("reset".into());
    member.group().fetched(Some(kept), false);
    let served = member.served();
    assert!(has(&served, "cds", "c3").is_some() && has(&served, "cds", "c1").is_none());
    assert!(has(&served, "eds", "e1").is_none());
    assert!(member.group().keep().is_none(), "what is on disk is more");
    member.group().stream_opened("istiod:15012".into());
    say(&process, &member, "eds", &[("e1", "others")], &[]);
    assert!(member.group().keep().is_some(), "now the upstream has spoken of all of it");
}

/// A herd comes back to a slow disk: who is late is read all the same.
#[tokio::test]
async fn what_is_late_is_read_after_a_state_was_written() {
    let ram = Ram::default();
    before(&ram).await;
    let process = Process::start(&ram).await;
    let busy = process.persist.room.clone().acquire_many_owned(AT_ONCE as u32).await.unwrap();
    let member = process.join("g");
    let key = async {
        loop {
            tokio::select! {
                biased;
                key = process.exchange.next_dirty() => return key,
                () = tokio::task::yield_now() => process.clock.advance(Duration::from_millis(100)),
            }
        }
    };
    assert_eq!(key.await.as_str(), "g", "the upstream side goes on without");
    process.save().await;
    process.save().await;
    drop(busy);
    until("what was on disk", || has(&member.served(), "cds", "c1").is_some()).await;
}

#[tokio::test]
async fn a_directory_that_comes_late_is_read() {
    let ram = Ram::default();
    before(&ram).await;
    ram.fail(Some(ErrorKind::PermissionDenied));
    let process = Process::start(&ram).await;
    assert!(!process.persist.holds() && process.persist.report().problem.is_some());
    process.persist.save(&process.exchange, false).await.unwrap_err();
    ram.fail(None);
    process.save().await;
    assert!(process.persist.holds() && process.persist.report().problem.is_none());
    let member = process.join("g");
    until("what was on disk", || has(&member.served(), "cds", "c1").is_some()).await;
}

#[tokio::test]
async fn a_disk_that_fails_is_told_and_tried_again() {
    let ram = Ram::default();
    let process = Process::start(&ram).await;
    let member = process.join("g");
    member.group().stream_opened("istiod:15012".into());
    tokio::spawn(process.persist.clone().run(process.exchange.clone()));
    for kind in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem, ErrorKind::PermissionDenied] {
        ram.fail(Some(kind));
        say(&process, &member, "cds", &[("c1", &format!("{kind}"))], &[]);
        until("the failure", || {
            process.clock.advance(Duration::from_millis(100));
            process.persist.report().problem.is_some()
        })
        .await;
        let (_, text) = process.persist.report().problem.unwrap();
        assert!(text.starts_with("cannot write"), "{text}");
        assert!(has(&member.served(), "cds", "c1").is_some(), "it is served from memory");
        ram.fail(None);
        until("the next try", || {
            process.clock.advance(Duration::from_millis(100));
            process.persist.report().problem.is_none()
        })
        .await;
        let again = Process::start(&ram.crashed(false)).await;
        let member_again = again.join("g");
        until("what was on disk", || has(&member_again.served(), "cds", "c1").is_some()).await;
        assert_eq!(has(&member_again.served(), "cds", "c1"), has(&member.served(), "cds", "c1"));
    }
}

/// What was on disk is nobody's word until the upstream has spoken: a connection is none.
#[tokio::test]
async fn what_was_on_disk_is_unconfirmed_until_the_upstream_speaks() {
    let ram = Ram::default();
    before(&ram).await;
    let process = Process::start(&ram).await;
    let member = process.join("g");
    until("what was on disk", || has(&member.served(), "cds", "c1").is_some()).await;
    let unconfirmed = |member: &Member| {
        let served = member.served();
        let (cds, eds) = (served.of(&type_of("cds")).unwrap(), served.of(&type_of("eds")).unwrap());
        let names = eds.recalled.iter().map(|entry| entry.name().to_string()).collect::<Vec<_>>().join(" ");
        (cds.recalled_set && !cds.recalled.is_empty(), eds.recalled_set, names)
    };
    let names = |member: &Member| unconfirmed(member).2.split(' ').count();
    assert_eq!((unconfirmed(&member).0, unconfirmed(&member).1, names(&member)), (true, true, 2));
    member.group().stream_opened("istiod:15012".into());
    assert!(unconfirmed(&member).0, "a stream has said nothing yet");
    say(&process, &member, "cds", &[("c1", "one")], &[]);
    say(&process, &member, "eds", &[("e1", "points")], &[]);
    assert_eq!(unconfirmed(&member), (false, true, "e2".into()), "of these it has spoken");
    member.group().stream_lost("reset".into());
    assert_eq!(unconfirmed(&member), (false, true, "e2".into()));
    member.group().stream_opened("istiod:15012".into());
    tokio::spawn(process.exchange.clone().run());
    say(&process, &member, "eds", &[("e1", "others")], &[]);
    process.clock.advance(Timing::default().absent);
    until("silence is an answer, with others before it", || unconfirmed(&member) == (false, false, "".into())).await;
}

/// The names are kept, so that a set without them is not taken for all there is.
#[tokio::test]
async fn of_what_must_not_be_kept_the_name_is_known_after_a_restart() {
    let ram = Ram::default();
    for rested in [false, true] {
        let process = Process::start(&ram).await;
        let member = process.join("g");
        member.group().stream_opened("istiod:15012".into());
        let resources =
            vec![resource(&type_of("cds"), "c1", "one", false), resource(&type_of("cds"), "d", "ONCE ONLY", true)];
        member.group().apply(Update { resources, answers_wildcard: true, ..update(type_of("cds")) });
        let group = member.group().clone();
        if rested {
            drop(member);
            group.stream_closed();
        }
        process.save().await;
        assert!(!ram.has(b"ONCE ONLY"));
        let again = Process::start(&ram.crashed(false)).await;
        let member = again.join("g");
        until("what was on disk", || has(&member.served(), "cds", "c1").is_some()).await;
        let served = member.served();
        let cds = served.of(&type_of("cds")).unwrap();
        assert!(cds.complete && served.apart && cds.apart.contains("d"), "rested: {rested}");
    }
}
