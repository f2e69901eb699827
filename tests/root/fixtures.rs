//! The root file systems run: as what they are, by chroot.

use crate::support::{directory, need, program, rootfs};

#[test]
fn a_busybox_root_runs_by_itself() {
    need!(Root, Busybox);
    let place = directory();
    rootfs::busybox(place.path());
    let root = place.path().to_str().expect("a temporary path is plain");
    assert_eq!(program::run("chroot", [root, "/bin/sh", "-c", "id -u; ls -d /proc"]), "0\n/proc\n");
}

#[test]
fn a_debian_root_runs_by_itself() {
    need!(Root, DebianRoot);
    let place = directory();
    let root = place.path().to_str().expect("a temporary path is plain");
    let archive = rootfs::debian();
    program::run("tar", ["-C", root, "-xf", archive.to_str().expect("a path of ours is plain")]);
    assert!(program::run("chroot", [root, "cat", "/etc/debian_version"]).starts_with("12."));
}
