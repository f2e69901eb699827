//! Root file systems: busybox in a directory, made in milliseconds; Debian by debootstrap, made once and kept.

use super::{fixtures, program};
use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// The Debian release of the image.
const RELEASE: &str = "bookworm";

/// busybox of this machine, if it is a static one: nothing else runs in an empty root.
pub(crate) fn busybox_program() -> Option<PathBuf> {
    let program = program::find("busybox")?;
    let bytes = std::fs::read(&program).ok()?;
    // A dynamic program names its loader.
    let dynamic = bytes.windows(8).take(4096).any(|window| window == b"/ld-linu");
    (!dynamic).then_some(program)
}

/// Fills a directory with a root file system of busybox: `/bin` with every applet, `/etc/passwd`, empty `/proc`, `/sys`, `/dev`,
/// `/tmp`. Every file belongs to the caller.
pub(crate) fn busybox(root: &Path) {
    let busybox = busybox_program().expect("the test began with need!(Busybox)");
    for (directory, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o555),
        ("root", 0o700),
        ("sys", 0o555),
        ("tmp", 0o1777),
        ("usr/bin", 0o755),
        ("var", 0o755),
    ] {
        let path = root.join(directory);
        std::fs::create_dir_all(&path).expect("a directory of the root can be made");
        std::fs::set_permissions(&path, Permissions::from_mode(mode)).expect("its mode can be set");
    }
    let inside = root.join("bin/busybox");
    // By another process: a program that one of ours holds open for writing can't be executed, and other tests start programs.
    program::run("cp", [busybox.as_os_str(), inside.as_os_str()]);
    std::fs::set_permissions(&inside, Permissions::from_mode(0o755)).expect("its mode can be set");
    for applet in program::run("busybox", ["--list"]).split_whitespace().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("an applet's link can be made");
    }
    symlink("/bin/env", root.join("usr/bin/env")).expect("a link can be made");
    let file = |name: &str, text: &str| std::fs::write(root.join("etc").join(name), text).expect("a file can be written");
    file("passwd", "root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nguest:x:1000:1000:guest:/home:/bin/sh\n");
    file("group", "root:x:0:\ndaemon:x:1:\nwheel:x:10:guest\nguest:x:1000:\n");
    file("os-release", "ID=busybox\n");
}

/// Whether [`debian`] will answer.
pub(crate) fn debian_is_possible() -> bool {
    archive_of_debian().is_file() || (rustix::process::geteuid().is_root() && program::find("debootstrap").is_some())
}

fn archive_of_debian() -> PathBuf {
    fixtures().join(format!("debian-{RELEASE}.tar"))
}

/// A tar archive of Debian's smallest root file system, without packages' caches and without devices.
///
/// The first call makes it, as root, by debootstrap from this machine's own apt source; it takes a minute and is kept.
pub(crate) fn debian() -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let archive = archive_of_debian();
    if archive.is_file() {
        return archive;
    }
    let place = super::directory();
    let root = place.path().join("root");
    let keyring = "--keyring=/usr/share/keyrings/debian-archive-keyring.gpg";
    let mut command = Command::new(program::find("debootstrap").expect("the test began with need!(DebianRoot)"));
    command.args(["--variant=minbase", keyring, RELEASE]).arg(&root).arg(apt_source());
    // debootstrap asks for the administrators' programs without saying where they are.
    let path = std::env::var("PATH").unwrap_or_default();
    let output = command.env("PATH", format!("{path}:/usr/sbin:/sbin")).output().expect("debootstrap runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = said.lines().rev().take(20).collect();
    assert!(output.status.success(), "{command:?}: {}\n{}", output.status, tail.join("\n"));

    let partial = archive.with_extension(format!("partial-{}", std::process::id()));
    let file = File::create(&partial).expect("the archive can be made");
    let status = Command::new("tar")
        .args(["--numeric-owner", "--sort=name", "--one-file-system", "-C"])
        .arg(&root)
        .args(["--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*", "--exclude=./dev/*", "--exclude=./proc/*"])
        .args(["--exclude=./usr/share/doc/*", "--exclude=./usr/share/locale/*", "--exclude=./var/log/*", "-c", "."])
        .stdout(file)
        .status()
        .expect("tar runs");
    assert!(status.success(), "tar: {status}");
    std::fs::rename(&partial, &archive).expect("the archive can be named");
    archive
}

/// The first Debian address of this machine's apt, so that mirrors that administrators chose are used here too.
fn apt_source() -> String {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    for entry in std::fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten() {
        files.push(entry.path());
    }
    for file in files {
        for line in std::fs::read_to_string(file).unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let address = match words.next() {
                Some("URIs:") => words.next(),
                Some("deb") => words.find(|word| word.contains("://")),
                _ => None,
            };
            if let Some(address) = address.filter(|address| address.trim_end_matches('/').ends_with("/debian")) {
                return address.to_owned();
            }
        }
    }
    String::from("http://deb.debian.org/debian")
}
