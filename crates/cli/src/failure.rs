//! What a person is told when something is wrong: sentences, and under each what to do.
//!
//! ```text
//! error: command not found: nano (searched PATH /usr/local/bin:/usr/bin:/bin)
//!   fix: name the program by its full path in the image, or install it there
//! ```

use coracle_container::{Control, Error};
use std::fmt::Write as _;
use std::io::Write as _;

/// The exit code where we failed, and not the container. docker-run(1) has the same.
pub(crate) const OURS: u8 = 125;

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) what: String,
    pub(crate) fixes: Vec<String>,
}

impl Fault {
    pub(crate) fn new(what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { what: what.into(), fixes: vec![fix.into()] }
    }
}

/// Why a command of this program failed, and what it exits with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) faults: Vec<Fault>,
    pub(crate) code: u8,
}

impl Failure {
    /// A failure that has no remedy.
    pub(crate) fn new(what: String) -> Self {
        Self { faults: vec![Fault { what, fixes: Vec::new() }], code: OURS }
    }

    /// With another exit code.
    pub(crate) fn code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Writes it to standard error, and answers with the exit code.
    pub(crate) fn tell(&self) -> u8 {
        let mut text = String::new();
        for fault in &self.faults {
            let _ = writeln!(text, "error: {}", fault.what);
            for fix in &fault.fixes {
                let _ = writeln!(text, "  fix: {fix}");
            }
        }
        let _ = std::io::stderr().write_all(text.as_bytes());
        self.code
    }
}

impl From<Vec<Fault>> for Failure {
    fn from(faults: Vec<Fault>) -> Self {
        Self { faults, code: OURS }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let code = error.exit_code();
        let faults = match &error {
            Error::Description { problems } => {
                problems.iter().map(|p| Fault { what: p.what.clone(), fixes: fixes(p.remedy.clone()) }).collect()
            }
            Error::Limits { refused } => refused
                .iter()
                .map(|refusal| {
                    let mut fixes = fixes(refusal.remedy());
                    if let Some(control) = best_effort(refusal.control) {
                        fixes.push(format!("or go on without: --best-effort {control}"));
                    }
                    Fault { what: refusal.to_string(), fixes }
                })
                .collect(),
            error => vec![Fault { what: error.to_string(), fixes: fixes(error.remedy()) }],
        };
        Self { faults, code }
    }
}

/// What `--best-effort` calls it.
fn best_effort(control: Control) -> Option<&'static str> {
    match control {
        // The bound on swap is a part of --memory.
        Control::Memory | Control::Swap => Some("memory"),
        Control::Cpu => Some("cpus"),
        Control::Pids => Some("pids"),
        Control::CpuTime => Some("cpu-time"),
        Control::Devices => Some("devices"),
        Control::Io => Some("io"),
        _ => None,
    }
}

/// A remedy's lines, in the words of the command line where the library speaks of Rust.
fn fixes(remedy: Option<String>) -> Vec<String> {
    let words = |line: &str| match line {
        "name one with cmd(..)" => "write the command behind the image or directory, or name it by --entrypoint".to_owned(),
        "choose a directory of your own: Engine::builder().root(..), --root DIR, or CORACLE_ROOT" => {
            "choose a directory of your own: --root DIR, or the variable CORACLE_ROOT".to_owned()
        }
        "detach it there by Container::detach(), or start it detached: coracle run -d" => "start it detached: coracle run -d".to_owned(),
        line => line
            .replace("-- cargo test", "-- coracle run …")
            .replace("Engine::builder().root(..)", "--root DIR")
            .replace("give it to `RegistryClient::trust`", "put it into /etc/docker/certs.d/REGISTRY/ca.crt")
            .replace("needs `RegistryClient::insecure`", "needs `insecure = true` in registries.conf")
            .replace(", or use `RegistryClient::credentials`", ""),
    };
    remedy.iter().flat_map(|text| text.lines()).map(words).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remedies_speak_of_flags_and_not_of_rust() {
        let say = |text: &str| fixes(Some(text.to_owned()));
        assert_eq!(say("name one with cmd(..)"), ["write the command behind the image or directory, or name it by --entrypoint"]);
        assert_eq!(
            say("one\nkeep it elsewhere: CORACLE_ROOT or Engine::builder().root(..)"),
            ["one", "keep it elsewhere: CORACLE_ROOT or --root DIR"]
        );
        assert_eq!(
            say("systemd-run --user --scope -p Delegate=yes -- cargo test"),
            ["systemd-run --user --scope -p Delegate=yes -- coracle run …"]
        );
        assert_eq!(
            say("give it to `RegistryClient::trust`; a registry without TLS needs `RegistryClient::insecure`"),
            ["put it into /etc/docker/certs.d/REGISTRY/ca.crt; a registry without TLS needs `insecure = true` in registries.conf"]
        );
        assert_eq!(say("log in with `docker login a`, or use `RegistryClient::credentials`; and"), ["log in with `docker login a`; and"]);
        assert_eq!(fixes(None), Vec::<String>::new());
    }
}
