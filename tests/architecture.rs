//! The invariants of ARCHITECTURE.md, held: who may use whom, and what stands nowhere.
//!
//! It reads this repository: `cargo metadata`, `cargo tree` for each package resolved alone, and the sources. A rule that is in
//! the way may be wrong; then change it here, in the design and in the code together, and say why in `docs/why/`.

use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Package, and which packages of ours it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("coracle-spawn", &[]),
    ("coracle-cgroups", &[]),
    ("coracle-netns", &[]),
    ("coracle-image", &[]),
    ("coracle-layers", &["coracle-image"]),
    // The only one that joins the others.
    ("coracle-container", &["coracle-cgroups", "coracle-image", "coracle-layers", "coracle-netns", "coracle-spawn"]),
    ("coracle-cli", &["coracle-container"]),
    ("coracle", &["coracle-cgroups", "coracle-container", "coracle-image", "coracle-layers", "coracle-netns", "coracle-spawn"]),
];

/// What talks to the network or runs futures: only behind `image`'s feature `registry`, and in `container`.
const ASYNC_AND_NETWORK: &[&str] = &["tokio", "hyper", "reqwest", "rustls", "ring", "http-body", "toml"];

/// Package resolved alone without default features, and what must be nowhere below it.
const NEVER_BELOW: &[(&str, &[&str])] = &[
    ("coracle-spawn", ASYNC_AND_NETWORK),
    ("coracle-spawn", &["oci-spec", "serde_json", "serde", "flate2", "zstd"]),
    ("coracle-cgroups", ASYNC_AND_NETWORK),
    ("coracle-cgroups", &["oci-spec"]),
    ("coracle-netns", ASYNC_AND_NETWORK),
    ("coracle-netns", &["oci-spec", "rtnetlink"]),
    ("coracle-layers", ASYNC_AND_NETWORK),
    ("coracle-image", ASYNC_AND_NETWORK),
];

/// Decided against, everywhere: unmaintained, of a licence that our users can't take, C where Rust will do, or forking.
const NEVER: &[&str] = &[
    "tokio-tar",
    "libseccomp",
    "libseccomp-sys",
    "rustables",
    "birdcage",
    "bincode",
    "libcontainer",
    "openssl",
    "openssl-sys",
    "native-tls",
    "aws-lc-sys",
    // What it did stands in image/registry (docs/why/registry-client.md).
    "oci-client",
    "rtnetlink",
    "landlock",
];

/// Names that say nothing: a module is named after the noun in it.
const NO_NAMES: &[&str] = &["utils", "util", "common", "helpers", "helper", "types", "core", "misc"];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().expect("cargo, which built this test, runs");
    assert!(output.status.success(), "cargo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo speaks UTF-8")
}

/// The packages of the workspace that are published.
fn packages() -> Vec<Value> {
    let metadata: Value = serde_json::from_str(&cargo(&["metadata", "--format-version=1", "--no-deps"])).expect("cargo speaks JSON");
    let packages = metadata["packages"].as_array().expect("there are packages").clone();
    packages.into_iter().filter(|package| package["publish"].is_null()).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn directory(package: &Value) -> PathBuf {
    Path::new(text(&package["manifest_path"])).parent().expect("a manifest lies somewhere").to_owned()
}

/// Packages below one that is resolved alone.
fn below(package: &str, features: &[&str]) -> BTreeSet<String> {
    let mut arguments = vec!["tree", "--locked", "-p", package, "-e", "normal", "--prefix", "none", "--format", "{p}"];
    arguments.extend(features);
    cargo(&arguments).lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Every file of Rust in the repository.
fn sources() -> Vec<PathBuf> {
    fn gather(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).expect("the repository can be read") {
            let path = entry.expect("the repository can be read").path();
            let name = path.file_name().expect("an entry has a name").to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    gather(&path, found);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    gather(root(), &mut found);
    found.sort();
    assert!(found.len() > 20, "the sources weren't found");
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The lines of a file that are code, without comments, and with strings emptied; before `#[cfg(test)] mod`, if `shipped`.
fn code(source: &str, shipped: bool) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut raw_string: Option<String> = None;
    let all: Vec<&str> = source.lines().collect();
    for (index, line) in all.iter().enumerate() {
        if let Some(end) = &raw_string {
            if line.contains(end.as_str()) {
                raw_string = None;
            }
            continue;
        }
        let starts_tests = line.trim() == "#[cfg(test)]"
            && all[index + 1..].iter().find(|next| !next.trim().starts_with("#[")).is_some_and(|next| {
                let next = next.trim();
                (next.starts_with("mod ") || next.starts_with("pub(crate) mod ")) && next.ends_with('{')
            });
        if shipped && starts_tests {
            break;
        }
        let mut kept = String::new();
        let mut characters = line.char_indices().peekable();
        let mut in_string = false;
        while let Some((at, character)) = characters.next() {
            let rest = &line[at..];
            if in_string {
                match character {
                    '\\' => drop(characters.next()),
                    '"' => in_string = false,
                    _ => {}
                }
            } else if rest.starts_with("//") {
                break;
            } else if rest.starts_with("r#\"") || rest.starts_with("r\"") {
                let end = if rest.starts_with("r#") { "\"#" } else { "\"" };
                let inside = &rest[end.len() + 1..];
                match inside.find(end) {
                    // The string ends on this line: the rest of the line is rarely code worth looking at.
                    Some(_) => {}
                    None => raw_string = Some(end.to_owned()),
                }
                break;
            } else if rest.starts_with("'\"'") {
                characters.nth(1);
            } else if character == '"' {
                in_string = true;
            } else {
                kept.push(character);
            }
        }
        lines.push((index + 1, kept));
    }
    lines
}

/// Whether a word stands in a line by itself.
fn has_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let boundary = |character: Option<char>| !character.is_some_and(|c| c.is_alphanumeric() || c == '_');
        boundary(line[..at].chars().next_back()) && boundary(line[at + word.len()..].chars().next())
    })
}

#[track_caller]
fn nothing_wrong(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n  {}\n", wrong.join("\n  "));
}

#[test]
fn each_package_uses_only_the_parts_it_may() {
    let packages = packages();
    let mut wrong = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        let Some((_, may)) = MAY_USE.iter().find(|row| row.0 == name) else {
            wrong.push(format!("{name} isn't in the table MAY_USE"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = text(&dependency["name"]);
            if other.starts_with("coracle") && dependency["kind"] != "dev" && !may.contains(&other) {
                wrong.push(format!("{name} uses {other}"));
            }
        }
    }
    assert_eq!(packages.len(), MAY_USE.len(), "a package in the table is gone");
    nothing_wrong(&wrong);
}

#[test]
fn nothing_forbidden_is_below_a_package_resolved_alone() {
    let mut wrong = Vec::new();
    for (package, forbidden) in NEVER_BELOW {
        let below = below(package, &["--no-default-features"]);
        assert!(below.contains(*package), "cargo tree named nothing below {package}");
        wrong.extend(forbidden.iter().filter(|name| below.contains(**name)).map(|name| format!("{name} is below {package}")));
    }
    for package in packages() {
        let name = text(&package["name"]).to_owned();
        let below = below(&name, &["--all-features"]);
        wrong.extend(NEVER.iter().filter(|other| below.contains(**other)).map(|other| format!("{other} is below {name}")));
    }
    nothing_wrong(&wrong);
}

#[test]
fn layers_use_image_without_its_registry() {
    let below = below("coracle-layers", &["--all-features"]);
    let wrong: Vec<String> =
        ASYNC_AND_NETWORK.iter().filter(|name| below.contains(**name)).map(|name| format!("{name} is below layers")).collect();
    nothing_wrong(&wrong);
}

#[test]
fn all_packages_share_one_version_and_pin_each_other() {
    let packages = packages();
    let version = text(&packages[0]["version"]).to_owned();
    let mut wrong = Vec::new();
    for package in &packages {
        let name = text(&package["name"]);
        for (field, expected) in [("version", version.as_str()), ("license", "MIT OR Apache-2.0"), ("edition", "2024")] {
            if package[field] != expected {
                wrong.push(format!("{name} has {field} {}", package[field]));
            }
        }
        for field in ["rust_version", "description", "repository", "readme"] {
            if package[field].is_null() {
                wrong.push(format!("{name} states no {field}"));
            }
        }
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = text(&dependency["name"]);
            let development = dependency["kind"] == "dev";
            if other.starts_with("coracle") && !development && dependency["req"] != format!("={version}") {
                wrong.push(format!("{name} wants {other} {}, and not ={version}", dependency["req"]));
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_package_holds_its_licences_and_says_what_it_does_not_do() {
    let mut wrong = Vec::new();
    for package in packages() {
        let directory = directory(&package);
        for file in ["LICENSE-MIT", "LICENSE-APACHE"] {
            if std::fs::read(directory.join(file)).ok() != std::fs::read(root().join(file)).ok() {
                wrong.push(format!("{}/{file} isn't the text of the repository", shown(&directory)));
            }
        }
        if !directory.join("README.md").is_file() {
            wrong.push(format!("{} has no README.md", shown(&directory)));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn unsafe_stands_in_the_supervisor_and_nowhere_else() {
    let mut wrong = Vec::new();
    for file in sources() {
        if file.starts_with(root().join("crates/spawn/supervisor")) {
            continue;
        }
        let source = std::fs::read_to_string(&file).expect("a source is text");
        for (number, line) in code(&source, false) {
            if has_word(&line, "unsafe") {
                wrong.push(format!("{}:{number}: {}", shown(&file), line.trim()));
            }
        }
    }
    for package in packages() {
        for target in package["targets"].as_array().into_iter().flatten() {
            let kinds: Vec<&str> = target["kind"].as_array().into_iter().flatten().map(text).collect();
            if !kinds.iter().any(|kind| ["lib", "bin"].contains(kind)) {
                continue;
            }
            let file = PathBuf::from(text(&target["src_path"]));
            let source = std::fs::read_to_string(&file).expect("a source is text");
            if !code(&source, true).iter().any(|(_, line)| line.trim() == "#![forbid(unsafe_code)]") {
                wrong.push(format!("{} doesn't say #![forbid(unsafe_code)]", shown(&file)));
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn every_file_begins_by_saying_what_it_is() {
    let mut wrong = Vec::new();
    for file in sources() {
        let source = std::fs::read_to_string(&file).expect("a source is text");
        if !source.starts_with("//! ") {
            wrong.push(format!("{} doesn't begin with `//! `", shown(&file)));
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn no_module_is_a_drawer() {
    let mut wrong = Vec::new();
    for file in sources() {
        for part in file.strip_prefix(root()).expect("sources lie in the repository").components() {
            let part = part.as_os_str().to_string_lossy();
            if NO_NAMES.contains(&part.trim_end_matches(".rs")) {
                wrong.push(format!("{}: what is in it?", shown(&file)));
            }
        }
        let source = std::fs::read_to_string(&file).expect("a source is text");
        for (number, line) in code(&source, false) {
            let line = line.trim();
            if NO_NAMES.iter().any(|name| line.ends_with('{') && line.ends_with(&format!("mod {name} {{"))) {
                wrong.push(format!("{}:{number}: {line}", shown(&file)));
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn libraries_print_nothing() {
    let mut wrong = Vec::new();
    for file in sources() {
        let path = shown(&file);
        let library = path.starts_with("src/") || (path.starts_with("crates/") && path.contains("/src/"));
        // A module of tests in a file of its own is declared by `#[cfg(test)] mod name;`.
        let tests = file.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests")) || path.contains("/tests/");
        if !library || tests || path.starts_with("crates/cli/") {
            continue;
        }
        let source = std::fs::read_to_string(&file).expect("a source is text");
        // One line, whose file says why: while a panic drops a container, its log is shown where the test runner catches it.
        let mut may = usize::from(path == "crates/container/src/last_words.rs");
        for (number, line) in code(&source, true) {
            if line.contains("eprint!(") && may > 0 {
                may -= 1;
                continue;
            }
            if ["print!", "println!", "eprint!", "eprintln!", "dbg!"].iter().any(|word| {
                line.match_indices(word).any(|(at, _)| !line[..at].chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_'))
            }) {
                wrong.push(format!("{path}:{number}: {}", line.trim()));
            }
        }
    }
    nothing_wrong(&wrong);
}

#[test]
fn the_owner_never_forks_and_changes_nothing_global() {
    // No fork in the owner: each of these makes std fork, or is a process-global effect (see docs/why/).
    let forbidden = [".pre_exec(", ".uid(", ".gid(", ".groups(", "set_current_dir(", "set_var(", "remove_var("];
    let mut wrong = Vec::new();
    for file in sources() {
        let path = shown(&file);
        if !(path.starts_with("crates/") && path.contains("/src/")) || path.starts_with("crates/cli/") {
            continue;
        }
        let source = std::fs::read_to_string(&file).expect("a source is text");
        let spawns = source.contains("std::process::Command") || source.contains("process::{");
        for (number, line) in code(&source, true) {
            let bad = forbidden.iter().find(|call| line.contains(**call));
            // `.uid(` and the like are also getters of metadata: only files that start processes are looked at for those.
            if let Some(call) = bad.filter(|call| spawns || !call.starts_with('.')) {
                wrong.push(format!("{path}:{number}: {call} in the owner: {}", line.trim()));
            }
        }
    }
    nothing_wrong(&wrong);
}

/// docs/escapes.md names each escape of the field and its test, and each test with a number is listed there.
#[test]
fn each_escape_of_the_field_has_its_test() {
    let page = std::fs::read_to_string(root().join("docs/escapes.md")).expect("the page is there");
    let sources: String = sources().iter().filter_map(|path| std::fs::read_to_string(path).ok()).collect();
    let there: BTreeSet<&str> = sources
        .split("fn cve_")
        .skip(1)
        .filter_map(|rest| rest.split('(').next())
        .filter(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        .collect();
    let (mut wrong, mut listed) = (Vec::new(), BTreeSet::new());
    for row in page.lines().filter(|line| line.starts_with("| CVE-")) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let name = cells[3].trim_matches('`').trim_start_matches("cve_");
        listed.insert(name);
        if !there.contains(name) {
            wrong.push(format!("docs/escapes.md: there is no test cve_{name}"));
        }
        for number in cells[1].split(", ") {
            let word = number.trim_start_matches("CVE-").replace('-', "_");
            if !name.contains(&word) {
                wrong.push(format!("docs/escapes.md: {number} isn't in its test's name"));
            }
        }
    }
    assert!(listed.len() > 30, "the page wasn't read");
    wrong.extend(there.difference(&listed).map(|name| format!("docs/escapes.md doesn't list cve_{name}")));
    nothing_wrong(&wrong);
}

#[test]
fn the_scanner_sees_code_and_nothing_else() {
    let source = "//! unsafe\nlet a = \"unsafe\"; // unsafe\nunsafe { b() }\nlet c = r#\"\nunsafe\n\"#;\nlet q = '\"'; unsafe_name();\n#[cfg(test)]\nmod tests {\n    unsafe {}\n}\n";
    let lines = |shipped| -> Vec<usize> {
        code(source, shipped).into_iter().filter(|(_, line)| has_word(line, "unsafe")).map(|(number, _)| number).collect()
    };
    assert_eq!(lines(true), [3]);
    assert_eq!(lines(false), [3, 10]);
}
