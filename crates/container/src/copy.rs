//! Files into and out of a container: docker-cp(1) as a library, and before the start.

use crate::background;
use crate::container::Container;
use crate::error::Error;
use crate::quiet::Stopped;
use crate::tree::{self, Copied, Ending, Progress, Rules, Side};
use coracle_spawn::{FileStat, How, Interior, Opener};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Cursor, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// What is copied into a container, and as whose. [`Container::copy_to`], [`ContainerBuilder::copy_in`](crate::ContainerBuilder::copy_in).
#[derive(Clone)]
#[must_use = "it does nothing until it is copied"]
pub struct CopyIn {
    source: Source,
    owner: Option<(u32, u32)>,
    mode: Option<u32>,
    archive: bool,
    follow: bool,
    parents: bool,
    max_bytes: u64,
}

#[derive(Clone)]
enum Source {
    Bytes(Arc<[u8]>),
    Path(PathBuf),
    Tar(Arc<Mutex<Option<Box<dyn Read + Send>>>>),
}

impl CopyIn {
    fn new(source: Source) -> Self {
        Self { source, owner: None, mode: None, archive: false, follow: false, parents: true, max_bytes: u64::MAX }
    }

    /// One file with these contents; its mode is 0644 if none is said.
    pub fn bytes(contents: impl Into<Vec<u8>>) -> Self {
        Self::new(Source::Bytes(contents.into().into()))
    }

    /// A file or directory of this machine. As docker-cp(1) takes it: `dir` is copied under its name into a target that is a directory,
    /// `dir/.` means what is in it.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::new(Source::Path(path.into()))
    }

    /// What a tar archive holds, into a target that is a directory. It is read as it comes, once: a copy of this value has nothing left.
    pub fn tar(archive: impl Read + Send + 'static) -> Self {
        Self::new(Source::Tar(Arc::new(Mutex::new(Some(Box::new(archive))))))
    }

    /// The owner and group of all of it, by number, as the container counts; root if nothing is said.
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        self.owner = Some((uid, gid));
        self
    }

    /// The permissions of its regular files, instead of the source's.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Whether owners are the source's, by number: docker-cp(1) `--archive`.
    pub fn archive(mut self, yes: bool) -> Self {
        self.archive = yes;
        self
    }

    /// Whether a source that is a symlink is what that leads to: docker-cp(1) `--follow-link`. Symlinks below it stay symlinks.
    pub fn follow_link(mut self, yes: bool) -> Self {
        self.follow = yes;
        self
    }

    /// Whether missing directories above the target are made, which they are if nothing is said. docker-cp(1) makes none.
    pub fn parents(mut self, yes: bool) -> Self {
        self.parents = yes;
        self
    }

    /// The most bytes, all files together; more is an error.
    pub fn max_bytes(mut self, most: u64) -> Self {
        self.max_bytes = most;
        self
    }

    fn rules(&self) -> Rules {
        Rules { owner: self.owner, mode: self.mode, archive: self.archive, max_bytes: self.max_bytes }
    }

    /// What is wrong with it by itself.
    pub(crate) fn problem(&self, target: &Path) -> Option<String> {
        match &self.source {
            _ if !target.is_absolute() => Some(format!("{} can't be where a file is copied to: it isn't absolute", target.display())),
            Source::Path(path) => path.symlink_metadata().err().map(|error| format!("can't copy {}: {error}", path.display())),
            Source::Bytes(_) | Source::Tar(_) => None,
        }
    }
}

impl fmt::Debug for CopyIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            // Contents are often secrets.
            Source::Bytes(bytes) => format!("{} bytes", bytes.len()),
            Source::Path(path) => path.display().to_string(),
            Source::Tar(_) => "an archive".into(),
        };
        f.debug_struct("CopyIn").field("source", &source).field("owner", &self.owner).field("mode", &self.mode).finish_non_exhaustive()
    }
}

impl From<Vec<u8>> for CopyIn {
    fn from(contents: Vec<u8>) -> Self {
        Self::bytes(contents)
    }
}

impl From<&[u8]> for CopyIn {
    fn from(contents: &[u8]) -> Self {
        Self::bytes(contents)
    }
}

impl<const N: usize> From<&[u8; N]> for CopyIn {
    fn from(contents: &[u8; N]) -> Self {
        Self::bytes(contents.as_slice())
    }
}

impl From<PathBuf> for CopyIn {
    fn from(path: PathBuf) -> Self {
        Self::path(path)
    }
}

impl From<&Path> for CopyIn {
    fn from(path: &Path) -> Self {
        Self::path(path)
    }
}

/// What is copied out of a container. [`Container::copy_from`].
#[derive(Debug, Clone)]
#[must_use = "it does nothing until it is copied"]
pub struct CopyOut {
    path: PathBuf,
    archive: bool,
    follow: bool,
    max_bytes: u64,
}

impl CopyOut {
    /// A file or directory of the container, as docker-cp(1) takes it: `dir/.` means what is in it.
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), archive: false, follow: false, max_bytes: u64::MAX }
    }

    /// Whether owners are the container's, by number, and set-id bits are kept: docker-cp(1) `--archive`. Needs root for owners that aren't
    /// the caller. Without, all is the caller's.
    pub fn archive(mut self, yes: bool) -> Self {
        self.archive = yes;
        self
    }

    /// Whether a source that is a symlink is what that leads to: docker-cp(1) `--follow-link`.
    pub fn follow_link(mut self, yes: bool) -> Self {
        self.follow = yes;
        self
    }

    /// The most bytes, all files together, their holes counted; more is an error.
    pub fn max_bytes(mut self, most: u64) -> Self {
        self.max_bytes = most;
        self
    }

    fn rules(&self) -> Rules {
        Rules { owner: None, mode: None, archive: self.archive, max_bytes: self.max_bytes }
    }
}

impl<P: Into<PathBuf>> From<P> for CopyOut {
    fn from(path: P) -> Self {
        Self::path(path)
    }
}

impl Container {
    /// Copies into the container: `copy_to(b"…", "/etc/app.conf")`, `copy_to(CopyIn::path("fixtures/.").owner(70, 70), "/docker-entrypoint")`.
    ///
    /// As with docker-cp(1), what is copied gets the target's name, or lies in it if that is a directory; what has the name already is
    /// replaced; a target that ends in a slash has to be a directory. All belongs to the container's root if nothing else is said. It needs no
    /// program in the container. Files go where the container sees them, mounts included. No symlink in there leads out, also if it is made
    /// while this copies; devices, FIFOs and sockets are passed over.
    ///
    /// Dropping the future stops the copy where it is.
    ///
    /// # Errors
    /// [`Error::Copy`]; [`Error::Start`] where the container has ended.
    pub async fn copy_to(&self, what: impl Into<CopyIn>, target: impl AsRef<Path>) -> Result<Copied, Error> {
        let (what, target) = (what.into(), target.as_ref().to_owned());
        let attempted = format!("copy to {} in the container", target.display());
        with_opener(self.reach(), attempted, move |opener, cancelled| copy_in(opener, &what, target.as_os_str(), cancelled)).await
    }

    /// Copies out of the container to a path of this machine, as docker-cp(1) does.
    ///
    /// What comes is written below the target and nowhere else, whatever names, symlinks and devices the container makes of it meanwhile. A
    /// symlink is copied as a symlink. Set-id bits are dropped, unless it is an [archive](CopyOut::archive).
    ///
    /// ```no_run
    /// # async fn f(container: coracle_container::Container) -> Result<(), coracle_container::Error> {
    /// use coracle_container::CopyOut;
    /// container.copy_from(CopyOut::path("/work/report/.").max_bytes(64 << 20), "report").await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Dropping the future stops the copy where it is.
    ///
    /// # Errors
    /// As [`copy_to`](Self::copy_to).
    pub async fn copy_from(&self, what: impl Into<CopyOut>, target: impl AsRef<Path>) -> Result<Copied, Error> {
        let (what, target) = (what.into(), target.as_ref().to_owned());
        let attempted = format!("copy {} out of the container to {}", what.path.display(), target.display());
        with_opener(self.reach(), attempted, move |opener, cancelled| copy_out(opener, &what, target.as_os_str(), cancelled)).await
    }

    /// Copies out of the container as a tar archive, written as it is read. Owners are the container's.
    ///
    /// # Errors
    /// As [`copy_to`](Self::copy_to).
    pub async fn copy_from_tar(&self, what: impl Into<CopyOut>, archive: impl Write + Send + 'static) -> Result<Copied, Error> {
        let what = what.into();
        let attempted = format!("copy {} out of the container", what.path.display());
        with_opener(self.reach(), attempted, move |opener, cancelled| {
            crate::tar_stream::write(opener, what.path.as_os_str(), what.follow, archive, Progress::new(what.rules(), cancelled))
        })
        .await
    }
}

/// Copies what is in a directory of a container's root into another directory there, with owners and permissions, its own too; whether there
/// was one.
pub(crate) async fn between_two(interior: Interior, source: PathBuf, target: PathBuf) -> Result<bool, Error> {
    let attempted = format!("copy what the image has at {} into a volume", source.display());
    let mut other = interior.opener()?;
    opened(interior, attempted, move |opener, cancelled| {
        let rules = Rules { owner: None, mode: None, archive: true, max_bytes: u64::MAX };
        let mut progress = Progress::new(rules, cancelled);
        let (mut from, mut to) = (Side::Inside(&mut other), Side::Inside(opener));
        let entry = match from.at_path(source.as_os_str(), true) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(false),
            other => other?,
        };
        let into = to.at_path(target.as_os_str(), false)?;
        let into = to.directory(&into)?;
        tree::copy_contents(&mut from, &entry, &mut to, into.as_fd(), &mut progress)?;
        to.finish_directory(&into, &entry.stat, &mut progress)?;
        Ok(true)
    })
    .await
}

/// Puts files in before the command is executed.
pub(crate) async fn before_the_start(interior: Interior, files: Vec<(CopyIn, PathBuf)>) -> Result<(), Error> {
    for (what, target) in files {
        let attempted = format!("copy to {} in the container", target.display());
        opened(interior.clone(), attempted, move |opener, cancelled| copy_in(opener, &what, target.as_os_str(), cancelled)).await?;
    }
    Ok(())
}

/// Ends a thread's work when nobody waits for it any more.
struct Cancel<F: Fn()>(Arc<AtomicBool>, F);

impl<F: Fn()> Drop for Cancel<F> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        (self.1)();
    }
}

/// How the files of a container are reached.
#[derive(Debug, Clone)]
pub(crate) enum Reach {
    /// By its supervisor.
    Running(Interior),
    /// It stays, and its files are mounted for a moment.
    Stopped(Stopped),
    /// It has gone.
    Gone,
}

impl Container {
    fn reach(&self) -> Reach {
        let runs = self.current_or_attached().filter(|child| !self.kept || matches!(child.try_wait(), Ok(None)));
        match runs {
            Some(child) => Reach::Running(child.interior()),
            None if self.kept => Reach::Stopped(Stopped { engine: self.engine.clone(), run: self.run.clone() }),
            None => Reach::Gone,
        }
    }
}

/// Works with an opener on a thread of its own.
pub(crate) async fn with_opener<T: Send + 'static>(
    reach: Reach,
    attempted: String,
    work: impl FnOnce(&mut Opener, Arc<AtomicBool>) -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    match reach {
        Reach::Running(interior) => opened(interior, attempted, work).await,
        Reach::Stopped(stopped) => {
            let quiet = stopped.mount().await?;
            let done = opened(quiet.interior(), attempted, work).await;
            quiet.end().await?;
            done
        }
        Reach::Gone => Err(Error::Start(coracle_spawn::Error::Ended)),
    }
}

async fn opened<T: Send + 'static>(
    interior: Interior,
    attempted: String,
    work: impl FnOnce(&mut Opener, Arc<AtomicBool>) -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let failed = |attempted: &str| {
        let attempted = attempted.to_owned();
        move |source: io::Error| Error::Copy { attempted, source }
    };
    let mut opener = interior.opener()?;
    let cancelled = Arc::new(AtomicBool::new(false));
    let cancel = Cancel(cancelled.clone(), opener.canceller().map_err(failed(&attempted))?);
    let work = background::run("coracle-copy", move || work(&mut opener, cancelled)).map_err(failed(&attempted))?;
    let done = work.await;
    drop(cancel);
    match done {
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Error::Start(coracle_spawn::Error::Ended)),
        done => done.map_err(failed(&attempted)),
    }
}

/// Where something is to go: a directory, and the name in it; or into the directory itself, if there is no name.
enum Target {
    /// Under this name, which nothing has, or something that is no directory.
    Name(OwnedFd, OsString),
    /// What is there is a directory.
    Directory(OwnedFd),
    /// A symlink there leads to a file, which is written anew.
    Through(tree::Entry),
}

fn find(side: &mut Side<'_>, path: &OsStr, parents: bool) -> io::Result<Target> {
    let (front, how) = tree::ending(path);
    let made = |side: &mut Side<'_>, path: &OsStr| match side {
        Side::Inside(opener) if parents => make_directories(opener, path),
        side => {
            let entry = side.at_path(path, true)?;
            side.directory(&entry)
        }
    };
    match side.at_path(front, true) {
        Ok(entry) if entry.is_directory() => Ok(Target::Directory(side.directory(&entry)?)),
        Ok(_) if how != Ending::Plain => Err(io::ErrorKind::NotADirectory.into()),
        Ok(entry) => {
            if side.at_path(front, false)?.is_symlink() {
                return Ok(Target::Through(entry));
            }
            let (parent, name) = tree::parent_and_name(front).ok_or(io::ErrorKind::InvalidInput)?;
            Ok(Target::Name(made(side, parent)?, name.to_owned()))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        // A directory that isn't there isn't made of a wish alone.
        Err(_) if how != Ending::Plain && parents => Ok(Target::Directory(made(side, front)?)),
        Err(error) if how != Ending::Plain => Err(error),
        Err(_) => {
            let (parent, name) = tree::parent_and_name(front).ok_or(io::ErrorKind::InvalidInput)?;
            Ok(Target::Name(made(side, parent)?, name.to_owned()))
        }
    }
}

/// The directory at a path, made with those above it where there is none.
pub(crate) fn make_directories(opener: &mut Opener, path: &OsStr) -> io::Result<OwnedFd> {
    let (mut at, _) = opener.at_path(OsStr::new("/"), How::DIRECTORY)?;
    let mut so_far = PathBuf::from("/");
    for component in Path::new(path).components() {
        so_far.push(component);
        let Component::Normal(name) = component else { continue };
        at = match opener.at_path(so_far.as_os_str(), How::DIRECTORY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match opener.make_directory(&at, name, 0o755) {
                    Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                    _ => {}
                }
                opener.named(&at, name, How::DIRECTORY_NOFOLLOW, 0)?.0
            }
            found => found?.0,
        };
    }
    Ok(at)
}

/// Of a regular file that was made of nothing.
fn like_new(mode: u32) -> FileStat {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    FileStat::regular(mode, i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos())
}

fn copy_in(opener: &mut Opener, what: &CopyIn, target: &OsStr, cancelled: Arc<AtomicBool>) -> io::Result<Copied> {
    let mut progress = Progress::new(what.rules(), cancelled);
    let mut inside = Side::Inside(opener);
    match &what.source {
        Source::Bytes(bytes) => {
            let like = like_new(0o644);
            match find(&mut inside, target, what.parents)? {
                Target::Directory(_) => return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is a directory: name the file in it")),
                Target::Name(directory, name) => inside.write_file(directory.as_fd(), &name, Cursor::new(bytes), &like, &mut progress)?,
                Target::Through(entry) => {
                    let file = inside.truncate(&entry)?;
                    progress.spend(bytes.len() as u64)?;
                    (&file).write_all(bytes)?;
                    inside.finish_file(&file, &like, &mut progress)?;
                }
            }
        }
        Source::Path(path) => between(&mut Side::Here, path.as_os_str(), what.follow, &mut inside, target, what.parents, &mut progress)?,
        Source::Tar(archive) => {
            let archive = archive.lock().unwrap_or_else(|e| e.into_inner()).take();
            let archive = archive.ok_or_else(|| io::Error::other("the archive was read already"))?;
            let Target::Directory(directory) = find(&mut inside, target, what.parents && tree::ending(target).1 != Ending::Plain)? else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            crate::tar_stream::read(archive, &mut inside, &directory, &mut progress)?;
        }
    }
    Ok(progress.copied)
}

fn copy_out(opener: &mut Opener, what: &CopyOut, target: &OsStr, cancelled: Arc<AtomicBool>) -> io::Result<Copied> {
    let mut progress = Progress::new(what.rules(), cancelled);
    between(&mut Side::Inside(opener), what.path.as_os_str(), what.follow, &mut Side::Here, target, false, &mut progress)?;
    Ok(progress.copied)
}

/// docker-cp(1) from one side to the other.
fn between(
    from: &mut Side<'_>,
    source: &OsStr,
    follow: bool,
    to: &mut Side<'_>,
    target: &OsStr,
    parents: bool,
    progress: &mut Progress,
) -> io::Result<()> {
    let (front, how) = tree::ending(source);
    let entry = from.at_path(front, follow || how != Ending::Plain)?;
    if !entry.is_directory() && how != Ending::Plain {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    if !entry.is_directory() && !entry.is_file() && !entry.is_symlink() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a device, a FIFO or a socket"));
    }
    match find(to, target, parents)? {
        Target::Directory(directory) if entry.is_directory() && how == Ending::Contents => {
            tree::copy_contents(from, &entry, to, directory.as_fd(), progress)
        }
        Target::Directory(directory) => match tree::parent_and_name(front) {
            Some((_, name)) => tree::copy(from, &entry, to, directory.as_fd(), name, progress),
            // `/`, `.` and `..` have no name to copy them under.
            None => tree::copy_contents(from, &entry, to, directory.as_fd(), progress),
        },
        Target::Name(directory, name) => {
            if entry.is_directory() && to.named(directory.as_fd(), &name).is_ok() {
                return Err(io::Error::new(io::ErrorKind::NotADirectory, "a directory can't replace a file"));
            }
            tree::copy(from, &entry, to, directory.as_fd(), &name, progress)
        }
        Target::Through(_) if entry.is_directory() => Err(io::Error::new(io::ErrorKind::NotADirectory, "a directory can't replace a file")),
        Target::Through(into) => {
            let (source, stat) = from.read(&entry)?;
            let target = to.truncate(&into)?;
            tree::pour(source, &target, stat.size, progress)?;
            to.finish_file(&target, &stat, progress)
        }
    }
}

/// A file in a container, as [`Files::list`] and [`Files::stat`] tell of it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FileInfo {
    /// Its name.
    pub name: OsString,
    /// What it is.
    pub kind: FileKind,
    /// Permissions, set-id bits and the sticky bit.
    pub mode: u32,
    /// The owner, as the container counts.
    pub uid: u32,
    /// The group, likewise.
    pub gid: u32,
    /// Bytes.
    pub size: u64,
    /// When its contents were last changed.
    pub modified: SystemTime,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A device, a FIFO or a socket.
    Special,
}

impl FileInfo {
    fn new(name: &OsStr, stat: &FileStat) -> Self {
        let kind = match stat.mode & 0o170000 {
            0o100000 => FileKind::File,
            0o040000 => FileKind::Directory,
            0o120000 => FileKind::Symlink,
            _ => FileKind::Special,
        };
        use std::time::Duration;
        let whole = Duration::from_secs(stat.seconds.unsigned_abs());
        let seconds = if stat.seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
        let modified = seconds.and_then(|at| at.checked_add(Duration::from_nanos(stat.nanoseconds.into()))).unwrap_or(UNIX_EPOCH);
        Self { name: name.to_owned(), kind, mode: stat.mode & 0o7777, uid: stat.uid, gid: stat.gid, size: stat.size, modified }
    }
}

/// The files of a container that runs, or that stays and doesn't run: [`Container::fs`]. For small things; [`Container::copy_to`] and [`Container::copy_from`] are for the rest.
///
/// Paths are looked up in the container, as its root; no symlink leads out. Devices, FIFOs and sockets aren't opened. Every method is an error
/// of the kind [`Error::Copy`], or [`Error::Start`] where the container has ended.
#[derive(Debug, Clone)]
#[must_use]
pub struct Files {
    reach: Reach,
}

/// The most that [`Files::read`] reads.
const MOST_READ: u64 = 64 << 20;

impl Container {
    /// The files of this container.
    ///
    /// ```no_run
    /// # async fn f(container: coracle_container::Container) -> Result<(), coracle_container::Error> {
    /// container.fs().write("/tmp/ready", b"yes").await?;
    /// assert_eq!(container.fs().read("/tmp/ready").await?, b"yes");
    /// # Ok(())
    /// # }
    /// ```
    pub fn fs(&self) -> Files {
        Files::new(self.reach())
    }
}

impl Files {
    pub(crate) fn new(reach: Reach) -> Self {
        Self { reach }
    }

    async fn with<T: Send + 'static>(
        &self,
        verb: &str,
        path: &Path,
        work: impl FnOnce(&mut Opener, &OsStr) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        let path = path.to_owned();
        let attempted = format!("{verb} {} in the container", path.display());
        with_opener(self.reach.clone(), attempted, move |opener, _| work(opener, path.as_os_str())).await
    }

    /// What a file holds; 64 MiB at most.
    ///
    /// # Errors
    /// As said above.
    pub async fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, Error> {
        let read = |opener: &mut Opener, path: &OsStr| {
            let (file, _) = opener.at_path(path, How::READ)?;
            let mut bytes = Vec::new();
            std::fs::File::from(file).take(MOST_READ + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MOST_READ {
                return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more than 64 MiB: copy it"));
            }
            Ok(bytes)
        };
        self.with("read", path.as_ref(), read).await
    }

    /// Writes a file anew; one that isn't there is made, with mode 0644, root's.
    ///
    /// # Errors
    /// As said above.
    pub async fn write(&self, path: impl AsRef<Path>, contents: impl Into<Vec<u8>>) -> Result<(), Error> {
        let contents = contents.into();
        let write = move |opener: &mut Opener, path: &OsStr| {
            for _ in 0..16 {
                match opener.at_path(path, How::NAMED) {
                    Ok((found, _)) => {
                        tree::not_the_kernels(&found)?;
                        let (file, _) = opener.again(&found, How::TRUNCATE)?;
                        return std::fs::File::from(file).write_all(&contents);
                    }
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Err(_) => {}
                }
                let (parent, name) = tree::parent_and_name(path).ok_or(io::ErrorKind::InvalidInput)?;
                let (directory, _) = opener.at_path(parent, How::DIRECTORY)?;
                match opener.named(&directory, name, How::NEW, 0o644) {
                    Ok((file, _)) => return std::fs::File::from(file).write_all(&contents),
                    // Somebody made it meanwhile, or it is a symlink that leads nowhere.
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            Err(io::ErrorKind::AlreadyExists.into())
        };
        self.with("write", path.as_ref(), write).await
    }

    /// What is in a directory, by name.
    ///
    /// # Errors
    /// As said above.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FileInfo>, Error> {
        let list = |opener: &mut Opener, path: &OsStr| {
            let (directory, _) = opener.at_path(path, How::DIRECTORY)?;
            let mut all = Vec::new();
            tree::for_each_name(&directory, |name| {
                match opener.named(&directory, name, How::NAMED_NOFOLLOW, 0) {
                    Ok((_, stat)) => all.push(FileInfo::new(name, &stat)),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    Err(error) => return Err(error),
                }
                Ok(())
            })?;
            all.sort_by(|a: &FileInfo, b| a.name.cmp(&b.name));
            Ok(all)
        };
        self.with("list", path.as_ref(), list).await
    }

    /// What a file is. Of a symlink: what that leads to.
    ///
    /// # Errors
    /// As said above.
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FileInfo, Error> {
        self.look("look at", path.as_ref(), How::NAMED).await
    }

    /// What a file is, itself.
    ///
    /// # Errors
    /// As said above.
    pub async fn lstat(&self, path: impl AsRef<Path>) -> Result<FileInfo, Error> {
        self.look("look at", path.as_ref(), How::NAMED_NOFOLLOW).await
    }

    async fn look(&self, verb: &str, path: &Path, how: How) -> Result<FileInfo, Error> {
        let look = move |opener: &mut Opener, path: &OsStr| {
            let (_, stat) = opener.at_path(path, how)?;
            Ok(FileInfo::new(Path::new(path).file_name().unwrap_or(OsStr::new("/")), &stat))
        };
        self.with(verb, path, look).await
    }

    /// Whether there is something at a path, by whatever symlinks.
    ///
    /// # Errors
    /// As said above, where that can't be told.
    pub async fn exists(&self, path: impl AsRef<Path>) -> Result<bool, Error> {
        let exists = |opener: &mut Opener, path: &OsStr| match opener.at_path(path, How::NAMED) {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(false),
            Err(error) => Err(error),
        };
        self.with("look for", path.as_ref(), exists).await
    }

    /// Removes a file, a symlink, or a directory with all that is in it. What isn't there is no error.
    ///
    /// # Errors
    /// As said above.
    pub async fn remove(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        let remove = |opener: &mut Opener, path: &OsStr| {
            let (front, _) = tree::ending(path);
            let (parent, name) = tree::parent_and_name(front).ok_or(io::ErrorKind::InvalidInput)?;
            match opener.at_path(parent, How::DIRECTORY) {
                Ok((directory, _)) => tree::remove_all(&mut Side::Inside(opener), directory.as_fd(), name),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(error),
            }
        };
        self.with("remove", path.as_ref(), remove).await
    }

    /// Makes a directory and those above it that aren't there, with mode 0755, root's.
    ///
    /// # Errors
    /// As said above.
    pub async fn create_dir_all(&self, path: impl AsRef<Path>) -> Result<(), Error> {
        self.with("make", path.as_ref(), |opener, path| make_directories(opener, path).map(|_| ())).await
    }
}

/// Whether a name could be one in a directory.
pub(crate) fn is_a_name(name: &OsStr) -> bool {
    !matches!(name.as_bytes(), b"" | b"." | b"..") && !name.as_bytes().contains(&b'/')
}
