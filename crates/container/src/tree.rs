//! Copying files, directories and symlinks between this machine and a container, by descriptors alone.
//!
//! Either side may change under the copy, and the container's means to: it swaps a directory for a symlink, a file for a FIFO, and lets files
//! grow. So no path is looked up twice. A name is looked up in a directory that is already open, follows nothing, and what was found is what is
//! read, whatever has that name later. Neither devices nor FIFOs nor sockets are ever opened, and none is made.

use coracle_spawn::{FileAttributes, FileStat, How, Opener};
use rustix::fs::{AtFlags, Mode, OFlags, SeekFrom, Timespec, Timestamps};
use rustix::io::Errno;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Directories below each other. Each is open while what is in it is copied.
const DEEPEST: usize = 200;
/// The most that is read of a file that says it is empty, as those of procfs do.
const OF_EMPTY: u64 = 1 << 20;
/// Names that are remembered of what wasn't copied.
const MOST_SKIPPED: usize = 100;

/// What a copy came to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Copied {
    /// Regular files.
    pub files: u64,
    /// Directories that were made.
    pub directories: u64,
    /// Symlinks.
    pub symlinks: u64,
    /// Bytes of regular files, holes included.
    pub bytes: u64,
    /// What was passed over, being a device, a FIFO or a socket: the first hundred.
    pub skipped: Vec<PathBuf>,
}

/// What goes for a whole copy.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The owner of all; without one, that of the source if `archive`, else root inside and the caller outside.
    pub(crate) owner: Option<(u32, u32)>,
    /// Permissions of regular files, instead of the source's.
    pub(crate) mode: Option<u32>,
    /// Keeps owners and set-id bits.
    pub(crate) archive: bool,
    /// The most bytes all together.
    pub(crate) max_bytes: u64,
}

/// A copy on its way: what it has come to, and whether anybody still wants it.
pub(crate) struct Progress {
    pub(crate) rules: Rules,
    pub(crate) copied: Copied,
    pub(crate) cancelled: Arc<AtomicBool>,
}

impl Progress {
    pub(crate) fn new(rules: Rules, cancelled: Arc<AtomicBool>) -> Self {
        Self { rules, copied: Copied::default(), cancelled }
    }

    fn go_on(&self) -> io::Result<()> {
        match self.cancelled.load(Ordering::Relaxed) {
            true => Err(io::ErrorKind::Interrupted.into()),
            false => Ok(()),
        }
    }

    /// Counts bytes before they are copied.
    pub(crate) fn spend(&mut self, bytes: u64) -> io::Result<()> {
        self.go_on()?;
        let sum = self.copied.bytes.saturating_add(bytes);
        if sum > self.rules.max_bytes {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("more than {} bytes", self.rules.max_bytes)));
        }
        self.copied.bytes = sum;
        Ok(())
    }

    pub(crate) fn skip(&mut self, path: PathBuf) {
        if self.copied.skipped.len() < MOST_SKIPPED {
            self.copied.skipped.push(path);
        }
    }
}

/// One side of a copy.
pub(crate) enum Side<'a> {
    /// This machine.
    Here,
    /// A container.
    Inside(&'a mut Opener),
}

/// What was found, and what it is found by.
pub(crate) struct Entry {
    /// O_PATH.
    pub(crate) fd: OwnedFd,
    pub(crate) stat: FileStat,
}

const TYPE: u32 = 0o170000;

impl Entry {
    pub(crate) fn is_directory(&self) -> bool {
        self.stat.mode & TYPE == 0o040000
    }
    pub(crate) fn is_file(&self) -> bool {
        self.stat.mode & TYPE == 0o100000
    }
    pub(crate) fn is_symlink(&self) -> bool {
        self.stat.mode & TYPE == 0o120000
    }
    /// What a symlink holds.
    pub(crate) fn link(&self) -> io::Result<OsString> {
        Ok(OsString::from_vec(rustix::fs::readlinkat(&self.fd, "", Vec::new())?.into_bytes()))
    }
}

/// A descriptor as a name, where a call only takes names.
fn by_descriptor(fd: &OwnedFd) -> PathBuf {
    Path::new("/proc/self/fd").join(fd.as_raw_fd().to_string())
}

const NAMED: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);

impl Side<'_> {
    /// What is at a path. Symlinks in its middle are followed: in the container, inside it.
    pub(crate) fn at_path(&mut self, path: &OsStr, follow: bool) -> io::Result<Entry> {
        match self {
            Self::Here => {
                let path = if path.is_empty() { OsStr::new(".") } else { path };
                let flags = if follow { NAMED } else { NAMED | OFlags::NOFOLLOW };
                let fd = rustix::fs::open(path, flags, Mode::empty())?;
                let stat = FileStat::of(&fd)?;
                Ok(Entry { fd, stat })
            }
            Self::Inside(opener) => {
                let how = if follow { How::NAMED } else { How::NAMED_NOFOLLOW };
                let (fd, stat) = opener.at_path(path, how)?;
                Ok(Entry { fd, stat })
            }
        }
    }

    /// What has a name in a directory; a symlink is one.
    pub(crate) fn named(&mut self, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Entry> {
        match self {
            Self::Here => {
                let fd = rustix::fs::openat(directory, name, NAMED | OFlags::NOFOLLOW, Mode::empty())?;
                let stat = FileStat::of(&fd)?;
                Ok(Entry { fd, stat })
            }
            Self::Inside(opener) => {
                let (fd, stat) = opener.named(directory, name, How::NAMED_NOFOLLOW, 0)?;
                Ok(Entry { fd, stat })
            }
        }
    }

    /// Opens a regular file that was found, to read it; and what it is now.
    pub(crate) fn read(&mut self, entry: &Entry) -> io::Result<(File, FileStat)> {
        match self {
            Self::Here => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                if !entry.is_file() {
                    return Err(io::Error::from_raw_os_error(Errno::NXIO.raw_os_error()));
                }
                let fd = rustix::fs::open(by_descriptor(&entry.fd), flags, Mode::empty())?;
                let stat = FileStat::of(&fd)?;
                Ok((fd.into(), stat))
            }
            Self::Inside(opener) => opener.again(&entry.fd, How::READ).map(|(fd, stat)| (fd.into(), stat)),
        }
    }

    /// Opens a directory that was found.
    pub(crate) fn directory(&mut self, entry: &Entry) -> io::Result<OwnedFd> {
        match self {
            Self::Here => Ok(rustix::fs::openat(&entry.fd, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?),
            Self::Inside(opener) => opener.again(&entry.fd, How::DIRECTORY).map(|(fd, _)| fd),
        }
    }

    /// Opens a file that was found, to write it anew.
    pub(crate) fn truncate(&mut self, entry: &Entry) -> io::Result<File> {
        match self {
            Self::Here if !entry.is_file() => Err(io::Error::from_raw_os_error(Errno::NXIO.raw_os_error())),
            Self::Here => {
                let flags = OFlags::WRONLY | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
                Ok(rustix::fs::open(by_descriptor(&entry.fd), flags, Mode::empty())?.into())
            }
            Self::Inside(opener) => {
                not_the_kernels(&entry.fd)?;
                opener.again(&entry.fd, How::TRUNCATE).map(|(fd, _)| fd.into())
            }
        }
    }

    fn new_file(&mut self, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
        match self {
            Self::Here => {
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                Ok(rustix::fs::openat(directory, name, flags, Mode::from_raw_mode(0o600))?.into())
            }
            Self::Inside(opener) => opener.named(directory, name, How::NEW, 0o600).map(|(fd, _)| fd.into()),
        }
    }

    pub(crate) fn make_directory(&mut self, directory: BorrowedFd<'_>, name: &OsStr, mode: u32) -> io::Result<()> {
        match self {
            Self::Here => Ok(rustix::fs::mkdirat(directory, name, Mode::from_raw_mode(mode))?),
            Self::Inside(opener) => opener.make_directory(directory, name, mode),
        }
    }

    fn symlink(&mut self, contents: &OsStr, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        match self {
            Self::Here => Ok(rustix::fs::symlinkat(contents, directory, name)?),
            Self::Inside(opener) => opener.symlink(contents, directory, name),
        }
    }

    pub(crate) fn link(&mut self, from: BorrowedFd<'_>, old: &OsStr, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
        match self {
            Self::Here => Ok(rustix::fs::linkat(from, old, directory, name, AtFlags::empty())?),
            Self::Inside(opener) => opener.link(from, old, directory, name),
        }
    }

    pub(crate) fn remove(&mut self, at: BorrowedFd<'_>, name: &OsStr, directory: bool) -> io::Result<()> {
        match self {
            Self::Here => Ok(rustix::fs::unlinkat(at, name, if directory { AtFlags::REMOVEDIR } else { AtFlags::empty() })?),
            Self::Inside(opener) => opener.remove(at, name, directory),
        }
    }

    fn set(&mut self, file: BorrowedFd<'_>, attributes: &FileAttributes) -> io::Result<()> {
        match self {
            Self::Here => {
                use rustix::fs::{Gid, Uid};
                let empty = AtFlags::EMPTY_PATH;
                if let Some((uid, gid)) = attributes.owner {
                    rustix::fs::chownat(file, "", Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), empty)?;
                }
                if let Some(mode) = attributes.mode {
                    rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?;
                }
                if let Some((seconds, nanoseconds)) = attributes.modified {
                    let omit = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT };
                    let modified = Timespec { tv_sec: seconds, tv_nsec: nanoseconds.into() };
                    let times = Timestamps { last_access: omit, last_modification: modified };
                    rustix::fs::futimens(file, &times)?;
                }
                Ok(())
            }
            Self::Inside(opener) => opener.set(file, attributes),
        }
    }

    /// The attributes that a copy gets on this side.
    pub(crate) fn attributes(&self, rules: &Rules, of: &FileStat) -> FileAttributes {
        let inside = matches!(self, Self::Inside(_));
        let owner = match (rules.owner, rules.archive) {
            (Some(owner), _) => Some(owner),
            (None, true) => Some((of.uid, of.gid)),
            (None, false) => inside.then_some((0, 0)),
        };
        // A set-id program of the container's would be one of the caller's.
        let kept = if rules.archive || inside { 0o7777 } else { 0o1777 };
        let mode = match of.mode & TYPE {
            0o120000 => None,
            0o100000 => Some(rules.mode.unwrap_or(of.mode) & kept),
            _ => Some(of.mode & kept),
        };
        FileAttributes { owner, mode, modified: (of.mode & TYPE != 0o120000).then_some((of.seconds, of.nanoseconds)) }
    }

    /// A new file in the place of whatever has the name, but of a directory. A file that can't be replaced, being mounted there, is written
    /// anew where it is.
    pub(crate) fn replace(&mut self, directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
        for _ in 0..16 {
            match self.new_file(directory, name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => return done,
            }
            match self.remove(directory, name, false) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
                    let entry = self.named(directory, name)?;
                    return self.truncate(&entry);
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        // Somebody makes it again and again.
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// The directory that has the name, made if there is none; and whether it was.
    pub(crate) fn directory_named(&mut self, at: BorrowedFd<'_>, name: &OsStr) -> io::Result<(OwnedFd, bool)> {
        let made = match self.make_directory(at, name, 0o700) {
            Ok(()) => true,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
            Err(error) => return Err(error),
        };
        let entry = self.named(at, name)?;
        if !entry.is_directory() {
            return Err(io::ErrorKind::NotADirectory.into());
        }
        Ok((self.directory(&entry)?, made))
    }

    /// A file that holds what comes.
    pub(crate) fn write_file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        mut contents: impl Read,
        like: &FileStat,
        progress: &mut Progress,
    ) -> io::Result<()> {
        let mut file = self.replace(directory, name)?;
        let mut piece = vec![0; 64 << 10];
        loop {
            match contents.read(&mut piece) {
                Ok(0) => break,
                Ok(n) => {
                    progress.spend(n as u64)?;
                    file.write_all(&piece[..n])?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.finish_file(&file, like, progress)
    }

    pub(crate) fn finish_file(&mut self, file: &File, like: &FileStat, progress: &mut Progress) -> io::Result<()> {
        let attributes = self.attributes(&progress.rules, like);
        self.set(file.as_fd(), &attributes)?;
        progress.copied.files += 1;
        Ok(())
    }

    pub(crate) fn write_symlink(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        contents: &OsStr,
        like: &FileStat,
        progress: &mut Progress,
    ) -> io::Result<()> {
        for _ in 0..16 {
            match self.symlink(contents, directory, name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => match self.remove(directory, name, false) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                },
                done => {
                    done?;
                    let attributes = self.attributes(&progress.rules, like);
                    if attributes.owner.is_some() {
                        let made = self.named(directory, name)?;
                        if made.is_symlink() {
                            self.set(made.fd.as_fd(), &FileAttributes { owner: attributes.owner, ..FileAttributes::default() })?;
                        }
                    }
                    progress.copied.symlinks += 1;
                    return Ok(());
                }
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(crate) fn finish_directory(&mut self, directory: &OwnedFd, like: &FileStat, progress: &mut Progress) -> io::Result<()> {
        let attributes = self.attributes(&progress.rules, like);
        self.set(directory.as_fd(), &attributes)?;
        progress.copied.directories += 1;
        Ok(())
    }
}

/// Refuses files that are switches of the kernel's: what is written there does something (procfs, sysfs, control groups).
pub(crate) fn not_the_kernels(fd: &OwnedFd) -> io::Result<()> {
    const OF_THE_KERNEL: [u64; 6] = [0x9fa0, 0x6265_6572, 0x6367_7270, 0x0027_e0eb, 0x6462_6720, 0x7363_6673];
    let kind = rustix::fs::fstatfs(fd)?.f_type as u64;
    if OF_THE_KERNEL.contains(&kind) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is a switch of the kernel's, and no file"));
    }
    Ok(())
}

/// An error with the path that it is about, as it is seen from the beginning of the copy.
fn within(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| match error.get_ref().is_some_and(|inner| inner.is::<Within>()) {
        true => error,
        false => {
            let kind = error.kind();
            io::Error::new(kind, Within { path: path.to_owned(), error })
        }
    }
}

/// What went wrong below the beginning of a copy, and where.
#[derive(Debug)]
struct Within {
    path: PathBuf,
    error: io::Error,
}

impl std::fmt::Display for Within {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.path.as_os_str().is_empty() {
            true => self.error.fmt(f),
            false => write!(f, "{}: {}", self.path.display(), self.error),
        }
    }
}

impl std::error::Error for Within {}

/// Copies what was found, and all below it, to a name in a directory of the other side.
pub(crate) fn copy(
    from: &mut Side<'_>,
    entry: &Entry,
    to: &mut Side<'_>,
    directory: BorrowedFd<'_>,
    name: &OsStr,
    progress: &mut Progress,
) -> io::Result<()> {
    copy_entry(from, entry, to, directory, name, Path::new(""), 0, progress)
}

/// Copies what is in a directory into a directory of the other side.
pub(crate) fn copy_contents(
    from: &mut Side<'_>,
    entry: &Entry,
    to: &mut Side<'_>,
    directory: BorrowedFd<'_>,
    progress: &mut Progress,
) -> io::Result<()> {
    copy_into(from, entry, to, directory, Path::new(""), 0, progress)
}

#[allow(clippy::too_many_arguments, reason = "two sides of a copy, what and whereto")]
fn copy_entry(
    from: &mut Side<'_>,
    entry: &Entry,
    to: &mut Side<'_>,
    directory: BorrowedFd<'_>,
    name: &OsStr,
    path: &Path,
    depth: usize,
    progress: &mut Progress,
) -> io::Result<()> {
    progress.go_on()?;
    let within = within(path);
    if entry.is_directory() {
        let (into, made) = to.directory_named(directory, name).map_err(&within)?;
        copy_into(from, entry, to, into.as_fd(), path, depth, progress)?;
        // One that was there stays who it was.
        if made {
            to.finish_directory(&into, &entry.stat, progress).map_err(&within)?;
        }
        Ok(())
    } else if entry.is_file() {
        copy_file(from, entry, to, directory, name, progress).map_err(within)
    } else if entry.is_symlink() {
        let contents = entry.link().map_err(&within)?;
        to.write_symlink(directory, name, &contents, &entry.stat, progress).map_err(within)
    } else {
        progress.skip(path.to_owned());
        Ok(())
    }
}

fn copy_into(
    from: &mut Side<'_>,
    entry: &Entry,
    to: &mut Side<'_>,
    into: BorrowedFd<'_>,
    path: &Path,
    depth: usize,
    progress: &mut Progress,
) -> io::Result<()> {
    let within_this = within(path);
    if depth >= DEEPEST {
        return Err(within_this(io::Error::other(format!("more than {DEEPEST} directories below each other"))));
    }
    let source = from.directory(entry).map_err(&within_this)?;
    for_each_name(&source, |name| {
        let path = path.join(name);
        match from.named(source.as_fd(), name) {
            Ok(found) => copy_entry(from, &found, to, into, name, &path, depth + 1, progress),
            // It was there a moment ago.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(within(&path)(error)),
        }
    })
}

/// Calls with each name in a directory but `.` and `..`; no more is held of it than a buffer.
pub(crate) fn for_each_name(directory: &OwnedFd, mut call: impl FnMut(&OsStr) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = Vec::with_capacity(8192);
    let mut names = rustix::fs::RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = names.next() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        // Some file systems may be asked to hold stranger names than that; none is a name then.
        if name == "." || name == ".." || name.as_bytes().contains(&b'/') {
            continue;
        }
        call(name)?;
    }
    Ok(())
}

fn copy_file(
    from: &mut Side<'_>,
    entry: &Entry,
    to: &mut Side<'_>,
    directory: BorrowedFd<'_>,
    name: &OsStr,
    progress: &mut Progress,
) -> io::Result<()> {
    let (source, stat) = from.read(entry)?;
    let target = to.replace(directory, name)?;
    pour(source, &target, stat.size, progress)?;
    to.finish_file(&target, &stat, progress)
}

/// Copies a file's contents: as much as it had when it was opened, so that one that grows has an end. Holes stay holes, so that the copy
/// takes no more room than its source.
pub(crate) fn pour(source: File, target: &File, size: u64, progress: &mut Progress) -> io::Result<()> {
    const PIECE: u64 = 4 << 20;
    let mut to = target;
    if size == 0 {
        let n = io::copy(&mut (&source).take(OF_EMPTY), &mut to)?;
        return progress.spend(n);
    }
    progress.spend(size)?;
    let mut at = 0;
    while at < size {
        progress.go_on()?;
        at = match rustix::fs::seek(&source, SeekFrom::Data(at)) {
            Ok(data) => data,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => break,
            // A file system that doesn't know of holes.
            Err(_) => rustix::fs::seek(&source, SeekFrom::Start(at))?,
        };
        if at >= size {
            break;
        }
        let hole = rustix::fs::seek(&source, SeekFrom::Hole(at)).unwrap_or(size).min(size).max(at + 1);
        rustix::fs::seek(&source, SeekFrom::Start(at))?;
        rustix::fs::seek(target, SeekFrom::Start(at))?;
        while at < hole {
            progress.go_on()?;
            match io::copy(&mut (&source).take((hole - at).min(PIECE)), &mut to)? {
                // It was cut off meanwhile.
                0 => return target.set_len(at),
                n => at += n,
            }
        }
    }
    target.set_len(size)
}

/// Removes a directory and all below it, whatever is made or swapped in there meanwhile.
pub(crate) fn remove_all(side: &mut Side<'_>, at: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    fn below(side: &mut Side<'_>, at: BorrowedFd<'_>, name: &OsStr, depth: usize) -> io::Result<()> {
        let entry = match side.named(at, name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        if !entry.is_directory() {
            return gone(side.remove(at, name, false));
        }
        if depth >= DEEPEST {
            return Err(io::Error::other(format!("more than {DEEPEST} directories below each other")));
        }
        // Who goes on making files in there can't keep us busy for ever.
        for _ in 0..16 {
            let directory = side.directory(&entry)?;
            let mut names = Vec::new();
            for_each_name(&directory, |name| {
                names.push(name.to_owned());
                Ok(())
            })?;
            names.iter().try_for_each(|name| below(side, directory.as_fd(), name, depth + 1))?;
            match side.remove(at, name, true) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                other => return gone(other),
            }
        }
        Err(io::ErrorKind::DirectoryNotEmpty.into())
    }
    below(side, at, name, 0)
}

fn gone(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// How a path ends, which says what is meant by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// A name.
    Plain,
    /// A slash: it is a directory.
    Slash,
    /// `/.`: what is in it.
    Contents,
}

/// A path without its ending, and the ending; the root's is `/`.
pub(crate) fn ending(path: &OsStr) -> (&OsStr, Ending) {
    let bytes = path.as_bytes();
    let cut = |bytes: &'_ [u8]| bytes.iter().rposition(|&b| b != b'/').map_or(0, |last| last + 1);
    let (bytes, ending) = match bytes {
        b"." => return (OsStr::new("."), Ending::Contents),
        [front @ .., b'/', b'.'] => (front, Ending::Contents),
        [.., b'/'] => (bytes, Ending::Slash),
        _ => (bytes, Ending::Plain),
    };
    match &bytes[..cut(bytes)] {
        b"" if !path.is_empty() => (OsStr::new("/"), if ending == Ending::Plain { Ending::Slash } else { ending }),
        front => (OsStr::from_bytes(front), ending),
    }
}

/// The directory of a path's last part, and that part. None for what has no name: `/`, `..`.
pub(crate) fn parent_and_name(path: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let path = Path::new(path);
    let name = path.file_name()?;
    // `a/..` has no name for std, and `a/.` that of `a`.
    Some((path.parent().map_or(OsStr::new(""), Path::as_os_str), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_says_what_is_meant() {
        let check = |path: &str, front: &str, how: Ending| assert_eq!(ending(OsStr::new(path)), (OsStr::new(front), how), "{path}");
        check("a", "a", Ending::Plain);
        check("/a/b", "/a/b", Ending::Plain);
        check("a/", "a", Ending::Slash);
        check("a//", "a", Ending::Slash);
        check("a/.", "a", Ending::Contents);
        check("a//.", "a", Ending::Contents);
        check(".", ".", Ending::Contents);
        check("./", ".", Ending::Slash);
        check("/", "/", Ending::Slash);
        check("/.", "/", Ending::Contents);
        check("//", "/", Ending::Slash);
        check("", "", Ending::Plain);
        check("a/.b", "a/.b", Ending::Plain);
        check("a/..", "a/..", Ending::Plain);
        check("..", "..", Ending::Plain);
    }

    #[test]
    fn a_sparse_file_stays_sparse_and_a_growing_one_has_an_end() {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        let mut file = File::create(&source).unwrap();
        file.set_len(64 << 20).unwrap();
        rustix::fs::seek(&file, SeekFrom::Start(40 << 20)).unwrap();
        file.write_all(b"in the middle").unwrap();
        let rules = Rules { owner: None, mode: None, archive: false, max_bytes: u64::MAX };
        let mut progress = Progress::new(rules, Arc::default());
        let target = File::create_new(directory.path().join("target")).unwrap();
        pour(File::open(&source).unwrap(), &target, 50 << 20, &mut progress).unwrap();
        let copy = std::fs::read(directory.path().join("target")).unwrap();
        assert_eq!(copy, std::fs::read(&source).unwrap()[..50 << 20]);
        use std::os::unix::fs::MetadataExt;
        // What the file system of this directory does to holes is its own.
        let blocks = |file: &File| file.metadata().unwrap().blocks();
        assert!(blocks(&target) <= blocks(&File::open(&source).unwrap()) + 64);
        // One that was cut off meanwhile ends where it ends.
        let short = File::create_new(directory.path().join("short")).unwrap();
        pour(File::open(&source).unwrap(), &short, 65 << 20, &mut progress).unwrap();
        assert!(short.metadata().unwrap().len() <= 65 << 20);
        assert_eq!(progress.copied.bytes, 115 << 20);
    }

    #[test]
    fn a_copy_has_a_size_that_it_may_not_go_beyond() {
        let rules = Rules { owner: None, mode: None, archive: false, max_bytes: 10 };
        let mut progress = Progress::new(rules, Arc::default());
        progress.spend(6).unwrap();
        assert_eq!(progress.spend(5).unwrap_err().kind(), io::ErrorKind::FileTooLarge);
        progress.spend(4).unwrap();
        progress.cancelled.store(true, Ordering::Relaxed);
        assert_eq!(progress.spend(0).unwrap_err().kind(), io::ErrorKind::Interrupted);
    }
}
