//! gRPC messages in and out of bytes: a flag, four bytes of length, the message.
//!
//! Pure. [`Decoder`] is fed what came in and gives whole messages; one that lies
//! within what came in at once is not copied. The limit holds for what a message
//! is after decompression too, so that a small one cannot become a large one. A
//! [`Budget`] bounds what all messages that are half here may hold together.

use crate::breaks;
use bytes::{Buf, Bytes, BytesMut};
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes before every message.
pub const HEAD: usize = 5;

/// How large a message may be, and what to do about one that is larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    pub bytes: usize,
    pub remedy: &'static str,
}

/// How messages whose flag is set are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    Identity,
    Gzip,
}

/// Why bytes are not a message that is accepted.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("a message of {size} bytes is beyond the limit of {} bytes; {}", limit.bytes, limit.remedy)]
    TooLarge { size: usize, limit: Limit },
    #[error("a compressed message of {size} bytes grows beyond the limit of {} bytes; {}", limit.bytes, limit.remedy)]
    Grows { size: usize, limit: Limit },
    #[error("a message is marked as compressed, but no compression was agreed on (grpc-encoding)")]
    NotAgreed,
    #[error("a message starts with {0:#04x}, where gRPC knows 0 and 1: the peer does not speak gRPC")]
    Flag(u8),
    #[error("a compressed message is not gzip: {0}")]
    Gzip(std::io::Error),
    #[error(
        "no memory is left for a message of {size} bytes while so many others are on their way; try again, or raise --max-pending-bytes"
    )]
    Busy { size: usize },
    #[error("the stream ended within a message")]
    Cut,
}

impl FrameError {
    /// Metric label.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } | Self::Grows { .. } => "message_bytes",
            Self::NotAgreed | Self::Flag(_) | Self::Gzip(_) => "framing",
            Self::Busy { .. } => "busy",
            Self::Cut => "cut",
        }
    }

    /// The gRPC code that says it to the peer.
    pub fn code(&self) -> i32 {
        use crate::xds::code;
        match self {
            Self::TooLarge { .. } | Self::Grows { .. } | Self::Busy { .. } => code::RESOURCE_EXHAUSTED,
            Self::NotAgreed | Self::Flag(_) | Self::Gzip(_) | Self::Cut => code::INTERNAL,
        }
    }
}

/// What goes before an uncompressed message of `length` bytes; `None` where
/// gRPC cannot state that length.
pub fn head(length: usize) -> Option<[u8; HEAD]> {
    let [a, b, c, d] = u32::try_from(length).ok()?.to_be_bytes();
    Some([0, a, b, c, d])
}

/// Bytes that all half-received messages of a process may hold together.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub fn new(bytes: usize) -> Arc<Self> {
        Self { left: AtomicUsize::new(bytes) }.into()
    }

    fn take(self: &Arc<Self>, bytes: usize) -> Option<Share> {
        let less = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).ok()?;
        Some(Share { budget: self.clone(), bytes })
    }
}

/// A part of a budget, given back when dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Messages up to this size need no share of a budget.
const SMALL: usize = 64 << 10;

/// Cuts what comes in into messages.
#[derive(Debug)]
pub struct Decoder {
    limit: Limit,
    encoding: Encoding,
    budget: Option<Arc<Budget>>,
    rest: Bytes,
    state: State,
}

#[derive(Debug)]
enum State {
    Head { bytes: [u8; HEAD], filled: usize },
    Body { compressed: bool, length: usize, so_far: BytesMut, _share: Option<Share> },
}

impl State {
    const START: Self = Self::Head { bytes: [0; HEAD], filled: 0 };
}

impl Decoder {
    pub fn new(limit: Limit, encoding: Encoding) -> Self {
        Self { limit, encoding, budget: None, rest: Bytes::new(), state: State::START }
    }

    /// Large messages take their size from `budget` while they are half here.
    #[must_use]
    pub fn within(mut self, budget: &Arc<Budget>) -> Self {
        self.budget = Some(budget.clone());
        self
    }

    pub fn set_encoding(&mut self, encoding: Encoding) {
        self.encoding = encoding;
    }

    /// Takes the next bytes. The ones before must have been drained:
    /// [`next_message`](Self::next_message) said `None`.
    pub fn push(&mut self, chunk: Bytes) {
        debug_assert!(self.rest.is_empty(), "next_message() until None comes before push()");
        self.rest = chunk;
    }

    /// Nothing of a message has come yet: a stream may end here.
    pub fn between_messages(&self) -> bool {
        self.rest.is_empty() && matches!(self.state, State::Head { filled: 0, .. })
    }

    /// The next whole message, or `None` until more bytes came.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, FrameError> {
        if let State::Head { bytes, filled } = &mut self.state {
            let taken = self.rest.len().min(HEAD - *filled);
            self.rest.copy_to_slice(&mut bytes[*filled..*filled + taken]);
            *filled += taken;
            if *filled < HEAD {
                return Ok(None);
            }
            let [flag, a, b, c, d] = *bytes;
            let length = u32::from_be_bytes([a, b, c, d]) as usize;
            return self.begin(flag, length);
        }
        self.go_on()
    }

    fn begin(&mut self, flag: u8, length: usize) -> Result<Option<Bytes>, FrameError> {
        let compressed = match flag {
            0 => false,
            1 if self.encoding == Encoding::Gzip => true,
            1 => return Err(FrameError::NotAgreed),
            other => return Err(FrameError::Flag(other)),
        };
        if length > self.limit.bytes || length > 4 << 20 && breaks::on("C-170") {
            return Err(FrameError::TooLarge { size: length, limit: self.limit });
        }
        if self.rest.len() >= length {
            self.state = State::START;
            let message = self.rest.split_to(length);
            return self.finish(compressed, message).map(Some);
        }
        // The length is a claim: memory follows the bytes, not the claim.
        let share = match &self.budget {
            Some(budget) if length > SMALL => Some(budget.take(length).ok_or(FrameError::Busy { size: length })?),
            _ => None,
        };
        let so_far = BytesMut::with_capacity(length.min(1 << 20));
        self.state = State::Body { compressed, length, so_far, _share: share };
        self.go_on()
    }

    fn go_on(&mut self) -> Result<Option<Bytes>, FrameError> {
        let State::Body { compressed, length, so_far, .. } = &mut self.state else { return Ok(None) };
        let taken = self.rest.len().min(*length - so_far.len());
        so_far.extend_from_slice(&self.rest.split_to(taken));
        if so_far.len() < *length {
            return Ok(None);
        }
        let (compressed, message) = (*compressed, std::mem::take(so_far).freeze());
        self.state = State::START;
        self.finish(compressed, message).map(Some)
    }

    fn finish(&self, compressed: bool, message: Bytes) -> Result<Bytes, FrameError> {
        if compressed { inflate(&message, self.limit) } else { Ok(message) }
    }
}

fn inflate(message: &[u8], limit: Limit) -> Result<Bytes, FrameError> {
    let mut out = Vec::new();
    let most = (limit.bytes as u64).saturating_add(1);
    flate2::read::GzDecoder::new(message).take(most).read_to_end(&mut out).map_err(FrameError::Gzip)?;
    if out.len() > limit.bytes {
        return Err(FrameError::Grows { size: message.len(), limit });
    }
    Ok(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const LIMIT: Limit = Limit { bytes: 1000, remedy: "raise --max-message-bytes" };

    fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut out = vec![flag];
        out.extend_from_slice(&(message.len() as u32).to_be_bytes());
        out.extend_from_slice(message);
        out
    }

    fn gzip(message: &[u8]) -> Vec<u8> {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        out.write_all(message).unwrap();
        out.finish().unwrap()
    }

    fn decode(encoding: Encoding, chunks: impl IntoIterator<Item = Bytes>) -> Result<Vec<Bytes>, FrameError> {
        let mut decoder = Decoder::new(LIMIT, encoding);
        let mut out = Vec::new();
        for chunk in chunks {
            decoder.push(chunk);
            while let Some(message) = decoder.next_message()? {
                out.push(message);
            }
        }
        if decoder.between_messages() { Ok(out) } else { Err(FrameError::Cut) }
    }

    proptest! {
        #[test]
        fn any_cut_gives_the_same_messages(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
            cut in 1usize..64,
        ) {
            let bytes: Vec<u8> = messages.iter().flat_map(|message| framed(0, message)).collect();
            let chunks = bytes.chunks(cut).map(Bytes::copy_from_slice);
            let out = decode(Encoding::Identity, chunks).unwrap();
            prop_assert_eq!(out.len(), messages.len());
            for (got, want) in out.iter().zip(&messages) {
                prop_assert_eq!(&got[..], &want[..]);
            }
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..32) {
            let _ = decode(Encoding::Gzip, bytes.chunks(cut).map(Bytes::copy_from_slice));
        }
    }

    #[test]
    fn a_message_within_one_chunk_is_not_copied() {
        let chunk = Bytes::from(framed(0, b"abcdef"));
        let out = decode(Encoding::Identity, [chunk.clone()]).unwrap();
        assert_eq!(out[0].as_ptr(), chunk[HEAD..].as_ptr());
    }

    #[test]
    fn refusals_say_what_and_what_to_do() {
        let table = [
            (framed(0, &[0; 1001]), "1001 bytes is beyond the limit of 1000 bytes; raise --max-message-bytes"),
            (framed(1, &gzip(&[0; 100_000])), "grows beyond the limit of 1000 bytes; raise --max-message-bytes"),
            (framed(1, b"no gzip"), "not gzip"),
            (framed(7, b""), "does not speak gRPC"),
            (b"HTTP/1.1 400".to_vec(), "does not speak gRPC"),
            (framed(0, b"abc")[..6].to_vec(), "ended within a message"),
        ];
        for (bytes, want) in table {
            let error = decode(Encoding::Gzip, [Bytes::from(bytes)]).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        let error = decode(Encoding::Identity, [framed(1, &gzip(b"a")).into()]).unwrap_err();
        assert!(matches!(error, FrameError::NotAgreed));
    }

    #[test]
    fn half_messages_share_a_budget() {
        let budget = Budget::new(100_000);
        let limit = Limit { bytes: 1 << 20, ..LIMIT };
        let half = |length: usize| {
            let mut decoder = Decoder::new(limit, Encoding::Identity).within(&budget);
            decoder.push(framed(0, &vec![0; length])[..100].to_vec().into());
            decoder.next_message().map(|_| decoder)
        };
        let first = half(70_000).unwrap();
        assert!(half(60_000).is_ok(), "a small one needs none");
        assert!(matches!(half(70_000), Err(FrameError::Busy { size: 70_000 })));
        drop(first);
        assert!(half(70_000).is_ok());
    }

    #[test]
    fn gzip_is_read() {
        let out = decode(Encoding::Gzip, [framed(1, &gzip(b"hello")).into()]).unwrap();
        assert_eq!(&out[0][..], b"hello");
    }
}
