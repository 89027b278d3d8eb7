//! Why a client's certificate is refused in the TLS handshake.
//!
//! The reasons are a closed set, and none repeats what the peer says: nothing of it
//! is proven.

use rustls::CertificateError as Bad;
use std::time::Duration;

/// What is wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoProof {
    #[error("the client's certificate, or one of its chain, has ended{}; have it issued anew", ago(.0))]
    Expired(Option<Duration>),
    #[error("the client's certificate, or one of its chain, is not valid yet{}; compare the clocks", ahead(.0))]
    NotYet(Option<Duration>),
    /// Of one with the name of a known authority and another key, too.
    #[error(
        "the client's certificate is of no authority in --client-ca, or of an older key of it, or lacks an intermediate one"
    )]
    UnknownIssuer,
    #[error("the client shows no certificate, and one is required")]
    None,
    #[error("the client's certificate cannot be verified: it is malformed, or for another purpose")]
    Other,
}

/// Where the clock may be to blame.
const SOON: u64 = 3600;

fn ago(since: &Option<Duration>) -> String {
    let of = |seconds: u64| {
        let hint = if seconds <= SOON { ", by our clock: compare the clocks" } else { "" };
        format!(" {seconds} s ago{hint}")
    };
    since.map(|since| of(since.as_secs())).unwrap_or_default()
}

fn ahead(until: &Option<Duration>) -> String {
    until.map(|until| format!(" for {} s, by our clock", until.as_secs())).unwrap_or_default()
}

impl NoProof {
    /// `None` where the handshake failed for another reason.
    pub(super) fn of(error: &std::io::Error) -> Option<Self> {
        match error.get_ref()?.downcast_ref::<rustls::Error>()? {
            rustls::Error::NoCertificatesPresented => Some(Self::None),
            rustls::Error::InvalidCertificate(bad) => Some(Self::from(bad)),
            _ => None,
        }
    }

    /// Metric label: a closed set.
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Expired(_) => "expired",
            Self::NotYet(_) => "not_yet",
            Self::UnknownIssuer => "unknown_issuer",
            Self::None => "none",
            Self::Other => "other",
        }
    }
}

impl From<&Bad> for NoProof {
    fn from(bad: &Bad) -> Self {
        let between = |from: u64, to: u64| Some(Duration::from_secs(to.saturating_sub(from)));
        match bad {
            Bad::Expired => Self::Expired(None),
            Bad::ExpiredContext { time, not_after } => Self::Expired(between(not_after.as_secs(), time.as_secs())),
            Bad::NotValidYet => Self::NotYet(None),
            Bad::NotValidYetContext { time, not_before } => Self::NotYet(between(time.as_secs(), not_before.as_secs())),
            Bad::UnknownIssuer | Bad::BadSignature => Self::UnknownIssuer,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::UnixTime;
    use rustls::{Error, PeerMisbehaved};

    #[test]
    fn what_is_told_of_a_refused_certificate() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let bad = Error::InvalidCertificate;
        let expired = |ago: u64| bad(Bad::ExpiredContext { time: at(10_000_000 + ago), not_after: at(10_000_000) });
        let early = bad(Bad::NotValidYetContext { time: at(1000), not_before: at(1600) });
        let table = [
            (expired(60), "expired", "has ended 60 s ago, by our clock: compare the clocks; have it issued anew"),
            (expired(86_400), "expired", "has ended 86400 s ago; have"),
            (bad(Bad::Expired), "expired", "has ended; have"),
            (early, "not_yet", "is not valid yet for 600 s, by our clock; compare the clocks"),
            (bad(Bad::NotValidYet), "not_yet", "is not valid yet; compare"),
            (bad(Bad::UnknownIssuer), "unknown_issuer", "is of no authority in --client-ca"),
            (bad(Bad::BadSignature), "unknown_issuer", "or of an older key of it"),
            (bad(Bad::BadEncoding), "other", "cannot be verified"),
            (Error::NoCertificatesPresented, "none", "shows no certificate"),
        ];
        for (error, reason, said) in table {
            let found = NoProof::of(&std::io::Error::other(error)).unwrap();
            assert_eq!(found.reason(), reason);
            assert!(found.to_string().contains(said), "{found}");
        }
        for other in
            [Error::DecryptError, Error::PeerMisbehaved(PeerMisbehaved::MessageInterleavedWithHandshakeMessage)]
        {
            assert_eq!(NoProof::of(&std::io::Error::other(other)), None);
        }
        assert_eq!(NoProof::of(&std::io::ErrorKind::UnexpectedEof.into()), None);
    }
}
