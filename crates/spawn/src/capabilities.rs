//! Capabilities: what root can do, cut into pieces; see capabilities(7).

use std::fmt;
use std::str::FromStr;

macro_rules! capabilities {
    ($($name:ident = $number:literal $constant:ident;)*) => {
        const NAMES: &[(&str, u8)] = &[$((stringify!($name), $number)),*];
        impl Capability {
            $(#[doc = concat!("`CAP_", stringify!($name), "`")] pub const $constant: Self = Self($number);)*
        }
    };
}

/// One capability.
///
/// ```
/// use coracle_spawn::Capability;
/// assert_eq!("net_admin".parse(), Ok(Capability::NET_ADMIN));
/// assert_eq!("CAP_NET_ADMIN".parse(), Ok(Capability::NET_ADMIN));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Capability(u8);

capabilities! {
    CHOWN = 0 CHOWN; DAC_OVERRIDE = 1 DAC_OVERRIDE; DAC_READ_SEARCH = 2 DAC_READ_SEARCH; FOWNER = 3 FOWNER; FSETID = 4 FSETID;
    KILL = 5 KILL; SETGID = 6 SETGID; SETUID = 7 SETUID; SETPCAP = 8 SETPCAP; LINUX_IMMUTABLE = 9 LINUX_IMMUTABLE;
    NET_BIND_SERVICE = 10 NET_BIND_SERVICE; NET_BROADCAST = 11 NET_BROADCAST; NET_ADMIN = 12 NET_ADMIN; NET_RAW = 13 NET_RAW;
    IPC_LOCK = 14 IPC_LOCK; IPC_OWNER = 15 IPC_OWNER; SYS_MODULE = 16 SYS_MODULE; SYS_RAWIO = 17 SYS_RAWIO; SYS_CHROOT = 18 SYS_CHROOT;
    SYS_PTRACE = 19 SYS_PTRACE; SYS_PACCT = 20 SYS_PACCT; SYS_ADMIN = 21 SYS_ADMIN; SYS_BOOT = 22 SYS_BOOT; SYS_NICE = 23 SYS_NICE;
    SYS_RESOURCE = 24 SYS_RESOURCE; SYS_TIME = 25 SYS_TIME; SYS_TTY_CONFIG = 26 SYS_TTY_CONFIG; MKNOD = 27 MKNOD; LEASE = 28 LEASE;
    AUDIT_WRITE = 29 AUDIT_WRITE; AUDIT_CONTROL = 30 AUDIT_CONTROL; SETFCAP = 31 SETFCAP; MAC_OVERRIDE = 32 MAC_OVERRIDE;
    MAC_ADMIN = 33 MAC_ADMIN; SYSLOG = 34 SYSLOG; WAKE_ALARM = 35 WAKE_ALARM; BLOCK_SUSPEND = 36 BLOCK_SUSPEND; AUDIT_READ = 37 AUDIT_READ;
    PERFMON = 38 PERFMON; BPF = 39 BPF; CHECKPOINT_RESTORE = 40 CHECKPOINT_RESTORE;
}

/// A word that names no capability.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct UnknownCapability(pub String);

impl fmt::Display for UnknownCapability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no capability (capabilities(7) lists them; with or without CAP_, in any case)", self.0)
    }
}

impl std::error::Error for UnknownCapability {}

impl FromStr for Capability {
    type Err = UnknownCapability;
    fn from_str(word: &str) -> Result<Self, UnknownCapability> {
        let upper = word.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        NAMES.iter().find(|(n, _)| *n == name).map(|&(_, number)| Self(number)).ok_or_else(|| UnknownCapability(word.to_owned()))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "CAP_{name}"),
            None => write!(f, "CAP_{}", self.0),
        }
    }
}

/// Several capabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CapabilitySet(u64);

impl CapabilitySet {
    /// None.
    pub const fn empty() -> Self {
        Self(0)
    }

    /// All that exist, also those that this crate doesn't know.
    pub const fn all() -> Self {
        Self((1 << 63) - 1)
    }

    /// The fourteen that Docker gives root in a container.
    pub const fn docker_default() -> Self {
        Self(
            1 << 0
                | 1 << 1
                | 1 << 3
                | 1 << 4
                | 1 << 5
                | 1 << 6
                | 1 << 7
                | 1 << 8
                | 1 << 10
                | 1 << 13
                | 1 << 18
                | 1 << 27
                | 1 << 29
                | 1 << 31,
        )
    }

    /// With one more.
    pub const fn with(self, capability: Capability) -> Self {
        Self(self.0 | 1 << capability.0)
    }

    /// Without one.
    pub const fn without(self, capability: Capability) -> Self {
        Self(self.0 & !(1 << capability.0))
    }

    /// Whether it is in.
    pub const fn contains(self, capability: Capability) -> bool {
        self.0 >> capability.0 & 1 == 1
    }

    /// Those of these bits that are capabilities.
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits & Self::all().0)
    }

    /// Bit n is capability n.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl FromIterator<Capability> for CapabilitySet {
    fn from_iter<I: IntoIterator<Item = Capability>>(capabilities: I) -> Self {
        capabilities.into_iter().fold(Self::empty(), Self::with)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_default_is_dockers() {
        let names: Vec<_> = NAMES.iter().filter(|(_, n)| CapabilitySet::docker_default().0 >> n & 1 == 1).map(|(name, _)| *name).collect();
        assert_eq!(
            names,
            [
                "CHOWN",
                "DAC_OVERRIDE",
                "FOWNER",
                "FSETID",
                "KILL",
                "SETGID",
                "SETUID",
                "SETPCAP",
                "NET_BIND_SERVICE",
                "NET_RAW",
                "SYS_CHROOT",
                "MKNOD",
                "AUDIT_WRITE",
                "SETFCAP"
            ]
        );
    }
}
