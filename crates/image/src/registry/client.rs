//! Registries, and what one asks them for beside images to run: what a tag means, which tags there are, what refers to an image.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header::{HeaderMap, LINK};
use rustls::RootCertStore;

use super::failure::{Failure, Kind};
use super::link;
use super::registries_conf::default_files;
use super::session::{Call, Report, Session, scope};
use super::settings::{Proxy, Settings};
use super::source::{Source, configuration};
use crate::digest::Digest;
use crate::error::{Error, Verb};
use crate::manifest::MANIFEST_MAX;
use crate::reference::{Reference, is_tag};

/// The documents that a registry may answer with.
pub(super) const DOCUMENTS: &str = concat!(
    "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json"
);
/// The longest list that is read, over all its pages.
const PAGES_MAX: usize = 32 << 20;
/// It ends after so many pages, whatever the registry says.
const PAGES: usize = 10_000;

/// How registries are reached, and the requests that aren't pulls. Cheap to clone; holds no connection.
///
/// Registries on this machine (`localhost`, 127.0.0.0/8, `[::1]`) are spoken to by plain HTTP, as Docker does; all others by HTTPS,
/// unless [`insecure`](RegistryClient::insecure) says otherwise. Credentials are those of `docker login` and `podman login`, or
/// [`credentials`](RegistryClient::credentials). What fails in passing is tried again.
///
/// Nothing of it is process-wide: TLS, certificates, proxies and credentials are this client's alone. A secret is sent to the host it
/// was given for and to the token service that this host names by HTTPS, never to where either redirects.
///
/// The futures are `Send` and need a tokio runtime with its I/O and time drivers; dropping one stops the request.
///
/// ```no_run
/// # async fn f() -> Result<(), coracle_image::Error> {
/// use coracle_image::RegistryClient;
///
/// let client = RegistryClient::new();
/// for tag in client.tags(&"registry.example/team/app".parse().unwrap()).await? {
///     println!("{tag}");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use]
pub struct RegistryClient {
    pub(super) settings: Settings,
    /// The certificate authorities of this machine, once they were needed.
    pub(super) roots: Arc<OnceLock<RootCertStore>>,
}

/// A manifest or an index as a registry has it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RawManifest {
    /// Its digest: that of the reference, or the sha256 of the bytes.
    pub digest: Digest,
    /// What the registry says it is.
    pub media_type: String,
    /// Exactly what came.
    pub bytes: Bytes,
}

impl RegistryClient {
    /// With the credentials that are found, and no mirrors.
    pub fn new() -> RegistryClient {
        RegistryClient::default()
    }

    /// Speaks plain HTTP to a registry, written as in a reference: `registry.local:5000`. Passwords and images can be read and changed
    /// on the way (images of a digest can't be changed).
    pub fn insecure(mut self, registry: impl Into<String>) -> Self {
        self.settings.plain.insert(registry.into(), true);
        self
    }

    /// Speaks HTTPS to a registry, though it's on this machine.
    pub fn secure(mut self, registry: impl Into<String>) -> Self {
        self.settings.plain.insert(registry.into(), false);
        self
    }

    /// Speaks HTTPS to a registry without a look at its certificate: whoever answers is taken for it, and gets its password.
    pub fn skip_verify(mut self, registry: impl Into<String>) -> Self {
        self.settings.unverified.insert(registry.into());
        self
    }

    /// A user and a password (or token) for a registry, written as in a reference; goes before all that files say.
    pub fn credentials(mut self, registry: impl Into<String>, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.settings.credentials.insert(registry.into(), (user.into(), password.into()));
        self
    }

    /// The one file to look for credentials in, of Docker's `config.json` or Podman's `auth.json` form, instead of
    /// `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json` and
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub fn auth_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.auth_file = Some(path.into());
        self
    }

    /// Trusts certificate authorities beside those of the machine: one or more certificates as PEM.
    pub fn trust(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.settings.roots.push(pem.into());
        self
    }

    /// Shows a registry a certificate of ours, which it asks for by TLS: the chain and its key, both as PEM.
    pub fn client_certificate(mut self, registry: impl Into<String>, certificates: impl Into<Vec<u8>>, key: impl Into<Vec<u8>>) -> Self {
        self.settings.identities.insert(registry.into(), (certificates.into(), key.into()));
        self
    }

    /// Goes through a proxy, `http://user:password@proxy.example:3128` or `socks5://…`, but for the hosts in `except`, a list as
    /// `$NO_PROXY` is: `.example,10.0.0.0/8`. This machine is always reached directly.
    ///
    /// Without it, `$HTTPS_PROXY`, `$HTTP_PROXY`, `$ALL_PROXY` and `$NO_PROXY` say it, in lower case or upper.
    pub fn proxy(mut self, url: impl Into<String>, except: impl Into<String>) -> Self {
        self.settings.proxy = Proxy::Explicit { url: url.into(), except: except.into() };
        self
    }

    /// Goes through no proxy, whatever the environment says.
    pub fn no_proxy(mut self) -> Self {
        self.settings.proxy = Proxy::None;
        self
    }

    /// Asks a mirror, `mirror.example:5000` or `mirror.example/path`, before a registry, and before the mirrors of files. Several are
    /// asked in the order in which they were given. Each has its own credentials. Pushes and deletions go to the registry itself.
    pub fn mirror(mut self, registry: impl Into<String>, mirror: impl Into<String>) -> Self {
        self.settings.mirrors.entry(registry.into()).or_default().push(mirror.into());
        self
    }

    /// Heeds a file of containers-registries.conf(5), version 2, or the `*.conf` of a directory; later ones are stronger. Its short
    /// names are [`candidates`](RegistryClient::candidates)' and [`qualify`](RegistryClient::qualify)'s.
    pub fn registries_conf(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.registries_conf.push((path.into(), true));
        self
    }

    /// Heeds a directory of containerd's form, `DIR/registry.example/hosts.toml`; also Docker's `DIR/registry.example/*.crt`.
    pub fn hosts_dir(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.certs_d.push(path.into());
        self
    }

    /// Heeds the files that Podman and containerd use on this machine: those of containers-registries.conf(5) with their drop-ins, and
    /// `/etc/containerd/certs.d` and `/etc/docker/certs.d`.
    pub fn machine_configuration(mut self) -> Self {
        let env = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        self.settings
            .registries_conf
            .extend(default_files(env, rustix::process::geteuid().is_root()).into_iter().map(|file| (file, false)));
        self.settings.certs_d.extend(["/etc/containerd/certs.d".into(), "/etc/docker/certs.d".into()]);
        self
    }

    /// What a name may mean: itself, where it has a registry. Without one, `fedora:40`, what the files of
    /// [`registries_conf`](RegistryClient::registries_conf) say: the one meaning of an alias, or one for each of their
    /// `unqualified-search-registries`, of which there may be none. Where no file says anything it's Docker's. Reads the files; asks nobody.
    ///
    /// # Errors
    /// [`Error::Setting`] for what isn't a name, or a file that can't be used; [`Error::Disk`].
    pub fn candidates(&self, name: &str) -> Result<Vec<Reference>, Error> {
        let fail = |error: crate::ParseReferenceError| Error::Setting { what: "a name".into(), why: error.to_string() };
        // Most programs heed no files.
        if self.settings.registries_conf.is_empty() {
            return Ok(vec![name.parse().map_err(fail)?]);
        }
        configuration(&self.settings)?.candidates(name).map_err(fail)
    }

    /// The one thing that a name means.
    ///
    /// # Errors
    /// [`Error::ShortName`] where it may mean several or nothing; as [`candidates`](RegistryClient::candidates).
    pub fn qualify(&self, name: &str) -> Result<Reference, Error> {
        let mut candidates = self.candidates(name)?;
        match candidates.len() {
            1 => Ok(candidates.swap_remove(0)),
            _ => Err(Error::ShortName { name: crate::error::shortened(name), candidates }),
        }
    }

    /// How often what failed in passing (a broken connection, silence, HTTP 408, 429, 500, 502, 503 and 504) is tried again: 4 times,
    /// after 0.2 s, 0.4 s and so on, up to 10 s, less a random part. Where bytes came in between, they count anew.
    pub fn retries(mut self, retries: u32) -> Self {
        self.settings.retries = retries;
        self
    }

    /// How long connecting to a registry may take: 20 s. A `dial_timeout` of hosts.toml goes before it, for its host.
    pub fn dial_timeout(mut self, time: Duration) -> Self {
        self.settings.dial = time;
        self
    }

    /// How long a registry may be silent before the connection counts as broken: 30 s.
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.settings.stall = time;
        self
    }

    /// How many bytes a second an answer has to bring, on average over `window` of waiting for it, before the connection counts as
    /// broken, as by silence: 1000 over 60 s. What is fetched slowly because the disk is slow doesn't count. With 0 any rate is enough.
    ///
    /// It's a bound for peers that keep a pull alive with a byte now and then ([`stall_timeout`](RegistryClient::stall_timeout) doesn't
    /// see those), far below the slowest link.
    pub fn minimum_rate(mut self, bytes_a_second: u64, window: Duration) -> Self {
        self.settings.rate = (bytes_a_second, window);
        self
    }

    /// The longest wait that a registry may ask for (`Retry-After`): 60 s. One that asks for more is an error at once.
    pub fn longest_wait(mut self, time: Duration) -> Self {
        self.settings.patience = time;
        self
    }

    /// Over how many connections a layer of 64 MiB or more is fetched where one gives less than 20 MB/s: 4. With 1 it stays one.
    /// Each but the first holds 8 MiB in memory.
    pub fn connections(mut self, connections: usize) -> Self {
        self.settings.ranges = connections.max(1);
        self
    }

    pub(super) async fn session(&self, reference: &Reference, verb: Verb, report: Report) -> Result<Session, Error> {
        let (client, reference) = (self.clone(), reference.clone());
        let image = reference.to_string();
        let make = move || Session::new(client.settings, &client.roots, reference, verb, report);
        match tokio::task::spawn_blocking(make).await {
            Ok(session) => session,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(Error::Stopped { verb, image }),
        }
    }

    /// What a reference means now: the digest of a manifest or an index.
    ///
    /// # Errors
    /// [`Error::UnknownImage`], and all that says why a registry couldn't be asked.
    pub async fn resolve(&self, reference: &Reference) -> Result<Digest, Error> {
        let session = self.session(reference, Verb::Resolve, Report::default()).await?;
        match session.head().await? {
            Some(digest) => Ok(digest),
            None => Ok(session.manifest(None).await?.digest),
        }
    }

    /// The manifest or the index that a reference means, as the registry has it. It was checked against the reference's digest.
    ///
    /// # Errors
    /// [`Error::UnknownImage`], [`Error::Corrupt`], and all that says why a registry couldn't be asked.
    pub async fn manifest(&self, reference: &Reference) -> Result<RawManifest, Error> {
        let session = self.session(reference, Verb::Manifest, Report::default()).await?;
        session.manifest(reference.digest()).await
    }

    /// The tags of a repository, as the registry lists them, but for what can't be a tag; the reference's own doesn't matter.
    ///
    /// # Errors
    /// [`Error::Registry`] where there is no such repository, and all that says why a registry couldn't be asked.
    pub async fn tags(&self, reference: &Reference) -> Result<Vec<String>, Error> {
        #[derive(serde::Deserialize)]
        struct Page {
            tags: Option<Vec<String>>,
        }
        let session = self.session(reference, Verb::Tags, Report::default()).await?;
        let pages = |source| session.pages(source, "tags/list?n=1000");
        let pages: Vec<Page> = session.ask_sources(true, "the list of tags", pages).await?.0;
        let tags = pages.into_iter().flat_map(|page| page.tags.unwrap_or_default());
        Ok(tags.filter(|tag| is_tag(tag)).collect())
    }

    /// Deletes a manifest, if the reference has a digest, with all tags of it; else the tag alone. Not every registry lets one.
    ///
    /// # Errors
    /// [`Error::UnknownImage`]; [`Error::Registry`] where the registry doesn't delete; all that says why it couldn't be asked.
    pub async fn delete(&self, reference: &Reference) -> Result<(), Error> {
        let session = self.session(reference, Verb::Delete, Report::default()).await?;
        let source = session.registry();
        let name = match reference.digest() {
            Some(digest) => digest.to_string(),
            None => reference.tag().unwrap_or("latest").to_owned(),
        };
        let scope = scope(&source.repository, "delete");
        let call = session.call(source, Method::DELETE, &format!("manifests/{name}"), &scope);
        let deleted = match call {
            Ok(call) => session.success(source, call).await.map(drop),
            Err(failure) => Err(failure),
        };
        match deleted {
            Ok(()) => Ok(()),
            Err(failure) => Err(session.explain(failure, source, "the manifest").await),
        }
    }
}

impl fmt::Debug for RegistryClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RegistryClient").field(&self.settings).finish()
    }
}

impl Session {
    /// A request for something in the repository.
    pub(super) fn call<'a>(&self, source: &Source, method: Method, path: &str, scope: &'a str) -> Result<Call<'a>, Failure> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let mut url = source.url(path).map_err(|why| Failure::new(source.address(), Kind::Nonsense(why)))?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            url.query_pairs_mut().append_pair(name, value);
        }
        Ok(Call::new(method, url, scope))
    }

    /// The path of what the reference means, or of a digest.
    fn path(&self, digest: Option<&Digest>) -> String {
        match (digest.or(self.reference.digest()), self.reference.tag()) {
            (Some(digest), _) => format!("manifests/{digest}"),
            (None, tag) => format!("manifests/{}", tag.unwrap_or("latest")),
        }
    }

    /// The digest of what the reference means, by a HEAD request, which registries don't count; none where a GET has to tell.
    pub(super) async fn head(&self) -> Result<Option<Digest>, Error> {
        // Only who is asked first: a GET goes on from there.
        let Some(source) = self.asked_for(self.reference.digest().is_none()).into_iter().next() else {
            return Ok(None);
        };
        match self.head_of(source).await {
            Ok(digest) => Ok(digest),
            Err(failure) if source.mirror => {
                self.mirror_failed(source, &failure, "the manifest");
                Ok(None)
            }
            Err(failure) => Err(self.explain(failure, source, "the manifest").await),
        }
    }

    async fn head_of(&self, source: &Source) -> Result<Option<Digest>, Failure> {
        let scope = scope(&source.repository, "pull");
        let call = self.call(source, Method::HEAD, &self.path(None), &scope)?.accept(DOCUMENTS);
        let response = self.request(source, call).await?;
        // What a HEAD fails with it can't say.
        Ok(match response.status().is_success() {
            true => said_digest(response.headers()),
            false => None,
        })
    }

    /// A manifest or an index: that of the reference, or that of a digest. Its bytes are right.
    pub(super) async fn manifest(&self, digest: Option<&Digest>) -> Result<RawManifest, Error> {
        let tag = digest.is_none() && self.reference.digest().is_none();
        let path = self.path(digest);
        let expected = digest.or(self.reference.digest());
        self.ask_sources(tag, "the manifest", |source| self.fetch_manifest(source, &path, expected)).await
    }

    /// Another document of the repository, if it's there.
    pub(super) async fn other(&self, path: &str, digest: Option<&Digest>) -> Result<Option<RawManifest>, Error> {
        let ask = async |source| match self.fetch_manifest(source, path, digest).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Failure { kind: Kind::Status(status), .. }) if status.is_unknown() && !source.mirror => Ok(None),
            Err(failure) => Err(failure),
        };
        self.ask_sources(digest.is_none(), "the manifest", ask).await
    }

    pub(super) async fn fetch_manifest(&self, source: &Source, path: &str, expected: Option<&Digest>) -> Result<RawManifest, Failure> {
        let scope = scope(&source.repository, "pull");
        let call = self.call(source, Method::GET, path, &scope)?.accept(DOCUMENTS);
        let (headers, announced, bytes) = self.document(source, call, MANIFEST_MAX as usize).await?;
        let said = said_digest(&headers);
        let media_type = headers.get(reqwest::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let media_type = media_type.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned();
        let corrupt = |expected: String, got: String| {
            let (image, part) = (self.reference.to_string(), "the manifest".to_owned());
            Err(Failure::new(source.address(), Kind::Other(Box::new(Error::Corrupt { image, part, expected, got }))))
        };
        if bytes.len() as u64 > MANIFEST_MAX {
            return corrupt(
                "at most 4 MiB".into(),
                match announced {
                    Some(length) => format!("{length} bytes"),
                    None => "more".into(),
                },
            );
        }
        // By tag, the registry's own word is checked: it may be another algorithm's.
        if let Some(expected) = expected.or(said.as_ref()) {
            let got = Digest::of(expected.algorithm(), &bytes);
            if got != *expected {
                return corrupt(expected.to_string(), got.to_string());
            }
        }
        let digest = expected.cloned().unwrap_or_else(|| Digest::sha256(&bytes));
        Ok(RawManifest { digest, media_type, bytes })
    }

    /// All pages of a list, and the headers of the first.
    pub(super) async fn pages<T: serde::de::DeserializeOwned>(&self, source: &Source, path: &str) -> Result<(Vec<T>, HeaderMap), Failure> {
        let scope = scope(&source.repository, "pull");
        let mut call = self.call(source, Method::GET, path, &scope)?;
        let (mut pages, mut first, mut total) = (Vec::new(), None, 0);
        let nonsense = |why: &str| Failure::new(source.address(), Kind::Nonsense(why.to_owned()));
        for _ in 0..PAGES {
            let here = call.url.clone();
            let (headers, _, body) = self.document(source, call, PAGES_MAX).await?;
            let next = headers.get(LINK).and_then(|v| v.to_str().ok()).and_then(link::next);
            let next = next.map(|target| here.join(target)).transpose().map_err(|_| nonsense("its next page isn't at an address"))?;
            total += body.len();
            if total > PAGES_MAX {
                return Err(nonsense("its list has no end"));
            }
            pages.push(serde_json::from_slice(&body).map_err(|_| nonsense("a list that isn't as it should be"))?);
            first.get_or_insert(headers);
            match next {
                None => return Ok((pages, first.unwrap_or_default())),
                Some(next) if !source.owns(&next) => return Err(nonsense("its next page is on another host")),
                Some(next) if next == here => return Err(nonsense("its list has no end")),
                Some(next) => call = Call::new(Method::GET, next, &scope),
            }
        }
        Err(nonsense("its list has no end"))
    }
}

/// What a registry says that a document's digest is.
pub(super) fn said_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
