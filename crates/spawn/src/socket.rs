//! A connected socket that belongs to no runtime.

use crate::reactor::{Interest, Reactor};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll};

/// A connected stream, to a port or a Unix socket.
///
/// Belongs to no runtime: the `poll_*` functions work under any executor, std's traits block. [`into_fd`](Self::into_fd) gives what
/// std's and every runtime's own types are made of.
#[derive(Debug)]
pub struct Socket {
    fd: Arc<OwnedFd>,
    reactor: Arc<Reactor>,
    key: u64,
}

impl Socket {
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        let reactor = Reactor::get()?;
        let fd = Arc::new(fd);
        let key = reactor.watch_socket(&fd)?;
        Ok(Self { fd, reactor, key })
    }

    /// Calls until it isn't refused for now; then arranges to be woken.
    pub(crate) fn poll_io<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut call: impl FnMut(&OwnedFd) -> Result<T, Errno>,
    ) -> Poll<io::Result<T>> {
        let mut arranged = false;
        loop {
            match call(&self.fd) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if arranged => return Poll::Pending,
                Err(Errno::AGAIN) => {
                    self.reactor.wake_at_change(self.key, interest, cx.waker());
                    arranged = true;
                }
                other => return Poll::Ready(other.map_err(io::Error::from)),
            }
        }
    }

    pub(crate) fn block_io<T>(&self, interest: Interest, mut call: impl FnMut(&OwnedFd) -> Result<T, Errno>) -> io::Result<T> {
        loop {
            match call(&self.fd) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => wait(&self.fd, interest),
                other => return other.map_err(io::Error::from),
            }
        }
    }

    /// Reads what is there; 0 is the end. Cancel-safe: what wasn't returned wasn't read.
    pub fn poll_read(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Interest::Read, |fd| rustix::io::read(fd, &mut *into))
    }

    /// Writes what fits. Cancel-safe. No signal where the other end has gone, but an error.
    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_io(cx, Interest::Write, |fd| rustix::net::send(fd, bytes, SendFlags::NOSIGNAL))
    }

    /// The end of what is written; what the other end says can still be read.
    ///
    /// # Errors
    /// Where the other end has gone, the kernel's.
    pub fn shutdown_write(&self) -> io::Result<()> {
        Ok(rustix::net::shutdown(&self.fd, Shutdown::Write)?)
    }

    /// The socket itself, which blocks then, as std's types do.
    ///
    /// # Errors
    /// Where the descriptor can't be copied: there are as many as this process may have.
    pub fn into_fd(self) -> io::Result<OwnedFd> {
        rustix::io::ioctl_fionbio(&self.fd, false)?;
        self.fd.try_clone()
    }
}

/// Waits, blocking this thread.
pub(crate) fn wait(fd: &OwnedFd, interest: Interest) {
    use rustix::event::{PollFd, PollFlags, poll};
    let flags = match interest {
        Interest::Read => PollFlags::IN,
        Interest::Write => PollFlags::OUT,
    };
    let _ = poll(&mut [PollFd::new(fd, flags)], None);
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reactor.forget(self.key, self.fd.as_fd());
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.block_io(Interest::Read, |fd| rustix::io::read(fd, &mut *into))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.block_io(Interest::Write, |fd| rustix::net::send(fd, bytes, SendFlags::NOSIGNAL))
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
