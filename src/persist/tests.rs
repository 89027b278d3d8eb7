//! States written and read, on a disk that fails at every step, and crashes, and rots.

mod ram;
mod whole;

use super::index::Owner;
use super::keeper::{Batch, Keeper, Saved};
use super::library::{Library, Reading};
use super::seal::Key;
use super::sink::SaveError;
use super::*;
use crate::content::entry::Attributes;
use crate::content::{Body, Edit, Tree};
use crate::exchange::{KeptLabel, KeptType};
use ram::Ram;
use std::collections::BTreeMap;
use std::io::ErrorKind;

const MOST: u64 = 1 << 30;

fn reading(ram: &Ram) -> Reading {
    let owner = Owner { cluster: "edge".into(), upstreams: vec!["istiod:15012".into()], rules: String::new() };
    Reading { disk: Arc::new(ram.clone()), key: None, owner, largest: MOST }
}

fn keeper(ram: &Ram) -> Keeper {
    Keeper::new(reading(ram), MOST)
}

/// Group → what it holds: name → content.
type State = BTreeMap<&'static str, BTreeMap<String, String>>;

/// So many names, each with this content, but for one.
fn names(count: usize, content: &str, other: &str) -> BTreeMap<String, String> {
    let each = |number| (format!("name {number}"), if number == 7 { other } else { content }.to_owned());
    (0..count).map(each).collect()
}

fn tree(store: &Store, url: &TypeUrl, of: &BTreeMap<String, String>) -> Tree {
    let put = |(name, content): (&String, &String)| {
        let attributes = match content.as_str() {
            "rich" => Attributes {
                aliases: vec![format!("alias of {name}").into()],
                ttl: Some(Duration::from_millis(1500)),
                extra: bytes::Bytes::from_static(b"\x12\x00"),
                ..Attributes::default()
            },
            _ => Attributes::default(),
        };
        let body = match content.as_str() {
            "absent" => Body::Absent,
            _ => Body::Resource(store.blob(url, format!("{content} of {name}").repeat(9).as_bytes())),
        };
        Edit::Put(store.entry(name.as_str().into(), body, attributes))
    };
    store.edit(&Tree::default(), of.iter().map(put))
}

fn kept(store: &Store, of: &BTreeMap<String, String>) -> Kept {
    let type_of = |short: &str| {
        let type_url = TypeUrl::from_short(short).unwrap();
        KeptType {
            tree: tree(store, &type_url, of),
            versions: tree(store, &type_url, &names(3, "version", "absent")),
            label: KeptLabel { current: "7".into(), shown: "7~ab".into(), diverged: true, dropped: true },
            complete: short == "cds",
            confirmed: Some(Duration::from_secs(5)),
            expires: vec![("name 7".into(), Duration::from_millis(1500))],
            apart: vec!["apart".into()],
            type_url,
        }
    };
    Kept { types: vec![type_of("cds"), type_of("eds")] }
}

fn batch(store: &Store, state: &State) -> Batch {
    let groups = state.iter().map(|(key, of)| ((*key).into(), Some(kept(store, of)))).collect();
    Batch { groups, refused: vec![], synced: true, now: SystemTime::now() }
}

fn save(keeper: &mut Keeper, store: &Store, state: &State) -> Result<Saved, SaveError> {
    keeper.save(batch(store, state))
}

/// What `group` is by what is on disk.
fn load(ram: &Ram, store: &Store, group: &str) -> Option<Kept> {
    let library = Library::open(&reading(ram)).unwrap();
    library.load(group, store, SystemTime::now()).0.map(|found| found.kept)
}

/// Which of `states` a group is, whole.
fn which(ram: &Ram, store: &Store, group: &str, states: &[&State]) -> Option<usize> {
    let found = load(ram, store, group)?;
    let is = |state: &&&State| {
        let want = state.get(group).map(|of| kept(store, of));
        want.is_some_and(|want| want.types.iter().zip(&found.types).all(|(a, b)| a.tree.same(&b.tree)))
    };
    let at = states.iter().position(|state| is(&state));
    assert!(at.is_some(), "{group} is neither");
    at
}

fn states() -> (State, State) {
    let one = [("a", names(40, "one", "rich")), ("b", names(3, "one", "absent"))].into();
    let other = [("a", names(40, "one", "two")), ("b", names(400, "two", "absent")), ("c", names(2, "x", "x"))].into();
    (one, other)
}

#[test]
fn what_was_kept_is_read() {
    let (ram, store) = (Ram::default(), Store::new());
    let (state, _) = states();
    let saved = save(&mut keeper(&ram), &store, &state).unwrap();
    assert_eq!((saved.groups, saved.generation, saved.lost), (2, 1, 0));
    let elsewhere = Store::new();
    let found = load(&ram, &elsewhere, "a").unwrap();
    let want = kept(&store, &state["a"]);
    assert_eq!(found.types.len(), 2);
    for (found, want) in found.types.iter().zip(&want.types) {
        assert_eq!((&found.type_url, &found.label, found.complete), (&want.type_url, &want.label, want.complete));
        assert_eq!((&found.apart, &*found.apart[0]), (&want.apart, "apart"));
        assert_eq!((found.tree.id(), found.versions.id()), (want.tree.id(), want.versions.id()));
        let (name, left) = &found.expires[0];
        assert!(&**name == "name 7" && *left <= Duration::from_millis(1500) && *left > Duration::from_millis(500));
        assert!(found.confirmed.is_some_and(|ago| (5..8).contains(&ago.as_secs())));
    }
    assert!(load(&ram, &elsewhere, "nobody").is_none());
}

#[test]
fn a_change_costs_what_it_changes() {
    let (ram, store) = (Ram::default(), Store::new());
    let mut keeper = keeper(&ram);
    let mut state: State = [("a", names(5000, "one", "one")), ("b", names(5000, "one", "one"))].into();
    let first = save(&mut keeper, &store, &state).unwrap().written;
    assert!((400_000..3_000_000).contains(&first), "{first}: equal content is there once");
    assert_eq!(save(&mut keeper, &store, &state).unwrap().written, 0);
    state.get_mut("b").unwrap().insert("name 9".into(), "two".into());
    let second = save(&mut keeper, &store, &state).unwrap().written;
    assert!((100..20_000).contains(&second), "{second}");
    assert_eq!(which(&ram, &store, "b", &[&state]), Some(0));
}

#[test]
fn what_is_of_the_past_goes() {
    let (ram, store) = (Ram::default(), Store::new());
    let mut keeper = keeper(&ram);
    let big = "x".repeat(20_000);
    let mut generations = std::collections::BTreeSet::new();
    for round in 0..40 {
        let state: State = [("a", names(20, &format!("{round}{big}"), "one"))].into();
        generations.insert(save(&mut keeper, &store, &state).unwrap().generation);
        assert_eq!(which(&ram, &store, "a", &[&state]), Some(0));
        assert!(ram.files().len() <= 5, "{:?}", ram.files());
    }
    assert!(generations.len() > 3, "it was written anew when most of it was of the past: {generations:?}");
    let gone = Batch { groups: vec![("a".into(), None)], ..batch(&store, &State::new()) };
    keeper.save(gone).unwrap();
    assert!(load(&ram, &store, "a").is_none(), "an older state says nothing of a group that is gone");
}

/// Every step of a save fails once: what is on disk is then the state before or the new
/// one, group by group, and the next save mends it. The same for a crash at that step.
#[test]
fn no_failure_and_no_crash_loses_a_state() {
    let (one, other) = states();
    for anew in [true, false] {
        let mut at = 0;
        loop {
            let (ram, store) = (Ram::default(), Store::new());
            let mut keeper = keeper(&ram);
            save(&mut keeper, &store, &one).unwrap();
            if anew {
                keeper = super::tests::keeper(&ram);
            }
            let before = ram.steps();
            ram.fail_after(at, if at % 2 == 0 { ErrorKind::StorageFull } else { ErrorKind::Other });
            let result = save(&mut keeper, &store, &other);
            if ram.failed() == 0 {
                result.unwrap();
                assert!(ram.steps() - before > 7, "there is much to fail");
                break;
            }
            for lucky in [true, false] {
                let after = ram.crashed(lucky);
                let elsewhere = Store::new();
                let found: Vec<_> =
                    ["a", "b"].iter().map(|group| which(&after, &elsewhere, group, &[&one, &other])).collect();
                assert_eq!(found[0], found[1], "step {at}: one state, not two");
                assert!(found[0].is_some(), "step {at}: nothing is left");
                assert!(result.is_err() || found[0] == Some(1), "step {at}: what was reported is there");
            }
            save(&mut keeper, &store, &other).unwrap();
            assert_eq!(which(&ram.crashed(false), &store, "b", &[&one, &other]), Some(1), "step {at}");
            at += 1;
        }
    }
}

/// Every byte of the newest state is flipped, and every file of it cut: each group is
/// what it was, in this state or the one before, or is not there; and never from both.
#[test]
fn no_rot_is_served() {
    let (one, other) = (State::from([("a", names(20, "one", "rich"))]), State::from([("a", names(20, "one", "two"))]));
    let (ram, store) = (Ram::default(), Store::new());
    save(&mut keeper(&ram), &store, &one).unwrap();
    save(&mut keeper(&ram), &store, &other).unwrap();
    assert_eq!(which(&ram, &store, "a", &[&one, &other]), Some(1));
    let newest = ["00000002.00000001.index", "00000002.data"];
    let mut fell_back = 0;
    for file in newest {
        for at in 0..ram.read(file).len() {
            for cut in [false, true] {
                let rotten = ram.crashed(true);
                rotten.change(file, |bytes| if cut { bytes.truncate(at) } else { bytes[at] ^= 1 << (at % 8) });
                let found = which(&rotten, &store, "a", &[&one, &other]);
                assert!(found.is_some(), "{file}, byte {at}: the older state is whole");
                fell_back += usize::from(found == Some(0));
            }
        }
    }
    assert!(fell_back > 1000, "only {fell_back} of all were noticed");
}

#[test]
fn what_cannot_be_used_stays_until_newer_state_is_there() {
    let (state, _) = states();
    type Spoil = fn(&mut Vec<u8>);
    let spoil: [(&str, Spoil); 3] =
        [("newer", |bytes| bytes[8] = 9), ("damaged", |bytes| bytes.truncate(60)), ("damaged", |bytes| bytes.clear())];
    for (reason, spoil) in spoil {
        let (ram, store) = (Ram::default(), Store::new());
        save(&mut keeper(&ram), &store, &state).unwrap();
        let file = "00000001.00000001.index";
        ram.change(file, spoil);
        let library = Library::open(&reading(&ram)).unwrap();
        assert_eq!((library.shelves.len(), library.aside.len()), (0, 1));
        assert_eq!(library.aside[0].reason, reason);
        let mut keeper = keeper(&ram);
        let saved = keeper.save(Batch { synced: false, ..batch(&store, &state) }).unwrap();
        assert_eq!((saved.generation, saved.aside), (2, 1), "nothing is written over");
        assert!(ram.files().contains(&file.to_owned()) && ram.files().contains(&"00000001.data".to_owned()));
        let saved = save(&mut keeper, &store, &state).unwrap();
        assert_eq!(saved.aside, 0);
        assert!(!ram.files().iter().any(|name| name.starts_with("00000001")), "{:?}", ram.files());
    }
}

#[test]
fn the_key_closes_all_of_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("key");
    std::fs::write(&path, [5; 32]).unwrap();
    let key = Key::read(&path).unwrap();
    let (ram, store) = (Ram::default(), Store::new());
    let (state, _) = states();
    let reading = Reading { key: Some(key), ..reading(&ram) };
    save(&mut Keeper::new(reading.clone(), MOST), &store, &state).unwrap();
    for text in [&b"one of name"[..], b"name 7", b"edge", b"istiod", b"envoy.config"] {
        assert!(!ram.has(text), "{}", String::from_utf8_lossy(text));
    }
    let library = Library::open(&reading).unwrap();
    assert!(library.load("a", &Store::new(), SystemTime::now()).0.is_some());
    let flipped = ram.crashed(true);
    let len = flipped.read("00000001.data").len();
    flipped.change("00000001.data", |bytes| bytes[len - 1] ^= 1);
    let reading = Reading { disk: Arc::new(flipped), ..reading };
    let (found, bad) = Library::open(&reading).unwrap().load("b", &Store::new(), SystemTime::now());
    assert!(found.is_none() && bad.len() == 1, "{bad:?}");
    assert_eq!(Library::open(&super::tests::reading(&ram)).unwrap().aside[0].reason, "no_key");
}

#[test]
fn too_much_is_told_and_the_old_stays() {
    let (ram, store) = (Ram::default(), Store::new());
    let (one, other) = states();
    save(&mut keeper(&ram), &store, &one).unwrap();
    let error = save(&mut Keeper::new(reading(&ram), 6000), &store, &other).unwrap_err();
    assert_eq!(error.reason(), "max_bytes", "{error}");
    assert_eq!(which(&ram, &store, "a", &[&one]), Some(0));
    assert!(!ram.files().contains(&"00000002.data".to_owned()), "what is of no use takes no room");
}

#[test]
fn what_became_sensitive_is_not_copied() {
    let (ram, store) = (Ram::default(), Store::new());
    let (one, _) = states();
    save(&mut keeper(&ram), &store, &one).unwrap();
    let refused = vec![TypeUrl::from_short("eds").unwrap()];
    keeper(&ram).save(Batch { refused, ..batch(&store, &State::new()) }).unwrap();
    let found = load(&ram, &store, "a").unwrap();
    assert_eq!(found.types.iter().map(|of| of.type_url.short()).collect::<Vec<_>>(), ["cds"]);
    assert!(!ram.files().iter().any(|name| name.starts_with("00000001")), "{:?}", ram.files());
    // And in the midst of a process.
    let (mut keeper, store) = (keeper(&ram), Store::new());
    save(&mut keeper, &store, &one).unwrap();
    let refused = vec![TypeUrl::from_short("cds").unwrap()];
    assert!(keeper.wants_all(&refused));
    let groups = one.keys().map(|key| ((*key).into(), None)).collect();
    keeper.save(Batch { refused, groups, ..batch(&store, &State::new()) }).unwrap();
    assert!(load(&ram, &store, "a").is_none() && !ram.has(b"one of name 1"));
}

/// Whatever changes, half of the room is enough for what is held.
#[test]
fn what_is_of_the_past_takes_no_room_from_what_is_held() {
    let (ram, store) = (Ram::default(), Store::new());
    let big = "x".repeat(2000);
    let state =
        |round: usize| State::from([("a", names(20, &format!("{round}{big}"), "one")), ("b", names(9, "one", "two"))]);
    let one = save(&mut keeper(&Ram::default()), &store, &state(0)).unwrap().bytes;
    let most = 2 * one + one / 4;
    let mut keeper = Keeper::new(reading(&ram), most);
    for round in 0..20 {
        save(&mut keeper, &store, &state(round)).unwrap();
        assert_eq!(which(&ram, &store, "a", &[&state(round)]), Some(0));
        // A change of a part: the rest is copied where there is no room.
        let part = Batch {
            groups: vec![("b".into(), Some(kept(&store, &names(9, "two", "two"))))],
            ..batch(&store, &State::new())
        };
        keeper.save(part).unwrap();
        assert_eq!(which(&ram, &store, "a", &[&state(round)]), Some(0));
        let bytes: usize = ram.files().iter().map(|name| ram.read(name).len()).sum();
        assert!(bytes as u64 <= most + 4000, "{bytes} of {most}: {:?}", ram.files());
    }
}

/// A read that fails is tried again: it makes no older state the newest.
#[test]
fn a_read_that_fails_does_not_bring_an_older_state_back() {
    let (one, other) = states();
    let (ram, store) = (Ram::default(), Store::new());
    save(&mut keeper(&ram), &store, &one).unwrap();
    save(&mut keeper(&ram), &store, &other).unwrap();
    let mut failures = 0;
    for step in 0..60 {
        let ram = ram.crashed(true);
        let mut keeper = keeper(&ram);
        ram.fail_after(step, ErrorKind::Other);
        failures += usize::from(save(&mut keeper, &store, &State::new()).is_err());
        assert!(which(&ram, &store, "a", &[&other]).is_some(), "step {step}");
        save(&mut keeper, &store, &State::new()).unwrap();
        assert!(which(&ram, &store, "a", &[&other]).is_some(), "step {step}");
    }
    assert!(failures > 10, "{failures}");
}

/// Files of a program that was released are read as long as the format has its number.
/// `OUTPOST_BLESS=1` writes them, for a new number.
#[test]
fn what_an_older_program_wrote_is_read() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/persist/v{}", index::VERSION));
    let store = Store::new();
    let state = State::from([("a", names(40, "one", "rich")), ("b", names(3, "one", "absent"))]);
    if std::env::var_os("OUTPOST_BLESS").is_some() {
        let ram = Ram::default();
        save(&mut keeper(&ram), &store, &state).unwrap();
        std::fs::create_dir_all(&directory).unwrap();
        ram.files().iter().for_each(|name| std::fs::write(directory.join(name), ram.read(name)).unwrap());
    }
    let ram = Ram::default();
    for file in std::fs::read_dir(&directory).expect("files of this format; make them with OUTPOST_BLESS=1") {
        let file = file.unwrap();
        ram.put(file.file_name().to_str().unwrap(), &std::fs::read(file.path()).unwrap());
    }
    for group in ["a", "b"] {
        assert_eq!(which(&ram, &store, group, &[&state]), Some(0));
        let found = load(&ram, &store, group).unwrap();
        assert_eq!(found.types[0].label, kept(&store, &state[group]).types[0].label);
    }
}
