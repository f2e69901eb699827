//! cargo run -p coracle-cgroups --example limit -- 'head -c 200m /dev/zero | tail | wc -c'   (root, or a delegated cgroup)
//!
//! Runs a shell command with 64 MiB of memory and at most 16 processes, prints what it consumed and why it ended. Exits
//! with 1 when the cgroup could not be made, used or removed.

use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use coracle_cgroups::{Cgroup, Error, Hierarchies, Limits, Owner, Placement, parse_memory};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(remedy) = error.remedy() {
                eprintln!("  fix: {remedy}");
            }
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Error> {
    let command = std::env::args().nth(1).unwrap_or_else(|| "echo hello from $$; sleep 0.1".into());
    let limits = Limits::new().memory(parse_memory("64m")?).pids(16);
    let placement = Placement::decide(&Hierarchies::detect()?, &Owner::current(), &limits);
    let cgroup = Cgroup::create(placement.plan(&format!("example-{}", std::process::id()))?)?;
    for limit in &cgroup.plan().enforced {
        println!("{:<12} by {} ({})", limit.asked, limit.mechanism, limit.path.display());
    }
    let ran = in_cgroup(&cgroup, &command);
    println!("{:#?}\n{:#?}", cgroup.usage(), cgroup.events());
    println!("out of memory: {}", cgroup.events().oom_killed());
    // Whatever happened above, nothing stays behind.
    let killed = cgroup.kill().and_then(|()| cgroup.wait_empty(Duration::from_secs(2)));
    cgroup.remove().and(killed).and(ran)
}

/// The shell waits for a line, so that it is in the cgroup before the command begins.
fn in_cgroup(cgroup: &Cgroup, command: &str) -> Result<(), Error> {
    let broken = |action| move |source| Error::Io { action, path: "sh".into(), source };
    let mut child = Command::new("sh")
        .args(["-c", "read -r go && eval \"$1\"", "sh", command])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(broken("start"))?;
    let added = cgroup.add(child.id());
    if added.is_ok()
        && let Some(mut stdin) = child.stdin.take()
    {
        std::io::Write::write_all(&mut stdin, b"go\n").map_err(broken("write to"))?;
    }
    drop(child.stdin.take());
    println!("{}", child.wait().map_err(broken("wait for"))?);
    added
}
