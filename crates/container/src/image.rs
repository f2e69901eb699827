//! From the name of an image to directories that an overlay can stand on.

use crate::background;
use crate::engine::Engine;
use crate::error::{Error, Problem};
use coracle_image::{Image, Lease, OciLayout, Platform, Progress, Reference, Store};
use coracle_layers::{LayerStore, read_ownership};
use coracle_spawn::{OwnerChange, change_owners};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
#[cfg(feature = "registry")]
use std::task::Poll;

/// Told of each step of a pull.
pub(crate) type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// An image whose layers are unpacked.
pub(crate) struct Ready {
    pub(crate) image: Image,
    /// Topmost first.
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) lease: Lease,
}

/// A name that can't be one.
pub(crate) fn parse(reference: &str) -> Result<Reference, Problem> {
    reference.parse().map_err(|error: coracle_image::ParseReferenceError| Problem { what: error.to_string(), remedy: error.remedy() })
}

/// What a name means that is asked of a registry.
pub(crate) fn meant(engine: &Engine, name: &str) -> Result<Reference, Error> {
    let plain = parse(name).map_err(|problem| Error::Description { problems: vec![problem] })?;
    #[cfg(feature = "registry")]
    let plain = if plain.to_string() == name { plain } else { engine.0.registries.qualify(name)? };
    #[cfg(not(feature = "registry"))]
    let _ = engine;
    Ok(plain)
}

/// What a name may mean that is looked for here; what is wrong with files of settings is nobody's business who has the image.
fn candidates(engine: &Engine, name: &str) -> Vec<Reference> {
    #[cfg(feature = "registry")]
    return engine.0.registries.candidates(name).unwrap_or_default();
    #[cfg(not(feature = "registry"))]
    {
        let _ = (engine, name);
        Vec::new()
    }
}

/// The name under which the store knows what may be meant: something else than was said only where that is there.
pub(crate) fn known(engine: &Engine, name: &str) -> String {
    let Ok(plain) = name.parse::<Reference>() else { return name.to_owned() };
    let Ok((store, _)) = engine.images_store() else { return name.to_owned() };
    let there = |reference: &&Reference| **reference != plain && matches!(store.find(reference, &Platform::host()), Ok(Some(_)));
    candidates(engine, name).iter().find(there).map_or_else(|| name.to_owned(), Reference::to_string)
}

/// The image by this name: from the store if it is there, else from its registry.
pub(crate) async fn by_name(engine: &Engine, name: &str, progress: Option<OnProgress>) -> Result<Ready, Error> {
    let (store, layers) = engine.images_store()?;
    let platform = Platform::host();
    let local = known(engine, name);
    let reference = match local.parse::<Reference>() {
        Ok(reference) if local != name || store.find(&reference, &platform)?.is_some() => reference,
        _ => meant(engine, name)?,
    };
    if let Some(image) = store.find(&reference, &platform)? {
        // Before looking: what is looked at from here on stays until the container is gone.
        let lease = store.lease(&image)?;
        if store.is_unpacked(&image, layers) {
            return ready(engine, layers, lease, image);
        }
    }
    pull(engine, reference, Want { platform, whole: false, always: false }, progress).await
}

/// Which of what a reference means, and whether the registry is asked though it's here.
#[derive(Debug, Clone)]
#[cfg_attr(not(feature = "registry"), expect(dead_code, reason = "there is no registry to want it of"))]
pub(crate) struct Want {
    pub(crate) platform: Platform,
    pub(crate) whole: bool,
    pub(crate) always: bool,
}

/// Asks the registry, and brings in what is missing.
#[cfg(feature = "registry")]
pub(crate) async fn pull(engine: &Engine, reference: Reference, want: Want, progress: Option<OnProgress>) -> Result<Ready, Error> {
    let engine = engine.clone();
    // Dropping the sender, with this future, stops the pull where it is.
    let (keep, dropped) = tokio::sync::oneshot::channel::<()>();
    let work = move || -> Result<Ready, Error> {
        let (store, layers) = engine.images_store()?;
        // Nobody prunes what this pull finds or brings.
        let store = &store.session()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| Error::State {
            attempted: "start a runtime to pull",
            path: reference.to_string().into(),
            source,
        })?;
        let mut puller = coracle_image::Puller::new().client(engine.0.registries.clone()).platform(want.platform).whole(want.whole);
        if let Some(progress) = progress {
            puller = puller.progress(move |event| progress(event));
        }
        let sink: Arc<dyn coracle_image::LayerSink> = Arc::new(layers.clone());
        let image = runtime.block_on(async {
            let pulled = async {
                if want.always { puller.pull(store, &reference, sink).await } else { puller.pull_missing(store, &reference, sink).await }
            };
            until(dropped, pulled).await
        });
        // Nobody waits for the answer where there is none.
        let image = image.ok_or(Error::Lost)??;
        settle(store, layers, &image)?;
        ready(&engine, layers, store.lease(&image)?, image)
    };
    let work = background::run("coracle-pull", work).map_err(|source| Error::State {
        attempted: "start a thread to pull into",
        path: PathBuf::new(),
        source,
    })?;
    let ready = work.await;
    drop(keep);
    ready
}

/// Does the work, unless the other end of the channel is dropped before it's done.
#[cfg(feature = "registry")]
async fn until<T>(dropped: tokio::sync::oneshot::Receiver<()>, work: impl Future<Output = T>) -> Option<T> {
    let (mut dropped, mut work) = (std::pin::pin!(dropped), std::pin::pin!(work));
    std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => dropped.as_mut().poll(cx).map(|_| None),
    })
    .await
}

/// Sends an image of the store to a registry.
#[cfg(feature = "registry")]
pub(crate) async fn push(
    engine: &Engine,
    image: Reference,
    to: Reference,
    whole: bool,
    progress: OnProgress,
) -> Result<coracle_image::Digest, Error> {
    let engine = engine.clone();
    // Dropping the sender, with this future, stops the push where it is.
    let (keep, dropped) = tokio::sync::oneshot::channel::<()>();
    let work = move || {
        let (store, _) = engine.images_store()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|source| Error::State {
            attempted: "start a runtime to push",
            path: to.to_string().into(),
            source,
        })?;
        let pusher = coracle_image::Pusher::new().client(engine.0.registries.clone()).whole(whole).progress(move |event| progress(event));
        let pushed = runtime.block_on(until(dropped, pusher.push(store, &image, &to)));
        // Nobody waits for the answer where there is none.
        Ok(pushed.ok_or(Error::Lost)??)
    };
    let work = background::run("coracle-push", work).map_err(|source| Error::State {
        attempted: "start a thread to push from",
        path: PathBuf::new(),
        source,
    })?;
    let pushed = work.await;
    drop(keep);
    pushed
}

/// Without the feature `registry` there is nobody to ask.
#[cfg(not(feature = "registry"))]
pub(crate) async fn pull(_: &Engine, reference: Reference, _: Want, _: Option<OnProgress>) -> Result<Ready, Error> {
    Err(Error::Description {
        problems: vec![Problem {
            what: format!("the image {reference} isn't here, and this program was built without the feature `registry`"),
            remedy: Some("build it with the feature, or import the image from an OCI layout".into()),
        }],
    })
}

/// The image in an OCI layout.
pub(crate) async fn from_layout(engine: &Engine, path: PathBuf) -> Result<Ready, Error> {
    let engine = engine.clone();
    let work = move || {
        let (store, layers) = engine.images_store()?;
        let store = &store.session()?;
        let image = OciLayout::open(&path)?.import(store, layers)?;
        settle(store, layers, &image)?;
        ready(&engine, layers, store.lease(&image)?, image)
    };
    let work = background::run("coracle-import", work).map_err(|source| Error::State {
        attempted: "start a thread to import into",
        path: PathBuf::new(),
        source,
    })?;
    work.await
}

/// Makes the layers of an image durable that was just brought in through a session of the store's: without another sync of the file
/// system, where publishing the image has done that.
pub(crate) fn settle(store: &Store, layers: &LayerStore, image: &Image) -> Result<(), Error> {
    let device = |path: &Path| std::fs::metadata(path).map(|found| found.dev()).ok();
    match store.is_synced() && device(store.path()) == device(layers.path()) {
        true => layers.synced(&image.config.diff_ids)?,
        false => layers.sync(&image.config.diff_ids)?,
    }
    Ok(())
}

/// Puts unpacked layers together that a lease holds.
pub(crate) fn ready(engine: &Engine, layers: &LayerStore, lease: Lease, image: Image) -> Result<Ready, Error> {
    let lower = layers.paths(&image.config.diff_ids)?;
    if let Some(map) = engine.0.id_map.as_ref().filter(|map| !map.is_single()) {
        for files in &lower {
            if let Some(layer) = files.parent() {
                give_owners(layer, files, map)?;
            }
        }
    }
    Ok(Ready { image, lower, lease })
}

/// Gives the files of a layer the owners that a plain user couldn't give them while unpacking. Once: a marker beside the layer tells.
/// Two processes that do it at the same time do the same.
pub(crate) fn give_owners(layer: &Path, files: &Path, map: &coracle_spawn::IdMap) -> Result<(), Error> {
    let marker = layer.join("owned");
    if marker.exists() {
        return Ok(());
    }
    if let Some(deferred) = read_ownership(layer)? {
        // A directory comes before what is in it; so that it can be entered until the last, the order is turned.
        // The root itself has no name in the record, and the kernel wants one.
        let named = |path: &Path| if path.as_os_str().is_empty() { PathBuf::from(".") } else { path.to_owned() };
        let changes: Vec<_> = deferred.owners.iter().rev().map(|o| OwnerChange::new(named(&o.path), o.uid, o.gid, Some(o.mode))).collect();
        change_owners(files, &changes, map)?;
    }
    std::fs::write(&marker, []).map_err(|source| Error::State { attempted: "write", path: marker, source })
}
