//! Connections to a gRPC server, and calls on them as raw messages.
//!
//! A [`Dialer`] makes connections to one address; a [`Connection`] is one of
//! them, alive while a handle or a call is. The caller decides how many there
//! are: [`Connection::room`] says how many more calls fit.
//!
//! A connection counts as one when the peer answered an HTTP/2 ping: then its
//! settings are known, the round trip is measured, and what answers is no
//! HTTP/1 server and no plain-text port taken for TLS.

mod dial;

use super::frame::{Decoder, Encoding, FrameError, Limit};
use super::io::Traffic;
use super::status;
use super::stream::{Messages, RecvError, Sender};
use super::tls::ClientTls;
use crate::clock::Clock;
use crate::xds::Status;
use bytes::Bytes;
use futures_util::FutureExt;
use h2::Reason;
use h2::client::{ResponseFuture, SendRequest};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use std::fmt;
use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};
use tokio::sync::{oneshot, watch};

pub use dial::ConnectError;

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// How to treat a server.
#[derive(Clone, Debug)]
pub struct Options {
    pub tls: Option<Arc<ClientTls>>,
    /// For each address that a name stands for.
    pub connect_timeout: Duration,
    /// For TLS and HTTP/2 together.
    pub handshake_timeout: Duration,
    pub stream_window: u32,
    pub connection_window: u32,
    /// A ping goes out this often; never more often than every 10 s (C-173).
    pub ping_every: Duration,
    pub ping_timeout: Duration,
    pub receive_limit: Limit,
    /// Let the peer compress what it sends.
    pub accept_gzip: bool,
    pub user_agent: HeaderValue,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tls: None,
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(5),
            stream_window: 4 << 20,
            connection_window: 16 << 20,
            ping_every: Duration::from_secs(10),
            ping_timeout: Duration::from_secs(5),
            receive_limit: Limit { bytes: 200 << 20, remedy: "the control plane must send less at once" },
            accept_gzip: true,
            user_agent: HeaderValue::from_static(concat!("outpost/", env!("CARGO_PKG_VERSION"))),
        }
    }
}

/// The shortest time between pings (C-173).
const PING_LEAST: Duration = Duration::from_secs(10);
/// The longest to which a peer that complains can drive us.
const PING_MOST: Duration = Duration::from_secs(640);

/// Makes connections to one address.
#[derive(Debug)]
pub struct Dialer {
    address: Address,
    options: Options,
    clock: Clock,
    traffic: Arc<Traffic>,
    /// Doubles when the peer says that we ping too often; in milliseconds.
    ping_every: AtomicU64,
    /// Connections that were accepted, and then came to nothing.
    shaken_off: AtomicUsize,
}

impl Dialer {
    pub fn new(address: Address, options: Options, clock: Clock) -> Arc<Self> {
        let ping_every = AtomicU64::new(millis(options.ping_every.max(PING_LEAST)));
        Self { address, options, clock, traffic: Arc::default(), ping_every, shaken_off: AtomicUsize::new(0) }.into()
    }

    pub fn address(&self) -> &Address {
        &self.address
    }

    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Bytes of all connections this dialer made.
    pub fn traffic(&self) -> &Arc<Traffic> {
        &self.traffic
    }

    /// A new connection, ready for calls.
    pub async fn connect(self: &Arc<Self>) -> Result<Connection, ConnectError> {
        dial::connect(self).await
    }

    fn calm_down(&self) {
        let slower = self.ping_every.load(Ordering::Relaxed).saturating_mul(2).min(millis(PING_MOST));
        self.ping_every.store(slower, Ordering::Relaxed);
        tracing::warn!(peer = %self.address, every_ms = slower, "the peer says that we ping too often; pinging less");
    }

    fn ping_every(&self) -> Duration {
        Duration::from_millis(self.ping_every.load(Ordering::Relaxed))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// What a connection can still do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Open,
    /// The peer said GOAWAY, or we are to leave: calls go on, new ones go elsewhere.
    GoingAway(Arc<str>),
    Closed(Arc<str>),
}

/// One connection. Cheap to clone; it ends when no handle and no call is left.
#[derive(Clone, Debug)]
pub struct Connection {
    requests: SendRequest<Bytes>,
    shared: Arc<Shared>,
}

struct Shared {
    dialer: Arc<Dialer>,
    scheme: &'static str,
    authority: String,
    /// Of the last ping, in microseconds.
    round_trip: Arc<AtomicU64>,
    calls: AtomicUsize,
    state: watch::Receiver<State>,
    /// The driver's own, so that its end is seen.
    teller: Weak<watch::Sender<State>>,
    /// Dropped with the last handle, which lets the driver end.
    _released: oneshot::Sender<()>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("peer", &self.dialer.address).field("calls", &self.calls).finish_non_exhaustive()
    }
}

/// Why a call cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("all {0} streams that the peer allows on this connection are in use")]
    Full(usize),
    #[error("the connection takes no more calls: {0}")]
    Closed(Arc<str>),
    #[error("path {0:?} cannot be asked for")]
    Path(String),
}

impl Connection {
    /// Begins a call. `metadata` is added to what gRPC needs; mark secrets as
    /// sensitive. Nothing is awaited: the answer's headers are read by the
    /// receiver.
    pub fn open(&self, path: &str, metadata: &HeaderMap) -> Result<(Sender, Receiver), OpenError> {
        let mut requests = self.requests.clone();
        if let Some(Err(error)) = poll_fn(|cx| requests.poll_ready(cx)).now_or_never() {
            return Err(OpenError::Closed(self.shared.reason(&error)));
        }
        let call = Call::begin(&self.shared, self.max_streams())?;
        let request = self.shared.request(path, metadata)?;
        let (response, stream) =
            requests.send_request(request, false).map_err(|error| OpenError::Closed(self.shared.reason(&error)))?;
        let receiver = Receiver { state: Half::Headers(response), ended: None, date: None, call };
        Ok((Sender::new(stream), receiver))
    }

    /// Calls that the peer allows at once.
    pub fn max_streams(&self) -> usize {
        self.requests.current_max_send_streams()
    }

    /// Calls that stand.
    pub fn calls(&self) -> usize {
        self.shared.calls.load(Ordering::Relaxed)
    }

    /// How many more calls fit.
    pub fn room(&self) -> usize {
        if self.is_open() { self.max_streams().saturating_sub(self.calls()) } else { 0 }
    }

    pub fn is_open(&self) -> bool {
        *self.shared.state.borrow() == State::Open
    }

    /// As if the peer had said GOAWAY: calls go on, new ones go elsewhere.
    pub fn retire(&self, reason: &str) {
        let Some(teller) = self.shared.teller.upgrade() else { return };
        teller.send_if_modified(|state| {
            let open = *state == State::Open;
            if open {
                *state = State::GoingAway(reason.into());
            }
            open
        });
    }

    /// The newest state and every later one.
    pub fn state(&self) -> watch::Receiver<State> {
        self.shared.state.clone()
    }

    /// Of the last ping that was answered.
    pub fn round_trip(&self) -> Duration {
        Duration::from_micros(self.shared.round_trip.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn request(&self, path: &str, metadata: &HeaderMap) -> Result<Request<()>, OpenError> {
        let uri = http::Uri::builder().scheme(self.scheme).authority(self.authority.as_str()).path_and_query(path);
        let uri = uri.build().map_err(|_| OpenError::Path(path.to_owned()))?;
        let mut request = Request::new(());
        *request.method_mut() = Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::USER_AGENT, self.dialer.options.user_agent.clone());
        if self.dialer.options.accept_gzip {
            headers.insert(status::GRPC_ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        }
        for (name, value) in metadata {
            headers.append(name, value.clone());
        }
        Ok(request)
    }

    /// Why the connection ended, where we know better than HTTP/2 does.
    fn reason(&self, error: &h2::Error) -> Arc<str> {
        match &*self.state.borrow() {
            State::Closed(reason) | State::GoingAway(reason) => reason.clone(),
            State::Open => describe(error).into(),
        }
    }
}

/// Counts a call as one until it is dropped.
#[derive(Debug)]
struct Call(Arc<Shared>);

impl Call {
    fn begin(shared: &Arc<Shared>, most: usize) -> Result<Self, OpenError> {
        let more = |calls| if calls < most { Some(calls + 1) } else { None };
        match shared.calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => Ok(Self(shared.clone())),
            Err(_) => Err(OpenError::Full(most)),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Why a call gives no more messages.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StreamEnd {
    /// The peer ended it, OK included.
    #[error("{}{}{}", status::name(.0.code), if .0.message.is_empty() { "" } else { ": " }, .0.message)]
    Status(Status),
    #[error(
        "the peer does not speak gRPC on this path: HTTP {http}, content-type {content_type:?}; check address and port"
    )]
    NotGrpc { http: StatusCode, content_type: String },
    #[error("the peer compresses by {0:?}, which was not offered")]
    Encoding(String),
    #[error("the peer reset the stream ({0})")]
    Reset(Reason),
    #[error("connection lost: {0}")]
    Lost(Arc<str>),
    #[error("{0}")]
    Message(Arc<FrameError>),
}

impl StreamEnd {
    /// Metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Status(_) => "status",
            Self::NotGrpc { .. } => "not_grpc",
            Self::Encoding(_) => "encoding",
            Self::Reset(_) => "reset",
            Self::Lost(_) => "lost",
            Self::Message(error) => error.reason(),
        }
    }

    /// The gRPC code that this amounts to.
    pub fn code(&self) -> i32 {
        match self {
            Self::Status(status) => status.code,
            Self::NotGrpc { http, .. } => status::code_of_http(*http),
            Self::Encoding(_) => crate::xds::code::UNIMPLEMENTED,
            Self::Reset(reason) => status::code_of_reset(*reason),
            Self::Lost(_) => crate::xds::code::UNAVAILABLE,
            Self::Message(error) => error.code(),
        }
    }
}

/// The messages that a peer sends on one call.
#[derive(Debug)]
pub struct Receiver {
    state: Half,
    ended: Option<StreamEnd>,
    /// When the peer says that it answered.
    date: Option<SystemTime>,
    call: Call,
}

#[derive(Debug)]
enum Half {
    Headers(ResponseFuture),
    Body(Messages),
    Trailers(Messages),
    Ended,
}

impl Receiver {
    /// The next message, or how the call ended: then and ever after.
    pub fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, StreamEnd>> {
        loop {
            if let Some(end) = &self.ended {
                return Poll::Ready(Err(end.clone()));
            }
            let end = match &mut self.state {
                Half::Headers(response) => match ready!(response.poll_unpin(cx)) {
                    Ok(response) => match self.begin(response) {
                        Ok(()) => continue,
                        Err(end) => end,
                    },
                    Err(error) => self.broken(&error),
                },
                Half::Body(messages) => match ready!(messages.poll_next(cx)) {
                    Some(Ok(message)) => return Poll::Ready(Ok(message)),
                    Some(Err(RecvError::Frame(error))) => StreamEnd::Message(error.into()),
                    Some(Err(RecvError::Http(error))) => self.broken(&error),
                    None => {
                        let Half::Body(messages) = std::mem::replace(&mut self.state, Half::Ended) else { continue };
                        self.state = Half::Trailers(messages);
                        continue;
                    }
                },
                Half::Trailers(messages) => match ready!(messages.poll_trailers(cx)) {
                    Ok(trailers) => {
                        StreamEnd::Status(trailers.as_ref().and_then(status::from_trailers).unwrap_or_else(|| {
                            Status::new(status::UNKNOWN, "the peer ended the stream without a status")
                        }))
                    }
                    Err(error) => self.broken(&error),
                },
                Half::Ended => StreamEnd::Lost("the stream has ended".into()),
            };
            self.state = Half::Ended;
            self.ended = Some(end);
        }
    }

    /// [`poll_message`](Self::poll_message), awaited. Cancel-safe.
    pub async fn message(&mut self) -> Result<Bytes, StreamEnd> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The peer has begun to answer: its headers are here.
    pub fn answered(&self) -> bool {
        !matches!(self.state, Half::Headers(_))
    }

    /// The time that the peer's answer states, where it states one.
    pub fn date(&self) -> Option<SystemTime> {
        self.date
    }

    /// Payload bytes so far: they tell a slow peer from a dead one.
    pub fn received(&self) -> u64 {
        match &self.state {
            Half::Body(messages) | Half::Trailers(messages) => messages.received(),
            Half::Headers(_) | Half::Ended => 0,
        }
    }

    /// A message has begun and is not complete.
    pub fn within_message(&self) -> bool {
        matches!(&self.state, Half::Body(messages) if messages.within_message())
    }

    fn begin(&mut self, response: http::Response<h2::RecvStream>) -> Result<(), StreamEnd> {
        let (head, stream) = response.into_parts();
        let date = head.headers.get(header::DATE).and_then(|date| date.to_str().ok());
        self.date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        // Trailers-only: the status stands where the headers are.
        if let Some(status) = status::from_trailers(&head.headers) {
            return Err(StreamEnd::Status(status));
        }
        let content_type =
            head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if head.status != StatusCode::OK || !content_type.starts_with("application/grpc") {
            return Err(StreamEnd::NotGrpc { http: head.status, content_type: content_type.to_owned() });
        }
        let encoding = match head.headers.get(status::GRPC_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity" | b"") => Encoding::Identity,
            Some(b"gzip") => Encoding::Gzip,
            Some(other) => return Err(StreamEnd::Encoding(String::from_utf8_lossy(other).into_owned())),
        };
        let limit = self.call.0.dialer.options.receive_limit;
        self.state = Half::Body(Messages::new(stream, Decoder::new(limit, encoding)));
        Ok(())
    }

    fn broken(&self, error: &h2::Error) -> StreamEnd {
        match error.reason() {
            Some(reason) if error.is_reset() => StreamEnd::Reset(reason),
            _ => StreamEnd::Lost(self.call.0.reason(error)),
        }
    }
}

/// An HTTP/2 error in words.
fn describe(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_go_away() && error.is_remote() => format!("the peer said GOAWAY ({reason})"),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
