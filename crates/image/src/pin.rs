//! What stays without a process that holds it: a file that names digests, until it's removed.
//!
//! Something that lies on an image and is kept (a snapshot of a container) has no process that could hold a lease. Its pin holds the image
//! with all that it leads to, and the thing itself by a digest of its own.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::error::{Error, disk};
use crate::lease::Lease;
use crate::store::Store;

impl Store {
    /// Protects what has these digests, and what manifests among them lead to, until [`unpin`](Store::unpin). `id` is a digest of the
    /// caller's own by which it's taken back; it is protected, too. The caller holds what it pins by a [lease](Store::lease_of).
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn pin<'a>(&self, id: &'a Digest, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), Error> {
        let _nobody_deletes = self.share()?;
        let lines: String = std::iter::once(id).chain(digests).map(|digest| format!("{digest}\n")).collect();
        self.write_file(&path(self, id), lines.as_bytes())
    }

    /// Takes a pin back, unless somebody holds `id` by a lease or another pin; whether there was one. `what` is what errors call it.
    ///
    /// # Errors
    /// [`Error::InUse`] where somebody does; [`Error::Disk`].
    pub fn unpin(&self, id: &Digest, what: &str) -> Result<bool, Error> {
        let _alone = self.alone()?;
        let in_use = |why: &str| Err(Error::InUse { image: what.to_owned(), why: why.into() });
        if Lease::live(self)?.contains(id) {
            return in_use("a container that was started from it runs");
        }
        let own = path(self, id);
        for other in files(self)? {
            if other != own && read(&other)?.contains(id) {
                return in_use("another snapshot lies on it");
            }
        }
        match fs::remove_file(&own) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(disk("remove", &own)(error)),
        }
    }
}

/// What all pins name. The caller holds the store's lock alone.
pub(crate) fn named(store: &Store) -> Result<HashSet<Digest>, Error> {
    let mut named = HashSet::new();
    for path in files(store)? {
        named.extend(read(&path)?);
    }
    Ok(named)
}

fn files(store: &Store) -> Result<Vec<PathBuf>, Error> {
    let directory = store.path().join("pins");
    let entries = match fs::read_dir(&directory) {
        Ok(entries) => entries,
        // A store of an older version that nothing was pinned in.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(disk("read", &directory)(error)),
    };
    entries.map(|entry| Ok(entry.map_err(disk("read", &directory))?.path())).collect()
}

fn read(path: &Path) -> Result<HashSet<Digest>, Error> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(HashSet::new()),
        Err(error) => Err(disk("read", path)(error)),
    }
}

fn path(store: &Store, id: &Digest) -> PathBuf {
    store.path().join("pins").join(id.hex())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::NoSink;

    #[test]
    fn what_is_pinned_stays_until_the_pin_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("store")).unwrap();
        let (blob, id, above) = (Digest::sha256(b"blob"), Digest::sha256(b"id"), Digest::sha256(b"above"));
        store.put(&blob, b"blob", "x", "the config").unwrap();
        store.pin(&id, [&blob]).unwrap();
        store.pin(&above, [&id]).unwrap();
        store.prune(true, &NoSink).unwrap();
        assert!(store.blob(&blob).unwrap().is_some());
        let in_use = |result: Result<bool, Error>| matches!(result, Err(Error::InUse { .. }));
        assert!(in_use(store.unpin(&id, "the snapshot")));
        assert!(store.unpin(&above, "the other").unwrap());
        let lease = store.lease_of([&id]).unwrap();
        assert!(in_use(store.unpin(&id, "the snapshot")));
        drop(lease);
        assert!(store.unpin(&id, "the snapshot").unwrap());
        assert!(!store.unpin(&id, "the snapshot").unwrap());
        store.prune(true, &NoSink).unwrap();
        assert!(store.blob(&blob).unwrap().is_none());
    }
}
