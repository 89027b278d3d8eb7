//! `report.md`, for pull requests.

use super::{HEADS, cells};
use crate::bench::results::Document;
use std::fmt::Write;

pub fn markdown(document: &Document) -> String {
    let mut out = String::from("# Push latency\n\n");
    for (name, value) in super::html::facts(document) {
        let _ = writeln!(out, "- {name}: {}", value.replace('|', "\\|"));
    }
    let _ = writeln!(out, "\n| {} |\n|{}", HEADS.map(str::to_lowercase).join(" | "), "---|".repeat(HEADS.len()));
    for row in &document.results {
        let _ = writeln!(out, "| {} |", cells(row, &document.results).map(|cell| cell.replace('|', "\\|")).join(" | "));
    }
    out.push('\n');
    for note in &document.notes {
        let _ = writeln!(out, "- {note}");
    }
    out
}
