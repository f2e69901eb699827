//! What can go wrong with layers, told to a tired person.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

use coracle_image::Digest;

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a layer couldn't be unpacked, found, put together or removed.
///
/// `entry` is the path of an archive's entry as text, with unprintable bytes escaped; `offset` counts bytes of the inflated archive.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The bytes aren't a sound layer, or one that means harm. Fetching them again won't help unless the digest was wrong too.
    #[error("layer {layer} is malformed{}: {what} (byte {offset} of the archive)", at(entry))]
    Malformed {
        /// Which layer.
        layer: String,
        /// Which entry, where one was begun.
        entry: Option<String>,
        /// Where in the archive.
        offset: u64,
        /// What is wrong with it.
        what: Cow<'static, str>,
    },
    /// The layer asks for more than [`Limits`](crate::Limits) allow.
    #[error("layer {layer} is too big{}: more than {limit} {what} (byte {offset} of the archive)", at(entry))]
    Limit {
        /// Which layer.
        layer: String,
        /// Which entry, where one was begun.
        entry: Option<String>,
        /// Where in the archive.
        offset: u64,
        /// What there is too much of.
        what: &'static str,
        /// How many there may be.
        limit: u64,
    },
    /// The compressed bytes are broken, cut off, or of a kind that isn't known.
    #[error("can't inflate layer {layer}: {what} (byte {offset} of the blob)")]
    Compression {
        /// Which layer.
        layer: String,
        /// About where in the compressed bytes.
        offset: u64,
        /// What is wrong with them.
        what: String,
    },
    /// The archive isn't the one that the image's config names.
    #[error("layer {layer} unpacks to {found}, but the image's config says {expected}")]
    WrongDiffId {
        /// Which layer.
        layer: String,
        /// What the config promises.
        expected: Digest,
        /// What the bytes hash to.
        found: Digest,
    },
    /// The writer was dropped, or used after an error.
    #[error("layer {layer} wasn't written to its end")]
    Unfinished {
        /// Which layer.
        layer: String,
    },
    /// The layer builds on something in the layers below it which isn't there, or isn't usable.
    #[error("layer {layer} needs {} of the layers below it: {what}", path.display())]
    Below {
        /// Which layer.
        layer: String,
        /// What it needs.
        path: PathBuf,
        /// Why that fails.
        what: Cow<'static, str>,
    },
    /// The store's directory lies on an overlay: there are no whiteouts there, and no overlay keeps its changes there.
    #[error("{} lies on an overlay, where no layers can be unpacked and no container can keep its changes", store.display())]
    OnOverlay {
        /// The store's directory.
        store: PathBuf,
    },
    /// The layer isn't in the store, or was only half unpacked when something died.
    #[error("layer {diff_id} isn't unpacked in {}", store.display())]
    Missing {
        /// Which layer.
        diff_id: Digest,
        /// Where it was looked for.
        store: PathBuf,
    },
    /// The store was made for another kind of user, or by a newer version.
    #[error("can't use the layers in {}: {what}", store.display())]
    Store {
        /// The store.
        store: PathBuf,
        /// What doesn't fit.
        what: String,
    },
    /// The layers were unpacked by a newer version.
    #[error("the layers in {} are of the format {found}, and this version of Coracle knows {known}", store.display())]
    Version {
        /// The store.
        store: PathBuf,
        /// The format that they are of.
        found: u32,
        /// The newest format known here.
        known: u32,
    },
    /// Something in a container's changes can't be expressed in a layer.
    #[error("can't put {} into a layer: {what}", path.display())]
    Unpackable {
        /// What: a path below the container's root.
        path: PathBuf,
        /// Why it can't be.
        what: Cow<'static, str>,
    },
    /// There is no such snapshot.
    #[error("there is no snapshot {name:?}")]
    NoSuchSnapshot {
        /// What it was asked for by.
        name: String,
    },
    /// A snapshot can't have this name: it can't be one, or another has it.
    #[error("can't name a snapshot {name:?}: {why}")]
    SnapshotName {
        /// The name.
        name: String,
        /// Why not.
        why: Cow<'static, str>,
    },
    /// The description of an overlay mount contradicts itself.
    #[error("can't mount this overlay: {what}")]
    Overlay {
        /// What is wrong with it.
        what: String,
    },
    /// The operating system refused.
    #[error("can't {attempt} {}{}: {source}", path.display(), of(layer))]
    Io {
        /// What was tried: a verb, as in "can't … path".
        attempt: &'static str,
        /// On what. Within a layer: the entry's path.
        path: PathBuf,
        /// Of which layer.
        layer: Option<String>,
        /// Why it failed.
        source: io::Error,
    },
}

fn at(entry: &Option<String>) -> String {
    entry.as_ref().map(|entry| format!(" at {entry}")).unwrap_or_default()
}

fn of(layer: &Option<String>) -> String {
    layer.as_ref().map(|layer| format!(" of layer {layer}")).unwrap_or_default()
}

impl Error {
    /// What the reader of the error can do about it, where there is something.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Error::Limit { .. } => Some("raise the limit in coracle_layers::Limits, if you trust the image".into()),
            Error::Unpackable { .. } => Some("remove it in the container, or take a snapshot, which keeps files as they are".into()),
            Error::NoSuchSnapshot { .. } => Some("`coracle snapshot ls` lists those that are there".into()),
            Error::SnapshotName { .. } => Some("choose another name, or remove the snapshot that has it: coracle snapshot rm".into()),
            Error::WrongDiffId { .. } => {
                Some("the image is inconsistent: push it again from its source, or pull it from another registry".into())
            }
            Error::Missing { .. } => Some("pull the image again".into()),
            Error::Version { .. } => Some("use a newer version of Coracle, or another directory".into()),
            Error::OnOverlay { .. } => Some(
                "keep it on another file system, by CORACLE_ROOT, --root or EngineBuilder::root: in a container of Docker's or Podman's on a \
                 volume, or in memory below /dev/shm"
                    .into(),
            ),
            Error::Store { .. } => Some("give each kind of user a store of its own".into()),
            Error::Io { source, attempt, .. } => match rustix::io::Errno::from_io_error(source) {
                Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => Some("free some space: nothing of this layer was kept".into()),
                Some(rustix::io::Errno::PERM) if *attempt == "make the whiteout" => {
                    Some("use Linux 5.8 or newer, where a plain user may make whiteouts".into())
                }
                Some(rustix::io::Errno::OPNOTSUPP) => {
                    Some("keep the store on a file system with extended attributes: ext4, xfs, btrfs, or tmpfs of Linux 6.6".into())
                }
                Some(rustix::io::Errno::NOSYS) => Some("use Linux 5.8 or newer, and a seccomp profile that allows openat2".into()),
                Some(rustix::io::Errno::MFILE) => Some("raise the limit of open files (ulimit -n)".into()),
                _ => None,
            },
            _ => None,
        }
    }

    pub(crate) fn io(attempt: &'static str, path: impl AsRef<Path>, source: impl Into<io::Error>) -> Error {
        Error::Io { attempt, path: path.as_ref().to_owned(), layer: None, source: source.into() }
    }

    /// An error of the bytes' source; one of ours passes through.
    pub(crate) fn read(layer: &str, source: io::Error) -> Error {
        if source.get_ref().is_some_and(|inner| inner.is::<Error>()) {
            if let Some(ours) = source.into_inner().and_then(|inner| inner.downcast::<Error>().ok()) {
                return *ours;
            }
            return Error::Unfinished { layer: layer.to_owned() };
        }
        Error::Io { attempt: "read", path: PathBuf::from("its bytes"), layer: Some(layer.to_owned()), source }
    }
}

impl From<Error> for io::Error {
    /// For `io::Write` and `io::Read`: the error is the inner one, to be had back by `downcast`.
    fn from(error: Error) -> io::Error {
        let kind = match &error {
            Error::Io { source, .. } => source.kind(),
            Error::Malformed { .. } | Error::Compression { .. } | Error::Limit { .. } | Error::WrongDiffId { .. } => {
                io::ErrorKind::InvalidData
            }
            _ => io::ErrorKind::Other,
        };
        io::Error::new(kind, error)
    }
}

/// Bytes of a stranger as text: unprintable ones escaped, long ones cut.
pub(crate) fn show(bytes: &[u8]) -> String {
    let mut text: String = String::from_utf8_lossy(&bytes[..bytes.len().min(400)])
        .chars()
        .flat_map(|c| if c.is_control() { c.escape_default().collect::<Vec<_>>() } else { vec![c] })
        .collect();
    if bytes.len() > 400 {
        text.push('…');
    }
    text
}
