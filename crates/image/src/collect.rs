//! Removing images, and what no image needs any more.
//!
//! ```text
//!  records ─┐                                                          ┌▶ blobs, partials ──rename──▶ trash/
//!           ├─▶ manifests ─▶ configs, layers, diffIDs, chainIDs = needs ┤
//!  leases  ─┘                                                          └▶ the sink's layers (LayerSink::sweep)
//! ```
//!
//! All of it happens under the store's lock, alone: nobody takes a lease, adds to one or publishes meanwhile, so what isn't needed at
//! the beginning isn't needed at the end. It's milliseconds, because nothing is unlinked.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::config::{CONFIG_MAX, ImageConfig};
use crate::digest::Digest;
use crate::error::{Error, disk, shortened};
use crate::lease::Lease;
use crate::manifest::{Document, MANIFEST_MAX};
use crate::reference::Reference;
use crate::sink::{LayerSink, Swept, SweptKind};
use crate::store::{Record, Store, has_id};
use crate::whole::Whole;

/// What is needed by images and by whoever holds leases; everything else may go.
#[derive(Debug, Default)]
pub struct Needs {
    blobs: HashSet<Digest>,
    layers: HashSet<Digest>,
    chains: HashSet<Digest>,
    /// Where only certain things are to go: those.
    only: Option<Box<Needs>>,
}

impl Needs {
    /// Whether an unpacked layer may go, by its diffID.
    pub fn may_lose_layer(&self, diff_id: &Digest) -> bool {
        !self.layers.contains(diff_id) && self.only.as_ref().is_none_or(|only| only.layers.contains(diff_id))
    }

    /// Whether what was made for a chain of layers may go, by its chainID (OCI image-spec, config.md, "Layer ChainID").
    pub fn may_lose_chain(&self, chain_id: &Digest) -> bool {
        !self.chains.contains(chain_id) && self.only.as_ref().is_none_or(|only| only.chains.contains(chain_id))
    }

    fn may_lose_blob(&self, digest: &Digest) -> bool {
        !self.blobs.contains(digest) && self.only.as_ref().is_none_or(|only| only.blobs.contains(digest))
    }

    /// Whether only certain things are to go, and not whatever nobody needs.
    pub fn is_partial(&self) -> bool {
        self.only.is_some()
    }

    pub(crate) fn add_blob(&mut self, digest: &Digest) {
        self.blobs.insert(digest.clone());
    }

    pub(crate) fn add_layer(&mut self, diff_id: &Digest) {
        self.layers.insert(diff_id.clone());
    }

    /// Whatever has that name is needed.
    fn digest(&mut self, digest: &Digest) {
        self.blobs.insert(digest.clone());
        self.layers.insert(digest.clone());
        self.chains.insert(digest.clone());
    }

    /// Adds what a record names.
    fn record(&mut self, store: &Store, record: &Record) {
        let resolved = record.resolved();
        if let Some(top) = resolved.as_ref().filter(|_| record.whole) {
            let Ok(whole) = Whole::of(top, |digest| Ok::<_, std::convert::Infallible>(raw(store, digest, MANIFEST_MAX)));
            self.blobs.extend(whole.documents.into_iter().map(|(digest, ..)| digest));
            self.blobs.extend(whole.blobs.into_iter().map(|(blob, _)| blob.digest));
        }
        self.blobs.extend(resolved);
    }

    /// Adds a manifest, and what it leads to.
    fn manifest(&mut self, store: &Store, digest: &Digest) {
        self.digest(digest);
        let Some(Document::Manifest(manifest)) = raw(store, digest, MANIFEST_MAX).and_then(|bytes| Document::parse(&bytes).ok()) else {
            return;
        };
        self.blobs.insert(manifest.config.digest.clone());
        self.blobs.extend(manifest.layers.into_iter().map(|layer| layer.digest));
        let config = raw(store, &manifest.config.digest, CONFIG_MAX).and_then(|bytes| ImageConfig::parse(&bytes).ok());
        let diff_ids = config.map(|config| config.diff_ids).unwrap_or_default();
        self.chains.extend(Digest::chain(&diff_ids));
        self.layers.extend(diff_ids);
    }
}

/// The bytes of a document, unchecked: a damaged one names nothing, or what isn't there.
fn raw(store: &Store, digest: &Digest, max: u64) -> Option<Vec<u8>> {
    let mut file = File::open(store.blob_path(digest)).ok()?;
    if file.metadata().ok()?.len() > max {
        return None;
    }
    let mut bytes = vec![0];
    file.read_exact(&mut bytes).ok()?;
    // Most of what leases name are layers, and no archive begins so.
    if !matches!(bytes[0], b'{' | b' ' | b'\n' | b'\r' | b'\t') {
        return None;
    }
    file.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

/// What [`Store::remove`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Removed {
    /// The references that mean nothing any more.
    pub untagged: Vec<Reference>,
    /// Images that went altogether, by the digests of their manifests.
    pub deleted: Vec<Digest>,
    /// What went with them.
    pub swept: Vec<Swept>,
}

impl Removed {
    /// The sum of what went.
    pub fn bytes(&self) -> u64 {
        self.swept.iter().map(|swept| swept.bytes).sum()
    }
}

impl Store {
    /// Removes a reference, and with its last reference the image; or an image by its id, or by the beginning of it, with the one
    /// reference that it has. docker-rmi(1). Layers that other images have stay. Takes milliseconds:
    /// [`empty_trash`](Store::empty_trash) does the rest.
    ///
    /// With `force`, an image that is in use loses its references now, and [`prune`](Store::prune) removes the rest once nobody uses
    /// it; and an image that was named by its id loses all its references.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::InUse`] when this is the last reference of an image that a container or a pull holds, or one
    /// of several of an image named by its id; [`Error::Ambiguous`]; [`Error::Sink`], [`Error::Disk`].
    pub fn remove(&self, name: &str, force: bool, sink: &dyn LayerSink) -> Result<Removed, Error> {
        let _alone = self.alone()?;
        let records: Vec<_> = self.records()?.into_iter().filter_map(|(path, record)| Some((path, record?))).collect();
        let reference = name.parse::<Reference>().ok().map(|reference| reference.to_string());
        let mut chosen: Vec<_> = records.iter().filter(|(_, record)| Some(&record.reference) == reference.as_ref()).collect();
        if chosen.is_empty() {
            let ids = self.ids(&records);
            chosen =
                records.iter().filter(|(_, record)| ids.get(&record.manifest).is_some_and(|ids| has_id(name, [&ids.0, &ids.1]))).collect();
            let of = |(_, record): &&(_, Record)| ids.get(&record.manifest).map(|ids| ids.0.to_string());
            let mut found: Vec<String> = chosen.iter().filter_map(of).collect();
            found.sort();
            found.dedup();
            if found.len() > 1 {
                return Err(Error::Ambiguous { name: shortened(name), ids: found });
            }
            let mut references: Vec<&str> = chosen.iter().map(|(_, record)| record.reference.as_str()).collect();
            references.sort_unstable();
            references.dedup();
            if references.len() > 1 && !force {
                return Err(Error::InUse { image: shortened(name), why: format!("it has several names: {}", references.join(", ")) });
            }
        }
        if chosen.is_empty() {
            return Err(Error::NoSuchImage { image: shortened(name) });
        }

        let live = Lease::held(self)?;
        let stays = |manifest: &str| {
            records.iter().any(|(path, record)| record.manifest == manifest && !chosen.iter().any(|(gone, _)| gone == path))
        };
        let mut last: Vec<Digest> =
            chosen.iter().filter(|(_, r)| !stays(&r.manifest)).filter_map(|(_, r)| r.manifest.parse().ok()).collect();
        last.sort();
        last.dedup();
        if !force && last.iter().any(|manifest| live.contains(manifest)) {
            return Err(Error::InUse { image: shortened(name), why: "a container, a snapshot or a pull holds it".into() });
        }

        // What may go: only what these images had, and whatever their references led through.
        let mut only = Needs::default();
        for manifest in &last {
            only.manifest(self, manifest);
        }
        chosen.iter().for_each(|(_, record)| only.record(self, record));
        let mut removed = Removed::default();
        for (path, record) in &chosen {
            if self.throw_away(path)? {
                removed.untagged.extend(record.reference.parse::<Reference>().ok());
            }
        }
        removed.untagged.sort();
        removed.untagged.dedup();
        let mut needs = self.needs(&live)?;
        removed.deleted = last.into_iter().filter(|manifest| !needs.blobs.contains(manifest)).collect();
        needs.only = Some(Box::new(only));
        removed.swept = self.sweep(&needs, sink)?;
        Ok(removed)
    }

    /// Removes what no image and no lease needs: blobs and layers of images whose name moved on, what interrupted pulls left, files
    /// of killed processes. With `all` also every image that nothing holds: no container, no pull, no [`session`](Store::session).
    /// Safe beside live pulls and running containers, of this process and of others. docker-image-prune(1).
    ///
    /// # Errors
    /// [`Error::Sink`], [`Error::Disk`].
    pub fn prune(&self, all: bool, sink: &dyn LayerSink) -> Result<Removed, Error> {
        let _alone = self.alone()?;
        let live = Lease::held(self)?;
        let mut removed = Removed::default();
        for (path, record) in self.records()? {
            let manifest = record.as_ref().and_then(|record| record.manifest.parse::<Digest>().ok());
            let held = manifest.as_ref().is_some_and(|manifest| live.contains(manifest));
            // A record that can't be read means nothing to anybody.
            if (all || record.is_none()) && !held && self.throw_away(&path)? {
                removed.untagged.extend(record.and_then(|record| record.reference.parse::<Reference>().ok()));
                removed.deleted.extend(manifest);
            }
        }
        removed.untagged.sort();
        removed.untagged.dedup();
        removed.deleted.sort();
        removed.deleted.dedup();
        let needs = self.needs(&live)?;
        removed.swept = self.sweep(&needs, sink)?;
        Ok(removed)
    }

    /// Removes from a sink all that nobody uses now, also what images have: for layers that can be had elsewhere, or from their blobs.
    ///
    /// # Errors
    /// [`Error::Sweep`], [`Error::Disk`].
    pub fn prune_unused(&self, sink: &dyn LayerSink) -> Result<Vec<Swept>, Error> {
        let _alone = self.alone()?;
        let held = self.held()?;
        sink.sweep(&held).map_err(|source| Error::Sweep { source })
    }

    /// Removes certain things, as far as nothing needs them.
    pub(crate) fn forget(&self, things: Needs, sink: &dyn LayerSink) -> Result<(), Error> {
        let _alone = self.alone()?;
        let mut needs = self.needs(&Lease::held(self)?)?;
        needs.only = Some(Box::new(things));
        self.sweep(&needs, sink).map(|_| ())
    }

    /// What records and leases need. The caller holds the lock alone.
    fn needs(&self, live: &HashSet<Digest>) -> Result<Needs, Error> {
        let mut needs = Needs::default();
        for (_, record) in self.records()? {
            let Some(record) = record else { continue };
            needs.record(self, &record);
            if let Ok(manifest) = record.manifest.parse() {
                needs.manifest(self, &manifest);
            }
        }
        for digest in live {
            needs.manifest(self, digest);
        }
        Ok(needs)
    }

    /// What leases alone need: it must not be moved while it's used.
    pub(crate) fn held(&self) -> Result<Needs, Error> {
        let mut needs = Needs::default();
        for digest in &Lease::held(self)? {
            needs.manifest(self, digest);
        }
        Ok(needs)
    }

    /// The ids of images by the digests of their manifests, as text: that of the config and that of the manifest.
    fn ids(&self, records: &[(std::path::PathBuf, Record)]) -> HashMap<String, (Digest, Digest)> {
        let ids = records.iter().filter_map(|(_, record)| {
            let digest: Digest = record.manifest.parse().ok()?;
            match Document::parse(&raw(self, &digest, MANIFEST_MAX)?) {
                Ok(Document::Manifest(manifest)) => Some((record.manifest.clone(), (manifest.config.digest, digest))),
                _ => None,
            }
        });
        ids.collect()
    }

    /// Moves into the trash what isn't needed.
    fn sweep(&self, needs: &Needs, sink: &dyn LayerSink) -> Result<Vec<Swept>, Error> {
        let mut swept = sink.sweep(needs).map_err(|source| Error::Sweep { source })?;
        if let Some(only) = &needs.only {
            // Few: by their names, whatever else there is.
            for digest in only.blobs.iter().filter(|digest| needs.may_lose_blob(digest)) {
                let path = self.blob_path(digest);
                let Ok(found) = fs::symlink_metadata(&path) else { continue };
                if self.throw_away(&path)? {
                    swept.push(Swept::new(SweptKind::Blob, Some(digest.clone()), found.len()));
                }
            }
            return Ok(swept);
        }
        for algorithm in ["sha256", "sha512"] {
            let dir = self.path().join("blobs").join(algorithm);
            for (path, bytes) in files(&dir)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                // What has another name is no blob of ours.
                let Ok(digest) = format!("{algorithm}:{name}").parse::<Digest>() else { continue };
                if needs.may_lose_blob(&digest) && self.throw_away(&path)? {
                    swept.push(Swept::new(SweptKind::Blob, Some(digest), bytes));
                }
            }
        }
        for (path, bytes) in files(&self.path().join("ingest"))? {
            if self.throw_away_unlocked(&path)? {
                swept.push(Swept::new(SweptKind::Leftover, None, bytes));
            }
        }
        // Temporary files are written under the lock that we have alone, so nobody writes these.
        for dir in ["", "images"] {
            for (path, bytes) in files(&self.path().join(dir))? {
                if path.extension().is_some_and(|e| e == "new") && self.throw_away(&path)? {
                    swept.push(Swept::new(SweptKind::Leftover, None, bytes));
                }
            }
        }
        Ok(swept)
    }

    /// Removes a file of `ingest/` that nobody has locked.
    fn throw_away_unlocked(&self, path: &Path) -> Result<bool, Error> {
        let Ok(file) = File::open(path) else {
            return Ok(false);
        };
        if flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        // Who had it until now may have renamed it.
        let (ours, there) = (file.metadata().map_err(disk("look at", path))?, fs::symlink_metadata(path));
        match there {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => self.throw_away(path),
            _ => Ok(false),
        }
    }
}

/// The regular files of a directory with their lengths; none where there is no such directory.
pub(crate) fn files(dir: &Path) -> Result<Vec<(std::path::PathBuf, u64)>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(disk("read", dir)(e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(disk("read", dir))?;
        // What vanishes meanwhile was somebody's temporary file.
        if let Ok(found) = entry.metadata()
            && found.is_file()
        {
            files.push((entry.path(), found.len()));
        }
    }
    Ok(files)
}
