use super::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair};
use serde_json::json;

/// Who signs in these tests: a key of its own for each algorithm.
pub(in crate::transport) struct Signer {
    ecdsa: EcdsaKeyPair,
    ed25519: Ed25519KeyPair,
}

fn encode(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    pub(in crate::transport) fn new() -> Self {
        let random = SystemRandom::new();
        let ecdsa = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let ed25519 = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            ecdsa: EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ecdsa.as_ref(), &random).unwrap(),
            ed25519: Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap(),
        }
    }

    pub(in crate::transport) fn ec_key(&self, id: &str) -> Json {
        let point = self.ecdsa.public_key().as_ref();
        json!({"kty": "EC", "crv": "P-256", "kid": id, "x": encode(&point[1..33]), "y": encode(&point[33..])})
    }

    fn ed_key(&self, id: &str) -> Json {
        json!({"kty": "OKP", "crv": "Ed25519", "kid": id, "use": "sig", "x": encode(self.ed25519.public_key())})
    }

    pub(in crate::transport) fn sign(&self, head: &Json, body: &Json) -> String {
        let signed = format!("{}.{}", encode(head.to_string()), encode(body.to_string()));
        let mac = match head["alg"].as_str() {
            Some("EdDSA") => self.ed25519.sign(signed.as_bytes()).as_ref().to_vec(),
            _ => self.ecdsa.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec(),
        };
        format!("{signed}.{}", encode(mac))
    }
}

pub(in crate::transport) const NOW: u64 = 1_900_000_000;

pub(in crate::transport) fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

fn rules() -> Rules {
    Rules { issuer: "https://issuer.test".into(), audiences: vec!["other".into(), "outpost".into()] }
}

fn keys(keys: &[Json]) -> Result<Keys, KeysError> {
    Keys::read(json!({ "keys": keys }).to_string().as_bytes())
}

pub(in crate::transport) fn head() -> Json {
    json!({"alg": "ES256", "kid": "ec", "typ": "JWT"})
}

pub(in crate::transport) fn body() -> Json {
    json!({"iss": "https://issuer.test", "aud": ["outpost"], "sub": "alice", "exp": NOW + 60})
}

pub(in crate::transport) fn with(mut value: Json, name: &str, new: Json) -> Json {
    value[name] = new;
    value
}

fn without(mut value: Json, name: &str) -> Json {
    value.as_object_mut().unwrap().remove(name);
    value
}

#[test]
fn what_counts_and_what_does_not() {
    use TokenError as E;
    let signer = Signer::new();
    let keys = keys(&[signer.ec_key("ec"), signer.ed_key("ed")]).unwrap();
    let good = Ok(Claims { subject: "alice".into(), expires: at(NOW + 60) });
    let table = [
        ("as it should be", head(), body(), good.clone()),
        ("one audience", head(), with(body(), "aud", json!("outpost")), good.clone()),
        ("another kind of key", json!({"alg": "EdDSA", "kid": "ed"}), body(), good.clone()),
        ("the only key that fits", json!({"alg": "ES256"}), body(), good.clone()),
        ("none", json!({"alg": "none", "kid": "ec"}), body(), Err(E::Algorithm)),
        ("a shared secret", json!({"alg": "HS256", "kid": "ec"}), body(), Err(E::Algorithm)),
        ("algorithm of another key", json!({"alg": "RS256", "kid": "ec"}), body(), Err(E::UnknownKey)),
        ("unknown kid", with(head(), "kid", json!("old")), body(), Err(E::UnknownKey)),
        ("extensions that must be understood", with(head(), "crit", json!(["b64"])), body(), Err(E::Malformed)),
        ("another issuer", head(), with(body(), "iss", json!("https://issuer.test/")), Err(E::Issuer)),
        ("no issuer", head(), without(body(), "iss"), Err(E::Issuer)),
        ("another audience", head(), with(body(), "aud", json!(["kubernetes"])), Err(E::Audience)),
        ("no audience", head(), without(body(), "aud"), Err(E::Audience)),
        (
            "just expired",
            head(),
            with(body(), "exp", json!(NOW - 29)),
            Ok(Claims { subject: "alice".into(), expires: at(NOW - 29) }),
        ),
        ("expired", head(), with(body(), "exp", json!(NOW - 30)), Err(E::Expired(Duration::from_secs(30)))),
        ("never expires", head(), without(body(), "exp"), Err(E::NoExpiry)),
        ("expires in a text", head(), with(body(), "exp", json!("9999999999")), Err(E::NoExpiry)),
        ("expires before time", head(), with(body(), "exp", json!(-1)), Err(E::NoExpiry)),
        ("expires after all time", head(), with(body(), "exp", json!(1e300)), Err(E::NoExpiry)),
        ("soon", head(), with(body(), "nbf", json!(NOW + 30)), good),
        ("not yet", head(), with(body(), "nbf", json!(NOW + 31)), Err(E::NotYet)),
        ("nobody", head(), with(body(), "sub", json!("")), Err(E::Subject)),
        ("a line end", head(), with(body(), "sub", json!("alice\n2026 INFO")), Err(E::Subject)),
        ("too long", head(), with(body(), "sub", json!("a".repeat(1025))), Err(E::Subject)),
        ("no object", head(), json!([1]), Err(E::Malformed)),
    ];
    for (name, head, body, want) in table {
        assert_eq!(keys.verify(&signer.sign(&head, &body), &rules(), at(NOW)), want, "{name}");
    }
}

/// As where an issuer replaces a key and keeps its name.
#[test]
fn every_key_of_the_name_is_tried() {
    let (old, new, other) = (Signer::new(), Signer::new(), Signer::new());
    let keys = keys(&[old.ec_key("ec"), new.ec_key("ec")]).unwrap();
    let verify = |signer: &Signer, head: &Json| keys.verify(&signer.sign(head, &body()), &rules(), at(NOW)).map(|_| ());
    assert_eq!((verify(&old, &head()), verify(&new, &head())), (Ok(()), Ok(())));
    assert_eq!(verify(&other, &head()), Err(TokenError::Signature));
    assert_eq!(verify(&new, &json!({"alg": "ES256"})), Err(TokenError::UnknownKey), "no name, and several fit");
}

#[test]
fn only_what_was_signed_counts() {
    let signer = Signer::new();
    let keys = keys(&[signer.ec_key("ec")]).unwrap();
    let token = signer.sign(&head(), &body());
    let (signed, mac) = token.rsplit_once('.').unwrap();
    let (head_part, _) = signed.split_once('.').unwrap();
    let forged = encode(with(body(), "sub", json!("bob")).to_string());
    let table = [
        (format!("{head_part}.{forged}.{mac}"), TokenError::Signature),
        (format!("{signed}.{}", encode([0; 64])), TokenError::Signature),
        (format!("{signed}."), TokenError::Signature),
        (signed.to_owned(), TokenError::Malformed),
        (format!("{token}.{mac}"), TokenError::Malformed),
        (format!("{token}="), TokenError::Malformed),
        (String::new(), TokenError::Malformed),
        ("..".into(), TokenError::Malformed),
        (Signer::new().sign(&head(), &body()), TokenError::Signature),
    ];
    for (token, want) in table {
        assert_eq!(keys.verify(&token, &rules(), at(NOW)), Err(want), "{token}");
    }
    let twice = format!("{}.{}", encode(head().to_string()), encode(r#"{"sub":"alice","sub":"bob"}"#));
    let mac = signer.ecdsa.sign(&SystemRandom::new(), twice.as_bytes()).unwrap();
    let twice = format!("{twice}.{}", encode(mac));
    assert_eq!(keys.verify(&twice, &rules(), at(NOW)), Err(TokenError::Malformed), "a claim that is made twice");
}

/// Signed once by a key that was thrown away.
#[test]
fn rsa() {
    let key = json!({"kty": "RSA", "kid": "rsa", "e": "AQAB", "n": RSA_MODULUS});
    let good = Ok(Claims { subject: "alice".into(), expires: at(2_000_000_000) });
    for token in [RS256, PS256] {
        assert_eq!(keys(std::slice::from_ref(&key)).unwrap().verify(token, &rules(), at(NOW)), good);
        let other = with(key.clone(), "alg", json!("RS512"));
        let got = keys(&[other]).unwrap().verify(token, &rules(), at(NOW));
        assert_eq!(got, Err(TokenError::UnknownKey), "the set says another algorithm");
    }
}

#[test]
fn sets_of_keys() {
    let signer = Signer::new();
    let rsa = |n: &str| json!({"kty": "RSA", "n": n, "e": "AQAB"});
    assert!(matches!(Keys::read(b"no json"), Err(KeysError::Malformed(_))));
    assert!(matches!(Keys::read(b"{}"), Err(KeysError::Malformed(_))));
    assert_eq!(keys(&[]).unwrap_err(), KeysError::None);
    assert_eq!(keys(&[json!({"kty": "oct", "k": "c2VjcmV0"})]).unwrap_err(), KeysError::None);
    assert_eq!(keys(&[with(signer.ec_key("a"), "use", json!("enc"))]).unwrap_err(), KeysError::None);
    assert_eq!(keys(&[with(signer.ec_key("a"), "x", json!("AAAA"))]).unwrap_err(), KeysError::None);
    assert_eq!(keys(&[rsa(&encode([255; 128]))]).unwrap_err(), KeysError::None, "1024 bits are too few");
    assert_eq!(keys(&[with(signer.ec_key("a"), "d", json!("AAAA"))]).unwrap_err(), KeysError::Private);
    assert_eq!(keys(&vec![json!({}); 101]).unwrap_err(), KeysError::Many(101));
    let some = keys(&[json!({"kty": "new"}), json!(7), signer.ec_key("a")]).unwrap();
    assert_eq!((some.len(), format!("{some:?}")), (1, r#"[Some("a")]"#.to_owned()));
}

const RSA_MODULUS: &str = "mzjsDctMQmZAXnqln0dsdjzcriybq-WOdsaI2U0vOiFZ0WnvjcAKjx8_BNYul691ocBx3yhMFaSnV0IkQFq4dyr4HpNQm7DHKPrCYMqo8C9_ztgmuteCtMtCbD5qQrgw1yHsT-GBZhZIw1xFAyY32oL4ypNfeCTUpV8X6Hs3kUhEg5prravvOvrnpIJ_UyLLNxJda9loyJoPT627aC1HmeL_jhLMEPbx8nBPpxrzSyk9uGNbP-qp9FLPbFqVo6IjXqZ60QQ-lwE1dkAuQ-1rC5WYKyR2oOCclkYje6SeeDhn4Tu5p1ncVnaoTfj5yLvMni6BE8jaM-GxhQR5isSseQ";
const RS256: &str = "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjpbIm91dHBvc3QiXSwic3ViIjoiYWxpY2UiLCJleHAiOjIwMDAwMDAwMDB9.GYQxafJXr4zYdURWf_5pFzbqleNdN4acR_iNNZaB3i41z3AxYRrwdFXtcwn8zg0PQ8xwgo4Hmu6jW1V3QLTZg9bcsr_JjLMkMiS8dCw06hcvz4BFNJ_5E4Y2gA7dBAXVlBQkkb3zMcKnVHftRrjXH9Kw-TWtP1ZKziGX3HQLQqMfoanANgh8rRBt28dXtmhyVSSCkxFmwG8oSKoBF7ZbKXXACM-s8fHa9x42fQSBzURPpHOSaH79MY-J1Psbax8DyM7xGXUPSC1LGdGB_cD9qC7PtX3fozrEuKGiRSuaRMSYkfxYWQAOi4ZKduLA7ZshKEggDGqyoUccnTXuYlNwrw";
const PS256: &str = "eyJhbGciOiJQUzI1NiIsImtpZCI6InJzYSJ9.eyJpc3MiOiJodHRwczovL2lzc3Vlci50ZXN0IiwiYXVkIjpbIm91dHBvc3QiXSwic3ViIjoiYWxpY2UiLCJleHAiOjIwMDAwMDAwMDB9.iU3mJnIvad6W6Aa3P9N8xj2VnLZjrKJfIpn6m_rVGvIik-IT9b4mfmfLSN5wZAFf_Qhfsgqi-bQEojWLnAzLZEOYHoGjj0HAW-e0_agZvVrrI75Dul9AaG7j7YnNlo9ow4QfvWEqmR19xZVjoIFGUCp22EBmmWbddnPgaHvCQE_9W9koOanVs-oTb7RqyUjcZHIE4MzqSLkLwyYgv26eMsebbcVwaDqJvOrY_QXbM0i03_DfbA5G3Uy2GJ8iU6RLeSRihkUSxHt6Y1tw35nsPb2JeZhkMe6b4xghFA0oSf0VR5iIPuRvqWcu5lp0SrqxfPqq0eTVwjk2GxUi-x2w5A";
