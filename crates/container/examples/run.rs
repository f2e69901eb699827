//! cargo run -p coracle-container --example run -- uname -a — as root, or as a plain user with user namespaces.
//!
//! Runs a command in a container over this machine's own root file system, and exits as it did. No runtime: the futures run on a
//! thread that parks.

use coracle_container::{Container, Error, Output};
use std::io::Write;

fn main() {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        words = ["sh", "-c", "echo \"$(id -un) on $(hostname), PID $$\""].map(String::from).to_vec();
    }
    let ran: Result<Output, Error> = pollster::block_on(Container::from_rootfs("/").cmd(words).output());
    let code = match ran {
        Ok(out) => {
            let _ = std::io::stdout().write_all(&out.stdout);
            let _ = std::io::stderr().write_all(&out.stderr);
            eprintln!("{}; {:?} of CPU time", out.status, out.usage.cpu_user + out.usage.cpu_system);
            out.status.code().unwrap_or(1)
        }
        Err(error) => {
            eprintln!("error: {error}");
            if let Some(remedy) = error.remedy() {
                eprintln!("  fix: {remedy}");
            }
            i32::from(error.exit_code())
        }
    };
    std::process::exit(code);
}
