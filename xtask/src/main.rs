//! The tasks of this repository: `cargo xtask test`, `vm`, `soak`, `bench`, `dist`, `tools`.
//!
//! One verb a room. A task is a program and not a page of shell so that it can say what is missing, count what was skipped, and
//! be changed under the same checks as everything else.

mod bench;
mod binaries;
mod corpora;
mod cpio;
mod dist;
mod fuzz;
mod metadata;
mod no_c;
mod packages;
mod process;
mod report;
mod scratch;
mod soak;
mod supervisor;
mod test;
mod tiers;
mod tools;
mod vm;

/// What a test may need, and who serves it: the tests and this program read the same page.
#[path = "../../tests/support/needs.rs"]
#[allow(dead_code, reason = "the tests use the other half")]
mod needs;

use std::process::ExitCode;

/// A task's failure is a sentence for the person who started it.
type Result<T = ()> = std::result::Result<T, String>;

const HELP: &str = "\
The tasks of this repository.

Usage: cargo xtask VERB [--help]

Verbs:
  test    everything that CI runs, or one step of it
  vm      the tests on a kernel with cgroup v2 alone, in a virtual machine
  soak    the long tests: thousands of lives, races, whole fault lists
  bench   measurements beside the field's other programs
  dist    build the program as it is handed out
  tools   only look for, and as root install, what the other verbs need
";

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let verb = arguments.next().unwrap_or_default();
    let rest: Vec<String> = arguments.collect();
    // cargo starts us wherever the caller stands; every path below is relative to the repository.
    if let Err(error) = std::env::set_current_dir(metadata::root()) {
        eprintln!("error: can't enter {}: {error}", metadata::root().display());
        return ExitCode::from(2);
    }
    let result = match verb.as_str() {
        "test" => test::main(&rest),
        "vm" => vm::main(&rest),
        "soak" => soak::main(&rest),
        "bench" => bench::main(&rest),
        "dist" => dist::main(&rest),
        "tools" => tools::main(&rest),
        "" | "help" | "-h" | "--help" => {
            print!("{HELP}");
            return ExitCode::from(if verb.is_empty() { 2 } else { 0 });
        }
        other => {
            eprintln!("error: there is no verb `{other}`\n\n{HELP}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the caller asked for help rather than for work.
fn wants_help(arguments: &[String]) -> bool {
    arguments.iter().any(|a| a == "--help" || a == "-h")
}

/// Whether a machine, and not a person, reads the result: then a skip that could have been served is a failure.
fn in_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| !value.is_empty() && value != "false" && value != "0")
}
