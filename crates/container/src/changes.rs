//! What a container changed: as an image, as a list; and all that it sees, as an archive.
//!
//! A container's changes are the upper directory of its overlay. All of this works on that directory, whether somebody runs in it or not.

use crate::container::Container;
use crate::engine::{Engine, ImageSummary};
use crate::error::{Error, Problem};
use crate::image;
use crate::images::work;
use crate::state::{Description, Found};
use coracle_image::{Change, Commit, Image, NewLayer, Platform, Reference, Store};
use coracle_layers::{Access, Compression, Compressor, DiffOptions, Ids, LayerStore, PathChange};
use coracle_spawn::{FileAccess, IdMap, Record, Undo};
use std::collections::VecDeque;
use std::future::{Future, IntoFuture};
use std::io::{self, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant, SystemTime};
use tokio::io::{AsyncRead, ReadBuf};

impl Container {
    /// Begins an image of what the container changed, on top of the image that it was made from; `.await` makes it. A container that was
    /// made from a root file system becomes an image of one layer.
    ///
    /// It works while the container runs. It stands still meanwhile where it has a cgroup on cgroup2 ([`pause`](CommitBuilder::pause)):
    /// then no file is caught half-written, though a program may be caught half-way through several. What is on a mount isn't in it.
    ///
    /// ```no_run
    /// # async fn f(container: coracle_container::Container) -> Result<(), coracle_container::Error> {
    /// let image = container.commit("localhost/seeded:1").change("CMD [\"postgres\"]").message("with test data").await?;
    /// println!("{}", image.digest);
    /// # Ok(())
    /// # }
    /// ```
    pub fn commit(&self, reference: impl Into<String>) -> CommitBuilder {
        let (engine, run) = self.place();
        CommitBuilder {
            engine: engine.clone(),
            run,
            reference: reference.into(),
            changes: Vec::new(),
            author: None,
            message: None,
            pause: true,
            compression: Compression::default(),
            epoch: None,
        }
    }

    /// The paths that the container changed, sorted. docker-diff(1).
    ///
    /// # Errors
    /// [`Error::Layers`], [`Error::State`].
    pub async fn diff(&self) -> Result<Vec<PathChange>, Error> {
        let (engine, run) = self.place();
        let engine = engine.clone();
        work("coracle-diff", move || {
            let files = Files::of(&engine, &run)?;
            let session = engine.images_store()?.0.session()?;
            let base = files.base(&session)?;
            Ok(coracle_layers::changes(&files.upper, &files.options(&base))?)
        })
        .await
    }

    /// All that the container sees of its root, as a tar archive that is written while it's read. What is on mounts isn't in it.
    /// docker-export(1). Dropping it stops the reading.
    ///
    /// # Errors
    /// [`Error::Layers`], [`Error::State`]; what fails later, reading says.
    pub async fn export(&self) -> Result<Export, Error> {
        let (engine, run) = self.place();
        let (files, session, base) = prepare(engine.clone(), run).await?;
        let (stream, writer) = stream();
        let run = move || {
            let end = writer.0.clone();
            let done = export(&files, &base, writer).map_err(io::Error::other);
            end.close(done.err());
            drop(session);
        };
        let thread = std::thread::Builder::new().name("coracle-export".into()).spawn(run);
        thread.map_err(|source| Error::State { attempted: "start a thread to", path: "export".into(), source })?;
        Ok(stream)
    }

    /// As [`export`](Self::export), into whatever takes bytes.
    ///
    /// # Errors
    /// [`Error::Layers`], also the writer's; [`Error::State`].
    pub async fn export_to(&self, to: impl Write + Send + 'static) -> Result<(), Error> {
        let (engine, run) = self.place();
        let (files, session, base) = prepare(engine.clone(), run).await?;
        work("coracle-export", move || {
            let done = export(&files, &base, to);
            drop(session);
            done
        })
        .await
    }
}

async fn prepare(engine: Engine, run: PathBuf) -> Result<(Files, Store, Base), Error> {
    work("coracle-export", move || {
        let files = Files::of(&engine, &run)?;
        let session = engine.images_store()?.0.session()?;
        let base = files.base(&session)?;
        Ok((files, session, base))
    })
    .await
}

fn export(files: &Files, base: &Base, to: impl Write) -> Result<(), Error> {
    let options = files.options(base);
    let directories: Vec<&PathBuf> = std::iter::once(&files.upper).chain(&base.between).chain(&base.lower).collect();
    coracle_layers::export(&directories, &options, to)?;
    Ok(())
}

/// Describes an image that is to be made of a container. `.await` makes it; dropping the future doesn't stop what has begun.
#[derive(Debug, Clone)]
#[must_use = "nothing is made before .await"]
pub struct CommitBuilder {
    engine: Engine,
    run: PathBuf,
    reference: String,
    changes: Vec<String>,
    author: Option<String>,
    message: Option<String>,
    pause: bool,
    compression: Compression,
    epoch: Option<SystemTime>,
}

impl CommitBuilder {
    /// A change of the image's config, as a line of a Dockerfile: `CMD ["sh"]`, `ENV A=1`. One after the other.
    pub fn change(mut self, change: impl Into<String>) -> Self {
        self.changes.push(change.into());
        self
    }

    /// Who made it.
    pub fn author(mut self, author: impl Into<String>) -> Self {
        self.author = Some(author.into());
        self
    }

    /// A comment in the image's history.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// Whether the container stands still while its files are read; yes unless this says otherwise. Where it has no cgroup on cgroup2 it
    /// goes on in any case, and a file that is being written may be caught in the middle.
    pub fn pause(mut self, yes: bool) -> Self {
        self.pause = yes;
        self
    }

    /// How the layer is compressed; gzip, which everybody reads, unless this says otherwise.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// The image says that it was made then, and no file in it is newer: the same changes always make the same image.
    /// (`SOURCE_DATE_EPOCH`, reproducible-builds.org.)
    pub fn epoch(mut self, epoch: SystemTime) -> Self {
        self.epoch = Some(epoch);
        self
    }

    fn make(self) -> Result<ImageSummary, Error> {
        let reference = image::parse(&self.reference).map_err(|problem| Error::Description { problems: vec![problem] })?;
        if reference.digest().is_some() {
            let what = format!("{reference} names a digest, and an image can't be given one");
            return Err(Error::Description { problems: vec![Problem { what, remedy: Some("write NAME:TAG".into()) }] });
        }
        let changes: Vec<Change> = self.changes.iter().map(|change| change.parse()).collect::<Result<_, _>>()?;
        let files = Files::of(&self.engine, &self.run)?;
        let (store, layers) = self.engine.images_store()?;
        let session = store.session()?;
        let base = files.base(&session)?;
        let mut options = files.options(&base);
        options.clamp = self.epoch;

        let writing = |source| Error::State { attempted: "write", path: store.path().to_owned(), source };
        let mut packed = Compressor::new(NewLayer::begin(&session)?, self.compression).map_err(writing)?;
        let frozen = if self.pause { files.freeze()? } else { Still::No };
        let report = match &base.image {
            Some(_) => coracle_layers::diff(&files.upper, &options, &mut packed)?,
            None => {
                let directories: Vec<&PathBuf> = std::iter::once(&files.upper).chain(&base.between).chain(&base.lower).collect();
                coracle_layers::flatten(&directories, &options, &mut packed)?
            }
        };
        drop(frozen);
        for skipped in &report.skipped {
            tracing::info!(path = %skipped.path, what = %skipped.what, "isn't in the image");
        }
        let layer = packed.finish().map_err(writing)?;

        let mut commit = base.image.as_ref().map_or_else(Commit::from_nothing, Commit::on);
        commit = commit.created_by(files.description.command.join(" "));
        if report.entries > 0 {
            commit = commit.layer(layer, report.diff_id, self.compression.media_type());
        }
        if let Some(epoch) = self.epoch {
            commit = commit.created(Some(epoch));
        }
        commit = changes.into_iter().fold(commit, Commit::change);
        commit = self.author.into_iter().fold(commit, Commit::author);
        commit = self.message.into_iter().fold(commit, Commit::message);
        let image = commit.publish(&session, &reference, layers)?;
        image::settle(&session, layers, &image)?;
        Ok(ImageSummary::new(&image))
    }
}

impl IntoFuture for CommitBuilder {
    type Output = Result<ImageSummary, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(work("coracle-commit", move || self.make()))
    }
}

/// The files of one container: what it changed, and how to read it.
pub(crate) struct Files {
    engine: Engine,
    pub(crate) upper: PathBuf,
    pub(crate) description: Description,
    undo: Vec<Undo>,
    /// Nobody runs in it, or who does is paused.
    still: bool,
}

/// What a container's files lie on.
pub(crate) struct Base {
    pub(crate) image: Option<Image>,
    pub(crate) rootfs: Option<PathBuf>,
    /// Snapshots, the topmost first.
    pub(crate) between: Vec<PathBuf>,
    /// Layers, the topmost first.
    pub(crate) lower: Vec<PathBuf>,
}

impl Files {
    /// Those of the container with this run directory.
    pub(crate) fn of(engine: &Engine, run: &Path) -> Result<Files, Error> {
        let failed = |attempted, path: &Path| {
            let path = path.to_owned();
            move |source| Error::State { attempted, path, source }
        };
        let gone = || failed("read", run)(io::Error::new(io::ErrorKind::NotFound, "there is no container any more"));
        let Found { description, alive, .. } = Found::read(run).ok_or_else(gone)?;
        // Of one that has ended there is no record any more, and nothing to freeze.
        let undo = Record::read(run).map(|record| record.undo).unwrap_or_default();
        if description.rootfs.as_deref() == Some(Path::new("/")) && engine.0.id_map.is_some() {
            let what = "a container on this machine's own root has its changes in many places, for a plain user".into();
            return Err(Error::Description { problems: vec![Problem { what, remedy: Some("run it from an image, or as root".into()) }] });
        }
        let upper = run.join("upper");
        std::fs::symlink_metadata(&upper).map_err(failed("read", &upper))?;
        let still = !alive || run.join("paused").exists();
        Ok(Files { engine: engine.clone(), upper, description, undo, still })
    }

    /// What they lie on. The container's own lease holds it, and so does the session.
    pub(crate) fn base(&self, session: &Store) -> Result<Base, Error> {
        let (_, layers) = self.engine.images_store()?;
        let damaged = |what: &str| {
            let source = io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
            Error::State { attempted: "find what lies below", path: self.upper.clone(), source }
        };
        let mut between = Vec::new();
        for id in &self.description.snapshots {
            let id = id.parse().map_err(|_| damaged("a snapshot's id is damaged"))?;
            between.push(layers.snapshot_by_id(&id)?.ok_or_else(|| damaged("a snapshot isn't there any more"))?.files());
        }
        if let Some(manifest) = &self.description.manifest {
            let manifest = manifest.parse().map_err(|_| damaged("the manifest's digest is damaged"))?;
            let image =
                by_manifest(session, &manifest, &self.description.image)?.ok_or_else(|| damaged("the image isn't there any more"))?;
            let lower = layers.paths(&image.config.diff_ids)?;
            return Ok(Base { image: Some(image), rootfs: None, between, lower });
        }
        let rootfs = self.description.rootfs.clone().ok_or_else(|| damaged("an older version of Coracle started this container"))?;
        Ok(Base { image: None, lower: vec![rootfs.clone()], rootfs: Some(rootfs), between })
    }

    /// How they are read.
    pub(crate) fn options(&self, base: &Base) -> DiffOptions {
        let mut options = options(&self.engine);
        options.mount_points = MOUNT_POINTS.iter().map(PathBuf::from).chain(self.description.mount_points.iter().cloned()).collect();
        (options.between, options.lower) = (base.between.clone(), base.lower.clone());
        options
    }

    /// Lets the container stand still until what is answered is dropped; [`Still::No`] where it can't.
    pub(crate) fn freeze(&self) -> Result<Still, Error> {
        if self.still {
            return Ok(Still::Already);
        }
        /// A frozen cgroup's tasks stop where they would return to their program: at once, unless the kernel waits for a disk.
        const PATIENCE: Duration = Duration::from_secs(10);
        let trees = self.undo.iter().filter_map(|undo| match undo {
            Undo::KillCgroup(tree) => Some(tree),
            _ => None,
        });
        for tree in trees {
            let file = tree.join("cgroup.freeze");
            if !file.exists() {
                continue;
            }
            let frozen = match FileAccess::start(None, Some(&file)) {
                Ok(frozen) => frozen,
                // It has ended meanwhile.
                Err(_) if !file.exists() => return Ok(Still::Already),
                Err(error) => return Err(error.into()),
            };
            let began = Instant::now();
            let stands = || std::fs::read_to_string(tree.join("cgroup.events")).is_ok_and(|events| events.lines().any(|l| l == "frozen 1"));
            while !stands() {
                if began.elapsed() > PATIENCE || !file.exists() {
                    tracing::warn!(cgroup = %tree.display(), "the container doesn't stand still");
                    return Ok(Still::No);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            return Ok(Still::Frozen(frozen));
        }
        Ok(Still::No)
    }
}

/// Whether a container stands still.
pub(crate) enum Still {
    /// It goes on.
    No,
    /// Nobody runs in it, or somebody paused it.
    Already,
    /// As long as this lives.
    Frozen(#[allow(dead_code, reason = "it's held")] FileAccess),
}

/// What Coracle itself mounts things on, in every container.
const MOUNT_POINTS: [&str; 6] = ["/proc", "/sys", "/dev", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];

/// The image with this manifest; its name is for messages.
pub(crate) fn by_manifest(store: &Store, manifest: &coracle_image::Digest, name: &str) -> Result<Option<Image>, Error> {
    let unnamed = || "localhost/unnamed".parse::<Reference>().ok();
    let Some(reference) = name.parse::<Reference>().ok().or_else(unnamed) else { return Ok(None) };
    Ok(store.by_manifest(manifest, &reference, &Platform::host())?)
}

/// How files of an engine's containers are read.
pub(crate) fn options(engine: &Engine) -> DiffOptions {
    let Some(map) = &engine.0.id_map else { return DiffOptions::root() };
    let ranges = |ranges: &[coracle_spawn::IdRange]| {
        ranges.iter().map(|range| coracle_layers::IdRange::new(range.inside, range.outside, range.count)).collect()
    };
    let mut options = DiffOptions::user(Ids::mapped(ranges(map.uids()), ranges(map.gids())));
    if !map.is_single() {
        options.access = Some(Arc::new(Inside { map: map.clone(), process: OnceLock::new() }));
    }
    options
}

/// Opens files inside the user namespace, by a process that is started when the first one asks.
#[derive(Debug)]
struct Inside {
    map: IdMap,
    process: OnceLock<Result<FileAccess, String>>,
}

impl Inside {
    fn process(&self) -> io::Result<&FileAccess> {
        let started = self.process.get_or_init(|| FileAccess::start(Some(&self.map), None).map_err(|error| error.to_string()));
        started.as_ref().map_err(|error| io::Error::other(error.clone()))
    }
}

impl Access for Inside {
    fn look(&self, directory: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
        self.process()?.look(directory, path)
    }

    fn read(&self, file: BorrowedFd<'_>) -> io::Result<OwnedFd> {
        self.process()?.read(file)
    }

    fn attribute(&self, file: BorrowedFd<'_>, name: &[u8]) -> io::Result<Vec<u8>> {
        self.process()?.attribute(file, name)
    }
}

/// An archive that is written while it's read, in a bounded amount of memory: [`Container::export`]. Reads under any executor; std's
/// `Read` blocks.
#[derive(Debug)]
pub struct Export(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    room: Condvar,
    filled: Condvar,
}

#[derive(Debug, Default)]
struct State {
    pieces: VecDeque<Vec<u8>>,
    /// How much of the first was read.
    position: usize,
    length: usize,
    ended: bool,
    failed: Option<io::Error>,
    /// Nobody reads any more.
    dropped: bool,
    waker: Option<Waker>,
}

/// What waits to be read at most.
const ROOM: usize = 1 << 20;

struct Writer(Arc<Shared>);

fn stream() -> (Export, Writer) {
    let shared = Arc::new(Shared::default());
    (Export(shared.clone()), Writer(shared))
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self, failed: Option<io::Error>) {
        let mut state = self.lock();
        (state.ended, state.failed) = (true, failed);
        self.wake(state);
    }

    fn wake(&self, mut state: std::sync::MutexGuard<'_, State>) {
        let waker = state.waker.take();
        drop(state);
        self.filled.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl State {
    /// Bytes that are there; none where there are none yet.
    fn take(&mut self, into: &mut [u8]) -> Option<io::Result<usize>> {
        let Some(first) = self.pieces.front() else {
            return match (self.failed.take(), self.ended) {
                (Some(error), _) => Some(Err(error)),
                (None, true) => Some(Ok(0)),
                (None, false) => None,
            };
        };
        let rest = &first[self.position..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.position += count;
        self.length -= count;
        if self.position == first.len() {
            self.pieces.pop_front();
            self.position = 0;
        }
        Some(Ok(count))
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let mut state = self.0.lock();
        while state.length >= ROOM && !state.dropped {
            state = self.0.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.dropped {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        state.length += bytes.len();
        state.pieces.push_back(bytes.to_vec());
        self.0.wake(state);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Read for Export {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        let mut state = self.0.lock();
        loop {
            if let Some(taken) = state.take(into) {
                self.0.room.notify_all();
                return taken;
            }
            state = self.0.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl AsyncRead for Export {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if into.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut state = self.0.lock();
        match state.take(into.initialize_unfilled()) {
            Some(taken) => {
                self.0.room.notify_all();
                into.advance(taken?);
                Poll::Ready(Ok(()))
            }
            None => {
                state.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.0.lock().dropped = true;
        self.0.room.notify_all();
    }
}

/// The layers' store of an engine, for who has a session of the images'.
pub(crate) fn layers(engine: &Engine) -> Result<&LayerStore, Error> {
    Ok(&engine.images_store()?.1)
}
