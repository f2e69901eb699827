//! cargo run -p coracle-spawn --example isolate -- sh -c 'hostname; ps ax' — as root, or as a plain user with user namespaces.
//!
//! Runs a command over this machine's own directories, read-only, in namespaces of its own, and says how it ended.

use coracle_spawn::{CapabilitySet, IdMap, Mount, Namespaces, Root, Spawn, seccomp::Filter};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words: Vec<String> = std::env::args().skip(1).collect();
    if words.is_empty() {
        words = ["sh", "-c", "echo I am process $$ on $(hostname)"].map(String::from).to_vec();
    }
    let capabilities = CapabilitySet::docker_default();
    let mut spawn = Spawn::new(&words[0])
        .args(&words[1..])
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .namespaces(Namespaces::all())
        .root(Root::tmpfs())
        .hostname("isolated")
        .user("0")
        .current_dir("/")
        .capabilities(capabilities)
        .seccomp(Filter::docker_default(capabilities.bits()));
    for directory in ["/usr", "/etc", "/bin", "/sbin", "/lib", "/lib64"] {
        if let Ok(link) = std::fs::read_link(directory) {
            spawn = spawn.mount(Mount::symlink(link, directory));
        } else if Path::new(directory).is_dir() {
            spawn = spawn.mount(Mount::bind(directory, directory).read_only());
        }
    }
    if std::fs::read_to_string("/proc/self/status")?.lines().any(|l| l.starts_with("Uid:") && !l.contains("\t0\t")) {
        spawn = spawn.id_map(IdMap::for_current_user());
    }
    let child = spawn.mounts(Mount::standard()).spawn().inspect_err(|e| {
        if let Some(remedy) = e.remedy() {
            eprintln!("fix: {remedy}");
        }
    })?;
    let ended = child.wait()?;
    println!("{}, {:?} of CPU time, {} KiB at most", ended.status, ended.cpu_user + ended.cpu_system, ended.max_rss / 1024);
    let left = child.wait_gone()?;
    if !ended.status.success() || !left.is_empty() {
        return Err(format!("{}, {left:?} left", ended.status).into());
    }
    Ok(())
}
