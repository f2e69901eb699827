//! One more command in a container that runs: its description, and its handle.

use crate::blocking::Async;
use crate::command::{Command, command_setters};
use crate::complete::{self, Complete};
use crate::container::{COLLECTED, Defaults, INHERITED, PIPED};
use crate::error::{Error, Problem};
use crate::exit::{ExitStatus, Output, Usage};
use crate::stdio::{ContainerStderr, ContainerStdin, ContainerStdout, Stdio};
use crate::terminal::ContainerTerminal;
use coracle_cgroups::{Enforced, Events, Refusal, Stat};
use coracle_spawn::{Child, Ended, Interior, Running, Signal, Starting};
use std::ffi::OsString;
use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

/// Describes one more command in a container: [`Container::exec`](crate::Container::exec) begins it. Setters never fail.
///
/// The command has what the container's own has (limits, capabilities, system call filter, masked paths), and a control group of its own
/// below the container's. By that its end is the end of all that it started, whatever sessions and parents those have, while the
/// container goes on. It works in an image without a shell. Where this user has no control groups, whoever was started is found by
/// descent; a process of the container that kills the one that keeps track of them can keep them alive, until the container ends.
#[derive(Clone)]
#[must_use = "a description does nothing until output(), status() or spawn()"]
pub struct ExecBuilder<Face = Async> {
    /// None of a container that doesn't run.
    interior: Option<Interior>,
    words: Vec<OsString>,
    workdir: Option<PathBuf>,
    user: Option<OsString>,
    command: Command,
    wall: Option<Duration>,
    background: bool,
    enforced: Vec<Enforced>,
    waived: Vec<Refusal>,
    face: PhantomData<Face>,
}

/// What is read of the command's own control group at its end; behind it comes v1's count of memory kills in the container.
const STATISTICS: [(Stat, &str); 6] = [
    (Stat::CpuStat, "cpu.stat"),
    (Stat::MemoryPeak, "memory.peak"),
    (Stat::MemoryEvents, "memory.events"),
    (Stat::PidsPeak, "pids.peak"),
    (Stat::PidsEvents, "pids.events"),
    (Stat::IoStat, "io.stat"),
];

fn verdict(ended: &Ended) -> (ExitStatus, Usage) {
    let kinds = STATISTICS.iter().map(|(stat, _)| *stat).chain([Stat::V1MemoryOomControl]);
    let raw: Vec<(Stat, &[u8])> = kinds.zip(ended.files.iter().map(Vec::as_slice)).filter(|(_, raw)| !raw.is_empty()).collect();
    (ExitStatus::new(ended, &Events::from_raw(raw.iter().copied())), Usage::new(ended, &raw))
}

impl<Face> ExecBuilder<Face> {
    pub(crate) fn new(interior: Option<Interior>, words: Vec<OsString>, enforced: Vec<Enforced>, waived: Vec<Refusal>) -> Self {
        Self {
            interior,
            words,
            workdir: None,
            user: None,
            command: Command::default(),
            wall: None,
            background: false,
            enforced,
            waived,
            face: PhantomData,
        }
    }

    /// The same description, with ends of another kind.
    pub(crate) fn faced<Other>(self) -> ExecBuilder<Other> {
        let Self { interior, words, workdir, user, command, wall, background, enforced, waived, face: _ } = self;
        ExecBuilder { interior, words, workdir, user, command, wall, background, enforced, waived, face: PhantomData }
    }

    command_setters!(
        "A variable, over those of the container's command.",
        "Standard output. If nothing is said: collected by [`output`](Self::output), a pipe for [`spawn`](Self::spawn), inherited by \
         [`status`](Self::status)."
    );

    /// The working directory, instead of the container's. It must be there.
    pub fn workdir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.workdir = Some(directory.into());
        self
    }

    /// The user, instead of the container's: `user`, `uid`, `user:group` and so on, by the container's own /etc/passwd and /etc/group as
    /// they are now.
    pub fn user(mut self, user: impl Into<OsString>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// Everything that the command started is killed this long after it was asked for, to the millisecond; the container goes on.
    #[doc(alias = "timeout")]
    pub fn wall(mut self, wall: Duration) -> Self {
        self.wall = Some(wall);
        self
    }

    /// Whether what the command leaves running when it has ended by itself stays, as a daemon that it started, until the container ends.
    /// If nothing is said, it ends with the command.
    pub fn background(mut self, yes: bool) -> Self {
        self.background = yes;
        self
    }
}

impl ExecBuilder {
    /// Runs it to its end: all that it said, how it ended, what it used. Non-zero is no error. Answers when all that it started has ended,
    /// so that nobody in there can keep it by holding a stream open.
    ///
    /// Cancel-safe: dropping the future ends all that it started.
    ///
    /// # Errors
    /// [`Error::Description`]; [`Error::Start`] where it couldn't be executed, or the container has ended; [`Error::Lost`] where the
    /// supervisor was killed.
    pub async fn output(self) -> Result<Output, Error> {
        self.run_to_the_end(&COLLECTED).await
    }

    /// Runs it to its end as [`output`](Self::output) does, with this process's own standard output and error.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn status(self) -> Result<ExitStatus, Error> {
        Ok(self.run_to_the_end(&INHERITED).await?.status)
    }

    /// Starts it, with pipes for what isn't said otherwise, and answers when the command is executed.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn spawn(self) -> Result<Exec, Error> {
        let mut child = self.start(&PIPED)?.await?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let terminal = child.terminal.take().map(ContainerTerminal);
        Ok(Exec {
            child,
            terminal,
            stdin: stdin.map(ContainerStdin),
            stdout: stdout.map(ContainerStdout),
            stderr: stderr.map(ContainerStderr),
        })
    }

    fn start(&self, defaults: &Defaults) -> Result<Starting, Error> {
        let Some((program, arguments)) = self.words.split_first() else {
            let problem = Problem { what: "there is no command to execute".into(), remedy: Some("name one: exec([\"id\"])".into()) };
            return Err(Error::Description { problems: vec![problem] });
        };
        if let Some(problem) = self.command.terminal_problem(defaults.has_terminal) {
            return Err(Error::Description { problems: vec![problem] });
        }
        let [stdin, stdout, stderr] = self.command.streams(defaults)?;
        let mut exec = coracle_spawn::Exec::new(program).args(arguments).background(self.background);
        exec = exec.stdin(stdin).stdout(stdout).stderr(stderr);
        if let Some((columns, rows)) = self.command.tty {
            exec = exec.terminal(columns, rows);
        }
        exec = exec.read_at_end(STATISTICS.map(|(_, name)| name));
        for (key, value) in &self.command.env {
            exec = exec.env(key, value);
        }
        if let Some(user) = &self.user {
            exec = exec.user(user);
        }
        if let Some(directory) = &self.workdir {
            exec = exec.current_dir(directory);
        }
        if let Some(wall) = self.wall {
            exec = exec.wall(wall);
        }
        Ok(self.interior.as_ref().ok_or(coracle_spawn::Error::Ended)?.start(exec)?)
    }

    async fn run_to_the_end(mut self, defaults: &Defaults) -> Result<Output, Error> {
        let input = self.command.take_input();
        let Complete { child, stdout, stderr } = complete::run(self.start(defaults)?, input).await?;
        let exec = Exec { child, stdin: None, stdout: None, stderr: None, terminal: None };
        exec.gone().await?;
        let (status, usage) = verdict(&*exec.child.try_wait()?.ok_or(Error::Lost)?);
        Ok(Output { status, stdout, stderr, usage, enforced: self.enforced, waived: self.waived })
    }
}

impl<Face> fmt::Debug for ExecBuilder<Face> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecBuilder")
            .field("command", &self.words)
            .field("env", &self.command.names())
            .field("workdir", &self.workdir)
            .field("user", &self.user)
            .field("wall", &self.wall)
            .field("background", &self.background)
            .finish_non_exhaustive()
    }
}

/// One more command that runs in a container. Dropping it ends all that it started, unless it was [detached](Self::detach); the container
/// goes on.
///
/// `Send`, `Sync` and `'static`; it belongs to no runtime, and needs no [`Container`](crate::Container) beside it.
#[derive(Debug)]
#[must_use = "dropping an Exec ends it"]
pub struct Exec {
    child: Child,
    /// The input, if it is a pipe.
    pub stdin: Option<ContainerStdin>,
    /// The output, if it is a pipe.
    pub stdout: Option<ContainerStdout>,
    /// The error output, if it is a pipe.
    pub stderr: Option<ContainerStderr>,
    /// Its terminal, if it has one.
    pub terminal: Option<ContainerTerminal>,
}

impl Exec {
    /// Its number among the further commands of its container, from 1.
    pub fn id(&self) -> u32 {
        self.child.command_id()
    }

    /// The id of its first process, as this process counts. For messages: by the time it is used it may be another's.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until the command has ended. By many at once, and again later; cancel-safe.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        Ok(verdict(&*poll_fn(|cx| self.child.poll_ended(cx)).await?).0)
    }

    /// How the command ended, if it has.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        Ok(self.child.try_wait()?.map(|ended| verdict(&ended).0))
    }

    /// What it used, once it has ended.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn usage(&self) -> Result<Option<Usage>, Error> {
        Ok(self.child.try_wait()?.map(|ended| verdict(&ended).1))
    }

    /// Sends a signal to the command; SIGKILL to all that it started. One that has ended gets none, which is no error.
    ///
    /// # Errors
    /// [`Error::Start`] where the supervisor can't be asked.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        Ok(self.child.signal(signal)?)
    }

    /// Ends all that it started, at once, and answers when that has ended.
    ///
    /// # Errors
    /// As [`signal`](Self::signal); [`Error::NotRemoved`].
    pub async fn kill(&self) -> Result<(), Error> {
        self.child.kill()?;
        self.gone().await
    }

    /// Asks the command to end by SIGTERM; ends all that it started after `grace`. Waits for the end.
    ///
    /// Cancel-safe: what was asked for happens all the same.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`signal`](Self::signal).
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus, Error> {
        self.child.stop(Signal::TERM, grace)?;
        self.wait().await
    }

    /// Lets it outlive this handle and this process; its number is the answer. It ends with its container. Pipes that are still here close.
    ///
    /// # Errors
    /// [`Error::Lost`]; [`Error::Start`].
    pub async fn detach(self) -> Result<u32, Error> {
        self.child.detach()?;
        poll_fn(|cx| self.child.poll_detached(cx)).await?;
        Ok(self.id())
    }

    async fn gone(&self) -> Result<(), Error> {
        let left = poll_fn(|cx| self.child.poll_gone(cx)).await?;
        if left.is_empty() { Ok(()) } else { Err(Error::NotRemoved { left }) }
    }
}

/// A further command that runs, as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecSummary {
    /// Its number among those of its container, from 1.
    pub id: u32,
    /// The id of its first process, as this process counts. For messages.
    pub pid: u32,
    /// The command and its arguments, or the first of many.
    pub command: Vec<String>,
    /// How long it has run.
    pub age: Duration,
}

impl ExecSummary {
    pub(crate) fn new(running: Running) -> Self {
        let command = running.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Self { id: running.id, pid: running.pid, command, age: running.age }
    }
}
