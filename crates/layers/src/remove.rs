//! Removes trees that strangers filled, by descriptors: never through a symbolic link, never across a mount.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// How deep directories are held open at once; deeper ones are first moved to the top.
const DEPTH: usize = 48;

/// Removes a file, or a directory with all in it. What isn't there is no error.
///
/// Symbolic links are removed, not followed, and another file system mounted in the tree stops it. Modes don't hinder the owner of
/// the files. Blocks.
///
/// ```
/// let dir = std::env::temp_dir().join(format!("coracle-remove-{}", std::process::id()));
/// std::fs::create_dir_all(dir.join("a/b"))?;
/// coracle_layers::remove_tree(&dir)?;
/// assert!(!dir.exists());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// [`Error::Io`]. Files of other users (sub-ids of a container, say) can be removed only by root or inside their user namespace.
pub fn remove_tree(path: &Path) -> Result<()> {
    let fail = |errno| Error::io("remove", path, errno);
    let name = path.file_name().ok_or_else(|| fail(Errno::INVAL))?;
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match rustix::fs::open(parent, flags, Mode::empty()) {
        Ok(parent) => parent,
        Err(Errno::NOENT) => return Ok(()),
        Err(errno) => return Err(fail(errno)),
    };
    remove_at(&parent, std::os::unix::ffi::OsStrExt::as_bytes(name)).map_err(fail)
}

/// Removes `name` in the directory `parent`.
pub(crate) fn remove_at(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<()> {
    match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        result => return result,
    }
    let top = open(&parent, name)?;
    let mut moved = Moved { queue: Vec::new(), done: 0, number: 0 };
    empty(&top, &top, 0, &mut moved)?;
    while let Some(name) = moved.queue.get(moved.done).cloned() {
        moved.done += 1;
        let directory = open(&top, &name)?;
        empty(&directory, &top, 1, &mut moved)?;
        rustix::fs::unlinkat(&top, name.as_slice(), AtFlags::REMOVEDIR)?;
    }
    drop(top);
    rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)
}

/// Directories that were too deep and now wait at the top.
struct Moved {
    queue: Vec<Vec<u8>>,
    done: usize,
    number: u64,
}

fn empty(directory: &OwnedFd, top: &OwnedFd, depth: usize, moved: &mut Moved) -> rustix::io::Result<()> {
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") || (depth == 0 && moved.queue.iter().any(|ours| ours == name)) {
            continue;
        }
        if entry.file_type() != FileType::Directory {
            match writable(directory, || rustix::fs::unlinkat(directory, name, AtFlags::empty())) {
                Ok(()) | Err(Errno::NOENT) => continue,
                Err(Errno::ISDIR) => {}
                Err(errno) => return Err(errno),
            }
        }
        let child = writable(directory, || open(directory, name))?;
        if depth < DEPTH {
            empty(&child, top, depth + 1, moved)?;
            drop(child);
            writable(directory, || rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR))?;
            continue;
        }
        // A directory that moves changes its `..`, so it has to be writable.
        rustix::fs::fchmod(&child, Mode::RWXU)?;
        let target = loop {
            moved.number += 1;
            let target = format!(".coracle-removed-{}", moved.number).into_bytes();
            // The stranger may have thought of this name.
            if rustix::fs::statat(top, target.as_slice(), AtFlags::SYMLINK_NOFOLLOW).is_err() {
                break target;
            }
        };
        writable(directory, || rustix::fs::renameat(directory, name, top, target.as_slice()))?;
        moved.queue.push(target);
    }
    Ok(())
}

/// Does something in a directory; if its mode forbids that, once more with a better mode.
fn writable<T>(directory: &OwnedFd, act: impl Fn() -> rustix::io::Result<T>) -> rustix::io::Result<T> {
    match act() {
        Err(Errno::ACCESS) => {
            rustix::fs::fchmod(directory, Mode::RWXU)?;
            act()
        }
        result => result,
    }
}

fn open(parent: impl AsFd, name: &[u8]) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let how = |flags: OFlags| loop {
        let flags = flags | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match rustix::fs::openat2(&parent, name, flags, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            result => return result,
        }
    };
    match how(OFlags::RDONLY) {
        Err(Errno::ACCESS) => {
            // Its mode keeps the owner out. By way of a descriptor, so that it's this directory and no link in its place.
            let handle = how(OFlags::PATH)?;
            let direct = format!("/proc/self/fd/{}", handle.as_raw_fd());
            rustix::fs::chmodat(rustix::fs::CWD, direct, Mode::RWXU, AtFlags::empty())?;
            how(OFlags::RDONLY)
        }
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn a_tree_goes_and_what_its_links_point_to_stays() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b/c")).unwrap();
        fs::write(tree.join("a/file"), "").unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        symlink("../../outside/file", tree.join("a/b/link")).unwrap();
        fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o0)).unwrap();
        fs::set_permissions(tree.join("a"), fs::Permissions::from_mode(0o555)).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "kept");
        remove_tree(&tree).unwrap();
        let link = dir.path().join("link");
        symlink(&outside, &link).unwrap();
        remove_tree(&link).unwrap();
        assert!(outside.join("file").exists());
    }

    #[test]
    fn a_tree_deeper_than_any_path_or_descriptor_limit_goes() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        let mut at = rustix::fs::open(dir.path().join("tree"), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        for depth in 0..3000 {
            for name in ["deep", ".coracle-removed-0"].iter().take(if depth % 700 == 0 { 2 } else { 1 }) {
                rustix::fs::mkdirat(&at, *name, Mode::RWXU).unwrap();
            }
            at = rustix::fs::openat(&at, "deep", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&dir.path().join("tree")).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
