//! A stand-in for a C compiler and an archiver: it compiles nothing, and writes down for whom.
//!
//! `cargo check` runs build scripts, and those of `ring` and `zstd-sys` call a C compiler; but nothing is linked. So a check for
//! another target or by another toolchain needs no C compiler, and the stand-in tells which dependencies a *build* needs one for.

use crate::process::{Run, write};
use crate::{Result, metadata};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The stand-in, and its notes.
pub(crate) struct NoC {
    program: PathBuf,
    notes: PathBuf,
}

impl NoC {
    /// Where it stays the same between runs: build scripts run again when their compiler changes.
    pub(crate) fn new() -> Result<Self> {
        let program = metadata::target().join("xtask/no-cc");
        let notes = metadata::target().join("xtask/no-cc.callers");
        script(&program, &format!("echo \"$CARGO_PKG_NAME\" >> '{}'\n", notes.display()))?;
        let _ = std::fs::remove_file(&notes);
        Ok(Self { program, notes })
    }

    /// Makes it the C compiler for a target.
    pub(crate) fn stand_in(&self, run: Run, target: &str) -> Run {
        let target = target.replace('-', "_");
        run.env(&format!("CC_{target}"), &self.program).env(&format!("AR_{target}"), &self.program)
    }

    /// The packages whose build scripts called it.
    pub(crate) fn callers(&self) -> BTreeSet<String> {
        std::fs::read_to_string(&self.notes).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

/// Writes a shell script, unless it stands there already.
pub(crate) fn script(path: &Path, body: &str) -> Result {
    let text = format!("#!/bin/sh\n{body}");
    if std::fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    write(path, text)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o755))
        .map_err(|error| format!("can't make {} executable: {error}", path.display()))
}
