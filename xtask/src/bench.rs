//! `cargo xtask bench`: measurements beside the field's other programs, in one run, in random turn.
//!
//! The measuring itself is `benches/start.rs`: it uses the library as its users do. This room builds what it needs and starts it.

use crate::{Result, dist, wants_help};
use std::process::Command;

const HELP: &str = "\
Measures, and writes dated results into benches/results/.

Usage: cargo xtask bench start [--quick] [--lives N] [--only NAME,NAME] [--no-pauses] [--build] [--no-lives] [--print]

  start   a whole life of a container, in-process and by the program, beside bwrap, runc, crun, podman, docker and a floor; needs root,
          busybox-static and cc, and whichever of the others are to be compared
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
        [subject, rest @ ..] if subject == "start" => start(rest),
        [other, ..] => Err(format!("there is nothing named `{other}` to measure\n\n{HELP}")),
    }
}

fn start(arguments: &[String]) -> Result {
    // The program is one of the contenders, as it is handed out. Built with the rest, so that both are of the same state of the tree.
    let program = dist::build()?;
    run(Command::new("cargo").args(["bench", "--quiet", "--bench", "start", "--"]).args(arguments).env("CORACLE_PROGRAM", program))
}

fn run(command: &mut Command) -> Result {
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{command:?}: {status}")),
        Err(error) => Err(format!("can't run {command:?}: {error}")),
    }
}
