//! Pulling images from registries (OCI distribution-spec).
//!
//! ```text
//!  reference ──▶ manifest or index ──▶ manifest ──▶ config ──▶ layers, several at once:   socket ─▶ channel ─▶ hash ┬▶ blob file
//!  (no request where store and digest say it all)                                        (async)   (bounded)       └▶ sink
//!                                                                                        └────────── a blocking thread ────────┘
//! ```
//!
//! Dropping the future drops the channel's sending end; the thread then drops what it holds: lock, writer, file.

mod auth;
mod client;

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::{OnceCell, mpsc};

use self::client::{Client, Failure};
use crate::config::CONFIG_MAX;
use crate::descriptor::Descriptor;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::Image;
use crate::ingest::{Flow, Ingest, Prepared, prepare};
use crate::manifest::{Document, MANIFEST_MAX, Manifest};
use crate::oci_layout::DEPTH;
use crate::platform::Platform;
use crate::progress::{Progress, STEP};
use crate::reference::Reference;
use crate::sink::{LayerInfo, LayerSink};
use crate::store::{PATIENCE, Record, Small, Store, image};

type Callback = Arc<dyn Fn(Progress) + Send + Sync>;

/// How images are pulled. Cheap to clone; holds no connection.
///
/// Registries on this machine (`localhost`, 127.0.0.0/8, `[::1]`) are spoken to by plain HTTP, as Docker does; all others by HTTPS,
/// unless [`insecure`](Puller::insecure) says otherwise. Credentials are those of `docker login` and `podman login`, or
/// [`credentials`](Puller::credentials).
///
/// The futures are `Send` and need a tokio runtime with its I/O and time drivers; dropping one stops the pull and leaves no lock; what
/// was fetched is continued by the next. [`pull_blocking`](Puller::pull_blocking) needs no runtime.
///
/// Where the process has no default `CryptoProvider` of `rustls` yet, the first request installs the one of `ring`: `oci-client` takes
/// no other way. A program that wants another one installs it first.
#[derive(Clone)]
#[must_use]
pub struct Puller {
    platform: Platform,
    plain: BTreeMap<String, bool>,
    credentials: BTreeMap<String, (String, String)>,
    auth_file: Option<PathBuf>,
    roots: Vec<Vec<u8>>,
    progress: Option<Callback>,
}

impl Default for Puller {
    fn default() -> Puller {
        Puller::new()
    }
}

impl Puller {
    /// For this program's platform, with the credentials that are found.
    pub fn new() -> Puller {
        Puller {
            platform: Platform::host(),
            plain: BTreeMap::new(),
            credentials: BTreeMap::new(),
            auth_file: None,
            roots: Vec::new(),
            progress: None,
        }
    }

    /// For which platform.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = platform;
        self
    }

    /// Speaks plain HTTP to a registry, written as in a reference: `registry.local:5000`. Passwords and images can be read and changed
    /// on the way (images of a digest can't be changed).
    pub fn insecure(mut self, registry: impl Into<String>) -> Self {
        self.plain.insert(registry.into(), true);
        self
    }

    /// Speaks HTTPS to a registry, though it's on this machine.
    pub fn secure(mut self, registry: impl Into<String>) -> Self {
        self.plain.insert(registry.into(), false);
        self
    }

    /// A user and a password (or token) for a registry, written as in a reference; goes before all that files say.
    pub fn credentials(mut self, registry: impl Into<String>, user: impl Into<String>, password: impl Into<String>) -> Self {
        self.credentials.insert(registry.into(), (user.into(), password.into()));
        self
    }

    /// The one file to look for credentials in, of Docker's `config.json` or Podman's `auth.json` form, instead of
    /// `$REGISTRY_AUTH_FILE`, `$XDG_RUNTIME_DIR/containers/auth.json`, `~/.config/containers/auth.json` and
    /// `$DOCKER_CONFIG/config.json` or `~/.docker/config.json`.
    pub fn auth_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.auth_file = Some(path.into());
        self
    }

    /// Trusts a certificate authority beside those of the machine: one certificate as PEM.
    pub fn trust(mut self, pem: impl Into<Vec<u8>>) -> Self {
        self.roots.push(pem.into());
        self
    }

    /// Calls back with every step, from the runtime's threads: don't block in it.
    pub fn progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(callback));
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
        let pull = Pull::new(self, store, reference, sink);
        pull.report(Progress::Resolving { reference: reference.clone() });
        let (resolved, digest, manifest) = pull.resolve().await?;
        let config = pull.config(&manifest).await?;
        let image = image(reference.clone(), self.platform.clone(), digest, &manifest, &config)?;
        pull.complete(&image).await?;
        pull.publish(&image, &resolved).await?;
        pull.done(&image);
        Ok(image)
    }

    /// As [`pull`](Puller::pull), but an image that is there is taken as it is, without asking the registry what its tag means now.
    ///
    /// # Errors
    /// As [`pull`](Puller::pull).
    pub async fn pull_missing(&self, store: &Store, reference: &Reference, sink: Arc<dyn LayerSink>) -> Result<Image, Error> {
        let pull = Pull::new(self, store, reference, sink.clone());
        let (there, at, platform) = (store.clone(), reference.clone(), self.platform.clone());
        match pull.blocking(move || there.find(&at, &platform)).await? {
            Some(image) => {
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
        // A thread of our own: a runtime can't be entered from within another.
        let work = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(crate::error::disk("make a runtime for", store.path()))?;
            runtime.block_on(self.pull(store, reference, sink))
        };
        std::thread::scope(|scope| match scope.spawn(work).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl fmt::Debug for Puller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Puller")
            .field("platform", &self.platform)
            .field("plain", &self.plain)
            .field("credentials", &self.credentials.keys())
            .field("auth_file", &self.auth_file)
            .finish_non_exhaustive()
    }
}

/// One pull.
struct Pull<'a> {
    puller: &'a Puller,
    store: &'a Store,
    reference: &'a Reference,
    sink: Arc<dyn LayerSink>,
    /// Made when the first request is needed, if one is.
    client: OnceCell<Client>,
}

impl<'a> Pull<'a> {
    fn new(puller: &'a Puller, store: &'a Store, reference: &'a Reference, sink: Arc<dyn LayerSink>) -> Pull<'a> {
        Pull { puller, store, reference, sink, client: OnceCell::new() }
    }

    fn report(&self, progress: Progress) {
        if let Some(callback) = &self.puller.progress {
            callback(progress);
        }
    }

    fn done(&self, image: &Image) {
        self.report(Progress::Done { reference: image.reference.clone(), digest: image.digest.clone() });
    }

    /// Runs what touches the disk on a thread that may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        match tokio::task::spawn_blocking(work).await {
            Ok(result) => result,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => Err(Error::Stopped { image: self.reference.to_string() }),
        }
    }

    async fn client(&self) -> Result<&Client, Error> {
        let make = || async {
            let (puller, reference) = (self.puller.clone(), self.reference.clone());
            self.blocking(move || Client::new(&puller, &reference)).await
        };
        self.client.get_or_try_init(make).await
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
        let client = self.client().await?;
        if before.is_some()
            && let Some(digest) = client.head().await?
        {
            return Ok(digest);
        }
        let bytes = client.manifest(None).await?;
        self.check_length(&bytes)?;
        let digest = Digest::sha256(&bytes);
        self.put(&digest, bytes).await?;
        Ok(digest)
    }

    /// A manifest or an index by its digest, from the store or the registry.
    async fn document(&self, digest: &Digest, size: Option<u64>) -> Result<Bytes, Error> {
        let (store, wanted) = (self.store.clone(), digest.clone());
        if let Some(bytes) = self.blocking(move || store.read(&wanted, MANIFEST_MAX)).await? {
            return Ok(bytes.into());
        }
        let bytes = self.client().await?.manifest(Some(digest)).await?;
        self.check_length(&bytes)?;
        if let Some(size) = size
            && size != bytes.len() as u64
        {
            return Err(self.corrupt("the manifest", format!("{size} bytes"), format!("{} bytes", bytes.len())));
        }
        let got = Digest::of(digest.algorithm(), &bytes);
        if got != *digest {
            return Err(self.corrupt("the manifest", digest.to_string(), got.to_string()));
        }
        self.put(digest, bytes.clone()).await?;
        Ok(bytes)
    }

    fn check_length(&self, bytes: &Bytes) -> Result<(), Error> {
        match bytes.len() as u64 {
            0..=MANIFEST_MAX => Ok(()),
            length => Err(self.corrupt("the manifest", "at most 4 MiB", format!("{length} bytes"))),
        }
    }

    async fn put(&self, digest: &Digest, bytes: Bytes) -> Result<(), Error> {
        let (store, digest, image) = (self.store.clone(), digest.clone(), self.reference.to_string());
        self.blocking(move || store.put(&digest, &bytes, &image, "the manifest")).await
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
                    self.fetch(flow, digest, size, "the config", &|_| {}).await?;
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
        let work: Vec<_> = layers.into_iter().map(|layer| self.layer(layer)).collect();
        stream::iter(work).buffer_unordered(at_once).try_collect::<()>().await
    }

    async fn layer(&self, layer: &LayerInfo) -> Result<(), Error> {
        let mut again = true;
        loop {
            let (store, info, sink, image) = (self.store.clone(), layer.clone(), self.sink.clone(), self.reference.to_string());
            let ingest = match self.blocking(move || prepare(&store, &info, &*sink, &image)).await? {
                Prepared::Done => break,
                Prepared::Busy => {
                    tokio::time::sleep(PATIENCE).await;
                    continue;
                }
                Prepared::Missing(ingest) => ingest,
            };
            match self.layer_from(ingest, layer).await {
                Ok(()) => break,
                // What an earlier pull left behind may be what is wrong. It's gone now.
                Err((true, Error::Corrupt { .. } | Error::Sink { .. })) if again => again = false,
                Err((_, error)) => return Err(error),
            }
        }
        self.report(Progress::Unpacked { digest: layer.digest.clone() });
        Ok(())
    }

    /// Brings a layer, or what is missing of it. An error comes with whether an earlier pull had left a beginning.
    async fn layer_from(&self, ingest: Ingest, layer: &LayerInfo) -> Result<(), (bool, Error)> {
        let (info, sink) = (layer.clone(), self.sink.clone());
        let resume = move || Flow::resume(ingest, Some((&*sink, &info)));
        let flow = self.blocking(resume).await.map_err(|e| (true, e))?;
        let (resumed, total) = (flow.resumed(), layer.size);
        let report = |done| self.report(Progress::Layer { digest: layer.digest.clone(), done, total });
        let fetched = self.fetch(flow, &layer.digest, total, &format!("layer {}", layer.index), &report).await;
        fetched.map_err(|e| (resumed, e))
    }

    /// Fetches the rest of a blob.
    async fn fetch(&self, flow: Flow, digest: &Digest, size: u64, part: &str, report: &(dyn Fn(u64) + Send + Sync)) -> Result<(), Error> {
        let start = flow.written();
        report(start);
        // Some chunks of tens of kilobytes: enough for both sides to keep going.
        let (sender, receiver) = mpsc::channel(16);
        let worker = tokio::task::spawn_blocking(move || drain(flow, receiver));
        let sent = self.send(sender, start, digest, size, part, report).await;
        let kept = match worker.await {
            Ok(kept) => kept,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            Err(_) => {
                return Err(Error::Stopped { image: self.reference.to_string() });
            }
        };
        // If the disk or the sink failed, that is why sending stopped.
        kept.and(sent)
    }

    async fn send(
        &self,
        sender: mpsc::Sender<Chunk>,
        start: u64,
        digest: &Digest,
        size: u64,
        part: &str,
        report: &(dyn Fn(u64) + Send + Sync),
    ) -> Result<(), Error> {
        let mut done = start;
        if start < size {
            let client = self.client().await?;
            let (mut stream, mut skip) = client.blob(digest, start, part).await?;
            let mut shown = done;
            while let Some(chunk) = stream.next().await {
                let mut bytes = match chunk {
                    Ok(bytes) => bytes,
                    // The end, and the hash is wrong: we say so ourselves, with both digests.
                    Err(Failure::WrongDigest) => break,
                    Err(Failure::Broken(why)) => {
                        return Err(client.interrupted(part, done, size, why));
                    }
                };
                // The registry began anew, though asked for the rest only.
                let known = skip.min(bytes.len() as u64);
                bytes = bytes.slice(known as usize..);
                skip -= known;
                if bytes.is_empty() {
                    continue;
                }
                done += bytes.len() as u64;
                if sender.send(Chunk::Bytes(bytes)).await.is_err() {
                    return Ok(());
                }
                if done - shown >= STEP || done == size {
                    report(done);
                    shown = done;
                }
                if done > size {
                    break;
                }
            }
        }
        let _ = sender.send(Chunk::End).await;
        Ok(())
    }

    async fn publish(&self, image: &Image, resolved: &Digest) -> Result<(), Error> {
        let record = Record::new(&image.reference, &image.platform, resolved, &image.digest);
        let (store, reference, platform) = (self.store.clone(), image.reference.clone(), image.platform.clone());
        self.blocking(move || match store.record(&reference, &platform)? {
            Some(before) if before == record => Ok(()),
            _ => store.publish(&record),
        })
        .await
    }

    fn corrupt(&self, part: &str, expected: impl Into<String>, got: impl Into<String>) -> Error {
        Error::Corrupt { image: self.reference.to_string(), part: part.to_owned(), expected: expected.into(), got: got.into() }
    }
}

enum Chunk {
    Bytes(Bytes),
    /// There are no more. A channel that closes without it was cut off.
    End,
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
