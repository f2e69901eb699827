//! Standard streams, and pipes to them that belong to no runtime.

use crate::reactor::{Interest, Reactor};
use rustix::io::Errno;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

/// Where a standard stream comes from or goes to.
#[derive(Debug)]
#[must_use]
pub struct Stdio(pub(crate) Kind);

#[derive(Debug)]
pub(crate) enum Kind {
    Inherit,
    Null,
    Piped,
    Descriptor(OwnedFd),
    Log,
}

impl Stdio {
    /// This process's own stream. It goes straight to the command: nobody copies, and nobody changes its flags.
    pub fn inherit() -> Self {
        Self(Kind::Inherit)
    }

    /// /dev/null.
    pub fn null() -> Self {
        Self(Kind::Null)
    }

    /// A pipe, whose other end the [`Child`](crate::Child) has.
    pub fn piped() -> Self {
        Self(Kind::Piped)
    }

    /// Kept by the supervisor in the file that [`Spawn::log`](crate::Spawn::log) names: standard output or error.
    pub fn log() -> Self {
        Self(Kind::Log)
    }

    pub(crate) fn is_log(&self) -> bool {
        matches!(self.0, Kind::Log)
    }

    pub(crate) fn is_piped(&self) -> bool {
        matches!(self.0, Kind::Piped)
    }

    pub(crate) fn can_be_counted(&self) -> bool {
        matches!(self.0, Kind::Piped | Kind::Log | Kind::Null)
    }

    /// A copy of this. Whoever describes two processes needs two.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self(match &self.0 {
            Kind::Inherit => Kind::Inherit,
            Kind::Null => Kind::Null,
            Kind::Piped => Kind::Piped,
            Kind::Descriptor(fd) => Kind::Descriptor(fd.try_clone()?),
            Kind::Log => Kind::Log,
        }))
    }
}

impl From<OwnedFd> for Stdio {
    fn from(fd: OwnedFd) -> Self {
        Self(Kind::Descriptor(fd))
    }
}

impl From<File> for Stdio {
    fn from(file: File) -> Self {
        Self(Kind::Descriptor(file.into()))
    }
}

/// The descriptor a process gets, and the end that stays here.
pub(crate) fn open(stdio: &Stdio, stream: usize) -> io::Result<(OwnedFd, Option<OwnedFd>)> {
    let own = |stream| -> io::Result<OwnedFd> {
        match stream {
            0 => io::stdin().as_fd().try_clone_to_owned(),
            1 => io::stdout().as_fd().try_clone_to_owned(),
            _ => io::stderr().as_fd().try_clone_to_owned(),
        }
    };
    match &stdio.0 {
        Kind::Inherit => Ok((own(stream)?, None)),
        // The supervisor puts its own pipe in this one's place.
        Kind::Null | Kind::Log => Ok((File::options().read(true).write(true).open("/dev/null")?.into(), None)),
        Kind::Descriptor(fd) => Ok((fd.try_clone()?, None)),
        Kind::Piped => {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (theirs, ours) = if stream == 0 { (reader, writer) } else { (writer, reader) };
            // Only our end: the two ends of a pipe are two open files, and the command's blocks as it expects.
            rustix::fs::fcntl_setfl(&ours, rustix::fs::OFlags::NONBLOCK)?;
            Ok((theirs, Some(ours)))
        }
    }
}

macro_rules! pipe_end {
    ($(#[$doc:meta])* $name:ident, $interest:expr) => {
        $(#[$doc])*
        ///
        /// Belongs to no runtime: the `poll_*` function works under any executor, std's trait blocks. Both may be used in turn.
        #[derive(Debug)]
        pub struct $name {
            fd: Arc<OwnedFd>,
            reactor: Arc<Reactor>,
            key: u64,
        }

        impl $name {
            pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
                let reactor = Reactor::get()?;
                let fd = Arc::new(fd);
                let key = reactor.watch_pipe(&fd)?;
                Ok(Self { fd, reactor, key })
            }

            /// Calls until it isn't refused for now; then arranges to be woken.
            fn poll_io<T>(&self, cx: &mut Context<'_>, mut call: impl FnMut(&OwnedFd) -> Result<T, Errno>) -> Poll<io::Result<T>> {
                loop {
                    match call(&self.fd) {
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => {
                            self.reactor.wake_when_ready(self.key, &self.fd, $interest, cx.waker())?;
                            return Poll::Pending;
                        }
                        other => return Poll::Ready(other.map_err(io::Error::from)),
                    }
                }
            }

            fn block_io<T>(&self, mut call: impl FnMut(&OwnedFd) -> Result<T, Errno>) -> io::Result<T> {
                loop {
                    match call(&self.fd) {
                        Err(Errno::INTR) => {}
                        Err(Errno::AGAIN) => {
                            use rustix::event::{PollFd, PollFlags, poll};
                            let flags = match $interest { Interest::Read => PollFlags::IN, Interest::Write => PollFlags::OUT };
                            let _ = poll(&mut [PollFd::new(&self.fd, flags)], None);
                        }
                        other => return other.map_err(io::Error::from),
                    }
                }
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.reactor.forget(self.key, self.fd.as_fd());
            }
        }

        impl AsFd for $name {
            fn as_fd(&self) -> BorrowedFd<'_> {
                self.fd.as_fd()
            }
        }
    };
}

pipe_end!(
    /// The reading end of a pipe from a process.
    PipeReader, Interest::Read
);
pipe_end!(
    /// The writing end of a pipe to a process. Dropping it is the end of the process's input.
    PipeWriter, Interest::Write
);

impl PipeReader {
    /// Reads what is there; 0 is the end. Cancel-safe: what wasn't returned wasn't read.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |fd| rustix::io::read(fd, &mut *into))
    }
}

impl Read for PipeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.block_io(|fd| rustix::io::read(fd, &mut *into))
    }
}

impl PipeWriter {
    /// Writes what fits. Cancel-safe.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, |fd| rustix::io::write(fd, bytes))
    }
}

impl Write for PipeWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block_io(|fd| rustix::io::write(fd, bytes))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
