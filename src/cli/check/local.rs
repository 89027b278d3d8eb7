//! What can be seen on this machine: ports, certificates, limits.

use super::Finding;
use crate::clock::{span, timestamp};
use crate::config::{Config, Listen, ServerTls};
use crate::files;
use crate::transport::certificates::{self, Certificate};
use crate::transport::tls::{ClientAuth, ClientFiles, Pair, TlsError};
use rustix::process::{Resource, getrlimit};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::{Duration, SystemTime};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// `running`: an Outpost answers where this configuration has its admin endpoint.
pub(super) async fn ports(config: &Config, running: bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    for listen in &config.downstream.listen {
        findings.push(if running { is_served(listen).await } else { is_free(listen).await });
    }
    if !running {
        let address = config.admin.address;
        let what = format!("--admin {address} is free");
        findings.push(match TcpListener::bind(address).await {
            Ok(_) => Finding::good(what),
            Err(error) if config.admin.asked => {
                Finding::error(what, error.to_string(), "free the port, or name another with --admin")
            }
            Err(error) => Finding::warning(what, error.to_string(), "a free port will be used; name one with --admin"),
        });
    }
    findings
}

async fn is_served(listen: &Listen) -> Finding {
    let what = format!("--listen {listen} takes connections");
    let tried = match listen {
        Listen::Tcp(address) => TcpStream::connect(address).await.map(drop),
        Listen::Unix(path) => UnixStream::connect(path).await.map(drop),
    };
    match tried {
        Ok(()) => Finding::good(what),
        Err(error) => Finding::error(
            what,
            format!("an Outpost runs, and this address does not answer: {error}"),
            "does it run with this configuration? outpost config effective shows what counts",
        ),
    }
}

async fn is_free(listen: &Listen) -> Finding {
    let what = format!("--listen {listen} is free");
    match listen {
        Listen::Tcp(address) => match TcpListener::bind(address).await {
            Ok(_) => Finding::good(what),
            Err(error) => Finding::error(what, error.to_string(), "end what listens there, or listen elsewhere"),
        },
        Listen::Unix(path) => {
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            match std::fs::symlink_metadata(path) {
                Ok(there) if !there.file_type().is_socket() => {
                    let hint = "it is left as it is: move it away, or name another path";
                    Finding::error(what, "what is there is no socket", hint)
                }
                Ok(_) if UnixStream::connect(path).await.is_ok() => {
                    Finding::error(what, "a process listens there", "end it, or listen elsewhere")
                }
                _ if !parent.is_dir() => {
                    Finding::error(what, format!("{} is no directory", parent.display()), "make it, or name another")
                }
                _ => Finding::good(what),
            }
        }
    }
}

pub(super) fn certificates(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    match &config.downstream.tls {
        None => findings.push(Finding::good("sidecars are served in plain text: no certificates to check")),
        Some(tls) => {
            findings.push(usable("--tls-cert and --tls-key", certificates::check_server(pair(tls), clients(tls))));
            findings.extend(file("--tls-cert", &tls.certificate, true));
            findings.extend(tls.client_ca.iter().flat_map(|ca| file("--client-ca", ca, false)));
        }
    }
    if let Some(tls) = &config.upstream.tls {
        let pair = tls.certificate.clone().zip(tls.key.clone()).map(|(cert, key)| Pair { cert, key });
        let files = ClientFiles { ca: tls.ca.clone(), pair, server_name: tls.server_name.clone() };
        findings.push(usable("what TLS towards the control plane needs", certificates::check_client(files)));
        findings.extend(tls.certificate.iter().flat_map(|cert| file("--upstream-cert", cert, true)));
        findings.extend(tls.ca.iter().flat_map(|ca| file("--upstream-ca", ca, false)));
    }
    findings
}

fn pair(tls: &ServerTls) -> Pair {
    Pair { cert: tls.certificate.clone(), key: tls.key.clone() }
}

fn clients(tls: &ServerTls) -> ClientAuth {
    tls.client_ca.clone().map_or(ClientAuth::None, ClientAuth::Required)
}

fn usable(what: &str, tried: Result<(), TlsError>) -> Finding {
    let what = format!("{what} can be used together");
    match tried {
        Ok(()) => Finding::good(what),
        Err(error) => Finding::error(what, error.to_string(), "write certificate, key and chain from one issuance"),
    }
}

/// Dates and, of a chain, order. What cannot be read was told before.
fn file(flag: &str, path: &Path, chain: bool) -> Vec<Finding> {
    let Ok(found) = certificates::read("certificate", path) else { return Vec::new() };
    let now = SystemTime::now();
    let mut findings = vec![dates(flag, &found.certificates, now)];
    if chain {
        let what = format!("{flag}: each certificate of the chain was issued by the next");
        let at = |at: usize| found.certificates.get(at).map(|found| found.subject.clone()).unwrap_or_default();
        findings.push(match found.gap {
            None => Finding::good(what),
            Some(gap) => Finding::error(
                what,
                format!("{:?} did not issue {:?}", at(gap), at(gap - 1)),
                "put the leaf first and then its issuers, in order",
            ),
        });
    }
    findings
}

/// Time to look after a certificate.
const SOON: Duration = Duration::from_secs(7 * 24 * 3600);

fn dates(flag: &str, found: &[Certificate], now: SystemTime) -> Finding {
    let what = format!("{flag} is valid now, and for a while");
    for each in found {
        let subject = &each.subject;
        if let Ok(early) = each.not_before.duration_since(now)
            && !early.is_zero()
        {
            let error = format!("{subject:?} is valid only in {}, from {}", span(early), timestamp(each.not_before));
            return Finding::error(
                what,
                error,
                "is the clock of this machine right? else wait, or have it issued anew",
            );
        }
        match each.not_after.duration_since(now) {
            Err(late) => {
                let late = late.duration();
                let error = format!("{subject:?} ended {} ago, at {}", span(late), timestamp(each.not_after));
                let hint = "is the clock of this machine right? else have it issued anew; files are read again without a restart";
                return Finding::error(what, error, hint);
            }
            // Short-lived ones are renewed when a third is left.
            Ok(left) if left < SOON && lifetime(each) > SOON * 4 => {
                let error = format!("{subject:?} ends in {}", span(left));
                return Finding::warning(what, error, "have it issued anew; files are read again without a restart");
            }
            Ok(_) => {}
        }
    }
    Finding::good(what)
}

fn lifetime(certificate: &Certificate) -> Duration {
    certificate.not_after.duration_since(certificate.not_before).unwrap_or_default()
}

/// Beside the connections of sidecars.
const OTHERS: usize = 256;

pub(super) fn limits(config: &Config) -> Vec<Finding> {
    let needed = config.downstream.connections + 8 * config.upstream.endpoints.len() + OTHERS;
    let what = format!("{needed} files may be open at once");
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    vec![if usize::try_from(limit).unwrap_or(usize::MAX) >= needed {
        Finding::good(what)
    } else {
        let error = format!("here the limit is {limit}, and --max-connections {}", config.downstream.connections);
        Finding::warning(what, error, "raise the limit of open files (ulimit -n), or lower --max-connections")
    }]
}

/// The directory in the place of a control plane.
pub(super) fn files(directory: &Path) -> Vec<Finding> {
    let what = format!("the files in {} are valid", directory.display());
    match files::load(directory) {
        Ok(_) => vec![Finding::good(what)],
        Err(problems) => {
            let hint = "mend it; until then what was read before is served";
            problems.0.iter().map(|problem| Finding::error(what.clone(), problem.to_string(), hint)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_certificate_is_judged_by_its_dates() {
        let day = |days: u64| Duration::from_secs(days * 86_400);
        let now = SystemTime::UNIX_EPOCH + day(20_000);
        let of = |before: u64, after: u64| Certificate {
            subject: "CN=x".into(),
            issuer: "CN=y".into(),
            not_before: SystemTime::UNIX_EPOCH + day(before),
            not_after: SystemTime::UNIX_EPOCH + day(after),
        };
        let table = [
            (of(19_900, 20_100), Verdict::Success, ""),
            (of(20_001, 20_100), Verdict::Error, "is valid only in 24h, from 2024-10-05T00:00:00.000Z"),
            (of(19_900, 19_998), Verdict::Error, "ended 2d ago, at 2024-10-02T00:00:00.000Z"),
            (of(19_900, 20_003), Verdict::Warning, "ends in 3d"),
            (of(19_999, 20_001), Verdict::Success, ""),
        ];
        for (certificate, verdict, said) in table {
            let finding = dates("--tls-cert", &[certificate], now);
            assert_eq!(finding.result, verdict, "{finding:?}");
            assert!(finding.error.unwrap_or_default().contains(said));
        }
    }
}
