//! What content promises, over all of its parts: canonical tries, diffs equal to
//! a model's, ids that never change, nothing left behind.

use super::store::MEMO_BUDGET;
use super::*;
use crate::xds::envelope::{self, Envelope};
use crate::xds::{Name, Status, TypeUrl, code};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const TYPE: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";

fn cluster() -> TypeUrl {
    TypeUrl::new(TYPE)
}

fn resource(store: &Store, name: &str, value: &str) -> Arc<Entry> {
    let blob = store.blob(&cluster(), value.as_bytes());
    store.entry(name.into(), Body::Resource(blob), Attributes::default())
}

/// Name → value, as the trie should hold it.
type Model = BTreeMap<String, String>;

fn tree(store: &Store, model: &Model) -> Tree {
    store.edit(&Tree::default(), model.iter().map(|(name, value)| Edit::Put(resource(store, name, value))))
}

fn model(tree: &Tree) -> Model {
    let text = |entry: &Arc<Entry>| String::from_utf8(entry.body().blob().unwrap().value().to_vec()).unwrap();
    tree.iter().map(|entry| (entry.name().to_string(), text(entry))).collect()
}

/// Keys that meet: all in one bottom bucket, long common prefixes, or real.
fn colliding(name: &str) -> u64 {
    match name.len() % 3 {
        0 => 0x1234_5678_9abc_def0,
        1 => 0x1234_5678_9abc_0000 | name.bytes().map(u64::from).sum::<u64>(),
        _ => trie::key_of(name),
    }
}

fn stores() -> [Store; 2] {
    [Store::made(MEMO_BUDGET, trie::key_of), Store::made(MEMO_BUDGET, colliding)]
}

fn assert_empty(store: &Store) {
    store.sweep();
    store.sweep();
    let Stats { blobs, entries, nodes, name_sets, names, memo_bytes, .. } = store.stats();
    assert_eq!((blobs, entries, nodes, name_sets, names, memo_bytes), (0, 0, 0, 0, 0, 0));
}

fn edits() -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    let name = prop_oneof![3 => "[a-d]{1,4}", 1 => "[a-z]{5,9}"];
    let value = prop_oneof![3 => "[xy]".prop_map(Some), 1 => Just(None)];
    proptest::collection::vec((name, value), 0..300)
}

fn apply(model: &mut Model, edits: &[(String, Option<String>)]) {
    for (name, value) in edits {
        match value {
            Some(value) => drop(model.insert(name.clone(), value.clone())),
            None => drop(model.remove(name)),
        }
    }
}

fn to_edit(store: &Store, (name, value): &(String, Option<String>)) -> Edit {
    match value {
        Some(value) => Edit::Put(resource(store, name, value)),
        None => Edit::Remove(name.as_str().into()),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// One at a time, all at once, or straight from what is left of them: the
    /// same root. Two stores agree on the id.
    #[test]
    fn the_form_depends_on_the_entries_alone(edits in edits()) {
        for store in stores() {
            let mut want = Model::new();
            apply(&mut want, &edits);
            let at_once = store.edit(&Tree::default(), edits.iter().map(|edit| to_edit(&store, edit)));
            let mut by_one = Tree::default();
            for edit in &edits {
                by_one = store.edit(&by_one, [to_edit(&store, edit)]);
            }
            let direct = tree(&store, &want);
            prop_assert!(at_once.same(&direct) && by_one.same(&direct));
            prop_assert_eq!(model(&direct), want.clone());
            prop_assert_eq!(direct.iter().len(), want.len());
            prop_assert_eq!(direct.len(), want.len());
            let order: Vec<_> = direct.iter().map(|entry| (entry.key(), entry.name().clone())).collect();
            prop_assert!(order.is_sorted());
            for entry in direct.iter() {
                let found = direct.find(entry.key(), entry.name());
                prop_assert!(found.is_some_and(|found| Arc::ptr_eq(found, entry)));
            }
            let emptied = store.edit(&direct, want.keys().map(|name| Edit::Remove(name.as_str().into())));
            prop_assert!(emptied.is_empty() && emptied.same(&Tree::default()));
            drop((at_once, by_one, direct));
            assert_empty(&store);
        }
        let mut want = Model::new();
        apply(&mut want, &edits);
        let [one, two] = [Store::new(), Store::new()];
        prop_assert_eq!(tree(&one, &want).id(), tree(&two, &want).id());
    }

    #[test]
    fn the_diff_is_that_of_the_model(first in edits(), second in edits(), apart in any::<bool>()) {
        for store in stores() {
            let (mut before, mut after) = (Model::new(), Model::new());
            apply(&mut before, &first);
            if !apart {
                after.clone_from(&before);
            }
            apply(&mut after, &second);
            let (from, to) = (tree(&store, &before), tree(&store, &after));
            let diff = store.diff(&from, &to);
            let value = |entry: &Option<Arc<Entry>>| {
                entry.as_ref().map(|entry| String::from_utf8_lossy(entry.body().blob().unwrap().value()).into_owned())
            };
            let got: BTreeMap<_, _> =
                diff.changed.iter().map(|it| (it.name.to_string(), (value(&it.from), value(&it.to)))).collect();
            let mut want = BTreeMap::new();
            for name in before.keys().chain(after.keys()) {
                if before.get(name) != after.get(name) {
                    want.insert(name.clone(), (before.get(name).cloned(), after.get(name).cloned()));
                }
            }
            prop_assert_eq!(&got, &want);
            prop_assert_eq!(diff.changed.len(), want.len());
            let forth = diff.changed.iter().map(|it| match &it.to {
                Some(entry) => Edit::Put(entry.clone()),
                None => Edit::Remove(it.name.clone()),
            });
            prop_assert!(store.edit(&from, forth).same(&to));
            prop_assert!(from.same(&to) == (before == after));
        }
    }
}

/// The format: whoever changes one of these changes what is on disks and on
/// the wire between two Outposts.
#[test]
fn ids_never_change() {
    let store = Store::new();
    let hex = |id: &[u8; 32]| id.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let blob = store.blob(&cluster(), b"\x0a\x03web");
    let plain = store.entry("web".into(), Body::Resource(blob.clone()), Attributes::default());
    let rich = store.entry(
        "r/web".into(),
        Body::Resource(blob.clone()),
        Attributes {
            aliases: vec!["r/a".into(), "r/b".into()],
            ttl: Some(Duration::from_millis(1500)),
            do_not_cache: true,
            constraints: Some(b"\x0a\x01x".as_slice().into()),
            extra: b"\x4a\x00".as_slice().into(),
        },
    );
    let named = |body| store.entry("web".into(), body, Attributes::default());
    let error = named(Body::Error(Status::new(code::NOT_FOUND, "none")));
    let many = |count| {
        let model = (0..count).map(|number| (format!("name {number}"), "x".to_owned())).collect();
        tree(&store, &model).id()
    };
    assert_eq!(trie::key_of("web"), 1_753_408_605_208_950_099);
    let table = [
        ("blob", hex(blob.id()), "24f164b92ecd3d1df66aad6549795b7bdf90993780a256aa8f019b3da0a268ef"),
        ("entry", hex(plain.id().as_bytes()), "cdfa07966d650f1976d8c9759817170b2c3be148476861ba7ac4357a00a91e3c"),
        (
            "entry with attributes",
            hex(rich.id().as_bytes()),
            "d874afbb52f93813689d36b8a6f2fa143740e222b6f034b1c8a9506621b1cb7a",
        ),
        (
            "empty",
            hex(named(Body::Empty).id().as_bytes()),
            "d8123c44edaa57e742b33e064a6eea5fedcf57be0c93067fbb27ff68523a6479",
        ),
        (
            "absent",
            hex(named(Body::Absent).id().as_bytes()),
            "f803a66504bc3cadbbe96b45ac32cd3b63b7109b978fe87d88fb4077ae9e8fde",
        ),
        (
            "expired",
            hex(named(Body::Expired).id().as_bytes()),
            "c54dcfc4ed4ebe75049731b084e07f951e09813c3a80e3f0824c90e327c1ab94",
        ),
        ("error", hex(error.id().as_bytes()), "7a3c57373342d17c5641302c5f84e00460153b81abe971d100563207935fdf98"),
        (
            "tree of none",
            hex(&Tree::default().id()),
            "2c9615a7a021a4ae2aa81fe836729738f8412e175f011c43023064f49204cca9",
        ),
        ("tree of 1", hex(&many(1)), "b83fbe27d0c2b6b91b4c16a4cf823e5dd3b9c114ed2a5a65dab3644c0578b3ae"),
        ("tree of 16, a leaf", hex(&many(16)), "9d221ee5770164c0643985a50ada1321e2409330b3729a148de166c61d49e397"),
        ("tree of 17, a branch", hex(&many(17)), "7b590b5969f4180bd5e73dd9abce96c7ca328dcc99c14494afad52592e46b122"),
        ("tree of 1000", hex(&many(1000)), "80ffeda8cf6ff96371c9806e2727a4c88dd39f8892f8bd06aaaafe5232ec3003"),
    ];
    for (what, got, want) in table {
        assert_eq!(got, want, "{what}");
    }
    assert_eq!(plain.id().version().len(), 32);
    assert!(plain.id().is_stated_by(&hex(plain.id().as_bytes())[..32]));
    assert!(!plain.id().is_stated_by(""));
}

#[test]
fn equal_content_is_one_object() {
    let store = Store::new();
    assert!(Arc::ptr_eq(&resource(&store, "a", "x"), &resource(&store, "a", "x")));
    let (a, b) = (resource(&store, "a", "x"), resource(&store, "b", "x"));
    assert!(std::ptr::eq(a.body().blob().unwrap(), b.body().blob().unwrap()));
    assert_eq!(store.stats().blobs, 1);
    let ttl = Attributes { ttl: Some(Duration::from_secs(1)), ..Attributes::default() };
    let with_ttl = store.entry("a".into(), a.body().clone(), ttl);
    assert!(!Arc::ptr_eq(&a, &with_ttl) && a.id() != with_ttl.id());
    assert!(store.remembers(with_ttl.id().half()));
    assert!(!store.remembers(&[7; 16]));
    drop((a, b, with_ttl));
    assert_empty(&store);
}

#[test]
fn a_blob_does_not_pin_its_response() {
    let store = Store::new();
    let response = bytes::Bytes::from(vec![7; 1 << 20]);
    let part = response.slice(10..20);
    let blob = store.blob(&cluster(), &part);
    let attributes = Attributes { extra: response.slice(30..40), ..Attributes::default() };
    let entry = store.entry("a".into(), Body::Resource(blob), attributes);
    drop(part);
    assert!(response.is_unique());
    assert_eq!(entry.attributes().extra.len(), 10);
}

#[test]
fn threads_agree_and_leave_nothing() {
    let store = Store::new();
    let ids = std::thread::scope(|scope| {
        let commit = |seed: usize| {
            let store = &store;
            move || {
                let mut tree = Tree::default();
                for round in 0..2000 {
                    let name = format!("name {}", (round * (seed + 1)) % 500);
                    let entry = resource(store, &name, if round % 2 == 0 { "x" } else { "y" });
                    tree = store.edit(&tree, [Edit::Put(entry)]);
                }
                let all = (0..500).map(|number| Edit::Put(resource(store, &format!("name {number}"), "z")));
                store.edit(&tree, all)
            }
        };
        let threads: Vec<_> = (0..4).map(|seed| scope.spawn(commit(seed))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(ids.iter().all(|tree| tree.same(&ids[0])));
    drop(ids);
    assert_empty(&store);
}

#[test]
fn sets_of_names_are_shared() {
    let store = Store::new();
    let of = |names: &[&str]| store.names(names.iter().map(|&name| name.into()).collect());
    let set = of(&["b", "a", "b", ""]);
    assert!(Arc::ptr_eq(&set, &of(&["", "a", "b"])));
    assert_eq!(set.iter().map(|name| &**name).collect::<Vec<_>>(), ["", "a", "b"]);
    assert!(set.contains("a") && !set.contains("c"));
    let more = store.names_with(&set, &["c".into(), "a".into()]);
    assert!(Arc::ptr_eq(&more, &of(&["", "a", "b", "c"])));
    assert!(Arc::ptr_eq(&set, &store.names_with(&set, &["a".into()])));
    assert!(Arc::ptr_eq(&set, &store.names_without(&more, &["c".into(), "x".into()])));
    assert!(Arc::ptr_eq(&set, &store.names_without(&set, &["x".into()])));
    let tree = store.edit(&Tree::default(), [Edit::Put(resource(&store, "b", "x"))]);
    let found: Vec<_> = more.look_up(&tree).filter_map(|(name, entry)| Some((&**name, entry?.name().len()))).collect();
    assert_eq!(found, [("b", 1)]);
    drop(tree);
    drop((set, more));
    assert_empty(&store);
}

#[test]
fn a_cut_follows_names_and_aliases() {
    let store = Store::new();
    let mut edits: Vec<_> = (0..100).map(|number| Edit::Put(resource(&store, &format!("n{number}"), "x"))).collect();
    let aliases = Attributes { aliases: vec!["alias".into()], ..Attributes::default() };
    let aliased = store.entry("aliased".into(), Body::Empty, aliases);
    edits.push(Edit::Put(aliased.clone()));
    let full = store.edit(&Tree::default(), edits);
    let set = store.names(["n3", "alias", "unknown", "n77"].map(Name::from).to_vec());
    for (from, to) in [(&Tree::default(), &full), (&full, &Tree::default())] {
        let diff = store.diff(from, to);
        let cut = store.cut(&diff, &set);
        let mut names: Vec<_> = cut.iter().map(|&at| &*diff.changed[at].name).collect();
        names.sort_unstable();
        assert_eq!(names, ["aliased", "n3", "n77"]);
        assert!(Arc::ptr_eq(&cut, &store.cut(&store.diff(from, to), &set)));
    }
    let small = store.diff(&Tree::default(), &store.edit(&Tree::default(), [Edit::Put(aliased)]));
    assert_eq!(*store.cut(&small, &set), [0]);
    assert_eq!((store.stats().diffs, store.stats().cuts_spared), (3, 2));
}

#[test]
fn ten_thousand_equal_streams_cause_one_encode() {
    let store = Store::new();
    let type_url = cluster();
    let base = tree(&store, &(0..100).map(|number| (format!("n{number}"), "x".to_owned())).collect());
    let next = store.edit(&base, [Edit::Put(resource(&store, "n7", "y"))]);
    let make = || {
        let mut parts = Parts::new(type_url.clone(), Encoding::Delta);
        parts.resources = store.diff(&base, &next).changed.iter().filter_map(|it| it.to.clone()).collect();
        parts
    };
    let streams =
        || -> Vec<_> { (0..2500).map(|_| store.step_frames(&base, &next, Encoding::Delta, &type_url, make)).collect() };
    let bodies = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(streams)).collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(bodies.iter().all(|frames| Arc::ptr_eq(frames, &bodies[0])));
    assert_eq!((store.stats().encodes, store.stats().encodes_spared), (1, 9999));
    // A thousand other trees, the same change: the same bytes.
    for number in 0..1000 {
        let own = store.edit(&base, [Edit::Put(resource(&store, &format!("own {number}"), "x"))]);
        let changed = store.edit(&own, [Edit::Put(resource(&store, "n7", "y"))]);
        let frames = store.step_frames(&own, &changed, Encoding::Delta, &type_url, || {
            let mut parts = Parts::new(type_url.clone(), Encoding::Delta);
            parts.resources = store.diff(&own, &changed).changed.iter().filter_map(|it| it.to.clone()).collect();
            parts
        });
        assert!(Arc::ptr_eq(&frames, &bodies[0]));
    }
    assert_eq!(store.stats().encodes, 1);
    let other = TypeUrl::new("type.googleapis.com/other");
    let frames =
        store.step_frames(&base, &next, Encoding::Delta, &other, || Parts::new(other.clone(), Encoding::Delta));
    assert!(!Arc::ptr_eq(&frames, &bodies[0]));
    drop((frames, bodies, base, next));
    assert_empty(&store);
}

#[test]
fn the_memo_of_frames_keeps_its_budget() {
    let store = Store::with_memo_budget(1 << 20);
    for number in 0..1000 {
        let mut parts = Parts::new(cluster(), Encoding::Sotw);
        parts.resources.push(resource(&store, &format!("n{number}"), &"x".repeat(10_000)));
        store.frames(parts);
    }
    assert!(store.stats().memo_bytes <= 1 << 20);
    assert_eq!(store.stats().entries, 0);
}

/// Whatever the parts, what was written is read back, split or not.
#[test]
fn frames_say_what_their_parts_say() {
    let store = Store::new();
    let blob = store.blob(&cluster(), b"\x0a\x01a");
    let rich = Attributes {
        aliases: vec!["alias".into()],
        ttl: Some(Duration::new(3, 5)),
        do_not_cache: true,
        constraints: None,
        extra: b"\x98\x06\x01".as_slice().into(),
    };
    let ttl = store.entry("ttl".into(), Body::Resource(blob.clone()), rich);
    let entries: Vec<_> = [
        store.entry("".into(), Body::Resource(store.blob(&cluster(), b"")), Attributes::default()),
        resource(&store, "plain", &"x".repeat(300)),
        ttl.clone(),
    ]
    .into();
    for encoding in [Encoding::Delta, Encoding::Sotw, Encoding::SotwWrapped] {
        for split in [None, Some(1), Some(400), Some(1 << 20)] {
            let mut parts = Parts::new(cluster(), encoding);
            parts.resources.clone_from(&entries);
            parts.errors.push(("bad".into(), Status::new(code::NOT_FOUND, "no such")));
            parts.split = split;
            if encoding == Encoding::Delta {
                parts.removed.push("gone".into());
                parts.heartbeats.push(ttl.clone());
            }
            check(&store, &parts);
        }
    }
    assert_eq!(store.frames(Parts::new(cluster(), Encoding::Sotw)).len(), 1);
}

fn check(store: &Store, parts: &Parts) {
    let mut all = Envelope::default();
    let mut counted = (0, 0);
    let frames = store.frames(parts.clone());
    for frame in frames.iter() {
        let read = match parts.encoding {
            Encoding::Delta => Envelope::read_delta(frame.body.clone()),
            _ => Envelope::read_sotw(frame.body.clone()),
        };
        let mut read = read.unwrap();
        assert_eq!(read.type_url, TYPE);
        assert_eq!((frame.resources, frame.removed), (read.resources.len(), read.removed.len()));
        counted = (counted.0 + frame.resources, counted.1 + frame.removed);
        all.resources.append(&mut read.resources);
        all.removed.append(&mut read.removed);
        all.errors.append(&mut read.errors);
    }
    let items = parts.resources.len() + parts.heartbeats.len() + parts.removed.len() + parts.errors.len();
    match parts.split {
        Some(1) => assert_eq!(frames.len(), items),
        Some(400) => assert!(frames.len() > 1 && frames.len() < items),
        _ => assert_eq!(frames.len(), 1),
    }
    assert_eq!(counted, (parts.resources.len() + parts.heartbeats.len(), parts.removed.len()));
    assert_eq!((all.removed, all.errors), (parts.removed.clone(), parts.errors.clone()));
    for (at, (read, entry)) in all.resources.iter().zip(parts.resources.iter().chain(&parts.heartbeats)).enumerate() {
        let wrapped = entry.ttl().is_some() && parts.encoding == Encoding::SotwWrapped;
        let heartbeat = at >= parts.resources.len();
        assert_eq!(*read, expected(entry, parts.encoding == Encoding::Delta || wrapped, heartbeat));
    }
}

fn expected(entry: &Entry, enveloped: bool, heartbeat: bool) -> envelope::Resource {
    let blob = entry.body().blob().unwrap();
    let payload = envelope::Payload { type_url: TYPE.into(), value: blob.value().clone() };
    let bare = envelope::Resource { payload: (!heartbeat).then_some(payload), ..Default::default() };
    if !enveloped {
        return bare;
    }
    let attributes = entry.attributes().clone();
    envelope::Resource {
        name: Some(entry.name().clone()),
        version: entry.id().version(),
        aliases: attributes.aliases,
        ttl: attributes.ttl,
        do_not_cache: attributes.do_not_cache,
        constraints: attributes.constraints,
        extra: attributes.extra,
        ..bare
    }
}
