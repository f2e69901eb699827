//! A container's file system in which nothing runs: its root and its mounts, with a process that waits and opens files for this one.
//!
//! By it the files of a container that doesn't run are reached in the same way as those of one that does, and what an image has is copied into a
//! volume: with the links of the root, the owners of the user namespace, and no path of it ever looked up on the host.

use crate::beside::{self, For};
use crate::engine::Engine;
use crate::error::{Error, Problem};
use crate::lower;
use crate::rootfs;
use crate::state::Found;
use coracle_spawn::{Effect, Interior, Namespaces, Spawn, Starting};
use std::future::poll_fn;
use std::path::{Path, PathBuf};

/// It goes with this.
pub(crate) struct Quiet {
    starting: Starting,
    interior: Interior,
}

impl Quiet {
    /// Mounts it. The description has a root; its command is never executed.
    pub(crate) async fn begin(spawn: Spawn) -> Result<Self, Error> {
        let starting = spawn.namespaces(Namespaces::MOUNT).created_first(true).start()?;
        let interior = poll_fn(|cx| starting.poll_created(cx)).await?;
        Ok(Self { starting, interior })
    }

    pub(crate) fn interior(&self) -> Interior {
        self.interior.clone()
    }

    /// Answers when all is taken back.
    pub(crate) async fn end(self) -> Result<(), Error> {
        self.starting.kill()?;
        // That it was killed before its command was executed is what was asked for.
        let _ = self.starting.await;
        Ok(())
    }
}

/// A container that stays and doesn't run.
#[derive(Debug, Clone)]
pub(crate) struct Stopped {
    pub(crate) engine: Engine,
    pub(crate) run: PathBuf,
}

impl Stopped {
    /// Mounts what it sees: its root with what it changed, its volumes, its binds. Nobody starts it meanwhile.
    pub(crate) async fn mount(&self) -> Result<Quiet, Error> {
        let (engine, run) = (&self.engine, &self.run);
        let id = run.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let gone = || Error::NoSuchContainer { id: id.clone() };
        if run.join("record").exists() {
            engine.sweep()?;
        }
        let found = Found::read(run).ok_or_else(gone)?;
        let spec = found.description.spec.as_ref().ok_or_else(|| Error::NotKept { id: id.clone() })?;
        let one = |problem: Problem| Error::Description { problems: vec![problem] };
        let builder = spec.builder().map_err(one)?;
        let checked = lower::check(&builder)?;
        let ground = lower::ground(engine, &builder).await?;
        let mut beside = beside::prepare(engine, &builder, checked.mounts, &ground.lower, &id, For::Nobody).await?;
        let mut spawn = Spawn::new("/").effect(Effect::LockRunDirectory { path: Path::to_owned(run) });
        if let Some(map) = &engine.0.id_map {
            spawn = spawn.id_map(map.clone());
        }
        spawn = beside.begin(spawn);
        spawn = rootfs::add(spawn, ground.lower, run, engine.0.id_map.is_some(), true)?;
        spawn = beside.mount(spawn);
        Quiet::begin(beside.hold(spawn)).await
    }
}
