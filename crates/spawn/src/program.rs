//! The supervisor's program: embedded, and executed from a sealed memfd that nobody can write (CVE-2019-5736), or from where root
//! installed the same for plain users: AppArmor knows programs by their paths, and `vm.memfd_noexec = 2` forbids memfds.

use crate::error::Error;
use crate::install;
use rustix::fs::{MemfdFlags, SealFlags};
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;

pub(crate) static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/supervisor"));

/// What is executed, opened once a process.
static PROGRAM: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Starts a supervisor with this control socket and answers with its pidfd. posix_spawn: this process isn't copied.
pub(crate) fn start(control: OwnedFd) -> Result<OwnedFd, Error> {
    let attempted = |attempted: &str, source: io::Error| Error::Supervisor { attempted: attempted.into(), source };
    if BYTES.is_empty() {
        return Err(attempted("find the embedded supervisor", io::Error::new(io::ErrorKind::Unsupported, "it was built without one")));
    }
    let path = {
        let mut program = PROGRAM.lock().unwrap_or_else(|e| e.into_inner());
        if program.is_none() {
            *program = Some(match install::installed(Path::new("/")) {
                Some(file) => file,
                None => seal(BYTES).map_err(|e| attempted("put the supervisor into a sealed memfd", e))?,
            });
        }
        format!("/proc/self/fd/{}", program.as_ref().map_or(-1, |fd| fd.as_raw_fd()))
    };
    let mut command = Command::new(path);
    command.stdin(Stdio::from(control)).stdout(Stdio::null()).stderr(Stdio::null()).env_clear();
    let child = command.spawn().map_err(|e| attempted("execute the supervisor", e))?;
    let pid = rustix::process::Pid::from_child(&child);
    // It lives at least until it has a plan, so this is it and no other of that number.
    rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())
        .map_err(|e| attempted("open a pidfd of the supervisor", e.into()))
}

fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Linux 6.3 wants to be told that it is for executing; before, the flag is unknown.
    let memfd = rustix::fs::memfd_create("coracle", flags | MemfdFlags::EXEC).or_else(|_| rustix::fs::memfd_create("coracle", flags))?;
    let mut file = std::fs::File::from(memfd);
    file.write_all(bytes)?;
    let all = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, all)?;
    Ok(file.into())
}
