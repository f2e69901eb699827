//! Which namespaces a process gets of its own; see namespaces(7).

use std::ops::{BitOr, Sub};

/// A set of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct Namespaces(u64);

impl Namespaces {
    /// Process ids; the first process in it is PID 1, and when it ends so does everything in there.
    pub const PID: Self = Self(0x2000_0000);
    /// Mounts.
    pub const MOUNT: Self = Self(0x0002_0000);
    /// System V IPC and POSIX message queues.
    pub const IPC: Self = Self(0x0800_0000);
    /// Host name.
    pub const UTS: Self = Self(0x0400_0000);
    /// Network devices, addresses, ports.
    pub const NETWORK: Self = Self(0x4000_0000);
    /// The view of cgroups. Linux 4.6.
    pub const CGROUP: Self = Self(0x0200_0000);
    /// Users, groups and capabilities. [`Spawn::id_map`](crate::Spawn::id_map) adds it by itself.
    pub const USER: Self = Self(0x1000_0000);

    /// None.
    pub const fn none() -> Self {
        Self(0)
    }

    /// All but [`USER`](Self::USER), which comes with an id map.
    pub const fn all() -> Self {
        Self(Self::PID.0 | Self::MOUNT.0 | Self::IPC.0 | Self::UTS.0 | Self::NETWORK.0 | Self::CGROUP.0)
    }

    /// Whether all of `other` are in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// As `CLONE_NEW*` flags of clone(2).
    pub const fn flags(self) -> u64 {
        self.0
    }
}

impl BitOr for Namespaces {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl Sub for Namespaces {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// Why this host refuses user namespaces, and what to do.
pub(crate) fn why_no_user_namespaces() -> (String, Option<String>) {
    known_restriction().unwrap_or_else(|| {
        (
            "the kernel or a system call filter (Docker's, Podman's) denies them".into(),
            Some(
                "inside another container, start that one with --security-opt seccomp=unconfined --security-opt apparmor=unconfined".into(),
            ),
        )
    })
}

/// What a setting of this host says against user namespaces.
pub(crate) fn known_restriction() -> Option<(String, Option<String>)> {
    let setting = |path: &str| std::fs::read_to_string(path).map(|s| s.trim().to_owned()).ok();
    if setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
        return Some((
            "AppArmor restricts them to programs with a profile (kernel.apparmor_restrict_unprivileged_userns = 1, the default of Ubuntu since 23.10)"
                .into(),
            Some("sudo coracle doctor --fix; or, for all programs: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0".into()),
        ));
    }
    if setting("/proc/sys/kernel/unprivileged_userns_clone").as_deref() == Some("0") {
        return Some((
            "they are switched off for plain users (kernel.unprivileged_userns_clone = 0)".into(),
            Some("sudo sysctl -w kernel.unprivileged_userns_clone=1".into()),
        ));
    }
    if setting("/proc/sys/user/max_user_namespaces").as_deref() == Some("0") {
        return Some((
            "their number is limited to none (user.max_user_namespaces = 0)".into(),
            Some("sudo sysctl -w user.max_user_namespaces=15000".into()),
        ));
    }
    None
}
