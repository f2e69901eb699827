//! Whether this machine can do what containers need, each row by doing it in a process that is thrown away.
//!
//! ```no_run
//! let report = coracle_container::doctor::check();
//! for row in report.rows() {
//!     println!("{:8} {}: {}", row.verdict.to_string(), row.check, row.found);
//! }
//! ```
//!
//! Nothing is changed but for a directory of the engine's own, which is gone again. A setting of this machine is never the reason for a
//! verdict, only for its words: what counts is whether it works. An [`Error`] of a start names its row by [`Error::check`].

use crate::engine::Engine;
use crate::error::Error;
use coracle_cgroups::{Cgroup, Limits, Version};
use coracle_spawn::seccomp::Filter;
use coracle_spawn::{CapabilitySet, Effect, IdMap, Mount, Namespaces, Overlay, Root, Spawn, Undo};
use serde::Serialize;
use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Check {
    /// The version of Linux.
    Kernel,
    /// Whether the supervisor's program can be executed.
    Supervisor,
    /// User namespaces, for a plain user.
    UserNamespaces,
    /// Ranges of ids of one's own, and newuidmap(1), for a plain user.
    SubIds,
    /// The namespaces of a container, with the mounts that it has.
    Namespaces,
    /// The system call filter.
    Seccomp,
    /// Loopback, a bridge and a cable in a network namespace.
    Network,
    /// The directory that images and containers are kept in.
    Directory,
    /// An overlay above it.
    Overlay,
    /// A limit of memory.
    Memory,
    /// A limit of CPU time a second.
    Cpus,
    /// A limit of the number of processes.
    Pids,
    /// The user's session, for a plain user: detached containers end with it, and limits come from it.
    Session,
}

impl Check {
    /// All of them, in the order of the report.
    pub const ALL: [Check; 13] = [
        Check::Kernel,
        Check::Supervisor,
        Check::UserNamespaces,
        Check::SubIds,
        Check::Namespaces,
        Check::Seccomp,
        Check::Network,
        Check::Directory,
        Check::Overlay,
        Check::Memory,
        Check::Cpus,
        Check::Pids,
        Check::Session,
    ];

    /// As it stands in JSON: `user-namespaces`.
    pub fn name(self) -> &'static str {
        match self {
            Check::Kernel => "kernel",
            Check::Supervisor => "supervisor",
            Check::UserNamespaces => "user-namespaces",
            Check::SubIds => "sub-ids",
            Check::Namespaces => "namespaces",
            Check::Seccomp => "seccomp",
            Check::Network => "network",
            Check::Directory => "directory",
            Check::Overlay => "overlay",
            Check::Memory => "memory",
            Check::Cpus => "cpus",
            Check::Pids => "pids",
            Check::Session => "session",
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// How it stands with one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Verdict {
    /// It works.
    Ok,
    /// Containers run; something of them is missing here.
    Warning,
    /// No container runs.
    Failure,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failure => "failure",
        })
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// Of what.
    pub check: Check,
    /// How it stands.
    pub verdict: Verdict,
    /// What was seen: what works, or what was tried and how it failed.
    pub found: String,
    /// What doesn't work for want of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost: Option<String>,
    /// What mends it, a command or a setting a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
}

impl Row {
    fn ok(check: Check, found: impl Into<String>) -> Row {
        Row { check, verdict: Verdict::Ok, found: found.into(), lost: None, remedy: None }
    }

    fn bad(check: Check, verdict: Verdict, found: impl fmt::Display, lost: &str, remedy: Option<String>) -> Row {
        Row { check, verdict, found: found.to_string(), lost: Some(lost.to_owned()), remedy }
    }
}

/// What [`check`] found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[must_use]
pub struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// All findings, in the order of [`Check::ALL`]; what means nothing for this user is left out.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The finding of one of them.
    pub fn row(&self, check: Check) -> Option<&Row> {
        self.rows.iter().find(|row| row.check == check)
    }

    /// The worst of all verdicts: with `Failure`, no container runs here.
    pub fn worst(&self) -> Verdict {
        self.rows.iter().map(|row| row.verdict).max().unwrap_or(Verdict::Ok)
    }
}

/// Looks at this machine as this user, with the default engine's directory. Blocks: some tens of milliseconds.
pub fn check() -> Report {
    match Engine::open() {
        Ok(engine) => check_with(&engine),
        Err(error) => rows(Err(error)),
    }
}

/// Looks at this machine with this engine's directory and cgroup.
pub fn check_with(engine: &Engine) -> Report {
    rows(Ok(engine))
}

/// Where AppArmor looks for profiles.
const PROFILES: &str = "/etc/apparmor.d";

/// The profile by which AppArmor lets the installed supervisor make user namespaces, and changes nothing else (apparmor.d(5)).
const PROFILE: &str = "# Written by `coracle doctor --fix`. Containers of plain users need user namespaces, which AppArmor\n\
# gives to programs by their paths.\n\
abi <abi/4.0>,\n\
include <tunables/global>\n\n\
profile coracle /usr/local/libexec/coracle/supervisor-* flags=(unconfined) {\n  userns,\n}\n";

/// Mends what can be mended without changing what others rely on: puts the supervisor's program at a fixed path, from where plain users'
/// supervisors are executed by themselves from then on, and gives that path an AppArmor profile where AppArmor runs. Says what was done,
/// a sentence each. Needs root.
///
/// # Errors
/// [`Error::Start`] and [`Error::State`] with what couldn't be written.
pub fn fix() -> Result<Vec<String>, Error> {
    let path = coracle_spawn::install_supervisor()?;
    let mut done = vec![format!("installed the supervisor as {}", path.display())];
    if !Path::new("/sys/kernel/security/apparmor").exists() && !Path::new(PROFILES).exists() {
        return Ok(done);
    }
    let profile = Path::new(PROFILES).join("coracle");
    let state = |attempted, source| Error::State { attempted, path: profile.clone(), source };
    std::fs::create_dir_all(PROFILES).and_then(|()| std::fs::write(&profile, PROFILE)).map_err(|e| state("write", e))?;
    done.push(format!("wrote {}", profile.display()));
    if Path::new("/sys/kernel/security/apparmor").exists() {
        let loaded = std::process::Command::new("apparmor_parser").arg("-r").arg(&profile).status().map_err(|e| state("load", e))?;
        done.push(match loaded.success() {
            true => "loaded it by apparmor_parser(8)".into(),
            false => format!("apparmor_parser(8) didn't load it: {loaded}"),
        });
    }
    Ok(done)
}

fn rows(engine: Result<&Engine, Error>) -> Report {
    let plain = !rustix::process::geteuid().is_root();
    let map = plain.then(IdMap::for_current_user);
    let mut rows = vec![kernel(), supervisor()];
    if let Some(map) = &map {
        rows.push(user_namespaces());
        rows.push(sub_ids(map));
    }
    // Without ranges of its own a user has one id, and still a container.
    let map = map.map(|map| if rows.iter().any(|row| row.check == Check::SubIds && row.verdict == Verdict::Ok) { map } else { single() });
    rows.extend([namespaces(map.as_ref()), seccomp(map.as_ref()), network(map.as_ref())]);
    match engine {
        Ok(engine) => {
            rows.push(directory(engine.root()));
            rows.push(overlay(engine.root(), map.as_ref()));
            rows.extend([Check::Memory, Check::Cpus, Check::Pids].map(|check| limit(engine, check)));
        }
        Err(error) => rows.push(Row::bad(Check::Directory, Verdict::Failure, &error, "containers and images", error.remedy())),
    }
    if plain {
        rows.push(session());
    }
    Report { rows }
}

fn single() -> IdMap {
    IdMap::single(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw())
}

/// The row of what was tried; without it no container runs.
fn tried(check: Check, done: Result<(), coracle_spawn::Error>, works: &str, lost: &str) -> Row {
    match done {
        Ok(()) => Row::ok(check, works),
        Err(error) => {
            let error = Error::from(error);
            Row::bad(check, Verdict::Failure, &error, lost, error.remedy())
        }
    }
}

fn kernel() -> Row {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy().into_owned();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|n| n.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let found = format!("Linux {release}");
    if version < (5, 12) {
        return Row::bad(
            Check::Kernel,
            Verdict::Failure,
            found,
            "containers: they need Linux 5.12",
            Some("boot Linux 5.12 or later".into()),
        );
    }
    // docs/kernel-features.md has the whole table.
    let missing: Vec<&str> = [
        ((5, 14), "killing a container's cgroup at once"),
        ((5, 19), "usage.memory_peak on cgroup v2"),
        ((6, 7), "images of more than about 1,000 layers"),
    ]
    .into_iter()
    .filter_map(|(since, what)| (version < since).then_some(what))
    .collect();
    match missing.is_empty() {
        true => Row::ok(Check::Kernel, found),
        false => Row::bad(Check::Kernel, Verdict::Warning, found, &missing.join(", "), Some("a newer kernel has it".into())),
    }
}

fn supervisor() -> Row {
    tried(Check::Supervisor, Spawn::new("").rehearse(), "the supervisor starts and ends", "containers")
}

fn user_namespaces() -> Row {
    let done = Spawn::new("").namespaces(Namespaces::MOUNT).id_map(single()).rehearse();
    tried(Check::UserNamespaces, done, "a user namespace is made, and things are mounted in it", "containers as a plain user")
}

fn sub_ids(map: &IdMap) -> Row {
    const LOST: &str = "images with more than one user: every file is one's own, and a command can't become somebody else";
    let user = std::env::var("USER").unwrap_or_else(|_| "$USER".into());
    let ranges = format!("sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}");
    if map.is_single() {
        let installed = ["/usr/bin/newuidmap", "/bin/newuidmap", "/usr/local/bin/newuidmap"].iter().any(|path| Path::new(path).exists());
        return match installed {
            false => Row::bad(
                Check::SubIds,
                Verdict::Warning,
                "newuidmap(1) isn't installed",
                LOST,
                Some(format!("sudo apt-get install uidmap\n{ranges}")),
            ),
            true => Row::bad(Check::SubIds, Verdict::Warning, "/etc/subuid and /etc/subgid give this user no ids", LOST, Some(ranges)),
        };
    }
    match Spawn::new("").namespaces(Namespaces::MOUNT).id_map(map.clone()).rehearse() {
        Ok(()) => Row::ok(Check::SubIds, format!("{} ids are mapped", map.uid_count())),
        Err(error) => Row::bad(Check::SubIds, Verdict::Warning, Error::from(error), LOST, Some(ranges)),
    }
}

/// A root in memory with all that a container finds in its own.
fn container(map: Option<&IdMap>) -> Spawn {
    let spawn = Spawn::new("").namespaces(Namespaces::all()).root(Root::tmpfs()).mounts(Mount::standard()).hostname("doctor");
    let loopback = coracle_netns::Batch::loopback_up();
    let spawn = spawn.netlink(loopback.bytes().to_vec(), loopback.len() as u32);
    map.into_iter().fold(spawn, |spawn, map| spawn.id_map(map.clone()))
}

fn namespaces(map: Option<&IdMap>) -> Row {
    let mut row = tried(Check::Namespaces, container(map).rehearse(), "all namespaces, with /proc, /sys and /dev", "containers");
    if row.verdict != Verdict::Ok
        && let Some(outer) = outer()
    {
        row.found += &format!(" (this is a container of {} itself)", outer.0);
        row.remedy = Some(outer.1.to_owned());
    }
    row
}

/// Whether this runs in another engine's container: which, and how that one lets containers be made in it.
fn outer() -> Option<(&'static str, &'static str)> {
    const DOCKER: &str =
        "docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt systempaths=unconfined";
    const PODMAN: &str = "podman run --security-opt seccomp=unconfined --security-opt unmask=ALL --cap-add SYS_ADMIN,NET_ADMIN";
    let there = |path: &str| Path::new(path).exists();
    if there("/run/.containerenv") {
        return Some(("Podman", PODMAN));
    }
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        return Some(("Kubernetes", "securityContext: {seccompProfile: {type: Unconfined}, procMount: Unmasked}"));
    }
    there("/.dockerenv").then_some(("Docker", DOCKER))
}

fn seccomp(map: Option<&IdMap>) -> Row {
    let capabilities = CapabilitySet::empty();
    let done = container(map).seccomp(Filter::docker_default(capabilities.bits())).no_new_privileges(true).rehearse();
    let works = "the default filter of system calls is installed";
    tried(Check::Seccomp, done, works, "containers, whose system calls are filtered")
}

fn network(map: Option<&IdMap>) -> Row {
    const LOST: &str = "networks between containers; without a network, and with the host's, they run";
    let batch = coracle_netns::Batch::new().bridge("doctor0", 2, coracle_netns::Mac::of([10, 0, 0, 1].into()), 1500).link_up("doctor0", 2);
    let mut spawn = Spawn::new("").namespaces(Namespaces::MOUNT | Namespaces::NETWORK);
    spawn = spawn.netlink(batch.bytes().to_vec(), batch.len() as u32);
    if let Some(map) = map {
        spawn = spawn.id_map(map.clone());
    }
    match spawn.rehearse() {
        Ok(()) => Row::ok(Check::Network, "a network namespace with a bridge in it"),
        Err(error) => {
            let error = Error::from(error);
            Row::bad(Check::Network, Verdict::Warning, &error, LOST, error.remedy())
        }
    }
}

fn directory(root: &Path) -> Row {
    let shown = root.display();
    let Ok(stat) = rustix::fs::statfs(root) else {
        return Row::ok(Check::Directory, shown.to_string());
    };
    const TMPFS: i64 = 0x0102_1994;
    const NFS: i64 = 0x6969;
    const ELSEWHERE: &str = "keep them elsewhere: CORACLE_ROOT, Engine::builder().root(..) or --root";
    let bad = |found: String, lost: &str| Row::bad(Check::Directory, Verdict::Warning, found, lost, Some(ELSEWHERE.into()));
    #[allow(clippy::unnecessary_cast, reason = "the type differs between architectures")]
    match stat.f_type as i64 {
        TMPFS => bad(format!("{shown} is in memory (tmpfs)"), "images, at the next start of the machine; and the memory that they take"),
        NFS => bad(format!("{shown} is on NFS"), "speed, and locks that hold between machines"),
        _ => Row::ok(Check::Directory, format!("{shown} is this user's, and can be written")),
    }
}

/// A name that no other check has, at the same time or in another process.
fn unique() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("doctor-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

fn overlay(root: &Path, map: Option<&IdMap>) -> Row {
    let place = root.join(format!(".{}", unique()));
    let made = |name: &str| Effect::MakeDirectory { path: place.join(name), mode: 0o755 };
    let overlay = Overlay::new([place.join("lower")]).userxattr(map.is_some()).volatile(true);
    let mut spawn = Spawn::new("").namespaces(Namespaces::MOUNT);
    spawn = spawn.effect(Effect::MakeDirectory { path: place.clone(), mode: 0o700 }).undo(Undo::RemoveTree(place.clone()));
    spawn = spawn.effect(made("lower")).effect(made("upper")).effect(made("work"));
    spawn = spawn.root(Root::overlay(overlay.writable(place.join("upper"), place.join("work"))));
    if let Some(map) = map {
        spawn = spawn.id_map(map.clone());
    }
    tried(Check::Overlay, spawn.rehearse(), "an overlay is mounted above a directory in there", "containers, whose roots are overlays")
}

fn limit(engine: &Engine, check: Check) -> Row {
    const LOST: &str = "this limit: who asks for it gets an error, or goes on without by best_effort";
    let limits = match check {
        Check::Memory => Limits::new().memory(64 << 20),
        Check::Cpus => Limits::new().cpus(1.0),
        _ => Limits::new().pids(64),
    };
    let refused =
        |found: String, remedy: Option<String>| Row { check, verdict: Verdict::Warning, found, lost: Some(LOST.to_owned()), remedy };
    let placement = match engine.place(&limits) {
        Ok(placement) => placement,
        Err(error) => return refused(error.to_string(), error.remedy()),
    };
    if !placement.refused().is_empty() {
        let error = Error::Limits { refused: placement.refused().to_vec() };
        // The last line is the way without, which is no remedy of the machine.
        let remedy =
            error.remedy().map(|all| all.lines().filter(|line| !line.starts_with("or go on without")).collect::<Vec<_>>().join("\n"));
        return refused(error.to_string(), remedy.filter(|remedy| !remedy.is_empty()));
    }
    let done = placement.plan(&unique()).and_then(Cgroup::create).and_then(|cgroup| cgroup.remove());
    let version = match engine.0.hierarchies.version {
        Version::V2 => "cgroup v2",
        Version::V1 => "cgroup v1",
        _ => "hybrid cgroups",
    };
    match done {
        Ok(()) => Row::ok(check, format!("a cgroup with such a limit is made ({version})")),
        Err(error) => refused(error.to_string(), error.remedy()),
    }
}

fn session() -> Row {
    const LOST: &str = "limits on cgroup v2, which come from the user's systemd, and detached containers that outlive a session";
    let Some(directory) = std::env::var_os("XDG_RUNTIME_DIR") else {
        let remedy = "log in by ssh, a console or machinectl shell, and not by su or sudo; or export XDG_RUNTIME_DIR=/run/user/$(id -u)";
        return Row::bad(Check::Session, Verdict::Warning, "XDG_RUNTIME_DIR isn't set", LOST, Some(remedy.into()));
    };
    let bus = Path::new(&directory).join("bus");
    match std::os::unix::net::UnixStream::connect(&bus) {
        Ok(_) => Row::ok(Check::Session, format!("the user's bus answers at {}", bus.display())),
        Err(error) => Row::bad(
            Check::Session,
            Verdict::Warning,
            format!("nobody answers at {}: {error}", bus.display()),
            LOST,
            Some("sudo apt-get install dbus-user-session, and log in again".into()),
        ),
    }
}

impl Error {
    /// The row of the [doctor's report](Report) that is about the same, where there is one.
    pub fn check(&self) -> Option<Check> {
        use coracle_spawn::Error as Start;
        Some(match self {
            Error::Limits { refused } => match refused.first()?.control {
                coracle_cgroups::Control::Memory | coracle_cgroups::Control::Swap => Check::Memory,
                coracle_cgroups::Control::Pids => Check::Pids,
                _ => Check::Cpus,
            },
            Error::State { .. } => Check::Directory,
            Error::Start(Start::NoUserNamespaces { .. }) => Check::UserNamespaces,
            Error::Start(Start::UnmappedId { .. }) => Check::SubIds,
            Error::Start(Start::Supervisor { .. }) => Check::Supervisor,
            Error::Start(Start::Step { step, .. }) if step.contains("overlay") => Check::Overlay,
            Error::Start(Start::Step { step, .. }) if step.contains("filter") => Check::Seccomp,
            Error::Start(Start::Step { .. }) => Check::Namespaces,
            _ => return None,
        })
    }
}
