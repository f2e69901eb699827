//! Long tests, for `cargo xtask soak`: figures that a promise names, over hundreds of lives.

use crate::support::need;
use crate::support::owner::{Act, Owner};
use crate::support::place::Place;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Whether a process is there and no zombie.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    format!("p50 {:.1?}, p90 {:.1?}, p99 {:.1?}, worst {:.1?} of {}", at(0.5), at(0.9), at(0.99), at(1.0), times.len())
}

/// From an owner's SIGKILL to the death of its container, and to the removal of all that was made for it.
fn deaths(count: usize) -> (Vec<Duration>, Vec<Duration>) {
    let place = Place::new();
    let (mut dead, mut clean) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let (mut owner, words) = Owner::start(Act::Hold, place.path());
        let (pid, id) = words.split_once(' ').expect("a process and an id");
        let run = place.path().join("engine/run").join(id);
        assert!(lives(pid) && run.exists());
        let killed = Instant::now();
        owner.kill();
        while lives(pid) {
            assert!(killed.elapsed() < Duration::from_secs(30), "PID 1 outlives its owner");
            std::thread::sleep(Duration::from_micros(200));
        }
        dead.push(killed.elapsed());
        // The last thing that its supervisor removes.
        while run.exists() {
            assert!(killed.elapsed() < Duration::from_secs(30), "{} is left", run.display());
            std::thread::sleep(Duration::from_micros(200));
        }
        clean.push(killed.elapsed());
    }
    (dead, clean)
}

#[test]
#[ignore = "soak: two hundred owners are killed, idle and under load"]
fn a_container_dies_within_100_ms_of_its_owner_and_within_1_s_under_load() {
    need!(Busybox, UserNamespaces);
    let (dead, clean) = deaths(200);
    let p99 = |times: &[Duration]| {
        let mut times = times.to_vec();
        times.sort();
        times[(times.len() - 1) * 99 / 100]
    };
    println!("RESULT: idle: from the owner's SIGKILL to the container's death: {}", percentiles(dead.clone()));
    println!("RESULT: idle: from the owner's SIGKILL to everything removed: {}", percentiles(clean));
    assert!(p99(&dead) <= Duration::from_millis(100));

    let burners = std::thread::available_parallelism().map_or(2, usize::from) * 2;
    let mut load: Vec<_> = (0..burners)
        .map(|_| Command::new("sh").args(["-c", "while :; do :; done"]).stdin(Stdio::null()).spawn().expect("sh runs"))
        .collect();
    let (dead, clean) = deaths(200);
    for burner in &mut load {
        burner.kill().and_then(|()| burner.wait()).expect("it was ours");
    }
    println!("RESULT: {burners} busy processes: to the container's death: {}", percentiles(dead.clone()));
    println!("RESULT: {burners} busy processes: to everything removed: {}", percentiles(clean));
    assert!(p99(&dead) <= Duration::from_secs(1));
}

#[test]
#[ignore = "soak: ten thousand lives in a row"]
fn ten_thousand_lives_leave_nothing_and_nothing_grows() {
    need!(Busybox, UserNamespaces);
    println!("RESULT: {}", super::owner::lives_leave_nothing(10_000));
}

#[test]
#[ignore = "soak: a thousand owners, and five hundred with their supervisors, are killed at any moment"]
fn deaths_at_any_moment_leave_nothing() {
    need!(Busybox, UserNamespaces);
    let begun = Instant::now();
    super::lifeline::owners_are_killed(1000);
    super::lifeline::supervisors_are_killed(500);
    println!(
        "RESULT: 1000 owners and 500 more with their supervisors killed within 8 ms of a start: nothing left, in {:.0?}",
        begun.elapsed()
    );
}

#[test]
#[ignore = "soak: ten thousand mounts on targets that are swapped for links meanwhile"]
fn no_race_for_a_target_is_won() {
    need!(Busybox, UserNamespaces);
    let begun = Instant::now();
    super::escapes::targets_are_swapped(10_000);
    println!("RESULT: 10,000 starts whose mounts' targets were swapped for links: none led outside, in {:.0?}", begun.elapsed());
}
