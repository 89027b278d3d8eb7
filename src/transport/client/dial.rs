//! From an address to a connection, and what keeps it one.

use super::{Address, Connection, Dialer, Shared, State, describe};
use crate::clock::Clock;
use crate::transport::io::{Counted, First, Sniffed, Socket};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use futures_util::{FutureExt, future};
use h2::client::SendRequest;
use h2::{Ping, PingPong, Reason};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::{oneshot, watch};

/// Another address of a name is tried when the one before kept silent this long.
const STAGGER: Duration = Duration::from_millis(250);
/// Sent and unacknowledged bytes end a TCP connection after this.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("cannot resolve {host:?}: {source}; check the name and DNS")]
    Resolve { host: String, source: std::io::Error },
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: std::io::Error },
    #[error("{address} did not accept a connection within {after:?}")]
    ConnectTimeout { address: String, after: Duration },
    #[error("{address} did not finish the {stage} handshake within {after:?}{hint}")]
    HandshakeTimeout { address: String, stage: &'static str, after: Duration, hint: &'static str },
    #[error("TLS with {address} failed: {detail}")]
    Tls {
        address: String,
        detail: String,
        /// A certificate is not valid now: by our clock, or by the peer's.
        dates: bool,
    },
    #[error("{address} does not speak HTTP/2: {detail}")]
    NotHttp2 { address: String, detail: String },
    #[error("{address} closed the connection during the HTTP/2 handshake: {detail}")]
    Closed { address: String, detail: String },
}

impl ConnectError {
    /// Metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Resolve { .. } => "resolve",
            Self::Connect { .. } => "connect",
            Self::ConnectTimeout { .. } => "connect_timeout",
            Self::HandshakeTimeout { .. } => "handshake_timeout",
            Self::Tls { .. } => "tls",
            Self::NotHttp2 { .. } => "not_http2",
            Self::Closed { .. } => "closed",
        }
    }

    /// Nothing that could be troubled answered: the way there is cut, or nobody
    /// is at its end.
    pub fn is_unreached(&self) -> bool {
        match self {
            Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::HandshakeTimeout { .. }
            | Self::Closed { .. } => true,
            Self::Tls { .. } | Self::NotHttp2 { .. } => false,
        }
    }
}

pub(super) async fn connect(dialer: &Arc<Dialer>) -> Result<Connection, ConnectError> {
    match &dialer.address {
        Address::Tcp { host, port } => {
            let socket = dial(dialer, host, *port).await?;
            let secured = secure(dialer, host, socket).await;
            if secured.is_err() {
                dialer.shaken_off.fetch_add(1, Ordering::Relaxed);
            }
            secured
        }
        Address::Unix(path) => {
            let socket = UnixStream::connect(path)
                .await
                .map_err(|source| ConnectError::Connect { address: dialer.address.to_string(), source })?;
            secure(dialer, "localhost", socket).await
        }
    }
}

async fn within<T>(clock: &Clock, span: Duration, work: impl Future<Output = T>) -> Option<T> {
    match future::select(pin!(work), pin!(clock.sleep_until(clock.now() + span))).await {
        future::Either::Left((done, _)) => Some(done),
        future::Either::Right(_) => None,
    }
}

/// What accepts and then fails to shake hands is not tried first the next time.
fn in_turn(mut addresses: Vec<SocketAddr>, shaken_off: usize) -> Vec<SocketAddr> {
    if !addresses.is_empty() {
        let first = shaken_off % addresses.len();
        addresses.rotate_left(first);
    }
    addresses
}

/// The first address that accepts. Each gets a head start on the next.
async fn dial(dialer: &Dialer, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
    let clock = &dialer.clock;
    let resolving = within(clock, dialer.options.connect_timeout, tokio::net::lookup_host((host, port)));
    let unresolved = |source| ConnectError::Resolve { host: host.to_owned(), source };
    let found = resolving.await.unwrap_or_else(|| Err(std::io::ErrorKind::TimedOut.into())).map_err(unresolved)?;
    let mut rest = in_turn(found.collect(), dialer.shaken_off.load(Ordering::Relaxed)).into_iter();
    let mut attempts = FuturesUnordered::new();
    let mut last = unresolved(std::io::Error::other("the name stands for no address"));
    loop {
        if let Some(address) = rest.next() {
            attempts.push(one(clock, address, dialer.options.connect_timeout));
        }
        let head_start = async {
            if rest.len() == 0 {
                future::pending::<()>().await;
            }
            clock.sleep_until(clock.now() + STAGGER).await;
        };
        tokio::select! {
            done = attempts.next() => match done {
                Some(Ok(socket)) => return Ok(socket),
                Some(Err(error)) => last = error,
                None => return Err(last),
            },
            () = head_start => {}
        }
    }
}

async fn one(clock: &Clock, address: SocketAddr, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let refused = |source| ConnectError::Connect { address: address.to_string(), source };
    let socket = within(clock, timeout, TcpStream::connect(address))
        .await
        .ok_or_else(|| ConnectError::ConnectTimeout { address: address.to_string(), after: timeout })?
        .map_err(refused)?;
    socket.set_nodelay(true).map_err(refused)?;
    // Where the kernel does not know it, pings do the same later.
    let _ = socket2::SockRef::from(&socket).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
    Ok(socket)
}

async fn secure(dialer: &Arc<Dialer>, host: &str, socket: impl Socket) -> Result<Connection, ConnectError> {
    let socket = Counted::new(socket, dialer.traffic.clone());
    let after = dialer.options.handshake_timeout;
    let late = |stage, hint| ConnectError::HandshakeTimeout { address: dialer.address.to_string(), stage, after, hint };
    let Some(tls) = &dialer.options.tls else {
        let shake = handshake(dialer, "http", socket);
        let hint = "; does it expect TLS?";
        return within(&dialer.clock, after, shake).await.unwrap_or_else(|| Err(late("HTTP/2", hint)));
    };
    let (socket, first) = Sniffed::new(socket);
    let socket = within(&dialer.clock, after, tls.connect(host, socket))
        .await
        .ok_or_else(|| late("TLS", ""))?
        .map_err(|error| tls_failed(dialer, &error, &first))?;
    let shake = handshake(dialer, "https", socket);
    within(&dialer.clock, after, shake).await.unwrap_or_else(|| Err(late("HTTP/2", "")))
}

fn tls_failed(dialer: &Dialer, error: &std::io::Error, first: &First) -> ConnectError {
    let began = first.bytes();
    // A TLS record begins with its type, 20 to 24, and version 3.
    let record = matches!(began.as_slice(), [20..=24, 3, ..] | []);
    let dates = is_of_dates(error);
    let detail = if dates {
        format!("{error}; compare the clocks, then the dates of the certificates")
    } else if record {
        format!("{error}; check certificate authority, names and dates of both sides")
    } else {
        "the peer does not speak TLS: connect without it or use its TLS port".to_owned()
    };
    ConnectError::Tls { address: dialer.address.to_string(), detail, dates }
}

fn is_of_dates(error: &std::io::Error) -> bool {
    use rustls::CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert == rustls::AlertDescription::CertificateExpired,
        Some(rustls::Error::InvalidCertificate(bad)) => {
            matches!(bad, Expired | ExpiredContext { .. } | NotValidYet | NotValidYetContext { .. })
        }
        _ => false,
    }
}

async fn handshake<S>(dialer: &Arc<Dialer>, scheme: &'static str, socket: S) -> Result<Connection, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (socket, first) = Sniffed::new(socket);
    let options = &dialer.options;
    let (requests, mut connection) = h2::client::Builder::new()
        .initial_window_size(options.stream_window)
        .initial_connection_window_size(options.connection_window)
        .max_header_list_size(64 << 10)
        .max_send_buffer_size(256 << 10)
        .max_local_error_reset_streams(Some(1024))
        .enable_push(false)
        .handshake::<_, Bytes>(socket)
        .await
        .map_err(|error| not_http2(dialer, &error, &first))?;
    let mut pings = connection.ping_pong().ok_or_else(|| ConnectError::Closed {
        address: dialer.address.to_string(),
        detail: "no ping can be sent".to_owned(),
    })?;
    let began = dialer.clock.now();
    let answered = tokio::select! {
        biased;
        pong = pings.ping(Ping::opaque()) => pong.map(|_| ()),
        ended = &mut connection => ended.and(Err(Reason::NO_ERROR.into())),
    };
    answered.map_err(|error| not_http2(dialer, &error, &first))?;
    let round_trip = Arc::new(AtomicU64::new(micros(dialer.clock.now().since(began))));
    let (state, watched) = watch::channel(State::Open);
    let state = Arc::new(state);
    let teller = Arc::downgrade(&state);
    let (released, release) = oneshot::channel();
    let pulse = Pulse { pings, round_trip: round_trip.clone() };
    tokio::spawn(drive(dialer.clone(), connection, requests.clone(), pulse, state, release));
    let shared = Shared {
        dialer: dialer.clone(),
        scheme,
        authority: match &dialer.address {
            Address::Unix(_) => "localhost".to_owned(),
            tcp => tcp.to_string(),
        },
        round_trip,
        calls: Default::default(),
        state: watched,
        teller,
        _released: released,
    };
    Ok(Connection { requests, shared: shared.into() })
}

fn not_http2(dialer: &Dialer, error: &h2::Error, first: &First) -> ConnectError {
    let address = dialer.address.to_string();
    let began = first.bytes();
    let detail = if began.starts_with(b"HTTP/") {
        "it answers in HTTP/1; name the port on which it serves gRPC".to_owned()
    } else if matches!(began.as_slice(), [0x15, 3, ..]) {
        "it answers with a TLS alert: this port expects TLS".to_owned()
    } else if began.is_empty() || error.is_io() || error.is_go_away() {
        return ConnectError::Closed { address, detail: describe(error) };
    } else {
        describe(error)
    };
    ConnectError::NotHttp2 { address, detail }
}

/// Runs a connection until it ends, or until nobody needs it.
async fn drive<S>(
    dialer: Arc<Dialer>,
    mut connection: h2::client::Connection<S, Bytes>,
    requests: SendRequest<Bytes>,
    mut pulse: Pulse,
    state: Arc<watch::Sender<State>>,
    mut release: oneshot::Receiver<()>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut probe = Some(requests);
    let mut keep_alive = pin!(keep_alive(&dialer, &mut pulse));
    let reason: Arc<str> = poll_fn(|cx| {
        // The probe would keep an unused connection alive.
        if probe.is_some() && release.poll_unpin(cx).is_ready() {
            probe = None;
        }
        let ended = connection.poll_unpin(cx);
        // GOAWAY shows only in that no more requests are taken.
        if let Some(requests) = &mut probe
            && let Poll::Ready(Err(error)) = requests.poll_ready(cx)
        {
            if error.is_go_away() && error.reason() == Some(Reason::ENHANCE_YOUR_CALM) {
                dialer.calm_down();
            }
            state.send_replace(State::GoingAway(describe(&error).into()));
            probe = None;
        }
        if let Poll::Ready(ended) = ended {
            return Poll::Ready(match ended {
                Ok(()) => "closed".into(),
                Err(error) => describe(&error).into(),
            });
        }
        keep_alive.as_mut().poll(cx).map(Arc::from)
    })
    .await;
    state.send_replace(State::Closed(reason));
}

/// The pings of one connection, and what the last one measured.
struct Pulse {
    pings: PingPong,
    round_trip: Arc<AtomicU64>,
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// Ends when the peer does not answer.
async fn keep_alive(dialer: &Dialer, pulse: &mut Pulse) -> String {
    let clock = &dialer.clock;
    loop {
        clock.sleep_until(clock.now() + dialer.ping_every()).await;
        let began = clock.now();
        match within(clock, dialer.options.ping_timeout, pulse.pings.ping(Ping::opaque())).await {
            Some(Ok(_)) => pulse.round_trip.store(micros(clock.now().since(began)), Ordering::Relaxed),
            // The connection itself says why.
            Some(Err(_)) => future::pending().await,
            None => return format!("no answer to a ping within {:?}", dialer.options.ping_timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_fails_to_shake_hands_goes_last() {
        let of = |last: u8| SocketAddr::from(([10, 0, 0, last], 443));
        let orders = [(0, [1, 2, 3]), (1, [2, 3, 1]), (2, [3, 1, 2]), (3, [1, 2, 3])];
        for (shaken_off, order) in orders {
            assert_eq!(in_turn(vec![of(1), of(2), of(3)], shaken_off), order.map(of));
        }
        assert!(in_turn(Vec::new(), 7).is_empty());
    }
}
