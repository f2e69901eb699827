//! What cgroup file systems this machine mounts, and where this process is in them.
//!
//! Read from two texts of `/proc`, so that every layout of the field is a row of a table in the tests.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::path::{Component, Path, PathBuf};

use crate::error::Error;
use crate::parse;

/// The layout of a machine's control groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Version {
    /// cgroup2 alone.
    V2,
    /// v1 controllers, and a cgroup2 tree beside them.
    Hybrid,
    /// v1 controllers alone.
    V1,
    /// Nothing is mounted (that this process sees).
    None,
}

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mount {
    /// Where it is mounted, such as `/sys/fs/cgroup`.
    pub point: PathBuf,
    /// Which cgroup is seen at the mount point, as seen from this process's cgroup namespace.
    pub root: PathBuf,
    /// Whether the mount is read-write (whether this user may write is another question).
    pub writable: bool,
    /// The v1 controllers of the hierarchy; empty for cgroup2, whose controllers stand in `cgroup.controllers`.
    pub controllers: BTreeSet<String>,
    /// The cgroup of this process in the hierarchy, as `/proc/self/cgroup` tells it; starts with `/`.
    pub own: Option<PathBuf>,
}

impl Mount {
    /// The directory of this process's own cgroup; `None` when the mount doesn't show it.
    ///
    /// In a container whose cgroup namespace is the host's, the mount shows only the container's part:
    ///
    /// ```
    /// use coracle_cgroups::Hierarchies;
    /// let hierarchies = Hierarchies::detect_from(
    ///     "40 30 0:30 /docker/4f2a /sys/fs/cgroup/pids ro,nosuid - cgroup cgroup rw,pids\n",
    ///     "8:pids:/docker/4f2a\n",
    /// );
    /// let pids = hierarchies.v1("pids").unwrap();
    /// assert_eq!(pids.own_dir().unwrap(), std::path::Path::new("/sys/fs/cgroup/pids"));
    /// assert!(!pids.writable);
    /// ```
    pub fn own_dir(&self) -> Option<PathBuf> {
        let below = self.own.as_deref()?.strip_prefix(&self.root).ok()?;
        // A process outside its cgroup namespace's root has `/../x` there.
        if below.components().any(|part| part == Component::ParentDir) {
            return None;
        }
        Some(if below.as_os_str().is_empty() { self.point.clone() } else { self.point.join(below) })
    }
}

/// What cgroup file systems this machine mounts, and where this process is in them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hierarchies {
    /// The layout.
    pub version: Version,
    /// The cgroup2 hierarchy, if it is mounted.
    pub cgroup2: Option<Mount>,
    /// The v1 hierarchies that have a controller (named ones, such as `name=systemd`, have none).
    pub v1: Vec<Mount>,
}

impl Hierarchies {
    /// Reads `/proc/self/mountinfo` and `/proc/self/cgroup`.
    ///
    /// The own cgroup may change while a process lives; detect again after that. Needs no privilege.
    ///
    /// # Errors
    ///
    /// [`Error::Io`] where `/proc` can't be read.
    ///
    /// ```
    /// # fn main() -> Result<(), coracle_cgroups::Error> {
    /// println!("{:?}", coracle_cgroups::Hierarchies::detect()?.version);
    /// # Ok(()) }
    /// ```
    pub fn detect() -> Result<Hierarchies, Error> {
        let read = |path: &str| {
            // The kernel says 0 for its length, for which std reads it in many small pieces.
            let mut raw = Vec::with_capacity(16 << 10);
            match std::fs::File::open(path).and_then(|mut file| file.read_to_end(&mut raw)) {
                Ok(_) => Ok(String::from_utf8_lossy(&raw).into_owned()),
                Err(source) => Err(Error::Io { action: "read", path: path.into(), source }),
            }
        };
        Ok(Hierarchies::detect_from(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?))
    }

    /// The same from the texts of `/proc/PID/mountinfo` and `/proc/PID/cgroup`. Lines that it can't read are skipped.
    pub fn detect_from(mountinfo: &str, proc_cgroup: &str) -> Hierarchies {
        let mut seen: Vec<(Kind, Mount)> = Vec::new();
        for line in mountinfo.lines() {
            let Some(found) = mount_line(line) else {
                continue;
            };
            // The later mount on one point hides the earlier, whatever it is.
            seen.retain(|(_, earlier)| earlier.point != found.1.point);
            seen.push(found);
        }
        for (kind, mount) in &mut seen {
            mount.own = proc_cgroup.lines().find_map(|line| own_line(line, kind, mount));
        }
        let mut cgroup2: Option<Mount> = None;
        let mut v1: Vec<Mount> = Vec::new();
        for (kind, mount) in seen {
            match kind {
                Kind::Cgroup2 if cgroup2.as_ref().is_none_or(|other| better(&mount, other)) => cgroup2 = Some(mount),
                Kind::V1 if !mount.controllers.is_empty() => {
                    match v1.iter_mut().find(|other| !other.controllers.is_disjoint(&mount.controllers)) {
                        Some(other) if better(&mount, other) => *other = mount,
                        Some(_) => {}
                        None => v1.push(mount),
                    }
                }
                _ => {}
            }
        }
        let version = match (cgroup2.is_some(), v1.is_empty()) {
            (true, true) => Version::V2,
            (true, false) => Version::Hybrid,
            (false, false) => Version::V1,
            (false, true) => Version::None,
        };
        Hierarchies { version, cgroup2, v1 }
    }

    /// The v1 hierarchy that has `controller`, such as `memory`.
    pub fn v1(&self, controller: &str) -> Option<&Mount> {
        self.v1.iter().find(|mount| mount.controllers.contains(controller))
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Cgroup2,
    V1,
    /// Not a cgroup file system; it only hides what is below.
    Foreign,
}

/// Whether a second mount of the same hierarchy serves better: shows our own cgroup, is writable, shows more of the tree.
fn better(mount: &Mount, other: &Mount) -> bool {
    let rank = |m: &Mount| (m.own_dir().is_some(), m.writable, std::cmp::Reverse(m.root.components().count()));
    rank(mount) > rank(other)
}

/// One line of mountinfo, as in proc_pid_mountinfo(5):
/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue`.
fn mount_line(line: &str) -> Option<(Kind, Mount)> {
    let (left, right) = line.split_once(" - ")?;
    let mut left = left.split(' ').skip(3);
    let (root, point, options) = (left.next()?, left.next()?, left.next()?);
    let mut right = right.split(' ');
    let (fstype, super_options) = (right.next()?, right.nth(1).unwrap_or(""));
    let kind = match fstype {
        "cgroup2" => Kind::Cgroup2,
        "cgroup" => Kind::V1,
        _ => Kind::Foreign,
    };
    let read_write = |options: &str| options.split(',').any(|option| option == "rw");
    let controllers = match kind {
        Kind::V1 => super_options.split(',').filter(|word| CONTROLLERS.contains(word)).map(str::to_owned).collect(),
        _ => BTreeSet::new(),
    };
    Some((
        kind,
        Mount {
            point: parse::unescape(point).into(),
            root: parse::unescape(root).into(),
            writable: read_write(options) && read_write(super_options),
            controllers,
            own: None,
        },
    ))
}

/// The controllers that v1 ever had; other words of the super block options are options.
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// Our cgroup in the hierarchy of `mount`, from one line of `/proc/self/cgroup`: `4:memory:/path`, `0::/path`.
fn own_line(line: &str, kind: &Kind, mount: &Mount) -> Option<PathBuf> {
    let mut parts = line.splitn(3, ':');
    let (id, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let matches = match kind {
        Kind::Cgroup2 => id == "0" && controllers.is_empty(),
        Kind::V1 => controllers.split(',').any(|c| mount.controllers.contains(c)),
        Kind::Foreign => false,
    };
    // The kernel appends this when the cgroup was removed under a process that is ending.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    (matches && Path::new(path).is_absolute()).then(|| PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Row {
        name: &'static str,
        mountinfo: &'static str,
        cgroup: &'static str,
        version: Version,
        /// own directory in cgroup2, writable
        cgroup2: Option<(Option<&'static str>, bool)>,
        /// controller, own directory, writable
        v1: &'static [(&'static str, Option<&'static str>, bool)],
    }

    const TABLE: &[Row] = &[
        Row {
            name: "a systemd host with cgroup v2, in a session",
            mountinfo: "22 28 0:21 / /sys rw,nosuid,nodev,noexec,relatime shared:7 - sysfs sysfs rw\n\
                        26 22 0:24 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
            cgroup: "0::/user.slice/user-1000.slice/session-3.scope\n",
            version: Version::V2,
            cgroup2: Some((Some("/sys/fs/cgroup/user.slice/user-1000.slice/session-3.scope"), true)),
            v1: &[],
        },
        Row {
            name: "Docker on cgroup v2: private cgroup namespace, read-only mount",
            mountinfo: "1203 1202 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw,nsdelegate\n",
            cgroup: "0::/\n",
            version: Version::V2,
            cgroup2: Some((Some("/sys/fs/cgroup"), false)),
            v1: &[],
        },
        Row {
            name: "a privileged pod of Kubernetes on cgroup v2, host cgroup namespace",
            mountinfo: "961 950 0:27 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime - cgroup2 cgroup rw\n",
            cgroup: "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-9c.scope\n",
            version: Version::V2,
            cgroup2: Some((
                Some("/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-9c.scope"),
                true,
            )),
            v1: &[],
        },
        Row {
            name: "Docker on v1: the mounts show only the container's part",
            mountinfo: "2 1 0:50 / /sys/fs/cgroup rw,nosuid - tmpfs tmpfs rw,mode=755\n\
                        3 2 0:25 /docker/4f2a /sys/fs/cgroup/systemd ro,nosuid master:11 - cgroup cgroup rw,xattr,name=systemd\n\
                        4 2 0:33 /docker/4f2a /sys/fs/cgroup/memory ro,nosuid master:15 - cgroup cgroup rw,memory\n\
                        5 2 0:30 /docker/4f2a /sys/fs/cgroup/cpu,cpuacct ro,nosuid master:16 - cgroup cgroup rw,cpu,cpuacct\n",
            cgroup: "9:memory:/docker/4f2a\n5:cpu,cpuacct:/docker/4f2a\n1:name=systemd:/docker/4f2a\n",
            version: Version::V1,
            cgroup2: None,
            v1: &[
                ("memory", Some("/sys/fs/cgroup/memory"), false),
                ("cpu", Some("/sys/fs/cgroup/cpu,cpuacct"), false),
                ("cpuacct", Some("/sys/fs/cgroup/cpu,cpuacct"), false),
            ],
        },
        Row {
            name: "a privileged pod of Kubernetes on v1",
            mountinfo: "4 2 0:33 /kubepods/burstable/pod7/0a /sys/fs/cgroup/memory rw,nosuid master:15 - cgroup cgroup rw,memory\n\
                        6 2 0:34 /kubepods/burstable/pod7/0a /sys/fs/cgroup/pids rw,nosuid master:17 - cgroup cgroup rw,pids\n",
            cgroup: "9:memory:/kubepods/burstable/pod7/0a\n6:pids:/kubepods/burstable/pod7/0a/inner\n",
            version: Version::V1,
            cgroup2: None,
            v1: &[("memory", Some("/sys/fs/cgroup/memory"), true), ("pids", Some("/sys/fs/cgroup/pids/inner"), true)],
        },
        Row {
            name: "these test machines: hybrid without systemd",
            mountinfo: "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                        32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                        35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                        40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
            cgroup: "9:name=systemd:/\n4:memory:/process_api/27fd\n1:cpu:/\n0::/\n",
            version: Version::Hybrid,
            cgroup2: Some((Some("/sys/fs/cgroup/unified"), true)),
            v1: &[("memory", Some("/sys/fs/cgroup/memory/process_api/27fd"), true), ("cpu", Some("/sys/fs/cgroup/cpu"), true)],
        },
        Row {
            name: "a systemd host in hybrid mode",
            mountinfo: "30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:8 - tmpfs tmpfs ro,mode=755\n\
                        31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n\
                        32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:10 - cgroup cgroup rw,xattr,name=systemd\n\
                        36 30 0:32 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:15 - cgroup cgroup rw,cpu,cpuacct\n",
            cgroup: "4:cpu,cpuacct:/user.slice\n1:name=systemd:/user.slice/user-1000.slice/session-1.scope\n\
                     0::/user.slice/user-1000.slice/session-1.scope\n",
            version: Version::Hybrid,
            cgroup2: Some((Some("/sys/fs/cgroup/unified/user.slice/user-1000.slice/session-1.scope"), true)),
            v1: &[("cpuacct", Some("/sys/fs/cgroup/cpu,cpuacct/user.slice"), true)],
        },
        Row {
            name: "v2 where only systemd's named v1 hierarchy is left",
            mountinfo: "32 30 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                        33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
            cgroup: "0::/\n",
            version: Version::V2,
            cgroup2: Some((Some("/sys/fs/cgroup/unified"), true)),
            v1: &[],
        },
        Row {
            name: "nothing mounted",
            mountinfo: "22 28 0:21 / /sys ro - sysfs sysfs ro\n",
            cgroup: "0::/\n",
            version: Version::None,
            cgroup2: None,
            v1: &[],
        },
        Row {
            name: "a tmpfs mounted over the cgroups, as some sandboxes do",
            mountinfo: "26 22 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n27 26 0:90 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n",
            cgroup: "0::/\n",
            version: Version::None,
            cgroup2: None,
            v1: &[],
        },
        Row {
            name: "a read-only super block under a read-write mount",
            mountinfo: "26 22 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 ro\n",
            cgroup: "0::/\n",
            version: Version::V2,
            cgroup2: Some((Some("/sys/fs/cgroup"), false)),
            v1: &[],
        },
        Row {
            name: "the same hierarchy twice: the writable one wins",
            mountinfo: "26 22 0:24 / /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n27 22 0:24 / /run/my\\040cgroup rw - cgroup2 cgroup2 rw\n",
            cgroup: "0::/a\n",
            version: Version::V2,
            cgroup2: Some((Some("/run/my cgroup/a"), true)),
            v1: &[],
        },
        Row {
            name: "a process outside the root of its cgroup namespace",
            mountinfo: "26 22 0:24 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            cgroup: "0::/../../other\n",
            version: Version::V2,
            cgroup2: Some((None, true)),
            v1: &[],
        },
        Row {
            name: "a bind of a part of the tree that doesn't hold this process",
            mountinfo: "26 22 0:24 /docker/77 /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
            cgroup: "0::/docker/4f2a\n",
            version: Version::V2,
            cgroup2: Some((None, true)),
            v1: &[],
        },
    ];

    #[test]
    fn every_layout_of_the_field_is_told_apart() {
        for row in TABLE {
            let found = Hierarchies::detect_from(row.mountinfo, row.cgroup);
            assert_eq!(found.version, row.version, "{}", row.name);
            let cgroup2 = found.cgroup2.as_ref().map(|m| (m.own_dir(), m.writable));
            assert_eq!(cgroup2, row.cgroup2.map(|(dir, w)| (dir.map(PathBuf::from), w)), "{}", row.name);
            for &(controller, dir, writable) in row.v1 {
                let mount = found.v1(controller).unwrap_or_else(|| panic!("{}: {controller}", row.name));
                assert_eq!((mount.own_dir(), mount.writable), (dir.map(PathBuf::from), writable), "{}: {controller}", row.name);
            }
            let controllers: usize = found.v1.iter().map(|m| m.controllers.len()).sum();
            assert!(controllers >= row.v1.len() && (!row.v1.is_empty() || controllers == 0), "{}", row.name);
        }
    }

    #[test]
    fn no_text_makes_detection_panic() {
        for seed in 0..20_000 {
            let (a, b) = (parse::noise(seed), parse::noise(seed + 1_000_000));
            let found = Hierarchies::detect_from(&String::from_utf8_lossy(&a), &String::from_utf8_lossy(&b));
            if let Some(mount) = found.cgroup2 {
                mount.own_dir();
            }
        }
    }

    #[test]
    fn this_machine_is_read() {
        Hierarchies::detect().unwrap();
    }
}
