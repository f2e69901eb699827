//! What a container uses at this moment, once or again and again; and its processes.

use crate::background;
use crate::container::Container;
use crate::error::Error;
use crate::time::Time;
use serde::Serialize;
use std::time::{Duration, SystemTime};

/// What a container uses. `None` is what nobody counts here: memory and processes are counted where they are limited, or on cgroup v2.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// When this was read.
    pub time: Time,
    /// Processor time in user mode so far, in seconds.
    pub cpu_user: Option<f64>,
    /// Processor time in the kernel so far, in seconds.
    pub cpu_system: Option<f64>,
    /// Processor time since the reading before, in percent of one processor; none in the first.
    pub cpu_percent: Option<f64>,
    /// Bytes of memory, without page cache that nobody has used lately: as docker-stats(1) counts.
    pub memory: Option<u64>,
    /// The most that it may be.
    pub memory_limit: Option<u64>,
    /// The most that it was.
    pub memory_peak: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// The most that there may be.
    pub pids_limit: Option<u64>,
    /// Bytes read from disks.
    pub io_read: Option<u64>,
    /// Bytes written to disks.
    pub io_write: Option<u64>,
}

impl Stats {
    /// Memory in percent of its limit.
    pub fn memory_percent(&self) -> Option<f64> {
        Some(self.memory? as f64 * 100.0 / self.memory_limit? as f64)
    }
}

/// A process of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcessSummary {
    /// Its id, as this process counts.
    pub pid: u32,
    /// Its parent's.
    pub ppid: u32,
    /// Its user, as this process counts.
    pub uid: u32,
    /// Processor time so far, in milliseconds.
    pub cpu_ms: u64,
    /// Its words; its name in brackets where it has none.
    pub command: String,
}

impl Container {
    /// What it uses now.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn stats(&self) -> Result<Stats, Error> {
        self.runs()?;
        let live = self.live();
        let (usage, current) = (live.usage(), live.current());
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs_f64());
        Ok(Stats {
            time: Time(SystemTime::now()),
            cpu_user: seconds(usage.cpu_user),
            cpu_system: seconds(usage.cpu_system),
            cpu_percent: None,
            memory: current.memory.map(|memory| memory.saturating_sub(current.memory_inactive_file.unwrap_or(0))),
            memory_limit: current.memory_limit,
            memory_peak: usage.memory_peak,
            pids: current.pids,
            pids_limit: current.pids_limit,
            io_read: usage.io_read,
            io_write: usage.io_write,
        })
    }

    /// What it uses, again and again, the first at once.
    pub fn stats_every(&self, interval: Duration) -> StatsStream<'_> {
        StatsStream { container: self, interval, before: None }
    }

    /// Its processes, those of further commands included; by its control groups, or where it has none by descent from its first.
    ///
    /// # Errors
    /// [`Error::NotRunning`].
    pub async fn top(&self) -> Result<Vec<ProcessSummary>, Error> {
        self.runs()?;
        let mut pids = self.live().procs();
        if pids.is_empty() {
            pids = descendants(self.pid());
            for exec in self.execs().await.unwrap_or_default() {
                pids.extend(descendants(exec.pid));
            }
            pids.sort_unstable();
            pids.dedup();
        }
        // 0 is who can't be seen from here.
        Ok(pids.into_iter().filter(|&pid| pid != 0).filter_map(process).collect())
    }
}

/// What a container uses as time passes: [`Container::stats_every`] gives it.
#[derive(Debug)]
#[must_use = "figures come to who asks"]
pub struct StatsStream<'a> {
    container: &'a Container,
    interval: Duration,
    before: Option<Stats>,
}

impl StatsStream<'_> {
    /// The next figures, an interval after those before; `None` when the container doesn't run any more.
    ///
    /// # Errors
    /// As [`Container::stats`].
    pub async fn next(&mut self) -> Result<Option<Stats>, Error> {
        if self.before.is_some() {
            background::pause(self.interval).await;
        }
        let mut stats = match self.container.stats().await {
            Err(Error::NotRunning { .. }) => return Ok(None),
            other => other?,
        };
        if let Some(before) = self.before {
            let all = |stats: &Stats| Some(stats.cpu_user? + stats.cpu_system?);
            let passed = stats.time.0.duration_since(before.time.0).unwrap_or_default().as_secs_f64();
            stats.cpu_percent = all(&stats).zip(all(&before)).filter(|_| passed > 0.0).map(|(now, then)| (now - then) * 100.0 / passed);
        }
        self.before = Some(stats);
        Ok(Some(stats))
    }
}

/// A process and all that descend from it.
fn descendants(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(&pid) = all.get(at) {
        at += 1;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all
}

/// proc_pid_stat(5), proc_pid_status(5) and proc_pid_cmdline(5).
fn process(pid: u32) -> Option<ProcessSummary> {
    let read = |name: &str| std::fs::read(format!("/proc/{pid}/{name}")).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).ok();
    let stat = read("stat")?;
    // Behind the name, which may hold anything.
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let field = |n: usize| rest.split_whitespace().nth(n)?.parse::<u64>().ok();
    // The kernel counts these in hundredths of a second on every architecture that we know.
    let cpu_ms = (field(11)? + field(12)?) * 10;
    let uid = read("status")?.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok())?;
    let words = read("cmdline").unwrap_or_default();
    let words = words.trim_end_matches('\0').replace('\0', " ");
    let command = if words.is_empty() { format!("[{name}]") } else { words };
    Some(ProcessSummary { pid, ppid: u32::try_from(field(1)?).ok()?, uid, cpu_ms, command })
}
