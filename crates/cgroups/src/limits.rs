//! What a container may consume, as a description: setters never fail, and every problem is reported together later.

use std::fmt;

use crate::devices::DeviceRule;
use crate::error::{Reason, Refusal};
use crate::parse;

/// The smallest memory limit that is accepted. The kernel takes less, but below this nothing survives `execve`, and what
/// a user then sees is an OOM kill without a cause.
const MEMORY_MIN: u64 = 512 * 1024;

/// The period over which a cpu quota holds, in microseconds: Docker's and the kernel's default.
pub(crate) const CPU_PERIOD: u64 = 100_000;

/// The smallest quota that the kernel accepts, in microseconds.
const CPU_QUOTA_MIN: u64 = 1_000;

/// What a container may consume. Nothing is limited until it is said.
///
/// ```
/// use coracle_cgroups::Limits;
/// let limits = Limits::new().memory(256 << 20).cpus(1.5).pids(64);
/// assert_eq!(limits.memory, Some(268_435_456));
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
#[must_use]
pub struct Limits {
    /// Bytes of memory, page cache included; at least 512 KiB. See [`Limits::memory()`] for swap.
    pub memory: Option<u64>,
    /// Bytes of swap, apart from memory; 0 forbids swapping.
    pub swap: Option<u64>,
    /// Processor time, in processors: 1.5 is one and a half; from 0.01 to the number of processors online.
    pub cpus: Option<f64>,
    /// Share of the processors when they are contended, 1–10000; 100 is everybody's default.
    pub cpu_weight: Option<u32>,
    /// Number of processes and threads, at least 1.
    pub pids: Option<u64>,
    /// The processors that may be used, as a list: `0-2,7`. See cpuset(7).
    pub cpuset_cpus: Option<String>,
    /// The memory nodes that may be used, as a list: `0`. See cpuset(7).
    pub cpuset_mems: Option<String>,
    /// Processor time in all, user and system, of all processes together.
    pub cpu_time: Option<std::time::Duration>,
    /// Bytes of memory above which it is slowed down and pressed, before [`memory`](Limits::memory) is reached. cgroup2's.
    pub memory_high: Option<u64>,
    /// Bytes of memory that are left to it while the machine runs short (`memory.low`; v1's `memory.soft_limit_in_bytes`).
    pub memory_soft: Option<u64>,
    /// Whether a shortage of memory ends everything at once and not one process (`memory.oom.group`). cgroup2's.
    pub oom_group: bool,
    /// The share of block devices when they are contended, 1–10000; 100 is everybody's default.
    pub io_weight: Option<u32>,
    /// Bounds on traffic with block devices.
    pub io: Vec<IoLimit>,
    /// Bounds on huge pages: the size of a page as the kernel writes it (`2MB`, `1GB`), and bytes.
    pub hugetlb: Vec<(String, u64)>,
    /// The devices that may be opened, and no others. `None`: this says nothing about devices.
    pub devices: Option<Vec<DeviceRule>>,
}

/// A bound on the traffic with one block device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IoLimit {
    /// The device's numbers. Of a whole disk, not of a partition.
    pub device: (u32, u32),
    /// What is bounded.
    pub what: IoBound,
    /// At most so much a second, 1 or more.
    pub most: u64,
}

/// What of block I/O is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum IoBound {
    /// Bytes read a second.
    ReadBytes,
    /// Bytes written a second.
    WriteBytes,
    /// Reads a second.
    ReadOperations,
    /// Writes a second.
    WriteOperations,
}

impl IoBound {
    /// The key in `io.max`, and v1's file.
    pub(crate) fn names(self) -> (&'static str, &'static str) {
        match self {
            IoBound::ReadBytes => ("rbps", "blkio.throttle.read_bps_device"),
            IoBound::WriteBytes => ("wbps", "blkio.throttle.write_bps_device"),
            IoBound::ReadOperations => ("riops", "blkio.throttle.read_iops_device"),
            IoBound::WriteOperations => ("wiops", "blkio.throttle.write_iops_device"),
        }
    }
}

impl Limits {
    /// No limits.
    pub fn new() -> Limits {
        Limits::default()
    }

    /// At most `bytes` of memory, page cache included; at least 512 KiB. [`parse_memory`] reads `"256m"`.
    ///
    /// Unless [`swap`](Limits::swap()) says otherwise, as much swap again may be used where the kernel accounts swap,
    /// which is Docker's default (`--memory-swap` unset). A kernel without swap accounting can't bound swap at all;
    /// the memory limit holds there too. A limit on memory doesn't kill as a group (`memory.oom.group` stays 0, as in
    /// Docker, and as v1 has it): a database that survives the loss of one worker goes on; [`Events`](crate::Events)
    /// tells that there was an OOM kill.
    pub fn memory(mut self, bytes: u64) -> Limits {
        self.memory = Some(bytes);
        self
    }

    /// At most `bytes` of swap beside the memory; 0 forbids swapping. Needs [`memory`](Limits::memory()) on v1, whose
    /// kernel only knows the sum of both.
    pub fn swap(mut self, bytes: u64) -> Limits {
        self.swap = Some(bytes);
        self
    }

    /// At most this much processor time: 0.01 to the number of processors online. A hundredth is 1 ms in each 100 ms.
    pub fn cpus(mut self, cpus: f64) -> Limits {
        self.cpus = Some(cpus);
        self
    }

    /// The share when processors are contended: 1–10000, where 100 is the default of everybody else (`cpu.weight`).
    pub fn cpu_weight(mut self, weight: u32) -> Limits {
        self.cpu_weight = Some(weight);
        self
    }

    /// At most this many processes and threads together, at least 1. A container's init counts.
    pub fn pids(mut self, pids: u64) -> Limits {
        self.pids = Some(pids);
        self
    }

    /// Only these processors, as a list of cpuset(7): `0-2,7`.
    pub fn cpuset_cpus(mut self, list: impl Into<String>) -> Limits {
        self.cpuset_cpus = Some(list.into());
        self
    }

    /// Only these memory nodes, as a list of cpuset(7): `0`.
    pub fn cpuset_mems(mut self, list: impl Into<String>) -> Limits {
        self.cpuset_mems = Some(list.into());
        self
    }

    /// At most this much processor time in all, user and system, of all processes together. The kernel counts; whoever performs the plan
    /// has to look, at [`Plan::cpu_usage`](crate::Plan::cpu_usage), and end what has had enough.
    pub fn cpu_time(mut self, time: std::time::Duration) -> Limits {
        self.cpu_time = Some(time);
        self
    }

    /// Slowed down and pressed above so many bytes. Linux holds it by cgroup2 alone.
    pub fn memory_high(mut self, bytes: u64) -> Limits {
        self.memory_high = Some(bytes);
        self
    }

    /// So many bytes are left to it while the machine runs short of memory: docker-run(1) `--memory-reservation`.
    pub fn memory_soft(mut self, bytes: u64) -> Limits {
        self.memory_soft = Some(bytes);
        self
    }

    /// A shortage of memory ends everything at once: no half of a program lives on. Linux holds it by cgroup2 alone.
    pub fn oom_group(mut self, yes: bool) -> Limits {
        self.oom_group = yes;
        self
    }

    /// The share of block devices when they are contended: 1–10000, where 100 is the default of everybody else. Needs an I/O scheduler that
    /// weighs: bfq, or iocost.
    pub fn io_weight(mut self, weight: u32) -> Limits {
        self.io_weight = Some(weight);
        self
    }

    /// One more bound on the traffic with a block device.
    pub fn io(mut self, limit: IoLimit) -> Limits {
        self.io.push(limit);
        self
    }

    /// At most so many bytes of huge pages of this size, as the kernel writes it: `2MB`.
    pub fn hugetlb(mut self, page: impl Into<String>, bytes: u64) -> Limits {
        self.hugetlb.push((page.into(), bytes));
        self
    }

    /// These devices may be opened, and no others.
    pub fn devices(mut self, rules: impl IntoIterator<Item = DeviceRule>) -> Limits {
        self.devices = Some(rules.into_iter().collect());
        self
    }

    /// The controls that were asked for.
    ///
    /// ```
    /// use coracle_cgroups::{Control, Limits};
    /// assert_eq!(Limits::new().pids(8).controls(), [Control::Pids]);
    /// ```
    pub fn controls(&self) -> Vec<Control> {
        Control::ALL.into_iter().filter(|&control| self.asked(control).is_some()).collect()
    }

    /// What was asked for of `control`, as a user would write it: `memory=64m`.
    pub(crate) fn asked(&self, control: Control) -> Option<String> {
        Some(match control {
            Control::Memory => format!("memory={}", human_bytes(self.memory?)),
            Control::Swap => format!("swap={}", human_bytes(self.swap?)),
            Control::Cpu => format!("cpus={}", self.cpus?),
            Control::CpuWeight => format!("cpu-weight={}", self.cpu_weight?),
            Control::Pids => format!("pids={}", self.pids?),
            Control::Cpuset => match (&self.cpuset_cpus, &self.cpuset_mems) {
                (Some(cpus), Some(mems)) => format!("cpuset-cpus={cpus} cpuset-mems={mems}"),
                (Some(cpus), None) => format!("cpuset-cpus={cpus}"),
                (None, mems) => format!("cpuset-mems={}", mems.as_ref()?),
            },
            Control::CpuTime => format!("cpu-time={:?}", self.cpu_time?),
            Control::MemoryHigh => format!("memory-high={}", human_bytes(self.memory_high?)),
            Control::MemorySoft => format!("memory-reservation={}", human_bytes(self.memory_soft?)),
            Control::OomGroup => self.oom_group.then(|| "oom-group".to_owned())?,
            Control::IoWeight => format!("io-weight={}", self.io_weight?),
            Control::Io => {
                joined(self.io.iter().map(|io| format!("io={}:{} {}={}", io.device.0, io.device.1, io.what.names().0, io.most)))?
            }
            Control::Hugetlb => joined(self.hugetlb.iter().map(|(page, bytes)| format!("hugetlb={page}:{}", human_bytes(*bytes))))?,
            Control::Devices => format!("devices={}", joined(self.devices.as_ref()?.iter().map(ToString::to_string)).unwrap_or_default()),
        })
    }

    /// The values that no machine like this one accepts, all of them. `online` are the processors of the machine.
    pub(crate) fn out_of_range(&self, online: &Online) -> Vec<Refusal> {
        let mut refused = Vec::new();
        let mut check = |control, ok: bool, accepted: String| {
            if let (false, Some(asked)) = (ok, self.asked(control)) {
                refused.push(Refusal { control, asked, reason: Reason::OutOfRange { accepted } });
            }
        };
        check(Control::Memory, self.memory.is_none_or(|m| (MEMORY_MIN..=i64::MAX as u64).contains(&m)), "at least 512k".into());
        check(Control::Swap, self.swap.is_none_or(|s| s <= i64::MAX as u64), "0 (no swap) or more".into());
        let count = online.cpus.len();
        check(
            Control::Cpu,
            self.cpus.is_none_or(|c| c.is_finite() && c > 0.0 && quota(c) >= CPU_QUOTA_MIN && c <= count as f64),
            format!("from 0.01 to {count}, the number of processors online"),
        );
        check(Control::CpuWeight, self.cpu_weight.is_none_or(|w| (1..=10_000).contains(&w)), "from 1 to 10000".into());
        // The kernel's PID_MAX_LIMIT; above it `pids.max` answers EINVAL.
        check(Control::Pids, self.pids.is_none_or(|p| (1..=4_194_304).contains(&p)), "from 1 to 4194304".into());
        check(Control::MemoryHigh, self.memory_high.is_none_or(|m| (MEMORY_MIN..=i64::MAX as u64).contains(&m)), "at least 512k".into());
        check(Control::MemorySoft, self.memory_soft.is_none_or(|m| m <= i64::MAX as u64), "0 or more".into());
        check(Control::IoWeight, self.io_weight.is_none_or(|w| (1..=10_000).contains(&w)), "from 1 to 10000".into());
        check(Control::Io, self.io.iter().all(|io| io.most > 0), "1 or more a second".into());
        let page = |page: &str| !page.is_empty() && page.bytes().all(|b| b.is_ascii_alphanumeric());
        check(Control::Hugetlb, self.hugetlb.iter().all(|(size, _)| page(size)), "a size of page as 2MB, and bytes".into());
        check(Control::CpuTime, self.cpu_time.is_none_or(|time| !time.is_zero()), "more than 0".into());
        let within = |list: &Option<String>, all: &std::collections::BTreeSet<u32>| {
            list.as_deref().is_none_or(|l| parse::list(l).is_some_and(|l| l.is_subset(all)))
        };
        check(
            Control::Cpuset,
            within(&self.cpuset_cpus, &online.cpus) && within(&self.cpuset_mems, &online.nodes),
            format!("lists like \"0-2,7\" of processors {} and memory nodes {}", ranges(&online.cpus), ranges(&online.nodes)),
        );
        refused
    }
}

/// The processors and memory nodes of this machine.
pub(crate) struct Online {
    pub(crate) cpus: std::collections::BTreeSet<u32>,
    pub(crate) nodes: std::collections::BTreeSet<u32>,
}

impl Online {
    /// Reads only what these limits are checked against: a start counts its system calls.
    pub(crate) fn read_for(limits: &Limits) -> Online {
        if limits.cpus.is_none() && limits.cpuset_cpus.is_none() && limits.cpuset_mems.is_none() {
            return Online { cpus: Default::default(), nodes: Default::default() };
        }
        let read = |path| std::fs::read_to_string(path).ok().and_then(|text| parse::list(&text));
        Online {
            // Without sysfs: at least what this thread may use.
            cpus: read("/sys/devices/system/cpu/online")
                .unwrap_or_else(|| (0..std::thread::available_parallelism().map_or(1, usize::from) as u32).collect()),
            nodes: read("/sys/devices/system/node/online").unwrap_or_else(|| [0].into()),
        }
    }
}

/// The quota in microseconds of each [`CPU_PERIOD`].
pub(crate) fn quota(cpus: f64) -> u64 {
    (cpus * CPU_PERIOD as f64).round() as u64
}

/// v1's `cpu.shares` for a `cpu.weight`: 100 is 1024, and the kernel's bounds are 2 and 262144.
pub(crate) fn shares(weight: u32) -> u64 {
    (u64::from(weight) * 1024 / 100).clamp(2, 262_144)
}

/// One thing that can be limited.
///
/// ```
/// use coracle_cgroups::Control;
/// assert_eq!(Control::Cpu.to_string(), "cpus");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Control {
    /// `memory`: bytes of memory.
    Memory,
    /// `swap`: bytes of swap.
    Swap,
    /// `cpus`: processor time.
    Cpu,
    /// `cpu-weight`: the share when processors are contended.
    CpuWeight,
    /// `pids`: processes and threads.
    Pids,
    /// `cpuset`: which processors and memory nodes.
    Cpuset,
    /// `cpu-time`: processor time in all.
    CpuTime,
    /// `memory-high`: bytes above which it is pressed.
    MemoryHigh,
    /// `memory-reservation`: bytes that are left to it.
    MemorySoft,
    /// `oom-group`: a shortage of memory ends everything.
    OomGroup,
    /// `io-weight`: the share of block devices.
    IoWeight,
    /// `io`: traffic with block devices.
    Io,
    /// `hugetlb`: huge pages.
    Hugetlb,
    /// `devices`: which devices may be opened.
    Devices,
}

impl Control {
    /// All. Memory before swap: on v1 the sum may not be set below the memory limit.
    pub const ALL: [Control; 14] = [
        Control::Memory,
        Control::Swap,
        Control::Cpu,
        Control::CpuWeight,
        Control::Pids,
        Control::Cpuset,
        Control::CpuTime,
        Control::MemoryHigh,
        Control::MemorySoft,
        Control::OomGroup,
        Control::IoWeight,
        Control::Io,
        Control::Hugetlb,
        Control::Devices,
    ];

    /// The kernel's controller that enforces it.
    pub(crate) fn controller(self) -> &'static str {
        match self {
            Control::Memory | Control::Swap | Control::MemoryHigh | Control::MemorySoft | Control::OomGroup => "memory",
            Control::Cpu | Control::CpuWeight => "cpu",
            Control::Pids => "pids",
            Control::Cpuset => "cpuset",
            // v1's; cgroup2 counts it everywhere.
            Control::CpuTime => "cpuacct",
            Control::IoWeight | Control::Io => "io",
            Control::Hugetlb => "hugetlb",
            Control::Devices => "devices",
        }
    }

    /// The same by the name that v1 has for it.
    pub(crate) fn v1_controller(self) -> &'static str {
        match self.controller() {
            "io" => "blkio",
            other => other,
        }
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Control::Memory => "memory",
            Control::Swap => "swap",
            Control::Cpu => "cpus",
            Control::CpuWeight => "cpu-weight",
            Control::Pids => "pids",
            Control::Cpuset => "cpuset",
            Control::CpuTime => "cpu-time",
            Control::MemoryHigh => "memory-high",
            Control::MemorySoft => "memory-reservation",
            Control::OomGroup => "oom-group",
            Control::IoWeight => "io-weight",
            Control::Io => "io",
            Control::Hugetlb => "hugetlb",
            Control::Devices => "devices",
        })
    }
}

/// Bytes from a human's size, by Docker's rules: `64m`, `1.5g`, `512k`, `262144`, also `64MiB` and `64 mb`.
///
/// All units are binary (`k` is 1024), upper or lower case; a bare number is bytes. Fractions are rounded down.
///
/// # Errors
///
/// [`ParseMemoryError`], which shows the accepted forms. Whether a size makes sense as a limit is checked with the rest
/// of the [`Limits`], so `0` parses.
///
/// ```
/// use coracle_cgroups::parse_memory;
/// assert_eq!(parse_memory("256m"), Ok(268_435_456));
/// assert_eq!(parse_memory("1.5GiB"), Ok(1_610_612_736));
/// assert!(parse_memory("64 megs").unwrap_err().to_string().contains("\"64 megs\" isn't a size"));
/// ```
pub fn parse_memory(text: &str) -> Result<u64, ParseMemoryError> {
    let wrong = |too_large| ParseMemoryError { given: text.to_owned(), too_large };
    let trimmed = text.trim();
    let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at(digits);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
        return Err(wrong(false));
    }
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        "p" | "pb" | "pib" => 50,
        _ => return Err(wrong(false)),
    };
    let whole: u64 = whole.parse().map_err(|_| wrong(true))?;
    // Nine digits of a fraction say more than a byte even at a pebibyte's scale that anybody writes.
    let fraction = &fraction[..fraction.len().min(9)];
    let scale = 10u128.pow(fraction.len() as u32);
    let part = fraction.parse::<u128>().map_err(|_| wrong(false))?;
    let bytes = (u128::from(whole) << shift) + ((part << shift) / scale);
    u64::try_from(bytes).map_err(|_| wrong(true))
}

/// A text that isn't a size of memory.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParseMemoryError {
    /// The text.
    pub given: String,
    /// Whether it is a size, but one that no 64-bit number of bytes holds.
    pub too_large: bool,
}

impl ParseMemoryError {
    /// What to write instead.
    pub fn remedy(&self) -> Option<String> {
        Some("write a number and a unit of b, k, m, g or t, for example 64m, 1.5g or 512KiB".into())
    }
}

impl fmt::Display for ParseMemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.too_large {
            true => write!(f, "{:?} is more bytes than 64 bits hold", self.given),
            false => write!(
                f,
                "{:?} isn't a size: expected a number and perhaps a unit: b, k, m, g, t, also KiB, MB and so on (all binary)",
                self.given
            ),
        }
    }
}

impl std::error::Error for ParseMemoryError {}

/// Several words as one text; none for none.
fn joined(words: impl Iterator<Item = String>) -> Option<String> {
    let words: Vec<String> = words.collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// v1's weight for an `io.weight`: 100 is bfq's default of both, whose highest is 1000.
pub(crate) fn blkio_weight(weight: u32) -> u32 {
    weight.clamp(1, 1000)
}

/// Bytes with the largest unit that divides them: 67108864 is `64m`.
fn human_bytes(bytes: u64) -> String {
    let unit = [(40, "t"), (30, "g"), (20, "m"), (10, "k")].into_iter().find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift);
    match unit {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift),
        None => bytes.to_string(),
    }
}

/// A set of numbers as a list of ranges: `0-2,7`.
fn ranges(set: &std::collections::BTreeSet<u32>) -> String {
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for &n in set {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == n => *last = n,
            _ => runs.push((n, n)),
        }
    }
    let text: Vec<String> = runs.into_iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
    text.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_cpus() -> Online {
        Online { cpus: [0, 1].into(), nodes: [0].into() }
    }

    #[test]
    fn sizes_are_read_by_dockers_rules() {
        for (text, bytes) in [
            ("0", 0),
            ("262144", 262_144),
            ("10b", 10),
            ("64m", 64 << 20),
            ("64M", 64 << 20),
            ("64mb", 64 << 20),
            ("64MiB", 64 << 20),
            (" 64 m ", 64 << 20),
            ("1.5g", 3 << 29),
            ("0.5k", 512),
            ("1t", 1 << 40),
            ("1.9999999999k", 2047),
            ("15p", 15 << 50),
        ] {
            assert_eq!(parse_memory(text), Ok(bytes), "{text:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_named_with_the_accepted_forms() {
        for text in ["", "m", "-1", "64x", "1..5g", "1.2.3g", ".5g", "5.g", "64m64", "0x10", "1e3", "∞", "64 megs", "64m\0"] {
            let error = parse_memory(text).unwrap_err();
            assert!(!error.too_large, "{text:?}");
            assert!(error.to_string().contains("b, k, m, g, t, also KiB"), "{error}");
            assert!(error.remedy().unwrap().contains("64m"));
        }
        for text in ["16384p", "18446744073709551616", "99999999999999999999999g"] {
            assert!(parse_memory(text).unwrap_err().too_large, "{text:?}");
        }
    }

    #[test]
    fn values_out_of_range_are_all_reported_together() {
        let limits = Limits::new().memory(1024).cpus(2.5).cpu_weight(0).pids(0).cpuset_cpus("0-7").swap(u64::MAX);
        let texts: Vec<String> = limits.out_of_range(&two_cpus()).iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "can't enforce memory=1k: out of range, accepted is at least 512k",
                "can't enforce swap=18446744073709551615: out of range, accepted is 0 (no swap) or more",
                "can't enforce cpus=2.5: out of range, accepted is from 0.01 to 2, the number of processors online",
                "can't enforce cpu-weight=0: out of range, accepted is from 1 to 10000",
                "can't enforce pids=0: out of range, accepted is from 1 to 4194304",
                "can't enforce cpuset-cpus=0-7: out of range, accepted is lists like \"0-2,7\" of processors 0-1 and memory nodes 0",
            ]
        );
    }

    #[test]
    fn the_ends_of_each_range_are_accepted() {
        for limits in [
            Limits::new(),
            Limits::new().memory(512 << 10).swap(0).cpus(0.01).cpu_weight(1).pids(1).cpuset_cpus("0").cpuset_mems("0"),
            Limits::new().memory(1 << 40).cpus(2.0).cpu_weight(10_000).pids(4_194_304).cpuset_cpus("0-1"),
        ] {
            assert_eq!(limits.out_of_range(&two_cpus()), [], "{limits:?}");
        }
        for cpus in [0.0, -1.0, 0.005, f64::NAN, f64::INFINITY, 2.01] {
            assert_eq!(Limits::new().cpus(cpus).out_of_range(&two_cpus()).len(), 1, "{cpus}");
        }
    }

    #[test]
    fn bytes_are_shown_as_people_write_them() {
        for (bytes, text) in [(0, "0"), (1, "1"), (1023, "1023"), (64 << 20, "64m"), (3 << 29, "1536m"), (1 << 40, "1t")] {
            assert_eq!(human_bytes(bytes), text);
        }
    }
}
