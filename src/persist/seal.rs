//! Encryption of the cache, where a key is given: ChaCha20-Poly1305.
//!
//! Each file has a key of its own, made of the operator's and of a random salt in
//! the file's head, so that the place of a piece in its file serves as its nonce: a
//! file is only ever appended to, and given up after a failed write.

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use std::borrow::Cow;
use std::fmt;
use std::path::Path;

pub(super) const SALT: usize = 32;
const CONTEXT: &str = "outpost 2026 persist, one file";

/// The operator's key.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot be read ({0}); name a file that this user may read")]
    Unreadable(#[from] std::io::Error),
    #[error("holds no key; it is 32 bytes, or 64 hex digits: openssl rand -hex 32")]
    Form,
}

impl Key {
    /// 32 bytes as they are, or in hex.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let mut bytes = Vec::new();
        // A key is short: whoever names another file has named the wrong one.
        std::io::Read::read_to_end(&mut std::io::Read::take(std::fs::File::open(path)?, 1024), &mut bytes)?;
        if let Ok(key) = <[u8; 32]>::try_from(&*bytes) {
            return Ok(Self(key));
        }
        let digits = bytes.trim_ascii();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(KeyError::Form);
        }
        let mut key = [0; 32];
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| KeyError::Form)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| KeyError::Form)?;
        }
        Ok(Self(key))
    }
}

/// The pieces of one file, closed or as they are.
pub(super) struct Seal(Option<LessSafeKey>);

/// It was not closed by this key, or is not what was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Broken;

impl Seal {
    pub(super) fn of(key: Option<&Key>, salt: &[u8; SALT]) -> Self {
        let key = key.and_then(|key| {
            let material = [&key.0[..], salt].concat();
            let derived = blake3::derive_key(CONTEXT, &material);
            // Only another length of the key would be refused.
            UnboundKey::new(&CHACHA20_POLY1305, &derived).ok()
        });
        Self(key.map(LessSafeKey::new))
    }

    /// What a closed piece takes more.
    pub(super) fn overhead(&self) -> usize {
        if self.0.is_some() { CHACHA20_POLY1305.tag_len() } else { 0 }
    }

    /// Closes `bytes`, which are to stand at `at` and there only.
    pub(super) fn close(&self, at: u64, bytes: &mut Vec<u8>) {
        if let Some(key) = &self.0 {
            let closed = key.seal_in_place_append_tag(nonce(at), Aad::empty(), bytes);
            // It fails for more than 256 GiB only.
            closed.expect("a piece is small");
        }
    }

    pub(super) fn open(&self, at: u64, bytes: Vec<u8>) -> Result<Vec<u8>, Broken> {
        self.opened(at, Cow::Owned(bytes)).map(Cow::into_owned)
    }

    /// The same, without a copy where nothing is closed.
    pub(super) fn opened<'a>(&self, at: u64, bytes: Cow<'a, [u8]>) -> Result<Cow<'a, [u8]>, Broken> {
        let Some(key) = &self.0 else { return Ok(bytes) };
        let mut bytes = bytes.into_owned();
        let len = key.open_in_place(nonce(at), Aad::empty(), &mut bytes).map_err(|_| Broken)?.len();
        bytes.truncate(len);
        Ok(Cow::Owned(bytes))
    }
}

impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Seal(closed)" } else { "Seal(open)" })
    }
}

fn nonce(at: u64) -> Nonce {
    let mut nonce = [0; 12];
    nonce.iter_mut().zip(at.to_le_bytes()).for_each(|(to, byte)| *to = byte);
    Nonce::assume_unique_for_key(nonce)
}

/// For a new file.
pub(super) fn salt() -> std::io::Result<[u8; SALT]> {
    let mut salt = [0; SALT];
    let none = |_| std::io::Error::other("the system gave no random numbers");
    SystemRandom::new().fill(&mut salt).map_err(none)?;
    Ok(salt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_closed_opens_at_its_place_only() {
        let key = Key([7; 32]);
        let seal = Seal::of(Some(&key), &[1; SALT]);
        let mut bytes = b"content".to_vec();
        seal.close(64, &mut bytes);
        assert_eq!(bytes.len(), 7 + seal.overhead());
        assert!(!bytes.windows(7).any(|part| part == b"content"));
        assert_eq!(seal.open(64, bytes.clone()).as_deref(), Ok(&b"content"[..]));
        assert_eq!(seal.open(65, bytes.clone()), Err(Broken));
        assert_eq!(Seal::of(Some(&key), &[2; SALT]).open(64, bytes.clone()), Err(Broken));
        assert_eq!(Seal::of(Some(&Key([8; 32])), &[1; SALT]).open(64, bytes.clone()), Err(Broken));
        bytes[0] ^= 1;
        assert_eq!(seal.open(64, bytes), Err(Broken));
        assert!(!format!("{key:?}").contains('7'));
    }

    #[test]
    fn a_key_is_bytes_or_hex() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            Key::read(&path).map(|key| key.0)
        };
        assert_eq!(read(&[9; 32]).unwrap(), [9; 32]);
        assert_eq!(read(format!("{}\n", "0a".repeat(32)).as_bytes()).unwrap(), [10; 32]);
        assert!(matches!(read(b"short"), Err(KeyError::Form)));
        assert!(matches!(read(&[b'x'; 64]), Err(KeyError::Form)));
        assert!(matches!(Key::read(&directory.path().join("none")), Err(KeyError::Unreadable(_))));
    }
}
