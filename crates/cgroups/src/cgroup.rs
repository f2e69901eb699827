//! A container's cgroup, made and used from this very process.
//!
//! ```text
//!   create(plan) ──▶ empty ──add(pid)──▶ populated ⇄ freeze()/thaw()
//!                                            │ kill(), or all processes end
//!                                            ▼
//!                                          empty ──remove()──▶ gone
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal};

use crate::error::{Error, Reason, Refusal};
use crate::events::Events;
use crate::limits::Control;
use crate::parse;
use crate::plan::{IfMissing, Plan, Step};
use crate::usage::{Stat, Usage};

/// How long [`Cgroup::freeze`] and [`Cgroup::remove`] wait for the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// A plan that was performed in this process.
///
/// **Dropping it does nothing**: the cgroup, its limits and its processes stay. Call [`kill`](Cgroup::kill) and
/// [`remove`](Cgroup::remove), which tell whether they worked.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use coracle_cgroups::{Cgroup, Hierarchies, Limits, Owner, Placement};
/// let placement = Placement::decide(&Hierarchies::detect()?, &Owner::current(), &Limits::new().pids(64));
/// let cgroup = Cgroup::create(placement.plan("demo")?)?;
/// let mut child = std::process::Command::new("make").spawn()?;
/// cgroup.add(child.id())?;
/// child.wait()?;
/// println!("{:?} {:?}", cgroup.usage(), cgroup.events());
/// cgroup.kill()?;
/// cgroup.remove()?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
#[must_use = "dropping it removes nothing; call remove()"]
pub struct Cgroup {
    plan: Plan,
}

impl Cgroup {
    /// Performs the steps of a plan.
    ///
    /// # Errors
    ///
    /// [`Error::Step`] for the first step that fails; the directories that were made are removed again. Controllers that
    /// were enabled in the directory above stay enabled.
    pub fn create(plan: Plan) -> Result<Cgroup, Error> {
        if plan.device_filter.is_some() {
            let asked = plan.enforced.iter().find(|enforced| enforced.control == Control::Devices).map(|enforced| enforced.asked.clone());
            let asked = asked.unwrap_or_default();
            return Err(Error::Refused(vec![Refusal { control: Control::Devices, asked, reason: Reason::ByProgram }]));
        }
        let mut made: Vec<PathBuf> = Vec::new();
        for step in &plan.steps {
            match perform(step) {
                Ok(()) => {
                    if let Step::MakeDir(path) = step {
                        made.push(path.clone());
                    }
                }
                Err(source) => {
                    let left = made.into_iter().rev().filter(|path| fs::remove_dir(path).is_err()).collect();
                    return Err(Error::Step { step: step.clone(), source, left });
                }
            }
        }
        Ok(Cgroup { plan })
    }

    /// The plan.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// A cgroup for one more command, `exec-<n>`, that is killed and accounted alone; see [`Plan::exec`]. It is removed with
    /// the container's at the latest.
    ///
    /// # Errors
    ///
    /// [`Error::Step`], also where this number is in use.
    pub fn exec(&self, n: u32) -> Result<Cgroup, Error> {
        Cgroup::create(self.plan.exec(n))
    }

    /// Moves a process in, with all its threads. What it already forked stays where it is.
    ///
    /// Each v1 hierarchy costs 0.15–15 ms; clone3(2) with `CLONE_INTO_CGROUP` into [`Plan::into`] saves that on cgroup2.
    /// A plain user may move only between cgroups that are all below a delegated one (cgroups(7)).
    ///
    /// # Errors
    ///
    /// [`Error::Io`]: ESRCH for a process that has ended, EBUSY or EOPNOTSUPP where the cgroup takes none, EACCES.
    pub fn add(&self, pid: u32) -> Result<(), Error> {
        for path in self.plan.join.iter().chain(&self.plan.into).map(|dir| dir.join("cgroup.procs")) {
            // The kernel would take 0 as the calling process; nobody who has a pid means that.
            let written = if pid == 0 { Err(Errno::INVAL.into()) } else { write(&path, &pid.to_string()) };
            written.map_err(|source| Error::Io { action: "move a process to", path, source })?;
        }
        Ok(())
    }

    /// The processes in it and in the cgroups below, at this moment.
    pub fn procs(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = self.tops().iter().flat_map(|dir| procs_below(dir)).collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends SIGKILL to every process in it and in the cgroups below, those that fork at this moment included; also to
    /// frozen ones. Returns when the signals are sent; [`wait_empty`](Cgroup::wait_empty) waits for the end.
    ///
    /// By `cgroup.kill` (Linux 5.14). Before it, and on pure v1: freeze where possible, kill each by pidfd, thaw. On v1
    /// without the freezer ([`Placement::freezer`](crate::Placement::freezer)) new forks are outrun, and `pids.max` is
    /// set to 0 where that hierarchy was joined.
    ///
    /// # Errors
    ///
    /// [`Error::Io`]; of kind `Unsupported` for an [`exec`](Cgroup::exec) without a cgroup2 tree, which has no cgroup of
    /// its own. [`Error::Busy`] where forks could not be outrun.
    pub fn kill(&self) -> Result<(), Error> {
        if let Some(path) = &self.plan.kill {
            match write(path, "1") {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(Error::Io { action: "kill by", path: path.clone(), source });
                }
            }
        }
        let Some(top) = self.tops().first().copied() else {
            return Err(unsupported("kill by", "cgroup.kill"));
        };
        // A v2 freezer lets frozen tasks die; a v1 one only when thawed, so it is thawed in the end in any case.
        let frozen = self.freeze().is_ok();
        if !frozen {
            for dir in self.tops() {
                // Only a joined pids hierarchy has it. After this nothing forks there any more.
                let _ = write(&dir.join("pids.max"), "0");
            }
        }
        let start = Instant::now();
        let killed = loop {
            let pids = self.procs();
            if pids.is_empty() || start.elapsed() > PATIENCE {
                break pids;
            }
            // A pid may belong to a foreign process by now: hold it first, then look whether it still stands here.
            let held: Vec<_> = pids
                .iter()
                .filter_map(|&pid| {
                    let raw = Pid::from_raw(i32::try_from(pid).ok()?)?;
                    Some((pid, rustix::process::pidfd_open(raw, PidfdFlags::empty()).ok()?))
                })
                .collect();
            let still = self.procs();
            for (pid, fd) in &held {
                if still.contains(pid) {
                    let _ = rustix::process::pidfd_send_signal(fd, Signal::KILL);
                }
            }
            if frozen {
                break Vec::new();
            }
            std::thread::sleep(Duration::from_millis(1));
        };
        if frozen {
            self.thaw()?;
        }
        match killed.is_empty() {
            true => Ok(()),
            false => Err(Error::Busy { action: "kill", path: top.to_owned(), after: PATIENCE, pids: killed }),
        }
    }

    /// Stops every process in it, and waits until they have stopped, for two seconds at most.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] where a process in uninterruptible sleep doesn't stop in time (the cgroup stays freezing);
    /// [`Error::Io`], of kind `Unsupported` without a cgroup2 tree or v1 freezer.
    pub fn freeze(&self) -> Result<(), Error> {
        match (&self.plan.freeze, &self.plan.events, &self.plan.freezer) {
            (Some(file), Some(events), _) => {
                put(file, "1")?;
                self.wait("freeze", file, || fs::read(events).is_ok_and(|raw| parse::keyed(&raw, "frozen") == Some(1)), PATIENCE)
            }
            (_, _, Some(state)) => {
                put(state, "FROZEN")?;
                self.wait("freeze", state, || fs::read(state).is_ok_and(|raw| raw.trim_ascii() == b"FROZEN"), PATIENCE)
            }
            _ => Err(unsupported("freeze by", "cgroup.freeze")),
        }
    }

    /// Lets the processes go on. Thawing what isn't frozen is fine.
    ///
    /// # Errors
    ///
    /// [`Error::Io`], of kind `Unsupported` without a cgroup2 tree or v1 freezer.
    pub fn thaw(&self) -> Result<(), Error> {
        match (&self.plan.freeze, &self.plan.freezer) {
            (Some(file), _) => put(file, "0"),
            (None, Some(state)) => put(state, "THAWED"),
            (None, None) => Err(unsupported("thaw by", "cgroup.freeze")),
        }
    }

    /// Waits until no process is in it or below.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] after `timeout`, with the processes that are left.
    pub fn wait_empty(&self, timeout: Duration) -> Result<(), Error> {
        let path = self.tops().first().map(|dir| dir.to_path_buf()).unwrap_or_default();
        self.wait("wait for the end of", &path, || self.procs().is_empty(), timeout)
    }

    /// What was consumed until now.
    pub fn usage(&self) -> Usage {
        let raw = self.raw();
        Usage::from_raw(raw.iter().map(|(stat, raw)| (*stat, raw.as_slice())))
    }

    /// Which limits were hit until now.
    pub fn events(&self) -> Events {
        let raw = self.raw();
        Events::from_raw(raw.iter().map(|(stat, raw)| (*stat, raw.as_slice())))
    }

    /// The contents of [`Plan::read_at_end`], without the files that this kernel hasn't got.
    pub fn raw(&self) -> Vec<(Stat, Vec<u8>)> {
        self.plan.read_at_end.iter().filter_map(|(stat, path)| Some((*stat, fs::read(path).ok()?))).collect()
    }

    /// Removes its directories with all below, waiting up to two seconds for processes that are just ending. It kills
    /// nothing. What is already gone is fine, so it may be called again.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] with the processes that are in it; [`Error::Io`]. It goes on with the other directories, and tells
    /// the first error.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + PATIENCE;
        let mut first = Ok(());
        for dir in &self.plan.remove {
            let removed = remove_below(dir, deadline).map_err(|source| match Errno::from_io_error(&source) {
                Some(Errno::BUSY) => Error::Busy { action: "remove", path: dir.clone(), after: PATIENCE, pids: procs_below(dir) },
                _ => Error::Io { action: "remove", path: dir.clone(), source },
            });
            first = first.and(removed);
        }
        first
    }

    /// The topmost of its directories, one a hierarchy; on cgroup2 the tree alone tells all processes.
    fn tops(&self) -> Vec<&Path> {
        let tree = self.plan.events.as_deref().and_then(Path::parent);
        match tree {
            Some(tree) => vec![tree],
            None => self.plan.remove.iter().map(PathBuf::as_path).collect(),
        }
    }

    fn wait(&self, action: &'static str, path: &Path, done: impl Fn() -> bool, patience: Duration) -> Result<(), Error> {
        let start = Instant::now();
        let mut pause = Duration::from_micros(100);
        while !done() {
            if start.elapsed() > patience {
                return Err(Error::Busy { action, path: path.to_owned(), after: patience, pids: self.procs() });
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
        Ok(())
    }
}

fn perform(step: &Step) -> io::Result<()> {
    match step {
        Step::MakeDir(path) => fs::create_dir(path),
        Step::Write { path, value, if_missing, .. } => match write(path, value) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && *if_missing == IfMissing::Skip => Ok(()),
            result => result,
        },
    }
}

/// One write(2): the kernel takes each as a whole value.
pub(crate) fn write(path: &Path, value: &str) -> io::Result<()> {
    let file = fs::OpenOptions::new().write(true).open(path)?;
    rustix::io::write(&file, value.as_bytes())?;
    Ok(())
}

fn put(path: &Path, value: &str) -> Result<(), Error> {
    write(path, value).map_err(|source| Error::Io { action: "write", path: path.to_owned(), source })
}

fn unsupported(action: &'static str, file: &str) -> Error {
    let source = io::Error::new(io::ErrorKind::Unsupported, "it has no cgroup2 tree and no v1 freezer of its own");
    Error::Io { action, path: file.into(), source }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}

pub(crate) fn procs_below(dir: &Path) -> Vec<u32> {
    let mut pids = fs::read(dir.join("cgroup.procs")).map(|raw| parse::pids(&raw)).unwrap_or_default();
    pids.extend(children(dir).iter().flat_map(|child| procs_below(child)));
    pids
}

/// rmdir(2) from the bottom up. EBUSY is tried again until `deadline`: a task that was reaped a moment ago may still hold
/// the cgroup.
fn remove_below(dir: &Path, deadline: Instant) -> io::Result<()> {
    let mut pause = Duration::from_micros(100);
    loop {
        // The common case first: nothing below, one system call.
        match fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => {
                for child in children(dir) {
                    remove_below(&child, deadline)?;
                }
                match fs::remove_dir(dir) {
                    Ok(()) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                    Err(error) if Errno::from_io_error(&error) != Some(Errno::BUSY) || Instant::now() > deadline => {
                        return Err(error);
                    }
                    Err(_) => {}
                }
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::Control;
    use crate::{Hierarchies, Limits, Owner, Placement};

    #[test]
    fn a_failed_step_removes_what_the_steps_before_it_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::write(root.join("cgroup.procs"), "").unwrap();
        fs::write(root.join("cgroup.controllers"), "pids").unwrap();
        fs::write(root.join("cgroup.subtree_control"), "pids").unwrap();
        let hierarchies = Hierarchies::detect_from(&format!("1 0 0:1 / {} rw - cgroup2 cgroup2 rw\n", root.display()), "0::/\n");
        let placement = Placement::decide(&hierarchies, &Owner::current(), &Limits::new().pids(8));
        // No kernel puts pids.max into the new directory.
        let error = Cgroup::create(placement.plan("x").unwrap()).unwrap_err();
        let Error::Step { step: Step::Write { what, .. }, left, .. } = &error else { panic!("{error}") };
        assert_eq!((*what, left.len()), (crate::Purpose::Limit(Control::Pids), 0));
        assert!(!root.join("coracle-x").exists());
        assert!(error.to_string().ends_with("coracle-x/pids.max (limit pids): ENOENT (No such file or directory)"), "{error}");
    }
}
