//! What a container may do beyond what every container may, and what it may do less.

use crate::builder::ContainerBuilder;
use crate::device::{self, Device};
use crate::engine::Engine;
use crate::error::{Error, Problem};
use crate::limits::MemorySize;
use crate::network;
use crate::preset::Preset;
use crate::seccomp::Seccomp;
use coracle_cgroups::{DeviceRule, Limits};
use coracle_spawn::{CapabilitySet, Landlock, Mount, Namespaces, SecurityLabel, Spawn, Standard, seccomp};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// Whose process ids, IPC objects or host name a container has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Own,
    /// This host's.
    Host,
    /// Those of a container that runs, by its name, its id or the beginning of that. Needs root: a plain user's container has them in a user
    /// namespace of its own.
    Container(String),
}

impl From<&str> for NamespaceMode {
    /// `host`, `container:ID`; `private`, or nothing, for its own.
    fn from(text: &str) -> Self {
        match text.split_once(':') {
            Some(("container", id)) => Self::Container(id.into()),
            _ if text == "host" => Self::Host,
            _ => Self::Own,
        }
    }
}

/// What was said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Security {
    pub(crate) preset: Option<Preset>,
    pub(crate) no_new_privileges: bool,
    pub(crate) privileged: bool,
    pub(crate) seccomp: Seccomp,
    devices: Vec<Device>,
    device_rules: Vec<String>,
    sysctls: Vec<(String, String)>,
    pub(crate) shm_size: Option<MemorySize>,
    masked: Vec<(bool, PathBuf)>,
    read_only: Vec<PathBuf>,
    pid: NamespaceMode,
    ipc: NamespaceMode,
    uts: NamespaceMode,
    apparmor: Option<String>,
    selinux: Option<String>,
    landlock: Option<Vec<(Access, PathBuf)>>,
}

/// What Landlock leaves below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Access {
    Read,
    Execute,
    Write,
}

impl<Face> ContainerBuilder<Face> {
    /// Whether executing set-id programs gives no privileges: `no_new_privs`, docker-run(1) `--security-opt no-new-privileges`.
    pub fn no_new_privileges(mut self, yes: bool) -> Self {
        self.security.no_new_privileges = yes;
        self
    }

    /// Which system calls it may make, instead of Docker's default.
    pub fn seccomp(mut self, filter: Seccomp) -> Self {
        self.security.seccomp = filter;
        self
    }

    /// Everything that this process may: all capabilities that it has, no system call filter (unless one is said), no masked or read-only paths, a
    /// writable /sys, this host's devices, and nodes that are made in /dev open theirs. A container of root's with it holds nobody who wants out. A
    /// plain user's has all that within its user namespace.
    pub fn privileged(mut self, yes: bool) -> Self {
        self.security.privileged = yes;
        self
    }

    /// One more device of this host: `.device("/dev/fuse")`.
    pub fn device(mut self, device: impl Into<Device>) -> Self {
        self.security.devices.push(device.into());
        self
    }

    /// Nodes of these devices that are made in /dev open them: `c 10:200 rwm`, as docker-run(1) `--device-cgroup-rule` takes it. Needs a control
    /// group that decides about devices (v1's controller, or root and cgroup v2), which then refuses all others; an error where there is none.
    pub fn device_cgroup_rule(mut self, rule: impl Into<String>) -> Self {
        self.security.device_rules.push(rule.into());
        self
    }

    /// A setting of its namespaces: `net.core.somaxconn`, `kernel.shmmax`, `fs.mqueue.msg_max`. One that would be this host's is an error.
    pub fn sysctl(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.security.sysctls.push((key.into(), value.into()));
        self
    }

    /// The size of /dev/shm: bytes, or a text as `1g`; 64 MiB if nothing is said.
    pub fn shm_size(mut self, size: impl Into<MemorySize>) -> Self {
        self.security.shm_size = Some(size.into());
        self
    }

    /// One more path that is hidden behind an empty directory or file.
    pub fn mask_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.security.masked.push((true, path.into()));
        self
    }

    /// A path of /proc or /sys that is hidden or read-only if nothing is said, and is not: `/proc/keys`; or `ALL`.
    pub fn unmask_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.security.masked.push((false, path.into()));
        self
    }

    /// One more path that can't be written.
    pub fn read_only_path(mut self, path: impl Into<PathBuf>) -> Self {
        self.security.read_only.push(path.into());
        self
    }

    /// Whose processes it sees. With the host's or another's, its end is made by its control group: an error where it has none.
    pub fn pid_namespace(mut self, of: impl Into<NamespaceMode>) -> Self {
        self.security.pid = of.into();
        self
    }

    /// Whose System V objects, message queues and /dev/shm it has.
    pub fn ipc_namespace(mut self, of: impl Into<NamespaceMode>) -> Self {
        self.security.ipc = of.into();
        self
    }

    /// Whose host name it has.
    pub fn uts_namespace(mut self, of: impl Into<NamespaceMode>) -> Self {
        self.security.uts = of.into();
        self
    }

    /// An AppArmor profile that is loaded, for the command; `unconfined` is none. An error where this kernel runs no AppArmor.
    pub fn apparmor(mut self, profile: impl Into<String>) -> Self {
        self.security.apparmor = Some(profile.into());
        self
    }

    /// An SELinux context for the command: `system_u:system_r:container_t:s0:c1,c2`; `disable` is none. An error where this kernel runs no SELinux.
    pub fn selinux(mut self, context: impl Into<String>) -> Self {
        self.security.selinux = Some(context.into());
        self
    }

    /// Files below this path are read, and programs executed: the first of these words gives up all other rights over files, whatever the user and
    /// the modes say (landlock(7), Linux 5.13; an error where there is none).
    pub fn landlock_execute(self, path: impl Into<PathBuf>) -> Self {
        self.landlock(Access::Execute, path)
    }

    /// Files below this path are read, as [`landlock_execute`](Self::landlock_execute) says.
    pub fn landlock_read(self, path: impl Into<PathBuf>) -> Self {
        self.landlock(Access::Read, path)
    }

    /// Files below this path are read and changed, as [`landlock_execute`](Self::landlock_execute) says.
    pub fn landlock_write(self, path: impl Into<PathBuf>) -> Self {
        self.landlock(Access::Write, path)
    }

    fn landlock(mut self, access: Access, path: impl Into<PathBuf>) -> Self {
        self.security.landlock.get_or_insert_default().push((access, path.into()));
        self
    }
}

/// What the words come to.
pub(crate) struct Checked {
    pub(crate) capabilities: CapabilitySet,
    filter: Option<seccomp::Filter>,
    standard: Standard,
    mounts: Vec<Mount>,
    label: Option<SecurityLabel>,
    landlock: Option<Landlock>,
    /// The devices that a control group is to allow, where one is asked.
    pub(crate) devices: Option<Vec<DeviceRule>>,
}

impl Security {
    pub(crate) fn shares_host_name(&self) -> bool {
        self.uts != NamespaceMode::Own
    }

    pub(crate) fn shares_ipc(&self) -> bool {
        self.ipc != NamespaceMode::Own
    }

    pub(crate) fn has_devices(&self) -> bool {
        !self.devices.is_empty() || !self.device_rules.is_empty()
    }

    pub(crate) fn shares_processes(&self) -> bool {
        self.pid != NamespaceMode::Own
    }

    /// Reads the words; whatever is wrong with them goes to the problems.
    pub(crate) fn check(&self, builder: &ContainerBuilder, named: CapabilitySet, problems: &mut Vec<Problem>) -> Checked {
        let capabilities = if self.privileged { everything() } else { named };
        let chosen = if self.privileged && self.seccomp == Seccomp::default() { Seccomp::unconfined() } else { self.seccomp.clone() };
        let filter = chosen.filter(capabilities).unwrap_or_else(|wrong| {
            problems.extend(wrong);
            None
        });
        let (mounts, devices) = self.check_devices(problems);
        self.check_sysctls(builder, problems);
        if self.shares_host_name() && builder.hostname.is_some() {
            problems.push(problem("a host name is asked for, and another's is shared", "leave one of them out"));
        }
        Checked {
            capabilities,
            filter,
            standard: self.standard(devices.is_some(), problems),
            mounts: mounts.into_iter().chain(self.sysctls.iter().map(|(key, value)| Mount::sysctl_required(key, value))).collect(),
            label: self.check_label(problems),
            landlock: self.check_landlock(problems),
            devices,
        }
    }

    fn check_devices(&self, problems: &mut Vec<Problem>) -> (Vec<Mount>, Option<Vec<DeviceRule>>) {
        let mut nodes = if self.privileged { device::all_of_the_host() } else { Vec::new() };
        for device in &self.devices {
            match device.nodes() {
                Ok(more) => nodes.extend(more),
                Err(problem) => problems.push(problem),
            }
        }
        let mut rules = DeviceRule::defaults();
        rules.extend(nodes.iter().map(|node| node.rule));
        for text in &self.device_rules {
            match text.parse::<DeviceRule>() {
                Ok(rule) => rules.push(rule),
                Err(error) => problems.push(problem(error, "for example `c 10:200 rwm`")),
            }
        }
        // Without one of these, nothing opens but what is bound, by the mounts' attributes alone.
        let asked = !self.privileged && (!self.device_rules.is_empty() || self.devices.iter().any(Device::is_restricted));
        (nodes.into_iter().map(|node| node.mount).collect(), asked.then_some(rules))
    }

    fn check_sysctls(&self, builder: &ContainerBuilder, problems: &mut Vec<Problem>) {
        const IPC: [&str; 8] = [
            "kernel.msgmax",
            "kernel.msgmnb",
            "kernel.msgmni",
            "kernel.sem",
            "kernel.shmall",
            "kernel.shmmax",
            "kernel.shmmni",
            "kernel.shm_rmid_forced",
        ];
        let others_network = builder.networks.iter().any(|network| network.is_of_others());
        for (key, value) in &self.sysctls {
            let key = key.replace('/', ".");
            let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)) && !key.contains("..") && !key.ends_with('.');
            let (namespaced, shared) = match key.as_str() {
                key if IPC.contains(&key) || key.starts_with("fs.mqueue.") => (true, self.ipc != NamespaceMode::Own),
                key if key.starts_with("net.") => (true, others_network),
                "kernel.domainname" => (true, self.shares_host_name()),
                _ => (false, false),
            };
            if !plain || !namespaced {
                let what = format!("the setting {key:?} is this host's, not a container's");
                problems.push(problem(what, "those of containers are net.*, fs.mqueue.*, kernel.domainname and kernel.{msg*,sem,shm*}"));
            } else if shared {
                problems.push(problem(format!("the setting {key} would be somebody else's, whose namespace is shared"), "set it there"));
            }
            if value.contains(['\n', '\0']) {
                problems.push(problem(format!("{value:?} is no value of the setting {key}"), "one line"));
            }
        }
    }

    fn standard(&self, device_nodes: bool, problems: &mut Vec<Problem>) -> Standard {
        let all = Path::new("ALL");
        let open = self.privileged || self.masked.iter().any(|(mask, path)| !mask && path == all);
        let unmasked = |path: &&&str| !self.masked.iter().any(|(mask, one)| !mask && one == Path::new(path));
        let usual = |paths: &'static [&'static str]| paths.iter().filter(|_| !open).filter(unmasked).map(PathBuf::from).collect::<Vec<_>>();
        let (mut masked, mut read_only) = (usual(Standard::default_masked()), usual(Standard::default_read_only()));
        masked.extend(self.masked.iter().filter(|(mask, _)| *mask).map(|(_, path)| path.clone()));
        read_only.extend(self.read_only.iter().cloned());
        if let Some(path) = masked.iter().chain(&read_only).find(|path| !path.is_absolute()) {
            problems.push(problem(format!("{} can't be masked", path.display()), "name an absolute path"));
        }
        let mut standard = Standard::new().masked(masked).read_only(read_only);
        standard = standard.writable_sys(self.privileged).device_nodes(self.privileged || device_nodes);
        match (&self.shm_size, &self.ipc) {
            (Some(_), NamespaceMode::Host | NamespaceMode::Container(_)) => {
                problems.push(problem("/dev/shm is another's, and has its size", "leave the size or the IPC namespace out"));
                standard
            }
            (_, NamespaceMode::Host) => standard.shared_memory_of_host(),
            (_, NamespaceMode::Container(_)) => standard.shared_memory_borrowed(),
            (Some(size), NamespaceMode::Own) => match size.bytes() {
                Ok(bytes) => standard.shared_memory(bytes),
                Err(error) => {
                    problems.push(Problem { what: format!("the size of /dev/shm: {error}"), remedy: error.remedy() });
                    standard
                }
            },
            (None, NamespaceMode::Own) => standard,
        }
    }

    fn check_label(&self, problems: &mut Vec<Problem>) -> Option<SecurityLabel> {
        let mut labels = Vec::new();
        for (given, none, module, label) in [
            (&self.apparmor, "unconfined", "AppArmor", SecurityLabel::apparmor as fn(&str) -> Option<SecurityLabel>),
            (&self.selinux, "disable", "SELinux", SecurityLabel::selinux),
        ] {
            let Some(given) = given.as_ref().filter(|given| *given != none) else { continue };
            if given.is_empty() || given.contains(['\n', '\0']) {
                problems.push(problem(format!("{given:?} is no label of {module}'s"), "one word"));
                continue;
            }
            match label(given) {
                Some(label) => labels.push(label),
                None => problems.push(problem(format!("{given} can't be had: this kernel runs no {module}"), "leave it out")),
            }
        }
        labels.pop()
    }

    fn check_landlock(&self, problems: &mut Vec<Problem>) -> Option<Landlock> {
        let rules = self.landlock.as_ref()?;
        if !Landlock::is_there() {
            problems.push(problem("this kernel runs no Landlock", "boot with lsm=landlock,… , or leave it out"));
        }
        Some(rules.iter().fold(Landlock::new(), |landlock, (access, path)| match access {
            Access::Read => landlock.read(path),
            Access::Execute => landlock.read_and_execute(path),
            Access::Write => landlock.write(path),
        }))
    }

    /// The namespaces that it has of its own, of those that every container has.
    pub(crate) fn namespaces(&self, all: Namespaces) -> Namespaces {
        self.modes().into_iter().filter(|(_, mode, _)| **mode != NamespaceMode::Own).fold(all, |all, (kind, ..)| all - kind)
    }

    fn modes(&self) -> [(Namespaces, &NamespaceMode, &'static str); 3] {
        [(Namespaces::PID, &self.pid, "pid"), (Namespaces::IPC, &self.ipc, "ipc"), (Namespaces::UTS, &self.uts, "uts")]
    }

    /// Puts it into those of other containers.
    pub(crate) fn join(&self, engine: &Engine, mut spawn: Spawn) -> Result<Spawn, Error> {
        for (kind, mode, name) in self.modes() {
            let NamespaceMode::Container(id) = mode else { continue };
            if engine.0.id_map.is_some() {
                let what =
                    format!("sharing another container's {name} namespace needs root: a plain user's is in a user namespace of its own");
                return Err(Error::Description {
                    problems: vec![problem(what, "share this host's, or run the command in that container: exec")],
                });
            }
            let pid = engine.attach(id)?.pid();
            let open = |name: &str| -> Result<OwnedFd, Error> {
                let path = PathBuf::from(format!("/proc/{pid}/ns/{name}"));
                File::open(&path).map(OwnedFd::from).map_err(|source| Error::State { attempted: "open", path, source })
            };
            spawn = spawn.join_namespace(kind, open(name)?);
            if kind == Namespaces::IPC {
                spawn = spawn.join_namespace(Namespaces::MOUNT, open("mnt")?);
            }
        }
        Ok(spawn)
    }
}

impl Checked {
    /// Adds the devices that a control group is to allow.
    pub(crate) fn limit(&self, limits: Limits) -> Limits {
        match &self.devices {
            Some(rules) => limits.devices(rules.iter().copied()),
            None => limits,
        }
    }

    /// The file system that every container has.
    pub(crate) fn standard(&self) -> Vec<Mount> {
        self.standard.mounts()
    }

    /// What was asked for beside it.
    pub(crate) fn mounts(&self) -> Vec<Mount> {
        self.mounts.clone()
    }

    /// What the command may do.
    pub(crate) fn restrict(self, security: &Security, mut spawn: Spawn) -> Spawn {
        spawn = spawn.capabilities(self.capabilities).no_new_privileges(security.no_new_privileges);
        if let Some(filter) = self.filter {
            spawn = spawn.seccomp(filter);
        }
        if let Some(label) = self.label {
            spawn = spawn.label(label);
        }
        match self.landlock {
            Some(landlock) => spawn.landlock(landlock),
            None => spawn,
        }
    }
}

fn problem(what: impl ToString, remedy: &str) -> Problem {
    Problem { what: what.to_string(), remedy: Some(remedy.into()) }
}

/// All capabilities that can be given: root has those of its bounding set, which a container around it may have cut; a user namespace has all.
fn everything() -> CapabilitySet {
    let all = CapabilitySet::all();
    if !rustix::process::geteuid().is_root() {
        return all;
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bounding = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    match bounding.and_then(|word| u64::from_str_radix(word.trim(), 16).ok()) {
        Some(bits) => CapabilitySet::from_bits(all.bits() & bits),
        None => all,
    }
}

impl network::Network {
    /// Whether its settings are somebody else's.
    fn is_of_others(&self) -> bool {
        matches!(self.kind, network::Kind::Host | network::Kind::Container(_) | network::Kind::Shared(..))
    }
}
