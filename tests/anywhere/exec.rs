//! Further commands in a container that runs: what they have, how they end, and who ends with them.

use crate::support::need;
use crate::support::place::{Place, block_on, within};
use crate::support::rootfs::busybox_program;
use coracle::{Container, Error, Exec, ExecBuilder, Output, Reason, Signal, Stdio};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A container that waits.
fn waiting(place: &Place) -> Container {
    block_on(place.sh("trap 'exit 0' TERM; echo $$ > /ready; while :; do sleep 1; done").run()).expect("it runs")
}

fn sh(container: &Container, line: &str) -> ExecBuilder {
    container.exec(["sh", "-c", line])
}

#[track_caller]
fn ran(exec: ExecBuilder) -> Output {
    block_on(exec.output()).unwrap_or_else(|error| panic!("{error}\n  fix: {:?}", error.remedy()))
}

#[track_caller]
fn said(exec: ExecBuilder) -> String {
    let out = ran(exec);
    assert!(out.status.success() && out.stderr.is_empty(), "{}: {}{}", out.status, out.stdout_lossy(), out.stderr_lossy());
    out.stdout_lossy().into_owned()
}

/// The error that a command ends in: its text, and the exit code that docker-exec(1) has for it.
#[track_caller]
fn fails(exec: ExecBuilder) -> (String, u8) {
    match block_on(exec.output()) {
        Ok(out) => panic!("it ran: {}: {}{}", out.status, out.stdout_lossy(), out.stderr_lossy()),
        Err(error) => (error.to_string(), error.exit_code()),
    }
}

/// How many processes of the container have these words in their command lines, as the container sees it.
fn count(container: &Container, words: &str) -> usize {
    // The pattern doesn't match itself.
    let line = format!("cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -o 'sleep {}' | wc -l", words.replacen('1', "[1]", 1));
    let out = ran(sh(container, &line));
    out.stdout_lossy().trim().parse().expect("wc counts")
}

fn remove(place: &Place, container: Container) {
    let id = container.id().to_owned();
    block_on(container.remove()).expect("all is taken back");
    // Of this container: those of tests beside this one live long.
    assert_eq!(place.left_of(&id, Duration::from_secs(10)), Vec::<String>::new());
}

#[test]
fn output_is_all_that_was_said_and_how_it_ended() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    let out = ran(sh(&container, "echo out; echo err >&2; exit 3"));
    assert_eq!((out.stdout_lossy().as_ref(), out.stderr_lossy().as_ref()), ("out\n", "err\n"));
    assert_eq!((out.status.code(), out.status.reason()), (Some(3), Reason::Code(3)));
    assert!(out.usage.wall > Duration::ZERO && out.usage.wall < Duration::from_secs(60), "{:?}", out.usage);
    assert!(out.usage.max_rss > 0, "{:?}", out.usage);
    let bytes: Vec<u8> = (0..3u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    assert!(ran(container.exec(["cat"]).stdin_bytes(bytes.clone())).stdout == bytes);
    assert_eq!(ran(sh(&container, "kill -SEGV $$")).status.reason(), Reason::Signal(Signal::SEGV));
    assert_eq!(said(sh(&container, "cat")), "", "the input is /dev/null");
    assert!(container.try_wait().expect("it is watched").is_none());
    remove(&place, container);
}

#[test]
fn environment_directory_and_user_are_the_containers_unless_others_are_named() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = place.sh("while :; do sleep 1; done").env("A", "1").env("B", "2").workdir("/usr").hostname("inside");
    let container = block_on(container.run()).expect("it runs");
    let line = "echo $A $B $C $HOME $HOSTNAME; pwd; id -u; hostname";
    assert_eq!(said(sh(&container, line)), "1 2 /root inside\n/usr\n0\ninside\n");
    assert_eq!(said(sh(&container, line).env("B", "3").env("C", "4").workdir("/tmp")), "1 3 4 /root inside\n/tmp\n0\ninside\n");
    // Without sub-ids there is but one user.
    if crate::support::met(crate::support::needs::Need::NoSubIds) {
        let (error, _) = fails(sh(&container, line).user("guest"));
        assert!(error.contains("isn't mapped"), "{error}");
    } else {
        assert_eq!(said(container.exec(["id"]).user("guest")), "uid=1000(guest) gid=1000(guest) groups=10(wheel),1000(guest)\n");
        assert_eq!(said(sh(&container, "echo $HOME").user("guest")), "/home\n");
        assert_eq!(said(sh(&container, "id -u; id -g").user("7:8")), "7\n8\n");
        // Its /etc/passwd is looked up as it is now.
        said(sh(&container, "echo new:x:77:77::/tmp:/bin/sh >> /etc/passwd"));
        assert_eq!(said(sh(&container, "id -u; echo $HOME").user("new")), "77\n/tmp\n");
    }
    // PATH is what the command gets.
    assert_eq!(said(container.exec(["busybox", "echo", "found"]).env("PATH", "/nowhere:/bin")), "found\n");
    remove(&place, container);
}

/// What of /proc decides about a process's power.
const POWER: &str = "grep -E '^(Cap|NoNewPrivs|Seccomp:|Umask|Uid|Gid|Groups)' /proc/self/status; cat /proc/self/limits; \
    cat /proc/self/mountinfo; for n in user mnt pid net ipc uts cgroup; do readlink /proc/self/ns/$n; done; cat /proc/self/oom_score_adj";

#[test]
fn it_has_exactly_what_the_containers_own_command_has() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = format!("{{ {POWER}; }} > /draft; mv /draft /power; while :; do sleep 1; done");
    let described = place.sh(&line).cap_drop("CHOWN").cap_drop("MKNOD").rlimit("nofile=99".parse().expect("a limit"));
    let container = block_on(described.run()).expect("it runs");
    let own = said(sh(&container, "while [ ! -e /power ]; do sleep 0.01; done; cat /power"));
    assert!(own.lines().count() > 30 && own.contains("Max open files            99"), "{own}");
    assert_eq!(said(sh(&container, POWER)), own);
    // What is masked is masked, and what the filter refuses is refused.
    assert_eq!(said(sh(&container, "cat /proc/keys /proc/timer_list 2>/dev/null; ls -A /proc/acpi 2>/dev/null || true")), "");
    assert!(!ran(sh(&container, "echo x > /proc/sys/kernel/domainname")).status.success());
    assert!(!ran(sh(&container, "unshare -U true")).status.success());
    assert!(!ran(sh(&container, "mount -t tmpfs x /tmp")).status.success());
    remove(&place, container);
}

#[test]
fn it_leads_a_session_of_its_own_and_holds_nothing_but_its_streams() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    assert_eq!(said(sh(&container, "set -- $(cat /proc/$$/stat); [ $1 = $6 ] && echo leads")), "leads\n");
    // The fourth is ls's own.
    let links = ran(container.exec(["ls", "-l", "/proc/self/fd"]));
    let links = links.stdout_lossy();
    assert_eq!(links.lines().filter(|l| l.starts_with('l')).count(), 4, "{links}");
    assert!(!links.contains("socket:") && links.lines().filter(|l| l.contains("pipe:")).count() == 2, "{links}");
    remove(&place, container);
}

#[test]
fn an_image_without_a_shell_can_have_one_more_command() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let root = place.path().join("bare");
    for directory in ["", "proc", "sys", "dev"] {
        std::fs::create_dir(root.join(directory)).expect("a directory can be made");
    }
    // One static program under two names, and no more: no shell, no /etc, no libraries.
    for name in ["sleep", "echo"] {
        crate::support::program::run("cp", [busybox_program().expect("it is there").as_os_str(), root.join(name).as_os_str()]);
    }
    place.look_again();
    let container = Container::from_rootfs(&root).engine(place.engine()).cmd(["/sleep", "1000"]).env("MARK", place.path());
    let container = block_on(container.run()).expect("it runs");
    assert_eq!(said(container.exec(["/echo", "from inside"])), "from inside\n");
    assert_eq!(said(container.exec(["/echo", "by number"]).user("0:0")), "by number\n");
    let (error, code) = fails(container.exec(["sh", "-c", "true"]));
    assert!(error.contains("command not found: sh (searched PATH /usr/local/sbin:"), "{error}");
    assert_eq!(code, 127);
    remove(&place, container);
}

#[test]
fn what_cannot_be_executed_says_why() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    let script = |name: &str, text: &str, mode: u32| {
        let path = place.rootfs().join("bin").join(name);
        std::fs::write(&path, text).expect("it can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode can be set");
    };
    script("not-executable", "#!/bin/sh\n", 0o644);
    script("no-interpreter", "#!/usr/bin/python7\n", 0o755);
    place.look_again();
    let container = waiting(&place);
    let exec = |word: &str| container.exec([word]);
    assert_eq!(fails(exec("nano").env("PATH", "/a:/b")), ("command not found: nano (searched PATH /a:/b)".into(), 127));
    assert_eq!(fails(exec("/bin/nano")), ("command not found: /bin/nano".into(), 127));
    assert_eq!(fails(exec("/bin/not-executable")), ("/bin/not-executable is there but can't be executed".into(), 126));
    let (error, code) = fails(exec("no-interpreter"));
    assert!(error.contains("the interpreter it needs isn't: /usr/bin/python7") && code == 127, "{error}");
    let (error, code) = fails(exec("true").user("nobody-here"));
    assert!(error.contains("no user \"nobody-here\" in the root's /etc/passwd") && code == 125, "{error}");
    let (error, _) = fails(exec("true").user("root:nobody-here"));
    assert!(error.contains("no group \"nobody-here\""), "{error}");
    let (error, _) = fails(exec("true").user("-1"));
    assert!(error.contains("is no user"), "{error}");
    let (error, _) = fails(exec("true").workdir("/not/there"));
    assert_eq!(error, "can't enter the working directory /not/there: No such file or directory (ENOENT)");
    match block_on(exec("").workdir("relative").env("a=b", "").output()) {
        Err(Error::Description { problems }) => assert_eq!(problems.len(), 3, "{problems:?}"),
        other => panic!("{other:?}"),
    }
    assert!(matches!(block_on(container.exec([""; 0]).output()), Err(Error::Description { .. })));
    assert_eq!(said(exec("hostname")).len(), 13);
    remove(&place, container);
}

/// Shell that leaves processes of every kind: a child, one in a session of its own, one whose parents have left, one that ignores
/// SIGTERM; and then waits.
const CROWD: &str = "sleep 1001 & setsid sleep 1002 & (setsid sh -c 'setsid sleep 1003 & exit' &) ; \
    (trap '' TERM HUP INT; setsid sleep 1004 & sleep 1005 &) ; echo ready; sleep 1006";

fn crowd(container: &Container) -> usize {
    (1001..=1006).map(|n| count(container, &n.to_string())).sum()
}

/// Starts the crowd and waits for it.
fn with_crowd(container: &Container) -> Exec {
    block_on(async {
        let mut exec = sh(container, CROWD).spawn().await.expect("it starts");
        let mut word = [0; 6];
        exec.stdout.as_mut().expect("a pipe").read_exact(&mut word).await.expect("it says so");
        assert!(within(Duration::from_secs(20), || crowd(container) == 6), "{} of the crowd", crowd(container));
        exec
    })
}

#[test]
fn its_wall_clock_ends_all_that_it_started_and_the_container_goes_on() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    let began = Instant::now();
    let out = ran(sh(&container, CROWD).wall(Duration::from_millis(1500)));
    assert_eq!((out.status.reason(), out.status.signal()), (Reason::WallClock, Some(Signal::KILL)));
    assert!(began.elapsed() >= Duration::from_millis(1500) && began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert_eq!(out.stdout_lossy(), "ready\n", "what was said before is kept");
    // output() answers when all have ended: nothing to wait for.
    assert_eq!(crowd(&container), 0);
    assert!(container.try_wait().expect("it is watched").is_none());
    remove(&place, container);
}

#[test]
fn kill_and_stop_and_drop_end_all_that_it_started_and_the_container_goes_on() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);

    let exec = with_crowd(&container);
    block_on(exec.kill()).expect("it can be asked");
    assert_eq!(crowd(&container), 0, "kill() answers when all have ended");
    assert_eq!(block_on(exec.wait()).expect("it ends").reason(), Reason::Killed);
    block_on(exec.signal(Signal::TERM)).expect("a signal to what has ended is no error");

    let exec = with_crowd(&container);
    drop(exec);
    assert!(within(Duration::from_secs(10), || crowd(&container) == 0), "{} of the crowd", crowd(&container));

    let exec = with_crowd(&container);
    let status = block_on(exec.stop(Duration::from_secs(30))).expect("it ends");
    assert_eq!(status.reason(), Reason::Signal(Signal::TERM));
    assert!(within(Duration::from_secs(10), || crowd(&container) == 0), "{} of the crowd", crowd(&container));

    let exec = block_on(async {
        let mut exec = sh(&container, "trap '' TERM; echo; while :; do sleep 1; done").spawn().await.expect("it starts");
        // It has set its trap when it has spoken.
        exec.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).await.expect("it says so");
        exec
    });
    assert_eq!(block_on(exec.stop(Duration::from_millis(300))).expect("it ends").reason(), Reason::Killed);

    // A future that is dropped half-way.
    let starting = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime starts")
        .block_on(async { tokio::time::timeout(Duration::from_millis(600), sh(&container, CROWD).output()).await });
    assert!(starting.is_err());
    assert!(within(Duration::from_secs(10), || crowd(&container) == 0), "{} of the crowd", crowd(&container));
    assert!(container.try_wait().expect("it is watched").is_none());
    remove(&place, container);
}

#[test]
fn what_it_leaves_ends_with_it_unless_it_is_to_stay() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    let line = "setsid sleep 1007 & (setsid sleep 1008 &) ; echo done";
    assert_eq!(said(sh(&container, line)), "done\n");
    assert_eq!(count(&container, "1007") + count(&container, "1008"), 0);

    // They hold the output open, and nobody waits for them.
    let began = Instant::now();
    assert_eq!(said(sh(&container, line).background(true)), "done\n");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(count(&container, "1007") + count(&container, "1008"), 2);
    assert_eq!(block_on(container.execs()).expect("it answers"), []);
    // Killed, it leaves nothing all the same.
    let out = ran(sh(&container, "sleep 1009 & sleep 1010").background(true).wall(Duration::from_millis(1000)));
    assert_eq!(out.status.reason(), Reason::WallClock);
    assert_eq!(count(&container, "1009") + count(&container, "1010"), 0);
    remove(&place, container);
}

#[test]
fn a_stream_that_somebody_else_in_the_container_holds_hangs_nobody() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // The container's own command opens the exec's output by way of /proc, and keeps it.
    let line = "while [ ! -s /pid ]; do sleep 0.01; done; exec 5>/proc/$(cat /pid)/fd/1; echo > /held; while :; do sleep 1; done";
    let container = block_on(place.sh(line).run()).expect("it runs");
    let began = Instant::now();
    assert_eq!(said(sh(&container, "echo $$ > /pid; while [ ! -e /held ]; do sleep 0.01; done; echo said")), "said\n");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    remove(&place, container);
}

#[test]
fn spawn_hands_out_pipes_and_execs_are_listed_and_signalled() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts").block_on(async {
        let mut exec = sh(&container, "while read line; do echo \"<$line>\"; done; echo end >&2").spawn().await.expect("it starts");
        let (mut stdin, mut stdout) = (exec.stdin.take().expect("a pipe"), exec.stdout.take().expect("a pipe"));
        stdin.write_all(b"one\n").await.expect("it reads");
        let mut answer = [0; 6];
        stdout.read_exact(&mut answer).await.expect("it answers");
        assert_eq!(&answer, b"<one>\n");

        let other = container.exec(["sleep", "1000"]).spawn().await.expect("it starts");
        assert_ne!(exec.id(), other.id());
        let mut listed = container.execs().await.expect("it answers");
        listed.sort_by_key(|e| e.id);
        assert_eq!(listed.iter().map(|e| (e.id, e.pid)).collect::<Vec<_>>(), [(exec.id(), exec.pid()), (other.id(), other.pid())]);
        assert_eq!(listed[1].command, ["sleep", "1000"]);
        assert!(listed[0].age >= listed[1].age && listed[0].age < Duration::from_secs(60));

        container.signal_exec(other.id(), Signal::TERM).await.expect("it runs");
        assert_eq!(other.wait().await.expect("it ends").reason(), Reason::Signal(Signal::TERM));
        let error = container.signal_exec(other.id(), Signal::TERM).await.expect_err("it has ended");
        assert!(error.to_string().contains("ended"), "{error}");
        assert!(container.signal_exec(4711, Signal::KILL).await.is_err());

        drop(stdin);
        let mut rest = String::new();
        exec.stderr.take().expect("a pipe").read_to_string(&mut rest).await.expect("it is read");
        assert_eq!(rest, "end\n");
        assert!(exec.wait().await.expect("it ends").success());
        assert!(exec.usage().expect("it is watched").is_some_and(|usage| usage.wall > Duration::ZERO));
        // Everything of a long command is there; of the list, as much as has room.
        let long: Vec<String> = (0..300).map(|n| format!("word-{n}")).collect();
        let exec = container.exec(["sh", "-c", "echo $#; sleep 1000", "x"].into_iter().map(String::from).chain(long)).spawn().await;
        let mut exec = exec.expect("it starts");
        let mut count = [0; 4];
        exec.stdout.as_mut().expect("a pipe").read_exact(&mut count).await.expect("it answers");
        assert_eq!(&count, b"300\n");
        let listed = container.execs().await.expect("it answers");
        assert!(listed.len() == 1 && (10..300).contains(&listed[0].command.len()), "{listed:?}");
        container.signal_exec(exec.id(), Signal::KILL).await.expect("it runs");
        assert_eq!(exec.wait().await.expect("it ends").reason(), Reason::Killed);
    });
    remove(&place, container);
}

#[test]
fn status_and_files_as_streams() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    std::fs::write(place.path().join("in"), "from a file\n").expect("it can be written");
    let input = std::fs::File::open(place.path().join("in")).expect("it is there");
    let output = std::fs::File::create(place.path().join("out")).expect("it can be made");
    place.look_again();
    let container = waiting(&place);
    let exec = sh(&container, "cat; exit 5").stdin(Stdio::from(input)).stdout(Stdio::from(output));
    assert_eq!(block_on(exec.status()).expect("it runs").code(), Some(5));
    let mut said = String::new();
    let out = std::fs::File::open(place.path().join("out"));
    out.expect("it is there").read_to_string(&mut said).expect("it is read");
    assert_eq!(said, "from a file\n");
    remove(&place, container);
}

#[test]
fn a_hundred_at_once() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts").block_on(async {
        let mut all = Vec::new();
        for n in 0..100 {
            all.push(sh(&container, &format!("echo out {n}; read line; echo $line; exit {n}")).spawn());
        }
        // Started at once, and all there at once.
        let mut running = Vec::new();
        let mut set = tokio::task::JoinSet::new();
        for (n, exec) in all.into_iter().enumerate() {
            set.spawn(async move { (n, exec.await.expect("it starts")) });
        }
        while let Some(exec) = set.join_next().await {
            running.push(exec.expect("nothing panics"));
        }
        let listed = container.execs().await.expect("it answers");
        assert_eq!(listed.len(), 100);
        let mut ids: Vec<u32> = listed.iter().map(|e| e.id).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 100);
        for (n, mut exec) in running {
            exec.stdin.take().expect("a pipe").write_all(format!("in {n}\n").as_bytes()).await.expect("it reads");
            let mut said = String::new();
            exec.stdout.take().expect("a pipe").read_to_string(&mut said).await.expect("it is read");
            assert_eq!(said, format!("out {n}\nin {n}\n"));
            assert_eq!(exec.wait().await.expect("it ends").code(), Some(n as i32));
        }
        assert_eq!(container.execs().await.expect("it answers"), []);
    });
    remove(&place, container);
}

#[test]
fn descriptors_of_this_user_that_are_on_their_way_hinder_nobody() {
    need!(Busybox, UserNamespaces);
    // unix(7), ETOOMANYREFS: a process that may have 20 open may send none while 64 of its user's are on their way, whoever sent them.
    let (one, _other) = std::os::unix::net::UnixStream::pair().expect("two sockets");
    let on_their_way = [one.as_fd(); 64];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&on_their_way)));
    sendmsg(&one, &[std::io::IoSlice::new(b".")], &mut control, SendFlags::NOSIGNAL).expect("they go");
    let place = Place::new();
    let script = "trap 'exit 9' TERM; > /first; while :; do sleep 0.1; done";
    let container = block_on(place.sh(script).rlimit("nofile=20".parse().expect("a limit")).run()).expect("it runs");
    let out = ran(container.exec(["sh", "-c", "echo here; exit 5"]));
    assert_eq!((out.stdout_lossy().as_ref(), out.status.code()), ("here\n", Some(5)));
    let exec =
        block_on(container.exec(["sh", "-c", "trap 'exit 8' TERM; > /further; while :; do sleep 0.1; done"]).spawn()).expect("it starts");
    let set = || ran(sh(&container, "[ -e /first ] && [ -e /further ]")).status.success();
    assert!(within(Duration::from_secs(20), set));
    assert_eq!(block_on(exec.stop(Duration::from_secs(20))).expect("it ends").code(), Some(8));
    assert_eq!(block_on(container.stop(Duration::from_secs(20))).expect("it ends").code(), Some(9));
    block_on(container.remove()).expect("all is taken back");
    place.assert_clean();
}

#[test]
fn many_one_after_another_leave_nothing_with_the_supervisor() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    let supervisor = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).expect("it runs");
    let supervisor = supervisor.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent").trim().to_owned();
    let look = || {
        // A plain user may not look.
        let fds = std::fs::read_dir(format!("/proc/{supervisor}/fd")).map(|entries| entries.count()).ok();
        let status = std::fs::read_to_string(format!("/proc/{supervisor}/status")).expect("it runs");
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).expect("it has a size");
        (fds, size.trim().trim_end_matches(" kB").parse::<u32>().expect("a number"))
    };
    // What the start needed goes back a little later; nothing is added.
    let as_before = |before: (Option<usize>, u32)| look().0 == before.0 && look().1 <= before.1;
    let before = look();
    assert!(ran(container.exec(["true"])).status.success());
    // One that isn't listed any more may still be on its way out.
    assert!(within(Duration::from_secs(20), || as_before(before)), "{:?}, and at first {before:?}", look());
    for n in 0..100 {
        assert!(ran(container.exec(["true"]).env("PADDING", "x".repeat(20_000))).status.success(), "{n}");
    }
    drop(block_on(container.exec(["sleep", "1000"]).spawn()).expect("it starts"));
    let _ = fails(container.exec(["nothing-of-that-name"]));
    assert!(within(Duration::from_secs(20), || as_before(before)), "{:?}, and at first {before:?}", look());
    remove(&place, container);
}

#[test]
fn the_containers_end_ends_its_execs_and_they_say_so() {
    need!(Busybox, UserNamespaces);
    for init in [true, false] {
        let place = Place::new();
        let line = "trap 'exit 7' TERM; while :; do sleep 0.05; done";
        let container = block_on(place.sh(line).init(init).run()).expect("it runs");
        let exec = with_crowd(&container);
        block_on(container.signal(Signal::TERM)).expect("it can be asked");
        assert_eq!(block_on(container.wait()).expect("it ends").code(), Some(7));
        let status = block_on(exec.wait()).expect("its end is told");
        assert_eq!((status.reason(), status.to_string()), (Reason::ContainerEnded, "killed: the container ended".into()), "init {init}");
        let error = block_on(container.exec(["true"]).output()).expect_err("it has ended");
        assert_eq!(error.to_string(), "it has ended, and nothing can be executed in it");
        assert!(block_on(container.execs()).is_err());
        remove(&place, container);

        let container = waiting(&place);
        let (id, exec) = (container.id().to_owned(), with_crowd(&container));
        drop(container);
        assert_eq!(block_on(exec.wait()).expect("its end is told").reason(), Reason::ContainerEnded, "init {init}");
        assert_eq!(place.left_of(&id, Duration::from_secs(10)), Vec::<String>::new());
    }
}

#[test]
fn the_supervisors_death_is_no_silence() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    let exec = with_crowd(&container);
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).expect("it runs");
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent").trim();
    crate::support::owner::signal(supervisor.parse().expect("a number"), rustix::process::Signal::KILL);
    assert!(matches!(block_on(exec.wait()), Err(Error::Lost)));
    assert!(matches!(block_on(container.wait()), Err(Error::Lost)));
    assert!(block_on(container.exec(["true"]).output()).is_err());
    let id = container.id().to_owned();
    drop(container);
    // The next engine takes back what it left.
    place.engine().containers().expect("it can be asked");
    assert_eq!(place.left_of(&id, Duration::from_secs(10)), Vec::<String>::new());
}

#[test]
fn another_process_that_attached_executes_too_and_its_death_ends_only_that() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let id = block_on(async { waiting(&place).detach().await }).expect("it goes on");
    let attached = place.engine().attach(&id).expect("it answers");
    assert_eq!(said(sh(&attached, "echo $MARK").env("MARK", place.path())), format!("{}\n", place.path().display()));
    let exec = with_crowd(&attached);
    // Its number is known to everybody who attached.
    let second = place.engine().attach(&id).expect("it answers");
    assert!(block_on(second.execs()).expect("it answers").iter().any(|e| e.id == exec.id()));
    drop(attached);
    assert!(exec.try_wait().expect("it is watched").is_none(), "a handle to an exec needs no container beside it");
    drop(exec);
    assert!(within(Duration::from_secs(10), || crowd(&second) == 0));

    // One that outlives its handle.
    let kept = block_on(async { second.exec(["sleep", "1011"]).spawn().await?.detach().await }).expect("it goes on");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(block_on(second.execs()).expect("it answers").iter().map(|e| e.id).collect::<Vec<_>>(), [kept]);
    block_on(second.signal_exec(kept, Signal::KILL)).expect("it runs");
    assert!(within(Duration::from_secs(10), || block_on(second.execs()).is_ok_and(|all| all.is_empty())));
    remove(&place, second);
}

/// CVE-2024-21626, CVE-2019-5736, CVE-2016-9962, and what else a container may prepare for those who come later.
#[test]
fn cve_2016_9962_cve_2024_21626_a_hostile_container_gains_nothing_from_an_exec() {
    need!(Busybox, UserNamespaces);
    let mut place = Place::new();
    for (name, text) in [("self-script", "#!/proc/self/exe\necho x > /proc/self/exe\n"), ("works", "#!/bin/sh\necho works\n")] {
        let path = place.rootfs().join("bin").join(name);
        std::fs::write(&path, text).expect("it can be written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("its mode can be set");
    }
    for (name, to) in [("out", "/proc/1/root/.."), ("up", "../../../../.."), ("descriptor", "/proc/self/fd/4"), ("cwd", "/proc/1/cwd")] {
        symlink(to, place.rootfs().join(name)).expect("a link can be made");
    }
    place.look_again();
    let container = waiting(&place);
    // No directory of the host is to be had, by number or by link.
    for directory in
        ["/proc/self/fd/3", "/proc/self/fd/4", "/proc/self/fd/7", "/proc/self/fd/16", "/descriptor", "/out", "/cwd", "/proc/self/cwd"]
    {
        let (error, _) = fails(sh(&container, "pwd").workdir(directory));
        assert!(error.contains("working directory"), "{directory}: {error}");
    }
    assert_eq!(said(sh(&container, "pwd; ls -d /ready").workdir("/up")), "/\n/ready\n");
    // The program that enters is none that anybody in there can write, or learn from.
    for command in ["/proc/self/exe", "self-script", "/proc/1/exe"] {
        let ended = block_on(container.exec([command]).output());
        assert!(!ended.is_ok_and(|out| out.status.success()), "{command}");
    }
    // Somebody lies in wait for each new process, and opens what it finds.
    let hunter = "while :; do for p in /proc/[0-9]*; do [ $p -ef /proc/self ] && continue; \
        readlink $p/exe; readlink $p/fd/*; cat $p/environ > /dev/null; echo x 2>/dev/null > $p/exe; done >> /caught 2>/dev/null; done";
    let hunter = block_on(sh(&container, hunter).stdout(Stdio::null()).stderr(Stdio::null()).spawn()).expect("it starts");
    for _ in 0..40 {
        assert_eq!(said(container.exec(["works"])), "works\n");
    }
    block_on(hunter.kill()).expect("it can be asked");
    let caught = said(sh(&container, "sort -u /caught"));
    assert!(caught.contains("/bin/busybox"), "{caught}");
    // PID 1 is our own init, whom everybody may look at, and its socket to the supervisor.
    let host = place.path().display().to_string();
    let bad =
        caught.lines().filter(|line| line.contains(&host) || line.contains("/run/") || line.contains("/lock") || line.contains("[pidfd]"));
    assert_eq!(bad.collect::<Vec<_>>(), Vec::<&str>::new());
    // Files that are no files, and links in the place of those that name users.
    said(sh(&container, "rm /etc/passwd /etc/group; mkfifo /etc/passwd; ln -s /proc/self/fd/0 /etc/group"));
    assert_eq!(said(container.exec(["works"]).user("0:0")), "works\n");
    assert!(fails(container.exec(["works"]).user("guest")).0.contains("no user"));
    assert_eq!(said(container.exec(["works"])), "works\n");
    remove(&place, container);
}

#[test]
fn a_commands_lack_of_memory_is_its_own_verdict() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let container = block_on(place.sh("while :; do sleep 1; done").memory("32m").run()).expect("it runs");
    let eats = ["awk", "BEGIN { s = \"0123456789abcdef\"; while (1) s = s s }"];
    for _ in 0..2 {
        assert_eq!(ran(container.exec(eats)).status.reason(), Reason::OutOfMemory);
        // And it is no other's.
        assert_eq!(ran(sh(&container, "kill -KILL $$")).status.reason(), Reason::Signal(Signal::KILL));
    }
    assert!(container.try_wait().expect("it is watched").is_none());
    let out = ran(sh(&container, "for i in 1 2 3 4; do sleep 0.01 & done; i=0; while [ $i -lt 20000 ]; do i=$((i + 1)); done; wait"));
    assert!(out.usage.cpu_user + out.usage.cpu_system > Duration::ZERO, "{:?}", out.usage);
    remove(&place, container);
}

#[test]
fn a_limit_of_the_container_holds_for_its_execs() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let container = block_on(place.sh("while :; do sleep 1; done").pids(12).run()).expect("it runs");
    let out = ran(sh(&container, "for i in $(seq 40); do sleep 5 & done; echo all"));
    assert!(out.stderr_lossy().contains("can't fork"), "{}{}", out.stdout_lossy(), out.stderr_lossy());
    remove(&place, container);
}

#[test]
fn each_exec_has_a_cgroup_below_the_containers_that_goes_with_it() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let container = waiting(&place);
    let exec = with_crowd(&container);
    let of = |pid: u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it runs");
        text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned).expect("there is a cgroup2 hierarchy")
    };
    let own = of(container.pid());
    let tree = Path::new(&own).parent().expect("it is below the container's").to_owned();
    assert_eq!(Path::new(&of(exec.pid())), tree.join(format!("exec-{}", exec.id())));
    let mount = if Path::new("/sys/fs/cgroup/unified").exists() { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" };
    let directory = Path::new(mount).join(tree.strip_prefix("/").expect("it is absolute"));
    assert!(directory.join(format!("exec-{}", exec.id())).is_dir(), "{}", directory.display());
    block_on(exec.kill()).expect("it can be asked");
    let execs = || {
        let entries = std::fs::read_dir(&directory).expect("it is there");
        entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with("exec-")).count()
    };
    assert_eq!(execs(), 0);
    remove(&place, container);
}

/// Proportional set size of a process, in KiB.
fn pss(pid: &str) -> u64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    pss.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

#[test]
#[ignore = "soak: 1,000 execs of true, one after another"]
fn a_thousand_execs_take_milliseconds_and_no_memory() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = waiting(&place);
    let status = std::fs::read_to_string(format!("/proc/{}/status", container.pid())).expect("it runs");
    let supervisor = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("it has a parent").trim().to_owned();
    let both = || (pss(&supervisor), pss(&container.pid().to_string()));
    let before = both();
    let mut times = Vec::new();
    for _ in 0..1000 {
        let began = Instant::now();
        assert!(ran(container.exec(["/bin/busybox", "true"])).status.success());
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let after = both();
    println!("RESULT: exec of true: p50 {:?}, p95 {:?}, least {:?}", times[500], times[950], times[0]);
    println!("RESULT: supervisor and init: {before:?} KiB PSS before, {after:?} after");
    assert!(after.0 <= before.0 + 24, "{before:?} {after:?}");
    remove(&place, container);
}
