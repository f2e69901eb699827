//! What unpacking does with sound archives, of every form.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use coracle_layers::{Error, LayerReport, Options, Ownership, read_ownership, unpack};

use crate::archive::{Archive, Item, gzip, pax_records};
use crate::scratch::{attributes, is_root, scratch, skip};

fn options() -> Options {
    if is_root() { Options::root() } else { Options::user(Ownership::Squash) }
}

fn unpacked(archive: Archive) -> (tempfile::TempDir, PathBuf, LayerReport) {
    let scratch = scratch();
    let target = scratch.path().join("layer");
    let report = unpack(&archive.end()[..], &target, &options()).unwrap();
    (scratch, target, report)
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn the_last_of_several_entries_with_one_name_wins() {
    let new = Archive::new;
    fn check(archive: Archive, path: &str, contents: &str) {
        let (_scratch, root, _) = unpacked(archive);
        assert_eq!(text(root.join(path)), contents);
    }
    check(new().file("a", "1").file("a", "2"), "a", "2");
    check(new().dir("a", 0o755).file("a/b", "1").file("a", "2"), "a", "2");
    check(new().file("a", "1").dir("a", 0o755).file("a/b", "2"), "a/b", "2");
    check(new().symlink("a", "b").file("a", "2").file("b", "3"), "a", "2");
    check(new().symlink("a", "b").dir("a", 0o755).file("a/c", "2"), "a/c", "2");
    check(new().dir("d", 0o755).file("d/x", "1").symlink("d", "e").file("d/x", "2"), "e/x", "2");
    check(new().file("t", "1").file("a", "2").hardlink("a", "t"), "a", "1");
    check(new().file("t", "1").dir("a", 0o755).file("a/b", "").hardlink("a", "t"), "a", "1");
    // The descriptor of a directory that was replaced must not be used for what comes into its successor.
    check(new().file("d/e/f", "1").file("d", "x").dir("d", 0o755).file("d/e/f", "2"), "d/e/f", "2");
    check(new().file("d/e/f", "1").symlink("d", "g").file("d/e/f", "2"), "g/e/f", "2");
}

#[test]
fn what_replaces_a_hard_linked_file_leaves_its_other_names_alone() {
    let (_scratch, root, _) = unpacked(Archive::new().file("a", "first").hardlink("b", "a").file("a", "second"));
    assert_eq!(text(root.join("a")), "second");
    assert_eq!(text(root.join("b")), "first");
}

#[test]
fn hard_links_work_in_any_order() {
    let archive =
        Archive::new().hardlink("l1", "dir/l2").hardlink("dir/l2", "/file").file("file", "x").symlink("s", "file").hardlink("l3", "s");
    let (_scratch, root, report) = unpacked(archive);
    let inode = |name: &str| fs::symlink_metadata(root.join(name)).unwrap().ino();
    assert_eq!(inode("l1"), inode("file"));
    assert_eq!(inode("dir/l2"), inode("file"));
    assert_eq!(inode("l3"), inode("s"), "a link to a symbolic link is a link to that");
    assert_eq!(report.links_below, []);
}

#[test]
fn a_hard_link_to_what_isnt_in_the_layer_is_reported_and_isnt_there() {
    let (_scratch, root, report) = unpacked(Archive::new().hardlink("d/l", "./usr//bin/x").file("d/other", ""));
    assert_eq!(report.links_below, [(PathBuf::from("d/l"), PathBuf::from("usr/bin/x"))]);
    assert!(!root.join("d/l").exists());
}

#[test]
fn a_hard_link_has_no_data_whatever_its_size_says() {
    let archive =
        Archive::new().file("a", "x").item(Item::new(b'1', "b").link("a").size(1000)).item(Item::new(b'5', "d").size(4096)).file("c", "y");
    let (_scratch, root, _) = unpacked(archive);
    assert_eq!((text(root.join("b")), text(root.join("c"))), ("x".into(), "y".into()));
}

#[test]
fn cve_2025_62518_cve_2026_33055_a_pax_size_wins_and_belongs_to_the_file() {
    // CVE-2025-62518 and CVE-2026-33055: a reader that takes the header's size sees the smuggled archive inside.
    let smuggled = Archive::new().file("smuggled", "x").0;
    for header_size in [0, 512, 100_000] {
        let mut item = Item::new(b'0', "outer").data(&smuggled);
        item = item.size(header_size);
        let archive = Archive::new().pax(&[("size", smuggled.len().to_string().as_bytes())]).item(item).file("after", "y");
        let (_scratch, root, report) = unpacked(archive);
        assert_eq!(fs::read(root.join("outer")).unwrap(), smuggled);
        assert!(!root.join("smuggled").exists() && root.join("after").exists());
        assert_eq!(report.entries, 2);
    }
    // GHSA-3cv2-h65g-fgmm: between extended header and file stands a GNU long name; the size isn't the long name's.
    let archive = Archive::new().pax(&[("size", b"3")]).long(b'L', &[b'n'; 120]).item(Item::new(b'0', "x").data("abc").size(0));
    let (_scratch, root, _) = unpacked(archive);
    assert_eq!(text(root.join("n".repeat(120))), "abc");
}

#[test]
fn every_kind_of_name_is_read() {
    let long = "d/".repeat(60) + "file";
    let mut star = Item::new(b'0', "star").field(345, b"prefix").field(508, b"tar\0");
    star.header[345 + 131..345 + 155].fill(b'1');
    let archive = Archive::new()
        .long(b'L', long.as_bytes())
        .file("x", "gnu")
        .pax(&[("path", ("p/".to_owned() + &long).as_bytes())])
        .file("x", "pax")
        .item(Item::new(b'0', "name").field(345, b"prefix").data("ustar"))
        .item(star.data("star"))
        .item(Item::new(b'0', "gnu-has-no-prefix").gnu().field(345, b"12345").data("g"))
        .item(Item::new(0, "v7").field(257, &[0; 8]).field(345, b"junk").data("v7"))
        .item(Item::new(0, "v7dir/").field(257, &[0; 8]))
        .item(Item::new(b'7', "contiguous").data("c"))
        .item(Item::new(b'0', [b'n'; 100]).data("hundred"))
        .file("new\nline", "n")
        .file(b"\xff\xfe", "bytes")
        .raw_pax(b'g', &pax_records(&[("comment", b"0123abcd"), ("mtime", b"77")]))
        .file("after-global", "")
        .pax(&[("mtime", b"78")])
        .file("after-both", "")
        .item(Item::new(b'V', "label"));
    let (_scratch, root, report) = unpacked(archive);
    assert_eq!(text(root.join(&long)), "gnu");
    assert_eq!(text(root.join("p").join(&long)), "pax");
    assert_eq!(text(root.join("prefix/name")), "ustar");
    assert_eq!(text(root.join("prefix/star")), "star");
    assert_eq!(text(root.join("gnu-has-no-prefix")), "g");
    assert_eq!(text(root.join("v7")), "v7");
    assert!(root.join("v7dir").is_dir());
    assert_eq!(text(root.join("contiguous")), "c");
    assert_eq!(text(root.join("n".repeat(100))), "hundred");
    assert_eq!(text(root.join("new\nline")), "n");
    assert_eq!(fs::metadata(root.join("after-global")).unwrap().mtime(), 77);
    assert_eq!(fs::metadata(root.join("after-both")).unwrap().mtime(), 78);
    assert_eq!((report.skipped_total, report.skipped[0].path.as_str()), (1, "label"));
    assert!(report.implicit_parents.contains(&PathBuf::from("prefix")));
}

#[test]
fn times_are_kept_to_the_nanosecond_and_before_1970() {
    for (written, seconds, nanoseconds) in
        [("1.5", 1, 500_000_000), ("-1.5", -2, 500_000_000), ("-7", -7, 0), ("12.0000000019", 12, 1), ("0.000000001", 0, 1)]
    {
        let (_scratch, root, _) = unpacked(
            Archive::new()
                .pax(&[("mtime", written.as_bytes())])
                .file("f", "x")
                .pax(&[("mtime", written.as_bytes())])
                .dir("d", 0o755)
                .file("d/later", "x")
                .pax(&[("mtime", written.as_bytes())])
                .symlink("l", "x"),
        );
        for name in ["f", "d", "l"] {
            let meta = fs::symlink_metadata(root.join(name)).unwrap();
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, nanoseconds), "{name} {written}");
        }
    }
    let (_scratch, root, _) = unpacked(Archive::new().item(Item::new(b'0', "f").field(136, &[0xff; 12])));
    assert_eq!(fs::metadata(root.join("f")).unwrap().mtime(), -1);
}

#[test]
fn sparse_files_of_every_form_are_the_same_file() {
    let mut expected = vec![0; 5000];
    expected[10..15].copy_from_slice(b"hello");
    expected[4000..4005].copy_from_slice(b"world");
    let data = b"helloworld";
    let mut inline = b"2\n10\n5\n4000\n5\n".to_vec();
    inline.resize(512, 0);
    inline.extend_from_slice(data);
    let octal = |n: u64| format!("{n:011o}\0").into_bytes();
    let old = Item::new(b'S', "old")
        .gnu()
        .field(386, &octal(10))
        .field(398, &octal(5))
        .field(410, &octal(4000))
        .field(422, &octal(5))
        .field(483, &octal(5000));
    // Many pieces need blocks of their own between header and data.
    let many: Vec<u64> = (0..30).map(|n| n * 100).collect();
    let mut extended = Item::new(b'S', "extended").gnu().field(483, &octal(5000)).field(482, &[1]).size(30);
    let mut block = [0; 512];
    for (index, offset) in many.iter().enumerate() {
        let pair = [octal(*offset), octal(1)].concat();
        if index < 4 {
            extended = extended.field(386 + index * 24, &pair);
        } else if index < 25 {
            let at = (index - 4) * 24;
            block[at..at + 24].copy_from_slice(&pair);
        }
    }
    block[504] = 1;
    let mut second = [0; 512];
    for (index, offset) in many.iter().skip(25).enumerate() {
        second[index * 24..index * 24 + 24].copy_from_slice(&[octal(*offset), octal(1)].concat());
    }
    let mut extended = extended.bytes();
    extended.extend(block);
    extended.extend(second);
    let mut letters = [b'x'; 512];
    letters[30..].fill(0);
    extended.extend(letters);

    let mut archive = Archive::new()
        .item(old.data(data))
        .pax(&[
            ("GNU.sparse.size", b"5000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"10"),
            ("GNU.sparse.numbytes", b"5"),
            ("GNU.sparse.offset", b"4000"),
            ("GNU.sparse.numbytes", b"5"),
        ])
        .file("pax00", data)
        .pax(&[("GNU.sparse.size", b"5000"), ("GNU.sparse.map", b"10,5,4000,5"), ("GNU.sparse.name", b"pax01")])
        .file("GNUSparseFile.1/pax01", data)
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"5000"), ("GNU.sparse.name", b"pax10")])
        .file("GNUSparseFile.1/pax10", inline)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"1099511627776"),
            ("GNU.sparse.name", b"hole"),
        ])
        .file("GNUSparseFile.1/hole", {
            let mut map = b"0\n".to_vec();
            map.resize(512, 0);
            map
        });
    archive.0.extend(extended);
    let (_scratch, root, _) = unpacked(archive.file("after", "x"));
    for name in ["old", "pax00", "pax01", "pax10"] {
        assert!(fs::read(root.join(name)).unwrap() == expected, "{name}");
    }
    let pieces = fs::read(root.join("extended")).unwrap();
    assert_eq!(pieces.len(), 5000);
    assert_eq!(pieces.iter().enumerate().filter(|(_, byte)| **byte == b'x').map(|(at, _)| at as u64).collect::<Vec<_>>(), many);
    let hole = fs::metadata(root.join("hole")).unwrap();
    assert_eq!((hole.len(), hole.blocks()), (1 << 40, 0), "a hole takes no space");
    assert!(root.join("after").exists());
}

#[test]
fn modes_hinder_nothing_and_are_right_at_the_end() {
    let archive = Archive::new()
        .dir("closed", 0)
        .file("closed/sub/file", "x")
        .dir("readonly", 0o555)
        .file("readonly/file", "x")
        .dir("sticky", 0o1777)
        .dir("setgid", 0o2775)
        .file("setgid/file", "x")
        .file("parent-later/file", "x")
        .dir("parent-later", 0o700)
        .item(Item::new(b'0', "suid").mode(0o4755).data("x"))
        .item(Item::new(b'0', "none").mode(0).data("x"))
        .item(Item::new(b'0', "open").mode(0o666).data("x"))
        .item(Item::new(b'6', "fifo").mode(0o622));
    let (_scratch, root, report) = unpacked(archive);
    let expected = [
        ("readonly", 0o555),
        ("sticky", 0o1777),
        ("setgid", 0o2775),
        ("parent-later", 0o700),
        ("suid", 0o4755),
        ("none", 0),
        ("open", 0o666),
        ("fifo", 0o622),
        ("closed", 0),
        ("", 0o755),
    ];
    for (name, bits) in expected {
        assert_eq!(mode(root.join(name)), bits, "{name}");
    }
    if is_root() {
        assert_eq!(fs::metadata(root.join("setgid/file")).unwrap().gid(), 0);
        assert_eq!(mode(root.join("closed/sub")), 0o755);
    }
    assert_eq!(report.implicit_parents, [PathBuf::new(), PathBuf::from("closed/sub")]);
}

#[test]
fn the_root_directory_takes_its_entry_but_never_closes() {
    for (written, bits) in [(0o700, 0o755), (0o000, 0o555), (0o1777, 0o1777)] {
        let (_scratch, root, _) = unpacked(Archive::new().dir("./", written));
        assert_eq!(mode(&root), bits);
    }
}

#[test]
fn unpacking_changes_nothing_of_the_process() {
    let state = || {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let umask = status.lines().find(|line| line.starts_with("Umask")).unwrap().to_owned();
        (umask, std::env::current_dir().unwrap())
    };
    let before = state();
    let (_scratch, root, _) = unpacked(Archive::new().item(Item::new(b'0', "f").mode(0o666)));
    assert_eq!(mode(root.join("f")), 0o666);
    assert_eq!(state(), before);
}

#[test]
fn attributes_are_kept_but_for_those_of_overlay_and_of_other_machines() {
    let archive = Archive::new()
        .pax(&[
            ("SCHILY.xattr.user.plain", b"v\0\xff=x\n"),
            ("LIBARCHIVE.xattr.user.a%20b", b"aGVsbG8"),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.security.selinux", b"unconfined"),
            ("SCHILY.acl.access", b"user::rw-"),
        ])
        .item(Item::new(b'0', "f").mode(0o444).data("x"))
        .pax(&[("SCHILY.xattr.user.plain", b"dir")])
        .dir("d", 0o555)
        .pax(&[("SCHILY.xattr.user.plain", b"link")])
        .symlink("l", "f");
    let (_scratch, root, report) = unpacked(archive);
    let mut found = attributes(&root.join("f"));
    found.sort();
    assert_eq!(found, [("user.a b".to_owned(), b"hello".to_vec()), ("user.plain".to_owned(), b"v\0\xff=x\n".to_vec())]);
    assert_eq!(attributes(&root.join("d")), [("user.plain".to_owned(), b"dir".to_vec())]);
    assert_eq!(mode(root.join("f")), 0o444);
    assert_eq!(report.skipped_total, 5, "{:?}", report.skipped);
    assert!(report.skipped.iter().any(|skipped| skipped.path == "l" && skipped.what.contains("user.plain")));
}

#[test]
fn root_keeps_owners_devices_and_capabilities() {
    // Needs root.
    if !is_root() {
        return skip("root");
    }
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Archive::new()
        .item(Item::new(b'0', "suid").mode(0o6755).uid(1234).gid(4321).data("x"))
        .item(Item::new(b'5', "d").uid(7).gid(8))
        .item(Item::new(b'2', "l").link("x").uid(9).gid(10))
        .item(Item::new(b'3', "null").mode(0o666).device(1, 3))
        .item(Item::new(b'4', "disk").mode(0o660).device(8, 1).gid(6))
        .pax(&[("SCHILY.xattr.security.capability", &capability), ("uid", b"4000000000")])
        .file("ping", "x");
    let (_scratch, root, report) = unpacked(archive);
    let meta = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    assert_eq!((meta("suid").uid(), meta("suid").gid(), mode(root.join("suid"))), (1234, 4321, 0o6755));
    assert_eq!((meta("d").uid(), meta("d").gid()), (7, 8));
    assert_eq!((meta("l").uid(), meta("l").gid()), (9, 10));
    assert_eq!((meta("null").rdev(), mode(root.join("null"))), (rustix::fs::makedev(1, 3), 0o666));
    assert_eq!((meta("disk").rdev(), meta("disk").gid()), (rustix::fs::makedev(8, 1), 6));
    assert_eq!(meta("ping").uid(), 4_000_000_000);
    assert_eq!(attributes(&root.join("ping")), [("security.capability".to_owned(), capability.to_vec())]);
    assert_eq!(report.skipped_total, 0);
}

/// What a plain user sees, run as one.
fn as_a_plain_user(scratch: &Path) {
    let archive = Archive::new()
        .item(Item::new(b'5', "d").mode(0o555).uid(5))
        .item(Item::new(b'0', "d/f").mode(0o4711).uid(1000).gid(1001).data("x"))
        .hardlink("d/again", "d/f")
        .item(Item::new(b'0', "replaced").uid(77).data("x"))
        .file("replaced", "y")
        .item(Item::new(b'3', "null").mode(0o666).device(1, 3))
        .pax(&[("SCHILY.xattr.security.capability", b"cap"), ("SCHILY.xattr.user.a", b"v"), ("SCHILY.xattr.trusted.b", b"v")])
        .item(Item::new(b'0', "ping").mode(0o444).data("x"))
        .file("d/.wh.gone", "")
        .file("o/.wh..wh..opq", "")
        .end();
    let me = rustix::process::geteuid().as_raw();
    for ownership in [Ownership::Squash, Ownership::Defer] {
        let home = scratch.join(format!("{ownership:?}"));
        fs::create_dir(&home).unwrap();
        let root = home.join("fs");
        let report = unpack(&gzip(&archive)[..], &root, &Options::user(ownership)).unwrap();
        assert_eq!(fs::metadata(root.join("d/f")).unwrap().uid(), me);
        assert_eq!(mode(root.join("d/f")), 0o4711);
        assert_eq!(mode(root.join("d")), 0o555);
        let gone = fs::symlink_metadata(root.join("d/gone")).unwrap();
        assert!(std::os::unix::fs::FileTypeExt::is_char_device(&gone.file_type()) && gone.rdev() == 0);
        assert_eq!(attributes(&root.join("o")), [("user.overlay.opaque".to_owned(), b"y".to_vec())]);
        assert_eq!(attributes(&root.join("ping")), [("user.a".to_owned(), b"v".to_vec())]);
        assert!(!root.join("null").exists());
        let what: Vec<&str> = report.skipped.iter().map(|skipped| skipped.what.as_str()).collect();
        assert!(what.iter().any(|what| what.contains("a device")), "{what:?}");
        assert!(what.iter().any(|what| what.contains("trusted.b")), "{what:?}");
        let deferred = read_ownership(&home).unwrap();
        if ownership == Ownership::Squash {
            assert_eq!(deferred, None);
        } else {
            let deferred = deferred.unwrap();
            let owners: Vec<_> = deferred.owners.iter().map(|o| (o.path.to_str().unwrap(), o.uid, o.gid, o.mode)).collect();
            assert_eq!(owners, [("d", 5, 0, 0o555), ("d/again", 1000, 1001, 0o4711), ("d/f", 1000, 1001, 0o4711)]);
            assert_eq!(deferred.capabilities, [(PathBuf::from("ping"), b"cap".to_vec())]);
            assert_eq!((deferred.devices[0].major, deferred.devices[0].minor, deferred.devices[0].mode), (1, 3, 0o20666));
        }
        coracle_layers::remove_tree(&home).unwrap();
    }
}

#[test]
fn a_plain_user_unpacks_and_what_it_cannot_do_is_on_record() {
    if let Some(dir) = std::env::var_os("CORACLE_TEST_PLAIN_USER") {
        return as_a_plain_user(Path::new(&dir));
    }
    let scratch = scratch();
    if !is_root() {
        return as_a_plain_user(scratch.path());
    }
    // As root: this test once more, as nobody, from a copy of the program that nobody may read.
    let program = scratch.path().join("test");
    // By another process: a program that one of ours holds open for writing can't be executed, and threads here start programs.
    assert!(std::process::Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap().success());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(scratch.path(), Some(65534), Some(65534)).unwrap();
    let name = "unpacking::a_plain_user_unpacks_and_what_it_cannot_do_is_on_record";
    let output = std::process::Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&program)
        .args([name, "--exact", "--nocapture"])
        .env("CORACLE_TEST_PLAIN_USER", scratch.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[test]
fn the_form_of_compression_is_seen_in_the_bytes() {
    let archive = Archive::new().file("f", "x".repeat(100_000)).end();
    let zstd = zstd::bulk::compress(&archive, 3).unwrap();
    let mut ids = Vec::new();
    for bytes in [archive.clone(), gzip(&archive), zstd] {
        let scratch = scratch();
        let report = unpack(&bytes[..], &scratch.path().join("layer"), &options()).unwrap();
        assert_eq!(report.archive_bytes, archive.len() as u64);
        ids.push(report.diff_id);
    }
    assert!(ids.iter().all(|id| *id == coracle_image::Digest::sha256(&archive)));
}

#[test]
fn what_follows_the_archive_counts_for_the_digest_and_nothing_else() {
    let mut archive = Archive::new().file("f", "x").end();
    archive.extend(Archive::new().file("hidden", "x").0);
    archive.extend(b"trailing garbage");
    let scratch = scratch();
    let target = scratch.path().join("layer");
    let report = unpack(&gzip(&archive)[..], &target, &options()).unwrap();
    assert_eq!(report.diff_id, coracle_image::Digest::sha256(&archive));
    assert!(!target.join("hidden").exists());
}

#[test]
fn an_empty_layer_is_a_layer() {
    for bytes in [vec![], vec![0; 512], vec![0; 1024], gzip(b""), gzip(&[0; 1024])] {
        let scratch = scratch();
        let target = scratch.path().join("layer");
        let report = unpack(&bytes[..], &target, &options()).unwrap();
        assert_eq!((report.entries, fs::read_dir(&target).unwrap().count()), (0, 0));
        assert_eq!(mode(&target), 0o755);
    }
}

#[test]
fn an_error_names_the_layer_the_entry_and_the_place() {
    let scratch = scratch();
    let archive = Archive::new().file("good", "x").file("bad/../x", "y").end();
    let error = unpack(&archive[..], &scratch.path().join("layer"), &options()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "layer in this stream is malformed at bad/../x: its path has `..`, which no layer needs (byte 1024 of the archive)"
    );
    let error = unpack(&gzip(&archive)[..40], &scratch.path().join("layer"), &options()).unwrap_err();
    assert!(matches!(error, Error::Compression { .. }), "{error}");
}

#[test]
fn an_owner_that_cannot_be_is_roots_and_is_on_record() {
    let archive = Archive::new().pax(&[("uid", b"4294967295"), ("gid", b"4294967295")]).item(Item::new(b'0', "f").mode(0o644));
    let (_scratch, root, report) = unpacked(archive);
    let found = fs::metadata(root.join("f")).unwrap();
    assert_eq!((found.uid(), found.gid()), (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()));
    let what: Vec<&str> = report.skipped.iter().map(|skipped| skipped.what.as_str()).collect();
    assert_eq!(what, ["owner 4294967295: not kept", "group 4294967295: not kept"]);
}

#[test]
fn an_opaque_directory_holds_no_whiteouts_that_overlay_would_list() {
    let archive = Archive::new()
        .dir("d", 0o755)
        .file("d/.wh.before", "")
        .file("d/.wh..wh..opq", "")
        .file("d/.wh.after", "")
        .file("d/sub/.wh.deeper", "")
        .file("d/kept", "x")
        .file("dd/.wh.other", "");
    let (_scratch, root, _) = unpacked(archive);
    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(root.join(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("d"), ["kept", "sub"]);
    assert_eq!(names("d/sub"), Vec::<std::ffi::OsString>::new());
    assert_eq!(names("dd"), ["other"]);
    // The whole layer, where the root is opaque.
    let (_scratch, root, report) = unpacked(Archive::new().file(".wh..wh..opq", "").file("d/.wh.x", "").file(".wh.y", ""));
    assert!(report.opaque_root);
    assert_eq!(fs::read_dir(root.join("d")).unwrap().count(), 0);
    assert!(fs::symlink_metadata(root.join("y")).is_err());
}
