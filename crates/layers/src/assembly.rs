//! Puts an image's layers together, and puts right what a layer couldn't know of those below it.
//!
//! Layers are unpacked alone, in any order, and shared by all images. Four things in a layer mean something only above others:
//!
//! - a directory that it has no entry for, but files in it: the directory's metadata is that of the layer below;
//! - a hard link to a file of a layer below;
//! - an opaque root, which overlay wouldn't see: nothing below it is mounted;
//! - no entry for its root: then the root is that of the last layer that has one.
//!
//! For all but the third a thin layer goes directly above the one that needs it. Overlay merges directories and takes the metadata of the
//! topmost, so the thin layer has only those directories, and copies of the linked files. It depends on all layers below and is kept
//! by chainID (OCI image-spec, config.md, "Layer ChainID"). A lower symbolic link where a layer has a directory is hidden by it, as in
//! Docker and containerd.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use coracle_image::Digest;
use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::confine::{is_whiteout, open_beneath, open_directory};
use crate::error::{Error, Result};
use crate::ownership::{Ledger, Ownership};
use crate::record::{Kinds, Line};
use crate::store::{LayerStore, is_complete};
use crate::unpack::{LayerReport, open_root};
use crate::whiteout::{Flavour, is_overlay_attribute};

pub(crate) fn paths(store: &LayerStore, diff_ids: &[Digest]) -> Result<Vec<PathBuf>> {
    let mut reports = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        reports.push(store.report(diff_id)?);
    }
    // The base first while it grows.
    let mut stack: Vec<PathBuf> = Vec::new();
    // Of the roots only the topmost shows. Where the last layer says nothing of it, it's the one of the last layer that does.
    let mut root: Option<PathBuf> = None;
    for (number, ((diff_id, chain_id), report)) in diff_ids.iter().zip(Digest::chain(diff_ids)).zip(&reports).enumerate() {
        if report.opaque_root {
            stack.clear();
            root = None;
        }
        let layer = store.layer(diff_id);
        let silent = report.implicit_parents.iter().any(|path| path.as_os_str().is_empty());
        let last = number + 1 == diff_ids.len();
        let below = Below { stack: &stack, root: root.as_deref().filter(|_| silent && last) };
        let correction = correction(store, &layer, &chain_id, report, below)?;
        if !silent {
            root = Some(layer.join("fs"));
        }
        // The same layer once more: all that its lower place shows, the upper one shows too, and overlay takes no directory twice.
        let fs = layer.join("fs");
        stack.retain(|below| *below != fs);
        stack.push(fs);
        stack.extend(correction);
    }
    stack.reverse();
    Ok(stack)
}

/// What a layer lies on.
#[derive(Clone, Copy)]
struct Below<'a> {
    /// The base first.
    stack: &'a [PathBuf],
    /// The layer whose root is to show, where it isn't the topmost one's.
    root: Option<&'a Path>,
}

/// The thin layer that goes above `layer`, if it needs one upon those below.
fn correction(store: &LayerStore, layer: &Path, chain_id: &Digest, report: &LayerReport, below: Below<'_>) -> Result<Option<PathBuf>> {
    let mut parents = report.implicit_parents.iter().filter(|path| !path.as_os_str().is_empty()).peekable();
    let alone = report.links_below.is_empty() && (parents.peek().is_none() || below.stack.is_empty());
    if alone && below.root.is_none() {
        return Ok(None);
    }
    let directory = store.chain(chain_id);
    if is_complete(&directory)? {
        return Ok(Some(directory.join("fs")));
    }
    let name = report.diff_id.to_string();
    let io = |attempt: &'static str, path: &Path, errno: Errno| Error::io(attempt, path, errno);
    let mut view = View { layers: Vec::new(), flavour: store.options().flavour, ledgers: HashMap::new() };
    for fs in std::iter::once(&layer.join("fs")).chain(below.stack.iter().rev()) {
        let root = rustix::fs::open(fs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| io("open", fs, errno))?;
        view.layers.push((fs.clone(), root));
    }

    // What needs the correction, before anything is written: most often nothing does.
    let mut inherit: BTreeMap<Vec<u8>, Found> = BTreeMap::new();
    for path in parents {
        let bytes = path.as_os_str().as_bytes();
        if view.hidden_by_own_opaque(bytes).map_err(|errno| io("look at", path, errno))? {
            continue;
        }
        let Some(found) = view.find(1, bytes).map_err(|errno| io("look at", path, errno))? else {
            continue;
        };
        if found.kind() == FileType::Directory {
            inherit.insert(bytes.to_vec(), found);
        }
    }
    // The root that is to show, if it's another layer's and looks otherwise.
    let model = match below.root.and_then(|root| view.layers.iter().position(|(fs, _)| fs == root)) {
        Some(model) if view.root(model)? != view.root(0)? => model,
        _ => 0,
    };
    if inherit.is_empty() && report.links_below.is_empty() && model == 0 {
        return Ok(None);
    }

    let temporary = store.temporary()?;
    let fs = temporary.fs()?;
    let root = open_root(&fs)?;
    let mut builder = Builder {
        root,
        ownership: store.options().ownership,
        ledger: Ledger::default(),
        made: BTreeSet::new(),
        inherit,
        describe: Vec::new(),
    };
    let wanted: Vec<Vec<u8>> = builder.inherit.keys().cloned().collect();
    for path in wanted {
        builder.directory(&mut view, &path)?;
    }
    let mut copies: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for (path, target) in &report.links_below {
        let (path_bytes, target_bytes) = (path.as_os_str().as_bytes(), target.as_os_str().as_bytes());
        let needs = |what: &'static str| Error::Below { layer: name.clone(), path: target.clone(), what: what.into() };
        let found = view.find(1, target_bytes).map_err(|errno| io("look at", target, errno))?;
        let Some(found) = found else {
            return Err(needs("a hard link to it, and it isn't there"));
        };
        if let Some(copy) = copies.get(target_bytes) {
            builder.link(&mut view, copy, path_bytes)?;
            continue;
        }
        match found.kind() {
            FileType::RegularFile | FileType::Symlink => {}
            FileType::Directory => return Err(needs("a hard link to it, and it's a directory")),
            _ => {
                return Err(needs("a hard link to it, and it's a device, pipe or socket"));
            }
        }
        // Where the target still shows, both names become one file.
        let shows =
            view.find(0, target_bytes).map_err(|errno| io("look at", target, errno))?.is_some_and(|shown| shown.layer == found.layer);
        let copy = if shows { target_bytes } else { path_bytes };
        builder.copy(&mut view, &found, target_bytes, copy)?;
        copies.insert(target_bytes.to_vec(), copy.to_vec());
        if shows {
            builder.link(&mut view, copy, path_bytes)?;
        }
    }
    let ledger = builder.finish(&mut view, model)?;
    let empty =
        LayerReport { implicit_parents: Vec::new(), links_below: Vec::new(), skipped: Vec::new(), skipped_total: 0, ..report.clone() };
    temporary.publish(&directory, &empty, &ledger, store.options(), None)?;
    Ok(Some(directory.join("fs")))
}

/// A file as some layer shows it.
struct Found {
    layer: usize,
    fd: OwnedFd,
    stat: Stat,
}

impl Found {
    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.stat.st_mode)
    }
}

/// An owner that waits to be given: user, group, mode.
type Waiting = (u32, u32, u32);

/// The layers, the one in question first and then those below it, the topmost first.
struct View {
    layers: Vec<(PathBuf, OwnedFd)>,
    flavour: Flavour,
    ledgers: HashMap<usize, Option<Ledger>>,
}

impl View {
    /// What overlay would show at a path of the layers from `first` down; of directories the topmost.
    fn find(&self, first: usize, path: &[u8]) -> rustix::io::Result<Option<Found>> {
        let mut merged: Vec<(usize, OwnedFd)> = Vec::new();
        for (index, (_, root)) in self.layers.iter().enumerate().skip(first) {
            merged.push((index, root.try_clone().map_err(|_| Errno::MFILE)?));
        }
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
        for (position, name) in names.iter().enumerate() {
            let mut next = Vec::new();
            for (layer, directory) in &merged {
                let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let fd = match rustix::fs::openat(directory, *name, flags, Mode::empty()) {
                    Ok(fd) => fd,
                    Err(Errno::NOENT) => continue,
                    Err(errno) => return Err(errno),
                };
                let stat = rustix::fs::fstat(&fd)?;
                if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                    let opaque = self.is_opaque(&fd)?;
                    next.push((*layer, fd));
                    if opaque {
                        break;
                    }
                    continue;
                }
                if next.is_empty() && position + 1 == names.len() && !is_whiteout(directory, name)? {
                    return Ok(Some(Found { layer: *layer, fd, stat }));
                }
                break;
            }
            merged = next;
        }
        match merged.into_iter().next() {
            Some((layer, fd)) => Ok(Some(Found { layer, stat: rustix::fs::fstat(&fd)?, fd })),
            None => Ok(None),
        }
    }

    /// Whether the layer in question itself hides what is below one of a path's parents.
    fn hidden_by_own_opaque(&self, path: &[u8]) -> rustix::io::Result<bool> {
        for (end, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let directory = open_directory(&self.layers[0].1, &path[..end], OFlags::PATH)?;
            if self.is_opaque(&directory)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_opaque(&self, directory: &OwnedFd) -> rustix::io::Result<bool> {
        let mut value = [0; 8];
        match rustix::fs::getxattr(direct(directory), self.flavour.opaque(), &mut value) {
            Ok(length) => Ok(value[..length] == *b"y"),
            Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// How a layer's root looks, and the owner that waits.
    fn root(&mut self, layer: usize) -> Result<(Line, Option<Waiting>)> {
        let deferred = self.deferred(layer, b"")?;
        let root = &self.layers[layer].1;
        let stat = rustix::fs::fstat(root).map_err(|errno| Error::io("look at", "/", errno))?;
        let kinds = Kinds { flavour: self.flavour, capabilities: false };
        Ok((Line::of(&stat, None).with_attributes(kinds.sum(root, b"")), deferred))
    }

    /// The owner that waits to be applied to a file of a layer.
    fn deferred(&mut self, layer: usize, path: &[u8]) -> Result<Option<Waiting>> {
        if !self.ledgers.contains_key(&layer) {
            let ledger = match self.layers[layer].0.parent() {
                Some(directory) => Ledger::load(directory)?,
                None => None,
            };
            self.ledgers.insert(layer, ledger);
        }
        Ok(self.ledgers.get(&layer).and_then(|ledger| ledger.as_ref()?.owners.get(path).copied()))
    }
}

/// The file of a descriptor, for calls that don't take O_PATH ones.
fn direct(fd: impl AsFd) -> String {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd())
}

struct Builder {
    root: OwnedFd,
    ownership: Ownership,
    ledger: Ledger,
    made: BTreeSet<Vec<u8>>,
    inherit: BTreeMap<Vec<u8>, Found>,
    /// Directories and what they are to look like, set at the end.
    describe: Vec<(Vec<u8>, Found)>,
}

impl Builder {
    /// Makes a directory and its parents; each looks as the layer in question says, or else as those below say.
    fn directory(&mut self, view: &mut View, path: &[u8]) -> Result<()> {
        if path.is_empty() || self.made.contains(path) {
            return Ok(());
        }
        let (parent, name) = split(path);
        self.directory(view, parent)?;
        let shown = PathBuf::from(OsStr::from_bytes(path));
        let fail = |attempt: &'static str| {
            let shown = shown.clone();
            move |errno: Errno| Error::io(attempt, shown, errno)
        };
        let model = match self.inherit.remove(path) {
            Some(found) => Some(found),
            None => view.find(0, path).map_err(fail("look at"))?,
        };
        let at = open_directory(&self.root, parent, OFlags::PATH).map_err(fail("open the directory of"))?;
        rustix::fs::mkdirat(&at, name, Mode::RWXU).map_err(fail("make the directory"))?;
        self.made.insert(path.to_vec());
        if let Some(model) = model {
            self.describe.push((path.to_vec(), model));
        }
        Ok(())
    }

    fn link(&mut self, view: &mut View, from: &[u8], to: &[u8]) -> Result<()> {
        if from == to {
            return Ok(());
        }
        let (from_parent, from_name) = split(from);
        let (to_parent, to_name) = split(to);
        self.directory(view, to_parent)?;
        let fail = |errno| Error::io("make the hard link", OsStr::from_bytes(to), errno);
        let source = open_directory(&self.root, from_parent, OFlags::PATH).map_err(fail)?;
        let target = open_directory(&self.root, to_parent, OFlags::PATH).map_err(fail)?;
        rustix::fs::linkat(&source, from_name, &target, to_name, AtFlags::empty()).map_err(fail)?;
        self.ledger.link(from, to);
        Ok(())
    }

    /// Copies a file of a layer below.
    fn copy(&mut self, view: &mut View, found: &Found, from: &[u8], to: &[u8]) -> Result<()> {
        let (parent, name) = split(to);
        self.directory(view, parent)?;
        let path = Path::new(OsStr::from_bytes(to));
        let fail = |errno: Errno| Error::io("copy", path, errno);
        let at = open_directory(&self.root, parent, OFlags::PATH).map_err(fail)?;
        let owner = self.owner(view, found, from, to)?;
        if found.kind() == FileType::Symlink {
            let target = rustix::fs::readlinkat(&found.fd, "", Vec::new()).map_err(fail)?;
            rustix::fs::symlinkat(target.as_c_str(), &at, name).map_err(fail)?;
            if let Some((uid, gid)) = owner {
                rustix::fs::chownat(&at, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
            }
            return rustix::fs::utimensat(&at, name, &times(&found.stat), AtFlags::SYMLINK_NOFOLLOW).map_err(fail);
        }
        let source = open_beneath(&view.layers[found.layer].1, from, OFlags::RDONLY | OFlags::NONBLOCK).map_err(fail)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(&at, name, flags, Mode::RUSR | Mode::WUSR).map_err(fail)?;
        // std copies by copy_file_range(2): shared extents where the file system can.
        let (mut source, mut target) = (File::from(source), File::from(target));
        io::copy(&mut source, &mut target).map_err(|error| Error::io("copy", path, error))?;
        describe(&found.fd, &found.stat, &target, owner, self.ownership).map_err(fail)
    }

    /// Whose a copy is: to be set now (root), or put on record.
    fn owner(&mut self, view: &mut View, found: &Found, from: &[u8], to: &[u8]) -> Result<Option<(Uid, Gid)>> {
        match self.ownership {
            Ownership::Keep => Ok(Some((Uid::from_raw(found.stat.st_uid), Gid::from_raw(found.stat.st_gid)))),
            Ownership::Squash => Ok(None),
            Ownership::Defer => {
                if let Some(owner) = view.deferred(found.layer, from)? {
                    self.ledger.owners.insert(to.to_vec(), owner);
                }
                Ok(None)
            }
        }
    }

    /// Sets what was put off; the root looks as that of the layer `model`.
    fn finish(mut self, view: &mut View, model: usize) -> Result<Ledger> {
        let mut directories = std::mem::take(&mut self.describe);
        directories.sort_by(|(a, _), (b, _)| b.cmp(a));
        for (path, model) in directories {
            let owner = self.owner(view, &model, &path, &path)?;
            let shown = Path::new(OsStr::from_bytes(&path));
            let fd = open_directory(&self.root, &path, OFlags::RDONLY).map_err(|errno| Error::io("open", shown, errno))?;
            describe(&model.fd, &model.stat, &fd, owner, self.ownership).map_err(|errno| Error::io("describe", shown, errno))?;
        }
        let root = &self.root;
        rustix::fs::fchmod(root, Mode::from_raw_mode(0o755)).map_err(|errno| Error::io("set the mode of", "/", errno))?;
        // The root of a thin layer is the topmost too: it has to look as the roots below it.
        let stat = rustix::fs::fstat(&view.layers[model].1).map_err(|errno| Error::io("look at", "/", errno))?;
        let owner = match self.ownership {
            Ownership::Keep => Some((Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid))),
            _ => None,
        };
        if self.ownership == Ownership::Defer
            && let Some(owner) = view.deferred(model, b"")?
        {
            self.ledger.owners.insert(Vec::new(), owner);
        }
        describe(&view.layers[model].1, &stat, root, owner, self.ownership).map_err(|errno| Error::io("describe", "/", errno))?;
        Ok(self.ledger)
    }
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// Gives `target` the owner, mode, attributes and times of `model`.
fn describe(model: &OwnedFd, stat: &Stat, target: impl AsFd, owner: Option<(Uid, Gid)>, ownership: Ownership) -> rustix::io::Result<()> {
    let target = target.as_fd();
    if let Some((uid, gid)) = owner {
        rustix::fs::fchown(target, Some(uid), Some(gid))?;
    }
    let names = attributes(model)?;
    let mut value = vec![0; 65_536];
    for name in names {
        let wanted = !is_overlay_attribute(&name)
            && (ownership == Ownership::Keep || name.starts_with(b"user."))
            && (name == b"security.capability" || !name.starts_with(b"security."));
        if wanted {
            let length = rustix::fs::getxattr(direct(model), name.as_slice(), &mut value)?;
            rustix::fs::fsetxattr(target, name.as_slice(), &value[..length], XattrFlags::empty())?;
        }
    }
    rustix::fs::fchmod(target, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    rustix::fs::futimens(target, &times(stat))
}

fn attributes(fd: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut list = vec![0; 65_536];
    let length = match rustix::fs::listxattr(direct(fd), &mut list) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(errno) => return Err(errno),
    };
    Ok(list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()).map(<[u8]>::to_vec).collect())
}

#[allow(clippy::cast_lossless, clippy::unnecessary_cast)]
fn times(stat: &Stat) -> Timestamps {
    let spec = |seconds: i64, nanoseconds: i64| Timespec { tv_sec: seconds, tv_nsec: nanoseconds as _ };
    Timestamps {
        last_access: spec(stat.st_atime as i64, stat.st_atime_nsec as i64),
        last_modification: spec(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_are_those_of_the_specification() {
        let (a, b, c) = (Digest::sha256(b"a"), Digest::sha256(b"b"), Digest::sha256(b"c"));
        let chain = Digest::chain(&[a.clone(), b.clone(), c.clone()]);
        assert_eq!(chain[0], a);
        assert_eq!(chain[1], Digest::sha256(format!("{a} {b}").as_bytes()));
        assert_eq!(chain[2], Digest::sha256(format!("{} {c}", chain[1]).as_bytes()));
    }
}
