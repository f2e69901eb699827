//! Containers that belong together: their order, their ends, what is told of a failure, and what nobody is to see.

use crate::support::need;
use crate::support::place::{Place, block_on, dropped_after_each_poll};
use coracle::{Condition, ContainerBuilder, Error, OutputStream, Part, PartFailure, Reason, Stack, StackFault, Wait};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A directory that the parts share. It is made and removed beside what is watched.
struct Workspace(PathBuf);

impl Workspace {
    fn new(place: &Place) -> Self {
        let path = place.path().join("workspace");
        std::fs::create_dir(&path).expect("a directory can be made");
        Self(path)
    }

    fn stack(&self) -> Stack {
        Stack::new().workspace(&self.0, "/work")
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Says where it is in the order of all, in the workspace, where a part works if nothing else is said.
fn does(place: &Place, what: &str) -> ContainerBuilder {
    place.sh(&format!("echo {what} >> order"))
}

/// A service that is ready when its file is there.
fn serves(place: &Place, what: &str) -> ContainerBuilder {
    let file = format!("/tmp/{what}-is-ready");
    place.sh(&format!("echo {what} >> order; touch {file}; exec sleep 1000")).wait(Wait::file(file))
}

fn failure(error: Error) -> PartFailure {
    match error {
        Error::Part(failure) => *failure,
        other => panic!("{other}"),
    }
}

#[test]
fn parts_begin_when_what_they_depend_on_is_so() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let workspace = Workspace::new(&place);
    // Described from the last to the first: the order is what is waited for.
    let stack = workspace
        .stack()
        .add(Part::service("app", serves(&place, "app")).depends_on("migrate", Condition::Completed).depends_on("db", Condition::Started))
        .add(Part::job("migrate", does(&place, "migrate")).depends_on("db", Condition::Healthy))
        .add(Part::service("db", serves(&place, "db")));
    let up = block_on(stack.up()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(workspace.read("order"), "db\nmigrate\napp\n");
    for part in ["db", "app"] {
        let container = up.container(part).expect("it is a part");
        assert!(block_on(container.exec(["true"]).status()).expect("it runs").success());
    }
    let migrated = up.container("migrate").expect("it is a part").try_wait().expect("it is known");
    assert!(migrated.is_some_and(|status| status.success()));
    assert!(up.container("other").is_none());
    block_on(up.down(Duration::ZERO)).expect("all is taken back");
    assert!(place.engine().containers().expect("they are listed").is_empty());
    drop(workspace);
    place.assert_clean();
}

#[test]
fn what_waits_for_nothing_runs_at_once() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let workspace = Workspace::new(&place);
    // Each waits for the other: one after the other they would never end.
    let meets = |mine: &str, other: &str| place.sh(&format!("touch {mine}; until [ -e {other} ]; do sleep 0.02; done"));
    let stack = workspace.stack().add(Part::job("one", meets("a", "b"))).add(Part::job("other", meets("b", "a")));
    let ends = block_on(stack.run()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ends.iter().map(|(name, status)| (name.as_str(), status.success())).collect::<Vec<_>>(), [("one", true), ("other", true)]);
    drop(workspace);
    place.assert_clean();
}

#[test]
fn a_stack_that_can_not_be_is_refused_whole_before_anything_starts() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let workspace = Workspace::new(&place);
    let part = |name: &str| Part::job(name, does(&place, name));
    let stack = workspace
        .stack()
        .add(part("first"))
        .add(part("a").depends_on("c", Condition::Completed))
        .add(part("b").depends_on("a", Condition::Completed))
        .add(part("c").depends_on("b", Condition::Completed))
        .add(part("waits for c").depends_on("c", Condition::Started))
        .add(part("first").depends_on("nobody", Condition::Started))
        .add(part("x").depends_on("first", Condition::Healthy))
        .add(Part::service("s", serves(&place, "s")))
        .add(part("y").depends_on("s", Condition::Completed));
    let error = block_on(stack.up()).expect_err("it can't be");
    let Error::Stack { faults } = &error else { panic!("{error}") };
    let cycles = faults.iter().filter(|fault| matches!(fault, StackFault::Cycle { parts } if parts.len() == 3)).count();
    assert_eq!((faults.len(), cycles), (5, 1), "{error}");
    let text = error.to_string();
    for expected in [
        "first depends on nobody, and there is no such part",
        "two parts are named first",
        "x waits until first is healthy, which a job never is: only a service",
        "y waits until s is completed, which a service never is: only a job",
        "parts wait for each other: ",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    let alone = block_on(workspace.stack().add(part("z").depends_on("z", Condition::Completed)).up()).expect_err("it can't be");
    assert_eq!(alone.to_string(), "z waits for itself");
    assert_eq!(workspace.read("order"), "");
    drop(workspace);
    place.assert_clean();
}

#[test]
fn steps_are_one_after_another_and_always_means_after_a_failure_too() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let workspace = Workspace::new(&place);
    let fails = place.sh("echo build >> order; seq 50; echo 'token hunter2 is wrong' >&2; exit 3");
    let stack = workspace
        .stack()
        .secret("hunter2")
        .add(Part::service("cache", serves(&place, "cache")))
        .add(Part::step("checkout", does(&place, "checkout")).depends_on("cache", Condition::Healthy))
        .add(Part::step("build", fails))
        .add(Part::step("test", does(&place, "test")))
        .add(Part::step("report", place.sh("echo report >> order")).always())
        .add(Part::step("publish", does(&place, "publish")));
    let error = block_on(stack.run()).expect_err("a step fails");
    let text = error.to_string();
    let failure = failure(error);
    assert_eq!(workspace.read("order"), "cache\ncheckout\nbuild\nreport\n");
    assert_eq!((failure.part.as_str(), failure.status.and_then(|status| status.code())), ("build", Some(3)));
    assert_eq!(failure.skipped, ["test", "publish"]);
    assert_eq!((failure.log.len(), failure.log.last().map(String::as_str)), (40, Some("token *** is wrong")));
    assert!(text.starts_with("build failed: exit code 3; the last that it said:\n"), "{text}");
    assert!(text.ends_with("token *** is wrong\nnot run, or ended on the way: test, publish"), "{text}");
    drop(workspace);
    place.assert_clean();
}

#[test]
fn a_step_that_takes_too_long_is_killed_and_says_so() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let beside = Part::job("beside", place.sh("exec sleep 1000"));
    let stack = Stack::new().add(beside).add(Part::step("slow", place.sh("echo began; exec sleep 1000")).timeout(Duration::from_secs(2)));
    let failure = failure(block_on(stack.run()).expect_err("its time is up"));
    assert_eq!((failure.part.as_str(), failure.status.map(|status| status.reason())), ("slow", Some(Reason::WallClock)));
    assert_eq!((failure.log, failure.skipped), (vec!["began".to_owned()], vec!["beside".to_owned()]));
    place.assert_clean();
}

#[test]
fn a_service_that_ends_is_the_culprit_before_it_is_ready_and_after() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let before = place.sh("echo 'no hunter2 here' >&2; exit 4").wait(Wait::file("/never"));
    let needs = Part::job("needs", does(&place, "needs")).depends_on("db", Condition::Healthy);
    let stack = Stack::new().secret("hunter2").add(Part::service("db", before)).add(needs);
    let failed = failure(block_on(stack.up()).expect_err("it ends"));
    assert_eq!((failed.part.as_str(), failed.status.and_then(|status| status.code())), ("db", Some(4)));
    assert!(failed.why.contains("no *** here") && !failed.why.contains("hunter2"), "{}", failed.why);
    assert_eq!(failed.skipped, ["needs"]);

    let after = place.sh("touch /tmp/ready; sleep 2; echo gone; exit 5").wait(Wait::file("/tmp/ready"));
    let long = Part::job("long", place.sh("exec sleep 1000")).depends_on("db", Condition::Healthy);
    let failed = failure(block_on(Stack::new().add(Part::service("db", after)).add(long).run()).expect_err("it ends"));
    assert_eq!((failed.part.as_str(), failed.status.and_then(|status| status.code())), ("db", Some(5)));
    assert_eq!((failed.log, failed.skipped), (vec!["gone".to_owned()], vec!["long".to_owned()]));
    place.assert_clean();
}

#[test]
fn secrets_are_masked_in_lines_wherever_the_stream_was_cut() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    // In two writes; over the end of the longest line that a log has; over two lines; on both streams.
    let line = "printf 'a hun'; sleep 0.3; printf 'ter2 b\\n'; echo hunter2 >&2; \
        head -c 65533 /dev/zero | tr '\\0' x; echo hunter2; echo first; echo second; printf 'ends with hunter2'";
    let told = Arc::new(Mutex::new(Vec::new()));
    let theirs = told.clone();
    let stack = Stack::new()
        .secret("hunter2")
        .secret("first\nsecond\n")
        .add(Part::job("says", place.sh(line)))
        .on_line(move |line| theirs.lock().expect("no panic").push(line));
    block_on(stack.run()).unwrap_or_else(|error| panic!("{error}"));
    let told = told.lock().expect("no panic");
    assert!(told.iter().all(|line| line.part == "says" && !line.text.contains("hunter2")));
    let of = |stream| told.iter().filter(|line| line.stream == stream).map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n");
    assert_eq!(of(OutputStream::Stderr), "***");
    let out = of(OutputStream::Stdout).replace(&"x".repeat(65533), "X");
    assert_eq!(out, "a *** b\nX***\n***\nends with ***");
    place.assert_clean();
}

#[test]
fn a_stack_dropped_after_any_poll_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let stack = || {
        Stack::new()
            .add(Part::service("db", place.sh("trap '' TERM; sleep 1000").wait(Wait::exec(["true"]))))
            .add(Part::step("one", place.sh("echo one")).depends_on("db", Condition::Healthy))
            .add(Part::step("other", place.sh("echo other")))
            .on_line(|_| {})
    };
    drop(dropped_after_each_poll(|| stack().up()).unwrap_or_else(|error| panic!("{error}")));
    assert_eq!(dropped_after_each_poll(|| stack().run()).unwrap_or_else(|error| panic!("{error}")).len(), 2);
    let failing = || stack().add(Part::step("fails", place.sh("exit 3"))).add(Part::step("last", place.sh("echo last")).always());
    assert_eq!(failure(dropped_after_each_poll(|| failing().run()).expect_err("it fails")).part, "fails");
    let up = || block_on(Stack::new().add(Part::service("db", place.sh("sleep 1000"))).up()).expect("it runs");
    dropped_after_each_poll(|| up().down(Duration::from_millis(50))).expect("all is taken back");
    place.assert_clean();
}
