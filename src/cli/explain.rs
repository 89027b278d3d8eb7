//! `outpost explain NODE [TYPE [NAME]]`: group and rule, what is subscribed,
//! held and served, and what is awaited since when.

use super::text::{age, clean, count};
use super::{Asking, Failure, Format, Outcome, fetch, output};
use crate::admin::report::{Client, ClientType, Explanation, Group, List, Resource, Wait};
use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct Explain {
    /// Node id
    node: String,
    /// cds, eds, lds, rds, … or a whole type URL
    #[arg(value_name = "TYPE")]
    type_url: Option<String>,
    /// Resource name
    name: Option<String>,
    #[command(flatten)]
    asking: Asking,
}

pub(super) async fn run(explain: &Explain) -> Result<(String, Outcome), Failure> {
    let mut path = format!("/explain?node={}", fetch::quoted(&explain.node));
    for (key, value) in [("type", &explain.type_url), ("name", &explain.name)] {
        if let Some(value) = value {
            path.push_str(&format!("&{key}={}", fetch::quoted(value)));
        }
    }
    let found: Vec<Explanation> = fetch::list(&explain.asking.admin, &path).await?;
    let outcome = output::found(!found.is_empty());
    let text = match explain.asking.output {
        Format::Table | Format::Wide if found.is_empty() => {
            eprintln!(
                "outpost: no stream of node {:?} is connected; outpost status lists those that are",
                explain.node
            );
            String::new()
        }
        Format::Table | Format::Wide => {
            let text: Vec<_> = found.iter().map(|each| render(each, explain.type_url.is_some())).collect();
            text.join("\n")
        }
        Format::Name => found.iter().map(|each| format!("{}\n", clean(&each.client.node))).collect(),
        format => output::document(format, &List::new("Explanations", found))?,
    };
    Ok((text, outcome))
}

/// All types of one stream.
pub(super) fn whole(explanation: &Explanation) -> String {
    render(explanation, false)
}

fn render(explanation: &Explanation, of_type: bool) -> String {
    let Explanation { client, group, private_group, resource } = explanation;
    let mut text = stream(client);
    text.push_str(&membership(client, group));
    for each in &client.types {
        text.push_str(&subscription(each));
        text.push_str(&of_group("the group", each, group));
        if let Some(why) = &each.private {
            text.push_str(&private(why, each, private_group.as_ref()));
        }
        each.waits.iter().for_each(|wait| text.push_str(&waits(wait)));
    }
    if client.types.is_empty() {
        text.push_str(if of_type {
            "this type was not asked for on this stream\n"
        } else {
            "nothing was asked for yet\n"
        });
    }
    if let Some(resource) = resource {
        text.push_str(&of_name(resource));
    }
    text
}

fn stream(client: &Client) -> String {
    let who = client.identity.as_deref().map_or("no verified identity".into(), |who| format!("verified as {who}"));
    format!(
        "node {}: stream {} ({}, {}) from {} for {}, {}\n",
        clean(&client.node),
        client.stream,
        client.service,
        client.variant,
        client.peer,
        age(client.connected_seconds),
        clean(&who),
    )
}

fn membership(client: &Client, group: &Group) -> String {
    let mut text = format!("group {} by rule {}", clean(&client.group), client.rule);
    if let Some(field) = &client.unmatched {
        text.push_str(&format!(", because the node has no {field}"));
    }
    let since = group.upstream.seconds.map(|seconds| format!(" for {}", age(seconds))).unwrap_or_default();
    let state = if group.upstream.open { "open" } else { "not open" };
    text.push_str(&format!("; {}; its upstream stream is {state}{since}", count(group.members, "member")));
    if let Some(error) = group.upstream.last_error.as_deref().filter(|_| !group.upstream.open) {
        text.push_str(&format!(" ({})", clean(error)));
    }
    text.push('\n');
    if let Some(seconds) = group.restored_seconds {
        text.push_str(&format!("what an earlier process held of it was put back from disk {} ago\n", age(seconds)));
    }
    if group.auth_stale {
        text.push_str("credentials: no member's token is good any more; what is held is served, and one member at a time is asked to come back\n");
    }
    text
}

pub(super) fn wanted(wildcard: bool, names: usize) -> String {
    match (wildcard, names) {
        (true, 0) => "*".into(),
        (true, names) => format!("* and {}", count(names, "name")),
        (false, names) => count(names, "name"),
    }
}

fn subscription(each: &ClientType) -> String {
    let mut text = format!(
        "\n{}: {} for {}; subscribed to {}; version sent {:?}\n",
        each.short,
        each.sync.label(),
        age(each.age_seconds),
        wanted(each.wildcard, each.names),
        each.version,
    );
    if let Some(nack) = &each.last_nack {
        text.push_str(&format!("  rejected {} ago: {}\n", age(nack.age_seconds), clean(&nack.text)));
    }
    text
}

/// The group of this stream alone.
fn private(why: &str, each: &ClientType, group: Option<&Group>) -> String {
    let Some(group) = group else { return format!("  private group: {why}; it is not there yet\n") };
    let state = if group.upstream.open { "open" } else { "not open" };
    let mut text = format!("  private group: {why}; its upstream stream is {state}");
    if let Some(error) = group.upstream.last_error.as_deref().filter(|_| !group.upstream.open) {
        text.push_str(&format!(" ({})", clean(error)));
    }
    text.push('\n');
    text + &of_group("it", each, group)
}

fn of_group(who: &str, each: &ClientType, group: &Group) -> String {
    let Some(held) = group.types.iter().find(|held| held.type_url == each.type_url) else {
        return format!("  {who} holds nothing of this type\n");
    };
    let confirmed = match held.confirmed_seconds {
        Some(seconds) => format!("last confirmed by the upstream {} ago", age(seconds)),
        None => "never confirmed by the upstream".into(),
    };
    let mut text = format!(
        "  {who} holds {} at version {:?}, {confirmed}; it wants {} upstream\n",
        count(held.resources, "resource"),
        held.version,
        wanted(held.wildcard, held.names),
    );
    if let Some(seconds) = held.unanswered_seconds {
        text.push_str(&format!("  the upstream has not answered for {}\n", age(seconds)));
    }
    for error in &held.errors {
        text.push_str(&format!("  the upstream's error: {}\n", clean(error)));
    }
    text
}

fn of_name(resource: &Resource) -> String {
    let subscribed = match resource.subscribed.as_str() {
        "no" => "not subscribed".into(),
        how => format!("subscribed by {how}"),
    };
    let show = |version: &Option<String>| version.as_deref().map_or("nothing".into(), |version| format!("{version:?}"));
    let mut text = format!(
        "\nresource {}: {subscribed}\n  sent {}, held {}, the upstream's own version {}\n",
        clean(&resource.name),
        show(&resource.sent_version),
        show(&resource.held_version),
        show(&resource.upstream_version),
    );
    if resource.absent {
        text.push_str("  the upstream said that it does not exist\n");
    }
    if let Some(error) = &resource.error {
        text.push_str(&format!("  the upstream's error: {}\n", clean(error)));
    }
    resource.waits.iter().for_each(|wait| text.push_str(&waits(wait)));
    text
}

fn waits(wait: &Wait) -> String {
    let detail = if wait.detail.is_empty() { String::new() } else { format!(" ({})", clean(&wait.detail)) };
    format!("  waits for {} since {}{detail}\n", wait.what.label(), age(wait.seconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::report::{GroupType, Seconds, Stream, Sync, WaitFor};

    #[test]
    fn a_name_that_is_awaited() {
        let wait = Wait { what: WaitFor::Upstream, seconds: Seconds(3.0), detail: "connection refused".into() };
        let each = ClientType {
            type_url: "t/eds".into(),
            short: "eds".into(),
            sync: Sync::NotSent,
            age_seconds: Seconds(3.0),
            wildcard: false,
            names: 2,
            version: String::new(),
            last_nack: None,
            waits: vec![wait],
            private: None,
        };
        let client = Client {
            stream: 4,
            node: "n1".into(),
            peer: "10.0.0.7:4312".into(),
            group: "shop".into(),
            rule: "template".into(),
            service: "ads".into(),
            variant: "delta".into(),
            connected_seconds: Seconds(3.1),
            types: vec![each],
            ..Client::default()
        };
        let held = GroupType {
            type_url: "t/eds".into(),
            names: 2,
            unanswered_seconds: Some(Seconds(3.0)),
            ..GroupType::default()
        };
        let upstream = Stream { last_error: Some("connection refused".into()), ..Stream::default() };
        let group = Group { members: 12, upstream, types: vec![held], ..Group::default() };
        let resource = Resource { name: "c1".into(), subscribed: "name".into(), ..Resource::default() };
        let text = render(&Explanation { client, group, private_group: None, resource: Some(resource) }, true);
        let want = "\
node n1: stream 4 (ads, delta) from 10.0.0.7:4312 for 3.1s, no verified identity
group shop by rule template; 12 members; its upstream stream is not open (connection refused)

eds: NOT SENT for 3.0s; subscribed to 2 names; version sent \"\"
  the group holds 0 resources at version \"\", never confirmed by the upstream; it wants 2 names upstream
  the upstream has not answered for 3.0s
  waits for upstream since 3.0s (connection refused)

resource c1: subscribed by name
  sent nothing, held nothing, the upstream's own version nothing
";
        assert_eq!(text, want);
    }

    #[test]
    fn a_private_group_and_why() {
        let each = ClientType {
            type_url: "t/sds".into(),
            short: "sds".into(),
            sync: Sync::Synced,
            age_seconds: Seconds(3.0),
            wildcard: false,
            names: 1,
            version: String::new(),
            last_nack: None,
            waits: vec![],
            private: Some("names that must not be cached".into()),
        };
        let held = GroupType { type_url: "t/sds".into(), resources: 1, names: 1, ..GroupType::default() };
        let upstream = Stream { last_error: Some("cut".into()), ..Stream::default() };
        let group = Group { upstream, types: vec![held], ..Group::default() };
        let want = "  private group: names that must not be cached; its upstream stream is not open (cut)\n  \
                    it holds 1 resource at version \"\", never confirmed by the upstream; it wants 1 name upstream\n";
        assert_eq!(private("names that must not be cached", &each, Some(&group)), want);
        assert!(private("so", &each, None).ends_with("it is not there yet\n"));
    }
}
