//! `outpost version`.

use super::Failure;
use super::output::{Format, document};
use clap::Args;
use serde_json::json;

#[derive(Args, Clone, Copy, Debug)]
pub struct Version {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

pub(super) fn text(version: Version) -> Result<String, Failure> {
    let number = env!("CARGO_PKG_VERSION");
    match version.output {
        Format::Table | Format::Wide => Ok(format!("outpost {number}\n")),
        Format::Name => Ok(format!("{number}\n")),
        format => document(format, &json!({ "apiVersion": "outpost/v1", "kind": "Version", "version": number })),
    }
}
