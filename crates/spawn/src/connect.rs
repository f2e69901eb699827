//! Connecting to a port or a Unix socket inside, from outside.

use crate::delay::Delay;
use crate::error::Error;
use crate::exec::Interior;
use crate::opener::{self, Answered};
use crate::reactor::Interest;
use crate::socket::Socket;
use crate::wire::Opening;
use rustix::io::Errno;
use std::ffi::CString;
use std::fmt;
use std::future::Future;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

/// Why nothing was connected.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConnectFault {
    /// Nothing listens there, on IPv4's loopback or IPv6's.
    Refused,
    /// There is nothing at this path inside.
    NoSuchPath,
    /// What is at this path isn't a socket.
    NotASocket,
    /// The process has no network namespace of its own: its ports are the host's.
    HostNetwork,
    /// The process has no root of its own: its paths are the host's.
    HostRoot,
    /// Anything else, as the kernel says it.
    Other {
        /// The number of the error.
        errno: i32,
    },
}

impl fmt::Display for ConnectFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("nothing listens there"),
            Self::NoSuchPath => f.write_str("there is no such path inside"),
            Self::NotASocket => f.write_str("what is there isn't a socket"),
            Self::HostNetwork => f.write_str("it has the host's network"),
            Self::HostRoot => f.write_str("it has the host's root"),
            Self::Other { errno } => f.write_str(&crate::error::errno_text(*errno)),
        }
    }
}

impl ConnectFault {
    fn of_port(errno: i32) -> Self {
        const REFUSED: i32 = Errno::CONNREFUSED.raw_os_error();
        const NOT_ITS_OWN: i32 = Errno::OPNOTSUPP.raw_os_error();
        match errno {
            REFUSED => Self::Refused,
            NOT_ITS_OWN => Self::HostNetwork,
            errno => Self::Other { errno },
        }
    }

    fn of_path(errno: i32) -> Self {
        const REFUSED: i32 = Errno::CONNREFUSED.raw_os_error();
        const NO_ENTRY: i32 = Errno::NOENT.raw_os_error();
        const NO_DIRECTORY: i32 = Errno::NOTDIR.raw_os_error();
        const NO_SOCKET: i32 = Errno::NOTSOCK.raw_os_error();
        const NOT_ITS_OWN: i32 = Errno::OPNOTSUPP.raw_os_error();
        match errno {
            REFUSED => Self::Refused,
            NO_ENTRY | NO_DIRECTORY => Self::NoSuchPath,
            NO_SOCKET => Self::NotASocket,
            NOT_ITS_OWN => Self::HostRoot,
            errno => Self::Other { errno },
        }
    }
}

#[derive(Debug, Clone)]
enum To {
    Port(u16),
    Path(PathBuf, CString),
}

#[derive(Debug)]
enum Stage {
    /// Something inside is being asked for sockets.
    Asking(Socket),
    /// One is being connected; the other is for later.
    Connecting {
        socket: Socket,
        other: Option<OwnedFd>,
    },
    /// The listener's queue is full.
    Waiting(Delay),
    Done,
}

/// A connection that is being made. A future; [`wait`](Self::wait) blocks instead. Dropping it leaves nothing.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct Connecting {
    interior: Interior,
    to: To,
    stage: Stage,
}

/// How long is waited before a listener is asked again whose queue is full.
const PAUSE: Duration = Duration::from_millis(5);

impl Interior {
    /// Connects to a port in the process's network namespace, by its loopback interface: IPv4's, and IPv6's where nothing listens there.
    /// Needs no port on the host and no network but that. For as many at once as there are descriptors.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Supervisor`]; of the future also [`Error::Connect`], [`Error::Unsupported`].
    pub fn connect(&self, port: u16) -> Result<Connecting, Error> {
        Connecting::new(self, To::Port(port))
    }

    /// Connects to a Unix socket at a path inside, looked up below the root, as the root of its user namespace. One without a root of its own
    /// has no path inside.
    ///
    /// # Errors
    /// As [`connect`](Self::connect); [`Error::Invalid`].
    pub fn connect_unix(&self, path: &Path) -> Result<Connecting, Error> {
        let name = CString::new(path.as_os_str().as_bytes()).ok().filter(|name| (1..4096).contains(&name.count_bytes()));
        let name = name.ok_or_else(|| Error::Invalid { problems: vec![format!("{path:?} can't be the path of a socket")] })?;
        Connecting::new(self, To::Path(path.to_owned(), name))
    }
}

impl Connecting {
    fn new(interior: &Interior, to: To) -> Result<Self, Error> {
        let stage = ask(interior, &to)?;
        Ok(Self { interior: interior.clone(), to, stage })
    }

    /// Waits, blocking this thread.
    ///
    /// # Errors
    /// As [`Interior::connect`].
    pub fn wait(mut self) -> Result<Socket, Error> {
        use std::sync::Arc;
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut cx = Context::from_waker(&waker);
        loop {
            match Pin::new(&mut self).poll(&mut cx) {
                Poll::Ready(done) => return done,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    fn fault(&self, fault: ConnectFault) -> Error {
        let to = match &self.to {
            To::Port(port) => format!("port {port}"),
            To::Path(path, _) => path.display().to_string(),
        };
        Error::Connect { to, fault }
    }

    fn kernel_refuses(&self, errno: i32) -> Error {
        self.fault(match self.to {
            To::Port(_) => ConnectFault::of_port(errno),
            To::Path(..) => ConnectFault::of_path(errno),
        })
    }

    /// What an opener said; what is to be done then.
    fn opened(&mut self, answered: Answered) -> Result<Option<Socket>, Error> {
        let watched = |source| Error::Supervisor { attempted: "watch a socket".into(), source };
        let is = |errno: Errno| answered.errno == errno.raw_os_error();
        let mut fds = answered.fds.into_iter();
        match (answered.errno, &self.to) {
            // Too many at once, for the supervisor or for the listener.
            (_, _) if is(Errno::AGAIN) => {
                self.stage = Stage::Waiting(Delay::new(PAUSE));
                Ok(None)
            }
            (0, To::Path(..)) => {
                let socket = fds.next().ok_or_else(|| watched(io::ErrorKind::InvalidData.into()))?;
                Socket::new(socket).map(Some).map_err(watched)
            }
            (0, To::Port(_)) => {
                let socket = fds.next().ok_or_else(|| watched(io::ErrorKind::InvalidData.into()))?;
                self.begin(socket, fds.next())?;
                Ok(None)
            }
            _ if answered.outside && is(Errno::SRCH) => Err(Error::Ended),
            _ if answered.outside => Err(Error::Step {
                step: "enter the container's namespaces".into(),
                detail: None,
                errno: answered.errno,
                user_namespace: false,
            }),
            _ => Err(self.kernel_refuses(answered.errno)),
        }
    }

    /// Begins to connect this socket.
    fn begin(&mut self, socket: OwnedFd, other: Option<OwnedFd>) -> Result<(), Error> {
        let To::Port(port) = self.to else { return Ok(()) };
        let v6 = rustix::net::getsockname(&socket).is_ok_and(|name| name.address_family() == rustix::net::AddressFamily::INET6);
        let address = if v6 { SocketAddr::from((Ipv6Addr::LOCALHOST, port)) } else { SocketAddr::from((Ipv4Addr::LOCALHOST, port)) };
        match rustix::net::connect(&socket, &address) {
            Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {
                let socket = Socket::new(socket).map_err(|source| Error::Supervisor { attempted: "watch a socket".into(), source })?;
                self.stage = Stage::Connecting { socket, other };
                Ok(())
            }
            Err(errno) => self.next(errno, other),
        }
    }

    /// The next address, or the end.
    fn next(&mut self, errno: Errno, other: Option<OwnedFd>) -> Result<(), Error> {
        match other {
            Some(other) => match self.begin(other, None) {
                // An address that isn't there (IPv6 is off) says nothing; that nothing listens at the other does.
                Err(Error::Connect { .. }) if errno == Errno::CONNREFUSED => Err(self.kernel_refuses(errno.raw_os_error())),
                done => done,
            },
            None => Err(self.kernel_refuses(errno.raw_os_error())),
        }
    }

    fn poll_stage(&mut self, cx: &mut Context<'_>) -> Poll<Result<Socket, Error>> {
        loop {
            match &mut self.stage {
                Stage::Asking(socket) => match ready!(opener::poll_hear(socket, cx)) {
                    Ok(answered) => {
                        if let Some(socket) = self.opened(answered)? {
                            return Poll::Ready(Ok(socket));
                        }
                    }
                    Err(_) => return Poll::Ready(Err(self.interior.silence_of_opener())),
                },
                Stage::Connecting { socket, other } => {
                    let connected = ready!(socket.poll_io(cx, Interest::Write, connected));
                    let other = other.take();
                    match connected {
                        Ok(()) => match std::mem::replace(&mut self.stage, Stage::Done) {
                            Stage::Connecting { socket, .. } => return Poll::Ready(Ok(socket)),
                            _ => return Poll::Ready(Err(Error::Ended)),
                        },
                        Err(error) => {
                            let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                            self.next(errno, other)?;
                        }
                    }
                }
                Stage::Waiting(delay) => {
                    ready!(Pin::new(delay).poll(cx));
                    self.stage = ask(&self.interior, &self.to)?;
                }
                Stage::Done => return Poll::Ready(Err(Error::Ended)),
            }
        }
    }
}

/// Asks for what is needed.
fn ask(interior: &Interior, to: &To) -> Result<Stage, Error> {
    let request = match to {
        To::Port(_) => Opening::Sockets {},
        To::Path(_, name) => Opening::UnixStream { path: name },
    };
    let socket = opener::begin(interior, &request)?;
    let socket = Socket::new(socket).map_err(|source| Error::Supervisor { attempted: "watch a socket".into(), source })?;
    Ok(Stage::Asking(socket))
}

/// Whether a connection was made, or why not: EAGAIN while that isn't known.
fn connected(fd: &OwnedFd) -> Result<(), Errno> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let mut polled = [PollFd::new(fd, PollFlags::OUT)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    if poll(&mut polled, Some(&now))? == 0 {
        return Err(Errno::AGAIN);
    }
    match rustix::net::sockopt::socket_error(fd)? {
        Ok(()) => Ok(()),
        // A listener that says so, not the kernel that asks for patience.
        Err(Errno::AGAIN) => Err(Errno::CONNREFUSED),
        Err(errno) => Err(errno),
    }
}

impl Future for Connecting {
    type Output = Result<Socket, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.poll_stage(cx)
    }
}
