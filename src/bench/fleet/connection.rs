//! A member's connections: one after the other, as it loses them.

use super::member::Member;
use super::{FleetError, Shore};
use crate::bench::http2::{Call, CallError};
use crate::bench::scan::{Head, ScanError};
use crate::bench::{now, plane};
use bytes::Bytes;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep_until};
use tokio_rustls::TlsConnector;

/// The name in the certificates of a benchmark.
pub const SERVER_NAME: &str = "outpost.bench";
/// Envoy's defaults for a lost ADS stream.
const BACK_OFF: u64 = 500_000;
const BACK_OFF_MOST: u64 = 30_000_000;
/// A handshake that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a slow reader takes at once, and what the kernel may hold for it.
const SIP: usize = 4096;
const SLOW_BUFFER: u32 = 32 << 10;
const LOOK_AGAIN: u64 = 200_000;

#[derive(Debug, thiserror::Error)]
enum LostError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{0}")]
    Scan(#[from] ScanError),
    #[error("no connection within 20 s")]
    Slow,
    #[error("the connection was closed")]
    Closed,
}

/// Verifies by this authority, a file; the name to verify.
pub(super) fn connector(authority: &str) -> Result<(TlsConnector, ServerName<'static>), FleetError> {
    let error = |error: &dyn std::fmt::Display| FleetError::Tls(format!("{authority}: {error}"));
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(authority).map_err(|e| error(&e))?;
    roots.add(certificate).map_err(|e| error(&e))?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| error(&e))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let name = ServerName::try_from(SERVER_NAME).map_err(|e| error(&e))?;
    Ok((TlsConnector::from(Arc::new(config)), name))
}

/// One member, for ever.
pub(super) async fn live(shore: Rc<Shore>, mut member: Member, start: u64) {
    sleep(start.saturating_sub(now::micros())).await;
    let start = now::micros();
    let mut failures = 0;
    loop {
        let Err(lost) = connect(&shore, &mut member, start).await;
        failures = if std::mem::take(&mut member.answered) { 0 } else { failures + 1 };
        {
            let tally = &mut shore.shared.borrow_mut().tally;
            tally.counts.lost += 1;
            tally.trouble = Some(lost.to_string());
        }
        let most = BACK_OFF.saturating_mul(1 << failures.min(6)).min(BACK_OFF_MOST);
        sleep(rand::random_range(0..=most)).await;
    }
}

async fn sleep(micros: u64) {
    if micros > 0 {
        tokio::time::sleep(Duration::from_micros(micros)).await;
    }
}

async fn connect(shore: &Rc<Shore>, member: &mut Member, start: u64) -> Result<std::convert::Infallible, LostError> {
    let slow = member.number % 100 < shore.terms.slow_percent;
    let socket = tokio::time::timeout(PATIENCE, tcp(shore, slow)).await.map_err(|_| LostError::Slow)??;
    match &shore.tls {
        Some((connector, name)) => {
            let handshake = tokio::time::timeout(PATIENCE, connector.connect(name.clone(), socket));
            let socket = handshake.await.map_err(|_| LostError::Slow)??;
            Line::new(shore, member, socket, start, slow).run().await
        }
        None => Line::new(shore, member, socket, start, slow).run().await,
    }
}

async fn tcp(shore: &Shore, slow: bool) -> io::Result<TcpStream> {
    let address = shore.target.address;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if slow {
        socket.set_recv_buffer_size(SLOW_BUFFER)?;
    }
    if let Some(from) = shore.target.from {
        socket.bind(SocketAddr::new(from, 0))?;
    }
    socket.connect(address).await
}

/// One connection while it stands.
struct Line<'a, S> {
    shore: &'a Rc<Shore>,
    member: &'a mut Member,
    socket: S,
    call: Call,
    /// Answers that wait until they are due.
    applying: VecDeque<(u64, Bytes)>,
    start: u64,
    slow: bool,
    connected: bool,
}

impl<S> Drop for Line<'_, S> {
    fn drop(&mut self) {
        if self.connected {
            self.shore.shared.borrow_mut().tally.counts.connected -= 1;
        }
    }
}

impl<'a, S: AsyncRead + AsyncWrite + Unpin> Line<'a, S> {
    fn new(shore: &'a Rc<Shore>, member: &'a mut Member, socket: S, start: u64, slow: bool) -> Self {
        let path = plane::method(shore.terms.variant.into());
        let mut call = Call::open(path, &shore.target.address.to_string(), shore.tls.is_some());
        if shore.terms.raw {
            call.out.clear();
        } else {
            let requests = member.open(&shore.terms, &mut shore.shared.borrow_mut());
            requests.iter().for_each(|request| call.send(request));
        }
        let mut line = Self { shore, member, socket, call, applying: VecDeque::new(), start, slow, connected: false };
        if shore.terms.raw {
            // There is nothing to wait for.
            line.connected();
            line.member.complete = true;
            line.note_complete(&mut shore.shared.borrow_mut());
        }
        line
    }

    fn connected(&mut self) {
        if !std::mem::replace(&mut self.connected, true) {
            self.shore.shared.borrow_mut().tally.counts.connected += 1;
        }
    }

    async fn run(mut self) -> Result<std::convert::Infallible, LostError> {
        loop {
            self.flush().await?;
            let due = self.applying.front().map(|(due, _)| *due);
            let wait = Instant::now() + Duration::from_micros(due.unwrap_or(0).saturating_sub(now::micros()));
            if let Some(rate) = self.shore.slow.get().filter(|_| self.slow) {
                // A reader that reads nothing looks again after a while.
                let Some(sip) = (SIP as u64 * 1_000_000).checked_div(rate) else {
                    sleep(LOOK_AGAIN).await;
                    continue;
                };
                sleep(sip).await;
            }
            tokio::select! {
                biased;
                () = sleep_until(wait), if due.is_some() => self.apply(),
                read = self.read() => read?,
            }
        }
    }

    async fn flush(&mut self) -> io::Result<()> {
        if self.call.out.is_empty() {
            return Ok(());
        }
        let out = std::mem::take(&mut self.call.out);
        self.socket.write_all(&out).await?;
        self.socket.flush().await
    }

    /// Answers that are due.
    fn apply(&mut self) {
        let now = now::micros();
        while let Some((_, answer)) = self.applying.pop_front_if(|(due, _)| *due <= now) {
            self.call.send(&answer);
        }
    }

    /// Takes what is there to read.
    async fn read(&mut self) -> Result<(), LostError> {
        poll_fn(|cx| {
            let shore = Rc::clone(self.shore);
            let mut buffer = shore.buffer.borrow_mut();
            let most = if self.slow && shore.slow.get().is_some() { SIP } else { buffer.len() };
            let mut part = ReadBuf::new(&mut buffer[..most]);
            match Pin::new(&mut self.socket).poll_read(cx, &mut part) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                Poll::Ready(Ok(())) if part.filled().is_empty() => Poll::Ready(Err(LostError::Closed)),
                Poll::Ready(Ok(())) => Poll::Ready(self.take(part.filled())),
            }
        })
        .await
    }

    fn take(&mut self, mut input: &[u8]) -> Result<(), LostError> {
        let now = now::micros();
        let raw = self.shore.terms.raw;
        loop {
            let message = if raw { self.call.bare(&mut input)? } else { self.call.next(&mut input)? };
            let Some(message) = message else { return Ok(()) };
            self.connected();
            self.member.answered = true;
            let shore = Rc::clone(self.shore);
            let shared = &mut *shore.shared.borrow_mut();
            if raw {
                self.member.receive_raw(&Head::read(&message)?, now, &shore.terms, shared)?;
                continue;
            }
            let answers = self.member.receive(&message, now, &shore.terms, shared)?;
            drop(message);
            self.answer(answers.ack, now);
            answers.follows.into_iter().for_each(|follow| self.answer(follow, now));
            self.note_complete(shared);
        }
    }

    fn answer(&mut self, answer: Bytes, now: u64) {
        match self.shore.terms.apply {
            0 => self.call.send(&answer),
            apply => self.applying.push_back((now + apply, answer)),
        }
    }

    fn note_complete(&mut self, shared: &mut super::Shared) {
        if !self.member.complete || std::mem::replace(&mut self.member.told, true) {
            return;
        }
        shared.tally.counts.complete += 1;
        if self.member.counts {
            shared.tally.joins.record(Duration::from_micros(now::micros() - self.start));
        }
    }
}
