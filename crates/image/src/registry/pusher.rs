//! Pushes: from an image in the store to a registry, byte for byte as it was pulled or imported.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::NonZero;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use reqwest::Method;
use reqwest::header::CONTENT_TYPE;

use super::client::{RegistryClient, said_digest};
use super::session::{Payload, Report, Session};
use super::source::Source;
use super::upload::{Content, Upload};
use crate::digest::Digest;
use crate::error::{Error, Verb, disk};
use crate::manifest::MANIFEST_MAX;
use crate::platform::Platform;
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Store;
use crate::whole::Whole;

/// Other repositories that a registry is asked to take blobs from.
const MOUNTS: usize = 4;

/// How images are pushed. Cheap to clone; holds no connection.
///
/// What was pulled is sent as it came: manifest, config and layers have the digests that they had. A blob that the repository has isn't
/// sent; one that another repository of the registry has is mounted from there, where it's known to be.
///
/// The futures are `Send` and need a tokio runtime with its I/O and time drivers; dropping one stops the push. What the registry took of
/// it stays there, and isn't sent by the next.
///
/// ```no_run
/// # fn f() -> Result<(), Box<dyn std::error::Error>> {
/// use coracle_image::{Pusher, Store};
///
/// let store = Store::open("/var/lib/example/store")?;
/// let digest = Pusher::new().push_blocking(&store, &"debian:12".parse()?, &"localhost:5000/debian:12".parse()?)?;
/// println!("localhost:5000/debian:12 is {digest}");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use]
pub struct Pusher {
    client: RegistryClient,
    platform: Platform,
    whole: bool,
    report: Report,
}

impl Default for Pusher {
    fn default() -> Pusher {
        Pusher::new()
    }
}

impl Pusher {
    /// For this program's platform, with the credentials that are found.
    pub fn new() -> Pusher {
        Pusher { client: RegistryClient::new(), platform: Platform::host(), whole: false, report: Report::default() }
    }

    /// Reaches registries as this client does.
    pub fn client(mut self, client: RegistryClient) -> Self {
        self.client = client;
        self
    }

    /// The image for which platform: the store may have several of one name.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Sends all that the reference means, where it means an index: the images for all platforms and what else the index names, and the
    /// index itself, byte for byte. [`Puller::whole`](crate::Puller::whole) brings all of it into the store.
    pub fn whole(mut self, yes: bool) -> Self {
        self.whole = yes;
        self
    }

    /// Calls back with every step, from the runtime's threads: don't block in it.
    pub fn progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.report = Report(Some(Arc::new(callback)));
        self
    }

    /// Sends the image that the store knows as `image` to a registry, as `to`. Says the digest that it has there, which is the one it
    /// has here.
    ///
    /// # Errors
    /// [`Error::NotInStore`]; [`Error::NotWhole`]; [`Error::Corrupt`] where the store lost a blob, or `to` has another digest; all that says why a registry
    /// couldn't be asked.
    ///
    /// # Cancel safety
    /// Dropping the future stops the push and leaves no lock.
    pub async fn push(&self, store: &Store, image: &Reference, to: &Reference) -> Result<Digest, Error> {
        let (own, name, platform, whole) = (store.clone(), image.clone(), self.platform.clone(), self.whole);
        let load = move || Load::new(&own, &name, &platform, whole);
        let load = match tokio::task::spawn_blocking(load).await {
            Ok(load) => load?,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => return Err(Error::Stopped { verb: Verb::Push, image: to.to_string() }),
        };
        if let Some(wanted) = to.digest()
            && *wanted != load.digest
        {
            return Err(Error::Corrupt {
                image: image.to_string(),
                part: "the manifest".into(),
                expected: wanted.to_string(),
                got: load.digest.to_string(),
            });
        }
        let session = self.client.session(to, Verb::Push, self.report.clone()).await?;
        self.report.tell(Progress::Resolving { reference: to.clone() });
        let mounts = load.mounts(to);
        let scope = session.push_scope(&mounts.values().map(String::as_str).collect());
        let at_once = std::thread::available_parallelism().map_or(2, NonZero::get).max(2);
        let work: Vec<_> = load.blobs.iter().map(|blob| self.blob(&session, &scope, blob, mounts.get(&blob.digest))).collect();
        stream::iter(work).buffer_unordered(at_once).try_collect::<()>().await?;
        // What names others comes after them, by its digest; the last has the name.
        for (digest, media_type, document) in load.documents {
            let name = if digest == load.digest { session.name(&digest) } else { digest.to_string() };
            session.put_manifest(&scope, &name, &media_type, document, &digest).await?;
        }
        self.report.tell(Progress::Done { reference: to.clone(), digest: load.digest.clone() });
        Ok(load.digest)
    }

    /// As [`push`](Pusher::push), without a runtime: the calling thread waits. It works inside a runtime too, and blocks its thread.
    ///
    /// # Errors
    /// As [`push`](Pusher::push).
    pub fn push_blocking(&self, store: &Store, image: &Reference, to: &Reference) -> Result<Digest, Error> {
        super::block_on(self.push(store, image, to), store)
    }

    async fn blob(&self, session: &Session, scope: &str, blob: &Blob, from: Option<&String>) -> Result<(), Error> {
        let (report, digest, total) = (self.report.clone(), blob.digest.clone(), blob.length);
        let upload = Upload {
            session,
            source: session.registry(),
            scope,
            digest: &blob.digest,
            content: Content::File(blob.file.clone(), blob.length),
            from: from.map(String::as_str),
            report: Arc::new(move |done| report.tell(Progress::Uploading { digest: digest.clone(), done, total })),
        };
        match upload.run().await {
            Ok(sent) => self.report.tell(Progress::Uploaded { digest: blob.digest.clone(), sent }),
            Err(failure) => return Err(session.explain(failure, session.registry(), &blob.part).await),
        }
        Ok(())
    }
}

impl fmt::Debug for Pusher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pusher").field("platform", &self.platform).field("client", &self.client).finish_non_exhaustive()
    }
}

/// What is to be sent, as it lies in the store.
struct Load {
    /// Of the document that gets the name.
    digest: Digest,
    /// Each after those that it names: digest, media type, bytes.
    documents: Vec<(Digest, String, Bytes)>,
    blobs: Vec<Blob>,
    /// Where the store's images of these blobs came from.
    known: Vec<(Digest, Reference)>,
    /// A session: what was found in it stays.
    _store: Store,
}

struct Blob {
    digest: Digest,
    file: Arc<std::fs::File>,
    length: u64,
    part: String,
}

impl Load {
    fn new(store: &Store, reference: &Reference, platform: &Platform, whole: bool) -> Result<Load, Error> {
        let name = reference.to_string();
        let store = store.session()?;
        let absent = || Error::NotInStore { image: name.clone(), platform: Box::new(platform.clone()), store: store.path().to_owned() };
        let digest = match whole {
            true => store.meaning(reference)?.ok_or_else(absent)?,
            false => store.find(reference, platform)?.ok_or_else(absent)?.digest,
        };
        let found = Whole::of(&digest, |digest| store.read(digest, MANIFEST_MAX))?;
        let not_whole = |missing: Vec<Digest>| Error::NotWhole { image: name.clone(), missing, store: store.path().to_owned() };
        if !found.missing.is_empty() {
            return Err(not_whole(found.missing));
        }
        let (mut blobs, mut missing) = (Vec::new(), Vec::new());
        for (descriptor, part) in found.blobs {
            let Some(file) = store.blob(&descriptor.digest)? else {
                missing.push((descriptor.digest, part));
                continue;
            };
            let length = file.metadata().map_err(disk("look at", &store.blob_path(&descriptor.digest)))?.len();
            if length != descriptor.size {
                let (expected, got) = (format!("{} bytes", descriptor.size), format!("{length} bytes in the store"));
                return Err(Error::Corrupt { image: name, part, expected, got });
            }
            blobs.push(Blob { digest: descriptor.digest, file: Arc::new(file), length, part });
        }
        if whole && !missing.is_empty() {
            return Err(not_whole(missing.into_iter().map(|(digest, _)| digest).collect()));
        }
        if let Some((digest, part)) = missing.into_iter().next() {
            let got = "nothing: its blob isn't in the store".to_owned();
            return Err(Error::Corrupt { image: name, part, expected: digest.to_string(), got });
        }
        // Where it was pulled from there's all of it.
        let seen: BTreeSet<&Digest> = blobs.iter().map(|blob| &blob.digest).collect();
        let mut known: Vec<(Digest, Reference)> = seen.iter().map(|digest| ((*digest).clone(), reference.clone())).collect();
        for other in store.images()? {
            let layers = other.layers.iter().filter(|layer| seen.contains(&layer.digest));
            known.extend(layers.map(|layer| (layer.digest.clone(), other.reference.clone())));
        }
        let documents = found.documents.into_iter().map(|(digest, media_type, bytes)| (digest, media_type, bytes.into())).collect();
        Ok(Load { digest, documents, blobs, known, _store: store })
    }

    /// From which other repository of the registry a blob can be had.
    fn mounts(&self, to: &Reference) -> BTreeMap<Digest, String> {
        let (mut mounts, mut repositories) = (BTreeMap::new(), BTreeSet::new());
        for (digest, from) in &self.known {
            if from.registry() != to.registry() || from.repository() == to.repository() || mounts.contains_key(digest) {
                continue;
            }
            if repositories.contains(from.repository()) || repositories.len() < MOUNTS {
                repositories.insert(from.repository().to_owned());
                mounts.insert(digest.clone(), from.repository().to_owned());
            }
        }
        mounts
    }
}

impl RegistryClient {
    /// Sends a blob to a repository, if it isn't there: for artifacts, which are manifests that name them.
    ///
    /// # Errors
    /// All that says why a registry couldn't be asked.
    pub async fn push_blob(&self, to: &Reference, bytes: impl Into<Bytes>) -> Result<Digest, Error> {
        let bytes = bytes.into();
        let session = self.session(to, Verb::Push, Report::default()).await?;
        let (digest, scope) = (Digest::sha256(&bytes), session.push_scope(&BTreeSet::new()));
        let source = session.registry();
        let content = Content::Memory(bytes);
        let upload = Upload { session: &session, source, scope: &scope, digest: &digest, content, from: None, report: Arc::new(|_| {}) };
        match upload.run().await {
            Ok(_) => Ok(digest),
            Err(failure) => Err(session.explain(failure, source, "a blob").await),
        }
    }

    /// Sends a manifest or an index under a tag or its digest, exactly as it is; what it names has to be there. Where it has a `subject`
    /// and the registry keeps no list of referrers, it's entered in the index that stands for the list.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where `to` has another digest; all that says why a registry couldn't be asked.
    pub async fn push_manifest(&self, to: &Reference, media_type: &str, manifest: impl Into<Bytes>) -> Result<Digest, Error> {
        let manifest = manifest.into();
        let session = self.session(to, Verb::Push, Report::default()).await?;
        let digest = match to.digest() {
            Some(wanted) => Digest::of(wanted.algorithm(), &manifest),
            None => Digest::sha256(&manifest),
        };
        if let Some(wanted) = to.digest()
            && *wanted != digest
        {
            let (image, part) = (to.to_string(), "the manifest".to_owned());
            return Err(Error::Corrupt { image, part, expected: wanted.to_string(), got: digest.to_string() });
        }
        let scope = session.push_scope(&BTreeSet::new());
        session.put_manifest(&scope, &session.name(&digest), media_type, manifest, &digest).await?;
        Ok(digest)
    }
}

impl Session {
    /// What a push needs to be allowed to do, and to mount from other repositories.
    fn push_scope(&self, from: &BTreeSet<&str>) -> String {
        let mut scope = super::session::scope(&self.registry().repository, "pull,push");
        for repository in from {
            scope.push(' ');
            scope.push_str(&super::session::scope(repository, "pull"));
        }
        scope
    }

    /// By which name a document is sent that the reference is to mean: its tag, or the document's digest.
    fn name(&self, digest: &Digest) -> String {
        match (self.reference.digest(), self.reference.tag()) {
            (None, Some(tag)) => tag.to_owned(),
            _ => digest.to_string(),
        }
    }

    async fn put_manifest(&self, scope: &str, name: &str, media_type: &str, manifest: Bytes, digest: &Digest) -> Result<(), Error> {
        let source = self.registry();
        let sent = async {
            let response = self.put(source, scope, name, media_type, manifest.clone()).await?;
            if let Some(said) = said_digest(response.headers())
                && said.algorithm() == digest.algorithm()
                && said != *digest
            {
                let why = format!("it took {digest} for {said}");
                return Err(super::failure::Failure::new(source.address(), super::failure::Kind::Nonsense(why)));
            }
            // OCI-Subject says that the registry keeps the list itself.
            if response.headers().get("oci-subject").is_none() {
                self.list_referrer(source, scope, media_type, &manifest, digest).await?;
            }
            Ok(())
        };
        match sent.await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.explain(failure, source, "the manifest").await),
        }
    }

    pub(super) async fn put(
        &self,
        source: &Source,
        scope: &str,
        name: &str,
        media_type: &str,
        manifest: Bytes,
    ) -> Result<reqwest::Response, super::failure::Failure> {
        let call = self.call(source, Method::PUT, &format!("manifests/{name}"), scope)?;
        self.success(source, call.header(CONTENT_TYPE, media_type).body(Payload::Bytes(manifest))).await
    }
}
