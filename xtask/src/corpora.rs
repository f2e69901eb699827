//! Archives that nobody here wrote, for the tests of what unpacks them: fetched from the field's packages, never kept in the tree.
//!
//! Those that come with a Debian package which [`tools`](crate::tools) installs lie where that package puts them. The others are
//! brought here, into `target/fixtures/corpora`: archives that crates.io, npm and Debian hand out, each by its own client.

use crate::process::{Run, copy, remove, write};
use crate::{Result, metadata, tiers};
use std::path::{Path, PathBuf};

/// Changing these brings everything anew, and may change docs/tar-readers.md.
const CRATE: (&str, &str) = ("astral-tokio-tar", "0.7.0");
const NPM: &[&str] = &["left-pad@1.3.0", "semver@7.5.4", "express@4.18.2", "typescript-tuple@2.2.1"];
const DEBIAN: &[&str] = &["base-files", "passwd", "tzdata", "sudo", "hello"];

/// Every so-many-eth package of Cargo.lock gives its archive.
const EACH: usize = 9;

fn directory() -> PathBuf {
    tiers::fixtures().join("corpora")
}

/// Brings what is missing. What can't be had is said, and the tests that want it are skipped and counted.
pub(crate) fn fetch() {
    if let Err(error) = bring() {
        println!("   archives for tests can't be had: {error}");
    }
}

fn bring() -> Result {
    let directory = directory();
    let complete = directory.join("complete");
    let stamp = format!("{CRATE:?} {NPM:?} {DEBIAN:?} {EACH}\n{}", locked()?.join("\n"));
    if std::fs::read_to_string(&complete).is_ok_and(|found| found == stamp) {
        return Ok(());
    }
    remove(&directory)?;
    let made = directory.join("made");
    write(&made.join("Cargo.toml"), project())?;
    write(&made.join("lib.rs"), "")?;
    Run::new("cargo").args(["fetch", "--quiet"]).dir(&made).check()?;
    Run::new("cargo").args(["fetch", "--locked", "--quiet"]).dir(metadata::root()).check()?;
    let caches = caches();
    let archive = |name: &str| caches.iter().map(|cache| cache.join(name)).find(|path| path.is_file());
    let (name, version) = CRATE;
    let package = archive(&format!("{name}-{version}.crate")).ok_or("cargo fetched no archive")?;
    Run::new("tar")
        .args(["--strip-components=3", "-xzf"])
        .arg(package)
        .arg("-C")
        .arg(made_directory(&directory.join(name))?)
        .arg(format!("{name}-{version}/tests/archives"))
        .check()?;
    for name in locked()? {
        if let Some(package) = archive(&name) {
            copy(&package, &directory.join("crates.io").join(&name))?;
        }
    }
    let npm = made_directory(&directory.join("npm"))?;
    Run::new("npm").args(["pack", "--silent"]).args(NPM).dir(npm).quiet().output()?;
    let debian = made_directory(&directory.join("debian"))?;
    Run::new("apt-get").args(["download", "-q", "-o", "APT::Sandbox::User=root"]).args(DEBIAN).dir(&debian).quiet().output()?;
    for package in files(&debian) {
        let name = package.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // The version is no part of the name: it changes with every update of the distribution.
        let name = name.split('_').next().unwrap_or_default();
        let archive = std::fs::File::create(debian.join(format!("{name}.tar"))).map_err(|error| format!("{name}: {error}"))?;
        let made = std::process::Command::new("dpkg-deb").arg("--fsys-tarfile").arg(&package).stdout(archive).status();
        if !made.is_ok_and(|status| status.success()) {
            return Err(format!("dpkg-deb can't read {}", package.display()));
        }
        remove_file(&package)?;
    }
    write(&complete, stamp)
}

/// A project that depends on the crate alone: cargo fetches for projects.
fn project() -> String {
    let (name, version) = CRATE;
    format!(
        "[package]\nname = \"corpora\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lib]\npath = \"lib.rs\"\n\n[workspace]\n\n\
         [dependencies]\n{name} = \"={version}\"\n"
    )
}

/// The names of the archives of some packages that Cargo.lock has, in order.
fn locked() -> Result<Vec<String>> {
    let path = metadata::root().join("Cargo.lock");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("can't read {}: {error}", path.display()))?;
    let mut names = Vec::new();
    for package in text.split("[[package]]").filter(|package| package.contains("source = ")) {
        let value = |key: &str| {
            let line = package.lines().find(|line| line.starts_with(key))?;
            line.split('"').nth(1).map(str::to_owned)
        };
        if let (Some(name), Some(version)) = (value("name = "), value("version = ")) {
            names.push(format!("{name}-{version}.crate"));
        }
    }
    names.sort();
    Ok(names.into_iter().step_by(EACH).collect())
}

/// Where cargo keeps the archives of crates.io.
fn caches() -> Vec<PathBuf> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"))).unwrap_or_default();
    files(&home.join("registry/cache"))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

fn made_directory(path: &Path) -> Result<PathBuf> {
    std::fs::create_dir_all(path).map_err(|error| format!("can't make {}: {error}", path.display()))?;
    Ok(path.to_owned())
}

fn remove_file(path: &Path) -> Result {
    std::fs::remove_file(path).map_err(|error| format!("can't remove {}: {error}", path.display()))
}
