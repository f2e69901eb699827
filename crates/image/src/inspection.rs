//! Everything that is known of an image here, for people and for programs that read JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::config::{ImageConfig, RawConfig};
use crate::digest::Digest;
use crate::error::{Error, disk};
use crate::platform::Platform;
use crate::reference::Reference;
use crate::sink::{LayerInfo, LayerSink};
use crate::store::Store;

/// Everything that is known of an image. As JSON it has the names that docker-image-inspect(1) has, and some more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Raw", into = "Raw")]
#[non_exhaustive]
pub struct Inspection {
    /// The digest of its config: `Id`.
    pub id: Digest,
    /// The digest of its manifest: `Digest`.
    pub digest: Digest,
    /// All its names, sorted: `RepoTags` and `RepoDigests`.
    pub references: Vec<Reference>,
    /// What it was asked for: `Os`, `Architecture`, `Variant`.
    pub platform: Platform,
    /// What to run, and how: `Config`, and `Created` and `RootFS` beside it.
    pub config: ImageConfig,
    /// Its layers, the lowest first: `Layers`.
    pub layers: Vec<LayerState>,
    /// Bytes of its layers as they are fetched: `Size`.
    pub size: u64,
    /// When its youngest name began to mean it here, to the second: `Added`, in seconds since 1970.
    pub added: SystemTime,
}

/// A layer of an image, and where it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct LayerState {
    /// The digest of its blob.
    pub digest: String,
    /// The digest of the archive in the blob.
    pub diff_id: String,
    /// The length of the blob in bytes.
    pub size: u64,
    /// What the manifest says that the blob is.
    pub media_type: String,
    /// Whether the blob is in the store.
    pub stored: bool,
    /// Whether the layer is unpacked.
    pub unpacked: bool,
    /// Bytes in its files, where it's unpacked and whoever asked knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unpacked_size: Option<u64>,
}

impl Store {
    /// Everything that is known of an image, by a name as [`lookup`](Store::lookup) takes it.
    ///
    /// # Errors
    /// As [`lookup`](Store::lookup).
    pub fn inspect(&self, name: &str, platform: &Platform, sink: &dyn LayerSink) -> Result<Inspection, Error> {
        let image = self.lookup(name, platform)?;
        let (mut references, mut added) = (Vec::new(), UNIX_EPOCH);
        for (path, record) in self.records()? {
            let Some(record) = record.filter(|record| record.manifest == image.digest.to_string()) else { continue };
            let Ok(reference) = record.reference.parse() else { continue };
            references.push(reference);
            match std::fs::metadata(&path).and_then(|found| found.modified()) {
                Ok(changed) => added = added.max(changed),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(disk("look at", &path)(e)),
            }
        }
        references.sort();
        references.dedup();
        let state = |layer: &LayerInfo| LayerState {
            digest: layer.digest.to_string(),
            diff_id: layer.diff_id.to_string(),
            size: layer.size,
            media_type: layer.media_type.clone(),
            stored: self.blob_path(&layer.digest).exists(),
            unpacked: sink.contains(layer),
            unpacked_size: None,
        };
        Ok(Inspection {
            layers: image.layers.iter().map(state).collect(),
            size: image.layers.iter().map(|layer| layer.size).sum(),
            id: image.id,
            digest: image.digest,
            references,
            platform: image.platform,
            config: image.config,
            added: UNIX_EPOCH + Duration::from_secs(added.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
        })
    }
}

/// As it stands in JSON.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Raw {
    id: String,
    digest: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    created: Option<String>,
    added: u64,
    os: String,
    architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variant: Option<String>,
    size: u64,
    config: RawConfig,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
    layers: Vec<LayerState>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: String,
    layers: Vec<String>,
}

impl From<Inspection> for Raw {
    fn from(inspection: Inspection) -> Raw {
        let Inspection { id, digest, references, platform, config, layers, size, added } = inspection;
        // As Docker writes them: names by tag, and each repository with the digest.
        let mut repo_digests: Vec<String> = references.iter().map(|reference| reference.with_digest(digest.clone()).familiar()).collect();
        repo_digests.dedup();
        Raw {
            id: id.to_string(),
            digest: digest.to_string(),
            repo_tags: references.iter().filter(|reference| reference.digest().is_none()).map(Reference::familiar).collect(),
            repo_digests,
            created: config.created.clone(),
            added: added.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            os: platform.os().to_owned(),
            architecture: platform.architecture().to_owned(),
            variant: platform.variant().map(str::to_owned),
            size,
            config: RawConfig::from(&config),
            root_fs: RootFs { r#type: "layers".into(), layers: config.diff_ids.iter().map(Digest::to_string).collect() },
            layers,
        }
    }
}

impl TryFrom<Raw> for Inspection {
    type Error = String;

    fn try_from(raw: Raw) -> Result<Inspection, String> {
        let digest = |text: &str| text.parse::<Digest>().map_err(|e| e.to_string());
        let platform = Platform::new(&raw.os, &raw.architecture, raw.variant.as_deref());
        let tags: Result<Vec<Reference>, _> =
            raw.repo_tags.iter().map(|name| name.parse::<Reference>().map_err(|e| e.to_string())).collect();
        let mut references = tags?;
        for name in &raw.repo_digests {
            let reference: Reference = name.parse().map_err(|e: crate::ParseReferenceError| e.to_string())?;
            let tagged = |other: &Reference| (other.registry(), other.repository()) == (reference.registry(), reference.repository());
            if !references.iter().any(tagged) {
                references.push(reference);
            }
        }
        references.sort();
        let diff_ids: Result<Vec<Digest>, String> = raw.root_fs.layers.iter().map(|text| digest(text)).collect();
        let config =
            ImageConfig { platform: Some(platform.clone()), diff_ids: diff_ids?, created: raw.created, ..ImageConfig::from(raw.config) };
        Ok(Inspection {
            id: digest(&raw.id)?,
            digest: digest(&raw.digest)?,
            references,
            platform,
            config,
            layers: raw.layers,
            size: raw.size,
            added: UNIX_EPOCH + Duration::from_secs(raw.added),
        })
    }
}
