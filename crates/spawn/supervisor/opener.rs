//! Opens sockets and files inside a container, and hands them out.
//!
//! A socket belongs to the network namespace in which it was made, and a file is found in the mount namespace in which it is looked up,
//! whoever holds them afterwards. So a child of the supervisor goes in, opens, and sends the descriptors to whoever asked; that one connects,
//! reads and writes by itself, from where it is. No port on the host, no thread of a program in a foreign namespace, nothing executed in the
//! container, and nothing read of it here.
//!
//! The container's paths are hostile: each is looked up by openat2(2) below its root, what was found is looked at before it is opened, and is
//! opened by its descriptor. So nothing but a regular file or a directory ever is, and nobody can swap it in between.

use crate::exec::{Container, namespaces};
use crate::prepare::Path;
use crate::system_call::{
    AT_FDCWD, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWUSER, Cloned, Errno, Fd, POLLIN, PollFd, Received, chmod_descriptor, clone, close,
    close_range, connect_unix, descriptor_path, dup3, duplicate_above, exit, fchownat, fstat, linkat, mkdirat, open, openat2,
    pidfd_send_signal, poll, prctl, receive_message, resolve, send_message, set_modified, setns, setresgid, setresuid, sleep, statx,
    symlinkat, tcp_socket, unlinkat, wait_pidfd,
};
use crate::text::Buffer;
use crate::wire::{Field, Found, Opened, Opening, Plan, Reader, Step, attribute, how};
use core::ffi::CStr;
use core::marker::PhantomData;

const SIGKILL: u32 = 9;
/// Two paths and what stands beside them.
const MOST: usize = 8300;
/// What isn't the container's own can't be opened in it.
const EOPNOTSUPP: Errno = Errno(95);
/// A device, a FIFO, a socket: nothing that is read as a file.
const ENXIO: Errno = Errno(6);
const ENOTSOCK: Errno = Errno(88);

/// An opener, as its supervisor sees it.
pub struct Opener {
    pub pid: u32,
    process: Fd,
}

impl Opener {
    pub fn polled(&self) -> PollFd {
        PollFd { fd: self.process.0, events: POLLIN, revents: 0 }
    }

    /// Reaps it if it has ended; whether it has.
    pub fn is_over(&self) -> bool {
        match wait_pidfd(self.process) {
            Ok(None) => false,
            Ok(Some(_)) | Err(_) => {
                close(self.process);
                true
            }
        }
    }

    pub fn kill(&self) {
        let _ = pidfd_send_signal(self.process, SIGKILL);
    }

    /// Ends it, and waits for that: it sleeps nowhere where a signal doesn't wake it but in the file system.
    pub fn end(&self) {
        self.kill();
        const PATIENCE: u64 = 10_000_000_000;
        let _ = poll(&mut [self.polled()], Some(PATIENCE));
        let _ = self.is_over();
    }
}

/// Says that nothing will be opened.
pub fn refuse(socket: Fd, errno: Errno) {
    let mut bytes = Buffer::<128>::new();
    Opened { errno: errno.0, outside: true, found: None, end: PhantomData }.put(&mut bytes);
    let _ = send_message(socket, bytes.as_slice(), &[], &[], false);
}

/// Starts one.
pub fn begin(container: Container<'_>, socket: Fd) -> Result<Opener, Errno> {
    match clone(0, None)?.0 {
        Cloned::Child => serve(container, socket),
        Cloned::Parent { pid, pidfd } => Ok(Opener { pid, process: pidfd }),
    }
}

/// The child: goes in, and opens what it is asked for until nobody asks any more.
fn serve(container: Container<'_>, socket: Fd) -> ! {
    const SOCKET: Fd = Fd(0);
    const FIRST: Fd = Fd(1);
    let _ = prctl::set_death_signal(SIGKILL);
    let _ = prctl::set_dumpable(false);
    // First out of the way of the numbers that they get: one of them may be the other's.
    let copies = (duplicate_above(socket, 16), duplicate_above(container.first, 16));
    let moved = match copies {
        (Ok(socket), Ok(first)) => dup3(socket, SOCKET.0, true).and_then(|()| dup3(first, FIRST.0, true)).is_ok(),
        _ => false,
    };
    let _ = close_range(2, u32::MAX);
    if !moved {
        exit(127);
    }
    let root = match enter(container, FIRST) {
        Ok(root) => root,
        Err(errno) => {
            refuse(SOCKET, errno);
            exit(1)
        }
    };
    let inside = Inside { plan: container.plan, root };
    close(FIRST);
    loop {
        let mut bytes = [0; MOST];
        let mut beside = Received::new();
        let n = match receive_message(SOCKET, &mut bytes, &mut beside, true) {
            Ok(n @ 1..) => n,
            Ok(_) | Err(_) => exit(0),
        };
        let mut out = Out { found: None, fds: [Fd(-1); 2], count: 0 };
        let done = match Opening::take(&mut Reader::new(&bytes[..n])) {
            Ok(request) => inside.perform(&request, beside.as_slice(), &mut out),
            Err(_) => Err(Errno::ENOSYS),
        };
        beside.close();
        let mut bytes = Buffer::<128>::new();
        let errno = done.err().map_or(0, |errno| errno.0);
        Opened { errno, outside: false, found: out.found, end: PhantomData }.put(&mut bytes);
        let mut sent = Err(Errno::ETOOMANYREFS);
        // As many descriptors are on their way as this user may have open: they arrive, or nobody waits for them.
        for _ in 0..10_000 {
            sent = send_message(SOCKET, bytes.as_slice(), &[], &out.fds[..out.count], true);
            if sent != Err(Errno::ETOOMANYREFS) {
                break;
            }
            sleep(1_000_000);
        }
        out.fds[..out.count].iter().for_each(|&f| close(f));
        if sent.is_err() {
            exit(0);
        }
    }
}

/// The way in; what comes back is the container's root, if it has one of its own.
fn enter(container: Container<'_>, first: Fd) -> Result<Option<Fd>, Errno> {
    let plan = container.plan;
    let mut root = None;
    // A process with the host's root has no files of its own.
    if plan.namespaces & CLONE_NEWNS != 0 && plan.steps.iter().any(|step| matches!(step, Step::PivotRoot {})) {
        let mut path = Path::new();
        path.push(b"/proc/");
        path.push_number(u64::from(container.pid));
        path.push(b"/root");
        let found = openat2(AT_FDCWD, path.as_c_str().ok_or(Errno::EINVAL)?, open::PATH | open::DIRECTORY, 0, 0)?;
        // Whether the number was still that process's.
        pidfd_send_signal(first, 0)?;
        root = Some(found);
    }
    let wanted = namespaces(plan) & (CLONE_NEWUSER | CLONE_NEWNET);
    if wanted != 0 {
        setns(first, wanted)?;
    }
    if plan.id_map.is_some() {
        setresgid(0).and_then(|()| setresuid(0))?;
        // The kernel forgot both with the old ids.
        prctl::set_death_signal(SIGKILL)?;
        prctl::set_dumpable(false)?;
    }
    Ok(root)
}

struct Inside<'a> {
    plan: &'a Plan<'a>,
    root: Option<Fd>,
}

struct Out<'a> {
    found: Option<Found<'a>>,
    fds: [Fd; 2],
    count: usize,
}

impl Out<'_> {
    fn add(&mut self, f: Fd) {
        self.fds[self.count] = f;
        self.count += 1;
    }

    fn add_file(&mut self, f: Fd) -> Result<(), Errno> {
        self.add(f);
        let stat = statx(f)?;
        self.found = Some(Found {
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            links: stat.links,
            size: stat.size,
            ino: stat.ino,
            dev: stat.dev,
            seconds: stat.seconds,
            nanoseconds: stat.nanoseconds,
            end: PhantomData,
        });
        Ok(())
    }
}

const INSIDE: u64 = resolve::IN_ROOT | resolve::NO_MAGICLINKS;

impl Inside<'_> {
    fn perform(&self, request: &Opening<'_>, beside: &[Fd], out: &mut Out<'_>) -> Result<(), Errno> {
        let directory = |n: usize| beside.get(n).copied().ok_or(Errno::EPROTO);
        match *request {
            Opening::Sockets {} => {
                if namespaces(self.plan) & CLONE_NEWNET == 0 {
                    return Err(EOPNOTSUPP);
                }
                out.add(tcp_socket(false)?);
                if let Ok(f) = tcp_socket(true) {
                    out.add(f);
                }
                Ok(())
            }
            Opening::UnixStream { path } => {
                let f = openat2(self.root()?, path, open::PATH, 0, INSIDE)?;
                let connected = fstat(f).and_then(|stat| if stat.is_socket() { Ok(()) } else { Err(ENOTSOCK) }).and_then(|()| {
                    let path = descriptor_path(f);
                    connect_unix(CStr::from_bytes_until_nul(&path).map_err(|_| Errno::EINVAL)?)
                });
                close(f);
                out.add(connected?);
                Ok(())
            }
            Opening::File { path, how, mode } => {
                let at = match beside.first() {
                    Some(&f) => f,
                    None => self.root()?,
                };
                out.add_file(file(at, path, how, mode)?)
            }
            Opening::MakeDirectory { name, mode } => mkdirat(directory(0)?, one_part(name)?, mode),
            Opening::Symlink { contents, name } => symlinkat(contents, directory(0)?, one_part(name)?),
            Opening::Link { from, name } => linkat(directory(0)?, one_part(from)?, directory(1)?, one_part(name)?),
            Opening::Remove { name, directory: is_directory } => unlinkat(directory(0)?, one_part(name)?, is_directory),
            Opening::Attributes { what, uid, gid, mode, seconds, nanoseconds } => {
                let f = directory(0)?;
                // The owner first: changing it takes set-id bits away.
                if what & attribute::OWNER != 0 {
                    fchownat(f, c"", uid, gid)?;
                }
                if what & attribute::MODE != 0 {
                    chmod_descriptor(f, mode & 0o7777)?;
                }
                if what & attribute::TIME != 0 {
                    set_modified(f, seconds, nanoseconds)?;
                }
                Ok(())
            }
            Opening::Never(_, never) => match never {},
        }
    }

    fn root(&self) -> Result<Fd, Errno> {
        self.root.ok_or(EOPNOTSUPP)
    }
}

/// A name in a directory, and nothing that leads elsewhere.
fn one_part(name: &CStr) -> Result<&CStr, Errno> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(Errno::EINVAL),
        bytes if bytes.contains(&b'/') => Err(Errno::EINVAL),
        _ => Ok(name),
    }
}

/// Opens a file or directory below `at`, or `at` itself by another way.
fn file(at: Fd, path: &CStr, wanted: u32, mode: u32) -> Result<Fd, Errno> {
    let wants = |bit: u32| wanted & bit != 0;
    if wants(how::NEW) {
        return openat2(at, path, open::CREATE | open::EXCLUSIVE | open::WRITE | open::NOFOLLOW, mode & 0o7777, INSIDE);
    }
    let nofollow = if wants(how::NOFOLLOW) { open::NOFOLLOW } else { 0 };
    let directory = if wants(how::DIRECTORY) { open::DIRECTORY } else { 0 };
    let found = match path.to_bytes() {
        b"" => at,
        _ => openat2(at, path, open::PATH | nofollow | directory, 0, INSIDE)?,
    };
    if wants(how::NAME) {
        return if found == at { duplicate_above(at, 3) } else { Ok(found) };
    }
    let opened = fstat(found).and_then(|stat| {
        let flags = match (stat.is_directory(), wants(how::DIRECTORY)) {
            (true, true) => open::READ | open::DIRECTORY,
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            _ if stat.is_symlink() => return Err(Errno::ELOOP),
            _ if !stat.is_regular() => return Err(ENXIO),
            _ if wants(how::WRITE) => {
                open::WRITE | if wants(how::TRUNCATE) { open::TRUNCATE } else { 0 } | if wants(how::APPEND) { open::APPEND } else { 0 }
            }
            _ => open::READ,
        };
        // Who holds a lease on it (fcntl(2)) doesn't let us wait.
        let path = descriptor_path(found);
        let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::EINVAL)?;
        openat2(AT_FDCWD, path, flags | open::NONBLOCK | open::NOCTTY, 0, 0)
    });
    if found != at {
        close(found);
    }
    opened
}
