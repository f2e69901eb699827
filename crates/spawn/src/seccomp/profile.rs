//! Docker's default profile as a table: which calls a container may make, and why.
//!
//! The content is that of moby 28's `profiles/seccomp/default.json` with the later changes of `moby/profiles` (sockets by an
//! allow list of families), for x86_64 and aarch64. What isn't named here is refused with EPERM: the kernel keyring and
//! other things without a namespace (`keyctl`, `add_key`, `request_key`), the ways that privilege escalations of the
//! last years took (`userfaultfd`, `io_uring_*`, `bpf`, `fsopen`), `kexec_load`, `swapon`, `pivot_root`, `vm86`, and what no
//! program has called for twenty years (`sysfs`, `ustat`, `uselib`, `_sysctl`).

use super::{Action, ArgCond, FilterBuilder, Op};

pub(super) const EPERM: u16 = 1;
pub(super) const ENOSYS: u16 = 38;

// Numbers of linux/capability.h.
const CAP_DAC_READ_SEARCH: u64 = 1 << 2;
const CAP_SYS_MODULE: u64 = 1 << 16;
const CAP_SYS_RAWIO: u64 = 1 << 17;
const CAP_SYS_CHROOT: u64 = 1 << 18;
const CAP_SYS_PTRACE: u64 = 1 << 19;
const CAP_SYS_PACCT: u64 = 1 << 20;
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAP_SYS_BOOT: u64 = 1 << 22;
const CAP_SYS_NICE: u64 = 1 << 23;
const CAP_SYS_TIME: u64 = 1 << 25;
const CAP_SYS_TTY_CONFIG: u64 = 1 << 26;
const CAP_SYSLOG: u64 = 1 << 34;
const CAP_PERFMON: u64 = 1 << 38;
const CAP_BPF: u64 = 1 << 39;

/// The capabilities that change the profile.
pub(super) const CAPABILITIES_THAT_MATTER: u64 = {
    let mut all = 0;
    let mut i = 0;
    while i < PROFILE.len() {
        if let When::AnyOf(capabilities) | When::Lacks(capabilities) = PROFILE[i].0 {
            all |= capabilities;
        }
        i += 1;
    }
    all
};

/// CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET of linux/sched.h. The kernel takes clone's flags from the
/// lower half of the register. CLONE_NEWTIME lies among the bits of the exit signal, and only clone3 and unshare know it.
const NAMESPACES: u64 = 0x7e02_0000;

/// When an entry of the profile holds.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    Always,
    /// The container has one of these capabilities.
    AnyOf(u64),
    /// The container has none of these capabilities.
    Lacks(u64),
}

/// The answer to the calls of an entry.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Answer(Action),
    /// Refused with EPERM where one of the conditions holds, else allowed.
    AllowUnless(&'static [ArgCond]),
    /// Allowed where one of the conditions holds, else refused with EPERM.
    AllowOnly(&'static [ArgCond]),
}

const ALLOW: Then = Then::Answer(Action::Allow);

/// One entry: when it holds, the answer, the calls. No call is named by two entries that give different answers at once.
pub(super) type Entry = (When, Then, &'static [&'static str]);

#[rustfmt::skip]
pub(super) const PROFILE: &[Entry] = &[
    // Files by path. Permissions, mounts and the root decide here; mknod makes only what the device cgroup lets be opened.
    (When::Always, ALLOW, &[
        "access", "faccessat", "faccessat2", "open", "openat", "openat2", "creat", "close", "close_range",
        "link", "linkat", "symlink", "symlinkat", "unlink", "unlinkat", "rename", "renameat", "renameat2",
        "mkdir", "mkdirat", "rmdir", "mknod", "mknodat", "readlink", "readlinkat", "getcwd", "chdir", "fchdir", "umask",
        "stat", "stat64", "lstat", "lstat64", "fstat", "fstat64", "fstatat64", "newfstatat", "statx",
        "statfs", "statfs64", "fstatfs", "fstatfs64", "statmount", "listmount", "name_to_handle_at",
        "chmod", "fchmod", "fchmodat", "fchmodat2",
        "chown", "chown32", "fchown", "fchown32", "fchownat", "lchown", "lchown32",
        "truncate", "truncate64", "ftruncate", "ftruncate64", "fallocate",
        "utime", "utimes", "utimensat", "utimensat_time64", "futimesat",
        "getxattr", "lgetxattr", "fgetxattr", "getxattrat", "setxattr", "lsetxattr", "fsetxattr", "setxattrat",
        "listxattr", "llistxattr", "flistxattr", "listxattrat",
        "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
        "inotify_init", "inotify_init1", "inotify_add_watch", "inotify_rm_watch", "fanotify_mark",
    ]),
    // Files by descriptor.
    (When::Always, ALLOW, &[
        "read", "readv", "pread64", "preadv", "preadv2", "write", "writev", "pwrite64", "pwritev", "pwritev2",
        "lseek", "_llseek", "getdents", "getdents64", "dup", "dup2", "dup3", "fcntl", "fcntl64", "flock", "ioctl",
        "sendfile", "sendfile64", "splice", "tee", "vmsplice", "copy_file_range", "readahead", "cachestat",
        "fadvise64", "fadvise64_64", "sync", "syncfs", "fsync", "fdatasync", "sync_file_range",
        "pipe", "pipe2", "eventfd", "eventfd2", "signalfd", "signalfd4", "memfd_create", "memfd_secret",
        "io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents", "io_pgetevents_time64",
    ]),
    // Waiting for descriptors.
    (When::Always, ALLOW, &[
        "select", "_newselect", "pselect6", "pselect6_time64", "poll", "ppoll", "ppoll_time64",
        "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old",
        "epoll_wait", "epoll_wait_old", "epoll_pwait", "epoll_pwait2",
    ]),
    // Memory of the process itself.
    (When::Always, ALLOW, &[
        "brk", "mmap", "mmap2", "munmap", "mremap", "mprotect", "madvise", "mincore", "msync", "remap_file_pages", "mseal",
        "mlock", "mlock2", "mlockall", "munlock", "munlockall", "membarrier", "map_shadow_stack",
        "pkey_alloc", "pkey_free", "pkey_mprotect",
    ]),
    // Processes and threads: start, name, wait, end.
    (When::Always, ALLOW, &[
        "fork", "vfork", "execve", "execveat", "exit", "exit_group", "wait4", "waitid", "waitpid",
        "getpid", "getppid", "gettid", "getpgid", "getpgrp", "setpgid", "getsid", "setsid",
        "pidfd_open", "pidfd_send_signal", "process_mrelease",
        "set_tid_address", "set_robust_list", "get_robust_list", "rseq", "get_thread_area", "set_thread_area", "prctl",
        "futex", "futex_time64", "futex_waitv", "futex_wait", "futex_wake", "futex_requeue",
        "getcpu", "getrusage", "times", "sysinfo", "uname", "getrandom", "restart_syscall", "uretprobe",
    ]),
    // Credentials and limits. The kernel checks the capabilities; a filter of one's own and Landlock only take away.
    (When::Always, ALLOW, &[
        "getuid", "getuid32", "geteuid", "geteuid32", "getgid", "getgid32", "getegid", "getegid32",
        "getresuid", "getresuid32", "getresgid", "getresgid32", "getgroups", "getgroups32",
        "setuid", "setuid32", "setgid", "setgid32", "setreuid", "setreuid32", "setregid", "setregid32",
        "setresuid", "setresuid32", "setresgid", "setresgid32", "setgroups", "setgroups32",
        "setfsuid", "setfsuid32", "setfsgid", "setfsgid32", "capget", "capset",
        "getrlimit", "ugetrlimit", "setrlimit", "prlimit64",
        "seccomp", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self",
    ]),
    // Scheduling.
    (When::Always, ALLOW, &[
        "sched_yield", "sched_getaffinity", "sched_setaffinity", "sched_getattr", "sched_setattr",
        "sched_getparam", "sched_setparam", "sched_getscheduler", "sched_setscheduler",
        "sched_get_priority_max", "sched_get_priority_min", "sched_rr_get_interval", "sched_rr_get_interval_time64",
        "getpriority", "setpriority", "ioprio_get", "ioprio_set",
    ]),
    // Signals.
    (When::Always, ALLOW, &[
        "kill", "tkill", "tgkill", "pause", "sigaltstack", "sigreturn", "sigprocmask",
        "rt_sigaction", "rt_sigprocmask", "rt_sigpending", "rt_sigsuspend", "rt_sigreturn",
        "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_sigqueueinfo", "rt_tgsigqueueinfo",
    ]),
    // Clocks and timers. adjtimex and clock_adjtime also read; to set with them the kernel wants CAP_SYS_TIME.
    (When::Always, ALLOW, &[
        "time", "gettimeofday", "clock_gettime", "clock_gettime64", "clock_getres", "clock_getres_time64",
        "clock_nanosleep", "clock_nanosleep_time64", "nanosleep", "adjtimex", "clock_adjtime", "clock_adjtime64",
        "alarm", "getitimer", "setitimer", "timer_create", "timer_delete", "timer_getoverrun",
        "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
        "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime", "timerfd_settime64",
    ]),
    // System V and POSIX IPC: the ipc namespace holds them.
    (When::Always, ALLOW, &[
        "ipc", "msgctl", "msgget", "msgrcv", "msgsnd", "semctl", "semget", "semop", "semtimedop", "semtimedop_time64",
        "shmat", "shmctl", "shmdt", "shmget", "mq_open", "mq_unlink", "mq_notify", "mq_getsetattr",
        "mq_timedreceive", "mq_timedreceive_time64", "mq_timedsend", "mq_timedsend_time64",
    ]),
    // Sockets: the network namespace holds them. socketcall (i386, arm) hides its arguments in memory; see the module.
    (When::Always, ALLOW, &[
        "accept", "accept4", "bind", "connect", "listen", "shutdown", "socketcall", "socketpair",
        "getpeername", "getsockname", "getsockopt", "setsockopt",
        "recv", "recvfrom", "recvmsg", "recvmmsg", "recvmmsg_time64", "send", "sendto", "sendmsg", "sendmmsg",
    ]),
    // Families that the kernel has removed (DECnet, Econet, ATM SVC, IrDA, Wanpipe, ISDN, CAIF) and that it doesn't have
    // yet; ALG, the kernel's cryptography, which programs have in user space, and which made page-cache writes possible;
    // VSOCK, which has no namespace and reaches the hypervisor.
    (When::Always, Then::AllowUnless(&[
        ArgCond::int(0, Op::Eq, 12), ArgCond::int(0, Op::Eq, 19), ArgCond::int(0, Op::Eq, 20),
        ArgCond::int(0, Op::Eq, 23), ArgCond::int(0, Op::Eq, 25), ArgCond::int(0, Op::Eq, 34),
        ArgCond::int(0, Op::Eq, 37), ArgCond::int(0, Op::Eq, 38), ArgCond::int(0, Op::Eq, 40),
        ArgCond::int(0, Op::Ge, 46),
    ]), &["socket"]),
    // Tracing within the container: safe since Linux 4.8, which runs the filter after the tracer has changed the call.
    (When::Always, ALLOW, &["ptrace", "process_vm_readv", "process_vm_writev"]),
    // PER_LINUX, PER_LINUX32, both with UNAME26, and the question which it is. Others weaken the address space's randomness.
    (When::Always, Then::AllowOnly(&[
        ArgCond::int(0, Op::Eq, 0x0), ArgCond::int(0, Op::Eq, 0x8), ArgCond::int(0, Op::Eq, 0x20000),
        ArgCond::int(0, Op::Eq, 0x20008), ArgCond::int(0, Op::Eq, 0xffff_ffff),
    ]), &["personality"]),
    // Those of one machine only; the others have no number for them.
    (When::Always, ALLOW, &[
        "arch_prctl", "modify_ldt",
        "arm_fadvise64_64", "arm_sync_file_range", "sync_file_range2", "breakpoint", "cacheflush", "set_tls",
    ]),

    // clone without CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}: a new user namespace has all capabilities over new kernel code.
    (When::Lacks(CAP_SYS_ADMIN), Then::AllowOnly(&[ArgCond::int(0, Op::MaskedEq(NAMESPACES), 0)]), &["clone"]),
    // clone3 keeps its flags in memory. ENOSYS makes C libraries fall back to clone.
    (When::Lacks(CAP_SYS_ADMIN), Then::Answer(Action::Errno(ENOSYS)), &["clone3"]),
    // Newer than the profile and without danger (they are ioctls that it allows): programs fall back to those.
    (When::Always, Then::Answer(Action::Errno(ENOSYS)), &["file_getattr", "file_setattr"]),

    // Namespaces, mounts, and what else the kernel checks by CAP_SYS_ADMIN.
    (When::AnyOf(CAP_SYS_ADMIN), ALLOW, &[
        "clone", "clone3", "unshare", "setns", "mount", "umount", "umount2", "mount_setattr", "move_mount",
        "open_tree", "open_tree_attr", "fsopen", "fsconfig", "fsmount", "fspick", "sethostname", "setdomainname",
        "fanotify_init", "lookup_dcookie", "quotactl", "quotactl_fd",
        "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr",
    ]),
    (When::AnyOf(CAP_SYS_ADMIN | CAP_BPF), ALLOW, &["bpf"]),
    (When::AnyOf(CAP_SYS_ADMIN | CAP_PERFMON), ALLOW, &["perf_event_open"]),
    (When::AnyOf(CAP_SYS_ADMIN | CAP_SYSLOG), ALLOW, &["syslog"]),
    // Opens any file of a file system by its number: the Shocker escape.
    (When::AnyOf(CAP_DAC_READ_SEARCH), ALLOW, &["open_by_handle_at"]),
    (When::AnyOf(CAP_SYS_BOOT), ALLOW, &["reboot"]),
    (When::AnyOf(CAP_SYS_CHROOT), ALLOW, &["chroot"]),
    (When::AnyOf(CAP_SYS_MODULE), ALLOW, &["init_module", "finit_module", "delete_module"]),
    (When::AnyOf(CAP_SYS_PACCT), ALLOW, &["acct"]),
    (When::AnyOf(CAP_SYS_PTRACE), ALLOW, &["kcmp", "pidfd_getfd", "process_madvise"]),
    (When::AnyOf(CAP_SYS_RAWIO), ALLOW, &["iopl", "ioperm"]),
    (When::AnyOf(CAP_SYS_TIME), ALLOW, &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    (When::AnyOf(CAP_SYS_TTY_CONFIG), ALLOW, &["vhangup"]),
    (When::AnyOf(CAP_SYS_NICE), ALLOW, &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
];

/// Whether an entry holds.
pub(super) fn holds(when: When, capabilities: u64) -> bool {
    match when {
        When::Always => true,
        When::AnyOf(any) => capabilities & any != 0,
        When::Lacks(none) => capabilities & none == 0,
    }
}

/// Describes the profile.
pub(super) fn builder(capabilities: u64) -> FilterBuilder {
    let refused = Action::Errno(EPERM);
    let mut builder = FilterBuilder::new(refused);
    for (when, then, names) in PROFILE {
        if !holds(*when, capabilities) {
            continue;
        }
        for name in *names {
            builder = match then {
                Then::Answer(action) => builder.rule(name, *action),
                Then::AllowUnless(any) => any.iter().fold(builder, |b, c| b.rule_if(name, &[*c], refused)).rule(name, Action::Allow),
                Then::AllowOnly(any) => any.iter().fold(builder, |b, c| b.rule_if(name, &[*c], Action::Allow)),
            };
        }
    }
    builder
}
