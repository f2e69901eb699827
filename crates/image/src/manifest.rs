//! Manifests and indexes: which config and which layers make an image, and which image is for which platform (OCI image-spec,
//! manifest.md and image-index.md; Docker's version 2, schema 2).
//!
//! Parsing is a pure function of bytes that a stranger wrote: it refuses rather than guesses.

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::config::ImageConfig;
use crate::descriptor::{Descriptor, RawDescriptor};
use crate::error::shortened;
use crate::platform::Platform;
use crate::sink::LayerInfo;

/// The largest manifest or index that is read, 4 MiB: what registries must take (OCI distribution-spec, "Pushing manifests").
pub const MANIFEST_MAX: u64 = 4 << 20;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";

/// What a reference leads to: one image, or an index of images for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Images for several platforms.
    Index(Index),
}

/// One image: its config and its layers, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Manifest {
    /// Where the config is.
    pub config: Descriptor,
    /// Where the layers are, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Index {
    /// The images, and whatever else somebody put beside them.
    pub manifests: Vec<Descriptor>,
}

/// Why a manifest, an index or a config can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DocumentError(pub(crate) String);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    schema_version: Option<u64>,
    media_type: Option<String>,
    config: Option<RawDescriptor>,
    layers: Option<Vec<RawDescriptor>>,
    manifests: Option<Vec<RawDescriptor>>,
    fs_layers: Option<IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index.
    ///
    /// # Errors
    /// It isn't JSON of either kind, is both at once (CVE-2021-41190), is Docker's schema 1, is longer than [`MANIFEST_MAX`], or has
    /// a digest or a size that can't be.
    ///
    /// ```
    /// use coracle_image::Document;
    ///
    /// let error = Document::parse(br#"{"schemaVersion": 2, "layers": [], "manifests": []}"#).unwrap_err();
    /// assert_eq!(error.to_string(), "it has both `manifests` and `layers`: it would mean one thing to us and another to somebody else");
    /// ```
    pub fn parse(bytes: &[u8]) -> Result<Document, DocumentError> {
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(DocumentError(format!("it is {} bytes long; at most 4 MiB are read", bytes.len())));
        }
        let raw: Raw = from_json(bytes)?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(DocumentError("it is of Docker's schema 1, which has been out of use since 2017".into()));
        }
        if raw.schema_version != Some(2) {
            return Err(DocumentError(match raw.schema_version {
                Some(n) => format!("it has the unknown schemaVersion {n}"),
                None => "it has no schemaVersion".into(),
            }));
        }
        if raw.manifests.is_some() && (raw.layers.is_some() || raw.config.is_some()) {
            return Err(DocumentError(
                "it has both `manifests` and `layers`: it would mean one thing to us and another to somebody else".into(),
            ));
        }
        let is_index = raw.manifests.is_some();
        match raw.media_type.as_deref() {
            None | Some("") => {}
            Some(OCI_INDEX | DOCKER_LIST) if is_index => {}
            Some(OCI_MANIFEST | DOCKER_MANIFEST) if !is_index => {}
            Some(other) => {
                let found = if is_index { "an index" } else { "a manifest" };
                return Err(DocumentError(format!("it is {found}, but calls itself {:?}", shortened(other))));
            }
        }
        let descriptor =
            |place: &str, raw: RawDescriptor| Descriptor::try_from(raw).map_err(|why| DocumentError(format!("{place}: {why}")));
        let list = |place: &str, raw: Vec<RawDescriptor>| -> Result<Vec<Descriptor>, DocumentError> {
            raw.into_iter().enumerate().map(|(i, d)| descriptor(&format!("{place} {i}"), d)).collect()
        };
        if let Some(manifests) = raw.manifests {
            return Ok(Document::Index(Index { manifests: list("manifest", manifests)? }));
        }
        match (raw.config, raw.layers) {
            (Some(config), Some(layers)) => {
                Ok(Document::Manifest(Manifest { config: descriptor("config", config)?, layers: list("layer", layers)? }))
            }
            _ => Err(DocumentError("it has neither `config` and `layers` nor `manifests`".into())),
        }
    }

    /// What a document is to be called: what it says itself, else Docker's name if its config is Docker's.
    pub(crate) fn media_type(bytes: &[u8]) -> &'static str {
        let raw = from_json::<Raw>(bytes).ok();
        let said = raw.as_ref().and_then(|raw| raw.media_type.as_deref()).unwrap_or_default();
        let config = raw.as_ref().and_then(|raw| raw.config.as_ref()?.media_type.as_deref()).unwrap_or_default();
        match (raw.as_ref().is_some_and(|raw| raw.manifests.is_some()), said) {
            (true, DOCKER_LIST) => DOCKER_LIST,
            (true, _) => OCI_INDEX,
            (false, DOCKER_MANIFEST) => DOCKER_MANIFEST,
            (false, "") if config.starts_with("application/vnd.docker.") => DOCKER_MANIFEST,
            (false, _) => OCI_MANIFEST,
        }
    }
}

impl Manifest {
    /// Joins the manifest with its config: the layers, each with the digest of what is inside.
    ///
    /// # Errors
    /// They disagree on the number of layers, or something in the list isn't a layer of a file system.
    pub fn layers(&self, config: &ImageConfig) -> Result<Vec<LayerInfo>, DocumentError> {
        for (i, layer) in self.layers.iter().enumerate() {
            if !is_layer(&layer.media_type) {
                return Err(DocumentError(format!("layer {i} is {:?}, not a layer of a file system", shortened(&layer.media_type))));
            }
        }
        let (layers, diff_ids) = (self.layers.len(), config.diff_ids.len());
        if layers != diff_ids {
            return Err(DocumentError(format!("it has {layers} layers, and its config has {diff_ids} diff_ids")));
        }
        let joined = self.layers.iter().zip(&config.diff_ids).enumerate();
        Ok(joined
            .map(|(i, (layer, diff_id))| LayerInfo::new(i, layer.digest.clone(), diff_id.clone(), layer.size, layer.media_type.clone()))
            .collect())
    }
}

/// The media types of layers: plain, gzip, zstd; OCI's and Docker's; those that were not to be pushed, too.
fn is_layer(media_type: &str) -> bool {
    let oci = media_type
        .strip_prefix("application/vnd.oci.image.layer.v1.")
        .or_else(|| media_type.strip_prefix("application/vnd.oci.image.layer.nondistributable.v1."));
    let docker = media_type
        .strip_prefix("application/vnd.docker.image.rootfs.diff.")
        .or_else(|| media_type.strip_prefix("application/vnd.docker.image.rootfs.foreign.diff."));
    match (oci, docker) {
        (Some(rest), _) => matches!(rest, "tar" | "tar+gzip" | "tar+zstd"),
        (_, Some(rest)) => matches!(rest, "tar" | "tar.gzip" | "tar.zstd"),
        _ => false,
    }
}

impl Index {
    /// The image that fits a platform best: the same variant, else the newest older one; the first of several that fit alike.
    pub fn choose(&self, platform: &Platform) -> Option<&Descriptor> {
        let usable = self.manifests.iter().filter(|d| is_manifest_or_index(&d.media_type));
        let fitting = usable.clone().filter_map(|d| Some((platform.distance(d.platform.as_ref()?)?, d)));
        match fitting.min_by_key(|(distance, _)| *distance) {
            Some((_, descriptor)) => Some(descriptor),
            // A layout's index often says no platform. The config has the last word.
            None => usable.into_iter().find(|d| d.platform.is_none()),
        }
    }

    /// The platforms there are, each once, sorted.
    pub fn platforms(&self) -> Vec<Platform> {
        let mut platforms: Vec<Platform> = self.manifests.iter().filter_map(|d| d.platform.clone()).collect();
        // Build attestations stand in an index as unknown/unknown.
        platforms.retain(|p| p.os() != "unknown" && p.architecture() != "unknown");
        platforms.sort();
        platforms.dedup();
        platforms
    }
}

pub(crate) fn is_manifest_or_index(media_type: &str) -> bool {
    matches!(media_type, "" | OCI_MANIFEST | OCI_INDEX | DOCKER_MANIFEST | DOCKER_LIST)
}

/// Reads an object. Serde would take an array, too, as the object's members in order.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DocumentError> {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    if first.is_some_and(|&b| b != b'{') {
        return Err(DocumentError("it isn't a JSON object".into()));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "as it should be",
            _ => "JSON",
        };
        DocumentError(format!("it isn't {what}: {}", shortened(&error.to_string())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn index(entries: &[(&str, &str)]) -> Index {
        let entry = |(i, (platform, media_type)): (usize, &(&str, &str))| {
            let mut d = Descriptor::new(*media_type, D.parse().unwrap(), i as u64);
            d.platform = (!platform.is_empty()).then(|| platform.parse().unwrap());
            d
        };
        Index { manifests: entries.iter().enumerate().map(entry).collect() }
    }

    #[test]
    fn cve_2021_41190_cve_2021_21285_what_could_be_read_two_ways_or_is_damaged_is_refused() {
        let d = format!(r#"{{"mediaType":"x","digest":"{D}","size":1}}"#);
        let m = |inside: &str| format!(r#"{{"schemaVersion":2,{inside}}}"#);
        let cases = [
            (m(&format!(r#""manifests":[],"config":{d},"layers":[]"#)), "it has both `manifests` and `layers`"),
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.into(), "it is of Docker's schema 1"),
            (r#"{"schemaVersion":3,"layers":[]}"#.into(), "it has the unknown schemaVersion 3"),
            (r#"{"layers":[]}"#.into(), "it has no schemaVersion"),
            (m(r#""x":1"#), "it has neither"),
            (m(&format!(r#""config":{d}"#)), "it has neither"),
            (m(&format!(r#""mediaType":"{OCI_INDEX}","config":{d},"layers":[]"#)), "it is a manifest, but calls itself"),
            (m(&format!(r#""mediaType":"{OCI_MANIFEST}","manifests":[]"#)), "it is an index, but calls itself"),
            (
                m(&format!(r#""config":{d},"layers":[{{"mediaType":"x","digest":"sha256:../../x","size":1}}]"#)),
                "layer 0: \"sha256:../../x\" isn't a digest: a sha256 has 64 hexadecimal digits",
            ),
            (
                m(&format!(r#""config":{{"mediaType":"x","digest":"{D}","size":-1}},"layers":[]"#)),
                "it isn't as it should be: invalid value: integer `-1`, expected u64",
            ),
            ("nothing".into(), "it isn't a JSON object"),
            (String::new(), "it isn't JSON"),
            ("[".repeat(100_000), "it isn't a JSON object"),
            (r#"{"a":"#.repeat(100_000), "it isn't JSON: EOF"),
            (format!(r#"{{"schemaVersion":2,"x":"{}"}}"#, "x".repeat(4 << 20)), "it is 4194330 bytes long; at most 4 MiB are read"),
        ];
        for (text, start) in cases {
            let error = Document::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn the_nearest_variant_is_chosen_and_attestations_never() {
        let all = index(&[
            ("unknown/unknown", OCI_MANIFEST),
            ("linux/arm/v5", OCI_MANIFEST),
            ("linux/arm/v6", OCI_MANIFEST),
            ("linux/amd64/v3", OCI_MANIFEST),
            ("linux/amd64", "application/vnd.example+json"),
            ("linux/amd64", OCI_MANIFEST),
            ("linux/amd64", DOCKER_MANIFEST),
        ]);
        let cases = [
            ("linux/amd64", Some(5)),
            ("linux/amd64/v2", Some(5)),
            ("linux/amd64/v4", Some(3)),
            ("linux/arm/v7", Some(2)),
            ("linux/arm/v5", Some(1)),
            ("linux/arm64", None),
            ("windows/amd64", None),
        ];
        for (platform, chosen) in cases {
            assert_eq!(all.choose(&platform.parse().unwrap()).map(|d| d.size), chosen, "{platform}");
        }
        let shown: Vec<String> = all.platforms().iter().map(Platform::to_string).collect();
        assert_eq!(shown, ["linux/amd64", "linux/amd64/v3", "linux/arm/v5", "linux/arm/v6"]);
    }

    #[test]
    fn a_manifest_and_its_config_must_agree_on_the_layers() {
        let mut manifest = Manifest {
            config: Descriptor::new("x", D.parse().unwrap(), 1),
            layers: vec![Descriptor::new("application/vnd.oci.image.layer.v1.tar+gzip", D.parse().unwrap(), 1)],
        };
        let config = ImageConfig::parse(br#"{"rootfs":{"type":"layers","diff_ids":[]}}"#).unwrap();
        let error = manifest.layers(&config).unwrap_err().to_string();
        assert_eq!(error, "it has 1 layers, and its config has 0 diff_ids");
        for media_type in ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/wasm", ""] {
            manifest.layers[0].media_type = media_type.into();
            let error = manifest.layers(&config).unwrap_err().to_string();
            assert_eq!(error, format!("layer 0 is {media_type:?}, not a layer of a file system"));
        }
    }
}
