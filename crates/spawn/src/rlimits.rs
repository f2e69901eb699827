//! Resource limits of a process; see getrlimit(2) and docker-run(1) `--ulimit`.

use std::fmt;
use std::str::FromStr;

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[repr(u32)]
pub enum Resource {
    /// CPU time in seconds.
    Cpu = 0,
    /// Size of a file in bytes.
    Fsize = 1,
    /// Size of the data segment in bytes.
    Data = 2,
    /// Size of the stack in bytes.
    Stack = 3,
    /// Size of a core dump in bytes.
    Core = 4,
    /// Number of processes of the user.
    Nproc = 6,
    /// Highest descriptor, plus one.
    Nofile = 7,
    /// Locked memory in bytes.
    Memlock = 8,
    /// Address space in bytes.
    As = 9,
    /// Number of file locks.
    Locks = 10,
    /// Number of queued signals.
    Sigpending = 11,
    /// Bytes in POSIX message queues.
    Msgqueue = 12,
    /// Ceiling of the nice value, as 20 - nice.
    Nice = 13,
    /// Ceiling of the real-time priority.
    Rtprio = 14,
    /// Microseconds of real-time CPU between two blocking calls.
    Rttime = 15,
}

const NAMES: [(&str, Resource); 15] = [
    ("cpu", Resource::Cpu),
    ("fsize", Resource::Fsize),
    ("data", Resource::Data),
    ("stack", Resource::Stack),
    ("core", Resource::Core),
    ("nproc", Resource::Nproc),
    ("nofile", Resource::Nofile),
    ("memlock", Resource::Memlock),
    ("as", Resource::As),
    ("locks", Resource::Locks),
    ("sigpending", Resource::Sigpending),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
];

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.iter().find(|(_, r)| r == self).map_or("?", |(name, _)| name))
    }
}

/// A limit: `soft` is in force, `hard` is how far the process may raise it. `u64::MAX` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rlimit {
    /// What is limited.
    pub resource: Resource,
    /// In force.
    pub soft: u64,
    /// The ceiling.
    pub hard: u64,
}

/// A word that is no limit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BadRlimit(pub String);

impl fmt::Display for BadRlimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is no resource limit: NAME=SOFT[:HARD] with a number or -1 for none, and NAME one of", self.0)?;
        NAMES.iter().try_for_each(|(name, _)| write!(f, " {name}"))
    }
}

impl std::error::Error for BadRlimit {}

impl FromStr for Rlimit {
    type Err = BadRlimit;
    /// As docker-run(1) writes it: `nofile=1024`, `nofile=1024:2048`, `core=-1`.
    fn from_str(word: &str) -> Result<Self, BadRlimit> {
        let bad = || BadRlimit(word.to_owned());
        let number = |s: &str| {
            if s == "-1" { Some(u64::MAX) } else { s.parse().ok() }
        };
        let (name, value) = word.split_once('=').ok_or_else(bad)?;
        let resource = NAMES.iter().find(|(n, _)| *n == name).ok_or_else(bad)?.1;
        let (soft, hard) = value.split_once(':').unwrap_or((value, value));
        let limit = Self { resource, soft: number(soft).ok_or_else(bad)?, hard: number(hard).ok_or_else(bad)? };
        if limit.soft > limit.hard { Err(bad()) } else { Ok(limit) }
    }
}
