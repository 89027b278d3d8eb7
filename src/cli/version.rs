//! `outpost version`.

use super::Format;
use clap::Args;

#[derive(Args, Clone, Copy, Debug)]
pub struct Version {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
}

pub(super) fn text(version: Version) -> String {
    let number = env!("CARGO_PKG_VERSION");
    match version.output {
        Format::Table => format!("outpost {number}\n"),
        Format::Json => format!("{}\n", serde_json::json!({ "apiVersion": "outpost/v1", "version": number })),
    }
}
