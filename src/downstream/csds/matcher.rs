//! Which nodes a request means.
//!
//! Promise: anybody who may call at all may send these, so what one request costs
//! to compile and to hold is limited: see [`MATCHERS`], [`PATTERNS`] and [`REGEX_BYTES`].

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

/// Nodes that are told apart in one request, and conditions of them in all, those
/// within others too: so no deeper than this.
const MATCHERS: usize = 16;
/// Bytes of all texts and expressions of one request.
const PATTERNS: usize = 4 << 10;
/// Of a compiled expression.
const REGEX_BYTES: usize = 64 << 10;
/// What matching by it may keep for itself.
const DFA_BYTES: usize = 64 << 10;

/// What a request may still have.
struct Budget {
    conditions: usize,
    bytes: usize,
}

impl Budget {
    fn condition(&mut self) -> Result<(), String> {
        self.conditions = self.conditions.checked_sub(1).ok_or_else(|| {
            format!("more than {MATCHERS} matchers in one request; name nodes by a prefix, or ask more than once")
        })?;
        Ok(())
    }

    fn pattern(&mut self, text: &str) -> Result<(), String> {
        self.bytes = self.bytes.checked_sub(text.len()).ok_or_else(|| {
            format!("the patterns of one request have more than {PATTERNS} bytes; shorten them, or ask more than once")
        })?;
        Ok(())
    }
}

impl Matchers {
    pub(super) fn read(matchers: &[NodeMatcher]) -> Result<Self, String> {
        let mut budget = Budget { conditions: MATCHERS, bytes: PATTERNS };
        if matchers.len() > MATCHERS {
            return Err(format!("more than {MATCHERS} node_matchers; name nodes by a prefix, or ask more than once"));
        }
        let one = |matcher: &NodeMatcher| {
            let id = matcher.node_id.as_ref().map(|id| budget.condition().and_then(|()| text(id, &mut budget)));
            let id = id.transpose()?;
            let metadata = matcher.node_metadatas.iter().map(|each| path(each, &mut budget));
            Ok(OneNode { id, metadata: metadata.collect::<Result<_, _>>()? })
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

fn text(matcher: &StringMatcher, budget: &mut Budget) -> Result<OneText, String> {
    budget.pattern(match matcher.match_pattern.as_ref() {
        Some(Text::Exact(text) | Text::Prefix(text) | Text::Suffix(text) | Text::Contains(text)) => text,
        Some(Text::SafeRegex(matcher)) => &matcher.regex,
        None => "",
    })?;
    let folded = |text: &str| if matcher.ignore_case { text.to_lowercase() } else { text.to_owned() };
    let plain = match matcher.match_pattern.as_ref() {
        Some(Text::Exact(text)) => OneText::Exact(folded(text)),
        Some(Text::Prefix(text)) => OneText::Prefix(folded(text)),
        Some(Text::Suffix(text)) => OneText::Suffix(folded(text)),
        Some(Text::Contains(text)) => OneText::Contains(folded(text)),
        Some(Text::SafeRegex(matcher)) => {
            // It is to match all of the text.
            let whole = format!("^(?:{})$", matcher.regex);
            let regex = RegexBuilder::new(&whole).size_limit(REGEX_BYTES).dfa_size_limit(DFA_BYTES).build();
            return regex.map(OneText::Regex).map_err(|error| format!("safe_regex: {error}"));
        }
        None => return Err("a text matcher has no pattern that is known here".into()),
    };
    Ok(if matcher.ignore_case { OneText::Folded(Box::new(plain)) } else { plain })
}

fn path(matcher: &StructMatcher, budget: &mut Budget) -> Result<(Vec<String>, OneValue), String> {
    let key = |segment: &crate::proto::matcher::struct_matcher::PathSegment| match &segment.segment {
        Some(Segment::Key(key)) => budget.pattern(key).map(|()| key.clone()),
        None => Err("a part of a metadata path has no key".to_owned()),
    };
    let path: Vec<_> = matcher.path.iter().map(key).collect::<Result<_, _>>()?;
    let matcher = matcher.value.as_ref().ok_or("a metadata matcher has no value")?;
    Ok((path, value(matcher, budget)?))
}

fn value(matcher: &ValueMatcher, budget: &mut Budget) -> Result<OneValue, String> {
    budget.condition()?;
    let unknown = || "a value matcher has no pattern that is known here".to_owned();
    Ok(match matcher.match_pattern.as_ref().ok_or_else(unknown)? {
        Pattern::NullMatch(_) => OneValue::Null,
        Pattern::DoubleMatch(matcher) => match matcher.match_pattern.as_ref().ok_or_else(unknown)? {
            Double::Range(range) => OneValue::Range(range.start, range.end),
            Double::Exact(number) => OneValue::Number(*number),
        },
        Pattern::StringMatch(matcher) => OneValue::Text(text(matcher, budget)?),
        Pattern::BoolMatch(wanted) => OneValue::Bool(*wanted),
        Pattern::PresentMatch(wanted) => OneValue::Present(*wanted),
        Pattern::ListMatch(matcher) => match matcher.match_pattern.as_ref().ok_or_else(unknown)? {
            List::OneOf(one) => OneValue::OneOf(Box::new(value(one, budget)?)),
        },
        Pattern::OrMatch(matcher) => {
            let any = matcher.value_matchers.iter().map(|one| value(one, budget));
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
    fn what_costs_too_much_is_refused() {
        let by = |pattern: Text| NodeMatcher { node_id: Some(of(pattern, false)), node_metadatas: vec![] };
        let regex = |regex: &str| by(Text::SafeRegex(RegexMatcher { regex: regex.into() }));
        let leaf = || ValueMatcher { match_pattern: Some(Pattern::BoolMatch(true)) };
        let any = Pattern::OrMatch(OrMatcher { value_matchers: (0..MATCHERS).map(|_| leaf()).collect() });
        let any = StructMatcher { path: vec![], value: Some(ValueMatcher { match_pattern: Some(any) }) };
        let many = |many: usize| (0..many).map(|_| by(Text::Prefix("n".into()))).collect::<Vec<_>>();
        let table = [
            (many(MATCHERS), ""),
            (many(MATCHERS + 1), "more than 16 node_matchers; name nodes by a prefix"),
            (vec![NodeMatcher { node_id: None, node_metadatas: vec![any] }], "more than 16 matchers in one request"),
            (vec![by(Text::Exact("x".repeat(PATTERNS)))], ""),
            (vec![by(Text::Exact("x".repeat(PATTERNS))), by(Text::Exact("y".into()))], "more than 4096 bytes; shorten"),
            (vec![regex(r"sidecar~.*~shop-[0-9a-f]+\.prod~.*\.local")], ""),
            (vec![regex("[a-z]{5000}")], "safe_regex: "),
            (vec![regex(&r"\w".repeat(2000))], "safe_regex: "),
        ];
        for (at, (matchers, want)) in table.into_iter().enumerate() {
            let said = Matchers::read(&matchers).err().unwrap_or_default();
            assert!(said.contains(want) && said.is_empty() == want.is_empty(), "row {at}: {said}");
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
