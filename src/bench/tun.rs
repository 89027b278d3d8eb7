//! A wide-area network between two TCP ends that are the kernel's own.
//!
//! A [`Tun`] is a network device and the address beyond it. Whoever connects to
//! that address reaches who listens at the device's own: each packet comes back
//! with its two addresses exchanged, one delay later, or not at all. So both ends
//! are sockets of this machine, and everything between them, slow start, loss,
//! recovery, is real. No checksum changes, as an exchange changes no sum.
//!
//! Addresses are of 198.18.0.0/15, which is set aside for benchmarks. The device
//! goes when the process ends. It needs root, or the capability `NET_ADMIN`.
//!
//! A direction is a [`Lane`], pure: it tells of each packet when it arrives.

use super::wan::{Link, Traffic};
use crate::clock::Clock;
use crate::xds::Moment;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tappers::linux::Tun as Device;
use tappers::{AddAddressV4, DeviceState};

/// Where the control plane listens.
const PORT: u16 = 15010;
/// A packet that others overtake comes so much later.
const OVERTAKEN: Duration = Duration::from_millis(5);
/// It is looked whether to end so often at least.
const LOOK: Duration = Duration::from_millis(20);
/// A packet is no larger than this: devices have an MTU of 1500.
const PACKET: usize = 2048;
/// Packets read before those that are due go out.
const TURN: usize = 64;

/// What happens to packets that bytes of a [`Wan`](super::wan::Wan) are spared.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rough {
    /// Of a million packets so many are lost.
    pub lost: u32,
    /// … and so many are overtaken by those behind them.
    pub overtaken: u32,
    /// How the control plane's kernel answers to that; none: as the system does.
    pub congestion: Option<String>,
}

/// Why there is no such link here.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    #[error("needs root")]
    Root,
    #[error("a TUN device cannot be made: {0}")]
    Device(io::Error),
}

/// Where the control plane listens, on the device with this number.
pub fn listens(number: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 18, number, 1), PORT).into()
}

/// Where to connect to reach it.
pub fn beyond(number: u8) -> SocketAddr {
    (Ipv4Addr::new(198, 18, number, 2), PORT).into()
}

/// Whether links of this kind can be made here.
pub fn usable() -> Result<(), TunError> {
    Device::new().map(drop).map_err(refused)
}

fn refused(error: io::Error) -> TunError {
    match error.kind() {
        io::ErrorKind::PermissionDenied => TunError::Root,
        _ => TunError::Device(error),
    }
}

/// A running link. Dropping it takes the device away.
#[derive(Debug)]
pub struct Tun {
    shared: Arc<Shared>,
    clock: Clock,
    forwarder: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Nothing passes.
    cut: bool,
    /// Nothing arrives before.
    stalled: Moment,
    /// Everything arrives at once.
    cleared: bool,
    /// Packets under way.
    flight: usize,
    ended: bool,
    /// Why nothing is forwarded any longer.
    failed: Option<String>,
    traffic: Traffic,
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tun {
    pub fn start(number: u8, link: &Link, rough: &Rough) -> Result<Self, TunError> {
        let device = Device::new().map_err(refused)?;
        let (near, far) = (Ipv4Addr::new(198, 18, number, 1), Ipv4Addr::new(198, 18, number, 2));
        let mut address = AddAddressV4::new(near);
        address.set_destination(far);
        let ready = device.add_addr(address).and_then(|()| device.set_state(DeviceState::Up));
        ready.and_then(|()| device.set_nonblocking(true)).map_err(refused)?;
        let (shared, clock) = (Arc::new(Shared::default()), Clock::system());
        let mut forwarder = Forwarder {
            device,
            shared: Arc::clone(&shared),
            clock: clock.clone(),
            lanes: [0, 1].map(|way| Lane::new(link.clone(), rough, link.seed ^ way)),
            flight: BinaryHeap::new(),
            sent: 0,
            open: HashMap::new(),
        };
        let forwarder = std::thread::spawn(move || forwarder.run());
        Ok(Self { shared, clock, forwarder: Some(forwarder) })
    }

    /// Packets fall silent; connections may outlive it, as they do in earnest.
    pub fn cut(&self) {
        self.shared.lock().cut = true;
    }

    pub fn heal(&self) {
        self.shared.lock().cut = false;
    }

    /// Nothing that is under way arrives before `span` has passed.
    pub fn stall(&self, span: Duration) {
        self.shared.lock().stalled = self.clock.now() + span;
    }

    /// From now on it is no WAN: everything passes, and at once.
    pub fn clear(&self) {
        let mut state = self.shared.lock();
        (state.cut, state.stalled, state.cleared) = (false, Moment::START, true);
    }

    /// Nobody is connected, and nothing is under way.
    pub fn is_empty(&self) -> bool {
        let state = self.shared.lock();
        state.traffic.open == 0 && state.flight == 0
    }

    /// In bytes of IP packets, those that were lost or sent again included.
    pub fn traffic(&self) -> Traffic {
        self.shared.lock().traffic
    }

    /// Why nothing passes any longer, where that is so.
    pub fn failed(&self) -> Option<String> {
        self.shared.lock().failed.clone()
    }
}

impl Drop for Tun {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        // Where it has panicked, that has been told already.
        let _ = self.forwarder.take().map(JoinHandle::join);
    }
}

/// One direction of a link.
#[derive(Debug)]
struct Lane {
    link: Link,
    rough: [u32; 2],
    random: StdRng,
    /// When the link has sent all that it has taken.
    free: Moment,
    /// When the last of those that keep their order arrives.
    latest: Moment,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Arrives(Moment),
    /// It was sent, and is gone.
    Lost,
    /// The queue before the link had no place for it.
    Full,
}

impl Lane {
    fn new(link: Link, rough: &Rough, seed: u64) -> Self {
        let random = StdRng::seed_from_u64(seed);
        Self { link, rough: [rough.lost, rough.overtaken], random, free: Moment::START, latest: Moment::START }
    }

    /// It is no longer than what it connects.
    fn clear(&mut self) {
        (self.link, self.rough) = (Link::with_delay(Duration::ZERO), [0, 0]);
        (self.free, self.latest) = (Moment::START, Moment::START);
    }

    fn take(&mut self, now: Moment, length: usize) -> Fate {
        let start = self.free.max(now);
        if start - now > self.link.queue {
            return Fate::Full;
        }
        let micros = |rate: u64| (length as u64 * 1_000_000_000).checked_div(rate).unwrap_or(0);
        self.free =
            start + self.link.bytes_per_second.map_or(Duration::ZERO, |rate| Duration::from_nanos(micros(rate)));
        let [lost, overtaken] = self.rough.map(|of| self.random.random_range(0..1_000_000) < of);
        let due = self.free + self.link.delay + self.random.random_range(Duration::ZERO..=self.link.jitter);
        if lost {
            return Fate::Lost;
        }
        if overtaken {
            return Fate::Arrives(due.max(self.latest) + OVERTAKEN);
        }
        self.latest = self.latest.max(due);
        Fate::Arrives(self.latest)
    }
}

/// The thread that moves packets.
struct Forwarder {
    device: Device,
    shared: Arc<Shared>,
    clock: Clock,
    /// To the control plane, and from it.
    lanes: [Lane; 2],
    flight: BinaryHeap<Reverse<(Moment, u64, Vec<u8>)>>,
    sent: u64,
    /// Clients' ports, and which ends have closed.
    open: HashMap<u16, [bool; 2]>,
}

impl Forwarder {
    fn run(&mut self) {
        if let Err(error) = self.forward() {
            self.shared.lock().failed = Some(format!("the TUN device failed: {error}"));
        }
    }

    fn forward(&mut self) -> io::Result<()> {
        loop {
            let now = self.clock.now();
            let (cut, stalled, cleared) = {
                let mut state = self.shared.lock();
                if state.ended {
                    return Ok(());
                }
                state.flight = self.flight.len();
                (state.cut, state.stalled, state.cleared)
            };
            if cleared {
                self.lanes.iter_mut().for_each(Lane::clear);
            }
            self.deliver(now, cut, stalled);
            if !self.read(cut)? {
                self.wait(stalled)?;
            }
        }
    }

    /// What is due goes back to the kernel, some of it at a time: what that answers
    /// stands in the device's queue until it is read, and is lost where that is full.
    fn deliver(&mut self, now: Moment, cut: bool, stalled: Moment) {
        let mut turn = 0..TURN;
        while now >= stalled
            && turn.next().is_some()
            && let Some(Reverse((due, ..))) = self.flight.peek()
            && *due <= now
        {
            let Some(Reverse((.., packet))) = self.flight.pop() else { return };
            if !cut {
                // What the kernel has no room for is lost, as it would be on a wire.
                let _ = self.device.send(&packet);
            }
        }
    }

    /// Takes what the kernel sends; whether there was anything.
    fn read(&mut self, cut: bool) -> io::Result<bool> {
        let mut buffer = [0; PACKET];
        for turn in 0..TURN {
            match self.device.recv(&mut buffer) {
                Ok(length) => {
                    if let Some(packet) = buffer.get_mut(..length)
                        && !cut
                    {
                        self.take(packet);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(turn > 0),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn take(&mut self, packet: &mut [u8]) {
        let Some(segment) = Segment::read(packet) else { return };
        let fate = self.lanes[usize::from(!segment.up)].take(self.clock.now(), packet.len());
        let mut state = self.shared.lock();
        let traffic = &mut state.traffic;
        if fate != Fate::Full {
            *(if segment.up { &mut traffic.up } else { &mut traffic.down }) += packet.len() as u64;
            traffic.packets += 1;
        }
        match fate {
            Fate::Arrives(due) => {
                traffic.connections += u64::from(follow(&mut self.open, &segment));
                traffic.open = self.open.len() as u64;
                exchange(packet);
                self.sent += 1;
                self.flight.push(Reverse((due, self.sent, packet.to_vec())));
                state.flight = self.flight.len();
            }
            Fate::Lost | Fate::Full => traffic.lost += 1,
        }
    }

    /// Until something is due, or there is something to read.
    fn wait(&self, stalled: Moment) -> io::Result<()> {
        let next = self.flight.peek().map(|Reverse((due, ..))| (*due).max(stalled));
        let span = next.map_or(LOOK, |due| due.since(self.clock.now()).min(LOOK));
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(span.subsec_nanos()) };
        match poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&timeout)) {
            Err(rustix::io::Errno::INTR) | Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What a forwarder reads of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// To the control plane.
    up: bool,
    /// The client's port.
    client: u16,
    flags: u8,
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;
const TCP: u8 = 6;
/// The least that IP and TCP put before their data.
const HEAD: usize = 20;

impl Segment {
    /// Of TCP in IPv4 to the control plane or from it; anything else is not passed.
    fn read(packet: &[u8]) -> Option<Self> {
        let head = packet.first().filter(|first| *first >> 4 == 4)?;
        let segment = packet.get(usize::from(head & 15) * 4..).filter(|rest| rest.len() >= HEAD)?;
        if packet.get(9) != Some(&TCP) || packet.len() < 2 * HEAD {
            return None;
        }
        let (&[a, b, c, d], rest) = segment.split_first_chunk()?;
        let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
        let flags = *rest.get(9)?;
        match (from, to) {
            (client, PORT) => Some(Self { up: true, client, flags }),
            (PORT, client) => Some(Self { up: false, client, flags }),
            _ => None,
        }
    }
}

/// Source becomes destination.
fn exchange(packet: &mut [u8]) {
    if let Some((from, to)) = packet.get_mut(12..20).map(|addresses| addresses.split_at_mut(4)) {
        from.swap_with_slice(to);
    }
}

/// Keeps who is connected; whether this begins a connection.
fn follow(open: &mut HashMap<u16, [bool; 2]>, segment: &Segment) -> bool {
    let Segment { up, client, flags } = *segment;
    if flags & RST != 0 {
        open.remove(&client);
    } else if flags & SYN != 0 && flags & ACK == 0 {
        return open.insert(client, [false; 2]).is_none();
    } else if flags & FIN != 0
        && let Some(closed) = open.get_mut(&client)
    {
        closed[usize::from(up)] = true;
        if *closed == [true; 2] {
            open.remove(&client);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::link::Preset;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    const DELAY: Duration = Duration::from_millis(40);

    fn at(millis: u64) -> Moment {
        Moment::START + Duration::from_millis(millis)
    }

    fn lane(link: Link, lost: u32, overtaken: u32) -> Lane {
        Lane::new(link, &Rough { lost, overtaken, congestion: None }, 7)
    }

    #[test]
    fn packets_share_the_bandwidth_and_find_no_place_in_a_full_queue() {
        let queue = Duration::from_millis(30);
        let mut lane = lane(Link { bytes_per_second: Some(100_000), queue, ..Link::with_delay(DELAY) }, 0, 0);
        let fates: Vec<_> = (0..6).map(|_| lane.take(at(100), 1000)).collect();
        let arrives = |millis| Fate::Arrives(at(millis));
        assert_eq!(fates, [arrives(150), arrives(160), arrives(170), arrives(180), Fate::Full, Fate::Full]);
        assert_eq!(lane.take(at(200), 1000), arrives(250));
    }

    #[test]
    fn jitter_keeps_order_and_some_are_overtaken_or_lost() {
        let link = Link { jitter: DELAY, ..Link::with_delay(DELAY) };
        let fates = |lost, overtaken| {
            let mut lane = lane(link.clone(), lost, overtaken);
            (0..10_000).map(|turn| lane.take(at(turn), 100)).collect::<Vec<_>>()
        };
        let arrivals = |fates: &[Fate]| {
            let of = |fate: &Fate| if let Fate::Arrives(at) = fate { Some(*at) } else { None };
            fates.iter().filter_map(of).collect::<Vec<_>>()
        };
        assert!(arrivals(&fates(0, 0)).is_sorted());
        let behind = arrivals(&fates(0, 10_000)).windows(2).filter(|pair| pair[1] < pair[0]).count();
        assert!((50..150).contains(&behind), "{behind}");
        let lost = fates(20_000, 0).iter().filter(|fate| **fate == Fate::Lost).count();
        assert!((150..250).contains(&lost), "{lost}");
        assert_eq!(fates(20_000, 500), fates(20_000, 500), "the same seed does the same");
    }

    #[test]
    fn what_is_cleared_holds_nothing_up() {
        let mut lane = lane(Preset::Bad.link(1), 500_000, 0);
        let before: Vec<_> = (0..100).map(|_| lane.take(at(0), 1500)).collect();
        assert!(before.contains(&Fate::Lost));
        lane.clear();
        assert_eq!(lane.take(at(5), 1500), Fate::Arrives(at(5)));
    }

    fn packet(from: u16, to: u16, flags: u8) -> Vec<u8> {
        let mut packet = vec![0; 2 * HEAD];
        (packet[0], packet[9], packet[33]) = (0x45, TCP, flags);
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet[20..22].copy_from_slice(&from.to_be_bytes());
        packet[22..24].copy_from_slice(&to.to_be_bytes());
        packet
    }

    #[test]
    fn segments_are_told_apart_and_connections_counted() {
        assert_eq!(Segment::read(&packet(7, PORT, SYN)), Some(Segment { up: true, client: 7, flags: SYN }));
        assert_eq!(Segment::read(&packet(PORT, 7, 0)).map(|segment| segment.up), Some(false));
        assert_eq!(Segment::read(&packet(1, 2, 0)), None);
        for length in 0..2 * HEAD {
            assert_eq!(Segment::read(&packet(7, PORT, 0)[..length]), None);
        }
        let mut other = packet(7, PORT, 0);
        exchange(&mut other);
        assert_eq!(other[12..20], [10, 0, 0, 2, 10, 0, 0, 1]);
        let mut open = HashMap::new();
        let mut hear = |up, client, flags| follow(&mut open, &Segment { up, client, flags });
        assert_eq!([hear(true, 7, SYN), hear(true, 7, SYN), hear(false, 7, SYN | ACK)], [true, false, false]);
        assert_eq!([hear(true, 8, SYN), hear(false, 8, RST)], [true, false]);
        assert_eq!([hear(true, 7, FIN | ACK), hear(false, 7, FIN | ACK)], [false, false]);
        assert!(open.is_empty());
    }

    /// Where such devices can be made: others have nothing to test here.
    #[test]
    fn the_kernels_own_connection_takes_as_long_and_survives_losses() {
        let number = 251;
        let rough = Rough { lost: 20_000, overtaken: 5000, congestion: None };
        let Ok(tun) = Tun::start(number, &Link::with_delay(Duration::from_millis(5)), &rough) else { return };
        let listener = TcpListener::bind(listens(number)).unwrap();
        let echo = std::thread::spawn(move || {
            let mut socket = listener.accept().unwrap().0;
            let mut bytes = vec![0; 300_000];
            socket.read_exact(&mut bytes).unwrap();
            socket.write_all(&bytes).unwrap();
        });
        let begin = std::time::Instant::now();
        let mut socket = TcpStream::connect(beyond(number)).unwrap();
        assert!(begin.elapsed() >= Duration::from_millis(10));
        let sent: Vec<u8> = (0..300_000u32).map(|at| (at % 251) as u8).collect();
        socket.write_all(&sent).unwrap();
        let mut found = vec![0; sent.len()];
        socket.read_exact(&mut found).unwrap();
        assert!(found == sent);
        echo.join().unwrap();
        let traffic = tun.traffic();
        assert!(traffic.up > 300_000 && traffic.down > 300_000 && traffic.connections == 1, "{traffic:?}");
        assert_eq!(tun.failed(), None);
    }
}
