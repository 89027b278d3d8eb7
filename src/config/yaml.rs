//! YAML as a tree that remembers where each part stands.
//!
//! Text in, tree and faults out. What the tree may hold is for
//! [`file`](super::file) to say.

use granit_parser::{Event, Options, Parser, ScalarStyle, Span};

/// Where something stands: line and column count from 1, in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub line: usize,
    pub column: usize,
    /// Characters on this line; at least one.
    pub length: usize,
}

#[derive(Debug)]
pub(super) struct Node {
    pub place: Place,
    pub content: Content,
}

#[derive(Debug)]
pub(super) enum Content {
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
pub(super) enum Sort {
    Nothing,
    Bool,
    Number,
    Text,
}

impl Sort {
    pub(super) fn of(text: &str, plain: bool) -> Self {
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
    pub(super) fn what(&self) -> &'static str {
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

    pub(super) fn is_nothing(&self) -> bool {
        matches!(&self.content, Content::Scalar { text, plain } if Sort::of(text, *plain) == Sort::Nothing)
    }
}

/// What is no YAML, or YAML that a configuration does not use.
#[derive(Debug)]
pub(super) struct Fault {
    pub place: Place,
    pub what: String,
}

/// The one document of `text`; `None` where there is none, or where reading
/// ended with a fault.
pub(super) fn read(text: &str) -> (Option<Node>, Vec<Fault>) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    // Reading recurses, and no key is this deep.
    options.block_nesting_limit = 32;
    options.flow_nesting_limit = 32;
    let mut reader = Reader { parser: Parser::new_from_str_with_options(text, options), faults: Vec::new() };
    let node = reader.document();
    (node, reader.faults)
}

struct Reader<'a> {
    parser: Parser<'a, granit_parser::StrInput<'a>>,
    faults: Vec<Fault>,
}

impl<'a> Reader<'a> {
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

    fn document(&mut self) -> Option<Node> {
        let mut found = None;
        while let Some((event, place)) = self.next() {
            match event {
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd | Event::StreamEnd => {}
                _ if found.is_some() => {
                    self.fault(place, "a second document begins here; a configuration is one document");
                    return None;
                }
                event => found = Some(self.node(event, place)?),
            }
        }
        // What ended with a fault is not whole.
        found.filter(|_| !self.faults.iter().any(|fault| fault.what.starts_with("this is not YAML")))
    }

    fn node(&mut self, event: Event<'a>, place: Place) -> Option<Node> {
        let tag = event.tag().is_some();
        let content = match event {
            Event::Scalar(text, style, ..) => {
                Content::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break Content::List(items),
                        (event, place) => items.push(self.node(event, place)?),
                    }
                }
            }
            Event::MappingStart(..) => {
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
            _ => {
                self.fault(place, "aliases are not read here; write the value itself");
                Content::Refused
            }
        };
        if tag {
            self.fault(place, "tags are not read here; leave the one before this value out");
        }
        Some(Node { place, content })
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
