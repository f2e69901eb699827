//! Formatting and clippy for the supervisor: a program without a Cargo.toml, which `cargo fmt` and `cargo clippy` don't see.

use crate::process::{Outside, Run};
use crate::{Result, metadata, process};
use std::path::{Path, PathBuf};

/// Where its source lies, and the file that its crate begins with.
const SOURCE: &str = "crates/spawn/supervisor";

/// The source files of the supervisor, or none while there is no supervisor.
///
/// # Errors
///
/// Files without a `main.rs`: then the build script compiles something that we would not look at.
fn sources() -> Result<Vec<PathBuf>> {
    let directory = metadata::root().join(SOURCE);
    let mut found = Vec::new();
    gather(&directory, &mut found);
    found.sort();
    if !found.is_empty() && !directory.join("main.rs").is_file() {
        return Err(format!("{SOURCE} has sources but no main.rs: tell xtask/src/supervisor.rs where its crate begins"));
    }
    Ok(found)
}

fn gather(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            gather(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// rustfmt over every file of it.
pub(crate) fn format() -> Result {
    let sources = sources()?;
    if sources.is_empty() {
        println!("   the supervisor has no source yet");
        return Ok(());
    }
    Run::new("rustfmt").args(["--check", "--edition", "2024"]).args(&sources).check()
}

/// clippy-driver with the flags that the build script compiles with, for both architectures.
pub(crate) fn clippy() -> Result {
    if sources()?.is_empty() {
        println!("   the supervisor has no source yet");
        return Ok(());
    }
    let sysroot = PathBuf::from(Run::new("rustc").args(["--print", "sysroot"]).quiet().output()?.trim());
    let driver = sysroot.join("bin/clippy-driver");
    let driver = if driver.is_file() {
        driver
    } else {
        process::find("clippy-driver").ok_or("clippy-driver is missing: rustup component add clippy")?
    };
    let output = Outside::new("supervisor-clippy")?;
    for target in ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"] {
        if !Run::new("rustc")
            .args(["--print", "target-libdir", "--target", target])
            .quiet()
            .output()
            .is_ok_and(|directory| Path::new(directory.trim()).is_dir())
        {
            println!("   {target} isn't installed: rustup target add {target}");
            continue;
        }
        Run::new(&driver)
            .arg(metadata::root().join(SOURCE).join("main.rs"))
            .args(["--crate-name", "coracle_supervisor", "--edition", "2024", "--crate-type", "bin", "--emit=metadata"])
            .args(["-Cpanic=abort", "-Crelocation-model=static", "-Coverflow-checks=yes"])
            .args(["--check-cfg", "cfg(test)"])
            // Its errors hold the words of a call in place: where they are made there is nothing to box them with.
            .args(["-A", "clippy::result_large_err", "-A", "clippy::too_many_arguments"])
            .args(["--target", target, "-D", "warnings", "-W", "clippy::all", "-W", "clippy::undocumented_unsafe_blocks"])
            .arg("--out-dir")
            .arg(output.path())
            .env("LD_LIBRARY_PATH", sysroot.join("lib"))
            .env("SYSROOT", &sysroot)
            .check()?;
    }
    Ok(())
}
