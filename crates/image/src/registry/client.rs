//! The one door to `oci-client`: its types and errors stay behind here.
//!
//! What it does that we work around: its `pull` holds whole layers in memory (never called); it hashes a blob once or twice beside
//! us unless asked for a range (so we always ask for one); it makes a client of `reqwest` with defaults in passing, which needs a
//! process-wide TLS provider (installed where there is none); it asks `/v2/` before every request to a registry that wants no
//! credentials; it holds a manifest in memory before we can say that it's too long.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use oci_client::client::{BlobResponse, Certificate, CertificateEncoding, ClientConfig, ClientProtocol, LayerDescriptor};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};

use super::Puller;
use super::auth::{Found, find};
use crate::digest::Digest;
use crate::error::{Error, shortened};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;

/// How long a registry may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(20);

/// A registry, as one pull sees it.
pub(super) struct Client {
    oci: oci_client::Client,
    found: Found,
    reference: Reference,
    /// Host and port.
    address: String,
}

/// Why a blob's stream ended before its end.
pub(super) enum Failure {
    WrongDigest,
    Broken(String),
}

impl Client {
    /// Finds the credentials, which may run a helper program, and loads the trusted certificates: call it where blocking is fine.
    pub(super) fn new(puller: &Puller, reference: &Reference) -> Result<Client, Error> {
        let found = find(&puller.credentials, puller.auth_file.as_deref(), reference)?;
        let registry = reference.registry();
        let plain = puller.plain.get(registry).copied().unwrap_or_else(|| reference.is_loopback());
        let host = match registry {
            "docker.io" => "index.docker.io",
            other => other,
        };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit())) && !host.ends_with(']');
        let address = match has_port {
            true => host.to_owned(),
            false => format!("{host}:{}", if plain { 80 } else { 443 }),
        };

        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may have been quicker: then there is one, and that's all we need.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            extra_root_certificates: puller
                .roots
                .iter()
                .map(|pem| Certificate { encoding: CertificateEncoding::Pem, data: pem.clone() })
                .collect(),
            platform_resolver: None,
            read_timeout: Some(SILENCE),
            connect_timeout: Some(CONNECT),
            user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        if reference.is_loopback() {
            reach_directly(&mut config);
        }
        let oci = oci_client::Client::try_from(config).map_err(|e| Error::Tls {
            image: reference.to_string(),
            address: address.clone(),
            why: shortened(&root_cause(&e)),
        })?;
        Ok(Client { oci, found, reference: reference.clone(), address })
    }

    /// The digest of what the tag means, by a HEAD request; none where the registry says it in a form that we don't know.
    pub(super) async fn head(&self) -> Result<Option<Digest>, Error> {
        let answer = self.oci.fetch_manifest_digest(&self.named(None), &self.found.auth).await;
        answer.map(|digest| digest.parse().ok()).map_err(|e| self.explain(e, "the manifest"))
    }

    /// A manifest or an index: that of the reference, or that of a digest.
    pub(super) async fn manifest(&self, digest: Option<&Digest>) -> Result<Bytes, Error> {
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST];
        let answer = self.oci.pull_manifest_raw(&self.named(digest), &self.found.auth, &accept).await;
        answer.map(|(bytes, _)| bytes).map_err(|e| self.explain(e, "the manifest"))
    }

    /// The bytes of a blob from an offset on, and how many of them come before the offset after all.
    pub(super) async fn blob(
        &self,
        digest: &Digest,
        offset: u64,
        part: &str,
    ) -> Result<(BoxStream<'static, Result<Bytes, Failure>>, u64), Error> {
        // Where manifest and config were in the store, this is the first request.
        self.oci.store_auth_if_needed(self.named(None).resolve_registry(), &self.found.auth).await;
        let digest = digest.to_string();
        let descriptor = LayerDescriptor { digest: &digest, urls: &None };
        let answer = self.oci.pull_blob_stream_partial(&self.named(None), &descriptor, offset, None).await;
        let (stream, skip) = match answer.map_err(|e| self.explain(e, part))? {
            BlobResponse::Partial(stream) => (stream, 0),
            BlobResponse::Full(stream) => (stream, offset),
        };
        let failure = |e: io::Error| match e.get_ref().and_then(|e| e.downcast_ref::<DigestError>()) {
            Some(_) => Failure::WrongDigest,
            None => Failure::Broken(why(&e)),
        };
        Ok((stream.stream.map_err(failure).boxed(), skip))
    }

    pub(super) fn interrupted(&self, part: &str, done: u64, total: u64, why: String) -> Error {
        Error::Interrupted { image: self.reference.to_string(), address: self.address.clone(), part: part.to_owned(), done, total, why }
    }

    fn named(&self, digest: Option<&Digest>) -> oci_client::Reference {
        let (registry, repository) = (self.reference.registry().to_owned(), self.reference.repository().to_owned());
        match (digest.or(self.reference.digest()), self.reference.tag()) {
            (Some(digest), _) => oci_client::Reference::with_digest(registry, repository, digest.to_string()),
            (None, tag) => oci_client::Reference::with_tag(registry, repository, tag.unwrap_or("latest").to_owned()),
        }
    }

    /// Says in our words what went wrong with a part of the image.
    fn explain(&self, error: OciDistributionError, part: &str) -> Error {
        match error {
            OciDistributionError::RegistryError { envelope, .. } => {
                let Some(first) = envelope.errors.first() else {
                    return self.said("an error without a reason".into());
                };
                let message = match first.message.as_str() {
                    "" => code(&first.code),
                    message => shortened(message),
                };
                match first.code {
                    OciErrorCode::Unauthorized => self.denied("401 Unauthorized"),
                    OciErrorCode::Denied => self.denied("403 Forbidden"),
                    OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NameInvalid | OciErrorCode::NotFound
                        if part == "the manifest" =>
                    {
                        self.unknown(message)
                    }
                    _ => self.said(format!("{message} ({part})")),
                }
            }
            OciDistributionError::UnauthorizedError { .. } | OciDistributionError::AuthenticationFailure(_) => {
                self.denied("401 Unauthorized")
            }
            OciDistributionError::ServerError { code, message, .. } => match code {
                401 => self.denied("401 Unauthorized"),
                403 => self.denied("403 Forbidden"),
                404 if part == "the manifest" => self.unknown("404 Not Found".into()),
                code => self.said(match shortened(message.trim()).as_str() {
                    "" => format!("HTTP status {code} ({part})"),
                    message => format!("HTTP status {code}: {message} ({part})"),
                }),
            },
            OciDistributionError::DigestError(DigestError::VerificationError { expected, actual }) => Error::Corrupt {
                image: self.reference.to_string(),
                part: part.to_owned(),
                expected: shortened(&expected),
                got: shortened(&actual),
            },
            OciDistributionError::RequestError(e) => self.unreachable(&e),
            OciDistributionError::IoError(e) => self.unreachable(&e),
            other => self.said(shortened(&other.to_string())),
        }
    }

    fn unreachable(&self, error: &(dyn StdError + 'static)) -> Error {
        let (image, address) = (self.reference.to_string(), self.address.clone());
        if let Some(tls) = deepest::<rustls::Error>(error) {
            return Error::Tls { image, address, why: shortened(&tls.to_string()) };
        }
        let why = why(error);
        // tokio-rustls' words for a peer that hung up on our greeting, as a server without TLS may.
        match why.starts_with("tls handshake eof") {
            true => Error::Tls { image, address, why: "the registry hung up".into() },
            false => Error::Unreachable { image, address, why },
        }
    }

    fn unknown(&self, said: String) -> Error {
        Error::UnknownImage { image: self.reference.to_string(), registry: self.reference.registry().to_owned(), said }
    }

    fn said(&self, said: String) -> Error {
        Error::Registry { image: self.reference.to_string(), registry: self.reference.registry().to_owned(), said }
    }

    fn denied(&self, status: &'static str) -> Error {
        Error::Denied {
            image: self.reference.to_string(),
            registry: self.reference.registry().to_owned(),
            status,
            who: self.found.who.clone(),
            looked_in: self.found.looked_in.clone(),
        }
    }
}

/// A registry on this machine isn't behind a proxy, whatever `$HTTP_PROXY` says; requests to others (a token service) may be.
fn reach_directly(config: &mut ClientConfig) {
    let env = |names: [&str; 4]| names.iter().find_map(|n| std::env::var(n).ok().filter(|v| !v.is_empty()));
    config.http_proxy = env(["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]);
    config.https_proxy = env(["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]);
    let others = env(["no_proxy", "NO_PROXY", "no_proxy", "NO_PROXY"]).map_or(String::new(), |v| format!(",{v}"));
    config.no_proxy = Some(format!("localhost,127.0.0.0/8,::1{others}"));
}

fn code(code: &OciErrorCode) -> String {
    shortened(&serde_json::to_value(code).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default())
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
