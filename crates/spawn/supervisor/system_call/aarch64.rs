//! System calls of aarch64: numbers, the instruction, the first instruction of the program, and what the compiler expects of a libc.

use core::arch::{asm, global_asm};

pub(super) mod number {
    //! From include/uapi/asm-generic/unistd.h.
    pub(in super::super) const DUP3: usize = 24;
    pub(in super::super) const FLOCK: usize = 32;
    pub(in super::super) const GETXATTR: usize = 8;
    pub(in super::super) const FCNTL: usize = 25;
    pub(in super::super) const IOCTL: usize = 29;
    pub(in super::super) const MKDIRAT: usize = 34;
    pub(in super::super) const UNLINKAT: usize = 35;
    pub(in super::super) const SYMLINKAT: usize = 36;
    pub(in super::super) const LINKAT: usize = 37;
    pub(in super::super) const READLINKAT: usize = 78;
    pub(in super::super) const UMOUNT2: usize = 39;
    pub(in super::super) const MOUNT: usize = 40;
    pub(in super::super) const PIVOT_ROOT: usize = 41;
    pub(in super::super) const CHDIR: usize = 49;
    pub(in super::super) const FCHDIR: usize = 50;
    pub(in super::super) const FCHOWNAT: usize = 54;
    pub(in super::super) const CLOSE: usize = 57;
    pub(in super::super) const PIPE2: usize = 59;
    pub(in super::super) const GETDENTS64: usize = 61;
    pub(in super::super) const READ: usize = 63;
    pub(in super::super) const WRITE: usize = 64;
    pub(in super::super) const PREAD64: usize = 67;
    pub(in super::super) const PWRITE64: usize = 68;
    pub(in super::super) const PPOLL: usize = 73;
    pub(in super::super) const SIGNALFD4: usize = 74;
    pub(in super::super) const SPLICE: usize = 76;
    pub(in super::super) const NEWFSTATAT: usize = 79;
    pub(in super::super) const UTIMENSAT: usize = 88;
    pub(in super::super) const CAPSET: usize = 91;
    pub(in super::super) const EXIT_GROUP: usize = 94;
    pub(in super::super) const WAITID: usize = 95;
    pub(in super::super) const UNSHARE: usize = 97;
    pub(in super::super) const SETNS: usize = 268;
    pub(in super::super) const CLOCK_GETTIME: usize = 113;
    pub(in super::super) const RT_SIGACTION: usize = 134;
    pub(in super::super) const RT_SIGPROCMASK: usize = 135;
    pub(in super::super) const SETRESUID: usize = 147;
    pub(in super::super) const SETRESGID: usize = 149;
    pub(in super::super) const SETSID: usize = 157;
    pub(in super::super) const SETGROUPS: usize = 159;
    pub(in super::super) const SETHOSTNAME: usize = 161;
    pub(in super::super) const UMASK: usize = 166;
    pub(in super::super) const PRCTL: usize = 167;
    pub(in super::super) const GETPID: usize = 172;
    pub(in super::super) const GETUID: usize = 174;
    pub(in super::super) const GETCWD: usize = 17;
    pub(in super::super) const SOCKET: usize = 198;
    pub(in super::super) const SOCKETPAIR: usize = 199;
    pub(in super::super) const BIND: usize = 200;
    pub(in super::super) const LISTEN: usize = 201;
    pub(in super::super) const GETRANDOM: usize = 278;
    pub(in super::super) const CONNECT: usize = 203;
    pub(in super::super) const RECVFROM: usize = 207;
    pub(in super::super) const SHUTDOWN: usize = 210;
    pub(in super::super) const SETSOCKOPT: usize = 208;
    pub(in super::super) const SENDTO: usize = 206;
    pub(in super::super) const GETSOCKOPT: usize = 209;
    pub(in super::super) const SENDMSG: usize = 211;
    pub(in super::super) const RECVMSG: usize = 212;
    pub(in super::super) const MUNMAP: usize = 215;
    pub(in super::super) const CLONE: usize = 220;
    pub(in super::super) const EXECVE: usize = 221;
    pub(in super::super) const MMAP: usize = 222;
    pub(in super::super) const MADVISE: usize = 233;
    pub(in super::super) const ACCEPT4: usize = 242;
    pub(in super::super) const WAIT4: usize = 260;
    pub(in super::super) const PRLIMIT64: usize = 261;
    pub(in super::super) const RENAMEAT2: usize = 276;
    pub(in super::super) const SECCOMP: usize = 277;
    pub(in super::super) const BPF: usize = 280;
    pub(in super::super) const CHROOT: usize = 51;
    pub(in super::super) const STATX: usize = 291;
}

/// One system call.
///
/// # Safety
/// Whatever the kernel reads and writes through the arguments must be valid for it.
pub(super) unsafe fn system_call(n: usize, a: [usize; 6]) -> isize {
    let result;
    // SAFETY: the kernel keeps every register but x0; the caller answers for the memory.
    unsafe {
        asm!(
            "svc 0",
            in("x8") n,
            inlateout("x0") a[0] => result,
            in("x1") a[1], in("x2") a[2], in("x3") a[3], in("x4") a[4], in("x5") a[5],
            options(nostack)
        );
    }
    result
}

/// clone(2) of a child that runs `entry(argument)` on a stack of its own and never returns from it.
///
/// # Safety
/// `stack` is the top of a stack nobody else uses until the child has executed a program or ended; `entry` never returns.
pub(super) unsafe fn clone_onto(flags: usize, stack: *mut u8, pidfd: *mut i32, entry: extern "C" fn(usize) -> !, argument: usize) -> isize {
    let result;
    // SAFETY: the child starts on the new stack with every register but x0 and sp as they were, calls entry, and never comes
    // back; the parent goes on behind the block as after any system call.
    unsafe {
        asm!(
            "svc 0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, {argument}",
            "blr {entry}",
            "brk #1",
            "2:",
            in("x8") number::CLONE,
            inlateout("x0") flags => result,
            in("x1") stack, in("x2") pidfd, in("x3") 0usize, in("x4") 0usize,
            entry = in(reg) entry, argument = in(reg) argument,
            lateout("x30") _,
        );
    }
    result
}

global_asm!(
    ".globl _start",
    "_start:",
    "mov x29, xzr",
    "mov x0, sp",
    "and sp, x0, #0xfffffffffffffff0",
    "bl {main}",
    "brk #1",
    main = sym crate::main,
);

// What the compiler calls for moves and fills; a freestanding program brings its own.
global_asm!(
    ".globl memcpy",
    "memcpy:",
    "mov x3, x0",
    "1:",
    "cbz x2, 2f",
    "ldrb w4, [x1], #1",
    "strb w4, [x3], #1",
    "sub x2, x2, #1",
    "b 1b",
    "2:",
    "ret",
    ".globl memmove",
    "memmove:",
    "sub x3, x0, x1",
    "cmp x3, x2",
    "b.hs memcpy",
    "3:",
    "cbz x2, 4f",
    "sub x2, x2, #1",
    "ldrb w4, [x1, x2]",
    "strb w4, [x0, x2]",
    "b 3b",
    "4:",
    "ret",
    ".globl memset",
    "memset:",
    "mov x3, x0",
    "5:",
    "cbz x2, 6f",
    "strb w1, [x3], #1",
    "sub x2, x2, #1",
    "b 5b",
    "6:",
    "ret",
    ".globl memcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "7:",
    "cbz x2, 8f",
    "ldrb w3, [x0], #1",
    "ldrb w4, [x1], #1",
    "sub x2, x2, #1",
    "subs w3, w3, w4",
    "b.eq 7b",
    "mov w0, w3",
    "ret",
    "8:",
    "mov w0, wzr",
    "ret",
    ".globl strlen",
    "strlen:",
    "mov x1, x0",
    "9:",
    "ldrb w2, [x1], #1",
    "cbnz w2, 9b",
    "sub x0, x1, x0",
    "sub x0, x0, #1",
    "ret",
);
