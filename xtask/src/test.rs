//! `cargo xtask test`: the steps that CI runs, one after the other, timed, with every skip counted and named.

use crate::needs::Tier;
use crate::no_c::NoC;
use crate::process::{Run, is_root};
use crate::report::Report;
use crate::{Result, binaries, corpora, fuzz, in_ci, metadata, packages, scratch, supervisor, tiers, tools, vm, wants_help};
use std::time::Instant;

/// How a step ended, where it didn't fail.
pub(crate) enum Outcome {
    /// It is one check, and that passed.
    Passed,
    /// It ran tests. Failures among them fail the step.
    Tests(Report),
    /// There was nothing for it to do here, and why.
    Nothing(String),
}

struct Step {
    name: &'static str,
    purpose: &'static str,
    run: fn() -> Result<Outcome>,
}

const fn step(name: &'static str, purpose: &'static str, run: fn() -> Result<Outcome>) -> Step {
    Step { name, purpose, run }
}

/// Cheap and frequent failures first; those that share compiled files stand together.
const STEPS: &[Step] = &[
    step("tools", "look for what the steps need; as root, install it", tools_step),
    step("format", "rustfmt, the supervisor included", format),
    step("clippy", "clippy with warnings as errors, the supervisor included", clippy),
    step("docs", "rustdoc with warnings as errors", docs),
    step("deny", "licences, duplicate and banned dependencies, sources", deny),
    step("unit", "unit tests, tests of each crate, tests/architecture.rs", unit),
    step("doctest", "the programs in the documentation", doctest),
    step("tiers", "tests/ as root, as a plain user, as one without sub-ids", tiers::step),
    step("vm", "the same on cgroup v2 alone and an old kernel", vm::step),
    step("features", "each package with no, each, and all features", features),
    step("oldest", "a build with the stated rust-version", oldest),
    step("examples", "each example in a project that has only its crate", scratch::step),
    step("packages", "the archives for crates.io, built outside the tree", packages::step),
    step("fuzz", "each fuzz target for 60 s", fuzz::step),
];

fn help() -> String {
    let mut text = String::from(
        "\
Runs everything that CI runs, and stops at the first failed step.

Usage: cargo xtask test [--keep-going] [STEP...]

  --keep-going   run the remaining steps too
  --ci           a skip that this machine could serve is a failure (also: CI=true)

Steps:
",
    );
    for step in STEPS {
        text.push_str(&format!("  {:<10} {}\n", step.name, step.purpose));
    }
    text.push_str("\nOutput of each test program is kept in target/xtask/logs/.\n");
    text
}

pub(crate) fn main(arguments: &[String]) -> Result {
    if wants_help(arguments) {
        print!("{}", help());
        return Ok(());
    }
    let mut keep_going = false;
    let mut strict = in_ci();
    let mut chosen = Vec::new();
    for argument in arguments {
        match argument.as_str() {
            "--keep-going" => keep_going = true,
            "--ci" => strict = true,
            name => match STEPS.iter().find(|step| step.name == name) {
                Some(step) => chosen.push(step),
                None => return Err(format!("there is no step `{name}`\n\n{}", help())),
            },
        }
    }
    if chosen.is_empty() {
        chosen = STEPS.iter().collect();
    }
    tiers::adopt_orphans();

    let start = Instant::now();
    let mut total = Report::default();
    let mut table = Vec::new();
    for step in chosen {
        println!("\n== {}: {}", step.name, step.purpose);
        let began = Instant::now();
        let failed_before = total.failed.len();
        let what = match (step.run)() {
            Ok(Outcome::Passed) => {
                total.passed += 1;
                String::from("passed")
            }
            Ok(Outcome::Nothing(why)) => {
                println!("   nothing to do: {why}");
                format!("nothing to do: {why}")
            }
            Ok(Outcome::Tests(mut report)) => {
                let holes: Vec<String> = report.skipped.iter().filter_map(crate::report::Skip::is_a_hole).collect();
                for hole in &holes {
                    println!("   {}: {hole}", if strict { "error" } else { "note" });
                }
                if strict {
                    report.skipped.retain(|skip| skip.is_a_hole().is_none());
                    report.failed.extend(holes);
                }
                let line = report.line();
                total.absorb(report);
                line
            }
            Err(error) => {
                println!("   error: {error}");
                total.failed.push(format!("{}: {}", step.name, error.lines().next().unwrap_or_default()));
                String::from("FAILED")
            }
        };
        table.push(format!("  {:<10} {:>5.0} s  {what}", step.name, began.elapsed().as_secs_f64()));
        if total.failed.len() > failed_before && !keep_going {
            table.push(String::from("  the steps after it didn't run; --keep-going runs them"));
            break;
        }
    }

    total.keep_what_ran_nowhere();
    println!("\n== summary after {:.0} s\n{}", start.elapsed().as_secs_f64(), table.join("\n"));
    if !total.skipped.is_empty() {
        println!("\nSkipped, and ran nowhere else:");
        for skip in &total.skipped {
            println!("  {} (as {}): {}", skip.test, skip.tier.word(), skip.need);
        }
    }
    if !total.failed.is_empty() {
        println!("\nFailed:");
        for failure in &total.failed {
            println!("  {failure}");
        }
    }
    println!("\n{} passed, {} failed, {} skipped", total.passed, total.failed.len(), total.skipped.len());
    if total.failed.is_empty() { Ok(()) } else { Err(String::from("not everything passed")) }
}

/// The tier of tests that run as we are.
pub(crate) fn own_tier() -> Tier {
    if is_root() { Tier::Root } else { Tier::User }
}

fn tools_step() -> Result<Outcome> {
    let missing = tools::install();
    tools::components();
    corpora::fetch();
    if missing.is_empty() {
        return Ok(Outcome::Passed);
    }
    let missing = format!("missing: {}", missing.join(" "));
    if in_ci() { Err(missing) } else { Ok(Outcome::Nothing(missing)) }
}

fn format() -> Result<Outcome> {
    Run::new("cargo").args(["fmt", "--all", "--check"]).check()?;
    supervisor::format()?;
    Ok(Outcome::Passed)
}

fn clippy() -> Result<Outcome> {
    let workspace = Run::new("cargo")
        .args(["clippy", "--workspace", "--all-targets", "--all-features", "--locked", "--quiet", "--", "-D", "warnings"])
        .check();
    let supervisor = supervisor::clippy();
    workspace.and(supervisor)?;
    Ok(Outcome::Passed)
}

fn docs() -> Result<Outcome> {
    let doc = |arguments: &[&str]| {
        Run::new("cargo")
            .args(["doc", "--no-deps", "--all-features", "--locked", "--quiet"])
            .args(arguments)
            .env("RUSTDOCFLAGS", "-Dwarnings")
            .check()
    };
    // The program `coracle` and the library `coracle` want the same directory: the program's pages are checked, then replaced.
    doc(&["-p", "coracle-cli"])?;
    doc(&["--workspace", "--exclude", "coracle-cli"])?;
    Ok(Outcome::Passed)
}

fn deny() -> Result<Outcome> {
    let program = match tools::cargo_deny() {
        Ok(program) => program,
        Err(error) if in_ci() => return Err(error),
        Err(error) => return Ok(Outcome::Nothing(error)),
    };
    // `advisories` reads a database from GitHub, which not every machine that tests this reaches.
    Run::new(program).args(["--all-features", "--locked", "check", "--hide-inclusion-graph", "bans", "licenses", "sources"]).check()?;
    println!("   advisories were not checked: their database is not among what this machine needs to reach");
    Ok(Outcome::Passed)
}

fn unit() -> Result<Outcome> {
    let mut total = Report::default();
    for binary in binaries::build()? {
        if !binary.is_tiered() {
            total.absorb(binary.run(own_tier())?);
        }
    }
    Ok(Outcome::Tests(total))
}

fn doctest() -> Result<Outcome> {
    let tier = own_tier();
    let logged = Run::new("cargo")
        .args(["test", "--workspace", "--all-features", "--doc", "--locked", "--no-fail-fast", "--", "--show-output"])
        .env("CORACLE_TIER", tier.word())
        .limit(binaries::LIMIT)
        .logged(&binaries::log("doctest", tier))?;
    Ok(Outcome::Tests(binaries::conclude("doctest", tier, &logged.text, logged.success, &logged.ending)))
}

fn features() -> Result<Outcome> {
    for package in metadata::packages()?.iter().filter(|package| package.published) {
        // clippy and not check: what is dead code without a feature should be seen too.
        let clippy = |selection: &[&str]| {
            Run::new("cargo")
                .args(["clippy", "--locked", "--quiet", "-p", &package.name])
                .args(selection)
                .args(["--", "-D", "warnings"])
                .check()
        };
        clippy(&["--no-default-features"])?;
        for feature in package.features.iter().filter(|feature| *feature != "default") {
            clippy(&["--no-default-features", "--features", feature])?;
        }
        if !package.features.is_empty() {
            clippy(&[])?;
            clippy(&["--all-features"])?;
        }
    }
    Ok(Outcome::Passed)
}

fn oldest() -> Result<Outcome> {
    let packages = metadata::packages()?;
    let version = packages.iter().map(|package| package.rust_version.as_str()).next().unwrap_or_default().to_owned();
    if let Some(odd) = packages.iter().find(|package| package.rust_version != version) {
        return Err(format!("{} says rust-version {:?}, the others {version:?}", odd.name, odd.rust_version));
    }
    if let Err(error) = tools::toolchain(&version) {
        return if in_ci() { Err(error) } else { Ok(Outcome::Nothing(error)) };
    }
    // A directory of its own: another compiler would throw away what this one built. No C: `clippy` and `unit` compiled that.
    let host = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let check = Run::new("cargo")
        .arg(format!("+{version}"))
        .args(["check", "--workspace", "--all-features", "--locked", "--quiet", "--target-dir"])
        .arg(metadata::target().join("oldest"));
    NoC::new()?.stand_in(check, &host).check()?;
    Ok(Outcome::Passed)
}
