//! Replays every transcript of tests/transcripts.
//!
//! `OUTPOST_TRANSCRIPTS=S-2` runs only those whose name begins so.

#[allow(unreachable_pub, dead_code)]
mod transcript_support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use transcript_support::driver::{Driver, Setup};
use transcript_support::pure::Pure;
use transcript_support::run::{Failure, replay};
use transcript_support::script::{Form, Script, Step, Wire};

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

fn scripts() -> Vec<Script> {
    let entries = std::fs::read_dir(directory()).expect("tests/transcripts is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    let only = std::env::var("OUTPOST_TRANSCRIPTS").unwrap_or_default();
    let read = paths.iter().map(|path| Script::read(path).unwrap_or_else(|error| panic!("{error}")));
    read.filter(|script| script.id.starts_with(&only)).collect()
}

fn setup(script: &Script, upstream: Wire) -> Setup {
    let option = |step: &Step| match step {
        Step::Setting(words) => Some(words.clone()),
        _ => None,
    };
    Setup { upstream, options: script.lines.iter().filter_map(|line| option(&line.step)).collect() }
}

/// Replays all on drivers that `make` makes, and tells every failure.
fn replay_all(what: &str, forms: &[Form], make: impl Fn(&Setup) -> Box<dyn Driver>) {
    let (mut runs, mut failures) = (0, Vec::new());
    for script in scripts() {
        for form in script.forms.iter().filter(|form| forms.contains(form)) {
            for upstream in &script.upstreams {
                runs += 1;
                let mut driver = make(&setup(&script, *upstream));
                if let Err(Failure { line, text, reason }) = replay(&script, *form, driver.as_mut()) {
                    failures.push(format!(
                        "{} ({form:?}, {upstream:?} upstream), line {line}: {text}\n    {reason}",
                        script.id
                    ));
                }
            }
        }
    }
    println!("transcripts, {what}: {runs} replays, {} failed", failures.len());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn without_sockets() {
    replay_all("without sockets", &[Form::Ads, Form::Service], |setup| Box::new(Pure::new(setup)));
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
    let omitted = std::fs::read_to_string(directory().join("OMITTED.md")).expect("OMITTED.md is there");
    let omitted = omitted.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let omitted: BTreeSet<String> = omitted.map(str::to_owned).collect();
    if std::env::var_os("OUTPOST_TRANSCRIPTS").is_none() {
        for row in &wanted {
            assert!(there.contains(row) != omitted.contains(row), "{row}: have a transcript, or say why there is none");
        }
    }
}
