//! One more command in a running process's namespaces.

use crate::client::{Connection, Failed, Said};
use crate::command::{Command, c_string, command_setters};
use crate::error::{Error, ExecFault};
use crate::plan::Many;
use crate::reactor::Reactor;
use crate::signal::Signal;
use crate::spawn::{Ends, Starting, What, pipes};
use crate::stdio::Stdio;
use crate::wire::{self, Field, Kind, Request, cause, exec_step, stage};
use std::ffi::{OsStr, OsString};
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

/// Describes one more command in a running process's namespaces: [`Interior::start`] executes it.
///
/// It has what the first command has: root, mounts, user, environment, resource limits, capabilities, system call filter, control groups.
/// Nobody can ask for more. It may be another user, stand in another directory, and have more variables.
#[derive(Debug)]
#[must_use = "a description does nothing until it is started"]
pub struct Exec {
    command: Command,
    user: Option<OsString>,
    directory: Option<PathBuf>,
    wall: Option<Duration>,
    background: bool,
    read_at_end: Vec<String>,
    terminal: Option<(u16, u16)>,
}

impl Exec {
    /// This program with no arguments. A name without a slash is looked for in the PATH of the environment it gets, inside.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            command: Command::new(program.into()),
            user: None,
            directory: None,
            wall: None,
            background: false,
            read_at_end: Vec::new(),
            terminal: None,
        }
    }

    command_setters!("A variable, over the first command's.");

    /// The user, instead of the first command's, as [`Spawn::user`](crate::Spawn::user) takes it.
    pub fn user(mut self, user: impl Into<OsString>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The working directory, instead of the first command's. It must be there.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Everything it started is killed this long after it was asked for, to the millisecond.
    pub fn wall(mut self, wall: Duration) -> Self {
        self.wall = Some(wall);
        self
    }

    /// Whether what the command leaves running when it has ended by itself lives on, until the container ends. Without, it ends with
    /// the command.
    pub fn background(mut self, yes: bool) -> Self {
        self.background = yes;
        self
    }

    /// Its streams are a terminal, as [`Spawn::terminal`](crate::Spawn::terminal) says.
    pub fn terminal(mut self, columns: u16, rows: u16) -> Self {
        self.terminal = Some((columns, rows));
        self.command.stdio = [Stdio::null(), Stdio::null(), Stdio::null()];
        self
    }

    /// Files of its control group (`cpu.stat`) whose contents are wanted when it has ended: [`Ended::files`](crate::Ended), in this order,
    /// empty where there is none. One more comes behind them: v1's `memory.oom_control` of the container, if its limit had somebody
    /// killed meanwhile.
    pub fn read_at_end<I: IntoIterator<Item = S>, S: Into<String>>(mut self, names: I) -> Self {
        self.read_at_end = names.into_iter().map(Into::into).collect();
        self
    }

    fn lower(&self) -> Result<Vec<u8>, Error> {
        let mut problems = Vec::new();
        self.command.needs_a_program(&mut problems);
        let (argv, env) = self.command.lower(&mut problems);
        let mut read_at_end = Many::default();
        self.read_at_end.iter().for_each(|name| read_at_end.push(c_string(OsStr::new(name), &mut problems).as_c_str()));
        let user = self.user.as_deref().map(|user| c_string(user, &mut problems));
        let directory = self.directory.as_ref().map(|directory| c_string(directory.as_os_str(), &mut problems));
        if self.command.stdio.iter().any(Stdio::is_log) {
            problems.push("what a further command says isn't kept in the log".into());
        }
        if self.directory.as_ref().is_some_and(|directory| !directory.is_absolute()) {
            problems.push(format!("the working directory {:?} isn't absolute", self.directory.as_deref().unwrap_or("".as_ref())));
        }
        if !problems.is_empty() {
            return Err(Error::Invalid { problems });
        }
        let exec = wire::Exec {
            version: wire::VERSION,
            argv: argv.list(),
            env: env.list(),
            user: user.as_deref(),
            directory: directory.as_deref(),
            wall: self.wall.map_or(0, |wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX).max(1)),
            background: self.background,
            read_at_end: read_at_end.list(),
            terminal: self.terminal.map(|(columns, rows)| wire::Window { columns: columns.into(), rows: rows.into(), end: PhantomData }),
            end: PhantomData,
        };
        let mut bytes = Vec::new();
        exec.put(&mut bytes);
        Ok(bytes)
    }
}

/// A further command that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Running {
    /// Its number among those of its container, from 1.
    pub id: u32,
    /// Its first process's id in this process's pid namespace. For messages.
    pub pid: u32,
    /// How long it has run.
    pub age: Duration,
    /// Its words, or the first of many.
    pub argv: Vec<OsString>,
}

impl Running {
    pub(crate) fn read(running: &wire::Running<'_>) -> Self {
        let argv = running.argv.iter().map(|word| OsStr::from_bytes(word.to_bytes()).to_owned()).collect();
        Self { id: running.id, pid: running.pid, age: Duration::from_nanos(running.age), argv }
    }
}

/// The inside of a process that runs, in which further commands are executed: [`Child::interior`](crate::Child::interior). Cheap to clone.
#[derive(Debug, Clone)]
pub struct Interior {
    pub(crate) connection: Arc<Connection>,
}

/// Tells the answers to questions apart.
static TOKENS: AtomicU32 = AtomicU32::new(0);

impl Interior {
    pub(crate) fn new(connection: &Arc<Connection>) -> Self {
        Self { connection: connection.clone() }
    }

    /// Executes one more command. What comes back is as what [`Spawn::start`](crate::Spawn::start) gives: a future of a
    /// [`Child`](crate::Child), whose verbs are about this command and all that it started, and nothing else of the container. Dropping that
    /// ends them.
    ///
    /// # Errors
    /// [`Error::Invalid`], [`Error::Supervisor`], [`Error::Ended`]; of the future also [`Error::Exec`], [`Error::UnknownUser`],
    /// [`Error::Step`], [`Error::Killed`] and [`Error::Unsupported`].
    pub fn start(&self, exec: Exec) -> Result<Starting, Error> {
        let attempted = |attempted: &str, source: io::Error| Error::Supervisor { attempted: attempted.into(), source };
        let bytes = exec.lower()?;
        let ends = Ends::open(&exec.command.stdio)?;
        let reactor = Reactor::get().map_err(|e| attempted("start a thread", e))?;
        let connection = Connection::new(ends.socket, None);
        let asked = self.connection.request_with(&Request::Exec {}, &[ends.control.as_fd()]);
        asked.map_err(|e| self.ended_or(attempted("ask the supervisor", e)))?;
        drop(ends.control);
        let fds: Vec<_> = std::iter::once(&ends.owner).chain(&ends.theirs).map(AsFd::as_fd).collect();
        match connection.send(Kind::Exec, &bytes, &fds) {
            // It may have been refused already: the answer says why.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {}
            other => other.map_err(|e| attempted("send the command to the supervisor", e))?,
        }
        reactor.watch_supervisor(&connection).map_err(|e| attempted("watch the command", e))?;
        let told = Told { program: exec.command.argv[0].clone(), directory: exec.directory, container: self.connection.clone() };
        Ok(Starting { connection, what: Arc::new(What::Exec(told)), lifeline: true, pipes: Some(pipes(ends.ours)?) })
    }

    /// The further commands that run now, of this process and of others.
    ///
    /// # Errors
    /// [`Error::Ended`], [`Error::Unsupported`], [`Error::Supervisor`].
    pub fn list(&self) -> Result<Asking<Vec<Running>>, Error> {
        self.question(|token| Request::Execs { token }, |said, token| said.execs.remove(&token).map(Ok))
    }

    /// Sends a signal to the further command of this number; SIGKILL to all that it started.
    ///
    /// # Errors
    /// As [`list`](Self::list); [`Error::Ended`] also where that command has ended.
    pub fn signal(&self, id: u32, signal: Signal) -> Result<Asking<()>, Error> {
        let number = signal.number() as u32;
        self.question(
            |token| Request::SignalExec { token, id, number },
            |said, token| said.signalled.remove(&token).map(|errno| if errno == 0 { Ok(()) } else { Err(Error::Ended) }),
        )
    }

    fn question<T>(
        &self,
        request: impl FnOnce(u32) -> Request<'static>,
        look: fn(&mut Said, u32) -> Option<Result<T, Error>>,
    ) -> Result<Asking<T>, Error> {
        let token = TOKENS.fetch_add(1, Ordering::Relaxed);
        let request = request(token);
        let number = match request {
            Request::Execs { .. } => 6,
            _ => 7,
        };
        let asking = Asking { connection: self.connection.clone(), token, number, look };
        self.connection.now(|said| said.asked.insert(token));
        let asked = self.connection.request(&request);
        asked.map_err(|source| self.ended_or(Error::Supervisor { attempted: "ask the supervisor".into(), source }))?;
        Ok(asking)
    }

    pub(crate) fn ended_or(&self, error: Error) -> Error {
        let ended = self.connection.now(|said| said.ended.is_some() || said.closed);
        match &error {
            Error::Supervisor { source, .. }
                if ended || matches!(source.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) =>
            {
                Error::Ended
            }
            _ => error,
        }
    }
}

/// A question to a supervisor. A future; [`wait`](Self::wait) blocks instead.
#[derive(Debug)]
#[must_use = "the answer is in here"]
pub struct Asking<T> {
    connection: Arc<Connection>,
    token: u32,
    number: u32,
    look: fn(&mut Said, u32) -> Option<Result<T, Error>>,
}

impl<T> Asking<T> {
    /// Waits, blocking this thread.
    ///
    /// # Errors
    /// As those of who asked.
    pub fn wait(self) -> Result<T, Error> {
        self.connection.wait(|said| self.answer(said))
    }

    fn answer(&self, said: &mut Said) -> Option<Result<T, Error>> {
        match (self.look)(said, self.token) {
            None if said.unknown >> self.number & 1 == 1 => Some(Err(Error::Unsupported { what: "list and signal further commands" })),
            None if said.closed => Some(Err(Error::Ended)),
            answer => answer,
        }
    }
}

impl<T> Drop for Asking<T> {
    fn drop(&mut self) {
        self.connection.now(|said| {
            said.asked.remove(&self.token);
            said.execs.remove(&self.token);
            said.signalled.remove(&self.token);
        });
    }
}

impl<T> Future for Asking<T> {
    type Output = Result<T, Error>;

    fn poll(self: std::pin::Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.connection.poll(cx, |said| self.answer(said))
    }
}

/// What is told of a further command that couldn't be executed.
#[derive(Debug)]
pub(crate) struct Told {
    program: OsString,
    directory: Option<PathBuf>,
    container: Arc<Connection>,
}

impl Told {
    /// What a supervisor's answer means.
    pub(crate) fn error(&self, failed: &Failed) -> Error {
        const ESRCH: i32 = 3;
        const ENOSYS: i32 = 38;
        let detail = String::from_utf8_lossy(&failed.detail).into_owned();
        let step = |step: String| Error::Step {
            step,
            detail: (!detail.is_empty()).then(|| detail.clone()),
            errno: failed.errno,
            user_namespace: false,
        };
        let program = || self.program.to_string_lossy().into_owned();
        let directory = || self.directory.as_ref().map_or_else(|| "the container's".into(), |d| d.display().to_string());
        match (failed.stage, failed.index) {
            _ if failed.cause == cause::UNKNOWN_USER => Error::UnknownUser { what: "user", name: detail },
            _ if failed.cause == cause::UNKNOWN_GROUP => Error::UnknownUser { what: "group", name: detail },
            _ if failed.cause == cause::BAD_USER => Error::bad_user(&detail),
            _ if failed.cause == cause::UNMAPPED_ID => Error::UnmappedId { id: detail },
            _ if failed.cause == cause::TOO_MANY => step("execute one more command: there are as many as one container may have".into()),
            (stage::STEP, u32::MAX) => Error::Killed,
            (stage::EXEC, _) if failed.cause == cause::NOT_IN_PATH => {
                Error::Exec { program: program(), fault: ExecFault::NotFound { searched: Some(detail) } }
            }
            (stage::EXEC, _) => Error::Exec { program: program(), fault: ExecFault::new(failed, &program(), || detail.clone()) },
            (stage::PLAN, _) if failed.errno == ENOSYS => Error::Unsupported { what: "read this command" },
            (stage::JOIN, _) if failed.errno == ESRCH => Error::Ended,
            (stage::CLONE, _) => step("make one more process in the container".into()),
            (stage::JOIN, _) => step("join the container's namespaces".into()),
            (stage::CGROUP, _) => step("make a cgroup for one more command".into()),
            (stage::STEP, exec_step::CGROUPS) => step("join the container's cgroups".into()),
            (stage::STEP, exec_step::LIMITS) => step("set the container's resource limits".into()),
            (stage::STEP, exec_step::USER) => step("look the user up".into()),
            (stage::STEP, exec_step::DIRECTORY) if failed.cause == cause::OUTSIDE_ROOT => {
                step(format!("enter the working directory {}: it is outside the root", directory()))
            }
            (stage::STEP, exec_step::DIRECTORY) => step(format!("enter the working directory {}", directory())),
            (stage::STEP, exec_step::TERMINAL) => step("make a terminal in the container's devpts".into()),
            (stage::STEP, exec_step::PRIVILEGES) => step("take the user's ids and the container's privileges on".into()),
            _ => step("read the command".into()),
        }
    }

    /// What it means that nothing was answered.
    pub(crate) fn silence(&self) -> Error {
        const EXEC: u64 = 1 << 5;
        match self.container.now(|said| said.unknown) & EXEC {
            0 => Error::Ended,
            _ => Error::Unsupported { what: "execute further commands" },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::Reader;

    #[test]
    fn all_of_a_description_travels() {
        let exec = Exec::new("a").args(["b", "c"]).env("K", "1").env("K", "2").user("u:g").current_dir("/d").background(true);
        let bytes = exec.wall(Duration::from_micros(1)).read_at_end(["cpu.stat"]).lower().unwrap();
        let exec: wire::Exec<'_> = Reader::new(&bytes).take().unwrap();
        let words = |list: &wire::List<'_, &std::ffi::CStr>| list.iter().map(|s| s.to_str().unwrap().to_owned()).collect::<Vec<_>>();
        assert_eq!(
            (words(&exec.argv), words(&exec.env), words(&exec.read_at_end)),
            (vec!["a".to_owned(), "b".into(), "c".into()], vec!["K=2".to_owned()], vec!["cpu.stat".to_owned()])
        );
        assert_eq!((exec.user, exec.directory, exec.wall, exec.background), (Some(c"u:g"), Some(c"/d"), 1, true));
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let exec = Exec::new("").arg("a\0b").env("a=b", "").env("", "").current_dir("relative").user("\0");
        match exec.lower() {
            Err(Error::Invalid { problems }) => assert_eq!(problems.len(), 6, "{problems:?}"),
            other => panic!("{other:?}"),
        }
    }
}
