//! What a container changed, of one that runs and of one that has ended: `commit`, `diff`, `export`, `snapshot`.

use crate::scratch::{Said, Scratch, as_each_user};
use std::process::Command;
use std::time::{Duration, Instant};

fn say(s: &Scratch, words: &[&str]) -> Said {
    s.coracle(words).output().into()
}

/// An image `bb:1`, and a container `work` of it that runs and has changed what it is to change.
fn work(s: &Scratch) {
    let tar = s.path("rootfs.tar").display().to_string();
    let made = Command::new("tar").arg("-C").arg(s.path("rootfs")).args(["--owner=0", "--group=0", "-cf", &tar, "."]).status();
    assert!(made.expect("tar runs").success());
    assert_eq!(say(s, &["import", &tar, "localhost/bb:1"]).code, Some(0));
    let line = "echo new > /new; echo in > /etc/in; echo done > /tmp/done; sleep 1000";
    let said = say(s, &["run", "-d", "--name", "work", "localhost/bb:1", "sh", "-c", line]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    let end = Instant::now() + Duration::from_secs(60);
    while say(s, &["exec", "work", "cat", "/tmp/done"]).stdout != "done\n" {
        assert!(Instant::now() < end, "it never was done");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Everything that is made of a container's changes, while it is in this state.
fn made_of_it(s: &Scratch, state: &str) {
    let name = |what: &str| format!("localhost/{what}-{state}:1");
    say(s, &["diff", "work"]).is(0, "C /etc\nA /etc/in\nA /new\nC /tmp\nA /tmp/done\n");

    let commit =
        say(s, &["commit", "-a", "A. Nobody", "-m", "by hand", "-c", "CMD [\"cat\", \"/new\", \"/etc/in\"]", "work", &name("made")]);
    assert!(commit.code == Some(0) && commit.stdout.starts_with("sha256:"), "{state}: {commit:?}");
    say(s, &["run", "--rm", &name("made")]).is(0, "new\nin\n");
    say(s, &["inspect", "--format", "{{.Id}} {{json .Config.Cmd}}", &name("made")])
        .is(0, &format!("{} [\"cat\",\"/new\",\"/etc/in\"]\n", commit.stdout.trim_end()));
    let again = |compression: &str| {
        let words = ["commit", "--pause=false", "--compression", compression, "work", &name("again")];
        let said = Said::from(s.coracle(words).env("SOURCE_DATE_EPOCH", "1600000000").output());
        assert_eq!(said.code, Some(0), "{state}: {}", said.stderr);
        said.stdout
    };
    assert_eq!(again("zstd"), again("zstd"), "{state}: the same changes are the same image");
    assert_eq!(say(s, &["run", "--rm", &name("again"), "cat", "/new"]).stdout, "new\n");
    assert_ne!(again("none"), "");
    let soon = Said::from(s.coracle(["commit", "work", &name("never")]).env("SOURCE_DATE_EPOCH", "soon").output());
    soon.fails(1, &["SOURCE_DATE_EPOCH=\"soon\" isn't a number of seconds"]);
    say(s, &["commit", "-c", "RUN true", "work", &name("never")]).fails(1, &["can't make the change \"RUN true\""]);

    let tar = s.path("home").join(format!("{state}.tar")).display().to_string();
    say(s, &["export", "-o", &tar, "work"]).is(0, "");
    let listed = Command::new("tar").args(["-tf", &tar]).output().expect("tar runs");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    for path in ["new", "etc/in", "bin/busybox"] {
        assert!(listed.lines().any(|line| line == path), "{state}: no {path} in {listed}");
    }
    let written = s.coracle(["export", "work"]).output().expect("it runs");
    assert!(written.status.success() && written.stdout == std::fs::read(&tar).expect("it is there"), "{state}");

    let snapshot = format!("snap-{state}");
    say(s, &["snapshot", "create", "work", &snapshot]).is(0, &format!("{snapshot}\n"));
    say(s, &["snapshot", "create", "work", &snapshot]).fails(1, &["another snapshot has this name"]);
    say(s, &["snapshot", "ls", "-q"]).is(0, &format!("{snapshot}\n"));
    let table = say(s, &["snapshot", "ls"]);
    assert!(table.stdout.starts_with("NAME") && table.stdout.contains(&snapshot), "{}", table.stdout);
    for _ in 0..2 {
        // Neither sees what the other changed.
        say(s, &["run", "--rm", "--snapshot", &snapshot, "sh", "-c", "cat /new /etc/in; echo more >> /new"]).is(0, "new\nin\n");
    }
    say(s, &["snapshot", "rm", &snapshot]).is(0, &format!("{snapshot}\n"));
    say(s, &["snapshot", "ls", "-q"]).is(0, "");
    say(s, &["snapshot", "rm", &snapshot]).fails(1, &[&snapshot]);
}

#[test]
fn what_a_container_changed_is_had_while_it_runs_and_after_its_end() {
    as_each_user(|s| {
        work(s);
        made_of_it(s, "running");
        say(s, &["kill", "work"]).is(0, "work\n");
        assert_eq!(say(s, &["wait", "work"]).stdout, "137\n");
        made_of_it(s, "ended");
        say(s, &["rm", "work"]).is(0, "work\n");
        say(s, &["diff", "work"]).fails(1, &["no container work is here"]);
    });
}
