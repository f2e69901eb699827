//! The content-addressed store: a directory that many processes share without a server.
//!
//! # Format 1
//!
//! Changing any of this changes the format on disk: raise [`Store::FORMAT`].
//!
//! ```text
//! STORE/                     0700, of one user
//!   version                  the line `coracle-store 1`; a newer number is refused, whatever follows the line is ignored
//!   lock                     flock: shared by who takes a lease or publishes; exclusive by who deletes, for milliseconds
//!   blobs/sha256/<hex>       manifests, indexes, configs, layers as registries have them; also blobs/sha512/. Never changed
//!   images/<hex>.json        what a reference means for a platform; <hex> is the sha256 of "<reference> <platform>"
//!   ingest/<algorithm>-<hex>.partial
//!                            the beginning of a blob; its flock is the right to fetch that blob and to unpack that layer
//!   ingest/<…>.new           a blob whose digest isn't known yet, flocked by who writes it; without a lock it's rubbish
//!   leases/<pid>-<n>-<time>  flocked as long as somebody needs what its lines name: digests, one a line; lines may be added
//!   pins/<hex>               what its lines name stays until the file goes: of what lies on images and has no process
//!   trash/<…>                was removed; nobody finds it any more, and whoever comes by unlinks it
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
//! reference (an index's or a manifest's), `manifest` that of the manifest for the platform. Unknown members are ignored. The time of
//! the file's last change is when the reference began to mean this. `"whole": true` says that the images of all platforms, and what else
//! the index `resolved` names, are in the store and stay.

use std::collections::HashSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
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
pub struct Store {
    inner: Arc<Inner>,
    durability: Durability,
    keep_blobs: bool,
    session: Option<Arc<Mutex<Session>>>,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    handle: File,
}

/// What goes through a handle of [`Store::session`].
#[derive(Debug)]
struct Session {
    lease: Lease,
    named: HashSet<Digest>,
    /// Whether an image was published in it, with a sync before.
    synced: bool,
}

/// What survives a crash of the machine (a power cut, a kernel panic). The death of processes harms nothing in any of them, and
/// nothing damaged is ever taken for whole: the choice is between work now and work after a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Durability {
    /// Nothing is written to disk on purpose. After a restart of the machine layers are unpacked again, and images may have to be
    /// pulled again.
    None,
    /// An image that was published stays: one `syncfs(2)` of the store's file system for each, before it gets its name. The
    /// default; 0.1 to 0.3 s for 200 MB, and whatever others have written to that file system goes along.
    #[default]
    Image,
    /// Each layer stays from the moment that it's whole: a `syncfs(2)` for each.
    Layer,
}

/// What a reference meant when it was last asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) reference: String,
    pub(crate) platform: String,
    pub(crate) resolved: String,
    pub(crate) manifest: String,
    /// Whether all that `resolved` leads to belongs to it, and not the one manifest alone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) whole: bool,
}

impl Record {
    pub(crate) fn new(reference: &Reference, platform: &Platform, resolved: &Digest, manifest: &Digest) -> Record {
        Record {
            reference: reference.to_string(),
            platform: platform.to_string(),
            resolved: resolved.to_string(),
            manifest: manifest.to_string(),
            whole: false,
        }
    }

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
        let inner = Arc::new(Inner { dir, handle });
        let store = Store { inner, durability: Durability::default(), keep_blobs: true, session: None };
        store.check_version()?;
        for name in ["blobs/sha256", "images", "ingest", "leases", "pins", "trash"] {
            make(&store.path().join(name))?;
        }
        Ok(store)
    }

    /// What survives a crash of the machine, of what is brought in through this handle and its clones.
    #[must_use]
    pub fn durability(self, durability: Durability) -> Store {
        Store { durability, ..self }
    }

    /// Whether the blobs of layers, most often compressed, stay in the store once their sink has them; yes unless this says
    /// otherwise. Without them an image takes half the room or less, and can't be exported, pushed, or unpacked once more.
    #[must_use]
    pub fn keep_blobs(self, yes: bool) -> Store {
        Store { keep_blobs: yes, ..self }
    }

    /// A handle on the same store; what is found by a name or brought in through it stays until the handle and its clones are dropped,
    /// whoever prunes meanwhile. Pulling, importing, saving and tagging make one by themselves.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn session(&self) -> Result<Store, Error> {
        let session = Session { lease: Lease::take(self, [])?, named: HashSet::new(), synced: false };
        Ok(Store { session: Some(Arc::new(Mutex::new(session))), ..self.clone() })
    }

    /// This handle, if it has a session already, else one with a session of its own.
    #[cfg(feature = "registry")]
    pub(crate) fn in_session(&self) -> Result<Store, Error> {
        if self.session.is_some() { Ok(self.clone()) } else { self.session() }
    }

    /// Whether the store's file system was written to disk when an image was published through this handle's session, the last time
    /// after all of its layers were whole. Who keeps unpacked layers on the same file system needn't do it again.
    pub fn is_synced(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.lock().unwrap_or_else(|e| e.into_inner()).synced)
    }

    fn set_synced(&self) {
        if let Some(session) = &self.session {
            session.lock().unwrap_or_else(|e| e.into_inner()).synced = true;
        }
    }

    /// Puts what this handle's session holds under the protection of another handle's, too.
    pub(crate) fn hand_over(&self, to: &Store) -> Result<(), Error> {
        match &self.session {
            Some(session) if to.session.is_some() => {
                let (named, synced) = {
                    let session = session.lock().unwrap_or_else(|e| e.into_inner());
                    (session.named.clone(), session.synced)
                };
                if synced {
                    to.set_synced();
                }
                to.name(&named)
            }
            _ => Ok(()),
        }
    }

    /// A handle whose use protects nothing.
    pub(crate) fn without_session(&self) -> Store {
        Store { session: None, ..self.clone() }
    }

    /// Puts digests under the protection of this handle's session, if it has one: before looking whether they are there.
    pub(crate) fn name<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), Error> {
        let Some(session) = &self.session else {
            return Ok(());
        };
        let mut session = session.lock().unwrap_or_else(|e| e.into_inner());
        let new: Vec<&Digest> = digests.into_iter().filter(|digest| !session.named.contains(digest)).collect();
        if !new.is_empty() {
            session.lease.add(self, &new)?;
            session.named.extend(new.into_iter().cloned());
        }
        Ok(())
    }

    pub(crate) fn syncs_layers(&self) -> bool {
        self.durability == Durability::Layer
    }

    /// Whether what is written of a blob will have to be on the disk.
    pub(crate) fn hastens(&self) -> bool {
        self.keep_blobs && self.durability != Durability::None
    }

    pub(crate) fn keeps_blobs(&self) -> bool {
        self.keep_blobs
    }

    /// The store's directory.
    pub fn path(&self) -> &Path {
        &self.inner.dir
    }

    fn check_version(&self) -> Result<(), Error> {
        let path = self.path().join("version");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let _nobody_deletes = self.share()?;
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
        // Who lists doesn't need all of them to stay.
        let store = self.without_session();
        let mut images = Vec::new();
        for (_, record) in store.records()? {
            if let Some(record) = record
                && let Some(image) = store.load(&record)?
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

    /// What a reference meant when it was last asked for, for whatever platform: the digest of a manifest or an index.
    #[cfg(feature = "registry")]
    pub(crate) fn meaning(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        let reference = reference.to_string();
        let mut records: Vec<Record> = self.records()?.into_iter().filter_map(|(_, record)| record).collect();
        records.retain(|record| record.reference == reference);
        // One that came whole goes before one that came for its platform.
        records.sort_by(|a, b| (!a.whole, &a.platform).cmp(&(!b.whole, &b.platform)));
        Ok(records.first().and_then(Record::resolved))
    }

    /// The image of a name: a reference, for `platform` if it's there for that, else the beginning of an image's id (its config's
    /// digest, as Docker has it) or of its manifest's digest, with or without `sha256:`.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Ambiguous`], [`Error::Disk`].
    pub fn lookup(&self, name: &str, platform: &Platform) -> Result<Image, Error> {
        let mut found = self.named(name)?;
        let nearest = |image: &Image| platform.distance(&image.platform).unwrap_or(u32::MAX);
        let best = found.iter().enumerate().min_by_key(|(_, image)| nearest(image)).map(|(index, _)| index);
        let no_such = || Error::NoSuchImage { image: shortened(name) };
        let image = best.map(|index| found.swap_remove(index)).ok_or_else(no_such)?;
        if self.session.is_none() {
            return Ok(image);
        }
        // Held from here on; whether it still is what was found, the second look tells.
        self.name([&image.digest, &image.id])?;
        self.find(&image.reference, &image.platform)?.filter(|again| again.digest == image.digest).ok_or_else(no_such)
    }

    /// All images that a name means: a reference's, for whatever platforms; or one image's, under all its references.
    fn named(&self, name: &str) -> Result<Vec<Image>, Error> {
        let images = self.images()?;
        if let Ok(reference) = name.parse::<Reference>() {
            let found: Vec<Image> = images.iter().filter(|image| image.reference == reference).cloned().collect();
            if !found.is_empty() {
                return Ok(found);
            }
        }
        let found: Vec<Image> = images.into_iter().filter(|image| has_id(name, [&image.id, &image.digest])).collect();
        let mut ids: Vec<String> = found.iter().map(|image| image.id.to_string()).collect();
        ids.sort();
        ids.dedup();
        match ids.len() {
            0 => Err(Error::NoSuchImage { image: shortened(name) }),
            1 => Ok(found),
            _ => Err(Error::Ambiguous { name: shortened(name), ids }),
        }
    }

    /// Gives an image another name, which stops meaning whatever it meant. docker-tag(1).
    ///
    /// # Errors
    /// [`Error::NoSuchImage`] and [`Error::Ambiguous`] for `source`; [`Error::Disk`].
    pub fn tag(&self, source: &str, target: &Reference, platform: &Platform) -> Result<Image, Error> {
        let session = self.session()?;
        let image = session.lookup(source, platform)?;
        let before = session.record(&image.reference, &image.platform)?;
        let resolved = before.as_ref().and_then(Record::resolved);
        let mut record = Record::new(target, &image.platform, resolved.as_ref().unwrap_or(&image.digest), &image.digest);
        record.whole = before.is_some_and(|before| before.whole);
        session.publish(&record)?;
        session.hand_over(self)?;
        Ok(Image { reference: target.clone(), ..image })
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
        let chains = Digest::chain(&image.config.diff_ids);
        Lease::take(self, [&image.digest, &image.id].into_iter().chain(layers).chain(&chains))
    }

    /// Protects whatever has these digests from being collected, as long as the lease is held: images by their manifests, with all that
    /// they lead to, and what other parts of Coracle keep by digests of their own. Look only afterwards whether it's there.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn lease_of<'a>(&self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<Lease, Error> {
        Lease::take(self, digests)
    }

    /// The image with this manifest, if it's in the store, whatever its references mean now. `reference` and `platform` are what it is
    /// called and was chosen for.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn by_manifest(&self, manifest: &Digest, reference: &Reference, platform: &Platform) -> Result<Option<Image>, Error> {
        self.load(&Record::new(reference, platform, manifest, manifest))
    }

    /// Opens a blob, if it's there. It isn't hashed.
    ///
    /// # Errors
    /// [`Error::Disk`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<File>, Error> {
        self.name([digest])?;
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
        match self.peek(digest, max)? {
            Peeked::Damaged => {
                let path = self.blob_path(digest);
                tracing::warn!(path = %path.display(), "a blob is damaged and was removed");
                match fs::remove_file(&path) {
                    // Another process saw it, too.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                    done => done.map(|()| None).map_err(disk("remove the damaged", &path)),
                }
            }
            peeked => Ok(peeked.sound()),
        }
    }

    fn peek(&self, digest: &Digest, max: u64) -> Result<Peeked, Error> {
        let Some(file) = self.blob(digest)? else {
            return Ok(Peeked::Missing);
        };
        let mut bytes = Vec::new();
        file.take(max + 1).read_to_end(&mut bytes).map_err(disk("read", &self.blob_path(digest)))?;
        Ok(match Digest::of(digest.algorithm(), &bytes) == *digest {
            true => Peeked::Sound(bytes),
            false => Peeked::Damaged,
        })
    }

    /// A document, if it's there and undamaged; nothing is touched.
    pub(crate) fn peeked(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        self.peek(digest, MANIFEST_MAX).map(Peeked::sound)
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

    /// Where all records lie, and what they say; none where one is damaged.
    pub(crate) fn records(&self) -> Result<Vec<(PathBuf, Option<Record>)>, Error> {
        let dir = self.path().join("images");
        let mut records = Vec::new();
        for entry in fs::read_dir(&dir).map_err(disk("read", &dir))? {
            let path = entry.map_err(disk("read", &dir))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                match read_record(&path)? {
                    // Removed since.
                    None if !path.exists() => {}
                    record => records.push((path, record)),
                }
            }
        }
        Ok(records)
    }

    pub(crate) fn record_path(&self, reference: &str, platform: &str) -> PathBuf {
        let name = Digest::of(Algorithm::Sha256, format!("{reference} {platform}").as_bytes());
        self.path().join("images").join(format!("{}.json", name.hex()))
    }

    pub(crate) fn load(&self, record: &Record) -> Result<Option<Image>, Error> {
        self.load_by(record, |digest, max| self.read(digest, max))
    }

    /// The image of a record, without touching what is damaged.
    pub(crate) fn look(&self, record: &Record) -> Result<Option<Image>, Error> {
        self.load_by(record, |digest, max| self.peek(digest, max).map(Peeked::sound))
    }

    fn load_by(&self, record: &Record, read: impl Fn(&Digest, u64) -> Result<Option<Vec<u8>>, Error>) -> Result<Option<Image>, Error> {
        let (Ok(reference), Ok(platform), Ok(digest)) =
            (record.reference.parse(), record.platform.parse(), record.manifest.parse::<Digest>())
        else {
            return Ok(None);
        };
        let Some(manifest) = read(&digest, MANIFEST_MAX)? else {
            return Ok(None);
        };
        let Ok(Document::Manifest(manifest)) = Document::parse(&manifest) else {
            return Ok(None);
        };
        let Some(config) = read(&manifest.config.digest, CONFIG_MAX)? else {
            return Ok(None);
        };
        Ok(image(reference, platform, digest, &manifest, &config).ok())
    }

    /// Makes everything durable that was written, then says what the reference means.
    pub(crate) fn publish(&self, record: &Record) -> Result<(), Error> {
        self.publish_all(std::slice::from_ref(record))
    }

    /// The same for several, with one sync for all.
    pub(crate) fn publish_all(&self, records: &[Record]) -> Result<(), Error> {
        if !records.is_empty() && self.durability != Durability::None {
            self.sync()?;
            self.set_synced();
        }
        let _nobody_deletes = self.share()?;
        for record in records {
            let path = self.record_path(&record.reference, &record.platform);
            let json = serde_json::to_vec_pretty(record).expect("four strings are JSON");
            self.write_file(&path, &json)?;
        }
        Ok(())
    }

    /// Writes everything of the store's file system to disk.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        syncfs(&self.inner.handle).map_err(disk("sync the file system of", self.path()))
    }

    /// Writes a whole file, durably unless the store isn't: other processes see the old or the new one.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let temporary = path.with_extension(format!("{}.new", unique()));
        let durable = self.durability != Durability::None;
        let write = || {
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
            file.write_all(bytes)?;
            if durable {
                file.sync_all()?;
            }
            fs::rename(&temporary, path)?;
            if durable {
                File::open(path.parent().expect("a file of the store is in a directory"))?.sync_all()?;
            }
            Ok(())
        };
        write().map_err(|e: io::Error| {
            let _ = fs::remove_file(&temporary);
            disk("write", path)(e)
        })
    }

    /// The flock of the whole store, shared: nobody deletes while it's held.
    pub(crate) fn share(&self) -> Result<File, Error> {
        self.lock(FlockOperation::LockShared)
    }

    /// The flock of the whole store: nobody takes a lease or publishes while it's held.
    pub(crate) fn alone(&self) -> Result<File, Error> {
        self.lock(FlockOperation::LockExclusive)
    }

    fn lock(&self, how: FlockOperation) -> Result<File, Error> {
        let path = self.path().join("lock");
        let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(disk("open", &path))?;
        loop {
            match flock(file.as_fd(), how) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(disk("lock", &path)(errno)),
            }
        }
    }
}

/// What a look at a small blob found.
enum Peeked {
    Missing,
    Sound(Vec<u8>),
    Damaged,
}

impl Peeked {
    fn sound(self) -> Option<Vec<u8>> {
        match self {
            Peeked::Sound(bytes) => Some(bytes),
            _ => None,
        }
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
    Ok(Image { reference, platform, digest, id: manifest.config.digest.clone(), config, layers })
}

/// Whether a name is the beginning of one of the digests.
pub(crate) fn has_id(name: &str, digests: [&Digest; 2]) -> bool {
    digests.iter().any(|digest| match name.split_once(':') {
        Some((algorithm, hex)) => !hex.is_empty() && algorithm == digest.algorithm().as_str() && digest.hex().starts_with(hex),
        None => !name.is_empty() && digest.hex().starts_with(name),
    })
}

pub(crate) fn read_record(path: &Path) -> Result<Option<Record>, Error> {
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
