//! Runs programs: echoed, without standard input, with a time limit, and with their output kept where that is wanted.

use crate::Result;
use std::ffi::OsStr;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A command line that is about to run; [`Run::check`], [`Run::output`] and [`Run::logged`] run it.
#[must_use]
pub(crate) struct Run {
    program: String,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    directory: Option<PathBuf>,
    limit: Option<Duration>,
    echo: bool,
    inherit_stderr: bool,
}

/// How a logged run ended.
pub(crate) struct Logged {
    pub(crate) success: bool,
    /// "exit status: 1", "killed after 600 s".
    pub(crate) ending: String,
    /// Standard output and standard error, as they were interleaved.
    pub(crate) text: String,
}

impl Run {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_string_lossy().into_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            limit: None,
            echo: true,
            inherit_stderr: false,
        }
    }

    pub(crate) fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_string_lossy().into_owned());
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        for argument in arguments {
            self = self.arg(argument);
        }
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_string_lossy().into_owned()));
        self
    }

    pub(crate) fn dir(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// SIGTERM after this long, SIGKILL ten seconds later: a hanging test fails its step and not the whole run.
    pub(crate) fn limit(mut self, limit: Duration) -> Self {
        self.limit = Some(limit);
        self
    }

    /// Shows standard error at once, also where [`Run::output`] takes standard output.
    pub(crate) fn stderr_to_terminal(mut self) -> Self {
        self.inherit_stderr = true;
        self
    }

    /// Doesn't print the command line.
    pub(crate) fn quiet(mut self) -> Self {
        self.echo = false;
        self
    }

    fn line(&self) -> String {
        let mut line = String::new();
        for (name, value) in &self.environment {
            line.push_str(&format!("{name}={value} "));
        }
        line.push_str(&self.program);
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(argument);
        }
        line
    }

    fn command(&self) -> Command {
        if self.echo {
            println!("   $ {}", self.line());
        }
        let mut command = match self.limit {
            Some(limit) => {
                let mut command = Command::new("timeout");
                command.args(["--kill-after=10", &limit.as_secs().to_string(), &self.program]);
                command
            }
            None => Command::new(&self.program),
        };
        command.args(&self.arguments).stdin(Stdio::null());
        // cargo tells us about our own package; the programs we start must not take it for theirs.
        for (name, _) in std::env::vars() {
            if name.starts_with("CARGO_PKG_") || name == "CARGO_MANIFEST_DIR" || name == "CARGO_MANIFEST_PATH" {
                command.env_remove(name);
            }
        }
        // And cargo's way to its own libraries is no business of a test's.
        command.env_remove("LD_LIBRARY_PATH");
        for (name, value) in &self.environment {
            command.env(name, value);
        }
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }

    /// Runs it with our own standard output; anything but exit 0 is an error.
    pub(crate) fn check(self) -> Result {
        let status = self.command().status().map_err(|error| format!("can't run `{}`: {error}", self.program))?;
        if status.success() { Ok(()) } else { Err(format!("`{}` failed: {status}", self.line())) }
    }

    /// Runs it and returns its standard output; standard error is shown where it fails.
    pub(crate) fn output(self) -> Result<String> {
        let stderr = if self.inherit_stderr { Stdio::inherit() } else { Stdio::piped() };
        let output = self.command().stderr(stderr).output().map_err(|error| format!("can't run `{}`: {error}", self.program))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(format!("`{}` failed: {}\n{}", self.line(), output.status, error.trim_end()));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether it runs and exits with 0; nothing is shown.
    pub(crate) fn works(self) -> bool {
        self.quiet().command().stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    }

    /// Runs it with both outputs in the file `log`, and reads that back.
    ///
    /// A file and not a pipe: a process that outlives the run would hold a pipe open, and we would wait for it.
    pub(crate) fn logged(self, log: &Path) -> Result<Logged> {
        let problem = |error: std::io::Error| format!("can't write {}: {error}", log.display());
        if let Some(parent) = log.parent() {
            std::fs::create_dir_all(parent).map_err(problem)?;
        }
        let file = File::create(log).map_err(problem)?;
        let both = file.try_clone().map_err(problem)?;
        let status = self.command().stdout(file).stderr(both).status().map_err(|error| format!("can't run `{}`: {error}", self.program))?;
        let bytes = std::fs::read(log).map_err(|error| format!("can't read {}: {error}", log.display()))?;
        let late = self.limit.filter(|_| matches!(status.code(), Some(124 | 137)));
        let ending = match late {
            Some(limit) => format!("killed after {} s", limit.as_secs()),
            None => status.to_string(),
        };
        Ok(Logged { success: status.success(), ending, text: String::from_utf8_lossy(&bytes).into_owned() })
    }
}

/// Where a program is found: `PATH`, then the directories of administrators' programs, which a plain user's `PATH` lacks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether this program runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A directory outside the repository that vanishes with this value.
pub(crate) struct Outside(PathBuf);

impl Outside {
    /// Below /var/tmp, which is a disk: overlays need extended attributes that an old kernel's tmpfs lacks.
    pub(crate) fn new(name: &str) -> Result<Self> {
        Self::below(Path::new("/var/tmp"), name)
    }

    /// In memory where there is a place: for what is made and removed thousands of times a second.
    pub(crate) fn in_memory(name: &str) -> Result<Self> {
        let memory = Path::new("/dev/shm");
        Self::below(if memory.is_dir() { memory } else { Path::new("/var/tmp") }, name)
    }

    fn below(parent: &Path, name: &str) -> Result<Self> {
        let path = parent.join(format!("coracle-{name}-{}", std::process::id()));
        remove(&path)?;
        std::fs::create_dir_all(&path).map_err(|error| format!("can't make {}: {error}", path.display()))?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            eprintln!("warning: {error}");
        }
    }
}

/// Removes a tree that may not be there.
pub(crate) fn remove(path: &Path) -> Result {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(format!("can't remove {}: {error}", path.display())),
        _ => Ok(()),
    }
}

/// Writes a file, making its directories.
pub(crate) fn write(path: &Path, text: impl AsRef<[u8]>) -> Result {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(|error| format!("can't make {}: {error}", parent.display()))?;
    }
    std::fs::write(path, text).map_err(|error| format!("can't write {}: {error}", path.display()))
}

/// Copies a file, making the directories of its new place.
pub(crate) fn copy(from: &Path, to: &Path) -> Result {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent).map_err(|error| format!("can't make {}: {error}", parent.display()))?;
    }
    std::fs::copy(from, to).map(drop).map_err(|error| format!("can't copy {} to {}: {error}", from.display(), to.display()))
}
