//! The verbs, as an operator and a script meet them: what they print, and how
//! they exit, in every format.

#[path = "support/mod.rs"]
#[allow(dead_code, unreachable_pub, reason = "a library in all but name")]
mod support;

#[path = "cli/checks.rs"]
mod checks;
#[path = "cli/lists.rs"]
mod lists;
#[path = "cli/plain.rs"]
mod plain;
#[path = "cli/questions.rs"]
mod questions;
