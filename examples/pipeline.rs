//! cargo run --example pipeline — as root or as a plain user; no registry, no network.
//!
//! What a runner of CI does: a service, steps one after another over one workspace, a step that always runs, a secret that nobody sees. Here over
//! an overlay of this machine's own root; a runner has an image a step. Ctrl-C, or dropping the future, ends everything at once.

use coracle::{Condition, Container, Error, Part, Stack, Wait};
use std::time::Duration;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let workspace = std::env::temp_dir().join(format!("coracle-pipeline-{}", std::process::id()));
    std::fs::create_dir(&workspace).expect("a directory can be made");
    let ended = pipeline(&workspace).run().await;
    let built = std::fs::read_to_string(workspace.join("artifact")).unwrap_or_default();
    let _ = std::fs::remove_dir_all(&workspace);
    match ended {
        Ok(ends) => ends.iter().for_each(|(step, status)| println!("{step}: {status}")),
        // The last step is there to fail.
        Err(Error::Part(failure)) if failure.part == "deploy" && built == "BUILT\n" => println!("{failure}"),
        Err(error) => {
            eprintln!("error: {error}");
            error.remedy().into_iter().for_each(|remedy| eprintln!("  fix: {remedy}"));
            std::process::exit(1);
        }
    }
}

fn pipeline(workspace: &std::path::Path) -> Stack {
    let sh = |line: &str| Container::from_rootfs("/").cmd(["sh", "-c", line]);
    let cache = sh("touch /tmp/listening; exec sleep 1000").wait(Wait::file("/tmp/listening"));
    Stack::new()
        .workspace(workspace, "/work")
        .secret("hunter2")
        .on_line(|line| println!("{:>8} | {}", line.part, line.text))
        .add(Part::service("cache", cache))
        .add(Part::step("checkout", sh("echo built > source; pwd")).depends_on("cache", Condition::Healthy))
        .add(Part::step("build", sh("tr a-z A-Z < source > artifact; cat artifact")).timeout(Duration::from_secs(60)))
        .add(Part::step("deploy", sh("echo \"user ann, password $PASSWORD: refused\"; exit 1").env("PASSWORD", "hunter2")))
        .add(Part::step("clean", sh("rm source; ls")).always())
}
