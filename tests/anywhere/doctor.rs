//! The doctor's rows are true: what it says works works, and what it says is missing is missing. That each error of a start is one of
//! its rows, `errors` tries with real causes.

use crate::support::needs::Need;
use crate::support::place::{Place, block_on, said};
use crate::support::{met, need};
use coracle::Error;
use coracle::doctor::{self, Check, Verdict};

#[test]
fn where_the_doctor_sees_no_failure_a_container_runs() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let report = doctor::check_with(place.engine());
    let failures: Vec<_> = report.rows().iter().filter(|row| row.verdict == Verdict::Failure).collect();
    assert!(failures.is_empty(), "{failures:?}");
    assert_eq!(said(place.sh("echo runs")), "runs\n");
    // Once each, in order, each with what is lost and nothing else than that.
    let checks: Vec<_> = report.rows().iter().map(|row| row.check).collect();
    assert!(checks.is_sorted() && checks.iter().all(|check| Check::ALL.contains(check)), "{checks:?}");
    for row in report.rows() {
        assert_eq!(row.lost.is_some(), row.verdict != Verdict::Ok, "{row:?}");
        assert!(!row.found.is_empty(), "{row:?}");
    }
    place.assert_clean();
    let left = std::fs::read_dir(place.engine().root()).expect("it is there").flatten();
    let left: Vec<_> = left.map(|entry| entry.file_name()).filter(|name| name.to_string_lossy().contains("doctor")).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_limit_is_said_to_hold_where_it_does_and_not_where_a_start_is_refused() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let report = doctor::check_with(place.engine());
    for (check, builder) in
        [(Check::Memory, place.sh(":").memory("64m")), (Check::Cpus, place.sh(":").cpus(1.0)), (Check::Pids, place.sh(":").pids(64))]
    {
        let row = report.row(check).expect("there is a row");
        match block_on(builder.output()) {
            Ok(_) => assert_eq!(row.verdict, Verdict::Ok, "{row:?}"),
            Err(error) => {
                assert!(matches!(error, Error::Limits { .. }), "{error}");
                assert_eq!((error.check(), row.verdict, &row.found), (Some(check), Verdict::Warning, &error.to_string()));
                assert!(row.remedy.as_deref().is_none_or(|remedy| !remedy.contains("best_effort")), "{row:?}");
            }
        }
    }
}

#[test]
fn rows_about_ids_are_a_plain_users() {
    need!(UserNamespaces);
    let place = Place::empty();
    let report = doctor::check_with(place.engine());
    let verdict = |check| report.row(check).map(|row| row.verdict);
    if rustix::process::geteuid().is_root() {
        assert_eq!((verdict(Check::UserNamespaces), verdict(Check::SubIds), verdict(Check::Session)), (None, None, None));
        return;
    }
    assert_eq!(verdict(Check::UserNamespaces), Some(Verdict::Ok));
    let expected = if met(Need::SubIds) { Verdict::Ok } else { Verdict::Warning };
    assert_eq!(verdict(Check::SubIds), Some(expected), "{:?}", report.row(Check::SubIds));
    assert!(verdict(Check::Session).is_some());
}

#[test]
fn a_directory_that_isnt_ours_is_a_failure_with_its_remedy() {
    need!(PlainUser);
    let error = coracle::Engine::builder().root("/etc/coracle-test").open().expect_err("root's");
    assert_eq!(error.check(), Some(Check::Directory));
}

#[test]
fn many_may_ask_at_once() {
    need!(UserNamespaces);
    let place = Place::empty();
    let reports: Vec<_> = std::thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| doctor::check_with(place.engine()))).collect();
        asking.into_iter().map(|asked| asked.join().expect("it answers")).collect()
    });
    assert!(reports.iter().all(|report| *report == reports[0]), "{reports:#?}");
}
