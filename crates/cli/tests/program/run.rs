//! `coracle run`: exit codes, streams, and flags that show inside.

use crate::scratch::{Said, Scratch, User, as_each_user};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

#[test]
fn the_exit_code_is_the_commands() {
    as_each_user(|s| {
        s.run(&[], &["true"]).is(0, "");
        s.run(&[], &["sh", "-c", "exit 7"]).is(7, "");
        s.run(&[], &["sh", "-c", "exit 255"]).is(255, "");
    });
}

#[test]
fn a_signal_is_128_and_its_number() {
    as_each_user(|s| {
        s.run(&[], &["sh", "-c", "kill -9 $$"]).is(137, "");
        s.run(&[], &["sh", "-c", "kill -TERM $$"]).is(143, "");
        s.run(&["--init=false"], &["sh", "-c", "exit 3"]).is(3, "");
    });
}

#[test]
fn a_command_that_is_not_there_is_127() {
    as_each_user(|s| {
        s.run(&[], &["no-such-program"])
            .fails(127, &["error: command not found: no-such-program (searched PATH /usr/local/sbin:", "\n  fix: "]);
        s.run(&[], &["/no/such/program"]).fails(127, &["error: command not found: /no/such/program\n"]);
        fs::write(s.path("rootfs/bin/script"), "#!/bin/perl\n").unwrap();
        fs::set_permissions(s.path("rootfs/bin/script"), fs::Permissions::from_mode(0o755)).unwrap();
        s.run(&[], &["script"]).fails(127, &["/bin/perl"]);
    });
}

#[test]
fn a_command_that_cannot_be_executed_is_126() {
    as_each_user(|s| {
        fs::write(s.path("rootfs/etc/motd"), "hello\n").unwrap();
        s.run(&[], &["/etc/motd"]).fails(126, &["error: ", "/etc/motd", "\n  fix: give it execute permission"]);
    });
}

#[test]
fn what_is_wrong_with_the_flags_is_125() {
    as_each_user(|s| {
        s.run(&["--no-such-flag"], &["true"]).fails(125, &["error: unexpected argument '--no-such-flag'"]);
        s.run(&["--cpus", "many"], &["true"]).fails(125, &["--cpus"]);
        s.run(&[], &[]).fails(125, &["error: --rootfs: no command is named\n  fix: "]);
        let said: Said = s.coracle(["run"]).output().into();
        said.fails(125, &["error: no image is named\n  fix: "]);
        let said: Said = s.coracle(["run", "--rootfs", "/no/such", "true"]).output().into();
        said.fails(125, &["error: /no/such isn't a directory"]);
        let said: Said = s.coracle(["run", "UPPER"]).output().into();
        said.fails(125, &["error: "]);
        let said: Said = s.coracle(["frobnicate"]).output().into();
        said.fails(125, &["frobnicate"]);
        let both = s.run(&["-v", "x/z:/y", "-h", "a b"], &["true"]);
        both.fails(125, &["error: --volume x/z:/y: \"x/z\" is neither a path nor a name\n  fix: for a directory of this machine: ./x/z\n"]);
        s.run(&["-m", "lots", "-w", "here"], &["true"])
            .fails(125, &["error: memory: ", "error: the working directory \"here\" isn't absolute\n  fix: begin it with /\n"]);
    });
}

#[test]
fn help_is_no_failure_and_goes_to_standard_output() {
    let Some(s) = Scratch::new(User::Me) else { return };
    for words in [&["--help"][..], &["run", "--help"], &["ps", "--help"], &["--version"]] {
        let said: Said = s.coracle(words).output().into();
        assert_eq!((said.code, &said.stderr[..]), (Some(0), ""));
        assert!(said.stdout.contains("coracle"), "{}", said.stdout);
    }
    let said: Said = s.coracle(["run", "--help"]).output().into();
    for flag in ["--env-file", "-h, --hostname", "--rootfs", "--pids-limit", "Exit codes:", "127"] {
        assert!(said.stdout.contains(flag), "{flag}");
    }
}

#[test]
fn standard_output_carries_the_commands_bytes_and_no_others() {
    as_each_user(|s| {
        let bytes: String = (0..2000).map(|n| format!("{n}\n")).collect();
        let said = s.run(&["--stats"], &["sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; echo oops >&2"]);
        assert!(said.code == Some(0) && said.stdout == bytes, "{:?} {} bytes {}", said.code, said.stdout.len(), said.stderr);
        assert!(said.stderr.starts_with("oops\nwall 0.") || said.stderr.starts_with("oops\nwall "), "{}", said.stderr);
        assert!(said.stderr.contains(", cpu "), "{}", said.stderr);
    });
}

#[test]
fn standard_input_is_empty_unless_it_is_asked_for() {
    as_each_user(|s| {
        let feed = |flags: &[&str]| -> Said {
            let rootfs = s.rootfs();
            let command = ["--rootfs", &rootfs, "cat"];
            let words = ["run"].iter().chain(flags).chain(&command);
            let mut child = s.coracle(words).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            // Where nobody reads it the pipe may be closed by now.
            let _ = child.stdin.take().unwrap().write_all(b"hello");
            child.wait_with_output().into()
        };
        feed(&["-i"]).is(0, "hello");
        feed(&[]).is(0, "");
    });
}

#[test]
fn flags_show_inside() {
    as_each_user(|s| {
        s.run(&["-h", "box"], &["hostname"]).is(0, "box\n");
        s.run(&["-w", "/made/for/it"], &["pwd"]).is(0, "/made/for/it\n");
        s.run(&["-e", "A=1", "--env", "B=two words"], &["sh", "-c", "echo $A-$B"]).is(0, "1-two words\n");
        s.run(&["--read-only"], &["sh", "-c", "touch /x 2>/dev/null || echo no"]).is(0, "no\n");
        s.run(&["--tmpfs", "/t:size=1m,mode=700"], &["stat", "-c", "%a", "/t"]).is(0, "700\n");
        s.run(&["--ulimit", "nofile=64"], &["sh", "-c", "ulimit -n"]).is(0, "64\n");
        s.run(&["--cap-drop", "ALL"], &["grep", "CapBnd", "/proc/self/status"]).is(0, "CapBnd:\t0000000000000000\n");
        s.run(&["--entrypoint", "echo"], &["a", "-b"]).is(0, "a -b\n");
        s.run(&["--rm", "--network", "none"], &["sh", "-c", "ls /sys/class/net 2>/dev/null || echo lo"]).is(0, "lo\n");

        fs::write(s.path("home/variables"), "# comment\nA=from file\nB=stays\n").unwrap();
        s.run(&["--env-file", "variables", "-e", "A=stronger"], &["sh", "-c", "echo $A $B"]).is(0, "stronger stays\n");

        fs::write(s.path("home/file"), "contents").unwrap();
        s.run(&["-v", "./file:/f:ro"], &["sh", "-c", "cat /f; echo x 2>/dev/null >/f || echo ' ro'"]).is(0, "contents ro\n");
        let source = format!("type=bind,src={},dst=/d", s.path("home").display());
        s.run(&["--mount", &source], &["cat", "/d/file"]).is(0, "contents");
    });
}

#[test]
fn a_variable_without_a_value_comes_from_here() {
    as_each_user(|s| {
        let rootfs = s.rootfs();
        let words = ["run", "-e", "HERE", "-e", "NOT_HERE", "--rootfs", &rootfs, "sh", "-c", "echo $HERE ${NOT_HERE-unset} ${OTHER-unset}"];
        let said: Said = s.coracle(words).env("HERE", "here").env("OTHER", "x").env_remove("NOT_HERE").output().into();
        said.is(0, "here unset unset\n");
    });
}

#[test]
fn a_limit_holds_or_is_an_error_that_names_the_way_on() {
    as_each_user(|s| {
        let said = s.run(&["--pids-limit", "20"], &["true"]);
        match said.code {
            Some(0) => said.is(0, ""),
            _ => said.fails(125, &["error: can't enforce pids=20: ", "fix: or go on without: --best-effort pids\n"]),
        }
        let waived = s.run(&["--pids-limit", "20", "--best-effort", "pids"], &["echo", "hi"]);
        assert_eq!((waived.code, &waived.stdout[..]), (Some(0), "hi\n"), "{}", waived.stderr);
        assert_eq!(waived.stderr.starts_with("warning: can't enforce pids=20: "), said.code != Some(0), "{}", waived.stderr);
        s.run(&["-q", "--pids-limit", "20", "--best-effort", "pids"], &["echo", "hi"]).is(0, "hi\n");
    });
}

/// Needs root, for the memory controller.
#[test]
fn who_runs_out_of_memory_is_told_so() {
    let Some(s) = Scratch::new(User::Me) else { return };
    let said = s.run(&["-m", "16m"], &["dd", "if=/dev/zero", "of=/dev/null", "bs=64M", "count=1"]);
    if said.code == Some(125) && said.stderr.contains("can't enforce memory") {
        println!("SKIP: the memory controller");
        return;
    }
    said.fails(137, &["note: the container ran out of memory: the memory limit was hit\n"]);
}

#[test]
fn changes_go_with_the_container_and_nothing_is_left() {
    as_each_user(|s| {
        s.run(&[], &["sh", "-c", "echo x >/written; cat /written"]).is(0, "x\n");
        assert!(!s.path("rootfs/written").exists());
        let left: Vec<_> = fs::read_dir(s.path("home/store/run")).unwrap().map(|e| e.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
    });
}

#[test]
fn a_reader_that_has_gone_is_no_panic() {
    let Some(s) = Scratch::new(User::Me) else { return };
    let mut child = s.coracle(["run", "--help"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let said: Said = child.wait_with_output().into();
    assert!(!said.stderr.contains("panicked"), "{}", said.stderr);
}
