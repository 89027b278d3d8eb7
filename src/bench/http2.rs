//! One gRPC call on one HTTP/2 connection, from the client's side, as a value:
//! as much of the protocol as a receiver of a benchmark needs, and so cheap that
//! ten thousand fit on one core.
//!
//! Bytes that came in go through [`next`](Call::next); what is to be written
//! stands in [`out`](Call::out) afterwards. Headers are not decoded: whether the
//! answer is OK is told by the byte that every server writes for it.

use std::borrow::Cow;

/// What the peer may send before it must wait: as Envoy allows.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 24 << 20;
/// Of a connection, and of streams before SETTINGS say otherwise.
const INITIAL: i64 = 65_535;
/// No frame is longer unless the receiver allows it, and we do not.
const FRAME: usize = 16_384;
const FRAME_HEAD: usize = 9;
/// The largest message taken.
const MESSAGE: usize = 256 << 20;
const MESSAGE_HEAD: usize = 5;
/// The only stream.
const STREAM: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

const INITIAL_WINDOW_SIZE: u16 = 4;
/// `:status: 200` of HPACK's static table.
const STATUS_OK: u8 = 0x88;

/// Why a call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    #[error("the server ended the stream")]
    Ended,
    #[error("the server did not answer with HTTP status 200")]
    Refused,
    #[error("the server reset the stream with HTTP/2 error {0}")]
    Reset(u32),
    #[error("the server sent GOAWAY")]
    GoAway,
    #[error("not HTTP/2 as it is understood here: {0}")]
    Malformed(&'static str),
}

#[derive(Debug)]
pub struct Call {
    /// Bytes to write.
    pub out: Vec<u8>,
    /// Messages that wait for the peer's window.
    unsent: Vec<u8>,
    connection_window: i64,
    stream_window: i64,
    /// What new streams may send, by the peer's last SETTINGS.
    initial: i64,
    /// Received and not yet given back.
    taken: u32,
    frame: Frame,
    answered: bool,
    message: Vec<u8>,
}

/// What of a frame is here.
#[derive(Debug, Default)]
struct Frame {
    head: [u8; FRAME_HEAD],
    filled: usize,
    /// Of its payload.
    left: usize,
    /// The payload of a frame that is read as a whole.
    control: Vec<u8>,
}

impl Call {
    /// A call of `path`: its opening stands in [`out`](Self::out).
    pub fn open(path: &str, authority: &str, tls: bool) -> Self {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        settings.extend(STREAM_WINDOW.to_be_bytes());
        frame(&mut out, SETTINGS, 0, 0, &settings);
        frame(&mut out, WINDOW_UPDATE, 0, 0, &(CONNECTION_WINDOW - INITIAL as u32).to_be_bytes());
        // Literals without indexing; indexed are POST, the scheme, and names.
        let mut headers = vec![0x83, if tls { 0x87 } else { 0x86 }];
        let mut put = |name: &[u8], value: &str| {
            headers.extend(name);
            // Longer ones than 126 bytes are not used.
            headers.push(value.len() as u8 & 0x7f);
            headers.extend(value.as_bytes());
        };
        put(&[0x04], path);
        put(&[0x01], authority);
        put(&[0x0f, 0x10], "application/grpc");
        put(b"\x00\x02te", "trailers");
        put(&[0x0f, 0x2b], "outpost-bench");
        frame(&mut out, HEADERS, END_HEADERS, STREAM, &headers);
        Self {
            out,
            unsent: Vec::new(),
            connection_window: INITIAL,
            stream_window: INITIAL,
            initial: INITIAL,
            taken: 0,
            frame: Frame::default(),
            answered: false,
            message: Vec::new(),
        }
    }

    /// Queues a message.
    pub fn send(&mut self, message: &[u8]) {
        self.unsent.push(0);
        self.unsent.extend((message.len() as u32).to_be_bytes());
        self.unsent.extend(message);
        self.flush();
    }

    /// Moves what the peer's windows allow to [`out`](Self::out).
    fn flush(&mut self) {
        let mut sent = 0;
        loop {
            let room = self.connection_window.min(self.stream_window).max(0) as usize;
            let rest = self.unsent.get(sent..).unwrap_or_default();
            let length = rest.len().min(room).min(FRAME);
            let Some(part) = rest.get(..length).filter(|part| !part.is_empty()) else { break };
            frame(&mut self.out, DATA, 0, STREAM, part);
            sent += length;
            self.connection_window -= length as i64;
            self.stream_window -= length as i64;
        }
        self.unsent.drain(..sent);
        if self.unsent.is_empty() {
            self.unsent = Vec::new();
        }
    }

    /// The next message in `input`, from which it takes what it has read; `None`
    /// when all of it was.
    pub fn next<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, CallError> {
        loop {
            if self.frame.left == 0 && !self.begin_frame(input)? {
                return Ok(None);
            }
            if self.frame.head[3] != DATA {
                let part = take(input, self.frame.left);
                self.frame.left -= part.len();
                self.frame.control.extend(part);
                if self.frame.left > 0 {
                    return Ok(None);
                }
                self.control()?;
                continue;
            }
            // A frame may hold the end of one message and the beginning of others.
            while self.frame.left > 0 && !input.is_empty() {
                if let Some(message) = self.message(input)? {
                    return Ok(Some(message));
                }
            }
            self.check_end()?;
            if self.frame.left > 0 {
                return Ok(None);
            }
        }
    }

    /// The next message where there are messages only, and no HTTP/2 around them.
    pub fn bare<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, CallError> {
        self.frame.left = input.len();
        while !input.is_empty() {
            if let Some(message) = self.message(input)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Reads a frame's head. `false`: it is not here yet.
    fn begin_frame(&mut self, input: &mut &[u8]) -> Result<bool, CallError> {
        let frame = &mut self.frame;
        let part = take(input, FRAME_HEAD - frame.filled);
        frame.head[frame.filled..frame.filled + part.len()].copy_from_slice(part);
        frame.filled += part.len();
        if frame.filled < FRAME_HEAD {
            return Ok(false);
        }
        frame.filled = 0;
        let [a, b, c, kind, flags, ..] = frame.head;
        frame.left = u32::from_be_bytes([0, a, b, c]) as usize;
        if frame.left > FRAME {
            return Err(CallError::Malformed("a frame longer than 16 KiB; is this port TLS?"));
        }
        if kind == DATA {
            if flags & PADDED != 0 {
                return Err(CallError::Malformed("padding"));
            }
            self.give_back(self.frame.left as u32);
        }
        Ok(true)
    }

    /// Lets the peer send more once half of what it may was received.
    fn give_back(&mut self, received: u32) {
        self.taken += received;
        if self.taken > STREAM_WINDOW / 2 {
            let more = std::mem::take(&mut self.taken).to_be_bytes();
            frame(&mut self.out, WINDOW_UPDATE, 0, 0, &more);
            frame(&mut self.out, WINDOW_UPDATE, 0, STREAM, &more);
        }
    }

    /// Takes bytes of a DATA frame. A message that is whole in `input` is not copied.
    fn message<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Cow<'a, [u8]>>, CallError> {
        let here = self.frame.left.min(input.len());
        if self.message.is_empty()
            && let Some(length) = input.get(..here).and_then(message_len)
            && let Some(whole) = input.get(..here.min(length)).filter(|whole| whole.len() == length)
        {
            *input = input.get(length..).unwrap_or_default();
            self.frame.left -= length;
            return Ok(whole.get(MESSAGE_HEAD..).map(Cow::Borrowed));
        }
        let wanted = match message_len(&self.message) {
            Some(length) if length > MESSAGE => return Err(CallError::Malformed("a message longer than 256 MiB")),
            Some(length) => length - self.message.len(),
            None => MESSAGE_HEAD - self.message.len(),
        };
        let part = take(input, wanted.min(here));
        self.frame.left -= part.len();
        self.message.extend(part);
        if message_len(&self.message) != Some(self.message.len()) {
            return Ok(None);
        }
        let mut whole = std::mem::take(&mut self.message);
        whole.drain(..MESSAGE_HEAD);
        Ok(Some(Cow::Owned(whole)))
    }

    /// A frame that is not DATA is here as a whole.
    fn control(&mut self) -> Result<(), CallError> {
        let payload = std::mem::take(&mut self.frame.control);
        let [_, _, _, kind, flags, stream @ ..] = self.frame.head;
        let number =
            |at: usize| payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_be_bytes);
        match kind {
            HEADERS if !std::mem::replace(&mut self.answered, true) && payload.first() != Some(&STATUS_OK) => {
                return Err(CallError::Refused);
            }
            HEADERS => self.check_end()?,
            RST_STREAM => return Err(CallError::Reset(number(0))),
            GOAWAY => return Err(CallError::GoAway),
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.as_chunks::<6>().0 {
                    let [a, b, value @ ..] = *setting;
                    if u16::from_be_bytes([a, b]) == INITIAL_WINDOW_SIZE {
                        let initial = i64::from(u32::from_be_bytes(value));
                        self.stream_window += initial - self.initial;
                        self.initial = initial;
                    }
                }
                frame(&mut self.out, SETTINGS, ACK, 0, &[]);
                self.flush();
            }
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, &payload),
            WINDOW_UPDATE => {
                let whole = u32::from_be_bytes(stream) & (u32::MAX >> 1) == 0;
                *(if whole { &mut self.connection_window } else { &mut self.stream_window }) += i64::from(number(0));
                self.flush();
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the frame, of which nothing is left, is the stream's last.
    fn check_end(&self) -> Result<(), CallError> {
        let last = self.frame.left == 0 && self.frame.head[4] & END_STREAM != 0;
        if last { Err(CallError::Ended) } else { Ok(()) }
    }
}

/// The length of a message that begins here, head included.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let (&[_, a, b, c, d], _) = bytes.split_first_chunk::<MESSAGE_HEAD>()?;
    Some(MESSAGE_HEAD + u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Takes up to `most` bytes away from the front.
fn take<'a>(input: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = input.split_at(most.min(input.len()));
    *input = rest;
    part
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    out.extend([a, b, c, kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call() -> Call {
        let mut call = Call::open("/a/b", "host", false);
        call.out.clear();
        call
    }

    /// What a server writes: answers OK, then the messages cut into frames.
    fn served(messages: &[Vec<u8>], cut: usize) -> Vec<u8> {
        let (mut bytes, mut out) = (Vec::new(), Vec::new());
        for message in messages {
            bytes.push(0);
            bytes.extend((message.len() as u32).to_be_bytes());
            bytes.extend(message);
        }
        frame(&mut out, SETTINGS, 0, 0, &[]);
        frame(&mut out, HEADERS, END_HEADERS, STREAM, &[STATUS_OK]);
        for part in bytes.chunks(cut) {
            frame(&mut out, DATA, 0, STREAM, part);
            frame(&mut out, PING, 0, 0, b"12345678");
        }
        out
    }

    fn read(call: &mut Call, mut input: &[u8]) -> Result<Vec<Vec<u8>>, CallError> {
        let mut found = Vec::new();
        while let Some(message) = call.next(&mut input)? {
            found.push(message.into_owned());
        }
        assert!(input.is_empty());
        Ok(found)
    }

    proptest! {
        #[test]
        fn messages_survive_any_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            frames in 1usize..200,
            reads in 1usize..100,
        ) {
            let (mut call, mut found) = (call(), Vec::new());
            for part in served(&messages, frames).chunks(reads) {
                found.extend(read(&mut call, part).unwrap());
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut call = call();
            let mut input = &bytes[..];
            while let Ok(Some(_)) = call.next(&mut input) {}
        }
    }

    #[test]
    fn a_message_in_one_piece_is_not_copied() {
        let bytes = served(&[b"abc".to_vec()], 1000);
        let (mut call, mut input) = (call(), &bytes[..]);
        assert!(matches!(call.next(&mut input), Ok(Some(Cow::Borrowed(b"abc")))));
    }

    #[test]
    fn requests_wait_for_the_peers_window() {
        let mut call = call();
        call.send(&[7; 100_000]);
        let before = call.out.len();
        assert!(before > 65_535 && before < 66_000);
        let mut more = Vec::new();
        frame(&mut more, WINDOW_UPDATE, 0, 0, &100_000u32.to_be_bytes());
        let mut settings = INITIAL_WINDOW_SIZE.to_be_bytes().to_vec();
        settings.extend(200_000u32.to_be_bytes());
        frame(&mut more, SETTINGS, 0, 0, &settings);
        read(&mut call, &more).unwrap();
        assert!(call.out.len() > 100_000 && call.unsent.is_empty());
    }

    #[test]
    fn what_was_received_is_given_back() {
        let mut call = call();
        let whole = served(&vec![vec![0; 100_000]; 100], FRAME);
        assert_eq!(read(&mut call, &whole).unwrap().len(), 100);
        let (mut updates, mut rest) = (0, &call.out[..]);
        while let Some((head, payload)) = rest.split_first_chunk::<FRAME_HEAD>() {
            updates += usize::from(head[3] == WINDOW_UPDATE);
            rest = &payload[u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize..];
        }
        assert_eq!(updates, 2, "of the connection and of the stream");
        assert!(call.taken < STREAM_WINDOW / 2);
    }

    #[test]
    fn ends_are_told_apart() {
        let ended = |kind, flags, payload: &[u8]| {
            let mut bytes = Vec::new();
            frame(&mut bytes, HEADERS, END_HEADERS, STREAM, &[STATUS_OK]);
            frame(&mut bytes, kind, flags, STREAM, payload);
            read(&mut call(), &bytes).unwrap_err()
        };
        assert_eq!(ended(HEADERS, END_STREAM | END_HEADERS, b"x"), CallError::Ended);
        assert_eq!(ended(DATA, END_STREAM, b""), CallError::Ended);
        assert_eq!(ended(RST_STREAM, 0, &[0, 0, 0, 8]), CallError::Reset(8));
        assert_eq!(ended(GOAWAY, 0, &[0; 8]), CallError::GoAway);
        let mut refused = Vec::new();
        frame(&mut refused, HEADERS, END_HEADERS, STREAM, &[0x8d]);
        assert_eq!(read(&mut call(), &refused).unwrap_err(), CallError::Refused);
    }
}
