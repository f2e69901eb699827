//! Pointers from one document of an image to another: media type, digest, size (OCI image-spec, descriptor.md).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::digest::Digest;
use crate::platform::Platform;

/// What a manifest or an index says of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Descriptor {
    /// What the blob is said to be.
    pub media_type: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's length in bytes.
    pub size: u64,
    /// What it runs on, in an index.
    pub platform: Option<Platform>,
    /// Notes. `org.opencontainers.image.ref.name` names an image in a layout.
    pub annotations: BTreeMap<String, String>,
    /// What kind of artifact it is, in a list of referrers.
    pub artifact_type: Option<String>,
}

impl Descriptor {
    /// A descriptor without platform and notes.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Descriptor {
        Descriptor { media_type: media_type.into(), digest, size, platform: None, annotations: BTreeMap::new(), artifact_type: None }
    }
}

/// A descriptor as it stands in JSON.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RawDescriptor {
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    digest: String,
    size: u64,
    #[serde(default)]
    platform: Option<RawPlatform>,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    artifact_type: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawPlatform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: Option<String>,
    #[serde(default, rename = "os.version")]
    os_version: Option<String>,
}

impl From<RawPlatform> for Platform {
    fn from(raw: RawPlatform) -> Platform {
        let platform = Platform::new(&raw.os, &raw.architecture, raw.variant.as_deref());
        match raw.os_version.as_deref() {
            None | Some("") => platform,
            Some(version) => platform.with_os_version(version),
        }
    }
}

impl TryFrom<RawDescriptor> for Descriptor {
    type Error = String;

    fn try_from(raw: RawDescriptor) -> Result<Descriptor, String> {
        Ok(Descriptor {
            media_type: raw.media_type.unwrap_or_default(),
            digest: raw.digest.parse().map_err(|e: crate::ParseDigestError| e.to_string())?,
            size: raw.size,
            platform: raw.platform.map(Platform::from),
            annotations: raw.annotations.unwrap_or_default(),
            artifact_type: raw.artifact_type,
        })
    }
}
