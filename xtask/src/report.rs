//! Reads what test programs print: how many passed, which failed, and which were skipped for want of what.
//!
//! A test that can't run prints `SKIP: <need>` (and, if it likes, `: <more>`) and returns; libtest calls that a pass. With
//! `--show-output` the line stands below `---- name stdout ----`, so that the skip finds its test.

use crate::needs::{Need, Tier};
use std::collections::{BTreeMap, BTreeSet};

/// What one run of one or more test programs came to.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) passed: usize,
    /// Names of the tests that passed and were not skipped.
    pub(crate) ran: BTreeSet<String>,
    /// Names, or sentences where what failed was no test.
    pub(crate) failed: Vec<String>,
    pub(crate) skipped: Vec<Skip>,
}

/// A test that didn't run.
pub(crate) struct Skip {
    pub(crate) test: String,
    /// As printed.
    pub(crate) need: String,
    pub(crate) tier: Tier,
}

impl Skip {
    /// Why this skip is a failure in CI, or nothing where no run of ours serves its need.
    pub(crate) fn is_a_hole(&self) -> Option<String> {
        let Skip { test, need, tier } = self;
        match Need::named(need) {
            None => Some(format!("{test} was skipped for want of `{need}`, a need that tests/support/needs.rs doesn't know")),
            Some(known) if known.served_by(*tier) => {
                Some(format!("{test} was skipped for want of `{need}`, which a run as {} serves", tier.word()))
            }
            Some(_) => None,
        }
    }
}

impl Report {
    pub(crate) fn absorb(&mut self, other: Self) {
        self.passed += other.passed;
        self.ran.extend(other.ran);
        self.failed.extend(other.failed);
        self.skipped.extend(other.skipped);
    }

    /// Forgets the skips of tests that ran elsewhere: as another user, or in the virtual machine.
    pub(crate) fn keep_what_ran_nowhere(&mut self) {
        let Self { ran, skipped, .. } = self;
        skipped.retain(|skip| !ran.contains(&skip.test));
        let mut seen = BTreeSet::new();
        skipped.retain(|skip| seen.insert(skip.test.clone()));
    }

    /// One line: "12 passed, 1 failed, 2 skipped (root 2)".
    pub(crate) fn line(&self) -> String {
        let mut needs = BTreeMap::new();
        for skip in &self.skipped {
            *needs.entry(skip.need.as_str()).or_insert(0_usize) += 1;
        }
        let needs: Vec<String> = needs.iter().map(|(need, count)| format!("{need} {count}")).collect();
        let needs = if needs.is_empty() { String::new() } else { format!(" ({})", needs.join(", ")) };
        format!("{} passed, {} failed, {} skipped{needs}", self.passed, self.failed.len(), self.skipped.len())
    }

    /// Reads the output of a test program.
    ///
    /// `program` stands before each test's name. A program that ended badly without a failed test, or without any word of
    /// libtest's, is itself a failure: it crashed, or it never ran.
    pub(crate) fn read(program: &str, tier: Tier, text: &str, success: bool, ending: &str) -> Self {
        let mut report = Self::default();
        let mut section = String::new();
        let mut concluded = false;
        let mut skips: BTreeMap<String, String> = BTreeMap::new();
        let mut skipping_section = true;
        for line in text.lines() {
            let line = line.trim_end_matches('\r');
            if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
                section = name.to_owned();
            } else if line == "successes:" || line == "failures:" {
                section.clear();
                // A failed test's SKIP lines don't make it a skip.
                skipping_section = line == "successes:";
            } else if let Some(skip) = line.strip_prefix("SKIP: ") {
                let need = skip.split(':').next().unwrap_or(skip).trim().to_owned();
                if skipping_section {
                    let test = if section.is_empty() { String::from("?") } else { section.clone() };
                    skips.entry(test).or_insert(need);
                }
            } else if let Some(result) = line.strip_prefix("test result: ") {
                concluded = true;
                report.passed += count(result, " passed");
            } else if let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) {
                let name = name.trim_end_matches(" - should panic");
                if result == "ok" {
                    report.ran.insert(format!("{program}: {name}"));
                } else if result == "FAILED" {
                    report.failed.push(format!("{program} as {}: {name}", tier.word()));
                } else if let Some(reason) = result.strip_prefix("ignored") {
                    let reason = reason.trim_start_matches(", ").to_owned();
                    // Long tests belong to `cargo xtask soak`, and snippets in the docs may be marked as not for running.
                    if !reason.starts_with("soak") && !name.contains(" - ") {
                        let need = if reason.is_empty() { String::from("ignored") } else { reason };
                        report.skipped.push(Skip { test: format!("{program}: {name}"), need, tier });
                    }
                }
            }
        }
        for (test, need) in skips {
            // It was counted as passed.
            report.passed = report.passed.saturating_sub(1);
            report.ran.remove(&format!("{program}: {test}"));
            report.skipped.push(Skip { test: format!("{program}: {test}"), need, tier });
        }
        if !success && report.failed.is_empty() {
            report.failed.push(format!("{program}: {ending}, though no test of it failed"));
        } else if success && !concluded {
            report.failed.push(format!("{program}: ended well without `test result:`"));
        }
        report
    }
}

fn count(result: &str, what: &str) -> usize {
    result
        .split([';', '.'])
        .find_map(|part| part.trim().strip_suffix(what.trim_start()))
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 5 tests
test a::walks ... ok
test a::swims ... ok
test a::flies ... FAILED
test slow ... ignored, soak: an hour
test odd ... ignored

successes:

---- a::swims stdout ----
SKIP: root: a::swims
SKIP: registry

successes:
    a::swims
    a::walks

failures:

---- a::flies stdout ----
SKIP: wings
panicked

test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; finished in 0.00s
";

    #[test]
    fn a_skip_is_neither_a_pass_nor_counted_twice() {
        let report = Report::read("p", Tier::User, OUTPUT, false, "exit status: 101");
        assert_eq!(report.passed, 1);
        assert_eq!(report.failed, ["p as user: a::flies"]);
        assert!(report.ran.iter().eq(["p: a::walks"]));
        let skipped: Vec<_> = report.skipped.iter().map(|skip| (skip.test.as_str(), skip.need.as_str())).collect();
        assert_eq!(skipped, [("p: odd", "ignored"), ("p: a::swims", "root")]);
        assert_eq!(report.line(), "1 passed, 1 failed, 2 skipped (ignored 1, root 1)");
    }

    #[test]
    fn a_skip_is_a_hole_only_where_the_run_serves_its_need() {
        let skip = |need: &str, tier| Skip { test: String::from("t"), need: need.to_owned(), tier };
        assert!(skip("root", Tier::User).is_a_hole().is_none());
        assert!(skip("root", Tier::Root).is_a_hole().is_some_and(|why| why.contains("a run as root serves")));
        assert!(skip("needs cgroup v2", Tier::VmRoot).is_a_hole().is_some());
        assert!(skip("a moon", Tier::Root).is_a_hole().is_some_and(|why| why.contains("doesn't know")));
    }

    #[test]
    fn a_test_that_ran_for_another_user_was_not_skipped() {
        let as_user = "test a ... ok\n---- a stdout ----\nSKIP: root\ntest result: ok. 1 passed; 0 failed\n";
        let as_root = "test a ... ok\ntest result: ok. 1 passed; 0 failed\n";
        let mut report = Report::read("p", Tier::User, as_user, true, "");
        assert_eq!(report.skipped.len(), 1);
        report.absorb(Report::read("p", Tier::Root, as_root, true, ""));
        report.keep_what_ran_nowhere();
        assert_eq!((report.passed, report.skipped.len()), (1, 0));
    }

    #[test]
    fn a_program_that_dies_or_says_nothing_is_a_failure() {
        let died = Report::read("p", Tier::Root, "running 1 test\n", false, "signal: 11");
        assert_eq!(died.failed, ["p: signal: 11, though no test of it failed"]);
        let silent = Report::read("p", Tier::Root, "", true, "exit status: 0");
        assert_eq!(silent.failed.len(), 1);
    }
}
