//! What a container changed comes out as a layer, and as a layer makes the same tree again.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, UNIX_EPOCH};

use coracle_layers::{
    ChangeKind, Compression, Compressor, DiffOptions, Error, Flavour, IdRange, Ids, Options, Ownership, changes, diff, export, flatten,
    unpack,
};

use crate::scratch::{difference, is_root, listing, scratch, skip};

/// For whoever runs the test: overlays are mounted in a namespace of the test's own.
fn options() -> DiffOptions {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    match is_root() {
        true => DiffOptions::root(),
        false => DiffOptions::user(Ids::mapped(vec![IdRange::new(0, uid, 1)], vec![IdRange::new(0, gid, 1)])),
    }
}

fn unpacking() -> Options {
    if is_root() { Options::root() } else { Options::user(Ownership::Squash) }
}

fn packed(upper: &Path, options: &DiffOptions) -> Vec<u8> {
    let mut bytes = Vec::new();
    diff(upper, options, &mut bytes).unwrap();
    bytes
}

/// The names in an archive.
fn names(archive: &[u8]) -> Vec<String> {
    let mut archive = tar::Archive::new(archive);
    archive.entries().unwrap().map(|entry| entry.unwrap().path_bytes().escape_ascii().to_string()).collect()
}

/// Runs a script where `merged` is an overlay of `lower` (below each other, the topmost first) with `upper`, and says whether it could.
fn in_overlay(place: &Path, lower: &[&str], upper: Option<&str>, script: &str) {
    let user = if is_root() { "" } else { ",userxattr" };
    let upper = upper.map(|upper| format!(",upperdir={upper},workdir=work")).unwrap_or_default();
    let mount = format!("mount -t overlay overlay -o lowerdir={}{upper}{user} merged", lower.join(":"));
    let whole = format!("set -e; {ATTRIBUTE}; mkdir -p merged work; {mount}; cd merged\n{script}");
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["-m"][..] } else { &["-U", "-r", "-m"] });
    let output = command.args(["bash", "-c"]).arg(&whole).current_dir(place).output().unwrap();
    assert!(output.status.success(), "{}\n{whole}", String::from_utf8_lossy(&output.stderr));
}

/// Sets an attribute, where python is there to do it: setfattr(1) seldom is.
const ATTRIBUTE: &str = r#"attribute() { python3 -c 'import os,sys; os.setxattr(sys.argv[3], sys.argv[1], sys.argv[2].encode(), follow_symlinks=False)' "$@" 2>/dev/null || true; }"#;

const PACK: &str = "tar --format=pax --xattrs --xattrs-include='*' --numeric-owner --sort=name -cf";

/// What an archive of GNU tar's holds, as a tree of files unpacked by GNU tar.
fn tree(place: &Path, archive: &str) -> std::collections::BTreeMap<String, String> {
    let to = place.join(format!("{archive}.tree"));
    fs::create_dir(&to).unwrap();
    let output = Command::new("tar")
        .args(["-x", "-p", "--numeric-owner", "--xattrs", "--xattrs-include=*", "-f"])
        .arg(place.join(archive))
        .arg("-C")
        .arg(&to)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen = listing(&to);
    coracle_layers::remove_tree(&to).unwrap();
    seen
}

fn can_mount(place: &Path) -> bool {
    fs::create_dir_all(place.join("probe/lower")).unwrap();
    fs::create_dir_all(place.join("probe/upper")).unwrap();
    let user = if is_root() { "" } else { ",userxattr" };
    let mut command = Command::new("unshare");
    command.args(if is_root() { &["-m"][..] } else { &["-U", "-r", "-m"] });
    let mount = format!("mkdir -p work merged && mount -t overlay overlay -o lowerdir=lower,upperdir=upper,workdir=work{user} merged");
    let can = command.args(["sh", "-c", &mount]).current_dir(place.join("probe")).output().unwrap().status.success();
    coracle_layers::remove_tree(&place.join("probe")).unwrap();
    if !can {
        skip("user-namespaces");
    }
    can
}

/// Everything that a diff makes of a tree is checked: against what the container saw, and against itself.
fn round_trip(place: &Path, what: &str) {
    // What the container saw, by the kernel and GNU tar.
    in_overlay(place, &["lower"], Some("upper"), &format!("{PACK} ../seen.tar ."));
    let seen = tree(place, "seen.tar");
    let options = options();
    let layer = packed(&place.join("upper"), &options);
    assert_eq!(layer, packed(&place.join("upper"), &options), "{what}: twice");
    unpack(&layer[..], &place.join("again"), &unpacking()).unwrap_or_else(|error| panic!("{what}: {error}"));
    in_overlay(place, &["again", "lower"], None, &format!("{PACK} ../again.tar ."));
    if let Some(difference) = difference(&tree(place, "again.tar"), &seen) {
        panic!("{what}: the layer makes another tree: {difference}");
    }
    let mut whole = fs::File::create(place.join("export.tar")).unwrap();
    export(&[place.join("upper"), place.join("lower")], &options, &mut whole).unwrap();
    let mut exported = tree(place, "export.tar");
    exported.remove("");
    let mut without_root = seen.clone();
    without_root.remove("");
    if let Some(difference) = difference(&exported, &without_root) {
        panic!("{what}: the export is another tree: {difference}");
    }
    coracle_layers::remove_tree(&place.join("again")).unwrap();
    for file in ["seen.tar", "again.tar", "export.tar"] {
        fs::remove_file(place.join(file)).unwrap();
    }
}

const LOWER: &str = "mkdir -p lower/a/b/c lower/d lower/e/f upper; cd lower
echo one > a/one; echo two > a/b/two; echo three > a/b/c/three; ln a/one hard; ln -s a/one soft; echo x > d/x; echo y > e/f/y
mkfifo pipe; head -c 3000000 /dev/urandom > big; chmod 4755 d/x; chmod 1777 e; attribute user.note below a/one";

fn lower(place: &Path) {
    let output = Command::new("bash").arg("-ec").arg(format!("{ATTRIBUTE}\n{LOWER}")).current_dir(place).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_a_container_changed_makes_the_same_tree_again() {
    let place = scratch();
    let place = place.path();
    if !can_mount(place) {
        return;
    }
    lower(place);
    in_overlay(
        place,
        &["lower"],
        Some("upper"),
        "rm a/b/two; rm -r d; mkdir d; echo new > d/new; rm -r e; echo file > e; rm soft; mkdir soft; rm hard; mkdir -p n/m/o
        echo more >> a/one; ln a/one n/one; ln a/one zone; ln -s nowhere n/dangling; ln n/dangling n/dangling2; mkfifo n/fifo
        mv a/b/c/three n/three; chmod 0700 a; chmod 2755 n; touch -d '1999-12-31 23:59:59.123456789' n/m
        truncate -s 50000000 n/sparse; printf island | dd of=n/sparse bs=1 seek=20000000 conv=notrunc status=none
        head -c 5000000 /dev/zero > n/zeros; echo end >> n/zeros; : > n/empty; touch $'n/new\\nline' 'n/ü %' ./-n
        mkdir n/$(printf 'l%.0s' {1..200}); echo deep > n/$(printf 'l%.0s' {1..200})/$(printf 'x%.0s' {1..200})
        ln -s $(printf 't%.0s' {1..300}) n/long; attribute user.note above n/three; attribute user.dir d n",
    );
    if is_root() {
        in_overlay(
            place,
            &["lower"],
            Some("upper"),
            "mknod n/null c 1 3; mknod n/disk b 259 70000; chown 3000000:42 n/three; chown -h 7:8 n/dangling; cp /bin/true n/true
            setcap cap_net_raw+ep n/true 2>/dev/null || true; chmod 4711 n/true",
        );
    }
    round_trip(place, "by hand");
    let names = names(&packed(&place.join("upper"), &options()));
    // What was there below and isn't any more, and what is anew what was there below.
    for name in ["a/b/.wh.two", "d/", "d/.wh..wh..opq", "d/new", "e", "soft/", ".wh.hard", "n/fifo", "n/new\\nline"] {
        assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
    }
    assert!(!names.iter().any(|name| name.starts_with("d/x") || name.contains("big")), "{names:?}");
}

/// Whatever is done to a tree, the layer makes the same one: random changes, many of them to what was changed before.
#[test]
fn random_changes_make_the_same_tree_again() {
    let place = scratch();
    let place = place.path();
    if !can_mount(place) {
        return;
    }
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % below
    };
    for round in 0..6 {
        lower(place);
        let mut script = String::from("set +e\n");
        for step in 0..70 {
            let mut path = || {
                let parts = ["a", "b", "c", "d", "e", "f", "one", "two", "x", "new", "w h", "n\nl"];
                let depth = 1 + random(3);
                let words: Vec<&str> = (0..depth).map(|_| parts[random(parts.len())]).collect();
                format!("'./{}'", words.join("/"))
            };
            let (one, other) = (path(), path());
            script += &match random(11) {
                0 => format!("mkdir -p {one}"),
                1 => format!("rm -rf {one}"),
                // Whoever writes into a pipe waits for a reader.
                2 => format!("[ -p {one} ] || echo {step} > {one}"),
                3 => format!("ln {one} {other}"),
                4 => format!("ln -s {other} {one}"),
                5 => format!("mv -T {one} {other}"),
                6 => format!("chmod {:o} {one}", [0o755, 0o700, 0o644, 0o1777, 0o4755][random(5)]),
                7 => format!("rm -rf {one}; mkdir {one}"),
                8 => format!("mkfifo {one}"),
                9 => format!("attribute user.n{} {step} {one}", random(3)),
                _ => format!("touch -d @{}.5 {one}", 1_000_000_000 + step),
            };
            script.push('\n');
        }
        script += "true";
        in_overlay(place, &["lower"], Some("upper"), &script);
        round_trip(place, &format!("round {round}:\n{script}"));
        for directory in ["lower", "upper", "work"] {
            coracle_layers::remove_tree(&place.join(directory)).unwrap();
        }
    }
}

/// A tree that is written by hand, as a container's upper directory.
fn upper(root: &Path) {
    fs::create_dir_all(root.join("dir/sub")).unwrap();
    fs::write(root.join("dir/file"), "contents").unwrap();
    fs::hard_link(root.join("dir/file"), root.join("hard")).unwrap();
    symlink("dir/file", root.join("soft")).unwrap();
    let big: Vec<u8> = (0..6_000_000_u32).map(|n| (n / 7 % 251) as u8).collect();
    fs::write(root.join("big"), big).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(20 << 20).unwrap();
    std::os::unix::fs::FileExt::write_at(&sparse, b"island", 9 << 20).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, root.join("gone"), rustix::fs::FileType::CharacterDevice, 0.into(), 0).unwrap();
    for path in ["dir/sub", "dir/file", "big", "sparse", "dir", "."] {
        let file = fs::File::open(root.join(path)).unwrap();
        file.set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789)).unwrap();
    }
}

fn link_times(root: &Path) {
    // A link's own time.
    let time = rustix::fs::Timespec { tv_sec: 1_700_000_000, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(rustix::fs::CWD, root.join("soft"), &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

#[test]
fn the_same_changes_are_the_same_bytes_wherever_they_lie() {
    let memory = scratch();
    let disk = tempfile::tempdir().unwrap();
    let mut packed_at = Vec::new();
    for place in [memory.path(), disk.path()] {
        let root = place.join("upper");
        upper(&root);
        link_times(&root);
        packed_at.push(packed(&root, &options()));
        // Holes that are filled with zeros are holes still.
        let sparse = fs::OpenOptions::new().write(true).open(root.join("sparse")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&sparse, &vec![0; 2 << 20], 0).unwrap();
        sparse.set_modified(UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_789)).unwrap();
        packed_at.push(packed(&root, &options()));
        // The order in which files were made is no matter either.
        let copy = place.join("copy");
        fs::create_dir(&copy).unwrap();
        unpack(&packed_at[0][..], &copy.join("fs"), &unpacking()).unwrap();
        packed_at.push(packed(&copy.join("fs"), &options()));
    }
    for (n, other) in packed_at.iter().enumerate() {
        assert!(*other == packed_at[0], "{n}: {} and {} bytes", other.len(), packed_at[0].len());
    }
    // 20 MiB of holes aren't in it.
    assert!(packed_at[0].len() < 7_000_000, "{}", packed_at[0].len());
    let compressed = |threads, kind| {
        let mut compressor = Compressor::with_threads(Vec::new(), kind, threads).unwrap();
        diff(&memory.path().join("upper"), &options(), &mut compressor).unwrap();
        compressor.finish().unwrap()
    };
    for kind in [Compression::Gzip, Compression::Zstd] {
        let one = compressed(1, kind);
        assert!(one == compressed(2, kind) && one == compressed(8, kind), "{kind:?}");
        let again = scratch();
        let report = unpack(&one[..], &again.path().join("fs"), &unpacking()).unwrap();
        assert_eq!(report.diff_id, coracle_image::Digest::sha256(&packed_at[0]), "{kind:?}");
    }
    let gzip = disk.path().join("layer.gz");
    fs::write(&gzip, compressed(2, Compression::Gzip)).unwrap();
    let output = Command::new("gzip").args(["-dc"]).arg(&gzip).output().unwrap();
    assert!(output.status.success() && output.stdout == packed_at[0]);
}

#[test]
fn times_after_the_epoch_that_was_given_are_that_epoch() {
    let place = scratch();
    upper(&place.path().join("upper"));
    fs::File::open(place.path().join("upper/big")).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(5)).unwrap();
    let mut options = options();
    options.clamp = Some(UNIX_EPOCH + Duration::from_secs(1000));
    let first = packed(&place.path().join("upper"), &options);
    let mut archive = tar::Archive::new(&first[..]);
    for entry in archive.entries().unwrap() {
        let entry = entry.unwrap();
        let expected = match entry.path_bytes().as_ref() {
            b"big" => 5,
            b".wh.gone" => 0,
            _ => 1000,
        };
        assert_eq!(entry.header().mtime().unwrap(), expected, "{:?}", entry.path());
    }
    std::thread::sleep(Duration::from_millis(20));
    fs::write(place.path().join("upper/dir/file"), "contents").unwrap();
    assert!(packed(&place.path().join("upper"), &options) == first);
}

#[test]
fn what_no_layer_can_express_is_refused_by_its_name() {
    let place = scratch();
    let fails = |make: &dyn Fn(&Path)| {
        let root = place.path().join("upper");
        fs::create_dir(&root).unwrap();
        make(&root);
        let failed = diff(&root, &options(), std::io::sink());
        // As an archive of files it's fine, but for what overlay says of itself.
        let mut whole = Vec::new();
        let exported = export(&[&root], &options(), &mut whole);
        coracle_layers::remove_tree(&root).unwrap();
        match failed {
            Err(error @ Error::Unpackable { .. }) => {
                assert!(error.remedy().is_some());
                (error.to_string(), exported.is_ok())
            }
            other => panic!("{other:?}"),
        }
    };
    let (error, exported) = fails(&|root| fs::write(root.join(".wh.mine"), "").unwrap());
    assert!(error.starts_with("can't put /.wh.mine into a layer: names that begin with `.wh.`") && exported, "{error}");
    let (error, _) = fails(&|root| {
        fs::create_dir(root.join("d")).unwrap();
        fs::write(root.join("d/.wh..wh..opq"), "").unwrap();
    });
    assert!(error.contains("/d/.wh..wh..opq"), "{error}");
    let (error, _) = fails(&|root| fs::create_dir(root.join(".wh..")).unwrap());
    assert!(error.contains("/.wh.."), "{error}");
    // Deeper than any path that the kernel takes.
    let (error, _) = fails(&|root| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let mut at = rustix::fs::open(root, flags, rustix::fs::Mode::empty()).unwrap();
        let name = "n".repeat(100);
        for _ in 0..60 {
            rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, &name, flags, rustix::fs::Mode::empty()).unwrap();
        }
    });
    assert!(error.contains("4,094 bytes"), "{error}");
    let (error, _) = fails(&|root| {
        let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY;
        let mut at = rustix::fs::open(root, flags, rustix::fs::Mode::empty()).unwrap();
        for _ in 0..1500 {
            rustix::fs::mkdirat(&at, "d", rustix::fs::Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
        }
    });
    assert!(error.contains("1,022 directories"), "{error}");
    let own = if is_root() { "trusted.overlay." } else { "user.overlay." };
    for attribute in ["metacopy", "redirect"] {
        let (error, exported) = fails(&|root| {
            fs::write(root.join("half"), "").unwrap();
            let name = format!("{own}{attribute}");
            rustix::fs::setxattr(root.join("half"), name, b"/etc", rustix::fs::XattrFlags::empty()).unwrap();
        });
        assert!(error.contains("/half") && error.contains("changed only in part") && !exported, "{error}");
    }
}

#[test]
fn what_a_hostile_container_leaves_neither_escapes_nor_corrupts() {
    let place = scratch();
    let (root, outside) = (place.path().join("upper"), place.path().join("outside"));
    fs::create_dir_all(root.join("etc")).unwrap();
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("secret"), "not for you").unwrap();
    symlink(&outside, root.join("way-out")).unwrap();
    symlink("../outside", root.join("up")).unwrap();
    symlink("/proc/self/root", root.join("magic")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    let names: [&[u8]; 7] = [b"new\nline", b"\xff\xfe", b"11 path=up\n", b" ", b"-rf", b"a\\b", b"\x1b[31m"];
    for name in names {
        fs::write(root.join(std::ffi::OsStr::from_bytes(name)), name).unwrap();
        // Long enough for an extended header, whose records end by a newline.
        let long = [&b"etc/"[..], name, &b"x".repeat(150), b"\n13 path=evil\n"].concat();
        fs::write(root.join(std::ffi::OsStr::from_bytes(&long)), "x").unwrap();
    }
    let socket = std::os::unix::net::UnixListener::bind(root.join("socket")).unwrap();
    let set = |attribute: &str, value: &[u8]| {
        rustix::fs::setxattr(root.join("etc"), attribute, value, rustix::fs::XattrFlags::empty()).unwrap();
    };
    set("user.a=b", b"ambiguous");
    set("user.note", b"v\0\n11 path=x\n");
    // Of the flavour that isn't the mount's a container may write what it likes.
    set(if is_root() { "user.overlay.opaque" } else { "user.overlay.overlay.opaque" }, b"y");
    for n in 0..5_000 {
        fs::write(root.join("etc").join(n.to_string()), "").unwrap();
    }
    for (name, mode) in [("closed", 0o000), ("etc", 0o111)] {
        let path = root.join(name);
        fs::create_dir_all(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let mut bytes = Vec::new();
    if !is_root() {
        // Its owner inside may read them, which is this user.
        fs::set_permissions(root.join("closed"), fs::Permissions::from_mode(0o700)).unwrap();
        fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
    }
    let report = diff(&root, &options(), &mut bytes).unwrap();
    drop(socket);
    let skipped: Vec<String> = report.skipped.iter().map(|skipped| format!("{}: {}", skipped.path, skipped.what)).collect();
    assert_eq!(report.skipped_total, 3, "{skipped:?}");
    assert!(skipped.iter().any(|s| s.starts_with("socket: a socket")), "{skipped:?}");
    assert!(skipped.iter().any(|s| s.contains("user.a=b")), "{skipped:?}");
    assert!(!bytes.windows(11).any(|bytes| bytes == b"not for you"));
    let unpacked = place.path().join("again");
    let report = unpack(&bytes[..], &unpacked, &unpacking()).unwrap();
    assert_eq!((report.opaque_root, report.whiteouts, report.skipped_total), (false, 0, 0));
    let (mut before, mut after) = (listing(&root), listing(&unpacked));
    for tree in [&mut before, &mut after] {
        tree.remove("socket");
        tree.retain(|name, _| name != "etc");
    }
    assert_eq!(difference(&after, &before), None);
    assert_eq!(fs::read_to_string(outside.join("secret")).unwrap(), "not for you");
}

#[test]
fn what_was_made_to_be_mounted_on_is_no_change() {
    let place = scratch();
    let (root, lower) = (place.path().join("upper"), place.path().join("lower"));
    for directory in ["etc", "dev", "data/cache", "srv", "var/lib"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::create_dir_all(lower.join("etc")).unwrap();
    fs::create_dir_all(lower.join("var")).unwrap();
    for file in ["etc/hosts", "etc/resolv.conf", "srv/file"] {
        fs::write(root.join(file), "").unwrap();
    }
    let mount_points = ["/etc/hosts", "/etc/resolv.conf", "/dev", "/dev/pts", "/data/cache", "/srv/file"].map(PathBuf::from).to_vec();
    let mut options = options();
    (options.mount_points, options.lower) = (mount_points, vec![lower.clone()]);
    let all = || (names(&packed(&root, &options)), changes(&root, &options).unwrap());
    let (archive, listed) = all();
    assert_eq!(archive, ["var/", "var/lib/"]);
    assert_eq!(listed.len(), 2);
    // But what is in them is.
    fs::write(root.join("etc/mine"), "").unwrap();
    fs::write(root.join("dev/thing"), "").unwrap();
    fs::write(root.join("srv/file"), "not empty").unwrap();
    let (archive, listed) = all();
    assert_eq!(archive, ["dev/", "dev/thing", "etc/", "etc/mine", "srv/", "srv/file", "var/", "var/lib/"]);
    let listed: Vec<String> = listed.iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect();
    assert_eq!(
        listed,
        [
            "Added /dev",
            "Added /dev/thing",
            "Changed /etc",
            "Added /etc/mine",
            "Added /srv",
            "Added /srv/file",
            "Changed /var",
            "Added /var/lib"
        ]
    );
    // And what was done to the directory itself is.
    fs::remove_file(root.join("etc/mine")).unwrap();
    fs::set_permissions(root.join("etc"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(&root, fs::Permissions::from_mode(0o711)).unwrap();
    fs::set_permissions(&lower, fs::Permissions::from_mode(0o755)).unwrap();
    let (archive, _) = all();
    assert!(archive.contains(&"etc/".to_owned()) && archive.contains(&"./".to_owned()), "{archive:?}");
}

#[test]
fn changes_are_listed_as_docker_lists_them() {
    let place = scratch();
    let place = place.path();
    if !can_mount(place) {
        return;
    }
    lower(place);
    in_overlay(
        place,
        &["lower"],
        Some("upper"),
        "rm a/b/two; rm -r d; mkdir d; echo > d/new; echo more >> a/one; mkdir n; echo > n/f; rm pipe",
    );
    let mut options = options();
    options.lower = vec![place.join("lower")];
    let listed = changes(&place.join("upper"), &options).unwrap();
    let letter = |kind| match kind {
        ChangeKind::Added => 'A',
        ChangeKind::Changed => 'C',
        _ => 'D',
    };
    let listed: Vec<String> = listed.iter().map(|change| format!("{} {}", letter(change.kind), change.path.display())).collect();
    assert_eq!(listed, ["C /a", "C /a/b", "D /a/b/two", "C /a/one", "C /d", "A /d/new", "D /d/x", "A /n", "A /n/f", "D /pipe"]);
}

#[test]
fn a_flattened_container_is_one_layer_with_a_root() {
    let place = scratch();
    let (root, lower) = (place.path().join("upper"), place.path().join("lower"));
    upper(&root);
    fs::create_dir(&lower).unwrap();
    fs::write(lower.join("gone"), "below").unwrap();
    fs::write(lower.join("kept"), "below").unwrap();
    let mut bytes = Vec::new();
    flatten(&[&root, &lower], &options(), &mut bytes).unwrap();
    let names = names(&bytes);
    assert_eq!(names[0], "./");
    assert!(names.contains(&"kept".to_owned()) && !names.iter().any(|name| name.contains("gone")), "{names:?}");
}

#[test]
fn overlays_word_for_opaque_is_read_in_the_mounts_flavour_alone() {
    let place = scratch();
    let root = place.path().join("upper");
    fs::create_dir_all(root.join("dir")).unwrap();
    rustix::fs::setxattr(root.join("dir"), "user.overlay.opaque", b"y", rustix::fs::XattrFlags::empty()).unwrap();
    let mut bytes = Vec::new();
    let mut options = DiffOptions::root();
    options.flavour = Flavour::User;
    diff(&root, &options, &mut bytes).unwrap();
    assert!(names(&bytes).contains(&"dir/.wh..wh..opq".to_owned()));
    let report = diff(&root, &DiffOptions::root(), &mut bytes).unwrap();
    assert_eq!((report.entries, report.skipped_total), (2, 1));
}
