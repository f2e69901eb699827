//! The kernel, as safe functions; the only unsafe code of Coracle.
//!
//! Each function is named as its system call and takes references, so that the kernel only ever reads and writes memory that
//! is lent to it for the length of the call. Descriptors are plain numbers: this program opens few and closes them by hand.

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "aarch64")]
use aarch64 as arch;
#[cfg(target_arch = "x86_64")]
use x86_64 as arch;

use arch::number;
use core::ffi::CStr;

/// Numbers that are the same on every architecture (Linux gives new system calls one number for all).
mod shared {
    pub(super) const PIDFD_SEND_SIGNAL: usize = 424;
    pub(super) const OPEN_TREE: usize = 428;
    pub(super) const MOVE_MOUNT: usize = 429;
    pub(super) const FSOPEN: usize = 430;
    pub(super) const FSCONFIG: usize = 431;
    pub(super) const FSMOUNT: usize = 432;
    pub(super) const PIDFD_OPEN: usize = 434;
    pub(super) const CLONE3: usize = 435;
    pub(super) const CLOSE_RANGE: usize = 436;
    pub(super) const OPENAT2: usize = 437;
    pub(super) const MOUNT_SETATTR: usize = 442;
    pub(super) const QUOTACTL_FD: usize = 443;
    pub(super) const LANDLOCK_CREATE_RULESET: usize = 444;
    pub(super) const LANDLOCK_ADD_RULE: usize = 445;
    pub(super) const LANDLOCK_RESTRICT_SELF: usize = 446;
    pub(super) const FCHMODAT2: usize = 452;
}

/// An error number of the kernel.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const EPERM: Self = Self(1);
    pub const ENOENT: Self = Self(2);
    pub const EINTR: Self = Self(4);
    pub const ENOEXEC: Self = Self(8);
    pub const EAGAIN: Self = Self(11);
    pub const EACCES: Self = Self(13);
    pub const EBUSY: Self = Self(16);
    pub const EEXIST: Self = Self(17);
    pub const ENODEV: Self = Self(19);
    pub const ENOTDIR: Self = Self(20);
    pub const EISDIR: Self = Self(21);
    pub const EINVAL: Self = Self(22);
    pub const ENOSYS: Self = Self(38);
    pub const ENOTEMPTY: Self = Self(39);
    pub const ELOOP: Self = Self(40);
    pub const EPROTO: Self = Self(71);
    pub const EOVERFLOW: Self = Self(75);
    pub const ECHILD: Self = Self(10);
    pub const ETOOMANYREFS: Self = Self(109);
    pub const ECONNRESET: Self = Self(104);
    pub const ESRCH: Self = Self(3);
    pub const ECONNABORTED: Self = Self(103);
    pub const EINPROGRESS: Self = Self(115);
}

pub type Result<T> = core::result::Result<T, Errno>;

/// A descriptor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fd(pub i32);

/// The current directory, where a call takes a directory's descriptor.
pub const AT_FDCWD: Fd = Fd(-100);

fn check(result: isize) -> Result<usize> {
    if result < 0 { Err(Errno(-result as i32)) } else { Ok(result as usize) }
}

/// A system call that touches no memory, or only memory that the safe functions below lend to it.
fn call(n: usize, a: [usize; 6]) -> Result<usize> {
    // SAFETY: private to this module; each caller passes addresses of live references, with lengths that are theirs.
    check(unsafe { arch::system_call(n, a) })
}

fn fd(result: Result<usize>) -> Result<Fd> {
    result.map(|n| Fd(n as i32))
}

fn unit(result: Result<usize>) -> Result<()> {
    result.map(|_| ())
}

fn text(s: &CStr) -> usize {
    s.as_ptr() as usize
}

fn optional(s: Option<&CStr>) -> usize {
    s.map_or(0, text)
}

// Descriptors and files.

pub fn read(f: Fd, into: &mut [u8]) -> Result<usize> {
    call(number::READ, [f.0 as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0])
}

pub fn write(f: Fd, bytes: &[u8]) -> Result<usize> {
    call(number::WRITE, [f.0 as usize, bytes.as_ptr() as usize, bytes.len(), 0, 0, 0])
}

/// pread(2): at a place of the file.
pub fn pread(f: Fd, into: &mut [u8], at: u64) -> Result<usize> {
    call(number::PREAD64, [f.0 as usize, into.as_mut_ptr() as usize, into.len(), at as usize, 0, 0])
}

/// pwrite(2): at a place of the file.
pub fn pwrite(f: Fd, bytes: &[u8], at: u64) -> Result<usize> {
    call(number::PWRITE64, [f.0 as usize, bytes.as_ptr() as usize, bytes.len(), at as usize, 0, 0])
}

/// Makes a pipe hold so much more than it does.
pub fn enlarge_pipe(f: Fd, by: usize) -> Result<()> {
    const F_SETPIPE_SZ: usize = 1031;
    const F_GETPIPE_SZ: usize = 1032;
    let size = call(number::FCNTL, [f.0 as usize, F_GETPIPE_SZ, 0, 0, 0, 0])?;
    unit(call(number::FCNTL, [f.0 as usize, F_SETPIPE_SZ, size + by, 0, 0, 0]))
}

/// fcntl(2) with F_SETFL and O_NONBLOCK alone.
pub fn set_nonblocking(f: Fd) -> Result<()> {
    const F_SETFL: usize = 4;
    unit(call(number::FCNTL, [f.0 as usize, F_SETFL, open::NONBLOCK as usize, 0, 0, 0]))
}

pub fn close(f: Fd) {
    let _ = call(number::CLOSE, [f.0 as usize, 0, 0, 0, 0, 0]);
}

pub fn close_range(first: i32, last: u32) -> Result<()> {
    unit(call(shared::CLOSE_RANGE, [first as usize, last as usize, 0, 0, 0, 0]))
}

/// dup3(2); whether the copy closes on exec isn't copied with it.
pub fn dup3(from: Fd, to: i32, close_on_exec: bool) -> Result<()> {
    let flags = if close_on_exec { open::CLOEXEC as usize } else { 0 };
    unit(call(number::DUP3, [from.0 as usize, to as usize, flags, 0, 0, 0]))
}

/// fcntl(2) with F_DUPFD_CLOEXEC: a copy whose number is `least` or more.
pub fn duplicate_above(f: Fd, least: i32) -> Result<Fd> {
    const F_DUPFD_CLOEXEC: usize = 1030;
    fd(call(number::FCNTL, [f.0 as usize, F_DUPFD_CLOEXEC, least as usize, 0, 0, 0]))
}

pub mod open {
    //! Flags of openat2(2); the architectures differ in four of them.
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const READ_WRITE: u64 = 2;
    pub const CREATE: u64 = 0o100;
    pub const EXCLUSIVE: u64 = 0o200;
    pub const TRUNCATE: u64 = 0o1000;
    pub const NONBLOCK: u64 = 0o4000;
    #[cfg(target_arch = "x86_64")]
    pub const DIRECTORY: u64 = 0o200000;
    #[cfg(target_arch = "x86_64")]
    pub const NOFOLLOW: u64 = 0o400000;
    #[cfg(target_arch = "aarch64")]
    pub const DIRECTORY: u64 = 0o40000;
    #[cfg(target_arch = "aarch64")]
    pub const NOFOLLOW: u64 = 0o100000;
    pub const APPEND: u64 = 0o2000;
    pub const NOCTTY: u64 = 0o400;
    pub const CLOEXEC: u64 = 0o2000000;
    pub const PATH: u64 = 0o10000000;
}

pub mod resolve {
    pub const NO_XDEV: u64 = 0x01;
    pub const NO_MAGICLINKS: u64 = 0x02;
    pub const NO_SYMLINKS: u64 = 0x04;
    pub const BENEATH: u64 = 0x08;
    pub const IN_ROOT: u64 = 0x10;
}

/// openat2(2), always close-on-exec.
pub fn openat2(at: Fd, path: &CStr, flags: u64, mode: u32, resolve: u64) -> Result<Fd> {
    let how: [u64; 3] = [flags | open::CLOEXEC, u64::from(mode), resolve];
    loop {
        let result = fd(call(shared::OPENAT2, [at.0 as usize, text(path), how.as_ptr() as usize, size_of_val(&how), 0, 0]));
        // EAGAIN: something was renamed during a scoped look-up; the kernel asks for another try.
        if result != Err(Errno::EAGAIN) || resolve == 0 {
            return result;
        }
    }
}

pub fn mkdirat(at: Fd, path: &CStr, mode: u32) -> Result<()> {
    unit(call(number::MKDIRAT, [at.0 as usize, text(path), mode as usize, 0, 0, 0]))
}

pub fn unlinkat(at: Fd, path: &CStr, directory: bool) -> Result<()> {
    let flags = if directory { 0x200 } else { 0 };
    unit(call(number::UNLINKAT, [at.0 as usize, text(path), flags, 0, 0, 0]))
}

pub fn symlinkat(contents: &CStr, at: Fd, path: &CStr) -> Result<()> {
    unit(call(number::SYMLINKAT, [text(contents), at.0 as usize, text(path), 0, 0, 0]))
}

/// readlinkat(2): how many bytes of the link's contents are in `into`.
pub fn readlinkat(at: Fd, path: &CStr, into: &mut [u8]) -> Result<usize> {
    call(number::READLINKAT, [at.0 as usize, text(path), into.as_mut_ptr() as usize, into.len(), 0, 0])
}

/// renameat2(2) which never replaces.
pub fn rename_new(from: &CStr, to: &CStr) -> Result<()> {
    let at = AT_FDCWD.0 as usize;
    unit(call(number::RENAMEAT2, [at, text(from), at, text(to), 1, 0]))
}

/// flock(2), exclusive, without waiting.
pub fn flock_now(f: Fd) -> Result<()> {
    unit(call(number::FLOCK, [f.0 as usize, 2 | 4, 0, 0, 0, 0]))
}

const AT_EMPTY_PATH: usize = 0x1000;
const AT_SYMLINK_NOFOLLOW: usize = 0x100;

pub fn fchownat(at: Fd, path: &CStr, uid: u32, gid: u32) -> Result<()> {
    unit(call(number::FCHOWNAT, [at.0 as usize, text(path), uid as usize, gid as usize, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW, 0]))
}

/// fchmodat2(2), Linux 6.6; falls back to the magic link of a descriptor, which works on O_PATH descriptors too.
pub fn chmod_descriptor(f: Fd, mode: u32) -> Result<()> {
    match call(shared::FCHMODAT2, [f.0 as usize, text(c""), mode as usize, AT_EMPTY_PATH, 0, 0]) {
        Err(Errno::ENOSYS) => {
            let path = descriptor_path(f);
            #[cfg(target_arch = "x86_64")]
            const FCHMODAT: usize = 268;
            #[cfg(target_arch = "aarch64")]
            const FCHMODAT: usize = 53;
            unit(call(FCHMODAT, [AT_FDCWD.0 as usize, path.as_ptr() as usize, mode as usize, 0, 0, 0]))
        }
        other => unit(other),
    }
}

/// Whether this is Linux 6.6 or newer.
pub fn knows_fchmodat2() -> bool {
    call(shared::FCHMODAT2, [-1i32 as usize, text(c""), 0, 0, 0, 0]) != Err(Errno::ENOSYS)
}

/// `/proc/self/fd/N` with its NUL: a name for a descriptor, where a call only takes names.
pub fn descriptor_path(f: Fd) -> [u8; 32] {
    let mut path = [0; 32];
    path[..14].copy_from_slice(b"/proc/self/fd/");
    let mut digits = [0; 10];
    let digits = crate::text::decimal(f.0 as u64, &mut digits);
    path[14..14 + digits.len()].copy_from_slice(digits);
    path
}

/// What fstat(2) says of a file, as far as anybody here asks.
#[derive(Clone, Copy)]
pub struct Stat {
    pub mode: u32,
    pub rdev: u64,
    pub ino: u64,
    pub dev: u64,
    pub size: u64,
}

impl Stat {
    pub fn is_directory(&self) -> bool {
        self.mode & 0o170000 == 0o040000
    }
    pub fn is_regular(&self) -> bool {
        self.mode & 0o170000 == 0o100000
    }
    pub fn is_symlink(&self) -> bool {
        self.mode & 0o170000 == 0o120000
    }
    pub fn is_socket(&self) -> bool {
        self.mode & 0o170000 == 0o140000
    }
    pub fn is_block_device(&self) -> bool {
        self.mode & 0o170000 == 0o060000
    }
    pub fn is_character_device(&self) -> bool {
        self.mode & 0o170000 == 0o020000
    }
    pub fn major(&self) -> u32 {
        ((self.rdev >> 8) & 0xfff) as u32 | ((self.rdev >> 32) as u32 & !0xfff)
    }
    pub fn minor(&self) -> u32 {
        (self.rdev & 0xff) as u32 | ((self.rdev >> 12) as u32 & !0xff)
    }
}

fn stat_at(at: Fd, path: &CStr, flags: usize) -> Result<Stat> {
    let mut buffer = [0u64; 18];
    call(number::NEWFSTATAT, [at.0 as usize, text(path), buffer.as_mut_ptr() as usize, flags, 0, 0])?;
    // struct stat: x86-64 has st_nlink (u64) before st_mode, the generic one st_mode and st_nlink as u32.
    #[cfg(target_arch = "x86_64")]
    let (mode, rdev) = (buffer[3] as u32, buffer[5]);
    #[cfg(target_arch = "aarch64")]
    let (mode, rdev) = (buffer[2] as u32, buffer[4]);
    Ok(Stat { mode, rdev, dev: buffer[0], ino: buffer[1], size: buffer[6] })
}

pub fn fstat(f: Fd) -> Result<Stat> {
    stat_at(f, c"", AT_EMPTY_PATH)
}

/// fstatat(2) which doesn't follow a last symlink.
pub fn lstat(at: Fd, path: &CStr) -> Result<Stat> {
    stat_at(at, path, AT_SYMLINK_NOFOLLOW)
}

/// statx(2) of a descriptor, O_PATH or not.
pub fn statx(f: Fd) -> Result<Statx> {
    const BASIC_STATS: usize = 0x7ff;
    let mut buffer = [0u64; 32];
    call(number::STATX, [f.0 as usize, text(c""), AT_EMPTY_PATH, BASIC_STATS, buffer.as_mut_ptr() as usize, 0])?;
    // struct statx is the same on every architecture: mask and block size, attributes, then what follows here, in words of 8 bytes.
    let (low, high) = (|word: u64| word as u32, |word: u64| (word >> 32) as u32);
    Ok(Statx {
        links: low(buffer[2]),
        uid: high(buffer[2]),
        gid: low(buffer[3]),
        mode: high(buffer[3]) & 0xffff,
        ino: buffer[4],
        size: buffer[5],
        seconds: buffer[14],
        nanoseconds: low(buffer[15]),
        dev: u64::from(low(buffer[17])) << 32 | u64::from(high(buffer[17])),
    })
}

/// What statx(2) says of a file, as far as anybody here asks.
pub struct Statx {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u32,
    pub size: u64,
    pub ino: u64,
    /// Major and minor number, 32 bits each.
    pub dev: u64,
    /// Of the last change of its contents, since 1970.
    pub seconds: u64,
    pub nanoseconds: u32,
}

/// linkat(2), which doesn't follow a symlink.
pub fn linkat(from: Fd, old: &CStr, to: Fd, new: &CStr) -> Result<()> {
    unit(call(number::LINKAT, [from.0 as usize, text(old), to.0 as usize, text(new), 0, 0]))
}

/// utimensat(2) of a descriptor (Linux 5.8): when its contents were last changed. When they were last read stays.
pub fn set_modified(f: Fd, seconds: u64, nanoseconds: u32) -> Result<()> {
    const UTIME_OMIT: u64 = 0x3fff_fffe;
    let times = [0, UTIME_OMIT, seconds, u64::from(nanoseconds)];
    unit(call(number::UTIMENSAT, [f.0 as usize, text(c""), times.as_ptr() as usize, AT_EMPTY_PATH, 0, 0]))
}

/// getxattr(2).
pub fn getxattr(path: &CStr, name: &CStr, into: &mut [u8]) -> Result<usize> {
    call(number::GETXATTR, [text(path), text(name), into.as_mut_ptr() as usize, into.len(), 0, 0])
}

pub fn getdents64(f: Fd, into: &mut [u8]) -> Result<usize> {
    call(number::GETDENTS64, [f.0 as usize, into.as_mut_ptr() as usize, into.len(), 0, 0, 0])
}

pub fn chdir(path: &CStr) -> Result<()> {
    unit(call(number::CHDIR, [text(path), 0, 0, 0, 0, 0]))
}

pub fn fchdir(f: Fd) -> Result<()> {
    unit(call(number::FCHDIR, [f.0 as usize, 0, 0, 0, 0, 0]))
}

pub fn getcwd(into: &mut [u8]) -> Result<usize> {
    call(number::GETCWD, [into.as_mut_ptr() as usize, into.len(), 0, 0, 0, 0])
}

pub fn umask(mask: u32) {
    let _ = call(number::UMASK, [mask as usize, 0, 0, 0, 0, 0]);
}

pub fn pipe() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    call(number::PIPE2, [ends.as_mut_ptr() as usize, open::CLOEXEC as usize, 0, 0, 0, 0])?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

// Sockets.

const AF_UNIX: usize = 1;
const SOCK_STREAM: usize = 1;
const SOCK_SEQPACKET: usize = 5;
const SOCK_CLOEXEC: usize = 0o2000000;
const SOCK_NONBLOCK: usize = 0o4000;
const MSG_DONTWAIT: usize = 0x40;
const MSG_NOSIGNAL: usize = 0x4000;
const MSG_CMSG_CLOEXEC: usize = 0x40000000;

/// Descriptors that one message may carry.
pub const MAX_FDS: usize = 8;
/// Descriptors that come with a plan.
pub const MAX_PLANNED: usize = 72;

/// Two ends that keep messages apart.
pub fn socketpair() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    call(number::SOCKETPAIR, [AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.as_mut_ptr() as usize, 0, 0])?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// A Unix socket that listens at `path` (at most 107 bytes; who has more names the directory by a descriptor).
pub fn listen_at(path: &CStr) -> Result<Fd> {
    let name = path.to_bytes();
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&(AF_UNIX as u16).to_ne_bytes());
    address.get_mut(2..2 + name.len()).filter(|_| name.len() < 108).ok_or(Errno(36))?.copy_from_slice(name);
    let f = fd(call(number::SOCKET, [AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0, 0, 0]))?;
    let done = call(number::BIND, [f.0 as usize, address.as_ptr() as usize, 2 + name.len() + 1, 0, 0, 0])
        .and_then(|_| call(number::LISTEN, [f.0 as usize, 64, 0, 0, 0, 0]));
    match done {
        Ok(_) => Ok(f),
        Err(errno) => {
            close(f);
            Err(errno)
        }
    }
}

/// A TCP socket, in the network namespace of this process, which doesn't block.
pub fn tcp_socket(v6: bool) -> Result<Fd> {
    const AF_INET: usize = 2;
    const AF_INET6: usize = 10;
    let family = if v6 { AF_INET6 } else { AF_INET };
    fd(call(number::SOCKET, [family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0, 0, 0]))
}

/// A stream connected to the Unix socket at `path` (at most 107 bytes), which doesn't block.
pub fn connect_unix(path: &CStr) -> Result<Fd> {
    let name = path.to_bytes();
    let mut address = [0u8; 110];
    address[..2].copy_from_slice(&(AF_UNIX as u16).to_ne_bytes());
    address.get_mut(2..2 + name.len()).filter(|_| name.len() < 108).ok_or(Errno(36))?.copy_from_slice(name);
    let f = fd(call(number::SOCKET, [AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0, 0, 0]))?;
    match call(number::CONNECT, [f.0 as usize, address.as_ptr() as usize, 2 + name.len() + 1, 0, 0, 0]) {
        Ok(_) => Ok(f),
        Err(errno) => {
            close(f);
            Err(errno)
        }
    }
}

pub fn accept(f: Fd) -> Result<Fd> {
    fd(call(number::ACCEPT4, [f.0 as usize, 0, 0, SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0]))
}

/// The uid at the other end of a Unix socket.
pub fn peer_uid(f: Fd) -> Result<u32> {
    let mut credentials = [0u32; 3];
    let mut length = size_of_val(&credentials) as u32;
    const SO_PEERCRED: usize = 17;
    call(number::GETSOCKOPT, [f.0 as usize, SOL_SOCKET, SO_PEERCRED, credentials.as_mut_ptr() as usize, &raw mut length as usize, 0])?;
    Ok(credentials[1])
}

/// A netlink socket of this protocol.
pub fn netlink_socket(protocol: u32) -> Result<Fd> {
    const AF_NETLINK: usize = 16;
    const SOCK_RAW: usize = 3;
    fd(call(number::SOCKET, [AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol as usize, 0, 0, 0]))
}

/// A socket of the family of an address (struct sockaddr_in or sockaddr_in6), for a stream or for datagrams, which never waits.
pub fn socket(address: &[u8], stream: bool) -> Result<Fd> {
    const SOCK_DGRAM: usize = 2;
    let family = u16::from_ne_bytes(address.get(..2).and_then(|f| f.try_into().ok()).ok_or(Errno::EINVAL)?);
    let kind = if stream { SOCK_STREAM } else { SOCK_DGRAM };
    fd(call(number::SOCKET, [usize::from(family), kind | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, 0, 0, 0]))
}

/// connect(2).
pub fn connect(f: Fd, address: &[u8]) -> Result<()> {
    unit(call(number::CONNECT, [f.0 as usize, address.as_ptr() as usize, address.len(), 0, 0, 0]))
}

/// A socket that is bound to an address, and listens where it is for streams.
pub fn bound_socket(address: &[u8], stream: bool) -> Result<Fd> {
    let f = socket(address, stream)?;
    let mut done = call(number::BIND, [f.0 as usize, address.as_ptr() as usize, address.len(), 0, 0, 0]);
    if stream && done.is_ok() {
        done = call(number::LISTEN, [f.0 as usize, 64, 0, 0, 0, 0]);
    }
    done.map(|_| f).inspect_err(|_| close(f))
}

/// Random bits; what no clock tells where the kernel has none yet.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    match call(number::GETRANDOM, [bytes.as_mut_ptr() as usize, bytes.len(), 1, 0, 0, 0]) {
        Ok(8) => u64::from_ne_bytes(bytes),
        _ => now(),
    }
}

/// shutdown(2) of the sending half.
pub fn shutdown_writing(f: Fd) {
    let _ = call(number::SHUTDOWN, [f.0 as usize, 1, 0, 0, 0, 0]);
}

const SOL_SOCKET: usize = 1;

/// The error that waits at a socket, as SO_ERROR; 0 is none.
pub fn socket_error(f: Fd) -> i32 {
    const SO_ERROR: usize = 4;
    let mut error = 0i32;
    let mut length = 4u32;
    let asked = call(number::GETSOCKOPT, [f.0 as usize, SOL_SOCKET, SO_ERROR, &raw mut error as usize, &raw mut length as usize, 0]);
    if asked.is_ok() { error } else { Errno::EINVAL.0 }
}

/// Closing the connection resets it: SO_LINGER of nothing.
pub fn reset_at_close(f: Fd) {
    const SO_LINGER: usize = 13;
    let linger = [1i32, 0];
    let _ = call(number::SETSOCKOPT, [f.0 as usize, SOL_SOCKET, SO_LINGER, linger.as_ptr() as usize, 8, 0]);
}

/// recvfrom(2) without waiting: how many bytes, and how long the address is.
pub fn receive_from(f: Fd, into: &mut [u8], address: &mut [u8; 28]) -> Result<(usize, usize)> {
    let mut length = address.len() as u32;
    let place = address.as_mut_ptr() as usize;
    let n = call(number::RECVFROM, [f.0 as usize, into.as_mut_ptr() as usize, into.len(), MSG_DONTWAIT, place, &raw mut length as usize])?;
    Ok((n, (length as usize).min(address.len())))
}

/// sendto(2) without waiting; without an address to whom the socket is connected.
pub fn send_to(f: Fd, bytes: &[u8], address: &[u8]) -> Result<usize> {
    let to = if address.is_empty() { 0 } else { address.as_ptr() as usize };
    call(number::SENDTO, [f.0 as usize, bytes.as_ptr() as usize, bytes.len(), MSG_DONTWAIT | MSG_NOSIGNAL, to, address.len()])
}

/// A pipe whose ends never wait.
pub fn pipe_now() -> Result<(Fd, Fd)> {
    let mut ends = [0i32; 2];
    call(number::PIPE2, [ends.as_mut_ptr() as usize, (open::CLOEXEC | open::NONBLOCK) as usize, 0, 0, 0, 0])?;
    Ok((Fd(ends[0]), Fd(ends[1])))
}

/// splice(2) between a pipe and something else, without waiting.
pub fn splice(from: Fd, to: Fd, most: usize) -> Result<usize> {
    const MOVE_NONBLOCK: usize = 3;
    loop {
        match call(number::SPLICE, [from.0 as usize, 0, to.0 as usize, 0, most, MOVE_NONBLOCK]) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

/// As many descriptors as this process may have.
pub fn raise_descriptor_limit() {
    const NOFILE: usize = 7;
    let mut limit = [0u64; 2];
    if call(number::PRLIMIT64, [0, NOFILE, 0, limit.as_mut_ptr() as usize, 0, 0]).is_ok() {
        let _ = set_rlimit(NOFILE as u32, limit[1], limit[1]);
    }
}

/// sigaction(2) with SIG_IGN.
pub fn ignore_signal(signal: usize) {
    let ignore = [1usize, 0, 0, 0];
    let _ = call(number::RT_SIGACTION, [signal, ignore.as_ptr() as usize, 0, 8, 0, 0]);
}

/// send(2).
pub fn send(f: Fd, bytes: &[u8]) -> Result<usize> {
    call(number::SENDTO, [f.0 as usize, bytes.as_ptr() as usize, bytes.len(), MSG_NOSIGNAL, 0, 0])
}

#[repr(C)]
struct MessageHeader {
    name: usize,
    name_length: u32,
    vectors: usize,
    vector_count: usize,
    control: usize,
    control_length: usize,
    flags: i32,
}

#[repr(C, align(8))]
struct Control<const N: usize> {
    length: usize,
    level: i32,
    kind: i32,
    fds: [i32; N],
}

const CONTROL_HEADER: usize = 16;

/// sendmsg(2) of two pieces and descriptors; never waits for the other side unless `wait`.
pub fn send_message(f: Fd, first: &[u8], second: &[u8], fds: &[Fd], wait: bool) -> Result<usize> {
    let vectors = [first.as_ptr() as usize, first.len(), second.as_ptr() as usize, second.len()];
    let mut control = Control { length: CONTROL_HEADER + 4 * fds.len(), level: 1, kind: 1, fds: [-1; MAX_FDS] };
    for (slot, f) in control.fds.iter_mut().zip(fds) {
        *slot = f.0;
    }
    let message = MessageHeader {
        name: 0,
        name_length: 0,
        vectors: vectors.as_ptr() as usize,
        vector_count: 2,
        control: if fds.is_empty() { 0 } else { &raw const control as usize },
        control_length: if fds.is_empty() { 0 } else { CONTROL_HEADER + (4 * fds.len()).next_multiple_of(8) },
        flags: 0,
    };
    let flags = MSG_NOSIGNAL | if wait { 0 } else { MSG_DONTWAIT };
    call(number::SENDMSG, [f.0 as usize, &raw const message as usize, flags, 0, 0, 0])
}

/// recvmsg(2): bytes, and descriptors appended to `fds`; `Ok(0)` is the end.
pub fn receive_message<const N: usize>(f: Fd, into: &mut [u8], fds: &mut Received<N>, wait: bool) -> Result<usize> {
    let vectors = [into.as_mut_ptr() as usize, into.len()];
    let mut control = Control { length: 0, level: 0, kind: 0, fds: [-1; N] };
    let mut message = MessageHeader {
        name: 0,
        name_length: 0,
        vectors: vectors.as_ptr() as usize,
        vector_count: 1,
        control: &raw mut control as usize,
        control_length: size_of::<Control<N>>(),
        flags: 0,
    };
    let flags = MSG_CMSG_CLOEXEC | if wait { 0 } else { MSG_DONTWAIT };
    let n = loop {
        match call(number::RECVMSG, [f.0 as usize, &raw mut message as usize, flags, 0, 0, 0]) {
            Err(Errno::EINTR) => {}
            other => break other?,
        }
    };
    if message.control_length >= CONTROL_HEADER && control.level == 1 && control.kind == 1 {
        let count = (control.length.saturating_sub(CONTROL_HEADER) / 4).min(N);
        for &number in &control.fds[..count] {
            fds.push(Fd(number));
        }
    }
    Ok(n)
}

/// Descriptors that came beside bytes.
pub struct Received<const N: usize = MAX_FDS> {
    fds: [Fd; N],
    count: usize,
}

impl Received {
    pub const fn new() -> Self {
        Self { fds: [Fd(-1); MAX_FDS], count: 0 }
    }
}

/// Those of a plan.
pub type Planned = Received<MAX_PLANNED>;

impl Planned {
    pub const fn for_a_plan() -> Self {
        Self { fds: [Fd(-1); MAX_PLANNED], count: 0 }
    }
}

impl<const N: usize> Received<N> {
    /// Closes them all.
    pub fn close(&mut self) {
        self.as_slice().iter().for_each(|&f| close(f));
        self.count = 0;
    }

    pub fn push(&mut self, f: Fd) {
        match self.fds.get_mut(self.count) {
            Some(slot) => {
                *slot = f;
                self.count += 1;
            }
            None => close(f),
        }
    }
    pub fn as_slice(&self) -> &[Fd] {
        &self.fds[..self.count]
    }
}

// Waiting.

/// One descriptor to poll(2).
#[repr(C)]
#[derive(Clone, Copy)]
pub struct PollFd {
    pub fd: i32,
    pub events: i16,
    pub revents: i16,
}

pub const POLLIN: i16 = 1;
pub const POLLOUT: i16 = 4;

/// ppoll(2); `None` waits for ever.
pub fn poll(fds: &mut [PollFd], nanoseconds: Option<u64>) -> Result<usize> {
    let time = [nanoseconds.unwrap_or(0) / 1_000_000_000, nanoseconds.unwrap_or(0) % 1_000_000_000];
    let timeout = if nanoseconds.is_some() { time.as_ptr() as usize } else { 0 };
    call(number::PPOLL, [fds.as_mut_ptr() as usize, fds.len(), timeout, 0, 0, 0])
}

pub fn sleep(nanoseconds: u64) {
    let _ = poll(&mut [], Some(nanoseconds));
}

/// Nanoseconds of CLOCK_BOOTTIME, which goes on while the machine sleeps.
pub fn now() -> u64 {
    let mut time = [0u64; 2];
    let _ = call(number::CLOCK_GETTIME, [7, time.as_mut_ptr() as usize, 0, 0, 0, 0]);
    time[0] * 1_000_000_000 + time[1]
}

/// Nanoseconds since 1970, as far as this machine knows.
pub fn real_time() -> u64 {
    let mut time = [0u64; 2];
    let _ = call(number::CLOCK_GETTIME, [0, time.as_mut_ptr() as usize, 0, 0, 0, 0]);
    time[0] * 1_000_000_000 + time[1]
}

// Processes.

pub fn exit(status: i32) -> ! {
    loop {
        let _ = call(number::EXIT_GROUP, [status as usize, 0, 0, 0, 0, 0]);
    }
}

pub fn getpid() -> u32 {
    call(number::GETPID, [0; 6]).unwrap_or(0) as u32
}

pub fn getuid() -> u32 {
    call(number::GETUID, [0; 6]).unwrap_or(0) as u32
}

pub fn setsid() -> Result<()> {
    unit(call(number::SETSID, [0; 6]))
}

pub const CLONE_PIDFD: u64 = 0x1000;
pub const CLONE_PARENT: u64 = 0x8000;
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
pub const CLONE_NEWNS: u64 = 0x2_0000;
pub const CLONE_NEWUTS: u64 = 0x400_0000;
pub const CLONE_NEWIPC: u64 = 0x800_0000;
pub const CLONE_NEWUSER: u64 = 0x1000_0000;
pub const CLONE_NEWPID: u64 = 0x2000_0000;
pub const CLONE_NEWNET: u64 = 0x4000_0000;
const SIGCHLD: u64 = 17;

/// Who goes on after a clone.
pub enum Cloned {
    Child,
    Parent { pid: u32, pidfd: Fd },
}

/// clone3(2) as fork: the child has a copy of everything. Where clone3 is missing or hidden by a filter, clone(2), which can't
/// start in a cgroup: then the answer's second half is false. A child with CLONE_PARENT is the child of this process's parent, which
/// hears of its end as it will of this process's.
pub fn clone(flags: u64, cgroup: Option<Fd>) -> Result<(Cloned, bool)> {
    let mut pidfd = -1i32;
    let mut arguments = [0u64; 11];
    arguments[0] = flags | CLONE_PIDFD;
    arguments[1] = &raw mut pidfd as u64;
    // clone3(2) refuses a signal of its own beside CLONE_PARENT.
    arguments[4] = if flags & CLONE_PARENT == 0 { SIGCHLD } else { 0 };
    if let Some(f) = cgroup {
        arguments[0] |= CLONE_INTO_CGROUP;
        arguments[10] = f.0 as u64;
    }
    let (result, placed) = match call(shared::CLONE3, [arguments.as_ptr() as usize, size_of_val(&arguments), 0, 0, 0, 0]) {
        Err(Errno::ENOSYS) => {
            let flags = (flags | CLONE_PIDFD | SIGCHLD) as usize;
            (call(number::CLONE, [flags, 0, &raw mut pidfd as usize, 0, 0, 0]), cgroup.is_none())
        }
        other => (other, true),
    };
    // The child came back by the same way on a copy of this stack.
    Ok(match result? {
        0 => (Cloned::Child, placed),
        pid => (Cloned::Parent { pid: pid as u32, pidfd: Fd(pidfd) }, placed),
    })
}

static mut CHILD_STACK: [u128; 1024] = [0; 1024];

/// clone(2) as vfork: the child runs `run` in this memory on a stack of its own while this process waits until the child has
/// executed a program or ended. `run` must end in execve or exit.
pub fn vfork<T>(argument: &mut T, run: fn(&mut T) -> !) -> Result<(u32, Fd)> {
    struct Start<'a, T> {
        argument: &'a mut T,
        run: fn(&mut T) -> !,
    }
    extern "C" fn enter<T>(start: usize) -> ! {
        // SAFETY: `start` is the address of the `Start` in the frame of `vfork`, whose thread sleeps in the kernel until this child
        // is done with the memory; so nobody else touches it.
        let start = unsafe { &mut *(start as *mut Start<'_, T>) };
        (start.run)(start.argument)
    }
    const CLONE_VM: usize = 0x100;
    const CLONE_VFORK: usize = 0x4000;
    let mut start = Start { argument, run };
    let mut pidfd = -1i32;
    // SAFETY: this program has one thread, and it sleeps while the child is on CHILD_STACK, so there is one user of it at a time.
    // `enter` never returns.
    let result = unsafe {
        let top = (&raw mut CHILD_STACK).cast::<u8>().add(size_of::<[u128; 1024]>());
        arch::clone_onto(
            CLONE_VM | CLONE_VFORK | CLONE_PIDFD as usize | SIGCHLD as usize,
            top,
            &raw mut pidfd,
            enter::<T>,
            &raw mut start as usize,
        )
    };
    check(result).map(|pid| (pid as u32, Fd(pidfd)))
}

/// Addresses of strings with a null at the end, as execve(2) takes them.
pub struct Pointers<'a> {
    addresses: &'static mut [usize],
    used: usize,
    strings: core::marker::PhantomData<&'a CStr>,
}

impl<'a> Pointers<'a> {
    /// Room for `count` strings.
    pub fn with_capacity(count: usize) -> Result<Self> {
        let bytes = (count + 1) * size_of::<usize>();
        let memory = map(bytes)?;
        // SAFETY: fresh zeroed memory of that size, aligned to a page, never unmapped.
        let addresses = unsafe { core::slice::from_raw_parts_mut(memory.as_mut_ptr().cast::<usize>(), count + 1) };
        Ok(Self { addresses, used: 0, strings: core::marker::PhantomData })
    }

    /// Appends; what is beyond the capacity is an error.
    pub fn push(&mut self, string: &'a CStr) -> Result<()> {
        if self.used + 1 >= self.addresses.len() {
            return Err(Errno::EOVERFLOW);
        }
        self.addresses[self.used] = text(string);
        self.used += 1;
        Ok(())
    }

    /// Gives the memory back; the list is empty then.
    pub fn release(&mut self) {
        const DONTNEED: usize = 4;
        self.used = 0;
        let _ = call(
            number::MADVISE,
            [self.addresses.as_ptr() as usize, size_of_val(self.addresses).next_multiple_of(4096), DONTNEED, 0, 0, 0],
        );
    }

    /// A list of all these.
    pub fn of(strings: impl Iterator<Item = &'a CStr>, count: usize) -> Result<Self> {
        let mut pointers = Self::with_capacity(count)?;
        for string in strings {
            pointers.push(string)?;
        }
        Ok(pointers)
    }
}

/// execve(2); returns only if it failed.
pub fn execve(path: &CStr, argv: &Pointers<'_>, envp: &Pointers<'_>) -> Errno {
    match call(number::EXECVE, [text(path), argv.addresses.as_ptr() as usize, envp.addresses.as_ptr() as usize, 0, 0, 0]) {
        Err(errno) => errno,
        Ok(_) => Errno::EINVAL,
    }
}

/// CPU times and memory of a process and of all its children that were waited for.
#[derive(Clone, Copy, Default)]
pub struct Rusage {
    /// Microseconds.
    pub user: u64,
    pub system: u64,
    /// Bytes.
    pub max_rss: u64,
}

/// waitid(2) by pidfd without waiting: `None` while it runs. The status is as wait(2) gives it.
pub fn wait_pidfd(f: Fd) -> Result<Option<(i32, Rusage)>> {
    const P_PIDFD: usize = 3;
    const WNOHANG: usize = 1;
    const WEXITED: usize = 4;
    let mut info = [0i32; 32];
    let mut usage = [0u64; 18];
    let flags = WEXITED | WNOHANG | 0x4000_0000;
    call(number::WAITID, [P_PIDFD, f.0 as usize, info.as_mut_ptr() as usize, flags, usage.as_mut_ptr() as usize, 0])?;
    if info[0] == 0 {
        return Ok(None);
    }
    let (code, value) = (info[2], info[6]);
    // CLD_EXITED, else CLD_KILLED or CLD_DUMPED.
    let status = match code {
        1 => (value & 0xff) << 8,
        3 => value | 0x80,
        _ => value,
    };
    let rusage = Rusage { user: usage[0] * 1_000_000 + usage[1], system: usage[2] * 1_000_000 + usage[3], max_rss: usage[4] * 1024 };
    Ok(Some((status, rusage)))
}

/// wait4(2) for any child without waiting: pid and status.
pub fn wait_any() -> Result<Option<(u32, i32)>> {
    const WNOHANG: usize = 1;
    let mut status = 0i32;
    match call(number::WAIT4, [-1i32 as usize, &raw mut status as usize, WNOHANG | 0x4000_0000, 0, 0, 0])? {
        0 => Ok(None),
        pid => Ok(Some((pid as u32, status))),
    }
}

/// waitid(2) for any child that has ended, which stays as it is: its pid.
pub fn peek_any() -> Option<u32> {
    const P_ALL: usize = 0;
    const WNOHANG: usize = 1;
    const WEXITED: usize = 4;
    const WNOWAIT: usize = 0x0100_0000;
    let mut info = [0i32; 32];
    let flags = WEXITED | WNOHANG | WNOWAIT | 0x4000_0000;
    call(number::WAITID, [P_ALL, 0, info.as_mut_ptr() as usize, flags, 0, 0]).ok()?;
    // struct siginfo: signal, errno, code and padding, and the pid.
    u32::try_from(info[4]).ok().filter(|&pid| info[0] != 0 && pid != 0)
}

/// wait4(2) for one child that has ended.
pub fn reap(pid: u32) {
    const WNOHANG: usize = 1;
    let _ = call(number::WAIT4, [pid as usize, 0, WNOHANG | 0x4000_0000, 0, 0, 0]);
}

pub fn pidfd_open(pid: u32) -> Result<Fd> {
    fd(call(shared::PIDFD_OPEN, [pid as usize, 0, 0, 0, 0, 0]))
}

pub fn pidfd_send_signal(f: Fd, signal: u32) -> Result<()> {
    unit(call(shared::PIDFD_SEND_SIGNAL, [f.0 as usize, signal as usize, 0, 0, 0, 0]))
}

/// Every signal as a new program has it: default, none blocked.
pub fn reset_signals() {
    // struct kernel_sigaction { handler = SIG_DFL, flags, restorer, mask }
    let default = [0usize; 4];
    for signal in 1..=64 {
        let _ = call(number::RT_SIGACTION, [signal, default.as_ptr() as usize, 0, 8, 0, 0]);
    }
    set_signal_mask(0);
}

pub fn set_signal_mask(mask: u64) {
    const SIG_SETMASK: usize = 2;
    let _ = call(number::RT_SIGPROCMASK, [SIG_SETMASK, &raw const mask as usize, 0, 8, 0, 0]);
}

/// A descriptor that is readable while one of these (blocked) signals waits.
pub fn signalfd(mask: u64) -> Result<Fd> {
    fd(call(number::SIGNALFD4, [-1i32 as usize, &raw const mask as usize, 8, (open::CLOEXEC | open::NONBLOCK) as usize, 0, 0]))
}

pub mod prctl {
    //! prctl(2), one function an option.
    use super::{Result, call, number, unit};

    fn prctl(option: usize, value: usize) -> Result<()> {
        unit(call(number::PRCTL, [option, value, 0, 0, 0, 0]))
    }
    pub fn set_death_signal(signal: u32) -> Result<()> {
        prctl(1, signal as usize)
    }
    pub fn set_dumpable(yes: bool) -> Result<()> {
        prctl(4, usize::from(yes))
    }
    pub fn set_keep_capabilities(yes: bool) -> Result<()> {
        prctl(8, usize::from(yes))
    }
    pub fn set_name(name: &core::ffi::CStr) -> Result<()> {
        prctl(15, super::text(name))
    }
    /// Orphaned descendants become this process's children.
    pub fn set_child_subreaper() -> Result<()> {
        prctl(36, 1)
    }
    pub fn drop_from_bounding_set(capability: u32) -> Result<()> {
        prctl(24, capability as usize)
    }
    pub fn set_no_new_privileges() -> Result<()> {
        prctl(38, 1)
    }
    pub fn raise_ambient(capability: u32) -> Result<()> {
        unit(call(number::PRCTL, [47, 2, capability as usize, 0, 0, 0]))
    }
    pub fn clear_ambient() -> Result<()> {
        unit(call(number::PRCTL, [47, 4, 0, 0, 0, 0]))
    }
}

// Identity and namespaces.

pub fn setgroups(groups: &[u32]) -> Result<()> {
    unit(call(number::SETGROUPS, [groups.len(), groups.as_ptr() as usize, 0, 0, 0, 0]))
}

pub fn setresgid(gid: u32) -> Result<()> {
    unit(call(number::SETRESGID, [gid as usize, gid as usize, gid as usize, 0, 0, 0]))
}

pub fn setresuid(uid: u32) -> Result<()> {
    unit(call(number::SETRESUID, [uid as usize, uid as usize, uid as usize, 0, 0, 0]))
}

pub fn capset(effective: u64, permitted: u64, inheritable: u64) -> Result<()> {
    let header = [0x2008_0522u32, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [low(effective), low(permitted), low(inheritable), high(effective), high(permitted), high(inheritable)];
    unit(call(number::CAPSET, [header.as_ptr() as usize, data.as_ptr() as usize, 0, 0, 0, 0]))
}

pub fn set_rlimit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = [soft, hard];
    unit(call(number::PRLIMIT64, [0, resource as usize, limit.as_ptr() as usize, 0, 0, 0]))
}

/// seccomp(2) with SECCOMP_SET_MODE_FILTER; the filter is an array of `struct sock_filter`.
pub fn set_seccomp_filter(filter: &[u8]) -> Result<()> {
    #[repr(C)]
    struct Program {
        length: u16,
        instructions: usize,
    }
    if !filter.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let program =
        Program { length: u16::try_from(filter.len() / 8).map_err(|_| Errno::EOVERFLOW)?, instructions: filter.as_ptr() as usize };
    unit(call(number::SECCOMP, [1, 0, &raw const program as usize, 0, 0, 0]))
}

/// Creates a Landlock ruleset for these rights over files; a kernel without Landlock says ENOSYS or EOPNOTSUPP.
pub fn landlock_ruleset(handled: u64) -> Result<Fd> {
    let attributes = [handled];
    fd(call(shared::LANDLOCK_CREATE_RULESET, [attributes.as_ptr() as usize, size_of_val(&attributes), 0, 0, 0, 0]))
}

/// The version of Landlock's interface, 1 or more.
pub fn landlock_version() -> Result<usize> {
    call(shared::LANDLOCK_CREATE_RULESET, [0, 0, 1, 0, 0, 0])
}

/// Allows these rights below what a descriptor refers to.
pub fn landlock_allow(ruleset: Fd, access: u64, below: Fd) -> Result<()> {
    #[repr(C, packed)]
    struct PathBeneath {
        access: u64,
        parent: i32,
    }
    let rule = PathBeneath { access, parent: below.0 };
    unit(call(shared::LANDLOCK_ADD_RULE, [ruleset.0 as usize, 1, &raw const rule as usize, 0, 0, 0]))
}

/// Restricts this thread. Needs no_new_privs, or CAP_SYS_ADMIN.
pub fn landlock_restrict(ruleset: Fd) -> Result<()> {
    unit(call(shared::LANDLOCK_RESTRICT_SELF, [ruleset.0 as usize, 0, 0, 0, 0, 0]))
}

/// Loads an eBPF program that decides about devices (BPF_PROG_TYPE_CGROUP_DEVICE) and attaches it to a cgroup2 directory, beside those that
/// are there (BPF_F_ALLOW_MULTI): it holds as long as the directory does.
pub fn attach_device_filter(cgroup: Fd, program: &[u8]) -> Result<()> {
    const PROG_LOAD: usize = 5;
    const PROG_ATTACH: usize = 8;
    const CGROUP_DEVICE: u32 = 15;
    const ATTACH_DEVICE: u32 = 6;
    const ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Load {
        kind: u32,
        instructions: u32,
        program: u64,
        license: u64,
        log: [u64; 2],
        version: u32,
        flags: u32,
    }
    if !program.len().is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let load = Load {
        kind: CGROUP_DEVICE,
        instructions: u32::try_from(program.len() / 8).map_err(|_| Errno::EOVERFLOW)?,
        program: program.as_ptr() as u64,
        license: text(c"Apache-2.0") as u64,
        log: [0; 2],
        version: 0,
        flags: 0,
    };
    let loaded = fd(call(number::BPF, [PROG_LOAD, &raw const load as usize, size_of::<Load>(), 0, 0, 0]))?;
    let attach = [cgroup.0 as u32, loaded.0 as u32, ATTACH_DEVICE, ALLOW_MULTI];
    let done = unit(call(number::BPF, [PROG_ATTACH, attach.as_ptr() as usize, size_of_val(&attach), 0, 0, 0]));
    close(loaded);
    done
}

pub fn sethostname(name: &CStr) -> Result<()> {
    unit(call(number::SETHOSTNAME, [text(name), name.count_bytes(), 0, 0, 0, 0]))
}

pub fn unshare(flags: u64) -> Result<()> {
    unit(call(number::UNSHARE, [flags as usize, 0, 0, 0, 0, 0]))
}

/// setns(2): enters the namespace that a descriptor refers to.
pub fn setns(f: Fd, kind: u64) -> Result<()> {
    unit(call(number::SETNS, [f.0 as usize, kind as usize, 0, 0, 0, 0]))
}

// Mounts.

pub mod mount {
    pub const REC: u64 = 0x4000;
    pub const PRIVATE: u64 = 1 << 18;
    pub const ATTR_RDONLY: u64 = 1;
}

/// mount(2).
pub fn mount(source: Option<&CStr>, target: &CStr, filesystem: Option<&CStr>, flags: u64, data: Option<&CStr>) -> Result<()> {
    unit(call(number::MOUNT, [optional(source), text(target), optional(filesystem), flags as usize, optional(data), 0]))
}

/// umount2(2) with MNT_DETACH.
pub fn unmount(target: &CStr) -> Result<()> {
    unit(call(number::UMOUNT2, [text(target), 2, 0, 0, 0, 0]))
}

pub fn pivot_root(new: &CStr, old: &CStr) -> Result<()> {
    unit(call(number::PIVOT_ROOT, [text(new), text(old), 0, 0, 0, 0]))
}

pub fn chroot(path: &CStr) -> Result<()> {
    unit(call(number::CHROOT, [text(path), 0, 0, 0, 0, 0]))
}

pub fn fsopen(filesystem: &CStr) -> Result<Fd> {
    fd(call(shared::FSOPEN, [text(filesystem), 1, 0, 0, 0, 0]))
}

/// fsconfig(2): a key with a value, or a flag.
pub fn fsconfig_set(f: Fd, key: &CStr, value: Option<&CStr>) -> Result<()> {
    let command = usize::from(value.is_some());
    unit(call(shared::FSCONFIG, [f.0 as usize, command, text(key), optional(value), 0, 0]))
}

/// fsconfig(2): makes the super block.
pub fn fsconfig_create(f: Fd) -> Result<()> {
    unit(call(shared::FSCONFIG, [f.0 as usize, 6, 0, 0, 0, 0]))
}

pub fn fsmount(f: Fd, attributes: u64) -> Result<Fd> {
    fd(call(shared::FSMOUNT, [f.0 as usize, 1, attributes as usize, 0, 0, 0]))
}

/// open_tree(2) with OPEN_TREE_CLONE: a detached copy of what is mounted at a path, or at a descriptor if the path is empty.
pub fn clone_tree(at: Fd, path: &CStr, recursive: bool) -> Result<Fd> {
    const OPEN_TREE_CLONE: usize = 1;
    const AT_RECURSIVE: usize = 0x8000;
    let flags = OPEN_TREE_CLONE | open::CLOEXEC as usize | AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    fd(call(shared::OPEN_TREE, [at.0 as usize, text(path), flags, 0, 0, 0]))
}

/// move_mount(2) of a detached mount onto what a descriptor refers to.
pub fn attach(tree: Fd, onto: Fd) -> Result<()> {
    const F_EMPTY_PATH: usize = 0x4;
    const T_EMPTY_PATH: usize = 0x40;
    let empty = text(c"");
    unit(call(shared::MOVE_MOUNT, [tree.0 as usize, empty, onto.0 as usize, empty, F_EMPTY_PATH | T_EMPTY_PATH, 0]))
}

/// mount_setattr(2): adds attributes to the mount a descriptor refers to.
pub fn mount_setattr(f: Fd, attributes: u64, recursive: bool) -> Result<()> {
    let change = [attributes, 0, 0, 0];
    let flags = AT_EMPTY_PATH | if recursive { 0x8000 } else { 0 };
    unit(call(shared::MOUNT_SETATTR, [f.0 as usize, text(c""), flags, change.as_ptr() as usize, size_of_val(&change), 0]))
}

/// mount_setattr(2): the ids of the mounts below a descriptor, which aren't attached anywhere yet, are mapped as a user namespace maps them.
pub fn mount_set_owners(f: Fd, user_namespace: Fd) -> Result<()> {
    const IDMAP: u64 = 0x10_0000;
    let change = [IDMAP, 0, 0, user_namespace.0 as u64];
    unit(call(shared::MOUNT_SETATTR, [f.0 as usize, text(c""), AT_EMPTY_PATH | 0x8000, change.as_ptr() as usize, size_of_val(&change), 0]))
}

// Quotas.

/// Whether the file system of a directory keeps limits of projects.
pub fn project_quota_is_enforced(f: Fd) -> Result<bool> {
    const Q_XGETQSTAT: usize = 0x5805;
    const ENFORCED: u64 = 1 << 5;
    // struct fs_quota_stat; the flags are its second 16 bits.
    let mut state = [0u64; 16];
    unit(call(shared::QUOTACTL_FD, [f.0 as usize, Q_XGETQSTAT << 8 | PROJECTS, 0, state.as_mut_ptr() as usize, 0, 0]))?;
    Ok(state[0] >> 16 & ENFORCED != 0)
}

const PROJECTS: usize = 2;

/// The most bytes that a project has.
pub fn set_project_quota(f: Fd, project: u32, bytes: u64) -> Result<()> {
    const Q_SETQUOTA: usize = 0x80_0008;
    const BLOCK_LIMITS: u64 = 1;
    // struct if_dqblk: the hard and the soft limit in KiB, six more numbers, and which of these are meant.
    let limit = bytes.div_ceil(1024);
    let limits = [limit, limit, 0, 0, 0, 0, 0, 0, BLOCK_LIMITS];
    unit(call(shared::QUOTACTL_FD, [f.0 as usize, Q_SETQUOTA << 8 | PROJECTS, project as usize, limits.as_ptr() as usize, 0, 0]))
}

/// Puts a directory and what will be made in it into a project.
pub fn inherit_project(f: Fd, project: u32) -> Result<()> {
    const FS_IOC_FSGETXATTR: usize = 0x801c_581f;
    const FS_IOC_FSSETXATTR: usize = 0x401c_5820;
    const INHERIT: u32 = 0x200;
    // struct fsxattr: flags, two numbers, the project, another number, eight bytes.
    let mut attributes = [0u32; 7];
    unit(call(number::IOCTL, [f.0 as usize, FS_IOC_FSGETXATTR, attributes.as_mut_ptr() as usize, 0, 0, 0]))?;
    (attributes[0], attributes[3]) = (attributes[0] | INHERIT, project);
    unit(call(number::IOCTL, [f.0 as usize, FS_IOC_FSSETXATTR, attributes.as_ptr() as usize, 0, 0, 0]))
}

/// mount_setattr(2): takes attributes from the mount a descriptor refers to.
pub fn mount_clearattr(f: Fd, attributes: u64) -> Result<()> {
    let change = [0, attributes, 0, 0];
    unit(call(shared::MOUNT_SETATTR, [f.0 as usize, text(c""), AT_EMPTY_PATH, change.as_ptr() as usize, size_of_val(&change), 0]))
}

// Terminals; see ioctl_tty(2).

/// Lets the other end of a master be opened.
pub fn unlock_terminal(master: Fd) -> Result<()> {
    const TIOCSPTLCK: usize = 0x4004_5431;
    let no = 0i32;
    unit(call(number::IOCTL, [master.0 as usize, TIOCSPTLCK, &raw const no as usize, 0, 0, 0]))
}

/// The other end of a master.
pub fn terminal_of_master(master: Fd) -> Result<Fd> {
    const TIOCGPTPEER: usize = 0x5441;
    let flags = (open::READ_WRITE | open::NOCTTY | open::CLOEXEC) as usize;
    call(number::IOCTL, [master.0 as usize, TIOCGPTPEER, flags, 0, 0, 0]).map(|f| Fd(f as i32))
}

/// The size of a terminal, in characters.
pub fn set_window_size(terminal: Fd, columns: u16, rows: u16) -> Result<()> {
    const TIOCSWINSZ: usize = 0x5414;
    // struct winsize
    let size = [rows, columns, 0, 0];
    unit(call(number::IOCTL, [terminal.0 as usize, TIOCSWINSZ, size.as_ptr() as usize, 0, 0, 0]))
}

/// Makes a terminal that of this process's session, which has none.
pub fn control_by(terminal: Fd) -> Result<()> {
    const TIOCSCTTY: usize = 0x540e;
    unit(call(number::IOCTL, [terminal.0 as usize, TIOCSCTTY, 0, 0, 0, 0]))
}

// Memory.

/// Fresh zeroed memory.
pub fn map(bytes: usize) -> Result<&'static mut [u8]> {
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    let address = call(number::MMAP, [0, bytes.max(1), READ_WRITE, PRIVATE_ANONYMOUS, -1i32 as usize, 0])?;
    // SAFETY: the kernel just gave this range to nobody else, readable, writable and zeroed, and it is never unmapped.
    Ok(unsafe { core::slice::from_raw_parts_mut(address as *mut u8, bytes) })
}

/// Memory that goes back to the kernel with the value.
pub struct Pages {
    address: *mut u8,
    length: usize,
}

impl Pages {
    /// Fresh zeroed memory. Pages that are never touched cost nothing.
    pub fn new(bytes: usize) -> Result<Self> {
        let memory = map(bytes)?;
        Ok(Self { address: memory.as_mut_ptr(), length: memory.len() })
    }
}

impl core::ops::Deref for Pages {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `map` gave this range to this value alone, and it is unmapped only when the value goes.
        unsafe { core::slice::from_raw_parts(self.address, self.length) }
    }
}

impl core::ops::DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and the borrow of the value is unique.
        unsafe { core::slice::from_raw_parts_mut(self.address, self.length) }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let _ = call(number::MUNMAP, [self.address as usize, self.length.max(1), 0, 0, 0, 0]);
    }
}

/// Values of which there are mostly none, in memory that is there only while there are some.
pub struct Table<T, const MOST: usize> {
    memory: Option<Pages>,
    used: usize,
    kind: core::marker::PhantomData<T>,
}

impl<T, const MOST: usize> Table<T, MOST> {
    pub const fn new() -> Self {
        // A page is aligned for anything that lies in here.
        assert!(align_of::<T>() <= 4096);
        Self { memory: None, used: 0, kind: core::marker::PhantomData }
    }

    pub fn is_full(&self) -> bool {
        self.used == MOST
    }

    /// Appends; gives the value back where there is no room.
    pub fn push(&mut self, value: T) -> core::result::Result<(), T> {
        if self.is_full() {
            return Err(value);
        }
        if self.memory.is_none() {
            self.memory = Pages::new(MOST * size_of::<T>()).ok();
        }
        let Some(memory) = &mut self.memory else { return Err(value) };
        // SAFETY: `used < MOST`, so the place is inside the mapping, which is aligned to a page; it holds no value yet.
        unsafe { memory.address.cast::<T>().add(self.used).write(value) };
        self.used += 1;
        Ok(())
    }

    /// Takes one out; the last one gets its place.
    pub fn swap_remove(&mut self, index: usize) -> Option<T> {
        let memory = self.memory.as_ref().filter(|_| index < self.used)?;
        let first = memory.address.cast::<T>();
        self.used -= 1;
        // SAFETY: both places held values, which `push` wrote; one is moved out, and the other into its place if they differ.
        let value = unsafe {
            let value = first.add(index).read();
            if index != self.used {
                first.add(index).write(first.add(self.used).read());
            }
            value
        };
        if self.used == 0 {
            self.memory = None;
        }
        Some(value)
    }

    /// Takes all out, and gives the memory back.
    pub fn clear(&mut self) {
        while self.used > 0 {
            self.swap_remove(self.used - 1);
        }
        self.memory = None;
    }

    /// Takes all out, and keeps the memory for the next.
    pub fn empty(&mut self)
    where
        T: Copy,
    {
        self.used = 0;
    }
}

impl<T, const MOST: usize> core::ops::Deref for Table<T, MOST> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        match &self.memory {
            // SAFETY: the first `used` places hold values.
            Some(memory) => unsafe { core::slice::from_raw_parts(memory.address.cast::<T>(), self.used) },
            None => &[],
        }
    }
}

impl<T, const MOST: usize> core::ops::DerefMut for Table<T, MOST> {
    fn deref_mut(&mut self) -> &mut [T] {
        match &self.memory {
            // SAFETY: the first `used` places hold values, and the borrow is unique.
            Some(memory) => unsafe { core::slice::from_raw_parts_mut(memory.address.cast::<T>(), self.used) },
            None => &mut [],
        }
    }
}

impl<T, const MOST: usize> Drop for Table<T, MOST> {
    fn drop(&mut self) {
        self.clear();
    }
}

/// Gives back the pages of the stack that lie below what is in use, and those of [`CHILD_STACK`]: both are only reached by calls that
/// are over. What is not mapped there is passed over.
#[inline(never)]
pub fn release_memory() {
    const DONTNEED: usize = 4;
    const PAGE: usize = 4096;
    // More than the deepest call of this program takes.
    const DEPTH: usize = 48 * PAGE;
    let here = 0u8;
    // A page is left for this call's own frame and the red zone below it.
    let top = (&raw const here as usize & !(PAGE - 1)) - PAGE;
    let _ = call(number::MADVISE, [top - DEPTH, DEPTH, DONTNEED, 0, 0, 0]);
    let stack = &raw const CHILD_STACK as usize;
    let first = stack.next_multiple_of(PAGE);
    let length = (stack + size_of::<[u128; 1024]>() - first) & !(PAGE - 1);
    let _ = call(number::MADVISE, [first, length, DONTNEED, 0, 0, 0]);
    // The program itself, which is there to be read again: the little that waits comes back by the next fault.
    unsafe extern "C" {
        static __executable_start: u8;
        static etext: u8;
    }
    let (program, end) = (&raw const __executable_start as usize, &raw const etext as usize);
    let _ = call(number::MADVISE, [program & !(PAGE - 1), end.saturating_sub(program), DONTNEED, 0, 0, 0]);
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(70)
}

/// The shipped core library was built to unwind and names this; nothing unwinds here.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}
