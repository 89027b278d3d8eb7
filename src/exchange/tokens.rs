//! The tokens of a group, as its upstream side has them.

use super::GroupHandle;
use crate::xds::Token;

impl GroupHandle {
    /// The best token that a member presented, if one is good.
    pub fn credential(&self) -> Option<Token> {
        let now = self.exchange.clock.now();
        self.slot.lock().credentials.best(now)
    }

    /// A stream was opened by it.
    pub fn credential_good(&self) {
        self.slot.lock().credentials.good();
    }

    /// The upstream does not take it.
    pub fn refuse_credential(&self, token: Token) {
        self.slot.lock().credentials.refuse(token);
    }

    /// There is no good one: the group serves what it holds, and a member is
    /// asked to come back.
    pub fn credential_aged(&self) {
        let waker = {
            let now = self.exchange.clock.now();
            let mut inner = self.slot.lock();
            let asked = inner.credentials.aged(now);
            asked.and_then(|member| inner.waker(member))
        };
        // Without the lock, as always.
        waker.iter().for_each(|waker| waker());
    }
}
