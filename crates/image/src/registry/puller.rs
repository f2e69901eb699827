//! Pulls: from a reference to an image in the store and its layers in a sink.
//!
//! ```text
//!  reference ──▶ manifest or index ──▶ manifest ──▶ config ──▶ layers, several at once:   socket ─▶ channel ─▶ hash ┬▶ blob file
//!  (no request where store and digest say it all)                                        (async)   (bounded)       └▶ sink
//!                                                                                        └────────── a blocking thread ────────┘
//! ```
//!
//! Dropping the future drops the channel's sending end; the thread then drops what it holds: lock, writer, file. The hash lives as long
//! as the pull, over broken connections. Another process that continues a beginning hashes it anew: it has to read it for the sink
//! anyway, and a hash kept beside the file would vouch for bytes that a power cut took.

use std::fmt;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OnceCell, mpsc};

use super::client::RegistryClient;
use super::download::Download;
use super::session::{Report, Session};
use super::verify::{Candidate, Verifier};
use crate::config::CONFIG_MAX;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::{Error, Verb};
use crate::image::Image;
use crate::ingest::{Flow, Ingest, Prepared, prepare};
use crate::manifest::{Document, MANIFEST_MAX, Manifest};
use crate::oci_layout::DEPTH;
use crate::platform::Platform;
use crate::progress::{Progress, STEP};
use crate::reference::Reference;
use crate::sink::{LayerInfo, LayerSink, NoSink};
use crate::store::{PATIENCE, Record, Small, Store, image};
use crate::whole::Whole;

/// How images are pulled. Cheap to clone; holds no connection.
///
/// Registries are reached as a [`RegistryClient`] says: [`client`](Puller::client) sets one; the usual settings have a name here too.
///
/// The futures are `Send` and need a tokio runtime with its I/O and time drivers; dropping one stops the pull and leaves no lock; what
/// was fetched is continued by the next. [`pull_blocking`](Puller::pull_blocking) needs no runtime.
#[derive(Clone)]
#[must_use]
pub struct Puller {
    client: RegistryClient,
    platform: Platform,
    pub(super) report: Report,
    verifier: Option<Arc<dyn Verifier>>,
    whole: bool,
}

impl Default for Puller {
    fn default() -> Puller {
        Puller::new()
    }
}

impl Puller {
    /// For this program's platform, with the credentials that are found.
    pub fn new() -> Puller {
        Puller { client: RegistryClient::new(), platform: Platform::host(), report: Report::default(), verifier: None, whole: false }
    }

    /// Reaches registries as this client does. What was said before of how to reach them is forgotten.
    pub fn client(mut self, client: RegistryClient) -> Self {
        self.client = client;
        self
    }

    /// For which platform.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// [`RegistryClient::insecure`].
    pub fn insecure(mut self, registry: impl Into<String>) -> Self {
        self.client = self.client.insecure(registry);
        self
    }

    /// [`RegistryClient::secure`].
    pub fn secure(mut self, registry: impl Into<String>) -> Self {
        self.client = self.client.secure(registry);
        self
    }

    /// [`RegistryClient::credentials`].
    pub fn credentials(mut self, registry: impl Into<String>, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.client = self.client.credentials(registry, user, password);
        self
    }

    /// [`RegistryClient::auth_file`].
    pub fn auth_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.client = self.client.auth_file(path);
        self
    }

    /// [`RegistryClient::trust`].
    pub fn trust(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.client = self.client.trust(pem);
        self
    }

    /// Calls back with every step, from the runtime's threads: don't block in it.
    pub fn progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.report = Report(Some(Arc::new(callback)));
        self
    }

    /// Brings in all that the reference means: of an index the images for all platforms and what else it names, for
    /// [`Pusher::whole`](crate::Pusher::whole) to send. What isn't for [`platform`](Puller::platform) stays packed.
    pub fn whole(mut self, yes: bool) -> Self {
        self.whole = yes;
        self
    }

    /// Uses only images that a verifier accepts.
    pub fn verify(mut self, verifier: impl Verifier + 'static) -> Self {
        self.verifier = Some(Arc::new(verifier));
        self
    }

    /// Brings an image into the store and its layers into the sink, as the registry has it now.
    ///
    /// An image by digest that is there already needs no request; one by tag needs the registry's word on what the tag means, and
    /// nothing more where it means the same as before.
    ///
    /// # Errors
    /// Any [`Error`] but those of layouts.
    ///
    /// # Cancel safety
    /// Dropping the future stops the pull within a chunk (but for a sink that blocks) and leaves no lock.
    ///
    /// # Panics
    /// Outside a tokio runtime with I/O and time.
    pub async fn pull(&self, store: &Store, reference: &Reference, sink: Arc<dyn LayerSink>) -> Result<Image, Error> {
        let store = &self.protected(store, reference, &sink).await?;
        let pull = Pull::new(self, store, reference, sink);
        pull.report(Progress::Resolving { reference: reference.clone() });
        let (resolved, digest, manifest) = pull.resolve().await?;
        pull.verify(&resolved, &digest).await?;
        let config = pull.config(&manifest).await?;
        let image = image(reference.clone(), self.platform.clone(), digest, &manifest, &config)?;
        pull.complete(&image).await?;
        if self.whole {
            pull.rest(&resolved).await?;
        }
        pull.publish(&image, &resolved).await?;
        pull.done(&image);
        Ok(image)
    }

    /// As [`pull`](Puller::pull), but an image that is there is taken as it is, without asking the registry what its tag means now.
    ///
    /// # Errors
    /// As [`pull`](Puller::pull).
    pub async fn pull_missing(&self, store: &Store, reference: &Reference, sink: Arc<dyn LayerSink>) -> Result<Image, Error> {
        let store = &self.protected(store, reference, &sink).await?;
        let pull = Pull::new(self, store, reference, sink.clone());
        let (there, at, platform) = (store.clone(), reference.clone(), self.platform.clone());
        match pull.blocking(move || there.find(&at, &platform)).await? {
            Some(image) => {
                let (there, at, platform) = (store.clone(), reference.clone(), self.platform.clone());
                let record = pull.blocking(move || there.record(&at, &platform)).await?;
                let resolved = record.and_then(|record| record.resolved()).unwrap_or_else(|| image.digest.clone());
                pull.verify(&resolved, &image.digest).await?;
                pull.complete(&image).await?;
                pull.done(&image);
                Ok(image)
            }
            None => self.pull(store, reference, sink).await,
        }
    }

    /// As [`pull`](Puller::pull), without a runtime: the calling thread waits. It works inside a runtime too, and blocks its thread.
    ///
    /// # Errors
    /// As [`pull`](Puller::pull).
    pub fn pull_blocking(&self, store: &Store, reference: &Reference, sink: Arc<dyn LayerSink>) -> Result<Image, Error> {
        super::block_on(self.pull(store, reference, sink), store)
    }

    /// A handle by which nobody prunes what this pull finds or brings.
    async fn protected(&self, store: &Store, reference: &Reference, sink: &Arc<dyn LayerSink>) -> Result<Store, Error> {
        let outer = store.clone();
        Pull::new(self, store, reference, sink.clone()).blocking(move || outer.in_session()).await
    }
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller").field("platform", &self.platform).field("client", &self.client).finish_non_exhaustive()
    }
}

/// One pull.
pub(super) struct Pull<'a> {
    puller: &'a Puller,
    store: &'a Store,
    reference: &'a Reference,
    sink: Arc<dyn LayerSink>,
    /// Made when the first request is needed, if one is.
    session: OnceCell<Session>,
}

impl<'a> Pull<'a> {
    fn new(puller: &'a Puller, store: &'a Store, reference: &'a Reference, sink: Arc<dyn LayerSink>) -> Pull<'a> {
        Pull { puller, store, reference, sink, session: OnceCell::new() }
    }

    fn report(&self, progress: Progress) {
        self.puller.report.tell(progress);
    }

    fn done(&self, image: &Image) {
        self.report(Progress::Done { reference: image.reference.clone(), digest: image.digest.clone() });
    }

    /// Runs what touches the disk on a thread that may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(self.stopped()),
        }
    }

    fn stopped(&self) -> Error {
        Error::Stopped { verb: Verb::Pull, image: self.reference.to_string() }
    }

    pub(super) fn reference(&self) -> &Reference {
        self.reference
    }

    pub(super) async fn session(&self) -> Result<&Session, Error> {
        let make = || self.puller.client.session(self.reference, Verb::Pull, self.puller.report.clone());
        self.session.get_or_try_init(make).await
    }

    /// From the reference to the manifest for the platform: what the reference means, the manifest's digest, the manifest.
    async fn resolve(&self) -> Result<(Digest, Digest, Manifest), Error> {
        let resolved = match self.reference.digest() {
            Some(digest) => digest.clone(),
            None => self.ask().await?,
        };
        let (mut digest, mut size) = (resolved.clone(), None);
        for _ in 0..=DEPTH {
            let bytes = self.document(&digest, size).await?;
            let index = match Document::parse(&bytes) {
                Ok(Document::Manifest(manifest)) => return Ok((resolved, digest, manifest)),
                Ok(Document::Index(index)) => index,
                Err(source) => {
                    return Err(Error::Document { image: self.reference.to_string(), part: "the manifest".into(), source });
                }
            };
            let chosen = index.choose(&self.puller.platform).ok_or_else(|| Error::NoSuchPlatform {
                image: self.reference.to_string(),
                wanted: Box::new(self.puller.platform.clone()),
                available: index.platforms(),
            })?;
            (digest, size) = (chosen.digest.clone(), Some(chosen.size));
        }
        Err(self.corrupt("the manifest", "a manifest", "indexes within indexes"))
    }

    /// What the tag means now: by a HEAD where it may well be what it was before (registries don't count them), else by a GET.
    async fn ask(&self) -> Result<Digest, Error> {
        let (store, at, platform) = (self.store.clone(), self.reference.clone(), self.puller.platform.clone());
        let before = self.blocking(move || Ok(store.record(&at, &platform)?.and_then(|r| r.resolved()))).await?;
        let session = self.session().await?;
        if before.is_some()
            && let Some(digest) = session.head().await?
        {
            return Ok(digest);
        }
        let manifest = session.manifest(None).await?;
        self.put(&manifest.digest, manifest.bytes).await?;
        Ok(manifest.digest)
    }

    /// A manifest or an index by its digest, from the store or the registry.
    async fn document(&self, digest: &Digest, size: Option<u64>) -> Result<Bytes, Error> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        if let Some(bytes) = self.blocking(move || store.read(&wanted, MANIFEST_MAX)).await? {
            return Ok(bytes.into());
        }
        let bytes = self.session().await?.manifest(Some(digest)).await?.bytes;
        if let Some(size) = size
            && size != bytes.len() as u64
        {
            return Err(self.corrupt("the manifest", format!("{size} bytes"), format!("{} bytes", bytes.len())));
        }
        self.put(digest, bytes.clone()).await?;
        Ok(bytes)
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), Error> {
        let (store, digest, image) = (self.store.clone(), digest.clone(), self.reference.to_string());
        self.blocking(move || store.put(&digest, &bytes, &image, "the manifest")).await
    }

    /// Asks the verifier, if there is one.
    async fn verify(&self, resolved: &Digest, digest: &Digest) -> Result<(), Error> {
        let Some(verifier) = &self.puller.verifier else {
            return Ok(());
        };
        let bytes = self.document(resolved, None).await?;
        let manifest = match resolved == digest {
            true => bytes.clone(),
            false => self.document(digest, None).await?,
        };
        let candidate = Candidate::new(self, (resolved.clone(), bytes), (digest.clone(), manifest));
        let verdict = verifier.verify(&candidate).await;
        verdict.map_err(|source| Error::NotAccepted { image: self.reference.to_string(), digest: Box::new(resolved.clone()), source })
    }

    async fn config(&self, manifest: &Manifest) -> Result<Vec<u8>, Error> {
        let Descriptor { digest, size, .. } = &manifest.config;
        if *size > CONFIG_MAX {
            return Err(self.corrupt("the config", "at most 8 MiB", format!("{size} bytes")));
        }
        loop {
            let (store, wanted) = (self.store.clone(), digest.clone());
            let (size, image) = (*size, self.reference.to_string());
            let small = move || store.small(&wanted, size, CONFIG_MAX, &image, "the config");
            match self.blocking(small).await? {
                Small::There(bytes) => return Ok(bytes),
                Small::Busy => tokio::time::sleep(PATIENCE).await,
                Small::Missing(ingest) => {
                    let flow = self.blocking(move || Flow::from_start(ingest)).await?;
                    match self.fetch(flow, digest, size, "the config", &|_| {}).await {
                        // A mirror's fault, which isn't asked any more; or all is well.
                        Ok(()) | Err((Blame::Mirror, _)) => {}
                        Err((_, error)) => return Err(error),
                    }
                }
            }
        }
    }

    /// Brings all layers into the sink, the largest first, as many at once as there are cores.
    async fn complete(&self, image: &Image) -> Result<(), Error> {
        let (store, held) = (self.store.clone(), image.clone());
        let _lease = self.blocking(move || store.lease(&held)).await?;
        let mut layers: Vec<&LayerInfo> = image.layers.iter().collect();
        layers.sort_by_key(|layer| std::cmp::Reverse(layer.size));
        let at_once = std::thread::available_parallelism().map_or(2, NonZero::get);
        // A list of futures, not a lazy map: with the map the compiler doesn't see that the whole is `Send`.
        let work: Vec<_> = layers.into_iter().map(|layer| self.layer(layer, &self.sink)).collect();
        stream::iter(work).buffer_unordered(at_once).try_collect::<()>().await
    }

    /// Brings in what a document leads to beside the image for the platform: as blobs.
    async fn rest(&self, top: &Digest) -> Result<(), Error> {
        let mut whole = loop {
            let store = self.store.clone();
            let top = top.clone();
            let whole = self.blocking(move || Whole::of(&top, |digest| store.read(digest, MANIFEST_MAX))).await?;
            if whole.missing.is_empty() {
                break whole;
            }
            for digest in &whole.missing {
                self.document(digest, None).await?;
            }
        };
        whole.blobs.sort_by_key(|(blob, _)| std::cmp::Reverse(blob.size));
        let nowhere: Arc<dyn LayerSink> = Arc::new(NoSink);
        // Without a sink that keeps layers, a blob that is here is hashed and nothing more.
        let blobs: Vec<LayerInfo> = whole
            .blobs
            .into_iter()
            .enumerate()
            .map(|(index, (blob, _))| LayerInfo::new(index, blob.digest.clone(), blob.digest, blob.size, blob.media_type))
            .collect();
        let at_once = std::thread::available_parallelism().map_or(2, NonZero::get);
        let work: Vec<_> = blobs.iter().map(|blob| self.layer(blob, &nowhere)).collect();
        stream::iter(work).buffer_unordered(at_once).try_collect::<()>().await
    }

    async fn layer(&self, layer: &LayerInfo, sink: &Arc<dyn LayerSink>) -> Result<(), Error> {
        let mut again = true;
        loop {
            let (store, info, sink, image) = (self.store.clone(), layer.clone(), sink.clone(), self.reference.to_string());
            let into = sink.clone();
            let ingest = match self.blocking(move || prepare(&store, &info, &*sink, &image)).await? {
                Prepared::Done => break,
                Prepared::Busy => {
                    tokio::time::sleep(PATIENCE).await;
                    continue;
                }
                Prepared::Missing(ingest) => ingest,
            };
            match self.layer_from(ingest, layer, into).await {
                Ok(()) => break,
                // It isn't asked any more.
                Err((Blame::Mirror, _)) => {}
                // What an earlier pull left behind may be what is wrong. It's gone now.
                Err((Blame::Before, Error::Corrupt { .. } | Error::Sink { .. })) if again => again = false,
                Err((_, error)) => return Err(error),
            }
        }
        self.report(Progress::Unpacked { digest: layer.digest.clone() });
        Ok(())
    }

    /// Brings a layer, or what is missing of it.
    async fn layer_from(&self, ingest: Ingest, layer: &LayerInfo, sink: Arc<dyn LayerSink>) -> Result<(), (Blame, Error)> {
        let info = layer.clone();
        let resume = move || Flow::resume(ingest, Some((&*sink, &info)));
        let flow = self.blocking(resume).await.map_err(|e| (Blame::Before, e))?;
        let (resumed, total) = (flow.resumed(), layer.size);
        let report = |done| {
            self.report(Progress::Layer { digest: layer.digest.clone(), done, total });
            if done == total {
                self.report(Progress::Unpacking { digest: layer.digest.clone() });
            }
        };
        let fetched = self.fetch(flow, &layer.digest, total, &format!("layer {}", layer.index), &report).await;
        fetched.map_err(|(blame, e)| (if blame == Blame::Registry && resumed { Blame::Before } else { blame }, e))
    }

    /// Fetches the rest of a blob.
    async fn fetch(
        &self,
        flow: Flow,
        digest: &Digest,
        size: u64,
        part: &str,
        report: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), (Blame, Error)> {
        let start = flow.written();
        let session = match start < size {
            true => Some(self.session().await.map_err(|e| (Blame::Registry, e))?),
            false => None,
        };
        report(start);
        // Some chunks of tens of kilobytes: enough for both sides to keep going.
        let (sender, receiver) = mpsc::channel(16);
        let worker = tokio::task::spawn_blocking(move || drain(flow, receiver));
        let mut download = session.map(|session| Download::new(session, digest, size, part, start));
        let sent = send(download.as_mut(), sender, start, size, report).await;
        let kept = match worker.await {
            Ok(kept) => kept,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(self.stopped()),
        };
        // If the disk or the sink failed, that is why sending stopped.
        kept.and(sent).map_err(|error| {
            let wrong = matches!(error, Error::Corrupt { .. } | Error::Sink { .. });
            let mirror = wrong && download.is_some_and(|d| d.distrust());
            (if mirror { Blame::Mirror } else { Blame::Registry }, error)
        })
    }

    async fn publish(&self, image: &Image, resolved: &Digest) -> Result<(), Error> {
        let mut record = Record::new(&image.reference, &image.platform, resolved, &image.digest);
        record.whole = self.puller.whole;
        let (store, reference, platform) = (self.store.clone(), image.reference.clone(), image.platform.clone());
        self.blocking(move || match store.record(&reference, &platform)? {
            // What came whole stays so as long as it means the same.
            Some(before) if (Record { whole: before.whole, ..record.clone() }) == before && (before.whole || !record.whole) => Ok(()),
            _ => store.publish(&record),
        })
        .await
    }

    fn corrupt(&self, part: &str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Corrupt { image: self.reference.to_string(), part: part.to_owned(), expected: expected.into(), got: got.into() }
    }
}

/// Whose fault wrong bytes may be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Blame {
    Registry,
    /// An earlier pull's, that left a beginning.
    Before,
    /// A mirror's, that isn't asked any more.
    Mirror,
}

enum Chunk {
    Bytes(Bytes),
    /// There are no more. A channel that closes without it was cut off.
    End,
}

/// Hands on the bytes of a blob, to the end or as long as somebody takes them.
async fn send(
    download: Option<&mut Download<'_>>,
    sender: mpsc::Sender<Chunk>,
    start: u64,
    size: u64,
    report: &(dyn Fn(u64) + Send + Sync),
) -> Result<(), Error> {
    if let Some(download) = download {
        let (mut done, mut shown) = (start, start);
        while done <= size
            && let Some(bytes) = download.next().await?
        {
            done += bytes.len() as u64;
            if sender.send(Chunk::Bytes(bytes)).await.is_err() {
                return Ok(());
            }
            if done - shown >= STEP || done == size {
                report(done);
                shown = done;
            }
        }
    }
    let _ = sender.send(Chunk::End).await;
    Ok(())
}

fn drain(mut flow: Flow, mut receiver: mpsc::Receiver<Chunk>) -> Result<(), Error> {
    while let Some(chunk) = receiver.blocking_recv() {
        match chunk {
            Chunk::Bytes(bytes) => flow.take(&bytes)?,
            Chunk::End => return flow.finish(),
        }
    }
    Ok(())
}
