//! `outpost completions SHELL`.

use super::{Cli, Failure};
use clap::{Args, CommandFactory};
use clap_complete::Shell;

#[derive(Args, Clone, Copy, Debug)]
pub struct Completions {
    /// The shell; bash: source <(outpost completions bash)
    shell: Shell,
}

pub(super) fn text(verb: Completions) -> Result<String, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(verb.shell, &mut Cli::command(), "outpost", &mut script);
    String::from_utf8(script).map_err(|error| Failure::Internal(error.to_string()))
}
