//! Presets: what each says that it implies is so inside, for root and for a plain user.

use crate::support::place::{Place, fails, ran, said};
use crate::support::{met, need, needs::Need};
use coracle::{Container, ContainerBuilder, Control, Mount, Network, Preset, Seccomp};
use std::time::Duration;

/// With all that a preset requires. A plain user without a control group goes on without; one without other ids is root inside, without its powers.
pub(super) fn with(builder: ContainerBuilder, preset: Preset) -> ContainerBuilder {
    let builder = builder.preset(preset).memory("64m").wall(Duration::from_secs(300));
    let builder = if met(Need::NoSubIds) { builder.user("0") } else { builder };
    match met(Need::Delegation) && (met(Need::Root) || met(Need::CgroupV2)) {
        true => builder,
        false => [Control::Memory, Control::Cpu, Control::Pids].into_iter().fold(builder, ContainerBuilder::best_effort),
    }
}

#[test]
fn untrusted_and_hostile_hold_what_they_print() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for (preset, tmp, shm, files, processes) in [(Preset::Untrusted, 65536, 16384, 1024, 128), (Preset::Hostile, 16384, 1024, 256, 32)] {
        let line = "id -u; id -g; ls /sys/class/net; grep -E '^(Cap|NoNew|Seccomp:)' /proc/self/status; ulimit -n; ulimit -Hn; ulimit -c; \
                    df -k /tmp /dev/shm | awk 'NR>1 {print $2}'; echo x > /tmp/x && echo tmp; echo x 2>/dev/null > /x || echo root; \
                    cat /sys/fs/cgroup/pids/pids.max /sys/fs/cgroup/pids.max 2>/dev/null; true";
        let out = ran(with(place.sh(line), preset));
        assert!(out.status.success() && out.stderr.is_empty(), "{}: {}", out.status, out.stderr_lossy());
        let id = if met(Need::NoSubIds) { 0 } else { 65534 };
        let none = "0000000000000000";
        let mut expected = format!(
            "{id}\n{id}\nlo\nCapInh:\t{none}\nCapPrm:\t{none}\nCapEff:\t{none}\nCapBnd:\t{none}\nCapAmb:\t{none}\nNoNewPrivs:\t1\nSeccomp:\t2\n\
             {files}\n{files}\n0\n{tmp}\n{shm}\ntmp\nroot\n"
        );
        let bounded = out.enforced.iter().any(|limit| limit.control == Control::Pids);
        assert!(bounded || !(met(Need::Root) || met(Need::Delegation) && met(Need::CgroupV2)));
        if bounded {
            expected += &format!("{processes}\n");
        }
        assert_eq!(out.stdout_lossy(), expected, "{preset}");
        let text = preset.to_string();
        for word in ["no network", "a read-only root", "no capabilities, no_new_privs", "is required"] {
            assert!(text.contains(word), "{text}");
        }
        assert!(text.contains(&format!("at most {processes} processes, 1 processor, {files} open files each")), "{text}");
        assert!(text.contains(&format!("a /tmp of its own of {}m, a /dev/shm of {}m", tmp / 1024, shm / 1024)), "{text}");
    }
    place.assert_clean();
}

#[test]
fn what_strictness_leaves_out_fails_or_kills() {
    need!(DebianRoot, Python3, UserNamespaces);
    let place = Place::empty();
    let python = |script: &str| Container::from_rootfs("/").engine(place.engine()).cmd(["python3", "-c", script]).env("MARK", place.path());
    // ptrace(PTRACE_TRACEME), and what Docker refuses as well: bpf.
    let calls = "import ctypes, platform\nlibc = ctypes.CDLL(None, use_errno=True)\nx86 = platform.machine() == 'x86_64'\n\
                 for nr in (321 if x86 else 280, 101 if x86 else 117):\n  ctypes.set_errno(0)\n  libc.syscall(ctypes.c_long(nr), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0), ctypes.c_long(0))\n  print(ctypes.get_errno(), flush=True)";
    assert_eq!(ran(with(python(calls), Preset::Default)).stdout_lossy(), "1\n0\n");
    let strict = ran(with(python(calls).memory("512m"), Preset::Untrusted));
    assert_eq!(strict.stdout_lossy(), "1\n1\n", "{}", strict.stderr_lossy());
    let deadly = ran(with(python(calls), Preset::Hostile));
    assert_eq!(
        (deadly.stdout_lossy().as_ref(), deadly.status.signal().map(|signal| signal.number())),
        ("1\n", Some(31)),
        "{}",
        deadly.stderr_lossy()
    );
    place.assert_clean();
}

#[test]
fn what_contradicts_a_preset_and_what_it_misses_is_told_before_anything_is_done() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (text, remedy, code) = fails(place.sh("true").preset(Preset::Untrusted));
    assert_eq!(text, "the preset untrusted requires a limit on memory; the preset untrusted requires a limit on time");
    assert!(remedy.is_some_and(|remedy| remedy.contains("--memory 64m")) && code == 125);
    for (builder, why) in [
        (place.sh("true").network(Network::host()), "has no network"),
        (place.sh("true").publish(80), "has no network"),
        (place.sh("true").cap_add("KILL"), "has no capabilities"),
        (place.sh("true").privileged(true), "is anything but privileged"),
        (place.sh("true").seccomp(Seccomp::unconfined()), "has a system call filter"),
        (place.sh("true").pid_namespace("host"), "has all namespaces of its own"),
        (place.sh("true").device("/dev/null"), "has no devices of this host's"),
    ] {
        let (text, ..) = fails(with(builder, Preset::Hostile));
        assert!(text.starts_with(&format!("the preset hostile {why}")), "{text}");
    }
    assert_eq!(place.left_now(), Vec::<String>::new());
    // What it implies can be said otherwise where that trusts no more.
    let out = said(
        with(place.sh("df -k /tmp | awk 'NR>1 {print $2}'; ulimit -n").mount(Mount::tmpfs("/tmp").size("1m")), Preset::Untrusted)
            .rlimit("nofile=99".parse().expect("a limit")),
    );
    assert_eq!(out, "1024\n99\n");
}

#[test]
fn a_container_that_stays_keeps_its_preset() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "grep NoNewPrivs /proc/self/status; echo x 2>/dev/null > /x || echo root";
    let container = crate::support::place::block_on(with(place.sh(line), Preset::Untrusted).create()).expect("it is made");
    for _ in 0..2 {
        crate::support::place::block_on(container.start()).expect("it starts");
        crate::support::place::block_on(container.wait()).expect("it ends");
    }
    let logs = place.engine().logs(container.id()).expect("it has a log");
    let lines =
        logs.collect().expect("it is read").iter().map(|line| String::from_utf8_lossy(&line.bytes).into_owned()).collect::<String>();
    assert_eq!(lines.replace('\n', ""), "NoNewPrivs:\t1rootNoNewPrivs:\t1root");
    crate::support::place::block_on(container.remove()).expect("it goes");
    place.assert_clean();
}
