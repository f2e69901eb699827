//! From a description to a plan: every problem first, then the steps.

use crate::beside::{self, For};
use crate::builder::{self, ContainerBuilder, Source};
use crate::container::{Defaults, control_socket, log_file};
use crate::engine::Engine;
use crate::error::{Error, Problem};
use crate::image::{self, Ready};
use crate::limits::MemorySize;
use crate::mount;
use crate::names;
use crate::network::{Kind, Wanted};
use crate::networks::{self, Who};
use crate::publish::{Publish, PublishedPort};
use crate::rootfs::{self, Lower};
use crate::security;
use crate::snapshot;
use crate::spec::Resolved;
use crate::state::Description;
use crate::stdio::Stdio;
use crate::wait::Wait;
use coracle_cgroups::{Control, Enforced, IfMissing, Limits, Live, Refusal, Step, Version};
use coracle_image::{Healthcheck, ImageConfig, Lease};
use coracle_spawn::{Capability, CapabilitySet, CgroupPlacement, ENDED, Effect, HealthTest, Init, Mount, Namespaces, Signal, Spawn, Undo};
use std::ffi::{OsStr, OsString};
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What was read out of a description's words.
pub(crate) struct Checked {
    limits: Limits,
    security: security::Checked,
    pub(crate) mounts: Vec<mount::Checked>,
    networks: Vec<Wanted>,
    /// Bytes of a log, where one is kept.
    log_size: u64,
    output_limit: Option<u64>,
}

/// What is kept of what a container says, if nothing is said.
const LOG_SIZE: u64 = 10 << 20;

/// A description as something that can be started.
pub(crate) struct Lowered {
    pub(crate) spawn: Spawn,
    pub(crate) id: String,
    pub(crate) stop_signal: Signal,
    pub(crate) enforced: Vec<Enforced>,
    pub(crate) waived: Vec<Refusal>,
    pub(crate) live: Live,
    pub(crate) ports: Vec<PublishedPort>,
    pub(crate) addresses: Vec<Vec<IpAddr>>,
    /// Where what it says is kept, if it is.
    pub(crate) log: Option<PathBuf>,
    pub(crate) readiness: Readiness,
}

/// By what it is ready, if nobody says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Readiness {
    /// Whether it is asked for its health.
    pub(crate) health: bool,
    /// TCP ports that its image exposes.
    pub(crate) exposed: Vec<u16>,
}

/// What a root stands on, for who asks later.
#[derive(Default)]
pub(crate) struct Base {
    pub(crate) manifest: Option<String>,
    pub(crate) rootfs: Option<PathBuf>,
    pub(crate) snapshots: Vec<String>,
}

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds everything that is wrong with a description by itself. No effect, no privilege.
pub(crate) fn check(builder: &ContainerBuilder) -> Result<Checked, Error> {
    let mut problems = Vec::new();
    let mut problem = |what: String, remedy: Option<&str>| problems.push(Problem { what, remedy: remedy.map(str::to_owned) });

    match &builder.source {
        Source::Image(name) => {
            if let Err(p) = image::parse(name) {
                problem(p.what, p.remedy.as_deref());
            }
        }
        Source::Layers { .. } => {}
        Source::Snapshot(_) => {}
        Source::Rootfs(path) | Source::OciLayout(path) => {
            if !path.is_dir() {
                problem(format!("{} isn't a directory", path.display()), None);
            }
        }
    }

    let mut limits = Limits::new();
    if let Some(memory) = &builder.memory {
        match memory.bytes() {
            Ok(bytes) => limits = limits.memory(bytes),
            Err(error) => problem(format!("memory: {error}"), error.remedy().as_deref()),
        }
    }
    if let Some(cpus) = builder.cpus {
        limits = limits.cpus(cpus);
    }
    if let Some(pids) = builder.pids {
        limits = limits.pids(pids);
    }

    if let Some(time) = builder.cpu_time {
        limits = limits.cpu_time(time);
    }
    let mut output_limit = None;
    match builder.output_limit.as_ref().map(MemorySize::bytes) {
        Some(Ok(bytes)) => output_limit = Some(bytes),
        Some(Err(error)) => problem(format!("the limit on output: {error}"), error.remedy().as_deref()),
        None => {}
    }
    let mut log_size = LOG_SIZE;
    match builder.log_size.as_ref().map(MemorySize::bytes) {
        Some(Ok(bytes)) => log_size = bytes.min(1 << 40),
        Some(Err(error)) => problem(format!("the size of the log: {error}"), error.remedy().as_deref()),
        None => {}
    }
    if builder.command.stdin.as_ref().is_some_and(Stdio::is_log) {
        problem("standard input can't be a log".into(), None);
    }

    let mut capabilities = CapabilitySet::docker_default();
    let (all, named): (Vec<_>, Vec<_>) = builder.capabilities.iter().partition(|(_, name)| name.eq_ignore_ascii_case("ALL"));
    for (add, _) in all {
        capabilities = if *add { CapabilitySet::all() } else { CapabilitySet::empty() };
    }
    for (add, name) in named {
        match name.parse::<Capability>() {
            Ok(capability) if *add => capabilities = capabilities.with(capability),
            Ok(capability) => capabilities = capabilities.without(capability),
            Err(error) => problem(error.to_string(), None),
        }
    }

    if let Some(name) = &builder.hostname {
        let good = !name.is_empty() && name.len() <= 64 && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if !good {
            problem(format!("{name:?} can't be a host name"), Some("1 to 64 letters, digits, hyphens and dots"));
        }
    }
    for (key, _) in &builder.command.env {
        if key.is_empty() || key.as_bytes().contains(&b'=') {
            problem(format!("{key:?} can't be the name of a variable"), None);
        }
    }
    if builder.workdir.as_ref().is_some_and(|d| !d.is_absolute()) {
        problem(
            format!("the working directory {:?} isn't absolute", builder.workdir.as_deref().unwrap_or(Path::new(""))),
            Some("begin it with /"),
        );
    }
    if builder.entrypoint.is_none() && builder.cmd.is_none() && builder.args.is_empty() && matches!(builder.source, Source::Rootfs(_)) {
        problem("a root file system names no command".into(), Some("name one with cmd(..)"));
    }

    for what in builder.wait.iter().flat_map(Wait::problems) {
        problem(what, None);
    }
    if let builder::Health::Test(test) = &builder.health
        && test.command.first().is_none_or(|program| program.is_empty())
    {
        problem("the health test has no command".into(), Some("name one, or say no_healthcheck()"));
    }
    for (what, target) in &builder.files {
        if let Some(what) = what.problem(target) {
            problem(what, None);
        }
    }

    let mut networks = Vec::new();
    for network in &builder.networks {
        match network.check() {
            Ok(wanted) => networks.push(wanted),
            Err(wrong) => wrong.into_iter().for_each(|what| problem(what, None)),
        }
    }
    let (bridges, others) = builder.networks.iter().partition::<Vec<_>, _>(|network| network.is_bridge());
    if others.len() > 1 || (!others.is_empty() && !bridges.is_empty()) {
        problem("a container is in one network, or in several private ones".into(), Some("leave none, host and others' networks out"));
    }
    if !builder.publish.is_empty() && others.iter().any(|network| network.kind != Kind::None) {
        problem("ports are published of a container with a network of its own".into(), Some("publish those of the container that has it"));
    }
    let mounts = builder.mounts.iter().filter_map(|mount| mount.check(&mut problems)).collect();
    problems.extend(builder.publish.iter().filter_map(Publish::problem));
    problems.extend(names::check(builder));
    let security = builder.security.check(builder, capabilities, &mut problems);
    let limits = security.limit(builder.resources.limit(limits, &mut problems));
    if problems.is_empty() {
        Ok(Checked { limits, security, mounts, networks, log_size, output_limit })
    } else {
        Err(Error::Description { problems })
    }
}

/// What a container stands on, and what its image says.
pub(crate) struct Ground {
    pub(crate) lower: Lower,
    config: Option<ImageConfig>,
    pub(crate) lease: Option<Lease>,
    name: String,
    /// What that is, for who asks later.
    pub(crate) base: Base,
}

/// Finds what a container stands on. Images are fetched and unpacked.
pub(crate) async fn ground(engine: &Engine, builder: &ContainerBuilder) -> Result<Ground, Error> {
    let mut base = Base::default();
    let (lower, config, lease, name) = match &builder.source {
        Source::Rootfs(path) => {
            // Images' layers look at it themselves.
            if coracle_layers::is_overlay(&engine.0.runs)? {
                return Err(coracle_layers::Error::OnOverlay { store: engine.0.runs.clone() }.into());
            }
            let path = path.canonicalize().map_err(|source| Error::State { attempted: "find", path: path.clone(), source })?;
            let lower = if path == Path::new("/") && engine.0.id_map.is_some() {
                Lower::HostByDirectories
            } else {
                Lower::Layers(vec![path.clone()])
            };
            base.rootfs = Some(path.clone());
            (lower, None, None, path.display().to_string())
        }
        Source::Image(name) => {
            let Ready { image, lower, lease } = image::by_name(engine, name, builder.progress.clone()).await?;
            base.manifest = Some(image.digest.to_string());
            (Lower::Layers(lower), Some(image.config), Some(lease), name.clone())
        }
        Source::OciLayout(path) => {
            let Ready { image, lower, lease } = image::from_layout(engine, path.clone()).await?;
            base.manifest = Some(image.digest.to_string());
            (Lower::Layers(lower), Some(image.config), Some(lease), path.display().to_string())
        }
        Source::Layers { layers, image, .. } => (Lower::Layers(layers.clone()), None, None, image.clone()),
        Source::Snapshot(name) => {
            let found = snapshot::ready(engine, name)?;
            base = found.base;
            (Lower::Layers(found.lower), found.config, Some(found.lease), name.clone())
        }
    };
    Ok(Ground { lower, config, lease, name, base })
}

impl Ground {
    /// What a container is made of that is to be started again, whatever becomes of its image.
    pub(crate) fn resolve(&self, builder: &ContainerBuilder, id: &str) -> Result<Resolved, Error> {
        let config = self.config.as_ref();
        let layers = match &self.lower {
            Lower::Layers(layers) if config.is_some() => layers.clone(),
            Lower::Layers(_) => Vec::new(),
            Lower::HostByDirectories => {
                let what = "a container over this machine's own root can't stay when it has ended, as a plain user's".into();
                let remedy = Some("take a directory or an image as its root, or run()".into());
                return Err(Error::Description { problems: vec![Problem { what, remedy }] });
            }
        };
        Ok(Resolved {
            layers,
            image: self.name.clone(),
            words: command(builder, config)?,
            env: environment(builder, config, &hostname(builder, id)),
            workdir: workdir(builder, config),
            user: user(builder, config),
            stop_signal: stop_signal(builder, config).number().to_string(),
            health: tested(builder, config),
            exposed: config.map(exposed).unwrap_or_default(),
        })
    }
}

fn hostname(builder: &ContainerBuilder, id: &str) -> String {
    let own = || match builder.security.shares_host_name() {
        true => rustix::system::uname().nodename().to_string_lossy().into_owned(),
        false => id[..12].to_owned(),
    };
    builder.hostname.clone().unwrap_or_else(own)
}

fn workdir(builder: &ContainerBuilder, config: Option<&ImageConfig>) -> Option<PathBuf> {
    builder.workdir.clone().or_else(|| config?.working_dir.clone().filter(|d| !d.is_empty()).map(PathBuf::from))
}

fn user(builder: &ContainerBuilder, config: Option<&ImageConfig>) -> Option<OsString> {
    builder.user.clone().or_else(|| config?.user.clone().map(OsString::from))
}

fn stop_signal(builder: &ContainerBuilder, config: Option<&ImageConfig>) -> Signal {
    let word = match &builder.source {
        Source::Layers { stop_signal, .. } => Some(&stop_signal[..]),
        _ => config.and_then(|c| c.stop_signal.as_deref()),
    };
    word.and_then(|s| s.parse().ok()).unwrap_or(Signal::TERM)
}

/// Which life of a container is begun.
pub(crate) enum Life {
    /// The only one: everything goes with it.
    Only,
    /// One of a container that stays, with what is kept of it.
    Another { id: String, description: Box<Description> },
}

/// The name by which others find it.
fn name_of<'a>(builder: &'a ContainerBuilder, life: &'a Life) -> Option<&'a str> {
    match life {
        Life::Only => builder.name.as_deref(),
        Life::Another { description, .. } => description.name.as_deref(),
    }
}

/// Puts the whole plan together. The only effects are the image's: fetched and unpacked layers.
pub(crate) async fn lower(
    engine: &Engine,
    builder: &ContainerBuilder,
    checked: Checked,
    defaults: &Defaults,
    life: Life,
) -> Result<Lowered, Error> {
    let id = match &life {
        Life::Only => new_id(),
        Life::Another { id, .. } => id.clone(),
    };
    let kept = matches!(life, Life::Another { .. });
    let run = engine.0.runs.join(&id);

    // Limits before images: nobody waits for a download to hear that there is no memory controller.
    let placement = engine.place(&checked.limits).map_err(cgroups_error)?.best_effort(&builder.best_effort);
    // What may be paused, where that costs a hierarchy of its own: who waits for an output can't ask for it.
    let placement = if defaults.can_be_paused { placement.freezer() } else { placement };
    let cgroups = placement.plan(&id).map_err(cgroups_error)?;
    let live = cgroups.live();
    if builder.security.shares_processes() && cgroups.into.is_none() {
        let what = "a container without process ids of its own is ended by its control group, and it has none here".into();
        let remedy = Some("run as root, or in a cgroup v2 that is delegated to you".into());
        return Err(Error::Description { problems: vec![Problem { what, remedy }] });
    }

    let Ground { lower, config, lease, name, base } = ground(engine, builder).await?;
    let words = command(builder, config.as_ref())?;
    let stop_signal = stop_signal(builder, config.as_ref());
    let mut spawn = Spawn::new(&words[0]).args(&words[1..]);
    if let Some(map) = &engine.0.id_map {
        spawn = spawn.id_map(map.clone());
    }
    let hostname = hostname(builder, &id);
    let host_network = builder.networks.iter().any(|network| network.kind == Kind::Host);
    let shared = builder.networks.iter().any(|network| matches!(network.kind, Kind::Container(_) | Kind::Shared(..)));
    if !host_network && !shared {
        let loopback = coracle_netns::Batch::loopback_up();
        spawn = spawn.netlink(loopback.bytes().to_vec(), loopback.len() as u32);
    }
    // Ports first: they are what is most often somebody else's.
    let mut ports = Vec::new();
    for publish in &builder.publish {
        ports.extend(publish.reserve()?);
    }
    let networks: Vec<_> = builder.networks.iter().cloned().zip(checked.networks).collect();
    let (with_networks, attached) =
        networks::attach(engine, spawn, &networks, ports, &Who { id: &id, name: name_of(builder, &life), dns: &builder.dns })?;
    spawn = with_networks;
    let test = tested(builder, config.as_ref());
    let readiness = match &life {
        Life::Only => Readiness { health: test.is_some(), exposed: config.as_ref().map(exposed).unwrap_or_default() },
        Life::Another { description, .. } => Readiness { health: description.health, exposed: description.exposed.clone() },
    };
    let (ports, addresses) = (attached.ports.clone(), attached.addresses.clone());
    let description = match life {
        Life::Another { description, .. } => Description { live: live.to_string(), spec: None, ports, addresses, ..*description },
        Life::Only => Description {
            image: name,
            command: words.iter().map(|w| w.to_string_lossy().into_owned()).collect(),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs()),
            owner: std::process::id(),
            labels: builder.labels.clone(),
            manifest: base.manifest,
            rootfs: base.rootfs,
            snapshots: base.snapshots,
            volumes: Vec::new(),
            mount_points: builder.mounts.iter().map(|mount| mount.target.clone()).collect(),
            stop_signal: Some(stop_signal.number().to_string()),
            name: builder.name.clone(),
            live: live.to_string(),
            auto_remove: true,
            spec: None,
            ports,
            addresses,
            health: readiness.health,
            exposed: readiness.exposed.clone(),
        },
    };
    let goes = description.auto_remove;
    let whose = if goes { For::LastLife } else { For::OneLife };
    let mut beside = beside::prepare(engine, builder, checked.mounts, &lower, &id, whose).await?;
    let description = Description { volumes: beside.volumes.clone(), ..description };
    let description = serde_json::to_vec(&description).unwrap_or_default();

    spawn = spawn.effect(match kept {
        false => Effect::RunDirectory { parent: engine.0.runs.clone(), name: id.clone(), description },
        true => Effect::ResumeRunDirectory { path: run.clone(), description },
    });
    spawn = spawn.listen(control_socket(&run));
    let all = if host_network { Namespaces::all() - Namespaces::NETWORK } else { Namespaces::all() };
    spawn = builder.security.join(engine, spawn.namespaces(builder.security.namespaces(all)))?;
    spawn = beside.begin(spawn);
    spawn = rootfs::add(spawn, lower, &run, engine.0.id_map.is_some(), kept)?;

    spawn = spawn.mounts(checked.security.standard());
    spawn = spawn.mounts(names::files(builder, &hostname, &attached));
    if !host_network && !shared {
        if names::has_ipv6() {
            // Neighbours don't say where its packets go.
            let interfaces = (0..attached.addresses.len()).map(|n| Mount::sysctl(format!("net.ipv6.conf.eth{n}.accept_ra"), "0"));
            spawn = spawn.mounts(interfaces);
        }
        if engine.0.id_map.is_none() {
            spawn = spawn.mounts([
                Mount::sysctl("net.ipv4.ip_unprivileged_port_start", "0"),
                Mount::sysctl("net.ipv4.ping_group_range", "0 2147483647"),
            ]);
        }
    }
    spawn = spawn.mounts(checked.security.mounts());
    spawn = beside.mount(spawn).read_only_root(builder.read_only_rootfs);
    if !builder.security.shares_host_name() {
        spawn = spawn.hostname(&hostname);
    }

    if let Some(test) = test {
        spawn = spawn.health(test);
    }
    spawn = spawn.created_first(!builder.files.is_empty());

    for (key, value) in environment(builder, config.as_ref(), &hostname) {
        spawn = spawn.env(key, value);
    }
    let user = user(builder, config.as_ref()).unwrap_or_else(|| "0".into());
    spawn = spawn.user(user).current_dir_made(workdir(builder, config.as_ref()).unwrap_or_else(|| "/".into()));
    spawn = checked.security.restrict(&builder.security, spawn);
    for limit in &builder.rlimits {
        spawn = spawn.rlimit(*limit);
    }
    let ours = builder.init.unwrap_or_else(|| !is_init(&words[0]));
    spawn = spawn.init(if ours { Init::Ours } else { Init::Command });

    if let Some(problem) = builder.command.terminal_problem(defaults.has_terminal) {
        return Err(Error::Description { problems: vec![problem] });
    }
    let [stdin, stdout, stderr] = builder.command.streams(defaults)?;
    spawn = spawn.stdin(stdin).stdout(stdout).stderr(stderr);
    if let Some((columns, rows)) = builder.command.tty {
        spawn = spawn.terminal(columns, rows);
    }

    let outputs = [(&builder.command.stdout, defaults.stdout), (&builder.command.stderr, defaults.stderr)];
    let logged = outputs.iter().any(|(said, default)| said.as_ref().map_or_else(|| default().is_log(), Stdio::is_log));
    let counted = builder.output_limit.is_some() || builder.idle_timeout.is_some();
    // A terminal goes straight to its handle.
    let seen = builder.command.tty.is_none()
        && outputs.iter().all(|(said, default)| said.as_ref().map_or_else(|| default().can_be_counted(), Stdio::can_be_counted));
    if counted && !seen {
        let what = "what goes straight to this process's streams or to a file can't be counted, and a limit is asked for".into();
        let remedy = "take output() or run(), or give both outputs Stdio::piped(), Stdio::log() or Stdio::null()".to_owned();
        return Err(Error::Description { problems: vec![Problem { what, remedy: Some(remedy) }] });
    }
    if let Some(wall) = builder.wall {
        spawn = spawn.wall(wall);
    }
    if let (Some(time), Some(usage)) = (builder.cpu_time, &cgroups.cpu_usage) {
        spawn = spawn.cpu_time(time, usage);
    }
    if let Some(most) = checked.output_limit {
        spawn = spawn.output_limit(most);
    }
    if let Some(time) = builder.idle_timeout {
        spawn = spawn.idle_timeout(time);
    }
    let log = logged.then(|| log_file(&run));
    if let Some(log) = &log {
        spawn = spawn.log(log, checked.log_size);
    }

    let (enforced, waived) = (cgroups.enforced.clone(), cgroups.waived.clone());
    spawn = beside.hold(add_cgroups(spawn, engine, cgroups));
    if let Some(lease) = lease {
        let path = lease.path().to_owned();
        spawn = spawn.hold(lease.into_fd()).undo(Undo::RemoveTree(path));
    }
    // Last, because it holds the record of all the others.
    spawn = match kept {
        false => spawn.undo(Undo::RemoveTree(run)),
        true if goes => spawn.detached(true).undo(Undo::RemoveTree(run)),
        true => {
            let gone = |name: &str| Undo::RemoveTree(run.join(name));
            spawn.detached(true).ended(run.join(ENDED)).undo(gone("control")).undo(gone("paused")).undo(gone("record"))
        }
    };
    let (ports, addresses) = (attached.ports, attached.addresses);
    Ok(Lowered { spawn, id, stop_signal, enforced, waived, live, log, ports, addresses, readiness })
}

fn cgroups_error(error: coracle_cgroups::Error) -> Error {
    match error {
        coracle_cgroups::Error::Refused(refused) => Error::Limits { refused },
        error => Error::Description { problems: vec![Problem { what: error.to_string(), remedy: error.remedy() }] },
    }
}

/// 16 hexadecimal digits that nobody else has.
pub(crate) fn new_id() -> String {
    let mut bytes = [0u8; 8];
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(n) => filled += n,
            Err(_) => continue,
        }
    }
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// How a container is asked whether it works: what was said, else what its image says.
fn tested(builder: &ContainerBuilder, config: Option<&ImageConfig>) -> Option<HealthTest> {
    match &builder.health {
        builder::Health::None => None,
        builder::Health::Test(test) => Some(test.clone()),
        builder::Health::OfImage => config.and_then(|config| config.healthcheck.as_ref()).and_then(health_test),
    }
}

/// An image's HEALTHCHECK as a command. None where it says NONE, or nothing.
fn health_test(of: &Healthcheck) -> Option<HealthTest> {
    let command: Vec<OsString> = match of.test.split_first()? {
        (kind, words) if kind == "CMD" && !words.is_empty() => words.iter().map(OsString::from).collect(),
        (kind, [line, ..]) if kind == "CMD-SHELL" => vec!["/bin/sh".into(), "-c".into(), line.into()],
        _ => return None,
    };
    let mut test = HealthTest::new(command);
    // Docker writes 0 for what isn't said.
    let said = |time: Option<Duration>| time.filter(|time| !time.is_zero());
    test.interval = said(of.interval).unwrap_or(test.interval);
    test.timeout = said(of.timeout).unwrap_or(test.timeout);
    test.start_period = of.start_period.unwrap_or(test.start_period);
    test.start_interval = said(of.start_interval).unwrap_or(test.start_interval);
    test.retries = of.retries.filter(|&retries| retries > 0).unwrap_or(test.retries);
    Some(test)
}

/// The TCP ports that an image exposes: `5432`, `5432/tcp`, `8000-8002/tcp`.
fn exposed(config: &ImageConfig) -> Vec<u16> {
    // An image that exposes a range of thousands doesn't listen at each.
    const MOST: usize = 16;
    let mut ports = Vec::new();
    for word in &config.exposed_ports {
        let (range, protocol) = word.split_once('/').unwrap_or((word, "tcp"));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (true, Ok(first), Ok(last)) = (protocol.eq_ignore_ascii_case("tcp"), first.parse::<u16>(), last.parse::<u16>()) {
            ports.extend((first.max(1)..=last).take(MOST));
        }
    }
    ports.sort_unstable();
    ports.dedup();
    ports.truncate(MOST);
    ports
}

/// Entrypoint and command, as docker-run(1) puts them together.
fn command(builder: &ContainerBuilder, config: Option<&ImageConfig>) -> Result<Vec<OsString>, Error> {
    let of_image = |words: fn(&ImageConfig) -> &Vec<String>| {
        config.map(|c| words(c).iter().map(OsString::from).collect::<Vec<_>>()).unwrap_or_default()
    };
    let mut words = builder.entrypoint.clone().unwrap_or_else(|| of_image(|c| &c.entrypoint));
    match (&builder.cmd, &builder.entrypoint) {
        (Some(cmd), _) => words.extend(cmd.iter().cloned()),
        // An entrypoint of one's own doesn't know the image's arguments; arguments of one's own replace them.
        (None, None) if builder.args.is_empty() || words.is_empty() => words.extend(of_image(|c| &c.cmd)),
        _ => {}
    }
    words.extend(builder.args.iter().cloned());
    if words.first().is_none_or(|program| program.is_empty()) {
        let what = "neither the image nor the description names a command".into();
        return Err(Error::Description { problems: vec![Problem { what, remedy: Some("name one with cmd(..)".into()) }] });
    }
    Ok(words)
}

fn environment(builder: &ContainerBuilder, config: Option<&ImageConfig>, hostname: &str) -> Vec<(OsString, OsString)> {
    let mut env: Vec<(OsString, OsString)> = Vec::new();
    if !builder.env_clear {
        env.push(("PATH".into(), PATH.into()));
        env.push(("HOSTNAME".into(), hostname.into()));
        // A line without `=` names nothing; Docker passes it over too.
        for (key, value) in config.iter().flat_map(|c| &c.env).filter_map(|line| line.split_once('=')).filter(|(key, _)| !key.is_empty()) {
            env.push((key.into(), value.into()));
        }
    }
    env.extend(builder.command.env.iter().cloned());
    env
}

/// Programs that want to be PID 1 themselves.
fn is_init(program: &OsStr) -> bool {
    let name = Path::new(program).file_name().unwrap_or_default();
    let known = ["systemd", "tini", "tini-static", "dumb-init", "catatonit", "runit", "runit-init", "s6-svscan", "docker-init"];
    program == OsStr::new("/init") || program == OsStr::new("/sbin/init") || known.iter().any(|k| name == *k)
}

/// The cgroups' plan as the supervisor's.
fn add_cgroups(mut spawn: Spawn, engine: &Engine, plan: coracle_cgroups::Plan) -> Spawn {
    for step in &plan.steps {
        spawn = spawn.effect(match step {
            Step::MakeDir(path) => Effect::MakeDirectory { path: path.clone(), mode: 0o755 },
            Step::Write { path, value, if_missing, .. } => {
                Effect::Write { path: path.clone(), value: value.clone().into_bytes(), optional: *if_missing == IfMissing::Skip }
            }
        });
    }
    if let Some(tree) = plan.into.as_ref().and_then(|main| main.parent()) {
        spawn = spawn.undo(Undo::KillCgroup(tree.to_owned()));
    }
    for path in &plan.remove {
        spawn = spawn.undo(Undo::RemoveCgroup(path.clone()));
    }
    for mount in cgroup_mounts(engine, &plan) {
        spawn = spawn.mount(mount);
    }
    if let Some((cgroup, program)) = plan.device_filter {
        spawn = spawn.effect(Effect::DeviceFilter { cgroup, program });
    }
    spawn.cgroup(CgroupPlacement {
        into: plan.into,
        join: plan.join,
        kill: plan.kill,
        read_at_end: plan.read_at_end.into_iter().map(|(_, path)| path).collect(),
    })
}

/// What programs read their limits from.
fn cgroup_mounts(engine: &Engine, plan: &coracle_cgroups::Plan) -> Vec<Mount> {
    const AT: &str = "/sys/fs/cgroup";
    if plan.into.is_some() && engine.0.hierarchies.version == Version::V2 {
        return vec![Mount::cgroup2(AT)];
    }
    let mut controllers: Vec<&str> = plan
        .enforced
        .iter()
        .filter_map(|enforced| match enforced.control {
            Control::Memory | Control::Swap | Control::MemorySoft => Some("memory"),
            Control::Cpu | Control::CpuWeight => Some("cpu"),
            Control::Pids => Some("pids"),
            Control::Cpuset => Some("cpuset"),
            _ => None,
        })
        .collect();
    controllers.dedup();
    if controllers.is_empty() {
        return Vec::new();
    }
    let mut mounts = vec![Mount::tmpfs(AT, ["mode=755", "size=4k"])];
    // The controllers come later, after the cgroups were joined; by then nothing can be made there any more.
    mounts.extend(controllers.iter().map(|controller| Mount::directory(Path::new(AT).join(controller), 0o755)));
    mounts.push(Mount::read_only_path(AT));
    mounts.extend(controllers.into_iter().map(|controller| Mount::cgroup_v1(controller, Path::new(AT).join(controller))));
    mounts
}
