//! What is done with images that are here: looked at, named, removed, checked, taken out and brought in.

use crate::background;
use crate::engine::{Engine, ImageSummary};
use crate::error::{Error, Problem};
use crate::image;
use coracle_image::{Archive, Change, Checked, Image, Inspection, OciLayout, Platform, Progress, Removed, RootfsArchive, Store};
use coracle_layers::{LayerStore, LayersChecked};
use coracle_spawn::IdMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread::JoinHandle;

/// What [`Engine::check_images`] looked at, and what it found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ImagesChecked {
    /// Images and blobs.
    pub store: Checked,
    /// Unpacked layers.
    pub layers: LayersChecked,
}

impl Engine {
    /// Everything that is known of an image, by its name or the beginning of its id. It can be written as JSON, with Docker's names.
    ///
    /// # Errors
    /// [`Error::Image`] where no image has that name, or several may be meant.
    pub fn inspect_image(&self, name: &str) -> Result<Inspection, Error> {
        let (store, layers) = self.images_store()?;
        let mut inspection = store.inspect(&image::known(self, name), &Platform::host(), layers)?;
        for layer in &mut inspection.layers {
            if layer.unpacked
                && let Ok(diff_id) = layer.diff_id.parse()
            {
                layer.unpacked_size = layers.report(&diff_id).ok().map(|report| report.file_bytes);
            }
        }
        Ok(inspection)
    }

    /// Gives an image another name, which stops meaning whatever it meant. docker-tag(1).
    ///
    /// # Errors
    /// [`Error::Description`] for a name that can't be one, [`Error::Image`].
    pub fn tag_image(&self, source: &str, target: &str) -> Result<ImageSummary, Error> {
        let target = image::parse(target).map_err(|problem| Error::Description { problems: vec![problem] })?;
        if target.digest().is_some() {
            let what = format!("{target} names a digest, and an image can't be given one");
            return Err(Error::Description { problems: vec![Problem { what, remedy: Some("write NAME:TAG".into()) }] });
        }
        let (store, _) = self.images_store()?;
        Ok(ImageSummary::new(&store.tag(&image::known(self, source), &target, &Platform::host())?))
    }

    /// Removes a name, and with its last name the image; or an image by the beginning of its id. docker-rmi(1). It takes
    /// milliseconds: the files are unlinked in the background, at the latest when the last clone of this engine is dropped.
    ///
    /// With `force`, an image that is in use loses its names now, and [`prune_images`](Engine::prune_images) removes the rest once
    /// nobody uses it.
    ///
    /// # Errors
    /// [`Error::Image`]: no such image, several may be meant, or it's in use by a container or a pull.
    pub fn remove_image(&self, name: &str, force: bool) -> Result<Removed, Error> {
        let (store, layers) = self.images_store()?;
        let name = &image::known(self, name);
        let mut removed = store.remove(name, force, layers);
        if let Err(coracle_image::Error::InUse { why, .. }) = &mut removed {
            let users = self.users_of(name);
            if !users.is_empty() {
                *why = format!("it's used by container {}", users.join(", "));
            }
        }
        let removed = removed?;
        self.0.emptying.begin(store, layers, self.0.id_map.as_ref());
        Ok(removed)
    }

    /// Removes what no image needs: blobs and layers of images whose names moved on, what interrupted pulls left. With `all` every
    /// image, too, that no container and no pull holds. Layers that this user unpacked with other ids, before sub-ids came or went, go
    /// unless somebody uses them. Safe beside live pulls and running containers, of whatever process.
    /// docker-image-prune(1).
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn prune_images(&self, all: bool) -> Result<Removed, Error> {
        let (store, layers) = self.images_store()?;
        let mut removed = store.prune(all, layers)?;
        if let Some(other) = self.other_layers()? {
            removed.swept.extend(store.prune_unused(&other)?);
            self.0.emptying.begin(store, &other, self.0.id_map.as_ref());
        }
        self.0.emptying.begin(store, layers, self.0.id_map.as_ref());
        Ok(removed)
    }

    /// Unlinks what was removed, by this process or by one that was killed. Blocks until that is done. Dropping the engine's last
    /// clone does it, too; a program that ends without that, as one with the default engine does, may call it first, and otherwise
    /// the next engine does.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Layers`], [`Error::Start`].
    pub fn empty_trash(&self) -> Result<(), Error> {
        let (store, layers) = self.images_store()?;
        empty(store, layers, self.0.id_map.as_ref())
    }

    /// Checks every blob against its digest, every image for being whole, every unpacked layer against what was recorded when it was
    /// unpacked. With `repair`, what is damaged is moved away, so that the next pull or start brings it anew; layers that a container
    /// uses stay. Reads everything; a dropped future doesn't stop it.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Layers`]; damage is no error.
    pub async fn check_images(&self, repair: bool) -> Result<ImagesChecked, Error> {
        let engine = self.clone();
        work("coracle-check", move || {
            let (store, layers) = engine.images_store()?;
            let unpacked = layers.check(repair, || store.in_use())?;
            let checked = ImagesChecked { store: store.check(repair, layers)?, layers: unpacked };
            if repair {
                engine.0.emptying.begin(store, layers, engine.0.id_map.as_ref());
            }
            Ok(checked)
        })
        .await
    }

    /// Writes images, by their names or ids, into an archive that `docker load`, `podman load`, skopeo and
    /// [`load_images`](Engine::load_images) read. The same images make the same bytes. docker-save(1).
    ///
    /// A file appears when it's whole. Where something else than a file is at the path (a FIFO, a device), it's written to.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub async fn save_images<N: AsRef<str>>(&self, names: &[N], path: impl Into<PathBuf>) -> Result<(), Error> {
        let (engine, path) = (self.clone(), path.into());
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        work("coracle-save", move || {
            let failed = |attempted, path: &Path| {
                let path = path.to_owned();
                move |source| Error::State { attempted, path, source }
            };
            let shown = path.display().to_string();
            if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
                let mut file = fs::OpenOptions::new().write(true).open(&path).map_err(failed("open", &path))?;
                return engine.save(&names, &mut file, &shown);
            }
            let mut temporary = path.clone().into_os_string();
            temporary.push(format!(".{}.part", std::process::id()));
            let temporary = PathBuf::from(temporary);
            let written = File::create(&temporary).map_err(failed("make", &temporary)).and_then(|mut file| {
                engine.save(&names, &mut file, &shown)?;
                fs::rename(&temporary, &path).map_err(failed("make", &path))
            });
            written.inspect_err(|_| drop(fs::remove_file(&temporary)))
        })
        .await
    }

    /// As [`save_images`](Engine::save_images), into whatever takes bytes; `shown` is what errors call it.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub async fn save_images_to<N: AsRef<str>>(
        &self,
        names: &[N],
        mut to: impl Write + Send + 'static,
        shown: impl Into<String>,
    ) -> Result<(), Error> {
        let (engine, shown) = (self.clone(), shown.into());
        let names: Vec<String> = names.iter().map(|name| name.as_ref().to_owned()).collect();
        work("coracle-save", move || engine.save(&names, &mut to, &shown)).await
    }

    /// Brings in all images of an archive (of Docker, Podman, skopeo, Coracle; plain, gzip or zstd, told by its bytes), or the one of
    /// an OCI layout's directory. All or none. docker-load(1).
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Layers`].
    pub async fn load_images(
        &self,
        path: impl Into<PathBuf>,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Vec<ImageSummary>, Error> {
        let (engine, path) = (self.clone(), path.into());
        work("coracle-load", move || {
            engine.bring(|store, layers| {
                if path.is_dir() {
                    return Ok(vec![OciLayout::open(&path)?.progress(on_progress).import(store, layers)?]);
                }
                Archive::open(&path, store)?.progress(on_progress).import(store, layers)
            })
        })
        .await
    }

    /// As [`load_images`](Engine::load_images), from whatever gives bytes; `shown` is what errors call it. They are read to their end
    /// before anything is brought in.
    ///
    /// # Errors
    /// [`Error::Image`], [`Error::Layers`].
    pub async fn load_images_from(
        &self,
        from: impl Read + Send + 'static,
        shown: impl Into<String>,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Vec<ImageSummary>, Error> {
        let (engine, shown) = (self.clone(), shown.into());
        work("coracle-load", move || {
            engine.bring(|store, layers| Archive::read(from, &shown, store)?.progress(on_progress).import(store, layers))
        })
        .await
    }

    /// Makes a root file system (a tar archive; plain, gzip or zstd) an image of one layer. `changes` are lines as in a Dockerfile:
    /// `CMD ["sh"]`, `ENV A=1`; `message` goes into the image's history. docker-import(1).
    ///
    /// # Errors
    /// [`Error::Description`] for a name that can't be one, [`Error::Image`], [`Error::Layers`].
    pub async fn import_image<C: AsRef<str>>(
        &self,
        from: impl Read + Send + 'static,
        shown: impl Into<String>,
        reference: &str,
        changes: &[C],
        message: Option<String>,
    ) -> Result<ImageSummary, Error> {
        let reference = image::parse(reference).map_err(|problem| Error::Description { problems: vec![problem] })?;
        let mut archive = RootfsArchive::new(from, shown);
        for change in changes {
            archive = archive.change(change.as_ref().parse::<Change>()?);
        }
        if let Some(message) = message {
            archive = archive.message(message);
        }
        let engine = self.clone();
        let mut images =
            work("coracle-import", move || engine.bring(|store, layers| Ok(vec![archive.import(store, &reference, layers)?]))).await?;
        Ok(images.swap_remove(0))
    }

    fn save(&self, names: &[String], to: &mut dyn Write, shown: &str) -> Result<(), Error> {
        let (store, _) = self.images_store()?;
        let store = store.session()?;
        let images: Result<Vec<Image>, _> = names.iter().map(|name| store.lookup(&image::known(self, name), &Platform::host())).collect();
        Ok(store.export(&images?)?.archive(to, shown)?)
    }

    /// Brings images in, and makes their layers durable.
    fn bring(
        &self,
        bring: impl FnOnce(&Store, &LayerStore) -> Result<Vec<Image>, coracle_image::Error>,
    ) -> Result<Vec<ImageSummary>, Error> {
        let (store, layers) = self.images_store()?;
        let session = store.session()?;
        let images = bring(&session, layers).inspect_err(|_| {
            // What a failed one took back.
            self.0.emptying.begin(store, layers, self.0.id_map.as_ref());
        })?;
        for image in &images {
            image::settle(&session, layers, image)?;
        }
        Ok(images.iter().map(ImageSummary::new).collect())
    }

    /// The containers that run from an image, by the beginnings of their ids.
    fn users_of(&self, name: &str) -> Vec<String> {
        let Ok(containers) = self.containers() else {
            return Vec::new();
        };
        let digest = |name: &str| Some(self.images_store().ok()?.0.lookup(&image::known(self, name), &Platform::host()).ok()?.digest);
        let wanted = digest(name);
        let uses = containers.into_iter().filter(|container| wanted.is_some() && digest(&container.image) == wanted);
        uses.map(|container| container.id.chars().take(12).collect()).collect()
    }
}

/// Does what blocks on a thread of its own.
pub(crate) async fn work<T: Send + 'static>(
    name: &'static str,
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    let work =
        background::run(name, work).map_err(|source| Error::State { attempted: "start a thread named", path: name.into(), source })?;
    work.await
}

/// The threads that unlink what was removed. Dropping it waits for them: whoever exits empties the trash first.
#[derive(Debug, Default)]
pub(crate) struct Emptying(Mutex<Vec<JoinHandle<()>>>);

impl Emptying {
    pub(crate) fn begin(&self, store: &Store, layers: &LayerStore, map: Option<&IdMap>) {
        let (store, layers, map) = (store.clone(), layers.clone(), map.cloned());
        let work = move || {
            if let Err(error) = empty(&store, &layers, map.as_ref()) {
                tracing::warn!(%error, "what was removed can't be unlinked; the next engine tries again");
            }
        };
        let thread = std::thread::Builder::new().name("coracle-trash".into()).spawn(work);
        let mut threads = self.0.lock().unwrap_or_else(|e| e.into_inner());
        threads.retain(|thread| !thread.is_finished());
        // Where no thread can be had, the next engine does it.
        threads.extend(thread);
    }
}

impl Drop for Emptying {
    fn drop(&mut self) {
        for thread in self.0.get_mut().unwrap_or_else(|e| e.into_inner()).drain(..) {
            let _ = thread.join();
        }
    }
}

fn empty(store: &Store, layers: &LayerStore, map: Option<&IdMap>) -> Result<(), Error> {
    layers.empty_trash(|path| match coracle_layers::remove_tree(path) {
        Err(coracle_layers::Error::Io { source, .. }) if source.kind() == io::ErrorKind::PermissionDenied && map.is_some() => {
            // Files of a container's other users go only from within their namespace.
            match map {
                Some(map) => coracle_spawn::remove_tree(path, map).map_err(Error::from),
                None => Ok(()),
            }
        }
        removed => removed.map_err(Error::from),
    })?;
    Ok(store.empty_trash()?)
}
