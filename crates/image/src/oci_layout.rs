//! Images in a directory: the OCI image layout (OCI image-spec, image-layout.md), as `skopeo`, `buildah` and `umoci` write it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, disk, shortened};
use crate::image::Image;
use crate::import::{Blobs, Import, Report};
use crate::manifest::{Document, Index, MANIFEST_MAX};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::sink::LayerSink;
use crate::store::Store;

/// The annotation that names an image in a layout's index.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The annotation by which containerd, Docker and we tell the whole reference, where [`REF_NAME`] is the tag alone.
pub(crate) const FULL_NAME: &str = "io.containerd.image.name";

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
    progress: Report<'a>,
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
        let wanted = vec![(vec![self.reference_for(entry)], entry.clone())];
        let mut images = Import::new(self, &self.platform, store, sink, &self.progress)?.run(wanted)?;
        Ok(images.swap_remove(0))
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
        if let Some(name) = entry.annotations.get(FULL_NAME)
            && let Ok(reference) = name.parse()
        {
            return reference;
        }
        let name = entry.annotations.get(REF_NAME).map(String::as_str).unwrap_or("latest");
        if name.contains('/')
            && let Ok(reference) = name.parse()
        {
            return reference;
        }
        let dir = self.dir.canonicalize().unwrap_or_else(|_| self.dir.clone());
        local(&dir.file_name().unwrap_or_default().to_string_lossy(), name, &entry.digest)
    }

    fn shown(&self) -> String {
        match &self.name {
            Some(name) => format!("{}:{name}", self.dir.display()),
            None => self.dir.display().to_string(),
        }
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.algorithm().as_str()).join(digest.hex())
    }
}

impl Blobs for OciLayout<'_> {
    fn blob(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send + '_>>, Error> {
        match open(&self.blob_path(digest)) {
            Ok(file) => Ok(Some(Box::new(file))),
            Err(Error::Disk { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        self.blob_path(digest)
    }

    fn shown(&self) -> (String, &'static str) {
        (OciLayout::shown(self), "layout")
    }
}

/// A reference for an image that has none: `localhost/`, what it came from, and its name there.
pub(crate) fn local(from: &str, name: &str, digest: &Digest) -> Reference {
    let allowed = |c: char| {
        if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }
    };
    let from: String = from.to_lowercase().chars().take(100).map(allowed).collect();
    let from = from.trim_matches('-');
    let repository = if from.is_empty() { "layout" } else { from };
    let named = format!("localhost/{repository}:{name}").parse();
    named.unwrap_or_else(|_| format!("localhost/{repository}@{digest}").parse().expect("letters, digits and dashes are a name"))
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
pub(crate) fn open(path: &Path) -> Result<File, Error> {
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
