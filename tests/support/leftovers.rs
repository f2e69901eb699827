//! Looks for what a test left on the machine: processes, mounts, cgroups, links, files.
//!
//! Tests run side by side, so a plain "what is new?" would blame one for another's container. Processes and mounts are known by a
//! mark, the path of the test's own directory, which stands in their command line, environment, descriptors, root or mount table.
//! Cgroups and links have no such mark: for them the look waits until what is new has gone. A cgroup in which somebody lives isn't looked
//! at: it may be another test's, and who lives on in one of ours has a mark, or a run directory below it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What stood on the machine before.
#[must_use = "it compares when it is asked to"]
pub(crate) struct Leftovers {
    mark: PathBuf,
    before: BTreeSet<String>,
}

impl Leftovers {
    /// Remembers what is there. `mark` is the test's own directory, as made by [`super::directory`].
    pub(crate) fn watch(mark: &Path) -> Self {
        Self { mark: mark.to_owned(), before: everything(mark) }
    }

    /// What is new and doesn't go away within the given time. What comes only after the first look is another test's.
    pub(crate) fn after(&self, patience: Duration) -> Vec<String> {
        let deadline = Instant::now() + patience;
        let mut news: BTreeSet<String> = everything(&self.mark).difference(&self.before).cloned().collect();
        while !news.is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
            let now = everything(&self.mark);
            news.retain(|new| now.contains(new));
        }
        news.into_iter().collect()
    }

    /// Fails the test where something is new and doesn't go away within a minute: a link may be that of a test beside this one.
    #[track_caller]
    pub(crate) fn assert_none(&self) {
        let news = self.after(Duration::from_secs(60));
        assert!(news.is_empty(), "left behind:\n  {}", news.join("\n  "));
    }
}

fn everything(mark: &Path) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    processes(mark, &mut seen);
    mounts(Path::new("/proc/self/mountinfo"), mark, "", &mut seen);
    for name in names(Path::new("/sys/class/net")) {
        seen.insert(format!("link {name}"));
    }
    cgroups(Path::new("/sys/fs/cgroup"), &mut seen);
    files(mark, &mut seen);
    seen
}

/// Processes that name the mark anywhere. Those of others can't be looked into by a plain user, and aren't ours then.
fn processes(mark: &Path, seen: &mut BTreeSet<String>) {
    let me = std::process::id().to_string();
    let text = mark.to_string_lossy();
    for pid in names(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
        if pid == me {
            continue;
        }
        let process = Path::new("/proc").join(&pid);
        let contains = |file: &str| {
            let bytes = std::fs::read(process.join(file)).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&*text)
        };
        let leads = |link: &Path| std::fs::read_link(link).is_ok_and(|target| target.starts_with(mark));
        let descriptor = || names(&process.join("fd")).into_iter().any(|fd| leads(&process.join("fd").join(fd)));
        let ours = contains("cmdline")
            || contains("environ")
            || leads(&process.join("cwd"))
            || leads(&process.join("root"))
            || leads(&process.join("exe"))
            || contains("mountinfo")
            || descriptor();
        if ours {
            let name = std::fs::read_to_string(process.join("comm")).unwrap_or_default();
            // A zombie has neither descriptors nor mounts; it was found by none of the above.
            seen.insert(format!("process {pid} {}", name.trim()));
        }
    }
}

fn mounts(table: &Path, mark: &Path, whose: &str, seen: &mut BTreeSet<String>) {
    let text = mark.to_string_lossy();
    for line in std::fs::read_to_string(table).unwrap_or_default().lines().filter(|line| line.contains(&*text)) {
        seen.insert(format!("mount {}{whose}", line.split(' ').nth(4).unwrap_or_default()));
    }
}

fn cgroups(directory: &Path, seen: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            let path = entry.path();
            if path.to_string_lossy().contains("coracle-") && !is_lived_in(&path) {
                seen.insert(format!("cgroup {}", path.display()));
            }
            cgroups(&path, seen);
        }
    }
}

/// Whether a cgroup holds a process, or one below it does.
fn is_lived_in(cgroup: &Path) -> bool {
    let processes = std::fs::read(cgroup.join("cgroup.procs")).unwrap_or_default();
    let below =
        || std::fs::read_dir(cgroup).into_iter().flatten().flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    !processes.is_empty() || below().any(|entry| is_lived_in(&entry.path()))
}

fn files(directory: &Path, seen: &mut BTreeSet<String>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        seen.insert(format!("file {}", entry.path().display()));
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            files(&entry.path(), seen);
        }
    }
}

/// Every file below a directory, with its owner and mode.
pub(crate) fn listed(directory: &Path) -> Vec<String> {
    let mut seen = BTreeSet::new();
    files(directory, &mut seen);
    let about = |line: String| match std::fs::symlink_metadata(line.trim_start_matches("file ")) {
        Ok(meta) => format!("{line} {}:{} {:o}", meta.uid(), meta.gid(), meta.mode()),
        Err(error) => format!("{line} ({error})"),
    };
    seen.into_iter().map(about).collect()
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
