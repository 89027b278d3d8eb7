use super::*;
use crate::clock::Clock;
use crate::transport::jwt::tests::{NOW, Signer, at, body, head, with};
use serde_json::json;

const CART: &str = "spiffe://mesh.example/ns/shop/sa/cart";

struct Desk {
    gate: Gate,
    signer: Signer,
    _dir: tempfile::TempDir,
}

fn desk(change: impl FnOnce(&mut Gate)) -> Desk {
    let signer = Signer::new();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    std::fs::write(&path, json!({"keys": [signer.ec_key("ec")]}).to_string()).unwrap();
    let jwks = Arc::new(Jwks::file(path, Clock::manual()).unwrap());
    let rules = jwt::Rules { issuer: "https://issuer.test".into(), audiences: vec!["outpost".into()] };
    let mut gate = Gate { required: true, tokens: Some(Tokens { jwks, rules }), ..Gate::default() };
    change(&mut gate);
    Desk { gate, signer, _dir: dir }
}

impl Desk {
    fn token(&self, subject: &str) -> String {
        format!("Bearer {}", self.signer.sign(&head(), &with(body(), "sub", json!(subject))))
    }

    fn admit(&self, certificate: Option<&str>, shown: &[&str]) -> Result<Option<String>, Refused> {
        self.judge(certificate, shown).map_err(|denied| denied.why)
    }

    fn judge(&self, certificate: Option<&str>, shown: &[&str]) -> Result<Option<String>, Denied> {
        let certificate = certificate.map(|name| Identity::named(name, at(NOW + 3600)));
        let mut headers = HeaderMap::new();
        for value in shown {
            headers.append(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        let admitted = self.gate.admit(certificate.as_ref(), &mut headers, at(NOW));
        assert!(!format!("{headers:?}").contains("ey"), "a token is left where it can be shown");
        let admitted = admitted?;
        if let Some(identity) = &admitted {
            assert!(!format!("{identity:?}").contains("ey"), "an identity shows its token");
            assert_eq!(identity.token().is_some(), !shown.is_empty());
        }
        Ok(admitted.map(|identity| identity.to_string()))
    }
}

/// What is tried, the certificate's name, the tokens, and what comes of it.
type Row = (&'static str, Option<&'static str>, Vec<String>, Result<Option<String>, Refused>);

#[test]
fn who_a_caller_is() {
    let desk = desk(|gate| gate.trust_domains = vec!["mesh.example".into(), "old.example".into()]);
    let token = |subject: &str| desk.token(subject);
    let is = |name: &str| Ok(Some(name.to_owned()));
    let account = token("system:serviceaccount:shop:cart");
    let table: Vec<Row> = vec![
        ("nothing", None, vec![], Err(Refused::Anonymous)),
        ("a certificate", Some(CART), vec![], is(CART)),
        ("a service account", None, vec![account.clone()], is(CART)),
        ("a SPIFFE name", None, vec![token(CART)], is(CART)),
        ("a plain subject", None, vec![token("alice")], is("jwt:alice")),
        ("both, the same", Some(CART), vec![account.clone()], is(CART)),
        (
            "both, different",
            Some("spiffe://mesh.example/ns/shop/sa/pay"),
            vec![account.clone()],
            Err(Refused::Mismatch),
        ),
        ("a second trust domain", Some("spiffe://old.example/x"), vec![], is("spiffe://old.example/x")),
        ("another trust domain", Some("spiffe://evil.example/ns/shop/sa/cart"), vec![], Err(Refused::TrustDomain)),
        ("a longer one", Some("spiffe://mesh.example.evil/ns/shop/sa/cart"), vec![], Err(Refused::TrustDomain)),
        ("a DNS name in none", Some("cart.shop"), vec![], Err(Refused::TrustDomain)),
        ("a token's other domain", None, vec![token("spiffe://evil.example/x")], Err(Refused::TrustDomain)),
        ("a certificate beside a bad token", Some(CART), vec!["Bearer x".into()], Err(TokenError::Malformed.into())),
        ("no bearer", Some(CART), vec!["Basic YWxpY2U6".into()], Err(Refused::Scheme)),
        ("no token", None, vec!["Bearer ".into()], Err(Refused::Scheme)),
        ("two", None, vec![account.clone(), account], Err(Refused::Scheme)),
        ("an account without a name", None, vec![token("system:serviceaccount:shop")], Err(TokenError::Subject.into())),
        ("a path for a name", None, vec![token("system:serviceaccount:shop:a/sa/b")], Err(TokenError::Subject.into())),
    ];
    for (name, certificate, shown, want) in table {
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        assert_eq!(desk.admit(certificate, &shown), want, "{name}");
    }
}

#[test]
fn a_refusal_names_whom_it_refuses() {
    let desk = desk(|gate| gate.trust_domains = vec!["mesh.example".into()]);
    let proven = |certificate, shown: &[&str]| desk.judge(certificate, shown).unwrap_err().proven;
    let (account, evil) = (desk.token("system:serviceaccount:shop:pay"), "spiffe://evil.example/x");
    let named = |name: &str| Some(name.to_owned());
    assert_eq!(proven(None, &[]), None);
    assert_eq!(proven(None, &["Bearer x"]), None, "who shows a bad token has proven nothing");
    assert_eq!(proven(Some(CART), &["Bearer x"]), named(CART));
    assert_eq!(proven(Some(evil), &[]), named(evil));
    assert_eq!(proven(None, &[&desk.token(evil)]), named(evil));
    let both = format!("{CART} and spiffe://mesh.example/ns/shop/sa/pay");
    assert_eq!(proven(Some(CART), &[&account]), Some(both));
}

#[test]
fn what_is_asked_of_callers_can_be_less_or_more() {
    let lax = desk(|gate| gate.required = false);
    assert_eq!(lax.admit(None, &[]), Ok(None));
    assert_eq!(lax.admit(None, &["Bearer x"]), Err(TokenError::Malformed.into()), "what is shown must be good");
    assert_eq!(lax.admit(Some("cart.shop"), &[]), Ok(Some("cart.shop".into())), "no trust domains are named");
    let account = lax.token("system:serviceaccount:shop:cart");
    assert_eq!(lax.admit(None, &[&account]), Ok(Some("spiffe://cluster.local/ns/shop/sa/cart".into())));
    let strict = desk(|gate| gate.token_required = true);
    assert_eq!(strict.admit(Some(CART), &[]), Err(Refused::NoToken));
    assert_eq!(
        (Refused::NoToken.status().code, Refused::NoKeys.status().code),
        (code::UNAUTHENTICATED, code::UNAVAILABLE)
    );
}

/// Without keys a token is not looked at, and not shown either.
#[test]
fn tokens_are_nothing_where_none_are_checked() {
    let mut headers = HeaderMap::new();
    headers.insert(header::AUTHORIZATION, HeaderValue::from_static("Bearer eyJ"));
    assert_eq!(Gate::default().admit(None, &mut headers, at(NOW)), Ok(None));
    assert!(!format!("{headers:?}").contains("eyJ"));
    assert_eq!(headers[header::AUTHORIZATION], "Bearer eyJ", "it is another's to read");
}
