//! cargo run --example hello — as root or as a plain user; no registry, no network.
//!
//! Runs a container over an overlay of this machine's own root file system, with whatever limits this machine can enforce, and prints
//! what it said, how it ended and what it used.

use coracle::{Container, Control, Error};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    if let Err(error) = hello().await {
        eprintln!("error: {error}");
        if let Some(remedy) = error.remedy() {
            eprintln!("  fix: {remedy}");
        }
        std::process::exit(1);
    }
}

async fn hello() -> Result<(), Error> {
    let container = Container::from_rootfs("/")
        .cmd([
            "sh",
            "-c",
            "echo \"hello from process $$ on $(hostname), where I am $(id -un)\"; touch /etc/changed && echo 'I may write to /etc'",
        ])
        .memory("256m")
        .cpus(1.0)
        .pids(64)
        .best_effort(Control::Memory)
        .best_effort(Control::Cpu)
        .best_effort(Control::Pids);
    let out = container.output().await?;
    print!("{}", out.stdout_lossy());
    eprint!("{}", out.stderr_lossy());
    println!("verdict: {}", out.status);
    println!("usage:   {:?}", out.usage);
    println!("limits:");
    for limit in &out.enforced {
        println!("  {} holds, by {}", limit.asked, limit.mechanism);
    }
    for refusal in &out.waived {
        println!("  {refusal}");
        if let Some(remedy) = refusal.remedy() {
            println!("    fix: {remedy}");
        }
    }
    if !out.status.success() || std::path::Path::new("/etc/changed").exists() {
        std::process::exit(1);
    }
    Ok(())
}
