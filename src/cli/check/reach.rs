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
        Ok(probes) => (probes.iter().flat_map(way).collect(), probes.iter().filter_map(clocks).collect()),
        Err(error) => {
            let what = "the control plane can be asked";
            (
                vec![Finding::error(what, error.to_string(), "see the findings about certificates, and the token")],
                vec![],
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
            "check --upstream-ca, --upstream-server-name and our own certificate against theirs",
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

fn clocks(probe: &Probe) -> Option<Finding> {
    probe.answer.as_ref().filter(|answer| **answer != Answer::NotTried)?;
    let what = format!("our clock agrees with that of {}", probe.address);
    let (off, how) = match probe.ahead {
        Some(Ahead::By(off)) => (off, "ahead"),
        Some(Ahead::Behind(off)) => (off, "behind"),
        // Few gRPC servers do.
        None => return Some(Finding::good(format!("{} tells no time: clocks are not compared", probe.address))),
    };
    Some(if off <= SKEW {
        Finding::good(what)
    } else {
        let error = format!("ours is {:.0} s {how}", off.as_secs_f64());
        Finding::error(what, error, "let both machines take their time from NTP: certificates and tokens depend on it")
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn clocks_are_compared_where_the_time_is_told() {
        let seconds = |seconds| Duration::from_secs(seconds);
        let table = [
            (None, Verdict::Success, "tells no time"),
            (Some(Ahead::By(seconds(30))), Verdict::Success, "our clock agrees"),
            (Some(Ahead::By(seconds(31))), Verdict::Error, "ours is 31 s ahead"),
            (Some(Ahead::Behind(seconds(3600))), Verdict::Error, "ours is 3600 s behind"),
        ];
        let probe = |answer, ahead| Probe {
            address: "istiod:15012".into(),
            named: true,
            tls: true,
            broke: None,
            round_trip: Duration::ZERO,
            answer,
            ahead,
        };
        for (ahead, verdict, said) in table {
            let found = clocks(&probe(Some(Answer::Silence(Variant::Delta)), ahead)).unwrap();
            assert_eq!(found.result, verdict, "{found:?}");
            assert!(format!("{found:?}").contains(said), "{found:?}");
        }
        assert!(clocks(&probe(None, None)).is_none() && clocks(&probe(Some(Answer::NotTried), None)).is_none());
    }
}
