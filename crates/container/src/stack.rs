//! Several containers that belong together: services, jobs and steps, in the order that their dependencies allow.
//!
//! ```text
//!  waiting ──▶ begun ──▶ started ──▶ ready              a service, which is to stay
//!     │          │          └──────▶ completed          a job, which is to end well
//!     │          └─────────▶ failed                     the first is the culprit: what else is on its way ends
//!     └──▶ skipped                                      something that it waits for, or anything before it, failed
//! ```
//!
//! One future drives them all, so that dropping it ends them all.

use crate::builder::ContainerBuilder;
use crate::container::{self, Container, LOGGED};
use crate::engine::Engine;
use crate::error::Error;
use crate::exit::ExitStatus;
use crate::last_words::{self, MOST};
use crate::mask::{Masking, Secrets};
use crate::mount::Mount;
use crate::network::Network;
use coracle_spawn::{LogLine, OutputStream};
use std::fmt;
use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

/// By which part of a stack a container is.
const LABEL: &str = "coracle.stack.part";

/// What a part waits for of another: compose's `service_started`, `service_healthy`, `service_completed_successfully`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Condition {
    /// Its command is executed.
    Started,
    /// It is ready, by what [`run`](ContainerBuilder::run) waits for. Of a service.
    Healthy,
    /// It has ended with exit code 0. Of a job or a step.
    Completed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Service,
    Job,
    Step,
}

/// One container of a [`Stack`]: its name, its description, what it is and what it waits for.
#[derive(Debug, Clone)]
#[must_use = "a part does nothing before it is added to a Stack"]
pub struct Part {
    name: String,
    builder: ContainerBuilder,
    kind: Kind,
    after: Vec<(String, Condition)>,
    always: bool,
}

impl Part {
    fn new(kind: Kind, name: impl Into<String>, builder: ContainerBuilder) -> Self {
        Self { name: name.into(), builder, kind, after: Vec::new(), always: false }
    }

    /// One that stays as long as the stack does. It is ready as [`run`](ContainerBuilder::run) has it.
    pub fn service(name: impl Into<String>, builder: ContainerBuilder) -> Self {
        Self::new(Kind::Service, name, builder)
    }

    /// One that has something to do, and ends.
    pub fn job(name: impl Into<String>, builder: ContainerBuilder) -> Self {
        Self::new(Kind::Job, name, builder)
    }

    /// A job that comes when the step before it is completed: steps are one after another, as they are added.
    pub fn step(name: impl Into<String>, builder: ContainerBuilder) -> Self {
        Self::new(Kind::Step, name, builder)
    }

    /// Begins when that is so of another part. Without any, at once.
    pub fn depends_on(mut self, name: impl Into<String>, condition: Condition) -> Self {
        self.after.push((name.into(), condition));
        self
    }

    /// How long a job or a step may take, to the millisecond; then it is killed, and has failed. [`ContainerBuilder::wall`].
    pub fn timeout(mut self, time: Duration) -> Self {
        self.builder = self.builder.wall(time);
        self
    }

    /// Runs also when something before it has failed, as soon as nothing of what it waits for can change any more.
    pub fn always(mut self) -> Self {
        self.always = true;
        self
    }
}

/// A line that a part of a stack said, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartLine {
    /// Who said it.
    pub part: String,
    /// On what.
    pub stream: OutputStream,
    /// The line, with what isn't UTF-8 replaced.
    pub text: String,
}

type OnLine = Arc<dyn Fn(PartLine) + Send + Sync>;

/// Describes containers that belong together. Plain data: nothing happens before [`up`](Self::up) or [`run`](Self::run), which start as much
/// at once as the order allows. Who has no runtime: [`blocking::wait`](crate::blocking::wait)`(stack.up())`.
///
/// ```no_run
/// # async fn f() -> Result<(), coracle_container::Error> {
/// use coracle_container::{Condition, Container, Part, Stack};
///
/// let stack = Stack::new()
///     .add(Part::service("db", Container::from_image("postgres:16").env("POSTGRES_PASSWORD", "x")))
///     .add(Part::job("migrate", Container::from_image("my/migrations")).depends_on("db", Condition::Healthy))
///     .add(Part::service("app", Container::from_image("my/app").publish(8080)).depends_on("migrate", Condition::Completed))
///     .up()
///     .await?;
/// let address = stack.container("app").and_then(|app| app.port(8080));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Default)]
#[must_use = "a description does nothing until up() or run()"]
pub struct Stack {
    parts: Vec<Part>,
    engine: Option<Engine>,
    workspace: Option<(PathBuf, PathBuf)>,
    network: Option<Network>,
    secrets: Secrets,
    on_line: Option<OnLine>,
}

impl Stack {
    /// Without any part yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One part more.
    #[expect(clippy::should_implement_trait, reason = "what is added is another type, and nobody writes stack + part")]
    pub fn add(mut self, mut part: Part) -> Self {
        if part.kind == Kind::Step
            && let Some(before) = self.parts.iter().rev().find(|before| before.kind == Kind::Step)
        {
            part.after.push((before.name.clone(), Condition::Completed));
        }
        self.parts.push(part);
        self
    }

    /// The engine of the parts that name none.
    pub fn engine(mut self, engine: &Engine) -> Self {
        self.engine = Some(engine.clone());
        self
    }

    /// A directory of this machine that all parts see at `target`, and may write: the working directory of those that name none.
    pub fn workspace(mut self, directory: impl Into<PathBuf>, target: impl Into<PathBuf>) -> Self {
        self.workspace = Some((directory.into(), target.into()));
        self
    }

    /// The network of the parts that name none. In a private one they find each other by the names of the parts.
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// A word that isn't to be seen in what is told of the parts' logs, by [`on_line`](Self::on_line) and by failures: `***` stands in its place,
    /// however the stream was cut. Containers' own logs, which this process alone may read, have it.
    pub fn secret(mut self, secret: impl AsRef<str>) -> Self {
        self.secrets.add(secret.as_ref());
        self
    }

    /// Called with each line that a part says, in the order of that part, as long as [`up`](Self::up) or [`run`](Self::run) is on its way. Don't
    /// block in it: nothing goes on meanwhile.
    pub fn on_line(mut self, callback: impl Fn(PartLine) + Send + Sync + 'static) -> Self {
        self.on_line = Some(Arc::new(callback));
        self
    }

    /// Starts everything, and answers when all services are ready and all jobs and steps are completed.
    ///
    /// Cancel-safe: dropping the future ends all that was started, at once.
    ///
    /// # Errors
    /// [`Error::Stack`], with all that is wrong, before anything is started; [`Error::Part`] with the first that failed and its last lines, when
    /// all parts that are [always](Part::always) run have run, and everything is removed.
    pub async fn up(self) -> Result<RunningStack, Error> {
        let faults = self.faults();
        if !faults.is_empty() {
            return Err(Error::Stack { faults });
        }
        let mut run = Run { members: self.parts.iter().cloned().map(Member::new).collect(), failure: None, stack: self };
        poll_fn(|cx| run.poll(cx)).await;
        let Run { members, failure, .. } = run;
        let Some(mut failure) = failure else {
            return Ok(RunningStack { members });
        };
        failure.skipped = members.iter().filter(|member| member.state == State::Skipped).map(|member| member.part.name.clone()).collect();
        // What is left of them is told by their own errors, and this one says why.
        let _ = RunningStack { members }.down(Duration::ZERO).await;
        Err(Error::Part(failure))
    }

    /// Runs all jobs and steps to their end beside the services, and ends everything then. How each of the jobs and steps ended is the answer, in
    /// the order in which they were added.
    ///
    /// Cancel-safe as [`up`](Self::up).
    ///
    /// # Errors
    /// As [`up`](Self::up), and [`RunningStack::down`].
    pub async fn run(self) -> Result<Vec<(String, ExitStatus)>, Error> {
        let stack = self.up().await?;
        let ends = stack.members.iter().filter_map(|member| match member.state {
            State::Completed(status) => Some((member.part.name.clone(), status)),
            _ => None,
        });
        let ends = ends.collect();
        stack.down(Duration::ZERO).await?;
        Ok(ends)
    }

    /// What is wrong with it.
    fn faults(&self) -> Vec<StackFault> {
        let mut faults = Vec::new();
        for (n, part) in self.parts.iter().enumerate() {
            if self.parts[..n].iter().any(|other| other.name == part.name) {
                faults.push(StackFault::Twice { part: part.name.clone() });
            }
            for (name, condition) in &part.after {
                let (of, on) = (part.name.clone(), name.clone());
                match self.parts.iter().find(|other| other.name == *name) {
                    None => faults.push(StackFault::NoSuchPart { part: of, name: on }),
                    Some(other)
                        if (*condition == Condition::Completed) != (other.kind != Kind::Service) && *condition != Condition::Started =>
                    {
                        faults.push(StackFault::Never { part: of, name: on, condition: *condition });
                    }
                    Some(_) => {}
                }
            }
        }
        faults.extend(self.cycle().map(|parts| StackFault::Cycle { parts }));
        faults
    }

    /// Parts of which each waits for the next, and the last for the first.
    fn cycle(&self) -> Option<Vec<String>> {
        let mut left: Vec<&Part> = self.parts.iter().collect();
        loop {
            let waits = |part: &Part| part.after.iter().any(|(name, _)| left.iter().any(|other| other.name == *name));
            let rest: Vec<&Part> = left.iter().copied().filter(|part| waits(part)).collect();
            if rest.len() == left.len() {
                break;
            }
            left = rest;
        }
        // Whoever is left waits for one who is left.
        let mut path: Vec<&str> = vec![&left.first()?.name];
        loop {
            let last = left.iter().find(|part| part.name == path[path.len() - 1])?;
            let (next, _) = last.after.iter().find(|(name, _)| left.iter().any(|other| other.name == *name))?;
            if let Some(at) = path.iter().position(|name| name == next) {
                return Some(path[at..].iter().map(|&name| name.to_owned()).collect());
            }
            path.push(next);
        }
    }
}

impl fmt::Debug for Stack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stack")
            .field("parts", &self.parts)
            .field("workspace", &self.workspace)
            .field("network", &self.network)
            .finish_non_exhaustive()
    }
}

/// What is wrong with a [`Stack`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StackFault {
    /// A part waits for one that isn't there.
    NoSuchPart {
        /// Who waits.
        part: String,
        /// For whom.
        name: String,
    },
    /// Two parts have one name.
    Twice {
        /// The name.
        part: String,
    },
    /// Parts wait for each other: each for the next, and the last for the first.
    Cycle {
        /// Their names.
        parts: Vec<String>,
    },
    /// A part waits for what never comes: that a service completes, or a job is healthy.
    Never {
        /// Who waits.
        part: String,
        /// For whom.
        name: String,
        /// For what.
        condition: Condition,
    },
}

impl fmt::Display for StackFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchPart { part, name } => write!(f, "{part} depends on {name}, and there is no such part"),
            Self::Twice { part } => write!(f, "two parts are named {part}"),
            Self::Cycle { parts } => match parts.as_slice() {
                [one] => write!(f, "{one} waits for itself"),
                [first, ..] => write!(f, "parts wait for each other: {} → {first}", parts.join(" → ")),
                [] => f.write_str("parts wait for each other"),
            },
            Self::Never { part, name, condition: Condition::Healthy } => {
                write!(f, "{part} waits until {name} is healthy, which a job never is: only a service")
            }
            Self::Never { part, name, .. } => write!(f, "{part} waits until {name} is completed, which a service never is: only a job"),
        }
    }
}

/// The part of a [`Stack`] that failed first, without secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartFailure {
    /// Its name.
    pub part: String,
    /// Why, as a sentence.
    pub why: String,
    /// How its command ended, where it did.
    pub status: Option<ExitStatus>,
    /// The last lines that it said.
    pub log: Vec<String>,
    /// What to do about it, where that is known.
    pub remedy: Option<String>,
    /// The parts that weren't run, or were ended on their way, because of it.
    pub skipped: Vec<String>,
}

impl PartFailure {
    fn new(part: &str, error: &Error, secrets: &Secrets) -> Box<Self> {
        let (why, log, status) = match error {
            // Their words end with the log's.
            Error::Wait(failure) => (error.to_string(), Vec::new(), failure.status),
            Error::NotReady { status, .. } => (error.to_string(), Vec::new(), Some(*status)),
            other => (other.to_string(), Vec::new(), None),
        };
        let remedy = error.remedy().map(|remedy| secrets.mask(&remedy));
        Box::new(Self { part: part.to_owned(), why: secrets.mask(&why), status, log, remedy, skipped: Vec::new() })
    }

    fn ended(part: &str, status: ExitStatus, container: &Container, secrets: &Secrets) -> Box<Self> {
        let lines = container.logs().tail(MOST).collect().unwrap_or_default();
        let text = |line: &LogLine| last_words::plain(&line.bytes);
        let log = secrets.mask(&lines.iter().map(text).collect::<Vec<_>>().join("\n")).lines().map(str::to_owned).collect();
        Box::new(Self { part: part.to_owned(), why: status.to_string(), status: Some(status), log, remedy: None, skipped: Vec::new() })
    }
}

impl fmt::Display for PartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} failed: {}", self.part, self.why)?;
        if !self.log.is_empty() {
            f.write_str("; the last that it said:")?;
        }
        self.log.iter().try_for_each(|line| write!(f, "\n  {line}"))?;
        if !self.skipped.is_empty() {
            write!(f, "\nnot run, or ended on the way: {}", self.skipped.join(", "))?;
        }
        Ok(())
    }
}

/// How far a part has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Begun,
    Completed(ExitStatus),
    Failed,
    Skipped,
}

/// What is to be seen of a part from outside.
#[derive(Debug, Default)]
struct Seen {
    container: OnceLock<Arc<Container>>,
    ready: AtomicBool,
}

impl Seen {
    fn so_far(&self) -> (bool, bool) {
        (self.container.get().is_some(), self.ready.load(Ordering::Acquire))
    }
}

type Life = Pin<Box<dyn Future<Output = Result<ExitStatus, Box<PartFailure>>> + Send>>;

struct Member {
    part: Part,
    state: State,
    seen: Arc<Seen>,
    life: Option<Life>,
}

impl Member {
    fn new(part: Part) -> Self {
        Self { part, state: State::Waiting, seen: Arc::default(), life: None }
    }

    /// Whether nothing is waited for any more: of a service that it is ready.
    fn has_arrived(&self) -> bool {
        match self.state {
            State::Waiting => false,
            State::Begun => self.part.kind == Kind::Service && self.seen.so_far().1,
            State::Completed(_) | State::Failed | State::Skipped => true,
        }
    }

    /// Whether that is so; none as long as it may still become so.
    fn is(&self, condition: Condition) -> Option<bool> {
        let (started, ready) = self.seen.so_far();
        let so = match condition {
            Condition::Started => started,
            Condition::Healthy => ready,
            Condition::Completed => matches!(self.state, State::Completed(_)),
        };
        match self.state {
            _ if so => Some(true),
            State::Waiting | State::Begun => None,
            State::Completed(_) | State::Failed | State::Skipped => Some(false),
        }
    }
}

/// A stack on its way.
struct Run {
    stack: Stack,
    members: Vec<Member>,
    failure: Option<Box<PartFailure>>,
}

impl Run {
    /// Goes on with all that are on their way, and begins those whose time has come; ready when there is nothing left to wait for.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let changed = self.go_on(cx);
            if !self.begin_those_that_may() && !changed {
                break;
            }
        }
        if self.members.iter().all(Member::has_arrived) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether anything came of it.
    fn go_on(&mut self, cx: &mut Context<'_>) -> bool {
        let mut changed = false;
        for n in 0..self.members.len() {
            let member = &mut self.members[n];
            let before = member.seen.so_far();
            let Some(life) = &mut member.life else { continue };
            let ended = life.as_mut().poll(cx);
            changed |= ended.is_ready() || member.seen.so_far() != before;
            let Poll::Ready(ended) = ended else { continue };
            member.life = None;
            match ended {
                Ok(status) => member.state = State::Completed(status),
                Err(failure) => {
                    member.state = State::Failed;
                    self.fail(failure);
                }
            }
        }
        changed
    }

    /// The first failure ends what is on its way, but for what is always run and the services that are ready for it.
    fn fail(&mut self, failure: Box<PartFailure>) {
        if self.failure.is_some() {
            return;
        }
        self.failure = Some(failure);
        for member in self.members.iter_mut().filter(|member| member.state == State::Begun && !member.part.always && !member.has_arrived())
        {
            member.life = None;
            member.state = State::Skipped;
            if let Some(container) = member.seen.container.get() {
                drop(crate::blocking::wait(container.kill()));
            }
        }
    }

    /// Whether the state of any changed.
    fn begin_those_that_may(&mut self) -> bool {
        let mut changed = false;
        for n in 0..self.members.len() {
            let member = &self.members[n];
            if member.state != State::Waiting {
                continue;
            }
            let so = |(name, condition): &(String, Condition)| {
                self.members.iter().find(|other| other.part.name == *name).map_or(Some(false), |other| other.is(*condition))
            };
            let all: Vec<Option<bool>> = member.part.after.iter().map(so).collect();
            let always = member.part.always;
            if !always && (self.failure.is_some() || all.contains(&Some(false))) {
                self.members[n].state = State::Skipped;
            } else if !all.contains(&None) {
                let life = self.life(n);
                let member = &mut self.members[n];
                (member.state, member.life) = (State::Begun, Some(life));
            } else {
                continue;
            }
            changed = true;
        }
        changed
    }

    /// The description of a part as a member of its stack.
    fn builder(&self, part: &Part) -> ContainerBuilder {
        let mut builder = part.builder.clone().label(LABEL, &part.name);
        if let (None, Some(engine)) = (&builder.engine, &self.stack.engine) {
            builder = builder.engine(engine);
        }
        if let Some((directory, target)) = &self.stack.workspace {
            if builder.workdir.is_none() {
                builder = builder.workdir(target);
            }
            builder = builder.mount(Mount::bind(directory, target));
        }
        if let (true, Some(network)) = (builder.networks.is_empty(), &self.stack.network) {
            let named = network.is_bridge();
            builder = builder.network(if named { network.clone().alias(&part.name) } else { network.clone() });
        }
        builder
    }

    fn life(&self, n: usize) -> Life {
        let member = &self.members[n];
        let part = &member.part;
        let (name, service, seen) = (part.name.clone(), part.kind == Kind::Service, member.seen.clone());
        let (builder, secrets, on_line) = (self.builder(part), self.stack.secrets.clone(), self.stack.on_line.clone());
        Box::pin(async move {
            let failed = |error: &Error| PartFailure::new(&name, error, &secrets);
            let (wait, timeout) = (builder.wait.clone(), builder.startup_timeout);
            let container = container::start(builder, &LOGGED).await.map_err(|error| failed(&error))?;
            let container = &**seen.container.get_or_init(|| Arc::new(container));
            let told = tell(&name, container, &secrets, on_line);
            let lived = async {
                if service {
                    container::ready(container, wait, timeout).await?;
                    seen.ready.store(true, Ordering::Release);
                }
                container.wait().await
            };
            let status = beside(lived, told).await.map_err(|error| failed(&error))?;
            // A service that ends has failed.
            if service || !status.success() {
                return Err(PartFailure::ended(&name, status, container, &secrets));
            }
            container.gone().await.map_err(|error| failed(&error))?;
            Ok(status)
        })
    }
}

/// Does both until the first is done; what is only told is told to its end where the first ended well.
async fn beside<T, E>(main: impl Future<Output = Result<T, E>>, told: impl Future<Output = ()>) -> Result<T, E> {
    let (mut main, mut told) = (pin!(main), pin!(told));
    let mut done = None;
    let mut all_told = false;
    poll_fn(|cx| {
        all_told = all_told || told.as_mut().poll(cx).is_ready();
        if done.is_none()
            && let Poll::Ready(result) = main.as_mut().poll(cx)
        {
            done = Some(result);
        }
        match &done {
            Some(Err(_)) => Poll::Ready(()),
            Some(Ok(_)) if all_told => Poll::Ready(()),
            _ => Poll::Pending,
        }
    })
    .await;
    match done {
        Some(result) => result,
        None => unreachable!("it is waited for"),
    }
}

/// Hands on what a part says, line by line, to its end.
async fn tell(part: &str, container: &Container, secrets: &Secrets, on_line: Option<OnLine>) {
    let Some(on_line) = on_line else { return };
    let Ok(mut lines) = container.logs().follow() else { return };
    let stream = |stream| Telling { part, stream, masking: Masking::new(secrets.clone()), begun: Vec::new(), on_line: &on_line };
    let mut both = [stream(OutputStream::Stdout), stream(OutputStream::Stderr)];
    while let Ok(Some(line)) = lines.next().await {
        if let Some(telling) = both.iter_mut().find(|telling| telling.stream == line.stream) {
            telling.hear(line);
        }
    }
    both.iter_mut().for_each(Telling::finish);
}

/// One stream of a part, whose lines are put together anew: what is masked may have been longer than one.
struct Telling<'a> {
    part: &'a str,
    stream: OutputStream,
    masking: Masking,
    begun: Vec<u8>,
    on_line: &'a OnLine,
}

impl Telling<'_> {
    fn hear(&mut self, mut line: LogLine) {
        if line.complete {
            line.bytes.push(b'\n');
        }
        let shown = self.masking.feed(&line.bytes);
        self.show(&shown);
    }

    fn show(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|&byte| byte == b'\n') {
            self.begun.extend_from_slice(piece);
            if self.begun.pop_if(|last| *last == b'\n').is_some() || self.begun.len() >= LogLine::MOST {
                self.say();
            }
        }
    }

    fn say(&mut self) {
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.begun)).into_owned();
        (self.on_line)(PartLine { part: self.part.to_owned(), stream: self.stream, text });
    }

    fn finish(&mut self) {
        let rest = self.masking.finish();
        self.show(&rest);
        if !self.begun.is_empty() {
            self.say();
        }
    }
}

/// Containers that belong together and run: [`Stack::up`] gives it. Dropping it ends all of them.
#[must_use = "dropping a RunningStack ends its containers"]
pub struct RunningStack {
    members: Vec<Member>,
}

impl RunningStack {
    /// The container of a part: one that runs of a service, one that has ended of a job. None where there is no such part.
    pub fn container(&self, part: &str) -> Option<&Container> {
        let member = self.members.iter().find(|member| member.part.name == part)?;
        member.seen.container.get().map(|container| &**container)
    }

    /// Ends all of them at once, as [`Container::stop`] does (without asking, where `grace` is nothing), and answers when all that was made for
    /// them is taken back.
    ///
    /// # Errors
    /// The first of those of [`Container::remove`]; the others are ended all the same.
    pub async fn down(self, grace: Duration) -> Result<(), Error> {
        let containers: Vec<&Container> = self.members.iter().filter_map(|member| member.seen.container.get()).map(|one| &**one).collect();
        let end = |container| async move {
            let container: &Container = container;
            if !grace.is_zero() && matches!(container.try_wait(), Ok(None)) {
                container.stop(grace).await?;
            }
            container.remove().await
        };
        let mut ends: Vec<_> = containers.into_iter().map(|container| (Box::pin(end(container)), None)).collect();
        poll_fn(|cx| {
            for (end, ended) in ends.iter_mut().filter(|(_, ended)| ended.is_none()) {
                if let Poll::Ready(result) = end.as_mut().poll(cx) {
                    *ended = Some(result);
                }
            }
            if ends.iter().all(|(_, ended)| ended.is_some()) { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        ends.into_iter().filter_map(|(_, ended)| ended).collect()
    }
}

impl fmt::Debug for RunningStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.members.iter().map(|member| (&member.part.name, &member.state));
        f.debug_map().entries(shown).finish()
    }
}
