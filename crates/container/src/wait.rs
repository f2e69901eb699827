//! When a container is ready: what is waited for, and what is told where it doesn't come.
//!
//! A server's own words are the weakest sign: an image of PostgreSQL says "ready" twice, listens, stops and starts again. So every sign is
//! looked for where it is (a port in the container's own network, not at a proxy that accepts before the server does), signs are joined by
//! [`and`](Wait::and) and [`or`](Wait::or), and [`stable_for`](Wait::stable_for) asks that they hold.

use crate::connect::ContainerStream;
use crate::container::Container;
use crate::copy::Files;
use crate::copy::Reach;
use crate::error::Error;
use crate::exec::ExecBuilder;
use crate::exit::ExitStatus;
use crate::http::{self, Request};
use crate::logs::LogStream;
use coracle_cgroups::{Enforced, Refusal};
use coracle_spawn::{Delay, HealthState, Interior, LogLine, OutputStream};
use std::ffi::OsString;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// How long is waited in all, if nothing is said.
pub(crate) const STARTUP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long one attempt may take: one question to a service, one test.
const ATTEMPT: Duration = Duration::from_secs(10);
/// Pauses between attempts grow from the first to the last.
const PAUSES: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(200));
/// Lines of the log that a failure tells.
const LAST_LINES: usize = 20;

/// What is waited for until a container is ready. [`ContainerBuilder::wait`](crate::ContainerBuilder::wait), [`Container::wait_for`].
///
/// ```no_run
/// # async fn f() -> Result<(), coracle_container::Error> {
/// use coracle_container::{Container, Wait};
/// use std::time::Duration;
///
/// let database = Container::from_image("postgres:16")
///     .env("POSTGRES_PASSWORD", "x")
///     .wait(Wait::port(5432).and(Wait::exec(["pg_isready", "-h", "127.0.0.1"])).stable_for(Duration::from_millis(500)))
///     .run()
///     .await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "nothing is waited for before it is handed to wait() or wait_for()"]
pub struct Wait {
    kind: Kind,
    timeout: Option<Duration>,
    stable: Duration,
    pause: Option<Duration>,
}

#[derive(Clone)]
enum Kind {
    Running,
    Port(u16),
    UnixSocket(PathBuf),
    Http(Arc<HttpWait>),
    Exec(Vec<OsString>),
    File(PathBuf),
    Exit(i32),
    Healthy,
    Log(Arc<LogWait>),
    Custom(String, Arc<Closure>),
    All(Vec<Wait>),
    Any(Vec<Wait>),
}

/// Judges a line, or a body.
type Judge = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

type Closure = dyn Fn(Inside) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send + Sync;

impl Wait {
    fn new(kind: Kind) -> Self {
        Self { kind, timeout: None, stable: Duration::ZERO, pause: None }
    }

    /// That the command runs, and had its chance to fail: 20 ms.
    pub fn running() -> Self {
        Self::new(Kind::Running).stable_for(Duration::from_millis(20))
    }

    /// That something listens at this TCP port, on the loopback interface inside. It is connected to and left at once.
    pub fn port(port: u16) -> Self {
        Self::new(Kind::Port(port))
    }

    /// That something listens at a Unix socket inside.
    pub fn unix_socket(path: impl Into<PathBuf>) -> Self {
        Self::new(Kind::UnixSocket(path.into()))
    }

    /// That a service answers to HTTP at this port: by 200 to 399 to a GET of `/`, if nothing else is said.
    pub fn http(port: u16) -> HttpWait {
        HttpWait::new(port)
    }

    /// That a command in the container ends with 0. It is made again and again, with ten seconds each time.
    pub fn exec<I: IntoIterator<Item = S>, S: Into<OsString>>(command: I) -> Self {
        Self::new(Kind::Exec(command.into_iter().map(Into::into).collect()))
    }

    /// That there is something at a path inside, whatever it is.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::new(Kind::File(path.into()))
    }

    /// That the command has ended, with this exit code.
    pub fn exit_code(code: i32) -> Self {
        Self::new(Kind::Exit(code))
    }

    /// That the container's health test (HEALTHCHECK) says so. One that has none never is.
    pub fn healthy() -> Self {
        Self::new(Kind::Healthy)
    }

    /// That a line of the log holds these words. Needs the log to be kept, as [`run`](crate::ContainerBuilder::run) does.
    pub fn log(words: impl Into<String>) -> LogWait {
        let words = words.into();
        let name = format!("{words:?}");
        LogWait { matches: Arc::new(move |line| contains(line, words.as_bytes())), name, count: 1, stream: None }
    }

    /// That a line of the log matches a regular expression ([syntax](https://docs.rs/regex-lite/#syntax)).
    ///
    /// # Errors
    /// [`Error::Description`] for what is none.
    pub fn log_regex(expression: &str) -> Result<LogWait, Error> {
        let regex = regex_lite::Regex::new(expression).map_err(|error| Error::Description {
            problems: vec![crate::error::Problem { what: format!("{expression:?} is no regular expression: {error}"), remedy: None }],
        })?;
        let name = format!("/{expression}/");
        Ok(LogWait { matches: Arc::new(move |line| regex.is_match(&String::from_utf8_lossy(line))), name, count: 1, stream: None })
    }

    /// Whatever else: the closure is called again and again until it is `Ok`. Its error is told if it never is. `name` stands for it there.
    ///
    /// ```no_run
    /// use coracle_container::{Inside, Wait};
    /// use tokio::io::AsyncReadExt;
    /// let wait = Wait::custom("a greeting", |inside: Inside| async move {
    ///     let mut stream = inside.connect(25).await.map_err(|error| error.to_string())?;
    ///     let mut greeting = [0; 3];
    ///     stream.read_exact(&mut greeting).await.map_err(|error| error.to_string())?;
    ///     if &greeting == b"220" { Ok(()) } else { Err(format!("it says {greeting:?}")) }
    /// });
    /// ```
    pub fn custom<F, E>(name: impl Into<String>, closure: impl Fn(Inside) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let closure = Arc::new(move |inside| -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> {
            let attempt = closure(inside);
            Box::pin(async move { attempt.await.map_err(|error| error.to_string()) })
        });
        Self::new(Kind::Custom(name.into(), closure))
    }

    /// Both: the second is looked for when the first is there, and ready is when both are at one time.
    pub fn and(self, other: impl Into<Self>) -> Self {
        let mut all = match self {
            Self { kind: Kind::All(all), timeout: None, stable: Duration::ZERO, pause: None } => all,
            one => vec![one],
        };
        all.push(other.into());
        Self::new(Kind::All(all))
    }

    /// One of both.
    pub fn or(self, other: impl Into<Self>) -> Self {
        let mut any = match self {
            Self { kind: Kind::Any(any), timeout: None, stable: Duration::ZERO, pause: None } => any,
            one => vec![one],
        };
        any.push(other.into());
        Self::new(Kind::Any(any))
    }

    /// Only when it is so at every look for this long: a server that starts, stops and starts again isn't ready the first time.
    pub fn stable_for(mut self, time: Duration) -> Self {
        self.stable = time;
        self
    }

    /// How long this part may take, from the beginning of the waiting. The whole has a time of its own:
    /// [`ContainerBuilder::startup_timeout`](crate::ContainerBuilder::startup_timeout).
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// The time between two looks; if nothing is said it grows from 5 ms to 200 ms.
    pub fn interval(mut self, time: Duration) -> Self {
        self.pause = Some(time);
        self
    }

    /// What is waited for if nobody says: the health test, else all TCP ports that the image exposes, else that the command runs.
    pub(crate) fn default_of(health: bool, ports: &[u16]) -> Self {
        match ports {
            _ if health => Self::healthy(),
            [] => Self::running(),
            [first, rest @ ..] => rest.iter().fold(Self::port(*first), |wait, &port| wait.and(Self::port(port))),
        }
    }

    pub(crate) fn is_running_alone(&self) -> bool {
        matches!(self.kind, Kind::Running) && self.timeout.is_none() && self.stable <= Duration::from_millis(20)
    }

    /// What is wrong with it by itself.
    pub(crate) fn problems(&self) -> Vec<String> {
        match &self.kind {
            Kind::Http(http) => http::problem(&http.request).into_iter().chain(http.problem.clone()).collect(),
            Kind::Exec(command) if command.is_empty() => vec!["there is no command to wait for".into()],
            Kind::Port(0) => vec!["port 0 is none that anybody listens at".into()],
            Kind::All(parts) | Kind::Any(parts) => parts.iter().flat_map(Self::problems).collect(),
            _ => Vec::new(),
        }
    }

    fn waits_for_the_end(&self) -> bool {
        match &self.kind {
            Kind::Exit(_) => true,
            Kind::All(parts) | Kind::Any(parts) => parts.iter().any(Self::waits_for_the_end),
            _ => false,
        }
    }

    fn name(&self) -> String {
        match &self.kind {
            Kind::Running => "the command".into(),
            Kind::Port(port) => format!("port {port}"),
            Kind::UnixSocket(path) => format!("socket {}", path.display()),
            Kind::Http(http) => http.name(),
            Kind::Exec(command) => command.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "),
            Kind::File(path) => format!("file {}", path.display()),
            Kind::Exit(code) => format!("exit code {code}"),
            Kind::Healthy => "health".into(),
            Kind::Log(log) => match log.count {
                1 => format!("log {}", log.name),
                count => format!("log {} {count} times", log.name),
            },
            Kind::Custom(name, _) => name.clone(),
            Kind::All(parts) => parts.iter().map(Self::name).collect::<Vec<_>>().join(" and "),
            Kind::Any(parts) => format!("({})", parts.iter().map(Self::name).collect::<Vec<_>>().join(" or ")),
        }
    }
}

impl fmt::Debug for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wait({}", self.name())?;
        if !self.stable.is_zero() {
            write!(f, " stable for {:?}", self.stable)?;
        }
        if let Some(timeout) = self.timeout {
            write!(f, " within {timeout:?}")?;
        }
        f.write_str(")")
    }
}

fn contains(line: &[u8], words: &[u8]) -> bool {
    words.is_empty() || line.windows(words.len()).any(|window| window == words)
}

/// That a line stands in the log: [`Wait::log`]. A [`Wait`] by `into()`, which every taker of one does.
#[derive(Clone)]
#[must_use = "nothing is waited for before it is handed to wait() or wait_for()"]
pub struct LogWait {
    matches: Judge,
    name: String,
    count: usize,
    stream: Option<OutputStream>,
}

impl LogWait {
    /// As many lines, and not one.
    pub fn times(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// Only lines of one of the two streams.
    pub fn stream(mut self, stream: OutputStream) -> Self {
        self.stream = Some(stream);
        self
    }

    /// With another sign, as [`Wait::and`].
    pub fn and(self, other: impl Into<Wait>) -> Wait {
        Wait::from(self).and(other)
    }

    /// Or another, as [`Wait::or`].
    pub fn or(self, other: impl Into<Wait>) -> Wait {
        Wait::from(self).or(other)
    }
}

impl fmt::Debug for LogWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogWait").field("matches", &self.name).field("count", &self.count).field("stream", &self.stream).finish()
    }
}

impl From<LogWait> for Wait {
    fn from(log: LogWait) -> Self {
        Self::new(Kind::Log(Arc::new(log)))
    }
}

/// That a service answers: [`Wait::http`]. A [`Wait`] by `into()`, which every taker of one does.
#[derive(Clone)]
#[must_use = "nothing is waited for before it is handed to wait() or wait_for()"]
pub struct HttpWait {
    port: u16,
    request: Request,
    statuses: Vec<u16>,
    headers: Vec<(String, String)>,
    body: Option<(String, Judge)>,
    #[cfg(feature = "registry")]
    tls: Option<coracle_image::Trust>,
    problem: Option<String>,
}

impl HttpWait {
    fn new(port: u16) -> Self {
        let request = Request { method: "GET".into(), path: "/".into(), host: "localhost".into(), headers: Vec::new() };
        Self {
            port,
            request,
            statuses: Vec::new(),
            headers: Vec::new(),
            body: None,
            #[cfg(feature = "registry")]
            tls: None,
            problem: None,
        }
    }

    /// The path, and what stands behind a question mark.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.request.path = path.into();
        self
    }

    /// The method, instead of GET.
    pub fn method(mut self, method: impl Into<String>) -> Self {
        self.request.method = method.into();
        self
    }

    /// One more header of the request; `Host` replaces `localhost`.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        if name.eq_ignore_ascii_case("host") {
            self.request.host = value;
        } else {
            self.request.headers.push((name, value));
        }
        self
    }

    /// The status that means ready; said again, one more. Without, 200 to 399.
    pub fn status(mut self, status: u16) -> Self {
        self.statuses.push(status);
        self
    }

    /// A header that the answer has to have, with this value.
    pub fn response_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Words that the answer's body has to hold, in its first MiB.
    pub fn body_contains(self, words: impl Into<String>) -> Self {
        let words = words.into();
        let name = format!("a body with {words:?}");
        self.named_body(name, move |body| contains(body, words.as_bytes()))
    }

    /// What the answer's body has to be: its first MiB.
    pub fn body(self, is_ready: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.named_body("another body".into(), is_ready)
    }

    fn named_body(mut self, name: String, is_ready: impl Fn(&[u8]) -> bool + Send + Sync + 'static) -> Self {
        self.body = Some((name, Arc::new(is_ready)));
        self
    }

    /// By HTTPS. The certificate has to be of the `Host` (`localhost` if none is said) and of an authority that this machine trusts.
    #[cfg(feature = "registry")]
    pub fn https(mut self) -> Self {
        self.tls.get_or_insert_default();
        self
    }

    /// By HTTPS, with one more authority: a certificate in PEM.
    #[cfg(feature = "registry")]
    pub fn root_certificate(mut self, pem: impl AsRef<[u8]>) -> Self {
        if let Err(problem) = self.tls.get_or_insert_default().add_root(pem.as_ref()) {
            self.problem = Some(problem);
        }
        self
    }

    /// By HTTPS, with whatever certificate: those of fixtures are often made by themselves.
    #[cfg(feature = "registry")]
    pub fn any_certificate(mut self) -> Self {
        self.tls.get_or_insert_default().anybody();
        self
    }

    /// With another sign, as [`Wait::and`].
    pub fn and(self, other: impl Into<Wait>) -> Wait {
        Wait::from(self).and(other)
    }

    /// Or another, as [`Wait::or`].
    pub fn or(self, other: impl Into<Wait>) -> Wait {
        Wait::from(self).or(other)
    }

    fn name(&self) -> String {
        #[cfg(feature = "registry")]
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        #[cfg(not(feature = "registry"))]
        let scheme = "http";
        format!("{} {scheme}://{}:{}{}", self.request.method, self.request.host, self.port, self.request.path)
    }

    fn ask(&self, stream: TcpStream) -> io::Result<http::Answer> {
        #[cfg(feature = "registry")]
        if let Some(tls) = &self.tls {
            return http::ask(tls.over(stream, &self.request.host)?, &self.request);
        }
        http::ask(stream, &self.request)
    }

    fn judge(&self, answer: &http::Answer) -> Result<(), String> {
        let good = if self.statuses.is_empty() { (200..400).contains(&answer.status) } else { self.statuses.contains(&answer.status) };
        if !good {
            return Err(format!("it answered {}{}", answer.status, beginning(&answer.body)));
        }
        for (name, value) in &self.headers {
            match answer.header(name) {
                Some(found) if found == value => {}
                Some(found) => return Err(format!("its header {name} is {found:?} and not {value:?}")),
                None => return Err(format!("it has no header {name}")),
            }
        }
        match &self.body {
            Some((name, is_ready)) if !is_ready(&answer.body) => Err(format!("{name} is wanted{}", beginning(&answer.body))),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for HttpWait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Headers may hold secrets.
        f.debug_struct("HttpWait").field("request", &self.name()).field("statuses", &self.statuses).finish_non_exhaustive()
    }
}

impl From<HttpWait> for Wait {
    fn from(http: HttpWait) -> Self {
        Self::new(Kind::Http(Arc::new(http)))
    }
}

/// The beginning of what was said, as the end of a sentence.
fn beginning(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(200)]);
    let text = text.trim();
    if text.is_empty() { String::new() } else { format!(": {text:?}") }
}

/// The inside of a container, for who waits: [`Wait::custom`], [`Container::inside`]. Cheap to clone; it holds nothing alive.
#[derive(Debug, Clone)]
pub struct Inside {
    /// None of one that doesn't run.
    pub(crate) interior: Option<Interior>,
    pub(crate) enforced: Vec<Enforced>,
    pub(crate) waived: Vec<Refusal>,
}

impl Inside {
    fn running(&self) -> Result<Interior, Error> {
        Ok(self.interior.clone().ok_or(coracle_spawn::Error::Ended)?)
    }

    /// As [`Container::connect`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect(&self, port: u16) -> Result<ContainerStream, Error> {
        crate::connect::to_port(&self.running()?, port).await
    }

    /// As [`Container::connect_unix`].
    ///
    /// # Errors
    /// As there.
    pub async fn connect_unix(&self, path: impl AsRef<Path>) -> Result<ContainerStream, Error> {
        crate::connect::to_path(&self.running()?, path.as_ref()).await
    }

    /// As [`Container::exec`].
    pub fn exec<I: IntoIterator<Item = S>, S: Into<OsString>>(&self, command: I) -> ExecBuilder {
        let command = command.into_iter().map(Into::into).collect();
        ExecBuilder::new(self.interior.clone(), command, self.enforced.clone(), self.waived.clone())
    }

    /// As [`Container::fs`].
    pub fn fs(&self) -> Files {
        Files::new(self.interior.clone().map_or(Reach::Gone, Reach::Running))
    }
}

/// Why a container isn't ready.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct WaitFailure {
    /// What was waited for, the part that didn't come: `port 5432`.
    pub part: String,
    /// The last that was seen of it: `nothing listens there`.
    pub observed: Option<String>,
    /// How long was waited.
    pub waited: Duration,
    /// How the command ended. None: it runs, and the time is up.
    pub status: Option<ExitStatus>,
    /// What its health test says, where it has one.
    pub health: Option<HealthState>,
    /// The last lines of its log, where that is kept.
    pub log: Vec<LogLine>,
    /// Where it is, if it [stays](crate::ContainerBuilder::keep_on_failure), and how it is removed.
    pub kept: Option<String>,
}

impl fmt::Display for WaitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.status {
            Some(status) => write!(
                f,
                "the container ended before it was ready ({status}), {:.1?} after the waiting for {} began",
                self.waited, self.part
            )?,
            None => write!(f, "the container runs, but isn't ready after {:.1?}: {}", self.waited, self.part)?,
        }
        if let Some(observed) = &self.observed {
            write!(f, ": {observed}")?;
        }
        if let Some(health) = self.health {
            write!(f, "; its health: {health}")?;
        }
        if !self.log.is_empty() {
            f.write_str("; the last that it said:")?;
        }
        self.log.iter().try_for_each(|line| write!(f, "\n  {}", crate::last_words::plain(&line.bytes)))?;
        self.kept.iter().try_for_each(|kept| write!(f, "\n{kept}"))
    }
}

/// A part, as far as the waiting for it has come.
struct Part<'a> {
    wait: &'a Wait,
    parts: Vec<Part<'a>>,
    /// Since when it is so.
    since: Option<Instant>,
    observed: Option<String>,
    log: Option<LogStream>,
    matched: usize,
}

/// What a look came to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Ready,
    NotYet,
    /// And it won't be.
    Never,
}

impl<'a> Part<'a> {
    fn new(wait: &'a Wait) -> Self {
        let parts = match &wait.kind {
            Kind::All(parts) | Kind::Any(parts) => parts.iter().map(Part::new).collect(),
            _ => Vec::new(),
        };
        Self { wait, parts, since: None, observed: None, log: None, matched: 0 }
    }

    /// The part that is to blame.
    fn culprit(&self) -> &Self {
        let blamed = match self.wait.kind {
            Kind::All(_) => self.parts.iter().find(|part| part.since.is_none() || part.observed.is_some()),
            _ => None,
        };
        blamed.map_or(self, Part::culprit)
    }

    /// What was seen last, of it or of its parts.
    fn last_seen(&self) -> Option<String> {
        let seen = |part: &Part<'_>| Some(format!("{}: {}", part.wait.name(), part.last_seen()?));
        match self.wait.kind {
            Kind::Any(_) if self.observed.is_none() => {
                let all: Vec<_> = self.parts.iter().filter_map(seen).collect();
                (!all.is_empty()).then(|| all.join("; "))
            }
            _ => self.observed.clone(),
        }
    }

    fn look<'b>(&'b mut self, at: &'b Looking<'b>) -> Pin<Box<dyn Future<Output = Seen> + Send + 'b>> {
        Box::pin(async move {
            let seen = match &self.wait.kind {
                Kind::All(_) => {
                    let mut all = Seen::Ready;
                    for part in &mut self.parts {
                        all = part.look(at).await;
                        if all != Seen::Ready {
                            break;
                        }
                    }
                    all
                }
                Kind::Any(_) => {
                    let mut any = Seen::Never;
                    for part in &mut self.parts {
                        match part.look(at).await {
                            Seen::Ready => {
                                any = Seen::Ready;
                                break;
                            }
                            Seen::NotYet => any = Seen::NotYet,
                            Seen::Never => {}
                        }
                    }
                    any
                }
                _ => match self.attempt(at).await {
                    Ok(()) => {
                        self.observed = None;
                        Seen::Ready
                    }
                    Err((seen, observed)) => {
                        // That it ended is told by its status; what was seen before says more.
                        if self.observed.is_none() || observed != coracle_spawn::Error::Ended.to_string() {
                            self.observed = Some(observed);
                        }
                        seen
                    }
                },
            };
            let now = Instant::now();
            let seen = match seen {
                Seen::Ready => {
                    let since = *self.since.get_or_insert(now);
                    match now.duration_since(since) >= self.wait.stable || at.ended.is_some() {
                        true => Seen::Ready,
                        false => Seen::NotYet,
                    }
                }
                other => {
                    self.since = None;
                    other
                }
            };
            match self.wait.timeout {
                Some(timeout) if seen == Seen::NotYet && now.duration_since(at.begun) >= timeout => {
                    let last = self.last_seen().map_or(String::new(), |last| format!("; {last}"));
                    self.observed = Some(format!("it had {timeout:?}{last}"));
                    Seen::Never
                }
                _ => seen,
            }
        })
    }

    async fn attempt(&mut self, at: &Looking<'_>) -> Result<(), (Seen, String)> {
        let not_yet = |error: &dyn fmt::Display| (Seen::NotYet, error.to_string());
        let inside = at.container.inside();
        if let Kind::Log(log) = &self.wait.kind {
            let log = log.clone();
            return self.look_at_log(at, &log).map_err(|error| (Seen::Never, error.to_string()))?.map_err(|said| (Seen::NotYet, said));
        }
        if let Kind::Exit(code) = &self.wait.kind {
            return match at.ended {
                None => Err((Seen::NotYet, "it runs".into())),
                Some(status) if status.code() == Some(*code) => Ok(()),
                Some(status) => Err((Seen::Never, status.to_string())),
            };
        }
        if at.ended.is_some() {
            return Err((Seen::Never, "it has ended".into()));
        }
        match &self.wait.kind {
            Kind::Running => Ok(()),
            Kind::Port(port) => limited(inside.connect(*port)).await.map(drop).map_err(|e| not_yet(&why(e))),
            Kind::UnixSocket(path) => limited(inside.connect_unix(path)).await.map(drop).map_err(|e| not_yet(&why(e))),
            Kind::File(path) => match limited(inside.fs().exists(path)).await {
                Ok(true) => Ok(()),
                Ok(false) => Err((Seen::NotYet, "it isn't there".into())),
                Err(error) => Err(not_yet(&why(error))),
            },
            Kind::Exec(command) => match inside.exec(command.iter().cloned()).wall(ATTEMPT).output().await {
                Ok(out) if out.status.success() => Ok(()),
                Ok(out) => {
                    let said = if out.stderr.is_empty() { &out.stdout } else { &out.stderr };
                    Err((Seen::NotYet, format!("{}{}", out.status, beginning(said))))
                }
                Err(error) => Err(not_yet(&error)),
            },
            Kind::Healthy => match at.container.health() {
                Some(health) if health.state == HealthState::Healthy => Ok(()),
                Some(health) => {
                    let seen = format!(
                        "{} after {} tests; the last ended by {}{}",
                        health.state,
                        health.tests,
                        health.status,
                        beginning(&health.output)
                    );
                    // What is unhealthy may become healthy; who waits for it is told at once, as by Docker.
                    Err((if health.state == HealthState::Unhealthy { Seen::Never } else { Seen::NotYet }, seen))
                }
                None if at.container.has_health_test() => Err((Seen::NotYet, "no test has ended yet".into())),
                None => Err((Seen::Never, "it has no health test".into())),
            },
            Kind::Http(http) => {
                let stream = limited(inside.connect(http.port)).await.map_err(|e| not_yet(&why(e)))?;
                let answer = ask_over(http.clone(), stream).await.map_err(|error| not_yet(&error))?;
                http.judge(&answer).map_err(|why| (Seen::NotYet, why))
            }
            Kind::Custom(_, closure) => match either(closure(inside), Delay::new(ATTEMPT)).await {
                Either::Left(done) => done.map_err(|why| (Seen::NotYet, why)),
                Either::Right(()) => Err((Seen::NotYet, format!("no answer within {ATTEMPT:?}"))),
            },
            Kind::Log(_) | Kind::Exit(_) | Kind::All(_) | Kind::Any(_) => Ok(()),
        }
    }

    /// Takes in the lines that are there by now.
    fn look_at_log(&mut self, at: &Looking<'_>, wanted: &LogWait) -> Result<Result<(), String>, Error> {
        if self.log.is_none() {
            let logs = at.container.logs();
            self.log = Some(match wanted.stream {
                Some(stream) => logs.stream(stream).follow()?,
                None => logs.follow()?,
            });
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Some(lines) = &mut self.log
            && self.matched < wanted.count
        {
            match pin!(lines.next()).poll(&mut cx) {
                Poll::Ready(Ok(Some(line))) => self.matched += usize::from((wanted.matches)(&line.bytes)),
                Poll::Ready(Err(error)) => return Err(error),
                Poll::Ready(Ok(None)) | Poll::Pending => break,
            }
        }
        Ok(match self.matched {
            matched if matched >= wanted.count => Ok(()),
            0 => Err("no such line yet".into()),
            matched => Err(format!("{matched} such lines of {}", wanted.count)),
        })
    }
}

/// What looks have in common.
struct Looking<'a> {
    container: &'a Container,
    begun: Instant,
    /// How the command ended.
    ended: Option<ExitStatus>,
}

/// An error's own words, without what stands in front of them.
fn why(error: Error) -> String {
    match error {
        Error::Connect { fault, .. } => fault.to_string(),
        Error::Copy { source, .. } => source.to_string(),
        error => error.to_string(),
    }
}

/// A future that has ten seconds.
async fn limited<T>(future: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    match either(future, Delay::new(ATTEMPT)).await {
        Either::Left(done) => done,
        Either::Right(()) => Err(Error::Copy { attempted: "look".into(), source: io::ErrorKind::TimedOut.into() }),
    }
}

/// Ends a conversation that a thread has, when nobody waits for it any more.
struct HangUp(TcpStream);

impl Drop for HangUp {
    fn drop(&mut self) {
        let _ = self.0.shutdown(std::net::Shutdown::Both);
    }
}

async fn ask_over(http: Arc<HttpWait>, stream: ContainerStream) -> io::Result<http::Answer> {
    let stream = TcpStream::from(stream.into_fd()?);
    stream.set_read_timeout(Some(ATTEMPT))?;
    stream.set_write_timeout(Some(ATTEMPT))?;
    let hang_up = HangUp(stream.try_clone()?);
    let work = crate::background::run("coracle-http", move || http.ask(stream))?;
    // A service that says a byte now and then isn't waited for any longer.
    let answer = match either(work, Delay::new(ATTEMPT)).await {
        Either::Left(answer) => answer,
        Either::Right(()) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ATTEMPT:?}"))),
    };
    drop(hang_up);
    match answer {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer within {ATTEMPT:?}")))
        }
        answer => answer,
    }
}

enum Either<A, B> {
    Left(A),
    Right(B),
}

/// Whichever is ready first.
async fn either<A: Future, B: Future>(a: A, b: B) -> Either<A::Output, B::Output> {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|cx| match a.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Either::Left(value)),
        Poll::Pending => b.as_mut().poll(cx).map(Either::Right),
    })
    .await
}

/// Waits until it is so, until it can't be any more, or until the time is up.
pub(crate) async fn until(container: &Container, wait: &Wait, timeout: Duration) -> Result<(), Error> {
    let problems = wait.problems();
    if !problems.is_empty() {
        let problems = problems.into_iter().map(|what| crate::error::Problem { what, remedy: None }).collect();
        return Err(Error::Description { problems });
    }
    let begun = Instant::now();
    let deadline = begun.checked_add(timeout);
    let mut part = Part::new(wait);
    let mut looking = Looking { container, begun, ended: None };
    let mut pause = PAUSES.0;
    let mut delay = wait.pause.unwrap_or(pause);
    let at_deadline = || async move {
        match deadline {
            Some(deadline) => Delay::until(deadline).await,
            None => std::future::pending().await,
        }
    };
    loop {
        let ended = match either(either(part.look(&looking), container.wait()), at_deadline()).await {
            Either::Left(Either::Left(Seen::Ready)) => return Ok(()),
            Either::Left(Either::Left(Seen::Never)) => break,
            Either::Right(()) => break,
            Either::Left(Either::Right(ended)) => Some(ended?),
            Either::Left(Either::Left(Seen::NotYet)) => match either(either(Delay::new(delay), container.wait()), at_deadline()).await {
                Either::Left(Either::Left(())) => None,
                Either::Left(Either::Right(ended)) => Some(ended?),
                Either::Right(()) => break,
            },
        };
        if let Some(status) = ended {
            looking.ended = Some(status);
            // Its end may be what is waited for, and what it said is still to be read.
            if wait.waits_for_the_end() && part.look(&looking).await == Seen::Ready {
                return Ok(());
            }
            break;
        }
        pause = (pause * 3 / 2).min(PAUSES.1);
        delay = wait.pause.unwrap_or(pause);
        // Who asks that something holds isn't kept longer than that.
        if !wait.stable.is_zero() {
            delay = delay.min(wait.stable.max(PAUSES.0));
        }
    }
    // It may have ended while it was looked at.
    let status = match looking.ended {
        Some(status) => Some(status),
        None => container.try_wait()?,
    };
    let culprit = part.culprit();
    Err(Error::Wait(Box::new(WaitFailure {
        part: culprit.wait.name(),
        observed: culprit.last_seen(),
        waited: begun.elapsed(),
        status,
        health: container.health().map(|health| health.state),
        log: container.logs().tail(LAST_LINES).collect().unwrap_or_default(),
        kept: None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_waited_for_has_a_name() {
        let check = |wait: Wait, name: &str| assert_eq!(wait.name(), name);
        check(Wait::port(80).and(Wait::file("/x")).and(Wait::exec(["a", "b"])), "port 80 and file /x and a b");
        check(Wait::port(80).or(Wait::healthy()).and(Wait::exit_code(3)), "(port 80 or health) and exit code 3");
        check(Wait::log("ready").times(2).into(), "log \"ready\" 2 times");
        check(Wait::http(8080).path("/health").into(), "GET http://localhost:8080/health");
        let shown = format!("{:?}", Wait::port(1).stable_for(Duration::from_secs(1)).timeout(Duration::from_secs(2)));
        assert_eq!(shown, "Wait(port 1 stable for 1s within 2s)");
    }

    #[test]
    fn a_default_is_what_the_image_says() {
        let check = |health: bool, ports: &[u16], name: &str| assert_eq!(Wait::default_of(health, ports).name(), name);
        check(true, &[80], "health");
        check(false, &[80, 443], "port 80 and port 443");
        check(false, &[], "the command");
        assert!(Wait::default_of(false, &[]).is_running_alone());
    }

    #[test]
    fn an_answer_is_judged_by_all_that_was_said() {
        let answer = |status: u16, body: &str| http::Answer { status, headers: vec![("X-A".into(), "b".into())], body: body.into() };
        let check = |wait: HttpWait, status: u16, body: &str, ready: bool| {
            assert_eq!(wait.judge(&answer(status, body)).is_ok(), ready, "{wait:?} {status} {body}");
        };
        check(Wait::http(1), 204, "", true);
        check(Wait::http(1), 302, "", true);
        check(Wait::http(1), 404, "", false);
        check(Wait::http(1).status(401).status(503), 503, "", true);
        check(Wait::http(1).status(401), 200, "", false);
        check(Wait::http(1).response_header("x-a", "b"), 200, "", true);
        check(Wait::http(1).response_header("x-a", "c"), 200, "", false);
        check(Wait::http(1).response_header("x-b", "c"), 200, "", false);
        check(Wait::http(1).body_contains("up"), 200, "it is up", true);
        check(Wait::http(1).body_contains("up"), 200, "down", false);
        check(Wait::http(1).body(|body| body.len() == 4), 200, "down", true);
    }

    #[test]
    fn problems_are_told_of_every_part() {
        let wait = Wait::port(0).and(Wait::http(1).path("no slash")).or(Wait::exec(Vec::<String>::new()));
        assert_eq!(wait.problems().len(), 3, "{:?}", wait.problems());
        assert!(Wait::log_regex("(").is_err() && Wait::log_regex("rea+dy").is_ok_and(|log| (log.matches)(b"it is reaady")));
    }
}
