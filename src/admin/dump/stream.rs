//! Text as it is written on a thread of its own, for a reader of its own pace.

use axum::body::Body;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{self, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Of the text, in bytes: what is sent at once.
pub const PART: usize = 64 << 10;
/// Parts that wait for the reader.
const WAITING: usize = 4;
/// A reader that takes nothing for this long is given up.
const STALL: Duration = Duration::from_secs(30);
/// So long an answer waits for its turn.
const TURN: Duration = Duration::from_secs(5);
/// Answers that are written at once.
const AT_ONCE: usize = 2;

/// Lets so many be written at once.
#[derive(Clone, Debug)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Room {
    /// Answers with what `write` writes. An error of the writer cuts the answer
    /// off, so that half of it is not taken for all.
    pub async fn stream(&self, write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static) -> Response {
        let turn = tokio::time::timeout(TURN, self.0.clone().acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            let text = "other dumps are being written; try again\n";
            return (StatusCode::SERVICE_UNAVAILABLE, text).into_response();
        };
        let (sender, receiver) = mpsc::channel(WAITING);
        let out = Parts { sender, runtime: Handle::current(), part: Vec::with_capacity(PART), _turn: turn };
        tokio::task::spawn_blocking(move || out.run(write));
        let parts = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
        ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(parts)).into_response()
    }
}

/// Collects what is written, and hands it on in parts.
struct Parts {
    sender: Sender<io::Result<Bytes>>,
    runtime: Handle,
    part: Vec<u8>,
    _turn: OwnedSemaphorePermit,
}

impl Parts {
    fn run(mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let written = write(&mut self).and_then(|()| self.flush());
        if let Err(error) = written {
            tracing::debug!(%error, "a dump was not written to its end");
            let _ = self.sender.try_send(Err(error));
        }
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let part = std::mem::replace(&mut self.part, Vec::with_capacity(PART));
        let sent =
            self.runtime.block_on(async { tokio::time::timeout(STALL, self.sender.send(Ok(part.into()))).await });
        match sent {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::new(io::ErrorKind::BrokenPipe, "the reader has gone")),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing")),
        }
    }
}

impl Write for Parts {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.part.extend_from_slice(bytes);
        if self.part.len() >= PART {
            self.hand_on()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() { Ok(()) } else { self.hand_on() }
    }
}
