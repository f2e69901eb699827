//! What the tests share: needs and skips, root file systems, images, a registry, and a look for what was left behind.
//!
//! # Skips
//!
//! A test says in its first line what it needs:
//!
//! ```ignore
//! #[test]
//! fn a_pull_writes_nothing_twice() {
//!     need!(Registry, Busybox);
//! ```
//!
//! Where the need isn't met the macro prints `SKIP: registry: the test's name` and returns from the test. libtest counts that as
//! passed; `cargo xtask test` runs with `--show-output`, finds the line below the test's name, and counts and lists it as skipped.
//! With `CI=true` a skip whose need the run serves is a failure: the table is in [`needs`], which xtask compiles too.
//! Tests of the crates print the same line by themselves: `SKIP: root`.
//!
//! # What xtask tells a test
//!
//! | variable | is | without xtask |
//! |---|---|---|
//! | `CORACLE_TIER` | `root`, `user`, `nosub`, `vm-root`, `vm-user` | unset |
//! | `CORACLE_PROGRAM` | the program `coracle` | the one in `target/debug`, if built |
//! | `CORACLE_FIXTURES` | where images are kept between runs | `target/tmp` |
//! | `CORACLE_CGROUP` | a cgroup that was given to this plain user | unset |
//! | `CORACLE_REPOSITORY` | this repository | the directory of `cargo test` |

#![allow(dead_code, reason = "the fixtures are for tests to come, and not every machine runs all of them")]

pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod importer;
pub(crate) mod leftovers;
pub(crate) mod mounts;
pub(crate) mod needs;
pub(crate) mod owner;
pub(crate) mod place;
pub(crate) mod postgres;
pub(crate) mod program;
pub(crate) mod recorder;
pub(crate) mod registry;
pub(crate) mod rootfs;
pub(crate) mod tree;

use needs::Need;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Returns from the test, and says why, where one of the needs isn't met.
macro_rules! need {
    ($($need:ident),+ $(,)?) => {
        if $crate::support::unmet(&[$($crate::support::needs::Need::$need),+]) {
            return $crate::support::Skipped::skipped();
        }
    };
}
pub(crate) use need;

/// What a skipped test returns.
pub(crate) trait Skipped {
    fn skipped() -> Self;
}

impl Skipped for () {
    fn skipped() -> Self {}
}

impl<E> Skipped for Result<(), E> {
    fn skipped() -> Self {
        Ok(())
    }
}

/// Prints the skip for the first need that isn't met.
pub(crate) fn unmet(needs: &[Need]) -> bool {
    let Some(missing) = needs.iter().find(|need| !met(**need)) else {
        return false;
    };
    let thread = std::thread::current();
    println!("SKIP: {}: {}", missing.word(), thread.name().unwrap_or("?"));
    true
}

/// Whether this machine, as this user, has it.
pub(crate) fn met(need: Need) -> bool {
    let euid = rustix::process::geteuid();
    match need {
        Need::Root => euid.is_root(),
        Need::PlainUser => !euid.is_root(),
        Need::SubIds => !euid.is_root() && sub_ids() && program::find("newuidmap").is_some(),
        Need::NoSubIds => !euid.is_root() && !sub_ids(),
        Need::UserNamespaces => program::works("unshare", &["--user", "--map-root-user", "true"]),
        Need::Delegation => euid.is_root() || std::env::var_os("CORACLE_CGROUP").is_some(),
        Need::CgroupV2 => std::fs::metadata("/sys/fs/cgroup/cgroup.controllers").is_ok(),
        Need::CgroupHybrid => std::fs::metadata("/sys/fs/cgroup/unified/cgroup.procs").is_ok(),
        Need::CgroupV1 => {
            let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
            mounts.lines().any(|line| line.split(' ').nth(2) == Some("cgroup") && line.contains("pids"))
        }
        Need::OldKernel => kernel() < (6, 5),
        Need::UserSession => {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).unwrap_or_default();
            runtime.join("systemd/private").exists()
        }
        Need::AppArmorRestriction => {
            std::fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").is_ok_and(|value| value.trim() == "1")
        }
        Need::Busybox => rootfs::busybox_program().is_some(),
        Need::DebianRoot => rootfs::debian_is_possible(),
        Need::Registry => registry::is_possible(),
        Need::Skopeo => program::find("skopeo").is_some(),
        Need::Buildah => program::find("buildah").is_some(),
        Need::Program => program::coracle().is_some(),
        Need::Strace => program::find("strace").is_some(),
        Need::Runc => program::find("runc").is_some(),
        Need::Crun => program::find("crun").is_some(),
        Need::Bubblewrap => program::find("bwrap").is_some(),
        Need::Python3 => program::find("python3").is_some(),
        // Its server is nobody's who has but one id.
        Need::Postgres => postgres::installed().is_some() && met(Need::Busybox) && met(Need::UserNamespaces) && !met(Need::NoSubIds),
        Need::LinuxLibcDev => std::fs::metadata("/usr/include/linux/audit.h").is_ok(),
        // Whether the kernel has it is known only to who tries; the one test of it does.
        Need::Ia32Emulation => cfg!(target_arch = "x86_64"),
        Need::Dig => program::find("dig").is_some(),
        Need::Podman => program::find("podman").is_some(),
        Need::Docker => program::find("dockerd").is_some(),
        Need::OpenSsl => program::find("openssl").is_some(),
        Need::Umoci => program::find("umoci").is_some(),
        Need::Go => program::find("go").is_some(),
        Need::Corpora => corpora().join("complete").is_file(),
        Need::ProjectQuotas => euid.is_root() && host::has_project_quotas(),
        Need::Repository => repository().join("deny.toml").is_file(),
        Need::Fuse => std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_ok(),
        Need::LoopDevices => std::fs::metadata("/dev/loop-control").is_ok() && program::works("losetup", &["--find"]),
    }
}

/// A directory of the test's own, which vanishes with the value. Its path occurs nowhere else on the machine, so that it also
/// serves as a mark by which [`leftovers`] knows what is ours.
pub(crate) fn directory() -> Directory {
    Directory(tempfile::Builder::new().prefix("coracle-test-").tempdir().expect("a temporary directory can be made"))
}

/// The same in memory: what is made and removed so often is slow on some disks.
pub(crate) fn directory_in_memory() -> Directory {
    let memory = Path::new("/dev/shm");
    if !memory.is_dir() {
        return directory();
    }
    Directory(tempfile::Builder::new().prefix("coracle-test-").tempdir_in(memory).expect("a temporary directory can be made"))
}

/// What [`directory`] makes.
#[must_use = "it vanishes with the value"]
pub(crate) struct Directory(tempfile::TempDir);

impl Directory {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Directory {
    /// Others may still be taking their own out of it: an engine's trash, for a plain user with files of his sub-ids. What nobody takes
    /// away fails the test, by name.
    fn drop(&mut self) {
        let patience = Duration::from_secs(if std::thread::panicking() { 3 } else { 30 });
        let gone = || match std::fs::remove_dir_all(self.path()) {
            Err(error) => error.kind() == std::io::ErrorKind::NotFound && !self.path().exists(),
            Ok(()) => true,
        };
        let gone = place::within(patience, gone);
        if !gone && !std::thread::panicking() {
            let error = std::fs::remove_dir_all(self.path()).err();
            panic!("the test's directory can't be removed: {error:?}\n  {}", leftovers::listed(self.path()).join("\n  "));
        }
    }
}

/// Where images are kept between runs.
pub(crate) fn fixtures() -> PathBuf {
    let directory = std::env::var_os("CORACLE_FIXTURES").map_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")), PathBuf::from);
    // A plain user in CI gets it read-only, with everything in it.
    let _ = std::fs::create_dir_all(&directory);
    directory
}

/// Where `cargo xtask tools` brings archives that nobody here wrote.
pub(crate) fn corpora() -> PathBuf {
    let directory = fixtures().join("corpora");
    // Without xtask around the test: where xtask puts them.
    if directory.is_dir() { directory } else { repository().join("target/fixtures/corpora") }
}

/// This repository.
pub(crate) fn repository() -> PathBuf {
    std::env::var_os("CORACLE_REPOSITORY").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Whether /etc/subuid has a range for this user, by name or by number.
fn sub_ids() -> bool {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = users
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':');
            let name = fields.next()?;
            (fields.nth(1)? == uid).then_some(name)
        })
        .unwrap_or(&uid);
    let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    ranges.lines().any(|line| line.split(':').next().is_some_and(|owner| owner == name || owner == uid))
}

/// Major and minor version of the running kernel.
fn kernel() -> (u32, u32) {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(['.', '-']).filter_map(|number| number.trim().parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}
