//! `cargo xtask bench`: measurements beside the field's other programs, in one run, in random turn.

use crate::{Result, wants_help};

const HELP: &str = "\
Measures, and writes dated results into benches/results/.

Usage: cargo xtask bench SUBJECT

Subjects: none yet; `start` comes with the first engine that starts a container.
";

pub(crate) fn main(arguments: &[String]) -> Result {
    if wants_help(arguments) {
        print!("{HELP}");
        return Ok(());
    }
    Err(String::from("`cargo xtask bench` measures nothing yet: its room is xtask/src/bench.rs"))
}
