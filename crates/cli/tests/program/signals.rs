//! Signals to the program reach the command.

use crate::scratch::{Said, Scratch, as_each_user};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Starts a script that says `ready` when it is.
fn start(s: &Scratch, script: &str) -> (Child, BufReader<std::process::ChildStdout>) {
    let rootfs = s.rootfs();
    let mut child =
        s.coracle(["run", "--rootfs", &rootfs, "sh", "-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    (child, lines)
}

fn signal(child: &Child, name: &str) {
    let done = Command::new("kill").args(["-s", name, &child.id().to_string()]).status().unwrap();
    assert!(done.success());
}

#[test]
fn a_signal_is_passed_on_and_the_exit_code_comes_back() {
    as_each_user(|s| {
        for name in ["INT", "TERM"] {
            let (child, mut lines) = start(s, &format!("trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.02; done"));
            signal(&child, name);
            let mut line = String::new();
            lines.read_line(&mut line).unwrap();
            assert_eq!(line, format!("got {name}\n"));
            assert_eq!(Said::from(child.wait_with_output()).code, Some(9), "{name}");
        }
    });
}

#[test]
fn a_command_that_does_not_mind_is_ended_by_its_default_action() {
    as_each_user(|s| {
        let (child, _lines) = start(s, "echo ready; exec sleep 100");
        signal(&child, "INT");
        assert_eq!(Said::from(child.wait_with_output()).code, Some(130));
    });
}

#[test]
fn a_second_interrupt_kills() {
    as_each_user(|s| {
        let (child, mut lines) = start(s, "trap 'echo no' INT; echo ready; while :; do sleep 0.02; done");
        signal(&child, "INT");
        let mut line = String::new();
        lines.read_line(&mut line).unwrap();
        assert_eq!(line, "no\n");
        signal(&child, "INT");
        assert_eq!(Said::from(child.wait_with_output()).code, Some(137));
    });
}
