//! Removes a tree that a stranger filled.
//!
//! It may be deeper than any stack and any number of descriptors, and full of names. So one directory is open at a time; the
//! way down is by name without following links, the way up is `..`, counted, so that it never climbs above where it
//! began. Nobody else changes the tree meanwhile: whoever could has died.

use crate::system_call::{AT_FDCWD, Errno, Fd, Result, chmod_descriptor, close, getdents64, open, openat2, resolve, unlinkat};
use core::ffi::CStr;

/// A directory and all below it; nothing there is fine.
pub fn remove(path: &CStr) -> Result<()> {
    match unlinkat(AT_FDCWD, path, false) {
        Ok(()) | Err(Errno::ENOENT) => return Ok(()),
        // A directory says EISDIR on Linux and EPERM in POSIX.
        Err(_) => {}
    }
    let top = match openat2(AT_FDCWD, path, open::DIRECTORY | open::NOFOLLOW, 0, 0) {
        Err(Errno::ENOENT) => return Ok(()),
        Err(Errno::EACCES) => open_closed(AT_FDCWD, path)?,
        other => other?,
    };
    for (name, directory) in LEFT_BY_OVERLAY {
        if unlinkat(top, name, directory).is_err() {
            break;
        }
    }
    let top = empty(top, &LAST)?;
    for name in LAST {
        let _ = unlinkat(top, name, false);
    }
    let done = match unlinkat(AT_FDCWD, path, true) {
        // Of another kind than we know.
        Err(Errno::ENOTEMPTY) => {
            let top = openat2(top, c".", open::DIRECTORY, 0, 0)?;
            close(empty(top, &[])?);
            unlinkat(AT_FDCWD, path, true)
        }
        other => other,
    };
    close(top);
    match done {
        Err(Errno::ENOENT) => Ok(()),
        other => other,
    }
}

/// What a run directory loses last: who is killed meanwhile leaves the record of what is to be done, and a free lock.
const LAST: [&CStr; 2] = [c"record", c"lock"];

/// What a volatile overlay leaves in a run directory's `work`, deepest first. By name it goes in four calls; the way down takes forty.
/// Only the kernel writes there.
const LEFT_BY_OVERLAY: [(&CStr, bool); 4] = [
    (c"work/work/incompat/volatile/dirty", false),
    (c"work/work/incompat/volatile", true),
    (c"work/work/incompat", true),
    (c"work/work", true),
];

/// A directory that its owner may not read: made readable first.
fn open_closed(at: Fd, name: &CStr) -> Result<Fd> {
    let handle = openat2(at, name, open::PATH | open::DIRECTORY | open::NOFOLLOW, 0, 0)?;
    let changed = chmod_descriptor(handle, 0o700);
    close(handle);
    changed?;
    openat2(at, name, open::DIRECTORY | open::NOFOLLOW, 0, 0)
}

/// Removes everything below a directory but what is to stay at its top; the answer is a descriptor of it instead of the one given.
fn empty(top: Fd, stay: &[&CStr]) -> Result<Fd> {
    let mut here = top;
    let mut depth = 0u64;
    loop {
        match clear_one(here, if depth == 0 { stay } else { &[] }) {
            Ok(Some(below)) => {
                close(here);
                here = below;
                depth += 1;
            }
            Ok(None) if depth == 0 => return Ok(here),
            Ok(None) => {
                let up = openat2(here, c"..", open::DIRECTORY, 0, 0);
                close(here);
                here = up?;
                depth -= 1;
            }
            Err(errno) => {
                close(here);
                return Err(errno);
            }
        }
    }
}

/// Removes what can be removed at once; the answer is a directory to empty first.
fn clear_one(directory: Fd, stay: &[&CStr]) -> Result<Option<Fd>> {
    // It is read from its start: each visit opens it anew.
    let mut buffer = [0; 4096];
    loop {
        let n = match getdents64(directory, &mut buffer)? {
            0 => return Ok(None),
            n => n,
        };
        match entries(&buffer[..n])
            .filter(|(name, _)| !stay.contains(name))
            .find_map(|(name, kind)| clear_entry(directory, name, kind).transpose())
        {
            None => {}
            Some(found) => return found.map(Some),
        }
    }
}

fn clear_entry(directory: Fd, name: &CStr, kind: Kind) -> Result<Option<Fd>> {
    let file = match kind {
        Kind::Directory => Err(Errno::EISDIR),
        Kind::Other => unlinkat(directory, name, false),
    };
    let done = match file {
        // Whatever it is, the directory that holds it has the last word.
        Err(errno) if errno != Errno::ENOENT && errno != Errno::EACCES => unlinkat(directory, name, true),
        other => other,
    };
    match done {
        Ok(()) | Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ENOTEMPTY) => descend(directory, name).map(Some),
        // A directory that isn't ours to write in is opened up first.
        Err(Errno::EACCES) => {
            chmod_descriptor(directory, 0o700)?;
            clear_entry_again(directory, name)
        }
        Err(errno) => Err(errno),
    }
}

fn clear_entry_again(directory: Fd, name: &CStr) -> Result<Option<Fd>> {
    match unlinkat(directory, name, false).or_else(|_| unlinkat(directory, name, true)) {
        Ok(()) | Err(Errno::ENOENT) => Ok(None),
        Err(Errno::ENOTEMPTY) => descend(directory, name).map(Some),
        Err(errno) => Err(errno),
    }
}

fn descend(directory: Fd, name: &CStr) -> Result<Fd> {
    match openat2(directory, name, open::DIRECTORY | open::NOFOLLOW, 0, resolve::NO_XDEV) {
        Err(Errno::EACCES) => open_closed(directory, name),
        other => other,
    }
}

/// What getdents64(2) says of an entry, which saves one try of two. A file system may not know; then it is no directory.
#[derive(Clone, Copy)]
enum Kind {
    Directory,
    Other,
}

/// The names in what getdents64(2) gave, but `.` and `..`.
fn entries(mut bytes: &[u8]) -> impl Iterator<Item = (&CStr, Kind)> {
    core::iter::from_fn(move || {
        loop {
            // struct linux_dirent64 { u64 ino; i64 off; u16 reclen; u8 type; char name[]; }
            let length = u16::from_ne_bytes(bytes.get(16..18)?.try_into().ok()?) as usize;
            let entry = bytes.get(..length)?;
            bytes = bytes.get(length..)?;
            let name = CStr::from_bytes_until_nul(entry.get(19..)?).ok()?;
            if !matches!(name.to_bytes(), b"." | b"..") {
                const DT_DIR: u8 = 4;
                return Some((name, if entry[18] == DT_DIR { Kind::Directory } else { Kind::Other }));
            }
        }
    })
}

/// rmdir(2) of empty directories below one (cgroups made inside a container); whether any went.
pub fn remove_directories_below(path: &CStr) -> bool {
    let Ok(mut here) = openat2(AT_FDCWD, path, open::DIRECTORY | open::NOFOLLOW, 0, 0) else {
        return false;
    };
    let mut any = false;
    let mut depth = 0;
    loop {
        let mut buffer = [0; 4096];
        let mut below = None;
        if let Ok(reader) = openat2(here, c".", open::DIRECTORY, 0, 0) {
            'reading: while let Ok(n @ 1..) = getdents64(reader, &mut buffer) {
                for (name, _) in entries(&buffer[..n]) {
                    match unlinkat(here, name, true) {
                        Ok(()) => any = true,
                        Err(Errno::EBUSY | Errno::ENOTEMPTY) if depth < 64 => {
                            // Busy by a process, or by a cgroup below it: look, once a round.
                            if let Ok(child) = openat2(here, name, open::DIRECTORY | open::NOFOLLOW, 0, 0) {
                                if has_directory(child) {
                                    below = Some(child);
                                    break 'reading;
                                }
                                close(child);
                            }
                        }
                        Err(_) => {}
                    }
                }
            }
            close(reader);
        }
        close(here);
        match below {
            Some(child) => {
                here = child;
                depth += 1;
            }
            None => return any,
        }
    }
}

fn has_directory(directory: Fd) -> bool {
    let Ok(reader) = openat2(directory, c".", open::DIRECTORY, 0, 0) else {
        return false;
    };
    let mut buffer = [0; 4096];
    let mut found = false;
    while let Ok(n @ 1..) = getdents64(reader, &mut buffer) {
        found |= entries(&buffer[..n]).any(|(name, _)| crate::system_call::lstat(directory, name).is_ok_and(|s| s.is_directory()));
    }
    close(reader);
    found
}
