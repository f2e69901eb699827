//! The supervisor's program: embedded, and executed from a sealed memfd that nobody can write (CVE-2019-5736), or from where root
//! installed the same for plain users: AppArmor knows programs by their paths, and `vm.memfd_noexec = 2` forbids memfds.

use crate::error::Error;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::io::Read;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

static BYTES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/supervisor"));

/// What is executed, opened once a process.
static PROGRAM: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Where [`install_supervisor`] puts it.
const INSTALLED: &str = "/usr/local/libexec/coracle";

/// Starts a supervisor with this control socket and answers with its pidfd. posix_spawn: this process isn't copied.
pub(crate) fn start(control: OwnedFd) -> Result<OwnedFd, Error> {
    let attempted = |attempted: &str, source: io::Error| Error::Supervisor { attempted: attempted.into(), source };
    if BYTES.is_empty() {
        return Err(attempted("find the embedded supervisor", io::Error::new(io::ErrorKind::Unsupported, "it was built without one")));
    }
    let path = {
        let mut program = PROGRAM.lock().unwrap_or_else(|e| e.into_inner());
        if program.is_none() {
            *program = Some(match installed(Path::new("/")) {
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

/// The file's name has what is in it, so that versions stand beside each other.
fn installed_path(root: &Path) -> PathBuf {
    let sum = BYTES.iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    root.join(&INSTALLED[1..]).join(format!("supervisor-{}-{sum:016x}", env!("CARGO_PKG_VERSION")))
}

/// The installed program, if it is the very same, and nobody but root could have put it there or can change it. Root itself goes without:
/// in a container of root's without a user namespace it could be opened for writing.
fn installed(root: &Path) -> Option<OwnedFd> {
    if rustix::process::geteuid().is_root() {
        return None;
    }
    let path = installed_path(root);
    let how = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = rustix::fs::openat2(rustix::fs::CWD, &path, how, Mode::empty(), ResolveFlags::NO_SYMLINKS).ok()?;
    let mut file = std::fs::File::from(file);
    let is_roots = |of: &std::fs::Metadata| of.uid() == 0 && of.mode() & 0o022 == 0;
    let safe = file.metadata().is_ok_and(|m| m.is_file() && is_roots(&m))
        && path.ancestors().skip(1).all(|directory| std::fs::symlink_metadata(directory).is_ok_and(|m| is_roots(&m)));
    let mut bytes = Vec::with_capacity(BYTES.len());
    (safe && file.read_to_end(&mut bytes).is_ok() && bytes == BYTES).then(|| file.into())
}

/// Puts the supervisor's program where plain users' supervisors are executed from by themselves when it is there: below
/// /usr/local/libexec/coracle. For hosts that give programs privileges by their paths (AppArmor and user namespaces), or execute no
/// memfd. Says where it is. Needs root.
///
/// # Errors
/// [`Error::Supervisor`].
pub fn install_supervisor() -> Result<PathBuf, Error> {
    install(Path::new("/"))
}

fn install(root: &Path) -> Result<PathBuf, Error> {
    let path = installed_path(root);
    let done = || -> io::Result<()> {
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        std::fs::DirBuilder::new().recursive(true).mode(0o755).create(directory)?;
        // Whole, or not there.
        let new = path.with_extension(std::process::id().to_string());
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(&new)?;
        let written = file.write_all(BYTES).and_then(|()| file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)));
        let placed = written.and_then(|()| file.sync_all()).and_then(|()| std::fs::rename(&new, &path));
        placed.inspect_err(|_| drop(std::fs::remove_file(&new)))
    };
    done().map_err(|source| Error::Supervisor { attempted: format!("install the supervisor as {}", path.display()), source })?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn what_is_installed_is_whole_and_executable() {
        let root = tempfile::tempdir().unwrap();
        let path = install(root.path()).unwrap();
        assert_eq!(install(root.path()).unwrap(), path, "twice is no error");
        assert!(path.starts_with(root.path().join("usr/local/libexec/coracle")));
        assert_eq!((std::fs::read(&path).unwrap(), std::fs::metadata(&path).unwrap().mode() & 0o7777), (BYTES.to_vec(), 0o755));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn an_installed_one_that_others_could_have_changed_is_not_taken() {
        // The directory of a test is below one that everybody writes to.
        let root = tempfile::tempdir().unwrap();
        let path = install(root.path()).unwrap();
        assert!(installed(root.path()).is_none());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(installed(root.path()).is_none());
        assert!(installed(Path::new("/no/such/root")).is_none());
    }
}
