//! How far a container's program is trusted, in one word, and all that the word implies.

use crate::builder::ContainerBuilder;
use crate::error::{Error, Problem};
use crate::mount::Mount;
use crate::network::Kind;
use crate::seccomp::Seccomp;
use coracle_spawn::{Resource, Rlimit};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// How far the program in a container is trusted. [`Display`](fmt::Display) prints all that it implies.
///
/// ```
/// use coracle_container::Preset;
/// assert!(Preset::Untrusted.to_string().contains("no network"));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Preset {
    /// One's own program, to be looked into: debuggers and tracers work.
    Trusted,
    /// What Docker gives a container.
    Default,
    /// A program of somebody else's: generated code, a stranger's submission.
    Untrusted,
    /// A program that is known to want out or to do harm.
    Hostile,
}

/// What the two that trust nobody imply.
struct Distrust {
    tmp: &'static str,
    shm: &'static str,
    pids: u64,
    cpus: f64,
    output: Option<&'static str>,
    open_files: u64,
    seccomp: fn() -> Seccomp,
}

const UNTRUSTED: Distrust =
    Distrust { tmp: "64m", shm: "16m", pids: 128, cpus: 1.0, output: None, open_files: 1024, seccomp: Seccomp::strict };
const HOSTILE: Distrust =
    Distrust { tmp: "16m", shm: "1m", pids: 32, cpus: 1.0, output: Some("1m"), open_files: 256, seccomp: Seccomp::deadly };

/// uid and gid of nobody.
const NOBODY: &str = "65534:65534";

impl Preset {
    const ALL: [(Preset, &'static str); 4] =
        [(Self::Trusted, "trusted"), (Self::Default, "default"), (Self::Untrusted, "untrusted"), (Self::Hostile, "hostile")];

    /// Its name, as `--preset` takes it.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(preset, _)| *preset == self).map_or("", |(_, name)| name)
    }

    /// Each thing that it implies.
    pub fn implies(self) -> Vec<String> {
        let lines: &[&str] = match self {
            Self::Trusted => &[
                "Docker's capabilities and SYS_PTRACE",
                "no system call filter",
                "masked and read-only paths, devices and namespaces as every container's",
            ],
            Self::Default => &[
                "Docker's fourteen capabilities",
                "Docker's system call filter",
                "masked and read-only paths, devices and namespaces as every container's",
                "no network unless one is named",
            ],
            Self::Untrusted => return UNTRUSTED.implies("a call that it refuses fails with EPERM"),
            Self::Hostile => return HOSTILE.implies("who asks for what it leaves out beyond Docker's is killed"),
        };
        lines.iter().map(ToString::to_string).collect()
    }

    fn distrust(self) -> Option<&'static Distrust> {
        match self {
            Self::Trusted | Self::Default => None,
            Self::Untrusted => Some(&UNTRUSTED),
            Self::Hostile => Some(&HOSTILE),
        }
    }
}

impl Distrust {
    fn implies(&self, answer: &str) -> Vec<String> {
        let mut lines = vec![
            "no network".to_owned(),
            "a read-only root".to_owned(),
            format!("a /tmp of its own of {}, a /dev/shm of {}", self.tmp, self.shm),
            "the user nobody (65534), unless another is named".to_owned(),
            "no capabilities, no_new_privs".to_owned(),
            format!("a strict system call filter for one ABI: {answer}"),
            format!(
                "at most {} processes, {} processor, {} open files each, unless others are named",
                self.pids, self.cpus, self.open_files
            ),
        ];
        lines.extend(self.output.map(|most| format!("at most {most} of output, unless another limit is named")));
        lines.push("a limit on memory is required, and one on time: wall clock or processor".to_owned());
        lines
    }
}

impl fmt::Display for Preset {
    /// Its name, and a line for each thing that it implies.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.implies().iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A text that names no preset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnknownPreset(String);

impl fmt::Display for UnknownPreset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = Preset::ALL.map(|(_, name)| name).join(", ");
        write!(f, "{:?} is no preset: there are {names}", self.0)
    }
}

impl std::error::Error for UnknownPreset {}

impl FromStr for Preset {
    type Err = UnknownPreset;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.iter().find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(preset, _)| *preset).ok_or_else(|| UnknownPreset(text.to_owned()))
    }
}

impl<Face> ContainerBuilder<Face> {
    /// How far its program is trusted; printing the preset tells what that implies. What is said beside it and contradicts it is an error, and so is
    /// a limit that it requires and nobody sets.
    pub fn preset(mut self, preset: Preset) -> Self {
        self.security.preset = Some(preset);
        self
    }
}

/// The description with all that its preset implies. Doing it twice is doing it once.
pub(crate) fn settled(mut builder: ContainerBuilder) -> Result<ContainerBuilder, Error> {
    match builder.security.preset {
        None | Some(Preset::Default) => Ok(builder),
        Some(Preset::Trusted) => {
            let traces = (true, "SYS_PTRACE".to_owned());
            if !builder.capabilities.contains(&traces) {
                builder.capabilities.push(traces);
            }
            if builder.security.seccomp == Seccomp::default() {
                builder.security.seccomp = Seccomp::unconfined();
            }
            Ok(builder)
        }
        Some(preset) => match preset.distrust() {
            Some(distrust) => distrust.settle(builder, preset.name()),
            None => Ok(builder),
        },
    }
}

impl Distrust {
    fn settle(&self, mut builder: ContainerBuilder, name: &str) -> Result<ContainerBuilder, Error> {
        let problems = self.contradictions(&builder, name);
        if !problems.is_empty() {
            return Err(Error::Description { problems });
        }
        builder.networks.clear();
        builder.read_only_rootfs = true;
        builder.user.get_or_insert_with(|| NOBODY.into());
        builder.capabilities = vec![(false, "ALL".into())];
        builder.pids.get_or_insert(self.pids);
        builder.cpus.get_or_insert(self.cpus);
        let security = &mut builder.security;
        security.no_new_privileges = true;
        if security.seccomp == Seccomp::default() {
            security.seccomp = (self.seccomp)();
        }
        security.shm_size.get_or_insert_with(|| self.shm.into());
        if let (Some(most), None) = (self.output, &builder.output_limit) {
            builder.output_limit = Some(most.into());
        }
        if !builder.mounts.iter().any(|mount| mount.target == Path::new("/tmp")) {
            builder.mounts.push(Mount::tmpfs("/tmp").size(self.tmp));
        }
        for (resource, most) in [(Resource::Nofile, self.open_files), (Resource::Core, 0)] {
            if !builder.rlimits.iter().any(|limit| limit.resource == resource) {
                builder.rlimits.push(Rlimit { resource, soft: most, hard: most });
            }
        }
        Ok(builder)
    }

    fn contradictions(&self, builder: &ContainerBuilder, name: &str) -> Vec<Problem> {
        let security = &builder.security;
        let adds = builder.capabilities.iter().any(|(add, _)| *add);
        let network = builder.networks.iter().any(|network| network.kind != Kind::None) || !builder.publish.is_empty();
        let wrong = [
            (network, "has no network, and one is asked for"),
            (adds, "has no capabilities, and some are asked for"),
            (security.privileged, "is anything but privileged"),
            (security.seccomp == Seccomp::unconfined(), "has a system call filter, and none is asked for"),
            (security.shares_processes() || security.shares_host_name() || security.shares_ipc(), "has all namespaces of its own"),
            (security.has_devices(), "has no devices of this host's, and some are asked for"),
        ];
        let mut problems: Vec<Problem> = wrong
            .iter()
            .filter(|(wrong, _)| *wrong)
            .map(|(_, why)| Problem {
                what: format!("the preset {name} {why}"),
                remedy: Some("leave that out, or describe the container without a preset".into()),
            })
            .collect();
        let mut required = |missing: bool, what: &str, remedy: &str| {
            if missing {
                problems.push(Problem { what: format!("the preset {name} requires a limit on {what}"), remedy: Some(remedy.into()) });
            }
        };
        required(builder.memory.is_none(), "memory", "name one: .memory(\"64m\"), --memory 64m");
        let time = builder.wall.is_none() && builder.cpu_time.is_none();
        required(time, "time", "name one: .wall(Duration::from_secs(10)) or .cpu_time(..), --timeout 10s or --cpu-time");
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::Container;
    use std::time::Duration;

    #[test]
    fn each_prints_what_it_implies_and_is_found_by_its_name() {
        for (preset, name) in Preset::ALL {
            assert_eq!(name.parse(), Ok(preset));
            let text = preset.to_string();
            assert!(text.starts_with(&format!("{name}\n  ")) && text.lines().count() > 3, "{text}");
        }
        assert!("cruel".parse::<Preset>().unwrap_err().to_string().contains("trusted, default, untrusted, hostile"));
    }

    #[test]
    fn what_a_preset_requires_and_what_contradicts_it_is_told_at_once() {
        let bare = Container::from_rootfs("/").cmd(["true"]).preset(Preset::Untrusted).cap_add("KILL").network(crate::Network::host());
        let Err(Error::Description { problems }) = settled(bare) else { panic!("it is accepted") };
        let all: Vec<_> = problems.iter().map(|problem| problem.what.as_str()).collect();
        assert_eq!(
            all,
            [
                "the preset untrusted has no network, and one is asked for",
                "the preset untrusted has no capabilities, and some are asked for",
                "the preset untrusted requires a limit on memory",
                "the preset untrusted requires a limit on time",
            ]
        );
        assert!(problems.iter().all(|problem| problem.remedy.is_some()));
    }

    #[test]
    fn settling_twice_is_settling_once() {
        for (preset, _) in Preset::ALL {
            let builder = Container::from_rootfs("/").cmd(["true"]).preset(preset).memory("64m").wall(Duration::from_secs(1));
            let once = settled(builder).unwrap();
            let twice = settled(once.clone()).unwrap();
            assert_eq!(format!("{once:?}"), format!("{twice:?}"));
        }
    }
}
