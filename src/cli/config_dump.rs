//! `outpost config-dump`: what is held, with its content, as Envoy shows it.

use super::fetch::{self, Answer};
use super::get::{RESOURCES, query};
use super::output::{Filter, Format, found};
use super::{Failure, Outcome, print_bytes, yaml};
use crate::admin::report::HeldResource;
use crate::config::Admin;
use clap::Args;
use serde_json::Value;

#[derive(Args, Clone, Debug)]
pub struct ConfigDump {
    #[command(flatten)]
    filter: Filter,
    /// Only this list of Envoy's dump: dynamic_active_clusters, dynamic_listeners, …
    #[arg(long, value_name = "LIST")]
    resource: Option<String>,
    /// Only these fields, such as cluster.name,version_info
    #[arg(long, value_name = "PATHS")]
    mask: Option<String>,
    /// Only names that this regular expression describes as a whole
    #[arg(long, value_name = "REGEX")]
    name_regex: Option<String>,
    /// Endpoints too
    #[arg(long)]
    include_eds: bool,
    /// How to print; table, wide and name are without content
    #[arg(short, long, value_name = "FORMAT", default_value = "json")]
    output: Format,
    /// Its admin endpoint
    #[arg(long, env = "OUTPOST_ADMIN", value_name = "ADDR", default_value = Admin::DEFAULT)]
    admin: String,
}

/// A dump of nothing.
const EMPTY: usize = "{\"configs\": [\n]}\n".len();

pub(super) async fn run(dump: &ConfigDump) -> Result<Outcome, Failure> {
    let endpoints = dump.include_eds.then_some("true");
    let more = [
        ("resource", dump.resource.as_deref()),
        ("mask", dump.mask.as_deref()),
        ("name_regex", dump.name_regex.as_deref()),
        ("include_eds", endpoints),
    ];
    let query = query(&dump.filter, &more);
    // Nothing where somebody is named is a finding.
    let asked = dump.filter.node.is_some() || dump.filter.group.is_some() || dump.name_regex.is_some();
    match dump.output {
        Format::Json => {
            let mut answer = Answer::ask(&dump.admin, &format!("/config_dump{query}")).await?;
            let mut bytes = 0;
            while let Some(part) = answer.next().await? {
                bytes += part.len();
                print_bytes(&part)?;
            }
            Ok(concluded(bytes > EMPTY, asked))
        }
        Format::Yaml => {
            let value: Value = fetch::one(&dump.admin, &format!("/config_dump{query}")).await?;
            print_bytes(yaml::document(&value).as_bytes())?;
            Ok(concluded(value["configs"].as_array().is_some_and(|configs| !configs.is_empty()), asked))
        }
        format => {
            if dump.mask.is_some() {
                return Err(Failure::Usage("--mask is for -o json and yaml: other formats show no content".into()));
            }
            let items: Vec<HeldResource> = fetch::list(&dump.admin, &format!("/resources{query}")).await?;
            let any = !items.is_empty();
            print_bytes(RESOURCES.text(format, items)?.as_bytes())?;
            Ok(concluded(any, asked))
        }
    }
}

/// Nothing is a finding where somebody was `asked` for, and said in any case.
fn concluded(any: bool, asked: bool) -> Outcome {
    if !any {
        eprintln!("there are none");
    }
    found(any || !asked)
}
