//! The supervisor's program where root installed it for plain users: AppArmor knows programs by their paths, and `vm.memfd_noexec = 2`
//! forbids memfds.

use crate::error::Error;
use crate::program::BYTES;
use rustix::fs::{Mode, OFlags, ResolveFlags};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Where [`install_supervisor`] puts it.
const INSTALLED: &str = "/usr/local/libexec/coracle";

/// The file's name has what is in it, so that versions stand beside each other.
fn installed_path(root: &Path) -> PathBuf {
    let sum = BYTES.iter().fold(0xcbf2_9ce4_8422_2325u64, |sum, &b| (sum ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    root.join(&INSTALLED[1..]).join(format!("supervisor-{}-{sum:016x}", env!("CARGO_PKG_VERSION")))
}

/// The installed program, if it is the very same, and nobody but root could have put it there or can change it. Root itself goes without:
/// in a container of root's without a user namespace it could be opened for writing.
pub(crate) fn installed(root: &Path) -> Option<OwnedFd> {
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
