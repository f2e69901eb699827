//! Files into and out of a container, while it does its worst, and before it starts.

use crate::support::need;
use crate::support::needs::Need;
use crate::support::place::{Place, block_on, waker, within};
use coracle::{Container, Copied, CopyIn, CopyOut, Error, FileKind, Mount};
use std::fs;
use std::future::Future as _;
use std::io::{self, Read as _, Write};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Context;
use std::time::{Duration, Instant};

fn waiting(place: &Place, first: &str) -> Container {
    let line = format!("{first}\ntouch /made\nwhile :; do sleep 1; done");
    let container = block_on(place.sh(&line).run()).expect("it runs");
    assert!(within(Duration::from_secs(60), || block_on(container.fs().exists("/made")).expect("it is looked for")));
    container
}

#[track_caller]
fn says(container: &Container, line: &str) -> String {
    let out = block_on(container.exec(["sh", "-c", line]).output()).expect("it runs");
    assert!(out.status.success() && out.stderr.is_empty(), "{}: {}{}", out.status, out.stdout_lossy(), out.stderr_lossy());
    out.stdout_lossy().into_owned()
}

#[track_caller]
fn goes_in(container: &Container, what: impl Into<CopyIn>, target: &str) -> Copied {
    block_on(container.copy_to(what, target)).unwrap_or_else(|error| panic!("{error}"))
}

#[track_caller]
fn comes_out(container: &Container, what: impl Into<CopyOut>, target: &Path) -> Copied {
    block_on(container.copy_from(what, target)).unwrap_or_else(|error| panic!("{error}"))
}

/// Of a copy that isn't made.
#[track_caller]
fn kind<T: std::fmt::Debug>(result: Result<T, Error>) -> io::ErrorKind {
    match result {
        Err(Error::Copy { source, .. }) => source.kind(),
        other => panic!("{other:?}"),
    }
}

fn write(path: &Path, contents: &str, mode: u32) {
    fs::write(path, contents).expect("a file can be written");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode can be set");
}

/// A tree of this machine: a file, a program, a directory that only its owner may enter, symlinks, an empty file.
fn tree(place: &Place) -> std::path::PathBuf {
    let tree = place.path().join("tree");
    fs::create_dir_all(tree.join("sub/deep")).expect("directories");
    write(&tree.join("file"), "contents\n", 0o640);
    write(&tree.join("sub/program"), "#!/bin/sh\necho runs\n", 0o755);
    write(&tree.join("sub/deep/empty"), "", 0o600);
    fs::set_permissions(tree.join("sub/deep"), fs::Permissions::from_mode(0o700)).expect("a mode");
    symlink("../file", tree.join("sub/link")).expect("a link");
    symlink("/nowhere/at/all", tree.join("dangling")).expect("a link");
    tree
}

const SHAPE: &str = "cd /in/tree && find . | sort | while read f; do stat -c '%n %a %u:%g %F' $f; done; readlink sub/link; readlink dangling; cat file; sub/program";

#[test]
fn a_tree_goes_in_and_comes_out_as_it_was() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place, "mkdir /in");
    let tree = tree(&place);
    let copied = goes_in(&container, CopyIn::path(&tree), "/in");
    assert_eq!((copied.files, copied.directories, copied.symlinks, copied.bytes), (3, 3, 2, 29));
    let shape = says(&container, SHAPE);
    let expected = ". 755 0:0 directory\n./dangling 777 0:0 symbolic link\n./file 640 0:0 regular file\n./sub 755 0:0 directory\n\
        ./sub/deep 700 0:0 directory\n./sub/deep/empty 600 0:0 regular empty file\n./sub/link 777 0:0 symbolic link\n\
        ./sub/program 755 0:0 regular file\n../file\n/nowhere/at/all\ncontents\nruns\n";
    assert_eq!(shape, expected);
    let out = place.path().join("out");
    comes_out(&container, "/in/tree", &out);
    let me = fs::metadata(place.path()).expect("it is there").uid();
    for name in ["file", "sub/program", "sub/deep/empty", "sub", "sub/deep"] {
        let (was, is) = (fs::metadata(tree.join(name)).expect("there"), fs::metadata(out.join(name)).expect("copied"));
        assert_eq!((was.mode(), is.uid()), (is.mode(), me), "{name}");
        if was.is_file() {
            assert_eq!(was.mtime(), is.mtime(), "{name}");
            assert_eq!(fs::read(tree.join(name)).expect("read"), fs::read(out.join(name)).expect("read"));
        }
    }
    assert_eq!(fs::read_link(out.join("dangling")).expect("a link"), Path::new("/nowhere/at/all"));
    // A large file, whose end isn't where a buffer ends.
    let bytes: Vec<u8> = (0..(9u32 << 20) + 7).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    goes_in(&container, bytes.clone(), "/in/large");
    comes_out(&container, "/in/large", &place.path().join("large"));
    assert!(fs::read(place.path().join("large")).expect("it is there") == bytes);
}

#[test]
fn owners_and_modes_are_what_is_said() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place, "umask 077");
    let owner = if crate::support::met(Need::NoSubIds) { (0, 0) } else { (33, 44) };
    goes_in(&container, CopyIn::bytes("x").mode(0o4755).owner(owner.0, owner.1), "/new/dir/program");
    let expected = format!("4755 {}:{}\n755 0:0\n", owner.0, owner.1);
    assert_eq!(says(&container, "stat -c '%a %u:%g' /new/dir/program /new/dir"), expected);
    goes_in(&container, b"y", "/plain");
    assert_eq!(says(&container, "stat -c '%a %u:%g' /plain"), "644 0:0\n");
    goes_in(&container, CopyIn::path(tree(&place)).owner(owner.0, owner.1).mode(0o444), "/tree");
    let owners = says(&container, "find /tree | while read f; do stat -c '%u:%g' $f; done | sort -u; stat -c %a /tree/file /tree/sub/deep");
    assert_eq!(owners, format!("{}:{}\n444\n700\n", owner.0, owner.1));
    if crate::support::met(Need::NoSubIds) {
        let error = block_on(container.copy_to(CopyIn::bytes("x").owner(33, 44), "/other")).expect_err("there is no such owner");
        assert!(matches!(&error, Error::Copy { source, .. } if source.kind() == io::ErrorKind::InvalidInput), "{error}");
        assert!(error.remedy().is_some_and(|remedy| remedy.contains("sub-ids")));
    }
    // A set-id program of the container's doesn't become one of the caller's.
    comes_out(&container, "/new/dir/program", &place.path().join("program"));
    assert_eq!(fs::metadata(place.path().join("program")).expect("it is there").mode() & 0o7777, 0o755);
}

#[test]
fn a_target_means_what_docker_cp_means() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container =
        waiting(&place, "mkdir -p /d /e /full/tree/sub; echo old > /f; ln -s /f /to-file; ln -s /d /to-dir; echo x > /full/file");
    let tree = tree(&place);
    let dot = tree.join(".");
    let from = |path: &Path| CopyIn::path(path).parents(false);
    let list = |path: &str| says(&container, &format!("cd {path} && ls -A | tr '\\n' ' '"));
    // A file, to what isn't there, what is a directory, what is a file, and what is a symlink to either.
    goes_in(&container, from(&tree.join("file")), "/new");
    assert_eq!(says(&container, "cat /new"), "contents\n");
    assert_eq!(kind(block_on(container.copy_to(from(&tree.join("file")), "/nodir/"))), io::ErrorKind::NotFound);
    assert_eq!(kind(block_on(container.copy_to(from(&tree.join("file")), "/nodir/file"))), io::ErrorKind::NotFound);
    goes_in(&container, from(&tree.join("file")), "/d");
    goes_in(&container, from(&tree.join("file")), "/f");
    assert_eq!(says(&container, "cat /d/file /f; rm /d/file; echo old > /f"), "contents\ncontents\n");
    goes_in(&container, from(&tree.join("file")), "/to-file");
    goes_in(&container, from(&tree.join("file")), "/to-dir/");
    assert_eq!(says(&container, "cat /f /d/file; readlink /to-file; rm /d/file"), "contents\ncontents\n/f\n");
    assert_eq!(kind(block_on(container.copy_to(from(&tree.join("file")), "/f/"))), io::ErrorKind::NotADirectory);
    assert_eq!(kind(block_on(container.copy_to(from(&tree.join("file/.")), "/d"))), io::ErrorKind::NotADirectory);
    // A directory: under its name, by its contents, and to a name of its own.
    goes_in(&container, from(&tree), "/d");
    assert_eq!((list("/d"), list("/d/tree")), ("tree ".into(), "dangling file sub ".into()));
    goes_in(&container, from(&dot), "/e/");
    assert_eq!(list("/e"), "dangling file sub ");
    goes_in(&container, from(&tree), "/g");
    goes_in(&container, from(&dot), "/h");
    assert_eq!((list("/g"), list("/h")), ("dangling file sub ".into(), "dangling file sub ".into()));
    assert_eq!(kind(block_on(container.copy_to(from(&tree), "/f"))), io::ErrorKind::NotADirectory);
    // Over what is there: directories are joined, files replaced; neither becomes the other.
    says(&container, "rm -rf /full/tree/file; echo other > /full/tree/file; echo stays > /full/tree/sub/stays; chmod 711 /full/tree");
    goes_in(&container, from(&tree), "/full");
    assert_eq!(says(&container, "cat /full/tree/file /full/tree/sub/stays; stat -c %a /full/tree"), "contents\nstays\n711\n");
    says(&container, "rm -rf /full/tree/file; mkdir /full/tree/file");
    assert!(matches!(
        kind(block_on(container.copy_to(from(&tree), "/full"))),
        io::ErrorKind::IsADirectory | io::ErrorKind::PermissionDenied
    ));
    // A symlink is one, unless it is to be followed.
    goes_in(&container, from(&tree.join("sub/link")), "/link");
    goes_in(&container, from(&tree.join("sub/link")).follow_link(true), "/followed");
    assert_eq!(says(&container, "readlink /link; cat /followed"), "../file\ncontents\n");
    // And out.
    let out = place.path().join("out");
    fs::create_dir(&out).expect("a directory");
    comes_out(&container, "/f", &out);
    comes_out(&container, "/e/.", &out.join("e"));
    comes_out(&container, "/e", &out);
    comes_out(&container, CopyOut::path("/to-file").follow_link(true), &out.join("followed"));
    comes_out(&container, "/to-file", &out.join("link"));
    assert_eq!(fs::read_to_string(out.join("f")).expect("there"), "contents\n");
    assert!(out.join("e/file").is_file() && out.join("e/sub/program").is_file());
    assert!(out.join("followed").is_file() && fs::read_link(out.join("link")).is_ok_and(|to| to == Path::new("/f")));
    assert_eq!(kind(block_on(container.copy_from("/f", out.join("nodir/")))), io::ErrorKind::NotFound);
    assert_eq!(kind(block_on(container.copy_from("/nowhere", &out))), io::ErrorKind::NotFound);
    assert_eq!(kind(block_on(container.copy_from("/e", out.join("f")))), io::ErrorKind::NotADirectory);
    assert_eq!(kind(block_on(container.copy_to(CopyIn::path(place.path().join("none")), "/d"))), io::ErrorKind::NotFound);
}

#[test]
fn devices_fifos_and_sockets_are_neither_opened_nor_made() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place, "mkdir /w; mkfifo /w/fifo; echo x > /w/file; ln -s /dev/zero /w/zero");
    let out = place.path().join("out");
    let copied = comes_out(&container, "/w", &out);
    assert_eq!((copied.files, copied.skipped), (1, vec!["fifo".into()]));
    assert!(!out.join("fifo").exists());
    // Followed, it is what it leads to: a device.
    assert_eq!(
        kind(block_on(container.copy_from(CopyOut::path("/w/zero").follow_link(true), out.join("zero")))),
        io::ErrorKind::InvalidInput
    );
    assert_eq!(kind(block_on(container.copy_from("/w/fifo", out.join("f")))), io::ErrorKind::InvalidInput);
    assert!(matches!(block_on(container.fs().read("/w/fifo")), Err(Error::Copy { .. })));
    assert!(matches!(block_on(container.fs().read("/dev/zero")), Err(Error::Copy { .. })));
    assert!(matches!(block_on(container.fs().write("/w/fifo", b"x")), Err(Error::Copy { .. })));
    // Nor this machine's.
    let here = place.path().join("here");
    fs::create_dir(&here).expect("a directory");
    rustix::fs::mkfifoat(rustix::fs::CWD, here.join("fifo"), rustix::fs::Mode::from_raw_mode(0o600)).expect("a FIFO");
    let _socket = std::os::unix::net::UnixListener::bind(here.join("socket")).expect("a socket");
    let mut skipped = goes_in(&container, CopyIn::path(&here), "/here").skipped;
    skipped.sort();
    assert_eq!(skipped, ["fifo", "socket"].map(Path::new));
    assert_eq!(says(&container, "ls -A /here"), "");
    assert!(fs::symlink_metadata(here.join("fifo")).is_ok_and(|file| file.file_type().is_fifo()));
    // The copy of /dev is full of them, and has an end.
    comes_out(&container, "/dev", &place.path().join("dev"));
}

#[test]
fn a_copy_has_a_size_and_a_flood_has_an_end() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(
        &place,
        "mkdir /w; echo x > /w/grows; (while :; do head -c 100000 /dev/zero >> /w/grows; [ $(stat -c %s /w/grows) -gt 200000000 ] && : > /w/grows; done) &",
    );
    let out = place.path().join("out");
    for n in 0..20 {
        let copied = comes_out(&container, "/w/grows", &out);
        // Less, where it was cut off meanwhile.
        assert!(fs::metadata(&out).expect("there").len() <= copied.bytes, "{n}");
    }
    says(&container, "truncate -s 1000000000000 /sparse");
    assert_eq!(kind(block_on(container.copy_from(CopyOut::path("/sparse").max_bytes(1 << 20), &out))), io::ErrorKind::FileTooLarge);
    let error = block_on(container.copy_to(CopyIn::bytes(vec![0; 100]).max_bytes(99), "/x")).expect_err("too many");
    assert!(error.to_string().contains("99") && error.remedy().is_some_and(|remedy| remedy.contains("max_bytes")), "{error}");
    assert_eq!(kind(block_on(container.fs().read("/sparse"))), io::ErrorKind::FileTooLarge);
    // What has holes takes no more room here than there.
    says(&container, "truncate -s 10000000000 /holes; echo end >> /holes");
    comes_out(&container, "/holes", &out);
    let copy = fs::metadata(&out).expect("there");
    assert!(copy.len() == 10_000_000_004 && copy.blocks() < 10_000, "{} bytes in {} blocks", copy.len(), copy.blocks());
}

#[test]
fn cve_2026_41567_cve_2026_41568_cve_2026_42306_nothing_that_is_swapped_during_a_copy_leads_out() {
    need!(Busybox, UserNamespaces, Python3);
    let place = Place::new();
    let outside = place.path().join("outside");
    fs::create_dir(&outside).expect("a directory");
    write(&outside.join("file"), "secret", 0o644);
    // In the container: /w/a is a directory with a file, /w/b a symlink to this machine's directory. They change places all the time.
    let script = format!(
        "import os, ctypes, platform\nos.makedirs('/w/a')\nopen('/w/a/file','w').write('inside')\nos.mkfifo('/w/p')\nopen('/w/q','w').write('inside')\n\
         os.symlink('{0}', '/w/b')\nc = ctypes.CDLL(None)\nn = 316 if platform.machine() == 'x86_64' else 276\nopen('/made','w')\n\
         while True:\n  c.syscall(n, -100, b'/w/a', -100, b'/w/b', 2)\n  c.syscall(n, -100, b'/w/p', -100, b'/w/q', 2)",
        outside.display()
    );
    let mut described = place.container().cmd(["/usr/bin/python3", "-c", &script]).env("MARK", place.path());
    for directory in ["/usr", "/lib", "/lib64"].into_iter().filter(|path| fs::exists(path).unwrap_or(false)) {
        described = described.mount(Mount::bind(directory, directory).read_only());
    }
    let container = block_on(described.run()).expect("it runs");
    assert!(within(Duration::from_secs(60), || block_on(container.fs().exists("/made")).expect("it is looked for")));
    let out = place.path().join("out");
    let (mut copied, mut refused) = (0, 0);
    let begun = Instant::now();
    for n in 0..300 {
        let results = [
            block_on(container.copy_from("/w/a/file", &out)),
            block_on(container.copy_from(CopyOut::path("/w/b").follow_link(true), place.path().join(format!("tree-{n}")))),
            block_on(container.copy_from("/w/q", place.path().join("q"))),
            block_on(container.copy_to(CopyIn::bytes("new").parents(false), "/w/a/new")),
            block_on(container.fs().write("/w/b/written", b"new")).map(|()| Copied::default()),
            block_on(container.fs().remove("/w/a/new")).map(|()| Copied::default()),
        ];
        for result in results {
            match result {
                Ok(_) => copied += 1,
                Err(Error::Copy { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        for path in [out.clone(), place.path().join("q"), place.path().join(format!("tree-{n}/file"))] {
            if let Ok(text) = fs::read_to_string(&path) {
                assert!(text == "inside" || text == "new", "{}: {text}", path.display());
            }
        }
        // A slow machine has tried enough.
        if begun.elapsed() > Duration::from_secs(60) {
            break;
        }
    }
    println!("{copied} copied, {refused} refused");
    assert!(copied > 0 && refused > 0, "{copied} copied, {refused} refused: nothing was swapped");
    let left: Vec<_> = fs::read_dir(&outside).expect("there").map(|entry| entry.expect("read").file_name()).collect();
    assert_eq!(left, ["file"]);
    assert_eq!(fs::read_to_string(outside.join("file")).expect("there"), "secret");
}

#[test]
fn files_are_there_before_the_command_is() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let owner = if crate::support::met(Need::NoSubIds) { 0 } else { 70 };
    let described = place
        .sh("cat /etc/app.conf; stat -c '%a %u' /etc/app.conf; cat /seed/file /tmpfs/x; touch /etc/more 2>/dev/null || echo read-only; id -u")
        .copy_in(CopyIn::bytes("listen\n").mode(0o600).owner(owner, owner), "/etc/app.conf")
        .copy_in(CopyIn::path(tree(&place).join(".")), "/seed")
        // A user who is known only by what is copied in.
        .copy_in(b"root:x:0:0::/:/bin/sh\nme:x:0:0::/:/bin/sh\n", "/etc/passwd")
        .copy_in(b"in a tmpfs\n", "/tmpfs/x")
        .mount(Mount::tmpfs("/tmpfs"))
        .user("me")
        .read_only_rootfs(true);
    let out = block_on(described.output()).unwrap_or_else(|error| panic!("{error}"));
    let expected = format!("listen\n600 {owner}\ncontents\nin a tmpfs\nread-only\n0\n");
    assert_eq!((out.stdout_lossy().as_ref(), out.stderr_lossy().as_ref()), (expected.as_str(), ""));
    // The same for one that is waited for, and without our init.
    let container = place.sh("[ -e /here ] && while :; do sleep 1; done").copy_in(b"", "/here").init(false);
    drop(block_on(container.run()).expect("it runs"));
    // What can't be copied is told, and nothing stays.
    let mut place = Place::new();
    place.look_again();
    let error = block_on(place.sh("true").copy_in(b"", "/bin/sh/x").spawn()).expect_err("a file is in the way");
    assert!(matches!(&error, Error::Copy { source, .. } if source.kind() == io::ErrorKind::NotADirectory), "{error}");
    place.assert_clean();
    let error =
        block_on(place.sh("true").copy_in(b"", "relative").copy_in(Path::new("/no/such/file"), "/x").output()).expect_err("two problems");
    assert!(matches!(&error, Error::Description { problems } if problems.len() == 2), "{error}");
}

#[test]
fn small_files_are_read_and_written() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container =
        waiting(&place, "mkdir /d; echo hello > /d/hello; ln -s /d/hello /d/link; ln -s / /d/root; mkfifo /d/fifo; chmod 4711 /d/hello");
    let fs = container.fs();
    assert_eq!(block_on(fs.read("/d/link")).expect("read"), b"hello\n");
    block_on(fs.write("/d/link", b"new")).expect("written");
    block_on(fs.write("/d/made", b"made")).expect("written");
    assert_eq!(says(&container, "cat /d/hello /d/made; stat -c '%a %u' /d/made"), "newmade644 0\n");
    let all = block_on(fs.list("/d")).expect("listed");
    let names: Vec<_> = all.iter().map(|file| (file.name.to_str().expect("plain"), file.kind)).collect();
    use FileKind::{File, Special, Symlink};
    assert_eq!(names, [("fifo", Special), ("hello", File), ("link", Symlink), ("made", File), ("root", Symlink)]);
    let hello = block_on(fs.stat("/d/link")).expect("there");
    assert_eq!((hello.kind, hello.size, hello.uid), (File, 3, 0));
    assert_eq!(block_on(fs.lstat("/d/link")).expect("there").kind, Symlink);
    assert!(hello.modified.elapsed().is_ok_and(|age| age < Duration::from_secs(3600)));
    block_on(fs.create_dir_all("/x/y/z")).expect("made");
    block_on(fs.create_dir_all("/x/y/z")).expect("it is there");
    block_on(fs.create_dir_all("/d/root/x/w")).expect("made");
    assert!(block_on(fs.exists("/x/w")).expect("told") && !block_on(fs.exists("/d/hello/x")).expect("told"));
    block_on(fs.write("/x/y/z/file", b"")).expect("written");
    block_on(fs.remove("/x")).expect("removed");
    block_on(fs.remove("/x")).expect("it isn't there");
    block_on(fs.remove("/nowhere/at/all")).expect("it isn't there");
    block_on(fs.remove("/d/root")).expect("the symlink");
    assert!(!block_on(fs.exists("/x")).expect("told") && block_on(fs.exists("/bin")).expect("told"));
    assert_eq!(kind(block_on(fs.read("/d"))), io::ErrorKind::IsADirectory);
    assert_eq!(kind(block_on(fs.read("/none"))), io::ErrorKind::NotFound);
    assert_eq!(kind(block_on(fs.list("/d/hello"))), io::ErrorKind::NotADirectory);
    // Switches of the kernel's are no files, and magic links no way.
    assert!(block_on(fs.read("/proc/sys/kernel/ostype")).is_ok_and(|text| text == b"Linux\n"));
    assert_eq!(kind(block_on(fs.write("/proc/1/oom_score_adj", b"0"))), io::ErrorKind::PermissionDenied);
    assert!(block_on(fs.read("/proc/1/root/etc/passwd")).is_err());
    block_on(container.kill()).expect("killed");
    block_on(container.wait()).expect("it ends");
    assert!(matches!(block_on(fs.read("/d/hello")), Err(Error::Start(_))));
    assert!(matches!(block_on(container.copy_to(b"", "/x")), Err(Error::Start(_))));
}

/// What is written is kept for who looks.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<u8>>>);

impl Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("nobody panics").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_archive_goes_in_and_comes_out() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place, "mkdir /in /out");
    goes_in(&container, CopyIn::path(tree(&place)), "/in");
    let kept = Kept::default();
    let copied = block_on(container.copy_from_tar("/in/tree", kept.clone())).expect("it is copied");
    assert_eq!((copied.files, copied.symlinks), (3, 2));
    let bytes = kept.0.lock().expect("nobody panics").clone();
    let mut names = Vec::new();
    for entry in tar::Archive::new(bytes.as_slice()).entries().expect("an archive") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        if path == "tree/file" {
            let mut text = String::new();
            entry.read_to_string(&mut text).expect("read");
            assert_eq!((text.as_str(), entry.header().mode().expect("a mode")), ("contents\n", 0o640));
        }
        names.push(path);
    }
    names.sort();
    assert_eq!(
        names,
        ["tree/", "tree/dangling", "tree/file", "tree/sub/", "tree/sub/deep/", "tree/sub/deep/empty", "tree/sub/link", "tree/sub/program"]
    );
    goes_in(&container, CopyIn::tar(io::Cursor::new(bytes.clone())), "/out");
    assert_eq!(
        says(&container, "diff -r /in/tree/file /out/tree/file && stat -c %a /out/tree/sub/deep && /out/tree/sub/program"),
        "700\nruns\n"
    );
    assert_eq!(kind(block_on(container.copy_to(CopyIn::tar(io::Cursor::new(bytes)), "/out/tree/file"))), io::ErrorKind::NotADirectory);
}

#[test]
fn cve_2023_0778_an_archive_of_a_stranger_stays_in_its_directory() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place, "mkdir -p /out /other; ln -s /other /out/there");
    let refused = |build: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        let bytes = builder.into_inner().expect("an archive");
        block_on(container.copy_to(CopyIn::tar(io::Cursor::new(bytes)), "/out"))
    };
    let file = |builder: &mut tar::Builder<Vec<u8>>, name: &str| {
        let mut header = tar::Header::new_gnu();
        // As a stranger writes it: the crate's own setters refuse.
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(1);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_cksum();
        builder.append(&header, &b"x"[..]).expect("it is appended");
    };
    let link = |builder: &mut tar::Builder<Vec<u8>>, kind: tar::EntryType, name: &str, to: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.as_gnu_mut().expect("gnu").name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_gnu_mut().expect("gnu").linkname[..to.len()].copy_from_slice(to.as_bytes());
        header.set_cksum();
        builder.append(&header, io::empty()).expect("it is appended");
    };
    assert!(refused(&|b| file(b, "../up")).is_err());
    assert!(refused(&|b| file(b, "a/../../up")).is_err());
    assert!(refused(&|b| file(b, "there/x")).is_err(), "a symlink of the container's was followed");
    assert!(
        refused(&|b| {
            link(b, tar::EntryType::Symlink, "s", "/other");
            file(b, "s/x")
        })
        .is_err(),
        "one of the archive's was followed"
    );
    assert!(refused(&|b| link(b, tar::EntryType::Link, "hard", "../bin/busybox")).is_err());
    assert!(refused(&|b| link(b, tar::EntryType::Link, "hard", "there/../../bin/busybox")).is_err());
    let copied = refused(&|b| {
        file(b, "/absolute");
        link(b, tar::EntryType::Char, "null", "");
        link(b, tar::EntryType::Fifo, "fifo", "");
        file(b, "there")
    });
    let copied = copied.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!((copied.files, copied.skipped), (2, vec!["null".into(), "fifo".into()]));
    // The last replaced the symlink, and didn't write through it.
    assert_eq!(says(&container, "ls -A /other; ls -A /out; [ ! -e /absolute ] && [ ! -e /up ]"), "absolute\ns\nthere\n");
}

#[test]
fn a_copy_that_is_given_up_at_any_moment_leaves_nobody() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place, "mkdir /w; for i in $(seq 300); do echo $i > /w/$i; done");
    let stat = fs::read_to_string(format!("/proc/{}/stat", container.pid())).expect("it runs");
    let supervisor: u32 = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()).expect("a parent");
    let children = || fs::read_to_string(format!("/proc/{supervisor}/task/{supervisor}/children")).unwrap_or_default();
    let waker = waker();
    for n in 0..40u64 {
        let mut future = pin!(container.copy_from("/w", place.path().join(format!("copy-{n}"))));
        for _ in 0..n % 4 {
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                break;
            }
            std::thread::park_timeout(Duration::from_micros(n * 100));
        }
    }
    assert!(within(Duration::from_secs(60), || children().split_whitespace().count() == 1), "{}", children());
    comes_out(&container, "/w", &place.path().join("whole"));
    assert_eq!(fs::read_dir(place.path().join("whole")).expect("there").count(), 300);
}
