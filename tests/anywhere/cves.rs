//! Escapes of the field by their numbers, where they aren't in `escapes.rs`: each tried by its own means. `docs/escapes.md` lists all.

use super::escapes::{Victim, replace_by_link, tried};
use crate::support::image::{Compressed, Layout};
use crate::support::place::{Place, block_on, fails, said};
use crate::support::{met, need, needs::Need, rootfs};
use coracle::{Container, CopyIn, CopyOut, Mount, Network};
use serde_json::json;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

#[test]
fn cve_2016_3697_a_user_named_by_digits_is_no_uid() {
    need!(Busybox, UserNamespaces);
    if met(Need::NoSubIds) {
        return; // There is no other user than root then.
    }
    let place = Place::new();
    std::fs::write(place.rootfs().join("etc/passwd"), "1000:x:0:0::/:/bin/sh\n0:x:0:0::/:/bin/sh\n").expect("it can be written");
    assert_eq!(said(place.sh("id -u").user("1000")), "1000\n");
    let container = block_on(place.sh("sleep 1000").spawn()).expect("it starts");
    let out = block_on(container.exec(["id", "-u"]).user("1000").output()).expect("it runs");
    assert_eq!(out.stdout_lossy(), "1000\n");
}

#[test]
fn cve_2022_24769_cve_2022_29162_cve_2022_27649_no_capability_is_inheritable() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "grep -hE '^Cap(Inh|Amb)' /proc/self/status /proc/1/status | sort -u";
    let none = "CapAmb:\t0000000000000000\nCapInh:\t0000000000000000\n";
    for builder in [place.sh(line), place.sh(line).cap_add("ALL").privileged(true), place.sh(line).cap_add("NET_ADMIN").init(false)] {
        assert_eq!(said(builder), none);
    }
    let container = block_on(place.sh("sleep 1000").cap_add("NET_ADMIN").spawn()).expect("it starts");
    assert_eq!(block_on(container.exec(["sh", "-c", line]).output()).expect("it runs").stdout_lossy(), none);
}

#[test]
fn cve_2023_25809_no_file_of_a_control_group_can_be_written() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "for f in $(find /sys/fs/cgroup -type f 2>/dev/null); do echo 1 2>/dev/null > $f && echo $f; done; \
                mkdir /sys/fs/cgroup/x 2>/dev/null && echo made; find /sys/fs/cgroup -mindepth 1 -name '*.slice' | head -3; true";
    assert_eq!(said(place.sh(line)), "");
    let limited =
        [coracle::Control::Memory, coracle::Control::Pids].into_iter().fold(place.sh(line).memory("64m").pids(99), |b, c| b.best_effort(c));
    assert_eq!(said(limited), "");
    let container = block_on(place.sh("sleep 1000").spawn()).expect("it starts");
    assert_eq!(block_on(container.exec(["sh", "-c", line]).output()).expect("it runs").stdout_lossy(), "");
}

#[test]
fn cve_2024_21626_no_descriptor_is_leaked() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // The fourth is the directory that is being listed.
    let line = "ls -l /proc/self/fd 2>/dev/null | awk 'NF > 8 {print $9}' | tr '\\n' ' '";
    for init in [true, false] {
        assert_eq!(said(place.sh(line).init(init)), "0 1 2 3 ");
    }
    let container = block_on(place.sh("sleep 1000").spawn()).expect("it starts");
    let out = block_on(container.exec(["sh", "-c", line]).output()).expect("it runs");
    assert_eq!(out.stdout_lossy(), "0 1 2 3 ");
    // PID 1 has its streams, its socket to the supervisor, and the signals that it waits for.
    let first = said(place.sh("ls -l /proc/1/fd | awk '{print $NF}' | sed 's/[0-9]//g; s/\\[\\]//' | sort -u"));
    for line in first.lines() {
        let known = ["", "/dev/null", "pipe:", "socket:", "anon_inode:[signalfd]", "anon_inode:[pidfd]", "pidfd:", "anon_inode:signalfd"];
        assert!(known.iter().any(|known| line == *known || (!known.is_empty() && line.starts_with(known))), "{first}");
    }
}

#[test]
fn cve_2025_52565_cve_2026_88264_a_false_console_leads_nowhere() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let victim = Victim::new(&mut place);
    let dev = place.path().join("false-dev");
    std::fs::create_dir(&dev).expect("it can be made");
    for directory in [&dev, &place.rootfs().join("dev")] {
        for name in ["console", "null", "tty", "ptmx", "pts", "fd", "stdin", "shm", "mqueue"] {
            replace_by_link(&directory.join(name), victim.0.join("file"));
        }
        replace_by_link(&directory.join("full"), victim.0.join("new"));
    }
    place.look_again();
    let line = "echo x > /dev/console; echo x > /dev/null; echo x > /dev/ptmx; echo x > /dev/shm/x; true";
    let _ = tried(place.sh(line));
    let _ = tried(place.sh(line).user("guest"));
    let _ = tried(place.sh(line).mount(Mount::bind(&dev, "/dev")));
    victim.assert_whole();
    let _ = std::fs::remove_dir_all(&dev);
    place.assert_clean();
}

/// The host's own /dev/null keeps owner and mode, whoever the container's user is.
#[test]
fn cve_2026_88265_the_hosts_devices_keep_their_owners() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let look = || {
        ["/dev/null", "/dev/zero", "/dev/tty", "/dev/random"].map(|path| {
            let found = std::fs::metadata(path).expect("it is there");
            (found.uid(), found.gid(), found.mode(), found.rdev())
        })
    };
    let before = look();
    for user in ["0", "guest"] {
        let _ = tried(place.sh("true").user(user));
        // Nor by root inside, on the device itself or on what a masked path is.
        let line = "for f in /dev/null /dev/zero /dev/tty /dev/random /dev/mine /proc/kcore /proc/keys; do \
                    chmod 777 $f; chown 1:1 $f; touch $f; setfattr -n trusted.x -v 1 $f; done; echo x > /dev/null && echo works";
        let out = tried(place.sh(line).user(user).device("/dev/null:/dev/mine").cap_add("SYS_ADMIN"));
        assert!(out.is_err() || out.is_ok_and(|out| out.stdout_lossy() == "works\n"), "{user}");
        let _ = tried(place.sh("true").user(user).stdin(coracle::Stdio::null()).stdout(coracle::Stdio::null()));
    }
    assert_eq!(look(), before);
}

#[test]
fn cve_2025_52881_cve_2025_62161_cve_2025_62596_settings_are_written_to_procfs_alone() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let volume = place.path().join("volume");
    std::fs::create_dir_all(volume.join("sys/net/core")).expect("it can be made");
    std::fs::create_dir_all(volume.join("self/attr")).expect("it can be made");
    for file in ["sys/net/core/somaxconn", "self/attr/exec", "self/oom_score_adj"] {
        std::fs::write(volume.join(file), "whole").expect("it can be written");
    }
    let kernel = || ["core_pattern", "modprobe"].map(|name| std::fs::read(format!("/proc/sys/kernel/{name}")).unwrap_or_default());
    let before = kernel();
    place.look_again();
    for target in ["/proc", "/proc/sys", "/proc/self/attr", "/proc/sys/net"] {
        let builder = place.sh("cat /proc/sys/net/core/somaxconn").sysctl("net.core.somaxconn", "99").mount(Mount::bind(&volume, target));
        let _ = tried(builder);
        let _ = tried(place.sh("true").sysctl("net.core.somaxconn", "99").mount(Mount::tmpfs(target)));
        for file in ["sys/net/core/somaxconn", "self/attr/exec", "self/oom_score_adj"] {
            assert_eq!(std::fs::read_to_string(volume.join(file)).expect("it is there"), "whole", "{target}: {file}");
        }
        assert_eq!(kernel(), before);
    }
    let _ = std::fs::remove_dir_all(&volume);
    place.assert_clean();
}

const STRANGE_USERS: [&str; 20] = [
    ":",
    "1000:",
    ":0",
    "+0",
    " 0",
    "0 ",
    "-1",
    "-0",
    "0x0",
    "00",
    "4294967296",
    "4294967295",
    "18446744073709551616",
    "2147483648:",
    "0:4294967296",
    "root:",
    "\n",
    "0\n",
    "root\0",
    "1000:-1",
];

#[test]
fn cve_2026_30892_cve_2024_40635_a_strange_user_is_never_another() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").spawn()).expect("it starts");
    for user in STRANGE_USERS {
        // Either it is no user, or it is the number or name that stands there: "00" is 0, "root:" is root.
        let named_root = user.trim_end_matches(':').parse() == Ok(0u32) || user.starts_with("root") || user.starts_with(':');
        let ids = [tried(place.sh("id -u").user(user)).ok(), block_on(container.exec(["id", "-u"]).user(user).output()).ok()];
        for out in ids.into_iter().flatten() {
            let said = out.stdout_lossy().trim().to_owned();
            assert!(said != "0" || (named_root && !user.contains(['+', '-', ' ', '\n', '\0', 'x'])), "{user:?} is root");
            assert!(said.is_empty() || said == "0" || user.starts_with(&said), "{user:?} is {said}");
        }
    }
    drop(container);
    // Above 2^31 is no wrap to root: it is that number, or an error where the map has none.
    for (uid, below) in [("2147483648", "4294967294"), ("4294967294", "4294967294")] {
        match tried(place.sh("id -u").user(uid)) {
            Ok(out) => assert_eq!(out.stdout_lossy().trim(), uid),
            Err(error) => assert!(error.to_string().contains(uid) || error.to_string().contains(below), "{error}"),
        }
    }
    place.assert_clean();
}

#[test]
fn cve_2022_36109_cve_2023_25173_groups_are_those_of_the_containers_own_list() {
    need!(Busybox, UserNamespaces);
    if met(Need::NoSubIds) {
        return;
    }
    let place = Place::new();
    assert_eq!(said(place.sh("id -G").user("guest")), "1000 10\n");
    assert_eq!(said(place.sh("id -G").user("guest:daemon")), "1\n");
    assert_eq!(said(place.sh("id -G").user("4242:4343")), "4343\n");
    assert_eq!(said(place.sh("id -G")), "0\n");
    let container = block_on(place.sh("sleep 1000").spawn()).expect("it starts");
    for (user, groups) in [("guest", "1000 10\n"), ("4242:4343", "4343\n"), ("0", "0\n")] {
        assert_eq!(block_on(container.exec(["id", "-G"]).user(user).output()).expect("it runs").stdout_lossy(), groups);
    }
}

#[test]
fn cve_2020_15257_no_socket_of_ours_has_an_abstract_name() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").network(Network::host()).spawn()).expect("it starts");
    let sockets = block_on(container.exec(["cat", "/proc/net/unix"]).output()).expect("it runs");
    let run = place.path().display().to_string();
    let ours: Vec<_> = sockets
        .stdout_lossy()
        .lines()
        .filter(|line| line.contains('@') && (line.contains("coracle") || line.contains(&run)))
        .map(str::to_owned)
        .collect();
    assert_eq!(ours, Vec::<String>::new());
}

#[test]
fn cve_2024_25621_directories_of_the_engine_are_nobody_elses() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").spawn()).expect("it starts");
    let root = place.engine().root();
    for path in [root.join("run"), root.join("run").join(container.id())] {
        let mode = path.metadata().expect("it is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{}: {mode:o}", path.display());
    }
}

#[test]
fn cve_2022_0811_no_setting_of_the_hosts_is_injected() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let before = std::fs::read("/proc/sys/kernel/core_pattern").expect("there is /proc");
    for (key, value) in [
        ("kernel.core_pattern", "|/x"),
        ("kernel.shm_rmid_forced", "1\n|/x"),
        ("kernel.shm_rmid_forced+kernel.core_pattern", "|/x"),
        ("kernel.shm_rmid_forced=1,kernel.core_pattern", "|/x"),
        ("net/../kernel/core_pattern", "|/x"),
        ("net..kernel.core_pattern", "|/x"),
        ("net.core.somaxconn", "1\n2"),
        ("fs.mqueue.../../kernel/core_pattern", "|/x"),
        ("net.core.somaxconn\nkernel.core_pattern", "|/x"),
        ("vm.overcommit_memory", "1"),
        ("", "1"),
        ("net.", "1"),
    ] {
        let (text, _, code) = fails(place.sh("true").sysctl(key, value));
        assert!((text.contains("is this host's") || text.contains("is no value")) && code == 125, "{key:?}={value:?}: {text}");
    }
    assert_eq!(std::fs::read("/proc/sys/kernel/core_pattern").expect("there is /proc"), before);
    assert_eq!(place.left_now(), Vec::<String>::new());
}

/// An image whose config says what an image must not decide.
#[test]
fn cve_2026_53488_cve_2024_3154_cve_2022_23648_words_of_an_image_are_no_orders() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::empty();
    let victim = Victim::new(&mut place);
    let base = place.path().join("base");
    rootfs::busybox(&base);
    symlink(&victim.0, base.join("volume")).expect("a link can be made");
    let mut layout = Layout::new(&place.path().join("layout"));
    let layer = layout.layer_of(&base, Compressed::No);
    let labels = json!({
        "io.coracle.privileged": "true", "org.systemd.property.ExecStart": "'/bin/touch /x'", "run": "touch /x", "io.podman.annotations.privileged": "TRUE",
        "io.kubernetes.cri.sandbox": "x", "cdi.k8s.io/x": "vendor.com/device=all", "run.oci.keep_original_groups": "1",
    });
    layout.image(
        "latest",
        &[layer],
        json!({ "Cmd": ["true"], "Labels": labels, "Volumes": { "/volume": {}, "/proc": {}, "/../../x": {} } }),
    );
    place.look_again();
    let image = || Container::from_oci_layout(place.path().join("layout")).engine(place.engine()).env("MARK", place.path());
    let line = "grep CapEff /proc/self/status; ls /volume/ 2>/dev/null; ls -A /proc/kcore";
    if let Ok(out) = tried(image().cmd(["sh", "-c", line])) {
        assert!(
            out.stdout_lossy().starts_with("CapEff:\t00000000a80425fb\n") && !out.stdout_lossy().contains("file"),
            "{}",
            out.stdout_lossy()
        );
    }
    victim.assert_whole();
    std::fs::remove_dir_all(place.path().join("layout")).expect("it is there");
}

#[test]
fn cve_2019_14271_a_copy_runs_no_program_of_the_containers() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let script = "#!/bin/sh\ntouch /ran\nexit 0\n";
    for directory in ["lib", "lib64", "lib/x86_64-linux-gnu", "usr/lib"] {
        std::fs::create_dir_all(place.rootfs().join(directory)).expect("it can be made");
        for name in ["libnss_files.so.2", "libnss_dns.so.2", "libc.so.6", "ld-linux-x86-64.so.2"] {
            std::fs::write(place.rootfs().join(directory).join(name), script).expect("it can be written");
        }
    }
    for name in ["tar", "unpigz", "gzip", "xz", "zstd", "docker-tar", "cp"] {
        let path = place.rootfs().join("usr/bin").join(name);
        std::fs::write(&path, script).expect("it can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    }
    let (source, out) = (place.path().join("source"), place.path().join("out"));
    std::fs::create_dir_all(source.join("d")).expect("it can be made");
    std::fs::write(source.join("d/f"), "text").expect("it can be written");
    std::fs::create_dir(&out).expect("it can be made");
    place.look_again();
    let container = block_on(place.sh("sleep 1000").env("PATH", "/usr/bin:/bin").spawn()).expect("it starts");
    block_on(container.copy_to(CopyIn::path(source.join("d")), "/tmp/in")).expect("it goes in");
    block_on(container.copy_from(CopyOut::path("/tmp/in"), out.join("back"))).expect("it comes out");
    assert_eq!(std::fs::read_to_string(out.join("back/f")).expect("it is there"), "text");
    let ran = block_on(container.exec(["/bin/ls", "/ran"]).output()).expect("it runs");
    assert!(!ran.status.success(), "a program of the container's was executed");
    drop(container);
    std::fs::remove_dir_all(&out).expect("it is there");
    place.assert_clean();
}

#[test]
fn cve_2019_18837_names_and_ids_are_no_paths() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for name in ["", ".", "..", "../x", "a/b", "/x", "x\n", "-x", ".x", "a b", "x\0"] {
        let error = block_on(place.sh("true").name(name).create()).err().unwrap_or_else(|| panic!("{name:?} is taken"));
        assert_eq!(error.exit_code(), 125, "{name:?}: {error}");
        assert!(place.engine().attach(name).is_err(), "{name:?}");
    }
    place.assert_clean();
}
