//! What a program keeps for itself while it owns containers: no fork of its own, nothing of the whole process changed.

use crate::support::need;
use crate::support::owner::{self, Act, Owner};
use crate::support::place::Place;
use std::collections::{BTreeMap, BTreeSet};

#[test]
fn eight_threads_of_containers_change_nothing_of_their_owner() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut owner, _) = Owner::start(Act::EightThreads, place.path());
    assert!(owner.wait().success());
    place.assert_clean();
}

/// Has an owner start and end so many containers one after another, then many at once: its descriptors, children and memory are as
/// before, and nothing is left of any. Answers with what it says of them.
pub(super) fn lives_leave_nothing(count: usize) -> String {
    let place = Place::new();
    let mut command = owner::command(Act::ManyLives, place.path());
    command.env(owner::LIVES, count.to_string());
    let (mut owner, said) = Owner::of(command);
    assert!(owner.wait().success());
    place.assert_clean();
    said
}

#[test]
fn three_hundred_lives_leave_nothing_and_nothing_grows() {
    need!(Busybox, UserNamespaces);
    lives_leave_nothing(300);
}

/// What one line of strace says of a clone: the process, and the call's text.
fn clones(trace: &str) -> Vec<(u32, String, Option<u32>)> {
    let mut unfinished: BTreeMap<(u32, String), String> = BTreeMap::new();
    let mut seen = Vec::new();
    for line in trace.lines() {
        let Some((pid, call)) = line.split_once(' ').and_then(|(pid, rest)| Some((pid.parse::<u32>().ok()?, rest.trim_start()))) else {
            continue;
        };
        let answer = |text: &str| text.rsplit_once(" = ").and_then(|(_, answer)| answer.trim().parse().ok());
        for name in ["clone", "clone3", "fork", "vfork"] {
            if let Some(arguments) = call.strip_prefix(name).and_then(|rest| rest.strip_prefix('(')) {
                if arguments.contains("<unfinished ...>") {
                    unfinished.insert((pid, name.to_owned()), format!("{name}({arguments}"));
                } else {
                    seen.push((pid, call.to_owned(), answer(call)));
                }
            } else if call.starts_with(&format!("<... {name} resumed>")) {
                let begun = unfinished.remove(&(pid, name.to_owned())).unwrap_or_default();
                seen.push((pid, begun, answer(call)));
            }
        }
    }
    seen
}

#[test]
fn an_owner_never_forks() {
    need!(Busybox, UserNamespaces, Strace);
    let place = Place::new();
    let trace = place.path().join("trace");
    let file = trace.to_str().expect("a path of ours is plain");
    // Whatever it spawns is let go when it executes a program: that is the supervisor's business.
    let words = [
        "strace",
        "--follow-forks",
        "--detach-on=execve",
        "-qq",
        "-o",
        file,
        "-e",
        "trace=clone,clone3,fork,vfork,unshare,setns,chdir,fchdir,chroot,umask",
    ];
    let output = owner::under(&words, Act::EightThreads, place.path()).output().expect("strace runs");
    let text = std::fs::read_to_string(&trace).unwrap_or_default();
    assert!(output.status.success(), "{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));

    let clones = clones(&text);
    let owner = text.lines().next().and_then(|line| line.split(' ').next()?.parse::<u32>().ok()).expect("strace wrote a line");
    let mut threads = BTreeSet::from([owner]);
    let mut children = 0;
    for (pid, call, answer) in &clones {
        if !threads.contains(pid) {
            continue;
        }
        let shares = call.starts_with("vfork(") || call.contains("CLONE_VM");
        assert!(shares, "a fork of the owner's: {call}");
        match answer {
            Some(thread) if call.contains("CLONE_THREAD") => drop(threads.insert(*thread)),
            Some(_) => children += 1,
            None => {}
        }
    }
    // Eight threads, four rounds, three lives and a failed start each, and a first of each.
    assert!(threads.len() >= 9, "the threads weren't traced:\n{text}");
    assert!((8 * 4 * 4..=3 * (8 * 4 + 1) * 4).contains(&children), "{children} children were spawned:\n{text}");
    // What belongs to the process is changed in none of its threads, but in one that left it by CLONE_FS.
    let own: BTreeSet<u32> = text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter(|(_, rest)| rest.contains("unshare(CLONE_FS)"))
        .filter_map(|(pid, _)| pid.parse().ok())
        .collect();
    for line in text.lines() {
        let Some((pid, call)) = line.split_once(' ').and_then(|(pid, rest)| Some((pid.parse::<u32>().ok()?, rest.trim_start()))) else {
            continue;
        };
        let changes = ["chdir(", "fchdir(", "chroot(", "umask(", "setns("].iter().any(|name| call.starts_with(name));
        assert!(!changes || !threads.contains(&pid) || own.contains(&pid), "the owner's process is changed: {line}");
    }
}

#[test]
fn verdicts_are_right_where_sigchld_is_ignored() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut owner, _) = Owner::of(owner::under(&["env", "--ignore-signal=CHLD"], Act::Verdicts, place.path()));
    let ignored = std::fs::read_to_string(format!("/proc/{}/status", owner.pid())).unwrap_or_default();
    let mask = ignored.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or_default().trim().to_owned();
    assert!(owner.wait().success());
    // It may have ended by then; where it hasn't, it was as it should be.
    assert!(mask.is_empty() || u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask >> 16 & 1 == 1), "{mask}");
    place.assert_clean();
}

#[test]
fn verdicts_are_right_beside_a_thread_that_reaps_everything() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (mut owner, _) = Owner::start(Act::VerdictsBesideAReaper, place.path());
    assert!(owner.wait().success());
    place.assert_clean();
}

#[test]
fn no_socket_of_ours_has_an_abstract_name() {
    need!(Busybox, UserNamespaces);
    let place = Place::new();
    let (owner, _) = Owner::start(Act::Hold, place.path());
    let abstract_ones = || -> BTreeSet<String> {
        let table = std::fs::read_to_string("/proc/net/unix").expect("there is /proc");
        table.lines().filter_map(|line| line.split_whitespace().nth(7)).filter(|name| name.starts_with('@')).map(str::to_owned).collect()
    };
    let with = abstract_ones();
    drop(owner);
    assert!(with.iter().all(|name| !name.to_lowercase().contains("coracle") && !name.contains("control")), "{with:?}");
    place.assert_clean();
}
