//! `cargo xtask soak`: the tests that take too long for every change, with a dated result for the tree.
//!
//! A long test is one of `tests/` marked `#[ignore = "soak: what it is"]`. It may print lines that begin with `RESULT: `; they
//! are what is worth keeping.

use crate::process::{Run, write};
use crate::report::Report;
use crate::test::own_tier;
use crate::{Result, binaries, corpora, fuzz, metadata, tiers, tools, wants_help};
use std::time::{Duration, Instant};

const HELP: &str = "\
Runs the long tests and writes a dated page into tests/results/.

Usage: cargo xtask soak [--fuzz SECONDS] [TEST...]

  --fuzz SECONDS   give each fuzz target this long (600)
  TEST             run only the long tests whose name contains this, and don't fuzz
";

pub(crate) fn main(arguments: &[String]) -> Result {
    if wants_help(arguments) {
        print!("{HELP}");
        return Ok(());
    }
    let mut seconds = 600;
    let mut filters = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--fuzz" {
            seconds = words.next().and_then(|number| number.parse().ok()).ok_or("--fuzz wants a number of seconds")?;
        } else {
            filters.push(word.clone());
        }
    }
    tools::install();
    corpora::fetch();
    tiers::adopt_orphans();
    let program = binaries::program()?;
    let binaries = binaries::build()?;
    let binary = binaries.iter().find(|binary| binary.is_tiered()).ok_or("tests/coracle.rs wasn't built")?;
    let tier = own_tier();
    let start = Instant::now();
    let logged = Run::new(&binary.path)
        .args(["--ignored", "--show-output", "--test-threads=1"])
        .args(&filters)
        .env("CORACLE_TIER", tier.word())
        .env("CORACLE_PROGRAM", program)
        .env("CORACLE_FIXTURES", tiers::fixtures())
        .env("CORACLE_REPOSITORY", metadata::root())
        .limit(Duration::from_secs(4 * 3600))
        .logged(&binaries::log("soak", tier))?;
    let mut report: Report = binaries::conclude("soak", tier, &logged.text, logged.success, &logged.ending);
    if filters.is_empty()
        && let Err(error) = fuzz::run_all(seconds)
    {
        println!("   {error}");
        report.failed.push(String::from("fuzz"));
    }
    let word = |program: &str, argument: &str| Run::new(program).arg(argument).quiet().output().unwrap_or_default().trim().to_owned();
    let date = word("date", "+%F");
    let mut page = format!(
        "# Soak, {date}\n\nLinux {}, {} cores, as {}; {:.0} s. {}.\n\n",
        word("uname", "-r"),
        std::thread::available_parallelism().map_or(0, usize::from),
        tier.word(),
        start.elapsed().as_secs_f64(),
        report.line()
    );
    for line in logged.text.lines().filter_map(|line| line.strip_prefix("RESULT: ")) {
        page.push_str(&format!("- {line}\n"));
    }
    for failure in &report.failed {
        page.push_str(&format!("- failed: {failure}\n"));
    }
    let path = metadata::root().join("tests/results").join(format!("soak-{date}.md"));
    write(&path, page)?;
    println!("written: {}", path.display());
    if report.failed.is_empty() { Ok(()) } else { Err(format!("{} long tests failed", report.failed.len())) }
}
