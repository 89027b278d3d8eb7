//! Deliberate breaks of the protocol, to prove that the tests would notice.
//!
//! Where the code keeps a rule it asks [`on`] whether that rule is to be broken
//! instead. Without the feature `breaks` the answer is a constant, and nothing
//! of this is in the program. With it one rule at a time is chosen by name, for
//! the whole process; `tests/breaks.rs` goes through them all.

/// Is this rule to be broken?
#[cfg(not(feature = "breaks"))]
#[inline(always)]
pub const fn on(_rule: &str) -> bool {
    false
}

#[cfg(feature = "breaks")]
pub use chosen::{choose, on};

#[cfg(feature = "breaks")]
mod chosen {
    use std::sync::RwLock;

    static CHOSEN: RwLock<String> = RwLock::new(String::new());

    /// Is this rule to be broken?
    pub fn on(rule: &str) -> bool {
        *CHOSEN.read().unwrap_or_else(|poisoned| poisoned.into_inner()) == rule
    }

    /// From now on this rule is broken, and no other; none where it is empty.
    pub fn choose(rule: &str) {
        *CHOSEN.write().unwrap_or_else(|poisoned| poisoned.into_inner()) = rule.to_owned();
    }
}
