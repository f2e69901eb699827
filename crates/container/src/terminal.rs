//! The terminal of a container or of a further command, and this process's own at the other end of it.

use crate::background;
use crate::container::Container;
use crate::error::Error;
use crate::exec::Exec;
use coracle_spawn::Terminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The outer end of a terminal ([`tty`](crate::ContainerBuilder::tty)): what is written is typed, what is read is shown, both streams in one.
/// Typing byte 3 is Ctrl-C. It belongs to no runtime.
#[derive(Debug)]
pub struct ContainerTerminal(pub(crate) Terminal);

impl ContainerTerminal {
    /// Gives it another size, in characters: whoever is in the foreground in there gets SIGWINCH.
    ///
    /// # Errors
    /// As ioctl_tty(2).
    pub fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        self.0.resize(columns, rows)
    }
}

impl AsyncRead for ContainerTerminal {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, into.initialize_unfilled()).map_ok(|n| into.advance(n))
    }
}

impl AsyncWrite for ContainerTerminal {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// The size of this process's terminal in columns and rows, if its standard output is one.
pub fn terminal_size() -> Option<(u16, u16)> {
    tcgetwinsize(rustix::stdio::stdout()).ok().map(|size| (size.ws_col, size.ws_row)).filter(|size| *size != (0, 0))
}

/// How it came that two terminals aren't one any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TerminalEnd {
    /// Nobody has the terminal inside any more: the command has ended.
    Ended,
    /// Whoever typed left by the keys Ctrl-P, Ctrl-Q. What runs inside goes on.
    Detached,
}

impl Container {
    /// Makes this process's standard input and output the container's terminal until that ends or Ctrl-P, Ctrl-Q are typed: what is typed goes in
    /// as it is, what is shown inside is shown here, and a change of this terminal's size is one inside. A standard input that is no
    /// terminal is read to its end.
    ///
    /// This terminal is as it was before when the future is ready or dropped, by a panic too. No handler of a signal is installed: the size is
    /// looked at ten times a second. It works for a container that somebody [attached](crate::Engine::attach) to, if it was started
    /// [with a terminal](crate::ContainerBuilder::tty); two who do it at once share what is shown.
    ///
    /// # Errors
    /// [`Error::Start`] where it has no terminal, or has ended; [`Error::Terminal`].
    pub async fn attach_terminal(&self) -> Result<TerminalEnd, Error> {
        match &self.terminal {
            Some(terminal) => attach(&terminal.0).await,
            None => {
                let child = self.current_or_attached().ok_or_else(|| Error::NotRunning { id: self.id.clone() })?;
                child.ask_for_terminal()?;
                attach(&poll_fn(|cx| child.poll_terminal(cx)).await?).await
            }
        }
    }
}

impl Exec {
    /// Makes this process's standard input and output the command's terminal, as [`Container::attach_terminal`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn attach_terminal(&self) -> Result<TerminalEnd, Error> {
        match &self.terminal {
            Some(terminal) => attach(&terminal.0).await,
            None => Err(failed("attach to", io::Error::other("the command has none"))),
        }
    }
}

fn failed(attempted: &'static str, source: io::Error) -> Error {
    Error::Terminal { attempted, source }
}

async fn attach(terminal: &Terminal) -> Result<TerminalEnd, Error> {
    let master = terminal.as_fd().try_clone_to_owned().map_err(|source| failed("open", source))?;
    // Dropping it with this future ends the thread.
    let (stopped, keep) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|errno| failed("watch", errno.into()))?;
    let raw = Raw::begin().map_err(|source| failed("change the settings of", source))?;
    let work = background::run("coracle-terminal", move || shuttle(&master, &stopped)).map_err(|source| failed("watch", source))?;
    let left = work.await;
    drop((raw, keep));
    left.map_err(|source| failed("read or write", source))
}

/// This process's terminal hands everything on, until this is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn begin() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        if !isatty(stdin) {
            return Ok(Self(None));
        }
        let before = tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Drain, &raw)?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Drain, before);
        }
    }
}

/// What waits to be typed at most: who types faster than is read inside waits.
const MOST: usize = 64 << 10;

/// Carries bytes both ways until one side ends, or the other end of `stopped` does.
fn shuttle(master: &OwnedFd, stopped: &OwnedFd) -> io::Result<TerminalEnd> {
    let (stdin, stdout) = (rustix::stdio::stdin(), rustix::stdio::stdout());
    let (mut typed, mut keys, mut listening, mut size) = (Vec::new(), Keys::default(), true, None);
    let mut shown = File::from(stdout.try_clone_to_owned()?);
    let mut piece = [0; 16 << 10];
    loop {
        let now = terminal_size();
        if let (true, Some((columns, rows))) = (now != size, now)
            && let Ok(current) = tcgetwinsize(master)
        {
            let _ = tcsetwinsize(master, rustix::termios::Winsize { ws_col: columns, ws_row: rows, ..current });
        }
        size = now;
        let wanted = |yes, flags| if yes { flags } else { PollFlags::empty() };
        let mut fds = [
            PollFd::from_borrowed_fd(stopped.as_fd(), PollFlags::empty()),
            PollFd::from_borrowed_fd(master.as_fd(), PollFlags::IN | wanted(!typed.is_empty(), PollFlags::OUT)),
            PollFd::from_borrowed_fd(stdin, wanted(listening && typed.len() < MOST, PollFlags::IN)),
        ];
        // An end of input that nobody listens to any more would be told again and again.
        let watched = if listening { 3 } else { 2 };
        match poll(&mut fds[..watched], Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 })) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let [stop, inside, here] = fds.each_ref().map(PollFd::revents);
        if !stop.is_empty() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        if inside.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match rustix::io::read(master, &mut piece) {
                Ok(0) | Err(Errno::IO) => return Ok(TerminalEnd::Ended),
                Ok(n) => shown.write_all(&piece[..n])?,
                // Somebody else has read it.
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if watched == 3 && !here.is_empty() {
            match rustix::io::read(stdin, &mut piece) {
                Ok(0) => listening = false,
                Ok(n) if keys.take(&piece[..n], &mut typed) => return Ok(TerminalEnd::Detached),
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        if !typed.is_empty() {
            match rustix::io::write(master, &typed) {
                Ok(n) => drop(typed.drain(..n)),
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(Errno::IO) => return Ok(TerminalEnd::Ended),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

/// Looks for the keys by which one leaves, as docker-attach(1) has them: Ctrl-P, Ctrl-Q.
#[derive(Default)]
struct Keys {
    /// Ctrl-P was typed, and isn't handed on yet.
    held: bool,
}

impl Keys {
    const FIRST: u8 = 0x10;
    const SECOND: u8 = 0x11;

    /// Hands on what was typed; whether the keys were among it.
    fn take(&mut self, typed: &[u8], on: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if std::mem::take(&mut self.held) {
                if byte == Self::SECOND {
                    return true;
                }
                on.push(Self::FIRST);
            }
            match byte {
                Self::FIRST => self.held = true,
                byte => on.push(byte),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_found_wherever_they_are_cut() {
        let check = |pieces: &[&[u8]], on: &[u8], leaves: bool| {
            let (mut keys, mut handed) = (Keys::default(), Vec::new());
            let left = pieces.iter().any(|piece| keys.take(piece, &mut handed));
            assert_eq!((&handed[..], left), (on, leaves), "{pieces:?}");
        };
        check(&[b"abc"], b"abc", false);
        check(&[b"a\x10\x11b"], b"a", true);
        check(&[b"a\x10", b"\x11"], b"a", true);
        check(&[b"\x10a"], b"\x10a", false);
        check(&[b"\x10\x10\x11"], b"\x10", true);
        check(&[b"\x11\x10"], b"\x11", false);
    }
}
