//! Whose turn it is to speak, for one type on one stream.
//!
//! ```text
//!          push(nonce)                 answered(nonce)
//!   free ──────────────▶ open ───────────────────────────▶ free
//!                          │  5 s after its last byte: expired, as good as free
//! ```
//!
//! In SotW every response is a push. In delta an answer to a subscription
//! stands beside an open turn, so its nonce is kept apart.

use crate::breaks;
use crate::xds::Moment;
use std::collections::VecDeque;
use std::time::Duration;

/// Unanswered answers that are remembered, so that their NACK finds its type.
const ANSWERS_KEPT: usize = 64;

#[derive(Clone, Debug, Default)]
pub(super) struct Turns {
    open: Option<Open>,
    answers: VecDeque<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    /// A response that was split has several nonces; the last one closes.
    first: u64,
    last: u64,
    opened: Moment,
    written: Option<Moment>,
    /// When the newest content in it came from upstream.
    received: Moment,
}

/// What a nonce answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answers {
    /// The open turn, which is closed by it.
    Turn { received: Moment },
    /// A response beside the turn, or a part of a split one.
    Beside,
    /// Nothing that waits for an answer: stale, or never issued (C-015, C-047).
    Nothing,
}

impl Turns {
    pub(super) fn push(&mut self, first: u64, last: u64, now: Moment, received: Moment) {
        self.open = Some(Open { first, last, opened: now, written: None, received });
    }

    pub(super) fn answer(&mut self, nonce: u64) {
        if self.answers.len() == ANSWERS_KEPT {
            self.answers.pop_front();
        }
        self.answers.push_back(nonce);
    }

    /// The last byte of the response was handed to the transport.
    pub(super) fn written(&mut self, nonce: u64, now: Moment) {
        if let Some(open) = &mut self.open
            && open.last == nonce
        {
            open.written.get_or_insert(now);
        }
    }

    pub(super) fn answered(&mut self, nonce: &str) -> Answers {
        let Some(nonce) = parse(nonce) else { return Answers::Nothing };
        if let Some(open) = self.open
            && (open.first..=open.last).contains(&nonce)
        {
            if nonce < open.last {
                return Answers::Beside;
            }
            self.open = None;
            return Answers::Turn { received: open.received };
        }
        match self.answers.iter().position(|waiting| *waiting == nonce) {
            Some(at) => {
                self.answers.drain(..=at);
                Answers::Beside
            }
            None => Answers::Nothing,
        }
    }

    /// A turn is open and has not expired.
    pub(super) fn is_open(&self, now: Moment, turn: Duration) -> bool {
        self.open.is_some_and(|open| open.written.is_none_or(|written| now < written + turn || breaks::on("C-049")))
    }

    /// When the open turn expires; `None` where none is open or its bytes are
    /// still on their way out.
    pub(super) fn expires(&self, turn: Duration) -> Option<Moment> {
        self.open?.written.filter(|_| !breaks::on("C-049")).map(|written| written + turn)
    }

    /// When the turn opened that no answer has closed, expired or not.
    pub(super) fn unanswered_since(&self) -> Option<Moment> {
        self.open.map(|open| open.opened)
    }
}

/// A nonce of ours: a number in decimal, as we write it.
fn parse(nonce: &str) -> Option<u64> {
    let number: u64 = nonce.parse().ok()?;
    (number.to_string() == nonce).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: Duration = Duration::from_secs(5);

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    #[test]
    fn the_last_nonce_of_a_split_response_closes() {
        let mut turns = Turns::default();
        turns.push(3, 5, at(0), at(0));
        assert_eq!(turns.answered("4"), Answers::Beside);
        assert!(turns.is_open(at(60), TURN), "its bytes are still on their way");
        assert_eq!(turns.answered("5"), Answers::Turn { received: at(0) });
        assert!(!turns.is_open(at(60), TURN));
        assert_eq!(turns.answered("5"), Answers::Nothing);
    }

    #[test]
    fn a_turn_expires_after_its_last_byte() {
        let mut turns = Turns::default();
        turns.push(1, 1, at(0), at(0));
        turns.written(1, at(2));
        assert!(turns.is_open(at(6), TURN));
        assert!(!turns.is_open(at(7), TURN));
        assert_eq!(turns.expires(TURN), Some(at(7)));
        assert_eq!(turns.answered("1"), Answers::Turn { received: at(0) }, "late, but an answer");
    }

    #[test]
    fn foreign_nonces_answer_nothing() {
        let mut turns = Turns::default();
        turns.push(12, 12, at(0), at(0));
        turns.answer(13);
        for nonce in ["", "bogus", "012", "+12", "11", "14"] {
            assert_eq!(turns.answered(nonce), Answers::Nothing, "{nonce}");
        }
        assert_eq!(turns.answered("13"), Answers::Beside);
        assert_eq!(turns.answered("12"), Answers::Turn { received: at(0) });
    }
}
