//! All that a manifest or an index leads to: the documents of every platform, and the blobs that they name.

use std::collections::BTreeSet;

use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::manifest::{Document, Manifest, is_manifest_or_index};
use crate::oci_layout::DEPTH;

/// What was found below a digest.
#[derive(Debug, Default)]
pub(crate) struct Whole {
    /// Documents that are there, each after those that it names: its digest, what it's called, its bytes.
    pub(crate) documents: Vec<(Digest, String, Vec<u8>)>,
    /// What those name that isn't a document, each once, and what a message calls it.
    pub(crate) blobs: Vec<(Descriptor, String)>,
    /// Documents that aren't there.
    pub(crate) missing: Vec<Digest>,
    seen: BTreeSet<Digest>,
}

impl Whole {
    /// Follows a digest as far as `read` knows documents. What names itself is followed once, and indexes as deep as a pull follows them.
    pub(crate) fn of<E>(top: &Digest, mut read: impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>) -> Result<Whole, E> {
        let mut whole = Whole::default();
        whole.follow(top, "", 0, &mut read)?;
        Ok(whole)
    }

    fn follow<E>(
        &mut self,
        digest: &Digest,
        media_type: &str,
        depth: usize,
        read: &mut impl FnMut(&Digest) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<(), E> {
        if !self.seen.insert(digest.clone()) {
            return Ok(());
        }
        let Some(bytes) = read(digest)? else {
            self.missing.push(digest.clone());
            return Ok(());
        };
        match Document::parse(&bytes) {
            Ok(Document::Index(index)) if depth <= DEPTH => {
                for entry in &index.manifests {
                    self.follow(&entry.digest, &entry.media_type, depth + 1, read)?;
                }
            }
            Ok(Document::Manifest(manifest)) => self.name(&manifest),
            // What else somebody put into an index is sent as it is.
            _ => {}
        }
        let media_type = if is_manifest_or_index(media_type) { Document::media_type(&bytes) } else { media_type };
        self.documents.push((digest.clone(), media_type.to_owned(), bytes));
        Ok(())
    }

    fn name(&mut self, manifest: &Manifest) {
        let layers = manifest.layers.iter().enumerate().map(|(i, layer)| (layer, format!("layer {i}")));
        for (descriptor, part) in layers.chain([(&manifest.config, "the config".to_owned())]) {
            if self.seen.insert(descriptor.digest.clone()) {
                self.blobs.push((descriptor.clone(), part));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    /// An index of these digests.
    fn index(of: &[&Digest]) -> Vec<u8> {
        let entries: Vec<String> =
            of.iter().map(|d| format!(r#"{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{d}","size":1}}"#)).collect();
        format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entries.join(",")).into_bytes()
    }

    #[test]
    fn each_document_comes_after_what_it_names_and_once() {
        let blob = Digest::sha256(b"layer");
        let descriptor = format!(r#"{{"mediaType":"x","digest":"{blob}","size":5}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":[{descriptor}]}}"#).into_bytes();
        let (image, lost) = (Digest::sha256(&manifest), Digest::sha256(b"lost"));
        let inner = index(&[&image, &lost]);
        let outer = index(&[&image, &Digest::sha256(&inner)]);
        let (inside, outside) = (Digest::sha256(&inner), Digest::sha256(&outer));
        let there = BTreeMap::from([(image.clone(), manifest), (inside.clone(), inner), (outside.clone(), outer)]);
        let whole = Whole::of(&outside, |digest| Ok::<_, Infallible>(there.get(digest).cloned())).unwrap();
        let order: Vec<&Digest> = whole.documents.iter().map(|(digest, ..)| digest).collect();
        assert_eq!(order, [&image, &inside, &outside]);
        assert_eq!(whole.missing, [lost]);
        // The config and the layer are one blob here.
        assert_eq!(whole.blobs.iter().map(|(blob, _)| &blob.digest).collect::<Vec<_>>(), [&blob]);
    }
}
