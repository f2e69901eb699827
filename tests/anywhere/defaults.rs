//! What a container is if nothing is said: namespaces, root, capabilities, devices, files, user, environment; and each setting.

use crate::support::need;
use crate::support::needs::Need;
use crate::support::owner::{self, Act};
use crate::support::place::{Place, block_on, fails, ran, said};
use crate::support::{directory, met};
use coracle::{Container, Mount, Network};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

/// Docker's fourteen capabilities.
const DOCKER: &str = "00000000a80425fb";

/// The fields of /proc/self/status of a container.
fn status(text: &str) -> BTreeMap<String, String> {
    text.lines().filter_map(|line| line.split_once(':')).map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
}

#[test]
fn every_namespace_is_new() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let names = ["cgroup", "ipc", "mnt", "net", "pid", "uts"];
    let inside = place.says(&format!("cd /proc/self/ns; for n in {} user; do readlink $n; done", names.join(" ")));
    let inside: Vec<&str> = inside.lines().collect();
    assert_eq!(inside.len(), 7);
    for (name, inside) in names.iter().zip(&inside) {
        let outside = std::fs::read_link(Path::new("/proc/self/ns").join(name)).expect("there is /proc");
        assert_ne!(outside.display().to_string(), *inside, "{name}");
    }
    let outside = std::fs::read_link("/proc/self/ns/user").expect("there is /proc");
    assert_eq!(outside.display().to_string() == inside[6], met(Need::Root), "a plain user's is new, too");
}

#[test]
fn the_host_network_is_had_by_asking() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let outside = std::fs::read_link("/proc/self/ns/net").expect("there is /proc").display().to_string();
    assert_eq!(said(place.sh("readlink /proc/self/ns/net").network(Network::host())).trim(), outside);
    assert_eq!(
        said(place.sh("cat /etc/resolv.conf").network(Network::host())),
        std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
    );
}

#[test]
fn without_a_network_there_is_loopback_and_nothing_else() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(place.says("ls /sys/class/net"), "lo\n");
    assert_eq!(place.says("(echo hello | nc -l -p 80 127.0.0.1 &); sleep 0.2; nc -w 5 127.0.0.1 80 < /dev/null"), "hello\n");
    assert_eq!(place.says("cat /etc/resolv.conf"), "# This container has no network beyond itself.\n");
}

#[test]
fn no_mount_of_the_host_is_seen() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let table = place.says("cat /proc/self/mountinfo");
    let points: BTreeSet<&str> = table.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    for point in &points {
        let known = *point == "/" || ["/proc", "/sys", "/dev"].iter().any(|top| *point == *top || point.starts_with(&format!("{top}/")));
        let file = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"].contains(point);
        assert!(known || file, "{point} is mounted:\n{table}");
    }
    assert_eq!(table.lines().filter(|line| line.split(' ').nth(4) == Some("/")).count(), 1, "{table}");
    assert!(!table.contains("shared:") && !table.contains("master:"), "a mount propagates:\n{table}");
    // Neither by the way up, nor by that of PID 1.
    assert_eq!(place.says("ls /; ls /..; ls /proc/1/root/"), place.says("ls /; ls /; ls /"));
}

#[test]
fn capabilities_are_dockers_and_none_is_inheritable() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for init in [true, false] {
        let said = status(&said(place.sh("cat /proc/self/status").init(init)));
        for (field, value) in [
            ("CapEff", DOCKER),
            ("CapPrm", DOCKER),
            ("CapBnd", DOCKER),
            ("CapInh", "0000000000000000"),
            ("CapAmb", "0000000000000000"),
            ("Seccomp", "2"),
            ("NoNewPrivs", "0"),
        ] {
            assert_eq!(said[field], value, "{field}, init({init})");
        }
    }
    let init = status(&place.says("cat /proc/1/status"));
    assert_eq!((init["CapBnd"].as_str(), init["CapInh"].as_str(), init["Seccomp"].as_str()), (DOCKER, "0000000000000000", "2"), "{init:?}");
}

#[test]
fn a_user_has_no_capability_but_the_bounding_set() {
    need!(Busybox, UserNamespaces);
    if met(Need::NoSubIds) {
        return; // There is no other user than root then.
    }
    let said = status(&said(Place::new().sh("cat /proc/self/status").user("guest")));
    let caps = ["CapEff", "CapPrm", "CapInh", "CapAmb", "CapBnd"].map(|field| said[field].as_str());
    assert_eq!(caps, ["0000000000000000", "0000000000000000", "0000000000000000", "0000000000000000", DOCKER]);
}

#[test]
fn capabilities_are_added_and_dropped_by_name() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let effective = |builder: coracle::ContainerBuilder| {
        u64::from_str_radix(said(builder.cmd(["sh", "-c", "grep CapEff /proc/self/status"])).trim_start_matches("CapEff:").trim(), 16)
    };
    let docker = u64::from_str_radix(DOCKER, 16).expect("hexadecimal");
    assert_eq!(effective(place.container().cap_add("NET_ADMIN")), Ok(docker | 1 << 12));
    assert_eq!(effective(place.container().cap_add("CAP_NET_ADMIN").cap_drop("net_raw")), Ok((docker | 1 << 12) & !(1 << 13)));
    assert_eq!(effective(place.container().cap_drop("ALL")), Ok(0));
    assert_eq!(effective(place.container().cap_add("KILL").cap_drop("all")), Ok(1 << 5));
}

#[test]
fn system_calls_are_filtered_as_docker_does() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for line in ["unshare -U true", "unshare -m true", "mount -t tmpfs none /tmp", "umount /dev/shm", "hostname other", "swapoff -a /tmp/x"]
    {
        let out = ran(place.sh(line));
        assert!(!out.status.success(), "{line} is allowed");
        assert!(!out.stderr_lossy().contains("not found"), "{line}: {}", out.stderr_lossy());
    }
    // Who has the capability gets the calls that go with it.
    let out = ran(place.sh("unshare -m true && mount -t tmpfs none /tmp").cap_add("SYS_ADMIN"));
    assert!(out.status.success(), "{}", out.stderr_lossy());
}

#[test]
fn what_leaks_from_the_host_reads_empty() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug /proc/scsi \
                /proc/timer_list /sys/devices/virtual/powercap /sys/firmware; do \
                if [ -d $p ]; then ls -A $p; elif [ -e $p ]; then head -c 1 $p; fi; done";
    assert_eq!(place.says(line), "");
    // None of them was passed over because it isn't there.
    let there = ["/proc/kcore", "/proc/keys", "/proc/interrupts", "/proc/timer_list", "/sys/firmware"]
        .into_iter()
        .filter(|path| Path::new(path).exists());
    let there: Vec<&str> = there.collect();
    assert!(there.len() >= 2, "{there:?}");
    assert_eq!(place.says(&format!("ls -d {}", there.join(" "))).lines().count(), there.len());
}

#[test]
fn what_would_harm_the_host_is_read_only() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for path in ["/proc/sys/kernel/hostname", "/proc/sys/vm/overcommit_memory", "/proc/sysrq-trigger", "/sys/kernel/uevent_seqnum"] {
        if !Path::new(path).exists() {
            continue;
        }
        let out = ran(place.sh(&format!("[ -e {path} ] && echo 0 > {path}")));
        assert!(out.stderr_lossy().contains("Read-only file system"), "{path}: {}{}", out.status, out.stderr_lossy());
    }
    for path in ["/sys", "/proc/sys", "/proc/irq", "/proc/bus", "/proc/fs"] {
        let options = place.says(&format!("awk '$5 == \"{path}\" {{ print $6 }}' /proc/self/mountinfo"));
        if Path::new(path).exists() {
            assert!(options.split(',').any(|option| option.trim() == "ro"), "{path}: {options}");
        }
    }
    // Its own network's settings are the only ones that root is given to write before, and they hold.
    if met(Need::Root) {
        assert_eq!(place.says("cat /proc/sys/net/ipv4/ip_unprivileged_port_start"), "0\n");
    }
}

#[test]
fn the_default_devices_are_there_and_no_others() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let devices = place.says("cd /dev; stat -c '%n %F %t:%T %a' full null random tty urandom zero");
    let expected = "full character special file 1:7 666\nnull character special file 1:3 666\nrandom character special file 1:8 666\n\
                    tty character special file 5:0 666\nurandom character special file 1:9 666\nzero character special file 1:5 666\n";
    assert_eq!(devices, expected);
    let links = place.says("cd /dev; for l in fd stdin stdout stderr ptmx; do readlink $l; done");
    assert_eq!(links, "/proc/self/fd\n/proc/self/fd/0\n/proc/self/fd/1\n/proc/self/fd/2\npts/ptmx\n");
    assert_eq!(
        place.says("ls /dev").split_whitespace().collect::<Vec<_>>().join(" "),
        "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    );
    assert_eq!(place.says("head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; echo gone > /dev/null; cat /dev/null"), "3\n5\n");
    assert!(ran(place.sh("echo full > /dev/full")).stderr_lossy().contains("No space left on device"));
    // A terminal comes from the container's own devpts.
    assert_eq!(place.says("exec 3<>/dev/ptmx && ls /dev/pts"), "0\nptmx\n");
    assert_eq!(place.says("echo through the link > /dev/stdout; echo in | cat /dev/stdin"), "through the link\nin\n");
}

#[test]
fn shared_memory_is_64_mebibytes() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(place.says("df -k /dev/shm | awk 'NR == 2 { print $1, $2 }'"), "tmpfs 65536\n");
    assert_eq!(place.says("stat -c %a /dev/shm"), "1777\n");
    assert_eq!(place.says("echo x > /dev/shm/x && cat /dev/shm/x"), "x\n");
    let types = place.says("awk '{ for (i = 7; $i != \"-\"; i++); print $5, $(i + 1) }' /proc/self/mountinfo");
    for line in ["/dev/mqueue mqueue", "/dev/pts devpts", "/dev/shm tmpfs", "/proc proc", "/sys sysfs", "/ overlay"] {
        assert!(types.lines().any(|said| said == line), "{line} isn't in\n{types}");
    }
}

#[test]
fn a_container_knows_its_name() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let before = rustix_hostname();
    let line = "hostname; cat /etc/hostname; echo $HOSTNAME";
    assert_eq!(said(place.sh(line).hostname("box.example")), "box.example\nbox.example\nbox.example\n");
    let hosts = said(place.sh("cat /etc/hosts").hostname("box"));
    let expected = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nff00::\tip6-mcastprefix\n\
                    ff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n127.0.1.1\tbox\n";
    assert_eq!(hosts, expected);
    let container = block_on(place.sh("sleep 1000").run()).expect("it runs");
    let listed = container.id()[..12].to_owned();
    drop(container);
    assert_eq!(listed.len(), 12);
    let named = place.says("hostname");
    assert!(named.trim().len() == 12 && named.trim().bytes().all(|b| b.is_ascii_hexdigit()), "{named}");
    assert_eq!(rustix_hostname(), before);
    // Written over, it is the container's own.
    assert_eq!(place.says("echo 10.0.0.1 other >> /etc/hosts && tail -n 1 /etc/hosts"), "10.0.0.1 other\n");
}

fn rustix_hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").expect("there is /proc")
}

#[test]
fn init_is_pid_1_and_reaps() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "for i in 1 2 3 4 5 6 7 8; do sh -c 'sleep 0.05 &'; done; sleep 0.4; grep -l '^State:.Z' /proc/[0-9]*/status; echo $$ $PPID";
    assert_eq!(place.says(line), "2 1\n");
    // Orphans of the command's are its grandchildren's only: a new session changes nothing.
    assert_eq!(
        place
            .says("setsid sh -c 'setsid sh -c \"echo \\$PPID\" & wait'; sh -c 'setsid sleep 0.05 &'; sleep 0.2; ls -d /proc/[0-9]* | wc -l")
            .lines()
            .count(),
        2
    );
}

#[test]
fn without_our_init_the_command_is_pid_1() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(said(place.sh("echo $$; ls -d /proc/[0-9]*").init(false)), "1\n/proc/1\n");
}

#[test]
fn people_may_write_to_the_output_of_pid_1() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(place.says("echo by pid 1 > /proc/1/fd/1"), "by pid 1\n");
}

#[test]
fn the_environment_is_small_and_none_of_the_owners() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let sorted = |text: String| {
        let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.join("\n")
    };
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let env = || place.container().cmd(["/bin/env"]).hostname("box");
    assert_eq!(sorted(said(env())), format!("HOME=/root\nHOSTNAME=box\n{path}"));
    assert_eq!(
        sorted(said(env().env("B", "2").env("A", "a=b c").env("HOME", "/x"))),
        format!("A=a=b c\nB=2\nHOME=/x\nHOSTNAME=box\n{path}")
    );
    assert_eq!(sorted(said(env().env("A", "1").env_clear().envs([("B", "2")]))), "B=2\nHOME=/root");
    if !met(Need::NoSubIds) {
        assert_eq!(sorted(said(env().user("guest"))), format!("HOME=/home\nHOSTNAME=box\n{path}"));
        assert_eq!(sorted(said(env().user("4711"))), format!("HOME=/\nHOSTNAME=box\n{path}"));
    }
}

#[test]
fn a_user_is_found_in_the_containers_own_files() {
    need!(Busybox, UserNamespaces);
    if met(Need::NoSubIds) {
        return; // only_root_is_mapped_without_sub_ids
    }
    let place = Place::new();
    let passwd = "root:x:0:0:root:/root:/bin/sh\n1000:x:7:7:a name of digits:/:/bin/sh\nguest:x:1000:1000:guest:/home:/bin/sh\n";
    std::fs::write(place.rootfs().join("etc/passwd"), passwd).expect("it can be written");
    for (words, uid, gid, groups) in [
        ("", "0", "0", "0"),
        ("0", "0", "0", "0"),
        ("root", "0", "0", "0"),
        ("guest", "1000", "1000", "10 1000"),
        ("guest:wheel", "1000", "10", "10"),
        ("guest:12", "1000", "12", "12"),
        // A number is a number, whatever entry is called so.
        ("1000", "1000", "1000", "10 1000"),
        ("1000:1000", "1000", "1000", "1000"),
        ("4711", "4711", "0", "0"),
        ("4711:wheel", "4711", "10", "10"),
        ("65534:65534", "65534", "65534", "65534"),
        ("0:daemon", "0", "1", "1"),
    ] {
        let out = ran(place.sh("id -u; id -g; id -G").user(words));
        let text = out.stdout_lossy();
        let said: Vec<&str> = text.lines().collect();
        let mut numbers: Vec<&str> = said.get(2).copied().unwrap_or_default().split(' ').collect();
        numbers.sort_unstable();
        assert_eq!((said[0], said[1], numbers.join(" ").as_str()), (uid, gid, groups), "user {words:?}: {}", out.stderr_lossy());
    }
}

#[test]
fn a_user_that_nobody_means_is_refused() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for words in [
        ":",
        "1000:",
        ":1000",
        "-1",
        "+0",
        " 0",
        "0 ",
        "4294967296",
        "4294967295",
        "0:4294967296",
        "0:-1",
        "0x0",
        "a:b:c",
        "0:0:0",
        "../root",
        "root\n",
    ] {
        let (text, remedy, _) = fails(place.sh("id -u").user(words));
        if words == "0x0" {
            assert_eq!(text, "no user \"0x0\" in the root's /etc/passwd");
            continue;
        }
        let expected = format!("{words:?} is no user: name or number, and after a colon a group's name or number");
        assert_eq!((text, remedy), (expected, None), "user {words:?}");
    }
    place.assert_clean();
}

#[test]
fn the_working_directory_is_made() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(place.says("pwd"), "/\n");
    assert_eq!(said(place.sh("pwd; ls -A").workdir("/deep/er/still")), "/deep/er/still\n");
    assert_eq!(said(place.sh("pwd").workdir("/etc/../home")), "/home\n");
    assert!(!place.rootfs().join("deep").exists());
}

#[test]
fn nothing_of_the_owner_is_open() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for init in [true, false] {
        // 3 is the one by which ls reads.
        assert_eq!(said(place.sh("exec ls /proc/self/fd").init(init)).split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
        let out = ran(place.sh("ls -l /proc/self/fd /proc/1/fd").init(init));
        let text = out.stdout_lossy();
        assert!(!text.contains(&*place.path().to_string_lossy()), "{text}");
    }
    // What init holds is none of the host's files: pipes and sockets by which it is spoken to.
    let text = place.says("ls -l /proc/1/fd");
    for target in text.lines().filter_map(|line| line.split_once(" -> ")).map(|(_, target)| target) {
        assert!(["pipe:", "socket:", "anon_inode:", "/dev/null", "/memfd:"].iter().any(|kind| target.starts_with(kind)), "{text}");
    }
}

#[test]
fn what_the_owner_inherited_isnt_passed_on() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let words =
        ["env", "--ignore-signal=TERM,PIPE,CHLD,HUP", "--block-signal=USR1", "sh", "-c", "umask 0777; ulimit -c 0; exec \"$@\"", "sh"];
    let output = owner::under(&words, Act::Inherit, place.path()).env("SECRET_OF_THE_OWNER", "1").output().expect("the owner runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let said = status(&text);
    for field in ["SigIgn", "SigBlk"] {
        assert_eq!(said[field], "0000000000000000", "{field}:\n{text}");
    }
    assert_eq!(said["Umask"], "0022");
    assert!(!text.contains("SECRET_OF_THE_OWNER"), "{text}");
    assert!(text.contains("made 755\n"), "{text}");
    place.assert_clean();
}

#[test]
fn files_are_made_with_umask_022() {
    need!(Busybox, UserNamespaces);
    assert_eq!(Place::new().says("umask; mkdir /a; touch /b; stat -c %a /a /b"), "0022\n755\n644\n");
}

#[test]
fn a_read_only_root_cannot_be_written() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let fixed = |line: &str| place.sh(line).read_only_rootfs(true).mount(Mount::tmpfs("/scratch"));
    for path in ["/new", "/etc/new", "/bin/sh", "/home/new", "/proc/new", "/sys/new"] {
        let out = ran(fixed(&format!("echo x > {path}")));
        assert!(!out.status.success(), "{path} can be written");
    }
    assert_eq!(said(fixed("echo x > /scratch/x; cat /scratch/x; echo y > /dev/shm/y; cat /dev/shm/y")), "x\ny\n");
    assert_eq!(said(fixed("pwd").workdir("/made/before")), "/made/before\n");
}

#[test]
fn a_bind_shows_what_is_on_the_host() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let host = place.path().join("host");
    std::fs::create_dir(&host).expect("it can be made");
    std::fs::write(host.join("file"), "of the host\n").expect("it can be written");
    let bound = |line: &str, mount: Mount| place.sh(line).mount(mount);
    assert_eq!(said(bound("cat /a/b/file; echo changed > /a/b/new", Mount::bind(&host, "/a/b"))), "of the host\n");
    assert_eq!(std::fs::read_to_string(host.join("new")).expect("it was made"), "changed\n");
    let out = ran(bound("echo x > /a/file", Mount::bind(&host, "/a").read_only()));
    assert!(out.stderr_lossy().contains("Read-only file system"), "{}", out.stderr_lossy());
    assert_eq!(said(bound("cat /etc/one; ls -l /etc/one | cut -c 1", Mount::bind(host.join("file"), "/etc/one"))), "of the host\n-\n");
    // Over what is there, and it is back the next time.
    assert_eq!(said(bound("cat /etc/passwd", Mount::bind(host.join("file"), "/etc/passwd"))), "of the host\n");
    assert!(place.says("cat /etc/passwd").starts_with("root:"));
    // Where the container may not look, its mounts don't either.
    assert!(!place.rootfs().join("a").exists() && !place.rootfs().join("etc/one").exists());
}

#[test]
fn a_tmpfs_has_its_size_and_mode() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let mount = Mount::tmpfs("/scratch/deep").size("1m").mode(0o750);
    let out = ran(place.sh("stat -c %a /scratch/deep; df -k /scratch/deep | awk 'NR == 2 { print $2 }'; dd if=/dev/zero of=/scratch/deep/x bs=64k count=32").mount(mount));
    assert_eq!(out.stdout_lossy(), "750\n1024\n");
    assert!(out.stderr_lossy().contains("No space left on device"), "{}", out.stderr_lossy());
    assert_eq!(said(place.sh("stat -c %a /s").mount(Mount::tmpfs("/s"))), "1777\n");
    let out = ran(place.sh("echo > /s/x").mount(Mount::tmpfs("/s").read_only()));
    assert!(out.stderr_lossy().contains("Read-only file system"), "{}", out.stderr_lossy());
    let options = said(place.sh("awk '$5 == \"/s\" { print $6 }' /proc/self/mountinfo").mount(Mount::tmpfs("/s")));
    assert!(options.contains("nosuid") && options.contains("nodev"), "{options}");
}

#[test]
fn mounts_come_in_the_order_they_are_named() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let host = place.path().join("host");
    std::fs::create_dir(&host).expect("it can be made");
    let ordered = place.sh("ls /a /a/b").mount(Mount::tmpfs("/a")).mount(Mount::bind(&host, "/a/b"));
    assert_eq!(said(ordered), "/a:\nb\n\n/a/b:\n");
}

#[test]
fn resource_limits_are_set() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let limit = |text: &str| text.parse().expect("a limit");
    let builder = place.sh("ulimit -Sn; ulimit -Hn; ulimit -Sc").rlimit(limit("nofile=64:128")).rlimit(limit("core=0"));
    assert_eq!(said(builder), "64\n128\n0\n");
}

#[test]
fn this_machines_own_root_is_a_root() {
    need!(UserNamespaces);
    let place = Place::empty();
    let line = "id -u; touch /etc/changed && ls /etc/changed && [ -e /etc/group ] && echo ok";
    let text = said(Container::from_rootfs("/").engine(place.engine()).cmd(["sh", "-c", line]));
    assert_eq!(text, "0\n/etc/changed\nok\n");
    assert!(Path::new("/etc/passwd").exists() && !Path::new("/etc/changed").exists());
    place.assert_clean();
}

#[test]
fn the_engines_directories_are_private() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").run()).expect("it runs");
    for path in
        [place.engine().root().to_owned(), place.engine().root().join("run"), place.engine().root().join("run").join(container.id())]
    {
        let mode = path.metadata().expect("it is there").permissions().mode() & 0o7777;
        assert_eq!(mode, 0o700, "{}", path.display());
    }
    drop(container);
    place.assert_clean();
}

#[test]
fn an_engine_refuses_a_directory_that_others_may_write() {
    let place = directory();
    let root = place.path().join("engine");
    std::fs::create_dir(&root).expect("it can be made");
    for mode in [0o777, 0o1777, 0o770] {
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
        let error = coracle::Engine::builder().root(&root).open().expect_err("somebody else could put a record there");
        assert_eq!(error.to_string(), format!("can't use {}: others may write to it (mode {mode:o})", root.display()));
        assert_eq!(
            error.remedy().as_deref(),
            Some("choose a directory of your own: Engine::builder().root(..), --root DIR, or CORACLE_ROOT")
        );
    }
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    coracle::Engine::builder().root(&root).open().expect("reading isn't writing");
}
