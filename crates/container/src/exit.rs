//! How a container ended, and why.

use coracle_cgroups::{Enforced, Events, Refusal, Stat};
use coracle_spawn::{Ended, KilledBy, Signal, Status};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// Why a container ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The command exited with this code, 0 to 255.
    Code(i32),
    /// A signal ended the command, and nobody here sent it on purpose.
    Signal(Signal),
    /// The kernel ended a process for the memory limit, and the command by SIGKILL.
    OutOfMemory,
    /// The wall clock ran out.
    WallClock,
    /// A handle ended it: `kill`, `stop` whose grace ran out, `remove`, or a drop.
    Killed,
    /// It was one more command in a container, and the container ended.
    ContainerEnded,
    /// The processor time was spent: [`cpu_time`](crate::ContainerBuilder::cpu_time).
    CpuTime,
    /// It said too much: [`output_limit`](crate::ContainerBuilder::output_limit).
    OutputLimit,
    /// It said nothing for too long: [`idle_timeout`](crate::ContainerBuilder::idle_timeout).
    IdleTimeout,
    /// The kernel refused it a process for the limit on those, and the command failed afterwards, by an exit code other than 0 or a signal;
    /// [`ExitStatus::code`] and [`ExitStatus::signal`] tell which.
    Pids,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "ended by {signal}"),
            Self::OutOfMemory => f.write_str("out of memory: the memory limit was hit"),
            Self::WallClock => f.write_str("out of time: the wall clock ran out"),
            Self::Killed => f.write_str("killed"),
            Self::ContainerEnded => f.write_str("killed: the container ended"),
            Self::CpuTime => f.write_str("out of time: the processor time was spent"),
            Self::OutputLimit => f.write_str("killed: it said more than was allowed"),
            Self::IdleTimeout => f.write_str("killed: it said nothing for too long"),
            Self::Pids => f.write_str("failed after the limit on processes was hit"),
        }
    }
}

/// A command's end. Non-zero is no error: ask [`success`](Self::success).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ExitStatus {
    status: Status,
    reason: Reason,
}

impl ExitStatus {
    pub(crate) fn new(ended: &Ended, events: &Events) -> Self {
        let status = ended.status;
        let reason = match (ended.killed_by, status.code(), status.signal()) {
            // It may have ended by itself just before it was killed.
            (_, Some(code), _) if code != 0 && events.pids_limit_hits > 0 => Reason::Pids,
            (_, Some(code), _) => Reason::Code(code),
            (KilledBy::CpuTime, ..) => Reason::CpuTime,
            (KilledBy::OutputLimit, ..) => Reason::OutputLimit,
            (KilledBy::Idle, ..) => Reason::IdleTimeout,
            (KilledBy::WallClock, ..) => Reason::WallClock,
            (KilledBy::Container, ..) => Reason::ContainerEnded,
            (KilledBy::Handle | KilledBy::Lifeline | KilledBy::Grace, ..) => Reason::Killed,
            (_, _, Some(Signal::KILL)) if events.oom_killed() => Reason::OutOfMemory,
            (_, _, Some(_)) if events.pids_limit_hits > 0 => Reason::Pids,
            (_, _, Some(signal)) => Reason::Signal(signal),
            _ => Reason::Killed,
        };
        Self { status, reason }
    }

    /// Whether the command exited with 0.
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// The exit code, 0 to 255, of a command that exited.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended the command.
    pub fn signal(&self) -> Option<Signal> {
        self.status.signal()
    }

    /// Why.
    pub fn reason(&self) -> Reason {
        self.reason
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

/// What a container used, of its start to its end. `None` is what this kernel or this user's cgroups don't count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Usage {
    /// From the command's start to its end.
    pub wall: Duration,
    /// CPU time in user mode: of the whole cgroup where there is one, else of the processes that were waited for.
    pub cpu_user: Duration,
    /// CPU time in the kernel, likewise.
    pub cpu_system: Duration,
    /// The most memory all processes together held, page cache included, in bytes; with a memory limit, or on cgroup v2 from
    /// Linux 5.19.
    pub memory_peak: Option<u64>,
    /// The largest resident set of one process, in bytes.
    pub max_rss: u64,
    /// The most processes and threads at once (with a pids limit, Linux 6.12).
    pub pids_peak: Option<u64>,
    /// Bytes read from disks (cgroup v2).
    pub io_read: Option<u64>,
    /// Bytes written to disks (cgroup v2).
    pub io_write: Option<u64>,
}

impl Usage {
    pub(crate) fn new(ended: &Ended, raw: &[(Stat, &[u8])]) -> Self {
        let counted = coracle_cgroups::Usage::from_raw(raw.iter().copied());
        Self {
            wall: ended.wall,
            cpu_user: counted.cpu_user.unwrap_or(ended.cpu_user),
            cpu_system: counted.cpu_system.unwrap_or(ended.cpu_system),
            memory_peak: counted.memory_peak,
            max_rss: ended.max_rss,
            pids_peak: counted.pids_peak,
            io_read: counted.io_read,
            io_write: counted.io_write,
        }
    }
}

/// All that a command said, and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Vec<u8>,
    /// What it wrote to standard error.
    pub stderr: Vec<u8>,
    /// What it used.
    pub usage: Usage,
    /// The limits that held, and by what.
    pub enforced: Vec<Enforced>,
    /// The limits that were asked for as best effort and didn't hold.
    pub waived: Vec<Refusal>,
}

impl Output {
    /// Standard output as text, with what isn't UTF-8 replaced.
    pub fn stdout_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stdout)
    }

    /// Standard error as text, likewise.
    pub fn stderr_lossy(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.stderr)
    }
}
