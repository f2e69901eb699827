//! Removing layers that nobody needs, and checking those that stay.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use coracle_image::{Digest, Fault, Needs, Swept, SweptKind};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result, show};
use crate::ownership::{Ownership, read_ownership};
use crate::record::{self, Kinds};
use crate::remove::remove_tree;
use crate::store::{LayerStore, is_complete, nonce};

/// What a check of unpacked layers looked at, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct LayersChecked {
    /// How many layers were compared with their records.
    pub layers: u64,
    /// How many files are in them.
    pub files: u64,
    /// How many of them weren't read, because they belong to other users of a container.
    pub unread: u64,
    /// How many layers have no record: an older version of Coracle unpacked them.
    pub unrecorded: u64,
    /// What is wrong, path by path.
    pub faults: Vec<Fault>,
}

impl LayerStore {
    /// Compares every unpacked layer with what was recorded when it was unpacked: files, links, modes, owners, times, contents, extended attributes.
    /// With `repair`, layers with faults are moved away, unless `used` says that somebody uses them: the next pull, load or start
    /// unpacks them anew. Reads everything.
    ///
    /// # Errors
    /// [`Error::Io`]; damage is no error.
    pub fn check(&self, repair: bool, used: impl Fn() -> std::result::Result<Needs, coracle_image::Error>) -> Result<LayersChecked> {
        let mut checked = LayersChecked::default();
        for (directory, digest, kind) in self.directories()? {
            match is_complete(&directory) {
                Ok(true) => {}
                Ok(false) => continue,
                // It may be whole, so it isn't moved away.
                Err(error) => {
                    checked.faults.push(Fault::new(&directory, format!("can't be read: {error}")));
                    continue;
                }
            }
            let faults = match self.check_one(&directory, &mut checked) {
                Ok(faults) => faults,
                // Removed since it was listed.
                Err(_) if !directory.exists() => continue,
                Err(error) => vec![Fault::new(&directory, format!("can't be read: {error}"))],
            };
            let mut repaired = false;
            if repair && !faults.is_empty() {
                let used = used().map_err(|error| Error::Store { store: directory.clone(), what: error.to_string() })?;
                let free = match kind {
                    SweptKind::Chain => used.may_lose_chain(&digest),
                    _ => used.may_lose_layer(&digest),
                };
                repaired = free && self.throw_away(&directory)?;
            }
            checked.faults.extend(faults.into_iter().map(|mut fault| {
                fault.repaired = repaired;
                fault
            }));
        }
        Ok(checked)
    }

    fn check_one(&self, directory: &Path, checked: &mut LayersChecked) -> Result<Vec<Fault>> {
        let path = directory.join(record::NAME);
        let recorded = match fs::read(&path) {
            Ok(recorded) => recorded,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                checked.unrecorded += 1;
                return Ok(Vec::new());
            }
            Err(error) => return Err(Error::io("read", path, error)),
        };
        let options = self.options();
        let mut given = HashSet::new();
        if options.ownership == Ownership::Defer
            && let Some(deferred) = read_ownership(directory)?
        {
            let bytes = |path: PathBuf| std::os::unix::ffi::OsStringExt::into_vec(path.into_os_string());
            given.extend(deferred.owners.into_iter().map(|owner| bytes(owner.path)));
        }
        let root = directory.join("fs");
        let compared = record::compare(&root, &recorded, Kinds::of(options), options.ownership != Ownership::Defer, &given)?;
        checked.layers += 1;
        checked.files += compared.files;
        checked.unread += compared.unread;
        let fault = |(path, what): (Vec<u8>, String)| {
            let path = if path.is_empty() { root.clone() } else { root.join(show(&path)) };
            Fault::new(path, what)
        };
        Ok(compared.faults.into_iter().map(fault).collect())
    }

    /// Moves what isn't needed into the trash.
    pub(crate) fn collect(&self, needs: &Needs) -> Result<Vec<Swept>> {
        let mut swept = Vec::new();
        for (directory, digest, kind) in self.directories()? {
            let may_go = match kind {
                SweptKind::Chain => needs.may_lose_chain(&digest),
                _ => needs.may_lose_layer(&digest),
            };
            // What a crash of the machine made void helps nobody.
            let void = !needs.is_partial() && !is_complete(&directory)?;
            if may_go || void {
                let bytes = self.bytes_of(&directory);
                if self.throw_away(&directory)? {
                    let (kind, digest) = if may_go { (kind, Some(digest)) } else { (SweptKind::Leftover, None) };
                    swept.push(Swept::new(kind, digest, bytes));
                }
            }
        }
        if !needs.is_partial() {
            self.forget_diff_ids(needs)?;
        }
        Ok(swept)
    }

    /// Removes what is known of blobs whose layers nobody needs, and what a killed process left there.
    fn forget_diff_ids(&self, needs: &Needs) -> Result<()> {
        let directory = self.path().join("diffids");
        for entry in fs::read_dir(&directory).map_err(|error| Error::io("read", &directory, error))? {
            let path = entry.map_err(|error| Error::io("read", &directory, error))?.path();
            let diff_id = fs::read_to_string(&path).ok().and_then(|text| text.trim_end().parse().ok());
            if path.extension().is_some() || diff_id.is_none_or(|diff_id| needs.may_lose_layer(&diff_id)) {
                self.throw_away(&path)?;
            }
        }
        Ok(())
    }

    /// Whether something waits in the trash.
    pub fn has_trash(&self) -> bool {
        fs::read_dir(self.trash()).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Removes the files of what was removed, by whomever. Blocks for as long as that takes; where another process is at it, until
    /// that is done. `remove` removes one directory: [`remove_tree`] for files that are this user's, or something that enters the
    /// user namespace whose users have files in it.
    ///
    /// # Errors
    /// The first of `remove`'s; the others are tried nevertheless.
    pub fn empty_trash<E: From<Error>>(&self, remove: impl Fn(&Path) -> std::result::Result<(), E>) -> std::result::Result<(), E> {
        let trash = self.trash();
        let fail = |errno: Errno| Error::io("lock", &trash, errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&trash, flags, Mode::empty()).map_err(fail)?;
        while let Err(errno) = rustix::fs::flock(&lock, FlockOperation::LockExclusive) {
            if errno != Errno::INTR {
                return Err(fail(errno).into());
            }
        }
        let mut first = Ok(());
        for entry in fs::read_dir(&trash).map_err(|error| Error::io("read", &trash, error))? {
            let path = entry.map_err(|error| Error::io("read", &trash, error))?.path();
            let removed = remove(&path);
            if first.is_ok() {
                first = removed;
            }
        }
        first
    }

    /// All layers and chains that have a directory, whole or not.
    fn directories(&self) -> Result<Vec<(PathBuf, Digest, SweptKind)>> {
        let mut all = Vec::new();
        let layers = self.path();
        for (part, algorithm, kind) in [
            ("sha256", "sha256", SweptKind::Layer),
            ("sha512", "sha512", SweptKind::Layer),
            ("chains/sha256", "sha256", SweptKind::Chain),
            ("snapshots", "sha256", SweptKind::Layer),
        ] {
            let directory = layers.join(part);
            for entry in fs::read_dir(&directory).map_err(|error| Error::io("read", &directory, error))? {
                let entry = entry.map_err(|error| Error::io("read", &directory, error))?;
                if let Ok(digest) = format!("{algorithm}:{}", entry.file_name().to_string_lossy()).parse() {
                    all.push((entry.path(), digest, kind));
                }
            }
        }
        Ok(all)
    }

    fn trash(&self) -> PathBuf {
        self.path().join("trash")
    }

    /// Moves a directory into the trash; false where somebody else did.
    pub(crate) fn throw_away(&self, directory: &Path) -> Result<bool> {
        match fs::rename(directory, self.trash().join(nonce())) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::io("remove", directory, error)),
        }
    }
}

/// What removes one directory of the trash where all files are this user's.
impl LayerStore {
    /// [`empty_trash`](LayerStore::empty_trash) for a store whose files are all this user's: root's, or one with a single id.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn empty_own_trash(&self) -> Result<()> {
        self.empty_trash(remove_tree)
    }
}
