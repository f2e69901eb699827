//! Where removed things go first: a rename is done at once, and unlinking may take its time.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags, flock};

use crate::error::{Error, disk};
use crate::store::{Store, unique};

impl Store {
    /// Removes a file of the store; false where somebody else did.
    pub(crate) fn throw_away(&self, path: &Path) -> Result<bool, Error> {
        match fs::rename(path, self.path().join("trash").join(unique())) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(e) => Err(disk("remove", path)(e)),
        }
    }

    /// Whether something waits in the trash: what this or another process removed and nobody has unlinked yet.
    pub fn has_trash(&self) -> bool {
        fs::read_dir(self.path().join("trash")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Unlinks what was removed, by whomever. Blocks for as long as that takes; where another process is at it, until that is done.
    /// Whoever removes calls it, on a thread that may wait, and so does whoever opens a store in which somebody was killed.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn empty_trash(&self) -> Result<(), Error> {
        let dir = self.path().join("trash");
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&dir, flags, Mode::empty()).map_err(disk("open", &dir))?;
        while let Err(errno) = flock(&lock, FlockOperation::LockExclusive) {
            if errno != rustix::io::Errno::INTR {
                return Err(disk("lock", &dir)(errno));
            }
        }
        for entry in fs::read_dir(&dir).map_err(disk("read", &dir))? {
            let path = entry.map_err(disk("read", &dir))?.path();
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(disk("remove", &path)(e)),
                _ => {}
            }
        }
        Ok(())
    }
}
