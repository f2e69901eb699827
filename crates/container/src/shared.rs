//! One container for many processes: the first starts it, the others wait and get the same, and it ends with the last.
//!
//! A test runner as nextest runs a process a test, and cargo one a file of tests; a database of each is slow. There is no server that could
//! keep one for all, and needs none:
//!
//! - *Who starts it* is who has the lock of a file `shared/KEY` in the engine's directory (flock(2), which goes with its holder). The file is there
//!   as long as somebody starts. What came of it is written into it before it is unlinked, and whoever waited for the lock reads that by the
//!   descriptor that he has: the failure with its logs, if it was one.
//! - *Who has it* holds a connection to its supervisor, which ends everything when the last of these closes, by whatever death.
//! - *Whether it is there* tells its run directory, by a label; it is found only when it is ready, which is when it lets others in.

use crate::builder::ContainerBuilder;
use crate::container::{Container, control_socket, log_file};
use crate::engine::Engine;
use crate::error::{Error, Problem};
use crate::last_words::LastWords;
use crate::state::Found;
use coracle_spawn::{Delay, Log};
use rustix::fs::{FlockOperation, flock};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// By which scope a container is shared.
const SCOPE: &str = "coracle.shared";
/// By which description it was started.
const DESCRIPTION: &str = "coracle.shared.description";
/// Between two looks at a lock that somebody holds.
const PAUSE: Duration = Duration::from_millis(10);

/// Who shares a container: a name, and among whom it means the same.
///
/// ```no_run
/// # async fn f() -> Result<(), coracle_container::Error> {
/// use coracle_container::{Container, Scope};
/// let database = Container::from_image("postgres:16").env("POSTGRES_PASSWORD", "x").shared(Scope::session("postgres")).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Scope {
    name: String,
    key: String,
}

impl Scope {
    /// Among the processes of one run of tests: those to which nextest gave one `NEXTEST_RUN_ID`, else those that one process started, as
    /// `cargo test` does its test programs.
    pub fn session(name: impl Into<String>) -> Self {
        let run = match std::env::var("NEXTEST_RUN_ID") {
            Ok(run) if !run.is_empty() => format!("nextest {run}"),
            _ => parent(),
        };
        Self::new(run, name.into())
    }

    /// Among all processes of this user that use the engine's directory.
    pub fn user(name: impl Into<String>) -> Self {
        Self::new("user".into(), name.into())
    }

    /// Among those that say the same `session`, whatever started them: a job's number, a path.
    pub fn of(session: impl Into<String>, name: impl Into<String>) -> Self {
        Self::new(format!("of {}", session.into()), name.into())
    }

    fn new(among: String, name: String) -> Self {
        Self { key: format!("{among}: {name}"), name }
    }
}

/// The process that started this one, by what no later one has.
fn parent() -> String {
    let pid = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // proc_pid_stat(5): behind the name, which may hold anything, the twentieth is when it started.
    let started = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)).unwrap_or_default().to_owned();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    format!("children of {pid} {started} {}", boot.trim())
}

/// A container that several processes have. Its last handle ends it when it is dropped, or its process dies; the others keep it.
///
/// What one does to it, all see; [`Container::remove`], [`stop`](Container::stop) and [`kill`](Container::kill) end it for all.
#[derive(Debug)]
#[must_use = "dropping the last handle ends it"]
pub struct Shared {
    pub(crate) container: Container,
    pub(crate) first: bool,
}

impl Shared {
    /// Whether this process started it: who fills a database asks.
    pub fn is_first(&self) -> bool {
        self.first
    }
}

impl Deref for Shared {
    type Target = Container;

    fn deref(&self) -> &Container {
        &self.container
    }
}

/// Why a start that others waited for failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SharedFailure {
    /// The name in its [`Scope`].
    pub name: String,
    /// The process that started it.
    pub process: u32,
    /// What that process was told, its log's last lines included.
    pub error: String,
    /// What to do about it, where that is known.
    pub remedy: Option<String>,
    /// Nanoseconds since the machine's start.
    at: u128,
}

impl fmt::Display for SharedFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "process {} couldn't start the container that is shared as {}: {}", self.process, self.name, self.error)
    }
}

/// The container of this scope.
pub(crate) async fn get(builder: ContainerBuilder, scope: Scope) -> Result<Shared, Error> {
    let engine = match &builder.engine {
        Some(engine) => engine.clone(),
        None => Engine::shared()?,
    };
    let of = format!("{:016x}", hash(&described(&builder)));
    let builder = builder.engine(&engine).label(SCOPE, &scope.key).label(DESCRIPTION, &of).keep_on_failure(false);
    let came = now();
    loop {
        if let Some(container) = join(&engine, &scope, &of).await? {
            return Ok(Shared { container, first: false });
        }
        let mut turn = Turn::take(&engine, &scope).await?;
        match turn.outcome()? {
            Some(Outcome::Failed(failure)) if failure.at >= came => return Err(Error::Shared(Box::new(failure))),
            // Others have started it, or given up, meanwhile.
            Some(_) => continue,
            None if turn.is_over()? => continue,
            None => {}
        }
        // Another may have had it before this one looked for the file.
        if let Some(container) = join(&engine, &scope, &of).await? {
            return Ok(Shared { container, first: false });
        }
        let started = async {
            let container = builder.run().await?;
            container.hold().await?;
            Ok(container)
        };
        return match started.await {
            Ok(container) => {
                turn.tell(&Outcome::Ready);
                Ok(Shared { container, first: true })
            }
            Err(error) => {
                turn.tell(&Outcome::Failed(SharedFailure::new(&scope, &error)));
                Err(error)
            }
        };
    }
}

impl SharedFailure {
    fn new(scope: &Scope, error: &Error) -> Self {
        let (process, error, remedy) = (std::process::id(), error.to_string(), error.remedy());
        Self { name: scope.name.clone(), process, error, remedy, at: now() }
    }
}

/// Takes it up, if it is there. One that ends meanwhile isn't.
async fn join(engine: &Engine, scope: &Scope, of: &str) -> Result<Option<Container>, Error> {
    let runs = &engine.0.runs;
    let all = Found::all(runs).map_err(|source| Error::State { attempted: "list", path: runs.clone(), source })?;
    let is_it = |found: &Found| found.description.labels.get(SCOPE) == Some(&scope.key) && control_socket(&found.run).exists();
    for found in all.into_iter().filter(|found| found.alive && !found.kept && is_it(found)) {
        let Ok(mut container) = Container::of(engine, &found) else { continue };
        if container.hold().await.is_err() || !matches!(container.try_wait(), Ok(None)) {
            continue;
        }
        if found.description.labels.get(DESCRIPTION).map(String::as_str) != Some(of) {
            let what = format!("the container {} that is shared as {} was described otherwise", found.id, scope.name);
            let remedy = Some("share different ones under different names".into());
            return Err(Error::Description { problems: vec![Problem { what, remedy }] });
        }
        if let Ok(log) = Log::open(&log_file(&found.run)) {
            *container.last_words() = Some(LastWords::new(found.id, log));
        }
        return Ok(Some(container));
    }
    Ok(None)
}

/// What came of a start.
#[derive(Serialize, Deserialize)]
enum Outcome {
    Ready,
    Failed(SharedFailure),
}

/// The right to start it, for one at a time. Dropping it takes the file away and lets the next.
struct Turn {
    path: PathBuf,
    file: File,
}

impl Turn {
    /// Waits until nobody else has it.
    async fn take(engine: &Engine, scope: &Scope) -> Result<Self, Error> {
        let directory = directory(engine);
        let path = directory.join(format!("{:016x}", hash(&scope.key)));
        let failed = |source| Error::State { attempted: "lock", path: path.clone(), source };
        let file = loop {
            match DirBuilder::new().mode(0o700).create(&directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(failed(error)),
                _ => {}
            }
            match File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path) {
                Ok(file) => break file,
                // Somebody has just taken the directory away.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed(error)),
            }
        };
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Self { path, file }),
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Delay::new(PAUSE).await,
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// What became of the start that was waited for.
    fn outcome(&mut self) -> Result<Option<Outcome>, Error> {
        let mut text = Vec::new();
        let read = self.file.read_to_end(&mut text);
        read.map_err(|source| Error::State { attempted: "read", path: self.path.clone(), source })?;
        // Half of one is of a process that was killed.
        Ok(serde_json::from_slice(&text).ok())
    }

    /// Whether the file isn't there any more, and others look for another.
    fn is_over(&self) -> Result<bool, Error> {
        let found = self.file.metadata().map_err(|source| Error::State { attempted: "look at", path: self.path.clone(), source })?;
        Ok(found.nlink() == 0)
    }

    /// Tells those who wait.
    fn tell(&mut self, outcome: &Outcome) {
        let written = self.file.set_len(0).and_then(|()| self.file.write_all(&serde_json::to_vec(outcome).unwrap_or_default()));
        if let Err(error) = written {
            tracing::warn!(%error, "those who wait for a shared container try to start it themselves");
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Unlinked by an earlier one, it may be another's by now.
        if self.is_over().is_ok_and(|over| !over) {
            let _ = fs::remove_file(&self.path);
            let _ = fs::remove_dir(self.path.parent().unwrap_or(Path::new("/")));
        }
    }
}

/// Takes away the files of those that were killed while they started.
pub(crate) fn sweep(engine: &Engine) {
    for path in fs::read_dir(directory(engine)).into_iter().flatten().flatten().map(|entry| entry.path()) {
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            drop(Turn { path, file });
        }
    }
}

fn directory(engine: &Engine) -> PathBuf {
    engine.root().join("shared")
}

/// What tells one description from another. Not all of it: that two are one by mistake is to be found, and closures can't be compared.
fn described(builder: &ContainerBuilder) -> String {
    let said = (&builder.source, &builder.entrypoint, &builder.cmd, &builder.args, &builder.workdir, &builder.user, &builder.mounts);
    let limits = (&builder.memory, builder.cpus, builder.pids, &builder.publish);
    format!("{said:?} {:?} {limits:?}", builder.command.env)
}

/// FNV-1a, which is the same in every process.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Nanoseconds since the machine's start, for all processes alike.
fn now() -> u128 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u128 * 1_000_000_000 + time.tv_nsec as u128
}
