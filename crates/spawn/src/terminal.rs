//! The outer end of a command's terminal.

use crate::stdio::{PipeReader, PipeWriter};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{Winsize, tcsetwinsize};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll};

/// The outer end of a command's terminal ([`Spawn::terminal`](crate::Spawn::terminal)): what is written is typed, what is read is shown.
/// See pty(7). Belongs to no runtime: the `poll_*` functions work under any executor, std's traits block.
#[derive(Debug)]
pub struct Terminal {
    reader: PipeReader,
    writer: PipeWriter,
}

/// Nobody has the other end any more.
fn hung_up(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => Ok(0),
        other => other,
    }
}

impl Terminal {
    pub(crate) fn new(master: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&master, fcntl_getfl(&master)? | OFlags::NONBLOCK)?;
        let other = master.try_clone()?;
        Ok(Self { reader: PipeReader::new(master)?, writer: PipeWriter::new(other)? })
    }

    /// Reads what is shown; 0 when the last who has the terminal inside has ended. Cancel-safe.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        self.reader.poll_read(cx, into).map(hung_up)
    }

    /// Types what fits. Cancel-safe.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.writer.poll_write(cx, bytes)
    }

    /// Gives it another size, in characters: whoever is in the foreground in there gets SIGWINCH.
    ///
    /// # Errors
    /// As ioctl_tty(2).
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        Ok(tcsetwinsize(self.as_fd(), Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 })?)
    }
}

impl AsFd for Terminal {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

impl Read for Terminal {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        hung_up(self.reader.read(into))
    }
}

impl Write for Terminal {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writer.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
