//! `cargo xtask bench`: measurements beside the field's other programs, in one run, in random turn.
//!
//! The measuring itself is `benches/start.rs`, `life.rs`, `pull.rs` and `network.rs`: they use the library as its users do. This room builds what they
//! need and starts them.

use crate::process::is_root;
use crate::{Result, dist, tools, wants_help};
use std::process::Command;

const HELP: &str = "\
Measures, and writes dated results into benches/results/.

Usage: cargo xtask bench start [--quick] [--lives N] [--only NAME,NAME] [--no-pauses] [--build] [--no-lives] [--print]
       cargo xtask bench life [--quick] [--lives N] [--only NAME,NAME] [--print]
       cargo xtask bench pull [--rounds N] [--only NAME,NAME] [--big] [--tmpfs] [--print]
       cargo xtask bench network [--quick] [--lives N] [--only NAME,NAME] [--no-streams] [--print]

  start   a whole life of a container, in-process and by the program, beside bwrap, runc, crun, podman, docker and a floor; needs root,
          busybox-static and cc, and whichever of the others are to be compared
  life    what is done with a container that lives: exec, starts from a snapshot, many lives at once, two hundred containers; beside the same
  pull    an image from a registry to files, by the program and in-process, beside podman, docker, containerd, umoci and a floor, on an ext4
          of its own; needs root, and installs the others from Debian's packages
  network what a private network adds to a start and an end, and what goes through it, beside netavark, podman, docker and docker-proxy, on a
          host of its own; needs root, busybox-static, and whichever of the others are to be compared
";

pub(crate) fn main(arguments: &[String]) -> Result {
    match arguments {
        [] => {
            print!("{HELP}");
            Ok(())
        }
        _ if wants_help(arguments) => {
            print!("{HELP}");
            Ok(())
        }
        [subject, rest @ ..] if ["start", "life", "network"].contains(&subject.as_str()) => lives(subject, rest),
        [subject, rest @ ..] if subject == "pull" => pull(rest),
        [other, ..] => Err(format!("there is nothing named `{other}` to measure\n\n{HELP}")),
    }
}

fn lives(subject: &str, arguments: &[String]) -> Result {
    // The program is one of the contenders, as it is handed out. Built with the rest, so that both are of the same state of the tree.
    let program = dist::build()?;
    run(Command::new("cargo").args(["bench", "--quiet", "--bench", subject, "--"]).args(arguments).env("CORACLE_PROGRAM", program))
}

fn pull(arguments: &[String]) -> Result {
    if !is_root() {
        return Err(String::from("`bench pull` mounts a file system and starts the peers' daemons: it needs root"));
    }
    tools::install_peers();
    let program = dist::build()?;
    run(Command::new("cargo").args(["bench", "--quiet", "--bench", "pull", "--"]).args(arguments).env("CORACLE_PROGRAM", program))
}

fn run(command: &mut Command) -> Result {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("can't run {command:?}: {error}")),
    }
}
