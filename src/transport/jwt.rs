//! JWT bearer tokens (RFC 7519), signed as JWS (RFC 7515) by a key of a JWKS
//! (RFC 7517). Pure: bytes and the time in, who it is out.
//!
//! Promise: a token counts only if its signature was made by one of the
//! [`Keys`], by an asymmetric algorithm that fits the key, and if issuer,
//! audience and times are as [`Rules`] demand. Nothing that a token says is
//! believed before its signature was checked, but for which key that should be.
//!
//! The signatures are checked by ring, which TLS uses already; the format is
//! small enough to be read here, and only as much of it as is wanted is.

use crate::clock::span;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::Value as Json;
use std::fmt;
use std::time::{Duration, SystemTime};

/// Clocks may differ this much.
pub const LEEWAY: Duration = Duration::from_secs(30);

/// The most keys of a set, and bytes of a subject.
const MOST_KEYS: usize = 100;
const LONGEST_SUBJECT: usize = 1024;

/// What a token must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub issuer: String,
    /// One of these, at least, must be in the token's `aud`.
    pub audiences: Vec<String>,
}

/// What a token that counts says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    pub subject: String,
    pub expires: SystemTime,
}

/// Why a token does not count. Nothing of the token is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("the bearer token is no signed JWT")]
    Malformed,
    #[error(
        "the bearer token is signed by an algorithm that is not accepted; sign by RS256, PS256, ES256, EdDSA or one of their longer kin"
    )]
    Algorithm,
    #[error("the bearer token is signed by a key that is not in the JWKS")]
    UnknownKey,
    #[error("the bearer token's signature is wrong")]
    Signature,
    #[error("the bearer token is of another issuer")]
    Issuer,
    #[error("the bearer token is for another audience")]
    Audience,
    #[error("the bearer token has expired; present a new one{}", clocks(.0))]
    Expired(Duration),
    #[error("the bearer token is not valid yet; compare the clocks")]
    NotYet,
    #[error("the bearer token never expires, or says so in no number")]
    NoExpiry,
    #[error("the bearer token names no subject that can be an identity")]
    Subject,
}

impl TokenError {
    /// Metric label: a closed set.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Malformed => "token_malformed",
            Self::Algorithm => "token_algorithm",
            Self::UnknownKey => "token_unknown_key",
            Self::Signature => "token_signature",
            Self::Issuer => "token_issuer",
            Self::Audience => "token_audience",
            Self::Expired(_) => "token_expired",
            Self::NotYet => "token_not_yet",
            Self::NoExpiry => "token_no_expiry",
            Self::Subject => "token_subject",
        }
    }
}

/// Why a text is no set of keys.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    #[error("is no JWKS ({0}); expected {{\"keys\": […]}}")]
    Malformed(String),
    #[error("holds no public key for signatures (RSA of 2048 bits and more, P-256, P-384 or Ed25519)")]
    None,
    #[error("holds {0} keys, more than {MOST_KEYS}")]
    Many(usize),
    #[error("holds a private key; give only the public ones, and replace that one")]
    Private,
}

/// The public keys by which tokens may be signed.
pub struct Keys(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The only algorithm, where the set states one.
    only: Option<String>,
    public: Public,
}

enum Public {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// The point, uncompressed.
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Json>,
}

/// One key, as far as it matters. All of it may be missing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Stated {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: String,
    n: String,
    e: String,
    x: String,
    y: String,
    d: Option<Json>,
}

impl Keys {
    /// Reads a JWKS. Keys of kinds that we do not know are left out, as the
    /// format demands.
    pub fn read(text: &[u8]) -> Result<Self, KeysError> {
        let malformed = |error: serde_json::Error| KeysError::Malformed(error.to_string());
        let set: Set = serde_json::from_slice(text).map_err(malformed)?;
        if set.keys.len() > MOST_KEYS {
            return Err(KeysError::Many(set.keys.len()));
        }
        let mut keys = Vec::new();
        for stated in set.keys {
            let Ok(stated) = serde_json::from_value::<Stated>(stated) else { continue };
            if stated.d.is_some() {
                return Err(KeysError::Private);
            }
            keys.extend(stated.key());
        }
        if keys.is_empty() { Err(KeysError::None) } else { Ok(Self(keys)) }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `token` says, if it counts at `now`.
    pub fn verify(&self, token: &str, rules: &Rules, now: SystemTime) -> Result<Claims, TokenError> {
        let (signed, mac) = token.rsplit_once('.').ok_or(TokenError::Malformed)?;
        let (head, body) =
            signed.split_once('.').filter(|(_, body)| !body.contains('.')).ok_or(TokenError::Malformed)?;
        let head: Head = json(head)?;
        let mac = decode(mac).ok_or(TokenError::Malformed)?;
        // Extensions that must be understood: we understand none.
        if head.crit.is_some() {
            return Err(TokenError::Malformed);
        }
        let algorithm = Algorithm::named(&head.alg).ok_or(TokenError::Algorithm)?;
        let keys = self.find(&head, algorithm);
        if keys.is_empty() {
            return Err(TokenError::UnknownKey);
        }
        if !keys.iter().any(|key| key.public.check(algorithm, signed.as_bytes(), &mac).is_some()) {
            return Err(TokenError::Signature);
        }
        json::<Body>(body)?.judge(rules, now)
    }

    /// The keys that the token names: a set may call several alike. Where it names
    /// none, the only one that fits.
    fn find(&self, head: &Head, algorithm: Algorithm) -> Vec<&Key> {
        let named = |key: &&Key| head.kid.is_none() || key.id == head.kid;
        let fitting: Vec<_> = self.0.iter().filter(named).filter(|key| key.fits(algorithm, &head.alg)).collect();
        if head.kid.is_none() && fitting.len() > 1 { Vec::new() } else { fitting }
    }
}

impl Stated {
    fn key(self) -> Option<Key> {
        if self.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let public = match (self.kty.as_str(), self.crv.as_str()) {
            ("RSA", _) => {
                let (n, e) = (decode(&self.n)?, decode(&self.e)?);
                // What is smaller is refused by ring with each token; better known at once.
                (n.iter().skip_while(|byte| **byte == 0).count() >= 256 && !e.is_empty())
                    .then_some(Public::Rsa { n, e })?
            }
            ("EC", "P-256") => Public::P256(self.point(32)?),
            ("EC", "P-384") => Public::P384(self.point(48)?),
            ("OKP", "Ed25519") => Public::Ed25519(decode(&self.x).filter(|x| x.len() == 32)?),
            _ => return None,
        };
        Some(Key { id: self.kid, only: self.alg, public })
    }

    /// SEC 1: 4, then both coordinates.
    fn point(&self, size: usize) -> Option<Vec<u8>> {
        let (x, y) = (decode(&self.x)?, decode(&self.y)?);
        (x.len() == size && y.len() == size).then(|| [&[4], &x[..], &y[..]].concat())
    }
}

impl Key {
    fn fits(&self, algorithm: Algorithm, name: &str) -> bool {
        let kind = matches!(
            (&self.public, algorithm),
            (Public::Rsa { .. }, Algorithm::Rsa(_))
                | (Public::P256(_), Algorithm::P256)
                | (Public::P384(_), Algorithm::P384)
                | (Public::Ed25519(_), Algorithm::Ed25519)
        );
        kind && self.only.as_deref().is_none_or(|only| only == name)
    }
}

/// The asymmetric algorithms. `none` and those with a shared secret are not here.
#[derive(Clone, Copy)]
enum Algorithm {
    Rsa(&'static signature::RsaParameters),
    P256,
    P384,
    Ed25519,
}

impl Algorithm {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::P256,
            "ES384" => Self::P384,
            "EdDSA" | "Ed25519" => Self::Ed25519,
            _ => return None,
        })
    }
}

impl Public {
    fn check(&self, algorithm: Algorithm, signed: &[u8], mac: &[u8]) -> Option<()> {
        let plain = |kind: &'static dyn signature::VerificationAlgorithm, key: &Vec<u8>| {
            UnparsedPublicKey::new(kind, key).verify(signed, mac)
        };
        let checked = match (self, algorithm) {
            (Self::Rsa { n, e }, Algorithm::Rsa(kind)) => {
                let n: Vec<u8> = n.iter().copied().skip_while(|byte| *byte == 0).collect();
                RsaPublicKeyComponents { n: &n, e }.verify(kind, signed, mac)
            }
            (Self::P256(point), Algorithm::P256) => plain(&signature::ECDSA_P256_SHA256_FIXED, point),
            (Self::P384(point), Algorithm::P384) => plain(&signature::ECDSA_P384_SHA384_FIXED, point),
            (Self::Ed25519(x), Algorithm::Ed25519) => plain(&signature::ED25519, x),
            _ => return None,
        };
        checked.ok()
    }
}

#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    crit: Option<Json>,
}

/// Where the clock may be to blame.
const RECENTLY: Duration = Duration::from_secs(3600);

fn clocks(ago: &Duration) -> String {
    if *ago > RECENTLY {
        return String::new();
    }
    format!(", and compare the clocks: by ours it ended {} ago", span(*ago))
}

#[derive(Deserialize)]
struct Body {
    iss: Option<String>,
    sub: Option<String>,
    aud: Option<Json>,
    exp: Option<Json>,
    nbf: Option<Json>,
}

impl Body {
    fn judge(self, rules: &Rules, now: SystemTime) -> Result<Claims, TokenError> {
        if self.iss.as_deref() != Some(&rules.issuer) {
            return Err(TokenError::Issuer);
        }
        let meant = |audience: &Json| audience.as_str().is_some_and(|text| rules.audiences.iter().any(|of| of == text));
        let for_us = match &self.aud {
            Some(Json::Array(all)) => all.iter().any(meant),
            Some(one) => meant(one),
            None => false,
        };
        if !for_us {
            return Err(TokenError::Audience);
        }
        let expires = self.exp.as_ref().and_then(time).ok_or(TokenError::NoExpiry)?;
        if now >= expires + LEEWAY {
            return Err(TokenError::Expired(now.duration_since(expires).unwrap_or_default()));
        }
        if let Some(stated) = &self.nbf {
            let from = time(stated).ok_or(TokenError::NotYet)?;
            if now + LEEWAY < from {
                return Err(TokenError::NotYet);
            }
        }
        let fits = |subject: &String| {
            !subject.is_empty() && subject.len() <= LONGEST_SUBJECT && !subject.chars().any(char::is_control)
        };
        let subject = self.sub.filter(fits).ok_or(TokenError::Subject)?;
        Ok(Claims { subject, expires })
    }
}

/// Seconds since 1970, up to the year 9999.
fn time(stated: &Json) -> Option<SystemTime> {
    let seconds = stated.as_f64().filter(|seconds| (0.0..253_402_300_800.0).contains(seconds))?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs_f64(seconds))
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn json<T: for<'a> Deserialize<'a>>(part: &str) -> Result<T, TokenError> {
    let bytes = decode(part).ok_or(TokenError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| TokenError::Malformed)
}

#[cfg(test)]
pub(super) mod tests;
