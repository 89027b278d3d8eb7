//! Reports of sessions and of the exchange, as [`report`](super::report) shows them.

use super::report::{Client, ClientType, Group, GroupType, Nack, Resource, Stream, Sync, Wait, WaitFor};
use crate::content::Reach;
use crate::exchange::{self, Holds, Subscription};
use crate::group::GroupKey;
use crate::session::server::{NameReport, State, TypeReport, Waiting};
use crate::xds::{Moment, Name};

/// A type that is behind for no reason of its own waits for bytes that the
/// client does not take.
pub fn add_unsent(client: &mut Client) {
    for each in client.types.iter_mut().filter(|_| client.unsent_bytes > 0) {
        if matches!(each.sync, Sync::Stale | Sync::NotSent) && each.waits.is_empty() {
            let detail = format!("{} bytes wait to be taken by the client", client.unsent_bytes);
            each.waits.push(Wait { what: WaitFor::Bytes, seconds: each.age_seconds, detail });
        }
    }
}

/// One type on a stream that was opened at `opened`.
pub fn client_type(now: Moment, opened: Moment, report: &TypeReport) -> ClientType {
    let rejected = report.nacked.as_ref().map(|(at, _)| *at);
    let waits: Vec<_> = report.waiting.iter().map(|waiting| wait(now, waiting)).collect();
    let since = match report.state {
        State::Synced => report.acked.or(report.sent),
        State::Rejected => rejected,
        State::Stale => report.waiting.as_ref().map(|(_, at)| *at).or(report.sent),
        State::NotSent => report.waiting.as_ref().map(|(_, at)| *at),
    };
    let label = report.label.clone().unwrap_or_default();
    ClientType {
        type_url: report.type_url.as_str().into(),
        short: report.type_url.short().into(),
        sync: match report.state {
            State::Synced => Sync::Synced,
            State::Stale => Sync::Stale,
            State::NotSent => Sync::NotSent,
            State::Rejected => Sync::Rejected,
        },
        age_seconds: now.since(since.unwrap_or(opened)).into(),
        wildcard: report.wildcard,
        names: report.names,
        version: label.clone(),
        last_nack: report.nacked.as_ref().map(|(at, status)| Nack {
            text: status.message.clone(),
            code: status.code,
            age_seconds: now.since(*at).into(),
        }),
        waits,
        private: report.private.map(|why| why.text().to_owned()),
    }
}

fn wait(now: Moment, (waiting, since): &(Waiting, Moment)) -> Wait {
    let (what, detail) = match waiting {
        Waiting::Turn => (WaitFor::Turn, "the client has not answered the last response".into()),
        Waiting::Answer => (
            WaitFor::Turn,
            "the client has not answered the last response for longer than a turn; what is newer is sent all the same"
                .into(),
        ),
        Waiting::Order => (WaitFor::Order, "clusters come first, and the client has not answered for those".into()),
        Waiting::Settle => (WaitFor::Settle, "a removal waits until its references are gone".into()),
        Waiting::Upstream(reason) => (WaitFor::Upstream, reason.clone().unwrap_or_default()),
        Waiting::Credentials => {
            (WaitFor::Credentials, "secrets need a verified identity, or --secrets trustNetwork".into())
        }
    };
    Wait { what, seconds: now.since(*since).into(), detail }
}

pub fn group(now: Moment, key: &GroupKey, members: usize, report: &exchange::GroupReport) -> Group {
    let (since, last_error) = match (&report.stream, &report.reach) {
        (Some(stream), Reach::Silent { reason, .. }) => (Some(stream.opened), Some(reason.to_string())),
        (Some(stream), Reach::Answering) => (Some(stream.opened), None),
        (None, Reach::Silent { since, reason }) => (Some(*since), Some(reason.to_string())),
        (None, Reach::Answering) => (None, None),
    };
    Group {
        key: key.to_string(),
        members,
        auth_stale: report.auth_stale,
        restored_seconds: report.restored.map(|at| now.since(at).into()),
        upstream: Stream {
            open: report.stream.is_some(),
            address: report.stream.as_ref().map(|stream| stream.address.to_string()),
            seconds: since.map(|since| now.since(since).into()),
            last_error,
        },
        types: report.types.iter().map(|each| group_type(now, each)).collect(),
    }
}

fn group_type(now: Moment, report: &exchange::TypeReport) -> GroupType {
    GroupType {
        type_url: report.type_url.as_str().into(),
        short: report.type_url.short().into(),
        resources: report.resources,
        version: report.label.to_string(),
        tree: hex(&report.tree),
        synced: report.synced,
        wildcard: report.wildcard,
        names: report.names,
        committed_seconds: (report.committed != Moment::START).then(|| now.since(report.committed).into()),
        confirmed_seconds: report.confirmed.map(Into::into),
        unanswered_seconds: report.asked.map(|at| now.since(at).into()),
        errors: report.errors.iter().map(|(_, name, status)| format!("{name}: {}", status.message)).collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// One name: what the stream was sent, and what its group has.
pub fn resource(now: Moment, name: &Name, sent: Option<&NameReport>, held: Option<&exchange::NameReport>) -> Resource {
    let mut waits: Vec<_> = sent.iter().filter_map(|sent| sent.waiting.as_ref()).map(|each| wait(now, each)).collect();
    let subscribed = sent.is_some_and(|sent| sent.subscribed);
    let nothing = held.is_none_or(|held| held.holds == Holds::Nothing);
    if let Some(held) = held {
        for (awaited, detail) in [
            (held.awaited, "it is wanted again; the upstream is asked first"),
            (held.restating, "its cluster changed; the upstream's own answer comes first"),
        ] {
            if let Some(exchange::Awaited { since, until }) = awaited {
                let detail = format!("{detail}, for {:.1}s more at most", until.since(now).as_secs_f64());
                waits.push(Wait { what: WaitFor::Upstream, seconds: now.since(since).into(), detail });
            }
        }
    }
    let asked = sent.filter(|sent| sent.subscribed).map(|sent| sent.asked);
    if let Some(asked) = asked.filter(|_| nothing && !waits.iter().any(|wait| wait.what == WaitFor::Upstream)) {
        let detail = "the upstream has neither sent it nor said that it does not exist".into();
        waits.push(Wait { what: WaitFor::Absence, seconds: now.since(asked).into(), detail });
    }
    let error = |held: &exchange::NameReport| match &held.holds {
        Holds::Error(status) => Some(status.message.clone()),
        _ => held.error.as_ref().map(|status| status.message.clone()),
    };
    Resource {
        name: held.map_or(name, |held| &held.name).to_string(),
        subscribed: match (subscribed, held.map(|held| held.subscription)) {
            (false, _) => "no",
            (true, Some(Subscription::Covered)) => "wildcard or glob",
            (true, _) => "name",
        }
        .into(),
        sent_version: sent.and_then(|sent| sent.held.clone()),
        held_version: held.and_then(|held| held.version.clone()),
        upstream_version: held.and_then(|held| held.upstream_version.as_deref().map(str::to_owned)),
        absent: held.is_some_and(|held| held.holds == Holds::Absent),
        bytes: held.and_then(|held| match held.holds {
            Holds::Resource { bytes } => Some(bytes),
            _ => None,
        }),
        error: held.and_then(error),
        waits,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xds::{Status, TypeUrl, code};
    use std::time::Duration;

    fn at(seconds: u64) -> Moment {
        Moment::START + Duration::from_secs(seconds)
    }

    fn report(state: State) -> TypeReport {
        TypeReport {
            type_url: TypeUrl::from_short("cds").unwrap(),
            state,
            wildcard: true,
            names: 0,
            label: Some("v1".into()),
            sent: Some(at(10)),
            acked: Some(at(11)),
            nacked: None,
            waiting: None,
            private: None,
        }
    }

    #[test]
    fn a_state_is_as_old_as_what_made_it() {
        let synced = report(State::Synced);
        let rejected =
            TypeReport { nacked: Some((at(12), Status::new(code::INTERNAL, "bad"))), ..report(State::Rejected) };
        let stale = TypeReport { waiting: Some((Waiting::Turn, at(13))), ..report(State::Stale) };
        let unsent = TypeReport { sent: None, acked: None, ..report(State::NotSent) };
        for (report, want, age) in [
            (synced, Sync::Synced, 9.0),
            (rejected, Sync::Rejected, 8.0),
            (stale, Sync::Stale, 7.0),
            (unsent, Sync::NotSent, 15.0),
        ] {
            let shown = client_type(at(20), at(5), &report);
            assert_eq!((shown.sync, shown.age_seconds.0), (want, age));
            assert_eq!(shown.last_nack.is_some(), want == Sync::Rejected);
        }
    }

    #[test]
    fn a_name_that_nobody_answered_waits_for_absence_since_it_was_asked_for() {
        let sent = NameReport { subscribed: true, held: None, served: None, waiting: None, asked: at(3) };
        let shown = resource(at(10), &"c1".into(), Some(&sent), None);
        let waits: Vec<_> = shown.waits.iter().map(|wait| (wait.what, wait.seconds.0)).collect();
        assert_eq!(waits, [(WaitFor::Absence, 7.0)]);
        let shown = resource(at(1), &"c1".into(), None, None);
        assert_eq!((shown.subscribed.as_str(), shown.waits.len()), ("no", 0));
    }

    #[test]
    fn what_the_group_awaits_has_its_time() {
        let held = exchange::NameReport {
            name: "c1".into(),
            holds: Holds::Resource { bytes: 7 },
            version: None,
            upstream_version: None,
            subscription: Subscription::Named,
            members: 1,
            clusters: 0,
            awaited: Some(exchange::Awaited { since: at(10), until: at(11) }),
            restating: Some(exchange::Awaited { since: at(9), until: at(12) }),
            expires: None,
            error: None,
        };
        let now = Moment::START + Duration::from_millis(10_500);
        let shown = resource(now, &"c1".into(), None, Some(&held));
        let waits: Vec<_> = shown.waits.iter().map(|wait| wait.seconds.0).collect();
        assert_eq!(waits, [0.5, 1.5]);
        assert!(shown.waits[0].detail.ends_with("for 0.5s more at most"), "{}", shown.waits[0].detail);
    }

    #[test]
    fn who_is_behind_for_no_other_reason_takes_no_bytes() {
        let behind = client_type(at(20), at(5), &report(State::Stale));
        let turn = TypeReport { waiting: Some((Waiting::Turn, at(13))), ..report(State::Stale) };
        let types = vec![behind, client_type(at(20), at(5), &turn), client_type(at(20), at(5), &report(State::Synced))];
        let mut client = Client { unsent_bytes: 100, types, ..Client::default() };
        add_unsent(&mut client);
        let waits: Vec<Vec<_>> =
            client.types.iter().map(|each| each.waits.iter().map(|wait| wait.what).collect()).collect();
        assert_eq!(waits, [vec![WaitFor::Bytes], vec![WaitFor::Turn], vec![]]);
    }
}
