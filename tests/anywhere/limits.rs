//! Limits hold, are seen from inside, and fail closed; the same on cgroup v2, hybrid and v1.

use crate::support::need;
use crate::support::place::{Place, block_on, fails, ran};
use crate::support::{met, needs::Need};
use coracle::{Control, Engine, Reason, Signal};
use std::path::Path;
use std::time::{Duration, Instant};

/// Shell that reads a limit where this layout has it: `v2 file`, or `controller/v1 file`.
fn reads(v2: &str, v1: &str) -> String {
    format!("cat /sys/fs/cgroup/{v2} 2>/dev/null || cat /sys/fs/cgroup/{v1}")
}

#[test]
fn a_command_that_takes_too_much_memory_is_ended_and_the_verdict_says_so() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let out = ran(place.container().cmd(["awk", "BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }"]).memory("32m"));
    assert_eq!((out.status.reason(), out.status.signal()), (Reason::OutOfMemory, Some(Signal::KILL)));
    assert_eq!(out.status.to_string(), "out of memory: the memory limit was hit");
    // memory.peak came with Linux 5.19; v1 always had it.
    if let Some(peak) = out.usage.memory_peak {
        assert!(((16 << 20)..=(34 << 20)).contains(&peak), "{peak}");
    }
    place.assert_clean();
}

#[test]
fn a_command_that_outlives_its_childs_lack_of_memory_has_its_own_verdict() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let out = ran(place.sh("awk 'BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }'; echo $?; exit 3").memory("32m"));
    assert_eq!((out.stdout_lossy().lines().last(), out.status.reason()), (Some("137"), Reason::Code(3)));
}

#[test]
fn a_signal_of_its_own_is_no_lack_of_memory() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let out = ran(place.sh("kill -KILL $$").memory("32m"));
    assert_eq!(out.status.reason(), Reason::Signal(Signal::KILL));
}

#[test]
fn a_fork_bomb_stays_in_its_container() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    // Bounded, in case nothing bounds it: seven generations, 128 processes.
    let bomb = "b() { [ $1 -gt 0 ] && { b $(($1 - 1)) & b $(($1 - 1)) & }; sleep 1000; }; (b 6) & exec sleep 1000";
    let container = block_on(place.sh(bomb).pids(20).run()).expect("it runs");
    std::thread::sleep(Duration::from_millis(700));
    let processes = place.left_now().into_iter().filter(|what| what.starts_with("process")).count();
    // One that can't fork gives up, so there are fewer than are allowed; the supervisor stands outside.
    assert!((5..=21).contains(&processes), "{processes} processes");
    block_on(container.remove()).expect("all is taken back");
    let out = ran(place.sh("for i in $(seq 40); do sleep 5 & done; echo all").pids(20));
    assert!(out.stderr_lossy().contains("can't fork"), "{}{}", out.stdout_lossy(), out.stderr_lossy());
    place.assert_clean();
}

#[test]
fn a_fifth_of_a_processor_is_a_fifth() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let began = Instant::now();
    let out = ran(place.sh("timeout 2 sh -c 'while :; do :; done' & timeout 2 sh -c 'while :; do :; done'; wait").cpus(0.2));
    let wall = began.elapsed();
    let used = out.usage.cpu_user + out.usage.cpu_system;
    assert!(wall >= Duration::from_millis(1900), "{wall:?}");
    // A period's quota may be spent at once: 20 ms at the beginning and at the end.
    let most = wall.mul_f64(0.2) + Duration::from_millis(60);
    assert!(used <= most && used >= Duration::from_millis(100), "{used:?} of {wall:?}");
    place.assert_clean();
}

#[test]
fn limits_are_seen_from_inside() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let line =
        [reads("memory.max", "memory/memory.limit_in_bytes"), reads("pids.max", "pids/pids.max"), reads("cpu.max", "cpu/cpu.cfs_quota_us")];
    let out = ran(place.sh(&line.join("; ")).memory("64m").pids(33).cpus(0.5));
    let text = out.stdout_lossy();
    let said: Vec<&str> = text.lines().collect();
    assert_eq!((said[0], said[1], said[2].split(' ').next()), ("67108864", "33", Some("50000")), "{}", out.stderr_lossy());
    let asked: Vec<&str> = out.enforced.iter().map(|limit| limit.asked.as_str()).collect();
    assert_eq!(asked, ["memory=64m", "cpus=0.5", "pids=33"]);
    assert!(out.waived.is_empty());
    // What programs take for the machine's is theirs, and they can't change it.
    let out = ran(place
        .sh("cut -d : -f 3 /proc/self/cgroup | sort -u; find /sys/fs/cgroup -name cgroup.procs -exec sh -c 'echo 0 > $0' {} \\;")
        .memory("64m"));
    assert!(out.stderr_lossy().contains("Read-only file system"), "{}{}", out.stdout_lossy(), out.stderr_lossy());
}

#[test]
fn what_is_said_to_be_enforced_is() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").memory(48u64 << 20).pids(17).cpus(0.75).run()).expect("it runs");
    let enforced = container.enforced();
    assert_eq!(enforced.iter().map(|limit| limit.control).collect::<Vec<_>>(), [Control::Memory, Control::Cpu, Control::Pids]);
    for limit in enforced {
        let value = std::fs::read_to_string(&limit.path).unwrap_or_else(|error| panic!("{}: {error}", limit.path.display()));
        let number = value.split_whitespace().next().unwrap_or_default();
        let expected = match limit.control {
            Control::Memory => "50331648",
            Control::Cpu => "75000",
            _ => "17",
        };
        assert_eq!(number, expected, "{}", limit.path.display());
        // The container's PID 1 is in that cgroup, or below it.
        let pid = container.pid().to_string();
        let procs = |directory: &Path| std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        let directory = limit.path.parent().expect("a file lies somewhere");
        assert!(
            [directory.to_owned(), directory.join("main")].iter().any(|d| procs(d).lines().any(|line| line == pid)),
            "{}",
            limit.path.display()
        );
        assert!(limit.path.to_string_lossy().contains(container.id()), "{}", limit.path.display());
    }
    let directories: Vec<_> = enforced.iter().filter_map(|limit| limit.path.parent().map(Path::to_owned)).collect();
    block_on(container.remove()).expect("all is taken back");
    assert!(directories.iter().all(|directory| !directory.exists()), "{directories:?}");
    place.assert_clean();
}

#[test]
fn a_limit_that_this_machine_cannot_keep_is_an_error() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let engine = Engine::builder().root(place.path().join("other")).cgroup_parent("/no/such/cgroup").open().expect("an engine opens");
    place.look_again();
    let (text, remedy, code) = fails(place.sh("echo never").engine(&engine).memory("64m").pids(5));
    let remedy = remedy.expect("there is one");
    assert!(text.starts_with("can't enforce memory=64m: there is no cgroup /sys/fs/cgroup/"), "{text}");
    assert!(text.contains("; can't enforce pids=5: there is no cgroup /sys/fs/cgroup/"), "{text}");
    assert!(remedy.starts_with("mkdir /sys/fs/cgroup/"), "{remedy}");
    assert!(remedy.ends_with("\nor go on without: .best_effort(Control::Memory).best_effort(Control::Pids)"), "{remedy}");
    assert_eq!(code, 125);
    // One of two waived is not enough, and nothing was done.
    let (text, ..) = fails(place.sh("echo never").engine(&engine).memory("64m").pids(5).best_effort(Control::Memory));
    assert!(text.starts_with("can't enforce pids=5") && !text.contains("memory"), "{text}");
    assert_eq!(place.left_now(), Vec::<String>::new());
    // Waived, it runs and says what doesn't hold.
    let out = ran(place.sh("echo runs").engine(&engine).memory("64m").best_effort(Control::Memory));
    assert_eq!(out.stdout_lossy(), "runs\n");
    assert!(out.enforced.is_empty());
    assert_eq!(out.waived.len(), 1);
    assert!(out.waived[0].to_string().starts_with("can't enforce memory=64m: there is no cgroup"), "{}", out.waived[0]);
    place.assert_clean();
}

#[test]
fn a_limit_beyond_what_the_kernel_takes_is_an_error() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let online =
        std::fs::read_to_string("/proc/cpuinfo").expect("there is /proc").lines().filter(|line| line.starts_with("processor")).count();
    let cpus = format!("from 0.01 to {online}, the number of processors online");
    for (builder, asked, accepted, control) in [
        (place.sh("true").cpus(0.0), "cpus=0", cpus.as_str(), "Cpu"),
        (place.sh("true").cpus(-1.0), "cpus=-1", &cpus, "Cpu"),
        (place.sh("true").cpus(f64::NAN), "cpus=NaN", &cpus, "Cpu"),
        (place.sh("true").cpus(1e9), "cpus=1000000000", &cpus, "Cpu"),
        (place.sh("true").pids(0), "pids=0", "from 1 to 4194304", "Pids"),
        (place.sh("true").memory(1u64), "memory=1", "at least 512k", "Memory"),
        (place.sh("true").memory("0"), "memory=0", "at least 512k", "Memory"),
    ] {
        let (text, remedy, code) = fails(builder);
        assert_eq!(text, format!("can't enforce {asked}: out of range, accepted is {accepted}"));
        assert_eq!(remedy, Some(format!("ask for {accepted}\nor go on without: .best_effort(Control::{control})")));
        assert_eq!(code, 125);
    }
    place.assert_clean();
}

#[test]
fn limits_of_a_plain_user_without_a_cgroup_are_refused() {
    need!(Busybox, UserNamespaces, PlainUser);
    if met(Need::Delegation) {
        return;
    }
    let place = Place::new();
    let (text, remedy, _) = fails(place.sh("echo never").memory("64m"));
    assert!(text.starts_with("can't enforce memory=64m: ") && text.contains("isn't delegated to this user"), "{text}");
    let remedy = remedy.expect("there is one");
    // systemd-run delegates on v2 alone.
    let helps = if met(Need::CgroupV1) { "boot with cgroup v2" } else { "systemd-run --user --scope -p Delegate=yes -- cargo test" };
    assert!(remedy.starts_with(helps) && remedy.ends_with("\nor go on without: .best_effort(Control::Memory)"), "{remedy}");
    let out = ran(place.sh("echo runs").memory("64m").best_effort(Control::Memory));
    assert_eq!((out.stdout_lossy().as_ref(), out.waived.len(), out.enforced.len()), ("runs\n", 1, 0));
    place.assert_clean();
}
