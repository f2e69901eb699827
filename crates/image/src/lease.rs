//! The right to find an image still there later: a locked file that names what it protects.
//!
//! The kernel drops a flock when the last descriptor of it is closed, so a lease can't outlive what needs it, and needs no expiry.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use crate::digest::Digest;
use crate::error::{Error, disk};
use crate::store::{Store, unique};

/// Protects blobs and layers from being collected until it's dropped.
///
/// [`into_fd`](Lease::into_fd) turns it into a descriptor, which may be sent to another process: the lease lives as long as any copy.
#[derive(Debug)]
#[must_use = "dropping a lease ends it"]
pub struct Lease {
    file: Option<File>,
    path: PathBuf,
}

impl Lease {
    pub(crate) fn take<'a>(store: &Store, digests: impl IntoIterator<Item = &'a Digest>) -> Result<Lease, Error> {
        let dir = store.path().join("leases");
        let name = unique();
        // Locked before it gets its name: under that name it's never seen unlocked while somebody needs it.
        let (temporary, path) = (dir.join(format!("{name}.new")), dir.join(&name));
        let _nobody_deletes = store.share()?;
        let create = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            flock(file.as_fd(), FlockOperation::LockExclusive)?;
            file.write_all(lines(digests).as_bytes())?;
            fs::rename(&temporary, &path)?;
            Ok(file)
        };
        match create() {
            Ok(file) => Ok(Lease { file: Some(file), path }),
            Err(e) => {
                let _ = fs::remove_file(&temporary);
                Err(disk::<std::io::Error>("take a lease in", &dir)(e))
            }
        }
    }

    /// Protects more.
    pub(crate) fn add(&mut self, store: &Store, digests: &[&Digest]) -> Result<(), Error> {
        let _nobody_deletes = store.share()?;
        let mut file = self.file.as_ref().expect("a lease has its file until it's dropped");
        file.write_all(lines(digests.iter().copied()).as_bytes()).map_err(disk("add to the lease", &self.path))
    }

    /// What live leases of a store name. Files of dead ones are removed. The caller holds the store's lock alone.
    pub(crate) fn live(store: &Store) -> Result<HashSet<Digest>, Error> {
        let dir = store.path().join("leases");
        let mut named = HashSet::new();
        for entry in fs::read_dir(&dir).map_err(disk("read", &dir))? {
            let path = entry.map_err(disk("read", &dir))?.path();
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(disk("open", &path)(e)),
            };
            match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) if !outlives_its_lock(&mut file) => drop(fs::remove_file(&path)),
                Ok(()) | Err(_) => {
                    let mut text = String::new();
                    file.rewind().map_err(disk("read", &path))?;
                    file.read_to_string(&mut text).map_err(disk("read", &path))?;
                    named.extend(text.lines().filter_map(|line| line.parse::<Digest>().ok()));
                }
            }
        }
        Ok(named)
    }

    /// Makes it last, also when nobody holds it, as long as there is something at this path: a container that is stopped needs its layers.
    /// The file stays then when this value goes.
    ///
    /// # Errors
    /// [`Error`] where the lease can't be written to.
    pub fn hold_while(mut self, path: &std::path::Path) -> Result<PathBuf, Error> {
        let mut file = self.file.as_ref().expect("a lease has its file until it's dropped");
        writeln!(file, "{WHILE}{}", path.display()).map_err(disk("add to the lease", &self.path))?;
        self.file = None;
        Ok(self.path.clone())
    }

    /// What live leases and pins of a store name. The caller holds the store's lock alone.
    pub(crate) fn held(store: &Store) -> Result<HashSet<Digest>, Error> {
        let mut held = Lease::live(store)?;
        held.extend(crate::pin::named(store)?);
        Ok(held)
    }

    /// The file of the lease; it may go when the lease does.
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// The descriptor that holds the lease. The file stays; whoever collects removes it when its lock is free.
    pub fn into_fd(mut self) -> OwnedFd {
        self.file.take().expect("a lease has its file until it's dropped").into()
    }
}

/// What begins a line that names a path.
const WHILE: &str = "while ";

/// Whether a lease names a path that is there: then it's needed though nobody holds it.
fn outlives_its_lock(file: &mut File) -> bool {
    let mut text = String::new();
    file.read_to_string(&mut text).is_ok()
        && text.lines().filter_map(|line| line.strip_prefix(WHILE)).any(|path| std::path::Path::new(path).exists())
}

fn lines<'a>(digests: impl IntoIterator<Item = &'a Digest>) -> String {
    digests.into_iter().map(|digest| format!("{digest}\n")).collect()
}

impl AsFd for Lease {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_ref().expect("a lease has its file until it's dropped").as_fd()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.path);
        }
    }
}
