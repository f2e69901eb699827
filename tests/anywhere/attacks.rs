//! Programs that do harm, in each preset: how they end is told exactly, what they used is near their limit, and nothing of them stays.

use super::presets::with;
use crate::support::place::{Place, ran};
use crate::support::{met, need, needs::Need};
use coracle::{ContainerBuilder, Mount, Output, Preset, Reason, Signal};
use std::time::Duration;

const ALL: [Preset; 4] = [Preset::Trusted, Preset::Default, Preset::Untrusted, Preset::Hostile];

fn limited() -> bool {
    met(Need::Root) || (met(Need::Delegation) && met(Need::CgroupV2))
}

/// A line of shell in each preset.
fn in_each(place: &Place, line: &str, more: impl Fn(ContainerBuilder) -> ContainerBuilder) -> Vec<(Preset, Output)> {
    ALL.into_iter().map(|preset| (preset, ran(more(with(place.sh(line), preset))))).collect()
}

#[test]
fn a_fork_bomb_meets_its_limit_and_is_gone() {
    need!(Busybox, UserNamespaces);
    if !limited() {
        return; // Without a limit a fork bomb is the machine's.
    }
    let place = Place::new();
    for init in [true, false] {
        let bomb = "b() { b | b & }; b 2>/dev/null; while :; do :; done";
        for (preset, out) in in_each(&place, bomb, |builder| builder.pids(32).init(init).wall(Duration::from_secs(3))) {
            // The shell gives up when it can't fork; which of both comes first is the scheduler's.
            assert!(matches!(out.status.reason(), Reason::Pids | Reason::WallClock | Reason::Code(2)), "{}: {}", preset.name(), out.status);
            assert!(out.usage.pids_peak.is_none_or(|peak| peak <= 32), "{}: {:?}", preset.name(), out.usage);
        }
    }
    place.assert_clean();
}

#[test]
fn a_memory_bomb_is_told_from_a_kill_and_its_peak_is_the_limit() {
    need!(Busybox, UserNamespaces);
    if !limited() {
        return;
    }
    let place = Place::new();
    let limit = 32u64 << 20;
    let eats = "awk 'BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }'";
    // In the command itself, and in a tmpfs.
    for (line, least) in
        [(format!("exec {eats}"), limit / 100 * 95), ("exec dd if=/dev/zero of=/tmp/x bs=64k".to_owned(), limit / 100 * 95)]
    {
        for preset in ALL {
            let tmp = Mount::tmpfs("/tmp").size("256m");
            let out = ran(with(place.sh(&line), preset).memory(limit).swap(0u64).mount(tmp).wall(Duration::from_secs(120)));
            assert_eq!(out.status.reason(), Reason::OutOfMemory, "{}, {line}: {}", preset.name(), out.stderr_lossy());
            let peak = out.usage.memory_peak.unwrap_or(limit);
            assert!(peak <= limit && peak >= least, "{}, {line}: {peak} of {limit}", preset.name());
        }
    }
    // In a child: the command lives on and says itself how it ends.
    for preset in ALL {
        let out = ran(with(place.sh(&format!("{eats}; echo $?; exit 7")), preset).memory(limit).swap(0u64).wall(Duration::from_secs(120)));
        assert_eq!((out.status.reason(), out.stdout_lossy().as_ref()), (Reason::Code(7), "137\n"), "{}", preset.name());
    }
    // A plain SIGKILL is none.
    for (preset, out) in in_each(&place, "kill -KILL $$", |builder| builder) {
        assert_eq!(out.status.reason(), Reason::Signal(Signal::KILL), "{}", preset.name());
    }
    for (preset, out) in in_each(&place, "exit 137", |builder| builder) {
        assert_eq!(out.status.reason(), Reason::Code(137), "{}", preset.name());
    }
    place.assert_clean();
}

#[test]
fn a_spinner_has_no_more_than_its_processor_time() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    if met(Need::Delegation) {
        let line = "while :; do :; done & while :; do :; done & wait";
        for (preset, out) in in_each(&place, line, |builder| builder.cpu_time(Duration::from_millis(300))) {
            assert_eq!(out.status.reason(), Reason::CpuTime, "{}", preset.name());
            let used = out.usage.cpu_user + out.usage.cpu_system;
            assert!(used >= Duration::from_millis(300), "{}: {used:?}", preset.name());
        }
    }
    for (preset, out) in in_each(&place, "while :; do :; done", |builder| builder.wall(Duration::from_millis(500))) {
        assert_eq!(out.status.reason(), Reason::WallClock, "{}", preset.name());
    }
    place.assert_clean();
}

#[test]
fn a_flood_of_output_ends_at_its_limit() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for (preset, out) in in_each(&place, "yes & yes >&2 & wait", |builder| builder.output_limit(300_000)) {
        assert_eq!((out.status.reason(), out.stdout.len() + out.stderr.len()), (Reason::OutputLimit, 300_000), "{}", preset.name());
    }
    // Hostile has one without a word.
    let out = ran(with(place.sh("yes"), Preset::Hostile));
    assert_eq!((out.status.reason(), out.stdout.len()), (Reason::OutputLimit, 1 << 20));
    place.assert_clean();
}

#[test]
fn a_flood_of_files_fills_what_was_given_and_not_the_disk() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for preset in [Preset::Untrusted, Preset::Hostile] {
        // The root takes nothing; what can be written has a size.
        let line = "for d in / /etc /var /root /home /bin; do echo x 2>/dev/null > $d/x && echo $d; done; \
                    dd if=/dev/zero of=/tmp/x bs=64k 2>/dev/null; wc -c < /tmp/x; rm /tmp/x; truncate -s 1099511627776 /tmp/sparse; stat -c %s /tmp/sparse; \
                    du -k /tmp/sparse | cut -f 1; dd if=/dev/zero of=/dev/shm/x bs=64k 2>/dev/null; wc -c < /dev/shm/x";
        let out = ran(with(place.sh(line), preset).memory("128m").wall(Duration::from_secs(60)));
        let (tmp, shm) = if preset == Preset::Untrusted { (64 << 20, 16 << 20) } else { (16 << 20, 1 << 20) };
        // A hole is no storage, and it goes with the tmpfs.
        assert_eq!(out.stdout_lossy(), format!("{tmp}\n{}\n0\n{shm}\n", 1u64 << 40), "{}: {}", preset.name(), out.stderr_lossy());
    }
    place.assert_clean();
}

#[test]
fn who_opens_all_descriptors_runs_out_of_its_own() {
    need!(DebianRoot, Python3, UserNamespaces);
    let place = Place::empty();
    let script = "import os\nn = 0\ntry:\n  while True:\n    os.open('/dev/null', 0); n += 1\nexcept OSError as e: print(e.errno, n)";
    for (preset, most) in [(Preset::Untrusted, 1024), (Preset::Hostile, 256)] {
        let python = coracle::Container::from_rootfs("/").engine(place.engine()).cmd(["python3", "-c", script]).env("MARK", place.path());
        let out = ran(with(python, preset));
        // Three streams are open, and no descriptor of anybody's beside them.
        assert_eq!(out.stdout_lossy(), format!("24 {}\n", most - 3), "{}: {}", preset.name(), out.stderr_lossy());
    }
    place.assert_clean();
}

#[test]
fn who_hides_from_its_end_is_found() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let hidden = "trap '' TERM INT HUP QUIT; (setsid sh -c 'trap \"\" TERM HUP; (setsid sleep 1000 &) ; sleep 1000' >/dev/null 2>&1 &); \
                  (setsid setsid sleep 1000 >/dev/null 2>&1 &); sleep 0.1; echo done";
    for init in [true, false] {
        for (preset, out) in in_each(&place, hidden, |builder| builder.init(init)) {
            assert_eq!((out.status.reason(), out.stdout_lossy().as_ref()), (Reason::Code(0), "done\n"), "{}", preset.name());
        }
    }
    place.assert_clean();
}

#[test]
fn pid_1_takes_no_signal_from_inside_and_hands_on_those_from_outside() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for (preset, out) in in_each(&place, "kill -9 1; kill -STOP 1; echo alive; kill -9 -1; exit 13", |builder| builder) {
        assert_eq!((out.status.code(), out.stdout_lossy().as_ref()), (Some(13), "alive\n"), "{}: {}", preset.name(), out.status);
    }
    place.assert_clean();
}

#[test]
fn what_leads_out_is_shut_in_every_preset() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let host = ["core_pattern", "modprobe", "hostname"].map(|name| std::fs::read(format!("/proc/sys/kernel/{name}")).unwrap_or_default());
    let lines = [
        // Writes to the kernel's files.
        "echo x > /proc/sys/kernel/core_pattern",
        "echo x > /proc/sys/kernel/modprobe",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /proc/sys/vm/drop_caches",
        "echo x > /sys/kernel/uevent_helper",
        "echo 0 > /sys/kernel/mm/transparent_hugepage/enabled",
        "echo -1000 > /proc/1/oom_score_adj",
        // Mounts and namespaces.
        "mount -t tmpfs none /mnt",
        "mount -o remount,rw /proc/sys",
        "mount -o remount,rw /sys",
        "umount /proc/keys || umount /proc/kcore || umount /proc/timer_list",
        "umount -l /proc",
        "unshare -U true",
        "unshare -m true",
        "chroot /proc/1/root/.. true && false",
        "pivot_root / /tmp",
        // Devices.
        "mknod /tmp/d c 1 1 && head -c 1 /tmp/d",
        "mknod /dev/d b 8 0 && head -c 1 /dev/d",
        "mknod /dev/shm/d b 254 0 && head -c 1 /dev/shm/d",
        "cat /proc/kcore | head -c 1 | grep -q .",
        // The program that starts containers.
        "echo x > /proc/1/exe",
        "echo x >> /proc/self/exe",
        // Other processes.
        "kill -0 $(( $$ + 100000 ))",
        "reboot -f",
        "swapoff -a; swapon /tmp/x",
        "insmod /tmp/x",
        "dmesg -c | grep -q . && dmesg -n 1",
        "hostname other",
    ];
    // One container a preset: what works in it says so.
    let script: String = lines.iter().map(|line| format!("( {line} ) >/dev/null 2>&1 && echo '{}'\n", line.replace('\'', ""))).collect();
    for (preset, out) in in_each(&place, &(script + "true"), |builder| builder) {
        // Without a filter a user namespace is anybody's.
        let open = if preset == Preset::Trusted { "unshare -U true\n" } else { "" };
        assert_eq!(out.stdout_lossy(), open, "{}", preset.name());
        assert!(out.status.success(), "{}: {}", preset.name(), out.status);
    }
    let after = ["core_pattern", "modprobe", "hostname"].map(|name| std::fs::read(format!("/proc/sys/kernel/{name}")).unwrap_or_default());
    assert_eq!(host, after);
    place.assert_clean();
}

/// The calls by which kernels were broken out of, by number and in each ABI of the machine: CVE-2022-0185 (fsopen, fsconfig), CVE-2022-0847 and
/// CVE-2023-0386 (what user namespaces opened), CVE-2021-3493, keyrings, bpf, userfaultfd, io_uring, AF_ALG (CVE-2026-31431), AF_VSOCK.
#[test]
fn cve_2022_0185_and_kin_calls_that_broke_kernels_are_refused() {
    need!(DebianRoot, Python3, UserNamespaces);
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let place = Place::empty();
    let script = r#"
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def call(name, nr, *args):
    ctypes.set_errno(0)
    pid = os.fork()
    if pid == 0:
        r = libc.syscall(ctypes.c_long(nr), *[ctypes.c_ulong(a) for a in args])
        os._exit(0 if r >= 0 else ctypes.get_errno() & 255)
    status = os.waitpid(pid, 0)[1]
    answer = 'killed' if os.WIFSIGNALED(status) else errno.errorcode.get(os.WEXITSTATUS(status), 'allowed')
    print(name, answer)
NEWUSER = 0x10000000
for x32 in (0, 0x40000000):
    for name, nr, args in [
        ('mount', 165, (0, 0, 0, 0, 0)), ('umount2', 166, (0, 0)), ('unshare', 272, (NEWUSER,)), ('setns', 308, (0, 0)),
        ('clone', 56, (NEWUSER | 17, 0, 0, 0, 0)), ('fsopen', 430, (0, 0)), ('fsconfig', 431, (0, 0, 0, 0, 0)), ('fsmount', 432, (0, 0, 0)),
        ('open_tree', 428, (0, 0, 1)), ('move_mount', 429, (0, 0, 0, 0, 0)), ('mount_setattr', 442, (0, 0, 0, 0, 0)),
        ('bpf', 321, (0, 0, 0)), ('keyctl', 250, (0, 0, 0)), ('add_key', 248, (0, 0, 0, 0, 0)), ('request_key', 249, (0, 0, 0, 0)),
        ('userfaultfd', 323, (0,)), ('io_uring_setup', 425, (1, 0)), ('perf_event_open', 298, (0, 0, 0, 0, 0)), ('kexec_load', 246, (0, 0, 0, 0)),
        ('init_module', 175, (0, 0, 0)), ('finit_module', 313, (0, 0, 0)), ('pivot_root', 155, (0, 0)), ('swapon', 167, (0, 0)),
        ('open_by_handle_at', 304, (0, 0, 0)), ('acct', 163, (0,)), ('quotactl', 179, (0, 0, 0, 0)), ('syslog', 103, (0, 0, 0)),
    ]:
        call(name, nr | x32, *args)
    for name, family in [('AF_ALG', 38), ('AF_VSOCK', 40), ('AF_VSOCK with a bit above', 40 | 1 << 32)]:
        call(name, 41 | x32, family, 5, 0)
print('clone3', end=' '); call('', 435, 0, 0)
"#;
    for preset in [Preset::Default, Preset::Untrusted, Preset::Hostile] {
        let python = coracle::Container::from_rootfs("/").engine(place.engine()).cmd(["python3", "-c", script]).env("MARK", place.path());
        let out = ran(with(python, preset).memory("512m").pids(64));
        let said = out.stdout_lossy();
        assert_eq!(said.lines().count(), 61, "{}: {said}{}", preset.name(), out.stderr_lossy());
        for line in said.lines() {
            let answer = line.rsplit(' ').next().unwrap_or_default();
            // x32 may be no ABI of this kernel's.
            assert!(matches!(answer, "EPERM" | "ENOSYS" | "killed"), "{}: {line}", preset.name());
        }
        assert!(said.contains("clone3  ENOSYS"), "{}: {said}", preset.name());
    }
    place.assert_clean();
}
