//! Which nodes a request means.

use crate::proto::core::Node;
use crate::proto::matcher::double_matcher::MatchPattern as Double;
use crate::proto::matcher::list_matcher::MatchPattern as List;
use crate::proto::matcher::string_matcher::MatchPattern as Text;
use crate::proto::matcher::struct_matcher::path_segment::Segment;
use crate::proto::matcher::value_matcher::MatchPattern as Pattern;
use crate::proto::matcher::{NodeMatcher, StringMatcher, StructMatcher, ValueMatcher};
use crate::proto::protobuf::{Struct, Value, value::Kind};
use regex::{Regex, RegexBuilder};

/// The matchers of one request, read once.
pub(super) struct Matchers(Vec<OneNode>);

struct OneNode {
    id: Option<OneText>,
    metadata: Vec<(Vec<String>, OneValue)>,
}

enum OneText {
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
    /// Of both sides in lower case.
    Folded(Box<OneText>),
}

enum OneValue {
    Null,
    Range(f64, f64),
    Number(f64),
    Text(OneText),
    Bool(bool),
    Present(bool),
    OneOf(Box<OneValue>),
    Any(Vec<OneValue>),
}

/// Matchers within matchers.
const DEEPEST: usize = 16;
/// Of a compiled expression.
const REGEX_BYTES: usize = 1 << 20;

impl Matchers {
    pub(super) fn read(matchers: &[NodeMatcher]) -> Result<Self, String> {
        let one = |matcher: &NodeMatcher| {
            let id = matcher.node_id.as_ref().map(text).transpose()?;
            let metadata = matcher.node_metadatas.iter().map(path).collect::<Result<_, _>>()?;
            Ok(OneNode { id, metadata })
        };
        matchers.iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// One of them matches, or there are none.
    pub(super) fn match_node(&self, node: &Node) -> bool {
        let one = |matcher: &OneNode| {
            let id = matcher.id.as_ref().is_none_or(|id| id.matches(&node.id));
            id && matcher.metadata.iter().all(|(path, value)| value.matches(at(node.metadata.as_ref(), path)))
        };
        self.0.is_empty() || self.0.iter().any(one)
    }
}

fn text(matcher: &StringMatcher) -> Result<OneText, String> {
    let folded = |text: &str| if matcher.ignore_case { text.to_lowercase() } else { text.to_owned() };
    let plain = match matcher.match_pattern.as_ref() {
        Some(Text::Exact(text)) => OneText::Exact(folded(text)),
        Some(Text::Prefix(text)) => OneText::Prefix(folded(text)),
        Some(Text::Suffix(text)) => OneText::Suffix(folded(text)),
        Some(Text::Contains(text)) => OneText::Contains(folded(text)),
        Some(Text::SafeRegex(matcher)) => {
            // It is to match all of the text.
            let whole = format!("^(?:{})$", matcher.regex);
            let regex = RegexBuilder::new(&whole).size_limit(REGEX_BYTES).build();
            return regex.map(OneText::Regex).map_err(|error| format!("safe_regex: {error}"));
        }
        None => return Err("a text matcher has no pattern that is known here".into()),
    };
    Ok(if matcher.ignore_case { OneText::Folded(Box::new(plain)) } else { plain })
}

fn path(matcher: &StructMatcher) -> Result<(Vec<String>, OneValue), String> {
    let key = |segment: &crate::proto::matcher::struct_matcher::PathSegment| match &segment.segment {
        Some(Segment::Key(key)) => Ok(key.clone()),
        None => Err("a part of a metadata path has no key"),
    };
    let path: Vec<_> = matcher.path.iter().map(key).collect::<Result<_, _>>()?;
    let matcher = matcher.value.as_ref().ok_or("a metadata matcher has no value")?;
    Ok((path, value(matcher, 0)?))
}

fn value(matcher: &ValueMatcher, depth: usize) -> Result<OneValue, String> {
    if depth > DEEPEST {
        return Err("value matchers are nested too deeply".into());
    }
    let unknown = || "a value matcher has no pattern that is known here".to_owned();
    Ok(match matcher.match_pattern.as_ref().ok_or_else(unknown)? {
        Pattern::NullMatch(_) => OneValue::Null,
        Pattern::DoubleMatch(matcher) => match matcher.match_pattern.as_ref().ok_or_else(unknown)? {
            Double::Range(range) => OneValue::Range(range.start, range.end),
            Double::Exact(number) => OneValue::Number(*number),
        },
        Pattern::StringMatch(matcher) => OneValue::Text(text(matcher)?),
        Pattern::BoolMatch(wanted) => OneValue::Bool(*wanted),
        Pattern::PresentMatch(wanted) => OneValue::Present(*wanted),
        Pattern::ListMatch(matcher) => match matcher.match_pattern.as_ref().ok_or_else(unknown)? {
            List::OneOf(one) => OneValue::OneOf(Box::new(value(one, depth + 1)?)),
        },
        Pattern::OrMatch(matcher) => {
            let any = matcher.value_matchers.iter().map(|one| value(one, depth + 1));
            OneValue::Any(any.collect::<Result<_, _>>()?)
        }
    })
}

fn at<'a>(metadata: Option<&'a Struct>, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    let mut value = metadata?.fields.get(first)?;
    for key in rest {
        let Some(Kind::StructValue(within)) = &value.kind else { return None };
        value = within.fields.get(key)?;
    }
    Some(value)
}

impl OneText {
    fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(wanted) => text == wanted,
            Self::Prefix(wanted) => text.starts_with(wanted.as_str()),
            Self::Suffix(wanted) => text.ends_with(wanted.as_str()),
            Self::Contains(wanted) => text.contains(wanted.as_str()),
            Self::Regex(regex) => regex.is_match(text),
            Self::Folded(wanted) => wanted.matches(&text.to_lowercase()),
        }
    }
}

impl OneValue {
    fn matches(&self, value: Option<&Value>) -> bool {
        let kind = value.and_then(|value| value.kind.as_ref());
        match (self, kind) {
            (Self::Present(wanted), _) => value.is_some() == *wanted,
            (Self::Any(any), _) => any.iter().any(|one| one.matches(value)),
            (Self::Null, Some(Kind::NullValue(_))) => true,
            (Self::Range(start, end), Some(Kind::NumberValue(number))) => number >= start && number < end,
            (Self::Number(wanted), Some(Kind::NumberValue(number))) => number == wanted,
            (Self::Text(wanted), Some(Kind::StringValue(text))) => wanted.matches(text),
            (Self::Bool(wanted), Some(Kind::BoolValue(is))) => is == wanted,
            (Self::OneOf(wanted), Some(Kind::ListValue(list))) => {
                list.values.iter().any(|each| wanted.matches(Some(each)))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::matcher::{ListMatcher, OrMatcher, RegexMatcher};

    fn of(pattern: Text, ignore_case: bool) -> StringMatcher {
        StringMatcher { match_pattern: Some(pattern), ignore_case }
    }

    fn node(id: &str) -> Node {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let labels = Struct { fields: [("app".to_owned(), text("cart"))].into() };
        let list = crate::proto::protobuf::ListValue { values: vec![text("a"), text("b")] };
        let fields = [
            ("LABELS".to_owned(), Value { kind: Some(Kind::StructValue(labels)) }),
            ("LIST".to_owned(), Value { kind: Some(Kind::ListValue(list)) }),
            ("N".to_owned(), Value { kind: Some(Kind::NumberValue(7.0)) }),
            ("YES".to_owned(), Value { kind: Some(Kind::BoolValue(true)) }),
        ];
        Node { id: id.into(), metadata: Some(Struct { fields: fields.into() }), ..Node::default() }
    }

    #[test]
    fn ids() {
        let regex = |regex: &str| Text::SafeRegex(RegexMatcher { regex: regex.into() });
        let table = [
            (of(Text::Exact("n1".into()), false), true),
            (of(Text::Exact("N1".into()), false), false),
            (of(Text::Exact("N1".into()), true), true),
            (of(Text::Prefix("n".into()), false), true),
            (of(Text::Suffix("2".into()), false), false),
            (of(Text::Contains("N".into()), true), true),
            (of(regex("n[0-9]"), false), true),
            (of(regex("[0-9]"), false), false),
            (of(regex("n|x"), false), false),
        ];
        for (matcher, want) in table {
            let matchers = Matchers::read(&[NodeMatcher { node_id: Some(matcher.clone()), node_metadatas: vec![] }]);
            assert_eq!(matchers.unwrap().match_node(&node("n1")), want, "{matcher:?}");
        }
        assert!(Matchers::read(&[]).unwrap().match_node(&node("n1")));
        for bad in [StringMatcher::default(), of(regex("("), false), of(regex("(a{1000}){1000}"), false)] {
            assert!(Matchers::read(&[NodeMatcher { node_id: Some(bad), node_metadatas: vec![] }]).is_err());
        }
    }

    #[test]
    fn metadata() {
        let text = |text: &str| Pattern::StringMatch(of(Text::Exact(text.into()), false));
        let one = |pattern: Pattern| ValueMatcher { match_pattern: Some(pattern) };
        let list = |pattern| {
            Pattern::ListMatch(Box::new(ListMatcher { match_pattern: Some(List::OneOf(Box::new(one(pattern)))) }))
        };
        let or = |patterns: Vec<Pattern>| {
            Pattern::OrMatch(OrMatcher { value_matchers: patterns.into_iter().map(one).collect() })
        };
        let table: [(&[&str], Pattern, bool); 10] = [
            (&["LABELS", "app"], text("cart"), true),
            (&["LABELS", "app"], text("shop"), false),
            (&["LABELS", "app", "x"], Pattern::PresentMatch(true), false),
            (&["LABELS", "x"], Pattern::PresentMatch(false), true),
            (&["LIST"], list(text("b")), true),
            (&["LIST"], list(text("c")), false),
            (&["N"], or(vec![text("7"), Pattern::BoolMatch(true)]), false),
            (&["YES"], or(vec![text("7"), Pattern::BoolMatch(true)]), true),
            (&["YES"], Pattern::BoolMatch(false), false),
            (&["YES"], Pattern::NullMatch(Default::default()), false),
        ];
        for (path, pattern, want) in table {
            let segment = |key: &&str| crate::proto::matcher::struct_matcher::PathSegment {
                segment: Some(Segment::Key((*key).to_owned())),
            };
            let matcher = StructMatcher { path: path.iter().map(segment).collect(), value: Some(one(pattern.clone())) };
            let matchers = Matchers::read(&[NodeMatcher { node_id: None, node_metadatas: vec![matcher] }]);
            assert_eq!(matchers.unwrap().match_node(&node("n1")), want, "{path:?} {pattern:?}");
        }
    }
}
