//! `outpost config`: check, describe and explain the configuration of
//! `outpost serve`. Nothing is started and nobody is asked.

use super::Failure;
use super::text::count;
use crate::admin::report::List;
use crate::config::{self, Given, Layers, Origin, Value};
use crate::files;
use crate::transport::tls::not_valid;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::time::SystemTime;

#[derive(Args, Clone, Debug)]
pub struct Config {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Debug, Subcommand)]
enum What {
    /// Check a configuration as outpost serve does; exits with 3 and all that is wrong
    Validate(Box<Given>),
    /// Print a configuration file of all defaults, with what each setting means
    Defaults,
    /// Print the JSON schema of the configuration file
    Schema,
    /// Print all settings, and whence each value comes
    Effective(Effective),
}

#[derive(Args, Clone, Debug)]
struct Effective {
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "yaml")]
    output: Format,
    #[command(flatten)]
    given: Box<Given>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Yaml,
    Json,
}

/// What to print.
pub(super) fn text(config: &Config) -> Result<String, Failure> {
    match &config.what {
        What::Validate(given) => {
            let (_, config) = checked(given)?;
            let Some(directory) = &config.files else { return Ok("the configuration is valid\n".into()) };
            let (_, loaded) = files::load(directory).map_err(|problems| Failure::Config(invalid(&problems)))?;
            Ok(format!(
                "the configuration is valid, and so are {} of {} in {}\n",
                count(loaded.resources, "resource"),
                count(loaded.files, "file"),
                directory.display()
            ))
        }
        What::Defaults => Ok(config::defaults()),
        What::Schema => Ok(pretty(&config::schema())),
        What::Effective(effective) => {
            let (layers, _) = checked(&effective.given)?;
            match effective.output {
                Format::Yaml => Ok(config::effective(layers.values())),
                Format::Json => {
                    let items = layers.values().iter().map(item).collect();
                    Ok(pretty(&List::<serde_json::Value>::new("Settings", items)))
                }
            }
        }
    }
}

/// Warnings are messages, not data.
fn checked(given: &Given) -> Result<(Layers, config::Config), Failure> {
    let layers = Layers::read(given);
    let config = layers.check().map_err(|problems| Failure::Config(problems.to_string()))?;
    for warning in config.warnings() {
        eprintln!("outpost: warning: {}", layers.reword(warning));
    }
    for warning in config::unknown_variables() {
        eprintln!("outpost: warning: {warning}");
    }
    // Usable or not, they are replaced without a restart.
    let (tls, upstream) = (&config.downstream.tls, &config.upstream.tls);
    let certificates = tls.iter().map(|tls| ("--tls-cert", &tls.certificate));
    let certificates =
        certificates.chain(upstream.iter().flat_map(|tls| Some(("--upstream-cert", tls.certificate.as_ref()?))));
    for (flag, path) in certificates {
        if let Some(error) = not_valid(path, SystemTime::now()) {
            eprintln!("outpost: warning: {}: {error}", layers.reword(flag));
        }
    }
    Ok((layers, config))
}

fn invalid(problems: &files::Problems) -> String {
    let each = problems.0.iter().map(|problem| format!("\n  {problem}"));
    format!("the files are not valid:{}", each.collect::<String>())
}

fn item(value: &Value) -> serde_json::Value {
    let setting = &value.setting;
    let (origin, file) = match &value.origin {
        Origin::Unset => ("unset", None),
        Origin::Default => ("default", None),
        Origin::File { name, line } => ("file", Some((name, line))),
        Origin::Environment(_) => ("environment", None),
        Origin::Flag(_) => ("flag", None),
    };
    let set = value.origin != Origin::Unset;
    let mut item = json!({
        "key": setting.key,
        "value": set.then(|| config::json(setting.kind, &value.shown())),
        "origin": origin,
        "flag": setting.flag,
        "environment": setting.env,
    });
    if let Some((name, line)) = file {
        item["file"] = json!(name);
        item["line"] = json!(line);
    }
    item
}

fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
