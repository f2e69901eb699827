//! Effects in the host's namespaces, and taking them back.
//!
//! Whoever does something here can undo it here: the undo list is complete, and written into the run directory, before the
//! first effect, and each undo is harmless where its effect never was.

use crate::failure::Fault;
use crate::system_call::{AT_FDCWD, Errno, Fd, Result, close, flock_now, mkdirat, open, openat2, read, rename_new, sleep, unlinkat, write};
use crate::system_call::{attach_device_filter, pidfd_open, pidfd_send_signal};
use crate::text::Buffer;
use crate::tree;
use crate::wire::{Prepare, Undo};
use core::ffi::CStr;

/// PATH_MAX and a name.
pub type Path = Buffer<4400>;

const SIGKILL: u32 = 9;

/// Performs one effect; the answer is a descriptor to keep as long as the supervisor lives.
pub fn perform(step: &Prepare<'_>) -> core::result::Result<Option<Fd>, Fault> {
    match *step {
        Prepare::RunDirectory { parent, name, record } => Ok(Some(run_directory(parent, name, record)?)),
        Prepare::AdoptRunDirectory { path } => {
            let mut lock = Path::new();
            lock.push(path.to_bytes());
            lock.push(b"/lock");
            let lock = openat2(AT_FDCWD, lock.as_c_str().ok_or(Errno::EINVAL)?, open::READ_WRITE, 0, 0)?;
            lock_new(lock)?;
            Ok(Some(lock))
        }
        Prepare::ResumeRunDirectory { path, record } => Ok(Some(resume(path, record)?)),
        Prepare::EnsureDirectory { path, mode } => match mkdirat(AT_FDCWD, path, mode) {
            Err(Errno::EEXIST) => Ok(None),
            other => Ok(other.map(|()| None)?),
        },
        Prepare::LimitDirectory { path, bytes } => crate::quota::limit(path, bytes).map(|()| None),
        Prepare::MakeDirectory { path, mode } => Ok(mkdirat(AT_FDCWD, path, mode).map(|()| None)?),
        Prepare::Write { path, value, optional } => match write_file(path, value) {
            Err(Errno::ENOENT) if optional => Ok(None),
            other => Ok(other.map(|()| None)?),
        },
        Prepare::DeviceFilter { path, program } => {
            let cgroup = openat2(AT_FDCWD, path, open::DIRECTORY, 0, 0)?;
            let done = attach_device_filter(cgroup, program);
            close(cgroup);
            Ok(done.map(|()| None)?)
        }
        Prepare::Never(_, never) => match never {},
    }
}

fn run_directory(parent: &CStr, name: &CStr, record: &[u8]) -> Result<Fd> {
    let mut draft = Path::new();
    draft.push(parent.to_bytes());
    draft.push(b"/.");
    draft.push(name.to_bytes());
    let mut path = draft.clone();
    mkdirat(AT_FDCWD, draft.as_c_str().ok_or(Errno::EINVAL)?, 0o700)?;

    path.push(b"/lock");
    let flags = open::CREATE | open::EXCLUSIVE | open::READ_WRITE;
    let lock = openat2(AT_FDCWD, path.as_c_str().ok_or(Errno::EINVAL)?, flags, 0o600, 0)?;
    lock_new(lock)?;

    path = draft.clone();
    path.push(b"/record");
    let file = openat2(AT_FDCWD, path.as_c_str().ok_or(Errno::EINVAL)?, flags, 0o600, 0)?;
    write_all(file, record)?;
    close(file);

    path.clear();
    path.push(parent.to_bytes());
    path.push(b"/");
    path.push(name.to_bytes());
    rename_new(draft.as_c_str().ok_or(Errno::EINVAL)?, path.as_c_str().ok_or(Errno::EINVAL)?)?;
    Ok(lock)
}

/// The record comes by a rename, so that who finds it finds it whole.
fn resume(path: &CStr, record: &[u8]) -> Result<Fd> {
    let name = |name: &[u8]| {
        let mut all = Path::new();
        all.push(path.to_bytes());
        all.push(name);
        all
    };
    let lock = openat2(AT_FDCWD, name(b"/lock").as_c_str().ok_or(Errno::EINVAL)?, open::READ_WRITE, 0, 0)?;
    // The life before may have a moment to go.
    lock_new(lock)?;
    let (mut draft, mut place) = (name(b"/.record"), name(b"/record"));
    let (draft, place) = (draft.as_c_str().ok_or(Errno::EINVAL)?, place.as_c_str().ok_or(Errno::EINVAL)?);
    let _ = unlinkat(AT_FDCWD, draft, false);
    let file = openat2(AT_FDCWD, draft, open::CREATE | open::EXCLUSIVE | open::READ_WRITE, 0o600, 0)?;
    let written = write_all(file, record);
    close(file);
    written?;
    // One that is there is of a life whose end nobody has undone: not while that is to be done.
    rename_new(draft, place)?;
    Ok(lock)
}

/// Locks a file that we made: somebody who sweeps may be asking for its lock at this moment, and lets go at once.
pub fn lock_new(lock: Fd) -> Result<()> {
    for _ in 0..1000 {
        match flock_now(lock) {
            Err(Errno::EAGAIN) => sleep(1_000_000),
            other => return other,
        }
    }
    Err(Errno::EAGAIN)
}

pub fn write_all(f: Fd, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        let n = write(f, bytes)?;
        bytes = &bytes[n..];
    }
    Ok(())
}

/// Writes to a file that is there, in one write(2), as the kernel's attribute files want it.
pub fn write_file(path: &CStr, value: &[u8]) -> Result<()> {
    let f = openat2(AT_FDCWD, path, open::WRITE, 0, 0)?;
    let result = write(f, value).map(|_| ());
    close(f);
    result
}

/// Takes one effect back.
pub fn undo(step: &Undo<'_>) -> Result<()> {
    match *step {
        Undo::KillCgroup { path } => kill_cgroup(path),
        Undo::RemoveDirectory { path } => remove_cgroup(path),
        Undo::RemoveTree { path } => {
            // The draft of a run directory whose supervisor died before the rename.
            let mut draft = Path::new();
            let bytes = path.to_bytes();
            if let Some(slash) = bytes.iter().rposition(|&b| b == b'/') {
                draft.push(&bytes[..=slash]);
                draft.push(b".");
                draft.push(&bytes[slash + 1..]);
                if let Some(draft) = draft.as_c_str() {
                    let _ = tree::remove(draft);
                }
            }
            tree::remove(path)
        }
        // A cgroup that has gone meanwhile isn't frozen.
        Undo::Thaw { path } => match write_file(path, b"0") {
            Err(Errno::ENOENT | Errno::ENODEV) => Ok(()),
            other => other,
        },
        Undo::Never(_, never) => match never {},
    }
}

/// The path of the thing an undo is about.
pub fn subject<'a>(step: &Undo<'a>) -> &'a CStr {
    match *step {
        Undo::KillCgroup { path } | Undo::RemoveDirectory { path } | Undo::RemoveTree { path } | Undo::Thaw { path } => path,
        Undo::Never(_, never) => match never {},
    }
}

/// Kills what a cgroup holds: by `cgroup.kill`, or one by one where there is none.
fn kill_cgroup(path: &CStr) -> Result<()> {
    let mut file = Path::new();
    file.push(path.to_bytes());
    file.push(b"/cgroup.kill");
    if write_file(file.as_c_str().ok_or(Errno::EINVAL)?, b"1").is_ok() {
        return Ok(());
    }
    file.clear();
    file.push(path.to_bytes());
    file.push(b"/cgroup.procs");
    let file = file.as_c_str().ok_or(Errno::EINVAL)?;
    // A forking crowd may outrun one pass; a hundred it doesn't, with everybody it forked dying too.
    for _ in 0..100 {
        let f = match openat2(AT_FDCWD, file, open::READ, 0, 0) {
            Err(Errno::ENOENT) => return Ok(()),
            other => other?,
        };
        let mut bytes = [0; 4096];
        let n = read(f, &mut bytes)?;
        close(f);
        if n == 0 {
            return Ok(());
        }
        for line in bytes[..n].split(|&b| b == b'\n') {
            let pid = line.iter().fold(0u32, |pid, &b| pid.wrapping_mul(10).wrapping_add(u32::from(b.wrapping_sub(b'0'))));
            if let (false, Ok(process)) = (line.is_empty(), pidfd_open(pid)) {
                let _ = pidfd_send_signal(process, SIGKILL);
                close(process);
            }
        }
        sleep(1_000_000);
    }
    Ok(())
}

/// How long a cgroup may stay busy after everything in it was killed: a process in an uninterruptible wait.
const BUSY: u64 = 5_000_000_000;

/// rmdir(2) of a cgroup and of those that were made below it.
fn remove_cgroup(path: &CStr) -> Result<()> {
    let (mut waited, mut pause) = (0, 100_000);
    loop {
        match unlinkat(AT_FDCWD, path, true) {
            Ok(()) | Err(Errno::ENOENT) => return Ok(()),
            Err(Errno::EBUSY | Errno::ENOTEMPTY) if waited < BUSY => {}
            Err(errno) => return Err(errno),
        }
        if tree::remove_directories_below(path) {
            continue;
        }
        sleep(pause);
        waited += pause;
        pause = (pause * 2).min(20_000_000);
    }
}
