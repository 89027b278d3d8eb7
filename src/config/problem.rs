//! What is wrong with a configuration, as an operator reads it.

use crate::yaml::Place;
use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: the flag, the variable or the place in the file, with what was given.
    pub at: String,
    /// What is wrong and what to do.
    pub what: String,
    /// The line of the file.
    pub excerpt: Option<Excerpt>,
}

/// Everything that is wrong; at least one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration is not valid:")?;
        for problem in &self.0 {
            write!(f, "\n  {} {}", problem.at, problem.what)?;
            if let Some(excerpt) = &problem.excerpt {
                write!(f, "\n{excerpt}")?;
            }
        }
        Ok(())
    }
}

impl Problems {
    /// Without lines of the file, on one line: for logs and status, whose readers may
    /// be others than those of the file.
    pub fn brief(&self) -> String {
        let each: Vec<_> = self.0.iter().map(|problem| format!("{} {}", problem.at, problem.what)).collect();
        each.join("; ")
    }
}

/// A line of a file with a mark below what is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Excerpt {
    line: usize,
    text: String,
    /// Characters before the mark, and of it.
    before: usize,
    length: usize,
}

impl Excerpt {
    /// Characters of a line that are shown.
    const WIDEST: usize = 100;

    pub(crate) fn new(line: &str, place: Place) -> Self {
        let start = place.column.saturating_sub(1);
        // The mark is always within what is shown.
        let skip = (start + 20).saturating_sub(Self::WIDEST);
        let shown = |c: char| if c.is_control() { ' ' } else { c };
        let text: String = line.chars().skip(skip).take(Self::WIDEST).map(shown).collect();
        let room = text.chars().count().saturating_sub(start - skip);
        Self {
            line: place.line,
            text: text.trim_end().into(),
            before: start - skip,
            length: place.length.min(room).max(1),
        }
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, mark) = (" ".repeat(self.before), "^".repeat(self.length));
        write!(f, "  {:>5} | {}\n        | {before}{mark}", self.line, self.text)
    }
}
