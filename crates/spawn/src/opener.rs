//! The owner's side of an opener: a process inside that opens sockets and files and hands them out.

use crate::client::patiently;
use crate::error::Error;
use crate::exec::Interior;
use crate::reactor::Interest;
use crate::socket::Socket;
use crate::wire::{Field, Found, Opened, Opening, Reader, Request, attribute, how};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, Shutdown,
    SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use std::ffi::{CString, OsStr};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::task::{Context, Poll};

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct How(u32);

impl How {
    /// Only named (O_PATH), whatever it is: a device isn't touched, a FIFO isn't waited for.
    pub const NAMED: Self = Self(how::NAME);
    /// Named, and a symlink where the last part of the path is one.
    pub const NAMED_NOFOLLOW: Self = Self(how::NAME | how::NOFOLLOW);
    /// A regular file, to be read. Anything else is an error: EISDIR, or ENXIO.
    pub const READ: Self = Self(0);
    /// A regular file that is there, to be written from its beginning.
    pub const TRUNCATE: Self = Self(how::WRITE | how::TRUNCATE);
    /// A regular file that is there, to be written at its end.
    pub const APPEND: Self = Self(how::WRITE | how::APPEND);
    /// A regular file that isn't there, to be written. Nothing is followed.
    pub const NEW: Self = Self(how::NEW);
    /// A directory, to be listed and to look names up in.
    pub const DIRECTORY: Self = Self(how::DIRECTORY);
    /// Likewise, not by a symlink.
    pub const DIRECTORY_NOFOLLOW: Self = Self(how::DIRECTORY | how::NOFOLLOW);
}

/// What stat(2) says of a file in a container, with ids as the container counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileStat {
    /// Type and permissions, as `st_mode`.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// How many names it has.
    pub links: u32,
    /// Bytes.
    pub size: u64,
    /// Its number in its file system.
    pub ino: u64,
    /// The file system.
    pub dev: u64,
    /// When its contents were last changed: seconds since 1970, which may be negative.
    pub seconds: i64,
    /// And nanoseconds.
    pub nanoseconds: u32,
}

impl FileStat {
    fn new(found: &Found<'_>) -> Self {
        let Found { mode, uid, gid, links, size, ino, dev, seconds, nanoseconds, .. } = *found;
        Self { mode, uid, gid, links, size, ino, dev, seconds: seconds as i64, nanoseconds }
    }

    /// Of a regular file that isn't there yet: its permissions and its time, root's.
    pub fn regular(mode: u32, seconds: i64, nanoseconds: u32) -> Self {
        Self { mode: 0o100000 | mode & 0o7777, uid: 0, gid: 0, links: 1, size: 0, ino: 0, dev: 0, seconds, nanoseconds }
    }

    /// The same with another type (`S_IFMT`).
    pub fn of_kind(self, kind: u32) -> Self {
        Self { mode: kind & 0o170000 | self.mode & 0o7777, ..self }
    }

    /// The same with another owner.
    pub fn owned(self, uid: u32, gid: u32) -> Self {
        Self { uid, gid, ..self }
    }

    /// Of a descriptor of this process's.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn of(fd: impl AsFd) -> io::Result<Self> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self {
            mode: stat.st_mode,
            uid: stat.st_uid,
            gid: stat.st_gid,
            links: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            ino: stat.st_ino,
            dev: stat.st_dev,
            seconds: stat.st_mtime as i64,
            nanoseconds: stat.st_mtime_nsec as u32,
        })
    }
}

/// What of a file is to be set. Nothing, if nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub struct Attributes {
    /// Owner and group, as the container counts them.
    pub owner: Option<(u32, u32)>,
    /// Permissions, set-id bits and the sticky bit.
    pub mode: Option<u32>,
    /// When its contents were last changed: seconds since 1970 and nanoseconds.
    pub modified: Option<(i64, u32)>,
}

/// Opens files inside: a process beside the supervisor, in the container's user namespace and with its root, that ends with this.
///
/// Its methods block, for as long as the file system takes. Paths are looked up below the container's root, whatever symlinks are in there; a
/// `name` is one part of a path, and no symlink is followed. What is opened is a regular file or a directory, never a device or a FIFO. Files
/// are found as the container's root finds them.
#[derive(Debug)]
#[must_use]
pub struct Opener {
    socket: OwnedFd,
}

/// What an opener answered.
pub(crate) struct Answered {
    pub(crate) errno: i32,
    /// Whether the way in failed.
    pub(crate) outside: bool,
    pub(crate) found: Option<FileStat>,
    pub(crate) fds: Vec<OwnedFd>,
}

impl Interior {
    /// Something that opens files in here.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Supervisor`].
    pub fn opener(&self) -> Result<Opener, Error> {
        Ok(Opener { socket: self.open()? })
    }

    /// A conversation with a new opener. It doesn't block.
    pub(crate) fn open(&self) -> Result<OwnedFd, Error> {
        let attempted = |attempted: &str, source: io::Error| Error::Supervisor { attempted: attempted.into(), source };
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(|e| attempted("make a socket", e.into()))?;
        let asked = self.connection.request_with(&Request::Open {}, &[theirs.as_fd()]);
        asked.map_err(|e| self.ended_or(attempted("ask the supervisor", e)))?;
        Ok(ours)
    }

    /// What it means that an opener said nothing.
    pub(crate) fn silence_of_opener(&self) -> Error {
        match self.connection.now(|said| said.unknown) >> 20 & 1 {
            0 => Error::Ended,
            _ => Error::Unsupported { what: "open files and sockets inside" },
        }
    }
}

/// Sends one request.
pub(crate) fn ask(socket: &OwnedFd, request: &Opening<'_>, beside: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut bytes = Vec::with_capacity(128);
    request.put(&mut bytes);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !beside.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(beside));
    }
    patiently(|| sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL)).map(|_| ())
}

/// Receives one answer, without waiting; the end is `Errno::CONNRESET`.
pub(crate) fn hear(socket: &OwnedFd) -> Result<Answered, Errno> {
    let mut bytes = [0; 256];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags)?;
    let fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let fds: Vec<_> = fds.flatten().collect();
    if received.bytes == 0 {
        return Err(Errno::CONNRESET);
    }
    let opened: Opened<'_> = Reader::new(&bytes[..received.bytes]).take().map_err(|_| Errno::PROTO)?;
    Ok(Answered { errno: opened.errno, outside: opened.outside, found: opened.found.as_ref().map(FileStat::new), fds })
}

/// [`ask`] and [`hear`] as a future's steps.
pub(crate) fn poll_hear(socket: &Socket, cx: &mut Context<'_>) -> Poll<io::Result<Answered>> {
    socket.poll_io(cx, Interest::Read, hear)
}

impl Opener {
    /// Ends the conversation from another thread: whoever waits for an answer gets an error. Calls after it fail.
    pub fn canceller(&self) -> io::Result<impl Fn() + Send + Sync + 'static> {
        let socket = self.socket.try_clone()?;
        Ok(move || {
            let _ = rustix::net::shutdown(&socket, Shutdown::Both);
        })
    }

    fn call(&mut self, request: &Opening<'_>, beside: &[BorrowedFd<'_>]) -> io::Result<Answered> {
        ask(&self.socket, request, beside)?;
        loop {
            match hear(&self.socket) {
                Err(Errno::AGAIN) => crate::socket::wait(&self.socket, Interest::Read),
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the container has ended")),
                Err(errno) => return Err(errno.into()),
                Ok(answered) if answered.errno == 0 => return Ok(answered),
                Ok(answered) if answered.outside && answered.errno == Errno::SRCH.raw_os_error() => {
                    return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the container has ended"));
                }
                Ok(answered) => return Err(io::Error::from_raw_os_error(answered.errno)),
            }
        }
    }

    fn call_file(&mut self, path: &OsStr, at: Option<BorrowedFd<'_>>, wanted: How, mode: u32) -> io::Result<(OwnedFd, FileStat)> {
        let path = c_string(path)?;
        let answered = self.call(&Opening::File { path: &path, how: wanted.0, mode }, at.as_slice())?;
        match (answered.fds.into_iter().next(), answered.found) {
            (Some(fd), Some(found)) => Ok((fd, found)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }

    /// Opens what is at a path.
    ///
    /// # Errors
    /// As openat2(2); ENXIO for what isn't a file or a directory, EOPNOTSUPP where the container has no root of its own.
    pub fn at_path(&mut self, path: &OsStr, how: How) -> io::Result<(OwnedFd, FileStat)> {
        let path = if path.is_empty() { OsStr::new("/") } else { path };
        self.call_file(path, None, how, 0)
    }

    /// Opens what has this name in a directory. Files that are made get the mode.
    ///
    /// # Errors
    /// As [`at_path`](Self::at_path).
    pub fn named(&mut self, directory: impl AsFd, name: &OsStr, how: How, mode: u32) -> io::Result<(OwnedFd, FileStat)> {
        one_part(name)?;
        self.call_file(name, Some(directory.as_fd()), how, mode)
    }

    /// Opens what was only [named](How::NAMED) before: it can't have become another meanwhile.
    ///
    /// # Errors
    /// As [`at_path`](Self::at_path).
    pub fn again(&mut self, named: impl AsFd, how: How) -> io::Result<(OwnedFd, FileStat)> {
        self.call_file(OsStr::new(""), Some(named.as_fd()), how, 0)
    }

    /// mkdirat(2).
    ///
    /// # Errors
    /// The system call's.
    pub fn make_directory(&mut self, directory: impl AsFd, name: &OsStr, mode: u32) -> io::Result<()> {
        let name = c_string(name)?;
        self.call(&Opening::MakeDirectory { name: &name, mode }, &[directory.as_fd()]).map(|_| ())
    }

    /// symlinkat(2).
    ///
    /// # Errors
    /// The system call's.
    pub fn symlink(&mut self, contents: &OsStr, directory: impl AsFd, name: &OsStr) -> io::Result<()> {
        let (contents, name) = (c_string(contents)?, c_string(name)?);
        self.call(&Opening::Symlink { contents: &contents, name: &name }, &[directory.as_fd()]).map(|_| ())
    }

    /// linkat(2): one more name for what has this name in another directory.
    ///
    /// # Errors
    /// The system call's.
    pub fn link(&mut self, from: impl AsFd, old: &OsStr, directory: impl AsFd, name: &OsStr) -> io::Result<()> {
        let (old, name) = (c_string(old)?, c_string(name)?);
        self.call(&Opening::Link { from: &old, name: &name }, &[from.as_fd(), directory.as_fd()]).map(|_| ())
    }

    /// unlinkat(2): a directory that is empty, or anything else.
    ///
    /// # Errors
    /// The system call's.
    pub fn remove(&mut self, at: impl AsFd, name: &OsStr, directory: bool) -> io::Result<()> {
        let name = c_string(name)?;
        self.call(&Opening::Remove { name: &name, directory }, &[at.as_fd()]).map(|_| ())
    }

    /// Sets attributes of what was opened or named.
    ///
    /// # Errors
    /// As chown(2), chmod(2) and utimensat(2). EINVAL for an id that the container hasn't.
    pub fn set(&mut self, file: impl AsFd, attributes: &Attributes) -> io::Result<()> {
        let mut what = 0;
        let (mut uid, mut gid, mut mode, mut seconds, mut nanoseconds) = (0, 0, 0, 0, 0);
        if let Some(owner) = attributes.owner {
            what |= attribute::OWNER;
            (uid, gid) = owner;
        }
        if let Some(bits) = attributes.mode {
            what |= attribute::MODE;
            mode = bits;
        }
        if let Some((s, n)) = attributes.modified {
            what |= attribute::TIME;
            (seconds, nanoseconds) = (s as u64, n);
        }
        if what == 0 {
            return Ok(());
        }
        self.call(&Opening::Attributes { what, uid, gid, mode, seconds, nanoseconds }, &[file.as_fd()]).map(|_| ())
    }
}

fn c_string(s: &OsStr) -> io::Result<CString> {
    // Longer than any path of the kernel's, it wouldn't arrive whole.
    if s.len() >= 4096 {
        return Err(Errno::NAMETOOLONG.into());
    }
    Ok(CString::new(s.as_bytes())?)
}

fn one_part(name: &OsStr) -> io::Result<()> {
    match name.as_bytes() {
        b"" | b"." | b".." => Err(io::ErrorKind::InvalidInput.into()),
        bytes if bytes.contains(&b'/') => Err(io::ErrorKind::InvalidInput.into()),
        _ => Ok(()),
    }
}

/// Sends the first request of a conversation, on the socket before it is watched.
pub(crate) fn begin(interior: &Interior, request: &Opening<'_>) -> Result<OwnedFd, Error> {
    let socket = interior.open()?;
    match ask(&socket, request, &[]) {
        // It may have been refused already: the answer says why.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => Ok(socket),
        Err(errno) => Err(Error::Supervisor { attempted: "ask for something to be opened inside".into(), source: errno.into() }),
    }
}
