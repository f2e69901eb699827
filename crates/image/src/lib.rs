//! OCI images: names, manifests, layers on their way to disk.
#![forbid(unsafe_code)]

mod digest;
mod sink;

pub use digest::{Algorithm, Digest, Hasher, ParseDigestError};
pub use sink::{LayerInfo, LayerSink, LayerWriter, NoSink, SinkError};
