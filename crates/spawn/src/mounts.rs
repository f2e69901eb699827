//! The file system that a process sees: a root, and what is mounted on it.

use std::ffi::OsString;
use std::ops::BitOr;
use std::path::{Path, PathBuf};

/// Attributes of a mount; see mount_setattr(2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Attributes(u64);

impl Attributes {
    /// No writing.
    pub const READ_ONLY: Self = Self(1);
    /// Set-id bits and file capabilities mean nothing.
    pub const NOSUID: Self = Self(2);
    /// Device nodes open no device.
    pub const NODEV: Self = Self(4);
    /// Nothing is executed from it.
    pub const NOEXEC: Self = Self(8);

    /// None.
    pub const fn none() -> Self {
        Self(0)
    }

    /// As `MOUNT_ATTR_*` flags.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl BitOr for Attributes {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// An overlay of directories; see the kernel's Documentation/filesystems/overlayfs.rst.
///
/// Layers are named to the kernel by descriptor, so their paths may be of any length and hold colons. Linux 6.7 takes up to 500
/// layers; before, as many as fit a page by number: about 1,000.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Overlay {
    pub(crate) lower: Vec<PathBuf>,
    pub(crate) upper: Option<(PathBuf, PathBuf)>,
    pub(crate) userxattr: bool,
    pub(crate) volatile: bool,
}

impl Overlay {
    /// Of these directories, the topmost first. Read-only until [`Overlay::writable`].
    pub fn new<I: IntoIterator<Item = P>, P: Into<PathBuf>>(lower: I) -> Self {
        Self { lower: lower.into_iter().map(Into::into).collect(), upper: None, userxattr: false, volatile: false }
    }

    /// What is written goes to `upper`; `work` is an empty directory of the same file system. Both must be there when the process
    /// starts ([`Effect::MakeDirectory`](crate::Effect) makes them).
    pub fn writable(mut self, upper: impl Into<PathBuf>, work: impl Into<PathBuf>) -> Self {
        self.upper = Some((upper.into(), work.into()));
        self
    }

    /// Marks of overlayfs are `user.overlay.*` and not `trusted.overlay.*`: in a user namespace the only ones. Linux 5.11.
    pub fn userxattr(mut self, yes: bool) -> Self {
        self.userxattr = yes;
        self
    }

    /// The upper directory isn't synced when the overlay goes, for containers whose files go with them. Linux 5.10.
    pub fn volatile(mut self, yes: bool) -> Self {
        self.volatile = yes;
        self
    }
}

/// What a process sees as `/`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Root {
    /// The host's, unchanged.
    Host,
    /// A directory of the host.
    Bind {
        /// The directory.
        source: PathBuf,
        /// How it is mounted.
        attributes: Attributes,
    },
    /// An overlay.
    Overlay {
        /// Its layers.
        overlay: Overlay,
        /// How it is mounted.
        attributes: Attributes,
    },
    /// An empty tmpfs.
    Tmpfs {
        /// How it is mounted.
        attributes: Attributes,
    },
}

impl Root {
    /// A directory of the host, with what is mounted below it; device nodes in it open no device.
    pub fn bind(source: impl Into<PathBuf>) -> Self {
        Self::Bind { source: source.into(), attributes: Attributes::NODEV }
    }

    /// An overlay; device nodes in it open no device.
    pub fn overlay(overlay: Overlay) -> Self {
        Self::Overlay { overlay, attributes: Attributes::NODEV }
    }

    /// An empty tmpfs.
    pub fn tmpfs() -> Self {
        Self::Tmpfs { attributes: Attributes::NODEV | Attributes::NOSUID }
    }
}

/// Something in the file system of a process. Targets are looked up inside its root, links and all.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Mount(pub(crate) Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Filesystem { filesystem: String, options: Vec<OsString>, attributes: Attributes, target: PathBuf, real: bool },
    Sysfs { writable: bool },
    Borrowed { path: PathBuf, target: PathBuf },
    Devpts,
    Bind { source: PathBuf, target: PathBuf, attributes: Attributes, recursive: bool, owner: Option<(u32, u32)> },
    Overlay { overlay: Overlay, target: PathBuf, attributes: Attributes },
    DeviceDirectory { nodes: bool },
    MessageQueues,
    Device { path: PathBuf, target: PathBuf, major: u32, minor: u32, block: bool },
    Symlink { contents: PathBuf, target: PathBuf },
    Directory { target: PathBuf, mode: u32 },
    File { target: PathBuf, contents: Vec<u8>, mode: u32 },
    Mask { target: PathBuf },
    ReadOnlyPath { target: PathBuf },
    Sysctl { key: String, value: String, required: bool },
    Cgroup { filesystem: &'static str, controller: Option<String>, target: PathBuf },
}

const QUIET: Attributes = Attributes(Attributes::NOSUID.0 | Attributes::NODEV.0 | Attributes::NOEXEC.0);

impl Mount {
    /// A file or directory of the host, with what is mounted below it. Its target is made if it isn't there. Device nodes below
    /// it open no device.
    pub fn bind(source: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self(Kind::Bind { source: source.into(), target: target.into(), attributes: Attributes::NODEV, recursive: true, owner: None })
    }

    /// Of a file or directory of the host: what belongs to `uid` and `gid` outside belongs to the process's [user](crate::Spawn::user) inside, and
    /// the other way round. An idmapped mount, which the file system has to know (Linux 5.12); with an [id map](crate::Spawn::id_map), root
    /// inside is that owner already, and it is an error for anybody else.
    pub fn owned_by(mut self, uid: u32, gid: u32) -> Self {
        if let Kind::Bind { owner, .. } = &mut self.0 {
            *owner = Some((uid, gid));
        }
        self
    }

    /// An empty tmpfs: no set-id programs, no devices. Options are mount(8)'s: `size=64m`, `mode=1777`.
    pub fn tmpfs(target: impl Into<PathBuf>, options: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        let attributes = Attributes::NOSUID | Attributes::NODEV;
        let options = options.into_iter().map(Into::into).collect();
        Self(Kind::Filesystem { filesystem: "tmpfs".into(), options, attributes, target: target.into(), real: false })
    }

    /// Any file system of the kernel.
    pub fn filesystem(
        filesystem: impl Into<String>,
        target: impl Into<PathBuf>,
        options: impl IntoIterator<Item = impl Into<OsString>>,
        attributes: Attributes,
    ) -> Self {
        let options = options.into_iter().map(Into::into).collect();
        Self(Kind::Filesystem { filesystem: filesystem.into(), options, attributes, target: target.into(), real: false })
    }

    /// The same with other attributes.
    pub fn attributes(mut self, new: Attributes) -> Self {
        match &mut self.0 {
            Kind::Filesystem { attributes, .. } | Kind::Bind { attributes, .. } | Kind::Overlay { attributes, .. } => *attributes = new,
            _ => {}
        }
        self
    }

    /// The same without writing.
    pub fn read_only(mut self) -> Self {
        match &mut self.0 {
            Kind::Filesystem { attributes, .. } | Kind::Bind { attributes, .. } | Kind::Overlay { attributes, .. } => {
                *attributes = *attributes | Attributes::READ_ONLY;
            }
            _ => {}
        }
        self
    }

    /// An overlay below the root.
    pub fn overlay(overlay: Overlay, target: impl Into<PathBuf>) -> Self {
        Self(Kind::Overlay { overlay, target: target.into(), attributes: Attributes::NODEV })
    }

    /// A procfs of the process's pid namespace at /proc. Refused where /proc in the root is a link.
    pub fn proc() -> Self {
        Self(Kind::Filesystem { filesystem: "proc".into(), options: Vec::new(), attributes: QUIET, target: "/proc".into(), real: true })
    }

    /// A symlink, unless something of that name is there.
    pub fn symlink(contents: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self(Kind::Symlink { contents: contents.into(), target: target.into() })
    }

    /// A directory, unless something of that name is there.
    pub fn directory(target: impl Into<PathBuf>, mode: u32) -> Self {
        Self(Kind::Directory { target: target.into(), mode })
    }

    /// A file with these contents, which exists only for this process, over what is there. Needs [`Mount::standard`]'s /dev.
    pub fn file(target: impl Into<PathBuf>, contents: impl Into<Vec<u8>>, mode: u32) -> Self {
        Self(Kind::File { target: target.into(), contents: contents.into(), mode })
    }

    /// Hides a file or directory, if there is one. Needs [`Mount::standard`]'s /dev.
    pub fn mask(target: impl Into<PathBuf>) -> Self {
        Self(Kind::Mask { target: target.into() })
    }

    /// Makes a file or directory read-only, if there is one.
    pub fn read_only_path(target: impl Into<PathBuf>) -> Self {
        Self(Kind::ReadOnlyPath { target: target.into() })
    }

    /// A setting of the process's namespaces: `net.ipv4.ip_unprivileged_port_start`. What this kernel doesn't have is passed over.
    pub fn sysctl(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self(Kind::Sysctl { key: key.into(), value: value.into(), required: false })
    }

    /// The same; that a kernel doesn't have it is an error.
    pub fn sysctl_required(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self(Kind::Sysctl { key: key.into(), value: value.into(), required: true })
    }

    /// The cgroup2 file system, read-only, with the process's own cgroup as its root. Mounted after the cgroups are joined.
    pub fn cgroup2(target: impl Into<PathBuf>) -> Self {
        Self(Kind::Cgroup { filesystem: "cgroup2", controller: None, target: target.into() })
    }

    /// A controller of cgroup v1, read-only, likewise.
    pub fn cgroup_v1(controller: impl Into<String>, target: impl Into<PathBuf>) -> Self {
        Self(Kind::Cgroup { filesystem: "cgroup", controller: Some(controller.into()), target: target.into() })
    }

    /// A device of this host: the node at `path`, if it is the one with these numbers when the process starts. `block`: a block device.
    pub fn device(path: impl Into<PathBuf>, target: impl Into<PathBuf>, major: u32, minor: u32, block: bool) -> Self {
        Self(Kind::Device { path: path.into(), target: target.into(), major, minor, block })
    }

    /// What another mount namespace has at `path`, without set-id programs, devices and programs. With that namespace joined by
    /// [`Spawn::join_namespace`](crate::Spawn::join_namespace).
    pub fn borrowed(path: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        Self(Kind::Borrowed { path: path.into(), target: target.into() })
    }

    /// What programs expect and the OCI runtime specification lists: /dev with the default devices, a terminal multiplexer, shared
    /// memory (64 MiB) and message queues, /proc, a read-only /sys, and the paths that containers don't see or don't write.
    pub fn standard() -> Vec<Self> {
        Standard::new().mounts()
    }
}

/// [`Mount::standard`] with other words.
///
/// ```
/// use coracle_spawn::Standard;
/// let mounts = Standard::new().shared_memory(1 << 20).masked(["/proc/kcore"]).mounts();
/// # assert!(!mounts.is_empty());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Standard {
    shared_memory: SharedMemory,
    device_nodes: bool,
    writable_sys: bool,
    masked: Vec<PathBuf>,
    read_only: Vec<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SharedMemory {
    Own(u64),
    Host,
    Borrowed,
}

impl Default for Standard {
    fn default() -> Self {
        Self::new()
    }
}

impl Standard {
    /// What the OCI runtime specification and Docker have.
    pub fn new() -> Self {
        Self {
            shared_memory: SharedMemory::Own(64 << 20),
            device_nodes: false,
            writable_sys: false,
            masked: MASKED.map(PathBuf::from).into(),
            read_only: READ_ONLY.map(PathBuf::from).into(),
        }
    }

    /// The paths that are masked if nothing is said.
    pub fn default_masked() -> &'static [&'static str] {
        &MASKED
    }

    /// The paths that are read-only if nothing is said.
    pub fn default_read_only() -> &'static [&'static str] {
        &READ_ONLY
    }

    /// The size of /dev/shm in bytes.
    pub fn shared_memory(mut self, bytes: u64) -> Self {
        self.shared_memory = SharedMemory::Own(bytes);
        self
    }

    /// /dev/shm is this host's, for who is in its IPC namespace.
    pub fn shared_memory_of_host(mut self) -> Self {
        self.shared_memory = SharedMemory::Host;
        self
    }

    /// /dev/shm is that of the mount namespace that is joined by [`Spawn::join_namespace`](crate::Spawn::join_namespace).
    pub fn shared_memory_borrowed(mut self) -> Self {
        self.shared_memory = SharedMemory::Borrowed;
        self
    }

    /// Whether a node that somebody makes in /dev opens its device. Then a device filter of the cgroup alone says which.
    pub fn device_nodes(mut self, yes: bool) -> Self {
        self.device_nodes = yes;
        self
    }

    /// Whether /sys can be written, by who may.
    pub fn writable_sys(mut self, yes: bool) -> Self {
        self.writable_sys = yes;
        self
    }

    /// The paths that are hidden, instead of the usual ones.
    pub fn masked<I: IntoIterator<Item = P>, P: Into<PathBuf>>(mut self, paths: I) -> Self {
        self.masked = paths.into_iter().map(Into::into).collect();
        self
    }

    /// The paths that are made read-only, instead of the usual ones.
    pub fn read_only<I: IntoIterator<Item = P>, P: Into<PathBuf>>(mut self, paths: I) -> Self {
        self.read_only = paths.into_iter().map(Into::into).collect();
        self
    }

    /// The mounts, in order.
    pub fn mounts(&self) -> Vec<Mount> {
        let own = |filesystem: &str, options: Vec<OsString>, target: &str| {
            Mount(Kind::Filesystem { filesystem: filesystem.into(), options, attributes: QUIET, target: target.into(), real: true })
        };
        let mut mounts = vec![
            Mount(Kind::DeviceDirectory { nodes: self.device_nodes }),
            Mount::directory("/dev/pts", 0o755),
            Mount::directory("/dev/shm", 0o1777),
            Mount::directory("/dev/mqueue", 0o755),
            Mount(Kind::Devpts),
        ];
        match self.shared_memory {
            SharedMemory::Own(bytes) => mounts.push(own("tmpfs", vec!["mode=1777".into(), format!("size={bytes}").into()], "/dev/shm")),
            SharedMemory::Host => mounts.push(Mount::bind("/dev/shm", "/dev/shm").attributes(QUIET)),
            SharedMemory::Borrowed => mounts.push(Mount::borrowed("/dev/shm", "/dev/shm")),
        }
        mounts.push(Mount(Kind::MessageQueues));
        let device = |name: &str, major, minor| {
            let path = Path::new("/dev").join(name);
            Mount::device(&path, &path, major, minor, false)
        };
        for (name, minor) in [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)] {
            mounts.push(device(name, 1, minor));
        }
        mounts.push(device("tty", 5, 0));
        for (contents, target) in [
            ("/proc/self/fd", "/dev/fd"),
            ("/proc/self/fd/0", "/dev/stdin"),
            ("/proc/self/fd/1", "/dev/stdout"),
            ("/proc/self/fd/2", "/dev/stderr"),
            ("pts/ptmx", "/dev/ptmx"),
        ] {
            mounts.push(Mount::symlink(contents, target));
        }
        // Last, because the network namespace, which they wait for, takes longest to make.
        mounts.extend([Mount::proc(), Mount(Kind::Sysfs { writable: self.writable_sys })]);
        mounts.extend(self.masked.iter().map(Mount::mask));
        mounts.extend(self.read_only.iter().map(Mount::read_only_path));
        mounts
    }
}

/// What leaks from the host or lets it be harmed: Docker's list.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
