//! Answers for the admin endpoint, put together from what the parts report.

use super::reload;
use crate::admin::dump::{Held, Of, Query, Section, Sections};
use crate::admin::glob;
use crate::admin::logging::Change;
use crate::admin::ready::Certificate;
use crate::admin::report::{
    self, Client, Configuration, Directory, Disk, Explanation, Group, Notice, Upstream as Address,
};
use crate::admin::{Question, Source, convert};
use crate::clock::Clock;
use crate::content::Entry;
use crate::downstream::{Downstream, clients};
use crate::exchange::{Exchange, GroupHandle};
use crate::logs::Levels;
use crate::persist::Persist;
use crate::session::server::{Listed, Listing};
use crate::transport::jwks::Seen;
use crate::upstream::{EndpointReport, FilesReport, Source as Origin};
use crate::xds::{Moment, TypeUrl, Variant};
use std::sync::Arc;
use std::time::SystemTime;

/// Makes a source of a function that answers at once.
fn source<Q: Send + 'static, R: Send + 'static>(answer: impl Fn(Q) -> R + Send + Sync + 'static) -> Source<Q, R> {
    let answer = Arc::new(answer);
    Box::new(move |question| {
        let answer = answer.clone();
        Box::pin(async move { answer(question) })
    })
}

pub(super) fn clients(downstream: Arc<Downstream>, clock: Clock) -> Source<Option<String>, Vec<Client>> {
    source(move |node: Option<String>| {
        let streams = match node {
            Some(node) => downstream.clients().of_node(&node),
            None => downstream.clients().all(),
        };
        let now = clock.now();
        streams.iter().map(|stream| client(now, stream)).collect()
    })
}

/// What sidecars are shown. It looks at files, so only when asked.
pub(super) fn certificate(downstream: Arc<Downstream>) -> Box<dyn Fn() -> Option<Certificate> + Send + Sync> {
    Box::new(move || {
        let seen = downstream.certificate()?;
        let now = SystemTime::now();
        let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
        let early = seen.starts.map(until).unwrap_or_default();
        Some(Certificate { problem: seen.problem, early, left: seen.expires.map(until) })
    })
}

/// What wants a hand, of the process as a whole.
pub(super) fn notices(
    downstream: Arc<Downstream>,
    exchange: Arc<Exchange>,
    persist: Option<Arc<Persist>>,
    clock: Clock,
) -> Box<dyn Fn() -> Vec<Notice> + Send + Sync> {
    let certificate = certificate(downstream.clone());
    Box::new(move || {
        let stale = exchange.auth_stale();
        let found = [
            ("certificate", certificate().filter(|seen| !seen.is_good()).map(|seen| seen.text())),
            ("keys", downstream.keys().and_then(|seen| keys(&seen))),
            ("credentials", (stale > 0).then(|| credentials(stale))),
        ];
        let disk = persist.iter().flat_map(|persist| disk_notices(&disk_report(clock.now(), clock.wall(), persist, 0)));
        let found = found.into_iter().chain(disk.map(|text| ("disk", Some(text))));
        let notice = |(about, text): (&str, Option<String>)| Some(Notice { about: about.into(), text: text? });
        found.filter_map(notice).collect()
    })
}

/// Of tokens.
fn keys(seen: &Seen) -> Option<String> {
    match (seen.keys, &seen.problem) {
        (0, None) => Some("of tokens could not be had yet: who shows a token is told UNAVAILABLE".into()),
        (0, Some(problem)) => {
            Some(format!("of tokens could not be had yet: who shows a token is told UNAVAILABLE: {problem}"))
        }
        (_, None) => None,
        (held, Some(problem)) => {
            Some(format!("of tokens, the newest, are not in use ({held} older ones are): {problem}"))
        }
    }
}

fn credentials(stale: usize) -> String {
    let groups = if stale == 1 { "1 group".to_owned() } else { format!("{stale} groups") };
    format!("of members are no good any more in {groups}: what is held is served, and nothing new can come there")
}

pub(super) fn disk(persist: Option<Arc<Persist>>, exchange: Arc<Exchange>, clock: Clock) -> Source<(), Vec<Disk>> {
    source(move |()| {
        let unsaved = exchange.count_unkept();
        persist.iter().map(|persist| disk_report(clock.now(), clock.wall(), persist, unsaved)).collect()
    })
}

fn disk_report(now: Moment, wall: SystemTime, persist: &Persist, unsaved: usize) -> Disk {
    let report = persist.report();
    Disk {
        directory: report.directory,
        encrypted: report.encrypted,
        groups: report.groups,
        unclaimed: report.unclaimed,
        unsaved: unsaved + report.saving,
        bytes: report.bytes,
        saved_seconds: report.saved.map(|at| now.since(at).into()),
        found_seconds: report.found.map(|at| wall.duration_since(at).unwrap_or_default().into()),
        problem: report.problem.as_ref().map(|(_, text)| text.clone()),
        problem_seconds: report.problem.as_ref().map(|(since, _)| now.since(*since).into()),
        unused: report.aside,
        restored: report.restored,
        older: report.older,
        lost: report.lost,
    }
}

fn disk_notices(disk: &Disk) -> Vec<String> {
    let problem = disk.problem.iter().map(|text| {
        format!("{}: {text}; what is held is served from memory, and writing is tried again", disk.directory)
    });
    let unused =
        disk.unused.iter().map(|text| format!("{}: {text}; it stays until newer state is there", disk.directory));
    let lost = (disk.lost > 0).then(|| {
        format!(
            "{}: what was there of {} groups could not be read; they wait for the control plane",
            disk.directory, disk.lost
        )
    });
    problem.chain(unused).chain(lost).collect()
}

pub(super) fn groups(exchange: Arc<Exchange>, clock: Clock) -> Source<(), Vec<Group>> {
    source(move |()| {
        let mut groups: Vec<_> = exchange.groups().iter().map(|handle| group(clock.now(), handle)).collect();
        groups.sort_by(|a, b| a.key.cmp(&b.key));
        groups
    })
}

pub(super) fn upstreams(upstream: Origin, clock: Clock) -> Source<(), Vec<Address>> {
    source(move |()| match &upstream {
        Origin::ControlPlane(upstream) => {
            upstream.report().iter().map(|endpoint| address(clock.now(), endpoint)).collect()
        }
        Origin::Files(files) => vec![directory(clock.now(), &files.report())],
    })
}

/// Why what the files say now is not served.
pub(super) fn files(upstream: Origin) -> Box<dyn Fn() -> Option<String> + Send + Sync> {
    Box::new(move || Some(upstream.files()?.problem?.1.to_string()))
}

fn directory(now: Moment, report: &FilesReport) -> Address {
    let since = report.loaded.map(|(at, ..)| at).or(report.problem.as_ref().map(|(at, _)| *at));
    Address {
        address: report.directory.to_string(),
        active: true,
        seconds: since.map(|since| now.since(since).into()),
        last_error: report.problem.as_ref().map(|(_, text)| text.to_string()),
        files: report.loaded.map(|(_, files, resources)| Directory { files, resources }),
        ..Address::default()
    }
}

pub(super) fn configuration(state: Arc<reload::State>, clock: Clock) -> Source<(), Vec<Configuration>> {
    source(move |()| vec![state.report(clock.now())])
}

pub(super) fn explain(
    downstream: Arc<Downstream>,
    exchange: Arc<Exchange>,
    clock: Clock,
) -> Source<Question, Vec<Explanation>> {
    source(move |question: Question| {
        let streams = downstream.clients().of_node(&question.node);
        streams.iter().map(|stream| explanation(clock.now(), stream, &exchange, &question)).collect()
    })
}

/// The sections of a dump, each looked at when its turn comes.
pub(super) fn dump(
    downstream: Arc<Downstream>,
    exchange: Arc<Exchange>,
    clock: Clock,
) -> Box<dyn Fn(&Query) -> Sections + Send + Sync> {
    Box::new(move |query| {
        let (query, sensitive) = (Arc::new(query.clone()), downstream.sensitive());
        let (now, wall) = (clock.now(), SystemTime::now());
        let when = move |at: Moment| wall.checked_sub(now.since(at));
        let groups = |glob: Option<&str>| {
            let mut groups = exchange.groups();
            groups.retain(|group| glob.is_none_or(|glob| glob::matches(glob, group.key().as_str())));
            groups.sort_by(|a, b| a.key().cmp(b.key()));
            groups
        };
        let found: Box<dyn Iterator<Item = Section> + Send> = match &query.of {
            Of::Nodes(glob) => {
                let mut streams = downstream.clients().all();
                streams.retain(|stream| stream.known().is_some_and(|known| glob::matches(glob, &known.node)));
                let query = query.clone();
                Box::new(streams.into_iter().flat_map(move |stream| of_stream(&query, now, &stream, when)))
            }
            of => {
                let glob = if let Of::Groups(glob) = of { Some(glob.as_str()) } else { None };
                let query = query.clone();
                Box::new(groups(glob).into_iter().flat_map(move |group| of_group(&query, &group, when)))
            }
        };
        let marked = move |section: Section| Section { sensitive: sensitive.contains(&section.type_url), ..section };
        Box::new(found.map(marked))
    })
}

/// What a group is served.
fn of_group(
    query: &Query,
    group: &GroupHandle,
    when: impl Fn(Moment) -> Option<SystemTime> + Copy + Send + 'static,
) -> Box<dyn Iterator<Item = Section> + Send> {
    let (key, served) = (group.key().to_string(), group.served());
    let wanted = served.types.iter().filter(|(url, _)| query.takes(url));
    let types: Vec<_> = wanted.map(|(url, of)| (url.clone(), of.clone())).collect();
    Box::new(types.into_iter().map(move |(type_url, of)| {
        let present = of.tree.iter().filter(|entry| entry.is_present());
        let held = |entry: &Arc<Entry>| Held { name: entry.name().clone(), entry: Some(entry.clone()), standing: None };
        let mut resources: Vec<_> = present.map(held).collect();
        resources.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let updated = Some(of.committed).filter(|at| *at != Moment::START).and_then(when);
        section(key.clone(), None, type_url, of.label.to_string(), updated, resources)
    }))
}

/// What a stream has.
fn of_stream(
    query: &Query,
    now: Moment,
    stream: &clients::Client,
    when: impl Fn(Moment) -> Option<SystemTime> + Copy + Send + 'static,
) -> Box<dyn Iterator<Item = Section> + Send> {
    let known = stream.known();
    let group = known.as_ref().map(|known| known.group.to_string()).unwrap_or_default();
    let node = known.map(|known| known.node.to_string());
    let mut listings = stream.listings(now);
    listings.retain(|listing| query.takes(&listing.report.type_url));
    Box::new(listings.into_iter().map(move |listing: Listing| {
        let all = listing.resources();
        let held = |each: Listed| Held { name: each.name, entry: each.entry, standing: Some(each.standing) };
        let resources = all.map(held).collect();
        let report = &listing.report;
        let (label, updated) = (report.label.clone().unwrap_or_default(), report.sent.and_then(when));
        section(group.clone(), node.clone(), report.type_url.clone(), label, updated, resources)
    }))
}

fn section(
    group: String,
    node: Option<String>,
    type_url: TypeUrl,
    version: String,
    updated: Option<SystemTime>,
    resources: Vec<Held>,
) -> Section {
    Section { group, node, type_url, version, updated, sensitive: true, resources }
}

/// Shows the levels of the log, after the change.
pub(super) fn levels(
    levels: Levels,
    clock: Clock,
) -> Box<dyn Fn(Change) -> Result<report::Levels, String> + Send + Sync> {
    Box::new(move |change| {
        match change {
            Change::Show => {}
            Change::Reset => levels.reset(),
            Change::Lay { filter, span } => {
                levels.lay(clock.now(), &filter, span).map_err(|error| error.to_string())?;
            }
        }
        let now = levels.now(clock.now());
        Ok(report::Levels::new(now.configured, now.over))
    })
}

fn explanation(now: Moment, stream: &clients::Client, exchange: &Arc<Exchange>, question: &Question) -> Explanation {
    let handle = stream.known().and_then(|known| exchange.group(&known.group));
    let asked = |url: &str| question.type_url.as_ref().is_none_or(|of| of.as_str() == url);
    let mut client = client(now, stream);
    client.types.retain(|of| asked(&of.type_url));
    let mut group = handle.as_ref().map(|handle| group(now, handle)).unwrap_or_default();
    group.types.retain(|of| asked(&of.type_url));
    let own = stream.private().and_then(|key| exchange.group(&key));
    let own_types: Vec<_> = stream.types(now).into_iter().filter(|of| of.private.is_some()).collect();
    let private_group = own.as_ref().map(|own| {
        let mut group = self::group(now, own);
        group.types.retain(|of| asked(&of.type_url));
        group
    });
    let resource = question.type_url.as_ref().zip(question.name.as_ref()).map(|(type_url, name)| {
        let sent = stream.explain(now, type_url, name);
        let private = own.as_ref().filter(|_| own_types.iter().any(|of| of.type_url == *type_url));
        let held = private.and_then(|own| own.explain(type_url, name));
        let held = held.or_else(|| handle.as_ref().and_then(|handle| handle.explain(type_url, name)));
        convert::resource(now, name, sent.as_ref(), held.as_ref())
    });
    Explanation { client, group, private_group, resource }
}

fn client(now: Moment, stream: &clients::Client) -> Client {
    let known = stream.known();
    let known = known.as_ref();
    let mut client = Client {
        stream: stream.stream,
        node: known.map_or(String::new(), |known| known.node.to_string()),
        peer: stream.peer.to_string(),
        identity: stream.identity.as_deref().map(str::to_owned),
        group: known.map_or(String::new(), |known| known.group.to_string()),
        rule: known.map_or(String::new(), |known| known.rule.label().to_owned()),
        unmatched: known.and_then(|known| known.unmatched.as_deref().map(str::to_owned)),
        user_agent: known.map_or(String::new(), |known| known.user_agent.to_string()),
        service: stream.service.to_owned(),
        variant: variant(stream.variant).to_owned(),
        connected_seconds: now.since(stream.opened).into(),
        unsent_bytes: stream.waiting_bytes(),
        types: stream.types(now).iter().map(|of| convert::client_type(now, stream.opened, of)).collect(),
    };
    convert::add_unsent(&mut client);
    client
}

fn group(now: Moment, handle: &GroupHandle) -> Group {
    convert::group(now, handle.key(), handle.members(), &handle.report())
}

fn address(now: Moment, endpoint: &EndpointReport) -> Address {
    let since = endpoint.connected_since.or(endpoint.down_since);
    Address {
        address: endpoint.address.to_string(),
        priority: endpoint.priority,
        active: endpoint.active,
        connections: endpoint.connections.len(),
        streams: endpoint.streams,
        variant: endpoint.variant.map(|spoken| variant(spoken).to_owned()),
        seconds: since.map(|since| now.since(since).into()),
        last_error: endpoint.last_error.as_ref().map(|(_, text)| text.to_string()),
        last_message_seconds: endpoint.last_message.map(|at| now.since(at).into()),
        round_trip_seconds: endpoint.round_trip().map(Into::into),
        received_bytes: endpoint.bytes_received,
        sent_bytes: endpoint.bytes_sent,
        tls_problem: endpoint.tls_problem.clone(),
        tls_expires_seconds: endpoint
            .tls_expires
            .map(|at| at.duration_since(SystemTime::now()).unwrap_or_default().into()),
        files: None,
    }
}

fn variant(variant: Variant) -> &'static str {
    match variant {
        Variant::Delta => "delta",
        Variant::Sotw => "sotw",
    }
}
