//! The step `fuzz`: each target of `fuzz/` for a minute, beginning with the corpus that the tree keeps.

use crate::process::{Outside, Run};
use crate::test::Outcome;
use crate::{Result, metadata, tools};
use std::path::Path;
use std::time::Duration;

/// Seconds for each target in CI.
const SECONDS: u32 = 60;

/// Runs all targets; inputs that are new stay in target/fuzz-corpus, where a person picks what is worth keeping.
pub(crate) fn step() -> Result<Outcome> {
    let results = run_all(SECONDS)?;
    let failures: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    if failures.is_empty() { Ok(Outcome::Passed) } else { Err(failures.join("\n")) }
}

/// Runs each target for so many seconds; what came of each is a sentence.
pub(crate) fn run_all(seconds: u32) -> Result<Vec<Result<String>>> {
    let fuzz = metadata::root().join("fuzz");
    tools::cargo_fuzz()?;
    let path = tools::path();
    let targets = Run::new("cargo").args(["+nightly", "fuzz", "list"]).env("PATH", &path).quiet().output()?;
    let targets: Vec<&str> = targets.split_whitespace().collect();
    if targets.is_empty() {
        return Err(String::from("fuzz/ has no targets: give it one, or remove it"));
    }
    Run::new("cargo").args(["+nightly", "fuzz", "build"]).env("PATH", &path).check()?;
    // One core each: two at a time is what the smallest machine has.
    let mut all = Vec::new();
    for pair in targets.chunks(2) {
        let results: Vec<Result<String>> = std::thread::scope(|scope| {
            let running: Vec<_> = pair.iter().map(|target| scope.spawn(|| run_one(&fuzz, target, seconds, &path))).collect();
            running.into_iter().map(|run| run.join().unwrap_or_else(|_| Err(String::from("a fuzz run panicked")))).collect()
        });
        all.extend(results);
    }
    Ok(all)
}

fn run_one(fuzz: &Path, target: &str, seconds: u32, path: &str) -> Result<String> {
    let found = metadata::target().join("fuzz-corpus").join(target);
    std::fs::create_dir_all(&found).map_err(|error| format!("can't make {}: {error}", found.display()))?;
    let mut run = Run::new("cargo").args(["+nightly", "fuzz", "run", target]).arg(&found);
    let kept = fuzz.join("corpus").join(target);
    if kept.is_dir() {
        run = run.arg(kept);
    }
    let log = metadata::target().join("xtask/logs").join(format!("fuzz-{target}.log"));
    // A fuzzer ends without taking anything back.
    let place = Outside::in_memory(&format!("fuzz-{target}"))?;
    let logged = run
        .args(["--", &format!("-max_total_time={seconds}"), "-rss_limit_mb=4096", "-timeout=10", "-print_final_stats=1"])
        .env("PATH", path)
        .env("TMPDIR", place.path().display().to_string())
        .limit(Duration::from_secs(u64::from(seconds) + 300))
        .logged(&log)?;
    if logged.success {
        let executed = logged.text.lines().rev().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
        let sentence = format!("fuzz target {target}: {seconds} s, {} inputs, nothing found", executed.unwrap_or("?").trim());
        println!("   {sentence}");
        return Ok(sentence);
    }
    let tail: Vec<&str> = logged.text.lines().rev().take(60).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(format!("fuzz target {target}: {}; {}\n{}", logged.ending, log.display(), tail.join("\n")))
}
