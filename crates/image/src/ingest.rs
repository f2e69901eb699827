//! A blob on its way into the store, and a layer on its way through the store into a sink.
//!
//! ```text
//!            lock free                    bytes                   length and digest right
//!  absent ─────────────▶ begun (.partial) ─────▶ growing ─────────────────────────────────▶ sink published ─▶ blob renamed
//!    ▲                      │  somebody holds it: Busy, ask again      │ wrong
//!    └──────────────────────┴──────────────────────────────────────────┘ removed; interrupted: stays, and is continued later
//! ```
//!
//! The file's flock is held over all of it, so of several processes that want a layer one fetches and unpacks it, and the others
//! find it done.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::num::NonZero;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;

use rustix::fs::{Advice, FlockOperation, flock};
use rustix::io::Errno;

use crate::digest::{Digest, Hasher};
use crate::error::{Error, disk};
use crate::sink::{LayerInfo, LayerSink, LayerWriter};
use crate::store::Store;

/// The bytes that are read from a file at once.
const CHUNK: usize = 128 << 10;

/// How much of a blob is still fetched after its sink failed, to tell bytes that were wrong from a sink that was.
const DOUBT: u64 = 64 << 20;

/// The exclusive right to bring a blob into the store.
#[derive(Debug)]
pub(crate) struct Ingest {
    file: File,
    path: PathBuf,
    blob: PathBuf,
    digest: Digest,
    size: u64,
    /// For errors: of what, and which part.
    image: String,
    part: String,
    store: Store,
    /// The file was renamed or removed.
    gone: bool,
}

/// What came of asking for the right.
pub(crate) enum Begin {
    Ready(Ingest),
    /// Somebody else has it.
    Busy,
}

impl Ingest {
    pub(crate) fn begin(store: &Store, digest: &Digest, size: u64, image: &str, part: &str) -> Result<Begin, Error> {
        store.name([digest])?;
        let name = format!("{}-{}.partial", digest.algorithm().as_str(), digest.hex());
        let path = store.path().join("ingest").join(name);
        loop {
            let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
            let file = open.map_err(disk("open", &path))?;
            match flock(file.as_fd(), FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(Begin::Busy),
                Err(e) => return Err(disk("lock", &path)(e)),
            }
            // Who had the lock before may have renamed the file since we opened it: then it's a blob now, and not ours to write.
            let ours = file.metadata().map_err(disk("look at", &path))?;
            match fs::metadata(&path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
                Ok(_) => continue,
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(disk("look at", &path)(e)),
            }
            return Ok(Begin::Ready(Ingest {
                file,
                path,
                blob: store.blob_path(digest),
                digest: digest.clone(),
                size,
                image: image.to_owned(),
                part: part.to_owned(),
                store: store.clone(),
                gone: false,
            }));
        }
    }

    /// Gives the right back, and forgets what was fetched.
    pub(crate) fn discard(mut self) {
        self.remove();
    }

    fn remove(&mut self) {
        if !self.gone {
            // Under the lock, so it's still ours by that name.
            let _ = fs::remove_file(&self.path);
            self.gone = true;
        }
    }

    fn corrupt(&self, expected: String, got: String) -> Error {
        Error::Corrupt { image: self.image.clone(), part: self.part.clone(), expected, got }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        // Nothing to continue from.
        if self.file.metadata().is_ok_and(|m| m.len() == 0) {
            self.remove();
        }
    }
}

/// A blob that is to stay is sent to the disk in strides of so much while it comes, so that the sync in the end finds little to do.
const STRIDE: u64 = 8 << 20;

/// Bytes flowing into a blob's file, its hash, and a layer's writer.
pub(crate) struct Flow {
    ingest: Ingest,
    hasher: Hasher,
    written: u64,
    #[cfg(feature = "registry")]
    resumed: bool,
    sink: Option<Sinking>,
    /// Why there is no sink any more.
    failure: Option<Error>,
}

struct Sinking {
    writer: Box<dyn LayerWriter>,
    layer: LayerInfo,
    /// Whether the layer will be in the sink afterwards.
    keeps: bool,
}

impl Sinking {
    fn begin(sink: &dyn LayerSink, layer: &LayerInfo) -> Result<Sinking, Error> {
        let writer = sink.begin(layer).map_err(|e| sink_failed(layer, e))?;
        Ok(Sinking { writer, layer: layer.clone(), keeps: sink.keeps() })
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.writer.write_all(bytes).map_err(|e| sink_failed(&self.layer, e.into()))
    }

    fn finish(self) -> Result<(), Error> {
        self.writer.finish().map_err(|e| sink_failed(&self.layer, e))
    }
}

fn sink_failed(layer: &LayerInfo, source: crate::SinkError) -> Error {
    Error::Sink { index: layer.index, digest: Box::new(layer.digest.clone()), source }
}

impl Flow {
    /// Begins a blob anew, whatever was there of it.
    pub(crate) fn from_start(ingest: Ingest) -> Result<Flow, Error> {
        let mut file = &ingest.file;
        file.set_len(0).and_then(|()| file.rewind()).map_err(disk("write", &ingest.path))?;
        let hasher = Hasher::new(ingest.digest.algorithm());
        Ok(Flow {
            ingest,
            hasher,
            written: 0,
            #[cfg(feature = "registry")]
            resumed: false,
            sink: None,
            failure: None,
        })
    }

    /// Lets a sink see all of a layer's bytes; before the first one.
    pub(crate) fn with_sink(self, sink: &dyn LayerSink, layer: &LayerInfo) -> Result<Flow, Error> {
        Ok(Flow { sink: Some(Sinking::begin(sink, layer)?), ..self })
    }

    /// Begins a blob, or continues it where an interrupted pull stopped. The sink sees all of it.
    #[cfg(feature = "registry")]
    pub(crate) fn resume(ingest: Ingest, sink: Option<(&dyn LayerSink, &LayerInfo)>) -> Result<Flow, Error> {
        let there = ingest.file.metadata().map_err(disk("look at", &ingest.path))?.len();
        let sink = match sink {
            Some((sink, layer)) => Some(Sinking::begin(sink, layer)?),
            None => None,
        };
        if there == 0 || there > ingest.size {
            return Ok(Flow { sink, ..Flow::from_start(ingest)? });
        }
        let hasher = Hasher::new(ingest.digest.algorithm());
        let mut flow = Flow { ingest, hasher, written: 0, resumed: true, sink, failure: None };
        let mut file = &flow.ingest.file;
        file.rewind().map_err(disk("read", &flow.ingest.path))?;
        let mut buffer = vec![0; CHUNK];
        while flow.written < there {
            let n = (&flow.ingest.file).read(&mut buffer).map_err(disk("read", &flow.ingest.path))?;
            if n == 0 {
                break;
            }
            flow.see(&buffer[..n])?;
        }
        Ok(flow)
    }

    /// How many bytes are here.
    #[cfg(feature = "registry")]
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Whether a wrong digest may be the fault of what an earlier pull left.
    #[cfg(feature = "registry")]
    pub(crate) fn resumed(&self) -> bool {
        self.resumed
    }

    fn see(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len() as u64;
        if self.written > self.ingest.size {
            let error = self.ingest.corrupt(format!("{} bytes", self.ingest.size), "more".into());
            self.ingest.remove();
            return Err(error);
        }
        self.hasher.update(bytes);
        let Some(sink) = &mut self.sink else {
            return Ok(());
        };
        let Err(error) = sink.take(bytes) else {
            return Ok(());
        };
        // What came may be to blame: the digest will tell.
        self.sink = None;
        if self.ingest.size - self.written > DOUBT {
            self.ingest.remove();
            return Err(error);
        }
        self.failure = Some(error);
        Ok(())
    }

    /// Takes the next bytes: never more than were announced.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if self.written + bytes.len() as u64 <= self.ingest.size {
            (&self.ingest.file).write_all(bytes).map_err(disk("write", &self.ingest.path))?;
            self.hasten(bytes.len() as u64);
        }
        self.see(bytes)
    }

    /// Lets the disk begin with what is written of a blob that stays, though nobody waits for it yet.
    fn hasten(&self, more: u64) {
        let strides = self.written / STRIDE..(self.written + more) / STRIDE;
        if strides.is_empty() || !self.ingest.store.hastens() {
            return;
        }
        // Of pages that are dirty the kernel begins to write, of those that are written it gives back the memory: nobody reads them soon.
        let length = NonZero::new((strides.end - strides.start) * STRIDE);
        let _ = rustix::fs::fadvise(&self.ingest.file, strides.start * STRIDE, length, Advice::DontNeed);
    }

    /// All bytes were taken: checks them, publishes the layer in the sink, then the blob in the store.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        if self.written != self.ingest.size {
            // Shorter is what a broken connection looks like too: what came is kept, and continued after.
            return Err(self.ingest.corrupt(format!("{} bytes", self.ingest.size), format!("{} bytes", self.written)));
        }
        let got = self.hasher.finish();
        if got != self.ingest.digest {
            let error = self.ingest.corrupt(self.ingest.digest.to_string(), got.to_string());
            self.ingest.remove();
            return Err(error);
        }
        let store = &self.ingest.store;
        // The blob is right: it's kept, whatever its sink says.
        let sunk = match (self.failure, self.sink) {
            (Some(failure), _) => Err(failure),
            (None, Some(sink)) => {
                let may_go = sink.keeps && !store.keeps_blobs();
                sink.finish().map(|()| may_go)
            }
            (None, None) => Ok(false),
        };
        if let Ok(true) = sunk {
            self.ingest.remove();
            return Ok(());
        }
        if store.syncs_layers() {
            self.ingest.file.sync_all().map_err(disk("sync", &self.ingest.path))?;
        }
        let blob = &self.ingest.blob;
        let dir = blob.parent().expect("a blob is in a directory");
        let _ = fs::DirBuilder::new().mode(0o700).create(dir);
        fs::rename(&self.ingest.path, blob).map_err(disk("make the blob", blob))?;
        self.ingest.gone = true;
        sunk.map(|_| ())
    }

    /// Gives the right back, and forgets what came.
    pub(crate) fn discard(self) {
        drop(self.sink);
        self.ingest.discard();
    }
}

/// What there is of a layer.
pub(crate) enum Prepared {
    /// It's in the sink.
    Done,
    /// Somebody else is bringing it: ask again.
    Busy,
    /// Its blob isn't in the store, and bringing it is the caller's right now.
    Missing(Ingest),
}

/// Finds out what there is of a layer, and unpacks it if its blob is in the store.
pub(crate) fn prepare(store: &Store, layer: &LayerInfo, sink: &dyn LayerSink, image: &str) -> Result<Prepared, Error> {
    store.name([&layer.digest, &layer.diff_id])?;
    if sink.contains(layer) {
        return Ok(Prepared::Done);
    }
    let part = format!("layer {}", layer.index);
    let ingest = match Ingest::begin(store, &layer.digest, layer.size, image, &part)? {
        Begin::Busy => return Ok(Prepared::Busy),
        Begin::Ready(ingest) => ingest,
    };
    // Whoever had the lock a moment ago may have brought it.
    if sink.contains(layer) {
        ingest.discard();
        return Ok(Prepared::Done);
    }
    let Some(blob) = store.blob(&layer.digest)? else {
        return Ok(Prepared::Missing(ingest));
    };
    if unpack_blob(&ingest, &blob, sink, layer)? {
        ingest.discard();
        return Ok(Prepared::Done);
    }
    tracing::warn!(path = %ingest.blob.display(), "a blob is damaged and was removed");
    fs::remove_file(&ingest.blob).map_err(disk("remove the damaged", &ingest.blob))?;
    Ok(Prepared::Missing(ingest))
}

/// Gives a blob that is in the store to the sink; false when the blob is damaged.
fn unpack_blob(ingest: &Ingest, blob: &File, sink: &dyn LayerSink, layer: &LayerInfo) -> Result<bool, Error> {
    let length = blob.metadata().map_err(disk("look at", &ingest.blob))?.len();
    if length != layer.size {
        return Ok(false);
    }
    let mut sinking = Sinking::begin(sink, layer)?;
    let mut hasher = Hasher::new(layer.digest.algorithm());
    let mut failure = None;
    let mut buffer = vec![0; CHUNK];
    loop {
        let n = (&*blob).read(&mut buffer).map_err(disk("read", &ingest.blob))?;
        if n == 0 {
            break;
        }
        hasher.update(&buffer[..n]);
        // A damaged blob may well make the sink fail: know first which it was.
        if failure.is_none() {
            failure = sinking.take(&buffer[..n]).err();
        }
    }
    if hasher.finish() != layer.digest {
        return Ok(false);
    }
    match failure {
        Some(error) => Err(error),
        None => sinking.finish().map(|()| true),
    }
}
