//! What was consumed, parsed from the raw contents of cgroup files.

use std::time::Duration;

use crate::parse;

/// A kind of file to read at the end. Which file that is stands beside it in [`Plan::read_at_end`](crate::Plan::read_at_end).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stat {
    /// cgroup2's `cpu.stat`: works without the cpu controller.
    CpuStat,
    /// `memory.peak` (Linux 5.19).
    MemoryPeak,
    /// `memory.events`.
    MemoryEvents,
    /// `pids.peak` (Linux 6.12), on both versions.
    PidsPeak,
    /// `pids.events`, on both versions.
    PidsEvents,
    /// `io.stat`.
    IoStat,
    /// v1's `memory.max_usage_in_bytes`.
    V1MemoryMaxUsage,
    /// v1's `memory.oom_control`.
    V1MemoryOomControl,
    /// v1's `memory.failcnt`, and `memory.memsw.failcnt`.
    V1MemoryFailcnt,
    /// v1's `cpuacct.usage_user`, nanoseconds.
    V1CpuacctUsageUser,
    /// v1's `cpuacct.usage_sys`, nanoseconds.
    V1CpuacctUsageSys,
    /// v1's `cpu.stat`, which only tells throttling.
    V1CpuStat,
}

impl Stat {
    pub(crate) const ALL: [Stat; 12] = [
        Stat::CpuStat,
        Stat::MemoryPeak,
        Stat::MemoryEvents,
        Stat::PidsPeak,
        Stat::PidsEvents,
        Stat::IoStat,
        Stat::V1MemoryMaxUsage,
        Stat::V1MemoryOomControl,
        Stat::V1MemoryFailcnt,
        Stat::V1CpuacctUsageUser,
        Stat::V1CpuacctUsageSys,
        Stat::V1CpuStat,
    ];
}

/// What was consumed; `None` is "the kernel didn't tell", never zero.
///
/// ```
/// use coracle_cgroups::{Stat, Usage};
/// let usage = Usage::from_raw([(Stat::CpuStat, b"usage_usec 5\nuser_usec 3\nsystem_usec 2\n".as_slice())]);
/// assert_eq!(usage.cpu_user, Some(std::time::Duration::from_micros(3)));
/// assert_eq!(usage.memory_peak, None);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Usage {
    /// Processor time in user mode.
    pub cpu_user: Option<Duration>,
    /// Processor time in the kernel.
    pub cpu_system: Option<Duration>,
    /// Time that processes were held back by the cpu quota, summed over processors.
    pub cpu_throttled: Option<Duration>,
    /// The most memory ever charged, page cache included, in bytes.
    pub memory_peak: Option<u64>,
    /// The most processes and threads that there were at once.
    pub pids_peak: Option<u64>,
    /// Bytes read from block devices.
    pub io_read: Option<u64>,
    /// Bytes written to block devices.
    pub io_write: Option<u64>,
}

impl Usage {
    /// Parses what was read. Files may be missing (older kernels, v1) or in any order; takes any bytes.
    pub fn from_raw<'a>(raw: impl IntoIterator<Item = (Stat, &'a [u8])>) -> Usage {
        let mut usage = Usage::default();
        for (stat, raw) in raw {
            match stat {
                Stat::CpuStat => {
                    usage.cpu_user = parse::keyed(raw, "user_usec").map(Duration::from_micros);
                    usage.cpu_system = parse::keyed(raw, "system_usec").map(Duration::from_micros);
                    // Only with the cpu controller; on hybrid machines v1's file tells it.
                    usage.cpu_throttled = parse::keyed(raw, "throttled_usec").map(Duration::from_micros).or(usage.cpu_throttled);
                }
                Stat::MemoryPeak | Stat::V1MemoryMaxUsage => usage.memory_peak = parse::number(raw),
                Stat::PidsPeak => usage.pids_peak = parse::number(raw),
                Stat::IoStat => {
                    usage.io_read = Some(parse::nested_sum(raw, "rbytes"));
                    usage.io_write = Some(parse::nested_sum(raw, "wbytes"));
                }
                Stat::V1CpuacctUsageUser => usage.cpu_user = parse::number(raw).map(Duration::from_nanos),
                Stat::V1CpuacctUsageSys => usage.cpu_system = parse::number(raw).map(Duration::from_nanos),
                Stat::V1CpuStat => {
                    usage.cpu_throttled = parse::keyed(raw, "throttled_time").map(Duration::from_nanos).or(usage.cpu_throttled)
                }
                Stat::MemoryEvents | Stat::PidsEvents | Stat::V1MemoryOomControl | Stat::V1MemoryFailcnt => {}
            }
        }
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_of_v2_is_read_whole() {
        let cpu = b"usage_usec 300\nuser_usec 200\nsystem_usec 100\nnr_periods 4\nnr_throttled 2\nthrottled_usec 50\n";
        let usage = Usage::from_raw([
            (Stat::CpuStat, cpu.as_slice()),
            (Stat::MemoryPeak, b"4096\n"),
            (Stat::PidsPeak, b"3\n"),
            (Stat::IoStat, b"8:0 rbytes=10 wbytes=20 rios=1 wios=1\n"),
        ]);
        let micros = |n| Some(Duration::from_micros(n));
        let expected = Usage {
            cpu_user: micros(200),
            cpu_system: micros(100),
            cpu_throttled: micros(50),
            memory_peak: Some(4096),
            pids_peak: Some(3),
            io_read: Some(10),
            io_write: Some(20),
        };
        assert_eq!(usage, expected);
    }

    #[test]
    fn throttling_of_a_hybrid_machine_survives_in_either_order() {
        let v1 = (Stat::V1CpuStat, b"nr_periods 4\nthrottled_time 5000\n".as_slice());
        let v2 = (Stat::CpuStat, b"user_usec 1\n".as_slice());
        for order in [[v1, v2], [v2, v1]] {
            assert_eq!(Usage::from_raw(order).cpu_throttled, Some(Duration::from_micros(5)));
        }
    }

    #[test]
    fn what_the_kernel_did_not_tell_is_none() {
        assert_eq!(Usage::from_raw([]), Usage::default());
        assert_eq!(Usage::from_raw([(Stat::MemoryPeak, b"max\n".as_slice()), (Stat::PidsPeak, b"")]), Usage::default());
    }

    #[test]
    fn no_bytes_make_usage_panic() {
        for seed in 0..20_000 {
            let raw = parse::noise(seed);
            Usage::from_raw(Stat::ALL.into_iter().map(|stat| (stat, raw.as_slice())));
        }
    }
}
