//! YAML as a tree that remembers where each part stands.
//!
//! Text in, tree and faults out. What the tree may hold is for its reader to
//! say: the configuration, the files upstream, the descriptors. JSON is read
//! as the YAML that it is.

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};
use std::collections::HashMap;

/// Where something stands: line and column count from 1, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub line: usize,
    pub column: usize,
    /// Characters on this line; at least one.
    pub length: usize,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Scalar {
        text: String,
        /// Without quotes: it may be a number, true, false or nothing.
        plain: bool,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    /// A fault has been told.
    Refused,
}

/// What a scalar is by YAML 1.2: `yes` and `1:30` are text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Nothing,
    Bool,
    Number,
    Text,
}

impl Sort {
    pub(crate) fn of(text: &str, plain: bool) -> Self {
        match text {
            _ if !plain => Self::Text,
            "" | "~" | "null" | "Null" | "NULL" => Self::Nothing,
            "true" | "True" | "TRUE" | "false" | "False" | "FALSE" => Self::Bool,
            _ if is_number(text) => Self::Number,
            _ => Self::Text,
        }
    }
}

fn is_number(text: &str) -> bool {
    if [".inf", "-.inf", "+.inf", ".nan"].contains(&text.to_ascii_lowercase().as_str()) {
        return true;
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    let starts = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let prefixed = digits.strip_prefix("0x").is_some_and(|hex| u128::from_str_radix(hex, 16).is_ok())
        || digits.strip_prefix("0o").is_some_and(|octal| u128::from_str_radix(octal, 8).is_ok());
    prefixed || starts && text.parse::<f64>().is_ok()
}

impl Node {
    /// For messages: what this is.
    pub(crate) fn what(&self) -> &'static str {
        match &self.content {
            Content::Scalar { text, plain } => match Sort::of(text, *plain) {
                Sort::Nothing => "nothing",
                Sort::Bool => "true or false",
                Sort::Number => "a number",
                Sort::Text => "text",
            },
            Content::List(_) => "a list",
            Content::Map(_) => "keys and values",
            Content::Refused => "what cannot be read",
        }
    }

    /// How large this is, in nodes and what their text takes besides, and how deep.
    fn extent(&self) -> (usize, usize) {
        let of = |(size, depth): (usize, usize), node: &Self| {
            let (more, deep) = node.extent();
            (size + more, depth.max(deep))
        };
        let (size, depth) = match &self.content {
            Content::List(items) => items.iter().fold((0, 0), of),
            Content::Map(entries) => entries.iter().flat_map(|(key, value)| [key, value]).fold((0, 0), of),
            Content::Scalar { text, .. } => (text.len() / 64, 0),
            Content::Refused => (0, 0),
        };
        (size + 1, depth + 1)
    }

    pub(crate) fn is_nothing(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain } if Sort::of(text, *plain) == Sort::Nothing)
    }
}

/// What is no YAML, or YAML that is not used here.
#[derive(Debug)]
pub(crate) struct Fault {
    pub place: Place,
    pub what: String,
}

/// Reading recurses, and no key of a configuration is this deep.
const DEEPEST_KEY: usize = 32;
/// A resource may be: a filter in a filter in a filter.
const DEEPEST_RESOURCE: usize = 128;
/// What aliases may add to a text, all in all: nodes, and one for each 64 bytes of text.
const REPEATED: usize = 200_000;

/// The one document of `text`; `None` where there is none, or where reading
/// ended with a fault.
pub(crate) fn read(text: &str) -> (Option<Node>, Vec<Fault>) {
    let mut reader = Reader::new(text, DEEPEST_KEY);
    let found = reader.documents(1);
    (found.and_then(|mut found| found.pop()), reader.faults)
}

/// Every document of `text`, with aliases replaced by what they stand for;
/// nothing where reading ended with a fault.
pub(crate) fn read_all(text: &str) -> (Vec<Node>, Vec<Fault>) {
    let mut reader = Reader::new(text, DEEPEST_RESOURCE);
    reader.anchors = Some(HashMap::new());
    let found = reader.documents(usize::MAX);
    (found.unwrap_or_default(), reader.faults)
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    faults: Vec<Fault>,
    /// By the parser's number; `None` where aliases are not read.
    anchors: Option<HashMap<usize, Node>>,
    repeated: usize,
    depth: usize,
    deepest: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str, deepest: usize) -> Self {
        let mut options = Options::default();
        options.set_emit_comments(false);
        options.block_nesting_limit = deepest;
        options.flow_nesting_limit = deepest;
        let parser = Parser::new_from_str_with_options(text, options);
        Self { parser, faults: Vec::new(), anchors: None, repeated: 0, depth: 0, deepest }
    }

    /// `None` after a fault that ends everything, and at the end.
    fn next(&mut self) -> Option<(Event<'a>, Place)> {
        match self.parser.next()? {
            Ok((event, span)) => Some((event, place(span))),
            Err(error) => {
                let at = error.marker();
                let place = Place { line: at.line().max(1), column: at.col() + 1, length: 1 };
                self.faults.push(Fault { place, what: format!("this is not YAML: {}", error.info()) });
                None
            }
        }
    }

    fn documents(&mut self, most: usize) -> Option<Vec<Node>> {
        let mut found = Vec::new();
        while let Some((event, place)) = self.next() {
            match event {
                Event::DocumentStart(..) => {
                    // An anchor holds within its document.
                    self.anchors.iter_mut().for_each(HashMap::clear);
                }
                Event::StreamStart | Event::DocumentEnd | Event::StreamEnd => {}
                _ if found.len() == most => {
                    self.fault(place, "a second document begins here; a configuration is one document");
                    return None;
                }
                event => found.push(self.node(event, place)?),
            }
        }
        // What ended with a fault is not whole.
        let whole = !self.faults.iter().any(|fault| fault.what.starts_with("this is not YAML"));
        whole.then_some(found)
    }

    fn node(&mut self, event: Event<'a>, place: Place) -> Option<Node> {
        let tag = event.tag().is_some();
        let mut anchor = 0;
        self.depth += 1;
        let content = match event {
            Event::Scalar(text, style, id, ..) => {
                anchor = id;
                Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(_, id, ..) => {
                anchor = id;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Content::List(items),
                        (event, place) => items.push(self.node(event, place)?),
                    }
                }
            }
            Event::MappingStart(_, id, ..) => {
                anchor = id;
                let mut entries = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, _) => break Content::Map(entries),
                        (event, place) => self.node(event, place)?,
                    };
                    let (event, place) = self.next()?;
                    entries.push((key, self.node(event, place)?));
                }
            }
            Event::Alias(id) => self.alias(id, place),
            _ => Content::Refused,
        };
        self.depth -= 1;
        if tag {
            self.fault(place, "tags are not read here; leave the one before this value out");
        }
        let node = Node { place, content };
        if let Some(anchors) = self.anchors.as_mut().filter(|_| anchor > 0) {
            anchors.insert(anchor, node.clone());
        }
        Some(node)
    }

    /// What stands at the anchor. Its parts keep their own places.
    fn alias(&mut self, anchor: usize, place: Place) -> Content {
        let Some(anchors) = &self.anchors else {
            self.fault(place, "aliases are not read here; write the value itself");
            return Content::Refused;
        };
        // Not there: the alias stands within what it names.
        let Some(node) = anchors.get(&anchor) else {
            self.fault(place, "this alias stands within its own anchor; write the value itself");
            return Content::Refused;
        };
        let (size, depth) = node.extent();
        self.repeated = self.repeated.saturating_add(size);
        if self.repeated > REPEATED || self.depth + depth > self.deepest {
            self.fault(place, "aliases make this text too large; write the values themselves");
            return Content::Refused;
        }
        node.content.clone()
    }

    fn fault(&mut self, place: Place, what: &str) {
        self.faults.push(Fault { place, what: what.into() });
    }
}

fn place(span: Span) -> Place {
    let (start, end) = (span.start, span.end);
    let length = if end.line() == start.line() { end.col().saturating_sub(start.col()) } else { 1 };
    Place { line: start.line().max(1), column: start.col() + 1, length: length.max(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(node: &Node) -> String {
        match &node.content {
            Content::Scalar { text, .. } => text.clone(),
            Content::List(items) => format!("[{}]", items.iter().map(text).collect::<Vec<_>>().join(",")),
            Content::Map(entries) => {
                let entries = entries.iter().map(|(key, value)| format!("{}:{}", text(key), text(value)));
                format!("{{{}}}", entries.collect::<Vec<_>>().join(","))
            }
            Content::Refused => "?".into(),
        }
    }

    fn all(yaml: &str) -> Result<String, String> {
        let (nodes, faults) = read_all(yaml);
        match faults.first() {
            Some(fault) => Err(fault.what.clone()),
            None => Ok(nodes.iter().map(text).collect::<Vec<_>>().join(" ")),
        }
    }

    #[test]
    fn documents_and_aliases_are_read_where_they_may_stand() {
        assert_eq!(all("a: 1\n---\nb: 2\n").as_deref(), Ok("{a:1} {b:2}"));
        assert_eq!(all("a: &x [1, 2]\nb: *x\n").as_deref(), Ok("{a:[1,2],b:[1,2]}"));
        assert_eq!(all("").as_deref(), Ok(""));
        let json = "{\n\t\"a\": [\"b\\/\\u00e9\\n\", 1.5e3, true, null]\n}\n";
        assert_eq!(all(json).as_deref(), Ok("{a:[b/\u{e9}\n,1.5e3,true,null]}"));
        let error = all("a: &x [1]\n---\nb: *x\n").unwrap_err();
        assert!(error.contains("anchor"), "{error}");
        let bomb: String = (1..9).fold("a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".into(), |text, n| {
            let many = vec![format!("*a{}", n - 1); 10].join(",");
            format!("{text}a{n}: &a{n} [{many}]\n")
        });
        assert!(all(&bomb).unwrap_err().contains("too large"));
        let long = format!("a: &a {}\nb: [{}]", "x".repeat(1 << 20), vec!["*a"; 10_000].join(","));
        assert!(all(&long).unwrap_err().contains("too large"));
        let deep = format!("a: {}{}", "[".repeat(5_000), "]".repeat(5_000));
        assert!(all(&deep).unwrap_err().contains("not YAML"));
    }
}
