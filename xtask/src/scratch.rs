//! The step `examples`: each example runs in a new project that depends on nothing but its crate.
//!
//! That is what a reader does with an example: copies it into a project, adds the crate, runs it. In the workspace it would
//! run with the features and dependencies of everybody else.

use crate::metadata::{Dependency, Package};
use crate::process::{Outside, Run, copy, write};
use crate::report::Report;
use crate::test::{Outcome, own_tier};
use crate::{Result, binaries, metadata};
use std::path::Path;

pub(crate) fn step() -> Result<Outcome> {
    let outside = Outside::new("scratch")?;
    let mut report = Report::default();
    for package in metadata::packages()? {
        for example in &package.examples {
            let stem = example.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            // Cargo makes one directory of an example of several files; a scratch project of one is enough so far.
            let name = format!("{}-{stem}", package.name);
            match run(outside.path(), &package, example, &name) {
                Ok(()) => report.passed += 1,
                Err(error) => {
                    println!("   {error}");
                    report.failed.push(format!("example {name}"));
                }
            }
        }
    }
    if report.passed + report.failed.len() == 0 {
        return Ok(Outcome::Nothing(String::from("no package has an example yet")));
    }
    Ok(Outcome::Tests(report))
}

fn run(outside: &Path, package: &Package, example: &Path, name: &str) -> Result {
    let project = outside.join(name);
    let mut manifest = format!(
        "[package]\nname = \"scratch-{name}\"\nedition = \"2024\"\npublish = false\n\n[workspace]\n\n[dependencies]\n{} = {{ path = {:?} }}\n",
        package.name, package.directory
    );
    for dependency in &package.dev_dependencies {
        manifest.push_str(&line(dependency));
    }
    // The same profiles, so that dependencies are not compiled again.
    let workspace = std::fs::read_to_string("Cargo.toml").map_err(|error| format!("can't read Cargo.toml: {error}"))?;
    let mut in_profile = false;
    for line in workspace.lines() {
        if line.starts_with('[') {
            in_profile = line.starts_with("[profile.");
        }
        if in_profile {
            manifest.push_str(line);
            manifest.push('\n');
        }
    }
    write(&project.join("Cargo.toml"), manifest)?;
    copy(example, &project.join("src/main.rs"))?;
    copy(Path::new("Cargo.lock"), &project.join("Cargo.lock"))?;
    // Offline: building the workspace has fetched everything.
    let cargo =
        |verb: &str| Run::new("cargo").args([verb, "--offline", "--quiet"]).env("CARGO_TARGET_DIR", metadata::target()).dir(&project);
    cargo("build").check()?;
    // One that wants an image is run by the tests, which make the image: nobody here asks a registry of the world's.
    let text = std::fs::read_to_string(example).map_err(|error| format!("can't read {}: {error}", example.display()))?;
    if text.lines().next().is_some_and(|line| line.contains("OCI-LAYOUT")) {
        return Ok(());
    }
    let log = binaries::log(&format!("example-{name}"), own_tier());
    let program = metadata::target().join("debug").join(format!("scratch-{name}"));
    let logged = Run::new(&program).dir(&project).limit(std::time::Duration::from_secs(120)).logged(&log)?;
    let _ = std::fs::remove_file(&program);
    if logged.success {
        return Ok(());
    }
    Err(format!("example {name}: {}\n{}", logged.ending, logged.text))
}

fn line(dependency: &Dependency) -> String {
    let place = match &dependency.path {
        Some(path) => format!("path = {path:?}"),
        None => format!("version = {:?}", dependency.requirement),
    };
    format!(
        "{} = {{ {place}, default-features = {}, features = {:?} }}\n",
        dependency.name, dependency.default_features, dependency.features
    )
}
