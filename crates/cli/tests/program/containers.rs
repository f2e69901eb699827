//! Containers that stay: made, started, stopped, listed, told of, removed by the program.

use crate::scratch::{Said, Scratch, as_each_user};
use std::process::Stdio;
use std::time::{Duration, Instant};

fn say(s: &Scratch, words: &[&str]) -> Said {
    s.coracle(words).output().into()
}

/// `run -d` with a name.
fn detach(s: &Scratch, name: &str, flags: &[&str], line: &str) -> String {
    let flags: Vec<&str> = ["-d", "--name", name].iter().chain(flags).copied().collect();
    let said = s.run(&flags, &["sh", "-c", line]);
    assert_eq!((said.code, &said.stderr[..]), (Some(0), ""));
    said.stdout.trim_end().to_owned()
}

fn until(so: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !so() {
        assert!(Instant::now() < end, "it never was so");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn what_a_detached_container_says_is_read_while_it_runs_and_afterwards() {
    as_each_user(|s| {
        let line = "echo one; echo two >&2; trap 'echo end; exit 3' TERM; while :; do sleep 0.02; done";
        detach(s, "talker", &[], line);
        until(|| say(s, &["logs", "talker"]).stdout == "one\n" && say(s, &["logs", "talker"]).stderr == "two\n");
        let follower = s.coracle(["logs", "-f", "--tail", "0", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
        let attached = s.coracle(["attach", "talker"]).stdout(Stdio::null()).spawn().unwrap();
        let waiting = s.coracle(["wait", "talker"]).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(500));
        say(s, &["stop", "-t", "60", "talker"]).is(0, "talker\n");
        assert_eq!(String::from_utf8_lossy(&follower.wait_with_output().unwrap().stdout), "end\n");
        assert_eq!(String::from_utf8_lossy(&waiting.wait_with_output().unwrap().stdout), "3\n");
        assert_eq!(attached.wait_with_output().unwrap().status.code(), Some(3));
        let logs = say(s, &["logs", "-n", "1", "-t", "talker"]);
        assert!(logs.stdout.ends_with("Z end\n") && logs.stdout.len() == "2024-01-01T00:00:00.000000000Z end\n".len(), "{}", logs.stdout);
        assert_eq!(say(s, &["logs", "--until", "1970-01-02T00:00:00Z", "talker"]).stdout, "");
        say(s, &["logs", "--tail", "x", "--since", "never", "talker"]).fails(1, &["--tail x", "--since never"]);
        say(s, &["ps", "-q"]).is(0, "");
        say(s, &["ps", "-a", "--format", "{{.Names}}:{{.State}}"]).is(0, "talker:exited\n");
        let status = say(s, &["ps", "-a", "--format", "{{.Status}}"]).stdout;
        assert!(status.starts_with("Exited (3) ") && status.ends_with(" ago\n"), "{status}");
        say(s, &["rm", "talker"]).is(0, "talker\n");
        say(s, &["ps", "-aq"]).is(0, "");
    });
}

#[test]
fn one_that_was_created_is_started_again_and_again_with_its_files() {
    as_each_user(|s| {
        let rootfs = s.rootfs();
        let words = ["create", "--name", "again", "-l", "k=v", "--rootfs", &rootfs, "sh", "-c", "echo x >>/lives; cat /lives; exit 4"];
        let id = say(s, &words).stdout.trim_end().to_owned();
        assert_eq!(id.len(), 16);
        say(s, &words).fails(125, &["the name again is taken"]);
        say(s, &["ps", "-a", "--filter", "status=created", "--format", "{{.ID}}"]).is(0, &format!("{id}\n"));
        for lives in 1..4 {
            let said = say(s, &["start", "-a", "again"]);
            assert_eq!((said.code, said.stdout), (Some(4), "x\n".repeat(lives)), "{}", said.stderr);
        }
        say(s, &["inspect", "--format", "{{.Name}} {{.State.Status}} {{.State.ExitCode}} {{json .Config.Labels}}", "again"])
            .is(0, "again exited 4 {\"k\":\"v\"}\n");
        say(s, &["inspect", &id[..5]]).is_part(0, "\"Name\": \"again\"");
        say(s, &["rename", "again", "other"]).is(0, "");
        say(s, &["start", "again"]).fails(1, &["no container again is here"]);
        say(s, &["container", "prune", "-f"]).is(0, &format!("{id}\n"));
        say(s, &["ps", "-aq"]).is(0, "");
    });
}

#[test]
fn one_that_runs_is_told_of_and_not_removed_unless_it_is_meant() {
    as_each_user(|s| {
        let id = detach(s, "runner", &["--timeout", "1h"], "exec sleep 1000");
        say(s, &["rm", "runner"]).fails(1, &["the container runner runs", "--force"]);
        assert!(say(s, &["top", "runner"]).stdout.contains("sleep 1000"));
        let stats = say(s, &["stats", "--no-stream", "--format", "{{.ID}} {{.Name}}", "runner"]);
        assert_eq!((stats.code, stats.stdout), (Some(0), format!("{id} runner\n")), "{}", stats.stderr);
        say(s, &["restart", "-t", "0", "runner"]).is(0, "runner\n");
        say(s, &["ps", "-q"]).is(0, &format!("{id}\n"));
        say(s, &["ps", "--filter", "name=nothing", "-q"]).is(0, "");
        say(s, &["ps", "--filter", "colour=red"]).fails(125, &["--filter colour=red"]);
        say(s, &["ps", "--format", "{{.Nothing}}"]).fails(125, &["there is no Nothing"]);
        say(s, &["container", "rm", "-f", "runner"]).is(0, "runner\n");
        say(s, &["ps", "-aq"]).is(0, "");
    });
}

#[test]
fn one_that_is_to_go_with_its_end_goes() {
    as_each_user(|s| {
        let id = detach(s, "brief", &["--rm"], "exec sleep 1000");
        say(s, &["kill", "brief"]).is(0, "brief\n");
        until(|| say(s, &["ps", "-aq"]).stdout.is_empty());
        assert!(!s.path("home/store/run").join(id).exists());
    });
}

#[test]
fn what_happens_is_printed_as_it_happens() {
    as_each_user(|s| {
        let mut watcher = s.coracle(["events", "--format", "{{.Action}}"]).stdout(Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_secs(1));
        detach(s, "seen", &[], "exec sleep 1000");
        std::thread::sleep(Duration::from_millis(500));
        say(s, &["stop", "-t", "0", "seen"]).is(0, "seen\n");
        std::thread::sleep(Duration::from_millis(500));
        say(s, &["rm", "seen"]).is(0, "seen\n");
        std::thread::sleep(Duration::from_secs(1));
        watcher.kill().unwrap();
        let said = watcher.wait_with_output().unwrap();
        let said: Vec<_> = String::from_utf8_lossy(&said.stdout).lines().map(str::to_owned).collect();
        assert_eq!(said, ["create", "start", "die", "destroy"]);
    });
}

#[test]
fn shells_are_told_the_words() {
    as_each_user(|s| {
        for (shell, part) in [("bash", "complete -F _coracle"), ("zsh", "#compdef coracle"), ("fish", "complete -c coracle")] {
            say(s, &["completion", shell]).is_part(0, part);
        }
    });
}
