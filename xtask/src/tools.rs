//! Finds the programs that the tasks and the tests need and, as root on Debian or Ubuntu, installs those that are missing.
//!
//! Nothing here fails only because something is missing: who needs it says so, by an error or by a counted skip.

use crate::process::{Run, find, is_root};
use crate::{Result, corpora, metadata, wants_help};
use std::path::PathBuf;
use std::sync::OnceLock;

/// A program from a Debian package.
struct Tool {
    program: &'static str,
    package: &'static str,
    purpose: &'static str,
}

const fn tool(program: &'static str, package: &'static str, purpose: &'static str) -> Tool {
    Tool { program, package, purpose }
}

const TOOLS: &[Tool] = &[
    tool("cc", "gcc", "links; compiles the C of zstd and ring"),
    tool("busybox", "busybox-static", "the smallest image; user space of the virtual machine"),
    tool("debootstrap", "debootstrap", "the Debian image"),
    tool("docker-registry", "docker-registry", "the registry that tests pull from"),
    tool("skopeo", "skopeo", "fills the registry"),
    tool("newuidmap", "uidmap", "sub-id ranges for plain users"),
    tool("useradd", "passwd", "the plain users that tests run as"),
    tool("setpriv", "util-linux", "runs tests as a plain user"),
    tool("strace", "strace", "watches what the owner's threads do"),
    tool("python3", "python3-minimal", "a program of the field, run under our filters"),
    tool("pg_lsclusters", "postgresql", "the server whose readiness is tested"),
    tool("/usr/include/linux/audit.h", "linux-libc-dev", "the kernel's own tables, to hold ours against"),
    tool("runc", "runc", "an oracle, and a peer of the benchmark"),
    tool("crun", "crun", "a peer of the benchmark"),
    tool("bwrap", "bubblewrap", "an oracle, and a peer of the benchmark"),
    tool("qemu-system-x86_64", "qemu-system-x86", "the virtual machine with cgroup v2"),
    tool("mke2fs", "e2fsprogs", "the disk of the virtual machine"),
    tool("strip", "binutils", "makes the virtual machine's test programs small"),
    tool("podman", "podman", "a peer that unpacks layers, pulls, loads and saves"),
    tool("buildah", "buildah", "a peer that pulls, pushes and archives"),
    tool("dockerd", "docker.io", "a peer that pulls, pushes, loads and saves"),
    tool("openssl", "openssl", "certificates of registries that tests start"),
    tool("umoci", "umoci", "a peer that unpacks layers"),
    tool("go", "golang-go", "an oracle: Go's reader of tar archives, and its test data"),
    tool(TAR_SPLIT, "golang-github-vbatts-tar-split-dev", "tar archives that nobody here wrote"),
    tool("/usr/lib/python3.11/test/testtar.tar", "libpython3.11-testsuite", "tar archives that nobody here wrote"),
    tool("dig", "bind9-dnsutils", "asks what answers names in private networks"),
    tool("bzip2", "bzip2", "one of them is compressed by it"),
];

/// What `cargo xtask bench pull` compares with, and what it needs itself.
const PEERS: &[Tool] = &[
    tool("docker-registry", "docker-registry", "the registry that is pulled from"),
    tool("skopeo", "skopeo", "fills the registry; fetches for umoci"),
    tool("debootstrap", "debootstrap", "the image"),
    tool("mkfs.ext4", "e2fsprogs", "the file system that is measured"),
    tool("ip", "iproute2", "a network namespace's loopback"),
    tool("podman", "podman", "a peer"),
    tool("dockerd", "docker.io", "a peer"),
    tool("/usr/lib/podman/netavark", "netavark", "a peer: the network of podman"),
    tool("containerd", "containerd", "a peer"),
    tool("unpigz", "pigz", "makes containerd faster"),
    tool("umoci", "umoci", "a peer"),
];
const TAR_SPLIT: &str = "/usr/share/gocode/src/github.com/vbatts/tar-split/tar/asm/testdata/t.tar.gz";

const HELP: &str = "\
Looks for the programs that tests and tasks need. As root on Debian or Ubuntu it installs what is missing.

Usage: cargo xtask tools
";

/// The verb `tools`.
pub(crate) fn main(arguments: &[String]) -> Result {
    if wants_help(arguments) {
        print!("{HELP}");
        return Ok(());
    }
    let missing = install();
    components();
    corpora::fetch();
    for tool in TOOLS {
        let place = find(tool.program).map_or(String::from("MISSING"), |path| path.display().to_string());
        println!("{:<20} {:<32} {}", tool.program, place, tool.purpose);
    }
    cargo_deny()?;
    if missing.is_empty() {
        println!("Nothing is missing.");
        Ok(())
    } else {
        Err(remedy(&missing))
    }
}

/// Installs what is missing, once a run, and returns the packages that are missing still.
pub(crate) fn install() -> Vec<&'static str> {
    install_all(TOOLS)
}

/// The same for the peers of `bench pull`; who is missing still is absent from the measurement, and named there.
pub(crate) fn install_peers() {
    let _ = install_all(PEERS);
}

fn install_all(tools: &[Tool]) -> Vec<&'static str> {
    let missing = missing(tools);
    if missing.is_empty() {
        return missing;
    }
    if is_root() && find("apt-get").is_some() {
        let apt = |arguments: &[&str]| Run::new("apt-get").args(arguments).env("DEBIAN_FRONTEND", "noninteractive").check();
        let mut arguments = vec!["install", "-y", "-q", "--no-install-recommends"];
        arguments.extend(&missing);
        // A fresh machine has no package lists, an old one has stale lists: both fail at first.
        if apt(&arguments).is_err() {
            let updated = apt(&["update", "-q"]).and_then(|()| apt(&arguments));
            if let Err(error) = updated {
                println!("   {error}");
            }
        }
    }
    let missing = self::missing(tools);
    if !missing.is_empty() {
        println!("   {}", remedy(&missing));
    }
    missing
}

fn missing(tools: &[Tool]) -> Vec<&'static str> {
    let mut packages: Vec<&str> = tools.iter().filter(|tool| !present(tool)).map(|tool| tool.package).collect();
    packages.dedup();
    packages
}

fn present(tool: &Tool) -> bool {
    match find(tool.program) {
        // The package `busybox` has the same program, linked dynamically: useless in an empty root.
        Some(path) if tool.program == "busybox" => !Run::new("ldd").arg(path).works(),
        Some(_) => true,
        None => false,
    }
}

fn remedy(packages: &[&str]) -> String {
    format!(
        "missing here, so what needs them is skipped and counted; as root: apt-get install --no-install-recommends {}",
        packages.join(" ")
    )
}

/// rustfmt, clippy and the targets that the checks compile for.
pub(crate) fn components() {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        if find("rustup").is_none() {
            return;
        }
        let rustup = |arguments: &[&str]| Run::new("rustup").args(arguments).quiet().output();
        for component in ["rustfmt", "clippy"] {
            if let Err(error) = rustup(&["component", "add", component]) {
                println!("   {error}");
            }
        }
        for target in ["x86_64-unknown-linux-musl", "aarch64-unknown-linux-gnu"] {
            if let Err(error) = rustup(&["target", "add", target]) {
                println!("   {error}");
            }
        }
    });
}

/// Installs a toolchain where it is missing.
pub(crate) fn toolchain(version: &str) -> Result {
    if Run::new("cargo").args([&format!("+{version}"), "--version"]).works() {
        return Ok(());
    }
    if find("rustup").is_none() {
        return Err(format!("the toolchain {version} is missing, and there is no rustup to get it with"));
    }
    Run::new("rustup").args(["toolchain", "install", version, "--profile", "minimal", "--no-self-update"]).check()
}

/// Programs that cargo builds for us stay between clones: they are pinned by version, and cost minutes.
fn cache() -> PathBuf {
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    base.or(home).unwrap_or_else(metadata::target).join("coracle-xtask")
}

/// `PATH` with the programs of [`cache`] in front and the administrators' directories behind.
pub(crate) fn path() -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}:/usr/sbin:/sbin", cache().join("bin").display())
}

/// cargo-deny of the version that deny.toml was written for; built where it is missing (75 s on two cores).
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    cargo_install("cargo-deny", "0.20.2")
}

/// cargo-fuzz, and the nightly toolchain that it needs.
pub(crate) fn cargo_fuzz() -> Result<PathBuf> {
    toolchain("nightly")?;
    cargo_install("cargo-fuzz", "0.13.2")
}

fn cargo_install(name: &str, version: &str) -> Result<PathBuf> {
    let subcommand = name.trim_start_matches("cargo-");
    let ours = cache().join("bin").join(name);
    let is_it = |program: &PathBuf| {
        Run::new(program)
            .args([subcommand, "--version"])
            .quiet()
            .output()
            .or_else(|_| Run::new(program).arg("--version").quiet().output())
            .is_ok_and(|text| text.contains(version))
    };
    if let Some(program) = [Some(ours.clone()), find(name)].into_iter().flatten().find(|program| is_it(program)) {
        return Ok(program);
    }
    // Unoptimised: it runs for a second and compiles three times faster.
    Run::new("cargo")
        .args(["install", "--locked", "--debug", "--quiet", name, "--version", version, "--root"])
        .arg(cache())
        .args(["--config", "profile.dev.debug=false", "--target-dir"])
        .arg(metadata::target().join("xtask/tools"))
        .check()?;
    Ok(ours)
}
