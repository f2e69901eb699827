//! Snapshots: a container's changes, frozen, that other containers are started from.
//!
//! ```text
//! layers/snapshots/<hex>/    <hex> is the sha256 of "coracle-snapshot <name>"
//!   fs/                      a copy of the upper directory: whiteouts and opaque directories as overlay has them
//!   snapshot.json            version, name, what it lies on, when it was made
//!   meta.json files ownership owned complete        as beside a layer
//! ```
//!
//! It is a lower directory of overlays like any layer, so a container from it starts as one from the image: one directory more. It's
//! copied, by shared extents where the file system has them (reflink: xfs, btrfs, bcachefs), else by copy_file_range(2): whoever goes on
//! writing in the container changes nothing in it. What is copied is what overlay shows, so names that begin with `.wh.` stay what they
//! are; only sockets, and what belongs to overlay itself, are left out.
//!
//! It appears by a rename when it's whole. Who keeps it from being swept, with the layers that it lies on, is a pin in the image store
//! (`coracle_image::Store::pin`), which names its [id](Snapshot::id): without pin and lease it's rubbish.
//!
//! Changing this changes the format on disk; raise the version.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle_image::Digest;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::confine::open_directory;
use crate::diff::DiffOptions;
use crate::error::{Error, Result, show};
use crate::ownership::{Ledger, Ownership};
use crate::store::{LayerStore, Temporary, is_complete, nonce};
use crate::tree::{Stack, Visited};
use crate::unpack::{LayerReport, open_root};
use crate::whiteout::{Flavour, is_overlay_attribute};

const VERSION: u32 = 1;

/// A snapshot that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// What it's called by people.
    pub name: String,
    /// What leases and pins call it.
    pub id: Digest,
    /// The directory that holds its `fs`.
    pub directory: PathBuf,
    /// The manifest of the image that it lies on, if it lies on one.
    pub manifest: Option<Digest>,
    /// The root file system that it lies on, if it lies on no image.
    pub rootfs: Option<PathBuf>,
    /// Snapshots between, the topmost first: their ids.
    pub below: Vec<Digest>,
    /// When it was made.
    pub created: SystemTime,
    /// Bytes in its files.
    pub bytes: u64,
    /// Whether the container stood still while it was copied.
    pub frozen: bool,
}

impl Snapshot {
    /// Its files: a lower directory of overlays, above what it lies on.
    pub fn files(&self) -> PathBuf {
        self.directory.join("fs")
    }

    /// The id of a snapshot by its name.
    ///
    /// # Errors
    /// [`Error::SnapshotName`]: 1 to 128 letters, digits, `_`, `.` and `-`, a letter or digit first.
    pub fn id_of(name: &str) -> Result<Digest> {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        let begins = name.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
        if begins && name.len() <= 128 && name.bytes().all(good) {
            return Ok(Digest::sha256(format!("coracle-snapshot {name}").as_bytes()));
        }
        let why = "a name has 1 to 128 letters, digits, `_`, `.` and `-`, and begins with a letter or digit".into();
        Err(Error::SnapshotName { name: show(name.as_bytes()), why })
    }
}

/// `snapshot.json`.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    name: String,
    manifest: Option<String>,
    rootfs: Option<PathBuf>,
    below: Vec<String>,
    /// Seconds since 1970.
    created: u64,
    bytes: u64,
    frozen: bool,
    /// Tells apart two that are made under one name at the same time.
    nonce: String,
}

/// A snapshot being made. Dropping it leaves nothing.
#[derive(Debug)]
#[must_use = "a draft is nothing until it's published"]
pub struct SnapshotDraft {
    store: LayerStore,
    temporary: Temporary,
    name: String,
    id: Digest,
    ledger: Ledger,
    bytes: u64,
}

impl LayerStore {
    /// Begins a snapshot.
    ///
    /// # Errors
    /// [`Error::SnapshotName`] for a name that can't be one or that another snapshot has; [`Error::Io`].
    pub fn begin_snapshot(&self, name: &str) -> Result<SnapshotDraft> {
        let id = Snapshot::id_of(name)?;
        if is_complete(&self.snapshot_directory(&id))? {
            return Err(taken(name));
        }
        Ok(SnapshotDraft {
            store: self.clone(),
            temporary: self.temporary()?,
            name: name.to_owned(),
            id,
            ledger: Ledger::default(),
            bytes: 0,
        })
    }

    /// The snapshot by this name.
    ///
    /// # Errors
    /// [`Error::NoSuchSnapshot`]; [`Error::Version`] for one of a newer version; [`Error::Store`] for a damaged one; [`Error::Io`].
    pub fn snapshot(&self, name: &str) -> Result<Snapshot> {
        let no_such = || Error::NoSuchSnapshot { name: show(name.as_bytes()) };
        let id = Snapshot::id_of(name).map_err(|_| no_such())?;
        self.snapshot_by_id(&id)?.ok_or_else(no_such)
    }

    /// The snapshot by its id, if it's there.
    ///
    /// # Errors
    /// As [`snapshot`](LayerStore::snapshot).
    pub fn snapshot_by_id(&self, id: &Digest) -> Result<Option<Snapshot>> {
        let directory = self.snapshot_directory(id);
        if !is_complete(&directory)? {
            return Ok(None);
        }
        let path = directory.join("snapshot.json");
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !directory.exists() => return Ok(None),
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let damaged = || Error::Store { store: directory.clone(), what: "its snapshot.json is damaged".into() };
        let version = serde_json::from_slice::<serde_json::Value>(&text).ok().and_then(|value| value["version"].as_u64());
        match version {
            Some(version) if version > u64::from(VERSION) => {
                let found = u32::try_from(version).unwrap_or(u32::MAX);
                return Err(Error::Version { store: directory, found, known: VERSION });
            }
            Some(_) => {}
            None => return Err(damaged()),
        }
        let record: Record = serde_json::from_slice(&text).map_err(|_| damaged())?;
        let manifest = record.manifest.map(|digest| digest.parse()).transpose().map_err(|_| damaged())?;
        let below: Result<Vec<Digest>, _> = record.below.iter().map(|digest| digest.parse::<Digest>()).collect();
        Ok(Some(Snapshot {
            name: record.name,
            id: id.clone(),
            manifest,
            rootfs: record.rootfs,
            below: below.map_err(|_| damaged())?,
            created: UNIX_EPOCH + Duration::from_secs(record.created),
            bytes: record.bytes,
            frozen: record.frozen,
            directory,
        }))
    }

    /// All snapshots, sorted by name. What is damaged is left out.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn snapshots(&self) -> Result<Vec<Snapshot>> {
        let directory = self.path().join("snapshots");
        let mut all = Vec::new();
        for entry in fs::read_dir(&directory).map_err(|error| Error::io("read", &directory, error))? {
            let entry = entry.map_err(|error| Error::io("read", &directory, error))?;
            if let Ok(id) = format!("sha256:{}", entry.file_name().to_string_lossy()).parse()
                && let Ok(Some(snapshot)) = self.snapshot_by_id(&id)
            {
                all.push(snapshot);
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Moves a snapshot into the trash; whether it was there. The caller makes sure that nobody uses it and that nobody will: it has
    /// taken back the snapshot's pin.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn remove_snapshot(&self, snapshot: &Snapshot) -> Result<bool> {
        self.throw_away(&snapshot.directory)
    }

    fn snapshot_directory(&self, id: &Digest) -> PathBuf {
        self.path().join("snapshots").join(id.hex())
    }
}

fn taken(name: &str) -> Error {
    Error::SnapshotName { name: name.to_owned(), why: "another snapshot has this name".into() }
}

impl SnapshotDraft {
    /// What leases and pins call it.
    pub fn id(&self) -> &Digest {
        &self.id
    }

    /// Copies what a container changed. Of the options `flavour`, `ids` and `access` count. Blocks.
    ///
    /// # Errors
    /// [`Error::Unpackable`] where a path has more than 4,094 bytes or a file was changed only in part; [`Error::Io`].
    pub fn copy(&mut self, upper: &Path, options: &DiffOptions) -> Result<()> {
        let stack = Stack::open(&[upper], options.flavour, options.access.as_deref())?;
        let mut copying = Copying {
            stack: &stack,
            options,
            ownership: self.store.options().ownership,
            root: open_root(&self.temporary.fs()?)?,
            parent: None,
            links: HashMap::new(),
            directories: Vec::new(),
            ledger: Ledger::default(),
            bytes: 0,
        };
        stack.walk(true, &mut |visited| copying.visit(visited))?;
        copying.finish()?;
        (self.ledger, self.bytes) = (copying.ledger, copying.bytes);
        Ok(())
    }

    /// Puts it in place, and makes it survive a crash of the machine if the store does that. Until somebody pins it, only a lease that
    /// names its id keeps it.
    ///
    /// # Errors
    /// [`Error::SnapshotName`] where another got the name meanwhile; [`Error::Io`].
    pub fn publish(self, manifest: Option<&Digest>, rootfs: Option<&Path>, below: &[Digest], frozen: bool) -> Result<Snapshot> {
        let SnapshotDraft { store, temporary, name, id, ledger, bytes } = self;
        let record = Record {
            version: VERSION,
            name: name.clone(),
            manifest: manifest.map(Digest::to_string),
            rootfs: rootfs.map(Path::to_owned),
            below: below.iter().map(Digest::to_string).collect(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            bytes,
            frozen,
            nonce: nonce(),
        };
        let path = temporary.path.join("snapshot.json");
        let text = serde_json::to_vec_pretty(&record).map_err(|error| Error::io("write", &path, error))?;
        fs::write(&path, &text).map_err(|error| Error::io("write", &path, error))?;
        let report = LayerReport {
            diff_id: id.clone(),
            archive_bytes: 0,
            file_bytes: bytes,
            entries: 0,
            whiteouts: 0,
            opaque_root: false,
            skipped: Vec::new(),
            skipped_total: 0,
            implicit_parents: Vec::new(),
            links_below: Vec::new(),
        };
        let directory = store.snapshot_directory(&id);
        // What was copied a moment ago isn't read again.
        let files = crate::record::Record::outline(&temporary.path.join("fs"), crate::record::Kinds::of(store.options()))?;
        temporary.publish(&directory, &report, &ledger, store.options(), Some(&files))?;
        if fs::read(directory.join("snapshot.json")).ok().as_deref() != Some(&text[..]) {
            return Err(taken(&name));
        }
        store.settle_directory(&directory)?;
        store.snapshot_by_id(&id)?.ok_or(Error::NoSuchSnapshot { name })
    }
}

/// A tree being copied.
struct Copying<'a> {
    stack: &'a Stack<'a>,
    options: &'a DiffOptions,
    ownership: Ownership,
    root: OwnedFd,
    /// The directory that the last file went into.
    parent: Option<(Vec<u8>, OwnedFd)>,
    links: HashMap<(u64, u64), Vec<u8>>,
    /// Directories get their modes and times when all is in them.
    directories: Vec<(Vec<u8>, Stat)>,
    ledger: Ledger,
    /// None of any file: it isn't read once more to find out.
    bytes: u64,
}

impl Copying<'_> {
    fn visit(&mut self, visited: &Visited<'_>) -> Result<()> {
        let path = visited.path;
        if path.len() >= 4095 {
            return Err(Error::Unpackable { path: shown(path), what: "its path has more than 4,094 bytes".into() });
        }
        self.copy(visited).map_err(|stop| stop.at(path))
    }

    fn copy(&mut self, visited: &Visited<'_>) -> Result<(), Stop> {
        let (path, stat, kind) = (visited.path, visited.stat, visited.kind());
        if path.is_empty() {
            self.directories.push((Vec::new(), *stat));
            return self.owner(path, stat);
        }
        let (parent, name) = split(path);
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            self.parent = Some((parent.to_vec(), open_directory(&self.root, parent, OFlags::PATH)?));
        }
        let Some((_, at)) = &self.parent else { return Ok(()) };
        if visited.is_whiteout() {
            return Ok(rustix::fs::mknodat(at, name, FileType::CharacterDevice, Mode::empty(), 0)?);
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&inode) {
                let (from, file) = split(first);
                let from = open_directory(&self.root, from, OFlags::PATH)?;
                rustix::fs::linkat(&from, file, at, name, AtFlags::empty())?;
                self.ledger.link(first, path);
                return Ok(());
            }
        }
        let keep = self.ownership == Ownership::Keep;
        match kind {
            FileType::Directory => {
                rustix::fs::mkdirat(at, name, Mode::RWXU)?;
                self.directories.push((path.to_vec(), *stat));
            }
            FileType::RegularFile => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = rustix::fs::openat(at, name, flags, Mode::RUSR | Mode::WUSR)?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                if size > 0 {
                    let source = self.stack.read(visited.file)?;
                    contents(source, &target, size).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
                    self.bytes += size;
                }
                if keep {
                    rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
                }
                self.attributes(visited, &target)?;
                rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
                rustix::fs::futimens(&target, &times(stat))?;
            }
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(visited.file, "", Vec::new())?;
                rustix::fs::symlinkat(target.as_c_str(), at, name)?;
                if keep {
                    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                    rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                }
                rustix::fs::utimensat(at, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?;
            }
            FileType::Fifo => self.node(name, stat, kind, 0)?,
            FileType::CharacterDevice | FileType::BlockDevice if keep => self.node(name, stat, kind, stat.st_rdev)?,
            // A socket is nothing without its server, and a device nothing that a plain user can make.
            _ => return Ok(()),
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        self.owner(path, stat)
    }

    fn node(&self, name: &[u8], stat: &Stat, kind: FileType, device: u64) -> Result<(), Stop> {
        let Some((_, at)) = &self.parent else { return Ok(()) };
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::mknodat(at, name, kind, mode, device)?;
        if self.ownership == Ownership::Keep {
            let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
            rustix::fs::chownat(at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // The umask of this process is none of the container's business.
        rustix::fs::chmodat(at, name, mode, AtFlags::empty())?;
        Ok(rustix::fs::utimensat(at, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// What a plain user can't give away now goes on record.
    fn owner(&mut self, path: &[u8], stat: &Stat) -> Result<(), Stop> {
        if self.ownership != Ownership::Defer {
            return Ok(());
        }
        let Some((uid, gid)) = self.options.ids.inside(stat.st_uid, stat.st_gid) else {
            let what = format!("it belongs to {}:{}, whom the container's user namespace doesn't have", stat.st_uid, stat.st_gid);
            return Err(Stop::Error(Error::Unpackable { path: shown(path), what: what.into() }));
        };
        if (uid, gid) != (0, 0) {
            self.ledger.owners.insert(path.to_vec(), (uid, gid, stat.st_mode & 0o7777));
        }
        Ok(())
    }

    fn attributes(&self, visited: &Visited<'_>, target: impl AsFd) -> Result<(), Stop> {
        for (name, value) in self.stack.attributes(visited.file, visited.kind())? {
            if self.keeps(&name, &value, visited.path)? {
                rustix::fs::fsetxattr(target.as_fd(), name.as_slice(), &value, XattrFlags::empty())?;
            }
        }
        Ok(())
    }

    fn keeps(&self, name: &[u8], value: &[u8], path: &[u8]) -> Result<bool, Stop> {
        let flavour = self.stack.flavour();
        if let Some(own) = name.strip_prefix(flavour.prefix().as_bytes()) {
            if matches!(own, b"metacopy" | b"redirect") {
                let what = "it was changed only in part (overlay's metacopy or redirect_dir)";
                return Err(Stop::Error(Error::Unpackable { path: shown(path), what: what.into() }));
            }
            // What else is overlay's own points to the directory that this one was copied from. Escaped ones are the container's.
            return Ok((own == b"opaque" && value == b"y") || own.starts_with(b"overlay."));
        }
        let other = is_overlay_attribute(name) && flavour == Flavour::User;
        Ok(match self.ownership {
            Ownership::Keep => name == b"security.capability" || !name.starts_with(b"security."),
            _ => name.starts_with(b"user.") && !other,
        })
    }

    /// Directories, the deepest first: nothing goes into them any more.
    fn finish(&mut self) -> Result<()> {
        for (path, stat) in std::mem::take(&mut self.directories).into_iter().rev() {
            self.describe(&path, &stat).map_err(|stop| stop.at(&path))?;
        }
        Ok(())
    }

    fn describe(&self, path: &[u8], stat: &Stat) -> Result<(), Stop> {
        let target = open_directory(&self.root, path, OFlags::RDONLY)?;
        if self.ownership == Ownership::Keep {
            rustix::fs::fchown(&target, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
        }
        if let Some(node) = self.stack.at(path).map_err(Stop::Error)? {
            let visited = Visited { path, file: &node.file, stat: &node.stat, opaque: false };
            self.attributes(&visited, &target)?;
        }
        rustix::fs::fchmod(&target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
        Ok(rustix::fs::futimens(&target, &times(stat))?)
    }
}

enum Stop {
    Errno(Errno),
    Error(Error),
}

impl Stop {
    fn at(self, path: &[u8]) -> Error {
        match self {
            Stop::Errno(errno) => Error::io("copy", shown(path), errno),
            Stop::Error(error) => error,
        }
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Stop {
        Stop::Errno(errno)
    }
}

/// Copies a file's contents: shared extents where there are such, else data without the holes.
fn contents(source: OwnedFd, target: &OwnedFd, size: u64) -> io::Result<()> {
    if rustix::fs::ioctl_ficlone(target, &source).is_ok() {
        return Ok(());
    }
    rustix::fs::ftruncate(target, size)?;
    let (source, mut into) = (File::from(source), File::from(target.try_clone()?));
    let mut offset = 0;
    while offset < size {
        offset = match rustix::fs::seek(&source, SeekFrom::Data(offset)) {
            Ok(data) => data,
            Err(Errno::NXIO) => return Ok(()),
            Err(Errno::INVAL) => offset,
            Err(errno) => return Err(errno.into()),
        };
        let end = match rustix::fs::seek(&source, SeekFrom::Hole(offset)) {
            Ok(hole) if hole > offset => hole.min(size),
            _ => size,
        };
        if offset >= end {
            return Ok(());
        }
        rustix::fs::seek(&source, SeekFrom::Start(offset))?;
        rustix::fs::seek(&into, SeekFrom::Start(offset))?;
        // std copies by copy_file_range(2) where it can.
        let copied = io::copy(&mut io::Read::take(&source, end - offset), &mut into)?;
        // Shortened meanwhile.
        if copied == 0 {
            return Ok(());
        }
        offset += copied;
    }
    Ok(())
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn shown(path: &[u8]) -> PathBuf {
    Path::new("/").join(std::ffi::OsStr::from_bytes(path))
}

#[allow(clippy::cast_lossless, clippy::unnecessary_cast)]
fn times(stat: &Stat) -> Timestamps {
    let spec = |seconds: i64, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: spec(stat.st_atime as i64, stat.st_atime_nsec as i64),
        last_modification: spec(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
    }
}
