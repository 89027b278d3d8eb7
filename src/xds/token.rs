//! A bearer token: whoever has it is whom it names, so it is never shown.

use std::fmt;
use std::sync::Arc;

/// The text after `Bearer `. It has no `Display`, and its `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Arc<str>);

impl Token {
    pub fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// For a signature check, or for the metadata of a stream over TLS.
    pub fn secret(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_not_shown() {
        let token = Token::new("hunter2");
        assert_eq!((format!("{token:?}"), token.secret()), ("Token(…)".to_owned(), "hunter2"));
    }
}
