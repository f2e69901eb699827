//! What a container may beyond Docker's default, and what it may less: each word tried from inside.

use crate::support::place::{Place, block_on, fails, ran, said};
use crate::support::{met, need, needs::Need};
use coracle::{Container, Control, Device, Mount, Network, Preset, Seccomp};
use std::time::Duration;

/// A python of this machine's in a container over its root.
fn python(place: &Place, script: &str) -> coracle::ContainerBuilder {
    Container::from_rootfs("/").engine(place.engine()).cmd(["python3", "-c", script]).env("MARK", place.path())
}

#[test]
fn no_new_privileges_holds_for_the_command_and_for_further_ones() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "grep NoNewPrivs /proc/self/status";
    assert_eq!(said(place.sh(line)), "NoNewPrivs:\t0\n");
    assert_eq!(said(place.sh(line).no_new_privileges(true)), "NoNewPrivs:\t1\n");
    let container = block_on(place.sh("sleep 1000").no_new_privileges(true).spawn()).expect("it starts");
    let further = block_on(container.exec(["sh", "-c", line]).output()).expect("it runs");
    assert_eq!(further.stdout_lossy(), "NoNewPrivs:\t1\n");
}

#[test]
fn a_filter_can_be_none_ones_own_or_stricter() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let seccomp = |filter: Seccomp| said(place.sh("grep ^Seccomp: /proc/self/status").seccomp(filter));
    assert_eq!(seccomp(Seccomp::unconfined()), "Seccomp:\t0\n");
    assert_eq!(seccomp(Seccomp::docker_default()), "Seccomp:\t2\n");
    let refuses = r#"{"defaultAction":"SCMP_ACT_ALLOW","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_AARCH64","SCMP_ARCH_ARM"],
        "syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}"#;
    let out = ran(place.sh("mkdir /x; unshare -m true; echo $?").seccomp(Seccomp::json(refuses)).cap_add("SYS_ADMIN"));
    assert_eq!(out.stdout_lossy(), "0\n");
    assert!(out.stderr_lossy().contains("Operation not supported"), "{}", out.stderr_lossy());
    // It holds for further commands, too.
    let container = block_on(place.sh("sleep 1000").seccomp(Seccomp::json(refuses)).spawn()).expect("it starts");
    let further = block_on(container.exec(["mkdir", "/x"]).output()).expect("it runs");
    assert!(further.stderr_lossy().contains("Operation not supported"), "{}", further.stderr_lossy());
    drop(container);
    let (text, remedy, _) = fails(place.sh("true").seccomp(Seccomp::json("{")));
    assert!(text.starts_with("the seccomp profile: EOF") && remedy.is_some(), "{text}");
    place.assert_clean();
}

#[test]
fn an_argument_in_a_profile_is_compared_as_the_kernel_reads_it() {
    need!(DebianRoot, Python3, UserNamespaces);
    let place = Place::empty();
    let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
        {"names":["socket"],"action":"SCMP_ACT_ERRNO","errnoRet":95,"args":[{"index":0,"value":40,"op":"SCMP_CMP_EQ"}]},
        {"names":["mkdir"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_CHOWN"]}}]}"#;
    let script = "import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\nnr = 41 if platform.machine() == 'x86_64' else 198\n\
                  for family in (40, 40 | 1 << 32, 1):\n  ctypes.set_errno(0)\n  libc.syscall(ctypes.c_long(nr), ctypes.c_ulong(family), ctypes.c_long(1), ctypes.c_long(0))\n  print(ctypes.get_errno())\n\
                  import os; os.mkdir('/tmp/x'); print('made')";
    assert_eq!(said(python(&place, script).seccomp(Seccomp::json(profile))), "95\n95\n0\nmade\n");
}

#[test]
fn devices_of_the_host_are_had_by_name() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(
        said(
            place
                .sh("head -c 3 /dev/nothing | od -An -tx1; ls -l /dev/nothing | cut -c1")
                .device(Device::new("/dev/zero").at("/dev/nothing"))
        ),
        " 00 00 00\nc\n"
    );
    // Where nobody named it, there is none, and none can be made.
    assert!(!ran(place.sh("mknod /dev/x c 1 5 && head -c 1 /dev/x")).status.success());
    let (text, remedy, _) = fails(place.sh("true").device("/dev/no-such").device("/etc/passwd").device("/dev/null:/dev/x:y"));
    assert!(
        text.starts_with("there is no device /dev/no-such: ")
            && text.contains("/etc/passwd is no device")
            && text.contains("\"y\" is nothing"),
        "{text}"
    );
    assert!(remedy.is_some());
    place.assert_clean();
}

#[test]
fn what_a_device_may_not_be_opened_for_is_held_by_a_control_group() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let restricted = || place.sh(": > /dev/in && echo written; : < /dev/in && echo read").device("/dev/kmsg:/dev/in:w");
    if !met(Need::Root) {
        let (text, remedy, _) = fails(restricted());
        assert!(text.starts_with("can't enforce devices=") && remedy.is_some(), "{text}");
        return;
    }
    let out = ran(restricted());
    assert_eq!(out.stdout_lossy(), "written\n", "{}", out.stderr_lossy());
    assert!(out.stderr_lossy().contains("Operation not permitted"), "{}", out.stderr_lossy());
    let enforced: Vec<_> = out.enforced.iter().map(|limit| (limit.control, limit.mechanism.as_str())).collect();
    let mechanism = if met(Need::CgroupV2) { "cgroup v2 BPF_CGROUP_DEVICE" } else { "cgroup v1 devices.list" };
    assert_eq!(enforced, [(Control::Devices, mechanism)]);
    // A rule lets nodes be made, and those of no other device.
    let line = "mknod /dev/a c 1 11 && mknod /dev/b c 10 1 && : > /dev/a && : < /dev/zero && echo default; cat /dev/b";
    let out = ran(place.sh(line).device_cgroup_rule("c 1:11 rwm"));
    assert!(out.stdout_lossy().ends_with("default\n"), "{}{}", out.stdout_lossy(), out.stderr_lossy());
    assert!(out.stderr_lossy().contains("can't open '/dev/b': Operation not permitted"), "{}", out.stderr_lossy());
    let (text, ..) = fails(place.sh("true").device_cgroup_rule("c 1:11"));
    assert!(text.contains("is no rule about devices"), "{text}");
    place.assert_clean();
}

#[test]
fn settings_of_its_namespaces_are_its_own() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let host = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time").expect("there is /proc");
    assert_eq!(said(place.sh("cat /proc/sys/net/ipv4/tcp_keepalive_time").sysctl("net.ipv4.tcp_keepalive_time", "77")), "77\n");
    assert_eq!(std::fs::read_to_string("/proc/sys/net/ipv4/tcp_keepalive_time").expect("there is /proc"), host);
    if met(Need::Root) {
        let line = "cat /proc/sys/kernel/shmmax /proc/sys/fs/mqueue/msg_max";
        assert_eq!(said(place.sh(line).sysctl("kernel.shmmax", "65536").sysctl("fs.mqueue.msg_max", "5")), "65536\n5\n");
    }
    // CVE-2022-0811 and its kin are in escapes.rs.
    let (text, ..) = fails(place.sh("true").sysctl("net.ipv4.tcp_keepalive_time", "1").network(Network::host()));
    assert_eq!(text, "the setting net.ipv4.tcp_keepalive_time would be somebody else's, whose namespace is shared");
    let (text, ..) = fails(place.sh("true").sysctl("net.ipv4.no_such", "1"));
    assert!(text.starts_with("can't set /proc/sys/net/ipv4/no_such"), "{text}");
    place.assert_clean();
}

#[test]
fn shared_memory_has_the_size_that_was_asked_for() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let size = |builder: coracle::ContainerBuilder| said(builder).trim().to_owned();
    let line = "df -k /dev/shm | tail -1 | awk '{print $2}'";
    assert_eq!(size(place.sh(line)), "65536");
    assert_eq!(size(place.sh(line).shm_size("3m")), "3072");
    let (text, ..) = fails(place.sh(line).shm_size("3 megs"));
    assert!(text.starts_with("the size of /dev/shm: "), "{text}");
}

#[test]
fn paths_are_masked_and_unmasked_by_name() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "cat /etc/os-release /etc/group | wc -c; cat /proc/timer_list 2>/dev/null | wc -c; echo x 2>/dev/null > /etc/passwd || echo refused";
    assert_eq!(said(place.sh(line).mask_path("/etc/os-release").mask_path("/etc/group").read_only_path("/etc/passwd")), "0\n0\nrefused\n");
    // An own /proc/sys can be written by who may; it is read-only for all otherwise.
    let write = "echo 0 2>/dev/null > /proc/sys/net/ipv4/ip_forward && echo written";
    assert_eq!(ran(place.sh(write).cap_add("NET_ADMIN")).stdout_lossy(), "");
    assert_eq!(ran(place.sh(write).cap_add("NET_ADMIN").unmask_path("/proc/sys")).stdout_lossy(), "written\n");
    assert_eq!(ran(place.sh(write).cap_add("NET_ADMIN").unmask_path("ALL")).stdout_lossy(), "written\n");
    let mounts = said(place.sh("cut -d ' ' -f 5 /proc/self/mountinfo").unmask_path("ALL"));
    assert!(!mounts.lines().any(|point| point.starts_with("/proc/")), "{mounts}");
}

#[test]
fn a_privileged_container_has_what_this_process_has() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let bounding = |text: &str| text.lines().find_map(|line| line.strip_prefix("CapBnd:").map(|word| word.trim().to_owned()));
    let inside = said(place.sh("cat /proc/self/status").privileged(true));
    if met(Need::Root) {
        let ours = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
        assert_eq!(bounding(&inside), bounding(&ours));
    }
    assert!(inside.contains("Seccomp:\t0"), "{inside}");
    let line = "mount -t tmpfs none /tmp && unshare -m true && umount /tmp && cut -d ' ' -f 5 /proc/self/mountinfo | grep -c ^/proc/";
    assert_eq!(ran(place.sh(line).privileged(true)).stdout_lossy(), "0\n");
    // It is still a container: what it sees of mounts and processes is its own.
    assert_eq!(said(place.sh("echo $$").privileged(true).init(false)), "1\n");
    place.assert_clean();
}

#[test]
fn namespaces_can_be_the_hosts() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let outside = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).expect("there is /proc").display().to_string() + "\n";
    assert_eq!(said(place.sh("readlink /proc/self/ns/ipc").ipc_namespace("host")), outside("ipc"));
    assert_eq!(said(place.sh("readlink /proc/self/ns/uts").uts_namespace("host")), outside("uts"));
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    assert_eq!(said(place.sh("hostname; echo $HOSTNAME").uts_namespace("host")), format!("{name}\n{name}\n"));
    let (text, ..) = fails(place.sh("true").uts_namespace("host").hostname("x"));
    assert_eq!(text, "a host name is asked for, and another's is shared");
    let pid = place.sh("readlink /proc/self/ns/pid; (setsid sleep 1000 &); sleep 0.1").pid_namespace("host");
    if met(Need::Delegation) {
        assert_eq!(ran(pid).stdout_lossy(), outside("pid"));
        // What the command left ends with it.
        place.assert_clean();
    } else {
        let (text, remedy, _) = fails(pid);
        assert!(text.contains("is ended by its control group") && remedy.is_some(), "{text}");
    }
}

#[test]
fn namespaces_can_be_another_containers() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let first = block_on(place.sh("echo mine > /dev/shm/word; exec sleep 1000").hostname("first").name("first").run_detached("first"));
    let first = first.expect("it starts");
    let another = || {
        place
            .sh("hostname; cat /dev/shm/word; ps -o args; for n in pid ipc uts; do readlink /proc/1/ns/$n; readlink /proc/self/ns/$n; done")
    };
    let sharing = another().pid_namespace("container:first").ipc_namespace("container:first").uts_namespace("container:first");
    if met(Need::Root) {
        let out = said(sharing);
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(&lines[..2], ["first", "mine"]);
        assert!(lines.contains(&"sleep 1000"), "{out}");
        let ns = &lines[lines.len() - 6..];
        assert!(ns.chunks(2).all(|pair| pair[0] == pair[1]), "{ns:?}");
        // A further command is where its container is.
        let second = place.sh("sleep 1000").pid_namespace("container:first").ipc_namespace("container:first");
        let second = block_on(second.spawn()).expect("it starts");
        let out = block_on(second.exec(["sh", "-c", "cat /dev/shm/word; ps -o args | grep -c '^sleep 1000'"]).output()).expect("it runs");
        assert_eq!(out.stdout_lossy(), "mine\n2\n", "{}", out.stderr_lossy());
        block_on(second.remove()).expect("it goes");
        let out = block_on(first.exec(["sh", "-c", "ps -o args | grep -c '^sleep 1000'"]).output()).expect("it runs");
        assert_eq!(out.stdout_lossy(), "1\n");
    } else {
        let (text, remedy, _) = fails(sharing);
        assert!((text.contains("namespace needs root") || text.contains("by its control group")) && remedy.is_some(), "{text}");
    }
    block_on(first.remove()).expect("it goes");
    let (text, ..) = fails(place.sh("true").pid_namespace("container:nobody"));
    assert!(text.contains("nobody") || !met(Need::Root), "{text}");
    place.assert_clean();
}

#[test]
fn labels_of_security_modules_that_are_not_there_are_an_error() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(said(place.sh("echo runs").apparmor("unconfined").selinux("disable")), "runs\n");
    if !std::path::Path::new("/sys/module/apparmor/parameters/enabled").exists() {
        let (text, remedy, _) = fails(place.sh("true").apparmor("docker-default"));
        assert_eq!((text.as_str(), remedy.as_deref()), ("docker-default can't be had: this kernel runs no AppArmor", Some("leave it out")));
    }
    if !std::path::Path::new("/sys/fs/selinux/enforce").exists() {
        let (text, ..) = fails(place.sh("true").selinux("system_u:system_r:container_t:s0"));
        assert_eq!(text, "system_u:system_r:container_t:s0 can't be had: this kernel runs no SELinux");
    }
}

#[test]
fn landlock_takes_rights_from_root_itself() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let builder = |line: &str| {
        place.sh(line).mount(Mount::tmpfs("/w")).landlock_execute("/bin").landlock_read("/etc").landlock_write("/w").landlock_write("/dev")
    };
    let line = "cat /etc/os-release; echo x > /w/a && cat /w/a; echo x > /etc/b; cat /proc/version; cp /bin/busybox /w/b && /w/b true";
    let out = match block_on(builder(line).output()) {
        Ok(out) => out,
        // A kernel whose command line leaves it out.
        Err(error) => return assert!(error.to_string().contains("Landlock"), "{error}"),
    };
    assert_eq!(out.stdout_lossy(), "ID=busybox\nx\n", "{}", out.stderr_lossy());
    let said = out.stderr_lossy().into_owned();
    for refused in ["can't create /etc/b: Permission denied", "can't open '/proc/version': Permission denied", "/w/b: Permission denied"] {
        assert!(said.contains(refused), "{refused}: {said}");
    }
    // A further command has no more.
    let container = block_on(builder("sleep 1000").spawn()).expect("it starts");
    let out = block_on(container.exec(["sh", "-c", "cat /proc/version"]).output()).expect("it runs");
    assert!(out.stderr_lossy().contains("Permission denied"), "{}", out.stderr_lossy());
}

#[test]
fn a_tracer_traces_where_it_may() {
    need!(DebianRoot, Strace, UserNamespaces);
    let place = Place::empty();
    let traced =
        || Container::from_rootfs("/").engine(place.engine()).cmd(["strace", "-f", "-e", "trace=execve", "true"]).env("MARK", place.path());
    let out = ran(traced().cap_add("SYS_PTRACE").seccomp(Seccomp::unconfined()));
    assert!(out.stderr_lossy().contains("execve(\"") && out.status.success(), "{}", out.stderr_lossy());
    let out = ran(traced().preset(Preset::Trusted));
    assert!(out.stderr_lossy().contains("+++ exited with 0 +++"), "{}", out.stderr_lossy());
    let limits = |builder: coracle::ContainerBuilder| {
        builder
            .memory("256m")
            .wall(Duration::from_secs(60))
            .best_effort(Control::Memory)
            .best_effort(Control::Cpu)
            .best_effort(Control::Pids)
    };
    if !met(Need::NoSubIds) {
        let out = ran(limits(traced().preset(Preset::Untrusted)));
        assert!(!out.status.success() && out.stderr_lossy().contains("Operation not permitted"), "{}", out.stderr_lossy());
    }
}
