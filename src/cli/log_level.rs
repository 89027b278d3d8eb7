//! `outpost log-level`: what a running Outpost logs, and more of it for a while.

use super::output::{Format, document};
use super::text::age;
use super::{Asking, Failure, fetch};
use crate::admin::report::Levels;
use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct LogLevel {
    /// debug, or outpost::upstream=debug; several may be given. Without any the levels are shown
    #[arg(value_name = "[TARGET=]LEVEL", value_delimiter = ',')]
    levels: Vec<String>,
    /// The configured levels come back after this time, 24h at most
    #[arg(long = "for", value_name = "TIME", default_value = "10m", requires = "levels")]
    span: String,
    /// Back to the configured levels now
    #[arg(long, conflicts_with_all = ["levels", "span"])]
    reset: bool,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(verb: &LogLevel) -> Result<String, Failure> {
    let admin = &verb.asking.admin;
    let levels: Levels = if verb.reset {
        fetch::post(admin, "/logging?reset").await?
    } else if verb.levels.is_empty() {
        fetch::one(admin, "/logging").await?
    } else {
        let filter = fetch::quoted(&verb.levels.join(","));
        fetch::post(admin, &format!("/logging?level={filter}&for={}", fetch::quoted(&verb.span))).await?
    };
    match verb.asking.output {
        Format::Table | Format::Wide => Ok(text(&levels)),
        Format::Name => Ok(format!("{}\n", levels.temporary.as_ref().unwrap_or(&levels.configured))),
        format => document(format, &levels),
    }
}

fn text(levels: &Levels) -> String {
    let mut text = format!("configured: {}\n", levels.configured);
    if let (Some(temporary), Some(left)) = (&levels.temporary, levels.remaining_seconds) {
        text.push_str(&format!("for {} more: {temporary}\n", age(left)));
    }
    text
}
