//! The Outpost that runs with this configuration, if one does.

use super::super::fetch;
use super::super::text::{age, clean, count};
use super::Finding;
use crate::admin::report::{Client, Configuration, Notice, Seconds, Sync, Upstream};
use std::time::Duration;
use tokio::net::TcpStream;

/// What it tells, and whether one runs.
pub(super) async fn look(admin: &str) -> (Vec<Finding>, bool) {
    let what = format!("an Outpost answers at {admin}");
    let upstreams: Vec<Upstream> = match fetch::list(admin, "/upstreams").await {
        Ok(upstreams) => upstreams,
        Err(error) if nobody_listens(admin).await => {
            let hint = "nothing runs here yet? then this is as it should be";
            return (vec![Finding::warning(what, error.to_string(), hint)], false);
        }
        Err(error) => {
            let hint = "an Outpost that does not answer is in trouble: see its log; if it is another program, name another address with --admin";
            return (vec![Finding::error(what, error.to_string(), hint)], false);
        }
    };
    let mut findings = vec![Finding::good(what)];
    findings.push(connected(&upstreams));
    findings.extend(upstreams.iter().filter_map(certificate));
    findings.extend(wants_a_hand(admin).await);
    match fetch::list(admin, "/clients").await {
        Ok(clients) => findings.extend(sidecars(&clients)),
        Err(error) => findings.push(Finding::error("its sidecars are in sync", error.to_string(), "try again")),
    }
    (findings, true)
}

/// Only then nothing runs.
async fn nobody_listens(admin: &str) -> bool {
    let tried = TcpStream::connect(admin);
    let tried = tokio::time::timeout(Duration::from_secs(1), tried).await;
    tried.is_ok_and(|tried| tried.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused))
}

fn connected(upstreams: &[Upstream]) -> Finding {
    if let Some(directory) = upstreams.iter().find(|each| each.files.is_some()) {
        // The address says that it is files.
        let what = format!("it serves what the {} say", directory.address);
        let hint = "what was read before is served: mend the files";
        return match &directory.last_error {
            None => Finding::good(what),
            Some(error) => Finding::error(what, error.clone(), hint),
        };
    }
    let what = "it is connected to a control plane";
    if upstreams.iter().any(|each| each.connections > 0) {
        return Finding::good(what);
    }
    let why =
        |each: &Upstream| format!("{}: {}", each.address, each.last_error.as_deref().map(clean).unwrap_or_default());
    let why: Vec<_> = upstreams.iter().map(why).collect();
    Finding::error(what, why.join("\n"), "what is held is served; see the findings about the upstream")
}

fn certificate(upstream: &Upstream) -> Option<Finding> {
    let what = format!("it uses the newest certificate files towards {}", upstream.address);
    Some(Finding::error(what, upstream.tls_problem.clone()?, "what was loaded before stays in use: mend the files"))
}

/// What it says of itself.
async fn wants_a_hand(admin: &str) -> Vec<Finding> {
    let configuration: Vec<Configuration> = fetch::list(admin, "/configuration").await.unwrap_or_default();
    let notices: Vec<Notice> = fetch::list(admin, "/notices").await.unwrap_or_default();
    let problems = configuration.into_iter().filter_map(|each| each.problem);
    let hint = "what ran before runs on: mend the file";
    let read = problems.map(|problem| Finding::error("its configuration file is valid", clean(&problem), hint));
    let noticed = notices.iter().map(|notice| {
        let (what, hint) = match notice.about.as_str() {
            "certificate" => ("its certificate is good", "mend the files; what was loaded stays in use"),
            "disk" => {
                ("what it holds is kept on disk", "what is held is served from memory; mend the disk or the directory")
            }
            "keys" => ("it has the newest keys of tokens", "mend the JWKS, or the way to it"),
            _ => (
                "its credentials are good",
                "have sidecars present fresh tokens; outpost get groups -o json names the groups (authStale)",
            ),
        };
        Finding::error(what, clean(&format!("{} {}", notice.about, notice.text)), hint)
    });
    read.chain(noticed).collect()
}

/// A sidecar that has not answered for this long is late.
const LATE: Seconds = Seconds(30.0);
/// Sidecars that are named.
const NAMED: usize = 5;

fn sidecars(clients: &[Client]) -> Vec<Finding> {
    let of = |state: Sync| {
        let late = move |client: &&Client| {
            let mut types = client.types.iter().filter(|each| each.sync == state);
            types.any(|each| state == Sync::Rejected || each.age_seconds > LATE)
        };
        let mut found: Vec<String> = clients.iter().filter(late).map(|client| line(client, state)).collect();
        let all = found.len();
        found.truncate(NAMED);
        if all > NAMED {
            found.push(format!("and {} more", all - NAMED));
        }
        (all, found.join("\n"))
    };
    let mut findings = Vec::new();
    let (rejected, named) = of(Sync::Rejected);
    let what = format!("none of {} rejects what it is sent", count(clients.len(), "stream"));
    findings.push(match rejected {
        0 => Finding::good(what),
        _ => Finding::error(what, named, "the text is the sidecar's own; mend the resource at the control plane"),
    });
    for (state, what) in [
        (Sync::Stale, "every stream has answered within 30 s"),
        (Sync::NotSent, "every stream was sent what it asked for within 30 s"),
    ] {
        let (late, named) = of(state);
        findings.push(match late {
            0 => Finding::good(what),
            _ => Finding::error(what, named, "outpost explain NODE says what it waits for"),
        });
    }
    let unmatched = clients.iter().filter(|client| client.unmatched.is_some()).count();
    let what = "every node has the fields that the rule of groups names";
    findings.push(match unmatched {
        0 => Finding::good(what),
        _ => Finding::warning(
            what,
            format!("{} without one", count(unmatched, "stream")),
            "each such node has a group of its own; outpost status names the field",
        ),
    });
    findings
}

fn line(client: &Client, state: Sync) -> String {
    let each = client.types.iter().find(|each| each.sync == state);
    let said = each.and_then(|each| each.last_nack.as_ref()).map(|nack| format!(": {}", clean(&nack.text)));
    let since = each.map(|each| format!(" {} for {}", each.short, age(each.age_seconds))).unwrap_or_default();
    format!("{}{since}{}", clean(&client.node), said.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn only_where_nobody_listens_nothing_runs() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let busy = tokio::spawn(async move {
            // The second connection only wants to know whether somebody listens.
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\ncontent-length: 4\r\n\r\nbusy").await;
            }
        });
        let (found, runs) = look(&address).await;
        assert_eq!((found[0].result, found.len(), runs), (Verdict::Error, 1, false), "{found:?}");
        assert!(found[0].error.as_ref().is_some_and(|error| error.contains("HTTP 503: busy")), "{found:?}");
        busy.abort();
        let _ = busy.await;
        let (found, runs) = look(&address).await;
        assert_eq!((found[0].result, runs), (Verdict::Warning, false), "{found:?}");
    }
}
