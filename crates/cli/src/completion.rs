//! `coracle completion`: what shells need to complete this program's words.

use crate::arguments::{Arguments, Shell};
use crate::failure::Failure;
use crate::table;
use clap::CommandFactory as _;
use clap_complete::generate;

pub(crate) fn print(shell: Shell) -> Result<u8, Failure> {
    let mut command = Arguments::command();
    let mut script = Vec::new();
    match shell {
        Shell::Bash => generate(clap_complete::Shell::Bash, &mut command, "coracle", &mut script),
        Shell::Zsh => generate(clap_complete::Shell::Zsh, &mut command, "coracle", &mut script),
        Shell::Fish => generate(clap_complete::Shell::Fish, &mut command, "coracle", &mut script),
    }
    table::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
