//! Breaks one rule after another and demands that a transcript notices.
//!
//! All of them: `OUTPOST_BREAKS=all`. Without it as many as fit into three
//! minutes, in an order that a seed chooses; the seed is printed, and
//! `OUTPOST_BREAKS_SEED` sets it. `OUTPOST_BREAKS=C-040` takes one.

#[allow(unreachable_pub, dead_code)]
mod transcript_support;

use outpost::breaks;
use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use transcript_support::driver::Setup;
use transcript_support::pure::Pure;
use transcript_support::run::replay;
use transcript_support::script::{Form, Script, Step};

const BUDGET: Duration = Duration::from_secs(170);

/// Every rule that the sources ask [`breaks::on`] about.
fn rules() -> Vec<String> {
    fn look(under: &Path, into: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(under).expect("a directory of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                look(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("a source can be read");
                into.extend(text.split("on(\"").skip(1).filter_map(|rest| Some(rest.split_once("\")")?.0.to_owned())));
            }
        }
    }
    let mut rules = BTreeSet::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut rules);
    rules.into_iter().filter(|rule| rule.starts_with("C-")).collect()
}

fn scripts() -> Vec<Script> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let entries = std::fs::read_dir(directory).expect("tests/transcripts is there").flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths.iter().map(|path| Script::read(path).unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// The transcript that fails while `rule` is broken; those that show it go first.
fn noticed(rule: &str, scripts: &[Script]) -> Option<String> {
    let shows = |script: &&Script| script.rules.iter().any(|shown| shown == rule);
    let (shown, others): (Vec<_>, Vec<_>) = scripts.iter().partition(shows);
    for script in shown.into_iter().chain(others) {
        let option = |step: &Step| match step {
            Step::Setting(words) => Some(words.clone()),
            _ => None,
        };
        let options: Vec<_> = script.lines.iter().filter_map(|line| option(&line.step)).collect();
        for form in script.forms.iter().filter(|form| **form != Form::Socket) {
            for upstream in &script.upstreams {
                let setup = Setup { upstream: *upstream, options: options.clone() };
                // A panic is noticed as well.
                let run = || replay(script, *form, &mut Pure::new(&setup)).is_ok();
                breaks::choose(rule);
                let fine = catch_unwind(AssertUnwindSafe(run)).unwrap_or(false);
                breaks::choose("");
                if !fine {
                    return Some(script.id.clone());
                }
            }
        }
    }
    None
}

#[test]
fn every_break_is_noticed() {
    let wanted = std::env::var("OUTPOST_BREAKS").unwrap_or_default();
    let mut rules = rules();
    let all = rules.len();
    if wanted.starts_with("C-") {
        rules.retain(|rule| *rule == wanted);
    } else if wanted != "all" {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let seed = std::env::var("OUTPOST_BREAKS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("OUTPOST_BREAKS_SEED={seed}");
        let order = |rule: &String| blake3::hash(format!("{seed} {rule}").as_bytes()).to_hex().to_string();
        rules.sort_by_cached_key(order);
    }
    let scripts = scripts();
    std::panic::set_hook(Box::new(|_| {}));
    let (start, mut done, mut unnoticed) = (Instant::now(), 0, Vec::new());
    for rule in &rules {
        if wanted.is_empty() && start.elapsed() > BUDGET {
            break;
        }
        done += 1;
        match noticed(rule, &scripts) {
            Some(id) => println!("{rule}: {id}"),
            None => unnoticed.push(rule.as_str()),
        }
    }
    let _ = std::panic::take_hook();
    println!("{done} of {all} breaks in {:?}", start.elapsed());
    assert!(!rules.is_empty() && unnoticed.is_empty(), "no transcript notices the break of {unnoticed:?}");
}
