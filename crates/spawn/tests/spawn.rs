//! Spawning for real: as root in namespaces, as a plain user in a user namespace besides.

mod own_directories;

use coracle_spawn::{
    CapabilitySet, CgroupPlacement, Child, Effect, Ended, Error, Exec, ExecFault, IdMap, Init, KilledBy, Mount, Namespaces, Record, Root,
    Signal, Spawn, Stdio, Undo, sweep,
};
use std::future::Future;
use std::io::{Read, Write};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// A shell over this machine's own directories, in namespaces of its own.
fn shell(script: &str) -> Spawn {
    own_directories::program("sh", ["-c", script]).stdin(Stdio::null())
}

fn text(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn a_command_gets_input_gives_output_and_ends_with_its_own_status() {
    let mut child =
        shell("cat; echo on stderr >&2; exit 7").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"hello").unwrap();
    assert_eq!(text(child.stdout.take().unwrap()), "hello");
    assert_eq!(text(child.stderr.take().unwrap()), "on stderr\n");
    let ended = child.wait().unwrap();
    assert_eq!((ended.status.code(), ended.killed_by), (Some(7), KilledBy::Nobody));
    assert_eq!(child.wait_gone().unwrap(), []);
}

#[test]
fn the_command_is_a_child_of_init_or_pid_1_itself() {
    for (init, pid) in [(Init::Ours, "2\n"), (Init::Command, "1\n")] {
        let mut child = shell("echo $$").init(init).stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(text(child.stdout.take().unwrap()), pid);
        assert!(child.wait().unwrap().status.success());
    }
}

#[test]
fn init_reaps_orphans_and_hands_signals_on() {
    let script =
        "(sleep 0.05 & exec sleep 0) ; sleep 0.3; trap 'exit 9' TERM; grep -l zombie /proc/[0-9]*/status; echo ready; sleep 60 & wait";
    let mut child = shell(script).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = [0; 6];
    child.stdout.as_mut().unwrap().read_exact(&mut said).unwrap();
    assert_eq!(&said, b"ready\n");
    child.signal(Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().status.code(), Some(9));
}

#[test]
fn a_signal_that_ends_the_command_is_told() {
    let child = shell("kill -SEGV $$").spawn().unwrap();
    assert_eq!(child.wait().unwrap().status.signal(), Some(Signal::SEGV));
}

#[test]
fn an_exit_code_of_137_is_no_sigkill() {
    let child = shell("exit 137").spawn().unwrap();
    let status = child.wait().unwrap().status;
    assert_eq!((status.code(), status.signal()), (Some(137), None));
}

#[test]
fn who_ended_it_is_told() {
    let long = || shell("trap '' TERM; echo; sleep 60 & wait; sleep 60").stdout(Stdio::piped());
    let ready = |mut child: Child| {
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        child
    };
    let child = ready(long().spawn().unwrap());
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().killed_by, KilledBy::Handle);
    let child = ready(long().spawn().unwrap());
    child.stop(Signal::TERM, Duration::from_millis(50)).unwrap();
    assert_eq!(child.wait().unwrap().killed_by, KilledBy::Grace);
    let child = long().wall(Duration::from_millis(1500)).spawn().unwrap();
    let ended = child.wait().unwrap();
    assert_eq!((ended.killed_by, ended.status.signal()), (KilledBy::WallClock, Some(Signal::KILL)));
}

#[test]
fn a_grandchild_that_keeps_a_pipe_open_holds_nobody_up() {
    let mut child = shell("setsid sleep 60 & echo said").stdout(Stdio::piped()).spawn().unwrap();
    let begun = Instant::now();
    assert_eq!(text(child.stdout.take().unwrap()), "said\n");
    child.wait().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[test]
fn dropping_ends_everything() {
    let child = shell("setsid sleep 61 & sleep 61").spawn().unwrap();
    let first = child.id();
    let begun = Instant::now();
    drop(child);
    while lives(first) {
        assert!(begun.elapsed() < Duration::from_secs(20), "PID 1 of a dropped child still runs");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether a process is there and no zombie, which whoever adopted it may leave for a while.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn failure(spawn: Spawn) -> (String, Option<String>) {
    let error = spawn.spawn().expect_err("it can't start");
    (error.to_string(), error.remedy())
}

#[test]
fn why_a_command_cannot_be_executed_is_told() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("script"), "#!/no/such/interpreter\n").unwrap();
    std::fs::write(dir.path().join("dos"), "#!/bin/sh\r\n").unwrap();
    std::fs::write(dir.path().join("plain"), "text").unwrap();
    for (name, mode) in [("script", 0o755), ("dos", 0o755), ("plain", 0o644)] {
        std::fs::set_permissions(dir.path().join(name), std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let with = |program: &str| {
        let mut spawn = Spawn::new(program).env("PATH", "/usr/bin:/bin").namespaces(Namespaces::all()).root(Root::tmpfs());
        if !rustix::process::geteuid().is_root() {
            spawn = spawn.id_map(IdMap::for_current_user());
        }
        failure(spawn.mounts(Mount::standard()).mount(Mount::bind(dir.path(), "/x")))
    };
    assert_eq!(
        with("nosuch"),
        (
            "command not found: nosuch (searched PATH /usr/bin:/bin)".into(),
            Some("name the program by its full path in the image, or install it there".into())
        )
    );
    assert_eq!(
        with("/x/script"),
        (
            "/x/script is there, but the interpreter it needs isn't: /no/such/interpreter".into(),
            Some("install the interpreter in the image, or name one that is there".into())
        )
    );
    assert_eq!(
        with("/x/dos"),
        (
            "/x/dos is there, but the interpreter it needs isn't: /bin/sh\r".into(),
            Some("the first line ends in a carriage return: save the script with Unix line ends".into())
        )
    );
    assert_eq!(
        with("/x/plain"),
        (
            "/x/plain is there but can't be executed".into(),
            Some("give it execute permission (chmod +x), or name a program of this machine's architecture".into())
        )
    );
}

#[test]
fn a_failed_step_is_named_with_its_error() {
    let (message, _) = failure(shell("true").mount(Mount::bind("/no/such/directory", "/y")));
    assert_eq!(message, "can't bind /no/such/directory to /y: No such file or directory (ENOENT)");
    let (message, _) = failure(shell("true").mount(Mount::tmpfs("/y", ["size=nonsense"])));
    assert!(message.starts_with("can't mount tmpfs on /y: "), "{message}");
}

#[test]
fn all_that_is_wrong_is_told_before_anything_happens() {
    let dir = tempfile::tempdir().unwrap();
    let error = Spawn::new("")
        .hostname("h".repeat(65))
        .env("A=B", "c")
        .mount(Mount::proc())
        .effect(Effect::MakeDirectory { path: dir.path().join("made"), mode: 0o700 })
        .spawn()
        .unwrap_err();
    let Error::Invalid { problems } = &error else { panic!("{error}") };
    assert_eq!(problems.len(), 5, "{problems:?}");
    assert!(!dir.path().join("made").exists());
}

#[test]
fn a_plan_can_be_read_without_any_privilege() {
    let steps = Spawn::new("id").namespaces(Namespaces::all()).root(Root::bind("/srv")).hostname("h").plan().unwrap().steps();
    assert_eq!(
        steps,
        [
            "make the mount namespace private",
            "make /srv the root",
            "enter the network namespace that was made meanwhile",
            "set the host name h",
            "unshare namespaces 0x2000000",
            "pivot to the root",
            "set the umask 022",
            "execute [\"id\"] under init",
        ]
    );
}

/// What only joining needs comes while the mounts are made; a start whose v1 cgroup can't be made says so and leaves nothing.
#[test]
fn what_only_joining_needs_is_done_meanwhile() {
    let dir = tempfile::tempdir().unwrap();
    let (run, v1) = (dir.path().join("run"), dir.path().join("missing/v1"));
    let spawn = shell("exit 7")
        .effect(Effect::MakeDirectory { path: v1.clone(), mode: 0o755 })
        .effect(Effect::Write { path: v1.join("pids.max"), value: b"8".to_vec(), optional: false })
        .effect(Effect::MakeDirectory { path: run.clone(), mode: 0o755 })
        .undo(Undo::RemoveTree(run.clone()))
        .cgroup(CgroupPlacement { join: vec![v1.clone()], ..CgroupPlacement::default() });
    let steps = spawn.plan().unwrap().steps();
    let at = |what: &str| steps.iter().position(|step| step.contains(what)).unwrap_or_else(|| panic!("{what}: {steps:?}"));
    let order = [
        format!("make the directory {}", run.display()),
        format!("make the directory {}", v1.display()),
        "pids.max".into(),
        format!("join the cgroup by {}/tasks", v1.display()),
        "unshare".into(),
        "pivot".into(),
    ];
    let places: Vec<usize> = order.iter().map(|what| at(what)).collect();
    assert!(places.is_sorted(), "{places:?} {steps:?}");

    let error = spawn.spawn().unwrap_err();
    assert_eq!(error.to_string(), format!("can't make the directory {}: No such file or directory (ENOENT)", v1.display()));
    assert!(!run.exists());
}

/// Nothing is said before the end, and then all at once; what fails is said when it fails.
#[test]
fn what_is_told_at_the_end_is_told_at_the_end() {
    let mut starting =
        shell("echo hi; read -r line; echo $line; exit 4").stdin(Stdio::piped()).stdout(Stdio::piped()).told_at_end(true).start().unwrap();
    let (stdin, stdout, stderr) = starting.take_pipes();
    let (mut stdin, mut stdout) = (stdin.unwrap(), stdout.unwrap());
    assert!(stderr.is_none());
    let mut hi = [0; 3];
    stdout.read_exact(&mut hi).unwrap();
    assert_eq!(&hi, b"hi\n");
    // It runs, and isn't said to.
    let mut starting = std::pin::pin!(starting);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..10 {
        std::thread::sleep(Duration::from_millis(5));
        assert!(starting.as_mut().poll(&mut cx).is_pending());
    }
    stdin.write_all(b"on\n").unwrap();
    assert_eq!(text(stdout), "on\n");
    let child = loop {
        match starting.as_mut().poll(&mut cx) {
            Poll::Ready(child) => break child.unwrap(),
            Poll::Pending => std::thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(child.stdin.is_none() && child.stdout.is_none(), "they were taken");
    assert_eq!(child.try_wait().unwrap().map(|ended| ended.status.code()), Some(Some(4)), "it came with the start");
    assert_eq!(child.wait_gone().unwrap(), []);

    let failed = Spawn::new("/no/such/program").told_at_end(true).spawn().unwrap_err();
    assert!(matches!(failed, Error::Exec { fault: ExecFault::NotFound { .. }, .. }), "{failed}");
    let before = Instant::now();
    let ended = shell("sleep 1000").told_at_end(true).wall(Duration::from_millis(2000)).spawn().unwrap().wait().unwrap();
    assert_eq!(ended.killed_by, KilledBy::WallClock);
    assert!(before.elapsed() < Duration::from_secs(30));
}

/// The supervisor makes it, and is in its own again before the command runs.
#[test]
fn a_network_namespace_is_the_containers_and_not_the_supervisors() {
    let mut child = shell("echo; sleep 60").stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let namespace = |pid: u32, kind: &str| std::fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let parent: u32 = status.lines().find_map(|line| line.strip_prefix("PPid:")).unwrap().trim().parse().unwrap();
    assert_ne!(namespace(child.id(), "net"), namespace(std::process::id(), "net"));
    // Nobody but root looks into a supervisor.
    if rustix::process::geteuid().is_root() {
        assert_eq!(namespace(parent, "net"), namespace(std::process::id(), "net"));
    }
    // What /sys shows is the namespace's.
    child.kill().unwrap();
    assert_eq!(child.wait_gone().unwrap(), []);
    let mut child = shell("ls /sys/class/net; cat /proc/self/net/dev | grep -c :").stdout(Stdio::piped()).spawn().unwrap();
    assert_eq!(text(child.stdout.take().unwrap()), "lo\n1\n");
}

#[test]
fn effects_are_undone_also_where_the_start_failed() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let with = |spawn: Spawn| {
        spawn
            .effect(Effect::RunDirectory { parent: dir.path().into(), name: "run".into(), description: b"words".to_vec() })
            .effect(Effect::MakeDirectory { path: run.join("more"), mode: 0o700 })
            .undo(Undo::RemoveTree(run.clone()))
    };
    let mut child = with(shell("echo; sleep 60")).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let record = Record::read(&run).unwrap();
    assert_eq!((record.description.as_slice(), record.alive), (&b"words"[..], true));
    // Somebody who sweeps meanwhile finds nothing to sweep.
    assert_eq!(sweep(dir.path()).unwrap().0, 0);
    child.kill().unwrap();
    assert_eq!(child.wait_gone().unwrap(), []);
    assert!(!run.exists());

    assert!(with(Spawn::new("/no/such/program")).spawn().is_err());
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn what_cannot_be_taken_back_is_told_and_stays_on_record_until_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let (runs, busy) = (dir.path().join("runs"), dir.path().join("busy"));
    let run = runs.join("run");
    std::fs::create_dir(&runs).unwrap();
    std::fs::create_dir(&busy).unwrap();
    std::fs::write(busy.join("file"), "").unwrap();
    let child = shell("true")
        .effect(Effect::RunDirectory { parent: runs.clone(), name: "run".into(), description: Vec::new() })
        .undo(Undo::RemoveCgroup(busy.clone()))
        .undo(Undo::RemoveTree(run.clone()))
        .spawn()
        .unwrap();
    child.wait().unwrap();
    let left = child.wait_gone().unwrap();
    assert_eq!(left.iter().map(|left| left.path.clone()).collect::<Vec<_>>(), std::slice::from_ref(&busy));
    assert!(run.join("record").exists());
    std::fs::remove_file(busy.join("file")).unwrap();
    assert_eq!(sweep(&runs).unwrap().0, 1);
    assert!(!run.exists() && !busy.exists());
}

#[test]
fn what_a_killed_supervisor_left_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let mut child = shell("mkdir -p /y/a/b; chmod 0 /y/a; echo; sleep 60")
        .effect(Effect::RunDirectory { parent: dir.path().into(), name: "run".into(), description: Vec::new() })
        .effect(Effect::MakeDirectory { path: run.join("y"), mode: 0o755 })
        .mount(Mount::bind(run.join("y"), "/y"))
        .undo(Undo::RemoveTree(run.clone()))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let first = child.id();
    let status = std::fs::read_to_string(format!("/proc/{first}/status")).unwrap();
    let supervisor = status.lines().find_map(|l| l.strip_prefix("PPid:\t")).unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(supervisor).unwrap(), rustix::process::Signal::KILL).unwrap();
    assert!(matches!(child.wait(), Err(Error::Lost)));
    let begun = Instant::now();
    while lives(first) {
        assert!(begun.elapsed() < Duration::from_secs(20), "PID 1 outlived its supervisor");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert!(run.exists());
    let (swept, errors) = sweep(dir.path()).unwrap();
    assert_eq!((swept, errors.len()), (1, 0), "{errors:?}");
    assert!(!run.exists());
}

#[test]
fn a_detached_child_outlives_its_owner_and_is_attached_to() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let child = shell("trap 'exit 3' USR1; while :; do sleep 0.02; done")
        .effect(Effect::RunDirectory { parent: dir.path().into(), name: "run".into(), description: Vec::new() })
        .undo(Undo::RemoveTree(run.clone()))
        .listen(run.join("control"))
        .spawn()
        .unwrap();
    child.detach().unwrap();
    pollster::block_on(std::future::poll_fn(|cx| child.poll_detached(cx))).unwrap();
    drop(child);
    std::thread::sleep(Duration::from_millis(50));
    let child = Child::attach(&run.join("control")).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    child.signal(Signal::USR1).unwrap();
    assert_eq!(child.wait().unwrap().status.code(), Some(3));
    assert_eq!(child.wait_gone().unwrap(), []);
    assert!(!run.exists());
    assert!(matches!(Child::attach(&run.join("control")), Err(Error::Attach { .. })));
}

#[test]
fn capabilities_are_bounded_and_none_is_inheritable() {
    let mut child =
        shell("grep Cap /proc/self/status").user("0").capabilities(CapabilitySet::docker_default()).stdout(Stdio::piped()).spawn().unwrap();
    let said = text(child.stdout.take().unwrap());
    let expected = [("Inh", 0), ("Prm", 0xa804_25fb), ("Eff", 0xa804_25fb), ("Bnd", 0xa804_25fbu64), ("Amb", 0)];
    let expected: String = expected.iter().map(|(name, set)| format!("Cap{name}:\t{set:016x}\n")).collect();
    assert_eq!(said, expected);
}

#[test]
fn the_exec_fault_can_be_matched() {
    let error = Spawn::new("/no/such/program").spawn().unwrap_err();
    assert!(matches!(error, Error::Exec { fault: ExecFault::NotFound { searched: None }, .. }), "{error}");
}

#[test]
fn many_start_at_once_from_many_threads() {
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for code in 0..5 {
                    let child = shell(&format!("exit {code}")).spawn().unwrap();
                    assert_eq!(child.wait().unwrap().status.code(), Some(code));
                }
            });
        }
    });
}

#[test]
fn starting_and_waiting_are_futures_of_no_runtime() {
    let child = pollster::block_on(shell("exit 4").start().unwrap()).unwrap();
    let ended = pollster::block_on(std::future::poll_fn(|cx| child.poll_ended(cx))).unwrap();
    assert_eq!(ended.status.code(), Some(4));
}

/// What one more command says, and how it ends.
fn run_inside(child: &Child, exec: Exec) -> (String, Ended) {
    let mut exec = child.interior().start(exec.stdin(Stdio::null()).stdout(Stdio::piped())).unwrap().wait().unwrap();
    let said = text(exec.stdout.take().unwrap());
    let ended = exec.wait().unwrap();
    assert_eq!(exec.wait_gone().unwrap(), []);
    (said, Ended::clone(&ended))
}

#[test]
fn one_more_command_joins_all_namespaces_and_ends_alone() {
    for init in [Init::Ours, Init::Command] {
        let child = shell("exec sleep 1000").hostname("joined").init(init).env("A", "1").spawn().unwrap();
        let line = "hostname; echo $A; for n in user mnt pid net ipc uts; do (readlink /proc/self/ns/$n; readlink /proc/1/ns/$n) | uniq | wc -l; done";
        let (said, ended) = run_inside(&child, Exec::new("sh").args(["-c", line]));
        assert_eq!((said.as_str(), ended.status.code(), ended.killed_by), ("joined\n1\n1\n1\n1\n1\n1\n1\n", Some(0), KilledBy::Nobody));
        // Without a cgroup whoever it started is found by descent, daemons too.
        let line = "setsid sleep 1001 & (setsid sh -c 'setsid sleep 1001 & exit' &) ; sleep 1001";
        let (_, ended) = run_inside(&child, Exec::new("sh").args(["-c", line]).wall(Duration::from_millis(1500)));
        assert_eq!(ended.killed_by, KilledBy::WallClock);
        let (said, _) = run_inside(&child, Exec::new("sh").args(["-c", "grep -al 'sleep.100[1]' /proc/[0-9]*/cmdline"]));
        assert_eq!(said, "");
        assert!(child.try_wait().unwrap().is_none());
    }
}

#[test]
fn a_command_without_a_pid_namespace_ends_with_its_init() {
    let mut spawn = Spawn::new("sleep").arg("1003").env("PATH", "/usr/bin:/bin").init(Init::Ours);
    if !rustix::process::geteuid().is_root() {
        spawn = spawn.namespaces(Namespaces::MOUNT).id_map(IdMap::for_current_user());
    }
    let child = spawn.spawn().unwrap();
    let command = child.command_id();
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{command}/stat")).unwrap_or_default();
        stat.contains("(sleep)") && !stat.contains(") Z ")
    };
    assert!(lives());
    child.kill().unwrap();
    assert_eq!(child.wait_gone().unwrap(), []);
    let end = Instant::now() + Duration::from_secs(5);
    while lives() {
        assert!(Instant::now() < end, "it outlived its init");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn one_more_command_of_a_process_without_namespaces_ends_with_it() {
    // Its own first process: without a pid namespace nobody ends what an init leaves.
    let mut spawn = Spawn::new("sleep").arg("1000").env("PATH", "/usr/bin:/bin").init(Init::Command);
    if !rustix::process::geteuid().is_root() {
        spawn = spawn.namespaces(Namespaces::MOUNT).id_map(IdMap::for_current_user());
    }
    let child = spawn.spawn().unwrap();
    let exec = child
        .interior()
        .start(Exec::new("sh").args(["-c", "setsid sleep 1001 & exec sleep 1001"]).stdout(Stdio::null()))
        .unwrap()
        .wait()
        .unwrap();
    let running = child.interior().list().unwrap().wait().unwrap();
    assert_eq!(running.iter().map(|r| (r.id, r.pid)).collect::<Vec<_>>(), [(exec.command_id(), exec.id())]);
    child.kill().unwrap();
    assert_eq!(exec.wait().unwrap().killed_by, KilledBy::Container);
    assert_eq!(child.wait_gone().unwrap(), []);
    assert!(matches!(child.interior().start(Exec::new("true")).and_then(|starting| starting.wait().map(drop)), Err(Error::Ended)));
}

#[test]
fn what_keeps_one_more_command_from_starting_is_told() {
    let child = shell("exec sleep 1000").spawn().unwrap();
    let fails = |exec: Exec| child.interior().start(exec).and_then(|starting| starting.wait().map(drop)).unwrap_err();
    match fails(Exec::new("no-such-program").env("PATH", "/a:/b")) {
        Error::Exec { program, fault: ExecFault::NotFound { searched } } => {
            assert_eq!((program.as_str(), searched.as_deref()), ("no-such-program", Some("/a:/b")));
        }
        other => panic!("{other}"),
    }
    assert!(matches!(fails(Exec::new("/etc/passwd")), Error::Exec { fault: ExecFault::NotExecutable { .. }, .. }));
    assert!(matches!(fails(Exec::new("true").user("no-such-user")), Error::UnknownUser { what: "user", .. }));
    assert!(matches!(fails(Exec::new("true").current_dir("/no/such")), Error::Step { errno: 2, .. }));
    assert!(matches!(fails(Exec::new("true").current_dir("relative")), Error::Invalid { .. }));
    child.kill().unwrap();
}

#[test]
fn a_rehearsal_does_all_but_the_command_and_takes_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    let described = || shell(&format!("echo ran > {}", trace.display())).hostname("rehearsed");
    described()
        .effect(Effect::MakeDirectory { path: dir.path().join("made"), mode: 0o700 })
        .undo(Undo::RemoveTree(dir.path().join("made")))
        .rehearse()
        .unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing ran, and nothing is left");
    Spawn::new("").rehearse().unwrap();
    // What can't be done is told as a start tells it.
    let refused = described().mount(Mount::bind("/no/such/directory", "/mnt")).rehearse().unwrap_err();
    assert!(refused.to_string().contains("/no/such/directory"), "{refused}");
}
