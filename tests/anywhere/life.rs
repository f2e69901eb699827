//! A container's life as its owner sees it: output, status, spawn and run; signals, ends, waits and drops.

use crate::support::need;
use crate::support::owner::{self, Act};
use crate::support::place::{Place, block_on, ran, said, waker, within};
use coracle::{Container, ContainerBuilder, Engine, Error, Output, Reason, Signal, Stdio};
use sha2::{Digest as _, Sha256};
use std::future::Future;
use std::io::Read as _;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts")
}

#[test]
fn output_is_all_that_was_said_and_how_it_ended() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let out = ran(place.sh("echo out; echo err >&2; exit 3"));
    assert_eq!((out.stdout_lossy().as_ref(), out.stderr_lossy().as_ref()), ("out\n", "err\n"));
    assert_eq!((out.status.code(), out.status.signal(), out.status.reason()), (Some(3), None, Reason::Code(3)));
    assert!(!out.status.success());
    assert_eq!(out.status.to_string(), "exit code 3");
    assert!(out.usage.wall > Duration::ZERO && out.usage.wall < Duration::from_secs(60), "{:?}", out.usage);
    assert!(out.usage.max_rss > 0, "{:?}", out.usage);
    // output() answers when all is taken back: nothing to wait for.
    assert_eq!(place.left_now(), Vec::<String>::new());
}

#[test]
fn a_description_can_be_used_again_and_changed() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let fixture: ContainerBuilder = place.sh("echo $WORD");
    assert_eq!(said(fixture.clone().env("WORD", "one")), "one\n");
    assert_eq!(said(fixture.clone().env("WORD", "two")), "two\n");
    assert_eq!(said(fixture), "\n");
}

#[test]
fn a_descriptions_debug_names_variables_but_not_their_values() {
    let shown = format!("{:?}", Container::from_rootfs("/").cmd(["true"]).env("TOKEN", "s3cret"));
    assert!(shown.contains("TOKEN") && !shown.contains("s3cret"), "{shown}");
}

#[test]
fn two_containers_over_one_root_see_nothing_of_each_other() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert_eq!(place.says("echo changed > /etc/os-release; cat /etc/os-release"), "changed\n");
    assert_eq!(place.says("cat /etc/os-release"), "ID=busybox\n");
    assert_eq!(std::fs::read_to_string(place.rootfs().join("etc/os-release")).expect("it is there"), "ID=busybox\n");
    place.assert_clean();
}

#[test]
fn status_writes_to_this_programs_own_streams() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let output = owner::command(Act::Status, place.path()).output().expect("the owner runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("said to stdout"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("said to stderr"));
    place.assert_clean();
}

#[test]
fn spawn_hands_out_pipes() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    runtime().block_on(async {
        let mut container = place.sh("while read line; do echo \"<$line>\"; done; echo end >&2").spawn().await.expect("it starts");
        let mut stdin = container.stdin.take().expect("a pipe");
        let mut stdout = container.stdout.take().expect("a pipe");
        let mut stderr = container.stderr.take().expect("a pipe");
        for word in ["one", "two"] {
            stdin.write_all(format!("{word}\n").as_bytes()).await.expect("it reads");
            let mut answer = [0; 6];
            stdout.read_exact(&mut answer).await.expect("it answers");
            assert_eq!(answer, format!("<{word}>\n").as_bytes());
        }
        assert!(container.try_wait().expect("it is watched").is_none());
        drop(stdin);
        let mut rest = String::new();
        stderr.read_to_string(&mut rest).await.expect("it is read");
        assert_eq!(rest, "end\n");
        assert!(container.wait().await.expect("it ends").success());
        container.remove().await.expect("all is taken back");
    });
    place.assert_clean();
}

#[test]
fn a_file_can_be_a_standard_stream() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    std::fs::write(place.path().join("in"), "from a file\n").expect("it can be written");
    let input = std::fs::File::open(place.path().join("in")).expect("it is there");
    let output = std::fs::File::create(place.path().join("out")).expect("it can be made");
    let out = ran(place.sh("cat").stdin(Stdio::from(input)).stdout(Stdio::from(output)));
    assert!(out.status.success() && out.stdout.is_empty());
    assert_eq!(std::fs::read_to_string(place.path().join("out")).expect("it is there"), "from a file\n");
}

#[test]
fn ten_mebibytes_come_back_as_they_went_in() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let bytes: Vec<u8> = (0..10u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let out = ran(place.container().cmd(["cat"]).stdin_bytes(bytes.clone()));
    assert!(out.status.success());
    assert!(out.stdout == bytes, "{} bytes of {} came back, or others", out.stdout.len(), bytes.len());
}

#[test]
fn both_streams_are_read_at_once() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // Whoever reads one stream to its end first waits for ever.
    let out = ran(place.sh("for i in 1 2 3 4; do head -c 2097152 /dev/zero; head -c 2097152 /dev/zero >&2; done"));
    assert!(out.status.success());
    assert_eq!((out.stdout.len(), out.stderr.len()), (8 << 20, 8 << 20));
}

#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let out = ran(place.container().cmd(["true"]).stdin_bytes(vec![1; 4 << 20]));
    assert!(out.status.success());
    let out = ran(place.sh("head -c 5; exit 4").stdin_bytes(vec![b'x'; 4 << 20]));
    assert_eq!((out.stdout_lossy().as_ref(), out.status.code()), ("xxxxx", Some(4)));
    place.assert_clean();
}

#[test]
fn standard_input_is_empty_if_nothing_is_said() {
    need!(Busybox, UserNamespaces);
    assert_eq!(Place::new().says("cat; readlink /proc/self/fd/0"), "/dev/null\n");
}

#[test]
fn exit_codes_are_the_commands() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for init in [true, false] {
        for code in [0, 1, 2, 42, 125, 126, 127, 128, 137, 143, 255] {
            let status = ran(place.sh(&format!("exit {code}")).init(init)).status;
            assert_eq!((status.code(), status.signal(), status.reason()), (Some(code), None, Reason::Code(code)), "init({init})");
        }
    }
}

#[test]
fn a_signal_that_ends_the_command_is_named() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for (signal, text) in [
        (Signal::TERM, "ended by SIGTERM"),
        (Signal::KILL, "ended by SIGKILL"),
        (Signal::SEGV, "ended by SIGSEGV"),
        (Signal::ABRT, "ended by SIGABRT"),
        (Signal::HUP, "ended by SIGHUP"),
    ] {
        let status = ran(place.sh(&format!("kill -{} $$", signal.number()))).status;
        assert_eq!((status.code(), status.signal(), status.reason()), (None, Some(signal), Reason::Signal(signal)));
        assert_eq!(status.to_string(), text);
    }
}

#[test]
fn a_signal_reaches_the_command() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for init in [true, false] {
        let container = block_on(place.sh("trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done").init(init).spawn());
        let mut container = container.expect("it starts");
        let mut line = [0; 6];
        let mut stdout = container.stdout.take().expect("a pipe");
        runtime().block_on(stdout.read_exact(&mut line)).expect("it speaks");
        block_on(container.signal(Signal::USR1)).expect("it is sent");
        assert_eq!(block_on(container.wait()).expect("it ends").code(), Some(9), "init({init})");
        // One that has ended gets none, which is no error.
        block_on(container.signal(Signal::USR1)).expect("no error");
    }
    place.assert_clean();
}

#[test]
fn stop_asks_first_and_kills_after_the_grace() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let obeying = block_on(place.sh("trap 'exit 7' TERM; while :; do sleep 0.05; done").run()).expect("it runs");
    let asked = Instant::now();
    let status = block_on(obeying.stop(Duration::from_secs(30))).expect("it ends");
    assert_eq!(status.reason(), Reason::Code(7));
    assert!(asked.elapsed() < Duration::from_secs(10), "it ended {:?} after it was asked", asked.elapsed());

    let ignoring = block_on(place.sh("trap '' TERM; while :; do sleep 0.05; done").run()).expect("it runs");
    let asked = Instant::now();
    let status = block_on(ignoring.stop(Duration::from_millis(300))).expect("it ends");
    assert_eq!((status.reason(), status.signal()), (Reason::Killed, Some(Signal::KILL)));
    assert_eq!(status.to_string(), "killed");
    let took = asked.elapsed();
    assert!((Duration::from_millis(290)..Duration::from_secs(10)).contains(&took), "it ended {took:?} after it was asked");
    drop((obeying, ignoring));
    place.assert_clean();
}

#[test]
fn a_dropped_stop_is_carried_out_all_the_same() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("trap '' TERM; while :; do sleep 0.05; done").run()).expect("it runs");
    {
        let mut stop = pin!(container.stop(Duration::from_millis(100)));
        let waker = waker();
        assert!(stop.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    }
    assert_eq!(block_on(container.wait()).expect("it ends").reason(), Reason::Killed);
}

#[test]
fn kill_ends_the_whole_family() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("for i in 1 2 3; do (setsid sleep 1000 &) ; done; trap '' TERM HUP INT; sleep 1000").run());
    let container = container.expect("it runs");
    block_on(container.kill()).expect("it is killed");
    assert_eq!(block_on(container.wait()).expect("it ends").reason(), Reason::Killed);
    block_on(container.remove()).expect("all is taken back");
    assert_eq!(place.left_now(), Vec::<String>::new());
    block_on(container.remove()).expect("and again is no error");
    block_on(container.kill()).expect("nor is this");
    assert_eq!(block_on(container.stop(Duration::ZERO)).expect("nor this").reason(), Reason::Killed);
}

#[test]
fn the_end_of_the_command_ends_those_it_left() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // It holds the output open: whoever waits for the end of the stream waits for it.
    let out = ran(place.sh("setsid sleep 1000 & echo started"));
    assert_eq!(out.stdout_lossy(), "started\n");
    place.assert_clean();
}

#[test]
fn many_may_wait_at_once_and_again() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = Arc::new(block_on(place.sh("sleep 0.3; exit 5").run()).expect("it runs"));
    let waiters: Vec<_> = (0..32)
        .map(|_| {
            let container = Arc::clone(&container);
            std::thread::spawn(move || block_on(container.wait()).expect("it ends").code())
        })
        .collect();
    // Some that lose interest don't take the wake from the others.
    for _ in 0..8 {
        let mut wait = pin!(container.wait());
        let waker = waker();
        let _ = wait.as_mut().poll(&mut Context::from_waker(&waker));
    }
    for waiter in waiters {
        assert_eq!(waiter.join().expect("no panic"), Some(5));
    }
    assert_eq!(block_on(container.wait()).expect("again").code(), Some(5));
    assert_eq!(container.try_wait().expect("and again").and_then(|status| status.code()), Some(5));
    assert!(container.usage().expect("it is known").is_some());
}

#[test]
fn try_wait_never_waits() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("sleep 1000").run()).expect("it runs");
    assert!(container.try_wait().expect("it is watched").is_none());
    assert!(container.usage().expect("it is watched").is_none());
    block_on(container.kill()).expect("it is killed");
    assert!(within(Duration::from_secs(10), || container.try_wait().expect("it is watched").is_some()));
}

#[test]
fn a_dropped_handle_ends_its_container() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("trap '' TERM; sleep 1000 & wait").run()).expect("it runs");
    assert!(!place.left_now().is_empty(), "a container that runs is seen");
    let dropping = Instant::now();
    drop(container);
    assert!(dropping.elapsed() < Duration::from_millis(500), "drop took {:?}", dropping.elapsed());
    place.assert_clean();
}

#[test]
fn run_of_a_command_that_ends_at_once_names_output() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    for (command, text) in [
        ("true", "the command ended before it was ready: exit code 0"),
        ("exit 3", "the command ended before it was ready: exit code 3"),
        ("kill -9 $$", "the command ended before it was ready: ended by SIGKILL"),
    ] {
        let error = block_on(place.sh(command).run()).expect_err("it ended");
        assert!(matches!(error, Error::NotReady { .. }));
        assert_eq!(error.to_string(), text);
        assert_eq!(error.remedy().as_deref(), Some("to run a command to its end and see what it said, use output() and not run()"));
    }
    place.assert_clean();
}

#[test]
fn a_future_dropped_anywhere_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let waker = waker();
    for after in 0..40 {
        let mut future = Box::pin(place.sh("sleep 1000 & sleep 1000").stdin_bytes(vec![0; 1 << 20]).output());
        let deadline = Instant::now() + Duration::from_micros(250 * after);
        loop {
            assert!(future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            if Instant::now() >= deadline {
                break;
            }
            std::thread::park_timeout(deadline - Instant::now());
        }
        drop(future);
    }
    for after in 0..20 {
        let mut future = Box::pin(place.sh("sleep 1000").run());
        let deadline = Instant::now() + Duration::from_millis(after);
        while Instant::now() < deadline {
            if let Poll::Ready(started) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
                drop(started.expect("it starts"));
                break;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
    place.assert_clean();
}

#[test]
fn a_container_belongs_to_no_runtime() {
    need!(Busybox, UserNamespaces);
    static FIXTURE: Mutex<Option<Arc<Container>>> = Mutex::new(None);
    static SECOND: Mutex<Option<Container>> = Mutex::new(None);
    let place = Place::new();
    let first = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime starts");
    first.block_on(async {
        let container = tokio::spawn(place.sh("trap 'exit 6' TERM; while :; do sleep 0.05; done").run()).await.expect("no panic");
        *FIXTURE.lock().expect("no panic") = Some(Arc::new(container.expect("it runs")));
        *SECOND.lock().expect("no panic") = Some(place.sh("cat").spawn().await.expect("it starts"));
    });
    drop(first);

    let fixture = FIXTURE.lock().expect("no panic").clone().expect("it was made");
    runtime().block_on(async {
        fixture.signal(Signal::CONT).await.expect("it is asked");
        assert!(fixture.try_wait().expect("it is watched").is_none());
        // A wait begun in this runtime, and given up with it.
        let waiting = tokio::time::timeout(Duration::from_millis(20), fixture.wait()).await;
        assert!(waiting.is_err());
    });
    // In none: stopped and removed; and the pipes of the other likewise.
    assert_eq!(block_on(fixture.stop(Duration::from_secs(20))).expect("it ends").code(), Some(6));
    block_on(fixture.remove()).expect("all is taken back");
    let mut second = SECOND.lock().expect("no panic").take().expect("it was made");
    let (mut stdin, mut stdout) = (second.stdin.take().expect("a pipe"), second.stdout.take().expect("a pipe"));
    block_on(async {
        stdin.write_all(b"outside of any runtime").await.expect("it reads");
        drop(stdin);
        let mut text = String::new();
        stdout.read_to_string(&mut text).await.expect("it answers");
        assert_eq!(text, "outside of any runtime");
    });
    assert!(block_on(second.wait()).expect("it ends").success());
    drop((fixture, FIXTURE.lock().expect("no panic").take(), second));
    place.assert_clean();
}

#[test]
fn handles_are_send_sync_and_static_and_their_futures_send() {
    fn shared<T: Send + Sync + 'static>() {}
    fn sent<T: Send>(_: impl Fn(&'static Container) -> T) {}
    fn built<T: Send + 'static>(_: impl Fn(ContainerBuilder) -> T) {}
    shared::<Container>();
    shared::<ContainerBuilder>();
    shared::<Engine>();
    shared::<Output>();
    shared::<Error>();
    shared::<coracle::ContainerStdin>();
    shared::<coracle::ContainerStdout>();
    shared::<coracle::ContainerStderr>();
    sent(Container::wait);
    sent(Container::kill);
    sent(Container::remove);
    sent(|container| container.signal(Signal::TERM));
    sent(|container| container.stop(Duration::ZERO));
    built(<ContainerBuilder>::output);
    built(<ContainerBuilder>::status);
    built(<ContainerBuilder>::spawn);
    built(<ContainerBuilder>::run);
}

#[test]
fn those_that_run_are_listed_with_what_they_are() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    assert!(place.engine().containers().expect("it is read").is_empty());
    let container = block_on(place.container().cmd(["sleep", "1000"]).label("job", "7").run()).expect("it runs");
    assert!(container.id().len() == 16 && container.id().bytes().all(|b| b.is_ascii_hexdigit()), "{}", container.id());
    let listed = place.engine().containers().expect("it is read");
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].id, container.id());
    assert_eq!(listed[0].command, ["sleep", "1000"]);
    assert_eq!(listed[0].owner, std::process::id());
    assert_eq!(listed[0].labels.get("job").map(String::as_str), Some("7"));
    assert!(!listed[0].detached);
    let error = place.engine().attach(container.id()).expect_err("it is ours alone");
    let text = format!("the container {} answers only the program that started it: it isn't detached", container.id());
    assert_eq!((error.to_string(), error.remedy().is_some()), (text, true));
    block_on(container.remove()).expect("all is taken back");
    assert!(place.engine().containers().expect("it is read").is_empty());
}

#[test]
fn a_gibibyte_goes_in_and_comes_out_as_it_was() {
    need!(Busybox, UserNamespaces);
    const CHUNKS: u64 = 16_384;
    let place = Place::new();
    let mut container = block_on(place.sh("cat").spawn()).expect("it starts");
    let (mut stdin, mut stdout) = (container.stdin.take().expect("a pipe"), container.stdout.take().expect("a pipe"));
    // No two pages are the same, so that none can be lost, doubled or moved.
    let numbered = |bytes: &mut [u8], n: u64| {
        for (page, bytes) in bytes.chunks_exact_mut(4096).enumerate() {
            bytes[..8].copy_from_slice(&(n << 4 | page as u64).to_le_bytes());
        }
    };
    let went_in = std::thread::spawn(move || {
        let (mut digest, mut bytes) = (Sha256::new(), vec![b'x'; 1 << 16]);
        block_on(async {
            for n in 0..CHUNKS {
                numbered(&mut bytes, n);
                digest.update(&bytes);
                stdin.write_all(&bytes).await.expect("it is read");
            }
        });
        digest.finalize()
    });
    let (mut came_out, mut size, mut bytes) = (Sha256::new(), 0, vec![0; 1 << 16]);
    loop {
        let count = block_on(stdout.read(&mut bytes)).expect("it can be read");
        if count == 0 {
            break;
        }
        came_out.update(&bytes[..count]);
        size += count as u64;
    }
    assert_eq!(size, CHUNKS << 16);
    assert_eq!(came_out.finalize(), went_in.join().expect("no panic"));
    assert!(block_on(container.wait()).expect("it ends").success());
    block_on(container.remove()).expect("all is taken back");
    place.assert_clean();
}

#[test]
fn fifty_at_once_are_fifty() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let threads: Vec<_> = (0..50)
        .map(|n| {
            let builder = place.sh(&format!("echo {n}; exit {n}"));
            std::thread::spawn(move || ran(builder))
        })
        .collect();
    for (n, thread) in threads.into_iter().enumerate() {
        let out = thread.join().expect("no panic");
        assert_eq!((out.stdout_lossy().into_owned(), out.status.code()), (format!("{n}\n"), i32::try_from(n).ok()));
    }
    place.assert_clean();
}

#[test]
fn a_pipe_of_a_container_ends_with_it() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let mut container = block_on(place.sh("setsid sleep 1000 & echo said").spawn()).expect("it starts");
    let mut stdout = container.stdout.take().expect("a pipe");
    let mut text = String::new();
    block_on(stdout.read_to_string(&mut text)).expect("it ends");
    assert_eq!(text, "said\n");
    drop((container, stdout));
    place.assert_clean();
}

#[test]
fn an_inherited_descriptor_keeps_its_flags() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut reader, writer) = std::io::pipe().expect("a pipe can be made");
    let kept = writer.try_clone().expect("it can be copied");
    let before = rustix::fs::fcntl_getfl(&kept).expect("it has flags");
    let out = ran(place.sh("echo through the pipe").stdout(Stdio::from(std::os::fd::OwnedFd::from(writer))));
    assert!(out.status.success());
    assert_eq!(rustix::fs::fcntl_getfl(&kept).expect("it has flags"), before);
    drop(kept);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("nobody holds the other end");
    assert_eq!(text, "through the pipe\n");
}
