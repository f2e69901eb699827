//! Containers that stay when they have ended: made, started, renamed, removed.
//!
//! One such is a run directory with a file `kept`, which says how to start it. Nobody owns it: whoever finds the directory may start it, and
//! the lock of the directory, which a life's supervisor holds, lets one of them.

use crate::background;
use crate::builder::ContainerBuilder;
use crate::container::{Container, LOGGED, control_socket};
use crate::engine::Engine;
use crate::error::{Error, Problem};
use crate::image;
use crate::lower::{self, Life, Lowered};
use crate::mount::Kind;
use crate::preset;
use crate::publish::Publish;
use crate::spec::Spec;
use crate::state::{Description, Found, keep};
use crate::volume;
use coracle_image::Lease;
use coracle_spawn::{Child, KEPT, Undo};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Holds all names still, as long as it is held.
pub(crate) struct Claim(#[allow(dead_code, reason = "closing it lets go")] File);

/// Whether containers and volumes may be called so.
pub(crate) fn is_a_name(name: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"_.-".contains(&b);
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    first && name.len() <= 128 && name.bytes().all(good)
}

/// Waits until nobody else gives names, and looks whether this one is free.
pub(crate) async fn claim(engine: &Engine, name: &str) -> Result<Claim, Error> {
    if !is_a_name(name) {
        let what = format!("{name:?} can't be the name of a container");
        let remedy = Some("up to 128 letters, digits, _, . and -, of which the first is a letter or digit".into());
        return Err(Error::Description { problems: vec![Problem { what, remedy }] });
    }
    // The directory of runs itself is what is locked.
    let path = engine.0.runs.clone();
    let failed = |source| Error::State { attempted: "lock", path: path.clone(), source };
    let file = File::open(&path).map_err(failed)?;
    let locked = background::run("coracle-name", move || flock(&file, FlockOperation::LockExclusive).map(|()| file));
    let file = locked.map_err(failed)?.await.map_err(|errno| failed(errno.into()))?;
    let all = Found::all(&engine.0.runs).map_err(|source| Error::State { attempted: "list", path: engine.0.runs.clone(), source })?;
    match all.into_iter().find(|found| found.description.name.as_deref() == Some(name) && (found.kept || found.alive)) {
        Some(found) => Err(Error::NameTaken { name: name.to_owned(), id: found.id }),
        None => Ok(Claim(file)),
    }
}

/// What a container that stays can't have.
fn check(builder: &ContainerBuilder) -> Result<(), Error> {
    let mut problems = Vec::new();
    let streams = [("standard input", &builder.command.stdin, false), ("standard output", &builder.command.stdout, true)];
    for (what, stream, may_be_log) in streams.into_iter().chain([("standard error", &builder.command.stderr, true)]) {
        if stream.as_ref().is_some_and(|stdio| !(stdio.is_null() || may_be_log && stdio.is_log())) {
            let what = format!("{what} of a container that lives on without this program can't be this program's");
            problems.push(Problem { what, remedy: Some("Stdio::log() or Stdio::null()".into()) });
        }
    }
    problems.extend(builder.command.terminal_problem(false));
    if !builder.files.is_empty() {
        let what = "what is copied into a container before its start can't be kept for its later starts".into();
        problems.push(Problem { what, remedy: Some("start it, and copy_to(..) then: the files stay".into()) });
    }
    if builder.command.stdin_bytes.is_some() {
        problems.push(Problem { what: "a container that lives on without this program can't be fed by it".into(), remedy: None });
    }
    if problems.is_empty() { Ok(()) } else { Err(Error::Description { problems }) }
}

/// Makes one, without starting it.
pub(crate) async fn create(mut builder: ContainerBuilder) -> Result<Container, Error> {
    builder = preset::settled(builder)?;
    lower::check(&builder)?;
    check(&builder)?;
    let engine = match &builder.engine {
        Some(engine) => engine.clone(),
        None => Engine::shared()?,
    };
    let mut ground = lower::ground(&engine, &builder).await?;
    let id = lower::new_id();
    let resolved = ground.resolve(&builder, &id)?;
    // Held until the directory is there, with which they go.
    let volumes = volume::name_all(&engine, &mut builder.mounts, &id)?;
    let images = images(&engine, &mut builder).await?;
    let command = resolved.words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let (image, stop_signal) = (resolved.image.clone(), resolved.stop_signal.clone());
    let (health, exposed) = (resolved.health.is_some(), resolved.exposed.clone());
    let spec = Spec::new(&builder, resolved).map_err(|problem| Error::Description { problems: vec![problem] })?;
    let description = Description {
        image,
        command,
        created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        owner: std::process::id(),
        labels: builder.labels.clone(),
        manifest: ground.base.manifest.clone(),
        rootfs: ground.base.rootfs.clone(),
        snapshots: ground.base.snapshots.clone(),
        volumes: Vec::new(),
        mount_points: builder.mounts.iter().map(|mount| mount.target.clone()).collect(),
        stop_signal: Some(stop_signal),
        name: builder.name.clone(),
        live: String::new(),
        auto_remove: builder.auto_remove,
        spec: Some(spec),
        ports: Vec::new(),
        addresses: Vec::new(),
        health,
        exposed,
    };
    let (draft, run) = (engine.0.runs.join(format!(".{id}")), engine.0.runs.join(&id));
    let failed = |source| Error::State { attempted: "make the directory", path: run.clone(), source };
    let claim = match &builder.name {
        Some(name) => Some(claim(&engine, name).await?),
        None => None,
    };
    let made = DirBuilder::new().mode(0o700).create(&draft).and_then(|()| {
        // Locked, so that nobody takes it for one that was left.
        let lock = File::options().create_new(true).write(true).mode(0o600).open(draft.join("lock"))?;
        while let Err(rustix::io::Errno::AGAIN) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(lock)
    });
    let lock = made.map_err(failed)?;
    let placed = keep(&draft, &description).and_then(|()| fs::rename(&draft, &run).map_err(failed));
    if let Err(error) = placed {
        let _ = fs::remove_dir_all(&draft);
        return Err(error);
    }
    drop(claim);
    // Now that the directory is there, by which the lease lasts.
    let pinned: Result<Vec<_>, _> = ground.lease.take().into_iter().chain(images).map(|lease| lease.hold_while(&run)).collect();
    drop((lock, volumes));
    let found = Found { id, run, description, kept: true, alive: false };
    let container = Container::of(&engine, &found)?;
    match pinned {
        Ok(_) => Ok(container),
        Err(error) => {
            remove(&container).await?;
            Err(error.into())
        }
    }
}

/// Brings the images in that are mounted, and remembers what they are made of.
async fn images(engine: &Engine, builder: &mut ContainerBuilder) -> Result<Vec<Lease>, Error> {
    let mut leases = Vec::new();
    let progress = builder.progress.clone();
    for mount in &mut builder.mounts {
        if let Kind::Image { reference, layers } = &mut mount.kind {
            let ready = image::by_name(engine, reference, progress.clone()).await?;
            *layers = ready.lower;
            leases.push(ready.lease);
        }
    }
    Ok(leases)
}

/// Makes one and starts it. One that can't be started doesn't stay.
pub(crate) async fn run(builder: ContainerBuilder) -> Result<Container, Error> {
    let container = create(builder).await?;
    match container.start().await {
        Ok(()) => Ok(container),
        Err(error) => {
            let _ = remove(&container).await;
            Err(error)
        }
    }
}

/// Removes one that doesn't run.
pub(crate) async fn remove(container: &Container) -> Result<(), Error> {
    let (run, map) = (container.run.clone(), container.engine.0.id_map.clone());
    let spec = Found::read(&run).and_then(|found| found.description.spec);
    let volumes = container.engine.root().join("volumes");
    let beside =
        spec.map(|spec| spec.own_volumes()).unwrap_or_default().into_iter().map(|name| Undo::RemoveTree(volumes.join(name))).collect();
    let failed = |source| Error::State { attempted: "start a thread to remove", path: container.run.clone(), source };
    let removed = background::run("coracle-remove", move || match run.exists() {
        true => coracle_spawn::remove_run(&run, beside, map),
        false => Ok(()),
    });
    match removed.map_err(failed)?.await {
        // Somebody else was quicker.
        Err(_) if !container.run.exists() => Ok(()),
        other => Ok(other?),
    }
}

impl Container {
    /// Its name, if it has one.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] of one that was removed.
    pub fn name(&self) -> Result<Option<String>, Error> {
        Ok(self.found()?.description.name)
    }

    /// The state that it is in.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] of one that was removed, and of one that doesn't stay and has ended.
    pub fn state(&self) -> Result<crate::State, Error> {
        Ok(self.found()?.state())
    }

    pub(crate) fn found(&self) -> Result<Found, Error> {
        Found::read(&self.run).ok_or_else(|| Error::NoSuchContainer { id: self.id.clone() })
    }

    /// Starts one that [stays](ContainerBuilder::create): for the first time, or again with the files that it has. It lives on without this
    /// process. Answers when the command is executed; of one that runs, at once.
    ///
    /// # Errors
    /// [`Error::NotKept`]; [`Error::Start`]: then it is as it was before; [`Error::Limits`]; [`Error::State`].
    pub async fn start(&self) -> Result<(), Error> {
        if !self.kept {
            return Err(Error::NotKept { id: self.id.clone() });
        }
        // The life before may be on its way out; one that was killed is taken back.
        let begun = Instant::now();
        let found = loop {
            let found = self.found()?;
            if !found.alive {
                break found;
            }
            let running = Child::attach(&control_socket(&self.run));
            match running {
                Ok(child) if matches!(child.try_wait(), Ok(None)) => {
                    self.begins(child);
                    return Ok(());
                }
                _ if begun.elapsed() > Duration::from_secs(20) => {
                    return Err(Error::State {
                        attempted: "wait for the end of what runs in",
                        path: self.run.clone(),
                        source: io::ErrorKind::TimedOut.into(),
                    });
                }
                _ => background::pause(Duration::from_millis(5)).await,
            }
        };
        if self.run.join("record").exists() {
            self.engine.sweep()?;
        }
        let spec = found.description.spec.clone().ok_or_else(|| Error::NotKept { id: self.id.clone() })?;
        let one = |problem| Error::Description { problems: vec![problem] };
        let mut builder = spec.builder().map_err(one)?;
        // What it had is what others know it by.
        if !found.description.ports.is_empty() {
            builder.publish = found.description.ports.iter().map(Publish::again).collect();
        }
        for (network, addresses) in builder.networks.iter_mut().filter(|network| network.is_bridge()).zip(&found.description.addresses) {
            network.address = network.address.take().or_else(|| addresses.first().map(ToString::to_string));
        }
        let checked = lower::check(&builder)?;
        let life = Life::Another { id: self.id.clone(), description: Box::new(found.description.clone()) };
        let Lowered { spawn, live, ports, addresses, enforced, waived, .. } =
            lower::lower(&self.engine, &builder, checked, &LOGGED, life).await?;
        rewrite(&self.engine, &self.run, |description| {
            description.live = live.to_string();
            (description.ports, description.addresses) = (ports.clone(), addresses.clone());
        })?;
        let child = spawn.start()?.await?;
        // The same as in any life before.
        let _ = (self.ports.set(ports), self.addresses.set(addresses), self.enforced.set(enforced), self.waived.set(waived));
        self.begins(child);
        Ok(())
    }

    /// Asks the command to end as [`stop`](Self::stop) does, and starts it again: the same id, the same files.
    ///
    /// # Errors
    /// As [`stop`](Self::stop) and [`start`](Self::start).
    pub async fn restart(&self, grace: Duration) -> Result<(), Error> {
        if !self.kept {
            return Err(Error::NotKept { id: self.id.clone() });
        }
        if self.current_or_attached().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            self.stop(grace).await?;
        }
        self.start().await
    }

    /// Waits until what was made for the life that runs or ran is taken back: all of it but the files of one that
    /// [stays](ContainerBuilder::create). Ends nothing by itself.
    ///
    /// # Errors
    /// [`Error::NotRemoved`] with what is left; [`Error::Lost`].
    pub async fn settled(&self) -> Result<(), Error> {
        self.gone().await
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// [`Error::NameTaken`]; [`Error::NotKept`]; [`Error::Description`] for what can't be a name; [`Error::State`].
    pub async fn rename(&self, name: &str) -> Result<(), Error> {
        if !self.kept {
            return Err(Error::NotKept { id: self.id.clone() });
        }
        if self.name()?.as_deref() == Some(name) {
            return Ok(());
        }
        let _claim = claim(&self.engine, name).await?;
        rewrite(&self.engine, &self.run, |description| description.name = Some(name.to_owned()))
    }
}

/// Changes what is kept of a container. Whoever else does waits.
pub(crate) fn rewrite(engine: &Engine, run: &Path, change: impl FnOnce(&mut Description)) -> Result<(), Error> {
    // Not the directory of runs, which is locked for names while this is done.
    let path = engine.root().to_owned();
    let failed = |source| Error::State { attempted: "lock", path: path.clone(), source };
    let lock = File::open(&path).map_err(failed)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    let kept = run.join(KEPT);
    let failed = |source| Error::State { attempted: "read", path: kept.clone(), source };
    let bytes = fs::read(&kept).map_err(failed)?;
    let mut description: Description = serde_json::from_slice(&bytes).map_err(|error| failed(io::Error::other(error)))?;
    change(&mut description);
    keep(run, &description)
}
