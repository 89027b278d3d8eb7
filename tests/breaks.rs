//! Breaks one rule after another and demands that something notices.
//!
//! Transcripts do, mostly without sockets; where only transcripts over a socket
//! show the rule, these. The few rules that no conversation shows have a
//! [`Check`]. Before anything is broken all of them must pass.
//!
//! All breaks: `OUTPOST_BREAKS=all`. Without it as many as fit into three
//! minutes, in an order that a seed chooses; the seed is printed, and
//! `OUTPOST_BREAKS_SEED` sets it. `OUTPOST_BREAKS=C-040` takes one.

#[allow(unreachable_pub, dead_code)]
mod transcript_support;

use outpost::breaks;
use outpost::upstream::{Backoff, Ended, Waits};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt};
use transcript_support::driver::Driver;
use transcript_support::library;
use transcript_support::pure::Pure;
use transcript_support::run::replay;
use transcript_support::script::{Form, Script, Wire};
use transcript_support::socket::Socket;

const BUDGET: Duration = Duration::from_secs(150);

/// What holds while a rule is kept, beside the transcripts.
struct Check {
    rule: &'static str,
    name: &'static str,
    holds: fn(&Suite) -> bool,
}

const CHECKS: [Check; 2] = [
    Check { rule: "C-136", name: "waits between streams that fail grow", holds: waits_grow },
    Check { rule: "C-146", name: "no secret is in the log", holds: no_secret_is_logged },
];

struct Suite {
    scripts: Vec<Script>,
    log: Log,
}

fn waits_grow(_: &Suite) -> bool {
    let (waits, mut backoff) = (Waits::default(), Backoff::default());
    let mut wait = |lived: Duration| backoff.next(&waits, Ended::After(lived), 1.0);
    let short: Vec<_> = (0..20).map(|_| wait(Duration::ZERO)).collect();
    let grow = short.is_sorted() && short.first() == Some(&waits.least) && short.last() == Some(&waits.most);
    grow && wait(waits.healthy) == waits.at_once && wait(Duration::ZERO) == waits.least
}

fn no_secret_is_logged(suite: &Suite) -> bool {
    suite.log.0.lock().expect("no panic while held").clear();
    let secrets = suite.scripts.iter().filter(|script| script.rules.iter().any(|rule| rule == "C-146"));
    let served = secrets.clone().count() > 0 && secrets.clone().all(|script| kept(script, Form::Socket));
    let log = suite.log.0.lock().expect("no panic while held");
    let log = String::from_utf8_lossy(&log);
    // Of the payload that C-146.txt has.
    served && !log.contains("content 774411")
}

/// Everything that Outpost logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn listen() -> Self {
        let log = Self::default();
        let writer = log.clone();
        let filter: Targets = "outpost=trace".parse().expect("a filter");
        let layer = fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing_subscriber::registry().with(layer.with_filter(filter)).init();
        log
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic while held").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn driver(script: &Script, form: Form, upstream: Wire) -> Box<dyn Driver> {
    let setup = library::setup(script, upstream);
    match form {
        Form::Ads | Form::Service => Box::new(Pure::new(&setup)),
        Form::Socket => Box::new(Socket::new(&setup, script.streams().len() > 200)),
    }
}

/// Does a transcript go as it should? A panic is no.
fn kept(script: &Script, form: Form) -> bool {
    let run = |upstream: &Wire| replay(script, form, || driver(script, form, *upstream)).is_ok();
    let run = |upstream: &Wire| catch_unwind(AssertUnwindSafe(|| run(upstream))).unwrap_or(false);
    script.upstreams.iter().all(run)
}

fn needs_socket(script: &Script) -> bool {
    script.forms.contains(&Form::Socket)
}

impl Suite {
    /// What fails.
    fn failures(&self) -> Vec<String> {
        let transcript = |script: &Script| {
            let failed: Vec<_> = script.forms.iter().filter(|form| !kept(script, **form)).collect();
            (!failed.is_empty()).then(|| format!("{} {failed:?}", script.id))
        };
        let check = |check: &Check| (!(check.holds)(self)).then(|| format!("{}: {}", check.rule, check.name));
        self.scripts.iter().filter_map(transcript).chain(CHECKS.iter().filter_map(check)).collect()
    }

    /// What fails first while `rule` is broken; what shows it goes first.
    fn noticed(&self, rule: &str) -> Option<String> {
        let shows = |script: &&Script| script.rules.iter().any(|shown| shown == rule);
        let (shown, others): (Vec<_>, Vec<_>) = self.scripts.iter().partition(shows);
        let sockets = shown.iter().all(|script| needs_socket(script));
        let wanted = |script: &&Script| sockets || !needs_socket(script);
        let shown = shown.into_iter().filter(wanted);
        let others = others.into_iter().filter(|script| !needs_socket(script));
        breaks::choose(rule);
        let check = CHECKS.iter().find(|check| check.rule == rule && !(check.holds)(self));
        let noticed = check.map(|check| check.name.to_owned()).or_else(|| {
            let failed = |script: &Script| script.forms.iter().any(|form| !kept(script, *form));
            shown.chain(others).find(|script| failed(script)).map(|script| script.id.clone())
        });
        breaks::choose("");
        noticed
    }
}

/// Which rules to break, in which order, and how many there are.
fn chosen(wanted: &str) -> (Vec<String>, usize) {
    let mut rules: Vec<String> = library::broken().into_iter().collect();
    let all = rules.len();
    if wanted.starts_with("C-") {
        rules.retain(|rule| *rule == wanted);
    } else if wanted != "all" {
        let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let seed = std::env::var("OUTPOST_BREAKS_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(clock);
        println!("OUTPOST_BREAKS_SEED={seed}");
        let order = |rule: &String| blake3::hash(format!("{seed} {rule}").as_bytes()).to_hex().to_string();
        rules.sort_by_cached_key(order);
    }
    (rules, all)
}

#[test]
fn every_break_is_noticed() {
    let wanted = std::env::var("OUTPOST_BREAKS").unwrap_or_default();
    let (rules, all) = chosen(&wanted);
    let suite = Suite { scripts: library::scripts(), log: Log::listen() };
    let start = Instant::now();
    let failures = suite.failures();
    assert!(failures.is_empty(), "nothing is broken yet, and these fail: {failures:#?}");
    println!("unbroken, everything passes: {:?}", start.elapsed());
    std::panic::set_hook(Box::new(|_| {}));
    let (mut done, mut unnoticed) = (0, Vec::new());
    for rule in &rules {
        if wanted.is_empty() && start.elapsed() > BUDGET {
            break;
        }
        done += 1;
        let began = Instant::now();
        match suite.noticed(rule) {
            Some(what) => println!("{rule}: {what} ({:.1?})", began.elapsed()),
            None => unnoticed.push(rule.as_str()),
        }
    }
    let _ = std::panic::take_hook();
    println!("{done} of {all} breaks in {:?}", start.elapsed());
    assert!(!rules.is_empty() && unnoticed.is_empty(), "nothing notices the break of {unnoticed:?}");
}
