//! The configuration file: from YAML to the texts of settings, or to
//! everything that is wrong with it, with line and column.
//!
//! What a text means is checked later, as it is for flags.

use super::problem::{Excerpt, Problem};
use super::settings::{Kind, Setting};
use crate::yaml::{self, Content, Node, Place, Sort};
use serde_json::Value as Json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;

/// Whoever names a larger file has named the wrong one.
const LARGEST: u64 = 1 << 20;

/// A file as it was read.
#[derive(Debug, Default)]
pub(super) struct File {
    pub name: String,
    lines: Vec<String>,
    /// By the id of the setting.
    pub values: BTreeMap<&'static str, Found>,
    pub problems: Vec<(Place, Problem)>,
    /// Ids of settings that the file seems to give, but not so that they can be used.
    pub refused: BTreeSet<&'static str>,
    /// Nothing is known of what it would have set.
    pub unread: bool,
}

/// What a file says of one setting.
#[derive(Debug)]
pub(super) struct Found {
    /// Of the key.
    pub place: Place,
    /// Values, where each stands.
    pub texts: Vec<(String, Place)>,
}

impl File {
    /// `asked` is how the file was named: `--config`, or the variable.
    pub(super) fn open(name: &str, asked: &str, settings: &[Setting]) -> Self {
        match text(name) {
            Ok(text) => Self::read(name, &text, settings),
            Err(what) => {
                let problem = Problem { at: format!("{asked} {name:?}"), what, excerpt: None };
                let problems = vec![(Place::default(), problem)];
                Self { name: name.into(), problems, unread: true, ..Self::default() }
            }
        }
    }

    fn read(name: &str, text: &str, settings: &[Setting]) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().map(str::to_owned).collect();
        let mut file = Self { name: name.into(), lines, ..Self::default() };
        let (node, faults) = yaml::read(text);
        file.unread = node.is_none() && !faults.is_empty();
        for fault in faults {
            file.wrong(fault.place, fault.what);
        }
        if let Some(node) = node {
            Reading { file: &mut file, settings }.section("", node);
        }
        file.problems.sort_by_key(|(place, _)| *place);
        file
    }

    /// `FILE:LINE:COLUMN`.
    pub(super) fn at(&self, place: Place) -> String {
        format!("{}:{}:{}", self.name, place.line, place.column)
    }

    pub(super) fn excerpt(&self, place: Place) -> Option<Excerpt> {
        self.lines.get(place.line.checked_sub(1)?).map(|line| Excerpt::new(line, place))
    }

    fn wrong(&mut self, place: Place, what: String) {
        let problem = Problem { at: format!("{}:", self.at(place)), what, excerpt: self.excerpt(place) };
        self.problems.push((place, problem));
    }
}

fn text(name: &str) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read ({error}); name a file that this user may read");
    let meta = std::fs::metadata(name).map_err(unreadable)?;
    if meta.is_dir() {
        return Err("is a directory; name a file".into());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(name).map_err(unreadable)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err("is larger than 1 MiB; name a configuration file".into());
    }
    String::from_utf8(bytes).map_err(|_| "is no UTF-8 text; name a configuration file".into())
}

struct Reading<'a> {
    file: &'a mut File,
    settings: &'a [Setting],
}

impl Reading<'_> {
    /// What stands below `path`: "" is the whole.
    fn section(&mut self, path: &str, node: Node) {
        if node.is_nothing() {
            return;
        }
        let (place, found) = (node.place, node.what());
        let entries = match node.content {
            Content::Map(entries) => entries,
            Content::Refused => return self.refuse_below(path),
            _ => {
                let of = if path.is_empty() { "the file" } else { path };
                self.file.wrong(place, format!("{of}: expected keys and values, found {found}"));
                // Another file, such as a token: nothing of it goes into a log.
                if let Some((_, problem)) = self.file.problems.last_mut().filter(|_| path.is_empty()) {
                    problem.excerpt = None;
                }
                return self.refuse_below(path);
            }
        };
        for (place, name, value) in self.entries(path, entries) {
            let key = join(path, &name);
            if let Some(setting) = self.settings.iter().find(|setting| setting.key == key) {
                self.value(setting, place, value);
            } else if self.children(&key).next().is_some() {
                self.section(&key, value);
            } else {
                self.unknown(path, &name, place);
            }
        }
    }

    /// Entries with a key that is text, each key once.
    fn entries(&mut self, path: &str, entries: Vec<(Node, Node)>) -> Vec<(Place, String, Node)> {
        let mut kept: Vec<(Place, String, Node)> = Vec::new();
        for (key, value) in entries {
            let (place, found) = (key.place, key.what());
            let Content::Scalar { text, .. } = key.content else {
                self.file.wrong(place, format!("expected a key, found {found}"));
                continue;
            };
            match kept.iter().find(|(_, name, _)| *name == text) {
                Some((first, ..)) => {
                    let what =
                        format!("duplicate key {}; it is given in line {} already", join(path, &text), first.line);
                    self.file.wrong(place, what);
                }
                None => kept.push((place, text, value)),
            }
        }
        kept
    }

    fn value(&mut self, setting: &Setting, place: Place, node: Node) {
        let before = self.file.problems.len();
        let texts = self.given(setting, node);
        if setting.is_secret() {
            self.file.problems.iter_mut().skip(before).for_each(|(_, problem)| problem.excerpt = None);
        }
        if self.file.problems.len() > before {
            self.file.refused.insert(setting.id);
        } else if setting.kind.is_list() || !texts.is_empty() {
            self.file.values.insert(setting.id, Found { place, texts });
        } else {
            // An alias, of which the fault is told.
            self.file.refused.insert(setting.id);
        }
    }

    fn given(&mut self, setting: &Setting, node: Node) -> Vec<(String, Place)> {
        match setting.kind {
            Kind::Texts => self.texts(setting, node),
            Kind::Pairs => self.pairs(setting, node),
            Kind::Rules => self.rules(setting, node),
            _ => self.scalar(setting, node).into_iter().collect(),
        }
    }

    fn texts(&mut self, setting: &Setting, node: Node) -> Vec<(String, Place)> {
        match node.content {
            Content::List(items) => items.into_iter().filter_map(|item| self.text(setting, item)).collect(),
            _ => {
                self.expected(setting, &node);
                Vec::new()
            }
        }
    }

    fn pairs(&mut self, setting: &Setting, node: Node) -> Vec<(String, Place)> {
        let Content::Map(entries) = node.content else { return self.texts(setting, node) };
        let mut pairs = Vec::new();
        for (place, name, value) in self.entries(setting.key, entries) {
            if name.contains('=') || name.is_empty() {
                // What follows = may be a value.
                self.file.wrong(place, format!("{}: this is no key; leave = out", setting.key));
            } else if let Some((text, _)) = self.text(setting, value) {
                pairs.push((format!("{name}={text}"), place));
            }
        }
        pairs
    }

    /// Each rule as JSON, where it stands. What a rule may hold is checked with
    /// those of the command line.
    fn rules(&mut self, setting: &Setting, node: Node) -> Vec<(String, Place)> {
        let Content::List(items) = node.content else {
            self.expected(setting, &node);
            return Vec::new();
        };
        let rule = |item: Node| {
            let place = item.place;
            self.structure(setting, item).map(|json| (json.to_string(), place))
        };
        items.into_iter().filter_map(rule).collect()
    }

    fn structure(&mut self, setting: &Setting, node: Node) -> Option<Json> {
        match node.content {
            Content::List(items) => items.into_iter().map(|item| self.structure(setting, item)).collect(),
            Content::Map(entries) => {
                let entries = self.entries(setting.key, entries);
                entries.into_iter().map(|(_, name, value)| Some((name, self.structure(setting, value)?))).collect()
            }
            _ => self.text(setting, node).map(|(text, _)| Json::String(text)),
        }
    }

    /// One text of a list.
    fn text(&mut self, setting: &Setting, node: Node) -> Option<(String, Place)> {
        match &node.content {
            Content::Scalar { text, plain } if Sort::of(text, *plain) == Sort::Text => Some((text.clone(), node.place)),
            Content::Scalar { text, plain } if Sort::of(text, *plain) != Sort::Nothing => {
                let hint = if setting.is_secret() { "put it in quotes".into() } else { format!("write \"{text}\"") };
                let what = format!("{}: expected text, found {}; {hint}", setting.key, node.what());
                self.file.wrong(node.place, what);
                None
            }
            Content::Refused => None,
            _ => {
                let what = format!("{}: expected text, found {}", setting.key, node.what());
                self.file.wrong(node.place, what);
                None
            }
        }
    }

    fn scalar(&mut self, setting: &Setting, node: Node) -> Option<(String, Place)> {
        let Content::Scalar { text, plain } = &node.content else {
            self.expected(setting, &node);
            return None;
        };
        let sort = Sort::of(text, *plain);
        let fits = match setting.kind {
            Kind::Number => sort == Sort::Number,
            Kind::Size => matches!(sort, Sort::Number | Sort::Text),
            Kind::Bool => sort == Sort::Bool,
            _ => sort == Sort::Text,
        };
        if !fits {
            self.expected(setting, &node);
            return None;
        }
        let text = if sort == Sort::Bool { text.to_ascii_lowercase() } else { text.clone() };
        Some((text, node.place))
    }

    fn expected(&mut self, setting: &Setting, node: &Node) {
        let hint = match (&node.content, setting.kind) {
            (Content::Refused, _) => return,
            (Content::Scalar { .. }, _) if node.is_nothing() => "; give one, or leave the key out".into(),
            (Content::Scalar { text, .. }, Kind::Texts) => format!("; write [{text}]"),
            (Content::Scalar { text, .. }, Kind::Text | Kind::File | Kind::Directory) => format!("; write \"{text}\""),
            (Content::Scalar { text, plain: false }, Kind::Number | Kind::Bool)
                if !matches!(Sort::of(text, true), Sort::Text | Sort::Nothing) =>
            {
                "; leave the quotes out".into()
            }
            _ => String::new(),
        };
        let what = format!("{}: expected {}, found {}{hint}", setting.key, setting.kind.expected(), node.what());
        self.file.wrong(node.place, what);
    }

    fn unknown(&mut self, path: &str, name: &str, place: Place) {
        let key = join(path, name);
        let what = match self.nearest(path, name) {
            Some(near) => {
                self.refuse_below(&near);
                format!("unknown key {key}; did you mean {near}?")
            }
            None => {
                let names: BTreeSet<_> = self.children(path).collect();
                let names: Vec<_> = names.into_iter().collect();
                format!("unknown key {key}; expected one of {}", names.join(", "))
            }
        };
        self.file.wrong(place, what);
    }

    /// The names that may stand directly below `path`.
    fn children(&self, path: &str) -> impl Iterator<Item = &'static str> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}.") };
        let below = self.settings.iter().filter_map(move |setting| setting.key.strip_prefix(&prefix));
        below.map(|rest| rest.split('.').next().unwrap_or(rest))
    }

    /// The key that was probably meant: near it in letters, or of that name
    /// elsewhere.
    fn nearest(&self, path: &str, name: &str) -> Option<String> {
        let wanted = plain(name);
        let far = |other: &str| strsim::damerau_levenshtein(&wanted, &plain(other));
        let sibling = self.children(path).min_by_key(|other| far(other));
        let near = sibling.filter(|other| far(other) <= 1.max(wanted.chars().count().max(other.len()) / 3));
        if let Some(near) = near {
            return Some(join(path, near));
        }
        let named = |setting: &&Setting| plain(&setting.flag) == wanted || plain(setting.name()) == wanted;
        self.settings.iter().find(named).map(|setting| setting.key.to_owned())
    }

    /// What was meant to be given at or below `path` cannot be told.
    fn refuse_below(&mut self, path: &str) {
        let below = |setting: &&Setting| {
            path.is_empty()
                || setting.key.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.file.refused.extend(self.settings.iter().filter(below).map(|setting| setting.id));
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

/// `max-streams`, `max_streams` and `maxStreams` are one name.
fn plain(name: &str) -> String {
    name.chars().filter(|c| !"-_.".contains(*c)).flat_map(char::to_lowercase).collect()
}
