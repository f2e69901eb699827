//! A bind mount in which two owners have changed places: the caller outside, and the container's user inside.
//!
//! The kernel takes the map of a mount from a user namespace (mount_setattr(2), `MOUNT_ATTR_IDMAP`). So a child is cloned into a new one, its map
//! is written, and when the mounts have it, the child goes.

use crate::failure::Fault;
use crate::id_map::{proc_file, wait, write_map};
use crate::system_call::{
    AT_FDCWD, CLONE_NEWUSER, Cloned, Errno, Fd, Received, clone, close, exit, open, openat2, prctl, read, receive_message, socketpair,
};
use crate::text::Buffer;

/// A process in a user namespace of its own, whose map isn't written yet. It is made while this process's root still is the host's: the kernel
/// lets nobody make one whose root isn't that of the mount namespace. Who its owners are is known when the container's /etc/passwd is there.
pub struct Waiting {
    process: Fd,
    socket: Fd,
}

impl Waiting {
    pub fn begin() -> Result<Self, Fault> {
        let (ours, theirs) = socketpair()?;
        // Who is cloned belongs to another user namespace than this process, which looks into it.
        prctl::set_dumpable(true)?;
        let cloned = clone(CLONE_NEWUSER, None);
        let process = match cloned.map(|(cloned, _)| cloned) {
            Ok(Cloned::Child) => {
                close(ours);
                let _ = receive_message(theirs, &mut [0; 1], &mut Received::new(), true);
                exit(0)
            }
            Ok(Cloned::Parent { pidfd, .. }) => Ok(pidfd),
            Err(errno) => Err(errno),
        };
        close(theirs);
        prctl::set_dumpable(false)?;
        Ok(Self { process: process?, socket: ours })
    }

    /// The user namespace, with the ids outside and inside swapped, and all others as they are.
    pub fn swap(&self, uids: (u32, u32), gids: (u32, u32)) -> Result<Fd, Fault> {
        let pid = pid_of(self.process)?;
        write_map(pid, b"uid_map", swap(uids).into_iter().flatten())?;
        write_map(pid, b"gid_map", swap(gids).into_iter().flatten())?;
        Ok(openat2(AT_FDCWD, proc_file(pid, b"ns/user").as_c_str().ok_or(Errno::EINVAL)?, open::READ, 0, 0)?)
    }

    pub fn end(self) {
        close(self.socket);
        let _ = wait(self.process);
    }
}

/// The lines of a map: inside, outside, count.
fn swap((a, b): (u32, u32)) -> [Option<(u32, u32, u32)>; 5] {
    let (low, high) = (a.min(b), a.max(b));
    let same = |from: u32, to: u32| (from < to).then(|| (from, from, to - from));
    match low == high {
        true => [same(0, u32::MAX), None, None, None, None],
        false => [same(0, low), Some((low, high, 1)), same(low + 1, high), Some((high, low, 1)), same(high + 1, u32::MAX)],
    }
}

/// The number that a child has in /proc, which may be that of another pid namespace than this process's.
fn pid_of(process: Fd) -> Result<u32, Fault> {
    let mut path = Buffer::<64>::new();
    path.push(b"/proc/self/fdinfo/");
    path.push_number(process.0 as u64);
    let f = openat2(AT_FDCWD, path.as_c_str().ok_or(Errno::EINVAL)?, open::READ, 0, 0)?;
    let mut bytes = [0; 512];
    let n = read(f, &mut bytes);
    close(f);
    let digits = bytes[..n?].split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"Pid:\t")).ok_or(Errno::ESRCH)?;
    match digits.iter().try_fold(0u32, |pid, b| pid.checked_mul(10)?.checked_add(u32::from(b.checked_sub(b'0')?))) {
        Some(pid @ 1..) => Ok(pid),
        _ => Err(Errno::ESRCH.into()),
    }
}
