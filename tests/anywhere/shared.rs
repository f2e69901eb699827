//! One container for many processes: who starts it, who waits, who ends it, and what they hear where it can't be started.

use crate::support::need;
use crate::support::owner::{self, Act, Owner};
use crate::support::place::{Place, block_on, dropped_after_each_poll, waker, within};
use coracle::{Error, Scope, Wait};
use std::future::Future as _;
use std::path::Path;
use std::process::Stdio;
use std::task::Context;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that shares, what it was given, and whether it was the first.
struct Sharer {
    owner: Owner,
    id: String,
    first: bool,
}

impl Sharer {
    fn start(place: &Path) -> Self {
        let mut command = owner::command(Act::Share, place);
        command.stdin(Stdio::piped());
        let (owner, word) = Owner::of(command);
        let (id, first) = word.split_once(' ').expect("two words");
        Self { owner, id: id.to_owned(), first: first == "true" }
    }

    /// Lets go in order.
    fn end(mut self) {
        drop(self.owner.child.stdin.take());
        assert!(self.owner.wait().success());
    }
}

fn eight(place: &Place) -> Vec<Sharer> {
    let path = place.path();
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..8).map(|_| scope.spawn(move || Sharer::start(path))).collect();
        all.into_iter().map(|one| one.join().expect("it shares")).collect()
    })
}

#[test]
fn eight_processes_share_one_container_and_the_killed_last_ends_it() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let mut all = eight(&place);
    assert_eq!(all.iter().filter(|one| one.first).count(), 1);
    assert!(all.iter().all(|one| one.id == all[0].id), "{:?}", all.iter().map(|one| &one.id).collect::<Vec<_>>());
    assert_eq!(place.engine().containers().expect("they are listed").len(), 1);

    // The one that started it is killed; then others, by turns in order and by force.
    let first = all.iter().position(|one| one.first).expect("one is the first");
    all.swap_remove(first).owner.kill();
    for (n, one) in all.drain(1..).enumerate() {
        if n % 2 == 0 { one.end() } else { drop(one) }
    }
    let last = all.pop().expect("one is left");
    let found = place.engine().attach(&last.id).expect("it lives");
    let out = block_on(found.exec(["echo", "alive"]).output()).expect("it is executed");
    assert_eq!(out.stdout_lossy(), "alive\n");
    // Whoever merely attached doesn't hold it.
    drop(last);
    let ended = block_on(found.wait()).expect("it ends");
    assert!(!ended.success());
    drop(found);
    place.assert_clean();
}

#[test]
fn the_last_one_out_ends_it_and_the_next_starts_another() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let all = eight(&place);
    let id = all[0].id.clone();
    all.into_iter().for_each(Sharer::end);
    assert!(within(PATIENCE, || place.engine().containers().expect("they are listed").is_empty()));
    let next = Sharer::start(place.path());
    assert!(next.first && next.id != id);
    next.end();
    place.assert_clean();
}

#[test]
fn a_failed_start_is_told_to_all_that_waited_with_its_last_lines() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    std::fs::create_dir(place.path().join("gate")).expect("a directory can be made");
    let path = place.path();
    let told: Vec<String> = std::thread::scope(|scope| {
        let (send, pids) = std::sync::mpsc::channel();
        let start = |send: std::sync::mpsc::Sender<u32>| {
            move || {
                let mut command = owner::command(Act::ShareInVain, path);
                let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
                send.send(child.id()).expect("somebody listens");
                let out = std::io::read_to_string(child.stdout.take().expect("a pipe")).expect("it is read");
                assert!(child.wait().expect("it ends").success(), "{out}");
                out.split_once("READY ").expect("it tells").1.lines().next().unwrap_or_default().to_owned()
            }
        };
        let all: Vec<_> = (0..8).map(|_| scope.spawn(start(send.clone()))).collect();
        // It fails when all of them wait for it: each has the file open that says whose turn it is.
        for pid in pids.iter().take(8) {
            let waits = || {
                let open = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
                open.filter_map(|fd| std::fs::read_link(fd.path()).ok()).any(|file| file.starts_with(path.join("engine/shared")))
            };
            assert!(within(PATIENCE, waits));
        }
        std::fs::write(path.join("gate/open"), "").expect("it can be written");
        all.into_iter().map(|one| one.join().expect("it tells")).collect()
    });
    assert_eq!(told.len(), 8);
    assert!(told.iter().all(|told| told.contains("exit code 3") && told.contains("the cause")), "{told:#?}");
    let others = told.iter().filter(|told| told.contains("couldn't start the container that is shared as vain")).count();
    assert_eq!(others, 7, "{told:#?}");
    std::fs::remove_dir_all(path.join("gate")).expect("it can be removed");
    place.assert_clean();
}

#[test]
fn who_waits_starts_it_when_the_start_is_given_up() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let waker = waker();
    let mut context = Context::from_waker(&waker);
    let scope = || Scope::of("here", "given up");
    let mut first = Box::pin(place.sh("sleep 1000").wait(Wait::file("/never")).shared(scope()));
    assert!(first.as_mut().poll(&mut context).is_pending());
    assert!(place.path().join("engine/shared").is_dir(), "it has begun");
    let mut second = Box::pin(place.sh("sleep 1000").shared(scope()));
    for _ in 0..5 {
        assert!(second.as_mut().poll(&mut context).is_pending(), "it waits");
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(first);
    let shared = block_on(second).expect("it starts it");
    assert!(shared.is_first());
    drop(shared);
    place.assert_clean();
}

#[test]
fn handles_of_one_process_are_shared_too_and_a_name_means_one_description() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let scope = || Scope::session("words");
    let one = block_on(place.sh("sleep 1000").shared(scope())).expect("it runs");
    let other = block_on(place.sh("sleep 1000").shared(scope())).expect("it is there");
    assert_eq!((one.id(), one.is_first(), other.is_first()), (other.id(), true, false));
    let error = block_on(place.sh("sleep 1001").shared(scope())).expect_err("it is another");
    let text = format!("the container {} that is shared as words was described otherwise", one.id());
    assert_eq!(error.to_string(), text);
    assert!(matches!(error, Error::Description { .. }) && error.remedy().is_some());
    let apart = block_on(place.sh("sleep 1000").shared(Scope::session("others"))).expect("it runs");
    assert_ne!(apart.id(), one.id());
    drop(one);
    assert!(other.try_wait().expect("it is watched").is_none());
    block_on(other.exec(["true"]).status()).expect("it lives");
    drop((other, apart));
    place.assert_clean();
}

#[test]
fn a_shared_start_dropped_after_any_poll_leaves_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let shared = dropped_after_each_poll(|| place.sh("sleep 1000").shared(Scope::of("here", "dropped"))).expect("it runs");
    // And of one that is there, by whoever comes second.
    let other = dropped_after_each_poll(|| place.sh("sleep 1000").shared(Scope::of("here", "dropped"))).expect("it is there");
    assert_eq!((shared.id(), other.is_first()), (other.id(), false));
    drop(shared);
    block_on(other.exec(["true"]).status()).expect("it lives");
    drop(other);
    place.assert_clean();
}

#[test]
fn the_file_of_one_that_was_killed_while_it_started_is_swept() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    std::fs::create_dir(place.path().join("gate")).expect("a directory can be made");
    let mut child = owner::command(Act::ShareInVain, place.path()).stdout(Stdio::null()).spawn().expect("it starts");
    let files = || std::fs::read_dir(place.path().join("engine/shared")).map_or(0, Iterator::count);
    assert!(within(PATIENCE, || files() == 1 && !place.engine().containers().expect("they are listed").is_empty()));
    child.kill().expect("it is killed");
    child.wait().expect("it is reaped");
    assert!(within(PATIENCE, || place.engine().containers().expect("they are listed").is_empty() && files() == 0));
    std::fs::remove_dir(place.path().join("gate")).expect("it is empty");
    place.assert_clean();
}
