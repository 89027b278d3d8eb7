//! Who issues bearer tokens in a test.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

pub const ISSUER: &str = "https://issuer.test";
pub const AUDIENCE: &str = "outpost";

pub struct Issuer(EcdsaKeyPair);

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds since 1970, after `lasts`.
pub fn after(lasts: Duration) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970");
    (now + lasts).as_secs()
}

impl Issuer {
    pub fn new() -> Self {
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).expect("a key");
        Self(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, key.as_ref(), &random).expect("the key"))
    }

    pub fn jwks(&self) -> String {
        let point = self.0.public_key().as_ref();
        let key = json!({
            "kty": "EC", "crv": "P-256", "kid": "k1", "x": encode(&point[1..33]), "y": encode(&point[33..]),
        });
        json!({ "keys": [key] }).to_string()
    }

    /// Writes the keys into `dir`.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let path = dir.join("jwks.json");
        std::fs::write(&path, self.jwks()).expect("write the keys");
        path
    }

    /// For an hour, but for what `changes` says.
    pub fn token(&self, subject: &str, changes: &Value) -> String {
        let head = json!({"alg": "ES256", "kid": changes.get("kid").cloned().unwrap_or(json!("k1"))});
        let hour = after(Duration::from_secs(3600));
        let mut body = json!({"iss": ISSUER, "aud": [AUDIENCE], "sub": subject, "exp": hour});
        for (name, value) in changes.as_object().into_iter().flatten().filter(|(name, _)| *name != "kid") {
            body[name] = value.clone();
        }
        let signed = format!("{}.{}", encode(head.to_string()), encode(body.to_string()));
        let mac = self.0.sign(&SystemRandom::new(), signed.as_bytes()).expect("a signature");
        format!("{signed}.{}", encode(mac))
    }
}
