//! The two halves of one call, as messages.
//!
//! [`Messages`] reads and [`Sender`] writes; neither waits for the other. A
//! sender holds at most what was pushed: it tells when the last byte was handed
//! to HTTP/2, which takes bytes only as far as the peer's window and our small
//! send buffer reach, so that a slow peer is seen here and not in memory.

use super::frame::{self, Decoder, FrameError, HEAD};
use bytes::{BufMut, Bytes, BytesMut};
use h2::{Reason, RecvStream, SendStream};
use http::HeaderMap;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Context, Poll, ready};

/// Capacity is asked for in pieces of this size, so that one large message does
/// not take the whole connection's window from its neighbours.
const PIECE: usize = 96 << 10;

/// Why no more messages come in.
#[derive(Debug, thiserror::Error)]
pub enum RecvError {
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("the stream broke off: {0}")]
    Http(#[from] h2::Error),
}

/// Messages as they come in.
#[derive(Debug)]
pub struct Messages {
    stream: RecvStream,
    decoder: Decoder,
    received: u64,
}

impl Messages {
    pub fn new(stream: RecvStream, decoder: Decoder) -> Self {
        Self { stream, decoder, received: 0 }
    }

    /// Payload bytes that came in so far: tells a slow peer from a dead one.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// A message has begun and is not complete.
    pub fn within_message(&self) -> bool {
        !self.decoder.between_messages()
    }

    /// The next message; `None` at the peer's clean end.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RecvError>>> {
        loop {
            match self.decoder.next_message() {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(error) => return Poll::Ready(Some(Err(error.into()))),
            }
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(chunk)) => {
                    self.received += chunk.len() as u64;
                    self.stream.flow_control().release_capacity(chunk.len())?;
                    self.decoder.push(chunk);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None if self.decoder.between_messages() => return Poll::Ready(None),
                None => return Poll::Ready(Some(Err(FrameError::Cut.into()))),
            }
        }
    }

    /// [`poll_next`](Self::poll_next), awaited. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<Bytes, RecvError>> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What came after the last message.
    pub(super) fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        self.stream.poll_trailers(cx)
    }
}

/// Messages on their way out.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream<Bytes>,
    pending: VecDeque<Bytes>,
    waiting: usize,
    accepted: u64,
}

impl Sender {
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, pending: VecDeque::new(), waiting: 0, accepted: 0 }
    }

    /// Queues one message, made of `prefix` (short: it is copied behind the
    /// gRPC header) and `body` (shared: it is not).
    pub fn push(&mut self, prefix: &[u8], body: Bytes) -> Result<(), FrameError> {
        let length = prefix.len() + body.len();
        let limit = frame::Limit { bytes: u32::MAX as usize, remedy: "gRPC knows no larger one" };
        let head = frame::head(length).ok_or(FrameError::TooLarge { size: length, limit })?;
        let mut first = BytesMut::with_capacity(HEAD + prefix.len());
        first.put_slice(&head);
        first.put_slice(prefix);
        self.waiting += first.len() + body.len();
        self.pending.push_back(first.freeze());
        if !body.is_empty() {
            self.pending.push_back(body);
        }
        Ok(())
    }

    /// Queues bytes that are messages already.
    pub fn push_framed(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.waiting += bytes.len();
            self.pending.push_back(bytes);
        }
    }

    /// Bytes that HTTP/2 has not taken yet.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    /// Bytes that HTTP/2 took so far: while this stands still and bytes wait,
    /// the peer does not read.
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Hands bytes over as far as the peer takes them; ready when none wait.
    pub fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), h2::Error>> {
        while let Some(front) = self.pending.front_mut() {
            self.stream.reserve_capacity(self.waiting.min(PIECE));
            let room = self.stream.capacity();
            if room == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(granted) => granted?,
                    None => return Poll::Ready(Err(Reason::STREAM_CLOSED.into())),
                };
                continue;
            }
            let piece = front.split_to(front.len().min(room));
            if front.is_empty() {
                self.pending.pop_front();
            }
            self.waiting -= piece.len();
            self.accepted += piece.len() as u64;
            self.stream.send_data(piece, false)?;
        }
        Poll::Ready(Ok(()))
    }

    /// [`poll_flush`](Self::poll_flush), awaited. Cancel-safe: what waits goes on waiting.
    pub async fn flush(&mut self) -> Result<(), h2::Error> {
        poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Ready when the peer reset the stream or the connection is gone.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason, h2::Error>> {
        self.stream.poll_reset(cx)
    }

    /// Says that nothing more comes: a client's half-close. What waits is lost.
    pub fn half_close(&mut self) -> Result<(), h2::Error> {
        self.stream.send_data(Bytes::new(), true)
    }

    /// Ends the call with `trailers`. What waits is lost.
    pub fn end(&mut self, trailers: HeaderMap) -> Result<(), h2::Error> {
        // Pieces already handed over go first; capacity asked for is given back.
        self.stream.reserve_capacity(0);
        self.stream.send_trailers(trailers)
    }

    pub fn reset(&mut self, reason: Reason) {
        self.stream.send_reset(reason);
    }
}
