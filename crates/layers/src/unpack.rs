//! Unpacks one layer: from compressed bytes to a directory, in one pass.
//!
//! ```text
//! caller's thread                        a thread of its own, umask 0
//! write() → inflate ──pieces of 256 KiB──▶ hash (diffID) → read tar → make files
//!             ▲──────────empty pieces───────┘
//! ```
//!
//! For each file: create with O_EXCL and O_NOFOLLOW below a descriptor of its directory, write, then owner, mode, attributes, times, in
//! this order (a change of owner clears set-user-id and capabilities). Directories get theirs at the very end, the deepest first, so
//! that neither a mode 0000 nor a set-group-id hinders or touches what goes into them. What an entry replaces is unlinked first and
//! never truncated: a hard link of it keeps its contents.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use coracle_image::{Algorithm, Digest, Durability, Hasher};
use flate2::Crc;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::confine::{self, Directory, Metadata, Refusal, Tree, failed, join};
use crate::decompress::{Inflater, PIECE};
use crate::error::{Error, Result, show};
use crate::limits::Limits;
use crate::ownership::{Ledger, Ownership};
use crate::record::{Kinds, Line, Record, crc};
use crate::remove;
use crate::tar::{Entry, Kind, Reader, Timestamp};
use crate::whiteout::{self, Flavour, Mark};

/// How layers are unpacked.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Options {
    /// Whose the files are.
    pub ownership: Ownership,
    /// In which form removals are kept.
    pub flavour: Flavour,
    /// How much a layer may ask for.
    pub limits: Limits,
    /// What of a [`LayerStore`](crate::LayerStore) survives a crash of the machine.
    pub durability: Durability,
}

impl Options {
    /// For root: owners as the layer says, overlays mounted outside user namespaces.
    pub fn root() -> Options {
        Options { ownership: Ownership::Keep, flavour: Flavour::Trusted, limits: Limits::default(), durability: Durability::default() }
    }

    /// For a plain user, and overlays mounted in a user namespace. `Ownership::Defer` where the user has sub-ids, else `Squash`.
    pub fn user(ownership: Ownership) -> Options {
        Options { ownership, flavour: Flavour::User, limits: Limits::default(), durability: Durability::default() }
    }
}

/// What was in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerReport {
    /// The digest of the archive, inflated and to its last byte.
    pub diff_id: Digest,
    /// Bytes of the archive, inflated.
    pub archive_bytes: u64,
    /// Bytes written into files.
    pub file_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Things of the layers below that this layer hides.
    pub whiteouts: u64,
    /// Whether the layer hides all below it (an opaque root). [`LayerStore::paths`](crate::LayerStore::paths) leaves those out.
    pub opaque_root: bool,
    /// What wasn't put on disk, and why: the first thousand.
    pub skipped: Vec<Skipped>,
    /// How many things weren't put on disk.
    pub skipped_total: u64,
    /// Directories without an entry of their own, made 0755; the root is the empty path. Where a layer below has them, its metadata is
    /// right for them.
    pub implicit_parents: Vec<PathBuf>,
    /// Hard links (path, target) to files of the layers below. They aren't on disk: [`LayerStore::paths`](crate::LayerStore::paths)
    /// makes them.
    pub links_below: Vec<(PathBuf, PathBuf)>,
}

/// Something in an archive that wasn't put on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The entry, as text.
    pub path: String,
    /// What of it, and why.
    pub what: String,
}

const REPORTED: usize = 1000;

/// Unpacks one layer (plain, gzip or zstd) into `directory`, which must not exist.
///
/// Removed on an error, but void if the process dies on the way: the [`LayerStore`](crate::LayerStore) guards against that. Blocks.
/// What can only be done in a user namespace is written to a file `ownership` beside the directory.
///
/// # Errors
/// As [`Error`]; `directory` is removed.
///
/// # Privilege
/// [`Ownership::Keep`] needs root; the others none. Whiteouts need Linux 5.8 for a plain user.
pub fn unpack(mut layer: impl Read, directory: &Path, options: &Options) -> Result<LayerReport> {
    let name = "in this stream";
    std::fs::create_dir(directory).map_err(|error| Error::io("make the directory", directory, error))?;
    let mut run = || {
        let root = open_root(directory)?;
        let mut pipeline = Pipeline::start(name, Some(Algorithm::Sha256), root, options.clone(), None, ())?;
        let mut buffer = vec![0; PIECE];
        loop {
            match layer.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => pipeline.write(&buffer[..n])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::read(name, error)),
            }
        }
        let (mut unpacked, ()) = pipeline.finish()?;
        if let Some(diff_id) = unpacked.diff_id {
            unpacked.report.diff_id = diff_id;
        }
        if !unpacked.ledger.is_empty() {
            let path = directory.with_file_name("ownership");
            std::fs::write(&path, unpacked.ledger.encode()).map_err(|error| Error::io("write", path, error))?;
        }
        Ok(unpacked.report)
    };
    run().inspect_err(|_| drop(remove::remove_tree(directory)))
}

/// Opens a new, empty directory for unpacking into, and makes it private.
pub(crate) fn open_root(directory: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(directory, flags, Mode::empty()).map_err(|errno| Error::io("open", directory, errno))?;
    rustix::fs::fchmod(&root, Mode::RWXU).map_err(|errno| Error::io("make private", directory, errno))?;
    // A default ACL of the store's directory would take the place of modes.
    match rustix::fs::fremovexattr(&root, "system.posix_acl_default") {
        Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(root),
        Err(errno) => Err(Error::io("remove the default ACL of", directory, errno)),
    }
}

/// Lets as many threads work at once as there are processors: more are slower, they wait for the file system's locks.
#[derive(Debug)]
pub(crate) struct Turns {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Turns {
    pub(crate) fn new(count: usize) -> Turns {
        Turns { free: Mutex::new(count.max(1)), freed: Condvar::new() }
    }

    fn take(self: &Arc<Turns>) -> Turn {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.freed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        Turn(Arc::clone(self))
    }
}

struct Turn(Arc<Turns>);

impl Drop for Turn {
    fn drop(&mut self) {
        *self.0.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.0.freed.notify_one();
    }
}

/// A layer on its way to disk. Dropping it without [`finish`](Pipeline::finish) stops the thread at its next piece and waits for it: what
/// was written is gone then.
///
/// `K` goes with the thread: it comes back when all went well, else it's dropped after everything was closed.
pub(crate) struct Pipeline<K> {
    layer: String,
    inflater: Inflater,
    pieces: Option<SyncSender<Piece>>,
    empties: Receiver<Vec<u8>>,
    worker: Option<JoinHandle<Result<(Unpacked, K)>>>,
}

pub(crate) struct Unpacked {
    /// Its diffID isn't set.
    pub(crate) report: LayerReport,
    /// The digest of the archive, if it was to be taken.
    pub(crate) diff_id: Option<Digest>,
    pub(crate) ledger: Ledger,
    pub(crate) record: Record,
}

enum Piece {
    Data(Vec<u8>),
    End,
}

impl<K: Send + 'static> Pipeline<K> {
    /// Without an algorithm the archive isn't hashed: its diffID is known.
    pub(crate) fn start(
        layer: &str,
        algorithm: Option<Algorithm>,
        root: OwnedFd,
        options: Options,
        turns: Option<Arc<Turns>>,
        keep: K,
    ) -> Result<Pipeline<K>> {
        let (pieces, incoming) = sync_channel(4);
        let (outgoing, empties) = channel();
        let name = layer.to_owned();
        let work = move || match run(&name, algorithm, root, &options, turns, incoming, outgoing) {
            Ok(unpacked) => Ok((unpacked, keep)),
            Err(error) => {
                drop(keep);
                Err(error)
            }
        };
        let worker = std::thread::Builder::new()
            .name("coracle-unpack".into())
            .spawn(work)
            .map_err(|error| Error::io("start a thread for", layer, error))?;
        Ok(Pipeline { layer: layer.to_owned(), inflater: Inflater::new(layer), pieces: Some(pieces), empties, worker: Some(worker) })
    }

    /// Takes the next compressed bytes; blocks while the disk is behind.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.work(|inflater, emit| inflater.push(bytes, emit))
    }

    /// All bytes were written: waits for the disk.
    pub(crate) fn finish(mut self) -> Result<(Unpacked, K)> {
        self.work(Inflater::finish)?;
        if let Some(pieces) = self.pieces.take() {
            // A thread that's gone has left its reason.
            let _ = pieces.send(Piece::End);
        }
        self.join()
    }

    fn work(&mut self, step: impl FnOnce(&mut Inflater, &mut dyn FnMut(Vec<u8>) -> Result<Vec<u8>>) -> Result<()>) -> Result<()> {
        let Some(pieces) = &self.pieces else {
            return Err(self.unfinished());
        };
        let mut lost = false;
        let (layer, empties) = (&self.layer, &self.empties);
        let mut emit = |piece: Vec<u8>| {
            if pieces.send(Piece::Data(piece)).is_err() {
                lost = true;
                return Err(Error::Unfinished { layer: layer.clone() });
            }
            Ok(empties.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE)))
        };
        let result = step(&mut self.inflater, &mut emit);
        if result.is_ok() {
            return Ok(());
        }
        self.pieces = None;
        if lost {
            // The thread ended first: its error is the reason.
            return match self.join() {
                Err(error) => Err(error),
                Ok(_) => Err(self.unfinished()),
            };
        }
        // Ours is the reason; wait until what was written is gone.
        let _ = self.join();
        result
    }

    fn join(&mut self) -> Result<(Unpacked, K)> {
        match self.worker.take().map(JoinHandle::join) {
            Some(Ok(result)) => result,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
            None => Err(self.unfinished()),
        }
    }

    fn unfinished(&self) -> Error {
        Error::Unfinished { layer: self.layer.clone() }
    }
}

impl<K> Drop for Pipeline<K> {
    fn drop(&mut self) {
        self.pieces = None;
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
    }
}

fn run(
    layer: &str,
    algorithm: Option<Algorithm>,
    root: OwnedFd,
    options: &Options,
    turns: Option<Arc<Turns>>,
    incoming: Receiver<Piece>,
    outgoing: Sender<Vec<u8>>,
) -> Result<Unpacked> {
    // The umask belongs to the process; with file system attributes of its own, this thread can have another. Where a seccomp profile
    // forbids it, modes are set by fchmod.
    let umask_is_clear = nix::sched::unshare(nix::sched::CloneFlags::CLONE_FS).is_ok();
    if umask_is_clear {
        rustix::process::umask(Mode::empty());
    }
    let source =
        Pieces { incoming, outgoing, hasher: algorithm.map(Hasher::new), piece: Vec::new(), position: 0, ended: false, turns, turn: None };
    let mut reader = Reader::new(source, layer, options.limits.clone());
    let mut unpacker = Unpacker::new(layer, root, options, umask_is_clear)?;
    while let Some(entry) = reader.next_entry()? {
        unpacker.entry(&mut reader, entry)?;
    }
    reader.drain()?;
    let (mut report, ledger, record) = unpacker.finish()?;
    report.archive_bytes = reader.offset();
    let diff_id = reader.into_source().hasher.map(Hasher::finish);
    Ok(Unpacked { report, diff_id, ledger, record })
}

/// The pieces as one stream, hashed as they come.
struct Pieces {
    incoming: Receiver<Piece>,
    outgoing: Sender<Vec<u8>>,
    hasher: Option<Hasher>,
    piece: Vec<u8>,
    position: usize,
    ended: bool,
    turns: Option<Arc<Turns>>,
    turn: Option<Turn>,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.piece.len() && !self.ended {
            let mut used = std::mem::take(&mut self.piece);
            self.position = 0;
            if used.capacity() > 0 {
                used.clear();
                let _ = self.outgoing.send(used);
            }
            self.turn = None;
            match self.incoming.recv() {
                Ok(Piece::Data(piece)) => {
                    self.turn = self.turns.as_ref().map(Turns::take);
                    if let Some(hasher) = &mut self.hasher {
                        hasher.update(&piece);
                    }
                    self.piece = piece;
                }
                Ok(Piece::End) => {
                    self.turn = self.turns.as_ref().map(Turns::take);
                    self.ended = true;
                }
                Err(_) => {
                    return Err(Error::Unfinished { layer: String::new() }.into());
                }
            }
        }
        Ok(&self.piece[self.position..])
    }

    fn consume(&mut self, count: usize) {
        self.position += count;
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let count = available.len().min(buffer.len());
        buffer[..count].copy_from_slice(&available[..count]);
        self.consume(count);
        Ok(count)
    }
}

struct Unpacker<'a> {
    layer: &'a str,
    options: &'a Options,
    umask_is_clear: bool,
    /// The owner that new files have, where that is known.
    created: Option<(u32, u32)>,
    tree: Tree,
    ledger: Ledger,
    report: LayerReport,
    /// Hard links whose target wasn't there yet: real path of the link to path of the target.
    pending: BTreeMap<Vec<u8>, Vec<u8>>,
    record: Record,
    /// Whether files come out as they were asked for: not on every file system they do. None until the first was looked at.
    faithful: Option<bool>,
}

impl<'a> Unpacker<'a> {
    fn new(layer: &'a str, root: OwnedFd, options: &'a Options, umask_is_clear: bool) -> Result<Unpacker<'a>> {
        let stat = rustix::fs::fstat(&root).map_err(|errno| Error::io("look at", "the layer's directory", errno))?;
        let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        // Where directories give their group to new files (mount option grpid), ours has another group than we.
        let created = (stat.st_gid == gid).then_some((uid, gid));
        Ok(Unpacker {
            layer,
            options,
            umask_is_clear,
            created,
            tree: Tree::new(root),
            ledger: Ledger::default(),
            report: LayerReport {
                diff_id: Digest::sha256(b""),
                archive_bytes: 0,
                file_bytes: 0,
                entries: 0,
                whiteouts: 0,
                opaque_root: false,
                skipped: Vec::new(),
                skipped_total: 0,
                implicit_parents: Vec::new(),
                links_below: Vec::new(),
            },
            pending: BTreeMap::new(),
            record: Record::default(),
            faithful: None,
        })
    }

    fn entry<R: BufRead>(&mut self, reader: &mut Reader<R>, entry: Entry) -> Result<()> {
        self.report.entries += 1;
        let path = entry.path.clone();
        let start = entry.offset;
        self.place(reader, entry).map_err(|stop| match stop {
            Stop::Error(error) => error,
            Stop::Refused(refusal) => self.refused(refusal, &path, start),
        })
    }

    fn refused(&self, refusal: Refusal, path: &[u8], offset: u64) -> Error {
        match refusal {
            Refusal::Malformed(what) => {
                Error::Malformed { layer: self.layer.to_owned(), entry: Some(show(path)), offset, what: what.into() }
            }
            Refusal::Failed(attempt, errno) => Error::Io {
                attempt,
                path: PathBuf::from(OsStr::from_bytes(path)),
                layer: Some(self.layer.to_owned()),
                source: errno.into(),
            },
        }
    }

    fn skip(&mut self, path: &[u8], what: impl Into<String>) {
        self.report.skipped_total += 1;
        if self.report.skipped.len() < REPORTED {
            self.report.skipped.push(Skipped { path: show(path), what: what.into() });
        }
    }

    fn place<R: BufRead>(&mut self, reader: &mut Reader<R>, mut entry: Entry) -> Result<(), Stop> {
        if entry.kind == Kind::VolumeLabel {
            self.skip(&entry.path, "the archive's label: not a file");
            return Ok(());
        }
        let written = std::mem::take(&mut entry.path);
        let components = confine::components(&written, &self.options.limits)?;
        for key in &entry.unread {
            self.skip(&written, format!("{key}: not kept"));
        }
        match whiteout::mark(&components) {
            Err(what) => return Err(reader.malformed(what).into()),
            Ok(Mark::Ignored) => {
                self.skip(&written, "left over from aufs");
                return Ok(());
            }
            Ok(Mark::Opaque) => return Ok(self.opaque(&components[..components.len() - 1])?),
            Ok(Mark::Hide(name)) => {
                return Ok(self.hide(&components[..components.len() - 1], name)?);
            }
            Ok(Mark::None) => {}
        }
        let Some((name, parents)) = components.split_last() else {
            return Ok(self.root(entry)?);
        };
        let Some(place) = self.tree.resolve(parents, true)? else {
            return Ok(());
        };
        let path = join(&place.parent, name);
        self.ledger_forget(&path);
        self.pending.remove(&path);
        let parent = self.tree.open(&place.parent)?;

        let metadata = Metadata {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: entry.mtime,
            atime: entry.atime,
            xattrs: self.wanted(&written, &entry),
        };
        match &entry.kind {
            Kind::Directory => return Ok(self.directory(&place.parent, name, metadata)?),
            Kind::Hardlink(target) => {
                let target = target.clone();
                return Ok(self.hardlink(&path, &place.parent, name, &target)?);
            }
            Kind::File => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                let file = self.replacing(&path, &parent, name, "create", || rustix::fs::openat(&*parent, *name, flags, mode))?;
                let sum = self.contents(reader, &file, entry.size)?;
                self.describe_file(&path, &written, &file, &metadata)?;
                self.record_file(path, (&parent, name), &file, &metadata, entry.size, sum)?;
                return Ok(());
            }
            Kind::Symlink(target) => {
                if target.is_empty() {
                    return Err(Refusal::Malformed("a symbolic link to nothing").into());
                }
                if target.len() > self.options.limits.path_bytes {
                    return Err(Refusal::Malformed("the target of its symbolic link is too long").into());
                }
                self.replacing(&path, &parent, name, "make the symbolic link", || {
                    rustix::fs::symlinkat(target.as_slice(), &*parent, *name)
                })?;
            }
            Kind::Fifo => {
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                self.replacing(&path, &parent, name, "make the FIFO", || rustix::fs::mknodat(&*parent, *name, FileType::Fifo, mode, 0))?;
            }
            Kind::CharDevice(0, 0) => {
                self.skip(&written, "a character device 0:0: on disk it would hide a file");
                return Ok(());
            }
            Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) => {
                let kind = if matches!(entry.kind, Kind::CharDevice(..)) { FileType::CharacterDevice } else { FileType::BlockDevice };
                if self.options.ownership != Ownership::Keep {
                    // What was in its place still goes.
                    self.clear(&path, &parent, name)?;
                    let record = [kind.as_raw_mode() | entry.mode, entry.uid, entry.gid, *major, *minor];
                    if self.options.ownership == Ownership::Defer {
                        self.ledger.devices.insert(path, record);
                    }
                    self.skip(&written, "a device: only root can make it");
                    return Ok(());
                }
                let mode = Mode::from_raw_mode(entry.mode & 0o777);
                let device = rustix::fs::makedev(*major, *minor);
                self.replacing(&path, &parent, name, "make the device", || rustix::fs::mknodat(&*parent, *name, kind, mode, device))?;
            }
            Kind::VolumeLabel => {}
        }
        self.describe_special(&path, &written, &parent, name, &metadata, matches!(entry.kind, Kind::Symlink(_)))?;
        let sum = if let Kind::Symlink(target) = &entry.kind { Some(crc(target)) } else { None };
        Ok(self.record_special(path, &parent, name, sum, !metadata.xattrs.is_empty())?)
    }

    fn ledger_forget(&mut self, path: &[u8]) {
        if self.options.ownership == Ownership::Defer {
            self.ledger.forget(path);
        }
    }

    /// The root's own entry. It never becomes closed to others: many layers were made in a private temporary directory.
    fn root(&mut self, entry: Entry) -> Result<(), Refusal> {
        if entry.kind != Kind::Directory {
            return Err("the root of a layer has to be a directory".into());
        }
        let xattrs = self.wanted(b"/", &entry);
        let metadata =
            Metadata { mode: entry.mode | 0o555, uid: entry.uid, gid: entry.gid, mtime: entry.mtime, atime: entry.atime, xattrs };
        if let Some(root) = self.tree.directories.get_mut(&b""[..]) {
            root.metadata = Some(metadata);
        }
        Ok(())
    }

    fn opaque(&mut self, directory: &[&[u8]]) -> Result<(), Refusal> {
        if let Some(place) = self.tree.resolve(directory, true)? {
            if place.by_link {
                return Err("a whiteout through a symbolic link".into());
            }
            self.report.opaque_root |= place.parent.is_empty();
            if let Some(directory) = self.tree.directories.get_mut(&place.parent) {
                directory.opaque = true;
                self.report.whiteouts += 1;
            }
        }
        Ok(())
    }

    fn hide(&mut self, parents: &[&[u8]], name: &[u8]) -> Result<(), Refusal> {
        if name.len() > 255 {
            return Err("its path has a name of more than 255 bytes".into());
        }
        let Some(place) = self.tree.resolve(parents, true)? else {
            return Ok(());
        };
        if place.by_link {
            return Err("a whiteout through a symbolic link".into());
        }
        self.report.whiteouts += 1;
        let path = join(&place.parent, name);
        // A whiteout hides what is below, never what this layer itself brings, whichever comes first.
        if let Some(directory) = self.tree.directories.get_mut(&path) {
            directory.opaque = true;
            return Ok(());
        }
        let parent = self.tree.open(&place.parent)?;
        match rustix::fs::mknodat(&*parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => self.record_special(path, &parent, name, None, false),
            Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(failed("make the whiteout")(errno)),
        }
    }

    fn directory(&mut self, parent: &[u8], name: &[u8], metadata: Metadata) -> Result<(), Refusal> {
        let path = join(parent, name);
        if let Some(directory) = self.tree.directories.get_mut(&path) {
            directory.metadata = Some(metadata);
            return Ok(());
        }
        match self.tree.make_directory(parent, name, Some(metadata.clone())) {
            Err(Refusal::Failed(_, Errno::EXIST)) => {}
            result => return result,
        }
        // In the place of a whiteout or of a file: nothing of a directory below may show through.
        let fd = self.tree.open(parent)?;
        rustix::fs::unlinkat(&*fd, name, AtFlags::empty()).map_err(failed("replace"))?;
        self.tree.make_directory(parent, name, Some(metadata))?;
        if let Some(directory) = self.tree.directories.get_mut(&path) {
            directory.opaque = true;
        }
        Ok(())
    }

    /// Does `make`, and if something of this layer is in its place, once more without that.
    fn replacing<T>(
        &mut self,
        path: &[u8],
        parent: &OwnedFd,
        name: &[u8],
        attempt: &'static str,
        make: impl Fn() -> rustix::io::Result<T>,
    ) -> Result<T, Refusal> {
        match make() {
            Err(Errno::EXIST) => {}
            result => return result.map_err(failed(attempt)),
        }
        self.clear(path, parent, name)?;
        make().map_err(failed(attempt))
    }

    /// Removes what is in the place of a new entry, if anything is.
    fn clear(&mut self, path: &[u8], parent: &OwnedFd, name: &[u8]) -> Result<(), Refusal> {
        self.record.forget(path);
        if self.tree.directories.contains_key(path) {
            self.tree.forget(path);
            self.ledger.forget_tree(path);
            let below = join(path, b"");
            self.pending.retain(|other, _| !other.starts_with(&below));
            return remove::remove_at(parent, name).map_err(failed("replace"));
        }
        match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(failed("replace")(errno)),
        }
    }

    fn hardlink(&mut self, path: &[u8], parent: &[u8], name: &[u8], target: &[u8]) -> Result<(), Refusal> {
        if self.link(path, parent, name, target)? {
            return Ok(());
        }
        // Its target may come later in this archive, or be in a layer below.
        let fd = self.tree.open(parent)?;
        self.clear(path, &fd, name)?;
        self.pending.insert(path.to_vec(), target.to_vec());
        Ok(())
    }

    /// Makes a hard link, unless its target isn't in this layer.
    fn link(&mut self, path: &[u8], parent: &[u8], name: &[u8], target: &[u8]) -> Result<bool, Refusal> {
        let limits = self.options.limits.clone();
        let names = confine::components(target, &limits).map_err(|_| "the target of its hard link isn't a path inside the layer")?;
        let Some((target_name, target_parents)) = names.split_last() else {
            return Err("a hard link to the root directory".into());
        };
        let Some(place) = self.tree.resolve(target_parents, false)? else {
            return Ok(false);
        };
        let real = join(&place.parent, target_name);
        if real == path {
            return Err("a hard link to itself".into());
        }
        if self.tree.directories.contains_key(&real) {
            return Err("a hard link to a directory".into());
        }
        if real.starts_with(&join(path, b"")) {
            return Err("a hard link that replaces the directory of its own target".into());
        }
        let from = self.tree.open(&place.parent)?;
        match confine::is_whiteout(&*from, target_name) {
            Ok(false) => {}
            Ok(true) => return Err("a hard link to something that this layer removes".into()),
            Err(Errno::NOENT) => return Ok(false),
            Err(errno) => return Err(failed("look at the target of")(errno)),
        }
        let to = self.tree.open(parent)?;
        // No AT_SYMLINK_FOLLOW: a link to a symbolic link links that.
        self.replacing(path, &to, name, "make the hard link", || rustix::fs::linkat(&*from, *target_name, &*to, name, AtFlags::empty()))?;
        if self.options.ownership == Ownership::Defer {
            self.ledger.link(&real, path);
        }
        if !self.record.link(&real, path) {
            self.record_special(path.to_vec(), &to, name, None, true)?;
        }
        Ok(true)
    }

    /// Writes a file, and returns the checksum of its contents; none for a file with holes.
    fn contents<R: BufRead>(&mut self, reader: &mut Reader<R>, file: &OwnedFd, size: u64) -> Result<Option<u32>, Stop> {
        let (mut end, mut sum) = (0, Some(Crc::new()));
        while let Some(data) = reader.data()? {
            if let Some(sum) = &mut sum {
                sum.update(data.bytes);
            }
            if data.offset != end {
                sum = None;
                // A hole: seek over it.
                rustix::fs::seek(file, rustix::fs::SeekFrom::Start(data.offset)).map_err(failed("seek in"))?;
            }
            end = data.offset + data.bytes.len() as u64;
            let mut bytes = data.bytes;
            while !bytes.is_empty() {
                match rustix::io::write(file, bytes) {
                    Ok(count) => bytes = &bytes[count..],
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(failed("write")(errno).into()),
                }
            }
            self.report.file_bytes += data.bytes.len() as u64;
        }
        if end != size {
            match rustix::fs::ftruncate(file, size) {
                Ok(()) => {}
                Err(Errno::FBIG | Errno::INVAL) => {
                    return Err(Refusal::Malformed("it's longer than a file can be").into());
                }
                Err(errno) => return Err(failed("set the length of")(errno).into()),
            }
        }
        Ok(sum.filter(|_| end == size).map(|sum| sum.sum()))
    }

    /// Writes down what became of a file: by what was asked for, unless that may be something else on disk.
    fn record_file(
        &mut self,
        path: Vec<u8>,
        (parent, name): (&OwnedFd, &[u8]),
        file: &OwnedFd,
        metadata: &Metadata,
        size: u64,
        sum: Option<u32>,
    ) -> Result<(), Refusal> {
        let look = || rustix::fs::fstat(file).map_err(failed("look at"));
        let Metadata { mode, uid, gid, mtime, xattrs, .. } = metadata;
        let owner = if self.options.ownership == Ownership::Keep { Some((*uid, *gid)) } else { self.created };
        // Set-group-id may be taken away silently, an ACL changes the mode, and times are rounded or bounded.
        let usual = mode & 0o7000 == 0 && xattrs.is_empty() && mtime.nanoseconds == 0 && (0..=i64::from(i32::MAX)).contains(&mtime.seconds);
        let line = match owner {
            Some(owner) if usual && self.faithful != Some(false) => {
                let line = Line::file(*mode, owner, size, mtime.seconds, sum);
                if self.faithful.is_none() {
                    let found = Line::of(&look()?, sum);
                    self.faithful = Some(found == line);
                    found
                } else {
                    line
                }
            }
            _ => {
                let attributes = if xattrs.is_empty() { Some(0) } else { Kinds::of(self.options).sum(parent, name) };
                Line::of(&look()?, sum).with_attributes(attributes)
            }
        };
        self.record.set(path, line);
        Ok(())
    }

    /// `attributes`: whether it was given some.
    fn record_special(&mut self, path: Vec<u8>, parent: &OwnedFd, name: &[u8], sum: Option<u32>, attributes: bool) -> Result<(), Refusal> {
        let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW).map_err(failed("look at"))?;
        let attributes = if attributes { Kinds::of(self.options).sum(parent, name) } else { Some(0) };
        self.record.set(path, Line::of(&stat, sum).with_attributes(attributes));
        Ok(())
    }

    /// The extended attributes of an entry that go to disk; the others are reported.
    fn wanted(&mut self, written: &[u8], entry: &Entry) -> Vec<(Vec<u8>, Vec<u8>)> {
        let keep = self.options.ownership == Ownership::Keep;
        let mut wanted = Vec::new();
        for (name, value) in &entry.xattrs {
            let why = if whiteout::is_overlay_attribute(name) {
                "means something to overlay"
            } else if name == b"security.capability" {
                // Kept, or recorded for a user namespace to set.
                wanted.push((name.clone(), value.clone()));
                continue;
            } else if name.starts_with(b"security.") {
                "belongs to the machine where the layer was made"
            } else if !keep && (name.starts_with(b"trusted.") || name.starts_with(b"system.")) {
                "only root can set it"
            } else {
                wanted.push((name.clone(), value.clone()));
                continue;
            };
            self.skip(written, format!("attribute {}: {why}", show(name)));
        }
        wanted
    }

    fn record_owner(&mut self, path: &[u8], metadata: &Metadata) {
        if self.options.ownership == Ownership::Defer && (metadata.uid, metadata.gid) != (0, 0) {
            self.ledger.owners.insert(path.to_vec(), (metadata.uid, metadata.gid, metadata.mode));
        }
    }

    fn describe_file(&mut self, path: &[u8], written: &[u8], file: &OwnedFd, metadata: &Metadata) -> Result<(), Refusal> {
        self.describe_open(path, written, file, metadata, self.umask_is_clear && metadata.mode & 0o7000 == 0)
    }

    /// Owner, mode, attributes and times of a file or directory, in this order.
    fn describe_open(
        &mut self,
        path: &[u8],
        written: &[u8],
        fd: &OwnedFd,
        metadata: &Metadata,
        mode_is_right: bool,
    ) -> Result<(), Refusal> {
        self.record_owner(path, metadata);
        if self.options.ownership == Ownership::Keep && Some((metadata.uid, metadata.gid)) != self.created {
            let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(failed("give to its owner"))?;
        }
        let set_mode = |mode| rustix::fs::fchmod(fd, Mode::from_raw_mode(mode)).map_err(failed("set the mode of"));
        // Without privilege attributes of a read-only file can't be set, so its mode comes after them.
        let mode_last = self.options.ownership != Ownership::Keep && !metadata.xattrs.is_empty();
        if mode_last {
            set_mode(metadata.mode | 0o600)?;
        } else if !mode_is_right {
            set_mode(metadata.mode)?;
        }
        for (name, value) in &metadata.xattrs {
            self.attribute(path, written, name, value, || rustix::fs::fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()))?;
        }
        if mode_last {
            set_mode(metadata.mode)?;
        }
        rustix::fs::futimens(fd, &times(metadata)).map_err(failed("set the times of"))
    }

    /// The same for what can't be opened: links, FIFOs and devices.
    fn describe_special(
        &mut self,
        path: &[u8],
        written: &[u8],
        parent: &OwnedFd,
        name: &[u8],
        metadata: &Metadata,
        is_link: bool,
    ) -> Result<(), Refusal> {
        self.record_owner(path, metadata);
        if self.options.ownership == Ownership::Keep && Some((metadata.uid, metadata.gid)) != self.created {
            let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
            rustix::fs::chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("give to its owner"))?;
        }
        if !is_link && (!self.umask_is_clear || metadata.mode & 0o7000 != 0) {
            // The directory is ours alone and the name was just made, so this can't be a link.
            rustix::fs::chmodat(parent, name, Mode::from_raw_mode(metadata.mode), AtFlags::empty()).map_err(failed("set the mode of"))?;
        }
        if !metadata.xattrs.is_empty() {
            let direct = [format!("/proc/self/fd/{}/", parent.as_fd().as_raw_fd()).as_bytes(), name].concat();
            for (name, value) in &metadata.xattrs {
                self.attribute(path, written, name, value, || {
                    rustix::fs::lsetxattr(direct.as_slice(), name.as_slice(), value, XattrFlags::empty())
                })?;
            }
        }
        rustix::fs::utimensat(parent, name, &times(metadata), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the times of"))
    }

    fn attribute(
        &mut self,
        path: &[u8],
        written: &[u8],
        name: &[u8],
        value: &[u8],
        set: impl Fn() -> rustix::io::Result<()>,
    ) -> Result<(), Refusal> {
        if name == b"security.capability" && self.options.ownership != Ownership::Keep {
            match self.options.ownership {
                Ownership::Defer => {
                    self.ledger.capabilities.insert(path.to_vec(), value.to_vec());
                }
                _ => self.skip(written, "attribute security.capability: only root can set it"),
            }
            return Ok(());
        }
        match set() {
            Ok(()) => Ok(()),
            // Not for this type of file, this file system, or this caller: containers run without it, and the report says so.
            Err(errno @ (Errno::OPNOTSUPP | Errno::PERM | Errno::INVAL | Errno::RANGE | Errno::TOOBIG)) => {
                self.skip(written, format!("attribute {}: {}", show(name), io::Error::from(errno)));
                Ok(())
            }
            Err(errno) => Err(failed("set an attribute of")(errno)),
        }
    }

    /// After the last entry: links that waited for their target, then all directories, the deepest first.
    fn finish(mut self) -> Result<(LayerReport, Ledger, Record)> {
        // A link may wait for another link, so go on while something moves.
        let mut waiting = std::mem::take(&mut self.pending);
        loop {
            let mut left = BTreeMap::new();
            let before = waiting.len();
            for (path, target) in waiting {
                match self.late_link(&path, &target) {
                    Ok(true) => {}
                    Ok(false) => {
                        left.insert(path, target);
                    }
                    Err(refusal) => return Err(self.refused(refusal, &path, 0)),
                }
            }
            waiting = left;
            if waiting.is_empty() || waiting.len() == before {
                break;
            }
        }
        let as_path = |bytes: &[u8]| PathBuf::from(OsStr::from_bytes(bytes));
        for (path, target) in &waiting {
            let limits = &self.options.limits;
            let names = confine::components(target, limits).map_err(|refusal| self.refused(refusal, path, 0))?;
            self.report.links_below.push((as_path(path), as_path(&names.join(&b'/'))));
        }

        let directories = std::mem::take(&mut self.tree.directories);
        let opaque: Vec<Vec<u8>> = directories.iter().filter(|(_, directory)| directory.opaque).map(|(path, _)| path.clone()).collect();
        for (path, directory) in directories.into_iter().rev() {
            if opaque.iter().any(|above| is_at_or_below(&path, above)) {
                self.drop_whiteouts(&path).map_err(|refusal| self.refused(refusal, &path, 0))?;
            }
            if directory.metadata.is_none() {
                self.report.implicit_parents.push(as_path(&path));
            }
            self.directory_end(&path, directory).map_err(|refusal| self.refused(refusal, &path, 0))?;
        }
        self.report.implicit_parents.reverse();
        Ok((self.report, self.ledger, self.record))
    }

    fn late_link(&mut self, path: &[u8], target: &[u8]) -> Result<bool, Refusal> {
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        // The directory may have been replaced by something else since.
        if !self.tree.directories.contains_key(parent) {
            return Ok(true);
        }
        if self.tree.directories.contains_key(path) {
            return Err("something stands below a hard link".into());
        }
        self.link(path, parent, name, target)
    }

    /// Removes the whiteouts of a directory below which nothing shows. Overlay merges such a directory with none, and lists what is in
    /// it as it is: names that aren't there.
    fn drop_whiteouts(&mut self, path: &[u8]) -> Result<(), Refusal> {
        let fd = self.tree.open_for_reading(path)?;
        let mut found = Vec::new();
        for entry in rustix::fs::Dir::read_from(&fd).map_err(failed("read"))? {
            let entry = entry.map_err(failed("read"))?;
            let name = entry.file_name().to_bytes();
            if matches!(entry.file_type(), FileType::CharacterDevice | FileType::Unknown)
                && confine::is_whiteout(&fd, name).map_err(failed("look into"))?
            {
                found.push(name.to_vec());
            }
        }
        for name in found {
            rustix::fs::unlinkat(&fd, name.as_slice(), AtFlags::empty()).map_err(failed("remove a whiteout of"))?;
        }
        Ok(())
    }

    fn directory_end(&mut self, path: &[u8], directory: Directory) -> Result<(), Refusal> {
        let metadata = directory.metadata.unwrap_or(Metadata { mode: 0o755, ..Metadata::default() });
        let fd = self.tree.open_for_reading(path)?;
        let opaque = directory.opaque && !path.is_empty();
        // While it's still ours: on one that is given away or closed, a plain user couldn't.
        if opaque {
            rustix::fs::fsetxattr(&fd, self.options.flavour.opaque(), b"y", XattrFlags::empty()).map_err(failed("make opaque"))?;
        }
        self.describe_open(path, path, &fd, &metadata, false)?;
        let stat = rustix::fs::fstat(&fd).map_err(failed("look at"))?;
        let attributes = if metadata.xattrs.is_empty() { Some(0) } else { Kinds::of(self.options).sum(&fd, b"") };
        self.record.set(path.to_vec(), Line::of(&stat, Some(if opaque { crc(b"y") } else { 0 })).with_attributes(attributes));
        Ok(())
    }
}

/// Whether a path is another or lies below it; the empty path is the root.
fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    above.is_empty() || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

/// Why an entry can't be placed.
enum Stop {
    Error(Error),
    Refused(Refusal),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Stop {
        Stop::Error(error)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Stop {
        Stop::Refused(refusal)
    }
}

fn times(metadata: &Metadata) -> Timestamps {
    fn spec(time: Timestamp) -> Timespec {
        Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds.into() }
    }
    Timestamps { last_access: spec(metadata.atime.unwrap_or(metadata.mtime)), last_modification: spec(metadata.mtime) }
}
