//! What can go wrong, as sentences; the remedy apart.

use crate::exit::ExitStatus;
use crate::last_words;
use crate::shared::SharedFailure;
use crate::stack::{PartFailure, StackFault};
use crate::wait::WaitFailure;
use coracle_cgroups::Refusal;
use coracle_spawn::{ConnectFault, ExecFault, Left, LogLine};
use std::fmt;
use std::io;
use std::path::PathBuf;

/// One thing that is wrong with a description.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Problem {
    /// What, as a sentence.
    pub what: String,
    /// What to do, where that is known.
    pub remedy: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// What can go wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The description can't be carried out. Nothing was done.
    Description {
        /// All that is wrong.
        problems: Vec<Problem>,
    },
    /// Limits that were asked for and can't be enforced here. Nothing was done.
    Limits {
        /// Each of them, with its reason.
        refused: Vec<Refusal>,
    },
    /// The image couldn't be had.
    Image(coracle_image::Error),
    /// A layer of an image couldn't be unpacked or put together.
    Layers(coracle_layers::Error),
    /// The container couldn't be started; what had been done was taken back.
    Start(coracle_spawn::Error),
    /// The command ended before it was ready.
    NotReady {
        /// How.
        status: ExitStatus,
        /// The last of what it said, where that was kept.
        log: Vec<LogLine>,
    },
    /// There is no such container.
    NoSuchContainer {
        /// What was asked for.
        id: String,
    },
    /// The container belongs to the process that started it, and answers nobody else.
    NotDetached {
        /// Its id.
        id: String,
    },
    /// The engine's own files.
    State {
        /// What was tried.
        attempted: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The container is gone, but not all that was made for it.
    NotRemoved {
        /// What is left, and why.
        left: Vec<Left>,
    },
    /// Nothing was connected to a port or socket inside.
    Connect {
        /// What was to be: `port 5432`, or a path.
        to: String,
        /// Why it isn't.
        fault: ConnectFault,
    },
    /// The container isn't ready: it ended before it was, or its time was up.
    Wait(Box<WaitFailure>),
    /// Files of a container couldn't be read or written.
    Copy {
        /// What was tried, on what: `copy to /etc/app.conf in the container`.
        attempted: String,
        /// Why it failed.
        source: io::Error,
    },
    /// A terminal, this process's own or a container's.
    Terminal {
        /// What was tried.
        attempted: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The supervisor was killed, and the container with it: how it ended isn't known.
    Lost,
    /// The container doesn't run.
    NotRunning {
        /// Its id.
        id: String,
    },
    /// The container goes when it ends, so it can't be started again, and has no name that could be changed.
    NotKept {
        /// Its id.
        id: String,
    },
    /// Another container has this name.
    NameTaken {
        /// The name.
        name: String,
        /// Whose it is.
        id: String,
    },
    /// Control groups of a container that runs.
    Cgroups(coracle_cgroups::Error),
    /// What the container says isn't kept.
    NoLog {
        /// Its id.
        id: String,
    },
    /// A network couldn't be made, or a port not be published.
    Network(coracle_netns::Error),
    /// The container that is [shared](crate::ContainerBuilder::shared) couldn't be started by the process that this one waited for.
    Shared(Box<SharedFailure>),
    /// A stack that can't be put together. Nothing was started.
    Stack {
        /// All that is wrong.
        faults: Vec<StackFault>,
    },
    /// A part of a stack failed, and the stack was ended.
    Part(Box<PartFailure>),
    /// There is no network of this name.
    NoSuchNetwork {
        /// What was asked for.
        name: String,
    },
    /// There is no volume of this name.
    NoSuchVolume {
        /// What was asked for.
        name: String,
    },
    /// A volume is to be removed that containers have.
    VolumeInUse {
        /// Its name.
        name: String,
        /// Their ids, where they are known.
        containers: Vec<String>,
    },
    /// A volume can't be held to a size.
    VolumeSize {
        /// Its name.
        name: String,
        /// In bytes.
        size: u64,
        /// Why not.
        why: String,
    },
    /// Containers are in a network that is to be removed.
    NetworkInUse {
        /// Its name.
        name: String,
        /// Their addresses.
        addresses: Vec<std::net::IpAddr>,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Description { problems } => join(f, problems),
            Self::Limits { refused } => join(f, refused),
            Self::Image(error) => error.fmt(f),
            Self::Layers(error) => error.fmt(f),
            Self::Start(error) => error.fmt(f),
            Self::NotReady { status, log } => {
                write!(f, "the command ended before it was ready: {status}")?;
                if !log.is_empty() {
                    f.write_str("; the last that it said:")?;
                }
                log.iter().try_for_each(|line| write!(f, "\n  {}", last_words::plain(&line.bytes)))
            }
            Self::NotRunning { id } => write!(f, "the container {id} doesn't run"),
            Self::NotKept { id } => write!(f, "the container {id} goes when it ends: it can't be started again or renamed"),
            Self::NameTaken { name, id } => write!(f, "the name {name} is taken by the container {id}"),
            Self::Cgroups(error) => error.fmt(f),
            Self::NoLog { id } => write!(f, "what the container {id} says isn't kept"),
            Self::NoSuchContainer { id } => write!(f, "no container {id} is here"),
            Self::NotDetached { id } => write!(f, "the container {id} answers only the program that started it: it isn't detached"),
            Self::State { attempted, path, source } => write!(f, "can't {attempted} {}: {source}", path.display()),
            Self::NotRemoved { left } => {
                write!(f, "the container is gone, but these couldn't be removed:")?;
                left.iter().try_for_each(|left| write!(f, " {} ({})", left.path.display(), left.error))
            }
            Self::Connect { to, fault } => write!(f, "can't connect to {to} inside the container: {fault}"),
            Self::Wait(failure) => failure.fmt(f),
            Self::Copy { attempted, source } => write!(f, "can't {attempted}: {source}"),
            Self::Terminal { attempted, source } => write!(f, "can't {attempted} the terminal: {source}"),
            Self::Lost => coracle_spawn::Error::Lost.fmt(f),
            Self::Network(error) => error.fmt(f),
            Self::Shared(failure) => failure.fmt(f),
            Self::Stack { faults } => join(f, faults),
            Self::Part(failure) => failure.fmt(f),
            Self::NoSuchNetwork { name } => write!(f, "there is no network {name}"),
            Self::NoSuchVolume { name } => write!(f, "there is no volume {name}"),
            Self::VolumeInUse { name, containers } if containers.is_empty() => write!(f, "the volume {name} is in use"),
            Self::VolumeInUse { name, containers } => write!(f, "the volume {name} is in use: {}", containers.join(" ")),
            Self::VolumeSize { name, size, why } => write!(f, "can't hold the volume {name} to {size} bytes: {why}"),
            Self::NetworkInUse { name, addresses } => {
                write!(f, "containers are in the network {name}:")?;
                addresses.iter().try_for_each(|address| write!(f, " {address}"))
            }
        }
    }
}

fn join(f: &mut fmt::Formatter<'_>, items: &[impl fmt::Display]) -> fmt::Result {
    for (i, item) in items.iter().enumerate() {
        write!(f, "{}{item}", if i == 0 { "" } else { "; " })?;
    }
    Ok(())
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Image(error) => error.source(),
            Self::Layers(error) => error.source(),
            Self::Start(error) => error.source(),
            Self::State { source, .. } | Self::Copy { source, .. } | Self::Terminal { source, .. } => Some(source),
            Self::Network(error) => error.source(),
            Self::Cgroups(error) => error.source(),
            _ => None,
        }
    }
}

impl From<coracle_cgroups::Error> for Error {
    fn from(error: coracle_cgroups::Error) -> Self {
        match error {
            coracle_cgroups::Error::Refused(refused) => Self::Limits { refused },
            error => Self::Cgroups(error),
        }
    }
}

impl From<coracle_image::Error> for Error {
    fn from(error: coracle_image::Error) -> Self {
        Self::Image(error)
    }
}

impl From<coracle_layers::Error> for Error {
    fn from(error: coracle_layers::Error) -> Self {
        Self::Layers(error)
    }
}

impl From<coracle_netns::Error> for Error {
    fn from(error: coracle_netns::Error) -> Self {
        Self::Network(error)
    }
}

impl From<coracle_spawn::Error> for Error {
    fn from(error: coracle_spawn::Error) -> Self {
        match error {
            coracle_spawn::Error::Lost => Self::Lost,
            coracle_spawn::Error::Connect { to, fault } => Self::Connect { to, fault },
            coracle_spawn::Error::Invalid { problems } => {
                Self::Description { problems: problems.into_iter().map(|what| Problem { what, remedy: None }).collect() }
            }
            error => Self::Start(error),
        }
    }
}

impl Error {
    /// What to do about it, where that is known; one remedy a line where there are several.
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Description { problems } => lines(problems.iter().filter_map(|p| p.remedy.clone())),
            Self::Limits { refused } => {
                let controls: Vec<_> = refused.iter().map(|r| format!(".best_effort(Control::{:?})", r.control)).collect();
                let known = refused.iter().filter_map(|refusal| match refusal.reason {
                    coracle_cgroups::Reason::ProcessesInTheWay { .. } => Some(
                        "let the engine move the processes of this cgroup into a leaf of it: Engine::builder().make_room(true)".into(),
                    ),
                    _ => refusal.remedy(),
                });
                lines(known.chain([format!("or go on without: {}", controls.concat())]))
            }
            // The image crate's remedy names its own setter, which a container's description doesn't have.
            Self::Image(coracle_image::Error::NoSuchPlatform { available, .. }) if !available.is_empty() => {
                Some("choose an image that is there for this machine".into())
            }
            Self::Image(coracle_image::Error::InUse { image, .. }) if image.starts_with("snapshot ") => {
                Some("stop those containers first, and remove the snapshots on it".into())
            }
            Self::Image(error) => error.remedy(),
            Self::Layers(error) => error.remedy(),
            Self::Start(coracle_spawn::Error::Step { step, errno: 22, .. }) if step.contains("overlay") => Some(
                "keep images and containers on a file system that can hold an overlay's upper directory (not overlayfs, not NFS): CORACLE_ROOT or Engine::builder().root(..)"
                    .into(),
            ),
            Self::Start(error) => error.remedy(),
            Self::Connect { to, fault } => coracle_spawn::Error::Connect { to: to.clone(), fault: fault.clone() }.remedy(),
            Self::Network(error) => error.remedy(),
            Self::Shared(failure) => failure.remedy.clone(),
            Self::Part(failure) => failure.remedy.clone(),
            Self::NoSuchNetwork { name } => Some(format!("make it: coracle network create {name}, or Engine::create_network")),
            Self::NoSuchVolume { .. } => Some("`coracle volume ls` lists those that are here".into()),
            Self::VolumeInUse { .. } => Some("remove those containers first: `coracle ps -a` lists them".into()),
            Self::VolumeSize { .. } => Some(
                "as root, keep volumes on ext4 or XFS mounted with prjquota; or bound what is kept in memory: Mount::tmpfs(..).size(..)".into(),
            ),
            Self::NetworkInUse { .. } => Some("end them first: `coracle ps` lists containers".into()),
            Self::NotReady { .. } => Some("to run a command to its end and see what it said, use output() and not run()".into()),
            Self::NoSuchContainer { .. } => Some("`coracle ps -a` lists those that are here".into()),
            Self::NotDetached { .. } => {
                Some("detach it there by Container::detach(), or start it detached: coracle run -d".into())
            }
            Self::State { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("choose a directory of your own: Engine::builder().root(..), --root DIR, or CORACLE_ROOT".into())
            }
            Self::NotRunning { .. } => Some("start it: Container::start(), coracle start".into()),
            Self::NotKept { .. } => Some("make it by create() or run_detached(..), by which a container stays".into()),
            Self::NameTaken { .. } => Some("take another name, or remove or rename that one".into()),
            Self::Cgroups(error) => error.remedy(),
            Self::NoLog { .. } => Some("start it with .stdout(Stdio::log()).stderr(Stdio::log()), as run() does by itself".into()),
            Self::Wait(failure) if failure.status.is_some() => Some("its own words say why it ended, or `coracle run` of the same".into()),
            Self::Wait(_) => Some("allow more time: startup_timeout(..); or wait for something else: wait(Wait::running())".into()),
            Self::Copy { source, .. } => match source.kind() {
                io::ErrorKind::ReadOnlyFilesystem => Some("mount something writable there: Mount::tmpfs(..), --tmpfs".into()),
                io::ErrorKind::FileTooLarge => Some("allow more: max_bytes(..)".into()),
                io::ErrorKind::InvalidInput => Some("name an owner that the container has: a plain user's has those of its sub-ids".into()),
                _ => None,
            },
            Self::State { .. } | Self::NotRemoved { .. } | Self::Stack { .. } | Self::Terminal { .. } | Self::Lost => None,
        }
    }

    /// What docker-run(1) would exit with: 127 for a command that isn't there, 126 for one that can't be executed, else 125.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(coracle_spawn::Error::Exec { fault, .. }) => match fault {
                ExecFault::NotFound { .. } | ExecFault::MissingInterpreter { .. } => 127,
                _ => 126,
            },
            _ => 125,
        }
    }
}

/// Several remedies, each once.
fn lines(remedies: impl Iterator<Item = String>) -> Option<String> {
    let mut all: Vec<String> = Vec::new();
    for remedy in remedies {
        if !all.contains(&remedy) {
            all.push(remedy);
        }
    }
    (!all.is_empty()).then(|| all.join("\n"))
}
