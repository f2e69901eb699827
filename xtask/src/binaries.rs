//! Builds every test program of the workspace once, and knows where cargo put them.

use crate::needs::Tier;
use crate::process::Run;
use crate::report::Report;
use crate::{Result, metadata};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A hanging test fails after this long.
pub(crate) const LIMIT: Duration = Duration::from_secs(600);

/// A test program.
pub(crate) struct Binary {
    pub(crate) package: String,
    /// The target's name: a library's, a file of `tests/`, a program's.
    pub(crate) target: String,
    pub(crate) path: PathBuf,
    /// Where it expects to be started: its package's directory.
    directory: PathBuf,
    /// The file its crate begins with: the root package's library and the binary of `tests/` have the same name.
    source: PathBuf,
}

impl Binary {
    /// "coracle-layers/unpack"; for unit tests "coracle-layers".
    pub(crate) fn name(&self) -> String {
        if self.target.replace('_', "-") == self.package { self.package.clone() } else { format!("{}/{}", self.package, self.target) }
    }

    /// Whether it is the binary of `tests/`, which runs by tier.
    pub(crate) fn is_tiered(&self) -> bool {
        self.source == metadata::root().join("tests/coracle.rs")
    }

    /// Whether it is one of a package's `tests/`, and not its unit tests.
    pub(crate) fn is_integration(&self) -> bool {
        self.source.starts_with(self.directory.join("tests"))
    }

    /// Runs it as we are, from its package's directory.
    pub(crate) fn run(&self, tier: Tier) -> Result<Report> {
        let log = log(&self.name(), tier);
        let logged = Run::new(&self.path)
            .arg("--show-output")
            .env("CORACLE_TIER", tier.word())
            .env("CORACLE_CI", "1")
            .dir(&self.directory)
            .limit(LIMIT)
            .quiet()
            .logged(&log)?;
        Ok(conclude(&self.name(), tier, &logged.text, logged.success, &logged.ending))
    }
}

/// Where the output of a test program is kept.
pub(crate) fn log(name: &str, tier: Tier) -> PathBuf {
    metadata::target().join("xtask/logs").join(format!("{}.{}.log", name.replace('/', "-"), tier.word()))
}

/// Reads a test program's output, prints its line, and all of its output where something failed.
pub(crate) fn conclude(name: &str, tier: Tier, text: &str, success: bool, ending: &str) -> Report {
    let report = Report::read(name, tier, text, success, ending);
    println!("   {name} as {}: {}", tier.word(), report.line());
    if !report.failed.is_empty() {
        println!("{}", text.trim_end());
    }
    report
}

/// Builds all test programs with all features, and the program `coracle`, which they start.
pub(crate) fn build() -> Result<Vec<Binary>> {
    program()?;
    let text = Run::new("cargo")
        .args(["test", "--workspace", "--all-features", "--no-run", "--locked"])
        .arg("--message-format=json-render-diagnostics")
        .stderr_to_terminal()
        .output()?;
    let packages = metadata::packages()?;
    let mut binaries = Vec::new();
    for line in text.lines() {
        let Ok(message) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
            continue;
        }
        let Some(path) = message["executable"].as_str() else {
            continue;
        };
        let manifest = PathBuf::from(message["manifest_path"].as_str().unwrap_or_default());
        let directory = manifest.parent().unwrap_or(Path::new("")).to_owned();
        // Examples are built as tests too; they have none and run by themselves.
        if message["target"]["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "example")) {
            continue;
        }
        binaries.push(Binary {
            package: packages.iter().find(|package| package.directory == directory).map(|package| package.name.clone()).unwrap_or_default(),
            target: message["target"]["name"].as_str().unwrap_or_default().to_owned(),
            path: PathBuf::from(path),
            source: PathBuf::from(message["target"]["src_path"].as_str().unwrap_or_default()),
            directory,
        });
    }
    binaries.sort_by_key(Binary::name);
    if binaries.is_empty() {
        return Err(String::from("cargo named no test program"));
    }
    Ok(binaries)
}

/// Builds the program `coracle` with the features that the tests are built with, and says where it is.
pub(crate) fn program() -> Result<PathBuf> {
    // xtask is left out: it is running.
    Run::new("cargo").args(["build", "--workspace", "--exclude", "xtask", "--all-features", "--bins", "--locked", "--quiet"]).check()?;
    let program = metadata::target().join("debug/coracle");
    if program.is_file() { Ok(program) } else { Err(format!("cargo built no {}", program.display())) }
}
