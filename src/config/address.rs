//! Addresses, as operators write them.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where sidecars connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Listen {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.is_empty() { Err("has no path after unix:".into()) } else { Ok(Self::Unix(path.into())) };
        }
        text.parse().map(Self::Tcp).map_err(|_| "is no IP:PORT and no unix:PATH".into())
    }

    /// Only processes of this machine can connect.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromStr for Endpoint {
    type Err = String;

    /// Of the first priority.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, 0)
    }
}

/// One address of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// An IP address, without brackets, or a DNS name.
    pub host: String,
    pub port: u16,
    /// 0 is tried first; the next is tried where none of it answers.
    pub priority: usize,
}

impl Endpoint {
    pub(super) fn parse(text: &str, priority: usize) -> Result<Self, String> {
        if text.contains("://") {
            return Err("has a scheme; write HOST:PORT, and say --upstream-tls for TLS".into());
        }
        let (host, port) = text.rsplit_once(':').ok_or("has no port; write HOST:PORT")?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or("has no port between 1 and 65535")?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let host = bracketed.unwrap_or(host);
        let fits = match host.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => bracketed.is_none(),
            Ok(IpAddr::V6(_)) => bracketed.is_some(),
            Err(_) => !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
        };
        if !fits {
            return Err("has no host; write an IPv4 address, an IPv6 address in [], or a DNS name".into());
        }
        Ok(Self { host: host.into(), port, priority })
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}
