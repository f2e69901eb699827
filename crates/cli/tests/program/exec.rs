//! `coracle exec`: one more command in a detached container.

use crate::scratch::{Said, Scratch, as_each_user};
use std::io::{Read as _, Write as _};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn detached(s: &Scratch) -> String {
    let said = s.run(&["-d", "-e", "A=1", "-w", "/tmp"], &["sh", "-c", "while :; do sleep 0.1; done"]);
    assert_eq!((said.code, &said.stderr[..]), (Some(0), ""));
    said.stdout.trim_end().to_owned()
}

fn say(s: &Scratch, words: &[&str]) -> Said {
    s.coracle(words).output().into()
}

#[test]
fn a_command_runs_in_a_container_that_another_process_started() {
    as_each_user(|s| {
        let id = detached(s);
        say(s, &["exec", &id, "sh", "-c", "echo $A $B; pwd; exit 7"]).is(7, "1\n/tmp\n");
        say(s, &["exec", "-e", "B=2", "-w", "/etc", "--user", "0", &id[..6], "sh", "-c", "echo $A $B; pwd; echo x$0", "-e"])
            .is(0, "1 2\n/etc\nx-e\n");
        let lost = say(s, &["exec", &id, "no-such-program"]);
        assert!(
            lost.code == Some(127) && lost.stderr.contains("command not found: no-such-program (searched PATH /usr"),
            "{}",
            lost.stderr
        );
        assert_eq!(say(s, &["exec", &id, "/etc"]).code, Some(126));
        assert_eq!(say(s, &["exec", &id, "sh", "-c", "kill -TERM $$"]).code, Some(143));
        let nobody = say(s, &["exec", "ffffffff", "true"]);
        assert!(nobody.code == Some(1) && nobody.stderr.contains("no container ffffffff"), "{}", nobody.stderr);
        assert_eq!(say(s, &["exec", &id]).code, Some(125));
        say(s, &["kill", &id]).is(0, &format!("{id}\n"));
    });
}

#[test]
fn standard_input_is_passed_on_with_i_alone() {
    as_each_user(|s| {
        let id = detached(s);
        let mut child = s.coracle(["exec", "-i", &id, "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"in and out\n").unwrap();
        let mut out = String::new();
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        assert_eq!((out.as_str(), child.wait().unwrap().code()), ("in and out\n", Some(0)));
        let child = s.coracle(["exec", &id, "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        assert_eq!(child.wait_with_output().unwrap().stdout, b"");
        say(s, &["kill", &id]).is(0, &format!("{id}\n"));
    });
}

#[test]
fn it_ends_with_this_program_unless_it_is_detached() {
    as_each_user(|s| {
        let id = detached(s);
        let count = || {
            say(s, &["exec", &id, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | grep -ac 'sleep.100[7]'"]).stdout.trim().to_owned()
        };
        let wait = |number: &str| {
            let end = Instant::now() + Duration::from_secs(20);
            while count() != number {
                assert!(Instant::now() < end, "there are {} and not {number}", count());
            }
        };
        let mut child = s.coracle(["exec", &id, "sh", "-c", "setsid sleep 1007 & sleep 1007"]).spawn().unwrap();
        wait("1");
        child.kill().unwrap();
        child.wait().unwrap();
        wait("0");
        say(s, &["exec", "-d", &id, "sleep", "1007"]).is(0, "");
        wait("1");
        say(s, &["kill", &id]).is(0, &format!("{id}\n"));
    });
}
