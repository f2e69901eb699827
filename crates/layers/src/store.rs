//! Unpacked layers on disk, shared by many processes without a server.
//!
//! ```text
//! DIR/layers/                       0700: names and set-user-id programs in it are nobody else's business
//!   store.json                      version, ownership and flavour of everything in here
//!   sha256/<diffID>/                one layer; appears by a rename when it's whole
//!     fs/                           its files: a lower directory of overlays
//!     meta.json                     the LayerReport
//!     ownership                     what is left to do in a user namespace, if anything (see ownership.rs)
//!     files                         every path in `fs` as it was unpacked (see record.rs)
//!     complete                      the marker: without it the directory is void
//!   chains/sha256/<chainID>/        what one layer needs corrected above certain others (see assembly.rs); the same inside
//!   snapshots/<hex>/                a container's changes, kept (see snapshot.rs); the same inside, and snapshot.json
//!   diffids/<algorithm>-<hex>       the diffID of a blob that was unpacked here once, and its line feed: needn't be hashed again
//!   locks/<diffID>.lock             held (flock) by whoever unpacks that layer
//!   trash/                          was removed; whoever comes by unlinks it
//!   tmp-*/                          being unpacked, or left by somebody who died: the lock on it tells
//! ```
//!
//! The marker begins as `boot <id>`: what stands in the page cache is right until this kernel stops. [`LayerStore::sync`] writes
//! everything to disk once per image and turns it into `synced`. After a crash a marker of another boot counts as none, so files that
//! never reached the disk can't pass for a layer.
//!
//! Changing this changes the format on disk; raise `VERSION`.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs;
use std::hash::{BuildHasher, Hasher as _};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use coracle_image::{Digest, Durability, LayerInfo, LayerSink, LayerWriter, Needs, SinkError, Swept};
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ownership::{Ledger, Ownership};
use crate::record::{self, Kinds, Record};
use crate::remove::remove_tree;
use crate::unpack::{LayerReport, Options, Pipeline, Skipped, Turns, open_root};
use crate::whiteout::Flavour;

/// The format on disk.
const VERSION: u32 = 1;

/// Layers on disk, by diffID. Cheap to clone; use it from any thread.
///
/// As a [`LayerSink`] it unpacks layers while they arrive, several at once, each once on this machine: other processes that want the
/// same layer wait for it. What goes wrong (a wrong diffID, a full disk, a malformed archive, death) leaves nothing that counts.
///
/// ```
/// use coracle_image::{Digest, LayerInfo, LayerSink};
/// use coracle_layers::{LayerStore, Options, Ownership};
///
/// # let dir = std::env::temp_dir().join(format!("coracle-store-doc-{}", std::process::id()));
/// # std::fs::create_dir_all(&dir)?;
/// let store = LayerStore::open(&dir, Options::user(Ownership::Squash))?;
/// let archive = vec![0; 1024]; // an empty archive: two zero blocks
/// let digest = Digest::sha256(&archive);
/// let layer = LayerInfo::new(0, digest.clone(), digest.clone(), 1024, "application/vnd.oci.image.layer.v1.tar");
/// let mut writer = store.begin(&layer)?;
/// writer.write_all(&archive)?;
/// writer.finish()?;
/// assert!(store.contains(&layer));
/// assert!(store.paths(&[digest])?[0].is_dir());
/// # coracle_layers::remove_tree(&dir)?;
/// # Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
/// ```
#[derive(Debug, Clone)]
#[must_use]
pub struct LayerStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    layers: PathBuf,
    options: Options,
    turns: Arc<Turns>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Header {
    version: u32,
    ownership: Ownership,
    flavour: Flavour,
}

/// All that a header of any version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

impl LayerStore {
    /// Opens the layers below `directory` (in `directory/layers`), making what is missing, and removes what dead processes left.
    ///
    /// # Errors
    /// [`Error::Store`] when the store is another user's, or was made with another ownership or flavour, or by a newer version;
    /// [`Error::Io`].
    pub fn open(directory: impl AsRef<Path>, options: Options) -> Result<LayerStore> {
        let directory = directory.as_ref();
        let directory = std::path::absolute(directory).map_err(|error| Error::io("find", directory, error))?;
        let layers = directory.join("layers");
        for path in [
            &layers,
            &layers.join("sha256"),
            &layers.join("sha512"),
            &layers.join("chains/sha256"),
            &layers.join("diffids"),
            &layers.join("locks"),
            &layers.join("trash"),
            &layers.join("snapshots"),
        ] {
            fs::create_dir_all(path).map_err(|error| Error::io("make the directory", path, error))?;
        }
        if is_overlay(&layers)? {
            return Err(Error::OnOverlay { store: layers });
        }
        let refuse = |what: String| Err(Error::Store { store: layers.clone(), what });
        let stat = rustix::fs::stat(&layers).map_err(|errno| Error::io("look at", &layers, errno))?;
        if stat.st_uid != rustix::process::geteuid().as_raw() {
            return refuse(format!("they are user {}'s", stat.st_uid));
        }
        if stat.st_mode & 0o7777 != 0o700 {
            rustix::fs::chmod(&layers, Mode::RWXU).map_err(|errno| Error::io("make private", &layers, errno))?;
        }
        let header = Header { version: VERSION, ownership: options.ownership, flavour: options.flavour };
        let path = layers.join("store.json");
        if !path.exists() {
            let temporary = layers.join(format!("store.json.{}", nonce()));
            let text = serde_json::to_vec(&header).map_err(|error| Error::io("write", &path, error))?;
            // On the disk before it has its name: a power cut may leave a name without contents, and without this no layer can be read.
            let write = || {
                let mut file = fs::File::create_new(&temporary)?;
                file.write_all(&text)?;
                file.sync_all()
            };
            write().map_err(|error| Error::io("write", &temporary, error))?;
            let from = rustix::fs::CWD;
            let renamed = rustix::fs::renameat_with(from, &temporary, from, &path, RenameFlags::NOREPLACE);
            let _ = fs::remove_file(&temporary);
            match renamed {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::io("write", path, errno)),
            }
        }
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        match serde_json::from_slice::<Versioned>(&text) {
            Ok(Versioned { version }) if version > VERSION => {
                return Err(Error::Version { store: layers, found: version, known: VERSION });
            }
            Ok(_) => {}
            Err(_) => return refuse("their store.json is damaged".into()),
        }
        match serde_json::from_slice::<Header>(&text) {
            Ok(found) if (found.ownership, found.flavour) == (header.ownership, header.flavour) => {}
            Ok(found) => {
                return refuse(format!(
                    "they were unpacked as {:?}/{:?}, and {:?}/{:?} is wanted",
                    found.ownership, found.flavour, header.ownership, header.flavour
                ));
            }
            Err(_) => return refuse("their store.json is damaged".into()),
        }
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let inner = Inner { layers, options, turns: Arc::new(Turns::new(processors)) };
        inner.sweep();
        Ok(LayerStore { inner: Arc::new(inner) })
    }

    /// The directories of an image's files, **the topmost first** as overlay wants them, for the diffIDs of its config, **the base
    /// first** as they stand there (OCI image-spec, config.md, `rootfs.diff_ids`).
    ///
    /// There may be fewer than diffIDs (a layer twice in an image counts once; nothing shows below an opaque root) or more: a layer
    /// that leaves out metadata of directories below it, or hard-links a file below it, gets a thin layer above itself that puts
    /// this right. It's made once per chain.
    ///
    /// # Errors
    /// [`Error::Missing`] when a layer isn't unpacked; [`Error::Below`] when a hard link's target is in no layer below; [`Error::Io`].
    pub fn paths(&self, diff_ids: &[Digest]) -> Result<Vec<PathBuf>> {
        crate::assembly::paths(self, diff_ids)
    }

    /// The directory that holds the layers.
    pub fn path(&self) -> &Path {
        &self.inner.layers
    }

    /// Whether the layer is unpacked, whole. A layer that can't be looked at now is none: [`report`](LayerStore::report) says why.
    pub fn has(&self, diff_id: &Digest) -> bool {
        is_complete(&self.layer(diff_id)).unwrap_or(false)
    }

    /// What was in a layer.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Io`], and [`Error::Store`] when the record is damaged.
    pub fn report(&self, diff_id: &Digest) -> Result<LayerReport> {
        let directory = self.layer(diff_id);
        if !is_complete(&directory)? {
            return Err(self.missing(diff_id));
        }
        let path = directory.join("meta.json");
        let text = fs::read(&path).map_err(|error| Error::io("read", &path, error))?;
        let damaged = |what: String| Error::Store { store: directory.clone(), what };
        let meta: Meta = serde_json::from_slice(&text).map_err(|error| damaged(format!("meta.json: {error}")))?;
        meta.into_report().ok_or_else(|| damaged("meta.json holds a path or digest that isn't one".into()))
    }

    /// All layers that are unpacked, in no order.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn list(&self) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        for algorithm in ["sha256", "sha512"] {
            let directory = self.inner.layers.join(algorithm);
            for entry in fs::read_dir(&directory).map_err(|error| Error::io("read", &directory, error))? {
                let entry = entry.map_err(|error| Error::io("read", &directory, error))?;
                if let Ok(digest) = format!("{algorithm}:{}", entry.file_name().to_string_lossy()).parse()
                    && is_complete(&entry.path())?
                {
                    digests.push(digest);
                }
            }
        }
        Ok(digests)
    }

    /// Removes a layer. The caller makes sure that no mount uses it.
    ///
    /// # Errors
    /// [`Error::Io`]; then the layer is gone from the store nevertheless, and the next [`open`](LayerStore::open) tries again to
    /// remove its files.
    pub fn remove(&self, diff_id: &Digest) -> Result<()> {
        self.inner.remove(&self.layer(diff_id))
    }

    /// Makes these layers survive a crash of the machine: one `syncfs(2)` for all of them, nothing if that was done before. Call it
    /// before an image is given a name; without it they are void after a crash, and are unpacked again. With [`Durability::None`] it
    /// does nothing.
    ///
    /// # Errors
    /// [`Error::Io`]; a disk error that happened since the layers were written shows up here.
    pub fn sync(&self, diff_ids: &[Digest]) -> Result<()> {
        self.settle(diff_ids, true)
    }

    /// As [`sync`](LayerStore::sync), where the caller has written the file system to disk since these layers were unpacked:
    /// `coracle-image` does it before it publishes an image ([`Store::is_synced`](coracle_image::Store::is_synced)).
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn synced(&self, diff_ids: &[Digest]) -> Result<()> {
        self.settle(diff_ids, false)
    }

    fn settle(&self, diff_ids: &[Digest], sync: bool) -> Result<()> {
        if self.inner.options.durability == Durability::None {
            return Ok(());
        }
        let mut directories: Vec<PathBuf> = diff_ids.iter().map(|diff_id| self.layer(diff_id)).collect();
        directories.extend(Digest::chain(diff_ids).iter().map(|chain_id| self.chain(chain_id)));
        let mut unsettled = Vec::new();
        for directory in directories {
            if matches!(marker(&directory)?, Some(Marker::Boot(_))) && is_complete(&directory)? {
                unsettled.push(directory);
            }
        }
        let directories = unsettled;
        if directories.is_empty() {
            return Ok(());
        }
        if sync {
            sync_file_system(&self.inner.layers)?;
        }
        directories.iter().try_for_each(|directory| mark_synced(directory))
    }

    /// Makes one directory survive a crash of the machine.
    pub(crate) fn settle_directory(&self, directory: &Path) -> Result<()> {
        if self.inner.options.durability == Durability::None || !matches!(marker(directory)?, Some(Marker::Boot(_))) {
            return Ok(());
        }
        sync_file_system(&self.inner.layers)?;
        mark_synced(directory)
    }

    pub(crate) fn missing(&self, diff_id: &Digest) -> Error {
        Error::Missing { diff_id: diff_id.clone(), store: self.inner.layers.clone() }
    }

    /// The directory that holds a layer's `fs`.
    pub(crate) fn layer(&self, diff_id: &Digest) -> PathBuf {
        self.inner.layers.join(diff_id.algorithm().as_str()).join(diff_id.hex())
    }

    pub(crate) fn chain(&self, chain_id: &Digest) -> PathBuf {
        self.inner.layers.join("chains/sha256").join(chain_id.hex())
    }

    pub(crate) fn options(&self) -> &Options {
        &self.inner.options
    }

    /// Where the diffID of a blob is kept.
    fn diff_id_of(&self, blob: &Digest) -> PathBuf {
        self.inner.layers.join("diffids").join(format!("{}-{}", blob.algorithm().as_str(), blob.hex()))
    }

    /// The diffID of a blob that was unpacked here before. A file that a crash of the machine damaged says nothing: it isn't a digest.
    fn known_diff_id(&self, blob: &Digest) -> Option<Digest> {
        fs::read_to_string(self.diff_id_of(blob)).ok()?.strip_suffix('\n')?.parse().ok()
    }

    fn remember_diff_id(&self, blob: &Digest, diff_id: &Digest) {
        let path = self.diff_id_of(blob);
        let temporary = path.with_extension(nonce());
        let written = fs::write(&temporary, format!("{diff_id}\n")).and_then(|()| fs::rename(&temporary, &path));
        // Nothing depends on it: without it the layer is hashed again, should it ever be unpacked again.
        if let Err(error) = written {
            let _ = fs::remove_file(&temporary);
            tracing::debug!(path = %path.display(), %error, "the diffID of a blob can't be kept");
        }
    }

    pub(crate) fn temporary(&self) -> Result<Temporary> {
        Temporary::new(&self.inner.layers)
    }

    /// Bytes in the files of a layer; 0 where its record can't be read.
    pub(crate) fn bytes_of(&self, directory: &Path) -> u64 {
        let text = fs::read(directory.join("meta.json")).unwrap_or_default();
        serde_json::from_slice::<Meta>(&text).map_or(0, |meta| meta.file_bytes)
    }
}

impl LayerSink for LayerStore {
    fn contains(&self, layer: &LayerInfo) -> bool {
        self.has(&layer.diff_id)
    }

    fn begin(&self, layer: &LayerInfo) -> Result<Box<dyn LayerWriter>, SinkError> {
        let lock = Lock::of(&self.inner.layers, &layer.diff_id)?;
        if is_complete(&self.layer(&layer.diff_id))? {
            return Ok(Box::new(AlreadyThere));
        }
        let temporary = self.temporary()?;
        let root = open_root(&temporary.fs()?)?;
        let name = layer.digest.to_string();
        // The same blob always inflates to the same archive, and whoever gives us the bytes checks that they are that blob.
        let known = self.known_diff_id(&layer.digest).is_some_and(|known| known == layer.diff_id);
        let pipeline = Pipeline::start(
            &name,
            (!known).then_some(layer.diff_id.algorithm()),
            root,
            self.inner.options.clone(),
            Some(Arc::clone(&self.inner.turns)),
            (temporary, lock),
        )?;
        Ok(Box::new(Writer { store: self.clone(), layer: layer.clone(), pipeline }))
    }

    fn sweep(&self, needs: &Needs) -> Result<Vec<Swept>, SinkError> {
        Ok(self.collect(needs)?)
    }
}

struct Writer {
    store: LayerStore,
    layer: LayerInfo,
    pipeline: Pipeline<(Temporary, Option<Lock>)>,
}

impl io::Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.pipeline.write(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LayerWriter for Writer {
    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        let Writer { store, layer, pipeline } = *self;
        let (mut unpacked, (temporary, lock)) = pipeline.finish()?;
        match unpacked.diff_id {
            None => {}
            Some(found) if found == layer.diff_id => store.remember_diff_id(&layer.digest, &found),
            Some(found) => {
                return Err(Box::new(Error::WrongDiffId { layer: layer.digest.to_string(), expected: layer.diff_id, found }));
            }
        }
        unpacked.report.diff_id = layer.diff_id.clone();
        if !unpacked.report.skipped.is_empty() {
            tracing::info!(layer = %layer.digest, skipped = unpacked.report.skipped_total, "parts of the layer weren't put on disk");
        }
        temporary.publish(
            &store.layer(&layer.diff_id),
            &unpacked.report,
            &unpacked.ledger,
            &store.inner.options,
            Some(&unpacked.record),
        )?;
        drop(lock);
        Ok(())
    }
}

/// Somebody else unpacked it in the meantime.
struct AlreadyThere;

impl io::Write for AlreadyThere {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LayerWriter for AlreadyThere {
    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}

impl Inner {
    /// Removes what dead processes left: their locks are free.
    fn sweep(&self) {
        let Ok(entries) = fs::read_dir(&self.layers) else {
            return;
        };
        for entry in entries.flatten() {
            if !entry.file_name().as_bytes().starts_with(b"tmp-") {
                continue;
            }
            let path = entry.path();
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let Ok(fd) = rustix::fs::open(&path, flags, Mode::empty()) else {
                continue;
            };
            if rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive).is_ok()
                && let Err(error) = remove_tree(&path)
            {
                tracing::warn!(path = %path.display(), %error, "leftovers can't be removed");
            }
        }
    }

    fn remove(&self, directory: &Path) -> Result<()> {
        let temporary = Temporary::new(&self.layers)?;
        match fs::rename(directory, temporary.path.join("removed")) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(Error::io("remove", directory, error)),
        }
        temporary.discard()
    }
}

/// A private directory that vanishes unless it's published. Its lock says that somebody lives who will do either.
#[derive(Debug)]
pub(crate) struct Temporary {
    pub(crate) path: PathBuf,
    lock: Option<OwnedFd>,
}

impl Temporary {
    fn new(layers: &Path) -> Result<Temporary> {
        loop {
            let path = layers.join(format!("tmp-{}-{}", std::process::id(), nonce()));
            rustix::fs::mkdir(&path, Mode::RWXU).map_err(|errno| Error::io("make the directory", &path, errno))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let locked = rustix::fs::open(&path, flags, Mode::empty()).and_then(|fd| {
                rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
                // Between making and locking it looked like a leftover: is it still there?
                let (ours, there) = (rustix::fs::fstat(&fd)?, rustix::fs::stat(&path)?);
                if ours.st_ino == there.st_ino { Ok(fd) } else { Err(Errno::NOENT) }
            });
            match locked {
                Ok(fd) => {
                    return Ok(Temporary { path, lock: Some(fd) });
                }
                Err(Errno::NOENT | Errno::WOULDBLOCK) => {}
                Err(errno) => return Err(Error::io("lock", path, errno)),
            }
        }
    }

    /// Makes the directory that will be the layer.
    pub(crate) fn fs(&self) -> Result<PathBuf> {
        let path = self.path.join("fs");
        rustix::fs::mkdir(&path, Mode::RWXU).map_err(|errno| Error::io("make the directory", &path, errno))?;
        Ok(path)
    }

    /// Writes what belongs beside `fs`, and puts it all in place at once. If it's there already, that one stays.
    pub(crate) fn publish(
        mut self,
        target: &Path,
        report: &LayerReport,
        ledger: &Ledger,
        options: &Options,
        record: Option<&Record>,
    ) -> Result<()> {
        let write = |name: &str, bytes: &[u8]| {
            let path = self.path.join(name);
            fs::write(&path, bytes).map_err(|error| Error::io("write", path, error))
        };
        let meta = serde_json::to_vec_pretty(&Meta::of(report)).map_err(|error| Error::io("write", target, error))?;
        write("meta.json", &meta)?;
        if !ledger.is_empty() {
            write("ownership", &ledger.encode())?;
        }
        let path = self.path.join(record::NAME);
        let file = fs::File::create(&path).map(io::BufWriter::new).map_err(|error| Error::io("write", &path, error))?;
        match record {
            Some(record) => record.write(file),
            None => Record::read(&self.path.join("fs"), Kinds::of(options))?.write(file),
        }
        .map_err(|error| Error::io("write", &path, error))?;
        match boot_id()?.filter(|_| options.durability != Durability::Layer) {
            Some(boot) => write("complete", format!("{BOOT}{boot}\n").as_bytes())?,
            None => {
                sync_file_system(&self.path)?;
                write("complete", SYNCED)?;
            }
        }
        loop {
            let here = rustix::fs::CWD;
            match rustix::fs::renameat_with(here, &self.path, here, target, RenameFlags::NOREPLACE) {
                Ok(()) => break,
                Err(Errno::EXIST) if is_complete(target)? => return self.discard(),
                Err(Errno::EXIST) => {
                    // Void: left by a crash of the machine.
                    let void = self.path.join("void");
                    fs::rename(target, &void).map_err(|error| Error::io("replace", target, error))?;
                    remove_tree(&void)?;
                }
                Err(errno) => return Err(Error::io("publish", target, errno)),
            }
        }
        self.lock = None;
        Ok(())
    }

    fn discard(mut self) -> Result<()> {
        let result = remove_tree(&self.path);
        self.lock = None;
        result
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // With the lock still held, so that nobody else removes it at the same time.
        if self.lock.is_some()
            && let Err(error) = remove_tree(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "what was unpacked can't be removed");
        }
    }
}

/// The right to unpack one layer, among all processes.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    _fd: OwnedFd,
}

/// How many locks this process holds. Who holds one doesn't wait for another: two processes that unpack the same layers in another
/// order, each from a single thread, would wait for each other.
static HELD: AtomicUsize = AtomicUsize::new(0);

impl Lock {
    /// Waits while another process unpacks the layer; `None` when it's better not to wait. Then two unpack it, and one is published.
    fn of(layers: &Path, diff_id: &Digest) -> Result<Option<Lock>> {
        let path = layers.join("locks").join(format!("{}.lock", diff_id.hex()));
        let fail = |errno| Error::io("lock", &path, errno);
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
            let how =
                if HELD.load(Ordering::Acquire) == 0 { FlockOperation::LockExclusive } else { FlockOperation::NonBlockingLockExclusive };
            match rustix::fs::flock(&fd, how) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(fail(errno)),
            }
            // Whoever held it has removed the file; somebody may have made a new one.
            let ours = rustix::fs::fstat(&fd).map_err(fail)?;
            match rustix::fs::statat(rustix::fs::CWD, &path, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(there) if there.st_ino == ours.st_ino => {
                    HELD.fetch_add(1, Ordering::AcqRel);
                    return Ok(Some(Lock { path, _fd: fd }));
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        HELD.fetch_sub(1, Ordering::AcqRel);
    }
}

const SYNCED: &[u8] = b"coracle-layer 1 synced\n";
const BOOT: &str = "coracle-layer 1 boot ";

enum Marker {
    Synced,
    Boot(String),
}

fn marker(directory: &Path) -> Result<Option<Marker>> {
    let path = directory.join("complete");
    let Some(text) = read_if_there(&path)? else {
        return Ok(None);
    };
    if text == SYNCED {
        return Ok(Some(Marker::Synced));
    }
    let boot = std::str::from_utf8(&text).ok().and_then(|text| text.strip_prefix(BOOT)?.strip_suffix('\n'));
    Ok(boot.map(|boot| Marker::Boot(boot.to_owned())))
}

/// Whether a directory was published and survived. What can't be read now (a disk's error, no descriptor left) is an error and no
/// answer: who took it for a no would remove a layer that is whole.
pub(crate) fn is_complete(directory: &Path) -> Result<bool> {
    match marker(directory)? {
        Some(Marker::Synced) => Ok(true),
        Some(Marker::Boot(boot)) => Ok(boot_id()?.is_some_and(|now| now == boot)),
        None => Ok(false),
    }
}

/// This boot of the machine; nothing where there is no /proc.
fn boot_id() -> Result<Option<String>> {
    let text = read_if_there(Path::new("/proc/sys/kernel/random/boot_id"))?.unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()).filter(|id| !id.is_empty()))
}

fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io("read", path, error)),
    }
}

/// Whether a directory lies on overlayfs, where no other overlay can keep its changes.
///
/// # Errors
/// [`Error::Io`].
pub fn is_overlay(directory: &Path) -> Result<bool> {
    /// OVERLAYFS_SUPER_MAGIC of linux/magic.h.
    const MAGIC: u64 = 0x794c_7630;
    let found = rustix::fs::statfs(directory).map_err(|errno| Error::io("look at the file system of", directory, errno))?;
    #[allow(clippy::unnecessary_cast, clippy::cast_lossless, clippy::cast_sign_loss)]
    let kind = found.f_type as u64;
    Ok(kind & 0xffff_ffff == MAGIC)
}

/// Says that a directory reached the disk.
fn mark_synced(directory: &Path) -> Result<()> {
    // A name of its own for each: many may sync the same layer at once, and none may see another's half-written marker.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let (path, temporary) = (directory.join("complete"), directory.join(format!("complete.{}.{number}", std::process::id())));
    let written = fs::write(&temporary, SYNCED)
        .map_err(|error| Error::io("write", &temporary, error))
        .and_then(|()| fs::rename(&temporary, &path).map_err(|error| Error::io("write", &path, error)));
    match written {
        // Nobody needed it, and somebody pruned it.
        Err(_) if !directory.exists() => Ok(()),
        written => written,
    }
}

fn sync_file_system(path: &Path) -> Result<()> {
    let fail = |errno| Error::io("sync", path, errno);
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(fail)?;
    rustix::fs::syncfs(&fd).map_err(fail)
}

pub(crate) fn nonce() -> String {
    // The keys of std's hash maps are random.
    format!("{:016x}", RandomState::new().build_hasher().finish())
}

/// `meta.json`.
#[derive(Serialize, Deserialize)]
struct Meta {
    version: u32,
    diff_id: String,
    archive_bytes: u64,
    file_bytes: u64,
    entries: u64,
    whiteouts: u64,
    opaque_root: bool,
    skipped: Vec<(String, String)>,
    skipped_total: u64,
    implicit_parents: Vec<String>,
    links_below: Vec<(String, String)>,
}

impl Meta {
    fn of(report: &LayerReport) -> Meta {
        Meta {
            version: VERSION,
            diff_id: report.diff_id.to_string(),
            archive_bytes: report.archive_bytes,
            file_bytes: report.file_bytes,
            entries: report.entries,
            whiteouts: report.whiteouts,
            opaque_root: report.opaque_root,
            skipped: report.skipped.iter().map(|skipped| (skipped.path.clone(), skipped.what.clone())).collect(),
            skipped_total: report.skipped_total,
            implicit_parents: report.implicit_parents.iter().map(|path| encoded(path)).collect(),
            links_below: report.links_below.iter().map(|(path, target)| (encoded(path), encoded(target))).collect(),
        }
    }

    fn into_report(self) -> Option<LayerReport> {
        if self.version != VERSION {
            return None;
        }
        Some(LayerReport {
            diff_id: self.diff_id.parse().ok()?,
            archive_bytes: self.archive_bytes,
            file_bytes: self.file_bytes,
            entries: self.entries,
            whiteouts: self.whiteouts,
            opaque_root: self.opaque_root,
            skipped: self.skipped.into_iter().map(|(path, what)| Skipped { path, what }).collect(),
            skipped_total: self.skipped_total,
            implicit_parents: self.implicit_parents.iter().map(|path| decoded(path)).collect::<Option<_>>()?,
            links_below: self.links_below.iter().map(|(path, target)| Some((decoded(path)?, decoded(target)?))).collect::<Option<_>>()?,
        })
    }
}

/// A path as text, without loss: `%` and bytes that aren't printable ASCII become `%XX`.
fn encoded(path: &Path) -> String {
    let mut text = String::new();
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b' '..=b'~' if *byte != b'%' => text.push(char::from(*byte)),
            _ => text.push_str(&format!("%{byte:02x}")),
        }
    }
    text
}

pub(crate) fn decoded(text: &str) -> Option<PathBuf> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        if *byte == b'%' {
            let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &tail[2..];
        } else {
            bytes.push(*byte);
            rest = tail;
        }
    }
    Some(PathBuf::from(OsStr::from_bytes(&bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_path_survives_as_text() {
        for bytes in [&b"plain/path"[..], b"100%", b"new\nline", b"\xff\x00\xfe", "ü/€".as_bytes()] {
            let path = PathBuf::from(OsStr::from_bytes(bytes));
            assert_eq!(decoded(&encoded(&path)), Some(path));
        }
        assert_eq!(decoded("%4"), None);
    }

    #[test]
    fn a_layer_that_never_reached_the_disk_is_void_after_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let mark = |text: &str| {
            fs::write(dir.path().join("complete"), text).unwrap();
            is_complete(dir.path()).unwrap()
        };
        assert!(!is_complete(dir.path()).unwrap());
        assert!(!mark(""));
        assert!(!mark("coracle-layer 1 boot 00000000-0000-0000-0000-000000000000\n"));
        assert!(mark(&format!("coracle-layer 1 boot {}\n", boot_id().unwrap().unwrap())));
        assert!(mark("coracle-layer 1 synced\n"));
        // What can't be read is no answer.
        fs::remove_file(dir.path().join("complete")).unwrap();
        fs::create_dir(dir.path().join("complete")).unwrap();
        assert!(matches!(is_complete(dir.path()), Err(Error::Io { .. })));
    }
}
