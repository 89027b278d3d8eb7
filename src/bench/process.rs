//! A part of a benchmark, seen from its parent.
//!
//! Talk is in turns: an order, a reply. [`tell`](Part::tell) and
//! [`hear`](Part::hear) stand apart so that several parts work at once.

use super::part::{Hello, Order, Reply, Report, Spec, Usage};
use super::wan::Traffic;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// Metrics are told within this time.
const SCRAPE: std::time::Duration = std::time::Duration::from_secs(5);

/// Why a benchmark cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Limit(#[from] super::limits::LimitError),
    #[error("cannot start the {part}: {source}")]
    Start { part: &'static str, source: std::io::Error },
    #[error("the {part} ended in the middle of the run; what it had to say stands above")]
    Ended { part: &'static str },
    #[error("the {part} cannot do its part: {reason}")]
    Failed { part: &'static str, reason: String },
    #[error("{what} within {seconds} s{}", trouble.as_ref().map(|reason| format!("; a stream ended last because: {reason}")).unwrap_or_default())]
    Patience { what: String, seconds: u64, trouble: Option<String> },
    #[error("cannot make certificates: {0}")]
    Certificates(#[from] rcgen::Error),
    #[error("cannot write {path}: {source}")]
    Write { path: String, source: std::io::Error },
}

/// Another process of this program. It ends when this is dropped.
#[derive(Debug)]
pub struct Part {
    name: &'static str,
    pub hello: Hello,
    child: Child,
    orders: Option<ChildStdin>,
    replies: BufReader<ChildStdout>,
}

impl Part {
    pub fn start(spec: &Spec) -> Result<Self, BenchError> {
        let part = spec.name();
        let error = |source| BenchError::Start { part, source };
        let spec = serde_json::to_string(spec).map_err(|e| error(e.into()))?;
        let program = std::env::current_exe().map_err(error)?;
        let mut child = Command::new(program)
            .args(["bench", "part", &spec])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(error)?;
        let (orders, replies) = (child.stdin.take(), child.stdout.take());
        let replies = replies.ok_or(BenchError::Ended { part })?;
        let hello = Hello { address: ([0, 0, 0, 0], 0).into(), admin: None };
        let mut this = Self { name: part, hello, child, orders, replies: BufReader::new(replies) };
        this.hello = this.line()?;
        Ok(this)
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn line<T: serde::de::DeserializeOwned>(&mut self) -> Result<T, BenchError> {
        let ended = BenchError::Ended { part: self.name };
        let mut line = String::new();
        match self.replies.read_line(&mut line) {
            Ok(read) if read > 0 => {}
            _ => return Err(ended),
        }
        serde_json::from_str(&line)
            .map_err(|error| BenchError::Failed { part: self.name, reason: format!("{error} in {line:?}") })
    }

    pub fn tell(&mut self, order: &Order) -> Result<(), BenchError> {
        let ended = BenchError::Ended { part: self.name };
        let Ok(mut line) = serde_json::to_string(order) else { return Err(ended) };
        line.push('\n');
        let told = self.orders.as_mut().map(|orders| orders.write_all(line.as_bytes()).and_then(|()| orders.flush()));
        if matches!(told, Some(Ok(()))) { Ok(()) } else { Err(ended) }
    }

    pub fn hear(&mut self) -> Result<Reply, BenchError> {
        match self.line()? {
            Reply::Failed(reason) => Err(BenchError::Failed { part: self.name, reason }),
            reply => Ok(reply),
        }
    }

    pub fn ask(&mut self, order: &Order) -> Result<Reply, BenchError> {
        self.tell(order)?;
        self.hear()
    }

    fn strange<T>(&self, reply: &Reply) -> Result<T, BenchError> {
        Err(BenchError::Failed { part: self.name, reason: format!("a reply to another order: {reply:?}") })
    }

    pub fn usage(&mut self) -> Result<Usage, BenchError> {
        match self.ask(&Order::Usage)? {
            Reply::Usage(usage) => Ok(usage),
            other => self.strange(&other),
        }
    }

    /// A counter of Outpost's own metrics.
    pub fn metric(&self, name: &str) -> Option<u64> {
        let mut socket = TcpStream::connect_timeout(&self.hello.admin?, SCRAPE).ok()?;
        socket.set_read_timeout(Some(SCRAPE)).ok()?;
        socket.write_all(b"GET /metrics HTTP/1.1\r\nhost: outpost\r\nconnection: close\r\n\r\n").ok()?;
        let mut text = Vec::new();
        socket.read_to_end(&mut text).ok()?;
        let text = String::from_utf8_lossy(&text).into_owned();
        text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
    }

    pub fn traffic(&mut self) -> Result<Traffic, BenchError> {
        match self.ask(&Order::Traffic)? {
            Reply::Traffic(traffic) => Ok(traffic),
            other => self.strange(&other),
        }
    }

    pub fn report(&mut self, from: u32) -> Result<Report, BenchError> {
        match self.ask(&Order::Report { from })? {
            Reply::Report(report) => Ok(*report),
            other => self.strange(&other),
        }
    }

    /// When it has made all changes: how late the source was at most, and how long it
    /// stayed awake for them, in µs.
    pub fn made(&mut self) -> Result<(u64, u64), BenchError> {
        match self.ask(&Order::Made)? {
            Reply::Made { late, awake } => Ok((late, awake)),
            other => self.strange(&other),
        }
    }

    pub fn streams(&mut self) -> Result<u64, BenchError> {
        match self.ask(&Order::Streams)? {
            Reply::Streams(count) => Ok(count),
            other => self.strange(&other),
        }
    }

    pub fn stages(&mut self) -> Result<Vec<super::part::Stage>, BenchError> {
        match self.ask(&Order::Stages)? {
            Reply::Stages(stages) => Ok(stages),
            other => self.strange(&other),
        }
    }

    /// At once, as a crash would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // It ends by itself when its input does; whoever does not is made to.
        drop(self.orders.take());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while let Ok(None) = self.child.try_wait() {
            if std::time::Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            super::now::sleep(std::time::Duration::from_millis(5));
        }
    }
}

/// Several parts do the same at once.
pub fn all(parts: &mut [Part], order: impl Fn(usize) -> Order) -> Result<Vec<Reply>, BenchError> {
    for (at, part) in parts.iter_mut().enumerate() {
        part.tell(&order(at))?;
    }
    parts.iter_mut().map(Part::hear).collect()
}
