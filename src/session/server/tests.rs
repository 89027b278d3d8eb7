use super::*;
use crate::content::{Body, Edit, ServedType, Tree, entry::Attributes};
use crate::proto::discovery as wire;
use crate::xds::ask::Change;
use prost::Message;
use std::time::Duration;

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// A stream with the group it reads, and a hand on the clock.
struct Bench {
    store: Arc<Store>,
    served: Served,
    session: ServerSession,
    now: Moment,
    last: BTreeMap<String, u64>,
}

impl Bench {
    fn new(variant: Variant) -> Self {
        let mut session = ServerSession::new(Scope::Aggregated, variant, Arc::default());
        session.join(Granted::default());
        let now = Moment::from_start(Duration::from_secs(100));
        Self { store: Store::new(), served: Served::default(), session, now, last: BTreeMap::new() }
    }

    fn world(&mut self, url: &str, label: &str, edits: &[(&str, &str)]) {
        let type_url = TypeUrl::new(url);
        let mut of = self.served.of(&type_url).map(|of| (**of).clone()).unwrap_or_default();
        let edits: Vec<Edit> = edits
            .iter()
            .map(|(name, content)| match *content {
                "-" => Edit::Remove((*name).into()),
                "absent" => Edit::Put(self.store.entry((*name).into(), Body::Absent, Attributes::default())),
                content => {
                    let blob = self.store.blob(&type_url, &cluster(name, content));
                    Edit::Put(self.store.entry((*name).into(), Body::Resource(blob), Attributes::default()))
                }
            })
            .collect();
        of.tree = self.store.edit(&of.tree, edits);
        of.complete = true;
        of.label = label.into();
        if type_url.unsettles() {
            self.served.unsettled = self.now;
        }
        self.served.types.insert(type_url, Arc::new(of));
        self.session.offer(self.now, &Arc::new(self.served.clone()));
    }

    fn ask(&mut self, url: &str, nonce: &str, change: Change) -> HeardKind {
        let node = self.session.node.is_none().then(|| Bytes::from_static(b"\x0a\x02n1"));
        let ask = Ask { node, type_url: url.into(), nonce: nonce.into(), change, ..Ask::default() };
        self.session.handle_ask(self.now, ask, &self.store).unwrap().kind
    }

    fn ack(&mut self, url: &str, change: Change) -> HeardKind {
        let nonce = self.last.get(url).copied().unwrap_or_default().to_string();
        self.ask(url, &nonce, change)
    }

    /// Everything the session says now, one text a response.
    fn said(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(output) = self.session.poll_output(self.now, &self.store) {
            match output {
                Output::Want(_) | Output::Own => {}
                Output::Close(rejection) => said.push(format!("end {}", rejection.code)),
                Output::Send(response) => {
                    self.session.written(self.now);
                    self.last.insert(response.type_url.as_str().into(), response.nonce);
                    said.push(text(&response));
                }
            }
        }
        said
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
    }
}

fn cluster(name: &str, content: &str) -> Vec<u8> {
    let mut out = Writer::default();
    out.string(1, name);
    out.varint(2, 3);
    out.string(100, content);
    out.finish().to_vec()
}

fn text(response: &Response) -> String {
    let message = [response.prefix("test"), response.frame.body.clone()].concat();
    let short = response.type_url.short();
    let content = |value: &Bytes| {
        let name = crate::xds::wire::first_string(value, 1).unwrap();
        name + &crate::xds::wire::first_string(value, 100).unwrap()
    };
    if response.variant == Variant::Sotw {
        let read = wire::DiscoveryResponse::decode(&message[..]).unwrap();
        let mut names: Vec<String> = read.resources.iter().map(|any| content(&any.value)).collect();
        names.sort();
        return format!("{short} {} {}", read.version_info, names.join(" "));
    }
    let read = wire::DeltaDiscoveryResponse::decode(&message[..]).unwrap();
    let mut names: Vec<String> =
        read.resources.iter().map(|resource| content(&resource.resource.as_ref().unwrap().value)).collect();
    names.extend(read.removed_resources.iter().map(|name| format!("-{name}")));
    names.sort();
    format!("{short} {} {}", read.system_version_info, names.join(" "))
}

fn list(names: &[&str]) -> Change {
    Change::Replace(Named { names: names.iter().map(|name| (*name).into()).collect(), variants: vec![] })
}

fn delta(subscribe: &[&str], unsubscribe: &[&str], initial: &[(&str, String)]) -> Change {
    let named = |names: &[&str]| Named { names: names.iter().map(|name| (*name).into()).collect(), variants: vec![] };
    Change::Delta {
        subscribe: named(subscribe),
        unsubscribe: named(unsubscribe),
        initial: initial.iter().map(|(name, version)| ((*name).into(), version.clone())).collect(),
    }
}

#[test]
fn sotw_states_the_whole_of_a_full_state_type() {
    let mut bench = Bench::new(Variant::Sotw);
    bench.ask(CDS, "", list(&[]));
    assert_eq!(bench.said(), Vec::<String>::new(), "cold: held");
    bench.world(CDS, "v1", &[("A", "1"), ("B", "1")]);
    assert_eq!(bench.said(), ["cds v1 A1 B1"]);
    assert_eq!(bench.ack(CDS, list(&[])), HeardKind::Ack { received: Some(Moment::START) });
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.world(CDS, "v2", &[("A", "2")]);
    bench.world(CDS, "v3", &[("A", "3")]);
    assert_eq!(bench.said(), ["cds v3 A3 B1"]);
    bench.world(CDS, "v4", &[("A", "4")]);
    assert_eq!(bench.said(), Vec::<String>::new(), "the turn is open");
    bench.pass(Duration::from_secs(5));
    assert_eq!(bench.said(), ["cds v4 A4 B1"]);
}

#[test]
fn removals_wait_for_routes() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("X", "1")]);
    bench.world(RDS, "v1", &[("r", "x")]);
    bench.ask(CDS, "", delta(&[], &[], &[]));
    bench.ask(RDS, "", delta(&["r"], &[], &[]));
    assert_eq!(bench.said(), ["cds v1 X1", "rds v1 rx"]);
    bench.ack(CDS, delta(&[], &[], &[]));
    bench.ack(RDS, delta(&[], &[], &[]));
    bench.pass(Duration::from_secs(1));
    bench.world(CDS, "v2", &[("X", "-"), ("Y", "1")]);
    let said = bench.said();
    assert!(said.len() == 1 && said[0].starts_with("cds v2~") && said[0].ends_with(" Y1"), "{said:?}");
    bench.ack(CDS, delta(&[], &[], &[]));
    bench.pass(Duration::from_millis(100));
    bench.world(RDS, "v2", &[("r", "y")]);
    assert_eq!(bench.said(), ["rds v2 ry"]);
    bench.pass(Duration::from_millis(300));
    assert_eq!(bench.said(), Vec::<String>::new(), "the route is not acknowledged");
    bench.ack(RDS, delta(&[], &[], &[]));
    assert_eq!(bench.said(), ["cds v2 -X"]);
}

#[test]
fn delta_answers_beside_an_open_turn() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(EDS, "v1", &[("A", "1"), ("B", "1"), ("Z", "absent")]);
    bench.ask(EDS, "", delta(&["A"], &[], &[]));
    assert_eq!(bench.said(), ["eds v1 A1"]);
    bench.world(EDS, "v2", &[("A", "2")]);
    bench.ask(EDS, "", delta(&["B", "Z"], &[], &[]));
    assert_eq!(bench.said().len(), 1);
    bench.ask(EDS, "1", delta(&[], &[], &[]));
    assert_eq!(bench.said(), ["eds v2 A2"]);
    bench.ack(EDS, delta(&["A"], &[], &[]));
    assert_eq!(bench.said(), ["eds v2 A2"], "asked again");
}

#[test]
fn a_reconnect_gets_what_differs() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("A", "1"), ("C", "1")]);
    let version = bench.served.of(&TypeUrl::new(CDS)).unwrap().tree.get("A").unwrap().id().version();
    bench.ask(CDS, "", delta(&[], &[], &[("A", version.clone()), ("B", "1".into())]));
    assert_eq!(bench.said(), ["cds v1 -B C1"]);
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("A", "1")]);
    bench.ask(CDS, "", delta(&[], &[], &[("A", version)]));
    assert_eq!(bench.said(), ["cds v1 "], "an answer is mandatory");
}

#[test]
fn what_is_dropped_under_a_cold_wildcard_is_not_removed() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("A", "1"), ("B", "1")]);
    let type_url = TypeUrl::new(CDS);
    let full = bench.served.of(&type_url).unwrap().clone();
    let version = |name: &str| full.tree.get(name).unwrap().id().version();
    let stated = [("A", version("A")), ("B", version("B"))];
    let cold = ServedType { complete: false, tree: Tree::default(), ..ServedType::clone(&full) };
    bench.served.types.insert(type_url.clone(), cold.into());
    bench.session.offer(bench.now, &Arc::new(bench.served.clone()));
    bench.ask(CDS, "", delta(&["*", "B"], &[], &stated));
    bench.ask(CDS, "", delta(&[], &["B"], &[]));
    assert_eq!(bench.said(), Vec::<String>::new(), "there is no word on it yet");
    bench.served.types.insert(type_url, full);
    bench.session.offer(bench.now, &Arc::new(bench.served.clone()));
    assert_eq!(bench.said(), ["cds v1 B1"], "C-062: it is named either way");
}

#[test]
fn a_mention_that_waits_goes_with_its_wildcard() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("B", "1")]);
    let type_url = TypeUrl::new(CDS);
    let full = bench.served.of(&type_url).unwrap().clone();
    let cold = ServedType { complete: false, tree: Tree::default(), ..ServedType::clone(&full) };
    bench.served.types.insert(type_url.clone(), cold.into());
    bench.session.offer(bench.now, &Arc::new(bench.served.clone()));
    for change in [delta(&["*", "B"], &[], &[]), delta(&[], &["B"], &[]), delta(&[], &["*"], &[])] {
        bench.ask(CDS, "", change);
    }
    bench.served.types.insert(type_url, full);
    bench.session.offer(bench.now, &Arc::new(bench.served.clone()));
    assert!(bench.said().iter().all(|said| !said.contains('B')), "C-079: nothing of what is not subscribed");
}

#[test]
fn a_cold_glob_takes_nothing_away() {
    const GLOB: &str = "xdstp://a/envoy.config.cluster.v3.Cluster/d/*";
    const MEMBER: &str = "xdstp://a/envoy.config.cluster.v3.Cluster/d/m";
    for version in ["foreign", "0123456789abcdef0123456789abcdef"] {
        let mut bench = Bench::new(Variant::Delta);
        bench.ask(CDS, "", delta(&[GLOB], &[], &[(MEMBER, version.into())]));
        let cold = ServedType::default();
        bench.served.types.insert(TypeUrl::new(CDS), cold.into());
        bench.session.offer(bench.now, &Arc::new(bench.served.clone()));
        assert_eq!(bench.said(), Vec::<String>::new());
        bench.pass(Duration::from_secs(10));
        assert_eq!(bench.said(), Vec::<String>::new(), "there is no word on the glob");
        bench.world(CDS, "v1", &[(GLOB, "absent")]);
        assert!(bench.said().concat().contains(&format!("-{MEMBER}")));
    }
}

#[test]
fn what_was_said_while_a_wildcard_was_cold_is_not_forgotten() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("B", "1"), ("C", "1")]);
    let type_url = TypeUrl::new(CDS);
    let full = bench.served.of(&type_url).unwrap().clone();
    let version = full.tree.get("B").unwrap().id().version();
    bench.world(CDS, "v0", &[("B", "absent"), ("C", "-")]);
    let cold = ServedType { complete: false, ..ServedType::clone(bench.served.of(&type_url).unwrap()) };
    bench.served.types.insert(type_url.clone(), cold.into());
    bench.session.offer(bench.now, &Arc::new(bench.served.clone()));
    bench.ask(CDS, "", delta(&["*", "B"], &[], &[("B", version)]));
    assert_eq!(bench.said(), ["cds v0 -B"]);
    bench.ack(CDS, delta(&[], &[], &[]));
    bench.served.types.insert(type_url, full);
    bench.session.offer(bench.now, &Arc::new(bench.served.clone()));
    assert_eq!(bench.said(), ["cds v1 B1 C1"], "it states what it had before it was told");
}

#[test]
fn a_version_of_another_replica_waits_two_seconds() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("A", "1")]);
    bench.ask(CDS, "", delta(&[], &[], &[("A", "0".repeat(32))]));
    assert_eq!(bench.said(), ["cds v1 "]);
    bench.ack(CDS, delta(&[], &[], &[]));
    assert_eq!(bench.session.deadline(), Some(bench.now + Duration::from_secs(2)));
    bench.pass(Duration::from_secs(2));
    assert_eq!(bench.said(), ["cds v1 A1"]);
}

#[test]
fn a_changed_cluster_brings_its_assignment_again() {
    for variant in [Variant::Delta, Variant::Sotw] {
        let mut bench = Bench::new(variant);
        let (all, some) = match variant {
            Variant::Delta => (delta(&[], &[], &[]), delta(&["A"], &[], &[])),
            Variant::Sotw => (list(&[]), list(&["A"])),
        };
        bench.world(CDS, "v1", &[("A", "1")]);
        bench.world(EDS, "v1", &[("A", "e")]);
        bench.ask(CDS, "", all.clone());
        bench.ask(EDS, "", some.clone());
        assert_eq!(bench.said(), ["cds v1 A1", "eds v1 Ae"]);
        let plain = if variant == Variant::Delta { delta(&[], &[], &[]) } else { some };
        bench.ack(CDS, all);
        bench.ack(EDS, plain);
        bench.world(CDS, "v2", &[("A", "2")]);
        assert_eq!(bench.said(), ["cds v2 A2", "eds v1 Ae"], "{variant:?}");
    }
}

#[test]
fn one_stream_asks_for_so_many_types() {
    let mut bench = Bench::new(Variant::Delta);
    let mut ask = |number: usize| {
        let node = Some(Bytes::from_static(b"\x0a\x02n1"));
        let ask = Ask { node, type_url: format!("type.googleapis.com/t{number}"), ..Ask::default() };
        bench.session.handle_ask(bench.now, ask, &bench.store)
    };
    assert!((0..64).all(|number| ask(number).is_ok()));
    assert!(ask(3).is_ok());
    assert_eq!(ask(64).map(|_| ()).map_err(|rejection| rejection.reason), Err("types"));
}

#[test]
fn a_wildcard_taken_up_again_forgets_no_removal() {
    let mut bench = Bench::new(Variant::Delta);
    bench.ask(CDS, "", delta(&["*"], &[], &[]));
    bench.world(CDS, "v1", &[("A", "1"), ("B", "1")]);
    assert_eq!(bench.said(), ["cds v1 A1 B1"]);
    bench.ack(CDS, delta(&[], &[], &[]));
    bench.world(CDS, "v2", &[("B", "-")]);
    assert_eq!(bench.said(), Vec::<String>::new(), "withheld");
    bench.ask(CDS, "", delta(&["*"], &[], &[]));
    let mut said = bench.said();
    bench.pass(Duration::from_secs(6));
    said.extend(bench.said());
    assert!(said[0].ends_with("A1"), "{said:?}");
    assert!(said.last().unwrap().ends_with("-B"), "{said:?}");
}

impl Bench {
    /// What is served another process held, and the upstream has not spoken.
    fn recalled(&mut self, url: &str, yes: bool) {
        let type_url = TypeUrl::new(url);
        let of = self.served.of(&type_url).unwrap();
        let recalled = if yes { of.tree.clone() } else { Tree::default() };
        let of = ServedType { recalled, recalled_set: yes, ..ServedType::clone(of) };
        self.served.types.insert(type_url, of.into());
        self.session.offer(self.now, &Arc::new(self.served.clone()));
    }
}

#[test]
fn what_another_process_held_takes_nothing_and_replaces_nothing() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(CDS, "v1", &[("A", "1"), ("B", "1"), ("N", "1"), ("O", "absent")]);
    bench.recalled(CDS, true);
    let version = bench.served.of(&TypeUrl::new(CDS)).unwrap().tree.get("B").unwrap().id().version();
    let newer = || "0".repeat(32);
    let stated = [("A", newer()), ("B", version), ("O", newer()), ("X", newer()), ("Y", "1".into())];
    bench.ask(CDS, "", delta(&[], &[], &stated));
    assert_eq!(bench.said(), ["cds v1 N1"], "what it lacks it gets");
    bench.ack(CDS, delta(&[], &[], &[]));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.said(), Vec::<String>::new(), "C-118: the upstream has not spoken");
    bench.recalled(CDS, false);
    assert_eq!(bench.said(), ["cds v1 -O -X -Y A1"], "now it has");
}

#[test]
fn names_that_another_process_held_wait_for_the_upstream() {
    let mut bench = Bench::new(Variant::Delta);
    bench.world(EDS, "v1", &[("A", "1"), ("B", "1")]);
    bench.recalled(EDS, true);
    bench.ask(EDS, "", delta(&["A", "B"], &[], &[("A", "0".repeat(32))]));
    assert_eq!(bench.said(), ["eds v1 B1"]);
    bench.ack(EDS, delta(&[], &[], &[]));
    bench.pass(Duration::from_secs(600));
    assert_eq!(bench.said(), Vec::<String>::new());
    bench.recalled(EDS, false);
    assert_eq!(bench.said(), ["eds v1 A1"]);
}

#[test]
fn a_whole_set_of_another_process_waits_where_the_client_knows_better() {
    for (stated, served) in [("", true), ("v1", true), ("v2", false)] {
        for url in [CDS, EDS] {
            let mut bench = Bench::new(Variant::Sotw);
            bench.world(url, "v1", &[("A", "1")]);
            bench.recalled(url, true);
            let names = if url == EDS { vec!["A"] } else { vec![] };
            let ask = Ask {
                node: Some(Bytes::from_static(b"\x0a\x02n1")),
                type_url: url.into(),
                version_info: stated.into(),
                change: list(&names),
                ..Ask::default()
            };
            bench.session.handle_ask(bench.now, ask, &bench.store).unwrap();
            assert_eq!(bench.said().len(), usize::from(served), "{url} {stated:?}");
            bench.pass(Duration::from_secs(600));
            assert_eq!(bench.said().len(), 0, "{url} {stated:?}");
            bench.recalled(url, false);
            assert_eq!(bench.said().len(), usize::from(!served), "{url} {stated:?}");
        }
    }
}
