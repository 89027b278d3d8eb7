//! `outpost get`: lists, in every format.

use super::fetch::{self, quoted};
use super::output::{Filter, Format, View, column, wide};
use super::status::{self, STREAMS};
use super::text::{age, clean};
use super::watch::{Shown, Watch};
use super::{Asking, Failure, Outcome};
use crate::admin::report::{Client, Group, HeldResource, Upstream};
use clap::{Args, ValueEnum};
use serde::Serialize;

#[derive(Args, Clone, Debug)]
pub struct Get {
    #[arg(value_name = "WHAT")]
    what: What,
    #[command(flatten)]
    filter: Filter,
    /// Of resources: only names that this regular expression describes as a whole
    #[arg(long, value_name = "REGEX")]
    name_regex: Option<String>,
    #[command(flatten)]
    watch: Watch,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// Streams of sidecars
    #[value(alias = "sidecar")]
    Sidecars,
    /// Who shares what is held
    #[value(alias = "group")]
    Groups,
    /// Addresses of the control plane
    #[value(alias = "upstream")]
    Upstreams,
    /// Names that are held; with --node those that its streams have
    #[value(alias = "resource")]
    Resources,
}

const GROUPS: View<Group> = View {
    kind: "Groups",
    columns: &[
        column("GROUP", |group| clean(&group.key)),
        column("MEMBERS", |group| group.members.to_string()),
        column("RESOURCES", |group| group.types.iter().map(|each| each.resources).sum::<usize>().to_string()),
        column("UPSTREAM", stream),
        wide("SYNCED", |group| {
            let synced = group.types.iter().filter(|each| each.synced).count();
            format!("{synced} of {}", group.types.len())
        }),
        wide("ERRORS", |group| group.types.iter().map(|each| each.errors.len()).sum::<usize>().to_string()),
        column("TYPES", |group| {
            let types = group.types.iter().map(|each| format!("{}:{}", each.short, each.resources));
            types.collect::<Vec<_>>().join(" ")
        }),
    ],
    name: |group| clean(&group.key),
};

fn stream(group: &Group) -> String {
    let since = group.upstream.seconds.map(|seconds| format!(" {}", age(seconds))).unwrap_or_default();
    match (&group.upstream.address, &group.upstream.last_error) {
        (Some(address), _) if group.upstream.open => format!("{address}{since}"),
        (_, Some(error)) => format!("none{since}: {}", clean(error)),
        _ => format!("none{since}"),
    }
}

const UPSTREAMS: View<Upstream> = View {
    kind: "Upstreams",
    columns: &[
        column("ADDRESS", |upstream| clean(&upstream.address)),
        column("PRIORITY", |upstream| upstream.priority.to_string()),
        column("ACTIVE", |upstream| if upstream.active { "yes" } else { "no" }.into()),
        column("CONNECTIONS", |upstream| upstream.connections.to_string()),
        column("STREAMS", |upstream| upstream.streams.to_string()),
        column("AGE", |upstream| upstream.seconds.map_or("-".into(), age)),
        wide("VARIANT", |upstream| upstream.variant.clone().unwrap_or("-".into())),
        wide("ROUND TRIP", |upstream| {
            upstream.round_trip_seconds.map_or("-".into(), |span| format!("{:.1}ms", span.0 * 1000.0))
        }),
        wide("RECEIVED", |upstream| upstream.received_bytes.to_string()),
        wide("SENT", |upstream| upstream.sent_bytes.to_string()),
        column("DETAIL", |upstream| {
            if let (Some(read), None) = (&upstream.files, &upstream.last_error) {
                return format!("{} resources in {} files", read.resources, read.files);
            }
            let error = upstream.last_error.as_ref().filter(|_| upstream.connections == 0);
            error.or(upstream.tls_problem.as_ref()).map(|text| clean(text)).unwrap_or_default()
        }),
    ],
    name: |upstream| clean(&upstream.address),
};

pub(super) const RESOURCES: View<HeldResource> = View {
    kind: "Resources",
    columns: &[
        column("TYPE", |held| if held.short == "other" { clean(&held.type_url) } else { held.short.clone() }),
        column("NAME", |held| clean(&held.name)),
        column("VERSION", |held| held.version.clone().unwrap_or("-".into())),
        column("STATUS", |held| held.status.clone().unwrap_or("-".into())),
        wide("BYTES", |held| held.bytes.map_or("-".into(), |bytes| bytes.to_string())),
        wide("NODE", |held| held.node.as_deref().map_or("-".into(), clean)),
        column("GROUP", |held| clean(&held.group)),
    ],
    name: |held| clean(&held.name),
};

pub(super) async fn run(get: &Get) -> Result<Outcome, Failure> {
    if get.name_regex.is_some() && get.what != What::Resources {
        return Err(Failure::Usage("--name-regex is for resources; --node and --group take globs".into()));
    }
    get.watch.run(async || look(get).await).await
}

async fn look(get: &Get) -> Result<Shown, Failure> {
    let (admin, filter, format) = (&get.asking.admin, &get.filter, get.asking.output);
    match get.what {
        What::Sidecars => shown(format, &STREAMS, status::streams(admin, filter).await?),
        What::Groups => shown(format, &GROUPS, groups(admin, filter).await?),
        What::Upstreams => shown(format, &UPSTREAMS, upstreams(admin, filter).await?),
        What::Resources => shown(format, &RESOURCES, resources(admin, filter, get.name_regex.as_deref()).await?),
    }
}

fn shown<T: Serialize>(format: Format, view: &View<T>, items: Vec<T>) -> Result<Shown, Failure> {
    if items.is_empty() && matches!(format, Format::Table | Format::Wide) {
        eprintln!("there are none");
    }
    let mark = serde_json::json!(items);
    Ok(Shown::new(view.text(format, items)?, Outcome::Good, &mark))
}

/// Those that the filter takes: by node, those that have such a member.
pub(super) async fn groups(admin: &str, filter: &Filter) -> Result<Vec<Group>, Failure> {
    let mut groups: Vec<Group> = fetch::list(admin, "/groups").await?;
    groups.retain(|group| filter.takes_group(&group.key));
    if filter.node.is_some() {
        let clients: Vec<Client> = fetch::list(admin, "/clients").await?;
        let member = |key: &str| clients.iter().any(|client| client.group == key && filter.takes_node(&client.node));
        groups.retain(|group| member(&group.key));
    }
    for group in &mut groups {
        group.types.retain(|each| filter.takes_type(&each.type_url));
    }
    if filter.type_url.is_some() {
        groups.retain(|group| !group.types.is_empty());
    }
    Ok(groups)
}

async fn upstreams(admin: &str, filter: &Filter) -> Result<Vec<Upstream>, Failure> {
    if filter.node.is_some() || filter.group.is_some() || filter.type_url.is_some() {
        return Err(Failure::Usage("addresses of the control plane have no node, group or type to filter by".into()));
    }
    fetch::list(admin, "/upstreams").await
}

async fn resources(admin: &str, filter: &Filter, regex: Option<&str>) -> Result<Vec<HeldResource>, Failure> {
    // Endpoints are resources like others here.
    let query = query(filter, &[("name_regex", regex), ("include_eds", Some("true"))]);
    fetch::list(admin, &format!("/resources{query}")).await
}

/// `?node=…`, with what is given.
pub(super) fn query(filter: &Filter, more: &[(&str, Option<&str>)]) -> String {
    let type_url = filter.type_url.as_ref().map(|url| url.as_str());
    let own = [("node", filter.node.as_deref()), ("group", filter.group.as_deref()), ("type", type_url)];
    let given = own.iter().chain(more).filter_map(|(key, value)| Some(format!("{key}={}", quoted((*value)?))));
    let given: Vec<_> = given.collect();
    if given.is_empty() { String::new() } else { format!("?{}", given.join("&")) }
}
