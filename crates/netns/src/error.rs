//! What can go wrong, as sentences, with the remedy apart.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// What can go wrong; variants by what a caller may decide.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// The kernel made no namespace.
    Create(io::Error),
    /// The namespace could not be entered.
    Enter(io::Error),
    /// A file could not be opened.
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file is no namespace.
    NotANamespace {
        /// The file.
        path: PathBuf,
    },
    /// No thread could be started to enter the namespace in.
    Thread(io::Error),
    /// The netlink socket failed.
    Socket {
        /// The call: "socket", "connect", "send", "recv".
        call: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused requests of a batch. It doesn't stop at the first, so these are all.
    Steps(Vec<StepError>),
    /// Answers of the kernel are missing.
    Unanswered {
        /// How many requests were sent.
        sent: usize,
        /// How many were answered.
        answered: usize,
    },
}

/// One request that the kernel refused.
#[derive(Debug)]
#[non_exhaustive]
pub struct StepError {
    /// What was attempted: `set lo up`.
    pub step: String,
    /// Why it failed.
    pub source: io::Error,
}

impl Error {
    /// What a person can do about it, where that is known.
    pub fn remedy(&self) -> Option<String> {
        let errno = |source: &io::Error| rustix::io::Errno::from_io_error(source);
        Some(match self {
            Error::Create(source) | Error::Enter(source) if errno(source) == Some(rustix::io::Errno::PERM) => {
                "run as root or with CAP_SYS_ADMIN; a plain user needs a user namespace, which only a process of its own can make".into()
            }
            Error::Create(source) if errno(source) == Some(rustix::io::Errno::NOSPC) => {
                "raise /proc/sys/user/max_net_namespaces, or end programs that hold namespaces".into()
            }
            Error::Create(source) if errno(source) == Some(rustix::io::Errno::INVAL) => "use a kernel with CONFIG_NET_NS".into(),
            Error::Enter(source) if errno(source) == Some(rustix::io::Errno::INVAL) => {
                "give the file of a network namespace, such as /proc/PID/ns/net".into()
            }
            Error::NotANamespace { .. } => "give the file of a network namespace, such as /proc/PID/ns/net or /run/netns/NAME".into(),
            Error::Steps(steps) if steps.iter().any(|step| errno(&step.source) == Some(rustix::io::Errno::PERM)) => {
                "send it with CAP_NET_ADMIN in the user namespace that owns the network namespace".into()
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Create(source) => write!(f, "make a network namespace: unshare(CLONE_NEWNET): {source}"),
            Error::Enter(source) => write!(f, "enter a network namespace: setns(CLONE_NEWNET): {source}"),
            Error::Open { path, source } => write!(f, "open {}: {source}", path.display()),
            Error::NotANamespace { path } => write!(f, "{} is not a namespace", path.display()),
            Error::Thread(source) => write!(f, "start a thread to enter a network namespace in: {source}"),
            Error::Socket { call, source } => {
                write!(f, "talk to the kernel by netlink: {call}: {source}")
            }
            Error::Steps(steps) => {
                for (n, step) in steps.iter().enumerate() {
                    write!(f, "{}{}: {}", if n > 0 { "; " } else { "" }, step.step, step.source)?;
                }
                Ok(())
            }
            Error::Unanswered { sent, answered } => write!(f, "talk to the kernel by netlink: {answered} of {sent} requests were answered"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Create(source) | Error::Enter(source) | Error::Thread(source) => Some(source),
            Error::Open { source, .. } | Error::Socket { source, .. } => Some(source),
            Error::Steps(steps) => steps.first().map(|step| &step.source as _),
            Error::NotANamespace { .. } | Error::Unanswered { .. } => None,
        }
    }
}
