//! What lies beside a container for other processes to read, and what state that says it is in.
//!
//! ```text
//!            lock     record   ended
//!  created   free     -        -
//!  running   held     there    -, or of the life before
//!  exited    free     -        there
//!  lost      free     there    -, or empty once that was swept
//! ```

use crate::error::Error;
use crate::exit::{ExitStatus, Usage};
use crate::publish::PublishedPort;
use crate::spec::Spec;
use coracle_cgroups::{Events, Live, Stat};
use coracle_spawn::{ENDED, Ended, KEPT, Record};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The state that a container is in; see docs/states.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum State {
    /// Made, and not started yet.
    Created,
    /// Its command runs.
    Running,
    /// It runs, and all its processes are stopped.
    Paused,
    /// Its command has ended, and its files are there.
    Exited(ExitStatus),
    /// Its supervisor was killed, or the machine went down: how it ended isn't known. Its files are there.
    Lost,
}

impl State {
    /// The word that docker-ps(1) has for it: `created`, `running`, `paused`, `exited`, `dead`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Exited(_) => "exited",
            Self::Lost => "dead",
        }
    }

    /// Whether it has processes.
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

/// A container as others see it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ContainerSummary {
    /// Its id.
    pub id: String,
    /// Its name, if it has one.
    pub name: Option<String>,
    /// What it was made from, as it was written.
    pub image: String,
    /// The command and its arguments.
    pub command: Vec<String>,
    /// When it was made.
    pub created: SystemTime,
    /// When it was started last.
    pub started: Option<SystemTime>,
    /// When it ended, if it has and that is known.
    pub finished: Option<SystemTime>,
    /// The process that made it.
    pub owner: u32,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it lives on without that process, and other processes may [attach](crate::Engine::attach) to it.
    pub detached: bool,
    /// Its ports that are answered on this host.
    pub ports: Vec<PublishedPort>,
    /// Its addresses in private networks.
    pub addresses: Vec<IpAddr>,
    /// Whether it stays when it has ended.
    pub kept: bool,
    /// The state that it is in.
    pub state: State,
}

/// The description in a run directory: in its record while it runs, and in the file `kept` of one that stays. Fields may be added; none
/// changes its meaning.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Description {
    pub(crate) image: String,
    pub(crate) command: Vec<String>,
    /// Seconds since 1970.
    pub(crate) created: u64,
    pub(crate) owner: u32,
    #[serde(default)]
    pub(crate) labels: BTreeMap<String, String>,
    /// The manifest of the image that it was made from.
    #[serde(default)]
    pub(crate) manifest: Option<String>,
    /// The root file system that it was made from.
    #[serde(default)]
    pub(crate) rootfs: Option<PathBuf>,
    /// The snapshots that it was started from, the topmost first, by their ids.
    #[serde(default)]
    pub(crate) snapshots: Vec<String>,
    /// What the caller mounted things on.
    #[serde(default)]
    pub(crate) mount_points: Vec<PathBuf>,
    /// The volumes that it has, in the life that runs.
    #[serde(default)]
    pub(crate) volumes: Vec<String>,
    /// The signal that asks the command to end.
    #[serde(default)]
    pub(crate) stop_signal: Option<String>,
    #[serde(default)]
    pub(crate) ports: Vec<PublishedPort>,
    /// One list a network, IPv4 first.
    #[serde(default)]
    pub(crate) addresses: Vec<Vec<IpAddr>>,
    #[serde(default)]
    pub(crate) name: Option<String>,
    /// The control groups of the life that runs, or of the last.
    #[serde(default)]
    pub(crate) live: String,
    /// Whether it goes when it has ended, though it could be started by others.
    #[serde(default)]
    pub(crate) auto_remove: bool,
    /// How to start it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spec: Option<Spec>,
    /// Whether it is asked for its health.
    #[serde(default)]
    pub(crate) health: bool,
    /// TCP ports that its image exposes.
    #[serde(default)]
    pub(crate) exposed: Vec<u16>,
}

impl Description {
    pub(crate) fn live(&self) -> Live {
        self.live.parse().unwrap_or_default()
    }
}

/// A run directory, read.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) id: String,
    pub(crate) run: PathBuf,
    pub(crate) description: Description,
    pub(crate) kept: bool,
    pub(crate) alive: bool,
}

impl Found {
    /// What is there of a run directory; none for what is none, or another version's.
    pub(crate) fn read(run: &Path) -> Option<Self> {
        let id = run.file_name()?.to_str().filter(|id| !id.starts_with('.'))?.to_owned();
        let kept = std::fs::read(run.join(KEPT)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let (description, kept, alive) = match kept {
            // Who makes one has it locked for a moment, too, without a record.
            Some(description) => (description, true, run.join("record").exists() && coracle_spawn::is_alive(run).ok()?),
            None => {
                let record = Record::read(run).ok()?;
                (serde_json::from_slice(&record.description).ok()?, false, record.alive)
            }
        };
        Some(Self { id, run: run.to_owned(), description, kept, alive })
    }

    /// All below a directory.
    pub(crate) fn all(runs: &Path) -> io::Result<Vec<Self>> {
        Ok(std::fs::read_dir(runs)?.flatten().filter_map(|entry| Self::read(&entry.path())).collect())
    }

    pub(crate) fn state(&self) -> State {
        if self.alive {
            return if self.description.live().is_frozen() { State::Paused } else { State::Running };
        }
        if self.run.join("record").exists() {
            return State::Lost;
        }
        match Ended::read(&self.run.join(ENDED)) {
            Ok(Some(ended)) => State::Exited(verdict(&ended, &self.description.live().stats()).0),
            Err(e) if e.kind() == io::ErrorKind::NotFound => State::Created,
            Ok(None) | Err(_) => State::Lost,
        }
    }

    fn time(&self, file: &str) -> Option<SystemTime> {
        std::fs::metadata(self.run.join(file)).and_then(|found| found.modified()).ok()
    }

    pub(crate) fn summary(self) -> ContainerSummary {
        let state = self.state();
        let finished = if state.is_running() { None } else { self.time(ENDED) };
        let started = match state {
            State::Running | State::Paused => self.time("record"),
            State::Exited(_) => Ended::read(&self.run.join(ENDED)).ok().flatten().and_then(|ended| finished?.checked_sub(ended.wall)),
            _ => None,
        };
        ContainerSummary {
            ports: self.description.ports.clone(),
            addresses: self.description.addresses.concat(),
            detached: self.kept || crate::container::control_socket(&self.run).exists(),
            kept: self.kept,
            started,
            finished,
            state,
            name: self.description.name.clone(),
            image: self.description.image.clone(),
            command: self.description.command.clone(),
            created: UNIX_EPOCH + Duration::from_secs(self.description.created),
            owner: self.description.owner,
            labels: self.description.labels.clone(),
            id: self.id,
        }
    }
}

/// How it ended and what it used, by what was read of the cgroups: `kinds` in the order of the files.
pub(crate) fn verdict(ended: &Ended, kinds: &[Stat]) -> (ExitStatus, Usage) {
    let raw: Vec<(Stat, &[u8])> =
        kinds.iter().copied().zip(ended.files.iter().map(Vec::as_slice)).filter(|(_, raw)| !raw.is_empty()).collect();
    (ExitStatus::new(ended, &Events::from_raw(raw.iter().copied())), Usage::new(ended, &raw))
}

/// Writes a description of a container that stays, whole or not at all.
pub(crate) fn keep(run: &Path, description: &Description) -> Result<(), Error> {
    let failed = |source| Error::State { attempted: "write", path: run.join(KEPT), source };
    let bytes = serde_json::to_vec(description).map_err(|error| failed(io::Error::other(error)))?;
    let draft = run.join(format!(".kept-{}", std::process::id()));
    std::fs::write(&draft, bytes).and_then(|()| std::fs::rename(&draft, run.join(KEPT))).map_err(failed)
}
