//! The control groups of a container that runs, for whoever didn't make them: frozen, measured, and limited anew.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::cgroup::{procs_below, write};
use crate::error::{Error, Reason, Refusal};
use crate::limits::{Control, Limits, Online};
use crate::parse;
use crate::plan::{IfMissing, Plan, Write, writes_v1, writes_v2};
use crate::usage::{Stat, Usage};

/// How long the kernel may take to freeze what runs.
const PATIENCE: Duration = Duration::from_secs(2);

/// Files of a container's control groups by what they are for. [`Plan::live`] gives it, and it travels as text to other processes.
///
/// ```
/// use coracle_cgroups::Live;
/// let live: Live = "freeze /sys/fs/cgroup/coracle-x/cgroup.freeze\n".parse().unwrap();
/// assert_eq!(live.to_string(), "freeze /sys/fs/cgroup/coracle-x/cgroup.freeze\n");
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Live {
    top: Option<PathBuf>,
    freeze: Option<PathBuf>,
    events: Option<PathBuf>,
    freezer: Option<PathBuf>,
    stats: Vec<(Stat, PathBuf)>,
    limits: Vec<(Control, PathBuf)>,
}

/// What is held at this moment; `None` is what nobody counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Current {
    /// Bytes of memory, page cache included.
    pub memory: Option<u64>,
    /// Bytes of it that the kernel takes back first: page cache that nobody has used lately.
    pub memory_inactive_file: Option<u64>,
    /// The most that it may be.
    pub memory_limit: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The most that there may be.
    pub pids_limit: Option<u64>,
}

impl Plan {
    /// What whoever didn't perform this plan needs to freeze, measure and limit what runs in it.
    pub fn live(&self) -> Live {
        Live {
            top: self.into.as_ref().and_then(|main| main.parent()).map(Path::to_owned),
            freeze: self.freeze.clone(),
            events: self.events.clone(),
            freezer: self.freezer.clone(),
            stats: self.read_at_end.clone(),
            limits: self.enforced.iter().map(|enforced| (enforced.control, enforced.path.clone())).collect(),
        }
    }
}

impl Live {
    /// Stops every process in it, until [`thaw`](Self::thaw). By the freezer of cgroup2 or v1, whose processes can't notice; returns when
    /// all have stopped.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], of kind `Unsupported` without a cgroup2 tree or v1 freezer; [`Error::Busy`] after two seconds, thawed again.
    pub fn freeze(&self) -> Result<(), Error> {
        let (file, value) = match (&self.freeze, &self.freezer) {
            (Some(file), _) => (file, "1"),
            (None, Some(state)) => (state, "FROZEN"),
            (None, None) => return Err(unsupported("freeze")),
        };
        put(file, value)?;
        let start = Instant::now();
        while !self.is_frozen() {
            if start.elapsed() > PATIENCE {
                let _ = self.thaw();
                return Err(Error::Busy { action: "freeze", path: file.clone(), after: PATIENCE, pids: self.procs() });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Lets the processes go on. Thawing what isn't frozen is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], of kind `Unsupported` without a cgroup2 tree or v1 freezer.
    pub fn thaw(&self) -> Result<(), Error> {
        match (&self.freeze, &self.freezer) {
            (Some(file), _) => put(file, "0"),
            (None, Some(state)) => put(state, "THAWED"),
            (None, None) => Err(unsupported("thaw")),
        }
    }

    /// Whether all its processes are stopped.
    pub fn is_frozen(&self) -> bool {
        match (&self.events, &self.freezer) {
            (Some(events), _) => fs::read(events).is_ok_and(|raw| parse::keyed(&raw, "frozen") == Some(1)),
            (None, Some(state)) => fs::read(state).is_ok_and(|raw| raw.trim_ascii() == b"FROZEN"),
            (None, None) => false,
        }
    }

    /// The processes in it and in the cgroups below; none without any cgroup.
    pub fn procs(&self) -> Vec<u32> {
        let limited = self.limits.first().and_then(|(_, path)| path.parent());
        let frozen = self.freezer.as_ref().and_then(|path| path.parent());
        let mut pids = self.top.as_deref().or(limited).or(frozen).map(procs_below).unwrap_or_default();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// What was consumed until now.
    pub fn usage(&self) -> Usage {
        let raw: Vec<(Stat, Vec<u8>)> = self.stats.iter().filter_map(|(stat, path)| Some((*stat, fs::read(path).ok()?))).collect();
        Usage::from_raw(raw.iter().map(|(stat, raw)| (*stat, raw.as_slice())))
    }

    /// What is held now.
    pub fn current(&self) -> Current {
        let beside = |kinds: &[Stat], name: &str| {
            let (_, path) = self.stats.iter().find(|(stat, _)| kinds.contains(stat))?;
            fs::read(path.parent()?.join(name)).ok()
        };
        let number = |kinds: &[Stat], name: &str| beside(kinds, name).and_then(|raw| parse::number(&raw));
        let (v2, v1, pids) = (&[Stat::MemoryPeak, Stat::MemoryEvents][..], &[Stat::V1MemoryMaxUsage][..], &[Stat::PidsEvents][..]);
        // v1 says "no limit" by a number near 2^63.
        let limit = |limit: u64| Some(limit).filter(|limit| *limit < 1 << 62);
        Current {
            memory: number(v2, "memory.current").or_else(|| number(v1, "memory.usage_in_bytes")),
            memory_inactive_file: beside(v2, "memory.stat")
                .and_then(|raw| parse::keyed(&raw, "inactive_file"))
                .or_else(|| beside(v1, "memory.stat").and_then(|raw| parse::keyed(&raw, "total_inactive_file"))),
            memory_limit: number(v2, "memory.max").or_else(|| number(v1, "memory.limit_in_bytes")).and_then(limit),
            pids: number(pids, "pids.current"),
            pids_limit: number(pids, "pids.max"),
        }
    }

    /// Sets limits anew while it runs: those that it was started with, to other values.
    ///
    /// # Errors
    ///
    /// [`Error::Refused`] with all that is out of range, or that it wasn't started with: a limit can't be added to what runs; nothing was
    /// written then. [`Error::Io`] where the kernel refuses a value, as one below what is held.
    pub fn update(&self, limits: &Limits) -> Result<(), Error> {
        let mut refused = limits.out_of_range(&Online::read_for(limits));
        for control in limits.controls() {
            let known = self.limits.iter().any(|(known, _)| *known == control)
                && !matches!(control, Control::CpuTime | Control::Cpuset | Control::Devices);
            if !known && refused.iter().all(|refusal| refusal.control != control) {
                let asked = limits.asked(control).unwrap_or_default();
                refused.push(Refusal { control, asked, reason: Reason::NotStartedWith });
            }
        }
        if !refused.is_empty() {
            return Err(Error::Refused(refused));
        }
        for control in limits.controls() {
            let Some(directory) = self.limits.iter().find(|(known, _)| *known == control).and_then(|(_, path)| path.parent()) else {
                continue;
            };
            let v2 = self.top.as_deref() == Some(directory);
            let writes = if v2 { writes_v2(limits, control) } else { writes_v1(limits, control, &Default::default()) };
            // JVMs and Go read them one further down.
            let directories = if v2 { vec![directory.to_owned(), directory.join("main")] } else { vec![directory.to_owned()] };
            for directory in directories {
                self.write_all(&directory, &writes)?;
            }
        }
        Ok(())
    }

    /// Of two limits of which one bounds the other, which has to be written first depends on where they go.
    fn write_all(&self, directory: &Path, writes: &[Write]) -> Result<(), Error> {
        let one = |one: &Write| match write(&directory.join(&*one.file), &one.value) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && one.if_missing == IfMissing::Skip => Ok(()),
            Err(source) => Err(Error::Io { action: "write", path: directory.join(&*one.file), source }),
            Ok(()) => Ok(()),
        };
        match writes.iter().try_for_each(one) {
            Err(Error::Io { source, .. }) if Errno::from_io_error(&source) == Some(Errno::INVAL) => writes.iter().rev().try_for_each(one),
            other => other,
        }
    }
}

fn put(path: &Path, value: &str) -> Result<(), Error> {
    write(path, value).map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}

fn unsupported(action: &'static str) -> Error {
    let source = io::Error::new(io::ErrorKind::Unsupported, "it has no cgroup2 tree and no v1 freezer of its own");
    Error::Io { action, path: "its processes".into(), source }
}

impl std::fmt::Display for Live {
    /// A line each: what it is, and the path.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut text = String::new();
        for (word, path) in [("top", &self.top), ("freeze", &self.freeze), ("events", &self.events), ("freezer", &self.freezer)] {
            if let Some(path) = path {
                let _ = writeln!(text, "{word} {}", path.display());
            }
        }
        for (stat, path) in &self.stats {
            let _ = writeln!(text, "stat:{stat:?} {}", path.display());
        }
        for (control, path) in &self.limits {
            let _ = writeln!(text, "limit:{control} {}", path.display());
        }
        f.write_str(&text)
    }
}

impl std::str::FromStr for Live {
    type Err = std::convert::Infallible;

    /// What isn't known is passed over: it's a later version's.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut live = Live::default();
        for (word, path) in text.lines().filter_map(|line| line.split_once(' ')) {
            let path = PathBuf::from(path);
            match word.split_once(':') {
                None => match word {
                    "top" => live.top = Some(path),
                    "freeze" => live.freeze = Some(path),
                    "events" => live.events = Some(path),
                    "freezer" => live.freezer = Some(path),
                    _ => {}
                },
                Some(("stat", name)) => {
                    live.stats.extend(Stat::ALL.into_iter().find(|stat| format!("{stat:?}") == name).map(|stat| (stat, path)));
                }
                Some(("limit", name)) => {
                    live.limits.extend(Control::ALL.into_iter().find(|control| control.to_string() == name).map(|control| (control, path)));
                }
                Some(_) => {}
            }
        }
        Ok(live)
    }
}

impl Live {
    /// The kinds of what was read at an end, in the order of [`Plan::read_at_end`].
    pub fn stats(&self) -> Vec<Stat> {
        self.stats.iter().map(|(stat, _)| *stat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A v1 container's directory of plain files.
    fn plain() -> (tempfile::TempDir, Live) {
        let directory = tempfile::tempdir().unwrap();
        for (name, value) in [
            ("memory.limit_in_bytes", "1048576\n"),
            ("memory.memsw.limit_in_bytes", "2097152\n"),
            ("memory.usage_in_bytes", "4096\n"),
            ("memory.stat", "total_inactive_file 1024\n"),
            ("pids.max", "7\n"),
            ("pids.current", "3\n"),
            ("freezer.state", "THAWED\n"),
        ] {
            fs::write(directory.path().join(name), value).unwrap();
        }
        let path = |name: &str| directory.path().join(name);
        let live = Live {
            freezer: Some(path("freezer.state")),
            stats: vec![(Stat::V1MemoryMaxUsage, path("memory.max_usage_in_bytes")), (Stat::PidsEvents, path("pids.events"))],
            limits: vec![(Control::Memory, path("memory.limit_in_bytes")), (Control::Pids, path("pids.max"))],
            ..Live::default()
        };
        (directory, live)
    }

    #[test]
    fn it_travels_as_text_and_what_is_unknown_is_passed_over() {
        let (_directory, live) = plain();
        let text = live.to_string();
        assert_eq!(text.parse(), Ok(live.clone()));
        assert_eq!(format!("new /x\nstat:Later /y\n{text}no-path\n").parse(), Ok(live));
    }

    #[test]
    fn what_is_held_is_read_beside_what_is_counted() {
        let (_directory, live) = plain();
        let expected = Current {
            memory: Some(4096),
            memory_inactive_file: Some(1024),
            memory_limit: Some(1 << 20),
            pids: Some(3),
            pids_limit: Some(7),
        };
        assert_eq!(live.current(), expected);
        assert_eq!(Live::default().current(), Current::default());
    }

    #[test]
    fn only_limits_that_it_was_started_with_are_set_anew_and_all_refusals_are_told() {
        let (directory, live) = plain();
        live.update(&Limits::new().memory(8 << 20).pids(9)).unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(read("memory.limit_in_bytes").starts_with("8388608") && read("pids.max").starts_with('9'));
        match live.update(&Limits::new().memory(16 << 20).cpus(0.5).pids(0)) {
            Err(Error::Refused(refused)) => {
                assert_eq!(refused.iter().map(|refusal| refusal.control).collect::<Vec<_>>(), [Control::Pids, Control::Cpu]);
                assert_eq!(
                    refused[1].to_string(),
                    "can't enforce cpus=0.5: it was started without this limit, and one can't be added to what runs"
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(read("memory.limit_in_bytes").starts_with("8388608"), "nothing was written");
    }

    #[test]
    fn without_a_freezer_nothing_is_frozen() {
        let error = Live::default().freeze().unwrap_err();
        assert!(error.to_string().contains("no cgroup2 tree and no v1 freezer"), "{error}");
        let (_directory, live) = plain();
        // A plain file says at once what was written.
        live.freeze().unwrap();
        assert!(live.is_frozen());
        live.thaw().unwrap();
        assert!(!live.is_frozen());
    }
}
