//! A process that runs, and how it ended.

use crate::client::{Connection, Said};
use crate::error::Error;
use crate::exec::Interior;
use crate::health::Health;
use crate::log::Log;
use crate::reactor::Reactor;
use crate::signal::Signal;
use crate::stdio::{PipeReader, PipeWriter};
use crate::terminal::Terminal;
use crate::wire::Request;
use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// The number of [`Request::Hold`].
const HOLD: u32 = 22;

/// A wait status, as wait(2) gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Status(pub(crate) i32);

impl Status {
    /// From what wait(2) gave.
    pub fn from_raw(status: i32) -> Self {
        Self(status)
    }

    /// As wait(2) gave it.
    pub fn into_raw(self) -> i32 {
        self.0
    }

    /// The exit code, 0 to 255, of a process that exited.
    pub fn code(self) -> Option<i32> {
        (self.0 & 0x7f == 0).then_some(self.0 >> 8 & 0xff)
    }

    /// The signal that ended a process.
    pub fn signal(self) -> Option<Signal> {
        Signal::from_number(self.0 & 0x7f)
    }

    /// Whether it exited with 0.
    pub fn success(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.code(), self.signal()) {
            (Some(code), _) => write!(f, "exit code {code}"),
            (_, Some(signal)) => write!(f, "{signal}"),
            _ => write!(f, "status {:#x}", self.0),
        }
    }
}

/// Who ended a process that didn't end by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum KilledBy {
    /// Nobody: it ended by itself, or by a signal from elsewhere, or the kernel's memory killer.
    Nobody,
    /// [`Child::kill`].
    Handle,
    /// [`Spawn::wall`](crate::Spawn::wall) ran out.
    WallClock,
    /// Its owner died, or dropped it.
    Lifeline,
    /// [`Child::stop`] waited its grace in vain.
    Grace,
    /// The container in which it was [one more command](crate::Exec) ended.
    Container,
    /// [`Spawn::cpu_time`](crate::Spawn::cpu_time) was spent.
    CpuTime,
    /// [`Spawn::output_limit`](crate::Spawn::output_limit) was passed.
    OutputLimit,
    /// [`Spawn::idle_timeout`](crate::Spawn::idle_timeout) ran out.
    Idle,
}

/// How a process ended, and what it used.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Ended {
    /// The command's status.
    pub status: Status,
    /// Who ended it.
    pub killed_by: KilledBy,
    /// From the command's start to its end.
    pub wall: Duration,
    /// CPU time in user mode, of the command and of every descendant that was waited for.
    pub cpu_user: Duration,
    /// CPU time in the kernel, likewise.
    pub cpu_system: Duration,
    /// The largest resident set of one process, in bytes.
    pub max_rss: u64,
    /// Contents of the files of [`CgroupPlacement::read_at_end`](crate::CgroupPlacement), in that order; at most 4 KiB each.
    pub files: Vec<Vec<u8>>,
}

impl Ended {
    /// The end of a run that [was kept](crate::Spawn::ended); none where nobody was left to tell it.
    ///
    /// # Errors
    /// As std's for files; `InvalidData` for what this version doesn't understand.
    pub fn read(path: &Path) -> io::Result<Option<Self>> {
        let bytes = std::fs::read(path)?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let invalid = || io::Error::new(io::ErrorKind::InvalidData, format!("{}: no end of a run", path.display()));
        crate::client::ended_of(&bytes).ok_or_else(invalid).map(Some)
    }
}

/// Something that couldn't be removed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Left {
    /// What is left.
    pub path: PathBuf,
    /// Why.
    pub error: String,
}

/// A process that runs under a supervisor. Dropping it ends everything the process started, unless it was detached.
///
/// `Send` and `Sync`; all methods take `&self`. It belongs to no runtime: `wait` blocks, `poll_ended` works under any executor.
#[derive(Debug)]
#[must_use = "dropping a Child kills it"]
pub struct Child {
    pub(crate) connection: Arc<Connection>,
    pub(crate) pid: u32,
    pub(crate) command: u32,
    /// The writing end of the process's input, if it was [piped](crate::Stdio::piped).
    pub stdin: Option<PipeWriter>,
    /// The reading end of the process's output, if it was piped.
    pub stdout: Option<PipeReader>,
    /// The reading end of the process's error output, if it was piped.
    pub stderr: Option<PipeReader>,
    /// The outer end of its terminal, if it was started with [one](crate::Spawn::terminal).
    pub terminal: Option<Terminal>,
}

impl Child {
    /// Takes up the conversation with a supervisor that listens at `path` ([`Spawn::listen`](crate::Spawn::listen)). Dropping this one
    /// lets go without killing.
    ///
    /// Blocks for as long as the supervisor takes to answer, usually microseconds.
    pub fn attach(path: &Path) -> Result<Self, Error> {
        let attempted = |source| Error::Attach { path: path.to_owned(), source };
        // By its directory's descriptor: the name of a socket has 107 bytes, and people keep things deeper than that.
        let parent = std::fs::File::open(path.parent().unwrap_or(Path::new("/"))).map_err(attempted)?;
        let short = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string()).join(path.file_name().unwrap_or_default());
        let socket = UnixStream::connect(short).map_err(attempted)?;
        let connection = Connection::new(socket.into(), None);
        Reactor::get().and_then(|reactor| reactor.watch_supervisor(&connection)).map_err(attempted)?;
        let started = connection.wait(|said| match (&said.started, said.closed) {
            (Some(started), _) => Some(Some((started.pid, started.command))),
            (None, true) => Some(None),
            (None, false) => None,
        });
        let (pid, command) = started.ok_or_else(|| attempted(io::ErrorKind::ConnectionAborted.into()))?;
        Ok(Self { connection, pid, command, stdin: None, stdout: None, stderr: None, terminal: None })
    }

    /// Asks for one more descriptor of the outer end of its terminal, also of one that was [attached](Self::attach) to:
    /// [`poll_terminal`](Self::poll_terminal) gives it. Whoever reads takes what is shown away from the others who read.
    ///
    /// # Errors
    /// [`Error::Ended`]; [`Error::Supervisor`].
    pub fn ask_for_terminal(&self) -> Result<(), Error> {
        let asked = self.connection.request(&Request::Terminal {});
        asked.map_err(|source| self.interior().ended_or(Error::Supervisor { attempted: "ask the supervisor".into(), source }))
    }

    /// Waits for what [`ask_for_terminal`](Self::ask_for_terminal) asked for. [`Error::Unsupported`] where it has none.
    pub fn poll_terminal(&self, cx: &mut Context<'_>) -> Poll<Result<Terminal, Error>> {
        let come = |said: &mut Said| match said.terminal.take() {
            Some(master) => Some(Ok(master)),
            None if said.unknown >> 23 & 1 == 1 => Some(Err(Error::Unsupported { what: "give its terminal out" })),
            None if said.closed => Some(Err(Error::Ended)),
            None => None,
        };
        let attempted = |source| Error::Supervisor { attempted: "watch the terminal".into(), source };
        self.connection.poll(cx, come).map(|master| master.and_then(|master| Terminal::new(master).map_err(attempted)))
    }

    /// The first process's id in this process's pid namespace. For messages; what acts on processes goes through the supervisor.
    pub fn id(&self) -> u32 {
        self.pid
    }

    /// The command's id as its PID 1 counts; [`id`](Self::id) without an init. Of one [more command](crate::Exec): its number among those of
    /// its container.
    pub fn command_id(&self) -> u32 {
        self.command
    }

    /// Its inside, in which further commands are executed. Holding it holds nothing alive.
    pub fn interior(&self) -> Interior {
        Interior::new(&self.connection)
    }

    /// What it says on the streams that are [kept](crate::Stdio::log); also when it has ended, and when the file is gone. None where
    /// nothing is kept, and of a process that was [attached](Self::attach) to: there [`Log::open`](crate::Log::open) takes the file's path.
    pub fn log(&self) -> Option<Log> {
        self.connection.now(|said| said.log.clone())
    }

    /// Waits, blocking, until it has ended. By many at once, and again later.
    ///
    /// # Errors
    /// [`Error::Lost`] where the supervisor was killed.
    pub fn wait(&self) -> Result<Arc<Ended>, Error> {
        self.connection.wait(ended)
    }

    /// The same as a future; cancel-safe.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Result<Arc<Ended>, Error>> {
        self.connection.poll(cx, ended)
    }

    /// How it ended, if it has.
    pub fn try_wait(&self) -> Result<Option<Arc<Ended>>, Error> {
        self.connection.now(|said| ended(said).transpose())
    }

    /// Waits, blocking, until everything that was made for it is taken back; what couldn't be is the answer.
    pub fn wait_gone(&self) -> Result<Vec<Left>, Error> {
        self.connection.wait(gone)
    }

    /// The same as a future; cancel-safe.
    pub fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<Result<Vec<Left>, Error>> {
        self.connection.poll(cx, gone)
    }

    /// What its tests have said so far; none before the first has ended, or if nobody asked for any.
    pub fn health(&self) -> Option<Health> {
        self.connection.now(|said| said.health.clone())
    }

    /// Waits until its tests have said something else than `known`, or it has ended. Cancel-safe.
    pub fn poll_health(&self, cx: &mut Context<'_>, known: Option<&Health>) -> Poll<Option<Health>> {
        self.connection.poll(cx, |said| {
            let over = said.ended.is_some() || said.closed;
            (over || said.health.as_ref() != known).then(|| said.health.clone())
        })
    }

    /// Sends a signal to the command; SIGKILL to everything. A process that has ended gets none, which is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        self.request(&Request::Signal { number: signal.number() as u32 })
    }

    /// Ends everything at once.
    pub fn kill(&self) -> Result<(), Error> {
        self.request(&Request::Kill {})
    }

    /// Sends a signal, and ends everything after `grace` (to the millisecond) if that didn't. Doesn't wait for either.
    pub fn stop(&self, signal: Signal, grace: Duration) -> Result<(), Error> {
        let grace = u64::try_from(grace.as_millis()).unwrap_or(u64::MAX);
        self.request(&Request::Stop { number: signal.number() as u32, grace })
    }

    /// Asks the supervisor to outlive this process. [`Child::poll_detached`] tells when it has agreed.
    pub fn detach(&self) -> Result<(), Error> {
        self.request(&Request::Detach {})
    }

    /// Asks the supervisor to outlive this process, and to end everything when the last of those who asked so has let go of its handle or died:
    /// whoever is [attached](Self::attach) may. [`Child::poll_detached`] tells when it has agreed.
    pub fn hold(&self) -> Result<(), Error> {
        self.request(&Request::Hold {})
    }

    /// Waits until the supervisor has agreed to outlive this process.
    pub fn poll_detached(&self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.connection.poll(cx, |said| match said {
            Said { detached: Some(0), .. } => Some(Ok(())),
            Said { detached: Some(errno), .. } => Some(Err(Error::Supervisor {
                attempted: "listen for others, which a detached process needs".into(),
                source: io::Error::from_raw_os_error(*errno),
            })),
            // Of an older version, which can't be held.
            Said { unknown, .. } if *unknown & 1 << HOLD != 0 => Some(Err(Error::Supervisor {
                attempted: "be held by several, which is newer than the supervisor".into(),
                source: io::ErrorKind::Unsupported.into(),
            })),
            Said { closed: true, .. } => Some(Err(Error::Lost)),
            _ => None,
        })
    }

    fn request(&self, request: &Request<'_>) -> Result<(), Error> {
        match self.connection.request(request) {
            Ok(()) => Ok(()),
            // It has ended, and its supervisor after it.
            Err(_) if self.connection.now(|said| said.ended.is_some() || said.closed) => Ok(()),
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            Err(source) => Err(Error::Supervisor { attempted: "ask the supervisor".into(), source }),
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.connection.let_go();
    }
}

fn ended(said: &mut Said) -> Option<Result<Arc<Ended>, Error>> {
    match said {
        Said { ended: Some(ended), .. } => Some(Ok(ended.clone())),
        Said { closed: true, .. } => Some(Err(Error::Lost)),
        _ => None,
    }
}

fn gone(said: &mut Said) -> Option<Result<Vec<Left>, Error>> {
    match said {
        Said { gone: Some(left), .. } => Some(Ok(left.clone())),
        Said { closed: true, .. } => Some(Err(Error::Lost)),
        _ => None,
    }
}
