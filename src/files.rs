//! A directory of resources in Envoy's own format, as a value.
//!
//! [`load`] reads all of it, or says everything that is wrong with it, by file,
//! line, column and field, and never with a value: that may be a secret. What it
//! read is a [`Loaded`]: what every group has, and what some have besides. It
//! asks nobody and holds nothing open; [`scan()`] is the cheap look that tells
//! whether reading again would find something else.
//!
//! ```text
//! DIR/clusters.yaml          for every group
//! DIR/web/routes.json        only for the group `web`: adds, or stands in the
//!                            place of what has the same type and name above
//! ```
//!
//! Files end in `.yaml`, `.yml` or `.json`; others, and whatever begins with a
//! dot, are left alone. A directory below DIR is called as its group: the id of a
//! node that has a group of its own, or what the rule renders to, where `%` and
//! two hex digits stand for what the name of a file cannot have. In a file, each
//! document is a resource with its `@type`, a list of them, or `resources:` with a
//! list.
//!
//! Promise: equal directories make equal names, bytes and labels, in every
//! process. All of a directory counts, or nothing.

mod document;
mod scan;
#[cfg(test)]
mod tests;
mod view;

pub use scan::{Seen, scan};
pub use view::{Content, Loaded, View};

use crate::yaml::{self, Place};
use document::Found;
use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Problems that are told; more are of no use.
const MOST: usize = 20;
/// Whoever names a larger file has named the wrong one.
const LARGEST: u64 = 64 << 20;
/// How often a directory that changes while it is read is read again.
const TRIES: usize = 5;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    path: PathBuf,
    /// Line and column, where it is within the text.
    place: Option<(usize, usize)>,
    what: String,
    /// It may pass without any change of the files.
    passing: bool,
}

impl Problem {
    fn new(path: &Path, what: impl Into<String>) -> Self {
        Self { path: path.into(), place: None, what: what.into(), passing: false }
    }

    pub(crate) fn passing(path: &Path, what: impl Into<String>) -> Self {
        Self { passing: true, ..Self::new(path, what) }
    }

    fn at(path: &Path, place: Place, what: impl Into<String>) -> Self {
        Self { place: Some((place.line, place.column)), ..Self::new(path, what) }
    }
}

/// `DIR/a.yaml:3:7: what`.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.path.display())?;
        if let Some((line, column)) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.what)
    }
}

/// Everything that is wrong; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl Problems {
    /// Is it worth while to read the same files again?
    pub fn may_pass(&self) -> bool {
        self.0.iter().any(|problem| problem.passing)
    }
}

/// On one line.
impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let each: Vec<_> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&each.join("; "))
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// Reads everything, as it was at one time.
pub fn load(directory: &Path) -> Result<(Seen, Loaded), Problems> {
    let mut seen = scan(directory)?;
    for _ in 0..TRIES {
        let loaded = read(directory, &seen);
        let again = scan(directory)?;
        if again == seen {
            return loaded.map(|loaded| (seen, loaded));
        }
        seen = again;
    }
    Err(Problem::passing(directory, "changes faster than it can be read; it is tried again").into())
}

fn read(directory: &Path, seen: &Seen) -> Result<Loaded, Problems> {
    let mut problems = Vec::new();
    let mut draft = Draft::default();
    for file in seen.files() {
        match text(&file.path) {
            Ok(text) => resources(&file.path, &text, &mut problems)
                .into_iter()
                .for_each(|found| draft.add(file.group.as_deref(), &file.path, found, &mut problems)),
            Err(problem) => problems.push(problem),
        }
    }
    if seen.files().len() == 0 {
        let what =
            "holds no file of resources; give one that ends in .yaml, .yml or .json (`resources: []` is nothing)";
        problems.push(Problem::new(directory, what));
    }
    // What may pass is never cut off.
    problems.sort_by_key(|problem| !problem.passing);
    problems.truncate(MOST);
    if problems.is_empty() { Ok(draft.finish(seen.files().len())) } else { Err(Problems(problems)) }
}

fn text(path: &Path) -> Result<String, Problem> {
    let unreadable = |error| Problem::passing(path, format!("cannot be read ({error}); give it to this user to read"));
    // To open a pipe would wait for its other end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Problem::passing(path, scan::NO_FILE));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // It may grow while it is read.
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(Problem::new(path, "is larger than 64 MiB; split it"));
    }
    String::from_utf8(bytes).map_err(|_| Problem::new(path, "is no UTF-8 text; give YAML or JSON"))
}

/// The resources of one file.
fn resources(path: &Path, text: &str, problems: &mut Vec<Problem>) -> Vec<Found> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (documents, faults) = yaml::read_all(text);
    problems.extend(faults.into_iter().map(|fault| Problem::at(path, fault.place, fault.what)));
    let mut found = Vec::new();
    for document in &documents {
        document::read(document, &mut found, &mut |place, what| problems.push(Problem::at(path, place, what)));
    }
    found
}

/// What was read so far.
#[derive(Default)]
struct Draft {
    views: BTreeMap<Option<String>, view::Draft>,
}

impl Draft {
    fn add(&mut self, group: Option<&str>, path: &Path, found: Found, problems: &mut Vec<Problem>) {
        let view = self.views.entry(group.map(str::to_owned)).or_default();
        let place = found.place;
        let what = format!("{} {:?}", found.type_url.short(), found.name);
        if let Some((other, line)) = view.add(path, found) {
            let text = format!("{what} is given twice; it is in {}:{line} already", other.display());
            problems.push(Problem::at(path, place, text));
        }
    }

    fn finish(mut self, files: usize) -> Loaded {
        let base = self.views.remove(&None).unwrap_or_default();
        let groups = self.views.into_iter().filter_map(|(group, view)| Some((group?, view))).collect();
        Loaded::new(files, base, groups)
    }
}
