//! JSON as YAML, in block style: what `kubectl` and editors read.

use serde_json::Value;

/// `value` as one document.
pub(super) fn document(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

/// On lines of its own, each indented by `depth` twice.
fn block(value: &Value, depth: usize, into: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                indent(depth, into);
                into.push_str(&scalar(key));
                into.push(':');
                beside(value, depth + 1, into);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                indent(depth, into);
                into.push('-');
                within(item, depth + 1, into);
            }
        }
        other => {
            indent(depth, into);
            into.push_str(&plain(other));
            into.push('\n');
        }
    }
}

/// After `key:`.
fn beside(value: &Value, depth: usize, into: &mut String) {
    if is_block(value) {
        into.push('\n');
        block(value, depth, into);
    } else {
        into.push(' ');
        into.push_str(&plain(value));
        into.push('\n');
    }
}

/// After `-`: the first line of a block stands on the same line.
fn within(value: &Value, depth: usize, into: &mut String) {
    if is_block(value) {
        let mut lines = String::new();
        block(value, depth, &mut lines);
        into.push(' ');
        into.push_str(lines.trim_start_matches(' '));
    } else {
        beside(value, depth, into);
    }
}

fn is_block(value: &Value) -> bool {
    match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => !items.is_empty(),
        _ => false,
    }
}

fn indent(depth: usize, into: &mut String) {
    into.extend(std::iter::repeat_n("  ", depth));
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => scalar(text),
        other => other.to_string(),
    }
}

/// Plain where no reader of YAML takes it for anything but text; else quoted as
/// JSON is, which YAML reads alike.
fn scalar(text: &str) -> String {
    let first = text.chars().next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_' || c == '/');
    let rest = text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./@~=+".contains(c));
    let word = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let reserved = word.iter().any(|word| text.eq_ignore_ascii_case(word));
    if first && rest && !reserved { text.to_owned() } else { Value::from(text).to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_and_scalars() {
        let value = json!({
            "kind": "Groups",
            "items": [{"key": "n1;node", "types": [], "up": {"open": true}}, [1, [2.5]], "x", null],
            "empty": {},
        });
        let want = "\
empty: {}
items:
  - key: \"n1;node\"
    types: []
    up:
      open: true
  - - 1
    - - 2.5
  - x
  - null
kind: Groups
";
        assert_eq!(document(&value), want);
    }

    #[test]
    fn a_reader_of_yaml_gets_back_what_was_written() {
        let texts = ["", "yes", "NO", "1e3", "0x10", "~", "a: b", "- a", "#c", "a #b", "\u{1b}[2J\n", "ü", "a\\", "@x"];
        let value = json!({"texts": texts, "12": {"true": -1}, "url": "type.googleapis.com/envoy.x.Y", "n": [[], {}]});
        let read: Value = serde_saphyr::from_str(&document(&value)).unwrap();
        assert_eq!(read, value);
    }
}
