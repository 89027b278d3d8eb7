//! Replays every transcript of tests/transcripts.
//!
//! `OUTPOST_TRANSCRIPTS=S-2` runs only those whose name begins so.

#[allow(unreachable_pub, dead_code)]
mod transcript_support;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use transcript_support::driver::{Driver, Setup};
use transcript_support::library;
use transcript_support::pure::Pure;
use transcript_support::run::{Failure, replay};
use transcript_support::script::{Form, Script, Wire};
use transcript_support::socket::Socket;

fn scripts() -> Vec<Script> {
    let only = std::env::var("OUTPOST_TRANSCRIPTS").unwrap_or_default();
    library::scripts().into_iter().filter(|script| script.id.starts_with(&only)).collect()
}

/// One replay: which transcript, in which form, under which upstream.
type Job = (Script, Form, Wire);

/// Replays all on drivers that `make` makes, a few at a time, and tells every
/// failure.
fn replay_all(what: &str, forms: &[Form], at_once: usize, make: impl Fn(&Script, &Setup) -> Box<dyn Driver> + Sync) {
    let jobs = |script: Script| {
        let forms: Vec<Form> = script.forms.iter().copied().filter(|form| forms.contains(form)).collect();
        let upstreams = script.upstreams.clone();
        forms
            .into_iter()
            .flat_map(move |form| upstreams.clone().into_iter().map(move |upstream| (form, upstream)))
            .map(move |(form, upstream)| -> Job { (script.clone(), form, upstream) })
    };
    let jobs: Mutex<VecDeque<Job>> = Mutex::new(scripts().into_iter().flat_map(jobs).collect());
    let runs = jobs.lock().expect("nobody panics with it").len();
    let failures = Mutex::new(Vec::new());
    let closed = AtomicUsize::new(0);
    let work = || {
        loop {
            let next = jobs.lock().expect("nobody panics with it").pop_front();
            let Some((script, form, upstream)) = next else { return };
            let setup = library::setup(&script, upstream);
            match replay(&script, form, || make(&script, &setup)) {
                Ok(more) => {
                    closed.fetch_add(more, Ordering::Relaxed);
                }
                Err(Failure { line, text, reason }) => {
                    let id = &script.id;
                    let failure = format!("{id} ({form:?}, {upstream:?} upstream), line {line}: {text}\n    {reason}");
                    failures.lock().expect("nobody panics with it").push(failure);
                }
            }
        }
    };
    std::thread::scope(|scope| (0..at_once).for_each(|_| drop(scope.spawn(work))));
    let mut failures = failures.into_inner().expect("nobody panics with it");
    failures.sort();
    let (closed, failed) = (closed.into_inner(), failures.len());
    println!("transcripts, {what}: {runs} replays, {closed} more where only the end proves a silence, {failed} failed");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn without_sockets() {
    replay_all("without sockets", &[Form::Ads, Form::Service], 1, |_, setup| Box::new(Pure::new(setup)));
}

#[test]
fn over_sockets() {
    let forms = [Form::Ads, Form::Service, Form::Socket];
    replay_all("over sockets", &forms, 4, |script, setup| Box::new(Socket::new(setup, script.streams().len() > 200)));
}

/// No row is dropped in silence.
#[test]
fn every_row_has_a_transcript() {
    let rows = [("S", 43), ("W", 19), ("D", 28), ("R", 16), ("O", 11), ("N", 8), ("T", 10), ("X", 7), ("P", 3)];
    let more = [("Y", 11), ("I", 6), ("G", 4), ("H", 4)];
    let number = |(letter, count): (&'static str, usize)| (1..=count).map(move |at| format!("{letter}-{at:02}"));
    let mut wanted: BTreeSet<String> = rows.into_iter().chain(more).flat_map(number).collect();
    wanted.extend(["O-02b", "CLIENTS-G3", "CLIENTS-G5"].map(str::to_owned));
    let there: BTreeSet<String> = scripts().into_iter().map(|script| script.id).collect();
    let omitted = std::fs::read_to_string(library::directory().join("OMITTED.md")).expect("OMITTED.md is there");
    let omitted = omitted.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let omitted: BTreeSet<String> = omitted.map(str::to_owned).collect();
    if std::env::var_os("OUTPOST_TRANSCRIPTS").is_none() {
        for row in &wanted {
            assert!(there.contains(row) != omitted.contains(row), "{row}: have a transcript, or say why there is none");
        }
    }
}

/// Rule → transcripts whose head names it.
fn shown() -> BTreeMap<String, BTreeSet<String>> {
    let mut shown: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for script in scripts() {
        for rule in script.rules {
            shown.entry(rule).or_default().insert(script.id.clone());
        }
    }
    shown
}

/// Every `C-nnn` in the sources.
fn cited() -> BTreeSet<String> {
    let of = |text: &String| text.match_indices("C-").filter_map(|(at, _)| rule_at(&text[at..])).collect::<Vec<_>>();
    library::sources().iter().flat_map(of).collect()
}

fn rule_at(text: &str) -> Option<String> {
    let digits = text.get(2..5)?;
    let suffix =
        text.get(5..6).filter(|letter| digits == "100" && ["a", "b", "c"].contains(letter)).unwrap_or_default();
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| format!("C-{digits}{suffix}"))
}

/// tests/RULES.md explains every rule that is cited and names the transcripts
/// that show it; and each has a deliberate break, or a reason to have none.
#[test]
fn rules_are_explained_and_shown() {
    if std::env::var_os("OUTPOST_TRANSCRIPTS").is_some() {
        return;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join("tests/RULES.md");
    let text = std::fs::read_to_string(&path).expect("tests/RULES.md is there");
    let shown = shown();
    let mut explained = BTreeSet::new();
    let blessed = text.lines().map(|line| match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
        ["", rule, sentence, _, ""] if rule.starts_with("C-") => {
            explained.insert(rule.to_owned());
            let by: Vec<_> = shown.get(rule).into_iter().flatten().map(String::as_str).collect();
            format!("| {rule} | {sentence} | {} |\n", by.join(" ")).replace("|  |", "| |")
        }
        _ => format!("{line}\n"),
    });
    let blessed: String = blessed.collect();
    if std::env::var_os("OUTPOST_BLESS").is_some() {
        std::fs::write(&path, &blessed).expect("tests/RULES.md can be written");
    } else {
        assert_eq!(text, blessed, "tests/RULES.md: run with OUTPOST_BLESS=1");
    }
    let missing: Vec<_> =
        cited().into_iter().chain(shown.into_keys()).filter(|rule| !explained.contains(rule)).collect();
    assert!(missing.is_empty(), "tests/RULES.md does not explain {missing:?}");
    let because = |line: &str| match line.split('|').map(str::trim).collect::<Vec<_>>()[..] {
        ["", rule, reason, ""] if rule.starts_with("C-") && !reason.is_empty() => Some(rule.to_owned()),
        _ => None,
    };
    let (excused, broken): (BTreeSet<String>, _) = (text.lines().filter_map(because).collect(), library::broken());
    for rule in explained.union(&excused) {
        assert!(explained.contains(rule), "tests/RULES.md says why {rule} is not broken, and does not explain it");
        let (excused, broken) = (excused.contains(rule), broken.contains(rule));
        assert!(excused || broken, "{rule}: break it (src/breaks.rs), or say in tests/RULES.md why not");
        assert!(!(excused && broken), "{rule} is broken: tests/RULES.md need not say why not");
    }
}
