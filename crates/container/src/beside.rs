//! What a container has beside its root, put together: binds, volumes and what is copied into them, other images.

use crate::builder::ContainerBuilder;
use crate::copy;
use crate::engine::Engine;
use crate::error::Error;
use crate::image::{self, Ready};
use crate::images::work;
use crate::mount::Checked;
use crate::quiet::Quiet;
use crate::rootfs::{self, Lower};
use crate::volume::{self, Held, Lasts, Volume};
use coracle_spawn::{Effect, Mount, Overlay, Spawn, Undo};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Mounts, and what goes with them.
pub(crate) struct Beside {
    engine: Engine,
    mounts: Vec<Mount>,
    effects: Vec<Effect>,
    held: Vec<OwnedFd>,
    undo: Vec<Undo>,
    /// Volumes, by their names.
    pub(crate) volumes: Vec<String>,
}

/// Which life it is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The only one, or the last: with it goes what the container has.
    LastLife,
    /// One of several.
    OneLife,
    /// None: somebody looks at the files of a container that doesn't run.
    Nobody,
}

/// Puts it together. Images are fetched, and volumes made and filled.
pub(crate) async fn prepare(
    engine: &Engine,
    builder: &ContainerBuilder,
    checked: Vec<Checked>,
    lower: &Lower,
    id: &str,
    whose: For,
) -> Result<Beside, Error> {
    let (mounts, effects, held, undo, volumes) = Default::default();
    let mut beside = Beside { engine: engine.clone(), mounts, effects, held, undo, volumes };
    let run = engine.0.runs.join(id);
    for (checked, mount) in checked.into_iter().zip(&builder.mounts) {
        let lowered = match checked {
            Checked::Ready(ready) => {
                beside.mounts.push(ready);
                continue;
            }
            // It was there for one life, and this is none.
            Checked::Volume(volume) if volume.0.lasts == Lasts::OneLife && whose == For::Nobody => continue,
            Checked::Volume(volume) => {
                let held = take(engine, &volume, id, lower, &mount.target).await?;
                let lowered = Mount::bind(held.data(), &mount.target);
                beside.volume(&volume, held, whose);
                lowered
            }
            Checked::Image(reference) => {
                let Ready { lower, lease, .. } = image::by_name(engine, &reference, builder.progress.clone()).await?;
                let path = lease.path().to_owned();
                beside.held.push(lease.into_fd());
                beside.undo.push(Undo::RemoveTree(path));
                beside.image(engine, lower, &run, &mount.target, whose)
            }
            Checked::Layers(layers) => beside.image(engine, layers, &run, &mount.target, whose),
        };
        beside.mounts.push(if mount.read_only { lowered.read_only() } else { lowered });
    }
    Ok(beside)
}

impl Beside {
    fn volume(&mut self, volume: &Volume, held: Held, whose: For) {
        let goes = match volume.0.lasts {
            Lasts::UntilRemoved => false,
            Lasts::AsLongAsTheContainer => whose == For::LastLife,
            Lasts::OneLife => true,
        };
        if goes {
            self.undo.push(Undo::RemoveTree(held.place.clone()));
        }
        self.volumes.push(held.name.clone());
        self.held.push(held.lock.into());
    }

    fn image(&mut self, engine: &Engine, mut layers: Vec<PathBuf>, run: &Path, target: &Path, whose: For) -> Mount {
        // Overlayfs wants two at least.
        let empty = run.join("empty");
        if !self.effects.iter().any(|effect| matches!(effect, Effect::EnsureDirectory { .. })) {
            self.effects.push(Effect::EnsureDirectory { path: empty.clone(), mode: 0o755 });
            if whose == For::Nobody {
                self.undo.push(Undo::RemoveTree(empty.clone()));
            }
        }
        layers.push(empty);
        Mount::overlay(Overlay::new(layers).userxattr(engine.0.id_map.is_some()), target).read_only()
    }

    /// Adds what has to be there before the mounts.
    pub(crate) fn begin(&mut self, spawn: Spawn) -> Spawn {
        std::mem::take(&mut self.effects).into_iter().fold(spawn, Spawn::effect)
    }

    /// Adds the mounts.
    pub(crate) fn mount(&mut self, spawn: Spawn) -> Spawn {
        spawn.mounts(std::mem::take(&mut self.mounts))
    }

    /// Adds what is held as long as they are there, and what goes after them.
    pub(crate) fn hold(mut self, spawn: Spawn) -> Spawn {
        let spawn = std::mem::take(&mut self.held).into_iter().fold(spawn, Spawn::hold);
        std::mem::take(&mut self.undo).into_iter().fold(spawn, Spawn::undo)
    }
}

impl Drop for Beside {
    /// Of one that nobody starts with: what was made for it goes.
    fn drop(&mut self) {
        for undo in self.undo.drain(..) {
            if let Undo::RemoveTree(path) = undo
                && let Err(error) = volume::unlink(&self.engine, &path)
            {
                tracing::warn!(%error, "a volume stays until the next engine");
            }
        }
    }
}

/// Takes a volume, and copies into it what the image has in its place, if it is empty.
async fn take(engine: &Engine, volume: &Volume, id: &str, lower: &Lower, target: &Path) -> Result<Held, Error> {
    let held = {
        let (engine, volume, id) = (engine.clone(), volume.clone(), id.to_owned());
        work("coracle-volume", move || volume::hold(&engine, &volume, &id)).await?
    };
    let Some(filling) = held.filling() else { return Ok(held) };
    let filled = fill(engine, &held, &filling, lower, target).await;
    held.filled()?;
    filled.map(|()| held)
}

/// Copies what a root has at a path into a volume, by a container in which nothing runs. What is half-way is never taken for the whole.
async fn fill(engine: &Engine, held: &Held, filling: &Path, lower: &Lower, target: &Path) -> Result<(), Error> {
    const AT: &str = "/.coracle-volume";
    let scratch = held.place.join("scratch");
    let mut spawn = Spawn::new("/").undo(Undo::RemoveTree(scratch.clone()));
    if let Some(map) = &engine.0.id_map {
        spawn = spawn.id_map(map.clone());
    }
    for path in [scratch.as_path(), filling] {
        // What one left that was killed.
        volume::unlink(engine, path)?;
        spawn = spawn.effect(Effect::MakeDirectory { path: path.to_owned(), mode: 0o755 });
    }
    spawn = rootfs::add(spawn, lower.clone(), &scratch, engine.0.id_map.is_some(), false)?;
    spawn = spawn.mount(Mount::bind(filling, AT));
    let quiet = Quiet::begin(spawn).await?;
    let copied = copy::between_two(quiet.interior(), target.join("."), AT.into()).await;
    quiet.end().await?;
    if copied? {
        held.own(engine, filling)?;
        let failed = |source| Error::State { attempted: "fill", path: held.place.clone(), source };
        return std::fs::rename(filling, held.data()).map_err(failed);
    }
    Ok(())
}
