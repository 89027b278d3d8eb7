//! Which files there are, and what tells that one has changed.

use super::{Problem, Problems};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Of a pipe, a socket or a device: reading it may never end.
pub(super) const NO_FILE: &str = "is no file of text; take it away";

/// The files of a directory, in the order of their names. Equal where reading
/// them again would find the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    files: Vec<File>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    /// What the group is called, below the directory of one.
    pub(super) group: Option<String>,
    pub(super) path: PathBuf,
    stamp: Stamp,
}

/// Of what a name leads to, so that a symlink that is swapped, as Kubernetes does
/// it, is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &std::fs::Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

impl Seen {
    pub(super) fn files(&self) -> impl ExactSizeIterator<Item = &File> {
        self.files.iter()
    }
}

/// Looks at the directory and those of groups in it, without reading a file.
pub fn scan(directory: &Path) -> Result<Seen, Problems> {
    let mut seen = Seen::default();
    let mut problems = Vec::new();
    for (path, name, meta) in entries(directory)? {
        if !meta.is_dir() {
            problems.extend(seen.take(None, path, &name, &meta));
            continue;
        }
        let Some(group) = unescaped(&name) else {
            problems.push(Problem::new(&path, "names no group: % stands before two hex digits, as in %2F for a slash"));
            continue;
        };
        for (path, name, meta) in entries(&path)? {
            if meta.is_dir() {
                problems.push(Problem::new(
                    &path,
                    "is a directory in that of a group; files of a group stand side by side",
                ));
            } else {
                problems.extend(seen.take(Some(&group), path, &name, &meta));
            }
        }
    }
    if problems.is_empty() { Ok(seen) } else { Err(Problems(problems)) }
}

impl Seen {
    fn take(&mut self, group: Option<&str>, path: PathBuf, name: &str, meta: &std::fs::Metadata) -> Option<Problem> {
        if ![".yaml", ".yml", ".json"].iter().any(|end| name.ends_with(end)) {
            return None;
        }
        if !meta.is_file() {
            return Some(Problem::new(&path, NO_FILE));
        }
        self.files.push(File { group: group.map(str::to_owned), path, stamp: Stamp::of(meta) });
        None
    }
}

type Entry = (PathBuf, String, std::fs::Metadata);

/// What counts of a directory, by name.
fn entries(directory: &Path) -> Result<Vec<Entry>, Problem> {
    let unreadable =
        |error| Problem::passing(directory, format!("cannot be read ({error}); name a directory of this user's"));
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
        // Also `..data`, through which Kubernetes swaps a whole directory. A volume of
        // its own may have the other.
        if name.starts_with('.') || name == "lost+found" {
            continue;
        }
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(error) => {
                return Err(Problem::passing(&path, format!("cannot be read ({error}); mend it or take it away")));
            }
        };
        found.push((path, name, meta));
    }
    found.sort_by(|a, b| a.1.cmp(&b.1));
    Ok(found)
}

/// The text in which `%` stands before the two hex digits of a byte.
pub(super) fn unescaped(name: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        bytes.push(if *first == b'%' {
            let hex = std::str::from_utf8(rest.get(..2)?).ok()?;
            rest = rest.get(2..)?;
            u8::from_str_radix(hex, 16).ok().filter(|_| !hex.starts_with('+'))?
        } else {
            *first
        });
    }
    String::from_utf8(bytes).ok()
}
