//! Why a container ended: each limit has a verdict of its own, what was said before is kept, and what just fits isn't ended.

use crate::support::need;
use crate::support::place::{Place, block_on, fails, ran};
use crate::support::{met, needs::Need};
use coracle::{Control, Error, LogLine, Reason, Signal, Stdio};
use std::time::{Duration, Instant};
use tokio::io::AsyncReadExt as _;

fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

#[test]
fn the_wall_clock_ends_everything_and_keeps_what_was_said() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for init in [true, false] {
        let line = "trap '' TERM; echo said; sleep 1000 & sleep 1000";
        let out = ran(place.sh(line).init(init).wall(millis(700)));
        assert_eq!((out.status.reason(), out.status.signal(), out.status.code()), (Reason::WallClock, Some(Signal::KILL), None));
        assert_eq!((out.stdout_lossy().as_ref(), out.status.to_string().as_str()), ("said\n", "out of time: the wall clock ran out"));
        assert!(out.usage.wall >= millis(500), "{:?}", out.usage);
    }
    assert_eq!(ran(place.sh("exit 3").wall(Duration::from_secs(60))).status.reason(), Reason::Code(3));
    place.assert_clean();
}

#[test]
fn processor_time_is_that_of_all_processes_and_its_end_is_told_apart() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let spin = "while :; do :; done";
    let out = ran(place.sh(&format!("echo said; ({spin}) & ({spin}) & wait")).cpu_time(millis(400)));
    assert_eq!((out.status.reason(), out.stdout_lossy().as_ref()), (Reason::CpuTime, "said\n"));
    let used = out.usage.cpu_user + out.usage.cpu_system;
    // How late the supervisor looks depends on when it gets a processor; how early doesn't.
    assert!(used >= millis(400) && used < millis(1400), "{used:?}");
    println!("RESULT: 400 ms of processor time were ended after {used:?}");
    assert_eq!(out.enforced.iter().map(|limit| limit.control).collect::<Vec<_>>(), [Control::CpuTime]);
    // Time alone is none.
    assert_eq!(ran(place.sh("sleep 1; exit 3").cpu_time(millis(900))).status.reason(), Reason::Code(3));
    // Further commands count, and children that have ended.
    let container = block_on(place.sh("exec sleep 1000").cpu_time(millis(300)).run()).expect("it runs");
    let exec = block_on(container.exec(["sh", "-c", "while :; do timeout 0.05 sh -c 'while :; do :; done'; done"]).spawn());
    let exec = exec.expect("it starts");
    assert_eq!(block_on(container.wait()).expect("it ends").reason(), Reason::CpuTime);
    assert_eq!(block_on(exec.wait()).expect("it ends").reason(), Reason::ContainerEnded);
    drop((container, exec));
    place.assert_clean();
}

#[test]
fn processor_time_that_nobody_counts_is_refused() {
    need!(Busybox, UserNamespaces, PlainUser);
    if met(Need::Delegation) {
        return;
    }
    let place = Place::new();
    let (text, remedy, _) = fails(place.sh("echo never").cpu_time(millis(1500)));
    assert!(text.starts_with("can't enforce cpu-time=1.5s: "), "{text}");
    assert!(remedy.is_some_and(|remedy| remedy.ends_with("or go on without: .best_effort(Control::CpuTime)")));
    let out = ran(place.sh("echo runs").cpu_time(millis(1)).best_effort(Control::CpuTime));
    assert_eq!((out.stdout_lossy().as_ref(), out.waived.len()), ("runs\n", 1));
}

#[test]
fn output_is_delivered_up_to_the_limit_and_not_a_byte_more() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let out = ran(place.sh("yes").output_limit(100_000));
    assert_eq!((out.status.reason(), out.stdout.len(), out.stderr.len()), (Reason::OutputLimit, 100_000, 0));
    let out = ran(place.sh("yes & yes >&2").output_limit("1m"));
    assert_eq!((out.status.reason(), out.stdout.len() + out.stderr.len()), (Reason::OutputLimit, 1 << 20));
    // What just fits is fine.
    let out = ran(place.sh("head -c 1000 /dev/zero; head -c 500 /dev/zero >&2").output_limit(1500));
    assert_eq!((out.status.reason(), out.stdout.len(), out.stderr.len()), (Reason::Code(0), 1000, 500));
    let out = ran(place.sh("head -c 1501 /dev/zero; sleep 1000").output_limit(1500));
    assert_eq!((out.status.reason(), out.stdout.len()), (Reason::OutputLimit, 1500));
    let bytes: Vec<u8> = (0..3u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = ran(place.container().cmd(["cat"]).stdin_bytes(bytes.clone()).output_limit("10m"));
    assert!(out.status.success() && out.stdout == bytes, "{} bytes came back", out.stdout.len());

    // Into a log.
    let container = block_on(place.sh("sleep 0.3; yes").output_limit(64_000).run()).expect("it runs");
    assert_eq!(block_on(container.wait()).expect("it ends").reason(), Reason::OutputLimit);
    let lines = container.logs().collect().expect("it is kept");
    assert_eq!(lines.iter().map(|line: &LogLine| line.bytes.len() + usize::from(line.complete)).sum::<usize>(), 64_000);
    drop(container);
    place.assert_clean();
}

#[test]
fn what_is_counted_reaches_a_reader_who_comes_late_and_ends_for_one_who_has_gone() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // As much as a pipe holds, in pieces that take a place each in the next one.
    let mut container = block_on(place.sh("for i in $(seq 60); do head -c 1000 /dev/zero; done; exit 7").output_limit("1m").spawn());
    let container = container.as_mut().expect("it starts");
    assert_eq!(block_on(container.wait()).expect("it ends, though nobody reads").code(), Some(7));
    let mut bytes = Vec::new();
    block_on(container.stdout.take().expect("a pipe").read_to_end(&mut bytes)).expect("it is read");
    assert_eq!(bytes.len(), 60_000);
    let mut container = block_on(place.sh("yes; echo $? >&2; exit 5").output_limit("100m").spawn()).expect("it starts");
    drop(container.stdout.take());
    assert_eq!(block_on(container.wait()).expect("it ends").code(), Some(5));
    let mut said = String::new();
    block_on(container.stderr.take().expect("a pipe").read_to_string(&mut said)).expect("it is read");
    assert_eq!(said.lines().last(), Some("141"), "a reader who has gone is SIGPIPE, as without us");
    drop(container);
    place.assert_clean();
}

#[test]
fn silence_is_ended_and_whoever_speaks_now_and_then_is_not() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let begun = Instant::now();
    let speaks = "for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done; echo late >&2; sleep 1000";
    let out = ran(place.sh(speaks).idle_timeout(Duration::from_secs(2)));
    assert_eq!(
        (out.status.reason(), out.stdout_lossy().as_ref(), out.stderr_lossy().as_ref()),
        (Reason::IdleTimeout, "1\n2\n3\n4\n5\n6\n", "late\n")
    );
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    let container = block_on(place.sh("echo once; exec sleep 1000").idle_timeout(millis(1500)).run()).expect("it runs");
    assert_eq!(block_on(container.wait()).expect("it ends").reason(), Reason::IdleTimeout);
    assert_eq!(ran(place.sh("sleep 0.2").idle_timeout(Duration::from_secs(60))).status.reason(), Reason::Code(0));
    drop(container);
    place.assert_clean();
}

#[test]
fn what_cannot_be_counted_is_said_before_anything_happens() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for builder in [place.sh("true").output_limit(5), place.sh("true").idle_timeout(millis(5))] {
        let (text, remedy, _) = fails(builder.clone().stderr(Stdio::inherit()));
        assert!(text.contains("can't be counted"), "{text}");
        assert!(remedy.is_some_and(|remedy| remedy.contains("Stdio::piped()")));
        assert!(matches!(block_on(builder.status()), Err(Error::Description { .. })));
    }
    let (text, ..) = fails(place.sh("true").output_limit("lots"));
    assert!(text.starts_with("the limit on output: "), "{text}");
    assert_eq!(place.left_now(), Vec::<String>::new());
}

#[test]
fn a_failure_after_a_process_was_refused_says_so_and_a_success_does_not() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let out = ran(place.sh("for i in $(seq 40); do sleep 2 & done").pids(12));
    assert!(out.status.code().is_some_and(|code| code != 0), "{}", out.status);
    assert_eq!((out.status.reason(), out.status.to_string().as_str()), (Reason::Pids, "failed after the limit on processes was hit"));
    let out = ran(place.sh("(for i in $(seq 40); do sleep 2 & done); exit 0").pids(12));
    assert_eq!(out.status.reason(), Reason::Code(0));
    assert_eq!(ran(place.sh("exit 9").pids(12)).status.reason(), Reason::Code(9));
    place.assert_clean();
}

#[test]
fn usage_tells_what_was_used() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let line = "timeout 0.5 sh -c 'while :; do :; done'; dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null; for i in 1 2 3 4 5; do sleep 0.3 & done; wait; sleep 0.2";
    let out = ran(place.sh(line).memory("64m").pids(30));
    let usage = out.usage;
    assert!(usage.wall >= millis(900), "{usage:?}");
    assert!(usage.cpu_user + usage.cpu_system >= millis(100), "{usage:?}");
    // Who counts the most at once: Linux 5.19 and 6.12 on cgroup v2, v1 always and never.
    if let Some(peak) = usage.memory_peak {
        assert!(((20 << 20)..=(64 << 20)).contains(&peak), "{usage:?}");
    }
    if let Some(peak) = usage.pids_peak {
        assert!((6..=30).contains(&peak), "{usage:?}");
    }
}
