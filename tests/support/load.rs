//! Open-loop traffic: requests start by the clock, whatever became of those
//! before, so that a stall is counted and not waited out.

use super::http::Connection;
use super::{check, eventually};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// A little more than the 200 a second that are promised.
const EVERY: Duration = Duration::from_micros(4_500);
const LIMIT: Duration = Duration::from_secs(5);
/// So many answers in a row say that a change has arrived everywhere.
const STEADY: usize = 20;

#[derive(Clone, Debug)]
struct Outcome {
    started: Instant,
    ended: Instant,
    answer: Result<String, String>,
}

#[derive(Debug, Default)]
struct Shared {
    outcomes: Mutex<Vec<Outcome>>,
    idle: Mutex<Vec<Connection>>,
}

/// Traffic that runs until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    generator: JoinHandle<()>,
    began: Instant,
}

/// What became of the requests.
#[derive(Debug)]
pub struct Report {
    pub sent: usize,
    pub failures: Vec<String>,
    pub per_second: f64,
}

impl Load {
    /// Requests for `/` of `host`, sent to a sidecar's port.
    pub fn start(port: u16, host: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let generator = tokio::spawn(generate(Arc::clone(&shared), port, host));
        Self { shared, generator, began: Instant::now() }
    }

    /// Waits until `backend` alone answers, and says how long after `since`
    /// the first of its answers came.
    pub async fn served_by(&self, backend: &str, since: Instant) -> Duration {
        eventually(&format!("traffic served by {backend}"), || async {
            let outcomes = self.shared.outcomes.lock().expect("no panic under the lock");
            let late: Vec<_> = outcomes.iter().filter(|outcome| outcome.started >= since).collect();
            let tail = &late[late.len().saturating_sub(STEADY)..];
            let steady = tail.len() == STEADY && tail.iter().all(|outcome| outcome.answer.as_deref() == Ok(backend));
            check(steady, || format!("{:?}", tail.last().map(|outcome| &outcome.answer)))?;
            let first = late.iter().find(|outcome| outcome.answer.as_deref() == Ok(backend));
            Ok(first.map_or(Duration::ZERO, |outcome| outcome.ended - since))
        })
        .await
    }

    /// Waits for `count` more answers.
    pub async fn flows(&self, count: usize) {
        let before = self.count();
        eventually("traffic flows", || async {
            let now = self.count();
            check(now >= before + count, || format!("{} of {count} answers", now - before))
        })
        .await;
    }

    fn count(&self) -> usize {
        self.shared.outcomes.lock().expect("no panic under the lock").len()
    }

    /// Stops, and lets what is under way end.
    pub async fn stop(self) -> Report {
        let started = self.began.elapsed().as_secs_f64();
        self.generator.abort();
        eventually("the last requests end", || async {
            check(Arc::strong_count(&self.shared) == 1, || "requests under way".to_owned())
        })
        .await;
        let outcomes = self.shared.outcomes.lock().expect("no panic under the lock");
        let failures = outcomes.iter().filter_map(|outcome| outcome.answer.clone().err()).collect();
        Report { sent: outcomes.len(), failures, per_second: outcomes.len() as f64 / started }
    }
}

impl Report {
    /// The promise of every test under traffic: not one request failed, and
    /// there were enough of them.
    pub fn clean(&self) -> String {
        let shown: Vec<_> = self.failures.iter().take(5).collect();
        assert!(self.failures.is_empty(), "{} of {} requests failed: {shown:?}", self.failures.len(), self.sent);
        assert!(self.per_second >= 200.0, "the load fell to {:.0} requests/s", self.per_second);
        format!("{} requests at {:.0}/s, 0 failed", self.sent, self.per_second)
    }
}

async fn generate(shared: Arc<Shared>, port: u16, host: &'static str) {
    let mut ticks = tokio::time::interval(EVERY);
    // Lost time is caught up: the loop stays open on a busy machine.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        ticks.tick().await;
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let started = Instant::now();
            let answer = tokio::time::timeout(LIMIT, request(&shared, port, host))
                .await
                .unwrap_or_else(|_| Err(format!("no answer in {LIMIT:?}")));
            let outcome = Outcome { started, ended: Instant::now(), answer };
            shared.outcomes.lock().expect("no panic under the lock").push(outcome);
        });
    }
}

async fn request(shared: &Shared, port: u16, host: &str) -> Result<String, String> {
    let kept = {
        let mut idle = shared.idle.lock().expect("no panic under the lock");
        idle.retain(Connection::usable);
        idle.pop()
    };
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(port).await?,
    };
    let answer = connection.get(host, "/").await?;
    shared.idle.lock().expect("no panic under the lock").push(connection);
    check(answer.status == 200, || format!("status {}: {}", answer.status, answer.body))?;
    Ok(answer.body)
}
