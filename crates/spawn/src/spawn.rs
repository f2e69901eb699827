//! The builder, and how it is lowered to a plan.

use crate::capabilities::CapabilitySet;
use crate::child::Child;
use crate::client::{Connection, Said};
use crate::command::{Command, c_string, command_setters};
use crate::effects::{CgroupPlacement, Effect, Record, Undo};
use crate::error::Error;
use crate::exec::{Interior, Told};
use crate::health::HealthTest;
use crate::id_map::{IdMap, IdRange};
use crate::label::SecurityLabel;
use crate::landlock::Landlock;
use crate::mounts::{Attributes, Kind as MountKind, Mount, Overlay, Root};
use crate::namespaces::Namespaces;
use crate::network::{Exchange, NameSlot, Relay, Release, Resolver, attendant_filter, resolver_filter, socket_address};
use crate::plan::{Many, Plan};
use crate::program;
use crate::reactor::Reactor;
use crate::rlimits::Rlimit;
use crate::seccomp::Filter;
use crate::stdio::{self, PipeReader, PipeWriter, Stdio};
use crate::terminal::Terminal;
use crate::wire::{self, Field, Kind, Prepare, Step, create};
use std::ffi::{CString, OsStr, OsString};
use std::future::Future;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

/// Who is the first process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Init {
    /// Our init: it reaps orphans, hands signals on, and starts the command.
    #[default]
    Ours,
    /// The command itself. In a pid namespace it is PID 1: signals it doesn't handle don't reach it.
    Command,
}

/// Describes a process; see the [crate's documentation](crate).
#[derive(Debug)]
#[must_use = "a description does nothing until spawn()"]
pub struct Spawn {
    command: Command,
    directory: Option<(PathBuf, bool)>,
    user: Option<(OsString, bool)>,
    more_groups: Vec<u32>,
    namespaces: Namespaces,
    id_map: Option<IdMap>,
    root: Root,
    read_only_root: bool,
    mounts: Vec<Mount>,
    hostname: Option<OsString>,
    netlink: Option<(Vec<u8>, u32)>,
    capabilities: Option<CapabilitySet>,
    ambient: CapabilitySet,
    no_new_privileges: bool,
    seccomp: Option<Filter>,
    rlimits: Vec<Rlimit>,
    init: Init,
    effects: Vec<Effect>,
    undo: Vec<Undo>,
    cgroup: CgroupPlacement,
    wall: Option<Duration>,
    listen: Option<PathBuf>,
    detached: bool,
    at_end: bool,
    /// All but the command.
    rehearsal: bool,
    created_first: bool,
    health: Option<HealthTest>,
    terminal: Option<(u16, u16)>,
    held: Vec<OwnedFd>,
    log: Option<(PathBuf, u64)>,
    exchanges: Vec<Exchange>,
    relays: Vec<Relay>,
    resolver: Option<Resolver>,
    names: Vec<NameSlot>,
    release: Vec<Release>,
    network: Option<OwnedFd>,
    joined: Vec<(Namespaces, OwnedFd)>,
    landlock: Option<Landlock>,
    label: Option<SecurityLabel>,
    ended: Option<PathBuf>,
    cpu_time: Option<(Duration, PathBuf)>,
    output_limit: Option<u64>,
    idle_timeout: Option<Duration>,
}

/// PATH of an environment without one.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Spawn {
    /// A process that runs this program with no arguments, an empty environment, and none of its own namespaces. A name without a
    /// slash is looked for in the PATH of the environment it gets, inside its root.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            command: Command::new(program.into()),
            directory: None,
            user: None,
            more_groups: Vec::new(),
            namespaces: Namespaces::none(),
            id_map: None,
            root: Root::Host,
            read_only_root: false,
            mounts: Vec::new(),
            hostname: None,
            netlink: None,
            capabilities: None,
            ambient: CapabilitySet::empty(),
            no_new_privileges: false,
            seccomp: None,
            rlimits: Vec::new(),
            init: Init::Ours,
            effects: Vec::new(),
            undo: Vec::new(),
            cgroup: CgroupPlacement::default(),
            wall: None,
            listen: None,
            detached: false,
            at_end: false,
            rehearsal: false,
            created_first: false,
            health: None,
            terminal: None,
            held: Vec::new(),
            log: None,
            exchanges: Vec::new(),
            relays: Vec::new(),
            resolver: None,
            names: Vec::new(),
            release: Vec::new(),
            network: None,
            joined: Vec::new(),
            landlock: None,
            label: None,
            ended: None,
            cpu_time: None,
            output_limit: None,
            idle_timeout: None,
        }
    }

    command_setters!("A variable of the environment, which starts empty.");

    /// The working directory, inside the root.
    pub fn current_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some((directory.into(), false));
        self
    }

    /// The working directory, made if it isn't there.
    pub fn current_dir_made(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some((directory.into(), true));
        self
    }

    /// The user, as docker-run(1) `--user` writes it: `user`, `user:group`, names or numbers, looked up in the /etc/passwd and
    /// /etc/group of the root. HOME is set from there if the environment has none. Without, the process stays who it is.
    pub fn user(mut self, user: impl Into<OsString>) -> Self {
        self.user = Some((user.into(), true));
        self
    }

    /// More supplementary groups, by number; only with a [`user`](Self::user).
    pub fn groups(mut self, groups: impl IntoIterator<Item = u32>) -> Self {
        self.more_groups.extend(groups);
        self
    }

    /// The namespaces that the process gets of its own.
    pub fn namespaces(mut self, namespaces: Namespaces) -> Self {
        self.namespaces = namespaces;
        self
    }

    /// A user namespace with this map.
    pub fn id_map(mut self, map: IdMap) -> Self {
        self.id_map = Some(map);
        self
    }

    /// What it sees as `/`. Needs [`Namespaces::MOUNT`].
    pub fn root(mut self, root: Root) -> Self {
        self.root = root;
        self
    }

    /// Nothing is written to the root itself; what is mounted below keeps its own attributes.
    pub fn read_only_root(mut self, yes: bool) -> Self {
        self.read_only_root = yes;
        self
    }

    /// One more mount, after those before it.
    pub fn mount(mut self, mount: Mount) -> Self {
        self.mounts.push(mount);
        self
    }

    /// More mounts, in order.
    pub fn mounts(mut self, mounts: impl IntoIterator<Item = Mount>) -> Self {
        self.mounts.extend(mounts);
        self
    }

    /// The host name, at most 64 bytes. Needs [`Namespaces::UTS`].
    pub fn hostname(mut self, name: impl Into<OsString>) -> Self {
        self.hostname = Some(name.into());
        self
    }

    /// rtnetlink(7) requests that are sent inside the network namespace; each of `count` asks for an acknowledgement.
    pub fn netlink(mut self, messages: Vec<u8>, count: u32) -> Self {
        self.netlink = Some((messages, count));
        self
    }

    /// The capabilities that root may have in there; others have none. Without, nothing is changed.
    pub fn capabilities(mut self, capabilities: CapabilitySet) -> Self {
        self.capabilities = Some(capabilities);
        self
    }

    /// Capabilities that the command has whoever its user is; see ambient capabilities in capabilities(7).
    pub fn ambient(mut self, capabilities: CapabilitySet) -> Self {
        self.ambient = capabilities;
        self
    }

    /// Whether executing set-id programs may give privileges; see `PR_SET_NO_NEW_PRIVS`.
    pub fn no_new_privileges(mut self, yes: bool) -> Self {
        self.no_new_privileges = yes;
        self
    }

    /// A system call filter, installed before the command is executed.
    pub fn seccomp(mut self, filter: Filter) -> Self {
        self.seccomp = Some(filter);
        self
    }

    /// One more resource limit.
    pub fn rlimit(mut self, limit: Rlimit) -> Self {
        self.rlimits.push(limit);
        self
    }

    /// Who is the first process; [`Init::Ours`] if nothing is said.
    pub fn init(mut self, init: Init) -> Self {
        self.init = init;
        self
    }

    /// One more effect outside the namespaces, performed in order before the process is made.
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effects.push(effect);
        self
    }

    /// One more undo step, performed in order after everything has ended, also where the start failed half-way.
    pub fn undo(mut self, undo: Undo) -> Self {
        self.undo.push(undo);
        self
    }

    /// The control groups that it starts in.
    pub fn cgroup(mut self, cgroup: CgroupPlacement) -> Self {
        self.cgroup = cgroup;
        self
    }

    /// Everything is killed this long after the start, to the millisecond.
    pub fn wall(mut self, wall: Duration) -> Self {
        self.wall = Some(wall);
        self
    }

    /// More requests to the kernel about the network namespace that it gets, after [`netlink`](Self::netlink), in order. The supervisor
    /// makes that namespace, so they can't be had with an [`id_map`](Self::id_map).
    pub fn exchange(mut self, exchange: Exchange) -> Self {
        self.exchanges.push(exchange);
        self
    }

    /// A port of this host that is answered inside. At most 64.
    pub fn relay(mut self, relay: Relay) -> Self {
        self.relays.push(relay);
        self
    }

    /// A server for names in the network namespace that it gets, which the supervisor makes: so not with an [`id_map`](Self::id_map), nor in a
    /// [given](Self::network_namespace) one.
    pub fn resolver(mut self, resolver: Resolver) -> Self {
        self.resolver = Some(resolver);
        self
    }

    /// A place in a list of names, which the supervisor writes when the network is made, and frees first when everything is taken back. Where no
    /// supervisor comes so far, the place stays as it was.
    pub fn name_slot(mut self, slot: NameSlot) -> Self {
        self.names.push(slot);
        self
    }

    /// One more thing that the living supervisor takes back, in order, before every [`undo`](Self::undo).
    pub fn release(mut self, release: Release) -> Self {
        self.release.push(release);
        self
    }

    /// Instead of a network namespace of its own, one that is there. Needs [`Namespaces::NETWORK`], and no [`id_map`](Self::id_map).
    pub fn network_namespace(mut self, namespace: OwnedFd) -> Self {
        self.network = Some(namespace);
        self
    }

    /// A namespace of somebody else's to be in: its process ids, IPC objects or host name; or the mounts that a [`Mount::borrowed`] takes from. One
    /// of each kind at most, which must not be among the [`namespaces`](Self::namespaces) of its own, and no [`id_map`](Self::id_map).
    pub fn join_namespace(mut self, kind: Namespaces, namespace: OwnedFd) -> Self {
        self.joined.push((kind, namespace));
        self
    }

    /// Gives up rights over files, for the process and all that comes of it.
    pub fn landlock(mut self, rules: Landlock) -> Self {
        self.landlock = Some(rules);
        self
    }

    /// The label of a security module that the command gets.
    pub fn label(mut self, label: SecurityLabel) -> Self {
        self.label = Some(label);
        self
    }

    /// A descriptor that the supervisor keeps open until everything is taken back: a lock, for one. With sockets of relays at most 64.
    pub fn hold(mut self, fd: OwnedFd) -> Self {
        self.held.push(fd);
        self
    }

    /// Where the streams that are [`Stdio::log`] are kept, and how many bytes of them at most, 64 KiB or more: then the oldest go. The file
    /// is made, or gone on with, before the process is; what undoes the effects should remove it.
    ///
    /// Each stream is a pipe of its own, so the order between the two is that in which the supervisor finds something in them.
    pub fn log(mut self, path: impl Into<PathBuf>, most: u64) -> Self {
        self.log = Some((path.into(), most.max(crate::log_file::LEAST)));
        self
    }

    /// A file into which its end is written, for [`Ended::read`](crate::Ended::read).
    pub fn ended(mut self, path: impl Into<PathBuf>) -> Self {
        self.ended = Some(path.into());
        self
    }

    /// Everything is killed when its processor time, as the file `usage` tells it, has come to this: cgroup2's `cpu.stat`, or v1's
    /// `cpuacct.usage`. The supervisor looks so often that no more is spent than one millisecond on each processor, as far as it is let run.
    pub fn cpu_time(mut self, most: Duration, usage: impl Into<PathBuf>) -> Self {
        self.cpu_time = Some((most, usage.into()));
        self
    }

    /// Everything is killed when it says more than so many bytes, output and error together; what comes before that is delivered. Both streams
    /// must be pipes, a [log](Stdio::log), or nothing: others aren't seen by the supervisor.
    pub fn output_limit(mut self, bytes: u64) -> Self {
        self.output_limit = Some(bytes);
        self
    }

    /// Everything is killed when nothing was said for so long, on output and error. Of streams as [`output_limit`](Self::output_limit).
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.idle_timeout = Some(time);
        self
    }

    /// A socket at which any process of the same user, or root's, may [attach](Child::attach) once the process
    /// is detached. What undoes the effects should remove it.
    pub fn listen(mut self, path: impl Into<PathBuf>) -> Self {
        self.listen = Some(path.into());
        self
    }

    /// It doesn't end with its owner.
    pub fn detached(mut self, yes: bool) -> Self {
        self.detached = yes;
        self
    }

    /// Nobody asks before everything is taken back: that it started is told together with how it ended, and with the end of the
    /// undoing. Saves each short life several wakings of three processes. [`Starting`] is ready then, and a failure at once, as ever.
    pub fn told_at_end(mut self, yes: bool) -> Self {
        self.at_end = yes;
        self
    }

    /// Makes all, and then waits with the command for [`Starting::execute`]: meanwhile files are put in, by an
    /// [opener](Interior::opener). The wall clock runs from there. A root that is to be read-only still isn't then.
    pub fn created_first(mut self, yes: bool) -> Self {
        self.created_first = yes;
        self
    }

    /// Asks again and again whether the command works: [`Child::health`].
    pub fn health(mut self, test: HealthTest) -> Self {
        self.health = Some(test);
        self
    }

    /// The three standard streams are a terminal of this size, in characters, from the process's own devpts ([`Mount::standard`]), which controls its
    /// session: [`Child::terminal`] is the other end.
    pub fn terminal(mut self, columns: u16, rows: u16) -> Self {
        self.terminal = Some((columns, rows));
        self.command.stdio = [Stdio::null(), Stdio::null(), Stdio::null()];
        self
    }

    /// What this comes to. Pure: needs no privilege, has no effect.
    ///
    /// # Errors
    /// [`Error::Invalid`] with everything that is wrong.
    pub fn plan(&self) -> Result<Plan, Error> {
        Lowering::default().lower(self)
    }

    /// Starts it, and waits, blocking, until the command is executed or something failed. What failed was taken back.
    ///
    /// # Errors
    /// Each variant of [`Error`] but `Attach`.
    pub fn spawn(self) -> Result<Child, Error> {
        self.start()?.wait()
    }

    /// Starts it; the answer is a future, and can be waited for without a runtime too.
    pub fn start(self) -> Result<Starting, Error> {
        let plan = self.plan()?;
        let relays = self.relays.iter().map(|relay| relay.socket.as_fd());
        let lists = self.resolver.iter().flat_map(|resolver| resolver.lists.iter().map(AsFd::as_fd));
        let joined = self.joined.iter().map(|(_, namespace)| namespace);
        let held: Vec<_> = self.held.iter().chain(joined).chain(&self.network).map(AsFd::as_fd).chain(relays).chain(lists).collect();
        start(plan, &self.command.stdio, &held, !self.detached)
    }

    /// Performs all of it but the command, and takes it back: tells whether this machine does what the description asks for. Blocks until
    /// that is done. The standard streams aren't opened.
    ///
    /// # Errors
    /// As [`spawn`](Self::spawn), but those of executing.
    pub fn rehearse(mut self) -> Result<(), Error> {
        self.rehearsal = true;
        run_to_the_end(self.plan()?)
    }

    /// Takes back what a run left whose supervisor was killed.
    pub(crate) fn adopt(record: Record) -> Result<(), Error> {
        let mut spawn = Self::new("");
        spawn.undo = record.undo;
        spawn.id_map = record.id_map;
        let mut lowering = Lowering::default();
        let path = lowering.path(&record.path);
        lowering.prepare.push(Prepare::AdoptRunDirectory { path: &path });
        run_to_the_end(lowering.finish(&spawn, false)?)
    }

    /// Performs effects and nothing else.
    pub(crate) fn perform_only(self) -> Result<(), Error> {
        run_to_the_end(Lowering::default().finish(&self, false)?)
    }

    /// Performs undo steps and nothing else.
    pub(crate) fn undo_only(undo: Vec<Undo>) -> Result<(), Error> {
        let mut spawn = Self::new("");
        spawn.undo = undo;
        run_to_the_end(Lowering::default().finish(&spawn, false)?)
    }
}

/// The owner of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OwnerChange {
    /// Below the directory; links in it are followed inside the directory, a last link is not.
    pub path: PathBuf,
    /// The user id, inside the map.
    pub uid: u32,
    /// The group id, inside the map.
    pub gid: u32,
    /// Permission bits, set-id bits among them, to set after the owner; `None` leaves them.
    pub mode: Option<u32>,
}

impl OwnerChange {
    /// A change of owner alone.
    pub fn new(path: impl Into<PathBuf>, uid: u32, gid: u32, mode: Option<u32>) -> Self {
        Self { path: path.into(), uid, gid, mode }
    }
}

/// Gives files below a directory owners that exist only in a user namespace with this map; blocks until done.
///
/// # Errors
/// [`Error::UnmappedId`] with the file whose owner the map doesn't have; [`Error::Step`]; those of starting.
pub fn change_owners(directory: &Path, changes: &[OwnerChange], map: &IdMap) -> Result<(), Error> {
    let mut lowering = Lowering::default();
    let mut list = Vec::new();
    for change in changes {
        let path = lowering.path(&change.path);
        let mode = change.mode.unwrap_or(u32::MAX);
        wire::Owner { path: &path, uid: change.uid, gid: change.gid, mode, end: PhantomData }.put(&mut list);
    }
    let directory = lowering.path(directory);
    lowering.steps.push(Step::ChangeOwners { directory: &directory, list: &list });
    let mut spawn = Spawn::new("");
    spawn.id_map = Some(map.clone());
    run_to_the_end(lowering.finish(&spawn, false)?)
}

/// A process that opens files for this one: in a user namespace with this map, if one is given; and while a cgroup is frozen by its file
/// `cgroup.freeze`, if one is named. What it is asked it is asked on `socket`.
pub(crate) fn serve_files(socket: OwnedFd, map: Option<&IdMap>, freeze: Option<&Path>) -> Result<Starting, Error> {
    let mut lowering = Lowering::default();
    lowering.steps.push(Step::ServeFiles {});
    let mut spawn = Spawn::new("");
    spawn.id_map = map.cloned();
    if let Some(file) = freeze {
        spawn = spawn.effect(Effect::Write { path: file.to_owned(), value: b"1".to_vec(), optional: false });
        spawn = spawn.undo(Undo::Thaw(file.to_owned()));
    }
    start(lowering.finish(&spawn, false)?, &[Stdio::from(socket), Stdio::null(), Stdio::null()], &[], true)
}

/// Removes a directory whose files may belong to ids that exist only in a user namespace with this map, with all that is in it;
/// blocks until done. Links aren't followed.
///
/// # Errors
/// [`Error::Supervisor`] with what couldn't be removed; those of starting.
pub fn remove_tree(directory: &Path, map: &IdMap) -> Result<(), Error> {
    let mut spawn = Spawn::new("");
    spawn.undo = vec![Undo::RemoveTree(directory.to_owned())];
    spawn.id_map = Some(map.clone());
    run_to_the_end(Lowering::default().finish(&spawn, false)?)
}

fn run_to_the_end(plan: Plan) -> Result<(), Error> {
    let stdio = [Stdio::null(), Stdio::null(), Stdio::null()];
    let steps_run = wire::Reader::new(&plan.bytes).take::<wire::Plan<'_>>().is_ok_and(|p| !p.steps.is_empty());
    let starting = start(plan, &stdio, &[], true)?;
    if steps_run {
        let child = starting.wait()?;
        return left_is_an_error(child.wait_gone()?);
    }
    let gone = starting.connection.wait(|said| match (decide(said, &starting.what), &said.gone) {
        (Some(Err(error)), _) if said.failed.is_some() => Some(Err(error)),
        (_, Some(left)) => Some(Ok(left.clone())),
        (Some(Err(error)), None) => Some(Err(error)),
        _ => None,
    });
    left_is_an_error(gone?)
}

fn left_is_an_error(left: Vec<crate::child::Left>) -> Result<(), Error> {
    match left.into_iter().next() {
        None => Ok(()),
        Some(left) => Err(Error::Supervisor { attempted: format!("remove {}", left.path.display()), source: io::Error::other(left.error) }),
    }
}

fn start(plan: Plan, stdio: &[Stdio; 3], held: &[BorrowedFd<'_>], lifeline: bool) -> Result<Starting, Error> {
    let ends = Ends::open(stdio)?;
    let pidfd = program::start(ends.control)?;
    // A first life makes a thread, while the supervisor comes up.
    let reactor = Reactor::get().map_err(|e| attempted("start a thread", e))?;
    let connection = Connection::new(ends.socket, Some(pidfd));
    let ours = std::iter::once(&ends.owner).chain(&ends.theirs).map(AsFd::as_fd);
    let fds: Vec<_> = ours.chain(held.iter().copied()).collect();
    connection.send(Kind::Plan, &plan.bytes, &fds).map_err(|e| attempted("send the plan to the supervisor", e))?;
    reactor.watch_supervisor(&connection).map_err(|e| attempted("watch the supervisor", e))?;
    Ok(Starting { connection, what: Arc::new(What::Plan(plan)), lifeline, pipes: Some(pipes(ends.ours)?) })
}

fn attempted(attempted: &str, source: io::Error) -> Error {
    Error::Supervisor { attempted: attempted.into(), source }
}

/// What a process is started with: the ends of its streams and of the conversation about it.
pub(crate) struct Ends {
    pub(crate) owner: OwnedFd,
    pub(crate) theirs: Vec<OwnedFd>,
    pub(crate) ours: Vec<Option<OwnedFd>>,
    pub(crate) socket: OwnedFd,
    pub(crate) control: OwnedFd,
}

impl Ends {
    pub(crate) fn open(stdio: &[Stdio; 3]) -> Result<Self, Error> {
        let mut theirs = Vec::with_capacity(3);
        let mut ours = Vec::with_capacity(3);
        for (stream, stdio) in stdio.iter().enumerate() {
            let (their, our) = stdio::open(stdio, stream).map_err(|e| attempted("open the standard streams", e))?;
            theirs.push(their);
            ours.push(our);
        }
        use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
        let (socket, control) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|e| attempted("make a control socket", e.into()))?;
        let owner = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())
            .map_err(|e| attempted("open a pidfd of this process", e.into()))?;
        Ok(Self { owner, theirs, ours, socket, control })
    }
}

pub(crate) type Pipes = (Option<PipeWriter>, Option<PipeReader>, Option<PipeReader>);

/// Our ends of the streams as pipes.
pub(crate) fn pipes(ours: Vec<Option<OwnedFd>>) -> Result<Pipes, Error> {
    let pipe = |our: Option<OwnedFd>| our.map(PipeReader::new).transpose().map_err(|e| attempted("watch a pipe", e));
    let mut ours = ours.into_iter();
    let stdin = ours.next().flatten().map(PipeWriter::new).transpose().map_err(|e| attempted("watch a pipe", e))?;
    Ok((stdin, pipe(ours.next().flatten())?, pipe(ours.next().flatten())?))
}

/// What is being started, for the words in which its failure is told.
#[derive(Debug)]
pub(crate) enum What {
    Plan(Plan),
    Exec(Told),
}

/// A process that is being started. A future; [`Starting::wait`] blocks instead. Dropping it before it is done ends what was
/// started.
#[derive(Debug)]
#[must_use = "dropping it ends what was started"]
pub struct Starting {
    pub(crate) connection: Arc<Connection>,
    pub(crate) what: Arc<What>,
    pub(crate) lifeline: bool,
    pub(crate) pipes: Option<Pipes>,
}

impl Starting {
    /// Waits until all is made and the command waits to be executed ([`Spawn::created_first`]). Its inside can be asked for files then.
    /// Cancel-safe.
    pub fn poll_created(&self, cx: &mut Context<'_>) -> Poll<Result<Interior, Error>> {
        let created = |said: &mut Said| match said.created {
            true => Some(Ok(())),
            false => decide(said, &self.what).map(|decided| decided.map(|_| ())),
        };
        self.connection.poll(cx, created).map_ok(|()| Interior::new(&self.connection))
    }

    /// Lets the command be executed that waits for it.
    ///
    /// # Errors
    /// [`Error::Supervisor`].
    pub fn execute(&self) -> Result<(), Error> {
        self.request(&wire::Request::Execute {})
    }

    /// Ends what was started. This is ready, with an error, when all is taken back.
    ///
    /// # Errors
    /// [`Error::Supervisor`].
    pub fn kill(&self) -> Result<(), Error> {
        self.request(&wire::Request::Kill {})
    }

    fn request(&self, request: &wire::Request<'_>) -> Result<(), Error> {
        match self.connection.request(request) {
            // It has ended: the start's own error says why.
            Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            other => other.map_err(|e| attempted("ask the supervisor", e)),
        }
    }

    /// The pipes to the process, for who doesn't wait for the start to use them. The [`Child`] has none then.
    pub fn take_pipes(&mut self) -> (Option<PipeWriter>, Option<PipeReader>, Option<PipeReader>) {
        self.pipes.take().unwrap_or_default()
    }

    /// Waits, blocking this thread.
    ///
    /// # Errors
    /// As [`Spawn::spawn`].
    pub fn wait(mut self) -> Result<Child, Error> {
        let connection = self.connection.clone();
        let decided = connection.wait(|said| decide(said, &self.what));
        self.child(decided)
    }

    fn child(&mut self, decided: Result<(u32, u32), Error>) -> Result<Child, Error> {
        let (pid, command) = decided?;
        self.lifeline = false;
        let (stdin, stdout, stderr) = self.pipes.take().unwrap_or_default();
        let master = self.connection.now(|said| said.terminal.take());
        let terminal = master.map(Terminal::new).transpose().map_err(|e| attempted("watch the terminal", e))?;
        Ok(Child { connection: self.connection.clone(), pid, command, stdin, stdout, stderr, terminal })
    }
}

/// Started, or failed and everything taken back.
fn decide(said: &mut Said, what: &What) -> Option<Result<(u32, u32), Error>> {
    match said {
        Said { started: Some(started), .. } => Some(Ok((started.pid, started.command))),
        Said { failed: Some(failed), gone: Some(_), .. } | Said { failed: Some(failed), closed: true, .. } => Some(Err(match what {
            What::Plan(plan) => Error::from_failed(failed, plan),
            What::Exec(told) => told.error(failed),
        })),
        Said { closed: true, .. } => Some(Err(match what {
            What::Plan(_) => Error::Lost,
            What::Exec(told) => told.silence(),
        })),
        _ => None,
    }
}

impl Future for Starting {
    type Output = Result<Child, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let connection = self.connection.clone();
        match connection.poll(cx, |said| decide(said, &self.what)) {
            Poll::Ready(decided) => Poll::Ready(self.child(decided)),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if self.lifeline {
            self.connection.let_go();
        }
    }
}

/// The first descriptor of a plan behind the owner's pidfd and the three streams.
const FIRST_HELD: u32 = 4;
/// How many processors a container may be given at most: all, whichever this process may use.
fn processors() -> u32 {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/possible").unwrap_or_default();
    // `0-7`, or `0`: the last number is the highest.
    let highest = online.trim().rsplit([',', '-']).next().and_then(|number| number.parse::<u32>().ok());
    highest.map_or(1024, |highest| highest.saturating_add(1))
}

fn is_proc(mount: &MountKind) -> bool {
    matches!(mount, MountKind::Filesystem { filesystem, .. } if filesystem == "proc")
}

/// Whether the supervisor makes the network namespace while the first process makes its mounts. One that belongs to a user namespace
/// has to be made inside.
fn makes_network_meanwhile(spawn: &Spawn) -> bool {
    spawn.namespaces.contains(Namespaces::NETWORK) && spawn.id_map.is_none() && !spawn.rehearsal
}

/// Whether an effect is about a v1 cgroup, which is needed when the first process has made its mounts, and not before.
fn waits_for_joining(spawn: &Spawn, effect: &Effect) -> bool {
    match effect {
        Effect::RunDirectory { .. }
        | Effect::ResumeRunDirectory { .. }
        | Effect::LockRunDirectory { .. }
        | Effect::LimitDirectory { .. }
        | Effect::DeviceFilter { .. }
        | Effect::EnsureDirectory { .. } => false,
        Effect::MakeDirectory { path, .. } | Effect::Write { path, .. } => {
            spawn.cgroup.join.iter().any(|directory| path.starts_with(directory))
        }
    }
}

/// A description on its way to a plan. Collects every problem.
#[derive(Default)]
struct Lowering {
    problems: Vec<String>,
    prepare: Many,
    meanwhile: Many,
    steps: Many,
    in_network: bool,
}

impl Lowering {
    fn c_string(&mut self, s: &OsStr) -> CString {
        c_string(s, &mut self.problems)
    }

    fn path(&mut self, path: &Path) -> CString {
        self.c_string(path.as_os_str())
    }

    fn strings<'s>(&mut self, strings: impl IntoIterator<Item = &'s OsStr>) -> Many {
        let mut many = Many::default();
        for s in strings {
            let s = self.c_string(s);
            many.push(s.as_c_str());
        }
        many
    }

    fn lower(mut self, spawn: &Spawn) -> Result<Plan, Error> {
        let held = spawn.held.len() + spawn.relays.len() + spawn.resolver.as_ref().map_or(0, |resolver| resolver.lists.len());
        if held > 64 {
            self.problems.push(format!("at most 64 locks, lists of names and relayed ports are held, and these are {held}"));
        }
        let own = makes_network_meanwhile(spawn);
        if (spawn.resolver.is_some() || !spawn.names.is_empty()) && (!own || spawn.network.is_some()) {
            self.problems.push("names are answered in a network namespace that the supervisor makes: without an id map".into());
        }
        if (!spawn.exchanges.is_empty() || spawn.network.is_some()) && !own {
            self.problems
                .push("a network namespace can be configured further, or given, where the supervisor makes it: without an id map".into());
        }
        if !spawn.relays.is_empty() && !spawn.namespaces.contains(Namespaces::NETWORK) {
            self.problems.push("a port is relayed into a network namespace: ask for one".into());
        }
        if spawn.command.stdio[0].is_log() {
            self.problems.push("standard input can't be a log".into());
        }
        if spawn.log.is_none() && spawn.command.stdio.iter().any(Stdio::is_log) {
            self.problems.push("a stream is to be kept in a log, and no file is named for it".into());
        }
        let counted = spawn.output_limit.is_some() || spawn.idle_timeout.is_some();
        if counted && spawn.command.stdio[1..].iter().any(|stdio| !stdio.can_be_counted()) {
            self.problems.push("what goes straight to this process's streams or to a file can't be counted: pipes and a log can".into());
        }
        if !spawn.rehearsal {
            spawn.command.needs_a_program(&mut self.problems);
        }
        let rooted = spawn.root != Root::Host;
        if (rooted || !spawn.mounts.is_empty()) && !spawn.namespaces.contains(Namespaces::MOUNT) {
            self.problems.push("a root or a mount needs a mount namespace".into());
        }
        if spawn.hostname.is_some() && !spawn.namespaces.contains(Namespaces::UTS) {
            self.problems.push("a host name needs a UTS namespace".into());
        }
        if spawn.hostname.as_ref().is_some_and(|name| name.len() > 64) {
            self.problems.push("a host name has at most 64 bytes".into());
        }
        let shared = spawn.joined.iter().fold(Namespaces::none(), |all, (kind, _)| all | *kind);
        if !spawn.joined.is_empty() && spawn.id_map.is_some() {
            self.problems.push("a namespace of another's belongs to another's user namespace: it can't be joined with an id map".into());
        }
        if (shared - Namespaces::MOUNT) - spawn.namespaces != shared - Namespaces::MOUNT {
            self.problems.push("a namespace is either its own or another's".into());
        }
        if let Some(landlock) = &spawn.landlock
            && !landlock.may_execute()
        {
            self.problems.push("Landlock rules that let nothing be executed leave no command".into());
        }
        if spawn.created_first && !rooted {
            self.problems.push("what is to be created first needs a root of its own".into());
        }
        if spawn.at_end && spawn.detached {
            self.problems.push("what is told at the end alone can't be detached".into());
        }
        if spawn.terminal.is_some() && !spawn.mounts.iter().any(|m| matches!(m.0, MountKind::Devpts)) {
            self.problems.push("a terminal needs Mount::standard's devpts".into());
        }
        self.file_system(spawn, rooted);
        self.identity(spawn);
        self.finish(spawn, !spawn.rehearsal)
    }

    fn file_system(&mut self, spawn: &Spawn, rooted: bool) {
        if spawn.namespaces.contains(Namespaces::MOUNT) {
            self.steps.push(Step::PrivateMounts {});
        }
        let owned = |mount: &Mount| matches!(mount.0, MountKind::Bind { owner: Some(_), .. });
        if spawn.id_map.is_none() && spawn.mounts.iter().any(owned) {
            self.steps.push(Step::BeginOwners {});
        }
        match &spawn.root {
            Root::Host => {}
            Root::Bind { source, attributes } => {
                let source = self.path(source);
                self.steps.push(Step::BindRoot { source: &source, recursive: true, attributes: attributes.bits() });
            }
            Root::Tmpfs { attributes } => self.steps.push(Step::TmpfsRoot { attributes: attributes.bits() }),
            Root::Overlay { overlay, attributes } => {
                let (lower, upper, work) = self.overlay(overlay);
                self.steps.push(Step::OverlayRoot {
                    lower: lower.list(),
                    upper: upper.as_deref(),
                    work: work.as_deref(),
                    userxattr: overlay.userxattr,
                    volatile: overlay.volatile,
                    attributes: attributes.bits(),
                });
            }
        }
        let any = |wanted: fn(&MountKind) -> bool| spawn.mounts.iter().any(|m| wanted(&m.0));
        if any(|m| matches!(m, MountKind::File { .. } | MountKind::Mask { .. })) && !any(|m| matches!(m, MountKind::DeviceDirectory { .. }))
        {
            self.problems.push("Mount::file and Mount::mask need Mount::standard's /dev".into());
        }
        if any(|m| matches!(m, MountKind::Sysctl { .. })) && !any(is_proc) {
            self.problems.push("Mount::sysctl needs Mount::proc".into());
        }
        let sysctls = || spawn.mounts.iter().filter(|m| matches!(m.0, MountKind::Sysctl { .. }));
        for mount in &spawn.mounts {
            match mount.0 {
                MountKind::Sysctl { .. } | MountKind::Mask { .. } | MountKind::ReadOnlyPath { .. } | MountKind::Cgroup { .. } => continue,
                // It shows the network namespace of whoever mounts it.
                MountKind::Sysfs { .. } => self.await_network(spawn),
                _ => {}
            }
            self.mount(spawn, mount);
            // At once: before it is made read-only, and before anybody's volume could lie on it.
            if is_proc(&mount.0) && sysctls().next().is_some() {
                self.await_network(spawn);
                sysctls().for_each(|m| self.mount(spawn, m));
            }
        }
        self.await_network(spawn);
        for mount in spawn.mounts.iter().filter(|m| matches!(m.0, MountKind::Mask { .. } | MountKind::ReadOnlyPath { .. })) {
            self.mount(spawn, mount);
        }
        if let Some(name) = &spawn.hostname {
            let name = self.c_string(name);
            self.steps.push(Step::Hostname { name: &name });
        }
        if let (Some((messages, count)), false) = (&spawn.netlink, makes_network_meanwhile(spawn)) {
            self.steps.push(Step::Netlink { messages, count: *count });
        }
        if !spawn.relays.is_empty() && !makes_network_meanwhile(spawn) {
            self.steps.push(Step::ShareNetwork {});
        }
        if spawn.effects.iter().any(|effect| waits_for_joining(spawn, effect)) {
            self.steps.push(Step::AwaitCgroups {});
        }
        for directory in &spawn.cgroup.join {
            let path = self.path(&directory.join("tasks"));
            self.steps.push(Step::JoinCgroup { path: &path });
        }
        if spawn.namespaces.contains(Namespaces::CGROUP) {
            self.steps.push(Step::Unshare { flags: Namespaces::CGROUP.flags() });
        }
        for mount in &spawn.mounts {
            if let MountKind::Cgroup { filesystem, controller, target } = &mount.0 {
                let filesystem = self.c_string(OsStr::new(filesystem));
                let target = self.path(target);
                let options = self.strings(controller.as_ref().map(OsStr::new));
                let attributes = Attributes::READ_ONLY | Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
                self.steps.push(Step::Mount {
                    filesystem: &filesystem,
                    source: c"cgroup",
                    options: options.list(),
                    attributes: attributes.bits(),
                    target: &target,
                    real: true,
                    create: create::DIRECTORY,
                });
            }
        }
        if spawn.read_only_root {
            // Before it can't be made any more.
            let made = spawn.directory.as_ref().filter(|(directory, made)| *made && directory.components().count() > 1);
            if let Some((directory, _)) = made {
                // Without a slash at its end: a name is made in a directory.
                let target = self.path(&directory.components().collect::<PathBuf>());
                self.steps.push(Step::MakeDirectory { target: &target, mode: 0o755 });
            }
            // What is put in before the command comes before it, and after the host's root is out of sight.
            if !spawn.created_first {
                self.steps.push(Step::ReadOnlyRoot {});
            }
        }
        if let Some(label) = &spawn.label {
            // The host's procfs is still there, in which nobody has put anything else.
            let attribute = self.path(Path::new(label.attribute));
            self.steps.push(Step::Label { attribute: &attribute, value: label.value.as_bytes() });
        }
        if rooted {
            self.steps.push(Step::PivotRoot {});
        }
        if spawn.created_first {
            self.steps.push(Step::AwaitExecute {});
            if spawn.read_only_root {
                self.steps.push(Step::ReadOnlyRoot {});
            }
        }
    }

    /// Enters the network namespace that is made meanwhile, once.
    fn await_network(&mut self, spawn: &Spawn) {
        if makes_network_meanwhile(spawn) && !self.in_network {
            self.in_network = true;
            self.steps.push(Step::AwaitNetwork {});
        }
    }

    fn overlay(&mut self, overlay: &Overlay) -> (Many, Option<CString>, Option<CString>) {
        if overlay.lower.is_empty() {
            self.problems.push("an overlay needs at least one lower directory".into());
        }
        let lower = self.strings(overlay.lower.iter().map(|p| p.as_os_str()));
        let upper = overlay.upper.as_ref().map(|(upper, _)| self.path(upper));
        let work = overlay.upper.as_ref().map(|(_, work)| self.path(work));
        (lower, upper, work)
    }

    fn mount(&mut self, spawn: &Spawn, mount: &Mount) {
        match &mount.0 {
            // Only the owner of the pid namespace may mount its procfs.
            kind if is_proc(kind) && spawn.id_map.is_some() && !spawn.namespaces.contains(Namespaces::PID) => {
                self.host_directory(c"/proc", Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC);
            }
            MountKind::Filesystem { filesystem, options, attributes, target, real } => {
                let name = self.c_string(OsStr::new(filesystem));
                let options = self.strings(options.iter().map(OsString::as_os_str));
                self.filesystem(&name, &options, *attributes, target, *real);
            }
            MountKind::Sysfs { writable } => {
                let attributes = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
                let attributes = if *writable { attributes } else { attributes | Attributes::READ_ONLY };
                if spawn.id_map.is_some() && !spawn.namespaces.contains(Namespaces::NETWORK) {
                    // sysfs shows a network namespace, and only its owner may mount it.
                    self.host_directory(c"/sys", attributes);
                } else {
                    self.filesystem(c"sysfs", &Many::default(), attributes, Path::new("/sys"), true);
                }
            }
            MountKind::Devpts => {
                // Group 5 is `tty` everywhere; a map without it has to do without.
                let tty = spawn.id_map.as_ref().is_none_or(|map| map.gids.iter().any(|r| r.inside <= 5 && 5 - r.inside < r.count));
                let mut options = vec!["newinstance", "ptmxmode=0666", "mode=0620"];
                options.extend(tty.then_some("gid=5"));
                let options = self.strings(options.into_iter().map(OsStr::new));
                self.filesystem(c"devpts", &options, Attributes::NOSUID | Attributes::NOEXEC, Path::new("/dev/pts"), true);
            }
            MountKind::Bind { source, target, attributes, owner: Some((uid, gid)), .. } => {
                let (source, target) = (self.path(source), self.path(target));
                let user = self.c_string(spawn.user.as_ref().map_or(OsStr::new("0"), |(user, _)| user.as_os_str()));
                self.steps.push(Step::BindOwned {
                    source: &source,
                    target: &target,
                    attributes: attributes.bits(),
                    user: &user,
                    uid: *uid,
                    gid: *gid,
                    mapped: spawn.id_map.is_some(),
                });
            }
            MountKind::Bind { source, target, attributes, recursive, owner: None } => {
                let (source, target) = (self.path(source), self.path(target));
                self.steps.push(Step::Bind {
                    source: &source,
                    target: &target,
                    recursive: *recursive,
                    attributes: attributes.bits(),
                    create: create::AS_SOURCE,
                    real: false,
                });
            }
            MountKind::Overlay { overlay, target, attributes } => {
                let (lower, upper, work) = self.overlay(overlay);
                let target = self.path(target);
                self.steps.push(Step::Overlay {
                    target: &target,
                    lower: lower.list(),
                    upper: upper.as_deref(),
                    work: work.as_deref(),
                    userxattr: overlay.userxattr,
                    volatile: overlay.volatile,
                    attributes: attributes.bits(),
                });
            }
            MountKind::Borrowed { path, target } => {
                let (path, target) = (self.path(path), self.path(target));
                let attributes = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
                self.steps.push(Step::Borrow { path: &path, target: &target, attributes: attributes.bits() });
            }
            MountKind::MessageQueues => {
                let ours = spawn.namespaces.contains(Namespaces::IPC) || spawn.id_map.is_none();
                if ours {
                    let quiet = Attributes::NOSUID | Attributes::NODEV | Attributes::NOEXEC;
                    self.filesystem(c"mqueue", &Many::default(), quiet, Path::new("/dev/mqueue"), true);
                }
            }
            MountKind::DeviceDirectory { nodes } => {
                let options = self.strings(["mode=755", "size=65536k"].map(OsStr::new));
                self.steps.push(Step::Cache { target: c"/dev", options: options.list() });
                self.steps.push(Step::DeviceDirectory { target: c"/dev", nodes: *nodes });
            }
            MountKind::Device { path, target, major, minor, block } => {
                let path = self.path(path);
                let target = self.path(target);
                self.steps.push(Step::Device { source: &path, target: &target, major: *major, minor: *minor, block: *block });
            }
            MountKind::Symlink { contents, target } => {
                let (contents, target) = (self.path(contents), self.path(target));
                self.steps.push(Step::Symlink { contents: &contents, target: &target });
            }
            MountKind::Directory { target, mode } => {
                let target = self.path(target);
                self.steps.push(Step::MakeDirectory { target: &target, mode: *mode });
            }
            MountKind::File { target, contents, mode } => {
                let target = self.path(target);
                self.steps.push(Step::PrivateFile { target: &target, contents, mode: *mode });
            }
            MountKind::Mask { target } => {
                let target = self.path(target);
                self.steps.push(Step::Mask { target: &target });
            }
            MountKind::ReadOnlyPath { target } => {
                let target = self.path(target);
                self.steps.push(Step::ReadOnly { target: &target });
            }
            MountKind::Sysctl { key, value, required } => {
                if key.is_empty() || key.starts_with(['.', '/']) || key.contains("..") || value.contains(['\n', '\0']) {
                    self.problems.push(format!("{key:?}={value:?} is no setting of sysctl(8)"));
                }
                let path = self.path(Path::new(&format!("/proc/sys/{}", key.replace('.', "/"))));
                self.steps.push(Step::Sysctl { path: &path, value: value.as_bytes(), required: *required });
            }
            // After the cgroups are joined.
            MountKind::Cgroup { .. } => {}
        }
    }

    /// The host's own, where it may not be mounted anew.
    fn host_directory(&mut self, path: &std::ffi::CStr, attributes: Attributes) {
        let (attributes, create) = (attributes.bits(), create::DIRECTORY);
        self.steps.push(Step::Bind { source: path, target: path, recursive: true, attributes, create, real: true });
    }

    fn filesystem(&mut self, name: &std::ffi::CStr, options: &Many, attributes: Attributes, target: &Path, real: bool) {
        let target = self.path(target);
        self.steps.push(Step::Mount {
            filesystem: name,
            source: name,
            options: options.list(),
            attributes: attributes.bits(),
            target: &target,
            real,
            create: create::DIRECTORY,
        });
    }

    fn identity(&mut self, spawn: &Spawn) {
        self.steps.push(Step::Umask { mask: 0o022 });
        for limit in &spawn.rlimits {
            self.steps.push(Step::Rlimit { resource: limit.resource as u32, soft: limit.soft, hard: limit.hard });
        }
        if let Some((user, home)) = &spawn.user {
            let user = self.c_string(user);
            let mut groups = Many::default();
            spawn.more_groups.iter().for_each(|&gid| groups.push(gid));
            self.steps.push(Step::User { user: &user, home: *home, more_groups: groups.list() });
        }
        if let Some((columns, rows)) = spawn.terminal {
            self.steps.push(Step::Terminal { columns: columns.into(), rows: rows.into() });
        }
        if let Some((directory, made)) = &spawn.directory {
            let path = self.path(directory);
            self.steps.push(Step::Directory { path: &path, create: *made });
        }
        if let Some(landlock) = &spawn.landlock {
            self.landlock(landlock);
        }
        if let Some(capabilities) = spawn.capabilities {
            self.steps.push(Step::BoundingSet { capabilities: capabilities.bits() });
        }
        // Without no_new_privs a filter wants CAP_SYS_ADMIN, which is still here; with it, it can come last.
        if let (Some(filter), false) = (&spawn.seccomp, spawn.no_new_privileges) {
            self.steps.push(Step::Seccomp { filter: filter.as_bytes() });
        }
        if spawn.user.is_some() {
            let keep_groups = spawn.id_map.as_ref().is_some_and(|map| map.deny_setgroups);
            let keep_capabilities = spawn.ambient != CapabilitySet::empty();
            self.steps.push(Step::BecomeUser { keep_groups, keep_capabilities });
        }
        if let Some(capabilities) = spawn.capabilities {
            self.steps.push(Step::Capabilities { root: capabilities.bits(), inheritable: 0, ambient: spawn.ambient.bits() });
        }
        if spawn.no_new_privileges {
            self.steps.push(Step::NoNewPrivileges {});
            if let Some(filter) = &spawn.seccomp {
                self.steps.push(Step::Seccomp { filter: filter.as_bytes() });
            }
        }
    }

    fn landlock(&mut self, landlock: &Landlock) {
        let mut rules = Many::default();
        for (path, access) in &landlock.rules {
            let path = self.path(path);
            rules.push(wire::LandlockRule { path: &path, access: *access, end: PhantomData });
        }
        self.steps.push(Step::Landlock { handled: landlock.handled(), rules: rules.list() });
    }

    /// The list that an effect belongs to.
    fn effects(&mut self, spawn: &Spawn, effect: &Effect) -> &mut Many {
        if waits_for_joining(spawn, effect) { &mut self.meanwhile } else { &mut self.prepare }
    }

    fn finish(mut self, spawn: &Spawn, command: bool) -> Result<Plan, Error> {
        let mut undo = Many::default();
        for step in &spawn.undo {
            match step {
                Undo::KillCgroup(path) => undo.push(wire::Undo::KillCgroup { path: &self.path(path) }),
                Undo::RemoveCgroup(path) => undo.push(wire::Undo::RemoveDirectory { path: &self.path(path) }),
                Undo::RemoveTree(path) => undo.push(wire::Undo::RemoveTree { path: &self.path(path) }),
                Undo::Thaw(path) => undo.push(wire::Undo::Thaw { path: &self.path(path) }),
            }
        }
        let map = spawn.id_map.as_ref().map(|map| {
            let ranges = |ranges: &[IdRange]| {
                let mut many = Many::default();
                for r in ranges {
                    many.push(wire::IdRange { inside: r.inside, outside: r.outside, count: r.count, end: PhantomData });
                }
                many
            };
            let helpers = map.helpers.as_ref().map(|(u, g)| (self.path(u), self.path(g)));
            (ranges(&map.uids), ranges(&map.gids), helpers, map.deny_setgroups)
        });
        let id_map = map.as_ref().map(|(uids, gids, helpers, deny_setgroups)| wire::IdMap {
            uids: uids.list(),
            gids: gids.list(),
            newuidmap: helpers.as_ref().map(|h| h.0.as_c_str()),
            newgidmap: helpers.as_ref().map(|h| h.1.as_c_str()),
            deny_setgroups: *deny_setgroups,
            end: PhantomData,
        });
        for effect in &spawn.effects {
            match effect {
                Effect::RunDirectory { parent, name, description } => {
                    let record = wire::Record { version: wire::VERSION, undo: undo.list(), id_map, description, end: PhantomData };
                    let mut bytes = Vec::new();
                    record.put(&mut bytes);
                    if name.is_empty() || name.starts_with('.') || name.contains('/') {
                        self.problems.push(format!("{name:?} can't be the name of a run directory"));
                    }
                    let (parent, name) = (self.path(parent), self.path(Path::new(name)));
                    self.prepare.push(Prepare::RunDirectory { parent: &parent, name: &name, record: &bytes });
                }
                Effect::ResumeRunDirectory { path, description } => {
                    let record = wire::Record { version: wire::VERSION, undo: undo.list(), id_map, description, end: PhantomData };
                    let mut bytes = Vec::new();
                    record.put(&mut bytes);
                    let path = self.path(path);
                    self.prepare.push(Prepare::ResumeRunDirectory { path: &path, record: &bytes });
                }
                Effect::LockRunDirectory { path } => {
                    let path = self.path(path);
                    self.prepare.push(Prepare::AdoptRunDirectory { path: &path });
                }
                Effect::LimitDirectory { path, bytes } => {
                    let path = self.path(path);
                    self.prepare.push(Prepare::LimitDirectory { path: &path, bytes: *bytes });
                }
                Effect::EnsureDirectory { path, mode } => {
                    let path = self.path(path);
                    self.prepare.push(Prepare::EnsureDirectory { path: &path, mode: *mode });
                }
                Effect::MakeDirectory { path, mode } => {
                    let path = self.path(path);
                    self.effects(spawn, effect).push(Prepare::MakeDirectory { path: &path, mode: *mode });
                }
                Effect::DeviceFilter { cgroup, program } => {
                    let path = self.path(cgroup);
                    self.prepare.push(Prepare::DeviceFilter { path: &path, program });
                }
                Effect::Write { path, value, optional } => {
                    let path = self.path(path);
                    self.effects(spawn, effect).push(Prepare::Write { path: &path, value, optional: *optional });
                }
            }
        }
        let (argv, env) = spawn.command.lower(&mut self.problems);
        let path = self.c_string(spawn.command.variable("PATH").unwrap_or(OsStr::new(DEFAULT_PATH)));
        let into = spawn.cgroup.into.as_ref().map(|p| self.path(p));
        let kill = spawn.cgroup.kill.as_ref().map(|p| self.path(p));
        let read_at_end = self.strings(spawn.cgroup.read_at_end.iter().map(|p| p.as_os_str()));
        let listen = spawn.listen.as_ref().map(|p| self.path(p));
        let streams = (1..3).filter(|&i| spawn.command.stdio[i].is_log()).fold(0, |streams, i| streams | 1 << i);
        let counted = spawn.output_limit.is_some() || spawn.idle_timeout.is_some();
        let pass = (1..3).filter(|&i| counted && spawn.command.stdio[i].is_piped()).fold(0, |pass, i| pass | 1 << i);
        let ended = spawn.ended.as_ref().map(|path| self.path(path));
        let cpu_usage = spawn.cpu_time.as_ref().map(|(_, usage)| self.path(usage));
        let log = spawn.log.as_ref().filter(|_| streams != 0).map(|(path, most)| (self.path(path), *most));
        let tested = spawn.health.as_ref().map(|test| self.strings(test.command.iter().map(OsString::as_os_str)));
        if !self.problems.is_empty() {
            return Err(Error::Invalid { problems: self.problems });
        }
        let mut more = Many::default();
        for exchange in &spawn.exchanges {
            more.push(wire::Exchange {
                inside: exchange.inside,
                protocol: exchange.protocol,
                messages: &exchange.messages,
                count: exchange.steps.len() as u32,
                namespace_at: exchange.namespace_at.map_or(u32::MAX, |at| at as u32),
                lenient: exchange.lenient,
                end: PhantomData,
            });
        }
        let behind_held = FIRST_HELD + spawn.held.len() as u32;
        let mut joined = Many::default();
        for (n, (kind, _)) in spawn.joined.iter().enumerate() {
            joined.push(wire::Joined { kind: kind.flags(), fd: behind_held + n as u32, end: PhantomData });
        }
        let network_fd = behind_held + spawn.joined.len() as u32;
        let first = network_fd + u32::from(spawn.network.is_some());
        let mut listeners = Many::default();
        for (n, relay) in spawn.relays.iter().enumerate() {
            let target = socket_address(relay.to);
            listeners.push(wire::Listener { fd: first + n as u32, protocol: relay.protocol, target: &target, end: PhantomData });
        }
        let (mut lists, mut servers, mut domains) = (Many::default(), Many::default(), Many::default());
        if let Some(resolver) = &spawn.resolver {
            let first = first + spawn.relays.len() as u32;
            (0..resolver.lists.len() as u32).for_each(|n| lists.push(first + n));
            resolver.servers.iter().for_each(|server| servers.push(&socket_address(*server)[..]));
            resolver.domains.iter().for_each(|domain| domains.push(domain.as_bytes()));
        }
        let resolver_listens = spawn.resolver.as_ref().map(|resolver| socket_address(resolver.listen));
        let mut names = Many::default();
        for slot in &spawn.names {
            let list = CString::new(slot.list.as_os_str().as_bytes()).unwrap_or_default();
            names.push(wire::NameSlot { list: &list, at: slot.at, contents: &slot.contents, end: PhantomData });
        }
        let mut release = Many::default();
        for what in &spawn.release {
            match what {
                Release::Netlink { protocol, messages, count } => {
                    release.push(wire::Release::Netlink { protocol: *protocol, messages, count: *count });
                }
                Release::RemoveFile(path) => {
                    let path = CString::new(path.as_os_str().as_bytes()).unwrap_or_default();
                    release.push(wire::Release::RemoveFile { path: &path });
                }
            }
        }
        let user = if id_map.is_some() { Namespaces::USER } else { Namespaces::none() };
        // The cgroup namespace is unshared when its root, the container's cgroup, is joined.
        let mut later = Namespaces::CGROUP;
        let network = makes_network_meanwhile(spawn).then(|| {
            later = later | Namespaces::NETWORK;
            let (messages, count) = spawn.netlink.as_ref().map_or((&[][..], 0), |(messages, count)| (messages, *count));
            let given = spawn.network.as_ref().map(|_| network_fd);
            wire::Network { messages, count, more: more.list(), names: names.list(), given, end: PhantomData }
        });
        let attendant = (command && !spawn.relays.is_empty()).then(|| wire::Attendant {
            filter: attendant_filter().as_bytes(),
            listeners: listeners.list(),
            end: PhantomData,
        });
        let plan = wire::Plan {
            version: wire::VERSION,
            prepare: self.prepare.list(),
            meanwhile: self.meanwhile.list(),
            network,
            undo: undo.list(),
            namespaces: ((spawn.namespaces - later) | user).flags(),
            joined: joined.list(),
            id_map,
            cgroup: wire::Cgroup { into: into.as_deref(), kill: kill.as_deref(), read_at_end: read_at_end.list(), end: PhantomData },
            steps: self.steps.list(),
            command: command.then(|| wire::Command {
                argv: argv.list(),
                env: env.list(),
                path: &path,
                init: spawn.init == Init::Ours,
                session: spawn.terminal.is_some(),
                terminal: spawn.terminal.is_some(),
                end: PhantomData,
            }),
            wall: spawn.wall.map_or(0, |wall| u64::try_from(wall.as_millis()).unwrap_or(u64::MAX).max(1)),
            listen: listen.as_deref(),
            detached: spawn.detached,
            at_end: spawn.at_end,
            ended: ended.as_deref(),
            bounds: (counted || spawn.cpu_time.is_some()).then(|| wire::Bounds {
                cpu: spawn.cpu_time.as_ref().map_or(0, |(most, _)| u64::try_from(most.as_micros()).unwrap_or(u64::MAX).max(1)),
                cpu_usage: cpu_usage.as_deref(),
                processors: processors(),
                output: spawn.output_limit.unwrap_or(u64::MAX),
                idle: spawn.idle_timeout.map_or(0, |time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)),
                pass,
                end: PhantomData,
            }),
            log: log.as_ref().map(|(path, capacity)| wire::Log { path, capacity: *capacity, streams, end: PhantomData }),
            attendant,
            resolver: resolver_listens.as_ref().filter(|_| command).map(|listen| wire::Resolver {
                filter: resolver_filter().as_bytes(),
                listen,
                networks: lists.list(),
                servers: servers.list(),
                domains: domains.list(),
                end: PhantomData,
            }),
            release: release.list(),
            health: spawn.health.as_ref().zip(tested.as_ref()).map(|(test, argv)| {
                let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
                wire::Health {
                    argv: argv.list(),
                    // A pause of nothing would keep a processor busy.
                    interval: milliseconds(test.interval).max(1),
                    timeout: milliseconds(test.timeout).max(1),
                    start_period: milliseconds(test.start_period),
                    start_interval: milliseconds(test.start_interval).max(1),
                    retries: test.retries.max(1),
                    end: PhantomData,
                }
            }),
            end: PhantomData,
        };
        let mut bytes = Vec::new();
        plan.put(&mut bytes);
        let exchanges = spawn.exchanges.iter().map(|exchange| exchange.steps.clone()).collect();
        Ok(Plan { bytes, exchanges })
    }
}
