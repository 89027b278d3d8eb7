//! What is checked of identity: tokens, trust domains, rules, credentials.

use super::check::Check;
use super::{ClientTls, Credentials, Flags, Jwks, Jwt};
use crate::group::Authorize;
use crate::xds::TypeUrl;
use crate::xds::web::WebAddress;
use serde_json::Value as Json;
use std::path::PathBuf;

impl Check {
    /// `private`: what clients send is not seen on the way.
    pub(super) fn jwt(&mut self, flags: &Flags, private: bool) -> Option<Jwt> {
        let ca = self.file("--jwt-ca", &flags.jwt_ca);
        let token_file = self.file("--jwt-token-file", &flags.jwt_token_file);
        let Some(text) = &flags.jwt_jwks else {
            let given = [
                ("--jwt-issuer", flags.jwt_issuer.is_some()),
                ("--jwt-audience", !flags.jwt_audience.is_empty()),
                ("--jwt-ca", ca.is_some()),
                ("--jwt-token-file", token_file.is_some()),
            ];
            for (flag, _) in given.into_iter().filter(|(_, given)| *given) {
                self.problem(flag, "says how tokens are verified, and none are; add --jwt-jwks");
            }
            return None;
        };
        let jwks = match Jwks::parse(text) {
            Ok(Jwks::File(_)) => {
                for (flag, _) in
                    [("--jwt-ca", &ca), ("--jwt-token-file", &token_file)].iter().filter(|(_, of)| of.is_some())
                {
                    self.problem(flag, "is for a --jwt-jwks that is fetched; leave it out where that is a file");
                }
                Jwks::File(self.file("--jwt-jwks", &flags.jwt_jwks)?)
            }
            parsed => self.take("--jwt-jwks", text, parsed)?,
        };
        if flags.jwt_issuer.is_none() {
            self.problem(
                "--jwt-jwks",
                "is given without an issuer, so that tokens made for others would count; add --jwt-issuer",
            );
        }
        if flags.jwt_audience.is_empty() {
            self.problem(
                "--jwt-jwks",
                "is given without an audience, so that tokens made for others would count; add --jwt-audience",
            );
        }
        if !private {
            self.problem("--jwt-jwks", "would have clients send tokens in plain text; add --tls-cert and --tls-key, or listen on loopback addresses alone");
        }
        let issuer = flags.jwt_issuer.clone().unwrap_or_default();
        Some(Jwt { jwks, issuer, audiences: flags.jwt_audience.clone(), ca, token_file })
    }

    pub(super) fn trust_domains(&mut self, flags: &Flags) -> Vec<String> {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c);
        for name in flags.trust_domain.iter().filter(|name| name.is_empty() || !name.chars().all(fits)) {
            self.refuse("--trust-domain", name, "is no trust domain; write one as it stands in spiffe://NAME/…");
        }
        flags.trust_domain.clone()
    }

    pub(super) fn credentials(&mut self, flags: &Flags, tls: Option<&ClientTls>) -> Credentials {
        const FLAG: &str = "--upstream-credentials";
        let token = flags.upstream_token_file.is_some();
        let Some(text) = &flags.upstream_credentials else {
            return if token { Credentials::File } else { Credentials::Own };
        };
        let choices = [("own", Credentials::Own), ("file", Credentials::File), ("member", Credentials::Member)];
        let chosen = self.one_of(FLAG, text, &choices);
        match chosen {
            Credentials::File if !token => self.refuse(FLAG, text, "needs the file; add --upstream-token-file"),
            Credentials::File => {}
            Credentials::Own | Credentials::Member if token => {
                self.refuse(FLAG, text, "leaves --upstream-token-file unused; say file, or leave that out");
            }
            Credentials::Own => {}
            Credentials::Member => {
                if tls.is_none() {
                    self.refuse(
                        FLAG,
                        text,
                        "would send the tokens of sidecars in plain text; add --upstream-tls or --upstream-ca",
                    );
                }
                if tls.is_some_and(|tls| tls.certificate.is_some()) {
                    let what = "shows no certificate of ours, for which control planes would ignore the token; leave --upstream-cert out";
                    self.refuse(FLAG, text, what);
                }
                if flags.jwt_jwks.is_none() {
                    self.refuse(FLAG, text, "passes on tokens that were verified here; add --jwt-jwks");
                }
            }
        }
        chosen
    }

    pub(super) fn authorize(&mut self, flags: &Flags) -> Authorize {
        const FLAG: &str = "--authorize";
        // The environment has one value for all rules: a list.
        let rules = flags.authorize.iter().flat_map(|text| match serde_json::from_str(text) {
            Ok(Json::Array(rules)) => rules.iter().map(Json::to_string).collect(),
            _ => vec![text.clone()],
        });
        let rules: Vec<String> = rules.collect();
        for rule in &rules {
            if let Err(error) = Authorize::read([rule]) {
                let named = serde_json::from_str::<Json>(rule).ok();
                let named = named.and_then(|rule| rule.get("identity")?.as_str().map(str::to_owned));
                self.refuse(FLAG, named.as_ref().unwrap_or(rule), error.to_string());
            }
        }
        Authorize::read(&rules).unwrap_or_default()
    }

    pub(super) fn sensitive_types(&mut self, flags: &Flags) -> Vec<TypeUrl> {
        let parse =
            |text: &String| if text.contains('/') { Some(TypeUrl::new(text)) } else { TypeUrl::from_short(text) };
        let mut types = Vec::new();
        for text in &flags.sensitive_types {
            let parsed = parse(text).ok_or_else(|| "names no type; write sds, ecds, … or a whole type URL".to_owned());
            types.extend(self.take("--sensitive-types", text, parsed));
        }
        types
    }
}

impl Jwks {
    /// A path, or the URL of what may be fetched.
    fn parse(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(PathBuf::from(text)));
        }
        let fits = text.parse::<WebAddress>();
        fits.map(|_| Self::Url(text.into())).map_err(|error| error.to_string())
    }
}
