//! The parts of a benchmark as processes of their own, so that what each of
//! them costs is told apart.
//!
//! A part is this program again: `outpost bench part NAME SPEC`. It says hello on
//! its standard output, then answers each line of its standard input, an
//! [`Order`], by one line. It ends when that input does: with its parent, however
//! that ends. What is written to standard error is the parent's.
//!
//! * [`plane`](source): a control plane; `raw`, `h2` and `tonic`: what it is measured against
//! * `wan`, `tun`: the emulator, in [user space](super::wan) or below [the kernel's TCP](super::tun)
//! * `swarm`: a [`Fleet`](super::fleet::Fleet)
//! * `serve`: Outpost, as `outpost serve` runs it

mod h2;
mod relay;
mod source;
mod swarm;
mod tonic;
mod wan;

use super::fleet::{Counts, Outcome, Target, Terms};
use super::link::Stalls;
use super::now;
use super::plan::Plan;
use super::stock::Shape;
use super::tun::Rough;
use super::wan::{Link, Outage, Traffic};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::mpsc;

pub use relay::{Ended, Launch, Running, Stage, Stages};

/// Connections that wait to be accepted.
const BACKLOG: u32 = 4096;

/// What a part is told to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Spec {
    Plane {
        shape: Shape,
        listen: SocketAddr,
        /// Of its TCP; none: as the system has it.
        congestion: Option<String>,
    },
    /// The same content, written to bare connections.
    Raw {
        shape: Shape,
    },
    /// The same content, each message encoded once, by the HTTP/2 that Outpost uses.
    H2 {
        shape: Shape,
    },
    /// The same content, by a server of tonic's.
    Tonic {
        shape: Shape,
    },
    Wan {
        target: SocketAddr,
        link: Link,
        stalls: Option<Stalls>,
        listen: SocketAddr,
    },
    /// The same, as a network device with this number.
    Tun {
        number: u8,
        link: Link,
        rough: Rough,
        stalls: Option<Stalls>,
    },
    Swarm {
        terms: Terms,
        target: Target,
        first: u32,
    },
    /// Flags of `outpost serve`; are stages told?
    Serve {
        flags: Vec<String>,
        stages: bool,
    },
}

impl Spec {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Plane { .. } => "control plane",
            Self::Raw { .. } => "raw sender",
            Self::H2 { .. } => "h2 server",
            Self::Tonic { .. } => "tonic server",
            Self::Wan { .. } | Self::Tun { .. } => "WAN emulator",
            Self::Swarm { .. } => "swarm",
            Self::Serve { .. } => "outpost",
        }
    }

    /// Servers of sidecars have all cores, and a control plane may be one; the rest runs on
    /// one thread, as its cost is counted in cores.
    pub fn threads(&self) -> usize {
        match self {
            Self::Plane { .. } | Self::Serve { .. } | Self::H2 { .. } | Self::Tonic { .. } => {
                std::thread::available_parallelism().map_or(2, usize::from)
            }
            _ => 1,
        }
    }
}

/// What a part says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Where it listens.
    pub address: SocketAddr,
    /// Where Outpost answers operators.
    pub admin: Option<SocketAddr>,
}

impl Hello {
    const NOWHERE: Self = Self { address: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0), admin: None };
}

/// What a part is asked to do; each is answered by a [`Reply`].
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// All: what it used.
    Usage,
    /// Sources: make these changes, each when it is due. Swarms: they will come.
    Plan(Plan),
    /// Sources: when all of them were made.
    Made,
    /// Swarms: new members, evenly over so many µs.
    Add {
        count: u32,
        over: u64,
        counts: bool,
    },
    /// Swarms: when so many members have everything.
    Complete {
        count: u32,
        patience: u64,
    },
    /// Swarms: when everybody has what concerns them, up to this change.
    Delivered {
        seq: u32,
        patience: u64,
    },
    /// Swarms: slow readers read so many bytes a second; none: as the others.
    Slow {
        rate: Option<u64>,
    },
    /// Swarms: how many are where, and what became of changes from this one on.
    Report {
        from: u32,
    },
    /// WAN: it goes, comes back, or stalls for so many µs.
    Cut(Outage),
    Heal,
    Stall {
        span: u64,
    },
    /// TUN: nothing is held up any longer, until no connection is open or a second has passed.
    Empty,
    Traffic,
    /// Outpost: the stages of patches that have ended.
    Stages,
    /// Sources: streams that are open.
    Streams,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reply {
    Done,
    Usage(Usage),
    /// Whether what was waited for came about.
    Came(bool),
    /// How late the source was at most, and for how long it stayed awake to be in time,
    /// in µs.
    Made {
        late: u64,
        awake: u64,
    },
    Report(Box<Report>),
    Traffic(Traffic),
    Stages(Vec<Stage>),
    Streams(u64),
    /// It cannot do that.
    Failed(String),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    pub counts: Counts,
    pub outcome: Outcome,
    /// How long members took until they had everything, as buckets.
    pub joins: Vec<(u32, u64)>,
    /// Why a stream ended last.
    pub trouble: Option<String>,
}

/// What a process has used up to now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// CPU, in user space and kernel (µs).
    pub cpu: u64,
    /// Resident memory in bytes.
    pub memory: u64,
    /// The most that it ever was.
    pub peak: u64,
    /// When this was: µs on the machine's monotonic clock.
    pub at: u64,
}

impl Usage {
    /// Of both together; peaks as if they were at the same time.
    pub fn join(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            memory: self.memory + other.memory,
            peak: self.peak + other.peak,
            at: self.at.max(other.at),
        }
    }

    /// Of this process.
    fn own() -> Self {
        Self {
            cpu: now::cpu_micros(),
            memory: memory("self", "VmRSS:"),
            peak: memory("self", "VmHWM:"),
            at: now::micros(),
        }
    }
}

fn memory(process: &str, key: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// Why a part cannot be.
#[derive(Debug, thiserror::Error)]
pub enum PartError {
    #[error("this is no part of a benchmark: {0}; parts are started by `outpost bench` itself")]
    Spec(#[from] serde_json::Error),
    #[error("cannot begin: {0}")]
    Begin(String),
}

impl From<std::io::Error> for PartError {
    fn from(error: std::io::Error) -> Self {
        Self::Begin(error.to_string())
    }
}

/// The ends of a part's talk with its parent.
struct Talk {
    orders: mpsc::UnboundedReceiver<Order>,
}

impl Talk {
    /// Says hello, and reads orders until there are no more.
    fn begin(hello: &Hello) -> Self {
        let (sender, orders) = mpsc::unbounded_channel();
        say(hello);
        std::thread::spawn(move || {
            for line in std::io::stdin().lock().lines() {
                let Ok(line) = line else { break };
                match serde_json::from_str(&line) {
                    Ok(order) => {
                        if sender.send(order).is_err() {
                            break;
                        }
                    }
                    Err(error) => say(&Reply::Failed(error.to_string())),
                }
            }
            end();
        });
        Self { orders }
    }

    /// The next order that is not answered alike by all.
    async fn next(&mut self) -> Option<Order> {
        loop {
            match self.orders.recv().await? {
                Order::Usage => say(&Reply::Usage(Usage::own())),
                order => return Some(order),
            }
        }
    }
}

/// The parent is gone: whatever is waited for, nobody is there to hear of it.
#[expect(clippy::disallowed_methods, reason = "a part holds nothing that must be put away")]
fn end() -> ! {
    std::process::exit(0)
}

/// One line to the parent. Where that is gone, the input ends too.
fn say(what: &impl Serialize) {
    let Ok(mut line) = serde_json::to_string(what) else { return };
    line.push('\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
}

/// Is such a part until its parent has no more orders.
pub async fn run(spec: Spec, launch: &Launch<'_>) -> Result<(), PartError> {
    match spec {
        Spec::Plane { shape, listen, congestion } => source::plane(shape, listen, congestion).await,
        Spec::Raw { shape } => source::raw(shape).await,
        Spec::H2 { shape } => h2::run(shape).await,
        Spec::Tonic { shape } => tonic::run(shape).await,
        Spec::Wan { target, link, stalls, listen } => wan::run(target, link, stalls, listen).await,
        Spec::Tun { number, link, rough, stalls } => wan::run_tun(number, link, rough, stalls).await,
        Spec::Swarm { terms, target, first } => swarm::run(terms, target, first).await,
        Spec::Serve { flags, stages } => relay::run(flags, stages, launch).await,
    }
}

/// Listens as a server does that many come to at once.
fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// A free port of this machine.
fn anywhere() -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)
}

fn unfit(order: &Order) {
    say(&Reply::Failed(format!("an order for another part: {order:?}")));
}
