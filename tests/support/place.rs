//! A place to run containers in: an engine in a directory of its own, a root of busybox, and a look at what stayed.

use super::leftovers::Leftovers;
use super::{Directory, directory, rootfs};
use coracle::{Container, ContainerBuilder, Engine, Output};
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// A directory with an engine and a root in it.
pub(crate) struct Place {
    engine: Engine,
    watch: Leftovers,
    // Last: it is removed when nothing uses it any more.
    directory: Directory,
}

impl Drop for Place {
    /// Waits for those who are still taking back what was dropped, so that the directory can go.
    fn drop(&mut self) {
        let runs = self.engine.root().join("run");
        // Those that stay are nobody's haste.
        let empty = || std::fs::read_dir(&runs).map_or(true, |entries| entries.flatten().all(|entry| entry.path().join("kept").exists()));
        within(Duration::from_secs(if std::thread::panicking() { 3 } else { 30 }), empty);
    }
}

impl Place {
    /// With a root of busybox: the test began with `need!(Busybox, UserNamespaces)`.
    pub(crate) fn new() -> Self {
        let directory = directory();
        let root = directory.path().join("rootfs");
        std::fs::create_dir(&root).expect("a directory can be made");
        rootfs::busybox(&root);
        Self::in_directory(directory)
    }

    /// Without a root, for images.
    pub(crate) fn empty() -> Self {
        Self::in_directory(directory())
    }

    fn in_directory(directory: Directory) -> Self {
        let mut engine = Engine::builder().root(directory.path().join("engine"));
        // On cgroup v2 alone our own processes stand in the way of controllers; the cgroup that we were given has none of its own.
        if let (Some(given), false) = (std::env::var_os("CORACLE_CGROUP"), Path::new("/sys/fs/cgroup/unified").exists()) {
            engine = engine.cgroup_parent(given);
        }
        let engine = engine.open().expect("an engine opens");
        let watch = Leftovers::watch(directory.path());
        Self { engine, watch, directory }
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The root of busybox.
    pub(crate) fn rootfs(&self) -> PathBuf {
        self.path().join("rootfs")
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }

    /// A container over the root, without a command yet.
    pub(crate) fn container(&self) -> ContainerBuilder {
        Container::from_rootfs(self.rootfs()).engine(&self.engine)
    }

    /// A container that runs a line of shell. Its processes have the mark by which [`Leftovers`] knows them in their environment:
    /// nothing else in there names a path of the host.
    pub(crate) fn sh(&self, line: &str) -> ContainerBuilder {
        self.container().cmd(["sh", "-c", line]).env("MARK", self.path())
    }

    /// What a line of shell prints; it must end well and say nothing to standard error.
    #[track_caller]
    pub(crate) fn says(&self, line: &str) -> String {
        said(self.sh(line))
    }

    /// Looks anew: what is here by now may stay.
    pub(crate) fn look_again(&mut self) {
        self.watch = Leftovers::watch(self.directory.path());
    }

    /// What is new and stays.
    pub(crate) fn left(&self, patience: Duration) -> Vec<String> {
        self.watch.after(patience)
    }

    /// What is left of one container: its cgroups, and whatever processes, mounts and files of this place are new.
    pub(crate) fn left_of(&self, id: &str, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        loop {
            let mut left = self.watch.after(Duration::ZERO);
            left.retain(|what| !what.starts_with("link ") && (!what.starts_with("cgroup ") || what.contains(id)));
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// What is left now of processes, mounts and files. Cgroups aren't looked at: those of tests beside this one look the same.
    pub(crate) fn left_now(&self) -> Vec<String> {
        let of_others = |what: &String| what.starts_with("cgroup ") || what.starts_with("link ");
        self.watch.after(Duration::ZERO).into_iter().filter(|what| !of_others(what)).collect()
    }

    /// Fails the test where anything of any container stays.
    #[track_caller]
    pub(crate) fn assert_clean(&self) {
        self.watch.assert_none();
    }
}

/// What a container prints; it must end well and say nothing to standard error.
#[track_caller]
pub(crate) fn said(builder: ContainerBuilder) -> String {
    let out = ran(builder);
    assert!(out.status.success() && out.stderr.is_empty(), "{}: {}{}", out.status, out.stdout_lossy(), out.stderr_lossy());
    out.stdout_lossy().into_owned()
}

/// A container's whole life; only that it was started and removed is sure.
#[track_caller]
pub(crate) fn ran(builder: ContainerBuilder) -> Output {
    match block_on(builder.output()) {
        Ok(out) => out,
        Err(error) => panic!("{error}\n  fix: {:?}", error.remedy()),
    }
}

/// The error that a container's description or start ends in: its text, its remedy, and the exit code that docker-run(1) has for it.
#[track_caller]
pub(crate) fn fails(builder: ContainerBuilder) -> (String, Option<String>, u8) {
    match block_on(builder.output()) {
        Ok(out) => panic!("it ran: {}: {}{}", out.status, out.stdout_lossy(), out.stderr_lossy()),
        Err(error) => (error.to_string(), error.remedy(), error.exit_code()),
    }
}

/// Runs a future to its end on this thread, without any runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let waker = waker();
    let mut context = Context::from_waker(&waker);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(value) => return value,
            // A future that nobody wakes would hang the whole run; a minute is for machines under load.
            Poll::Pending => std::thread::park_timeout(Duration::from_secs(60)),
        }
    }
}

/// Drops what `begin` makes after its first poll, after its second, and so on, until it comes to its end by itself, which is the answer.
/// It is polled as an executor does it: when it asks to be.
#[track_caller]
pub(crate) fn dropped_after_each_poll<F: Future>(begin: impl Fn() -> F) -> F::Output {
    let waker = waker();
    for polls in 1..10_000 {
        let mut future = Box::pin(begin());
        for _ in 0..polls {
            if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return output;
            }
            std::thread::park_timeout(Duration::from_secs(60));
        }
    }
    panic!("it comes to no end");
}

/// Wakes this thread.
pub(crate) fn waker() -> Waker {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    Waker::from(Arc::new(Unpark(std::thread::current())))
}

/// Waits until something is so; whether it became so.
pub(crate) fn within(patience: Duration, so: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !so() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    true
}
