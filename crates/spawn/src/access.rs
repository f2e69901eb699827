//! Files that only someone else may open, and containers that stand still meanwhile.

use crate::error::Error;
use crate::id_map::IdMap;
use crate::spawn::{Starting, serve_files};
use rustix::net::{AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage};
use rustix::net::{ReturnFlags, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair};
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A process that opens files for this one, inside a user namespace: a plain user may not read what a container's other users wrote, and
/// root of their namespace may. It can freeze a cgroup for as long as it lives.
///
/// Dropping it ends the process; losing it (SIGKILL of this process) does too, and what was frozen goes on. It follows no link and
/// changes no file.
#[derive(Debug)]
#[must_use = "dropping it ends the process"]
pub struct FileAccess {
    socket: Option<Mutex<OwnedFd>>,
    starting: Option<Starting>,
}

impl FileAccess {
    /// Starts the process: in a user namespace with this map, or in this process's own; with a cgroup's file `cgroup.freeze` (Linux
    /// 5.2) that cgroup is told to stand still, and is when its `cgroup.events` says `frozen 1`. Blocks until it answers, a millisecond
    /// or so.
    ///
    /// # Errors
    /// Those of starting; [`Error::Step`] where the file can't be written.
    pub fn start(map: Option<&IdMap>, freeze: Option<&Path>) -> Result<Self, Error> {
        let flags = SocketFlags::CLOEXEC;
        let failed = |attempted: &str, source| Error::Supervisor { attempted: attempted.into(), source };
        let pair = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (ours, theirs) = pair.map_err(|errno| failed("make a socket", errno.into()))?;
        let starting = serve_files(theirs, map, freeze)?;
        let access = Self { socket: Some(Mutex::new(ours)), starting: Some(starting) };
        let root = std::fs::File::open("/").map_err(|source| failed("open /", source))?;
        match access.look(root.as_fd(), b".") {
            Ok(_) => Ok(access),
            Err(source) => {
                let mut access = access;
                access.socket = None;
                // Why it didn't start is what it said of that, if it said anything.
                match access.starting.take().map(Starting::wait) {
                    Some(Err(error)) => Err(error),
                    _ => Err(failed("ask a process that opens files", source)),
                }
            }
        }
    }

    /// Opens what is at a path below a directory, for looking at alone (O_PATH). No part of the path may be a link; a last one is opened
    /// itself.
    ///
    /// # Errors
    /// The kernel's.
    pub fn look(&self, directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
        self.ask(b'l', directory, path)?.1.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// Opens for reading what was opened for looking at.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self, file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        self.ask(b'r', file, b"")?.1.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    /// The value of an attribute (xattr(7)) of what was opened for looking at.
    ///
    /// # Errors
    /// The kernel's.
    pub fn attribute(&self, file: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
        Ok(self.ask(b'a', file, name)?.0)
    }

    fn ask(&self, letter: u8, beside: BorrowedFd<'_>, text: &[u8]) -> io::Result<(Vec<u8>, Option<OwnedFd>)> {
        if text.len() > 4096 || text.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let socket = self.socket.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        let socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
        let fds = [beside];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmRights(&fds));
        let parts = [IoSlice::new(std::slice::from_ref(&letter)), IoSlice::new(text), IoSlice::new(b"\0")];
        rustix::io::retry_on_intr(|| sendmsg(&*socket, &parts, &mut control, SendFlags::NOSIGNAL))?;

        let mut bytes = vec![0; 4 + 65_536];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            rustix::io::retry_on_intr(|| recvmsg(&*socket, &mut [IoSliceMut::new(&mut bytes)], &mut control, RecvFlags::CMSG_CLOEXEC))?;
        let file = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        });
        if received.bytes < 4 || received.flags.contains(ReturnFlags::TRUNC) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        bytes.truncate(received.bytes);
        let value = bytes.split_off(4);
        match i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) {
            0 => Ok((value, file)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

impl Drop for FileAccess {
    fn drop(&mut self) {
        self.socket = None;
        // What was frozen goes on before this returns.
        if let Some(Ok(child)) = self.starting.take().map(Starting::wait) {
            let _ = child.wait_gone();
        }
    }
}
