//! The content-addressed store: a directory that many processes share without a server.
//!
//! # Format 1
//!
//! Changing any of this changes the format on disk: raise [`Store::FORMAT`].
//!
//! ```text
//! STORE/                     0700, of one user
//!   version                  the line `coracle-store 1`; a newer number is refused, whatever follows the line is ignored
//!   lock                     flock: shared by who takes a lease; exclusive by who deletes, for milliseconds
//!   blobs/sha256/<hex>       manifests, indexes, configs, layers as registries have them; also blobs/sha512/. Never changed
//!   images/<hex>.json        what a reference means for a platform; <hex> is the sha256 of "<reference> <platform>"
//!   ingest/<algorithm>-<hex>.partial
//!                            the beginning of a blob; its flock is the right to fetch that blob and to unpack that layer
//!   leases/<pid>-<n>-<time>  flocked as long as somebody needs what its lines name: digests, one a line
//! ```
//!
//! Other parts of Coracle may keep directories beside these.
//!
//! * **A blob is renamed into place** when its length and digest were right, and after the sink took it as a layer. It's hashed again
//!   whenever it's read, so a blob that a power cut damaged is found, removed, and fetched anew.
//! * **A record in `images/` is the proof of an image**: it's written (to a temporary name, synced, renamed, directory synced) after
//!   one `syncfs(2)` of the store's file system, so what it names survives a power cut.
//! * **Locks are flocks**, so that nothing stays locked by a process that is gone. After taking one, who took it checks that the path
//!   still leads to the file it locked: the one before may have renamed it.
//! * A `.partial` without a lock is what an interrupted pull left. The next pull of the blob continues after it.
//!
//! A record is JSON: `{"reference", "platform", "resolved", "manifest"}`: `resolved` is the digest that the registry gave for the
//! reference (an index's or a manifest's), `manifest` that of the manifest for the platform. Unknown members are ignored.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FlockOperation, flock, syncfs};
use serde::{Deserialize, Serialize};

use crate::config::{CONFIG_MAX, ImageConfig};
use crate::digest::{Algorithm, Digest};
use crate::error::{Error, disk, shortened};
use crate::image::Image;
use crate::ingest::{Begin, Flow, Ingest, Prepared, prepare};
use crate::lease::Lease;
use crate::manifest::{Document, MANIFEST_MAX, Manifest};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::sink::{LayerInfo, LayerSink};

/// A directory of images, shared by all processes of one user. Cloning is cheap.
///
/// The format on disk is described in `docs/state-on-disk.md` and at the head of this module's source.
///
/// ```
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?;
/// # let dir = dir.path().join("store");
/// use coracle_image::{Platform, Store};
///
/// let store = Store::open(dir)?;
/// assert!(store.images()?.is_empty());
/// assert!(store.find(&"debian:12".parse()?, &Platform::host())?.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    handle: File,
}

/// What a reference meant when it was last asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    reference: String,
    platform: String,
    resolved: String,
    manifest: String,
}

impl Record {
    pub(crate) fn new(reference: &Reference, platform: &Platform, resolved: &Digest, manifest: &Digest) -> Record {
        Record {
            reference: reference.to_string(),
            platform: platform.to_string(),
            resolved: resolved.to_string(),
            manifest: manifest.to_string(),
        }
    }

    #[cfg(feature = "registry")]
    pub(crate) fn resolved(&self) -> Option<Digest> {
        self.resolved.parse().ok()
    }
}

impl Store {
    /// The format that this version writes, and the newest that it reads.
    pub const FORMAT: u32 = 1;

    /// Opens a store, making the directory (0700) and what is in it where they're missing.
    ///
    /// # Errors
    /// [`Error::StoreVersion`] for a store of a newer version, [`Error::StoreOwner`] for another user's, [`Error::Disk`].
    pub fn open(dir: impl Into<PathBuf>) -> Result<Store, Error> {
        let dir = dir.into();
        let make = |path: &Path| {
            let mut builder = DirBuilder::new();
            builder.recursive(true).mode(0o700).create(path).map_err(disk("make the directory", path))
        };
        make(&dir)?;
        let handle = File::open(&dir).map_err(disk("open", &dir))?;
        let owner = handle.metadata().map_err(disk("look at", &dir))?.uid();
        let uid = rustix::process::geteuid().as_raw();
        if owner != uid {
            return Err(Error::StoreOwner { path: dir, owner, uid });
        }
        let store = Store(Arc::new(Inner { dir, handle }));
        store.check_version()?;
        for name in ["blobs/sha256", "images", "ingest", "leases"] {
            make(&store.path().join(name))?;
        }
        Ok(store)
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        &self.0.dir
    }

    fn check_version(&self) -> Result<(), Error> {
        let path = self.path().join("version");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return self.write_file(&path, format!("coracle-store {}\n", Store::FORMAT).as_bytes());
            }
            Err(e) => return Err(disk("read", &path)(e)),
        };
        let line = text.lines().next().unwrap_or_default();
        let number = line.strip_prefix("coracle-store ").and_then(|n| n.parse::<u32>().ok());
        match number {
            Some(number) if number <= Store::FORMAT => Ok(()),
            _ => Err(Error::StoreVersion { path: self.path().to_owned(), found: shortened(line), known: Store::FORMAT }),
        }
    }

    /// All images, sorted by reference. What was damaged is left out; the next pull mends it.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn images(&self) -> Result<Vec<Image>, Error> {
        let dir = self.path().join("images");
        let mut images = Vec::new();
        for entry in fs::read_dir(&dir).map_err(disk("read", &dir))? {
            let path = entry.map_err(disk("read", &dir))?.path();
            if path.extension().is_some_and(|e| e == "json")
                && let Some(record) = read_record(&path)?
                && let Some(image) = self.load(&record)?
            {
                images.push(image);
            }
        }
        images.sort_by(|a, b| (&a.reference, &a.platform).cmp(&(&b.reference, &b.platform)));
        Ok(images)
    }

    /// The image that a reference meant when it was last pulled or imported for a platform.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn find(&self, reference: &Reference, platform: &Platform) -> Result<Option<Image>, Error> {
        match self.record(reference, platform)? {
            Some(record) => self.load(&record),
            None => Ok(None),
        }
    }

    /// Brings the layers of an image into a sink, from the store alone.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where neither the sink nor the store has a layer; [`Error::Sink`], [`Error::Disk`].
    pub fn unpack(&self, image: &Image, sink: &dyn LayerSink) -> Result<(), Error> {
        for layer in &image.layers {
            let prepared = loop {
                match prepare(self, layer, sink, &image.reference.to_string())? {
                    Prepared::Busy => std::thread::sleep(PATIENCE),
                    prepared => break prepared,
                }
            };
            if let Prepared::Missing(ingest) = prepared {
                ingest.discard();
                return Err(Error::Corrupt {
                    image: image.reference.to_string(),
                    part: format!("layer {}", layer.index),
                    expected: layer.digest.to_string(),
                    got: "nothing: its blob isn't in the store".into(),
                });
            }
        }
        Ok(())
    }

    /// Whether all layers of an image are in the sink.
    pub fn is_unpacked(&self, image: &Image, sink: &dyn LayerSink) -> bool {
        image.layers.iter().all(|layer| sink.contains(layer))
    }

    /// Protects an image from being collected, as long as the lease is held.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn lease(&self, image: &Image) -> Result<Lease, Error> {
        let layers = image.layers.iter().flat_map(|l| [&l.digest, &l.diff_id]);
        Lease::take(self, [&image.digest].into_iter().chain(layers))
    }

    /// Opens a blob, if it's there. It isn't hashed.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<File>, Error> {
        let path = self.blob_path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(disk("open", &path)(e)),
        }
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path().join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    /// A small blob, whole, if it's there and undamaged. A damaged one is removed.
    pub(crate) fn read(&self, digest: &Digest, max: u64) -> Result<Option<Vec<u8>>, Error> {
        let path = self.blob_path(digest);
        let Some(file) = self.blob(digest)? else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes).map_err(disk("read", &path))?;
        if Digest::of(digest.algorithm(), &bytes) == *digest {
            return Ok(Some(bytes));
        }
        tracing::warn!(path = %path.display(), "a blob is damaged and was removed");
        fs::remove_file(&path).map_err(disk("remove the damaged", &path))?;
        Ok(None)
    }

    /// Keeps a small blob whose digest the caller knows to be right.
    pub(crate) fn put(&self, digest: &Digest, bytes: &[u8], image: &str, part: &str) -> Result<(), Error> {
        let size = bytes.len() as u64;
        loop {
            match self.small(digest, size, size, image, part)? {
                Small::There(_) => return Ok(()),
                Small::Busy => std::thread::sleep(PATIENCE),
                Small::Missing(ingest) => {
                    let mut flow = Flow::from_start(ingest)?;
                    flow.take(bytes)?;
                    return flow.finish();
                }
            }
        }
    }

    /// Finds out what there is of a small blob.
    pub(crate) fn small(&self, digest: &Digest, size: u64, max: u64, image: &str, part: &str) -> Result<Small, Error> {
        if let Some(bytes) = self.read(digest, max)? {
            return Ok(Small::There(bytes));
        }
        let Begin::Ready(ingest) = Ingest::begin(self, digest, size, image, part)? else {
            return Ok(Small::Busy);
        };
        // Whoever had the lock a moment ago may have brought it.
        Ok(match self.read(digest, max)? {
            Some(bytes) => {
                ingest.discard();
                Small::There(bytes)
            }
            None => Small::Missing(ingest),
        })
    }

    pub(crate) fn record(&self, reference: &Reference, platform: &Platform) -> Result<Option<Record>, Error> {
        read_record(&self.record_path(&reference.to_string(), &platform.to_string()))
    }

    fn record_path(&self, reference: &str, platform: &str) -> PathBuf {
        let name = Digest::of(Algorithm::Sha256, format!("{reference} {platform}").as_bytes());
        self.path().join("images").join(format!("{}.json", name.hex()))
    }

    fn load(&self, record: &Record) -> Result<Option<Image>, Error> {
        let (Ok(reference), Ok(platform), Ok(digest)) =
            (record.reference.parse(), record.platform.parse(), record.manifest.parse::<Digest>())
        else {
            return Ok(None);
        };
        let Some(manifest) = self.read(&digest, MANIFEST_MAX)? else {
            return Ok(None);
        };
        let Ok(Document::Manifest(manifest)) = Document::parse(&manifest) else {
            return Ok(None);
        };
        let Some(config) = self.read(&manifest.config.digest, CONFIG_MAX)? else {
            return Ok(None);
        };
        Ok(image(reference, platform, digest, &manifest, &config).ok())
    }

    /// Makes everything durable that was written, then says what the reference means.
    pub(crate) fn publish(&self, record: &Record) -> Result<(), Error> {
        syncfs(&self.0.handle).map_err(disk("sync the file system of", self.path()))?;
        let path = self.record_path(&record.reference, &record.platform);
        let json = serde_json::to_vec_pretty(record).expect("four strings are JSON");
        self.write_file(&path, &json)
    }

    /// Writes a whole file, durably: other processes see the old or the new one.
    fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let temporary = path.with_extension(format!("{}.new", unique()));
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&temporary, path)?;
            File::open(path.parent().expect("a file of the store is in a directory"))?.sync_all()
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&temporary);
            disk("write", path)(e)
        })
    }

    /// The flock of the whole store, shared: nobody deletes while it's held.
    pub(crate) fn share(&self) -> Result<File, Error> {
        let path = self.path().join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(disk("open", &path))?;
        flock(file.as_fd(), FlockOperation::LockShared).map_err(disk("lock", &path))?;
        Ok(file)
    }
}

/// What there is of a small blob.
pub(crate) enum Small {
    #[cfg_attr(not(feature = "registry"), expect(dead_code, reason = "only a pull wants the bytes"))]
    There(Vec<u8>),
    /// Somebody else is bringing it: ask again.
    Busy,
    /// Bringing it is the caller's right now.
    Missing(Ingest),
}

/// How long to wait before asking again for a lock that somebody has.
pub(crate) const PATIENCE: Duration = Duration::from_millis(10);

/// An image by its documents.
pub(crate) fn image(reference: Reference, platform: Platform, digest: Digest, manifest: &Manifest, config: &[u8]) -> Result<Image, Error> {
    let name = reference.to_string();
    let document = |part: &str| {
        let (image, part) = (name.clone(), part.to_owned());
        move |source| Error::Document { image, part, source }
    };
    let config = ImageConfig::parse(config).map_err(document("the config"))?;
    if let Some(found) = &config.platform
        && !platform.runs(found)
    {
        return Err(Error::NoSuchPlatform { image: name, wanted: Box::new(platform), available: vec![found.clone()] });
    }
    let layers: Vec<LayerInfo> = manifest.layers(&config).map_err(document("the manifest"))?;
    Ok(Image { reference, platform, digest, config, layers })
}

fn read_record(path: &Path) -> Result<Option<Record>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(disk("read", path)(e)),
    }
}

/// A name that no other file of the store has, not even one of a process in another pid namespace.
pub(crate) fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("{}-{}-{now:x}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path().join("a/store")).unwrap();
        (dir, store)
    }

    #[test]
    fn a_store_is_private_and_opens_twice() {
        let (_dir, store) = store();
        assert_eq!(fs::metadata(store.path()).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(store.path().join("version")).unwrap(), "coracle-store 1\n");
        Store::open(store.path()).unwrap();
    }

    #[test]
    fn a_store_of_a_newer_version_is_refused() {
        let (_dir, store) = store();
        fs::write(store.path().join("version"), "coracle-store 2\nmore\n").unwrap();
        let error = Store::open(store.path()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the store {} has the format \"coracle-store 2\", and this version of Coracle knows 1", store.path().display())
        );
        assert_eq!(error.remedy().as_deref(), Some("use a newer version of Coracle, or another directory for the store"));
    }

    /// Needs root, to make a directory another user's.
    #[test]
    fn another_users_store_is_refused() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP: root, to make a directory another user's");
            return;
        }
        let (_dir, store) = store();
        std::os::unix::fs::chown(store.path(), Some(12345), None).unwrap();
        let error = Store::open(store.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("the store {} belongs to uid 12345, and this process is uid 0", store.path().display()));
        assert_eq!(error.remedy().as_deref(), Some("use another directory for the store"));
    }

    #[test]
    fn a_disk_error_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Store::open(file.join("store")).unwrap_err();
        assert_eq!(error.to_string(), format!("can't make the directory {}/store: Not a directory (os error 20)", file.display()));
    }

    #[test]
    fn a_damaged_blob_is_found_and_removed() {
        let (_dir, store) = store();
        let digest = Digest::sha256(b"abc");
        store.put(&digest, b"abc", "x", "the config").unwrap();
        assert_eq!(store.read(&digest, 3).unwrap().as_deref(), Some(&b"abc"[..]));
        assert_eq!(fs::read_dir(store.path().join("ingest")).unwrap().count(), 0);
        fs::write(store.blob_path(&digest), "").unwrap();
        assert_eq!(store.read(&digest, 3).unwrap(), None);
        assert!(!store.blob_path(&digest).exists());
    }

    #[test]
    fn a_lease_is_alive_as_long_as_its_descriptor() {
        let (_dir, store) = store();
        let digest = Digest::sha256(b"");
        let lease = Lease::take(&store, [&digest]).unwrap();
        let dir = store.path().join("leases");
        let files = || fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect::<Vec<_>>();
        let path = files().pop().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{digest}\n"));
        let free = || flock(File::open(&path).unwrap().as_fd(), FlockOperation::NonBlockingLockExclusive).is_ok();
        assert!(!free());
        // Handed on, as to a supervisor: neither the guard's end nor the file's name ends it.
        let fd = lease.into_fd();
        assert!(!free());
        drop(fd);
        assert!(free());
        drop(Lease::take(&store, [&digest]).unwrap());
        assert_eq!(files(), [path]);
    }
}
