//! Where the layers of an image go while they arrive.
//!
//! A pull reads each blob once, off the socket, and hands the same bytes to the store's file and to a [`LayerSink`], which inflates
//! and unpacks them. `coracle-layers` has the sink that makes root file systems; [`NoSink`] keeps only the blobs.

use std::io;

use crate::collect::Needs;
use crate::digest::Digest;

/// A layer that is about to be written.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerInfo {
    /// Its place in the image, the lowest layer being 0.
    pub index: usize,
    /// The digest of the blob, which most often is compressed.
    pub digest: Digest,
    /// The digest of the tar archive inside the blob (OCI image-spec, config.md, `rootfs.diff_ids`).
    pub diff_id: Digest,
    /// The length of the blob in bytes, as the manifest says.
    pub size: u64,
    /// What the manifest says that the blob is. The bytes sometimes are something else: look at them too.
    pub media_type: String,
}

impl LayerInfo {
    /// A layer of an image, by what manifest and config say of it.
    pub fn new(index: usize, digest: Digest, diff_id: Digest, size: u64, media_type: impl Into<String>) -> LayerInfo {
        LayerInfo { index, digest, diff_id, size, media_type: media_type.into() }
    }
}

/// What went wrong in a sink.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// Where the layers of an image go: told of each layer, given the bytes of the blob as they arrive (still compressed).
///
/// Layers come in any order and several at once, from any thread. What a sink published stays when the pull fails later: it was
/// right by its diffID, and the next pull finds it through [`contains`](LayerSink::contains).
pub trait LayerSink: Send + Sync {
    /// Whether the layer is there, complete (then its blob isn't fetched).
    fn contains(&self, layer: &LayerInfo) -> bool;

    /// Gets ready to take the bytes of a layer.
    ///
    /// # Errors
    /// Whatever hinders it; the pull ends with it.
    fn begin(&self, layer: &LayerInfo) -> Result<Box<dyn LayerWriter>, SinkError>;

    /// Whether layers stay in it, so that [`contains`](LayerSink::contains) finds them later. Only then may their blobs go
    /// ([`Store::keep_blobs`](crate::Store::keep_blobs)).
    fn keeps(&self) -> bool {
        true
    }

    /// Removes the layers that nobody needs any more, and tells which. It's called while nobody can begin to need one, and everybody
    /// waits: what takes long happens later.
    ///
    /// # Errors
    /// Whatever hinders it.
    fn sweep(&self, needs: &Needs) -> Result<Vec<Swept>, SinkError> {
        let _ = needs;
        Ok(Vec::new())
    }
}

/// Something that was removed because nothing needs it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Swept {
    /// What it was.
    pub kind: SweptKind,
    /// Its digest: of a blob, of an unpacked layer (a diffID), or of a chain of layers (a chainID). None for leftovers.
    pub digest: Option<Digest>,
    /// How many bytes it held. Of unpacked layers those in files, without what the file system needs for itself.
    pub bytes: u64,
}

impl Swept {
    /// A thing that was removed.
    pub fn new(kind: SweptKind, digest: Option<Digest>, bytes: u64) -> Swept {
        Swept { kind, digest, bytes }
    }
}

/// What a [`Swept`] was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SweptKind {
    /// A manifest, an index, a config, or a layer as it was fetched.
    Blob,
    /// An unpacked layer.
    Layer,
    /// What a layer needed corrected above certain others.
    Chain,
    /// The beginning of a blob that nobody fetches any more, or a file that a killed process left.
    Leftover,
}

/// Takes the bytes of one layer's blob, in order. It may block: it's never called on a thread of an async runtime's.
pub trait LayerWriter: io::Write + Send {
    /// All bytes were written and their digest was right: checks the diffID and publishes. Dropping without it discards.
    ///
    /// # Errors
    /// The bytes aren't the layer that the image promised, or can't be kept.
    fn finish(self: Box<Self>) -> Result<(), SinkError>;
}

/// A sink that wants no layer: the blobs are fetched into the store and stay packed.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSink;

impl LayerSink for NoSink {
    fn contains(&self, _: &LayerInfo) -> bool {
        false
    }

    fn begin(&self, _: &LayerInfo) -> Result<Box<dyn LayerWriter>, SinkError> {
        Ok(Box::new(Discard))
    }

    fn keeps(&self) -> bool {
        false
    }
}

struct Discard;

impl io::Write for Discard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl LayerWriter for Discard {
    fn finish(self: Box<Self>) -> Result<(), SinkError> {
        Ok(())
    }
}
