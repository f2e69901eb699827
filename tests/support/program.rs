//! Finds programs, and runs them with their words when they fail.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

/// Where a program is: `PATH`, then the administrators' directories.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// The program `coracle`: the one that xtask built, or what lies in the target directory of this test.
pub(crate) fn coracle() -> Option<PathBuf> {
    if let Some(program) = std::env::var_os("CORACLE_PROGRAM") {
        return Some(PathBuf::from(program)).filter(|program| program.is_file());
    }
    // target/debug/deps/coracle-HASH, where this test runs from
    let test = std::env::current_exe().ok()?;
    Some(test.parent()?.parent()?.join("coracle")).filter(|program| program.is_file())
}

/// Whether it runs and exits with 0.
pub(crate) fn works(program: &str, arguments: &[&str]) -> bool {
    let Some(program) = find(program) else {
        return false;
    };
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Runs it; fails the test, with what it said, where it doesn't exit with 0. Returns its standard output.
#[track_caller]
pub(crate) fn run<A: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = A>) -> String {
    let path = find(program).unwrap_or_else(|| panic!("{program} is missing"));
    let mut command = Command::new(path);
    command.args(arguments).stdin(Stdio::null());
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(status.success(), "{command:?}: {status}\n{}", String::from_utf8_lossy(&stderr));
    String::from_utf8_lossy(&stdout).into_owned()
}
