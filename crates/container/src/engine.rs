//! One engine a process: where images and running containers are kept. Cheap to clone, shared by threads.
//!
//! ```text
//!  ROOT/            0700; one user's
//!    blobs/ images/ ingest/ leases/ version    coracle-image: the store
//!    layers/                                   coracle-layers: unpacked, by diffID
//!    networks/ID/                              a private network: record, lock, leases/
//!    volumes/NAME/                             a volume: record, lock, data/
//!    shared/KEY                                somebody starts what many share
//!    run/ID/                                   a container: lock, record, upper/, work/, control
//! ```

use crate::blocking::Async;
use crate::container::{Container, control_socket, log_file};
use crate::error::Error;
use crate::filter::Filter;
use crate::image;
use crate::images::Emptying;
use crate::logs::Logs;
use crate::state::{ContainerSummary, Found};
use coracle_cgroups::{Hierarchies, Limits, Owner, Placement, Reason};
use coracle_image::{Digest, Durability, Platform, Progress, Store};
use coracle_layers::{LayerStore, Options, Ownership};
use coracle_spawn::{IdMap, Log};
use std::fs::DirBuilder;
use std::io;
use std::marker::PhantomData;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

/// Where images and running containers are kept, and what this host offers.
///
/// One a process is enough, and who names none gets one: below `CORACLE_ROOT`, else /var/lib/coracle for root, else
/// `$XDG_DATA_HOME/coracle` or `~/.local/share/coracle`. Many processes may share a directory; users may not.
#[derive(Debug, Clone)]
pub struct Engine(pub(crate) Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) runs: PathBuf,
    pub(crate) cgroup_parent: Option<PathBuf>,
    /// Whether this process's own cgroup may be rearranged.
    pub(crate) make_room: bool,
    /// A plain user's.
    pub(crate) id_map: Option<IdMap>,
    pub(crate) hierarchies: Hierarchies,
    /// Decisions of where a cgroup lives, for limits that were asked for before: thirty looks at the cgroup file systems each.
    pub(crate) placements: Mutex<Vec<(Limits, Placement)>>,
    images: OnceLock<(Store, LayerStore)>,
    opening: Mutex<()>,
    #[cfg(feature = "registry")]
    pub(crate) registries: coracle_image::RegistryClient,
    durability: Durability,
    keep_blobs: bool,
    /// Threads that unlink what was removed.
    pub(crate) emptying: Emptying,
}

/// Chooses where an [`Engine`] keeps things.
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct EngineBuilder<Face = Async> {
    root: Option<PathBuf>,
    cgroup_parent: Option<PathBuf>,
    make_room: bool,
    #[cfg(feature = "registry")]
    registries: coracle_image::RegistryClient,
    durability: Durability,
    drop_blobs: bool,
    face: PhantomData<Face>,
}

static DEFAULT: Mutex<Option<Engine>> = Mutex::new(None);

impl Engine {
    /// Opens the default engine's directory.
    ///
    /// # Errors
    /// As [`EngineBuilder::open`].
    pub fn open() -> Result<Self, Error> {
        Self::builder().open()
    }

    /// An engine of one's own making.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// This process's default engine, opened when it is first asked for.
    pub(crate) fn shared() -> Result<Self, Error> {
        let mut shared = DEFAULT.lock().unwrap_or_else(|e| e.into_inner());
        match &*shared {
            Some(engine) => Ok(engine.clone()),
            None => Ok(shared.insert(Self::open()?).clone()),
        }
    }

    /// The directory.
    pub fn root(&self) -> &Path {
        &self.0.root
    }

    /// The store of images and that of unpacked layers, opened when first needed.
    pub(crate) fn images_store(&self) -> Result<&(Store, LayerStore), Error> {
        let _one_at_a_time = self.0.opening.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(stores) = self.0.images.get() {
            return Ok(stores);
        }
        let store = Store::open(&self.0.root)?.durability(self.0.durability).keep_blobs(self.0.keep_blobs);
        let mut options = match &self.0.id_map {
            None => Options::root(),
            Some(map) if map.is_single() => Options::user(Ownership::Squash),
            Some(_) => Options::user(Ownership::Defer),
        };
        // A user who gets sub-ids later needs other owners on disk: those layers are kept apart.
        let directory = if options.ownership == Ownership::Squash { self.0.root.join("single") } else { self.0.root.clone() };
        make_private(&directory)?;
        options.durability = self.0.durability;
        let layers = LayerStore::open(&directory, options)?;
        // What one left that was killed.
        if store.has_trash() || layers.has_trash() {
            self.0.emptying.begin(&store, &layers, self.0.id_map.as_ref());
        }
        Ok(self.0.images.get_or_init(|| (store, layers)))
    }

    /// The layers that a plain user has from when there were other ids: with sub-ids those of one id, and the other way round.
    pub(crate) fn other_layers(&self) -> Result<Option<LayerStore>, Error> {
        let (ownership, directory) = match &self.0.id_map {
            None => return Ok(None),
            Some(map) if map.is_single() => (Ownership::Defer, self.0.root.clone()),
            Some(_) => (Ownership::Squash, self.0.root.join("single")),
        };
        if !directory.join("layers/store.json").exists() {
            return Ok(None);
        }
        Ok(Some(LayerStore::open(&directory, Options::user(ownership))?))
    }

    /// The images that are here.
    ///
    /// # Errors
    /// [`Error::Image`].
    pub fn images(&self) -> Result<Vec<ImageSummary>, Error> {
        Ok(self.images_store()?.0.images()?.iter().map(ImageSummary::new).collect())
    }

    /// Asks the registry for the image by this name, as docker-pull(1) takes it, and brings in what is missing; also where an older
    /// one of that name is here. `on_progress` is called with each step, from another thread: don't block in it.
    ///
    /// A name without a registry means what [`RegistryClient::candidates`](coracle_image::RegistryClient::candidates) says.
    ///
    /// Cancel-safe: dropping the future stops the pull; what has arrived stays for the next.
    ///
    /// # Errors
    /// [`Error::Description`] for a name that can't be one; [`Error::Image`] and [`Error::Layers`].
    pub async fn pull(&self, reference: &str, on_progress: impl Fn(Progress) + Send + Sync + 'static) -> Result<ImageSummary, Error> {
        self.pull_platforms(reference, Platforms::Host, on_progress).await
    }

    /// As [`pull`](Engine::pull), the images of other platforms.
    ///
    /// # Errors
    /// As [`pull`](Engine::pull).
    pub async fn pull_platforms(
        &self,
        reference: &str,
        platforms: Platforms,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<ImageSummary, Error> {
        let reference = image::meant(self, reference)?;
        let whole = platforms == Platforms::All;
        let platform = match platforms {
            Platforms::Host | Platforms::All => Platform::host(),
            Platforms::One(platform) => platform,
        };
        let want = image::Want { platform, whole, always: true };
        let ready = image::pull(self, reference, want, Some(Arc::new(on_progress))).await?;
        Ok(ImageSummary::new(&ready.image))
    }

    /// Sends an image that is here to a registry, byte for byte as it came: under its own name, or under `to`. Says its digest.
    /// `on_progress` is called with each step, from another thread: don't block in it.
    ///
    /// Cancel-safe: dropping the future stops the push; what the registry took isn't sent by the next.
    ///
    /// # Errors
    /// [`Error::Description`] for a name that can't be one; [`Error::Image`].
    #[cfg(feature = "registry")]
    pub async fn push(
        &self,
        image: &str,
        to: Option<&str>,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Digest, Error> {
        self.push_as(image, to, false, on_progress).await
    }

    /// As [`push`](Engine::push), all that the name means: the images of all platforms, and the index that names them. It has to be here,
    /// by [`pull_platforms`](Engine::pull_platforms) with [`Platforms::All`].
    ///
    /// # Errors
    /// As [`push`](Engine::push).
    #[cfg(feature = "registry")]
    pub async fn push_all_platforms(
        &self,
        image: &str,
        to: Option<&str>,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Digest, Error> {
        self.push_as(image, to, true, on_progress).await
    }

    #[cfg(feature = "registry")]
    async fn push_as(
        &self,
        image: &str,
        to: Option<&str>,
        whole: bool,
        on_progress: impl Fn(Progress) + Send + Sync + 'static,
    ) -> Result<Digest, Error> {
        let parse = |name: &str| image::parse(name).map_err(|problem| Error::Description { problems: vec![problem] });
        let image = parse(&image::known(self, image))?;
        let to = to.map(parse).transpose()?.unwrap_or_else(|| image.clone());
        image::push(self, image, to, whole, Arc::new(on_progress)).await
    }

    /// The containers that run below this directory, of this process and of others. What dead ones left is taken back first.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn containers(&self) -> Result<Vec<ContainerSummary>, Error> {
        self.list(&Filter::new().running())
    }

    /// The containers below this directory that a filter lets through, newest first: those that run, and those that stay. What dead ones left
    /// is taken back first.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn list(&self, filter: &Filter) -> Result<Vec<ContainerSummary>, Error> {
        self.sweep()?;
        let mut all: Vec<_> = self.found()?.into_iter().map(Found::summary).filter(|summary| filter.has(summary)).collect();
        all.sort_by(|a, b| (b.created, &a.id).cmp(&(a.created, &b.id)));
        Ok(all)
    }

    /// Takes up a container that runs detached, or that stays, by its name, its id or the unambiguous beginning of that. Dropping this handle
    /// doesn't end it.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]; [`Error::NotDetached`]; [`Error::Start`] where nobody answers.
    pub fn attach(&self, name: &str) -> Result<Container, Error> {
        let found = self.named(name)?;
        if !found.kept && !control_socket(&found.run).exists() {
            return Err(Error::NotDetached { id: found.id });
        }
        Container::of(self, &found)
    }

    /// What a container says and said, of this process or of another, by its name, its id or the unambiguous beginning of that.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`]; [`Error::State`].
    pub fn logs(&self, name: &str) -> Result<Logs, Error> {
        let found = self.named(name)?;
        let log = match Log::open(&log_file(&found.run)) {
            Ok(log) => Some(log),
            Err(e) if e.kind() == io::ErrorKind::NotFound => None,
            Err(source) => return Err(self.state("read", &log_file(&found.run), source)),
        };
        Ok(Logs::new(found.id, log))
    }

    fn found(&self) -> Result<Vec<Found>, Error> {
        let all = Found::all(&self.0.runs).map_err(|source| self.state("list", &self.0.runs, source))?;
        Ok(all.into_iter().filter(|found| found.alive || found.kept).collect())
    }

    /// The one container of this name or id, or whose id begins so.
    pub(crate) fn named(&self, name: &str) -> Result<Found, Error> {
        let mut all = self.found()?;
        if let Some(at) = all.iter().position(|found| found.description.name.as_deref() == Some(name) || found.id == name) {
            return Ok(all.swap_remove(at));
        }
        all.retain(|found| !name.is_empty() && found.id.starts_with(name));
        match (all.pop(), all.pop()) {
            (Some(found), None) => Ok(found),
            _ => Err(Error::NoSuchContainer { id: name.to_owned() }),
        }
    }

    /// Takes back what containers left whose supervisors were killed; blocks until it is done.
    pub(crate) fn sweep(&self) -> Result<(), Error> {
        let (_, errors) = coracle_spawn::sweep(&self.0.runs).map_err(|source| self.state("read", &self.0.runs, source))?;
        for error in errors {
            tracing::warn!(%error, "something is left of a container whose supervisor was killed");
        }
        if let Err(error) = crate::volume::sweep(self) {
            tracing::warn!(%error, "something is left of a volume");
        }
        if let Err(error) = crate::networks::sweep(&self.0.root.join("networks")) {
            tracing::warn!(%error, "something is left of a network");
        }
        crate::shared::sweep(self);
        Ok(())
    }

    /// Where a container's cgroup lives, and which of its limits hold there. What was decided stands: where the host was changed
    /// since, a step of the plan fails, and with it the start.
    pub(crate) fn place(&self, limits: &Limits) -> Result<Placement, coracle_cgroups::Error> {
        /// A program asks for few different limits.
        const KEPT: usize = 32;
        let known = |placements: &[(Limits, Placement)]| placements.iter().find(|(of, _)| of == limits).map(|(_, p)| p.clone());
        if let Some(placement) = known(&self.0.placements.lock().unwrap_or_else(|e| e.into_inner())) {
            return Ok(placement);
        }
        let owner = match &self.0.cgroup_parent {
            Some(parent) => Owner::current().below(parent),
            None => Owner::current(),
        };
        let mut placement = Placement::decide(&self.0.hierarchies, &owner, limits);
        if self.0.make_room && placement.refused().iter().any(|r| matches!(r.reason, Reason::ProcessesInTheWay { .. })) {
            Placement::make_room(&self.0.hierarchies, &owner)?;
            placement = Placement::decide(&Hierarchies::detect()?, &owner, limits);
        }
        // A refusal may be mended while this program runs; it is asked about again.
        if placement.refused().is_empty() {
            let mut placements = self.0.placements.lock().unwrap_or_else(|e| e.into_inner());
            if placements.len() < KEPT {
                placements.push((limits.clone(), placement.clone()));
            }
        }
        Ok(placement)
    }

    fn state(&self, attempted: &'static str, path: &Path, source: io::Error) -> Error {
        Error::State { attempted, path: path.to_owned(), source }
    }
}

impl<Face> EngineBuilder<Face> {
    /// The directory for images and running containers. It must be able to hold overlays' upper directories: no overlayfs, no NFS.
    pub fn root(mut self, root: impl Into<PathBuf>) -> Self {
        self.root = Some(root.into());
        self
    }

    /// A cgroup that containers' cgroups are made in, as seen from the mount point of the hierarchies: `/ci/job-7`. It must be
    /// there, and this user's.
    pub fn cgroup_parent(mut self, path: impl Into<PathBuf>) -> Self {
        self.cgroup_parent = Some(path.into());
        self
    }

    /// Lets the engine move **every** process of this process's own cgroup into a leaf of it (`owner.coracle`), where they stand in
    /// the way of limits: cgroup v2 gives controllers only to the children of a cgroup that holds no process itself. That is so for
    /// root in a container, and for a plain user in a scope of `systemd-run`. Once done, it stays.
    pub fn make_room(mut self, yes: bool) -> Self {
        self.make_room = yes;
        self
    }

    /// How registries are reached: mirrors, proxies, certificates, credentials. Without it, as a new
    /// [`RegistryClient`](coracle_image::RegistryClient) does.
    #[cfg(feature = "registry")]
    pub fn registries(mut self, client: coracle_image::RegistryClient) -> Self {
        self.registries = client;
        self
    }

    /// What survives a crash of the machine, of the images that this engine brings in; [`Durability::Image`], unless this says
    /// otherwise.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Whether the blobs of layers, most often compressed, stay once their layers are unpacked; yes unless this says otherwise.
    /// Without them an image takes half the room or less, and can't be saved or pushed.
    pub fn keep_blobs(mut self, yes: bool) -> Self {
        self.drop_blobs = !yes;
        self
    }

    pub(crate) fn opened(self) -> Result<Engine, Error> {
        let root = match self.root {
            Some(root) => std::path::absolute(&root).map_err(|source| Error::State { attempted: "use", path: root, source })?,
            None => default_root()?,
        };
        let runs = root.join("run");
        make_private(&root)?;
        make_private(&runs)?;
        let id_map = (!rustix::process::geteuid().is_root()).then(IdMap::for_current_user);
        let hierarchies = Hierarchies::detect().unwrap_or_else(|error| {
            tracing::debug!(%error, "no cgroups");
            Hierarchies::detect_from("", "")
        });
        let images = OnceLock::new();
        let inner = Inner {
            root,
            runs,
            cgroup_parent: self.cgroup_parent,
            make_room: self.make_room,
            id_map,
            hierarchies,
            placements: Mutex::default(),
            images,
            opening: Mutex::new(()),
            #[cfg(feature = "registry")]
            registries: self.registries,
            durability: self.durability,
            keep_blobs: !self.drop_blobs,
            emptying: Emptying::default(),
        };
        let engine = Engine(Arc::new(inner));
        engine.sweep()?;
        Ok(engine)
    }
}

impl EngineBuilder {
    /// Makes the directory if it isn't there, looks at the host, and takes back what dead containers left. Blocks.
    ///
    /// # Errors
    /// [`Error::State`].
    pub fn open(self) -> Result<Engine, Error> {
        self.opened()
    }
}

/// Makes a directory for this user alone. One that is there and that others may write is refused, and not changed: it may be /tmp.
fn make_private(path: &Path) -> Result<(), Error> {
    let failed = |attempted| move |source| Error::State { attempted, path: path.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed("make the directory"))?;
    let found = path.metadata().map_err(failed("look at"))?;
    let (uid, mode) = (rustix::process::geteuid().as_raw(), found.mode() & 0o7777);
    let why = match found.uid() {
        owner if owner != uid => format!("it belongs to uid {owner}, and this process is uid {uid}"),
        _ if mode & 0o022 != 0 => format!("others may write to it (mode {mode:o})"),
        _ => return Ok(()),
    };
    Err(failed("use")(io::Error::new(io::ErrorKind::PermissionDenied, why)))
}

fn default_root() -> Result<PathBuf, Error> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(root) = variable("CORACLE_ROOT") {
        return Ok(root);
    }
    if rustix::process::geteuid().is_root() {
        return Ok("/var/lib/coracle".into());
    }
    let data = variable("XDG_DATA_HOME").filter(|p| p.is_absolute()).or_else(|| variable("HOME").map(|home| home.join(".local/share")));
    data.map(|data| data.join("coracle")).ok_or_else(|| Error::State {
        attempted: "find a directory for",
        path: "images and containers".into(),
        source: io::Error::new(io::ErrorKind::NotFound, "CORACLE_ROOT, XDG_DATA_HOME and HOME are all unset"),
    })
}

/// Of which platforms a pull brings the images.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Platforms {
    /// The one for this machine.
    #[default]
    Host,
    /// The one for another. It's unpacked, too.
    One(Platform),
    /// All, and what else the name means, so that [`Engine::push_all_platforms`] can send it. That for this machine alone is unpacked.
    All,
}

/// An image that is here.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSummary {
    /// What it was asked for by.
    pub reference: String,
    /// The digest of its manifest.
    pub digest: Digest,
    /// What it runs on.
    pub platform: Platform,
    /// Bytes of its layers as they were fetched.
    pub size: u64,
    /// When it was made, as its makers wrote it (RFC 3339).
    pub created: Option<String>,
    /// The digest of its config, which Docker calls the image's id.
    pub id: Digest,
}

impl ImageSummary {
    pub(crate) fn new(image: &coracle_image::Image) -> Self {
        Self {
            reference: image.reference.familiar(),
            digest: image.digest.clone(),
            platform: image.platform.clone(),
            size: image.layers.iter().map(|layer| layer.size).sum(),
            created: image.config.created.clone(),
            id: image.id.clone(),
        }
    }
}
