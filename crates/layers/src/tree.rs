//! Walks a tree of files as overlay shows it: one directory, or several that lie on each other.
//!
//! Everything is opened by descriptors, first for looking at alone (O_PATH), and for reading only what was seen to be a file or a
//! directory, by that very descriptor: a name that somebody exchanges meanwhile leads nowhere, and no device is ever opened.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::access::Access;
use crate::error::{Error, Result, show};
use crate::whiteout::Flavour;

/// How deep directories are held open at once. Deeper ones are closed while one in them is walked, and opened again by their path.
const HELD: usize = 24;

/// Directories that lie on each other, the topmost first.
pub(crate) struct Stack<'a> {
    roots: Vec<OwnedFd>,
    flavour: Flavour,
    access: Option<&'a dyn Access>,
}

/// What the walk came to.
pub(crate) struct Visited<'a> {
    /// Relative to the root, which is empty.
    pub(crate) path: &'a [u8],
    /// Opened for looking at.
    pub(crate) file: &'a OwnedFd,
    pub(crate) stat: &'a Stat,
    /// A directory that hides what lies below it.
    pub(crate) opaque: bool,
}

impl Visited<'_> {
    pub(crate) fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }

    /// Whether it marks that something below isn't there any more.
    pub(crate) fn is_whiteout(&self) -> bool {
        is_whiteout(self.stat)
    }
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// A file opened for looking at.
pub(crate) struct Node {
    pub(crate) file: OwnedFd,
    pub(crate) stat: Stat,
}

/// A directory on the way to where the walk is.
struct Level {
    /// What is still to come in it.
    names: std::collections::btree_map::IntoIter<Vec<u8>, Vec<usize>>,
    held: Option<Vec<Node>>,
    /// Of its path.
    length: usize,
}

type Visit<'a> = dyn FnMut(&Visited<'_>) -> Result<()> + 'a;

impl<'a> Stack<'a> {
    /// Opens the directories, the topmost first.
    pub(crate) fn open<P: AsRef<Path>>(directories: &[P], flavour: Flavour, access: Option<&'a dyn Access>) -> Result<Stack<'a>> {
        let mut roots = Vec::with_capacity(directories.len());
        for directory in directories {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let root = rustix::fs::open(directory.as_ref(), flags, Mode::empty());
            roots.push(root.map_err(|errno| Error::io("open", directory, errno))?);
        }
        Ok(Stack { roots, flavour, access })
    }

    /// Visits the root and all in it, each directory before what is in it, names sorted as bytes. With `whiteouts` what marks removals
    /// is visited, too; without, what it hides isn't. What vanishes meanwhile is passed over.
    pub(crate) fn walk(&self, whiteouts: bool, visit: &mut Visit<'_>) -> Result<()> {
        let fail = |errno: Errno| Error::io("look at", "the root", errno);
        let merged = self.resolve(b"").map_err(fail)?;
        let (Some(top), Some(last)) = (merged.first(), merged.last()) else { return Ok(()) };
        let opaque = self.is_opaque(&last.file).map_err(fail)?;
        visit(&Visited { path: b"", file: &top.file, stat: &top.stat, opaque })?;
        // A list and no recursion: a container may make directories deeper than any thread's stack.
        let names = self.listed(&merged, b"")?.into_iter();
        let mut way = vec![Level { names, held: Some(merged), length: 0 }];
        let mut path: Vec<u8> = Vec::new();
        while let Some(level) = way.last_mut() {
            path.truncate(level.length);
            let Some((name, places)) = level.names.next() else {
                way.pop();
                continue;
            };
            let open = match &level.held {
                Some(open) => open,
                // Closed while a directory in it was walked.
                None => level.held.insert(self.merged(&path)?),
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let found = self.find(open, &name, &places).map_err(|errno| Error::io("read", show(&path), errno))?;
            let Some((below, opaque)) = found else { continue };
            let Some(top) = below.first() else { continue };
            let visited = Visited { path: &path, file: &top.file, stat: &top.stat, opaque };
            if visited.is_whiteout() {
                if whiteouts {
                    visit(&visited)?;
                }
                continue;
            }
            visit(&visited)?;
            if visited.kind() == FileType::Directory {
                let names = self.listed(&below, &path)?.into_iter();
                if way.len() > HELD
                    && let Some(level) = way.last_mut()
                {
                    level.held = None;
                }
                way.push(Level { names, held: Some(below), length: path.len() });
            }
        }
        Ok(())
    }

    /// The names in directories that lie on each other, and in which of them each is, the topmost first.
    fn listed(&self, merged: &[Node], path: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<usize>>> {
        let fail = |errno: Errno| Error::io("read", show(path), errno);
        let mut names: BTreeMap<Vec<u8>, Vec<usize>> = BTreeMap::new();
        for (index, directory) in merged.iter().enumerate() {
            let reading = match self.read(&directory.file) {
                Err(Errno::NOENT) => continue,
                reading => reading.map_err(fail)?,
            };
            // As it is: opened once more by this process, it would be refused.
            for entry in Dir::new(reading).map_err(fail)? {
                let entry = entry.map_err(fail)?;
                let name = entry.file_name().to_bytes();
                if !matches!(name, b"." | b"..") {
                    names.entry(name.to_vec()).or_default().push(index);
                }
            }
        }
        Ok(names)
    }

    /// What is at a name of directories that lie on each other: the topmost, and for a directory those that it is merged with; and
    /// whether it is opaque.
    fn find(&self, merged: &[Node], name: &[u8], places: &[usize]) -> rustix::io::Result<Option<(Vec<Node>, bool)>> {
        let mut found: Vec<Node> = Vec::new();
        for place in places {
            let Some(directory) = merged.get(*place) else { continue };
            let node = match self.look(&directory.file, name) {
                Err(Errno::NOENT) => continue,
                node => node?,
            };
            let is_directory = FileType::from_raw_mode(node.stat.st_mode) == FileType::Directory;
            if !is_directory {
                if found.is_empty() {
                    found.push(node);
                }
                break;
            }
            let opaque = self.is_opaque(&node.file)?;
            found.push(node);
            if opaque {
                return Ok(Some((found, true)));
            }
        }
        Ok((!found.is_empty()).then_some((found, false)))
    }

    /// What is at a path, the root first; none where nothing is, or something that hides it.
    pub(crate) fn at(&self, path: &[u8]) -> Result<Option<Node>> {
        let fail = |errno: Errno| Error::io("look at", show(path), errno);
        let merged = self.resolve(path).map_err(fail)?;
        Ok(merged.into_iter().next().filter(|top| !is_whiteout(&top.stat)))
    }

    /// The names in a directory, as the directories below each other show it.
    pub(crate) fn names(&self, path: &[u8]) -> Result<Vec<Vec<u8>>> {
        let merged = self.merged(path)?;
        let names = self.listed(&merged, path)?;
        let mut shown = Vec::new();
        for (name, places) in names {
            let found = self.find(&merged, &name, &places).map_err(|errno| Error::io("read", show(path), errno))?;
            if found.is_some_and(|(found, _)| found.first().is_some_and(|top| !is_whiteout(&top.stat))) {
                shown.push(name);
            }
        }
        Ok(shown)
    }

    fn merged(&self, path: &[u8]) -> Result<Vec<Node>> {
        self.resolve(path).map_err(|errno| Error::io("read", show(path), errno))
    }

    fn resolve(&self, path: &[u8]) -> rustix::io::Result<Vec<Node>> {
        let mut merged = Vec::new();
        for root in &self.roots {
            let file = root.try_clone().map_err(|_| Errno::MFILE)?;
            let (opaque, stat) = (self.is_opaque(&file)?, rustix::fs::fstat(&file)?);
            merged.push(Node { file, stat });
            if opaque {
                break;
            }
        }
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            let places: Vec<usize> = (0..merged.len()).collect();
            match self.find(&merged, name, &places)? {
                Some((next, _)) => merged = next,
                None => return Ok(Vec::new()),
            }
        }
        Ok(merged)
    }

    /// Opens a name for looking at.
    fn look(&self, directory: &OwnedFd, name: &[u8]) -> rustix::io::Result<Node> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
        // Of a link at the end the link itself is opened: NOFOLLOW and PATH together (openat2(2)).
        let opened = rustix::fs::openat2(directory, name, flags, Mode::empty(), resolve);
        let file = match (opened, self.access) {
            (Err(Errno::ACCESS), Some(access)) => access.look(directory.as_fd(), name).map_err(errno)?,
            (Err(Errno::AGAIN | Errno::INTR), _) => return self.look(directory, name),
            (opened, _) => opened?,
        };
        let stat = rustix::fs::fstat(&file)?;
        Ok(Node { file, stat })
    }

    /// Opens for reading what was opened for looking at: a file or a directory.
    pub(crate) fn read(&self, file: &OwnedFd) -> rustix::io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match (rustix::fs::open(direct(file), flags, Mode::empty()), self.access) {
            (Err(Errno::ACCESS), Some(access)) => access.read(file.as_fd()).map_err(errno),
            (opened, _) => opened,
        }
    }

    fn attribute(&self, file: &OwnedFd, name: &[u8]) -> rustix::io::Result<Option<Vec<u8>>> {
        let mut value = vec![0; 65_536];
        match (rustix::fs::getxattr(direct(file), name, &mut value), self.access) {
            (Ok(length), _) => {
                value.truncate(length);
                Ok(Some(value))
            }
            (Err(Errno::NODATA | Errno::OPNOTSUPP), _) => Ok(None),
            (Err(Errno::ACCESS), Some(access)) => match access.attribute(file.as_fd(), name).map_err(errno) {
                Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
                value => value.map(Some),
            },
            (Err(errno), _) => Err(errno),
        }
    }

    /// All attributes of a file, sorted by name; links, devices and pipes have none that are anybody's.
    pub(crate) fn attributes(&self, file: &OwnedFd, kind: FileType) -> rustix::io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        if !matches!(kind, FileType::RegularFile | FileType::Directory) {
            return Ok(Vec::new());
        }
        let mut list = vec![0; 65_536];
        let length = match rustix::fs::listxattr(direct(file), &mut list) {
            Ok(length) => length,
            Err(Errno::OPNOTSUPP) => 0,
            Err(errno) => return Err(errno),
        };
        let mut attributes = Vec::new();
        for name in list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            // Removed since.
            if let Some(value) = self.attribute(file, name)? {
                attributes.push((name.to_vec(), value));
            }
        }
        attributes.sort();
        Ok(attributes)
    }

    fn is_opaque(&self, directory: &OwnedFd) -> rustix::io::Result<bool> {
        Ok(self.attribute(directory, self.flavour.opaque().as_bytes())?.is_some_and(|value| value == b"y"))
    }

    pub(crate) fn flavour(&self) -> Flavour {
        self.flavour
    }
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// The file of a descriptor, for calls that don't take O_PATH ones.
pub(crate) fn direct(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}
