//! From directories to a root: one overlay, or several where the kernel refuses one.

use crate::error::Error;
use coracle_spawn::{Attributes, Effect, Mount, Overlay, Root, Spawn};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What a root stands on.
#[derive(Clone)]
pub(crate) enum Lower {
    /// Directories, topmost first.
    Layers(Vec<PathBuf>),
    /// This machine's own root, for a plain user. The kernel refuses it as a layer in a user namespace (it has mounts that were
    /// locked when the namespace was made), but takes the directories in it one by one.
    HostByDirectories,
}

/// What isn't taken over from the host's root: made anew, or nobody's business.
const NOT_OF_THE_HOST: [&str; 6] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/lost+found"];

/// Adds a root over `lower` whose changes are kept in the run directory.
///
/// Those of one that is `kept` may be there already, and are to be whole after a power cut as far as its programs saw to it.
pub(crate) fn add(mut spawn: Spawn, lower: Lower, run: &Path, userxattr: bool, kept: bool) -> Result<Spawn, Error> {
    let (upper, work) = (run.join("upper"), run.join("work"));
    let make = |path: &Path, mode| match kept {
        true => Effect::EnsureDirectory { path: path.to_owned(), mode },
        false => Effect::MakeDirectory { path: path.to_owned(), mode },
    };
    let directory = |path: &Path| make(path, 0o755);
    // `/` shows the bits of the upper directory, so they are those of what it lies on.
    let top = match &lower {
        Lower::Layers(lower) => lower.first().and_then(|top| fs::metadata(top).ok()),
        Lower::HostByDirectories => None,
    };
    let mode = top.map_or(0o755, |top| top.mode() & 0o7777);
    spawn = spawn.effect(make(&upper, mode)).effect(directory(&work));
    if let Lower::Layers(lower) = &lower {
        // A plain user's container may not write into a directory of somebody else's, and has files to put into /etc. In the upper
        // directory it is the user's own, over what is in the lower one.
        let etc = lower.iter().find_map(|layer| fs::symlink_metadata(layer.join("etc")).ok());
        if etc.is_some_and(|etc| userxattr && etc.is_dir() && etc.uid() != rustix::process::geteuid().as_raw()) {
            spawn = spawn.effect(directory(&upper.join("etc")));
        }
    }
    // The files go with the container: whether they reached the disk is nobody's concern.
    let overlay = |lower: Vec<PathBuf>| Overlay::new(lower).userxattr(userxattr).volatile(!kept);
    match lower {
        Lower::Layers(lower) => Ok(spawn.root(Root::overlay(overlay(lower).writable(upper, work)))),
        Lower::HostByDirectories => {
            let mut host =
                Host { spawn: spawn.root(Root::Tmpfs { attributes: Attributes::NODEV }), upper, work, mounted: mount_points(), count: 0 };
            host.take_over(Path::new("/")).map_err(|source| Error::State { attempted: "read", path: "/".into(), source })?;
            Ok(host.spawn.mount(Mount::directory("/tmp", 0o1777)).mount(Mount::directory("/run", 0o755)))
        }
    }
}

/// The host's root being taken over directory by directory.
struct Host {
    spawn: Spawn,
    upper: PathBuf,
    work: PathBuf,
    mounted: Vec<PathBuf>,
    count: usize,
}

impl Host {
    /// Takes over what is in a directory: a link as a link, a directory as an overlay, and one in which something is mounted by
    /// what is in it.
    fn take_over(&mut self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let path = entry.path();
            let Ok(kind) = entry.file_type() else { continue };
            let spawn = std::mem::replace(&mut self.spawn, Spawn::new(""));
            self.spawn = if NOT_OF_THE_HOST.iter().any(|n| Path::new(n) == path) || self.mounted.contains(&path) {
                spawn
            } else if kind.is_symlink() {
                match fs::read_link(&path) {
                    Ok(contents) => spawn.mount(Mount::symlink(contents, &path)),
                    Err(_) => spawn,
                }
            } else if kind.is_dir() && fs::read_dir(&path).is_ok() {
                if self.mounted.iter().any(|m| m.starts_with(&path)) {
                    self.spawn = spawn.mount(Mount::directory(&path, 0o755));
                    self.take_over(&path)?;
                    continue;
                }
                let (upper, work) = (self.upper.join(self.count.to_string()), self.work.join(self.count.to_string()));
                self.count += 1;
                let made = |path: &Path| Effect::MakeDirectory { path: path.to_owned(), mode: 0o755 };
                let overlay = Overlay::new([&path]).userxattr(true).volatile(true).writable(&upper, &work);
                spawn.effect(made(&upper)).effect(made(&work)).mount(Mount::overlay(overlay, &path))
            } else {
                spawn
            };
        }
        Ok(())
    }
}

/// Where something is mounted in this process's namespace.
fn mount_points() -> Vec<PathBuf> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(|point| point.replace("\\040", " ").into());
    points.filter(|point: &PathBuf| point != Path::new("/")).collect()
}
