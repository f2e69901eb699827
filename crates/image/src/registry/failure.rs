//! Why a request came to nothing; which failures pass if one waits, and how each is said to a person.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use reqwest::StatusCode;

use crate::error::{Error, Verb, shortened};

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    /// Host and port of who was asked, or would have been.
    pub(super) address: String,
    pub(super) kind: Kind,
}

#[derive(Debug)]
pub(super) enum Kind {
    /// No connection.
    Unreachable(String),
    Tls(String),
    /// A connection that broke off, fell silent, or trickled.
    Broken(String),
    /// The registry doesn't like what it was shown.
    Denied(&'static str),
    Status(Status),
    /// We were told to do what we don't.
    Unsafe(String),
    /// The answer can't be one.
    Nonsense(String),
    Other(Box<Error>),
}

/// An answer that isn't the one that was hoped for.
#[derive(Debug)]
pub(super) struct Status {
    pub(super) code: StatusCode,
    /// The first error's code of the registry's list: `MANIFEST_UNKNOWN`.
    pub(super) name: Option<String>,
    /// The registry's words.
    pub(super) message: String,
    /// How long it asks us to wait.
    pub(super) wait: Option<Duration>,
}

impl Status {
    /// Reads a registry's list of errors, or a text.
    pub(super) fn new(code: StatusCode, body: &[u8], wait: Option<Duration>) -> Status {
        let json: Option<serde_json::Value> = serde_json::from_slice(body).ok();
        let first = json.as_ref().and_then(|v| v.get("errors")?.get(0));
        match first {
            Some(first) => {
                let text = |name: &str| first.get(name).and_then(|v| v.as_str()).unwrap_or_default();
                let name = shortened(text("code"));
                let message = match text("message").trim() {
                    "" => name.clone(),
                    message => shortened(message),
                };
                Status { code, name: Some(name), message, wait }
            }
            None => Status { code, name: None, message: shortened(String::from_utf8_lossy(body).trim()), wait },
        }
    }

    /// Whether it says that the thing isn't there.
    pub(super) fn is_unknown(&self) -> bool {
        match self.name.as_deref() {
            Some("MANIFEST_UNKNOWN" | "NAME_UNKNOWN" | "NAME_INVALID" | "NOT_FOUND" | "BLOB_UNKNOWN") => true,
            Some(_) => false,
            None => self.code == StatusCode::NOT_FOUND,
        }
    }

    fn is_passing(&self) -> bool {
        is_passing(self.code)
    }

    /// `too many requests (the manifest)`, `HTTP status 500: oh (the manifest)`.
    fn said(&self, part: Option<&str>) -> String {
        let part = part.map(|part| format!(" ({part})")).unwrap_or_default();
        let said = match (&self.name, self.message.as_str()) {
            (Some(_), "") => "an error without a reason".to_owned(),
            (Some(_), message) => format!("{message}{part}"),
            (None, "") => format!("HTTP status {}{part}", self.code.as_u16()),
            (None, message) => format!("HTTP status {}: {message}{part}", self.code.as_u16()),
        };
        match self.wait {
            Some(wait) if self.is_passing() && !wait.is_zero() => format!("{said}; it asks to wait {} s", wait.as_secs()),
            _ => said,
        }
    }
}

/// Whether it's worth asking again after a while.
pub(super) fn is_passing(code: StatusCode) -> bool {
    matches!(code.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

impl Failure {
    pub(super) fn new(address: impl Into<String>, kind: Kind) -> Failure {
        Failure { address: address.into(), kind }
    }

    /// What became of a request that got no answer.
    pub(super) fn of_request(address: impl Into<String>, error: &reqwest::Error) -> Failure {
        let kind = if let Some(tls) = deepest::<rustls::Error>(error) {
            Kind::Tls(shortened(&tls.to_string()))
        } else {
            let why = why(error);
            // tokio-rustls' words for a peer that hung up on our greeting, as a server without TLS may.
            match why.starts_with("tls handshake eof") {
                true => Kind::Tls("the registry hung up".into()),
                false if error.is_connect() => Kind::Unreachable(why),
                false => Kind::Broken(why),
            }
        };
        Failure::new(address, kind)
    }

    pub(super) fn silent(address: impl Into<String>, after: Duration) -> Failure {
        Failure::new(address, Kind::Broken(format!("nothing came for {} s", after.as_secs_f32())))
    }

    pub(super) fn slow(address: impl Into<String>, came: u64, waited: Duration) -> Failure {
        Failure::new(address, Kind::Broken(format!("no more than {came} bytes came in {:.1} s", waited.as_secs_f32())))
    }

    /// Whether it's worth trying again after a while.
    pub(super) fn is_passing(&self) -> bool {
        match &self.kind {
            Kind::Broken(_) => true,
            Kind::Status(status) => status.is_passing(),
            _ => false,
        }
    }

    /// How long the registry asks us to wait.
    pub(super) fn wait(&self) -> Duration {
        match &self.kind {
            Kind::Status(status) => status.wait.unwrap_or_default(),
            _ => Duration::ZERO,
        }
    }

    /// In few words, for a list: what its host did with a part of the image, or with something that was just told.
    pub(super) fn brief(&self, part: Option<&str>) -> String {
        match &self.kind {
            Kind::Unreachable(why) => format!("can't be reached: {why}"),
            Kind::Tls(why) => format!("has no TLS to be trusted: {why}"),
            Kind::Broken(why) => format!("broke off: {why}"),
            Kind::Denied(status) => format!("said {status}"),
            Kind::Status(status) => format!("said {}", status.said(part)),
            Kind::Unsafe(why) => why.clone(),
            Kind::Nonsense(why) => format!("answered nonsense: {why}"),
            Kind::Other(error) => format!("couldn't be asked: {error}"),
        }
    }

    /// As an error of the crate.
    pub(super) fn explain(self, told: Told<'_>) -> Error {
        let Told { verb, image, registry, part, who, looked_in } = told;
        let (image, registry) = (image.to_owned(), registry.to_owned());
        let denied = |status| Error::Denied {
            verb,
            image: image.clone(),
            registry: registry.clone(),
            status,
            who: who.clone(),
            looked_in: looked_in.clone(),
        };
        match self.kind {
            Kind::Unreachable(why) | Kind::Broken(why) => Error::Unreachable { verb, image, address: self.address, why },
            Kind::Tls(why) => Error::Tls { verb, image, address: self.address, why },
            Kind::Denied(status) => denied(status),
            Kind::Unsafe(why) => Error::Unsafe { verb, image, address: self.address, why },
            Kind::Nonsense(why) => Error::Registry { verb, image, registry, said: format!("{why} ({part})") },
            Kind::Other(error) => *error,
            Kind::Status(status) => match (status.name.as_deref(), status.code.as_u16()) {
                (Some("UNAUTHORIZED"), _) | (None, 401) => denied("401 Unauthorized"),
                (Some("DENIED"), _) | (None, 403) => denied("403 Forbidden"),
                _ if status.is_unknown() && part == "the manifest" => {
                    let said = if status.message.is_empty() { "404 Not Found".to_owned() } else { status.message };
                    Error::UnknownImage { verb, image, registry, said }
                }
                _ => Error::Registry { verb, image, registry, said: status.said(Some(part)) },
            },
        }
    }
}

/// What an error tells beside the failure.
pub(super) struct Told<'a> {
    pub(super) verb: Verb,
    pub(super) image: &'a str,
    pub(super) registry: &'a str,
    pub(super) part: &'a str,
    pub(super) who: String,
    pub(super) looked_in: Vec<String>,
}

/// What the system said, at the bottom of a library's errors.
fn why(error: &(dyn StdError + 'static)) -> String {
    match deepest::<io::Error>(error) {
        // "connection refused" rather than "Connection refused (os error 111)".
        Some(io) if io.raw_os_error().is_some() && io.kind().to_string() != "uncategorized error" => io.kind().to_string(),
        Some(io) => shortened(&root_cause(io)),
        None => shortened(&root_cause(error)),
    }
}

/// The innermost error of a kind. An `io::Error` hides what it holds from `source`.
fn deepest<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let inside = match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|e| e as &(dyn StdError + 'static)),
        None => error.source(),
    };
    inside.and_then(deepest::<T>).or_else(|| error.downcast_ref::<T>())
}

fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let inside = match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|e| e as &(dyn StdError + 'static)),
        None => error.source(),
    };
    inside.map_or_else(|| error.to_string(), root_cause)
}
