//! What the first command and each further one are described by: words, variables, streams.

use crate::plan::Many;
use crate::stdio::Stdio;
use std::ffi::{CString, OsStr, OsString};

/// A program with its arguments, the variables that were said, and the three standard streams.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) argv: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) stdio: [Stdio; 3],
}

impl Command {
    pub(crate) fn new(program: OsString) -> Self {
        Self { argv: vec![program], env: Vec::new(), stdio: [Stdio::inherit(), Stdio::inherit(), Stdio::inherit()] }
    }

    /// The last that was said of a variable counts.
    pub(crate) fn set(&mut self, key: OsString, value: OsString) {
        self.env.retain(|(known, _)| *known != key);
        self.env.push((key, value));
    }

    pub(crate) fn variable(&self, key: &str) -> Option<&OsStr> {
        self.env.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_os_str())
    }

    /// Words and variables as they travel. What can't be one is a problem, and `c_string` gathers those of the bytes.
    pub(crate) fn lower(&self, problems: &mut Vec<String>) -> (Many, Many) {
        let (mut argv, mut env) = (Many::default(), Many::default());
        for word in &self.argv {
            argv.push(c_string(word, problems).as_c_str());
        }
        for (key, value) in &self.env {
            if key.is_empty() || key.as_encoded_bytes().contains(&b'=') {
                problems.push(format!("{key:?} can't be the name of a variable"));
            }
            let mut variable = key.clone();
            variable.push("=");
            variable.push(value);
            env.push(c_string(&variable, problems).as_c_str());
        }
        (argv, env)
    }

    pub(crate) fn needs_a_program(&self, problems: &mut Vec<String>) {
        if self.argv.first().is_none_or(|program| program.is_empty()) {
            problems.push("there is no program to execute".into());
        }
    }
}

/// A text for the kernel, which ends at the first NUL byte: one inside is a problem.
pub(crate) fn c_string(s: &OsStr, problems: &mut Vec<String>) -> CString {
    CString::new(s.as_encoded_bytes()).unwrap_or_else(|_| {
        problems.push(format!("{s:?} holds a NUL byte"));
        CString::default()
    })
}

/// The setters of a builder that has a `command`. What a variable stands over is the builder's to say.
macro_rules! command_setters {
    ($env:literal) => {
        /// One more argument.
        pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
            self.command.argv.push(arg.into());
            self
        }

        /// More arguments.
        pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
            self.command.argv.extend(args.into_iter().map(Into::into));
            self
        }

        #[doc = $env]
        pub fn env(mut self, key: impl Into<OsString>, value: impl Into<OsString>) -> Self {
            self.command.set(key.into(), value.into());
            self
        }

        /// More variables.
        pub fn envs<I: IntoIterator<Item = (K, V)>, K: Into<OsString>, V: Into<OsString>>(self, envs: I) -> Self {
            envs.into_iter().fold(self, |builder, (key, value)| builder.env(key, value))
        }

        /// Standard input; [`Stdio::inherit`] if nothing is said.
        pub fn stdin(mut self, stdio: Stdio) -> Self {
            self.command.stdio[0] = stdio;
            self
        }

        /// Standard output.
        pub fn stdout(mut self, stdio: Stdio) -> Self {
            self.command.stdio[1] = stdio;
            self
        }

        /// Standard error.
        pub fn stderr(mut self, stdio: Stdio) -> Self {
            self.command.stdio[2] = stdio;
            self
        }
    };
}
pub(crate) use command_setters;
