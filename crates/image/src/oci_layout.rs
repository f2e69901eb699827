//! Images in a directory: the OCI image layout (OCI image-spec, image-layout.md), as `skopeo`, `buildah` and `umoci` write it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::num::NonZero;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

use crate::config::CONFIG_MAX;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, disk, shortened};
use crate::image::Image;
use crate::ingest::{Flow, Prepared, prepare};
use crate::manifest::{Document, Index, MANIFEST_MAX};
use crate::platform::Platform;
use crate::progress::{Progress, STEP};
use crate::reference::Reference;
use crate::sink::{LayerInfo, LayerSink};
use crate::store::{PATIENCE, Record, Store, image};

/// The annotation that names an image in a layout's index.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// How deep indexes may lie in indexes.
pub(crate) const DEPTH: usize = 3;

/// An OCI image layout, and which image of it is meant.
///
/// Importing needs no network, no privilege and no async runtime. Every byte is checked against its digest.
///
/// ```no_run
/// use coracle_image::{NoSink, OciLayout, Store};
///
/// let store = Store::open("/var/lib/example/store")?;
/// let image = OciLayout::open("./debian-layout:12")?.import(&store, &NoSink)?;
/// println!("{:?}", image.config.cmd);
/// # Ok::<(), coracle_image::Error>(())
/// ```
#[must_use]
pub struct OciLayout<'a> {
    dir: PathBuf,
    index: Index,
    name: Option<String>,
    platform: Platform,
    reference: Option<Reference>,
    progress: Option<Box<dyn Fn(Progress) + Send + Sync + 'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Marker {
    image_layout_version: String,
}

impl<'a> OciLayout<'a> {
    /// Opens a layout: `DIR`, or `DIR:NAME` where `DIR:NAME` isn't itself a directory.
    ///
    /// # Errors
    /// [`Error::NotALayout`], [`Error::Document`] for its index, [`Error::Disk`].
    pub fn open(path: impl AsRef<Path>) -> Result<OciLayout<'a>, Error> {
        let (dir, name) = split(path.as_ref());
        let not_a_layout = |why: &str| Error::NotALayout { path: dir.clone(), why: why.to_owned() };
        let marker = match read(&dir.join("oci-layout"), 1 << 16) {
            Ok(bytes) => bytes,
            Err(Error::Disk { source, .. }) if matches!(source.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(not_a_layout(match dir.is_dir() {
                    true => "it has no file `oci-layout`",
                    false => "there is no such directory",
                }));
            }
            Err(error) => return Err(error),
        };
        let marker: Marker =
            serde_json::from_slice(&marker).map_err(|_| not_a_layout("its file `oci-layout` has no imageLayoutVersion"))?;
        if !marker.image_layout_version.starts_with("1.") {
            let version = shortened(&marker.image_layout_version);
            return Err(not_a_layout(&format!("its version is {version:?}, and only 1.x is known")));
        }
        let path = dir.join("index.json");
        let bytes = match read(&path, MANIFEST_MAX) {
            Err(Error::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                return Err(not_a_layout("it has no file `index.json`"));
            }
            other => other?,
        };
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) => Ok(OciLayout { dir, index, name, platform: Platform::host(), reference: None, progress: None }),
            Ok(Document::Manifest(_)) => Err(not_a_layout("its `index.json` is a manifest")),
            Err(source) => Err(Error::Document { image: dir.display().to_string(), part: "the index.json".into(), source }),
        }
    }

    /// The names of the images in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.index.manifests.iter().filter_map(|d| d.annotations.get(REF_NAME).cloned()).collect();
        names.sort();
        names.dedup();
        names
    }

    /// Which image is meant, by its name; needed only where there are several.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// For which platform; that of this program unless said.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// What the image is called in the store. Unless said, it's the image's name in the layout where that is a whole reference, else
    /// `localhost/` and the directory's name, with the image's name as the tag.
    pub fn reference(mut self, reference: Reference) -> Self {
        self.reference = Some(reference);
        self
    }

    /// Calls back with every step, from any thread.
    pub fn progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'a) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }

    /// Brings the image into the store and its layers into the sink.
    ///
    /// # Errors
    /// [`Error::NoSuchName`], [`Error::NoSuchPlatform`], [`Error::Corrupt`], [`Error::Document`], [`Error::Sink`], [`Error::Disk`].
    pub fn import(&self, store: &Store, sink: &dyn LayerSink) -> Result<Image, Error> {
        let entry = self.entry()?;
        let reference = self.reference_for(entry);
        self.report(Progress::Resolving { reference: reference.clone() });

        let (mut descriptor, mut depth) = (entry.clone(), 0);
        let manifest = loop {
            let bytes = self.document(&descriptor, "the manifest", MANIFEST_MAX)?;
            let document =
                Document::parse(&bytes).map_err(|source| Error::Document { image: self.shown(), part: "the manifest".into(), source })?;
            store.put(&descriptor.digest, &bytes, &self.shown(), "the manifest")?;
            match document {
                Document::Manifest(manifest) => break manifest,
                Document::Index(index) if depth < DEPTH => {
                    descriptor = index.choose(&self.platform).cloned().ok_or_else(|| Error::NoSuchPlatform {
                        image: self.shown(),
                        wanted: Box::new(self.platform.clone()),
                        available: index.platforms(),
                    })?;
                    depth += 1;
                }
                Document::Index(_) => {
                    return Err(Error::NotALayout { path: self.dir.clone(), why: "its indexes lie too deep".into() });
                }
            }
        };
        let config = self.document(&manifest.config, "the config", CONFIG_MAX)?;
        store.put(&manifest.config.digest, &config, &self.shown(), "the config")?;
        let image = image(reference, self.platform.clone(), descriptor.digest.clone(), &manifest, &config)?;
        let _lease = store.lease(&image)?;
        self.layers(&image, store, sink)?;

        let record = Record::new(&image.reference, &image.platform, &entry.digest, &image.digest);
        if store.record(&image.reference, &image.platform)?.as_ref() != Some(&record) {
            store.publish(&record)?;
        }
        self.report(Progress::Done { reference: image.reference.clone(), digest: image.digest.clone() });
        Ok(image)
    }

    /// All layers, the largest first, as many at once as there are cores.
    fn layers(&self, image: &Image, store: &Store, sink: &dyn LayerSink) -> Result<(), Error> {
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
                if let Err(error) = self.layer(layer, store, sink) {
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

    fn layer(&self, layer: &LayerInfo, store: &Store, sink: &dyn LayerSink) -> Result<(), Error> {
        let prepared = loop {
            match prepare(store, layer, sink, &self.shown())? {
                Prepared::Busy => std::thread::sleep(PATIENCE),
                prepared => break prepared,
            }
        };
        if let Prepared::Missing(ingest) = prepared {
            let path = self.blob_path(&layer.digest);
            let mut file = self.open_blob(&layer.digest, &format!("layer {}", layer.index))?;
            // What an interrupted import left is as quickly read anew.
            let mut flow = Flow::from_start(ingest)?.with_sink(sink, layer)?;
            let mut buffer = vec![0; 128 << 10];
            let (mut done, mut shown) = (0, 0);
            self.report(Progress::Layer { digest: layer.digest.clone(), done, total: layer.size });
            loop {
                let n = file.read(&mut buffer).map_err(disk("read", &path))?;
                if n == 0 {
                    break;
                }
                flow.take(&buffer[..n])?;
                done += n as u64;
                if done - shown >= STEP || done == layer.size {
                    self.report(Progress::Layer { digest: layer.digest.clone(), done, total: layer.size });
                    shown = done;
                }
            }
            flow.finish()?;
        }
        self.report(Progress::Unpacked { digest: layer.digest.clone() });
        Ok(())
    }

    /// The entry of `index.json` that is meant.
    fn entry(&self) -> Result<&Descriptor, Error> {
        let no_such_name = || Error::NoSuchName { path: self.dir.clone(), wanted: self.name.clone(), available: self.names() };
        let entries = &self.index.manifests;
        let named: Vec<&Descriptor> = match &self.name {
            Some(name) => entries.iter().filter(|d| d.annotations.get(REF_NAME) == Some(name)).collect(),
            None => entries.iter().collect(),
        };
        match named.as_slice() {
            [] => Err(no_such_name()),
            [only] => Ok(*only),
            several => {
                // One name may stand at one image for each platform.
                let index = Index { manifests: several.iter().map(|d| (*d).clone()).collect() };
                let distinct = |d: &&Descriptor| d.annotations.get(REF_NAME) != several[0].annotations.get(REF_NAME);
                if several.iter().any(distinct) || several.iter().any(|d| d.platform.is_none()) {
                    return Err(no_such_name());
                }
                let chosen = index.choose(&self.platform).ok_or_else(|| Error::NoSuchPlatform {
                    image: self.shown(),
                    wanted: Box::new(self.platform.clone()),
                    available: index.platforms(),
                })?;
                Ok(several.iter().copied().find(|d| d.digest == chosen.digest).unwrap_or(several[0]))
            }
        }
    }

    fn reference_for(&self, entry: &Descriptor) -> Reference {
        if let Some(reference) = &self.reference {
            return reference.clone();
        }
        let name = entry.annotations.get(REF_NAME).map(String::as_str).unwrap_or("latest");
        if name.contains('/')
            && let Ok(reference) = name.parse()
        {
            return reference;
        }
        let dir = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        let dir = dir.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
        let allowed = |c: char| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }
        };
        let dir: String = dir.chars().take(100).map(allowed).collect();
        let dir = dir.trim_matches('-');
        let repository = if dir.is_empty() { "layout" } else { dir };
        let named = format!("localhost/{repository}:{name}").parse();
        named.unwrap_or_else(|_| format!("localhost/{repository}@{}", entry.digest).parse().expect("letters, digits and dashes are a name"))
    }

    fn shown(&self) -> String {
        match &self.name {
            Some(name) => format!("{}:{name}", self.dir.display()),
            None => self.dir.display().to_string(),
        }
    }

    fn report(&self, progress: Progress) {
        if let Some(callback) = &self.progress {
            callback(progress);
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }

    fn open_blob(&self, digest: &Digest, part: &str) -> Result<File, Error> {
        let path = self.blob_path(digest);
        open(&path).map_err(|error| match error {
            Error::Disk { source, .. } if source.kind() == io::ErrorKind::NotFound => Error::Corrupt {
                image: self.shown(),
                part: part.to_owned(),
                expected: digest.to_string(),
                got: "nothing: its blob isn't in the layout".into(),
            },
            error => error,
        })
    }

    /// A manifest or a config, checked against what points to it.
    fn document(&self, descriptor: &Descriptor, part: &str, max: u64) -> Result<Vec<u8>, Error> {
        let corrupt = |expected, got| Err(Error::Corrupt { image: self.shown(), part: part.to_owned(), expected, got });
        if descriptor.size > max {
            return corrupt(format!("at most {max} bytes"), format!("{} bytes", descriptor.size));
        }
        let mut bytes = Vec::new();
        let file = self.open_blob(&descriptor.digest, part)?;
        let path = self.blob_path(&descriptor.digest);
        file.take(descriptor.size + 1).read_to_end(&mut bytes).map_err(disk("read", &path))?;
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
}

impl std::fmt::Debug for OciLayout<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OciLayout")
            .field("dir", &self.dir)
            .field("name", &self.name)
            .field("platform", &self.platform)
            .finish_non_exhaustive()
    }
}

fn split(path: &Path) -> (PathBuf, Option<String>) {
    if !path.exists()
        && let Some((dir, name)) = path.to_str().and_then(|text| text.rsplit_once(':'))
        && !name.contains('/')
        && fs::metadata(dir).is_ok_and(|m| m.is_dir())
    {
        return (dir.into(), Some(name.to_owned()));
    }
    (path.to_owned(), None)
}

/// Opens a regular file; a FIFO or a device that stands in its place blocks nobody.
fn open(path: &Path) -> Result<File, Error> {
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(disk("open", path))?;
    if !file.metadata().map_err(disk("look at", path))?.is_file() {
        return Err(disk("read", path)(io::Error::new(io::ErrorKind::InvalidInput, "it isn't a regular file")));
    }
    Ok(file)
}

fn read(path: &Path, max: u64) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    open(path)?.take(max + 1).read_to_end(&mut bytes).map_err(disk("read", path))?;
    if bytes.len() as u64 > max {
        let error = io::Error::new(io::ErrorKind::FileTooLarge, format!("it is longer than {max} bytes"));
        return Err(disk("read", path)(error));
    }
    Ok(bytes)
}
