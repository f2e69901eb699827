//! What a registry wants to see, and what it's shown: nothing, a password, or a token that its token service gave out
//! (distribution, "Token Authentication Specification").
//!
//! # Whom a secret is sent to
//!
//! A password goes to the registry it was given for, when the registry asks for one, and to the token service that this registry
//! names. As everywhere in the field, the service may be another host (Docker Hub's is): who answers for a registry over TLS decides
//! who checks its users. So that nobody else decides it:
//!
//! * a challenge counts from the registry's own origin only, never from a host that it redirected to;
//! * the service is reached by HTTPS; by plain HTTP only where the registry itself is, and on the registry's own host, or one that was
//!   named by `insecure`;
//! * no secret follows a redirect to another origin, from the registry or from the service;
//! * a mirror is shown the mirror's credentials, never the registry's.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::challenge::Challenge;
use super::settings::Settings;
use super::source::Source;
use crate::error::shortened;
use crate::reference::is_loopback;

/// The longest answer of a token service that is read.
pub(super) const TOKEN_MAX: usize = 1 << 20;
/// How long a token lives that doesn't say, and the least that one does.
const SHORTEST: u64 = 60;

/// What a source has been shown so far.
#[derive(Default)]
pub(super) struct Access {
    /// `Basic …`, for everything.
    basic: Option<HeaderValue>,
    /// `Bearer …`, by scope.
    tokens: HashMap<String, (HeaderValue, Instant)>,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("basic", &self.basic.is_some()).field("tokens", &self.tokens.keys()).finish()
    }
}

impl Access {
    /// The header `Authorization` for a scope, if it's known what to show.
    pub(super) fn header(&self, scope: &str) -> Option<HeaderValue> {
        let token = self.tokens.get(scope).filter(|(_, until)| Instant::now() < *until).map(|(header, _)| header.clone());
        token.or_else(|| self.basic.clone())
    }

    pub(super) fn keep_basic(&mut self, header: HeaderValue) {
        self.basic = Some(header);
    }

    pub(super) fn keep_token(&mut self, scope: &str, token: Token) {
        self.tokens.insert(scope.to_owned(), (token.header, Instant::now() + token.lives));
    }

    /// Whether anything was shown.
    pub(super) fn any(&self) -> bool {
        self.basic.is_some() || !self.tokens.is_empty()
    }
}

/// `Basic …` of a user and a password.
pub(super) fn basic(user: &str, password: &str) -> HeaderValue {
    secret(format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))).expect("base64 can stand in a header")
}

/// `Bearer …` of a token.
pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    secret(format!("Bearer {token}"))
}

fn secret(value: String) -> Option<HeaderValue> {
    let mut header = HeaderValue::try_from(value).ok()?;
    header.set_sensitive(true);
    Some(header)
}

/// A token service, as a registry named it.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) realm: Url,
    pub(super) service: Option<String>,
    /// What the registry wants a token for.
    pub(super) scope: Option<String>,
}

impl Service {
    /// What a challenge names; the error is why it isn't safe to go there.
    pub(super) fn new(challenge: &Challenge, source: &Source, settings: &Settings) -> Result<Service, String> {
        let text = challenge.get("realm").unwrap_or_default();
        let fail = |why: &str| format!("names the token service {:?}, {why}", shortened(text));
        let realm = Url::parse(text).map_err(|_| fail("which isn't an address"))?;
        if !realm.username().is_empty() || realm.password().is_some() {
            return Err(fail("with a user's name in it"));
        }
        let host = realm.host_str().ok_or_else(|| fail("which has no host"))?;
        match realm.scheme() {
            "https" => {}
            "http" => {
                let authority = match realm.port() {
                    Some(port) => format!("{host}:{port}"),
                    None => host.to_owned(),
                };
                let own = source.url("").ok().and_then(|url| url.host_str().map(str::to_owned));
                let known = own.as_deref() == Some(host)
                    || settings.plain.get(&authority) == Some(&true)
                    || is_loopback(&authority) && own.as_deref().is_some_and(is_loopback);
                if !(source.plain() && known) {
                    return Err(fail("which would read the password without TLS"));
                }
            }
            _ => return Err(fail("which is neither of https nor of http")),
        }
        let text = |name: &str| challenge.get(name).filter(|v| !v.is_empty()).map(str::to_owned);
        Ok(Service { realm, service: text("service"), scope: text("scope") })
    }

    /// The parameters of a request, for what we want and what the registry said we'd need.
    pub(super) fn parameters(&self, scope: &str) -> Vec<(&'static str, String)> {
        let mut scopes: Vec<&str> = scope.split(' ').filter(|s| !s.is_empty()).collect();
        for wanted in self.scope.as_deref().unwrap_or_default().split(' ') {
            if !wanted.is_empty() && !scopes.contains(&wanted) {
                scopes.push(wanted);
            }
        }
        let scopes = scopes.into_iter().map(|s| ("scope", s.to_owned()));
        scopes.chain(self.service.clone().map(|s| ("service", s))).collect()
    }
}

/// A token that was given out.
pub(super) struct Token {
    header: HeaderValue,
    lives: Duration,
}

impl Token {
    /// Reads the answer of a token service.
    pub(super) fn parse(body: &[u8]) -> Option<Token> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<f64>,
        }
        let answer: Answer = serde_json::from_slice(body).ok()?;
        let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).filter(|t| !t.is_empty())?;
        // A wild number is no reason not to pull; a day is long enough.
        let lives = answer.expires_in.map_or(SHORTEST, |s| s.clamp(SHORTEST as f64, 86_400.0) as u64);
        Some(Token { header: bearer(&token)?, lives: Duration::from_secs(lives) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(body: &str) -> Option<(String, u64)> {
        Token::parse(body.as_bytes()).map(|t| (t.header.to_str().unwrap().to_owned(), t.lives.as_secs()))
    }

    #[test]
    fn tokens_are_read_in_both_forms() {
        let cases = [
            (r#"{"token": "a", "expires_in": 300}"#, Some(("Bearer a", 300))),
            (r#"{"access_token": "b"}"#, Some(("Bearer b", 60))),
            (r#"{"token": "", "access_token": "b", "expires_in": -5}"#, Some(("Bearer b", 60))),
            (r#"{"token": "a", "expires_in": 1e300, "issued_at": "2020-01-01T00:00:00Z"}"#, Some(("Bearer a", 86_400))),
            (r#"{"token": "a\r\nX-Evil: 1"}"#, None),
            ("{}", None),
            ("[]", None),
        ];
        for (body, expected) in cases {
            assert_eq!(token(body), expected.map(|(t, s)| (t.to_owned(), s)), "{body}");
        }
    }
}
