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

Usage: cargo xtask soak [--fuzz SECONDS] [--only-fuzz] [TEST...]

  --fuzz SECONDS   give each fuzz target this long (1800); with 0, don't fuzz
  --only-fuzz      run no test
  TEST             run only the long tests whose name contains this, and don't fuzz
";

pub(crate) fn main(arguments: &[String]) -> Result {
    if wants_help(arguments) {
        print!("{HELP}");
        return Ok(());
    }
    let (mut seconds, mut only_fuzz) = (1800, false);
    let mut filters = Vec::new();
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        if word == "--fuzz" {
            seconds = words.next().and_then(|number| number.parse().ok()).ok_or("--fuzz wants a number of seconds")?;
        } else if word == "--only-fuzz" {
            only_fuzz = true;
        } else if word.starts_with('-') {
            return Err(format!("there is no flag `{word}`\n\n{HELP}"));
        } else {
            filters.push(word.clone());
        }
    }
    let (start, tier) = (Instant::now(), own_tier());
    let (mut report, mut lines) = (Report::default(), Vec::new());
    if !only_fuzz {
        let text = long_tests(&filters, &mut report)?;
        lines.extend(text.lines().filter_map(|line| line.strip_prefix("RESULT: ")).map(str::to_owned));
    }
    if filters.is_empty() && seconds > 0 {
        for result in fuzz::run_all(seconds)? {
            match result {
                Ok(line) => lines.push(line),
                Err(error) => {
                    println!("   {error}");
                    report.failed.push(error.lines().next().unwrap_or_default().to_owned());
                }
            }
        }
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
    for line in &lines {
        page.push_str(&format!("- {line}\n"));
    }
    for failure in &report.failed {
        page.push_str(&format!("- failed: {failure}\n"));
    }
    // Several runs of a day stand beside each other.
    let name = |number: u32| if number == 1 { format!("soak-{date}.md") } else { format!("soak-{date}-{number}.md") };
    let results = metadata::root().join("tests/results");
    let path = (1..).map(|number| results.join(name(number))).find(|path| !path.exists()).ok_or("there is no name left")?;
    write(&path, page)?;
    println!("written: {}", path.display());
    if report.failed.is_empty() { Ok(()) } else { Err(format!("{} long tests failed", report.failed.len())) }
}

/// Runs the long tests; what they said.
fn long_tests(filters: &[String], report: &mut Report) -> Result<String> {
    tools::install();
    corpora::fetch();
    tiers::adopt_orphans();
    let program = binaries::program()?;
    let binaries = binaries::build()?;
    let binary = binaries.iter().find(|binary| binary.is_tiered()).ok_or("tests/coracle.rs wasn't built")?;
    let tier = own_tier();
    let logged = Run::new(&binary.path)
        .args(["--ignored", "--show-output", "--test-threads=1"])
        .args(filters)
        .env("CORACLE_TIER", tier.word())
        .env("CORACLE_PROGRAM", program)
        .env("CORACLE_FIXTURES", tiers::fixtures())
        .env("CORACLE_REPOSITORY", metadata::root())
        .limit(Duration::from_secs(4 * 3600))
        .logged(&binaries::log("soak", tier))?;
    report.absorb(binaries::conclude("soak", tier, &logged.text, logged.success, &logged.ending));
    Ok(logged.text)
}
