//! Archives that mean harm, or are broken: nothing outside the layer's directory changes, and what is refused leaves nothing.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use coracle_layers::{Error, Limits, Options, Ownership, unpack};

use crate::archive::{Archive, Item, pax_records};
use crate::scratch::{is_root, listing, scratch};

fn options() -> Options {
    if is_root() { Options::root() } else { Options::user(Ownership::Squash) }
}

/// What is expected of an archive.
enum Expect {
    /// It's malformed, and the message has this.
    Refused(&'static str),
    /// It unpacks, and this file inside has these contents.
    Inside(&'static str, &'static str),
    /// It unpacks, and this isn't there.
    Without(&'static str),
    /// It's too much.
    TooMuch,
}
use Expect::{Inside, Refused, TooMuch, Without};

/// A directory that no layer may touch, beside the one it's unpacked in.
fn sentinel(dir: &Path) {
    let sentinel = dir.join("sentinel");
    fs::create_dir_all(sentinel.join("dir")).unwrap();
    fs::write(sentinel.join("file"), "untouched").unwrap();
    fs::write(sentinel.join("dir/file"), "untouched").unwrap();
    symlink("file", sentinel.join("link")).unwrap();
}

#[test]
fn cve_2014_9357_cve_2021_32760_cve_2026_23745_cve_2026_33056_no_archive_reaches_outside_its_directory() {
    let scratch = scratch();
    sentinel(scratch.path());
    let sentinel = scratch.path().join("sentinel");
    let absolute = sentinel.to_str().unwrap().to_owned();
    let before = listing(&sentinel);
    let new = Archive::new;
    let deep_up = "../".repeat(20) + &absolute[1..];

    let cases: Vec<(&str, Archive, Expect)> = vec![
        ("dot dot file", new().file("../sentinel/file", "x"), Refused("`..`")),
        ("dot dot in the middle", new().dir("a", 0o755).file("a/../../sentinel/file", "x"), Refused("`..`")),
        ("dot dot at the end", new().dir("a/..", 0o700), Refused("`..`")),
        ("dot dot alone", new().dir("..", 0o700), Refused("`..`")),
        ("dot dot after a slash", new().file("/../sentinel/file", "x"), Refused("`..`")),
        ("dot dot in a PAX path", new().pax(&[("path", b"../sentinel/file")]).file("f", "x"), Refused("`..`")),
        ("dot dot in a GNU long name", new().long(b'L', b"../sentinel/file").file("f", "x"), Refused("`..`")),
        (
            "dot dot in a sparse name",
            new()
                .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.name", b"../x"), ("GNU.sparse.realsize", b"0")])
                .file("f", {
                    let mut map = b"0\n".to_vec();
                    map.resize(512, 0);
                    map
                }),
            Refused("`..`"),
        ),
        ("absolute name", new().file(format!("{absolute}/file").as_bytes(), "x"), Inside("@absolute/file", "x")),
        ("double slashes", new().file("//a///b", "x"), Inside("a/b", "x")),
        ("file through an absolute link", new().symlink("l", &absolute).file("l/file", "x"), Inside("@absolute/file", "x")),
        ("file through a relative link", new().symlink("l", "../sentinel").file("l/file", "x"), Inside("sentinel/file", "x")),
        ("file through a deep link", new().symlink("l", &deep_up).file("l/file", "x"), Inside("@absolute/file", "x")),
        (
            "file through a chain of links",
            new().symlink("a", "b").symlink("b", "..").file("a/sentinel/file", "x"),
            Inside("sentinel/file", "x"),
        ),
        (
            "file through a link in a directory",
            new().dir("d", 0o755).symlink("d/l", "../../sentinel").file("d/l/file", "x"),
            Inside("sentinel/file", "x"),
        ),
        ("file in the place of a link", new().symlink("l", format!("{absolute}/file")).file("l", "x"), Inside("l", "x")),
        ("directory in the place of a link", new().symlink("l", &absolute).dir("l", 0o700).file("l/file", "x"), Inside("l/file", "x")),
        ("mode of a directory through a link", new().symlink("l", &absolute).dir("l", 0o4777), Without("@absolute")),
        ("mode of a directory below a link", new().symlink("l", &absolute).dir("l/dir", 0o4777), Without("l/../../sentinel/dir/x")),
        ("link loop", new().symlink("a", "b").symlink("b", "a").file("a/x", "x"), Refused("loop")),
        ("link to itself", new().symlink("a", "a").file("a/x", "x"), Refused("loop")),
        ("link to here", new().symlink("a", ".").file("a/a/a/x", "x"), Inside("x", "x")),
        (
            "magic link",
            new().symlink("p", "/proc/self/root").file("p/sentinel-by-proc", "x"),
            Inside("proc/self/root/sentinel-by-proc", "x"),
        ),
        ("magic descriptor", new().symlink("p", "/proc/self/fd/3").file("p/x", "x"), Inside("proc/self/fd/3/x", "x")),
        ("hard link out by dot dot", new().hardlink("h", "../sentinel/file"), Refused("hard link")),
        ("hard link out by an absolute path", new().hardlink("h", format!("{absolute}/file")), Without("h")),
        ("hard link through a link out", new().symlink("l", &absolute).hardlink("h", "l/file"), Without("h")),
        (
            "write through a hard link through a link",
            new().symlink("l", &absolute).hardlink("h", "l/file").file("h", "x"),
            Inside("h", "x"),
        ),
        (
            "hard link to a link, then written",
            new().symlink("l", format!("{absolute}/file")).hardlink("h", "l").file("h", "x"),
            Inside("h", "x"),
        ),
        ("hard link to a directory", new().dir("d", 0o755).hardlink("h", "d"), Refused("directory")),
        ("hard link to the root", new().hardlink("h", "/"), Refused("root")),
        ("hard link to itself", new().file("h", "x").hardlink("h", "./h"), Refused("itself")),
        ("hard link in the place of its target's directory", new().file("d/f", "x").hardlink("d", "d/f"), Refused("own target")),
        ("whiteout of nothing", new().file("a/.wh.", ""), Refused("no name")),
        ("whiteout of dot", new().file("a/.wh..", ""), Refused("no name")),
        ("whiteout of dot dot", new().file("a/.wh...", ""), Refused("no name")),
        ("whiteout through a link", new().symlink("l", &absolute).file("l/.wh.file", ""), Refused("symbolic link")),
        ("opaque through a link", new().symlink("l", &absolute).file("l/.wh..wh..opq", ""), Refused("symbolic link")),
        ("below a whiteout", new().file(".wh.d/file", ""), Refused("below a whiteout")),
        ("hard link to a whiteout", new().file(".wh.f", "").hardlink("h", "f"), Refused("removes")),
        ("below a file", new().file("f", "x").file("f/g", "y"), Refused("isn't a directory")),
        ("below a FIFO", new().item(Item::new(b'6', "p")).file("p/g", "y"), Refused("isn't a directory")),
        ("below a late hard link", new().hardlink("h", "t").file("h/x", "").file("t", ""), Refused("")),
        ("root as a file", new().file("./", ""), Inside("", "")),
        ("root as a link", new().symlink(".", &absolute), Refused("root")),
        ("root as nothing's name", new().file("", "x"), Refused("root")),
        ("smuggled whiteout", new().item(Item::new(b'3', "etc").device(0, 0)), Without("etc")),
        ("smuggled opaque", new().pax(&[("SCHILY.xattr.trusted.overlay.opaque", b"y")]).dir("d", 0o755), Without("x")),
        ("name with a NUL in PAX", new().pax(&[("path", b"a\0b")]).file("f", "x"), Refused("NUL")),
        ("name too long", new().long(b'L', &b"a/".repeat(2100)).file("f", ""), Refused("too long")),
        ("component too long", new().long(b'L', &[b'a'; 300]).file("f", "x"), Refused("255")),
        ("too deep", new().long(b'L', &b"a/".repeat(1025)).file("f", ""), Refused("too deep")),
        ("link target too long", new().long(b'K', &[b'a'; 5000]).symlink("l", "x"), Refused("too long")),
        ("link to nothing", new().symlink("l", ""), Refused("to nothing")),
        ("extended header of 2 MiB", new().raw_pax(b'x', &vec![b'a'; 2 << 20]), TooMuch),
        ("long name of 2 MiB", new().long(b'L', &vec![b'a'; 2 << 20]), TooMuch),
        (
            "broken checksum",
            new().item({
                let mut item = Item::new(b'0', "f");
                item.broken = true;
                item
            }),
            Refused("checksum"),
        ),
        ("no archive", Archive(b"#!/bin/sh\necho this is no archive at all\n".repeat(40)), Refused("no tar header")),
        (
            "one zero block and then more",
            {
                let mut a = new().file("a", "");
                a.0.extend([0; 512]);
                a.file("b", "")
            },
            Refused("block of zeros"),
        ),
        ("negative size", new().item(Item::new(b'0', "f").field(124, &[0xff; 12])), Refused("negative")),
        ("size that isn't a number", new().item(Item::new(b'0', "f").field(124, b"12345678x01\0")), Refused("size isn't an octal")),
        ("size beyond 63 bits", new().item(Item::new(b'0', "f").field(124, &[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0])), Refused("63 bits")),
        ("owner below zero", new().item(Item::new(b'0', "f").field(108, &[0xff; 8])), Refused("owner -1")),
        ("owner that chown ignores", new().pax(&[("uid", b"4294967295")]).file("f", "x"), Inside("f", "x")),
        ("owner beyond 32 bits", new().pax(&[("gid", b"4294967296")]).file("f", ""), Refused("group 4294967296")),
        ("unknown type", new().item(Item::new(b'Z', "f")), Refused("type \"Z\"")),
        ("continued from another volume", new().item(Item::new(b'M', "f")), Refused("type \"M\"")),
        ("directory with contents by its name", new().item(Item::new(b'0', "d/").data("x")), Refused("directory by its name")),
        ("two extended headers", new().pax(&[("path", b"../a")]).pax(&[("path", b"b")]).file("f", "x"), Inside("b", "x")),
        (
            "two extended headers of which the first has more",
            new().pax(&[("path", b"a"), ("size", b"0")]).pax(&[("mtime", b"1")]).file("f", "x"),
            Inside("f", "x"),
        ),
        (
            "two extended headers of which the last leaves",
            new().pax(&[("path", b"a")]).pax(&[("path", b"../b")]).file("f", ""),
            Refused("`..`"),
        ),
        ("extended header without an entry", new().file("f", "x").pax(&[("path", b"a")]), Inside("f", "x")),
        ("long name without an entry", new().file("f", "x").long(b'L', b"a"), Inside("f", "x")),
        ("two long names", new().long(b'L', b"a").long(b'L', b"b").file("f", "x"), Inside("b", "x")),
        ("two long names of which the last leaves", new().long(b'L', b"a").long(b'L', b"../b").file("f", ""), Refused("`..`")),
        ("incremental directory", new().item(Item::new(b'D', "d").data("Yfile\0\0")).file("d/file", "x"), Inside("d/file", "x")),
        (
            "size of many digits",
            new().pax(&[("size", b"0000000000000000000000000000001")]).item(Item::new(b'0', "f").data("x").size(0)),
            Inside("f", "x"),
        ),
        ("size with a sign", new().pax(&[("size", b"+1")]).file("f", "x"), Refused("size")),
        ("PAX and GNU disagree", new().pax(&[("path", b"a")]).long(b'L', b"b").file("f", ""), Refused("two different names")),
        ("global path", new().raw_pax(b'g', &pax_records(&[("path", b"etc/shadow")])).file("f", ""), Refused("global")),
        ("global size", new().raw_pax(b'g', &pax_records(&[("size", b"5")])).file("f", ""), Refused("global")),
        ("record without length", new().raw_pax(b'x', b"path=a\n").file("f", ""), Refused("length")),
        ("record with a lying length", new().raw_pax(b'x', b"99 path=a\n").file("f", ""), Refused("length")),
        ("record with a short length", new().raw_pax(b'x', b"3 path=a\n").file("f", ""), Refused("newline")),
        ("record of no length", new().raw_pax(b'x', b"0 path=a\n").file("f", ""), Refused("length")),
        ("record without newline", new().raw_pax(b'x', b"8 path=ab").file("f", ""), Refused("newline")),
        ("record without equals", new().raw_pax(b'x', b"8 patha\n").file("f", ""), Refused("`=`")),
        ("record without key", new().raw_pax(b'x', b"5 =a\n").file("f", ""), Refused("key")),
        ("PAX size that isn't a number", new().pax(&[("size", b"-5")]).file("f", ""), Refused("size")),
        ("attribute without a name", new().pax(&[("SCHILY.xattr.", b"v")]).file("f", ""), Refused("attribute")),
        ("attribute that isn't base64", new().pax(&[("LIBARCHIVE.xattr.user.a", b"v!")]).file("f", ""), Refused("base64")),
        (
            "sparse pieces overlap",
            new().pax(&[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,5,3,5")]).file("f", "0123456789"),
            Refused("overlap"),
        ),
        (
            "sparse piece beyond the end",
            new().pax(&[("GNU.sparse.size", b"8"), ("GNU.sparse.map", b"0,5,6,5")]).file("f", "0123456789"),
            Refused("beyond"),
        ),
        (
            "sparse map and size disagree",
            new().pax(&[("GNU.sparse.size", b"100"), ("GNU.sparse.map", b"0,5")]).file("f", "0123456789"),
            Refused("disagree"),
        ),
        (
            "sparse map overflows",
            new()
                .pax(&[("GNU.sparse.size", b"9223372036854775807"), ("GNU.sparse.map", b"9223372036854775807,9223372036854775807")])
                .file("f", "x"),
            Refused("beyond"),
        ),
        (
            "sparse map of a link",
            new().pax(&[("GNU.sparse.size", b"0"), ("GNU.sparse.map", b"0,0")]).symlink("l", "x"),
            Refused("isn't a file"),
        ),
        ("sparse map odd", new().pax(&[("GNU.sparse.size", b"9"), ("GNU.sparse.map", b"0,1,5")]).file("f", "x"), Refused("odd")),
        ("sparse version 7", new().pax(&[("GNU.sparse.major", b"7"), ("GNU.sparse.minor", b"0")]).file("f", "x"), Refused("version")),
        (
            "sparse map without end",
            new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")]).file("f", [b'1'; 512]),
            Refused("numbers"),
        ),
        ("old sparse outside GNU", new().item(Item::new(b'S', "f")), Refused("GNU")),
        (
            "file longer than files can be",
            new().item(Item::new(b'S', "f").gnu().field(483, &[0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])),
            TooMuch,
        ),
    ];
    assert!(cases.len() >= 80);
    for (number, (name, archive, expect)) in cases.into_iter().enumerate() {
        let target = scratch.path().join(format!("layer-{number}"));
        let result = unpack(&archive.end()[..], &target, &options());
        let inside = |path: &str| target.join(path.replace("@absolute", &absolute[1..]));
        match (expect, result) {
            (Refused(text), Err(error @ Error::Malformed { .. })) => {
                assert!(error.to_string().contains(text), "{name}: {error}");
            }
            (TooMuch, Err(Error::Limit { .. })) => {}
            (Inside("", _), Ok(_)) => {}
            (Inside(path, contents), Ok(_)) => {
                assert_eq!(fs::read_to_string(inside(path)).unwrap(), contents, "{name}");
                assert!(fs::symlink_metadata(inside(path)).unwrap().is_file(), "{name}");
            }
            (Without(path), Ok(_)) => {
                assert!(fs::symlink_metadata(inside(path)).is_err(), "{name}")
            }
            (_, result) => panic!("{name}: {result:?}"),
        }
        assert_eq!(listing(&sentinel), before, "{name} reached outside");
        if target.exists() {
            coracle_layers::remove_tree(&target).unwrap();
        }
        let mut left: Vec<_> = fs::read_dir(scratch.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["sentinel"], "{name} left something");
    }
}

#[test]
fn an_archive_cut_off_within_an_entry_is_refused_and_leaves_nothing() {
    let scratch = scratch();
    let whole = Archive::new()
        .pax(&[("path", b"a/long/name"), ("SCHILY.xattr.user.a", b"v")])
        .file("f", [7; 1000])
        .long(b'L', b"another/name")
        .file("g", [8; 600])
        .end();
    // Only at the end of an entry, or later, is the end of the bytes an end of the archive; and, as for GNU tar and Go, after a header
    // that extends no entry. Of an image such a cut is found out by the layer's digest.
    let ends = [0, 512 * 2, 512 * 5, 512 * 7, 512 * 10, 512 * 11, 512 * 12];
    for cut in 0..=whole.len() {
        if cut % 7 != 0 && cut % 512 > 1 && cut % 512 < 511 {
            continue;
        }
        let target = scratch.path().join("layer");
        let result = unpack(&whole[..cut], &target, &options());
        if ends.contains(&cut) {
            result.unwrap_or_else(|error| panic!("{cut}: {error}"));
            coracle_layers::remove_tree(&target).unwrap();
        } else {
            assert!(matches!(result, Err(Error::Malformed { .. })), "{cut}: {result:?}");
        }
        assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
    }
}

#[test]
fn bytes_changed_at_random_never_panic_and_never_reach_outside() {
    let scratch = scratch();
    sentinel(scratch.path());
    let before = listing(&scratch.path().join("sentinel"));
    let whole = Archive::new()
        .dir("d", 0o755)
        .pax(&[("path", b"d/name"), ("size", b"700"), ("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"v")])
        .file("f", [7; 700])
        .symlink("l", "../sentinel")
        .hardlink("h", "d/name")
        .file("l/file", "x")
        .long(b'L', b"l/another")
        .file("g", "y")
        .pax(&[("GNU.sparse.size", b"5000"), ("GNU.sparse.map", b"0,5,4000,5"), ("GNU.sparse.name", b"s")])
        .file("s0", "0123456789")
        .file("d/.wh.gone", "")
        .item(Item::new(b'6', "fifo"))
        .end();
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = |bound: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % bound as u64) as usize
    };
    let mut outcomes = [0, 0];
    for _ in 0..3000 {
        let mut bytes = whole.clone();
        for _ in 0..=next(3) {
            let at = next(bytes.len());
            bytes[at] = [b'0', b'.', b'/', 0, 0xff, b'7', b' ', b'\n', next(256) as u8][next(9)];
        }
        if next(10) > 0 {
            // Most changes of a header would end at its checksum: mend them.
            for block in bytes.chunks_exact_mut(512) {
                if &block[257..262] == b"ustar" {
                    block[148..156].copy_from_slice(b"        ");
                    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
                    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
                }
            }
        }
        let target = scratch.path().join("layer");
        let result = unpack(&bytes[..], &target, &options());
        outcomes[usize::from(result.is_ok())] += 1;
        if result.is_ok() {
            coracle_layers::remove_tree(&target).unwrap();
        }
        let _ = fs::remove_file(scratch.path().join("ownership"));
        assert!(!target.exists());
    }
    assert_eq!(listing(&scratch.path().join("sentinel")), before);
    assert!(outcomes[0] > 300 && outcomes[1] > 300, "{outcomes:?}");
}

#[test]
fn limits_end_what_asks_for_too_much() {
    let scratch = scratch();
    let check = |limits: Limits, archive: Archive| {
        let mut options = options();
        options.limits = limits;
        let target = scratch.path().join("layer");
        let result = unpack(&archive.end()[..], &target, &options);
        assert!(matches!(result, Err(Error::Limit { .. })), "{result:?}");
        assert!(result.unwrap_err().remedy().is_some());
        assert!(!target.exists());
    };
    let mut limits = Limits::default();
    limits.entries = 2;
    check(limits, Archive::new().file("a", "").file("b", "").file("c", ""));
    let mut limits = Limits::default();
    limits.total_bytes = 1999;
    check(limits, Archive::new().file("a", [0; 1000]).file("b", [0; 1000]));
    let mut limits = Limits::default();
    limits.sparse_segments = 1;
    let mut map = b"3\n0\n0\n1\n0\n2\n0\n".to_vec();
    map.resize(512, 0);
    check(
        limits,
        Archive::new().pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")]).file("f", map),
    );
    // A bomb: its size is said up front, so that nothing is written.
    check(Limits::default(), Archive::new().pax(&[("size", b"9000000000000")]).file("bomb", ""));
}
