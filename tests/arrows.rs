//! The architecture, checked: who may use whom, what is pure, and how long a
//! file may be. Reads the sources; nothing is run.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A module and those it may use beside itself. Arrows point one way: each
/// module stands below all that it uses.
const ARROWS: &[(&str, &[&str])] = &[
    ("bell", &[]),
    ("breaks", &[]),
    ("proto", &[]),
    ("yaml", &[]),
    ("descriptors", &["yaml"]),
    ("xds", &["proto"]),
    ("clock", &["xds"]),
    ("quiet", &["xds"]),
    ("traces", &["clock", "xds"]),
    ("transport", &["quiet", "bell", "clock", "xds"]),
    ("content", &["xds"]),
    ("group", &["xds"]),
    ("session", &["content", "xds"]),
    ("config", &["group", "yaml", "xds"]),
    ("files", &["descriptors", "yaml", "xds"]),
    ("logs", &["config", "clock", "xds"]),
    ("exchange", &["session", "group", "content", "traces", "clock", "xds"]),
    ("persist", &["exchange", "group", "content", "clock", "xds"]),
    ("admin", &["exchange", "session", "group", "config", "content", "descriptors", "clock", "xds"]),
    (
        "upstream",
        &["transport", "files", "exchange", "session", "group", "config", "content", "quiet", "clock", "xds", "proto"],
    ),
    (
        "downstream",
        &[
            "transport",
            "exchange",
            "session",
            "group",
            "config",
            "content",
            "descriptors",
            "traces",
            "quiet",
            "bell",
            "clock",
            "xds",
            "proto",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "upstream",
            "downstream",
            "persist",
            "transport",
            "exchange",
            "session",
            "group",
            "config",
            "logs",
            "content",
            "traces",
            "clock",
            "xds",
            "proto",
        ],
    ),
    ("bench", &["app", "transport", "config", "group", "content", "clock", "xds", "proto"]),
    ("demo", &["bench", "app", "admin", "transport", "config", "group", "content", "clock", "xds", "proto"]),
    ("cli", &["bench", "demo", "admin", "upstream", "files", "transport", "config", "group", "xds", "clock"]),
    ("main", &["app", "cli", "bench", "demo", "config", "logs", "traces", "transport", "clock"]),
];

/// These know no runtime, clock, randomness, metrics or logging.
const PURE: &[&str] = &["xds", "content", "session", "group"];
/// What of the exchange is not its pure core.
const EXCHANGE_SHELL: &[&str] =
    &["exchange.rs", "exchange/metrics.rs", "exchange/past.rs", "exchange/private.rs", "exchange/slot.rs"];
const IMPURE: &[&str] =
    &["tokio", "tonic", "h2::", "rand::", "tracing", "prometheus_client", "Instant::now", "SystemTime::now", "axum"];

/// Lines of a file, tests not counted.
const LONGEST: usize = 600;

struct Source {
    path: PathBuf,
    /// The module directly below the crate's root.
    module: String,
    /// Without tests.
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    walk(&root, &root, &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn walk(root: &Path, dir: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(dir).expect("a directory of sources") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
        if path.is_dir() {
            if name != "tests" {
                walk(root, &path, found);
            }
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && name != "lib.rs" {
            let text = fs::read_to_string(&path).expect("a readable source");
            let within = path.strip_prefix(root).expect("a path below src");
            let first = within.components().next().expect("a component").as_os_str();
            let module = first.to_str().expect("a name").trim_end_matches(".rs").to_owned();
            found.push(Source { path: within.to_owned(), module, text: without_tests(&text).to_owned() });
        }
    }
}

fn without_tests(text: &str) -> &str {
    let end = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(crate) mod tests {"];
    end.iter().filter_map(|mark| text.find(mark)).min().map_or(text, |end| &text[..end])
}

fn without_comments(text: &str) -> String {
    text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

/// The modules that `text` names after `mark`.
fn used(text: &str, mark: &str) -> BTreeSet<String> {
    let code = without_comments(text);
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices(mark) {
        let before = code[..at].chars().next_back();
        if before.is_none_or(|c| !c.is_alphanumeric() && c != '_' && c != ':') {
            names(&code[at + mark.len()..], &mut modules);
        }
    }
    modules
}

/// The first segment of a path, or of each path in a brace.
fn names(rest: &str, into: &mut BTreeSet<String>) {
    let word = |text: &str| -> String { text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    let Some(group) = rest.strip_prefix('{') else {
        into.insert(word(rest));
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' | ',' if depth == 0 => {
                into.insert(word(group[start..at].trim_start()));
                start = at + 1;
                if c == '}' {
                    return;
                }
            }
            '}' => depth -= 1,
            _ => {}
        }
    }
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for source in sources() {
        let Some((_, allowed)) = ARROWS.iter().find(|(module, _)| *module == source.module) else {
            wrong.push(format!("{}: give the module {} a place in ARROWS", source.path.display(), source.module));
            continue;
        };
        let mark = if source.module == "main" { "outpost::" } else { "crate::" };
        for target in used(&source.text, mark) {
            let known = ARROWS.iter().any(|(module, _)| *module == target);
            // What is a constant in the program has no place in its order.
            if known && target != "breaks" && target != source.module && !allowed.contains(&target.as_str()) {
                wrong.push(format!("{}: {} must not use {target}", source.path.display(), source.module));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_table_has_no_ring() {
    for (at, (module, allowed)) in ARROWS.iter().enumerate() {
        for target in *allowed {
            let below = ARROWS.iter().position(|(module, _)| module == target);
            assert!(below.is_some_and(|below| below < at), "{module} → {target} does not point down");
        }
    }
}

#[test]
fn pure_modules_are_pure() {
    let mut wrong = Vec::new();
    for source in sources() {
        let is_core =
            source.module == "exchange" && !EXCHANGE_SHELL.iter().any(|shell| source.path == Path::new(shell));
        if !is_core && !PURE.contains(&source.module.as_str()) {
            continue;
        }
        let code = without_comments(&source.text);
        for word in IMPURE.iter().filter(|word| code.contains(**word)) {
            wrong.push(format!("{}: {word} in a pure module", source.path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Whoever else wants the time takes it from the clock, so that tests can hold it.
#[test]
fn only_the_clock_reads_the_clock() {
    let may = ["clock", "bench", "demo"];
    for source in sources().iter().filter(|source| !may.contains(&source.module.as_str())) {
        let code = without_comments(&source.text);
        for call in ["Instant::now", "tokio::time::sleep", "thread::sleep"] {
            assert!(!code.contains(call), "{}: {call} beside the clock", source.path.display());
        }
    }
}

#[test]
fn files_are_short() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= LONGEST, "{} has {lines} lines without tests", source.path.display());
    }
}

#[test]
fn the_reader_reads() {
    let text =
        "use crate::{xds::{Name, TypeUrl}, group};\nuse crate::config; // crate::app\nlet x = crate::content::Store;";
    let found: Vec<_> = used(text, "crate::").into_iter().collect();
    assert_eq!(found, ["config", "content", "group", "xds"]);
}
