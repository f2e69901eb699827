//! The description of a container, and the verbs that end it.

use crate::blocking::Async;
use crate::command::{Command, command_setters};
use crate::container::{self, Container};
use crate::copy::CopyIn;
use crate::engine::Engine;
use crate::error::Error;
use crate::exit::{ExitStatus, Output};
use crate::image::OnProgress;
use crate::kept;
use crate::limits::MemorySize;
use crate::mount::Mount;
use crate::names::Dns;
use crate::network::Network;
use crate::publish::Publish;
use crate::resources::Resources;
use crate::security::Security;
use crate::shared::{self, Scope, Shared};
use crate::stdio::Stdio;
use crate::wait::{self, Wait};
use coracle_cgroups::Control;
use coracle_image::Progress;
use coracle_spawn::{HealthTest, Rlimit};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How the container is asked whether it works.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    OfImage,
    None,
    Test(HealthTest),
}

/// Where a container's root comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Image(String),
    Rootfs(PathBuf),
    OciLayout(PathBuf),
    /// Of a container that is started again: directories, topmost first, and the image that they were of.
    Layers {
        layers: Vec<PathBuf>,
        image: String,
        stop_signal: String,
    },
    Snapshot(String),
}

/// Describes a container. Plain data: setters never fail, nothing happens before `output()`, `status()`, `spawn()` or `run()`, and a
/// ready-made fixture is a function that returns one.
///
/// Its ends are futures; those of [`blocking::ContainerBuilder`](crate::blocking::ContainerBuilder), which [`blocking`](Self::blocking) makes
/// of it, have the same names and are none.
#[derive(Clone)]
#[must_use = "a description does nothing until output(), status(), spawn() or run()"]
pub struct ContainerBuilder<Face = Async> {
    pub(crate) described: Described,
    face: PhantomData<Face>,
}

/// What was said of a container, whichever way it is waited for.
#[derive(Clone)]
#[doc(hidden)]
pub struct Described {
    pub(crate) engine: Option<Engine>,
    pub(crate) source: Source,
    pub(crate) entrypoint: Option<Vec<OsString>>,
    pub(crate) cmd: Option<Vec<OsString>>,
    pub(crate) args: Vec<OsString>,
    pub(crate) env_clear: bool,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) user: Option<OsString>,
    pub(crate) hostname: Option<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) read_only_rootfs: bool,
    pub(crate) memory: Option<MemorySize>,
    pub(crate) cpus: Option<f64>,
    pub(crate) pids: Option<u64>,
    pub(crate) rlimits: Vec<Rlimit>,
    pub(crate) capabilities: Vec<(bool, String)>,
    pub(crate) init: Option<bool>,
    pub(crate) command: Command,
    pub(crate) log_size: Option<MemorySize>,
    pub(crate) wall: Option<Duration>,
    pub(crate) cpu_time: Option<Duration>,
    pub(crate) output_limit: Option<MemorySize>,
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) networks: Vec<Network>,
    pub(crate) publish: Vec<Publish>,
    pub(crate) hosts: Vec<(String, String)>,
    pub(crate) dns: Dns,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) name: Option<String>,
    pub(crate) auto_remove: bool,
    pub(crate) best_effort: Vec<Control>,
    pub(crate) progress: Option<OnProgress>,
    pub(crate) files: Vec<(CopyIn, PathBuf)>,
    pub(crate) wait: Option<Wait>,
    pub(crate) startup_timeout: Duration,
    pub(crate) health: Health,
    pub(crate) keep_on_failure: Option<bool>,
    pub(crate) security: Security,
    pub(crate) resources: Resources,
}

impl Container {
    /// From an image by name, as docker-pull(1) takes it: `debian:12`, `localhost:5000/debian:12`, `name@sha256:…`. It is pulled if it
    /// isn't here.
    pub fn from_image(reference: impl Into<String>) -> ContainerBuilder {
        ContainerBuilder::new(Source::Image(reference.into()))
    }

    /// From a directory that holds a root file system. It is the lower layer of an overlay: the container's changes go with it, and
    /// many may run from one directory at a time. `/` is this machine's own.
    pub fn from_rootfs(directory: impl Into<PathBuf>) -> ContainerBuilder {
        ContainerBuilder::new(Source::Rootfs(directory.into()))
    }

    /// From a directory in the OCI image layout, as `skopeo copy … oci:DIR` makes it, with one image.
    pub fn from_oci_layout(directory: impl Into<PathBuf>) -> ContainerBuilder {
        ContainerBuilder::new(Source::OciLayout(directory.into()))
    }

    /// From a snapshot by its name, of the engine's that it runs in: [`Container::snapshot`] makes one. It starts as one from the image
    /// does, sees the files as they were, and shares them with all others from it.
    pub fn from_snapshot(name: impl Into<String>) -> ContainerBuilder {
        ContainerBuilder::new(Source::Snapshot(name.into()))
    }
}

impl<Face> ContainerBuilder<Face> {
    pub(crate) fn new(source: Source) -> Self {
        let described = Described {
            engine: None,
            source,
            entrypoint: None,
            cmd: None,
            args: Vec::new(),
            env_clear: false,
            workdir: None,
            user: None,
            hostname: None,
            mounts: Vec::new(),
            read_only_rootfs: false,
            memory: None,
            cpus: None,
            pids: None,
            rlimits: Vec::new(),
            capabilities: Vec::new(),
            init: None,
            command: Command::default(),
            log_size: None,
            wall: None,
            cpu_time: None,
            output_limit: None,
            idle_timeout: None,
            networks: Vec::new(),
            publish: Vec::new(),
            hosts: Vec::new(),
            dns: Dns::default(),
            labels: BTreeMap::new(),
            name: None,
            auto_remove: false,
            best_effort: Vec::new(),
            progress: None,
            files: Vec::new(),
            wait: None,
            startup_timeout: wait::STARTUP_TIMEOUT,
            health: Health::OfImage,
            keep_on_failure: None,
            security: Security::default(),
            resources: Resources::default(),
        };
        Self { described, face: PhantomData }
    }

    /// The same description, with ends of another kind.
    pub(crate) fn faced<Other>(self) -> ContainerBuilder<Other> {
        ContainerBuilder { described: self.described, face: PhantomData }
    }

    /// The engine to run in; this process's default if nothing is said.
    pub fn engine(mut self, engine: &Engine) -> Self {
        self.engine = Some(engine.clone());
        self
    }

    /// The command, instead of the image's `Cmd`. The image's `Entrypoint`, if it has one, stays in front.
    pub fn cmd<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, cmd: I) -> Self {
        self.cmd = Some(cmd.into_iter().map(Into::into).collect());
        self
    }

    /// What stands in front of the command, instead of the image's `Entrypoint`; nothing where it is empty. As with Docker, the
    /// image's `Cmd` goes with its `Entrypoint`.
    pub fn entrypoint<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, entrypoint: I) -> Self {
        self.entrypoint = Some(entrypoint.into_iter().map(Into::into).collect());
        self
    }

    /// One more argument, behind the command.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// More arguments.
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    command_setters!(
        "A variable of the environment, over the image's. This process's environment isn't passed on.",
        "Standard output. If nothing is said: collected by [`output`](Self::output), a pipe for [`spawn`](Self::spawn), inherited by \
         [`status`](Self::status), kept as a [log](Stdio::log) by [`run`](Self::run)."
    );

    /// Without the image's variables, PATH among them, and without those set so far.
    pub fn env_clear(mut self) -> Self {
        self.env_clear = true;
        self.command.env.clear();
        self
    }

    /// The working directory, instead of the image's; made if it isn't there.
    pub fn workdir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.workdir = Some(directory.into());
        self
    }

    /// The user, instead of the image's: `user`, `uid`, `user:group` and so on, by the container's own /etc/passwd and /etc/group.
    pub fn user(mut self, user: impl Into<OsString>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The host name, at most 64 bytes; the first 12 of the id if nothing is said.
    pub fn hostname(mut self, name: impl Into<String>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// One more mount, after those before it.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// Whether the root can't be written. Mounts keep their own attributes; /dev and /dev/shm stay writable, as Docker's do.
    pub fn read_only_rootfs(mut self, yes: bool) -> Self {
        self.read_only_rootfs = yes;
        self
    }

    /// The most memory, page cache included, all processes together: bytes, or a text as `256m`. No swap beyond it. Needs the memory
    /// controller; an error if it can't be enforced.
    pub fn memory(mut self, limit: impl Into<MemorySize>) -> Self {
        self.memory = Some(limit.into());
        self
    }

    /// The most CPU time a second, in processors: `1.5`. Needs the cpu controller.
    pub fn cpus(mut self, cpus: f64) -> Self {
        self.cpus = Some(cpus);
        self
    }

    /// The most processes and threads at once, our init among them. Needs the pids controller.
    pub fn pids(mut self, pids: u64) -> Self {
        self.pids = Some(pids);
        self
    }

    /// A resource limit of the processes: `"nofile=1024".parse()?`.
    pub fn rlimit(mut self, limit: Rlimit) -> Self {
        self.rlimits.push(limit);
        self
    }

    /// One more capability than Docker's fourteen: `NET_ADMIN`, with or without `CAP_`, or `ALL`.
    pub fn cap_add(mut self, capability: impl Into<String>) -> Self {
        self.capabilities.push((true, capability.into()));
        self
    }

    /// One capability less, or `ALL`. Whichever order they are named in, `ALL` is first.
    pub fn cap_drop(mut self, capability: impl Into<String>) -> Self {
        self.capabilities.push((false, capability.into()));
        self
    }

    /// Whether PID 1 is our init, which reaps and forwards signals, or the command itself. If nothing is said: ours, unless the
    /// command is an init (systemd, tini, s6's and others').
    pub fn init(mut self, yes: bool) -> Self {
        self.init = Some(yes);
        self
    }

    /// Everything is ended this long after the start, to the millisecond: [`Reason::WallClock`](crate::Reason::WallClock).
    #[doc(alias = "timeout")]
    pub fn wall(mut self, wall: Duration) -> Self {
        self.wall = Some(wall);
        self
    }

    /// Everything is ended when all processes together have spent this much processor time, user and system, those that have ended and those of
    /// [`exec`](Container::exec) included: [`Reason::CpuTime`](crate::Reason::CpuTime). To a millisecond on each processor. Needs a control
    /// group that counts (cgroup2's does, without any controller); an error where there is none.
    pub fn cpu_time(mut self, most: Duration) -> Self {
        self.cpu_time = Some(most);
        self
    }

    /// Everything is ended when it says more than so many bytes, output and error together, or a text as `1m`:
    /// [`Reason::OutputLimit`](crate::Reason::OutputLimit). What came before is delivered, and not a byte more. Of streams that are pipes or
    /// a [log](Stdio::log): what goes straight to this process's own streams or to a file isn't counted, and asking for both is an error.
    pub fn output_limit(mut self, most: impl Into<MemorySize>) -> Self {
        self.output_limit = Some(most.into());
        self
    }

    /// Everything is ended when nothing was said for so long, on output and error: [`Reason::IdleTimeout`](crate::Reason::IdleTimeout). Of streams
    /// as [`output_limit`](Self::output_limit). A command that waits for its reader says nothing.
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = Some(time);
        self
    }

    /// The most that is kept of what goes to the [log](Stdio::log), times and all: bytes, or a text as `1m`; 64 KiB or more, 10 MiB if
    /// nothing is said. What is older goes.
    pub fn log_size(mut self, most: impl Into<MemorySize>) -> Self {
        self.log_size = Some(most.into());
        self
    }

    /// The network, or one more: a container may be in several private ones, and leaves by the first. [`Network::none`] if nothing is
    /// said.
    pub fn network(mut self, network: Network) -> Self {
        self.networks.push(network);
        self
    }

    /// Answers a port of the container on this host: `publish(5432)` on a port of 127.0.0.1 that is free, which
    /// [`Container::port`] tells; [`Publish`] has the words for other places. Taken before the start: all of them or an error that says
    /// who has one. At most some 60 ports, each address counted.
    ///
    /// Needs no privilege for ports from 1024 on. Connections to loopback addresses, and all of a container without a private network,
    /// come to it from an address of its own; connections from elsewhere to a private network show who they are from.
    pub fn publish(mut self, port: impl Into<Publish>) -> Self {
        self.publish.push(port.into());
        self
    }

    /// One more line of /etc/hosts: a name and an address, or `host-gateway`, which is this host as a private network reaches it.
    pub fn host(mut self, name: impl Into<String>, address: impl Into<String>) -> Self {
        self.hosts.push((name.into(), address.into()));
        self
    }

    /// A server that the container asks for names, instead of this host's; up to three.
    pub fn dns(mut self, server: impl Into<String>) -> Self {
        self.dns.servers.push(server.into());
        self
    }

    /// A domain in which short names are looked for, instead of this host's.
    pub fn dns_search(mut self, domain: impl Into<String>) -> Self {
        self.dns.search.push(domain.into());
        self
    }

    /// An option of resolv.conf(5), `ndots:1`, instead of this host's.
    pub fn dns_option(mut self, option: impl Into<String>) -> Self {
        self.dns.options.push(option.into());
        self
    }

    /// Puts a file or a tree in, when all mounts are there and before the command is executed:
    /// `copy_in(b"listen = 8080\n", "/etc/app.conf")`, `copy_in(CopyIn::path("seed").owner(70, 70), "/var/lib/seed")`. In the order in which they are
    /// named; what [`Container::copy_to`] says goes for it. A root that is to be read-only is still writable then.
    pub fn copy_in(mut self, what: impl Into<CopyIn>, target: impl Into<PathBuf>) -> Self {
        self.files.push((what.into(), target.into()));
        self
    }

    /// A name by which others find it, beside its id: letters, digits, `_`, `.` and `-`, of which the first is a letter or digit. No two
    /// containers of an engine's directory have one name, also not those that have ended and stay.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Whether a container that would [stay](Self::create) goes by itself when it has ended.
    pub fn auto_remove(mut self, yes: bool) -> Self {
        self.auto_remove = yes;
        self
    }

    /// What [`run`](Self::run) waits for, instead of: the health test if there is one, else all TCP ports that the image exposes, else that the
    /// command runs.
    pub fn wait(mut self, wait: impl Into<Wait>) -> Self {
        self.wait = Some(wait.into());
        self
    }

    /// How long [`run`](Self::run) waits until the container is ready; 60 s if nothing is said.
    pub fn startup_timeout(mut self, time: Duration) -> Self {
        self.startup_timeout = time;
        self
    }

    /// Asks the container again and again whether it works, by this and not by its image's HEALTHCHECK: [`Container::health`]. As with Docker it is
    /// asked as long as it runs, also when it is detached.
    pub fn health(mut self, test: HealthTest) -> Self {
        self.health = Health::Test(test);
        self
    }

    /// Doesn't ask it, whatever its image says.
    pub fn no_healthcheck(mut self) -> Self {
        self.health = Health::None;
        self
    }

    /// Whether one that [`run`](Self::run) started stays when it is dropped by a panic, or didn't get ready in time: detached, as it runs, until
    /// its command ends or somebody removes it. What is printed with the panic, and the error, say how to find it and how to remove it. One
    /// whose command has ended doesn't stay. If nothing is said: where the environment has `CORACLE_KEEP=fail`.
    pub fn keep_on_failure(mut self, yes: bool) -> Self {
        self.keep_on_failure = Some(yes);
        self
    }

    /// A label, for whoever lists containers.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.insert(key.into(), value.into());
        self
    }

    /// Goes on without this limit where it can't be enforced. [`Container::waived`] tells.
    pub fn best_effort(mut self, control: Control) -> Self {
        self.best_effort.push(control);
        self
    }

    /// Called with each step of a pull, from another thread: don't block in it.
    pub fn on_progress(mut self, callback: impl Fn(Progress) + Send + Sync + 'static) -> Self {
        self.progress = Some(Arc::new(callback));
        self
    }
}

impl ContainerBuilder {
    /// The same description for who has no runtime and wants none: its ends block the thread that calls them.
    pub fn blocking(self) -> crate::blocking::ContainerBuilder {
        self.faced()
    }

    /// Runs it to its end, and answers when everything is taken back: all that it said, how it ended, what it used. Non-zero is no
    /// error.
    ///
    /// Cancel-safe: dropping the future ends the container.
    ///
    /// # Errors
    /// Where the container couldn't be started, or was lost, or couldn't be removed whole.
    pub async fn output(self) -> Result<Output, Error> {
        container::output(self).await
    }

    /// Runs it to its end as [`output`](Self::output) does, with this process's own standard output and error.
    ///
    /// # Errors
    /// As [`output`](Self::output).
    pub async fn status(self) -> Result<ExitStatus, Error> {
        container::status(self).await
    }

    /// Starts it, with pipes for what isn't said otherwise, and answers when the command is executed.
    ///
    /// # Errors
    /// Where it couldn't be started; what had been done is taken back by then.
    pub async fn spawn(self) -> Result<Container, Error> {
        container::start(self, &container::PIPED).await
    }

    /// Makes it, and doesn't start it: [`Container::start`] does, now or later, in this process or in another. It stays when it has ended, with
    /// its files, until [`Container::remove`]; it lives on without this process, and dropping the handle ends nothing. What it says goes to its
    /// [log](Stdio::log), or nowhere.
    ///
    /// # Errors
    /// [`Error::Description`]; [`Error::NameTaken`]; those of the image; [`Error::State`].
    pub async fn create(self) -> Result<Container, Error> {
        kept::create(self).await
    }

    /// Makes it under a name and starts it, detached: [`create`](Self::create) and [`Container::start`]. Without an end of its own it runs until
    /// somebody ends it.
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`Container::start`]; what couldn't be started doesn't stay.
    pub async fn run_detached(self, name: impl Into<String>) -> Result<Container, Error> {
        kept::run(self.name(name)).await
    }

    /// The same without a name.
    ///
    /// # Errors
    /// As [`run_detached`](Self::run_detached).
    pub async fn start_detached(self) -> Result<Container, Error> {
        kept::run(self).await
    }

    /// Starts it, unless another process of the same [`Scope`] has, and answers when it is ready, as [`run`](Self::run) does: one container for
    /// all of them, which is their [`Shared`](crate::Shared). One starts it and the others wait. It ends with the last of their handles,
    /// whichever way their processes end.
    ///
    /// Cancel-safe: who waits goes away; where it is who starts, another of those who wait does in its place.
    ///
    /// # Errors
    /// As [`run`](Self::run), for who started it; [`Error::Shared`] with the same words for all that waited meanwhile. [`Error::Description`] where
    /// the scope's is described otherwise.
    pub async fn shared(self, scope: Scope) -> Result<Shared, Error> {
        shared::get(self, scope).await
    }

    /// Starts it, and answers when it is ready, by what [`wait`](Self::wait) says. If that comes to nothing but that the command runs: when it is
    /// still there after 20 ms, or as soon after that as it waits for something (half a second at most).
    ///
    /// What it says is kept: [`Container::logs`].
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn); [`Error::Wait`] with what didn't come, and [`Error::NotReady`] for a command that was only to run and has ended. All
    /// is taken back by then.
    pub async fn run(self) -> Result<Container, Error> {
        container::run(self).await
    }
}

#[doc(hidden)]
impl<Face> Deref for ContainerBuilder<Face> {
    type Target = Described;

    fn deref(&self) -> &Described {
        &self.described
    }
}

#[doc(hidden)]
impl<Face> DerefMut for ContainerBuilder<Face> {
    fn deref_mut(&mut self) -> &mut Described {
        &mut self.described
    }
}

impl<Face> fmt::Debug for ContainerBuilder<Face> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ContainerBuilder")
            .field("source", &self.source)
            .field("entrypoint", &self.entrypoint)
            .field("cmd", &self.cmd)
            .field("args", &self.args)
            .field("env", &self.command.names())
            .field("workdir", &self.workdir)
            .field("user", &self.user)
            .field("hostname", &self.hostname)
            .field("mounts", &self.mounts)
            .field("read_only_rootfs", &self.read_only_rootfs)
            .field("memory", &self.memory)
            .field("cpus", &self.cpus)
            .field("pids", &self.pids)
            .field("rlimits", &self.rlimits)
            .field("wall", &self.wall)
            .field("cpu_time", &self.cpu_time)
            .field("output_limit", &self.output_limit)
            .field("idle_timeout", &self.idle_timeout)
            .field("capabilities", &self.capabilities)
            .field("networks", &self.networks)
            .field("publish", &self.publish)
            .field("hosts", &self.hosts)
            .field("dns", &self.dns)
            .field("labels", &self.labels)
            .field("files", &self.files)
            .field("wait", &self.wait)
            .field("health", &self.health)
            .field("security", &self.security)
            .field("resources", &self.resources)
            .finish_non_exhaustive()
    }
}
