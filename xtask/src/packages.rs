//! The step `packages`: the archives that crates.io would get, built as somebody far away builds them.
//!
//! Unpacked outside the tree, offline, with vendored dependencies, with warnings as errors, through a RUSTC_WRAPPER, with
//! `panic=abort`, with `--target` given, and checked for musl and aarch64 without a C cross compiler. What can break there and
//! nowhere else is a build script: `coracle-spawn` has the one that compiles the supervisor.

use crate::metadata::Package;
use crate::no_c::{NoC, script};
use crate::process::{Outside, Run, write};
use crate::test::Outcome;
use crate::{Result, in_ci, metadata, tools};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// The dependencies that compile C, so that users of musl or of a cross build must bring a C compiler. A new one is a decision.
const C_CODE: &[&str] = &["ring", "zstd-sys"];

pub(crate) fn step() -> Result<Outcome> {
    tools::components();
    let packages: Vec<Package> = metadata::packages()?.into_iter().filter(|package| package.published).collect();
    let outside = Outside::new("packages")?;
    let place = Unpacked::new(outside.path(), &packages)?;

    // Alone where the build script is, as its user would build it; then every freedom that people take, over everything.
    let spawn = ["build", "-p", "coracle-spawn"];
    place.cargo(&spawn).check()?;
    place.cargo(&spawn).arg("--release").env("RUSTC_WRAPPER", &place.wrapper).check()?;
    place
        .cargo(&["build", "--workspace", "--target", "x86_64-unknown-linux-gnu", "--config", "profile.dev.panic='abort'"])
        .env("RUSTC_WRAPPER", &place.wrapper)
        .check()?;

    for target in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-gnu"] {
        place.check_without_c(target, &packages)?;
    }
    Ok(Outcome::Passed)
}

/// The archives, unpacked side by side as a workspace of their own.
struct Unpacked {
    directory: PathBuf,
    wrapper: PathBuf,
    built: PathBuf,
}

impl Unpacked {
    fn new(outside: &Path, packages: &[Package]) -> Result<Self> {
        let mut run = Run::new("cargo").args(["package", "--no-verify", "--locked", "--quiet"]);
        if !in_ci() {
            run = run.arg("--allow-dirty");
        }
        for package in packages {
            run = run.args(["-p", &package.name]);
        }
        run.check()?;

        let directory = outside.join("src");
        let mut members = String::new();
        let mut patches = String::new();
        std::fs::create_dir_all(&directory).map_err(|error| format!("can't make {}: {error}", directory.display()))?;
        for package in packages {
            let name = format!("{}-{}", package.name, package.version);
            let archive = metadata::target().join("package").join(format!("{name}.crate"));
            Run::new("tar").arg("-xzf").arg(&archive).arg("-C").arg(&directory).quiet().output()?;
            for file in ["LICENSE-MIT", "LICENSE-APACHE", "README.md"] {
                let text = std::fs::read_to_string(directory.join(&name).join(file)).unwrap_or_default();
                if text.trim().is_empty() {
                    return Err(format!("{name}.crate has no {file}"));
                }
            }
            members.push_str(&format!("    {name:?},\n"));
            patches.push_str(&format!("{} = {{ path = {name:?} }}\n", package.name));
        }
        write(
            &directory.join("Cargo.toml"),
            format!("[workspace]\nresolver = \"3\"\nmembers = [\n{members}]\n\n[patch.crates-io]\n{patches}"),
        )?;
        std::fs::copy("Cargo.lock", directory.join("Cargo.lock")).map_err(|error| format!("can't copy Cargo.lock: {error}"))?;
        let vendor = outside.join("vendor");
        let sources = Run::new("cargo").args(["vendor", "--locked", "--quiet"]).arg(&vendor).output()?;
        write(&directory.join(".cargo/config.toml"), sources)?;

        let wrapper = outside.join("wrapper");
        script(&wrapper, "exec \"$@\"\n")?;
        Ok(Self { directory, wrapper, built: outside.join("target") })
    }

    fn cargo(&self, arguments: &[&str]) -> Run {
        Run::new("cargo")
            .args(arguments)
            .args(["--offline", "--quiet"])
            .env("RUSTFLAGS", "-Dwarnings")
            .env("CARGO_TARGET_DIR", &self.built)
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .dir(&self.directory)
    }

    /// Type-checks everything for a target, and finds who would have needed a C compiler for it.
    fn check_without_c(&self, target: &str, packages: &[Package]) -> Result {
        let no_c = NoC::new()?;
        no_c.stand_in(self.cargo(&["check", "--workspace", "--target", target]), target).check()?;
        let callers = no_c.callers();
        let callers: Vec<&str> = callers.iter().map(String::as_str).collect();
        println!(
            "   {target}: no C compiler was needed, but for {}",
            if callers.is_empty() { String::from("nobody") } else { callers.join(", ") }
        );
        if let Some(new) = callers.iter().find(|name| !C_CODE.contains(name)) {
            return Err(format!("{new} compiles C: users of {target} need a C cross compiler for it; see C_CODE in xtask/src/packages.rs"));
        }
        // What of ours stays free of C: read from the dependency trees.
        for package in packages {
            let tree = Run::new("cargo")
                .args(["tree", "--offline", "-p", &package.name, "-e", "normal", "--prefix", "none", "--target", target])
                .quiet()
                .dir(&self.directory)
                .output()?;
            let users: BTreeSet<&str> =
                tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| C_CODE.contains(name)).collect();
            let users: Vec<&str> = users.into_iter().collect();
            println!(
                "     {:<20} {}",
                package.name,
                if users.is_empty() { String::from("no C") } else { format!("C by {}", users.join(", ")) }
            );
        }
        Ok(())
    }
}
