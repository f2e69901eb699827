//! Images as OCI layouts, written by hand: `oci-layout`, `index.json`, and blobs named by their digest.
//!
//! By hand so that a wrong idea of ours about the format isn't on both sides of a test, and so that a test can make what
//! no tool would make.

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// How a layer is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compressed {
    No,
    Gzip,
}

/// An OCI layout in a directory, to which blobs and images are added.
pub(crate) struct Layout {
    directory: PathBuf,
    manifests: Vec<Value>,
}

/// A blob as a manifest names it.
#[derive(Clone, Debug)]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    /// `sha256:…` of the stored bytes.
    pub(crate) digest: String,
    pub(crate) size: u64,
}

impl Descriptor {
    pub(crate) fn json(&self) -> Value {
        json!({ "mediaType": self.media_type, "digest": self.digest, "size": self.size })
    }
}

/// A layer: its blob, and the digest of what is in it.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) blob: Descriptor,
    /// `sha256:…` of the tar archive before compression.
    pub(crate) diff_id: String,
}

impl Layout {
    /// An empty one, in a directory that exists or will be made.
    pub(crate) fn new(directory: &Path) -> Self {
        std::fs::create_dir_all(directory.join("blobs/sha256")).expect("a layout can be made");
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("it can be written");
        let layout = Self { directory: directory.to_owned(), manifests: Vec::new() };
        layout.write_index();
        layout
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Stores bytes under their digest.
    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Descriptor {
        let digest = hex(Sha256::digest(bytes).as_slice());
        std::fs::write(self.directory.join("blobs/sha256").join(&digest), bytes).expect("a blob can be written");
        Descriptor { media_type: media_type.to_owned(), digest: format!("sha256:{digest}"), size: bytes.len() as u64 }
    }

    /// A layer from a tar archive.
    pub(crate) fn layer(&self, mut tar: impl io::Read, compressed: Compressed) -> Layer {
        let partial = self.directory.join("blobs/partial");
        let file = Hashing::new(BufWriter::new(File::create(&partial).expect("a blob can be made")));
        let (diff_id, (stored, size)) = match compressed {
            Compressed::No => {
                let mut plain = Hashing::new(file);
                io::copy(&mut tar, &mut plain).expect("the archive can be stored");
                let (diff_id, _) = plain.digest();
                (diff_id, plain.inner.finish())
            }
            Compressed::Gzip => {
                let mut plain = Hashing::new(GzEncoder::new(file, Compression::fast()));
                io::copy(&mut tar, &mut plain).expect("the archive can be stored");
                let (diff_id, _) = plain.digest();
                (diff_id, plain.inner.finish().expect("gzip ends").finish())
            }
        };
        std::fs::rename(&partial, self.directory.join("blobs/sha256").join(&stored)).expect("a blob can be named");
        let suffix = if compressed == Compressed::Gzip { "+gzip" } else { "" };
        Layer {
            blob: Descriptor {
                media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
                digest: format!("sha256:{stored}"),
                size,
            },
            diff_id: format!("sha256:{diff_id}"),
        }
    }

    /// A layer of everything below a directory, with owner and group 0.
    pub(crate) fn layer_of(&self, root: &Path, compressed: Compressed) -> Layer {
        let mut archive = tar::Builder::new(Vec::new());
        archive.follow_symlinks(false);
        append(&mut archive, root, Path::new(""));
        let bytes = archive.into_inner().expect("an archive in memory can be written");
        self.layer(bytes.as_slice(), compressed)
    }

    /// Adds an image for this machine's platform under a tag. `config` is the part named `config` of the image configuration:
    /// `Cmd`, `Env`, `User` and so on.
    pub(crate) fn image(&mut self, tag: &str, layers: &[Layer], config: Value) -> Descriptor {
        let manifest = self.manifest(layers, config);
        self.tag(tag, &manifest);
        manifest
    }

    /// Stores an image that no tag names yet.
    pub(crate) fn manifest(&self, layers: &[Layer], config: Value) -> Descriptor {
        let diff_ids: Vec<&str> = layers.iter().map(|layer| layer.diff_id.as_str()).collect();
        let config = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let layers: Vec<Value> = layers.iter().map(|layer| layer.blob.json()).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config.json(), "layers": layers });
        self.blob(media_type, manifest.to_string().as_bytes())
    }

    /// Gives a stored manifest or index a tag.
    pub(crate) fn tag(&mut self, tag: &str, manifest: &Descriptor) {
        let mut entry = manifest.json();
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": tag });
        self.manifests.push(entry);
        self.write_index();
    }

    fn write_index(&self) {
        let index = json!({ "schemaVersion": 2, "manifests": self.manifests });
        std::fs::write(self.directory.join("index.json"), index.to_string()).expect("the index can be written");
    }
}

/// This machine's architecture, in the words of OCI.
pub(crate) fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Adds what lies below a directory in sorted order, all owned by 0:0, so that the digest depends on the content alone.
fn append(archive: &mut tar::Builder<Vec<u8>>, root: &Path, below: &Path) {
    let entries = std::fs::read_dir(root.join(below)).expect("the root can be read");
    let mut names: Vec<_> = entries.map(|entry| entry.expect("the root can be read").file_name()).collect();
    names.sort();
    for name in names {
        let path = below.join(name);
        let full = root.join(&path);
        let metadata = full.symlink_metadata().expect("a file of the root can be looked at");
        let mut header = tar::Header::new_gnu();
        header.set_metadata_in_mode(&metadata, tar::HeaderMode::Complete);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        if metadata.is_symlink() {
            let target = std::fs::read_link(&full).expect("a link can be read");
            archive.append_link(&mut header, &path, target).expect("a link can be stored");
        } else if metadata.is_dir() {
            archive.append_data(&mut header, &path, io::empty()).expect("a directory can be stored");
            append(archive, root, &path);
        } else {
            let file = File::open(&full).expect("a file can be read");
            archive.append_data(&mut header, &path, file).expect("a file can be stored");
        }
    }
}

/// Writes through, and hashes on the way.
struct Hashing<W> {
    inner: W,
    hash: Sha256,
    size: u64,
}

impl<W: Write> Hashing<W> {
    fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), size: 0 }
    }

    fn digest(&mut self) -> (String, u64) {
        (hex(self.hash.clone().finalize().as_slice()), self.size)
    }

    fn finish(mut self) -> (String, u64) {
        self.inner.flush().expect("a blob can be written");
        self.digest()
    }
}

impl<W: Write> Write for Hashing<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
