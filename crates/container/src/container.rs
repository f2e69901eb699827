//! A running container, and the verbs that run one to its end.

use crate::background;
use crate::builder::ContainerBuilder;
use crate::complete::{self, Complete};
use crate::copy::{self, CopyIn};
use crate::engine::Engine;
use crate::error::Error;
use crate::exec::{ExecBuilder, ExecSummary};
use crate::exit::{ExitStatus, Output, Usage};
use crate::keep_on_failure::KeepOnFailure;
use crate::kept;
use crate::last_words::{self, LastWords};
use crate::logs::Logs;
use crate::lower::{self, Life, Lowered, Readiness};
use crate::preset;
use crate::publish::PublishedPort;
use crate::state::{self, Found};
use crate::stdio::{ContainerStderr, ContainerStdin, ContainerStdout, Stdio};
use crate::terminal::ContainerTerminal;
use crate::wait::{self, Inside, Wait};
use coracle_cgroups::{Enforced, Live, Refusal};
use coracle_spawn::{Child, ENDED, Ended, Health, Interior, Log, Signal, Starting};
use std::ffi::OsString;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::time::Duration;

/// A container. Dropping it ends it, unless it was detached, or stays when it ends: one that was [created](ContainerBuilder::create).
///
/// `Send`, `Sync` and `'static`; every method takes `&self`; it belongs to no runtime. Its supervisor removes everything that was
/// made for it, also when this process dies.
#[derive(Debug)]
#[must_use = "dropping a Container ends it"]
pub struct Container {
    /// The life that this handle talks to: none of a container that doesn't run.
    child: Mutex<Option<Arc<Child>>>,
    pub(crate) id: String,
    pub(crate) engine: Engine,
    pub(crate) run: PathBuf,
    stop_signal: Signal,
    /// Known from the first start of this handle's on.
    pub(crate) enforced: OnceLock<Vec<Enforced>>,
    pub(crate) waived: OnceLock<Vec<Refusal>>,
    live: Mutex<Live>,
    /// Known from the first start on.
    pub(crate) ports: OnceLock<Vec<PublishedPort>>,
    pub(crate) addresses: OnceLock<Vec<Vec<IpAddr>>>,
    log: Mutex<Option<Log>>,
    readiness: Readiness,
    pub(crate) kept: bool,
    /// Of a container that ends with this handle.
    last_words: Option<LastWords>,
    /// The input, if it is a pipe.
    pub stdin: Option<ContainerStdin>,
    /// The output, if it is a pipe.
    pub stdout: Option<ContainerStdout>,
    /// The error output, if it is a pipe.
    pub stderr: Option<ContainerStderr>,
    /// Its terminal, if it has one.
    pub terminal: Option<ContainerTerminal>,
}

impl Container {
    /// Its id: 16 hexadecimal digits.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The process id of its PID 1, as this process counts. For messages: by the time it is used it may be another's.
    ///
    /// 0 of one that doesn't run.
    pub fn pid(&self) -> u32 {
        self.current().map_or(0, |child| child.id())
    }

    /// Its ports that are answered on this host.
    pub fn ports(&self) -> &[PublishedPort] {
        self.ports.get().map_or(&[], Vec::as_slice)
    }

    /// Where on this host its TCP port (or its UDP port, if it has no such TCP port) is answered: an address to connect to. None where it
    /// isn't [published](crate::ContainerBuilder::publish).
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
    /// use coracle_container::Container;
    /// let database = Container::from_image("postgres:16").env("POSTGRES_PASSWORD", "x").publish(5432).run().await?;
    /// let stream = std::net::TcpStream::connect(database.port(5432).expect("it is published"))?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn port(&self, container_port: u16) -> Option<SocketAddr> {
        let of = |udp: bool| self.ports().iter().find(|port| port.container_port == container_port && port.udp == udp);
        let mut address = of(false).or_else(|| of(true))?.host;
        if address.ip().is_unspecified() {
            let loopback = if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
            address.set_ip(loopback);
        }
        Some(address)
    }

    /// The number of the port of this host at which a port of the container is answered; see [`port`](Self::port).
    pub fn host_port(&self, container_port: u16) -> Option<u16> {
        self.port(container_port).map(|address| address.port())
    }

    /// Its addresses in private networks: one list a network, in the order in which they were named, IPv4 first.
    pub fn addresses(&self) -> &[Vec<IpAddr>] {
        self.addresses.get().map_or(&[], Vec::as_slice)
    }

    /// Waits until the command has ended. By many at once, and again later; cancel-safe.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub async fn wait(&self) -> Result<ExitStatus, Error> {
        match self.current() {
            Some(child) => Ok(self.verdict(&*poll_fn(|cx| child.poll_ended(cx)).await?).0),
            None => self.kept_end().map(|(status, _)| status),
        }
    }

    /// How the command ended, if it has.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn try_wait(&self) -> Result<Option<ExitStatus>, Error> {
        Ok(self.ended()?.map(|(status, _)| status))
    }

    /// What it used, once it has ended.
    ///
    /// # Errors
    /// [`Error::Lost`].
    pub fn usage(&self) -> Result<Option<Usage>, Error> {
        Ok(self.ended()?.map(|(_, usage)| usage))
    }

    /// Sends a signal to the command; SIGKILL to everything. One that has ended gets none, which is no error.
    ///
    /// # Errors
    /// [`Error::Start`] where the supervisor can't be asked.
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        Ok(self.talk()?.signal(signal)?)
    }

    /// Ends everything at once. Doesn't wait for the end.
    ///
    /// # Errors
    /// As [`signal`](Self::signal).
    pub async fn kill(&self) -> Result<(), Error> {
        let child = self.talk()?;
        self.thaw_to_end();
        Ok(child.kill()?)
    }

    /// Asks the command to end by the image's `StopSignal`, SIGTERM if it names none; ends everything after `grace`. Waits for the end.
    ///
    /// Cancel-safe: what was asked for happens all the same.
    ///
    /// # Errors
    /// As [`wait`](Self::wait) and [`signal`](Self::signal).
    pub async fn stop(&self, grace: Duration) -> Result<ExitStatus, Error> {
        if let Some(child) = self.current_or_attached() {
            child.stop(self.stop_signal, grace)?;
            // What is paused can't hear.
            self.thaw_to_end();
        }
        self.wait().await
    }

    /// Ends everything, and answers when all that was made for the container is taken back, and the files of one that stays, too.
    ///
    /// # Errors
    /// [`Error::NotRemoved`] with what is left; [`Error::Lost`].
    pub async fn remove(&self) -> Result<(), Error> {
        if let Some(child) = self.current_or_attached() {
            child.kill()?;
            self.thaw_to_end();
            match self.gone().await {
                // What it left is taken back with its files.
                Err(Error::Lost) if self.kept => self.engine.sweep()?,
                other => other?,
            }
        }
        if self.kept { kept::remove(self).await } else { Ok(()) }
    }

    /// Waits until everything is taken back, which the supervisor does by itself when the command has ended.
    pub(crate) async fn gone(&self) -> Result<(), Error> {
        let Some(child) = self.current() else { return Ok(()) };
        let left = poll_fn(|cx| child.poll_gone(cx)).await?;
        if left.is_empty() { Ok(()) } else { Err(Error::NotRemoved { left }) }
    }

    /// The life that this handle talks to, which may be over.
    pub(crate) fn current(&self) -> Option<Arc<Child>> {
        self.child.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// The life that runs now: of one that stays, others may have begun it.
    pub(crate) fn current_or_attached(&self) -> Option<Arc<Child>> {
        let current = self.current();
        let over = current.as_ref().is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
        if over && self.kept && coracle_spawn::is_alive(&self.run).unwrap_or(false) {
            let attached = Child::attach(&control_socket(&self.run)).ok()?;
            self.begins(attached);
            return self.current();
        }
        current
    }

    /// Takes another life up.
    pub(crate) fn begins(&self, child: Child) {
        if let Some(found) = Found::read(&self.run) {
            *self.live.lock().unwrap_or_else(|e| e.into_inner()) = found.description.live();
        }
        let log = child.log().or_else(|| Log::open(&log_file(&self.run)).ok());
        *self.log.lock().unwrap_or_else(|e| e.into_inner()) = log;
        *self.child.lock().unwrap_or_else(|e| e.into_inner()) = Some(Arc::new(child));
    }

    fn talk(&self) -> Result<Arc<Child>, Error> {
        self.current_or_attached().ok_or_else(|| Error::NotRunning { id: self.id.clone() })
    }

    pub(crate) fn live(&self) -> Live {
        self.live.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Where `cgroup.kill` and freezers don't go together, and for signals: what is frozen dies and hears when it is thawed.
    fn thaw_to_end(&self) {
        let live = self.live();
        if live.is_frozen() {
            let _ = live.thaw();
        }
    }

    /// How it ended, by its supervisor's words or by what is kept.
    fn ended(&self) -> Result<Option<(ExitStatus, Usage)>, Error> {
        match self.current() {
            Some(child) => Ok(child.try_wait()?.map(|ended| self.verdict(&ended))),
            None => match self.kept_end() {
                Err(Error::NotRunning { .. }) => Ok(None),
                other => other.map(Some),
            },
        }
    }

    /// The end of a life that is over for longer than this handle is there.
    fn kept_end(&self) -> Result<(ExitStatus, Usage), Error> {
        match Ended::read(&self.run.join(ENDED)) {
            Ok(Some(ended)) => Ok(self.verdict(&ended)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(Error::NotRunning { id: self.id.clone() }),
            Ok(None) => Err(Error::Lost),
            Err(source) => Err(Error::State { attempted: "read", path: self.run.join(ENDED), source }),
        }
    }

    /// Describes one more command in here, which has what the container's own has: user, environment, limits, privileges, view. Nothing
    /// happens before [`output`](ExecBuilder::output), [`status`](ExecBuilder::status) or [`spawn`](ExecBuilder::spawn).
    ///
    /// ```no_run
    /// # async fn f(database: coracle_container::Container) -> Result<(), coracle_container::Error> {
    /// use std::time::Duration;
    /// let out = database.exec(["psql", "-c", "select 1"]).user("postgres").wall(Duration::from_secs(5)).output().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn exec<I: IntoIterator<Item = S>, S: Into<OsString>>(&self, command: I) -> ExecBuilder {
        let command = command.into_iter().map(Into::into).collect();
        ExecBuilder::new(self.interior(), command, self.enforced().to_vec(), self.waived().to_vec())
    }

    /// The inside of one that runs, for what is opened and executed there.
    pub(crate) fn interior(&self) -> Option<Interior> {
        self.current_or_attached().map(|child| child.interior())
    }

    /// The further commands that run in here now, of this process and of others.
    ///
    /// # Errors
    /// [`Error::Start`] where the container has ended.
    pub async fn execs(&self) -> Result<Vec<ExecSummary>, Error> {
        Ok(self.talk()?.interior().list()?.await?.into_iter().map(ExecSummary::new).collect())
    }

    /// Sends a signal to the further command of this number; SIGKILL to all that it started.
    ///
    /// # Errors
    /// [`Error::Start`] where it, or the container, has ended.
    pub async fn signal_exec(&self, id: u32, signal: Signal) -> Result<(), Error> {
        Ok(self.talk()?.interior().signal(id, signal)?.await?)
    }

    /// What it says and said on the streams that are its [log](Stdio::log): those of [`run`](ContainerBuilder::run), unless its description
    /// says otherwise. While it runs, and as long as this handle is there.
    ///
    /// ```no_run
    /// # async fn f(database: coracle_container::Container) -> Result<(), coracle_container::Error> {
    /// let mut lines = database.logs().tail(10).follow()?;
    /// while let Some(line) = lines.next().await? {
    ///     println!("{}", line.text());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn logs(&self) -> Logs {
        let log = self.log.lock().unwrap_or_else(|e| e.into_inner()).clone();
        // Of one that stays it is there before and after its lives.
        Logs::new(self.id.clone(), log.or_else(|| Log::open(&log_file(&self.run)).ok()))
    }

    /// Waits until it is ready by this, again or for the first time; no longer than `timeout`. The container stays as it is, whatever comes of it.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Wait`], at once where the container ends; [`Error::Description`] for what can't be waited for.
    pub async fn wait_for(&self, wait: impl Into<Wait>, timeout: Duration) -> Result<(), Error> {
        wait::until(self, &wait.into(), timeout).await
    }

    /// What its health test (HEALTHCHECK) has said so far: none before the first has ended, or where it has none.
    pub fn health(&self) -> Option<Health> {
        self.current()?.health()
    }

    /// Waits until a test has ended, or the container has: what the tests have said so far, as long as that is something else than `known`.
    ///
    /// ```no_run
    /// # async fn f(container: coracle_container::Container) {
    /// let mut known = container.health();
    /// while let Some(health) = container.health_changed(known.as_ref()).await.filter(|health| Some(health) != known.as_ref()) {
    ///     println!("{} after {} tests", health.state, health.tests);
    ///     known = Some(health);
    /// }
    /// # }
    /// ```
    pub async fn health_changed(&self, known: Option<&Health>) -> Option<Health> {
        let child = self.current()?;
        poll_fn(|cx| child.poll_health(cx, known)).await
    }

    pub(crate) fn has_health_test(&self) -> bool {
        self.readiness.health
    }

    /// Its inside, for closures and tasks that outlive a borrow of this handle.
    pub fn inside(&self) -> Inside {
        Inside { interior: self.interior(), enforced: self.enforced().to_vec(), waived: self.waived().to_vec() }
    }

    pub(crate) fn running_interior(&self) -> Result<Interior, Error> {
        Ok(self.interior().ok_or(coracle_spawn::Error::Ended)?)
    }

    /// The limits that hold, and by what.
    pub fn enforced(&self) -> &[Enforced] {
        self.enforced.get().map_or(&[], Vec::as_slice)
    }

    /// The limits that were asked for as [best effort](ContainerBuilder::best_effort) and don't hold.
    pub fn waived(&self) -> &[Refusal] {
        self.waived.get().map_or(&[], Vec::as_slice)
    }

    /// Lets the container outlive this process, and answers with its id: [`Engine::attach`] takes it up again, from any process of
    /// this user. Pipes that are still here close.
    ///
    /// # Errors
    /// [`Error::Start`] where the supervisor can't listen for others; then the container goes on as it was.
    pub async fn detach(self) -> Result<String, Error> {
        if !self.kept {
            let child = self.talk()?;
            child.detach()?;
            poll_fn(|cx| child.poll_detached(cx)).await?;
        }
        Ok(self.id.clone())
    }

    /// Lets the container live on as long as one of those who hold it lives and has its handle: this process from now on, and whoever does
    /// the same.
    pub(crate) async fn hold(&self) -> Result<(), Error> {
        let child = self.talk()?;
        child.hold()?;
        Ok(poll_fn(|cx| child.poll_detached(cx)).await?)
    }

    /// Takes up the container of this name or id, or the one whose id begins so, in the default engine's directory.
    ///
    /// # Errors
    /// As [`Engine::attach`].
    pub fn attach(name: &str) -> Result<Self, Error> {
        Engine::shared()?.attach(name)
    }

    /// What is told, and done, if a panic drops it.
    pub(crate) fn last_words(&mut self) -> &mut Option<LastWords> {
        &mut self.last_words
    }

    /// A handle of what is there.
    pub(crate) fn of(engine: &Engine, found: &Found) -> Result<Self, Error> {
        let child = match found.alive.then(|| Child::attach(&control_socket(&found.run))) {
            Some(Ok(child)) => Some(Arc::new(child)),
            // Its life is over, and its supervisor on the way out: what it left says how.
            Some(Err(_)) if found.kept => None,
            Some(Err(error)) => return Err(error.into()),
            None => None,
        };
        let description = &found.description;
        Ok(Self {
            child: Mutex::new(child),
            id: found.id.clone(),
            engine: engine.clone(),
            run: found.run.clone(),
            stop_signal: description.stop_signal.as_deref().and_then(|signal| signal.parse().ok()).unwrap_or(Signal::TERM),
            enforced: OnceLock::new(),
            waived: OnceLock::new(),
            live: Mutex::new(description.live()),
            ports: known(&description.ports),
            addresses: known(&description.addresses),
            log: Mutex::new(Log::open(&log_file(&found.run)).ok()),
            readiness: Readiness { health: description.health, exposed: description.exposed.clone() },
            kept: found.kept,
            last_words: None,
            stdin: None,
            stdout: None,
            stderr: None,
            terminal: None,
        })
    }

    /// The engine that holds it, and its run directory.
    pub(crate) fn place(&self) -> (&Engine, PathBuf) {
        (&self.engine, self.run.clone())
    }

    fn verdict(&self, ended: &Ended) -> (ExitStatus, Usage) {
        state::verdict(ended, &self.live().stats())
    }
}

/// Where others speak to the supervisor of a detached container.
pub(crate) fn control_socket(run: &Path) -> PathBuf {
    run.join("control")
}

/// Where what a container says is kept.
pub(crate) fn log_file(run: &Path) -> PathBuf {
    run.join("log")
}

/// What standard streams are if nothing is said.
pub(crate) struct Defaults {
    pub(crate) stdin: fn() -> Stdio,
    pub(crate) stdout: fn() -> Stdio,
    pub(crate) stderr: fn() -> Stdio,
    pub(crate) can_be_paused: bool,
    /// Whether there is a handle that has the terminal.
    pub(crate) has_terminal: bool,
}

pub(crate) const PIPED: Defaults =
    Defaults { stdin: Stdio::piped, stdout: Stdio::piped, stderr: Stdio::piped, can_be_paused: false, has_terminal: true };
pub(crate) const COLLECTED: Defaults =
    Defaults { stdin: Stdio::null, stdout: Stdio::piped, stderr: Stdio::piped, can_be_paused: false, has_terminal: false };
pub(crate) const INHERITED: Defaults =
    Defaults { stdin: Stdio::null, stdout: Stdio::inherit, stderr: Stdio::inherit, can_be_paused: false, has_terminal: false };
pub(crate) const LOGGED: Defaults =
    Defaults { stdin: Stdio::null, stdout: Stdio::log, stderr: Stdio::log, can_be_paused: true, has_terminal: false };

/// A container as a plan.
async fn plan(builder: &ContainerBuilder, defaults: &Defaults) -> Result<(Engine, Lowered), Error> {
    let builder = &preset::settled(builder.clone())?;
    // All that is wrong is known before the first effect, a directory for the engine among them.
    let checked = lower::check(builder)?;
    let engine = match &builder.engine {
        Some(engine) => engine.clone(),
        None => Engine::shared()?,
    };
    lower::lower(&engine, builder, checked, defaults, Life::Only).await.map(|lowered| (engine, lowered))
}

/// Puts files in, where there are any, before the command is executed.
async fn executed(starting: Starting, files: Vec<(CopyIn, PathBuf)>) -> Result<Starting, Error> {
    if files.is_empty() {
        return Ok(starting);
    }
    let interior = poll_fn(|cx| starting.poll_created(cx)).await?;
    let copied = copy::before_the_start(interior, files).await;
    if copied.is_ok() {
        starting.execute()?;
        return Ok(starting);
    }
    // The answer comes when all is taken back.
    starting.kill()?;
    let _ = starting.await;
    Err(copied.err().unwrap_or(Error::Lost))
}

/// Of one that was started at some time; nothing is known of one that wasn't.
fn known<T: Clone>(of: &[T]) -> OnceLock<Vec<T>> {
    if of.is_empty() { OnceLock::new() } else { OnceLock::from(of.to_vec()) }
}

/// Starts a container.
pub(crate) async fn start(builder: ContainerBuilder, defaults: &Defaults) -> Result<Container, Error> {
    let (engine, lowered) = plan(&builder, defaults).await?;
    let Lowered { spawn, id, stop_signal, enforced, waived, live, log, ports, addresses, readiness } = lowered;
    // Held until the container is there, by which others know that the name is taken.
    let claim = match &builder.name {
        Some(name) => Some(kept::claim(&engine, name).await?),
        None => None,
    };
    let mut child = executed(spawn.start()?, builder.described.files).await?.await?;
    drop(claim);
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let terminal = child.terminal.take().map(ContainerTerminal);
    // Where too many descriptors of this user's were on their way for one more, the file is still there for a command that lives.
    let log = log.and_then(|path| child.log().or_else(|| Log::open(&path).ok()));
    Ok(Container {
        child: Mutex::new(Some(Arc::new(child))),
        run: engine.0.runs.join(&id),
        engine,
        stop_signal,
        enforced: enforced.into(),
        waived: waived.into(),
        live: Mutex::new(live),
        ports: ports.into(),
        addresses: addresses.into(),
        last_words: log.clone().map(|log| LastWords::new(id.clone(), log)),
        log: Mutex::new(log),
        readiness,
        kept: false,
        id,
        stdin: stdin.map(ContainerStdin),
        stdout: stdout.map(ContainerStdout),
        stderr: stderr.map(ContainerStderr),
        terminal,
    })
}

/// Feeds, collects, and waits for the end of everything.
async fn to_the_end(mut builder: ContainerBuilder, defaults: &Defaults) -> Result<Output, Error> {
    let input = builder.command.take_input();
    let (_, Lowered { spawn, enforced, waived, live, .. }) = plan(&builder, defaults).await?;
    // Nobody but us waits for it, and we wait for everything: the supervisor need not tell before.
    let starting = executed(spawn.told_at_end(true).start()?, builder.described.files).await?;
    let Complete { child, stdout, stderr } = complete::run(starting, input).await?;
    let left = poll_fn(|cx| child.poll_gone(cx)).await?;
    if !left.is_empty() {
        return Err(Error::NotRemoved { left });
    }
    let (status, usage) = state::verdict(&*child.try_wait()?.ok_or(Error::Lost)?, &live.stats());
    Ok(Output { status, stdout, stderr, usage, enforced, waived })
}

pub(crate) async fn output(builder: ContainerBuilder) -> Result<Output, Error> {
    to_the_end(builder, &COLLECTED).await
}

pub(crate) async fn status(builder: ContainerBuilder) -> Result<ExitStatus, Error> {
    Ok(to_the_end(builder, &INHERITED).await?.status)
}

/// How long a command has to run to count as running. A program that fails at once (a wrong flag, a missing file) does so sooner.
const SETTLE: Duration = Duration::from_millis(20);

/// How often that is waited for while the command is neither asleep nor ended: on a busy machine it may not have had a processor, or its
/// pages from the disk, yet.
const SETTLES: u32 = 25;

/// Waits until the command of the container with this PID 1 had its chance to fail.
fn settle(first: u32) {
    for _ in 0..SETTLES {
        std::thread::sleep(SETTLE);
        // Our init's first child is the command; without it PID 1 is.
        let children = std::fs::read_to_string(format!("/proc/{first}/task/{first}/children")).unwrap_or_default();
        let command = children.split(' ').next().filter(|word| !word.is_empty()).map_or_else(|| first.to_string(), str::to_owned);
        let stat = std::fs::read_to_string(format!("/proc/{command}/stat")).unwrap_or_default();
        // proc_pid_stat(5): the state stands behind the name, which may hold anything.
        if stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['S', 'T', 't'])) {
            return;
        }
    }
}

pub(crate) async fn run(builder: ContainerBuilder) -> Result<Container, Error> {
    let (wait, timeout) = (builder.wait.clone(), builder.startup_timeout);
    let keep = KeepOnFailure::of(&builder);
    let mut container = start(builder, &LOGGED).await?;
    match ready(&container, wait, timeout).await {
        Ok(()) => {
            keep.arm(&mut container);
            Ok(container)
        }
        Err(error) => Err(keep.failed(container, error).await),
    }
}

/// Waits until it is ready by this, or by what goes for one of which nothing is said.
pub(crate) async fn ready(container: &Container, wait: Option<Wait>, timeout: Duration) -> Result<(), Error> {
    let wait = wait.unwrap_or_else(|| Wait::default_of(container.readiness.health, &container.readiness.exposed));
    if !wait.is_running_alone() {
        return wait::until(container, &wait, timeout).await;
    }
    let first = container.pid();
    let settled = background::run("coracle-settle", move || settle(first)).map_err(|source| Error::State {
        attempted: "start a thread to wait for",
        path: container.id.clone().into(),
        source,
    })?;
    let mut settled = pin!(settled);
    let child = container.talk()?;
    let ended = poll_fn(|cx| match child.poll_ended(cx) {
        Poll::Ready(ended) => Poll::Ready(Some(ended)),
        Poll::Pending => settled.as_mut().poll(cx).map(|()| None),
    })
    .await;
    match ended {
        None => Ok(()),
        Some(ended) => {
            let status = container.verdict(&*ended?).0;
            container.gone().await?;
            let log = container.logs().tail(last_words::MOST).collect();
            Err(Error::NotReady { status, log: log.unwrap_or_default() })
        }
    }
}
