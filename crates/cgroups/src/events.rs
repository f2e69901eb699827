//! Which limits were hit: the half of a verdict that control groups know.

use crate::parse;
use crate::usage::Stat;

/// How often limits were hit, from the raw files that [`Plan::read_at_end`](crate::Plan::read_at_end) names.
///
/// ```
/// use coracle_cgroups::{Events, Stat};
/// let events = Events::from_raw([(Stat::MemoryEvents, b"max 31\noom 1\noom_kill 1\n".as_slice())]);
/// assert!(events.oom_killed());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Events {
    /// Processes that the kernel's OOM killer ended, by this cgroup's limit or by one above it.
    pub oom_kills: u64,
    /// How often memory was at its limit and had to be reclaimed. On v1 some kernels count nothing where swap is
    /// forbidden, as the sum of both is hit first; don't conclude from 0.
    pub memory_limit_hits: u64,
    /// How often a fork or a new thread was refused by the limit on pids. Old kernels (before 6.11) count only where
    /// it was refused, so that both levels of the tree are read, and the larger count is told.
    pub pids_limit_hits: u64,
}

impl Events {
    /// Parses what was read; files that are missing or unreadable count nothing. Takes any bytes.
    pub fn from_raw<'a>(raw: impl IntoIterator<Item = (Stat, &'a [u8])>) -> Events {
        let mut events = Events::default();
        let raise = |field: &mut u64, value: Option<u64>| *field = (*field).max(value.unwrap_or(0));
        for (stat, raw) in raw {
            match stat {
                Stat::MemoryEvents => {
                    raise(&mut events.oom_kills, parse::keyed(raw, "oom_kill"));
                    raise(&mut events.memory_limit_hits, parse::keyed(raw, "max"));
                }
                Stat::V1MemoryOomControl => raise(&mut events.oom_kills, parse::keyed(raw, "oom_kill")),
                Stat::V1MemoryFailcnt => raise(&mut events.memory_limit_hits, parse::number(raw)),
                Stat::PidsEvents => raise(&mut events.pids_limit_hits, parse::keyed(raw, "max")),
                _ => {}
            }
        }
        events
    }

    /// Whether the kernel's OOM killer ended a process of the cgroup. The v1 file counts since Linux 4.13.
    pub fn oom_killed(&self) -> bool {
        self.oom_kills > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_oom_kill_is_seen_on_both_versions() {
        for (stat, raw, kills) in [
            (Stat::MemoryEvents, "low 0\nhigh 0\nmax 12\noom 1\noom_kill 1\noom_group_kill 0\n", 1),
            (Stat::MemoryEvents, "low 0\nhigh 0\nmax 12\noom 1\noom_kill 0\n", 0),
            (Stat::V1MemoryOomControl, "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", 2),
            (Stat::V1MemoryOomControl, "oom_kill_disable 0\nunder_oom 1\n", 0),
            (Stat::PidsEvents, "oom_kill 1\n", 0),
        ] {
            let events = Events::from_raw([(stat, raw.as_bytes())]);
            assert_eq!((events.oom_kills, events.oom_killed()), (kills, kills > 0), "{raw:?}");
        }
    }

    #[test]
    fn refused_forks_are_the_larger_count_of_both_levels() {
        let events =
            Events::from_raw([(Stat::PidsEvents, b"max 0\n".as_slice()), (Stat::PidsEvents, b"max 7\n"), (Stat::PidsEvents, b"max 3\n")]);
        assert_eq!(events.pids_limit_hits, 7);
    }

    #[test]
    fn no_bytes_make_events_panic() {
        for seed in 0..20_000 {
            let raw = parse::noise(seed);
            Events::from_raw(Stat::ALL.into_iter().map(|stat| (stat, raw.as_slice())));
        }
    }
}
