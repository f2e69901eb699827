//! What refers to an image: signatures, attestations, lists of parts (OCI distribution-spec, "Listing Referrers").
//!
//! A registry keeps the list, or it stands as an index under the tag `sha256-…`, which whoever pushes has to keep.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use super::client::RegistryClient;
use super::failure::{Failure, Kind};
use super::session::{Report, Session};
use super::source::Source;
use crate::descriptor::{Descriptor, RawDescriptor};
use crate::digest::Digest;
use crate::error::{Error, Verb};
use crate::manifest::OCI_INDEX;
use crate::reference::Reference;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    manifests: Vec<RawDescriptor>,
}

/// The tag that stands for the list of a digest's referrers.
fn tag(digest: &Digest) -> String {
    let mut tag = format!("{}-{}", digest.algorithm().as_str(), digest.hex());
    tag.truncate(128);
    tag
}

impl RegistryClient {
    /// The manifests that name the reference's manifest as their `subject`: all, or those of one type.
    ///
    /// # Errors
    /// All that says why a registry couldn't be asked.
    pub async fn referrers(&self, reference: &Reference, artifact_type: Option<&str>) -> Result<Vec<Descriptor>, Error> {
        let session = self.session(reference, Verb::Referrers, Report::default()).await?;
        let digest = match reference.digest() {
            Some(digest) => digest.clone(),
            None => match session.head().await? {
                Some(digest) => digest,
                None => session.manifest(None).await?.digest,
            },
        };
        session.referrers(&digest, artifact_type).await
    }
}

impl Session {
    pub(super) async fn referrers(&self, digest: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>, Error> {
        self.ask_sources(false, "the referrers", |source| self.referrers_of(source, digest, artifact_type)).await
    }

    async fn referrers_of(&self, source: &Source, digest: &Digest, artifact_type: Option<&str>) -> Result<Vec<Descriptor>, Failure> {
        let mut path = format!("referrers/{digest}");
        if let Some(artifact_type) = artifact_type {
            path = format!("{path}?artifactType={artifact_type}");
        }
        let pages: Vec<Page> = match self.pages(source, &path).await {
            Ok((pages, _)) => pages,
            // It doesn't know the question.
            Err(Failure { kind: Kind::Status(status), .. }) if matches!(status.code.as_u16(), 400 | 404 | 405 | 501) => {
                match self.fallback(source, digest).await? {
                    Some(index) => vec![self.page(source, &index)?],
                    None => Vec::new(),
                }
            }
            Err(failure) => return Err(failure),
        };
        let mut found = Vec::new();
        for raw in pages.into_iter().flat_map(|page| page.manifests) {
            let descriptor = Descriptor::try_from(raw).map_err(|why| Failure::new(source.address(), Kind::Nonsense(why)))?;
            // A registry may leave the choice to us.
            if artifact_type.is_none() || descriptor.artifact_type.as_deref() == artifact_type {
                found.push(descriptor);
            }
        }
        Ok(found)
    }

    fn page(&self, source: &Source, index: &Bytes) -> Result<Page, Failure> {
        serde_json::from_slice(index)
            .map_err(|_| Failure::new(source.address(), Kind::Nonsense("a list of referrers that isn't as it should be".into())))
    }

    /// The index that stands for the list, if there is one.
    async fn fallback(&self, source: &Source, digest: &Digest) -> Result<Option<Bytes>, Failure> {
        match self.fetch_manifest(source, &format!("manifests/{}", tag(digest)), None).await {
            Ok(manifest) => Ok(Some(manifest.bytes)),
            Err(Failure { kind: Kind::Status(status), .. }) if status.is_unknown() => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    /// Enters a manifest that was pushed in the index of its subject, where it has one.
    pub(super) async fn list_referrer(
        &self,
        source: &Source,
        scope: &str,
        media_type: &str,
        manifest: &Bytes,
        digest: &Digest,
    ) -> Result<(), Failure> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Referring {
            subject: Option<RawDescriptor>,
            artifact_type: Option<String>,
            config: Option<RawDescriptor>,
            #[serde(default)]
            annotations: BTreeMap<String, String>,
        }
        let Ok(Referring { subject: Some(subject), artifact_type, config, annotations }) = serde_json::from_slice(manifest) else {
            return Ok(());
        };
        let nonsense = |why: String| Failure::new(source.address(), Kind::Nonsense(why));
        let subject = Descriptor::try_from(subject).map_err(nonsense)?.digest;
        let config = config.and_then(|config| Descriptor::try_from(config).ok()).map(|config| config.media_type);
        let mut index: Value = match self.fallback(source, &subject).await? {
            Some(index) => serde_json::from_slice(&index).map_err(|e| nonsense(e.to_string()))?,
            None => json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [] }),
        };
        let entries = index.get_mut("manifests").and_then(Value::as_array_mut);
        let entries = entries.ok_or_else(|| nonsense("a list of referrers that isn't as it should be".into()))?;
        if entries.iter().any(|entry| entry.get("digest").and_then(Value::as_str) == Some(&digest.to_string())) {
            return Ok(());
        }
        let mut entry = json!({ "mediaType": media_type, "digest": digest.to_string(), "size": manifest.len() });
        if let Some(artifact_type) = artifact_type.or(config) {
            entry["artifactType"] = artifact_type.into();
        }
        if !annotations.is_empty() {
            entry["annotations"] = json!(annotations);
        }
        entries.push(entry);
        let index = serde_json::to_vec(&index).map_err(|e| nonsense(e.to_string()))?;
        self.put(source, scope, &tag(&subject), OCI_INDEX, index.into()).await.map(drop)
    }
}
