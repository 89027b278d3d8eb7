//! One layer between what verbs find and what is printed: formats, columns,
//! filters. A filter is applied before a format is looked at, so that it holds
//! in every one.

use super::text::table;
use super::yaml;
use super::{Failure, Outcome};
use crate::admin::glob::matches;
use crate::admin::report::List;
use crate::xds::TypeUrl;
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::Value;

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people
    Table,
    /// More columns
    Wide,
    Json,
    Yaml,
    /// One name a line
    Name,
}

/// One column of a table.
pub(super) struct Column<T> {
    pub(super) head: &'static str,
    /// Only with `-o wide`.
    pub(super) wide: bool,
    pub(super) cell: fn(&T) -> String,
}

/// A column that is always there.
pub(super) const fn column<T>(head: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { head, wide: false, cell }
}

/// A column of `-o wide`.
pub(super) const fn wide<T>(head: &'static str, cell: fn(&T) -> String) -> Column<T> {
    Column { head, wide: true, cell }
}

/// How things of one kind are shown.
pub(super) struct View<T: 'static> {
    /// `Groups`
    pub(super) kind: &'static str,
    pub(super) columns: &'static [Column<T>],
    pub(super) name: fn(&T) -> String,
}

impl<T: Serialize> View<T> {
    /// All of `items`. Nothing is what a table of nothing holds.
    pub(super) fn text(&self, format: Format, items: Vec<T>) -> Result<String, Failure> {
        match format {
            Format::Table | Format::Wide if items.is_empty() => Ok(String::new()),
            Format::Table | Format::Wide => Ok(self.table(format == Format::Wide, &items)),
            Format::Json | Format::Yaml => document(format, &List::new(self.kind, items)),
            Format::Name => Ok(items.iter().map(|item| (self.name)(item) + "\n").collect()),
        }
    }

    pub(super) fn table(&self, wide: bool, items: &[T]) -> String {
        let columns: Vec<_> = self.columns.iter().filter(|column| wide || !column.wide).collect();
        let head = columns.iter().map(|column| column.head.to_owned()).collect();
        let row = |item: &T| columns.iter().map(|column| (column.cell)(item)).collect();
        let rows: Vec<Vec<String>> = std::iter::once(head).chain(items.iter().map(row)).collect();
        table(&rows)
    }
}

/// One document, as JSON unless YAML is asked for.
pub(super) fn document(format: Format, value: &impl Serialize) -> Result<String, Failure> {
    let text = match format {
        Format::Yaml => serde_json::to_value(value).map(|value| yaml::document(&value)),
        _ => serde_json::to_string_pretty(value).map(|text| text + "\n"),
    };
    text.map_err(|error| Failure::Internal(error.to_string()))
}

pub(super) fn pretty(value: &Value) -> String {
    // A value of strings, numbers and lists can always be written.
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}

/// What of a list is wanted.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct Filter {
    /// Only nodes with such an id; * stands for anything
    #[arg(long, value_name = "GLOB")]
    pub(super) node: Option<String>,
    /// Only groups with such a key; * stands for anything
    #[arg(long, value_name = "GLOB")]
    pub(super) group: Option<String>,
    /// Only this type: cds, eds, lds, rds, … or a whole type URL
    #[arg(long = "type", value_name = "TYPE", value_parser = type_url)]
    pub(super) type_url: Option<TypeUrl>,
}

impl Filter {
    pub(super) fn takes_node(&self, id: &str) -> bool {
        self.node.as_deref().is_none_or(|glob| matches(glob, id))
    }

    pub(super) fn takes_group(&self, key: &str) -> bool {
        self.group.as_deref().is_none_or(|glob| matches(glob, key))
    }

    pub(super) fn takes_type(&self, url: &str) -> bool {
        self.type_url.as_ref().is_none_or(|wanted| wanted.as_str() == url)
    }
}

/// A type as people name it.
pub(super) fn type_url(text: &str) -> Result<TypeUrl, String> {
    crate::admin::type_of(text).map_err(str::to_owned)
}

/// Each line two blanks further in.
pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// A finding where there is nothing.
pub(super) fn found(any: bool) -> Outcome {
    if any { Outcome::Good } else { Outcome::Finding }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_list_in_every_format() {
        #[derive(Serialize)]
        struct Thing(&'static str, u32);
        let view: View<Thing> = View {
            kind: "Things",
            columns: const { &[column("NAME", |thing| thing.0.into()), wide("SIZE", |thing| thing.1.to_string())] },
            name: |thing| thing.0.into(),
        };
        let json = "{\n  \"apiVersion\": \"outpost/v1\",\n  \"kind\": \"Things\",\n  \"items\": \
                    [\n    [\n      \"a\",\n      1\n    ]\n  ]\n}\n";
        let table = [
            (Format::Table, "NAME\na\n"),
            (Format::Wide, "NAME  SIZE\na     1\n"),
            (Format::Json, json),
            (Format::Yaml, "apiVersion: outpost/v1\nitems:\n  - - a\n    - 1\nkind: Things\n"),
            (Format::Name, "a\n"),
        ];
        for (format, want) in table {
            assert_eq!(view.text(format, vec![Thing("a", 1)]).unwrap(), want);
        }
        assert_eq!(view.text(Format::Table, vec![]).unwrap(), "");
    }
}
