//! System calls of x86-64: numbers, the instruction, the first instruction of the program, and what the compiler expects of a libc.

use core::arch::{asm, global_asm};

pub(super) mod number {
    //! From arch/x86/entry/syscalls/syscall_64.tbl.
    pub(in super::super) const READ: usize = 0;
    pub(in super::super) const WRITE: usize = 1;
    pub(in super::super) const CLOSE: usize = 3;
    pub(in super::super) const MMAP: usize = 9;
    pub(in super::super) const MADVISE: usize = 28;
    pub(in super::super) const MUNMAP: usize = 11;
    pub(in super::super) const RT_SIGACTION: usize = 13;
    pub(in super::super) const RT_SIGPROCMASK: usize = 14;
    pub(in super::super) const IOCTL: usize = 16;
    pub(in super::super) const PREAD64: usize = 17;
    pub(in super::super) const PWRITE64: usize = 18;
    pub(in super::super) const GETPID: usize = 39;
    pub(in super::super) const SOCKET: usize = 41;
    pub(in super::super) const CONNECT: usize = 42;
    pub(in super::super) const RECVFROM: usize = 45;
    pub(in super::super) const SHUTDOWN: usize = 48;
    pub(in super::super) const SETSOCKOPT: usize = 54;
    pub(in super::super) const SPLICE: usize = 275;
    pub(in super::super) const SENDTO: usize = 44;
    pub(in super::super) const SENDMSG: usize = 46;
    pub(in super::super) const RECVMSG: usize = 47;
    pub(in super::super) const BIND: usize = 49;
    pub(in super::super) const LISTEN: usize = 50;
    pub(in super::super) const GETRANDOM: usize = 318;
    pub(in super::super) const SOCKETPAIR: usize = 53;
    pub(in super::super) const GETSOCKOPT: usize = 55;
    pub(in super::super) const CLONE: usize = 56;
    pub(in super::super) const EXECVE: usize = 59;
    pub(in super::super) const WAIT4: usize = 61;
    pub(in super::super) const FLOCK: usize = 73;
    pub(in super::super) const FCNTL: usize = 72;
    pub(in super::super) const GETCWD: usize = 79;
    pub(in super::super) const CHDIR: usize = 80;
    pub(in super::super) const FCHDIR: usize = 81;
    pub(in super::super) const UMASK: usize = 95;
    pub(in super::super) const GETUID: usize = 102;
    pub(in super::super) const SETSID: usize = 112;
    pub(in super::super) const SETGROUPS: usize = 116;
    pub(in super::super) const SETRESUID: usize = 117;
    pub(in super::super) const SETRESGID: usize = 119;
    pub(in super::super) const CAPSET: usize = 126;
    pub(in super::super) const PIVOT_ROOT: usize = 155;
    pub(in super::super) const PRCTL: usize = 157;
    pub(in super::super) const MOUNT: usize = 165;
    pub(in super::super) const UMOUNT2: usize = 166;
    pub(in super::super) const SETHOSTNAME: usize = 170;
    pub(in super::super) const GETXATTR: usize = 191;
    pub(in super::super) const GETDENTS64: usize = 217;
    pub(in super::super) const CLOCK_GETTIME: usize = 228;
    pub(in super::super) const EXIT_GROUP: usize = 231;
    pub(in super::super) const WAITID: usize = 247;
    pub(in super::super) const MKDIRAT: usize = 258;
    pub(in super::super) const FCHOWNAT: usize = 260;
    pub(in super::super) const NEWFSTATAT: usize = 262;
    pub(in super::super) const UNLINKAT: usize = 263;
    pub(in super::super) const LINKAT: usize = 265;
    pub(in super::super) const SYMLINKAT: usize = 266;
    pub(in super::super) const READLINKAT: usize = 267;
    pub(in super::super) const PPOLL: usize = 271;
    pub(in super::super) const UNSHARE: usize = 272;
    pub(in super::super) const UTIMENSAT: usize = 280;
    pub(in super::super) const SETNS: usize = 308;
    pub(in super::super) const ACCEPT4: usize = 288;
    pub(in super::super) const SIGNALFD4: usize = 289;
    pub(in super::super) const DUP3: usize = 292;
    pub(in super::super) const PIPE2: usize = 293;
    pub(in super::super) const PRLIMIT64: usize = 302;
    pub(in super::super) const RENAMEAT2: usize = 316;
    pub(in super::super) const SECCOMP: usize = 317;
    pub(in super::super) const BPF: usize = 321;
    pub(in super::super) const CHROOT: usize = 161;
    pub(in super::super) const STATX: usize = 332;
}

/// One system call.
///
/// # Safety
/// Whatever the kernel reads and writes through the arguments must be valid for it.
pub(super) unsafe fn system_call(n: usize, a: [usize; 6]) -> isize {
    let result;
    // SAFETY: the kernel keeps every register but rax, rcx and r11; the caller answers for the memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") n as isize => result,
            in("rdi") a[0], in("rsi") a[1], in("rdx") a[2], in("r10") a[3], in("r8") a[4], in("r9") a[5],
            lateout("rcx") _, lateout("r11") _,
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
    // SAFETY: the child starts on the new stack with every register but rax, rcx, r11 and rsp as they were, calls entry, and
    // never comes back; the parent goes on behind the block as after any system call.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r13",
            "call r12",
            "ud2",
            "2:",
            inlateout("rax") number::CLONE as isize => result,
            in("rdi") flags, in("rsi") stack, in("rdx") pidfd, in("r10") 0usize, in("r8") 0usize,
            in("r12") entry, in("r13") argument,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym crate::main,
);

// What the compiler calls for moves and fills; a freestanding program brings its own. The string instructions are fast on
// every processor with ERMS, and the compiler can't turn them back into a call of themselves.
global_asm!(
    ".globl memcpy",
    "memcpy:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "rep movsb",
    "ret",
    ".globl memmove",
    "memmove:",
    "mov rax, rdi",
    "mov rcx, rdx",
    "mov r8, rdi",
    "sub r8, rsi",
    "cmp r8, rdx",
    "jb 1f",
    "rep movsb",
    "ret",
    "1:",
    "lea rdi, [rdi + rdx - 1]",
    "lea rsi, [rsi + rdx - 1]",
    "std",
    "rep movsb",
    "cld",
    "ret",
    ".globl memset",
    "memset:",
    "mov r8, rdi",
    "mov eax, esi",
    "mov rcx, rdx",
    "rep stosb",
    "mov rax, r8",
    "ret",
    ".globl memcmp",
    ".globl bcmp",
    "memcmp:",
    "bcmp:",
    "xor ecx, ecx",
    "2:",
    "cmp rcx, rdx",
    "je 3f",
    "movzx eax, byte ptr [rdi + rcx]",
    "movzx r8d, byte ptr [rsi + rcx]",
    "inc rcx",
    "sub eax, r8d",
    "je 2b",
    "ret",
    "3:",
    "xor eax, eax",
    "ret",
    ".globl strlen",
    "strlen:",
    "xor eax, eax",
    "4:",
    "cmp byte ptr [rdi + rax], 0",
    "je 5f",
    "inc rax",
    "jmp 4b",
    "5:",
    "ret",
);
