//! Everything that will be done to the cgroup file systems for one container, as data.
//!
//! Building a plan touches nothing. Whoever performs it (a supervisor process, or [`Cgroup`](crate::Cgroup)) needs no
//! knowledge of control groups: make directories, write short strings, later read files and remove directories.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::delegation::{Placement, V1, V2};
use crate::devices::device_program;
use crate::error::{Error, Refusal};
use crate::limits::{self, Control, Limits};
use crate::usage::Stat;

/// Why a step is done; an error tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Purpose {
    /// It sets this limit.
    Limit(Control),
    /// It hands controllers down to the cgroups below.
    Controllers,
}

/// What a missing file means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IfMissing {
    /// The step failed.
    Fail,
    /// There is nothing to do: a bound on swap that nobody asked for, on a kernel that doesn't account swap.
    Skip,
}

/// One effect. Not `#[non_exhaustive]`: a performer that skipped a step that it doesn't know would drop a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// mkdir(2), mode 0755; it must not exist. Undone by rmdir(2).
    MakeDir(PathBuf),
    /// Opens an existing file with `O_WRONLY` (no `O_CREAT`, no `O_TRUNC`) and writes `value` by one write(2).
    Write {
        /// The file.
        path: PathBuf,
        /// What to write, without a newline.
        value: String,
        /// Why.
        what: Purpose,
        /// What ENOENT means.
        if_missing: IfMissing,
    },
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Step::MakeDir(path) => write!(f, "make the cgroup {}", path.display()),
            Step::Write { path, value, what, .. } => {
                write!(f, "write {value:?} to {}", path.display())?;
                match what {
                    Purpose::Limit(control) => write!(f, " (limit {control})"),
                    Purpose::Controllers => write!(f, " (enable controllers)"),
                }
            }
        }
    }
}

/// A limit that holds, and by what.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Enforced {
    /// Which limit.
    pub control: Control,
    /// What was asked for, as a user writes it: `memory=64m`.
    pub asked: String,
    /// By what: `cgroup v2 memory.max`.
    pub mechanism: String,
    /// The file that holds it.
    pub path: PathBuf,
}

/// Everything that will be done for one container. Made by [`Placement::plan`].
///
/// # How to perform it
///
/// 1. Do [`steps`](Plan::steps) in order; when one fails, rmdir(2) what the steps before it made, last first.
/// 2. Start the process: clone3(2) with `CLONE_INTO_CGROUP` and a descriptor of [`into`](Plan::into) (or write its pid to
///    `cgroup.procs` there), and let it join each directory of [`join`](Plan::join) **before** it executes anything and
///    before it makes its own cgroup namespace, whose root is where it stands at that moment.
/// 3. At the end: write `1` to [`kill`](Plan::kill), reap, read [`read_at_end`](Plan::read_at_end), rmdir
///    [`remove`](Plan::remove) with everything below each, trying again on EBUSY: the kernel lets go of a dying process a
///    moment after it can be reaped.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[must_use]
pub struct Plan {
    /// What to make and write, in this order.
    pub steps: Vec<Step>,
    /// The cgroup2 directory that the process starts in (`C/main`); `None` without a writable cgroup2 tree.
    pub into: Option<PathBuf>,
    /// v1 directories that the process joins; there are only those of controllers that were asked for.
    ///
    /// A process of one thread joins best by writing `0` to `tasks`. A pid that another process writes to `cgroup.procs` may wait
    /// up to 15 ms for an RCU grace period.
    pub join: Vec<PathBuf>,
    /// `C/cgroup.kill`. The kernel has it since 5.14; on ENOENT freeze, kill each process, thaw.
    pub kill: Option<PathBuf>,
    /// `C/cgroup.freeze`: `1` freezes, `0` thaws.
    pub freeze: Option<PathBuf>,
    /// `C/cgroup.events`: tells `populated` and `frozen`; poll(2) with POLLPRI wakes on a change.
    pub events: Option<PathBuf>,
    /// v1's `freezer.state` (`FROZEN`, `THAWED`), only on pure v1 and only if [`Placement::freezer`] asked for it.
    pub freezer: Option<PathBuf>,
    /// The directories to remove at the end, deepest first, each with everything that the container made below it.
    pub remove: Vec<PathBuf>,
    /// The files whose contents [`Usage::from_raw`](crate::Usage::from_raw) and
    /// [`Events::from_raw`](crate::Events::from_raw) parse. Those that the kernel hasn't got are left out by the reader.
    pub read_at_end: Vec<(Stat, PathBuf)>,
    /// A file that tells the processor time of all processes so far, where [`Limits::cpu_time`] was asked for: cgroup2's `cpu.stat`, whose
    /// first line is `usage_usec` and microseconds, or v1's `cpuacct.usage`, which is nanoseconds.
    pub cpu_usage: Option<PathBuf>,
    /// A cgroup2 directory that the steps make, and an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE` to attach to it after them, before
    /// the process starts: where [`Limits::devices`] was asked for and there is no v1 controller for it.
    pub device_filter: Option<(PathBuf, Vec<u8>)>,
    /// The limits that hold once the steps are done.
    pub enforced: Vec<Enforced>,
    /// The limits that don't hold, because [`Placement::best_effort`] waived them.
    pub waived: Vec<Refusal>,
    /// `C`, and the controllers that the cgroups directly below it have.
    tree: Option<(PathBuf, BTreeSet<String>)>,
}

impl Plan {
    pub(crate) fn build(placement: &Placement, id: &str) -> Result<Plan, Error> {
        let name = name(id)?;
        let mut plan = Plan {
            steps: Vec::new(),
            into: None,
            join: Vec::new(),
            kill: None,
            freeze: None,
            events: None,
            freezer: None,
            remove: Vec::new(),
            read_at_end: Vec::new(),
            cpu_usage: None,
            device_filter: None,
            enforced: Vec::new(),
            waived: placement.waived.clone(),
            tree: None,
        };
        if let Some(v2) = &placement.v2 {
            plan.cgroup2(v2, &placement.limits, &name);
        }
        for v1 in &placement.v1 {
            plan.v1(v1, &placement.limits, &name, placement.v2.is_some());
        }
        if let (Some(_), Some((top, _))) = (placement.limits.cpu_time, &plan.tree) {
            plan.count_cpu_time(top.join("cpu.stat"), "cgroup v2 cpu.stat", &placement.limits);
        }
        if let Some(base) = &placement.freezer {
            let dir = base.join(&name);
            if !plan.remove.contains(&dir) {
                plan.make_dir(&dir);
                plan.join.push(dir.clone());
                plan.remove.push(dir.clone());
            }
            plan.freezer = Some(dir.join("freezer.state"));
        }
        Ok(plan)
    }

    /// The plan for one more command in the same container: `C/exec-<n>` in the cgroup2 tree, killed and accounted alone,
    /// and the same v1 hierarchies. The container's own limits hold for it.
    ///
    /// Without a cgroup2 tree there is nothing to make: the command only joins the v1 hierarchies, and can't be killed
    /// apart by control groups.
    ///
    /// ```no_run
    /// # fn main() -> Result<(), coracle_cgroups::Error> {
    /// # use coracle_cgroups::*;
    /// let plan = Placement::decide(&Hierarchies::detect()?, &Owner::current(), &Limits::new()).plan("demo")?;
    /// assert_eq!(plan.exec(1).into.unwrap().file_name().unwrap(), "exec-1");
    /// # Ok(()) }
    /// ```
    pub fn exec(&self, n: u32) -> Plan {
        let mut plan = Plan {
            steps: Vec::new(),
            into: None,
            join: self.join.clone(),
            kill: None,
            freeze: None,
            events: None,
            freezer: None,
            remove: Vec::new(),
            read_at_end: Vec::new(),
            cpu_usage: None,
            device_filter: None,
            enforced: self.enforced.clone(),
            waived: self.waived.clone(),
            tree: None,
        };
        if let Some((top, controllers)) = &self.tree {
            let dir = top.join(format!("exec-{n}"));
            plan.make_dir(&dir);
            plan.files_of(&dir);
            plan.read_at_end = stats(&dir, controllers);
            plan.remove.push(dir.clone());
            plan.into = Some(dir);
        }
        plan
    }

    /// `C` and `C/main` in the cgroup2 hierarchy.
    fn cgroup2(&mut self, v2: &V2, limits: &Limits, name: &str) {
        let top = v2.base.join(name);
        let main = top.join("main");
        if !v2.enable.is_empty() {
            self.enable(&v2.base, &v2.enable);
        }
        self.make_dir(&top);
        for &control in &v2.controls {
            self.limit(&top, control, limits, writes_v2(limits, control), "cgroup v2", true);
        }
        if let (true, Some(rules)) = (v2.controls.contains(&Control::Devices), &limits.devices) {
            let asked = limits.asked(Control::Devices).unwrap_or_default();
            let mechanism = "cgroup v2 BPF_CGROUP_DEVICE".to_owned();
            self.enforced.push(Enforced { control: Control::Devices, asked, mechanism, path: top.clone() });
            self.device_filter = Some((top.clone(), device_program(rules)));
        }
        let by_files = v2.controls.iter().filter(|control| **control != Control::Devices);
        let handed_down: BTreeSet<String> = by_files.map(|control| control.controller().to_owned()).collect();
        if !handed_down.is_empty() {
            self.enable(&top, &handed_down);
        }
        self.make_dir(&main);
        for &control in &v2.controls {
            self.limit(&main, control, limits, writes_v2(limits, control), "cgroup v2", false);
        }
        self.files_of(&top);
        self.read_at_end = stats(&top, &v2.controllers);
        if handed_down.contains("pids") {
            // Before Linux 6.11 a refused fork counts only where it was refused.
            self.read_at_end.push((Stat::PidsEvents, main.join("pids.events")));
        }
        self.remove.extend([main.clone(), top.clone()]);
        self.into = Some(main);
        self.tree = Some((top, handed_down));
    }

    /// One directory in a v1 hierarchy.
    fn v1(&mut self, v1: &V1, limits: &Limits, name: &str, cgroup2: bool) {
        let dir = v1.base.join(name);
        self.make_dir(&dir);
        for &control in v1.controls.iter().filter(|control| **control != Control::CpuTime) {
            self.limit(&dir, control, limits, writes_v1(limits, control, &v1.cpuset), "cgroup v1", true);
        }
        self.join.push(dir.clone());
        let has = |controller: &str| v1.controllers.contains(controller);
        let mut read = |stat, file| self.read_at_end.push((stat, dir.join(file)));
        if has("memory") {
            read(Stat::V1MemoryMaxUsage, "memory.max_usage_in_bytes");
            read(Stat::V1MemoryOomControl, "memory.oom_control");
            read(Stat::V1MemoryFailcnt, "memory.failcnt");
            // With swap forbidden, the sum is what is hit first.
            read(Stat::V1MemoryFailcnt, "memory.memsw.failcnt");
        }
        if has("pids") {
            read(Stat::PidsPeak, "pids.peak");
            read(Stat::PidsEvents, "pids.events");
        }
        if has("cpu") {
            read(Stat::V1CpuStat, "cpu.stat");
        }
        // Where there is a cgroup2 tree its cpu.stat tells the times, and of the further commands too.
        if has("cpuacct") && !cgroup2 {
            read(Stat::V1CpuacctUsageUser, "cpuacct.usage_user");
            read(Stat::V1CpuacctUsageSys, "cpuacct.usage_sys");
        }
        if v1.controls.contains(&Control::CpuTime) {
            self.count_cpu_time(dir.join("cpuacct.usage"), "cgroup v1 cpuacct.usage", limits);
        }
        self.remove.push(dir);
    }

    fn count_cpu_time(&mut self, path: PathBuf, mechanism: &str, limits: &Limits) {
        let control = Control::CpuTime;
        let asked = limits.asked(control).unwrap_or_default();
        self.enforced.push(Enforced { control, asked, mechanism: mechanism.into(), path: path.clone() });
        self.cpu_usage = Some(path);
    }

    fn make_dir(&mut self, path: &Path) {
        self.steps.push(Step::MakeDir(path.to_owned()));
    }

    fn enable(&mut self, dir: &Path, controllers: &BTreeSet<String>) {
        let words: Vec<String> = controllers.iter().map(|controller| format!("+{controller}")).collect();
        self.steps.push(Step::Write {
            path: dir.join("cgroup.subtree_control"),
            value: words.join(" "),
            what: Purpose::Controllers,
            if_missing: IfMissing::Fail,
        });
    }

    fn limit(&mut self, dir: &Path, control: Control, limits: &Limits, writes: Vec<Write>, version: &str, report: bool) {
        for (n, Write { file, value, if_missing }) in writes.into_iter().enumerate() {
            let path = dir.join(&*file);
            if report && n == 0 {
                // What v1's lists come to is read from a third file.
                let (file, path) =
                    if control == Control::Devices { (Cow::from("devices.list"), dir.join("devices.list")) } else { (file, path.clone()) };
                self.enforced.push(Enforced {
                    control,
                    asked: limits.asked(control).unwrap_or_default(),
                    mechanism: format!("{version} {file}"),
                    path,
                });
            }
            self.steps.push(Step::Write { path, value, what: Purpose::Limit(control), if_missing });
        }
    }

    fn files_of(&mut self, dir: &Path) {
        self.kill = Some(dir.join("cgroup.kill"));
        self.freeze = Some(dir.join("cgroup.freeze"));
        self.events = Some(dir.join("cgroup.events"));
    }
}

/// What a cgroup2 directory with these controllers can tell. `cpu.stat` needs none.
fn stats(dir: &Path, controllers: &BTreeSet<String>) -> Vec<(Stat, PathBuf)> {
    let mut files = vec![(Stat::CpuStat, "cpu.stat")];
    if controllers.contains("memory") {
        files.extend([(Stat::MemoryPeak, "memory.peak"), (Stat::MemoryEvents, "memory.events")]);
    }
    if controllers.contains("pids") {
        files.extend([(Stat::PidsPeak, "pids.peak"), (Stat::PidsEvents, "pids.events")]);
    }
    if controllers.contains("io") {
        files.push((Stat::IoStat, "io.stat"));
    }
    files.into_iter().map(|(stat, file)| (stat, dir.join(file))).collect()
}

/// One write of a limit; the first of a control is the one that is reported.
pub(crate) struct Write {
    pub(crate) file: Cow<'static, str>,
    pub(crate) value: String,
    pub(crate) if_missing: IfMissing,
}

fn must(file: impl Into<Cow<'static, str>>, value: impl ToString) -> Write {
    Write { file: file.into(), value: value.to_string(), if_missing: IfMissing::Fail }
}

pub(crate) fn writes_v2(limits: &Limits, control: Control) -> Vec<Write> {
    let mut writes = Vec::new();
    match control {
        Control::Memory => {
            let memory = limits.memory.unwrap_or(u64::MAX);
            writes.push(must("memory.max", memory));
            if limits.swap.is_none() {
                writes.push(Write { if_missing: IfMissing::Skip, ..must("memory.swap.max", memory) });
            }
        }
        Control::Swap => writes.extend(limits.swap.map(|swap| must("memory.swap.max", swap))),
        Control::Cpu => {
            writes.extend(limits.cpus.map(|cpus| must("cpu.max", format!("{} {}", limits::quota(cpus), limits::CPU_PERIOD))));
        }
        Control::CpuWeight => writes.extend(limits.cpu_weight.map(|weight| must("cpu.weight", weight))),
        Control::Pids => writes.extend(limits.pids.map(|pids| must("pids.max", pids))),
        Control::Cpuset => {
            writes.extend(limits.cpuset_cpus.as_ref().map(|cpus| must("cpuset.cpus", cpus)));
            writes.extend(limits.cpuset_mems.as_ref().map(|mems| must("cpuset.mems", mems)));
        }
        Control::MemoryHigh => writes.extend(limits.memory_high.map(|bytes| must("memory.high", bytes))),
        Control::MemorySoft => writes.extend(limits.memory_soft.map(|bytes| must("memory.low", bytes))),
        Control::OomGroup => writes.push(must("memory.oom.group", u8::from(limits.oom_group))),
        Control::IoWeight => writes.extend(limits.io_weight.map(|weight| must("io.weight", format!("default {weight}")))),
        Control::Io => writes.extend(limits.io.iter().map(|io| {
            let (major, minor) = io.device;
            must("io.max", format!("{major}:{minor} {}={}", io.what.names().0, io.most))
        })),
        Control::Hugetlb => writes.extend(limits.hugetlb.iter().map(|(page, bytes)| must(format!("hugetlb.{page}.max"), bytes))),
        // A program decides, and not a file.
        Control::CpuTime | Control::Devices => {}
    }
    writes
}

pub(crate) fn writes_v1(limits: &Limits, control: Control, cpuset: &(String, String)) -> Vec<Write> {
    let mut writes = Vec::new();
    // v1 counts in signed pages; larger than any machine is as good as unlimited.
    let sum = |memory: u64, swap: u64| memory.saturating_add(swap).min(i64::MAX as u64);
    match control {
        Control::Memory => {
            let memory = limits.memory.unwrap_or(i64::MAX as u64);
            writes.push(must("memory.limit_in_bytes", memory));
            if limits.swap.is_none() {
                writes.push(Write { if_missing: IfMissing::Skip, ..must("memory.memsw.limit_in_bytes", sum(memory, memory)) });
            }
        }
        Control::Swap => {
            if let (Some(memory), Some(swap)) = (limits.memory, limits.swap) {
                writes.push(must("memory.memsw.limit_in_bytes", sum(memory, swap)));
            }
        }
        // The period of a new cgroup is CPU_PERIOD.
        Control::Cpu => writes.extend(limits.cpus.map(|cpus| must("cpu.cfs_quota_us", limits::quota(cpus)))),
        Control::CpuWeight => writes.extend(limits.cpu_weight.map(|weight| must("cpu.shares", limits::shares(weight)))),
        Control::Pids => writes.extend(limits.pids.map(|pids| must("pids.max", pids))),
        Control::Cpuset => {
            // A new v1 cpuset is empty and takes no process until both are written.
            writes.push(must("cpuset.cpus", limits.cpuset_cpus.as_ref().unwrap_or(&cpuset.0)));
            writes.push(must("cpuset.mems", limits.cpuset_mems.as_ref().unwrap_or(&cpuset.1)));
        }
        Control::MemorySoft => writes.extend(limits.memory_soft.map(|bytes| must("memory.soft_limit_in_bytes", bytes))),
        Control::IoWeight => writes.extend(limits.io_weight.map(|weight| must("blkio.bfq.weight", limits::blkio_weight(weight)))),
        Control::Io => writes.extend(limits.io.iter().map(|io| {
            let (major, minor) = io.device;
            must(io.what.names().1, format!("{major}:{minor} {}", io.most))
        })),
        Control::Hugetlb => {
            writes.extend(limits.hugetlb.iter().map(|(page, bytes)| must(format!("hugetlb.{page}.limit_in_bytes"), bytes)));
        }
        Control::Devices => {
            // The list that is reported is written behind the word that empties it.
            writes.push(must("devices.deny", "a"));
            writes.extend(limits.devices.iter().flatten().map(|rule| must("devices.allow", rule)));
        }
        // cgroup2's alone; a placement refuses them.
        Control::CpuTime | Control::MemoryHigh | Control::OomGroup => {}
    }
    writes
}

/// `coracle-<id>`. Changing this changes what a sweep after a crash looks for.
fn name(id: &str) -> Result<String, Error> {
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    match id.len() <= 200 && id.bytes().all(good) && id.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric) {
        true => Ok(format!("coracle-{id}")),
        false => Err(Error::Name { given: id.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_stay_one_directory_are_taken() {
        for id in ["a", "7f3a", "a.b-c_d", &"x".repeat(200)] {
            assert!(name(id).is_ok(), "{id}");
        }
        for id in ["", ".", "..", "a/b", "../x", "a b", "a\n", "-a", ".a", "ä", &"x".repeat(201)] {
            assert!(matches!(name(id), Err(Error::Name { .. })), "{id}");
        }
    }
}
