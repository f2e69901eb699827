//! An image that is in the store.

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::platform::Platform;
use crate::reference::Reference;
use crate::sink::LayerInfo;

/// An image in the [`Store`](crate::Store), with all that a container needs to know of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// What it was asked for by.
    pub reference: Reference,
    /// The platform that was asked for.
    pub platform: Platform,
    /// The digest of its manifest, Docker's "repo digest" where the image is for one platform only.
    pub digest: Digest,
    /// The digest of its config, what Docker calls the image's id: the same whatever the layers were compressed with.
    pub id: Digest,
    /// What to run, and how.
    pub config: ImageConfig,
    /// The layers, the lowest first.
    pub layers: Vec<LayerInfo>,
}
