//! Containers that outlive the program: `run -d`, `ps`, `stop`, `kill`.

use crate::scratch::{Said, Scratch, as_each_user};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn detach(s: &Scratch, flags: &[&str], command: &[&str]) -> String {
    let flags: Vec<&str> = ["-d"].iter().chain(flags).copied().collect();
    let said = s.run(&flags, command);
    assert_eq!((said.code, &said.stderr[..]), (Some(0), ""));
    let id = said.stdout.trim_end().to_owned();
    assert_eq!((id.len(), &said.stdout), (16, &format!("{id}\n")));
    id
}

fn say(s: &Scratch, words: &[&str]) -> Said {
    s.coracle(words).output().into()
}

#[test]
fn a_detached_container_is_listed_until_it_is_killed() {
    as_each_user(|s| {
        say(s, &["ps", "-q"]).is(0, "");
        let id = detach(s, &["-l", "job=7"], &["sleep", "1000"]);
        say(s, &["ps", "-q"]).is(0, &format!("{id}\n"));
        let table = say(s, &["ps"]).stdout;
        let lines: Vec<_> = table.lines().collect();
        assert!(lines[0].starts_with("CONTAINER ID") && lines[1].starts_with(&id) && lines[1].contains("\"sleep 1000\""), "{table}");
        let json = say(s, &["ps", "--format", "json"]).stdout;
        assert!(json.contains(&format!("{{\"id\":\"{id}\"")) && json.contains("\"labels\":{\"job\":\"7\"}"), "{json}");
        // The beginning of an id is enough.
        say(s, &["kill", &id[..6]]).is(0, &format!("{}\n", &id[..6]));
        say(s, &["ps", "-q"]).is(0, "");
    });
}

#[test]
fn stop_asks_first() {
    as_each_user(|s| {
        let asked = detach(s, &[], &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.02; done"]);
        let deaf = detach(s, &[], &["sh", "-c", "trap '' TERM; while :; do sleep 0.02; done"]);
        let since = Instant::now();
        say(s, &["stop", "-t", "1", &deaf]).is(0, &format!("{deaf}\n"));
        assert!(since.elapsed() >= Duration::from_millis(900), "it had its grace");
        let since = Instant::now();
        say(s, &["stop", "-t", "60", &asked]).is(0, &format!("{asked}\n"));
        assert!(since.elapsed() < Duration::from_secs(30), "nobody waited for nothing");
        say(s, &["ps", "-q"]).is(0, "");
    });
}

#[test]
fn another_signal_than_kill_leaves_the_container_running() {
    as_each_user(|s| {
        let id =
            detach(s, &["-v", ".:/d"], &["sh", "-c", "trap 'echo got >/d/got; exit' USR1; echo >/d/ready; while :; do sleep 0.02; done"]);
        let there = |name: &str| {
            let end = Instant::now() + Duration::from_secs(20);
            while !s.path("home").join(name).exists() {
                assert!(Instant::now() < end, "{name} never came");
                std::thread::sleep(Duration::from_millis(10));
            }
        };
        there("ready");
        say(s, &["kill", "-s", "USR1", &id]).is(0, &format!("{id}\n"));
        there("got");
    });
}

#[test]
fn who_is_not_there_is_an_error_and_hinders_no_other() {
    as_each_user(|s| {
        let id = detach(s, &[], &["sleep", "1000"]);
        let said = say(s, &["kill", "0000", &id]);
        assert_eq!((said.code, said.stdout), (Some(1), format!("{id}\n")));
        assert_eq!(said.stderr, "error: no container 0000 is here\n  fix: `coracle ps -a` lists those that are here\n");
        say(s, &["kill", "-s", "SIGNONE", &id]).fails(125, &["error: --signal: "]);
    });
}

#[test]
fn an_attached_container_is_listed_too_and_belongs_to_its_owner() {
    as_each_user(|s| {
        let rootfs = s.rootfs();
        let mut child = s.coracle(["run", "--rootfs", &rootfs, "sleep", "1000"]).stdout(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(20);
        let id = loop {
            let said = say(s, &["ps", "-q"]).stdout;
            if !said.is_empty() {
                break said.trim_end().to_owned();
            }
            assert!(Instant::now() < end, "it never came");
        };
        let said = say(s, &["kill", &id]);
        assert_eq!(
            said.stderr,
            format!(
                "error: the container {id} answers only the program that started it: it isn't detached\n  fix: start it detached: coracle run -d\n"
            )
        );
        assert_eq!(said.code, Some(1));
        child.kill().unwrap();
        child.wait().unwrap();
        while !say(s, &["ps", "-q"]).stdout.is_empty() {
            assert!(Instant::now() < end, "it outlived its owner");
        }
    });
}

#[test]
fn who_reads_the_programs_output_does_not_wait_for_the_container() {
    as_each_user(|s| {
        let since = Instant::now();
        // output() reads until everyone has closed the pipes.
        let id = detach(s, &[], &["sleep", "1000"]);
        assert!(since.elapsed() < Duration::from_secs(60));
        say(s, &["kill", &id]).is(0, &format!("{id}\n"));
    });
}

#[test]
fn ps_tells_of_a_containers_health() {
    as_each_user(|s| {
        let said =
            s.run(&["-d", "--health-cmd", "test -e /tmp/ok", "--health-interval", "50ms"], &["sh", "-c", "while :; do sleep 0.1; done"]);
        assert_eq!((said.code, &said.stderr[..]), (Some(0), ""));
        let id = said.stdout.trim_end().to_owned();
        let shows = |words: &str| {
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
            loop {
                let listed: Said = s.coracle(["ps"]).output().into();
                if listed.stdout.contains(words) {
                    return;
                }
                assert!(std::time::Instant::now() < deadline, "{}", listed.stdout);
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        };
        shows("(unhealthy)");
        let touched: Said = s.coracle(["exec", &id, "touch", "/tmp/ok"]).output().into();
        touched.is(0, "");
        shows("(healthy)");
        let json: Said = s.coracle(["ps", "--format", "json"]).output().into();
        assert!(json.stdout.contains("\"health\":\"healthy\""), "{}", json.stdout);
        let killed: Said = s.coracle(["kill", &id]).output().into();
        killed.is(0, &format!("{id}\n"));
        let wrong = s.run(&["--health-cmd", "x", "--health-interval", "soon"], &["true"]);
        assert!(wrong.code == Some(125) && wrong.stderr.contains("--health-interval: \"soon\" is no time"), "{}", wrong.stderr);
    });
}
