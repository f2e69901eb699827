//! What the tests of images share: tiny images written by hand, and a sink that remembers.

// Each test binary uses a part of it.
#![allow(dead_code, unreachable_pub)]

#[cfg(feature = "registry")]
pub mod docker_registry;
#[cfg(feature = "registry")]
pub mod place;
#[cfg(feature = "registry")]
pub mod server;

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use coracle_image::{Digest, LayerInfo, LayerSink, LayerWriter, Platform, SinkError, Store};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image in memory. Its layers are bytes that nobody looks into.
#[derive(Clone)]
pub struct TinyImage {
    pub layers: Vec<Vec<u8>>,
    pub config: Vec<u8>,
    pub manifest: Vec<u8>,
}

impl TinyImage {
    /// For a platform, with layers of some lengths.
    pub fn new(platform: &str, lengths: &[usize]) -> TinyImage {
        let mut parts = platform.split('/');
        let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
        let variant = parts.next().map(|v| format!(r#""variant":"{v}","#)).unwrap_or_default();
        let layers: Vec<Vec<u8>> = lengths.iter().map(|&n| noise(n)).collect();
        let diff_ids: Vec<String> = layers.iter().map(|l| format!("\"{}\"", Digest::sha256(l))).collect();
        let config = format!(
            r#"{{"os":"{os}","architecture":"{architecture}",{variant}"config":{{"Cmd":["true"],"Env":["PLATFORM={platform}"]}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            diff_ids.join(",")
        );
        TinyImage::of(config.into_bytes(), layers)
    }

    pub fn of(config: Vec<u8>, layers: Vec<Vec<u8>>) -> TinyImage {
        let descriptor = |media_type: &str, bytes: &[u8]| {
            format!(r#"{{"mediaType":"{media_type}","digest":"{}","size":{}}}"#, Digest::sha256(bytes), bytes.len())
        };
        let list: Vec<String> = layers.iter().map(|l| descriptor("application/vnd.oci.image.layer.v1.tar", l)).collect();
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{},"layers":[{}]}}"#,
            descriptor("application/vnd.oci.image.config.v1+json", &config),
            list.join(",")
        );
        TinyImage { layers, config, manifest: manifest.into_bytes() }
    }

    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }

    /// What an index says of it.
    pub fn descriptor(&self, platform: Option<&str>, name: Option<&str>) -> String {
        let platform = platform.map(|text| {
            let mut parts = text.split('/');
            let (os, architecture) = (parts.next().unwrap(), parts.next().unwrap());
            let variant = parts.next().map(|v| format!(r#","variant":"{v}""#)).unwrap_or_default();
            format!(r#","platform":{{"os":"{os}","architecture":"{architecture}"{variant}}}"#)
        });
        let name = name.map(|n| format!(r#","annotations":{{"org.opencontainers.image.ref.name":"{n}"}}"#));
        format!(
            r#"{{"mediaType":"{MANIFEST}","digest":"{}","size":{}{}{}}}"#,
            self.digest(),
            self.manifest.len(),
            platform.unwrap_or_default(),
            name.unwrap_or_default()
        )
    }

    pub fn blobs(&self) -> Vec<&[u8]> {
        let documents = [self.config.as_slice(), self.manifest.as_slice()];
        self.layers.iter().map(Vec::as_slice).chain(documents).collect()
    }
}

pub fn index(descriptors: &[String]) -> Vec<u8> {
    format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":[{}]}}"#, descriptors.join(",")).into_bytes()
}

/// Writes an OCI layout: blobs and an index.json.
pub fn write_layout(dir: &Path, blobs: &[&[u8]], index: &[u8]) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(dir.join("index.json"), index).unwrap();
    for blob in blobs {
        fs::write(dir.join("blobs/sha256").join(Digest::sha256(blob).hex()), blob).unwrap();
    }
}

/// Writes a layout with one image of a name.
pub fn write_image(dir: &Path, image: &TinyImage, name: &str) {
    write_layout(dir, &image.blobs(), &index(&[image.descriptor(None, Some(name))]));
}

/// A directory in memory where there is one: what is made and removed so often is slow on some disks.
pub fn scratch() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.unwrap()
}

/// A store in a directory of its own.
pub struct Local {
    pub dir: tempfile::TempDir,
    pub store: Store,
}

impl Local {
    pub fn new() -> Local {
        let dir = scratch();
        let store = Store::open(dir.path().join("store")).unwrap();
        Local { dir, store }
    }
}

/// The platform of the images here.
pub fn amd64() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// Bytes that differ by length and don't compress.
pub fn noise(length: usize) -> Vec<u8> {
    let mut state = length as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// Remembers the layers that were finished, and how often one was begun.
#[derive(Default)]
pub struct Memory(Arc<State>);

#[derive(Default)]
struct State {
    layers: Mutex<HashMap<Digest, Vec<u8>>>,
    begun: Mutex<Vec<usize>>,
    fail: Mutex<Option<&'static str>>,
    expected: Mutex<HashMap<Digest, Vec<u8>>>,
    inflates: Mutex<bool>,
}

impl Memory {
    /// Inflates what is gzip or zstd, as one that unpacks does.
    pub fn inflating(self) -> Memory {
        *self.0.inflates.lock().unwrap() = true;
        self
    }

    pub fn get(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.0.layers.lock().unwrap().get(digest).cloned()
    }

    pub fn begun(&self) -> usize {
        self.0.begun.lock().unwrap().len()
    }

    pub fn fail(&self, with: &'static str) {
        *self.0.fail.lock().unwrap() = Some(with);
    }

    /// From now on fails at the first byte that isn't a layer's, as decompression does.
    pub fn expect(&self, image: &TinyImage) {
        let layers = image.layers.iter().map(|l| (Digest::sha256(l), l.clone()));
        self.0.expected.lock().unwrap().extend(layers);
    }

    /// Fails where a layer differs from other bytes.
    pub fn expect_as(&self, layer: &[u8], other: &[u8]) {
        self.0.expected.lock().unwrap().insert(Digest::sha256(layer), other.to_vec());
    }

    pub fn holds(&self, image: &TinyImage) -> bool {
        image.layers.iter().all(|l| self.get(&Digest::sha256(l)).as_ref() == Some(l))
    }
}

impl LayerSink for Memory {
    fn contains(&self, layer: &LayerInfo) -> bool {
        self.0.layers.lock().unwrap().contains_key(&layer.diff_id)
    }

    fn begin(&self, layer: &LayerInfo) -> Result<Box<dyn LayerWriter>, SinkError> {
        if let Some(message) = *self.0.fail.lock().unwrap() {
            return Err(message.into());
        }
        self.0.begun.lock().unwrap().push(layer.index);
        Ok(Box::new(MemoryWriter { state: self.0.clone(), diff_id: layer.diff_id.clone(), bytes: Vec::new() }))
    }
}

struct MemoryWriter {
    state: Arc<State>,
    diff_id: Digest,
    bytes: Vec<u8>,
}

impl Write for MemoryWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(expected) = self.state.expected.lock().unwrap().get(&self.diff_id)
            && expected.get(self.bytes.len()..self.bytes.len() + bytes.len()) != Some(bytes)
        {
            return Err(io::Error::other("corrupt deflate stream"));
        }
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LayerWriter for MemoryWriter {
    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        let bytes = match *self.state.inflates.lock().unwrap() {
            true => inflated(self.bytes),
            false => self.bytes,
        };
        if Digest::sha256(&bytes) != self.diff_id {
            return Err("the diffID is another".into());
        }
        self.state.layers.lock().unwrap().insert(self.diff_id, bytes);
        Ok(())
    }
}

#[cfg(feature = "archive")]
fn inflated(bytes: Vec<u8>) -> Vec<u8> {
    let mut inflated = Vec::new();
    if bytes.starts_with(&[0x1f, 0x8b]) {
        io::Read::read_to_end(&mut flate2::read::MultiGzDecoder::new(bytes.as_slice()), &mut inflated).unwrap();
        return inflated;
    }
    if bytes.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return zstd::stream::decode_all(bytes.as_slice()).unwrap();
    }
    bytes
}

#[cfg(not(feature = "archive"))]
fn inflated(bytes: Vec<u8>) -> Vec<u8> {
    bytes
}
