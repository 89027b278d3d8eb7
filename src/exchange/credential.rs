//! The tokens that a group's members presented, where its upstream stream is to
//! be opened by one of them. Pure.
//!
//! The one that lasts longest is used. One that the upstream refused, or that has
//! ended, is no good any more: without a good one the group is `stale`. It serves
//! what it holds, and one member at a time is asked to come back, with a newer one.

use super::core::MemberId;
use crate::xds::{Moment, Token};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one who was asked may take to come back before the next is asked.
const PATIENCE: Duration = Duration::from_secs(30);

/// A token that a member presented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    pub token: Token,
    pub expires: Moment,
}

/// Those of one group.
#[derive(Debug, Default)]
pub(super) struct Credentials {
    of: BTreeMap<MemberId, Credential>,
    /// Of members that have left, the one that lasts longest.
    left: Option<Credential>,
    /// Of those above, what the upstream did not take.
    refused: Vec<Token>,
    stale: bool,
    asked: Option<(MemberId, Moment)>,
}

impl Credentials {
    /// Is there a token now that was not there?
    pub(super) fn join(&mut self, member: MemberId, credential: Option<Credential>) -> bool {
        let Some(credential) = credential else { return false };
        let new = self.all().all(|known| known.token != credential.token);
        self.of.insert(member, credential);
        new
    }

    pub(super) fn leave(&mut self, member: MemberId) {
        let left = self.of.remove(&member).into_iter().chain(self.left.take());
        self.left = left.max_by_key(|credential| credential.expires);
    }

    /// The best one that is good.
    pub(super) fn best(&self, now: Moment) -> Option<Token> {
        let good = |credential: &&Credential| now < credential.expires && !self.refused.contains(&credential.token);
        self.all().filter(good).max_by_key(|credential| credential.expires).map(|credential| credential.token.clone())
    }

    /// The upstream does not take this one.
    pub(super) fn refuse(&mut self, token: Token) {
        let mut refused = std::mem::take(&mut self.refused);
        refused.retain(|known| *known != token && self.all().any(|credential| credential.token == *known));
        refused.push(token);
        self.refused = refused;
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// A stream was opened.
    pub(super) fn good(&mut self) {
        (self.stale, self.asked) = (false, None);
    }

    /// There is none that is good. Whom to ask to come back, if it is time.
    pub(super) fn aged(&mut self, now: Moment) -> Option<MemberId> {
        self.stale = true;
        if self.asked.is_some_and(|(_, at)| now.since(at) < PATIENCE) {
            return None;
        }
        // The one after the last: each comes to its turn.
        let after = |last| self.of.range((std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded)).next();
        let next = self.asked.and_then(|(last, _)| after(last)).or_else(|| self.of.first_key_value());
        let next = next.map(|(member, _)| *member)?;
        self.asked = Some((next, now));
        Some(next)
    }

    pub(super) fn is_asked(&self, member: MemberId) -> bool {
        self.asked.is_some_and(|(asked, _)| asked == member)
    }

    fn all(&self) -> impl Iterator<Item = &Credential> {
        self.of.values().chain(&self.left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Moment {
        Moment::from_start(Duration::from_secs(seconds))
    }

    fn credential(token: &str, expires: u64) -> Option<Credential> {
        Some(Credential { token: Token::new(token), expires: at(expires) })
    }

    fn best(credentials: &Credentials, now: u64) -> Option<String> {
        credentials.best(at(now)).map(|token| token.secret().to_owned())
    }

    #[test]
    fn the_one_that_lasts_longest_is_used_until_it_is_no_good() {
        let mut all = Credentials::default();
        assert!(all.join(MemberId(1), credential("a", 100)) && all.join(MemberId(2), credential("b", 200)));
        assert!(!all.join(MemberId(3), credential("a", 100)), "it is known");
        assert_eq!(best(&all, 0).as_deref(), Some("b"));
        all.leave(MemberId(2));
        assert_eq!(best(&all, 0).as_deref(), Some("b"), "who left has presented it all the same");
        all.refuse(Token::new("b"));
        assert_eq!((best(&all, 0).as_deref(), best(&all, 100)), (Some("a"), None));
        assert!(!format!("{all:?}").contains('"'), "a token is shown: {all:?}");
    }

    #[test]
    fn one_member_at_a_time_is_asked_to_come_back() {
        let mut all = Credentials::default();
        assert_eq!(all.aged(at(0)), None, "nobody is there");
        all.join(MemberId(1), credential("a", 1));
        all.join(MemberId(2), credential("a", 1));
        assert_eq!(all.aged(at(10)), Some(MemberId(1)));
        assert!(all.is_asked(MemberId(1)) && !all.is_asked(MemberId(2)) && all.is_stale());
        assert_eq!(
            (all.aged(at(11)), all.aged(at(40)), all.aged(at(70))),
            (None, Some(MemberId(2)), Some(MemberId(1)))
        );
        all.good();
        assert!(!all.is_stale() && !all.is_asked(MemberId(1)));
    }
}
