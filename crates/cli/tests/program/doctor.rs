//! `coracle doctor`: what it says to people and programs, and what `--fix` installs.

use crate::scratch::{Said, Scratch, User, as_each_user};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

#[test]
fn its_exit_code_is_its_worst_row() {
    as_each_user(|s| {
        let said: Said = s.coracle(["doctor"]).output().into();
        let worst = match said.code {
            Some(0) => "ok",
            Some(1) => "warning",
            other => panic!("{other:?}: {}{}", said.stdout, said.stderr),
        };
        assert!(said.stdout.starts_with("ok       kernel "), "{}", said.stdout);
        assert_eq!(said.stdout.contains("\nwarning "), worst == "warning", "{}", said.stdout);
        assert_eq!(said.stdout.contains(" lost: "), worst == "warning", "{}", said.stdout);
        assert_eq!(said.stderr, "");
        let json: Said = s.coracle(["doctor", "--json"]).output().into();
        assert_eq!(json.code, said.code);
        assert!(
            json.stdout.starts_with(&format!("{{\"worst\":\"{worst}\",\"rows\":[{{\"check\":\"kernel\",\"verdict\":")),
            "{}",
            json.stdout
        );
        assert_eq!(json.stdout.matches("\"check\":").count(), said.stdout.lines().filter(|line| !line.starts_with(' ')).count());
    });
}

#[test]
fn a_fixed_host_executes_plain_users_supervisors_from_a_fixed_path() {
    if std::fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) != 0) {
        println!("SKIP: root");
        return;
    }
    let Some(s) = Scratch::new(User::Nobody) else { return };
    // In a mount namespace of its own, where /usr/local and AppArmor's profiles are nobody else's.
    let script = "mount -t tmpfs -o mode=755 none /usr/local
        if [ -d /etc/apparmor.d ]; then mount -t tmpfs none /etc/apparmor.d; fi
        \"$0\" --root \"$1\" doctor --fix >&2; shift; exec \"$@\"";
    let run = s.coracle(["run", "--rootfs", &s.rootfs(), "sh", "-c", "exec sleep 1000"]);
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script]).arg(s.path("coracle")).arg(s.path("roots"));
    command.arg(run.get_program()).args(run.get_args()).env("HOME", s.path("home")).current_dir(s.path("home"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("unshare runs");
    let end = Instant::now() + Duration::from_secs(60);
    let supervisor = loop {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", child.id())).into_iter().flatten().flatten();
        let children: String = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok()).collect();
        let exe = children.split_whitespace().find_map(|pid| std::fs::read_link(format!("/proc/{pid}/exe")).ok());
        match exe.filter(|exe| exe.to_string_lossy().contains("supervisor")) {
            Some(exe) => break exe,
            None => assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "no supervisor"),
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    child.kill().unwrap();
    let said = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(supervisor.starts_with("/usr/local/libexec/coracle"), "{}", supervisor.display());
    assert!(said.contains(&format!("installed the supervisor as {}", supervisor.display())), "{said}");
}
