//! What a container's command and each further one are described by alike: variables and streams.

use crate::container::Defaults;
use crate::error::{Error, Problem};
use crate::stdio::Stdio;
use std::ffi::OsString;
use std::sync::Arc;

/// The variables and streams that were said.
#[derive(Debug, Clone, Default)]
pub(crate) struct Command {
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) stdin: Option<Stdio>,
    pub(crate) stdout: Option<Stdio>,
    pub(crate) stderr: Option<Stdio>,
    pub(crate) stdin_bytes: Option<Arc<[u8]>>,
    /// Columns and rows.
    pub(crate) tty: Option<(u16, u16)>,
}

impl Command {
    /// The streams, those that weren't said by their defaults.
    pub(crate) fn streams(&self, defaults: &Defaults) -> Result<[coracle_spawn::Stdio; 3], Error> {
        let open = |said: &Option<Stdio>, default: fn() -> Stdio| {
            let opened = said.clone().unwrap_or_else(default).to_spawn();
            opened.map_err(|source| Error::State { attempted: "copy", path: "a standard stream".into(), source })
        };
        Ok([open(&self.stdin, defaults.stdin)?, open(&self.stdout, defaults.stdout)?, open(&self.stderr, defaults.stderr)?])
    }

    /// The bytes to feed, for which standard input becomes a pipe.
    pub(crate) fn take_input(&mut self) -> Option<Arc<[u8]>> {
        let input = self.stdin_bytes.take();
        if input.is_some() {
            self.stdin = Some(Stdio::piped());
        }
        input
    }

    /// What is wrong with a terminal beside what else was said; `had`: whether there is somebody to have it.
    pub(crate) fn terminal_problem(&self, had: bool) -> Option<Problem> {
        self.tty?;
        let what = match had {
            false => "a terminal is had by the handle that spawn() gives, and this has none",
            true if self.stdin.is_some() || self.stdout.is_some() || self.stderr.is_some() || self.stdin_bytes.is_some() => {
                "what has a terminal has no other streams"
            }
            true => return None,
        };
        Some(Problem { what: what.into(), remedy: Some("take spawn(), and leave the streams out; or leave tty(..) out".into()) })
    }

    /// The names of the variables: values are often secrets, and names tell enough.
    pub(crate) fn names(&self) -> Vec<&OsString> {
        self.env.iter().map(|(key, _)| key).collect()
    }
}

/// The setters of a builder that has a `command`. What a variable stands over, and what an output is if nothing is said, is the builder's
/// to say.
macro_rules! command_setters {
    ($env:literal, $stdout:literal) => {
        #[doc = $env]
        pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
            self.command.env.push((key.into(), value.into()));
            self
        }

        /// More variables.
        pub fn envs<I: IntoIterator<Item = (K, V)>, K: Into<OsString>, V: Into<OsString>>(mut self, envs: I) -> Self {
            self.command.env.extend(envs.into_iter().map(|(k, v)| (k.into(), v.into())));
            self
        }

        /// Standard input. If nothing is said: /dev/null, or a pipe for [`spawn`](Self::spawn).
        pub fn stdin(mut self, stdio: Stdio) -> Self {
            self.command.stdin = Some(stdio);
            self
        }

        #[doc = $stdout]
        pub fn stdout(mut self, stdio: Stdio) -> Self {
            self.command.stdout = Some(stdio);
            self
        }

        /// Standard error, likewise.
        pub fn stderr(mut self, stdio: Stdio) -> Self {
            self.command.stderr = Some(stdio);
            self
        }

        /// The three standard streams are a terminal of so many columns and rows, from the container's own devpts, which controls the command's
        /// session. For [`spawn`](Self::spawn), whose handle has the other end: its member `terminal`, and `attach_terminal`. It goes with that end:
        /// then the command gets SIGHUP.
        pub fn tty(mut self, columns: u16, rows: u16) -> Self {
            self.command.tty = Some((columns, rows));
            self
        }

        /// Standard input is these bytes, for [`output`](Self::output) and [`status`](Self::status).
        pub fn stdin_bytes(mut self, bytes: impl Into<Vec<u8>>) -> Self {
            self.command.stdin_bytes = Some(bytes.into().into());
            self
        }
    };
}
pub(crate) use command_setters;
