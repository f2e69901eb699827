//! What a container changed, as a layer; and what it sees, as an archive.
//!
//! A layer comes of the upper directory alone: overlay leaves nothing of a changed file or directory to the layers below (it is mounted
//! without `metacopy` and `redirect_dir`; where a file says otherwise, that is an error and no half of a file). So a diff costs what was
//! changed, whatever the image's size.
//!
//! | in the upper directory | in the layer |
//! |---|---|
//! | character device 0:0 | `.wh.NAME`, empty |
//! | directory with `overlay.opaque` = y | the directory, then `.wh..wh..opq` in it |
//! | names of one inode | the first by name; the others are hard links to it |
//! | `security.capability` | version 2, as the container sees it |
//! | attributes of overlay's own, sockets | nothing |
//!
//! The same tree makes the same bytes: names are sorted as bytes, nothing says when or by whom the archive was made, and holes are what is
//! zero (archive.rs).

use std::collections::HashMap;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use coracle_image::{Algorithm, Digest, Hasher};
use rustix::fs::{FileType, SeekFrom, Stat};
use rustix::io::Errno;

use crate::access::{Access, Ids};
use crate::archive::{Archive, GRAIN, HOLE, Header, Holes, Kind};
use crate::confine::join;
use crate::error::{Error, Result, show};
use crate::limits::Limits;
use crate::tree::{Stack, Visited, is_whiteout};
use crate::unpack::Skipped;
use crate::whiteout::{Flavour, is_overlay_attribute};

/// How a container's files are read.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct DiffOptions {
    /// In which form overlay keeps what was removed.
    pub flavour: Flavour,
    /// Whose the files are inside the container.
    pub ids: Ids,
    /// Times of files that are later are written as this one: SOURCE_DATE_EPOCH (reproducible-builds.org). None leaves them.
    pub clamp: Option<SystemTime>,
    /// Absolute paths that things were mounted on. Empty files and directories there were made to be mounted on, and are no change;
    /// nor are directories that hold nothing else, unless they differ from those below.
    pub mount_points: Vec<PathBuf>,
    /// Directories that lie directly below the upper one, the topmost first, and whose changes count as changes, too: the snapshots that
    /// the container was started from.
    pub between: Vec<PathBuf>,
    /// What lies below all of these, the topmost first: only [`changes`] needs it. [`diff`] compares with it directories that hold nothing but
    /// mount points, and the root, whose entry is left out where nothing of it was changed.
    pub lower: Vec<PathBuf>,
    /// Who opens what this process may not.
    pub access: Option<Arc<dyn Access>>,
}

impl DiffOptions {
    /// For root's containers: ids as they are, `trusted.overlay.*`.
    pub fn root() -> DiffOptions {
        DiffOptions {
            flavour: Flavour::Trusted,
            ids: Ids::same(),
            clamp: None,
            mount_points: Vec::new(),
            between: Vec::new(),
            lower: Vec::new(),
            access: None,
        }
    }

    /// For containers in a user namespace, whose ids these are.
    pub fn user(ids: Ids) -> DiffOptions {
        DiffOptions { flavour: Flavour::User, ids, ..DiffOptions::root() }
    }
}

/// What was written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DiffReport {
    /// The digest of the archive: as a layer its diffID (OCI image-spec, config.md).
    pub diff_id: Digest,
    /// Bytes of the archive.
    pub archive_bytes: u64,
    /// Bytes of files' contents in it.
    pub file_bytes: u64,
    /// Entries. None: nothing was changed.
    pub entries: u64,
    /// What isn't in it, and why: the first thousand.
    pub skipped: Vec<Skipped>,
    /// How many things aren't in it.
    pub skipped_total: u64,
}

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum ChangeKind {
    /// It wasn't there.
    Added,
    /// It was there, and is another or has something changed in it.
    Changed,
    /// It isn't there any more.
    Deleted,
}

/// A path that a container changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PathChange {
    /// What happened.
    pub kind: ChangeKind,
    /// The path, absolute, as the container sees it.
    pub path: PathBuf,
}

/// Writes what a container changed as a layer: the archive isn't compressed ([`Compressor`](crate::Compressor) does that).
///
/// `upper` is the upper directory of its overlay. The same directory makes the same bytes on every file system. Blocks.
///
/// ```
/// use coracle_layers::{DiffOptions, diff};
///
/// # let dir = std::env::temp_dir().join(format!("coracle-diff-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// std::fs::write(dir.join("file"), "new")?;
/// let mut archive = Vec::new();
/// let report = diff(&dir, &DiffOptions::root(), &mut archive)?;
/// assert_eq!(report.archive_bytes, archive.len() as u64);
/// # coracle_layers::remove_tree(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Unpackable`] for what no layer can express: a file whose name begins with `.wh.`, a path of more than 4,095 bytes or 1,024
/// directories, an owner that the container doesn't have. [`Error::Io`], also the writer's.
pub fn diff(upper: &Path, options: &DiffOptions, to: impl Write) -> Result<DiffReport> {
    let stack = Stack::open(&uppers(upper, options), options.flavour, options.access.as_deref())?;
    Packer::new(&stack, options, to, What::Layer)?.pack()
}

/// Writes all that a container sees as an archive. `directories` are those of its overlay, the topmost first: the upper one, then the
/// layers. Names that begin with `.wh.` are names like others in it. docker-export(1). Blocks.
///
/// # Errors
/// As [`diff`].
pub fn export<P: AsRef<Path>>(directories: &[P], options: &DiffOptions, to: impl Write) -> Result<DiffReport> {
    let stack = Stack::open(directories, options.flavour, options.access.as_deref())?;
    Packer::new(&stack, options, to, What::Tree)?.pack()
}

/// Writes all that a container sees as the only layer of an image. As [`export`], with an entry for the root itself.
///
/// # Errors
/// As [`diff`].
pub fn flatten<P: AsRef<Path>>(directories: &[P], options: &DiffOptions, to: impl Write) -> Result<DiffReport> {
    let stack = Stack::open(directories, options.flavour, options.access.as_deref())?;
    Packer::new(&stack, options, to, What::Base)?.pack()
}

/// Which paths a container changed, sorted: docker-diff(1). [`DiffOptions::lower`] says what lies below. Blocks.
///
/// # Errors
/// [`Error::Io`].
pub fn changes(upper: &Path, options: &DiffOptions) -> Result<Vec<PathChange>> {
    let access = options.access.as_deref();
    let stack = Stack::open(&uppers(upper, options), options.flavour, access)?;
    let lower = Stack::open(&options.lower, options.flavour, access)?;
    let mut quiet = Quiet::new(options)?;
    let mut changes: Vec<(Vec<u8>, ChangeKind)> = Vec::new();
    stack.walk(true, &mut |visited| {
        if visited.path.is_empty() {
            return Ok(());
        }
        let below = lower.at(visited.path)?;
        if visited.is_whiteout() {
            if below.is_some() {
                changes.extend(quiet.pass(visited.path));
                changes.push((visited.path.to_vec(), ChangeKind::Deleted));
            }
            return Ok(());
        }
        let kind = if below.is_some() { ChangeKind::Changed } else { ChangeKind::Added };
        if quiet.holds_back(&stack, visited, kind)? {
            return Ok(());
        }
        changes.extend(quiet.pass(visited.path));
        changes.push((visited.path.to_vec(), kind));
        if visited.opaque && below.is_some_and(|below| FileType::from_raw_mode(below.stat.st_mode) == FileType::Directory) {
            for name in lower.names(visited.path)? {
                let path = join(visited.path, &name);
                if stack.at(&path)?.is_none() {
                    changes.push((path, ChangeKind::Deleted));
                }
            }
        }
        Ok(())
    })?;
    changes.sort();
    changes.dedup();
    let absolute = |path: &[u8]| PathBuf::from(std::ffi::OsStr::from_bytes(&[b"/", path].concat()));
    Ok(changes.into_iter().map(|(path, kind)| PathChange { kind, path: absolute(&path) }).collect())
}

/// All directories that hold changes, the topmost first.
fn uppers(upper: &Path, options: &DiffOptions) -> Vec<PathBuf> {
    std::iter::once(upper.to_owned()).chain(options.between.iter().cloned()).collect()
}

/// Holds back what was made to be mounted on, until something else turns up in it.
struct Quiet<'a, T> {
    /// Relative to the root.
    mount_points: Vec<Vec<u8>>,
    lower: Option<Stack<'a>>,
    held: Vec<(Vec<u8>, T)>,
}

impl<'a, T> Quiet<'a, T> {
    fn new(options: &'a DiffOptions) -> Result<Quiet<'a, T>> {
        let relative = |path: &PathBuf| {
            let parts = path.components().filter_map(|part| match part {
                std::path::Component::Normal(name) => Some(name.as_bytes()),
                _ => None,
            });
            parts.collect::<Vec<_>>().join(&b'/')
        };
        let lower = match options.lower.is_empty() {
            true => None,
            false => Some(Stack::open(&options.lower, options.flavour, options.access.as_deref())?),
        };
        Ok(Quiet { mount_points: options.mount_points.iter().map(relative).collect(), lower, held: Vec::new() })
    }

    /// Whether it may be nothing but a mount point, or the way to one.
    fn holds_back(&mut self, stack: &Stack<'_>, visited: &Visited<'_>, what: T) -> Result<bool> {
        let path = visited.path;
        let is_one = self.mount_points.iter().any(|point| point == path);
        match visited.kind() {
            FileType::RegularFile => Ok(is_one && visited.stat.st_size == 0),
            FileType::Directory => {
                let way = self.mount_points.iter().any(|point| point.strip_prefix(path).is_some_and(|rest| rest.starts_with(b"/")));
                if !(is_one || way && self.is_as_below(stack, visited)?) {
                    return Ok(false);
                }
                self.held.push((path.to_vec(), what));
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Whether a directory is as the one below, but for its time; also where there is none below.
    fn is_as_below(&self, stack: &Stack<'_>, visited: &Visited<'_>) -> Result<bool> {
        let Some(lower) = &self.lower else { return Ok(true) };
        let Some(below) = lower.at(visited.path)? else { return Ok(true) };
        let own = |stat: &Stat| (stat.st_mode, stat.st_uid, stat.st_gid);
        if own(&below.stat) != own(visited.stat) || visited.opaque {
            return Ok(false);
        }
        let attributes = |stack: &Stack<'_>, file: &OwnedFd| {
            let mut all = stack.attributes(file, FileType::Directory).map_err(|errno| Error::io("look at", show(visited.path), errno))?;
            all.retain(|(name, _)| !is_overlay_attribute(name));
            Ok::<_, Error>(all)
        };
        Ok(attributes(lower, &below.file)? == attributes(stack, visited.file)?)
    }

    /// Gives out what was held back above a path that isn't, and forgets what nothing came in.
    fn pass(&mut self, path: &[u8]) -> std::vec::IntoIter<(Vec<u8>, T)> {
        let mut held = std::mem::take(&mut self.held);
        held.retain(|(directory, _)| path.strip_prefix(directory.as_slice()).is_some_and(|rest| rest.starts_with(b"/")));
        held.into_iter()
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// What an upper directory changes.
    Layer,
    /// All that is seen, as an archive for people.
    Tree,
    /// All that is seen, as a layer with nothing below.
    Base,
}

struct Packer<'a, W: Write> {
    stack: &'a Stack<'a>,
    options: &'a DiffOptions,
    what: What,
    clamp: Option<(i64, u32)>,
    archive: Archive<Counting<W>>,
    quiet: Quiet<'a, Header>,
    limits: Limits,
    /// The first name of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    entries: u64,
    file_bytes: u64,
    skipped: Vec<Skipped>,
    skipped_total: u64,
}

/// Hashes what is written, and counts it.
struct Counting<W> {
    to: W,
    hasher: Hasher,
    length: u64,
}

impl<W: Write> Write for Counting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write_all(bytes)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

impl<'a, W: Write> Packer<'a, W> {
    fn new(stack: &'a Stack<'a>, options: &'a DiffOptions, to: W, what: What) -> Result<Packer<'a, W>> {
        Ok(Packer {
            stack,
            options,
            what,
            clamp: options.clamp.map(timestamp),
            archive: Archive::new(Counting { to, hasher: Hasher::new(Algorithm::Sha256), length: 0 }),
            quiet: Quiet::new(options)?,
            limits: Limits::default(),
            links: HashMap::new(),
            buffer: vec![0; 256 << 10],
            entries: 0,
            file_bytes: 0,
            skipped: Vec::new(),
            skipped_total: 0,
        })
    }

    fn pack(mut self) -> Result<DiffReport> {
        let stack = self.stack;
        stack.walk(self.what == What::Layer, &mut |visited| self.visit(visited))?;
        let to = self.archive.finish().map_err(writing)?;
        Ok(DiffReport {
            diff_id: to.hasher.finish(),
            archive_bytes: to.length,
            file_bytes: self.file_bytes,
            entries: self.entries,
            skipped: self.skipped,
            skipped_total: self.skipped_total,
        })
    }

    fn visit(&mut self, visited: &Visited<'_>) -> Result<()> {
        let path = visited.path;
        let unpackable = |what: &'static str| Err(Error::Unpackable { path: absolute(path), what: what.into() });
        if path.is_empty() {
            return self.root(visited);
        }
        if path.len() >= self.limits.path_bytes {
            return unpackable("its path has more than 4,094 bytes");
        }
        if path.iter().filter(|byte| **byte == b'/').count() + 1 >= self.limits.depth {
            return unpackable("it lies in more than 1,022 directories");
        }
        let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&b""[..], path),
        };
        if self.what == What::Layer && visited.is_whiteout() {
            // No layer below can have such a name; a snapshot can, and what hides it there says nothing here.
            if name.starts_with(b".wh.") {
                return Ok(());
            }
            self.settle(path)?;
            return self.mark(join(parent, &[b".wh.", name].concat()));
        }
        if self.what != What::Tree && name.starts_with(b".wh.") {
            return unpackable("names that begin with `.wh.` mean in a layer that something was removed (OCI image-spec, layer.md)");
        }
        let Some(kind) = self.kind(visited)? else { return Ok(()) };
        let header = self.header(visited, kind)?;
        if self.what != What::Tree && self.quiet.holds_back(self.stack, visited, header.clone())? {
            return Ok(());
        }
        self.settle(path)?;
        self.put(&header)?;
        match &header.kind {
            Kind::File { size, segments } => self.contents(visited, *size, segments.as_deref()),
            Kind::Directory if visited.opaque && self.what == What::Layer => self.mark(join(path, b".wh..wh..opq")),
            _ => Ok(()),
        }
    }

    /// The root has an entry where something is to be said of it.
    fn root(&mut self, visited: &Visited<'_>) -> Result<()> {
        let said = match self.what {
            What::Tree => false,
            What::Base => true,
            What::Layer => self.quiet.lower.is_none() || !self.quiet.is_as_below(self.stack, visited)?,
        };
        if said {
            let header = self.header(visited, Kind::Directory)?;
            self.put(&header)?;
        }
        if visited.opaque && self.what == What::Layer {
            self.mark(b".wh..wh..opq".to_vec())?;
        }
        Ok(())
    }

    /// Puts the directories into the archive that were held back until something came in them.
    fn settle(&mut self, path: &[u8]) -> Result<()> {
        for (_, header) in self.quiet.pass(path) {
            self.put(&header)?;
        }
        Ok(())
    }

    fn put(&mut self, header: &Header) -> Result<()> {
        self.entries += 1;
        self.archive.entry(header).map_err(writing)
    }

    /// An empty file whose name says something.
    fn mark(&mut self, path: Vec<u8>) -> Result<()> {
        self.put(&Header { path, kind: Kind::File { size: 0, segments: None }, mode: 0o644, ..Header::default() })
    }

    /// What it is in an archive; none where it can't be in one.
    fn kind(&mut self, visited: &Visited<'_>) -> Result<Option<Kind>> {
        let (path, stat, kind) = (visited.path, visited.stat, visited.kind());
        if kind == FileType::Socket {
            self.skip(path, "a socket: without its server it is nothing");
            return Ok(None);
        }
        // In an image below it would hide things: overlay lets no container make one.
        if is_whiteout(stat) {
            return Ok(None);
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            match self.links.get(&inode) {
                Some(first) => return Ok(Some(Kind::Link(first.clone()))),
                None => drop(self.links.insert(inode, path.to_vec())),
            }
        }
        let fail = |errno| Error::io("read", absolute(path), errno);
        let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
        Ok(Some(match kind {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink(rustix::fs::readlinkat(visited.file, "", Vec::new()).map_err(fail)?.into_bytes()),
            FileType::CharacterDevice => Kind::CharacterDevice(device.0, device.1),
            FileType::BlockDevice => Kind::BlockDevice(device.0, device.1),
            FileType::Fifo => Kind::Fifo,
            _ => {
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                let segments = if size >= HOLE { self.holes(visited, size)? } else { None };
                if segments.as_ref().is_some_and(|segments| segments.len() > self.limits.sparse_segments) {
                    Kind::File { size, segments: None }
                } else {
                    Kind::File { size, segments }
                }
            }
        }))
    }

    fn header(&mut self, visited: &Visited<'_>, kind: Kind) -> Result<Header> {
        let (path, stat) = (visited.path, visited.stat);
        let Some((uid, gid)) = self.options.ids.inside(stat.st_uid, stat.st_gid) else {
            let what = format!("it belongs to {}:{}, whom the container's user namespace doesn't have", stat.st_uid, stat.st_gid);
            return Err(Error::Unpackable { path: absolute(path), what: what.into() });
        };
        #[allow(clippy::unnecessary_cast, clippy::cast_lossless)]
        let mut mtime = (stat.st_mtime as i64, stat.st_mtime_nsec as u32);
        if let Some(clamp) = self.clamp {
            mtime = mtime.min(clamp);
        }
        let linked = matches!(kind, Kind::Link(_));
        let all = match linked {
            true => Vec::new(),
            false => self.stack.attributes(visited.file, visited.kind()).map_err(|errno| Error::io("read", absolute(path), errno))?,
        };
        let mut xattrs = Vec::with_capacity(all.len());
        for (name, value) in all {
            if let Some(value) = self.attribute(path, &name, value)? {
                xattrs.push((name, value));
            }
        }
        // Links have no permissions of their own; some file systems say others than 0777.
        let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { stat.st_mode & 0o7777 };
        Ok(Header { path: path.to_vec(), kind, mode, uid, gid, mtime, xattrs })
    }

    /// The value of an attribute in the archive; none where it is left out.
    fn attribute(&mut self, path: &[u8], name: &[u8], value: Vec<u8>) -> Result<Option<Vec<u8>>> {
        if is_overlay_attribute(name) {
            let own = name.strip_prefix(self.stack.flavour().prefix().as_bytes());
            // Overlay would have to be asked what is in the file: with what it is mounted, it never writes them.
            if matches!(own, Some(b"metacopy" | b"redirect")) {
                let what = "it was changed only in part (overlay's metacopy or redirect_dir), which a layer can't express";
                return Err(Error::Unpackable { path: absolute(path), what: what.into() });
            }
            // Its escaped ones are the container's.
            if own.is_none_or(|own| own.starts_with(b"overlay.")) {
                self.skip(path, format!("attribute {}: means something to overlay", show(name)));
            }
            return Ok(None);
        }
        let same = self.options.ids.is_same();
        let why = if name == b"security.capability" {
            match capability(&value, |root| self.options.ids.uid(root)) {
                Some(value) => return Ok(Some(value)),
                None => "counts in another user namespace alone",
            }
        } else if name.starts_with(b"security.") {
            "belongs to this machine"
        } else if !same && (name.starts_with(b"system.") || name.starts_with(b"trusted.")) {
            "has ids of this machine"
        } else if name.contains(&b'=') {
            "an archive can't have `=` in the name"
        } else {
            return Ok(Some(value));
        };
        self.skip(path, format!("attribute {}: {why}", show(name)));
        Ok(None)
    }

    fn skip(&mut self, path: &[u8], what: impl Into<String>) {
        /// As many as a report of unpacking names.
        const REPORTED: usize = 1000;
        self.skipped_total += 1;
        if self.skipped.len() < REPORTED {
            self.skipped.push(Skipped { path: show(path), what: what.into() });
        }
    }

    fn open(&self, visited: &Visited<'_>) -> Result<OwnedFd> {
        self.stack.read(visited.file).map_err(|errno| Error::io("read", absolute(visited.path), errno))
    }

    /// The segments of a file that aren't holes; none where it has no hole.
    fn holes(&mut self, visited: &Visited<'_>, size: u64) -> Result<Option<Vec<(u64, u64)>>> {
        let file = self.open(visited)?;
        let fail = |errno| Error::io("read", absolute(visited.path), errno);
        let mut holes = Holes::new();
        let mut offset = 0;
        while offset < size {
            // What the file system left out needn't be read: it is zero.
            offset = match rustix::fs::seek(&file, SeekFrom::Data(offset)) {
                Ok(data) => data - data % GRAIN,
                Err(Errno::NXIO) => break,
                Err(Errno::INVAL) => offset,
                Err(errno) => return Err(fail(errno)),
            };
            let end = match rustix::fs::seek(&file, SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => hole.min(size),
                _ => size,
            };
            while offset < end {
                let most = self.buffer.len().min(usize::try_from((end - offset).next_multiple_of(GRAIN)).unwrap_or(usize::MAX));
                let read = fill(&file, &mut self.buffer[..most], offset).map_err(fail)?;
                if read == 0 {
                    return Ok(holes.finish(size));
                }
                let read = read.min(usize::try_from(size - offset).unwrap_or(usize::MAX));
                holes.look(offset, &self.buffer[..read]);
                offset = (offset + read as u64).next_multiple_of(GRAIN);
            }
        }
        Ok(holes.finish(size))
    }

    fn contents(&mut self, visited: &Visited<'_>, size: u64, segments: Option<&[(u64, u64)]>) -> Result<()> {
        if size == 0 {
            return Ok(());
        }
        let file = self.open(visited)?;
        let whole = [(0, size)];
        for (offset, length) in segments.unwrap_or(&whole) {
            let (mut offset, end) = (*offset, offset + length);
            while offset < end {
                let most = self.buffer.len().min(usize::try_from(end - offset).unwrap_or(usize::MAX));
                let read = fill(&file, &mut self.buffer[..most], offset);
                let read = read.map_err(|errno| Error::io("read", absolute(visited.path), errno))?;
                // Shortened while it was read: what it was announced with stays, as zeros.
                self.buffer[read..most].fill(0);
                self.archive.contents(&self.buffer[..most]).map_err(writing)?;
                self.file_bytes += most as u64;
                offset += most as u64;
            }
        }
        Ok(())
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(file: &OwnedFd, buffer: &mut [u8], offset: u64) -> rustix::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match rustix::io::pread(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(filled)
}

/// A `security.capability` as one who is root in the container reads it (version 2 of capability.h): none where it counts elsewhere.
fn capability(value: &[u8], inside: impl Fn(u32) -> Option<u32>) -> Option<Vec<u8>> {
    const REVISION: u32 = 0xff00_0000;
    let word = |at: usize| Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?));
    let magic = word(0)?;
    match (magic & REVISION, value.len()) {
        (0x0200_0000, 20) => Some(value.to_vec()),
        (0x0300_0000, 24) if inside(word(20)?) == Some(0) => {
            Some([&(0x0200_0000 | magic & !REVISION).to_le_bytes(), &value[4..20]].concat())
        }
        _ => None,
    }
}

fn timestamp(time: SystemTime) -> (i64, u32) {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => (i64::try_from(since.as_secs()).unwrap_or(i64::MAX), since.subsec_nanos()),
        Err(_) => (0, 0),
    }
}

fn absolute(path: &[u8]) -> PathBuf {
    Path::new("/").join(show(path))
}

fn writing(error: io::Error) -> Error {
    Error::Io { attempt: "write", path: "the archive".into(), layer: None, source: error }
}
