//! The way to the control plane, step by step, and the clocks at both ends.

use super::Finding;
use crate::clock::Clock;
use crate::config::Config;
use crate::upstream::probe::{Ahead, Answer, Probe, Stage, probe};
use crate::xds::{Variant, code};
use std::time::Duration;

/// The way there, and the clocks.
pub(super) async fn look(config: &Config, node: &str, clock: &Clock) -> (Vec<Finding>, Vec<Finding>) {
    match probe(&config.upstream, node, clock).await {
        Ok(probes) => (probes.iter().flat_map(way).collect(), probes.iter().map(clocks).collect()),
        Err(error) => {
            let what = "the control plane can be asked";
            (
                vec![Finding::error(what, error.to_string(), "see the findings about certificates, and the token")],
                vec![no_clock("the control plane cannot be asked")],
            )
        }
    }
}

fn way(probe: &Probe) -> Vec<Finding> {
    let address = &probe.address;
    let stages = [
        (Stage::Resolve, probe.named, "can be resolved", "check the name, and DNS on this machine"),
        (Stage::Connect, true, "takes TCP connections", "check address, port, firewalls and routes"),
        (
            Stage::Tls,
            probe.tls,
            "shakes hands by TLS",
            if probe.dates {
                "is the clock of this machine right, and theirs? let both take their time from NTP; if they are, have the certificate issued anew"
            } else {
                "check --upstream-ca, --upstream-server-name and our own certificate against theirs"
            },
        ),
        (Stage::Http2, true, "speaks HTTP/2", "name the port on which it serves gRPC; does it want TLS?"),
    ];
    let mut findings = Vec::new();
    for (stage, due, what, hint) in stages {
        let what = format!("{address} {what}");
        match &probe.broke {
            Some((broke, why)) if *broke == stage => {
                findings.push(Finding::error(what, why.clone(), hint));
                return findings;
            }
            _ if due => findings.push(Finding::good(what)),
            _ => {}
        }
    }
    findings.extend(probe.answer.as_ref().map(|came| answer(probe, came)));
    findings
}

fn answer(probe: &Probe, answer: &Answer) -> Finding {
    let what = format!("{} answers a first ask", probe.address);
    let variant = |variant: &Variant| if *variant == Variant::Delta { "delta" } else { "SotW" };
    match answer {
        Answer::Response(of) => Finding::good(format!("{what} by {}, {:.1?} away", variant(of), probe.round_trip)),
        Answer::Silence(of) => Finding::warning(
            what,
            format!("the stream stands ({}), and nothing came within 5 s", variant(of)),
            "it may have nothing for such a node: name one that it knows with --as-node",
        ),
        Answer::NotTried => Finding::good(format!(
            "{what}: not tried, as streams are opened by sidecars' tokens (--upstream-credentials member)"
        )),
        Answer::Ended { code, text } => Finding::error(what, text.clone(), hint(*code)),
    }
}

fn hint(code: i32) -> &'static str {
    match code {
        code::UNAUTHENTICATED => "check --upstream-token-file and --upstream-cert: who we are is not accepted",
        code::PERMISSION_DENIED => "check who we are allowed to be there; --as-node names the node to present",
        code::INVALID_ARGUMENT => "it may not take such a node: name one that it knows with --as-node",
        code::UNIMPLEMENTED => "it serves no ADS, or not this variant: check the port and --upstream-variant",
        _ => "look into the log of the control plane",
    }
}

/// Beyond this tokens and certificates that are just made are not valid yet.
const SKEW: Duration = Duration::from_secs(30);

/// In any case something is said of the clocks.
fn clocks(probe: &Probe) -> Finding {
    let what = format!("our clock agrees with that of {}", probe.address);
    let hint = "let both machines take their time from NTP: certificates and tokens depend on it";
    let unknown =
        |why: &str| Finding::good(format!("our clock cannot be compared with that of {}: {why}", probe.address));
    let (off, how) = match (&probe.answer, probe.ahead) {
        (None, _) if probe.dates => {
            let error = "they cannot be compared, and by one of them a certificate is not valid now";
            return Finding::warning(what, error, hint);
        }
        (None, _) => return unknown("no connection came about"),
        (Some(Answer::NotTried), _) => return unknown("no stream was opened"),
        (Some(_), Some(Ahead::By(off))) => (off, "ahead"),
        (Some(_), Some(Ahead::Behind(off))) => (off, "behind"),
        // Few gRPC servers do.
        (Some(_), None) => return unknown("it tells no time"),
    };
    if off <= SKEW {
        Finding::good(what)
    } else {
        Finding::error(what, format!("ours is {:.0} s {how}", off.as_secs_f64()), hint)
    }
}

/// Where there is no other clock.
pub(super) fn no_clock(why: &str) -> Finding {
    Finding::good(format!("our clock cannot be compared with another: {why}"))
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn clocks_are_compared_where_the_time_is_told() {
        let seconds = |seconds| Duration::from_secs(seconds);
        let table = [
            (None, Verdict::Success, "cannot be compared with that of istiod:15012: it tells no time"),
            (Some(Ahead::By(seconds(30))), Verdict::Success, "our clock agrees"),
            (Some(Ahead::By(seconds(31))), Verdict::Error, "ours is 31 s ahead"),
            (Some(Ahead::Behind(seconds(3600))), Verdict::Error, "ours is 3600 s behind"),
        ];
        let probe = |answer, ahead| Probe {
            address: "istiod:15012".into(),
            named: true,
            tls: true,
            broke: None,
            dates: false,
            round_trip: Duration::ZERO,
            answer,
            ahead,
        };
        for (ahead, verdict, said) in table {
            let found = clocks(&probe(Some(Answer::Silence(Variant::Delta)), ahead));
            assert_eq!(found.result, verdict, "{found:?}");
            assert!(format!("{found:?}").contains(said), "{found:?}");
        }
        let mut none = probe(None, None);
        assert!(format!("{:?}", clocks(&none)).contains("cannot be compared with that of istiod:15012: no connection"));
        none.dates = true;
        let found = clocks(&none);
        assert_eq!(found.result, Verdict::Warning);
        assert!(found.error.unwrap().contains("a certificate is not valid now"));
        none.broke = Some((Stage::Tls, "certificate expired".into()));
        assert!(way(&none).iter().any(|found| found.hint.as_ref().is_some_and(|hint| hint.contains("clock"))));
        assert!(format!("{:?}", clocks(&probe(Some(Answer::NotTried), None))).contains("no stream was opened"));
    }
}
