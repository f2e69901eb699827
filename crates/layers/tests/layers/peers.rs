//! Others unpack the same archives: what comes out is the same.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use coracle_layers::{Options, unpack};

use crate::scratch::{difference, is_root, listing, scratch, skip};

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A tree with everything that GNU tar can pack.
fn tree(root: &Path) {
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("dir/file"), "contents").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("hard")).unwrap();
    symlink("dir/file", root.join("soft")).unwrap();
    fs::hard_link(root.join("soft"), root.join("hard-soft")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("block"), [1; 512]).unwrap();
    fs::write(root.join("big"), vec![7; 3_000_001]).unwrap();
    let deep = root.join("n".repeat(120)).join("m".repeat(150));
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("l".repeat(200)), "long").unwrap();
    symlink("t".repeat(300), root.join("long-target")).unwrap();
    fs::write(root.join("odd \n\t\"ü%"), "odd").unwrap();
    // With holes at the start, in the middle and at the end.
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"island", 1_000_000).unwrap();
    for n in 0..40 {
        std::os::unix::fs::FileExt::write_at(&sparse, b"x", 2_000_000 + n * 65_536).unwrap();
    }
    sparse.set_len(20_000_000).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("fifo"), rustix::fs::FileType::Fifo, 0o640.into(), 0).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("null"), rustix::fs::FileType::CharacterDevice, 0o666.into(), rustix::fs::makedev(1, 3))
        .unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("disk"),
        rustix::fs::FileType::BlockDevice,
        0o660.into(),
        rustix::fs::makedev(259, 70_000),
    )
    .unwrap();
    for (name, mode) in [("dir/sub", 0o2775), ("dir", 0o555), ("block", 0o4711), ("empty", 0)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    for (name, uid) in [("big", 3_000_000), ("soft", 7), ("fifo", 65_534)] {
        std::os::unix::fs::lchown(root.join(name), Some(uid), Some(uid + 1)).unwrap();
    }
    let set = |name: &str, attribute: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join(name), attribute, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("block", "user.note", b"v\0\n=");
    set("dir", "trusted.note", b"v");
    set("big", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(12_345, 678_901_234);
    for name in ["block", "dir"] {
        fs::File::open(root.join(name)).unwrap().set_modified(old).unwrap();
    }
}

/// Unpacks an archive by GNU tar and by us.
fn compare(what: &str, archive: &Path, scratch: &Path) {
    let theirs = scratch.join("theirs");
    let ours = scratch.join("ours");
    fs::create_dir(&theirs).unwrap();
    run(Command::new("tar")
        .args(["-x", "-p", "--same-owner", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f"])
        .arg(archive)
        .arg("-C")
        .arg(&theirs));
    let report = unpack(fs::File::open(archive).unwrap(), &ours, &Options::root()).unwrap();
    assert_eq!(report.skipped, [], "{what}");
    if let Some(difference) = difference(&listing(&ours), &listing(&theirs)) {
        panic!("{what}: {difference}");
    }
    coracle_layers::remove_tree(&ours).unwrap();
    coracle_layers::remove_tree(&theirs).unwrap();
}

#[test]
fn gnu_tar_makes_the_same_tree_from_every_format() {
    // Needs root, for owners and devices.
    if !is_root() {
        return skip("root");
    }
    let scratch = scratch();
    let source = scratch.path().join("source");
    fs::create_dir(&source).unwrap();
    tree(&source);
    let archive = scratch.path().join("archive");
    let formats: [&[&str]; 7] = [
        &["--format=gnu"],
        &["--format=gnu", "--sparse"],
        &["--format=pax", "--xattrs", "--xattrs-include=*"],
        &["--format=pax", "--sparse", "--sparse-version=0.0"],
        &["--format=pax", "--sparse", "--sparse-version=0.1"],
        &["--format=pax", "--sparse", "--sparse-version=1.0", "--xattrs", "--xattrs-include=*"],
        &["--format=oldgnu", "--sparse"],
    ];
    for format in formats {
        run(Command::new("tar").args(format).arg("-cf").arg(&archive).arg("-C").arg(&source).arg("."));
        compare(&format.join(" "), &archive, scratch.path());
    }
}

#[test]
fn gnu_tar_makes_the_same_tree_from_a_real_one() {
    // Needs root, for owners.
    if !is_root() {
        return skip("root");
    }
    let scratch = scratch();
    let archive = scratch.path().join("archive");
    for (format, parts) in [
        ("--format=gnu", ["share/zoneinfo", "share/perl5", "share/perl"]),
        ("--format=pax", ["share/terminfo", "share/bash-completion", "sbin"]),
        ("--format=ustar", ["share/zoneinfo", "share/terminfo", "sbin"]),
        ("--format=v7", ["share/zoneinfo", "share/terminfo", "sbin"]),
    ] {
        let parts: Vec<&str> = parts.into_iter().filter(|part| Path::new("/usr").join(part).exists()).collect();
        // Without the root's entry: both then make it as they like.
        run(Command::new("tar").arg(format).args(["-I", "gzip -1", "-cf"]).arg(&archive).arg("-C").arg("/usr").args(&parts));
        let theirs = scratch.path().join("theirs");
        let ours = scratch.path().join("ours");
        fs::create_dir(&theirs).unwrap();
        run(Command::new("tar").args(["-x", "-z", "-p", "-f"]).arg(&archive).arg("-C").arg(&theirs));
        unpack(fs::File::open(&archive).unwrap(), &ours, &Options::root()).unwrap();
        for part in &parts {
            if let Some(difference) = difference(&listing(&ours.join(part)), &listing(&theirs.join(part))) {
                panic!("{part}: {difference}");
            }
        }
        coracle_layers::remove_tree(&ours).unwrap();
        coracle_layers::remove_tree(&theirs).unwrap();
    }
}

#[test]
fn archives_of_the_tar_crate_are_read() {
    let mut builder = tar::Builder::new(Vec::new());
    let long = "p/".repeat(80) + "file";
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o640);
    builder.append_pax_extensions([("SCHILY.xattr.user.a", &b"v"[..])]).unwrap();
    builder.append_data(&mut header, &long, &b"hello"[..]).unwrap();
    let archive = builder.into_inner().unwrap();
    let scratch = scratch();
    let target = scratch.path().join("layer");
    let options = if is_root() { Options::root() } else { Options::user(coracle_layers::Ownership::Squash) };
    unpack(&archive[..], &target, &options).unwrap();
    assert_eq!(fs::read_to_string(target.join(long)).unwrap(), "hello");
}
