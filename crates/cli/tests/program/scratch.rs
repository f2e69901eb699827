//! A root file system of busybox, a store, and the program, in a directory that goes with the test.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::{fs, io};

const PROGRAM: &str = env!("CARGO_BIN_EXE_coracle");

/// Who runs the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum User {
    Me,
    /// uid 65534 without any privilege, and without sub-ids.
    Nobody,
}

/// A directory of one test's own.
pub(crate) struct Scratch {
    pub(crate) user: User,
    directory: tempfile::TempDir,
}

impl Scratch {
    /// None where the machine lacks what it needs, which is said.
    pub(crate) fn new(user: User) -> Option<Self> {
        let Some(busybox) = ["/bin/busybox", "/usr/bin/busybox"].iter().map(Path::new).find(|path| path.exists()) else {
            println!("SKIP: busybox (apt-get install busybox-static)");
            return None;
        };
        // Not /tmp of a container, which may be an overlay itself: memory holds upper directories anywhere.
        let parent = if Path::new("/dev/shm").is_dir() { PathBuf::from("/dev/shm") } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("coracle-cli-").tempdir_in(parent).expect("a scratch directory");
        let scratch = Self { user, directory };
        let bin = scratch.path("rootfs/bin");
        fs::create_dir_all(&bin).unwrap();
        for name in ["etc", "tmp"] {
            fs::create_dir(scratch.path("rootfs").join(name)).unwrap();
        }
        copy(busybox, &bin.join("busybox"));
        for name in ["sh", "true", "cat", "id", "sleep", "echo", "ls", "touch", "env", "hostname", "pwd", "kill", "stat", "dd", "grep"] {
            symlink("busybox", bin.join(name)).unwrap();
        }
        // A program of its own that the user can reach, in whoever's home the tests were built.
        copy(Path::new(PROGRAM), &scratch.path("coracle"));
        fs::create_dir(scratch.path("home")).unwrap();
        fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o755)).unwrap();
        if user == User::Nobody {
            // Its root too: where a user has one id, a directory of another's can't be written in the container.
            let owned = ["home", "rootfs"].map(|name| scratch.path(name));
            let done = Command::new("chown").args(["-hR", "65534:65534"]).args(owned).status().expect("chown");
            assert!(done.success());
        }
        Some(scratch)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn rootfs(&self) -> String {
        self.path("rootfs").display().to_string()
    }

    /// The program, with a store of its own.
    pub(crate) fn coracle<S: AsRef<std::ffi::OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = match self.user {
            User::Me => Command::new(self.path("coracle")),
            User::Nobody => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--"]);
                command.arg(self.path("coracle"));
                command
            }
        };
        command.env("HOME", self.path("home")).env_remove("XDG_DATA_HOME").env_remove("CORACLE_ROOT").env_remove("CI");
        command.arg("--root").arg(self.path("home/store")).args(arguments).current_dir(self.path("home"));
        command.stdin(Stdio::null());
        command
    }

    /// `coracle run FLAGS --rootfs … COMMAND` to its end.
    pub(crate) fn run(&self, flags: &[&str], command: &[&str]) -> Said {
        let rootfs = self.rootfs();
        let root = ["--rootfs", &rootfs];
        let words = ["run"].iter().chain(flags).chain(&root).chain(command);
        self.coracle(words).output().into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A failed test may have left a detached container.
        let Ok(listed) = self.coracle(["ps", "-q"]).output() else { return };
        for id in String::from_utf8_lossy(&listed.stdout).lines() {
            let _ = self.coracle(["kill", id]).output();
        }
    }
}

/// Copies a program, by another: a descriptor for writing that a fork in another test's thread inherits would make it "busy".
fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg(from).arg(to).status().expect("cp");
    assert!(done.success());
}

/// What a run of the program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<io::Result<Output>> for Said {
    fn from(output: io::Result<Output>) -> Self {
        let output = output.expect("the program runs");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Said {
    /// That it was this, and nothing on standard error.
    #[track_caller]
    pub(crate) fn is(&self, code: i32, stdout: &str) {
        assert_eq!((self.code, &self.stdout[..], &self.stderr[..]), (Some(code), stdout, ""));
    }

    /// That it ended with this code, said this among other things, and nothing on standard error.
    #[track_caller]
    pub(crate) fn is_part(&self, code: i32, part: &str) {
        assert_eq!((self.code, &self.stderr[..]), (Some(code), ""), "{}", self.stdout);
        assert!(self.stdout.contains(part), "no {part:?} in:\n{}", self.stdout);
    }

    /// That it failed with this code, said nothing on standard output, and this on standard error, among other things.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, parts: &[&str]) {
        assert_eq!((self.code, &self.stdout[..]), (Some(code), ""), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "no {part:?} in:\n{}", self.stderr);
        }
    }
}

/// A test for each user that can be had.
pub(crate) fn as_each_user(test: impl Fn(&Scratch)) {
    let root = fs::metadata("/proc/self").is_ok_and(|m| std::os::unix::fs::MetadataExt::uid(&m) == 0);
    let users = if root { &[User::Me, User::Nobody][..] } else { &[User::Me] };
    for user in users {
        if *user == User::Nobody && fs::read_to_string("/proc/sys/kernel/unprivileged_userns_clone").is_ok_and(|s| s.trim() == "0") {
            println!("SKIP: user namespaces for plain users");
            continue;
        }
        let Some(scratch) = Scratch::new(*user) else { return };
        println!("as {user:?}");
        test(&scratch);
    }
}
