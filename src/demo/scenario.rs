//! One mode from start to end: everybody starts, the mesh changes, the WAN is
//! cut and comes back.

use super::report::{Outage, Outcome, Quantiles};
use super::{DemoError, Launch, Mode, Options, Relay};
use crate::bench::ledger::{Change, Kind, Ledger};
use crate::bench::mesh::{Digest, Mesh, Shape};
use crate::bench::plane::Plane;
use crate::bench::screen::Screen;
use crate::bench::swarm::{Census, Swarm, Terms};
use crate::bench::wan::{self, Link, Traffic, Wan};
use crate::clock::Clock;
use crate::xds::Moment;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::task::JoinSet;

/// How often it is looked whether something has come about.
const LOOK: Duration = Duration::from_millis(20);
/// For everybody to be in sync; past it the checks fail.
const PATIENCE: Duration = Duration::from_secs(60);
/// What was under way inside Outpost when the WAN went may still arrive.
const UNDER_WAY: Duration = Duration::from_secs(1);
/// Sidecars restarted, and new ones started, while the WAN is cut.
const NEWCOMERS: u32 = 5;

struct Stage<'a> {
    options: &'a Options,
    screen: &'a Screen,
    clock: Clock,
    ledger: Arc<Ledger>,
    mesh: Arc<Mesh>,
    plane: Plane,
    wan: Wan,
    swarm: Swarm,
    /// Those who are there from the start.
    everybody: Range<usize>,
    /// How late a change was made at most, in microseconds: what the machine
    /// could not do.
    late: Arc<AtomicU64>,
}

pub(super) async fn play(
    mode: Mode,
    options: &Options,
    launch: &Launch<'_>,
    screen: &Screen,
) -> Result<Outcome, DemoError> {
    let (clock, ledger) = (Clock::system(), Arc::new(Ledger::default()));
    let shape = Shape { seed: options.seed, ..Shape::for_sidecars(options.sidecars, options.workloads) };
    let classes = shape.classes;
    let mesh = Arc::new(Mesh::new(shape, Arc::clone(&ledger)));
    let plane = Plane::start(mesh.clone()).await?;
    let link = Link {
        bytes_per_second: Some(u64::from(options.bandwidth) * 125_000),
        ..Link::with_delay(Duration::from_millis(options.delay.into()))
    };
    let wan = Wan::start(plane.address(), link, clock.clone()).await?;
    screen.line(&format!("\n{}", mode.title()));
    let relay = start_relay(mode, &wan, launch, screen).await?;
    let address = relay.as_ref().map_or(wan.address(), |relay| relay.address);
    let terms =
        Terms { address, variant: options.variant(), clock: clock.clone(), ledger: Arc::clone(&ledger), classes };
    let swarm = Swarm::new(terms);
    let mut stage =
        Stage { options, screen, clock, ledger, mesh, plane, wan, swarm, everybody: 0..0, late: Arc::default() };
    let outcome = stage.play(mode).await;
    // Sidecars go first: a server that drains waits for them.
    drop(stage);
    if let Some(relay) = relay {
        relay.stop.await;
    }
    Ok(outcome)
}

async fn start_relay(mode: Mode, wan: &Wan, launch: &Launch<'_>, screen: &Screen) -> Result<Option<Relay>, DemoError> {
    let Some(rule) = mode.rule() else { return Ok(None) };
    let upstream = wan.address().to_string();
    let flags = ["--listen", "127.0.0.1:0", "--upstream", &upstream, "--group", rule, "--admin", "127.0.0.1:0"];
    let mut flags: Vec<String> = flags.map(str::to_owned).into();
    screen.line(&format!("  outpost serve {}", flags.join(" ").replace(rule, &format!("'{rule}'"))));
    flags.extend(["--drain", "0s"].map(str::to_owned));
    let relay = launch(flags).await.map_err(DemoError::Relay)?;
    screen.line(&format!("  look in with: outpost status --admin {}", relay.admin));
    Ok(Some(relay))
}

impl Stage<'_> {
    async fn play(&mut self, mode: Mode) -> Outcome {
        let started = self.start().await;
        let start_traffic = self.wan.traffic();
        let streams = self.plane.streams();
        let times = self.swarm.start_times(self.everybody.clone());
        let settled = self.change().await;
        let change_traffic = since(self.wan.traffic(), start_traffic);
        let measured: Vec<_> = self.ledger.changes();
        // Who is late may never hear of a service that came and went.
        let lasting = measured.iter().filter(|change| !matches!(change.kind, Kind::NewService | Kind::Removal));
        let (due, reached) = lasting.fold((0, 0), |(due, reached), change| {
            (due + u64::from(change.audience), reached + u64::from(change.reached()))
        });
        let latencies = Kind::ALL.map(|kind| Quantiles::of(self.ledger.latencies(kind)));
        let all = Quantiles::spread(&measured);
        let outage = self.outage().await;
        Outcome {
            mode,
            sidecars: self.options.sidecars as usize,
            started,
            start: Quantiles::of_sorted(&times),
            connections: start_traffic.connections,
            streams,
            start_traffic,
            change_traffic,
            changes: measured.len(),
            settled,
            late: Duration::from_micros(self.late.load(Relaxed)),
            due,
            reached,
            latencies,
            last: all,
            outage,
            unknown: self.ledger.unknown(),
            backwards: self.ledger.backwards(),
            rejected: self.plane.rejected(),
            trouble: self.swarm.trouble(),
        }
    }

    fn census(&self) -> Census {
        self.swarm.census(self.everybody.clone(), &self.mesh)
    }

    /// Everybody starts within a second, and gets the whole configuration.
    async fn start(&mut self) -> usize {
        self.everybody = self.swarm.add(self.options.sidecars, Duration::from_secs(1));
        self.until_in_sync("starting").await;
        let (census, traffic) = (self.census(), self.wan.traffic());
        let slowest = self.swarm.start_times(self.everybody.clone()).last().copied().unwrap_or_default();
        self.screen.line(&format!(
            "  started: {} of {} hold their configuration, the slowest after {:.2} s; WAN: {}, {} connections, {} streams",
            census.complete,
            census.members,
            slowest.as_secs_f64(),
            bytes(traffic),
            traffic.open,
            self.plane.streams()
        ));
        census.in_sync
    }

    /// Changes go through; who gets them when is written down. True if all
    /// were in sync in the end.
    async fn change(&mut self) -> bool {
        let begin = self.clock.now();
        let before = self.wan.traffic();
        let mut driver = self.drive(true);
        while self.clock.now() - begin < self.options.share(35) {
            self.pause().await;
            self.show_changes(before);
        }
        driver.abort_all();
        while driver.join_next().await.is_some() {}
        let settled = self.until_in_sync("the last changes arrive").await;
        let traffic = since(self.wan.traffic(), before);
        let changes = self.ledger.changes();
        if let Some(last) = Quantiles::spread(&changes) {
            self.screen.line(&format!(
                "  {} changes: the last sidecar had it after {} (median), {} (slowest); WAN: {}",
                changes.len(),
                millis(last.p50),
                millis(last.max),
                bytes(traffic)
            ));
        }
        settled
    }

    /// The WAN goes and comes back, while changes go on behind it.
    async fn outage(&mut self) -> Outage {
        let mut driver = self.drive(false);
        self.clock.sleep_until(self.clock.now() + UNDER_WAY / 2).await;
        let (cut, changes) = (self.clock.now(), self.ledger.changes().len());
        self.wan.cut(wan::Outage::Silence);
        self.screen.line("  the WAN is cut; the control plane goes on changing");
        self.clock.sleep_until(cut + UNDER_WAY).await;

        let all = self.everybody.clone();
        let newcomers = (NEWCOMERS as usize).min(all.len() / 2);
        let running = all.start..all.end - newcomers;
        let restarted = running.end..all.end;
        let before = self.swarm.census(running.clone(), &self.mesh);
        // Served is who comes to hold what it held, or what its workload does.
        let held: Vec<_> = all.clone().map(|member| (self.swarm.class(member), self.swarm.held(member))).collect();
        let restarted: Vec<_> = restarted.map(|member| (member, self.swarm.held(member))).collect();
        self.swarm.restart(running.end..all.end);
        let new = self.swarm.add(newcomers as u32, Duration::ZERO).filter_map(|member| {
            let class = self.swarm.class(member);
            held.iter().find(|(of, _)| *of == class).map(|(_, held)| (member, *held))
        });
        let new: Vec<_> = new.collect();
        while self.clock.now() - cut < UNDER_WAY * 2 + self.options.share(25) {
            self.pause().await;
            self.screen.live(|| self.outage_line(cut, &running, &before, &restarted, &new));
        }
        let after = self.swarm.census(running.clone(), &self.mesh);
        let (restarted, new) = (self.swarm.served(&restarted), self.swarm.served(&new));
        let outage = Outage {
            span: self.clock.now() - cut,
            changes: self.ledger.changes().len() - changes,
            running: running.len(),
            applied: after.applied - before.applied,
            removed: after.removed - before.removed,
            lost: after.lost - before.lost,
            newcomers,
            restarted: Quantiles::of_sorted(&restarted),
            restarted_count: restarted.len(),
            new: Quantiles::of_sorted(&new),
            new_count: new.len(),
            recovered: None,
            again: None,
        };
        driver.abort_all();
        while driver.join_next().await.is_some() {}
        self.screen.line(&format!("  cut for {:.1} s: {outage}", outage.span.as_secs_f64()));
        self.heal(outage).await
    }

    async fn heal(&mut self, outage: Outage) -> Outage {
        let healed = self.clock.now();
        self.wan.heal();
        self.everybody = 0..self.swarm.len();
        let recovered = self.until_in_sync("the WAN is back").await.then(|| self.clock.now() - healed);
        let census = self.census();
        self.screen.line(&format!(
            "  the WAN is back: {} of {} in sync after {:.2} s",
            census.in_sync,
            census.members,
            (self.clock.now() - healed).as_secs_f64()
        ));
        Outage { recovered, again: Some((census.in_sync, census.members)), ..outage }
    }

    /// Makes changes at a steady rate, whatever becomes of them, until dropped.
    fn drive(&self, measured: bool) -> JoinSet<()> {
        let (clock, mesh, late) = (self.clock.clone(), Arc::clone(&self.mesh), Arc::clone(&self.late));
        let (begin, pause) = (self.clock.now(), Duration::from_secs(1) / self.options.rate.max(1));
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            for number in 0.. {
                let due = begin + pause * number;
                clock.sleep_until(due).await;
                late.fetch_max((clock.now() - due).as_micros() as u64, Relaxed);
                mesh.change(due, measured);
            }
        });
        driver
    }

    async fn pause(&self) {
        self.clock.sleep_until(self.clock.now() + LOOK).await;
    }

    /// Whether everybody came to be in sync before patience ran out.
    async fn until_in_sync(&self, what: &str) -> bool {
        let begin = self.clock.now();
        loop {
            let census = self.census();
            if census.in_sync == census.members && census.complete == census.members {
                return true;
            }
            let waited = self.clock.now() - begin;
            if waited > PATIENCE {
                return false;
            }
            if waited > Duration::from_secs(1) {
                self.screen.live(|| {
                    let (traffic, waited) = (self.wan.traffic(), waited.as_secs_f64());
                    let Census { in_sync, members, .. } = census;
                    format!("  {waited:4.1} s  {what}: {in_sync} of {members} in sync · WAN {}", bytes(traffic))
                });
            }
            self.pause().await;
        }
    }

    /// The newest change that reached everybody.
    fn show_changes(&self, before: Traffic) {
        let changes = self.ledger.changes();
        let done = |change: &&Arc<Change>| change.reached() >= change.audience;
        let Some(change) = changes.iter().rev().find(done) else { return };
        self.screen.live(|| {
            let (first, last) = change.spread();
            format!(
                "  {:3} changes · {} {}: {} sidecars, first after {}, last after {} · WAN {}",
                changes.len(),
                change.kind.label(),
                change.subject,
                change.reached(),
                millis(first),
                millis(last),
                bytes(since(self.wan.traffic(), before))
            )
        });
    }

    fn outage_line(
        &self,
        cut: Moment,
        running: &Range<usize>,
        before: &Census,
        restarted: &[(usize, Digest)],
        new: &[(usize, Digest)],
    ) -> String {
        let now = self.swarm.census(running.clone(), &self.mesh);
        format!(
            "  {:4.1} s  cut: {} run, of their resources {} changed, {} removed, {} streams lost · served: {} of {} restarted, {} of {} new",
            (self.clock.now() - cut).as_secs_f64(),
            now.members,
            now.applied - before.applied,
            now.removed - before.removed,
            now.lost - before.lost,
            self.swarm.served(restarted).len(),
            restarted.len(),
            self.swarm.served(new).len(),
            new.len()
        )
    }
}

fn since(now: Traffic, before: Traffic) -> Traffic {
    Traffic { up: now.up - before.up, down: now.down - before.down, ..now }
}

fn bytes(traffic: Traffic) -> String {
    let mega = |bytes: u64| bytes as f64 / 1e6;
    format!("{:.2} MB down, {:.2} MB up", mega(traffic.down), mega(traffic.up))
}

fn millis(span: Duration) -> String {
    super::report::millis(span)
}
