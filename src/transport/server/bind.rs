//! Sockets that listen.

use crate::transport::io::Socket;
use futures_util::FutureExt;
use socket2::{Domain, Protocol, SockRef, Type};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};

const BACKLOG: i32 = 4096;
/// Sent and unacknowledged bytes end a connection after this.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("{0} is in use by another process; end that process or listen elsewhere")]
    InUse(Listen),
    #[error("may not listen on {0}: permission denied; choose a port above 1023 or a directory that is writable")]
    Denied(Listen),
    #[error("{0} is no address of this machine")]
    NotHere(Listen),
    #[error(
        "cannot listen on {0}: what is there is no socket, and was left as it is; move it away or name another path"
    )]
    NoSocket(Listen),
    #[error("cannot listen on {listen}: {source}")]
    Other { listen: Listen, source: io::Error },
}

impl BindError {
    fn new(listen: &Listen, source: io::Error) -> Self {
        let listen = listen.clone();
        match source.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(listen),
            io::ErrorKind::PermissionDenied => Self::Denied(listen),
            io::ErrorKind::AddrNotAvailable => Self::NotHere(listen),
            io::ErrorKind::AlreadyExists => Self::NoSocket(listen),
            _ => Self::Other { listen, source },
        }
    }
}

/// Sockets that are bound and do not accept yet.
#[derive(Debug)]
pub struct Bound {
    pub(super) listeners: Vec<Listener>,
}

impl Bound {
    /// Takes every address or none. Needs a runtime.
    pub fn bind(addresses: &[Listen]) -> Result<Self, BindError> {
        let bind = |listen: &Listen| Listener::bind(listen).map_err(|error| BindError::new(listen, error));
        Ok(Self { listeners: addresses.iter().map(bind).collect::<Result<_, _>>()? })
    }

    /// The addresses, with the ports that the system chose for port 0.
    pub fn addresses(&self) -> Vec<Listen> {
        self.listeners.iter().map(|listener| listener.address.clone()).collect()
    }
}

#[derive(Debug)]
pub(super) struct Listener {
    socket: ListenerSocket,
    address: Listen,
}

#[derive(Debug)]
enum ListenerSocket {
    Tcp(TcpListener),
    /// The file goes first: one that another process makes there later is not ours.
    Unix(#[expect(dead_code, reason = "removes the file when dropped")] SocketFile, UnixListener),
}

/// A connection as it came in.
pub(super) struct Incoming {
    pub(super) socket: Box<dyn Socket>,
    pub(super) peer: Arc<str>,
}

impl Listener {
    fn bind(listen: &Listen) -> io::Result<Self> {
        match listen {
            Listen::Tcp(address) => {
                let socket = tcp(*address)?;
                let address = Listen::Tcp(socket.local_addr()?);
                Ok(Self { socket: ListenerSocket::Tcp(socket), address })
            }
            Listen::Unix(path) => {
                let socket = unix(path)?;
                let file = SocketFile(path.clone());
                Ok(Self { socket: ListenerSocket::Unix(file, socket), address: listen.clone() })
            }
        }
    }

    pub(super) async fn accept(&self) -> io::Result<Incoming> {
        match &self.socket {
            ListenerSocket::Tcp(listener) => {
                let (socket, peer) = listener.accept().await?;
                socket.set_nodelay(true)?;
                // Where the kernel does not know it, pings do the same later.
                let _ = SockRef::from(&socket).set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
                Ok(Incoming { socket: Box::new(socket), peer: peer.to_string().into() })
            }
            ListenerSocket::Unix(_, listener) => {
                let (socket, _) = listener.accept().await?;
                Ok(Incoming { socket: Box::new(socket), peer: self.address.to_string().into() })
            }
        }
    }

    /// Accepts a connection that waits, if one does, and closes it.
    pub(super) fn turn_one_away(&self) {
        let _closed = self.accept().now_or_never();
    }
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

fn tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // [::] means every address, as operators expect.
        socket.set_only_v6(false)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// A socket that a process left behind is replaced; one that answers is not, and
/// neither is anything else: connecting to a plain file is refused as well.
fn unix(path: &Path) -> io::Result<UnixListener> {
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => return Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            if !is_socket(path) {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            std::fs::remove_file(path)?;
        }
        Err(_) => {}
    }
    UnixListener::bind(path)
}

/// Of the file itself: a link is none.
fn is_socket(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.file_type().is_socket())
}

/// The file of a Unix socket, removed with it.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if is_socket(&self.0) {
            let _ = std::fs::remove_file(&self.0);
        }
    }
}
