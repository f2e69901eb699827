//! What a container says is kept: in order, bounded, readable at every time and by anybody, and it holds nobody up.

use crate::support::need;
use crate::support::owner::{self, Act};
use crate::support::place::{Place, block_on, ran, within};
use coracle::{Container, Engine, Error, LogLine, OutputStream, Stdio};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

const OUT: OutputStream = OutputStream::Stdout;
const ERR: OutputStream = OutputStream::Stderr;
const PATIENCE: Duration = Duration::from_secs(60);

fn texts(lines: &[LogLine]) -> Vec<String> {
    lines.iter().map(|line| line.text().into_owned()).collect()
}

fn all(container: &Container) -> Vec<LogLine> {
    container.logs().collect().expect("it is kept")
}

/// What a follower gets until the end.
fn followed(container: &Container) -> Vec<LogLine> {
    let mut stream = container.logs().follow().expect("it is kept");
    let mut lines = Vec::new();
    while let Some(line) = block_on(stream.next()).expect("it can be read") {
        lines.push(line);
    }
    lines
}

/// Lets a container go on that waits for a word. It may end before who said that has.
fn go(container: &Container) {
    // Its end is the end of who said so, too, at any time.
    drop(block_on(container.exec(["sh", "-c", "echo > /tmp/go"]).output()));
}

/// The supervisor of a container that has an init.
fn supervisor(container: &Container) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", container.pid())).expect("it runs");
    stat.rsplit_once(") ").expect("proc_pid_stat(5)").1.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

#[test]
fn both_streams_are_kept_in_order_with_times_and_stay_with_the_handle() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let begun = SystemTime::now();
    let line = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; sleep 0.2; printf half; read < /tmp/go; echo .";
    let line = format!("mkfifo /tmp/go; {line}");
    let container = block_on(place.sh(&line).run()).expect("it runs");
    assert!(within(PATIENCE, || all(&container).len() == 4));
    let lines = all(&container);
    assert_eq!(texts(&lines), ["one", "two", "three", "half"]);
    assert_eq!(lines.iter().map(|line| line.stream).collect::<Vec<_>>(), [OUT, ERR, OUT, OUT]);
    assert_eq!(lines.iter().map(|line| line.complete).collect::<Vec<_>>(), [true, true, true, false]);
    assert!(lines.iter().all(|line| line.skipped == 0));
    // Each was said a fifth of a second after the one before.
    assert!(lines[0].time >= begun && lines.windows(2).all(|two| two[1].time >= two[0].time + Duration::from_millis(150)), "{lines:?}");

    // Another engine stands for another process: it opens the file.
    let other = Engine::builder().root(place.engine().root()).open().expect("it opens");
    assert_eq!(texts(&other.logs(&container.id()[..8]).expect("it is there").collect().expect("it is kept")), texts(&lines));
    let others = other.logs(container.id()).expect("it is there");
    assert_eq!(texts(&others.clone().tail(2).collect().expect("it is kept")), ["three", "half"]);
    assert_eq!(texts(&others.clone().stream(ERR).collect().expect("it is kept")), ["two"]);
    assert_eq!(texts(&others.clone().since(lines[1].time).until(lines[2].time).collect().expect("it is kept")), ["two", "three"]);
    assert_eq!(texts(&others.clone().since(lines[1].time).tail(1).collect().expect("it is kept")), ["half"]);

    go(&container);
    assert!(block_on(container.wait()).expect("it ends").success());
    assert_eq!(texts(&all(&container)), ["one", "two", "three", "half."]);
    block_on(container.remove()).expect("all is taken back");
    place.assert_clean();
    // The file is gone, and the descriptor isn't.
    assert_eq!(texts(&all(&container)), ["one", "two", "three", "half."]);
    assert_eq!(texts(&others.collect().expect("it was opened before")), ["one", "two", "three", "half."]);
    assert_eq!(texts(&followed(&container)), ["one", "two", "three", "half."]);
}

#[test]
fn a_command_that_ends_before_it_is_ready_is_told_with_its_last_words() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let error = block_on(place.sh("seq 100; echo 'no \x1bsuch flag' >&2; exit 3").run()).expect_err("it ended");
    let Error::NotReady { status, log } = &error else { panic!("{error}") };
    assert_eq!((status.code(), log.len(), log[38].text().as_ref()), (Some(3), 40, "100"));
    let text = error.to_string();
    assert!(text.starts_with("the command ended before it was ready: exit code 3; the last that it said:\n  62\n  63\n"), "{text}");
    assert!(text.ends_with("\n  100\n  no \u{fffd}such flag"), "{text:?}");
    assert_eq!(error.remedy().as_deref(), Some("to run a command to its end and see what it said, use output() and not run()"));
    place.assert_clean();
}

#[test]
fn followers_get_each_line_as_it_comes_and_an_end() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let script = "mkfifo /tmp/go; echo early; read < /tmp/go; for i in $(seq 200); do echo $i; done; printf end";
    let container = Arc::new(block_on(place.sh(script).run()).expect("it runs"));
    let arrived = Arc::new(Mutex::new(0));
    let followers: Vec<_> = (0..50)
        .map(|_| {
            let (container, arrived) = (container.clone(), arrived.clone());
            std::thread::spawn(move || {
                let mut stream = container.logs().follow().expect("it is kept");
                let first = block_on(stream.next()).expect("it can be read").expect("a line");
                *arrived.lock().expect("nobody panicked") += 1;
                let mut lines = vec![first];
                while let Some(line) = block_on(stream.next()).expect("it can be read") {
                    lines.push(line);
                }
                lines
            })
        })
        .collect();
    assert!(within(PATIENCE, || *arrived.lock().expect("nobody panicked") == 50));
    // From now on, and only that.
    let mut late = container.logs().tail(0).follow().expect("it is kept");
    go(&container);
    assert_eq!(block_on(late.next()).expect("it can be read").expect("a line").text(), "1");
    for follower in followers {
        let lines = follower.join().expect("nobody panicked");
        assert_eq!((lines.len(), lines[0].text().as_ref(), lines[200].text().as_ref()), (202, "early", "200"));
        assert_eq!((lines[201].text().as_ref(), lines[201].complete), ("end", false));
    }
    // Who comes after the end gets everything, too.
    assert_eq!(followed(&container).len(), 202);
    place.assert_clean();
}

#[test]
fn following_ends_with_the_first_line_that_is_too_late() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("echo now; sleep 1; while :; do echo later; sleep 0.1; done").run()).expect("it runs");
    assert!(within(PATIENCE, || !all(&container).is_empty()));
    let until = all(&container)[0].time + Duration::from_millis(500);
    let mut stream = container.logs().until(until).follow().expect("it is kept");
    assert_eq!(block_on(stream.next()).expect("it can be read").expect("a line").text(), "now");
    assert!(block_on(stream.next()).expect("it can be read").is_none());
    block_on(container.remove()).expect("all is taken back");
}

#[test]
fn a_flood_stays_within_its_bound_and_hinders_nobody() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container =
        block_on(place.sh("yes 'a line of the flood' & yes 'and one of its errors' >&2").log_size("1m").run()).expect("it runs");
    let file = place.engine().root().join("run").join(container.id()).join("log");
    let mut slow = container.logs().follow().expect("it is kept");
    assert_eq!(block_on(slow.next()).expect("it can be read").expect("a line").skipped, 0);
    let begun = Instant::now();
    let mut slowest = Duration::ZERO;
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        block_on(container.execs()).expect("it answers");
        slowest = slowest.max(asked.elapsed());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(slowest < Duration::from_secs(2), "a request took {slowest:?}");
    println!("RESULT: the slowest of the requests beside a flood took {slowest:?}");
    let found = std::fs::metadata(&file).expect("it is there");
    assert!(found.len() <= (1 << 20) + 4096 && found.blocks() * 512 <= (1 << 20) + (64 << 10), "{} bytes", found.len());
    let status = std::fs::read_to_string(format!("/proc/{}/status", supervisor(&container))).expect("it lives");
    let rss = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line").trim().trim_end_matches(" kB");
    assert!(rss.parse::<u64>().expect("a number") <= 200, "the supervisor holds {rss} kB");

    // The log went round under the slow reader, who is told, and then goes on.
    let next = loop {
        let line = block_on(slow.next()).expect("it can be read").expect("a line");
        if line.skipped > 0 {
            break line;
        }
    };
    assert!(next.skipped > 1 << 20, "{}", next.skipped);
    for _ in 0..1000 {
        let line = block_on(slow.next()).expect("it can be read").expect("a line");
        assert!(!line.complete || line.cut || ["a line of the flood", "and one of its errors"].contains(&&*line.text()), "{line:?}");
    }
    let asked = Instant::now();
    block_on(container.remove()).expect("all is taken back");
    assert!(asked.elapsed() < Duration::from_secs(10));
    let last = container.logs().tail(1).collect().expect("it is kept");
    assert_eq!(last.len(), 1);
    place.assert_clean();
}

#[test]
fn a_command_that_says_nothing_more_and_a_child_that_could_hold_nobody_up() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // It closes its own; ours and init's are what counts.
    let container = block_on(place.sh("echo before; exec >&- 2>&-; sleep 0.5; exit 4").run()).expect("it runs");
    assert_eq!(block_on(container.wait()).expect("it ends").code(), Some(4));
    assert_eq!(texts(&followed(&container)), ["before"]);
    for init in [true, false] {
        let container =
            block_on(place.sh("sh -c 'sleep 1000; echo never' & echo said; sleep 0.3; exit 5").init(init).run()).expect("it runs");
        let begun = Instant::now();
        assert_eq!(texts(&followed(&container)), ["said"]);
        assert_eq!(block_on(container.wait()).expect("it ends").code(), Some(5));
        assert!(begun.elapsed() < Duration::from_secs(60));
    }
    place.assert_clean();
}

#[test]
fn a_container_that_reads_its_own_output_does_not_stop_the_supervisor() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let thief = "(while :; do head -c 1 /proc/self/fd/1 >/dev/null; done) & while :; do echo x; done";
    let container = block_on(place.sh(thief).run()).expect("it runs");
    for _ in 0..100 {
        block_on(container.execs()).expect("it answers");
        std::thread::sleep(Duration::from_millis(5));
    }
    block_on(container.remove()).expect("all is taken back");
    place.assert_clean();
}

#[test]
fn a_log_outlives_a_supervisor_that_is_killed_and_following_ends() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = Arc::new(block_on(place.sh("echo said; while :; do sleep 0.1; done").run()).expect("it runs"));
    assert!(within(PATIENCE, || !all(&container).is_empty()));
    let follower = std::thread::spawn({
        let container = container.clone();
        move || texts(&followed(&container))
    });
    std::thread::sleep(Duration::from_millis(100));
    owner::signal(supervisor(&container), rustix::process::Signal::KILL);
    assert_eq!(follower.join().expect("nobody panicked"), ["said"]);
    assert_eq!(texts(&followed(&container)), ["said"]);
    assert!(matches!(block_on(container.wait()), Err(Error::Lost)));
    Engine::builder().root(place.engine().root()).open().expect("it opens, and sweeps");
    assert_eq!(texts(&all(&container)), ["said"]);
    place.assert_clean();
}

#[test]
fn what_is_killed_leaves_all_that_it_said() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("seq 5000; printf 'no end'; while :; do sleep 0.1; done").run()).expect("it runs");
    assert!(within(PATIENCE, || all(&container).len() == 5001));
    block_on(container.kill()).expect("it is asked");
    let lines = followed(&container);
    assert_eq!((lines.len(), lines[4999].text().as_ref(), lines[5000].text().as_ref()), (5001, "5000", "no end"));
    place.assert_clean();
}

#[test]
fn only_what_is_asked_for_is_kept() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(place.sh("echo said; exec sleep 1000").spawn()).expect("it starts");
    assert!(matches!(container.logs().collect(), Err(Error::NoLog { .. })));
    assert!(!place.engine().root().join("run").join(container.id()).join("log").exists());
    drop(container);
    // One stream of the two, beside a pipe.
    let container = block_on(place.sh("echo out; echo err >&2").stderr(Stdio::log()).spawn()).expect("it starts");
    block_on(container.wait()).expect("it ends");
    assert_eq!(texts(&all(&container)), ["err"]);
    let out = ran(place.sh("echo out; echo err >&2").stdout(Stdio::log()));
    assert_eq!((out.stdout_lossy().as_ref(), out.stderr_lossy().as_ref()), ("", "err\n"));
    let error = block_on(place.sh("true").stdin(Stdio::log()).log_size("many").spawn()).expect_err("no such thing");
    assert!(matches!(&error, Error::Description { problems } if problems.len() == 2), "{error}");
    let container = block_on(place.sh("exec sleep 1000").run()).expect("it runs");
    let error = block_on(container.exec(["true"]).stdout(Stdio::log()).output()).expect_err("no such thing");
    assert!(error.to_string().contains("isn't kept"), "{error}");
    drop(container);
    place.assert_clean();
}

#[test]
fn a_panicking_owner_tells_what_its_containers_said_last() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let output = owner::command(Act::PanicWithLog, place.path()).output().expect("the owner runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("the last that container ") && said.contains("said:\n  11\n  12\n") && said.contains("\n  50\n"), "{said}");
    assert!(!said.contains("\n  10\n") && !said.contains("quiet one"), "{said}");
    place.assert_clean();
}

#[test]
fn lines_are_handed_on_to_tracing() {
    need!(Busybox, UserNamespaces);
    #[derive(Clone, Default)]
    struct Heard(Arc<Mutex<Vec<String>>>);
    struct Fields<'a>(&'a mut String);
    impl tracing::field::Visit for Fields<'_> {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
            *self.0 += &format!(" {field}={value:?}");
        }
    }
    impl tracing::Subscriber for Heard {
        fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
            metadata.target() == "coracle_container::logs"
        }
        fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::Id {
            tracing::Id::from_u64(1)
        }
        fn record(&self, _: &tracing::Id, _: &tracing::span::Record<'_>) {}
        fn record_follows_from(&self, _: &tracing::Id, _: &tracing::Id) {}
        fn event(&self, event: &tracing::Event<'_>) {
            let mut text = event.metadata().level().to_string();
            event.record(&mut Fields(&mut text));
            self.0.lock().expect("nobody panicked").push(text);
        }
        fn enter(&self, _: &tracing::Id) {}
        fn exit(&self, _: &tracing::Id) {}
    }
    let place = Place::new();
    let container = block_on(place.sh("echo one; sleep 0.3; echo two >&2; sleep 0.3").run()).expect("it runs");
    let heard = Heard::default();
    tracing::subscriber::with_default(heard.clone(), || container.logs().forward_to_tracing().expect("a thread starts"));
    let expected = |stream: &str, said: &str| format!("INFO container={} stream={stream:?} message={said}", container.id());
    let expected = [expected("stdout", "one"), expected("stderr", "two")];
    let so = within(PATIENCE, || heard.0.lock().expect("nobody panicked").len() == 2);
    let heard = heard.0.lock().expect("nobody panicked").clone();
    let sorted = |text: &String| {
        let mut words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        words.sort();
        words
    };
    assert!(so && heard.iter().map(sorted).eq(expected.iter().map(sorted)), "{heard:?}");
    block_on(container.wait()).expect("it ends");
}
