//! Landlock: a process gives up rights over files, for itself and for all that come of it, and nobody can give them back.

use crate::failure::Fault;
use crate::system_call::{
    Errno, Fd, close, fstat, landlock_allow, landlock_restrict, landlock_ruleset, landlock_version, open, openat2, resolve,
};
use crate::wire::{LandlockRule, List};

/// The rights over files that each version of the interface knows: those below this bit.
const RIGHTS: [u32; 5] = [13, 14, 15, 15, 16];
/// Rights that mean something of a file that is no directory: execute, write, read, truncate, ioctl.
const OF_FILES: u64 = 0b1100_0000_0000_0111;

/// Restricts this process to what the rules allow below paths inside the root.
pub fn restrict(root: Fd, handled: u64, rules: &List<'_, LandlockRule<'_>>) -> Result<(), Fault> {
    let version = landlock_version()?;
    let known = (1 << RIGHTS.get(version.saturating_sub(1)).or(RIGHTS.last()).copied().unwrap_or(13)) - 1;
    let ruleset = landlock_ruleset(handled & known)?;
    for rule in rules.iter() {
        let below = match openat2(root, rule.path, open::PATH, 0, resolve::IN_ROOT | resolve::NO_MAGICLINKS) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => continue,
            other => other?,
        };
        let rights = if fstat(below)?.is_directory() { rule.access } else { rule.access & OF_FILES };
        let allowed = landlock_allow(ruleset, rights & handled & known, below);
        close(below);
        allowed?;
    }
    let restricted = landlock_restrict(ruleset);
    close(ruleset);
    Ok(restricted?)
}
