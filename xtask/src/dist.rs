//! `cargo xtask dist`: the program `coracle` as it is handed out, in `target/dist/coracle`.
//!
//! Static: it runs on any distribution of this architecture, and starts in half the time, since nothing is looked for and linked
//! at each start. Position-independent all the same: what a stranger's image may make of a bug shouldn't know our addresses.

use crate::process::{Run, copy};
use crate::{Result, metadata, wants_help};
use std::path::PathBuf;

const HELP: &str = "\
Builds the program as it is handed out: static, small, without symbols.

Usage: cargo xtask dist

The result is target/dist/coracle. Needs a C compiler and the static C library (Debian: libc6-dev).
";

pub(crate) fn main(arguments: &[String]) -> Result {
    if wants_help(arguments) {
        print!("{HELP}");
        return Ok(());
    }
    if let Some(argument) = arguments.first() {
        return Err(format!("there is nothing named `{argument}` to build\n\n{HELP}"));
    }
    println!("{}", build()?.display());
    Ok(())
}

/// Builds it; the answer is where it lies.
pub(crate) fn build() -> Result<PathBuf> {
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    // With a target named, the flags are for the program alone: build scripts and macros of the compiler's aren't static.
    let flags = format!("CARGO_TARGET_{}_RUSTFLAGS", target.to_uppercase().replace('-', "_"));
    Run::new("cargo")
        .args(["build", "--profile", "dist", "--locked", "--package", "coracle-cli", "--target", &target])
        .env(&flags, "-C target-feature=+crt-static")
        .check()?;
    let built = metadata::target().join(&target).join("dist/coracle");
    let here = metadata::target().join("dist");
    std::fs::create_dir_all(&here).map_err(|error| format!("can't make {}: {error}", here.display()))?;
    let here = here.join("coracle");
    copy(&built, &here)?;
    Ok(here)
}
