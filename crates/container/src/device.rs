//! Devices of this host in a container.

use crate::error::Problem;
use coracle_cgroups::DeviceRule;
use coracle_spawn::Mount;
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A device of this host: `/dev/fuse`, or as docker-run(1) `--device` writes it, `/dev/sda:/dev/disk:r`. A directory is all devices below it.
///
/// ```
/// use coracle_container::Device;
/// let fuse = Device::new("/dev/fuse");
/// assert_eq!(Device::from("/dev/sda:/dev/disk:r"), Device::new("/dev/sda").at("/dev/disk").access("r"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[must_use]
pub struct Device {
    path: PathBuf,
    target: Option<PathBuf>,
    access: String,
}

/// A node of a device.
pub(crate) struct Node {
    pub(crate) mount: Mount,
    pub(crate) rule: DeviceRule,
}

impl Device {
    /// The device of a node of this host, at the same path inside, for reading and writing.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), target: None, access: "rwm".into() }
    }

    /// At this path inside.
    pub fn at(mut self, target: impl Into<PathBuf>) -> Self {
        self.target = Some(target.into());
        self
    }

    /// With less: `r` to open it for reading, `w` for writing, `m` to make nodes of it. Less than `rwm` needs a control group that decides about
    /// devices; an error where there is none.
    pub fn access(mut self, letters: impl Into<String>) -> Self {
        self.access = letters.into();
        self
    }

    /// Whether a control group has to hold what it may not.
    pub(crate) fn is_restricted(&self) -> bool {
        self.rule(DeviceRule::device(false, 0, 0)).is_none_or(|rule| !(rule.read && rule.write))
    }

    fn rule(&self, of: DeviceRule) -> Option<DeviceRule> {
        of.access(&self.access)
    }

    /// All nodes that it stands for.
    pub(crate) fn nodes(&self) -> Result<Vec<Node>, Problem> {
        let bad = |what: String, remedy: &str| Problem { what, remedy: Some(remedy.into()) };
        if self.rule(DeviceRule::device(false, 0, 0)).is_none() {
            let what = format!("{:?} is nothing that can be done with the device {}", self.access, self.path.display());
            return Err(bad(what, "some of r, w and m"));
        }
        let target = self.target.as_ref().unwrap_or(&self.path);
        if !target.is_absolute() || target.components().any(|part| part == std::path::Component::ParentDir) {
            return Err(bad(format!("{} can't be the path of a device inside", target.display()), "a plain path below /dev"));
        }
        // Links as /dev/disk/by-id has them are this host's own.
        let found = self.path.canonicalize();
        let path = found.map_err(|error| bad(format!("there is no device {}: {error}", self.path.display()), "look in /dev"))?;
        let mut nodes = Vec::new();
        self.collect(&path, target, &mut nodes);
        match nodes.is_empty() {
            true => Err(bad(format!("{} is no device", self.path.display()), "mount files and directories instead")),
            false => Ok(nodes),
        }
    }

    fn collect(&self, path: &Path, target: &Path, nodes: &mut Vec<Node>) {
        let Ok(found) = path.symlink_metadata() else { return };
        let kind = found.file_type();
        if kind.is_dir() {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries.for_each(|entry| self.collect(&entry.path(), &target.join(entry.file_name()), nodes));
        } else if kind.is_char_device() || kind.is_block_device() {
            let (major, minor) = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
            let block = kind.is_block_device();
            if let Some(rule) = self.rule(DeviceRule::device(block, major, minor)) {
                nodes.push(Node { mount: Mount::device(path, target, major, minor, block), rule });
            }
        }
    }
}

impl From<&str> for Device {
    fn from(text: &str) -> Self {
        let mut parts = text.splitn(3, ':');
        let device = Self::new(parts.next().unwrap_or_default());
        match (parts.next(), parts.next()) {
            (None, _) => device,
            // Docker's short form: a second part that is no path says what may be done.
            (Some(letters), None) if !letters.starts_with('/') => device.access(letters),
            (Some(target), None) => device.at(target),
            (Some(target), Some(letters)) => device.at(target).access(letters),
        }
    }
}

impl From<String> for Device {
    fn from(text: String) -> Self {
        Self::from(text.as_str())
    }
}

/// All devices of this host but those that every container has.
pub(crate) fn all_of_the_host() -> Vec<Node> {
    const OWN: [&str; 12] = [
        "/dev/null",
        "/dev/zero",
        "/dev/full",
        "/dev/random",
        "/dev/urandom",
        "/dev/tty",
        "/dev/ptmx",
        "/dev/console",
        "/dev/pts",
        "/dev/shm",
        "/dev/mqueue",
        "/dev/fd",
    ];
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten().map(|entry| entry.path());
    let mut nodes = Vec::new();
    entries
        .filter(|path| !OWN.iter().any(|own| Path::new(own) == path))
        .for_each(|path| Device::new(&path).collect(&path, &path, &mut nodes));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_words_are_read() {
        assert_eq!(Device::from("/dev/null"), Device::new("/dev/null"));
        assert_eq!(Device::from("/dev/null:/dev/x"), Device::new("/dev/null").at("/dev/x"));
        assert_eq!(Device::from("/dev/null:r"), Device::new("/dev/null").access("r"));
        assert!(Device::from("/dev/null:r").is_restricted() && !Device::from("/dev/null:rw").is_restricted());
    }

    #[test]
    fn only_devices_are_devices() {
        assert_eq!(Device::new("/dev/null").nodes().unwrap().len(), 1);
        for (device, says) in [
            (Device::new("/etc"), "/etc is no device"),
            (Device::new("/dev/no-such"), "there is no device /dev/no-such"),
            (Device::new("/dev/null").access("x"), "\"x\" is nothing"),
            (Device::new("/dev/null").access(""), "\"\" is nothing"),
            (Device::new("/dev/null").at("/dev/../etc/x"), "can't be the path of a device"),
        ] {
            let problem = device.nodes().map(|_| ()).unwrap_err();
            assert!(problem.what.contains(says) && problem.remedy.is_some(), "{}", problem.what);
        }
    }
}
