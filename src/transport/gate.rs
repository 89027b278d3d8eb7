//! Who a caller is: what its certificate and its bearer token prove together.
//!
//! | it shows | it is |
//! |---|---|
//! | a certificate | the certificate's URI or DNS name |
//! | a token | the token's subject; of a Kubernetes service account its SPIFFE name |
//! | both | the same, and they must name the same: a stolen token is of no use on another's connection |
//! | neither | anonymous, where that is allowed |
//!
//! Promise: nothing that is shown and is no good is passed over. Whoever shows
//! a bad token is refused, whatever the certificate says.

use super::Identity;
use super::jwks::Jwks;
use super::jwt::{self, Claims, TokenError};
use crate::xds::{Status, Token, code};
use http::{HeaderMap, HeaderValue, header};
use std::sync::Arc;
use std::time::SystemTime;

/// The trust domain of Kubernetes tokens where none is configured.
pub const CLUSTER_LOCAL: &str = "cluster.local";

/// What a caller must show, and what that is good for.
#[derive(Debug, Default)]
pub struct Gate {
    /// Nobody is anonymous.
    pub required: bool,
    /// A certificate is not enough: what is asked for needs a token.
    pub token_required: bool,
    /// Of SPIFFE names, those that count; all where this is empty. Kubernetes
    /// tokens belong to the first.
    pub trust_domains: Vec<String>,
    /// `None`: tokens are not looked at.
    pub tokens: Option<Tokens>,
}

/// How tokens are checked.
#[derive(Debug)]
pub struct Tokens {
    pub jwks: Arc<Jwks>,
    pub rules: jwt::Rules,
}

/// Why a caller is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("prove who you are: connect with a certificate, or send a bearer token")]
    Anonymous,
    #[error("a bearer token is needed here: send authorization: Bearer …")]
    NoToken,
    #[error("authorization is given more than once, or is no bearer token")]
    Scheme,
    #[error("{0}")]
    Token(#[from] TokenError),
    #[error("bearer tokens cannot be checked now: their keys could not be had yet")]
    NoKeys,
    #[error("the certificate and the bearer token name different identities; show those of one, or only one of them")]
    Mismatch,
    #[error("the identity is of no trust domain that is accepted here")]
    TrustDomain,
}

/// A refusal, and who it was as far as that was proven: the certificate's name,
/// a good token's, or both where they differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denied {
    pub why: Refused,
    pub proven: Option<String>,
}

impl Refused {
    /// Metric label: a closed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Anonymous => "anonymous",
            Self::NoToken => "no_token",
            Self::Scheme => "scheme",
            Self::Token(error) => error.reason(),
            Self::NoKeys => "no_keys",
            Self::Mismatch => "mismatch",
            Self::TrustDomain => "trust_domain",
        }
    }

    pub fn status(&self) -> Status {
        // It is ours to have the keys: the token may be good.
        let code = if *self == Self::NoKeys { code::UNAVAILABLE } else { code::UNAUTHENTICATED };
        Status::new(code, self.to_string())
    }
}

impl Gate {
    /// Who calls, at `now`. A token that is looked at is taken out of `headers`.
    pub fn admit(
        &self,
        certificate: Option<&Identity>,
        headers: &mut HeaderMap,
        now: SystemTime,
    ) -> Result<Option<Identity>, Denied> {
        let mut proven: Vec<String> = certificate.iter().map(|identity| identity.as_str().to_owned()).collect();
        self.judge(certificate, headers, now, &mut proven).map_err(|why| {
            proven.dedup();
            Denied { why, proven: Some(proven.join(" and ")).filter(|proven| !proven.is_empty()) }
        })
    }

    fn judge(
        &self,
        certificate: Option<&Identity>,
        headers: &mut HeaderMap,
        now: SystemTime,
        proven: &mut Vec<String>,
    ) -> Result<Option<Identity>, Refused> {
        let shown = if self.tokens.is_some() { take_authorization(headers) } else { None };
        if self.tokens.is_none() {
            headers.get_mut(header::AUTHORIZATION).into_iter().for_each(|value| value.set_sensitive(true));
        }
        if let Some(certificate) = certificate {
            self.trust(certificate.as_str(), true)?;
        }
        let token = match (&self.tokens, shown) {
            (Some(tokens), Some(shown)) => Some(self.of_token(tokens, &shown?, now, proven)?),
            (Some(_), None) if self.token_required => return Err(Refused::NoToken),
            _ => None,
        };
        match (certificate, token) {
            (Some(certificate), Some(token)) if *certificate != token => Err(Refused::Mismatch),
            (_, Some(token)) => Ok(Some(token)),
            (Some(certificate), None) => Ok(Some(certificate.clone())),
            (None, None) if self.required => Err(Refused::Anonymous),
            (None, None) => Ok(None),
        }
    }

    fn of_token(
        &self,
        tokens: &Tokens,
        token: &Token,
        now: SystemTime,
        proven: &mut Vec<String>,
    ) -> Result<Identity, Refused> {
        let keys = tokens.jwks.keys().ok_or(Refused::NoKeys)?;
        let claims = keys.verify(token.secret(), &tokens.rules, now).inspect_err(|error| {
            // A key may have been replaced under its name, too.
            if matches!(error, TokenError::UnknownKey | TokenError::Signature) {
                tokens.jwks.lacks();
            }
        })?;
        let name = self.name(&claims)?;
        proven.push(name.clone());
        self.trust(&name, false)?;
        Ok(Identity::of_token(&name, claims.expires, token.clone()))
    }

    /// The name of a token's subject. A plain one cannot be taken for the name
    /// of a certificate.
    fn name(&self, claims: &Claims) -> Result<String, TokenError> {
        let subject = &claims.subject;
        if let Some(account) = subject.strip_prefix("system:serviceaccount:") {
            let fits =
                |part: &&str| !part.is_empty() && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-.".contains(&c));
            let (namespace, name) = account.split_once(':').ok_or(TokenError::Subject)?;
            if !fits(&namespace) || !fits(&name) {
                return Err(TokenError::Subject);
            }
            let domain = self.trust_domains.first().map_or(CLUSTER_LOCAL, String::as_str);
            return Ok(format!("spiffe://{domain}/ns/{namespace}/sa/{name}"));
        }
        Ok(if subject.starts_with("spiffe://") { subject.clone() } else { format!("jwt:{subject}") })
    }

    /// A certificate's name must be of a trust domain where these are named; so
    /// must a token's that is a SPIFFE name.
    fn trust(&self, name: &str, certificate: bool) -> Result<(), Refused> {
        let domain = name.strip_prefix("spiffe://").map(|rest| rest.split('/').next().unwrap_or(rest));
        let known = match domain {
            _ if self.trust_domains.is_empty() => true,
            Some(domain) => self.trust_domains.iter().any(|of| of == domain),
            None => !certificate,
        };
        if known { Ok(()) } else { Err(Refused::TrustDomain) }
    }
}

/// The token is gone from `headers` then: nothing that shows a request shows it.
fn take_authorization(headers: &mut HeaderMap) -> Option<Result<Token, Refused>> {
    let once = headers.get_all(header::AUTHORIZATION).iter().count() == 1;
    let value = headers.remove(header::AUTHORIZATION)?;
    let token = Some(value).filter(|_| once).as_ref().and_then(bearer).map(Token::new);
    Some(token.ok_or(Refused::Scheme))
}

fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    Some(token.trim()).filter(|token| scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
}

#[cfg(test)]
mod tests;
