//! A container is gone when its owner is, however the owner went; a detached one lives on.

use crate::support::needs::Need;
use crate::support::owner::{self, Act, Owner, children, signal};
use crate::support::place::{Place, block_on, ran, said, within};
use crate::support::{met, need};
use coracle::{Engine, Error, Reason};
use rustix::process::Signal;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a machine under load may take. The promise (p99 of 100 ms on an idle one) is measured by `cargo xtask soak`.
const SOON: Duration = Duration::from_secs(20);

/// Starts an owner, and answers with it, the process id of its container's PID 1, and the container's id.
fn owner(act: Act, place: &Place) -> (Owner, u32, String) {
    let (owner, words) = Owner::start(act, place.path());
    let mut words = words.split(' ');
    let pid = words.next().and_then(|word| word.parse().ok()).expect("a process id");
    (owner, pid, words.next().expect("a container's id").to_owned())
}

/// Whether a process is there and no zombie.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn parent(pid: u32) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it is there");
    stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(1)?.parse().ok()).expect("it has a parent")
}

#[track_caller]
fn all_gone_soon(place: &Place, id: &str) {
    let left = place.left_of(id, SOON);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

#[test]
fn an_owner_that_is_killed_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut owner, pid, id) = owner(Act::Hold, &place);
    assert!(lives(pid) && place.left_now().len() > 4, "a container that runs is seen");
    owner.kill();
    all_gone_soon(&place, &id);
    assert!(!lives(pid));
}

#[test]
fn an_owner_that_panics_aborts_or_exits_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for (act, code, by) in [(Act::Panic, Some(101), None), (Act::Abort, None, Some(6)), (Act::Exit, Some(0), None)] {
        let (mut owner, _, id) = owner(act, &place);
        let status = owner.wait();
        assert_eq!((status.code(), status.signal()), (code, by), "{act:?}");
        all_gone_soon(&place, &id);
    }
}

#[test]
fn an_owner_that_becomes_another_program_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (owner, _, id) = owner(Act::Exec, &place);
    assert!(within(SOON, || std::fs::read_to_string(format!("/proc/{}/comm", owner.pid())).is_ok_and(|name| name == "sleep\n")));
    let this = format!("process {} ", owner.pid());
    assert!(
        within(SOON, || place.left_of(&id, Duration::ZERO).iter().all(|what| what.starts_with(&this))),
        "{:?}",
        place.left_of(&id, Duration::ZERO)
    );
    assert!(lives(owner.pid()));
    drop(owner);
    all_gone_soon(&place, &id);
}

#[test]
fn an_owner_that_is_stopped_kills_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut owner, pid, id) = owner(Act::Hold, &place);
    signal(owner.pid(), Signal::STOP);
    std::thread::sleep(Duration::from_millis(700));
    assert!(lives(pid));
    signal(owner.pid(), Signal::CONT);
    std::thread::sleep(Duration::from_millis(100));
    assert!(lives(pid));
    // Nor does a stopped owner that is killed hold anything up.
    signal(owner.pid(), Signal::STOP);
    owner.kill();
    all_gone_soon(&place, &id);
}

#[test]
fn a_child_that_outlives_the_owner_keeps_nothing_alive() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut owner, words) = Owner::start(Act::HoldAndFork, place.path());
    let words: Vec<&str> = words.split(' ').collect();
    let child: u32 = words[2].parse().expect("a process id");
    owner.kill();
    let this = format!("process {child} ");
    let rest = || place.left_of(words[1], Duration::ZERO).into_iter().filter(|what| !what.starts_with(&this)).collect::<Vec<_>>();
    assert!(within(SOON, || rest().is_empty()), "{:?}", rest());
    assert!(lives(child));
    signal(child, Signal::KILL);
}

/// Takes copies of a process's sockets, says how many, and holds them: what a fork of it without exec would hold.
const HOLDS_SOCKETS: &str = r"
import ctypes, os, sys, time
libc, owner, taken = ctypes.CDLL(None, use_errno=True), sys.argv[1], 0
pidfd = libc.syscall(434, int(owner), 0)
for fd in os.listdir('/proc/' + owner + '/fd'):
    if os.readlink('/proc/' + owner + '/fd/' + fd).startswith('socket:'):
        taken += libc.syscall(438, pidfd, int(fd), 0) >= 0
os.close(pidfd)
print(taken, flush=True)
time.sleep(1000)
";

#[test]
fn a_process_that_holds_the_owners_sockets_keeps_nothing_alive() {
    need!(Busybox, UserNamespaces, Python3);
    let place = Place::new();
    let (mut owner, _, id) = owner(Act::Hold, &place);
    let mut holder =
        Command::new("python3").args(["-c", HOLDS_SOCKETS, &owner.pid().to_string()]).stdout(Stdio::piped()).spawn().expect("python3 runs");
    let mut said = String::new();
    BufReader::new(holder.stdout.take().expect("a pipe")).read_line(&mut said).expect("it speaks");
    assert!(said.trim().parse::<u32>().is_ok_and(|taken| taken > 0), "it took {said:?} sockets");
    // No end of the stream comes; the owner's pidfd tells.
    owner.kill();
    let left = place.left_of(&id, SOON);
    let ended = holder.try_wait().expect("it is ours");
    holder.kill().expect("it is ours");
    holder.wait().expect("it is ours");
    assert!(left.is_empty() && ended.is_none(), "left behind:\n  {}", left.join("\n  "));
}

#[test]
fn a_container_whose_supervisor_is_killed_is_lost_and_dies() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh(owner::FAMILY).run()).expect("it runs");
    let (pid, id) = (container.pid(), container.id().to_owned());
    signal(parent(pid), Signal::KILL);
    let error = block_on(container.wait()).expect_err("nobody knows how it ended");
    assert!(matches!(error, Error::Lost));
    assert_eq!(error.to_string(), "the supervisor was killed, and what it watched with it; how that ended isn't known");
    assert_eq!(error.remedy(), None);
    assert!(matches!(block_on(container.remove()), Err(Error::Lost)));
    assert!(within(SOON, || !lives(pid)));
    drop(container);
    // Who opens next takes back what it left.
    Engine::builder().root(place.engine().root()).open().expect("an engine opens");
    assert!(!place.engine().root().join("run").join(&id).exists());
    let left = place.left_of(&id, SOON);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

#[test]
fn the_next_engine_takes_back_what_a_killed_supervisor_left() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut owner, pid, id) = owner(Act::Hold, &place);
    let supervisors = children(owner.pid());
    assert_eq!(supervisors.len(), 1, "{supervisors:?}");
    signal(owner.pid(), Signal::STOP);
    signal(supervisors[0].0, Signal::KILL);
    owner.kill();
    assert!(within(SOON, || !lives(pid)), "PID 1 outlives its supervisor");
    assert!(within(SOON, || !place.left_of(&id, Duration::ZERO).iter().any(|what| what.starts_with("process"))));
    assert!(place.engine().root().join("run").join(&id).exists());
    Engine::builder().root(place.engine().root()).open().expect("an engine opens");
    assert!(!place.engine().root().join("run").join(&id).exists());
    let left = place.left_of(&id, SOON);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    // And the engine works.
    assert_eq!(said(place.sh("echo works")), "works\n");
}

/// A set-id program loses the signal that its parent's death would send (prctl(2)), and without our init it is PID 1 itself.
#[test]
fn a_set_id_command_whose_supervisor_was_killed_ends_when_the_next_engine_opens() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let (busybox, program) = (place.rootfs().join("bin/busybox"), place.rootfs().join("sleep"));
    crate::support::program::run("cp", [busybox.as_os_str(), program.as_os_str()]);
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o6755)).expect("its mode can be set");
    place.look_again();
    // With a single id there is nobody else to be.
    let user = if met(Need::NoSubIds) { "0" } else { "1000:1000" };
    let command = place.container().cmd(["/sleep", "1000"]).user(user).init(false);
    let container = block_on(command.run()).expect("it runs");
    let (pid, id) = (container.pid(), container.id().to_owned());
    signal(parent(pid), Signal::KILL);
    assert!(matches!(block_on(container.wait()), Err(Error::Lost)));
    drop(container);
    Engine::builder().root(place.engine().root()).open().expect("an engine opens");
    assert!(within(SOON, || !lives(pid)));
    all_gone_soon(&place, &id);
}

#[test]
fn an_engine_that_opens_takes_nothing_from_the_living() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (owner, pid, id) = owner(Act::Hold, &place);
    for _ in 0..3 {
        let other = Engine::builder().root(place.engine().root()).open().expect("an engine opens");
        assert_eq!(other.containers().expect("it is read").iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    }
    assert!(lives(pid));
    drop(owner);
    all_gone_soon(&place, &id);
}

/// Moments within a life and a half from when an owner is ready, however long lives take on this machine.
fn moments(place: &Place) -> impl Iterator<Item = Duration> + use<> {
    let mut lives: Vec<Duration> = (0..5)
        .map(|_| {
            let began = Instant::now();
            assert!(ran(place.sh("sleep 0.001")).status.success());
            began.elapsed()
        })
        .collect();
    lives.sort();
    let most = (lives[2].as_micros() as u64 * 3 / 2).max(8000);
    let mut seed = u64::from(std::process::id()) | 1;
    println!("seed {seed}, within {most} µs");
    std::iter::repeat_with(move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Duration::from_micros((seed >> 33) % most)
    })
}

/// Kills so many owners, each while it starts and ends containers.
pub(super) fn owners_are_killed(count: usize) {
    let place = Place::new();
    for moment in moments(&place).take(count) {
        let (mut owner, _) = Owner::start(Act::Churn, place.path());
        std::thread::sleep(moment);
        owner.kill();
    }
    // Their supervisors do it by themselves: nobody opens an engine here.
    let left = place.left(SOON);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
}

/// Whether each thread of a process has been stopped: a signal takes a moment.
fn stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it is there").flatten();
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("stat")).ok());
    stats.filter_map(|stat| Some(stat.rsplit_once(") ")?.1.starts_with(['T', 't', 'Z', 'X']))).all(|stopped| stopped)
}

/// Kills so many owners together with their supervisors.
pub(super) fn supervisors_are_killed(count: usize) {
    let place = Place::new();
    let mut killed = 0;
    // On a slow machine many moments come before the first supervisor: more owners then.
    for (owners, moment) in moments(&place).enumerate().take(10 * count) {
        if owners >= count && killed >= count / 4 {
            break;
        }
        let (mut owner, _) = Owner::start(Act::Churn, place.path());
        std::thread::sleep(moment);
        // So that it makes no new ones, and reaps none whose number somebody else could then have.
        signal(owner.pid(), Signal::STOP);
        assert!(within(SOON, || stopped(owner.pid())));
        for (supervisor, _) in children(owner.pid()) {
            signal(supervisor, Signal::KILL);
            killed += 1;
        }
        owner.kill();
        if killed % 50 == 0 {
            Engine::builder().root(place.engine().root()).open().expect("an engine opens");
        }
    }
    assert!(killed >= count / 4, "{killed} supervisors of {} owners", 10 * count);
    // One that was killed between making its directory and locking it left an empty one, which engines take away when it is a minute old:
    // it could be of one that is about to lock it.
    let end = Instant::now() + Duration::from_secs(100);
    let left = loop {
        std::thread::sleep(Duration::from_millis(100));
        Engine::builder().root(place.engine().root()).open().expect("an engine opens");
        let left = place.left_now();
        if left.is_empty() || Instant::now() > end {
            break left;
        }
    };
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    assert_eq!(said(place.sh("echo works")), "works\n");
}

#[test]
fn an_owner_killed_at_any_moment_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    owners_are_killed(200);
}

#[test]
fn what_supervisors_killed_at_any_moment_leave_the_next_engine_takes_back() {
    need!(Busybox, UserNamespaces);
    supervisors_are_killed(60);
}

#[test]
fn a_detached_container_lives_on_and_its_owners_reader_sees_the_end() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let began = Instant::now();
    // As `program | cat`: it returns when nobody holds the pipe any more.
    let output = owner::command(Act::Detach, place.path()).output().expect("the owner runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(began.elapsed() < Duration::from_secs(30), "the reader waited {:?}", began.elapsed());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let id = text.lines().find_map(|line| line.strip_prefix("READY ")).expect("its id").to_owned();

    std::thread::sleep(Duration::from_millis(300));
    let listed = place.engine().containers().expect("it is read");
    assert_eq!(listed.iter().map(|container| container.id.as_str()).collect::<Vec<_>>(), [id.as_str()]);
    assert!(listed[0].detached);
    // A look at it ends nothing.
    drop(place.engine().attach(&id[..6]).expect("it answers"));
    let container = place.engine().attach(&id).expect("it answers");
    assert!(container.try_wait().expect("it is watched").is_none());
    assert_eq!(container.id(), id);
    assert_eq!(block_on(container.stop(Duration::from_secs(20))).expect("it ends").reason(), Reason::Code(5));
    block_on(container.remove()).expect("all is taken back");
    let left = place.left_of(&id, SOON);
    assert!(left.is_empty(), "left behind:\n  {}", left.join("\n  "));
    let error = place.engine().attach(&id).expect_err("it is gone");
    assert_eq!(error.to_string(), format!("no container {id} is here"));
    assert_eq!(error.remedy().as_deref(), Some("`coracle ps -a` lists those that are here"));
}

#[test]
fn a_detached_container_that_ends_by_itself_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 0.3").run()).expect("it runs");
    let id = block_on(container.detach()).expect("it is detached");
    all_gone_soon(&place, &id);
}

#[test]
fn a_program_whose_output_is_a_pipe_ends_for_its_reader() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
    let container = block_on(place.sh("sleep 1000").run()).expect("it runs");
    // Whatever the supervisor would have inherited: it has closed it.
    drop(writer);
    let mut nothing = String::new();
    reader.read_to_string(&mut nothing).expect("the end comes");
    drop(container);
    place.assert_clean();
}
