//! Mounts of a test's own: a mount namespace that goes with the test, and file systems in it.

use super::place::within;
use super::{directory_in_memory, program};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Tells the second process where the test's directory is.
const INSIDE: &str = "CORACLE_TEST_INSIDE";

/// Runs a test's work once more in a process and a mount namespace of its own, with a directory in memory where there is memory to be had.
#[track_caller]
pub(crate) fn inside(test: &str, work: impl FnOnce(&Path)) {
    if let Some(place) = std::env::var_os(INSIDE) {
        return work(Path::new(&place));
    }
    let place = directory_in_memory();
    let status = Command::new(program::find("unshare").expect("util-linux is there"))
        .args(["--mount", "--propagation", "private"])
        .arg(std::env::current_exe().expect("a test knows its program"))
        .args([test, "--exact", "--nocapture", "--include-ignored"])
        .env(INSIDE, place.path())
        .status();
    assert!(status.expect("unshare runs").success());
}

/// A mounted file system; it goes with the value.
pub(crate) struct Mounted(pub(crate) PathBuf);

impl Mounted {
    /// A file with a file system in it.
    pub(crate) fn image(kind: &str, file: &Path, at: PathBuf) -> Self {
        Self::new(&["-t", kind, "-o", "loop", &file.display().to_string()], at)
    }

    pub(crate) fn new(how: &[&str], at: PathBuf) -> Self {
        std::fs::create_dir_all(&at).expect("it can be made");
        program::run("mount", how.iter().copied().chain([at.display().to_string().as_str()]));
        Self(at)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A container's supervisor may still be taking back what it made there.
        let patience = Duration::from_secs(if std::thread::panicking() { 1 } else { 30 });
        let gone = within(patience, || Command::new("umount").arg(&self.0).output().is_ok_and(|done| done.status.success()));
        assert!(std::thread::panicking() || gone, "{} stays mounted", self.0.display());
    }
}
