//! Snapshots: a container's files as they were, for others to be started from.

use crate::builder::ContainerBuilder;
use crate::changes::{Files, Still, by_manifest, layers};
use crate::container::Container;
use crate::engine::Engine;
use crate::error::Error;
use crate::image::{Ready, give_owners};
use crate::images::work;
use crate::lower;
use coracle_image::{Digest, ImageConfig, Lease};
use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

/// A snapshot that is here. It stays until it's [removed](Snapshot::remove): dropping the handle does nothing to it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    engine: Engine,
    summary: SnapshotSummary,
}

/// What is known of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SnapshotSummary {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created: SystemTime,
    /// Bytes in the files that the container had changed.
    pub size: u64,
    /// Whether the container stood still while they were copied.
    pub frozen: bool,
}

impl From<coracle_layers::Snapshot> for SnapshotSummary {
    fn from(found: coracle_layers::Snapshot) -> Self {
        Self { name: found.name, created: found.created, size: found.bytes, frozen: found.frozen }
    }
}

impl Container {
    /// Keeps the container's files as they are now, under a name: [`Snapshot::fork`] and [`Container::from_snapshot`] start others from
    /// them. What the container changed is copied (as shared extents where the file system has them), the image below isn't.
    ///
    /// It works while the container runs. Where it has a cgroup on cgroup2 it stands still while its files are copied, so the snapshot is
    /// what a power cut at that moment would have left of a file system that loses nothing; a database finds its files as after a
    /// crash. Elsewhere it goes on meanwhile, and files may be of different moments ([`SnapshotSummary::frozen`] tells). What is on
    /// mounts isn't in it.
    ///
    /// ```no_run
    /// # async fn f(database: coracle_container::Container) -> Result<(), coracle_container::Error> {
    /// let migrated = database.snapshot("migrated").await?;
    /// let (one, other) = (migrated.fork().run().await?, migrated.fork().run().await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Error::Layers`]: another snapshot has the name, or it can't be one. [`Error::State`].
    pub async fn snapshot(&self, name: impl Into<String>) -> Result<Snapshot, Error> {
        let (engine, run) = self.place();
        let (engine, name) = (engine.clone(), name.into());
        work("coracle-snapshot", move || {
            let files = Files::of(&engine, &run)?;
            let (store, layers) = engine.images_store()?;
            let session = store.session()?;
            let base = files.base(&session)?;
            let mut draft = layers.begin_snapshot(&name)?;
            let damaged = |_| Error::State { attempted: "read", path: run.clone(), source: io::ErrorKind::InvalidData.into() };
            let below: Vec<Digest> = files.description.snapshots.iter().map(|id| id.parse()).collect::<Result<_, _>>().map_err(damaged)?;
            let manifest = base.image.as_ref().map(|image| image.digest.clone());
            // Until it's pinned, nobody sweeps it or what it lies on.
            let lease = store.lease_of([draft.id()].into_iter().chain(&manifest).chain(&below))?;
            let frozen = files.freeze()?;
            draft.copy(&files.upper, &files.options(&base))?;
            let stood = !matches!(frozen, Still::No);
            drop(frozen);
            let made = draft.publish(manifest.as_ref(), base.rootfs.as_deref(), &below, stood)?;
            if let Some(map) = engine.0.id_map.as_ref().filter(|map| !map.is_single()) {
                give_owners(&made.directory, &made.files(), map)?;
            }
            store.pin(&made.id, manifest.iter().chain(&below))?;
            drop(lease);
            Ok(Snapshot { engine: engine.clone(), summary: made.into() })
        })
        .await
    }
}

impl Snapshot {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.summary.name
    }

    /// What is known of it.
    pub fn summary(&self) -> &SnapshotSummary {
        &self.summary
    }

    /// Describes a container that starts from it. Any number may run at a time; none sees what another changes.
    pub fn fork(&self) -> ContainerBuilder {
        Container::from_snapshot(&self.summary.name).engine(&self.engine)
    }

    /// Removes it. Its files are unlinked in the background, at the latest when the engine's last clone is dropped.
    ///
    /// # Errors
    /// As [`Engine::remove_snapshot`].
    pub fn remove(self) -> Result<(), Error> {
        self.engine.remove_snapshot(&self.summary.name)
    }
}

impl Engine {
    /// The snapshots that are here, sorted by name.
    ///
    /// # Errors
    /// [`Error::Layers`].
    pub fn snapshots(&self) -> Result<Vec<SnapshotSummary>, Error> {
        Ok(layers(self)?.snapshots()?.into_iter().map(Into::into).collect())
    }

    /// The snapshot by this name.
    ///
    /// # Errors
    /// [`Error::Layers`] where there is none.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot, Error> {
        Ok(Snapshot { engine: self.clone(), summary: layers(self)?.snapshot(name)?.into() })
    }

    /// Removes a snapshot.
    ///
    /// # Errors
    /// [`Error::Layers`] where there is none; [`Error::Image`] where a container from it runs, or another snapshot lies on it.
    pub fn remove_snapshot(&self, name: &str) -> Result<(), Error> {
        let (store, layers) = self.images_store()?;
        let found = layers.snapshot(name)?;
        // Killed between the two, it's rubbish that prune takes.
        store.unpin(&found.id, &format!("snapshot {name}"))?;
        layers.remove_snapshot(&found)?;
        self.0.emptying.begin(store, layers, self.0.id_map.as_ref());
        Ok(())
    }
}

/// What a container from a snapshot stands on.
pub(crate) struct Found {
    pub(crate) base: lower::Base,
    /// Topmost first.
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) config: Option<ImageConfig>,
    pub(crate) lease: Lease,
}

/// Puts together what a container from a snapshot stands on, and holds it.
pub(crate) fn ready(engine: &Engine, name: &str) -> Result<Found, Error> {
    let (store, layers) = engine.images_store()?;
    let found = layers.snapshot(name)?;
    let all: Vec<Digest> = std::iter::once(found.id.clone()).chain(found.below.iter().cloned()).collect();
    // Before looking: what is looked at from here on stays until the container is gone.
    let held = store.lease_of(all.iter().chain(&found.manifest))?;
    let mut files = Vec::with_capacity(all.len());
    for id in &all {
        let gone = || coracle_layers::Error::NoSuchSnapshot { name: name.to_owned() };
        let snapshot = layers.snapshot_by_id(id)?.ok_or_else(gone)?;
        if let Some(map) = engine.0.id_map.as_ref().filter(|map| !map.is_single()) {
            give_owners(&snapshot.directory, &snapshot.files(), map)?;
        }
        files.push(snapshot.files());
    }
    let mut base = lower::Base { snapshots: all.iter().map(Digest::to_string).collect(), ..lower::Base::default() };
    let Some(manifest) = &found.manifest else {
        let rootfs = found.rootfs.unwrap_or_default();
        files.push(rootfs.clone());
        base.rootfs = Some(rootfs);
        return Ok(Found { base, lower: files, config: None, lease: held });
    };
    let lost = || {
        let source = io::Error::new(io::ErrorKind::NotFound, "the image below it isn't there any more");
        Error::State { attempted: "start from the snapshot", path: found.directory.clone(), source }
    };
    let image = by_manifest(store, manifest, name)?.ok_or_else(lost)?;
    if !store.is_unpacked(&image, layers) {
        // Damaged and moved away since: once more from what was fetched.
        store.unpack(&image, layers)?;
    }
    let Ready { image, lower, lease } = crate::image::ready(engine, layers, held, image)?;
    files.extend(lower);
    base.manifest = Some(manifest.to_string());
    Ok(Found { base, lower: files, config: Some(image.config), lease })
}
