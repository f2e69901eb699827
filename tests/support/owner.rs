//! Programs that own containers, for tests in which one is killed, traced, or strange: this test binary, started a second time.
//!
//! What an owner does is an [`Act`]; it is started by [`command`] and says `READY …` when there is something to see.

use super::place::block_on;
use coracle::{Container, ContainerBuilder, Engine, Scope};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What an owner does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// `status()` of a command that speaks.
    Status,
    /// Starts a container with a family, says `READY`, and waits for ever.
    Hold,
    /// The same, and then a child process that lives on.
    HoldAndFork,
    /// The same, and then panics.
    Panic,
    /// The same, and then aborts.
    Abort,
    /// The same, and then exits with 0.
    Exit,
    /// The same, and then becomes another program, by execve(2).
    Exec,
    /// Starts and ends a container, says `READY`, and goes on with others for ever.
    Churn,
    /// Starts a container and detaches it; says `READY` and its id.
    Detach,
    /// Shows what a container inherits.
    Inherit,
    /// Tells why a container can't be started.
    Tell,
    /// Starts and ends containers in eight threads; compares itself before and after.
    EightThreads,
    /// Asks for the verdicts of commands, whoever else reaps here.
    Verdicts,
    /// The same beside a thread that waits for any child.
    VerdictsBesideAReaper,
    /// Starts two containers that speak, of which one has no log, and panics.
    PanicWithLog,
    /// Fills the disk that its engine is on under a container's log.
    FullDisk,
    /// Starts and ends as many containers as [`LIVES`] says, one after another, then [`CROWD`] at once; compares itself before and after.
    ManyLives,
    /// Shares a container; says `READY`, its id, and whether it was the first; lets go when its input ends.
    Share,
    /// Shares one that can't be started; says `READY` and why.
    ShareInVain,
    /// Starts one that is to be kept when something fails, and panics.
    PanicAndKeep,
}

/// The variable with their number.
pub(crate) const LIVES: &str = "CORACLE_TEST_LIVES";
/// How many at once.
pub(crate) const CROWD: usize = 50;

const ACTS: [Act; 20] = [
    Act::Status,
    Act::Hold,
    Act::HoldAndFork,
    Act::Panic,
    Act::Abort,
    Act::Exit,
    Act::Exec,
    Act::Churn,
    Act::Detach,
    Act::Inherit,
    Act::Tell,
    Act::EightThreads,
    Act::Verdicts,
    Act::VerdictsBesideAReaper,
    Act::PanicWithLog,
    Act::FullDisk,
    Act::ManyLives,
    Act::Share,
    Act::ShareInVain,
    Act::PanicAndKeep,
];

/// This test binary as an owner; `place` is the directory of a [`Place`](super::place::Place) with a root of busybox.
pub(crate) fn command(act: Act, place: &Path) -> Command {
    under(&[], act, place)
}

/// The same, started by another program: `env --ignore-signal=CHLD`, strace.
pub(crate) fn under(words: &[&str], act: Act, place: &Path) -> Command {
    let this = std::env::current_exe().expect("a test knows its program");
    let mut command = match words.split_first() {
        None => Command::new(this),
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(this);
            command
        }
    };
    command.args(["support::owner::plays_its_act", "--exact", "--nocapture", "--test-threads=1"]);
    command.env("CORACLE_TEST_ACT", format!("{act:?}")).env("CORACLE_TEST_PLACE", place).stdin(Stdio::null());
    command
}

/// An owner that runs; it is killed with the value.
pub(crate) struct Owner {
    pub(crate) child: Child,
    stdout: BufReader<ChildStdout>,
}

impl Owner {
    /// Starts it and waits until it is ready. Answers with what stands behind `READY`, too.
    pub(crate) fn start(act: Act, place: &Path) -> (Self, String) {
        Self::of(command(act, place))
    }

    pub(crate) fn of(mut command: Command) -> (Self, String) {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the owner starts");
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut owner = Self { child, stdout };
        let word = owner.ready();
        (owner, word)
    }

    fn ready(&mut self) -> String {
        let mut line = String::new();
        while self.stdout.read_line(&mut line).expect("it can be read") > 0 {
            // libtest's own words stand in front of the first line.
            if let Some((_, word)) = line.split_once("READY") {
                return word.trim().to_owned();
            }
            line.clear();
        }
        panic!("the owner ended before it was ready: {:?}", self.child.wait());
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("it can be waited for")
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The processes whose parent is this one, with their names.
pub(crate) fn children(of: u32) -> Vec<(u32, String)> {
    let entries = std::fs::read_dir("/proc").expect("there is /proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
        let parent: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
        (parent == of).then(|| (pid, name.to_owned()))
    })
    .collect()
}

pub(crate) fn signal(pid: u32, signal: rustix::process::Signal) {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).expect("a pid");
    rustix::process::kill_process(pid, signal).expect("it is there and ours");
}

/// Not a test of its own: what [`command`] starts.
#[test]
fn plays_its_act() {
    let Ok(word) = std::env::var("CORACLE_TEST_ACT") else {
        return;
    };
    let act = *ACTS.iter().find(|act| format!("{act:?}") == word).expect("an act");
    let place = PathBuf::from(std::env::var_os("CORACLE_TEST_PLACE").expect("a place"));
    let engine = Engine::builder().root(place.join("engine")).open().expect("an engine opens");
    let sh = |line: &str| Container::from_rootfs(place.join("rootfs")).engine(&engine).cmd(["sh", "-c", line]).env("MARK", &place);
    play(act, &engine, &sh);
}

/// A family that doesn't go by itself: of other sessions, deaf to signals.
pub(crate) const FAMILY: &str = "trap '' TERM HUP INT PIPE; for i in 1 2 3; do setsid sh -c 'sleep 1000 & sleep 1000' & done; sleep 1000";

fn ready(words: &str) {
    println!("\nREADY {words}");
    let _ = std::io::stdout().flush();
}

fn play(act: Act, engine: &Engine, sh: &(dyn Fn(&str) -> ContainerBuilder + Sync)) {
    // As much as this machine and this user allow: the limits' cgroups are to vanish too.
    let limited = |line: &str| {
        use coracle::Control::{Memory, Pids};
        sh(line).memory("256m").pids(64).best_effort(Memory).best_effort(Pids)
    };
    let held = || {
        let container = block_on(limited(FAMILY).run()).expect("it runs");
        ready(&format!("{} {}", container.pid(), container.id()));
        container
    };
    match act {
        Act::Status => {
            let status = block_on(sh("echo said to stdout; echo said to stderr >&2; exit 2").status()).expect("it runs");
            assert_eq!(status.code(), Some(2));
        }
        Act::Hold => {
            let _held = held();
            sleep_for_ever();
        }
        Act::HoldAndFork => {
            let container = block_on(limited(FAMILY).run()).expect("it runs");
            // The test that asked for it ends it.
            #[expect(clippy::zombie_processes, reason = "it is to outlive this process")]
            let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).stdout(Stdio::null()).spawn().expect("sleep runs");
            ready(&format!("{} {} {}", container.pid(), container.id(), child.id()));
            sleep_for_ever();
        }
        Act::Panic => {
            let _held = held();
            panic!("as was asked");
        }
        Act::PanicWithLog => {
            let container = block_on(sh("seq 50; exec sleep 1000").run()).expect("it runs");
            let _quiet = block_on(sh("echo quiet one; exec sleep 1000").spawn()).expect("it starts");
            while container.logs().collect().expect("it is kept").len() < 50 {
                std::thread::sleep(Duration::from_millis(10));
            }
            panic!("as was asked");
        }
        Act::FullDisk => full_disk(sh),
        Act::Share => {
            let shared = block_on(sh(FAMILY).shared(Scope::of("tests", "family"))).expect("it runs");
            ready(&format!("{} {}", shared.id(), shared.is_first()));
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            drop(shared);
        }
        Act::ShareInVain => {
            let line = "echo the cause; until [ -e /gate/open ]; do sleep 0.05; done; exit 3";
            let gate = PathBuf::from(std::env::var_os("CORACLE_TEST_PLACE").expect("a place")).join("gate");
            let builder = sh(line).mount(coracle::Mount::bind(gate, "/gate")).wait(coracle::Wait::file("/never"));
            let error = block_on(builder.shared(Scope::of("tests", "vain"))).expect_err("it ends before it is ready");
            ready(&error.to_string().replace('\n', "|"));
        }
        Act::PanicAndKeep => {
            let line = "echo the cause; exec sleep 1000";
            let keep = sh(line).wait(coracle::Wait::log("the cause"));
            let keep = if std::env::var_os("CORACLE_KEEP").is_some() { keep } else { keep.keep_on_failure(true) };
            let container = block_on(keep.run()).expect("it runs");
            let _quiet = block_on(sh("exec sleep 1000").spawn()).expect("it starts");
            eprintln!("ID {}", container.id());
            panic!("as was asked");
        }
        Act::Abort => {
            let _held = held();
            std::process::abort();
        }
        Act::Exit => {
            let _held = held();
            std::process::exit(0);
        }
        Act::Exec => {
            use std::os::unix::process::CommandExt as _;
            let _held = held();
            let error = Command::new("sleep").arg("1000").exec();
            panic!("{error}");
        }
        Act::Churn => {
            // The first takes longer, on a slow machine by many lives of those that come.
            let _ = block_on(limited("true").output()).expect("it runs");
            ready("");
            loop {
                let container = block_on(limited("sleep 1000 & echo; sleep 0.001").spawn()).expect("it starts");
                drop(container);
                let _ = block_on(limited("true").output()).expect("it runs");
            }
        }
        Act::Detach => {
            let container = block_on(limited("trap 'exit 5' TERM; while :; do sleep 0.05; done").run()).expect("it runs");
            let id = block_on(container.detach()).expect("it is detached");
            ready(&id);
        }
        Act::Inherit => {
            let line = "env; grep -E 'Sig(Ign|Blk)|Umask' /proc/self/status; mkdir /made; stat -c 'made %a' /made";
            let out = block_on(sh(line).output()).expect("it runs");
            println!("\n{}", out.stdout_lossy());
            assert!(out.status.success(), "{}", out.stderr_lossy());
        }
        Act::Tell => {
            let error = block_on(sh("true").output()).expect_err("this world allows none");
            println!("\nERROR {error}\nREMEDY {}", error.remedy().unwrap_or_default());
            let report = coracle::doctor::check_with(engine);
            let row = error.check().and_then(|check| report.row(check)).expect("the doctor has a row for it");
            println!("DOCTOR {} {}\nMENDS {}", row.verdict, row.found, row.remedy.as_deref().unwrap_or_default());
            println!("WORST {}", report.worst());
        }
        Act::EightThreads => {
            // The first start opens what stays open: the sealed program, the reactor's descriptors and its thread.
            lives(sh, 1);
            unchanged(|| {
                std::thread::scope(|scope| {
                    for _ in 0..8 {
                        scope.spawn(|| lives(sh, 4));
                    }
                });
            });
            ready("");
        }
        Act::ManyLives => {
            let count: u32 = std::env::var(LIVES).ok().and_then(|count| count.parse().ok()).expect("a number");
            // An allocator keeps something for each thread that there was.
            crowd(sh);
            let mut said = String::new();
            unchanged(|| {
                let (before, begun) = (resident(), Instant::now());
                for life in 0..count {
                    let code = i32::try_from(life % 256).expect("it is small");
                    assert_eq!(block_on(limited(&format!("exit {code}")).output()).expect("it runs").status.code(), Some(code));
                }
                let each = begun.elapsed() / count;
                crowd(sh);
                let more = resident().saturating_sub(before);
                assert!(more <= 8 << 20, "{more} bytes more are resident after {count} lives");
                said = format!("{count} lives one after another, {CROWD} at once: {each:.2?} each, {} KiB more resident", more >> 10);
            });
            ready(&said);
        }
        Act::Verdicts => {
            verdicts(sh);
            ready("");
        }
        Act::VerdictsBesideAReaper => {
            std::thread::spawn(|| {
                loop {
                    let _ = rustix::process::wait(rustix::process::WaitOptions::NOHANG);
                    std::thread::yield_now();
                }
            });
            verdicts(sh);
            ready("");
        }
    }
}

/// Fails where something of this process isn't as before.
fn unchanged(work: impl FnOnce()) {
    let before = Myself::settled();
    work();
    let mut after = Myself::settled();
    // A machine under load is slow to end what was let go.
    for _ in 0..20 {
        if after == before {
            break;
        }
        after = Myself::settled();
    }
    assert_eq!(before.differences(&after), Vec::<String>::new());
}

/// Containers that all run at one time: each waits until it is told to end.
fn crowd(sh: &(dyn Fn(&str) -> ContainerBuilder + Sync)) {
    let mut all: Vec<_> = (0..CROWD).map(|_| block_on(sh("read word; exit 7").spawn()).expect("it starts")).collect();
    for container in &mut all {
        assert!(container.try_wait().expect("it is known").is_none());
        drop(container.stdin.take());
    }
    for container in all {
        assert_eq!(block_on(container.wait()).expect("it ends").code(), Some(7));
        block_on(container.remove()).expect("all is taken back");
    }
}

/// How many bytes of this process are in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

fn sleep_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}

/// Starts and ends containers in every way that there is.
fn lives(sh: &(dyn Fn(&str) -> ContainerBuilder + Sync), times: usize) {
    for _ in 0..times {
        assert_eq!(block_on(sh("exit 3").output()).expect("it runs").status.code(), Some(3));
        let container = block_on(sh("sleep 1000").run()).expect("it runs");
        block_on(container.remove()).expect("all is taken back");
        let mut container = block_on(sh("cat").spawn()).expect("it starts");
        drop(container.stdin.take());
        assert!(block_on(container.wait()).expect("it ends").success());
        block_on(container.remove()).expect("all is taken back");
        block_on(sh("true").cmd(["no-such-program"]).output()).expect_err("there is none");
    }
}

/// The engine is on a file system of 2 MiB. A container goes on speaking while nothing of it can be kept, and is told to have.
fn full_disk(sh: &(dyn Fn(&str) -> ContainerBuilder + Sync)) {
    let engine = PathBuf::from(std::env::var_os("CORACLE_TEST_PLACE").expect("a place")).join("engine");
    let container = block_on(sh("mkfifo /dev/shm/go; echo before; read x < /dev/shm/go; seq 100000; echo > /dev/shm/go; read x < /dev/shm/go; echo after; exec sleep 1000").run()).expect("it runs");
    let lines = || container.logs().collect().expect("it is kept");
    while lines().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut filler = std::fs::File::create(engine.join("filler")).expect("it can be made");
    while filler.write_all(&[0; 512]).is_ok() {}
    // It speaks until it has said everything: nobody holds it up.
    let go = |command: &str| assert!(block_on(container.exec(["sh", "-c", command]).output()).expect("it runs").status.success());
    go("echo > /dev/shm/go; read x < /dev/shm/go");
    assert!(lines().len() < 100_000, "a full disk took everything");
    drop(filler);
    std::fs::remove_file(engine.join("filler")).expect("it is there");
    go("echo > /dev/shm/go");
    while lines().last().is_none_or(|line| line.text() != "after") {
        std::thread::sleep(Duration::from_millis(10));
    }
    let lines = lines();
    assert_eq!(lines[0].text(), "before");
    let skipped: u64 = lines.iter().map(|line| line.skipped).sum();
    assert!(skipped > 0, "{} lines, and none is missing", lines.len());
    block_on(container.remove()).expect("all is taken back");
    println!("\nREADY {skipped}");
}

fn verdicts(sh: &(dyn Fn(&str) -> ContainerBuilder + Sync)) {
    for code in 0..12 {
        let status = block_on(sh(&format!("exit {code}")).output()).expect("it runs").status;
        assert_eq!(status.code(), Some(code));
        let status = block_on(sh("kill -TERM $$").output()).expect("it runs").status;
        assert_eq!(status.signal(), Some(coracle::Signal::TERM));
    }
}

/// What belongs to the whole process and which no library may change.
#[derive(Debug, PartialEq, Eq)]
struct Myself {
    directory: PathBuf,
    environment: Vec<(std::ffi::OsString, std::ffi::OsString)>,
    /// Umask, signal masks and dispositions, capabilities, seccomp, NoNewPrivs.
    status: Vec<String>,
    limits: String,
    dumpable: String,
    subreaper: String,
    /// Number and what stands behind it.
    descriptors: Vec<(String, String)>,
    children: Vec<(u32, String)>,
    namespaces: Vec<String>,
}

impl Myself {
    /// What stays the same for half a second: a supervisor that has said its last word is on its way out, and so is its descriptor.
    fn settled() -> Self {
        let (mut seen, mut since) = (Self::look(), 0);
        while since < 10 {
            std::thread::sleep(Duration::from_millis(50));
            let now = Self::look();
            since = if now == seen { since + 1 } else { 0 };
            seen = now;
        }
        seen
    }

    fn differences(&self, other: &Self) -> Vec<String> {
        let (this, other) = (format!("{self:#?}"), format!("{other:#?}"));
        let (this, other): (Vec<&str>, Vec<&str>) = (this.lines().collect(), other.lines().collect());
        let gone = this.iter().filter(|line| !other.contains(line)).map(|line| format!("before: {line}"));
        gone.chain(other.iter().filter(|line| !this.contains(line)).map(|line| format!("after: {line}"))).collect()
    }

    fn look() -> Self {
        const LINES: [&str; 13] = [
            "Umask",
            "Uid",
            "Gid",
            "Groups",
            "SigBlk",
            "SigIgn",
            "SigCgt",
            "CapInh",
            "CapEff",
            "CapBnd",
            "CapAmb",
            "NoNewPrivs",
            "Seccomp",
        ];
        let status = std::fs::read_to_string("/proc/self/status").expect("there is /proc");
        let link = |path: PathBuf| std::fs::read_link(path).map(|target| target.display().to_string()).unwrap_or_default();
        let mut descriptors: Vec<(String, String)> = std::fs::read_dir("/proc/self/fd")
            .expect("there is /proc")
            .flatten()
            .map(|entry| (entry.file_name().to_string_lossy().into_owned(), link(entry.path())))
            // The one that this loop reads.
            .filter(|(_, target)| !target.ends_with("/fd"))
            .collect();
        descriptors.sort();
        Self {
            directory: std::env::current_dir().expect("there is one"),
            environment: std::env::vars_os().collect(),
            status: status.lines().filter(|line| LINES.iter().any(|name| line.starts_with(name))).map(str::to_owned).collect(),
            limits: std::fs::read_to_string("/proc/self/limits").expect("there is /proc"),
            dumpable: format!("{:?}", rustix::process::dumpable_behavior()),
            subreaper: format!("{:?}", rustix::process::child_subreaper()),
            descriptors,
            children: children(std::process::id()),
            namespaces: ["mnt", "pid", "net", "user", "uts", "ipc", "cgroup", "pid_for_children"]
                .map(|name| link(Path::new("/proc/self/ns").join(name)))
                .into(),
        }
    }
}
