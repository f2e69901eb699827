//! The step `tiers`: the one binary of `tests/` as root, as a plain user with sub-ids and a cgroup, and as a user with neither.
//!
//! The users are made once and stay (`coracle-test`, `coracle-nosub`): they own nothing between runs. Everything else that a run
//! makes is below one directory in /var/tmp and one cgroup, and is gone afterwards; what the tests themselves left behind
//! (processes, files, mounts, cgroups, links) fails the step.

use crate::binaries::{self, Binary};
use crate::needs::Tier;
use crate::process::{Outside, Run, copy, find, is_root};
use crate::report::Report;
use crate::test::Outcome;
use crate::{Result, in_ci, metadata, tools};
use rustix::process::{Pid, WaitOptions, waitpid};
use std::collections::BTreeSet;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Becomes the parent of every orphan that a test program leaves, so that [`leftovers`] finds exactly those.
pub(crate) fn adopt_orphans() {
    if let Err(error) = rustix::process::set_child_subreaper(Some(rustix::process::getpid())) {
        println!("   note: processes that tests leave can't be found: {error}");
    }
}

pub(crate) fn step() -> Result<Outcome> {
    tools::install();
    let program = binaries::program()?;
    let binaries = binaries::build()?;
    let binary = binaries.iter().find(|binary| binary.is_tiered()).ok_or("tests/coracle.rs wasn't built")?;
    let place = Outside::new("tiers")?;
    let stage = Stage::new(place.path(), binary, &program)?;
    let mut total = Report::default();
    total.absorb(stage.run(if is_root() { Tier::Root } else { Tier::User }, None)?);
    if is_root() {
        // Made by the root run where they were missing.
        stage.share_fixtures()?;
        let user = User::ensure("coracle-test", true)?;
        total.absorb(stage.run(Tier::User, Some(&user))?);
        let user = User::ensure("coracle-nosub", false)?;
        total.absorb(stage.run(Tier::NoSub, Some(&user))?);
    } else {
        println!("   note: not root, so only this user's run");
    }
    Ok(Outcome::Tests(total))
}

/// Where images made for tests are kept between runs.
pub(crate) fn fixtures() -> PathBuf {
    metadata::target().join("fixtures")
}

/// A directory that every user can read, with the programs in it.
struct Stage {
    directory: PathBuf,
    binary: PathBuf,
    program: PathBuf,
}

impl Stage {
    fn new(directory: &Path, binary: &Binary, program: &Path) -> Result<Self> {
        let stage = Self { directory: directory.to_owned(), binary: directory.join("bin/tests"), program: directory.join("bin/coracle") };
        copy(&binary.path, &stage.binary)?;
        copy(program, &stage.program)?;
        Ok(stage)
    }

    /// Copies the fixtures: target/ may lie where another user can't look.
    fn share_fixtures(&self) -> Result {
        for entry in std::fs::read_dir(fixtures()).into_iter().flatten().flatten() {
            if entry.path().is_file() {
                copy(&entry.path(), &self.directory.join("fixtures").join(entry.file_name()))?;
            }
        }
        Ok(())
    }

    fn run(&self, tier: Tier, user: Option<&User>) -> Result<Report> {
        let home = self.directory.join(tier.word());
        let directories = ["home", "run", "tmp"].map(|name| home.join(name));
        for directory in &directories {
            std::fs::create_dir_all(directory).map_err(|error| format!("can't make {}: {error}", directory.display()))?;
            std::fs::set_permissions(directory, Permissions::from_mode(0o700))
                .map_err(|error| format!("can't change {}: {error}", directory.display()))?;
            if let Some(user) = user {
                own(directory, user)?;
            }
        }
        let [home, run, tmp] = &directories;
        let cgroup = match user {
            Some(user) if tier == Tier::User => Delegated::new(user)?,
            _ => None,
        };

        let fixtures = if user.is_some() { self.directory.join("fixtures") } else { fixtures() };
        let path = std::env::var("PATH").unwrap_or_default();
        // A user's PATH leads into the home of whoever started us, where they may not look.
        let path =
            if user.is_some() { String::from("/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin") } else { format!("{path}:/usr/sbin:/sbin") };
        let mut words = vec![String::from("/bin/sh"), String::from("-c"), enter(cgroup.as_ref()), String::from("sh")];
        if let Some(user) = user {
            words.extend(["setpriv", "--reuid", &user.name, "--regid", &user.name, "--init-groups"].map(String::from));
        }
        words.extend([String::from("env"), String::from("-i")]);
        let mut variable = |name: &str, value: &str| words.push(format!("{name}={value}"));
        variable("PATH", &path);
        variable("HOME", &if user.is_some() { home.display().to_string() } else { std::env::var("HOME").unwrap_or_default() });
        variable("XDG_RUNTIME_DIR", &run.display().to_string());
        variable("TMPDIR", &tmp.display().to_string());
        variable("RUST_BACKTRACE", "1");
        variable("CORACLE_CI", "1");
        variable("CORACLE_TIER", tier.word());
        variable("CORACLE_PROGRAM", &self.program.display().to_string());
        variable("CORACLE_FIXTURES", &fixtures.display().to_string());
        if user.is_none() {
            variable("CORACLE_REPOSITORY", &metadata::root().display().to_string());
        }
        if let Some(cgroup) = &cgroup {
            variable("CORACLE_CGROUP", &cgroup.unified.display().to_string());
        }
        words.extend([self.binary.display().to_string(), String::from("--show-output")]);

        let before = Host::look();
        let logged =
            Run::new(&words[0]).args(&words[1..]).dir(home).limit(binaries::LIMIT).quiet().logged(&binaries::log("coracle-tests", tier))?;
        let mut report = binaries::conclude("tests/", tier, &logged.text, logged.success, &logged.ending);

        let mut left = leftovers(Duration::from_secs(5));
        left.extend(names(tmp).into_iter().map(|name| format!("file {}", tmp.join(name).display())));
        let host = before.news(Duration::from_secs(5));
        // On a machine that others use, what is new may be theirs.
        if in_ci() {
            left.extend(host);
        } else {
            host.iter().for_each(|news| println!("   note: new on this machine: {news}"));
        }
        report.failed.extend(left.into_iter().map(|what| format!("tests/ as {}: left behind: {what}", tier.word())));
        Ok(report)
    }
}

/// A shell line that enters the delegated cgroup, then becomes its arguments.
fn enter(cgroup: Option<&Delegated>) -> String {
    let mut line = String::new();
    for directory in cgroup.iter().flat_map(|cgroup| &cgroup.directories) {
        line.push_str(&format!("echo $$ > {}/tests/cgroup.procs || exit 98; ", directory.display()));
    }
    line.push_str("exec \"$@\"");
    line
}

/// A plain user of this machine.
struct User {
    name: String,
    uid: u32,
    gid: u32,
}

impl User {
    /// Makes the user where it is missing, with or without sub-id ranges.
    fn ensure(name: &str, sub_ids: bool) -> Result<Self> {
        let number = |option: &str| -> Option<u32> { Run::new("id").args([option, name]).quiet().output().ok()?.trim().parse().ok() };
        if number("-u").is_none() {
            let useradd = find("useradd").ok_or("useradd is missing: apt-get install passwd")?;
            let mut run =
                Run::new(useradd).args(["--no-create-home", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", "--user-group"]);
            if !sub_ids {
                // System users get no ranges.
                run = run.arg("--system");
            }
            run.arg(name).check()?;
        }
        let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
        let has = ranges.lines().any(|line| line.starts_with(&format!("{name}:")));
        if sub_ids && !has {
            let usermod = find("usermod").ok_or("usermod is missing: apt-get install passwd")?;
            Run::new(usermod).args(["--add-subuids", "1879048192-1879113727", "--add-subgids", "1879048192-1879113727", name]).check()?;
        }
        if !sub_ids && has {
            return Err(format!("{name} has a range in /etc/subuid, and is there to have none"));
        }
        match (number("-u"), number("-g")) {
            (Some(uid), Some(gid)) => Ok(Self { name: name.to_owned(), uid, gid }),
            _ => Err(format!("there is no user {name}, though useradd made it")),
        }
    }
}

fn own(path: &Path, user: &User) -> Result {
    std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid))
        .map_err(|error| format!("can't give {} to {}: {error}", path.display(), user.name))
}

/// A cgroup given to a user, in every hierarchy of this machine; removed with this value.
struct Delegated {
    /// The one in the cgroup2 tree.
    unified: PathBuf,
    directories: Vec<PathBuf>,
}

impl Delegated {
    /// Nothing where this machine lets root make no cgroups (CI inside a container): the tests then skip and say so.
    fn new(user: &User) -> Result<Option<Self>> {
        let name = format!("coracle-xtask-{}", std::process::id());
        let mut delegated = Self { unified: PathBuf::new(), directories: Vec::new() };
        for (kind, mount) in cgroup_mounts() {
            let directory = mount.join(&name);
            if let Err(error) = std::fs::create_dir(&directory) {
                println!("   note: can't delegate {}: {error}", directory.display());
                continue;
            }
            delegated.directories.push(directory.clone());
            // A v1 cpuset takes no process before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if let (true, Ok(all)) = (kind == "cgroup", std::fs::read(mount.join(file))) {
                    let _ = std::fs::write(directory.join("cgroup.clone_children"), "1");
                    let _ = std::fs::write(directory.join(file), all);
                }
            }
            let tests = directory.join("tests");
            std::fs::create_dir(&tests).map_err(|error| format!("can't make {}: {error}", tests.display()))?;
            for directory in [&directory, &tests] {
                own(directory, user)?;
                for file in ["cgroup.procs", "cgroup.subtree_control", "cgroup.threads", "tasks"] {
                    if directory.join(file).exists() {
                        own(&directory.join(file), user)?;
                    }
                }
            }
            if kind == "cgroup2" {
                delegated.unified = directory;
            }
        }
        Ok((!delegated.unified.as_os_str().is_empty()).then_some(delegated))
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        for directory in &self.directories {
            // A cgroup is empty a moment after its last process was reaped.
            let deadline = Instant::now() + Duration::from_secs(5);
            while let Err(error) = remove_cgroup(directory) {
                if Instant::now() > deadline {
                    println!("   warning: can't remove {}: {error}", directory.display());
                    break;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        }
    }
}

fn remove_cgroup(directory: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path())?;
        }
    }
    std::fs::remove_dir(directory)
}

/// Kind ("cgroup" or "cgroup2") and place of every mounted hierarchy.
fn cgroup_mounts() -> Vec<(String, PathBuf)> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            kind.starts_with("cgroup").then(|| (kind.to_owned(), PathBuf::from(place)))
        })
        .collect()
}

/// Orphans that became our children, after they had some time to go. They are killed, by pid.
fn leftovers(patience: Duration) -> Vec<String> {
    let deadline = Instant::now() + patience;
    loop {
        let orphans = children();
        if orphans.is_empty() {
            return Vec::new();
        }
        if Instant::now() > deadline {
            return orphans
                .into_iter()
                .map(|pid| {
                    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                    let command = String::from_utf8_lossy(&command).replace('\0', " ");
                    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                    let _ = Run::new("kill").args(["-KILL", &pid.to_string()]).quiet().output();
                    format!("process {pid} {} ({})", name.trim(), command.trim())
                })
                .collect();
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Our living children. The dead among those that we adopted are reaped, as every machine's first process does: the first process of
/// a pid namespace can't end before a stranger's child in there is reaped (pid_namespaces(7)). The tests themselves have been waited for.
fn children() -> Vec<u32> {
    let me = std::process::id();
    std::fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // The name in parentheses may contain anything.
            let mut fields = stat.rsplit_once(") ")?.1.split(' ');
            let (state, parent) = (fields.next()?, fields.next()?);
            if parent.parse() != Ok(me) {
                return None;
            }
            if state == "Z" {
                let _ = waitpid(Pid::from_raw(pid.cast_signed()), WaitOptions::NOHANG);
                return None;
            }
            Some(pid)
        })
        .collect()
}

/// What tests could leave on the host: mounts, links, cgroups.
struct Host(BTreeSet<String>);

impl Host {
    fn look() -> Self {
        let mut seen = BTreeSet::new();
        for line in std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default().lines() {
            seen.insert(format!("mount {}", line.split(' ').nth(4).unwrap_or_default()));
        }
        for name in names(Path::new("/sys/class/net")) {
            seen.insert(format!("link {name}"));
        }
        for (_, mount) in cgroup_mounts() {
            cgroups(&mount, &mut seen);
        }
        Self(seen)
    }

    fn news(&self, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        loop {
            let news: Vec<String> = Self::look().0.difference(&self.0).cloned().collect();
            if news.is_empty() || Instant::now() > deadline {
                return news;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

fn cgroups(directory: &Path, seen: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if path.to_string_lossy().contains("coracle") {
                seen.insert(format!("cgroup {}", path.display()));
            }
            cgroups(&path, seen);
        }
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
