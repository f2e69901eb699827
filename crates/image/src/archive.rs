//! Images in one file: archives of `docker save`, `podman save`, `skopeo copy` and our own.
//!
//! Three forms, told apart by what is in them:
//!
//! * an OCI layout (`oci-layout`, `index.json`, `blobs/`), which Docker writes since version 25 with a `manifest.json` beside it;
//! * `manifest.json` with the paths of configs and layers: Docker 1.10 to 24, and skopeo's and podman's `docker-archive`;
//! * `repositories` with a directory for each layer (`json`, `layer.tar`, `VERSION`): Docker before 1.10.
//!
//! Any of them may be compressed by gzip or zstd. A plain file is read where it lies. What can't be read twice (standard input, a pipe,
//! something compressed) is first written to a file without a name in the store, because a manifest may stand behind its layers; it
//! goes with this process.

mod compression;
mod entries;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Seek};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Value, json};

pub(crate) use self::compression::Compression;
use self::entries::{Entries, Refusal, Section};
use crate::config::{CONFIG_MAX, ImageConfig};
use crate::descriptor::Descriptor;
use crate::digest::{Algorithm, Digest, Hasher};
use crate::error::{Error, disk, shortened};
use crate::image::Image;
use crate::import::{Blobs, Import, Report};
use crate::manifest::{Document, MANIFEST_MAX, OCI_MANIFEST};
use crate::oci_layout::{FULL_NAME, REF_NAME, local, open};
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::sink::LayerSink;
use crate::store::{Store, unique};

/// The most bytes of something compressed, inflated: 1 TiB.
const INFLATED: u64 = 1 << 40;

/// The most images in an archive, and layers in an image.
const IMAGES: usize = 10_000;
const LAYERS: usize = 10_000;

/// How deep a legacy image's layers may lie on each other: Docker had at most 127.
const LEGACY_DEPTH: usize = 1024;

/// An archive of images.
///
/// Loading needs no network, no privilege and no async runtime. Every byte of an image is checked against its digest; what leads out
/// of the archive, stands in it twice, or is cut off is refused before anything is brought in.
///
/// ```no_run
/// use coracle_image::{Archive, NoSink, Store};
///
/// let store = Store::open("/var/lib/example/store")?;
/// for image in Archive::open("images.tar.gz", &store)?.import(&store, &NoSink)? {
///     println!("{}", image.reference);
/// }
/// # Ok::<(), coracle_image::Error>(())
/// ```
#[must_use]
pub struct Archive<'a> {
    /// For messages.
    shown: String,
    /// What images without a name are named after.
    stem: String,
    file: File,
    entries: Entries,
    /// Documents that we made, and layers whose digests aren't their names.
    made: HashMap<Digest, Vec<u8>>,
    sections: HashMap<Digest, Section>,
    images: Vec<(Vec<Reference>, Descriptor)>,
    platform: Platform,
    progress: Report<'a>,
}

impl<'a> Archive<'a> {
    /// Opens a file. `store` is where it's inflated to, if it is compressed.
    ///
    /// # Errors
    /// [`Error::Archive`] for what isn't an archive of images, [`Error::Document`] for what is wrong in a document of it,
    /// [`Error::Disk`].
    pub fn open(path: impl AsRef<Path>, store: &Store) -> Result<Archive<'a>, Error> {
        let path = path.as_ref();
        let shown = path.display().to_string();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let stem = name.split(".tar").next().unwrap_or_default().trim_end_matches(".tgz").to_owned();
        if path.is_dir() {
            return Err(Error::Archive { archive: shown, why: "it is a directory".into() });
        }
        let mut file = match open(path) {
            Ok(file) => file,
            // A pipe, as of `<(…)` in a shell, is as good as standard input.
            Err(Error::Disk { source, .. }) if source.kind() == io::ErrorKind::InvalidInput => {
                let file = File::open(path).map_err(disk("open", path))?;
                return Archive::spool(shown, stem, file, store);
            }
            Err(error) => return Err(error),
        };
        let mut head = [0; 6];
        let n = read_full(&mut file, &mut head).map_err(disk("read", path))?;
        file.rewind().map_err(disk("read", path))?;
        match kind(&shown, &head[..n])? {
            Compression::No => Archive::of(shown, stem, file),
            _ => Archive::spool(shown, stem, file, store),
        }
    }

    /// Reads an archive from wherever to its end, in bounded memory: it's written to a file without a name in the store. `shown` is
    /// what messages call it: `standard input`.
    ///
    /// # Errors
    /// As [`open`](Archive::open).
    pub fn read(source: impl Read + Send, shown: &str, store: &Store) -> Result<Archive<'a>, Error> {
        Archive::spool(shown.to_owned(), "loaded".to_owned(), source, store)
    }

    fn spool(shown: String, stem: String, mut source: impl Read + Send, store: &Store) -> Result<Archive<'a>, Error> {
        let reading = |e| match e {
            // What a decoder says of its bytes, and not what the system says of a file.
            e if is_about_bytes(&e) => Error::Archive { archive: shown.clone(), why: format!("it can't be inflated: {e}") },
            e => disk("read", Path::new(&shown))(e),
        };
        let mut head = [0; 6];
        let n = read_full(&mut source, &mut head).map_err(reading)?;
        let compression = kind(&shown, &head[..n])?;
        let source = BufReader::with_capacity(128 << 10, io::Cursor::new(head[..n].to_vec()).chain(source));
        let mut source = compression.inflate(source).map_err(reading)?;
        let (mut file, place) = nameless(store)?;
        let mut buffer = vec![0; 128 << 10];
        let mut total = 0;
        loop {
            let n = match source.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(reading(e)),
            };
            total += n as u64;
            if total > INFLATED {
                return Err(Error::Archive { archive: shown, why: "it's longer than a terabyte".into() });
            }
            io::Write::write_all(&mut file, &buffer[..n]).map_err(disk("write", &place))?;
        }
        file.rewind().map_err(disk("read", &place))?;
        drop(source);
        Archive::of(shown, stem, file)
    }

    fn of(shown: String, stem: String, file: File) -> Result<Archive<'a>, Error> {
        let length = file.metadata().map_err(disk("look at", Path::new(&shown)))?.len();
        let entries = Entries::read(&file, length).map_err(|refusal| match refusal {
            Refusal::Malformed(why) => Error::Archive { archive: shown.clone(), why },
            Refusal::Io(source) => disk("read", Path::new(&shown))(source),
        })?;
        let (made, sections) = (HashMap::new(), HashMap::new());
        let mut archive =
            Archive { shown, stem, file, entries, made, sections, images: Vec::new(), platform: Platform::host(), progress: None };
        archive.images = archive.list()?;
        Ok(archive)
    }

    /// For which platform, where an image is there for several; this program's, unless this says otherwise.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Calls back with every step, from any thread.
    pub fn progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'a) -> Self {
        self.progress = Some(Box::new(callback));
        self
    }

    /// The names of the images in it, sorted. An image that has none isn't among them.
    pub fn names(&self) -> Vec<Reference> {
        let mut names: Vec<Reference> =
            self.images.iter().flat_map(|(references, _)| references).filter(|reference| reference.digest().is_none()).cloned().collect();
        names.sort();
        names.dedup();
        names
    }

    /// Brings all its images into the store and their layers into the sink: all or none. An image without a name gets one that is its
    /// digest: `localhost/FILE@sha256:…`. There is one [`Image`] for each name.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Document`], [`Error::NoSuchPlatform`], [`Error::Sink`], [`Error::Disk`].
    pub fn import(&self, store: &Store, sink: &dyn LayerSink) -> Result<Vec<Image>, Error> {
        Import::new(self, &self.platform, store, sink, &self.progress)?.run(self.images.clone())
    }

    /// What is in it, by whichever table of contents it has.
    fn list(&mut self) -> Result<Vec<(Vec<Reference>, Descriptor)>, Error> {
        let manifest = self.json::<Vec<Saved>>("manifest.json")?;
        if let Some(saved) = &manifest
            && (saved.len() > IMAGES || saved.iter().any(|saved| saved.layers.len() > LAYERS))
        {
            return Err(self.refuse("its manifest.json lists more images or layers than anybody has"));
        }
        let images = if self.entries.find("index.json").is_ok_and(|found| found.is_some()) {
            self.layout(&manifest.unwrap_or_default())?
        } else if let Some(saved) = manifest {
            let images: Result<Vec<_>, Error> = saved.iter().map(|saved| self.saved(saved)).collect();
            images?
        } else if let Some(repositories) = self.json::<BTreeMap<String, BTreeMap<String, String>>>("repositories")? {
            self.legacy(&repositories)?
        } else {
            return Err(self.refuse("it has neither an index.json nor a manifest.json"));
        };
        match images.is_empty() {
            true => Err(self.refuse("it holds no image")),
            false => Ok(images),
        }
    }

    /// An OCI layout, perhaps with a manifest.json that knows more names.
    fn layout(&mut self, saved: &[Saved]) -> Result<Vec<(Vec<Reference>, Descriptor)>, Error> {
        let bytes = self.bytes("index.json", MANIFEST_MAX)?.unwrap_or_default();
        let index = match Document::parse(&bytes) {
            Ok(Document::Index(index)) => index,
            Ok(Document::Manifest(_)) => return Err(self.refuse("its index.json is a manifest")),
            Err(source) => return Err(Error::Document { image: self.shown.clone(), part: "the index.json".into(), source }),
        };
        if index.manifests.len() > IMAGES {
            return Err(self.refuse("its index.json lists more images than anybody has"));
        }
        let mut images: Vec<(Vec<Reference>, Descriptor)> = Vec::new();
        for entry in index.manifests {
            let noted = entry.annotations.get(FULL_NAME).and_then(|name| name.parse::<Reference>().ok());
            let mut references: Vec<Reference> = noted.into_iter().collect();
            if references.is_empty() {
                references = self.tags_of(&entry, saved);
            }
            let name = entry.annotations.get(REF_NAME);
            if references.is_empty()
                && let Some(name) = name
            {
                let whole = name.contains('/').then(|| name.parse().ok()).flatten();
                references.push(whole.unwrap_or_else(|| local(&self.stem, name, &entry.digest)));
            }
            if references.is_empty() {
                references.push(self.nameless(&entry.digest));
            }
            // One image under several names is in the index as often.
            match images.iter_mut().find(|(_, known)| known.digest == entry.digest) {
                Some((known, _)) => known.extend(references),
                None => images.push((references, entry)),
            }
        }
        for (references, _) in &mut images {
            references.sort();
            references.dedup();
        }
        Ok(images)
    }

    /// The names in manifest.json of the image that has the same config.
    fn tags_of(&self, entry: &Descriptor, saved: &[Saved]) -> Vec<Reference> {
        let manifest = || {
            let section = self.section(&entry.digest).ok()??;
            let bytes = self.section_bytes(section, MANIFEST_MAX).ok()?;
            match Document::parse(&bytes) {
                Ok(Document::Manifest(manifest)) => Some(manifest),
                _ => None,
            }
        };
        let Some(manifest) = manifest() else {
            return Vec::new();
        };
        let of = |saved: &&Saved| saved.config.trim_end_matches(".json").ends_with(manifest.config.digest.hex());
        let tags = saved.iter().filter(of).flat_map(|saved| saved.repo_tags.iter().flatten());
        tags.filter_map(|tag| tag.parse().ok()).collect()
    }

    /// An image of manifest.json: a manifest is made for it.
    fn saved(&mut self, saved: &Saved) -> Result<(Vec<Reference>, Descriptor), Error> {
        let config =
            self.bytes(&saved.config, CONFIG_MAX)?.ok_or_else(|| self.refuse(format!("{} isn't in it", shortened(&saved.config))))?;
        let parsed = ImageConfig::parse(&config).map_err(|source| Error::Document {
            image: self.shown.clone(),
            part: format!("the config {}", shortened(&saved.config)),
            source,
        })?;
        if parsed.diff_ids.len() != saved.layers.len() {
            let why =
                format!("its manifest.json lists {} layers, and the config has {} diff_ids", saved.layers.len(), parsed.diff_ids.len());
            return Err(self.refuse(why));
        }
        let mut layers = Vec::new();
        for (path, diff_id) in saved.layers.iter().zip(&parsed.diff_ids) {
            layers.push(self.layer(path, Some(diff_id))?.0);
        }
        let mut references = Vec::new();
        for tag in saved.repo_tags.iter().flatten() {
            references.push(tag.parse::<Reference>().map_err(|e| self.refuse(e.to_string()))?);
        }
        references.sort();
        references.dedup();
        Ok(self.made(references, config, layers))
    }

    /// Images of a time before manifest.json: each layer names its parent.
    fn legacy(&mut self, repositories: &BTreeMap<String, BTreeMap<String, String>>) -> Result<Vec<(Vec<Reference>, Descriptor)>, Error> {
        let mut tops: BTreeMap<&str, Vec<Reference>> = BTreeMap::new();
        for (name, tags) in repositories {
            for (tag, top) in tags {
                let reference = format!("{name}:{tag}").parse::<Reference>().map_err(|e| self.refuse(e.to_string()))?;
                tops.entry(top).or_default().push(reference);
            }
        }
        if tops.len() > IMAGES {
            return Err(self.refuse("its `repositories` lists more images than anybody has"));
        }
        let mut images = Vec::new();
        for (top, references) in tops {
            let (mut layers, mut diff_ids, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
            let (mut id, mut described) = (top.to_owned(), None);
            loop {
                if !seen.insert(id.clone()) || seen.len() > LEGACY_DEPTH {
                    return Err(self.refuse(format!("the layers of {} lie on each other in a circle", shortened(top))));
                }
                let path = format!("{id}/json");
                let layer: LegacyLayer = self.json(&path)?.ok_or_else(|| self.refuse(format!("{} isn't in it", shortened(&path))))?;
                let (blob, diff_id) = self.layer(&format!("{id}/layer.tar"), None)?;
                layers.push(blob);
                diff_ids.push(diff_id.to_string());
                let parent = layer.parent.clone().filter(|parent| !parent.is_empty());
                described.get_or_insert(layer);
                match parent {
                    Some(parent) => id = parent,
                    None => break,
                }
            }
            layers.reverse();
            diff_ids.reverse();
            let LegacyLayer { created, architecture, os, config, .. } = described.unwrap_or_default();
            let mut whole = json!({
                "architecture": architecture.unwrap_or_else(|| Platform::host().architecture().to_owned()),
                "os": os.unwrap_or_else(|| "linux".to_owned()),
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            });
            if let Some(created) = created {
                whole["created"] = Value::String(created);
            }
            if let Some(config) = config {
                whole["config"] = config;
            }
            images.push(self.made(references, whole.to_string().into_bytes(), layers));
        }
        Ok(images)
    }

    /// A layer by its path in the archive, as a manifest names it, and its diffID. Plain archives are named by it already.
    fn layer(&mut self, path: &str, diff_id: Option<&Digest>) -> Result<(Descriptor, Digest), Error> {
        let section = self.find(path)?.ok_or_else(|| self.refuse(format!("{} isn't in it", shortened(path))))?;
        let mut head = vec![0; section.length.min(6) as usize];
        self.file.read_exact_at(&mut head, section.offset).map_err(disk("read", Path::new(&self.shown)))?;
        let compression = Compression::of(&head).map_err(|kind| self.refuse(format!("{} is compressed by {kind}", shortened(path))))?;
        let (digest, diff_id) = match (diff_id, compression) {
            // Whether it's true is found out when it's read.
            (Some(diff_id), Compression::No) => (diff_id.clone(), diff_id.clone()),
            (diff_id, compression) => {
                let (blob, inside) = self.hash(section, compression, diff_id.is_none())?;
                (blob, diff_id.cloned().or(inside).expect("it was asked for where there was none"))
            }
        };
        self.sections.insert(digest.clone(), section);
        Ok((Descriptor::new(compression.layer(), digest, section.length), diff_id))
    }

    /// Hashes a layer as it lies there and, if asked for, what is in it.
    fn hash(&self, section: Section, compression: Compression, inside: bool) -> Result<(Digest, Option<Digest>), Error> {
        let failed = |e: io::Error| match is_about_bytes(&e) {
            true => self.refuse(format!("a layer can't be inflated: {e}")),
            false => disk("read", Path::new(&self.shown))(e),
        };
        let digest = digest_of(self.reader(section)).map_err(failed)?;
        let diff_id = match inside {
            false => None,
            true => Some(digest_of(compression.inflate(BufReader::new(self.reader(section))).map_err(failed)?).map_err(failed)?),
        };
        Ok((digest, diff_id))
    }

    /// An image of parts, with a manifest of our own making: the same parts make the same manifest.
    fn made(&mut self, mut references: Vec<Reference>, config: Vec<u8>, layers: Vec<Descriptor>) -> (Vec<Reference>, Descriptor) {
        let (manifest, digest) = manifest_of(&config, &layers);
        let descriptor = Descriptor::new(OCI_MANIFEST, digest.clone(), manifest.len() as u64);
        if references.is_empty() {
            references.push(self.nameless(&digest));
        }
        self.made.insert(Digest::sha256(&config), config);
        self.made.insert(digest, manifest);
        (references, descriptor)
    }

    fn nameless(&self, digest: &Digest) -> Reference {
        // A tag can't have an `@`, so this is always named by its digest.
        local(&self.stem, "@", digest)
    }

    fn refuse(&self, why: impl Into<String>) -> Error {
        Error::Archive { archive: self.shown.clone(), why: why.into() }
    }

    fn find(&self, path: &str) -> Result<Option<Section>, Error> {
        self.entries.find(path).map_err(|why| self.refuse(format!("{:?}: {why}", shortened(path))))
    }

    fn section(&self, digest: &Digest) -> Result<Option<Section>, Error> {
        match self.sections.get(digest) {
            Some(section) => Ok(Some(*section)),
            None => self.find(&format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())),
        }
    }

    /// A document by its path.
    fn bytes(&self, path: &str, max: u64) -> Result<Option<Vec<u8>>, Error> {
        match self.find(path)? {
            None => Ok(None),
            Some(section) if section.length > max => {
                Err(self.refuse(format!("{} is {} bytes long; at most {max} are read", shortened(path), section.length)))
            }
            Some(section) => self.section_bytes(section, max).map(Some),
        }
    }

    fn section_bytes(&self, section: Section, max: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = vec![0; section.length.min(max) as usize];
        self.file.read_exact_at(&mut bytes, section.offset).map_err(disk("read", Path::new(&self.shown)))?;
        Ok(bytes)
    }

    fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Option<T>, Error> {
        let Some(bytes) = self.bytes(path, CONFIG_MAX)? else {
            return Ok(None);
        };
        match serde_json::from_slice(&bytes) {
            Ok(parsed) => Ok(Some(parsed)),
            Err(e) => Err(self.refuse(format!("its {} isn't as it should be: {}", shortened(path), shortened(&e.to_string())))),
        }
    }

    fn reader(&self, section: Section) -> SectionReader<'_> {
        SectionReader { file: &self.file, at: section.offset, end: section.offset + section.length }
    }
}

impl Blobs for Archive<'_> {
    fn blob(&self, digest: &Digest) -> Result<Option<Box<dyn Read + Send + '_>>, Error> {
        if let Some(bytes) = self.made.get(digest) {
            return Ok(Some(Box::new(bytes.as_slice())));
        }
        Ok(self.section(digest)?.map(|section| -> Box<dyn Read + Send + '_> { Box::new(self.reader(section)) }))
    }

    fn place(&self, _: &Digest) -> PathBuf {
        self.shown.clone().into()
    }

    fn shown(&self) -> (String, &'static str) {
        (self.shown.clone(), "archive")
    }
}

impl std::fmt::Debug for Archive<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Archive").field("shown", &self.shown).field("images", &self.images).finish_non_exhaustive()
    }
}

/// An image in manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// `<id>/json` of a layer before there was a manifest.json.
#[derive(Deserialize, Default)]
struct LegacyLayer {
    #[serde(default)]
    parent: Option<String>,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    architecture: Option<String>,
    #[serde(default)]
    os: Option<String>,
    #[serde(default)]
    config: Option<Value>,
}

/// A part of the file, read by position: several threads read several.
struct SectionReader<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for SectionReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

/// The manifest of a config and layers, and its digest.
pub(crate) fn manifest_of(config: &[u8], layers: &[Descriptor]) -> (Vec<u8>, Digest) {
    let descriptor =
        |media_type: &str, digest: &Digest, size: u64| json!({ "mediaType": media_type, "digest": digest.to_string(), "size": size });
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(&layer.media_type, &layer.digest, layer.size)).collect();
    let config = descriptor("application/vnd.oci.image.config.v1+json", &Digest::sha256(config), config.len() as u64);
    let manifest = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers });
    let manifest = manifest.to_string().into_bytes();
    let digest = Digest::sha256(&manifest);
    (manifest, digest)
}

/// A file of the store's without a name: it goes with whoever has it open.
fn nameless(store: &Store) -> Result<(File, PathBuf), Error> {
    let path = store.path().join("ingest").join(format!("{}.new", unique()));
    let open = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path);
    let file = open.map_err(disk("make", &path))?;
    fs::remove_file(&path).map_err(disk("unlink", &path))?;
    Ok((file, path))
}

fn kind(shown: &str, head: &[u8]) -> Result<Compression, Error> {
    Compression::of(head).map_err(|kind| Error::Archive { archive: shown.to_owned(), why: format!("it's compressed by {kind}") })
}

/// Whether an error comes from a decoder and not from the system.
pub(crate) fn is_about_bytes(error: &io::Error) -> bool {
    error.raw_os_error().is_none()
}

/// Reads until the buffer is full or there is no more.
pub(crate) fn read_full(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match source.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

fn digest_of(mut source: impl Read) -> io::Result<Digest> {
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let mut buffer = vec![0; 128 << 10];
    loop {
        match source.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(n) => hasher.update(&buffer[..n]),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
