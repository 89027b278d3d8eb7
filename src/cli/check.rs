//! `outpost check`: what would keep an Outpost of this configuration from
//! serving, or does; each finding with what to do.
//!
//! Nothing is changed anywhere. The control plane is asked once for clusters.

mod local;
mod reach;
mod running;

use super::output::pretty;
use super::{Failure, Outcome};
use crate::admin::report::API_VERSION;
use crate::clock::Clock;
use crate::config::{Given, Layers, span, unknown_variables};
use clap::{Args, ValueEnum};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

#[derive(Args, Clone, Debug)]
pub struct Check {
    /// Check again until all is well, at most for this time
    #[arg(long, value_name = "TIME")]
    wait: Option<String>,
    /// The node id to present in the one ask to the control plane
    #[arg(long, value_name = "ID", default_value = "outpost-check")]
    as_node: String,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    output: Format,
    #[command(flatten)]
    given: Box<Given>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    /// Only what is not well
    Short,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
enum Verdict {
    Success,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    description: String,
    result: Verdict,
    /// What is wrong.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

impl Finding {
    fn good(description: impl Into<String>) -> Self {
        Self { description: description.into(), result: Verdict::Success, error: None, hint: None }
    }

    fn warning(description: impl Into<String>, error: impl Into<String>, hint: impl Into<String>) -> Self {
        let (error, hint) = (Some(error.into()), Some(hint.into()));
        Self { description: description.into(), result: Verdict::Warning, error, hint }
    }

    fn error(description: impl Into<String>, error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { result: Verdict::Error, ..Self::warning(description, error, hint) }
    }
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Category {
    category_name: &'static str,
    checks: Vec<Finding>,
}

impl Category {
    fn new(category_name: &'static str, checks: Vec<Finding>) -> Self {
        Self { category_name, checks }
    }
}

const AGAIN: Duration = Duration::from_secs(1);

pub(super) async fn run(check: &Check) -> Result<(String, Outcome), Failure> {
    let clock = Clock::system();
    let until = match &check.wait {
        None => None,
        Some(text) => {
            let most = span(text).map_err(|what| Failure::Usage(format!("--wait {text:?} {what}")))?;
            Some(clock.now() + most)
        }
    };
    loop {
        let (categories, valid) = look(check, &clock).await;
        let success = !categories.iter().flat_map(|each| &each.checks).any(|each| each.result == Verdict::Error);
        let next = clock.now() + AGAIN;
        if let Some(until) = until.filter(|until| !success && next < *until) {
            clock.sleep_until(next.min(until)).await;
            continue;
        }
        let outcome = match (success, until) {
            (true, _) => Outcome::Good,
            (false, None) if !valid => Outcome::Invalid,
            (false, None) => Outcome::Finding,
            (false, Some(_)) => Outcome::TimedOut,
        };
        return Ok((render(check.output, &categories, success), outcome));
    }
}

/// Is the configuration valid, too?
async fn look(check: &Check, clock: &Clock) -> (Vec<Category>, bool) {
    let layers = Layers::read(&check.given);
    let config = match layers.check() {
        Ok(config) => config,
        Err(problems) => {
            let of = |problem: &crate::config::Problem| {
                Finding::error(
                    "the configuration is valid",
                    format!("{} {}", problem.at, problem.what),
                    "see outpost config validate",
                )
            };
            return (vec![Category::new("configuration", problems.0.iter().map(of).collect())], false);
        }
    };
    let mut configuration = vec![Finding::good("the configuration is valid")];
    for warning in config.warnings() {
        let (what, hint) = warning.rsplit_once("; ").unwrap_or((warning, "see README.md"));
        configuration.push(Finding::warning(
            "it trusts no more than it must",
            layers.reword(what),
            layers.reword(hint),
        ));
    }
    for warning in unknown_variables() {
        let (what, hint) = warning.rsplit_once("; ").unwrap_or((&warning, "see README.md"));
        configuration.push(Finding::warning("every OUTPOST_ variable is known", what, hint));
    }
    let admin = config.admin.address.to_string();
    let (running, here) = running::look(&admin).await;
    let (upstream, clocks) = match &config.files {
        Some(directory) => (local::files(directory), vec![reach::no_clock("files tell no time")]),
        None => reach::look(&config, &check.as_node, clock).await,
    };
    let categories = vec![
        Category::new("configuration", configuration),
        Category::new("ports", local::ports(&config, here).await),
        Category::new("certificates", local::certificates(&config)),
        Category::new("limits", local::limits(&config)),
        Category::new("upstream", upstream),
        Category::new("clock", clocks),
        Category::new("running outpost", running),
    ];
    (categories, true)
}

fn render(format: Format, categories: &[Category], success: bool) -> String {
    if format == Format::Json {
        return pretty(&json!({
            "apiVersion": API_VERSION, "kind": "Checks", "success": success, "categories": categories,
        }));
    }
    let mut text = String::new();
    for category in categories {
        let shown = |each: &&Finding| format == Format::Table || each.result != Verdict::Success;
        let findings: Vec<_> = category.checks.iter().filter(shown).collect();
        if !findings.is_empty() {
            let name = category.category_name;
            text.push_str(&format!("{name}\n{}\n", "-".repeat(name.len())));
            findings.into_iter().for_each(|each| text.push_str(&lines(each)));
            text.push('\n');
        }
    }
    text.push_str(if success { "all is well\n" } else { "something is wrong\n" });
    text
}

fn lines(finding: &Finding) -> String {
    let mark = match finding.result {
        Verdict::Success => '√',
        Verdict::Warning => '‼',
        Verdict::Error => '×',
    };
    let mut text = format!("{mark} {}\n", finding.description);
    for more in [finding.error.clone(), finding.hint.as_ref().map(|hint| format!("hint: {hint}"))].into_iter().flatten()
    {
        more.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_shows_only_what_is_not_well() {
        let good = Finding::good("a is");
        let bad = Finding::error("b is", "it is not\nat all", "make it");
        let categories = [Category::new("one", vec![good.clone()]), Category::new("two", vec![good, bad])];
        let bad = "two\n---\n× b is\n    it is not\n    at all\n    hint: make it\n\nsomething is wrong\n";
        assert_eq!(render(Format::Short, &categories, false), bad);
        let all = render(Format::Table, &categories, false);
        assert!(all.starts_with("one\n---\n√ a is\n\ntwo\n---\n√ a is\n× b is\n"), "{all}");
        let json: serde_json::Value = serde_json::from_str(&render(Format::Json, &categories, false)).unwrap();
        assert_eq!(json["success"], false);
        assert_eq!(json["categories"][1]["categoryName"], "two");
        let want = json!({"description": "b is", "result": "error", "error": "it is not\nat all", "hint": "make it"});
        assert_eq!(json["categories"][1]["checks"][1], want);
    }
}
