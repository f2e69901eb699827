//! Real cgroups on the machine at hand, v1, hybrid or v2. Needs root; as a plain user each test says SKIP.
//!
//! The processes under test are this very binary in another role, so that it also runs in a bare virtual machine.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use coracle_cgroups::{Cgroup, Control, Error, Hierarchies, Limits, Owner, Placement, Reason, Version};

/// Says why and returns, where the machine can't serve a test.
macro_rules! need {
    ($condition:expr, $need:expr) => {
        if !$condition {
            eprintln!("SKIP: {}", $need);
            return;
        }
    };
}

fn root() -> bool {
    rustix::process::geteuid().is_root()
}

fn placement(limits: &Limits) -> Placement {
    Placement::decide(&Hierarchies::detect().unwrap(), &Owner::current(), limits)
}

/// A cgroup that is removed whatever happens to its test.
struct Ours(Cgroup);

impl Ours {
    fn new(name: &str, limits: &Limits) -> Ours {
        let plan = placement(limits).plan(&format!("test-{name}-{}", std::process::id())).unwrap();
        Ours(Cgroup::create(plan).unwrap())
    }

    /// Everything of it is gone, after `kill` and `remove`.
    fn gone(self) {
        self.0.kill().unwrap();
        self.0.wait_empty(Duration::from_secs(5)).unwrap();
        self.0.remove().unwrap();
        for dir in &self.0.plan().remove {
            assert!(!dir.exists(), "{}", dir.display());
        }
    }
}

impl std::ops::Deref for Ours {
    type Target = Cgroup;
    fn deref(&self) -> &Cgroup {
        &self.0
    }
}

impl Drop for Ours {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait_empty(Duration::from_secs(2));
        let _ = self.0.remove();
    }
}

/// A cgroup2 directory of a test, with the leaf that it may hold.
struct Gone(PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        let start = Instant::now();
        while self.0.exists() && start.elapsed() < Duration::from_secs(2) {
            let _ = std::fs::remove_dir(self.0.join(coracle_cgroups::LEAF));
            let _ = std::fs::remove_dir(&self.0);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// This binary in another role, waiting for a line before it begins.
struct Role(Child);

impl Role {
    fn start(role: &str) -> Role {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "role", "--nocapture", "--test-threads=1"])
            .env("CORACLE_TEST_ROLE", role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Role(child)
    }

    fn go(&mut self) {
        self.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    }

    /// The first line that the role says with `said `; libtest has its own lines around it.
    fn says(&mut self) -> String {
        BufReader::new(self.0.stdout.as_mut().unwrap())
            .lines()
            .map(|line| line.unwrap())
            .find_map(|line| line.split_once("said ").map(|(_, text)| text.to_owned()))
            .expect("the role said nothing")
    }

    fn end(mut self) -> ExitStatus {
        drop(self.0.stdin.take());
        self.0.wait().unwrap()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Not a test of its own: what a child of the tests does.
#[test]
fn role() {
    let Ok(role) = std::env::var("CORACLE_TEST_ROLE") else {
        return;
    };
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
    match role.as_str() {
        "hog" => {
            let mut all = Vec::new();
            for _ in 0..256 {
                all.push(vec![1u8; 1 << 20]);
            }
            println!("said {}", all.len());
        }
        "bomb" => {
            let mut children = Vec::new();
            let mut refused = false;
            for _ in 0..40 {
                match Command::new(std::env::current_exe().unwrap())
                    .args(["--exact", "role"])
                    .env("CORACLE_TEST_ROLE", "sleep")
                    .stdin(Stdio::piped())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                {
                    Ok(child) => children.push(child),
                    Err(_) => {
                        refused = true;
                        break;
                    }
                }
            }
            println!("said {} {refused}", children.len());
            for mut child in children {
                child.kill().unwrap();
                child.wait().unwrap();
            }
        }
        "burn" => {
            let start = Instant::now();
            let mut n = 0u64;
            while start.elapsed() < Duration::from_millis(600) {
                n = n.wrapping_mul(31).wrapping_add(1);
            }
            println!("said {n}");
        }
        "count" => {
            for n in 0u64.. {
                println!("said {n}");
                std::thread::sleep(Duration::from_millis(2));
            }
        }
        "tree" => {
            // A child in a session and group of its own, which has another one.
            let mut inner = Command::new(std::env::current_exe().unwrap());
            inner.args(["--exact", "role"]).env("CORACLE_TEST_ROLE", "leave").stdin(Stdio::piped()).stdout(Stdio::null()).process_group(0);
            let mut inner = inner.spawn().unwrap();
            inner.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
            println!("said {}", inner.id());
            inner.wait().unwrap();
        }
        "leave" => {
            let mut innermost = Command::new(std::env::current_exe().unwrap());
            innermost.args(["--exact", "role"]).env("CORACLE_TEST_ROLE", "setsid").stdin(Stdio::piped()).stdout(Stdio::null());
            let mut innermost = innermost.spawn().unwrap();
            innermost.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
            innermost.wait().unwrap();
        }
        "setsid" => {
            rustix::process::setsid().unwrap();
            std::thread::sleep(Duration::from_secs(60));
        }
        "sleep" => std::thread::sleep(Duration::from_secs(60)),
        "delegated" => println!("said {}", in_a_delegated_cgroup()),
        other => panic!("no role {other}"),
    }
}

fn serves(limits: &Limits) -> bool {
    placement(limits).refused().is_empty()
}

#[test]
fn a_hog_is_killed_at_its_memory_limit_and_the_verdict_says_so() {
    need!(root(), "root");
    let limits = Limits::new().memory(32 << 20);
    need!(serves(&limits), "a memory controller");
    for (name, limits) in [("hog", limits.clone()), ("hog-swap", limits.swap(0))] {
        need!(serves(&limits), "swap accounting");
        let cgroup = Ours::new(name, &limits);
        let mut hog = Role::start("hog");
        cgroup.add(hog.0.id()).unwrap();
        assert!(!cgroup.events().oom_killed());
        hog.go();
        let status = hog.end();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{name}: {status}");
        let (events, usage) = (cgroup.events(), cgroup.usage());
        assert!(events.oom_killed(), "{name}: {events:?}");
        // v1 of newer kernels doesn't count where the sum with swap is hit first.
        assert!(events.memory_limit_hits > 0 || name == "hog-swap", "{events:?}");
        if let Some(peak) = usage.memory_peak {
            assert!((16 << 20..=32 << 20).contains(&peak), "{name}: {usage:?}");
        }
        cgroup.gone();
    }
}

#[test]
fn a_process_below_its_limits_ends_well_and_nothing_is_reported() {
    need!(root(), "root");
    let limits = Limits::new().memory(64 << 20).pids(32);
    need!(serves(&limits), "memory and pids controllers");
    let cgroup = Ours::new("well", &limits);
    let mut role = Role::start("burn");
    cgroup.add(role.0.id()).unwrap();
    role.go();
    assert!(role.end().success());
    let events = cgroup.events();
    assert_eq!((events.oom_kills, events.pids_limit_hits), (0, 0));
    let usage = cgroup.usage();
    if cgroup.plan().into.is_some() {
        assert!(usage.cpu_user.unwrap() + usage.cpu_system.unwrap() > Duration::from_millis(20), "{usage:?}");
    }
    cgroup.gone();
}

#[test]
fn a_fork_bomb_stops_at_the_pids_limit() {
    need!(root(), "root");
    let limits = Limits::new().pids(16);
    need!(serves(&limits), "a pids controller");
    let cgroup = Ours::new("bomb", &limits);
    let mut bomb = Role::start("bomb");
    cgroup.add(bomb.0.id()).unwrap();
    bomb.go();
    let said = bomb.says();
    let (children, refused) = said.split_once(' ').unwrap();
    assert_eq!(refused, "true", "{said}");
    assert!(children.parse::<u32>().unwrap() < 16, "{said}");
    bomb.end();
    assert!(cgroup.events().pids_limit_hits > 0, "{:?}", cgroup.events());
    if let Some(peak) = cgroup.usage().pids_peak {
        assert!((8..=16).contains(&peak), "{peak}");
    }
    cgroup.gone();
}

#[test]
fn a_cpu_quota_holds_a_busy_loop_back() {
    need!(root(), "root");
    let limits = Limits::new().cpus(0.2);
    need!(serves(&limits), "a cpu controller");
    let cgroup = Ours::new("burn", &limits);
    let mut burn = Role::start("burn");
    cgroup.add(burn.0.id()).unwrap();
    let began = std::time::Instant::now();
    burn.go();
    assert!(burn.end().success());
    let (usage, took) = (cgroup.usage(), began.elapsed());
    assert!(usage.cpu_throttled.unwrap() > Duration::from_millis(20), "{usage:?}");
    if let (Some(user), Some(system)) = (usage.cpu_user, usage.cpu_system) {
        // A fifth, and a period or two more at its ends.
        assert!(user + system < took / 2, "{usage:?} in {took:?}");
    }
    cgroup.gone();
}

#[test]
fn kill_reaches_children_that_left_their_session_and_group() {
    need!(root(), "root");
    let cgroup = Ours::new("tree", &Limits::new());
    need!(cgroup.plan().kill.is_some(), "a cgroup2 hierarchy");
    let mut tree = Role::start("tree");
    cgroup.add(tree.0.id()).unwrap();
    tree.go();
    let inner: u32 = tree.says().parse().unwrap();
    let start = Instant::now();
    let pids = loop {
        let pids = cgroup.procs();
        if pids.len() >= 3 || start.elapsed() > Duration::from_secs(5) {
            break pids;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    assert!(pids.len() == 3 && pids.contains(&inner), "{pids:?}");
    cgroup.kill().unwrap();
    let status = tree.end();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    cgroup.wait_empty(Duration::from_secs(5)).unwrap();
    cgroup.gone();
}

#[test]
fn an_older_kernel_without_cgroup_kill_is_served_too() {
    need!(root(), "root");
    let mut plan = placement(&Limits::new()).plan(&format!("test-older-{}", std::process::id())).unwrap();
    need!(plan.kill.is_some(), "a cgroup2 hierarchy");
    plan.kill = plan.kill.map(|path| path.with_file_name("cgroup.kill-is-not-there"));
    let cgroup = Ours(Cgroup::create(plan).unwrap());
    let mut tree = Role::start("tree");
    cgroup.add(tree.0.id()).unwrap();
    tree.go();
    tree.says();
    cgroup.kill().unwrap();
    tree.end();
    cgroup.wait_empty(Duration::from_secs(5)).unwrap();
    cgroup.gone();
}

#[test]
fn a_pure_v1_machine_freezes_kills_and_counts_by_v1_alone() {
    need!(root(), "root");
    let mut hierarchies = Hierarchies::detect().unwrap();
    need!(hierarchies.v1("freezer").is_some() && hierarchies.v1("pids").is_some(), "v1 hierarchies");
    hierarchies.cgroup2 = None;
    hierarchies.version = Version::V1;
    let placement = Placement::decide(&hierarchies, &Owner::current(), &Limits::new().pids(32));
    for (name, placement) in [("v1-freezer", placement.clone().freezer()), ("v1-pids", placement)] {
        let cgroup = Ours(Cgroup::create(placement.plan(&format!("test-{name}-{}", std::process::id())).unwrap()).unwrap());
        let mut tree = Role::start("tree");
        cgroup.add(tree.0.id()).unwrap();
        tree.go();
        tree.says();
        match name {
            "v1-freezer" => {
                cgroup.freeze().unwrap();
                cgroup.thaw().unwrap();
                cgroup.freeze().unwrap();
            }
            _ => assert!(matches!(cgroup.freeze(), Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::Unsupported)),
        }
        assert!(cgroup.usage().pids_peak.is_none_or(|peak| peak >= 2));
        // A reaper beside it, since killed children of ours would stay in cgroup.procs as zombies.
        let reaper = std::thread::spawn(move || tree.end());
        cgroup.kill().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&reaper.join().unwrap()), Some(9), "{name}");
        cgroup.gone();
    }
}

#[test]
fn a_frozen_container_stands_still_and_goes_on() {
    need!(root(), "root");
    let cgroup = Ours::new("freeze", &Limits::new());
    need!(cgroup.plan().freeze.is_some(), "a cgroup2 hierarchy");
    let mut count = Role::start("count");
    cgroup.add(count.0.id()).unwrap();
    count.go();
    count.says();
    cgroup.freeze().unwrap();
    let before = cgroup.usage().cpu_user;
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(cgroup.usage().cpu_user, before);
    cgroup.thaw().unwrap();
    let start = Instant::now();
    while cgroup.usage().cpu_user == before && start.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_ne!(cgroup.usage().cpu_user, before);
    cgroup.freeze().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&count.end()), Some(9), "kill reaches a frozen process");
    cgroup.gone();
}

#[test]
fn a_further_command_is_killed_and_counted_alone() {
    need!(root(), "root");
    let cgroup = Ours::new("exec", &Limits::new());
    need!(cgroup.plan().into.is_some(), "a cgroup2 hierarchy");
    let main = Role::start("sleep");
    cgroup.add(main.0.id()).unwrap();
    let exec = cgroup.exec(1).unwrap();
    let mut burn = Role::start("burn");
    exec.add(burn.0.id()).unwrap();
    assert_eq!(exec.procs(), [burn.0.id()]);
    assert_eq!(cgroup.procs().len(), 2, "the container holds both");
    burn.go();
    burn.says();
    let usage = exec.usage();
    assert!(usage.cpu_user.unwrap() + usage.cpu_system.unwrap() > Duration::from_millis(20), "{usage:?}");
    exec.kill().unwrap();
    burn.end();
    exec.wait_empty(Duration::from_secs(5)).unwrap();
    assert_eq!(cgroup.procs(), [main.0.id()], "the container goes on");
    assert!(matches!(cgroup.exec(1), Err(Error::Step { .. })), "a number is used once");
    // Not removed by itself: the container takes it along.
    cgroup.kill().unwrap();
    main.end();
    cgroup.gone();
}

#[test]
fn removing_a_cgroup_with_a_process_names_the_process_and_kills_nothing() {
    need!(root(), "root");
    let cgroup = Ours::new("busy", &Limits::new());
    need!(cgroup.plan().into.is_some(), "a cgroup2 hierarchy");
    let mut sleep = Role::start("sleep");
    cgroup.add(sleep.0.id()).unwrap();
    let error = cgroup.remove().unwrap_err();
    assert!(matches!(&error, Error::Busy { pids, .. } if *pids == [sleep.0.id()]), "{error}");
    assert!(error.remedy().unwrap().contains("kill"));
    assert!(sleep.0.try_wait().unwrap().is_none());
    cgroup.kill().unwrap();
    sleep.end();
    cgroup.gone();
}

#[test]
fn cgroups_that_a_container_made_below_are_removed_too() {
    need!(root(), "root");
    let cgroup = Ours::new("nested", &Limits::new());
    let Some(main) = cgroup.plan().into.clone() else {
        return eprintln!("SKIP: a cgroup2 hierarchy");
    };
    std::fs::create_dir_all(main.join("a/b/c")).unwrap();
    cgroup.gone();
}

#[test]
fn what_enforced_says_is_what_the_kernel_holds() {
    need!(root(), "root");
    let limits = Limits::new().memory(64 << 20).cpus(0.5).pids(8).cpu_weight(50).cpuset_cpus("0");
    let placement = placement(&limits);
    let refused: Vec<String> = placement.refused().iter().map(ToString::to_string).collect();
    let placement = placement.best_effort(&[Control::Cpu, Control::CpuWeight, Control::Cpuset, Control::Memory, Control::Pids]);
    let cgroup = Ours(Cgroup::create(placement.plan(&format!("test-enforced-{}", std::process::id())).unwrap()).unwrap());
    assert_eq!(cgroup.plan().enforced.len() + refused.len(), 5, "{refused:?}");
    for limit in &cgroup.plan().enforced {
        let expected = match (limit.control, limit.mechanism.starts_with("cgroup v2")) {
            (Control::Memory, _) => "67108864",
            (Control::Cpu, true) => "50000 100000",
            (Control::Cpu, false) => "50000",
            (Control::CpuWeight, true) => "50",
            (Control::CpuWeight, false) => "512",
            (Control::Pids, _) => "8",
            (Control::Cpuset, _) => "0",
            (other, _) => panic!("{other}"),
        };
        assert_eq!(std::fs::read_to_string(&limit.path).unwrap().trim(), expected, "{}", limit.path.display());
    }
    if let Some(main) = &cgroup.plan().into
        && main.join("memory.max").exists()
    {
        let read = |file| std::fs::read_to_string(main.join(file)).unwrap();
        assert_eq!((read("memory.max").trim(), read("pids.max").trim()), ("67108864", "8"), "a JVM reads them at its root");
    }
    cgroup.gone();
}

#[test]
fn making_room_lets_controllers_be_enabled_where_processes_stood() {
    need!(root(), "root");
    let hierarchies = Hierarchies::detect().unwrap();
    let Some(mount) = hierarchies.cgroup2.clone() else {
        return eprintln!("SKIP: a cgroup2 hierarchy");
    };
    // Made and removed: afterwards the controller is enabled for the cgroups at the root. (On hybrid machines v1 has it.)
    need!(serves(&Limits::new().pids(8)), "a pids controller that may be enabled");
    Ours::new("enable-room", &Limits::new().pids(8)).gone();
    let given = format!("coracle-room-{}", std::process::id());
    let dir = mount.point.join(&given);
    std::fs::create_dir(&dir).unwrap();
    let gone = Gone(dir.clone());
    let mut role = Role::start("sleep");
    std::fs::write(dir.join("cgroup.procs"), role.0.id().to_string()).unwrap();
    let owner = Owner::current().below(&given);
    // On a hybrid machine the controllers are v1's; then only the move is seen.
    let limits = Limits::new().pids(8);
    let v2 = hierarchies.v1("pids").is_none() && mount.point.join("cgroup.subtree_control").exists();
    if v2 && std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap().contains("pids") {
        let placement = Placement::decide(&hierarchies, &owner, &limits);
        assert!(matches!(placement.refused()[0].reason, Reason::ProcessesInTheWay { processes: 1, .. }), "{placement:?}");
    }
    assert_eq!(Placement::make_room(&hierarchies, &owner).unwrap(), 1);
    assert_eq!(Placement::make_room(&hierarchies, &owner).unwrap(), 0);
    let moved = std::fs::read_to_string(dir.join(coracle_cgroups::LEAF).join("cgroup.procs")).unwrap();
    assert_eq!(moved.trim(), role.0.id().to_string());
    if v2 && std::fs::read_to_string(dir.join("cgroup.controllers")).unwrap().contains("pids") {
        let plan = Placement::decide(&hierarchies, &owner, &limits).plan("room").unwrap();
        let cgroup = Ours(Cgroup::create(plan).unwrap());
        cgroup.gone();
    }
    role.0.kill().unwrap();
    role.end();
    drop(gone);
    assert!(!dir.exists());
}

#[test]
fn a_plain_user_without_delegation_is_refused_with_the_remedy() {
    need!(root(), "root, to become somebody else");
    // The binary may lie where only root goes.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = dir.path().join("test");
    copy_of_this_program(&copy);
    let output = Command::new(&copy)
        .args(["--exact", "as_somebody_else", "--nocapture"])
        .env("CORACLE_TEST_UID", "65534")
        .current_dir("/")
        .uid(65534)
        .gid(65534)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
}

/// Run by the test above as user 65534.
#[test]
fn as_somebody_else() {
    if std::env::var_os("CORACLE_TEST_UID").is_none() {
        return;
    }
    assert!(!root());
    let hierarchies = Hierarchies::detect().unwrap();
    let placement = placement(&Limits::new().memory(64 << 20).pids(8));
    if hierarchies.version == Version::None {
        return eprintln!("SKIP: cgroups");
    }
    assert_eq!(placement.refused().len(), 2);
    for refusal in placement.refused() {
        // systemd delegates on v2 alone.
        let (controller, path, remedy) = match &refusal.reason {
            Reason::NotDelegated { controller, path, .. } => (controller, path, "systemd-run --user --scope -p Delegate=yes"),
            Reason::NotDelegatedOnV1 { controller, path } => (controller, path, "boot with cgroup v2"),
            _ => panic!("{refusal:?}"),
        };
        assert_eq!(matches!(refusal.reason, Reason::NotDelegatedOnV1 { .. }), hierarchies.v1(controller).is_some());
        assert_eq!(*controller, refusal.control.to_string());
        assert!(path.starts_with("/sys/fs/cgroup"), "{path:?}");
        assert!(refusal.to_string().contains("isn't delegated to this user"), "{refusal}");
        assert!(refusal.remedy().unwrap().contains(remedy));
    }
    assert!(placement.no_tree().is_some());
    let plan = placement.best_effort(&[Control::Memory, Control::Pids]).plan("x").unwrap();
    assert_eq!((plan.steps.len(), plan.join.len()), (0, 0), "the rest works, and nothing is touched");
}

#[test]
fn a_plain_user_in_a_delegated_cgroup_is_served() {
    need!(root(), "root, to delegate");
    let hierarchies = Hierarchies::detect().unwrap();
    let Some(mount) = hierarchies.cgroup2.clone() else {
        return eprintln!("SKIP: a cgroup2 hierarchy");
    };
    // Made and removed: afterwards the controllers are enabled for the cgroups at the root. (On hybrid machines v1 has them.)
    need!(serves(&Limits::new().pids(8).memory(64 << 20)), "controllers that may be enabled");
    Ours::new("enable", &Limits::new().pids(8).memory(64 << 20)).gone();
    let dir = mount.point.join(format!("coracle-delegated-{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    let gone = Gone(dir.clone());
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        std::os::unix::fs::chown(dir.join(file), Some(65534), Some(65534)).unwrap();
    }
    let copies = tempfile::tempdir().unwrap();
    std::fs::set_permissions(copies.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let copy = copies.path().join("test");
    copy_of_this_program(&copy);
    let mut command = Command::new(&copy);
    command.args(["--exact", "role", "--nocapture", "--test-threads=1"]).env("CORACLE_TEST_ROLE", "delegated");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).current_dir("/").uid(65534).gid(65534);
    let mut user = Role(command.spawn().unwrap());
    std::fs::write(dir.join("cgroup.procs"), user.0.id().to_string()).unwrap();
    user.go();
    let v2 = hierarchies.v1("pids").is_none() && hierarchies.v1("memory").is_none();
    assert_eq!(user.says(), if v2 { "limits: memory pids" } else { "limits: none, NotDelegatedOnV1" });
    assert!(user.end().success());
    drop(gone);
    assert!(!dir.exists());
}

/// What a program does as a plain user whose cgroup was delegated, and which stands in it itself.
fn in_a_delegated_cgroup() -> String {
    let limits = Limits::new().memory(64 << 20).pids(16);
    let ways = |placement: &Placement| placement.refused().iter().any(|r| matches!(r.reason, Reason::ProcessesInTheWay { .. }));
    let mut decided = placement(&limits);
    assert!(decided.tree().is_some(), "{:?}", decided.no_tree());
    if ways(&decided) {
        assert!(decided.plan("x").unwrap_err().remedy().unwrap().contains("Placement::make_room"));
        assert_eq!(Placement::make_room(&Hierarchies::detect().unwrap(), &Owner::current()).unwrap(), 1);
        decided = placement(&limits);
        assert!(!ways(&decided), "{decided:?}");
    }
    let reasons: Vec<String> = decided.refused().iter().map(|r| format!("{:?}", r.reason)).collect();
    let cgroup = Ours(Cgroup::create(decided.best_effort(&[Control::Memory, Control::Pids]).plan("user").unwrap()).unwrap());
    // No need of a privilege: both ends are below the delegated cgroup.
    let mut child = Command::new("/proc/self/exe");
    child.args(["--exact", "role"]).env("CORACLE_TEST_ROLE", "sleep").stdin(Stdio::piped()).stdout(Stdio::null());
    let child = Role(child.spawn().unwrap());
    cgroup.add(child.0.id()).unwrap();
    assert_eq!(cgroup.procs(), [child.0.id()]);
    cgroup.freeze().unwrap();
    cgroup.thaw().unwrap();
    cgroup.kill().unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.end()), Some(9));
    let held: Vec<String> = cgroup.plan().enforced.iter().map(|limit| limit.control.to_string()).collect();
    cgroup.gone();
    match reasons.first() {
        None => format!("limits: {}", held.join(" ")),
        Some(reason) => format!("limits: none, {}", reason.split(' ').next().unwrap()),
    }
}

#[test]
fn two_containers_never_share_a_name() {
    need!(root(), "root");
    let cgroup = Ours::new("name", &Limits::new());
    need!(cgroup.plan().into.is_some(), "a cgroup2 hierarchy");
    let error = Cgroup::create(cgroup.plan().clone()).unwrap_err();
    assert!(matches!(&error, Error::Step { source, left, .. } if source.kind() == std::io::ErrorKind::AlreadyExists && left.is_empty()));
    assert!(error.remedy().unwrap().contains("choose another"));
    assert!(Path::new(cgroup.plan().into.as_ref().unwrap()).exists(), "the first one is untouched");
    cgroup.gone();
}

/// Copies this program by cp(1): while a thread of ours wrote it, others might start programs, which would hold it open for writing
/// until they execute, and nobody can execute a file that is open for writing.
fn copy_of_this_program(to: &std::path::Path) {
    assert!(Command::new("cp").arg(std::env::current_exe().unwrap()).arg(to).status().unwrap().success());
}
