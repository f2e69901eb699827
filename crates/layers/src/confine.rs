//! The walls of a layer: every name that an archive gives is resolved inside the layer's own directory, or refused.
//!
//! The directory is private (0700) and starts empty, so we know each directory in it: [`Tree`] keeps them by their real path, which
//! has no symbolic link in it. A parent that is a symbolic link of this layer is followed as `chroot(2)` would, in here; the real path
//! that comes out is opened by `openat2(2)` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, so that the kernel holds the wall too should
//! this file be wrong. Nothing is ever done by a path that the kernel resolves from `/`.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::limits::Limits;
use crate::tar::Timestamp;

/// Open directories that are kept for the next entries. Sorted archives find nearly nine of ten parents here.
const OPEN_DIRECTORIES: usize = 64;

/// Links in a row that are followed before it's called a loop, as in the kernel.
const MAX_LINKS: usize = 40;

/// Why a name isn't taken.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The archive is at fault.
    Malformed(&'static str),
    /// The system call that failed, and how.
    Failed(&'static str, Errno),
}

impl From<&'static str> for Refusal {
    fn from(what: &'static str) -> Refusal {
        Refusal::Malformed(what)
    }
}

pub(crate) fn failed(attempt: &'static str) -> impl Fn(Errno) -> Refusal {
    move |errno| Refusal::Failed(attempt, errno)
}

/// The components of a path in an archive, relative to the layer's root: a leading slash means that root, `.` and double slashes mean
/// nothing, `..` is refused.
pub(crate) fn components<'a>(path: &'a [u8], limits: &Limits) -> Result<Vec<&'a [u8]>, Refusal> {
    if path.len() > limits.path_bytes {
        return Err("its path is too long".into());
    }
    if path.contains(&0) {
        return Err("its path has a NUL".into());
    }
    let mut components = Vec::new();
    for name in path.split(|byte| *byte == b'/') {
        match name {
            b"" | b"." => {}
            b".." => return Err("its path has `..`, which no layer needs".into()),
            name if name.len() > 255 => {
                return Err("its path has a name of more than 255 bytes".into());
            }
            name => components.push(name),
        }
    }
    if components.len() > limits.depth {
        return Err("its path is too deep".into());
    }
    Ok(components)
}

/// What an archive says about a directory; it takes effect at the very end, so that nothing hinders what goes into it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metadata {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Timestamp,
    pub(crate) atime: Option<Timestamp>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// `None`: made because something in it needed it.
    pub(crate) metadata: Option<Metadata>,
    /// Hides what the layers below have in it.
    pub(crate) opaque: bool,
}

/// The directories of a layer that is being unpacked, by real path relative to its root, which is `b""`.
pub(crate) struct Tree {
    root: OwnedFd,
    pub(crate) directories: BTreeMap<Vec<u8>, Directory>,
    open: HashMap<Vec<u8>, (Rc<OwnedFd>, u64)>,
    clock: u64,
}

/// Where an entry goes.
pub(crate) struct Place {
    /// The real path of its parent.
    pub(crate) parent: Vec<u8>,
    /// Whether a symbolic link was followed to get there.
    pub(crate) by_link: bool,
}

impl Tree {
    /// `root` is an empty directory that nobody else writes to.
    pub(crate) fn new(root: OwnedFd) -> Tree {
        let directories = BTreeMap::from([(Vec::new(), Directory::default())]);
        Tree { root, directories, open: HashMap::new(), clock: 0 }
    }

    /// A descriptor (O_PATH) of a directory, by real path.
    pub(crate) fn open(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, Refusal> {
        self.clock += 1;
        if let Some((fd, used)) = self.open.get_mut(path) {
            *used = self.clock;
            return Ok(fd.clone());
        }
        let fd = Rc::new(self.open_as(path, OFlags::PATH)?);
        if self.open.len() >= OPEN_DIRECTORIES
            && let Some(oldest) = self.open.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone())
        {
            self.open.remove(&oldest);
        }
        self.open.insert(path.to_vec(), (fd.clone(), self.clock));
        Ok(fd)
    }

    /// A descriptor of a directory for reading, not kept.
    pub(crate) fn open_for_reading(&self, path: &[u8]) -> Result<OwnedFd, Refusal> {
        self.open_as(path, OFlags::RDONLY)
    }

    fn open_as(&self, path: &[u8], how: OFlags) -> Result<OwnedFd, Refusal> {
        open_directory(&self.root, path, how).map_err(failed("open the directory"))
    }

    /// Resolves the directory that `components` name, following this layer's symbolic links inside this layer. Missing directories
    /// are made when `make` says so, else the result is `None`.
    pub(crate) fn resolve(&mut self, components: &[&[u8]], make: bool) -> Result<Option<Place>, Refusal> {
        let literal = components.join(&b'/');
        if self.directories.contains_key(&literal) {
            return Ok(Some(Place { parent: literal, by_link: false }));
        }
        let mut todo: Vec<Vec<u8>> = components.iter().rev().map(|name| name.to_vec()).collect();
        let mut real: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    // As in a chroot: the parent of the root is the root.
                    let end = real.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                    real.truncate(end);
                    continue;
                }
                _ => {}
            }
            let next = join(&real, &name);
            if self.directories.contains_key(&next) {
                real = next;
                continue;
            }
            let parent = self.open(&real)?;
            match rustix::fs::readlinkat(&*parent, name.as_slice(), Vec::new()) {
                Ok(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err("its path goes through a loop of symbolic links".into());
                    }
                    let target = target.as_bytes();
                    if target.starts_with(b"/") {
                        real.clear();
                    }
                    todo.extend(target.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec));
                }
                Err(Errno::NOENT) => {
                    if !make {
                        return Ok(None);
                    }
                    self.make_directory(&real, &name, None)?;
                    real = next;
                }
                Err(Errno::INVAL) => {
                    if !is_whiteout(&parent, &name).map_err(failed("look at"))? {
                        return Err("its parent isn't a directory".into());
                    }
                    if !make {
                        return Ok(None);
                    }
                    // Whited out and then used again: nothing of the layers below may show through.
                    rustix::fs::unlinkat(&*parent, name.as_slice(), AtFlags::empty()).map_err(failed("replace"))?;
                    self.make_directory(&real, &name, None)?;
                    if let Some(directory) = self.directories.get_mut(&next) {
                        directory.opaque = true;
                    }
                    real = next;
                }
                Err(errno) => return Err(failed("look at")(errno)),
            }
        }
        Ok(Some(Place { parent: real, by_link: links > 0 }))
    }

    /// Makes a directory, for now with mode 0700.
    pub(crate) fn make_directory(&mut self, parent: &[u8], name: &[u8], metadata: Option<Metadata>) -> Result<(), Refusal> {
        let fd = self.open(parent)?;
        rustix::fs::mkdirat(&*fd, name, Mode::RWXU).map_err(failed("make the directory"))?;
        self.directories.insert(join(parent, name), Directory { metadata, opaque: false });
        Ok(())
    }

    /// Forgets a directory that goes away, and all in it: descriptors of it must not be used for what comes in its place.
    pub(crate) fn forget(&mut self, path: &[u8]) {
        let below = join(path, b"");
        self.directories.remove(path);
        let gone: Vec<Vec<u8>> =
            self.directories.range(below.clone()..).map(|(path, _)| path).take_while(|path| path.starts_with(&below)).cloned().collect();
        for path in gone {
            self.directories.remove(&path);
        }
        self.open.retain(|other, _| other != path && !other.starts_with(&below));
    }
}

/// A path below another; the root is empty.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    if parent.is_empty() { name.to_vec() } else { [parent, b"/", name].concat() }
}

/// Opens a directory below `root`, no component of which may be a symbolic link. The empty path is `root` itself.
pub(crate) fn open_directory(root: impl AsFd, path: &[u8], how: OFlags) -> Result<OwnedFd, Errno> {
    open_beneath(root, path, how | OFlags::DIRECTORY)
}

/// Opens a file below `root`, no component of which may be a symbolic link.
pub(crate) fn open_beneath(root: impl AsFd, path: &[u8], how: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    loop {
        match rustix::fs::openat2(root.as_fd(), path, how | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve) {
            // A rename elsewhere in the tree made the kernel unsure; it asks to try again.
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    }
}

/// Whether a name is overlay's mark of something that was removed.
pub(crate) fn is_whiteout(directory: impl AsFd, name: &[u8]) -> Result<bool, Errno> {
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_taken_apart_without_leaving_the_root() {
        fn check(path: &[u8], expected: Option<&[&str]>) {
            let expected = expected.map(|names| names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>());
            assert_eq!(components(path, &Limits::default()).ok(), expected, "{}", path.escape_ascii());
        }
        check(b"a/b", Some(&["a", "b"]));
        check(b"./a//b/", Some(&["a", "b"]));
        check(b"/etc/passwd", Some(&["etc", "passwd"]));
        check(b"", Some(&[]));
        check(b"/", Some(&[]));
        check(b"./.", Some(&[]));
        check(b"a/...", Some(&["a", "..."]));
        check(b"a/../b", None);
        check(b"..", None);
        check(b"/..", None);
        check(b"a/..", None);
        check(b"a\0b", None);
        check(&[b'a'; 256], None);
        check(&b"aa/".repeat(1400), None);
        check(&b"a/".repeat(1025), None);
    }

    #[test]
    fn links_of_the_layer_are_followed_inside_it() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(outside.join("b")).unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let mut tree = Tree::new(rustix::fs::open(&root, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap());
        std::os::unix::fs::symlink("../../../outside", root.join("up")).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("away")).unwrap();
        std::os::unix::fs::symlink("loop", root.join("loop")).unwrap();
        std::os::unix::fs::symlink("/proc/self/root", root.join("magic")).unwrap();
        std::os::unix::fs::symlink(".", root.join("here")).unwrap();
        let mut resolve = |path: &str| {
            let names: Vec<&[u8]> = path.split('/').map(str::as_bytes).collect();
            tree.resolve(&names, true).map(|place| String::from_utf8(place.unwrap().parent).unwrap())
        };
        assert_eq!(resolve("up/b").unwrap(), "outside/b");
        assert_eq!(resolve("away/b").unwrap(), join(&outside.to_str().unwrap().as_bytes()[1..], b"b").escape_ascii().to_string());
        assert_eq!(resolve("magic").unwrap(), "proc/self/root");
        assert_eq!(resolve("here/here/x").unwrap(), "x");
        assert!(matches!(resolve("loop/x"), Err(Refusal::Malformed(_))));
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
    }
}
