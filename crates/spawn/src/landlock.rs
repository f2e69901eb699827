//! Landlock: what a process may do with files at most, whatever its user and its capabilities.

use std::path::PathBuf;

/// Rights over files that a process keeps; all others it gives up, for itself and all that comes of it. See landlock(7).
///
/// A kernel that knows fewer rights restricts those that it knows. Needs Linux 5.13 with Landlock switched on; otherwise the step fails, and
/// with it the start. Paths are looked up inside the root; one that isn't there is passed over.
///
/// ```
/// use coracle_spawn::Landlock;
/// let rules = Landlock::new().read_and_execute("/").write("/tmp");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[must_use]
pub struct Landlock {
    pub(crate) rules: Vec<(PathBuf, u64)>,
}

// LANDLOCK_ACCESS_FS_* of linux/landlock.h.
const EXECUTE: u64 = 1;
const READ: u64 = 1 << 2 | 1 << 3;
/// All 16 rights over files that version 5 of the interface has.
const ALL: u64 = (1 << 16) - 1;

impl Landlock {
    /// Nothing is allowed that the rules don't name.
    pub fn new() -> Self {
        Self::default()
    }

    /// Files below are read, directories listed, programs executed.
    pub fn read_and_execute(self, path: impl Into<PathBuf>) -> Self {
        self.allow(path, READ | EXECUTE)
    }

    /// Files below are read, and directories listed.
    pub fn read(self, path: impl Into<PathBuf>) -> Self {
        self.allow(path, READ)
    }

    /// Files below are read, written, made, moved and removed; not executed.
    pub fn write(self, path: impl Into<PathBuf>) -> Self {
        self.allow(path, ALL & !EXECUTE)
    }

    fn allow(mut self, path: impl Into<PathBuf>, access: u64) -> Self {
        self.rules.push((path.into(), access));
        self
    }

    /// What is restricted: everything.
    pub(crate) fn handled(&self) -> u64 {
        ALL
    }

    /// Whether anything may be executed.
    pub(crate) fn may_execute(&self) -> bool {
        self.rules.iter().any(|(_, access)| access & EXECUTE != 0)
    }

    /// Whether this kernel has it: the version of its interface.
    ///
    /// Asks by the list of security modules and, where that isn't mounted, by the kernel's version.
    pub fn is_there() -> bool {
        match std::fs::read_to_string("/sys/kernel/security/lsm") {
            Ok(modules) => modules.trim().split(',').any(|module| module == "landlock"),
            Err(_) => true,
        }
    }
}
