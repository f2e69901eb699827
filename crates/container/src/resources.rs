//! Limits beyond memory, processors and processes: what is pressed, weighed, pinned, throttled.

use crate::builder::ContainerBuilder;
use crate::error::Problem;
use crate::limits::MemorySize;
use crate::pause::Update;
use coracle_cgroups::{IoBound, IoLimit, Limits};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;

/// What was said.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Resources {
    pub(crate) memory_high: Option<MemorySize>,
    pub(crate) memory_reservation: Option<MemorySize>,
    pub(crate) swap: Option<MemorySize>,
    pub(crate) oom_group: bool,
    pub(crate) cpu_weight: Option<u32>,
    pub(crate) cpuset_cpus: Option<String>,
    pub(crate) cpuset_mems: Option<String>,
    pub(crate) io_weight: Option<u32>,
    pub(crate) io: Vec<(PathBuf, Io, MemorySize)>,
    pub(crate) hugetlb: Vec<(String, MemorySize)>,
}

/// What of the traffic with a block device is bounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Io {
    /// Bytes read a second.
    ReadBytes,
    /// Bytes written a second.
    WriteBytes,
    /// Reads a second.
    ReadOperations,
    /// Writes a second.
    WriteOperations,
}

impl Io {
    fn bound(self) -> IoBound {
        match self {
            Self::ReadBytes => IoBound::ReadBytes,
            Self::WriteBytes => IoBound::WriteBytes,
            Self::ReadOperations => IoBound::ReadOperations,
            Self::WriteOperations => IoBound::WriteOperations,
        }
    }
}

/// The setters, for a container that is described and for one that runs.
macro_rules! setters {
    ([$($face:ident)?] $of:ty) => {
        impl$(<$face>)? $of {
            /// Bytes of memory, or a text as `200m`, above which it is slowed down and pressed before it comes to its limit. cgroup v2 has it
            /// (`memory.high`); on v1 it is an error.
            pub fn memory_high(mut self, limit: impl Into<MemorySize>) -> Self {
                self.resources.memory_high = Some(limit.into());
                self
            }

            /// Memory that is left to it while the machine runs short: docker-run(1) `--memory-reservation`. `memory.low` on cgroup v2, the soft
            /// limit on v1.
            pub fn memory_reservation(mut self, soft: impl Into<MemorySize>) -> Self {
                self.resources.memory_reservation = Some(soft.into());
                self
            }

            /// The most swap, apart from memory; 0 forbids it. As much as the memory if nothing is said, as with Docker. On v1 it needs a limit on
            /// memory.
            pub fn swap(mut self, limit: impl Into<MemorySize>) -> Self {
                self.resources.swap = Some(limit.into());
                self
            }

            /// The share of the processors when they are contended: 1 to 10000; 100 is everybody's default. (docker-run(1) `--cpu-shares` is that
            /// times 10.24.)
            pub fn cpu_weight(mut self, weight: u32) -> Self {
                self.resources.cpu_weight = Some(weight);
                self
            }

            /// The share of block devices when they are contended: 1 to 10000; 100 is everybody's default. Needs the scheduler bfq, or iocost.
            pub fn io_weight(mut self, weight: u32) -> Self {
                self.resources.io_weight = Some(weight);
                self
            }

            /// A bound on the traffic with the disk of a node of this host, a second: `.io("/dev/sda", Io::WriteBytes, "10m")`. Of a whole disk: the
            /// kernel bounds no partitions.
            pub fn io(mut self, disk: impl Into<PathBuf>, what: Io, most: impl Into<MemorySize>) -> Self {
                self.resources.io.push((disk.into(), what, most.into()));
                self
            }

            /// The most huge pages of a size, as the kernel writes it: `.hugetlb("2MB", "64m")`.
            pub fn hugetlb(mut self, page: impl Into<String>, most: impl Into<MemorySize>) -> Self {
                self.resources.hugetlb.push((page.into(), most.into()));
                self
            }
        }
    };
}

setters!([Face] ContainerBuilder<Face>);
setters!([] Update);

impl<Face> ContainerBuilder<Face> {
    /// Whether a shortage of memory ends the whole container, and not one process of it: `memory.oom.group` of cgroup v2. On v1 it is an error.
    pub fn oom_group(mut self, yes: bool) -> Self {
        self.resources.oom_group = yes;
        self
    }

    /// Only these processors: `0-2,7`.
    pub fn cpuset_cpus(mut self, list: impl Into<String>) -> Self {
        self.resources.cpuset_cpus = Some(list.into());
        self
    }

    /// Only these memory nodes: `0`.
    pub fn cpuset_mems(mut self, list: impl Into<String>) -> Self {
        self.resources.cpuset_mems = Some(list.into());
        self
    }
}

impl Resources {
    /// Adds what was said to the limits.
    pub(crate) fn limit(&self, mut limits: Limits, problems: &mut Vec<Problem>) -> Limits {
        let mut size = |what: &str, size: &MemorySize| {
            size.bytes().map_err(|error| problems.push(Problem { what: format!("{what}: {error}"), remedy: error.remedy() })).ok()
        };
        let mut of = |what: &str, given: &Option<MemorySize>| given.as_ref().and_then(|given| size(what, given));
        limits.memory_high = of("memory-high", &self.memory_high);
        limits.memory_soft = of("memory-reservation", &self.memory_reservation);
        limits.swap = of("swap", &self.swap);
        for (page, most) in &self.hugetlb {
            if let Some(bytes) = size("hugetlb", most) {
                limits = limits.hugetlb(page, bytes);
            }
        }
        let mut io = Vec::new();
        for (disk, what, most) in &self.io {
            io.extend(size("io", most).map(|most| (disk, what.bound(), most)));
        }
        for (disk, what, most) in io {
            match disk.metadata() {
                Ok(found) if found.file_type().is_block_device() => {
                    let device = (rustix::fs::major(found.rdev()), rustix::fs::minor(found.rdev()));
                    limits = limits.io(IoLimit { device, what, most });
                }
                Ok(_) => problems.push(Problem {
                    what: format!("{} is no disk", disk.display()),
                    remedy: Some("name the node of a block device: /dev/sda".into()),
                }),
                Err(error) => problems.push(Problem { what: format!("there is no disk {}: {error}", disk.display()), remedy: None }),
            }
        }
        limits.oom_group = self.oom_group;
        limits.cpu_weight = self.cpu_weight;
        limits.io_weight = self.io_weight;
        limits.cpuset_cpus = self.cpuset_cpus.clone();
        limits.cpuset_mems = self.cpuset_mems.clone();
        limits
    }

    /// What is said now over what was said before.
    pub(crate) fn update(&mut self, new: &Self) {
        let keep = |old: &mut Option<MemorySize>, new: &Option<MemorySize>| *old = new.clone().or_else(|| old.take());
        keep(&mut self.memory_high, &new.memory_high);
        keep(&mut self.memory_reservation, &new.memory_reservation);
        keep(&mut self.swap, &new.swap);
        self.cpu_weight = new.cpu_weight.or(self.cpu_weight);
        self.io_weight = new.io_weight.or(self.io_weight);
        self.io.retain(|(disk, what, _)| !new.io.iter().any(|(d, w, _)| (d, w) == (disk, what)));
        self.io.extend(new.io.iter().cloned());
        self.hugetlb.retain(|(page, _)| !new.hugetlb.iter().any(|(p, _)| p == page));
        self.hugetlb.extend(new.hugetlb.iter().cloned());
    }
}
