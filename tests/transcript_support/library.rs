//! All transcripts, and the sources whose rules they show.

use super::driver::Setup;
use super::script::{Script, Step, Wire};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts")
}

/// In the order of their names.
pub fn scripts() -> Vec<Script> {
    let entries = std::fs::read_dir(directory()).expect("tests/transcripts is there");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    paths.iter().map(|path| Script::read(path).unwrap_or_else(|error| panic!("{error}"))).collect()
}

pub fn setup(script: &Script, upstream: Wire) -> Setup {
    let option = |step: &Step| match step {
        Step::Setting(words) => Some(words.clone()),
        _ => None,
    };
    Setup { upstream, options: script.lines.iter().filter_map(|line| option(&line.step)).collect() }
}

/// The text of every source.
pub fn sources() -> Vec<String> {
    fn look(under: &Path, into: &mut Vec<String>) {
        for entry in std::fs::read_dir(under).expect("a directory of sources").flatten() {
            let path = entry.path();
            if path.is_dir() {
                look(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push(std::fs::read_to_string(&path).expect("a source can be read"));
            }
        }
    }
    let mut sources = Vec::new();
    look(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut sources);
    sources
}

/// Every rule that the sources ask `breaks::on` about.
pub fn broken() -> BTreeSet<String> {
    let rules = |text: &String| {
        let calls = text.split("on(\"").skip(1).filter_map(|rest| Some(rest.split_once('"')?.0.to_owned()));
        // One call names two: `on(if delta { "C-080" } else { "C-036" })`.
        let chosen = text.split("on(if ").skip(1).filter_map(|rest| rest.split_once(')'));
        let chosen = chosen.flat_map(|(call, _)| call.split('"').map(str::to_owned).collect::<Vec<_>>());
        calls.chain(chosen).filter(|rule| rule.starts_with("C-")).collect::<Vec<_>>()
    };
    sources().iter().flat_map(rules).collect()
}
