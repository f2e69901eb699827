//! Containers that stay for looking into when what they were for has failed.

use crate::support::need;
use crate::support::owner::{self, Act};
use crate::support::place::{Place, block_on, dropped_after_each_poll, within};
use coracle::{Error, State, Wait};
use std::time::Duration;

/// Looks into the container, as a person would who read about it, and removes it.
fn looked_into(place: &Place, id: &str, told: &str) {
    let root = place.path().join("engine");
    let expected = format!(
        "container {id} stays as it is until it ends; look into it: coracle --root {0} exec -it {id} sh; remove it: coracle --root {0} rm -f {id}",
        root.display()
    );
    assert!(told.contains(&expected), "{told}");
    // The others of that process end.
    let alone = || place.engine().containers().expect("they are listed").len() == 1;
    assert!(within(Duration::from_secs(60), alone));
    let kept = place.engine().attach(id).expect("it is there");
    assert_eq!(kept.state().expect("it has one"), State::Running);
    assert_eq!(block_on(kept.exec(["echo", "inside"]).output()).expect("it is executed").stdout_lossy(), "inside\n");
    assert!(kept.logs().collect().expect("it is kept").iter().any(|line| line.text() == "the cause"));
    block_on(kept.remove()).expect("it is removed");
    drop(kept);
    place.assert_clean();
}

#[test]
fn a_container_that_a_panic_drops_stays_and_the_panic_says_where() {
    need!(Busybox, UserNamespaces);
    for variable in [None, Some("fail")] {
        let place = Place::new();
        let mut command = owner::command(Act::PanicAndKeep, place.path());
        variable.map(|value| command.env("CORACLE_KEEP", value));
        let output = command.output().expect("the owner runs");
        assert!(!output.status.success());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let id = told.split_once("ID ").and_then(|(_, rest)| rest.split_whitespace().next()).expect("it says so").to_owned();
        assert!(told.contains(&format!("the last that container {id} said:\n  the cause\n")), "{told}");
        looked_into(&place, &id, &told);
    }
}

#[test]
fn one_that_is_not_ready_in_time_stays_and_its_error_says_where() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let builder = || place.sh("echo the cause; exec sleep 1000").wait(Wait::log("the cause").and(Wait::file("/never")));
    let error = block_on(builder().startup_timeout(Duration::from_secs(2)).keep_on_failure(true).run()).expect_err("it isn't ready");
    let text = error.to_string();
    let id =
        text.split_once("container ").map(|_| place.engine().containers().expect("they are listed")[0].id.clone()).expect("it is named");
    assert!(matches!(&error, Error::Wait(failure) if failure.kept.is_some()));
    looked_into(&place, &id, &text);

    // Without being asked to, nothing stays; and one that ended by itself can't.
    let error = block_on(builder().startup_timeout(Duration::from_millis(100)).run()).expect_err("it isn't ready");
    assert!(matches!(&error, Error::Wait(failure) if failure.kept.is_none()));
    let ended = place.sh("echo the cause; exit 3").wait(Wait::file("/never")).keep_on_failure(true);
    let error = block_on(ended.run()).expect_err("it ended");
    assert!(matches!(&error, Error::Wait(failure) if failure.kept.is_none() && failure.log.len() == 1), "{error}");
    place.assert_clean();
}

#[test]
fn a_good_end_keeps_nothing() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let container = dropped_after_each_poll(|| place.sh("sleep 1000").keep_on_failure(true).run()).expect("it runs");
    drop(container);
    place.assert_clean();
}
