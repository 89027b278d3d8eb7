//! The configuration as YAML with comments: every default, or what counts and
//! whence. Both are files that `outpost serve` reads,
//! but for values that may be credentials, which the second does not show.

use super::layers::{Origin, Value};
use super::settings::{Kind, Setting};
use crate::yaml::Sort;
use serde_json::json;
use std::collections::BTreeSet;

const HEADER: &str = "\
# Every setting of outpost serve, with its default. Leave out what you do not change.
# A flag wins over the environment, that over this file, and this file over the default.
# Below what a setting means stand: what to write, its flag, its variable of the environment.
";

/// The commented file of defaults. What has no default is commented out.
pub fn defaults() -> String {
    let settings = Setting::all();
    let mut sheet = Sheet { text: HEADER.into(), ..Sheet::default() };
    for setting in &settings {
        sheet.blank(setting.key);
        let doc = setting.doc_in_file(&settings);
        sheet.line(setting.key, &format!("# {doc}"));
        let mut about = format!("# {}; {}; {}", setting.kind.expected(), setting.flag, setting.env);
        if setting.is_required() {
            about += "; required unless upstream.files is given, this is an example";
        } else if setting.default.is_empty() {
            about += "; no default, this is an example";
        }
        sheet.line(setting.key, &about);
        let example: Vec<_> = setting.example.iter().map(|&text| text.to_owned()).collect();
        let texts = if setting.default.is_empty() { &example } else { &setting.default };
        let comment = setting.default.is_empty() && !setting.is_required();
        for line in lines(setting, texts, "") {
            sheet.line(setting.key, &if comment { format!("# {line}") } else { line });
        }
    }
    sheet.text
}

/// All settings with what counts, and whence it came as a comment. Values that may be
/// credentials are not shown.
pub fn effective(values: &[Value]) -> String {
    let mut sheet = Sheet::default();
    for value in values {
        let setting = &value.setting;
        let origin = match &value.origin {
            Origin::Unset => {
                sheet.line(setting.key, &format!("# {} is not set", setting.name()));
                continue;
            }
            Origin::Default => "default".into(),
            Origin::File { name, line } => format!("{name}:{line}"),
            Origin::Environment(name) | Origin::Flag(name) => name.clone(),
        };
        for line in lines(setting, &value.shown(), &format!(" # {origin}")) {
            sheet.line(setting.key, &line);
        }
    }
    sheet.text
}

/// The texts of a setting as the value that a file gives.
pub fn json(kind: Kind, texts: &[String]) -> serde_json::Value {
    let number = |text: &String| text.parse::<u64>().map_or_else(|_| json!(text), |number| json!(number));
    match kind {
        Kind::Texts => json!(texts),
        Kind::Pairs => match pairs(texts) {
            Some(pairs) => pairs.into_iter().map(|(key, value)| (key.to_owned(), json!(value))).collect(),
            None => json!(texts),
        },
        Kind::Rules => texts.iter().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text))).collect(),
        Kind::Number | Kind::Size => texts.first().map(number).unwrap_or_default(),
        Kind::Bool => texts.first().map(|text| json!(text == "true")).unwrap_or_default(),
        Kind::Text | Kind::File | Kind::Directory | Kind::Span | Kind::Choice(_) => json!(texts.first()),
    }
}

/// Sections open as keys ask for them.
#[derive(Default)]
struct Sheet {
    text: String,
    open: Vec<&'static str>,
}

impl Sheet {
    /// An empty line between settings; none below the head of a section.
    fn blank(&mut self, key: &'static str) {
        let sections = sections(key);
        let opens = sections.iter().zip(&self.open).take_while(|(a, b)| a == b).count() < sections.len();
        let first = self.text.ends_with(":\n");
        if opens || !first {
            self.text.push('\n');
        }
        self.enter(sections);
    }

    fn enter(&mut self, sections: Vec<&'static str>) {
        let common = sections.iter().zip(&self.open).take_while(|(a, b)| a == b).count();
        for (depth, section) in sections.iter().enumerate().skip(common) {
            self.text.push_str(&format!("{}{section}:\n", "  ".repeat(depth)));
        }
        self.open = sections;
    }

    fn line(&mut self, key: &'static str, line: &str) {
        self.enter(sections(key));
        self.text.push_str(&format!("{}{line}\n", "  ".repeat(self.open.len())));
    }
}

fn sections(key: &'static str) -> Vec<&'static str> {
    let mut parts: Vec<_> = key.split('.').collect();
    parts.pop();
    parts
}

fn lines(setting: &Setting, texts: &[String], comment: &str) -> Vec<String> {
    let name = setting.name();
    if !setting.kind.is_list() {
        return vec![format!("{name}: {}{comment}", scalar(texts.first().map_or("", |text| text), setting.kind))];
    }
    if texts.is_empty() {
        return vec![format!("{name}: []{comment}")];
    }
    let mut lines = vec![format!("{name}:{comment}")];
    match pairs(texts).filter(|_| setting.kind == Kind::Pairs) {
        Some(pairs) => {
            let text = |text: &str| scalar(text, Kind::Text);
            lines.extend(pairs.into_iter().map(|(key, value)| format!("  {}: {}", text(key), text(value))));
        }
        // JSON is YAML.
        None if setting.kind == Kind::Rules => lines.extend(texts.iter().map(|text| format!("  - {text}"))),
        None => lines.extend(texts.iter().map(|text| format!("  - {}", scalar(text, Kind::Text)))),
    }
    lines
}

/// As keys and values, where no key repeats.
fn pairs(texts: &[String]) -> Option<Vec<(&str, &str)>> {
    let pairs: Vec<_> = texts.iter().map(|text| text.split_once('=')).collect::<Option<_>>()?;
    let keys: BTreeSet<_> = pairs.iter().map(|(key, _)| key).collect();
    (keys.len() == pairs.len()).then_some(pairs)
}

/// Quoted where YAML would read something else.
fn scalar(text: &str, kind: Kind) -> String {
    let wanted = match kind {
        Kind::Number => Sort::Number,
        Kind::Bool => Sort::Bool,
        Kind::Size if Sort::of(text, true) == Sort::Number => Sort::Number,
        _ => Sort::Text,
    };
    let safe = |c: char| c.is_ascii_alphanumeric() || "-+._/:=".contains(c);
    let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric() || "/+.".contains(c));
    if starts && text.chars().all(safe) && !text.ends_with(':') && Sort::of(text, true) == wanted {
        text.into()
    } else {
        json!(text).to_string()
    }
}
