//! Opens files for the owner that only someone inside the user namespace may open: those of a container's other users.
//!
//! The owner asks on a socket of packets; each question is a letter, a path or a name, and a descriptor beside it.
//!
//! | letter | descriptor | text | answer |
//! |---|---|---|---|
//! | `l` | a directory | a path below it | the file there, opened for looking at alone |
//! | `r` | a file so opened | | the file, opened for reading |
//! | `a` | a file so opened | an attribute's name | its value |
//!
//! An answer begins with an errno, 4 bytes, 0 where it went well. No link is followed and nothing is changed. The owner is who started
//! this process, and could do all of it by a program of its own in a namespace of its own.

use crate::failure::Fault;
use crate::system_call::{
    AT_FDCWD, Errno, Fd, Pages, Received, close, descriptor_path, getxattr, open, openat2, receive_message, resolve, send_message,
};
use core::ffi::CStr;

/// The longest question: a path, and its letter.
const QUESTION: usize = 4098;
/// The longest value of an attribute (xattr(7)).
const VALUE: usize = 65_536;

/// Answers until the owner closes its end.
#[inline(never)]
pub fn serve(socket: Fd) -> Result<(), Fault> {
    let mut memory = Pages::new(QUESTION + VALUE)?;
    let (question, value) = memory.split_at_mut(QUESTION);
    loop {
        let mut fds = Received::new();
        let n = match receive_message(socket, question, &mut fds, true) {
            Ok(0) | Err(Errno::ECONNRESET) => return Ok(()),
            other => other?,
        };
        let answer = match (fds.as_slice(), question[..n].split_first()) {
            (&[at], Some((&letter, text))) => match CStr::from_bytes_with_nul(text) {
                Ok(text) => answer(letter, at, text, value),
                Err(_) => Err(Errno::EINVAL),
            },
            _ => Err(Errno::EINVAL),
        };
        fds.close();
        let sent = match answer {
            Ok((file, length)) => {
                let sent = send_message(socket, &[0; 4], &value[..length], file.as_slice(), true);
                file.into_iter().for_each(close);
                sent
            }
            Err(errno) => send_message(socket, &errno.0.to_le_bytes(), &[], &[], true),
        };
        if sent.is_err() {
            return Ok(());
        }
    }
}

/// A file or the length of a value.
fn answer(letter: u8, at: Fd, text: &CStr, value: &mut [u8]) -> Result<(Option<Fd>, usize), Errno> {
    const INSIDE: u64 = resolve::BENEATH | resolve::NO_SYMLINKS | resolve::NO_MAGICLINKS | resolve::NO_XDEV;
    let own = descriptor_path(at);
    let own = CStr::from_bytes_until_nul(&own).map_err(|_| Errno::EINVAL)?;
    match letter {
        b'l' => openat2(at, text, open::PATH | open::NOFOLLOW, 0, INSIDE).map(|f| (Some(f), 0)),
        b'r' => openat2(AT_FDCWD, own, open::READ | open::NONBLOCK, 0, 0).map(|f| (Some(f), 0)),
        b'a' => getxattr(own, text, value).map(|length| (None, length)),
        _ => Err(Errno::EINVAL),
    }
}
