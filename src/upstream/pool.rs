//! Connections to the addresses of the control plane.
//!
//! Addresses have priorities. Those of the *level* and below it are connected
//! to; the level rises when none of them can be reached, and falls back to the
//! first that has stood for a while. Streams above the level move.
//!
//! An address has a few connections, opened some time apart so that they do not
//! age together, and more, up to eight, where the peer allows no more streams on
//! them. A connection that says GOAWAY is replaced; its streams move. So it is when
//! our certificate was replaced since, but then by one that stands before.

use super::backoff::{Backoff, Ended, Waits};
use super::metrics::Metrics;
use super::renewal::Renewal;
use super::report::{ConnectionReport, EndpointReport};
use crate::clock::Clock;
use crate::config::{Endpoint, Speak};
use crate::quiet::Quiet;
use crate::transport::client::{Address, ConnectError, Connection, Dialer, Options, State};
use crate::transport::io::Traffic;
use crate::transport::tls::Own;
use crate::xds::time::earliest;
use crate::xds::{Moment, Variant};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, SystemTime};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

/// How connections are kept.
#[derive(Clone, Debug)]
pub struct Keeping {
    /// To each address in use.
    pub base: usize,
    /// Where the peer's limit of streams is reached.
    pub most: usize,
    /// Between one connection and the next.
    pub stagger: Duration,
    /// A better address that stood this long takes the streams back.
    pub steady: Duration,
    /// A connection beyond the base that was idle this long is let go.
    pub idle: Duration,
    /// Our certificate's files are looked at this often …
    pub look: Duration,
    /// … and a newer one replaces the connections within this.
    pub renew: Duration,
}

impl Default for Keeping {
    fn default() -> Self {
        Self {
            base: 2,
            most: 8,
            stagger: Duration::from_secs(5),
            steady: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            look: Duration::from_secs(10),
            renew: Duration::from_secs(300),
        }
    }
}

/// One address.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) address: Arc<str>,
    pub(super) priority: usize,
    /// Streams that stand, through whichever connection.
    pub(super) streams: AtomicUsize,
    last_message: AtomicU64,
    state: Mutex<SiteState>,
    /// By reason, a closed set.
    losses: Quiet<&'static str>,
    wake: Notify,
}

#[derive(Debug)]
struct SiteState {
    dialer: Arc<Dialer>,
    /// Of dialers that were replaced.
    retired: Vec<Arc<Traffic>>,
    /// Those that take new streams, oldest first.
    links: Vec<Link>,
    /// All are full.
    grow: bool,
    /// The last attempt failed, and nothing stands.
    failing: bool,
    /// Attempts while nothing stands …
    alone: Attempts,
    /// … and for one more beside what stands: that these fail keeps nobody waiting.
    beside: Attempts,
    /// Since when at least one connection stands …
    connected: Option<Moment>,
    /// … or none does though it was tried.
    down: Option<Moment>,
    /// The server lacks delta.
    sotw: bool,
    /// What it answered last.
    spoken: Option<Variant>,
    last_error: Option<(Moment, Arc<str>)>,
}

/// When the next one is due.
#[derive(Debug, Default)]
struct Attempts {
    backoff: Backoff,
    not_before: Moment,
}

impl SiteState {
    fn attempts(&mut self) -> &mut Attempts {
        if self.links.is_empty() { &mut self.alone } else { &mut self.beside }
    }

    fn back_off(&mut self, now: Moment, waits: &Waits, ended: Ended) {
        let attempts = self.attempts();
        attempts.not_before = now + attempts.backoff.next(waits, ended, rand::random());
    }
}

#[derive(Debug)]
struct Link {
    connection: Connection,
    since: Moment,
    number: u64,
    renewal: Renewal,
}

impl Site {
    fn new(endpoint: &Endpoint, options: &Options, clock: &Clock) -> Self {
        let address = Address::Tcp { host: endpoint.host.clone(), port: endpoint.port };
        let state = SiteState {
            dialer: Dialer::new(address, options.clone(), clock.clone()),
            retired: Vec::new(),
            links: Vec::new(),
            grow: false,
            failing: false,
            alone: Attempts::default(),
            beside: Attempts::default(),
            connected: None,
            down: None,
            sotw: false,
            spoken: None,
            last_error: None,
        };
        Self {
            address: endpoint.to_string().into(),
            priority: endpoint.priority,
            streams: AtomicUsize::new(0),
            last_message: AtomicU64::new(0),
            state: state.into(),
            losses: Quiet::new(1, usize::MAX),
            wake: Notify::new(),
        }
    }

    /// What a connection made now would present of us.
    fn own(&self) -> Option<Own> {
        let dialer = self.lock().dialer.clone();
        dialer.options().tls.as_ref().and_then(|tls| tls.own())
    }

    fn lock(&self) -> MutexGuard<'_, SiteState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to speak to this address.
    pub(super) fn variant(&self, speak: Speak) -> Variant {
        match speak {
            Speak::Auto if self.lock().sotw => Variant::Sotw,
            Speak::Auto | Speak::Delta => Variant::Delta,
            Speak::Sotw => Variant::Sotw,
        }
    }

    /// The server answered UNIMPLEMENTED to `variant`: the other one is next.
    /// Says whether that is news.
    pub(super) fn lacks(&self, variant: Variant) -> bool {
        let mut state = self.lock();
        let before = state.sotw;
        state.sotw = variant == Variant::Delta;
        before != state.sotw
    }

    /// The server has answered a stream of this variant.
    pub(super) fn speaks(&self, variant: Variant) {
        self.lock().spoken = Some(variant);
    }

    pub(super) fn heard(&self, now: Moment) {
        let millis = u64::try_from(now.since_start().as_millis()).unwrap_or(u64::MAX);
        self.last_message.fetch_max(millis.max(1), Ordering::Relaxed);
    }

    /// Notes why a stream ended, or what it said that is no good. However many
    /// groups see it, a kind of reason is a few lines. The text is partly the
    /// peer's, so control characters in it are escaped.
    pub(super) fn note_loss(&self, now: Moment, reason: &'static str, text: &Arc<str>) {
        self.lock().last_error = Some((now, text.clone()));
        if let Some(others) = self.losses.due(now, &reason) {
            tracing::warn!(address = %self.address, reason, others, text = ?text, "trouble with a stream to the control plane");
        }
    }

    pub(super) fn note_error(&self, now: Moment, text: impl Into<Arc<str>>) {
        self.lock().last_error = Some((now, text.into()));
    }

    /// The peer cannot do with compression being offered: new connections do
    /// not offer it. Says whether they did.
    pub(super) fn stop_offering_gzip(&self, clock: &Clock) -> bool {
        let mut state = self.lock();
        if !state.dialer.options().accept_gzip {
            return false;
        }
        let options = Options { accept_gzip: false, ..state.dialer.options().clone() };
        let plain = Dialer::new(state.dialer.address().clone(), options, clock.clone());
        let before = std::mem::replace(&mut state.dialer, plain);
        state.retired.push(before.traffic().clone());
        (state.links, state.connected) = (Vec::new(), None);
        drop(state);
        self.wake.notify_one();
        true
    }

    fn report(&self, active: bool) -> EndpointReport {
        let state = self.lock();
        let traffic = || state.retired.iter().chain([state.dialer.traffic()]);
        let connections = state.links.iter().map(|link| ConnectionReport {
            since: link.since,
            streams: link.connection.calls(),
            max_streams: link.connection.max_streams(),
            round_trip: link.connection.round_trip(),
        });
        let heard = self.last_message.load(Ordering::Relaxed);
        let tls = state.dialer.options().tls.as_ref();
        EndpointReport {
            address: self.address.clone(),
            priority: self.priority,
            active,
            connections: connections.collect(),
            streams: self.streams.load(Ordering::Relaxed),
            variant: state.spoken,
            connected_since: state.connected,
            down_since: state.down,
            last_error: state.last_error.clone(),
            last_message: (heard > 0).then(|| Moment::from_start(Duration::from_millis(heard))),
            bytes_received: traffic().map(|traffic| traffic.received()).sum(),
            bytes_sent: traffic().map(|traffic| traffic.sent()).sum(),
            compression: state.dialer.options().accept_gzip,
            tls_problem: tls.and_then(|tls| tls.state().problem()),
            tls_expires: tls.and_then(|tls| tls.state().expires()),
        }
    }
}

/// What keeping an address needs next.
enum Step {
    Connect,
    Wait(Option<Moment>),
}

/// All addresses.
#[derive(Debug)]
pub(super) struct Pool {
    /// By priority.
    sites: Vec<Arc<Site>>,
    keeping: Keeping,
    waits: Waits,
    level: watch::Sender<usize>,
    /// Counts what may have changed where streams can be placed.
    changes: watch::Sender<u64>,
    problem: watch::Sender<Option<Arc<str>>>,
    links: AtomicU64,
    clock: Clock,
    metrics: Metrics,
}

impl Pool {
    pub(super) fn new(
        endpoints: &[Endpoint],
        options: &Options,
        keeping: Keeping,
        waits: Waits,
        clock: Clock,
        metrics: Metrics,
    ) -> Arc<Self> {
        let mut sites: Vec<_> =
            endpoints.iter().map(|endpoint| Arc::new(Site::new(endpoint, options, &clock))).collect();
        sites.sort_by_key(|site| site.priority);
        let level = sites.first().map_or(0, |site| site.priority);
        Self {
            sites,
            keeping,
            waits,
            level: watch::Sender::new(level),
            changes: watch::Sender::new(0),
            problem: watch::Sender::new(None),
            links: AtomicU64::new(0),
            clock,
            metrics,
        }
        .into()
    }

    // ---- placing streams ----

    /// A connection that takes one more stream: at the best priority, the one
    /// with the fewest.
    pub(super) fn place(&self) -> Option<(Arc<Site>, Connection)> {
        for sites in self.sites.chunk_by(|a, b| a.priority == b.priority) {
            let mut best: Option<(Arc<Site>, Connection)> = None;
            let mut growing = false;
            for site in sites {
                let mut state = site.lock();
                let open = state.links.iter().map(|link| &link.connection).filter(|connection| connection.room() > 0);
                match open.min_by_key(|connection| connection.calls()) {
                    Some(found) if best.as_ref().is_none_or(|(_, best)| found.calls() < best.calls()) => {
                        best = Some((site.clone(), found.clone()));
                    }
                    Some(_) => {}
                    None if !state.links.is_empty() && state.links.len() < self.keeping.most => {
                        growing = true;
                        state.grow = true;
                        site.wake.notify_one();
                    }
                    None => {}
                }
            }
            if best.is_some() || growing {
                return best;
            }
        }
        None
    }

    /// Resolves when [`place`](Self::place) finds something.
    pub(super) async fn room(&self) {
        let mut changes = self.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let found = self.place().is_some();
            self.tell_problem();
            if found {
                return;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// A stream ended, or a connection came or went.
    pub(super) fn changed(&self) {
        self.changes.send_modify(|count| *count = count.wrapping_add(1));
        if self.problem.borrow().is_some() {
            self.tell_problem();
        }
    }

    /// Streams on addresses of a higher priority number move.
    pub(super) fn level(&self) -> watch::Receiver<usize> {
        self.level.subscribe()
    }

    /// At least one connection stands.
    pub(super) fn is_connected(&self) -> bool {
        self.sites.iter().any(|site| !site.lock().links.is_empty())
    }

    /// Why no stream can be opened now, once an attempt has failed.
    pub(super) fn problem(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.problem.subscribe()
    }

    fn tell_problem(&self) {
        let mut newest: Option<(Moment, Arc<str>)> = None;
        let mut connected = false;
        for site in &self.sites {
            let state = site.lock();
            connected |= !state.links.is_empty();
            let error = state.last_error.as_ref().filter(|(at, _)| newest.as_ref().is_none_or(|(best, _)| at >= best));
            newest = error.cloned().or(newest);
        }
        let problem = if connected { self.full() } else { newest.map(|(_, text)| text) };
        self.problem.send_if_modified(|now| {
            let other = *now != problem;
            *now = problem;
            other
        });
    }

    /// Where connections stand, but none takes another stream and none may be added.
    fn full(&self) -> Option<Arc<str>> {
        let mut text = None;
        for site in &self.sites {
            let state = site.lock();
            let Some(last) = state.links.last() else { continue };
            if state.links.len() < self.keeping.most || state.links.iter().any(|link| link.connection.room() > 0) {
                return None;
            }
            text = Some(format!(
                "all {} connections to {} are full: it allows {} streams on each. Let the control plane allow more, or let sidecars share groups (--group)",
                state.links.len(),
                site.address,
                last.connection.max_streams()
            ));
        }
        text.map(Arc::from)
    }

    pub(super) fn report(&self) -> Vec<EndpointReport> {
        let level = *self.level.borrow();
        self.sites.iter().map(|site| site.report(site.priority <= level)).collect()
    }

    // ---- keeping connections ----

    /// Keeps connections for ever.
    pub(super) async fn run(self: Arc<Self>) {
        let mut tasks = JoinSet::new();
        for site in &self.sites {
            tasks.spawn(self.clone().keep(site.clone()));
        }
        tasks.join_all().await;
    }

    async fn keep(self: Arc<Self>, site: Arc<Site>) {
        let mut level = self.level.subscribe();
        loop {
            level.borrow_and_update();
            match self.next_step(&site) {
                Step::Connect => self.connect(&site).await,
                Step::Wait(deadline) => tokio::select! {
                    () = site.wake.notified() => {}
                    _ = level.changed() => {}
                    () = self.clock.sleep_until_some(deadline) => {}
                },
            }
        }
    }

    fn next_step(&self, site: &Site) -> Step {
        let now = self.clock.now();
        let level = *self.level.borrow();
        let own = site.own();
        let mut state = site.lock();
        if site.priority > level {
            // Streams move away; what carries none is let go.
            state.links.retain(|link| link.connection.calls() > 0);
            (state.failing, state.grow) = (false, false);
            if state.links.is_empty() {
                state.connected = None;
                return Step::Wait(None);
            }
            return Step::Wait(Some(now + Duration::from_secs(1)));
        }
        let mut deadline = None;
        if let Some(since) = state.connected.filter(|_| site.priority < level) {
            deadline = Some(since + self.keeping.steady);
            if now >= since + self.keeping.steady {
                drop(state);
                self.set_level(site.priority, "a better address stands again");
                return Step::Wait(Some(now));
            }
        }
        deadline = earliest(deadline, self.renew(now, own, &mut state));
        let open = state.links.len();
        let renews = state.links.iter().any(|link| link.renewal.is_due(now));
        if open >= self.keeping.base && !renews && !(state.grow && open < self.keeping.most) {
            state.grow = false;
            return Step::Wait(earliest(deadline, self.shrink(now, &mut state)));
        }
        let stagger = state.links.last().filter(|_| !state.grow).map(|link| link.since + self.keeping.stagger);
        let not_before = state.attempts().not_before.max(stagger.unwrap_or_default());
        if now < not_before { Step::Wait(earliest(deadline, Some(not_before))) } else { Step::Connect }
    }

    /// Plans to replace what was made with an older certificate than `own`; says
    /// when to look again.
    fn renew(&self, now: Moment, own: Option<Own>, state: &mut SiteState) -> Option<Moment> {
        let newest = own?;
        let wall = SystemTime::now();
        for link in &mut state.links {
            link.renewal.look((now, wall), Some(newest), self.keeping.renew, rand::random());
        }
        let due = state.links.iter().map(|link| link.renewal.due()).fold(None, earliest);
        earliest(due.filter(|due| *due > now), Some(now + self.keeping.look))
    }

    /// Lets go of one idle connection beyond the base; says when to look again.
    fn shrink(&self, now: Moment, state: &mut SiteState) -> Option<Moment> {
        if state.links.len() <= self.keeping.base {
            return None;
        }
        let idle = |link: &Link| link.connection.calls() == 0 && now.since(link.since) >= self.keeping.idle;
        if let Some(at) = state.links.iter().rposition(idle) {
            state.links.remove(at);
        }
        Some(now + self.keeping.idle)
    }

    async fn connect(self: &Arc<Self>, site: &Arc<Site>) {
        let dialer = site.lock().dialer.clone();
        // Taken before: where the files change meanwhile, it is replaced once more.
        let own = site.own();
        match dialer.connect().await {
            Ok(connection) => self.connected(site, &dialer, connection, own),
            Err(error) => self.failed(site, &error),
        }
        self.tell_problem();
        self.changed();
    }

    fn connected(self: &Arc<Self>, site: &Arc<Site>, dialer: &Arc<Dialer>, connection: Connection, own: Option<Own>) {
        let now = self.clock.now();
        let mut state = site.lock();
        // The dialer was replaced meanwhile.
        if !Arc::ptr_eq(dialer, &state.dialer) {
            return;
        }
        let round_trip = connection.round_trip();
        tracing::info!(address = %site.address, ?round_trip, "connected to the control plane");
        let number = self.links.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(watch_link(Arc::downgrade(self), Arc::downgrade(site), connection.state(), number));
        if let Some(at) = state.links.iter().position(|link| link.renewal.is_due(now)) {
            tracing::info!(address = %site.address, "the connection replaces one made with an older certificate of ours");
            state.links.remove(at).connection.retire("our certificate was replaced");
        }
        state.links.push(Link { connection, since: now, number, renewal: Renewal::new(own) });
        (state.grow, state.failing, state.down) = (false, false, None);
        state.connected.get_or_insert(now);
    }

    fn failed(&self, site: &Site, error: &ConnectError) {
        self.metrics.connect_failed(error.reason());
        let now = self.clock.now();
        let text: Arc<str> = error.to_string().into();
        let mut state = site.lock();
        if state.last_error.as_ref().is_none_or(|(_, last)| *last != text) {
            tracing::warn!(address = %site.address, error = ?text, "cannot connect to the control plane; trying again");
        }
        state.last_error = Some((now, text));
        let ended = if error.is_unreached() { Ended::Unreached } else { Ended::After(Duration::ZERO) };
        state.back_off(now, &self.waits, ended);
        state.failing = state.links.is_empty();
        state.down = state.down.or(state.failing.then_some(now));
        drop(state);
        self.raise_level();
    }

    fn lost(&self, site: &Site, number: u64, reason: &str) {
        let now = self.clock.now();
        let mut state = site.lock();
        let Some(at) = state.links.iter().position(|link| link.number == number) else { return };
        let lived = now.since(state.links.remove(at).since);
        state.back_off(now, &self.waits, Ended::After(lived));
        let text = format!("connection to {} ended after {} s: {reason}", site.address, lived.as_secs());
        tracing::warn!(address = %site.address, lived = ?lived, reason, "connection to the control plane ended");
        state.last_error = Some((now, text.into()));
        if state.links.is_empty() {
            (state.connected, state.down) = (None, Some(now));
        }
        drop(state);
        site.wake.notify_one();
        self.tell_problem();
        self.changed();
    }

    /// Tries the next priority where nothing up to the level can be reached.
    fn raise_level(&self) {
        let level = *self.level.borrow();
        let mut tried = self.sites.iter().filter(|site| site.priority <= level);
        if !tried.all(|site| site.lock().failing) {
            return;
        }
        if let Some(next) = self.sites.iter().map(|site| site.priority).find(|priority| *priority > level) {
            self.set_level(next, "no address of a better priority can be reached");
        }
    }

    fn set_level(&self, level: usize, why: &str) {
        let moved = self.level.send_if_modified(|now| std::mem::replace(now, level) != level);
        if moved {
            tracing::warn!(priority = level, why, "control plane addresses up to this priority are in use");
        }
    }
}

async fn watch_link(pool: Weak<Pool>, site: Weak<Site>, mut state: watch::Receiver<State>, number: u64) {
    let ended = state.wait_for(|state| *state != State::Open).await.map(|state| state.clone());
    let reason = match ended {
        Ok(State::GoingAway(reason) | State::Closed(reason)) => reason,
        Ok(State::Open) | Err(_) => "closed".into(),
    };
    if let (Some(pool), Some(site)) = (pool.upgrade(), site.upgrade()) {
        pool.lost(&site, number, &reason);
    }
}
