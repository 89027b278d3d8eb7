//! One ADS stream of one group: a [`ClientSession`] with its transport.

use super::doubts::Doubts;
use super::metrics::{Metrics, OpenStream};
use super::pool::{Pool, Site};
use crate::exchange::{Applied, GroupHandle};
use crate::session::Update;
use crate::session::client::{ClientSession, Heard, Unreadable};
use crate::transport::client::{Connection, OpenError, Receiver, State, StreamEnd};
use crate::transport::stream::Sender;
use crate::xds::envelope::Request;
use crate::xds::node::Presented;
use crate::xds::time::earliest;
use crate::xds::{Moment, Timing, Token, TypeUrl, Variant};
use bytes::Bytes;
use futures_util::FutureExt;
use http::HeaderMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::watch;

pub(super) const SOTW: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
pub(super) const DELTA: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A message that does not grow for this long will not be complete.
const DRIP: Duration = Duration::from_secs(60);

/// Larger messages are refused by gRPC servers that are not told otherwise.
const USUAL: usize = 4 << 20;

/// Why we end a stream ourselves, or the peer did.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Loss {
    #[error("{0}")]
    Peer(#[from] StreamEnd),
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("it has read nothing of what we sent for {0:?}")]
    SendStall(Duration),
    #[error("a response did not grow for {0:?}")]
    Drip(Duration),
    #[error("it was asked and said nothing for {0:?}, though its connection stands")]
    Mute(Duration),
}

impl Loss {
    /// Metric label.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Peer(end) => end.reason(),
            Self::Unreadable(_) => "unreadable",
            Self::SendStall(_) => "send_stall",
            Self::Drip(_) => "drip",
            Self::Mute(_) => "mute",
        }
    }
}

/// What happened to a stream.
#[derive(Debug)]
pub(super) enum Event {
    Message(Bytes),
    /// What was waiting is written; more can be.
    Written,
    /// Its connection takes no more streams: it will not live long.
    Leaving,
    Ended(StreamEnd),
}

/// Bytes that should move, and since when they have not.
#[derive(Debug, Default)]
struct Still(Option<(u64, Moment)>);

impl Still {
    /// Since when `bytes` has not changed, while `waiting`.
    fn since(&mut self, now: Moment, waiting: bool, bytes: u64) -> Option<Moment> {
        self.0 = match self.0 {
            _ if !waiting => None,
            Some((before, since)) if before == bytes => Some((bytes, since)),
            _ => Some((bytes, now)),
        };
        self.0.map(|(_, since)| since)
    }
}

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) site: Arc<Site>,
    pub(super) session: ClientSession,
    /// The raw node it presents.
    pub(super) node: Presented,
    pub(super) opened: Moment,
    /// The member's token by which it was opened, where that is so.
    pub(super) token: Option<Token>,
    /// A message came, whatever it was.
    pub(super) heard: bool,
    handle: Connection,
    /// It should be replaced: its connection takes no more streams, or another
    /// stream has to say what is so.
    pub(super) leaving: bool,
    /// A request was larger than many servers take.
    pub(super) oversized: bool,
    /// What another stream changed since this one asked.
    pub(super) doubts: Doubts,
    /// What it said of types that the next stream has answered.
    pub(super) held_back: Vec<Update>,
    sender: Sender,
    receiver: Receiver,
    connection: watch::Receiver<State>,
    sending: Still,
    receiving: Still,
    send_stall: Duration,
    mute: Duration,
    _place: Place,
    _counted: OpenStream,
}

/// Counts at the address; gives the place back.
#[derive(Debug)]
struct Place {
    site: Arc<Site>,
    pool: Arc<Pool>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.site.streams.fetch_sub(1, Ordering::Relaxed);
        self.pool.changed();
    }
}

/// What a stream is opened with.
pub(super) struct Opening<'a> {
    pub(super) pool: &'a Arc<Pool>,
    pub(super) site: Arc<Site>,
    pub(super) connection: &'a Connection,
    pub(super) variant: Variant,
    pub(super) node: Presented,
    pub(super) metadata: &'a HeaderMap,
    pub(super) token: Option<Token>,
    pub(super) timing: &'a Timing,
    pub(super) mute: Duration,
    pub(super) metrics: &'a Metrics,
}

impl Stream {
    pub(super) fn open(now: Moment, with: Opening<'_>) -> Result<Self, OpenError> {
        let path = if with.variant == Variant::Delta { DELTA } else { SOTW };
        let (sender, receiver) = with.connection.open(path, with.metadata)?;
        with.site.streams.fetch_add(1, Ordering::Relaxed);
        let place = Place { site: with.site.clone(), pool: with.pool.clone() };
        Ok(Self {
            site: with.site,
            session: ClientSession::new(with.variant, with.node.message(), with.timing),
            node: with.node,
            opened: now,
            token: with.token,
            heard: false,
            handle: with.connection.clone(),
            leaving: false,
            oversized: false,
            doubts: Doubts::default(),
            held_back: Vec::new(),
            sender,
            receiver,
            connection: with.connection.state(),
            sending: Still::default(),
            receiving: Still::default(),
            send_stall: with.timing.send_stall,
            mute: with.mute,
            _place: place,
            _counted: with.metrics.stream_opened(with.variant),
        })
    }

    pub(super) fn round_trip(&self) -> Duration {
        self.handle.round_trip()
    }

    /// The next thing that happens. Cancel-safe.
    pub(super) async fn event(&mut self) -> Event {
        let Self { sender, receiver, connection, leaving, .. } = self;
        let traffic = poll_fn(|cx| {
            // Where writing fails, reading says why.
            if sender.waiting() > 0
                && let Poll::Ready(Ok(())) = sender.poll_flush(cx)
            {
                return Poll::Ready(Event::Written);
            }
            receiver.poll_message(cx).map(|message| message.map_or_else(Event::Ended, Event::Message))
        });
        let left = async {
            if *leaving || connection.wait_for(|state| *state != State::Open).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            event = traffic => event,
            () = left => {
                *leaving = true;
                Event::Leaving
            }
        }
    }

    pub(super) fn hear(&mut self, now: Moment, message: Bytes) -> Result<Heard, Loss> {
        if !self.heard {
            self.heard = true;
            self.site.speaks(self.session.variant());
        }
        self.site.heard(now);
        Ok(self.session.handle_response(now, message)?)
    }

    /// The oldest update that is due; it is to be [`commit`](Self::commit)ted
    /// or held back.
    pub(super) fn next_update(&mut self, now: Moment) -> Option<Update> {
        if self.session.deadline().is_some_and(|at| at <= now) {
            self.session.tick(now);
        }
        self.session.poll_update()
    }

    /// Commits an update of this stream, which makes its ACK due (C-135).
    pub(super) fn commit(&mut self, handle: &GroupHandle, update: Update) -> Applied {
        let type_url = update.type_url.clone();
        self.doubts.settle(&update);
        let applied = handle.apply(update);
        self.session.committed(&type_url);
        applied
    }

    /// Writes what can be written. `asked` is told of each request.
    pub(super) fn write(&mut self, now: Moment, mut asked: impl FnMut(&Request, &ClientSession)) {
        while self.sender.waiting() == 0
            && let Some(request) = self.session.poll_request(now)
        {
            asked(&request, &self.session);
            let message = request.message();
            if message.len() > USUAL {
                self.oversize(now, &request.type_url, message.len());
            }
            // Where it cannot be written, the receiver learns why.
            let _ = self.sender.push(&[], message);
            let _ = self.sender.flush().now_or_never();
        }
    }

    /// Says so, as the server may not.
    fn oversize(&mut self, now: Moment, type_url: &str, bytes: usize) {
        self.oversized = true;
        let remedy = match self.session.variant() {
            Variant::Delta => "raise what it takes",
            Variant::Sotw => "raise what it takes, or let it speak delta",
        };
        let short = TypeUrl::new(type_url).short().to_owned();
        let address = &self.site.address;
        let text = format!(
            "a request to {address} for {short} has {bytes} bytes, and gRPC servers refuse more than {USUAL} \
             unless told otherwise; {remedy}"
        );
        self.site.note_loss(now, "request_bytes", &text.into());
    }

    /// Is it of no use though it stands?
    pub(super) fn check(&mut self, now: Moment) -> Result<(), Loss> {
        let (sending, receiving) = self.stillness(now);
        if sending.is_some_and(|since| now.since(since) >= self.send_stall) {
            return Err(Loss::SendStall(self.send_stall));
        }
        if receiving.is_some_and(|since| now.since(since) >= DRIP) {
            return Err(Loss::Drip(DRIP));
        }
        if self.mute_at().is_some_and(|at| at <= now) {
            return Err(Loss::Mute(self.mute));
        }
        Ok(())
    }

    /// When silence shows that nobody listens: an ask must be answered, and
    /// nothing at all was said since.
    fn mute_at(&self) -> Option<Moment> {
        let asked = self.session.oldest_unanswered()?;
        self.session.last_heard().is_none_or(|heard| heard < asked).then(|| asked + self.mute)
    }

    fn stillness(&mut self, now: Moment) -> (Option<Moment>, Option<Moment>) {
        let sending = self.sending.since(now, self.sender.waiting() > 0, self.sender.accepted());
        let receiving = self.receiving.since(now, self.receiver.within_message(), self.receiver.received());
        (sending, receiving)
    }

    /// When to pump and check again at the latest.
    pub(super) fn deadline(&mut self, now: Moment) -> Option<Moment> {
        let (sending, receiving) = self.stillness(now);
        let watch = earliest(sending.map(|since| since + self.send_stall), receiving.map(|since| since + DRIP));
        earliest(earliest(self.session.deadline(), self.mute_at()), watch)
    }
}
