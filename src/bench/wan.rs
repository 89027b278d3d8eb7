//! A wide-area network between two TCP ends, in user space.
//!
//! A [`Wan`] listens, and relays each connection to its target. Every byte
//! arrives one delay (and some jitter) after it was read, in order. The
//! connections share the link's bandwidth; a link whose queue is full stops
//! reading, as TCP would make its sender stop. The first bytes of a connection
//! wait for one round trip more, which its handshake would have taken.
//!
//! Not modelled: packet loss, slow start and recovery, and the bytes of TCP
//! and IP headers, which are not counted either: [`tun`](super::tun) has them.
//!
//! Between the ends stand socket buffers, of [`SOCKET_BUFFER`] to send and
//! [`RECEIVE_BUFFER`] to read on each side, and what is in flight: at most [`Link::in_flight`] for each connection and
//! direction.

use crate::clock::Clock;
use crate::xds::Moment;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the kernel may hold to be sent on each side of the relay, and one read of it.
pub const SOCKET_BUFFER: usize = 16 << 10;

/// … and what it may hold to be read. It counts each packet with all that it takes
/// beside its bytes, and drops what it has no place for: a burst on one connection
/// then waits 200 ms for its sender to notice, which is no property of the WAN.
const RECEIVE_BUFFER: usize = 64 << 10;

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// The largest segment. That of loopback is larger than [`SOCKET_BUFFER`], which
/// makes a receiver close its window until the buffer is empty, and its sender
/// wait for a timer each time.
const SEGMENT: u32 = 1400;

/// What a link does to bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Link {
    /// One way.
    pub delay: Duration,
    /// Up to this much on top, evenly spread; order is kept.
    pub jitter: Duration,
    /// In each direction, shared by all connections; none: unlimited.
    pub bytes_per_second: Option<u64>,
    /// How far ahead of the bandwidth the link takes bytes: its queue, as time.
    pub queue: Duration,
    /// Bytes under way, for each connection and direction.
    pub in_flight: usize,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Link {
    pub fn with_delay(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            bytes_per_second: None,
            queue: Duration::from_millis(200),
            in_flight: 4 << 20,
            seed: 1,
        }
    }
}

/// How a link fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outage {
    /// Connections are reset at once; new ones are refused.
    Reset,
    /// Connections fall silent, and are reset when the link is back: who was
    /// between the ends has forgotten them. New ones are refused.
    Silence,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    down: Option<Outage>,
    /// How often it was cut: a connection belongs to the time between two cuts.
    cuts: u64,
}

/// What crossed the link so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Bytes from those who connect, and to them.
    pub up: u64,
    pub down: u64,
    /// Connections ever relayed, and those relayed now.
    pub connections: u64,
    pub open: u64,
    /// Packets, and those of them that were lost; the user-space form has none.
    pub packets: u64,
    pub lost: u64,
}

impl Traffic {
    /// Of several links, or of the same one later.
    pub fn join(self, other: Self) -> Self {
        Self {
            up: self.up + other.up,
            down: self.down + other.down,
            connections: self.connections + other.connections,
            open: self.open + other.open,
            packets: self.packets + other.packets,
            lost: self.lost + other.lost,
        }
    }

    /// What crossed since `before`; connections as they are.
    pub fn since(self, before: Self) -> Self {
        Self {
            up: self.up - before.up,
            down: self.down - before.down,
            packets: self.packets - before.packets,
            lost: self.lost - before.lost,
            ..self
        }
    }
}

/// A running link. Dropping it resets its connections.
#[derive(Debug)]
pub struct Wan {
    address: SocketAddr,
    shared: Arc<Shared>,
    _acceptor: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    link: Link,
    clock: Clock,
    state: watch::Sender<State>,
    up: Direction,
    down: Direction,
    connections: AtomicU64,
    open: AtomicU64,
}

#[derive(Debug, Default)]
struct Direction {
    bytes: AtomicU64,
    /// When the link has sent everything that it took.
    free: Mutex<Moment>,
}

impl Direction {
    /// Takes `bytes` and says when the link will have sent them.
    fn take(&self, now: Moment, bytes: usize, link: &Link) -> Moment {
        self.bytes.fetch_add(bytes as u64, Relaxed);
        let span = link.bytes_per_second.map_or(Duration::ZERO, |rate| {
            Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.max(1))
        });
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(now) + span;
        *free
    }

    fn hold_until(&self, moment: Moment) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        *free = (*free).max(moment);
    }
}

impl Wan {
    /// Listens on a free port of 127.0.0.1 and relays to `target`.
    pub async fn start(target: SocketAddr, link: Link, clock: Clock) -> io::Result<Self> {
        Self::start_at(([127, 0, 0, 1], 0).into(), target, link, clock).await
    }

    /// Listens there.
    pub async fn start_at(listen: SocketAddr, target: SocketAddr, link: Link, clock: Clock) -> io::Result<Self> {
        let socket = if listen.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(listen)?;
        let listener = socket.listen(BACKLOG)?;
        limit_buffers(&socket2::SockRef::from(&listener))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            target,
            link,
            clock,
            state: watch::Sender::default(),
            up: Direction::default(),
            down: Direction::default(),
            connections: AtomicU64::new(0),
            open: AtomicU64::new(0),
        });
        let mut acceptor = JoinSet::new();
        acceptor.spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, _acceptor: acceptor })
    }

    /// Where to connect to reach the target through this link.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn cut(&self, outage: Outage) {
        self.shared.state.send_modify(|state| *state = State { down: Some(outage), cuts: state.cuts + 1 });
    }

    pub fn heal(&self) {
        self.shared.state.send_modify(|state| state.down = None);
    }

    /// Nothing that is sent from now on leaves before `span` has passed.
    pub fn stall(&self, span: Duration) {
        let until = self.shared.clock.now() + span;
        self.shared.up.hold_until(until);
        self.shared.down.hold_until(until);
    }

    pub fn traffic(&self) -> Traffic {
        let shared = &self.shared;
        Traffic {
            up: shared.up.bytes.load(Relaxed),
            down: shared.down.bytes.load(Relaxed),
            connections: shared.connections.load(Relaxed),
            open: shared.open.load(Relaxed),
            ..Traffic::default()
        }
    }
}

/// What a listener has set, its connections inherit.
fn limit_buffers(socket: &socket2::SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_mss(SEGMENT)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_send_buffer_size(SOCKET_BUFFER)
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((near, _)) => {
                    connections.spawn(carry(near, Arc::clone(&shared)));
                }
                // Out of descriptors: others must end first.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// One connection, from its accept to its end.
async fn carry(mut near: TcpStream, shared: Arc<Shared>) {
    let established = shared.clock.now() + shared.link.delay * 2;
    let mut state = shared.state.subscribe();
    let State { down, cuts } = *state.borrow_and_update();
    if down.is_some() {
        return reset(&near);
    }
    let Ok(mut far) = connect(shared.target).await else { return reset(&near) };
    if near.set_nodelay(true).is_err() {
        return reset(&near);
    }
    shared.connections.fetch_add(1, Relaxed);
    let number = shared.connections.load(Relaxed);
    let open = Open::new(&shared.open);
    let broken = {
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        let up = pump(&shared, &shared.up, from_near, to_far, established, number * 2);
        let down = pump(&shared, &shared.down, from_far, to_near, established, number * 2 + 1);
        tokio::select! {
            relayed = async { tokio::try_join!(up, down) } => relayed.is_err(),
            _ = state.wait_for(|state| state.cuts != cuts) => true,
        }
    };
    // The link carries it no longer; its ends may not know yet.
    drop(open);
    if broken {
        let _ = state.wait_for(|state| state.down != Some(Outage::Silence)).await;
        reset(&near);
        reset(&far);
    }
}

async fn connect(target: SocketAddr) -> io::Result<TcpStream> {
    let socket = if target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    limit_buffers(&(&socket).into())?;
    socket.set_nodelay(true)?;
    socket.connect(target).await
}

/// Counts a connection as open until dropped.
struct Open<'a>(&'a AtomicU64);

impl<'a> Open<'a> {
    fn new(open: &'a AtomicU64) -> Self {
        open.fetch_add(1, Relaxed);
        Self(open)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Makes the drop of `socket` a RST. Where it fails, it is a FIN.
fn reset(socket: &TcpStream) {
    let _ = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO));
}

/// Moves one direction of one connection until its end was passed on.
async fn pump(
    shared: &Shared,
    direction: &Direction,
    from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    established: Moment,
    seed: u64,
) -> io::Result<()> {
    let (link, clock) = (&shared.link, &shared.clock);
    let mut random = StdRng::seed_from_u64(link.seed ^ seed);
    // What is under way, with its arrival; `None` is the end of the stream.
    let mut flight: VecDeque<(Moment, Option<Bytes>)> = VecDeque::new();
    let (mut in_flight, mut ended) = (0, false);
    let (mut arrives, mut resume) = (Moment::START, Moment::START);
    loop {
        let next = flight.front().map(|(due, _)| *due);
        let may_read = !ended && in_flight < link.in_flight;
        tokio::select! {
            () = clock.sleep_until_some(next), if next.is_some() => {
                // All that is due, at once: a timer for each would be late.
                let now = clock.now();
                while let Some((_, chunk)) = flight.pop_front_if(|(due, _)| *due <= now) {
                    let Some(chunk) = chunk else { return to.shutdown().await };
                    to.write_all(&chunk).await?;
                    in_flight -= chunk.len();
                }
            }
            readable = readable(&from, clock, resume), if may_read => {
                readable?;
                let Some(chunk) = read(&from)? else { continue };
                let now = clock.now();
                let sent = direction.take(now, chunk.len(), link).max(established);
                let late = random.random_range(Duration::ZERO..=link.jitter);
                arrives = arrives.max(sent + link.delay + late);
                resume = Moment::from_start(sent.since_start().saturating_sub(link.queue));
                ended = chunk.is_empty();
                in_flight += chunk.len();
                flight.push_back((arrives, (!ended).then_some(chunk)));
            }
        }
    }
}

/// Waits until there is something to read, and the link takes it.
async fn readable(from: &ReadHalf<'_>, clock: &Clock, resume: Moment) -> io::Result<()> {
    if clock.now() < resume {
        clock.sleep_until(resume).await;
    }
    from.readable().await
}

/// What can be read now; empty at the end of the stream. The buffer is on the
/// stack, so that an idle connection holds none.
fn read(from: &ReadHalf<'_>) -> io::Result<Option<Bytes>> {
    let mut buffer = [0; SOCKET_BUFFER];
    match from.try_read(&mut buffer) {
        Ok(length) => Ok(buffer.get(..length).map(Bytes::copy_from_slice)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    const DELAY: Duration = Duration::from_millis(80);

    /// A link under a clock that stands still, one connection through it, and
    /// the far end of that.
    struct Path {
        wan: Wan,
        clock: Clock,
        near: TcpStream,
        far: TcpStream,
        listener: TcpListener,
    }

    impl Path {
        async fn new(link: Link) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let clock = Clock::manual();
            let wan = Wan::start(listener.local_addr().unwrap(), link, clock.clone()).await.unwrap();
            let near = TcpStream::connect(wan.address()).await.unwrap();
            let far = listener.accept().await.unwrap().0;
            until(|| wan.traffic().open == 1).await;
            Self { wan, clock, near, far, listener }
        }

        /// Waits, in real time, until the link has read `up` bytes.
        async fn taken(&self, up: u64) {
            until(|| self.wan.traffic().up >= up).await;
        }
    }

    async fn until(mut done: impl FnMut() -> bool) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        while !done() {
            assert!(tokio::time::Instant::now() < deadline, "waited 10 s");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn nothing_to_read(socket: &TcpStream) -> bool {
        matches!(socket.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn bytes_arrive_one_delay_later_in_order() {
        let mut path = Path::new(Link { jitter: DELAY, ..Link::with_delay(DELAY) }).await;
        path.clock.advance(2 * DELAY);
        for part in [b"ab", b"cd", b"ef"] {
            let before = path.wan.traffic().up;
            path.near.write_all(part).await.unwrap();
            path.taken(before + 2).await;
        }
        path.clock.advance(DELAY - Duration::from_millis(1));
        assert!(nothing_to_read(&path.far));
        path.clock.advance(DELAY + Duration::from_millis(1));
        let mut found = [0; 6];
        path.far.read_exact(&mut found).await.unwrap();
        assert_eq!(&found, b"abcdef");
        path.far.write_all(b"xyz").await.unwrap();
        until(|| path.wan.traffic().down == 3).await;
        let Traffic { up, down, connections, open, .. } = path.wan.traffic();
        assert_eq!((up, down, connections, open), (6, 3, 1, 1));
    }

    #[tokio::test]
    async fn the_first_bytes_pay_for_the_handshake() {
        let mut path = Path::new(Link::with_delay(DELAY)).await;
        path.near.write_all(b"a").await.unwrap();
        path.taken(1).await;
        path.clock.advance(DELAY * 3 - Duration::from_millis(1));
        assert!(nothing_to_read(&path.far));
        path.clock.advance(Duration::from_millis(1));
        assert_eq!(path.far.read_u8().await.unwrap(), b'a');
    }

    #[tokio::test]
    async fn the_end_of_a_stream_is_passed_on_and_the_other_direction_stays() {
        let mut path = Path::new(Link::with_delay(Duration::ZERO)).await;
        path.near.write_all(b"bye").await.unwrap();
        path.near.shutdown().await.unwrap();
        let mut all = Vec::new();
        path.far.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"bye");
        path.far.write_all(b"and you").await.unwrap();
        drop(path.far);
        all.clear();
        path.near.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"and you");
        until(|| path.wan.traffic().open == 0).await;
    }

    #[tokio::test]
    async fn connections_share_the_bandwidth_and_a_full_queue_stops_the_sender() {
        let queue = Duration::from_millis(100);
        let link = Link { bytes_per_second: Some(100_000), queue, ..Link::with_delay(Duration::ZERO) };
        let path = Path::new(link).await;
        let other = TcpStream::connect(path.wan.address()).await.unwrap();
        for far in [path.far, path.listener.accept().await.unwrap().0] {
            tokio::spawn(async move {
                let mut far = far;
                tokio::io::copy(&mut far, &mut tokio::io::sink()).await
            });
        }
        let fill = |mut socket: TcpStream| async move {
            let _ = socket.write_all(&vec![1; 4 << 20]).await;
        };
        tokio::spawn(fill(path.near));
        tokio::spawn(fill(other));
        // A tenth of a second's queue is 10,000 bytes; a reader overshoots it
        // by at most one read.
        let most = |seconds: f64| (seconds * 100_000.0) as u64 + 10_000 + 2 * SOCKET_BUFFER as u64;
        until(|| path.wan.traffic().up > 10_000).await;
        for steps in 1..=20 {
            let before = path.wan.traffic().up;
            path.clock.advance(Duration::from_millis(500));
            until(|| path.wan.traffic().up > before).await;
            let up = path.wan.traffic().up;
            assert!(up <= most(f64::from(steps) * 0.5), "{up} bytes after {steps} half seconds");
        }
    }

    #[tokio::test]
    async fn one_connection_is_not_slowed_by_small_buffers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let link = Link::with_delay(Duration::from_millis(10));
        let wan = Wan::start(listener.local_addr().unwrap(), link, Clock::system()).await.unwrap();
        let mut near = TcpStream::connect(wan.address()).await.unwrap();
        let mut far = listener.accept().await.unwrap().0;
        let mut burst = vec![0; 90_000];
        let begin = std::time::Instant::now();
        for _ in 0..10 {
            for _ in 0..10 {
                near.write_all(&[1; 9000]).await.unwrap();
            }
            far.read_exact(&mut burst).await.unwrap();
        }
        // With loopback's segments of 64 kB it takes 6 s.
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }

    #[tokio::test]
    async fn a_stall_holds_bytes_back() {
        let mut path = Path::new(Link::with_delay(Duration::ZERO)).await;
        path.wan.stall(Duration::from_secs(5));
        path.near.write_all(b"a").await.unwrap();
        path.taken(1).await;
        path.clock.advance(Duration::from_millis(4999));
        assert!(nothing_to_read(&path.far));
        path.clock.advance(Duration::from_millis(1));
        assert_eq!(path.far.read_u8().await.unwrap(), b'a');
    }

    #[tokio::test]
    async fn a_reset_kills_connections_and_refuses_new_ones_until_healed() {
        let mut path = Path::new(Link::with_delay(Duration::ZERO)).await;
        path.wan.cut(Outage::Reset);
        assert_eq!(path.near.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let mut refused = TcpStream::connect(path.wan.address()).await.unwrap();
        assert!(refused.read_u8().await.is_err());
        path.wan.heal();
        let mut again = TcpStream::connect(path.wan.address()).await.unwrap();
        again.write_all(b"a").await.unwrap();
        assert_eq!(path.listener.accept().await.unwrap().0.read_u8().await.unwrap(), b'a');
    }

    #[tokio::test]
    async fn silence_loses_bytes_and_resets_once_it_is_over() {
        let mut path = Path::new(Link::with_delay(Duration::ZERO)).await;
        path.wan.cut(Outage::Silence);
        until(|| path.wan.traffic().open == 0).await;
        path.near.write_all(b"lost").await.unwrap();
        assert!(nothing_to_read(&path.near) && nothing_to_read(&path.far));
        path.wan.heal();
        for socket in [&mut path.near, &mut path.far] {
            assert_eq!(socket.read_u8().await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        }
        assert_eq!(path.wan.traffic().up, 0);
    }
}
