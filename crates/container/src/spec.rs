//! A description as it is kept on disk, so that any later process can start the container again.
//!
//! What an image said is in it already: the same files, words and variables come back, whatever the image's name means by then.

use crate::builder::{ContainerBuilder, Health, Source};
use crate::error::Problem;
use crate::limits::MemorySize;
use crate::mount::{Kind as MountKind, Mount, Owner};
use crate::network::{Kind as NetworkKind, Network};
use crate::resources::Resources;
use crate::security::Security;
use crate::volume::{Lasts, Volume, Wish};
use coracle_cgroups::Control;
use coracle_spawn::{HealthTest, Rlimit};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

/// Members may be added; none changes its meaning.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Spec {
    /// A directory of the host that is the root, or else the layers, topmost first.
    rootfs: Option<PathBuf>,
    #[serde(default)]
    layers: Vec<PathBuf>,
    pub(crate) image: String,
    pub(crate) words: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) workdir: Option<String>,
    pub(crate) user: Option<String>,
    pub(crate) stop_signal: String,
    pub(crate) hostname: Option<String>,
    pub(crate) mounts: Vec<KeptMount>,
    pub(crate) read_only_rootfs: bool,
    pub(crate) memory: Option<u64>,
    pub(crate) cpus: Option<f64>,
    pub(crate) pids: Option<u64>,
    pub(crate) rlimits: Vec<String>,
    pub(crate) capabilities: Vec<(bool, String)>,
    pub(crate) init: Option<bool>,
    pub(crate) log_size: Option<u64>,
    pub(crate) output_limit: Option<u64>,
    /// Milliseconds.
    pub(crate) wall: Option<u64>,
    pub(crate) idle_timeout: Option<u64>,
    /// Microseconds.
    pub(crate) cpu_time: Option<u64>,
    pub(crate) network: String,
    pub(crate) best_effort: Vec<String>,
    pub(crate) labels: BTreeMap<String, String>,
    /// Networks that have a name, or that are another container's.
    #[serde(default)]
    networks: Vec<KeptNetwork>,
    /// As docker-run(1) writes them, and whether on all addresses of this host.
    #[serde(default)]
    publish: Vec<(String, bool)>,
    #[serde(default)]
    hosts: Vec<(String, String)>,
    /// Servers, search domains, options.
    #[serde(default)]
    dns: [Vec<String>; 3],
    #[serde(default)]
    health: Option<KeptHealth>,
    #[serde(default)]
    security: Security,
    #[serde(default)]
    pub(crate) resources: Resources,
    /// Of output and error: whether they go to the log.
    streams: [bool; 2],
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptNetwork {
    /// `name:NAME` or `container:ID`.
    which: String,
    address: Option<String>,
    #[serde(default)]
    address6: Option<String>,
    mac: Option<String>,
    #[serde(default)]
    aliases: Vec<String>,
}

impl KeptNetwork {
    fn new(network: &Network) -> Option<Result<Self, Problem>> {
        let which = match &network.kind {
            NetworkKind::None | NetworkKind::Host => return None,
            NetworkKind::Named(name) => format!("name:{name}"),
            NetworkKind::Container(id) => format!("container:{id}"),
            NetworkKind::Private(_) | NetworkKind::Shared(..) => {
                let what = "a container that stays when it has ended can't be in a network that goes with its handle".into();
                let remedy = Some("make one with a name, Engine::create_network, and Network::named(name); or run() the container".into());
                return Some(Err(Problem { what, remedy }));
            }
        };
        let Network { address, address6, mac, aliases, .. } = network.clone();
        Some(Ok(Self { which, address, address6, mac, aliases }))
    }

    fn network(&self) -> Option<Network> {
        let network = match self.which.split_once(':')? {
            ("name", name) => Network::named(name),
            ("container", id) => Network::container(id),
            _ => return None,
        };
        let Self { address, address6, mac, aliases, .. } = self.clone();
        Some(Network { address, address6, mac, aliases, ..network })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptMount {
    /// None for a tmpfs.
    pub(crate) source: Option<PathBuf>,
    pub(crate) target: PathBuf,
    pub(crate) read_only: bool,
    size: Option<String>,
    mode: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) volume: Option<Wish>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) image: Option<KeptImage>,
    /// Whether its files are the caller's.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    caller: bool,
}

/// An image that is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeptImage {
    pub(crate) reference: String,
    /// Topmost first.
    layers: Vec<PathBuf>,
}

impl KeptMount {
    fn new(mount: &Mount) -> Self {
        let mut kept = Self {
            source: None,
            target: mount.target.clone(),
            read_only: mount.read_only,
            size: None,
            mode: 0,
            volume: None,
            image: None,
            caller: false,
        };
        match &mount.kind {
            MountKind::Bind { source, owner } => {
                kept.source = Some(std::path::absolute(source).unwrap_or_else(|_| source.clone()));
                kept.caller = *owner == Owner::Caller;
            }
            MountKind::Tmpfs { size, mode } => (kept.size, kept.mode) = (size.clone(), *mode),
            MountKind::Volume(Volume(wish)) => kept.volume = Some(wish.clone()),
            MountKind::Image { reference, layers } => {
                kept.image = Some(KeptImage { reference: reference.clone(), layers: layers.clone() });
            }
        }
        kept
    }

    /// What it is called by docker-inspect(1).
    pub(crate) fn word(&self) -> &'static str {
        match (&self.source, &self.volume, &self.image) {
            (Some(_), ..) => "bind",
            (_, Some(_), _) => "volume",
            (.., Some(_)) => "image",
            _ => "tmpfs",
        }
    }

    fn mount(&self) -> Mount {
        let kind = match (&self.source, &self.volume, &self.image) {
            (Some(source), ..) => {
                let owner = if self.caller { Owner::Caller } else { Owner::Same };
                MountKind::Bind { source: source.clone(), owner }
            }
            (_, Some(wish), _) => MountKind::Volume(Volume(wish.clone())),
            (.., Some(image)) => MountKind::Image { reference: image.reference.clone(), layers: image.layers.clone() },
            _ => MountKind::Tmpfs { size: self.size.clone(), mode: self.mode },
        };
        Mount { kind, target: self.target.clone(), read_only: self.read_only }
    }
}

/// What an image and a description come to together.
pub(crate) struct Resolved {
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) image: String,
    pub(crate) words: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) workdir: Option<PathBuf>,
    pub(crate) user: Option<OsString>,
    pub(crate) stop_signal: String,
    pub(crate) health: Option<HealthTest>,
    pub(crate) exposed: Vec<u16>,
}

/// A health test; times in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct KeptHealth {
    command: Vec<String>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u32,
}

impl KeptHealth {
    fn new(test: &HealthTest) -> Result<Self, Problem> {
        let time = |time: Duration| number(Some(time), Duration::as_millis).unwrap_or_default();
        Ok(Self {
            command: test.command.iter().map(|word| text(word)).collect::<Result<_, _>>()?,
            interval: time(test.interval),
            timeout: time(test.timeout),
            start_period: time(test.start_period),
            start_interval: time(test.start_interval),
            retries: test.retries,
        })
    }

    fn test(&self) -> HealthTest {
        let mut test = HealthTest::new(&self.command);
        test.interval = Duration::from_millis(self.interval);
        test.timeout = Duration::from_millis(self.timeout);
        test.start_period = Duration::from_millis(self.start_period);
        test.start_interval = Duration::from_millis(self.start_interval);
        test.retries = self.retries;
        test
    }
}

fn text(word: &OsStr) -> Result<String, Problem> {
    word.to_str().map(str::to_owned).ok_or_else(|| Problem { what: format!("{word:?} isn't UTF-8, and can't be kept"), remedy: None })
}

fn number(time: Option<Duration>, unit: fn(&Duration) -> u128) -> Option<u64> {
    time.map(|time| u64::try_from(unit(&time)).unwrap_or(u64::MAX))
}

impl Spec {
    /// Of a description that was checked.
    pub(crate) fn new(builder: &ContainerBuilder, resolved: Resolved) -> Result<Self, Problem> {
        let size = |size: &Option<MemorySize>| size.as_ref().and_then(|size| size.bytes().ok());
        let rootfs = match &builder.source {
            Source::Rootfs(path) => Some(path.canonicalize().unwrap_or_else(|_| path.clone())),
            _ => None,
        };
        let limit = |limit: &Rlimit| {
            let number = |n: u64| if n == u64::MAX { "-1".to_owned() } else { n.to_string() };
            format!("{}={}:{}", limit.resource, number(limit.soft), number(limit.hard))
        };
        let host = builder.networks.iter().any(|network| network.kind == NetworkKind::Host);
        let network = if host { "host" } else { "none" };
        let logged = |stdio: &Option<crate::stdio::Stdio>| stdio.as_ref().is_none_or(|stdio| stdio.is_log());
        Ok(Self {
            rootfs,
            layers: resolved.layers,
            image: resolved.image,
            words: resolved.words.iter().map(|word| text(word)).collect::<Result<_, _>>()?,
            env: resolved.env.iter().map(|(key, value)| Ok((text(key)?, text(value)?))).collect::<Result<_, Problem>>()?,
            workdir: resolved.workdir.as_ref().map(|path| text(path.as_os_str())).transpose()?,
            user: resolved.user.as_ref().map(|user| text(user)).transpose()?,
            stop_signal: resolved.stop_signal,
            hostname: builder.hostname.clone(),
            mounts: builder.mounts.iter().map(KeptMount::new).collect(),
            read_only_rootfs: builder.read_only_rootfs,
            memory: size(&builder.memory),
            cpus: builder.cpus,
            pids: builder.pids,
            rlimits: builder.rlimits.iter().map(limit).collect(),
            capabilities: builder.capabilities.clone(),
            init: builder.init,
            log_size: size(&builder.log_size),
            output_limit: size(&builder.output_limit),
            wall: number(builder.wall, Duration::as_millis),
            idle_timeout: number(builder.idle_timeout, Duration::as_millis),
            cpu_time: number(builder.cpu_time, Duration::as_micros),
            network: network.into(),
            best_effort: builder.best_effort.iter().map(Control::to_string).collect(),
            labels: builder.labels.clone(),
            networks: builder.networks.iter().filter_map(KeptNetwork::new).collect::<Result<_, _>>()?,
            publish: builder.publish.iter().map(crate::publish::Publish::kept).collect(),
            hosts: builder.hosts.clone(),
            health: resolved.health.as_ref().map(KeptHealth::new).transpose()?,
            security: builder.security.clone(),
            resources: builder.resources.clone(),
            dns: [builder.dns.servers.clone(), builder.dns.search.clone(), builder.dns.options.clone()],
            streams: [logged(&builder.command.stdout), logged(&builder.command.stderr)],
        })
    }

    /// The volumes that it has and that have a name by now.
    pub(crate) fn volumes(&self) -> Vec<String> {
        self.mounts.iter().filter_map(|mount| mount.volume.as_ref()?.name.clone()).collect()
    }

    /// Those that go with it.
    pub(crate) fn own_volumes(&self) -> Vec<String> {
        let own = |mount: &KeptMount| mount.volume.clone().filter(|wish| wish.lasts == Lasts::AsLongAsTheContainer)?.name;
        self.mounts.iter().filter_map(own).collect()
    }

    /// The description that comes to the same.
    pub(crate) fn builder(&self) -> Result<ContainerBuilder, Problem> {
        let unknown = |what: &str, word: &str| Problem {
            what: format!("the container was made by another version of Coracle, with {what} {word:?}"),
            remedy: Some("start it with that version".into()),
        };
        let source = match &self.rootfs {
            Some(path) => Source::Rootfs(path.clone()),
            None => Source::Layers { layers: self.layers.clone(), image: self.image.clone(), stop_signal: self.stop_signal.clone() },
        };
        let mut builder = ContainerBuilder::new(source).entrypoint(Vec::<OsString>::new()).cmd(&self.words).env_clear();
        builder = builder.envs(self.env.iter().map(|(key, value)| (key, value)));
        builder.workdir = self.workdir.as_ref().map(PathBuf::from);
        builder.user = self.user.as_ref().map(OsString::from);
        builder.hostname = self.hostname.clone();
        builder.mounts.extend(self.mounts.iter().map(KeptMount::mount));
        builder.read_only_rootfs = self.read_only_rootfs;
        builder.memory = self.memory.map(Into::into);
        builder.cpus = self.cpus;
        builder.pids = self.pids;
        for word in &self.rlimits {
            builder.rlimits.push(word.parse().map_err(|_| unknown("the resource limit", word))?);
        }
        builder.capabilities = self.capabilities.clone();
        builder.init = self.init;
        builder.log_size = self.log_size.map(Into::into);
        builder.output_limit = self.output_limit.map(Into::into);
        builder.wall = self.wall.map(Duration::from_millis);
        builder.idle_timeout = self.idle_timeout.map(Duration::from_millis);
        builder.cpu_time = self.cpu_time.map(Duration::from_micros);
        builder.networks = match &self.network[..] {
            "none" => Vec::new(),
            "host" => vec![Network::host()],
            other => return Err(unknown("the network", other)),
        };
        for kept in &self.networks {
            builder.networks.push(kept.network().ok_or_else(|| unknown("the network", &kept.which))?);
        }
        builder.publish = self.publish.iter().map(crate::publish::Publish::from_kept).collect();
        builder.health = match &self.health {
            Some(test) => Health::Test(test.test()),
            None => Health::None,
        };
        builder.security = self.security.clone();
        builder.resources = self.resources.clone();
        builder.hosts = self.hosts.clone();
        let [servers, search, options] = self.dns.clone();
        builder.dns = crate::names::Dns { servers, search, options };
        for word in &self.best_effort {
            builder.best_effort.push(*Control::ALL.iter().find(|c| c.to_string() == *word).ok_or_else(|| unknown("the limit", word))?);
        }
        builder.labels = self.labels.clone();
        let stream = |logged| if logged { crate::stdio::Stdio::log() } else { crate::stdio::Stdio::null() };
        builder.command.stdout = Some(stream(self.streams[0]));
        builder.command.stderr = Some(stream(self.streams[1]));
        Ok(builder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Container;
    use crate::stdio::Stdio;

    #[test]
    fn a_description_comes_back_as_it_was_kept() {
        let builder = Container::from_rootfs("/")
            .cmd(["sh", "-c", "true"])
            .env("K", "v=1")
            .workdir("/w")
            .user("1:2")
            .hostname("h")
            .mount(Mount::bind("/a", "/b").read_only())
            .mount(Mount::tmpfs("/t").size("1m").mode(0o700))
            .mount(Mount::bind("/c", "/d").owner(Owner::Caller))
            .mount(Mount::volume(Volume::named("v").owner(7, 8).mode(0o700).size("1g").label("k", "w"), "/v").no_copy())
            .mount(Mount::volume(Volume::ephemeral(), "/e"))
            .mount(Mount::image("debian:12", "/i"))
            .read_only_rootfs(true)
            .memory("64m")
            .cpus(0.5)
            .pids(9)
            .rlimit("nofile=10:20".parse().unwrap())
            .rlimit("core=-1".parse().unwrap())
            .cap_add("NET_ADMIN")
            .cap_drop("ALL")
            .init(false)
            .log_size("1m")
            .wall(Duration::from_millis(1500))
            .cpu_time(Duration::from_micros(7))
            .output_limit(5)
            .idle_timeout(Duration::from_secs(3))
            .network(Network::host())
            .label("a", "b")
            .best_effort(Control::CpuTime)
            .stderr(Stdio::null());
        let resolved = || Resolved {
            layers: Vec::new(),
            image: "/".into(),
            words: vec!["sh".into(), "-c".into(), "true".into()],
            env: vec![("K".into(), "v=1".into())],
            workdir: Some("/w".into()),
            user: Some("1:2".into()),
            stop_signal: "15".into(),
            health: Some(HealthTest::new(["test", "-e", "/f"])),
            exposed: Vec::new(),
        };
        let ports = ["80", "8080:80", "127.0.0.1:53:53/udp", "[::1]:9000-9010:9000-9010", "192.168.1.5::80", "7000-7001:7000-7001"];
        let builder =
            ports.into_iter().fold(builder, |builder, port| builder.publish(port)).publish(crate::Publish::from("81").everywhere());
        let builder = builder
            .network(Network::named("n").address("10.0.0.9").address("fd00::9").alias("db"))
            .network(Network::container("abc"))
            .host("h", "10.0.0.1");
        let spec = Spec::new(&builder, resolved()).unwrap();
        let private = Spec::new(&builder.clone().network(Network::bridge()), resolved()).unwrap_err();
        assert!(private.what.contains("goes with its handle"), "{}", private.what);
        let text = serde_json::to_string(&spec).unwrap();
        let read: Spec = serde_json::from_str(&text).unwrap();
        assert_eq!(read, spec);
        let again = read.builder().unwrap();
        assert_eq!(Spec::new(&again, resolved()).unwrap(), spec);
        for part in ["wall: Some(1.5s)", "cpu_time: Some(7µs)", "pids: Some(9)", "cap", "Tmpfs { size: Some(\"1m\"), mode: 448 }"] {
            assert!(format!("{again:?}").contains(part), "{part}: {again:?}");
        }
        assert_eq!(again.mounts, builder.mounts);
        assert_eq!((&again.publish, &again.networks, &again.hosts), (&builder.publish, &builder.networks, &builder.hosts));
        let later = Spec { network: "bridge:x".into(), ..spec };
        assert!(later.builder().unwrap_err().what.contains("another version"));
    }
}
