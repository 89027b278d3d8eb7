//! `outpost describe`: everything that is known of one thing.

use super::explain;
use super::fetch::{self, quoted};
use super::output::{self, Filter, Format, document};
use super::status::STREAMS;
use super::text::{age, clean, count, table};
use super::{Asking, Failure, Outcome};
use crate::admin::report::{API_VERSION, Client, Explanation, Group, Upstream};
use clap::{Args, ValueEnum};
use serde_json::json;

#[derive(Args, Clone, Debug)]
pub struct Describe {
    #[arg(value_name = "WHAT")]
    what: What,
    /// Node id, key of the group, or address
    name: String,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    /// A node with its streams
    Sidecar,
    /// A group with its members
    Group,
    /// An address of the control plane
    Upstream,
}

pub(super) async fn run(describe: &Describe) -> Result<(String, Outcome), Failure> {
    let Describe { what, name, asking } = describe;
    let found = match what {
        What::Sidecar => sidecar(asking, name).await?,
        What::Group => group(asking, name).await?,
        What::Upstream => upstream(asking, name).await?,
    };
    let what = match what {
        What::Sidecar => "sidecars",
        What::Group => "groups",
        What::Upstream => "upstreams",
    };
    Ok(match found {
        Some(text) => (text, Outcome::Good),
        None => {
            eprintln!("outpost: {name:?} is not among the {what}; outpost get {what} lists them");
            (String::new(), Outcome::Finding)
        }
    })
}

async fn sidecar(asking: &Asking, node: &str) -> Result<Option<String>, Failure> {
    let found: Vec<Explanation> = fetch::list(&asking.admin, &format!("/explain?node={}", quoted(node))).await?;
    if found.is_empty() {
        return Ok(None);
    }
    Ok(Some(match asking.output {
        Format::Table | Format::Wide => found.iter().map(explain::whole).collect::<Vec<_>>().join("\n"),
        Format::Name => format!("{}\n", clean(node)),
        format => document(format, &json!({"apiVersion": API_VERSION, "kind": "Sidecar", "streams": found}))?,
    }))
}

async fn group(asking: &Asking, key: &str) -> Result<Option<String>, Failure> {
    let groups: Vec<Group> = fetch::list(&asking.admin, "/groups").await?;
    let Some(group) = groups.into_iter().find(|group| group.key == key) else { return Ok(None) };
    let filter = Filter { group: Some(key.into()), ..Filter::default() };
    let mut members = super::status::streams(&asking.admin, &filter).await?;
    members.retain(|client| client.group == key);
    Ok(Some(match asking.output {
        Format::Table | Format::Wide => about(&group, &members, asking.output == Format::Wide),
        Format::Name => format!("{}\n", clean(key)),
        format => {
            document(format, &json!({"apiVersion": API_VERSION, "kind": "Group", "group": group, "members": members}))?
        }
    }))
}

fn about(group: &Group, members: &[Client], wide: bool) -> String {
    let mut text = format!("group {}: {}\n", clean(&group.key), count(group.members, "member"));
    let since = group.upstream.seconds.map(|seconds| format!(" for {}", age(seconds))).unwrap_or_default();
    text.push_str(&match (group.upstream.open, &group.upstream.address) {
        (true, Some(address)) => format!("its stream to {} stands{since}\n", clean(address)),
        (true, None) => format!("its upstream stream stands{since}\n"),
        (false, _) => format!("it has no upstream stream{since}\n"),
    });
    text.extend(group.upstream.last_error.iter().map(|error| format!("last trouble: {}\n", clean(error))));
    let head = ["TYPE", "RESOURCES", "WANTED", "SYNCED", "CONFIRMED", "VERSION"].map(str::to_owned).to_vec();
    let row = |each: &crate::admin::report::GroupType| {
        let wanted = explain::wanted(each.wildcard, each.names);
        let synced = if each.synced { "yes" } else { "no" };
        let confirmed = each.confirmed_seconds.map_or("never".into(), |span| format!("{} ago", age(span)));
        vec![each.short.clone(), each.resources.to_string(), wanted, synced.into(), confirmed, clean(&each.version)]
    };
    let rows: Vec<_> = std::iter::once(head).chain(group.types.iter().map(row)).collect();
    text.push_str(&format!("\n{}", table(&rows)));
    for (each, error) in group.types.iter().flat_map(|each| each.errors.iter().map(move |error| (each, error))) {
        text.push_str(&format!("{}: the upstream says of {}\n", each.short, clean(error)));
    }
    if !members.is_empty() {
        text.push_str(&format!("\n{}", STREAMS.table(wide, members)));
    }
    text
}

async fn upstream(asking: &Asking, address: &str) -> Result<Option<String>, Failure> {
    let upstreams: Vec<Upstream> = fetch::list(&asking.admin, "/upstreams").await?;
    let Some(upstream) = upstreams.into_iter().find(|upstream| upstream.address == address) else { return Ok(None) };
    Ok(Some(match asking.output {
        Format::Table | Format::Wide => facts(&upstream),
        Format::Name => format!("{}\n", clean(address)),
        format => document(format, &json!({"apiVersion": API_VERSION, "kind": "Upstream", "upstream": upstream}))?,
    }))
}

fn facts(upstream: &Upstream) -> String {
    let ago = |span: Option<_>| span.map_or("never".into(), |span| format!("{} ago", age(span)));
    let since = upstream.seconds.map(|span| format!(" for {}", age(span))).unwrap_or_default();
    let state = match &upstream.files {
        Some(read) => format!("{} resources of {} files are served", read.resources, read.files),
        None if upstream.connections > 0 => "connected".into(),
        None => "not connected".into(),
    };
    let mut rows = vec![
        ("state", format!("{state}{since}")),
        ("priority", format!("{}{}", upstream.priority, if upstream.active { ", in use" } else { "" })),
        ("connections", upstream.connections.to_string()),
        ("streams", upstream.streams.to_string()),
        ("variant", upstream.variant.clone().unwrap_or("not known yet".into())),
        ("last message", ago(upstream.last_message_seconds)),
        ("received", format!("{} bytes", upstream.received_bytes)),
        ("sent", format!("{} bytes", upstream.sent_bytes)),
    ];
    rows.extend(upstream.round_trip_seconds.map(|span| ("round trip", format!("{:.1} ms", span.0 * 1000.0))));
    rows.extend(upstream.tls_expires_seconds.map(|span| ("our certificate ends", format!("in {}", age(span)))));
    rows.extend(upstream.tls_problem.as_deref().map(|text| ("newest certificate files", clean(text))));
    rows.extend(upstream.last_error.as_deref().map(|text| ("last trouble", clean(text))));
    let rows: Vec<_> = rows.into_iter().map(|(key, value)| vec![key.to_owned(), value]).collect();
    format!("upstream {}\n{}", clean(&upstream.address), output::indented(&table(&rows)))
}
