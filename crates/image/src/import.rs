//! From the blobs of a layout or an archive into the store and a sink.
//!
//! Every byte is checked against its digest. What fails leaves nothing: what it had brought goes again, unless somebody else needs it
//! by then.

use std::io::Read;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::collect::Needs;
use crate::config::CONFIG_MAX;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, disk};
use crate::image::Image;
use crate::ingest::{Flow, Prepared, prepare};
use crate::manifest::{Document, MANIFEST_MAX};
use crate::oci_layout::DEPTH;
use crate::platform::Platform;
use crate::progress::{Progress, STEP};
use crate::reference::Reference;
use crate::sink::{LayerInfo, LayerSink};
use crate::store::{PATIENCE, Record, Store, image};

/// Where blobs come from.
pub(crate) trait Blobs: Sync {
    /// Opens one, if it's there.
    fn blob(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send + '_>>, Error>;

    /// Where one is read from, for a message about the disk.
    fn place(&self, digest: &Digest) -> PathBuf;

    /// What a message calls the whole, and its kind: `layout` or `archive`.
    fn shown(&self) -> (String, &'static str);
}

/// What an import calls back with every step.
pub(crate) type Report<'a> = Option<Box<dyn Fn(Progress) + Send + Sync + 'a>>;

/// An import on its way.
pub(crate) struct Import<'a> {
    blobs: &'a dyn Blobs,
    platform: &'a Platform,
    /// A session: nobody prunes what we found or brought.
    store: Store,
    /// Whose session, if it has one, holds that afterwards.
    outer: &'a Store,
    sink: &'a dyn LayerSink,
    report: &'a Report<'a>,
    brought: Mutex<Needs>,
}

impl<'a> Import<'a> {
    pub(crate) fn new(
        blobs: &'a dyn Blobs,
        platform: &'a Platform,
        store: &'a Store,
        sink: &'a dyn LayerSink,
        report: &'a Report<'a>,
    ) -> Result<Import<'a>, Error> {
        Ok(Import { blobs, platform, store: store.session()?, outer: store, sink, report, brought: Mutex::default() })
    }

    /// Brings images in, all or none, each under its references; `entry` is what an index says of it.
    pub(crate) fn run(self, wanted: Vec<(Vec<Reference>, Descriptor)>) -> Result<Vec<Image>, Error> {
        let mut done = Vec::new();
        for (references, entry) in wanted {
            for reference in references.iter().take(1) {
                self.tell(Progress::Resolving { reference: reference.clone() });
            }
            match self.image(&references, &entry) {
                Ok(images) => done.extend(images),
                Err(error) => {
                    self.undo();
                    return Err(error);
                }
            }
        }
        let publish = || {
            let mut records = Vec::new();
            for (image, resolved) in &done {
                let record = Record::new(&image.reference, &image.platform, resolved, &image.digest);
                if self.store.record(&image.reference, &image.platform)?.as_ref() != Some(&record) {
                    records.push(record);
                }
            }
            self.store.publish_all(&records)?;
            for (image, _) in &done {
                self.tell(Progress::Done { reference: image.reference.clone(), digest: image.digest.clone() });
            }
            self.store.hand_over(self.outer)
        };
        match publish() {
            Ok(()) => Ok(done.into_iter().map(|(image, _)| image).collect()),
            Err(error) => {
                self.undo();
                Err(error)
            }
        }
    }

    /// One image, whole but for its names.
    fn image(&self, references: &[Reference], entry: &Descriptor) -> Result<Vec<(Image, Digest)>, Error> {
        let (mut descriptor, mut depth) = (entry.clone(), 0);
        let manifest = loop {
            let bytes = self.document(&descriptor, "the manifest", MANIFEST_MAX)?;
            let document =
                Document::parse(&bytes).map_err(|source| Error::Document { image: self.shown(), part: "the manifest".into(), source })?;
            self.put(&descriptor.digest, &bytes, "the manifest")?;
            match document {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) if depth < DEPTH => {
                    descriptor = index.choose(self.platform).cloned().ok_or_else(|| Error::NoSuchPlatform {
                        image: self.shown(),
                        wanted: Box::new(self.platform.clone()),
                        available: index.platforms(),
                    })?;
                    depth += 1;
                }
                Document::Index(_) => {
                    let (image, part) = (self.shown(), "the index".to_owned());
                    let (expected, got) = ("a manifest".into(), "indexes within indexes".into());
                    return Err(Error::Corrupt { image, part, expected, got });
                }
            }
        };
        let config = self.document(&manifest.config, "the config", CONFIG_MAX)?;
        self.put(&manifest.config.digest, &config, "the config")?;
        let named = |reference: &Reference| image(reference.clone(), self.platform.clone(), descriptor.digest.clone(), &manifest, &config);
        let images: Result<Vec<Image>, Error> = references.iter().map(named).collect();
        let images = images?;
        if let Some(image) = images.first() {
            self.layers(image)?;
        }
        Ok(images.into_iter().map(|image| (image, entry.digest.clone())).collect())
    }

    fn put(&self, digest: &Digest, bytes: &[u8], part: &str) -> Result<(), Error> {
        self.store.name([digest])?;
        if !self.store.blob_path(digest).exists() {
            self.brought.lock().unwrap_or_else(|e| e.into_inner()).add_blob(digest);
        }
        self.store.put(digest, bytes, &self.shown(), part)
    }

    /// All layers, the largest first, as many at once as there are cores.
    fn layers(&self, image: &Image) -> Result<(), Error> {
        let mut layers: Vec<&LayerInfo> = image.layers.iter().collect();
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<Error>> = Mutex::new(None);
        let set = |error| {
            let mut failure = failure.lock().unwrap_or_else(|e| e.into_inner());
            failure.get_or_insert(error);
            next.store(layers.len(), Ordering::Relaxed);
        };
        let work = || {
            while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                if let Err(error) = self.layer(layer) {
                    set(error);
                }
            }
        };
        let workers = std::thread::available_parallelism().map_or(1, NonZero::get).min(layers.len());
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(work);
            }
            work();
        });
        failure.into_inner().unwrap_or_else(|e| e.into_inner()).map_or(Ok(()), Err)
    }

    fn layer(&self, layer: &LayerInfo) -> Result<(), Error> {
        self.store.name([&layer.digest, &layer.diff_id])?;
        if !self.sink.contains(layer) {
            self.brought.lock().unwrap_or_else(|e| e.into_inner()).add_layer(&layer.diff_id);
        }
        let prepared = loop {
            match prepare(&self.store, layer, self.sink, &self.shown())? {
                Prepared::Busy => std::thread::sleep(PATIENCE),
                prepared => break prepared,
            }
        };
        if let Prepared::Missing(ingest) = prepared {
            self.brought.lock().unwrap_or_else(|e| e.into_inner()).add_blob(&layer.digest);
            // What an interrupted import left is as quickly read anew.
            let mut flow = Flow::from_start(ingest)?.with_sink(self.sink, layer)?;
            match self.copy(layer, &mut flow) {
                Ok(()) => flow.finish()?,
                Err(error) => {
                    // Nobody continues after it, and where the disk is full its room is needed.
                    flow.discard();
                    return Err(error);
                }
            }
        }
        self.tell(Progress::Unpacked { digest: layer.digest.clone() });
        Ok(())
    }

    fn copy(&self, layer: &LayerInfo, flow: &mut Flow) -> Result<(), Error> {
        let mut file = self.open(&layer.digest, &format!("layer {}", layer.index))?;
        let mut buffer = vec![0; 128 << 10];
        let (mut done, mut shown) = (0, 0);
        self.tell(Progress::Layer { digest: layer.digest.clone(), done, total: layer.size });
        loop {
            let n = match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(disk("read", &self.blobs.place(&layer.digest))(e)),
            };
            flow.take(&buffer[..n])?;
            done += n as u64;
            if done - shown >= STEP || done == layer.size {
                self.tell(Progress::Layer { digest: layer.digest.clone(), done, total: layer.size });
                shown = done;
            }
        }
        if done != layer.size {
            let (image, part) = (self.shown(), format!("layer {}", layer.index));
            return Err(Error::Corrupt { image, part, expected: format!("{} bytes", layer.size), got: format!("{done} bytes") });
        }
        Ok(())
    }

    fn open(&self, digest: &Digest, part: &str) -> Result<Box<dyn Read + Send + '_>, Error> {
        self.blobs.blob(digest)?.ok_or_else(|| Error::Corrupt {
            image: self.shown(),
            part: part.to_owned(),
            expected: digest.to_string(),
            got: format!("nothing: its blob isn't in the {}", self.blobs.shown().1),
        })
    }

    /// A manifest or a config, checked against what points to it.
    fn document(&self, descriptor: &Descriptor, part: &str, max: u64) -> Result<Vec<u8>, Error> {
        let corrupt = |expected, got| Err(Error::Corrupt { image: self.shown(), part: part.to_owned(), expected, got });
        if descriptor.size > max {
            return corrupt(format!("at most {max} bytes"), format!("{} bytes", descriptor.size));
        }
        let mut bytes = Vec::new();
        let file = self.open(&descriptor.digest, part)?;
        file.take(descriptor.size + 1).read_to_end(&mut bytes).map_err(disk("read", &self.blobs.place(&descriptor.digest)))?;
        if bytes.len() as u64 != descriptor.size {
            let got = if bytes.len() as u64 > descriptor.size { "more".into() } else { format!("{} bytes", bytes.len()) };
            return corrupt(format!("{} bytes", descriptor.size), got);
        }
        let digest = Digest::of(descriptor.digest.algorithm(), &bytes);
        if digest != descriptor.digest {
            return corrupt(descriptor.digest.to_string(), digest.to_string());
        }
        Ok(bytes)
    }

    /// Takes back what was brought in vain, as far as nobody else needs it by now.
    fn undo(self) {
        let (store, sink, shown) = (self.store.without_session(), self.sink, self.shown());
        let brought = self.brought.into_inner().unwrap_or_else(|e| e.into_inner());
        // Its lease goes, so that it isn't us who need it.
        drop(self.store);
        if let Err(error) = store.forget(brought, sink).and_then(|()| store.empty_trash()) {
            tracing::warn!(import = shown, %error, "what a failed import brought stays until the next prune");
        }
    }

    fn shown(&self) -> String {
        self.blobs.shown().0
    }

    fn tell(&self, progress: Progress) {
        if let Some(callback) = self.report {
            callback(progress);
        }
    }
}
