//! The upstream driver against tonic's own server: each test plays the
//! control plane message by message.

#[allow(unreachable_pub)]
mod upstream {
    pub mod garbled;
    pub mod gate;
    pub mod server;
}

use outpost::clock::Clock;
use outpost::config::{ClientTls, Endpoint, Speak, Upstream as Config};
use outpost::content::{Body, Reach, Served, Store};
use outpost::exchange::{Exchange, Member};
use outpost::group::GroupKey;
use outpost::session::Want;
use outpost::upstream::{EndpointReport, Keeping, Metrics, Settings, Upstream, Waits};
use outpost::xds::{Name, TypeUrl, Variant};
use prometheus_client::registry::Registry;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use upstream::garbled::{Garbled, Spoils};
use upstream::gate::Gate;
use upstream::server::{Play, Response, Server, Setup};

const MS: Duration = Duration::from_millis(1);

/// An exchange with its upstream, as `app` joins them, with short waits.
struct Relay {
    store: Arc<Store>,
    exchange: Arc<Exchange>,
    upstream: Arc<Upstream>,
    registry: Registry,
    tasks: tokio::task::JoinSet<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.tasks.abort_all();
    }
}

fn config(servers: &[&Server]) -> Config {
    let endpoint =
        |(priority, server): (usize, &&Server)| Endpoint { host: "127.0.0.1".into(), port: server.port, priority };
    Config {
        endpoints: servers.iter().enumerate().map(endpoint).collect(),
        tls: None,
        credentials: Default::default(),
        token_file: None,
        metadata: Vec::new(),
        speak: Speak::Auto,
        connections: 1,
        message_bytes: 200 << 20,
    }
}

fn settings() -> Settings {
    let waits = Waits {
        least: 10 * MS,
        most: 100 * MS,
        unreached: 100 * MS,
        healthy: Duration::from_secs(60),
        at_once: 10 * MS,
        refused: Duration::from_secs(30),
        mute: Duration::from_secs(60),
        patience: Duration::from_secs(15),
    };
    let keeping = Keeping { stagger: 10 * MS, steady: 200 * MS, ..Keeping::default() };
    Settings { waits, keeping, ..Settings::default() }
}

impl Relay {
    fn start(config: &Config, settings: Settings) -> Self {
        Self::start_by(Clock::system(), config, settings)
    }

    fn start_by(clock: Clock, config: &Config, settings: Settings) -> Self {
        let store = Store::new();
        let exchange = Exchange::new(store.clone(), settings.timing.clone(), clock.clone());
        let mut registry = Registry::with_prefix("outpost");
        let metrics = Metrics::register(&mut registry);
        let upstream = Upstream::new(config, settings, exchange.clone(), clock, metrics).unwrap();
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(exchange.clone().run());
        tasks.spawn(upstream.clone().run());
        Self { store, exchange, upstream, registry, tasks }
    }

    /// A sidecar that wants all clusters.
    fn member(&self, node: &str) -> Member {
        self.member_as(node, node)
    }

    fn member_as(&self, group: &str, node: &str) -> Member {
        let member = self.join_as(group, node);
        self.want(&member, "cds", true, &[]);
        member
    }

    fn join_as(&self, group: &str, node: &str) -> Member {
        self.exchange.join(GroupKey::new(group), upstream::server::node(node), Arc::new(|| ()))
    }

    fn want(&self, member: &Member, short: &str, wildcard: bool, names: &[&str]) {
        let names = self.store.names(names.iter().map(|name| Name::from(*name)).collect());
        member.want(Want::new(url(short), wildcard, names));
    }

    fn last_error(&self) -> String {
        self.upstream.report()[0].last_error.as_ref().map(|(_, text)| text.to_string()).unwrap_or_default()
    }
}

/// A server, and its relay with one sidecar that wants all clusters.
async fn scene() -> (Server, Relay, Member) {
    scene_of(Setup::default(), |_, _| ()).await
}

async fn scene_of(setup: Setup, change: impl FnOnce(&mut Config, &mut Settings)) -> (Server, Relay, Member) {
    let server = Server::start(setup).await;
    let (mut config, mut settings) = (config(&[&server]), settings());
    change(&mut config, &mut settings);
    let relay = Relay::start(&config, settings);
    let member = relay.member("n1");
    (server, relay, member)
}

/// The next stream, once it has acknowledged a=1.
async fn told(server: &mut Server) -> Play {
    let mut play = server.stream().await;
    play.asked().await;
    play.say(Response::new("cds").resource("a", "1").nonce("1")).await;
    play
}

fn url(short: &str) -> TypeUrl {
    TypeUrl::from_short(short).unwrap()
}

/// `name=content` of what is served, sorted.
fn shown(served: &Served, short: &str) -> Vec<String> {
    let Some(kind) = served.of(&url(short)) else { return Vec::new() };
    let mut all: Vec<_> = kind
        .tree
        .iter()
        .filter_map(|entry| match entry.body() {
            Body::Resource(blob) => Some(format!("{}={}", entry.name(), upstream::server::content(blob.value()))),
            _ => None,
        })
        .collect();
    all.sort();
    all
}

async fn eventually<T>(what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let deadline = std::time::Instant::now() + Duration::from_secs(15);
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) => assert!(std::time::Instant::now() < deadline, "{what}: not in time; last seen: {seen}"),
        }
        tokio::time::sleep(2 * MS).await;
    }
}

async fn serves(member: &Member, short: &str, want: &[&str]) {
    eventually(&format!("serves {want:?}"), || {
        let seen = shown(&member.served(), short);
        if seen == want { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delta_is_spoken_and_every_response_is_acknowledged_after_it_is_held() {
    let (mut server, relay, member) = scene().await;
    let mut play = server.stream().await;
    assert_eq!(play.variant, Variant::Delta);
    assert_eq!(play.asked().await, "cds node=n1");
    assert_eq!(play.say(Response::new("cds").resource("a", "1").nonce("n-1")).await, "cds n=n-1");
    assert_eq!(shown(&member.served(), "cds"), ["a=1"], "held before the ACK left");
    relay.want(&member, "eds", false, &["e1", "e2"]);
    assert_eq!(play.asked().await, "eds +e1,e2");
    assert_eq!(play.say(Response::new("eds").resource("e1", "1").removed("e2").nonce("n-2")).await, "eds n=n-2");
    serves(&member, "eds", &["e1=1"]).await;

    let report = relay.upstream.report();
    assert!(relay.upstream.is_connected());
    assert_eq!((report[0].streams, report[0].connections.len()), (1, 1));
    assert!(report[0].bytes_received > 0 && report[0].last_message.is_some());
    assert_eq!(report[0].variant, Some(Variant::Delta));

    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &relay.registry).unwrap();
    for line in [
        "outpost_upstream_streams{variant=\"delta\"} 1\n".to_owned(),
        "outpost_upstream_responses_total{type=\"eds\",result=\"accepted\"} 1\n".to_owned(),
        "outpost_upstream_requests_total{type=\"cds\",kind=\"ack\"} 1\n".to_owned(),
        format!("outpost_upstream_connections{{upstream=\"127.0.0.1:{}\"}} 1", server.port),
        "outpost_upstream_opens_waiting 0\n".to_owned(),
    ] {
        assert!(text.contains(&line), "{line} is not in {text}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_nobody_needs_ends_its_stream_and_opens_another_when_somebody_does() {
    let (mut server, relay, member) =
        scene_of(Setup::default(), |_, settings| settings.timing.group_idle = 50 * MS).await;
    let mut play = told(&mut server).await;
    drop(member);
    play.ended().await;
    let _member = relay.member("n1");
    assert_eq!(server.stream().await.asked().await, "cds {a:1} node=n1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_delta_is_spoken_to_in_sotw_from_then_on() {
    let (mut server, relay, first) = scene_of(Setup { delta: false, ..Setup::default() }, |_, _| ()).await;
    let mut play = server.stream().await;
    assert_eq!(play.variant, Variant::Sotw);
    assert_eq!(play.asked().await, "cds [] node=n1");
    assert_eq!(
        play.say(Response::new("cds").version("v1").resource("a", "1").resource("b", "1").nonce("1")).await,
        "cds [] v=v1 n=1"
    );
    assert_eq!(play.say(Response::new("cds").version("v2").resource("a", "2").nonce("2")).await, "cds [] v=v2 n=2");
    serves(&first, "cds", &["a=2"]).await;
    assert_eq!(server.refused(), 1);
    let _second = relay.member("n2");
    assert_eq!(server.stream().await.variant, Variant::Sotw);
    assert_eq!(server.refused(), 1, "delta is not tried again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_outlives_the_control_plane_and_what_went_meanwhile_is_told_on_return() {
    let (mut server, relay, member) = scene().await;
    let mut play = server.stream().await;
    play.asked().await;
    play.say(Response::new("cds").resource("a", "1").resource("b", "1").nonce("1")).await;
    serves(&member, "cds", &["a=1", "b=1"]).await;
    server.kill();
    eventually("the loss is seen", || if relay.upstream.is_connected() { Err("connected".into()) } else { Ok(()) })
        .await;
    eventually("the group knows", || match member.served().upstream {
        Reach::Silent { .. } => Ok(()),
        ref other => Err(format!("{other:?}")),
    })
    .await;
    assert_eq!(shown(&member.served(), "cds"), ["a=1", "b=1"]);
    server.restart().await;
    let mut play = server.stream().await;
    assert_eq!(play.asked().await, "cds {a:1,b:1} node=n1");
    assert_eq!(play.say(Response::new("cds").removed("b").resource("c", "1").nonce("1")).await, "cds n=1");
    serves(&member, "cds", &["a=1", "c=1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_end_is_a_loss_as_well() {
    let (mut server, _relay, member) = scene().await;
    let mut play = told(&mut server).await;
    play.end();
    let mut play = server.stream().await;
    assert_eq!(play.asked().await, "cds {a:1} node=n1");
    assert_eq!(shown(&member.served(), "cds"), ["a=1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_response_is_refused_by_name_and_the_old_state_kept() {
    let (mut server, relay, member) = scene().await;
    let mut play = told(&mut server).await;
    play.send(Response::new("cds").resource("a", "2").resource("b", "1").resource("a", "3").nonce("2"));
    let nack = play.asked().await;
    assert!(nack.starts_with("cds n=2 E3 ") && nack.contains("stated twice: a"), "{nack}");
    assert_eq!(shown(&member.served(), "cds"), ["a=1"]);
    assert!(relay.last_error().contains("invalid cds response"), "{}", relay.last_error());
    assert_eq!(play.say(Response::new("cds").resource("b", "1").nonce("3")).await, "cds n=3");
    serves(&member, "cds", &["a=1", "b=1"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_beyond_the_limit_of_a_connection_go_to_another() {
    let mut server = Server::start(Setup { max_streams: Some(2), ..Setup::default() }).await;
    let relay = Relay::start(&config(&[&server]), settings());
    let _members: Vec<_> = (0..5).map(|number| relay.member(&format!("n{number}"))).collect();
    let mut plays = Vec::new();
    for _ in 0..5 {
        plays.push(server.stream().await);
    }
    let report = relay.upstream.report();
    assert_eq!((report[0].streams, report[0].connections.len()), (5, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_better_address_takes_the_streams_back_without_a_gap() {
    let (mut first, mut second) = (Server::start(Setup::default()).await, Server::start(Setup::default()).await);
    let relay = Relay::start(&config(&[&first, &second]), settings());
    let member = relay.member("n1");
    let _play = told(&mut first).await;
    first.kill();
    let mut play = second.stream().await;
    assert_eq!(play.asked().await, "cds {a:1} node=n1");
    play.say(Response::new("cds").resource("a", "2").nonce("1")).await;
    serves(&member, "cds", &["a=2"]).await;
    first.restart().await;
    let mut back = first.stream().await;
    assert_eq!(back.asked().await, "cds {a:2} node=n1");
    // The old stream still counts until the new one has answered.
    play.say(Response::new("cds").resource("a", "3").nonce("2")).await;
    serves(&member, "cds", &["a=3"]).await;
    back.say(Response::new("cds").resource("a", "4").nonce("1")).await;
    serves(&member, "cds", &["a=4"]).await;
    play.ended().await;
    let report = relay.upstream.report();
    assert_eq!((report[0].streams, report[1].streams), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_finds_the_better_address_full_stays_where_it_is() {
    let mut better = Server::start(Setup { max_streams: Some(1), ..Setup::default() }).await;
    let mut other = Server::start(Setup::default()).await;
    let keeping = Keeping { most: 1, ..settings().keeping };
    let clock = Clock::manual();
    let relay = Relay::start_by(
        clock.clone(),
        &config(&[&better, &other]),
        Settings { keeping, waits: Waits::default(), ..settings() },
    );
    let _first = relay.member("n1");
    let _stream = eventually_streams(&clock, &mut better, 1).await;
    // Down for a moment, so that the level rises and the other address is connected to.
    better.kill();
    let mut moved = eventually_streams(&clock, &mut other, 1).await;
    better.restart().await;
    let _second = relay.member("n2");
    moved.extend(eventually_streams(&clock, &mut other, 1).await);
    for play in &mut moved {
        play.asked().await;
        play.send(Response::new("cds").resource("a", "1").nonce("1"));
    }
    // One of them moves back, the other finds it full and stays.
    let mut back = eventually_streams(&clock, &mut better, 1).await;
    back[0].asked().await;
    back[0].send(Response::new("cds").resource("a", "1").nonce("1"));
    eventually("one moved back", || {
        clock.advance(10 * MS);
        let left = moved.iter_mut().map(Play::has_ended).filter(|ended| !ended).count();
        if left == 1 { Ok(()) } else { Err(format!("{left} are left")) }
    })
    .await;
    for _ in 0..100 {
        clock.advance(10 * MS);
        tokio::task::yield_now().await;
    }
    // What comes next is another's.
    let _third = relay.member("n3");
    let mut next = eventually_streams(&clock, &mut other, 1).await.remove(0);
    assert!(next.asked().await.contains("n3") && better.try_stream().is_none());
    assert_eq!(moved.iter_mut().map(Play::has_ended).filter(|ended| !ended).count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_every_connection_is_full_the_reason_says_so() {
    let mut server = Server::start(Setup { max_streams: Some(1), ..Setup::default() }).await;
    let keeping = Keeping { most: 1, ..settings().keeping };
    let relay = Relay::start(&config(&[&server]), Settings { keeping, ..settings() });
    let first = relay.member("n1");
    let _play = told(&mut server).await;
    let second = relay.member("n2");
    eventually("n2 is told why", || match &second.served().upstream {
        Reach::Silent { reason, .. } if reason.contains("are full: it allows 1 streams on each") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(matches!(first.served().upstream, Reach::Answering), "who has a stream is not concerned");
}

/// Moves the clock until so many streams came.
async fn eventually_streams(clock: &Clock, server: &mut Server, count: usize) -> Vec<Play> {
    let mut streams = Vec::new();
    eventually("streams", || {
        clock.advance(10 * MS);
        streams.extend(server.try_stream());
        if streams.len() == count { Ok(()) } else { Err(format!("{} streams", streams.len())) }
    })
    .await;
    streams
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_is_presented_before_the_old_stream_ends() {
    let mut server = Server::start(Setup::default()).await;
    let relay = Relay::start(&config(&[&server]), settings());
    let _member = relay.member_as("g", "before");
    let mut play = server.stream().await;
    assert_eq!(play.asked().await, "cds node=before");
    play.say(Response::new("cds").resource("a", "1").nonce("1")).await;
    let other = relay.member_as("g", "after");
    let mut next = server.stream().await;
    assert_eq!(next.asked().await, "cds {a:1} node=after");
    assert!(!play.has_ended());
    next.say(Response::new("cds").resource("a", "2").nonce("1")).await;
    play.ended().await;
    serves(&other, "cds", &["a=2"]).await;
}

/// A stream that presents `before`, with a=1, and a second one that presents
/// `after` and was asked for clusters and listeners.
async fn two_streams(server: &mut Server, relay: &Relay) -> (Member, Play, Play) {
    let member = relay.member_as("g", "before");
    relay.want(&member, "lds", true, &[]);
    let mut play = server.stream().await;
    assert_eq!((play.asked().await, play.asked().await), ("cds node=before".into(), "lds".into()));
    play.send(Response::new("cds").resource("a", "1").nonce("1"));
    play.send(Response::new("lds").nonce("2"));
    assert_eq!((play.asked().await, play.asked().await), ("cds n=1".into(), "lds n=2".into()));
    drop(relay.join_as("g", "after"));
    let mut next = server.stream().await;
    assert_eq!((next.asked().await, next.asked().await), ("cds {a:1} node=after".into(), "lds".into()));
    (member, play, next)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_said_beside_a_second_stream_that_fails_is_not_lost() {
    for node_changes in [false, true] {
        let mut server = Server::start(Setup::default()).await;
        let relay = Relay::start(&config(&[&server]), settings());
        let (member, mut play, mut next) = two_streams(&mut server, &relay).await;
        assert_eq!(next.say(Response::new("cds").resource("a", "2").resource("c", "2").nonce("1")).await, "cds n=1");
        serves(&member, "cds", &["a=2", "c=2"]).await;
        // Listeners are not answered: both streams stand.
        play.send(Response::new("cds").resource("b", "1").nonce("3"));
        assert_eq!(
            play.say(Response::new("lds").nonce("4")).await,
            "lds n=4",
            "clusters are held back, and not acknowledged"
        );
        assert_eq!(shown(&member.served(), "cds"), ["a=2", "c=2"]);
        let node = if node_changes { "third" } else { "after" };
        if node_changes {
            drop(relay.join_as("g", node));
            next.ended().await;
        } else {
            next.fail(tonic::Status::unavailable("going down"));
        }
        assert_eq!(play.asked().await, "cds n=3");
        serves(&member, "cds", &["a=2", "b=1", "c=2"]).await;
        // What the second one said is no word of anybody who stands.
        let mut third = server.stream().await;
        assert_eq!(third.asked().await, format!("cds {{a:2,b:1,c:2}} node={node}"));
        third.asked().await;
        third.send(Response::new("cds").resource("a", "1").removed("c").nonce("1"));
        third.say(Response::new("lds").nonce("2")).await;
        serves(&member, "cds", &["a=1", "b=1"]).await;
        play.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_old_stream_changed_before_the_new_one_answered_is_asked_again() {
    let mut server = Server::start(Setup::default()).await;
    let waits = Waits { patience: 200 * MS, ..settings().waits };
    let relay = Relay::start(&config(&[&server]), Settings { waits, ..settings() });
    let (member, mut play, mut next) = two_streams(&mut server, &relay).await;
    assert_eq!(play.say(Response::new("cds").resource("a", "2").resource("b", "2").nonce("3")).await, "cds n=3");
    serves(&member, "cds", &["a=2", "b=2"]).await;
    // By the version it was told, a is current for this node: it says nothing.
    next.send(Response::new("cds").resource("b", "3").nonce("1"));
    next.send(Response::new("lds").nonce("2"));
    play.ended().await;
    serves(&member, "cds", &["a=2", "b=3"]).await;
    let mut third = server.stream().await;
    assert_eq!(third.asked().await, "cds {a:2,b:3} node=after");
    third.asked().await;
    third.send(Response::new("cds").resource("a", "1").nonce("1"));
    third.send(Response::new("lds").nonce("2"));
    serves(&member, "cds", &["a=1", "b=3"]).await;
    next.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goaway_moves_the_stream_before_it_breaks() {
    let (mut server, _relay, member) = scene_of(Setup { max_age: Some(300 * MS), ..Setup::default() }, |_, _| ()).await;
    let mut play = told(&mut server).await;
    let mut next = server.stream().await;
    assert_eq!(next.asked().await, "cds {a:1} node=n1");
    assert!(!play.has_ended());
    next.say(Response::new("cds").nonce("1")).await;
    play.ended().await;
    assert_eq!(shown(&member.served(), "cds"), ["a=1"]);
}

/// Who looks wants to know how long it has been, not when it was last tried.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_nothing_stands_is_told() {
    let (mut server, clock) = (Server::start(Setup::default()).await, Clock::manual());
    let relay = Relay::start_by(clock.clone(), &config(&[&server]), settings());
    let _member = relay.member("n1");
    let _play = eventually_streams(&clock, &mut server, 1).await;
    let until = async |what: &str, holds: &dyn Fn(&EndpointReport) -> bool| {
        eventually(what, || {
            clock.advance(10 * MS);
            let report = relay.upstream.report().remove(0);
            if holds(&report) { Ok(report) } else { Err(format!("{report:?}")) }
        })
        .await
    };
    assert_eq!(relay.upstream.report()[0].down_since, None);
    server.kill();
    let since = until("it is lost", &|report| report.down_since.is_some()).await.down_since.unwrap();
    let later = since + Duration::from_secs(1);
    let tried = until("it is tried again", &|report| report.last_error.as_ref().is_some_and(|of| of.0 > later)).await;
    assert_eq!((tried.down_since, tried.connected_since), (Some(since), None));
    server.restart().await;
    let back = until("it stands", &|report| report.connected_since.is_some()).await;
    assert_eq!(back.down_since, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_not_asked_for_again_soon() {
    let (mut server, clock) = (Server::start(Setup::default()).await, Clock::manual());
    let relay = Relay::start_by(clock.clone(), &config(&[&server]), settings());
    let _member = relay.member("n1");
    let mut play = eventually_streams(&clock, &mut server, 1).await.remove(0);
    play.asked().await;
    play.fail(tonic::Status::permission_denied("not you"));
    eventually("the reason is shown", || {
        let seen = relay.last_error();
        if seen.contains("PERMISSION_DENIED: not you") { Ok(()) } else { Err(seen) }
    })
    .await;
    // Every other wait of this test's settings is far shorter.
    let (refused, step) = (settings().waits.refused, Duration::from_secs(25));
    clock.advance(step);
    let other = relay.member("n2");
    let mut next = eventually_streams(&clock, &mut server, 1).await.remove(0);
    assert!(next.asked().await.contains("n2"), "who was refused waits");
    drop(other);
    clock.advance(refused);
    let mut again = eventually_streams(&clock, &mut server, 1).await.remove(0);
    assert!(again.asked().await.contains("n1"), "and then tries again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_that_end_without_a_response_come_less_and_less_often() {
    let slow = |_: &mut Config, settings: &mut Settings| {
        (settings.waits.least, settings.waits.most) = (100 * MS, Duration::from_secs(30));
    };
    let (mut server, relay, _member) = scene_of(Setup::default(), slow).await;
    let end = std::time::Instant::now() + Duration::from_secs(2);
    let mut opened = 0;
    while std::time::Instant::now() < end {
        if let Some(mut play) = server.try_stream() {
            opened += 1;
            play.fail(tonic::Status::resource_exhausted("too many"));
        }
        tokio::time::sleep(MS).await;
    }
    // Waits of at most 0.1, 0.2, 0.4, ... s: four on the average, and never a loop.
    assert!((1..=20).contains(&opened), "{opened}");
    assert!(relay.upstream.admission().1 < 50.0, "the rate went down");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_no_second_connection_can_be_had_does_not_delay_the_first() {
    let mut server = Server::start(Setup::default()).await;
    let gate = Gate::start(server.port, 1).await;
    let waits = Waits { healthy: Duration::from_secs(3600), unreached: Duration::from_secs(30), ..Waits::default() };
    let endpoint = Endpoint { host: "127.0.0.1".into(), port: gate.port, priority: 0 };
    let config = Config { endpoints: vec![endpoint], connections: 2, ..config(&[]) };
    let clock = Clock::manual();
    let relay = Relay::start_by(clock.clone(), &config, Settings { waits, ..settings() });
    let _member = relay.member("n1");
    let mut first = server.stream().await;
    eventually("extra connections are tried", || {
        clock.advance(Duration::from_secs(1));
        if gate.refused() >= 10 { Ok(()) } else { Err(format!("{} refused", gate.refused())) }
    })
    .await;
    gate.cut();
    first.ended().await;
    // The first wait of the address and that of the stream end within 0.5 s of
    // the clock; the eleventh of an extra connection would take up to 30 s.
    let end = clock.now() + Duration::from_secs(1);
    eventually("another stream", || {
        if clock.now() < end {
            clock.advance(10 * MS);
        }
        server.try_stream().map(drop).ok_or_else(|| format!("{:?}", relay.last_error()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_never_says_anything_is_replaced() {
    let (mut server, clock) = (Server::start(Setup::default()).await, Clock::manual());
    let mute = 200 * MS;
    let settings = Settings { waits: Waits { mute, ..settings().waits }, ..settings() };
    let relay = Relay::start_by(clock.clone(), &config(&[&server]), settings);
    let member = relay.member("n1");
    let mut silent = eventually_streams(&clock, &mut server, 1).await.remove(0);
    let mut play = eventually_streams(&clock, &mut server, 1).await.remove(0);
    silent.ended().await;
    play.asked().await;
    play.send(Response::new("cds").resource("a", "1").nonce("1"));
    serves(&member, "cds", &["a=1"]).await;
    // One that has answered is left alone: what comes next is another's.
    for _ in 0..10 {
        clock.advance(mute / 2);
        tokio::task::yield_now().await;
    }
    let _other = relay.member("n2");
    let mut next = eventually_streams(&clock, &mut server, 1).await.remove(0);
    assert!(next.asked().await.contains("n2") && !play.has_ended());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_a_response_names_the_limit_and_makes_no_loop() {
    let (mut server, clock) = (Server::start(Setup::default()).await, Clock::manual());
    let config = Config { message_bytes: 1000, ..config(&[&server]) };
    let relay = Relay::start_by(clock.clone(), &config, settings());
    let member = relay.member("n1");
    let mut play = eventually_streams(&clock, &mut server, 1).await.remove(0);
    play.asked().await;
    play.say(Response::new("cds").resource("a", "1").nonce("1")).await;
    play.send(Response::new("cds").resource("a", &"x".repeat(2000)).nonce("2"));
    play.ended().await;
    eventually("the limit is named", || {
        let seen = relay.last_error();
        if seen.contains("beyond the limit of 1000 bytes; raise --upstream-max-message-bytes") {
            Ok(())
        } else {
            Err(seen)
        }
    })
    .await;
    assert_eq!(shown(&member.served(), "cds"), ["a=1"]);
    clock.advance(Duration::from_secs(25));
    let _other = relay.member("n2");
    let mut next = eventually_streams(&clock, &mut server, 1).await.remove(0);
    assert!(next.asked().await.contains("n2"), "the one that failed waits");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn very_many_names_are_asked_for_as_a_server_takes_them() {
    let names: Vec<String> = (0..30_000).map(|number| format!("{number:0>150}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut server = Server::start(Setup::default()).await;
    let relay = Relay::start(&config(&[&server]), settings());
    let member = relay.join_as("n1", "n1");
    relay.want(&member, "eds", false, &names);
    let mut play = server.stream().await;
    let (mut asked, mut requests) = (0, 0);
    while asked < names.len() {
        let line = play.asked().await;
        asked += line.split(' ').find_map(|part| part.strip_prefix('+')).unwrap().split(',').count();
        requests += 1;
    }
    assert_eq!((asked, requests), (30_000, 5));
    assert_eq!(play.say(Response::new("eds").resource(names[29_999], "1").nonce("1")).await, "eds n=1");
    serves(&member, "eds", &[&format!("{}=1", names[29_999])]).await;

    // SotW knows no parts.
    let mut server = Server::start(Setup { delta: false, ..Setup::default() }).await;
    let relay = Relay::start(&config(&[&server]), settings());
    let member = relay.join_as("n1", "n1");
    relay.want(&member, "eds", false, &names);
    server.stream().await;
    eventually("the size is named", || {
        let seen = relay.last_error();
        if seen.contains("for eds has 4") && seen.contains("or let it speak delta") { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_without_grpc_is_named_as_such() {
    let http1 = Server::http1().await;
    let relay = Relay::start(&config(&[&http1]), settings());
    eventually("HTTP/1 is recognised", || {
        let seen = relay.last_error();
        if seen.contains("does not speak HTTP/2") { Ok(()) } else { Err(seen) }
    })
    .await;
    let member = relay.member("n1");
    eventually("the group is told why", || match &member.served().upstream {
        Reach::Silent { reason, .. } if reason.contains("HTTP/2") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let other = Server::start(Setup { ads: false, ..Setup::default() }).await;
    let relay = Relay::start(&config(&[&other]), settings());
    let _member = relay.member("n1");
    eventually("the method is missing", || {
        let seen = relay.last_error();
        if seen.contains("UNIMPLEMENTED") { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_and_a_token_that_rotates() {
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "one").unwrap();
    let (mut server, relay, _member) = scene_of(over_tls(dir.path()), |config, _| {
        (config.tls, config.token_file) = (Some(client_tls(dir.path())), Some(token.clone()));
        config.metadata = vec![("clusterid".into(), "c1".into())];
    })
    .await;
    let mut play = server.stream().await;
    assert_eq!((play.header("authorization"), play.header("clusterid")), ("Bearer one".into(), "c1".into()));
    play.asked().await;
    std::fs::write(&token, "two").unwrap();
    play.end();
    assert_eq!(server.stream().await.header("authorization"), "Bearer two");
    assert_eq!(relay.upstream.report()[0].tls_problem, None);
}

fn over_tls(dir: &Path) -> Setup {
    Setup { tls: Some(dir.to_owned()), ..Setup::default() }
}

fn client_tls(dir: &Path) -> ClientTls {
    ClientTls {
        ca: Some(dir.join("ca.pem")),
        certificate: Some(dir.join("client.pem")),
        key: Some(dir.join("client.key")),
        server_name: Some("server.test".into()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_certificate_of_ours_moves_the_streams_to_a_new_connection() {
    let dir = tempfile::tempdir().unwrap();
    let (mut server, relay, member) = scene_of(over_tls(dir.path()), |config, settings| {
        config.tls = Some(client_tls(dir.path()));
        (settings.keeping.look, settings.keeping.renew) = (10 * MS, 20 * MS);
    })
    .await;
    let mut play = server.stream().await;
    assert_eq!(play.peer, "client.test");
    play.asked().await;
    play.say(Response::new("cds").resource("a", "1").nonce("1")).await;
    server.rotate("rotated.test");
    let mut next = server.stream().await;
    assert_eq!(next.peer, "rotated.test");
    assert_eq!(next.asked().await, "cds {a:1} node=n1");
    // The old one counts until the new one has answered.
    play.say(Response::new("cds").resource("a", "2").nonce("2")).await;
    serves(&member, "cds", &["a=2"]).await;
    next.say(Response::new("cds").resource("a", "2").nonce("1")).await;
    play.ended().await;
    eventually("one connection is left, and it stays", || {
        let report = &relay.upstream.report()[0];
        let seen = (report.streams, report.connections.len());
        if seen == (1, 1) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
    assert_eq!(relay.last_error(), "");
    assert!(server.try_stream().is_none() && !next.has_ended());
    assert!(matches!(member.served().upstream, Reach::Answering));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_authority_is_trusted_once_its_files_are_there() {
    let dir = tempfile::tempdir().unwrap();
    let tls = client_tls(dir.path());
    let (mut server, relay, _member) = scene_of(over_tls(dir.path()), |config, _| config.tls = Some(tls)).await;
    let _play = told(&mut server).await;
    server.kill();
    server.reissue();
    server.restart().await;
    assert_eq!(server.stream().await.asked().await, "cds {a:1} node=n1");
    assert_eq!(relay.upstream.report()[0].tls_problem, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compression_that_fails_is_offered_no_more() {
    for spoils in [Spoils::Messages, Spoils::Encoding] {
        let server = Garbled::start(spoils, Response::new("cds").resource("a", "1").nonce("1")).await;
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: server.port, priority: 0 };
        let relay = Relay::start(&Config { endpoints: vec![endpoint], ..config(&[]) }, settings());
        let member = relay.member("n1");
        serves(&member, "cds", &["a=1"]).await;
        assert_eq!(server.spoiled(), 1, "{spoils:?}");
        assert!(!relay.upstream.report()[0].compression);
        assert_eq!(relay.last_error(), "compression failed; it is no longer offered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn compressed_responses_are_read() {
    let (mut server, relay, member) = scene_of(Setup { gzip: true, ..Setup::default() }, |_, _| ()).await;
    let mut play = server.stream().await;
    play.asked().await;
    let long = "x".repeat(1_000_000);
    play.say(Response::new("cds").resource("a", &long).nonce("1")).await;
    serves(&member, "cds", &[&format!("a={long}")]).await;
    assert!(relay.upstream.report()[0].bytes_received < 100_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forced_variant_is_kept_to() {
    let (mut server, _relay, _member) = scene_of(Setup::default(), |config, _| config.speak = Speak::Sotw).await;
    assert_eq!(server.stream().await.variant, Variant::Sotw);
}

/// A stream that the test does not look at must not keep others from being served.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_silent_stream_holds_nobody_up() {
    let mut server = Server::start(Setup::default()).await;
    let relay = Relay::start(&config(&[&server]), settings());
    let _silent = relay.member("silent");
    let held: Play = server.stream().await;
    let member = relay.member("n1");
    let mut play = server.stream().await;
    play.asked().await;
    play.send(Response::new("cds").resource("a", "1").nonce("1"));
    serves(&member, "cds", &["a=1"]).await;
    drop(held);
}
