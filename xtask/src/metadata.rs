//! What `cargo metadata` says about this workspace: packages, features, examples, the stated toolchain.

use crate::Result;
use crate::process::Run;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// One package of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) directory: PathBuf,
    pub(crate) features: Vec<String>,
    /// Whether it goes to crates.io.
    pub(crate) published: bool,
    /// Paths of `examples/*.rs`.
    pub(crate) examples: Vec<PathBuf>,
    pub(crate) dev_dependencies: Vec<Dependency>,
    pub(crate) rust_version: String,
}

/// A dependency as its package declares it.
pub(crate) struct Dependency {
    pub(crate) name: String,
    pub(crate) requirement: String,
    pub(crate) features: Vec<String>,
    pub(crate) default_features: bool,
    /// Set where it is a package of this workspace.
    pub(crate) path: Option<PathBuf>,
}

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository")
}

/// Where built files go; cargo's own choice, so that `CARGO_TARGET_DIR` and a `config.toml` are respected.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => root().join(directory),
        None => root().join("target"),
    }
}

/// The packages of the workspace, the root package among them, in alphabetic order.
pub(crate) fn packages() -> Result<Vec<Package>> {
    let text = Run::new("cargo").args(["metadata", "--format-version=1", "--no-deps"]).quiet().output()?;
    let value: Value = serde_json::from_str(&text).map_err(|error| format!("`cargo metadata` speaks no JSON: {error}"))?;
    let mut packages: Vec<Package> = list(&value["packages"]).map(package).collect();
    packages.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(packages)
}

fn package(value: &Value) -> Package {
    let examples = list(&value["targets"])
        .filter(|target| list(&target["kind"]).any(|kind| kind == "example"))
        .map(|target| PathBuf::from(string(&target["src_path"])))
        .collect();
    let dev_dependencies = list(&value["dependencies"])
        .filter(|dependency| dependency["kind"] == "dev")
        .map(|dependency| Dependency {
            name: string(&dependency["name"]),
            requirement: string(&dependency["req"]),
            features: list(&dependency["features"]).map(string).collect(),
            default_features: dependency["uses_default_features"].as_bool().unwrap_or(true),
            path: dependency["path"].as_str().map(PathBuf::from),
        })
        .collect();
    let manifest = PathBuf::from(string(&value["manifest_path"]));
    Package {
        name: string(&value["name"]),
        version: string(&value["version"]),
        directory: manifest.parent().map(Path::to_owned).unwrap_or_default(),
        features: value["features"].as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default(),
        published: !value["publish"].as_array().is_some_and(Vec::is_empty),
        examples,
        dev_dependencies,
        rust_version: string(&value["rust_version"]),
    }
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn string(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
