//! cargo run --example sandbox — as root; as a plain user the limits need delegated cgroups, and the error says how.
//!
//! Runs something that nobody vouches for: no network, a root that can't be written, nobody as its user, no capabilities, little
//! memory, few processes. Whatever it does, the verdict says how it ended.

use coracle::{Container, Error, Mount};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let greedy = "x=x; while :; do x=$x$x; done";
    for code in ["id; echo hi > /tmp/f && cat /tmp/f", "touch /etc/x", greedy] {
        let ran = Container::from_rootfs("/")
            .cmd(["sh", "-c", code])
            .user("nobody")
            .cap_drop("ALL")
            .read_only_rootfs(true)
            .mount(Mount::tmpfs("/tmp").size("16m"))
            .memory("64m")
            .pids(32)
            .output()
            .await;
        match ran {
            Ok(out) => println!("{code:?}\n  {}\n  {}{}", out.status, out.stdout_lossy(), out.stderr_lossy()),
            Err(error) => {
                println!("error: {error}");
                for remedy in error.remedy().iter().flat_map(|r| r.lines()) {
                    println!("  fix: {remedy}");
                }
                return Ok(());
            }
        }
    }
    Ok(())
}
