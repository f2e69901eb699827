//! A network namespace, held by a descriptor.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use rustix::fs::{Mode, OFlags};

use crate::error::Error;
use crate::netlink::{Batch, Socket};

/// `statfs` type of files that are namespaces.
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// A network namespace. It lives as long as a descriptor of it, a process or thread in it, or a mount of it; dropping this
/// closes the descriptor at once, and the kernel takes the namespace down in the background.
///
/// It costs about 0.5 ms to make and 200 KiB of kernel memory to keep.
///
/// `Send + Sync`; any number of threads may [`run`](NetNs::run) in it at the same time.
#[derive(Debug)]
pub struct NetNs(OwnedFd);

impl NetNs {
    /// Makes a new network namespace with its loopback interface up, and nothing else: no way out and none in.
    ///
    /// The calling thread stays where it is. Needs CAP_SYS_ADMIN.
    ///
    /// # Errors
    ///
    /// [`Error::Create`]: EPERM without the capability, ENOSPC at `/proc/sys/user/max_net_namespaces`; [`Error::Thread`];
    /// [`Error::Open`] without a mounted `/proc`; [`Error::Socket`] and [`Error::Steps`] for loopback.
    pub fn new() -> Result<NetNs, Error> {
        in_a_thread(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Create(errno.into()))?;
            let inside = NetNs::current()?;
            Socket::open()?.perform(&Batch::loopback_up())?;
            Ok(inside)
        })?
    }

    /// The calling thread's network namespace. Needs no privilege but a mounted `/proc`.
    ///
    /// # Errors
    ///
    /// [`Error::Open`].
    ///
    /// ```
    /// use coracle_netns::NetNs;
    /// # fn main() -> Result<(), coracle_netns::Error> {
    /// assert!(NetNs::current()?.is(&NetNs::open("/proc/self/ns/net")?));
    /// # Ok(()) }
    /// ```
    pub fn current() -> Result<NetNs, Error> {
        NetNs::open("/proc/thread-self/ns/net")
    }

    /// Opens a namespace by a file, such as `/proc/PID/ns/net` or `/run/netns/NAME`.
    ///
    /// Whether it is a *network* namespace is seen when it is entered.
    ///
    /// # Errors
    ///
    /// [`Error::Open`] (EACCES for another user's process); [`Error::NotANamespace`].
    pub fn open(path: impl AsRef<Path>) -> Result<NetNs, Error> {
        let path = path.as_ref();
        let failed = |errno: rustix::io::Errno| Error::Open { path: path.to_owned(), source: errno.into() };
        // NONBLOCK: a FIFO that somebody put there would wait for a writer for ever.
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).map_err(failed)?;
        // Its type differs between architectures.
        #[allow(clippy::unnecessary_cast)]
        let kind = rustix::fs::fstatfs(&fd).map_err(failed)?.f_type as u64;
        match kind {
            NSFS_MAGIC => Ok(NetNs(fd)),
            _ => Err(Error::NotANamespace { path: path.to_owned() }),
        }
    }

    /// Runs a closure in the namespace, and returns what it returns.
    ///
    /// It runs in a thread of its own, which ends with it; the caller waits. Sockets opened there stay in the namespace for
    /// as long as they live, and can be used from everywhere: that is how a server or a client inside is talked to. The
    /// closure must not start threads that outlive it, since a new thread is born into the namespace of its maker.
    ///
    /// Needs CAP_SYS_ADMIN here and over the namespace. A panic of the closure is the caller's.
    ///
    /// # Errors
    ///
    /// [`Error::Enter`]: EPERM without the capability, EINVAL where it isn't a network namespace; [`Error::Thread`].
    ///
    /// ```no_run
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let postgres = coracle_netns::NetNs::open("/proc/4711/ns/net")?;
    /// let stream = postgres.run(|| std::net::TcpStream::connect("127.0.0.1:5432"))??;
    /// # Ok(()) }
    /// ```
    pub fn run<T: Send>(&self, closure: impl FnOnce() -> T + Send) -> Result<T, Error> {
        in_a_thread(|| {
            nix::sched::setns(self, CloneFlags::CLONE_NEWNET).map_err(|errno| Error::Enter(errno.into()))?;
            Ok(closure())
        })?
    }

    /// Whether both are the same namespace. A namespace that can't be asked is none.
    pub fn is(&self, other: &NetNs) -> bool {
        let id = |ns: &NetNs| rustix::fs::fstat(ns).ok().map(|stat| (stat.st_dev, stat.st_ino));
        id(self).is_some() && id(self) == id(other)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<NetNs> for OwnedFd {
    fn from(ns: NetNs) -> OwnedFd {
        ns.0
    }
}

/// A thread that changes its namespace is never used again: it ends here.
fn in_a_thread<T: Send>(closure: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, closure).map_err(Error::Thread)?;
        Ok(thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}
