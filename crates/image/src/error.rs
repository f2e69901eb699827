//! What can go wrong with an image, as sentences; and apart from them, what to do.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::manifest::DocumentError;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::sink::SinkError;

/// Why a verifier doesn't accept an image: whatever it wants to say.
pub type VerifyError = Box<dyn std::error::Error + Send + Sync>;

/// Why an image couldn't be had. It prints what was attempted, on what, and why it failed; [`remedy`](Error::remedy) is what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The registry answered that it has no such image.
    #[error("can't {verb} {image}: the registry {registry} has no such image ({said})")]
    #[non_exhaustive]
    UnknownImage {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// The registry's host, with the port where the reference has one.
        registry: String,
        /// The registry's own words.
        said: String,
    },

    /// The registry couldn't be reached.
    #[error("can't {verb} {image}: no connection to {address}: {why}")]
    #[non_exhaustive]
    Unreachable {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// Host and port.
        address: String,
        /// What the system said.
        why: String,
    },

    /// The connection broke off. What came is kept, and the next pull goes on after it.
    #[error("can't {verb} {image}: the connection to {address} broke off after {done} of {total} bytes of {part}: {why}")]
    #[non_exhaustive]
    Interrupted {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// Host and port.
        address: String,
        /// Which part: `layer 2`.
        part: String,
        /// The bytes that came.
        done: u64,
        /// The bytes there are.
        total: u64,
        /// What the system said.
        why: String,
    },

    /// The registry was reached, but no trusted connection came about.
    #[error("can't {verb} {image}: no TLS connection to {address}: {why}")]
    #[non_exhaustive]
    Tls {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// Host and port.
        address: String,
        /// What is wrong with the certificate or the protocol.
        why: String,
    },

    /// The registry wants other credentials, or any (HTTP 401 and 403).
    #[error("can't {verb} {image}: the registry {registry} said {status} to {who}")]
    #[non_exhaustive]
    Denied {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// The registry's host, with the port where the reference has one.
        registry: String,
        /// `401 Unauthorized` or `403 Forbidden`.
        status: &'static str,
        /// Who asked: `an anonymous request`, or the user and where the name came from.
        who: String,
        /// Where credentials were looked for.
        looked_in: Vec<String>,
    },

    /// The registry answered something else than what was asked for.
    #[error("can't {verb} {image}: the registry {registry} said: {said}")]
    #[non_exhaustive]
    Registry {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// The registry's host, with the port where the reference has one.
        registry: String,
        /// The HTTP status where there was one, and the registry's words.
        said: String,
    },

    /// The registry, or somebody between, would have us do what isn't safe. Nothing secret was sent.
    #[error("can't {verb} {image}: {address} {why}")]
    #[non_exhaustive]
    Unsafe {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// Host and port of who wanted it.
        address: String,
        /// What it wanted.
        why: String,
    },

    /// A registry and its mirrors: none of them had the image.
    #[error("{error}; before that, {}", mirrors.join("; "))]
    #[non_exhaustive]
    Mirrors {
        /// What the registry itself said.
        error: Box<Error>,
        /// What each mirror said: `the mirror m.example said …`.
        mirrors: Vec<String>,
    },

    /// A configuration file forbids the registry.
    #[error("can't {verb} {image}: {} blocks its registry", place.display())]
    #[non_exhaustive]
    Blocked {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
        /// The file that says so.
        place: PathBuf,
    },

    /// A proxy, a certificate, a key or a file of settings can't be used.
    #[error("can't use {what}: {why}")]
    #[non_exhaustive]
    Setting {
        /// What: `the proxy http://…`, `the file /etc/…`.
        what: String,
        /// What is wrong with it.
        why: String,
    },

    /// The verifier that the caller set didn't accept the image. Nothing was unpacked.
    #[error("{image} isn't accepted ({digest}): {source}")]
    #[non_exhaustive]
    NotAccepted {
        /// The reference.
        image: String,
        /// What the reference means: the digest of a manifest or an index.
        digest: Box<Digest>,
        /// What the verifier said.
        source: VerifyError,
    },

    /// The image that is to be pushed isn't in the store.
    #[error("can't push {image}: it isn't in the store {} for {platform}", store.display())]
    #[non_exhaustive]
    NotInStore {
        /// The reference.
        image: String,
        /// The platform.
        platform: Box<Platform>,
        /// The store's directory.
        store: PathBuf,
    },

    /// The image is here for some platforms, and all of it was to be pushed.
    #[error("can't push {image} for all platforms: of its index {} in the store {}", lacks(missing), store.display())]
    #[non_exhaustive]
    NotWhole {
        /// The reference.
        image: String,
        /// The manifests and blobs that aren't here.
        missing: Vec<Digest>,
        /// The store's directory.
        store: PathBuf,
    },

    /// A name without a registry, which configuration files give several meanings, or none.
    #[error("the name {name} {}", meanings(candidates))]
    #[non_exhaustive]
    ShortName {
        /// As it was written.
        name: String,
        /// What it may mean.
        candidates: Vec<Reference>,
    },

    /// A file with credentials, or a helper program that keeps them, can't be used.
    #[error("can't use the credentials for {registry} in {place}: {why}")]
    #[non_exhaustive]
    Credentials {
        /// The registry.
        registry: String,
        /// The file.
        place: String,
        /// What is wrong.
        why: String,
    },

    /// Bytes aren't what they were announced to be. None of them was kept.
    #[error("can't use {part} of {image}: expected {expected}, got {got}")]
    #[non_exhaustive]
    Corrupt {
        /// The reference, or the layout.
        image: String,
        /// Which part: `the manifest`, `the config`, `layer 2`.
        part: String,
        /// The digest or the size that was announced.
        expected: String,
        /// The digest or the size that arrived.
        got: String,
    },

    /// The image isn't there for the platform.
    #[error("{image} has no image for {wanted}; it has {}", list(available))]
    #[non_exhaustive]
    NoSuchPlatform {
        /// The reference, or the layout.
        image: String,
        /// What was asked for.
        wanted: Box<Platform>,
        /// What there is.
        available: Vec<Platform>,
    },

    /// A manifest, an index or a config can't be used.
    #[error("can't use {part} of {image}: {source}")]
    #[non_exhaustive]
    Document {
        /// The reference, or the layout.
        image: String,
        /// Which part: `the manifest`, `the config`.
        part: String,
        /// What is wrong.
        source: DocumentError,
    },

    /// A directory isn't an OCI image layout.
    #[error("{} isn't an OCI image layout: {why}", path.display())]
    #[non_exhaustive]
    NotALayout {
        /// The directory.
        path: PathBuf,
        /// What is missing or wrong.
        why: String,
    },

    /// A layout has no image of that name, or several where none was named.
    #[error("the layout {} {}", path.display(), no_such_name(wanted.as_deref(), available))]
    #[non_exhaustive]
    NoSuchName {
        /// The layout's directory.
        path: PathBuf,
        /// What was asked for.
        wanted: Option<String>,
        /// The names there are.
        available: Vec<String>,
    },

    /// A file isn't an archive of images, or not one that can be trusted. Nothing of it was kept.
    #[error("can't use the archive {archive}: {why}")]
    #[non_exhaustive]
    Archive {
        /// The file, or `standard input` and the like.
        archive: String,
        /// What is wrong, and where.
        why: String,
    },

    /// No image has that name here.
    #[error("no image {image} is here")]
    #[non_exhaustive]
    NoSuchImage {
        /// What was asked for.
        image: String,
    },

    /// The beginning of an id fits several images.
    #[error("{name} may be any of {}", list(ids))]
    #[non_exhaustive]
    Ambiguous {
        /// What was asked for.
        name: String,
        /// The ids it fits.
        ids: Vec<String>,
    },

    /// An image can't be removed, because somebody would miss it.
    #[error("can't remove the image {image}: {why}")]
    #[non_exhaustive]
    InUse {
        /// What was to be removed.
        image: String,
        /// Who would miss it.
        why: String,
    },

    /// The blob of a layer isn't in the store: it was dropped once the layer was unpacked.
    #[error("can't export {image}: the blob of layer {index} ({digest}) isn't in the store")]
    #[non_exhaustive]
    NoBlob {
        /// The image.
        image: String,
        /// The layer's place, the lowest being 0.
        index: usize,
        /// The blob.
        digest: Box<Digest>,
    },

    /// A change to an image's config can't be understood.
    #[error("can't make the change {change:?}: {why}")]
    #[non_exhaustive]
    Change {
        /// As it was written.
        change: String,
        /// What is wrong with it.
        why: String,
    },

    /// Unpacked layers that nobody needs couldn't be removed.
    #[error("can't remove unneeded layers: {source}")]
    #[non_exhaustive]
    Sweep {
        /// What the sink said.
        source: SinkError,
    },

    /// A store was made by a newer version.
    #[error("the store {} has the format {found:?}, and this version of Coracle knows {known}", path.display())]
    #[non_exhaustive]
    StoreVersion {
        /// The store's directory.
        path: PathBuf,
        /// What its file `version` says.
        found: String,
        /// The newest format known here.
        known: u32,
    },

    /// A store belongs to another user: root's and a user's are never shared.
    #[error("the store {} belongs to uid {owner}, and this process is uid {uid}", path.display())]
    #[non_exhaustive]
    StoreOwner {
        /// The store's directory.
        path: PathBuf,
        /// The directory's owner.
        owner: u32,
        /// Our effective uid.
        uid: u32,
    },

    /// Reading or writing a file failed.
    #[error("can't {doing} {}: {source}", path.display())]
    #[non_exhaustive]
    Disk {
        /// What was attempted, as a verb.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },

    /// A layer couldn't be unpacked.
    #[error("can't unpack layer {index} ({digest}): {source}")]
    #[non_exhaustive]
    Sink {
        /// The layer's place, the lowest being 0.
        index: usize,
        /// The layer's blob.
        digest: Box<Digest>,
        /// What the sink said.
        source: SinkError,
    },

    /// The tokio runtime that a pull ran on was shut down.
    #[error("can't {verb} {image}: the tokio runtime was shut down meanwhile")]
    #[non_exhaustive]
    Stopped {
        /// What was attempted.
        verb: Verb,
        /// The reference.
        image: String,
    },
}

/// What was attempted with an image in a registry. It prints as it stands in a sentence: `list the tags of`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verb {
    /// `pull`
    Pull,
    /// `push`
    Push,
    /// `resolve`: what a tag means.
    Resolve,
    /// `fetch the manifest of`
    Manifest,
    /// `list the tags of`
    Tags,
    /// `list what refers to`
    Referrers,
    /// `delete`
    Delete,
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verb::Pull => "pull",
            Verb::Push => "push",
            Verb::Resolve => "resolve",
            Verb::Manifest => "fetch the manifest of",
            Verb::Tags => "list the tags of",
            Verb::Referrers => "list what refers to",
            Verb::Delete => "delete",
        })
    }
}

impl Error {
    /// What the person at the terminal can do about it.
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Error::UnknownImage { .. } => "check the name and the tag".into(),
            Error::Unreachable { .. } => {
                "check that the registry runs there, and the part of the image's name before its first slash".into()
            }
            Error::Interrupted { verb, .. } => format!("{verb} again: it goes on where it broke off"),
            Error::Mirrors { error, .. } => return error.remedy(),
            Error::NotInStore { .. } => "pull it, or import it".into(),
            Error::NotWhole { .. } => "pull it for all platforms: `Puller::whole`, `coracle pull --all-platforms`".into(),
            Error::ShortName { candidates, .. } if candidates.is_empty() => {
                "write its registry: `docker.io/NAME`; or add one to `unqualified-search-registries` in registries.conf".into()
            }
            Error::ShortName { .. } => "write the one that is meant, or name it under `[aliases]` in registries.conf".into(),
            Error::Tls { .. } => "add the authority that signed the registry's certificate to this machine's trusted ones, or give \
                it to `RegistryClient::trust`; a registry without TLS needs `RegistryClient::insecure`"
                .into(),
            Error::Denied { registry, looked_in, .. } => {
                let places = if looked_in.is_empty() { "nowhere".to_owned() } else { list(looked_in) };
                format!(
                    "log in with `docker login {registry}` or `podman login {registry}`, or use `RegistryClient::credentials`; credentials \
                     were looked for in {places}; and check the name: some registries answer so where there is no such image"
                )
            }
            Error::Credentials { registry, .. } => {
                format!("log in again with `docker login {registry}` or `podman login {registry}`")
            }
            Error::Corrupt { .. } => "try again; if it stays so, what serves the image is damaged".into(),
            Error::NoSuchPlatform { available, .. } if available.is_empty() => return None,
            Error::NoSuchPlatform { .. } => "choose one that there is, with `platform`".into(),
            Error::NotALayout { .. } => "`skopeo copy docker://IMAGE oci:DIRECTORY:NAME` makes one".into(),
            Error::NoSuchName { available, .. } if available.is_empty() => return None,
            Error::NoSuchName { .. } => "choose one of its names".into(),
            Error::Archive { .. } => {
                "archives of `docker save`, `podman save`, `skopeo copy` and `coracle save` are known, plain or compressed by gzip or \
                 zstd; a root file system without a manifest is imported"
                    .into()
            }
            Error::NoSuchImage { .. } => "pull or load it first; `coracle images` lists what is here".into(),
            Error::Ambiguous { .. } => "write more of it".into(),
            Error::InUse { .. } => "end what uses it, or force it: then the names go now, and the rest once nobody uses it".into(),
            Error::NoBlob { .. } => "bring the image in again with `keep_blobs`: pull, load or import it".into(),
            Error::Change { .. } => {
                "known are CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME and WORKDIR, as in a Dockerfile".into()
            }
            Error::StoreVersion { .. } => "use a newer version of Coracle, or another directory for the store".into(),
            Error::StoreOwner { .. } => "use another directory for the store".into(),
            Error::Disk { path, source, .. } => match source.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    format!("free space on the file system of {}", path.display())
                }
                io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => "use a directory that this user may write".into(),
                _ => return None,
            },
            Error::Registry { .. }
            | Error::Document { .. }
            | Error::Sink { .. }
            | Error::Sweep { .. }
            | Error::Stopped { .. }
            | Error::Unsafe { .. }
            | Error::Blocked { .. }
            | Error::Setting { .. }
            | Error::NotAccepted { .. } => return None,
        })
    }
}

/// `sha256:… and 3 more aren't`
fn lacks(missing: &[Digest]) -> String {
    match missing {
        [] => "something isn't".into(),
        [one] => format!("{one} isn't"),
        [first, rest @ ..] => format!("{first} and {} more aren't", rest.len()),
    }
}

fn meanings(candidates: &[Reference]) -> String {
    match candidates {
        [] => "has no registry, and none is configured for such names".into(),
        some => format!("has no registry, and may mean {}", some.iter().map(Reference::to_string).collect::<Vec<_>>().join(" or ")),
    }
}

/// Says what was attempted on which path when the system call failed.
pub(crate) fn disk<E: Into<io::Error>>(doing: &'static str, path: &Path) -> impl FnOnce(E) -> Error {
    let path = path.to_owned();
    move |source| Error::Disk { doing, path, source: source.into() }
}

/// `a`, `a and b`, `a, b and c`.
fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(T::to_string).collect();
    match items.split_last() {
        None => "nothing".into(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

fn no_such_name(wanted: Option<&str>, available: &[String]) -> String {
    match wanted {
        Some(wanted) => format!("has no image named {wanted:?}; it has {}", list(available)),
        None if available.is_empty() => "has no image".into(),
        None => format!("has several images, and none was chosen: {}", list(available)),
    }
}

/// What a message shows of a text that a stranger chose: its first 300 characters, none of which moves a terminal's cursor.
pub(crate) fn shortened(text: &str) -> String {
    const MOST: usize = 300;
    let mut shown: String = text.chars().take(MOST).map(|c| if c.is_control() { '?' } else { c }).collect();
    if text.chars().nth(MOST).is_some() {
        shown.push('…');
    }
    shown
}
