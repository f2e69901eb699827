//! All that is known of a container, as JSON with Docker's names.

use crate::container::Container;
use crate::error::Error;
use crate::exit::Reason;
use crate::state::{Found, State};
use crate::time::Time;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// What [`Container::inspect`] tells. Serializes with Docker's names where it has one for the thing.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct Inspect {
    /// The id.
    pub id: String,
    /// The name; empty without one.
    pub name: String,
    /// When it was made.
    pub created: Time,
    /// What it was made from, as it was written.
    pub image: String,
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// The state that it is in.
    pub state: InspectState,
    /// Where its output is kept; empty if it isn't.
    pub log_path: String,
    /// Whether it stays when it has ended.
    pub kept: bool,
    /// The process that made it.
    pub owner: u32,
    /// What it was made with; of one that doesn't stay only the labels are known.
    pub config: InspectConfig,
    /// Its limits; 0 is none.
    pub host_config: InspectLimits,
    /// What is mounted into it.
    pub mounts: Vec<InspectMount>,
}

/// The state, as docker-inspect(1) has it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct InspectState {
    /// `created`, `running`, `paused`, `exited`, `dead`.
    pub status: String,
    /// Whether it has processes.
    pub running: bool,
    /// Whether they are stopped.
    pub paused: bool,
    /// Whether how it ended isn't known.
    pub dead: bool,
    /// Whether the memory limit ended it.
    #[serde(rename = "OOMKilled")]
    pub oom_killed: bool,
    /// Its PID 1, as this process counts; 0 without.
    pub pid: u32,
    /// The command's exit code, or 128 and the signal that ended it; 0 while it runs.
    pub exit_code: i32,
    /// Why it ended, as a sentence; empty while it runs.
    pub error: String,
    /// When it was started last.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
}

/// What it was made with.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct InspectConfig {
    /// The host name; none is the beginning of the id.
    pub hostname: Option<String>,
    /// The user; none is root.
    pub user: Option<String>,
    /// `KEY=VALUE`.
    pub env: Vec<String>,
    /// The command and its arguments.
    pub cmd: Vec<String>,
    /// The working directory.
    pub working_dir: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to end, by number.
    pub stop_signal: Option<String>,
}

/// Limits, 0 for none.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct InspectLimits {
    /// Bytes.
    pub memory: u64,
    /// Billionths of a processor.
    pub nano_cpus: u64,
    /// Processes and threads.
    pub pids_limit: u64,
    /// Whether the root can't be written.
    pub readonly_rootfs: bool,
    /// `none` or `host`; empty where it isn't known.
    pub network_mode: String,
    /// Whether it goes by itself when it has ended.
    pub auto_remove: bool,
}

/// A mount.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
#[non_exhaustive]
pub struct InspectMount {
    /// `bind`, `tmpfs`, `volume` or `image`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// What is mounted, of this machine.
    pub source: Option<PathBuf>,
    /// The name of a volume.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where.
    pub destination: PathBuf,
    /// Whether it can be written.
    #[serde(rename = "RW")]
    pub writable: bool,
}

impl Container {
    /// All that is known of it. The values of its variables are among that.
    ///
    /// # Errors
    /// [`Error::NoSuchContainer`] of one that was removed, and of one that doesn't stay and has ended.
    pub fn inspect(&self) -> Result<Inspect, Error> {
        let found = self.found()?;
        let pid = if found.alive { self.current_or_attached().map_or(0, |child| child.id()) } else { 0 };
        Ok(inspect(found, pid))
    }
}

fn inspect(found: Found, pid: u32) -> Inspect {
    let log = crate::container::log_file(&found.run);
    let description = found.description.clone();
    let summary = found.summary();
    let (exit_code, error, oom_killed) = match summary.state {
        State::Exited(status) => {
            let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal.number())).unwrap_or(0);
            (code, status.to_string(), status.reason() == Reason::OutOfMemory)
        }
        State::Lost => (255, Error::Lost.to_string(), false),
        _ => (0, String::new(), false),
    };
    let spec = description.spec.as_ref();
    let (path, args) = summary.command.split_first().map(|(path, args)| (path.clone(), args.to_vec())).unwrap_or_default();
    Inspect {
        created: Time(summary.created),
        path,
        args,
        state: InspectState {
            status: summary.state.word().into(),
            running: summary.state.is_running(),
            paused: summary.state == State::Paused,
            dead: summary.state == State::Lost,
            oom_killed,
            pid,
            exit_code,
            error,
            started_at: summary.started.map(Time),
            finished_at: summary.finished.map(Time),
        },
        log_path: if log.exists() { log.display().to_string() } else { String::new() },
        kept: summary.kept,
        owner: summary.owner,
        config: InspectConfig {
            hostname: spec.and_then(|spec| spec.hostname.clone()),
            user: spec.and_then(|spec| spec.user.clone()),
            env: spec.map(|spec| spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect()).unwrap_or_default(),
            cmd: summary.command,
            working_dir: spec.and_then(|spec| spec.workdir.clone()),
            labels: summary.labels,
            stop_signal: description.stop_signal,
        },
        host_config: InspectLimits {
            memory: spec.and_then(|spec| spec.memory).unwrap_or(0),
            nano_cpus: spec.and_then(|spec| spec.cpus).map_or(0, |cpus| (cpus * 1e9).round() as u64),
            pids_limit: spec.and_then(|spec| spec.pids).unwrap_or(0),
            readonly_rootfs: spec.is_some_and(|spec| spec.read_only_rootfs),
            network_mode: spec.map(|spec| spec.network.clone()).unwrap_or_default(),
            auto_remove: description.auto_remove,
        },
        mounts: spec
            .map(|spec| {
                let mounts = spec.mounts.iter().map(|mount| InspectMount {
                    kind: mount.word().into(),
                    source: mount.source.clone(),
                    name: mount.volume.as_ref().and_then(|volume| volume.name.clone()),
                    destination: mount.target.clone(),
                    writable: !mount.read_only,
                });
                mounts.collect()
            })
            .unwrap_or_default(),
        id: summary.id,
        name: summary.name.unwrap_or_default(),
        image: summary.image,
    }
}
