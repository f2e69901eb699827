//! Containers that stay: the states of docs/states.md, what each verb does in each, and what both deaths leave.

use crate::support::need;
use crate::support::owner::signal;
use crate::support::place::{Place, block_on, ran, within};
use coracle::{Container, ContainerBuilder, Engine, Error, EventKind, Filter, Reason, State, Stdio, Update};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const GRACE: Duration = Duration::from_secs(30);

/// A line of shell that may stay. Its mark is in its environment, as of those that `Place::sh` makes.
fn sh(place: &Place, line: &str) -> ContainerBuilder {
    place.sh(line)
}

fn other(place: &Place) -> Engine {
    Engine::builder().root(place.engine().root()).open().expect("it opens, and sweeps")
}

fn supervisor(container: &Container) -> u32 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", container.pid())).expect("it runs");
    stat.rsplit_once(") ").expect("proc_pid_stat(5)").1.split(' ').nth(1).expect("a parent").parse().expect("a number")
}

fn words(engine: &Engine, filter: Filter) -> Vec<(String, &'static str)> {
    let all = engine.list(&filter).expect("it can be listed");
    all.into_iter().map(|summary| (summary.name.unwrap_or_default(), summary.state.word())).collect()
}

fn remove(place: &Place, container: &Container) {
    block_on(container.remove()).expect("it goes");
    // Others of this test may be there.
    let left = || -> Vec<String> {
        place.left_of(container.id(), Duration::ZERO).into_iter().filter(|what| what.contains(container.id())).collect()
    };
    assert!(within(Duration::from_secs(10), || left().is_empty()), "{:?}", left());
}

#[test]
fn one_that_was_created_is_started_ends_and_is_started_again_with_its_files() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let line = "trap 'exit 4' TERM; echo life >> /lives; echo life $(wc -l < /lives); while [ ! -e /stop ]; do sleep 0.05; done";
    let container = block_on(sh(&place, line).name("one").label("job", "7").create()).expect("it is made");
    assert_eq!((container.state().expect("it is there"), container.pid()), (State::Created, 0));
    assert!(container.try_wait().expect("no life yet").is_none());
    assert!(matches!(block_on(container.wait()), Err(Error::NotRunning { .. })));
    assert!(matches!(block_on(container.kill()), Err(Error::NotRunning { .. })));
    assert!(block_on(container.exec(["true"]).output()).is_err());
    for life in 1..4 {
        block_on(container.start()).expect("it starts");
        assert_eq!(container.state().expect("it is there"), State::Running);
        // One that runs is started already.
        let pid = container.pid();
        block_on(container.start()).expect("it runs");
        assert_eq!(container.pid(), pid);
        assert!(within(PATIENCE, || container.logs().collect().is_ok_and(|lines| lines.len() == life)));
        let status = block_on(container.stop(GRACE)).expect("it ends");
        assert_eq!(status.reason(), Reason::Code(4));
        assert!(within(PATIENCE, || container.state().is_ok_and(|state| state == State::Exited(status))));
        assert_eq!(block_on(container.wait()).expect("it has ended").code(), Some(4));
        // Another process finds the same.
        let found = other(&place).attach("one").expect("it is there");
        assert_eq!((found.id(), block_on(found.wait()).expect("it has ended")), (container.id(), status));
        assert!(found.usage().expect("it has ended").is_some_and(|usage| usage.wall > Duration::ZERO));
    }
    let lines = container.logs().collect().expect("it is kept");
    assert_eq!(lines.iter().map(|line| line.text().into_owned()).collect::<Vec<_>>(), ["life 1", "life 2", "life 3"]);
    // Nothing of it runs, and sweeping takes nothing.
    let left = place.left_of(container.id(), Duration::ZERO);
    assert!(left.iter().all(|what| what.starts_with("file ")), "{left:?}");
    assert_eq!(words(&other(&place), Filter::new()), [("one".to_owned(), "exited")]);
    block_on(container.restart(GRACE)).expect("it starts");
    assert!(within(PATIENCE, || container.logs().collect().is_ok_and(|lines| lines.len() == 4)));
    let before = container.pid();
    block_on(container.restart(GRACE)).expect("it starts again");
    assert_ne!(container.pid(), before);
    remove(&place, &container);
    assert!(matches!(container.state(), Err(Error::NoSuchContainer { .. })));
    block_on(container.remove()).expect("it is gone already");
    place.assert_clean();
}

#[test]
fn an_image_that_is_gone_from_its_name_stays_under_a_stopped_container() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let layout = super::image::layout(place.path(), serde_json::json!({}));
    let container = Container::from_oci_layout(&layout).engine(place.engine()).cmd(["sh", "-c", "cat /etc/os-release >> /seen; cat /seen"]);
    let container = block_on(container.name("of-image").create()).expect("it is made");
    for life in 1..3 {
        // Everything that nobody uses goes.
        block_on(async { place.engine().prune_images(true) }).expect("it is pruned");
        block_on(container.start()).expect("its layers are there");
        assert!(block_on(container.wait()).expect("it ends").success());
        assert_eq!(container.logs().collect().expect("it is kept").len(), [0, 1, 3][life]);
    }
    block_on(container.remove()).expect("it goes");
    let run = place.engine().root().join("run");
    assert_eq!(std::fs::read_dir(run).expect("it is there").count(), 0);
    // With it goes what it needed.
    let removed = place.engine().prune_images(true).expect("it is pruned");
    assert!(!removed.swept.is_empty() || !place.engine().root().join("layers/sha256").read_dir().expect("it is there").any(|_| true));
}

#[test]
fn names_are_unique_and_of_two_who_want_one_one_gets_it() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let begun: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| block_on(sh(&place, "sleep 1000").name("wanted").create()))).collect();
        racers.into_iter().map(|racer| racer.join().expect("nobody panicked")).collect()
    });
    let (winners, losers): (Vec<_>, Vec<_>) = begun.into_iter().partition(Result::is_ok);
    let [winner] = &winners[..] else { panic!("{} winners", winners.len()) };
    let winner = winner.as_ref().expect("it won");
    assert!(losers.iter().all(|loser| matches!(loser, Err(Error::NameTaken { name, id }) if name == "wanted" && id == winner.id())));
    // One that runs and doesn't stay has a name, too, as long as it runs.
    let running = block_on(sh(&place, "exec sleep 1000").name("passing").run()).expect("it runs");
    assert!(matches!(block_on(winner.rename("passing")), Err(Error::NameTaken { .. })));
    drop(running);
    assert!(within(PATIENCE, || block_on(winner.rename("passing")).is_ok()));
    assert_eq!(winner.name().expect("it is there").as_deref(), Some("passing"));
    assert_eq!(place.engine().attach("passing").expect("it is there").id(), winner.id());
    assert!(matches!(place.engine().attach("wanted"), Err(Error::NoSuchContainer { .. })));
    for bad in ["", "-x", "a/b", "a b", &"x".repeat(129)] {
        assert!(matches!(block_on(winner.rename(bad)), Err(Error::Description { .. })), "{bad}");
    }
    remove(&place, winner);
    place.assert_clean();
}

#[test]
fn what_is_listed_is_what_was_asked_for() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let make =
        |name: &str, label: &str| block_on(sh(&place, "exec sleep 1000").name(name).label("job", label).create()).expect("it is made");
    let (a, b) = (make("alpha", "1"), make("beta", "2"));
    block_on(b.start()).expect("it starts");
    let list = |filter| words(place.engine(), filter);
    let (alpha, beta) = (("alpha".to_owned(), "created"), ("beta".to_owned(), "running"));
    assert_eq!(list(Filter::new().name("alp")), std::slice::from_ref(&alpha));
    assert_eq!(list(Filter::new().label("job", Some("2"))), std::slice::from_ref(&beta));
    assert_eq!(list(Filter::new().label("job", None)).len(), 2);
    assert_eq!(list(Filter::new().label("other", None)).len(), 0);
    assert_eq!(list(Filter::new().running()), [beta]);
    assert_eq!(list(Filter::new().state("created").name("beta")).len(), 0);
    assert_eq!(list(Filter::new().id(&a.id()[..6])), [alpha]);
    assert_eq!(list(Filter::new().image(place.rootfs().display().to_string())).len(), 2);
    assert_eq!(place.engine().attach(&b.id()[..8]).expect("it is there").id(), b.id());
    remove(&place, &a);
    remove(&place, &b);
    place.assert_clean();
}

#[test]
fn what_can_not_stay_is_refused_and_what_can_not_start_again_says_so() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let error = block_on(sh(&place, "true").stdout(Stdio::piped()).stdin(Stdio::inherit()).create()).expect_err("it can't");
    assert!(matches!(&error, Error::Description { problems } if problems.len() == 2), "{error}");
    let passing = block_on(sh(&place, "exec sleep 1000").run()).expect("it runs");
    assert!(matches!(block_on(passing.start()), Err(Error::NotKept { .. })));
    assert!(matches!(block_on(passing.restart(GRACE)), Err(Error::NotKept { .. })));
    drop(passing);
    // A start that fails leaves what was there before.
    let container = block_on(place.container().cmd(["no-such-program"]).create()).expect("it is made");
    assert!(matches!(block_on(container.start()), Err(Error::Start(_))));
    assert!(within(PATIENCE, || container.state().is_ok_and(|state| state == State::Created)));
    remove(&place, &container);
    // What was to run detached doesn't stay then.
    assert!(block_on(place.container().cmd(["no-such-program"]).run_detached("never")).is_err());
    // One that goes by itself does.
    let container = block_on(sh(&place, "sleep 0.2").auto_remove(true).start_detached()).expect("it runs");
    assert!(block_on(container.wait()).expect("it ends").success());
    assert!(within(PATIENCE, || place.engine().list(&Filter::new()).is_ok_and(|all| all.is_empty())));
    place.assert_clean();
}

#[test]
fn a_supervisor_that_is_killed_leaves_a_container_that_is_lost_and_can_be_started() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(sh(&place, "echo life >> /lives; wc -l < /lives; exec sleep 1000").run_detached("hit")).expect("it runs");
    assert!(within(PATIENCE, || container.logs().collect().is_ok_and(|lines| lines.len() == 1)));
    signal(supervisor(&container), rustix::process::Signal::KILL);
    assert!(matches!(block_on(container.wait()), Err(Error::Lost)));
    let engine = other(&place);
    assert_eq!(words(&engine, Filter::new()), [("hit".to_owned(), "dead")]);
    let left = place.left_of(container.id(), PATIENCE / 20);
    assert!(left.iter().all(|what| what.starts_with("file ")), "{left:?}");
    let found = engine.attach("hit").expect("it is there");
    assert!(matches!(block_on(found.wait()), Err(Error::Lost)));
    block_on(found.start()).expect("it starts again");
    assert!(within(PATIENCE, || found.logs().collect().is_ok_and(|lines| lines.last().is_some_and(|line| line.bytes == b"2"))));
    // The other handle takes the new life up.
    assert_eq!(container.state().expect("it is there"), State::Running);
    remove(&place, &container);
    place.assert_clean();
}

#[test]
fn one_that_is_paused_does_nothing_until_it_goes_on() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let container = block_on(sh(&place, "while :; do echo tick; sleep 0.02; done").run()).expect("it runs");
    let count = || container.logs().collect().expect("it is kept").len();
    assert!(within(PATIENCE, || count() > 2));
    block_on(container.pause()).expect("it is frozen");
    block_on(container.pause()).expect("it is frozen already");
    assert_eq!(container.state().expect("it is there"), State::Paused);
    std::thread::sleep(Duration::from_millis(200));
    let before = count();
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(count(), before);
    block_on(container.unpause()).expect("it is thawed");
    assert_eq!(container.state().expect("it is there"), State::Running);
    assert!(within(PATIENCE, || count() > before));
    // What is paused can be ended, both ways.
    block_on(container.pause()).expect("it is frozen");
    assert!(block_on(container.stop(Duration::from_secs(5))).is_ok());
    drop(container);
    let container = block_on(sh(&place, "exec sleep 1000").run()).expect("it runs");
    block_on(container.pause()).expect("it is frozen");
    let begun = Instant::now();
    block_on(container.remove()).expect("it goes");
    assert!(begun.elapsed() < Duration::from_secs(30));
    place.assert_clean();
}

#[test]
fn without_a_freezer_pausing_is_refused() {
    need!(Busybox, UserNamespaces, NoSubIds);
    if crate::support::met(crate::support::needs::Need::Delegation) {
        return;
    }
    let place = Place::new();
    let container = block_on(sh(&place, "exec sleep 1000").run()).expect("it runs");
    let error = block_on(container.pause()).expect_err("there is none");
    assert!(matches!(error, Error::Cgroups(_)), "{error}");
    assert_eq!(container.state().expect("it is there"), State::Running);
    let top = block_on(container.top()).expect("its processes");
    assert!(top.iter().any(|process| process.command == "sleep 1000"), "{top:?}");
}

#[test]
fn limits_are_set_anew_live_and_for_later_lives() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let line = "exec sleep 1000";
    let container = block_on(sh(&place, line).memory("64m").pids(30).run_detached("limited")).expect("it runs");
    block_on(container.update(&Update::new().memory("48m").pids(20))).expect("it is set");
    let stats = block_on(container.stats()).expect("it runs");
    assert_eq!((stats.memory_limit, stats.pids_limit), (Some(48 << 20), Some(20)), "{stats:?}");
    block_on(container.update(&Update::new().memory("96m"))).expect("up, too");
    match block_on(container.update(&Update::new().cpus(0.5).pids(15))) {
        Err(Error::Limits { refused }) => assert!(refused[0].to_string().contains("started without this limit"), "{}", refused[0]),
        other => panic!("{other:?}"),
    }
    assert_eq!(block_on(container.stats()).expect("it runs").pids_limit, Some(20), "all or nothing");
    block_on(container.stop(Duration::ZERO)).expect("it ends");
    block_on(container.update(&Update::new().pids(12))).expect("it is kept");
    block_on(container.start()).expect("it starts");
    let stats = block_on(container.stats()).expect("it runs");
    assert_eq!((stats.memory_limit, stats.pids_limit), (Some(96 << 20), Some(12)), "{stats:?}");
    let inspected = container.inspect().expect("it is there");
    assert_eq!((inspected.host_config.memory, inspected.host_config.pids_limit), (96 << 20, 12));
    remove(&place, &container);
    place.assert_clean();
}

#[test]
fn figures_processes_and_what_is_known_are_told() {
    need!(Busybox, UserNamespaces, Delegation);
    let place = Place::new();
    let line = "echo said; sleep 999 & while :; do :; done";
    let container = sh(&place, line).memory("64m").pids(30).env("K", "v").label("a", "b").workdir("/tmp");
    let container = block_on(container.run_detached("busy")).expect("it runs");
    let mut stream = container.stats_every(Duration::from_millis(500));
    let first = block_on(stream.next()).expect("it can be read").expect("it runs");
    assert_eq!((first.cpu_percent, first.memory_limit, first.pids_limit), (None, Some(64 << 20), Some(30)));
    assert!(first.memory.is_some_and(|memory| memory > 0 && memory < 64 << 20), "{first:?}");
    // Init, the shell, and its sleep.
    assert!(first.pids.is_some_and(|pids| (2..=4).contains(&pids)), "{first:?}");
    let second = block_on(stream.next()).expect("it can be read").expect("it runs");
    assert!(second.cpu_percent.is_some_and(|percent| percent > 1.0 && percent < 250.0), "{second:?}");
    drop(stream);
    let exec = block_on(container.exec(["sleep", "777"]).spawn()).expect("it starts");
    assert!(within(PATIENCE, || {
        let top = block_on(container.top()).expect("it runs");
        ["sleep 999", "sleep 777"].iter().all(|words| top.iter().any(|process| process.command == *words))
    }));
    drop(exec);
    let json = serde_json::to_value(container.inspect().expect("it is there")).expect("it is JSON");
    assert_eq!(json["Name"], "busy");
    assert_eq!(
        (&json["State"]["Status"], &json["State"]["Running"], &json["State"]["Pid"]),
        (&"running".into(), &true.into(), &container.pid().into())
    );
    assert_eq!((&json["Config"]["WorkingDir"], &json["Config"]["Labels"]["a"]), (&"/tmp".into(), &"b".into()));
    assert!(json["Config"]["Env"].as_array().is_some_and(|env| env.contains(&"K=v".into())), "{json}");
    block_on(container.stop(Duration::ZERO)).expect("it ends");
    assert!(within(PATIENCE, || container
        .inspect()
        .is_ok_and(|inspect| inspect.state.status == "exited" && inspect.state.exit_code == 137)));
    assert!(matches!(block_on(container.stats()), Err(Error::NotRunning { .. })));
    remove(&place, &container);
    place.assert_clean();
}

#[test]
fn what_happens_is_told_to_whoever_watches() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let mut events = other(&place).events().expect("it is watched");
    let container = block_on(sh(&place, "trap 'exit 3' TERM; while :; do sleep 0.05; done").name("seen").create()).expect("it is made");
    let mut next = || {
        let event = block_on(events.next());
        assert_eq!(event.id, container.id());
        (event.kind, event.name.unwrap_or_default())
    };
    let seen = || "seen".to_owned();
    assert_eq!(next(), (EventKind::Create, seen()));
    block_on(container.start()).expect("it starts");
    assert_eq!(next(), (EventKind::Start, seen()));
    if block_on(container.pause()).is_ok() {
        assert_eq!(next(), (EventKind::Pause, seen()));
        block_on(container.unpause()).expect("it goes on");
        assert_eq!(next(), (EventKind::Unpause, seen()));
    }
    std::thread::sleep(Duration::from_millis(300));
    let status = block_on(container.stop(GRACE)).expect("it ends");
    assert_eq!(status.code(), Some(3));
    assert_eq!(next(), (EventKind::Die(Some(status)), seen()));
    block_on(container.rename("other")).expect("it is free");
    assert_eq!(next(), (EventKind::Rename, "other".to_owned()));
    block_on(container.remove()).expect("it goes");
    assert_eq!(next(), (EventKind::Destroy, "other".to_owned()));
    place.assert_clean();
}

#[test]
fn containers_that_do_not_stay_cost_nothing_that_was_not_asked_for() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = block_on(sh(&place, "exec sleep 1000").spawn()).expect("it starts");
    let mut names: Vec<_> = std::fs::read_dir(place.engine().root().join("run").join(container.id()))
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["lock", "record", "upper", "work"]);
    drop(container);
    assert!(ran(sh(&place, "true")).status.success());
    place.assert_clean();
}
