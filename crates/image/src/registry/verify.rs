//! The caller's word on whether an image may be used: asked when its manifest is known, before a layer is fetched or unpacked.

use std::fmt;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;

use super::client::RawManifest;
use super::download::Download;
use super::puller::Pull;
use crate::config::CONFIG_MAX;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, VerifyError};
use crate::reference::Reference;

/// Accepts images, or doesn't: by signatures, by lists of digests, by whatever it knows.
///
/// [`Puller::verify`](crate::Puller::verify) sets one. It's asked in every pull, also of what is in the store already, and nothing is
/// unpacked or published that it didn't accept.
///
/// ```
/// use coracle_image::{Candidate, Verdict, Verifier};
///
/// /// Takes what somebody put a signature of cosign beside; what is in it, another function knows.
/// struct Signed;
///
/// impl Verifier for Signed {
///     fn verify<'a>(&'a self, candidate: &'a Candidate<'a>) -> Verdict<'a> {
///         Box::pin(async move {
///             let tag = candidate.digest().to_string().replace(':', "-") + ".sig";
///             match candidate.tagged(&tag).await? {
///                 Some(_signature) => Ok(()),
///                 None => Err("it isn't signed".into()),
///             }
///         })
///     }
/// }
/// # let _ = coracle_image::Puller::new().verify(Signed);
/// ```
pub trait Verifier: Send + Sync {
    /// Says whether an image may be used; the error is told to whoever wanted it, as [`Error::NotAccepted`].
    fn verify<'a>(&'a self, candidate: &'a Candidate<'a>) -> Verdict<'a>;
}

/// What a [`Verifier`] answers with.
pub type Verdict<'a> = Pin<Box<dyn Future<Output = Result<(), VerifyError>> + Send + 'a>>;

/// An image that is about to be used, and what else its registry has in the same repository.
///
/// What is asked for goes to the image's registry and its mirrors, with the pull's credentials and patience. Digests are right in
/// everything that it gives.
pub struct Candidate<'a> {
    pull: &'a Pull<'a>,
    resolved: (Digest, Bytes),
    manifest: (Digest, Bytes),
}

impl<'a> Candidate<'a> {
    pub(super) fn new(pull: &'a Pull<'a>, resolved: (Digest, Bytes), manifest: (Digest, Bytes)) -> Candidate<'a> {
        Candidate { pull, resolved, manifest }
    }

    /// What was asked for.
    pub fn reference(&self) -> &Reference {
        self.pull.reference()
    }

    /// What the reference means: the digest of an index or a manifest. Signatures are of this one.
    pub fn digest(&self) -> &Digest {
        &self.resolved.0
    }

    /// The bytes of what the reference means.
    pub fn bytes(&self) -> &Bytes {
        &self.resolved.1
    }

    /// The digest of the manifest for the platform; the same where the reference means a manifest.
    pub fn manifest_digest(&self) -> &Digest {
        &self.manifest.0
    }

    /// The bytes of the manifest for the platform.
    pub fn manifest_bytes(&self) -> &Bytes {
        &self.manifest.1
    }

    /// The manifest under another tag of the repository, if there is one: `sha256-….sig` is where cosign puts signatures.
    ///
    /// # Errors
    /// All that says why a registry couldn't be asked.
    pub async fn tagged(&self, tag: &str) -> Result<Option<RawManifest>, Error> {
        self.pull.session().await?.other(&format!("manifests/{tag}"), None).await
    }

    /// Another manifest of the repository by its digest, if it's there.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; all that says why a registry couldn't be asked.
    pub async fn manifest(&self, digest: &Digest) -> Result<Option<RawManifest>, Error> {
        self.pull.session().await?.other(&format!("manifests/{digest}"), Some(digest)).await
    }

    /// What names [`digest`](Candidate::digest) as its subject.
    ///
    /// # Errors
    /// All that says why a registry couldn't be asked.
    pub async fn referrers(&self, artifact_type: Option<&str>) -> Result<Vec<Descriptor>, Error> {
        self.pull.session().await?.referrers(&self.resolved.0, artifact_type).await
    }

    /// A small blob of the repository, of at most 8 MiB.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; all that says why a registry couldn't be asked.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<Bytes, Error> {
        let corrupt = |expected: String, got: String| Error::Corrupt {
            image: self.reference().to_string(),
            part: format!("the blob {}", descriptor.digest),
            expected,
            got,
        };
        if descriptor.size > CONFIG_MAX {
            return Err(corrupt("at most 8 MiB".into(), format!("{} bytes", descriptor.size)));
        }
        let session = self.pull.session().await?;
        let mut download = Download::new(session, &descriptor.digest, descriptor.size, "a blob", 0);
        let mut bytes = Vec::new();
        while bytes.len() as u64 <= descriptor.size
            && let Some(more) = download.next().await?
        {
            bytes.extend_from_slice(&more);
        }
        let got = Digest::of(descriptor.digest.algorithm(), &bytes);
        match got == descriptor.digest {
            true => Ok(bytes.into()),
            false => Err(corrupt(descriptor.digest.to_string(), got.to_string())),
        }
    }
}

impl fmt::Debug for Candidate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (digest, manifest) = (self.digest(), self.manifest_digest());
        f.debug_struct("Candidate").field("reference", self.reference()).field("digest", digest).field("manifest", manifest).finish()
    }
}
