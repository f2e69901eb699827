//! The same names for who has no runtime and wants none: methods that block the thread that calls them.
//!
//! ```no_run
//! # fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use coracle_container::blocking::Container;
//! use std::time::Duration;
//!
//! let database = Container::from_image("postgres:16").env("POSTGRES_PASSWORD", "x").run()?;
//! let out = database.exec(["psql", "-U", "postgres", "-c", "select 1"]).output()?;
//! for line in database.logs().follow()? {
//!     println!("{}", line?.text());
//! }
//! database.stop(Duration::from_secs(10))?;
//! # Ok(())
//! # }
//! ```
//!
//! There is one core, and it belongs to no runtime: what a future of this crate waits for comes from the supervisor, by a thread of the crate's own. So
//! [`wait`] only has to sleep until it is woken, and everything here is that around the method of the same name, where its errors and
//! privileges are told. No runtime is started on the calling thread, and a thread of somebody's runtime, of a single-threaded one too,
//! may call these (it does nothing else meanwhile). What needs a runtime are closures of the caller's own that use one:
//! [`Wait::custom`](crate::Wait::custom).
//!
//! A description is the same in both faces: [`ContainerBuilder::blocking`](crate::ContainerBuilder::blocking) gives a fixture that somebody wrote for the
//! one to the other. Handles are turned by `From`, and lead to the other's by `Deref`: what doesn't wait, as
//! [`id`](crate::Container::id) and [`port`](crate::Container::port), is there once.

use crate::tree::Copied;
use crate::{
    CopyIn, CopyOut, Error, Event, ExecSummary, ExitStatus, Export, FileInfo, ImageSummary, ImagesChecked, LogLine, Output, PathChange,
    Platforms, ProcessSummary, Progress, Scope, Stats, TerminalEnd, Update, Volume, VolumeSummary, Wait,
};
use coracle_spawn::{Health, Signal};
use std::ffi::OsString;
use std::future::{IntoFuture, poll_fn};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Ends are futures: those of the crate's root.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Async;

/// Ends block: those in here.
#[derive(Debug, Clone, Copy, Default)]
#[non_exhaustive]
pub struct Blocking;

/// [`ContainerBuilder`](crate::ContainerBuilder) with ends that block.
pub type ContainerBuilder = crate::ContainerBuilder<Blocking>;
/// [`ExecBuilder`](crate::ExecBuilder) with ends that block.
pub type ExecBuilder = crate::ExecBuilder<Blocking>;
/// [`EngineBuilder`](crate::EngineBuilder) of an [`Engine`] that blocks.
pub type EngineBuilder = crate::EngineBuilder<Blocking>;
/// [`Logs`](crate::Logs) whose lines are an iterator.
pub type Logs = crate::Logs<Blocking>;

/// Runs a future of this crate to its end on this thread, which sleeps meanwhile; for what has no name of its own in here:
/// `wait(container.commit("app:latest").author("Ann"))`.
pub fn wait<F: IntoFuture>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let mut future = pin!(future.into_future());
    let waker = Arc::new(Unpark(std::thread::current())).into();
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Methods that wait for those of the same name, and what their answer is made.
macro_rules! waiting {
    (impl $This:ident {
        $(fn $name:ident $(<$($generic:ident: $bound:path),+>)? ($($argument:ident: $kind:ty),* $(,)?) -> $answer:ty $(= $into:expr)?;)*
    }) => {
        impl $This {
            $(
                #[doc = concat!("[`", stringify!($name), "`](crate::", stringify!($This), "::", stringify!($name), ") of the other face, waited for.")]
                ///
                /// # Errors
                /// As there.
                pub fn $name $(<$($generic: $bound),+>)? (&self, $($argument: $kind),*) -> Result<$answer, Error> {
                    wait(self.inner.$name($($argument),*))$(.map($into))?
                }
            )*
        }
    };
}

/// The same for those that take what they are called on: the ends of a description.
macro_rules! ends {
    (impl $This:ident { $(fn $name:ident($($argument:ident: $kind:ty),*) -> $answer:ty;)* }) => {
        impl $This {
            $(
                #[doc = concat!("[`", stringify!($name), "`](crate::", stringify!($This), "::", stringify!($name), ") of the other face, waited for.")]
                ///
                /// # Errors
                /// As there.
                pub fn $name(self, $($argument: $kind),*) -> Result<$answer, Error> {
                    wait(self.faced::<Async>().$name($($argument),*)).map(Into::into)
                }
            )*
        }
    };
}

/// A handle around that of the same name.
macro_rules! handle {
    ($(#[$attribute:meta])* $name:ident { $($(#[$doc:meta])* $field:ident: $Stream:ident,)* }) => {
        $(#[$attribute])*
        pub struct $name {
            inner: crate::$name,
            $($(#[$doc])* pub $field: Option<$Stream>,)*
        }

        impl From<crate::$name> for $name {
            #[allow(unused_mut, reason = "not every handle has streams")]
            fn from(mut inner: crate::$name) -> Self {
                Self { $($field: inner.$field.take().map($Stream),)* inner }
            }
        }

        impl Deref for $name {
            type Target = crate::$name;

            fn deref(&self) -> &Self::Target {
                &self.inner
            }
        }
    };
}

handle! {
    /// [`Container`](crate::Container), whose methods block. Dropping it ends it likewise.
    #[derive(Debug)]
    #[must_use = "dropping a Container ends it"]
    Container {
        /// The input, if it is a pipe.
        stdin: ContainerStdin,
        /// The output, if it is a pipe.
        stdout: ContainerStdout,
        /// The error output, if it is a pipe.
        stderr: ContainerStderr,
    }
}

handle! {
    /// [`Exec`](crate::Exec), whose methods block. Dropping it ends it likewise.
    #[derive(Debug)]
    #[must_use = "dropping an Exec ends it"]
    Exec {
        /// The input, if it is a pipe.
        stdin: ContainerStdin,
        /// The output, if it is a pipe.
        stdout: ContainerStdout,
        /// The error output, if it is a pipe.
        stderr: ContainerStderr,
    }
}

handle! {
    /// [`Engine`](crate::Engine), whose methods block. Cheap to clone; whatever takes the other takes a borrow of this.
    #[derive(Debug, Clone)]
    Engine {}
}

handle! {
    /// [`Files`](crate::Files), whose methods block.
    #[derive(Debug, Clone)]
    #[must_use = "nothing is read or written before it is asked to"]
    Files {}
}

handle! {
    /// [`Snapshot`](crate::Snapshot), whose forks block.
    #[derive(Debug, Clone)]
    Snapshot {}
}

ends! {
    impl ContainerBuilder {
        fn output() -> Output;
        fn status() -> ExitStatus;
        fn spawn() -> Container;
        fn create() -> Container;
        fn run_detached(name: impl Into<String>) -> Container;
        fn start_detached() -> Container;
        fn run() -> Container;
        fn shared(scope: Scope) -> Shared;
    }
}

ends! {
    impl ExecBuilder {
        fn output() -> Output;
        fn status() -> ExitStatus;
        fn spawn() -> Exec;
    }
}

impl Container {
    /// [`Container::from_image`](crate::Container::from_image), with ends that block.
    pub fn from_image(reference: impl Into<String>) -> ContainerBuilder {
        crate::Container::from_image(reference).faced()
    }

    /// [`Container::from_rootfs`](crate::Container::from_rootfs), with ends that block.
    pub fn from_rootfs(directory: impl Into<PathBuf>) -> ContainerBuilder {
        crate::Container::from_rootfs(directory).faced()
    }

    /// [`Container::from_oci_layout`](crate::Container::from_oci_layout), with ends that block.
    pub fn from_oci_layout(directory: impl Into<PathBuf>) -> ContainerBuilder {
        crate::Container::from_oci_layout(directory).faced()
    }

    /// [`Container::from_snapshot`](crate::Container::from_snapshot), with ends that block.
    pub fn from_snapshot(name: impl Into<String>) -> ContainerBuilder {
        crate::Container::from_snapshot(name).faced()
    }

    /// [`Container::attach`](crate::Container::attach), with methods that block.
    ///
    /// # Errors
    /// As there.
    pub fn attach(name: &str) -> Result<Self, Error> {
        crate::Container::attach(name).map(Into::into)
    }

    /// [`Container::exec`](crate::Container::exec), with ends that block.
    pub fn exec<I: IntoIterator<Item = S>, S: Into<OsString>>(&self, command: I) -> ExecBuilder {
        self.inner.exec(command).faced()
    }

    /// [`Container::logs`](crate::Container::logs), whose lines are an iterator.
    pub fn logs(&self) -> Logs {
        self.inner.logs().faced()
    }

    /// [`Container::fs`](crate::Container::fs), with methods that block.
    pub fn fs(&self) -> Files {
        self.inner.fs().into()
    }

    /// [`Container::connect`](crate::Container::connect), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn connect(&self, port: u16) -> Result<TcpStream, Error> {
        self.inner.connect_blocking(port)
    }

    /// [`Container::connect_unix`](crate::Container::connect_unix), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn connect_unix(&self, path: impl AsRef<Path>) -> Result<UnixStream, Error> {
        self.inner.connect_unix_blocking(path)
    }

    /// [`Container::health_changed`](crate::Container::health_changed), waited for.
    pub fn health_changed(&self, known: Option<&Health>) -> Option<Health> {
        wait(self.inner.health_changed(known))
    }

    /// [`Container::stats_every`](crate::Container::stats_every), as an iterator that ends when the container doesn't run any more.
    pub fn stats_every(&self, interval: Duration) -> impl Iterator<Item = Result<Stats, Error>> + '_ {
        let mut stream = self.inner.stats_every(interval);
        std::iter::from_fn(move || wait(stream.next()).transpose())
    }

    /// [`Container::detach`](crate::Container::detach), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn detach(self) -> Result<String, Error> {
        wait(self.inner.detach())
    }
}

waiting! {
    impl Container {
        fn wait() -> ExitStatus;
        fn signal(signal: Signal) -> ();
        fn kill() -> ();
        fn stop(grace: Duration) -> ExitStatus;
        fn start() -> ();
        fn restart(grace: Duration) -> ();
        fn pause() -> ();
        fn unpause() -> ();
        fn update(update: &Update) -> ();
        fn rename(name: &str) -> ();
        fn settled() -> ();
        fn attach_terminal() -> TerminalEnd;
        fn remove() -> ();
        fn wait_for(what: impl Into<Wait>, timeout: Duration) -> ();
        fn execs() -> Vec<ExecSummary>;
        fn signal_exec(id: u32, signal: Signal) -> ();
        fn stats() -> Stats;
        fn top() -> Vec<ProcessSummary>;
        fn copy_to(what: impl Into<CopyIn>, target: impl AsRef<Path>) -> Copied;
        fn copy_from(what: impl Into<CopyOut>, target: impl AsRef<Path>) -> Copied;
        fn copy_from_tar(what: impl Into<CopyOut>, archive: impl Write + Send + 'static) -> Copied;
        fn diff() -> Vec<PathChange>;
        fn export() -> Export;
        fn export_to(to: impl Write + Send + 'static) -> ();
        fn snapshot(name: impl Into<String>) -> Snapshot = Into::into;
    }
}

/// [`Shared`](crate::Shared), whose methods block.
#[derive(Debug)]
#[must_use = "dropping the last handle ends it"]
pub struct Shared {
    container: Container,
    first: bool,
}

impl From<crate::Shared> for Shared {
    fn from(shared: crate::Shared) -> Self {
        Self { first: shared.first, container: shared.container.into() }
    }
}

impl Shared {
    /// [`Shared::is_first`](crate::Shared::is_first).
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

impl Exec {
    /// [`Exec::detach`](crate::Exec::detach), waited for.
    ///
    /// # Errors
    /// As there.
    pub fn detach(self) -> Result<u32, Error> {
        wait(self.inner.detach())
    }
}

waiting! {
    impl Exec {
        fn attach_terminal() -> TerminalEnd;
        fn wait() -> ExitStatus;
        fn signal(signal: Signal) -> ();
        fn kill() -> ();
        fn stop(grace: Duration) -> ExitStatus;
    }
}

waiting! {
    impl Files {
        fn read(path: impl AsRef<Path>) -> Vec<u8>;
        fn write(path: impl AsRef<Path>, contents: impl Into<Vec<u8>>) -> ();
        fn list(path: impl AsRef<Path>) -> Vec<FileInfo>;
        fn stat(path: impl AsRef<Path>) -> FileInfo;
        fn lstat(path: impl AsRef<Path>) -> FileInfo;
        fn exists(path: impl AsRef<Path>) -> bool;
        fn remove(path: impl AsRef<Path>) -> ();
        fn create_dir_all(path: impl AsRef<Path>) -> ();
    }
}

impl Snapshot {
    /// [`Snapshot::fork`](crate::Snapshot::fork), with ends that block.
    pub fn fork(&self) -> ContainerBuilder {
        self.inner.fork().faced()
    }

    /// [`Snapshot::remove`](crate::Snapshot::remove).
    ///
    /// # Errors
    /// As there.
    pub fn remove(self) -> Result<(), Error> {
        self.inner.remove()
    }
}

impl Engine {
    /// [`Engine::open`](crate::Engine::open), with methods that block.
    ///
    /// # Errors
    /// As there.
    pub fn open() -> Result<Self, Error> {
        Self::builder().open()
    }

    /// [`Engine::builder`](crate::Engine::builder), of one whose methods block.
    pub fn builder() -> EngineBuilder {
        EngineBuilder::default()
    }

    /// [`Engine::attach`](crate::Engine::attach), to a container whose methods block.
    ///
    /// # Errors
    /// As there.
    pub fn attach(&self, name: &str) -> Result<Container, Error> {
        self.inner.attach(name).map(Into::into)
    }

    /// [`Engine::logs`](crate::Engine::logs), whose lines are an iterator.
    ///
    /// # Errors
    /// As there.
    pub fn logs(&self, name: &str) -> Result<Logs, Error> {
        self.inner.logs(name).map(crate::Logs::faced)
    }

    /// [`Engine::snapshot`](crate::Engine::snapshot), whose forks block.
    ///
    /// # Errors
    /// As there.
    pub fn snapshot(&self, name: &str) -> Result<Snapshot, Error> {
        self.inner.snapshot(name).map(Into::into)
    }

    /// [`Engine::events`](crate::Engine::events), as an iterator without an end.
    ///
    /// # Errors
    /// As there.
    pub fn events(&self) -> Result<impl Iterator<Item = Event> + use<>, Error> {
        let mut events = self.inner.events()?;
        Ok(std::iter::from_fn(move || Some(wait(events.next()))))
    }
}

waiting! {
    impl Engine {
        fn pull(reference: &str, on_progress: impl Fn(Progress) + Send + Sync + 'static) -> ImageSummary;
        fn pull_platforms(reference: &str, platforms: Platforms, on_progress: impl Fn(Progress) + Send + Sync + 'static) -> ImageSummary;
        fn check_images(repair: bool) -> ImagesChecked;
        fn create_volume(volume: impl Into<Volume>) -> VolumeSummary;
        fn remove_volume(name: &str) -> ();
        fn prune_volumes() -> Vec<VolumeSummary>;
        fn save_images<N: AsRef<str>>(names: &[N], path: impl Into<PathBuf>) -> ();
        fn save_images_to<N: AsRef<str>>(names: &[N], to: impl Write + Send + 'static, shown: impl Into<String>) -> ();
        fn load_images(path: impl Into<PathBuf>, on_progress: impl Fn(Progress) + Send + Sync + 'static) -> Vec<ImageSummary>;
        fn load_images_from(
            from: impl Read + Send + 'static, shown: impl Into<String>, on_progress: impl Fn(Progress) + Send + Sync + 'static
        ) -> Vec<ImageSummary>;
        fn import_image<C: AsRef<str>>(
            from: impl Read + Send + 'static, shown: impl Into<String>, reference: &str, changes: &[C], message: Option<String>
        ) -> ImageSummary;
    }
}

#[cfg(feature = "registry")]
waiting! {
    impl Engine {
        fn push(image: &str, to: Option<&str>, on_progress: impl Fn(Progress) + Send + Sync + 'static) -> coracle_image::Digest;
        fn push_all_platforms(image: &str, to: Option<&str>, on_progress: impl Fn(Progress) + Send + Sync + 'static) -> coracle_image::Digest;
    }
}

impl EngineBuilder {
    /// [`EngineBuilder::open`](crate::EngineBuilder::open), of one whose methods block.
    ///
    /// # Errors
    /// As there.
    pub fn open(self) -> Result<Engine, Error> {
        self.opened().map(Into::into)
    }
}

impl Logs {
    /// [`Logs::follow`](crate::Logs::follow), as an iterator.
    ///
    /// # Errors
    /// As there.
    pub fn follow(self) -> Result<LogLines, Error> {
        self.following().map(LogLines)
    }
}

/// Lines of a container as they come, each waited for: [`Logs::follow`] gives it.
#[derive(Debug)]
#[must_use = "lines come to who asks"]
pub struct LogLines(crate::LogStream);

impl Iterator for LogLines {
    type Item = Result<LogLine, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        wait(self.0.next()).transpose()
    }
}

/// The input of a container or of a further command: writing waits for whoever reads there. Dropping it is the end of the input.
#[derive(Debug)]
pub struct ContainerStdin(crate::ContainerStdin);

impl Write for ContainerStdin {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        wait(poll_fn(|cx| Pin::new(&mut self.0).poll_write(cx, bytes)))
    }

    fn flush(&mut self) -> io::Result<()> {
        wait(poll_fn(|cx| Pin::new(&mut self.0).poll_flush(cx)))
    }
}

macro_rules! output {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name(crate::$name);

        impl Read for $name {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let mut into = ReadBuf::new(into);
                wait(poll_fn(|cx| Pin::new(&mut self.0).poll_read(cx, &mut into)))?;
                Ok(into.filled().len())
            }
        }
    };
}

output!(
    /// The output of a container or of a further command: reading waits for it.
    ContainerStdout
);
output!(
    /// The error output, likewise.
    ContainerStderr
);

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// What stands between two braces that close on the same column as the line begins.
    fn bodies<'a>(source: &'a str, head: &str) -> impl Iterator<Item = &'a str> {
        let at = source.match_indices(head).map(|(at, _)| at).collect::<Vec<_>>().into_iter();
        at.map(|at| source[at..].split("\n}").next().unwrap_or_default())
    }

    fn names(body: &str, before: &str) -> Vec<String> {
        let found = body.match_indices(before).map(|(at, _)| &body[at + before.len()..]);
        found.map(|rest| rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()).collect()
    }

    #[test]
    fn whatever_waits_has_its_twin_here() {
        let src = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let sources = std::fs::read_dir(src).unwrap().map(|entry| entry.unwrap().path()).filter(|path| !path.ends_with("blocking.rs"));
        let sources: Vec<String> = sources.map(|path| std::fs::read_to_string(path).unwrap()).collect();
        let here = include_str!("blocking.rs");
        let mut missing = BTreeSet::new();
        let mut found = 0;
        for kind in ["Container", "ContainerBuilder", "Exec", "ExecBuilder", "Files", "Engine", "Snapshot"] {
            let head = format!("impl {kind} {{");
            let twins: BTreeSet<String> = bodies(here, &head).flat_map(|body| names(body, "fn ")).collect();
            for source in &sources {
                for name in bodies(source, &format!("\n{head}")).flat_map(|body| names(body, "pub async fn ")) {
                    found += 1;
                    if !twins.contains(&name) {
                        missing.insert(format!("{kind}::{name}"));
                    }
                }
            }
        }
        assert!(found > 50, "the sources weren't read: {found}");
        assert!(missing.is_empty(), "coracle::blocking lacks {missing:?}");
    }
}
