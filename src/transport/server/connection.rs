//! From a socket to calls.

use super::metrics::{Accepted, Ended};
use super::proof::NoProof;
use super::{Call, Cause, Ending, Handler, IdentityError, Incoming, Peer, Shared};
use crate::bell::Aside;
use crate::breaks;
use crate::clock::Clock;
use crate::transport::Identity;
use crate::transport::gate::Denied;
use crate::transport::gather::{Gather, Turns};
use crate::transport::io::{Counted, Socket};
use crate::transport::tls::ServerTls;
use crate::xds::{Moment, Status, code};
use bytes::Bytes;
use futures_util::{FutureExt, future};
use h2::server::{self, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::Request;
use std::future::{Future, poll_fn};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;

/// Encrypted bytes held for a peer that does not read.
const TLS_BUFFER: usize = 128 << 10;

/// What is written at the very end gets this long to leave.
const LAST_FLUSH: Duration = Duration::from_secs(1);

type Who = Result<Option<Identity>, IdentityError>;
type Http2 = server::Connection<Gather<Box<dyn Socket>>, Bytes>;

/// Serves a connection until it ends.
pub(super) async fn run<H: Handler>(incoming: Incoming, shared: &Arc<Shared<H>>) {
    let socket = Counted::new(incoming.socket, shared.traffic.clone());
    let (socket, who): (Box<dyn Socket>, Who) = match &shared.settings.tls {
        None => (Box::new(socket), Ok(None)),
        Some(tls) => match secure(tls, socket, &incoming.peer, shared).await {
            Ok((socket, who)) => (Box::new(socket), who),
            Err(result) => return shared.metrics.accepted(result),
        },
    };
    let http2 = match handshake(socket, shared).await {
        Ok(http2) => http2,
        Err(result) => return shared.metrics.accepted(result),
    };
    shared.metrics.accepted(Accepted::Served);
    let _open = shared.metrics.opened();
    let reason = Serving::new(http2, incoming.peer, who, shared).serve().await;
    shared.metrics.ended(reason);
}

async fn within<T>(clock: &Clock, span: Duration, work: impl Future<Output = T>) -> Option<T> {
    match future::select(pin!(work), pin!(clock.sleep_until(clock.now() + span))).await {
        future::Either::Left((done, _)) => Some(done),
        future::Either::Right(_) => None,
    }
}

async fn secure<H>(
    tls: &ServerTls,
    socket: impl Socket,
    peer: &str,
    shared: &Shared<H>,
) -> Result<(impl Socket, Who), Accepted> {
    let shake = async {
        let _one_of_few = shared.handshakes.acquire().await;
        let began = shared.clock.wall();
        let mut socket = tls.acceptor().accept(socket).await?;
        // A message of 64 KiB goes out at once, with what TLS adds.
        socket.get_mut().1.set_buffer_limit(Some(TLS_BUFFER));
        Ok((socket, began))
    };
    let (socket, began) = within(&shared.clock, shared.settings.handshake_timeout, shake)
        .await
        .ok_or(Accepted::TlsTimeout)?
        .map_err(|error| {
            tracing::debug!(%error, "TLS handshake failed");
            shared.turned_down(peer, &error);
            Accepted::TlsFailed
        })?;
    let who = socket.get_ref().1.peer_certificates().map(|chain| Identity::of(chain, began)).transpose();
    Ok((socket, who))
}

async fn handshake<H>(
    socket: Box<dyn Socket>,
    shared: &Shared<H>,
) -> Result<(Http2, Turns<Box<dyn Socket>>), Accepted> {
    let settings = &shared.settings;
    let (socket, turns) = Gather::new(socket);
    let shake = server::Builder::new()
        .initial_window_size(if breaks::on("C-177") { 65_535 } else { settings.stream_window })
        .initial_connection_window_size(settings.connection_window)
        .max_concurrent_streams(if breaks::on("C-174") { 100 } else { settings.max_streams })
        .max_header_list_size(settings.header_list_bytes)
        .header_table_size(4096)
        .max_frame_size(16 << 10)
        .max_send_buffer_size(settings.send_buffer)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(Some(128))
        .handshake(socket);
    let shaken = within(&shared.clock, settings.handshake_timeout, shake).await.ok_or(Accepted::Http2Timeout)?;
    let http2 = shaken.map_err(|error| {
        tracing::debug!(%error, "HTTP/2 handshake failed");
        Accepted::Http2Failed
    })?;
    Ok((http2, turns))
}

/// What a connection waits for.
enum Event {
    /// All of HTTP/2 goes on until there is one.
    Call(Box<(Request<RecvStream>, SendResponse<Bytes>)>),
    Broke(h2::Error),
    Closed,
    /// No pong came.
    Dead,
    /// The time for a first call is over.
    Idle,
    /// The server drains, or is gone.
    Drained(Option<Ending>),
    /// It has grown old, or the peer's certificate ends.
    Planned,
    /// The time to end is over.
    Cut,
}

/// A connection that is served.
struct Serving<'a, H> {
    http2: Http2,
    turns: Turns<Box<dyn Socket>>,
    peer: Arc<Peer>,
    /// Set where the certificate was verified and names nobody.
    nobody: Option<IdentityError>,
    ending: watch::Sender<Option<Ending>>,
    shared: &'a Arc<Shared<H>>,
    /// How it ends without a drain.
    planned: Option<Ending>,
    called: bool,
}

impl<'a, H: Handler> Serving<'a, H> {
    fn new(
        (http2, turns): (Http2, Turns<Box<dyn Socket>>),
        address: Arc<str>,
        who: Who,
        shared: &'a Arc<Shared<H>>,
    ) -> Self {
        let (identity, nobody) = match who {
            Ok(identity) => (identity, None),
            Err(error) => (None, Some(error)),
        };
        let planned = planned_end(shared, identity.as_ref());
        let (ending, watched) = watch::channel(None);
        let peer = Arc::new(Peer { address, identity, ending: watched });
        Self { http2, turns, peer, nobody, ending, shared, planned, called: false }
    }

    async fn serve(mut self) -> Ended {
        let clock = &self.shared.clock;
        let settings = &self.shared.settings;
        let mut draining = pin!(drained(self.shared.drain.clone()).fuse());
        let pings = self.http2.ping_pong();
        let mut keep_alive = pin!(keep_alive(clock, settings, pings));
        let mut first_call = pin!(clock.sleep_until(clock.now() + settings.first_call));
        let mut planned_end = pin!(clock.sleep_until_some(self.planned.map(|planned| planned.from)));
        let mut cut = pin!(cut(clock, self.ending.subscribe()));
        let aside = Aside::new();
        loop {
            let ending = *self.ending.borrow();
            let mut seldom = pin!(async {
                tokio::select! {
                    () = &mut keep_alive => Event::Dead,
                    () = &mut first_call, if !self.called => Event::Idle,
                    end = &mut draining => Event::Drained(end),
                    () = &mut planned_end, if self.planned.is_some() => Event::Planned,
                    () = &mut cut => Event::Cut,
                }
            });
            let (http2, turns) = (&mut self.http2, &self.turns);
            let event = poll_fn(|cx| match aside.poll(cx, |cx| seldom.as_mut().poll(cx)) {
                Poll::Pending => turns.poll(cx, |cx| http2.poll_accept(cx)).map(|accepted| match accepted {
                    Some(Ok(call)) => Event::Call(call.into()),
                    Some(Err(error)) => Event::Broke(error),
                    None => Event::Closed,
                }),
                event => event,
            });
            let event = event.await;
            if let Some(ended) = self.take(event, ending).await {
                return ended;
            }
        }
    }

    /// `Some`: the connection is over.
    async fn take(&mut self, event: Event, ending: Option<Ending>) -> Option<Ended> {
        let over = |plain| ending.map_or(plain, |ending| of(ending.cause));
        match event {
            Event::Call(call) => self.begin(call.0, call.1),
            Event::Broke(error) => {
                tracing::debug!(peer = %self.peer.address, %error, "connection broke off");
                return Some(over(Ended::Error));
            }
            Event::Closed => return Some(over(Ended::Closed)),
            Event::Dead => return Some(Ended::PingTimeout),
            Event::Idle => {
                self.called = true;
                if ending.is_none() {
                    self.http2.graceful_shutdown();
                    self.abandon(Reason::NO_ERROR).await;
                    return Some(Ended::NoCall);
                }
            }
            Event::Drained(Some(_)) if breaks::on("C-175") => return Some(Ended::Drained),
            Event::Drained(Some(end)) => self.end(end),
            // The server was dropped: no decent end is wanted.
            Event::Drained(None) => return Some(Ended::Drained),
            Event::Planned => {
                // Of two ends the earlier counts: a drain may be long.
                if let Some(planned) = self.planned.take() {
                    self.end(planned);
                }
            }
            Event::Cut => {
                self.abandon(Reason::NO_ERROR).await;
                return Some(over(Ended::Closed));
            }
        }
        None
    }

    /// GOAWAY; calls are told when to end.
    fn end(&mut self, ending: Ending) {
        self.ending.send_modify(|known| {
            let earlier = known.is_none_or(|known| ending.by < known.by);
            if earlier {
                *known = Some(ending);
            }
        });
        self.http2.graceful_shutdown();
    }

    async fn abandon(&mut self, reason: Reason) {
        self.http2.abrupt_shutdown(reason);
        let clock = &self.shared.clock;
        let (http2, turns) = (&mut self.http2, &self.turns);
        within(clock, LAST_FLUSH, poll_fn(|cx| turns.poll(cx, |cx| http2.poll_closed(cx)))).await;
    }

    fn begin(&mut self, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
        self.called = true;
        let call = Call { request, respond, peer: self.peer.clone(), identity: None };
        if let Some(error) = &self.nobody {
            self.shared.refused("nobody", None, &call.peer.address, error);
            return call.refuse(&Status::new(code::UNAUTHENTICATED, error.to_string()));
        }
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let Some(call) = shared.authenticate(call) else { return };
            // A panic ends the call (its stream is reset) and is counted.
            if AssertUnwindSafe(shared.handler.clone().handle(call)).catch_unwind().await.is_err() {
                shared.metrics.panicked();
            }
        });
    }
}

impl<H> Shared<H> {
    /// Before anything else is looked at: who calls. `None`: refused.
    fn authenticate(&self, mut call: Call) -> Option<Call> {
        let certificate = call.peer.identity.as_ref();
        match self.settings.gate.admit(certificate, call.request.headers_mut(), self.clock.wall()) {
            Ok(identity) => {
                call.identity = identity;
                Some(call)
            }
            Err(Denied { why, proven }) => {
                self.refused(why.reason(), proven, &call.peer.address, &why);
                call.refuse(&why.status());
                None
            }
        }
    }

    /// A handshake failed: who broke it off, or never spoke TLS, is not told of.
    fn turned_down(&self, peer: &str, error: &std::io::Error) {
        let Some(why) = NoProof::of(error) else { return };
        let reason = why.reason();
        self.metrics.no_proof(reason);
        let now = self.clock.now();
        // The port of an address changes with each try.
        let host = peer.rsplit_once(':').map_or(peer, |(host, _)| host).to_owned();
        if let Some(others) = self.handshakes_refused.due(now, &(host, reason))
            && let Some(crowd) = self.crowd.due(now, &reason)
        {
            let others = others + crowd;
            tracing::warn!(target: "audit", %peer, reason, others, "a connection is refused: {why}");
        }
    }

    /// `why` is ours or escaped: no peer begins a line.
    fn refused(&self, reason: &'static str, proven: Option<String>, peer: &str, why: &dyn std::fmt::Display) {
        self.metrics.unauthenticated(reason);
        let key = (proven, reason);
        let now = self.clock.now();
        if let Some(others) = self.refused.due(now, &key)
            && let Some(crowd) = self.crowd.due(now, &reason)
        {
            let (identity, others) = (key.0.unwrap_or_default(), others + crowd);
            tracing::warn!(target: "audit", %peer, ?identity, reason, others, "a call is refused: {why}");
        }
    }
}

fn of(cause: Cause) -> Ended {
    match cause {
        Cause::Drain => Ended::Drained,
        Cause::Age => Ended::Aged,
        Cause::Expired => Ended::Expired,
    }
}

/// By age, ± 20 %, or with the peer's certificate, whichever is first.
fn planned_end<H>(shared: &Shared<H>, identity: Option<&Identity>) -> Option<Ending> {
    let (now, window) = (shared.clock.now(), shared.settings.age_window);
    let aged = shared.settings.age.map(|age| {
        let from = now + age.mul_f64(rand::random_range(0.8..1.2));
        Ending { from, by: from + window, cause: Cause::Age }
    });
    let expired = identity.map(|identity| expiring(now, shared.clock.until(identity.not_after()), window));
    [aged, expired].into_iter().flatten().min_by_key(|ending| ending.by)
}

/// No call outlives the certificate. Who comes within its last window has been told
/// to go already, and stays almost to the end: else it would come and go.
fn expiring(now: Moment, by: Moment, window: Duration) -> Ending {
    let left = by.since(now);
    let lead = if left > window { window } else { left.min(LAST_FLUSH) };
    Ending { from: now + (left - lead), by, cause: Cause::Expired }
}

/// Ends when the peer does not answer a ping. What it pings is answered by h2,
/// however often (C-173).
async fn keep_alive(clock: &Clock, settings: &super::Settings, pings: Option<PingPong>) {
    let Some(mut pings) = pings else { return future::pending().await };
    loop {
        clock.sleep_until(clock.now() + settings.ping_every).await;
        if breaks::on("C-173") {
            return;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            // The connection itself says why.
            return future::pending().await;
        }
        let mut pong = within(clock, settings.ping_timeout, poll_fn(|cx| pings.poll_pong(cx))).await;
        if pong.is_none() {
            // This machine may have been stopped: what has come meanwhile is read first.
            tokio::task::yield_now().await;
            pong = poll_fn(|cx| pings.poll_pong(cx)).now_or_never();
        }
        match pong {
            Some(Ok(_)) => {}
            Some(Err(_)) => future::pending().await,
            None => return,
        }
    }
}

/// Ends when the server drains; `None` where it was dropped.
pub(super) async fn drained(mut drain: watch::Receiver<Option<Ending>>) -> Option<Ending> {
    drain.wait_for(Option::is_some).await.ok().and_then(|ending| *ending)
}

/// Ends when an ending connection's time is over.
async fn cut(clock: &Clock, mut ending: watch::Receiver<Option<Ending>>) {
    loop {
        let by = ending.borrow_and_update().map(|ending| ending.by);
        tokio::select! {
            () = clock.sleep_until_some(by) => return,
            changed = ending.changed() => if changed.is_err() {
                return future::pending().await;
            },
        }
    }
}
