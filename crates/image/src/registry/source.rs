//! Where an image may be had: its registry, and the mirrors before it.
//!
//! Only these are ever asked. What a manifest says of other places (`urls`) isn't looked at.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Mutex, OnceCell};

use super::credentials::{Found, find};
use super::hosts_toml::{self, Host};
use super::registries_conf::RegistriesConf;
use super::settings::Settings;
use super::token::Access;
use super::transport::Tls;
use crate::error::{Error, Verb, disk};
use crate::reference::{Reference, is_loopback};

/// One host that has the repository.
#[derive(Debug)]
pub(super) struct Source {
    /// As it stands in references; credentials are looked up by it.
    pub(super) name: String,
    pub(super) repository: String,
    /// Host, with its port where it isn't the usual one.
    authority: String,
    /// What stands before the repository, `/v2/`.
    prefix: String,
    plain: AtomicBool,
    /// HTTPS without a look at the certificate, and plain HTTP where there is no TLS.
    pub(super) lax: bool,
    pub(super) tls: Tls,
    /// How long connecting may take.
    pub(super) dial: Duration,
    headers: HeaderMap,
    /// Whose images a mirror is to serve (containerd's parameter `ns`).
    namespace: Option<String>,
    pub(super) mirror: bool,
    /// Whether it may be asked what a tag means, and for what has a digest.
    pub(super) resolve: bool,
    pub(super) pull: bool,
    /// It failed, or lied: it isn't asked again.
    pub(super) down: AtomicBool,
    pub(super) access: Mutex<Access>,
    found: OnceCell<Found>,
    /// Who is asked for credentials, where files say it.
    helpers: Option<Vec<String>>,
}

impl Source {
    fn new(settings: &Settings, name: &str, repository: &str) -> Source {
        let authority = match name {
            // Docker Hub's registry has another name than its images.
            "docker.io" => "registry-1.docker.io".to_owned(),
            other => other.to_owned(),
        };
        let plain = settings.plain.get(name).copied().unwrap_or_else(|| is_loopback(name));
        let tls = Tls {
            roots: settings.roots.clone(),
            identity: settings.identities.get(name).cloned(),
            unverified: settings.unverified.contains(name),
        };
        Source {
            name: name.to_owned(),
            repository: repository.to_owned(),
            authority,
            prefix: "/v2/".to_owned(),
            plain: AtomicBool::new(plain),
            lax: false,
            tls,
            dial: settings.dial,
            headers: HeaderMap::new(),
            namespace: None,
            mirror: false,
            resolve: true,
            pull: true,
            down: AtomicBool::new(false),
            access: Mutex::default(),
            found: OnceCell::new(),
            helpers: None,
        }
    }

    fn into_mirror(mut self) -> Source {
        self.mirror = true;
        self
    }

    /// What `insecure = true` of registries.conf means.
    fn lax(mut self, settings: &Settings) -> Source {
        if !settings.plain.contains_key(&self.name) && !is_loopback(&self.name) {
            self.lax = true;
            self.tls.unverified = true;
        }
        self
    }

    /// What hosts.toml says of it.
    fn of_host(settings: &Settings, host: &Host, reference: &Reference) -> Result<Source, Error> {
        let mut source = Source::new(settings, &host.authority, reference.repository());
        source.prefix.clone_from(&host.prefix);
        source.plain = AtomicBool::new(settings.plain.get(&host.authority).copied().unwrap_or(host.plain));
        source.tls.unverified |= host.skip_verify;
        source.dial = host.dial.unwrap_or(source.dial);
        for path in &host.ca {
            source.tls.roots.push(fs::read(path).map_err(disk("read", path))?);
        }
        if let Some((certificate, key)) = &host.client {
            let chain = fs::read(certificate).map_err(disk("read", certificate))?;
            let key = match key {
                Some(path) => fs::read(path).map_err(disk("read", path))?,
                None => chain.clone(),
            };
            source.tls.identity = Some((chain, key));
        }
        for (name, value) in &host.headers {
            let fail = |why: String| Error::Setting { what: format!("the header {name:?} for {}", host.authority), why };
            let name = name.parse::<HeaderName>().map_err(|e| fail(e.to_string()))?;
            let mut value = HeaderValue::from_str(value).map_err(|e| fail(e.to_string()))?;
            value.set_sensitive(true);
            source.headers.append(name, value);
        }
        (source.pull, source.resolve) = (host.pull, host.resolve);
        Ok(source)
    }

    pub(super) fn plain(&self) -> bool {
        self.plain.load(Ordering::Relaxed)
    }

    /// It has no TLS, and needs none: see [`lax`](Source::lax).
    pub(super) fn make_plain(&self) {
        self.plain.store(true, Ordering::Relaxed);
    }

    /// Host and port, for messages.
    pub(super) fn address(&self) -> String {
        let has_port = self.authority.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        match has_port {
            true => self.authority.clone(),
            false => format!("{}:{}", self.authority, if self.plain() { 80 } else { 443 }),
        }
    }

    /// The address of something in the repository: `manifests/latest`.
    pub(super) fn url(&self, path: &str) -> Result<Url, String> {
        let scheme = if self.plain() { "http" } else { "https" };
        let text = format!("{scheme}://{}{}{}/{path}", self.authority, self.prefix, self.repository);
        let mut url = Url::parse(&text).map_err(|e| e.to_string())?;
        if let Some(namespace) = &self.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        Ok(url)
    }

    /// Whether an address is this host's own, so that it may see the host's credentials.
    pub(super) fn owns(&self, url: &Url) -> bool {
        Url::parse(&format!("{}://{}/", if self.plain() { "http" } else { "https" }, self.authority))
            .is_ok_and(|own| own.origin() == url.origin())
    }

    /// Headers that only this host is to see.
    pub(super) fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The credentials for it; looked for once, when it first asks. A helper program may be run.
    pub(super) async fn found(&self, settings: &Settings) -> Result<&Found, Error> {
        let look = || async {
            let (given, only) = (settings.credentials.clone(), settings.auth_file.clone());
            let (name, repository, helpers) = (self.name.clone(), self.repository.clone(), self.helpers.clone());
            let look = move || find(&given, only.as_deref(), helpers.as_deref(), &name, &repository);
            match tokio::task::spawn_blocking(look).await {
                Ok(found) => found,
                Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
                Err(e) => Err(Error::Credentials { registry: self.name.clone(), place: "a file".into(), why: e.to_string() }),
            }
        };
        self.found.get_or_try_init(look).await
    }
}

/// The mirrors in their order and, last, the registry itself. Reads files.
pub(super) fn sources(settings: &Settings, reference: &Reference, verb: Verb) -> Result<Vec<Source>, Error> {
    let (registry, repository) = (reference.registry(), reference.repository());
    let mut sources = Vec::new();
    for mirror in settings.mirrors.get(registry).into_iter().flatten() {
        let (host, path) = mirror.split_once('/').unwrap_or((mirror, ""));
        let path = path.trim_end_matches('/');
        let repository = if path.is_empty() { repository.to_owned() } else { format!("{path}/{repository}") };
        sources.push(Source::new(settings, host, &repository).into_mirror());
    }

    let mut own = None;
    if let Some((dir, hosts)) = hosts(settings, registry)? {
        for host in &hosts.hosts {
            let mut source = Source::of_host(settings, host, reference)?.into_mirror();
            if host.authority != registry {
                source.namespace = Some(registry.to_owned());
            }
            sources.push(source);
        }
        let mut source = match &hosts.server {
            Some(server) => Source::of_host(settings, server, reference)?,
            None => Source::new(settings, registry, repository),
        };
        // Credentials are kept under the name that images have, and are for that host: one that stands for it has its own.
        if source.authority == Source::new(settings, registry, repository).authority {
            source.name = registry.to_owned();
        }
        if hosts.hosts.is_empty() && hosts.server.is_none() {
            certificates_of(&dir, &mut source.tls)?;
        }
        own = Some(source);
    }

    let configuration = configuration(settings)?;
    if let Some(entry) = configuration.find(registry, repository) {
        if entry.blocked {
            return Err(Error::Blocked { verb, image: reference.to_string(), place: entry.file.clone() });
        }
        let (mirrors, location) = entry.locations(registry, repository);
        for mirror in mirrors {
            let mut source = Source::new(settings, &mirror.registry, &mirror.repository).into_mirror();
            (source.resolve, source.pull) = (mirror.tags, mirror.digests || mirror.tags);
            if mirror.tags && !mirror.digests {
                // What a tag meant is fetched by digest: only for who asked by tag.
                source.pull = reference.digest().is_none();
            }
            if mirror.insecure {
                source = source.lax(settings);
            }
            sources.push(source);
        }
        if own.is_none() {
            let source = Source::new(settings, &location.registry, &location.repository);
            own = Some(if location.insecure { source.lax(settings) } else { source });
        }
    }
    sources.push(own.unwrap_or_else(|| Source::new(settings, registry, repository)));
    for source in &mut sources {
        source.helpers.clone_from(&configuration.helpers);
    }
    Ok(sources)
}

/// What the first directory says that knows the registry.
fn hosts(settings: &Settings, registry: &str) -> Result<Option<(PathBuf, hosts_toml::Hosts)>, Error> {
    for dir in settings.certs_d.iter().flat_map(|dir| hosts_toml::directories(dir, registry)) {
        let file = dir.join("hosts.toml");
        match fs::read_to_string(&file) {
            Ok(text) => {
                let hosts =
                    hosts_toml::parse(&text, &dir).map_err(|why| Error::Setting { what: format!("the file {}", file.display()), why })?;
                return Ok(Some((dir, hosts)));
            }
            // As Docker has it: certificates alone.
            Err(e) if e.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
                return Ok(Some((dir, hosts_toml::Hosts { hosts: Vec::new(), server: None })));
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(disk("read", &file)(e)),
        }
    }
    Ok(None)
}

/// Docker's files beside each other: `*.crt` are authorities, `*.cert` and `*.key` are ours (docker, "Verify repository client with
/// certificates").
fn certificates_of(dir: &Path, tls: &mut Tls) -> Result<(), Error> {
    let mut files: Vec<PathBuf> = fs::read_dir(dir).map_err(disk("read", dir))?.filter_map(|e| Some(e.ok()?.path())).collect();
    files.sort();
    for file in files {
        let read = |path: &Path| fs::read(path).map_err(disk("read", path));
        match file.extension().and_then(|e| e.to_str()) {
            Some("crt") => tls.roots.push(read(&file)?),
            Some("cert") => tls.identity = Some((read(&file)?, read(&file.with_extension("key"))?)),
            _ => {}
        }
    }
    Ok(())
}

/// What the files of registries.conf say together.
pub(super) fn configuration(settings: &Settings) -> Result<RegistriesConf, Error> {
    let mut conf = RegistriesConf::default();
    for (path, must) in &settings.registries_conf {
        let mut files = vec![path.clone()];
        if path.is_dir() {
            files = fs::read_dir(path).map_err(disk("read", path))?.filter_map(|e| Some(e.ok()?.path())).collect();
            files.retain(|file| file.extension().is_some_and(|e| e == "conf"));
            files.sort();
        }
        for file in files {
            match fs::read_to_string(&file) {
                Ok(text) => {
                    conf.add(&file, &text).map_err(|why| Error::Setting { what: format!("the file {}", file.display()), why })?;
                }
                Err(e) if !must && matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(disk("read", &file)(e)),
            }
        }
    }
    Ok(conf)
}
