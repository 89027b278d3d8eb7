//! `outpost status`: a summary, then a line for each sidecar, those that are
//! not in sync first.

use super::output::{Filter, Format, View, column, wide};
use super::text::{age, clean, count};
use super::watch::{Shown, Watch};
use super::{Asking, Failure, Outcome, fetch};
use crate::admin::report::{Client, ClientType, Configuration, Disk, Notice, Sync, Upstream};
use clap::Args;
use std::cmp::Reverse;

#[derive(Args, Clone, Debug)]
pub struct Status {
    #[command(flatten)]
    asking: Asking,
    #[command(flatten)]
    filter: Filter,
    /// Exit with 1 unless every sidecar is in sync; with --node or --group, unless there is one
    #[arg(long)]
    check: bool,
    #[command(flatten)]
    watch: Watch,
}

/// Streams, as status lists them.
pub(super) const STREAMS: View<Client> = View {
    kind: "Clients",
    columns: &[
        column("NODE", |client| clean(&client.node)),
        column("GROUP", |client| clean(&group(client))),
        column("STATE", |client| client.sync().label().into()),
        column("AGE", since),
        wide("PEER", |client| client.peer.clone()),
        wide("IDENTITY", |client| client.identity.as_deref().map_or("-".into(), clean)),
        wide("VARIANT", |client| format!("{} {}", client.service, client.variant)),
        wide("CONNECTED", |client| age(client.connected_seconds)),
        wide("AGENT", |client| clean(&client.user_agent)),
        column("TYPES", types),
        column("DETAIL", detail),
    ],
    name: |client| clean(&client.node),
};

pub(super) async fn run(status: &Status) -> Result<Outcome, Failure> {
    status.watch.run(async || look(status).await).await
}

/// The streams that `filter` takes, those in trouble first; of a stream the
/// types that it takes.
pub(super) async fn streams(admin: &str, filter: &Filter) -> Result<Vec<Client>, Failure> {
    let mut clients: Vec<Client> = fetch::list(admin, "/clients").await?;
    clients.retain(|client| filter.takes_node(&client.node) && filter.takes_group(&client.group));
    for client in &mut clients {
        client.types.retain(|each| filter.takes_type(&each.type_url));
    }
    if filter.type_url.is_some() {
        clients.retain(|client| !client.types.is_empty());
    }
    clients.sort_by(|a, b| (Reverse(a.sync()), &a.node, a.stream).cmp(&(Reverse(b.sync()), &b.node, b.stream)));
    Ok(clients)
}

async fn look(status: &Status) -> Result<Shown, Failure> {
    let admin = &status.asking.admin;
    let clients = streams(admin, &status.filter).await?;
    let in_sync = clients.iter().all(|client| client.sync() == Sync::Synced);
    let named = status.filter.node.is_some() || status.filter.group.is_some();
    let nobody = named && clients.is_empty();
    if nobody && status.check {
        eprintln!("nobody of that name is connected");
    }
    let outcome = if status.check && (nobody || !in_sync) { Outcome::Finding } else { Outcome::Good };
    let format = status.asking.output;
    let (text, mark) = match format {
        Format::Table | Format::Wide => {
            let upstreams: Vec<Upstream> = fetch::list(admin, "/upstreams").await?;
            let configuration: Vec<Configuration> = fetch::list(admin, "/configuration").await?;
            let notices: Vec<Notice> = fetch::list(admin, "/notices").await?;
            let disk: Vec<Disk> = fetch::list(admin, "/disk").await?;
            let whole = Whole { clients, upstreams, configuration, disk, notices };
            let mut text = render(&whole, format == Format::Wide);
            if nobody {
                text = text.replacen(NOBODY, "no such sidecar is connected\n", 1);
            }
            let Whole { clients, upstreams, configuration, disk, notices } = whole;
            (text, serde_json::json!([clients, upstreams, configuration, disk, notices]))
        }
        format => {
            let mark = serde_json::json!([clients]);
            (STREAMS.text(format, clients)?, mark)
        }
    };
    Ok(Shown::new(text, outcome, &mark))
}

/// All that it tells of.
#[derive(Debug, Default)]
struct Whole {
    clients: Vec<Client>,
    upstreams: Vec<Upstream>,
    configuration: Vec<Configuration>,
    disk: Vec<Disk>,
    notices: Vec<Notice>,
}

fn render(whole: &Whole, wide: bool) -> String {
    let Whole { clients, upstreams, configuration, disk, notices } = whole;
    let mut text = summary(clients);
    text.push_str(&reach(upstreams));
    text.extend(disk.iter().map(kept));
    text.extend(configuration.iter().map(reading));
    text.extend(notices.iter().map(|notice| format!("error: {} {}\n", notice.about, clean(&notice.text))));
    let unmatched = clients.iter().filter(|client| client.unmatched.is_some()).count();
    if unmatched > 0 {
        let nodes = count(unmatched, "stream");
        text.push_str(&format!(
            "error: {nodes} without a field that --group names: each such node has a group of its own\n"
        ));
    }
    if !clients.is_empty() {
        text.push('\n');
        text.push_str(&STREAMS.table(wide, clients));
    }
    text
}

/// What is on disk.
fn kept(disk: &Disk) -> String {
    let since = match (disk.saved_seconds, disk.found_seconds) {
        (Some(saved), _) => format!("up to date {} ago", age(saved)),
        (None, Some(found)) => format!("written {} ago by an earlier process", age(found)),
        (None, None) => "nothing written yet".into(),
    };
    let unclaimed = match disk.unclaimed {
        0 => String::new(),
        some => format!("; {} of an earlier process to which no sidecar came yet", count(some, "group")),
    };
    let unsaved = match disk.unsaved {
        0 => String::new(),
        some => format!("; {} changed since", count(some, "group")),
    };
    let size = disk.bytes as f64 / 1e6;
    format!(
        "disk {}: {} in {size:.1} MB, {since}{unsaved}{unclaimed}\n",
        clean(&disk.directory),
        count(disk.groups, "group")
    )
}

const NOBODY: &str = "no sidecar is connected\n";

fn summary(clients: &[Client]) -> String {
    if clients.is_empty() {
        return NOBODY.into();
    }
    let mut parts = Vec::new();
    for state in [Sync::Rejected, Sync::Stale, Sync::NotSent, Sync::Synced] {
        let number = clients.iter().filter(|client| client.sync() == state).count();
        if number > 0 {
            parts.push(format!("{number} {}", state.label().to_lowercase()));
        }
    }
    format!("{}: {}\n", count(clients.len(), "stream"), parts.join(", "))
}

fn reach(upstreams: &[Upstream]) -> String {
    let mut text = String::new();
    for upstream in upstreams {
        if let Some(files) = &upstream.files {
            let ago = upstream.seconds.map(|seconds| format!(" {} ago", age(seconds))).unwrap_or_default();
            let (files, resources) = (count(files.files, "file"), count(files.resources, "resource"));
            text.push_str(&format!("upstream {}: {resources} of {files}, read{ago}\n", upstream.address));
            text.extend(upstream.last_error.iter().map(|error| {
                format!("error: the files are not valid; what was read before is served: {}\n", clean(error))
            }));
        } else if upstream.connections > 0 {
            let connections = count(upstream.connections, "connection");
            let streams = count(upstream.streams, "stream");
            let since = upstream.seconds.map(|seconds| format!(" for {}", age(seconds))).unwrap_or_default();
            text.push_str(&format!("upstream {}: {connections}, {streams}{since}\n", upstream.address));
        } else {
            let why = upstream.last_error.as_deref().map(|error| format!(" ({})", clean(error))).unwrap_or_default();
            let since = upstream.seconds.map(|seconds| format!(" for {}", age(seconds))).unwrap_or_default();
            text.push_str(&format!("upstream {}: not connected{since}{why}\n", upstream.address));
        }
    }
    if !upstreams.is_empty() && upstreams.iter().all(|upstream| upstream.connections == 0 && upstream.files.is_none()) {
        text.push_str("what is held is served; nothing new can come\n");
    }
    text
}

/// What of the configuration file does not count.
fn reading(configuration: &Configuration) -> String {
    let mut text = String::new();
    if let Some(problem) = &configuration.problem {
        let since = configuration.problem_seconds.map(age).unwrap_or_default();
        text.push_str(&format!(
            "error: the configuration is not valid, for {since}; what ran before runs on: {}\n",
            clean(problem)
        ));
    }
    if !configuration.needs_restart.is_empty() {
        text.push_str(&format!("these settings wait for a restart: {}\n", configuration.needs_restart.join(", ")));
    }
    text
}

/// How long it has been in its state.
fn since(client: &Client) -> String {
    let state = client.sync();
    let since = client.types.iter().filter(|each| each.sync == state).map(|each| each.age_seconds);
    // Since the newest of them, where all are well; since the oldest trouble otherwise.
    let newest = since.fold(None, |so_far: Option<crate::admin::report::Seconds>, each| match so_far {
        Some(so_far) if (state == Sync::Synced) == (so_far < each) => Some(so_far),
        _ => Some(each),
    });
    age(newest.unwrap_or(client.connected_seconds))
}

fn types(client: &Client) -> String {
    let types: Vec<_> = client.types.iter().map(|each| each.short.as_str()).collect();
    types.join(" ")
}

/// A group of one is told by its rule: its key repeats the node.
fn group(client: &Client) -> String {
    match client.rule.as_str() {
        "template" => client.group.split(";features=").next().unwrap_or_default().to_owned(),
        rule => rule.to_owned(),
    }
}

fn detail(client: &Client) -> String {
    let mut parts = Vec::new();
    if let Some(field) = &client.unmatched {
        parts.push(format!("the node has no {field}"));
    }
    let private: Vec<_> = client.types.iter().filter(|each| each.private.is_some()).collect();
    if !private.is_empty() {
        let types: Vec<_> = private.iter().map(|each| each.short.as_str()).collect();
        parts.push(format!("private group for {}", types.join(" ")));
    }
    parts.extend(client.types.iter().filter(|each| each.sync != Sync::Synced).map(type_detail));
    parts.join("; ")
}

fn type_detail(each: &ClientType) -> String {
    let mut text = format!("{} {} {}", each.short, each.sync.label(), age(each.age_seconds));
    if let Some(nack) = &each.last_nack {
        text.push_str(&format!(": {}", clean(&nack.text)));
    }
    for wait in &each.waits {
        text.push_str(&format!(", waits for {}", wait.what.label()));
        if !wait.detail.is_empty() {
            text.push_str(&format!(" ({})", clean(&wait.detail)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::{Nack, Seconds, Wait, WaitFor};

    fn each(short: &str, sync: Sync, seconds: f64) -> ClientType {
        ClientType {
            type_url: format!("type.googleapis.com/{short}"),
            short: short.into(),
            sync,
            age_seconds: Seconds(seconds),
            wildcard: false,
            names: 1,
            version: "7".into(),
            last_nack: None,
            waits: vec![],
            private: None,
        }
    }

    fn client(node: &str, types: Vec<ClientType>) -> Client {
        Client { node: node.into(), rule: "perNode".into(), types, ..Client::default() }
    }

    #[test]
    fn a_summary_then_trouble_first() {
        let mut rejected = each("cds", Sync::Rejected, 12.0);
        let text = "Error adding cluster(s) bad:\n\u{1b}[2J no such filter".into();
        rejected.last_nack = Some(Nack { text, code: 13, age_seconds: Seconds(12.0) });
        let mut stale = each("eds", Sync::Stale, 3.0);
        stale.waits.push(Wait { what: WaitFor::Turn, seconds: Seconds(3.0), detail: String::new() });
        let clients = vec![
            client("b", vec![rejected, each("eds", Sync::Synced, 60.0)]),
            client("c", vec![each("cds", Sync::Synced, 60.0), stale]),
            client("a", vec![each("cds", Sync::Synced, 90.0), each("eds", Sync::Synced, 300.0)]),
        ];
        let upstreams = vec![Upstream {
            address: "istiod:15012".into(),
            last_error: Some("refused".into()),
            seconds: Some(Seconds(2.0)),
            ..Upstream::default()
        }];
        let want = "\
3 streams: 1 rejected, 1 stale, 1 synced
upstream istiod:15012: not connected for 2.0s (refused)
what is held is served; nothing new can come

NODE  GROUP    STATE     AGE   TYPES    DETAIL
b     perNode  REJECTED  12s   cds eds  cds REJECTED 12s: Error adding cluster(s) bad: [2J no such filter
c     perNode  STALE     3.0s  cds eds  eds STALE 3.0s, waits for turn
a     perNode  SYNCED    90s   cds eds
";
        assert_eq!(
            render(
                &Whole { clients, upstreams, configuration: vec![Configuration::default()], ..Whole::default() },
                false
            ),
            want
        );
        assert_eq!(render(&Whole::default(), false), "no sidecar is connected\n");
    }

    #[test]
    fn what_of_the_file_does_not_count_is_told() {
        let configuration = Configuration {
            problem: Some("outpost.yaml:2:3: lmits is no key".into()),
            problem_seconds: Some(Seconds(60.0)),
            needs_restart: vec!["upstream.addresses".into(), "log.format".into()],
            ..Configuration::default()
        };
        let disk = Disk {
            directory: "/cache".into(),
            groups: 3,
            unclaimed: 1,
            bytes: 12_340_000,
            saved_seconds: Some(Seconds(2.0)),
            ..Disk::default()
        };
        let want = "\
no sidecar is connected
disk /cache: 3 groups in 12.3 MB, up to date 2.0s ago; 1 group of an earlier process to which no sidecar came yet
error: the configuration is not valid, for 60s; what ran before runs on: outpost.yaml:2:3: lmits is no key
these settings wait for a restart: upstream.addresses, log.format
error: keys of tokens are old
";
        let notice = Notice { about: "keys".into(), text: "of tokens\nare old".into() };
        assert_eq!(
            render(
                &Whole {
                    configuration: vec![configuration],
                    notices: vec![notice],
                    disk: vec![disk],
                    ..Whole::default()
                },
                false
            ),
            want
        );
    }

    #[test]
    fn an_unmatched_field_is_an_error() {
        let mut lost = client("a", vec![each("cds", Sync::Synced, 1.0)]);
        lost.rule = "unmatched".into();
        lost.unmatched = Some("metadata.NAMESPACE".into());
        let text = render(&Whole { clients: vec![lost], ..Whole::default() }, false);
        assert!(text.contains("error: 1 stream without a field that --group names"), "{text}");
        assert!(text.contains("the node has no metadata.NAMESPACE"), "{text}");
    }
}
