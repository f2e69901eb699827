//! How far a pull or an import has come.

use std::time::Duration;

use crate::digest::Digest;
use crate::reference::Reference;

/// One step of a pull, an import or a push. Those of different layers come mixed; those of one layer in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// The reference is being looked up.
    Resolving {
        /// What is looked up.
        reference: Reference,
    },
    /// Bytes of a layer's blob arrived, about every 256 KiB; the first has `done: 0` or what an earlier pull left behind.
    #[non_exhaustive]
    Layer {
        /// The blob.
        digest: Digest,
        /// How many bytes are here.
        done: u64,
        /// How many there will be.
        total: u64,
    },
    /// All bytes of a layer are here, and the last of them are being unpacked.
    #[non_exhaustive]
    Unpacking {
        /// The blob.
        digest: Digest,
    },
    /// Something failed that may pass, and is tried again after a while.
    #[non_exhaustive]
    Waiting {
        /// Host and port of who was asked.
        address: String,
        /// What it said, or what happened.
        why: String,
        /// How long.
        wait: Duration,
    },
    /// A layer is complete where it belongs, now or from before.
    #[non_exhaustive]
    Unpacked {
        /// The blob.
        digest: Digest,
    },
    /// Bytes of a blob went to the registry, about every 256 KiB.
    #[non_exhaustive]
    Uploading {
        /// The blob.
        digest: Digest,
        /// How many bytes went.
        done: u64,
        /// How many there are.
        total: u64,
    },
    /// A blob is in the registry: it was sent, or was there, in this or another repository.
    #[non_exhaustive]
    Uploaded {
        /// The blob.
        digest: Digest,
        /// Whether its bytes had to be sent.
        sent: bool,
    },
    /// A pull: the image is complete, durable and published. A push: the registry has it.
    #[non_exhaustive]
    Done {
        /// What was asked for.
        reference: Reference,
        /// The image's manifest.
        digest: Digest,
    },
}

/// Bytes between two [`Progress::Layer`].
pub(crate) const STEP: u64 = 256 << 10;
