//! The escapes of the field, each tried by its own means: what broke other runtimes breaks nothing here.

use crate::support::image::{Compressed, Layout};
use crate::support::place::{Place, block_on, ran, said};
use crate::support::{need, program, rootfs};
use coracle::{Container, ContainerBuilder, Error, Mount, Output};
use serde_json::json;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A directory of the host that nobody may reach, with a file in it.
pub(super) struct Victim(pub(super) PathBuf);

impl Victim {
    pub(super) fn new(place: &mut Place) -> Self {
        let directory = place.path().join("victim");
        std::fs::create_dir(&directory).expect("it can be made");
        std::fs::write(directory.join("file"), "whole").expect("it can be written");
        std::fs::set_permissions(directory.join("file"), std::fs::Permissions::from_mode(0o640)).expect("its mode can be set");
        place.look_again();
        Self(directory)
    }

    #[track_caller]
    pub(super) fn assert_whole(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.0).expect("it is there").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(names, ["file"], "something was made in the victim");
        let file = self.0.join("file");
        assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "whole");
        let found = file.metadata().expect("it is there");
        assert_eq!((found.mode() & 0o7777, found.uid()), (0o640, rustix::process::geteuid().as_raw()));
    }
}

/// Runs it, however it ends.
pub(super) fn tried(builder: ContainerBuilder) -> Result<Output, Error> {
    block_on(builder.output())
}

pub(super) fn replace_by_link(path: &Path, to: impl AsRef<Path>) {
    let _ = std::fs::remove_dir_all(path);
    let _ = std::fs::remove_file(path);
    symlink(to, path).expect("a link can be made");
}

fn script(place: &Place, name: &str, text: &str) {
    let path = place.rootfs().join("bin").join(name);
    std::fs::write(&path, text).expect("it can be written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode can be set");
}

/// CVE-2019-5736.
#[test]
fn cve_2019_5736_the_program_that_starts_containers_cannot_be_written_from_inside() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let this = std::env::current_exe().expect("a test knows its program");
    let before = this.metadata().map(|found| (found.len(), found.mtime_nsec())).expect("it is there");
    let lines = [
        "echo x > /proc/1/exe",
        "echo x >> /proc/1/exe",
        "dd if=/dev/zero of=/proc/1/exe bs=1 count=1 conv=notrunc",
        "exec 9< /proc/1/exe && echo x > /proc/self/fd/9",
        "truncate -s 0 /proc/1/exe",
        "chmod 777 /proc/1/exe && echo x > /proc/1/exe",
    ];
    for line in lines {
        let out = ran(place.sh(line));
        assert!(!out.status.success(), "{line}: {}", out.stderr_lossy());
    }
    script(&place, "self-script", "#!/proc/self/exe\necho x > /proc/self/exe\n");
    for command in ["/proc/self/exe", "/bin/self-script", "self-script"] {
        for init in [true, false] {
            let ended = tried(place.container().cmd([command]).init(init));
            assert!(!ended.is_ok_and(|out| out.status.success()), "{command}");
        }
    }
    assert_eq!(this.metadata().map(|found| (found.len(), found.mtime_nsec())).expect("it is there"), before);
    assert_eq!(place.says("echo works"), "works\n");
}

/// CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2026-41579.
#[test]
fn cve_2019_16884_cve_2019_19921_cve_2023_27561_cve_2025_54867_cve_2026_41579_cve_2026_47766_links_where_the_runtime_mounts_lead_nowhere() {
    need!(Busybox, UserNamespaces);
    for (name, to) in [
        ("proc", "/etc"),
        ("proc", "victim"),
        ("proc", "/"),
        ("sys", "/etc"),
        ("sys", "victim"),
        ("dev", "victim"),
        ("dev", "/etc"),
        ("dev", "../../../../../../../../../../tmp"),
    ] {
        let mut place = Place::new();
        let victim = Victim::new(&mut place);
        let to = if to == "victim" { victim.0.clone() } else { PathBuf::from(to) };
        replace_by_link(&place.rootfs().join(name), &to);
        place.look_again();
        let ended = tried(place.sh("echo x > /proc/sys/kernel/hostname; ls -A /proc/keys /proc/kcore; cat /proc/keys"));
        match &ended {
            // A link to a directory of the root is followed there, or refused; what it shows is masked all the same.
            Ok(out) => assert!(
                !out.status.success() || out.stdout_lossy().lines().all(|line| line.starts_with("/proc/")),
                "{name}: {}",
                out.stdout_lossy()
            ),
            Err(error) => assert!(error.to_string().contains(&format!("/{name}")), "{error}"),
        }
        if name != "dev" {
            let error = ended.expect_err("the kernel's own files are mounted on no link").to_string();
            assert!(
                error.ends_with(&format!("/{name}: part of the path is a symlink: /{name}: Too many levels of symbolic links (ELOOP)")),
                "{error}"
            );
        }
        victim.assert_whole();
        assert_eq!(std::fs::read_dir(place.rootfs().join("etc")).expect("it is there").count(), 3);
        place.assert_clean();
    }
}

/// CVE-2018-15664 and its kin: what is put into the root is looked up inside it.
#[test]
fn cve_2018_15664_cve_2019_10152_targets_of_mounts_are_looked_up_inside_the_root() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let victim = Victim::new(&mut place);
    let source = place.path().join("source");
    std::fs::create_dir(&source).expect("it can be made");
    std::fs::write(source.join("mine"), "mine\n").expect("it can be written");
    symlink(&victim.0, place.rootfs().join("absolute")).expect("a link can be made");
    symlink(format!("../../../../../../../../..{}", victim.0.display()), place.rootfs().join("relative")).expect("a link can be made");
    for name in ["hosts", "hostname", "resolv.conf"] {
        symlink(victim.0.join(name), place.rootfs().join("etc").join(name)).expect("a link can be made");
    }
    place.look_again();
    for target in ["/absolute", "/absolute/deep/er", "/relative", "/relative/deep", "/../../../../..//absolute/x", "/tmp/../relative/y"] {
        for mount in [Mount::bind(&source, target), Mount::bind(source.join("mine"), format!("{target}/file")), Mount::tmpfs(target)] {
            let _ = tried(place.sh("true").mount(mount));
            victim.assert_whole();
        }
    }
    // And they work: the root's own idea of that path.
    assert_eq!(said(place.sh("cat /absolute/deep/mine").mount(Mount::bind(&source, "/absolute/deep"))), "mine\n");
    assert_eq!(said(place.sh("cat /etc/hostname").hostname("box")), "box\n");
    victim.assert_whole();
    place.assert_clean();
}

/// CVE-2021-30465, CVE-2024-45310, CVE-2025-52881.
#[test]
fn cve_2021_30465_cve_2024_45310_cve_2025_52881_a_target_swapped_for_a_link_while_it_is_mounted_on_leads_nowhere() {
    need!(Busybox, UserNamespaces);
    targets_are_swapped(150);
}

pub(super) fn targets_are_swapped(count: usize) {
    let mut place = Place::new();
    let victim = Victim::new(&mut place);
    let volume = place.path().join("volume");
    std::fs::create_dir_all(volume.join("a/b")).expect("it can be made");
    symlink(format!("../../../../../../../../../../..{}", victim.0.display()), volume.join("link")).expect("a link can be made");
    place.look_again();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let swap = rustix::fs::RenameFlags::EXCHANGE;
            while !done.load(Ordering::Relaxed) {
                let _ = rustix::fs::renameat_with(rustix::fs::CWD, volume.join("a"), rustix::fs::CWD, volume.join("link"), swap);
            }
        });
        for n in 0..count {
            let target = if n % 2 == 0 { "/volume/a/b" } else { "/volume/a/new/er" };
            let _ = tried(place.sh("true").mount(Mount::bind(&volume, "/volume")).mount(Mount::tmpfs(target)));
        }
        done.store(true, Ordering::Relaxed);
    });
    victim.assert_whole();
    let _ = std::fs::remove_dir_all(&volume);
    place.assert_clean();
}

/// CVE-2024-21626.
#[test]
fn cve_2024_21626_no_working_directory_leads_out() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    symlink("/proc/self/fd/7", place.rootfs().join("work")).expect("a link can be made");
    place.look_again();
    let mut directories: Vec<String> = (0..24).map(|n| format!("/proc/self/fd/{n}")).collect();
    directories.extend((3..12).map(|n| format!("/proc/self/fd/{n}/../../../../..")));
    directories.extend(
        ["/proc/self/cwd", "/proc/1/root", "/proc/1/cwd", "/proc/self/root/..", "/work", "/proc/thread-self/fd/3"].map(String::from),
    );
    for directory in directories {
        for init in [true, false] {
            match tried(place.sh("pwd; ls /").workdir(&directory).init(init)) {
                Err(error) => assert!(error.to_string().starts_with("can't enter the working directory "), "{directory}: {error}"),
                Ok(out) => panic!("{directory}: {}{}", out.stdout_lossy(), out.stderr_lossy()),
            }
        }
    }
    place.assert_clean();
}

/// CVE-2022-0492.
#[test]
fn cve_2022_0492_release_agents_are_out_of_reach() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for line in [
        "mkdir /c && mount -t cgroup -o memory none /c && echo /x > /c/release_agent",
        "mkdir /c && unshare -UrmC sh -c 'mount -t cgroup -o memory none /c && echo /x > /c/release_agent'",
        "for f in $(find /sys/fs/cgroup -name release_agent); do echo /x > $f && exit 0; done; exit 1",
        "for f in $(find /sys/fs/cgroup -name notify_on_release); do echo 1 > $f && exit 0; done; exit 1",
        "mkdir /sys/fs/cgroup/x || mkdir /sys/fs/cgroup/memory/x",
    ] {
        assert!(!ran(place.sh(line)).status.success(), "{line}");
        let limited = place.sh(line).memory("64m").best_effort(coracle::Control::Memory);
        assert!(!ran(limited).status.success(), "{line}");
    }
}

#[test]
fn a_device_node_of_ones_own_opens_no_device() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let host = place.path().join("host");
    std::fs::create_dir(&host).expect("it can be made");
    for directory in ["/", "/tmp/", "/dev/", "/dev/shm/", "/scratch/", "/host/"] {
        let line = format!("mknod {directory}node c 1 3 && cat {directory}node");
        let out = ran(place.sh(&line).mount(Mount::tmpfs("/scratch")).mount(Mount::bind(&host, "/host")));
        assert!(!out.status.success(), "{directory}");
        let text = out.stderr_lossy();
        let why = ["Permission denied", "Operation not permitted", "can't open", "Read-only"].iter().any(|word| text.contains(word));
        assert!(why, "{directory}: {text}");
    }
    let _ = std::fs::remove_file(host.join("node"));
    // One that the root brings along, likewise.
    if rustix::process::geteuid().is_root() {
        let node = place.rootfs().join("node");
        program::run("mknod", [node.to_str().expect("a path of ours is plain"), "c", "1", "3"]);
        assert!(!ran(place.sh("cat /node")).status.success());
    }
}

/// CVE-2025-31133: what masks is the host's /dev/null, whatever /dev holds.
#[test]
fn cve_2025_31133_a_false_dev_null_unmasks_nothing() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let dev = place.path().join("false-dev");
    std::fs::create_dir(&dev).expect("it can be made");
    symlink("/proc/sys/kernel/core_pattern", dev.join("null")).expect("a link can be made");
    let pattern = std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("there is /proc");
    place.look_again();
    let masked = ["/proc/keys", "/proc/timer_list", "/proc/interrupts"].into_iter().filter(|path| Path::new(path).exists());
    let line = format!("cat {} 2>/dev/null; echo x > /proc/sys/kernel/core_pattern; true", masked.collect::<Vec<_>>().join(" "));
    for place_of in ["/dev", "/"] {
        let builder = if place_of == "/dev" {
            place.sh(&line).mount(Mount::bind(&dev, "/dev"))
        } else {
            let _ = std::fs::remove_file(place.rootfs().join("dev/null"));
            let _ = symlink("/proc/sys/kernel/core_pattern", place.rootfs().join("dev/null"));
            place.look_again();
            place.sh(&line)
        };
        if let Ok(out) = tried(builder) {
            assert_eq!(out.stdout_lossy(), "");
        }
        assert_eq!(std::fs::read_to_string("/proc/sys/kernel/core_pattern").expect("there is /proc"), pattern);
    }
    let _ = std::fs::remove_dir_all(&dev);
    place.assert_clean();
}

/// CVE-2026-47262 and its kin: the files in which users are looked up are a stranger's.
#[test]
fn cve_2026_47262_strange_files_of_users_hold_nothing_up() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let victim = Victim::new(&mut place);
    let (passwd, group) = (place.rootfs().join("etc/passwd"), place.rootfs().join("etc/group"));
    let began = Instant::now();
    let attempt = |user: &str| tried(place.sh("grep -c ^Uid:.0 /proc/self/status").user(user));
    // A pipe that nobody writes.
    std::fs::remove_file(&passwd).expect("it is there");
    program::run("mkfifo", [passwd.to_str().expect("a path of ours is plain")]);
    assert_eq!(attempt("0").expect("it runs").stdout_lossy(), "1\n");
    assert_eq!(attempt("root").expect_err("there is no list").to_string(), "no user \"root\" in the root's /etc/passwd");
    // A device, a directory, a link that leads out, a link to itself.
    std::fs::remove_file(&passwd).expect("it is there");
    std::fs::create_dir(&passwd).expect("it can be made");
    assert_eq!(attempt("0").expect("it runs").stdout_lossy(), "1\n");
    for to in [victim.0.join("file"), PathBuf::from("/dev/zero"), PathBuf::from("/etc/passwd"), PathBuf::from("/proc/self/environ")] {
        replace_by_link(&passwd, to);
        assert!(attempt("root").is_err());
        match attempt("0") {
            Ok(out) => assert_eq!(out.stdout_lossy(), "1\n"),
            // A file that is one, and which a plain user's PID 1 may not read.
            Err(error) => assert_eq!(error.to_string(), "can't look up the user \"0\": Permission denied (EACCES)"),
        }
    }
    // Lines and files without end, bytes that are no text, numbers beyond 32 bits.
    std::fs::remove_file(&passwd).expect("it is there");
    let mut lines = b"\xff\xfe:::\nbig:x:4294967296:0::/:\nneg:x:-1:0::/:\nlong:".to_vec();
    lines.resize(lines.len() + (1 << 20), b'x');
    lines.extend_from_slice(b"\nwrap:x:18446744073709551616:0::/:\nroot:x:0:0::/root:/bin/sh\n");
    std::fs::write(&passwd, &lines).expect("it can be written");
    assert_eq!(attempt("root").expect("it runs").stdout_lossy(), "1\n");
    for user in ["big", "neg", "wrap", "long"] {
        assert!(attempt(user).is_err(), "{user}");
    }
    std::fs::write(&group, vec![b'\n'; 64 << 20]).expect("it can be written");
    assert_eq!(attempt("0").expect("it runs").stdout_lossy(), "1\n");
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    victim.assert_whole();
    std::fs::write(&group, "").expect("it can be written");
}

/// CVE-2021-43784: lengths that don't fit.
#[test]
fn cve_2021_43784_a_description_of_megabytes_arrives_whole() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let many = |n: usize| "x".repeat(n);
    let builder = place.container().cmd(["sh", "-c", "echo $# ${#LONG}", "sh"]).env("LONG", many(100_000)).label("long", many(70_000));
    assert_eq!(said(builder.args((0..5000).map(|n| format!("argument {n}")))), "5000 100000\n");
    // What the kernel doesn't take is an error of the start.
    let error = tried(place.sh("true").env("LONG", many(1 << 20))).expect_err("execve(2) takes 128 KiB");
    assert_eq!(error.to_string(), "can't execute /bin/sh: Argument list too long (E2BIG)");
    place.assert_clean();
}

#[test]
fn pid_1_survives_what_is_inside() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(place.says("kill -9 1; kill -STOP 1; echo alive"), "alive\n");
    assert_eq!(ran(place.sh("for f in /proc/1/fd/*; do echo garbage > $f; done 2>/dev/null; exit 12")).status.code(), Some(12));
    let out = ran(place.sh("sleep 1000 & kill -9 -1; exit 13"));
    assert_eq!(out.status.code(), Some(13));
    place.assert_clean();
}

/// PID 1 has what the command has, so its memory is the command's to spoil: it costs the container its life, and nobody else anything.
#[test]
fn a_spoiled_pid_1_spoils_its_container_alone() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // Its code, page by page; what runs next in it is nothing.
    let spoil = r#"
        while read -r range permissions rest; do
            case $permissions in
            r-x*) case $rest in *vdso*|*vsyscall*) ;; *)
                from=$((0x${range%-*} / 4096)); to=$((0x${range#*-} / 4096))
                dd if=/dev/zero of=/proc/1/mem bs=4096 seek=$from count=$((to - from)) conv=notrunc 2>/dev/null && echo spoiled ;;
            esac ;;
            esac
        done < /proc/1/maps
        kill -USR1 1
        exec sleep 1000"#;
    let before = std::time::Instant::now();
    let out = tried(place.sh(spoil).cap_add("SYS_PTRACE"));
    assert!(before.elapsed() < std::time::Duration::from_secs(60), "its death isn't missed");
    if let Ok(out) = &out {
        assert_eq!(out.stdout_lossy(), "spoiled\n");
        assert!(!out.status.success(), "{:?}", out.status);
    }
    place.assert_clean();
    assert_eq!(place.says("echo well"), "well\n");
}

#[test]
fn an_id_is_no_path() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").run()).expect("it runs");
    for id in ["", ".", "..", "../run", "/", "*"] {
        let error = place.engine().attach(id).expect_err("there is none");
        assert_eq!(error.to_string(), format!("no container {id} is here"));
    }
    drop(container);
    place.assert_clean();
}

/// Tar archives that lead out: CVE-2014-9356, CVE-2018-0002 and many more; a whole corpus is in `crates/layers`.
#[test]
fn cve_2014_6407_cve_2014_9356_cve_2018_0002_cve_2021_29136_cve_2021_32760_an_image_is_unpacked_inside_its_layer() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::empty();
    let victim = Victim::new(&mut place);
    let base = place.path().join("base");
    rootfs::busybox(&base);
    let out = victim.0.to_str().expect("a path of ours is plain").to_owned();
    let up = format!("../../../../../../../../../../..{out}");
    let cases = [
        ("up", vec![(b'0', format!("{up}/new"), String::new())]),
        ("absolute", vec![(b'0', format!("{out}/new"), String::new())]),
        ("link then file", vec![(b'2', "link".into(), out.clone()), (b'0', "link/new".into(), String::new())]),
        ("relative link then file", vec![(b'2', "link".into(), up.clone()), (b'0', "link/new".into(), String::new())]),
        ("link then directory", vec![(b'2', "link".into(), out.clone()), (b'5', "link".into(), String::new())]),
        ("hard link out", vec![(b'1', "hard".into(), format!("{out}/file")), (b'0', "hard".into(), String::new())]),
        ("hard link up", vec![(b'1', "hard".into(), format!("{up}/file"))]),
        ("link to itself", vec![(b'2', "link".into(), "link".into()), (b'0', "link/x".into(), String::new())]),
        ("whiteout through a link", vec![(b'2', "link".into(), out.clone()), (b'0', "link/.wh.file".into(), String::new())]),
        ("opaque through a link", vec![(b'2', "link".into(), out.clone()), (b'0', "link/.wh..wh..opq".into(), String::new())]),
        ("whiteout of up", vec![(b'0', ".wh...".into(), String::new())]),
    ];
    place.look_again();
    for (name, entries) in cases {
        let path = place.path().join("layout");
        let mut layout = Layout::new(&path);
        let mut archive = tar::Builder::new(Vec::new());
        for (kind, path, to) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::new(kind));
            header.set_mode(0o777);
            header.set_size(0);
            // By hand: the writer refuses such names. What is longer than the header's field stands before it, as GNU writes it.
            for (long, kind) in [(&path, b'L'), (&to, b'K')] {
                if long.len() > 100 {
                    let mut extra = tar::Header::new_gnu();
                    extra.set_entry_type(tar::EntryType::new(kind));
                    extra.set_size(long.len() as u64 + 1);
                    extra.as_old_mut().name[..13].copy_from_slice(b"././@LongLink");
                    extra.set_cksum();
                    archive.append(&extra, format!("{long}\0").as_bytes()).expect("an archive in memory can be written");
                }
            }
            let old = header.as_old_mut();
            let (path, to) = (&path.as_bytes()[..path.len().min(100)], &to.as_bytes()[..to.len().min(100)]);
            old.name[..path.len()].copy_from_slice(path);
            old.linkname[..to.len()].copy_from_slice(to);
            header.set_cksum();
            archive.append(&header, std::io::empty()).expect("an archive in memory can be written");
        }
        let bytes = archive.into_inner().expect("an archive in memory can be written");
        let layers = [layout.layer_of(&base, Compressed::No), layout.layer(bytes.as_slice(), Compressed::No)];
        layout.image("latest", &layers, json!({ "Cmd": ["true"] }));
        let ended = tried(Container::from_oci_layout(&path).engine(place.engine()).cmd([
            "sh",
            "-c",
            "echo x > /link/new; rm -rf /link/file /hard; true",
        ]));
        victim.assert_whole();
        if let Err(error) = ended {
            assert!(matches!(error, Error::Image(_) | Error::Layers(_)), "{name}: {error}");
        }
        std::fs::remove_dir_all(&path).expect("it is there");
    }
}

#[test]
fn sizes_of_hosts_directories_stay_private_while_a_container_runs() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").run()).expect("it runs");
    let run = place.engine().root().join("run").join(container.id());
    for entry in std::fs::read_dir(&run).expect("it is there").flatten() {
        let found = entry.metadata().expect("it is there");
        // The upper directory is the container's own /, and has its mode; nobody gets as far.
        let open = found.mode() & 0o022 != 0 && !found.file_type().is_symlink();
        assert!(!open, "{} has mode {:o}", entry.path().display(), found.mode() & 0o7777);
    }
    drop(container);
    place.assert_clean();
}
