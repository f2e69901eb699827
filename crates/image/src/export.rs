//! Images out of the store: into a directory or an archive that every tool of the field reads.
//!
//! Both are OCI layouts (OCI image-spec, image-layout.md) with a `manifest.json` beside, as Docker writes them since version 25: what
//! knows OCI reads `index.json`, what knows `docker load` alone reads `manifest.json`, and both find the same blobs. Entries are
//! sorted, and have no time and no owner: two exports of the same images are the same bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::digest::{Digest, Hasher};
use crate::error::{Error, disk};
use crate::image::Image;
use crate::manifest::{Document, MANIFEST_MAX, OCI_INDEX, OCI_MANIFEST};
use crate::oci_layout::{FULL_NAME, REF_NAME};
use crate::reference::Reference;
use crate::store::Store;

/// Images that are about to leave the store; nobody removes them meanwhile.
///
/// ```no_run
/// use coracle_image::{Platform, Store};
///
/// let store = Store::open("/var/lib/example/store")?;
/// let image = store.lookup("debian:12", &Platform::host())?;
/// store.export(&[image])?.archive(&mut std::fs::File::create("debian.tar").unwrap(), "debian.tar")?;
/// # Ok::<(), coracle_image::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "it writes nothing by itself"]
pub struct Export {
    /// A session.
    store: Store,
    /// Small files by their names.
    documents: BTreeMap<&'static str, Vec<u8>>,
    /// With their lengths.
    blobs: BTreeMap<Digest, u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MediaType {
    #[serde(default)]
    media_type: Option<String>,
}

/// Which bytes failed: those read or those written.
enum Side {
    From(io::Error),
    To(io::Error),
    Is(Digest),
}

impl Store {
    /// Gathers images, each under its reference; the same image under several is written once.
    ///
    /// # Errors
    /// [`Error::NoBlob`] for an image whose blobs weren't kept, [`Error::NoSuchImage`] for one that was removed meanwhile,
    /// [`Error::Disk`].
    pub fn export(&self, images: &[Image]) -> Result<Export, Error> {
        let store = self.session()?;
        let mut blobs = BTreeMap::new();
        let mut entries: BTreeMap<String, Value> = BTreeMap::new();
        let mut saved: BTreeMap<Digest, (Value, BTreeSet<String>)> = BTreeMap::new();
        for image in images {
            let gone = || Error::NoSuchImage { image: image.reference.to_string() };
            let bytes = store.read(&image.digest, MANIFEST_MAX)?.ok_or_else(gone)?;
            let Ok(Document::Manifest(manifest)) = Document::parse(&bytes) else {
                return Err(gone());
            };
            let stored: MediaType = serde_json::from_slice(&bytes).map_err(|_| gone())?;
            let media_type = stored.media_type.filter(|text| !text.is_empty()).unwrap_or_else(|| OCI_MANIFEST.to_owned());
            blobs.insert(image.digest.clone(), bytes.len() as u64);
            if store.blob(&manifest.config.digest)?.is_none() {
                return Err(gone());
            }
            blobs.insert(manifest.config.digest.clone(), manifest.config.size);
            for (index, layer) in manifest.layers.iter().enumerate() {
                if store.blob(&layer.digest)?.is_none() {
                    let (image, digest) = (image.reference.to_string(), Box::new(layer.digest.clone()));
                    return Err(Error::NoBlob { image, index, digest });
                }
                blobs.insert(layer.digest.clone(), layer.size);
            }
            let mut platform = json!({ "os": image.platform.os(), "architecture": image.platform.architecture() });
            if let Some(variant) = image.platform.variant() {
                platform["variant"] = variant.into();
            }
            let mut entry = json!({
                "mediaType": media_type,
                "digest": image.digest.to_string(),
                "size": bytes.len(),
                "platform": platform,
            });
            let tag = tag(&image.reference);
            if let Some(tag) = tag {
                entry["annotations"] = json!({ REF_NAME: tag, FULL_NAME: image.reference.to_string() });
            }
            entries.insert(format!("{} {}", image.reference, image.digest), entry);
            let paths: Vec<String> = manifest.layers.iter().map(|layer| path(&layer.digest)).collect();
            let (_, tags) = saved
                .entry(image.digest.clone())
                .or_insert_with(|| (json!({ "Config": path(&manifest.config.digest), "Layers": paths }), BTreeSet::new()));
            if tag.is_some() {
                tags.insert(image.reference.familiar());
            }
        }
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries.into_values().collect::<Vec<_>>() });
        let tagged = |(mut saved, tags): (Value, BTreeSet<String>)| {
            saved["RepoTags"] = if tags.is_empty() { Value::Null } else { tags.into_iter().collect() };
            saved
        };
        let manifest: Vec<Value> = saved.into_values().map(tagged).collect();
        let documents = BTreeMap::from([
            ("index.json", index.to_string().into_bytes()),
            ("manifest.json", Value::from(manifest).to_string().into_bytes()),
            ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
        ]);
        Ok(Export { store, documents, blobs })
    }
}

impl Export {
    /// Writes a tar archive for `docker load`, `podman load`, `skopeo`, `crane` and [`Archive`](crate::Archive). `shown` is what a
    /// message calls its place. Every blob is checked against its digest on the way.
    ///
    /// # Errors
    /// [`Error::Disk`], [`Error::Corrupt`] for a damaged blob; then what was written is useless.
    pub fn archive(&self, to: &mut dyn Write, shown: &str) -> Result<(), Error> {
        let writing = |e: io::Error| disk("write", Path::new(shown))(e);
        let mut builder = tar::Builder::new(io::BufWriter::with_capacity(128 << 10, to));
        let header = |kind: tar::EntryType, size: u64| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
            header.set_size(size);
            header
        };
        // Sorted: `blobs/…` stands before the documents.
        let algorithms: BTreeSet<&str> = self.blobs.keys().map(|digest| digest.algorithm().as_str()).collect();
        let directory = |builder: &mut tar::Builder<_>, name: String| {
            builder.append_data(&mut header(tar::EntryType::Directory, 0), name, io::empty()).map_err(writing)
        };
        directory(&mut builder, "blobs/".into())?;
        for algorithm in algorithms {
            directory(&mut builder, format!("blobs/{algorithm}/"))?;
            for (digest, size) in self.blobs.iter().filter(|(digest, _)| digest.algorithm().as_str() == algorithm) {
                let mut blob = self.blob(digest, *size)?;
                let mut header = header(tar::EntryType::Regular, *size);
                builder.append_data(&mut header, path(digest), &mut blob).map_err(|e| match blob.failure.take() {
                    Some(side) => self.failed(digest, side, shown),
                    None => writing(e),
                })?;
                blob.end().map_err(|side| self.failed(digest, side, shown))?;
            }
        }
        for (name, bytes) in &self.documents {
            let mut header = header(tar::EntryType::Regular, bytes.len() as u64);
            builder.append_data(&mut header, name, bytes.as_slice()).map_err(writing)?;
        }
        builder.into_inner().and_then(|mut to| to.flush()).map_err(writing)
    }

    /// Writes an OCI layout into a directory, which is made, or is empty. `index.json` comes last: without it it's no layout.
    ///
    /// # Errors
    /// [`Error::Disk`], also where the directory isn't empty; [`Error::Corrupt`] for a damaged blob.
    pub fn layout(&self, directory: &Path) -> Result<(), Error> {
        let make = |path: &Path| fs::create_dir_all(path).map_err(disk("make the directory", path));
        make(directory)?;
        if fs::read_dir(directory).map_err(disk("read", directory))?.next().is_some() {
            let error = io::Error::new(io::ErrorKind::DirectoryNotEmpty, "there is something in it already");
            return Err(disk("write a layout into", directory)(error));
        }
        for (digest, size) in &self.blobs {
            make(&directory.join("blobs").join(digest.algorithm().as_str()))?;
            let to = directory.join(path(digest));
            let mut file = File::create(&to).map_err(disk("make", &to))?;
            let mut blob = self.blob(digest, *size)?;
            let shown = to.display().to_string();
            io::copy(&mut blob, &mut file).map_err(|e| {
                let side = blob.failure.take().unwrap_or(Side::To(e));
                self.failed(digest, side, &shown)
            })?;
            blob.end().map_err(|side| self.failed(digest, side, &shown))?;
        }
        for name in ["oci-layout", "manifest.json", "index.json"] {
            let to = directory.join(name);
            fs::write(&to, &self.documents[name]).map_err(disk("write", &to))?;
        }
        Ok(())
    }

    fn blob(&self, digest: &Digest, size: u64) -> Result<Checked, Error> {
        let missing = || Error::Corrupt {
            image: "what is exported".into(),
            part: digest.to_string(),
            expected: "a blob".into(),
            got: "nothing".into(),
        };
        let file = self.store.blob(digest)?.ok_or_else(missing)?;
        let hasher = Hasher::new(digest.algorithm());
        // One byte more than there should be, to see whether there is.
        let source = BufReader::with_capacity(128 << 10, file);
        Ok(Checked { source, left: size, hasher, digest: digest.clone(), failure: None })
    }

    fn failed(&self, digest: &Digest, side: Side, shown: &str) -> Error {
        match side {
            Side::From(e) => disk("read", &self.store.blob_path(digest))(e),
            Side::To(e) => disk("write", Path::new(shown))(e),
            Side::Is(found) => Error::Corrupt {
                image: "what is exported".into(),
                part: self.store.blob_path(digest).display().to_string(),
                expected: digest.to_string(),
                got: found.to_string(),
            },
        }
    }
}

/// A blob being read, hashed on the way.
struct Checked {
    source: BufReader<File>,
    left: u64,
    hasher: Hasher,
    digest: Digest,
    failure: Option<Side>,
}

impl Checked {
    /// Whether all of it was right.
    fn end(self) -> Result<(), Side> {
        let found = self.hasher.finish();
        match found == self.digest {
            true => Ok(()),
            false => Err(Side::Is(found)),
        }
    }
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let n = match self.source.read(&mut buffer[..most]) {
            // Whoever writes an archive has announced a length.
            Ok(0) => {
                let hasher = self.hasher.clone();
                self.failure = Some(Side::Is(hasher.finish()));
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Ok(n) => n,
            Err(e) => {
                let kind = e.kind();
                if kind != io::ErrorKind::Interrupted {
                    self.failure = Some(Side::From(e));
                }
                return Err(kind.into());
            }
        };
        self.left -= n as u64;
        self.hasher.update(&buffer[..n]);
        Ok(n)
    }
}

fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// A name that says more than a digest would.
fn tag(reference: &Reference) -> Option<&str> {
    if reference.digest().is_some() { None } else { reference.tag() }
}
